"""MAGVIT-v2: Language Model Beats Diffusion, Tokenizer is Key to Visual Generation.

Yu et al., 2023, arXiv 2310.05737.  Read `course_lib.papers.magvit` first.  Reading order: the
configurations; the tokenizer of images and clips (section 3.2), to which belong its layers
`course_lib.nn.causal_conv`, its quantizer `course_lib.quantize.lfq` (3.1) and its loss
`LOSS_CONFIG`; its start from an image model; tokens in two factors (3.2); the language models,
masked and autoregressive (4.1).  Clips are (b c t h w) in [-1, 1], an image is a clip of one frame,
and tokens are a grid (b t h w), read frame by frame, row by row.

No code was released.  What the text leaves open, and what is done here:
- What padded frames hold: zeros.  Where widths change: in the convolutions between resolutions.
  Biases, and as many blocks in the middle as at a resolution: as in MAGVIT's code.
- What a group norm averages over: one frame.  Across frames it would tell the first of later ones;
  here no token, and no latent, depends on a frame after its own.
- How latents control the decoder's adaptive norms: their mean over a frame sets the scales and
  shifts of its pixels.  The variance of a bit would say no more, as it is 1 - mean^2.  Open-MAGVIT2
  takes both, and over the whole clip.
- Whether the factors of a token are drawn one given the other: no.  "Separate prediction heads" see
  the same vector.  With a layer of BERT's head for each, the masked model has the published 307M
  parameters.
- The layers of the autoregressive model: VQGAN's.  The tokenizer's size: 58M in Table 5a is that of
  a smaller one.

The tiny tokenizer "tiny-patch" differs in one more thing: squares of 2 x 2 pixels become channels
before anything else (`patch`).
"""

