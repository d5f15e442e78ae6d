"""Denoising Diffusion Probabilistic Models.  Ho, Jain and Abbeel, 2020, arXiv 2006.11239.

Reading order: the configurations; the U-Net (section 4, appendix B); the equations of sections 2
and 3 as plain functions; the process that joins a schedule, a network and those equations.

Steps count from 0 here, as is conventional: t = 0 is the paper's t = 1, and betas[0] its beta_1.

Differs from the paper, following the official code:
- Sampling clips the estimate of x_0 to [-1, 1] unless told otherwise; Algorithm 2 does not.
- The first variance of q(x_{t-1} | x_t, x_0) is 0; where its logarithm is needed, the second
  replaces it.
- The time embedding is [sin, cos] over half - 1 frequencies; stride-2 convolutions pad right and
  bottom only.
Differs from the official code: weights drawn there at scale 1e-10 are exactly zero here.
"""

import math
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
from course_lib.nn.norm import GroupNorm
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
        image_size=16,
        width=16,
        multipliers=(1, 2),
        blocks_per_level=1,
        attention_resolutions=(8,),
        dropout=0.0,
        norm_groups=8,
    ),
}


# ---------------------------------------------------------------- the U-Net


class UNet(nn.Module):
    """eps_theta(x_t, t): a U-Net of time-conditioned residual blocks, with some self-attention.

    Improved DDPM passes other kinds of residual block and downsampling, and overrides
    `time_features` and `initialize`.  Weights are kept channels-last, the layout in which CPUs and
    GPUs convolve fastest.
    """

    def __init__(
        self,
        config: DDPMConfig,
        res_block: type[ResBlock] = ResBlock,
        downsample: type[Downsample] = Downsample,
    ):
        super().__init__()
        self.config = config
        self.time_embed = TimeEmbedding(config.width, config.num_classes)
        self.stem = nn.Conv2d(config.channels, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        self.up = nn.ModuleList()

        def block(c_in: int, c_out: int, level: int) -> Block:
            resolution = config.image_size >> level
            attends = resolution in config.attention_resolutions
            return Block(config, res_block, c_in, c_out, attends)

        widths = [config.width * multiplier for multiplier in config.multipliers]
        c = config.width
        skips = [c]  # the width of every feature map that the way up concatenates

        for level, width in enumerate(widths):
            for _ in range(config.blocks_per_level):
                self.down.append(block(c, width, level))
                c = width
                skips.append(c)
            if level < len(widths) - 1:
                self.down.append(downsample(c))
                skips.append(c)

        self.middle = nn.ModuleList()
        self.middle.append(Block(config, res_block, c, c, attends=True))
        self.middle.append(Block(config, res_block, c, c, attends=False))

        for level, width in reversed(list(enumerate(widths))):
            for _ in range(config.blocks_per_level + 1):
                self.up.append(block(c + skips.pop(), width, level))
                c = width
            if level > 0:
                self.up.append(Upsample(c))

        self.norm = GroupNorm(config.norm_groups, c, config.norm_eps)
        self.out = nn.Conv2d(c, config.out_channels, 3, padding=1)
        self.initialize()
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Shaped[Tensor, " b"],
        label: Int[Tensor, " b"] | None = None,
    ) -> Float[Tensor, "b c_out h w"]:
        """Predict the noise in images x at times t, of the given classes if the network has any."""
        self.validate_sides(x)
        time = self.time_embed(self.time_features(t, self.config.width).to(x), label)  # b 4*width
        h = self.stem(x)  # b width h w
        skips = [h]

        for layer in self.down:
            h = layer(h, time) if isinstance(layer, Block) else layer(h)  # b c h/2^level w/2^level
            skips.append(h)

        for layer in self.middle:
            h = layer(h, time)  # b c h/2^levels w/2^levels

        for layer in self.up:
            if isinstance(layer, Block):
                h = layer(torch.cat([h, skips.pop()], dim=1), time)  # b c h/2^level w/2^level
            else:
                h = layer(h)  # b c 2*h/2^level 2*w/2^level

        return self.out(F.silu(self.norm(h)))  # b c_out h w

    def validate_sides(self, x: Float[Tensor, "b c h w"]) -> None:
        """Refuse images that cannot be halved at every level (ValueError)."""
        factor = 2 ** (len(self.config.multipliers) - 1)
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"image: expected both sides divisible by {factor}, got {tuple(x.shape[2:])}"
            )

    @staticmethod
    def time_features(t: Shaped[Tensor, " b"], width: int) -> Float[Tensor, "b width"]:
        """Return [sin, cos] of t at width/2 frequencies, from 1 to 1/10,000 inclusive."""
        half = width // 2
        steps = torch.arange(half, device=t.device)
        frequencies = torch.exp(-math.log(10_000) * steps / (half - 1))
        angles = t[:, None].float() * frequencies  # b half
        return torch.cat([angles.sin(), angles.cos()], dim=1)  # b width

    def initialize(self) -> None:
        """Draw Glorot-uniform weights; biases, residual branches and the output start at zero."""
        attentions = [module for module in self.modules() if isinstance(module, SpatialAttention)]
        qkv_layers = {attention.qkv for attention in attentions}
        for module in self.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                # Queries, keys and values are three layers of (c c) in one of (3*c c): Glorot's
                # bound for each of them is sqrt(2) times the bound for all in one.
                gain = math.sqrt(2) if module in qkv_layers else 1.0
                nn.init.xavier_uniform_(module.weight, gain=gain)
                nn.init.zeros_(module.bias)  # type: ignore[arg-type]
        self.zero_last_layers()

    def zero_last_layers(self) -> None:
        """Make the whole network start as zero, and every block as the identity."""
        last_layers = [self.out]
        for module in self.modules():
            if isinstance(module, ResBlock):
                last_layers.append(module.conv2)
            elif isinstance(module, SpatialAttention):
                last_layers.append(module.out)
        for layer in last_layers:
            nn.init.zeros_(layer.weight)
            nn.init.zeros_(layer.bias)  # type: ignore[arg-type]


