"""MAGVIT-v2: Language Model Beats Diffusion, Tokenizer is Key to Visual Generation.  Yu et al.,
2023, arXiv 2310.05737.

Read `course_lib.papers.magvit` first.  Reading order: the configurations; the tokenizer of pictures
and clips (section 3.2), to which belong its layers `course_lib.nn.causal_conv`, its quantiser
`course_lib.quantize.lfq` (3.1) and its loss `LOSS_CONFIG`; its start from a model of pictures; tokens in
two factors (3.2); the language models, masked and autoregressive (4.1).  Clips are (b c t h w) in
[-1, 1], a picture is a clip of one frame, and tokens are a grid (b t h w), read frame by frame, row
by row.

No code was released.  What the text leaves open, and what is done here:
- What padded frames hold: zeros.  Where widths change: in the convolutions between resolutions.
  Biases, and as many blocks in the middle as at a resolution: as in MAGVIT's code.
- What a group norm averages over: one frame.  Across frames it would tell the first of later ones;
  here no token, and no latent, depends on a frame after its own.
- How latents control the decoder's adaptive norms: their mean over a frame sets the scales and
  shifts of its pixels. The variance of a bit would say no more, as it is 1 - mean^2.  Open-MAGVIT2
  takes both, and over the whole clip.
- Whether the factors of a token are drawn one given the other: no.  "Separate prediction heads" see
  the same vector. With a layer of BERT's head for each, the masked model has the published 307M
  parameters.
- The layers of the autoregressive model: VQGAN's.  The tokenizer's size: 58M in Table 5a is that of
  a smaller one.
"""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, reduce
from torch import nn

