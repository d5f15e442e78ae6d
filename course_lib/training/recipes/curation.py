"""The text detector of the data curation (notebook 08), trained on text that was planted.

Images are frames of the little world and patches of photographs, at 64 pixels; some were rendered
at 32 and enlarged.  Half of them get a line or two of text, and some are blurred, noisy, dark, flat
or badly encoded, before the text or after it, so that a flaw is not mistaken for text.

The fonts are those that come with matplotlib.  Pillow's built-in one, in which `plant.uncurated`
writes, is kept for measuring.
"""

from dataclasses import dataclass
from random import Random

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib.curation.plant import BUILT_IN, DEGRADATIONS, degrade, write_on
from course_lib.curation.text import TEXT_DETECTOR, WORKING_SIDE, TextDetector
from course_lib.data import TEST_PHOTOS, TRAIN_PHOTOS, photo_patches
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Model, Recipe, Tensors, Trainable
from course_lib.world import LittleWorld, float_to_pixels, pixels_to_float

# "page" and "text" are photographs of text, which nobody has marked.
TEXTLESS_TRAIN = tuple(name for name in TRAIN_PHOTOS if name != "page")
TEXTLESS_TEST = tuple(name for name in TEST_PHOTOS if name != "text")

FONTS = (
    "DejaVuSans",
    "DejaVuSans-Bold",
    "DejaVuSans-Oblique",
    "DejaVuSerif",
    "DejaVuSerif-Bold",
    "DejaVuSansMono",
    "DejaVuSansMono-Bold",
    "STIXGeneral",
    "STIXGeneralBol",
    "cmss10",
    "cmtt10",
)


def planted_text(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Return `pixels` (n h w 3) of WORKING_SIDE, and `mask` (n h w), the boxes of lines of text."""
    photos = TEXTLESS_TRAIN if split == "train" else TEXTLESS_TEST
    sources = []
    for size in (WORKING_SIDE, WORKING_SIDE // 2):
        quarter = -(-n // 4)
        world = LittleWorld(split, size, length=quarter, seed=seed + size)
        parts = [world.batch(range(a, min(a + 500, quarter))) for a in range(0, quarter, 500)]
        drawn = torch.cat([float_to_pixels(part["pixels"]) for part in parts])
        sources += [drawn, photo_patches(photos, quarter, size, seed + size)["pixels"]]

    fonts = FONTS if split == "train" else (BUILT_IN,)
    pixels, masks = [], []
    for i in range(n):
        rng = Random(f"text {split} {seed} {i}")
        image = sources[i % 4][i // 4][None]
        pixel, mask = _write(image, rng, fonts)
        pixels.append(pixel)
        masks.append(mask)
    return {"pixels": torch.stack(pixels), "mask": torch.stack(masks)}


def _write(image: Tensor, rng: Random, fonts: tuple[str, ...]) -> tuple[Tensor, Tensor]:
    """Return an image (1 h w 3) with text or without, and where it is, at WORKING_SIDE."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    mask = torch.zeros(image.shape[1:3], dtype=torch.bool)
    spoil = rng.random()
    if spoil < 0.15:
        image = degrade(image, rng.choice(DEGRADATIONS), rng.random(), generator)
    if rng.random() < 0.5:
        image, mask = write_on(image, rng, fonts)
    if spoil > 0.9:
        image = degrade(image, rng.choice(DEGRADATIONS), 0.4 * rng.random(), generator)
    zoom = WORKING_SIDE // image.shape[1]
    large = F.interpolate(
        pixels_to_float(image), scale_factor=zoom, mode="bilinear", antialias=True
    )
    mask = mask.repeat_interleave(zoom, 0).repeat_interleave(zoom, 1)
    return float_to_pixels(large)[0], mask


class TextTrainable(Trainable):
    """The detector with the cross-entropy of its places; images are flipped in brightness, too."""

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x = pixels_to_float(batch["pixels"])
        negative = (rng.rand(len(x)) < 0.3).view(-1, 1, 1, 1)
        x = torch.where(negative, -x, x)
        mixed = rng.rand(len(x)).argsort() % 2 == 0
        x = torch.where(mixed.view(-1, 1, 1, 1), x.flip(1), x)  # red and blue change places
        return F.binary_cross_entropy_with_logits(self.model(x), _halve(batch["mask"]))


def _halve(mask: Tensor) -> Tensor:
    """Return the share of text in squares of 2 x 2 pixels."""
    return F.avg_pool2d(mask.float()[:, None], 2)[:, 0]


@dataclass(frozen=True)
class TextDetectorRecipe(Recipe):
    """A small network that finds lines of text."""

    images: int = 8000
    width: int = 16
    learning_rate: float = 3e-3
    warmup: int = 50
    lr_schedule: LRSchedule = "linear"

    def build(self) -> TextTrainable:
        trainable = TextTrainable()
        trainable.model = TextDetector(self.width)
        return trainable

    def data(self) -> Tensors:
        return Tensors(**planted_text("train", self.images, self.seed))

    def measure(self, model: Model) -> dict:
        """Measure precision and recall of places on 1,000 test images, in another font."""
        test = planted_text("test", 1000)
        device = next(model.parameters()).device
        found = []
        for part in test["pixels"].split(100):
            found.append(model(pixels_to_float(part.to(device))).cpu() > 0)
        said, true = torch.cat(found), _halve(test["mask"]) > 0.5
        right = (said & true).sum()
        return {"precision": float(right / said.sum()), "recall": float(right / true.sum())}


RECIPES = [TextDetectorRecipe(name=TEXT_DETECTOR, steps=1000, batch_size=48)]
