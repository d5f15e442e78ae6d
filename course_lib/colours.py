"""Colours as a file states them, into sRGB: other primaries, other curves, and HDR on a screen."""

from collections.abc import Callable

import numpy as np

# Where red, green, blue and white lie: x and y in the CIE diagram of 1931.
D65 = (0.3127, 0.3290)
SRGB = (0.64, 0.33, 0.30, 0.60, 0.15, 0.06, *D65)
ADOBE_RGB = (0.64, 0.33, 0.21, 0.71, 0.15, 0.06, *D65)
DISPLAY_P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, *D65)
CINEMA_P3 = (0.680, 0.320, 0.265, 0.690, 0.150, 0.060, 0.314, 0.351)
BT_2020 = (0.708, 0.292, 0.170, 0.797, 0.131, 0.046, *D65)

REFERENCE_WHITE = 203  # cd/m^2 of what is plain white in HDR (ITU-R BT.2408)
HLG_PEAK = 1000  # cd/m^2 of the screen that HLG is made for (BT.2100)
BRADFORD = np.array(
    [[0.8951, 0.2664, -0.1614], [-0.7502, 1.7135, 0.0367], [0.0389, -0.0685, 1.0296]]
)

Curve = Callable[[np.ndarray], np.ndarray]  # stored values in 0 ... 1 to light, 1 being white


def to_srgb(
    pixels: np.ndarray, light: Curve, chromaticities: tuple[float, ...] = SRGB
) -> np.ndarray:
    """Convert (... 3) uint8 or uint16 to (... 3) uint8 in sRGB; what no screen shows is clipped.

    light: from stored values to light.  chromaticities: x and y of red, green, blue and white.
    Raises ValueError for chromaticities between which there are no colours.
    """
    stored = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
    matrix = np.linalg.inv(_to_xyz(SRGB)) @ _to_xyz(chromaticities)
    linear = (light(stored) @ matrix.T.astype(np.float32)).clip(0, 1)
    encoded = np.where(linear <= 0.0031308, 12.92 * linear, 1.055 * linear ** (1 / 2.4) - 0.055)
    return (encoded * 255).round().astype(np.uint8)


def srgb_light(stored: np.ndarray) -> np.ndarray:
    """Return the light of sRGB's curve."""
    return np.where(stored <= 0.04045, stored / 12.92, ((stored + 0.055) / 1.055) ** 2.4)


def gamma_light(gamma: float) -> Curve:
    """Return the curve of a plain power."""
    return lambda stored: stored**gamma


def pq_light(stored: np.ndarray) -> np.ndarray:
    """Return the light of SMPTE 2084 (PQ), which counts to 10,000 cd/m^2."""
    m1, m2 = 2610 / 16384, 2523 / 4096 * 128
    c1, c2, c3 = 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32
    power = stored ** (1 / m2)
    return (np.maximum(power - c1, 0) / (c2 - c3 * power)) ** (1 / m1) * 10_000 / REFERENCE_WHITE


def hlg_light(stored: np.ndarray) -> np.ndarray:
    """Return the light of ARIB B67 (HLG) on the screen of BT.2100; its primaries are BT.2020's."""
    a, b, c = 0.17883277, 0.28466892, 0.55991073
    scene = np.where(stored <= 0.5, stored**2 / 3, (np.exp((stored - c) / a) + b) / 12)
    luminance = scene @ np.array([0.2627, 0.6780, 0.0593], scene.dtype)
    return scene * luminance[..., None] ** 0.2 * HLG_PEAK / REFERENCE_WHITE


def _to_xyz(chromaticities: tuple[float, ...]) -> np.ndarray:
    """Return the matrix from light of these primaries to CIE XYZ, white brought to that of sRGB."""
    x, y = np.array(chromaticities, dtype=float).reshape(4, 2).T
    if not (np.isfinite(x) & np.isfinite(y) & (y > 0)).all():
        raise ValueError(f"expected chromaticities with y above 0, got {chromaticities}")
    columns = np.stack([x / y, np.ones(4), (1 - x - y) / y])  # XYZ of unit luminance
    primaries, white = columns[:, :3], columns[:, 3]
    if abs(np.linalg.det(primaries)) < 1e-6:
        raise ValueError(f"expected primaries that span a triangle, got {chromaticities}")
    matrix = primaries * np.linalg.solve(primaries, white)
    target = np.array([D65[0] / D65[1], 1, (1 - sum(D65)) / D65[1]])
    adapted = np.diag((BRADFORD @ target) / (BRADFORD @ white))
    return np.linalg.solve(BRADFORD, adapted @ BRADFORD @ matrix)
