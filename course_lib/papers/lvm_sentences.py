"""LVM's visual sentences and prompts (Bai et al., 2023, arXiv 2312.00785, sections 3, 4.2, 4.3).

An image is a grid of codes (h w), and so is a map: depth, normals, segmentation are drawn in
colours and tokenized like any other image.  A sentence is BOS, the codes of one image after
another, EOS; nothing in it says what its images are.  Read `course_lib.papers.lvm` after this file.

Reading order: which images make a sentence (section 3): single ones, clips, views, categories,
annotated ones; from images to tokens, and rows of one stream (4.2); prompts (4.3).

Differs from the official code: a row's first token is not predicted from the row before it.
"""

from collections.abc import Sequence
from typing import Literal

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.shapes import Int, Shaped, Tensor

Grids = Int[Tensor, "p h w"]  # the codes of p images

# ---------------------------------------------------------------- 3 which images make a sentence


def frames_at_stride(
    clip: Shaped[Tensor, "t ..."], count: int, stride: int, start: int = 0
) -> Shaped[Tensor, "count ..."]:
    """Return every `stride`-th frame from `start` on; the paper takes 16 at strides 10, 20 and 30.

    Raises ValueError for a clip that is too short.
    """
    last = start + (count - 1) * stride
    if min(count, stride) < 1 or start < 0 or last >= len(clip):
        raise ValueError(
            f"expected at least one frame at a stride of at least 1 within {len(clip)}, got"
            f" {count} frames at stride {stride} from {start}"
        )
    return clip[start : last + 1 : stride]


def views_around(
    views: Shaped[Tensor, "v ..."], count: int, start: int = 0
) -> Shaped[Tensor, "count ..."]:
    """Return neighbouring views of an object, from `start` on around it.

    views: at equal angles, all the way round; the paper has 24 at 15 degrees.  A negative `count`
    goes the other way round.  Raises ValueError for a count of 0 or of more views than there are.
    """
    if not 1 <= abs(count) <= len(views):
        raise ValueError(f"expected 1 to {len(views)} views, got {count}")
    way = torch.arange(abs(count)) * (1 if count > 0 else -1)
    return views[(start + way) % len(views)]


def images_of_category(
    images: Shaped[Tensor, "p ..."],
    labels: Int[Tensor, " p"],
    category: int,
    count: int,
    generator: torch.Generator,
) -> Shaped[Tensor, "count ..."]:
    """Draw images of one category, none twice; the paper puts 16 in a sentence.

    Raises ValueError if there are fewer.
    """
    (found,) = torch.nonzero(labels == category, as_tuple=True)
    if not 1 <= count <= len(found):
        raise ValueError(
            f"expected 1 to {len(found)} images, as many as there are of category {category}, got"
            f" {count}"
        )
    order = torch.randperm(len(found), generator=generator)[:count]
    return images[found[order.to(found.device)]]


def annotated(
    images: Grids,
    maps: Sequence[Grids],
    order: Literal["interleaved", "images first"] = "interleaved",
) -> Int[Tensor, "q h w"]:
    """Return images and their maps in the order of a sentence.

    maps: one or several kinds, each with a map of every image.  Interleaved, each image is followed
    by its maps, as all annotated images are, of which the paper has 8 in a sentence.  Frames of a
    clip may also come first, and then their maps, kind by kind.  Raises ValueError for no maps, for
    maps of another number or size than the images, and for another order.
    """
    if order not in ("interleaved", "images first"):
        raise ValueError(f"order: expected 'interleaved' or 'images first', got {order!r}")
    shapes = {tuple(kind.shape) for kind in maps}
    if shapes != {tuple(images.shape)}:
        raise ValueError(
            f"maps: expected at least one kind, each of the images' shape {tuple(images.shape)},"
            f" got {sorted(shapes)}"
        )
    kinds = torch.stack([images, *maps])  # kinds p h w
    if order == "images first":
        return rearrange(kinds, "kinds p h w -> (kinds p) h w")
    return rearrange(kinds, "kinds p h w -> (p kinds) h w")


# ---------------------------------------------------------------- 4.2 from images to tokens


def visual_sentence(images: Grids, bos: int, eos: int) -> Int[Tensor, " n"]:
    """Return BOS, the codes of one image after another in reading order, EOS.

    A single image is a sentence, too: nearly nine tenths of the paper's data.
    """
    codes = rearrange(images, "p h w -> (p h w)")
    return F.pad(F.pad(codes, (1, 0), value=bos), (0, 1), value=eos)


def pack(
    sentences: Sequence[Int[Tensor, " _"]], length: int
) -> tuple[Int[Tensor, "rows length"], Int[Tensor, " rest"]]:
    """Write sentences one after another, and cut the stream into rows of `length` tokens.

    A cut may be anywhere, in the middle of an image too.  Returns the rows, and the tokens that do
    not fill one more: they come first in the next call.  Raises ValueError unless length >= 1.
    """
    if length < 1:
        raise ValueError(f"expected rows of at least one token, got {length}")
    stream = torch.cat(list(sentences)) if sentences else torch.zeros(0, dtype=torch.long)
    whole = len(stream) // length * length
    return rearrange(stream[:whole], "(rows length) -> rows length", length=length), stream[whole:]


def document_ids(rows: Int[Tensor, "rows n"], bos: int) -> Int[Tensor, "rows n"]:
    """Number the sentences of each row, for a mask that keeps them apart.

    What is before a row's first BOS is the end of a sentence that the row before began: number 0.
    """
    return (rows == bos).cumsum(dim=1)


# ---------------------------------------------------------------- 4.3 prompts


def sequential_prompt(images: Int[Tensor, "*b p h w"], bos: int) -> Int[Tensor, "*b n"]:
    """Return a sentence that is left unfinished: what comes next?  The paper shows 7 frames."""
    codes = rearrange(images, "... p h w -> ... (p h w)")
    return F.pad(codes, (1, 0), value=bos)


def analogy_prompt(
    examples: Int[Tensor, "*b p q h w"], query: Int[Tensor, "*b r h w"], bos: int
) -> Int[Tensor, "*b n"]:
    """Return p solved examples and a query, which is to be completed like them.

    examples: an image and what becomes of it, q images each: pairs (q = 2), or an image and its
    maps of several kinds.  query: the first r of a further example; the q - r that follow are the
    answer.  p may be 0.  Raises ValueError unless 1 <= r < q.
    """
    q, r = examples.shape[-3], query.shape[-3]
    if not 1 <= r < q:
        raise ValueError(
            f"query: expected at least one image and fewer than the {q} of an example, got {r}"
        )
    shown = rearrange(examples, "... p q h w -> ... (p q) h w")
    return sequential_prompt(torch.cat([shown, query], dim=-3), bos)


def combined_prompt(
    images: Int[Tensor, "*b p h w"],
    once: Int[Tensor, "*b p h w"],
    twice: Int[Tensor, "*b p h w"],
    query: Int[Tensor, "*b h w"],
    bos: int,
    steps: bool = True,
) -> Int[Tensor, "*b n"]:
    """Ask for two tasks at once, such as rotate and segment, of examples that show both.

    once: the images after the first task; twice: these after the second.  With steps, examples show
    image, once and twice, and the answer is two images.  Without, they show image and twice, and
    the answer is one.
    """
    shown = [images, once, twice] if steps else [images, twice]
    return analogy_prompt(torch.stack(shown, dim=-3), query[..., None, :, :], bos)
