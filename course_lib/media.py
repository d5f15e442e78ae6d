"""Photos and clips of the student's own: bytes in, tensors out, and a clip back into bytes.

The input may be anything that a person picks in a file dialogue, so every way in which a file
can be wrong is a ValueError with a sentence for its owner.
"""

import io
import math
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from fractions import Fraction
from importlib.resources import files
from numbers import Integral, Rational, Real
from typing import Any

import numpy as np
import torch
from einops import rearrange

from course_lib import ebml
from course_lib.looks import frame_as_seen, photo_as_seen
from course_lib.shapes import Float, Tensor

MAX_FRAMES = 9000  # five minutes at 30 frames per second
# No still images, no text, no playlists that name other files.
CONTAINERS = "mov,matroska,avi,gif,mpegts,mpeg,flv,ogg,asf"
# What decodes the transparency of WebM; FFmpeg's own decoders leave it out.
WITH_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
DAMAGED = "expected a whole video file; this one is damaged"
MAX_RATE = 1000  # frames per second
ROUNDING = 1e-3

Size = int | tuple[int, int]


def read_photo(data: bytes, size: Size) -> Float[Tensor, "3 h w"]:
    """Read a photo from the bytes of a file, in [-1, 1], cropped around its centre to `size`.

    size: the side of a square, or (height, width).  The photo looks as its file says: turned by its
    EXIF note, in sRGB by its ICC profile or what stands for one (see `course_lib.looks`), with
    square pixels; transparency becomes white; 16-bit grey becomes 8-bit, and grey of 32 bits is
    stretched over its own range.  Of several images in a file it is the first.  Raises ValueError
    for what Pillow cannot read to its end, for more pixels than Pillow thinks safe, and for a size
    without pixels.
    """
    from PIL import Image, UnidentifiedImageError

    sides = _sides(size)
    data = _bytes(data)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of notes that are broken, which are left out
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _fit(photo_as_seen(data), sides)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(
            f"expected an image of at most {most}; this one has more: make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        formats = "JPEG, PNG, WebP, GIF, TIFF or another that Pillow reads; save HEIC as JPEG first"
        raise ValueError(
            f"expected an image file ({formats}); these {len(data)} bytes are none"
        ) from error
    except Exception as error:  # a damaged file can break a reader of Pillow in any way
        raise ValueError(
            f"expected a whole image file; this one is damaged or cut off ({error})"
        ) from error
    return _pixels_to_float(image[None])[0]


def example_photo(size: Size) -> Float[Tensor, "3 h w"]:
    """Return a photo to start with: the cat Chelsea (CC0), which comes with scikit-image.

    size: as for `read_photo`.
    """
    return read_photo((files("skimage.data") / "chelsea.png").read_bytes(), size)


def read_clip(data: bytes, frames: int, size: Size) -> Float[Tensor, "t 3 h w"]:
    """Read `frames` frames from the bytes of a video file, in [-1, 1], cropped to `size`.

    They are evenly spaced in time, the first and the last among them; a shorter clip repeats some.
    Where a file has no times, or they are even up to half a frame, that is evenly spaced by number.
    Frames look as their file says: turned or mirrored, with square pixels, in its colours, on white
    where they are transparent (see `course_lib.looks`).  What an edit list cuts away is not there.
    The clip is decoded frame by frame, and only the chosen ones are kept.  size: the side of a
    square, or (height, width).

    Raises ValueError for a file that is no video, cannot be read, has no frames or more than
    MAX_FRAMES, for an MP4 that breaks off (of other kinds, what is there is read), and for damage:
    whatever the decoder notices or a checksum tells.  H.264, H.265, AV1 and MPEG-4 notice most of
    it, and Matroska has checksums.  WebM's VP8 and VP9, and GIF, have nothing to notice it by:
    flipped bytes of a frame may come out as wrong frames there.
    """
    if not (isinstance(frames, Integral) and frames >= 1):
        raise ValueError(f"expected at least one frame, got frames={frames}")
    sides = _sides(size)
    data = _bytes(data)
    if ebml.is_damaged(data):
        raise ValueError(DAMAGED)
    chosen = _spread(range(_count_packets(data)), frames)
    # A packet is mostly one frame, and frames are mostly even, but not always: then the second pass
    # knows their real times.
    for _ in range(3):
        kept, times = _decode(data, set(chosen), sides)
        right = _spread(times, frames)
        if set(right) <= kept.keys():
            return _pixels_to_float(np.stack([kept[i] for i in right]))
        chosen = right
    raise ValueError(DAMAGED)


def _spread(times: Sequence[int | None], frames: int) -> list[int]:
    """Choose as many frames, by number, that are evenly spaced over the times of all."""
    last = len(times) - 1
    even = np.linspace(0, last, frames)
    if None in times or last < 2:
        return even.round().astype(int).tolist()
    when = np.array(times, dtype=float)
    ideal = np.linspace(when[0], when[-1], last + 1)
    step = (when[-1] - when[0]) / last
    if step <= 0 or (np.diff(when) < 0).any() or abs(when - ideal).max() <= step / 2:
        return even.round().astype(int).tolist()
    moments = np.linspace(when[0], when[-1], frames)
    return np.interp(moments, when, np.arange(last + 1)).round().astype(int).tolist()


def write_clip(video: np.ndarray | Tensor, fps: int | float | Fraction, crf: int = 20) -> bytes:
    """Encode a clip as an MP4 file (H.264, yuv420p), which browsers and phones play.

    video: (t h w 3) uint8 or (t 3 h w) float of any precision in [-1, 1]; tensor or array.  fps:
    frames per second, 1 to 1000; 29.97 and a Fraction are kept as they are.  crf: x264's constant
    rate factor, 0 to 51; a larger one makes a smaller and coarser file.  An odd side gets its last
    row or column twice, because this format has only even ones.  Raises ValueError for other shapes
    and values; what is at most 0.001 beyond [-1, 1] is rounding.
    """
    import av

    rate = _rate(fps)
    if isinstance(crf, bool) or not isinstance(crf, int) or not 0 <= crf <= 51:
        raise ValueError(f"crf: expected a whole number from 0 to 51, got {crf!r}")
    if not (isinstance(video, Tensor | np.ndarray) and video.ndim == 4):
        got = f"one of shape {tuple(video.shape)}" if hasattr(video, "shape") else f"{type(video)}"
        raise ValueError(f"expected a clip (t h w 3) or (t 3 h w), got {got}")
    images = to_images(video)
    _require_range(video)
    _, height, width, _ = images.shape
    images = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=rate, options={"crf": str(crf)})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # BT.601, stated so that no player guesses another from the size.
        stream.codec_context.colorspace = 6
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def write_photo(image: np.ndarray | Tensor) -> bytes:
    """Encode an image as a PNG file.

    image: (h w 3) uint8 or (3 h w) float of any precision in [-1, 1]; tensor or array.  Raises
    ValueError for other shapes and values, as `write_clip`.
    """
    from PIL import Image

    if not (isinstance(image, Tensor | np.ndarray) and image.ndim == 3):
        got = f"one of shape {tuple(image.shape)}" if hasattr(image, "shape") else f"{type(image)}"
        raise ValueError(f"expected an image (h w 3) or (3 h w), got {got}")
    pixels = to_images(image[None])[0]
    _require_range(image[None])
    file = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(file, "PNG")
    return file.getvalue()


