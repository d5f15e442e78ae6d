"""CogVideoX's autoencoder against diffusers: same weights and clips, one CPU thread; memory.

As in test_unet_speed: seconds of the process's own CPU time, the two models taking turns, the
median of the ratios of neighbouring runs.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers.cogvideox_vae import CogVideoXVAEConfig
from course_lib.training.ranks import run_on_ranks
from tests.benchmarks import memory_work
from tests.parity.cogvideox_vae_peers import diffusers_vae
from tests.parity.peers import randomize

MOST = 1.0
CONFIG = CogVideoXVAEConfig(widths=(32, 64, 64, 128), blocks=1)
FRAMES_AT_ONCE, LATENTS_AT_ONCE = 8, 2
# With 16 clips, torch convolves both by oneDNN, as it does clips of the released sizes.  One small
# clip, on one thread, goes another way, which takes several times as long and hides the rest.
CLIPS = 16


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no type checks, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def models():
    peer = randomize(diffusers_vae(CONFIG)).train()
    return load_official("cogvideox", peer.state_dict(), CONFIG).train(), peer


@pytest.fixture(scope="module")
def encoders(models):
    """Return ours and theirs as functions without arguments."""
    model, peer = models
    video = torch.randn(CLIPS, 3, 9, 16, 24, generator=torch.Generator().manual_seed(0))
    return (
        lambda: model.encode(video, FRAMES_AT_ONCE).mean,
        lambda: peer.encode(video).latent_dist.mean,
    )


@pytest.fixture(scope="module")
def decoders(models):
    model, peer = models
    latents = torch.randn(CLIPS, CONFIG.latent, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    return (
        lambda: model.decode(latents, LATENTS_AT_ONCE),
        lambda: peer.decode(latents).sample,
    )


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def forward(function):
    with torch.no_grad():
        function()


def step(function):
    """A forward and a backward pass."""
    function().square().mean().backward()


@pytest.mark.parametrize(("work", "rounds"), [(forward, 5), (step, 3)], ids=["forward", "step"])
@pytest.mark.parametrize("coders", ["encoders", "decoders"])
def test_no_slower_than_diffusers(coders, work, rounds, request):
    ours, theirs = request.getfixturevalue(coders)
    work(ours), work(theirs)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [
            (seconds(lambda: work(ours)), seconds(lambda: work(theirs))) for _ in range(rounds)
        ]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{coders}, {work.__name__}: {a * 1e3:.0f} ms against {b * 1e3:.0f} ms, {ratio:.3f}")
        if ratio <= MOST:
            return
    pytest.fail(f"{work.__name__} of {coders} takes {ratio:.3f} of diffusers' time, {MOST} allowed")


def test_decoding_longer_clips_takes_no_more_memory(monkeypatch):
    """97 frames as 9, in fresh processes; diffusers keeps every frame, twice at the end."""
    # glibc keeps what is freed for itself, the more the longer it runs; this gives it back.
    for threshold in ("MALLOC_MMAP_THRESHOLD_", "MALLOC_TRIM_THRESHOLD_"):
        monkeypatch.setenv(threshold, "1000000")
    grown = {}
    for frames in (9, 97):
        latents = torch.randn(1, CONFIG.latent, 1 + frames // 4, 12, 16)
        for function in (memory_work.grown_by_ours, memory_work.grown_by_theirs):
            ((decoded, grown[function, frames]),) = run_on_ranks(
                function, 1, CONFIG, latents, seconds=600.0
            )
            assert decoded == frames
    print({f"{f.__name__}, {n} frames": f"{size / 1e6:.0f} MB" for (f, n), size in grown.items()})
    ours, theirs = (
        [grown[function, frames] for frames in (9, 97)]
        for function in (memory_work.grown_by_ours, memory_work.grown_by_theirs)
    )
    assert ours[1] < 1.15 * ours[0]
    assert ours[0] < theirs[0] and ours[1] < theirs[1]
