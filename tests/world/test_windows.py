"""Windows: what lies outside them, no ray would have hit."""

from dataclasses import fields

import pytest
import torch

from course_lib.world import render_scenes, scenes, windows
from course_lib.world.rays import trace
from course_lib.world.scene import CAMERAS
from course_lib.world.shading import RAY_OFFSETS
from course_lib.world.solids import HOLDERS, INTERVALS
from course_lib.world.tables import gather_things, tabulate

SIZES = [(32, 32), (20, 37), (13, 9), (64, 40)]


def rendered(drawn, size):
    """Everything that is known of each pixel, as one list of tensors."""
    clip = render_scenes(drawn, size, 3)
    values = (getattr(clip, field.name) for field in fields(clip))
    return [value for value in values if isinstance(value, torch.Tensor)]


@pytest.fixture
def windows_everywhere(monkeypatch):
    """Windows that cover whole frames: every ray is tested against every thing."""

    def cover():
        monkeypatch.setattr(
            windows,
            "_covered",
            lambda places, is_near, side: torch.ones(len(places), side, dtype=torch.bool),
        )

    return cover


@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("camera", CAMERAS)
def test_with_windows_every_byte_is_the_same(windows_everywhere, camera, size):
    drawn = scenes(24, seed=5, camera=camera)
    with_windows = rendered(drawn, size)
    windows_everywhere()
    for mine, whole in zip(with_windows, rendered(drawn, size), strict=True):
        assert torch.equal(mine, whole)


def test_windows_leave_most_of_the_work_out():
    table = tabulate(scenes(24, seed=5), 3)
    things = gather_things(table)
    found = windows.windows_of_things(table, things, 32, 32)
    pixels = sum(len(found.pixels(part)[0]) for part in things.shapes.values())
    assert pixels < 0.25 * len(things.frame) * 32 * 32


def test_a_thing_is_seen_in_its_window_only():
    table = tabulate(scenes(24, seed=6), 2)
    things = gather_things(table)
    hits = trace(table, things, 24, 30, RAY_OFFSETS)
    found = windows.windows_of_things(table, things, 24, 30)
    for thing, frame in enumerate(things.frame.tolist()):
        seen = (hits.thing[frame] == thing).any(0)  # h w
        window = found.rows[thing, :, None] & found.columns[thing]
        assert not (seen & ~window).any()


@pytest.mark.parametrize("place", ["at the thing", "behind it"])
def test_what_comes_near_the_eye_may_be_anywhere(place):
    table = tabulate(scenes(1, seed=7, count=1, camera="still"), 1)
    things = gather_things(table)
    foot = things.pose[:3].T
    table.eye[:] = foot + (0 if place == "at the thing" else 5) * table.forward
    found = windows.windows_of_things(table, things, 12, 16)
    assert found.rows.all() and found.columns.all()


@pytest.mark.parametrize("shape", HOLDERS)
def test_a_holder_holds_its_solid(shape):
    """Where rays from all sides enter and leave it, and no holder is larger than it has to be."""
    generator = torch.Generator().manual_seed(0)
    aim = torch.rand(3, 100_000, generator=generator) * 2.4 - 1.2
    aim[2] += 1
    side = torch.rand(100_000, generator=generator) * 2 * torch.pi
    far = torch.stack([8 * side.cos(), 8 * side.sin(), torch.full_like(side, 3.0)])
    direction = aim - far
    enter, leave = INTERVALS[shape](far, direction)
    hit = enter < leave
    points = torch.cat([(far + t * direction)[:, hit] for t in (enter, leave)], dim=1)
    radius, height = HOLDERS[shape]
    reach, tallest = points[:2].norm(dim=0).max(), points[2].max()
    assert points[2].min() > -1e-4
    assert 0.98 * radius < reach < radius + 1e-4
    assert 0.98 * height < tallest < height + 1e-4
