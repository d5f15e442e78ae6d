"""What `course generate` does: check all that can go wrong, run a pipeline, write a file."""

import os
import sys
import time
from pathlib import Path

import torch

from course_lib.files import write_atomically
from course_lib.media import read_photo, write_clip, write_photo
from course_lib.pipelines import cogvideox, ldm, svd
from course_lib.pipelines.parts import Published
from course_lib.shapes import Float, Tensor


def generate_clip(
    weights: Path,
    image: Path,
    out: Path,
    settings: svd.Settings,
    *,
    size: tuple[int, int],
    seed: int,
    device: str | None = None,
    dtype: str | None = None,
) -> int:
    """Continue an image as a clip, with the options of the command (course_lib/cli.py).

    Returns 0, or 130 when it was interrupted.  Raises ValueError, OSError or RuntimeError.
    """
    require_writable(out, ".mp4")
    photo = read_image(image, size)
    pipeline = svd.Pipeline(weights, device, dtype)
    settings = pipeline.plan(settings, size)

    started = time.monotonic()
    try:
        clip = pipeline.generate(photo[None], settings, torch.Generator().manual_seed(seed))
    except KeyboardInterrupt:
        return _interrupted()
    write_atomically(out, write_clip(clip.clamp(-1, 1), settings.fps))
    frames, _, height, width = clip.shape
    how = f"at {settings.fps} a second, decoded {settings.frames_at_once} at once"
    made = f"{frames} frames of {height}x{width} {how}"
    print(f"{out}: {made}, seed {seed}, {_cost(started, pipeline)}")
    return 0


def generate_video(
    weights: Path,
    prompt: str,
    image: Path | None,
    out: Path,
    settings: cogvideox.Settings,
    *,
    seed: int,
    device: str | None = None,
    dtype: str | None = None,
) -> int:
    """Film what a prompt says, from an image on if there is one, with the options of the command.

    Returns 0, or 130 when it was interrupted.  Raises ValueError, OSError or RuntimeError.
    """
    require_writable(out, ".mp4")
    pipeline = cogvideox.Pipeline(weights, device, dtype, with_image=image is not None)
    settings = pipeline.plan(settings)
    photo = None if image is None else read_image(image, settings.size)[None]
    for note in pipeline.notes(prompt, settings):
        print(note, file=sys.stderr)

    started = time.monotonic()
    generator = torch.Generator().manual_seed(seed)
    try:
        clip = pipeline.generate(prompt, settings, generator, photo)
    except KeyboardInterrupt:
        return _interrupted()
    write_atomically(out, write_clip(clip.clamp(-1, 1), settings.fps))
    frames, _, height, width = clip.shape
    made = f"{frames} frames of {height}x{width} at {settings.fps} a second"
    print(f"{out}: {made}, seed {seed}, {_cost(started, pipeline)}")
    return 0


def generate_image(
    weights: Path,
    prompt: str,
    out: Path,
    settings: ldm.Settings,
    *,
    seed: int,
    device: str | None = None,
    dtype: str | None = None,
) -> int:
    """Draw what a prompt says, with the options of the command (course_lib/cli.py).

    Returns 0, or 130 when it was interrupted.  Raises ValueError, OSError or RuntimeError.
    """
    require_writable(out, ".png")
    pipeline = ldm.Pipeline(weights, device, dtype)
    pipeline.check(settings)
    for note in pipeline.notes(prompt, settings):
        print(note, file=sys.stderr)

    started = time.monotonic()
    try:
        image = pipeline.generate(prompt, settings, torch.Generator().manual_seed(seed))
    except KeyboardInterrupt:
        return _interrupted()
    write_atomically(out, write_photo(image.clamp(-1, 1)))
    _, height, width = image.shape
    print(f"{out}: an image of {height}x{width}, seed {seed}, {_cost(started, pipeline)}")
    return 0


def read_image(path: Path, size: tuple[int, int]) -> Float[Tensor, "3 h w"]:
    """Return an image file in [-1, 1], cropped to a size.  Raises ValueError naming the file."""
    if not path.is_file():
        raise ValueError(f"expected an image file, got no file at {path}")
    try:
        return read_photo(path.read_bytes(), size)
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from error


def require_writable(path: Path, suffix: str) -> None:
    """Refuse a place where nothing can be written, before the work begins (ValueError)."""
    if path.suffix.lower() != suffix:
        raise ValueError(f"expected a file to write that ends in {suffix}, got {path}")
    if path.is_dir():
        raise ValueError(f"expected a file to write, got the folder {path}")
    above = next(folder for folder in path.absolute().parents if folder.exists())
    if not above.is_dir() or not os.access(above, os.W_OK):
        raise ValueError(f"expected a folder that can be written to, got {above}")


def _interrupted() -> int:
    print("\nstopped; nothing is written", file=sys.stderr)
    return 130


def _cost(started: float, pipeline: Published) -> str:
    return f"{time.monotonic() - started:.0f} s on {pipeline.machine.device.type}"
