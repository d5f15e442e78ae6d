"""What a photo or a frame looks like: all that its file says about it, done to its pixels.

Pillow and PyAV are imported where they are used: not every notebook needs them.
"""

import io
import math
from collections.abc import Iterator
from typing import Any

import numpy as np

from course_lib import colours

PIXEL_SHAPES = (0.1, 10)  # width over height; anything else is a damaged file
NEAR = 0.05  # of 1, as libpng has it: a gamma that is nearer to sRGB's 1 / 2.2 is sRGB
HD = (1280, 576)  # a clip wider or higher than this, and which does not say, is BT.709
ROWS = 256  # of a photo, converted at a time

# ITU-T H.273: the numbers of primaries and transfers in clips and PNG files.
PRIMARIES = {9: colours.BT_2020, 11: colours.CINEMA_P3, 12: colours.DISPLAY_P3}
HDR = {16: colours.pq_light, 18: colours.hlg_light}
UNSPECIFIED = 2

# The tags of EXIF.
ORIENTATION, CAMERA, COLOUR_SPACE, OPTIONS, OPTION = 0x0112, 0x8769, 0xA001, 0xA005, 1


# ---------------------------------------------------------------- photos


def photo_as_seen(data: bytes) -> Any:
    """Read a photo as a PIL image in RGB on white, in sRGB, upright, with square pixels.

    Honoured are EXIF's orientation and Adobe RGB; ICC profiles; of a PNG also cICP, gAMA and cHRM;
    transparency of every kind; pixels that are not square.  Notes that make no sense are left out,
    as browsers do.  Of an animation it is the first image.  Raises what Pillow does.
    """
    from PIL import Image, ImageOps

    image = Image.open(io.BytesIO(data))
    lies = _exif(image, ORIENTATION) in (5, 6, 7, 8)
    image.load()
    shape = _pixel_shape(image.info)
    in_adobe_rgb = _is_adobe_rgb(image)
    try:
        upright = ImageOps.exif_transpose(image)
    except Exception:  # a broken note can make its reader raise anything
        upright = image
    coloured = _in_srgb(_of_eight_bits(upright), _cicp(data), in_adobe_rgb)
    if coloured.mode == "RGBA":
        coloured = Image.alpha_composite(Image.new("RGBA", coloured.size, "white"), coloured)
    return square(coloured.convert("RGB"), 1 / shape if lies else shape)


def square(image: Any, shape: float) -> Any:
    """Stretch a PIL image whose pixels are `shape` times as wide as high; nothing is shrunk."""
    from PIL import Image

    low, high = PIXEL_SHAPES
    if not low <= shape <= high or math.isclose(shape, 1, abs_tol=0.01):
        return image
    width, height = image.size
    stretched = (round(width * shape), height) if shape > 1 else (width, round(height / shape))
    return image.resize(stretched, Image.Resampling.BICUBIC)


def _pixel_shape(info: dict) -> float:
    """Return a pixel's width over its height, from the densities that a photo states."""
    across, down = 1, 1
    if "aspect" in info:  # PNG: pixels per unit, whatever the unit is
        across, down = info["aspect"]
    elif info.get("jfif_unit") == 0:
        across, down = info["jfif_density"]
    elif "dpi" in info:
        across, down = info["dpi"]
    try:
        return float(down) / float(across)
    except (ArithmeticError, TypeError, ValueError):
        return 1.0


def _exif(image: Any, *tags: int) -> Any:
    """Return what a photo's EXIF says under a tag, or under one of a part of it; None if nothing.

    Everything in it may be broken, and then it says nothing.
    """
    try:
        *parts, tag = tags
        exif = image.getexif()
        for part in parts:
            exif = exif.get_ifd(part)
        return exif.get(tag)
    except Exception:  # a broken note can make its reader raise anything
        return None


def _is_adobe_rgb(image: Any) -> bool:
    """Tell whether a camera says that it wrote Adobe RGB (DCF 2.0), which it does without ICC."""
    space = _exif(image, CAMERA, COLOUR_SPACE)
    return space == 2 or (space == 0xFFFF and _exif(image, OPTIONS, OPTION) in ("R03", "R03\0"))


