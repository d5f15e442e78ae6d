"""The judge of scenes: what its network sees, and how well it reads real clips."""

import pytest
import torch

from course_lib.data import SCENE_JUDGE, free_clips
from course_lib.metrics.scene_judge import (
    SCENE_LABELS,
    TemporalShiftNet,
    shrink,
    temporal_shift,
)
from course_lib.training import load_checkpoint, results
from course_lib.training.recipes.judges import labelled
from course_lib.world import VOCABULARY, pixels_to_float


def test_an_eighth_of_the_channels_comes_from_each_neighbouring_frame():
    frames = torch.arange(1.0, 6.0)[:, None, None, None].expand(5, 16, 1, 1)  # frame i is i + 1
    shifted = temporal_shift(frames, 5)[..., 0, 0]  # 5 16
    assert shifted[:, 0].tolist() == shifted[:, 1].tolist() == [2, 3, 4, 5, 0]
    assert shifted[:, 2].tolist() == shifted[:, 3].tolist() == [0, 1, 2, 3, 4]
    assert shifted[:, 4:].eq(frames[:, 4:, 0, 0]).all()


def test_clips_of_a_batch_do_not_see_each_other():
    torch.manual_seed(0)
    network = TemporalShiftNet(5, width=8).eval()
    clips = torch.rand(3, 4, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network(clips)[1], network(clips[1:2])[0])


def test_the_order_of_the_frames_matters():
    torch.manual_seed(0)
    network = TemporalShiftNet(5, width=8).eval()
    clip = torch.rand(1, 6, 3, 32, 32)
    with torch.no_grad():
        assert not torch.allclose(network(clip), network(clip.flip(1)), atol=1e-5)


def test_larger_clips_are_shrunk_by_the_mean_over_areas():
    clip = torch.rand(2, 3, 3, 64, 96)
    expected = clip.unflatten(4, (32, 3)).unflatten(3, (32, 2)).mean((4, 6))
    torch.testing.assert_close(shrink(clip), expected)
    with pytest.raises(ValueError, match="expected clips of at least 32 pixels a side, got 31 x"):
        shrink(torch.zeros(1, 2, 3, 31, 40))


def test_what_a_clip_does_not_tell_has_no_label():
    clips = labelled(free_clips("test", 60))
    rest = VOCABULARY["motion"].index("rest")
    is_open = (clips["motion"] == rest) & (clips["count"] > 0)
    assert is_open.any() and not is_open.all()
    for name in ("shape", "colour", "scale"):
        assert (clips[name][is_open] == -1).all() and (clips[name][~is_open] >= 0).all()


@pytest.mark.parametrize(("frames", "size"), [(17, 32), (14, 64)])
def test_it_reads_real_clips_of_one_object(frames, size):
    judge, _ = load_checkpoint(SCENE_JUDGE)
    clips = free_clips("test", 40, frames, seed=7, size=size, count=1)
    read = judge.read(pixels_to_float(clips["pixels"]))
    for name in SCENE_LABELS:
        assert (read[name] == clips[name]).float().mean() >= 0.9, name


def test_its_recorded_readings_of_one_object_are_right_in_95_of_100_clips():
    measured = results(SCENE_JUDGE)["metrics"]
    for name in SCENE_LABELS:
        for kind in ("single", "single 64"):
            assert measured[f"{kind} {name} accuracy"] >= 0.95
            assert measured[f"{kind} {name} calibration error"] < 0.03
