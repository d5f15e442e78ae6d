"""Photos and clips of any kind come in as they look to a person; what is none is refused in one
sentence.
"""

import io
import math
import random
import struct
import subprocess
import sys
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from PIL import Image

from course_lib import media
from course_lib.media import example_photo, read_clip, read_photo, write_clip, write_photo

# ------------------------------------------------------------------------------------------- photos


def quadrants(height=40, width=60):
    """(h w 3) uint8: red above blue on the left, white above black on the right."""
    picture = np.zeros((height, width, 3), np.uint8)
    picture[: height // 2, : width // 2] = (255, 0, 0)
    picture[height // 2 :, : width // 2] = (0, 0, 255)
    picture[: height // 2, width // 2 :] = 255
    return picture


def file_of(picture, kind="PNG", **options):
    file = io.BytesIO()
    picture = picture if isinstance(picture, Image.Image) else Image.fromarray(picture)
    picture.save(file, kind, **options)
    return file.getvalue()


def seen(tensor):
    """The colours of the four quadrants, as (2 2 3) in 0 ... 255."""
    h, w = tensor.shape[-2:]
    rows, columns = [h // 4, 3 * h // 4], [w // 4, 3 * w // 4]
    return ((tensor[:, rows][..., columns] + 1) * 127.5).permute(1, 2, 0).numpy()


COLOURS = np.array([[[255, 0, 0], [255, 255, 255]], [[0, 0, 255], [0, 0, 0]]])
GREYS = COLOURS @ [0.299, 0.587, 0.114]


def test_a_photo_is_a_tensor_of_the_models_range():
    photo = read_photo(file_of(quadrants()), (20, 30))
    assert photo.shape == (3, 20, 30) and photo.dtype == torch.float32 and photo.is_contiguous()
    assert (photo.min(), photo.max()) == (-1, 1)
    assert (seen(photo) == COLOURS).all()


KINDS_AND_MODES = {
    "PNG": ["1", "L", "LA", "P", "RGB", "RGBA"],
    "JPEG": ["L", "RGB", "CMYK"],
    "WEBP": ["RGB", "RGBA"],
    "GIF": ["1", "L", "P"],
    "TIFF": ["1", "L", "LA", "P", "RGB", "RGBA", "CMYK", "YCbCr"],
    "BMP": ["1", "L", "P", "RGB", "RGBA"],
}


@pytest.mark.parametrize(
    ("kind", "mode"), [(kind, mode) for kind, modes in KINDS_AND_MODES.items() for mode in modes]
)
def test_every_kind_of_image_looks_as_it_does_to_a_person(kind, mode):
    data = file_of(Image.fromarray(quadrants()).convert(mode, dither=Image.Dither.NONE), kind)
    grey = GREYS.round()[..., None]
    expected = {"1": np.where(grey > 127, 255, 0), "L": grey, "LA": grey}.get(mode, COLOURS)
    assert abs(seen(read_photo(data, (40, 60))) - expected).max() <= 6


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (np.array([[0, 65535], [32768, 16384]], np.uint16), "PNG"),
        (np.array([[0, 65535], [32768, 16384]], np.uint16), "TIFF"),
        (np.array([[-3000, 1000], [-1000, -2000]], np.int32), "TIFF"),
        (np.array([[0.0, 1.0], [0.5, 0.25]], np.float32), "TIFF"),
    ],
    ids=["16-bit png", "16-bit tiff", "32-bit tiff", "float tiff"],
)
def test_grey_of_many_bits_keeps_its_shades(values, kind):
    data = file_of(Image.fromarray(values.repeat(8, axis=0).repeat(8, axis=1)), kind)
    assert abs(seen(read_photo(data, 16))[..., 0] - [[0, 255], [128, 64]]).max() <= 1


def test_a_flat_or_broken_float_image_is_still_read():
    for value in (3.5, float("nan")):
        assert (
            read_photo(file_of(Image.fromarray(np.full((8, 8), value, np.float32)), "TIFF"), 4)
            .isfinite()
            .all()
        )


def test_what_is_transparent_is_white():
    pixels = np.dstack([quadrants(), np.full((40, 60), 255, np.uint8)])
    pixels[20:, :, 3] = 128
    pixels[20:, 30:, 3] = 0
    expected = COLOURS.copy()
    expected[1] = [[127, 127, 255], [255, 255, 255]]
    assert abs(seen(read_photo(file_of(pixels), (40, 60))) - expected).max() <= 1


def test_a_palette_may_have_a_transparent_colour():
    picture = Image.fromarray(np.zeros((40, 60), np.uint8), "P")
    picture.putpalette([255, 0, 0, 0, 0, 255])
    picture.paste(1, (30, 0, 60, 40))
    for kind in ("PNG", "GIF"):
        corners = seen(read_photo(file_of(picture, kind, transparency=1), (40, 60)))
        assert (corners[:, 0] == [255, 0, 0]).all() and (corners[:, 1] == 255).all()


def turned(upright):
    """What a camera stores under each EXIF orientation: where row 0 and column 0 lie in the upright
    picture.
    """
    across = upright.transpose(1, 0, 2)
    return {
        1: upright,  # top, left
        2: upright[:, ::-1],  # top, right
        3: upright[::-1, ::-1],  # bottom, right
        4: upright[::-1],  # bottom, left
        5: across,  # left, top
        6: across[::-1],  # right, top
        7: across[::-1, ::-1],  # right, bottom
        8: across[:, ::-1],  # left, bottom
    }


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photo_is_turned_as_its_camera_was_held(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = np.ascontiguousarray(turned(quadrants())[orientation])
    assert (seen(read_photo(file_of(stored, exif=exif), (40, 60))) == COLOURS).all()


@pytest.mark.parametrize(
    ("shape", "size"), [((30, 90), 30), ((90, 30), 30), ((31, 93), (17, 17)), ((60, 90), (20, 10))]
)
def test_the_middle_is_kept(shape, size):
    """Of a picture that is green in the middle and red outside, along its longer side, the green
    remains.
    """
    long = int(np.argmax(shape))
    ground = np.zeros((*shape, 3), np.uint8)
    ground[..., 0] = 255
    middle = [slice(None)] * 2
    middle[long] = slice(shape[long] // 3, shape[long] - shape[long] // 3)
    ground[tuple(middle)] = (0, 255, 0)
    photo = read_photo(file_of(ground), size)
    assert photo.shape == (3, *((size, size) if isinstance(size, int) else size))
    inner = photo[:, 2:-2, 2:-2]
    assert inner[0].max() < -0.9 and inner[1].min() > 0.9


def test_small_patterns_are_averaged_when_the_photo_shrinks():
    chess = np.indices((256, 256)).sum(0) % 2 * np.uint8(255)
    assert read_photo(file_of(chess.astype(np.uint8)), 16).abs().max() < 0.05


def test_a_photo_of_one_pixel_and_a_very_long_one():
    assert read_photo(file_of(np.full((1, 1, 3), 255, np.uint8)), (3, 5)).eq(1).all()
    assert read_photo(file_of(np.full((2, 5000, 3), 255, np.uint8)), 7).eq(1).all()


@pytest.mark.parametrize(
    ("data", "said"),
    [
        (b"", "expected an image file .* these 0 bytes are none"),
        (b"no picture at all", "these 17 bytes are none"),
        (b"\x00\x00\x00\x18ftypheic" + bytes(200), "save HEIC as JPEG first"),
        (file_of(quadrants())[:60], "damaged or cut off"),
        (file_of(quadrants(400, 600), "JPEG")[:2000], "damaged or cut off"),
        (file_of(Image.new("1", (20_000, 20_000))), "at most 89 million pixels"),
        (file_of(Image.new("1", (10_000, 10_000))), "at most 89 million pixels"),
    ],
    ids=[
        "empty",
        "text",
        "heic",
        "png cut off",
        "jpeg cut off",
        "400 megapixels",
        "100 megapixels",
    ],
)
def test_what_is_not_an_image_is_refused_with_a_reason(data, said):
    with pytest.raises(ValueError, match=said) as refused:
        read_photo(data, 8)
    assert "object at" not in str(refused.value)


@pytest.mark.parametrize("size", [0, -3, (0, 4), (4, 0)])
def test_a_size_has_pixels(size):
    for read in (read_photo, lambda data, size: read_clip(data, 2, size)):
        with pytest.raises(ValueError, match="at least one pixel"):
            read(file_of(quadrants()), size)


def damaged(data, times, seed):
    """The file cut off, or with some bytes replaced; the same ones in every run."""
    chance = random.Random(seed)
    for i in range(times):
        if i % 2:
            yield data[: chance.randrange(len(data))]
        else:
            broken = bytearray(data)
            for _ in range(chance.choice((1, 5, 50))):
                broken[chance.randrange(len(broken))] = chance.randrange(256)
            yield bytes(broken)


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"])
def test_a_damaged_photo_is_read_or_refused_and_nothing_else(kind):
    exif = Image.Exif()
    exif[0x0112] = 6
    refused = 0
    for data in damaged(file_of(quadrants(), kind, exif=exif), 120, kind):
        try:
            assert read_photo(data, 8).shape == (3, 8, 8)
        except ValueError as error:
            assert str(error).startswith(("expected a ", "expected an "))
            refused += 1
    assert refused > 10


def test_the_example_comes_with_the_wheel():
    """No network and no pooch, which would fetch what is not there."""
    code = (
        "import socket, sys; sys.modules['pooch'] = None; from course_lib.classroom import"
        " example_photo\n"
    )
    code += "socket.socket.connect = None; print(*example_photo((40, 60)).shape)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["3", "40", "60"], done.stderr


def test_the_example_is_a_photo():
    photo = example_photo(64)
    assert (
        photo.shape == (3, 64, 64)
        and photo.std() > 0.2
        and photo.min() < -0.8
        and photo.max() > 0.6
    )


def test_the_classroom_is_imported_without_image_and_video_libraries():
    code = (
        "import sys, course_lib.classroom; print([m for m in ('av', 'PIL', 'skimage') if m in"
        " sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.strip() == "[]", done.stderr


# -------------------------------------------------------------------------------------------- clips


def clip(frames=24, height=48, width=64):
    """(t h w 3) uint8: brighter in red with time, quadrants of green and blue that tell the axes
    apart.
    """
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.linspace(0, 230, frames, dtype=np.uint8)[:, None, None]
    video[:, : height // 2, :, 1] = 200
    video[:, :, : width // 2, 2] = 200
    return video


def to_bytes(tensor):
    """(t h w 3) in 0 ... 255 of (t 3 h w) in [-1, 1]."""
    return ((tensor + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def reds(tensor):
    """Red of every frame: which one it is."""
    return to_bytes(tensor)[..., 0].mean(axis=(1, 2))


def encoded(video, container, codec, pixels="yuv420p"):
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25)
        stream.height, stream.width, stream.pix_fmt = *video.shape[1:3], pixels
        for picture in video:
            out.mux(
                stream.encode(
                    av.VideoFrame.from_ndarray(picture, format="rgb24").reformat(format=pixels)
                )
            )
        out.mux(stream.encode(None))
    return file.getvalue()


MP4 = write_clip(clip(), 12)
KINDS = {
    "mp4": MP4,
    "webm vp9": encoded(clip(), "webm", "libvpx-vp9"),
    "webm vp8": encoded(clip(), "webm", "libvpx"),
    "mkv": encoded(clip(), "matroska", "libx264"),
    "avi": encoded(clip(), "avi", "mpeg4"),
    "mov": encoded(clip(), "mov", "mpeg4"),
    "mpegts": encoded(clip(), "mpegts", "libx264"),
    "gif": encoded(clip(), "gif", "gif", "rgb8"),
}


@pytest.mark.parametrize("given", ["uint8", "float array", "float tensor"])
def test_a_clip_that_is_written_can_be_read(given):
    video = clip()
    floats = (video.transpose(0, 3, 1, 2) / 127.5 - 1).astype(np.float32)
    data = write_clip(
        {"uint8": video, "float array": floats, "float tensor": torch.from_numpy(floats)}[given], 12
    )
    back = read_clip(data, 24, (48, 64))
    assert back.shape == (24, 3, 48, 64) and back.dtype == torch.float32
    assert abs(to_bytes(back) - video).mean() < 2.5
    with av.open(io.BytesIO(data)) as container:
        stream = container.streams.video[0]
        assert stream.codec_context.name == "h264" and stream.codec_context.pix_fmt == "yuv420p"
        assert stream.average_rate == 12 and float(stream.duration * stream.time_base) == 2


@pytest.mark.parametrize(
    ("frames", "height", "width"), [(1, 16, 16), (2, 1, 1), (3, 17, 32), (5, 32, 19), (4, 31, 33)]
)
def test_an_odd_side_gets_its_last_line_twice(frames, height, width):
    video = clip(frames, height, width)
    even = (height + height % 2, width + width % 2)
    back = to_bytes(read_clip(write_clip(video, 5), frames, even))
    assert abs(back[:, :height, :width] - video).mean() < 8
    assert (
        abs(back[:, -1] - back[:, -2]).mean() < 8
        and abs(back[:, :, -1] - back[:, :, -2]).mean() < 8
    )


FLOATS = torch.from_numpy(clip(2).transpose(0, 3, 1, 2) / 127.5 - 1)


@pytest.mark.parametrize(
    ("fps", "written"),
    [
        (1, 1),
        (29.97, Fraction(2997, 100)),
        (30000 / 1001, Fraction(30000, 1001)),
        (Fraction(24000, 1001), Fraction(24000, 1001)),
        (np.float32(12.5), Fraction(25, 2)),
        (np.int64(25), 25),
        (59.94, Fraction(5994, 100)),
        (240, 240),
    ],
)
def test_any_rate_is_written_as_it_is(fps, written, untyped):
    with av.open(io.BytesIO(write_clip(clip(4), fps))) as container:
        stream = container.streams.video[0]
        assert stream.average_rate == written
        times = [frame.pts * stream.time_base for frame in container.decode(stream)]
    assert np.allclose(np.diff([float(t) for t in times]), float(1 / written), atol=1e-4)


@pytest.mark.parametrize(
    "kind", [torch.float16, torch.bfloat16, torch.float32, torch.float64, np.float16, np.float64]
)
def test_floats_of_any_precision_are_written(kind):
    video = FLOATS.to(kind) if isinstance(kind, torch.dtype) else FLOATS.numpy().astype(kind)
    back = to_bytes(read_clip(write_clip(video, 5), 2, (48, 64)))
    assert abs(back - clip(2)).mean() < 4


def test_a_clip_with_gradients_or_strides_is_written():
    assert write_clip(FLOATS.float().requires_grad_(), 5) == write_clip(FLOATS.float(), 5)
    swapped = torch.from_numpy(clip(2)).permute(0, 3, 1, 2).contiguous().permute(0, 2, 3, 1)
    assert write_clip(swapped, 5) == write_clip(clip(2), 5)


def test_a_larger_rate_factor_makes_a_smaller_file():
    assert len(write_clip(clip(8), 5, crf=40)) < len(write_clip(clip(8), 5))


@pytest.mark.parametrize("crf", [-1, 52, 20.5, "20", None, True])
def test_a_rate_factor_that_is_none_is_refused(crf, untyped):
    with pytest.raises(ValueError, match="crf: expected a whole number from 0 to 51, got"):
        write_clip(clip(2), 5, crf)


@pytest.mark.parametrize("fps", [0, -1, 0.5, 1e9, math.nan, math.inf, "25", None, 25j, True, [25]])
def test_a_rate_that_is_none_is_refused(fps, untyped):
    with pytest.raises(
        ValueError, match=r"expected at (least one|most 1000) frames? per second, got"
    ):
        write_clip(clip(2), fps)


@pytest.mark.parametrize(
    ("video", "said"),
    [
        (FLOATS * 1.5, r"expected floats in \[-1, 1\], got values from -1.5 to 1.2"),
        (FLOATS - 0.01, r"expected floats in \[-1, 1\], got values from -1.01"),
        ((FLOATS + 1) / 2 * 255, r"expected floats in \[-1, 1\], got values from 0 to 230: clamp"),
        ((FLOATS * 9).bfloat16(), r"expected floats in \[-1, 1\], got"),
        (FLOATS / 0, "got values that are not finite"),
        (FLOATS.to(torch.complex64), r"expected images .*got complex64"),
        (FLOATS.int(), r"expected images .*got int32"),
        (FLOATS > 0, r"expected images .*got bool"),
        (FLOATS[:, :2], r"expected images .*got float64 of shape \(2, 2, 48, 64\)"),
        (FLOATS[:, :, :0], r"expected images .*got float64 of shape \(2, 3, 0, 64\)"),
        (FLOATS[None], r"got one of shape \(1, 2, 3, 48, 64\)"),
        (clip(2)[..., :2], r"expected images .*got uint8 of shape \(2, 48, 64, 2\)"),
        (clip(2).tolist(), "expected a clip .*got .*list"),
        (None, "expected a clip .*got .*None"),
        ("clip.mp4", "expected a clip .*got .*str"),
        (FLOATS.to("meta"), "expected images .*got"),
        (FLOATS.to_sparse(), "expected images .*got"),
    ],
)
def test_what_is_no_clip_in_range_is_not_written(video, said, untyped):
    with pytest.raises(ValueError, match=said):
        write_clip(video, 5)


def test_rounding_may_lead_a_little_beyond_the_range():
    assert write_clip(FLOATS * (1 + 1e-4), 5)


@pytest.mark.parametrize(
    "size", [2.5, "8", None, (8,), (8, 8, 8), (8, 2.5), (8, "8"), b"8", [], {}]
)
def test_a_size_is_whole(size, untyped):
    for read in (read_photo, lambda data, size: read_clip(data, 2, size)):
        with pytest.raises(ValueError, match=r"expected a size in whole pixels, .* got"):
            read(file_of(quadrants()), size)


def test_sizes_may_be_of_numpy(untyped):
    assert read_photo(file_of(quadrants()), np.int64(8)).shape == (3, 8, 8)
    assert read_clip(MP4, np.int64(2), [np.int64(4), 6]).shape == (2, 3, 4, 6)


@pytest.mark.parametrize("frames", [0, -1, 2.5, "3", None, [3], math.nan])
def test_frames_are_counted(frames, untyped):
    with pytest.raises(ValueError, match=r"expected at least one frame, got frames="):
        read_clip(MP4, frames, 8)


@pytest.mark.parametrize("data", ["photo.jpg", None, 3, io.BytesIO(b""), [1, 2], np.zeros(3)])
def test_a_file_is_its_bytes(data, untyped):
    for read in (read_photo, lambda data, size: read_clip(data, 2, size)):
        with pytest.raises(ValueError, match=r"expected the bytes of a file, got"):
            read(data, 8)


@pytest.mark.parametrize("kind", [bytearray, memoryview])
def test_bytes_of_other_kinds_are_bytes(kind, untyped):
    assert torch.equal(
        read_photo(kind(file_of(quadrants())), 8), read_photo(file_of(quadrants()), 8)
    )
    assert torch.equal(read_clip(kind(MP4), 2, 8), read_clip(MP4, 2, 8))


@pytest.mark.parametrize(
    ("video", "fps", "said"),
    [
        (clip(), 0, "at least one frame per second, got fps=0"),
        (clip().astype(np.float64), 5, "expected images"),
        (clip()[0], 5, r"got one of shape \(48, 64, 3\)"),
        (clip()[:0], 5, "expected images"),
        (np.full((2, 3, 8, 8), np.nan, np.float32), 5, "not finite"),
    ],
    ids=["no rate", "floats of the wrong order", "one picture", "no frames", "not finite"],
)
def test_a_clip_that_makes_no_sense_is_not_written(video, fps, said):
    with pytest.raises(ValueError, match=said):
        write_clip(video, fps)


@pytest.mark.parametrize("kind", KINDS)
def test_a_clip_of_any_kind_comes_in_order_and_upright(kind):
    back = read_clip(KINDS[kind], 24, (48, 64))
    assert abs(reds(back) - np.linspace(0, 230, 24)).max() < 20
    assert (np.diff(reds(back)[::3]) > 10).all()
    assert abs(to_bytes(back)[..., 1:] - clip()[..., 1:]).mean() < 20  # a GIF has few colours


@pytest.mark.parametrize(
    ("frames", "numbers"), [(1, [0]), (2, [0, 23]), (5, [0, 6, 12, 17, 23]), (24, range(24))]
)
def test_frames_are_spaced_evenly_from_the_first_to_the_last(frames, numbers):
    expected = np.linspace(0, 230, 24, dtype=np.uint8)[list(numbers)]
    assert abs(reds(read_clip(MP4, frames, (48, 64))) - expected).max() < 4.5


def test_a_short_clip_repeats_its_frames():
    back = reds(read_clip(write_clip(clip(3), 5), 7, 16))
    assert abs(back - [0, 0, 115, 115, 115, 230, 230]).max() < 4.5


def test_the_middle_of_a_clip_is_kept_in_the_shape_asked_for():
    back = read_clip(MP4, 2, (8, 4))
    assert back.shape == (2, 3, 8, 4)
    corners = to_bytes(back)[0]
    assert (
        corners[0, 0, 2] > 150
        and corners[0, -1, 2] < 50
        and corners[0, 0, 1] > 150
        and corners[-1, 0, 1] < 50
    )


@pytest.mark.parametrize("turns", [1, 2, 3])
def test_a_clip_is_turned_as_its_phone_was_held(turns):
    """The matrix of a track (ISO 14496-12, 8.3.2) takes (x, y) to (a x + c y, b x + d y), y
    downwards.
    """
    one = 1 << 16
    # quarters, clockwise
    a, b, c, d = {1: (0, one, -one, 0), 2: (-one, 0, 0, -one), 3: (0, -one, one, 0)}[turns]
    data = bytearray(MP4)
    at = data.index(b"tkhd") + 44
    assert struct.unpack(">5i", data[at : at + 20]) == (one, 0, 0, 0, one)
    data[at : at + 20] = struct.pack(">5i", a, b, 0, c, d)
    expected = np.rot90(clip(), -turns, axes=(1, 2))
    assert abs(to_bytes(read_clip(bytes(data), 24, expected.shape[1:3])) - expected).mean() < 2.5


def test_packets_that_are_no_frames_do_not_shift_the_choice(monkeypatch):
    right = read_clip(MP4, 5, 16)
    for wrong in (19, 40):
        monkeypatch.setattr(media, "_count_packets", lambda data, wrong=wrong: wrong)
        assert torch.equal(read_clip(MP4, 5, 16), right)


def test_only_the_chosen_frames_are_kept(monkeypatch):
    kept = []
    monkeypatch.setattr(
        media, "_fit", lambda image, sides, fit=media._fit: kept.append(1) or fit(image, sides)
    )
    read_clip(MP4, 4, 16)
    assert len(kept) == 4


def test_a_clip_that_is_too_long_is_refused_before_it_is_decoded(monkeypatch):
    monkeypatch.setattr(media, "MAX_FRAMES", 23)
    monkeypatch.setattr(media, "_decode", None)
    with pytest.raises(ValueError, match="at most 23 frames; this one has more: cut it shorter"):
        read_clip(MP4, 4, 16)


def test_a_file_that_lies_about_its_length_is_refused_while_it_is_decoded(monkeypatch):
    monkeypatch.setattr(media, "_count_packets", lambda data: 4)
    monkeypatch.setattr(media, "MAX_FRAMES", 23)
    with pytest.raises(ValueError, match="at most 23 frames"):
        read_clip(MP4, 4, 16)


def sound(cover: bool):
    """A file with sound alone, or with sound and the picture of its cover."""
    file = io.BytesIO()
    with av.open(file, "w", format="mp4") as out:
        voice = out.add_stream("aac", rate=8000)
        frame = av.AudioFrame.from_ndarray(
            np.zeros((1, 1024), np.float32), format="fltp", layout="mono"
        )
        frame.sample_rate = 8000
        if cover:
            still = out.add_stream("png", rate=1)
            still.width, still.height, still.pix_fmt = 60, 40, "rgb24"
            still.disposition = av.stream.Disposition.attached_pic
            out.mux(still.encode(av.VideoFrame.from_ndarray(quadrants(), format="rgb24")))
        out.mux(voice.encode(frame))
        out.mux(voice.encode(None))
    return file.getvalue()


def playlist(path):
    """A text that makes players open another file."""
    head = "#EXTM3U\n#EXT-X-VERSION:3\n#EXT-X-TARGETDURATION:2\n"
    return f"{head}#EXTINF:2,\n{path}\n#EXT-X-ENDLIST\n".encode()


def test_what_is_not_a_clip_is_refused_with_a_reason(tmp_path):
    (tmp_path / "secret.mp4").write_bytes(MP4)
    cases = {
        "expected a whole video file .* cannot be read": [
            b"",
            b"no video at all",
            bytes(10_000),
            file_of(quadrants()),
            file_of(quadrants(), "JPEG"),
            playlist(tmp_path / "secret.mp4"),
            f"ffconcat version 1.0\nfile {tmp_path / 'secret.mp4'}\n".encode(),
            MP4[: MP4.index(b"moov")],
        ],
        "expected a whole video file; this one is damaged": [MP4[: MP4.index(b"moov") + 300]],
        "holds no moving image": [sound(cover=False), sound(cover=True)],
        "breaks off before its end": [front(MP4)[:-1], front(MP4)[:-1000]],
        "at least one frame, got frames=0": [MP4],
    }
    for said, files in cases.items():
        for data in files:
            with pytest.raises(ValueError, match=said):
                read_clip(data, 0 if "frames=0" in said else 3, 8)


def front(mp4):
    """The same clip with its index before its data, as files for the web have it."""
    boxes, at = {}, 0
    while at < len(mp4):
        size, kind = struct.unpack(">I4s", mp4[at : at + 8])
        boxes[kind], at = mp4[at : at + size], at + size
    index = bytearray(boxes[b"moov"])
    at = index.index(b"stco") + 8
    (count,) = struct.unpack(">I", index[at : at + 4])
    for place in range(at + 4, at + 4 + 4 * count, 4):
        (offset,) = struct.unpack(">I", index[place : place + 4])
        index[place : place + 4] = struct.pack(">I", offset + len(index))
    return boxes[b"ftyp"] + bytes(index) + boxes.get(b"free", b"") + boxes[b"mdat"]


def test_a_clip_with_its_index_in_front_is_read_whole():
    assert torch.equal(read_clip(front(MP4), 24, 16), read_clip(MP4, 24, 16))


def flipped(data, seed):
    """The file with one to three bits turned over."""
    chance = random.Random(seed)
    broken = bytearray(data)
    for _ in range(1 + seed % 3):
        broken[chance.randrange(len(broken))] ^= 1 << chance.randrange(8)
    return bytes(broken)


def outcomes(kind, times=40):
    """How a clip with flipped bits is read: refused, right, or with other frames."""
    right = read_clip(KINDS[kind], 24, 16)
    counts = {"refused": 0, "right": 0, "wrong": 0}
    for seed in range(times):
        try:
            off = (read_clip(flipped(KINDS[kind], seed), 24, 16) - right).abs().max()
            counts["right" if off < 0.05 else "wrong"] += 1
        except ValueError as error:
            assert str(error).startswith(("expected a ", "expected an "))
            counts["refused"] += 1
    return counts


def test_the_checksums_of_matroska_are_compared():
    """A flip in a part without one, such as the padding, changes no frame."""
    found = outcomes("mkv")
    assert found["wrong"] == 0 and found["refused"] > 25


@pytest.mark.parametrize("kind", ["mp4", "mov", "avi", "mpegts"])
def test_what_a_decoder_notices_is_refused(kind):
    found = outcomes(kind)
    assert found["refused"] >= 4 * found["wrong"]


def test_a_stream_that_is_damaged_before_its_end_is_refused():
    data = bytearray(KINDS["mpegts"])
    for packet in range(len(data) // 188 // 2 * 188, len(data) * 3 // 4, 188):
        data[packet + 170 : packet + 185] = bytes(15)  # after its stuffing
    with pytest.raises(ValueError, match="expected a whole video file; this one is damaged"):
        read_clip(bytes(data), 3, 8)


def test_of_a_stream_that_breaks_off_what_is_there_is_read():
    data = KINDS["mkv"]
    numbers = reds(read_clip(data[: len(data) - 500], 3, 8))
    assert numbers[0] < 5 and 50 < numbers[1] < 115 and numbers[2] < 200


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_clip_is_read_or_refused_and_nothing_else(kind):
    for data in damaged(KINDS[kind], 30, kind):
        try:
            assert read_clip(data, 3, 8).shape == (3, 3, 8, 8)
        except ValueError as error:
            assert str(error).startswith(("expected a ", "expected an "))


# --------------------------------------------------------------------------------- writing a photo


@pytest.mark.parametrize("image", [photo_of := quadrants(), torch.from_numpy(photo_of)])
def test_an_image_is_written_pixel_by_pixel(image):
    assert (np.asarray(Image.open(io.BytesIO(write_photo(image)))) == quadrants()).all()
    floats = read_photo(write_photo(image), quadrants().shape[:2])
    for precise in (floats, floats.double(), floats.numpy()):
        assert (np.asarray(Image.open(io.BytesIO(write_photo(precise)))) == quadrants()).all()


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 7), np.uint8), torch.zeros(1, 3, 5, 7), torch.full((3, 5, 7), 1.5)],
    ids=["flat", "batch", "beyond"],
)
def test_what_is_no_image_is_not_written(image):
    with pytest.raises(ValueError, match="expected"):
        write_photo(image)
