"""Bytes and what models take: `pixels_to_float` and its inverse, `float_to_pixels`."""

import torch
from einops import rearrange

from course_lib.shapes import Float, Tensor, UInt8


def pixels_to_float(rgb: UInt8[Tensor, "... h w c"]) -> Float[Tensor, "... c h w"]:
    """Bytes with the channels last as floats in [-1, 1] with the channels before the space."""
    if rgb.dtype != torch.uint8:
        raise ValueError(f"rgb: expected bytes (torch.uint8), got {rgb.dtype}")
    return rearrange(rgb.float() / 127.5 - 1, "... h w c -> ... c h w")


def float_to_pixels(x: Float[Tensor, "... c h w"]) -> UInt8[Tensor, "... h w c"]:
    """The inverse of `pixels_to_float`; what lies outside [-1, 1] is clipped."""
    if not x.is_floating_point():
        raise ValueError(f"x: expected floats in [-1, 1], got {x.dtype}")
    pixels = (x.float().clamp(-1, 1) + 1) * 127.5
    return rearrange((pixels + 0.5).floor().to(torch.uint8), "... c h w -> ... h w c")
