"""Notebook 05: MAGVIT and MAGVIT-v2 on clips of the little world.

`magvit-2d` is a tokenizer of single frames; `magvit-init-*` start a 3D one from it, or from
scratch, and `magvit-zero` pads with zeros; `magvit-3d` is the chapter's tokenizer, `magvit-bert`
its masked transformer for all ten tasks.  `magvit2-tokenizer` is MAGVIT-v2's, `magvit2-mlm` and
`magvit2-ar` a masked and an autoregressive language model of its tokens; of
`magvit2-tokenizer-patch` the colours can be told.  `sweep-vq-B` and
`sweep-lfq-B` are tokenizers of images with 2^B codes, `sweep-vq-B-mlm` and `sweep-lfq-B-mlm` the
masked language models of their tokens, VQ's predicted whole and LFQ's in two halves;
`sweep-vq-14-halves-mlm` and `sweep-lfq-14-whole-mlm` do it the other way round.
"""

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import lru_cache, partial, reduce
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import CLIP_JUDGE, KINDS, LPIPS_TRUNK, clips, free_clips, images, in_batches
from course_lib.lm.maskgit import parallel_decode
from course_lib.losses.adversarial import LeCam
from course_lib.metrics import frechet_distance, psnr, ssim
from course_lib.papers import magvit, magvit2, magvit_tokenizer
from course_lib.papers.magvit import TASKS, condition_clip, task_mask
from course_lib.papers.magvit_tokenizer import (
    DiscriminatorConfig,
    LossConfig,
    StyleGANDiscriminator,
    TokenizerLoss,
)
from course_lib.quantize.lfq import LFQ, annealed_weight
from course_lib.quantize.vq import Quantized, VectorQuantizer, perplexity, usage
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Model, Recipe, Tensors, Trainable
from course_lib.training.recipes.vqgan import fidelity, sample_scores
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

PIECE = 5  # frames
AnyTokenizer = magvit_tokenizer.Tokenizer | magvit2.Tokenizer
AnyTokenizerConfig = magvit_tokenizer.TokenizerConfig | magvit2.TokenizerConfig


def clip_length(config: AnyTokenizerConfig) -> int:
    """Return how many frames the clips of a tokenizer have.

    MAGVIT-v2's is causal and takes one more: the first frame has tokens of its own.
    """
    return 17 if isinstance(config, magvit2.TokenizerConfig) else 16


def pixels_to_clip(pixels: Tensor) -> Tensor:
    """Return clips (b t h w 3) uint8 as the tokenizers take them, (b 3 t h w) in [-1, 1]."""
    return rearrange(pixels_to_float(pixels), "b t c h w -> b c t h w")


def clip_to_frames(clip: Tensor) -> Tensor:
    """Return clips (b c t h w) as images (b*t c h w)."""
    return rearrange(clip, "b c t h w -> (b t) c h w")


# ---------------------------------------------------------------- tokenizers


