"""Stable Video Diffusion against diffusers: U-Net, autoencoder and sampling; values, gradients."""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.diffusion import edm
from course_lib.papers import svd
from course_lib.papers.ldm_autoencoder import AutoencoderConfig
from course_lib.papers.svd import SVDConfig
from tests.parity.peers import gradients, largest_difference, randomize
from tests.parity.svd_peers import (
    as_sgm,
    diffusers_svd,
    diffusers_temporal_autoencoder,
    sgm_autoencoder_key,
    sgm_unet_key,
)


def unet(**changes):
    """A U-Net with widths of its own, with the epsilons of diffusers."""
    odd = {
        "width": 32,
        "multipliers": (1, 2),
        "blocks": 1,
        "attends": (True, False),
        "heads": (2, 4),
        "context": 24,
        "vector": 36,
        "outer_eps": 1e-6,
    }
    return SVDConfig(**{**odd, **changes})


UNETS = {  # config, batch, frames, height, width, tokens
    "two levels, the first attends": (unet(), 2, 3, 6, 10, 1),
    "one level, one frame": (
        unet(multipliers=(1,), attends=(True,), heads=(1,), vector=18), 3, 1, 5, 7, 2,
    ),
    "three levels, two blocks each": (
        unet(multipliers=(1, 2, 1), blocks=2, attends=(False, True, False), heads=(1, 4, 2)),
        2, 5, 24, 40, 1,
    ),
    "deep transformers, a text": (
        unet(depth=2, attends=(True, True), heads=(4, 2), in_channels=4), 1, 4, 8, 6, 7,
    ),
    "no attention but in the middle": (unet(attends=(False, False), in_channels=9), 2, 2, 6, 8, 2),
}  # fmt: skip


def inputs(config, b, t, h, w, m, seed=1):
    """A noisy clip with what stands beside it, times, context, and values of the vector."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(b, t, config.in_channels, h, w, generator=generator)
    time = torch.randn(b, generator=generator)
    context = torch.randn(b, m, config.context, generator=generator)
    values = torch.tensor([[6.0, 127.0, 0.02], [24.0, 3.0, 0.5], [1.0, 255.0, 0.0]])[:b]
    return x, time, context, values


def vector_of(config, values):
    return svd.micro_conditioning(*values.unbind(1), width=config.vector // 3)


def run_diffusers(peer, x, time, context, values):
    """What diffusers' U-Net says, in the precision of x."""
    return peer(x, time.to(x), context.to(x), values, return_dict=False)[0]


