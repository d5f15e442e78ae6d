"""Denoising Diffusion Probabilistic Models.  Ho, Jain and Abbeel, 2020, arXiv 2006.11239.

Reading order: the configurations; the U-Net (section 4, appendix B); the equations of sections 2
and 3 as plain functions; the process that joins a schedule, a network and those equations.

Steps count from 0 here, as in everybody's code: t = 0 is the paper's t = 1, and betas[0] its
beta_1.

Differs from the paper, in the manner of the official code:
- Sampling clips the estimate of x_0 to [-1, 1] unless told otherwise; Algorithm 2 does not.
- The first variance of q(x_{t-1} | x_t, x_0) is 0; where its logarithm is needed, the second stands
  in.
- The time embedding is [sin, cos] over half - 1 frequencies; stride-2 convolutions pad right and
  bottom only.
Differs from the official code: weights drawn there at scale 1e-10 are exactly zero here.
"""

import math
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import ClassVar, Literal, NamedTuple

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.diffusion import (
    bits_per_dim,
    choose,
    ddim_step,
    gather_at,
    linear_betas,
    normal_kl,
    previous,
    validate_betas,
    validate_steps,
)
from course_lib.nn.attention import SpatialAttention
from course_lib.nn.resnet import Downsample, ResBlock, Upsample
from course_lib.shapes import Batch, Float, Int, PerSample, Shaped, Steps, Table, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class DDPMConfig:
    """The U-Net's shape and the process it is trained on.  Defaults: CIFAR-10 (appendix B)."""

    image_size: int = 32
    channels: int = 3
    width: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 2)  # width of each resolution, in units of `width`
    blocks_per_level: int = 2
    attention_resolutions: tuple[int, ...] = (16,)
    heads: int = 1
    dropout: float = 0.1
    norm_groups: int = 32
    norm_eps: float = 1e-6
    num_classes: int | None = None  # a number makes the network class-conditional
    timesteps: int = 1000
    schedule: str = "linear"
    variance: Literal["fixed_small", "fixed_large", "learned_range"] = "fixed_large"

    @property
    def out_channels(self) -> int:
        """The noise; and, where the variance is learned, one more number for each of its values."""
        return self.channels * (2 if self.variance == "learned_range" else 1)


DDPM_CONFIGS = {
    "CIFAR-10": DDPMConfig(),
    "LSUN": DDPMConfig(image_size=256, multipliers=(1, 1, 2, 2, 4, 4), dropout=0.0),
    "tiny": DDPMConfig(
        16, width=16, multipliers=(1, 2), blocks_per_level=1, attention_resolutions=(8,), dropout=0.0, norm_groups=8
    ),
}  # fmt: skip


# ---------------------------------------------------------------- the U-Net


