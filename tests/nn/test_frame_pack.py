"""Clips of several durations in one batch: where they stand, and what they see."""

import pytest
import torch

from course_lib.nn.frame_pack import frame_pack, of_clips, pack_clips, pack_mask


def test_where_clips_stand():
    pack = frame_pack([1, 5, 2, 3, 4], 5)
    assert pack.numbers.tolist() == [[1, -1], [4, 0], [3, 2]]
    assert pack.clip.tolist() == [[0] * 5, [0, 0, 0, 0, 1], [0, 0, 0, 1, 1]]
    assert pack.place.tolist() == [[0, 1, 2, 3, 4], [0, 1, 2, 3, 0], [0, 1, 2, 0, 1]]


def test_what_is_left_is_no_clip():
    pack = frame_pack([2, 2, 2], 5)
    assert pack.numbers.tolist() == [[0, 1], [2, -1]]
    assert pack.clip.tolist() == [[0, 0, 1, 1, -1], [0, 0, -1, -1, -1]]


@pytest.mark.parametrize("seed", range(5))
def test_every_frame_is_there_once_and_rows_are_well_filled(seed):
    generator = torch.Generator().manual_seed(seed)
    durations = torch.randint(1, 14, (30,), generator=generator).tolist()
    pack = frame_pack(durations, 13)
    assert sorted(pack.numbers[pack.numbers >= 0].tolist()) == list(range(30))
    assert int((pack.clip >= 0).sum()) == sum(durations)
    assert len(pack.clip) <= 1 + 11 * sum(durations) / (9 * 13)  # of first fit, longest first
    for row, slots in zip(pack.clip, pack.numbers, strict=True):
        found = [int((row == slot).sum()) for slot in range(len(slots)) if slots[slot] >= 0]
        assert found == [durations[number] for number in slots if number >= 0]


def test_frames_and_texts_go_where_their_clips_stand():
    durations = [1, 3, 2]
    clips = [torch.full((n, 1, 2, 2), 10.0 * i) for i, n in enumerate(durations)]
    for i, clip in enumerate(clips):
        clips[i] = clip + torch.arange(len(clip))[:, None, None, None]
    pack = frame_pack(durations, 4)
    rows = pack_clips(clips, pack)
    assert rows[:, :, 0, 0, 0].tolist() == [[10, 11, 12, 0], [20, 21, 0, 0]]
    assert of_clips(torch.tensor([5, 6, 7]), pack).tolist() == [[6, 5], [7, 5]]


def test_a_token_sees_those_of_its_clip():
    mask = pack_mask(torch.tensor([[0, 0, 1], [0, -1, -1]]))
    assert mask.shape == (2, 1, 3, 3)
    assert mask[0, 0].tolist() == [[True, True, False], [True, True, False], [False, False, True]]
    assert mask[1, 0].tolist() == [[True, False, False], [False, True, True], [False, True, True]]