class Block(nn.Module):
    """A residual block, then self-attention where the resolution calls for it."""

    def __init__(
        self, config: DDPMConfig, res_block: type[ResBlock], c_in: int, c_out: int, attends: bool
    ):
        super().__init__()
        self.res = res_block(
            c_in,
            c_out,
            time_width=4 * config.width,
            groups=config.norm_groups,
            eps=config.norm_eps,
            dropout=config.dropout,
        )
        self.attention: nn.Module
        if attends:
            self.attention = SpatialAttention(
                c_out, heads=config.heads, groups=config.norm_groups, eps=config.norm_eps
            )
        else:
            self.attention = nn.Identity()

    def forward(
        self, x: Float[Tensor, "b c_in h w"], time: Float[Tensor, "b d"]
    ) -> Float[Tensor, "b c h w"]:
        return self.attention(self.res(x, time))  # b c h w


class TimeEmbedding(nn.Module):
    """The time's features, and the class if there is one, as one vector of 4 * width numbers."""

    def __init__(self, width: int, num_classes: int | None):
        super().__init__()
        if width < 4 or width % 2:
            raise ValueError(
                "width: expected an even number of at least 4, for the sines and cosines of t, got"
                f" {width}"
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
        embedding = self.mlp(time)  # b d
        if self.label is not None:
            embedding = embedding + self.label(label)  # b d
        return embedding


# ---------------------------------------------------------------- the equations
# Each raises ValueError for bad input.


def q_sample(x_start: Batch, t: Steps, noise: Batch, alphas_cumprod: Table) -> Batch:
    """Eq. 4: draw x_t from q(x_t | x_0) in one jump."""
    validate_steps(len(alphas_cumprod), t, x_start=x_start, noise=noise)
    signal = alphas_cumprod.sqrt()
    sigma = (1 - alphas_cumprod).sqrt()
    return gather_at(signal, t, x_start) * x_start + gather_at(sigma, t, x_start) * noise


def predict_x_start(x_t: Batch, t: Steps, eps: Batch, alphas_cumprod: Table) -> Batch:
    """Eq. 15: solve Eq. 4 for x_0."""
    validate_steps(len(alphas_cumprod), t, x_t=x_t, eps=eps)
    scale = (1 / alphas_cumprod).sqrt()
    pull = (1 / alphas_cumprod - 1).sqrt()
    return gather_at(scale, t, x_t) * x_t - gather_at(pull, t, x_t) * eps


def predict_eps(x_t: Batch, t: Steps, x_start: Batch, alphas_cumprod: Table) -> Batch:
    """Solve Eq. 4 for the noise."""
    validate_steps(len(alphas_cumprod), t, x_t=x_t, x_start=x_start)
    signal = alphas_cumprod.sqrt()
    sigma = (1 - alphas_cumprod).sqrt()
    return (x_t - gather_at(signal, t, x_t) * x_start) / gather_at(sigma, t, x_t)


def posterior_variance(betas: Table) -> Table:
    """Eq. 7: return beta-tilde, the variance of q(x_{t-1} | x_t, x_0), of every step.

    The first is 0.
    """
    alphas_cumprod = (1 - betas).cumprod(0)
    return betas * (1 - previous(alphas_cumprod)) / (1 - alphas_cumprod)


def posterior_log_variance(betas: Table) -> Table:
    """Return log beta-tilde, with the second in place of the first."""
    variance = posterior_variance(betas)
    return torch.cat([variance[1:2], variance[1:]]).log()


def posterior_mean_variance(
    x_start: Batch, x_t: Batch, t: Steps, betas: Table
) -> tuple[Batch, Batch]:
    """Eq. 6 and 7: return the mean and the variance of q(x_{t-1} | x_t, x_0).

    The mean has the shape of x_t, the variance is (b, 1, ...).
    """
    validate_steps(len(betas), t, x_start=x_start, x_t=x_t)
    alphas_cumprod = (1 - betas).cumprod(0)
    alphas_cumprod_prev = previous(alphas_cumprod)
    x_start_weight = alphas_cumprod_prev.sqrt() * betas / (1 - alphas_cumprod)
    x_t_weight = (1 - betas).sqrt() * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)

    mean = gather_at(x_start_weight, t, x_t) * x_start + gather_at(x_t_weight, t, x_t) * x_t
    variance = gather_at(posterior_variance(betas), t, x_t)
    return mean, variance


