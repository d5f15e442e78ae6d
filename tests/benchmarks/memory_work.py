"""What the processes of test_cogvideox_vae_speed measure: a module that they can import."""

import torch

from course_lib.papers.cogvideox_vae import CogVideoXVAE
from course_lib.training.ranks import peak_memory
from tests.parity.cogvideox_vae_peers import diffusers_vae

LATENTS_AT_ONCE = 2


def grown_by_ours(config, latents):
    """By how many bytes a process grows while it decodes, a few frames at a time."""
    model = CogVideoXVAE(config)
    with torch.no_grad():
        model.decode(latents[:, :, :1, :2, :2])  # whatever is loaded at the first use
        before = peak_memory()
        frames = sum(part.shape[2] for part in model.decode_in_parts(latents, LATENTS_AT_ONCE))
    return frames, peak_memory() - before


def grown_by_theirs(config, latents):
    peer = diffusers_vae(config, latents_at_once=LATENTS_AT_ONCE)
    with torch.no_grad():
        peer.decode(latents[:, :, :1, :2, :2])
        before = peak_memory()
        frames = peer.decode(latents).sample.shape[2]
    return frames, peak_memory() - before
