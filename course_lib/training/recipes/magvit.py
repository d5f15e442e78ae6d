"""Notebook 05: MAGVIT and MAGVIT-v2 on clips of the little world.

`magvit-2d` is a tokenizer of single frames; `magvit-init-*` start a 3D one from it, or from
nothing, and `magvit-zero` pads with zeros; `magvit-3d` is the chapter's tokenizer, `magvit-bert`
its masked transformer for all ten tasks. `magvit2-tokenizer` is MAGVIT-v2's, `magvit2-mlm` and
`magvit2-ar` a masked and an autoregressive language model of its tokens.  `sweep-vq-B` and
`sweep-lfq-B` are tokenizers of pictures with 2^B codes, `sweep-vq-B-mlm` and `sweep-lfq-B-mlm` the
masked language models of their tokens.
"""

import functools
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import CLIP_JUDGE, LPIPS_TRUNK, clips, free_clips, images, in_batches
from course_lib.lm.maskgit import parallel_decode
from course_lib.losses.adversarial import LeCam
from course_lib.metrics import frechet_distance, psnr, ssim
from course_lib.papers import magvit, magvit2, magvit_tokenizer
from course_lib.papers.magvit import TASKS, condition_clip, task_mask
from course_lib.papers.magvit_tokenizer import LossConfig, StyleGANDiscriminator, TokenizerLoss
from course_lib.quantize.lfq import LFQ, annealed_weight
from course_lib.quantize.vq import VectorQuantizer, perplexity, usage
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes.vqgan import fidelity, sample_scores
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

FRAMES = {"magvit": 16, "magvit2": 17}
DISCRIMINATOR_CONFIGS = {
    "magvit": magvit_tokenizer.DISCRIMINATOR_CONFIGS["tiny"],
    "magvit2": magvit2.DISCRIMINATOR_CONFIGS["tiny"],
}


def pixels_to_clip(pixels: Tensor) -> Tensor:
    """Clips (b t h w 3) uint8 as the tokenizers take them, (b 3 t h w) in [-1, 1]."""
    return rearrange(pixels_to_float(pixels), "b t c h w -> b c t h w")


def clip_to_frames(clip: Tensor) -> Tensor:
    """Clips (b c t h w) as pictures (b*t c h w)."""
    return rearrange(clip, "b c t h w -> (b t) c h w")


# ---------------------------------------------------------------- tokenizers


