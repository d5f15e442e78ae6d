"""CogVideoX's autoencoder: sizes, causality, pieces of a clip, and the leak."""

import pytest
import torch

from course_lib import zoo
from course_lib.papers.cogvideox_vae import (
    CogVideoXVAE,
    CogVideoXVAEConfig,
    change_per_latent,
    piece_sizes,
    scale_and_shift,
)


def config(**changes):
    small = {
        "widths": (4, 6, 8),
        "down": ((2, 2), (2, 1)),
        "up": ((2, 1), (2, 2)),
        "blocks": 1,
        "latent": 3,
        "groups": 2,
        "norm": "frame",
    }
    return CogVideoXVAEConfig(**{**small, **changes})


def build(seed=0, **changes):
    torch.manual_seed(seed)
    return CogVideoXVAE(config(**changes)).eval()


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def parameters(model):
    return sum(p.numel() for p in model.parameters())


# ---------------------------------------------------------------- sizes


def test_the_released_one_has_the_published_parts():
    with torch.device("meta"):
        model = zoo.build("cogvideox/VAE")
    assert parameters(model.encoder) == 92_215_456
    assert parameters(model.decoder) == 123_368_451
    assert parameters(model) == 215_583_907
    released = model.config
    assert (released.frames_per_latent, released.pixels_per_latent) == (4, 8)


def test_the_tiny_one_maps_17_frames_of_32_pixels_to_5_of_8():
    model = zoo.build("cogvideox/VAE-tiny")
    with torch.no_grad():
        clip, posterior = model(random(2, 3, 17, 32, 32), random(2, 4, 5, 8, 8))
    assert posterior.mean.shape == posterior.log_variance.shape == (2, 4, 5, 8, 8)
    assert clip.shape == (2, 3, 17, 32, 32)
    assert 1e6 < parameters(model) < 3e6


@pytest.mark.parametrize(
    ("changes", "video", "latents"),
    [
        ({}, (2, 3, 5, 6, 4), (2, 3, 2, 3, 2)),
        ({"patch": 2, "latent": 5}, (1, 3, 9, 12, 8), (1, 5, 3, 3, 2)),
        ({"patch": 3, "channels": 1}, (1, 1, 1, 6, 12), (1, 3, 1, 1, 2)),
        ({"widths": (4,), "down": (), "up": ()}, (1, 3, 4, 5, 3), (1, 3, 4, 5, 3)),
        (
            {"down": ((1, 2), (2, 2)), "up": ((2, 2), (1, 2)), "blocks": 2},
            (1, 3, 7, 8, 4),
            (1, 3, 4, 2, 1),
        ),
    ],
)
def test_other_sizes(changes, video, latents):
    model = build(**changes)
    with torch.no_grad():
        mean = model.encode(random(*video)).mean
        assert mean.shape == latents and model.decode(mean).shape == video


def test_the_log_variance_is_clamped():
    model = build()
    with torch.no_grad():
        model.encoder.conv_out.bias[3:] = torch.tensor([-100.0, 0.0, 100.0])
        log_variance = model.encode(random(1, 3, 5, 4, 4)).log_variance
    assert (log_variance[:, 0] == -30).all() and (log_variance[:, 2] == 20).all()


def test_every_parameter_is_trained():
    model = build(patch=2)
    clip, posterior = model(random(1, 3, 5, 8, 8), random(1, 3, 2, 2, 2))
    (clip.square().mean() + posterior.log_variance.square().mean()).backward()
    assert [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0] == []


# ---------------------------------------------------------------- causality


def test_frames_change_no_earlier_latent():
    model = build()
    for frame, first_changed in ((1, 1), (4, 1), (5, 2), (8, 2), (9, 3)):
        change = change_per_latent(
            model, random(2, 3, 13, 6, 4), random(2, 3, 13, 6, 4, seed=2), frame
        )
        assert (change[:first_changed] == 0).all() and (change[first_changed:] > 0).all()


def test_the_first_latent_is_that_of_the_image():
    model, video = build(), random(2, 3, 9, 6, 4)
    with torch.no_grad():
        torch.testing.assert_close(
            model.encode(video).mean[:, :, :1], model.encode(video[:, :, :1]).mean
        )


def test_latents_change_no_earlier_frame():
    model, latents = build(), random(1, 3, 4, 3, 2)
    with torch.no_grad():
        before = model.decode(latents)
        latents[:, :, 2] += 1
        change = (model.decode(latents) - before).abs().amax((0, 1, 3, 4))
    assert (change[:5] == 0).all() and (change[5:] > 0).all()


