"""How good the filters are, on planted flaws and on real clips.

`python -m course_lib.curation.measure` writes data/results/curation.json.  Everything is measured
on test scenes, at 32 and 64 pixels, with all flaws of `plant.uncurated` present at once.
Precision: the share of what a filter reports that is a flaw; recall: the share of the flaws that it
reports; each with a 95 % interval.

The real clips are `data.real_clips`, cut by hand into SHOTS.  They are few, so that pieces of the
same shot are alike and the intervals there are too narrow.
"""

import json
import math
from collections.abc import Callable, Sequence
from random import Random

import torch
from scipy.stats import spearmanr
from sklearn.metrics import roc_auc_score

from course_lib import data
from course_lib.busy import busy
from course_lib.curation import aesthetics, captions, cuts, duplicates, motion, plant, text
from course_lib.curation.filter import CHOSEN, TRIED, Tools, curate, load_tools, lowest, score
from course_lib.files import write_atomically
from course_lib.paths import RESULTS
from course_lib.world import DURATION_SECONDS, LittleWorld, render_scenes

CLIPS = 300
FRAMES = 16
FPS = (FRAMES - 1) / DURATION_SECONDS
FADE_FRAMES = 3  # that a fade may be reported off its middle
FLOW_CLIPS = 60  # that are compared with the exact flow
PIECES = 120  # of real clips
POOR = 0.7  # quality below which a clip should go
STILL = 0.7  # motion score below which a clip is taken for still

# Seen on contact sheets of all frames, and on six frames side by side around each cut.
BIKES_CUTS = [30, 76, 137, 187, 242]
SHOTS = (  # name, first frame, last frame + 1
    ("bigbuckbunny", 0, 132),
    ("bikes", 0, 30),
    ("bikes", 30, 76),
    ("bikes", 76, 137),
    ("bikes", 137, 187),
    ("bikes", 187, 242),
    ("carphone_pristine", 0, 120),
    ("mandelbrot", 0, 100),
)


def interval(hits: int, n: int) -> dict:
    """Return a share with Wilson's 95 % interval; the share is None where n is 0."""
    if not n:
        return {"share": None, "low": 0.0, "high": 1.0, "hits": 0, "n": 0}
    z = 1.96
    share = hits / n
    middle = (share + z**2 / (2 * n)) / (1 + z**2 / n)
    half = z * math.sqrt(share * (1 - share) / n + z**2 / (4 * n**2)) / (1 + z**2 / n)
    low, high = max(middle - half, 0.0), min(middle + half, 1.0)
    return {"share": share, "low": low, "high": high, "hits": hits, "n": n}


def precision_recall(said: torch.Tensor, true: torch.Tensor) -> dict:
    """Return both for two masks of clips."""
    right = int((said & true).sum())
    return {
        "precision": interval(right, int(said.sum())),
        "recall": interval(right, int(true.sum())),
    }


# ------------------------------------------------------------------------------------- the filters


def measure_changes(
    clips: Sequence[torch.Tensor], true: Sequence[list[int]], slack: Sequence[int], find: Callable
) -> dict:
    """Compare the frames that `find` reports with the true ones, each within its clip's slack."""
    found, right, hit = 0, 0, 0
    for clip, frames, most in zip(clips, true, slack, strict=True):
        said = find(clip)
        found += len(said)
        right += sum(any(abs(a - b) <= most for b in frames) for a in said)
        hit += sum(any(abs(a - b) <= most for a in said) for b in frames)
    total = sum(len(frames) for frames in true)
    return {"precision": interval(right, found), "recall": interval(hit, total)}


DETECTORS = {
    "find_cuts": cuts.find_cuts,
    "PySceneDetect": cuts.scene_detect,
    "cascade": cuts.cascade,
    "find_fades": cuts.find_fades,
}


