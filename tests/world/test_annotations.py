"""Annotated images and clips: the maps are those of the renderer, and turn with the image."""

import pytest
import torch

from course_lib.world import VOCABULARY, images, render, render_scenes, scenes
from course_lib.world.annotations import (
    MAPS,
    annotate,
    centres,
    draw_holes,
    find_edges,
    like_examples,
    majority,
    reach,
    turn,
)
from course_lib.world.batch import image_scenes
from course_lib.world.map_colours import (
    CLASSES,
    FARTHEST_METRES,
    NEAREST_METRES,
    draw_palettes,
    pixels_to_classes,
    pixels_to_depth,
    pixels_to_edges,
    pixels_to_grey,
    pixels_to_normal,
    to_grey,
)
from course_lib.world.motion import full_turn

SIZE = (20, 26)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture(scope="module")
def stills():
    return annotate(image_scenes(7, 3, count=(1, 2, 3)), SIZE)


def fields_equal(one, other):
    return all(torch.equal(field, vars(other)[name]) for name, field in vars(one).items())


# ---------------------------------------------------------------- what is rendered


def test_images_and_maps_are_those_of_single_renders(stills):
    assert torch.equal(stills.rgb, images(7, SIZE, 3, count=(1, 2, 3)))
    for i, scene in enumerate(image_scenes(7, 3, count=(1, 2, 3))):
        single = render(scene, SIZE, 1)
        assert torch.equal(stills.depth[i], single.depth[0])
        assert torch.equal(stills.normal[i], single.normal[0])
        assert torch.equal(stills.things[i], single.segmentation[0])


def test_the_class_of_a_thing_is_its_shape(stills):
    for i, scene in enumerate(image_scenes(7, 3, count=(1, 2, 3))):
        for number, name in ((0, "backdrop"), (1, "floor")):
            of_stage = stills.things[i] == number
            assert (stills.classes[i][of_stage] == CLASSES.index(name)).all()
        for number, thing in enumerate(scene.things):
            of_thing = stills.things[i] == 2 + number
            assert of_thing.any()
            assert (stills.classes[i][of_thing] == CLASSES.index(thing.shape)).all()
    assert CLASSES[2:] == VOCABULARY["shape"]


def test_clips_are_those_of_the_renderer():
    drawn = scenes(3, 5, motion=("slide", "bounce"), camera="orbit")
    clips, rendered = annotate(drawn, SIZE, frames=4), render_scenes(drawn, SIZE, 4)
    assert clips.rgb.shape == (3, 4, *SIZE, 3) and len(clips) == 3
    for ours, theirs in (("rgb", "rgb"), ("depth", "depth"), ("things", "segmentation")):
        assert torch.equal(getattr(clips, ours), getattr(rendered, theirs))
    first = annotate(drawn, SIZE)
    assert fields_equal(clips[:, 0], first) and fields_equal(
        clips[[2, 0]], annotate(drawn[::-2], SIZE, 4)
    )
    assert torch.equal(clips.edges[:, 0], first.edges)


@pytest.mark.parametrize("size", [(16, 16), (16, 32), (32, 16)], ids=str)
def test_every_depth_of_the_world_has_a_colour(size):
    everything = annotate(scenes(60, 1, camera=("still", "orbit", "zoom")), size, frames=3)
    assert everything.depth.min() > NEAREST_METRES and everything.depth.max() < FARTHEST_METRES


def test_views_all_around_a_scene():
    scene = scenes(1, 2, motion="rest", camera="zoom")[0]
    views = annotate([full_turn(scene, 6)], 24, frames=6)
    finer = annotate([full_turn(scene, 12)], 24, frames=12)
    rgb, other = views.rgb[0].double(), finer.rgb[0, ::2].double()
    assert (rgb - other).abs().mean((1, 2, 3)).max() < 0.1
    assert (rgb - rgb.roll(1, 0)).abs().mean((1, 2, 3)).min() > 2


# ---------------------------------------------------------------- maps as images and back


