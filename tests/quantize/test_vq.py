"""Vector quantization against brute force and the papers' formulas; its state, its revivals,
several processes.
"""

import math
import subprocess
import sys
from collections import Counter

import pytest
import torch

from course_lib.paths import ROOT
from course_lib.quantize import vq
from course_lib.quantize.vq import (
    VectorQuantizer,
    ema_update,
    entropy_loss,
    k_means,
    nearest_code,
    perplexity,
    straight_through,
    usage,
    vq_loss,
)
from course_lib.training import EMA, Store, train
from tests.quantize.toy_recipes import CODING
from tests.training.test_loop import assert_equal_bit_for_bit, state


def randn(*shape, seed=0, dtype=torch.float32):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def rand(*shape, seed=0):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the nearest code


@pytest.mark.parametrize("n,k,d", [(37, 11, 5), (1, 1, 1), (5, 64, 2), (101, 3, 9), (0, 4, 3)])
@pytest.mark.parametrize(
    "at_once", [1, 40, vq.MAX_DISTANCES_AT_ONCE], ids=["row by row", "in parts", "at once"]
)
def test_the_nearest_code_is_that_of_brute_force(n, k, d, at_once, monkeypatch):
    monkeypatch.setattr(vq, "MAX_DISTANCES_AT_ONCE", at_once)
    z, codebook = randn(n, d), randn(k, d, seed=1)
    expected = torch.cdist(z.double(), codebook.double()).argmin(dim=1)
    got = nearest_code(z, codebook)
    assert got.dtype == torch.int64
    assert torch.equal(got, expected)


@pytest.mark.parametrize("at_once,largest", [(1, 5), (40, 40), (1000, 37 * 5)])
def test_no_more_distances_are_held_at_a_time_than_said(at_once, largest, monkeypatch):
    sizes, addmm = [], torch.addmm
    monkeypatch.setattr(vq, "MAX_DISTANCES_AT_ONCE", at_once)
    monkeypatch.setattr(
        torch, "addmm", lambda *args, **kwargs: sizes.append(addmm(*args, **kwargs)) or sizes[-1]
    )
    nearest_code(randn(37, 3), randn(5, 3, seed=1))
    assert max(size.numel() for size in sizes) == largest


def test_on_ties_the_lowest_index_wins():
    codebook = torch.tensor([[4.0, 4], [1, 0], [-1, 0], [1, 0], [0, 1]])
    assert nearest_code(
        torch.tensor([[0.0, 0], [0, -3], [2, 0], [0.5, 0.5]]), codebook
    ).tolist() == [1, 1, 1, 1]


def test_the_length_of_a_code_counts():
    """The code with the largest product is not the nearest: (9, 0) is farther from (1, 0) than (2,
    0) is.
    """
    assert nearest_code(torch.tensor([[1.0, 0]]), torch.tensor([[9.0, 0], [2, 0]])).tolist() == [1]


# ---------------------------------------------------------------- gradients and losses


def test_straight_through_is_the_code_forward_and_the_identity_backward():
    z = (1e4 * randn(3, 5)).requires_grad_()
    z_q, probe = randn(3, 5, seed=1).requires_grad_(), randn(3, 5, seed=2)
    out = straight_through(z, z_q)
    assert torch.equal(out, z_q)  # z + (z_q - z) would have lost three digits here
    (out * probe).sum().backward()
    assert torch.equal(z.grad, probe)
    assert z_q.grad is None


def test_the_loss_and_its_gradients_are_those_of_the_formula():
    z, z_q, beta = randn(7, 3).requires_grad_(), randn(7, 3, seed=1).requires_grad_(), 0.4
    loss = vq_loss(z, z_q, beta)
    loss.backward()
    gap = (z - z_q).detach()
    torch.testing.assert_close(loss.detach(), (1 + beta) * gap.square().mean())
    torch.testing.assert_close(z.grad, 2 * beta * gap / 21)
    torch.testing.assert_close(z_q.grad, -2 * gap / 21)


