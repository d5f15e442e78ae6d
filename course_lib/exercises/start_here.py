"""Notebook 00: two first exercises, one to fail and pass on purpose, one with einops."""

import functools

import torch

from course_lib.checking import Exercise, edit
from course_lib.nn.patches import patchify
from course_lib.world import images, pixels_to_float


def _pixels(rng, *shape):
    return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)


def _pixel_cases(rng):
    extremes = torch.tensor([0, 127, 128, 255], dtype=torch.uint8)
    extremes = extremes.reshape(1, 2, 2, 1).repeat(1, 1, 1, 3)
    dim = torch.arange(40, 40 + 2 * 4 * 5 * 3, dtype=torch.uint8).reshape(2, 4, 5, 3)
    return [
        {"rgb": _pixels(rng, 2, 5, 7, 3)},
        {"rgb": _pixels(rng, 4, 3, 5, 3)},  # as high as it has colours
        {"rgb": extremes},
        {"rgb": dim},  # neither black nor white in it
        {"rgb": torch.zeros(1, 3, 2, 3, dtype=torch.uint8)},
        {"rgb": _chapter_images().clone()},
    ]


@functools.cache
def _chapter_images():
    return images(5, size=32, seed=1)


def _patch_cases(rng):
    sizes = [(2, 3, 4, 6, 2), (4, 1, 6, 9, 3), (3, 2, 8, 4, 4), (1, 3, 5, 2, 1)]
    one_patch = (1, 2, 3, 3, 3)
    as_the_chapter = (5, 3, 32, 32, 8)
    cases = [
        {"image": torch.randn(*shape, generator=rng), "patch": patch}
        for *shape, patch in [*sizes, one_patch, as_the_chapter]
    ]
    wide = torch.randn(2, 3, 4, 8, generator=rng, dtype=torch.float64)
    return [*cases, {"image": wide, "patch": 4}]


def _pixels_reshaped(rgb):
    return rgb.reshape(len(rgb), rgb.shape[-1], *rgb.shape[1:3]).float() / 127.5 - 1


def _image_reshaped(image, patch):
    return image.reshape(len(image), -1, patch * patch * image.shape[1])


EXERCISES = [
    Exercise(
        id="start_here.to_model",
        reference=pixels_to_float,
        cases=_pixel_cases,
        points=1,
        stars=1,
        minutes=3,
        misconceptions={
            "channels_last": (
                edit("-> ... c h w", "-> ... h w c"),
                "The range is right, but the channels are still last. A model wants (b c h w): move"
                " the axis with `rearrange`.",
            ),
            "reshaped": (
                _pixels_reshaped,
                "The shape is right, but `reshape` does not move axes: it fills another shape with"
                " the numbers in their old order, and the colours of neighbouring pixels are mixed."
                " Use `rearrange`.",
            ),
            "zero_to_one": (
                edit("/ 127.5 - 1", "/ 255"),
                "Your values are in [0, 1]. The models here take [-1, 1], so that 0 is the middle"
                " grey.",
            ),
            "not_centred": (
                edit("/ 127.5 - 1", "/ 127.5"),
                "Your values are in [0, 2]: dividing by 127.5 is right, now subtract 1.",
            ),
            "by_256": (
                edit("/ 127.5", "/ 128"),
                "You divided by 128, so white becomes 0.992. The largest pixel is 255; it has to"
                " become exactly 1.",
            ),
            "wrapped": (
                edit("rgb.float() / 127.5 - 1", "(rgb * 2 - 255).float() / 255"),
                "You calculated in uint8, where 200 * 2 wraps around to 144. Convert to float"
                " first.",
            ),
        },
    ),
    Exercise(
        id="start_here.patchify",
        reference=patchify,
        cases=_patch_cases,
        equation="ViT, Section 3.1",
        points=2,
        stars=2,
        minutes=6,
        misconceptions={
            "channels_first": (
                edit("(p1 p2 c)", "(c p1 p2)"),
                "The tokens are right, but inside a token you put the channels first. The order"
                " asked for is (p1 p2 c): row, column, channel.",
            ),
            "columns_first": (
                edit("(h w)", "(w h)"),
                "Each token is right, but you walk through the image column by column. Reading"
                " order is (h w).",
            ),
            "transposed_patch": (
                edit("(p1 p2 c)", "(p2 p1 c)"),
                "Each patch is transposed: inside a token the rows p1 come before the columns p2.",
            ),
            "dilated": (
                edit("(h p1) (w p2)", "(p1 h) (p2 w)"),
                "In `(p1 h)` the patch is the outer part, so a token collects pixels that are far"
                " apart. Neighbours share a patch when it is the inner part: `(h p1)`.",
            ),
            "reshaped": (
                _image_reshaped,
                "`reshape` cuts the numbers in memory order, so a token runs along a row of one"
                " channel and is not a square patch. Split the axes first, with `rearrange`.",
            ),
            "grid_kept": (
                edit("b (h w)", "b h w"),
                "You kept the grid of patches as two axes. A sequence of tokens has one: join them"
                " with `(h w)`.",
            ),
        },
    ),
]
