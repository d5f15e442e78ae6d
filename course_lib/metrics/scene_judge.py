"""The network of the judge of scenes: it reads everything that a caption says from a clip.

Temporal shift (Lin, Gan and Han, TSM, 2018, arXiv 1811.08383, section 3): a residual network on
single frames sees motion because every block first takes an eighth of its channels from the frame
before and an eighth from the one after.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.nn.norm import GroupNorm
from course_lib.shapes import Float, Tensor

SCENE_LABELS = {"shape": 4, "colour": 8, "scale": 2, "count": 3, "motion": 9, "camera": 3}
SIDE = 32  # pixels: larger clips are shrunk to it
GROUPS = 8


class TemporalShiftNet(nn.Module):
    """Clips (b t c h w) of any length, and any size from 32 pixels, to logits (b classes)."""

    def __init__(self, num_classes: int, width: int = 32, multipliers: tuple[int, ...] = (1, 2, 4)):
        super().__init__()
        self.stem = nn.Conv2d(9, width, 4, stride=2, padding=1)
        self.blocks = nn.ModuleList()
        c = width
        for level, multiplier in enumerate(multipliers):
            self.blocks.append(ShiftBlock(c, width * multiplier, stride=1 if level == 0 else 2))
            c = width * multiplier
            self.blocks.append(ShiftBlock(c, c, stride=1))
        self.head = nn.Linear(2 * c, num_classes)
        self.to(memory_format=torch.channels_last)  # type: ignore[call-overload]

    def forward(self, clip: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b classes"]:
        return self.head(self.features(clip))

    def features(self, clip: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b d"]:
        """Return one vector per clip: the mean over all places, and each channel's best frame."""
        frames = clip.shape[1]
        x = shrink(clip)  # b t c 32 32
        before = torch.cat([x[:, :1], x[:, :-1]], dim=1) - x
        after = torch.cat([x[:, 1:], x[:, -1:]], dim=1) - x
        x = torch.cat([x, before, after], dim=2)  # b t 3*c 32 32
        h = rearrange(x, "b t c h w -> (b t) c h w")
        h = self.stem(h.contiguous(memory_format=torch.channels_last))
        for block in self.blocks:
            h = block(h, frames)
        h = rearrange(F.relu(h).mean((2, 3)), "(b t) d -> b t d", t=frames)
        return torch.cat([h.mean(1), h.amax(1)], dim=1)  # b 2*d


class ShiftBlock(nn.Module):
    """A residual block on single frames whose branch begins with a temporal shift."""

    def __init__(self, c_in: int, c_out: int, stride: int):
        super().__init__()
        self.norm1 = GroupNorm(GROUPS, c_in)
        self.conv1 = nn.Conv2d(c_in, c_out, 3, stride=stride, padding=1)
        self.norm2 = GroupNorm(GROUPS, c_out)
        self.conv2 = nn.Conv2d(c_out, c_out, 3, padding=1)
        self.skip = nn.Conv2d(c_in, c_out, 1, stride=stride) if c_in != c_out else nn.Identity()

    def forward(self, x: Float[Tensor, "n c_in h w"], frames: int) -> Float[Tensor, "n c h2 w2"]:
        h = temporal_shift(F.relu(self.norm1(x)), frames)
        h = self.conv1(h)  # n c h2 w2
        h = self.conv2(F.relu(self.norm2(h)))
        return self.skip(x) + h


def temporal_shift(x: Float[Tensor, "n c h w"], frames: int) -> Float[Tensor, "n c h w"]:
    """Take an eighth of the channels from the next frame, an eighth from the one before.

    n counts clips times frames; beyond a clip's ends there are zeros.
    """
    clip = rearrange(x, "(b t) c h w -> b t c h w", t=frames)
    eighth = x.shape[1] // 8
    shifted = clip.clone()
    shifted[:, :-1, :eighth] = clip[:, 1:, :eighth]
    shifted[:, -1, :eighth] = 0
    shifted[:, 1:, eighth : 2 * eighth] = clip[:, :-1, eighth : 2 * eighth]
    shifted[:, 0, eighth : 2 * eighth] = 0
    return rearrange(shifted, "b t c h w -> (b t) c h w")


def shrink(clip: Float[Tensor, "b t c h w"]) -> Float[Tensor, "b t c h2 w2"]:
    """Shrink a clip to 32 x 32 pixels by the mean over areas (ValueError if it has fewer)."""
    b, *_, height, width = clip.shape
    if height < SIDE or width < SIDE:
        raise ValueError(f"expected clips of at least {SIDE} pixels a side, got {height} x {width}")
    if (height, width) == (SIDE, SIDE):
        return clip
    frames = rearrange(clip, "b t c h w -> (b t) c h w")
    return rearrange(
        F.interpolate(frames, (SIDE, SIDE), mode="area"), "(b t) c h w -> b t c h w", b=b
    )
