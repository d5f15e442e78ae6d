"""Convolutions of clips (b c t h w) that keep their size, padded by reflection or by zeros.

MAGVIT (arXiv 2212.05199, section 3.1 and appendix A) pads by reflection, so that the same content
gets the same token wherever it is: a zero says "here is the border", a mirror image does not.
"""

import math
from collections.abc import Sequence

import torch.nn.functional as F
from torch import nn

from course_lib.shapes import Float, Tensor


class SameConv3d(nn.Conv3d):
    """A convolution of stride 1 and odd kernel that keeps the clip's size.

    kernel: (t, h, w), or one number for all three.  padding: "reflect" or "zeros".  Raises
    ValueError for another padding, and for a kernel without a middle.  Weights start as Flax's do:
    normal, cut off at two deviations, of variance 1 / fan-in; biases at zero.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int, int],
        padding: str = "reflect",
        bias: bool = True,
    ):
        if isinstance(kernel, int):
            kernel = (kernel, kernel, kernel)
        if padding not in ("reflect", "zeros"):
            raise ValueError(f"expected padding 'reflect' or 'zeros', got {padding!r}")
        if any(k % 2 == 0 for k in kernel):
            raise ValueError(f"expected odd kernels, which have a middle, got {kernel}")

        t, h, w = kernel
        self.pad = (t // 2, h // 2, w // 2)
        self.reflects = padding == "reflect" and any(self.pad)
        zeros = 0 if self.reflects else self.pad
        super().__init__(c_in, c_out, kernel, padding=zeros, bias=bias)

    def reset_parameters(self) -> None:
        lecun_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "b c_in t h w"]) -> Float[Tensor, "b c_out t h w"]:
        if self.reflects:
            x = reflect_pad(x, self.pad)  # b c_in t+2p h+2p w+2p
        return super().forward(x)


def reflect_pad(x: Float[Tensor, "b c t h w"], pad: Sequence[int]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Extend a clip by its mirror image, pad = (frames, rows, columns) at both ends of each axis.

    The border is the mirror and is not repeated: 0 1 2 3 becomes 1 0 1 2 3 2 for a pad of 1.
    Raises ValueError unless every axis is longer than its pad.
    """
    if any(p >= n for p, n in zip(pad, x.shape[2:], strict=True)):
        raise ValueError(
            f"expected a clip longer than its pad {tuple(pad)} on every axis, got"
            f" {tuple(x.shape[2:])}"
        )
    t, h, w = pad
    return F.pad(x, (w, w, h, h, t, t), mode="reflect")


def lecun_normal_(weight: Tensor) -> None:
    """Fill (out in ...) in place with normal numbers of variance 1 / fan-in.

    They are cut off at two deviations.
    """
    cut = 0.87962566103423978  # what a deviation of 1 becomes by the cut
    fan_in = weight[0].numel()
    std = 1 / math.sqrt(fan_in) / cut
    nn.init.trunc_normal_(weight, std=std, a=-2 * std, b=2 * std)