def simple_loss(
    model: Callable, x_start: Batch, t: Steps, noise: Batch, alphas_cumprod: Table
) -> PerSample:
    """Eq. 14: return L_simple, the squared error of the noise, averaged over a sample's values."""
    x_t = q_sample(x_start, t, noise, alphas_cumprod)
    return (noise - model(x_t, t)).square().flatten(1).mean(1)


def predict_mean(x_t: Batch, t: Steps, eps: Batch, betas: Table) -> Batch:
    """Eq. 11: return the mean of p(x_{t-1} | x_t), which is Eq. 7 with Eq. 15 for x_0."""
    validate_steps(len(betas), t, x_t=x_t, eps=eps)
    scale = (1 - betas).rsqrt()
    pull = betas / (1 - (1 - betas).cumprod(0)).sqrt()
    return gather_at(scale, t, x_t) * (x_t - gather_at(pull, t, x_t) * eps)


def predict_eps_from_mean(x_t: Batch, t: Steps, mean: Batch, betas: Table) -> Batch:
    """Solve Eq. 11 for the noise, for networks that predict the mean (Table 2)."""
    validate_steps(len(betas), t, x_t=x_t, mean=mean)
    push = (1 - (1 - betas).cumprod(0)).sqrt() / betas
    shrink = (1 - betas).sqrt()
    return gather_at(push, t, x_t) * (x_t - gather_at(shrink, t, x_t) * mean)


def sample_step(x_t: Batch, t: Steps, eps: Batch, noise: Batch, betas: Table) -> Batch:
    """Algorithm 2, line 4: take one step back, with sigma_t^2 = beta_t.

    The last step, t = 0, adds no noise.
    """
    validate_steps(len(betas), t, x_t=x_t, eps=eps, noise=noise)
    sigma = torch.cat([torch.zeros_like(betas[:1]), betas[1:]]).sqrt()
    return predict_mean(x_t, t, eps, betas) + gather_at(sigma, t, x_t) * noise


def discretized_nll(x: Batch, mean: Batch, log_scale: Batch) -> Batch:
    """Eq. 13: return -log of a normal's mass in the bin of width 2/255 around x, in nats.

    The two end bins are open.  x holds pixel values k / 127.5 - 1, log_scale the log of the
    standard deviation.  Written with erfc, twice the normal's upper tail: far from the mean a
    difference of two cdfs, or of erfs, would have no digit left.  A mass below 1e-12 counts as
    1e-12, as in the official code.
    """
    centred = x - mean
    half = 1 / 255
    scale = math.sqrt(2) * torch.exp(log_scale)

    # Twice the mass: of a bin inside, of the lowest (open below) and of the highest (open above).
    inside = torch.erfc((centred.abs() - half) / scale) - torch.erfc((centred.abs() + half) / scale)
    lowest = torch.erfc((-centred - half) / scale)
    highest = torch.erfc((centred - half) / scale)

    twice_mass = torch.where(x < -0.999, lowest, torch.where(x > 0.999, highest, inside))
    return -(twice_mass / 2).clamp(min=1e-12).log()


def term_bits(
    mean: Batch, log_variance: Batch, x_start: Batch, x_t: Batch, t: Steps, betas: Table
) -> PerSample:
    """Eq. 5: return the term at t in bits per dimension.

    It is L_{t-1}, a KL between Gaussians, or L_0 (Eq. 13) where t = 0.
    """
    true_mean, _ = posterior_mean_variance(x_start, x_t, t, betas)
    true_log_variance = gather_at(posterior_log_variance(betas), t, x_t)
    kl = normal_kl(true_mean, true_log_variance, mean, log_variance)
    nll = discretized_nll(x_start, mean, log_scale=0.5 * log_variance)
    return torch.where(t == 0, bits_per_dim(nll), bits_per_dim(kl))


