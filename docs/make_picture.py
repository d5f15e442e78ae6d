"""Draw docs/world.png, the picture of the README: what one clip of the little world knows about
itself.

python docs/make_picture.py [FILE]
"""

import sys
from pathlib import Path

import numpy as np
from PIL import Image

from course_lib.classroom.views import clip_views
from course_lib.world import render, sample_scene

SIZE, COLUMNS, GAP = 112, 7, 3  # pixels of a picture, pictures in a row, pixels between them


def main(path: Path) -> None:
    """Render one clip and write its views, as frames side by side, into one small PNG."""
    clip = render(sample_scene(8, count=3, motion="bounce", camera="orbit"), size=SIZE, frames=17)
    shown = np.linspace(0, 15, COLUMNS).round().astype(int)  # the last frame has no motion after it
    pad = ((0, 0), (0, GAP), (0, GAP), (0, 0))
    views = [np.pad(view[shown], pad, constant_values=255) for view in clip_views(clip).values()]
    lines = [np.concatenate(list(view), axis=1) for view in views]
    sheet = np.concatenate(lines, axis=0)[:-GAP, :-GAP]
    Image.fromarray(sheet).save(path, optimize=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).with_name("world.png"))
