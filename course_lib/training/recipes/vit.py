"""Notebook 02: Vision Transformers, a ResNet beside them, and the judge of images.

All but the judge name shape and colour at once, 32 classes, of the one object in an image.
`vit-data-N` and `resnet-data-N` differ in the number of training images, and see equally many
batches; `*-500-early` see a fifth of them.  `vit-positions-*` and `vit-patch-*` change one thing
about `vit-data-8000`; `vit-48-*` are fine-tuned at 48 pixels from `vit-data-32000`.
"""

from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import COLOURS, IMAGE_JUDGE, KINDS, digits, images, in_batches
from course_lib.metrics import (
    IMAGE_LABELS,
    LabelJudge,
    calibration_error,
    few_shot_accuracy,
    fit_temperature,
)
from course_lib.nn.std_resnet import ResNet
from course_lib.papers.vit import ViT, ViTConfig, for_fine_tuning
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Model, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

# ---------------------------------------------------------------- classifiers


class ConvNet(nn.Module):
    """The ResNet that ViT is compared with, of the tiny ViT's cost.

    It is BiT's, with a root that does not halve.
    """

    def __init__(self, num_classes: int = KINDS):
        super().__init__()
        self.resnet = ResNet(3, blocks=(1, 1, 1), width=12, groups=4, halving_root=False)
        self.head = nn.Linear(self.resnet.out_channels, num_classes)
        nn.init.zeros_(self.head.weight)

    def features(self, image: Tensor) -> Tensor:
        """Return the mean over positions, (b c h w) -> (b d)."""
        return self.resnet(image).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Return the logits of the classes."""
        return self.head(self.features(image))


class Classifier(Trainable):
    """A network and the cross-entropy of its classes."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        return F.cross_entropy(self.model(pixels_to_float(batch["pixels"])), batch["label"])


