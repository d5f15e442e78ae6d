"""Flaws with known truth: cuts, fades, captions on the picture, still clips, poor ones, copies.

A clip is bytes (t h w 3).  Every function returns a new one; what it does is stated by its
arguments or returned beside the clip, so that what a filter finds can be compared with what is
there.  The flaws are those that Stable Video Diffusion removes (arXiv 2311.15127, section 3.1 and
appendix C).

`uncurated` is a small web: clips of the little world, some with flaws, for a training set.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.shapes import Bool, Float, Int, Tensor, UInt8
from course_lib.world import LittleWorld, caption, float_to_pixels
from course_lib.world import labels as labels_of

Clip = UInt8[Tensor, "t h w 3"]
Mask = Bool[Tensor, "h w"]

WORDS = (
    "SUBSCRIBE",
    "like and share",
    "EPISODE 4",
    "breaking news",
    "www.clips.example",
    "LIVE",
    "part two",
    "to be continued",
    "how to cook rice",
    "HD 1080",
    "trailer",
    "(c) 2023",
    "goal!",
    "next: weather",
    "SALE -50%",
    "thank you",
)
CLIPS_AT_ONCE = 200
BUILT_IN = "built in"
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789.:-!?"
DEGRADATIONS = ("blur", "noise", "dark", "flat", "blocks")
COPIES = ("encoded", "brighter", "cropped", "mirrored")


# -------------------------------------------------------------------- where one scene meets another


def join(first: Clip, second: Clip, at: int) -> Clip:
    """Cut hard from one clip to another: frame `at` is the first of the second one."""
    _expect_inside(at, 1, len(first) - 1, "at")
    return torch.cat([first[:at], second[at:]])


def dissolve(first: Clip, second: Clip, at: int, length: int) -> Clip:
    """Mix one clip into another; `length` frames are mixtures, the first of them frame `at`."""
    _expect_inside(at, 1, len(first) - length - 1, "at")
    share = _ramp(len(first), at, length)
    mixed = (1 - share) * first.float() + share * second.float()
    return mixed.round().byte()


def fade(first: Clip, second: Clip, at: int, length: int) -> Clip:
    """Fade one clip to black and another one in; `length` frames are darker, the first is `at`."""
    _expect_inside(at, 1, len(first) - length - 1, "at")
    share = _ramp(len(first), at, length)  # 0.5 where the picture is black
    light = (2 * share - 1).abs()
    shown = torch.where(share < 0.5, first, second)
    return (light * shown.float()).round().byte()


def _ramp(frames: int, at: int, length: int) -> Tensor:
    """Return the share of the second clip in every frame, as (t 1 1 1)."""
    steps = (torch.arange(frames) - at + 1) / (length + 1)
    return steps.clamp(0, 1).view(-1, 1, 1, 1)


# -------------------------------------------------------------------------- captions on the picture


def write_on(clip: Clip, rng: Random, fonts: Sequence[str] = (BUILT_IN,)) -> tuple[Clip, Mask]:
    """Burn a caption into every frame; returns the clip, and the box of every line of it.

    What it says, where it stands, its size, its colour and whether a bar lies below it are drawn
    from `rng`; so is the font, 12 to 30 % of the shorter side high.  fonts: BUILT_IN, Pillow's own,
    or the names of some that come with matplotlib.
    """
    from PIL import Image, ImageDraw, ImageFont

    height, width = clip.shape[1:3]
    side = min(height, width)
    points = max(6, round(side * (0.12 + 0.18 * rng.random())))
    name = rng.choice(fonts)
    font = ImageFont.load_default(points) if name == BUILT_IN else _matplotlib_font(name, points)
    bold = int(points > 9 and rng.random() < 0.3)  # pixels that a stroke is wider
    lines = _lines(rng, font, width)
    step = points + max(1, points // 6)
    top = rng.choice([0.04, 0.4, 0.96]) * (height - step * len(lines))

    ink = Image.new("L", (width, height))
    bar = Image.new("L", (width, height))
    boxes = torch.zeros(height, width, dtype=torch.bool)
    for number, line in enumerate(lines):
        free = width - font.getlength(line)
        place = (rng.choice([0.1, 0.5, 0.9]) * free, top + number * step)
        ImageDraw.Draw(ink).text(place, line, fill=255, font=font, stroke_width=bold)
        left, up, right, down = ImageDraw.Draw(ink).textbbox(
            place, line, font=font, stroke_width=bold
        )
        box = [max(0, int(left) - 1), max(0, int(up) - 1), int(right) + 1, int(down) + 1]
        ImageDraw.Draw(bar).rectangle(box, fill=255)
        boxes[box[1] : box[3] + 1, box[0] : box[2] + 1] = True

    letters, ground = rng.choice([(255, 0), (255, 0), (0, 255), (250, 60)])
    colour = torch.tensor([letters] * 3) if rng.random() < 0.7 else _bright_colour(rng)
    strength = 0.75 + 0.25 * rng.random()
    out = clip.float()
    if rng.random() < 0.5:  # a bar below the letters
        out = _cover(out, np.array(bar), torch.full((3,), ground), 0.7)
    else:  # an outline, as subtitles have
        thick = torch.from_numpy(np.array(ink)).float()[None, None]
        outline = F.max_pool2d(thick, 3, 1, 1)[0, 0].numpy()
        out = _cover(out, outline, torch.full((3,), ground), 0.8)
    out = _cover(out, np.array(ink), colour, strength)
    return out.round().clamp(0, 255).byte(), boxes


def _matplotlib_font(name: str, points: int):
    import matplotlib
    from PIL import ImageFont

    return ImageFont.truetype(f"{matplotlib.get_data_path()}/fonts/ttf/{name}.ttf", points)


def _lines(rng: Random, font, width: int) -> list[str]:
    """Draw one or two lines that fit the width; what does not fit is cut off."""
    lines = []
    for _ in range(rng.choice([1, 1, 2])):
        line = rng.choice(
            [rng.choice(WORDS), "".join(rng.choices(LETTERS, k=rng.randrange(4, 15)))]
        )
        while len(line) > 2 and font.getlength(line) > 0.96 * width:
            line = line[:-1]
        lines.append(line)
    return lines


def _bright_colour(rng: Random) -> Tensor:
    channels = [255, rng.choice([0, 200, 255]), rng.choice([0, 60])]
    rng.shuffle(channels)
    return torch.tensor(channels)


def _cover(frames: Tensor, ink: np.ndarray, colour: Tensor, strength: float) -> Tensor:
    """Paint a colour over frames where there is ink (h w), 0 to 255."""
    share = strength * torch.from_numpy(np.array(ink, dtype=np.float32))[..., None] / 255
    return frames * (1 - share) + colour.float() * share


# ---------------------------------------------------------------------------- stillness and quality


def still(clip: Clip, frame: int, noise: float, generator: torch.Generator) -> Clip:
    """Repeat one frame; noise: the standard deviation of a sensor's noise, of 255."""
    frames = clip[frame].float().expand(len(clip), -1, -1, -1)
    return _add_noise(frames, noise, generator)


