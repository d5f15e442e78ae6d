"""Lookup-free quantization: bits and indices, entropies against sums over all codes, the module."""

import math

import pytest
import torch

from course_lib.quantize.lfq import (
    LFQ,
    annealed_weight,
    batch_entropy,
    entropy_penalty,
    factorize,
    join,
    lfq,
    lfq_sign,
    sample_entropy,
    token_code,
    token_index,
)


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


# ---------------------------------------------------------------- codes and indices


def test_the_worked_example_of_the_course():
    assert token_index(torch.tensor([-0.3, 0.1])).item() == 2


@pytest.mark.parametrize(
    "z,index", [([1, -1, -1], 1), ([-1, 1, -1], 2), ([-1, -1, 1], 4), ([1, 1, -1], 3)]
)
def test_the_first_number_is_the_lowest_bit(z, index):
    got = token_index(torch.tensor(z, dtype=torch.float32))
    assert got.item() == index and got.dtype == torch.int64


def test_zero_is_negative():
    z = torch.tensor([0.0, -0.0, 1e-30, -1e-30])
    assert lfq_sign(z).tolist() == [-1, -1, 1, -1]
    assert token_index(z).item() == 4
    assert LFQ(4)(z[None]).indices.tolist() == [4]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_signs_have_the_type_of_what_they_are_the_signs_of(dtype):
    assert lfq_sign(randn(3, 2).to(dtype)).dtype == dtype


@pytest.mark.parametrize("bits", [1, 2, 5, 11])
def test_every_index_has_a_code_and_every_code_its_index(bits):
    indices = torch.arange(2**bits).reshape(2, -1)
    codes = token_code(indices, bits)
    assert codes.shape == (2, 2 ** (bits - 1), bits) and set(codes.flatten().tolist()) == {
        -1.0,
        1.0,
    }
    assert torch.equal(token_index(codes), indices)
    spelled = [[2 * int(bit) - 1 for bit in reversed(f"{i:0{bits}b}")] for i in range(2**bits)]
    assert codes.reshape(-1, bits).tolist() == spelled


def test_the_longest_index():
    assert token_index(torch.ones(62)).item() == 2**62 - 1
    assert torch.equal(token_code(torch.tensor(2**62 - 2), 62), torch.tensor([-1.0] + 61 * [1.0]))


def test_the_gradient_goes_straight_through_the_signs():
    z, probe = randn(3, 5).requires_grad_(), randn(3, 5, seed=1)
    out = lfq(z)
    assert torch.equal(out, lfq_sign(z))
    (out * probe).sum().backward()
    assert torch.equal(z.grad, probe)


# ---------------------------------------------------------------- factors


def test_a_token_of_18_bits_as_two_of_9_the_low_bits_first():
    indices = torch.tensor([0, 1, 511, 512, 2**18 - 2, 2**18 - 1])
    expected = [[0, 0], [1, 0], [511, 0], [0, 1], [510, 511], [511, 511]]
    assert factorize(indices, (9, 9)).tolist() == expected
    assert join(torch.tensor(expected), (9, 9)).tolist() == indices.tolist()


@pytest.mark.parametrize("bits", [(7,), (2, 5), (1, 3, 2), (4, 1, 1, 1)])
def test_factors_are_the_tokens_of_neighbouring_numbers(bits):
    z = randn(3, 5, sum(bits))
    parts = factorize(token_index(z), bits)
    assert parts.shape == (3, 5, len(bits)) and parts.dtype == torch.int64
    expected = [token_index(part) for part in z.split(list(bits), dim=-1)]
    assert torch.equal(parts, torch.stack(expected, dim=-1))
    assert torch.equal(join(parts, bits), token_index(z))


def test_an_index_of_more_bits_than_its_factors_is_refused():
    with pytest.raises(ValueError, match="expected indices from 0 to 31, got some from 3 to 32"):
        factorize(torch.tensor([3, 32]), (2, 3))
    with pytest.raises(ValueError, match="expected indices from 0 to 31, got some from -1 to 3"):
        factorize(torch.tensor([3, -1]), (2, 3))


def test_factors_that_do_not_fit_are_refused():
    with pytest.raises(ValueError, match="expected indices from 0 to 3, got some from 1 to 4"):
        join(torch.tensor([[4, 7], [1, 0]]), (2, 3))
    with pytest.raises(
        ValueError, match=r"expected 3 factors in the last axis, for bits \(2, 3, 1\), got \(2, 2\)"
    ):
        join(torch.tensor([[1, 7], [1, 0]]), (2, 3, 1))


# ---------------------------------------------------------------- entropies


def all_probabilities(z, temperature):
    """q(z) over every code, from distances to each: (n 2^bits)."""
    bits = z.shape[1]
    codes = token_code(torch.arange(2**bits), bits).to(z)
    return (-(z[:, None] - codes).square().sum(dim=2) / temperature).softmax(dim=1)


