"""Text on the picture: captions, subtitles, watermarks, a clock in the corner.

A model that is trained on captions draws letters.  Stable Video Diffusion (arXiv 2311.15127,
appendix C) finds the boxes of text in the first, the middle and the last frame with CRAFT
(arXiv 1904.01941), and drops a clip when they cover more than 7 % of the picture.

The detector here is a small network that says of every place whether it is inside a line of text,
trained on text that was planted (the recipe `text-detector`).  `mser_mask` does without training:
letters are regions of one brightness, of similar heights, that stand in a row.
"""

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.shapes import Bool, Float, Tensor, UInt8
from course_lib.world import pixels_to_float

MOST_TEXT = 0.07  # the share of the picture above which a clip is dropped (appendix C)
WORKING_SIDE = 64  # pixels: the detector looks at frames whose shorter side is this long
SURE_LOGIT = 3.0  # of a place that is surely text; with 0, leaves and fences are taken for text
NEAR = 5  # places across: a place of a logit above 0 counts if a sure one is within this square
TEXT_DETECTOR = "text-detector"  # the recipe

Frames = UInt8[Tensor, "n h w 3"]


class TextDetector(nn.Module):
    """A logit for every square of 2 x 2 pixels: does it lie in a line of text?

    It sees the neighbourhood of 100 pixels or so of every place at a quarter of the resolution,
    and the place itself at half of it.
    """

    def __init__(self, width: int = 16):
        super().__init__()
        wide = 2 * width
        self.fine = nn.Conv2d(3, width, 5, stride=2, padding=2)
        self.down = nn.Conv2d(width, wide, 3, stride=2, padding=1)
        self.context = nn.ModuleList(
            nn.Conv2d(wide, wide, 3, padding=dilation, dilation=dilation)
            for dilation in (1, 2, 4, 2, 1)
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, wide) for _ in self.context)
        self.join = nn.Conv2d(width + wide, width, 3, padding=1)
        self.head = nn.Conv2d(width, 1, 1)

    def forward(self, image: Float[Tensor, "b 3 h w"]) -> Float[Tensor, "b h2 w2"]:
        """Return the logits of an image in [-1, 1]; h2 and w2 are half of h and w, rounded up."""
        fine = F.relu(self.fine(image))  # b width h/2 w/2
        x = F.relu(self.down(fine))  # b wide h/4 w/4
        for conv, norm in zip(self.context, self.norms, strict=True):
            x = x + F.relu(norm(conv(x)))  # b wide h/4 w/4
        x = F.interpolate(x, fine.shape[2:], mode="bilinear")  # b wide h/2 w/2
        x = F.relu(self.join(torch.cat([fine, x], dim=1)))  # b width h/2 w/2
        return self.head(x)[:, 0]  # b h/2 w/2


def text_detector() -> TextDetector:
    """Return the trained detector."""
    # Imported here: the store imports the recipes, which import the curation.
    from course_lib.training.store import load_checkpoint

    return load_checkpoint(TEXT_DETECTOR)[0]


@torch.no_grad()
def text_masks(frames: Frames, detector: TextDetector) -> Bool[Tensor, "n h2 w2"]:
    """Return where there is text, with a shorter side of WORKING_SIDE / 2."""
    height, width = frames.shape[1:3]
    zoom = WORKING_SIDE / min(height, width)
    size = (round(zoom * height), round(zoom * width))
    x = F.interpolate(pixels_to_float(frames), size, mode="bilinear", antialias=True)
    logits = torch.cat([detector(part) for part in x.clamp(-1, 1).split(100)])  # n h2 w2
    highest_near = F.max_pool2d(logits[:, None], NEAR, stride=1, padding=NEAR // 2)[:, 0]
    return (logits > 0) & (highest_near > SURE_LOGIT)


def text_share(clip: UInt8[Tensor, "t h w 3"], detector: TextDetector) -> float:
    """Return the share of the picture that text covers, the mean of three frames.

    They are the first, the middle and the last one, as in the paper.
    """
    return float(text_masks(three_frames(clip), detector).float().mean())


def three_frames(clip: UInt8[Tensor, "t h w 3"]) -> UInt8[Tensor, "3 h w 3"]:
    """Return the first, the middle and the last frame."""
    return clip[[0, len(clip) // 2, len(clip) - 1]]


def mser_mask(frame: UInt8[Tensor, "h w 3"]) -> Bool[Tensor, "h w"]:
    """Return where rows of letters are, by maximally stable extremal regions (Matas et al. 2002).

    Regions that could be letters (4 to 40 % of the shorter side high, not much wider than high) are
    joined when they are about equally high and stand next to each other; a row has at least
    three.  The frame is looked at four times as large.
    """
    import cv2

    grey = cv2.cvtColor(frame.contiguous().numpy(), cv2.COLOR_RGB2GRAY)
    zoom = max(1, round(256 / min(grey.shape)))
    grey = cv2.resize(grey, None, fx=zoom, fy=zoom, interpolation=cv2.INTER_CUBIC)
    side = min(grey.shape)
    _, boxes = cv2.MSER_create(5, round(0.0005 * side**2), round(0.05 * side**2)).detectRegions(
        grey
    )
    letters = {
        (x, y, w, h)
        for x, y, w, h in map(tuple, boxes)
        if 0.04 * side < h < 0.4 * side and w < 1.5 * h
    }
    mask = torch.zeros(grey.shape, dtype=torch.bool)
    for x, y, _, h in letters:
        row = [
            other
            for other in letters
            if abs(other[1] + other[3] - y - h) < 0.25 * h
            and 0.6 < other[3] / h < 1.6
            and abs(other[0] - x) < 3 * h
        ]
        starts = {round(3 * other[0] / h) for other in row}  # nested regions are one letter
        if len(starts) >= 3:
            left = min(other[0] for other in row)
            right = max(other[0] + other[2] for other in row)
            mask[y : y + h, left:right] = True
    small = rearrange(mask, "(h a) (w b) -> h w a b", a=zoom, b=zoom)
    return small.float().mean((2, 3)) > 0.5
