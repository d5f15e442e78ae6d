"""An Image is Worth 16x16 Words.  Dosovitskiy et al., 2020, arXiv 2010.11929.

Reading order: the configurations (Table 1); the model from the outside in (section 3.1, appendix
A); its equations as plain functions; positions for another resolution (3.2); what a trained model
attends to (4.5, appendix D); its size.

Differs from the paper, following the official code:
- The representation layer (3.1: an MLP with one hidden layer) is one tanh layer before the head,
  only in pre-training.
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
    """The encoder's shape, its input and its output.  Defaults: ViT-B/16 on ImageNet (Table 1)."""

    image_size: int | tuple[int, int] = 224  # pixels: one side of a square, or height and width
    patch_size: int = 16  # pixels on a side
    channels: int = 3
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072  # width of the MLP's hidden layer
    num_classes: int = 1000
    positions: Literal["1d", "2d", "none"] = "1d"  # appendix D.4
    pool: Literal["token", "average"] = "token"  # appendix D.3
    representation: int | None = None  # width of the pre-training head's hidden layer
    gelu: Literal["tanh", "exact"] = "tanh"
    norm_eps: float = 1e-6
    dropout: float = 0.0
    # Only for hybrids: residual units per stage of the ResNet, from whose feature map patches are
    # cut.
    resnet: tuple[int, ...] | None = None

    def __post_init__(self):
        if self.size[0] % self.patch_size or self.size[1] % self.patch_size:
            raise ValueError(
                f"patch_size: expected a divisor of both sides of {self.size},"
                f" got {self.patch_size}"
            )
        if self.resnet and self.patch_size % 2 ** (len(self.resnet) + 1):
            stride = 2 ** (len(self.resnet) + 1)
            raise ValueError(
                f"patch_size: expected a multiple of the ResNet's stride {stride},"
                f" got {self.patch_size}"
            )
        if self.width % self.heads:
            raise ValueError(f"heads: expected a divisor of width {self.width}, got {self.heads}")
        if self.positions == "2d" and self.width % 2:
            raise ValueError(f"width: expected an even one for 2-D positions, got {self.width}")
        require_choice("positions", self.positions, ("1d", "2d", "none"))
        require_choice("pool", self.pool, ("token", "average"))
        require_choice("gelu", self.gelu, ("tanh", "exact"))

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        if isinstance(self.image_size, tuple):
            return self.image_size
        return self.image_size, self.image_size

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches."""
        return self.size[0] // self.patch_size, self.size[1] // self.patch_size

    @property
    def has_token(self) -> bool:
        """Whether there is a class token."""
        return self.pool == "token"

    @property
    def tokens(self) -> int:
        """Length of the sequence: the patches, and the class token where there is one."""
        return self.grid[0] * self.grid[1] + self.has_token


def require_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    """Raise ValueError unless a field of a config has one of these values."""
    if value not in choices:
        raise ValueError(f"{name}: expected one of {', '.join(choices)}, got {value!r}")


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
    """Images to class scores: patches, positions, a transformer encoder, a linear head."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.config = config
        width = config.width

        self.resnet: ResNet | None = None
        channels = config.channels
        patch = config.patch_size  # in pixels of what the patches are cut from
        if config.resnet:
            self.resnet = ResNet(channels, config.resnet, width=64)
            channels = self.resnet.out_channels
            patch = patch // self.resnet.stride
        self.patch_embed = PatchEmbed(channels, patch, width)
        self.cls_token = nn.Parameter(torch.zeros(1, 1, width)) if config.has_token else None
        self.positions: Positions1D | Positions2D | None = None  # "none": a bag of patches
        if config.positions == "1d":
            self.positions = Positions1D(config)
        elif config.positions == "2d":
            self.positions = Positions2D(config)
        self.dropout = nn.Dropout(config.dropout)

        self.blocks = nn.ModuleList(Block(config) for _ in range(config.depth))
        self.norm = nn.LayerNorm(width, config.norm_eps)

        self.representation: nn.Linear | None = None
        if config.representation:
            self.representation = nn.Linear(width, config.representation)
        self.head = nn.Linear(config.representation or width, config.num_classes)
        initialize(self, self.head)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b classes"]:
        """Return class scores (logits)."""
        return self.head(self.features(image))

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return y of Eq. 4: one vector per image, what the head sees."""
        if self.config.has_token:
            y = self.encode_class_token(image)  # b d, which is encode(image)[:, 0]
        else:
            y = self.encode(image).mean(1)  # b d
        if self.representation is not None:
            y = torch.tanh(self.representation(y))
        return y

    def encode(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Eq. 1 to 3 and the last norm: return one vector per token, the class token's first."""
        x = self.embed(image)  # b n d
        for block in self.blocks:
            x = block(x)  # b n d
        return self.norm(x)

    def embed(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b n d"]:
        """Eq. 1: project the patches, put the class token before them, add positions."""
        if tuple(image.shape[2:]) != self.config.size:
            got = tuple(image.shape[2:])
            raise ValueError(f"expected images of {self.config.size} pixels, got {got}")
        x = image if self.resnet is None else self.resnet(image)  # b c h w
        x = self.patch_embed(x)  # b h*w d
        positions = 0.0 if self.positions is None else self.positions()  # 1 n d
        return self.dropout(tokens_and_positions(x, self.cls_token, positions))

    def encode_class_token(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return `encode(image)[:, 0]`, faster.

        Nothing reads what the last block makes of the patches, so only the class token asks there,
        and only it passes the MLP.  The same numbers up to rounding.  Measured: it saves a sixth of
        the tiny model's time and a sixteenth of ViT-B/16's.
        """
        x = self.embed(image)  # b n d
        for block in self.blocks[:-1]:
            x = block(x)  # b n d
        last = self.blocks[-1]
        qkv = last.attention.qkv(last.norm1(x))  # b n 3*d
        q, k, v = split_heads(qkv, self.config.heads)  # b heads n d_h
        y = x[:, :1] + last.attention.attend(q[:, :, :1], k, v)  # b 1 d
        y = y + last.mlp(last.norm2(y))  # b 1 d
        return self.norm(y)[:, 0]

    @torch.no_grad()
    def attention_maps(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "depth b heads n n"]:
        """Return A of Eq. 6 for every layer and head: row i says where token i looks."""
        x = self.embed(image)  # b n d
        maps = []
        for block in self.blocks:
            qkv = block.attention.qkv(block.norm1(x))  # b n 3*d
            maps.append(attention(qkv, self.config.heads)[1])  # b heads n n
            x = block(x)  # b n d
        return torch.stack(maps)


def initialize(model: nn.Module, head: nn.Linear) -> None:
    """Initialize Glorot-uniform weights, and zeros for biases and head, as the official code does.

    Only the MLP's biases are not zero there, but normal numbers of deviation 1e-6.
    """
    qkv_layers = {module.qkv for module in model.modules() if isinstance(module, Attention)}
    for module in model.modules():
        if isinstance(module, nn.Linear):
            # Queries, keys and values are three layers of (d d) in one of (3*d d): Glorot's bound
            # for each of them is sqrt(2) times the bound for all in one.
            gain = math.sqrt(2) if module in qkv_layers else 1.0
            nn.init.xavier_uniform_(module.weight, gain=gain)
            nn.init.zeros_(module.bias)
    nn.init.zeros_(head.weight)


class PatchEmbed(nn.Conv2d):
    """Eq. 1, E: patches of (c patch patch) numbers to tokens, with the weights of a convolution."""

    bias: nn.Parameter  # Conv2d's own may be None

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
    """Appendix D.4: half of a vector is learned for the row, half for the column.

    The class token's is zero.
    """

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.has_token = config.has_token
        self.rows = nn.Parameter(torch.randn(config.grid[0], config.width // 2) * 0.02)
        self.columns = nn.Parameter(torch.randn(config.grid[1], config.width // 2) * 0.02)

    def forward(self) -> Float[Tensor, "1 n d"]:
        rows = repeat(self.rows, "h d -> 1 (h w) d", w=len(self.columns))
        columns = repeat(self.columns, "w d -> 1 (h w) d", h=len(self.rows))
        table = torch.cat([rows, columns], dim=2)  # 1 h*w d
        return F.pad(table, (0, 0, int(self.has_token), 0))  # 1 n d


class Block(nn.Module):
    """One layer of the encoder, Eq. 2 and 3: norms first."""

    def __init__(self, config: ViTConfig):
        super().__init__()
        self.norm1 = nn.LayerNorm(config.width, config.norm_eps)
        self.attention = Attention(config.width, config.heads, config.dropout)
        self.norm2 = nn.LayerNorm(config.width, config.norm_eps)
        self.mlp = MLP(config.width, config.mlp, config.gelu, config.dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        return encoder_block(x, self.norm1, self.attention, self.norm2, self.mlp)


class Attention(nn.Module):
    """Eq. 5 to 8: multi-head self-attention."""

    def __init__(self, width: int, heads: int, dropout: float = 0.0):
        super().__init__()
        self.heads = heads
        self.qkv = nn.Linear(width, 3 * width)
        self.out = nn.Linear(width, width)
        self.dropout = nn.Dropout(dropout)

    def forward(self, x: Float[Tensor, "b n d"]) -> Float[Tensor, "b n d"]:
        q, k, v = split_heads(self.qkv(x), self.heads)  # b heads n d_h
        return self.attend(q, k, v)

    def attend(
        self,
        q: Float[Tensor, "b heads m d_h"],
        k: Float[Tensor, "b heads n d_h"],
        v: Float[Tensor, "b heads n d_h"],
    ) -> Float[Tensor, "b m d"]:
        """Compute Eq. 6 to 8 without keeping A: torch's form of `attention`, which spells A out."""
        h = F.scaled_dot_product_attention(q, k, v)  # b heads m d_h
        h = rearrange(h, "b heads m d -> b m (heads d)")
        return self.dropout(self.out(h))


class MLP(nn.Sequential):
    """Two layers with a GELU between them."""

    def __init__(self, width: int, hidden: int, gelu: str, dropout: float = 0.0):
        super().__init__(
            nn.Linear(width, hidden),
            nn.GELU(approximate="tanh" if gelu == "tanh" else "none"),
            nn.Dropout(dropout),
            nn.Linear(hidden, width),
            nn.Dropout(dropout),
        )


# ---------------------------------------------------------------- 3.1 the equations


def embed_patches(
    image: Float[Tensor, "b c h w"], kernel: Float[Tensor, "d c p p"], bias: Float[Tensor, " d"]
) -> Float[Tensor, "b n d"]:
    """Eq. 1, x_p E: cut p x p patches in reading order and multiply each by the kernel.

    A convolution of stride p does the same.  Raises ValueError unless p divides both sides.
    """
    patches = patchify(image, kernel.shape[-1])  # b n (p p c)
    return F.linear(patches, rearrange(kernel, "d c p1 p2 -> d (p1 p2 c)"), bias)


def tokens_and_positions(
    patches: Float[Tensor, "b n d"],
    cls_token: Float[Tensor, "1 1 d"] | None,
    positions: Float[Tensor, "1 m d"] | float,
) -> Float[Tensor, "b m d"]:
    """Eq. 1: put the class token (if there is one) before the patches, then add the positions."""
    if cls_token is not None:
        patches = torch.cat([cls_token.expand(len(patches), -1, -1), patches], dim=1)
    return patches + positions


def split_heads(
    qkv: Float[Tensor, "b n three_d"], heads: int
) -> Float[Tensor, "three b heads n d"]:
    """Split into the queries, keys and values of every head.

    qkv: queries, keys and values in turn, heads within each.
    """
    return rearrange(qkv, "b n (three heads d) -> three b heads n d", three=3, heads=heads)


def attention(
    qkv: Float[Tensor, "b n three_d"], heads: int
) -> tuple[Float[Tensor, "b n d"], Float[Tensor, "b heads n n"]]:
    """Eq. 5 to 7: return the outputs of all heads, side by side, and the attention A of each.

    qkv: queries, keys and values in turn, heads within each.
    """
    q, k, v = split_heads(qkv, heads)  # b heads n d_h
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)  # b heads n n
    return rearrange(weights @ v, "b heads n d -> b n (heads d)"), weights


def encoder_block(
    x: Tensor, norm1: Callable, attend: Callable, norm2: Callable, mlp: Callable
) -> Tensor:
    """Eq. 2 and 3: apply attention, then the MLP, each after a norm and around the identity.

    x: (b n d).  The others are functions of such tensors.
    """
    x = x + attend(norm1(x))
    return x + mlp(norm2(x))


# ---------------------------------------------------------------- 3.2 another resolution


def interpolate_positions(
    positions: Float[Tensor, "1 n d"], old: tuple[int, int], new: tuple[int, int]
) -> Float[Tensor, "1 m d"]:
    """Interpolate positions of an old grid of patches (rows, columns) for a new one.

    Bilinear, corners on corners.  A class token's position, if there is one at the start, stays as
    it is.  Raises ValueError when n fits no such grid.
    """
    extra = tokens_before_patches(positions.shape[1], old)
    token, grid = positions[:, :extra], positions[:, extra:]
    grid = rearrange(grid, "1 (h w) d -> 1 d h w", h=old[0])
    grid = F.interpolate(grid, new, mode="bilinear", align_corners=True)
    return torch.cat([token, rearrange(grid, "1 d h w -> 1 (h w) d")], dim=1)


def tokens_before_patches(tokens: int, grid: tuple[int, int]) -> int:
    """Return 1 if a class token precedes the patches of a grid (rows, columns), otherwise 0.

    Raises ValueError for any other number of tokens.
    """
    patches = grid[0] * grid[1]
    if tokens - patches not in (0, 1):
        raise ValueError(f"expected {patches} tokens, or one more, got {tokens}")
    return tokens - patches


@torch.no_grad()
def for_fine_tuning(model: ViT, image_size: int | tuple[int, int], num_classes: int) -> ViT:
    """Return a model with the same encoder for images of another size and for other classes.

    Positions are interpolated, and 2-D ones become a table like the 1-D ones.  The head is fresh:
    zeros, without a representation layer.
    """
    old = model.config
    config = replace(
        old,
        image_size=image_size,
        num_classes=num_classes,
        positions="none" if old.positions == "none" else "1d",
        representation=None,
    )
    tuned = ViT(config)

    if old.resnet:
        tuned.resnet.load_state_dict(model.resnet.state_dict())
    tuned.patch_embed.load_state_dict(model.patch_embed.state_dict())
    tuned.blocks.load_state_dict(model.blocks.state_dict())
    tuned.norm.load_state_dict(model.norm.state_dict())
    if model.cls_token is not None:
        tuned.cls_token.copy_(model.cls_token)
    if model.positions is not None:
        tuned.positions.table.copy_(interpolate_positions(model.positions(), old.grid, config.grid))
    return tuned


# ---------------------------------------------------------------- 4.5, D: what is attended to


def attention_rollout(maps: Float[Tensor, "depth b heads n n"]) -> Float[Tensor, "b n n"]:
    """Estimate where the last layer's tokens got their content from.

    Abnar and Zuidema, arXiv 2005.00928; Figure 6.  Heads are averaged, half of a token is taken to
    stay where it is, and layers are multiplied, each further one from the left.
    """
    stay = torch.eye(maps.shape[-1]).to(maps)  # n n
    rollout = stay
    for layer in maps.mean(2):  # b n n
        rollout = (layer + stay) / 2 @ rollout
    return rollout


def attention_distance(
    weights: Float[Tensor, "b heads n n"], grid: tuple[int, int], patch: int
) -> Float[Tensor, " heads"]:
    """Figure 7: return how far each head looks: the distance of patch centres, in pixels.

    It is a mean, weighted by attention, over images and querying patches.  A class token at the
    start neither asks nor counts: what falls on it is taken out and the rest scaled up to 1.
    Raises ValueError when n fits no such grid.
    """
    extra = tokens_before_patches(weights.shape[-1], grid)
    between = weights[..., extra:, extra:]
    between = between / between.sum(-1, keepdim=True)
    rows, columns = torch.meshgrid(torch.arange(grid[0]), torch.arange(grid[1]), indexing="ij")
    places = patch * torch.stack([rows.flatten(), columns.flatten()], dim=1).to(weights)  # n 2
    distances = (places[:, None] - places[None]).square().sum(-1).sqrt()  # n n
    return (between * distances).sum(-1).mean((0, 2))


def position_similarity(
    positions: Float[Tensor, "1 n d"], grid: tuple[int, int]
) -> Float[Tensor, "h w h w"]:
    """Figure 7: return the cosine similarity of every two patches' position vectors.

    Raises ValueError when n fits no such grid.
    """
    extra = tokens_before_patches(positions.shape[1], grid)
    unit = F.normalize(positions[0, extra:], dim=-1)  # h*w d
    return rearrange(unit @ unit.T, "(h w) (h2 w2) -> h w h2 w2", h=grid[0], h2=grid[0])


# ---------------------------------------------------------------- size and cost


def count_parameters(config: ViTConfig) -> int:
    """Count a ViT's weights and biases in closed form.

    Raises ValueError for a hybrid, whose ResNet has no such form.
    """
    require_no_resnet(config)
    d = config.width
    y = config.representation or d

    patches = config.channels * config.patch_size**2 * d + d
    token = d if config.has_token else 0
    positions = {
        "1d": config.tokens * d,
        "2d": sum(config.grid) * d // 2,
        "none": 0,
    }[config.positions]
    encoder = encoder_parameters(d, config.mlp, config.depth)
    representation = d * y + y if config.representation else 0
    head = y * config.num_classes + config.num_classes
    return patches + token + positions + encoder + representation + head


def count_macs(config: ViTConfig) -> int:
    """Count the multiply-adds of one image's matrix products.

    The last layer's are counted for all tokens, read or not.  Raises ValueError for a hybrid.
    """
    require_no_resnet(config)
    n = config.tokens
    d = config.width
    y = config.representation or d

    patches = math.prod(config.size) * config.channels * d
    encoder = encoder_macs(n, n, d, config.mlp, config.depth)
    representation = d * y if config.representation else 0
    return patches + encoder + representation + y * config.num_classes


def require_no_resnet(config: ViTConfig) -> None:
    """Raise ValueError for a hybrid: the closed forms are of patches only."""
    if config.resnet:
        raise ValueError(f"resnet: expected None in a closed form, got {config.resnet}")
