"""A training step of our U-Net against diffusers' UNet2DModel: same weights, batch, one thread.

Measured in the process's own CPU time, which other processes on the machine hardly touch, with the
two models taking turns.  The figure is the median of the ratios of neighbouring steps.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers.ddpm import DDPMConfig
from course_lib.papers.improved_ddpm import ImprovedDDPMConfig
from tests.parity.peers import diffusers_unet, inputs, randomize

MOST = 1.0
CONFIGS = {
    "ddpm": DDPMConfig(width=32, dropout=0.0, norm_groups=8),
    "improved_ddpm": ImprovedDDPMConfig(width=32, blocks_per_level=2, dropout=0.0, norm_groups=8),
}


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """One thread, and no checks of types, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


def step_seconds(model, x, t):
    """One forward and backward pass."""
    model.zero_grad()
    start = time.process_time()
    out = model(x, t)
    getattr(out, "sample", out).square().mean().backward()
    return time.process_time() - start


def measure(paper, config, rounds=7):
    """Ours over theirs, and the seconds of each."""
    peer = randomize(diffusers_unet(config)).train()
    model = load_official(paper, peer.state_dict(), config).train()
    x, t, _ = inputs(config, 4, 32, 32)
    for warmup in (model, peer):
        step_seconds(warmup, x, t)
    pairs = [(step_seconds(model, x, t), step_seconds(peer, x, t)) for _ in range(rounds)]
    ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
    return statistics.median(a / b for a, b in pairs), ours, theirs


@pytest.mark.parametrize("paper", CONFIGS)
def test_a_training_step_is_no_slower_than_diffusers(paper):
    for _ in range(3):  # a noisy machine is given two more chances
        ratio, ours, theirs = measure(paper, CONFIGS[paper])
        print(f"{paper}: {ours * 1e3:.0f} ms against {theirs * 1e3:.0f} ms, ratio {ratio:.3f}")
        if ratio <= MOST:
            return
    pytest.fail(f"a training step takes {ratio:.3f} of diffusers' time, {MOST} allowed")
