"""ViViT: A Video Vision Transformer.  Arnab et al., 2021, arXiv 2103.15691.

Read `course_lib.papers.vit` first.  Reading order: the configurations; the model from the outside
in, with its four encoders (Section 3.3); tubelets (3.2) and the four models' equations as plain
functions; starting from an image model (3.4); many views (4.1); size and cost (Table 2).  Clips are
(b t c h w), tokens (b t n d): n patches at t times.

Differs from the paper, following the official code:
- Model 4 has no class token, as Model 3 has none in the paper; their last tokens are averaged.
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
from dataclasses import dataclass, replace
from numbers import Integral
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
    initialize,
    require_choice,
    tokens_and_positions,
)
from course_lib.shapes import Float, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class ViViTConfig:
    """The encoder's shape, its input and its output.  Defaults: ViViT-B/16x2 on Kinetics-400."""

    model: Literal[1, 2, 3, 4] = 1  # as section 3.3 numbers them
    frames: int = 32
    image_size: int | tuple[int, int] = 224  # pixels: one side of a square, or height and width
    tubelet: tuple[int, int, int] = (2, 16, 16)  # frames, rows, columns
    channels: int = 3
    width: int = 768
    depth: int = 12  # layers; of Model 2, those of its spatial encoder
    heads: int = 12
    mlp: int = 3072  # width of the MLP's hidden layer
    num_classes: int = 400
    # Layers of Model 2's temporal encoder.  0 averages the frames instead (Table 2, "average
    # pooling baseline").
    temporal_depth: int = 4
    pool: Literal["token", "average"] = "token"  # Models 1 and 2
    gelu: Literal["tanh", "exact"] = "tanh"
    norm_eps: float = 1e-6
    stochastic_depth: float = 0.0  # the last layer's chance to be skipped (Table 3)

    def __post_init__(self):
        sides = (self.frames, *self.size)
        if any(side % cut for side, cut in zip(sides, self.tubelet, strict=True)):
            raise ValueError(
                f"tubelet: expected divisors of frames, height and width {sides},"
                f" got {self.tubelet}"
            )
        if self.model not in (1, 2, 3, 4):
            raise ValueError(f"model: expected 1, 2, 3 or 4, got {self.model!r}")
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width {self.width}, got {self.heads}")
        if self.model == 4 and self.heads % 2:
            raise ValueError(f"heads: expected an even number for Model 4, got {self.heads}")
        require_choice("pool", self.pool, ("token", "average"))
        require_choice("gelu", self.gelu, ("tanh", "exact"))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.image_size, tuple):
            return self.image_size
        return self.image_size, self.image_size

    @property
    def grid(self) -> tuple[int, int, int]:
        """Tubelets in time, rows and columns of them."""
        t, h, w = self.tubelet
        return self.frames // t, self.size[0] // h, self.size[1] // w

    @property
    def has_token(self) -> bool:
        """Whether there is a class token."""
        return self.pool == "token" and self.model in (1, 2)


_TINY = ViViTConfig(
    frames=16, image_size=32, tubelet=(2, 8, 8), width=64, depth=4, heads=4, mlp=128, num_classes=9
)
# The paper's naming scheme (4.1): model / patch side x tubelet frames, then the encoder.
VIVIT_CONFIGS = {
    "ViViT-B/16x2": ViViTConfig(),
    "ViViT-B/16x2 FE": ViViTConfig(model=2),
    "ViViT-B/16x2 FSA": ViViTConfig(model=3),
    "ViViT-B/16x2 FDP": ViViTConfig(model=4),
    "ViViT-L/16x2 FE": ViViTConfig(model=2, width=1024, depth=24, heads=16, mlp=4096),
    "tiny": _TINY,
    "tiny FE": replace(_TINY, model=2, temporal_depth=2),
    "tiny FSA": replace(_TINY, model=3),
    "tiny FDP": replace(_TINY, model=4),
}


# ---------------------------------------------------------------- the model


