"""Classifier-free guidance: away from what a network says without its condition."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from course_lib.shapes import Batch, Bool, Float, Shaped, Tensor


def guide(
    conditional: Batch, unconditional: Batch, scale: int | float | Float[Tensor, "..."]
) -> Batch:
    """Ho and Salimans 2022, arXiv 2207.12598, Eq. 6: go `scale` times from the one to the other.

    It buys precision with recall, as guidance by a classifier does (Dhariwal and Nichol 2021,
    arXiv 2105.05233).  scale is the paper's 1 + w: 0 is no condition, 1 no guidance.  A tensor
    broadcasts against the outputs, so that each frame of a clip may have its own.  It holds for
    every output that is linear in the score: the noise, v, the estimate of x_start.  Raises
    ValueError for outputs of unequal shape.
    """
    if conditional.shape != unconditional.shape:
        raise ValueError(
            f"unconditional: expected the shape of conditional, {tuple(conditional.shape)}, got"
            f" {tuple(unconditional.shape)}"
        )
    return unconditional + scale * (conditional - unconditional)


@dataclass(frozen=True)
class Guided:
    """A network under classifier-free guidance, as a function of x_t and t."""

    network: Callable
    context: Float[Tensor, "b n d"]
    null: Float[Tensor, "_ n d"]  # what stands for no context
    scale: int | float

    def __call__(self, x_t: Batch, t: Shaped[Tensor, " b"]) -> Batch:
        """Return the guided output; both halves are computed as one batch."""
        context = torch.cat([self.null.expand_as(self.context), self.context])  # 2*b n d
        both = self.network(torch.cat([x_t, x_t]), torch.cat([t, t]), context)  # 2*b c h w
        unconditional, conditional = both.chunk(2)
        return guide(conditional, unconditional, self.scale)


def drop_context(
    context: Float[Tensor, "b n d"], null: Float[Tensor, "_ n d"], dropped: Bool[Tensor, " b"]
) -> Float[Tensor, "b n d"]:
    """Put what stands for no context in the place of some, so that a network learns both."""
    return torch.where(dropped[:, None, None], null, context)