def test_beta_is_a_quarter_by_default():
    z, z_q = torch.zeros(4), torch.full((4,), 2.0)
    assert vq_loss(z, z_q).item() == 5.0


@pytest.mark.parametrize("legacy,on_codes,on_latents", [(False, 1.0, 0.3), (True, 0.3, 1.0)])
def test_legacy_puts_beta_on_the_codebook_term(legacy, on_codes, on_latents):
    quantizer = VectorQuantizer(6, 4, beta=0.3, legacy=legacy)
    z = randn(2, 4, 3, 5).requires_grad_()
    q = quantizer(z)
    q.loss.backward()
    gap = (z - q.latents).detach()
    torch.testing.assert_close(q.loss.detach(), 1.3 * gap.square().mean())
    torch.testing.assert_close(z.grad, 2 * on_latents * gap / z.numel())
    expected = torch.zeros(6, 4)
    for code in range(6):
        expected[code] = (
            -2 * on_codes * gap.movedim(1, -1)[q.indices == code].sum(dim=0) / z.numel()
        )
    torch.testing.assert_close(quantizer.codebook.grad, expected)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_the_decoders_gradient_reaches_the_latents_and_not_the_codes(update):
    quantizer = VectorQuantizer(6, 4, update=update)
    z, probe = randn(2, 4, 3, 5).requires_grad_(), randn(2, 4, 3, 5, seed=1)
    (quantizer(z).latents * probe).sum().backward()
    assert torch.equal(z.grad, probe)
    assert quantizer.codebook.grad is None


# ---------------------------------------------------------------- moving averages


def ema_by_hand(codebook, counts, sums, z, indices, decay, eps):
    """The same in plain numbers, one vector after another."""
    k = len(codebook)
    counts = [decay * c for c in counts.tolist()]
    sums = [[decay * s for s in row] for row in sums.tolist()]
    for vector, index in zip(z.tolist(), indices.tolist(), strict=True):
        counts[index] += 1 - decay
        sums[index] = [s + (1 - decay) * v for s, v in zip(sums[index], vector, strict=True)]
    total = sum(counts)
    rows = []
    for i in range(k):
        smooth = (counts[i] + eps) / (total + k * eps) * total
        rows.append([s / smooth for s in sums[i]] if counts[i] else codebook[i].tolist())
    return (
        torch.tensor(rows, dtype=codebook.dtype),
        torch.tensor(counts).to(codebook),
        torch.tensor(sums).to(codebook),
    )


@pytest.mark.parametrize("decay,eps", [(0.99, 1e-5), (0.7, 0.1), (0, 1e-3)])
def test_the_averages_follow_the_formula_step_by_step(decay, eps):
    k, d = 5, 3
    got = expected = (
        randn(k, d, dtype=torch.float64),
        torch.zeros(k).double(),
        torch.zeros(k, d).double(),
    )
    for step in range(4):
        z = randn(11, d, seed=step, dtype=torch.float64)
        # code 0 is never used
        indices = torch.randint(1, k, (11,), generator=torch.Generator().manual_seed(step))
        before = [tensor.clone() for tensor in (*got, z, indices)]
        arguments = (*got, z, indices)
        got = ema_update(*arguments, decay, eps)
        # nothing is changed in place
        assert all(torch.equal(a, b) for a, b in zip(before, arguments, strict=True))
        expected = ema_by_hand(*expected, z, indices, decay, eps)
        for a, b in zip(got, expected, strict=True):
            torch.testing.assert_close(a, b, rtol=0, atol=1e-6)
    assert torch.equal(got[0][0], randn(k, d, dtype=torch.float64)[0])


def test_a_codes_first_vectors_are_its_mean():
    z = randn(9, 2)
    indices = torch.tensor([0, 0, 0, 0, 2, 2, 2, 2, 2])
    codebook, _, _ = ema_update(torch.ones(3, 2), torch.zeros(3), torch.zeros(3, 2), z, indices)
    expected = torch.stack([z[:4].mean(dim=0), torch.ones(2), z[4:].mean(dim=0)])
    torch.testing.assert_close(codebook, expected, rtol=0, atol=1e-3)  # smoothing


