"""Load torch, the slowest import of all, with a sign of life, and let every later cell show one."""

from course_lib.busy import busy, watch_cells

with busy("Loading torch"):
    import torch  # noqa: F401

watch_cells()
