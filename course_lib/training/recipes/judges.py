"""The judge of scenes, for chapters 06 to 10: everything a caption says, read from a clip.

Chapters 02 and 03 train judges of their own.  This one sees one to three objects under any camera,
at several frame rates.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from course_lib.data import SCENE_JUDGE, free_clips
from course_lib.metrics import LabelJudge
from course_lib.metrics.scene_judge import SCENE_LABELS, TemporalShiftNet
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors
from course_lib.training.recipes.vit import JudgeTrainable, calibrate, reading_scores
from course_lib.training.store import load_checkpoint
from course_lib.world import VOCABULARY

REST = VOCABULARY["motion"].index("rest")
# Of 17 frames: all, all but the last, every second one.  Each shows the same two seconds.
FRAME_RATES = (slice(None), slice(16), slice(None, None, 2))


class SceneJudgeTrainable(JudgeTrainable):
    """The judge's cross-entropies on clips that are mirrored at random, at a random frame rate."""

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        pixels = batch["pixels"]
        is_mirrored = rng.rand(len(pixels))[:, None, None, None, None] < 0.5
        pixels = torch.where(is_mirrored, pixels.flip(3), pixels)
        rate = FRAME_RATES[int(rng.randint(0, len(FRAME_RATES), 1))]
        return super().loss(player, {**batch, "pixels": pixels[:, rate]}, rng)


@dataclass(frozen=True)
class SceneJudgeRecipe(Recipe):
    """A network with temporal shifts on clips of one object, and as many of one to three."""

    lr_schedule: LRSchedule = "linear"
    clips: int = 24_000
    width: int = 32

    def build(self) -> SceneJudgeTrainable:
        network = TemporalShiftNet(sum(SCENE_LABELS.values()), self.width)
        return SceneJudgeTrainable(LabelJudge(network, SCENE_LABELS))

    def data(self) -> Tensors:
        return Tensors(**judge_scenes("train", self.clips))

    def complete(self, model: LabelJudge) -> None:
        """Calibrate each label on clips that were not trained on."""
        calibrate(model, judge_scenes("test", 2000, seed=1))

    def measure(self, model: LabelJudge) -> dict:
        """Measure accuracy and calibration error of each label on test clips.

        Besides the clips of one to three objects: those of one object, in 17 frames of 32 pixels
        and in 14 frames of 64.
        """
        single = labelled(free_clips("test", 1000, seed=4, count=1))
        large = labelled(free_clips("test", 500, 14, seed=5, size=64, count=1))
        return {
            **reading_scores(model, judge_scenes("test", 2000)),
            **{f"single {name}": x for name, x in reading_scores(model, single).items()},
            **{f"single 64 {name}": x for name, x in reading_scores(model, large).items()},
        }


def judge_scenes(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Return n labelled clips (n 17 32 32 3): half of one object, half of one to three."""
    single = labelled(free_clips(split, n // 2, seed=2 * seed, count=1))
    free = labelled(free_clips(split, n - n // 2, seed=2 * seed + 1))
    return {name: torch.cat([single[name], free[name]]) for name in single}


def labelled(clips: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return the pixels and the judge's labels, -1 where a clip does not tell.

    Shape, colour and scale are those of the object that moves; where several rest, of none.
    """
    known = {name: clips[name] for name in ("pixels", *SCENE_LABELS)}
    is_open = (clips["motion"] == REST) & (clips["count"] > 0)
    for name in ("shape", "colour", "scale"):
        known[name] = clips[name].masked_fill(is_open, -1)
    return known


def read_scenes(clip: Tensor) -> dict[str, Tensor]:
    """Return the number of each label that the judge of scenes reads in clips (n t 3 h w)."""
    judge, _ = load_checkpoint(SCENE_JUDGE)
    readings = [judge.read(part) for part in clip.split(64)]
    return {name: torch.cat([reading[name] for reading in readings]) for name in readings[0]}


RECIPES: list[Recipe] = [
    SceneJudgeRecipe(
        SCENE_JUDGE,
        steps=2400,
        batch_size=32,
        learning_rate=2e-3,
        warmup=100,
        weight_decay=0.02,
        ema=0.99,
        precision="bfloat16",
        checkpoint_dtype="float16",
    ),
]
