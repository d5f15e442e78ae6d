"""Where the course keeps its files, independent of the working directory."""

from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
DATA = ROOT / "data"
QUIZZES = DATA / "quizzes"
CHECKPOINTS = DATA / "checkpoints"
RESULTS = DATA / "results"
NOTEBOOKS = ROOT / "notebooks"
SOLUTIONS = ROOT / "solutions"
