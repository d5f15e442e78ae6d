"""Maps to colours and back: exact on what was drawn, and near on what is noisy."""

import itertools

import pytest
import torch

from course_lib.world import images
from course_lib.world.map_colours import (
    CLASSES,
    FARTHEST_METRES,
    HOLE,
    NEAREST_METRES,
    PALETTE,
    POOL,
    classes_to_pixels,
    cut_holes,
    depth_to_pixels,
    draw_palettes,
    edges_to_pixels,
    grey_to_pixels,
    normal_to_pixels,
    pixels_to_classes,
    pixels_to_depth,
    pixels_to_edges,
    pixels_to_grey,
    pixels_to_holes,
    pixels_to_normal,
    to_grey,
)

SHAPE = (3, 4, 5)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def noisy(pixels, sigma, seed=1):
    """Add a normal error of so many bytes to every channel."""
    noise = sigma * torch.randn(pixels.shape, generator=seeded(seed))
    return (pixels.float() + noise).round().clamp(0, 255).byte()


def directions(*shape, seed=0):
    vector = torch.randn(*shape, 3, generator=seeded(seed))
    return vector / vector.norm(dim=-1, keepdim=True)


def degrees(a, b):
    return (a * b).sum(-1).clamp(-1, 1).acos().rad2deg()


# ---------------------------------------------------------------- depth


def depths(n=2000):
    return torch.linspace(NEAREST_METRES, FARTHEST_METRES, n)


def test_depth_comes_back_to_a_fifth_of_a_percent():
    depth = depths().reshape(2, 10, 100)
    pixels = depth_to_pixels(depth)
    assert pixels.shape == (2, 10, 100, 3) and pixels.dtype == torch.uint8
    assert ((pixels_to_depth(pixels) - depth) / depth).abs().max() < 0.002


def test_depth_runs_from_white_over_yellow_and_red_to_black():
    ends_and_corners = torch.tensor([2.0, 6 * 5 / 7, 6 * 7 / 5, 18.0])
    colours = depth_to_pixels(ends_and_corners).tolist()
    assert colours == [[255, 255, 255], [255, 255, 0], [255, 0, 0], [0, 0, 0]]
    assert depth_to_pixels(torch.tensor([0.5, 100.0])).tolist() == [[255] * 3, [0] * 3]


def test_every_colour_of_the_path_comes_back_as_itself():
    pixels = depth_to_pixels(depths(20_000)).unique(dim=0)
    assert len(pixels) == 3 * 255 + 1
    assert torch.equal(depth_to_pixels(pixels_to_depth(pixels)), pixels)


def test_brightness_falls_with_depth():
    brightness = depth_to_pixels(depths()).int().sum(-1)
    assert (brightness.diff() <= 0).all()


@pytest.mark.parametrize(("sigma", "error"), [(5, 0.015), (15, 0.045), (30, 0.1)])
def test_depth_of_noisy_colours_is_near(sigma, error):
    depth = depths()
    back = pixels_to_depth(noisy(depth_to_pixels(depth), sigma))
    assert ((back - depth) / depth).abs().mean() < error
    assert back.min() >= NEAREST_METRES - 1e-5 and back.max() <= FARTHEST_METRES + 1e-4


def test_any_colour_is_the_nearest_on_the_path():
    pixels = torch.randint(0, 256, (200, 3), generator=seeded(), dtype=torch.uint8)
    path = depth_to_pixels(depths(20_000)).float().unique(dim=0)
    chosen = depth_to_pixels(pixels_to_depth(pixels)).float()
    found = (chosen - pixels).norm(dim=-1)
    torch.testing.assert_close(found, torch.cdist(pixels.float(), path).amin(1), atol=0.6, rtol=0)


# ---------------------------------------------------------------- normals


def test_normals_come_back_to_half_a_degree():
    normal = directions(*SHAPE, 50)
    back = pixels_to_normal(normal_to_pixels(normal))
    assert back.shape == normal.shape and degrees(back, normal).max() < 0.5
    torch.testing.assert_close(back.norm(dim=-1), torch.ones(*SHAPE, 50))


def test_axes_are_channels():
    normal = torch.tensor([[1.0, 0, 0], [0, 1, 0], [0, 0, 1], [0, -1, 0]])
    expected = [[255, 128, 128], [128, 255, 128], [128, 128, 255], [128, 0, 128]]
    assert normal_to_pixels(normal).tolist() == expected


@pytest.mark.parametrize(("sigma", "error"), [(5, 4), (15, 12)])
def test_normals_of_noisy_colours_are_near_and_of_length_1(sigma, error):
    normal = directions(4000)
    back = pixels_to_normal(noisy(normal_to_pixels(normal), sigma))
    assert degrees(back, normal).mean() < error
    torch.testing.assert_close(back.norm(dim=-1), torch.ones(4000))


def test_a_grey_without_direction_points_to_the_viewer():
    grey = torch.full((2, 3, 3), 127, dtype=torch.uint8)
    assert pixels_to_normal(grey).tolist() == [[[0, 0, 1]] * 3] * 2


# ---------------------------------------------------------------- segmentation


def test_classes_come_back():
    classes = torch.randint(0, len(CLASSES), SHAPE, generator=seeded())
    pixels = classes_to_pixels(classes)
    assert pixels.shape == (*SHAPE, 3) and pixels.dtype == torch.uint8
    assert torch.equal(pixels_to_classes(pixels), classes)