class ClipTokenizer(Trainable):
    """A tokenizer of clips, its loss, and a discriminator that joins late."""

    model: AnyTokenizer
    discriminator: StyleGANDiscriminator | None
    lecam: LeCam | None
    step: Tensor

    def __init__(self, model: AnyTokenizer, recipe: "ClipTokenizerRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.perceptual, _ = load_checkpoint(LPIPS_TRUNK)
        weights = LossConfig(
            squared_weight=recipe.squared_weight, perceptual_weight=recipe.perceptual_weight
        )
        self.losses = TokenizerLoss(weights, self._perceptual_distance)
        if recipe.adversarial_from is None:
            self.discriminator = None
            self.lecam = None
        else:
            self.discriminator = StyleGANDiscriminator(recipe.discriminator_config)
            self.lecam = LeCam()
        self.register_buffer("step", torch.tensor(0))
        self.rebuilt = torch.empty(0)  # what the tokenizer made in this step

    def _perceptual_distance(self, clip: Tensor, rebuilt: Tensor) -> Tensor:
        """Return the distances of some of the frames (n c h w): others at every step."""
        every = self.recipe.perceptual_every
        seen = slice(int(self.step) % every, None, every)
        return self.perceptual.loss(rebuilt[seen], clip[seen])

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        players: dict[str, Iterable[nn.Parameter]] = {"tokenizer": list(self.model.parameters())}
        if self.discriminator is not None:
            players["discriminator"] = list(self.discriminator.parameters())
        return players

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        clip = pixels_to_clip(batch["pixels"])
        if int(self.step) < self.recipe.whole_from:
            first = int(rng.randint(0, clip.shape[2] - PIECE + 1, 1))
            clip = clip[:, :, first : first + PIECE]
        start = self.recipe.adversarial_from
        has_joined = start is not None and int(self.step) >= start
        if player == "tokenizer":
            return self.tokenizer_loss(clip, has_joined, rng)
        return self.discriminator_loss(clip, has_joined)

    def tokenizer_loss(self, clip: Tensor, has_joined: bool, rng: RandomSource) -> Tensor:
        """Rebuild the clips, and return the tokenizer's loss."""
        if isinstance(self.model.quantizer, LFQ):
            self.model.quantizer.entropy_weight = annealed_weight(
                int(self.step), steps=self.recipe.steps // 3
            )
        rebuilt, quantized = self.rebuild(clip, rng)
        self.rebuilt = rebuilt.detach()
        self.step += 1
        discriminator = self.discriminator if has_joined else None
        total, _ = self.losses.generator_loss(clip, rebuilt, quantized.loss, discriminator)
        return total

    def discriminator_loss(self, clip: Tensor, has_joined: bool) -> Tensor:
        """Return the discriminator's loss on the rebuilt clips; zero until it joins."""
        if self.discriminator is None or self.lecam is None:
            raise ValueError("expected a recipe with a discriminator, got adversarial_from=None")
        if not has_joined:
            return 0 * reduce(torch.add, [p.sum() for p in self.discriminator.parameters()])
        total, _ = self.losses.discriminator_loss(
            self.discriminator, clip, self.rebuilt, self.lecam
        )
        return total

    def rebuild(self, clip: Tensor, rng: RandomSource) -> tuple[Tensor, Quantized]:
        """Return the reconstruction and the quantized latents.

        In the first two thirds of the steps, dead codes of a codebook are revived.
        """
        quantizer = self.model.quantizer
        if isinstance(quantizer, VectorQuantizer) and self.step < 2 / 3 * self.recipe.steps:
            z = self.model.features(clip)
            quantizer.revive(z, rng.rand(len(z), *z.shape[2:]), after=20)
            quantized = quantizer(z)
            return self.model.decode(quantized.latents), quantized
        return self.model(clip)


@dataclass(frozen=True)
class ClipTokenizerRecipe(Recipe):
    """A tiny tokenizer of clips of anything, or of single frames with a preset of images."""

    lr_schedule: LRSchedule = "plateau"
    preset: str = "magvit/tiny"
    clips: int = 6000
    padding: str = "reflect"
    source: str | None = None  # a tokenizer of images to start from
    inflate: Literal["central", "average"] = "central"
    squared_weight: float = 20.0  # the papers have 1 and 5: here the adversary weighs less
    perceptual_weight: float = 1.0
    perceptual_every: int = 1  # LPIPS is measured on one of so many frames
    adversarial_from: int | None = None  # step at which the discriminator joins; None: never
    whole_from: int = 0  # step from which clips are whole; before, pieces of them are trained on

    @property
    def frames(self) -> int:
        """The number of frames of the tokenizer's clips."""
        return clip_length(zoo.find(self.preset).config)

    @property
    def discriminator_config(self) -> DiscriminatorConfig:
        """The configuration of the discriminator, which is that of the tokenizer's paper."""
        if isinstance(zoo.find(self.preset).config, magvit2.TokenizerConfig):
            return magvit2.DISCRIMINATOR_CONFIGS["tiny"]
        return magvit_tokenizer.DISCRIMINATOR_CONFIGS["tiny"]

    def build(self) -> ClipTokenizer:
        entry = zoo.find(self.preset)
        model: Model = entry.model(replace(entry.config, padding=self.padding))
        if self.source:
            inflations = {
                "central": magvit_tokenizer.inflate_central,
                "average": magvit_tokenizer.inflate_average,
            }
            source, _ = load_checkpoint(self.source)
            magvit_tokenizer.inflate(model, source, inflations[self.inflate])
        return ClipTokenizer(model, self)

    def data(self) -> Tensors:
        return Tensors(pixels=free_clips("train", self.clips)["pixels"][:, : self.frames])

    def measure(self, model: AnyTokenizer) -> dict:
        """Measure the fidelity of rebuilt test clips, their flicker, and the use of the codes."""
        pixels = free_clips("test", 256)["pixels"][:, : self.frames]
        rebuilt, indices = rebuild(model, pixels)
        codes = model.quantizer.num_codes
        return {
            **clip_fidelity(pixels_to_clip(pixels), rebuilt),
            "flicker": flicker(pixels_to_clip(pixels), rebuilt),
            "same token": shift_consistency(model, self.frames),
            "perplexity": float(perplexity(indices, codes)),
            "usage": float(usage(indices, codes)),
        }


@torch.no_grad()
def rebuild(model: AnyTokenizer, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Pass clips (n t h w 3) uint8 through a tokenizer.

    Returns the rebuilt clips (n c t h w) in [-1, 1] and the tokens (n t h w), on the CPU.
    """
    device = next(model.parameters()).device
    rebuilt = []
    tokens = []
    for part in pixels.split(16):
        clip, quantized = model(pixels_to_clip(part.to(device)))
        rebuilt.append(clip.clamp(-1, 1).cpu())
        tokens.append(quantized.indices.cpu())
    return torch.cat(rebuilt), torch.cat(tokens)


@torch.no_grad()
def clip_fidelity(clip: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """Measure how near rebuilt clips (n c t h w) in [-1, 1] are to the originals.

    PSNR, SSIM and LPIPS compare frames one by one, and the Fréchet distance clips as a set.
    """
    trunk, _ = load_checkpoint(LPIPS_TRUNK)
    pairs = list(
        zip(clip_to_frames(clip).split(256), clip_to_frames(rebuilt).split(256), strict=True)
    )
    return {
        "psnr": float(torch.cat([psnr(y, x) for x, y in pairs]).mean()),
        "ssim": float(torch.cat([ssim(y, x) for x, y in pairs]).mean()),
        "lpips": float(torch.cat([trunk(x, y) for x, y in pairs]).mean()),
        "frechet": clip_distance(clip, rebuilt),
    }


@torch.no_grad()
def clip_distance(real: Tensor, fake: Tensor) -> float:
    """Return the Fréchet distance of two sets of clips (n c t h w).

    It is measured in the judge of clips' features of their first 16 frames.
    """
    judge, _ = load_checkpoint(CLIP_JUDGE)
    features = [
        torch.cat([judge.features(part) for part in _judged_frames(clip).split(64)])
        for clip in (real, fake)
    ]
    return frechet_distance(*features)


def _judged_frames(clip: Tensor) -> Tensor:
    """Return what the judge of clips takes: the first 16 frames, (b c t h w) -> (b t c h w)."""
    return rearrange(clip[:, :, :16], "b c t h w -> b t c h w")


def with_clean_norms(
    model: magvit_tokenizer.Tokenizer, clean: Tensor
) -> Callable[[Tensor], Quantized]:
    """Return the encoder with its group norms held at what they measure on clean clips.

    It takes as many clips as there are clean ones, each with the mean and variance of its own.
    """
    norms = [layer for layer in model.encoder.modules() if isinstance(layer, nn.GroupNorm)]
    measured: dict[nn.Module, tuple[Tensor, Tensor]] = {}

    def grouped(layer: nn.GroupNorm, x: Tensor) -> Tensor:
        return rearrange(x, "b (g c) ... -> b g (c ...)", g=layer.num_groups)

    def measure(layer: nn.GroupNorm, inputs: tuple[Tensor, ...], _: Tensor) -> None:
        variance, mean = torch.var_mean(
            grouped(layer, inputs[0]), dim=2, correction=0, keepdim=True
        )
        measured[layer] = (mean, (variance + layer.eps).sqrt())

    def hold(layer: nn.GroupNorm, inputs: tuple[Tensor, ...], _: Tensor) -> Tensor:
        mean, deviation = measured[layer]
        x = ((grouped(layer, inputs[0]) - mean) / deviation).view_as(inputs[0])
        affine = (-1, *[1] * (x.ndim - 2))
        return x * layer.weight.view(affine) + layer.bias.view(affine)

    def encode(clip: Tensor, hook: Callable) -> Quantized:
        handles = [layer.register_forward_hook(hook) for layer in norms]
        try:
            return model.encode(clip)
        finally:
            for handle in handles:
                handle.remove()

    encode(clean, measure)
    return partial(encode, hook=hold)


def flicker(clip: Tensor, rebuilt: Tensor) -> float:
    """Return how much the error changes from frame to frame: the mean of |d(rebuilt - clip)|.

    Pixels are in [-1, 1].  An error that stays where it is, such as a blurred floor, does not
    flicker.
    """
    return float((rebuilt - clip).diff(dim=2).abs().mean())


@torch.no_grad()
def shift_consistency(model: AnyTokenizer, frames: int) -> float:
    """Return the share of tokens that stay the same when the view moves sideways by one token.

    Compared are the tokens of still clips where both views show the same pixels.
    """
    step = model.config.cell[2]
    wide = images("test", 64, size=32 + step, count=(1, 2, 3))["pixels"][:, :32]
    left, right = (
        rebuild(model, view[:, None].expand(-1, frames, -1, -1, -1))[1]
        for view in (wide[:, :, :32], wide[:, :, step:])
    )
    return float((left[..., 1:] == right[..., :-1]).float().mean())


# ---------------------------------------------------------------- transformers on their tokens

# The tasks whose padded clips differ: CG has no condition, and CFP has FP's.
CONDITION_TASKS = ("FP", "FI", "OPC", "OPV", "OPH", "OPD", "IPC", "IPD")


@lru_cache(maxsize=4)
def tokenized_clips(
    tokenizer: str, split: str, n: int, tasks: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """Return n clips of one object under a still camera as tokens of a tokenizer's checkpoint.

    `codes` (n t h w); `conditions` (n tasks t h w), the codes of each task's padded clip; `label`
    (n,), the motion; and `pixels` (n t h w 3) uint8.
    """
    model, _ = load_checkpoint(tokenizer)
    labelled = clips(split, n, clip_length(model.config))
    codes = []
    conditions = []
    with torch.no_grad():
        for pixels in labelled["pixels"].split(32):
            clip = pixels_to_clip(pixels)
            own = model.encode(clip).indices.int()
            padded = [model.encode(condition_clip(task, clip)).indices.int() for task in tasks]
            codes.append(own)
            # Stacking `own` in front gives (b 0 t h w) where there are no tasks.
            conditions.append(torch.stack([own, *padded], dim=1)[:, 1:])
    return {
        "codes": torch.cat(codes),
        "conditions": torch.cat(conditions),
        "label": labelled["motion"],
        "pixels": labelled["pixels"],
    }


def task_condition(batch: dict[str, Tensor], task: str) -> Tensor:
    """Return the tokens (b t h w) of a task's padded condition; for CG, which shows none, any."""
    padded_as = {"CFP": "FP", "CG": "FP"}.get(task, task)
    return batch["conditions"][:, CONDITION_TASKS.index(padded_as)].long()


def mask_share(rng: RandomSource) -> Tensor:
    """Draw the share of masked tokens of a batch, cos(pi / 2 * u) for a uniform u."""
    u = torch.rand((), generator=rng.generator, device=rng.device)
    return u.mul(torch.pi / 2).cos()


class MultiTask(Trainable):
    """MAGVIT's transformer; a batch has one of the ten tasks and one share of masked tokens."""

    model: magvit.MaskedTransformer

    def __init__(self, model: magvit.MaskedTransformer):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        number = torch.randint(len(TASKS), (), generator=rng.generator, device=rng.device)
        gamma = mask_share(rng)
        total, _ = self.task_loss(batch, TASKS[int(number)], gamma, rng)
        return total

    def task_loss(
        self, batch: dict[str, Tensor], task: str, gamma: Tensor, rng: RandomSource
    ) -> tuple[Tensor, dict]:
        """Return COMMIT's loss of one task, and its three parts."""
        config = self.model.config
        given = task_mask(task, batch["codes"].shape[1:]).to(batch["codes"].device).flatten()
        codes = batch["codes"].long().flatten(1)  # b n
        condition = task_condition(batch, task).flatten(1)
        masked = magvit.masked_places(rng.rand(*codes.shape), gamma)
        shown = magvit.commit_tokens(codes, condition, given, masked, config.mask_token)
        prefix = config.prefix_tokens(task, batch["label"])
        logits = self.model.code_logits(prefix, shown)
        return magvit.commit_loss(magvit.token_losses(logits, codes), given, masked)


@dataclass(frozen=True)
class BertRecipe(Recipe):
    """The masked transformer of all ten tasks, on tokens of one tokenizer."""

    lr_schedule: LRSchedule = "linear"
    tokenizer: str = "magvit-3d"
    clips: int = 3000
    weight_decay: float = 0.045

    def build(self) -> MultiTask:
        return MultiTask(magvit.MaskedTransformer(zoo.find("magvit/BERT-tiny").config))

    def data(self) -> Tensors:
        train = tokenized_clips(self.tokenizer, "train", self.clips, CONDITION_TASKS)
        return Tensors(codes=train["codes"], conditions=train["conditions"], label=train["label"])

    def measure(self, model: magvit.MaskedTransformer) -> dict:
        """Measure test clips completed in every task, and the tokenizer's own reconstructions."""
        tokenizer, _ = load_checkpoint(self.tokenizer)
        test = tokenized_clips(self.tokenizer, "test", 128, CONDITION_TASKS)
        real = pixels_to_clip(test["pixels"])
        scores = {}
        for task in TASKS:
            completed = magvit.generate(
                tokenizer,
                model,
                task,
                real,
                test["label"],
                steps=12,
                generator=torch.Generator().manual_seed(0),
            ).clamp(-1, 1)
            scores[task] = {
                "frechet": clip_distance(real, completed),
                "motion as asked": motion_accuracy(completed, test["label"]),
            }
        rebuilt, _ = rebuild(tokenizer, test["pixels"])
        return {
            "frechet": sum(each["frechet"] for each in scores.values()) / len(TASKS),
            "tokenizer frechet": clip_distance(real, rebuilt),
            "tasks": scores,
        }


@torch.no_grad()
def motion_accuracy(clip: Tensor, label: Tensor) -> float:
    """Return the share of clips (n c t h w) in which the judge of clips reads this motion (n,)."""
    judge, _ = load_checkpoint(CLIP_JUDGE)
    motions = [judge.read(part)["motion"] for part in _judged_frames(clip).split(64)]
    return float((torch.cat(motions) == label).float().mean())


class MaskedPrior(Trainable):
    """A masked language model of class-conditional generation, MAGVIT's task CG."""

    model: magvit2.MaskedLM

    def __init__(self, model: magvit2.MaskedLM):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long().flatten(1)
        gamma = mask_share(rng)
        masked = magvit.masked_places(rng.rand(*codes.shape), gamma)
        shown = codes.masked_fill(masked, self.model.config.mask_token)
        prefix = self.model.config.prefix_tokens("CG", batch["label"])
        logits = self.model(prefix, shown)
        return magvit.masked_loss(magvit2.factor_losses(logits, codes, smoothing=1e-4), masked)


class CausalPrior(Trainable):
    """An autoregressive language model of the same task."""

    model: magvit2.CausalLM

    def __init__(self, model: magvit2.CausalLM):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long().flatten(1)
        prefix = self.model.config.prefix_tokens("CG", batch["label"])
        return self.model.losses(prefix, codes).mean()


def sample_code_grids(
    model: magvit2.MaskedLM | magvit2.CausalLM,
    label: Tensor,
    generator: torch.Generator,
    **options,
) -> Tensor:
    """Draw grids of codes (b t h w) of these classes (b,).

    A causal model draws them one by one, a masked one in parallel, by default in 12 steps.  Options
    are those of `decode_causal` or of `parallel_decode`.
    """
    config = model.config
    prefix = config.prefix_tokens("CG", label)
    if isinstance(model, magvit2.CausalLM):
        codes = magvit2.decode_causal(model, prefix, generator=generator, **options)
    else:
        canvas = torch.full(
            (len(label), math.prod(config.grid)), config.mask_token, device=label.device
        )
        unknown = torch.ones_like(canvas, dtype=torch.bool)
        predict = partial(model, prefix)
        decoding = parallel_decode(
            predict, canvas, unknown, generator=generator, **{"steps": 12} | options
        )
        codes = decoding.tokens[-1]
    return codes.view(len(label), *config.grid)


@dataclass(frozen=True)
class LanguageModelRecipe(Recipe):
    """MAGVIT-v2's language models of class-conditional generation; the class is the motion."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "magvit2/MLM-tiny"
    tokenizer: str = "magvit2-tokenizer"
    clips: int = 3000
    weight_decay: float = 0.045

    def build(self) -> MaskedPrior | CausalPrior:
        model: Model = zoo.build(self.preset)
        return CausalPrior(model) if isinstance(model, magvit2.CausalLM) else MaskedPrior(model)

    def data(self) -> Tensors:
        train = tokenized_clips(self.tokenizer, "train", self.clips)
        return Tensors(codes=train["codes"], label=train["label"])

    def measure(self, model: magvit2.MaskedLM | magvit2.CausalLM) -> dict:
        """Compare drawn clips of every motion with test clips."""
        tokenizer, _ = load_checkpoint(self.tokenizer)
        test = tokenized_clips(self.tokenizer, "test", 128)
        codes = sample_code_grids(model, test["label"], torch.Generator().manual_seed(0))
        drawn = decode_grids(tokenizer, codes, at_once=16)
        return {
            "frechet": clip_distance(pixels_to_clip(test["pixels"]), drawn),
            "motion as asked": motion_accuracy(drawn, test["label"]),
        }


@torch.no_grad()
def decode_grids(tokenizer: AnyTokenizer, codes: Tensor, at_once: int) -> Tensor:
    """Decode grids of codes (n t h w) to clips (n c t h w) in [-1, 1], `at_once` at a time."""
    parts = [tokenizer.decode_indices(part) for part in codes.split(at_once)]
    return torch.cat([part.clamp(-1, 1) for part in parts])


# --------------------------------------------------------- VQ and LFQ by the size of the vocabulary

IMAGE_STRIDES = ((1, 2, 2), (1, 2, 2), (1, 2, 2))  # 32 x 32 pixels to 4 x 4 tokens
BITS = (6, 8, 10, 12, 14)


class VQTokenizer(magvit2.Tokenizer):
    """MAGVIT-v2's tokenizer of images with a codebook of 32 numbers per code in LFQ's place."""

    def __init__(self, config: magvit2.TokenizerConfig, num_codes: int):
        super().__init__(replace(config, bits=32))
        self.quantizer = VectorQuantizer(num_codes, 32, update="ema")  # type: ignore[assignment]


@dataclass(frozen=True)
class SweepRecipe(ClipTokenizerRecipe):
    """MAGVIT-v2's tokenizer of images, with its own quantizer or a codebook of as many codes."""

    preset: str = "magvit2/tiny-image"
    padding: str = "zeros"
    quantizer: Literal["vq", "lfq"] = "lfq"
    bits: int = 10
    pictures: int = 20_000

    def build(self) -> ClipTokenizer:
        config = replace(zoo.find(self.preset).config, strides=IMAGE_STRIDES)
        if self.quantizer == "lfq":
            return ClipTokenizer(magvit2.Tokenizer(replace(config, bits=self.bits)), self)
        return ClipTokenizer(VQTokenizer(config, num_codes=2**self.bits), self)

    def data(self) -> Tensors:
        return Tensors(pixels=images("train", self.pictures)["pixels"][:, None])

    def measure(self, model: AnyTokenizer) -> dict:
        """Measure the fidelity of rebuilt test images and the use of the codes."""
        pixels = images("test", 1000)["pixels"][:, None]
        rebuilt, indices = rebuild(model, pixels)
        return {
            **fidelity(pixels_to_clip(pixels)[:, :, 0], rebuilt[:, :, 0]),
            "perplexity": float(perplexity(indices, 2**self.bits)),
            "usage": float(usage(indices, 2**self.bits)),
        }


@dataclass(frozen=True)
class SweepPriorRecipe(Recipe):
    """The masked language model of a sweep's tokens: LFQ's in two factors."""

    lr_schedule: LRSchedule = "linear"
    tokenizer: str = "sweep-lfq-10"
    clips: int = 3000  # not used: it trains on images; kept because its results recorded it
    weight_decay: float = 0.045
    bits: int = 10
    factors: int = 2
    pictures: int = 20_000

    def build(self) -> MaskedPrior:
        config = replace(
            zoo.find("magvit2/MLM-tiny").config,
            grid=(1, 4, 4),
            num_codes=2**self.bits,
            factors=self.factors,
            num_classes=KINDS,
            multi_task=False,
        )
        return MaskedPrior(magvit2.MaskedLM(config))

    def data(self) -> Tensors:
        model, _ = load_checkpoint(self.tokenizer)
        train = images("train", self.pictures)
        codes = in_batches(lambda x: model.encode(x[:, :, None]).indices.int(), train["pixels"])
        return Tensors(codes=codes, label=train["kind"])

    def measure(self, model: magvit2.MaskedLM) -> dict:
        """Measure what the judge of images reads in drawn images of every class."""
        tokenizer, _ = load_checkpoint(self.tokenizer)
        kind = torch.arange(512) % KINDS
        codes = sample_code_grids(model, kind, torch.Generator().manual_seed(0), steps=8)
        drawn = decode_grids(tokenizer, codes, at_once=64)
        return sample_scores(drawn[:, :, 0], kind)


# ---------------------------------------------------------------- the recipes

SCRATCH = ClipTokenizerRecipe(
    "magvit-init-scratch",
    steps=300,
    batch_size=8,
    learning_rate=1e-3,
    betas=(0.5, 0.99),
    warmup=50,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
)
LIVE = replace(SCRATCH, name="magvit-live", steps=200, warmup=20, clips=400)
CENTRAL = replace(SCRATCH, name="magvit-init-central", source="magvit-2d")
# MAGVIT-v2's tokenizer, better at colours.  At first its clips are pieces, which cost a third.
COLOUR = replace(
    SCRATCH,
    name="magvit2-tokenizer-patch",
    preset="magvit2/tiny-patch",
    steps=6000,
    batch_size=16,
    learning_rate=2e-3,
    ema=0.995,
    padding="zeros",
    squared_weight=40.0,
    perceptual_weight=0.25,
    perceptual_every=5,
    whole_from=5000,
)
BERT = BertRecipe(
    "magvit-bert",
    steps=1200,
    batch_size=16,
    learning_rate=1e-3,
    warmup=100,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
)
MLM = LanguageModelRecipe(
    "magvit2-mlm",
    steps=1200,
    batch_size=16,
    learning_rate=1e-3,
    warmup=100,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
)
SWEEP = SweepRecipe(
    "sweep-lfq-10",
    steps=500,
    batch_size=32,
    learning_rate=1e-3,
    betas=(0.5, 0.99),
    warmup=50,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
    quantizer="lfq",
    bits=10,
)
SWEEP_PRIOR = SweepPriorRecipe(
    "sweep-lfq-10-mlm",
    steps=500,
    batch_size=64,
    learning_rate=1e-3,
    warmup=100,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
    tokenizer="sweep-lfq-10",
    bits=10,
    factors=2,
)


def sweep_prior(tokenizer: str, bits: int, factors: int) -> SweepPriorRecipe:
    """Return the recipe `TOKENIZER-mlm` of the language model of a sweep's tokenizer."""
    return replace(
        SWEEP_PRIOR, name=f"{tokenizer}-mlm", tokenizer=tokenizer, bits=bits, factors=factors
    )


RECIPES: list[Recipe] = [
    LIVE,
    replace(SCRATCH, name="magvit-2d", preset="magvit/tiny 2D", steps=600),
    CENTRAL,
    replace(CENTRAL, name="magvit-init-average", inflate="average"),
    SCRATCH,
    replace(CENTRAL, name="magvit-zero", padding="zeros"),
    replace(CENTRAL, name="magvit-3d", steps=1500, adversarial_from=1000),
    BERT,
    replace(
        SCRATCH,
        name="magvit2-tokenizer",
        preset="magvit2/tiny",
        steps=2000,
        learning_rate=2e-3,
        padding="zeros",
        squared_weight=40.0,
    ),
    COLOUR,
    MLM,
    replace(MLM, name="magvit2-ar", preset="magvit2/AR-tiny"),
    replace(SWEEP, name="sweep-vq-6", quantizer="vq", bits=6),
    replace(SWEEP, name="sweep-vq-8", quantizer="vq", bits=8),
    replace(SWEEP, name="sweep-vq-10", quantizer="vq", bits=10),
    replace(SWEEP, name="sweep-vq-12", quantizer="vq", bits=12),
    replace(SWEEP, name="sweep-vq-14", quantizer="vq", bits=14),
    replace(SWEEP, name="sweep-lfq-6", bits=6),
    replace(SWEEP, name="sweep-lfq-8", bits=8),
    SWEEP,
    replace(SWEEP, name="sweep-lfq-12", bits=12),
    replace(SWEEP, name="sweep-lfq-14", bits=14),
    sweep_prior("sweep-vq-6", bits=6, factors=1),
    sweep_prior("sweep-vq-8", bits=8, factors=1),
    sweep_prior("sweep-vq-10", bits=10, factors=1),
    sweep_prior("sweep-vq-12", bits=12, factors=1),
    sweep_prior("sweep-vq-14", bits=14, factors=1),
    sweep_prior("sweep-lfq-6", bits=6, factors=2),
    sweep_prior("sweep-lfq-8", bits=8, factors=2),
    SWEEP_PRIOR,
    sweep_prior("sweep-lfq-12", bits=12, factors=2),
    sweep_prior("sweep-lfq-14", bits=14, factors=2),
    # The controls: the same tokens under the other kind of head.
    replace(sweep_prior("sweep-vq-14", bits=14, factors=2), name="sweep-vq-14-halves-mlm"),
    replace(sweep_prior("sweep-lfq-14", bits=14, factors=1), name="sweep-lfq-14-whole-mlm"),
]
