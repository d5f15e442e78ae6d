"""Onsets and the spectral distance: by hand, and where the truth is known, in the little world."""

import math

import pytest
import torch

from course_lib.losses.spectral import stft
from course_lib.metrics import (
    log_spectral_distance,
    onset_f1,
    onset_matches,
    onset_precision_recall,
    onsets,
)
from course_lib.metrics.sound import spectral_flux
from course_lib.world.audio import SAMPLE_RATE, sound
from course_lib.world.dataset import LittleWorld
from course_lib.world.motion import contacts


def tone(hertz, n=4000, loudness=0.5, rate=SAMPLE_RATE):
    return loudness * torch.sin(2 * math.pi * hertz * torch.arange(n) / rate)


# ---------------------------------------------------------------- onsets


def test_the_contacts_of_test_scenes_are_heard_and_nothing_else():
    """The threshold was set on training scenes: precision and recall there are 1."""
    world = LittleWorld("test", frames=17, length=300)
    scenes = [world.scene(index) for index in range(300)]
    found = onsets(torch.stack([sound(scene) for scene in scenes]), SAMPLE_RATE)
    true = [[contact.time for contact in contacts(scene)] for scene in scenes]
    precision, recall = onset_precision_recall(found, true)
    print(f"{sum(map(len, true))} contacts: precision {precision:.4f}, recall {recall:.4f}")
    assert sum(map(len, true)) > 150
    assert precision > 0.95 and recall > 0.95
    precision, recall = onset_precision_recall(found, true, tolerance=0.01)
    assert precision > 0.95 and recall > 0.95


@pytest.mark.parametrize("rate", [8000, 16000, 24000])
def test_onsets_are_found_at_any_sample_rate(rate):
    wave = torch.zeros(2 * rate)
    for start in (0.1, 0.5, 0.72, 1.6):
        at = round(start * rate)
        ring = tone(600, len(wave) - at, rate=rate)
        wave[at:] += ring * torch.exp(-torch.arange(len(ring)) / (0.05 * rate))
    (found,) = onsets(wave[None], rate)
    assert found == pytest.approx([0.1, 0.5, 0.72, 1.6], abs=0.01)


def test_silence_steady_tones_and_the_end_of_a_sound_have_no_onset():
    sounds = torch.stack([torch.zeros(4000), tone(440)])
    silence, (start,) = onsets(sounds, SAMPLE_RATE)
    assert silence == [] and start == pytest.approx(0, abs=0.01)


def test_equal_peaks_are_one_onset():
    wave = torch.zeros(1, 4000)
    wave[0, 1000] = wave[0, 1400] = 1.0  # 50 milliseconds
    (found,) = onsets(wave, SAMPLE_RATE)
    assert found == pytest.approx([0.125], abs=0.01)


def test_flux_depends_on_the_past_and_half_a_window_alone():
    wave = torch.randn(1, 4000, generator=torch.Generator().manual_seed(0)) / 10
    other = torch.cat([wave[:, :2000], torch.zeros(1, 2000)], dim=1)
    a, b = spectral_flux(wave, SAMPLE_RATE), spectral_flux(other, SAMPLE_RATE)
    same = (2000 - 64) // 32
    assert torch.equal(a[:, :same], b[:, :same]) and not torch.equal(a, b)


@pytest.mark.parametrize(
    "found,true,expected",
    [
        ([], [], 0),
        ([1.0], [], 0),
        ([0.1, 0.5], [0.14, 0.56], 1),
        ([0.1, 0.12], [0.11], 1),
        ([0.0, 0.04], [0.04, 0.08], 2),  # the nearest first would leave one alone
        ([0.3, 0.31, 0.9], [0.28, 0.33, 0.5], 2),
    ],
)
def test_every_onset_is_in_one_pair_and_pairs_are_as_many_as_can_be(found, true, expected):
    assert onset_matches(found, true) == onset_matches(true, found) == expected


def test_shares_are_counted_over_all_sounds():
    found, true = [[0.1, 0.5], [], [0.2]], [[0.1], [0.3], [0.2]]
    assert onset_precision_recall(found, true) == pytest.approx((2 / 3, 2 / 3))
    assert onset_precision_recall([[]], [[]]) == (1, 1)
    assert onset_precision_recall([[]], [[0.5]]) == (1, 0)
    with pytest.raises(ValueError, match="expected onsets of as many sounds, 1, got 2"):
        onset_precision_recall([[], []], [[]])


def test_f1_of_each_sound():
    once = torch.cat([torch.zeros(1000), tone(440, 3000) * torch.exp(-torch.arange(3000) / 400)])
    twice = once + torch.cat([torch.zeros(2400), once[1000:2600]])
    silence = torch.zeros(4000)
    made = torch.stack([once, once, silence, silence, once.roll(800)])
    true = torch.stack([once, twice, once, silence, once])
    assert onset_f1(made, true, SAMPLE_RATE).tolist() == pytest.approx([1, 2 / 3, 0, 1, 0])


# ---------------------------------------------------------------- the spectral distance


def test_the_distance_is_that_of_levels_in_decibels():
    a, b = tone(440), tone(440, loudness=0.05)
    levels = [
        20 * (stft(wave[None], 128, 32).abs() / 32).clamp(min=1e-3).log10()[0] for wave in (a, b)
    ]
    expected = (levels[0] - levels[1]).square().mean(1).sqrt().mean()
    got = log_spectral_distance(a[None], b[None], SAMPLE_RATE)
    torch.testing.assert_close(got, expected[None])
    assert log_spectral_distance(a[None], a[None], SAMPLE_RATE).item() == 0


def test_a_louder_noise_is_as_many_decibels_away():
    noise = torch.randn(2, 8000, generator=torch.Generator().manual_seed(0))
    got = log_spectral_distance(0.1 * noise, 0.2 * noise, SAMPLE_RATE)
    assert got.tolist() == pytest.approx([20 * math.log10(2)] * 2, rel=0.02)


def test_below_the_floor_all_is_silence():
    silence = torch.zeros(1, 4000)
    assert log_spectral_distance(silence, silence + 1e-6, SAMPLE_RATE).item() == 0
    with pytest.raises(ValueError, match="expected sounds of one shape"):
        log_spectral_distance(silence, silence[:, :9], SAMPLE_RATE)