def degrade(clip: Clip, how: str, strength: float, generator: torch.Generator) -> Clip:
    """Make a clip worse in one of the ways of DEGRADATIONS.

    strength: 0 changes nothing, 1 spoils the clip.  "blur" is out of focus, "noise" a weak
    sensor's, "dark" is underexposed, "flat" has no contrast, and "blocks" is a JPEG of low quality.
    Raises ValueError for another way.
    """
    x = clip.float()
    if how == "blur":
        return _blur(x, 0.08 * strength * min(clip.shape[1:3])).round().byte()
    if how == "noise":
        return _add_noise(x, 60 * strength, generator)
    if how == "dark":
        return (x * (1 - 0.85 * strength)).round().byte()
    if how == "flat":
        mean = x.mean((1, 2), keepdim=True)
        return (mean + (x - mean) * (1 - 0.9 * strength)).round().clamp(0, 255).byte()
    if how == "blocks":
        return encode(clip, round(60 - 58 * strength)) if strength else clip.clone()
    raise ValueError(f"how: expected one of {', '.join(DEGRADATIONS)}, got {how!r}")


def copy(clip: Clip, how: str, rng: Random) -> Clip:
    """Return another upload of a clip, changed in one of the ways of COPIES.

    "encoded" is a JPEG of quality 25 to 60, "brighter" is 10 to 25 % brighter or darker, "cropped"
    loses 3 to 10 % at every side and is stretched again.  Raises ValueError for another way.
    """
    if how == "encoded":
        return encode(clip, rng.choice([25, 40, 60]))
    if how == "brighter":
        factor = 1 + rng.choice([-1, 1]) * (0.10 + 0.15 * rng.random())
        return (clip.float() * factor).round().clamp(0, 255).byte()
    if how == "cropped":
        height, width = clip.shape[1:3]
        up, left = (max(1, round((0.03 + 0.07 * rng.random()) * s)) for s in (height, width))
        inner = rearrange(clip[:, up:-up, left:-left].float(), "t h w c -> t c h w")
        whole = F.interpolate(inner, (height, width), mode="bilinear", antialias=True)
        return rearrange(whole, "t c h w -> t h w c").round().clamp(0, 255).byte()
    if how == "mirrored":
        return clip.flip(2)
    raise ValueError(f"how: expected one of {', '.join(COPIES)}, got {how!r}")


