"""Notebook 03: Video Vision Transformers that read motion in the little world, and the world's clip
judge.

A clip shows one object under a still camera; the class is one of the eight motions that a lone
object can have.  Runs that are compared differ in one thing: `vivit-model-*` in the encoder,
`vivit-init-*` in how tokens are made from frames and where they start (Table 1), `vivit-tubelet-*`
in its length, `vivit-regular-*` in the regularisers (Table 3).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import CLIP_JUDGE, MOTIONS, clips, free_clips, in_batches
from course_lib.metrics import CLIP_LABELS, LabelJudge
from course_lib.papers.vivit import (
    ViViT,
    ViViTConfig,
    central_frame_init,
    filter_inflation_init,
    start_from_image_model,
    uniform_frames,
)
from course_lib.training.augment import clip_transform, mixup
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import Tensors, Trainable
from course_lib.training.recipes.vit import (
    ClassifierRecipe,
    JudgeTrainable,
    calibrate,
    reading_scores,
)
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float


class UniformFrames(nn.Module):
    """Uniform frame sampling (section 3.2) in front of a model whose tubelets are single frames."""

    def __init__(self, model: ViViT):
        super().__init__()
        self.model = model

    def features(self, video: Tensor) -> Tensor:
        """(b t c h w) -> (b d)"""
        return self.model.features(uniform_frames(video, self.model.config.frames))

    def forward(self, video: Tensor) -> Tensor:
        """Class scores."""
        return self.model(uniform_frames(video, self.model.config.frames))


class MotionClassifier(Trainable):
    """A network, the cross-entropy of its classes, and the regularisers of a recipe."""

    def __init__(self, model: nn.Module, recipe: "ViViTRecipe"):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.change = (
            clip_transform((32, 32), recipe.rand_augment) if recipe.crop_flip_jitter else None
        )

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        pixels, target = batch["pixels"], batch["label"]
        if self.change:
            changed = self.change(rearrange(pixels, "b t h w c -> b t c h w"))
            pixels = rearrange(changed, "b t c h w -> b t h w c")
        video = pixels_to_float(pixels)
        if self.recipe.mixup:
            video, target = mixup(video, target, len(MOTIONS), self.recipe.mixup)
        return F.cross_entropy(
            self.model(video), target, label_smoothing=self.recipe.label_smoothing
        )


@dataclass(frozen=True)
class ViViTRecipe(ClassifierRecipe):
    """A tiny ViViT on clips of 16 frames, from random weights or from an image model."""

    clips: int = 4000
    model: int = 1
    tubelet_frames: int = 2
    temporal_depth: int = 2
    uniform: bool = False  # one frame per tubelet of that many, and a tubelet of one frame
    source: str | None = "vit-patch-8"  # the image model to start from
    inflate: Literal["random", "filter inflation", "central frame"] = "central frame"
    crop_flip_jitter: bool = False
    stochastic_depth: float = 0.0
    rand_augment: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0

    @property
    def config(self) -> ViViTConfig:
        """The network of this recipe."""
        tiny = zoo.find("vivit/tiny").config
        frames, cut = (16 // self.tubelet_frames, 1) if self.uniform else (16, self.tubelet_frames)
        return replace(
            tiny, model=self.model, frames=frames, tubelet=(cut, *tiny.tubelet[1:]), num_classes=len(MOTIONS),
            temporal_depth=self.temporal_depth, stochastic_depth=self.stochastic_depth,
        )  # fmt: skip

    def build(self) -> MotionClassifier:
        model = ViViT(self.config)
        if self.source:
            image_model, _ = load_checkpoint(self.source)
            fresh = model.tubelet_embed.weight.detach().clone()
            inflate = {
                "random": lambda kernel, t: fresh,
                "filter inflation": filter_inflation_init,
                "central frame": central_frame_init,
            }[self.inflate]
            start_from_image_model(model, image_model, inflate)
        return MotionClassifier(UniformFrames(model) if self.uniform else model, self)

    def data(self) -> Tensors:
        train = clips("train", self.clips)
        return Tensors(pixels=train["pixels"], label=train["motion"])

    def measure(self, model: nn.Module) -> dict:
        """Accuracy on test clips as they are, with frames shuffled, reversed, or all equal to the
        middle one.
        """
        device = next(model.parameters()).device
        test = clips("test", 1000)
        each = torch.arange(1000)[:, None]  # an order of its own for each clip
        orders = {
            "accuracy": torch.arange(16),
            "shuffled": torch.rand(1000, 16, generator=torch.Generator().manual_seed(0)).argsort(1),
            "reversed": torch.arange(15, -1, -1),
            "one frame": torch.full((16,), 8),
        }
        answers = {
            name: in_batches(model, test["pixels"][each, order], device).argmax(1)
            for name, order in orders.items()
        }
        right = {name: float((x == test["motion"]).float().mean()) for name, x in answers.items()}
        pairs = test["motion"] * len(MOTIONS) + answers["accuracy"]
        confusion = pairs.bincount(minlength=len(MOTIONS) ** 2).unflatten(0, (-1, len(MOTIONS)))
        return {**right, "confusion": confusion.tolist()}


# ---------------------------------------------------------------- the judge


@dataclass(frozen=True)
class ClipJudgeRecipe(ClassifierRecipe):
    """A tiny factorised encoder that reads motion and camera of any clip, started from an image
    model.
    """

    clips: int = 24_000
    source: str = "vit-patch-8"

    def build(self) -> JudgeTrainable:
        image_model, _ = load_checkpoint(self.source)
        model = ViViT(
            replace(zoo.find("vivit/tiny FE").config, num_classes=sum(CLIP_LABELS.values()))
        )
        start_from_image_model(model, image_model)
        return JudgeTrainable(LabelJudge(model, CLIP_LABELS))

    def data(self) -> Tensors:
        return Tensors(**judge_clips("train", self.clips))

    def complete(self, model: LabelJudge) -> None:
        """Calibrate each label on clips that were not trained on."""
        calibrate(model, judge_clips("test", 1000, seed=1))

    def measure(self, model: LabelJudge) -> dict:
        """Accuracy and calibration error of each label on test clips."""
        return reading_scores(model, judge_clips("test", 1000))


def judge_clips(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """n clips of anything the world can do: `pixels` (n t h w 3) and the judge's labels."""
    found = free_clips(split, n, frames=16, seed=seed)
    return {name: found[name] for name in ("pixels", *CLIP_LABELS)}


