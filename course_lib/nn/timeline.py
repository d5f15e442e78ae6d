"""What a causal layer sees before the frames (b c t h w) it is given.

A causal convolution of k frames needs k - 1 earlier ones.  Where they come from depends on how much
of a clip is here: all of it (`Timeline`: there are none, so the first frame is repeated), the next
piece of it (`Stream`: every layer remembers the end of its last piece) or one of several processes'
share (`course_lib.nn.context_parallel.Ranks`: the neighbour sends them).  A network that asks its
timeline is written once and runs in all three ways.
"""

from collections.abc import Iterator

import torch
from einops import rearrange
from torch import nn

from course_lib.shapes import Float, Tensor


class Timeline:
    """A whole clip, which has nothing before its first frame but that frame again and again."""

    @property
    def starts(self) -> bool:
        """Whether the frames that the layers are given begin with the clip's first."""
        return True

    def extend(
        self, layer: nn.Module, x: Float[Tensor, "b c t h w"], past: int
    ) -> Float[Tensor, "b c t2 h w"]:
        """Return x with `past` frames before it, those that this layer would have seen there."""
        return causal_padding(x, kernel=past + 1)

    def group_norm(
        self, norm: nn.GroupNorm, x: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Return x normalized by the mean and the deviation of all frames that are here."""
        return norm(x)


class Stream(Timeline):
    """A clip that comes piece by piece: every layer remembers the last frames it was given.

    `for part in stream.over(parts)` moves on from piece to piece.
    """

    def __init__(self):
        self.remembered: dict[nn.Module, Tensor] = {}
        self.pieces = 0  # that have passed

    def over(self, parts: Iterator[Tensor] | tuple[Tensor, ...]) -> Iterator[Tensor]:
        """Yield the pieces of a clip in their order, each to be given to the network once."""
        for part in parts:
            yield part
            self.pieces += 1

    @property
    def starts(self) -> bool:
        return self.pieces == 0

    def extend(
        self, layer: nn.Module, x: Float[Tensor, "b c t h w"], past: int
    ) -> Float[Tensor, "b c t2 h w"]:
        if layer in self.remembered:
            extended = torch.cat([self.remembered[layer], x], dim=2)
        else:
            extended = super().extend(layer, x, past)
        self.remembered[layer] = extended[:, :, -past:].clone()  # a slice would keep all of it
        return extended


def causal_padding(x: Float[Tensor, "b c t h w"], kernel: int) -> Float[Tensor, "b c t2 h w"]:
    """Repeat a clip's first frame before it, so that each frame is the last of `kernel` frames."""
    return torch.cat([x[:, :, :1]] * (kernel - 1) + [x], dim=2)


def pool_frames(x: Float[Tensor, "b c t h w"], starts: bool = True) -> Float[Tensor, "b c t2 h w"]:
    """Average pairs of frames, and leave the first one of a clip alone: 1 + 2 n become 1 + n.

    starts: whether x begins with that frame.  Raises ValueError for a frame without a partner.
    """
    first, rest = x[:, :, :starts], x[:, :, starts:]
    if rest.shape[2] % 2:
        wanted = "an odd number of frames (1 + 2 n)" if starts else "an even number of frames"
        raise ValueError(f"expected {wanted} to pool, got {x.shape[2]}")
    pooled = (rest[:, :, 0::2] + rest[:, :, 1::2]) / 2
    return torch.cat([first, pooled], dim=2)


def repeat_frames(
    x: Float[Tensor, "b c t h w"], times: int, starts: bool
) -> Float[Tensor, "b c t2 h w"]:
    """Repeat every frame `times` times, but the first one of a clip once: 1 + n become 1 + 2 n.

    starts: whether x begins with that frame.
    """
    counts = torch.full((x.shape[2],), times, device=x.device)
    counts[:starts] = 1
    frames = rearrange(x, "b c t h w -> b t h w c")
    return rearrange(frames.repeat_interleave(counts, dim=1), "b t h w c -> b c t h w")