def _cicp(data: bytes) -> tuple[int, int]:
    """Return the numbers of primaries and transfer that a PNG states (cICP)."""
    for kind, body in _chunks(data):
        if kind == b"cICP" and len(body) == 4:
            return body[0], body[1]
        if kind == b"IDAT":
            break
    return UNSPECIFIED, UNSPECIFIED


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Yield the kind and the body of each chunk of a PNG; nothing of any other file."""
    at = 8 if data.startswith(b"\x89PNG\r\n\x1a\n") else len(data)
    while at + 8 <= len(data):
        size = int.from_bytes(data[at : at + 4], "big")
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + size]
        at += 12 + size


def _of_eight_bits(image: Any) -> Any:
    """Bring grey of more than 8 bits to 8, where Pillow would clip it at 255."""
    from PIL import Image

    if not image.mode.startswith(("I", "F")):
        return image
    values = np.nan_to_num(np.asarray(image, dtype=np.float64))
    low, high = (0, 65535) if image.mode.startswith("I;16") else (values.min(), values.max())
    grey = (values - low) / max(high - low, 1e-12) * 255
    eight = Image.fromarray(grey.round().astype(np.uint8))
    eight.info = {key: value for key, value in image.info.items() if key != "transparency"}
    clear = image.info.get("transparency")
    if isinstance(clear, int):
        eight.putalpha(Image.fromarray(np.where(values == clear, 0, 255).astype(np.uint8)))
    return eight


# ---------------------------------------------------------------- the colours of photos


def _in_srgb(image: Any, cicp: tuple[int, int], in_adobe_rgb: bool) -> Any:
    """Convert an image of 8 bits to RGB or RGBA in sRGB.

    What says more precisely which colours these are counts: cICP, ICC, sRGB, gAMA and cHRM, EXIF.
    """
    from PIL import Image

    info = image.info
    if image.has_transparency_data:
        grey = image.mode in ("L", "LA", "La")  # stays grey, for a profile of grey
        whole = image.convert("LA" if grey else "RGBA")
        alpha = whole.getchannel("A")
        image = whole.convert("L" if grey else "RGB")
    else:
        alpha = None
    if image.mode not in ("L", "RGB", "CMYK", "LAB"):
        image = image.convert("L" if image.mode == "1" else "RGB")

    primaries, transfer = cicp
    if transfer != UNSPECIFIED:
        image = _by_numbers(image.convert("RGB"), primaries, transfer)
    elif image.mode == "LAB" or info.get("icc_profile"):
        image = _by_profile(image, info.get("icc_profile"))
    elif "srgb" not in info and ("gamma" in info or "chromaticity" in info):
        image = _by_gamma(image.convert("RGB"), info.get("gamma"), info.get("chromaticity"))
    elif in_adobe_rgb:
        image = _convert(image.convert("RGB"), colours.gamma_light(563 / 256), colours.ADOBE_RGB)

    image = image.convert("RGB")
    if alpha is not None:
        image = Image.merge("RGBA", (*image.split(), alpha))
    return image


def _by_profile(image: Any, profile: bytes | None) -> Any:
    """Convert by an ICC profile; as it is where the profile is broken or of other channels.

    Grey by the profile of a colour space is its grey axis.
    """
    from PIL import ImageCms

    try:
        given = ImageCms.ImageCmsProfile(io.BytesIO(profile)) if profile else None
        space = given.profile.xcolor_space.strip() if given else None
        if image.mode == "LAB" and space != "Lab":
            given, space = ImageCms.createProfile("LAB"), "Lab"
        if image.mode == "L" and space == "RGB":
            image = image.convert("RGB")
        modes = {"RGB": "RGB", "GRAY": "L", "CMYK": "CMYK", "Lab": "LAB"}
        if modes.get(space) != image.mode:
            return image
        srgb = ImageCms.createProfile("sRGB")
        intent = ImageCms.Intent.RELATIVE_COLORIMETRIC
        black = ImageCms.Flags.BLACKPOINTCOMPENSATION
        return ImageCms.profileToProfile(image, given, srgb, intent, "RGB", flags=black)
    except Exception:  # a broken profile can make its reader raise anything
        return image


def _by_gamma(image: Any, gamma: float | None, chromaticity: tuple | None) -> Any:
    """Convert by a PNG's gAMA and cHRM; what is nearly sRGB, or makes no sense, stays as it is."""
    known = gamma is not None and 0.05 < gamma < 20
    near = not known or abs(gamma * 2.2 - 1) < NEAR
    light = colours.srgb_light if near else colours.gamma_light(1 / gamma)
    primaries = (*chromaticity[2:], *chromaticity[:2]) if chromaticity else colours.SRGB
    if np.allclose(primaries, colours.SRGB, atol=0.002):
        return image if near else _convert(image, light, colours.SRGB)
    try:
        return _convert(image, light, primaries)
    except ValueError:
        return image


