"""A ResNet without batch statistics: group norm and standardized convolutions, as in Big Transfer.

It is ViT's baseline and the stem of its hybrids (arXiv 2010.11929, section 4.1; Kolesnikov et al.,
arXiv 1912.11370).  Convolutions pad as TensorFlow's SAME does, right and bottom first: the
published weights were trained with that.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.nn.norm import GroupNorm
from course_lib.shapes import Float, Tensor


def pad_same(
    x: Float[Tensor, "b c h w"], kernel: int, stride: int, value: float = 0.0
) -> Float[Tensor, "b c h2 w2"]:
    """Pad so that a convolution of this kernel and stride gives ceil(side / stride) rows, columns.

    Half of what is missing is put first, the rest, which may be one more, last.
    """

    def missing(side: int) -> int:
        steps = math.ceil(side / stride)
        return max((steps - 1) * stride + kernel - side, 0)

    height, width = x.shape[2:]
    top = missing(height) // 2
    bottom = missing(height) - top
    left = missing(width) // 2
    right = missing(width) - left
    return F.pad(x, (left, right, top, bottom), value=value)


class StdConv(nn.Conv2d):
    """A convolution whose filters have mean 0 and standard deviation 1 when they are applied."""

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1):
        super().__init__(c_in, c_out, kernel, stride, bias=False)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        std, mean = torch.std_mean(self.weight, dim=(1, 2, 3), correction=0, keepdim=True)
        x = pad_same(x, self.kernel_size[0], self.stride[0])
        return F.conv2d(x, (self.weight - mean) / (std + 1e-5), stride=self.stride)


class ResidualUnit(nn.Module):
    """1x1, 3x3 and 1x1 convolutions around the identity; the last norm starts at zero."""

    def __init__(self, c_in: int, width: int, stride: int, groups: int):
        super().__init__()
        c_out = 4 * width
        self.conv1 = StdConv(c_in, width, 1)
        self.norm1 = GroupNorm(groups, width, 1e-6)
        self.conv2 = StdConv(width, width, 3, stride)
        self.norm2 = GroupNorm(groups, width, 1e-6)
        self.conv3 = StdConv(width, c_out, 1)
        self.norm3 = GroupNorm(groups, c_out, 1e-6)
        self.skip: nn.Module = nn.Identity()
        if c_in != c_out or stride > 1:
            self.skip = nn.Sequential(
                StdConv(c_in, c_out, 1, stride), GroupNorm(groups, c_out, 1e-6)
            )
        nn.init.zeros_(self.norm3.weight)

    def forward(self, x: Float[Tensor, "b c_in h w"]) -> Float[Tensor, "b c h2 w2"]:
        h = F.relu(self.norm1(self.conv1(x)))  # b width h w
        h = F.relu(self.norm2(self.conv2(h)))  # b width h/s w/s
        return F.relu(self.skip(x) + self.norm3(self.conv3(h)))


class ResNet(nn.Module):
    """Stages of residual units, the first at the root's resolution, each further one at half of it.

    blocks: units per stage.  width: channels of the first stage.  The root halves twice, or not at
    all (`halving_root=False`, for images of few pixels).
    """

    def __init__(
        self,
        channels: int,
        blocks: Sequence[int],
        width: int,
        groups: int = 32,
        halving_root: bool = True,
    ):
        super().__init__()
        self.halving_root = halving_root
        self.root = StdConv(channels, width, 7, 2) if halving_root else StdConv(channels, width, 3)
        self.norm = GroupNorm(groups, width, 1e-6)
        self.stages = nn.ModuleList()
        c = width
        for stage, units in enumerate(blocks):
            inner = width * 2**stage
            for unit in range(units):
                halves = stage > 0 and unit == 0
                self.stages.append(ResidualUnit(c, inner, 2 if halves else 1, groups))
                c = 4 * inner
        self.out_channels = c
        self.stride = 2 ** (len(blocks) - 1) * (4 if halving_root else 1)

    def forward(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b c_out h2 w2"]:
        """Return the last stage's feature map."""
        h = F.relu(self.norm(self.root(image)))  # b width h/2 w/2
        if self.halving_root:
            h = F.max_pool2d(pad_same(h, 3, 2, value=-torch.inf), 3, 2)  # b width h/4 w/4
        for unit in self.stages:
            h = unit(h)
        return h