def test_the_released_norms_leak():
    model = build(norm="group")
    video, other = random(1, 3, 9, 6, 4), random(1, 3, 9, 6, 4, seed=2)
    assert change_per_latent(model, video, other, 5)[0] > 1e-3
    assert (change_per_latent(model, video, other, 5, frames_at_once=4)[0]) == 0  # another piece


# ---------------------------------------------------------------- pieces of a clip


@pytest.mark.parametrize("patch", [1, 2])
@pytest.mark.parametrize("at_once", [1, 2, 3])
def test_a_causal_network_in_pieces_equals_the_whole(at_once, patch):
    model, video = build(patch=patch), random(2, 3, 21, 8, 4)
    with torch.no_grad():
        whole, parts = model.encode(video), model.encode(video, 4 * at_once)
        for one, other in zip(whole, parts, strict=True):
            torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
        clip = model.decode(whole.mean)
        torch.testing.assert_close(clip, model.decode(whole.mean, at_once), rtol=0, atol=1e-6)


def test_gradients_of_pieces_are_those_of_the_whole():
    model, video = build().double(), random(1, 3, 13, 4, 4).double()
    found = []
    for at_once in (None, 4):
        model.zero_grad()
        given = video.clone().requires_grad_()
        model.encode(given, at_once).mean.square().sum().backward()
        found.append([given.grad, *(p.grad for p in model.encoder.parameters())])
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_released_norms_see_a_piece_only():
    model, video = build(norm="group"), random(1, 3, 9, 4, 4)
    with torch.no_grad():
        whole, parts = model.encode(video).mean, model.encode(video, 4).mean
    assert (whole - parts).abs().max() > 1e-3


def test_nothing_is_decoded_before_it_is_asked_for():
    model, seen = build(), []
    model.decoder.conv_in.register_forward_hook(lambda _, args, out: seen.append(args[0].shape[2]))
    with torch.no_grad():
        parts = model.decode_in_parts(random(1, 3, 7, 3, 2), 2)
        assert next(parts).shape[2] == 9 and seen == [3]
        assert [part.shape[2] for part in parts] == [8, 8] and seen == [3, 2, 2]


@pytest.mark.parametrize(
    ("frames", "at_once", "sizes"),
    [
        (49, 8, [9, 8, 8, 8, 8, 8]),
        (13, 8, [13]),
        (13, 2, [3, 2, 2, 2, 2, 2]),
        (5, 8, [5]),
        (5, 1, [1] * 5),
        (17, None, [17]),
        (1, 2, [1]),
    ],
)
def test_the_first_piece_takes_what_is_left_over(frames, at_once, sizes):
    assert piece_sizes(frames, at_once) == sizes


# ---------------------------------------------------------------- leaves


def test_a_value_scales_and_shifts_a_square():
    x, scale, shift = random(2, 3, 2, 4, 6), random(2, 3, 2, 2, 2), random(2, 3, 2, 2, 2, seed=3)
    got = scale_and_shift(x, scale, shift)
    for i in range(4):
        for j in range(6):
            expected = x[..., i, j] * scale[..., i // 2, j // 3] + shift[..., i // 2, j // 3]
            torch.testing.assert_close(got[..., i, j], expected)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"widths": (4, 6, 7)}, r"expected widths divisible by 2, got \(4, 6, 7\)"),
        ({"widths": ()}, "at least one stage"),
        ({"norm": "layer"}, "expected a norm of group, frame, got 'layer'"),
        (
            {"down": ((2, 2),)},
            "down: expected a pair of factors 1 or 2 between any two of 3 stages",
        ),
        ({"up": ((2, 1), (2, 3))}, "up: expected a pair of factors"),
        ({"up": ((2, 1), (2, 1))}, r"expected as much up as down, \(4, 2\), got \(4, 1\)"),
        ({"patch": 0}, "expected positive numbers"),
    ],
)
def test_configs_that_make_no_network(changes, message):
    with pytest.raises(ValueError, match=message):
        config(**changes)


def test_clips_that_do_not_fit():
    model = build(patch=2)
    with pytest.raises(ValueError, match=r"expected 1 \+ 4 n frames, got 8"):
        model.encode(random(1, 3, 8, 8, 8))
    with pytest.raises(ValueError, match=r"expected sides divisible by 4, got \(8, 6\)"):
        model.encode(random(1, 3, 5, 8, 6))
    with pytest.raises(ValueError, match="frames_at_once: expected a multiple of 4, got 6"):
        model.encode(random(1, 3, 5, 8, 8), 6)
    with pytest.raises(ValueError, match="latents_at_once: expected at least 1, got 0"):
        model.decode(random(1, 3, 2, 2, 2), 0)
