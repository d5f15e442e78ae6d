"""Notebook 07: a tokenizer of images *and* of their maps.

`lvm-tokenizer` makes 8 x 8 codes of an image of 32 x 32, each of what is near its place; those of
`lvm-tokenizer-global` may depend on the whole image.  Whatever a visual sentence may hold is an
image to it: photographs of the little world, turned and with holes, and every map in its colours.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from course_lib import zoo
from course_lib.data import in_batches
from course_lib.metrics import depth_error, edge_f1, mean_iou, normal_angle, psnr
from course_lib.papers.lvm_tokenizer import Tokenizer
from course_lib.quantize.vq import perplexity, usage
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.world import LittleWorld, float_to_pixels, pixels_to_float
from course_lib.world.annotations import Annotated, annotate, draw_holes, turn
from course_lib.world.map_colours import (
    CLASSES,
    PALETTE,
    POOL,
    cut_holes,
    draw_palettes,
    pixels_to_classes,
    pixels_to_depth,
    pixels_to_edges,
    pixels_to_normal,
)

TOKENIZER = "lvm-tokenizer"
GLOBAL_TOKENIZER = "lvm-tokenizer-global"
SIZE = 32

# ---------------------------------------------------------------- what it is trained on


def annotated_images(split: str, n: int) -> Annotated:
    """Return n images of one to three things at rest, with all that is true of them."""
    world = LittleWorld(split, SIZE, length=n, motion="rest", camera="still")
    scenes = [world.scene(i) for i in range(n)]
    return annotate(scenes, SIZE)


def kinds(images: Annotated, seed: int = 0) -> dict[str, Tensor]:
    """Return all kinds of images (n h w 3) that a sentence may hold, by name.

    Each image has a hole of its own, and a palette of its own for its classes.
    """
    generator = torch.Generator().manual_seed(seed)
    palettes = draw_palettes(torch.rand(len(images), len(POOL), generator=generator))
    holes = draw_holes(torch.rand(len(images), 3, generator=generator), SIZE)
    return {
        "image": images.rgb,
        "turned": turn(images.rgb),
        "holes": cut_holes(images.rgb, holes),
        "grey": images.draw("grey"),
        "depth": images.draw("depth"),
        "normal": images.draw("normal"),
        "segmentation": images.draw("segmentation"),
        "palette": images.draw("segmentation", palettes),
        "edges": images.draw("edges"),
    }


# ---------------------------------------------------------------- training


class MapTokenizer(Trainable):
    """The squared error of rebuilt images, and the quantizer's commitment."""

    model: Tokenizer

    def __init__(self, model: Tokenizer, recipe: "MapTokenizerRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        quarters = int(rng.randint(0, 8, 1))  # half of all batches stay upright
        image = pixels_to_float(turn(batch["pixels"], quarters if quarters < 4 else 0))
        z = self.model.features(image).float()
        self.model.quantizer.revive(z, rng.rand(len(z), *z.shape[2:]), self.recipe.revive_after)
        quantized = self.model.quantizer(z)
        rebuilt = self.model.decode(quantized.latents).float()
        return self.recipe.error_weight * (image - rebuilt).square().mean() + quantized.loss


@dataclass(frozen=True)
class MapTokenizerRecipe(Recipe):
    """A tiny tokenizer on images and maps of one to three things, at times turned."""

    lr_schedule: LRSchedule = "plateau"
    preset: str = "lvm/tokenizer-tiny"
    pictures: int = 12_000  # scenes, each of which is drawn in all kinds
    error_weight: float = 20.0
    revive_after: int = 100  # steps without use

    def build(self) -> MapTokenizer:
        return MapTokenizer(Tokenizer(zoo.find(self.preset).config), self)

    def data(self) -> Tensors:
        drawn = kinds(annotated_images("train", self.pictures))
        return Tensors(pixels=torch.cat(list(drawn.values())))

    def measure(self, model: Tokenizer) -> dict:
        """Measure rebuilt test images, and maps by what they say, and the use of the codebook."""
        device = next(model.parameters()).device
        images = annotated_images("test", 512)
        drawn = kinds(images)
        codes = {
            name: in_batches(lambda x: model.encode(x).indices, pixels, device)
            for name, pixels in drawn.items()
        }
        rebuilt = {name: decode(model, x) for name, x in codes.items()}
        every = torch.cat(list(codes.values()))
        size = len(model.quantizer.codebook)
        return {
            **map_scores(images, rebuilt),
            **{
                f"psnr {name}": float(psnr(pixels_to_float(x), pixels_to_float(drawn[name])).mean())
                for name, x in rebuilt.items()
            },
            "perplexity": float(perplexity(every, size)),
            "usage": float(usage(every, size)),
        }


@torch.no_grad()
def decode(model: Tokenizer, codes: Tensor) -> Tensor:
    """Return the images (n h w 3) uint8 of grids of codes (n h w)."""
    device = next(model.parameters()).device
    parts = [model.decode_indices(part.to(device)).cpu() for part in codes.long().split(100)]
    return float_to_pixels(torch.cat(parts))


def map_scores(images: Annotated, maps: dict[str, Tensor]) -> dict[str, float]:
    """Measure maps (n h w 3) uint8 in their colours against what is true of the images."""
    return {
        "iou": mean_iou(
            pixels_to_classes(maps["segmentation"], PALETTE), images.classes, len(CLASSES)
        ),
        "depth": float(depth_error(pixels_to_depth(maps["depth"]), images.depth).mean()),
        "normal": float(normal_angle(pixels_to_normal(maps["normal"]), images.normal).mean()),
        "edges": float(edge_f1(pixels_to_edges(maps["edges"]), images.edges).mean()),
    }


LOCAL = MapTokenizerRecipe(
    TOKENIZER,
    steps=10_000,
    batch_size=16,
    learning_rate=2e-3,
    warmup=100,
    ema=0.999,
    precision="bfloat16",
    checkpoint_dtype="float16",
)

RECIPES: list[Recipe] = [
    LOCAL,
    replace(LOCAL, name=GLOBAL_TOKENIZER, preset="lvm/tokenizer-tiny-global"),
]
