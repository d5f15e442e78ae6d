"""What a notebook imports: exercises that check themselves, quizzes, explorers, figures, progress."""

from course_lib.doctor import doctor

from .exercise import exercise, mark
from .explore import choices, explore, slider
from .figures import figure, image_grid, live_curve, show, show_clip, show_images
from .live import train_live
from .plots import clouds, lines, show_lines
from .progress import progress, record_quiz
from .quiz import flashcards, quiz
from .scorecard import scorecard
from .views import clip_views

__all__ = [
    "choices",
    "clip_views",
    "clouds",
    "doctor",
    "exercise",
    "explore",
    "figure",
    "flashcards",
    "image_grid",
    "lines",
    "live_curve",
    "mark",
    "progress",
    "quiz",
    "record_quiz",
    "scorecard",
    "show",
    "show_clip",
    "show_images",
    "show_lines",
    "slider",
    "train_live",
]
