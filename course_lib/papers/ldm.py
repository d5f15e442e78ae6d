"""High-Resolution Image Synthesis with Latent Diffusion Models.

Rombach et al., 2021, arXiv 2112.10752.  The networks are the paper's and those of its successors,
Stable Diffusion 1 and 2.

Reading order: the configurations; the U-Net with cross-attention (section 3.3, Figure 3); an
encoder of captions; training (Eq. 3) and sampling.  The autoencoder whose latents are diffused
(section 3.1) is `course_lib.papers.ldm_autoencoder`.

Steps count from 0, as in `course_lib.papers.ddpm`.

Differs from the paper, following the official code:
- The feed-forward network of a transformer block gates its values (GEGLU).
- The network predicts the noise (Eq. 3), or, in Stable Diffusion 2 at 768 pixels, v.
- The schedule's betas are evenly spaced in their square root.  At its last step some signal is
  left, a flaw that Lin et al. (2023, arXiv 2305.08891) describe.
- DDIM's steps are moved by one, and its last one ends at the noise of step 0, not at none.
Differs from the official code: where there is no context, a transformer block has no
cross-attention at all (there, it attends to its own tokens a second time).
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.diffusion import (
    ddim_step,
    ddim_steps,
    gather_at,
    guide,
    scaled_linear_betas,
)
from course_lib.diffusion.edm import precondition
from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.norm import GroupNorm
from course_lib.nn.resnet import ResBlock, Upsample
from course_lib.papers.ddpm import predict_x_start, q_sample
from course_lib.shapes import Batch, Float, Int, PerSample, Shaped, Steps, Table, Tensor

TRANSFORMER_NORM_EPS = 1e-6  # of the group norm before a transformer

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class LDMConfig:
    """The U-Net's shape and what it predicts.  Defaults: Stable Diffusion 2.1."""

    in_channels: int = 4
    out_channels: int = 4
    width: int = 320
    multipliers: tuple[int, ...] = (1, 2, 4, 4)  # width of each level, in units of `width`
    blocks: int = 2  # residual blocks per level on the way down; one more on the way up
    attends: tuple[bool, ...] = (True, True, True, False)  # which levels have transformers
    heads: tuple[int, ...] = (5, 10, 20, 20)  # of each level
    depth: int = 1  # blocks of a transformer
    context: int | None = 1024  # width of a token of the condition; None: there is no condition
    linear_projection: bool = True  # into and out of a transformer; False: 1x1 convolutions
    groups: int = 32
    norm_eps: float = 1e-5  # of every group norm but the transformers'
    prediction: Literal["eps", "v"] = "v"
    timesteps: int = 1000
    betas: tuple[float, float] = (0.00085, 0.012)  # the first and the last

    def __post_init__(self):
        for name in ("attends", "heads"):
            given = len(getattr(self, name))
            if given != len(self.multipliers):
                raise ValueError(
                    f"{name}: expected one for each of {len(self.multipliers)} levels, got {given}"
                )
        for width, heads in zip(self.widths, self.heads, strict=True):
            if width % heads or width % self.groups:
                raise ValueError(
                    f"expected widths that heads and {self.groups} groups share evenly, got"
                    f" {heads} heads at width {width}"
                )
        if self.prediction not in ("eps", "v"):
            raise ValueError(f"prediction: expected 'eps' or 'v', got {self.prediction!r}")

    @property
    def widths(self) -> list[int]:
        """Channels at every level, from fine to coarse."""
        return [self.width * multiplier for multiplier in self.multipliers]

    @property
    def downsampling(self) -> int:
        """How many times smaller than the latent the coarsest level is, along a side."""
        return 2 ** (len(self.multipliers) - 1)

    @property
    def alphas_cumprod(self) -> Table:
        """The noise schedule: what is left of the signal's variance at every step."""
        return (1 - scaled_linear_betas(self.timesteps, *self.betas)).cumprod(0)


LDM_CONFIGS = {
    "SD-2.1": LDMConfig(),
    "SD-1.5": LDMConfig(heads=(8, 8, 8, 8), context=768, linear_projection=False, prediction="eps"),
    "txt2img-1.4B": LDMConfig(
        heads=(8, 8, 8, 8), context=1280, linear_projection=False, prediction="eps"
    ),
    "tiny": LDMConfig(
        width=64,
        multipliers=(1, 1),
        blocks=1,
        attends=(True, False),
        heads=(1, 1),
        context=96,
        groups=16,
        prediction="v",
    ),
}


# ---------------------------------------------------------------- 3.3 the U-Net