def planted_cuts(web: plant.Uncurated) -> dict:
    """Measure every detector on hard cuts, on fades and on both, among all other flaws."""
    fade = web.flaws["fade"].tolist()
    slack = [FADE_FRAMES if soft else 0 for soft in fade]
    results = {}
    for name, find in DETECTORS.items():
        rows = {}
        for kind, wanted in (("cut", [False]), ("fade", [True]), ("both", [False, True])):
            chosen = [i for i in range(len(web)) if fade[i] in wanted or not web.cuts[i]]
            rows[kind] = measure_changes(
                [web.pixels[i] for i in chosen],
                [web.cuts[i] for i in chosen],
                [slack[i] for i in chosen],
                find,
            )
        results[name] = rows
    return results


def planted_motion(web: plant.Uncurated, scores: dict, size: int) -> dict:
    """Measure the score against the world's exact flow, and as a detector of still clips."""
    world = LittleWorld("test", size, FRAMES, length=FLOW_CLIPS, seed=9)
    exact, ours, error, length = [], [], [], []
    for start in range(0, FLOW_CLIPS, 30):
        clip = render_scenes([world.scene(i) for i in range(start, start + 30)], size, FRAMES)
        for rgb, field in zip(clip.rgb, clip.flow, strict=True):
            exact.append(motion.mean_motion(field[:-1]) * round(FPS / motion.SCORE_FPS))
            ours.append(motion.motion_score(rgb, FPS))
            error.append(float((motion.clip_flow(rgb) - field[:-1]).norm(dim=-1).mean()))
            length.append(float(field[:-1].norm(dim=-1).mean()))
    still = web.flaws["still"]
    # A scene at rest before a still camera is still, too.
    rest = (web.labels["motion"] == 0) & (web.labels["camera"] == 0)
    known = ~web.flaws["wrong caption"] & ~web.flaws["cut"] & ~web.flaws["fade"]
    true = (still | rest)[known]
    return {
        "rank correlation": float(spearmanr(ours, exact).statistic),
        "endpoint error": sum(error) / len(error),
        "endpoint error of no flow": sum(length) / len(length),
        "clips of the flow": len(ours),
        "still": precision_recall(scores["motion"][known] < STILL, true),
        "lowest quarter": precision_recall(lowest(scores["motion"], 0.25), still),
    }


