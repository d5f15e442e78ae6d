"""Residual vector quantization: level by level against brute force, dropout, starts and moves."""

from itertools import pairwise

import pytest
import torch

from course_lib.quantize.rvq import ResidualVQ, draw_levels, level_codes, residual_quantize
from course_lib.quantize.vq import nearest_code


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


def coder(levels=3, num_codes=7, dim=4, **settings):
    """A quantizer whose codes are of the size of the vectors, smaller from level to level."""
    quantizer = ResidualVQ(levels, num_codes, dim, **settings)
    for number, level in enumerate(quantizer.levels):
        level.codebook.copy_(randn(num_codes, dim, seed=number + 1) / 2**number)
        level.counts.fill_(3.0)
        level.sums.copy_(3 * level.codebook)
    return quantizer


# ---------------------------------------------------------------- the maths


@pytest.mark.parametrize("n,levels,k,d", [(13, 1, 5, 3), (37, 4, 11, 2), (1, 2, 1, 1)])
def test_every_level_takes_the_code_nearest_to_what_is_left(n, levels, k, d):
    z, codebooks = randn(n, d), randn(levels, k, d, seed=1)
    indices = residual_quantize(z, codebooks)
    left = z.double()
    for level, codebook in enumerate(codebooks.double()):
        nearest = torch.cdist(left, codebook).argmin(dim=1)
        assert torch.equal(indices[:, level], nearest)
        left = left - codebook[nearest]
    codes = level_codes(indices, codebooks)
    assert codes.shape == (n, levels, d)
    torch.testing.assert_close(z - codes.sum(1), left.float())


def test_the_first_levels_do_not_depend_on_the_later_ones():
    z, codebooks = randn(9, 4), randn(5, 6, 4, seed=1)
    assert torch.equal(residual_quantize(z, codebooks)[:, :2], residual_quantize(z, codebooks[:2]))


def test_the_number_of_levels_is_drawn_evenly_from_one_to_all():
    assert draw_levels(
        torch.tensor([0.0, 0.24, 0.25, 0.5, 0.74, 0.75, 1 - 2**-24]), 4
    ).tolist() == [
        1,
        1,
        2,
        3,
        3,
        4,
        4,
    ]


# ---------------------------------------------------------------- the module


@pytest.mark.parametrize(
    "grid", [(), (6,), (3, 5), (2, 3, 5)], ids=["vectors", "sound", "images", "clips"]
)
def test_every_place_of_a_grid_gets_its_own_codes(grid):
    quantizer, z = coder().eval(), randn(5, 4, *grid)
    q = quantizer(z)
    assert q.latents.shape == z.shape and q.indices.shape == (5, *grid, 3) and q.loss.shape == ()
    assert q.indices.dtype == torch.int64
    flat = z.movedim(1, -1).reshape(-1, 4)
    assert torch.equal(q.indices.reshape(-1, 3), residual_quantize(flat, quantizer.codebooks))
    torch.testing.assert_close(quantizer.embed(q.indices), q.latents)


def test_fewer_levels_are_a_coarser_version():
    quantizer, z = ResidualVQ(4, 32, 3), randn(6, 3, 50)
    quantizer.start(z, rand(6, 50, 4))
    indices = quantizer.eval()(z).indices
    errors = [(quantizer.embed(indices[..., :m]) - z).square().mean().item() for m in (1, 2, 3, 4)]
    assert all(after < before / 2 for before, after in pairwise(errors))


def test_the_loss_is_the_commitment_of_every_level():
    quantizer, z = coder(beta=0.3).eval(), randn(5, 4, 6)
    flat = z.movedim(1, -1)
    expected = 0.0
    for level in quantizer.levels:
        codes = level.codebook[nearest_code(flat.reshape(-1, 4), level.codebook)].view_as(flat)
        flat = flat - codes
        expected = expected + 0.3 * flat.square().mean()
    torch.testing.assert_close(quantizer(z).loss, expected)


def test_the_gradient_goes_straight_through_all_levels_and_the_loss_adds_its_own():
    quantizer, probe = coder(beta=0.3).eval(), randn(5, 4, 6, seed=9)
    z = randn(5, 4, 6).requires_grad_()
    q = quantizer(z)
    ((q.latents * probe).sum() + q.loss).backward()
    left = torch.zeros_like(z)
    for m in (1, 2, 3):
        left += z.detach() - quantizer.embed(q.indices[..., :m])
    torch.testing.assert_close(z.grad, probe + 0.3 * 2 * left / z.numel())


def test_every_example_is_the_sum_of_as_many_levels_as_it_uses():
    quantizer, z, use = coder().eval(), randn(4, 4, 6), torch.tensor([1, 3, 2, 1])
    q, whole = quantizer(z, use), quantizer(z)
    assert torch.equal(q.indices, whole.indices)
    for example, m in enumerate(use.tolist()):
        one = slice(example, example + 1)
        torch.testing.assert_close(q.latents[one], quantizer.embed(q.indices[one, ..., :m]))
    alone = [quantizer(z[i : i + 1], use[i : i + 1]).loss for i in range(4)]
    torch.testing.assert_close(q.loss, torch.stack(alone).mean())