@pytest.mark.parametrize("name", UNETS)
def test_the_unet_equals_diffusers(name):
    config, *shape = UNETS[name]
    peer = randomize(diffusers_svd(config)).eval()
    model = load_official("svd", peer.state_dict(), config).eval()
    x, time, context, values = inputs(config, *shape)
    with torch.no_grad():
        got = model(x, time, context, vector_of(config, values))
        expected = run_diffusers(peer.double(), x.double(), time, context, values)
    difference = largest_difference({"y": got}, {"y": expected})
    print(f"{difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("name", UNETS)
def test_its_gradients_equal_diffusers(name):
    """In double precision: in single precision, diffusers' own are off by 1e-5 to 2e-5."""
    config, *shape = UNETS[name]
    peer = randomize(diffusers_svd(config)).eval()
    model = load_official("svd", peer.state_dict(), config).eval().double()
    peer = peer.double()
    x, time, context, values = inputs(config, *shape)
    x = x[..., :12, :12].double()
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got = model(ours, time, context.double(), vector_of(config, values))
    expected = run_diffusers(peer, theirs, time, context, values)
    by_name = gradients(expected, theirs, peer.named_parameters())
    wanted = converted(by_name, config)
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    slopes = largest_difference(gradients(got, ours, model.named_parameters()), wanted)
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-9 and slopes < 1e-6


def converted(by_name, config):
    """Their gradients under our names, as conversion is linear, and that of the input."""
    slope = by_name.pop("x")
    single = {name: grad.float() for name, grad in by_name.items()}
    model = load_official("svd", single, config)
    return {"x": slope, **{name: p.detach() for name, p in model.named_parameters()}}


def test_what_a_checkpoint_does_not_say_changes_the_output():
    """Heads, epsilons and the order of the vector leave no trace in the weights."""
    config, *shape = UNETS["two levels, the first attends"]
    weights = randomize(diffusers_svd(config)).state_dict()
    x, time, context, values = inputs(config, *shape)
    x = x / 30  # where an epsilon counts
    expected = load_official("svd", weights, config)(x, time, context, vector_of(config, values))
    for changes in ({"heads": (4, 4)}, {"outer_eps": 1e-5}):
        other = load_official("svd", weights, unet(**changes))
        assert (other(x, time, context, vector_of(config, values)) - expected).abs().max() > 1e-4
    other = load_official("svd", weights, config)
    swapped = vector_of(config, values[:, [1, 0, 2]])
    assert (other(x, time, context, swapped) - expected).abs().max() > 1e-2


def test_a_sampled_clip_equals_diffusers():
    """A whole run: preconditioning, Karras' levels, guidance per frame, Euler, latents beside."""
    from diffusers import EulerDiscreteScheduler

    config, b, t, h, w, m = UNETS["two levels, the first attends"]
    peer = randomize(diffusers_svd(config)).eval()
    model = load_official("svd", peer.state_dict(), config).eval()
    x, _, context, values = inputs(config, b, t, h, w, m)
    noise, latent = x.chunk(2, dim=2)
    scale = svd.guidance_ramp(t, 1.0, 3.0)

    scheduler = EulerDiscreteScheduler(
        beta_schedule="scaled_linear", prediction_type="v_prediction", timestep_type="continuous",
        use_karras_sigmas=True, sigma_min=0.002, sigma_max=700.0, beta_start=0.00085,
        beta_end=0.012, timestep_spacing="leading", steps_offset=1,
    )  # fmt: skip
    scheduler.set_timesteps(6)
    theirs = noise * scheduler.init_noise_sigma
    with torch.no_grad():
        for time in scheduler.timesteps:
            scaled = scheduler.scale_model_input(theirs, time)
            two = torch.cat([scaled, scaled])
            two = torch.cat([two, torch.cat([torch.zeros_like(latent), latent])], dim=2)
            contexts = torch.cat([torch.zeros_like(context), context])
            says = peer(two, time, contexts, values.repeat(2, 1), return_dict=False)[0]
            unknown, known = says.chunk(2)
            says = unknown + scale[None, :, None, None, None] * (known - unknown)
            theirs = scheduler.step(says, time, theirs).prev_sample

    condition = svd.Condition(context, vector_of(config, values), latent)
    ours = svd.sample(model, noise, condition, condition.without(), scale, edm.karras_sigmas(6))
    difference = largest_difference({"x": ours}, {"x": theirs})
    print(f"{difference:.1e}")
    assert difference < 2e-5


@pytest.mark.parametrize("name", UNETS)
def test_stabilitys_layout_holds_the_same_network(name):
    config = UNETS[name][0]
    weights = randomize(diffusers_svd(config)).state_dict()
    expected = load_official("svd", weights, config).state_dict()
    got = load_official("svd", as_sgm(weights, sgm_unet_key, config), config).state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


# ---------------------------------------------------------------- the autoencoder


def autoencoder(**changes):
    odd = {"image_size": 32, "width": 32, "multipliers": (1, 2), "blocks": 2, "latent": 3}
    return AutoencoderConfig(**{**odd, **changes})


AUTOENCODERS = {  # config, batch, frames, height, width
    "two levels": (autoencoder(), 2, 3, 6, 10),
    "one level, one frame": (autoencoder(multipliers=(1,), latent=4), 3, 1, 5, 7),
    "three levels": (autoencoder(multipliers=(1, 1, 2)), 1, 5, 8, 12),
}


def run_autoencoder(model, frames, b, t):
    """Our Gaussian of every frame, and the clip of latents a deviation above its mean."""
    posterior = model.encode(frames)
    latents = posterior.mean + (0.5 * posterior.log_variance).exp()
    clip = model.decode(latents.unflatten(0, (b, t))).flatten(0, 1)
    return torch.cat([part.flatten(1) for part in (*posterior, clip)], dim=1)


def run_diffusers_autoencoder(peer, frames, t):
    posterior = peer.encode(frames).latent_dist
    clip = peer.decode(posterior.mean + posterior.std, num_frames=t).sample
    parts = (posterior.mean, posterior.logvar, clip)
    return torch.cat([part.flatten(1) for part in parts], dim=1)


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_the_temporal_autoencoder_equals_diffusers(name):
    """Values in single precision, gradients in double."""
    config, b, t, h, w = AUTOENCODERS[name]
    peer = randomize(diffusers_temporal_autoencoder(config)).eval()
    model = load_official("svd", peer.state_dict(), config).eval()
    peer = peer.double()
    x = torch.randn(b * t, 3, h, w, generator=torch.Generator().manual_seed(3))
    theirs = x.double().requires_grad_()
    expected = run_diffusers_autoencoder(peer, theirs, t)
    with torch.no_grad():
        got = run_autoencoder(model, x, b, t)
    values = largest_difference({"y": got}, {"y": expected.detach()})

    ours, model = x.double().requires_grad_(), model.double()
    got = run_autoencoder(model, ours, b, t)
    slopes = largest_difference(
        gradients(got, ours, model.named_parameters()),
        converted(gradients(expected, theirs, peer.named_parameters()), config),
    )
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-5 and slopes < 1e-6


def test_a_few_frames_at_once_are_decoded_as_diffusers_does():
    config = autoencoder()
    peer = randomize(diffusers_temporal_autoencoder(config)).eval()
    model = load_official("svd", peer.state_dict(), config).eval()
    latents = torch.randn(1, 7, 3, 4, 6, generator=torch.Generator().manual_seed(4))
    with torch.no_grad():
        parts = [peer.decode(part, num_frames=len(part)).sample for part in latents[0].split(3)]
        got = model.decode(latents, frames_at_once=3)[0]
        torch.testing.assert_close(got, torch.cat(parts), rtol=0, atol=1e-5)
        assert (model.decode(latents)[0] - got).abs().max() > 1e-3


@pytest.mark.parametrize("name", AUTOENCODERS)
def test_stabilitys_layout_holds_the_same_autoencoder(name):
    config = AUTOENCODERS[name][0]
    weights = randomize(diffusers_temporal_autoencoder(config)).state_dict()
    expected = load_official("svd", weights, config).state_dict()
    sgm = as_sgm(weights, sgm_autoencoder_key, config)
    got = load_official("svd", sgm, config).state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())


