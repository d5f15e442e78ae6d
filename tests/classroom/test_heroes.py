import pkgutil

import pytest

from course_lib.checking import topics
from course_lib.classroom import heroes, show_hero


def test_a_hero_is_shown_with_its_alternative_text(capsys, monkeypatch):
    shown = []
    monkeypatch.setattr("course_lib.classroom.clips.display", lambda data, raw: shown.append(data))
    show_hero("start_here")
    (figure,) = shown
    assert figure["text/plain"].startswith("Clip: Seven frames")
    assert capsys.readouterr().out.count("\n") == 1


def test_a_topic_without_a_hero_is_refused():
    with pytest.raises(ValueError, match=r"expected a topic .*'start_here'.* got 'nowhere'"):
        show_hero("nowhere")


def test_every_topic_has_a_hero_and_every_hero_a_topic():
    assert {module.name for module in pkgutil.iter_modules(heroes.__path__)} == set(topics())
