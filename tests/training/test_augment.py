"""Random changes of clips: the same for all frames of a clip, from torch's global generator."""

import pytest
import torch

from course_lib.training.augment import clip_transform, mixup


def still_clips(b=3, t=4, h=8, w=12):
    """Return clips whose frames are all the same image."""
    frame = torch.randint(
        0, 256, (b, 1, 3, h, w), generator=torch.Generator().manual_seed(0), dtype=torch.uint8
    )
    return frame.repeat(1, t, 1, 1, 1)


@pytest.mark.parametrize("rand_augment", [False, True])
def test_all_frames_of_a_clip_change_alike_and_clips_differently(rand_augment):
    clips = still_clips()
    torch.manual_seed(0)
    changed = clip_transform((8, 12), rand_augment)(clips)
    assert changed.shape == clips.shape and changed.dtype == torch.uint8
    assert (changed == changed[:, :1]).all()
    assert all((changed[i] != clips[i]).any() for i in range(3))
    again = clip_transform((8, 12), rand_augment)(clips[:1].repeat(3, 1, 1, 1, 1))
    assert (again[0] != again[1]).any()


def test_the_same_seed_gives_the_same_clips():
    change = clip_transform((8, 12), True)
    clips = still_clips()
    torch.manual_seed(3)
    first = change(clips)
    torch.manual_seed(3)
    assert (change(clips) == first).all()


def test_mixup_blends_clips_and_labels_by_one_share():
    torch.manual_seed(0)
    clips = torch.rand(3, 4, 3, 5, 6)
    label = torch.tensor([0, 2, 1])
    mixed, target = mixup(clips, label, 4, 0.5)
    share = float(target[0, 0])
    assert 0 < share < 1
    torch.testing.assert_close(mixed, share * clips + (1 - share) * clips.roll(1, 0))
    torch.testing.assert_close(target.sum(1), torch.ones(3))
    assert target[1, 2] == target[0, 0] and float(target[1, 0]) == pytest.approx(1 - share)
