"""Figures: alternative text, faithful pixels, bad input."""

import io

import numpy as np
import pytest
import torch
from PIL import Image

from course_lib.classroom import figures
from course_lib.classroom.clips import film_strips
from course_lib.classroom.figures import (
    figure,
    image_grid,
    row_grid,
    show,
    webp,
)
from course_lib.media import to_images


class Shown(list):
    """Stands in for IPython's display: the list of bundles shown, updates included."""

    def __call__(self, bundle, raw, display_id=False):
        assert raw
        self.append(bundle)
        return self if display_id else None

    def update(self, bundle, raw):
        self(bundle, raw)


@pytest.fixture
def shown(monkeypatch):
    bundles = Shown()
    monkeypatch.setattr(figures, "display", bundles)
    return bundles


def pixels(data):
    return np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))


def pictures(n=3, size=16, seed=0):
    return np.random.default_rng(seed).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_a_figure_is_shown_with_its_alternative_text(shown):
    fig, ax = figure("Title", "x", "y", yscale="log")
    ax.plot([1, 10])
    show(fig, alt='A "line" that rises')
    (bundle,) = shown
    assert bundle["text/plain"] == 'Figure: A "line" that rises'
    assert 'alt="A &quot;line&quot; that rises"' in bundle["text/html"]
    assert "width:100%;min-width:min(100%,640px);max-width:min(100%,960px)" in bundle["text/html"]
    assert ax.get_xlabel() == "x" and ax.get_ylabel() == "y" and ax.get_yscale() == "log"


@pytest.mark.parametrize("alt", ["", "  "])
def test_a_figure_without_alternative_text_is_refused(alt, shown):
    with pytest.raises(ValueError, match="expected alt"):
        show(figure()[0], alt)


def test_a_grid_of_axes_has_the_shape_one_expects():
    assert figure("t", columns=3)[1].shape == (3,)
    assert figure("t", rows=2)[1].shape == (2,)
    assert figure("t", rows=2, columns=3)[1].shape == (2, 3)


def test_the_background_is_opaque_and_light_and_the_file_small():
    fig, ax = figure("Title", "x", "y")
    ax.plot(np.sin(np.arange(100) / 10))
    data = webp(fig)
    assert len(data) < 40_000
    assert (pixels(data)[:3, :3] > 245).all()


def test_a_figure_of_many_colours_is_small_and_looks_the_same(monkeypatch):
    generator = torch.Generator().manual_seed(0)
    coarse = torch.rand(18, 3, 6, 6, generator=generator)
    smooth = torch.nn.functional.interpolate(coarse, (64, 64), mode="bilinear")
    fig = image_grid(smooth * 2 - 1)
    data = webp(fig)
    shown, drawn = pixels(data).astype(int), figures.rgb_array(fig).astype(int)
    assert shown.shape == drawn.shape and abs(shown - drawn).mean() < 3
    monkeypatch.setattr(figures, "MAX_LOSSLESS_BYTES", 10**9)
    assert len(data) < 40_000 < len(webp(fig))


def test_house_style_leaves_matplotlib_as_it_was():
    import matplotlib

    before = dict(matplotlib.rcParams)
    webp(figure("a")[0])
    assert dict(matplotlib.rcParams) == before


# ----------------------------------------------------------------------------------------- pictures


