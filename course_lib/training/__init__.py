"""Training: recipes, the loop, averaged weights, checkpoints with provenance, several processes.

Read in this order: `recipe` (what is trained), `randomness` (what a step may draw), `loop` (how),
`ema`, `store` (what is kept on disk), `distributed` (the same step on several machines).
"""

from course_lib.training.distributed import all_gather, choose_device
from course_lib.training.ema import EMA
from course_lib.training.loop import TrainingResult, live, live_steps, train
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import Recipe, Tensors, Trainable
from course_lib.training.recipes import RECIPES
from course_lib.training.registry import find_recipe
from course_lib.training.store import STORE, Store, load_checkpoint, results, show_checkpoint

__all__ = [
    "EMA",
    "RECIPES",
    "STORE",
    "RandomSource",
    "Recipe",
    "Store",
    "Tensors",
    "Trainable",
    "TrainingResult",
    "all_gather",
    "choose_device",
    "find_recipe",
    "live",
    "live_steps",
    "load_checkpoint",
    "results",
    "show_checkpoint",
    "train",
]
