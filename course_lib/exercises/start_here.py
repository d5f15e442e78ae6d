"""Notebook 00: two first exercises, one to fail and pass on purpose, one with einops."""

import torch
from einops import rearrange

from course_lib.checking import Exercise
from course_lib.nn.patches import patchify
from course_lib.world import pixels_to_float


def _pictures(rng):
    def picture(*shape):
        return torch.randint(0, 256, shape, generator=rng, dtype=torch.uint8)

    extremes = (
        torch.tensor([0, 127, 128, 255], dtype=torch.uint8).reshape(1, 2, 2, 1).repeat(1, 1, 1, 3)
    )
    return [{"rgb": picture(2, 5, 7, 3)}, {"rgb": picture(4, 6, 5, 3)}, {"rgb": extremes}]


def _images(rng):
    sizes = [(2, 3, 4, 6, 2), (4, 1, 6, 9, 3), (3, 2, 8, 4, 4), (1, 3, 5, 2, 1)]
    return [
        {"image": torch.randn(*shape, generator=rng), "patch": patch} for *shape, patch in sizes
    ]


def _scaled(scale, shift):
    return lambda rgb: rearrange(rgb, "b h w c -> b c h w").float() / scale + shift


def _tokens(target):
    return lambda image, patch: rearrange(
        image, f"b c (h p1) (w p2) -> {target}", p1=patch, p2=patch
    )


EXERCISES = [
    Exercise(
        id="start_here.to_model",
        reference=pixels_to_float,
        cases=_pictures,
        points=1,
        stars=1,
        minutes=3,
        misconceptions={
            "channels_last": (
                lambda rgb: rgb.float() / 127.5 - 1,
                "The range is right, but the channels are still last. A model wants (b c h w): move"
                " the axis with `rearrange`.",
            ),
            "reshaped": (
                lambda rgb: (
                    rgb.reshape(len(rgb), rgb.shape[-1], *rgb.shape[1:3]).float() / 127.5 - 1
                ),
                "The shape is right, but `reshape` does not move axes: it deals the same numbers"
                " out in another shape, and the colours of neighbouring pixels are mixed. Use"
                " `rearrange`.",
            ),
            "zero_to_one": (
                _scaled(255, 0),
                "Your values lie in [0, 1]. The models here take [-1, 1], so that 0 is the middle"
                " grey.",
            ),
            "not_centred": (
                _scaled(127.5, 0),
                "Your values lie in [0, 2]: dividing by 127.5 is right, now subtract 1.",
            ),
            "by_256": (
                _scaled(128, -1),
                "You divided by 128, so white becomes 0.992. The largest pixel is 255; it must"
                " become exactly 1.",
            ),
            "wrapped": (
                lambda rgb: rearrange(rgb * 2 - 255, "b h w c -> b c h w").float() / 255,
                "You calculated in uint8, where 200 * 2 wraps around to 144. Convert to float"
                " first.",
            ),
        },
    ),
    Exercise(
        id="start_here.patchify",
        reference=patchify,
        cases=_images,
        gradients=("image",),
        equation="ViT, section 3.1",
        points=2,
        stars=2,
        minutes=6,
        misconceptions={
            "channels_first": (
                _tokens("b (h w) (c p1 p2)"),
                "The tokens are right, but inside a token you put the channels first. The order"
                " asked for is (p1 p2 c): row, column, channel.",
            ),
            "columns_first": (
                _tokens("b (w h) (p1 p2 c)"),
                "Each token is right, but you walk through the picture column by column. Reading"
                " order is (h w).",
            ),
            "transposed_patch": (
                _tokens("b (h w) (p2 p1 c)"),
                "Each patch is transposed: inside a token the rows p1 come before the columns p2.",
            ),
            "dilated": (
                lambda image, patch: rearrange(
                    image, "b c (p1 h) (p2 w) -> b (h w) (p1 p2 c)", p1=patch, p2=patch
                ),
                "In `(p1 h)` the patch is the outer part, so a token collects pixels that lie far"
                " apart. Neighbours share a patch when it is the inner part: `(h p1)`.",
            ),
            "reshaped": (
                lambda image, patch: image.reshape(len(image), -1, patch * patch * image.shape[1]),
                "`reshape` cuts the numbers in memory order, so a token runs along a row of one"
                " channel and is no square patch. Split the axes first, with `rearrange`.",
            ),
            "grid_kept": (
                _tokens("b h w (p1 p2 c)"),
                "You kept the grid of patches as two axes. A sequence of tokens has one: join them"
                " with `(h w)`.",
            ),
        },
    ),
]
