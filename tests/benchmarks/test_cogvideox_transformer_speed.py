"""CogVideoX's transformer against diffusers: same weights, clips and texts, one CPU thread.

As in test_svd_speed: seconds of the process's own CPU time, the two models taking turns, the median
of the ratios of neighbouring runs.
"""

import statistics
import time
from dataclasses import replace

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers.cogvideox import COGVIDEOX_CONFIGS
from tests.parity.cogvideox_peers import diffusers_rotations, diffusers_transformer
from tests.parity.peers import randomize

MOST = 1.0
TINY = replace(COGVIDEOX_CONFIGS["tiny"], norm_eps=1e-5)
CONFIGS = {  # config, clips
    "tiny": (TINY, 32),
    "sines": (replace(TINY, positions="sincos"), 32),
    "wide": (replace(TINY, heads=8, depth=2, time_width=512, latent=(13, 16, 16)), 1),
}


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no type checks, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


def pair(config, clips):
    """Return ours and theirs as functions without arguments."""
    peer = randomize(diffusers_transformer(config)).train()
    model = load_official("cogvideox", peer.state_dict(), config).train()
    generator = torch.Generator().manual_seed(0)
    frames, rows, columns = config.latent
    x = torch.randn(clips, frames, config.in_channels, rows, columns, generator=generator)
    text = torch.randn(clips, config.text_length, config.text_width, generator=generator)
    t = torch.randint(0, 1000, (clips,), generator=generator)
    # Theirs come from outside, ours are computed every time.
    rotations = diffusers_rotations(config, config.latent)
    return (
        lambda: model(x, t, text),
        lambda: peer(x, text, t, image_rotary_emb=rotations, return_dict=False)[0],
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


@pytest.mark.parametrize(("work", "rounds"), [(forward, 7), (step, 5)], ids=["forward", "step"])
@pytest.mark.parametrize("name", CONFIGS)
def test_no_slower_than_diffusers(name, work, rounds):
    ours, theirs = pair(*CONFIGS[name])
    work(ours), work(theirs)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [
            (seconds(lambda: work(ours)), seconds(lambda: work(theirs))) for _ in range(rounds)
        ]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{name}, {work.__name__}: {a * 1e3:.0f} ms against {b * 1e3:.0f} ms, {ratio:.3f}")
        if ratio <= MOST:
            return
    pytest.fail(f"{work.__name__} of {name} takes {ratio:.3f} of diffusers' time, {MOST} allowed")
