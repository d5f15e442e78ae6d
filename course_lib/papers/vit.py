"""An Image is Worth 16x16 Words.  Dosovitskiy et al., 2020, arXiv 2010.11929.

Reading order: the configurations (Table 1); the model from the outside in (section 3.1, appendix
A); its equations as plain functions; positions for another resolution (3.2); what a trained model
attends to (4.5, appendix D); its size.

Differs from the paper, in the manner of the official code:
- The representation layer (3.1: an MLP with one hidden layer) is one tanh layer before the head, in
  pre-training alone.
- Average pooling (appendix D.3) has no class token at all.
- GELU is its tanh form there, the exact one in timm's and transformers' checkpoints: `gelu` says
  which.
- LayerNorm's epsilon is 1e-6 (transformers' default is 1e-12).
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.nn.patches import patchify
from course_lib.nn.std_resnet import ResNet
from course_lib.nn.transformer import encoder_macs, encoder_parameters
from course_lib.shapes import Float, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class ViTConfig:
    """The encoder's shape, what goes in and what comes out.  Defaults: ViT-B/16 on ImageNet (Table
    1).
    """

    image_size: int | tuple[int, int] = 224  # pixels: one side of a square, or height and width
    patch_size: int = 16
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    num_classes: int = 1000
    positions: Literal["1d", "2d", "none"] = "1d"  # appendix D.4
    pool: Literal["token", "average"] = "token"  # appendix D.3
    representation: int | None = None  # width of the pre-training head's hidden layer
    gelu: Literal["tanh", "exact"] = "tanh"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    # units per stage of a hybrid's ResNet; patches are of its feature map
    resnet: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.size[0] % self.patch_size or self.size[1] % self.patch_size:
            raise ValueError(
                f"patch_size must divide both sides, got {self.patch_size} for {self.size}"
            )
        if self.resnet and self.patch_size % 2 ** (len(self.resnet) + 1):
            raise ValueError(
                f"patch_size must be a multiple of the ResNet's stride, got {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} for {self.width}")
        if self.positions == "2d" and self.width % 2:
            raise ValueError(f"2-D positions need an even width, got {self.width}")

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return (
            self.image_size
            if isinstance(self.image_size, tuple)
            else (self.image_size, self.image_size)
        )

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def tokens(self) -> int:
        """Length of the sequence: the patches, and the class token where there is one."""
        return self.grid[0] * self.grid[1] + (self.pool == "token")


VIT_CONFIGS = {
    # Ti and S: Touvron et al., arXiv 2012.12877
    "ViT-Ti/16": ViTConfig(width=192, heads=3, mlp=768),
    "ViT-S/16": ViTConfig(width=384, heads=6, mlp=1536),
    "ViT-B/32": ViTConfig(patch_size=32),
    "ViT-B/16": ViTConfig(),
    "ViT-L/32": ViTConfig(patch_size=32, width=1024, depth=24, heads=16, mlp=4096),
    "ViT-L/16": ViTConfig(width=1024, depth=24, heads=16, mlp=4096),
    "ViT-H/14": ViTConfig(patch_size=14, width=1280, depth=32, heads=16, mlp=5120),
    "R50+ViT-B/16": ViTConfig(resnet=(3, 4, 9)),
    "tiny": ViTConfig(
        image_size=32, patch_size=4, width=64, depth=4, heads=4, mlp=128, num_classes=32
    ),
}


# ---------------------------------------------------------------- the model


class ViT(nn.Module):
    """Pictures to class scores: patches, positions, a transformer encoder, a linear head."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        self.resnet = ResNet(config.channels, config.resnet, width=64) if config.resnet else None
        channels, patch = config.channels, config.patch_size
        if self.resnet:  # of its feature map
            channels, patch = self.resnet.out_channels, patch // self.resnet.stride
        self.patch_embed = PatchEmbed(channels, patch, config.width)
        self.cls_token = (
            nn.Parameter(torch.zeros(1, 1, config.width)) if config.pool == "token" else None
        )
        self.positions = {"1d": Positions1D, "2d": Positions2D, "none": lambda _: None}[
            config.positions
        ](config)
        self.dropout = nn.Dropout(config.dropout)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(config.width, config.norm_eps)
        self.representation = (
            nn.Linear(config.width, config.representation) if config.representation else None
        )
        self.head = nn.Linear(config.representation or config.width, config.num_classes)
        initialize(self)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Class scores (logits)."""
        return self.head(self.features(image))

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Eq. 4, y: one vector per picture, what the head sees."""
        token = self.config.pool == "token"
        x = self.encode(image, first=1 if token else None)  # b n d
        y = x[:, 0] if token else x.mean(1)  # b d
        return y if self.representation is None else torch.tanh(self.representation(y))

    def encode(
        self, image: Float[Tensor, "b c h w"], first: int | None = None
    ) -> Float[Tensor, "b n d"]:
        """Eq. 1 to 3 and the last norm: one vector per token, the class token first, or for the
        `first` alone.
        """
        x = self.embed(image)
        for block in self.blocks[:-1]:
            x = block(x)
        return self.norm(self.blocks[-1](x, first))

    def embed(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Eq. 1: patches, projected, behind the class token, plus positions."""
        if tuple(image.shape[2:]) != self.config.size:
            raise ValueError(
                f"expected pictures of {self.config.size} pixels, got {tuple(image.shape[2:])}"
            )
        x = image if self.resnet is None else self.resnet(image)  # b c h w
        x = self.patch_embed(x)  # b h*w d
        positions = self.positions() if self.positions else 0.0  # without: a bag of patches
        return self.dropout(tokens_and_positions(x, self.cls_token, positions))

    @torch.no_grad()
    def attention_maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "depth b heads n n"]:
        """Eq. 6, A, of every layer and head: row i says where token i looks."""
        x, maps = self.embed(image), []
        for block in self.blocks:
            maps.append(attention(block.attention.qkv(block.norm1(x)), self.config.heads)[1])
            x = block(x)
        return torch.stack(maps)


def initialize(model: nn.Module) -> None:
    """As the official code: Glorot-uniform layers without biases, and a head of zeros."""
    qkv_layers = {module.qkv for module in model.modules() if isinstance(module, Attention)}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # Queries, keys and values are three layers of (d d) in one of (3*d d): Glorot's bound of
            # each is sqrt(2) times that of the whole.
            gain = math.sqrt(2) if module in qkv_layers else 1.0
            nn.init.xavier_uniform_(module.weight, gain=gain)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(model.head.weight)


class PatchEmbed(nn.Conv2d):
    """Eq. 1, E: patches of (c patch patch) numbers to tokens of `width`.  Its weights are those of
    a convolution.
    """

    def __init__(self, channels: int, patch: int, width: int):
        super().__init__(channels, width, patch, stride=patch)
        nn.init.normal_(self.weight, std=(channels * patch * patch) ** -0.5)
        nn.init.zeros_(self.bias)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        return embed_patches(image, self.weight, self.bias)


class Positions1D(nn.Module):
    """A learned vector for every place in the sequence."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, config.tokens, config.width) * 0.02)

    def forward(self) -> Float[Tensor, "1 n d"]:
        return self.table


class Positions2D(nn.Module):
    """Appendix D.4: half of the vector is learned for the row, half for the column; zero for the
    class token.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.has_token = config.pool == "token"
        self.rows, self.columns = (
            nn.Parameter(torch.randn(n, config.width // 2) * 0.02) for n in config.grid
        )

    def forward(self) -> Float[Tensor, "1 n d"]:
        rows = repeat(self.rows, "h d -> 1 (h w) d", w=len(self.columns))
        columns = repeat(self.columns, "w d -> 1 (h w) d", h=len(self.rows))
        return F.pad(torch.cat([rows, columns], dim=2), (0, 0, int(self.has_token), 0))


class Block(nn.Module):
    """One layer of the encoder, norms first."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp, config.gelu, config.dropout)
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self, x: Float[Tensor, "b n d"], first: int | None = None
    ) -> Float[Tensor, "b m d"]:
        """Eq. 2 and 3 for every token, or for the `first` alone; these too attend to all."""
        x = x[:, :first] + self.dropout(self.attention(self.norm1(x), first))  # b m d
        return x + self.mlp(self.norm2(x))


