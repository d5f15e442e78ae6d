"""The likelihood of a whole chain, against its definition."""

import pytest
import torch

from course_lib.diffusion import cosine_betas
from course_lib.metrics import likelihood
from course_lib.papers import ddpm, improved_ddpm


@pytest.fixture
def process():
    return improved_ddpm.ImprovedDiffusion(cosine_betas(12), "fixed_small")


def test_the_terms_add_up_and_have_the_shapes_promised(process):
    x = torch.randint(0, 256, (5, 3, 4, 6), generator=torch.Generator().manual_seed(0)) / 127.5 - 1
    found = likelihood(process, lambda x_t, t: 0.1 * x_t, x, torch.Generator().manual_seed(1))
    assert found.prior.shape == (5,) and found.terms.shape == found.x_start_mse.shape == (5, 12)
    torch.testing.assert_close(found.total, found.prior + found.terms.sum(1))
    assert found.rate[-1] == pytest.approx(float(found.prior.mean()))
    assert found.rate[0] == pytest.approx(
        float(found.prior.mean() + found.terms[:, 1:].sum(1).mean()), rel=1e-5
    )
    assert (found.rate.diff() <= 0).all()
    torch.testing.assert_close(found.distortion, 127.5 * found.x_start_mse.mean(0).sqrt())


def test_a_network_that_knows_the_image_pays_only_for_the_last_term(process):
    x = torch.full((2, 1, 3, 5), 51 / 127.5 - 1)
    a = process.alphas_cumprod

    def knows(x_t, t):
        step = (t * process.steps / 1000).round().long()  # the network is told times, not steps
        return ddpm.predict_eps(x_t, step, x.to(x_t), a)

    found = likelihood(process, knows, x, torch.Generator().manual_seed(0))
    assert found.terms[:, 1:].abs().max() < 1e-4
    assert found.x_start_mse.max() < 1e-3
    assert 0 < float(found.terms[:, 0].mean()) < 8