def test_the_module_moves_its_codes_after_it_has_used_them():
    quantizer = VectorQuantizer(6, 4, update="ema", decay=0.8)
    assert dict(quantizer.named_parameters()) == {}
    for step in range(3):
        z = randn(2, 4, 3, 5, seed=step)
        old = [quantizer.codebook.clone(), quantizer.counts.clone(), quantizer.sums.clone()]
        q = quantizer(z)
        flat = z.movedim(1, -1).reshape(-1, 4)
        assert torch.equal(q.latents.movedim(1, -1), old[0][q.indices])
        torch.testing.assert_close(q.loss, 0.25 * (z - q.latents).square().mean())
        new = ema_update(*old, flat, q.indices.flatten(), 0.8)
        for buffer, value in zip(
            (quantizer.codebook, quantizer.counts, quantizer.sums), new, strict=True
        ):
            assert torch.equal(buffer, value)


# ---------------------------------------------------------------- entropy, perplexity, usage


def entropy_by_hand(z, codebook, temperature):
    p = (-torch.cdist(z.double(), codebook.double()).square() / temperature).softmax(dim=1)
    each = [-sum(x * math.log(x) for x in row if x > 0) for row in p.tolist()]
    mean = -sum(x * math.log(x) for x in p.mean(dim=0).tolist() if x > 0)
    return sum(each) / len(each) - mean


@pytest.mark.parametrize("temperature", [0.01, 0.5, 20])
def test_the_entropy_loss_is_that_of_the_definition(temperature):
    z, codebook = randn(13, 3), randn(7, 3, seed=1)
    got = entropy_loss(z, codebook, temperature)
    assert got.item() == pytest.approx(entropy_by_hand(z, codebook, temperature), abs=1e-5)


def test_the_entropy_loss_has_the_gradients_of_its_values():
    z, codebook = randn(5, 3, dtype=torch.float64), randn(4, 3, seed=1, dtype=torch.float64)
    inputs = (z.requires_grad_(), codebook.requires_grad_())
    assert torch.autograd.gradcheck(lambda z, c: entropy_loss(z, c, 2.0), inputs)


def test_the_entropy_loss_is_least_for_sure_vectors_and_codes_all_in_use():
    codebook = 5 * torch.eye(4)
    assert entropy_loss(codebook, codebook).item() == pytest.approx(-math.log(4), abs=1e-5)
    assert entropy_loss(codebook[:1].expand(4, 4), codebook).item() == pytest.approx(0, abs=1e-5)
    assert entropy_loss(torch.zeros(4, 4), codebook).item() == pytest.approx(0, abs=1e-5)


def test_probabilities_of_zero_leave_its_gradient_finite():
    z, codebook = (100 * randn(6, 3)).requires_grad_(), (100 * randn(9, 3, seed=1)).requires_grad_()
    entropy_loss(z, codebook, 0.01).backward()
    assert torch.isfinite(z.grad).all() and torch.isfinite(codebook.grad).all()


def test_the_module_adds_the_entropy_with_its_weight_where_it_learns():
    plain, weighted = (
        VectorQuantizer(6, 4),
        VectorQuantizer(6, 4, entropy_weight=0.3, temperature=0.7),
    )
    weighted.load_state_dict(plain.state_dict())
    z = randn(2, 4, 3, 5)
    expected = 0.3 * entropy_loss(z.movedim(1, -1).reshape(-1, 4), plain.codebook, 0.7)
    torch.testing.assert_close(weighted(z).loss - plain(z).loss, expected)
    with torch.no_grad():
        assert torch.equal(weighted(z).loss, plain(z).loss)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_codes_that_moved_meanwhile_do_not_hinder_the_backward_pass(update):
    quantizer = VectorQuantizer(6, 4, update=update, entropy_weight=0.1)
    z = randn(2, 4, 3, 5).requires_grad_()
    q = quantizer(z)
    quantizer.unused += 100
    assert quantizer.revive(z, rand(2, 3, 5)) == 6
    (q.latents.sum() + q.loss).backward()
    assert torch.isfinite(z.grad).all()


