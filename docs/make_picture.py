"""Draw docs/world.png, the picture of the README: what one clip of the little world knows about itself.

python docs/make_picture.py [FILE]
"""

import sys
from pathlib import Path

import matplotlib
import numpy as np
from matplotlib.colors import hsv_to_rgb
from PIL import Image

from course_lib.world import render, sample_scene

SIZE, COLUMNS, GAP = 112, 7, 3  # pixels of a picture, pictures in a row, pixels between them
SEGMENTS = np.array(  # backdrop, floor, and three things in colours of Okabe and Ito
    [[245, 245, 245], [215, 215, 215], [0, 114, 178], [230, 159, 0], [0, 158, 115]], dtype=np.uint8
)


def rows(clip) -> list[np.ndarray]:
    """Colour, depth, normals, objects and motion of a clip, each as pictures (t h w 3) uint8."""
    depth, flow = np.asarray(clip.depth), np.asarray(clip.flow)
    near, far = np.percentile(depth, [1, 99])
    closeness = 1 - ((depth - near) / (far - near)).clip(0, 1)
    speed = np.linalg.norm(flow, axis=-1)
    angle = np.arctan2(flow[..., 1], flow[..., 0]) / (2 * np.pi) % 1
    wheel = np.stack([angle, (speed / speed.max()).clip(0, 1), np.ones_like(angle)], axis=-1)
    return [
        np.asarray(clip.rgb),
        _bytes(matplotlib.colormaps["viridis"](closeness)[..., :3]),
        _bytes(np.asarray(clip.normal) / 2 + 0.5),
        SEGMENTS[np.asarray(clip.segmentation)],
        _bytes(hsv_to_rgb(wheel)),
    ]


def _bytes(picture: np.ndarray) -> np.ndarray:
    return (picture * 255).round().astype(np.uint8)


def main(path: Path) -> None:
    """Render one clip and write its rows, as frames side by side, into one small PNG."""
    clip = render(sample_scene(8, count=3, motion="bounce", camera="orbit"), size=SIZE, frames=17)
    shown = np.linspace(0, 15, COLUMNS).round().astype(int)  # the last frame has no motion after it
    pad = ((0, 0), (0, GAP), (0, GAP), (0, 0))
    lines = [np.concatenate(list(np.pad(row[shown], pad, constant_values=255)), axis=1) for row in rows(clip)]
    sheet = np.concatenate(lines, axis=0)[:-GAP, :-GAP]
    Image.fromarray(sheet).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("world.png"))
