"""Cutting pictures into tokens."""

from einops import rearrange

from course_lib.shapes import Float, Tensor


def patchify(image: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n d"]:
    """Square patches in reading order, each flattened as (row, column, channel); d = patch * patch
    * c.

    Raises ValueError unless patch divides both sides (ViT, section 3.1).
    """
    height, width = image.shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise ValueError(
            f"patch must divide the height and the width, got patch {patch} for {height} x {width}"
        )
    return rearrange(image, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch)
