"""Expected, got and their difference side by side, for answers that can be seen."""

import base64
import io

import numpy as np
import torch
from torch import Tensor

from course_lib.classroom.markup import escape

PANEL_PIXELS = 96  # of the longer side, at least
GAP_PIXELS = 6
MIN_SIDE = 4  # of what is drawn
CHANNELS = (1, 3)


def picture_of(expected: Tensor, got: Tensor) -> str:
    """Draw the sample that differs most as an HTML image; empty for what is not picture-shaped.

    Both share one scale, from their lowest to their highest value.
    """
    if expected.shape != got.shape or expected.is_complex() or expected.dtype == torch.bool:
        return ""
    planes = [_planes(x.double().nan_to_num()) for x in (expected, got)]
    if planes[0] is None or not planes[0].numel():
        return ""
    e, g = planes
    gap = (g - e).abs()
    most = int(gap.flatten(1).amax(1).argmax())
    low = min(float(x[most].min()) for x in planes)
    span = max(float(x[most].max()) for x in planes) - low or 1.0
    largest = float(gap[most].max())
    panels = [(e[most] - low) / span, (g[most] - low) / span, gap[most] / (largest or 1.0)]
    alt = (
        f"Expected, got and their difference as images, left to right; sample {most} of {len(e)},"
        f" largest difference {largest:.3g}"
    )
    source = base64.b64encode(_png(panels)).decode()
    return (
        f'<figure style="margin:.5em 0"><img src="data:image/png;base64,{source}"'
        f' alt="{escape(alt)}" style="max-width:100%">'
        f"<figcaption>expected, got, difference (white: {largest:.3g})</figcaption></figure>"
    )


def _planes(x: Tensor) -> Tensor | None:
    """Return samples (n h w c) of a tensor (... h w c), (... c h w) or (... h w)."""
    if x.ndim >= 3 and x.shape[-1] in CHANNELS:
        planes = x.flatten(0, -4) if x.ndim > 3 else x[None]
    elif x.ndim >= 3 and x.shape[-3] in CHANNELS:
        planes = (x.flatten(0, -4) if x.ndim > 3 else x[None]).movedim(1, -1)
    elif x.ndim >= 2:
        planes = (x.flatten(0, -3) if x.ndim > 2 else x[None])[..., None]
    else:
        return None
    return planes if min(planes.shape[1:3]) >= MIN_SIDE else None


def _png(panels: list[Tensor]) -> bytes:
    from PIL import Image

    height, width, _ = panels[0].shape
    times = max(1, PANEL_PIXELS // max(height, width))
    gap = np.full((height * times, GAP_PIXELS, 3), 255, np.uint8)
    parts = []
    for panel in panels:
        values = (panel.clamp(0, 1) * 255).round().byte().expand(-1, -1, 3).numpy()
        parts += [values.repeat(times, 0).repeat(times, 1), gap]
    file = io.BytesIO()
    Image.fromarray(np.concatenate(parts[:-1], 1)).save(file, "PNG")
    return file.getvalue()