import math
from dataclasses import dataclass, replace
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
    """The autoencoder.

    Defaults: the video model, 17 x 128 x 128 pixels to 5 x 16 x 16 tokens of 18 bits.
    """

    filters: int = 128
    multipliers: tuple[int, ...] = (1, 2, 2, 4)  # multiples of `filters`, one per resolution
    # Strides over frames, rows and columns from each resolution to the next.
    strides: tuple[tuple[int, int, int], ...] = ((1, 2, 2), (2, 2, 2), (2, 2, 2))
    blocks: int = 4  # residual blocks per resolution
    bits: int = 18  # of a token
    kernel_frames: int = 3  # 1: two-dimensional convolutions, for an image model
    padding: str = "zeros"  # before the first frame: zeros, or "replicate" it
    groups: int = 32
    channels: int = 3
    # Side in pixels of the squares that become channels before anything else: ours, for tiny ones.
    patch: int = 1
    commitment: float = 0.25
    entropy: float = 0.1  # three times as much at first: `course_lib.quantize.lfq.annealed_weight`

    def __post_init__(self):
        if len(self.strides) != len(self.multipliers) - 1:
            raise ValueError(f"expected {len(self.multipliers) - 1} strides, got {self.strides}")
        if self.kernel_frames == 1 and self.cell[0] > 1:
            raise ValueError(
                "expected no stride over frames in an image model (kernel_frames=1), got"
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
        return [self.filters * multiplier for multiplier in self.multipliers]

    @property
    def cell(self) -> tuple[int, int, int]:
        """Frames, rows and columns that one token stands for.

        In time this holds after the first frame, which has tokens of its own.
        """
        frames, rows, columns = (math.prod(axis) for axis in zip(*self.strides, strict=True))
        return frames, rows * self.patch, columns * self.patch

    @property
    def patch_channels(self) -> int:
        """Channels of a clip once its squares have become channels."""
        return self.channels * self.patch**2

    def token_grid(self, frames: int, height: int, width: int) -> tuple[int, int, int]:
        """Return the times, rows and columns of a clip's tokens.

        Raises ValueError for a clip that has not 1 + s t frames, or not whole cells.
        """
        s, rows, columns = self.cell
        if frames < 1 or (frames - 1) % s or height % rows or width % columns:
            got = (frames, height, width)
            raise ValueError(
                f"expected 1 + {s} t frames of sides divisible by {rows} and {columns}, got {got}"
            )
        return 1 + (frames - 1) // s, height // rows, width // columns


_TINY = TokenizerConfig(  # 17 x 32 x 32 pixels to 5 x 8 x 8 tokens
    filters=8,
    multipliers=(1, 2, 4, 8),
    strides=((1, 2, 2), (2, 2, 2), (2, 1, 1)),
    blocks=1,
    bits=10,
    groups=4,
)

TOKENIZER_CONFIGS = {  # appendix A
    "video-128": TokenizerConfig(),
    "image-128": TokenizerConfig(kernel_frames=1, strides=((1, 2, 2),) * 3),
    "tiny": _TINY,
    "tiny-patch": replace(  # the same tokens, more work where there are few places
        _TINY, patch=2, filters=24, multipliers=(1, 2, 2), strides=((2, 2, 2), (2, 1, 1)), groups=8
    ),
    "tiny-image": replace(_TINY, kernel_frames=1, strides=((1, 2, 2), (1, 2, 2), (1, 1, 1))),
}

DISCRIMINATOR_CONFIGS = {  # MAGVIT's, with blurs; not included in the counts of parameters
    "video-128": DiscriminatorConfig(size=(17, 128, 128), filters=128, halve="blur"),
    "tiny": DiscriminatorConfig(size=(17, 32, 32), filters=8, multipliers=(2, 4, 4), halve="blur"),
}

LOSS_CONFIG = LossConfig(squared_weight=5.0)  # appendix A; all other weights are MAGVIT's


@dataclass(frozen=True)
class LMConfig(BertConfig):
    """A language model on factorized tokens, with MAGVIT's vocabulary.  Defaults: UCF-101 (4.1)."""

    grid: tuple[int, int, int] = (5, 16, 16)
    num_codes: int = 2**18
    width: int = 1024
    depth: int = 24
    heads: int = 16
    mlp: int = 4096
    factors: int = 2

    def __post_init__(self):
        super().__post_init__()
        if self.num_codes != 2 ** sum(self.factor_bits):
            raise ValueError(
                f"expected 2^({self.factors} m) codes for {self.factors} equal factors, got"
                f" {self.num_codes}"
            )

    @property
    def factor_bits(self) -> tuple[int, ...]:
        """Bits of each factor of a code, the lowest bits first."""
        bits = self.num_codes.bit_length() - 1
        return (bits // self.factors,) * self.factors

    @property
    def other_tokens(self) -> int:
        """The number of tokens that are no codes."""
        return self.vocabulary - self.num_codes


_TINY_LM = LMConfig((5, 8, 8), 2**10, num_classes=8, width=128, depth=4, heads=4, mlp=512)

MLM_CONFIGS = {
    "MLM-UCF": LMConfig(),
    "MLM-ImageNet-256": LMConfig((1, 16, 16), num_classes=1000),
    "MLM-tiny": _TINY_LM,
}
AR_CONFIGS = {"AR-UCF": LMConfig(), "AR-tiny": _TINY_LM}  # as large as the masked ones


# ---------------------------------------------------------------- 3.2 the tokenizer


class Tokenizer(nn.Module):
    """Images and clips (b c t h w) of 1 + s t frames in [-1, 1] to tokens (b 1+t h w), and back."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        self.config = config
        self.encoder = Encoder(config)
        self.decoder = Decoder(config)
        self.quantizer = LFQ(config.bits, config.commitment, config.entropy)

    def forward(
        self, clip: Float[Tensor, "b c t h w"]
    ) -> tuple[Float[Tensor, "b c t h w"], Quantized]:
        """Return the reconstruction, and what the quantizer found."""
        quantized = self.encode(clip)
        return self.decode(quantized.latents), quantized

    def encode(self, clip: Float[Tensor, "b c t h w"]) -> Quantized:
        """Take the signs of the encoder's output."""
        return self.quantizer(self.features(clip))

    def features(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b bits t2 h2 w2"]:
        """Return the encoder's output, before it is quantized.

        Raises ValueError for a clip that has no grid of tokens.
        """
        self.config.token_grid(*clip.shape[2:])
        p = self.config.patch
        x = rearrange(clip, "b c t (h p) (w q) -> b (c p q) t h w", p=p, q=p)
        # CPUs convolve fastest with channels last.
        return self.encoder(x.contiguous(memory_format=torch.channels_last_3d))

    def decode(self, latents: Float[Tensor, "b bits t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """Return the clip that the decoder makes of latents."""
        p = self.config.patch
        return rearrange(self.decoder(latents), "b (c p q) t h w -> b c t (h p) (w q)", p=p, q=p)

    def decode_indices(self, indices: Int[Tensor, "b t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        """Return the clip of a grid of tokens."""
        return self.decode(self.quantizer.embed(indices))


class Encoder(nn.Sequential):
    """Residual blocks at every resolution, with strided convolutions between them.

    The strides over time come last.
    """

    def __init__(self, config: TokenizerConfig):
        widths = config.widths
        layers: list[nn.Module] = [conv(config, config.patch_channels, widths[0])]
        layers += residuals(config, widths[0])

        for (c_in, c_out), stride in zip(pairwise(widths), config.strides, strict=True):
            layers.append(conv(config, c_in, c_out, stride=stride))
            layers += residuals(config, c_out)

        layers += residuals(config, widths[-1])
        layers += [norm(config, widths[-1]), nn.SiLU()]
        super().__init__(*layers, CausalConv3d(widths[-1], config.bits, 1))


class Decoder(nn.Module):
    """The encoder backwards, with an adaptive norm before the blocks of every resolution."""

    def __init__(self, config: TokenizerConfig):
        super().__init__()
        widths = config.widths[::-1]
        middle = nn.Sequential(conv(config, config.bits, widths[0]), *residuals(config, widths[0]))
        frames = 1  # to a latent's
        self.levels = nn.ModuleList([DecoderLevel(config, middle, widths[0], frames)])

        # From coarse to fine.
        for (c_in, c_out), factors in zip(pairwise(widths), config.strides[::-1], strict=True):
            frames *= factors[0]
            kernel = (config.kernel_frames, 3, 3)
            upsample = CausalUpsample(c_in, c_out, factors, kernel, config.padding)
            self.levels.append(DecoderLevel(config, upsample, c_out, frames))

        self.norm_out = norm(config, widths[-1])
        self.conv_out = conv(config, widths[-1], config.patch_channels)

    def forward(self, latents: Float[Tensor, "b bits t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
        control = reduce(latents, "b bits t h w -> b t bits", "mean")
        x = latents
        for level in self.levels:
            x = level(x, control)  # b d t2 h2 w2, with t2 = 1 + frames (t - 1)
        return self.conv_out(F.silu(self.norm_out(x)))


class DecoderLevel(nn.Module):
    """One resolution: what leads to it, the adaptive norm, residual blocks.

    frames: how many frames there are to a latent's.
    """

    def __init__(self, config: TokenizerConfig, resize: nn.Module, width: int, frames: int):
        super().__init__()
        self.resize = resize
        self.frames = frames
        self.norm = FrameNorm(config.groups, width, eps=1e-6, affine=False)
        self.control = nn.Linear(config.bits, 2 * width)
        self.blocks = nn.Sequential(*residuals(config, width))

        # The scales of a new model are 1, its shifts 0.
        nn.init.zeros_(self.control.weight)
        nn.init.zeros_(self.control.bias)

    def forward(
        self, x: Float[Tensor, "b c t h w"], control: Float[Tensor, "b t0 k"]
    ) -> Float[Tensor, "b d t2 h2 w2"]:
        x = self.resize(x)  # b d t2 h2 w2

        # Latents are repeated in time as upsampling does it: the first one has a single frame.
        control = control.repeat_interleave(self.frames, dim=1)[:, self.frames - 1 :]  # b t2 k
        scale, shift = rearrange(self.control(control), "b t (two d) -> two b d t 1 1", two=2)

        x = self.norm(x) * (1 + scale) + shift  # b d t2 h2 w2
        return self.blocks(x)


class CausalResBlock(nn.Module):
    """Norm, swish and convolution, twice, around the identity; no biases."""

    def __init__(self, config: TokenizerConfig, width: int):
        super().__init__()
        self.norm1 = norm(config, width)
        self.norm2 = norm(config, width)
        self.conv1 = conv(config, width, width, bias=False)
        self.conv2 = conv(config, width, width, bias=False)

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        h = self.conv1(F.silu(self.norm1(x)))  # b c t h w
        h = self.conv2(F.silu(self.norm2(h)))  # b c t h w
        return x + h


def conv(config: TokenizerConfig, c_in: int, c_out: int, **options) -> CausalConv3d:
    """Make the tokenizer's convolution: 3 x 3 pixels of `kernel_frames` frames."""
    kernel = (config.kernel_frames, 3, 3)
    return CausalConv3d(c_in, c_out, kernel, padding=config.padding, **options)


def norm(config: TokenizerConfig, channels: int) -> FrameNorm:
    """Make the tokenizer's norm."""
    return FrameNorm(config.groups, channels, eps=1e-6)


def residuals(config: TokenizerConfig, width: int) -> list[CausalResBlock]:
    """Make the blocks of one resolution."""
    return [CausalResBlock(config, width) for _ in range(config.blocks)]


# ---------------------------------------------------------------- 3.2 a start from images


def inflate_last(kernel: Float[Tensor, "o i h w"], frames: int) -> Float[Tensor, "o i t h w"]:
    """Put the kernel at the last frame, which meets the newest one, and zeros at the others.

    MAGVIT takes the central frame.
    """
    return F.pad(kernel[:, :, None], (0, 0, 0, 0, frames - 1, 0))


@torch.no_grad()
def inflate(model: Tokenizer, image_tokenizer: Tokenizer) -> None:
    """Start a tokenizer of clips from one of images, in place.

    It gives the frames it keeps the same tokens.  Where it samples up in time it repeats frames.
    Raises ValueError unless the two differ only in time.
    """
    state = image_tokenizer.state_dict()
    image_layers = dict(image_tokenizer.named_modules())
    layers = [(name, image_layers.get(name), layer) for name, layer in model.named_modules()]

    for name, source, layer in layers:
        if isinstance(layer, CausalConv3d) and isinstance(source, CausalConv3d):
            kernel = source.weight[:, :, -1]  # o i h w
            state[f"{name}.weight"] = inflate_last(kernel, layer.kernel_size[0])

    for name, source, layer in layers:
        if isinstance(layer, CausalUpsample) and isinstance(source, CausalUpsample):
            # Depth-to-space makes `repeats` frames of channels that made one.
            repeats = layer.factors[0] // source.factors[0]
            state[f"{name}.conv.weight"] = state[f"{name}.conv.weight"].repeat(repeats, 1, 1, 1, 1)
            state[f"{name}.conv.bias"] = state[f"{name}.conv.bias"].repeat(repeats)

    expected = {name: value.shape for name, value in model.state_dict().items()}
    found = {name: value.shape for name, value in state.items()}
    names = expected.keys() | found.keys()
    misfits = sorted(name for name in names if expected.get(name) != found.get(name))
    if misfits:
        raise ValueError(
            f"expected tokenizers that differ only in time, got other weights in {misfits}"
        )
    model.load_state_dict(state)


# ---------------------------------------------------------------- 3.2 tokens in two factors


class FactorizedTokens(nn.Module):
    """Tokens to vectors and back to logits.

    For each factor there is a table, used both ways (weight tying), and a head.  factor_bits: those
    of each factor of a code; others: how many tokens are no codes.  Their numbers come last.
    """

    def __init__(self, width: int, factor_bits: tuple[int, ...], others: int):
        super().__init__()
        self.factor_bits = factor_bits
        self.num_codes = 2 ** sum(factor_bits)
        sizes = [2**bits for bits in factor_bits]
        self.tables = nn.ParameterList(torch.empty(size, width) for size in sizes)
        self.others = nn.Parameter(torch.empty(others, width))
        self.heads = nn.ModuleList(BertHead(width) for _ in sizes)
        self.biases = nn.ParameterList(torch.zeros(size) for size in sizes)
        for table in (*self.tables, self.others):
            truncated_normal_(table)

    def forward(self, tokens: Int[Tensor, "b n"]) -> Float[Tensor, "b n d"]:
        """Embed a code as the sum of its factors' vectors, other tokens as one of their own.

        Raises ValueError for unknown tokens.
        """
        check_indices(tokens, self.num_codes + len(self.others))
        is_code = tokens < self.num_codes  # b n

        parts = factorize(tokens.where(is_code, 0), self.factor_bits)  # b n factors
        codes = sum(
            F.embedding(part, table)
            for part, table in zip(parts.unbind(-1), self.tables, strict=True)
        )  # b n d

        other = (tokens - self.num_codes).clamp(min=0)  # b n
        return torch.where(is_code[..., None], codes, F.embedding(other, self.others))

    def logits(self, x: Float[Tensor, "b n d"]) -> list[Float[Tensor, "b n _"]]:
        """Return the logits of each factor, all from the same vectors."""
        layers = zip(self.heads, self.tables, self.biases, strict=True)
        return [F.linear(head(x), table, bias) for head, table, bias in layers]


def factor_losses(
    logits: list[Float[Tensor, "b n _"]], codes: Int[Tensor, "b n"], smoothing: float = 0.0
) -> Float[Tensor, "b n"]:
    """Return -ln p of every code, in nats: the sum over its factors, each under label smoothing."""
    bits = tuple(each.shape[-1].bit_length() - 1 for each in logits)
    parts = factorize(codes, bits).unbind(-1)  # b n, for each factor
    first, *others = (
        F.cross_entropy(each.mT, part, reduction="none", label_smoothing=smoothing)
        for each, part in zip(logits, parts, strict=True)
    )
    return sum(others, start=first)


def joint_logits(logits: list[Float[Tensor, "b n _"]]) -> Float[Tensor, "b n k"]:
    """Return ln p of every code there is.

    For 2^18 codes that is a megabyte a token: for drawing one at a time, not for training, nor for
    drawing many at once (`lm.sampling.draw_factors`).
    """
    joint, *others = (each.log_softmax(-1) for each in logits)
    for each in others:
        joint = rearrange(each[..., None] + joint[..., None, :], "b n high low -> b n (high low)")
    return joint


# ---------------------------------------------------------------- 4.1 the language models


class MaskedLM(nn.Module):
    """MAGVIT's transformer on factorized tokens: a prefix, then what is shown for the codes."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.tokens = FactorizedTokens(config.width, config.factor_bits, config.other_tokens)
        self.bert = Bert(
            length=config.prefix_length + math.prod(config.grid),
            width=config.width,
            depth=config.depth,
            heads=config.heads,
            mlp=config.mlp,
            dropout=config.dropout,
        )

    def forward(
        self, prefix: Int[Tensor, "b m"], shown: Int[Tensor, "b n"]
    ) -> list[Float[Tensor, "b n _"]]:
        """Return the logits of the factors at every place, for `lm.maskgit.parallel_decode`.

        They are trained on `factor_losses` with a smoothing of 1e-4.
        """
        tokens = torch.cat([prefix, shown], dim=1)  # b m+n
        x = self.bert(self.tokens(tokens))  # b m+n d
        return self.tokens.logits(x[:, prefix.shape[1] :])


class FactorizedTransformer(Transformer):
    """VQGAN's transformer between factorized tokens.

    It returns its last vectors, of which the tokens make logits.
    """

    def __init__(self, config: LMConfig):
        layers = TransformerConfig(
            vocabulary=1,
            length=config.prefix_length + math.prod(config.grid) - 1,  # the last code is not read
            depth=config.depth,
            heads=config.heads,
            width=config.width,
            dropout=config.dropout,
        )
        # The parent draws an embedding and a head of one token first.  They are not used, but a
        # seed keeps giving the initial weights from which the recorded run started.
        super().__init__(layers)
        self.tokens = FactorizedTokens(config.width, config.factor_bits, config.other_tokens)
        self.head = nn.Identity()


class CausalLM(nn.Module):
    """VQGAN's transformer on factorized tokens: a prefix, and the codes one after another."""

    def __init__(self, config: LMConfig):
        super().__init__()
        self.config = config
        self.transformer = FactorizedTransformer(config)

    def factor_logits(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> list[Float[Tensor, "b n _"]]:
        """Return the logits of the factors of the code after each token.

        With a cache, `tokens` go on where the last call ended.
        """
        return self.transformer.tokens.logits(self.transformer(tokens, cache))

    def forward(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b n k"]:
        """Return the logits of whole codes after each token."""
        return joint_logits(self.factor_logits(tokens, cache))

    def next_logits(
        self, tokens: Int[Tensor, "b n"], cache: KVCache | None = None
    ) -> Float[Tensor, "b k"]:
        """Return the logits of whole codes after the last token, for `lm.sampling.generate`."""
        last = self.transformer(tokens, cache)[:, -1:]  # b 1 d
        return joint_logits(self.transformer.tokens.logits(last))[:, 0]

    def losses(self, prefix: Int[Tensor, "b m"], codes: Int[Tensor, "b n"]) -> Float[Tensor, "b n"]:
        """Return -ln p of every code given the prefix and all codes before it, in nats."""
        tokens = torch.cat([prefix, codes[:, :-1]], dim=1)  # b m+n-1
        logits = self.factor_logits(tokens)
        first = prefix.shape[1] - 1  # the place that predicts the first code
        return factor_losses([each[:, first:] for each in logits], codes)


def decode_causal(
    model: CausalLM, prefix: Int[Tensor, "b m"], known: Int[Tensor, "b n0"] | None = None, **options
) -> Int[Tensor, "b n"]:
    """Draw codes one by one, after those of the first frames, if some are known.

    The options are those of `generate`.
    """
    prompt = prefix if known is None else torch.cat([prefix, known], dim=1)  # b m+n0
    length = prefix.shape[1] + math.prod(model.config.grid)
    drawn = generate(model, prompt, length - prompt.shape[1], **options)  # b n-n0
    return torch.cat([prompt[:, prefix.shape[1] :], drawn], dim=1)
