"""Every note that a photo or a clip carries about its looks is honoured; each is planted here."""

import io
import struct
import zlib
from fractions import Fraction

import av
import numpy as np
import pytest
import torch
from av.video.reformatter import ColorPrimaries, ColorTrc
from PIL import Image, ImageCms

from course_lib.media import read_clip, read_photo

RED, GREEN, BLUE = (255, 0, 0), (0, 255, 0), (0, 0, 255)


def plain(colour, mode="RGB", size=(6, 6)):
    return Image.new(mode, size, colour)


def file_of(image, kind="PNG", **options):
    file = io.BytesIO()
    image.save(file, kind, **options)
    return file.getvalue()


def seen(data, size=4):
    """The colour in the middle of a photo, 0 ... 255."""
    return ((read_photo(data, size)[:, size // 2, size // 2] + 1) * 127.5).numpy()


def assert_looks(data, colour, within=2.0):
    assert abs(seen(data) - colour).max() <= within + 0.01, seen(data)


# ---------------------------------------------------------------- ICC profiles, made by hand

SRGB_COLUMNS = {  # of a profile, adapted to D50
    "r": (0.4360, 0.2225, 0.0139),
    "g": (0.3851, 0.7169, 0.0971),
    "b": (0.1431, 0.0606, 0.7139),
}


def profile_of(space, tags, connection=b"XYZ "):
    """An ICC profile of version 2: a header, a table of tags, and the tags (ICC.1:2001-04)."""
    table, bodies, at = [], b"", 128 + 4 + 12 * len(tags)
    for name, body in tags.items():
        body += bytes(-len(body) % 4)
        table.append(struct.pack(">4sII", name, at + len(bodies), len(body)))
        bodies += body
    head = struct.pack(">I4sI4s4s4s", at + len(bodies), b"", 0x02400000, b"mntr", space, connection)
    head += struct.pack(">6H", 2020, 1, 1, 0, 0, 0) + b"acsp" + bytes(28)
    head += struct.pack(">3i", 0xF6D6, 0x10000, 0xD32D)  # the light is D50
    head += bytes(128 - len(head))
    return head + struct.pack(">I", len(tags)) + b"".join(table) + bodies


def xyz(values):
    return b"XYZ " + bytes(4) + struct.pack(">3i", *(round(v * 65536) for v in values))


def curve(gamma):
    return b"curv" + bytes(4) + struct.pack(">IH", 1, round(gamma * 256))


def text(words):
    return b"desc" + bytes(4) + struct.pack(">I", len(words) + 1) + words.encode() + bytes(79)


def rgb_profile(order="rgb", gamma=2.2):
    """Of sRGB's own primaries, in another order: with "grb" the first channel is green."""
    tags = {b"desc": text("by hand"), b"wtpt": xyz((0.9642, 1, 0.8249))}
    for channel, whose in zip("rgb", order, strict=True):
        tags[f"{channel}XYZ".encode()] = xyz(SRGB_COLUMNS[whose])
        tags[f"{channel}TRC".encode()] = curve(gamma)
    return profile_of(b"RGB ", tags)


def grey_profile(gamma):
    white = xyz((0.9642, 1, 0.8249))
    return profile_of(b"GRAY", {b"desc": text("grey"), b"wtpt": white, b"kTRC": curve(gamma)})


def cmyk_profile(cyan_is):
    """Every ink is black but cyan alone, which has a colour (Lab) of its own; no ink is white."""

    def lab(lightness, a, b):
        return bytes([round(lightness * 2.55), a + 128, b + 128])

    nodes = [lab(0, 0, 0)] * 16
    nodes[0], nodes[0b1000] = lab(100, 0, 0), lab(*cyan_is)
    ramp = bytes(range(256))
    unit = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    table = b"mft1" + bytes(4) + bytes([4, 3, 2, 0]) + unit + ramp * 4 + b"".join(nodes) + ramp * 3
    tags = {b"desc": text("inks"), b"wtpt": xyz((0.9642, 1, 0.8249)), b"A2B0": table}
    return profile_of(b"CMYK", tags, b"Lab ")


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "WEBP", "TIFF"])
def test_a_photo_is_shown_in_the_colours_of_its_profile(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    for order, expected in {"rgb": RED, "grb": GREEN, "brg": BLUE}.items():
        data = file_of(plain(RED), kind, icc_profile=rgb_profile(order), **options)
        assert_looks(data, expected, 3)
    # 55 / 255 of the light is 128 on a screen
    linear = file_of(plain((55, 55, 55)), kind, icc_profile=rgb_profile(gamma=1), **options)
    assert_looks(linear, (128, 128, 128), 2)


def test_a_profile_of_srgb_changes_nothing():
    srgb = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    colours = np.random.default_rng(0).integers(0, 256, (40, 40, 3), dtype=np.uint8)
    with_profile, without = (
        read_photo(file_of(Image.fromarray(colours), icc_profile=profile), 40)
        for profile in (srgb, None)
    )
    assert (with_profile - without).abs().max() <= 1 / 127


def test_transparency_and_palettes_keep_their_profile():
    swapped = {"icc_profile": rgb_profile("grb")}
    half = file_of(plain((255, 0, 0, 128), "RGBA"), **swapped)
    assert_looks(half, (127, 255, 127))
    palette = Image.new("P", (6, 6), 1)
    palette.putpalette([0, 0, 255, 255, 0, 0])
    assert_looks(file_of(palette, **swapped), GREEN)
    assert_looks(file_of(palette, transparency=1, **swapped), (255, 255, 255))
    assert_looks(file_of(palette, transparency=0, **swapped), GREEN)
    assert_looks(file_of(plain(RED), transparency=RED, **swapped), (255, 255, 255))
    linear = {"icc_profile": grey_profile(1)}
    assert_looks(file_of(plain((55, 255), "LA"), **linear), (128, 128, 128))
    assert_looks(file_of(plain((55, 0), "LA"), **linear), (255, 255, 255))


def test_grey_has_profiles_too():
    for mode, value in (("L", 55), ("I;16", 55 * 257)):
        for kind in ("PNG", "TIFF"):
            data = file_of(plain(value, mode), kind, icc_profile=grey_profile(1))
            assert_looks(data, (128, 128, 128))
    # grey under the profile of a colour space is the grey of that space
    for kind in ("PNG", "JPEG"):
        data = file_of(plain(55, "L"), kind, icc_profile=rgb_profile(gamma=1))
        assert_looks(data, (128, 128, 128))


@pytest.mark.parametrize("kind", ["JPEG", "TIFF"])
def test_inks_are_those_of_their_profile(kind):
    paper, cyan = plain((0, 0, 0, 0), "CMYK", (16, 16)), plain((255, 0, 0, 0), "CMYK", (16, 16))
    profile = cmyk_profile((53, 80, 67))  # Lab of sRGB's red
    assert_looks(file_of(paper, kind, icc_profile=profile), (255, 255, 255), 3)
    assert_looks(file_of(cyan, kind, icc_profile=profile), RED, 12)
    assert_looks(file_of(cyan, kind), (0, 255, 255), 3)  # without: plain cyan


def test_lab_is_converted_with_a_profile_and_without():
    srgb, lab = ImageCms.createProfile("sRGB"), ImageCms.createProfile("LAB")
    red = ImageCms.profileToProfile(plain((200, 60, 40)), srgb, lab, outputMode="LAB")
    for options in ({}, {"icc_profile": ImageCms.ImageCmsProfile(lab).tobytes()}):
        assert_looks(file_of(red, "TIFF", **options), (200, 60, 40), 4)


@pytest.mark.parametrize(
    "profile",
    [
        rgb_profile("grb")[:200],
        b"no profile",
        bytes(500),
        rgb_profile("grb")[:36] + b"nono" + rgb_profile("grb")[40:],
        grey_profile(1),
        cmyk_profile((53, 80, 67)),
    ],
    ids=["cut off", "text", "zeros", "unsigned", "of grey", "of inks"],
)
def test_a_profile_that_is_broken_or_of_other_channels_is_left_out(profile):
    for kind in ("PNG", "JPEG"):
        assert_looks(file_of(plain(RED), kind, icc_profile=profile), RED)


# ---------------------------------------------------------------- what stands for a profile


def with_chunks(png, **chunks):
    """A PNG with more chunks, right after its header."""
    new = b""
    for kind, body in chunks.items():
        check = zlib.crc32(kind.encode() + body)
        new += struct.pack(">I", len(body)) + kind.encode() + body + struct.pack(">I", check)
    return png[:33] + new + png[33:]


def gamma(value):
    return struct.pack(">I", round(value * 100_000))


def primaries(*xy, white=(0.3127, 0.329)):
    return struct.pack(">8I", *(round(v * 100_000) for v in (*white, *xy)))


SWAPPED = primaries(0.30, 0.60, 0.64, 0.33, 0.15, 0.06)  # the first channel is green


def test_a_png_states_its_gamma_and_its_primaries():
    grey = file_of(plain((55, 55, 55)))
    assert_looks(with_chunks(grey, gAMA=gamma(1)), (128, 128, 128), 1)
    assert_looks(with_chunks(file_of(plain(55, "L")), gAMA=gamma(1)), (128, 128, 128), 1)
    assert_looks(with_chunks(grey, gAMA=gamma(1 / 2.2)), (55, 55, 55), 0)
    assert_looks(with_chunks(grey, gAMA=gamma(1 / 1.8)), (70, 70, 70), 3)
    red = file_of(plain(RED))
    assert_looks(with_chunks(red, cHRM=SWAPPED), GREEN)
    assert_looks(with_chunks(red, cHRM=SWAPPED, gAMA=gamma(1 / 2.2)), GREEN)
    # another white is white nevertheless
    warm = primaries(0.64, 0.33, 0.30, 0.60, 0.15, 0.06, white=(0.3457, 0.3585))
    assert_looks(with_chunks(file_of(plain((255, 255, 255))), cHRM=warm), (255, 255, 255), 1)
    clear = file_of(plain((55, 55, 55, 0), "RGBA"))
    assert_looks(with_chunks(clear, gAMA=gamma(1)), (255, 255, 255), 0)


def test_what_says_it_more_precisely_counts():
    grey = file_of(plain((55, 55, 55)))
    assert_looks(with_chunks(grey, sRGB=b"\0", gAMA=gamma(1)), (55, 55, 55), 0)
    profiled = file_of(plain(RED), icc_profile=rgb_profile("grb"))
    assert_looks(with_chunks(profiled, gAMA=gamma(1), cHRM=SWAPPED), GREEN)
    assert_looks(with_chunks(profiled, cICP=bytes([1, 13, 0, 1])), RED)


def test_notes_that_make_no_sense_are_left_out():
    grey = file_of(plain((55, 55, 55)))
    for chunks in (
        {"gAMA": gamma(0)},
        {"gAMA": b"\xff" * 4},
        {"cHRM": bytes(32)},
        {"cHRM": primaries(0.3, 0.3, 0.3, 0.3, 0.3, 0.3)},
        {"cHRM": b"\xff" * 32},
        {"cICP": b"\0"},
        {"cICP": bytes([77, 99, 0, 1])},
        {"pHYs": bytes(9)},
        {"pHYs": struct.pack(">IIB", 1, 4_000_000_000, 0)},
    ):
        assert_looks(with_chunks(grey, **chunks), (55, 55, 55), 0)


def test_a_png_of_a_wider_space_is_brought_to_srgb():
    """Red of sRGB is (234, 51, 35) in Display P3; a third of white's light in PQ is grey."""
    assert_looks(with_chunks(file_of(plain((234, 51, 35))), cICP=bytes([12, 13, 0, 1])), RED)
    white = round(255 * 0.5807)  # of PQ at 203 cd/m^2
    assert_looks(
        with_chunks(file_of(plain((white,) * 3)), cICP=bytes([9, 16, 0, 1])), (255,) * 3, 2
    )


def test_a_camera_says_adobe_rgb_in_its_exif():
    """sRGB's green is (144, 255, 60) in Adobe RGB."""
    for space, option, expected in ((0xFFFF, "R03", GREEN), (2, None, GREEN), (1, "R98", None)):
        exif = Image.Exif()
        exif.get_ifd(0x8769)[0xA001] = space
        if option:
            exif.get_ifd(0x8769)[0xA005] = {1: option}
        exif[0x010F] = "a camera"
        data = file_of(plain((144, 255, 60)), "PNG", exif=exif)
        assert_looks(data, expected or (144, 255, 60), 3)


# ---------------------------------------------------------------- upright, square, the first


def corner(kind, orientation, **options):
    """A photo 40 wide and 24 high, red where row 0 and column 0 are stored."""
    pixels = np.full((24, 40, 3), 255, np.uint8)
    pixels[:12, :20] = RED
    exif = Image.Exif()
    exif[0x0112] = orientation
    if kind == "WEBP":
        options["lossless"] = True
    return file_of(Image.fromarray(pixels), kind, exif=exif, **options)


# where row 0 and column 0 are to be seen: (top, left)
CORNERS = {
    1: (0, 0),
    2: (0, 1),
    3: (1, 1),
    4: (1, 0),
    5: (0, 0),
    6: (0, 1),
    7: (1, 1),
    8: (1, 0),
}


@pytest.mark.parametrize("orientation", CORNERS)
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF", "AVIF"])
def test_every_kind_of_photo_is_turned_by_its_note(kind, orientation):
    height, width = (24, 40) if orientation < 5 else (40, 24)
    photo = read_photo(corner(kind, orientation), (height, width))
    green = (photo[1] + 1) / 2  # 0 where it is red
    quarters = green.unflatten(0, (2, -1)).unflatten(2, (2, -1)).mean((1, 3))
    assert divmod(int(quarters.argmin()), 2) == CORNERS[orientation]
    assert quarters.min() < 0.1 and quarters.sum() > 2.8


@pytest.mark.parametrize("orientation", [0, 9, 255])
def test_a_turn_that_there_is_not_is_none(orientation):
    assert torch.equal(
        read_photo(corner("PNG", orientation), (24, 40)), read_photo(corner("PNG", 1), (24, 40))
    )


def test_a_broken_note_is_none():
    for note in (b"Exif\0\0", b"Exif\0\0MM\0*\xff\xff\xff\xff", b"Exif\0\0II*\0\x08\0\0\0\xff\xff"):
        assert_looks(file_of(plain(RED), "JPEG", exif=note), RED)


def wide(image):
    """How wide the red square in the middle of a photo is to its height."""
    red = read_photo(image, (60, 60))[1] < 0
    return float(red.sum(1).max() / red.sum(0).max())


@pytest.mark.parametrize(("across", "down", "shape"), [(1, 2, 2), (2, 1, 0.5), (3, 3, 1)])
@pytest.mark.parametrize("how", ["jfif", "png", "dpi"])
def test_pixels_that_are_not_square_are_shown_so(how, across, down, shape):
    """Twice as many pixels down as across: each is twice as wide as high."""
    pixels = np.full((60, 60, 3), 255, np.uint8)
    pixels[20:40, 20:40] = RED
    image = Image.fromarray(pixels)
    if how == "png":
        note = struct.pack(">IIB", across, down, 0)
        data = with_chunks(file_of(image), pHYs=note)
    else:
        data = file_of(image, "JPEG", quality=95, dpi=(100 * across, 100 * down))
        if how == "jfif":  # a shape without a unit
            at = data.index(b"JFIF\0") + 7
            data = data[:at] + struct.pack(">BHH", 0, across, down) + data[at + 5 :]
    assert wide(data) == pytest.approx(shape, rel=0.12)


def test_a_lying_photo_has_lying_pixels():
    exif = Image.Exif()
    exif[0x0112] = 6
    pixels = np.full((60, 60, 3), 255, np.uint8)
    pixels[20:40, 20:40] = RED
    for kind in ("JPEG", "TIFF"):
        data = file_of(Image.fromarray(pixels), kind, dpi=(100, 200), exif=exif)
        assert wide(data) == pytest.approx(0.5, rel=0.12)


@pytest.mark.parametrize("kind", ["GIF", "PNG", "WEBP", "TIFF"])
def test_of_an_animation_the_first_image_is_read(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    rest = [plain(GREEN), plain(BLUE)]
    data = file_of(plain(RED), kind, save_all=True, append_images=rest, duration=90, **options)
    assert_looks(data, RED)


def test_grey_of_16_bits_may_have_a_clear_value():
    pixels = np.full((8, 8), 40_000, np.uint16)
    grey = Image.fromarray(pixels)
    assert_looks(file_of(grey), (156,) * 3)
    clear = with_chunks(file_of(grey), tRNS=struct.pack(">H", 40_000))
    assert_looks(clear, (255,) * 3)


# ---------------------------------------------------------------- clips


def clip(frames=24, height=48, width=64):
    """(t h w 3) uint8: red grows with time; quadrants of green and blue tell the axes apart."""
    video = np.zeros((frames, height, width, 3), np.uint8)
    video[..., 0] = np.linspace(0, 230, frames, dtype=np.uint8)[:, None, None]
    video[:, : height // 2, :, 1] = 200
    video[:, :, : width // 2, 2] = 200
    return video


def written(
    frames, container="mp4", codec="libx264", pixels="yuv420p", times=None, shape=None, **given
):
    """A file of frames (arrays or av's own), its stream and context set up as given."""
    file = io.BytesIO()
    with av.open(file, "w", format=container) as out:
        stream = out.add_stream(codec, rate=25, options=given.pop("options", {}))
        first = frames[0]
        height, width = (
            first.shape[:2] if isinstance(first, np.ndarray) else (first.height, first.width)
        )
        stream.height, stream.width, stream.pix_fmt = height, width, pixels
        if shape:
            stream.codec_context.sample_aspect_ratio = shape
        if "matrix" in given:
            stream.set_display_matrix(given.pop("matrix"))
        for name, value in given.items():
            setattr(stream.codec_context, name, value)
        for i, frame in enumerate(frames):
            if isinstance(frame, np.ndarray):
                kind = "rgba" if frame.shape[-1] == 4 else "rgb24"
                frame = av.VideoFrame.from_ndarray(frame, format=kind).reformat(format=pixels)
            if times is not None:
                frame.pts, frame.time_base = times[i], Fraction(1, 25)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return file.getvalue()


def to_bytes(tensor):
    return ((tensor + 1) * 127.5).permute(0, 2, 3, 1).numpy()


def reds(tensor):
    return to_bytes(tensor)[..., 0].mean(axis=(1, 2))


ONE = 1 << 16
# a, b, c, d of (x, y) -> (ax + cy, bx + dy), and the same done to an array (t h w 3)
MATRICES = {
    "as it is": ((1, 0, 0, 1), lambda v: v),
    "left to right": ((-1, 0, 0, 1), lambda v: v[:, :, ::-1]),
    "top to bottom": ((1, 0, 0, -1), lambda v: v[:, ::-1]),
    "half a turn": ((-1, 0, 0, -1), lambda v: v[:, ::-1, ::-1]),
    "a quarter clockwise": ((0, 1, -1, 0), lambda v: np.rot90(v, -1, (1, 2))),
    "a quarter back": ((0, -1, 1, 0), lambda v: np.rot90(v, 1, (1, 2))),
    "transposed": ((0, 1, 1, 0), lambda v: v.transpose(0, 2, 1, 3)),
    "transposed across": ((0, -1, -1, 0), lambda v: v.transpose(0, 2, 1, 3)[:, ::-1, ::-1]),
    "no area": ((0, 0, 0, 0), lambda v: v),
}


@pytest.mark.parametrize("container", ["mp4", "mov"])
@pytest.mark.parametrize("how", MATRICES)
def test_a_clip_is_turned_and_mirrored_by_its_matrix(how, container):
    (a, b, c, d), done = MATRICES[how]
    video = clip(4)
    matrix = [a * ONE, b * ONE, 0, c * ONE, d * ONE, 0, 0, 0, 1 << 30]
    data = written([*video], container, matrix=matrix, options={"crf": "10"})
    expected = done(video)
    back = to_bytes(read_clip(data, 4, expected.shape[1:3]))
    assert abs(back - expected).mean() < 3


def test_a_clip_may_lean():
    half = round(ONE * 0.5**0.5)
    matrix = [half, half, 0, -half, half, 0, 0, 0, 1 << 30]
    data = written(
        [*np.full((2, 40, 40, 3), 255, np.uint8)],
        matrix=matrix,
    )
    back = to_bytes(read_clip(data, 1, (57, 57)))[0, ..., 0]
    assert back[28, 28] > 250 and back[2, 2] < 5  # a square on its corner


@pytest.mark.parametrize("container", ["mp4", "matroska", "avi"])
@pytest.mark.parametrize("shape", [Fraction(2), Fraction(1, 2), Fraction(16, 11)])
def test_pixels_of_a_clip_need_not_be_square(container, shape):
    codec = "mpeg4" if container == "avi" else "libx264"
    square = np.zeros((2, 64, 64, 3), np.uint8)
    square[:, 24:40, 24:40] = 255
    data = written([*square], container, codec, shape=shape)
    white = to_bytes(read_clip(data, 1, (64, 64)))[0, ..., 0] > 127
    assert white.sum(1).max() / white.sum(0).max() == pytest.approx(float(shape), rel=0.15)


def test_lying_pixels_stand_when_the_clip_is_turned():
    square = np.zeros((2, 64, 64, 3), np.uint8)
    square[:, 24:40, 24:40] = 255
    matrix = [0, ONE, 0, -ONE, 0, 0, 0, 0, 1 << 30]
    data = written([*square], shape=Fraction(2), matrix=matrix)
    white = to_bytes(read_clip(data, 1, (64, 64)))[0, ..., 0] > 127
    assert white.sum(1).max() / white.sum(0).max() == pytest.approx(0.5, rel=0.15)


@pytest.mark.parametrize("container", ["mp4", "matroska", "webm"])
def test_frames_are_spaced_by_their_times(container):
    """Twelve frames in half a second, then twelve of half a second each."""
    times = [*range(12), *range(12, 12 + 12 * 12, 12)]
    codec = "libvpx-vp9" if container == "webm" else "libx264"
    data = written([*clip()], container, codec, times=times)
    expected = [0, 14, 17, 20, 23]  # at 0, 36, 72, 108 and 144 twenty-fifths of a second
    back = reds(read_clip(data, 5, 16))
    assert abs(back - np.linspace(0, 230, 24)[expected]).max() < 6
    assert abs(reds(read_clip(data, 24, 16))[6] - 130).max() < 12  # and not frame 6, which is 60


def test_a_little_unevenness_is_none():
    jitter = np.random.default_rng(0).integers(-3, 4, 24)
    data = written([*clip()], "matroska", times=(np.arange(24) * 10 + jitter).tolist())
    assert abs(reds(read_clip(data, 24, 16)) - np.linspace(0, 230, 24)).max() < 6


def test_what_an_edit_list_cuts_away_is_not_there():
    data = bytearray(written([*clip()]))
    at = data.index(b"elst") + 4
    version, count = data[at], struct.unpack(">I", data[at + 4 : at + 8])[0]
    assert (version, count) == (0, 1)
    duration, start = struct.unpack(">II", data[at + 8 : at + 16])
    tick = duration // 24  # of the film's clock; the track's is another
    scale = struct.unpack(">I", data[(m := data.index(b"mdhd")) + 16 : m + 20])[0]
    struct.pack_into(">II", data, at + 8, tick * 12, start + 6 * scale // 25)
    back = reds(read_clip(bytes(data), 12, 16))
    assert abs(back - np.linspace(0, 230, 24)[6:18]).max() < 6


# kr, kb of the matrices (ITU-T H.273)
KS = {1: (0.2126, 0.0722), 4: (0.30, 0.11), 5: (0.299, 0.114), 6: (0.299, 0.114)}
KS |= {7: (0.212, 0.087), 9: (0.2627, 0.0593)}


def to_rgb(stored, ks, full):
    """8-bit numbers of Y, Cb, Cr to R, G, B by the definition."""
    y, cb, cr = stored
    luma, scale = (y / 255, 255) if full else ((y - 16) / 219, 224)
    kr, kb = ks
    r = luma + 2 * (1 - kr) * (cr - 128) / scale
    b = luma + 2 * (1 - kb) * (cb - 128) / scale
    g = (luma - kr * r - kb * b) / (1 - kr - kb)
    return np.clip(np.array([r, g, b]), 0, 1) * 255


def stored_frame(stored, pixels, width=64, height=64):
    frame = av.VideoFrame(width, height, pixels)
    for plane, component, value in zip(frame.planes, frame.format.components, stored, strict=True):
        if component.bits == 8:
            plane.update(np.full(plane.buffer_size, round(value), np.uint8).tobytes())
        else:
            wide = round(value * (1 << component.bits - 8))
            plane.update(np.full(plane.buffer_size // 2, wide, np.uint16).tobytes())
    return frame


def middle(data):
    return to_bytes(read_clip(data, 1, 8))[0, 4, 4]


STORED = (120, 90, 200)


@pytest.mark.parametrize("full", [False, True], ids=["limited", "full"])
@pytest.mark.parametrize("matrix", KS)
@pytest.mark.parametrize("pixels", ["yuv420p", "yuv444p", "yuv420p10le"])
def test_colours_are_those_of_the_matrix_and_the_range(pixels, matrix, full):
    frame = stored_frame(STORED, pixels)
    frame.colorspace, frame.color_range = matrix, 2 if full else 1
    data = written(
        [frame], "matroska", "ffv1", pixels, colorspace=matrix, color_range=2 if full else 1
    )
    assert abs(middle(data) - to_rgb(STORED, KS[matrix], full)).max() < 4


def test_a_large_clip_that_does_not_say_is_bt_709():
    for (width, height), matrix in {(64, 64): 6, (64, 720): 1, (1280, 64): 1}.items():
        frame = stored_frame(STORED, "yuv420p", width, height)
        data = written([frame], "matroska", "ffv1", "yuv420p")
        assert abs(middle(data) - to_rgb(STORED, KS[matrix], False)).max() < 3


def test_full_range_of_motion_jpeg():
    data = written([stored_frame(STORED, "yuvj420p")], "avi", "mjpeg", "yuvj420p")
    assert abs(middle(data) - to_rgb(STORED, KS[6], True)).max() < 6


def test_colours_that_cannot_be_converted_are_refused():
    frame = stored_frame(STORED, "yuv420p")
    frame.colorspace = 8
    data = written([frame], "matroska", "ffv1", "yuv420p", colorspace=8)
    with pytest.raises(ValueError, match="expected a clip in usual colours, got the matrix 8"):
        read_clip(data, 1, 8)


def level(share):
    """A grey of that share of the range, 8-bit limited."""
    return (16 + 219 * share, 128, 128)


@pytest.mark.parametrize(
    ("transfer", "share", "expected"),
    [
        (ColorTrc.SMPTE2084, 0.5807, 255),  # 203 cd/m^2: plain white
        (ColorTrc.SMPTE2084, 0.75, 255),  # 984 cd/m^2: a light
        (ColorTrc.SMPTE2084, 0.5081, 186),  # 100 cd/m^2: 0.49 of white's light
        (ColorTrc.SMPTE2084, 0, 0),
        (ColorTrc.ARIB_STD_B67, 0.75, 255),
        (ColorTrc.ARIB_STD_B67, 0, 0),
    ],
)
def test_hdr_is_shown_as_on_a_plain_screen(transfer, share, expected):
    frame = stored_frame(level(share), "yuv420p10le")
    tags = {"colorspace": 9, "color_range": 1}
    for name, value in tags.items():
        setattr(frame, name, value)
    tags |= {"color_primaries": ColorPrimaries.BT2020, "color_trc": transfer}
    data = written([frame], "matroska", "ffv1", "yuv420p10le", **tags)
    assert abs(middle(data) - expected).max() < 4


def test_wide_primaries_are_brought_to_srgb():
    """Red of sRGB is (234, 51, 35) in Display P3."""
    red, white = (np.full((16, 16, 3), c, np.uint8) for c in ((234, 51, 35), (255, 255, 255)))
    for pixels, expected in ((red, RED), (white, (255, 255, 255))):
        p3 = {"color_primaries": ColorPrimaries.SMPTE432}
        data = written([pixels], "matroska", "ffv1", "bgr0", **p3)
        assert abs(middle(data) - expected).max() < 4


@pytest.mark.parametrize(
    ("container", "codec", "pixels"),
    [
        ("webm", "libvpx-vp9", "yuva420p"),
        ("webm", "libvpx", "yuva420p"),
        ("mov", "qtrle", "argb"),
        ("mov", "png", "rgba"),
        ("mov", "prores_ks", "yuva444p10le"),
        ("matroska", "ffv1", "yuva420p"),
    ],
)
def test_what_is_transparent_in_a_clip_is_white(container, codec, pixels):
    video = clip(3)
    alpha = np.full((3, 48, 64, 1), 255, np.uint8)
    alpha[:, :, 32:] = 0
    options = {"auto-alt-ref": "0"} if codec == "libvpx" else {}
    data = written([*np.concatenate([video, alpha], -1)], container, codec, pixels, options=options)
    back = to_bytes(read_clip(data, 3, (48, 64)))
    assert abs(back[:, :, :30] - video[:, :, :30]).mean() < 5
    assert back[:, :, 34:].min() > 250


@pytest.mark.parametrize(
    ("container", "codec", "options"),
    [
        ("matroska", "libx264", {"x264-params": "interlaced=1", "crf": "1"}),
        ("matroska", "mpeg2video", {"flags": "+ildct+ilme", "qscale": "1", "b": "9M"}),
    ],
)
def test_of_an_interlaced_clip_one_moment_is_shown(container, codec, options):
    """The first field is white, the second black; both together would be grey."""
    video = np.zeros((4, 64, 64, 3), np.uint8)
    video[:, ::2] = 255
    data = written([*video], container, codec, options=options)
    assert to_bytes(read_clip(data, 2, (16, 16))).min() > 225


def test_the_stream_that_is_meant_to_be_shown_is_read():
    file = io.BytesIO()
    kinds = av.stream.Disposition
    with av.open(file, "w", format="matroska") as out:
        streams = []
        for shown in (kinds.original, kinds.default):
            streams.append(out.add_stream("libx264", rate=25))
            streams[-1].width = streams[-1].height = 32
            streams[-1].pix_fmt, streams[-1].disposition = "yuv420p", shown
        for stream, grey in zip(streams, (0, 255), strict=True):
            frame = av.VideoFrame.from_ndarray(np.full((32, 32, 3), grey, np.uint8), "rgb24")
            out.mux(stream.encode(frame))
        for stream in streams:
            out.mux(stream.encode(None))
    assert middle(file.getvalue()).min() > 250
