"""Spectra of sounds, mel filters, and the distance between mel spectrograms."""

import math

import pytest
import torch

from course_lib.losses.spectral import mel_filters, mel_spectrogram, multi_scale_mel_loss, stft

RATE = 8000


def tone(hertz, n=4000, loudness=0.5):
    return (loudness * torch.sin(2 * math.pi * hertz * torch.arange(n) / RATE))[None]


def test_spectra_are_those_of_windows_one_by_one():
    sound = torch.randn(2, 103, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    window, hop = 16, 4
    got = stft(sound, window, hop)
    assert got.shape == (2, 1 + 103 // hop, window // 2 + 1)
    padded = torch.nn.functional.pad(sound, (8, 8))
    hann = 0.5 - 0.5 * torch.cos(2 * math.pi * torch.arange(window, dtype=torch.float64) / window)
    for t in range(got.shape[1]):
        frame = padded[:, t * hop : t * hop + window] * hann
        torch.testing.assert_close(got[:, t], torch.fft.rfft(frame))


@pytest.mark.parametrize("frequencies,mels", [(129, 20), (513, 64)])
def test_mel_filters_share_every_frequency_between_two_neighbours(frequencies, mels):
    filters = mel_filters(frequencies, mels, RATE)
    assert filters.shape == (frequencies, mels) and filters.min() >= 0 and filters.max() <= 1
    shares = filters.sum(1)
    hertz = torch.linspace(0, RATE / 2, frequencies)
    top = 2595 * math.log10(1 + RATE / 2 / 700) / (mels + 1)
    first = 700 * (10 ** (top / 2595) - 1)
    last = 700 * (10 ** (top * mels / 2595) - 1)
    inside = (hertz > first) & (hertz < last)
    torch.testing.assert_close(shares[inside], torch.ones(int(inside.sum())), rtol=0, atol=1e-5)
    assert ((filters > 0).sum(1) <= 2).all()


def test_a_tone_is_in_the_filters_around_its_pitch():
    spectrum = mel_spectrogram(tone(1000), RATE, 512, 128)[0, 8]
    centres = 700 * (
        10 ** (torch.arange(1, 65) * 2595 * math.log10(1 + 4000 / 700) / 65 / 2595) - 1
    )
    assert centres[spectrum.argmax()].item() == pytest.approx(1000, rel=0.03)
    assert spectrum.sum().item() == pytest.approx(0.5 * 512 / 2, rel=0.05)  # the whole Hann peak


def test_the_loss_is_the_sum_over_windows_of_both_norms():
    a, b = torch.cat([tone(440), tone(300)]), torch.cat([tone(450), tone(300, loudness=0.2)])
    expected = torch.zeros(2)
    for s in (64, 256):
        x, y = (mel_spectrogram(sound, RATE, s, s // 4, 16) for sound in (a, b))
        least = 1e-3 * s / 4
        logs = ((x + least) / (y + least)).log()
        for i in range(2):
            for t in range(x.shape[1]):
                distance = (x - y)[i, t].abs().sum() + math.sqrt(s / 2) * logs[i, t].norm()
                expected[i] += distance / x.shape[1]
    got = multi_scale_mel_loss(a, b, RATE, (64, 256), 16, floor=1e-3)
    torch.testing.assert_close(got, expected, rtol=1e-4, atol=0)


def test_it_is_nothing_between_equals_and_more_the_farther_the_pitch():
    losses = [
        multi_scale_mel_loss(tone(440), tone(hertz), RATE).item() for hertz in (440, 450, 600)
    ]
    assert losses[0] == 0 and losses[0] < losses[1] < losses[2]


def test_it_does_not_hear_the_sign_of_a_sound():
    assert multi_scale_mel_loss(tone(440), -tone(440), RATE).item() == pytest.approx(0, abs=1e-2)


def test_a_sound_that_is_too_quiet_is_told_to_be_louder():
    quiet = tone(440, loudness=1e-7).requires_grad_()
    multi_scale_mel_loss(tone(440), quiet, RATE).sum().backward()
    assert torch.isfinite(quiet.grad).all()
    assert (quiet.grad * tone(440)).sum() < 0


def test_gradients_are_finite_in_silence():
    silence = torch.zeros(1, 3000, requires_grad=True)
    multi_scale_mel_loss(torch.zeros(1, 3000), silence, RATE).sum().backward()
    assert torch.isfinite(silence.grad).all()
