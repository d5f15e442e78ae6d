"""Convolutions of sound (b c n) that hear only the past, in one piece or as it comes.

Before the first sample there is silence: zeros.  With stride s, n samples become floor(n / s), each
of which has heard whole strides; transposed, n become s n, without the end to which the next
samples would add.  A sound that comes in pieces, of whole strides each, becomes what it becomes as
a whole: with `Pieces`, every layer remembers the end of what it was given.
"""

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.nn.conv3d import lecun_normal_
from course_lib.shapes import Float, Tensor


class Pieces:
    """What every layer remembers of a sound that comes piece by piece: make a new one for each."""

    def __init__(self):
        self.remembered: dict[nn.Module, Tensor] = {}

    def extend(
        self, layer: nn.Module, x: Float[Tensor, "b c n"], past: int
    ) -> Float[Tensor, "b c n2"]:
        """Return x after the last `past` samples that this layer was given; at first, silence."""
        if layer in self.remembered:
            x = torch.cat([self.remembered[layer], x], dim=2)  # b c past+n
        else:
            x = F.pad(x, (past, 0))
        self.remembered[layer] = x[:, :, x.shape[2] - past :].clone()  # a slice would keep all
        return x


class CausalConv1d(nn.Conv1d):
    """A convolution with all its padding before the sound: dilation (kernel - 1) + 1 - stride.

    Weights start so that variances are kept, biases at zero.  Raises ValueError for a stride beyond
    the samples it spans, which would leave some unheard.
    """

    def __init__(self, c_in: int, c_out: int, kernel: int, stride: int = 1, dilation: int = 1):
        span = dilation * (kernel - 1) + 1
        if stride > span:
            raise ValueError(f"expected a stride of at most {span} samples, got {stride}")
        super().__init__(c_in, c_out, kernel, stride, dilation=dilation)
        self.past = span - stride

    def reset_parameters(self) -> None:
        lecun_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(
        self, x: Float[Tensor, "b c_in n"], pieces: Pieces | None = None
    ) -> Float[Tensor, "b c_out n2"]:
        x = F.pad(x, (self.past, 0)) if pieces is None else pieces.extend(self, x, self.past)
        return super().forward(x)


class CausalConvTranspose1d(nn.ConvTranspose1d):
    """A transposed convolution of 2 stride: a result hears its own sample and the one before."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__(c_in, c_out, 2 * stride, stride)

    def reset_parameters(self) -> None:
        nn.init.normal_(self.weight, std=(2 * self.in_channels) ** -0.5)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(  # type: ignore[override]  # an output size has no place here
        self, x: Float[Tensor, "b c_in n"], pieces: Pieces | None = None
    ) -> Float[Tensor, "b c_out n2"]:
        (s,) = self.stride
        if pieces is None:
            return super().forward(x)[:, :, :-s]
        return super().forward(pieces.extend(self, x, 1))[:, :, s:-s]