# ---------------------------------------------------------------- sizes


def parameters(model):
    return sum(p.numel() for p in model.parameters())


def part(model, *names):
    """How many numbers the parameters have whose names contain one of these."""
    return sum(p.numel() for name, p in model.named_parameters() if any(n in name for n in names))


def test_counts_of_the_unet():
    with torch.device("meta"):
        model = zoo.build("svd/SVD")
        peer = diffusers_svd(model.config)
    assert parameters(model) == parameters(peer) == 1_524_623_082
    assert part(model, "temporal_blocks") == 397_620_480
    assert part(model, "frame_embed") == 99_185_600
    assert part(model, "temporal_res") == 159_270_720
    assert part(model, ".mix") == 38
    assert part(model, "vector_embed") == 2_624_000
    assert part(model, "stem") == 23_360


def test_the_papers_1521_million_are_the_image_model_and_what_is_temporal():
    with torch.device("meta"):
        model, image = zoo.build("svd/SVD-text"), zoo.build("ldm/SD-2.1")
    temporal = part(model, "temporal", "frame_embed", ".mix")
    assert (parameters(image), temporal) == (865_910_724, 656_076_838)
    assert parameters(model) == parameters(image) + temporal == 1_521_987_562


def test_counts_of_the_autoencoder():
    with torch.device("meta"):
        model = zoo.build("svd/temporal-decoder")
        peer = diffusers_temporal_autoencoder(model.config)
    assert parameters(model) == parameters(peer) == 97_742_847
    assert parameters(model.encoder) == 34_163_592 and parameters(model.decoder) == 63_579_183
    assert part(model, "temporal", ".mix", "time_conv_out") == 14_089_004
    assert part(model, ".mix") == 14