class UNet(nn.Module):
    """eps_theta(x_t, t): a U-Net of residual blocks that know the time, with some self-attention.

    Weights are kept channels-last, the layout in which CPUs and GPUs convolve fastest.
    """

    def __init__(self, config: DDPMConfig):
        super().__init__()
        self.config = config
        widths = [config.width * multiplier for multiplier in config.multipliers]
        self.time_embed = TimeEmbedding(config.width, config.num_classes)
        self.stem = nn.Conv2d(config.channels, config.width, 3, padding=1)

        def block(c_in: int, c_out: int, level: int) -> Block:
            attends = config.image_size >> level in config.attention_resolutions
            return Block(config, self.res_block, c_in, c_out, attends)

        self.down, self.up = nn.ModuleList(), nn.ModuleList()
        # the width of every feature map that will be wanted on the way up
        skips = [c := config.width]
        for level, width in enumerate(widths):
            for _ in range(config.blocks_per_level):
                self.down.append(block(c, width, level))
                skips.append(c := width)
            if level < len(widths) - 1:
                self.down.append(self.downsample(c))
                skips.append(c)
        self.middle = nn.ModuleList(
            Block(config, self.res_block, c, c, attends) for attends in (True, False)
        )
        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks_per_level + 1):
                self.up.append(block(c + skips.pop(), width, level))
                c = width
            if level > 0:
                self.up.append(Upsample(c))
        self.norm = nn.GroupNorm(config.norm_groups, c, config.norm_eps)
        self.out = nn.Conv2d(c, config.out_channels, 3, padding=1)
        self.initialise()
        self.to(memory_format=torch.channels_last)

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Shaped[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c_out h w"]:
        """The noise in pictures x at times t (of the given classes, where the network has classes)."""
        factor = 2 ** (len(self.config.multipliers) - 1)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(f"both sides must be divisible by {factor}, got {tuple(x.shape[2:])}")
        time = self.time_embed(self.time_features(t, self.config.width).to(x), label)  # b 4*width
        h = self.stem(x)  # b width h w
        skips = [h]
        for layer in self.down:
            h = layer(h, time) if isinstance(layer, Block) else layer(h)  # b c h/2^level w/2^level
            skips.append(h)
        for layer in self.middle:
            h = layer(h, time)  # b c h/2^levels w/2^levels
        for layer in self.up:
            # b c h/2^level w/2^level
            h = (
                layer(torch.cat([h, skips.pop()], dim=1), time)
                if isinstance(layer, Block)
                else layer(h)
            )
        return self.out(F.silu(self.norm(h)))  # b c_out h w

    def initialise(self) -> None:
        """Glorot-uniform weights, no biases, and every residual branch and the output starting at
        zero.
        """
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                nn.init.zeros_(module.bias)
        self.zero_last_layers()

    def zero_last_layers(self) -> None:
        """Make the whole network start as zero, and every block as the identity."""
        blocks = [m.conv2 for m in self.modules() if isinstance(m, ResBlock)]
        attentions = [m.out for m in self.modules() if isinstance(m, SpatialAttention)]
        for layer in [self.out, *blocks, *attentions]:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)

    # The parts that Improved DDPM exchanges.
    res_block = ResBlock
    downsample = Downsample

    @staticmethod
    def time_features(t: Shaped[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
        """[sin, cos] of t at width/2 frequencies from 1 down to 1/10,000 inclusive (width even)."""
        half = width // 2
        frequencies = torch.exp(
            -math.log(10_000) * torch.arange(half, device=t.device) / (half - 1)
        )
        angles = t[:, None].float() * frequencies  # b half
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # b width


class Block(nn.Module):
    """A residual block, then self-attention where the resolution calls for it."""

    def __init__(
        self, config: DDPMConfig, res_block: type[ResBlock], c_in: int, c_out: int, attends: bool
    ):
        super().__init__()
        norm = (config.norm_groups, config.norm_eps)
        self.res = res_block(c_in, c_out, 4 * config.width, *norm, config.dropout)
        self.attention = SpatialAttention(c_out, config.heads, *norm) if attends else nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c_in h w"], time: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        return self.attention(self.res(x, time))


class TimeEmbedding(nn.Module):
    """The time's features, and the class if there is one, as one vector of 4 * width numbers."""

    def __init__(self, width: int, num_classes: int | None):
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(
                f"width must be even and at least 4, for the sines and cosines of t, got {width}"
            )
        self.mlp = nn.Sequential(
            nn.Linear(width, 4 * width), nn.SiLU(), nn.Linear(4 * width, 4 * width)
        )
        self.label = nn.Embedding(num_classes, 4 * width) if num_classes else None

    def forward(
        self, time: Float[Tensor, "b width"], label: Int[Tensor, " b"] | None
    ) -> Float[Tensor, "b d"]:
        if (label is None) != (self.label is None):
            raise ValueError(
                f"labels expected: {self.label is not None}, given: {label is not None}"
            )
        return self.mlp(time) + (0 if label is None else self.label(label))


# ---------------------------------------------------------------- the equations (bad input is a ValueError)


def q_sample(x_start: Batch, t: Steps, noise: Batch, alphas_cumprod: Table) -> Batch:
    """Eq. 4: draw x_t from q(x_t | x_0) in one jump."""
    validate_steps(len(alphas_cumprod), t, x_start=x_start, noise=noise)
    signal, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    return gather_at(signal, t, x_start) * x_start + gather_at(sigma, t, x_start) * noise


def predict_x_start(x_t: Batch, t: Steps, eps: Batch, alphas_cumprod: Table) -> Batch:
    """Eq. 15: Eq. 4 solved for x_0."""
    validate_steps(len(alphas_cumprod), t, x_t=x_t, eps=eps)
    scale, pull = (1 / alphas_cumprod).sqrt(), (1 / alphas_cumprod - 1).sqrt()
    return gather_at(scale, t, x_t) * x_t - gather_at(pull, t, x_t) * eps


def predict_eps(x_t: Batch, t: Steps, x_start: Batch, alphas_cumprod: Table) -> Batch:
    """Eq. 4 solved for the noise."""
    validate_steps(len(alphas_cumprod), t, x_t=x_t, x_start=x_start)
    signal, sigma = alphas_cumprod.sqrt(), (1 - alphas_cumprod).sqrt()
    return (x_t - gather_at(signal, t, x_t) * x_start) / gather_at(sigma, t, x_t)


def posterior_variance(betas: Table) -> Table:
    """Eq. 7: beta-tilde, the variance of q(x_{t-1} | x_t, x_0), of every step.  The first is 0."""
    alphas_cumprod = (1 - betas).cumprod(0)
    return betas * (1 - previous(alphas_cumprod)) / (1 - alphas_cumprod)


def posterior_log_variance(betas: Table) -> Table:
    """log beta-tilde, the second in place of the first."""
    variance = posterior_variance(betas)
    return torch.cat([variance[1:2], variance[1:]]).log()


def posterior_mean_variance(
    x_start: Batch, x_t: Batch, t: Steps, betas: Table
) -> tuple[Batch, Batch]:
    """Eq. 6 and 7: the mean of q(x_{t-1} | x_t, x_0), shaped as x_t, and its variance (b, 1, ...)."""
    validate_steps(len(betas), t, x_start=x_start, x_t=x_t)
    alphas_cumprod = (1 - betas).cumprod(0)
    alphas_cumprod_prev = previous(alphas_cumprod)
    of_x_start = alphas_cumprod_prev.sqrt() * betas / (1 - alphas_cumprod)
    of_x_t = (1 - betas).sqrt() * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)
    mean = gather_at(of_x_start, t, x_t) * x_start + gather_at(of_x_t, t, x_t) * x_t
    return mean, gather_at(posterior_variance(betas), t, x_t)


def simple_loss(
    model: Callable, x_start: Batch, t: Steps, noise: Batch, alphas_cumprod: Table
) -> PerSample:
    """Eq. 14, L_simple: the squared error of the predicted noise, averaged over each sample's
    values.
    """
    x_t = q_sample(x_start, t, noise, alphas_cumprod)
    return (noise - model(x_t, t)).square().flatten(1).mean(1)


def predict_mean(x_t: Batch, t: Steps, eps: Batch, betas: Table) -> Batch:
    """Eq. 11: the mean of p(x_{t-1} | x_t), Eq. 7 with Eq. 15 put in for x_0."""
    validate_steps(len(betas), t, x_t=x_t, eps=eps)
    pull = betas / (1 - (1 - betas).cumprod(0)).sqrt()
    return gather_at((1 - betas).rsqrt(), t, x_t) * (x_t - gather_at(pull, t, x_t) * eps)


def predict_eps_from_mean(x_t: Batch, t: Steps, mean: Batch, betas: Table) -> Batch:
    """Eq. 11 solved for the noise, for networks that predict the mean (Table 2)."""
    validate_steps(len(betas), t, x_t=x_t, mean=mean)
    push = (1 - (1 - betas).cumprod(0)).sqrt() / betas
    return gather_at(push, t, x_t) * (x_t - gather_at((1 - betas).sqrt(), t, x_t) * mean)


def sample_step(x_t: Batch, t: Steps, eps: Batch, noise: Batch, betas: Table) -> Batch:
    """Algorithm 2, line 4, with sigma_t^2 = beta_t: one step back.  The last, t = 0, adds no noise."""
    validate_steps(len(betas), t, x_t=x_t, eps=eps, noise=noise)
    sigma = torch.cat([torch.zeros_like(betas[:1]), betas[1:]]).sqrt()
    return predict_mean(x_t, t, eps, betas) + gather_at(sigma, t, x_t) * noise


def discretized_nll(x: Batch, mean: Batch, log_scale: Batch) -> Batch:
    """Eq. 13: -log of a normal's mass in the bin of width 2/255 around x, in nats; the two end bins
    are open.

    x holds pixel values k / 127.5 - 1, log_scale the log of the standard deviation.  Written with
    erfc, twice the normal's upper tail: far from the mean a difference of two cdfs, or of erfs,
    would have no digit left. A mass below 1e-12 counts as 1e-12, as in the official code.
    """
    centred, half, scale = x - mean, 1 / 255, math.sqrt(2) * torch.exp(log_scale)
    inside = torch.erfc((centred.abs() - half) / scale) - torch.erfc((centred.abs() + half) / scale)
    lowest, highest = torch.erfc((-centred - half) / scale), torch.erfc((centred - half) / scale)
    twice_mass = torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))
    return -(twice_mass / 2).clamp(min=1e-12).log()


