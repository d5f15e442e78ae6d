"""Captions by two annotators, their merge, and how well a caption fits its clip.

Stable Video Diffusion (arXiv 2311.15127, section 3.1) captions every clip three times: CoCa
(arXiv 2205.01917) describes its middle frame, V-BLIP the clip, and a light language model merges
both; training draws them with probabilities 0.5, 0.25 and 0.25.  How well a caption fits is CLIP's
similarity, and half of the clips are dropped by it.

Here the annotators are judges of the little world: one reads a picture, one a clip.  What they read
is a probability for every value of every label, and the merge takes each label from whom is surer.
Sentences follow the grammar of `course_lib.world.caption`, as far as the labels go.
"""

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.metrics.label_judge import LabelJudge
from course_lib.shapes import Float, Int, PerSample, Tensor, UInt8
from course_lib.world import VOCABULARY, pixels_to_float
from course_lib.world.caption import VERBS

SHARES = (0.5, 0.25, 0.25)  # of the picture's caption, the clip's and the merged one
OF_ONE_THING = ("shape", "colour", "scale")  # a picture does not say which of several they are of
LEAST_PROBABILITY = 1e-3  # so that one certain mistake does not outweigh everything

Readings = Mapping[str, Float[Tensor, "n _"]]
Clips = UInt8[Tensor, "n t h w 3"]

# The verb of every motion, as far as the labels tell; and how to find the motion of a verb.
PLAIN_VERBS = VERBS | {"slide": "slides", "collide": "hits something", "orbit": "goes in a circle"}
MOTION_OF = {verb.split()[0]: motion for motion, verb in PLAIN_VERBS.items()} | {"orbits": "orbit"}
CAMERA_OF = {"orbits": "orbit", "zooms": "zoom"}


# --------------------------------------------------------------------------------------- annotators


@torch.no_grad()
def read_pictures(clips: Clips, judge: LabelJudge, size: int = 32) -> Readings:
    """Return what a judge of images reads in the middle frames, at the size it was trained on."""
    return _read(clips[:, clips.shape[1] // 2][:, None], judge, size, squeeze=True)


@torch.no_grad()
def read_clips(clips: Clips, judge: LabelJudge, frames: int = 16, size: int = 32) -> Readings:
    """Return what a judge of clips reads, from as many frames as it was trained on.

    They are evenly spaced, the first and the last among them.
    """
    chosen = torch.linspace(0, clips.shape[1] - 1, frames).round().long()
    return _read(clips[:, chosen], judge, size, squeeze=False)


def _read(clips: Clips, judge: LabelJudge, size: int, squeeze: bool) -> Readings:
    parts = []
    for part in clips.split(100):
        x = rearrange(pixels_to_float(part), "n t c h w -> (n t) c h w")
        x = F.interpolate(x, (size, size), mode="bilinear", antialias=True)
        x = rearrange(x, "(n t) c h w -> n t c h w", n=len(part))
        logits = judge(x[:, 0] if squeeze else x)
        parts.append({name: values.softmax(1) for name, values in logits.items()})
    return {name: torch.cat([part[name] for part in parts]) for name in parts[0]}


def merge(first: Readings, second: Readings) -> Readings:
    """Return all labels of both; where both read one, the distribution of whom is surer."""
    merged = dict(first)
    for name, theirs in second.items():
        ours = first.get(name)
        if ours is None:
            merged[name] = theirs
        else:
            surer = theirs.amax(1, keepdim=True) > ours.amax(1, keepdim=True)
            merged[name] = torch.where(surer, theirs, ours)
    return merged


# ---------------------------------------------------------------------------------------- sentences


def sentences(readings: Readings) -> list[str]:
    """Return a caption for each clip, of the most likely value of every label that was read."""
    numbers = {name: values.argmax(1).tolist() for name, values in readings.items()}
    n = len(next(iter(numbers.values())))
    return [
        sentence({name: str(VOCABULARY[name][values[i]]) for name, values in numbers.items()})
        for i in range(n)
    ]


def sentence(names: Mapping[str, str]) -> str:
    """Return the caption of a clip of which only these labels are known.

    "a small red cube bounces as the camera orbits"; without a shape it is "something", and a still
    camera is not mentioned.
    """
    look = [names[name] for name in ("scale", "colour", "shape") if name in names]
    if "shape" not in names:
        look.append("thing")
    article = "an" if look[0][0] in "aeiou" else "a"
    words = [article, *look] if len(look) > 1 or "shape" in names else ["something"]
    if "motion" in names:
        words.append(PLAIN_VERBS[names["motion"]])
    camera = {"orbit": "as the camera orbits", "zoom": "as the camera zooms"}
    words += [camera[names["camera"]]] if names.get("camera") in camera else []
    return " ".join(words)


def stated(caption: str) -> dict[str, int]:
    """Return the number of every label that a caption of the world states, its count included.

    Colour, shape and scale are those of the first thing.
    """
    what, _, camera = caption.partition(" as the camera ")
    words = what.replace(",", "").split()
    found = {"camera": CAMERA_OF[camera.split()[0]] if camera else "still"}
    for name in ("scale", "material", "colour", "shape"):
        said = [word for word in words if word in VOCABULARY[name]]
        found |= {name: said[0]} if said else {}
    verbs = [word for word in words if word in MOTION_OF]
    found |= {"motion": MOTION_OF[verbs[0]]} if verbs else {}
    numbers = {name: VOCABULARY[name].index(value) for name, value in found.items()}
    things = sum(word in VOCABULARY["shape"] for word in words)
    return numbers | ({"count": things - 1} if things else {})


def draw_captions(
    pictures: Sequence[str],
    clips: Sequence[str],
    merged: Sequence[str],
    generator: torch.Generator,
) -> list[str]:
    """Draw one of three captions for each clip, with probabilities SHARES."""
    chosen = torch.multinomial(torch.tensor(SHARES), len(merged), True, generator=generator)
    rows = zip(pictures, clips, merged, strict=True)
    return [row[k] for row, k in zip(rows, chosen.tolist(), strict=True)]


# ---------------------------------------------------------------------------------------- agreement


def agreement(captions: Sequence[str], picture: Readings, clip: Readings) -> PerSample:
    """Return how well each caption fits its clip, in [0, 1]: the place of CLIP's similarity.

    It is the geometric mean of the probabilities that the judges give to what the caption states.
    The judge of clips speaks first; that of pictures on the rest, but about shape, colour and scale
    only if the caption is about a single thing.
    """
    scores = []
    for i, caption in enumerate(captions):
        numbers = stated(caption)
        seen = []
        for name, number in numbers.items():
            if name in clip:
                seen.append(clip[name][i, number])
            elif name in picture and (name not in OF_ONE_THING or numbers.get("count") == 0):
                seen.append(picture[name][i, number])
        scores.append(torch.stack(seen).clamp(min=LEAST_PROBABILITY).log().mean().exp())
    return torch.stack(scores)


def label_numbers(readings: Readings) -> dict[str, Int[Tensor, " n"]]:
    """Return the number of the most likely value of every label."""
    return {name: values.argmax(1) for name, values in readings.items()}
