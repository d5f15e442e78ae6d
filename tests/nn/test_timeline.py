"""Whole clips and clips in pieces; pooling and repeating that leave the first frame alone."""

import pytest
import torch
from torch import nn

from course_lib.nn.timeline import (
    Stream,
    Timeline,
    causal_padding,
    pool_frames,
    repeat_frames,
)


def numbered(*frames):
    return torch.tensor(frames, dtype=torch.float32).reshape(1, 1, -1, 1, 1)


def numbers(x):
    return x.flatten().tolist()


def test_a_whole_clip_begins_with_copies_of_its_first_frame():
    layer = nn.Identity()
    assert numbers(Timeline().extend(layer, numbered(5, 6, 7), 2)) == [5, 5, 5, 6, 7]
    assert Timeline().starts


def test_padded_frames_see_as_many_as_a_kernel_and_none_later():
    x = numbered(5, 6, 7, 8).requires_grad_()
    windows = causal_padding(x, 3).unfold(2, 3, 1)  # frames, and those that each one sees
    assert windows.squeeze().tolist() == [[5, 5, 5], [5, 5, 6], [5, 6, 7], [6, 7, 8]]
    (gradient,) = torch.autograd.grad(windows[0, 0, 0].sum(), x)
    assert numbers(gradient) == [3, 0, 0, 0]
    assert numbers(causal_padding(x, 1)) == [5, 6, 7, 8]


def test_a_stream_remembers_the_end_of_the_piece_before():
    layer, other, stream = nn.Identity(), nn.Identity(), Stream()
    parts, seen = (numbered(1, 2, 3), numbered(4), numbered(5), numbered(6, 7)), []
    for part in stream.over(parts):
        seen.append((stream.starts, numbers(stream.extend(layer, part, 2))))
        stream.extend(other, part * 10, 1)
    assert seen == [
        (True, [1, 1, 1, 2, 3]),
        (False, [2, 3, 4]),
        (False, [3, 4, 5]),
        (False, [4, 5, 6, 7]),
    ]
    assert numbers(stream.remembered[layer]) == [6, 7]
    assert numbers(stream.remembered[other]) == [70]


def test_what_is_remembered_does_not_keep_the_clip_in_memory():
    layer, stream = nn.Identity(), Stream()
    stream.extend(layer, torch.zeros(1, 2, 50, 3, 4), 2)
    assert stream.remembered[layer].untyped_storage().nbytes() == 2 * 2 * 3 * 4 * 4


@pytest.mark.parametrize(
    ("frames", "starts", "pooled"),
    [
        ((1, 2, 4, 6, 8), True, [1, 3, 7]),
        ((9,), True, [9]),
        ((2, 4, 6, 8), False, [3, 7]),
    ],
)
def test_pooling_averages_pairs_and_leaves_the_first_frame_alone(frames, starts, pooled):
    assert numbers(pool_frames(numbered(*frames), starts)) == pooled
    assert not starts or numbers(pool_frames(numbered(*frames))) == pooled


@pytest.mark.parametrize(
    ("times", "starts", "repeated"),
    [
        (2, True, [1, 2, 2, 3, 3]),
        (4, True, [1, 2, 2, 2, 2, 3, 3, 3, 3]),
        (2, False, [1, 1, 2, 2, 3, 3]),
        (1, True, [1, 2, 3]),
    ],
)
def test_repeating_leaves_the_first_frame_alone(times, starts, repeated):
    assert numbers(repeat_frames(numbered(1, 2, 3), times, starts)) == repeated


def test_a_frame_without_a_partner_is_refused():
    with pytest.raises(ValueError, match=r"expected an odd number of frames \(1 \+ 2 n\).* got 4"):
        pool_frames(numbered(1, 2, 3, 4), True)
    with pytest.raises(ValueError, match="expected an even number of frames to pool, got 3"):
        pool_frames(numbered(1, 2, 3), False)
