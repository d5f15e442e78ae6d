"""Grades for other programs: what Canvas, Moodle, spreadsheets and Gradescope accept."""

import csv
import io
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from course_lib.grading.exports import grades_csv, gradescope
from course_lib.grading.records import ExerciseMark, Grade, QuestionMark, QuizMark

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


def mark(id="ddpm.q_sample", earned=2.0, points=2, **more):
    """Return an exercise's mark, passed if all points are earned."""
    status = "passed" if earned == points else "wrong"
    return ExerciseMark(
        **{
            "id": id,
            "status": status,
            "points": points,
            "earned": earned,
            "right": 1,
            "cases": 3,
            **more,
        }
    )


def quiz(topic="ddpm", right=1, wrong=1, **more):
    """Return a quiz with so many right and wrong answers."""
    statuses = ["right"] * right + ["wrong"] * wrong
    questions = [
        QuestionMark(id=f"q{i}", status=status, prompt=f"Question {i}?")
        for i, status in enumerate(statuses)
    ]
    return QuizMark(topic=topic, questions=tuple(questions), **more)


def grade(student="Ada Moreau", *exercises, **more):
    """Return a student's grade."""
    return Grade(student=student, digest="0", exercises=exercises or (mark("ddpm.a"),), **more)


def read(text):
    """Return the header and the rows of a CSV."""
    header, *rows = csv.reader(io.StringIO(text, newline=""))
    return header, rows


def canvas_columns(header):
    """Split a header as Canvas's importer does, following its source.

    Returns the student's columns and the assignments.  Raises ValueError where it refuses the file.
    """
    if len(header) <= 3 or "Student" not in header[0] or "ID" not in header[1]:
        raise ValueError("expected Student, ID")
    n = 3
    if "SIS Login ID" in header[2]:
        n = 4
    elif "SIS User ID" in header[2] and "SIS Login ID" in header[3]:
        n = 5 + ("Integration ID" in header[4])
        n += "Root Account" in header[n - 1]
    if "Section" not in header[n - 1]:
        raise ValueError("expected Section last")
    own = [
        f"{time} {what}" for time in ("Current", "Final") for what in ("Score", "Points", "Grade")
    ]
    return header[:n], [name for name in header[n:] if not any(word in name for word in own)]


# ---------------------------------------------------------------------------------------------- csv


def test_a_row_for_each_student_and_a_column_for_each_exercise_and_quiz():
    students = [
        grade("bao", mark(earned=4 / 3), mark("ddpm.normal_kl"), quizzes=(quiz(),)),
        grade(
            "Ada",
            mark(earned=0.0),
            mark("ddpm.normal_kl", earned=0.5),
            quizzes=(quiz(right=2, wrong=0),),
        ),
    ]
    header, rows = read(grades_csv(students))
    assert header == [
        "Student",
        "ID",
        "Section",
        "ddpm.q_sample",
        "ddpm.normal_kl",
        "ddpm.quiz",
        "Final Points",
    ]
    assert rows == [
        ["Ada", "", "", "0", "0.5", "2", "2.5"],
        ["bao", "", "", "1.33", "2", "1", "4.33"],
    ]


def test_no_students_give_only_the_header():
    assert grades_csv([]) == "Student,ID,Section,Final Points\r\n"


@pytest.mark.parametrize(
    "roster",
    [
        {},
        {"Email address": "a@x.org"},
        {"ID number": "7", "Email address": "a@x.org"},
        {"ID": "7"},
        {"Section": "A", "ID": "7"},
        {"SIS User ID": "u7"},
        {"SIS Login ID": "l7", "ID": "7"},
        {"Section": "A", "SIS Login ID": "l7", "SIS User ID": "u7", "ID": "7", "Group": "blue"},
        {
            "ID": "7",
            "SIS User ID": "u7",
            "SIS Login ID": "l7",
            "Integration ID": "i",
            "Section": "A",
        },
        {"ID": "7", "SIS User ID": "u7", "SIS Login ID": "l7", "Root Account": "r", "Section": "A"},
        {"Root Account": "r", "Integration ID": "i"},
    ],
    ids=lambda roster: "+".join(roster) or "none",
)
def test_canvas_takes_the_file_with_any_roster(roster):
    header, (row,) = read(grades_csv([grade("Ada", mark(), quizzes=(quiz(),), details=roster)]))
    student, assignments = canvas_columns(header)
    further = [name for name in roster if name not in student]
    # Canvas asks about what it does not know
    assert assignments == [*further, "ddpm.q_sample", "ddpm.quiz"]
    assert roster.items() <= dict(zip(header, row, strict=True)).items()


def test_the_total_is_not_an_assignment_for_canvas():
    header, _ = read(grades_csv([grade("Ada", mark())]))
    assert canvas_columns(header)[1] == ["ddpm.q_sample"]
    assert (
        canvas_columns(["Total" if name == "Final Points" else name for name in header])[1][-1]
        == "Total"
    )


def test_there_is_no_row_of_possible_points():
    """Moodle looks for a student in every row, and drops the whole import if a row has none."""
    _, rows = read(grades_csv([grade("Ada", mark())]))
    assert [row[0] for row in rows] == ["Ada"]


