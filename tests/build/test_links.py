"""What the build makes links of, and what it leaves alone."""

import pytest

from course_lib.build.links import anchor, read_chapter
from course_lib.build.source import solution_edition, student_edition
from tests.build import demo

FIRST = """# %% [markdown]
# # 01 Noise: the first
# Promise.

# %%
"a figure"

# %% [markdown]
# ## 1 The problem
# {text}

# %% [markdown]
# ## 2 Why, and how?
# ### Exercise: twice (again)

# %% exercise: twice
@exercise("demo.double")
def double(amount):
    # SOLUTION
    return 2 * amount
    # END
"""
SECOND = """# %% [markdown]
# # 02 More

# %% [markdown]
# ## 1 It's here
# ## 2 There
"""
THIRD = """# %% [markdown]
# # 03 The last

# %% [markdown]
# ## 1 The end
"""


@pytest.fixture
def chapters(tmp_path, monkeypatch):
    """Write three chapters, the first with a text; return their sources."""
    demo.declare(monkeypatch)

    def write(text="Words."):
        written = {"01_noise": FIRST.replace("{text}", text), "02_more": SECOND, "03_last": THIRD}
        for stem, source in written.items():
            (tmp_path / f"{stem}.py").write_text(source, encoding="utf-8")
        return [tmp_path / f"{stem}.py" for stem in written]

    return write


def linked(chapters, text):
    """The text as the first chapter's notebook has it."""
    notebook = student_edition(chapters(text.replace("\n", "\n# "))[0])
    (cell,) = [cell for cell in notebook.cells if cell.source.startswith("## 1")]
    return cell.source.partition("\n")[2]


@pytest.mark.parametrize(
    "text, expected",
    [
        ("section 2", "[section 2](#2-Why,-and-how?)"),
        ("In section 1.", "In [section 1](#1-The-problem)."),
        ("sections 1 and 2", "sections [1](#1-The-problem) and [2](#2-Why,-and-how?)"),
        ("sections 1\nand 2", "sections [1](#1-The-problem)\nand [2](#2-Why,-and-how?)"),
        ("section 2 of chapter 02", "[section 2 of chapter 02](02_more.ipynb#2-There)"),
        ("chapter 02's word", "[chapter 02](02_more.ipynb)'s word"),
        ("Chapters 02 and 03", "Chapters [02](02_more.ipynb) and [03](03_last.ipynb)"),
        ("then 02_more.", "then [02_more](02_more.ipynb)."),
        ("(arXiv 2012.09841)", "([arXiv 2012.09841](https://arxiv.org/abs/2012.09841))"),
        ("`papers/vqgan.py`", "[`papers/vqgan.py` ↗](../course_lib/papers/vqgan.py)"),
        ("`course_lib/zoo.py`", "[`course_lib/zoo.py` ↗](../course_lib/zoo.py)"),
        ("`demo.double`", "[`demo.double` ↗](#Exercise:-twice-%28again%29)"),
    ],
)
def test_a_place_that_is_named_becomes_a_link(chapters, text, expected):
    assert linked(chapters, text) == expected


@pytest.mark.parametrize(
    "text",
    [
        "Section 3.1 and Section 2",  # the paper's
        "the paper's section 2",
        "the papers' section 2",
        "section 2.1",
        "section 9",  # not there
        "section 9 of chapter 02",
        "chapter 01",  # this one
        "chapter 08, 08_svd",
        "`section 2`, `02_more`, `papers/nothing.py`, `zoo.py`, `demo.nothing`",
        "$section 2$ and\n$$chapter 02\n02_more$$",
        "```\nsection 2\n```",
        "[section 2](elsewhere) and <a href='x'>section 2</a>",
        "### After section 2",
        "<code>chapter 02</code>",
        "intersection 2, chapter 023, section 22",
    ],
)
def test_what_is_no_place_of_the_course_stays_text(chapters, text):
    assert linked(chapters, text) == text


def test_what_is_folded_away_gets_html_since_markdown_is_not_read_there(chapters):
    text = "<details><summary>Hint</summary>\nSee section 2.\n</details>\nAnd section 1."
    assert linked(chapters, text) == (
        '<details><summary>Hint</summary>\nSee <a href="#2-Why,-and-how?">section 2</a>.\n'
        "</details>\nAnd [section 1](#1-The-problem)."
    )


def test_an_exercise_is_no_link_under_its_own_heading(chapters):
    notebook = student_edition(chapters()[0])
    assert any(cell.source.endswith("· `demo.double`") for cell in notebook.cells)


def test_contents_come_after_the_promise_and_the_neighbours_at_both_ends(chapters):
    first, middle, last = map(student_edition, chapters())
    assert [cell.id for cell in first.cells].index("contents") == 2
    assert first.cells[2].source == (
        "## Contents\n\n[1\xa0The problem](#1-The-problem) · [2\xa0Why, and how?](#2-Why,-and-how?)"
        "\n\n[02 More](02_more.ipynb) →"
    )
    assert first.cells[-1].source == "[Contents](#Contents) | [02 More](02_more.ipynb) →"
    assert middle.cells[-1].source == (
        "← [01 Noise](01_noise.ipynb) | [Contents](#Contents) | [03 The last](03_last.ipynb) →"
    )
    assert last.cells[-1].source == "← [02 More](02_more.ipynb) | [Contents](#Contents)"


def test_both_editions_have_the_links_and_no_cell_changes_its_id_for_one(chapters):
    source = chapters("section 2")[0]
    before = [cell.id for cell in student_edition(source).cells]
    assert [cell.id for cell in solution_edition(source).cells] == before
    source.write_text(source.read_text().replace("## 2 Why, and how?", "## 2 Why?"))
    after = [cell.id for cell in student_edition(source).cells]
    assert [a == b for a, b in zip(before, after, strict=True)].count(False) == 1


def test_a_chapter_on_its_own_and_without_sections_gets_nothing(tmp_path, monkeypatch):
    demo.declare(monkeypatch)
    (tmp_path / "01_demo.py").write_text(demo.SOURCE, encoding="utf-8")
    ids = {cell.id for cell in student_edition(tmp_path / "01_demo.py").cells}
    assert not ids & {"contents", "previous-next"}


def test_a_chapter_is_read_from_its_source(chapters):
    chapter = read_chapter(chapters()[0])
    assert chapter.stem == "01_noise" and chapter.title == "01 Noise: the first"
    assert chapter.sections == {"1": "1 The problem", "2": "2 Why, and how?"}
    assert chapter.exercises == {"demo.double": "Exercise: twice (again)"}


def test_an_anchor_is_the_heading_with_dashes_safe_in_markdown():
    assert anchor("Exercise: É (a) <b>") == "#Exercise:-%C3%89-%28a%29-%3Cb%3E"