class UNet(nn.Module):
    """Figure 3: a U-Net of time-conditioned residual blocks and transformers that see the context.

    Stable Video Diffusion passes another kind of block, and calls `run` with what that needs.
    Weights are not kept channels-last: at the coarse levels they are much larger than the feature
    maps, and a CPU takes 1.1 to 1.2 times as long for a training step then.
    """

    def __init__(self, config: LDMConfig, block: "Callable[..., nn.Module] | None" = None):
        super().__init__()
        self.config = config
        make = block or Block
        time_width = 4 * config.width
        self.time_embed = nn.Sequential(
            nn.Linear(config.width, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
        )
        self.stem = nn.Conv2d(config.in_channels, config.width, 3, padding=1)
        self.down = nn.ModuleList()
        self.middle = nn.ModuleList()
        self.up = nn.ModuleList()

        c = config.width
        skips = [c]  # the width of every feature map that the way up concatenates
        coarsest = len(config.widths) - 1

        for level, width in enumerate(config.widths):
            for _ in range(config.blocks):
                self.down.append(make(config, c, width, level, config.attends[level]))
                c = width
                skips.append(c)
            if level < coarsest:
                self.down.append(nn.Conv2d(c, c, 3, stride=2, padding=1))
                skips.append(c)

        for attends in (True, False):
            self.middle.append(make(config, c, c, coarsest, attends))

        for level, width in reversed(list(enumerate(config.widths))):
            for _ in range(config.blocks + 1):
                self.up.append(make(config, c + skips.pop(), width, level, config.attends[level]))
                c = width
            if level > 0:
                self.up.append(Upsample(c))

        self.norm = GroupNorm(config.groups, c, config.norm_eps)
        self.out = nn.Conv2d(c, config.out_channels, 3, padding=1)
        self.zero_last_layers()

    def forward(
        self,
        x: Float[Tensor, "b c h w"],
        t: Shaped[Tensor, " b"],
        context: Float[Tensor, "b n d"] | None = None,
    ) -> Float[Tensor, "b c_out h w"]:
        """Predict the noise, or v, in latents x at times t, which may lie between two steps.

        Raises ValueError for sides that cannot be halved at every level, and for a context that the
        config does not have, or that is left out.
        """
        self.validate(x, context)
        return self.run(x, self.embed_time(t).to(x), context)  # b c_out h w

    def embed_time(self, t: Shaped[Tensor, " b"]) -> Float[Tensor, "b d"]:
        """Return the vector that every residual block is told, of 4 * width numbers."""
        features = timestep_embedding(t, self.config.width)  # b width
        return self.time_embed(features.to(self.stem.weight.dtype))

    def run(
        self, x: Float[Tensor, "b c h w"], time: Float[Tensor, "b d"], *condition
    ) -> Float[Tensor, "b c_out h w"]:
        """Go down, through the middle and up again; `condition` is passed on to every block."""
        h = self.stem(x)  # b width h w
        skips = [h]

        for layer in self.down:  # b c h/2^level w/2^level
            h = layer(h) if isinstance(layer, nn.Conv2d) else layer(h, time, *condition)
            skips.append(h)

        for layer in self.middle:
            h = layer(h, time, *condition)  # b c h/2^levels w/2^levels

        for layer in self.up:
            if isinstance(layer, Upsample):
                h = layer(h)  # b c 2*h/2^level 2*w/2^level
            else:
                h = layer(torch.cat([h, skips.pop()], dim=1), time, *condition)

        return self.out(F.silu(self.norm(h)))  # b c_out h w

    def validate(self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b n d"] | None) -> None:
        """Refuse latents and contexts that the network cannot take (ValueError)."""
        factor = self.config.downsampling
        if x.shape[2] % factor or x.shape[3] % factor:
            raise ValueError(
                f"latent: expected both sides divisible by {factor}, got {tuple(x.shape[2:])}"
            )
        given = None if context is None else context.shape[2]
        if given != self.config.context:
            raise ValueError(
                f"context: expected tokens of width {self.config.context}, got {given}"
            )

    def zero_last_layers(self) -> None:
        """Make the whole network start as zero, and every block as the identity."""
        last_layers: list[nn.Module] = [self.out]
        for module in self.modules():
            if isinstance(module, ResBlock):
                last_layers.append(module.conv2)
            elif isinstance(module, SpatialTransformer):
                last_layers.append(module.proj_out)
        for layer in last_layers:
            for parameter in layer.parameters():
                nn.init.zeros_(parameter)


class Block(nn.Module):
    """A residual block, then a transformer where the level has them."""

    def __init__(self, config: LDMConfig, c_in: int, c_out: int, level: int, attends: bool):
        super().__init__()
        self.res = residual(config, c_in, c_out)
        self.attention = SpatialTransformer(config, c_out, config.heads[level]) if attends else None

    def forward(
        self,
        x: Float[Tensor, "b c_in h w"],
        time: Float[Tensor, "b d"],
        context: Float[Tensor, "b n d_context"] | None,
    ) -> Float[Tensor, "b c h w"]:
        x = self.res(x, time)  # b c h w
        return x if self.attention is None else self.attention(x, context)  # b c h w


def residual(config: LDMConfig, c_in: int, c_out: int) -> ResBlock:
    """Make a residual block that is told the time."""
    return ResBlock(
        c_in,
        c_out,
        time_width=4 * config.width,
        groups=config.groups,
        eps=config.norm_eps,
        dropout=0.0,
    )


# ---------------------------------------------------------------- 3.3 the transformer


class SpatialTransformer(nn.Module):
    """Appendix E.2.1: a transformer on the places of a feature map, around the identity."""

    def __init__(self, config: LDMConfig, channels: int, heads: int):
        super().__init__()
        self.norm = GroupNorm(config.groups, channels, TRANSFORMER_NORM_EPS)
        self.proj_in = projection(config, channels)
        self.blocks = nn.ModuleList(
            TransformerBlock(channels, heads, config.context) for _ in range(config.depth)
        )
        self.proj_out = projection(config, channels)

    def forward(
        self, x: Float[Tensor, "b c h w"], context: Float[Tensor, "b m d"] | None
    ) -> Float[Tensor, "b c h w"]:
        tokens = self.tokens(x)  # b h*w c
        for block in self.blocks:
            tokens = block(tokens, context)  # b h*w c
        return x + self.feature_map(tokens, x.shape[2])  # b c h w

    def tokens(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n c"]:
        """Return the normalised feature map's places, row by row, projected."""
        return pointwise(self.proj_in, rearrange(self.norm(x), "b c h w -> b (h w) c"))

    def feature_map(self, tokens: Float[Tensor, "b n c"], h: int) -> Float[Tensor, "b c h w"]:
        """Return tokens, projected, to their places in `h` rows."""
        return rearrange(pointwise(self.proj_out, tokens), "b (h w) c -> b c h w", h=h)


class TransformerBlock(nn.Module):
    """Self-attention, attention to the context if there is one, and a gated feed-forward network.

    Each comes after a norm and is added to its input.
    """

    def __init__(self, width: int, heads: int, context: int | None):
        super().__init__()
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = Attention(width, heads)
        self.norm2 = nn.Identity() if context is None else nn.LayerNorm(width)
        self.cross_attention = None if context is None else Attention(width, heads, context)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d_context"] | None
    ) -> Float[Tensor, "b n d"]:
        x = x + self.self_attention(self.norm1(x))  # b n d
        if self.cross_attention is not None:
            x = x + self.cross_attention(self.norm2(x), context)  # b n d
        return x + self.feed_forward(self.norm3(x))  # b n d


class Attention(nn.Module):
    """Let tokens look at a context of `context` numbers a token, or, without one, at each other."""

    def __init__(self, width: int, heads: int, context: int | None = None):
        super().__init__()
        self.heads = heads
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(context or width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "b n d"], context: Float[Tensor, "b m d_context"] | None = None
    ) -> Float[Tensor, "b n d"]:
        q = self.query(x)  # b n d
        k, v = self.key_value(x if context is None else context).chunk(2, dim=-1)  # b m d each
        return self.out(cross_attention(q, k, v, self.heads))  # b n d


def cross_attention(
    q: Float[Tensor, "b n d"], k: Float[Tensor, "b m d"], v: Float[Tensor, "b m d"], heads: int
) -> Float[Tensor, "b n d"]:
    """Section 3.3: return softmax(Q K^T / sqrt(d / heads)) V, for every head by itself.

    The n queries come from the feature map, the m keys and values from the context; a head owns
    d / heads neighbouring numbers of each.
    """
    q = rearrange(q, "b n (heads d) -> b heads n d", heads=heads)
    k = rearrange(k, "b m (heads d) -> b heads m d", heads=heads)
    v = rearrange(v, "b m (heads d) -> b heads m d", heads=heads)
    h = F.scaled_dot_product_attention(q, k, v)  # b heads n d
    return rearrange(h, "b heads n d -> b n (heads d)")


class FeedForward(nn.Module):
    """Widen each token four times, gate it (GEGLU, Shazeer, arXiv 2002.05202), narrow it again."""

    def __init__(self, width: int):
        super().__init__()
        self.values_and_gates = nn.Linear(width, 8 * width)
        self.out = nn.Linear(4 * width, width)

    def forward(self, x: Float[Tensor, "... d"]) -> Float[Tensor, "... d"]:
        values, gates = self.values_and_gates(x).chunk(2, dim=-1)  # ... 4*d each
        return self.out(values * F.gelu(gates))  # ... d


def projection(config: LDMConfig, width: int) -> nn.Linear | nn.Conv2d:
    """Make the layer into or out of a transformer: linear, or, the same, a 1x1 convolution."""
    return nn.Linear(width, width) if config.linear_projection else nn.Conv2d(width, width, 1)


def pointwise(layer: nn.Linear | nn.Conv2d, x: Float[Tensor, "b n c"]) -> Float[Tensor, "b n c"]:
    """Apply a linear layer, or a 1x1 convolution as one: tokens need not become an image."""
    return F.linear(x, layer.weight.flatten(1), layer.bias)


# ---------------------------------------------------------------- 3.3 captions


@dataclass(frozen=True)
class CaptionConfig:
    """A small encoder of captions made of known words."""

    words: tuple[str, ...]  # every word and sign that captions may have
    length: int = 32  # tokens of a caption; the rest of a shorter one is empty
    width: int = 96
    heads: int = 1
    depth: int = 1


class CaptionEncoder(nn.Module):
    """tau_theta of Eq. 3, in little: the words of a caption to as many tokens of a context."""

    def __init__(self, config: CaptionConfig):
        super().__init__()
        self.config = config
        self.words = nn.Embedding(1 + len(config.words), config.width)  # 0 is no word
        self.positions = nn.Parameter(torch.zeros(1, config.length, config.width))
        self.blocks = nn.ModuleList(
            TransformerBlock(config.width, config.heads, None) for _ in range(config.depth)
        )
        self.norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.positions, std=0.02)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        x = self.words(tokens) + self.positions  # b n d
        for block in self.blocks:
            x = block(x, None)  # b n d
        return self.norm(x)  # b n d

    def tokens(self, captions: list[str]) -> Int[Tensor, "b n"]:
        """Return the numbers of captions' words; an empty caption is all zeros.

        Raises ValueError, naming them, for words that it does not know, and for a caption that is
        too long.
        """
        numbers = {word: i for i, word in enumerate(self.config.words, start=1)}
        tokens = torch.zeros(len(captions), self.config.length, dtype=torch.long)
        for row, caption in zip(tokens, captions, strict=True):
            words = re.findall(r"\w+|[^\w\s]", caption)
            unknown = [word for word in words if word not in numbers]
            if unknown or len(words) > len(row):
                raise ValueError(
                    f"expected at most {len(row)} known words, got {len(words)} in {caption!r},"
                    f" of which unknown: {', '.join(unknown) or 'none'}"
                )
            row[: len(words)] = torch.tensor([numbers[word] for word in words])
        return tokens.to(self.positions.device)


