"""Notebook 03: Video Vision Transformers that read motion, and the judge of clips.

A clip shows one object under a still camera; the class is one of the eight motions that a single
object can have.  Runs that are compared differ in one thing: `vivit-model-*` in the encoder,
`vivit-init-*` in how tokens are made from frames and where they start (Table 1), `vivit-tubelet-*`
in its length, `vivit-regular-*` in the regularisers (Table 3).
"""

from collections.abc import Callable
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
from course_lib.training.recipe import Model, Recipe, Tensors, Trainable
from course_lib.training.recipes.vit import (
    ClassifierRecipe,
    JudgeTrainable,
    calibrate,
    reading_scores,
)
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float


class UniformFrames(nn.Module):
    """A model whose tubelets are single frames, after uniform frame sampling (section 3.2)."""

    def __init__(self, model: ViViT):
        super().__init__()
        self.model = model

    def features(self, video: Tensor) -> Tensor:
        """Return one vector per clip, (b t c h w) -> (b d)."""
        return self.model.features(uniform_frames(video, self.model.config.frames))

    def forward(self, video: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return self.model(uniform_frames(video, self.model.config.frames))


class MotionClassifier(Trainable):
    """A network, the cross-entropy of its classes, and the regularizers of a recipe."""

    def __init__(self, model: nn.Module, recipe: "ViViTRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.augment = (
            clip_transform((32, 32), recipe.rand_augment) if recipe.crop_flip_jitter else None
        )

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        pixels = batch["pixels"]
        target = batch["label"]
        if self.augment:
            augmented = self.augment(rearrange(pixels, "b t h w c -> b t c h w"))
            pixels = rearrange(augmented, "b t c h w -> b t h w c")
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
    uniform: bool = False  # 16 / tubelet_frames frames, evenly spaced, each a tubelet of its own
    source: str | None = "vit-patch-8"  # the image model to start from
    inflate: Literal["random", "filter inflation", "central frame"] = "central frame"
    crop_flip_jitter: bool = False
    stochastic_depth: float = 0.0
    rand_augment: bool = False
    label_smoothing: float = 0.0
    mixup: float = 0.0

    @property
    def config(self) -> ViViTConfig:
        """The configuration of this recipe's network."""
        tiny = zoo.find("vivit/tiny").config
        frames = 16 // self.tubelet_frames if self.uniform else 16
        tubelet_frames = 1 if self.uniform else self.tubelet_frames
        return replace(
            tiny,
            model=self.model,
            frames=frames,
            tubelet=(tubelet_frames, *tiny.tubelet[1:]),
            num_classes=len(MOTIONS),
            temporal_depth=self.temporal_depth,
            stochastic_depth=self.stochastic_depth,
        )

    def build(self) -> MotionClassifier:
        model = ViViT(self.config)
        if self.source:
            image_model, _ = load_checkpoint(self.source)
            start_from_image_model(model, image_model, self._inflation(model))
        return MotionClassifier(UniformFrames(model) if self.uniform else model, self)

    def _inflation(self, model: ViViT) -> Callable[[Tensor, int], Tensor]:
        """Return how the image model's kernel (d c h w) becomes the clip model's (d c t h w)."""
        fresh = model.tubelet_embed.weight.detach().clone()
        inflations = {
            "random": lambda kernel, frames: fresh,
            "filter inflation": filter_inflation_init,
            "central frame": central_frame_init,
        }
        return inflations[self.inflate]

    def data(self) -> Tensors:
        train = clips("train", self.clips)
        return Tensors(pixels=train["pixels"], label=train["motion"])

    def measure(self, model: Model) -> dict:
        """Measure accuracy on test clips as they are and with their frames in another order.

        The other orders are shuffled, reversed, and the middle frame in every place.
        """
        device = next(model.parameters()).device
        test = clips("test", 1000)
        keys = torch.rand(1000, 16, generator=torch.Generator().manual_seed(0))
        orders = {
            "accuracy": torch.arange(16),
            "shuffled": keys.argsort(1),  # an order of its own for each clip
            "reversed": torch.arange(15, -1, -1),
            "one frame": torch.full((16,), 8),
        }
        rows = torch.arange(1000)[:, None]
        answers = {
            name: in_batches(model, test["pixels"][rows, order], device).argmax(1)
            for name, order in orders.items()
        }
        accuracies = {
            name: float((answer == test["motion"]).float().mean())
            for name, answer in answers.items()
        }
        pairs = test["motion"] * len(MOTIONS) + answers["accuracy"]
        confusion = pairs.bincount(minlength=len(MOTIONS) ** 2).unflatten(0, (-1, len(MOTIONS)))
        return {**accuracies, "confusion": confusion.tolist()}


# ---------------------------------------------------------------- the judge


@dataclass(frozen=True)
class ClipJudgeRecipe(ClassifierRecipe):
    """A tiny factorised encoder that reads motion and camera of any clip.

    It starts from an image model.
    """

    clips: int = 24_000
    source: str = "vit-patch-8"

    def build(self) -> JudgeTrainable:
        image_model, _ = load_checkpoint(self.source)
        config = zoo.find("vivit/tiny FE").config
        model = ViViT(replace(config, num_classes=sum(CLIP_LABELS.values())))
        start_from_image_model(model, image_model)
        return JudgeTrainable(LabelJudge(model, CLIP_LABELS))

    def data(self) -> Tensors:
        return Tensors(**judge_clips("train", self.clips))

    def complete(self, model: LabelJudge) -> None:
        """Calibrate each label on clips that were not trained on."""
        calibrate(model, judge_clips("test", 1000, seed=1))

    def measure(self, model: LabelJudge) -> dict:
        """Measure accuracy and calibration error of each label on test clips."""
        return reading_scores(model, judge_clips("test", 1000))


def judge_clips(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Return n clips of anything the world can do, with the judge's labels.

    `pixels` (n t h w 3) uint8, and the number of each label (n,).
    """
    labelled = free_clips(split, n, frames=16, seed=seed)
    return {name: labelled[name] for name in ("pixels", *CLIP_LABELS)}


# ---------------------------------------------------------------- the recipes

LIVE = ViViTRecipe(
    "vivit-live",
    steps=700,
    batch_size=32,
    learning_rate=1e-3,
    warmup=70,
    ema=0.98,
    clips=1500,
    model=2,
)
MODEL_1 = ViViTRecipe(
    "vivit-model-1",
    steps=1200,
    batch_size=32,
    learning_rate=1e-3,
    warmup=150,
    ema=0.99,
    checkpoint_dtype="float16",
)
MODEL_2 = replace(MODEL_1, name="vivit-model-2", model=2)
CENTRAL = replace(MODEL_1, name="vivit-init-central", tubelet_frames=4)

# Each rung of Table 3's ladder adds one thing to the one before.
BASE = replace(
    MODEL_2, name="vivit-regular-base", steps=500, clips=500, source=None, crop_flip_jitter=True
)
INITIALIZED = replace(BASE, name="vivit-regular-initialised", source="vit-patch-8")
DEPTH = replace(INITIALIZED, name="vivit-regular-depth", stochastic_depth=0.2)
AUGMENT = replace(DEPTH, name="vivit-regular-augment", rand_augment=True)
SMOOTHING = replace(AUGMENT, name="vivit-regular-smoothing", label_smoothing=0.1)
MIXUP = replace(SMOOTHING, name="vivit-regular-mixup", mixup=0.2)

RECIPES: list[Recipe] = [
    LIVE,
    MODEL_1,
    MODEL_2,
    replace(MODEL_1, name="vivit-model-3", model=3),
    replace(MODEL_1, name="vivit-model-4", model=4),
    replace(MODEL_2, name="vivit-model-2-average", temporal_depth=0),
    replace(CENTRAL, name="vivit-init-uniform", uniform=True),
    replace(CENTRAL, name="vivit-init-random", inflate="random"),
    replace(CENTRAL, name="vivit-init-inflation", inflate="filter inflation"),
    CENTRAL,
    replace(CENTRAL, name="vivit-init-nothing", source=None),
    replace(MODEL_1, name="vivit-tubelet-8", tubelet_frames=8),
    BASE,
    INITIALIZED,
    DEPTH,
    AUGMENT,
    SMOOTHING,
    MIXUP,
    ClipJudgeRecipe(
        CLIP_JUDGE,
        steps=6000,
        batch_size=32,
        learning_rate=1e-3,
        warmup=300,
        ema=0.995,
        checkpoint_dtype="float16",
    ),
]
