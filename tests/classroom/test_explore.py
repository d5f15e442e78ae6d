"""Explorers: what the page may ask for, what it gets, and what remains without a kernel."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from course_lib.classroom import explore
from course_lib.classroom.explore import Choices, Explorer, choices, slider
from course_lib.classroom.figures import figure


class Plot:
    """A plotting function that remembers its calls."""

    def __init__(self):
        self.calls = []

    def __call__(self, t, schedule):
        self.calls.append((t, schedule))
        fig, ax = figure(f"Signal left, {schedule}", "step", "signal")
        ax.axvline(t)
        return fig


def explorer(plot=None, **options):
    controls = {"t": slider(0, 999, 250, label="step t"), "schedule": Choices(("linear", "cosine"))}
    return Explorer(plot or Plot(), controls, **options)


def picture(page):
    data = re.search(r"base64,([^\"]+)", page)[1]
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGB"))


def alt(page):
    return re.search(r'alt="([^"]*)"', page)[1]


def draw(widget, **values):
    return widget.answer({"type": "draw", "values": values})["html"]


def test_the_first_picture_stands_in_the_html_with_its_alternative_text():
    widget = explorer()
    bundle = widget._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    readable = bundle["text/html"].split("<script")[0]
    assert alt(readable) == "Signal left, linear. step t = 250, schedule = linear."
    assert "Run this cell" in readable and "0 to 999" in readable and "linear or cosine" in readable
    assert picture(readable).std() > 5
    assert widget.plot.calls == [(250, "linear")]


def test_another_value_gives_another_picture():
    widget = explorer()
    first, second = (draw(widget, t=t, schedule=0) for t in (100, 900))
    assert (picture(first) != picture(second)).any()
    assert alt(draw(widget, t=100, schedule=1)) == "Signal left, cosine. step t = 100, schedule = cosine."


def test_a_picture_drawn_before_is_not_drawn_again_and_old_ones_are_dropped(monkeypatch):
    monkeypatch.setattr(sys.modules["course_lib.classroom.explore"], "KEPT_PICTURES", 2)
    widget = explorer()
    for t in (1, 2, 1, 3, 1, 2):
        draw(widget, t=t, schedule=0)
    assert [t for t, _ in widget.plot.calls] == [1, 2, 3, 2]


@pytest.mark.parametrize(("sent", "got"), [(-5, 0), (5000, 999), (10.4, 10), (7, 7)])
def test_a_slider_keeps_to_its_range_and_its_steps(sent, got):
    value = slider(0, 999, 250).decode(sent)
    assert value == got and isinstance(value, int)


def test_a_slider_of_fractions():
    control = slider(0.0, 1.0, 0.5)
    assert control.step == 0.01
    assert control.decode(0.30000000000000004) == 0.3
    assert slider(2, 32, 8, step=2).decode(7) in (6, 8)
    assert isinstance(slider(0, 1, 0.5).decode(0.25), float)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: slider(3, 3), "low < high, got 3 and 3"),
        (lambda: slider(0, 9, 10), "between 0 and 9, got 10"),
        (lambda: slider(0, 9, step=0), "positive step, got 0"),
        (lambda: choices([]), "at least one value"),
        (lambda: explore(Plot(), t=3), "slider.* for t, got 3"),
    ],
)
def test_a_control_that_makes_no_sense_is_refused(make, said):
    with pytest.raises(ValueError, match=said):
        make()


def test_choices_come_back_as_the_values_they_were():
    control = choices([4, 8, None])
    assert [control.decode(i) for i in range(3)] == [4, 8, None]
    assert control.decode(99) is None and control.decode(-1) == 4


@pytest.mark.parametrize(
    ("plot", "said"),
    [
        (lambda t, schedule: 1 / 0, "ZeroDivisionError: division by zero"),
        (lambda t, schedule: "no figure", "TypeError: plot should return a matplotlib Figure, got str"),
        (lambda t: None, "TypeError: "),
        (lambda t, schedule: {}["<b>"], "KeyError: &#x27;&lt;b&gt;&#x27;"),
    ],
)
def test_an_error_is_one_line(plot, said):
    page = explorer(plot).page().split("<script")[0]
    assert said in page and 'role="alert"' in page and "Traceback" not in page


def test_a_plot_that_fails_once_can_be_drawn_afterwards():
    def plot(t, schedule):
        if t < 10:
            raise ValueError("too small")
        return Plot()(t, schedule)

    widget = explorer(plot)
    assert "too small" in draw(widget, t=3, schedule=0)
    assert "<img" in draw(widget, t=30, schedule=0)


def test_the_alternative_text_may_be_given():
    values = " step t = 250, schedule = linear."
    assert alt(explorer(alt="The signal").page()) == "The signal." + values
    assert alt(explorer(alt=lambda t, schedule: f'"{t}"').page()) == "&quot;250&quot;." + values


def test_a_figure_of_pyplot_is_closed():
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    def plot(t, schedule):
        plt.figure()
        plt.plot([0, t])
        return plt.gcf()

    explorer(plot).page()
    assert plt.get_fignums() == []


def test_a_page_stays_small():
    assert len(explorer().page()) < 60_000


def test_neither_figures_nor_explorers_need_pyplot():
    code = "import sys; from course_lib.classroom.explore import Explorer, slider\n"
    code += "from course_lib.classroom.figures import figure\n"
    code += "Explorer(lambda t: figure('a')[0], {'t': slider(0, 9)}).page()\n"
    code += "assert 'matplotlib.pyplot' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
