"""MAGVIT: Masked Generative Video Transformer.  Yu et al., 2022, arXiv 2212.05199.

Reading order: the configurations; the 3D-VQ tokenizer (section 3.1, appendix A), to which belong
the discriminator `course_lib.nn.stylegan_discriminator` and the loss
`course_lib.losses.video_tokenizer`; its start from a tokenizer of pictures (3.1, Table 7); the ten
tasks `course_lib.nn.video_tasks` (3.2, appendix B.1); the transformer on tokens, what it is shown
and what it must say (3.2, COMMIT); decoding (Algorithm 1).  Clips are (b c t h w) in [-1, 1],
tokens a grid (b t h w), read frame by frame and row by row.

Differs from the paper, in the manner of the official code:
- That code pads with zeros by default, where the paper says by reflection: `padding`.
- UCF-101 has one task and no task token: 1025 places.  With tasks there are 1026, as in the paper.
- That code gives all outpaintings, and the inpaintings too, one task token; here every task has its
  own.
- A token of the condition is what the task's rule gives on the grid of tokens: see the tasks' file.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.lm.maskgit import Decoding, parallel_decode, remask
from course_lib.nn.conv3d import SameConv3d
from course_lib.nn.stylegan_discriminator import StyleGANDiscriminator
from course_lib.nn.transformer import Bert, BertHead, truncated_normal_
from course_lib.nn.video_tasks import TASKS, condition_clip, task_mask
from course_lib.quantize.vq import Quantized, VectorQuantizer
from course_lib.shapes import Bool, Float, Int, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class TokenizerConfig:
    """The autoencoder and its codebook.  Defaults: 3D-VQ-B, 16 x 128 x 128 pixels to 4 x 16 x 16
    tokens (Table 6).
    """

    filters: int = 64
    # of the filters, per resolution; each but the last is halved after
    multipliers: tuple[int, ...] = (1, 2, 2, 4)
    # which of these halvings take pairs of frames too
    halve_time: tuple[bool, ...] = (True, True, False)
    blocks: int = 2  # residual blocks per resolution
    code_dim: int = 256
    num_codes: int = 1024
    kernel_frames: int = 3  # 1: two-dimensional convolutions, every frame for itself
    padding: str = "reflect"  # or "zeros"
    groups: int = 32
    channels: int = 3
    commitment: float = 0.25
    entropy: float = 0.1

    def __post_init__(self):
        if len(self.halve_time) != len(self.multipliers) - 1:
            raise ValueError(
                f"expected {len(self.multipliers) - 1} halvings, got halve_time={self.halve_time}"
            )
        if self.kernel_frames == 1 and any(self.halve_time):
            raise ValueError(
                "a tokenizer of single frames cannot halve time, got kernel_frames=1 and halve_time"
            )
        misfits = [self.filters * m for m in self.multipliers if self.filters * m % self.groups]
        if misfits:
            raise ValueError(
                f"expected widths that {self.groups} groups share evenly, got {misfits}"
            )

    @property
    def cell(self) -> tuple[int, int, int]:
        """Frames, rows and columns of the pixels that one token stands for (the supervoxel)."""
        side = 2 ** len(self.halve_time)
        return 2 ** sum(self.halve_time), side, side


_TINY = {"filters": 8, "multipliers": (1, 2, 4), "blocks": 1, "code_dim": 32, "groups": 4}

TOKENIZER_CONFIGS = {  # Tables 6 and 7
    "3D-VQ-B": TokenizerConfig(),
    "3D-VQ-L": TokenizerConfig(filters=128),
    # 64 x 64 pixels
    "3D-VQ-B BAIR": TokenizerConfig(multipliers=(1, 2, 4), halve_time=(True, True)),
    "2D-VQ-B": TokenizerConfig(kernel_frames=1, halve_time=(False, False, False)),
    "2D-VQ-L": TokenizerConfig(filters=128, kernel_frames=1, halve_time=(False, False, False)),
    # 16 x 32 x 32 pixels to 4 x 8 x 8 tokens
    "tiny": TokenizerConfig(halve_time=(True, True), **_TINY),
    "tiny 2D": TokenizerConfig(halve_time=(False, False), kernel_frames=1, **_TINY),
}

DISCRIMINATORS = {  # appendix A; not in the counts of parameters
    "3D-VQ-B": partial(StyleGANDiscriminator, (16, 128, 128), 64),
    "3D-VQ-L": partial(StyleGANDiscriminator, (16, 128, 128), 128),
    "3D-VQ-B BAIR": partial(StyleGANDiscriminator, (16, 64, 64), 64, (2, 4, 4, 4)),
    "tiny": partial(StyleGANDiscriminator, (16, 32, 32), 8, (2, 4, 4)),
}


@dataclass(frozen=True)
class BertConfig:
    """The transformer and its vocabulary: codes, classes and the class "none", special tokens.
    Defaults: B on UCF-101.

    One task needs no task token and one special token, [MASK]; several tasks have 16 places for
    them.
    """

    grid: tuple[int, int, int] = (4, 16, 16)
    num_codes: int = 1024
    num_classes: int = 101
    multi_task: bool = False
    width: int = 768
    depth: int = 12
    heads: int = 12
    mlp: int = 3072
    dropout: float = 0.1

    def __post_init__(self):
        if self.width % self.heads:
            raise ValueError(f"heads must divide width, got {self.heads} for {self.width}")

    @property
    def vocabulary(self) -> int:
        """All tokens there are.  The last one is [MASK]."""
        return self.num_codes + self.num_classes + 1 + (16 if self.multi_task else 1)

    @property
    def mask_token(self) -> int:
        return self.vocabulary - 1

    @property
    def prefix_length(self) -> int:
        """Tokens before the grid's: the task's, where there are several, and the class's."""
        return 2 if self.multi_task else 1


