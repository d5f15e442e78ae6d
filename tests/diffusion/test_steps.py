"""Tables, checks and units."""

import math

import pytest
import torch

from course_lib.diffusion import (
    bits_per_dim,
    choose,
    ddim_step,
    gather_at,
    normal_kl,
    previous,
    validate_steps,
)

TABLE = torch.tensor([0.1, 0.2, 0.3], dtype=torch.float64)


def test_gather_at_reads_each_sample_s_own_step_in_the_dtype_of_x():
    x = torch.zeros(2, 3, 4, 5)
    got = gather_at(TABLE, torch.tensor([2, 0]), x)
    assert got.shape == (2, 1, 1, 1) and got.dtype == torch.float32
    assert got.flatten().tolist() == pytest.approx([0.3, 0.1])
    assert gather_at(TABLE, torch.tensor([1]), torch.zeros(1, dtype=torch.float64)).tolist() == [
        0.2
    ]


def test_previous_begins_without_noise():
    assert previous(TABLE).tolist() == [1, 0.1, 0.2]


def test_right_steps_pass():
    x = torch.zeros(2, 3)
    validate_steps(10, torch.tensor([0, 9]), x=x, y=x)
    validate_steps(10, torch.zeros(0, dtype=torch.long), x=x[:0])


@pytest.mark.parametrize(
    ("t", "y", "message"),
    [
        (torch.tensor([0, 10]), torch.zeros(2, 3), r"t: expected 0\.\.9, got 0\.\.10"),
        (torch.tensor([-2, 3]), torch.zeros(2, 3), r"t: expected 0\.\.9, got -2\.\.3"),
        (
            torch.tensor([0.0, 1.0]),
            torch.zeros(2, 3),
            r"t: expected one step per sample, 2 integers, got torch\.float32 \(2,\)",
        ),
        (
            torch.tensor([0]),
            torch.zeros(2, 3),
            r"t: expected one step per sample, 2 integers, got torch\.int64 \(1,\)",
        ),
        (
            torch.tensor([0, 1]),
            torch.zeros(2, 1),
            r"y: expected the shape of x, \(2, 3\), got \(2, 1\)",
        ),
        (
            torch.tensor([0, 1]),
            torch.full((2, 3), math.nan),
            "y: expected finite values, got NaN or infinity",
        ),
    ],
)
def test_bad_steps_are_refused_with_what_was_expected(t, y, message, untyped):
    with pytest.raises(ValueError, match=message):
        validate_steps(10, t, x=torch.zeros(2, 3), y=y)


def test_choose_names_the_options():
    assert choose({"a": 1}, "a", "letter") == 1
    with pytest.raises(ValueError, match="letter: expected one of a, b, got 'c'"):
        choose({"a": 1, "b": 2}, "c", "letter")


def test_normal_kl():
    """Against torch's own, and zero between equals; positive otherwise."""
    mean1, log1, mean2, log2 = torch.randn(4, 50, dtype=torch.float64)
    peers = [
        torch.distributions.Normal(m, (0.5 * v).exp()) for m, v in ((mean1, log1), (mean2, log2))
    ]
    got = normal_kl(mean1, log1, mean2, log2)
    torch.testing.assert_close(got, torch.distributions.kl_divergence(*peers))
    assert (got > 0).all() and not normal_kl(mean1, log1, mean1, log1).any()


def test_bits_per_dim():
    torch.testing.assert_close(bits_per_dim(torch.full((2, 3, 4), math.log(2))), torch.ones(2))


# ---------------------------------------------------------------- one DDIM step


def test_ddim_with_the_true_noise_lands_on_the_true_path():
    x_start, eps = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    a, b = torch.tensor(0.3), torch.tensor(0.7)
    x_t = a.sqrt() * x_start + (1 - a).sqrt() * eps
    torch.testing.assert_close(ddim_step(x_t, eps, a, b), b.sqrt() * x_start + (1 - b).sqrt() * eps)


def test_ddim_with_all_its_noise_has_the_posterior_s_variance():
    a, b = torch.tensor(0.3), torch.tensor(0.7)
    x_t, eps, noise = torch.randn(3, 2, 5)
    spread = ddim_step(x_t, eps, a, b, 1.0, noise) - ddim_step(x_t, eps, a, b, 1.0)
    beta = 1 - a / b
    torch.testing.assert_close(spread, ((1 - b) / (1 - a) * beta).sqrt() * noise)


def test_ddim_s_last_step_is_x_start_whatever_its_share_of_noise():
    x_t, eps, noise = torch.randn(3, 2, 5)
    a = torch.tensor(0.3)
    x_start = (x_t - (1 - a).sqrt() * eps) / a.sqrt()
    for eta in (0.0, 0.5, 1.0):
        torch.testing.assert_close(ddim_step(x_t, eps, a, torch.tensor(1.0), eta, noise), x_start)
