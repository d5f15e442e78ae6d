"""Official weights in: one file per paper maps the names and shapes of each layout to ours."""

from course_lib.convert.load import load_official

__all__ = ["load_official"]
