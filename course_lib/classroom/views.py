"""Images of what a clip of the little world knows about itself, and of what a network looks at."""

import numpy as np

from course_lib.classroom.figures import Array
from course_lib.media import to_images
from course_lib.world import Clip

# Backdrop, floor, and up to three objects in colours of Okabe and Ito.
SEGMENTS = np.array(
    [[245, 245, 245], [215, 215, 215], [0, 114, 178], [230, 159, 0], [0, 158, 115]], dtype=np.uint8
)
ENLARGED_PIXELS = 160  # the longer side of a small image, about
DARKEST = 0.125  # of full light


def clip_views(clip: Clip) -> dict[str, np.ndarray]:
    """Draw colour, depth, normals, objects and motion of one clip, each (t h w 3) uint8.

    Depth: bright is near.  Normals: x, y, z as red, green, blue.  Motion: the hue is the direction,
    the strength the speed; the last frame has none.
    """
    import matplotlib
    from matplotlib.colors import hsv_to_rgb

    depth = np.asarray(clip.depth)
    flow = np.asarray(clip.flow)
    near, far = np.percentile(depth, [1, 99])
    closeness = 1 - ((depth - near) / (far - near)).clip(0, 1)
    speed = np.linalg.norm(flow, axis=-1)
    angle = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    strength = (speed / max(speed.max(), 1e-6)).clip(0, 1)
    hue_saturation_value = np.stack([angle, strength, np.ones_like(angle)], axis=-1)
    return {
        "rgb": np.asarray(clip.rgb),
        "depth": _bytes(matplotlib.colormaps["viridis"](closeness)[..., :3]),
        "normal": _bytes(np.asarray(clip.normal) / 2 + 0.5),
        "segmentation": SEGMENTS[np.asarray(clip.segmentation)],
        "flow": _bytes(hsv_to_rgb(hue_saturation_value)),
    }


def _bytes(image: np.ndarray) -> np.ndarray:
    return (image * 255).round().astype(np.uint8)


def shade_by_map(images: Array, maps: Array) -> np.ndarray:
    """Shade images by a map over their patches, to (n s*h s*w 3) uint8, as `image_grid` takes them.

    Small images are enlarged, s times, to about 160 pixels, so that patches need not be whole
    numbers of pixels.  images: (n h w 3) uint8 or (n 3 h w) float in [-1, 1].  maps: (n rows
    columns), at least 0; the largest value of all maps is full light, so that maps can be compared,
    and 0 leaves an eighth of it.  Raises ValueError unless there is a map for every image.
    """
    images = to_images(images).astype(np.float32)
    maps = np.asarray(maps, dtype=np.float32)
    if maps.ndim != 3 or len(maps) != len(images) or not maps.size:
        raise ValueError(
            f"expected a map (rows columns) for each of {len(images)} images, got shape"
            f" {maps.shape}"
        )
    height, width = images.shape[1:3]
    scale = max(1, ENLARGED_PIXELS // max(height, width))
    rows = np.arange(scale * height) * maps.shape[1] // (scale * height)
    columns = np.arange(scale * width) * maps.shape[2] // (scale * width)

    light = DARKEST + (1 - DARKEST) * maps / max(maps.max(initial=0), 1e-12)
    large = images.repeat(scale, axis=1).repeat(scale, axis=2)
    return (large * light[:, rows][:, :, columns, None]).round().astype(np.uint8)
