"""A clip plays from the page itself, and its frames are below it."""

import base64
import re

import numpy as np
import pytest
import torch

from course_lib.classroom import clips, read_clip
from course_lib.classroom.clips import show_clip


@pytest.fixture
def shown(monkeypatch):
    bundles = []
    monkeypatch.setattr(clips, "display", lambda bundle, raw: bundles.append(bundle))
    return bundles


def moving(frames=9, size=16, lit=(255, 40, 40)):
    """A clip in which one column of pixels moves to the right."""
    clip = np.full((frames, size, size, 3), 30, np.uint8)
    for t in range(frames):
        clip[t, :, t + 2 : t + 4] = lit
    return clip


def video_of(bundle) -> bytes:
    return base64.b64decode(re.search(r'video/mp4;base64,([^"]+)', bundle["text/html"])[1])


def test_a_clip_plays_and_has_its_strip_below(shown):
    show_clip(moving(), alt="A red bar moves.", frames=4)
    page = shown[0]["text/html"]
    assert page.index("<video") < page.index("<img")
    assert all(word in page for word in (" controls", " loop", " muted", "prefers-reduced-motion"))
    assert " autoplay" not in page  # set by the page, unless less motion is asked for
    assert page.count('alt="A red bar moves."') == 1
    assert len(page) < 60_000


def test_the_clip_that_plays_has_every_frame(shown):
    clip = moving(frames=9)
    show_clip(clip, alt="A red bar moves.")
    played = read_clip(video_of(shown[0]), 9, (80, 64))
    middle = played[:, :, 32]  # a row of the clip
    red = (middle[:, 0] - middle[:, 1]).clamp(0)
    places = (red * torch.arange(64)).sum(1) / red.sum(1)
    assert (places.diff() > 1).all()


def test_several_clips_play_together(shown):
    show_clip([moving(), moving(lit=(40, 255, 40))], labels=["red", "green"], alt="Two bars.")
    assert shown[0]["text/html"].count("<video") == 1
    frame = read_clip(video_of(shown[0]), 1, (60, 120))[0]
    red, green = frame[0] - frame[1], frame[1] - frame[0]
    assert red[:, :60].max() > 0.8 and red[:, 60:].max() < 0.5
    assert green[:, 60:].max() > 0.8 and green[:, :60].max() < 0.5


def test_one_frame_does_not_play(shown):
    show_clip(torch.zeros(1, 3, 8, 8), alt="One grey frame.")
    assert "<video" not in shown[0]["text/html"]


def test_a_clip_needs_an_alternative_text(shown):
    with pytest.raises(ValueError, match="alt"):
        show_clip(moving(), alt=" ")
