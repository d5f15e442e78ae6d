"""Pictures of what a clip of the little world knows about itself, and of what a network looks at."""

import numpy as np

from course_lib.classroom.figures import to_images
from course_lib.world import Clip

# Backdrop, floor, and up to three things in colours of Okabe and Ito.
SEGMENTS = np.array(
    [[245, 245, 245], [215, 215, 215], [0, 114, 178], [230, 159, 0], [0, 158, 115]], dtype=np.uint8
)


def clip_views(clip: Clip) -> dict[str, np.ndarray]:
    """Colour, depth, normals, objects and motion of one clip, each as pictures (t h w 3) uint8.

    Depth: bright is near.  Normals: x, y, z as red, green, blue.  Motion: the hue is the direction,
    the strength the speed; the last frame has none.
    """
    import matplotlib
    from matplotlib.colors import hsv_to_rgb

    depth, flow = np.asarray(clip.depth), np.asarray(clip.flow)
    near, far = np.percentile(depth, [1, 99])
    closeness = 1 - ((depth - near) / (far - near)).clip(0, 1)
    speed = np.linalg.norm(flow, axis=-1)
    angle = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    wheel = np.stack(
        [angle, (speed / max(speed.max(), 1e-6)).clip(0, 1), np.ones_like(angle)], axis=-1
    )
    return {
        "rgb": np.asarray(clip.rgb),
        "depth": _bytes(matplotlib.colormaps["viridis"](closeness)[..., :3]),
        "normal": _bytes(np.asarray(clip.normal) / 2 + 0.5),
        "segmentation": SEGMENTS[np.asarray(clip.segmentation)],
        "flow": _bytes(hsv_to_rgb(wheel)),
    }


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (picture * 255).round().astype(np.uint8)


def shade_by_map(pictures, maps) -> np.ndarray:
    """Pictures as bright as a map over their patches says, (n s*h s*w 3) uint8, for `image_grid`
    and its like.

    Small pictures are enlarged, s times, to about 160 pixels, so that patches need not be whole
    numbers of pixels. pictures: (n h w 3) uint8 or (n 3 h w) float in [-1, 1]; maps: (n rows
    columns), at least 0.  Each map's largest value is full light, 0 leaves an eighth of it.  Raises
    ValueError unless there is a map for every picture.
    """
    shown, maps = to_images(pictures).astype(np.float32), np.asarray(maps, dtype=np.float32)
    if maps.ndim != 3 or len(maps) != len(shown):
        raise ValueError(
            f"expected a map (rows columns) for each of {len(shown)} pictures, got shape"
            f" {maps.shape}"
        )
    height, width = shown.shape[1:3]
    scale = max(1, 160 // max(height, width))
    rows, columns = (
        np.arange(scale * side) * cells // (scale * side)
        for side, cells in zip((height, width), maps.shape[1:], strict=True)
    )
    light = 0.125 + 0.875 * maps / np.maximum(maps.max((1, 2), keepdims=True), 1e-12)
    large = shown.repeat(scale, axis=1).repeat(scale, axis=2)
    return (large * light[:, rows][:, :, columns, None]).round().astype(np.uint8)
