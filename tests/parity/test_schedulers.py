"""Steps and whole chains against diffusers' DDPMScheduler and DDIMScheduler, fed the same noise.

Their tables are float32; where 1 - alpha_bar is small that costs them three digits.  So the tables
are compared as they are, and the steps with the oracle's float64 tables put in their place.
"""

import pytest
import torch

from course_lib.diffusion import cosine_betas, ddim_steps, linear_betas
from course_lib.papers.improved_ddpm import ImprovedDiffusion, strided_steps
from tests.parity import oracle
from tests.parity.peers import DDIMScheduler, DDPMScheduler

SCHEDULES = {"linear": linear_betas, "cosine": cosine_betas}


def scheduler(kind, name, T, **options):
    """Theirs, with float64 tables."""
    made = kind(
        num_train_timesteps=T,
        beta_schedule={"linear": "linear", "cosine": "squaredcos_cap_v2"}[name],
        beta_start=1e-4 * 1000 / T,
        beta_end=0.02 * 1000 / T,
        **options,
    )
    betas = {"linear": oracle.linear_betas, "cosine": oracle.cosine_betas}[name](T)
    exact = torch.tensor(betas, dtype=torch.float64)
    torch.testing.assert_close(made.betas, exact.float(), rtol=1e-5, atol=1e-9)
    torch.testing.assert_close(
        made.alphas_cumprod, (1 - exact).cumprod(0).float(), rtol=1e-3, atol=1e-9
    )
    made.betas, made.alphas = exact, 1 - exact
    made.alphas_cumprod = made.alphas.cumprod(0)
    return made


def network(learned):
    """A deterministic substitute, nearly right so that chains stay in range; v exceeds -1 and 1."""

    def model(x, times):
        times = times.reshape(-1, 1, 1, 1) / 1000
        eps = 0.8 * x + 0.3 * torch.sin(4 * x + times)
        return torch.cat([eps, 1.3 * torch.cos(3 * x - times)], dim=1) if learned else eps

    return model


def start(T, seed=0):
    return torch.randn(3, 2, 4, 5, generator=torch.Generator().manual_seed(seed))


def largest(pairs):
    return max(float((ours - theirs).abs().max()) for ours, theirs in pairs)


def chain(theirs, model, T, seed=1, **options):
    """Their whole chain from the same start, every x on the way."""
    x, generator = start(T), torch.Generator().manual_seed(seed)
    for t in theirs.timesteps:
        times = torch.full((len(x),), float(t) * 1000 / T)
        x = theirs.step(model(x, times), int(t), x, generator=generator, **options).prev_sample
        yield x


def our_chain(process, model, T, seed=1, **options):
    for x, _ in process.denoise(
        model, start(T), generator=torch.Generator().manual_seed(seed), **options
    ):
        yield x