class ViViT(nn.Module):
    """Clips to class scores: tubelets, one of four encoders, a linear head."""

    def __init__(self, config: ViViTConfig):
        super().__init__()
        self.config = config
        self.tubelet_embed = TubeletEmbed(config)
        tokens = math.prod(config.grid)
        self.encoder: Encoder | FactorisedEncoder
        if config.model == 1:
            self.encoder = Encoder(config, tokens, config.depth, Block)
        elif config.model == 2:
            self.encoder = FactorisedEncoder(config)
        elif config.model == 3:
            self.encoder = Encoder(config, tokens, config.depth, SpaceTimeBlock)
        else:
            self.encoder = Encoder(config, tokens, config.depth, SpaceTimeHeadsBlock)
        self.head = nn.Linear(config.width, config.num_classes)
        initialize(self, self.head)

    def forward(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b classes"]:
        """Return class scores (logits)."""
        return self.head(self.features(video))

    def features(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """Return one vector per clip, what the head sees."""
        expected = (self.config.frames, self.config.channels, *self.config.size)
        if tuple(video.shape[1:]) != expected:
            got = tuple(video.shape[1:])
            raise ValueError(f"expected clips (t c h w) of {expected}, got {got}")
        x = self.tubelet_embed(video)  # b t n d
        if self.config.model == 2:
            return self.encoder(x)
        return self.encoder(rearrange(x, "b t n d -> b (t n) d"))


class TubeletEmbed(nn.Conv3d):
    """Section 3.2: boxes of (t h w) pixels to tokens, with the weights of a convolution."""

    bias: nn.Parameter  # Conv3d's own may be None

    def __init__(self, config: ViViTConfig):
        super().__init__(config.channels, config.width, config.tubelet, stride=config.tubelet)
        nn.init.normal_(self.weight, std=self.weight[0].numel() ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, video: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t2 n d"]:
        return tubelet_embed(video, self.weight, self.bias)


class Encoder(nn.Module):
    """ViT's encoder, of a whole sequence: a class token (or none), positions, blocks, a norm."""

    def __init__(self, config: ViViTConfig, tokens: int, depth: int, block: type["Block"]):
        super().__init__()
        length = tokens + config.has_token
        self.cls_token = nn.Parameter(torch.zeros(1, 1, config.width)) if config.has_token else None
        self.positions = nn.Parameter(torch.randn(1, length, config.width) * 0.02)
        # The chance to be skipped grows from 0 in the first layer to the config's in the last.
        rates = [config.stochastic_depth * layer / max(depth - 1, 1) for layer in range(depth)]
        self.blocks = nn.ModuleList(block(config, rate) for rate in rates)
        self.norm = nn.LayerNorm(config.width, config.norm_eps)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b d"]:
        x = tokens_and_positions(x, self.cls_token, self.positions)  # b 1+n d
        for block in self.blocks:
            x = block(x)  # b 1+n d
        x = self.norm(x)  # b 1+n d
        return x.mean(1) if self.cls_token is None else x[:, 0]


class FactorisedEncoder(nn.Module):
    """Model 2: one encoder reads each time separately, a second one reads the first's outputs."""

    def __init__(self, config: ViViTConfig):
        super().__init__()
        t, h, w = config.grid
        self.spatial = Encoder(config, h * w, config.depth, Block)
        self.temporal: Encoder | None = None
        if config.temporal_depth:
            self.temporal = Encoder(config, t, config.temporal_depth, Block)

    def forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b d"]:
        temporal = mean_over_time if self.temporal is None else self.temporal
        return factorised_encoder(x, self.spatial, temporal)


def mean_over_time(frames: Float[Tensor, "b t d"]) -> Float[Tensor, "b d"]:
    """Average over time: Table 2's baseline in place of Model 2's temporal encoder."""
    return frames.mean(1)


class Block(nn.Module):
    """A layer of Models 1 and 2, norms first: every token attends to all tokens of its sequence."""

    def __init__(self, config: ViViTConfig, drop: float):
        super().__init__()
        self.times = config.grid[0]  # for Models 3 and 4, where a sequence is t times of n tokens
        self.norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp, config.gelu)
        self.drop = StochasticDepth(drop)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = x + self.drop(self.attend(self.norm1(x)))  # b n d
        x = x + self.drop(self.mlp(self.norm2(x)))  # b n d
        return x

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return self.attention(x)


class SpaceTimeBlock(Block):
    """A layer of Model 3: attention over space, then, after a norm of its own, over time."""

    def __init__(self, config: ViViTConfig, drop: float):
        super().__init__(config, drop)
        self.norm_time = nn.LayerNorm(config.width, config.norm_eps)
        self.attention_time = Attention(config.width, config.heads)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        x = rearrange(x, "b (t n) d -> b t n d", t=self.times)
        x = factorised_self_attention(x, self.over_space, self.over_time, self.feed_forward)
        return rearrange(x, "b t n d -> b (t n) d")

    def over_space(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        return self.drop(attend_within(self.attention, self.norm1(x)))

    def over_time(self, x: Float[Tensor, "b n t d"]) -> Float[Tensor, "b n t d"]:
        return self.drop(attend_within(self.attention_time, self.norm_time(x)))

    def feed_forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:
        return self.drop(self.mlp(self.norm2(x)))


def attend_within(attention: Attention, x: Float[Tensor, "b s n d"]) -> Float[Tensor, "b s n d"]:
    """Let tokens attend within each of s sequences, folded into the batch."""
    y = attention(rearrange(x, "b s n d -> (b s) n d"))
    return rearrange(y, "(b s) n d -> b s n d", b=len(x))


class SpaceTimeHeadsBlock(Block):
    """A layer of Model 4: half of the heads look over space, half over time."""

    def attend(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        qkv = rearrange(self.attention.qkv(x), "b (t n) d -> b t n d", t=self.times)  # b t n 3*d
        y = factorised_dot_product(qkv, self.attention.heads)  # b t n d
        return self.attention.out(rearrange(y, "b t n d -> b (t n) d"))


# ---------------------------------------------------------------- 3.2 tokens from a clip


def uniform_frames(video: Float[Tensor, "b t c h w"], count: int) -> Float[Tensor, "b count c h w"]:
    """Figure 2: choose `count` frames, evenly spaced and away from both ends.

    They are number i * t / (count + 1), rounded, for i from 1 to count.  Halves round to even, as
    in the official code; all frames if there are no more.  Raises ValueError for a count below 1.
    """
    if not (isinstance(count, Integral) and count >= 1):
        raise ValueError(f"count: expected at least 1, got {count}")
    frames = video.shape[1]
    if count >= frames:
        return video
    numbers = torch.arange(1, count + 1) * frames / (count + 1)
    return video[:, numbers.round().long()]


def tubelet_embed(
    video: Float[Tensor, "b t c h w"],
    kernel: Float[Tensor, "d c kt kh kw"],
    bias: Float[Tensor, " d"],
) -> Float[Tensor, "b t2 n d"]:
    """Figure 3: cut boxes of kt x kh x kw pixels and multiply each by the kernel.

    A convolution whose stride is its size does the same.  Raises ValueError unless the box divides
    the clip.
    """
    kt, kh, kw = kernel.shape[2:]
    t, _, h, w = video.shape[1:]
    if t % kt or h % kh or w % kw:
        raise ValueError(
            f"tubelet: expected divisors of the clip's frames, height and width {(t, h, w)},"
            f" got {(kt, kh, kw)}"
        )
    boxes = rearrange(
        video, "b (t kt) c (h kh) (w kw) -> b t (h w) (c kt kh kw)", kt=kt, kh=kh, kw=kw
    )
    return F.linear(boxes, kernel.flatten(1), bias)


# ---------------------------------------------------------------- 3.3 the four models


def factorised_encoder(
    x: Float[Tensor, "b t n d"], spatial: Callable, temporal: Callable
) -> Float[Tensor, "b d"]:
    """Model 2, Figure 4: apply `spatial` to each time separately, `temporal` to what it returns.

    Both are functions (b n d) -> (b d).
    """
    frames = spatial(rearrange(x, "b t n d -> (b t) n d"))  # b*t d
    return temporal(rearrange(frames, "(b t) d -> b t d", b=len(x)))


def factorised_self_attention(
    x: Float[Tensor, "b t n d"], over_space: Callable, over_time: Callable, mlp: Callable
) -> Float[Tensor, "b t n d"]:
    """Model 3, Eq. 4 to 6: apply three branches around the identity, each with its norm inside.

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
    """Model 4, without W_O: let the first half of the heads attend over space, the rest over time.

    qkv: queries, keys and values in turn, heads within each.
    """
    space, time = rearrange(
        qkv, "b t n (three two h d) -> two three b t n h d", three=3, two=2, h=heads // 2
    )

    q, k, v = rearrange(space, "three b t n h d -> three (b t) h n d")
    y_space = F.scaled_dot_product_attention(q, k, v)  # b*t h n d
    y_space = rearrange(y_space, "(b t) h n d -> b t n (h d)", b=len(qkv))

    q, k, v = rearrange(time, "three b t n h d -> three (b n) h t d")
    y_time = F.scaled_dot_product_attention(q, k, v)  # b*n h t d
    y_time = rearrange(y_time, "(b n) h t d -> b t n (h d)", b=len(qkv))

    return torch.cat([y_space, y_time], dim=-1)


# ---------------------------------------------------------------- 3.4 starting from an image model


def central_frame_init(kernel: Float[Tensor, "d c h w"], t: int) -> Float[Tensor, "d c t h w"]:
    """Eq. 9: put the image filter at the middle frame, t // 2 from 0, and zeros elsewhere."""
    inflated = kernel.new_zeros(*kernel.shape[:2], t, *kernel.shape[2:])
    inflated[:, :, t // 2] = kernel
    return inflated


def filter_inflation_init(kernel: Float[Tensor, "d c h w"], t: int) -> Float[Tensor, "d c t h w"]:
    """Eq. 8: put the image filter at every frame, divided by their number."""
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
    require_fit(model, image_model)
    config = model.config

    model.tubelet_embed.weight.copy_(inflate(image_model.patch_embed.weight, config.tubelet[0]))
    model.tubelet_embed.bias.copy_(image_model.patch_embed.bias)

    encoder = model.encoder
    times = config.grid[0]
    if isinstance(encoder, FactorisedEncoder):  # one time at a time
        encoder = encoder.spatial
        times = 1
    token = image_model.positions.table[:, : config.has_token]  # 1 1 d, or none
    places = image_model.positions.table[:, image_model.config.has_token :]  # 1 h*w d
    encoder.positions.copy_(torch.cat([token, places.repeat(1, times, 1)], dim=1))
    if encoder.cls_token is not None and image_model.cls_token is not None:
        encoder.cls_token.copy_(image_model.cls_token)

    for block, source in zip(encoder.blocks, image_model.blocks, strict=True):
        block.norm1.load_state_dict(source.norm1.state_dict())
        block.attention.load_state_dict(source.attention.state_dict())
        block.norm2.load_state_dict(source.norm2.state_dict())
        block.mlp.load_state_dict(source.mlp.state_dict())
        if config.model == 3:
            block.norm_time.load_state_dict(source.norm1.state_dict())
            block.attention_time.load_state_dict(source.attention.state_dict())
            for parameter in block.attention_time.out.parameters():
                nn.init.zeros_(parameter)
    encoder.norm.load_state_dict(image_model.norm.state_dict())


def require_fit(model: ViViT, image_model: ViT) -> None:
    """Raise ValueError unless `model` can start from `image_model`."""
    ours = model.config
    theirs = image_model.config
    # Not the config's patch: a hybrid cuts patches from its feature map.
    kernel = tuple(image_model.patch_embed.weight.shape[1:])
    fits = (
        kernel == (ours.channels, *ours.tubelet[1:])
        and theirs.grid == ours.grid[1:]
        and theirs.positions == "1d"
        and (theirs.has_token or not ours.has_token)
        and theirs.width == ours.width
        and theirs.depth == ours.depth
        and theirs.heads == ours.heads
        and theirs.mlp == ours.mlp
    )
    if not fits:
        raise ValueError(
            f"expected an image model with 1-D positions that fits {ours}, got {theirs}"
        )


# ---------------------------------------------------------------- 4.1 many views


def multi_view(
    model: Callable,
    video: Float[Tensor, "b t c h w"],
    frames: int,
    size: int,
    views: int = 4,
    crops: int = 3,
) -> Float[Tensor, "b classes"]:
    """Average a model's logits over `views` windows of `frames` frames times `crops` squares.

    The squares have `size` pixels on a side.  Windows and squares are evenly spaced from end to
    end, rounded down; a single one is in the middle.  Squares move along the longer side and are
    centred on the other.  Raises ValueError when the clip is too short or too small.
    """
    t, _, h, w = video.shape[1:]
    if t < frames or min(h, w) < size:
        raise ValueError(
            f"expected at least {frames} frames of {size} x {size} pixels, got {t} of {h} x {w}"
        )
    if h > w:
        tops = evenly_spaced(h - size, crops)
        lefts = [(w - size) // 2] * crops
    else:
        tops = [(h - size) // 2] * crops
        lefts = evenly_spaced(w - size, crops)

    logits = []
    for start in evenly_spaced(t - frames, views):
        window = video[:, start : start + frames]  # b frames c h w
        for top, left in zip(tops, lefts, strict=True):
            logits.append(model(window[..., top : top + size, left : left + size]))  # b classes
    return torch.stack(logits).mean(0)


def evenly_spaced(last: int, count: int) -> list[int]:
    """Return `count` integers from 0 to `last`, rounded down; a single one is in the middle."""
    if count == 1:
        return [last // 2]
    return [i * last // (count - 1) for i in range(count)]


# ---------------------------------------------------------------- Table 2: size and cost


def count_parameters(config: ViViTConfig) -> int:
    """Count weights and biases in closed form."""
    t, h, w = config.grid
    n = h * w
    d = config.width

    sequences = [(t * n, config.depth)]  # of each encoder: its tokens, its layers
    if config.model == 2:
        sequences = [(n, config.depth)]
        if config.temporal_depth:
            sequences.append((t, config.temporal_depth))
    encoders = 0
    for tokens, depth in sequences:
        class_token = d if config.has_token else 0
        positions = (tokens + config.has_token) * d
        encoders += class_token + positions + encoder_parameters(d, config.mlp, depth)

    tubelets = config.channels * math.prod(config.tubelet) * d + d
    over_time = config.depth * (4 * (d * d + d) + 2 * d) if config.model == 3 else 0
    head = d * config.num_classes + config.num_classes
    return tubelets + encoders + over_time + head


def count_macs(config: ViViTConfig) -> int:
    """Count the multiply-adds of one clip's forward pass, of matrix products only.

    The paper's "FLOPs" are these.
    """
    t, h, w = config.grid
    n = h * w
    d = config.width
    mlp = config.mlp
    token = int(config.has_token)

    if config.model == 1:
        tokens = t * n + token
        encoder = encoder_macs(tokens, tokens, d, mlp, config.depth)
    elif config.model == 2:
        encoder = encoder_macs(t * (n + token), n + token, d, mlp, config.depth)
        encoder += encoder_macs(t + token, t + token, d, mlp, config.temporal_depth)
    elif config.model == 3:
        encoder = encoder_macs(t * n, n + t, d, mlp, config.depth)
        encoder += config.depth * t * n * 4 * d * d  # the four projections of attention over time
    else:  # half of the heads look over space, half over time
        encoder = encoder_macs(t * n, (n + t) / 2, d, mlp, config.depth)

    tubelets = config.frames * math.prod(config.size) * config.channels * d
    return tubelets + encoder + d * config.num_classes
