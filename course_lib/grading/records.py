"""What is stored: a student's work as it was handed in, and the grade it earned.

All records are frozen pydantic models, stored as JSON.  A damaged file raises pydantic's
ValidationError.
"""

from typing import Literal

from pydantic import BaseModel, ConfigDict

Status = Literal["passed", "partly right", "wrong", "not attempted", "missing"]
QuestionStatus = Literal["right", "wrong", "not answered", "changed"]


class Record(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class Cell(Record):
    """A code cell: its label ("cell 12", or "01_ddpm.ipynb, cell 12") and its code."""

    name: str
    source: str


class Work(Record):
    """What one student handed in, read as data.

    details   the further columns of the roster ("ID", "Email address", ...), in the roster's order
    files     names of the files it was read from
    cells     code cells of all notebooks, in order
    answers   saved quiz answers by topic, as classroom/quiz.py stores them:
              {question id: {digest, result}}
    notes     sentences on files that could not be read in full or at all
    """

    student: str
    details: dict[str, str] = {}
    files: tuple[str, ...] = ()
    cells: tuple[Cell, ...] = ()
    answers: dict[str, dict] = {}
    notes: tuple[str, ...] = ()


class AnswerInfo(Record):
    """What a jail reports of an answer before it runs it; see program.Program.

    missing  why there is no answer, or ""
    """

    missing: str = ""
    notes: tuple[str, ...] = ()
    replaced: tuple[str, ...] = ()
    unresolved: tuple[str, ...] = ()
    outside: tuple[str, ...] = ()


class ExitReport(Record):
    """How an answer's process ended.

    status  its exit code, or minus the signal that ended it
    late    whether it was killed because its time was up
    clean   whether the jail is as it was before and can be used again
    """

    status: int = 0
    late: bool = False
    clean: bool = True


class Assignment(Record):
    """What the whole class is marked on.

    topics   chapters, in order
    quizzes  whether their quizzes count
    seed     of the cases that answers are tried on
    """

    topics: tuple[str, ...]
    quizzes: bool
    seed: int


class ExerciseMark(Record):
    """One exercise: `earned` of `points`, for `right` of `cases` cases.

    sentence       what to tell the student; empty when all is right
    misconception  the name of the declared misconception that the answer shows, if any
    beside         what to say about a second mistake, on another case, if there is one
    shown          the wrong case that the sentence is about, in words:
                   "case 2, with x_start (3, 2, 5, 4) float32, t [0, 4, 6]"
    lines          the student's own lines of a traceback: (cell and function, line number, code)
    printed        the beginning of what the answer printed
    notes          what else the student should know: duplicates, exercises that were replaced, ...
    """

    id: str
    status: Status
    points: int
    earned: float
    right: int
    cases: int
    sentence: str = ""
    misconception: str | None = None
    beside: str = ""
    shown: str = ""
    lines: tuple[tuple[str, int, str], ...] = ()
    printed: str = ""
    notes: tuple[str, ...] = ()


class QuestionMark(Record):
    """One question of a quiz: the student's answer in words, and the bank's feedback on it."""

    id: str
    status: QuestionStatus
    prompt: str
    given: str = ""
    feedback: str = ""


class QuizMark(Record):
    """A quiz, one point per question; `note` says why some or all answers are missing."""

    topic: str
    questions: tuple[QuestionMark, ...]
    note: str = ""

    @property
    def points(self) -> int:
        return len(self.questions)

    @property
    def earned(self) -> int:
        return sum(question.status == "right" for question in self.questions)


class Grade(Record):
    """All that one student earned; `digest` identifies the work and the assignment it is for."""

    student: str
    details: dict[str, str] = {}
    files: tuple[str, ...] = ()
    digest: str
    exercises: tuple[ExerciseMark, ...]
    quizzes: tuple[QuizMark, ...] = ()
    notes: tuple[str, ...] = ()

    @property
    def points(self) -> int:
        return sum(mark.points for mark in (*self.exercises, *self.quizzes))

    @property
    def earned(self) -> float:
        return round(float(sum(mark.earned for mark in (*self.exercises, *self.quizzes))), 2)
