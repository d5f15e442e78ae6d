"""Text on the picture: the detector on planted text and on real text that was looked at.

"testsrc2" has a clock in its upper left corner; the animated film and the man in the car have no
text.  (The fence in "bikes", in frames 137 to 186, is in part taken for letters.)
"""

from random import Random

import pytest
import torch

from course_lib.curation import plant
from course_lib.curation.text import (
    MOST_TEXT,
    TextDetector,
    mser_mask,
    text_detector,
    text_masks,
    text_share,
    three_frames,
)
from course_lib.world import LittleWorld, float_to_pixels


@pytest.fixture(scope="module")
def detector():
    return text_detector()


@pytest.fixture(scope="module")
def clips():
    world = LittleWorld("test", 48, 4, length=40, seed=6)
    return float_to_pixels(world.batch(range(40))["pixels"])


def test_planted_text_is_found_where_it_is(detector, clips):
    right, said, true = 0, 0, 0
    for i, clip in enumerate(clips):
        written, boxes = plant.write_on(clip, Random(i))
        small = torch.nn.functional.interpolate(boxes.float()[None, None], (32, 32))[0, 0] > 0.5
        found = text_masks(written[:1], detector)[0]
        right, said, true = (
            right + int((small & found).sum()),
            said + int(found.sum()),
            true + int(small.sum()),
        )
    assert right / said > 0.85 and right / true > 0.85


def test_clips_without_text_are_left_alone(detector, clips):
    assert sum(text_share(clip, detector) > MOST_TEXT for clip in clips) <= 1
    written = [plant.write_on(clip, Random(i))[0] for i, clip in enumerate(clips)]
    assert sum(text_share(clip, detector) > MOST_TEXT for clip in written) >= 36


def test_real_text_is_found_and_real_pictures_without_are_left_alone(detector, real):
    assert text_share(real["testsrc2"].pixels[:40], detector) > 0.05
    for name in ("bigbuckbunny", "carphone_pristine"):
        assert text_share(real[name].pixels, detector) < MOST_TEXT


def test_a_share_is_the_mean_of_three_frames(detector, clips):
    clip = clips[0].clone()
    clip[2] = plant.write_on(clip[2:3], Random(1))[0][0]
    parts = [float(text_masks(frame[None], detector).float().mean()) for frame in clip[[0, 2, 3]]]
    assert text_share(clip, detector) == pytest.approx(sum(parts) / 3, abs=1e-6)
    assert torch.equal(three_frames(clip), clip[[0, 2, 3]])


def test_masks_keep_the_proportions_of_a_clip(detector):
    frames = torch.zeros(2, 40, 90, 3, dtype=torch.uint8)
    assert text_masks(frames, detector).shape == (2, 32, 72)


def test_a_detector_looks_at_squares_of_two_pixels():
    assert TextDetector(8)(torch.zeros(2, 3, 33, 50)).shape == (2, 17, 25)


def test_stable_regions_are_a_row_of_letters_if_they_stand_like_one():
    plain = torch.full((1, 96, 96, 3), 200, dtype=torch.uint8)
    written, boxes = plant.write_on(plain, Random(6))
    found = mser_mask(written[0])
    assert float((found & boxes).sum() / boxes.sum()) > 0.6
    assert float((found & ~boxes).sum() / found.sum()) < 0.4
    assert not mser_mask(plain[0]).any()