def test_every_map_comes_back_from_its_image(stills):
    drawn = {name: stills.draw(name) for name in MAPS}
    for pixels in drawn.values():
        assert pixels.shape == (7, *SIZE, 3) and pixels.dtype == torch.uint8
    assert torch.equal(drawn["image"], stills.rgb)
    assert torch.equal(pixels_to_classes(drawn["segmentation"]), stills.classes)
    assert torch.equal(pixels_to_edges(drawn["edges"]), stills.edges)
    assert torch.equal(pixels_to_grey(drawn["grey"]), to_grey(stills.rgb))
    depth = pixels_to_depth(drawn["depth"])
    assert ((depth - stills.depth) / stills.depth).abs().max() < 0.002
    cosine = (pixels_to_normal(drawn["normal"]) * stills.normal).sum(-1)
    assert cosine.min() > 0.9999

    palettes = draw_palettes(torch.rand(7, 27, generator=seeded()))
    other = stills.draw("segmentation", palettes)
    assert not torch.equal(other, drawn["segmentation"])
    assert torch.equal(pixels_to_classes(other, palettes), stills.classes)


def test_an_unknown_map_is_refused_by_name(stills):
    with pytest.raises(ValueError, match=r"name: expected one of image, depth, .*, got 'flow'"):
        stills.draw("flow")


# ---------------------------------------------------------------- edges


def edges_one_by_one(depth, normal, things):
    """The definition, pixel pair by pixel pair."""
    height, width = things.shape
    edges = torch.zeros(height, width, dtype=torch.bool)
    for row in range(height):
        for column in range(width):
            for other in ((row + 1, column), (row, column + 1)):
                if other[0] == height or other[1] == width:
                    continue
                here = (row, column)
                crease = float(normal[here] @ normal[other]) < 0.7071
                if things[here] != things[other] or crease:
                    edges[here if depth[here] <= depth[other] else other] = True
    return edges


def test_edges_are_as_defined(stills):
    for i in range(4):
        expected = edges_one_by_one(stills.depth[i], stills.normal[i], stills.things[i])
        assert torch.equal(stills.edges[i], expected)
    assert 0.02 < stills.edges.double().mean() < 0.25


def test_edges_of_a_hand_made_map():
    things = torch.tensor([[1, 1, 2, 2, 1]])
    depth = torch.tensor([[5.0, 5, 3, 3, 5]])
    normal = torch.tensor([0.0, 0, 1]).expand(1, 5, 3)
    assert find_edges(depth, normal, things).tolist() == [[False, False, True, True, False]]
    upright = find_edges(depth.T, normal.transpose(0, 1), things.T)
    assert upright.flatten().tolist() == [False, False, True, True, False]
    creased = normal.clone()
    creased[0, 3:] = torch.tensor([1.0, 0, 0])
    found = find_edges(
        torch.full((1, 5), 4.0) - torch.arange(5) / 10, creased, torch.ones_like(things)
    )
    assert found.tolist() == [[False, False, False, True, False]]


# ---------------------------------------------------------------- turning


@pytest.mark.parametrize("quarters", [0, 1, 2, 3, 5, -1])
def test_all_maps_turn_with_the_image(stills, quarters):
    turned = stills.turned(quarters)
    for name in ("image", "depth", "segmentation", "edges", "grey"):
        assert torch.equal(turned.draw(name), turn(stills.draw(name), quarters)), name
    assert fields_equal(turned.turned(-quarters), stills)


def test_a_quarter_is_counter_clockwise():
    image = torch.arange(6, dtype=torch.uint8).reshape(1, 2, 3, 1).expand(-1, -1, -1, 3)
    assert turn(image)[0, ..., 0].tolist() == [[2, 5], [1, 4], [0, 3]]


def test_a_normal_to_the_right_points_up_after_a_quarter(stills):
    row, column = 9, 4
    x, y, z = stills.normal[0, row, column]
    # The first row is what was the last column.
    torch.testing.assert_close(
        stills.turned(1).normal[0, SIZE[1] - 1 - column, row], torch.stack([-y, x, z])
    )


def test_clips_turn_too():
    clips = annotate(scenes(2, 5), SIZE, frames=3)
    turned = clips.turned(1)
    assert turned.rgb.shape == (2, 3, SIZE[1], SIZE[0], 3)
    for i in range(3):
        assert fields_equal(turned[:, i], clips[:, i].turned(1))


# ---------------------------------------------------------------- holes