def entropy_by_definition(p):
    return -(p * p.clamp(min=1e-300).log()).sum(dim=-1)  # in double precision


def penalty_by_definition(z, temperature):
    p = all_probabilities(z, temperature)
    return entropy_by_definition(p).mean() - entropy_by_definition(p.mean(dim=0))


CASES = [(1, 5, 0.7), (2, 1, 1.0), (3, 11, 4.0), (6, 7, 0.3), (9, 3, 10.0), (8, 13, 0.01)]


@pytest.mark.parametrize("bits,n,temperature", CASES)
def test_entropies_are_those_of_sums_over_all_codes(bits, n, temperature):
    z = randn(n, bits)
    p = all_probabilities(z.double(), temperature)
    each, mean = entropy_by_definition(p).mean(), entropy_by_definition(p.mean(dim=0))
    got = (
        sample_entropy(z, temperature),
        batch_entropy(z, temperature),
        entropy_penalty(z, temperature),
    )
    for ours, expected in zip(got, (each, mean, each - mean), strict=True):
        torch.testing.assert_close(ours.double(), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("bits,n,temperature", CASES)
def test_gradients_are_those_of_sums_over_all_codes(bits, n, temperature):
    ours, theirs = (randn(n, bits, dtype=torch.float64).requires_grad_() for _ in range(2))
    entropy_penalty(ours, temperature).backward()
    penalty_by_definition(theirs, temperature).backward()
    torch.testing.assert_close(ours.grad, theirs.grad, rtol=0, atol=1e-9)


def test_at_the_vocabulary_of_the_paper_too():
    """2^18 codes: three vectors, whose probabilities are products over bits."""
    z, temperature = randn(3, 18, dtype=torch.float64), 3.0
    p = torch.ones(3, 1, dtype=torch.float64)
    for bit in (4 * z / temperature).sigmoid().unbind(dim=1):
        p = torch.cat([p * (1 - bit)[:, None], p * bit[:, None]], dim=1)
    assert p.shape == (3, 2**18)
    expected = entropy_by_definition(p).mean() - entropy_by_definition(p.mean(dim=0))
    torch.testing.assert_close(entropy_penalty(z, temperature), expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(
        entropy_penalty(z.float(), temperature).double(), expected, rtol=0, atol=2e-5
    )


def test_the_penalty_is_least_when_vectors_are_sure_and_codes_all_in_use():
    every = token_code(torch.arange(32), 5)
    assert entropy_penalty(every).item() == pytest.approx(-5 * math.log(2), abs=1e-5)
    assert entropy_penalty(every[:1].expand(7, 5)).item() == pytest.approx(0, abs=1e-5)
    assert sample_entropy(torch.zeros(7, 5)).item() == pytest.approx(5 * math.log(2), abs=1e-5)
    assert entropy_penalty(torch.zeros(7, 5)).item() == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize("scale", [0, 1e-6, 1e3, 1e6])
def test_gradients_are_finite_for_zeros_and_for_very_sure_vectors(scale):
    z = (scale * randn(5, 9)).requires_grad_()
    entropy_penalty(z).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize("group", [1, 2, 3, 5, 7])
def test_above_the_group_the_batch_entropy_is_the_sum_over_groups(group):
    z, temperature = randn(11, 7), 2.0
    expected = sum(batch_entropy(part, temperature) for part in z.split(group, dim=1))
    got, joint = batch_entropy(z, temperature, group), batch_entropy(z, temperature)
    torch.testing.assert_close(got, expected)
    assert got >= joint - 1e-6
    assert (got > joint + 1e-3) == (group < 7)


def test_groups_are_exact_where_they_are_independent():
    low, high = token_code(torch.arange(8), 3), token_code(torch.arange(4), 2) * 0.1
    z = torch.cat([low.repeat_interleave(4, dim=0), high.repeat(8, 1)], dim=1)
    torch.testing.assert_close(batch_entropy(z, 0.5, group=3), batch_entropy(z, 0.5))


def test_the_weight_is_annealed():
    assert [annealed_weight(step) for step in (0, 1000, 2000, 10**6)] == pytest.approx(
        [0.3, 0.2, 0.1, 0.1]
    )
    assert annealed_weight(1, weight=2, boost=5, steps=4) == pytest.approx(8)


# ---------------------------------------------------------------- the module


@pytest.mark.parametrize(
    "grid", [(), (6,), (3, 5), (2, 3, 5)], ids=["vectors", "rows", "images", "clips"]
)
def test_every_place_of_a_grid_gets_its_own_index(grid):
    quantizer, z = LFQ(4), randn(7, 4, *grid)
    q = quantizer(z)
    assert q.latents.shape == z.shape and q.indices.shape == (7, *grid) and q.loss.shape == ()
    assert q.indices.dtype == torch.int64
    assert torch.equal(q.latents, lfq_sign(z))
    assert torch.equal(q.indices, token_index(z.movedim(1, -1)))
    assert torch.equal(quantizer.embed(q.indices), q.latents)


def test_the_loss_is_commitment_and_penalty_with_their_weights():
    quantizer, z = LFQ(5, beta=0.3, entropy_weight=0.2, temperature=0.9, group=2), randn(3, 5, 4, 7)
    flat = z.movedim(1, -1).reshape(-1, 5)
    commitment = (z - lfq_sign(z)).square().mean()
    penalty = entropy_penalty(flat, 0.9, 2)
    torch.testing.assert_close(quantizer(z).loss, 0.3 * commitment + 0.2 * penalty)
    quantizer.entropy_weight = 0.6
    torch.testing.assert_close(quantizer(z).loss, 0.3 * commitment + 0.6 * penalty)
    with torch.no_grad():
        torch.testing.assert_close(quantizer(z).loss, 0.3 * commitment)
    torch.testing.assert_close(quantizer.eval()(z).loss, 0.3 * commitment)


def test_its_settings_are_the_papers_by_default():
    quantizer, z = LFQ(6), randn(3, 6, 4)
    flat = z.movedim(1, -1).reshape(-1, 6)
    expected = 0.25 * (z - lfq_sign(z)).square().mean() + 0.1 * entropy_penalty(flat, 0.01)
    torch.testing.assert_close(quantizer(z).loss, expected)
    assert (quantizer.dim, quantizer.num_codes) == (6, 64)


def test_the_decoders_gradient_reaches_the_latents_and_the_loss_adds_its_own():
    quantizer, probe = LFQ(5), randn(3, 5, 4, 7, seed=1)
    z, alone = (randn(3, 5, 4, 7).requires_grad_() for _ in range(2))
    q = quantizer(z)
    ((q.latents * probe).sum() + q.loss).backward()
    quantizer(alone).loss.backward()
    torch.testing.assert_close(z.grad, probe + alone.grad)


def test_the_commitment_pulls_latents_to_their_signs():
    z = torch.tensor([[0.3, -0.2, 1.5, 0.0]]).requires_grad_()
    LFQ(4, beta=2, entropy_weight=0)(z).loss.backward()
    # 2 beta (z - sign) / 4
    torch.testing.assert_close(z.grad, torch.tensor([[-0.7, 0.8, 0.5, 1.0]]))


def test_it_has_nothing_to_learn_and_nothing_to_save():
    with torch.device("meta"):
        quantizer = LFQ(18)
    assert list(quantizer.parameters()) == [] and quantizer.state_dict() == {}


def test_autocast_changes_nothing():
    quantizer, z = LFQ(7), randn(5, 7, 9, 3) / 30
    expected = quantizer(z)
    with torch.autocast("cpu", torch.bfloat16):
        got = quantizer(z)
    for a, b in zip(got, expected, strict=True):
        assert torch.equal(a, b) and a.dtype == b.dtype


def test_latents_of_half_precision_are_quantized_in_single():
    quantizer, z = LFQ(7), (randn(5, 7, 9) / 30).bfloat16()
    q, expected = quantizer(z), quantizer(z.float())
    assert q.latents.dtype == q.loss.dtype == torch.float32
    assert torch.equal(q.loss, expected.loss) and torch.equal(q.indices, expected.indices)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "settings,message",
    [
        ({"bits": 0}, "expected from 1 to 62 bits, got 0"),
        ({"bits": 63}, "expected from 1 to 62 bits, got 63"),
        ({"group": 0}, "expected a group of 1 to 24 bits, got 0"),
        ({"group": 25}, "expected a group of 1 to 24 bits, got 25"),
        ({"temperature": 0}, "expected a positive temperature, got 0"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        LFQ(**{"bits": 4} | settings)


@pytest.mark.parametrize(
    "z,message",
    [
        (torch.zeros(2, 5, 3), r"expected latents \(b c \*grid\) with c = 4, got \(2, 5, 3\)"),
        (
            torch.zeros(2, 4, 3).long(),
            "expected latents of floating-point numbers, got torch.int64",
        ),
    ],
    ids=["channels", "type"],
)
def test_latents_that_do_not_fit_are_refused(z, message):
    with pytest.raises(ValueError, match=message):
        LFQ(4)(z)


@pytest.mark.parametrize(
    "indices,message",
    [
        (torch.tensor([[0, 16]]), "expected indices from 0 to 15, got some from 0 to 16"),
        (torch.tensor([[0.0, 3.0]]), "expected indices of type int64 or int32, got torch.float32"),
    ],
    ids=["high", "float"],
)
def test_indices_that_do_not_fit_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        LFQ(4).embed(indices)
