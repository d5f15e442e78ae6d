"""A sign of life: late, alive, gone afterwards, and nothing where nobody looks."""

import re
import threading
import time

import pytest
from jupyter_client.manager import start_new_kernel
from nbformat.v4 import new_code_cell, new_notebook

from course_lib import busy as module
from course_lib import paths
from course_lib.build import execute
from course_lib.busy import Ticker, bar, busy


class Screen(list):
    """Stands in for a notebook or a terminal: what it shows, and None when it is wiped."""

    def show(self, line, share):
        self.append((line, share))

    def wipe(self):
        self.append(None)


@pytest.fixture
def screen(monkeypatch):
    shown = Screen()
    monkeypatch.setattr(module, "_screen", lambda: shown)
    monkeypatch.setattr(module, "PATIENCE_SECONDS", 0.2)
    monkeypatch.setattr(module, "TICK_SECONDS", 0.05)
    return shown


def test_what_is_quick_shows_nothing(screen):
    with busy("Sampling"):
        pass
    assert screen == [None]


def test_what_takes_long_shows_its_seconds_and_leaves_nothing(screen):
    with busy("Sampling"):
        time.sleep(0.6)
    assert len(screen) > 2 and screen[-1] is None
    assert all(re.fullmatch(r"Sampling: \d+ s", line) for line, _ in screen[:-1])


def test_a_loop_of_known_length_has_a_bar(screen):
    seen = []
    for item in busy("Reading clips", ["a", "b", "c", "d"]):
        time.sleep(0.2)
        seen.append(item)
    assert seen == ["a", "b", "c", "d"]
    line, share = screen[-2]
    assert share == 0.75 and re.search(r"3 of 4, about \d+ s left", line)


def test_a_loop_of_unknown_length_and_one_with_a_total(screen):
    assert list(busy("Reading", iter("ab"))) == ["a", "b"]
    assert busy("Reading", iter("ab"), total=2).total == 2


@pytest.mark.parametrize("error", [KeyboardInterrupt, ValueError])
def test_an_interrupt_and_an_error_end_it_and_pass_through(screen, error):
    threads = threading.active_count()
    with pytest.raises(error), busy("Sampling"):
        time.sleep(0.3)
        raise error
    assert screen[-1] is None and threading.active_count() == threads


def test_a_loop_that_is_left_ends_it(screen):
    threads = threading.active_count()
    for _ in busy("Reading", range(5)):
        break
    assert screen == [None] and threading.active_count() == threads


def test_output_into_a_file_gets_nothing(capsys):
    with busy("Sampling") as shown:
        pass
    assert shown.screen is None and capsys.readouterr() == ("", "")


def test_a_terminal_line_is_wiped(capsys):
    screen = module._Terminal()
    screen.show("Sampling: 10 s", None)
    screen.show("Sampling: 1 s", None)
    screen.wipe()
    assert capsys.readouterr().err == "\rSampling: 10 s\rSampling: 1 s \r" + " " * 14 + "\r"


def test_a_ticker_does_not_call_once_it_is_stopped():
    calls = []
    ticker = Ticker(lambda: calls.append(1), first=0.01)
    ticker.start()
    time.sleep(0.1)
    ticker.stop()
    ticker.stop()
    assert calls == [1] and not ticker.thread.is_alive()


def test_a_bar_says_its_words_to_a_screen_reader():
    assert 'aria-label="a &lt; &quot;b&quot;"' in bar(0.5, 'a < "b"')
    assert 'value="0.500"' in bar(0.5, "x") and "<progress" not in bar(None, "x")


# ------------------------------------------------------------------------------ the running cell

CELLS = [
    "import course_lib.classroom as room, time\nfrom course_lib import busy",
    "busy.CELL_SECONDS = busy.PATIENCE_SECONDS = 0.3; busy.TICK_SECONDS = 0.2",
    "time.sleep(0.8)",
    "pass",
    "with room.busy('Sampling'):\n    time.sleep(0.8)",
    "time.sleep(0.8); 1 / 0",
    "for n in room.busy('Reading', range(4)):\n    time.sleep(0.3)",
    "print('not late')",
]


@pytest.fixture(scope="module")
def messages():
    """What each of the cells sends to the page, from a real kernel."""
    manager, client = start_new_kernel(kernel_name="python3")
    sent = []
    for cell in CELLS:
        sent.append([])
        client.execute_interactive(
            cell, output_hook=sent[-1].append, timeout=240, allow_stdin=False
        )
    client.stop_channels()
    manager.shutdown_kernel(now=True)
    return dict(zip(CELLS, sent, strict=True))


def lines(sent):
    """The line of every display and update; "" where it is wiped."""
    shown = [m for m in sent if m["msg_type"] in ("display_data", "update_display_data")]
    assert all(m["content"]["metadata"] == module.MARK for m in shown)
    return [m["content"]["data"]["text/plain"] for m in shown]


def test_a_cell_that_takes_long_says_that_it_runs(messages):
    first, *_, last = lines(messages["time.sleep(0.8)"])
    assert re.fullmatch(r"Running: \d+ s", first) and last == ""
    assert lines(messages["pass"]) == [] == lines(messages["print('not late')"])


def test_a_cell_that_fails_is_not_said_to_run(messages):
    assert lines(messages["time.sleep(0.8); 1 / 0"])[-1] == ""


@pytest.mark.parametrize("cell, what", [(CELLS[4], "Sampling"), (CELLS[6], "Reading")])
def test_a_line_that_says_more_takes_its_place(messages, cell, what):
    shown = lines(messages[cell])
    assert len(shown) >= 2 and shown[-1] == ""
    assert all(line.startswith(what) for line in shown[:-1])


def test_a_build_leaves_the_lines_out():
    notebook = new_notebook(cells=[new_code_cell(cell) for cell in CELLS[:5]])
    notebook, _ = execute(notebook, paths.NOTEBOOKS)
    assert [cell.outputs for cell in notebook.cells] == [[]] * 5
