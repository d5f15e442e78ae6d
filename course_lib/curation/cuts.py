"""Where one scene ends and another begins: hard cuts, fades and dissolves.

A caption describes one scene, and a model that is trained across a cut learns to cut.  Stable
Video Diffusion (arXiv 2311.15127, appendix C) splits its videos with PySceneDetect, as a cascade of
three detectors at different frame rates and thresholds (it does not say which), because a detector
that compares neighbouring frames does not see a slow change.  That raised the number of clips per
video from 2.65, by the files' own metadata, to 11.09.

find_cuts         a frame that differs from the one before it far more than frames around there do
find_fades        a change in a straight line from one picture to another, or through black
cascade           find_cuts on every frame, every second and every fourth
scene_detect      PySceneDetect's AdaptiveDetector on an array, for comparison
scenes            the stretches between the cuts
snap              where a stretch can start without decoding what is before it
"""

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction

import torch

from course_lib.shapes import Float, Tensor, UInt8

Clip = UInt8[Tensor, "t h w 3"]


def frame_distances(clip: Clip) -> Float[Tensor, " t-1"]:
    """Return the mean absolute difference, of 255, of every frame and the one after it."""
    x = clip.float()
    return (x[1:] - x[:-1]).abs().mean((1, 2, 3))


def find_cuts(clip: Clip, ratio: float = 3.0, least: float = 8.0, window: int = 2) -> list[int]:
    """Return the numbers of the frames that begin a new scene, in order.

    Such a frame is at least `least` (of 255) away from the one before it, and `ratio` times as far
    as neighbouring frames are on average, over the `window` distances before and after this one, as
    many of them as there are.  The local threshold tells a cut from a fast scene, where
    all frames are far from each other.
    """
    distance = frame_distances(clip)  # t-1: from frame i to frame i + 1
    cuts = []
    for i in range(len(distance)):
        before = distance[max(0, i - window) : i]
        after = distance[i + 1 : i + 1 + window]
        usual = torch.cat([before, after]).mean().nan_to_num()  # 0 where there are none
        if distance[i] >= least and distance[i] >= ratio * usual:
            cuts.append(i + 1)
    return cuts


@dataclass(frozen=True)
class Stage:
    """One detector of a cascade: it looks at every `step`-th frame; the rest is `find_cuts`'s."""

    step: int
    ratio: float = 3.0
    least: float = 8.0
    window: int = 2


CASCADE = (Stage(1), Stage(2, ratio=3.0, least=12.0), Stage(4, ratio=2.5, least=20.0))


def cascade(clip: Clip, stages: Sequence[Stage] = CASCADE) -> list[int]:
    """Return what any stage finds, in order, the finest first.

    A stage with a larger step sees a change that is spread over several frames as one jump.  Of the
    frames that it skipped, the one with the largest distance from its neighbour is
    taken for the cut, unless another stage has found one there.
    """
    distance = frame_distances(clip)
    found: list[int] = []
    for stage in stages:
        seen = find_cuts(clip[:: stage.step], stage.ratio, stage.least, stage.window)
        for cut in seen:
            first, last = (cut - 1) * stage.step, cut * stage.step  # between these two frames
            if not any(first - stage.step < known <= last + stage.step for known in found):
                found.append(first + 1 + int(distance[first:last].argmax()))
    return sorted(found)


# ------------------------------------------------------------------------------ fades and dissolves


def straightness(clip: Clip, reach: int) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Compare every frame with the ones `reach` before and after it; n is t - 2 * reach.

    Returns how far those two are apart (mean absolute difference, of 255), and how far the
    frame is from their average, as a share of that.  In a dissolve it is the average, so the
    share is 0; at a cut, and where an edge has moved on, it is a half or more.
    """
    x = clip.float()
    before, middle, after = x[: -2 * reach], x[reach:-reach], x[2 * reach :]
    change = (after - before).abs().mean((1, 2, 3))
    bend = (middle - (before + after) / 2).abs().mean((1, 2, 3))
    return change, bend / change.clamp(min=1e-3)


def find_fades(
    clip: Clip, least: float = 20.0, bend: float = 0.25, reaches: Sequence[int] = (2, 3)
) -> list[int]:
    """Return the middle frames of fades and dissolves, in order; in a fade to black, the darkest.

    A dissolve is a frame halfway between two that are `least` (of 255) apart, `reach` before and
    after it, with a bend (see `straightness`) of at most `bend`.  A fade through black is a frame
    of less than a quarter of the brightness of the clip, between frames that are brighter.
    """
    candidates: list[tuple[float, int]] = []
    for reach in reaches:
        if len(clip) > 2 * reach:
            change, share = straightness(clip, reach)
            for i in ((change >= least) & (share <= bend)).nonzero()[:, 0].tolist():
                candidates.append((float(change[i]), i + reach))
    light = clip.float().mean((1, 2, 3))
    dark = light < 0.25 * light.median()
    for i in range(1, len(clip) - 1):
        if dark[i] and light[i] <= min(light[i - 1], light[i + 1]):
            candidates.append((256.0, i))  # before every dissolve
    found: list[int] = []
    for _, i in sorted(candidates, reverse=True):
        if all(abs(i - known) > 2 * max(reaches) for known in found):
            found.append(i)
    return sorted(found)


# ---------------------------------------------------------------------------- PySceneDetect, scenes


def scene_detect(clip: Clip, ratio: float = 3.0, least: float = 15.0, window: int = 2) -> list[int]:
    """Return the cuts that PySceneDetect's AdaptiveDetector finds, with its own defaults.

    It weighs the differences of hue, saturation and value alike, and compares them with those of
    `window` frames on both sides, so that it sees no cut in the first or the last `window` frames.
    """
    from scenedetect import AdaptiveDetector, FrameTimecode

    detector = AdaptiveDetector(ratio, 1, window, least)
    frames = clip.flip(-1).contiguous().numpy()  # OpenCV's order: blue, green, red
    found = []
    for number, frame in enumerate(frames):
        found += detector.process_frame(FrameTimecode(number, Fraction(25)), frame)
    return sorted(time.frame_num for time in found)


def scenes(frames: int, cuts: Sequence[int], least: int = 1) -> list[tuple[int, int]]:
    """Return the first frame of every scene and the one after its last, of at least `least` frames.

    Raises ValueError for a cut outside the clip.
    """
    if any(not 0 < cut < frames for cut in cuts):
        raise ValueError(f"cuts: expected frames 1 to {frames - 1}, got {list(cuts)}")
    edges = [0, *sorted(cuts), frames]
    return [(a, b) for a, b in itertools.pairwise(edges) if b - a >= least]


def snap(start: int, end: int, key_frames: Sequence[int]) -> int | None:
    """Return the first key frame of a scene, from which it can be decoded; None if it has none.

    A key frame before the scene is nearer at times, but the clip would then begin before the cut.
    """
    inside = [frame for frame in sorted(key_frames) if start <= frame < end]
    return inside[0] if inside else None
