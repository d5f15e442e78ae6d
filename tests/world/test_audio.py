"""The waveform: a tone at every contact, and silence before the first one."""

import pytest
import torch

from course_lib.world import SAMPLE_RATE, contacts, sample_scene, sound
from course_lib.world.audio import CLIP_SAMPLES, PITCH_HERTZ, tone


@pytest.mark.parametrize("motion", ["bounce", "fall", "collide"])
def test_tones_begin_at_the_contacts(motion):
    for seed in range(8):
        scene = sample_scene(seed, motion=motion)
        wave = sound(scene)
        assert wave.shape == (CLIP_SAMPLES,)
        assert wave.abs().max() <= 1
        for contact in contacts(scene):
            start = round(contact.time * SAMPLE_RATE)
            before, after = wave[max(0, start - 40) : start], wave[start : start + 40]
            if len(before) and len(after) == 40:
                assert after.square().mean() > 2 * before.square().mean() + 1e-4
        assert wave[: round(contacts(scene)[0].time * SAMPLE_RATE)].abs().max() == 0


@pytest.mark.parametrize("motion", ["rest", "slide", "spin", "orbit", "rise", "grow"])
def test_what_touches_nothing_is_silent(motion):
    assert sound(sample_scene(0, motion=motion)).abs().max() == 0


@pytest.mark.parametrize("pitch", PITCH_HERTZ.values())
def test_a_tone_has_its_pitch(pitch):
    spectrum = torch.fft.rfft(tone(pitch, 0.15), n=CLIP_SAMPLES).abs()
    assert spectrum.argmax() * SAMPLE_RATE / CLIP_SAMPLES == pytest.approx(pitch, abs=3)


def test_shiny_things_ring_longer():
    def energy_after(ringing):
        return tone(523.25, ringing)[int(0.1 * SAMPLE_RATE) :].square().sum()

    assert energy_after(0.15) > 10 * energy_after(0.03)
