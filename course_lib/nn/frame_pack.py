"""Frame Pack: clips of several durations in the rows of one batch.

CogVideoX (Yang et al. 2024, arXiv 2408.06072, section 3.1) trains on images and on clips of mixed
durations together, packed as Patch'n'Pack does with images of many sizes (Dehghani et al. 2023,
arXiv 2307.06304): several in a sequence, none of which sees another.
"""

from typing import NamedTuple

import torch

from course_lib.shapes import Bool, Float, Int, Shaped, Tensor


class Pack(NamedTuple):
    """Where clips of several durations stand in the rows of a batch, one after the other."""

    # Which clip of its row a frame is of, 0, 1, ...; -1: there is no frame.
    clip: Int[Tensor, "b t"]
    place: Int[Tensor, "b t"]  # its time inside its clip
    numbers: Int[Tensor, "b k"]  # which of all clips those of a row are; -1: it has fewer

    def to(self, device: torch.device) -> "Pack":
        """Return the same pack on a device."""
        return Pack(*(part.to(device) for part in self))


def frame_pack(durations: list[int], length: int) -> Pack:
    """CogVideoX, section 3.1: put clips into as few rows of `length` latent frames as they fill.

    The longest goes first, and each into the first row with room for it.  Raises ValueError for a
    clip that is longer than a row, or has no frame.
    """
    if not durations or not 1 <= min(durations) <= max(durations) <= length:
        raise ValueError(f"durations: expected 1..{length} frames each, got {durations}")
    rows: list[list[int]] = []
    for number in sorted(range(len(durations)), key=lambda i: -durations[i]):
        used = [sum(durations[i] for i in row) for row in rows]
        fits = [row for row, n in zip(rows, used, strict=True) if n + durations[number] <= length]
        if not fits:
            rows.append([])
        (fits or rows[-1:])[0].append(number)

    pack = Pack(
        clip=torch.full((len(rows), length), -1),
        place=torch.zeros(len(rows), length, dtype=torch.long),
        numbers=torch.full((len(rows), max(map(len, rows))), -1),
    )
    for i, row in enumerate(rows):
        frames = torch.tensor([durations[number] for number in row])
        pack.clip[i, : frames.sum()] = torch.arange(len(row)).repeat_interleave(frames)
        pack.place[i, : frames.sum()] = torch.cat([torch.arange(n) for n in frames])
        pack.numbers[i, : len(row)] = torch.tensor(row)
    return pack


def pack_clips(clips: list[Float[Tensor, "_ c h w"]], pack: Pack) -> Float[Tensor, "b t c h w"]:
    """Return the rows of a pack, with zeros where there is no frame.

    clips: as many as were packed, of the durations that were.  Raises ValueError for others.
    """
    there = pack.clip[:, None] == torch.arange(pack.numbers.shape[1])[:, None]  # b k t
    used = pack.numbers >= 0
    expected = there.sum(2)[used][pack.numbers[used].argsort()].tolist()
    if [len(clip) for clip in clips] != expected:
        raise ValueError(f"clips: expected durations {expected}, got {[len(c) for c in clips]}")
    rows = clips[0].new_zeros(*pack.clip.shape, *clips[0].shape[1:])
    for row, slot in used.nonzero().tolist():
        rows[row, there[row, slot]] = clips[int(pack.numbers[row, slot])]
    return rows


def of_clips(per_clip: Shaped[Tensor, "clips ..."], pack: Pack) -> Shaped[Tensor, "b k ..."]:
    """Return what belongs to each clip of each row, such as its text, from what all have in order.

    A row of fewer clips has the first one's in the places that are left.
    """
    return per_clip[pack.numbers.clamp(min=0)]


def pack_mask(clip: Int[Tensor, "b n"]) -> Bool[Tensor, "b 1 n n"]:
    """Return True where one token (row) may look at another (column): both are of one clip."""
    return (clip[:, :, None] == clip[:, None, :])[:, None]
