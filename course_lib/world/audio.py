"""What is heard: a tone at every contact.

The shape gives the note, the size the octave (large things sound lower), the material how long it
rings.  A tone is a damped oscillator, ``y[n] = 2 r cos(w) y[n-1] - r^2 y[n-2]``: two
multiplications a sample, so that the waveform is the same on every machine.
"""

import math
from functools import cache

import torch

from course_lib.shapes import Float, Tensor
from course_lib.world.motion import DURATION, contacts
from course_lib.world.scene import Scene

SAMPLE_RATE = 8000  # samples per second; with 17 frames, 1000 samples from frame to frame
SAMPLES = int(SAMPLE_RATE * DURATION)
# hertz, of a small thing
PITCHES = {"sphere": 523.25, "cube": 587.33, "cylinder": 698.46, "cone": 880.0}
RINGING = {"matte": 0.03, "shiny": 0.15}  # seconds until a tone has fallen to 1 / e
LOUDNESS = 0.45


def sound(scene: Scene) -> Float[Tensor, "samples"]:
    """The waveform of a scene in [-1, 1], `SAMPLE_RATE` samples a second for `DURATION` seconds."""
    wave = torch.zeros(SAMPLES)
    for contact in contacts(scene):
        start = int(contact.time * SAMPLE_RATE + 0.5)
        for thing in (scene.things[index] for index in contact.things):
            pitch = PITCHES[thing.shape] / (2 if thing.scale == "large" else 1)
            note = tone(pitch, RINGING[thing.material])[: SAMPLES - start]
            wave[start : start + len(note)] += note
    return wave


@cache
def tone(pitch: float, ringing: float) -> Float[Tensor, "samples"]:
    """A struck note of `pitch` hertz that rings for `ringing` seconds, in steps of 1 / 32768."""
    decay = 1 - 1 / (ringing * SAMPLE_RATE)
    turn = math.tau * pitch / SAMPLE_RATE
    feedback = round(2 * decay * math.cos(turn), 9)
    before, now = 0.0, round(LOUDNESS * math.sin(turn), 9)
    values = [0.0]
    while len(values) < 8 * ringing * SAMPLE_RATE:
        values.append(math.floor(now * 32768 + 0.5) / 32768)
        before, now = now, feedback * now - decay * decay * before
    return torch.tensor(values)
