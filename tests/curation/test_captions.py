"""Captions: the grammar both ways, the merge, and what a fitting caption is worth."""

import pytest
import torch
from torch import nn

from course_lib.curation.captions import (
    LEAST_PROBABILITY,
    agreement,
    draw_captions,
    label_numbers,
    merge,
    read_clips,
    read_pictures,
    sentence,
    sentences,
    stated,
)
from course_lib.data import CLIP_JUDGE, IMAGE_JUDGE, clips
from course_lib.metrics.label_judge import LabelJudge
from course_lib.training.store import load_checkpoint
from course_lib.world import VOCABULARY, LittleWorld


@pytest.mark.parametrize("start", range(0, 300, 100))
def test_what_a_caption_states_are_the_labels_of_its_scene(start):
    world = LittleWorld("test", length=300, seed=5, frames=2)
    for i in range(start, start + 100):
        from course_lib.world import caption, labels

        scene = world.scene(i)
        found = stated(caption(scene))
        true = labels(scene)
        if scene.things[0].material == "matte":
            true.pop("material")  # is not said
        true.pop("floor")
        assert found == true


def test_sentences_follow_the_grammar():
    known = {"scale": "small", "colour": "orange", "shape": "cube", "motion": "slide"}
    assert sentence(known | {"camera": "zoom"}) == "a small orange cube slides as the camera zooms"
    assert sentence({"colour": "orange", "shape": "cone"}) == "an orange cone"
    assert sentence({"motion": "rise", "camera": "still"}) == "something rises"
    assert sentence({"colour": "red", "motion": "collide"}) == "a red thing hits something"


def test_a_sentence_states_the_labels_that_it_was_made_of():
    for motion in VOCABULARY["motion"]:
        for camera in VOCABULARY["camera"]:
            names = {"shape": "cone", "colour": "pink", "motion": motion, "camera": camera}
            numbers = stated(sentence(names))
            assert {n: VOCABULARY[n][k] for n, k in numbers.items() if n != "count"} == names


def test_the_merge_takes_each_label_from_whom_is_surer():
    picture = {"shape": torch.tensor([[0.9, 0.1], [0.6, 0.4]]), "colour": torch.ones(2, 1)}
    clip = {"shape": torch.tensor([[0.2, 0.8], [0.3, 0.7]]), "motion": torch.ones(2, 1)}
    merged = merge(picture, clip)
    assert set(merged) == {"shape", "colour", "motion"}
    torch.testing.assert_close(merged["shape"], torch.tensor([[0.9, 0.1], [0.3, 0.7]]))
    assert label_numbers(merged)["shape"].tolist() == [0, 1]


def test_captions_are_drawn_half_from_the_picture_and_a_quarter_each_from_the_others():
    rng = torch.Generator().manual_seed(0)
    drawn = draw_captions(["p"] * 4000, ["c"] * 4000, ["m"] * 4000, rng)
    shares = [drawn.count(letter) / 4000 for letter in "pcm"]
    assert shares == pytest.approx([0.5, 0.25, 0.25], abs=0.03)


def one_hot(name, value, certain=0.97):
    values = VOCABULARY[name]
    rest = (1 - certain) / (len(values) - 1)
    return torch.tensor([[certain if each == value else rest for each in values]])


def test_a_caption_that_fits_scores_more_than_one_that_does_not():
    picture = {
        name: one_hot(name, value)
        for name, value in (("shape", "cube"), ("colour", "red"), ("count", 1))
    }
    clip = {"motion": one_hot("motion", "rise"), "camera": one_hot("camera", "still")}
    fits = agreement(["a small red cube rises"], picture, clip)
    assert float(fits) == pytest.approx(0.97)
    for wrong in (
        "a small blue cube rises",
        "a small red cube falls",
        "a small red cube rises as the camera orbits",
    ):
        worse = float(agreement([wrong], picture, clip))
        assert worse < 0.6
    certain = picture | {"shape": one_hot("shape", "cone", 1.0)}
    assert float(agreement(["a small red cube rises"], certain, clip)) == pytest.approx(
        (0.97**4 * LEAST_PROBABILITY) ** (1 / 5), rel=1e-3
    )


def test_a_picture_does_not_say_which_of_two_things_is_meant():
    picture = {"shape": one_hot("shape", "cone"), "count": one_hot("count", 2)}
    clip = {"motion": one_hot("motion", "rise"), "camera": one_hot("camera", "still")}
    several = "a small red cube rises behind a blue cone"
    assert float(agreement([several], picture, clip)) == pytest.approx(0.97)
    with_shape = clip | {"shape": one_hot("shape", "cone")}
    assert float(agreement([several], picture, with_shape)) < 0.6


def test_judges_read_clips_of_any_size_and_length():
    found = clips("test", 60, 17)
    picture_judge, clip_judge = (load_checkpoint(name)[0] for name in (IMAGE_JUDGE, CLIP_JUDGE))
    large = found["pixels"].repeat_interleave(2, 2).repeat_interleave(2, 3)
    for pixels in (found["pixels"], large):
        picture = read_pictures(pixels, picture_judge)
        readings = read_clips(pixels, clip_judge)
        right = {
            name: float((values.argmax(1) == found[name]).float().mean())
            for name, values in (picture | readings).items()
        }
        assert right["shape"] > 0.6 and right["colour"] > 0.9 and right["count"] > 0.9
        assert right["motion"] > 0.5 and right["camera"] > 0.8
    captions = sentences(merge(picture, readings))
    assert len(captions) == 60 and captions[0].startswith(("a small ", "a large "))


class Mean(nn.Module):
    """A judge's network that looks at the mean only, and keeps what it was given."""

    def forward(self, x):
        self.seen = x
        return x.flatten(1)[:, :3]


def test_a_judge_gets_the_middle_frame_or_evenly_spaced_ones():
    judge = LabelJudge(Mean(), {"camera": 3})
    ramp = torch.arange(9, dtype=torch.uint8).view(1, 9, 1, 1, 1).expand(2, 9, 8, 8, 3) * 25
    read_pictures(ramp, judge, 8)
    assert judge.network.seen.shape == (2, 3, 8, 8)
    assert float(judge.network.seen.mean()) == pytest.approx(100 / 127.5 - 1, abs=1e-5)
    read_clips(ramp, judge, 5, 8)
    seen = judge.network.seen.mean((2, 3, 4))[0]
    torch.testing.assert_close(seen, torch.tensor([0, 50, 100, 150, 200]) / 127.5 - 1)