def planted_text(web: plant.Uncurated, scores: dict, frames: int = 100) -> dict:
    """Measure the detector on clips, and regions of one brightness on some of their frames."""
    true = web.text > text.MOST_TEXT
    middle = [clip[FRAMES // 2] for clip in web.pixels[:frames]]
    regions = torch.tensor([float(text.mser_mask(frame).float().mean()) for frame in middle])
    share = 1 - scores["text"]
    return {
        "detector": precision_recall(share > text.MOST_TEXT, true),
        "MSER": precision_recall(regions > text.MOST_TEXT, true[:frames]),
        "error of the share": float((share - web.text).abs().mean()),
        "error of a share of 0": float(web.text.mean()),
    }


def planted_quality(web: plant.Uncurated, scores: dict) -> dict:
    """Measure the rating of clips whose quality is known."""
    ratings = scores["aesthetics"]
    spoilt = web.flaws["poor"]
    return {
        "rank correlation of poor clips": float(
            spearmanr(ratings[spoilt], web.quality[spoilt]).statistic
        ),
        "lowest quarter": precision_recall(lowest(ratings, 0.25), web.quality < POOR),
        "area under ROC": float(roc_auc_score(web.quality < POOR, -ratings)),
        "by way": {
            how: float(ratings[[i for i, way in enumerate(web.ways) if way == how]].mean())
            for how in (*plant.DEGRADATIONS, "")
        },
    }


def planted_captions(web: plant.Uncurated, scores: dict, tools: Tools) -> dict:
    """Measure how wrong captions are found, and how often the annotators read a label right."""
    wrong = web.flaws["wrong caption"]
    picture = captions.read_pictures(web.pixels, tools.picture_judge)
    clip = captions.read_clips(web.pixels, tools.clip_judge)
    fine = ~torch.stack([web.flaws[name] for name in web.flaws if name != "copy"]).any(0)
    readings = {"picture": picture, "clip": clip, "merged": captions.merge(picture, clip)}
    right = {}
    for name, values in readings.items():
        numbers = captions.label_numbers(values)
        rows = {}
        for label, number in numbers.items():
            of_one = (web.labels["count"] == 0) | (name == "clip")
            asked = fine & (of_one if label in captions.OF_ONE_THING else torch.ones_like(fine))
            hits = (number == web.labels[label]) & asked
            rows[label] = interval(int(hits.sum()), int(asked.sum()))
        right[name] = rows
    return {
        "lowest half": precision_recall(lowest(scores["caption"], 0.5), wrong),
        "lowest quarter": precision_recall(lowest(scores["caption"], 0.25), wrong),
        "area under ROC": float(roc_auc_score(wrong, -scores["caption"])),
        "labels read right": right,
    }


def planted_copies(web: plant.Uncurated, scores: dict) -> dict:
    """Measure both fingerprints."""
    true = web.copy_of >= 0
    return {
        "thumbnail": precision_recall(scores["original"] < 1, true),
        "difference hash": precision_recall(duplicates.find_copies_by_hash(web.pixels) >= 0, true),
    }


def planted_curation(web: plant.Uncurated, scores: dict) -> dict:
    """Return what each filter drops, and what share of the clips is flawless before and after."""
    flawless = ~torch.stack(list(web.flaws.values())).any(0)
    rows = {}
    settings = {"chosen": CHOSEN} | {
        f"{share:.1%}": dict.fromkeys(CHOSEN, share) for share in TRIED
    }
    for name, shares in settings.items():
        curated = curate(scores, shares)
        kept = torch.zeros(len(web), dtype=torch.bool)
        kept[curated.kept] = True
        rows[name] = {
            "kept": interval(int(kept.sum()), len(web)),
            "flawless among kept": interval(int((kept & flawless).sum()), int(kept.sum())),
            "flawless kept": interval(int((kept & flawless).sum()), int(flawless.sum())),
            "filters": curated.table(),
            "flaws left": {
                flaw: interval(int((kept & has).sum()), int(kept.sum()))
                for flaw, has in web.flaws.items()
            },
        }
    before = interval(int(flawless.sum()), len(web))
    return {"flawless before": before, "settings": rows}


# --------------------------------------------------------------------------------------- real clips


def pieces(n: int, side: int = 64, frames: int = FRAMES, seed: int = 0) -> list[tuple]:
    """Cut n pieces (t h w 3) of `side` pixels and the number of their shot out of real clips."""
    clips = data.real_clips(side)
    out = []
    for i in range(n):
        rng = Random(f"piece {seed} {i}")
        shot = rng.randrange(len(SHOTS))
        name, first, end = SHOTS[shot]
        start = rng.randrange(first, end - frames + 1)
        pixels = clips[name].pixels
        left = rng.randrange(pixels.shape[2] - side + 1)
        out.append((pixels[start : start + frames, :, left : left + side], shot))
    return out


def real_cuts() -> dict:
    """Measure the detectors on the five cuts of "bikes", and on real shots that were joined."""
    clips = data.real_clips()
    true = [BIKES_CUTS if name == "bikes" else [] for name in clips]
    cut = pieces(2 * PIECES)
    hard, soft, middles, ats = [], [], [], []
    for i in range(PIECES):
        (first, shot), (second, other) = cut[2 * i : 2 * i + 2]
        rng = Random(f"join {i}")
        if shot == other:
            continue
        at = rng.randrange(3, FRAMES - 2)
        hard.append(plant.join(first, second, at))
        ats.append([at])
        length = rng.randrange(3, 7)
        at = rng.randrange(2, FRAMES - length - 1)
        soft.append(rng.choice([plant.dissolve, plant.fade])(first, second, at, length))
        middles.append([at + (length + 1) // 2])
    whole = [clip.pixels for clip in clips.values()]
    frames = sum(len(clip) for clip in whole)
    rows = {}
    for name, find in DETECTORS.items():
        rows[name] = {
            "as filmed": measure_changes(whole, true, [0] * len(whole), find),
            "joined": measure_changes(hard, ats, [0] * len(hard), find),
            "faded": measure_changes(soft, middles, [FADE_FRAMES] * len(soft), find),
        }
    return {"detectors": rows, "frames as filmed": frames}


def real_scores(tools: Tools) -> dict:
    """Measure the other filters on real pieces, half of which have the flaw."""
    cut = [piece for piece, _ in pieces(PIECES, seed=4)]
    flawed = torch.arange(PIECES) % 2 == 0
    rng = torch.Generator().manual_seed(0)

    def with_flaw(change: Callable[[torch.Tensor, int], torch.Tensor]) -> list[torch.Tensor]:
        return [change(clip, i) if flawed[i] else clip for i, clip in enumerate(cut)]

    frozen = with_flaw(lambda clip, i: plant.still(clip, 0, 4.0 * (i % 4 > 1), rng))
    still = torch.tensor([motion.motion_score(clip, data.DRAWN_FPS) for clip in frozen])
    written = with_flaw(lambda clip, i: plant.write_on(clip, Random(f"real {i}"))[0])
    shares = torch.tensor([text.text_share(clip, tools.detector) for clip in written])
    regions = torch.tensor([float(text.mser_mask(clip[0]).float().mean()) for clip in written])
    spoilt = with_flaw(
        lambda clip, i: plant.degrade(clip, plant.DEGRADATIONS[i // 2 % 5], 0.8, rng)
    )
    ratings = torch.tensor(
        [aesthetics.aesthetic_score(clip, tools.trunk, tools.head) for clip in spoilt]
    )
    one_each = {shot: clip for clip, shot in pieces(PIECES, seed=5)}
    originals = torch.stack(list(one_each.values()))
    copies = [
        plant.copy(clip, how, Random(f"real copy {i}"))
        for i, clip in enumerate(originals)
        for how in plant.COPIES[:3]
    ]
    both = torch.cat([originals, torch.stack(copies)])
    is_copy = torch.arange(len(both)) >= len(originals)
    return {
        "motion": precision_recall(still < STILL, flawed),
        "text": precision_recall(shares > text.MOST_TEXT, flawed),
        "text, MSER": precision_recall(regions > text.MOST_TEXT, flawed),
        "aesthetics, lower half": precision_recall(lowest(ratings, 0.5), flawed),
        "aesthetics, area under ROC": float(roc_auc_score(flawed, -ratings)),
        "copies": precision_recall(duplicates.find_copies(both) >= 0, is_copy),
        "as they are": {
            name: {
                "motion": motion.motion_score(clip.pixels, clip.fps),
                "text": text.text_share(clip.pixels, tools.detector),
                "aesthetics": aesthetics.aesthetic_score(clip.pixels, tools.trunk, tools.head),
            }
            for name, clip in data.real_clips().items()
        },
    }


# --------------------------------------------------------------------------------------- all of it


def measure(n: int = CLIPS, sizes: Sequence[int] = (32, 64)) -> dict:
    """Return everything that is measured, on n planted clips of each size and on the real ones."""
    planted = {}
    for size in sizes:
        with busy(f"Curating {n} clips of {size} pixels"):
            tools = load_tools(size=size)
            web = plant.uncurated("test", n, FRAMES, size, seed=1)
            scores = score(web.pixels, web.captions, FPS, tools)
            planted[str(size)] = {
                "cuts": planted_cuts(web),
                "motion": planted_motion(web, scores, size),
                "text": planted_text(web, scores),
                "aesthetics": planted_quality(web, scores),
                "captions": planted_captions(web, scores, tools),
                "copies": planted_copies(web, scores),
                "curation": planted_curation(web, scores),
            }
    with busy("Looking at real clips"):
        real = {"cuts": real_cuts(), **real_scores(load_tools(size=64))}
    return {"name": "curation", "clips": n, "planted": planted, "real": real}


if __name__ == "__main__":
    write_atomically(RESULTS / "curation.json", json.dumps(measure(), allow_nan=False) + "\n")