class Attention(nn.Module):
    """Eq. 8: multi-head self-attention."""

    def __init__(self, width: int, heads: int):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)

    def forward(
        self, x: Float[Tensor, "*b n d"], first: int | None = None
    ) -> Float[Tensor, "*b m d"]:
        # with two leading axes, torch would take its slow path
        qkv = self.qkv(x).flatten(end_dim=-3)
        q, k, v = split_heads(qkv, self.heads)
        h = F.scaled_dot_product_attention(q[:, :, :first], k, v)  # b heads m d_h
        return self.out(rearrange(h, "b heads m d -> b m (heads d)").unflatten(0, x.shape[:-2]))


class MLP(nn.Sequential):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, gelu: str, dropout: float = 0.0):
        activation = nn.GELU(approximate="tanh" if gelu == "tanh" else "none")
        super().__init__(
            nn.Linear(width, hidden),
            activation,
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )


# ---------------------------------------------------------------- 3.1 the equations


def embed_patches(
    image: Float[Tensor, "b c h w"], kernel: Float[Tensor, "d c p p"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "b n d"]:
    """Eq. 1, x_p E: cut p x p patches in reading order and multiply each with the kernel, as a
    convolution of stride p.

    Raises ValueError unless p divides both sides.
    """
    patches = patchify(image, kernel.shape[-1])  # b n (p p c)
    return F.linear(patches, rearrange(kernel, "d c p1 p2 -> d (p1 p2 c)"), bias)


def tokens_and_positions(
    patches: Float[Tensor, "b n d"],
    cls_token: Float[Tensor, "1 1 d"] | None,
    positions: Float[Tensor, "1 m d"] | float,
) -> Float[Tensor, "b m d"]:
    """Eq. 1: the class token (where there is one) in front of the patches, plus one position vector
    per token.
    """
    if cls_token is not None:
        patches = torch.cat([cls_token.expand(len(patches), -1, -1), patches], dim=1)
    return patches + positions


def split_heads(
    qkv: Float[Tensor, "b n three_d"], heads: int
) -> Float[Tensor, "three b heads n d"]:
    """Queries, keys and values of every head, from one product sorted by q, k, v and then by head."""
    return rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=heads)


