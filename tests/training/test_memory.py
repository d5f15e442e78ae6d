"""Memory of tensors: the most at a time, and what a backward pass needs."""

import pytest
import torch

from course_lib import zoo
from course_lib.papers.cogvideox_vae import COGVIDEOX_VAE_CONFIGS
from course_lib.training.memory import PeakMemory, values_kept

CONFIG = COGVIDEOX_VAE_CONFIGS["VAE-tiny"]


def test_the_peak_is_of_tensors_alive_at_the_same_time():
    with PeakMemory() as memory:
        x = torch.zeros(1000)  # 4,000 bytes
        y = x + 1
        del x
        z = y[:10]  # a view takes nothing
        del y
        w = torch.zeros(500)
    assert memory.peak_bytes == 8000
    assert memory.bytes == 4000 + 2000
    assert len(z) == 10
    assert len(w) == 500


def test_a_clip_in_pieces_takes_the_same_memory_for_any_length():
    model = zoo.build("cogvideox/VAE-tiny").eval()
    peaks = []
    for latents in (5, 9, 17):
        z = torch.zeros(1, 4, latents, 8, 8)
        with torch.no_grad(), PeakMemory() as memory:
            for _ in model.decode_in_parts(z, 2):
                pass
        peaks.append(memory.peak_bytes)
    assert max(peaks) < 1.01 * min(peaks)


def test_more_ranks_keep_less_each_and_hardly_more_together():
    alone = values_kept(CONFIG, 17, 32, 32)
    shared = values_kept(CONFIG, 17, 32, 32, 4)
    assert len(alone) == 1
    assert len(shared) == 4
    assert max(shared) < alone[0] / 2
    assert alone[0] < sum(shared) < 2 * alone[0]


def test_what_is_kept_grows_with_the_pixels():
    small = values_kept(CONFIG, 5, 32, 32)[0]
    assert values_kept(CONFIG, 5, 64, 64)[0] == pytest.approx(4 * small, rel=0.01)


def test_more_ranks_than_latents_are_refused():
    with pytest.raises(ValueError, match="ranks"):
        values_kept(CONFIG, 17, 32, 32, 6)
