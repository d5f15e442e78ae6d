"""No text of a figure is cut off or touches another, however long it is."""

import numpy as np
import pytest

from course_lib.classroom.clips import film_strips
from course_lib.classroom.figures import figure, image_grid, webp
from course_lib.classroom.layout import break_lines, misfits, text_width
from course_lib.classroom.plots import confusion, line_plot, probability_bars, scatter_panels

TEXTS = {
    "short": ["a", "bb", "c"],
    "long": ["what your network says", "motion bounce, camera zoom", "the tokenizer's own"],
    "one long word": ["Interpolationsverfahren" * 3, "b", "c"],
    "capitals": ["WWWW WWWW WWWW WWWW WWWW WWWW", "iiii iiii iiii", "MMMMMMMMMMMMMMMM"],
}


@pytest.fixture(params=TEXTS.values(), ids=TEXTS)
def texts(request):
    return request.param


def images(n, size=8):
    return np.zeros((n, size, size, 3), np.uint8)


@pytest.mark.parametrize("cell", [24, 64, None])
def test_titles_of_images_fit(texts, cell):
    grid = image_grid(images(3), titles=texts, cell=cell, title=" ".join(texts))
    assert misfits(grid) == []


@pytest.mark.parametrize("frames", [2, 7, 17])
def test_labels_of_strips_fit(texts, frames):
    strips = film_strips(
        [images(17)] * 3, labels=texts, frames=frames, title="A title that is longer than a strip"
    )
    assert misfits(strips) == []


def test_titles_of_plots_fit(texts):
    heads = dict.fromkeys([*texts, "d"], np.zeros((5, 2)))
    plots = [
        scatter_panels(heads, title=" ".join(texts)),
        line_plot([1, 2], {text: [1, 2] for text in texts}, title=" ".join(texts * 2)),
        confusion({text: np.eye(3) for text in texts[:2]}, ["red", "green", "cyan"]),
        probability_bars(images(1)[0], {text: {"rise": 0.5, "fall": 0.5} for text in texts}),
    ]
    for fig in plots:
        webp(fig)  # which breaks titles
        assert misfits(fig) == []


def test_the_names_below_a_confusion_matrix_fit():
    names = ["rest", "slide", "bounce", "spin", "orbit", "rise", "fall", "grow", "collision"]
    fig = confusion({"in order": np.eye(9), "reversed": np.eye(9)}, names)
    webp(fig)
    assert misfits(fig) == []


def test_a_text_that_is_cut_off_is_found():
    fig, ax = figure("A title")
    _write_beyond_the_edge(ax)
    assert "cut off" in " ".join(misfits(fig))


def _write_beyond_the_edge(ax):
    text = ax.text(0.9, 0.5, "beyond the right edge of the figure", transform=ax.transAxes)
    text.set_in_layout(False)  # otherwise the axes would shrink


def test_texts_that_touch_are_found():
    fig, ax = figure("A title")
    ax.text(0.5, 0.5, "one label")
    ax.text(0.52, 0.5, "another")
    assert misfits(fig) == ["'one label' on 'another'"]


def test_the_build_refuses_a_figure_with_a_text_that_does_not_fit(monkeypatch):
    fig, ax = figure("A title")
    _write_beyond_the_edge(ax)
    webp(fig)  # a student sees it as it is
    monkeypatch.setenv("COURSE_STRICT", "1")
    with pytest.raises(ValueError, match="cut off by"):
        webp(fig)


def test_lines_are_no_wider_than_asked():
    broken = break_lines("a text of several words and one Donaudampfschifffahrt", 120, 7.5)
    assert max(text_width(line, 7.5) for line in broken.split("\n")) <= 120
    assert "".join(broken.split()) == "atextofseveralwordsandoneDonaudampfschifffahrt"