@pytest.mark.parametrize(
    "indices,k", [([[0, 1], [2, 3]], 4), ([[5, 5, 5]], 9), ([0, 0, 0, 1], 2), ([3], 5)]
)
def test_perplexity_and_usage_are_those_of_the_counts(indices, k):
    indices = torch.tensor(indices)
    shares = [count / indices.numel() for count in Counter(indices.flatten().tolist()).values()]
    assert perplexity(indices, k).item() == pytest.approx(
        math.exp(-sum(p * math.log(p) for p in shares)), rel=1e-5
    )
    assert usage(indices, k).item() == pytest.approx(len(shares) / k)


# ---------------------------------------------------------------- the module


@pytest.mark.parametrize(
    "grid", [(), (6,), (3, 5), (2, 3, 5)], ids=["vectors", "rows", "images", "clips"]
)
@pytest.mark.parametrize("update", ["loss", "ema"])
def test_every_place_of_a_grid_gets_its_own_nearest_code(grid, update):
    quantizer = VectorQuantizer(11, 4, update=update).eval()
    z = randn(7, 4, *grid)
    q = quantizer(z)
    assert q.latents.shape == z.shape and q.indices.shape == (7, *grid) and q.loss.shape == ()
    assert q.indices.dtype == torch.int64
    flat = z.movedim(1, -1).reshape(-1, 4)
    assert torch.equal(q.indices.flatten(), nearest_code(flat, quantizer.codebook.detach()))
    assert torch.equal(quantizer.embed(q.indices), q.latents)


def test_codes_start_uniform_between_plus_and_minus_one_over_their_number():
    torch.manual_seed(0)
    codebook = VectorQuantizer(50, 40).codebook
    assert 0.99 / 50 < codebook.max() <= 1 / 50 and -1 / 50 <= codebook.min() < -0.99 / 50
    assert codebook.std().item() == pytest.approx(1 / 50 / 3**0.5, rel=0.05)


@pytest.mark.parametrize("update,names", [("loss", ["codebook"]), ("ema", [])])
def test_the_codebook_is_a_parameter_or_a_buffer(update, names):
    with torch.device("meta"):
        quantizer = VectorQuantizer(16384, 256, update=update)
    assert [name for name, _ in quantizer.named_parameters()] == names
    assert "codebook" in quantizer.state_dict() and quantizer.codebook.shape == (16384, 256)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_it_learns_in_training_mode_with_gradients_and_at_no_other_time(update):
    quantizer, z = VectorQuantizer(6, 4, update=update), randn(2, 4, 3, 5)
    before = {key: value.clone() for key, value in quantizer.state_dict().items()}
    with torch.no_grad():
        quantizer(z)
    quantizer.eval()(z)
    assert_equal_bit_for_bit(
        before, {key: value.detach() for key, value in quantizer.state_dict().items()}
    )
    q = quantizer.train()(z)
    assert quantizer.unused.tolist() == [int(code not in q.indices) for code in range(6)]
    assert torch.equal(quantizer.codebook, before["codebook"]) == (update == "loss")


def test_steps_without_use_are_counted_and_forgotten_with_a_use():
    quantizer = VectorQuantizer(3, 1)
    with torch.no_grad():
        quantizer.codebook.copy_(torch.tensor([[0.0], [1], [2]]))
    for z, expected in (
        ([0.1, 0.2], [0, 1, 1]),
        ([1.1, 0], [0, 0, 2]),
        ([1.0, 1], [1, 0, 3]),
        ([2.0, 2], [2, 1, 0]),
    ):
        quantizer(torch.tensor(z)[:, None])
        assert quantizer.unused.tolist() == expected


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_autocast_changes_nothing(update):
    a, b = VectorQuantizer(64, 4, update=update), VectorQuantizer(64, 4, update=update)
    b.load_state_dict(a.state_dict())
    z = randn(5, 4, 9, 7) / 64
    expected = a(z)
    with torch.autocast("cpu", torch.bfloat16):
        got = b(z)
    assert torch.equal(got.indices, expected.indices)
    assert torch.equal(got.latents, expected.latents) and got.latents.dtype == torch.float32
    assert torch.equal(got.loss, expected.loss)
    assert_equal_bit_for_bit(
        {k: v.detach() for k, v in a.state_dict().items()}, dict(b.state_dict())
    )


