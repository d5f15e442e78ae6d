"""Optical flow against the world's own, which is exact."""

import pytest
import torch
from scipy.stats import spearmanr

from course_lib import data
from course_lib.curation import plant
from course_lib.curation.motion import clip_flow, flow, mean_motion, motion_score
from course_lib.world import LittleWorld, render_scenes


@pytest.fixture(scope="module")
def rendered():
    world = LittleWorld("test", 32, 16, length=30, seed=7)
    return render_scenes([world.scene(i) for i in range(30)], 32, 16)


def test_a_shifted_picture_has_a_constant_flow():
    photo = data.photo_patches(("coffee",), 1, 48)["pixels"][0]
    first, second = photo[3:43, 4:44], photo[2:42, 2:42]  # the content moves 2 right, 1 down
    inner = flow(first, second)[10:-10, 10:-10]
    torch.testing.assert_close(inner.mean((0, 1)), torch.tensor([2.0, 1.0]), atol=0.3, rtol=0)


def test_flow_is_nearer_to_the_truth_than_no_flow(rendered):
    error, length = 0.0, 0.0
    for clip, truth in zip(rendered.rgb[:12], rendered.flow[:12], strict=True):
        error += float((clip_flow(clip) - truth[:-1]).norm(dim=-1).mean())
        length += float(truth[:-1].norm(dim=-1).mean())
    assert error < length


def test_the_score_ranks_clips_as_the_true_flow_does(rendered):
    score = [motion_score(clip, 7.5) for clip in rendered.rgb]
    truth = [mean_motion(field[:-1]) for field in rendered.flow]
    assert spearmanr(score, truth).statistic > 0.75


def test_a_score_is_in_hundredths_of_the_shorter_side():
    field = torch.zeros(3, 20, 30, 2)
    field[..., 0] = 1.0
    assert mean_motion(field) == pytest.approx(5.0)
    assert mean_motion(torch.zeros(1, 32, 32, 2)) == 0


def test_vectors_of_noise_cancel_before_they_are_measured():
    noise = torch.randn(4, 64, 64, 2, generator=torch.Generator().manual_seed(0))
    assert mean_motion(noise) < 0.4 * 100 * float(noise.norm(dim=-1).mean()) / 64


def test_the_score_looks_half_a_second_ahead(rendered):
    clip = rendered.rgb[0]
    assert motion_score(clip, 8.0) == pytest.approx(mean_motion(clip_flow(clip, 4)))
    assert motion_score(clip, 2.0) == pytest.approx(mean_motion(clip_flow(clip, 1)))
    assert motion_score(clip[:3], 25.0) == pytest.approx(mean_motion(clip_flow(clip[:3], 2)))
    with pytest.raises(ValueError, match="more than 4 frames, got 4"):
        clip_flow(clip[:4], 4)


def test_still_clips_score_less_than_moving_ones_noise_or_not(rendered, real):
    rng = torch.Generator().manual_seed(0)
    moving = [motion_score(clip, 7.5) for clip in rendered.rgb]
    still = [motion_score(plant.still(clip, 0, 4.0, rng), 7.5) for clip in rendered.rgb]
    assert max(still) < 0.7 < sorted(moving)[8]
    assert motion_score(real["smptebars"].pixels, 25.0) < 0.1
    filmed = [motion_score(real[name].pixels, real[name].fps) for name in data.FILMED]
    assert min(filmed) > 1
