"""How much a clip moves: dense optical flow, and its mean length as a score.

A model that is trained on still clips learns to make them.  Stable Video Diffusion (arXiv
2311.15127, section 3.1 and appendix C) computes Farneback's flow with OpenCV at 2 frames a second
(for the last stage RAFT's, arXiv 2003.12039), shrinks the maps to 16 pixels at the shorter side,
takes their mean over time and space, and drops the clips with the lowest scores.
"""

import itertools
from fractions import Fraction

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.shapes import Float, Tensor, UInt8

SCORE_FPS = 2  # frames a second that the score looks at
SHRUNK_SIDE = 16  # pixels: averaging the vectors of a noisy map lets them cancel
LEAST_WINDOW = 7  # pixels


def flow(first: UInt8[Tensor, "h w 3"], second: UInt8[Tensor, "h w 3"]) -> Float[Tensor, "h w 2"]:
    """Return where each pixel of one frame has gone in another, (x right, y down) in pixels.

    Farneback's method: both frames are fitted by a quadratic around every pixel, and the shift that
    turns one quadratic into the other is averaged over a window of an eighth of the shorter side,
    from coarse to fine.  Where the picture has no texture, it finds nothing.
    """
    import cv2

    grey = [
        cv2.cvtColor(frame.contiguous().numpy(), cv2.COLOR_RGB2GRAY) for frame in (first, second)
    ]
    window = max(LEAST_WINDOW, min(first.shape[:2]) // 8)
    field = np.zeros((*first.shape[:2], 2), np.float32)
    return torch.from_numpy(
        cv2.calcOpticalFlowFarneback(
            *grey,
            field,
            pyr_scale=0.5,
            levels=3,
            winsize=window,
            iterations=3,
            poly_n=5,
            poly_sigma=1.1,
            flags=0,
        )
    )


def clip_flow(clip: UInt8[Tensor, "t h w 3"], step: int = 1) -> Float[Tensor, "s h w 2"]:
    """Return the flow from each `step`-th frame to the next one of them, in pixels.

    Raises ValueError for a clip that is too short for a single pair.
    """
    frames = clip[::step]
    if len(frames) < 2:
        raise ValueError(f"expected more than {step} frames, got {len(clip)}")
    pairs = itertools.pairwise(frames)
    return torch.stack([flow(first, second) for first, second in pairs])


def mean_motion(field: Float[Tensor, "s h w 2"]) -> float:
    """Return the mean length of a flow shrunk to SHRUNK_SIDE, in hundredths of the shorter side."""
    height, width = field.shape[1:3]
    zoom = Fraction(SHRUNK_SIDE, min(height, width))
    size = (max(1, round(zoom * height)), max(1, round(zoom * width)))
    shrunk = F.adaptive_avg_pool2d(rearrange(field, "s h w c -> s c h w"), size)
    return 100 * float(shrunk.norm(dim=1).mean()) / min(height, width)


def motion_score(clip: UInt8[Tensor, "t h w 3"], fps: float) -> float:
    """Return how far the picture moves in half a second, in hundredths of its shorter side.

    fps: frames a second of the clip.  A clip of less than half a second is looked at from its first
    frame to its last.
    """
    step = min(max(1, round(fps / SCORE_FPS)), len(clip) - 1)
    return mean_motion(clip_flow(clip, step))
