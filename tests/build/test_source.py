import re

import pytest

from course_lib.build import SourceError, exercise_ids, secrets, solution_edition, student_edition
from tests.build import demo
from tests.build.demo import SOURCE


@pytest.fixture
def source(tmp_path, monkeypatch):
    demo.declare(monkeypatch)
    path = tmp_path / "01_demo.py"
    path.write_text(SOURCE, encoding="utf-8")
    return path


def cell(notebook, text):
    return next(cell for cell in notebook.cells if text in cell.source)


def test_the_answer_becomes_a_stub_and_the_docstring_stays(source):
    assert (
        cell(student_edition(source), "def double").source
        == '@exercise("demo.double")\ndef double(amount, factor=2, shift=0):\n    """Twice the'
        ' amount."""\n    raise NotImplementedError  # your turn'
    )


def test_each_answer_of_a_cell_gets_its_own_stub_at_its_own_indentation(source):
    lines = cell(student_edition(source), "class Box").source.splitlines()
    stubs = [line for line in lines if "your turn" in line]
    assert stubs == [
        " " * 8 + "raise NotImplementedError  # your turn",
        " " * 12 + "raise NotImplementedError  # your turn",
    ]
    assert lines[-1] == "        return 0" and "area =" not in "\n".join(lines)


def test_the_solution_edition_keeps_the_answer(source):
    assert "return amount * factor + shift" in cell(solution_edition(source), "def double").source


def test_the_facts_of_an_exercise_are_under_its_heading(source):
    text = cell(student_edition(source), "## Double it").source
    assert text.startswith(
        "## Double it\n\n★★☆☆☆ · about 5 minutes · 1 point · Eq. 4 · `demo.double`\nMultiply by"
        " two."
    )
    assert "★" not in cell(student_edition(source), "# A chapter").source


def test_tags_survive_and_nothing_else_of_the_source_s_metadata(source):
    notebook = student_edition(source)
    assert notebook.metadata.kernelspec.name == "python3"
    assert cell(notebook, "print(double").metadata == {"tags": ["nbval-check-output"]}
    assert all(
        other.metadata == {} for other in notebook.cells if "print(double" not in other.source
    )


def test_ids_are_stable_unique_valid_and_shared_by_the_editions(source):
    ids = [cell.id for cell in student_edition(source).cells]
    assert ids == [cell.id for cell in solution_edition(source).cells]
    assert len(set(ids)) == len(ids) and all(re.fullmatch(r"[\w-]{1,64}", name) for name in ids)
    source.write_text(SOURCE.replace("# Words.", "# Other words."), encoding="utf-8")
    changed = [cell.id for cell in student_edition(source).cells]
    assert [a == b for a, b in zip(ids, changed, strict=True)].count(False) == 1


def test_exercise_ids_come_in_order(source):
    assert exercise_ids(student_edition(source)) == ["demo.double", "demo.box"]


def test_secrets_are_the_lines_that_say_something(source):
    assert secrets(source) == ["return amount * factor + shift", "area = self.side ** 2"]


@pytest.mark.parametrize(
    "old, new, message",
    [
        (
            "    return amount * factor + shift\n    # END",
            "    return 1",
            r"01_demo.py:\d+: '# SOLUTION' is never closed",
        ),
        (
            "    # SOLUTION\n    return amount",
            "    return amount",
            r"01_demo.py:\d+: '# END' without '# SOLUTION'",
        ),
        (
            "    return amount",
            "    # SOLUTION\n    return amount",
            r"01_demo.py:29: a second '# SOLUTION'",
        ),
        ("# %% exercise: double it", "# %%", r"01_demo.py:24: this cell holds an exercise"),
        ('@exercise("demo.double")\n', "", r"01_demo.py:24: .* found 0"),
        (
            "# ## Double it",
            "# Double it",
            r"01_demo.py:24: .* follows a markdown cell with a heading",
        ),
        (
            "    # SOLUTION\n    return amount * factor + shift\n    # END",
            "    return 1",
            r"01_demo.py:24: expected '# SOLUTION' and '# END' around the answer",
        ),
    ],
)
def test_a_careless_source_is_refused_with_file_and_line(source, old, new, message):
    assert old in SOURCE
    source.write_text(SOURCE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(SourceError, match=message):
        student_edition(source)
