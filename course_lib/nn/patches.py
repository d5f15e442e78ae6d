"""Cutting images into tokens."""

from einops import rearrange

from course_lib.shapes import Float, Tensor


def patchify(image: Float[Tensor, "b c h w"], patch: int) -> Float[Tensor, "b n d"]:
    """Cut square patches in reading order, each flattened as (row, column, channel).

    patch: pixels on a side; d = patch * patch * c (ViT, section 3.1).  Raises ValueError unless it
    divides both sides.
    """
    height, width = image.shape[-2:]
    if patch < 1 or height % patch or width % patch:
        raise ValueError(
            f"patch: expected a divisor of height and width {height} x {width}, got {patch}"
        )
    return rearrange(image, "b c (h p1) (w p2) -> b (h w) (p1 p2 c)", p1=patch, p2=patch)