def to_images(images: np.ndarray | Tensor | Sequence) -> np.ndarray:
    """Convert images of either kind to (n h w 3) uint8.

    images: (n h w 3) or (n h w) uint8, or (n 3 h w) or (n 1 h w) float in [-1, 1].  Raises
    ValueError for other shapes, dtypes and values that are not finite.
    """
    array = _array(images)
    wanted = "expected images (n h w 3) or (n h w) uint8, or (n 3 h w) float in [-1, 1]"
    if array.dtype == np.uint8 and array.ndim == 3 and array.size:
        return np.repeat(array[..., None], 3, axis=-1)
    if array.ndim != 4 or not array.size:
        raise ValueError(f"{wanted}; got {array.dtype} of shape {array.shape}")
    if array.dtype == np.uint8 and array.shape[-1] in (1, 3):
        return np.broadcast_to(array, (*array.shape[:3], 3))
    if np.issubdtype(array.dtype, np.floating) and array.shape[1] in (1, 3):
        if not np.isfinite(array).all():
            raise ValueError(f"{wanted}; got values that are not finite")
        pixels = ((array.clip(-1, 1) + 1) * 127.5).round().astype(np.uint8)
        pixels = np.moveaxis(pixels, 1, -1)
        return np.broadcast_to(pixels, (*pixels.shape[:3], 3))
    raise ValueError(f"{wanted}; got {array.dtype} of shape {array.shape}")