from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import generate
from course_lib.nn.causal_conv import CausalConv3d, CausalUpsample, FrameNorm
from course_lib.nn.transformer import Bert, BertHead, truncated_normal_
from course_lib.papers.magvit import BertConfig
from course_lib.papers.magvit_tokenizer import DiscriminatorConfig, LossConfig
from course_lib.papers.vqgan import Transformer, TransformerConfig
from course_lib.quantize.lfq import LFQ, factorize
from course_lib.quantize.vq import Quantized, check_indices
from course_lib.shapes import Float, Int, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class TokenizerConfig:
    """The autoencoder.  Defaults: the video model, 17 x 128 x 128 pixels to 5 x 16 x 16 tokens of
    18 bits.
    """

    filters: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)  # of the filters, per resolution
    # frames, rows, columns in between
    strides: tuple[tuple[int, int, int], ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    blocks: int = 4  # residual blocks per resolution
    bits: int = 18
    kernel_frames: int = 3  # 1: two-dimensional convolutions, for a model of pictures
    padding: str = "zeros"  # what stands in front of the first frame: or "replicate"
    groups: int = 32
    channels: int = 3
    commitment: float = 0.25
    entropy: float = 0.1  # three times as much at first: `course_lib.quantize.lfq.annealed_weight`

    def __post_init__(self):
        if len(self.strides) != len(self.multipliers) - 1:
            raise ValueError(f"expected {len(self.multipliers) - 1} strides, got {self.strides}")
        if self.kernel_frames == 1 and self.cell[0] > 1:
            raise ValueError(
                "a model of pictures has no stride over frames, got kernel_frames=1 and"
                f" {self.strides}"
            )
        misfits = [width for width in self.widths if width % self.groups]
        if misfits:
            raise ValueError(
                f"expected widths that {self.groups} groups share evenly, got {misfits}"
            )

    @property
    def widths(self) -> list[int]:
        """Channels at every resolution, from fine to coarse."""
        return [self.filters * m for m in self.multipliers]

    @property
    def cell(self) -> tuple[int, ...]:
        """Frames, rows and columns that one token stands for; in time, after the first frame, which
        has its own.
        """
        return tuple(math.prod(axis) for axis in zip(*self.strides, strict=True))

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Times, rows and columns of a clip's tokens.  ValueError: it has not 1 + s t frames, or
        not whole cells.
        """
        s, rows, columns = self.cell
        if frames < 1 or (frames - 1) % s or height % rows or width % columns:
            got = (frames, height, width)
            raise ValueError(
                f"expected 1 + {s} t frames of sides divisible by {rows} and {columns}, got {got}"
            )
        return 1 + (frames - 1) // s, height // rows, width // columns


_TINY = {"filters": 8, "multipliers": (1, 2, 4, 8), "blocks": 1, "bits": 10, "groups": 4}
TOKENIZER_CONFIGS = {  # appendix A
    "video-128": TokenizerConfig(),
    "image-128": TokenizerConfig(kernel_frames=1, strides=((1, 2, 2),) * 3),
    # 17 x 32 x 32 to 5 x 8 x 8
    "tiny": TokenizerConfig(strides=((1, 2, 2), (2, 2, 2), (2, 1, 1)), **_TINY),
    "tiny-image": TokenizerConfig(
        kernel_frames=1, strides=((1, 2, 2), (1, 2, 2), (1, 1, 1)), **_TINY
    ),
}

DISCRIMINATOR_CONFIGS = {  # MAGVIT's, with blurs; not included in the counts of parameters
    "video-128": DiscriminatorConfig(size=(17, 128, 128), filters=128, halve="blur"),
    "tiny": DiscriminatorConfig(size=(17, 32, 32), filters=8, multipliers=(2, 4, 4), halve="blur"),
}

LOSS_CONFIG = LossConfig(squared_weight=5.0)  # appendix A; all else is MAGVIT's


@dataclass(frozen=True)
class LMConfig(BertConfig):
    """A language model on factorized tokens; its vocabulary is MAGVIT's.  Defaults: UCF-101 (4.1)."""

    grid: tuple[int, int, int] = (5, 16, 16)
    num_codes: int = 2**18
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp: int = 4096
    factors: int = 2

    def __post_init__(self):
        if self.num_codes != 2 ** sum(self.factor_bits):
            raise ValueError(
                f"{self.factors} equal factors need 2^({self.factors} m) codes, got"
                f" {self.num_codes}"
            )

    @property
    def factor_bits(self) -> tuple[int, ...]:
        """Of each factor of a code, the lowest bits first."""
        return ((self.num_codes.bit_length() - 1) // self.factors,) * self.factors


_TINY_LM = LMConfig((5, 8, 8), 2**10, num_classes=8, width=128, depth=4, heads=4, mlp=512)
MLM_CONFIGS = {
    "MLM-UCF": LMConfig(),
    "MLM-ImageNet-256": LMConfig((1, 16, 16), num_classes=1000),
    "MLM-tiny": _TINY_LM,
}
AR_CONFIGS = {"AR-UCF": LMConfig(), "AR-tiny": _TINY_LM}  # as large as the masked ones


# ---------------------------------------------------------------- 3.2 the tokenizer


class Tokenizer(nn.Module):
    """Pictures and clips (b c t h w) of 1 + s t frames in [-1, 1] to a grid of tokens (b 1+t h w),
    and back.
    """

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder, self.decoder = Encoder(config), Decoder(config)
        self.quantizer = LFQ(config.bits, config.commitment, config.entropy)

    def forward(
        self, clip: Float[Tensor, "b c t h w"]
    ) -> tuple[Float[Tensor, "b c t h w"], Quantized]:
        """The reconstruction, and what the quantiser found."""
        quantized = self.encode(clip)
        return self.decode(quantized.latents), quantized

    def encode(self, clip: Float[Tensor, "b c t h w"]) -> Quantized:
        """The signs of the encoder's output."""
        return self.quantizer(self.features(clip))

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b bits t2 h2 w2"]:
        """The encoder's output, before it is quantised.  Raises ValueError for clips that have no
        grid.
        """
        self.config.token_grid(*clip.shape[2:])
        # as CPUs convolve fastest
        return self.encoder(clip.contiguous(memory_format=torch.channels_last_3d))

    def decode(self, latents: Float[Tensor, "b bits t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        return self.decoder(latents)

    def decode_indices(self, indices: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """The clip of a grid of tokens."""
        return self.decode(self.quantizer.embed(indices))


class Encoder(nn.Sequential):
    """Residual blocks at every resolution, strided convolutions in between, those over time last."""

    def __init__(self, config: TokenizerConfig):
        widths = config.widths
        layers = [conv(config, config.channels, widths[0]), *residuals(config, widths[0])]
        for (c_in, c_out), stride in zip(pairwise(widths), config.strides, strict=True):
            layers += [conv(config, c_in, c_out, stride=stride), *residuals(config, c_out)]
        layers += [
            *residuals(config, widths[-1]),
            FrameNorm(config.groups, widths[-1], 1e-6),
            nn.SiLU(),
        ]
        super().__init__(*layers, CausalConv3d(widths[-1], config.bits, 1))


class Decoder(nn.Module):
    """The encoder backwards, with an adaptive norm before the blocks of every resolution."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths, frames = config.widths[::-1], 1
        middle = nn.Sequential(conv(config, config.bits, widths[0]), *residuals(config, widths[0]))
        # from coarse to fine
        self.levels = nn.ModuleList([DecoderLevel(config, middle, widths[0], frames)])
        for (c_in, c_out), factors in zip(pairwise(widths), config.strides[::-1], strict=True):
            frames *= factors[0]
            upsample = CausalUpsample(
                c_in, c_out, factors, (config.kernel_frames, 3, 3), config.padding
            )
            self.levels.append(DecoderLevel(config, upsample, c_out, frames))
        self.norm_out = FrameNorm(config.groups, widths[-1], 1e-6)
        self.conv_out = conv(config, widths[-1], config.channels)

    def forward(self, latents: Float[Tensor, "b bits t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        control = reduce(latents, "b bits t h w -> b t bits", "mean")
        x = latents
        for level in self.levels:
            x = level(x, control)
        return self.conv_out(F.silu(self.norm_out(x)))


class DecoderLevel(nn.Module):
    """One resolution, with `frames` frames to a latent's: what leads to it, the adaptive norm,
    residual blocks.
    """

    def __init__(self, config: TokenizerConfig, resize: nn.Module, width: int, frames: int):
        super().__init__()
        self.resize, self.frames = resize, frames
        self.norm = FrameNorm(config.groups, width, 1e-6, affine=False)
        self.control = nn.Linear(config.bits, 2 * width)
        self.blocks = nn.Sequential(*residuals(config, width))
        nn.init.zeros_(self.control.weight)  # a new model's scales are 1, its shifts 0
        nn.init.zeros_(self.control.bias)

    def forward(
        self, x: Float[Tensor, "b c t h w"], control: Float[Tensor, "b t0 k"]
    ) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.resize(x)  # b d t2 h2 w2
        # b t2 k, as upsampling has it
        control = control.repeat_interleave(self.frames, dim=1)[:, self.frames - 1 :]
        scale, shift = rearrange(self.control(control), "b t (two d) -> two b d t 1 1", two=2)
        return self.blocks(self.norm(x) * (1 + scale) + shift)


class CausalResBlock(nn.Module):
    """Norm, swish and convolution, twice, around the identity; no biases."""

    def __init__(self, config: TokenizerConfig, width: int):
        super().__init__()
        self.norm1, self.norm2 = (FrameNorm(config.groups, width, 1e-6) for _ in range(2))
        self.conv1, self.conv2 = (conv(config, width, width, bias=False) for _ in range(2))

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        h = self.conv1(F.silu(self.norm1(x)))
        return x + self.conv2(F.silu(self.norm2(h)))


def conv(config: TokenizerConfig, c_in: int, c_out: int, **options) -> CausalConv3d:
    """The tokenizer's convolution: 3 x 3 pixels of `kernel_frames` frames."""
    return CausalConv3d(
        c_in, c_out, (config.kernel_frames, 3, 3), padding=config.padding, **options
    )


def residuals(config: TokenizerConfig, width: int) -> list[CausalResBlock]:
    """The blocks of one resolution."""
    return [CausalResBlock(config, width) for _ in range(config.blocks)]


# ---------------------------------------------------------------- 3.2 a start from pictures


def inflate_last(kernel: Float[Tensor, "o i h w"], frames: int) -> Float[Tensor, "o i t h w"]:
    """The kernel at the last frame, which lies on the newest one, zeros at the others (MAGVIT: the
    central one).
    """
    return F.pad(kernel[:, :, None], (0, 0, 0, 0, frames - 1, 0))


@torch.no_grad()
def inflate(model: Tokenizer, pictures: Tokenizer) -> None:
    """Start a tokenizer of clips from one of pictures, in place: it gives the frames it keeps the
    same tokens.

    Where it samples up in time it repeats frames.  Raises ValueError unless the two differ in time
    alone.
    """
    ours, theirs = model.state_dict(), pictures.state_dict()
    for name, value in theirs.items():
        if name in ours and value.ndim == 5:
            value = inflate_last(value[:, :, -1], ours[name].shape[2])
        # that depth-to-space makes of one
        frames = ours[name].shape[0] // value.shape[0] if name in ours else 1
        theirs[name] = value.repeat(frames, *[1] * (value.ndim - 1))
    misfits = [
        name
        for name in ours | theirs
        if name not in theirs or theirs[name].shape != ours.get(name, value).shape
    ]
    if misfits:
        raise ValueError(
            f"expected tokenizers that differ in time alone, got other weights in {misfits}"
        )
    model.load_state_dict(theirs)


# ---------------------------------------------------------------- 3.2 tokens in two factors


class FactorizedTokens(nn.Module):
    """Tokens to vectors and back to logits: for each factor a table, used both ways (weight tying),
    and a head.
    """

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.tables = nn.ParameterList(
            torch.empty(2**bits, config.width) for bits in config.factor_bits
        )
        self.others = nn.Parameter(torch.empty(config.vocabulary - config.num_codes, config.width))
        self.heads = nn.ModuleList(BertHead(config.width) for _ in config.factor_bits)
        self.biases = nn.ParameterList(torch.zeros(2**bits) for bits in config.factor_bits)
        for table in (*self.tables, self.others):
            truncated_normal_(table)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """The sum of a code's factors' vectors; other tokens have one of their own.  ValueError for
        unknown tokens.
        """
        check_indices(tokens, self.config.vocabulary)
        is_code = tokens < self.config.num_codes
        # b n, for each factor
        parts = factorize(tokens.where(is_code, 0), self.config.factor_bits).unbind(-1)
        codes = sum(
            F.embedding(part, table) for part, table in zip(parts, self.tables, strict=True)
        )
        others = F.embedding((tokens - self.config.num_codes).clamp(min=0), self.others)
        return torch.where(is_code[..., None], codes, others)

    def logits(self, x: Float[Tensor, "b n d"]) -> list[Float[Tensor, "b n _"]]:
        """Of each factor, all from the same vectors."""
        layers = zip(self.heads, self.tables, self.biases, strict=True)
        return [F.linear(head(x), table, bias) for head, table, bias in layers]


def factor_losses(
    logits: list[Float[Tensor, "b n _"]], codes: Int[Tensor, "b n"], smoothing: float = 0.0
) -> Float[Tensor, "b n"]:
    """-ln p of every code, in nats: the sum over its factors, each under label smoothing."""
    parts = factorize(codes, tuple(each.shape[-1].bit_length() - 1 for each in logits)).unbind(-1)
    pairs = zip(logits, parts, strict=True)
    return sum(
        F.cross_entropy(a.mT, b, reduction="none", label_smoothing=smoothing) for a, b in pairs
    )


def joint_logits(logits: list[Float[Tensor, "b n _"]]) -> Float[Tensor, "b n k"]:
    """ln p of every code there is.  For 2^18 codes that is a megabyte a token: for drawing, not for
    training.
    """
    joint, *others = (each.log_softmax(-1) for each in logits)
    for each in others:
        joint = rearrange(each[..., None] + joint[..., None, :], "b n high low -> b n (high low)")
    return joint


# ---------------------------------------------------------------- 4.1 the language models


class MaskedLM(nn.Module):
    """MAGVIT's transformer on factorized tokens: a prefix, and what is shown in the codes' places."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.tokens = FactorizedTokens(config)
        length = config.prefix_length + math.prod(config.grid)
        self.bert = Bert(
            length, config.width, config.depth, config.heads, config.mlp, config.dropout
        )

    def forward(
        self, prefix: Int[Tensor, "b m"], shown: Int[Tensor, "b n"]
    ) -> list[Float[Tensor, "b n _"]]:
        """Logits of the factors at every place, to be trained on `factor_losses` with a smoothing
        of 1e-4.
        """
        x = self.bert(self.tokens(torch.cat([prefix, shown], dim=1)))  # b m+n d
        return self.tokens.logits(x[:, prefix.shape[1] :])

    def code_logits(
        self, prefix: Int[Tensor, "b m"], shown: Int[Tensor, "b n"]
    ) -> Float[Tensor, "b n k"]:
        """Logits of whole codes, for `lm.maskgit.parallel_decode`."""
        return joint_logits(self(prefix, shown))


class CausalLM(nn.Module):
    """VQGAN's transformer on factorized tokens: a prefix, and the codes one after another."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        length = (
            config.prefix_length + math.prod(config.grid) - 1
        )  # nothing comes after the last code
        layers = TransformerConfig(
            1, length, config.depth, config.heads, config.width, config.dropout
        )
        self.transformer = Transformer(layers)
        self.transformer.tokens, self.transformer.head = FactorizedTokens(config), nn.Identity()

    def factor_logits(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> list[Float[Tensor, "b n _"]]:
        """Of the code after each token; with a cache, `tokens` go on where the last call ended."""
        return self.transformer.tokens.logits(self.transformer(tokens, cache))

    def forward(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b n k"]:
        """Logits of whole codes, for `lm.sampling.generate`."""
        return joint_logits(self.factor_logits(tokens, cache))

    def losses(self, prefix: Int[Tensor, "b m"], codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """-ln p of every code given the prefix and all codes before it, in nats."""
        logits = self.factor_logits(torch.cat([prefix, codes[:, :-1]], dim=1))
        return factor_losses([each[:, prefix.shape[1] - 1 :] for each in logits], codes)


def decode_causal(
    model: CausalLM, prefix: Int[Tensor, "b m"], known: Int[Tensor, "b n0"] | None = None, **options
) -> Int[Tensor, "b n"]:
    """Codes one by one, after those of the first frames, if some are known; options as of
    `generate`.
    """
    prompt = prefix if known is None else torch.cat([prefix, known], dim=1)
    drawn = generate(
        model, prompt, prefix.shape[1] + math.prod(model.config.grid) - prompt.shape[1], **options
    )
    return torch.cat([prompt[:, prefix.shape[1] :], drawn], dim=1)
