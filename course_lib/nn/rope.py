"""Rotary position embedding: Su et al. 2021 (RoFormer), arXiv 2104.09864.

A head's numbers are taken in pairs of neighbours, and each pair is turned in its plane by an angle
that grows with the position.  The product of a query and a key then depends on how far apart they
are, and on nothing else about where they are.  CogVideoX (arXiv 2408.06072, section 2.2) gives a
quarter of the pairs to time and three eighths each to height and width; LLaMA's transformer, and so
LVM's, has one position a token.
"""

import torch

from course_lib.shapes import Float, Shaped, Tensor

THETA = 10_000.0  # the slowest pair takes almost this many positions for one radian


def rope_angles(positions: Float[Tensor, "*n"], width: int) -> Float[Tensor, "*n half"]:
    """RoFormer, Eq. 15: return the angle of each pair of `width` numbers, in radians.

    Pair i turns by position * 10000^(-2i / width).  Positions may lie between the whole numbers.
    Raises ValueError for an odd width.
    """
    if width % 2:
        raise ValueError(f"width: expected an even number, for pairs, got {width}")
    pairs = torch.arange(0, width, 2, dtype=positions.dtype, device=positions.device)
    return positions[..., None] * THETA ** (-pairs / width)


def rope_angles_3d(positions: Float[Tensor, "*n 3"], width: int) -> Float[Tensor, "*n half"]:
    """CogVideoX, section 2.2: return a head's angles for positions in time, height and width.

    In this order they turn the first 2/8, the next 3/8 and the last 3/8 of its numbers: 16, 24 and
    24 of 64.  Raises ValueError for a width that does not divide by 16, for which this gives pairs.
    """
    if width % 16:
        raise ValueError(f"width: expected a multiple of 16, got {width}")
    t, h, w = positions.unbind(-1)
    eighth = width // 8
    angles = [rope_angles(t, 2 * eighth), rope_angles(h, 3 * eighth), rope_angles(w, 3 * eighth)]
    return torch.cat(angles, dim=-1)


def rotate(
    x: Float[Tensor, "b n heads d"], angles: Float[Tensor, "*b n half"]
) -> Float[Tensor, "b n heads d"]:
    """RoFormer, Eq. 34: turn each pair (x[2i], x[2i+1]) of every head by its token's angle i.

    angles: the same for the whole batch, or with an axis for it.  Raises ValueError where they are
    not half as many as a head has numbers.
    """
    if 2 * angles.shape[-1] != x.shape[-1]:
        raise ValueError(
            f"angles: expected {x.shape[-1] / 2:g} for {x.shape[-1]} numbers of a head, got"
            f" {angles.shape[-1]}"
        )
    return turn(x, torch.polar(torch.ones_like(angles), angles))


def turn(
    x: Float[Tensor, "b n heads d"], turns: Shaped[Tensor, "*b n half"]
) -> Float[Tensor, "b n heads d"]:
    """RoFormer, Eq. 34: turn each pair of every head by its token's turn i, e^(i angle).

    Whoever rotates several times by the same angles computes their turns once.
    """
    # A pair is a complex number, and a turn the product with another: on a CPU a fifth of the time
    # that sines and cosines of neighbours take.
    exact = x.to(torch.promote_types(x.dtype, torch.float32))  # half precision has no complex form
    pairs = torch.view_as_complex(exact.unflatten(-1, (-1, 2)))  # b n heads half
    return torch.view_as_real(pairs * turns[..., None, :]).flatten(-2).to(x.dtype)


def rotate_places(x: Float[Tensor, "b n heads d"], first: int = 0) -> Float[Tensor, "b n heads d"]:
    """RoFormer, Eq. 34: rotate the tokens of a row, the first of them at place `first`.

    It is 0 unless there are tokens before them, such as those that a cache holds.  A network of
    many layers computes the turns once.
    """
    return turn(x, turns_of_places(first, x.shape[1], x.shape[-1]).to(x.device))


def turns_of_places(first: int, n: int, width: int) -> Shaped[Tensor, "n half"]:
    """Return the turns of a head's pairs for the n places from `first` on, complex.

    Angles are computed in float64: at the 4,096th place those in float32 are 1e-4 radians off.
    """
    angles = rope_angles(torch.arange(first, first + n, dtype=torch.float64), width)  # n half
    return torch.polar(torch.ones_like(angles), angles).to(torch.complex64)
