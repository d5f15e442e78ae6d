"""Notebook 02: Vision Transformers that read the little world, a ResNet beside them, and the
world's picture judge.

All but the judge name shape and colour at once, 32 classes, of the one object in a picture.
`vit-data-N` and `resnet-data-N` differ in the number of training pictures, and see equally many
batches; `vit-positions-*` and `vit-patch-*` change one thing about `vit-data-8000`; `vit-48-*` are
tuned at 48 pixels from `vit-data-32000`.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import COLOURS, IMAGE_JUDGE, digits, images, in_batches
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
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float


class ConvNet(nn.Module):
    """The ResNet that ViT is compared with: BiT's, with a root that does not halve, of the tiny
    ViT's cost.
    """

    def __init__(self, num_classes: int = 32):
        super().__init__()
        self.resnet = ResNet(3, blocks=(1, 1, 1), width=12, groups=4, halving_root=False)
        self.head = nn.Linear(self.resnet.out_channels, num_classes)
        nn.init.zeros_(self.head.weight)

    def features(self, image: Tensor) -> Tensor:
        """(b c h w) -> (b d), the mean over positions."""
        return self.resnet(image).mean((2, 3))

    def forward(self, image: Tensor) -> Tensor:
        """Class scores."""
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
    """Adam with decoupled weight decay, linear warm-up and linear decay (the paper's section 4.1,
    in miniature).
    """

    lr_schedule: LRSchedule = "linear"
    pictures: int = 8000
    weight_decay: float = 0.05

    def data(self) -> Tensors:
        train = images("train", self.pictures)
        return Tensors(pixels=train["pixels"], label=train["kind"])

    def measure(self, model: nn.Module) -> dict:
        """Accuracy on test pictures, whole and by label, and of linear probes on two tasks it was
        not trained for.
        """
        device = next(model.parameters()).device
        test = images("test", 2000)
        answers = in_batches(model, test["pixels"], device).argmax(1)
        return {
            "accuracy": float((answers == test["kind"]).float().mean()),
            "shape accuracy": float((answers // COLOURS == test["shape"]).float().mean()),
            "colour accuracy": float((answers % COLOURS == test["colour"]).float().mean()),
            "few_shot": few_shot_accuracies(model, device),
        }


def few_shot_accuracies(
    model: nn.Module, device: torch.device
) -> dict[str, dict[str, list[float]]]:
    """Accuracies of ridge regression on the model's features, by task and number of examples of
    each class.

    The floor's pattern (4 classes) and scikit-learn's digits (10).
    """
    floors = [images(split, 1000, seed=1) for split in ("train", "test")]
    ink, digit = digits()
    tasks = {
        "floor": [(picture["pixels"], picture["floor"]) for picture in floors],
        "digits": [(ink[:1000], digit[:1000]), (ink[1000:], digit[1000:])],
    }
    scores: dict[str, dict[str, list[float]]] = {}
    for task, sets in tasks.items():
        train, test = (
            (in_batches(model.features, pixels, device), label) for pixels, label in sets
        )
        scores[task] = {
            str(shots): few_shot_accuracy(train, test, shots) for shots in (1, 5, 10, 25)
        }
    return scores


@dataclass(frozen=True)
class ViTRecipe(ClassifierRecipe):
    """The tiny ViT, with other patches or positions."""

    patch_size: int = 4
    positions: str = "1d"

    @property
    def config(self) -> ViTConfig:
        """The network of this recipe."""
        return replace(
            zoo.find("vit/tiny").config, patch_size=self.patch_size, positions=self.positions
        )

    def build(self) -> Classifier:
        return Classifier(ViT(self.config))


@dataclass(frozen=True)
class ResNetRecipe(ClassifierRecipe):
    """The ResNet of about the tiny ViT's multiply-adds."""

    def build(self) -> Classifier:
        return Classifier(ConvNet())


@dataclass(frozen=True)
class FineTuneRecipe(ViTRecipe):
    """A trained ViT at 48 pixels, with a fresh head: its positions interpolated, or drawn anew."""

    source: str = "vit-data-32000"
    image_size: int = 48
    fresh_positions: bool = False

    def build(self) -> Classifier:
        source, _ = load_checkpoint(self.source)
        model = for_fine_tuning(source, self.image_size, source.config.num_classes)
        if self.fresh_positions:
            nn.init.normal_(model.positions.table, std=0.02)
        return Classifier(model.requires_grad_(True))

    def data(self) -> Tensors:
        train = images("train", self.pictures, self.image_size)
        return Tensors(pixels=train["pixels"], label=train["kind"])

    def measure(self, model: nn.Module) -> dict:
        """Accuracy on test pictures of the new size."""
        test = images("test", 2000, self.image_size)
        answers = in_batches(model, test["pixels"], next(model.parameters()).device).argmax(1)
        return {"accuracy": float((answers == test["kind"]).float().mean())}


