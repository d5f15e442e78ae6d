"""Grades for other programs: a CSV for Canvas, Moodle and spreadsheets, and Gradescope's JSON."""

import csv
import io
import re
from collections.abc import Sequence

from course_lib.grading.pages.page import number, visible
from course_lib.grading.records import ExerciseMark, Grade, QuizMark

# Canvas finds a student's columns by position: "Student", "ID", then these in this order, with
# "Section" last.
CANVAS_COLUMNS = (
    "ID",
    "SIS User ID",
    "SIS Login ID",
    "Integration ID",
    "Root Account",
    "Section",
)
SIS_COLUMNS = {"SIS User ID", "SIS Login ID", "Integration ID", "Root Account"}
# Canvas's own name for the total: it skips this column, and would take "Total" for an assignment.
TOTAL_COLUMN = "Final Points"


def grades_csv(grades: Sequence[Grade]) -> str:
    """Return one row per student, sorted by name.

    Columns: Student, those of the roster, every exercise and quiz, the total.  Canvas accepts the
    file as it is: "ID" and "Section" are always there, empty without a roster, in which case it
    goes by the name.  In Moodle the columns are mapped by hand; a row of possible points would stop
    its import.
    """
    exercises = [mark.id for grade in grades for mark in grade.exercises]
    quizzes = [f"{quiz.topic}.quiz" for grade in grades for quiz in grade.quizzes]
    marks = list(dict.fromkeys(exercises + quizzes))
    taken = {"Student", *marks, TOTAL_COLUMN}
    roster = [name for name in _roster_columns(grades) if name not in taken]
    table = io.StringIO()
    # The line ends of RFC 4180; a lone \r or \n in a name is quoted with it.
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow([*map(_escape_formula, ["Student", *roster]), *marks, TOTAL_COLUMN])
    for grade in sorted(
        grades, key=lambda grade: (grade.student.casefold(), grade.student, grade.digest)
    ):
        who = [grade.student, *(grade.details.get(name, "") for name in roster)]
        earned = {mark.id: number(mark.earned) for mark in grade.exercises}
        earned |= {f"{quiz.topic}.quiz": number(quiz.earned) for quiz in grade.quizzes}
        scores = [earned.get(id, "") for id in marks]
        writer.writerow([*map(_escape_formula, who), *scores, number(grade.earned)])
    return table.getvalue()


def _roster_columns(grades: Sequence[Grade]) -> list[str]:
    given = list(dict.fromkeys(name for grade in grades for name in grade.details))
    needed = {"ID", "Section", *given}
    if SIS_COLUMNS & set(given):
        needed |= {"SIS User ID", "SIS Login ID"}
    first = [name for name in CANVAS_COLUMNS if name in needed]
    return first + [name for name in given if name not in CANVAS_COLUMNS]


def _escape_formula(cell: str) -> str:
    """Return the cell so that no spreadsheet takes it for a formula."""
    return f"'{cell}" if re.match(r"[\t\r\n]|\s*[=+\-@＝＋－＠]", cell) else cell


def gradescope(grade: Grade) -> dict:
    """Return the grade in the form of results.json: a test for each exercise and each quiz.

    Everything is plain text, shown to the student once the grades are published.
    """
    return {
        "score": grade.earned,  # the sum of the rounded scores could differ from it
        "output": visible("\n".join(grade.notes)),
        "output_format": "text",
        "visibility": "after_published",
        "tests": [*map(_exercise_test, grade.exercises), *map(_quiz_test, grade.quizzes)],
    }


def _exercise_test(mark: ExerciseMark) -> dict:
    paragraphs = [
        f"{mark.status}; {mark.right} of {mark.cases} cases right" if mark.cases else mark.status,
        mark.sentence,
        mark.beside,
        f"Shown: {mark.shown}" if mark.shown else "",
        "\n".join(f"{where}, line {line}:  {code}" for where, line, code in mark.lines),
        f"Your code printed:\n{mark.printed}" if mark.printed else "",
        *mark.notes,
    ]
    return _test(mark.id, mark.earned, mark.points, paragraphs)


def _quiz_test(quiz: QuizMark) -> dict:
    paragraphs = [f"{quiz.earned} of {quiz.points} questions right", quiz.note]
    for question in quiz.questions:
        if question.status in ("wrong", "changed"):
            given = question.given and f"You answered: {question.given}"
            lines = filter(None, (question.prompt, given, question.feedback))
            paragraphs.append("\n".join(lines))
    return _test(f"{quiz.topic}.quiz", float(quiz.earned), quiz.points, paragraphs)


def _test(name: str, earned: float, points: int, paragraphs: list[str]) -> dict:
    return {
        "name": name,
        "score": round(earned, 2),
        "max_score": points,
        "status": "passed" if earned >= points else "failed",
        "output": visible("\n\n".join(filter(None, paragraphs))),
        "output_format": "text",
    }
