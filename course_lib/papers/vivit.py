"""ViViT: A Video Vision Transformer.  Arnab et al., 2021, arXiv 2103.15691.

Read `course_lib.papers.vit` first.  Reading order: the configurations; the model from the outside
in, with its four encoders (section 3.3); tubelets (3.2) and the four models' equations as plain
functions; starting from an image model (3.4); many views (4.1); size and cost (Table 2).  Clips are
(b t c h w), tokens (b t n d): n patches at t times.

Differs from the paper, in the manner of the official code:
- Models 3 and 4 have no class token; their last tokens are averaged.
- Stochastic depth drops the attention and the MLP of a layer independently, with a rate that grows
  with the layer.
Differs from both:
- 3.4 zeroes all of Model 3's temporal attention, of which then only the last bias ever learns;
  here, its last layer.
Differs from the official code: there, Model 4's first heads are those over time, and Model 3
attends over time first.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.nn.stochastic_depth import StochasticDepth
from course_lib.nn.transformer import encoder_macs, encoder_parameters
from course_lib.papers.vit import (
    MLP,
    Attention,
    ViT,
    encoder_block,
    initialize,
    tokens_and_positions,
)
from course_lib.shapes import Float, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class ViViTConfig:
    """Defaults: ViViT-B/16x2 on Kinetics-400, Model 1."""

    model: Literal[1, 2, 3, 4] = 1  # as section 3.3 numbers them
    frames: int = 32
    image_size: int | tuple[int, int] = 224  # pixels: one side of a square, or height and width
    tubelet: tuple[int, int, int] = (2, 16, 16)  # frames, rows, columns
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    num_classes: int = 400
    # of Model 2; 0 averages the frames (Table 2, "average pooling baseline")
    temporal_depth: int = 4
    pool: Literal["token", "average"] = "token"  # Models 1 and 2
    gelu: Literal["tanh", "exact"] = "tanh"
    norm_eps: float = 1e-6
    stochastic_depth: float = 0.0  # the last layer's chance to be skipped (Table 3)

    def __post_init__(self):
        sides = (self.frames, *self.size)
        if any(side % cut for side, cut in zip(sides, self.tubelet, strict=True)):
            raise ValueError(
                f"tubelet must divide frames, height and width, got {self.tubelet} for {sides}"
            )
        if self.width % self.heads or (self.model == 4 and self.heads % 2):
            even = " and be even (Model 4)" if self.model == 4 else ""
            raise ValueError(f"heads must divide width{even}, got {self.heads} for {self.width}")
        if self.model not in (1, 2, 3, 4):
            raise ValueError(f"model must be 1, 2, 3 or 4, got {self.model!r}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (
            self.image_size
            if isinstance(self.image_size, tuple)
            else (self.image_size, self.image_size)
        )

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubelets in time, rows and columns of them."""
        t, h, w = self.tubelet
        return self.frames // t, self.size[0] // h, self.size[1] // w

    @property
    def has_token(self) -> bool:
        """Whether there is a class token."""
        return self.pool == "token" and self.model in (1, 2)


_TINY = dict(
    frames=16, image_size=32, tubelet=(2, 8, 8), width=64, depth=4, heads=4, mlp=128, num_classes=9
)
# the paper's naming scheme (4.1): model / patch side x tubelet frames, then the encoder
VIVIT_CONFIGS = {
    "ViViT-B/16x2": ViViTConfig(),
    "ViViT-B/16x2 FE": ViViTConfig(2),
    "ViViT-B/16x2 FSA": ViViTConfig(3),
    "ViViT-B/16x2 FDP": ViViTConfig(4),
    "ViViT-L/16x2 FE": ViViTConfig(2, width=1024, depth=24, heads=16, mlp=4096),
    "tiny": ViViTConfig(1, **_TINY),
    "tiny FE": ViViTConfig(2, temporal_depth=2, **_TINY),
    "tiny FSA": ViViTConfig(3, **_TINY),
    "tiny FDP": ViViTConfig(4, **_TINY),
}


# ---------------------------------------------------------------- the model


