"""OpenAI's time features."""

import math

import pytest
import torch

from course_lib.nn.embeddings import timestep_embedding


def test_cosines_then_sines_over_frequencies_that_stop_short_of_a_ten_thousandth():
    got = timestep_embedding(torch.tensor([0, 7]), 6)
    frequency = [10_000 ** (-i / 3) for i in range(3)]
    torch.testing.assert_close(got[0], torch.tensor([1.0, 1, 1, 0, 0, 0]))
    expected = [math.cos(7 * f) for f in frequency] + [math.sin(7 * f) for f in frequency]
    torch.testing.assert_close(got[1], torch.tensor(expected))


def test_times_between_steps():
    quarter, whole = (
        timestep_embedding(torch.tensor([0.25]), 8),
        timestep_embedding(torch.tensor([0]), 8),
    )
    assert quarter.dtype == torch.float32 and not torch.equal(quarter, whole)


def test_an_odd_width_is_refused():
    with pytest.raises(ValueError, match=r"expected an even width.* got 7"):
        timestep_embedding(torch.tensor([1]), 7)
