"""Improved Denoising Diffusion Probabilistic Models.  Nichol and Dhariwal, 2021, arXiv 2102.09672.

Read `course_lib.papers.ddpm` first: this file holds only what the second paper changes.  Reading
order: the configurations; the network (appendix A); learned variances and the hybrid loss (section
3.1); importance sampling of t (3.3); fewer steps (section 4).  The cosine schedule (3.2) is
`cosine_betas` in `course_lib.diffusion.schedules`.

Steps count from 0, as in `ddpm`.  Differs from the paper, following the official code:
- The hybrid loss weighs L_vlb in bits per dimension, per step: 0.001 * T * (the term at t).
- The paper's f(t) is evaluated at t / T for t = 0..T; the clip at 0.999 touches only the last beta.
Differs from the official code: L_0 uses the exact normal distribution, not its tanh approximation.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.diffusion import cosine_betas, gather_at, previous, validate_count, validate_steps
from course_lib.diffusion import ddim_steps as ddim_steps  # the other spacing, beside section 4's
from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.resnet import Downsample, ResBlock
from course_lib.papers import ddpm
from course_lib.papers.ddpm import DDPMConfig, GaussianDiffusion
from course_lib.shapes import Batch, Float, Int, PerSample, Shaped, Steps, Table, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class ImprovedDDPMConfig(DDPMConfig):
    """Defaults: CIFAR-10 with learned variances and the cosine schedule (appendix A)."""

    blocks_per_level: int = 3
    attention_resolutions: tuple[int, ...] = (16, 8)
    heads: int = 4
    dropout: float = 0.3
    norm_eps: float = 1e-5
    timesteps: int = 4000
    schedule: str = "cosine"
    variance: Literal["fixed_small", "fixed_large", "learned_range"] = "learned_range"
    objective: Literal["simple", "hybrid", "vlb"] = "hybrid"


IMPROVED_DDPM_CONFIGS = {
    "CIFAR-10": ImprovedDDPMConfig(),
    "CIFAR-10 fixed variance": ImprovedDDPMConfig(variance="fixed_large", objective="simple"),
    "ImageNet-64": ImprovedDDPMConfig(image_size=64, multipliers=(1, 2, 3, 4), dropout=0.0),
    "ImageNet-64 class-conditional": ImprovedDDPMConfig(
        image_size=64, multipliers=(1, 2, 3, 4), dropout=0.0, num_classes=1000
    ),
    "tiny": ImprovedDDPMConfig(
        image_size=16,
        width=16,
        multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(8,),
        heads=1,
        dropout=0.0,
        norm_groups=8,
        timesteps=1000,
    ),
    "tiny-32": ImprovedDDPMConfig(
        image_size=32,
        width=16,
        multipliers=(1, 2, 4),
        blocks_per_level=1,
        attention_resolutions=(8,),
        heads=1,
        dropout=0.0,
        norm_groups=8,
        timesteps=1000,
    ),
}


# ---------------------------------------------------------------- the network


class ScaleShiftResBlock(ResBlock):
    """A residual block in which the time scales and shifts the second norm: GN(h) (1 + w) + b."""

    time: nn.Linear

    def __init__(
        self, c_in: int, c_out: int, time_width: int, groups: int, eps: float, dropout: float
    ):
        super().__init__(c_in, c_out, time_width, groups, eps, dropout)
        # In place of the parent's layer, which only shifts.  That one is still drawn first: the
        # weights from which the recorded training runs started depend on this order of draws.
        self.time = nn.Linear(time_width, 2 * c_out)

    def forward(  # type: ignore[override]  # the time is not optional here
        self, x: Float[Tensor, "b c_in h w"], time: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        h = self.conv1(F.silu(self.norm1(x)))  # b c h w
        time = self.time(F.silu(time))[:, :, None, None]  # b 2*c 1 1
        scale, shift = time.chunk(2, dim=1)  # b c 1 1 each
        h = self.norm2(h) * (1 + scale) + shift  # b c h w
        h = self.conv2(self.dropout(F.silu(h)))  # b c h w
        return self.skip(x) + h  # b c h w


class SymmetricDownsample(Downsample):
    """Halve both sides, padding all around."""

    padding = (1, 1, 1, 1)


class UNet(ddpm.UNet):
    """DDPM's network with another residual block, downsampling, time features and first weights."""

    def __init__(self, config: DDPMConfig):
        super().__init__(config, res_block=ScaleShiftResBlock, downsample=SymmetricDownsample)

    @staticmethod
    def time_features(t: Shaped[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
        """Return [cos, sin] of t at width/2 frequencies from 1 down to almost 1/10,000."""
        return timestep_embedding(t, width)

    def initialize(self) -> None:
        """Let the network start as zero, and leave all other weights as PyTorch draws them."""
        self.zero_last_layers()


# ---------------------------------------------------------------- 3.1 learned variances


def learned_range_variance(v: Batch, t: Steps, betas: Table) -> Batch:
    """Eq. 15: return the log variance v log beta + (1 - v) log beta-tilde.

    Following the official code, the network's v in [-1, 1] is first shifted to (v + 1) / 2 in
    [0, 1], so that a network that says 0 is at the geometric middle.
    """
    validate_steps(len(betas), t, v=v)
    share = (v + 1) / 2
    upper = gather_at(betas.log(), t, v)
    lower = gather_at(ddpm.posterior_log_variance(betas), t, v)
    return share * upper + (1 - share) * lower


def hybrid_loss(
    output: Batch, x_start: Batch, x_t: Batch, t: Steps, noise: Batch, betas: Table
) -> PerSample:
    """Eq. 16: L_simple + 0.001 L_vlb, from the network's output (b 2c ...): noise first, then v.

    L_vlb teaches only the variance: the mean inside it is cut off from the gradient.
    """
    validate_steps(len(betas), t, x_start=x_start, x_t=x_t, noise=noise)
    eps, v = output.chunk(2, dim=1)
    simple = (noise - eps).square().flatten(1).mean(1)
    vlb = vlb_term(eps.detach(), v, x_start, x_t, t, betas)
    return simple + 0.001 * len(betas) * vlb


def vlb_term(eps: Batch, v: Batch, x_start: Batch, x_t: Batch, t: Steps, betas: Table) -> PerSample:
    """Return one term of the bound, L_{t-1} or L_0, in bits per dimension, from the noise and v."""
    mean = ddpm.predict_mean(x_t, t, eps, betas)
    log_variance = learned_range_variance(v, t, betas)
    return ddpm.term_bits(mean, log_variance, x_start, x_t, t, betas)


# ---------------------------------------------------------------- 3.3 importance sampling of t


def importance_weights(
    history: Float[Tensor, "steps k"], uniform: float = 0.001
) -> tuple[Table, Table]:
    """Eq. 18: draw t with probability p_t ~ sqrt(E[L_t^2]) and weigh its loss by 1 / (T p_t).

    history holds the last k losses of every step; a share `uniform` of the probability is spread
    evenly, so that no step is forgotten.  Returns the probabilities and the weights.
    """
    spread = history.square().mean(1).sqrt()
    p = (1 - uniform) * spread / spread.sum() + uniform / len(spread)
    weights = 1 / (len(p) * p)
    return p, weights


class ImportanceSampler(nn.Module):
    """The probabilities of Eq. 18, once every step has `memory` losses on record; even until then.

    A module, so that its memory is saved with the training state.
    """

    history: Tensor  # steps memory
    seen: Tensor  # how many losses each step has had

    def __init__(self, steps: int, memory: int = 10):
        super().__init__()
        self.register_buffer("history", torch.zeros(steps, memory))
        self.register_buffer("seen", torch.zeros(steps, dtype=torch.long))

    def probabilities(self) -> tuple[Table, Table]:
        """Return how likely each step is to be drawn, and what its loss then weighs."""
        memory = self.history.shape[1]
        if (self.seen < memory).any():
            return importance_weights(torch.ones_like(self.history))
        return importance_weights(self.history)

    def update(self, t: Steps, losses: PerSample) -> None:
        """Put each loss on its step's record, in place of the oldest."""
        memory = self.history.shape[1]
        for step, loss in zip(t.tolist(), losses.detach(), strict=True):
            self.history[step, self.seen[step] % memory] = loss
            self.seen[step] += 1


# ---------------------------------------------------------------- 4 fewer steps


def strided_steps(timesteps: int, count: int) -> Int[Tensor, " kept"]:
    """Return `count` steps spread evenly over 0..timesteps-1, both ends included, rounded.

    Strides are summed in double precision, as in the official code: where exact arithmetic lands on
    a half, the rounding of that sum decides.  Raises ValueError unless 2 <= count <= timesteps.
    """
    validate_count(timesteps, count)
    strides = torch.full((count - 1,), (timesteps - 1) / (count - 1), dtype=torch.float64)
    return F.pad(strides, (1, 0)).cumsum(0).round().long()


def respace(betas: Table, kept: Int[Tensor, " kept"]) -> Float[Tensor, " kept"]:
    """Eq. 19: return the betas of the chain that visits only the kept steps.

    It has the same alpha_bar at each of them.  Raises ValueError for steps that do not rise.
    """
    _validate_kept(kept, len(betas))
    alphas_cumprod = (1 - betas).cumprod(0)[kept]
    return 1 - alphas_cumprod / previous(alphas_cumprod)


def _validate_kept(kept: Int[Tensor, " kept"], timesteps: int) -> None:
    """Refuse all but whole numbers that rise within 0..timesteps-1, at least one (ValueError)."""
    is_list = kept.ndim == 1 and len(kept) > 0 and not kept.is_floating_point()
    rises = is_list and bool((kept.diff() > 0).all())
    if not rises or not 0 <= int(kept[0]) <= int(kept[-1]) < timesteps:
        raise ValueError(
            f"kept: expected rising steps within 0..{timesteps - 1}, got {kept.tolist()}"
        )


# ---------------------------------------------------------------- the process


class ImprovedDiffusion(GaussianDiffusion):
    """DDPM's process with learned variances, three objectives and shorter chains."""

    schedules: ClassVar = {**GaussianDiffusion.schedules, "cosine": cosine_betas}

    def eps_and_log_variance(self, output: Batch, x_t: Batch, t: Steps) -> tuple[Batch, Batch]:
        """Return the noise and the log variance in the network's output: learned, where it is."""
        if self.variance != "learned_range":
            return super().eps_and_log_variance(output, x_t, t)
        eps, v = output.chunk(2, dim=1)
        return eps, learned_range_variance(v, t, self.betas)

    def hybrid_loss(self, model: Callable, x_start: Batch, t: Steps, noise: Batch) -> PerSample:
        """Eq. 16: return L_hybrid of each sample."""
        x_t = self.q_sample(x_start, t, noise)
        output = self.call_network(model, x_t, t)
        return hybrid_loss(output, x_start, x_t, t, noise, self.betas)

    def vlb_loss(self, model: Callable, x_start: Batch, t: Steps, noise: Batch) -> PerSample:
        """Return T times the term of L_vlb at t.

        Over evenly drawn t its mean is the bound without L_T, in bits per dimension.
        """
        x_t = self.q_sample(x_start, t, noise)
        p = self.p_mean_variance(model, x_t, t, clip=False)
        return self.steps * ddpm.term_bits(p.mean, p.log_variance, x_start, x_t, t, self.betas)

    def respaced(
        self, count: int, spacing: Callable[[int, int], Tensor] = strided_steps
    ) -> "ImprovedDiffusion":
        """Return the same process in `count` of its steps, chosen by `spacing`.

        The network is still told the original times.
        """
        kept = spacing(self.steps, count)
        return type(self)(respace(self.betas, kept), self.variance, times=self.times[kept])
