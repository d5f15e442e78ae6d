"""StyleGAN's discriminator with its convolutions inflated from 2D to 3D: one logit per clip (b c t
h w).

Karras et al., arXiv 1912.04958, figure 7, as MAGVIT (arXiv 2212.05199, appendix A) and MAGVIT-v2
(2310.05737, section 3.2) use it.  MAGVIT halves by averages; MAGVIT-v2 blurs first (Zhang, arXiv
1904.11486), which makes the logit steadier under small shifts.
"""

import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch.nn.functional as F
from torch import nn

from course_lib.shapes import Float, Tensor


def average_pool(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Halve frames, rows and columns by averages of pairs.  An odd axis ends in what is left, as it
    is.
    """
    return F.avg_pool3d(x, tuple(min(2, n) for n in x.shape[2:]), ceil_mode=True)


def blur_pool(x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t2 h2 w2"]:
    """Halve frames, rows and columns (rounding up), each behind a blur with weights 1 3 3 1 / 8.

    Zeros are padded as TensorFlow's SAME does: one before, one or two behind.
    """
    for axis in (2, 3, 4):
        rest = x.shape[axis] % 2
        padded = F.pad(x.movedim(axis, 4), (1, 1 + rest))
        a, b, c, d = (padded[..., i : padded.shape[4] - 3 + i : 2] for i in range(4))
        x = ((a + d + 3 * (b + c)) / 8).movedim(4, axis)
    return x


class StyleGANDiscriminator(nn.Module):
    """Clips of one size to logits, high where a clip looks real.

    size: frames, rows and columns of the clips; every multiplier is a block of `filters` times as
    many channels that halves all three (rounding up).  halve: `average_pool` or `blur_pool`.
    """

    def __init__(
        self,
        size: Sequence[int],
        filters: int,
        multipliers: Sequence[int] = (2, 4, 4, 4, 4),
        channels: int = 3,
        halve: Callable[[Tensor], Tensor] = average_pool,
    ):
        super().__init__()
        self.size = tuple(size)
        widths = [filters, *(filters * m for m in multipliers)]
        self.conv_in = nn.Conv3d(channels, filters, 3, padding=1)
        self.blocks = nn.ModuleList(
            DiscriminatorBlock(c_in, c_out, halve) for c_in, c_out in pairwise(widths)
        )
        self.conv_out = nn.Conv3d(widths[-1], widths[-1], 3, padding=1)
        cells = math.prod(-(-n // 2 ** len(multipliers)) for n in self.size)
        self.hidden = nn.Linear(widths[-1] * cells, widths[-1])
        self.logit = nn.Linear(widths[-1], 1)
        for module in self.modules():
            if isinstance(module, nn.Conv3d | nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)

    def forward(self, clip: Float[Tensor, "b c t h w"]) -> Float[Tensor, " b"]:
        if tuple(clip.shape[2:]) != self.size:
            raise ValueError(
                f"expected clips of {self.size} frames, rows, columns, got {tuple(clip.shape[2:])}"
            )
        x = activate(self.conv_in(clip))  # b filters t h w
        for block in self.blocks:
            x = block(x)  # b c t/2 h/2 w/2, in the end b d t/2^n h/2^n w/2^n
        x = activate(self.conv_out(x)).flatten(1)  # b d*cells
        return self.logit(activate(self.hidden(x))).squeeze(1)


class DiscriminatorBlock(nn.Module):
    """Two convolutions with a halving between them, around a halved identity; the sum keeps its
    variance.
    """

    def __init__(self, c_in: int, c_out: int, halve: Callable[[Tensor], Tensor]):
        super().__init__()
        self.conv1 = nn.Conv3d(c_in, c_in, 3, padding=1)
        self.conv2 = nn.Conv3d(c_in, c_out, 3, padding=1)
        self.skip = nn.Conv3d(c_in, c_out, 1, bias=False)
        self.halve = halve

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b d t2 h2 w2"]:
        h = self.halve(activate(self.conv1(x)))  # b c t/2 h/2 w/2
        # b d t/2 h/2 w/2
        return (self.skip(self.halve(x)) + activate(self.conv2(h))) / math.sqrt(2)


def activate(x: Tensor) -> Tensor:
    """Leaky ReLU with slope 0.2."""
    return F.leaky_relu(x, 0.2)
