"""The checking engine: what an exercise is, running an answer on its cases, comparing, diagnosing.

exercise   the declaration of an exercise, and the registry that finds it by its id
edits      a wrong answer as an edit of the reference's text
observe    run an answer on the cases and record what it returned, changed and raised
tolerance  equality up to rounding
compare    what differs between an answer's outcome and the reference's
diagnose   the verdict, and the misconception that explains a wrong answer
wording    the sentences that a student reads
"""

from .edits import edit
from .exercise import (
    Exercise,
    UnknownExercise,
    call_by_name,
    check_defaults,
    exercises,
    find_exercise,
    topics,
    with_weights,
)

__all__ = [
    "Exercise",
    "UnknownExercise",
    "call_by_name",
    "check_defaults",
    "edit",
    "exercises",
    "find_exercise",
    "topics",
    "with_weights",
]
