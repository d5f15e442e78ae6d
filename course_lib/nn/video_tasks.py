"""The ten tasks of MAGVIT (arXiv 2212.05199, section 3.2 and appendix B.1): what of a clip is
given, and what stands in for the rest.

Clips are (b c t h w) in [-1, 1].  A task's rule is the same on every grid, of pixels or of tokens,
in halves and quarters rounded down.  So a window that moves does so on the grid of tokens too, each
rounded for itself, as in the official code.  That gives Table 12's percentages; by the letter of
Eq. 2 (`cells_with_given_pixels`) a window that moves while a token's frames pass touches more tokens, and its
inpainting counterpart leaves fewer as padding.
"""

from collections.abc import Sequence

import torch
from einops import reduce

from course_lib.shapes import Bool, Float, Tensor

TASKS = ("FP", "FI", "OPC", "OPV", "OPH", "OPD", "IPC", "IPD", "CG", "CFP")


def task_mask(task: str, grid: Sequence[int]) -> Bool[Tensor, "t h w"]:
    """Where the condition of a task lies, True, on a grid of frames, rows and columns: of pixels or
    of tokens alike.

    Frame prediction (FP, and CFP with a class) is given the first frame, interpolation (FI) the
    first and the last. Outpainting is given the middle half of rows and columns (OPC), of columns
    (OPV), of rows (OPH), or a strip of half the columns that moves from left to right (OPD);
    inpainting all but the middle (IPC), or all but a box of half the rows and columns that moves
    likewise (IPD); CG nothing.  Raises ValueError for another task.
    """
    if task not in TASKS:
        raise ValueError(f"expected a task of {', '.join(TASKS)}, got {task!r}")
    t, h, w = grid
    frame, row, column = torch.arange(t)[:, None, None], torch.arange(h)[:, None], torch.arange(w)
    left = torch.tensor([round(w // 2 * i / max(t - 1, 1)) for i in range(t)])[:, None, None]
    rows, columns = (h // 4 <= row) & (row < h * 3 // 4), (w // 4 <= column) & (column < w * 3 // 4)
    strip = (left <= column) & (column < left + w // 2)
    mask = {
        "FP": frame == 0, "CFP": frame == 0, "FI": (frame == 0) | (frame == t - 1),
        "OPC": rows & columns, "OPV": columns, "OPH": rows, "OPD": strip,
        "IPC": ~(rows & columns), "IPD": ~(rows & strip), "CG": frame < 0,
    }[task]  # fmt: skip
    return mask.expand(t, h, w).clone()


def cells_with_given_pixels(
    pixels: Bool[Tensor, "t h w"], cell: Sequence[int]
) -> Bool[Tensor, "t2 h2 w2"]:
    """The tokens whose cell of (frames, rows, columns) holds a pixel of the mask: Eq. 2 calls the
    others padding.

    Raises ValueError for a mask that is not made of cells.
    """
    if any(n % c for n, c in zip(pixels.shape, cell, strict=True)):
        raise ValueError(f"expected a mask of cells of {tuple(cell)}, got {tuple(pixels.shape)}")
    t, h, w = cell
    return reduce(pixels, "(t t1) (h h1) (w w1) -> t h w", "any", t1=t, h1=h, w1=w)


def condition_clip(task: str, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
    """The clip with all but the condition padded: FP with its last frame, FI with what lies
    between, linearly, OPC, OPV and OPH with the nearest pixel of the condition, the others with
    black (-1, the paper's 0).
    """
    t, h, w = clip.shape[2:]
    if task in ("FP", "CFP"):
        return clip[:, :, :1].expand_as(clip)
    if task == "FI":
        share = torch.linspace(0, 1, t, device=clip.device, dtype=clip.dtype)[:, None, None]
        return torch.lerp(clip[:, :, :1], clip[:, :, -1:], share)
    row, column = torch.arange(h, device=clip.device), torch.arange(w, device=clip.device)
    if task in ("OPC", "OPH"):
        row = row.clamp(h // 4, h * 3 // 4 - 1)
    if task in ("OPC", "OPV"):
        column = column.clamp(w // 4, w * 3 // 4 - 1)
    if task in ("OPC", "OPV", "OPH"):
        return clip[:, :, :, row[:, None], column]
    return clip.where(task_mask(task, (t, h, w)).to(clip.device), -1)