@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("T", [50, 1000])
def test_one_ancestral_step_from_every_t(T, name, variance, clip):
    theirs = scheduler(DDPMScheduler, name, T, variance_type=variance, clip_sample=clip)
    process = ImprovedDiffusion(SCHEDULES[name](T), variance)
    model = network(variance == "learned_range")
    x, noise = start(T), torch.randn(start(T).shape, generator=torch.Generator().manual_seed(7))
    steps = sorted({0, 1, 2, T // 2, T - 2, T - 1})
    differences = []
    for step in steps:
        t = torch.full((len(x),), step)
        p = process.p_mean_variance(model, x, t, clip)
        ours = p.mean + (torch.exp(0.5 * p.log_variance) * noise if step > 0 else 0)
        out = theirs.step(
            process.call_network(model, x, t), step, x, generator=torch.Generator().manual_seed(7)
        )
        # Unclipped, it is 1e5 and more at a cosine's end.
        scale = max(1, float(out.pred_original_sample.abs().max()))
        differences += [
            (ours / scale, out.prev_sample / scale),
            (p.x_start / scale, out.pred_original_sample / scale),
        ]
    print(f"T={T} {name} {variance} clip={clip}: {largest(differences):.1e}")
    assert largest(differences) < 1e-5


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(
    ("T", "variance"),
    [(50, "fixed_small"), (50, "fixed_large"), (50, "learned_range"), (1000, "learned_range")],
)
def test_whole_ancestral_chain(T, variance, name):
    theirs = scheduler(DDPMScheduler, name, T, variance_type=variance)
    process = ImprovedDiffusion(SCHEDULES[name](T), variance)
    model = network(variance == "learned_range")
    pairs = list(zip(our_chain(process, model, T), chain(theirs, model, T), strict=True))
    print(f"T={T} {name} {variance}: {largest(pairs):.1e}")
    assert len(pairs) == T and largest(pairs) < 1e-5


def test_whole_ancestral_chain_without_clipping():
    T = 100
    theirs = scheduler(DDPMScheduler, "linear", T, clip_sample=False)
    process, model = ImprovedDiffusion(linear_betas(T), "fixed_small"), network(False)
    pairs = list(
        zip(our_chain(process, model, T, clip=False), chain(theirs, model, T), strict=True)
    )
    scale = max(1.0, float(pairs[-1][1].abs().max()))
    assert largest(pairs) / scale < 1e-5


@pytest.mark.parametrize("count", [2, 7, 50])
@pytest.mark.parametrize("variance", ["fixed_small", "fixed_large", "learned_range"])
@pytest.mark.parametrize("name", SCHEDULES)
def test_respaced_ancestral_chain(name, variance, count):
    """Their "linspace" spacing is ours: both ends, evenly between, rounded."""
    T = 1000
    theirs = scheduler(DDPMScheduler, name, T, variance_type=variance)
    theirs.set_timesteps(timesteps=strided_steps(T, count).flip(0).tolist())
    spaced = DDPMScheduler(num_train_timesteps=T, timestep_spacing="linspace")
    spaced.set_timesteps(count)
    assert torch.equal(theirs.timesteps, spaced.timesteps)
    process = ImprovedDiffusion(SCHEDULES[name](T), variance).respaced(count)
    model = network(variance == "learned_range")
    pairs = list(zip(our_chain(process, model, T), chain(theirs, model, T), strict=True))
    assert len(pairs) == count and largest(pairs) < 1e-5


@pytest.mark.parametrize("clip", [True, False], ids=["clipped", "unclipped"])
@pytest.mark.parametrize("eta", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize(("T", "count"), [(50, 50), (1000, 50), (1000, 20)])
def test_whole_ddim_chain(T, count, name, eta, clip):
    """Ours re-derives the noise from the clipped x_0, which is use_clipped_model_output there."""
    theirs = scheduler(DDIMScheduler, name, T, clip_sample=clip)
    theirs.set_timesteps(count)  # their "leading" spacing: 0, T/count, 2 T/count, ...
    latent = scheduler(DDIMScheduler, name, T, steps_offset=1)
    latent.set_timesteps(count)
    if count < T:  # theirs would go beyond the last step
        assert torch.equal(ddim_steps(T, count, offset=1), latent.timesteps.flip(0))
    process = ImprovedDiffusion(SCHEDULES[name](T), "fixed_small").respaced(count, ddim_steps)
    assert torch.equal(process.times, theirs.timesteps.flip(0) * 1000 / T)
    model = network(False)
    ours = our_chain(process, model, T, eta=eta, clip=clip)
    pairs = list(
        zip(ours, chain(theirs, model, T, eta=eta, use_clipped_model_output=True), strict=True)
    )
    scale = max(1.0, *(float(theirs.abs().max()) for _, theirs in pairs))
    print(
        f"T={T}/{count} {name} eta={eta} clip={clip}: {largest(pairs) / scale:.1e} of {scale:.1f}"
    )
    assert len(pairs) == count and largest(pairs) / scale < 1e-5
