"""A clip over several processes against the same clip in one: values, gradients, memory."""

import pytest
import torch
from torch import nn

from course_lib.nn.context_parallel import (
    RanksWithoutHaloGradients,
    extend_pieces,
    share_frames,
)
from course_lib.papers.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from course_lib.training.ranks import activations_kept, encode_on_ranks, run_on_ranks
from tests.nn import rank_work

PATIENCE = 600.0  # seconds; idle, a few are enough


def random(*shape, seed=1):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- pieces


@pytest.mark.parametrize(
    ("frames", "ranks", "sizes"),
    [
        (17, 1, [17]),
        (17, 2, [9, 8]),
        (17, 4, [5, 4, 4, 4]),
        (13, 2, [5, 8]),
        (13, 4, [1, 4, 4, 4]),
        (1, 1, [1]),
        (49, 5, [9, 8, 8, 12, 12]),
    ],
)
def test_ranks_share_whole_latents(frames, ranks, sizes):
    assert share_frames(frames, ranks, 4) == sizes and sum(sizes) == frames


def test_what_cannot_be_shared():
    with pytest.raises(ValueError, match=r"expected 1 \+ 4 n frames, got 16"):
        share_frames(16, 2, 4)
    for ranks in (0, 4):
        with pytest.raises(
            ValueError, match=f"expected 1 to 3 ranks, one latent for each, got {ranks}"
        ):
            share_frames(9, ranks, 4)


@pytest.mark.parametrize("sizes", [(5, 4), (1, 1, 4, 3), (9,)])
def test_extended_pieces_hold_what_a_causal_convolution_sees(sizes):
    clip, weight = random(2, 3, sum(sizes), 4, 5), random(6, 3, 3, 1, 1)
    whole = nn.functional.conv3d(torch.cat([clip[:, :, :1]] * 2 + [clip], dim=2), weight)
    pieces = extend_pieces(list(clip.split(sizes, dim=2)), 2)
    parts = torch.cat([nn.functional.conv3d(piece, weight) for piece in pieces], dim=2)
    torch.testing.assert_close(parts, whole)


# ---------------------------------------------------------------- layers over processes


def test_halos_and_their_gradients_over_four_processes():
    """Odd pieces, and some shorter than the halo, which then passes through them."""
    cases = []
    for sizes, past in (((3, 2, 4, 5), 2), ((1, 1, 1, 1), 2), ((2, 1, 3, 1), 3), ((1, 1, 2, 1), 4)):
        pieces = list(random(2, 3, sum(sizes), 4, 5, seed=past).double().split(sizes, dim=2))
        weights = [random(2, 3, past + t, 4, 5, seed=t).double() for t in sizes]
        cases.append((pieces, past, weights))
    cases.append(
        (
            [piece.contiguous(memory_format=torch.channels_last_3d) for piece in cases[0][0]],
            *cases[0][1:],
        )
    )
    found = run_on_ranks(rank_work.halos, 4, cases, seconds=PATIENCE)

    for case, (pieces, past, weights) in enumerate(cases):
        ours = [piece.clone().requires_grad_() for piece in pieces]
        extended = extend_pieces(ours, past)
        sum((x * w).sum() for x, w in zip(extended, weights, strict=True)).backward()
        for rank in range(4):
            got, gradient = found[rank][case]
            assert torch.equal(got, extended[rank])
            torch.testing.assert_close(gradient, ours[rank].grad)


def test_a_norm_over_three_processes():
    norm = nn.GroupNorm(3, 6).double()
    with torch.no_grad():
        norm.weight.copy_(random(6)), norm.bias.copy_(random(6, seed=2))
    clip = (5 + random(2, 6, 8, 4, 5)).double()
    sizes = (1, 4, 3)
    weights = random(2, 6, 8, 4, 5, seed=3).double()
    parts = [list(x.split(sizes, dim=2)) for x in (clip, weights)]
    found = run_on_ranks(rank_work.group_norm, 3, parts[0], norm, parts[1], seconds=PATIENCE)

    clip.requires_grad_()
    y = norm(clip)
    (y * weights).sum().backward()
    torch.testing.assert_close(torch.cat([part[0] for part in found], dim=2), y)
    torch.testing.assert_close(torch.cat([part[1] for part in found], dim=2), clip.grad)
    for _, _, weight, bias in found:
        torch.testing.assert_close(weight, norm.weight.grad)
        torch.testing.assert_close(bias, norm.bias.grad)


# ---------------------------------------------------------------- the autoencoder over processes