def test_different_rosters_are_joined_in_their_order():
    students = [
        grade("Ada", details={"Mail": "a", "Group": "1"}),
        grade("Bao", details={"Mail": "b", "Desk": "9"}),
    ]
    header, rows = read(grades_csv(students))
    assert header == ["Student", "ID", "Section", "Mail", "Group", "Desk", "ddpm.a", "Final Points"]
    assert rows == [
        ["Ada", "", "", "a", "1", "", "2", "2"],
        ["Bao", "", "", "b", "", "9", "2", "2"],
    ]


def test_a_column_of_the_roster_does_not_replace_a_mark():
    details = {"Student": "other", "ddpm.q_sample": "999", "Final Points": "999", "Mail": "a"}
    header, (row,) = read(grades_csv([grade("Ada", mark(), details=details)]))
    assert header == ["Student", "ID", "Section", "Mail", "ddpm.q_sample", "Final Points"]
    assert "999" not in row and "other" not in row


@given(names, names)
def test_any_name_survives_csv_reader(name, section):
    _, (row,) = read(grades_csv([grade(name, mark(), details={"Section": section})]))
    assert (
        row[0] in (name, f"'{name}")
        and row[2] in (section, f"'{section}")
        and row[3:] == ["2", "2"]
    )


@pytest.mark.parametrize(
    "name", ['Ada "A", Moreau', "Zoë\nŌtani", "李 明", "a\rb", "O'Neil", "  Ada"]
)
def test_an_odd_name_is_kept_as_it_is(name):
    assert read(grades_csv([grade(name)]))[1][0][0] == name


@pytest.mark.parametrize(
    "name",
    ["=1+1", "+1", "-1", "@SUM(A1)", "\t=1", "\r=1", "\n=1", " =1", "＝1", '=cmd|"/c calc"!A1'],
)
def test_a_name_is_never_a_formula(name):
    header, (row,) = read(grades_csv([grade(name, details={name: name})]))
    assert row[0] == row[3] == header[3] == f"'{name}"


def test_every_figure_is_a_plain_number():
    text = grades_csv(
        [grade("Ada", mark(earned=1 / 3, points=3), mark("ddpm.b", earned=1e6, points=10**6))]
    )
    assert read(text)[1][0][3:] == ["0.33", "1000000", "1000000.33"]


def test_students_of_the_same_name_are_all_there_in_a_fixed_order():
    a, b = (
        grade("Ada", mark(earned=e)).model_copy(update={"digest": d})
        for e, d in ((0.5, "1"), (2.0, "2"))
    )
    assert grades_csv([a, b]) == grades_csv([b, a])
    assert [row[-1] for row in read(grades_csv([b, a]))[1]] == ["0.5", "2"]


def test_lines_end_as_rfc_4180_says():
    assert grades_csv([grade("Ada")]).count("\r\n") == 2


# --------------------------------------------------------------------------------------- gradescope


def test_gradescope_gets_a_test_for_each_exercise_and_quiz():
    wrong = mark(
        earned=2 / 3,
        sentence="Take the root.",
        shown="case 2, with t [0]",
        lines=(("cell 3, in f", 4, "a = b"),),
        printed="hi",
        notes=("Defined twice.",),
    )
    result = gradescope(
        grade("Ada", wrong, mark("ddpm.normal_kl"), quizzes=(quiz(),), notes=("a.ipynb is empty.",))
    )
    first, second, third = result["tests"]
    assert first["name"] == "ddpm.q_sample" and (first["score"], first["max_score"]) == (0.67, 2)
    for part in (
        "Take the root.",
        "case 2, with t [0]",
        "cell 3, in f, line 4:  a = b",
        "hi",
        "Defined twice.",
    ):
        assert part in first["output"]
    assert [test["status"] for test in result["tests"]] == ["failed", "passed", "failed"]
    assert (third["name"], third["score"], third["max_score"]) == ("ddpm.quiz", 1.0, 2)
    assert "Question 1?" in third["output"] and "Question 0?" not in third["output"]
    assert result["output"] == "a.ipynb is empty."
    assert second["score"] == second["max_score"]


def test_gradescope_finds_the_keys_and_words_it_documents():
    result = gradescope(grade("Ada", mark(earned=0.5), quizzes=(quiz(),)))
    assert result.keys() <= {
        "score",
        "execution_time",
        "output",
        "output_format",
        "visibility",
        "extra_data",
        "tests",
    }
    assert result["visibility"] in ("hidden", "after_due_date", "after_published", "visible")
    for test in result["tests"]:
        assert test.keys() <= {
            "name",
            "score",
            "max_score",
            "status",
            "output",
            "output_format",
            "visibility",
        }
        assert test["status"] in ("passed", "failed") and isinstance(test["output"], str)
        assert test["output_format"] == "text"  # never HTML, because it is the student's text
        assert 0 <= test["score"] <= test["max_score"]


def test_the_score_on_gradescope_is_the_total_before_rounding_its_parts():
    thirds = [mark(f"ddpm.e{i}", earned=2 / 3) for i in range(6)]
    result = gradescope(grade("Ada", *thirds))
    assert (
        result["score"] == 4.0 and round(sum(test["score"] for test in result["tests"]), 2) == 4.02
    )


def test_control_characters_do_not_reach_gradescope():
    result = gradescope(grade("Ada", mark(printed="a\x1b[31m\0\u202eb", earned=0.0)))
    assert "a\\x1b[31m\\x00\\u202eb" in result["tests"][0]["output"]


@given(names, names)
def test_every_result_is_json(sentence, printed):
    result = gradescope(grade("Ada", mark(earned=0.0, sentence=sentence, printed=printed)))
    assert json.loads(json.dumps(result)) == result
