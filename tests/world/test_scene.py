"""Scenes, motions, captions and labels."""

import math

import pytest
import torch

from course_lib.world import (
    DURATION_SECONDS,
    VOCABULARY,
    caption,
    contacts,
    label_names,
    labels,
    render,
    sample_scene,
    scenes,
)
from course_lib.world.batch import scene_seed
from course_lib.world.caption import relation
from course_lib.world.motion import poses, view
from course_lib.world.scene import MOTIONS, SCALES


def test_a_seed_is_a_scene():
    # Random(2) and Random(2**32 + 2) are the same generator.
    assert sample_scene(2) != sample_scene(2**32 + 2)
    assert sample_scene(7) == sample_scene(7)
    assert len({sample_scene(seed) for seed in range(50)}) == 50


@pytest.mark.parametrize("attribute", VOCABULARY)
def test_every_value_can_be_asked_for(attribute):
    for number, value in enumerate(VOCABULARY[attribute]):
        for seed in range(3):
            assert labels(sample_scene(seed, **{attribute: value}))[attribute] == number


def test_several_values_may_be_allowed():
    colours = {sample_scene(seed, colour=("red", "blue")).things[0].colour for seed in range(40)}
    assert colours == {"red", "blue"}


@pytest.mark.parametrize(
    ("constraints", "message"),
    [
        ({"colour": "mauve"}, "purple"),
        ({"count": 4}, r"\(1, 2, 3\)"),
        ({"shape": ()}, "sphere"),
        ({"speed": "fast"}, "motion"),
        ({"motion": "collide", "count": 1}, r"\[2, 3\]"),
        ({"motion": "orbit", "count": 3}, r"\[1, 2\]"),
        ({"camera": 3}, "orbit"),
    ],
)
def test_impossible_constraints_name_what_is_allowed(constraints, message):
    with pytest.raises(ValueError, match=message):
        sample_scene(0, **constraints)


@pytest.mark.parametrize("seed", [-1, -(2**40)])
def test_bad_seed(seed):
    with pytest.raises(ValueError, match="seed"):
        sample_scene(seed)


def test_each_label_is_about_equally_likely():
    found = [labels(scene) for scene in scenes(600, count=2)]
    for attribute in ("shape", "colour", "scale", "material", "motion", "camera"):
        n = len(VOCABULARY[attribute])
        counts = [sum(each[attribute] == number for each in found) for number in range(n)]
        assert min(counts) > 0.5 * 600 / n
        assert max(counts) < 1.6 * 600 / n


@pytest.mark.parametrize("motion", MOTIONS)
def test_things_meet_only_in_a_collision(motion):
    for seed in range(12):
        scene = sample_scene(seed, motion=motion)
        for step in range(33):
            now = poses(scene, DURATION_SECONDS * step / 32)
            for i in range(len(now)):
                for j in range(i):
                    room = 0 if motion == "collide" and i == 1 else SCALES[scene.things[i].scale]
                    assert math.dist((now[i].x, now[i].y), (now[j].x, now[j].y)) > room
                assert now[i].z >= 0


def test_a_collision_touches_at_its_contact_and_passes_the_momentum_on():
    for seed in range(20):
        scene = sample_scene(seed, motion="collide", count=2)
        (contact,) = contacts(scene)
        before, at, after = (poses(scene, contact.time + dt) for dt in (-1e-3, 0.0, 1e-3))
        mass = [SCALES[thing.scale] ** 3 for thing in scene.things]

        def speed(i, early, late):
            return math.dist((early[i].x, early[i].y), (late[i].x, late[i].y)) / 1e-3

        assert speed(1, before, at) == 0
        direction = math.cos(scene.things[0].yaw), math.sin(scene.things[0].yaw)
        along = [
            (after[i].x - at[i].x) * direction[0] + (after[i].y - at[i].y) * direction[1]
            for i in (0, 1)
        ]
        momentum = sum(m * v / 1e-3 for m, v in zip(mass, along, strict=True))
        assert momentum == pytest.approx(mass[0] * speed(0, before, at), rel=0.02)
        touching = math.dist((at[0].x, at[0].y), (at[1].x, at[1].y))
        assert touching <= sum(SCALES[thing.scale] for thing in scene.things) + 1e-5


