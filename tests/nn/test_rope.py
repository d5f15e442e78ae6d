"""Rotary positions: what turns by how much, and what a product then depends on."""

import cmath

import pytest
import torch

from course_lib.nn.rope import (
    rope_angles,
    rope_angles_3d,
    rotate,
    rotate_places,
    turn,
    turns_of_places,
)


def random(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_the_angles_of_one_axis():
    angles = rope_angles(torch.tensor([0.0, 1.0, 2.5]), 8)
    expected = torch.tensor([[0.0] * 4, [1, 0.1, 0.01, 0.001], [2.5, 0.25, 0.025, 0.0025]])
    torch.testing.assert_close(angles, expected)


def test_of_64_numbers_time_turns_16_height_24_and_width_24_in_this_order():
    for axis, pairs in ((0, range(0, 8)), (1, range(8, 20)), (2, range(20, 32))):
        position = torch.zeros(1, 3)
        position[0, axis] = 3.0
        angles = rope_angles_3d(position, 64)[0]
        assert angles.nonzero().flatten().tolist() == list(pairs)
        torch.testing.assert_close(angles[pairs], rope_angles(torch.tensor(3.0), 2 * len(pairs)))


def test_each_pair_of_neighbours_is_multiplied_by_a_rotation():
    x, angles = random(2, 3, 4, 6), random(3, 3, seed=1)
    got = rotate(x, angles)
    for i in range(3):
        c, s = angles[:, i].cos(), angles[:, i].sin()
        turn = torch.stack([torch.stack([c, -s], -1), torch.stack([s, c], -1)], -2)  # n 2 2
        pair = torch.einsum("nij,bnhj->bnhi", turn, x[..., 2 * i : 2 * i + 2])
        torch.testing.assert_close(got[..., 2 * i : 2 * i + 2], pair)


def test_a_product_depends_on_the_distance_alone():
    q, k = random(1, 1, 1, 64).expand(1, 5, 1, 64), random(1, 1, 1, 64, seed=1).expand(1, 5, 1, 64)
    places = random(5, 3, seed=2) * 9
    shift, distance = random(1, 3, seed=3) * 50, random(1, 3, seed=4) * 9
    products = []
    for first in (places, places + shift):
        turned = (
            rotate(q, rope_angles_3d(first, 64)),
            rotate(k, rope_angles_3d(first + distance, 64)),
        )
        products.append((turned[0] * turned[1]).sum(-1))
    torch.testing.assert_close(products[0], products[1])
    torch.testing.assert_close(products[0], products[0][:, :1].expand(1, 5, 1))
    assert (rotate(q, rope_angles_3d(places, 64)) * k).sum(-1).std() > 0.1


def test_the_angle_zero_changes_nothing_and_lengths_stay():
    x = random(2, 3, 2, 16).float()
    assert torch.equal(rotate(x, torch.zeros(3, 8)), x)
    turned = rotate(x, random(2, 3, 8).float())  # angles of each row
    torch.testing.assert_close(turned.norm(dim=-1), x.norm(dim=-1))
    torch.testing.assert_close(turned[1], rotate(x[1:], random(2, 3, 8).float()[1])[0])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16, torch.float16])
def test_the_precision_stays(dtype):
    x, angles = random(2, 3, 2, 16), random(3, 8).float()
    got = rotate(x.to(dtype), angles)
    assert got.dtype == dtype
    torch.testing.assert_close(got.double(), rotate(x, angles), rtol=0.02, atol=0.02)


@pytest.mark.parametrize("first", [0, 7])
def test_turns_of_places_are_those_of_their_angles(first):
    x = random(2, 5, 3, 8).float()
    angles = rope_angles(torch.arange(first, first + 5).float(), 8)
    torch.testing.assert_close(turn(x, turns_of_places(first, 5, 8)), rotate(x, angles))
    torch.testing.assert_close(rotate_places(x, first), rotate(x, angles))


def test_turns_are_exact_far_from_the_first_place():
    """In float32, the angles of place 4,095 are rounded to 1e-4 radians."""
    turns = turns_of_places(4095, 1, 100)[0]
    for pair in (0, 1, 7, 49):
        angle = 4095 * 10_000 ** (-2 * pair / 100)
        assert abs(complex(turns[pair]) - cmath.exp(1j * angle)) < 2e-7
    rounded = rope_angles(torch.tensor([4095.0]), 100)
    assert (torch.polar(torch.ones_like(rounded), rounded)[0] - turns).abs().max() > 1e-5
