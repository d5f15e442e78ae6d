"""Every exercise of the course: reference, cases and misconceptions, one module per topic."""

from .base import (
    Exercise,
    Misconception,
    UnknownExercise,
    call,
    exercises,
    find,
    topics,
    with_weights,
)

__all__ = [
    "Exercise",
    "Misconception",
    "UnknownExercise",
    "call",
    "exercises",
    "find",
    "topics",
    "with_weights",
]