def encode(clip: Clip, quality: int) -> Clip:
    """Encode every frame as a JPEG of this quality, 1 to 95, and decode it again."""
    from PIL import Image

    frames = []
    for frame in clip.numpy():
        file = io.BytesIO()
        Image.fromarray(frame).save(file, "JPEG", quality=max(1, quality))
        frames.append(np.array(Image.open(file)))
    return torch.from_numpy(np.stack(frames))


def _add_noise(frames: Tensor, deviation: float, generator: torch.Generator) -> Tensor:
    noise = torch.randn(frames.shape, generator=generator)
    return (frames + deviation * noise).round().clamp(0, 255).byte()


def _blur(frames: Float[Tensor, "t h w 3"], sigma: float) -> Float[Tensor, "t h w 3"]:
    """Blur by a Gaussian; sigma in pixels."""
    if not sigma:
        return frames
    radius = max(1, round(3 * sigma))
    radius = min(radius, min(frames.shape[1:3]) - 1)
    kernel = torch.exp(-0.5 * (torch.arange(-radius, radius + 1) / sigma) ** 2)
    kernel = kernel / kernel.sum()
    x = rearrange(frames, "t h w c -> (t c) 1 h w")
    x = F.pad(x, (radius,) * 4, mode="reflect")
    x = F.conv2d(F.conv2d(x, kernel[None, None, :, None]), kernel[None, None, None])
    return rearrange(x, "(t c) 1 h w -> t h w c", c=3)


def _expect_inside(number: int, low: int, high: int, name: str) -> None:
    if not low <= number <= high:
        raise ValueError(f"{name}: expected {low} to {high}, got {number}")


# -------------------------------------------------------------------------------------- a small web

# How often an uncurated clip has each flaw.  At most one of the first three; the rest are drawn one
# by one, so that some clips have several.
SHARES = {
    "cut": 0.15,
    "fade": 0.10,
    "still": 0.15,
    "text": 0.20,
    "poor": 0.20,
    "wrong caption": 0.25,
    "copy": 0.08,
}
MOST_NOISE_OF_A_STILL = 4.0  # standard deviation, of 255


@dataclass(frozen=True, eq=False)
class Uncurated:
    """Clips as found: `captions` and `labels` are those that came with them, right or wrong.

    flaws: for each name of SHARES, which clips have it.  cuts: the first frames of new scenes, of
    each clip; for a fade, the middle of it.  text: the share of the picture that lines of text
    cover.  quality: 1 for an untouched clip, 0 for a spoilt one; ways: one of DEGRADATIONS, or "".
    copy_of: the number of the clip that this one repeats, or -1.  true_captions: what the first
    scene really shows.
    """

    pixels: UInt8[Tensor, "n t h w 3"]
    captions: list[str]
    labels: dict[str, Int[Tensor, " n"]]
    flaws: dict[str, Bool[Tensor, " n"]]
    cuts: list[list[int]]
    text: Float[Tensor, " n"]
    quality: Float[Tensor, " n"]
    ways: list[str]
    copy_of: Int[Tensor, " n"]
    true_captions: list[str]

    def __len__(self) -> int:
        return len(self.pixels)