@dataclass(frozen=True)
class ClassifierRecipe(Recipe):
    """Adam with decoupled weight decay, linear warm-up and linear decay.

    This is the paper's section 4.1 in miniature.
    """

    lr_schedule: LRSchedule = "linear"
    pictures: int = 8000
    weight_decay: float = 0.05

    def data(self) -> Tensors:
        train = images("train", self.pictures)
        return Tensors(pixels=train["pixels"], label=train["kind"])

    def measure(self, model: Model) -> dict:
        """Measure accuracy on test images, and that of linear probes on two other tasks."""
        device = next(model.parameters()).device
        test = images("test", 2000)
        answers = in_batches(model, test["pixels"], device).argmax(1)
        return {
            "accuracy": _share_right(answers, test["kind"]),
            "shape accuracy": _share_right(answers // COLOURS, test["shape"]),
            "colour accuracy": _share_right(answers % COLOURS, test["colour"]),
            "few_shot": few_shot_accuracies(model, device),
        }


def _share_right(answers: Tensor, label: Tensor) -> float:
    return float((answers == label).float().mean())


def few_shot_accuracies(model: Model, device: torch.device) -> dict[str, dict[str, list[float]]]:
    """Measure ridge regression on the model's features, by task and examples of each class.

    The tasks are the floor's pattern (4 classes) and scikit-learn's digits (10 classes).
    """
    floor_train, floor_test = (images(split, 1000, seed=1) for split in ("train", "test"))
    digit_images, digit = digits()
    tasks = {
        "floor": (
            (floor_train["pixels"], floor_train["floor"]),
            (floor_test["pixels"], floor_test["floor"]),
        ),
        "digits": (
            (digit_images[:1000], digit[:1000]),
            (digit_images[1000:], digit[1000:]),
        ),
    }
    accuracies: dict[str, dict[str, list[float]]] = {}
    for task, ((train_pixels, train_label), (test_pixels, test_label)) in tasks.items():
        train = in_batches(model.features, train_pixels, device), train_label
        test = in_batches(model.features, test_pixels, device), test_label
        accuracies[task] = {
            str(shots): few_shot_accuracy(train, test, shots) for shots in (1, 5, 10, 25)
        }
    return accuracies


@dataclass(frozen=True)
class ViTRecipe(ClassifierRecipe):
    """The tiny ViT, with other patches or positions."""

    patch_size: int = 4
    positions: Literal["1d", "2d", "none"] = "1d"

    @property
    def config(self) -> ViTConfig:
        """The configuration of this recipe's network."""
        tiny = zoo.find("vit/tiny").config
        return replace(tiny, patch_size=self.patch_size, positions=self.positions)

    def build(self) -> Classifier:
        return Classifier(ViT(self.config))


@dataclass(frozen=True)
class ResNetRecipe(ClassifierRecipe):
    """The ResNet of about the tiny ViT's multiply-adds."""

    def build(self) -> Classifier:
        return Classifier(ConvNet())


@dataclass(frozen=True)
class FineTuneRecipe(ViTRecipe):
    """A trained ViT at 48 pixels, with a fresh head; positions are interpolated or drawn anew."""

    source: str = "vit-data-32000"
    image_size: int = 48
    fresh_positions: bool = False

    def build(self) -> Classifier:
        source, _ = load_checkpoint(self.source)
        model: Model = for_fine_tuning(source, self.image_size, source.config.num_classes)
        if self.fresh_positions:
            nn.init.normal_(model.positions.table, std=0.02)
        return Classifier(model.requires_grad_(True))

    def data(self) -> Tensors:
        train = images("train", self.pictures, self.image_size)
        return Tensors(pixels=train["pixels"], label=train["kind"])

    def measure(self, model: Model) -> dict:
        """Measure accuracy on test images of the new size."""
        device = next(model.parameters()).device
        test = images("test", 2000, self.image_size)
        answers = in_batches(model, test["pixels"], device).argmax(1)
        return {"accuracy": _share_right(answers, test["kind"])}


@dataclass(frozen=True)
class DigitsRecipe(ClassifierRecipe):
    """A ViT with patches of 2 x 2 pixels on the first 1,400 digits, at their own 8 pixels."""

    def build(self) -> Classifier:
        tiny = zoo.find("vit/tiny").config
        return Classifier(ViT(replace(tiny, image_size=8, patch_size=2, num_classes=10)))

    def data(self) -> Tensors:
        pixels, digit = digits(8)
        return Tensors(pixels=pixels[:1400], label=digit[:1400])

    def measure(self, model: Model) -> dict:
        """Measure accuracy on the remaining 397 digits."""
        device = next(model.parameters()).device
        pixels, digit = digits(8)
        answers = in_batches(model, pixels[1400:], device).argmax(1)
        return {"accuracy": _share_right(answers, digit[1400:])}


# ---------------------------------------------------------------- the judge


class JudgeTrainable(Trainable):
    """A judge and the cross-entropy of all its labels, in which a label of -1 does not count."""

    def __init__(self, model: LabelJudge):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        logits = self.model(pixels_to_float(batch["pixels"]))
        losses = [F.cross_entropy(logits[name], batch[name], ignore_index=-1) for name in logits]
        return reduce(torch.add, losses)


@dataclass(frozen=True)
class PictureJudgeRecipe(ClassifierRecipe):
    """A larger ViT that reads the number of objects, and the shape, colour and scale of one."""

    width: int = 96
    depth: int = 6

    def build(self) -> JudgeTrainable:
        config = replace(
            zoo.find("vit/tiny").config,
            width=self.width,
            depth=self.depth,
            mlp=2 * self.width,
            num_classes=sum(IMAGE_LABELS.values()),
        )
        return JudgeTrainable(LabelJudge(ViT(config), IMAGE_LABELS))

    def data(self) -> Tensors:
        return Tensors(**judge_images("train", self.pictures))

    def complete(self, model: LabelJudge) -> None:
        """Calibrate each label on images that were not trained on."""
        calibrate(model, judge_images("test", 4000, seed=1))

    def measure(self, model: LabelJudge) -> dict:
        """Measure accuracy and calibration error of each label on test images."""
        return reading_scores(model, judge_images("test", 4000))


def judge_images(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Return n images of one to three objects: `pixels` (n h w 3) and the judge's labels (n,).

    Shape, colour and scale are -1 where there are several objects, because nothing says which one
    they are of.
    """
    labelled = images(split, n, seed=seed, count=(1, 2, 3))
    is_multi = labelled["count"] > 0
    return {
        "pixels": labelled["pixels"],
        "count": labelled["count"],
        **{name: labelled[name].masked_fill(is_multi, -1) for name in ("shape", "colour", "scale")},
    }


def label_logits(judge: LabelJudge, pixels: Tensor) -> dict[str, Tensor]:
    """Return the judge's logits of every label for many images or clips, on the CPU."""
    device = next(judge.buffers()).device  # that of the temperature
    logits = in_batches(lambda x: torch.cat(list(judge(x).values()), dim=1), pixels, device)
    parts = logits.split(list(judge.labels.values()), dim=1)
    return dict(zip(judge.labels, parts, strict=True))


def calibrate(judge: LabelJudge, held_out: dict[str, Tensor]) -> None:
    """Set each label's temperature to the most likely one on labelled images or clips.

    It stays 1 where no answer is wrong: without a mistake the most likely temperature is 0.
    """
    judge.temperature.fill_(1.0)
    for i, (name, all_logits) in enumerate(label_logits(judge, held_out["pixels"]).items()):
        known = held_out[name] >= 0
        logits = all_logits[known]
        label = held_out[name][known]
        if bool((logits.argmax(1) != label).any()):
            judge.temperature[i] = fit_temperature(logits, label)


def reading_scores(judge: LabelJudge, test: dict[str, Tensor]) -> dict[str, float]:
    """Measure the accuracy and the expected calibration error of each label."""
    scores = {}
    for name, all_logits in label_logits(judge, test["pixels"]).items():
        known = test[name] >= 0
        logits = all_logits[known]
        label = test[name][known]
        scores[f"{name} accuracy"] = _share_right(logits.argmax(1), label)
        scores[f"{name} calibration error"] = calibration_error(logits, label)
    return scores


# ---------------------------------------------------------------- the recipes

DATA_SIZES = (500, 2000, 8000, 32_000)  # training images of `vit-data-N` and `resnet-data-N`

LIVE = ViTRecipe("vit-live", steps=900, learning_rate=1e-3, warmup=100, ema=0.98, pictures=6000)
DIGITS_LIVE = DigitsRecipe("vit-digits-live", steps=500, learning_rate=1e-3, warmup=50, ema=0.98)
VIT = ViTRecipe(
    "vit-data-8000",
    steps=2000,
    batch_size=64,
    learning_rate=1e-3,
    warmup=200,
    ema=0.99,
    checkpoint_dtype="float16",
    pictures=8000,
)
RESNET = ResNetRecipe(
    "resnet-data-8000",
    steps=2000,
    batch_size=64,
    learning_rate=3e-3,
    warmup=200,
    ema=0.99,
    checkpoint_dtype="float16",
    pictures=8000,
)
FINE_TUNED = FineTuneRecipe(
    "vit-48-interpolated",
    steps=300,
    batch_size=64,
    learning_rate=1e-3,
    warmup=30,
    ema=0.99,
    checkpoint_dtype="float16",
)

RECIPES: list[Recipe] = [
    LIVE,
    DIGITS_LIVE,
    replace(VIT, name="vit-data-500", pictures=500),
    replace(VIT, name="vit-data-2000", pictures=2000),
    VIT,
    replace(VIT, name="vit-data-32000", pictures=32_000),
    replace(RESNET, name="resnet-data-500", pictures=500),
    replace(RESNET, name="resnet-data-2000", pictures=2000),
    RESNET,
    replace(RESNET, name="resnet-data-32000", pictures=32_000),
    # stopped early: 2,000 steps on 500 images are learned by heart
    replace(VIT, name="vit-data-500-early", pictures=500, steps=400, warmup=40),
    replace(RESNET, name="resnet-data-500-early", pictures=500, steps=400, warmup=40),
    replace(VIT, name="vit-positions-none", positions="none"),
    replace(VIT, name="vit-positions-2d", positions="2d"),
    replace(VIT, name="vit-patch-8", patch_size=8),
    replace(VIT, name="vit-patch-16", patch_size=16),
    FINE_TUNED,
    replace(FINE_TUNED, name="vit-48-fresh", fresh_positions=True),
    PictureJudgeRecipe(
        IMAGE_JUDGE,
        pictures=30_000,
        steps=4000,
        batch_size=64,
        learning_rate=1e-3,
        warmup=300,
        ema=0.995,
        checkpoint_dtype="float16",
    ),
]
