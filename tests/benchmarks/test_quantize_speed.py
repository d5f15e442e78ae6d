"""Quantizers against vector-quantize-pytorch's: same latents and settings, one thread.

As in test_unet_speed: seconds of the process's own CPU time, the two taking turns; here the ratio
of the medians.  The lookup-free one has 2^18 codes, and in training both compute the exact entropy
over all of them; the residual one has the levels and codes of SoundStream and of VideoPoet.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing
from vector_quantize_pytorch import LFQ as PeerLFQ
from vector_quantize_pytorch import ResidualVQ as PeerResidualVQ

from course_lib.quantize.lfq import LFQ
from course_lib.quantize.rvq import ResidualVQ

MOST = 1.0
BITS, WEIGHTS, TEMPERATURE = 18, {"commitment": 0.25, "entropy": 0.1}, 0.01


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no type checks, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


def lookup_free():
    ours = LFQ(
        BITS, beta=WEIGHTS["commitment"], entropy_weight=WEIGHTS["entropy"], temperature=TEMPERATURE
    )
    theirs = PeerLFQ(
        codebook_size=2**BITS,
        commitment_loss_weight=WEIGHTS["commitment"],
        entropy_loss_weight=WEIGHTS["entropy"],
    )
    return ours, theirs  # theirs has an inverse temperature of 100 by default


def residual(levels, codes, dim):
    theirs = PeerResidualVQ(
        dim=dim,
        num_quantizers=levels,
        codebook_size=codes,
        decay=0.99,
        commitment_weight=0.25,
        rotation_trick=False,
        threshold_ema_dead_code=0,
    )
    return ResidualVQ(levels, codes, dim), theirs


def seconds(work, *args):
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def forward(model, z):
    return model(z.detach().requires_grad_(model.training))


def step(model, z):
    """A forward and a backward pass."""
    z = z.detach().requires_grad_()
    latents, _, loss = model(z)
    (latents.square().mean() + loss.sum()).backward()


def compare(what, ours, theirs, rounds):
    """Fail unless ours takes no longer; a noisy machine is given two more chances."""
    ours(), theirs()
    for _ in range(3):
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{what}: {1e3 * a:.2f} ms against {1e3 * b:.2f} ms, ratio {a / b:.3f}")
        if a <= MOST * b:
            return
    pytest.fail(f"{what} takes {a / b:.3f} of vector-quantize-pytorch's time, {MOST} allowed")


@pytest.mark.parametrize(
    "what,training,shape,rounds",
    [
        (forward, True, (2, 3, 4), 5),
        (step, True, (2, 3, 4), 5),
        (forward, False, (4, 5, 16, 16), 51),
    ],
    ids=["forward in training", "forward and backward", "forward in use"],
)
def test_lookup_free_no_slower_than_vector_quantize_pytorch(what, training, shape, rounds):
    b, *grid = shape
    z = torch.randn(b, BITS, *grid)
    ours, theirs = (model.train(training) for model in lookup_free())
    name = f"LFQ, {what.__name__}, training {training}"
    compare(name, lambda: what(ours, z), lambda: what(theirs, z), rounds)


@pytest.mark.parametrize(
    "what,training",
    [(forward, True), (step, True), (forward, False)],
    ids=["forward in training", "forward and backward", "forward in use"],
)
@pytest.mark.parametrize(
    "levels,codes,dim,b,n",
    [(8, 1024, 128, 2, 75), (4, 1024, 128, 2, 106), (4, 64, 16, 8, 64)],
    ids=["SoundStream", "VideoPoet", "tiny"],
)
def test_residual_no_slower_than_vector_quantize_pytorch(what, training, levels, codes, dim, b, n):
    z = torch.randn(b, n, dim)
    ours, theirs = (model.train(training) for model in residual(levels, codes, dim))
    name = f"RVQ, {levels} x {codes}, {what.__name__}, training {training}"
    channels_first = z.mT.contiguous()
    compare(name, lambda: what(ours, channels_first), lambda: what(theirs, z), 15)
