"""Explorers: what the page may ask for, what it gets, and what remains without a kernel."""

import base64
import io
import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.classroom import clip_view, explore
from course_lib.classroom.explore import (
    KEPT_FILES,
    MAX_FILE_BYTES,
    Choices,
    Explorer,
    choices,
    patches,
    sentence,
    slider,
    upload,
)
from course_lib.classroom.figures import figure

BOARD = np.arange(12 * 18 * 3).reshape(12, 18, 3).astype(np.uint8)


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


def test_the_first_figure_is_in_the_html_with_its_alternative_text():
    widget = explorer()
    bundle = widget._repr_mimebundle_()
    assert set(bundle) == {"text/plain", "text/html"}
    readable = bundle["text/html"].split("<script")[0]
    assert alt(readable) == "Signal left, linear. step t = 250, schedule = linear."
    assert "Run this cell" in readable and "0 to 999" in readable and "linear or cosine" in readable
    assert picture(readable).std() > 5
    assert widget.plot.calls == [(250, "linear")]


def test_another_value_gives_another_figure():
    widget = explorer()
    first, second = (draw(widget, t=t, schedule=0) for t in (100, 900))
    assert (picture(first) != picture(second)).any()
    assert (
        alt(draw(widget, t=100, schedule=1))
        == "Signal left, cosine. step t = 100, schedule = cosine."
    )


def test_a_figure_is_not_drawn_twice_and_old_ones_are_dropped(monkeypatch):
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
        (lambda: sentence("no number", int), "invalid literal"),
        (lambda: patches(BOARD, 0, 3), "at least one row and one column, got 0 and 3"),
        (lambda: patches(BOARD, 3, 3, value=(3, 0)), r"3 rows and 3 columns, from 0; got \(3, 0\)"),
        (lambda: patches(BOARD, 3, 3, value=(0, -1)), r"got \(0, -1\)"),
        (lambda: patches(BOARD.astype(float), 3, 3), "expected images"),
        (lambda: patches(torch.full((3, 8, 8), float("nan")), 2, 2), "not finite"),
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
        (
            lambda t, schedule: "no figure",
            "TypeError: plot: expected a matplotlib Figure, got str",
        ),
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


# ------------------------------------------------------------------------------------------ patches


class Seen:
    """A plotting function of any controls, which remembers what it received."""

    def __init__(self):
        self.calls = []

    def __call__(self, **values):
        self.calls.append(values)
        return figure("Seen", height=1)[0]


def board(control):
    """The picture of a patches control as the page gets it, and its size on the page: (h w 3)
    uint8, (h, w).
    """
    sent = control.describe()
    data = base64.b64decode(sent["picture"].split(",")[1])
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB")), tuple(sent["shape"])


def test_a_plot_receives_the_patch_as_row_and_column():
    widget = Explorer(Seen(), {"patch": patches(BOARD, 4, 6), "layer": slider(1, 3)})
    assert alt(widget.page()) == "Seen. patch = row 2, column 3, layer = 1."
    assert alt(draw(widget, patch=[3, 0], layer=2)) == "Seen. patch = row 3, column 0, layer = 2."
    assert widget.plot.calls == [{"patch": (2, 3), "layer": 1}, {"patch": (3, 0), "layer": 2}]
    assert "patch: row 2, column 3 (of 4 rows and 6 columns)" in widget.page().split("<script")[0]


@pytest.mark.parametrize(
    ("sent", "got"), [([-1, 9], (0, 5)), ([9, -9], (3, 0)), ([1.0, 2.0], (1, 2))]
)
def test_a_patch_stays_within_its_image(sent, got):
    assert patches(BOARD, 4, 6).decode(sent) == got


def test_the_first_patch_may_be_given():
    assert patches(BOARD, 4, 6, value=(0, 5)).describe()["value"] == (0, 5)
    assert patches(BOARD, 1, 1).describe()["value"] == (0, 0)


def test_a_small_image_is_enlarged_without_blurring():
    picture, shape = board(patches(BOARD, 4, 6))
    assert shape == (213, 320)
    assert (picture == BOARD.repeat(17, axis=0).repeat(17, axis=1)).all()


@pytest.mark.parametrize(
    "given",
    [
        torch.from_numpy(BOARD),
        torch.from_numpy(BOARD).permute(2, 0, 1).float() / 127.5 - 1,
        (BOARD.transpose(2, 0, 1) / 127.5 - 1).astype(np.float32),
    ],
    ids=["uint8 tensor", "float tensor", "float array"],
)
def test_patches_takes_the_same_images_as_figures(given):
    assert (board(patches(given, 4, 6))[0] == board(patches(BOARD, 4, 6))[0]).all()


