"""Norms: over groups of channels, by the root mean square, and by it at each place."""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.shapes import Float, Tensor


class GroupNorm(nn.GroupNorm):
    """torch's, kept from a crash of the whole process.

    It is for networks of which only a part is trained.  On a CPU, torch 2.13 writes the gradient of
    a channels-last input even where none is asked for, to no place: as when a norm is trained and
    the layers before it are frozen.
    """

    def forward(self, x: Float[Tensor, "b c ..."]) -> Float[Tensor, "b c ..."]:
        trained = self.weight.requires_grad or self.bias.requires_grad
        if trained and torch.is_grad_enabled() and not x.requires_grad:
            x = x.detach().requires_grad_()  # no copy
        return super().forward(x)


class ChannelRMSNorm(nn.Module):
    """The root mean square over the channels of each place: no place sees another one.

    With a bias, as convolutions behind a norm often have none.
    """

    def __init__(self, channels: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))
        self.eps = eps

    def forward(self, x: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c h w"]:
        x = x * (x.float().square().mean(1, keepdim=True) + self.eps).rsqrt().to(x.dtype)
        return x * self.weight[:, None, None] + self.bias[:, None, None]


class RMSNorm(nn.Module):
    """Zhang and Sennrich (2019), arXiv 1910.07467: T5's norm and LLaMA's, without mean and bias.

    Half precision is squared and summed in float32; the result has the weight's type.
    """

    def __init__(self, width: int, eps: float):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.eps = eps

    def forward(self, x: Float[Tensor, "*b d"]) -> Float[Tensor, "*b d"]:
        return rms_norm(x, self.weight, self.eps)


def rms_norm(
    x: Float[Tensor, "*b d"], weight: Float[Tensor, " d"], eps: float
) -> Float[Tensor, "*b d"]:
    """Eq. 4: divide each vector by the root of its mean square (plus eps), and scale it."""
    return weight * F.rms_norm(x, x.shape[-1:], eps=eps).to(weight.dtype)