class ClipTokenizer(Trainable):
    """A tokenizer of clips, its loss, and a discriminator that joins late."""

    def __init__(self, model: nn.Module, recipe: "ClipTokenizerRecipe"):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.perceptual = load_checkpoint(LPIPS_TRUNK)[0]
        weights = LossConfig(
            squared_weight=recipe.squared_weight, perceptual_weight=recipe.perceptual_weight
        )
        self.losses = TokenizerLoss(
            weights, lambda clip, rebuilt: self.perceptual.loss(rebuilt, clip)
        )
        self.discriminator = self.lecam = None
        if recipe.adversarial_from is not None:
            self.discriminator = StyleGANDiscriminator(DISCRIMINATOR_CONFIGS[recipe.paper])
            self.lecam = LeCam()
        self.register_buffer("step", torch.tensor(0))
        self.rebuilt = None  # by the tokenizer in this step

    def players(self):
        players = {"tokenizer": list(self.model.parameters())}
        return (
            players
            if self.discriminator is None
            else players | {"discriminator": self.discriminator.parameters()}
        )

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        clip = pixels_to_clip(batch["pixels"])
        playing = self.discriminator is not None and bool(self.step >= self.recipe.adversarial_from)
        if player == "tokenizer":
            if isinstance(self.model.quantizer, LFQ):
                self.model.quantizer.entropy_weight = annealed_weight(
                    int(self.step), steps=self.recipe.steps // 3
                )
            rebuilt, quantized = self.rebuild(clip, rng)
            self.rebuilt = rebuilt.detach()
            self.step += 1
            return self.losses.generator_loss(
                clip, rebuilt, quantized.loss, self.discriminator if playing else None
            )[0]
        if not playing:
            return 0 * sum(p.sum() for p in self.discriminator.parameters())
        return self.losses.discriminator_loss(self.discriminator, clip, self.rebuilt, self.lecam)[0]

    def rebuild(self, clip: Tensor, rng: RandomSource):
        """The reconstruction, and what the quantiser found; dead codes of a codebook are revived at
        first.
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
    """A tiny tokenizer of clips of anything; of single frames where the preset is one of pictures."""

    lr_schedule: LRSchedule = "plateau"
    preset: str = "magvit/tiny"
    clips: int = 6000
    padding: str = "reflect"
    source: str | None = None  # a tokenizer of pictures to start from
    inflate: Literal["central", "average"] = "central"
    squared_weight: float = 20.0  # the papers' 1 and 5 are for a thousand times as many steps
    perceptual_weight: float = 1.0
    adversarial_from: int | None = None  # step of the discriminator's entry; None: it never enters

    @property
    def paper(self) -> str:
        """The file of the model: magvit or magvit2."""
        return self.preset.partition("/")[0]

    def build(self) -> ClipTokenizer:
        entry = zoo.find(self.preset)
        model = entry.model(replace(entry.config, padding=self.padding))
        if self.source:
            kernel = {
                "central": magvit_tokenizer.inflate_central,
                "average": magvit_tokenizer.inflate_average,
            }[self.inflate]
            magvit_tokenizer.inflate(model, load_checkpoint(self.source)[0], kernel)
        return ClipTokenizer(model, self)

    def data(self) -> Tensors:
        return Tensors(pixels=free_clips("train", self.clips)["pixels"][:, : FRAMES[self.paper]])

    def measure(self, model: nn.Module) -> dict:
        """Fidelity of rebuilt test clips frame by frame, their distance as clips, flicker, and use
        of the codes.
        """
        pixels = free_clips("test", 256)["pixels"][:, : FRAMES[self.paper]]
        rebuilt, indices = rebuild(model, pixels)
        codes = model.quantizer.num_codes
        return {
            **clip_fidelity(pixels_to_clip(pixels), rebuilt),
            "flicker": flicker(pixels_to_clip(pixels), rebuilt),
            "same token": shift_consistency(model, FRAMES[self.paper]),
            "perplexity": float(perplexity(indices, codes)),
            "usage": float(usage(indices, codes)),
        }


@torch.no_grad()
def rebuild(model: nn.Module, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Clips (n t h w 3) uint8 through a tokenizer: rebuilt (n c t h w) in [-1, 1], and tokens (n t
    h w).
    """
    device = next(model.parameters()).device
    parts = [model(pixels_to_clip(part.to(device))) for part in pixels.split(16)]
    return torch.cat([x.clamp(-1, 1).cpu() for x, _ in parts]), torch.cat(
        [q.indices.cpu() for _, q in parts]
    )


