"""What a notebook imports: exercises that check themselves, quizzes, explorers, figures."""

from course_lib.busy import busy
from course_lib.classroom import loading  # noqa: F401  first of all: it takes a few seconds

# isort: split
from course_lib.doctor import doctor
from course_lib.media import example_photo, read_clip, read_photo, write_clip

from .claims import claim, reading
from .clips import clip_view, film_strips, show_clip
from .exercise import case, exercise, mark
from .explore import choices, explore, patches, sentence, slider, upload
from .figures import figure, image_grid, row_grid, show, show_images, show_rows
from .heroes import show_hero
from .live import live_curve, train_live, with_stored
from .plots import (
    confusion,
    line_plot,
    probability_bars,
    reliability,
    scatter_panels,
    show_lines,
)
from .progress import progress, record_quiz
from .quiz import flashcards, quiz
from .scorecard import parameters, row, scorecard, table
from .views import clip_views, shade_by_map

__all__ = [
    "busy",
    "case",
    "choices",
    "claim",
    "clip_view",
    "clip_views",
    "confusion",
    "doctor",
    "example_photo",
    "exercise",
    "explore",
    "figure",
    "film_strips",
    "flashcards",
    "image_grid",
    "line_plot",
    "live_curve",
    "mark",
    "parameters",
    "patches",
    "probability_bars",
    "progress",
    "quiz",
    "read_clip",
    "read_photo",
    "reading",
    "record_quiz",
    "reliability",
    "row",
    "row_grid",
    "scatter_panels",
    "scorecard",
    "sentence",
    "shade_by_map",
    "show",
    "show_clip",
    "show_hero",
    "show_images",
    "show_lines",
    "show_rows",
    "slider",
    "table",
    "train_live",
    "upload",
    "with_stored",
    "write_clip",
]