# ---------------------------------------------------------------- v
# Salimans and Ho 2022, arXiv 2202.00512, appendix D.


def velocity(x_start: Batch, t: Steps, noise: Batch, alphas_cumprod: Table) -> Batch:
    """Return v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0, what the network is to say."""
    signal = gather_at(alphas_cumprod.sqrt(), t, x_start)
    sigma = gather_at((1 - alphas_cumprod).sqrt(), t, x_start)
    return signal * noise - sigma * x_start


def from_velocity(v: Batch, x_t: Batch, t: Steps, alphas_cumprod: Table) -> tuple[Batch, Batch]:
    """Return the noise and the x_0 that v and x_t imply."""
    signal = gather_at(alphas_cumprod.sqrt(), t, x_t)
    sigma = gather_at((1 - alphas_cumprod).sqrt(), t, x_t)
    return signal * v + sigma * x_t, signal * x_t - sigma * v


# ---------------------------------------------------------------- training and sampling


def sample(
    network: Callable,
    noise: Batch,
    context: Batch,
    null: Float[Tensor, "1 n d"],
    scale: int | float,
    steps: Int[Tensor, " count"],
    alphas_cumprod: Table,
) -> Batch:
    """Return latents, from noise, by a network that says v: guidance and DDIM in one loop.

    A step of DDIM takes the noise and the x_0 that v implies, and adds up less of the one and more
    of the other.  context: (b n d).  steps: those to visit, falling (of `ddim_steps`); after the
    last one comes step 0, at whose noise the chain ends.  `LatentDiffusion` has this in parts.
    """
    x = noise
    times = F.pad(steps, (0, 1))[:, None].expand(-1, len(x))  # count+1 b
    for t, t_next in pairwise(times):
        with torch.no_grad():
            v = guide(network(x, t, context), network(x, t, null.expand_as(context)), scale)
            eps, x_start = from_velocity(v, x, t, alphas_cumprod)
            x = q_sample(x_start, t_next, eps, alphas_cumprod)
    return x


