"""SoundStream: the codec's sizes, what it hears and when, the switch, discriminators and losses."""

from dataclasses import replace

import pytest
import torch

from course_lib import zoo
from course_lib.losses.spectral import multi_scale_mel_loss
from course_lib.nn.causal_conv1d import Pieces
from course_lib.papers.soundstream import (
    DISCRIMINATOR_CONFIGS,
    SOUNDSTREAM_CONFIGS,
    Discriminator,
    DiscriminatorConfig,
    FiLM,
    SoundStream,
    SoundStreamConfig,
    SoundStreamLoss,
    adversarial_loss,
    discriminator_loss,
    feature_loss,
)
from course_lib.world.audio import CLIP_SAMPLES, SAMPLE_RATE

SMALL = SoundStreamConfig(
    sample_rate=8000, width=4, multipliers=(1, 2, 3), strides=(3, 4), dim=5, levels=3, num_codes=7
)


def randn(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def count(module):
    return sum(parameter.numel() for parameter in module.parameters())


def small(**changed):
    torch.manual_seed(0)
    return SoundStream(replace(SMALL, **changed)).eval()


# ---------------------------------------------------------------- sizes


@pytest.mark.parametrize(
    "width,dim,encoder,decoder",
    [
        (32, 512, 5_378_560, 6_426_625),
        (32, 128, 4_788_352, 5_050_369),
        (32, 64, 4_689_984, 4_820_993),
        (16, 512, 1_542_656, 2_066_433),
    ],
)
def test_parameters_are_those_of_the_papers_layers(width, dim, encoder, decoder):
    """Counted from the layers in the paper's figure, with biases, by hand."""
    with torch.device("meta"):
        model = SoundStream(SoundStreamConfig(width=width, dim=dim))
    assert (count(model.encoder), count(model.decoder)) == (encoder, decoder)
    totals = {(32, 512): 11_805_185, (32, 128): 9_838_721, (32, 64): 9_510_977}
    assert count(model) == totals.get((width, dim), 3_609_089)


def test_rates_of_the_presets():
    paper, videopoet = SOUNDSTREAM_CONFIGS["24khz"], SOUNDSTREAM_CONFIGS["videopoet"]
    assert paper.hop == 320 and paper.frame_rate == 75
    assert [paper.bit_rate(levels) for levels in (4, 8)] == [3000, 6000]
    assert videopoet.frame_rate == 50 and videopoet.levels == 4
    tiny = SOUNDSTREAM_CONFIGS["tiny"]
    assert tiny.sample_rate == SAMPLE_RATE and 64 * tiny.hop == CLIP_SAMPLES
    with torch.device("meta"):
        assert count(zoo.build("soundstream/tiny")) < 200_000


def test_a_clip_of_videopoet_is_106_frames_of_four_numbers():
    model = SoundStream(replace(SOUNDSTREAM_CONFIGS["videopoet"], width=1, dim=4)).eval()
    with torch.no_grad():
        indices = model.encode(randn(1, int(2.125 * 16_000))).indices
    assert indices.shape == (1, 106, 4)


# ---------------------------------------------------------------- the codec


@pytest.mark.parametrize("n", [12, 23, 24, 61])
def test_whole_frames_are_coded_and_the_rest_is_dropped(n):
    model, sound = small(), randn(2, n)
    made, quantized = model(sound)
    assert quantized.indices.shape == (2, n // 12, 3) and made.shape == (2, n // 12 * 12)
    torch.testing.assert_close(model.decode_indices(quantized.indices), made)
    assert torch.equal(quantized.latents, model.encode(sound).latents)


def test_nothing_depends_on_a_later_sample():
    model, sound = small(), randn(1, 120)
    later = torch.cat([sound[:, :60], randn(1, 60, seed=1)], dim=1)
    with torch.no_grad():
        a, b = model.features(sound), model.features(later)
        assert torch.equal(a[..., :5], b[..., :5]) and (a != b)[..., 5:].any()
        made, other = model.decode(a), model.decode(b)
    assert torch.equal(made[:, :60], other[:, :60]) and (made != other)[:, 60:72].any()


def test_a_frame_depends_on_its_own_last_sample_and_the_sound_on_its_own_frame():
    model = small()
    sound = randn(1, 60).requires_grad_()
    latents = model.features(sound)
    (gradient,) = torch.autograd.grad(latents[0, :, 2].sum(), sound)
    assert gradient[0, 35] != 0 and not gradient[0, 36:].any()
    latents = latents.detach().requires_grad_()
    (gradient,) = torch.autograd.grad(model.decode(latents)[0, 24], latents)
    assert gradient[0, :, 2].any() and not gradient[0, :, 3:].any()


@pytest.mark.parametrize("lengths", [(12,) * 10, (24, 60, 36)])
def test_a_sound_in_pieces_is_coded_as_the_whole(lengths):
    model, sound = small(), randn(2, 120)
    heard, played, parts = Pieces(), Pieces(), []
    with torch.no_grad():
        whole = model(sound)[0]
        for piece in sound.split(lengths, dim=1):
            indices = model.encode(piece, pieces=heard).indices
            parts.append(model.decode_indices(indices, pieces=played))
    torch.testing.assert_close(torch.cat(parts, dim=1), whole, rtol=0, atol=1e-5)


def test_fewer_levels_are_decoded_as_they_are_in_training():
    model, sound = small(), randn(3, 36)
    made, quantized = model(sound, use=torch.tensor([1, 3, 2]))
    for example, levels in enumerate((1, 3, 2)):
        indices = quantized.indices[example : example + 1, :, :levels]
        torch.testing.assert_close(model.decode_indices(indices)[0], made[example])


def test_a_few_steps_bring_the_loss_down():
    torch.manual_seed(0)
    model = small().train()
    time = torch.arange(300) / SAMPLE_RATE
    sound = torch.stack([torch.sin(2 * torch.pi * pitch * time) for pitch in (300, 500, 700, 900)])
    loss = SoundStreamLoss(SAMPLE_RATE, floor=1e-3)
    model.quantizer.start(model.features(sound), torch.rand(4, 25, 3))
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    losses = []
    for _ in range(20):
        made, quantized = model(sound)
        total, _ = loss.generator_loss(sound, made, quantized.loss, None)
        optimizer.zero_grad()
        total.backward()
        optimizer.step()
        losses.append(total.item())
    assert losses[-1] < 0.6 * losses[0]


# ---------------------------------------------------------------- the switch


def test_a_new_switch_does_nothing_and_a_learned_one_acts_on_the_frames_it_is_on_for():
    x, on = randn(2, 4, 5), torch.zeros(2, 5, dtype=torch.bool)
    on[1, 2:] = True
    film = FiLM(4)
    assert torch.equal(film(x, on), x) and torch.equal(film(x, None), x)
    scale, shift = randn(4, seed=1), randn(4, seed=2)
    film.modes.weight.data[:, 1] = torch.cat([scale - 1, shift])
    got = film(x, on)
    assert torch.equal(got[0], x[0]) and torch.equal(got[1, :, :2], x[1, :, :2])
    expected = scale[:, None] * x[1, :, 2:] + shift[:, None]
    torch.testing.assert_close(got[1, :, 2:], expected)


@pytest.mark.parametrize("film", ["encoder", "decoder"])
def test_the_switch_is_on_the_side_that_is_asked(film):
    model, sound = small(film=film), randn(2, 60)
    on = torch.ones(2, 5, dtype=torch.bool)
    model.film.modes.weight.data.copy_(randn(10, 2, seed=1))
    with torch.no_grad():
        off, plain = model(sound)[0], model(sound, denoise=~on)[0]
        assert torch.equal(off, plain) and not torch.equal(off, model(sound, denoise=on)[0])
        latents = model.features(sound, on)
    assert torch.equal(latents, model.features(sound)) == (film == "decoder")


# ---------------------------------------------------------------- discriminators and losses


def test_discriminators_of_the_paper():
    with torch.device("meta"):
        model = Discriminator(DiscriminatorConfig())
        outputs = model(torch.zeros(2, 24_000))
    waves, spectral = outputs[:3], outputs[3]
    assert [layer.groups for layer in model.waves[0].layers] == [1, 4, 16, 64, 256, 1]
    widths = [output.shape[1] for output in waves[0]]
    assert widths == [16, 64, 256, 1024, 1024, 1024, 1]
    assert [outputs[-1].shape[2] for outputs in waves] == [94, 47, 24]  # samples / 256
    t = 1 + 24_000 // 256
    assert spectral[0].shape == (2, 32, t, 512)
    assert [output.shape[3] for output in spectral] == [512, 256, 128, 64, 32, 16, 8, 1]
    assert spectral[-1].shape == (2, 1, t // 8, 1)


def test_the_losses_are_hinges_averaged_over_time_then_over_discriminators():
    real = [
        [randn(2, 3, 5), randn(2, 1, 7)],
        [randn(2, 4, 6, 2, seed=1), randn(2, 1, 3, 1, seed=1)],
    ]
    fake = [
        [randn(2, 3, 5, seed=2), randn(2, 1, 7, seed=2)],
        [randn(2, 4, 6, 2), randn(2, 1, 3, 1)],
    ]
    expected = 0.0
    for a, b in zip(real, fake, strict=True):
        expected += (1 - a[-1]).clamp(min=0).mean() / 2 + (1 + b[-1]).clamp(min=0).mean() / 2
    torch.testing.assert_close(discriminator_loss(real, fake), expected)
    expected = sum((1 - b[-1]).clamp(min=0).mean() / 2 for b in fake)
    torch.testing.assert_close(adversarial_loss(fake), expected)
    expected = sum((a[0] - b[0]).abs().mean() / 2 for a, b in zip(real, fake, strict=True))
    torch.testing.assert_close(feature_loss(real, fake), expected)


def test_the_sum_has_the_papers_weights():
    torch.manual_seed(0)
    discriminator = Discriminator(DISCRIMINATOR_CONFIGS["tiny"])
    sound, made = randn(2, 2000) / 10, (randn(2, 2000, seed=1) / 10).requires_grad_()
    commitment = torch.tensor(0.7)
    total, parts = SoundStreamLoss(8000).generator_loss(sound, made, commitment, discriminator)
    real, fake = discriminator(sound), discriminator(made)
    expected = {
        "reconstruction": multi_scale_mel_loss(sound, made, 8000).mean(),
        "commitment": commitment,
        "adversarial": adversarial_loss(fake),
        "feature": 100 * feature_loss(real, fake),
    }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name], value)
    torch.testing.assert_close(total, sum(expected.values()))
    total.backward()
    assert torch.isfinite(made.grad).all() and made.grad.any()

    alone, parts = SoundStreamLoss(8000).generator_loss(sound, made, commitment, None)
    assert parts.keys() == {"reconstruction", "commitment"}
    torch.testing.assert_close(alone, expected["reconstruction"] + commitment)


# ---------------------------------------------------------------- errors


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match=r"expected 2 strides, got \(3, 4, 5\)"):
        replace(SMALL, strides=(3, 4, 5))
    with pytest.raises(ValueError, match="expected a window divisible by 128, got 200"):
        DiscriminatorConfig(window=200)
    with pytest.raises(ValueError, match="expected at least 12 samples, got 11"):
        small().features(randn(1, 11))
    with pytest.raises(ValueError, match="expected multiples of 12 samples, got 13"):
        small().features(randn(1, 13), pieces=Pieces())
    on = torch.ones(1, 2, dtype=torch.bool)
    with pytest.raises(ValueError, match="denoise: expected a model with film, got one without"):
        small()(randn(1, 24), denoise=on)
    with pytest.raises(ValueError, match=r"expected one switch per frame, \(1, 2\), got \(1, 3\)"):
        FiLM(4)(randn(1, 4, 2), torch.ones(1, 3, dtype=torch.bool))
