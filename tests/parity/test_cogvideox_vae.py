"""CogVideoX's autoencoder against diffusers: values and gradients, whole clips and pieces."""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.papers.cogvideox_vae import CogVideoXVAEConfig
from tests.parity.cogvideox_vae_peers import diffusers_vae, sat_key
from tests.parity.peers import gradients, largest_difference, randomize

WHOLE = 1000  # frames at once, more than any clip here has


def vae(**changes):
    odd = {
        "widths": (8, 12),
        "down": ((2, 2),),
        "up": ((2, 2),),
        "blocks": 1,
        "latent": 3,
        "groups": 4,
    }
    return CogVideoXVAEConfig(**{**odd, **changes})


VAES = {  # config, batch, frames, height, width
    "two stages": (vae(), 2, 5, 6, 10),
    "two stages, one frame": (vae(blocks=2), 3, 1, 4, 2),
    "as the release, thin": (
        vae(
            widths=(8, 16, 16, 32), down=((2, 2), (2, 2), (1, 2)), up=((2, 2), (2, 2), (1, 2)),
            blocks=3, latent=5, groups=8,
        ),
        1, 17, 16, 24,
    ),
    "three stages, time twice": (
        vae(widths=(4, 12, 8), down=((2, 2), (2, 2)), up=((2, 2), (2, 2)), channels=1, groups=2),
        2, 9, 4, 12,
    ),
    "one stage": (vae(widths=(6,), down=(), up=(), groups=3), 2, 3, 5, 7),
}  # fmt: skip


PIECES = {  # config, frames, height, width, frames and latents at once
    "as released": (VAES["as the release, thin"][0], 49, 16, 8, 8, 2),
    "other pieces": (VAES["three stages, time twice"][0], 33, 8, 4, 16, 4),
    "one halving of time": (VAES["two stages"][0], 13, 6, 4, 4, 2),
}


def pair(config, frames_at_once=WHOLE, latents_at_once=WHOLE):
    """Ours and diffusers', of the same random weights, in double precision."""
    peer = randomize(diffusers_vae(config, frames_at_once, latents_at_once)).eval()
    model = load_official("cogvideox", peer.state_dict(), config).eval()
    return model, peer.double()


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def flat(*parts):
    return torch.cat([part.flatten(1) for part in parts], dim=1)


def run(model, video, *at_once):
    """Our Gaussian, and the clip of latents a deviation above its mean."""
    frames, latents = at_once or (None, None)
    posterior = model.encode(video, frames)
    clip = model.decode(posterior.mean + (0.5 * posterior.log_variance).exp(), latents)
    return flat(*posterior, clip)


def run_diffusers(peer, video):
    posterior = peer.encode(video).latent_dist
    clip = peer.decode(posterior.mean + posterior.std).sample
    return flat(posterior.mean, posterior.logvar, clip)


@pytest.mark.parametrize("name", VAES)
def test_the_whole_equals_diffusers(name):
    config, b, *size = VAES[name]
    model, peer = pair(config)
    video = random(b, config.channels, *size)
    with torch.no_grad():
        got, expected = run(model, video), run_diffusers(peer, video.double())
    difference = largest_difference({"y": got.double()}, {"y": expected})
    print(f"{difference:.1e}")
    assert difference < 1e-5


@pytest.mark.parametrize("name", VAES)
def test_gradients_equal_diffusers(name):
    config, b, *size = VAES[name]
    model, peer = pair(config)
    model.double()
    video = random(b, config.channels, *size).double()
    ours, theirs = video.clone().requires_grad_(), video.clone().requires_grad_()
    got, expected = run(model, ours), run_diffusers(peer, theirs)
    by_name = gradients(expected, theirs, peer.named_parameters())
    slope = by_name.pop("x")
    single = {name: grad.float() for name, grad in by_name.items()}
    converted = load_official("cogvideox", single, config)
    wanted = {"x": slope, **{name: p.detach() for name, p in converted.named_parameters()}}
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    slopes = largest_difference(gradients(got, ours, model.named_parameters()), wanted)
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-9 and slopes < 1e-6


@pytest.mark.parametrize("name", PIECES)
def test_pieces_equal_diffusers(name):
    config, *size, frames, latents = PIECES[name]
    model, peer = pair(config, frames, latents)
    video = random(1, config.channels, *size)
    with torch.no_grad():
        got, expected = run(model, video, frames, latents), run_diffusers(peer, video.double())
        whole = run(model, video)
    difference = largest_difference({"y": got.double()}, {"y": expected})
    print(f"{difference:.1e}; the whole: {largest_difference({'y': whole}, {'y': got}):.1e}")
    assert difference < 1e-5
    assert largest_difference({"y": whole}, {"y": got}) > 1e-2  # the norms see pieces


@pytest.mark.parametrize(("name", "frames"), [("as the release, thin", 29), ("two stages", 15)])
def test_the_first_piece_takes_the_rest_as_in_diffusers(name, frames):
    config = VAES[name][0]
    model, peer = pair(config)
    video = random(2, config.channels, frames, 8, 16)
    with torch.no_grad():
        ours = model.encode(video, 8).mean
        peer.num_sample_frames_batch_size = 8
        theirs = peer.encode(video.double()).latent_dist.mean
    assert largest_difference({"z": ours.double()}, {"z": theirs}) < 1e-5


def test_the_first_frame_is_a_still_where_diffusers_counts_pieces():
    """5 frames are two latents, which it decodes to 8 frames."""
    config = VAES["three stages, time twice"][0]
    model, peer = pair(config)
    video = random(1, config.channels, 5, 4, 8)
    with torch.no_grad():
        ours, theirs = model.encode(video).mean, peer.encode(video.double()).latent_dist.mean
        assert largest_difference({"z": ours.double()}, {"z": theirs}) < 1e-5
        assert model.decode(ours).shape[2] == 5 and peer.decode(theirs).sample.shape[2] == 8


def test_both_have_the_parameters_of_the_release():
    config = zoo.find("cogvideox/VAE").config
    with torch.device("meta"):
        ours, theirs = zoo.build("cogvideox/VAE"), diffusers_vae(config)
    assert (
        sum(p.numel() for p in ours.parameters())
        == sum(p.numel() for p in theirs.parameters())
        == 215_583_907
    )


@pytest.mark.parametrize("name", VAES)
def test_the_authors_layout_holds_the_same_network(name):
    config = VAES[name][0]
    weights = randomize(diffusers_vae(config)).state_dict()
    expected = load_official("cogvideox", weights, config).state_dict()
    as_sat = {sat_key(key, config): value for key, value in weights.items()}
    got = load_official("cogvideox", as_sat, config).state_dict()
    assert all(torch.equal(got[name], value) for name, value in expected.items())
