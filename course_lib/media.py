"""Photos and clips of the student's own: bytes in, tensors out, and a clip back into bytes.

The input may be anything that a person picks in a file dialogue, so every way in which a file
can be wrong is a ValueError with a sentence for its owner.
"""

import io
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from typing import Any

import numpy as np
import torch
from einops import rearrange

from course_lib.shapes import Float, Tensor

MAX_FRAMES = 9000  # five minutes at 30 frames per second
# No still images, no text, no playlists that name other files.
CONTAINERS = "mov,matroska,avi,gif,mpegts,mpeg,flv,ogg,asf"

Size = int | tuple[int, int]


def read_photo(data: bytes, size: Size) -> Float[Tensor, "3 h w"]:
    """Read a photo from the bytes of a file, in [-1, 1], cropped around its centre to `size`.

    size: the side of a square, or (height, width).  The photo is turned as its EXIF note says;
    transparency becomes white; 16-bit grey becomes 8-bit, and grey of 32 bits is stretched over its
    own range.  Raises ValueError for what Pillow cannot read to its end, and for more pixels than
    Pillow thinks safe.
    """
    from PIL import Image, UnidentifiedImageError

    sides = _sides(size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            image = _fit(_upright(Image.open(io.BytesIO(data))), sides)
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

    They are evenly spaced by number, the first and the last among them; a shorter clip repeats
    some.  The clip is turned as its file says.  It is decoded frame by frame, and only the chosen
    ones are kept.  size: the side of a square, or (height, width).  Raises ValueError for a
    file that is no video, cannot be read, has no frames or more than MAX_FRAMES, and for an MP4
    that breaks off; of other kinds, what is there is read.
    """
    if frames < 1:
        raise ValueError(f"expected at least one frame, got frames={frames}")
    sides = _sides(size)
    count = _count_packets(data)
    # A packet is mostly one frame, but not always: then the second pass knows the real number.
    for _ in range(3):
        chosen = np.linspace(0, count - 1, frames).round().astype(int).tolist()
        kept, decoded = _decode(data, set(chosen), sides)
        if decoded == count:
            return _pixels_to_float(np.stack([kept[i] for i in chosen]))
        count = decoded
    raise ValueError("expected a whole video file; this one is damaged")


def write_clip(video: np.ndarray | Tensor, fps: int) -> bytes:
    """Encode a clip as an MP4 file (H.264, yuv420p), which browsers and phones play.

    video: (t h w 3) uint8 or (t 3 h w) float in [-1, 1]; tensor or array.  fps: frames per second.
    An odd side gets its last row or column twice, because this format has only even ones.  Raises
    ValueError for other shapes and values.
    """
    import av

    if fps < 1:
        raise ValueError(f"expected at least one frame per second, got fps={fps}")
    if video.ndim != 4:
        raise ValueError(
            f"expected a clip (t h w 3) or (t 3 h w), got one of shape {tuple(video.shape)}"
        )
    images = to_images(video)
    _, height, width, _ = images.shape
    images = np.pad(images, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.height, stream.width = images.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # BT.601, stated so that no player guesses another from the size.
        stream.codec_context.colorspace = 6
        for image in images:
            frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(image), format="rgb24")
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))
    return file.getvalue()


def to_images(images: np.ndarray | Tensor | Sequence) -> np.ndarray:
    """Convert images of either kind to (n h w 3) uint8.

    images: (n h w 3) or (n h w) uint8, or (n 3 h w) or (n 1 h w) float in [-1, 1].  Raises
    ValueError for other shapes, dtypes and values that are not finite.
    """
    array = np.asarray(images.detach().cpu() if hasattr(images, "detach") else images)
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


def _sides(size: Size) -> tuple[int, int]:
    """Return (height, width) of a size."""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"expected a size of at least one pixel, got {size}")
    return height, width


def _pixels_to_float(images: np.ndarray) -> Float[Tensor, "n 3 h w"]:
    pixels = rearrange(torch.from_numpy(images), "n h w c -> n c h w").contiguous()
    return pixels.float() / 127.5 - 1


def _fit(image: Any, sides: tuple[int, int]) -> np.ndarray:
    """Crop and resize a PIL image around its middle, antialiased, to (h w 3) uint8 of `sides`."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(image, sides[::-1], Image.Resampling.BICUBIC))


def _upright(image: Any) -> Any:
    """Convert a PIL image of any mode to RGB on white, turned as its EXIF note says."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    # Grey of more than 8 bits, which Pillow would clip at 255.
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = (0, 65535) if image.mode.startswith("I;16") else (values.min(), values.max())
        grey = (values - low) / max(high - low, 1e-12) * 255
        image = Image.fromarray(grey.round().astype(np.uint8))
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@contextmanager
def _opened(data: bytes) -> Iterator[tuple[Any, Any]]:
    """Open the (container, stream) of a video's bytes; what FFmpeg refuses is a ValueError."""
    import av

    try:
        allowed = {"format_whitelist": CONTAINERS}
        with av.open(io.BytesIO(data), options=allowed, metadata_errors="replace") as container:
            cover = av.stream.Disposition.attached_pic
            streams = [s for s in container.streams.video if not s.disposition & cover]
            if not streams:
                raise ValueError("expected a video file; this one holds no moving image")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
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
        count = sum(packet.size > 0 for packet in container.demux(stream))
    if count == 0:
        raise ValueError("expected a clip; this one has no frames")
    return _bounded(count)


def _decode(
    data: bytes, chosen: set[int], sides: tuple[int, int]
) -> tuple[dict[int, np.ndarray], int]:
    """Return the chosen frames by number, each (h w 3) uint8 of `sides`, and the count of all."""
    kept = {}
    count = 0
    with _opened(data) as (container, stream):
        for frame in container.decode(stream):
            if count in chosen:
                # both angles are counterclockwise
                turned = frame.to_image().rotate(frame.rotation, expand=True)
                kept[count] = _fit(turned, sides)
            count = _bounded(count + 1)
    if count == 0:
        raise ValueError("expected a clip; none of its frames can be decoded")
    return kept, count


def _bounded(count: int) -> int:
    if count > MAX_FRAMES:
        raise ValueError(
            f"expected a clip of at most {MAX_FRAMES} frames; this one has more: cut it shorter"
        )
    return count
