"""Chapter 00 opens with a clip of the little world, rendered on the spot."""

from course_lib.classroom.clips import show_clip
from course_lib.world import render, sample_scene


def show() -> None:
    """Render a clip, show it with its caption, and train nothing."""
    clip = render(sample_scene(8, count=3, motion="bounce", camera="orbit"), size=88, frames=17)
    alt = "Seven frames: coloured objects on a patterned floor, one of them bouncing."
    show_clip(clip.rgb, frames=7, alt=alt)
    print(clip.caption)
