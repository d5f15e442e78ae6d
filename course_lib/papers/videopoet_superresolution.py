"""VideoPoet's super-resolution: from the tokens of a clip to those of one twice as large.

Kondratyuk et al., 2023, arXiv 2312.14125, sections 3.3 and A.5.2.  An autoregressive model would
take 35,840 steps for a clip of 896 x 512 pixels.  This transformer fills in masked tokens, many at
a time, and of those it has not yet seen it is told by the tokens of the small clip.  Attention
among all 35,840 would be too much as well: each layer attends within windows, along the columns of
a frame, along its rows, or over time, in turn.

Reading order: the configurations; windows; the transformer; what it is trained on, a disturbed
small clip among it; guidance by two conditions, and drawing.  Tokens are those of MAGVIT-v2's
tokenizer, in two factors (`course_lib.papers.magvit2`), masked and decoded as in MAGVIT
(`course_lib.papers.magvit`, `course_lib.lm.maskgit`).  They are a grid (b t h w); the small clip
has as many times, and half the rows and columns.

Differs from the paper:
- Layers and widths are not published, only that the two models have 1B and 500M parameters.  Those
  of the presets are our choice, and so come to these sizes.

What the text leaves open, and what is done here:
- How a layer is built: norms before the branches, a learned vector for every time, row and column,
  no dropout.  "All blocks include cross-attention to T5 XL": one at the beginning of each block of
  three layers.  Which T5 XL: that of version 1.1, whose vectors have 2048 numbers.
- How the small clip's tokens are read: as vectors of the same table, with places of their own.
- What stands for a condition that is dropped: for the small clip a token of its own at every place;
  for the text a learned vector, which is in front of every text.
- How many tokens of the small clip are drawn anew: a share of them that is itself drawn for every
  clip, and not told to the model.
- Which tokens the loss counts: those that are masked.  "The objective of MAGVIT" has others only
  where a part of the clip itself is given.
- What a guidance scale of 1 is: InstructPix2Pix's, that is, no guidance.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.lm.maskgit import parallel_decode
from course_lib.nn.transformer import initialize, truncated_normal_
from course_lib.papers.magvit import masked_loss
from course_lib.papers.magvit2 import FactorizedTokens, factor_losses
from course_lib.shapes import Bool, Float, Int, PerSample, Shaped, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class SuperResolutionConfig:
    """The transformer.  Defaults: the first stage, to 17 x 448 x 256 pixels (A.5.2)."""

    grid: tuple[int, int, int] = (5, 56, 32)  # times, rows and columns of the large clip's tokens
    # The sides of the windows of a block's three layers: vertical, horizontal, temporal.
    windows: tuple[tuple[int, int, int], ...] = ((1, 56, 4), (1, 8, 32), (5, 8, 8))
    bits: int = 18  # of a token
    factors: int = 2
    width: int = 1280  # ours, as are the next three
    blocks: int = 12  # of three layers
    heads: int = 20
    mlp: int = 5120
    text_width: int = 2048  # numbers of a text vector: T5 v1.1 XL

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width {self.width}, got {self.heads}")
        if self.bits % self.factors:
            raise ValueError(f"factors: expected a divisor of {self.bits} bits, got {self.factors}")
        for window in self.windows:
            window_counts(self.grid, window)
            window_counts(self.low_grid, halved(window))

    @property
    def low_grid(self) -> tuple[int, int, int]:
        """Times, rows and columns of the small clip's tokens."""
        return halved(self.grid)

    @property
    def factor_bits(self) -> tuple[int, ...]:
        """Bits of each factor of a code, the lowest bits first."""
        return (self.bits // self.factors,) * self.factors

    @property
    def mask_token(self) -> int:
        """The token that stands where one is to be found."""
        return 2**self.bits

    @property
    def no_token(self) -> int:
        """The token that stands for the small clip's where it is not shown."""
        return 2**self.bits + 1


def halved(sides: Sequence[int]) -> tuple[int, int, int]:
    """Return as many times, and half the rows and columns.  Raises ValueError for odd ones."""
    t, h, w = sides
    if h % 2 or w % 2:
        raise ValueError(f"expected even numbers of rows and columns, got {tuple(sides)}")
    return t, h // 2, w // 2


def window_counts(grid: Sequence[int], window: Sequence[int]) -> tuple[int, ...]:
    """Return how many windows a grid has along each axis.

    Raises ValueError unless their sides are positive and divide the grid's.
    """
    fits = len(window) == len(grid) and min(window) >= 1
    if not fits or any(n % side for n, side in zip(grid, window, strict=True)):
        raise ValueError(f"expected windows whose sides divide {tuple(grid)}, got {tuple(window)}")
    return tuple(n // side for n, side in zip(grid, window, strict=True))


SUPERRESOLUTION_CONFIGS = {
    "superresolution-1B": SuperResolutionConfig(),
    "superresolution-500M": SuperResolutionConfig(  # to 17 x 896 x 512 pixels
        grid=(5, 112, 64), windows=((1, 112, 2), (1, 4, 64), (5, 8, 8)), blocks=6
    ),
    "superresolution-tiny": SuperResolutionConfig(  # from 17 x 16 x 16 pixels to 17 x 32 x 32
        grid=(5, 8, 8),
        windows=((1, 8, 4), (1, 4, 8), (5, 4, 4)),
        bits=10,
        width=128,
        blocks=2,
        heads=4,
        mlp=512,
        text_width=64,
    ),
}


# ---------------------------------------------------------------- 3.3 windows


def windows(x: Shaped[Tensor, "b t h w d"], window: Sequence[int]) -> Shaped[Tensor, "m n d"]:
    """Cut a grid of vectors into windows of (times, rows, columns): a batch of short sequences.

    Windows are in reading order, and so are the n vectors within each; m counts those of the whole
    batch.  Raises ValueError unless the sides divide the grid's.
    """
    window_counts(x.shape[1:4], window)
    t, h, w = window
    return rearrange(x, "b (nt t) (nh h) (nw w) d -> (b nt nh nw) (t h w) d", t=t, h=h, w=w)


def merge_windows(
    parts: Shaped[Tensor, "m n d"], window: Sequence[int], grid: Sequence[int]
) -> Shaped[Tensor, "b t h w d"]:
    """Put windows back into their grid of (times, rows, columns): the inverse of `windows`.

    Raises ValueError unless the sides divide the grid's, and for other numbers of windows or of
    vectors than these have.
    """
    nt, nh, nw = window_counts(grid, window)
    t, h, w = window
    if parts.shape[0] % (nt * nh * nw) or parts.shape[1] != t * h * w:
        raise ValueError(
            f"expected a multiple of {nt * nh * nw} windows of {t * h * w} vectors, got"
            f" {tuple(parts.shape)}"
        )
    return rearrange(
        parts,
        "(b nt nh nw) (t h w) d -> b (nt t) (nh h) (nw w) d",
        nt=nt,
        nh=nh,
        nw=nw,
        t=t,
        h=h,
        w=w,
    )


# ---------------------------------------------------------------- 3.3 the transformer


class SuperResolution(nn.Module):
    """The tokens of a large clip, some of them masked, to logits of each of them.

    It is shown the tokens of the small clip, and a text.
    """

    def __init__(self, config: SuperResolutionConfig):
        super().__init__()
        self.config = config
        self.tokens = FactorizedTokens(config.width, config.factor_bits, others=2)
        self.places = Places(config.grid, config.width)
        self.low_places = Places(config.low_grid, config.width)
        self.low_norm = nn.LayerNorm(config.width)
        self.text = nn.Linear(config.text_width, config.width)
        self.no_text = nn.Parameter(torch.empty(config.width))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.blocks))
        self.norm = nn.LayerNorm(config.width)

        initialize(self)
        truncated_normal_(self.no_text)

    def forward(
        self,
        shown: Int[Tensor, "b t h w"],
        low: Int[Tensor, "b t h2 w2"],
        text: Float[Tensor, "b m e"],
        is_text: Bool[Tensor, "b m"],
    ) -> list[Float[Tensor, "b n _"]]:
        """Return the logits of the factors at every place, for `lm.maskgit.parallel_decode`.

        low: the small clip's tokens; is_text: False where a text is only padded.  Raises ValueError
        for other grids than the configuration's.
        """
        check_grid("shown", shown, self.config.grid)
        check_grid("low", low, self.config.low_grid)
        x = self.places(self.embed(shown))  # b t h w d
        low = self.low_norm(self.low_places(self.embed(low)))  # b t h2 w2 d
        text, is_text = self.read(text, is_text)  # b 1+m d, b 1+m
        for block in self.blocks:
            x = block(x, low, text, is_text)  # b t h w d
        return self.tokens.logits(self.norm(rearrange(x, "b t h w d -> b (t h w) d")))

    def embed(self, tokens: Int[Tensor, "b t h w"]) -> Float[Tensor, "b t h w d"]:
        """Return the vectors of a grid of tokens."""
        _, t, h, w = tokens.shape
        x = self.tokens(tokens.flatten(1))  # b n d
        return rearrange(x, "b (t h w) d -> b t h w d", t=t, h=h, w=w)

    def read(
        self, text: Float[Tensor, "b m e"], is_text: Bool[Tensor, "b m"]
    ) -> tuple[Float[Tensor, "b m2 d"], Bool[Tensor, "b m2"]]:
        """Return the text's vectors and which of them are seen, after the one that always is."""
        first = self.no_text.expand(len(text), 1, -1)  # b 1 d
        return torch.cat([first, self.text(text)], dim=1), F.pad(is_text, (1, 0), value=True)