def attention(
    qkv: Float[Tensor, "b n three_d"], heads: int
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b heads n n"]]:
    """Eq. 5 to 7 of every head, outputs side by side, and the attention A.  qkv: q, k, v in turn,
    heads within each.
    """
    q, k, v = split_heads(qkv, heads)  # b heads n d_h
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)  # b heads n n
    return rearrange(weights @ v, "b heads n d -> b n (heads d)"), weights


def encoder_block(
    x: Tensor, norm1: Callable, attend: Callable, norm2: Callable, mlp: Callable
) -> Tensor:
    """Eq. 2 and 3: attention, then the MLP, each behind a norm and around the identity.  x: (b n
    d), any function.
    """
    x = x + attend(norm1(x))
    return x + mlp(norm2(x))


# ---------------------------------------------------------------- 3.2 another resolution


def interpolate_positions(
    positions: Float[Tensor, "1 n d"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m d"]:
    """Positions of an old grid of patches (rows, columns) for a new one: bilinear, corners on
    corners.

    A class token's position, if there is one in front, stays as it is.  Raises ValueError when n
    fits no such grid.
    """
    extra = positions.shape[1] - old[0] * old[1]
    if extra not in (0, 1):
        raise ValueError(
            f"expected {old[0] * old[1]} positions, or one more, got {positions.shape[1]}"
        )
    token, grid = positions[:, :extra], positions[:, extra:]
    grid = rearrange(grid, "1 (h w) d -> 1 d h w", h=old[0])
    grid = F.interpolate(grid, new, mode="bilinear", align_corners=True)
    return torch.cat([token, rearrange(grid, "1 d h w -> 1 (h w) d")], dim=1)


def for_fine_tuning(model: ViT, image_size: int | tuple[int, int], num_classes: int) -> ViT:
    """A model with the same encoder for other pictures and classes: positions interpolated, a fresh
    head of zeros.

    2-D positions become the table they stand for.
    """
    old = model.config
    kind = "none" if old.positions == "none" else "1d"
    new = replace(
        old, image_size=image_size, num_classes=num_classes, positions=kind, representation=None
    )
    tuned = ViT(new)
    dropped = ("positions.", "head.", "representation.")
    state = {key: value for key, value in model.state_dict().items() if not key.startswith(dropped)}
    if kind == "1d":
        state["positions.table"] = interpolate_positions(model.positions(), old.grid, new.grid)
    tuned.load_state_dict(state | tuned.head.state_dict(prefix="head."))
    return tuned


# ---------------------------------------------------------------- 4.5, appendix D: what is attended to


def attention_rollout(maps: Float[Tensor, "depth b heads n n"]) -> Float[Tensor, "b n n"]:
    """Where the last layer's tokens got their content from (Abnar and Zuidema, arXiv 2005.00928;
    Figure 6).

    Heads are averaged, half of a token is taken to stay where it is, and layers are multiplied, the
    last from the left.
    """
    rollout = stay = torch.eye(maps.shape[-1]).to(maps)
    for layer in maps.mean(2):  # b n n
        rollout = (layer + stay) / 2 @ rollout
    return rollout


def attention_distance(
    weights: Float[Tensor, "b heads n n"], grid: tuple[int, int], patch: int
) -> Float[Tensor, " heads"]:
    """Figure 7: how far each head looks, in pixels: mean distance of patch centres, weighted by
    attention.

    The mean is over pictures and querying patches.  A class token in front neither asks nor counts:
    what falls on it is taken out and the rest scaled up to 1.  Raises ValueError when n fits no
    such grid.
    """
    extra = weights.shape[-1] - grid[0] * grid[1]
    if extra not in (0, 1):
        raise ValueError(
            f"expected {grid[0] * grid[1]} tokens, or one more, got {weights.shape[-1]}"
        )
    between = weights[..., extra:, extra:]
    between = between / between.sum(-1, keepdim=True)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = patch * torch.stack([rows.flatten(), columns.flatten()], dim=1).to(weights)  # n 2
    distances = (places[:, None] - places[None]).square().sum(-1).sqrt()  # n n
    return (between * distances).sum(-1).mean((0, 2))


def position_similarity(
    positions: Float[Tensor, "1 n d"], grid: tuple[int, int]
) -> Float[Tensor, "h w h w"]:
    """Figure 7: cosine similarity of every two patches' position vectors."""
    unit = F.normalize(positions[0, -grid[0] * grid[1] :], dim=-1)  # h*w d
    return rearrange(unit @ unit.T, "(h w) (h2 w2) -> h w h2 w2", h=grid[0], h2=grid[0])


# ---------------------------------------------------------------- size and cost


def count_parameters(config: ViTConfig) -> int:
    """Weights and biases of a ViT, in closed form.  A hybrid's ResNet has no such form: ValueError."""
    if config.resnet:
        raise ValueError("the closed form is of patches alone, not of the ResNet of a hybrid")
    d, token = config.width, int(config.pool == "token")
    patches = config.channels * config.patch_size**2 * d + d
    positions = {"1d": config.tokens * d, "2d": sum(config.grid) * d // 2, "none": 0}[
        config.positions
    ]
    y = config.representation or d
    head = (d * y + y if config.representation else 0) + y * config.num_classes + config.num_classes
    return patches + token * d + positions + encoder_parameters(d, config.mlp, config.depth) + head


def count_macs(config: ViTConfig) -> int:
    """Multiply-adds of a picture's matrix products, even the last layer's for unread patches.
    ValueError: hybrids.
    """
    if config.resnet:
        raise ValueError("the closed form is of patches alone, not of the ResNet of a hybrid")
    n, d, y = config.tokens, config.width, config.representation or config.width
    head = (d * y if config.representation else 0) + y * config.num_classes
    return (
        math.prod(config.size) * config.channels * d
        + encoder_macs(n, n, d, config.mlp, config.depth)
        + head
    )
