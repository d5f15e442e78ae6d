"""Grades for other programs: a CSV for Canvas, Moodle and spreadsheets, and Gradescope's
results.json.
"""

import csv
import io
import re
from collections.abc import Sequence

from course_lib.grading.pages.page import number, visible
from course_lib.grading.records import ExerciseMark, Grade, QuizMark

# Canvas finds a student's columns by their place: "Student", "ID", then these in this order,
# "Section" the last.
CANVAS = ("ID", "SIS User ID", "SIS Login ID", "Integration ID", "Root Account", "Section")
SIS = {"SIS User ID", "SIS Login ID", "Integration ID", "Root Account"}
# Canvas's own name of the total: it skips this column, and would take "Total" for an assignment
TOTAL = "Final Points"


def grades_csv(grades: Sequence[Grade]) -> str:
    """One row a student, sorted by name; columns: Student, those of the roster, every exercise and
    quiz, the total.

    Canvas accepts the file as it is: "ID" and "Section" are always there, empty without a roster,
    and it then goes by the name.  In Moodle the columns are mapped by hand; a row of possible
    points would stop its import.
    """
    marks = {mark.id: None for grade in grades for mark in grade.exercises}
    marks |= {f"{quiz.topic}.quiz": None for grade in grades for quiz in grade.quizzes}
    roster = [name for name in _roster_columns(grades) if name not in {"Student", *marks, TOTAL}]
    table = io.StringIO()
    # RFC 4180; a lone \r or \n in a name is quoted with it
    writer = csv.writer(table, lineterminator="\r\n")
    writer.writerow([*map(_defused, ["Student", *roster]), *marks, TOTAL])
    for grade in sorted(
        grades, key=lambda grade: (grade.student.casefold(), grade.student, grade.digest)
    ):
        who = [grade.student, *(grade.details.get(name, "") for name in roster)]
        writer.writerow(
            [
                *map(_defused, who),
                *(_earned(grade).get(id, "") for id in marks),
                number(grade.earned),
            ]
        )
    return table.getvalue()


def _roster_columns(grades: Sequence[Grade]) -> list[str]:
    given = list(dict.fromkeys(name for grade in grades for name in grade.details))
    needed = {
        "ID",
        "Section",
        *given,
        *({"SIS User ID", "SIS Login ID"} if SIS & set(given) else ()),
    }
    return [name for name in CANVAS if name in needed] + [
        name for name in given if name not in CANVAS
    ]


def _earned(grade: Grade) -> dict[str, str]:
    exercises = {mark.id: number(mark.earned) for mark in grade.exercises}
    return exercises | {f"{quiz.topic}.quiz": number(quiz.earned) for quiz in grade.quizzes}


def _defused(cell: str) -> str:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{cell}" if re.match(r"[\t\r\n]|\s*[=+\-@＝＋－＠]", cell) else cell


def gradescope(grade: Grade) -> dict:
    """The grade in the form of Gradescope's results.json: a test for each exercise and each quiz.

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
    cases = f"{mark.right} of {mark.cases} cases right" if mark.cases else ""
    lines = "\n".join(f"{where}, line {line}:  {code}" for where, line, code in mark.lines)
    printed = f"Your code printed:\n{mark.printed}" if mark.printed else ""
    shown = f"Shown: {mark.shown}" if mark.shown else ""
    head = f"{mark.status}; {cases}" if cases else mark.status
    return _test(
        mark.id, mark.earned, mark.points, [head, mark.sentence, shown, lines, printed, *mark.notes]
    )


def _quiz_test(quiz: QuizMark) -> dict:
    answered = [question for question in quiz.questions if question.status in ("wrong", "changed")]
    stories = [
        "\n".join(filter(None, (q.prompt, q.given and f"You answered: {q.given}", q.feedback)))
        for q in answered
    ]
    head = f"{quiz.earned} of {quiz.points} questions right"
    return _test(f"{quiz.topic}.quiz", float(quiz.earned), quiz.points, [head, quiz.note, *stories])


def _test(name: str, earned: float, points: int, paragraphs: list[str]) -> dict:
    return {
        "name": name,
        "score": round(earned, 2),
        "max_score": points,
        "status": "passed" if earned >= points else "failed",
        "output": visible("\n\n".join(filter(None, paragraphs))),
        "output_format": "text",
    }