class LatentDiffusion:
    """The process of a config: its schedule, its loss, its samplers.

    Samplers call `predict(x_t, t)`, such as `course_lib.diffusion.Guided`, for the output at x_t.
    """

    def __init__(self, config: LDMConfig):
        self.alphas_cumprod = config.alphas_cumprod
        self.prediction = config.prediction

    def loss(
        self,
        network: Callable,
        x_start: Float[Tensor, "b c h w"],
        t: Steps,
        noise: Float[Tensor, "b c h w"],
        context: Float[Tensor, "b n d"] | None,
    ) -> PerSample:
        """Eq. 3: return the squared error of the noise, or of v, averaged over all values."""
        target = noise
        if self.prediction == "v":
            target = velocity(x_start, t, noise, self.alphas_cumprod)
        x_t = q_sample(x_start, t, noise, self.alphas_cumprod)
        return (target - network(x_t, t, context)).square().flatten(1).mean(1)

    def eps_and_x_start(self, output: Batch, x_t: Batch, t: Steps) -> tuple[Batch, Batch]:
        """Return the noise and the x_0 that the network's output stands for."""
        if self.prediction == "v":
            return from_velocity(output, x_t, t, self.alphas_cumprod)
        return output, predict_x_start(x_t, t, output, self.alphas_cumprod)

    def denoise(
        self,
        predict: Callable[[Batch, Steps], Batch],
        x: Batch,
        count: int,
        eta: float = 0.0,
        generator: torch.Generator | None = None,
    ) -> Iterator[tuple[Batch, Batch]]:
        """Go from noise to latents in `count` DDIM steps; after each yield x_t and the x_0 seen.

        eta is the share of fresh noise: 0 none, 1 DDPM's.
        """
        kept = ddim_steps(len(self.alphas_cumprod), count, offset=1)
        for step, step_next in pairwise([*kept.flip(0).tolist(), 0]):
            with torch.no_grad():
                t = torch.full((len(x),), step, device=x.device)
                eps, x_start = self.eps_and_x_start(predict(x, t), x, t)
                noise = torch.randn(x.shape, generator=generator).to(x) if eta > 0 else None
                alpha_bar = self.alphas_cumprod[step]
                x = ddim_step(x, eps, alpha_bar, self.alphas_cumprod[step_next], eta, noise)
            yield x, x_start

    def sample(self, predict: Callable, x: Batch, count: int, **options) -> Batch:
        """Return the latents in which `denoise` ends."""
        for x_next, _ in self.denoise(predict, x, count, **options):
            x = x_next
        return x

    # By noise levels, for the samplers of `course_lib.diffusion.edm`: x = x_0 + sigma eps.

    @property
    def sigmas(self) -> Table:
        """The noise level of every step."""
        return ((1 - self.alphas_cumprod) / self.alphas_cumprod).sqrt()

    def levels(self, count: int) -> Table:
        """Return the noise levels of `count` of DDIM's steps, falling, and 0 after them."""
        kept = self.sigmas[ddim_steps(len(self.sigmas), count, offset=1)]
        return torch.cat([kept.flip(0), torch.zeros_like(kept[:1])])

    def estimate(
        self,
        predict: Callable[[Batch, PerSample], Batch],
        x: Float[Tensor, "b c h w"],
        sigma: PerSample,
    ) -> Float[Tensor, "b c h w"]:
        """Return D(x; sigma), the x_0 that the network sees at a noise level."""
        level = rearrange(sigma, "b -> b 1 1 1")
        c_skip, c_out, c_in, _ = precondition(level)
        output = predict(c_in * x, self.time_of(sigma))
        if self.prediction == "v":
            return c_skip * x + c_out * output
        return x - level * output

    def time_of(self, sigma: PerSample) -> PerSample:
        """Return the time of each noise level: between two steps, linear in its logarithm."""
        levels = self.sigmas.log().to(sigma.device)
        level = sigma.double().log()
        low = (torch.searchsorted(levels, level) - 1).clamp(0, len(levels) - 2)
        share = (level - levels[low]) / (levels[low + 1] - levels[low])
        return (low + share.clamp(0, 1)).to(sigma)