def test_latents_of_half_precision_are_quantized_in_the_codebooks():
    quantizer, z = VectorQuantizer(64, 4), randn(5, 4, 9, 7) / 64
    q = quantizer(z.bfloat16())
    assert q.latents.dtype == q.loss.dtype == torch.float32
    assert torch.equal(q.indices, quantizer(z.bfloat16().float()).indices)


# ---------------------------------------------------------------- revival


def dead(update, unused=(0, 9, 3, 9, 2)):
    quantizer = VectorQuantizer(5, 2, update=update, decay=0.9)
    quantizer.unused.copy_(torch.tensor(unused))
    return quantizer


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_dead_codes_are_put_on_the_vectors_with_the_largest_numbers(update):
    quantizer, z, uniform = dead(update), randn(2, 2, 3, 4), rand(2, 3, 4)
    before = quantizer.codebook.detach().clone()
    assert quantizer.revive(z, uniform, after=4) == 2
    vectors = z.movedim(1, -1).reshape(-1, 2)[uniform.flatten().argsort(descending=True)]
    codebook = quantizer.codebook.detach()
    assert torch.equal(codebook[[1, 3]], vectors[:2])
    assert torch.equal(codebook[[0, 2, 4]], before[[0, 2, 4]])
    assert quantizer.unused.tolist() == [0, 0, 3, 0, 2]
    if update == "ema":
        torch.testing.assert_close(quantizer.counts, torch.tensor([0, 0.1, 0, 0.1, 0]))
        torch.testing.assert_close(quantizer.sums[[1, 3]], 0.1 * vectors[:2])
    q = quantizer(z)
    assert torch.equal(
        q.indices.flatten()[uniform.flatten().argsort(descending=True)][:2], torch.tensor([1, 3])
    )


def test_a_code_is_dead_when_it_was_unused_as_long_as_asked():
    assert [
        dead("loss").revive(randn(9, 2), rand(9), after=after) for after in (1, 2, 3, 4, 9, 10)
    ] == [
        4,
        4,
        3,
        2,
        2,
        0,
    ]


def test_with_fewer_vectors_than_dead_codes_the_rest_stay_dead():
    quantizer, z = dead("loss", (7, 7, 7, 7, 7)), randn(3, 2)
    assert quantizer.revive(z, torch.tensor([0.5, 0.1, 0.9]), after=7) == 3
    assert torch.equal(quantizer.codebook[:3], z[[2, 0, 1]])
    assert quantizer.unused.tolist() == [0, 0, 0, 7, 7]


def test_revival_depends_on_its_arguments_alone():
    first, second = dead("ema"), dead("ema")
    second.load_state_dict(first.state_dict())
    for seed, quantizer in ((1, first), (2, second)):
        torch.manual_seed(seed)
        quantizer.revive(randn(4, 2, 5), rand(4, 5), after=2)
    assert_equal_bit_for_bit(dict(first.state_dict()), dict(second.state_dict()))


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_revival_cures_a_collapsed_codebook(update):
    """32 clusters far from the codes' start: without revival few codes ever win."""
    centres = 3 * randn(32, 4, seed=5)
    used = {}
    for cure in (False, True):
        torch.manual_seed(0)
        quantizer = VectorQuantizer(32, 4, update=update, decay=0.9)
        optimizer = torch.optim.SGD(
            quantizer.parameters() if update == "loss" else [torch.zeros(1)], lr=1.0
        )
        for step in range(150):
            z = centres.repeat(4, 1) + 0.05 * randn(128, 4, seed=step)
            if cure:
                quantizer.revive(z, rand(128, seed=step), after=5)
            loss = quantizer(z.requires_grad_()).loss
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        used[cure] = usage(quantizer.eval()(centres).indices, 32).item()
    assert used[False] < 0.5 and used[True] > 0.8