@dataclass(frozen=True)
class DigitsRecipe(ClassifierRecipe):
    """A ViT of 2 x 2 pixel patches on the first 1,400 digits, at their own 8 pixels."""

    def build(self) -> Classifier:
        return Classifier(
            ViT(replace(zoo.find("vit/tiny").config, image_size=8, patch_size=2, num_classes=10))
        )

    def data(self) -> Tensors:
        ink, digit = digits(8)
        return Tensors(pixels=ink[:1400], label=digit[:1400])

    def measure(self, model: nn.Module) -> dict:
        """Accuracy on the remaining 397 digits."""
        ink, digit = digits(8)
        answers = in_batches(model, ink[1400:], next(model.parameters()).device).argmax(1)
        return {"accuracy": float((answers == digit[1400:]).float().mean())}


# ---------------------------------------------------------------- the judge


class JudgeTrainable(Trainable):
    """A judge, learning to read the labels it is given; a label of -1 does not count."""

    def __init__(self, model: LabelJudge):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        logits = self.model(pixels_to_float(batch["pixels"]))
        return sum(F.cross_entropy(logits[name], batch[name], ignore_index=-1) for name in logits)


@dataclass(frozen=True)
class PictureJudgeRecipe(ClassifierRecipe):
    """A larger ViT that reads shape, colour and scale of a lone object, and how many objects there
    are.
    """

    width: int = 96
    depth: int = 6

    def build(self) -> JudgeTrainable:
        tiny = zoo.find("vit/tiny").config
        size = dict(width=self.width, depth=self.depth, mlp=2 * self.width)
        return JudgeTrainable(
            LabelJudge(
                ViT(replace(tiny, **size, num_classes=sum(IMAGE_LABELS.values()))), IMAGE_LABELS
            )
        )

    def data(self) -> Tensors:
        return Tensors(**judge_images("train", self.pictures))

    def complete(self, model: LabelJudge) -> None:
        """Calibrate each label on pictures that were not trained on."""
        calibrate(model, judge_images("test", 4000, seed=1))

    def measure(self, model: LabelJudge) -> dict:
        """Accuracy and calibration error of each label on test pictures."""
        return reading_scores(model, judge_images("test", 4000))


def judge_images(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """n pictures of one to three objects: `pixels` (n h w 3) and the judge's labels.

    Where there are several objects nothing says which one shape, colour and scale are of: they are
    -1.
    """
    found = images(split, n, seed=seed, count=(1, 2, 3))
    several = found["count"] > 0
    about_one = {
        name: found[name].masked_fill(several, -1) for name in ("shape", "colour", "scale")
    }
    return {"pixels": found["pixels"], "count": found["count"], **about_one}


def label_logits(judge: LabelJudge, pixels: Tensor) -> dict[str, Tensor]:
    """The judge's logits of every label for many pictures or clips."""
    device = judge.temperature.device
    together = in_batches(lambda x: torch.cat(list(judge(x).values()), dim=1), pixels, device)
    return dict(zip(judge.labels, together.split(list(judge.labels.values()), dim=1), strict=True))


def calibrate(judge: LabelJudge, held_out: dict[str, Tensor]) -> None:
    """Set each label's temperature to the one most likely on labelled pictures or clips; 1 where no
    answer is wrong.
    """
    judge.temperature.fill_(1.0)
    for i, (name, all_logits) in enumerate(label_logits(judge, held_out["pixels"]).items()):
        known = held_out[name] >= 0
        logits, label = all_logits[known], held_out[name][known]
        # without a mistake the likeliest temperature is 0
        if bool((logits.argmax(1) != label).any()):
            judge.temperature[i] = fit_temperature(logits, label)


def reading_scores(judge: LabelJudge, test: dict[str, Tensor]) -> dict[str, float]:
    """Accuracy and expected calibration error of each label."""
    scores = {}
    for name, logits in label_logits(judge, test["pixels"]).items():
        known, label = test[name] >= 0, test[name]
        scores[f"{name} accuracy"] = float((logits[known].argmax(1) == label[known]).float().mean())
        scores[f"{name} calibration error"] = calibration_error(logits[known], label[known])
    return scores


TRAINED = dict(
    steps=2000, batch_size=64, learning_rate=1e-3, warmup=200, ema=0.99, checkpoint_dtype="float16"
)
SIZES = (500, 2000, 8000, 32_000)

RECIPES = [
    ViTRecipe("vit-live", steps=900, learning_rate=1e-3, warmup=100, ema=0.98, pictures=6000),
    DigitsRecipe("vit-digits-live", steps=500, learning_rate=1e-3, warmup=50, ema=0.98),
    *(ViTRecipe(f"vit-data-{n}", pictures=n, **TRAINED) for n in SIZES),
    *(ResNetRecipe(f"resnet-data-{n}", pictures=n, **TRAINED | {"learning_rate": 3e-3}) for n in SIZES),
    *(ViTRecipe(f"vit-positions-{kind}", positions=kind, **TRAINED) for kind in ("none", "2d")),
    *(ViTRecipe(f"vit-patch-{side}", patch_size=side, **TRAINED) for side in (8, 16)),
    *(
        FineTuneRecipe(f"vit-48-{name}", fresh_positions=fresh, **TRAINED | {"steps": 300, "warmup": 30})
        for name, fresh in (("interpolated", False), ("fresh", True))
    ),
    PictureJudgeRecipe(
        IMAGE_JUDGE, pictures=30_000, steps=4000, batch_size=64, learning_rate=1e-3, warmup=300, ema=0.995,
        checkpoint_dtype="float16",
    ),
]  # fmt: skip