def _array(images: np.ndarray | Tensor | Sequence) -> np.ndarray:
    """Return images of any kind as an array; NumPy has no bfloat16, and float32 holds each."""
    if isinstance(images, Tensor):
        if images.layout != torch.strided or images.is_meta or images.is_quantized:
            raise ValueError(
                "expected images in memory, of which each value is there; got"
                f" {images.dtype}, {images.layout}, on {images.device}"
            )
        images = images.detach().cpu()
        images = images.float() if images.dtype == torch.bfloat16 else images
    return np.asarray(images)


def _require_range(video: np.ndarray | Tensor) -> None:
    """Refuse floats outside [-1, 1], give or take rounding (ValueError)."""
    array = _array(video)
    low, high = float(array.min()), float(array.max())
    if array.dtype != np.uint8 and not -1 - ROUNDING <= low <= high <= 1 + ROUNDING:
        raise ValueError(
            f"expected floats in [-1, 1], got values from {low:.4g} to {high:.4g}: clamp them first"
        )


def _rate(fps: Any) -> Fraction:
    """Return frames per second as a fraction that a file can state."""
    is_number = isinstance(fps, Real) and not isinstance(fps, bool) and math.isfinite(fps)
    if not (is_number and fps >= 1):
        raise ValueError(f"expected at least one frame per second, got fps={fps}")
    if fps > MAX_RATE:
        raise ValueError(f"expected at most {MAX_RATE} frames per second, got fps={fps}")
    return Fraction(fps if isinstance(fps, Rational) else float(fps)).limit_denominator(1001)


def _bytes(data: Any) -> bytes:
    """Return the bytes of a file; ValueError for a path or anything else."""
    if not isinstance(data, bytes | bytearray | memoryview):
        raise ValueError(f"expected the bytes of a file, got {type(data).__name__}")
    return bytes(data)


