"""CogVideoX: Text-to-Video Diffusion Models with An Expert Transformer.

Yang et al., 2024, arXiv 2408.06072; its predecessor is CogVideo, arXiv 2205.15868.  Unlike Stable
Diffusion 3's blocks (arXiv 2403.03206), these share all weights but the experts between the kinds.

Reading order: the configurations; the expert transformer from the outside in (section 2.2), which
reads a text and the patches of a clip's latents as one sequence; who sees whom in it; patches and
positions.  How it is trained and sampled is `course_lib.papers.cogvideox_diffusion`, the rotation
of queries and keys `course_lib.nn.rope`, clips of several durations in one batch (section 3.1)
`course_lib.nn.frame_pack`, the autoencoder whose latents these are
`course_lib.papers.cogvideox_vae`.

Differs from the paper, following the official code: a text's padding is attended to.  The smallest
model has 30 heads of 64 numbers (Table 6 prints 32, which do not share its width).
Differs from the official code: there is no packing of clips there.  A learned table of positions
refuses clips of another size, to which diffusers adds sines and cosines instead.
diffusers has another epsilon in most norms: `CogVideoXConfig.norm_eps`.
"""

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.diffusion.schedules import scaled_linear_betas, zero_terminal_snr
from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.frame_pack import Pack, pack_mask
from course_lib.nn.rope import rope_angles, rope_angles_3d, rotate
from course_lib.shapes import Bool, Float, Int, Shaped, Table, Tensor

QK_NORM_EPS = 1e-6  # of queries and keys, normalized as in ViT-22B (arXiv 2302.05442)
OFFSET = 2.0  # what CogVideoX 1.5 is told beside the time when it continues an image; always this

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class CogVideoXConfig:
    """The transformer's shape and its noise schedule.  Defaults: CogVideoX-5B."""

    in_channels: int = 16  # of the latents, and of those of an image to continue
    out_channels: int = 16
    patch: int = 2  # rows and columns of latents
    temporal_patch: int = 1  # latent frames
    depth: int = 42  # layers
    heads: int = 48
    head_width: int = 64
    text_width: int = 4096  # of T5's tokens
    text_length: int = 226  # tokens of a text, with its padding
    time_width: int = 512
    positions: Literal["rope", "sincos"] = "rope"
    learned_positions: bool = False  # a table that is added as well; it fits one size of clips
    attention: Literal["full", "factorised"] = "full"  # between all tokens, or space and time apart
    experts: bool = True  # text and video are each modulated on their own
    offset: bool = False  # whether the network is told `OFFSET`
    latent: tuple[int, int, int] = (13, 60, 90)  # frames, rows, columns that it was trained on
    # Sizes other than the trained one: stretch its places over them, as diffusers does.  The paper
    # counts on instead, and so does CogVideoX 1.5.
    interpolate: bool = False
    spatial_scale: float = 1.875  # of rows and columns, before their sines and cosines
    norm_eps: float = 1e-6  # 1e-5 in diffusers
    snr_shift: float = 1.0  # how many times lower the signal-to-noise ratio is than in the schedule
    timesteps: int = 1000
    betas: tuple[float, float] = (0.00085, 0.012)  # the first and the last

    def __post_init__(self):
        for name, options in (
            ("positions", ("rope", "sincos")),
            ("attention", ("full", "factorised")),
        ):
            if getattr(self, name) not in options:
                expected = " or ".join(map(repr, options))
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)!r}")
        if self.head_width % 16:
            raise ValueError(f"head_width: expected a multiple of 16, got {self.head_width}")
        self.grid(*self.latent)

    @property
    def width(self) -> int:
        """Width of a token."""
        return self.heads * self.head_width

    def grid(self, frames: int, rows: int, columns: int) -> tuple[int, int, int]:
        """Return how many patches latents give over time, down and across.  Raises ValueError."""
        if frames % self.temporal_patch or rows % self.patch or columns % self.patch:
            raise ValueError(
                f"latents: expected frames, rows and columns that patches of {self.temporal_patch}"
                f" x {self.patch} x {self.patch} divide, got {frames} x {rows} x {columns}"
            )
        return frames // self.temporal_patch, rows // self.patch, columns // self.patch

    @property
    def alphas_cumprod(self) -> Table:
        """Section 3: latent diffusion's schedule, shifted, with nothing but noise at its end."""
        alphas_cumprod = (1 - scaled_linear_betas(self.timesteps, *self.betas)).cumprod(0)
        return zero_terminal_snr(alphas_cumprod, self.snr_shift)