def test_an_average_copies_revived_buffers_and_trails_revived_parameters():
    for update, arrived in (("ema", True), ("loss", False)):
        model = torch.nn.Sequential(torch.nn.Linear(2, 2), dead(update))
        average = EMA(model, 0.5)
        model[1].revive(10 + randn(9, 2), rand(9), after=4)
        average.update(step=100)
        assert torch.equal(average.model[1].codebook, model[1].codebook) == arrived


# ---------------------------------------------------------------- k-means and rare codes


def test_a_step_of_k_means_moves_every_centre_to_the_mean_of_its_vectors():
    z = torch.tensor([[0.0], [1], [10], [12], [20]])
    centres, counts = k_means(z, torch.tensor([[0.0], [12], [100]]), steps=1)
    assert centres.flatten().tolist() == [0.5, 14, 100] and counts.tolist() == [2, 3, 0]
    centres, counts = k_means(z, torch.tensor([[0.0], [12], [19]]), steps=1)
    assert centres.flatten().tolist() == [0.5, 11, 20] and counts.tolist() == [2, 2, 1]


def test_k_means_never_gets_farther_from_the_vectors():
    z, centres = randn(200, 3), randn(9, 3, seed=1)
    errors = []
    for steps in range(8):
        found, _ = k_means(z, centres, steps)
        errors.append(torch.cdist(z, found).amin(1).square().mean().item())
    assert errors == sorted(errors, reverse=True) and errors[-1] < 0.7 * errors[0]


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_codes_start_at_the_centres_of_a_batch(update):
    quantizer, z, uniform = VectorQuantizer(6, 4, update=update), randn(2, 4, 3, 5), rand(2, 3, 5)
    quantizer.start(z, uniform)
    flat = z.movedim(1, -1).reshape(-1, 4)
    first = flat[uniform.flatten().argsort(descending=True)[:6]]
    centres, counts = k_means(flat, first, 10)
    assert torch.equal(quantizer.codebook.detach(), centres)
    if update == "ema":
        assert torch.equal(quantizer.counts, counts) and counts.sum() == 30
        torch.testing.assert_close(quantizer.sums, counts[:, None] * centres)


def test_codes_for_which_a_batch_has_no_vector_start_where_they_are():
    quantizer = VectorQuantizer(6, 2, update="ema")
    before = quantizer.codebook.clone()
    quantizer.start(10 + randn(4, 2), rand(4))
    assert torch.equal(quantizer.codebook[4:], before[4:]) and quantizer.codebook[:4].min() > 5


def test_rare_codes_are_put_on_the_vectors_with_the_largest_numbers():
    quantizer, z, uniform = dead("ema"), randn(2, 2, 3, 4), rand(2, 3, 4)
    quantizer.counts.copy_(torch.tensor([5, 1.9, 2.0, 0, 7]))
    before = quantizer.codebook.clone()
    assert quantizer.replace_rare(z, uniform) == 2
    vectors = z.movedim(1, -1).reshape(-1, 2)[uniform.flatten().argsort(descending=True)]
    assert torch.equal(quantizer.codebook[[1, 3]], vectors[:2])
    assert torch.equal(quantizer.codebook[[0, 2, 4]], before[[0, 2, 4]])
    torch.testing.assert_close(quantizer.counts, torch.tensor([5, 2, 2.0, 2, 7]))
    torch.testing.assert_close(quantizer.sums[[1, 3]], 2 * vectors[:2])
    assert quantizer.replace_rare(z, uniform, least=2) == 0


def test_a_codebook_without_counts_has_no_rare_codes():
    with pytest.raises(ValueError, match="expected a codebook with update='ema', got 'loss'"):
        VectorQuantizer(6, 4).replace_rare(randn(3, 4), rand(3))


# ---------------------------------------------------------------- training


