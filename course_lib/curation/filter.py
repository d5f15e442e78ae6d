"""Which clips stay: a score for every filter, a threshold at a quantile, and what each one drops.

Stable Video Diffusion (arXiv 2311.15127, section 3.1 and appendix E.2) cuts its videos into scenes,
scores every clip by motion, aesthetics, how well the caption fits and text, tried to drop the worst
12.5, 25 and 50 % by each, and compared models trained on what was left.  It chose `CHOSEN`: of 577
million clips, 152 million stayed.

    tools = load_tools()
    scores = score(pixels, captions, fps, tools)
    curated = curate(scores)
    pixels[curated.kept]
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch

from course_lib.curation.aesthetics import AestheticHead, aesthetic_head, embed
from course_lib.curation.captions import agreement, read_clips, read_pictures
from course_lib.curation.cuts import find_cuts, find_fades
from course_lib.curation.duplicates import find_copies
from course_lib.curation.motion import motion_score
from course_lib.curation.text import (
    MOST_TEXT,
    TextDetector,
    text_detector,
    text_masks,
    three_frames,
)
from course_lib.data import IMAGE_JUDGE, LPIPS_TRUNK, SCENE_JUDGE
from course_lib.losses.perceptual import LPIPS
from course_lib.metrics.label_judge import LabelJudge
from course_lib.shapes import Bool, Int, PerSample, Tensor, UInt8

TRIED = (0.125, 0.25, 0.5)  # shares of all clips that are dropped (appendix E.2)
CHOSEN = {"motion": 0.25, "aesthetics": 0.25, "caption": 0.5, "text": 0.25}

Clips = UInt8[Tensor, "n t h w 3"]


@dataclass(frozen=True, eq=False)
class Tools:
    """The trained networks that the scores need; replace one to use another judge."""

    picture_judge: LabelJudge
    clip_judge: LabelJudge
    trunk: LPIPS
    head: AestheticHead
    detector: TextDetector


def load_tools(
    picture_judge: str = IMAGE_JUDGE, clip_judge: str = SCENE_JUDGE, size: int = 32
) -> Tools:
    """Load judges, trunk and text detector by their recipes, and fit the head for this size."""
    # Imported here: the store imports the recipes, which import the curation.
    from course_lib.training.store import load_checkpoint

    trunk = load_checkpoint(LPIPS_TRUNK)[0]
    return Tools(
        picture_judge=load_checkpoint(picture_judge)[0],
        clip_judge=load_checkpoint(clip_judge)[0],
        trunk=trunk,
        head=aesthetic_head(trunk, size=size),
        detector=text_detector(),
    )


def score(clips: Clips, captions: Sequence[str], fps: float, tools: Tools) -> dict[str, PerSample]:
    """Return the score of every clip by each filter; more is better.

    motion       in hundredths of the shorter side per half second
    aesthetics   a rating, about 1 to 10
    caption      how well the caption fits, 0 to 1
    text         the share of the picture that is free of text
    one scene    1 if no cut and no fade is found, else 0
    original     1 if no clip before this one is the same, else 0
    """
    frames = torch.cat([three_frames(clip) for clip in clips])
    ratings = tools.head.rate(embed(frames, tools.trunk))
    text = text_masks(frames, tools.detector).float().mean((1, 2))
    picture = read_pictures(clips, tools.picture_judge)
    clip_readings = read_clips(clips, tools.clip_judge)
    changes = [bool(find_cuts(clip) or find_fades(clip)) for clip in clips]
    return {
        "motion": torch.tensor([motion_score(clip, fps) for clip in clips]),
        "aesthetics": ratings.unflatten(0, (-1, 3)).mean(1),
        "caption": agreement(captions, picture, clip_readings),
        "text": 1 - text.unflatten(0, (-1, 3)).mean(1),
        "one scene": 1 - torch.tensor(changes).float(),
        "original": (find_copies(clips) < 0).float(),
    }


def lowest(scores: PerSample, share: float) -> Bool[Tensor, " n"]:
    """Return which clips are among the lowest `share` of all.

    They are those below the quantile, so that clips with equal scores stay or go together: if most
    are without text, fewer than `share` go.
    """
    if not 0 <= share < 1:
        raise ValueError(f"share: expected a number in [0, 1), got {share}")
    return scores < scores.quantile(share)


@dataclass(frozen=True, eq=False)
class Curated:
    """What stays: `kept` (m), the numbers of the clips; and what each filter would `drop` (n)."""

    kept: Int[Tensor, " m"]
    dropped: Mapping[str, Bool[Tensor, " n"]]

    def table(self) -> dict[str, dict[str, float]]:
        """Return shares of all clips: what each filter drops, and what it alone drops."""
        drops = torch.stack(list(self.dropped.values())).float()  # filters n
        alone = (drops == 1) & (drops.sum(0) == 1)
        rows = {
            name: {"dropped": float(drop.mean()), "dropped by no other": float(only.float().mean())}
            for name, drop, only in zip(self.dropped, drops, alone, strict=True)
        }
        kept = len(self.kept) / drops.shape[1]
        return rows | {"all together": {"dropped": 1 - kept, "dropped by no other": 0.0}}


def curate(scores: Mapping[str, PerSample], shares: Mapping[str, float] = CHOSEN) -> Curated:
    """Drop clips with more than one scene, copies, and the lowest `shares` by the other scores.

    None goes for its text that has less than MOST_TEXT of it.  Thresholds are of all clips, so that
    the order of the filters does not matter.  Raises ValueError for a share of an unknown score.
    """
    if unknown := [name for name in shares if name not in scores]:
        raise ValueError(f"shares: expected some of {', '.join(scores)}, got {', '.join(unknown)}")
    dropped = {name: lowest(scores[name], share) for name, share in shares.items()}
    if "text" in dropped:
        dropped["text"] = dropped["text"] & (scores["text"] < 1 - MOST_TEXT)
    for name in ("one scene", "original"):
        if name in scores:
            dropped[name] = scores[name] < 1
    kept = ~torch.stack(list(dropped.values())).any(0)
    return Curated(kept.nonzero()[:, 0], dropped)