@torch.no_grad()
def clip_fidelity(clip: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """How near rebuilt clips (n c t h w) in [-1, 1] are to the originals: frames one by one, and
    clips as a set.
    """
    trunk = load_checkpoint(LPIPS_TRUNK)[0]
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
    """Fréchet distance of two sets of clips (n c t h w), in the clip judge's features of their
    first 16 frames.
    """
    judge = load_checkpoint(CLIP_JUDGE)[0]
    sides = [rearrange(x[:, :, :16], "b c t h w -> b t c h w") for x in (real, fake)]
    return frechet_distance(
        *(torch.cat([judge.features(part) for part in side.split(64)]) for side in sides)
    )


def flicker(clip: Tensor, rebuilt: Tensor) -> float:
    """How much the error itself changes from frame to frame: the mean of |d(rebuilt - clip)|,
    pixels in [-1, 1].

    An error that stays where it is, such as a blurred floor, does not flicker.
    """
    return float((rebuilt - clip).diff(dim=2).abs().mean())


@torch.no_grad()
def shift_consistency(model: nn.Module, frames: int) -> float:
    """The share of tokens that stay the same when the view moves by one token to the side.

    Where both views show the same pixels, in still clips.
    """
    step = model.config.cell[2]
    wide = images("test", 64, size=32 + step, count=(1, 2, 3))["pixels"][:, :32]
    left, right = (
        rebuild(model, view[:, None].expand(-1, frames, -1, -1, -1))[1]
        for view in (wide[:, :, :32], wide[:, :, step:])
    )
    return float((left[..., 1:] == right[..., :-1]).float().mean())


# ---------------------------------------------------------------- transformers on their tokens

BY_CONDITION = ("FP", "FI", "OPC", "OPV", "OPH", "OPD", "IPC", "IPD")  # CG has none, CFP has FP's


@functools.lru_cache(maxsize=4)
def tokenized_clips(
    tokenizer: str, split: str, n: int, tasks: tuple[str, ...] = ()
) -> dict[str, Tensor]:
    """n clips of one object under a still camera, as tokens: `codes` (n t h w), and `conditions` (n
    tasks t h w).

    The conditions are the codes of each task's padded clip.  Besides, `label` (n,), the motion, and
    `pixels`.
    """
    model, made = load_checkpoint(tokenizer)
    frames = FRAMES[made["recipe"]["preset"].partition("/")[0]]
    found = clips(split, n, frames)
    codes, conditions = [], []
    with torch.no_grad():
        for pixels in found["pixels"].split(32):
            clip = pixels_to_clip(pixels)
            codes.append(model.encode(clip).indices.int())
            padded = [model.encode(condition_clip(task, clip)).indices.int() for task in tasks]
            conditions.append(torch.stack([codes[-1], *padded], dim=1)[:, 1:])
    return {
        "codes": torch.cat(codes), "conditions": torch.cat(conditions), "label": found["motion"],
        "pixels": found["pixels"],
    }  # fmt: skip


def task_condition(batch: dict[str, Tensor], task: str) -> Tensor:
    """The tokens (b t h w) of a task's padded condition; of CG, which shows none, any."""
    kind = {"CFP": "FP", "CG": "FP"}.get(task, task)
    return batch["conditions"][:, BY_CONDITION.index(kind)].long()


class MultiTask(Trainable):
    """MAGVIT's transformer: one of the ten tasks and one share of masked tokens for a batch."""

    def __init__(self, model: magvit.MaskedTransformer):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        task = TASKS[int(torch.randint(len(TASKS), (), generator=rng.generator, device=rng.device))]
        gamma = torch.rand((), generator=rng.generator, device=rng.device).mul(torch.pi / 2).cos()
        return self.task_loss(batch, task, gamma, rng)[0]

    def task_loss(
        self, batch: dict[str, Tensor], task: str, gamma: Tensor, rng: RandomSource
    ) -> tuple[Tensor, dict]:
        """COMMIT's loss of one task, and its three parts."""
        codes, condition = batch["codes"].long(), task_condition(batch, task)
        given = task_mask(task, codes.shape[1:]).to(codes.device)
        flat = codes.flatten(1)
        masked = magvit.masked_places(rng.rand(*flat.shape), gamma)
        shown = magvit.commit_tokens(
            flat, condition.flatten(1), given.flatten(), masked, self.model.config.mask_token
        )
        logits = self.model.code_logits(
            self.model.config.prefix_tokens(task, batch["label"]), shown
        )
        return magvit.commit_loss(magvit.token_losses(logits, flat), given.flatten(), masked)


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
        found = tokenized_clips(self.tokenizer, "train", self.clips, BY_CONDITION)
        return Tensors(**{name: found[name] for name in ("codes", "conditions", "label")})

    def measure(self, model: nn.Module) -> dict:
        """Each task's Fréchet distance of completed test clips, and of the tokenizer's own
        reconstructions.
        """
        tokenizer = load_checkpoint(self.tokenizer)[0]
        found = tokenized_clips(self.tokenizer, "test", 128, BY_CONDITION)
        real = pixels_to_clip(found["pixels"])
        scores = {}
        for task in TASKS:
            made = magvit.generate(
                tokenizer,
                model,
                task,
                real,
                found["label"],
                steps=12,
                generator=torch.Generator().manual_seed(0),
            ).clamp(-1, 1)
            scores[task] = {
                "frechet": clip_distance(real, made),
                "motion as asked": motion_accuracy(made, found["label"]),
            }
        rebuilt, _ = rebuild(tokenizer, found["pixels"])
        return {
            "frechet": sum(each["frechet"] for each in scores.values()) / len(TASKS),
            "tokenizer frechet": clip_distance(real, rebuilt),
            "tasks": scores,
        }


@torch.no_grad()
def motion_accuracy(clip: Tensor, label: Tensor) -> float:
    """Return the share of clips (n c t h w) in which the clip judge reads this motion (n,)."""
    judge = load_checkpoint(CLIP_JUDGE)[0]
    read = [
        judge.read(rearrange(part[:, :, :16], "b c t h w -> b t c h w"))["motion"]
        for part in clip.split(64)
    ]
    return float((torch.cat(read) == label).float().mean())


class MaskedPrior(Trainable):
    """A masked language model of one task, class-conditional generation: whatever is masked shows
    [MASK].
    """

    def __init__(self, model: magvit2.MaskedLM):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long().flatten(1)
        gamma = torch.rand((), generator=rng.generator, device=rng.device).mul(torch.pi / 2).cos()
        masked = magvit.masked_places(rng.rand(*codes.shape), gamma)
        shown = codes.masked_fill(masked, self.model.config.mask_token)
        logits = self.model(self.model.config.prefix_tokens("CG", batch["label"]), shown)
        return magvit.masked_loss(magvit2.factor_losses(logits, codes, smoothing=1e-4), masked)


class CausalPrior(Trainable):
    """The autoregressive language model of the same task."""

    def __init__(self, model: magvit2.CausalLM):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long().flatten(1)
        return self.model.losses(
            self.model.config.prefix_tokens("CG", batch["label"]), codes
        ).mean()


def sample_code_grids(
    model: nn.Module, label: Tensor, generator: torch.Generator, **options
) -> Tensor:
    """Grids of codes (b t h w) of these classes (b,), in parallel or one by one, as the model wants
    it.
    """
    prefix, grid = model.config.prefix_tokens("CG", label), model.config.grid
    if isinstance(model, magvit2.CausalLM):
        codes = magvit2.decode_causal(model, prefix, generator=generator, **options)
    else:
        canvas = torch.full(
            (len(label), grid[0] * grid[1] * grid[2]), model.config.mask_token, device=label.device
        )
        unknown = torch.ones_like(canvas, dtype=torch.bool)
        predict = functools.partial(model.code_logits, prefix)
        codes = parallel_decode(
            predict, canvas, unknown, generator=generator, **{"steps": 12} | options
        ).tokens[-1]
    return codes.view(len(label), *grid)


@dataclass(frozen=True)
class LanguageModelRecipe(Recipe):
    """MAGVIT-v2's language models of class-conditional generation; the class is the motion."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "magvit2/MLM-tiny"
    tokenizer: str = "magvit2-tokenizer"
    clips: int = 3000
    weight_decay: float = 0.045

    def build(self) -> MaskedPrior | CausalPrior:
        model = zoo.build(self.preset)
        return CausalPrior(model) if isinstance(model, magvit2.CausalLM) else MaskedPrior(model)

    def data(self) -> Tensors:
        found = tokenized_clips(self.tokenizer, "train", self.clips)
        return Tensors(codes=found["codes"], label=found["label"])

    def measure(self, model: nn.Module) -> dict:
        """Drawn clips of every motion against test clips."""
        tokenizer = load_checkpoint(self.tokenizer)[0]
        found = tokenized_clips(self.tokenizer, "test", 128)
        codes = sample_code_grids(model, found["label"], torch.Generator().manual_seed(0))
        with torch.no_grad():
            made = torch.cat(
                [tokenizer.decode_indices(part).clamp(-1, 1) for part in codes.split(16)]
            )
        real = pixels_to_clip(found["pixels"])
        return {
            "frechet": clip_distance(real, made),
            "motion as asked": motion_accuracy(made, found["label"]),
        }


# ---------------------------------------------------------------- VQ against LFQ, by the size of the vocabulary

PICTURE_STRIDES = ((1, 2, 2), (1, 2, 2), (1, 2, 2))  # 32 x 32 pixels to 4 x 4 tokens
BITS = (6, 8, 10, 12, 14)


@dataclass(frozen=True)
class SweepRecipe(ClipTokenizerRecipe):
    """MAGVIT-v2's tokenizer on single pictures, with its own quantiser or with a codebook of as
    many codes.
    """

    preset: str = "magvit2/tiny-image"
    padding: str = "zeros"
    quantizer: Literal["vq", "lfq"] = "lfq"
    bits: int = 10
    pictures: int = 20_000

    def build(self) -> ClipTokenizer:
        config = replace(zoo.find(self.preset).config, strides=PICTURE_STRIDES)
        if self.quantizer == "lfq":
            return ClipTokenizer(magvit2.Tokenizer(replace(config, bits=self.bits)), self)
        # a vector of 32 numbers in a bit's place
        model = magvit2.Tokenizer(replace(config, bits=32))
        model.quantizer = VectorQuantizer(2**self.bits, 32, update="ema")
        return ClipTokenizer(model, self)

    def data(self) -> Tensors:
        return Tensors(pixels=images("train", self.pictures)["pixels"][:, None])

    def measure(self, model: nn.Module) -> dict:
        """Fidelity of rebuilt test pictures, and use of the codes."""
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
            zoo.find("magvit2/MLM-tiny").config, grid=(1, 4, 4), num_codes=2**self.bits, factors=self.factors,
            num_classes=32, multi_task=False,
        )  # fmt: skip
        return MaskedPrior(magvit2.MaskedLM(config))

    def data(self) -> Tensors:
        model, found = load_checkpoint(self.tokenizer)[0], images("train", self.pictures)
        codes = in_batches(lambda x: model.encode(x[:, :, None]).indices.int(), found["pixels"])
        return Tensors(codes=codes, label=found["kind"])

    def measure(self, model: nn.Module) -> dict:
        """What the judge makes of drawn pictures of every class."""
        tokenizer = load_checkpoint(self.tokenizer)[0]
        kind = torch.arange(512) % 32
        codes = sample_code_grids(model, kind, torch.Generator().manual_seed(0), steps=8)
        with torch.no_grad():
            drawn = torch.cat(
                [tokenizer.decode_indices(part).clamp(-1, 1) for part in codes.split(64)]
            )
        return sample_scores(drawn[:, :, 0], kind)


VIDEO = dict(
    batch_size=8, learning_rate=1e-3, betas=(0.5, 0.99), warmup=50, ema=0.99, precision="bfloat16",
    checkpoint_dtype="float16",
)  # fmt: skip
SHORT = VIDEO | {"steps": 300}
PRIOR = dict(
    steps=1200, batch_size=16, learning_rate=1e-3, warmup=100, ema=0.99, precision="bfloat16",
    checkpoint_dtype="float16",
)  # fmt: skip
SWEEP = VIDEO | {"steps": 500, "batch_size": 32}

RECIPES = [
    ClipTokenizerRecipe("magvit-live", **VIDEO | {"steps": 200, "warmup": 20}, clips=400),
    ClipTokenizerRecipe("magvit-2d", preset="magvit/tiny 2D", **VIDEO | {"steps": 600}),
    ClipTokenizerRecipe("magvit-init-central", source="magvit-2d", **SHORT),
    ClipTokenizerRecipe("magvit-init-average", source="magvit-2d", inflate="average", **SHORT),
    ClipTokenizerRecipe("magvit-init-scratch", **SHORT),
    ClipTokenizerRecipe("magvit-zero", source="magvit-2d", padding="zeros", **SHORT),
    ClipTokenizerRecipe("magvit-3d", source="magvit-2d", adversarial_from=1000, **VIDEO | {"steps": 1500}),
    BertRecipe("magvit-bert", **PRIOR),
    ClipTokenizerRecipe(
        "magvit2-tokenizer", preset="magvit2/tiny", padding="zeros", squared_weight=40.0,
        **VIDEO | {"steps": 2000, "learning_rate": 2e-3},
    ),
    LanguageModelRecipe("magvit2-mlm", **PRIOR),
    LanguageModelRecipe("magvit2-ar", preset="magvit2/AR-tiny", **PRIOR),
    *(SweepRecipe(f"sweep-{q}-{bits}", quantizer=q, bits=bits, **SWEEP) for q in ("vq", "lfq") for bits in BITS),
    *(
        SweepPriorRecipe(
            f"sweep-{name}-{bits}-mlm", tokenizer=f"sweep-{name}-{bits}", bits=bits, factors=factors,
            **PRIOR | {"steps": 500, "batch_size": 64},
        )
        for name, factors in (("vq", 1), ("lfq", 2))
        for bits in BITS
    ),
]  # fmt: skip