def test_a_grey_image_has_three_equal_colours():
    assert (
        board(patches(BOARD[..., 0], 4, 6))[0]
        == board(patches(BOARD[..., :1].repeat(3, -1), 4, 6))[0]
    ).all()


def test_a_large_image_is_made_smaller_and_a_photo_costs_little():
    noise = np.random.default_rng(0).integers(0, 255, (900, 1800, 3)).astype(np.uint8)
    smooth = np.array(Image.fromarray(noise[::60, ::60]).resize((1800, 900)))
    picture, shape = board(patches(smooth, 4, 8))
    assert picture.shape == (320, 640, 3) and shape == (160, 320)
    expected = np.asarray(Image.fromarray(smooth).resize((640, 320)), dtype=float)
    assert abs(picture - expected).mean() < 3
    assert len(patches(smooth, 4, 8).picture) < 60_000


def test_many_patches_get_a_larger_board():
    assert [max(board(patches(BOARD, n, n))[1]) for n in (7, 14, 16, 28)] == [320, 336, 384, 480]


# ----------------------------------------------------------------------------------------- sentence


def count_words(line):
    """A reader that has something to say about an empty line."""
    if not line:
        raise ValueError("Type a <word>.")
    return len(line.split())


def typist():
    return Explorer(Seen(), {"n": sentence("two words", count_words, label="your line")})


def test_a_plot_receives_what_was_read_from_the_line():
    widget = typist()
    assert alt(widget.page()) == "Seen. your line = “two words”."
    assert alt(draw(widget, n="  now \n three   words ")) == "Seen. your line = “now three words”."
    assert widget.plot.calls == [{"n": 2}, {"n": 3}]
    readable = widget.page().split("<script")[0]
    assert "your line: “two words” (of whatever you type)" in readable


def test_a_line_that_cannot_be_read_gets_the_words_of_its_reader():
    widget = typist()
    page = draw(widget, n="   ")
    assert page == '<p role="alert">Type a &lt;word&gt;.</p>'
    assert widget.plot.calls == []
    assert "<img" in draw(widget, n="one")


def test_a_line_without_a_reader_comes_as_it_is_and_never_longer_than_a_page():
    widget = Explorer(Seen(), {"line": sentence("start")})
    draw(widget, line="Größe & <b>")
    draw(widget, line="x" * 10_000)
    assert [call["line"] for call in widget.plot.calls] == ["Größe & <b>", "x" * 200]
    assert "Größe &amp; &lt;b&gt;" in draw(widget, line="Größe & <b>")


# -------------------------------------------------------------------------------------------- clips


def test_a_plot_may_return_a_clip_that_plays():
    def film(t):
        return clip_view(np.full((9, 8, 8, 3), t, np.uint8), title="A grey clip", frames=3)

    widget = Explorer(film, {"t": slider(0, 255, 100)})
    page = widget.page().split("<script")[0]
    assert page.count("<video") == 1 and "video/mp4" in page
    assert 'aria-label="A grey clip. t = 100."' in page
    assert alt(page) == "A grey clip. t = 100."
    # what the page takes over is one element: the clip and its strip
    assert re.search("<div data-picture><video.*</video><img[^>]*></div>", page, re.DOTALL)
    assert draw(widget, t=200) != draw(widget, t=100)
    assert widget.page().count("<video") == 1


def test_a_clip_without_a_title_has_an_alternative_text():
    widget = Explorer(lambda t: clip_view(np.zeros((1, 8, 8, 3), np.uint8)), {"t": slider(0, 9)})
    assert alt(widget.page()) == "A clip. t = 0." and "<video" not in widget.page()


# ------------------------------------------------------------------------------------------- upload


def shout(data):
    """A reader that refuses what is no text."""
    return data.decode("ascii").upper()


def uploader(read=shout):
    return Explorer(Seen(), {"word": upload(read, "EXAMPLE", label="your word"), "t": slider(0, 9)})


def send(widget, data, name="word.txt", part=4, transfer="1"):
    """Send a file as the page does; the kernel's last answer."""
    replies = []
    widget.send = replies.append
    for start in range(0, max(1, len(data)), part):
        message = {
            "type": "file",
            "control": "word",
            "transfer": transfer,
            "name": name,
            "size": len(data),
        }
        widget.receive({**message, "start": start}, [memoryview(data[start : start + part])])
    assert {reply["transfer"] for reply in replies} == {transfer}
    assert [reply.get("got") for reply in replies[:-1]] == list(range(part, len(data), part))
    return replies[-1]