def test_classes_of_colours_that_are_off_by_a_hundred_come_back():
    """The palette's colours are 220 apart or more: half of that is the worst that cannot matter."""
    apart = torch.pdist(PALETTE.double())
    assert apart.min() > 219.9
    classes = torch.randint(0, len(CLASSES), (5000,), generator=seeded())
    off = 105 * directions(5000).double()
    pixels = (classes_to_pixels(classes).double() + off).clamp(0, 255).byte()
    assert torch.equal(pixels_to_classes(pixels), classes)
    found = pixels_to_classes(noisy(classes_to_pixels(classes), 30))
    assert (found == classes).double().mean() > 0.99


@pytest.mark.parametrize("pair", itertools.combinations(range(len(CLASSES)), 2), ids=str)
def test_a_blend_of_neighbours_is_no_third_class(pair):
    """A decoder blurs; only shapes at opposite corners of the square may be taken for another."""
    share = torch.linspace(0, 1, 101)[:, None]
    one, other = PALETTE[list(pair)].double()
    blend = (one * (1 - share) + other * share).round().byte()
    found = set(pixels_to_classes(blend).tolist())
    opposite = {("sphere", "cube"), ("cylinder", "cone")}
    if tuple(CLASSES[i] for i in pair) not in opposite:
        assert found == set(pair)
    else:
        assert set(pair) <= found


def test_a_palette_of_its_own_for_every_image():
    uniform = torch.rand(len(SHAPE) + 1, len(POOL), generator=seeded())
    palettes = draw_palettes(uniform)
    assert palettes.shape == (4, 6, 3)
    for palette in palettes:
        assert len(palette.unique(dim=0)) == 6
        assert all((colour == POOL).all(1).any() for colour in palette)
    assert not torch.equal(palettes[0], palettes[1])

    classes = torch.randint(0, 6, (4, 5, 7), generator=seeded())
    pixels = classes_to_pixels(classes, palettes)
    for image in range(4):
        assert torch.equal(pixels[image], classes_to_pixels(classes[image], palettes[image]))
    assert torch.equal(pixels_to_classes(pixels, palettes), classes)
    assert torch.equal(pixels_to_classes(noisy(pixels, 10), palettes), classes)
    clips = classes.unflatten(1, (1, 5))
    assert torch.equal(pixels_to_classes(classes_to_pixels(clips, palettes), palettes), clips)


def test_a_palette_of_three_colours_and_equal_distances():
    palette = torch.tensor([[0, 0, 0], [100, 0, 0], [0, 0, 200]], dtype=torch.uint8)
    pixels = torch.tensor([[50, 0, 0], [51, 0, 0], [0, 0, 100], [0, 0, 101]], dtype=torch.uint8)
    assert pixels_to_classes(pixels, palette).tolist() == [0, 1, 0, 2]


def test_classes_and_palettes_that_do_not_fit_are_refused():
    one = torch.zeros(2, 3, 4, dtype=torch.long)
    for classes in (one + 6, one - 1):
        with pytest.raises(ValueError, match=r"classes: expected numbers from 0 to 5, got some fr"):
            classes_to_pixels(classes)
    with pytest.raises(ValueError, match=r"palette: expected one \(k 3\), or .* got \(3, 6, 3\)"):
        classes_to_pixels(one, torch.stack([PALETTE] * 3))
    with pytest.raises(ValueError, match=r"palette: expected one \(k 3\), or .* got \(3, 6, 3\)"):
        pixels_to_classes(classes_to_pixels(one), torch.stack([PALETTE] * 3))
    for uniform, k in ((torch.rand(2, 26), 6), (torch.rand(2, 27), 28), (torch.rand(2, 27), 0)):
        with pytest.raises(ValueError, match="expected 27 random numbers a palette and 1 to 27"):
            draw_palettes(uniform, k)


# ---------------------------------------------------------------- edges, grey, holes


def test_edges_come_back_also_from_noise():
    edges = torch.rand(SHAPE, generator=seeded()) < 0.2
    pixels = edges_to_pixels(edges)
    assert set(pixels.unique().tolist()) == {0, 255}
    assert torch.equal(pixels_to_edges(pixels), edges)
    assert torch.equal(pixels_to_edges(noisy(pixels, 40)), edges)


def test_grey_is_luma_and_comes_back():
    primaries = torch.tensor([[255, 0, 0], [0, 255, 0], [0, 0, 255], [255] * 3], dtype=torch.uint8)
    assert to_grey(primaries).tolist() == [76, 150, 29, 255]
    grey = torch.arange(256, dtype=torch.uint8).reshape(8, 32)
    assert torch.equal(pixels_to_grey(grey_to_pixels(grey)), grey)
    assert torch.equal(to_grey(grey_to_pixels(grey)), grey)
    near = pixels_to_grey(noisy(grey_to_pixels(grey), 10))
    assert (near.int() - grey.int()).abs().double().mean() < 6


def test_holes_come_back_and_the_world_has_none():
    rgb = images(60, (18, 26), 5, count=(1, 2, 3))
    holes = torch.rand(rgb.shape[:3], generator=seeded()) < 0.3
    assert rgb.amax(-1).min() >= HOLE + 10
    cut = cut_holes(rgb, holes)
    assert torch.equal(pixels_to_holes(cut), holes)
    assert torch.equal(cut[~holes], rgb[~holes]) and cut[holes].max() == 0
    assert (pixels_to_holes(noisy(cut, 8)) == holes).double().mean() > 0.999