def test_levels_learn_from_the_examples_that_use_them_alone():
    quantizer, z, use = coder(), randn(4, 4, 6), torch.tensor([1, 3, 2, 1])
    quantizer(z, use)
    for number, level in enumerate(quantizer.levels):
        other = coder()
        others = use > number
        other(z[others])
        torch.testing.assert_close(level.counts, other.levels[number].counts)
        torch.testing.assert_close(level.codebook, other.levels[number].codebook)
        assert level.counts.sum().item() == pytest.approx(0.99 * 21 + 0.01 * 6 * int(others.sum()))


def test_a_level_that_no_example_uses_keeps_its_codes():
    quantizer = coder()
    before = quantizer.codebooks
    quantizer(randn(4, 4, 6), torch.tensor([1, 1, 1, 1]))
    assert not torch.equal(quantizer.codebooks[0], before[0])
    torch.testing.assert_close(quantizer.codebooks[1:], before[1:])


def test_it_learns_in_training_mode_with_gradients_and_at_no_other_time():
    quantizer, z = coder(), randn(2, 4, 5)
    before = quantizer.codebooks
    with torch.no_grad():
        quantizer(z)
    quantizer.eval()(z)
    assert torch.equal(quantizer.codebooks, before)
    quantizer.train()(z)
    assert not torch.equal(quantizer.codebooks, before)


def test_autocast_changes_nothing():
    a, b, z = coder(), coder(), randn(5, 4, 9)
    expected = a(z)
    with torch.autocast("cpu", torch.bfloat16):
        got = b(z)
    for left, right in zip(got, expected, strict=True):
        assert torch.equal(left, right) and left.dtype == right.dtype
    assert torch.equal(a.codebooks, b.codebooks)


def test_its_codebooks_are_buffers():
    with torch.device("meta"):
        quantizer = ResidualVQ(8, 1024, 512)
    assert not list(quantizer.parameters()) and quantizer.codebooks.shape == (8, 1024, 512)


# ---------------------------------------------------------------- starts and moves


def test_every_level_starts_at_the_centres_of_what_is_left():
    """Two scales of clusters: the first level finds the large ones, the second the small ones."""
    large, small = 10 * torch.eye(3), torch.tensor([[0.5, 0, 0], [-0.5, 0, 0]])
    z = (large[:, None] + small).reshape(-1, 3).repeat(8, 1)  # 48 3
    quantizer = ResidualVQ(2, 6, 3)
    quantizer.start(z, rand(48, 2, seed=3))
    q = quantizer.eval()(z)
    torch.testing.assert_close(q.latents, z, rtol=0, atol=1e-4)
    assert quantizer.levels[0].counts.sum() == 48


def test_start_and_moves_depend_on_their_arguments_alone():
    results = []
    for seed in (1, 2):
        torch.manual_seed(seed)
        quantizer = coder()
        quantizer.start(randn(3, 4, 9), rand(3, 9, 3))
        quantizer.replace_rare(randn(3, 4, 9, seed=1), rand(3, 9, 3, seed=1), least=5)
        results.append(quantizer.codebooks)
    assert torch.equal(*results)


def test_rare_codes_of_a_level_go_to_what_is_left_there():
    quantizer, z, uniform = coder(), randn(2, 4, 9), rand(2, 9, 3)
    quantizer.levels[1].counts[[0, 4]] = 1.5
    left = (z - quantizer.levels[0](z.requires_grad_(False)).latents).movedim(1, -1).reshape(-1, 4)
    quantizer = coder()
    quantizer.levels[1].counts[[0, 4]] = 1.5
    assert quantizer.replace_rare(z, uniform) == 2
    first = uniform[..., 1].flatten().argsort(descending=True)[:2]
    torch.testing.assert_close(quantizer.levels[1].codebook[[0, 4]], left[first])
    assert quantizer.levels[1].counts[[0, 4]].tolist() == [2, 2]
    assert torch.equal(quantizer.levels[2].codebook, coder().levels[2].codebook)


# ---------------------------------------------------------------- errors


def test_what_does_not_fit_is_refused():
    quantizer, z = coder(), randn(2, 4, 5)
    with pytest.raises(ValueError, match="expected at least one level, got 0"):
        ResidualVQ(0, 7, 4)
    with pytest.raises(ValueError, match=r"expected latents \(b c \*grid\) with c = 4"):
        quantizer(z.mT)
    for use in ([0, 1], [1, 4]):
        with pytest.raises(ValueError, match="expected from 1 to 3 levels for each of 2 examples"):
            quantizer(z, torch.tensor(use))
    with pytest.raises(ValueError, match="expected from 1 to 3 levels in the last axis"):
        quantizer.embed(torch.zeros(2, 5, 4, dtype=torch.int64))
    with pytest.raises(ValueError, match="expected indices from 0 to 6, got some from 7 to 7"):
        quantizer.embed(torch.full((2, 5, 3), 7))
    for act in (quantizer.start, quantizer.replace_rare):
        with pytest.raises(ValueError, match="expected one random number per vector and level"):
            act(z, rand(2, 5))
