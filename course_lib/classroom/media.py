"""Photos and clips of the student's own: bytes in, tensors out, and a clip back into bytes.

What comes in may be anything that a person picks in a file dialogue, so every way in which a file
can be wrong is a ValueError with a sentence for its owner.
"""

import io
import warnings
from contextlib import contextmanager
from importlib.resources import files

import numpy as np
import torch
from einops import rearrange

from course_lib.classroom.figures import to_images
from course_lib.shapes import Float, Tensor

MOST_FRAMES = 9000  # five minutes at 30 frames per second
# no still pictures, no text, no playlists that name files
CONTAINERS = "mov,matroska,avi,gif,mpegts,mpeg,flv,ogg,asf"

Size = int | tuple[int, int]


def read_photo(data: bytes, size: Size) -> Float[Tensor, "3 h w"]:
    """The photo in the bytes of a picture file, in [-1, 1], cropped around its centre and resized
    to `size`.

    size: the side of a square, or (height, width).  The photo is turned as its EXIF note says;
    transparency becomes white; 16-bit grey becomes 8-bit, and grey of 32 bits is stretched over its
    own range. Raises ValueError for what Pillow cannot read to its end, and for more pixels than
    Pillow thinks safe.
    """
    from PIL import Image, UnidentifiedImageError

    sides = _sides(size)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            picture = _fit(_upright(Image.open(io.BytesIO(data))), sides)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        most = f"{Image.MAX_IMAGE_PIXELS / 1e6:.0f} million pixels"
        raise ValueError(
            f"expected a picture of at most {most}; this one has more: make it smaller"
        ) from error
    except UnidentifiedImageError as error:
        formats = "JPEG, PNG, WebP, GIF, TIFF or another that Pillow reads; save HEIC as JPEG first"
        raise ValueError(
            f"expected a picture file ({formats}); these {len(data)} bytes are none"
        ) from error
    except Exception as error:  # a damaged file can break a reader of Pillow in any way
        raise ValueError(
            f"expected a whole picture file; this one is damaged or cut off ({error})"
        ) from error
    return _pixels_to_float(picture[None])[0]


def example_photo(size: Size) -> Float[Tensor, "3 h w"]:
    """A photo for when nobody has brought one: scikit-image's cat Chelsea (CC0), which lies in its
    wheel.

    size: as for `read_photo`.
    """
    return read_photo((files("skimage.data") / "chelsea.png").read_bytes(), size)


def read_clip(data: bytes, frames: int, size: Size) -> Float[Tensor, "t 3 h w"]:
    """`frames` frames of the clip in the bytes of a video file, in [-1, 1], cropped and resized to
    `size`.

    They are evenly spaced by number, the first and the last among them; a shorter clip repeats
    some.  The clip is turned as its file says.  It is decoded frame by frame, and no more than the
    chosen ones are kept. size: the side of a square, or (height, width).  Raises ValueError for a
    file that is no video, cannot be read, has no frames or more than MOST_FRAMES, and for an MP4
    that breaks off; of other kinds, what is there is read.
    """
    if frames < 1:
        raise ValueError(f"expected at least one frame, got frames={frames}")
    sides = _sides(size)
    count = _count_packets(data)
    # a packet is mostly one frame, but not always: then the second pass knows how many there are
    for _ in range(3):
        chosen = np.linspace(0, count - 1, frames).round().astype(int).tolist()
        kept, decoded = _decode(data, set(chosen), sides)
        if decoded == count:
            return _pixels_to_float(np.stack([kept[i] for i in chosen]))
        count = decoded
    raise ValueError("expected a whole video file; this one is damaged")