def _sides(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size."""
    sides = tuple(size) if isinstance(size, Sequence) else (size, size)
    is_whole = len(sides) == 2 and all(isinstance(side, Integral) for side in sides)
    if not is_whole or isinstance(size, str | bytes):
        raise ValueError(f"expected a size in whole pixels, a side or (height, width), got {size}")
    if min(sides) < 1:
        raise ValueError(f"expected a size of at least one pixel, got {size}")
    return int(sides[0]), int(sides[1])


def _pixels_to_float(images: np.ndarray) -> Float[Tensor, "n 3 h w"]:
    pixels = rearrange(torch.from_numpy(images), "n h w c -> n c h w").contiguous()
    return pixels.float() / 127.5 - 1


def _fit(image: Any, sides: tuple[int, int]) -> np.ndarray:
    """Crop and resize a PIL image around its middle, antialiased, to (h w 3) uint8 of `sides`."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(image, sides[::-1], Image.Resampling.BICUBIC))


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """Open the (container, stream) of a video's bytes; what FFmpeg refuses is a ValueError."""
    import av

    try:
        allowed = {"format_whitelist": CONTAINERS}
        with av.open(io.BytesIO(data), options=allowed, metadata_errors="replace") as container:
            kinds = av.stream.Disposition
            streams = [s for s in container.streams.video if not s.disposition & kinds.attached_pic]
            if not container.streams.video and not container.streams.audio:
                raise ValueError(DAMAGED)  # it breaks off where they would be listed
            if not streams:
                raise ValueError("expected a video file; this one holds no moving image")
            default = [s for s in streams if s.disposition & kinds.default]
            stream = (default or streams)[0]
            if stream.codec_context is None:
                raise ValueError(
                    "expected a clip in a known codec, got one that FFmpeg cannot decode"
                )
            stream.thread_type = "AUTO"
            yield container, stream
    except av.FFmpegError as error:
        formats = "MP4, MOV, WebM, MKV, AVI or GIF"
        raise ValueError(
            f"expected a whole video file ({formats}); this one cannot be read"
        ) from error


def _count_packets(data: bytes) -> int:
    """Count the packets of the clip without decoding them."""
    with _opened(data) as (container, stream):
        if any(entry.pos + entry.size > len(data) for entry in stream.index_entries):
            raise ValueError("expected a whole video file; this one breaks off before its end")
        packets = container.demux(stream)
        count = sum(packet.size > 0 and not packet.is_discard for packet in packets)
    if count == 0:
        raise ValueError("expected a clip; this one has no frames")
    return _bounded(count)


def _decode(
    data: bytes, chosen: set[int], sides: tuple[int, int]
) -> tuple[dict[int, np.ndarray], list[int | None]]:
    """Return the chosen frames by number, each (h w 3) uint8 of `sides`, and the times of all."""
    try:
        return _decode_all(data, chosen, sides, whole=True)
    except Damaged:
        # The last packet of what has no index may be cut off: then all before it is there.
        return _decode_all(data, chosen, sides, whole=False)


def _decode_all(
    data: bytes, chosen: set[int], sides: tuple[int, int], whole: bool
) -> tuple[dict[int, np.ndarray], list[int | None]]:
    kept = {}
    times: list[int | None] = []
    with _opened(data) as (container, stream):
        shape = float(stream.sample_aspect_ratio or 1)
        for frame in _frames(container, stream, whole):
            if len(times) in chosen:
                kept[len(times)] = _fit(frame_as_seen(frame, shape), sides)
            times.append(frame.pts)
            _bounded(len(times))
    if not times:
        raise ValueError("expected a clip; none of its frames can be decoded")
    return kept, times


class Damaged(ValueError):
    """What a decoder noticed in a clip."""


def _frames(container: Any, stream: Any, whole: bool) -> Iterator[Any]:
    """Yield the decoded frames, with all packets or without the last; Damaged for broken ones."""
    import av

    decoder = stream.codec_context
    if stream.metadata.get("alpha_mode") == "1" and decoder.name in WITH_ALPHA:
        decoder = av.CodecContext.create(WITH_ALPHA[decoder.name], "r")
    packets = [packet for packet in container.demux(stream) if packet.size]
    has_index = container.format.name.startswith(("mov", "matroska", "gif"))
    refusal = ValueError(DAMAGED) if has_index else Damaged(DAMAGED)
    if not whole:
        packets.pop()
    if any(packet.is_corrupt for packet in packets):
        raise refusal
    for packet in [*packets, None]:
        try:
            frames = decoder.decode(packet)
        except av.FFmpegError as error:
            raise refusal from error
        if any(frame.is_corrupt for frame in frames):
            raise refusal
        yield from frames


def _bounded(count: int) -> int:
    if count > MAX_FRAMES:
        raise ValueError(
            f"expected a clip of at most {MAX_FRAMES} frames; this one has more: cut it shorter"
        )
    return count