def check_grid(name: str, tokens: Int[Tensor, "b t h w"], grid: tuple[int, int, int]) -> None:
    """Raise ValueError for tokens that are not on this grid."""
    if tuple(tokens.shape[1:]) != grid:
        raise ValueError(f"{name}: expected a grid {grid}, got {tuple(tokens.shape[1:])}")


class Places(nn.Module):
    """A learned vector for each time, each row and each column, added to what is there."""

    def __init__(self, grid: tuple[int, int, int], width: int):
        super().__init__()
        self.axes = nn.ParameterList(torch.empty(n, width) for n in grid)
        for axis in self.axes:
            truncated_normal_(axis)

    def forward(self, x: Float[Tensor, "b t h w d"]) -> Float[Tensor, "b t h w d"]:
        times, rows, columns = self.axes
        return x + times[:, None, None] + rows[:, None] + columns


class Block(nn.Module):
    """Attention to the text, then a layer for each of the three directions."""

    def __init__(self, config: SuperResolutionConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.text_attention = Attention(config.width, config.heads)
        self.layers = nn.ModuleList(Layer(config, window) for window in config.windows)

    def forward(
        self,
        x: Float[Tensor, "b t h w d"],
        low: Float[Tensor, "b t h2 w2 d"],
        text: Float[Tensor, "b m d"],
        is_text: Bool[Tensor, "b m"],
    ) -> Float[Tensor, "b t h w d"]:
        flat = self.norm(rearrange(x, "b t h w d -> b (t h w) d"))
        x = x + self.text_attention(flat, text, is_text).view_as(x)  # b t h w d
        for layer in self.layers:
            x = layer(x, low)
        return x


class Layer(nn.Module):
    """Attention within a window, attention to the same window of the small clip, an MLP.

    Each comes after a norm and around the identity.
    """

    def __init__(self, config: SuperResolutionConfig, window: tuple[int, int, int]):
        super().__init__()
        self.window = window
        self.low_window = halved(window)
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.attention = Attention(config.width, config.heads)
        self.low_attention = Attention(config.width, config.heads)
        self.mlp1 = nn.Linear(config.width, config.mlp)
        self.mlp2 = nn.Linear(config.mlp, config.width)

    def forward(
        self, x: Float[Tensor, "b t h w d"], low: Float[Tensor, "b t h2 w2 d"]
    ) -> Float[Tensor, "b t h w d"]:
        grid = x.shape[1:4]
        x = windows(x, self.window)  # m n d
        low = windows(low, self.low_window)  # m n/4 d

        h = self.norms[0](x)
        x = x + self.attention(h, h)
        x = x + self.low_attention(self.norms[1](x), low)
        h = F.gelu(self.mlp1(self.norms[2](x)), approximate="tanh")  # m n mlp
        x = x + self.mlp2(h)
        return merge_windows(x, self.window, grid)  # b t h w d


class Attention(nn.Module):
    """Attention of several heads: queries from one sequence, keys and values from another."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(width, width)
        self.kv = nn.Linear(width, 2 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self,
        x: Float[Tensor, "b n d"],
        seen: Float[Tensor, "b m d"],
        is_seen: Bool[Tensor, "b m"] | None = None,
    ) -> Float[Tensor, "b n d"]:
        q = rearrange(self.q(x), "b n (heads d) -> b heads n d", heads=self.heads)
        k, v = rearrange(
            self.kv(seen), "b m (two heads d) -> two b heads m d", two=2, heads=self.heads
        )
        mask = None if is_seen is None else is_seen[:, None, None]  # b 1 1 m
        h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # b heads n d
        return self.out(rearrange(h, "b heads n d -> b n (heads d)"))


# ---------------------------------------------------------------- 3.3 training


def shrink(clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h2 w2"]:
    """Halve rows and columns of a clip in [-1, 1], bicubic: its small clip.

    Raises ValueError for odd ones.
    """
    _, h, w = halved(clip.shape[2:])
    frames = rearrange(clip, "b c t h w -> (b t) c h w")
    small = F.interpolate(frames, (h, w), mode="bicubic", antialias=True).clamp(-1, 1)
    return rearrange(small, "(b t) c h w -> b c t h w", b=len(clip))


def resample(
    low: Int[Tensor, "b *grid"],
    others: Int[Tensor, "b *grid"],
    share: PerSample,
    uniform: Float[Tensor, "b *grid"],
) -> Int[Tensor, "b *grid"]:
    """Disturb the small clip's tokens: each is replaced with the probability `share` of its clip.

    others: the tokens that replace them, drawn from all codes; uniform: in [0, 1), the numbers that
    decide.  So a model learns not to trust them blindly, when they come from another model.
    """
    is_replaced = uniform < share.view(-1, *[1] * (low.ndim - 1))  # b *grid
    return torch.where(is_replaced, others, low)


def masked_token_loss(
    model: SuperResolution,
    codes: Int[Tensor, "b t h w"],
    masked: Bool[Tensor, "b t h w"],
    low: Int[Tensor, "b t h2 w2"],
    text: Float[Tensor, "b m e"],
    is_text: Bool[Tensor, "b m"],
) -> Float[Tensor, ""]:
    """Return the mean of -ln p over each clip's masked tokens, and over clips, in nats.

    Conditions are dropped by the caller, each in 10 % of the clips: see `without`.
    """
    shown = codes.masked_fill(masked, model.config.mask_token)
    logits = model(shown, low, text, is_text)  # b n _, for each factor
    losses = factor_losses(logits, codes.flatten(1), smoothing=1e-4)  # b n
    return masked_loss(losses, masked.flatten(1))


def without(
    config: SuperResolutionConfig,
    low: Int[Tensor, "b t h2 w2"],
    is_text: Bool[Tensor, "b m"],
    drops_low: Bool[Tensor, " b"],
    drops_text: Bool[Tensor, " b"],
) -> tuple[Int[Tensor, "b t h2 w2"], Bool[Tensor, "b m"]]:
    """Drop the small clip, or the text, of some clips: return what the model is shown then."""
    low = low.masked_fill(drops_low[:, None, None, None], config.no_token)
    return low, is_text & ~drops_text[:, None]


# ---------------------------------------------------------------- A.5.2 drawing


def guidance_weights(
    text_scale: int | float, low_scale: int | float
) -> tuple[int | float, int | float, int | float]:
    """Return the weights of logits that saw both conditions, the small clip alone, and nothing.

    InstructPix2Pix (arXiv 2211.09800), Eq. 3, sorted by logits l:
    l() + low_scale (l(low) - l()) + text_scale (l(low, text) - l(low)).  They sum to 1.
    """
    return text_scale, low_scale - text_scale, 1 - low_scale


def guided_logits(
    model: SuperResolution,
    shown: Int[Tensor, "b t h w"],
    low: Int[Tensor, "b t h2 w2"],
    text: Float[Tensor, "b m e"],
    is_text: Bool[Tensor, "b m"],
    text_scale: int | float = 4.0,
    low_scale: int | float = 1.0,
) -> list[Float[Tensor, "b n _"]]:
    """Return each factor's logits under both guidances.

    Where a weight is 0 the model is not run: the first stage's scales need two runs, not three.
    """
    none = torch.zeros(len(low), dtype=torch.bool, device=low.device)  # b
    conditions = [(none, none), (none, ~none), (~none, ~none)]  # what is dropped
    runs = []
    weights = guidance_weights(text_scale, low_scale)
    for weight, dropped in zip(weights, conditions, strict=True):
        if weight:
            seen_low, seen_text = without(model.config, low, is_text, *dropped)
            logits = model(shown, seen_low, text, seen_text)
            runs.append([weight * each for each in logits])
    return [torch.stack(parts).sum(0) for parts in zip(*runs, strict=True)]


@torch.no_grad()
def super_resolve(
    model: SuperResolution,
    low: Int[Tensor, "b t h2 w2"],
    text: Float[Tensor, "b m e"],
    is_text: Bool[Tensor, "b m"],
    steps: int = 24,
    text_scale: int | float = 4.0,
    low_scale: int | float = 1.0,
    **options,
) -> Int[Tensor, "b t h w"]:
    """Draw the tokens of the large clip, with the model in evaluation mode.

    The scales are the first stage's; the second, which takes what the first returns, has 8 and 2.
    The options are those of `parallel_decode`.
    """
    t, h, w = model.config.grid
    canvas = torch.full((len(low), math.prod(model.config.grid)), model.config.mask_token)
    canvas = canvas.to(low.device)  # b n

    def predict(tokens: Int[Tensor, "b n"]) -> list[Float[Tensor, "b n _"]]:
        shown = rearrange(tokens, "b (t h w) -> b t h w", t=t, h=h, w=w)
        return guided_logits(model, shown, low, text, is_text, text_scale, low_scale)

    unknown = torch.ones_like(canvas, dtype=torch.bool)
    tokens = parallel_decode(predict, canvas, unknown, steps, **options).tokens[-1]  # b n
    return rearrange(tokens, "b (t h w) -> b t h w", t=t, h=h, w=w)
