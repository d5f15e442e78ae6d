"""How CogVideoX is trained and sampled."""

import pytest
import torch

from course_lib.diffusion import trailing_steps
from course_lib.nn.frame_pack import frame_pack, pack_clips
from course_lib.papers import cogvideox_diffusion as diffusion
from course_lib.papers.cogvideox import COGVIDEOX_CONFIGS
from tests.papers.test_cogvideox import TINY, awake, inputs

TABLE = COGVIDEOX_CONFIGS["5B"].alphas_cumprod


def test_the_shape_of_latents():
    assert diffusion.latent_shape(49, 480, 720) == (13, 16, 60, 90)
    assert diffusion.latent_shape(1, 64, 64) == (1, 16, 8, 8)
    assert diffusion.latent_shape(17, 32, 32, channels=4, compression=(4, 4, 4)) == (5, 4, 8, 8)


def test_the_target_at_both_ends():
    x, noise = torch.randn(2, 3, 4), torch.randn(2, 3, 4)
    v = diffusion.v_target(x, torch.tensor([0, 999]), noise, TABLE)
    torch.testing.assert_close(v[1], -x[1])
    assert (v[0] - noise[0]).abs().max() < 0.15


@pytest.mark.parametrize("positions", ["rope", "sincos"])
def test_the_loss_of_a_packed_clip_is_its_own(positions):
    model = awake(TINY)
    durations = [1, 4, 2, 3]
    x, t, text = inputs(4, 4)
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    clips = [x[i, :n] for i, n in enumerate(durations)]
    noises = [noise[i, :n] for i, n in enumerate(durations)]
    pack = frame_pack(durations, 5)
    got = diffusion.packed_loss(
        model, pack_clips(clips, pack), t, pack_clips(noises, pack), text, TABLE, pack
    )
    alone = [
        diffusion.loss(model, clip[None], t[i : i + 1], eps[None], text[i : i + 1], TABLE)
        for i, (clip, eps) in enumerate(zip(clips, noises, strict=True))
    ]
    torch.testing.assert_close(got, torch.cat(alone))


def test_the_plain_error_of_v_is_the_weighted_one_of_x_start():
    x, t, text = inputs()
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(4))
    model = awake(TINY)
    loss = diffusion.loss(model, x, t, noise, text, TABLE)
    alpha_bar = TABLE[t][:, None, None, None, None]
    x_t = (alpha_bar.sqrt() * x + (1 - alpha_bar).sqrt() * noise).float()
    x_start = alpha_bar.sqrt() * x_t - (1 - alpha_bar).sqrt() * model(x_t, t, text)
    weighted = ((x_start - x).square() / (1 - alpha_bar)).flatten(1).mean(1)
    torch.testing.assert_close(loss, weighted.float(), rtol=1e-4, atol=1e-5)


# ---------------------------------------------------------------- steps


def test_every_sample_has_an_interval_of_its_own():
    low = diffusion.explicit_uniform(torch.zeros(4), 1000)
    high = diffusion.explicit_uniform(torch.full((4,), 1 - 1e-7), 1000)
    assert low.tolist() == [0, 250, 500, 750] and high.tolist() == [249, 499, 749, 999]


def test_an_interval_begins_with_its_own_first_step():
    """29 / 100 * 100 is a little below 29 in floating point."""
    steps = diffusion.explicit_uniform(torch.zeros(100), 100)
    assert torch.equal(steps, torch.arange(100))


def test_ranks_share_the_steps_among_them():
    uniform = torch.full((2,), 0.5)
    steps = [diffusion.explicit_uniform(uniform, 1000, rank, 3) for rank in range(3)]
    assert torch.equal(torch.cat(steps), diffusion.explicit_uniform(torch.full((6,), 0.5), 1000))
    one = [diffusion.explicit_uniform(torch.zeros(1), 1000, rank, 40) for rank in (0, 1, 39)]
    assert torch.cat(one).tolist() == [0, 25, 975]


def test_all_steps_are_as_likely_and_batches_vary_less():
    generator = torch.Generator().manual_seed(0)
    uniform = torch.rand(20_000, 8, generator=generator)
    steps = torch.stack([diffusion.explicit_uniform(row, 1000) for row in uniform])
    counts = steps.flatten().bincount(minlength=1000).double()
    assert (counts / counts.mean() - 1).abs().max() < 0.4 and len(counts) == 1000
    plain = (torch.rand(20_000, 8, generator=generator) * 1000).long().double()
    assert steps.double().mean(1).std() < 0.2 * plain.mean(1).std()


# ---------------------------------------------------------------- guidance


def test_the_ramp_begins_with_none_and_grows():
    scales = diffusion.dynamic_guidance(50)
    assert float(scales[0]) == 1 and bool((scales.diff() >= 0).all())
    assert 6.8 < float(scales[-1]) < 7
    assert 6.99 < float(diffusion.dynamic_guidance(2000)[-1]) < 7