def write_clip(video, fps: int) -> bytes:
    """An MP4 file (H.264, yuv420p), which browsers and phones play.

    video: (t h w 3) uint8 or (t 3 h w) float in [-1, 1]; tensor or array. fps: frames per second.
    An odd side gets its last row or column twice, because this format has even ones.  ValueError
    for other shapes and values.
    """
    import av

    if fps < 1:
        raise ValueError(f"expected at least one frame per second, got fps={fps}")
    if video.ndim != 4:
        raise ValueError(
            f"expected a clip (t h w 3) or (t 3 h w), got one of shape {tuple(video.shape)}"
        )
    pictures = to_images(video)
    _, height, width, _ = pictures.shape
    pictures = np.pad(pictures, ((0, 0), (0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as container:
        stream = container.add_stream("libx264", rate=fps, options={"crf": "16"})
        stream.height, stream.width = pictures.shape[1:3]
        stream.pix_fmt = "yuv420p"
        # BT.601, said so that no player guesses another from the size
        stream.codec_context.colorspace = 6
        for picture in pictures:
            container.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
                )
            )
        container.mux(stream.encode(None))
    return file.getvalue()


def _sides(size: Size) -> tuple[int, int]:
    """(height, width)"""
    height, width = (size, size) if isinstance(size, int) else size
    if min(height, width) < 1:
        raise ValueError(f"expected a size of at least one pixel, got {size}")
    return height, width


def _pixels_to_float(pictures: np.ndarray) -> Float[Tensor, "n 3 h w"]:
    return (
        rearrange(torch.from_numpy(pictures), "n h w c -> n c h w").contiguous().float() / 127.5 - 1
    )


def _fit(image, sides: tuple[int, int]) -> np.ndarray:
    """(h w 3) uint8: the middle of a PIL picture, in the shape of `sides`, antialiased."""
    from PIL import Image, ImageOps

    return np.array(ImageOps.fit(image, sides[::-1], Image.Resampling.BICUBIC))


def _upright(image):
    """A PIL picture of any mode as RGB, turned as its EXIF note says, on white."""
    from PIL import Image, ImageOps

    image = ImageOps.exif_transpose(image)
    # grey of more than 8 bits, which Pillow would clip at 255
    if image.mode.startswith(("I", "F")):
        values = np.nan_to_num(np.asarray(image, dtype=np.float64))
        low, high = (0, 65535) if image.mode.startswith("I;16") else (values.min(), values.max())
        image = Image.fromarray(
            ((values - low) / max(high - low, 1e-12) * 255).round().astype(np.uint8)
        )
    if image.has_transparency_data:
        image = image.convert("RGBA")
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image)
    return image.convert("RGB")


@contextmanager
def _opened(data: bytes):
    """(container, stream) of the video in the bytes; what FFmpeg refuses is a ValueError."""
    import av

    try:
        allowed = {"format_whitelist": CONTAINERS}
        with av.open(io.BytesIO(data), options=allowed, metadata_errors="replace") as container:
            streams = [
                s
                for s in container.streams.video
                if not s.disposition & av.stream.Disposition.attached_pic
            ]
            if not streams:
                raise ValueError("expected a video file; this one holds no moving picture")
            streams[0].thread_type = "AUTO"
            yield container, streams[0]
    except av.FFmpegError as error:
        formats = "MP4, MOV, WebM, MKV, AVI or GIF"
        raise ValueError(
            f"expected a whole video file ({formats}); this one cannot be read"
        ) from error


def _count_packets(data: bytes) -> int:
    """How many packets the clip has, without decoding them."""
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
    """The chosen frames by their number, each (h w 3) uint8 of `sides`, and the number of all
    frames.
    """
    kept, count = {}, 0
    with _opened(data) as (container, stream):
        for frame in container.decode(stream):
            if count in chosen:
                # both count against the clock
                turned = frame.to_image().rotate(frame.rotation, expand=True)
                kept[count] = _fit(turned, sides)
            count = _bounded(count + 1)
    if count == 0:
        raise ValueError("expected a clip; none of its frames can be decoded")
    return kept, count


def _bounded(count: int) -> int:
    if count > MOST_FRAMES:
        raise ValueError(
            f"expected a clip of at most {MOST_FRAMES} frames; this one has more: cut it shorter"
        )
    return count
