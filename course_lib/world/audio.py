"""Sound: a tone at every contact.

The shape gives the note, the size the octave (large things sound lower), the material how long the
tone rings.  A tone is a damped oscillator, ``y[n] = 2 r cos(w) y[n-1] - r^2 y[n-2]``: two
multiplications per sample, so that the waveform is the same on every machine.
"""

import math
from functools import cache

import torch

from course_lib.shapes import Float, Tensor
from course_lib.world.motion import DURATION_SECONDS, contacts
from course_lib.world.scene import Scene

SAMPLE_RATE = 8000  # samples per second; with 17 frames, 1000 samples from frame to frame
CLIP_SAMPLES = int(SAMPLE_RATE * DURATION_SECONDS)
# A large thing sounds an octave lower.
PITCH_HERTZ = {"sphere": 523.25, "cube": 587.33, "cylinder": 698.46, "cone": 880.0}
DECAY_SECONDS = {"matte": 0.03, "shiny": 0.15}  # the time in which a tone falls to 1 / e
LOUDNESS = 0.45


def sound(scene: Scene) -> Float[Tensor, "samples"]:
    """Return a scene's waveform in [-1, 1]: `SAMPLE_RATE` samples a second for the whole clip."""
    wave = torch.zeros(CLIP_SAMPLES)
    for contact in contacts(scene):
        start = int(contact.time * SAMPLE_RATE + 0.5)
        for index in contact.things:
            thing = scene.things[index]
            pitch = PITCH_HERTZ[thing.shape] / (2 if thing.scale == "large" else 1)
            note = tone(pitch, DECAY_SECONDS[thing.material])[: CLIP_SAMPLES - start]
            wave[start : start + len(note)] += note
    return wave


@cache
def tone(pitch: float, decay_seconds: float) -> Float[Tensor, "samples"]:
    """Return a struck note of `pitch` hertz that falls to 1 / e in `decay_seconds`.

    Its values are multiples of 1 / 32768.
    """
    decay = 1 - 1 / (decay_seconds * SAMPLE_RATE)
    turn = math.tau * pitch / SAMPLE_RATE
    feedback = round(2 * decay * math.cos(turn), 9)
    before = 0.0
    now = round(LOUDNESS * math.sin(turn), 9)
    values = [0.0]
    while len(values) < 8 * decay_seconds * SAMPLE_RATE:
        values.append(math.floor(now * 32768 + 0.5) / 32768)
        before, now = now, feedback * now - decay * decay * before
    return torch.tensor(values)
