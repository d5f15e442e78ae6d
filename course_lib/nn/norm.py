"""Group normalization that part of a network may be trained through."""

import torch
from torch import nn

from course_lib.shapes import Float, Tensor


class GroupNorm(nn.GroupNorm):
    """torch's, kept from a crash of the whole process.

    On a CPU, torch 2.13 writes the gradient of a channels-last input even where none is asked for,
    to no place: as when a norm is trained and the layers before it are frozen.
    """

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        trained = self.weight.requires_grad or self.bias.requires_grad
        if trained and torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()  # no copy
        return super().forward(x)
