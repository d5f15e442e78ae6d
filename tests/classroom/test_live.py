"""Live training: the display follows the clock, and a short run is joined by a stored network."""

import base64
import json
import re
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from course_lib.classroom import live
from course_lib.classroom.live import LiveResult, live_curve, smooth, train_live, with_stored
from course_lib.training import find_recipe
from tests.classroom.test_figures import Shown
from tests.training.toy_recipes import TOY


@pytest.fixture
def shown(monkeypatch):
    bundles = Shown()
    monkeypatch.setattr(live, "display", bundles)
    return bundles


@pytest.fixture
def record(monkeypatch, tmp_path):
    """The file in which a build notes its steps."""
    monkeypatch.setattr(live, "RECORD", tmp_path / "live.json")
    return tmp_path / "live.json"


def words(bundle):
    return bundle["text/plain"]


def share(bundle):
    return float(re.search(r'<progress value="([\d.]+)" max="1"', bundle["text/html"])[1])


def test_a_training_run_leaves_a_still_figure_and_no_bar(shown):
    on_step = live_curve(20, every=0)
    for step in range(20):
        on_step(step, 1 / (step + 1))
    assert len(shown) == 21
    assert all("<progress" in bundle["text/html"] for bundle in shown[:-1])
    assert "<progress" not in shown[-1]["text/html"] and "<img" in shown[-1]["text/html"]
    assert "20 steps here" in words(shown[-1]) and "falls from 1 to 0.05" in words(shown[-1])
    assert len(base64.b64decode(re.search(r"base64,([^\"]+)", shown[-1]["text/html"])[1])) < 40_000


def test_it_draws_at_most_twice_a_second(shown):
    on_step = live_curve(2000)
    for step in range(1999):
        on_step(step, 1.0)
    assert len(shown) <= 1 + 2 * (1 + on_step.drawn - on_step.started)


def test_the_bar_follows_the_clock_where_the_clock_ends_the_run(shown, monkeypatch):
    """Seven steps of 2000 in 45 of 60 seconds: three quarters are over, 15 seconds are left."""
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    on_step = live_curve(2000, seconds=60, every=0)
    assert share(shown[-1]) == 0 and "about 60 s left" in words(shown[-1])
    clock[0] += 45
    for step in range(7):
        on_step(step, 1.0)
    assert share(shown[-1]) == 0.75 and "about 15 s left" in words(shown[-1])
    assert "2000" not in words(shown[-1]) and "2,000" not in words(shown[-1])
    clock[0] += 20  # a last, slow step
    on_step(7, 1.0)
    assert share(shown[-1]) == 1 and "about 0 s left" in words(shown[-1])


def test_the_bar_follows_the_steps_where_they_end_the_run(shown, monkeypatch):
    clock = [100.0]
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    on_step = live_curve(10, seconds=60, every=0)
    clock[0] += 8
    for step in range(8):
        on_step(step, 1.0)
    assert share(shown[-1]) == 0.8 and "about 2 s left" in words(shown[-1])


def test_the_bar_moves_before_the_first_step_and_in_a_slow_one(shown):
    with live_curve(10, seconds=4, every=0.2) as on_step:
        time.sleep(1.3)
        assert len(shown) >= 2 and share(shown[-1]) > share(shown[0])
        on_step(0, 1.0)
    assert "1 step here" in words(shown[-1]) and not on_step.ticker.thread.is_alive()


def test_an_interrupted_run_leaves_the_curve_so_far(shown):
    with pytest.raises(KeyboardInterrupt), live_curve(100) as on_step:
        on_step(0, 2.0)
        raise KeyboardInterrupt
    assert "1 step here" in words(shown[-1])
    with live_curve(3):
        pass
    assert shown[-1] == {"text/plain": "no step was made"}


def test_two_losses_and_a_loss_that_is_not_a_number_are_drawn(shown):
    with live_curve(30, every=0) as on_step:
        for step in range(10):
            discriminator = float("nan") if step == 5 else -1.0
            on_step(step, {"generator": torch.tensor(1.0), "discriminator": discriminator})
    assert "generator" in words(shown[-1]) and "discriminator" in words(shown[-1])


def test_a_run_of_no_steps_is_refused():
    with pytest.raises(ValueError, match="at least one step, got 0"):
        live_curve(0)


def test_smoothing_is_a_mean_of_the_last_values():
    values = np.arange(200.0)
    assert len(smooth(values)) == 200
    assert smooth(values)[-1] == values[-4:].mean()
    assert smooth([3.0]).tolist() == [3.0]


# -------------------------------------------------------------------------- how far a run has come


def test_live_training_is_cut_short_and_writes_nothing(monkeypatch, course_home, record):
    monkeypatch.setenv("COURSE_FAST", "1")
    trained = train_live("vit-digits-live", seconds=600.0)
    assert trained.step == 5 and not trained.finished and not course_home.exists()
    monkeypatch.setenv("COURSE_BUILD", "1")
    monkeypatch.setattr(live, "_waited_seconds", lambda: 0.0)
    train_live(TOY, seconds=600.0)
    assert not record.exists()


def test_a_build_notes_its_steps_and_a_notebook_says_them(monkeypatch, record, shown):
    long = replace(TOY, steps=1_000_000)
    monkeypatch.setattr(live, "_waited_seconds", lambda: 0.0)
    assert train_live(long, 0.2).usual_steps is None and not record.exists()
    assert "idle" not in words(shown[-1])
    monkeypatch.setenv("COURSE_BUILD", "1")
    built = train_live(long, 0.2)
    assert json.loads(record.read_text())["toy"]["steps"] == built.step == built.usual_steps
    monkeypatch.setenv("COURSE_BUILD", "0")
    assert train_live(long, 0.2).usual_steps == built.step
    assert f"; on two idle cores {built.step:,}" in words(shown[-1])
    assert train_live(replace(long, seed=5), 0.2).usual_steps is None  # another recipe
    assert train_live(long, 0.3).usual_steps is None  # another limit


def test_a_build_on_a_busy_machine_notes_nothing_and_the_best_build_counts(monkeypatch, record):
    long = replace(TOY, steps=1_000_000)
    monkeypatch.setenv("COURSE_BUILD", "1")
    waits = iter([0.0, 0.15] * 9)
    monkeypatch.setattr(live, "_waited_seconds", lambda: next(waits))
    train_live(long, 0.2)
    assert not record.exists()
    monkeypatch.setattr(live, "_waited_seconds", lambda: 0.0)
    live._record(long, 0.2, 10**9)
    assert train_live(long, 0.2).usual_steps == 10**9


def result(step, usual, finished=False):
    return LiveResult(
        model=torch.nn.Identity(),
        losses={},
        seconds=1.0,
        step=step,
        machine="",
        finished=finished,
        usual_steps=usual,
    )


@pytest.mark.parametrize(
    "step, usual, finished, short",
    [
        (49, 100, False, True),
        (50, 100, False, False),
        (200, 100, False, False),
        (5, None, False, True),
        (5, 100, True, False),
    ],
)
def test_a_run_is_short_below_half_the_usual_steps(step, usual, finished, short):
    assert result(step, usual, finished).is_short == short


def test_a_stored_network_stands_beside_a_short_run_with_a_label():
    assert list(with_stored(result(90, 100), "vit-judge")) == ["yours, 90 steps"]
    both = with_stored(result(1, 100), "vit-judge")
    first, second = both
    assert first == "yours, 1 step" and re.fullmatch(r"stored, [\d,]+ steps", second)
    assert type(both[second]) is type(find_recipe("vit-judge").build().model)