def _by_numbers(image: Any, primaries: int, transfer: int) -> Any:
    """Convert by H.273's numbers; other ones than the few that differ visibly count as sRGB."""
    if primaries not in PRIMARIES and transfer not in HDR:
        return image
    light = HDR.get(transfer, colours.srgb_light)
    return _convert(image, light, PRIMARIES.get(primaries, colours.SRGB))


def _convert(image: Any, light: colours.Curve, primaries: tuple[float, ...]) -> Any:
    from PIL import Image

    pixels = np.asarray(image)
    strips = [pixels[top : top + ROWS] for top in range(0, len(pixels), ROWS)]
    converted = [colours.to_srgb(strip, light, primaries) for strip in strips]
    return Image.fromarray(np.concatenate(converted))


# ---------------------------------------------------------------- frames


def frame_as_seen(frame: Any, shape: float) -> Any:
    """Return a PyAV frame as a PIL image in RGB on white, in sRGB, upright, with square pixels.

    shape: a pixel's width over its height.  Honoured are the frame's matrix, range, primaries and
    transfer (HDR as on a plain screen: what is brighter than its white is white); transparency; the
    display matrix, mirrored ones too.  Of an interlaced frame the first field is taken, which is
    one moment.  Raises ValueError for colours that FFmpeg cannot convert.
    """
    from PIL import Image

    wide = frame.color_primaries in PRIMARIES or frame.color_trc in HDR
    clear = any(component.is_alpha for component in frame.format.components)
    kind = ("rgba64le" if clear else "rgb48le") if wide else ("rgba" if clear else "rgb24")
    try:
        pixels = frame.to_ndarray(format=kind, src_colorspace=_matrix(frame))
    except OSError as error:
        raise ValueError(
            f"expected a clip in usual colours, got the matrix {frame.colorspace} of H.273"
        ) from error
    if frame.interlaced_frame and frame.height > 1:
        pixels = pixels[::2]
        shape = shape / 2
    alpha = pixels[..., 3:] / np.iinfo(pixels.dtype).max  # h w 1, or h w 0
    pixels = pixels[..., :3]
    if wide:
        light = HDR.get(frame.color_trc, colours.srgb_light)
        primaries = PRIMARIES.get(frame.color_primaries, colours.SRGB)
        pixels = colours.to_srgb(pixels, light, primaries)
    if clear:
        pixels = (255 + alpha * (pixels.astype(np.float32) - 255)).round().astype(np.uint8)
    image = square(Image.fromarray(np.ascontiguousarray(pixels)), shape)
    return _turned(image, frame.side_data.get("DISPLAYMATRIX"))


def _matrix(frame: Any) -> int | None:
    """Return the matrix to assume for a frame that states none: players go by its size."""
    from av.video.reformatter import Colorspace

    is_hd = frame.width >= HD[0] or frame.height > HD[1]
    return Colorspace.ITU709 if frame.colorspace == UNSPECIFIED and is_hd else None


def _turned(image: Any, matrix: Any) -> Any:
    """Turn and mirror a PIL image by a display matrix, which takes (x, y) to (ax + cy, bx + dy).

    y points down (ISO 14496-12, 8.3.2).  Turns by less than a degree, and matrices that leave no
    area, are none.
    """
    from PIL import Image, ImageOps

    if matrix is None:
        return image
    a, b, _, c, d = (value / (1 << 16) for value in np.frombuffer(bytes(matrix), np.int32)[:5])
    if abs(a * d - b * c) < 1e-4:
        return image
    if a * d - b * c < 0:  # mirrored: first left to right, then turned
        image = ImageOps.mirror(image)
        a, b = -a, -b
    degrees = math.degrees(math.atan2(b, a))  # clockwise
    quarters = round(degrees / 90)
    if abs(degrees - 90 * quarters) > 1:
        return image.rotate(-degrees, Image.Resampling.BICUBIC, expand=True)
    turns = {
        1: Image.Transpose.ROTATE_270,
        2: Image.Transpose.ROTATE_180,
        3: Image.Transpose.ROTATE_90,
    }
    return image.transpose(turns[quarters % 4]) if quarters % 4 else image