@pytest.mark.parametrize("size", [(20, 26), (32, 32), (32, 16)], ids=str)
def test_holes_are_squares_inside_the_image(size):
    uniform = torch.rand(500, 3, generator=seeded())
    uniform[0], uniform[1] = 0.0, 1 - 1e-7
    holes = draw_holes(uniform, size)
    short = min(size)
    sides = set()
    for hole in holes:
        rows, columns = hole.any(1).nonzero().flatten(), hole.any(0).nonzero().flatten()
        side = len(rows)
        assert len(columns) == side and hole.sum() == side * side
        assert rows[-1] - rows[0] == side - 1 and columns[-1] - columns[0] == side - 1
        sides.add(side)
    assert min(sides) == round(0.25 * short) and max(sides) == round(0.5 * short)
    assert holes.any(0).double().mean() > 0.98
    assert holes[0, 0, 0] and holes[1, -1, -1]


# ---------------------------------------------------------------- reading frames


def test_the_nearest_example_labels_a_pixel():
    generator = seeded()
    examples = torch.randint(0, 256, (3, 2, 4, 5, 3), generator=generator, dtype=torch.uint8)
    labels = torch.randint(0, 9, (3, 2, 4, 5), generator=generator)
    pixels = torch.randint(0, 256, (3, 6, 7, 3), generator=generator, dtype=torch.uint8)
    found = like_examples(pixels, examples, labels)
    assert found.shape == (3, 6, 7)
    for i in range(3):
        apart = torch.cdist(pixels[i].flatten(0, 1).double(), examples[i].flatten(0, 2).double())
        expected = labels[i].flatten()[apart.argmin(1)].view(6, 7)
        assert (found[i] == expected).double().mean() > 0.97  # the rest are ties
    assert torch.equal(like_examples(examples[:, 0], examples[:, 0], labels[:, 0]), labels[:, 0])


def test_where_a_thing_is_is_read_from_frames_that_continue_others():
    drawn = scenes(24, 4, count=1, motion=("slide", "orbit", "bounce"), camera="still")
    clips = annotate(drawn, 32, frames=8)
    is_thing = clips.things >= 2
    read = like_examples(clips.rgb[:, 6], clips.rgb[:, :5], is_thing[:, :5])
    error = (centres(read) - centres(is_thing[:, 6])).norm(dim=-1)
    moved = (centres(is_thing[:, 4]) - centres(is_thing[:, 6])).norm(dim=-1)
    assert error.median() < 0.5 and error.median() < moved.median() / 3

    # Noise scatters single pixels over the image; the vote removes them.
    noise = 8 * torch.randn(clips.rgb[:, 6].shape, generator=seeded())
    noisy = (clips.rgb[:, 6] + noise).round().clamp(0, 255).byte()
    read = like_examples(noisy, clips.rgb[:, :5], is_thing[:, :5])
    scattered, voted = (
        (centres(found) - centres(is_thing[:, 6])).norm(dim=-1) for found in (read, majority(read))
    )
    assert voted.median() < 0.5 and voted.median() < scattered.median() / 2


def test_the_majority_of_nine_decides():
    mask = torch.zeros(2, 1, 5, 7, dtype=torch.bool)
    mask[0, 0, 1:4, 1:5] = True
    mask[0, 0, 2, 2] = False
    mask[1, 0, 2, 3] = mask[1, 0, 0, 0] = True
    expected = torch.zeros_like(mask)
    expected[0, 0, 1, 2:4] = expected[0, 0, 2, 1:5] = expected[0, 0, 3, 2:4] = True
    assert torch.equal(majority(mask), expected)
    assert majority(torch.ones(4, 5, dtype=torch.bool))[1:-1, :].all()


def test_centres_and_reach_of_hand_made_masks():
    mask = torch.zeros(2, 3, 5, 7, dtype=torch.bool)
    mask[0, 0, 1, 2] = True
    mask[0, 1, 1:3, 2:6] = True
    mask[1, 0] = True
    place, size = centres(mask), reach(mask)
    assert place.shape == (2, 3, 2) and size.shape == (2, 3)
    assert place[0, 0].tolist() == [2.5, 1.5] and place[0, 1].tolist() == [4.0, 2.0]
    assert place[1, 0].tolist() == [3.5, 2.5]
    assert place[0, 2].isnan().all() and place[1, 1].isnan().all()
    assert size.tolist() == [[1, 4, 0], [7, 0, 0]]