def test_a_stopped_training_with_revivals_goes_on_to_the_bit(tmp_path):
    once, twice = tmp_path / "once", tmp_path / "twice"
    train(CODING, "cpu", store=Store.under(once))
    for steps in (3, 4, None):
        train(CODING, "cpu", steps=steps, store=Store.under(twice))
    assert_equal_bit_for_bit(state(once, CODING.name), state(twice, CODING.name))


def test_codes_were_revived_and_averaged_in_that_training(tmp_path):
    trained = train(CODING, "cpu", store=None).model
    start = CODING.build().model
    for quantizer, before in zip(trained.quantizers[:2], start.quantizers[:2], strict=True):
        assert quantizer.unused.max() <= 2  # a code unused for two steps is revived in the next
        assert quantizer.codebook.abs().max() > 5 * before.codebook.abs().max()
    assert trained.quantizers[1].counts.sum() > 10


def test_two_processes_quantize_as_one(tmp_path):
    """Counts, sums, revived codes, mean distributions, gradients are those of the whole batch."""
    one, two = tmp_path / "one", tmp_path / "two"
    train(CODING, "cpu", store=Store.under(one))
    launcher = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        "-m",
    ]
    arguments = [
        "course_lib.training",
        "tests.quantize.toy_recipes:CODING",
        "--device=cpu",
        "--folder",
        str(two),
    ]
    subprocess.run([*launcher, *arguments], cwd=ROOT, check=True, timeout=240)
    expected, got = state(one, CODING.name), state(two, CODING.name)
    assert expected.keys() == got.keys()
    for key in expected:
        torch.testing.assert_close(got[key], expected[key], rtol=0, atol=1e-5, msg=key)


# ---------------------------------------------------------------- errors


@pytest.mark.parametrize(
    "settings,message",
    [
        (
            {"num_codes": 0},
            "expected at least one code of at least one number, got num_codes=0, dim=4",
        ),
        ({"dim": 0}, "expected at least one code of at least one number, got num_codes=6, dim=0"),
        ({"update": "gradient"}, "expected update 'loss' or 'ema', got 'gradient'"),
        ({"update": "ema", "legacy": True}, "expected update='loss' with legacy=True"),
        ({"decay": 1}, r"expected a decay in \[0, 1\), got 1"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(**{"num_codes": 6, "dim": 4} | settings)


@pytest.mark.parametrize(
    "z,message",
    [
        (torch.zeros(2, 5, 3), r"expected latents \(b c \*grid\) with c = 4, got \(2, 5, 3\)"),
        (torch.zeros(2, 3, 5, 4), r"with c = 4, got \(2, 3, 5, 4\)"),
        (
            torch.zeros(2, 4, 3).long(),
            "expected latents of floating-point numbers, got torch.int64",
        ),
    ],
    ids=["channels", "channels last", "type"],
)
def test_latents_that_do_not_fit_are_refused(z, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(6, 4)(z)
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(6, 4).revive(z, torch.zeros(2, 3))


@pytest.mark.parametrize(
    "indices,message",
    [
        (torch.tensor([[0, 6]]), "expected indices from 0 to 5, got some from 0 to 6"),
        (torch.tensor([[-1, 3]]), "expected indices from 0 to 5, got some from -1 to 3"),
        (torch.tensor([[0.0, 3.0]]), "expected indices of type int64 or int32, got torch.float32"),
        (torch.tensor([[True]]), "expected indices of type int64 or int32, got torch.bool"),
    ],
    ids=["high", "low", "float", "bool"],
)
def test_indices_that_do_not_fit_are_refused(indices, message):
    with pytest.raises(ValueError, match=message):
        VectorQuantizer(6, 4).embed(indices)


def test_random_numbers_that_do_not_fit_are_refused():
    with pytest.raises(
        ValueError, match=r"expected one random number per vector, \(2, 3\), got \(3, 2\)"
    ):
        VectorQuantizer(6, 4).revive(torch.zeros(2, 4, 3), torch.zeros(3, 2))