def autoencoder(norm, dtype):
    torch.manual_seed(0)
    config = CogVideoXVAEConfig(
        widths=(8, 16, 16), down=((2, 2), (2, 1)), up=((2, 1), (2, 2)), blocks=1, latent=3,
        groups=4, norm=norm,
    )  # fmt: skip
    return CogVideoXVAE(config).to(dtype)


def alone(model, video):
    """Mean, and the gradients of video and parameters, of one process with the whole clip."""
    video = video.clone().requires_grad_()
    mean = model.encode(video).mean
    mean.square().sum().backward()
    gradients = {name: p.grad for name, p in model.encoder.named_parameters()}
    model.zero_grad()
    return mean.detach(), {"video": video.grad, **gradients}


def together(shares):
    for share in shares[1:]:
        for name, gradient in share.gradients.items():
            assert torch.equal(gradient, shares[0].gradients[name])
    mean = torch.cat([share.posterior.mean for share in shares], dim=2)
    video = torch.cat([share.video_gradient for share in shares], dim=2)
    return mean, {"video": video, **shares[0].gradients}


def error(got, expected):
    """Of all numbers together: the length of the difference, as a share."""
    got, expected = (torch.cat([x.flatten() for x in xs]) for xs in (got, expected))
    return float((got - expected).norm() / expected.norm())


@pytest.mark.parametrize(("norm", "ranks", "frames"), [("frame", 2, 13), ("group", 4, 17)])
def test_encoding_over_processes_is_encoding_in_one(norm, ranks, frames):
    model, video = autoencoder(norm, torch.float64), random(2, 3, frames, 16, 12).double()
    mean, gradients = alone(model, video)
    got, got_gradients = together(encode_on_ranks(model, video, ranks, seconds=PATIENCE))
    slopes = error(got_gradients.values(), [gradients[name] for name in got_gradients])
    print(f"values {error([got], [mean]):.1e}, gradients {slopes:.1e}")
    assert error([got], [mean]) < 1e-14 and slopes < 1e-14


def test_in_single_precision_the_ranks_are_as_exact_as_one_process():
    """About 1e-6 from the exact result, as rounding has it, and from one another."""
    model, video = autoencoder("group", torch.float32), random(2, 3, 13, 16, 12)
    found = [alone(model, video), together(encode_on_ranks(model, video, 2, seconds=PATIENCE))]
    exact = alone(model.double(), video.double())
    names = found[1][1].keys()
    one, many, between = (
        (
            error([a[0].double()], [b[0]]),
            error([a[1][name].double() for name in names], [b[1][name] for name in names]),
        )
        for a, b in ((found[0], exact), (found[1], exact), found)
    )
    print(f"from exact: one process {one}, ranks {many}; from one another {between}")
    assert max(between) < 1.5e-6
    for ours, theirs in zip(many, one, strict=True):
        assert ours < 1.3 * theirs


def test_a_rank_keeps_its_share_of_the_memory():
    model, video = autoencoder("frame", torch.float32), random(1, 3, 33, 32, 32)
    with activations_kept() as whole:
        mean = model.encode(video.requires_grad_()).mean
    shares = encode_on_ranks(model, video, 2, seconds=PATIENCE)
    kept = [share.bytes_kept / sum(whole.values()) for share in shares]
    print(f"kept {kept} of {sum(whole.values())}; peaks {[share.peak_bytes for share in shares]}")
    assert mean.requires_grad
    assert max(kept) < 0.6  # one frame and the halos more than half
    assert 1 < sum(kept) < 1.2


def test_the_official_code_drops_the_gradient_of_the_halos():
    model, video = autoencoder("frame", torch.float64), random(1, 3, 9, 8, 8).double()
    mean, gradients = alone(model, video)
    got, official = together(encode_on_ranks(model, video, 2, RanksWithoutHaloGradients, PATIENCE))
    torch.testing.assert_close(got, mean)
    assert error(official.values(), [gradients[name] for name in official]) > 0.1


def test_decoding_over_processes_is_decoding_in_one():
    model, latents = autoencoder("group", torch.float64), random(1, 3, 4, 3, 2).double()
    pieces = list(latents.split([2, 1, 1], dim=2))
    weights = {name: value.detach() for name, value in model.state_dict().items()}
    found = run_on_ranks(rank_work.decode, 3, model.config, weights, pieces, seconds=PATIENCE)
    latents.requires_grad_()
    clip = model.decode(latents)
    clip.square().sum().backward()
    torch.testing.assert_close(torch.cat([part for part, _ in found], dim=2), clip)
    torch.testing.assert_close(torch.cat([part for _, part in found], dim=2), latents.grad)