_5B = CogVideoXConfig()
# CogVideoX 1.5 was trained on 81 frames, which are 21 latent ones and one to fill up a patch.
_1_5_5B = replace(_5B, temporal_patch=2, text_length=224, latent=(22, 96, 170))
COGVIDEOX_CONFIGS = {
    "2B": CogVideoXConfig(depth=30, heads=30, positions="sincos", snr_shift=3.0),
    "5B": _5B,
    "5B-I2V": replace(_5B, in_channels=32, learned_positions=True),
    "1.5-5B": _1_5_5B,
    "1.5-5B-I2V": replace(_1_5_5B, in_channels=32, offset=True),
    "tiny": CogVideoXConfig(
        in_channels=4,
        out_channels=4,
        depth=6,
        heads=2,
        text_width=64,
        text_length=27,
        time_width=64,
        latent=(5, 8, 8),
        spatial_scale=1.0,
    ),
}
COGVIDEOX_CONFIGS["tiny-I2V"] = replace(COGVIDEOX_CONFIGS["tiny"], in_channels=8)


# ---------------------------------------------------------------- 2.2 the transformer


class View(NamedTuple):
    """Which tokens see each other in a layer, and whose time each has."""

    mask: Bool[Tensor, "..."] | None = None  # None: all see all
    text_clip: Int[Tensor, "b m"] | None = None  # the clip of its row that a token is of
    video_clip: Int[Tensor, "b n"] | None = None  # None: there is one


ALL_SEE_ALL = View()
Words = Float[Tensor, "b m d"]  # the tokens of texts
Patches = Float[Tensor, "b n d"]  # and of clips