class ViViT(nn.Module):
    """Clips to class scores: tubelets, one of four encoders, a linear head."""

    def __init__(self, config: ViViTConfig):
        super().__init__()
        self.config = config
        self.tubelet_embed = TubeletEmbed(config)
        block = {3: SpaceTimeBlock, 4: SpaceTimeHeadsBlock}.get(config.model, Block)
        whole = (
            Encoder(config, math.prod(config.grid), config.depth, block)
            if config.model != 2
            else None
        )
        self.encoder = whole or FactorisedEncoder(config)
        self.head = nn.Linear(config.width, config.num_classes)
        initialize(self)

    def forward(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b classes"]:
        """Class scores (logits)."""
        return self.head(self.features(video))

    def features(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """One vector per clip, what the head sees."""
        expected = (self.config.frames, self.config.channels, *self.config.size)
        if tuple(video.shape[1:]) != expected:
            raise ValueError(
                f"expected clips (t c h w) of {expected}, got {tuple(video.shape[1:])}"
            )
        x = self.tubelet_embed(video)  # b t n d
        return self.encoder(x)


class TubeletEmbed(nn.Conv3d):
    """Section 3.2: boxes of (t h w) pixels to tokens.  Its weights are those of a convolution."""

    def __init__(self, config: ViViTConfig):
        super().__init__(config.channels, config.width, config.tubelet, stride=config.tubelet)
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 n d"]:
        return tubelet_embed(video, self.weight, self.bias)


class Encoder(nn.Module):
    """A class token (or none), positions, blocks, a norm: ViT's encoder, and what it says of the
    whole sequence.
    """

    def __init__(self, config: ViViTConfig, tokens: int, depth: int, block: type["Block"]):
        super().__init__()
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.has_token else None
        self.positions = nn.Parameter(
            torch.randn(1, tokens + config.has_token, config.width) * 0.02
        )
        rates = [config.stochastic_depth * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, x: Float[Tensor, "b *n d"]) -> Float[Tensor, "b d"]:
        x = tokens_and_positions(x.flatten(1, -2), self.cls_token, self.positions)  # b 1+t*n d
        for block in self.blocks:
            x = block(x)
        x = self.norm(x)
        return x.mean(1) if self.cls_token is None else x[:, 0]


class FactorisedEncoder(nn.Module):
    """Model 2: one encoder reads each time by itself, a second one what the first said of every
    time.
    """

    def __init__(self, config: ViViTConfig):
        super().__init__()
        t, h, w = config.grid
        self.spatial = Encoder(config, h * w, config.depth, Block)
        self.temporal = (
            Encoder(config, t, config.temporal_depth, Block) if config.temporal_depth else None
        )

    def forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b d"]:
        return factorised_encoder(x, self.spatial, self.temporal or (lambda frames: frames.mean(1)))


class Block(nn.Module):
    """A layer of Models 1 and 2, norms first: every token attends to every token of its sequence."""

    def __init__(self, config: ViViTConfig, drop: float):
        super().__init__()
        self.times = config.grid[0]
        self.norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp, config.gelu)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        attend, mlp = (lambda h: self.drop(self.attend(h))), (lambda h: self.drop(self.mlp(h)))
        return encoder_block(x, self.norm1, attend, self.norm2, mlp)

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.attention(x)


class SpaceTimeBlock(Block):
    """A layer of Model 3: attention over space, then, behind a norm of its own, over time."""

    def __init__(self, config: ViViTConfig, drop: float):
        super().__init__(config, drop)
        self.norm_time = nn.LayerNorm(config.width, config.norm_eps)
        self.attention_time = Attention(config.width, config.heads)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        branches = (
            lambda h: self.drop(self.attention(self.norm1(h))),
            lambda h: self.drop(self.attention_time(self.norm_time(h))),
            lambda h: self.drop(self.mlp(self.norm2(h))),
        )
        return factorised_self_attention(x.unflatten(1, (self.times, -1)), *branches).flatten(1, 2)


class SpaceTimeHeadsBlock(Block):
    """A layer of Model 4: half of the heads look over space, half over time."""

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        qkv = self.attention.qkv(x).unflatten(1, (self.times, -1))  # b t n 3*d
        return self.attention.out(factorised_dot_product(qkv, self.attention.heads).flatten(1, 2))


# ---------------------------------------------------------------- 3.2 tokens from a clip


def uniform_frames(video: Float[Tensor, "b t c h w"], count: int) -> Float[Tensor, "b count c h w"]:
    """Figure 2: `count` frames, evenly spaced and away from both ends: number i * t / (count + 1),
    rounded.

    Halves round to even, as in the official code; all frames if there are no more.  ValueError for
    a count below 1.
    """
    if count < 1:
        raise ValueError(f"count must be at least 1, got {count}")
    if count >= (frames := video.shape[1]):
        return video
    return video[:, (torch.arange(1, count + 1) * frames / (count + 1)).round().long()]


def tubelet_embed(
    video: Float[Tensor, "b t c h w"],
    kernel: Float[Tensor, "d c kt kh kw"],
    bias: Float[Tensor, " d"],
) -> Float[Tensor, "b t2 n d"]:
    """Figure 3: boxes of kt x kh x kw pixels, each times the kernel: a convolution whose stride is
    its size.

    Raises ValueError unless the box divides the clip.
    """
    kt, kh, kw = kernel.shape[2:]
    t, _, h, w = video.shape[1:]
    if t % kt or h % kh or w % kw:
        raise ValueError(
            f"a tubelet of {(kt, kh, kw)} must divide the clip's frames, height and width"
            f" {(t, h, w)}"
        )
    boxes = rearrange(
        video, "b (t kt) c (h kh) (w kw) -> b t (h w) (c kt kh kw)", kt=kt, kh=kh, kw=kw
    )
    return F.linear(boxes, kernel.flatten(1), bias)


# ---------------------------------------------------------------- 3.3 the four models


def factorised_encoder(
    x: Float[Tensor, "b t n d"], spatial: Callable, temporal: Callable
) -> Float[Tensor, "b d"]:
    """Model 2, Figure 4: `spatial`, (b n d) -> (b d), on each time by itself; `temporal`, the same,
    on what it says.
    """
    frames = spatial(rearrange(x, "b t n d -> (b t) n d"))  # b*t d
    return temporal(rearrange(frames, "(b t) d -> b t d", b=len(x)))


def factorised_self_attention(
    x: Float[Tensor, "b t n d"], over_space: Callable, over_time: Callable, mlp: Callable
) -> Float[Tensor, "b t n d"]:
    """Model 3, Eq. 4 to 6: three branches around the identity, each with its norm inside.

    The two attentions take sequences (... sequence d): over_space those of one time, over_time
    those of one place.
    """
    x = x + over_space(x)
    along = over_time(rearrange(x, "b t n d -> b n t d"))  # b n t d
    x = x + rearrange(along, "b n t d -> b t n d")
    return x + mlp(x)


def factorised_dot_product(
    qkv: Float[Tensor, "b t n three_d"], heads: int
) -> Float[Tensor, "b t n d"]:
    """Model 4, without W_O: the first half of the heads attends over space, the second over time.

    qkv: queries, keys and values in turn, heads within each.
    """
    halves = rearrange(
        qkv, "b t n (three two h d) -> two three b t n h d", three=3, two=2, h=heads // 2
    )
    space = rearrange(halves[0], "three b t n h d -> three (b t) h n d")
    time = rearrange(halves[1], "three b t n h d -> three (b n) h t d")
    y_space = rearrange(
        F.scaled_dot_product_attention(*space), "(b t) h n d -> b t n (h d)", b=len(qkv)
    )
    y_time = rearrange(
        F.scaled_dot_product_attention(*time), "(b n) h t d -> b t n (h d)", b=len(qkv)
    )
    return torch.cat([y_space, y_time], dim=-1)


# ---------------------------------------------------------------- 3.4 starting from an image model


def central_frame_init(kernel: Float[Tensor, "d c h w"], t: int) -> Float[Tensor, "d c t h w"]:
    """Eq. 9: the image filter at the middle frame, t // 2 counted from 0, and zeros elsewhere."""
    inflated = kernel.new_zeros(*kernel.shape[:2], t, *kernel.shape[2:])
    inflated[:, :, t // 2] = kernel
    return inflated


def filter_inflation_init(kernel: Float[Tensor, "d c h w"], t: int) -> Float[Tensor, "d c t h w"]:
    """Eq. 8: the image filter at every frame, divided by their number."""
    return repeat(kernel / t, "d c h w -> d c t h w", t=t)


@torch.no_grad()
def start_from_image_model(
    model: ViViT, image_model: ViT, inflate: Callable = central_frame_init
) -> None:
    """Section 3.4: give a fresh ViViT what an image model has learned; its head stays as it is.

    Filters are inflated by `inflate` and positions repeated at every time.  Model 2's temporal
    encoder stays fresh, and Model 3's attention over time becomes a copy of that over space whose
    output is zero.  Raises ValueError unless the two agree in kernel, grid, the encoder's shape and
    the class token, if ours has one.
    """
    ours, theirs = model.config, image_model.config
    kernel = tuple(image_model.patch_embed.weight.shape[1:])  # a hybrid's is of its feature map
    fits = (
        kernel == (ours.channels, *ours.tubelet[1:])
        and theirs.grid == ours.grid[1:]
        and theirs.positions == "1d"
    )
    fits = fits and ours.has_token <= (image_model.cls_token is not None)
    if not fits or any(
        getattr(ours, key) != getattr(theirs, key) for key in ("width", "depth", "heads", "mlp")
    ):
        raise ValueError(
            f"expected an image model with 1-D positions that fits {ours}, got {theirs}"
        )
    model.tubelet_embed.weight.copy_(inflate(image_model.patch_embed.weight, ours.tubelet[0]))
    model.tubelet_embed.bias.copy_(image_model.patch_embed.bias)
    encoder = model.encoder.spatial if ours.model == 2 else model.encoder
    positions = image_model.positions.table[:, -ours.grid[1] * ours.grid[2] :]
    token = image_model.positions.table[:, : ours.has_token]
    times = 1 if ours.model == 2 else ours.grid[0]
    encoder.positions.copy_(torch.cat([token, positions.repeat(1, times, 1)], dim=1))
    if ours.has_token:
        encoder.cls_token.copy_(image_model.cls_token)
    encoder.norm.load_state_dict(image_model.norm.state_dict())
    for block, source in zip(encoder.blocks, image_model.blocks, strict=True):
        block.load_state_dict(source.state_dict(), strict=False)
        if ours.model == 3:
            block.attention_time.load_state_dict(source.attention.state_dict())
            block.norm_time.load_state_dict(source.norm1.state_dict())
            for p in block.attention_time.out.parameters():
                nn.init.zeros_(p)


# ---------------------------------------------------------------- 4.1 many views


def multi_view(
    model: Callable,
    video: Float[Tensor, "b t c h w"],
    frames: int,
    size: int,
    views: int = 4,
    crops: int = 3,
) -> Float[Tensor, "b classes"]:
    """The mean of a model's logits over `views` windows of `frames` frames times `crops` squares of
    `size` pixels.

    Both are evenly spaced from end to end, rounded down; a single one is in the middle.  Squares
    move along the longer side and are centred on the other.  Raises ValueError when the clip is too
    short or too small.
    """
    t, _, h, w = video.shape[1:]
    if t < frames or min(h, w) < size:
        raise ValueError(
            f"expected at least {frames} frames of {size} x {size} pixels, got {t} of {h} x {w}"
        )

    def spread(last: int, count: int) -> list[int]:
        return [i * last // (count - 1) for i in range(count)] if count > 1 else [last // 2]

    tops = spread(h - size, crops) if h > w else [(h - size) // 2] * crops
    lefts = spread(w - size, crops) if w >= h else [(w - size) // 2] * crops
    logits = [
        model(video[:, start : start + frames, :, top : top + size, left : left + size])
        for start in spread(t - frames, views)
        for top, left in zip(tops, lefts, strict=True)
    ]
    return torch.stack(logits).mean(0)


# ---------------------------------------------------------------- Table 2: size and cost


def count_parameters(config: ViViTConfig) -> int:
    """Weights and biases, in closed form."""
    t, n, d = config.grid[0], config.grid[1] * config.grid[2], config.width
    sequences = {
        2: [(n, config.depth)] + [(t, config.temporal_depth)] * (config.temporal_depth > 0)
    }
    encoders = sum(
        # positions, class token, layers
        (length + 2 * config.has_token) * d + encoder_parameters(d, config.mlp, depth)
        for length, depth in sequences.get(config.model, [(t * n, config.depth)])
    )
    over_time = config.depth * (4 * (d * d + d) + 2 * d) if config.model == 3 else 0
    return (
        (config.channels * math.prod(config.tubelet) + 1) * d
        + encoders
        + over_time
        + (d + 1) * config.num_classes
    )


def count_macs(config: ViViTConfig) -> int:
    """Multiply-adds of one clip's forward pass, matrix products alone.  The paper's "FLOPs" are
    these.
    """
    t, n, d = config.grid[0], config.grid[1] * config.grid[2], config.width
    mlp, token = config.mlp, int(config.has_token)
    encoder = {
        1: encoder_macs(t * n + token, t * n + token, d, mlp, config.depth),
        2: (
            encoder_macs(t * (n + token), n + token, d, mlp, config.depth)
            + encoder_macs(t + token, t + token, d, mlp, config.temporal_depth)
        ),
        3: encoder_macs(t * n, n + t, d, mlp, config.depth) + config.depth * t * n * 4 * d * d,
        # half of the heads look over space, half over time
        4: encoder_macs(t * n, (n + t) / 2, d, mlp, config.depth),
    }[config.model]
    return (
        config.frames * math.prod(config.size) * config.channels * d
        + encoder
        + d * config.num_classes
    )
