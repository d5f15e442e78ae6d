"""Load torch, the slowest import of all, with a sign of life."""

from course_lib.busy import busy

with busy("Loading torch"):
    import torch  # noqa: F401