class Transformer(nn.Module):
    """v(x_t, t, text): the velocity (`v_target`) of noisy latents, given a text's tokens."""

    def __init__(self, config: CogVideoXConfig):
        super().__init__()
        self.config = config
        d, d_time = config.width, config.time_width
        values = config.temporal_patch * config.patch**2
        self.patch_embed = nn.Linear(config.in_channels * values, d)
        self.text_embed = nn.Linear(config.text_width, d)
        self.time_embed = nn.Sequential(nn.Linear(d, d_time), nn.SiLU(), nn.Linear(d_time, d_time))
        self.offset_embed: nn.Sequential | None = None
        if config.offset:
            self.offset_embed = nn.Sequential(
                nn.Linear(d_time, d_time), nn.SiLU(), nn.Linear(d_time, d_time)
            )
        self.positions: nn.Parameter | None = None
        if config.learned_positions:
            t, h, w = config.grid(*config.latent)
            self.positions = nn.Parameter(torch.zeros(1, config.text_length + t * h * w, d))
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(d, config.norm_eps)
        self.head = Head(config)
        initialize(self)

    def forward(
        self,
        x: Float[Tensor, "b t c h w"],
        t: Shaped[Tensor, "b *k"],
        text: Float[Tensor, "b *k m d"],
        pack: Pack | None = None,
    ) -> Float[Tensor, "b t c_out h w"]:
        """Return v in noisy latents x at the steps t.

        With a pack, rows hold k clips one after the other, each with its step and its text.  Raises
        ValueError for other shapes than the config's.
        """
        grid = self.validate(x, t, text, pack)
        pack = None if pack is None else pack.to(x.device)
        time = self.embed_time(t.reshape(len(x), -1), x.dtype)  # b k d_time
        texts = rearrange(self.text_embed(text), "b ... m d -> b (... m) d")
        video = self.patch_embed(patchify(x, self.config.patch, self.config.temporal_patch))
        texts, video, angles = self.embed_positions(texts, video, grid, pack)  # b m d, b n d
        layers = views(grid, texts.shape[1], pack, self.config.attention, x.device)
        for i, block in enumerate(self.blocks):
            texts, video = block(texts, video, time, angles, layers[i % 2])  # b m d, b n d

        time = spread(time, layers[0].video_clip)  # b _ d_time
        tokens = self.head(self.norm(video), time)  # b n c*patch
        return unpatchify(tokens, grid, self.config.patch, self.config.temporal_patch)

    def validate(self, x: Tensor, t: Tensor, text: Tensor, pack: Pack | None) -> tuple:
        """Return the grid of patches.  Raises ValueError for inputs that do not fit the config."""
        config = self.config
        grid = config.grid(x.shape[1], *x.shape[3:])
        if x.shape[2] != config.in_channels:
            raise ValueError(f"x: expected {config.in_channels} channels, got {x.shape[2]}")
        rows = (len(x),) if pack is None else tuple(pack.numbers.shape)
        if tuple(t.shape) != rows or tuple(text.shape[:-2]) != rows:
            raise ValueError(
                f"t and text: expected one for each of {rows} clips, got {tuple(t.shape)} and"
                f" {tuple(text.shape[:-2])}"
            )
        if text.shape[-1] != config.text_width:
            raise ValueError(f"text: expected width {config.text_width}, got {text.shape[-1]}")
        if pack is not None and (config.temporal_patch > 1 or config.learned_positions):
            raise ValueError("pack: expected none for patches of frames or learned positions")
        if config.learned_positions and (
            grid != config.grid(*config.latent) or text.shape[-2] != config.text_length
        ):
            raise ValueError(
                f"positions: expected latents of {config.latent} and {config.text_length} tokens of"
                f" text, got {(x.shape[1], *x.shape[3:])} and {text.shape[-2]}"
            )
        return grid

    def embed_time(
        self, t: Shaped[Tensor, "b k"], dtype: torch.dtype
    ) -> Float[Tensor, "b k d_time"]:
        """Return the vector that modulates every layer."""
        features = timestep_embedding(t.flatten(), self.config.width).to(dtype)
        time = self.time_embed(features.unflatten(0, t.shape))  # b k d_time
        if self.offset_embed is not None:
            offset = torch.full((1,), OFFSET, device=t.device)
            features = timestep_embedding(offset, self.config.time_width).to(dtype)
            time = time + self.offset_embed(features)  # b k d_time
        return F.silu(time)

    def embed_positions(
        self,
        texts: Words,
        video: Patches,
        grid: tuple[int, int, int],
        pack: Pack | None,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Tell patches where they are: in their vectors, or by the angles that are returned.

        A text's tokens have the angle zero.
        """
        config = self.config
        m = texts.shape[1]
        trained = config.grid(*config.latent) if config.interpolate else None
        places = coordinates(grid, trained).to(video.device)  # n 3
        if pack is not None:
            time = repeat(pack.place, "b t -> b (t hw)", hw=grid[1] * grid[2])
            places = torch.cat([time[..., None], places[:, 1:].expand(len(time), -1, -1)], dim=-1)
        if self.positions is not None:
            texts = texts + self.positions[:, :m]
            video = video + self.positions[:, m:]
        if config.positions == "sincos":
            return texts, video + sincos(places, config.width, config.spatial_scale).to(video), None
        return texts, video, F.pad(rope_angles_3d(places, config.head_width), (0, 0, m, 0))


class Block(nn.Module):
    """Attention, then an MLP, of text and video together; each of the two has its own experts."""

    def __init__(self, config: CogVideoXConfig):
        super().__init__()
        d = config.width
        self.norm1 = nn.LayerNorm(d, config.norm_eps)
        self.experts1 = Experts(config)
        self.attention = Attention(config)
        self.norm2 = nn.LayerNorm(d, config.norm_eps)
        self.experts2 = Experts(config)
        self.mlp = nn.Sequential(
            nn.Linear(d, 4 * d), nn.GELU(approximate="tanh"), nn.Linear(4 * d, d)
        )

    def forward(
        self,
        text: Words,
        video: Patches,
        time: Float[Tensor, "b k d_time"],
        angles: Float[Tensor, "*b mn half"] | None,
        view: View = ALL_SEE_ALL,
    ) -> tuple[Words, Patches]:
        return expert_block(text, video, time, angles, self, view)


def expert_block(
    text: Words,
    video: Patches,
    time: Float[Tensor, "b k d_time"],
    angles: Float[Tensor, "*b mn half"] | None,
    layers: "Block",
    view: View = ALL_SEE_ALL,
) -> tuple[Words, Patches]:
    """Section 2.2: let text and video see each other, then let an MLP work on every token.

    Each time the two are normalized, modulated by their experts, and what comes of it is gated and
    added.
    """
    normed = layers.norm1(text), layers.norm1(video)  # b m d, b n d
    words, patches, *gates = expert_adaln(*normed, *layers.experts1(time, view))
    words, patches = joint_attention(words, patches, angles, layers.attention, view.mask)
    text = torch.addcmul(text, gates[0], words)  # b m d
    video = torch.addcmul(video, gates[1], patches)  # b n d

    normed = layers.norm2(text), layers.norm2(video)  # b m d, b n d
    words, patches, *gates = expert_adaln(*normed, *layers.experts2(time, view))
    text = torch.addcmul(text, gates[0], layers.mlp(words))  # b m d
    video = torch.addcmul(video, gates[1], layers.mlp(patches))  # b n d
    return text, video


class Experts(nn.Linear):
    """The time to shift, scale and gate: those of video, then those of text, or one for both."""

    def __init__(self, config: CogVideoXConfig):
        super().__init__(config.time_width, (6 if config.experts else 3) * config.width)
        self.each = 3 * config.width

    def forward(  # type: ignore[override]
        self, time: Float[Tensor, "b k d_time"], view: View = ALL_SEE_ALL
    ) -> tuple[Float[Tensor, "b _ three_d"], Float[Tensor, "b _ three_d"]]:
        vectors = super().forward(time)  # b k 6*d
        video, text = vectors[..., : self.each], vectors[..., -self.each :]  # b k 3*d
        return spread(text, view.text_clip), spread(video, view.video_clip)


def expert_adaln(
    text: Words,
    video: Patches,
    text_expert: Float[Tensor, "b _ three_d"],
    video_expert: Float[Tensor, "b _ three_d"],
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Section 2.2, expert adaptive LayerNorm: scale and shift text and video each in its own way.

    Both come normalized.  An expert is shift, scale and gate in turn, for all of a row's tokens
    (b 1 3*d) or for each; a scale of 0 changes nothing.  Returns text and video, and the two gates
    by which what the layer makes of them is multiplied.
    """
    text_shift, text_scale, text_gate = text_expert.chunk(3, dim=-1)
    video_shift, video_scale, video_gate = video_expert.chunk(3, dim=-1)
    text = text * (1 + text_scale) + text_shift
    video = video * (1 + video_scale) + video_shift
    return text, video, text_gate, video_gate


class Attention(nn.Module):
    """The layers of `joint_attention`."""

    def __init__(self, config: CogVideoXConfig):
        super().__init__()
        self.heads = config.heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.norm_query = nn.LayerNorm(config.head_width, QK_NORM_EPS)
        self.norm_key = nn.LayerNorm(config.head_width, QK_NORM_EPS)
        self.out = nn.Linear(config.width, config.width)


def joint_attention(
    text: Words,
    video: Patches,
    angles: Float[Tensor, "*b mn half"] | None,
    layers: Attention,
    mask: Bool[Tensor, "..."] | None = None,
) -> tuple[Words, Patches]:
    """Multi-head attention of one sequence, of a text's tokens and then a clip's.

    Every head's queries and keys are normalized, and turned by their tokens' angles.  mask: True
    where a token (row) sees another (column); None: all see all.
    """
    x = torch.cat([text, video], dim=1)  # b m+n d
    q, k, v = (
        rearrange(layer(x), "b n (heads d) -> b n heads d", heads=layers.heads)
        for layer in (layers.query, layers.key, layers.value)
    )
    q, k = layers.norm_query(q), layers.norm_key(k)  # b m+n heads d
    if angles is not None:
        q, k = rotate(q, angles), rotate(k, angles)  # b m+n heads d
    q, k, v = (rearrange(h, "b n heads d -> b heads n d") for h in (q, k, v))
    h = F.scaled_dot_product_attention(q, k, v, attn_mask=mask)  # b heads m+n d
    h = layers.out(rearrange(h, "b heads n d -> b n (heads d)"))  # b m+n d
    return h[:, : text.shape[1]], h[:, text.shape[1] :]


class Head(nn.Module):
    """The last tokens of a clip to its patches, modulated by the time."""

    def __init__(self, config: CogVideoXConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.modulation = nn.Linear(config.time_width, 2 * config.width)
        values = config.temporal_patch * config.patch**2
        self.out = nn.Linear(config.width, config.out_channels * values)

    def forward(self, video: Patches, time: Float[Tensor, "b _ d_time"]) -> Float[Tensor, "b n p"]:
        shift, scale = self.modulation(time).chunk(2, dim=-1)  # b _ d
        return self.out(self.norm(video) * (1 + scale) + shift)  # b n c*patch


def initialize(model: Transformer) -> None:
    """Draw fresh weights, in place: every layer begins as the identity, and the model says 0.

    So does DiT (Peebles and Xie 2022, arXiv 2212.09748).
    """
    for module in model.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    zero = [expert for expert in model.modules() if isinstance(expert, Experts)]
    for module in [*zero, model.head.modulation, model.head.out]:
        for parameter in module.parameters():
            nn.init.zeros_(parameter)


# ---------------------------------------------------------------- 2.2 who sees whom


def views(
    grid: tuple[int, int, int],
    m: int,
    pack: Pack | None,
    attention: str,
    device: torch.device | None = None,
) -> tuple[View, View]:
    """Return what layers 0, 2, ... see, and what layers 1, 3, ... do, of m tokens of text.

    With factorised attention, patches see those of their frame, then those of their place; the
    text sees all and is seen by all.  With a pack, a clip sees itself and its text.
    """
    t, h, w = grid
    masks: tuple[Tensor | None, Tensor | None] = (None, None)
    if attention == "factorised":
        tokens = torch.arange(t * h * w, device=device)
        frame, place = tokens // (h * w), tokens % (h * w)
        masks = _together(F.pad(frame, (m, 0), value=-1)), _together(F.pad(place, (m, 0), value=-1))
    if pack is None:
        return View(masks[0]), View(masks[1])

    clips = pack.numbers.shape[1]
    text_clip = repeat(
        torch.arange(clips, device=device), "k -> b (k m)", b=len(pack.clip), m=m // clips
    )
    video_clip = repeat(pack.clip, "b t -> b (t hw)", hw=h * w)
    same = pack_mask(torch.cat([text_clip, video_clip], dim=1))  # b 1 m+n m+n
    even, odd = (same if mask is None else same & mask for mask in masks)
    return View(even, text_clip, video_clip), View(odd, text_clip, video_clip)


def _together(group: Int[Tensor, " n"]) -> Bool[Tensor, "n n"]:
    """Tell which tokens are of one group; those of group -1 are with all."""
    return (group[:, None] == group) | (group[:, None] < 0) | (group < 0)


def spread(
    vectors: Float[Tensor, "b k d"], clip: Int[Tensor, "b n"] | None
) -> Float[Tensor, "b _ d"]:
    """Give every token the vector of its clip, of those in its row; or one to all, for no clips."""
    if clip is None:
        return vectors
    rows = torch.arange(len(clip), device=clip.device)[:, None]
    return vectors[rows, clip.clamp(min=0)]


# ---------------------------------------------------------------- 2.2 patches and positions


def patchify(
    latents: Float[Tensor, "b t c h w"], patch: int, frames: int = 1
) -> Float[Tensor, "b n p"]:
    """Cut squares of `patch` x `patch` out of every frame, in the order of time, rows, columns.

    Time stays as it is, so that an image is a clip of one frame; CogVideoX 1.5 has boxes of 2
    `frames`.  A patch is flattened channel by channel (c, frames, rows, columns).  Raises
    ValueError unless it divides the latents.
    """
    t, _, h, w = latents.shape[1:]
    if t % frames or h % patch or w % patch:
        raise ValueError(
            f"patch: expected divisors of frames, rows and columns {t} x {h} x {w}, got"
            f" {frames} x {patch} x {patch}"
        )
    return rearrange(
        latents, "b (t o) c (h p) (w q) -> b (t h w) (c o p q)", o=frames, p=patch, q=patch
    )


def unpatchify(
    tokens: Float[Tensor, "b n p"], grid: tuple[int, int, int], patch: int, frames: int = 1
) -> Float[Tensor, "b t c h w"]:
    """Put patches, as `patchify` cuts them, back into latents.

    grid: how many there are over time, down and across.  Raises ValueError where it does not fit.
    """
    t, h, w = grid
    size = frames * patch**2
    if tokens.shape[1] != t * h * w or tokens.shape[2] % size:
        raise ValueError(
            f"tokens: expected {t * h * w} of a multiple of {size} numbers, got"
            f" {tuple(tokens.shape[1:])}"
        )
    return rearrange(
        tokens,
        "b (t h w) (c o p q) -> b (t o) c (h p) (w q)",
        t=t, h=h, o=frames, p=patch, q=patch,
    )  # fmt: skip


def coordinates(
    grid: tuple[int, int, int], trained: tuple[int, int, int] | None = None
) -> Float[Tensor, "n 3"]:
    """Return the time, row and column of every patch, counted from 0.

    trained: rows and columns stretch or shrink to fit into this grid, the whole of them visible.
    """
    t, h, w = (torch.arange(size, dtype=torch.float32) for size in grid)
    if trained is not None:
        rows, columns = grid[1:]
        scale = min(trained[1] / rows, trained[2] / columns)
        h, w = (
            _fit(size, round(size * scale), whole)
            for size, whole in ((rows, trained[1]), (columns, trained[2]))
        )
    return torch.cartesian_prod(t, h, w)


def _fit(size: int, fitted: int, whole: int) -> Float[Tensor, " size"]:
    """Spread `size` places over `fitted` in the middle of `whole`, as diffusers does."""
    first = round((whole - fitted) / 2)
    return torch.linspace(first, (first + fitted) * (size - 1) / size, size)


def sincos(
    places: Float[Tensor, "*n 3"], width: int, spatial_scale: float
) -> Float[Tensor, "*n width"]:
    """Return the sines and cosines that the smallest model adds to its tokens.

    A quarter of them is for time, then three eighths each for columns and for rows.
    """
    t, h, w = places.double().unbind(-1)
    features = []
    for place, share in ((t, 2), (w / spatial_scale, 3), (h / spatial_scale, 3)):
        angles = rope_angles(place, share * width // 8)
        features += [angles.sin(), angles.cos()]
    return torch.cat(features, dim=-1)
