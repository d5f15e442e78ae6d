"""Bytes to the floats that networks take and back: `pixels_to_float`, `float_to_pixels`."""

import torch
from einops import rearrange

from course_lib.shapes import Float, Tensor, UInt8


def pixels_to_float(rgb: UInt8[Tensor, "... h w c"]) -> Float[Tensor, "... c h w"]:
    """Turn bytes, channels last, into floats in [-1, 1], channels before height and width."""
    if rgb.dtype != torch.uint8:
        raise ValueError(f"rgb: expected bytes (torch.uint8), got {rgb.dtype}")
    return rearrange(rgb.float() / 127.5 - 1, "... h w c -> ... c h w")


def float_to_pixels(x: Float[Tensor, "... c h w"]) -> UInt8[Tensor, "... h w c"]:
    """Invert `pixels_to_float`; values outside [-1, 1] are clipped."""
    if not x.is_floating_point():
        raise ValueError(f"x: expected floats in [-1, 1], got {x.dtype}")
    pixels = (x.float().clamp(-1, 1) + 1) * 127.5
    return rearrange((pixels + 0.5).floor().to(torch.uint8), "... c h w -> ... h w c")