TRAINED = dict(
    steps=1200, batch_size=32, learning_rate=1e-3, warmup=150, ema=0.99, checkpoint_dtype="float16"
)
TOKENS = {
    "uniform": dict(uniform=True),
    "random": dict(inflate="random"),
    "inflation": dict(inflate="filter inflation"),
    "central": dict(),
}
LADDER = {  # each rung adds one thing, as in Table 3
    "base": dict(crop_flip_jitter=True, source=None),
    "initialised": dict(source="vit-patch-8"),
    "depth": dict(stochastic_depth=0.2),
    "augment": dict(rand_augment=True),
    "smoothing": dict(label_smoothing=0.1),
    "mixup": dict(mixup=0.2),
}


def _rungs() -> list[ViViTRecipe]:
    rungs, so_far = [], {}
    for name, more in LADDER.items():
        so_far |= more
        rungs.append(
            ViViTRecipe(
                f"vivit-regular-{name}", clips=500, model=2, **TRAINED | {"steps": 500} | so_far
            )
        )
    return rungs


RECIPES = [
    ViViTRecipe(
        "vivit-live",
        steps=700,
        learning_rate=1e-3,
        warmup=70,
        ema=0.98,
        clips=1500,
        model=2,
        batch_size=32,
    ),
    *(ViViTRecipe(f"vivit-model-{model}", model=model, **TRAINED) for model in (1, 2, 3, 4)),
    ViViTRecipe("vivit-model-2-average", model=2, **TRAINED | {"temporal_depth": 0}),
    *(
        ViViTRecipe(f"vivit-init-{name}", **TRAINED, **{"tubelet_frames": 4} | how)
        for name, how in TOKENS.items()
    ),
    ViViTRecipe("vivit-init-nothing", source=None, tubelet_frames=4, **TRAINED),
    ViViTRecipe("vivit-tubelet-8", tubelet_frames=8, **TRAINED),
    *_rungs(),
    ClipJudgeRecipe(CLIP_JUDGE, **TRAINED | {"steps": 6000, "warmup": 300, "ema": 0.995}),
]