BERT_CONFIGS = {
    "BERT-B-UCF": BertConfig(),
    "BERT-L-UCF": BertConfig(width=1024, depth=24, heads=16, mlp=4096),
    "BERT-B-SSv2": BertConfig(num_classes=174, multi_task=True),  # all ten tasks
    "BERT-tiny": BertConfig(
        (4, 8, 8), num_classes=8, multi_task=True, width=128, depth=4, heads=4, mlp=512
    ),
}


# ---------------------------------------------------------------- 3.1 the tokenizer


class Tokenizer(nn.Module):
    """Clips (b c t h w) in [-1, 1] to a grid of codes, and back."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = VectorQuantizer(
            config.num_codes,
            config.code_dim,
            config.commitment,
            entropy_weight=config.entropy,
            temperature=0.01,
        )
        bound = math.sqrt(3 / config.num_codes)
        nn.init.uniform_(self.quantizer.codebook, -bound, bound)

    def forward(
        self, clip: Float[Tensor, "b c t h w"]
    ) -> tuple[Float[Tensor, "b c t h w"], Quantized]:
        """The reconstruction, and what the quantiser found."""
        quantized = self.encode(clip)
        return self.decode(quantized.latents), quantized

    def encode(self, clip: Float[Tensor, "b c t h w"]) -> Quantized:
        """The nearest code to the encoder's output in every cell."""
        return self.quantizer(self.features(clip))

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        """The encoder's output, before it is quantised.  Raises ValueError for a clip that is not
        made of cells.
        """
        if any(n % cell for n, cell in zip(clip.shape[2:], self.config.cell, strict=True)):
            raise ValueError(
                f"expected a clip of cells of {self.config.cell}, got {tuple(clip.shape[2:])}"
            )
        return self.run(self.encoder, clip)

    def decode(self, latents: Float[Tensor, "b d t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        return self.run(self.decoder, latents)

    def decode_indices(self, indices: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """The clip of a grid of codes."""
        return self.decode(self.quantizer.embed(indices))

    def run(
        self, layers: nn.Module, x: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b d t2 h2 w2"]:
        """The clip at once; with kernels of one frame every frame for itself, its norms too."""
        if self.config.kernel_frames > 1:
            return layers(x)
        y = layers(rearrange(x, "b c t h w -> (b t) c 1 h w"))
        return rearrange(y, "(b t) d 1 h w -> b d t h w", b=len(x))


class Encoder(nn.Sequential):
    """Residual blocks at every resolution, averaged to the next; time is halved in the first ones."""

    def __init__(self, config: TokenizerConfig):
        widths = [config.filters * m for m in config.multipliers]
        layers = [conv(config, config.channels, config.filters, bias=False)]
        for level, (c_in, c_out) in enumerate(pairwise([config.filters, *widths])):
            layers += residuals(config, c_in, c_out)
            if level < len(config.halve_time):
                layers.append(nn.AvgPool3d((2 if config.halve_time[level] else 1, 2, 2)))
        layers += residuals(config, widths[-1], widths[-1])
        super().__init__(
            *layers, norm(config, widths[-1]), nn.SiLU(), SameConv3d(widths[-1], config.code_dim, 1)
        )


class Decoder(nn.Sequential):
    """The encoder backwards: pixels are repeated and convolved, and time is doubled in the last
    ones.
    """

    def __init__(self, config: TokenizerConfig):
        widths = [config.filters * m for m in config.multipliers][::-1]
        layers = [
            conv(config, config.code_dim, widths[0]),
            *residuals(config, widths[0], widths[0]),
        ]
        for level, (c_in, c_out) in enumerate(pairwise([widths[0], *widths])):
            layers += residuals(config, c_in, c_out)
            if level < len(config.halve_time):
                repeats = (2.0 if config.halve_time[-1 - level] else 1.0, 2.0, 2.0)
                layers += [
                    nn.Upsample(scale_factor=repeats, mode="nearest"),
                    conv(config, c_out, c_out),
                ]
        super().__init__(
            *layers, norm(config, widths[-1]), nn.SiLU(), conv(config, widths[-1], config.channels)
        )


class ClipResBlock(nn.Module):
    """Norm, swish and convolution, twice, around the identity; no biases."""

    def __init__(self, config: TokenizerConfig, c_in: int, c_out: int):
        super().__init__()
        self.norm1, self.conv1 = norm(config, c_in), conv(config, c_in, c_out, bias=False)
        self.norm2, self.conv2 = norm(config, c_out), conv(config, c_out, c_out, bias=False)
        self.skip = SameConv3d(c_in, c_out, 1, bias=False) if c_in != c_out else nn.Identity()

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t h w"]:
        h = self.conv1(F.silu(self.norm1(x)))  # b d t h w
        return self.skip(x) + self.conv2(F.silu(self.norm2(h)))


def conv(config: TokenizerConfig, c_in: int, c_out: int, bias: bool = True) -> SameConv3d:
    """The tokenizer's convolution: 3 x 3 pixels of `kernel_frames` frames."""
    return SameConv3d(c_in, c_out, (config.kernel_frames, 3, 3), config.padding, bias)


def norm(config: TokenizerConfig, channels: int) -> nn.GroupNorm:
    """The tokenizer's norm."""
    return nn.GroupNorm(config.groups, channels, 1e-6)


def residuals(config: TokenizerConfig, c_in: int, c_out: int) -> list[ClipResBlock]:
    """The blocks of one resolution."""
    return [
        ClipResBlock(config, c_in if block == 0 else c_out, c_out) for block in range(config.blocks)
    ]


# ---------------------------------------------------------------- 3.1 a start from pictures


def inflate_central(kernel: Float[Tensor, "o i h w"], frames: int) -> Float[Tensor, "o i t h w"]:
    """The kernel at the middle frame, index frames // 2, zeros at the others: every frame is
    filtered as it was.
    """
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def inflate_average(kernel: Float[Tensor, "o i h w"], frames: int) -> Float[Tensor, "o i t h w"]:
    """The kernel at every frame, divided by their number: what stands still is filtered as it was."""
    return repeat(kernel / frames, "o i h w -> o i t h w", t=frames)


@torch.no_grad()
def inflate(model: Tokenizer, pictures: Tokenizer, kernel: Callable = inflate_central) -> None:
    """Start a 3D tokenizer from a 2D one of the same widths, in place (Table 7).

    Kernels that have frames in `model` go through `kernel`, all else is copied.  Raises ValueError
    for other widths.
    """
    ours, theirs = model.state_dict(), pictures.state_dict()
    for name in ours.keys() & theirs.keys():
        if ours[name].ndim == 5 and theirs[name].shape[2] == 1 != ours[name].shape[2]:
            theirs[name] = kernel(theirs[name].squeeze(2), ours[name].shape[2])
    ours, found = ({name: value.shape for name, value in state.items()} for state in (ours, theirs))
    if ours != found:
        misfits = sorted(name for name in ours | found if ours.get(name) != found.get(name))
        raise ValueError(
            "expected tokenizers of the same widths and blocks, got other shapes of"
            f" {', '.join(misfits)}"
        )
    model.load_state_dict(theirs)


# ---------------------------------------------------------------- 3.2 the transformer


class MaskedTransformer(nn.Module):
    """Tokens (b n), the prefix first, to the logits of every token of the vocabulary at every
    place.
    """

    def __init__(self, config: BertConfig):
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary, config.width)
        length = config.prefix_length + math.prod(config.grid)
        self.bert = Bert(
            length, config.width, config.depth, config.heads, config.mlp, config.dropout
        )
        self.head = BertHead(config.width)
        self.bias = nn.Parameter(torch.zeros(config.vocabulary))
        truncated_normal_(self.tokens.weight)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n v"]:
        x = self.head(self.bert(self.tokens(tokens)))  # b n d
        return F.linear(x, self.tokens.weight, self.bias)

    def code_logits(
        self, prefix: Int[Tensor, "b m"], shown: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n k"]:
        """Logits of the codes at the places of the grid."""
        x = self.bert(self.tokens(torch.cat([prefix, shown], dim=1)))  # b m+n d
        codes = self.config.num_codes
        return F.linear(
            self.head(x[:, prefix.shape[1] :]), self.tokens.weight[:codes], self.bias[:codes]
        )

    def prefix_tokens(self, task: str, label: Int[Tensor, " b"]) -> Int[Tensor, "b m"]:
        """The task's token, where there are several, and the class's: `label` in CG and CFP, "none"
        in the others.
        """
        c = self.config
        classes = c.num_codes + (
            label if task in ("CG", "CFP") else torch.full_like(label, c.num_classes)
        )
        tasks = torch.full_like(label, c.vocabulary - 3 - TASKS.index(task))
        return torch.stack([tasks, classes] if c.multi_task else [classes], dim=1)


# ---------------------------------------------------------------- 3.2 COMMIT


def commit_tokens(
    codes: Int[Tensor, "b *grid"],
    condition: Int[Tensor, "b *grid"],
    given: Bool[Tensor, "*grid"],
    masked: Bool[Tensor, "b *grid"],
    mask_token: int,
) -> Int[Tensor, "b *grid"]:
    """Eq. 2, what the transformer is shown: the clip's own codes where they are not masked; where
    they are, the code of the padded condition clip in the tokens that hold some condition
    (`given`), and [MASK] in those of padding alone.
    """
    return torch.where(masked, torch.where(given, condition, mask_token), codes)


def masked_places(scores: Float[Tensor, "b n"], gamma: Float[Tensor, ""]) -> Bool[Tensor, "b n"]:
    """True for the floor(gamma n) lowest scores of each row, at least one: with random scores, what
    training masks.
    """
    n = scores.shape[1]
    return remask(scores, (gamma * n).floor().long().clamp(1, n).expand(len(scores)))


def token_losses(
    logits: Float[Tensor, "b n k"], codes: Int[Tensor, "b n"], smoothing: int | float = 1e-4
) -> Float[Tensor, "b n"]:
    """-ln p of every code, in nats, under label smoothing."""
    return F.cross_entropy(logits.mT, codes, reduction="none", label_smoothing=smoothing)


def commit_loss(
    losses: Float[Tensor, "b n"], given: Bool[Tensor, " n"], masked: Bool[Tensor, "b n"]
) -> tuple[Float[Tensor, ""], dict[str, Float[Tensor, ""]]]:
    """Eq. 3: the mean over all tokens, and what each kind adds to it.

    refine: masked tokens that show the condition; mask: those that show [MASK]; recons: those that
    show themselves.
    """
    kinds = {"refine": masked & given, "mask": masked & ~given, "recons": ~masked}
    return losses.mean(), {kind: (losses * places).mean() for kind, places in kinds.items()}


def masked_loss(losses: Float[Tensor, "b n"], masked: Bool[Tensor, "b n"]) -> Float[Tensor, ""]:
    """MaskGIT's: the mean over each clip's masked tokens, and over clips (Table 5 compares)."""
    return ((losses * masked).sum(1) / masked.sum(1).clamp(min=1)).mean()


# ---------------------------------------------------------------- 3.2 decoding


def decode(
    model: MaskedTransformer,
    prefix: Int[Tensor, "b m"],
    condition: Int[Tensor, "b *grid"],
    given: Bool[Tensor, "*grid"],
    steps: int = 12,
    **options,
) -> Decoding:
    """Algorithm 1: all tokens in `steps` steps, those of the condition too; options as of
    `parallel_decode`.
    """
    canvas = torch.where(given, condition, model.config.mask_token).flatten(1)  # b n
    unknown = torch.ones_like(canvas, dtype=torch.bool)
    return parallel_decode(partial(model.code_logits, prefix), canvas, unknown, steps, **options)


@torch.no_grad()
def generate(
    tokenizer: Tokenizer,
    model: MaskedTransformer,
    task: str,
    clip: Float[Tensor, "b c t h w"],
    label: Int[Tensor, " b"],
    **options,
) -> Float[Tensor, "b c t h w"]:
    """What a task leaves of a clip, completed; options as of `decode`.  Models in evaluation mode."""
    condition = tokenizer.encode(condition_clip(task, clip)).indices  # b t h w
    given = task_mask(task, condition.shape[1:]).to(clip.device)
    tokens = decode(model, model.prefix_tokens(task, label), condition, given, **options).tokens[
        -1
    ]  # b n
    return tokenizer.decode_indices(tokens.view_as(condition))