def test_every_pixel_of_a_small_image_is_a_square():
    images = pictures(2)
    grid = pixels(webp(image_grid(images, cell=64)))
    side = int(64 * figures.DENSITY)
    for image in images:
        enlarged = image.repeat(side // 16, axis=0).repeat(side // 16, axis=1)
        windows = np.lib.stride_tricks.sliding_window_view(grid, enlarged.shape)[:, :, 0]
        near = [
            w
            for row in windows
            for w in row
            if (np.abs(w[0, 0].astype(int) - enlarged[0, 0]) <= 16).all()
        ]
        assert any(np.abs(w.astype(int) - enlarged).max() <= 16 for w in near)


@pytest.mark.parametrize(
    "images",
    [
        torch.rand(2, 3, 5, 7) * 2 - 1,
        torch.rand(2, 1, 5, 7),
        np.zeros((2, 5, 7, 3), np.uint8),
        torch.zeros(2, 5, 7, dtype=torch.uint8),
        torch.zeros(2, 3, 5, 7, requires_grad=True),
    ],
    ids=lambda a: f"{a.dtype}{tuple(a.shape)}",
)
def test_all_forms_of_images_are_accepted(images):
    assert to_images(images).shape == (2, 5, 7, 3)
    assert to_images(images).dtype == np.uint8


def test_the_range_of_a_model_becomes_the_range_of_pixels():
    x = torch.tensor([-1.0, 0.0, 1.0, 9.0]).reshape(4, 1, 1, 1)
    assert to_images(x)[:, 0, 0, 0].tolist() == [0, 128, 255, 255]


@pytest.mark.parametrize(
    "images",
    [
        np.zeros((5, 7), np.uint8),
        np.zeros((2, 5, 7, 4), np.uint8),
        np.zeros((2, 5, 7, 3)),
        np.zeros((0, 5, 7, 3), np.uint8),
        np.full((1, 3, 2, 2), np.nan),
        np.zeros((2, 3, 5, 7), np.int64),
    ],
    ids=lambda a: f"{a.dtype}{a.shape}",
)
def test_other_shapes_and_values_are_refused(images):
    with pytest.raises(ValueError, match=r"expected images \(n h w 3\).*; got"):
        to_images(images)


def test_titles_and_columns_are_checked():
    with pytest.raises(ValueError, match="one title per image, 3; got 2"):
        image_grid(pictures(3), titles=["a", "b"])
    with pytest.raises(ValueError, match="at least one column, got 0"):
        image_grid(pictures(3), columns=0)


def test_a_short_row_is_left_empty_at_its_end():
    rows = {"one": pictures(1), "three": pictures(3)}
    drawn = pixels(webp(row_grid(rows, ["a", "b", "c"], cell=64)))
    as_grid = pixels(webp(row_grid({"three": pictures(3), "one": pictures(1)}, cell=64)))
    assert drawn.shape[1] == as_grid.shape[1]
    paper = (drawn > 245).all(-1)
    side = int(64 * figures.DENSITY)
    upper, lower = paper[-2 * side - 20 : -side - 12], paper[-side - 4 : -8]
    assert upper[:, -2 * side :].all() and not lower[:, -2 * side :].all()


def test_a_film_strip_shows_the_first_and_the_last_frame():
    clip = np.zeros((17, 8, 8, 3), np.uint8)
    clip[0, ..., 0] = clip[-1, ..., 1] = 200
    fig = film_strips(clip, frames=5)
    assert [t.get_text().replace("\u00a0", " ") for t in fig.axes[0].texts] == [
        "t = 0",
        "t = 4",
        "t = 8",
        "t = 12",
        "t = 16",
    ]
    shown = pixels(webp(fig)).reshape(-1, 3)
    assert (abs(shown.astype(int) - (200, 0, 0)).max(1) < 9).any()
    assert (abs(shown.astype(int) - (0, 200, 0)).max(1) < 9).any()


def test_several_clips_are_several_strips():
    fig = film_strips(torch.rand(2, 4, 3, 8, 8), labels=["first", "second"], title="Two")
    assert {"first", "second", "Two"} < {t.get_text() for t in fig.axes[0].texts}
    with pytest.raises(ValueError, match="one label per clip, 2; got 1"):
        film_strips(torch.rand(2, 4, 3, 8, 8), labels=["first"])
    with pytest.raises(ValueError, match="clips of one shape"):
        film_strips([torch.rand(4, 3, 8, 8), torch.rand(5, 3, 8, 8)])