def term_bits(
    mean: Batch, log_variance: Batch, x_start: Batch, x_t: Batch, t: Steps, betas: Table
) -> PerSample:
    """Eq. 5 in bits per dimension: L_{t-1}, a KL between Gaussians, or L_0 (Eq. 13) where t = 0."""
    true_mean, _ = posterior_mean_variance(x_start, x_t, t, betas)
    kl = normal_kl(true_mean, gather_at(posterior_log_variance(betas), t, x_t), mean, log_variance)
    nll = discretized_nll(x_start, mean, 0.5 * log_variance)
    return torch.where(t == 0, bits_per_dim(nll), bits_per_dim(kl))


# ---------------------------------------------------------------- the process


class Prediction(NamedTuple):
    """What the network says about one step: p(x_{t-1} | x_t) and the x_0 and noise behind it."""

    mean: Batch
    log_variance: Batch
    x_start: Batch
    eps: Batch


class GaussianDiffusion:
    """A noise schedule and what can be done with it.  `model` is any callable (x_t, t) -> noise.

    `times` is what the network is told at each step: the steps themselves, in units of T = 1000.
    """

    schedules: ClassVar = {"linear": linear_betas}

    def __init__(self, betas: Table, variance: str = "fixed_large", times: Table | None = None):
        validate_betas(betas)
        self.betas = betas.double()
        self.alphas_cumprod = (1 - self.betas).cumprod(0)
        self.steps = len(betas)
        self.variance = variance
        self.times = torch.arange(self.steps) * 1000 / self.steps if times is None else times

    @classmethod
    def from_config(cls, config: DDPMConfig) -> "GaussianDiffusion":
        """The process a config names."""
        return cls(
            choose(cls.schedules, config.schedule, "schedule")(config.timesteps), config.variance
        )

    def q_sample(self, x_start: Batch, t: Steps, noise: Batch) -> Batch:
        """Eq. 4 on this schedule."""
        return q_sample(x_start, t, noise, self.alphas_cumprod)

    def call_network(self, model: Callable, x_t: Batch, t: Steps) -> Batch:
        """Call the network at the times of these steps."""
        return model(x_t, self.times[t.to(self.times.device)].to(x_t))

    def eps_and_log_variance(self, output: Batch, x_t: Batch, t: Steps) -> tuple[Batch, Batch]:
        """The noise in the network's output, and the log variance of p(x_{t-1} | x_t) at these
        steps.
        """
        small = posterior_log_variance(self.betas)
        large = torch.cat([small[:1], self.betas[1:].log()])
        table = choose({"fixed_small": small, "fixed_large": large}, self.variance, "variance")
        return output, gather_at(table, t, x_t).expand_as(x_t)

    def p_mean_variance(
        self, model: Callable, x_t: Batch, t: Steps, clip: bool = True
    ) -> Prediction:
        """p(x_{t-1} | x_t): the posterior of Eq. 7 at the x_0 the network has in mind, clipped to
        [-1, 1].
        """
        validate_steps(self.steps, t, x_t=x_t)
        eps, log_variance = self.eps_and_log_variance(self.call_network(model, x_t, t), x_t, t)
        x_start = predict_x_start(x_t, t, eps, self.alphas_cumprod)
        if clip:
            x_start = x_start.clamp(-1, 1)
            eps = predict_eps(x_t, t, x_start, self.alphas_cumprod)
        mean, _ = posterior_mean_variance(x_start, x_t, t, self.betas)
        return Prediction(mean, log_variance, x_start, eps)

    def loss(self, model: Callable, x_start: Batch, t: Steps, noise: Batch) -> PerSample:
        """L_simple (Eq. 14) of each sample."""
        return simple_loss(
            lambda x_t, t: self.eps_and_log_variance(self.call_network(model, x_t, t), x_t, t)[0],
            x_start,
            t,
            noise,
            self.alphas_cumprod,
        )

    def prior_bits(self, x_start: Batch) -> PerSample:
        """L_T of Eq. 5 in bits per dimension: what is left of the picture in x_T."""
        last = self.alphas_cumprod[-1].to(x_start)
        zero = torch.zeros_like(last)
        return bits_per_dim(normal_kl(last.sqrt() * x_start, (1 - last).log(), zero, zero))

    def denoise(
        self, model: Callable, x: Batch, eta: float | None = None, generator=None, clip: bool = True
    ) -> Iterator[tuple[Batch, Prediction]]:
        """From x = x_T back to x_0: yields every x_{t-1} with the prediction it was drawn from.

        eta None is Algorithm 2; a number is DDIM with that share of its noise, 0 none.
        """
        alphas_cumprod_prev = previous(self.alphas_cumprod)
        for step in reversed(range(self.steps)):
            with torch.no_grad():
                t = torch.full((len(x),), step, device=x.device)
                p = self.p_mean_variance(model, x, t, clip)
                noise = (
                    torch.randn(x.shape, generator=generator).to(x)
                    if step > 0
                    else torch.zeros_like(x)
                )
                if eta is None:
                    x = p.mean + torch.exp(0.5 * p.log_variance) * noise
                else:
                    x = ddim_step(
                        x,
                        p.eps,
                        gather_at(self.alphas_cumprod, t, x),
                        gather_at(alphas_cumprod_prev, t, x),
                        eta,
                        noise,
                    )
            yield x, p

    def sample(self, model: Callable, x: Batch, **options) -> Batch:
        """The x_0 that `denoise` ends in."""
        # holds on to the last step alone
        [(x_start, _)] = deque(self.denoise(model, x, **options), maxlen=1)
        return x_start
