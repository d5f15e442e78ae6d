"""A claim is shown with its figure, and stops the build when its figure contradicts it."""

import pytest
from nbformat.v4 import new_code_cell, new_notebook

from course_lib.build.execute import ExecutionError, execute
from course_lib.classroom import claim, reading
from course_lib.classroom.claims import CLAIM_MIME, ClaimError
from course_lib.metrics.evidence import shares, value


@pytest.fixture
def shown(monkeypatch):
    """What a cell displays."""
    displayed = []
    monkeypatch.setattr(
        "course_lib.classroom.claims.display", lambda what, **kwargs: displayed.append(what)
    )
    return displayed


def test_a_claim_shows_its_sentence_and_its_figure(shown):
    claim("Three is more than `two`.", value(3) > 2)
    bundle = shown[0]._repr_mimebundle_()
    assert bundle["text/plain"] == "Three is more than `two`. [3]"
    assert "<code>two</code>" in bundle["text/html"]
    assert bundle[CLAIM_MIME]["holds"] is True


def test_a_claim_that_fails_on_a_students_machine_says_so_and_goes_on(shown, monkeypatch):
    monkeypatch.delenv("COURSE_STRICT", raising=False)
    claim("Masked clips move as asked more often.", shares(54, 128, 50, 128) > 0)
    text = shown[0]._repr_mimebundle_()["text/plain"]
    assert text.startswith("This does not hold on your machine: “Masked clips")
    assert "+3.1 ± 6.1 points" in text


def test_a_claim_that_fails_in_the_build_stops_it(shown, monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(ClaimError, match="three is less"):
        claim("three is less than two.", value(3) < 2)


def test_the_build_stops_on_a_false_claim(tmp_path):
    source = (
        "import course_lib.classroom as room\n"
        "from course_lib.metrics.evidence import value\n"
        'room.claim("Three is {} than two.", value(3) {} 2)'
    )
    true = new_notebook(cells=[new_code_cell(source.format("more", ">"))])
    built, _ = execute(true, tmp_path)
    assert built.cells[0].outputs[0].data[CLAIM_MIME]["holds"]
    with pytest.raises(ExecutionError, match="Three is less than two"):
        execute(new_notebook(cells=[new_code_cell(source.format("less", "<"))]), tmp_path)


def test_a_reading_says_what_holds_here_and_stops_nothing(shown, monkeypatch):
    monkeypatch.setenv("COURSE_STRICT", "1")
    reading(value(9) > 5, "Nine steps are enough.", "Nine steps are too few.")
    reading(value(3) > 5, "Enough.", "Too few for what follows.")
    assert shown[0]["text/plain"] == "Nine steps are enough. [9]"
    assert shown[1]["text/plain"] == "Too few for what follows. [3]"


def test_a_bare_bool_has_no_figure_and_is_refused(shown):
    with pytest.raises(TypeError, match="expected a finding"):
        claim("Three is more than two.", True)


def test_a_claim_is_a_whole_sentence(shown):
    with pytest.raises(ValueError, match="whole sentence"):
        claim("more than two", value(3) > 2)