@pytest.mark.parametrize("motion", ["bounce", "fall"])
def test_contacts_with_the_floor_are_on_the_floor(motion):
    for seed in range(10):
        scene = sample_scene(seed, motion=motion)
        assert contacts(scene)
        for contact in contacts(scene):
            assert poses(scene, contact.time)[0].z == pytest.approx(0, abs=1e-4)
            assert poses(scene, contact.time - 0.05)[0].z > 0.01


@pytest.mark.parametrize("motion", [motion for motion in MOTIONS if motion != "rest"])
def test_every_motion_is_seen(motion):
    for seed in range(6):
        rgb = render(sample_scene(seed, motion=motion, camera="still"), 32, 9).rgb.int()
        assert (rgb[1:] - rgb[:1]).abs().amax((1, 2, 3)).max() > 40


def test_cameras_keep_still_orbit_and_zoom():
    def path(kind):
        camera = sample_scene(1, camera=kind).camera
        return view(camera, 0.0), view(camera, DURATION_SECONDS)

    start, end = path("still")
    assert start == end
    start, end = path("orbit")
    assert start.focal == end.focal
    assert start.eye[2] == end.eye[2]
    assert math.dist(start.eye, end.eye) > 2
    start, end = path("zoom")
    assert start.eye == end.eye
    assert abs(math.log(end.focal / start.focal)) > 0.3


def test_captions():
    scene = sample_scene(
        0, shape="cube", colour="red", scale="small", material="matte", motion="bounce", count=2
    )
    assert caption(scene).startswith("a small red cube bounces ")
    scene = sample_scene(
        0,
        shape="cone",
        colour="orange",
        material="shiny",
        motion="collide",
        count=3,
        camera="orbit",
    )
    other, third = scene.things[1:]
    words = caption(scene)
    assert (
        f"shiny orange cone hits a{'n' if other.colour == 'orange' else ''} {other.colour}"
        f" {other.shape} " in words
    )
    assert f"{third.colour} {third.shape} as the camera orbits" in words
    assert " a orange" not in " ".join(caption(scene) for scene in scenes(200))


def test_relations_are_true_from_the_first_camera():
    """Left and right come from the projection into the image, front and behind from the depth."""
    found = set()
    for scene in scenes(40, 3, count=(2, 3)):
        clip = render(scene, 64, 2)
        camera, first = view(scene.camera, 0.0), poses(scene, 0.0)[0]

        def across(pose, camera=camera):
            """Return where a thing is in the image, from left to right."""
            away = [p - e for p, e in zip((pose.x, pose.y, pose.z), camera.eye, strict=True)]
            side, depth = (
                sum(p * q for p, q in zip(away, axis, strict=True))
                for axis in (camera.right, camera.forward)
            )
            return side / depth

        for number, other in enumerate(scene.things[1:], start=1):
            assert (
                clip.segmentation[0] == 2 + number
            ).sum() > 5  # Everything in the caption can be seen.
            words = relation(scene, other)
            found.add(words)
            x, other_x = across(first), across(poses(scene, 0.0)[number])
            ground = (
                math.dist(camera.eye[:2], (first.x, first.y)),
                math.dist(camera.eye[:2], (other.x, other.y)),
            )
            assert {
                "left of": x < other_x,
                "right of": x > other_x,
                "behind": ground[0] > ground[1],
                "in front of": ground[0] < ground[1],
            }[words]
    assert len(found) == 4


def test_label_names():
    scene = sample_scene(2, shape="cone", count=2)
    names = label_names(labels(scene))
    assert names["shape"] == "cone"
    assert names["count"] == 2
    assert set(names) == set(VOCABULARY)


def test_scene_seeds_never_meet():
    seeds = {
        scene_seed(seed, index, stream)
        for seed in range(4)
        for index in (0, 1, 2**32 - 1)
        for stream in ("free", "train", "test")
    }
    assert len(seeds) == 36
    with pytest.raises(ValueError, match="index"):
        scene_seed(0, 2**32)
    with pytest.raises(ValueError, match="n: expected"):
        scenes(0)


def test_a_frame_does_not_depend_on_how_many_there_are():
    scene = sample_scene(4, motion="slide")
    many, few = render(scene, 16, 17), render(scene, 16, 5)
    assert torch.equal(many.rgb[::4], few.rgb)
