"""Stable Video Diffusion against diffusers: same weights and clips, one CPU thread.

As in test_unet_speed: seconds of the process's own CPU time, the two models taking turns, the
median of the ratios of neighbouring runs.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers import svd
from course_lib.papers.ldm_autoencoder import AutoencoderConfig
from course_lib.papers.svd import SVDConfig
from tests.parity.peers import randomize
from tests.parity.svd_peers import diffusers_svd, diffusers_temporal_autoencoder

MOST = 1.0
UNET = SVDConfig(
    width=64, multipliers=(1, 2), blocks=1, attends=(True, False), heads=(1, 2), context=64,
    vector=96,
)  # fmt: skip
AUTOENCODER = AutoencoderConfig(width=32)
FRAMES = 4


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
def unets():
    """Return ours and theirs as functions without arguments, and their models."""
    peer = randomize(diffusers_svd(UNET)).train()
    model = load_official("svd", peer.state_dict(), UNET).train()
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, FRAMES, UNET.in_channels, 16, 16, generator=generator)
    context, values = torch.randn(1, 1, 64, generator=generator), torch.tensor([[6.0, 127, 0.02]])
    vector, time = svd.micro_conditioning(*values.unbind(1), width=32), torch.zeros(1)
    return (
        lambda: model(x, time, context, vector),
        lambda: peer(x, time, context, values, return_dict=False)[0],
    )


@pytest.fixture(scope="module")
def decoders():
    peer = randomize(diffusers_temporal_autoencoder(AUTOENCODER)).train()
    model = load_official("svd", peer.state_dict(), AUTOENCODER).train()
    latents = torch.randn(1, FRAMES, 4, 6, 8, generator=torch.Generator().manual_seed(0))
    return (
        lambda: model.decode(latents),
        lambda: peer.decode(latents[0], num_frames=FRAMES).sample,
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
@pytest.mark.parametrize("models", ["unets", "decoders"])
def test_no_slower_than_diffusers(models, work, rounds, request):
    ours, theirs = request.getfixturevalue(models)
    work(ours), work(theirs)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [
            (seconds(lambda: work(ours)), seconds(lambda: work(theirs))) for _ in range(rounds)
        ]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{models}, {work.__name__}: {a * 1e3:.0f} ms against {b * 1e3:.0f} ms, {ratio:.3f}")
        if ratio <= MOST:
            return
    pytest.fail(f"{work.__name__} of {models} takes {ratio:.3f} of diffusers' time, {MOST} allowed")