def test_the_released_ramp_is_none():
    scales = diffusion.released_dynamic_guidance(trailing_steps(1000, 50).flip(0))
    assert bool((scales.diff() < -1).any()) and bool((scales.diff() > 1).any())


def test_guidance_goes_away_from_the_null_text_in_one_batch():
    sizes = []

    def network(x, t, text):
        sizes.append(len(x))
        return text.mean((1, 2)).reshape(-1, 1, 1, 1, 1).expand_as(x)

    x = torch.zeros(2, 1, 1, 1, 1)
    text, null = torch.full((2, 3, 4), 2.0), torch.full((1, 3, 4), 1.0)
    t = torch.zeros(2, dtype=torch.long)
    assert diffusion.guided_v(network, x, t, text, null, 5.0).flatten().tolist() == [6, 6]
    assert diffusion.guided_v(network, x, t, text, None, 5.0).flatten().tolist() == [2, 2]
    assert sizes == [4, 2]


# ---------------------------------------------------------------- sampling


def perfect(x_start):
    """A network that knows the one clip there is."""

    def network(x_t, t, text):
        alpha_bar = TABLE[t].reshape(-1, 1, 1, 1, 1)
        sigma = (1 - alpha_bar).sqrt()
        noise = (x_t - alpha_bar.sqrt() * x_start) / sigma
        return (alpha_bar.sqrt() * noise - sigma * x_start).float()

    return network


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
@pytest.mark.parametrize("steps", [2, 5, 50])
def test_a_perfect_network_gives_its_clip_back(steps, sampler):
    x_start, noise, text = (
        torch.randn(1, 3, 4, 2, 2),
        torch.randn(2, 3, 4, 2, 2),
        torch.zeros(2, 1, 1),
    )
    visited = trailing_steps(1000, steps)
    got = diffusion.sample(
        perfect(x_start), noise, text, None, 1.0, visited, TABLE, sampler,
        lambda: torch.randn(noise.shape),
    )  # fmt: skip
    torch.testing.assert_close(got, x_start.expand_as(got), rtol=0, atol=1e-5)


@pytest.mark.parametrize("sampler", ["ddim", "dpm"])
def test_on_the_way_samples_have_the_variance_of_their_step(sampler):
    """Data of variance 1, for which the best network is known: v = -sigma x_start's mean of it."""

    def network(x_t, t, text):
        # x_start and noise are both normal: E[v | x_t] = 0 for data of variance 1.
        return torch.zeros_like(x_t)

    generator = torch.Generator().manual_seed(0)
    noise = torch.randn(64, 4, 4, 4, 4, generator=generator)
    steps = trailing_steps(1000, 20)
    states = diffusion.sampling(
        network, noise, torch.zeros(64, 1, 1), None, 1.0, steps, TABLE, sampler,
        lambda: torch.randn(noise.shape, generator=generator),
    )  # fmt: skip
    for x, _ in list(states)[:-1]:
        assert float(x.std()) == pytest.approx(1.0, abs=0.05 if sampler == "dpm" else 1.0)


def test_an_image_stands_beside_the_first_frame():
    latent = torch.randn(2, 4, 3, 5)
    condition = diffusion.image_condition(latent, 3)
    assert condition.shape == (2, 3, 4, 3, 5)
    assert torch.equal(condition[:, 0], latent) and not condition[:, 1:].any()
    x = torch.randn(2, 3, 4, 3, 5)
    both = diffusion.beside(x, condition)
    assert torch.equal(both[:, :, :4], x) and torch.equal(both[:, :, 4:], condition)
    assert diffusion.beside(x, None) is x


def test_the_image_is_in_both_halves_of_guidance():
    seen = []

    def network(x, t, text):
        seen.append(x)
        return x[:, :, :1]

    image = torch.ones(1, 2, 1, 2, 2)
    diffusion.sample(
        network, torch.zeros(1, 2, 1, 2, 2), torch.zeros(1, 1, 1), torch.zeros(1, 1, 1), 3.0,
        trailing_steps(1000, 2), TABLE, image=image,
    )  # fmt: skip
    assert all(bool((x[:, :, 1] == 1).all()) and len(x) == 2 for x in seen)


def test_the_papers_way_to_draw_is_ddim_from_the_last_step_with_growing_guidance():
    table = COGVIDEOX_CONFIGS["tiny"].alphas_cumprod
    generator = torch.Generator().manual_seed(0)
    noise, text = (
        torch.randn(shape, generator=generator) for shape in ((2, 3, 4, 2, 2), (2, 3, 5))
    )
    seen = []

    def network(x, t, words):
        seen.append(int(t[0]))
        return torch.tanh(x) * words.mean((1, 2)).cos()[:, None, None, None, None]

    drawn = diffusion.sample_ddim(network, noise, text, 0 * text[:1], 4, table, 3.0)
    assert seen == [999, 749, 499, 249]
    steps, guidance = torch.tensor(seen), diffusion.dynamic_guidance(4, 3.0)
    expected = diffusion.sample(network, noise, text, 0 * text[:1], guidance, steps, table)
    assert torch.equal(drawn, expected)
