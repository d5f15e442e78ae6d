"""Draw docs/world.png, the picture in the README: one clip and all that is known about it.

python docs/make_picture.py [FILE]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from course_lib.classroom.views import clip_views
from course_lib.world import render, sample_scene

FRAME_PIXELS = 112  # height and width of a frame
COLUMNS = 7  # frames in a row
GAP_PIXELS = 3  # between two frames


def main(path: Path) -> None:
    """Render one clip and write its views, one row of frames for each, into a small PNG."""
    scene = sample_scene(8, count=3, motion="bounce", camera="orbit")
    clip = render(scene, size=FRAME_PIXELS, frames=17)
    # The last frame has no motion after it, so it is not shown.
    chosen = np.linspace(0, 15, COLUMNS).round().astype(int)

    rows = []
    gaps = ((0, 0), (0, GAP_PIXELS), (0, GAP_PIXELS), (0, 0))
    for view in clip_views(clip).values():
        frames = np.pad(view[chosen], gaps, constant_values=255)
        rows.append(np.concatenate(list(frames), axis=1))
    sheet = np.concatenate(rows, axis=0)[:-GAP_PIXELS, :-GAP_PIXELS]
    Image.fromarray(sheet).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("world.png"))