# ---------------------------------------------------------------- the process


class Prediction(NamedTuple):
    """What the network says about one step: p(x_{t-1} | x_t), and the x_0 and noise it rests on."""

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
        """Build the process that a config names."""
        schedule = choose(cls.schedules, config.schedule, "schedule")
        return cls(schedule(config.timesteps), config.variance)

    def q_sample(self, x_start: Batch, t: Steps, noise: Batch) -> Batch:
        """Eq. 4: draw x_t on this schedule."""
        return q_sample(x_start, t, noise, self.alphas_cumprod)

    def call_network(self, model: Callable, x_t: Batch, t: Steps) -> Batch:
        """Call the network at the times of these steps."""
        return model(x_t, self.times[t.to(self.times.device)].to(x_t))

    def eps_and_log_variance(self, output: Batch, x_t: Batch, t: Steps) -> tuple[Batch, Batch]:
        """Return the noise in the network's output, and the log variance of p(x_{t-1} | x_t)."""
        small = posterior_log_variance(self.betas)
        large = torch.cat([small[:1], self.betas[1:].log()])
        tables = {"fixed_small": small, "fixed_large": large}
        table = choose(tables, self.variance, "variance")
        return output, gather_at(table, t, x_t).expand_as(x_t)

    def p_mean_variance(
        self, model: Callable, x_t: Batch, t: Steps, clip: bool = True
    ) -> Prediction:
        """Return p(x_{t-1} | x_t): Eq. 7 at the x_0 that the network's noise implies.

        clip: limit that x_0 to [-1, 1], and correct the noise to match.
        """
        validate_steps(self.steps, t, x_t=x_t)
        output = self.call_network(model, x_t, t)
        eps, log_variance = self.eps_and_log_variance(output, x_t, t)

        x_start = predict_x_start(x_t, t, eps, self.alphas_cumprod)
        if clip:
            x_start = x_start.clamp(-1, 1)
            eps = predict_eps(x_t, t, x_start, self.alphas_cumprod)

        mean, _ = posterior_mean_variance(x_start, x_t, t, self.betas)
        return Prediction(mean, log_variance, x_start, eps)

    def loss(self, model: Callable, x_start: Batch, t: Steps, noise: Batch) -> PerSample:
        """Eq. 14: return L_simple of each sample."""

        def predict_noise(x_t: Batch, t: Steps) -> Batch:
            output = self.call_network(model, x_t, t)
            eps, _ = self.eps_and_log_variance(output, x_t, t)
            return eps

        return simple_loss(predict_noise, x_start, t, noise, self.alphas_cumprod)

    def prior_bits(self, x_start: Batch) -> PerSample:
        """Eq. 5: return L_T in bits per dimension, what is left of the image in x_T."""
        last = self.alphas_cumprod[-1].to(x_start)
        zero = torch.zeros_like(last)
        return bits_per_dim(normal_kl(last.sqrt() * x_start, (1 - last).log(), zero, zero))

    def denoise(
        self,
        model: Callable,
        x: Batch,
        eta: float | None = None,
        generator: torch.Generator | None = None,
        clip: bool = True,
    ) -> Iterator[tuple[Batch, Prediction]]:
        """Go from x = x_T back to x_0, yielding every x_{t-1} with the prediction it came from.

        eta None is Algorithm 2; a number is DDIM with that share of its noise, 0 none.
        """
        alphas_cumprod_prev = previous(self.alphas_cumprod)
        for step in reversed(range(self.steps)):
            with torch.no_grad():
                t = torch.full((len(x),), step, device=x.device)
                p = self.p_mean_variance(model, x, t, clip)

                noise = torch.zeros_like(x)
                if step > 0:
                    noise = torch.randn(x.shape, generator=generator).to(x)

                if eta is None:
                    x = p.mean + torch.exp(0.5 * p.log_variance) * noise
                else:
                    alpha_bar = gather_at(self.alphas_cumprod, t, x)
                    alpha_bar_prev = gather_at(alphas_cumprod_prev, t, x)
                    x = ddim_step(x, p.eps, alpha_bar, alpha_bar_prev, eta, noise)
            yield x, p

    def sample(self, model: Callable, x: Batch, **options) -> Batch:
        """Return the x_0 in which `denoise` ends."""
        for x_prev, _ in self.denoise(model, x, **options):
            x = x_prev
        return x
