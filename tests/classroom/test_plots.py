"""Plots and views of a clip, as notebooks call them."""

import numpy as np
import torch

from course_lib.classroom import (
    clip_views,
    confusion,
    line_plot,
    probability_bars,
    reliability,
    scatter_panels,
)
from course_lib.world import render, sample_scene


def test_lines_draw_every_curve_over_its_own_points():
    fig = line_plot(
        {"a": [1, 2, 3], "b": [5, 6]},
        {"a": [1, 4, 9], "b": [0, 1]},
        "title",
        "x",
        "y",
        yscale="log",
    )
    (ax,) = fig.axes
    drawn = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert drawn == {"a": [[1, 1], [2, 4], [3, 9]], "b": [[5, 0], [6, 1]]}
    assert len({line.get_linestyle() for line in ax.lines}) == 2  # told apart without colour
    assert (
        ax.get_legend() is not None
        and ax.get_yscale() == "log"
        and ax.get_title(loc="left") == "title"
    )


def test_scatter_panels_share_one_scale():
    fig = scatter_panels({"one": torch.zeros(4, 2), "two": torch.ones(3, 2)}, limit=2)
    assert [len(ax.collections[0].get_offsets()) for ax in fig.axes] == [4, 3]
    assert {ax.get_xlim() for ax in fig.axes} == {(-2.0, 2.0)}


def test_the_views_of_a_clip_are_images_that_show_its_fields():
    clip = render(sample_scene(3, count=2, motion="slide", camera="still"), size=(24, 32), frames=4)
    views = clip_views(clip)
    assert list(views) == ["rgb", "depth", "normal", "segmentation", "flow"]
    assert all(view.shape == (4, 24, 32, 3) and view.dtype == np.uint8 for view in views.values())
    things = np.asarray(clip.segmentation) >= 2
    # white where nothing moves
    assert (views["flow"][-1] == 255).all() and (views["flow"][0][~things[0]] == 255).all()
    assert (views["flow"][0][things[0]] < 255).any()
    assert len(np.unique(views["segmentation"].reshape(-1, 3), axis=0)) == len(
        np.unique(clip.segmentation)
    )


def test_a_reliability_figure_has_a_dot_for_every_tenth_that_was_used():
    logits = torch.tensor([[4.0, 0.0], [4.0, 0.0], [0.0, 4.0], [0.1, 0.0]])
    fig = reliability(logits, torch.tensor([0, 1, 1, 1]))
    dots = [
        tuple(round(float(x), 3) for x in dot.get_offsets()[0]) for dot in fig.axes[0].collections
    ]
    assert dots == [(0.525, 0.0), (0.982, 0.667)]


def test_a_confusion_figure_shows_shares_of_each_truth():
    fig = confusion({"a": [[3, 1], [0, 0]], "b": [[1, 0], [0, 1]]}, ["up", "down"])
    assert [ax.get_title() for ax in fig.axes] == ["a", "b"]
    assert fig.axes[0].images[0].get_array().tolist() == [[0.75, 0.25], [0.0, 0.0]]


def test_a_reading_has_a_bar_for_every_value():
    fig = probability_bars(
        np.zeros((4, 4, 3), np.uint8), {"shape": {"cube": 0.9, "cone": 0.1}, "count": {1: 1.0}}
    )
    _, shape, count = fig.axes
    assert [bar.get_width() for bar in shape.patches] == [0.9, 0.1] and len(count.patches) == 1
    assert [label.get_text() for label in shape.get_yticklabels()] == ["cube", "cone"]