def uncurated(
    split: str, n: int, frames: int = 16, size: int = 32, seed: int = 0, **constraints
) -> Uncurated:
    """Return n clips of the little world with the flaws of SHARES, the same for the same arguments.

    A larger n begins with the clips of a smaller one.  Constraints are those of `LittleWorld`.
    Raises ValueError for fewer than 8 frames, and as `LittleWorld` does.
    """
    _expect_inside(frames, 8, 2**16, "frames")
    # Every clip has two scenes to draw on: its own, and another one to cut to or to be taken for.
    world = LittleWorld(split, size, frames, length=2 * n, seed=seed, **constraints)
    clips: list[Tensor] = []
    rows: list[dict] = []
    for start in range(0, n, CLIPS_AT_ONCE):
        numbers = range(start, min(start + CLIPS_AT_ONCE, n))
        rngs = {i: Random(f"{split} {seed} {i}") for i in numbers}
        drawn = {i: _draw_flaws(rngs[i]) for i in numbers}
        needed = [2 * i for i in numbers]
        needed += [2 * i + 1 for i in numbers if drawn[i] & {"cut", "fade"}]
        scenes = dict(zip(needed, float_to_pixels(world.batch(needed)["pixels"]), strict=True))
        for i in numbers:
            if "copy" in drawn[i] and i:
                source = rngs[i].randrange(i)
                clips.append(copy(clips[source], rngs[i].choice(COPIES[:3]), rngs[i]))
                was = rows[source]
                rows.append(was | {"flaws": was["flaws"] | {"copy"}, "copy_of": source})
                continue
            flaws = drawn[i] - {"copy"}
            clip, truth = _spoil(scenes[2 * i], scenes.get(2 * i + 1), flaws, rngs[i])
            clips.append(clip)
            own, other = world.scene(2 * i), world.scene(2 * i + 1)
            said = other if "wrong caption" in flaws else own
            texts = {"caption": caption(said), "true caption": caption(own)}
            rows.append(truth | texts | {"labels": labels_of(said), "copy_of": -1})

    return Uncurated(
        pixels=torch.stack(clips),
        captions=[row["caption"] for row in rows],
        labels={
            name: torch.tensor([row["labels"][name] for row in rows]) for name in rows[0]["labels"]
        },
        flaws={name: torch.tensor([name in row["flaws"] for row in rows]) for name in SHARES},
        cuts=[row["cuts"] for row in rows],
        text=torch.tensor([row["text"] for row in rows]),
        quality=torch.tensor([row["quality"] for row in rows]),
        ways=[row["way"] for row in rows],
        copy_of=torch.tensor([row["copy_of"] for row in rows]),
        true_captions=[row["true caption"] for row in rows],
    )


def _draw_flaws(rng: Random) -> set[str]:
    """Draw what is wrong with one clip."""
    drawn = rng.random()
    flaws = set()
    for name in ("cut", "fade", "still"):
        if 0 <= drawn < SHARES[name]:
            flaws.add(name)
        drawn -= SHARES[name]
    for name in ("text", "poor", "wrong caption", "copy"):
        if rng.random() < SHARES[name]:
            flaws.add(name)
    return flaws


def _spoil(first: Clip, second: Clip | None, flaws: set[str], rng: Random) -> tuple[Clip, dict]:
    """Plant flaws in a clip; returns it, and what is now true of it."""
    generator = torch.Generator().manual_seed(rng.getrandbits(32))
    frames = len(first)
    clip = first
    truth = {"flaws": flaws, "cuts": [], "text": 0.0, "quality": 1.0, "way": ""}
    if "still" in flaws:
        noise = rng.choice([0.0, MOST_NOISE_OF_A_STILL * rng.random()])
        clip = still(clip, rng.randrange(frames), noise, generator)
    if "cut" in flaws:
        at = rng.randrange(3, frames - 2)
        clip = join(clip, second, at)
        truth["cuts"] = [at]
    if "fade" in flaws:
        length = rng.randrange(3, 2 + frames // 3)
        at = rng.randrange(2, frames - length - 1)
        clip = rng.choice([dissolve, fade])(clip, second, at, length)
        truth["cuts"] = [at + (length + 1) // 2]
    if "poor" in flaws:
        strength = 0.3 + 0.7 * rng.random()
        truth["quality"], truth["way"] = 1 - strength, rng.choice(DEGRADATIONS)
        clip = degrade(clip, truth["way"], strength, generator)
    if "text" in flaws:
        clip, boxes = write_on(clip, rng)
        truth["text"] = float(boxes.float().mean())
    return clip, truth
