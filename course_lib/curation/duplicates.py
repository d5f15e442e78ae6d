"""Copies: the same clip uploaded again, encoded anew, brighter, or with its borders cut off.

A clip that is there a hundred times is learned by heart.  Two fingerprints of the first, the middle
and the last frame:

    thumbnail         8 x 8 places in colour; copies have a correlation near 1, whatever was done to
                      brightness and contrast.  Each clip has a second one without its borders, for
                      copies that have lost theirs.
    difference hash   192 bits: is each of 8 x 8 places brighter than the one to its right?  It is
                      smaller and quickly compared, but a plain sky turns its bits at random
"""

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.curation.text import three_frames
from course_lib.shapes import Bool, Float, Int, Tensor, UInt8

SIDE = 8  # places across and down
BORDER = 0.065  # of the height and the width, at every side
MOST_DISTANCE = 0.04  # of the thumbnails of two copies, 1 minus their correlation
MOST_BITS = 20  # that the hashes of two copies differ in, of 192
ROWS_AT_ONCE = 500

Clips = UInt8[Tensor, "n t h w 3"]


def thumbnails(clips: Clips, border: float = 0.0) -> Float[Tensor, "n d"]:
    """Return a vector for each clip, of mean 0 and length 1.

    border: the share of the height and the width that is cut off at every side first.
    """
    height, width = clips.shape[2:4]
    up, left = (round(border * side) for side in (height, width))
    inner = clips[:, :, up : height - up, left : width - left]
    x = torch.stack([_shrink(clip, SIDE, SIDE).flatten() for clip in inner])
    return F.normalize(x - x.mean(1, keepdim=True), dim=1)


def difference_hashes(clips: Clips) -> Bool[Tensor, "n bits"]:
    """Return the bits of each clip."""
    grey = torch.stack([_shrink(clip, SIDE, SIDE + 1).mean(1) for clip in clips])  # n 3 8 9
    return (grey[..., :-1] > grey[..., 1:]).flatten(1)


def find_copies(clips: Clips, most: float = MOST_DISTANCE) -> Int[Tensor, " n"]:
    """Return, for every clip, the number of the most similar one before it, or -1.

    They are copies if their thumbnails, or that of one and that of the other without its borders,
    have a correlation of at least 1 - `most`.  Keep the clips with -1: one of each.
    """
    return nearest_before(thumbnails(clips), thumbnails(clips, BORDER), most)


def nearest_before(
    whole: Float[Tensor, "n d"], inner: Float[Tensor, "n d"], most: float
) -> Int[Tensor, " n"]:
    """Do what `find_copies` does, for vectors of length 1."""
    found = []
    for start in range(0, len(whole), ROWS_AT_ONCE):
        rows = slice(start, start + ROWS_AT_ONCE)
        product = whole[rows] @ whole.T
        product = product.maximum(whole[rows] @ inner.T).maximum(inner[rows] @ whole.T)
        later = torch.ones_like(product, dtype=torch.bool).triu(start)
        nearest, number = (1 - product).masked_fill(later, torch.inf).min(1)
        found.append(number.masked_fill(nearest > most, -1))
    return torch.cat(found)


def find_copies_by_hash(clips: Clips, most: int = MOST_BITS) -> Int[Tensor, " n"]:
    """Do what `find_copies` does, for hashes that differ in at most `most` bits."""
    bits = difference_hashes(clips)
    signs = F.normalize(2 * bits.float() - 1, dim=1)
    return nearest_before(signs, signs, 2 * (most + 0.5) / bits.shape[1])


def _shrink(clip: UInt8[Tensor, "t h w 3"], height: int, width: int) -> Float[Tensor, "3 3 h2 w2"]:
    frames = rearrange(three_frames(clip).float(), "n h w c -> n c h w")
    return F.interpolate(frames, (height, width), mode="bilinear", antialias=True)
