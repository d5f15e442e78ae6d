"""Layers for clips (b c t h w) that see only the past: convolution, down- and upsampling, a norm.

MAGVIT-v2 (arXiv 2310.05737, section 3.2): a convolution of k frames pads k - 1 frames before the
first one and none after the last, so that frame i of the result has seen only frames 0 to i, and
the first frame only itself.  One model then reads images (one frame) and clips: a stride of s takes
1 + s t frames to 1 + t, and upsampling by s takes them back and drops the first s - 1 of its
frames.  The paper does not say what the padded frames hold: its re-implementations have zeros, and
CogVideoX (2408.06072) repeats the first frame.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.conv3d import lecun_normal_
from course_lib.shapes import Float, Tensor

PADDINGS = ("zeros", "replicate")


def causal_conv3d(
    x: Float[Tensor, "b c_in t h w"],
    weight: Float[Tensor, "c_out c_in kt kh kw"],
    bias: Float[Tensor, " c_out"] | None = None,
    stride: Sequence[int] = (1, 1, 1),
    padding: str = "zeros",
) -> Float[Tensor, "b c_out t2 h2 w2"]:
    """Convolve with kt - 1 frames of padding before the first frame and none after the last.

    So t2 = (t - 1) // stride + 1.  padding: what these frames hold, "zeros" or, for "replicate",
    the first frame.  Rows and columns get zeros on both sides, (k - 1) // 2 before and k // 2
    after, so that h2 = (h - 1) // stride + 1.  Raises ValueError for another padding.
    """
    if padding not in PADDINGS:
        raise ValueError(f"expected padding 'zeros' or 'replicate', got {padding!r}")
    kt, kh, kw = weight.shape[2:]
    past = kt - 1
    if past and padding == "replicate":
        first = x[:, :, :1].expand(-1, -1, past, -1, -1)  # b c_in kt-1 h w
        x = torch.cat([first, x], dim=2)  # b c_in kt-1+t h w
        past = 0

    pad = ((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2, past, 0)
    if any(pad):
        x = F.pad(x, pad)
    return F.conv3d(x, weight, bias, tuple(stride))


class CausalConv3d(nn.Conv3d):
    """`causal_conv3d` with its weights.

    kernel, stride: of frames, rows and columns, or one number for all three.  Weights start as
    Flax's do (`lecun_normal_`), biases at zero.  Raises ValueError for another padding.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        kernel: int | tuple[int, int, int] = 3,
        stride: int | tuple[int, int, int] = 1,
        padding: str = "zeros",
        bias: bool = True,
    ):
        if padding not in PADDINGS:
            raise ValueError(f"expected padding 'zeros' or 'replicate', got {padding!r}")
        super().__init__(c_in, c_out, kernel, stride, bias=bias)
        self.frame_padding = padding

    def reset_parameters(self) -> None:
        lecun_normal_(self.weight)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def forward(self, x: Float[Tensor, "b c_in t h w"]) -> Float[Tensor, "b c_out t2 h2 w2"]:
        return causal_conv3d(x, self.weight, self.bias, self.stride, self.frame_padding)


class CausalUpsample(nn.Module):
    """Upsampling by `factors` of frames, rows and columns.

    It is a convolution to as many times more channels, which become places.
    """

    def __init__(
        self,
        c_in: int,
        c_out: int,
        factors: Sequence[int] = (2, 2, 2),
        kernel: int | tuple[int, int, int] = 3,
        padding: str = "zeros",
    ):
        super().__init__()
        self.factors = tuple(factors)
        self.conv = CausalConv3d(c_in, c_out * math.prod(factors), kernel, padding=padding)

    def forward(self, x: Float[Tensor, "b c_in t h w"]) -> Float[Tensor, "b c_out t2 h2 w2"]:
        return depth_to_space(self.conv(x), self.factors)


def depth_to_space(
    x: Float[Tensor, "b d t h w"], factors: Sequence[int]
) -> Float[Tensor, "b c t2 h2 w2"]:
    """Turn channels into blocks of (s, fh, fw) = `factors` places; drop the first s - 1 frames.

    So t2 = 1 + s (t - 1).  Channels are ordered (s fh fw c), as TensorFlow's depth_to_space has
    them.  Raises ValueError unless the factors divide them.
    """
    s, fh, fw = factors
    if min(s, fh, fw) < 1 or x.shape[1] % (s * fh * fw):
        raise ValueError(f"expected channels divisible by {s} x {fh} x {fw}, got {x.shape[1]}")
    x = rearrange(x, "b (s fh fw c) t h w -> b c (t s) (h fh) (w fw)", s=s, fh=fh, fw=fw)
    return x[:, :, s - 1 :]


class FrameNorm(nn.GroupNorm):
    """Group norm of every frame for itself.

    One that averages over frames, too, would let later ones change the first.
    """

    def forward(self, x: Float[Tensor, "b c t h w"]) -> Float[Tensor, "b c t h w"]:
        frames = super().forward(rearrange(x, "b c t h w -> (b t) c h w"))
        return rearrange(frames, "(b t) c h w -> b c t h w", b=len(x))
