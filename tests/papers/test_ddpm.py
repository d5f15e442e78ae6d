"""DDPM: the published figures, the network's habits, the process, and what is refused."""

import math

import pytest
import torch

from course_lib.diffusion import bits_per_dim, linear_betas
from course_lib.papers import ddpm
from course_lib.papers.ddpm import DDPM_CONFIGS, DDPMConfig, GaussianDiffusion, UNet

BETAS = linear_betas(1000)
ALPHAS_CUMPROD = (1 - BETAS).cumprod(0)


def batch(n=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    x_start = torch.rand(n, 2, 4, 5, generator=generator) * 2 - 1
    noise = torch.randn(n, 2, 4, 5, generator=generator)
    return x_start, torch.randint(0, 1000, (n,), generator=generator), noise


# ---------------------------------------------------------------- figures of the paper


def test_posterior_variance_as_a_share_of_beta():
    share = ddpm.posterior_variance(BETAS) / BETAS
    for t, expected in {1: 0, 2: 0.454736, 10: 0.852845, 100: 0.981914, 1000: 0.9999992}.items():
        assert float(share[t - 1]) == pytest.approx(expected, abs=5e-7 if t < 1000 else 5e-8)
    assert float(ddpm.posterior_log_variance(BETAS)[0]) == pytest.approx(-9.816725, abs=1e-6)


def test_the_weight_that_l_simple_leaves_out():
    """Eq. 12, with sigma^2 = beta, is the KL between two means of Eq. 11 over the squared error."""
    weight = BETAS**2 / (2 * BETAS * (1 - BETAS) * (1 - ALPHAS_CUMPROD))
    for t, expected in {1: 0.50005, 2: 0.27269, 10: 0.07372, 100: 0.01008, 1000: 0.01020}.items():
        assert float(weight[t - 1]) == pytest.approx(expected, abs=5e-6)
        x_t, eps, other = torch.randn(3, 1, 6, dtype=torch.float64)
        step = torch.tensor([t - 1])
        means = [ddpm.predict_mean(x_t, step, guess, BETAS) for guess in (eps, other)]
        log_variance = BETAS[step].log()
        kl = ddpm.normal_kl(means[0], log_variance, means[1], log_variance)
        torch.testing.assert_close(kl, weight[t - 1] * (eps - other).square())


@pytest.mark.parametrize(("timesteps", "expected"), [(1000, 7.279e-6), (4000, 7.66e-6)])
def test_next_to_nothing_is_left_in_x_t(timesteps, expected):
    process = GaussianDiffusion(linear_betas(timesteps))
    x = torch.tensor([[0.5, -0.5, 0.5, 0.5]])  # E x^2 = 0.25
    assert float(process.prior_bits(x)) == pytest.approx(expected, rel=1e-3)


def test_the_cifar_network():
    config = DDPM_CONFIGS["CIFAR-10"]
    with torch.device("meta"):
        model = UNet(config)
    assert sum(p.numel() for p in model.parameters()) == 35_746_307
    assert (config.dropout, config.timesteps, config.variance, config.schedule) == (
        0.1,
        1000,
        "fixed_large",
        "linear",
    )


# ---------------------------------------------------------------- the network


def test_a_fresh_network_predicts_zero_and_its_blocks_change_nothing():
    model = UNet(DDPM_CONFIGS["tiny"])
    x, t = torch.randn(3, 3, 8, 12), torch.tensor([0, 500, 999])
    assert torch.equal(model(x, t), torch.zeros_like(x))
    block = model.middle[0]
    h = torch.randn(2, 32, 4, 6)
    assert torch.equal(block(h, torch.randn(2, 64)), h)


def test_weights_start_glorot_uniform():
    torch.manual_seed(0)
    weight = UNet(DDPMConfig(norm_groups=8, width=32)).middle[0].res.conv1.weight
    bound = math.sqrt(6 / (9 * 64 + 9 * 64))
    assert float(weight.detach().abs().max()) <= bound
    assert float(weight.detach().std()) == pytest.approx(bound / math.sqrt(3), rel=0.02)


def test_queries_keys_and_values_start_as_three_layers():
    """As in the official code, which has a layer for each: none is sqrt(2) too narrow in one."""
    torch.manual_seed(0)
    weight = UNet(DDPMConfig(norm_groups=8, width=32)).middle[0].attention.qkv.weight.detach()
    bound = math.sqrt(6 / (64 + 64))
    for part in weight.chunk(3):
        assert float(part.abs().max()) == pytest.approx(bound, rel=0.01)
        assert float(part.std()) == pytest.approx(bound / math.sqrt(3), rel=0.03)


def test_time_features():
    features = UNet.time_features(torch.tensor([0, 3]), 8)
    frequency = [10_000 ** (-i / 3) for i in range(4)]  # from 1 down to 1/10,000, both included
    expected = [math.sin(3 * f) for f in frequency] + [math.cos(3 * f) for f in frequency]
    torch.testing.assert_close(features[0], torch.tensor([0.0] * 4 + [1.0] * 4))
    torch.testing.assert_close(features[1], torch.tensor(expected))


def test_the_output_depends_on_the_time_and_the_class():
    torch.manual_seed(0)
    model = UNet(
        DDPMConfig(
            16, width=16, multipliers=(1, 2), blocks_per_level=1, norm_groups=8, num_classes=3
        )
    ).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x = torch.randn(1, 3, 8, 8).repeat(4, 1, 1, 1)
    t = torch.tensor([1, 2, 1, 1])
    label = torch.tensor([0, 0, 2, 0])
    out = model(x, t, label)
    torch.testing.assert_close(out[0], out[3], rtol=1e-5, atol=1e-6)
    assert (out[0] - out[1]).abs().max() > 1e-4 and (out[0] - out[2]).abs().max() > 1e-4


def test_weights_survive_a_round_trip():
    first, second = UNet(DDPM_CONFIGS["tiny"]), UNet(DDPM_CONFIGS["tiny"])
    for p in first.parameters():
        torch.nn.init.normal_(p, std=0.1)
    second.load_state_dict(first.state_dict())
    x, t = torch.randn(2, 3, 8, 8), torch.tensor([1, 900])
    assert torch.equal(first(x, t), second(x, t))


def test_the_same_seed_gives_the_same_network_and_dropout():
    def run():
        torch.manual_seed(3)
        model = UNet(
            DDPMConfig(
                16, width=16, multipliers=(1, 2), blocks_per_level=1, norm_groups=8, dropout=0.5
            )
        )
        for p in model.parameters():
            torch.nn.init.normal_(p, std=0.1)
        return model(torch.ones(2, 3, 8, 8), torch.tensor([1, 2]))

    assert torch.equal(run(), run())


def test_a_sample_does_not_see_its_neighbours():
    model = UNet(DDPM_CONFIGS["tiny"]).eval()
    for p in model.parameters():
        torch.nn.init.normal_(p, std=0.1)
    x, t = torch.randn(3, 3, 8, 8), torch.tensor([1, 30, 900])
    together = model(x, t)
    one_by_one = torch.cat([model(x[i : i + 1], t[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(together, one_by_one, rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- the process


def test_q_sample_has_the_moments_of_eq_4():
    process = GaussianDiffusion(BETAS)
    x_start = torch.tensor([0.7, -0.2]).expand(50_000, 2)
    noise = torch.randn(x_start.shape, generator=torch.Generator().manual_seed(0))
    t = torch.full((len(x_start),), 300)
    x_t = process.q_sample(x_start, t, noise)
    a = float(ALPHAS_CUMPROD[300])
    torch.testing.assert_close(x_t.mean(0), math.sqrt(a) * x_start[0], rtol=0, atol=0.02)
    torch.testing.assert_close(x_t.var(0), torch.full((2,), 1 - a), rtol=0.03, atol=0)


def test_fixed_variances():
    x, t = torch.zeros(3, 2, 1, 1), torch.tensor([0, 1, 999])
    small = GaussianDiffusion(BETAS, "fixed_small").eps_and_log_variance(x, x, t)[1][:, 0, 0, 0]
    large = GaussianDiffusion(BETAS, "fixed_large").eps_and_log_variance(x, x, t)[1][:, 0, 0, 0]
    posterior = ddpm.posterior_variance(BETAS)
    torch.testing.assert_close(small, posterior[[1, 1, 999]].log().float())
    torch.testing.assert_close(
        large, torch.stack([posterior[1], BETAS[1], BETAS[999]]).log().float()
    )


def test_the_network_is_told_times_in_units_of_a_thousand():
    process = GaussianDiffusion(linear_betas(4000))
    told = process.call_network(
        lambda x, times: times[:, None], torch.zeros(3, 2), torch.tensor([0, 1, 3999])
    )
    assert told[:, 0].tolist() == [0, 0.25, 999.75]


def test_clipping_keeps_the_noise_in_step_with_x_start():
    process = GaussianDiffusion(BETAS)
    x_start, t, noise = batch()
    x_t = process.q_sample(x_start, t, noise)
    p = process.p_mean_variance(lambda x, times: 3 * torch.ones_like(x), x_t, t)
    assert p.x_start.abs().max() <= 1
    torch.testing.assert_close(process.q_sample(p.x_start, t, p.eps), x_t, rtol=1e-4, atol=1e-5)


def test_the_simple_loss_is_zero_for_the_right_noise_only():
    process = GaussianDiffusion(BETAS)
    x_start, t, noise = batch()
    assert process.loss(lambda x, times: noise, x_start, t, noise).tolist() == [0, 0, 0]
    torch.testing.assert_close(
        process.loss(lambda x, times: noise + 0.5, x_start, t, noise), torch.full((3,), 0.25)
    )


def test_a_perfect_network_leaves_the_bound_at_its_floor():
    """With the true noise and the posterior's variance every KL is zero."""
    process = GaussianDiffusion(BETAS, "fixed_small")
    x_start, _, noise = batch()
    t = torch.tensor([1, 500, 999])
    x_t = process.q_sample(x_start, t, noise)
    p = process.p_mean_variance(lambda x, times: noise, x_t, t)
    terms = ddpm.term_bits(p.mean, p.log_variance, x_start, x_t, t, BETAS)
    assert float(terms.abs().max()) < 1e-6


def test_sampling_is_determined_by_the_start_and_the_generator():
    process = GaussianDiffusion(linear_betas(60))
    x = torch.randn(2, 3, 4, 4)

    def run(seed):
        return process.sample(
            lambda x, times: 0.1 * x, x, generator=torch.Generator().manual_seed(seed)
        )

    assert torch.equal(run(1), run(1)) and not torch.equal(run(1), run(2))
    assert run(1).abs().max() <= 1  # the last step returns the clipped x_0


def test_ddim_without_noise_needs_no_generator():
    process = GaussianDiffusion(linear_betas(60))
    x = torch.randn(2, 3, 4, 4)
    first, second = (process.sample(lambda x, times: 0.1 * x, x, eta=0.0) for _ in range(2))
    assert torch.equal(first, second)


def test_the_chain_yields_every_step_with_its_prediction():
    process = GaussianDiffusion(linear_betas(60))
    seen = list(process.denoise(lambda x, times: 0.1 * x, torch.randn(2, 3)))
    assert len(seen) == 60
    assert all(x.shape == p.mean.shape == p.x_start.shape == p.eps.shape == (2, 3) for x, p in seen)
    torch.testing.assert_close(seen[-1][0], seen[-1][1].mean)  # no noise at the end


def test_sampling_keeps_no_graph():
    weight = torch.ones(1, requires_grad=True)
    process = GaussianDiffusion(linear_betas(60))
    assert not process.sample(lambda x, times: 0.1 * weight * x, torch.randn(2, 3)).requires_grad


def test_bits_are_averaged_over_values_and_counted_in_base_two():
    nats = torch.tensor([[[math.log(2), 3 * math.log(2)]], [[0.0, 0.0]]])
    torch.testing.assert_close(bits_per_dim(nats), torch.tensor([2.0, 0.0]))


# ---------------------------------------------------------------- what is refused


EQUATIONS = {
    "q_sample": lambda x, t, y: ddpm.q_sample(x, t, y, ALPHAS_CUMPROD),
    "predict_x_start": lambda x, t, y: ddpm.predict_x_start(x, t, y, ALPHAS_CUMPROD),
    "predict_eps": lambda x, t, y: ddpm.predict_eps(x, t, y, ALPHAS_CUMPROD),
    "posterior_mean_variance": lambda x, t, y: ddpm.posterior_mean_variance(x, y, t, BETAS),
    "predict_mean": lambda x, t, y: ddpm.predict_mean(x, t, y, BETAS),
    "predict_eps_from_mean": lambda x, t, y: ddpm.predict_eps_from_mean(x, t, y, BETAS),
    "sample_step": lambda x, t, y: ddpm.sample_step(x, t, x, y, BETAS),
    "simple_loss": lambda x, t, y: ddpm.simple_loss(lambda x, t: x, x, t, y, ALPHAS_CUMPROD),
    "term_bits": lambda x, t, y: ddpm.term_bits(x, x, x, y, t, BETAS),
    "p_mean_variance": (
        lambda x, t, y: GaussianDiffusion(BETAS).p_mean_variance(lambda x, times: y, x, t)
    ),
    "loss": lambda x, t, y: GaussianDiffusion(BETAS).loss(lambda x, times: x, x, t, y),
}


@pytest.mark.parametrize("name", EQUATIONS)
def test_every_equation_refuses_bad_input(name, untyped):
    equation = EQUATIONS[name]
    x, t, y = batch()
    equation(x, t, y)

    def refused(message, x=x, t=t, y=y):
        with pytest.raises(ValueError, match=message):
            equation(x, t, y)

    refused(r"t: expected 0\.\.999, got 0\.\.1000", t=torch.tensor([0, 5, 1000]))
    refused(r"t: expected 0\.\.999, got -1\.\.7", t=torch.tensor([-1, 5, 7]))
    refused(r"t: expected one step per sample, 3 integers, got torch.float32 \(3,\)", t=t.float())
    refused(r"t: expected one step per sample, 3 integers, got torch.int64 \(2,\)", t=t[:2])
    refused(r"t: expected one step per sample, 3 integers, got torch.int64 \(3, 1\)", t=t[:, None])
    refused(r"t: expected one step per sample, 3 integers, got torch.int64 \(\)", t=torch.tensor(4))
    refused(r"\w: expected the shape of \w+, \(3, 2, 4, 5\), got \(3, 1, 4, 5\)", y=y[:, :1])
    for bad in (math.nan, math.inf):
        broken = x.clone()
        broken[1, 0, 0, 0] = bad
        refused(r"\w+: expected finite values, got NaN or infinity", x=broken)
        refused(r"\w+: expected finite values, got NaN or infinity", y=broken)


@pytest.mark.parametrize(
    ("betas", "message"),
    [
        (torch.tensor([0.1, 1.0]), r"strictly between 0 and 1, got 0\.1\.\.1"),
        (torch.tensor([0.0, 0.5]), r"strictly between 0 and 1, got 0\.\.0\.5"),
        (torch.tensor([0.1, -0.5]), r"strictly between 0 and 1, got -0\.5\.\.0\.1"),
        (torch.tensor([0.1, math.nan]), "strictly between 0 and 1"),
        (torch.tensor([0.1]), r"at least two steps, got shape \(1,\)"),
        (torch.full((2, 2), 0.1), r"at least two steps, got shape \(2, 2\)"),
        (linear_betas(20), r"got 0\.005\.\.1"),  # too few steps for the rescaled line
    ],
)
def test_betas_that_are_no_schedule_are_refused(betas, message, untyped):
    with pytest.raises(ValueError, match=message):
        GaussianDiffusion(betas)


def test_unknown_names_are_refused(untyped):
    with pytest.raises(ValueError, match="schedule: expected one of linear, got 'cosine'"):
        GaussianDiffusion.from_config(DDPMConfig(schedule="cosine"))
    x, t, _ = batch()
    with pytest.raises(
        ValueError, match="variance: expected one of fixed_small, fixed_large, got 'learned_range'"
    ):
        GaussianDiffusion(BETAS, "learned_range").p_mean_variance(lambda x, times: x, x, t)


def test_images_that_cannot_be_halved_are_refused():
    model = UNet(DDPMConfig(16, width=16, multipliers=(1, 2, 2), blocks_per_level=1, norm_groups=8))
    with pytest.raises(
        ValueError, match=r"image: expected both sides divisible by 4, got \(8, 10\)"
    ):
        model(torch.zeros(1, 3, 8, 10), torch.tensor([0]))


@pytest.mark.parametrize("classes", [None, 3])
def test_missing_or_unexpected_labels_are_refused(classes):
    model = UNet(
        DDPMConfig(
            16, width=16, multipliers=(1, 2), blocks_per_level=1, norm_groups=8, num_classes=classes
        )
    )
    label = None if classes else torch.tensor([1])
    with pytest.raises(ValueError, match=f"labels expected: {bool(classes)}, given: {not classes}"):
        model(torch.zeros(1, 3, 8, 8), torch.tensor([0]), label)


@pytest.mark.parametrize("width", [2, 15])
def test_widths_too_small_or_odd_for_sines_and_cosines_are_refused(width):
    with pytest.raises(
        ValueError, match=f"width: expected an even number of at least 4, .* got {width}"
    ):
        UNet(DDPMConfig(width=width, norm_groups=1))


def test_heads_that_do_not_divide_the_channels_are_refused():
    with pytest.raises(ValueError, match="heads: expected a divisor of the 20 channels, got 3"):
        UNet(DDPMConfig(width=20, multipliers=(1,), norm_groups=4, heads=3))
