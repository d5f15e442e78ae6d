"""Cuts and fades: planted ones, five real cuts that were looked at, and PySceneDetect beside them.

The cuts of "bikes" were read off a contact sheet of its 250 frames and, around each cut, six frames
side by side: frames 30, 76, 137, 187 and 242 are the first of a new shot.  The animated film and
the man in the car are one shot each.
"""

from random import Random

import pytest
import torch

from course_lib.curation import plant
from course_lib.curation.cuts import (
    Stage,
    cascade,
    find_cuts,
    find_fades,
    frame_distances,
    scene_detect,
    scenes,
    snap,
    straightness,
)
from course_lib.world import LittleWorld, float_to_pixels

BIKES = [30, 76, 137, 187, 242]


@pytest.fixture(scope="module")
def pairs():
    world = LittleWorld("test", 32, 17, length=24, seed=4)
    pixels = float_to_pixels(world.batch(range(24))["pixels"])
    return list(zip(pixels[::2], pixels[1::2], strict=True))


def grey(*levels):
    """A clip of plain frames."""
    return torch.tensor(levels, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 4, 5, 3)


def test_distances_are_means_of_bytes():
    assert frame_distances(grey(0, 10, 4)).tolist() == [10, 6]


def test_a_cut_stands_out_from_its_neighbours():
    assert find_cuts(grey(0, 0, 0, 50, 50, 50)) == [3]
    assert find_cuts(grey(0, 40, 80, 120, 160, 200)) == []  # fast, but steadily
    assert find_cuts(grey(0, 0, 7, 7, 7)) == []  # less than `least`
    assert find_cuts(grey(0, 0, 8, 8, 8)) == [2]
    assert find_cuts(grey(0, 10, 20, 50, 60, 70)) == [3]  # exactly three times as far
    assert find_cuts(grey(0, 10, 20, 49, 59, 69)) == []
    assert find_cuts(grey(0, 10, 20, 49, 59, 69), ratio=2.9) == [3]
    assert find_cuts(grey(0, 90, 90, 90)) == [1] and find_cuts(grey(0, 0, 0, 90)) == [3]
    assert find_cuts(grey(0, 90)) == [1] and find_cuts(grey(5)) == []


def test_the_window_says_how_far_away_neighbours_are():
    clip = grey(0, 30, 60, 60, 60, 85, 85, 85, 115)
    assert 5 in find_cuts(clip, window=2) and 5 not in find_cuts(clip, window=3)


def test_cuts_of_the_world_are_found_and_nothing_else(pairs):
    rng = Random(0)
    for first, second in pairs:
        at = rng.randrange(1, 17)
        assert find_cuts(plant.join(first, second, at)) == [at]
        assert find_cuts(first) == [] and find_fades(first) == []


def test_two_cuts_in_one_clip_are_both_found(pairs):
    (a, b), (c, _) = pairs[:2]
    assert find_cuts(torch.cat([a, b, c])) == [17, 34]


@pytest.mark.parametrize("soft", [plant.dissolve, plant.fade])
def test_fades_of_the_world_are_found_near_their_middle(pairs, soft):
    found = 0
    for first, second in pairs:
        fades = find_fades(soft(first, second, 6, 4))
        found += len(fades) == 1 and abs(fades[0] - 8) <= 2
    assert found >= 10  # of 12


def test_neighbouring_frames_hide_a_dissolve(pairs):
    assert sum(bool(find_cuts(plant.dissolve(*pair, 6, 4))) for pair in pairs) <= 3  # of 12


def test_a_dissolve_is_straight_and_a_cut_is_bent():
    change, bend = straightness(grey(0, 0, 10, 20, 20), 1)
    assert change.tolist() == [10, 20, 10] and bend.tolist() == [0.5, 0, 0.5]


def test_a_cascade_sees_what_neighbouring_frames_hide():
    slow = grey(*[10] * 8, 40, 70, 100, *[130] * 8)
    assert find_cuts(slow) == []
    (found,) = cascade(slow)
    assert 8 <= found <= 11
    assert cascade(grey(*[0] * 8, *[90] * 8)) == [8]
    assert (
        cascade(slow, (Stage(1), Stage(2))) == [] or len(cascade(slow, (Stage(1), Stage(2)))) == 1
    )


def test_real_cuts_are_those_that_a_person_sees(real):
    assert find_cuts(real["bikes"].pixels) == BIKES == scene_detect(real["bikes"].pixels)
    assert cascade(real["bikes"].pixels) == BIKES
    for name, clip in real.items():
        assert name == "bikes" or find_cuts(clip.pixels) == cascade(clip.pixels) == []
        assert find_fades(clip.pixels) == []


def test_real_shots_joined_are_taken_apart_again(real):
    shots = [
        real[name].pixels[:40, :64, :78] for name in ("bigbuckbunny", "carphone_pristine", "bikes")
    ]
    assert find_cuts(torch.cat(shots)) == [40, 80, 110]


def test_py_scene_detect_agrees_away_from_the_ends(pairs):
    for first, second in pairs:
        joined = plant.join(first, second, 8)
        assert scene_detect(joined) == find_cuts(joined) == [8]
    assert scene_detect(plant.join(*pairs[0], 1)) == []  # it needs two frames on each side


def test_scenes_lie_between_the_cuts():
    assert scenes(10, [4, 7]) == [(0, 4), (4, 7), (7, 10)] and scenes(5, []) == [(0, 5)]
    assert scenes(10, [7, 4], least=4) == [(0, 4)]
    for cut in (0, 10):
        with pytest.raises(ValueError, match="cuts: expected frames 1 to 9"):
            scenes(10, [cut])


def test_a_scene_starts_at_its_own_first_key_frame(real):
    assert snap(10, 30, [0, 12, 24, 36]) == 12 and snap(10, 12, [0, 12]) is None
    assert snap(12, 30, [12, 24]) == 12
    bikes = real["bikes"]
    shots = scenes(len(bikes.pixels), BIKES)
    assert [snap(*shot, bikes.key_frames) for shot in shots] == [0, *BIKES]