def test_before_anything_is_chosen_the_plot_receives_the_example():
    widget = uploader()
    page = widget.page()
    assert widget.plot.calls == [{"word": "EXAMPLE", "t": 0}]
    assert alt(page) == "Seen. your word = the example, t = 0."
    assert (
        "your word: the example (of the example or a file that you choose)"
        in page.split("<script")[0]
    )


@pytest.mark.parametrize("part", [1, 4, 5, 11, 100])
def test_a_file_that_comes_in_parts_is_read_whole(part):
    widget = uploader()
    reply = send(widget, b"hello world", part=part)
    assert reply["value"] == 1
    assert alt(draw(widget, word=1, t=3)) == "Seen. your word = word.txt, t = 3."
    assert alt(draw(widget, word=0, t=3)) == "Seen. your word = the example, t = 3."
    assert widget.plot.calls == [{"word": "HELLO WORLD", "t": 3}, {"word": "EXAMPLE", "t": 3}]


def test_another_file_gives_another_figure():
    widget = uploader()
    numbers = [send(widget, word, name="same.txt")["value"] for word in (b"one", b"two")]
    for number in numbers:
        draw(widget, word=number, t=0)
    assert [call["word"] for call in widget.plot.calls] == ["ONE", "TWO"]


def test_what_cannot_be_read_is_one_line_and_the_file_before_stays():
    widget = uploader()
    send(widget, b"good")
    reply = send(widget, b"b\xffd")
    assert (
        reply["error"].startswith("UnicodeDecodeError: 'ascii' codec")
        and "\n" not in reply["error"]
    )
    assert "value" not in reply
    draw(widget, word=1, t=0)
    assert widget.plot.calls == [{"word": "GOOD", "t": 0}]


def test_a_long_complaint_is_cut():
    def read(data):
        raise ValueError("no\n" * 1000)

    error = send(uploader(read), b"x")["error"]
    assert len(error) <= 200 and "\n" not in error


def test_an_empty_file_reaches_its_reader():
    assert send(uploader(), b"")["value"] == 1


def test_a_file_that_is_too_large_is_refused_by_the_kernel_as_well():
    widget = uploader()
    message = {
        "start": 0,
        "transfer": "1",
        "name": "large",
        "size": MAX_FILE_BYTES + 1,
        "data": b"x",
    }
    assert widget.controls["word"].take(message) == {"error": "It is larger than 20 MB."}
    lie = {**message, "size": 1, "data": bytes(MAX_FILE_BYTES + 1)}
    assert widget.controls["word"].take(lie) == {"error": "It is larger than 20 MB."}


def test_parts_of_two_files_are_not_mixed():
    control = upload(shout, "")

    def part(transfer, start, data):
        return control.take(
            {"transfer": transfer, "name": "n", "size": 4, "start": start, "data": data}
        )

    assert part("a", 0, b"aa") == {"got": 2}
    assert part("b", 0, b"bb") == {"got": 2}
    assert "lost" in part("a", 2, b"aa")["error"]
    assert "lost" in part("b", 3, b"b")["error"]
    assert part("b", 2, b"bb") == {"value": 1} and control.argument(1) == "BBBB"


def test_a_file_long_replaced_is_asked_for_again():
    widget = uploader()
    numbers = [send(widget, str(i).encode())["value"] for i in range(KEPT_FILES + 1)]
    assert "choose it again" in draw(widget, word=numbers[0], t=0)
    assert "<img" in draw(widget, word=numbers[1], t=0)


def test_a_value_that_is_no_key_can_be_plotted():
    """Arrays and tensors compare by element and have no hash: pictures are kept by the number of
    the file.
    """
    example = np.zeros((2, 2))
    widget = Explorer(
        Seen(),
        {"word": upload(lambda data: torch.zeros(3), example)},
        alt=lambda word: str(word.shape),
    )
    assert alt(widget.page()).startswith("(2, 2). your photo = the example")
    send(widget, b"x")
    assert alt(draw(widget, word=1)).startswith("torch.Size([3]). your photo = word.txt")


def test_neither_file_nor_example_is_in_the_page_or_the_widget_state():
    widget = uploader()
    send(widget, b"secret")
    draw(widget, word=1, t=0)
    written = widget.page() + str(widget.get_state())
    assert not re.search("secret|SECRET|EXAMPLE|word.txt", written)
