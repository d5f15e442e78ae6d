"""The lookup-free quantizer at 2^18 codes against vector-quantize-pytorch's: same latents and
settings, one thread.

As in test_unet_speed: seconds of the process's own CPU time, the two taking turns; here the ratio
of the medians.  In training both compute the exact entropy over all codes.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing
from vector_quantize_pytorch import LFQ as PeerLFQ

from course_lib.quantize.lfq import LFQ

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


def models():
    ours = LFQ(
        BITS, beta=WEIGHTS["commitment"], entropy_weight=WEIGHTS["entropy"], temperature=TEMPERATURE
    )
    theirs = PeerLFQ(
        codebook_size=2**BITS,
        commitment_loss_weight=WEIGHTS["commitment"],
        entropy_loss_weight=WEIGHTS["entropy"],
    )
    return ours, theirs  # theirs has an inverse temperature of 100 by default


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
    (latents.square().mean() + loss).backward()


@pytest.mark.parametrize(
    "what,training,shape,rounds",
    [
        (forward, True, (2, 3, 4), 5),
        (step, True, (2, 3, 4), 5),
        (forward, False, (4, 5, 16, 16), 51),
    ],
    ids=["forward in training", "forward and backward", "forward in use"],
)
def test_no_slower_than_vector_quantize_pytorch(what, training, shape, rounds):
    b, *grid = shape
    z = torch.randn(b, BITS, *grid)
    ours, theirs = (model.train(training) for model in models())
    what(ours, z), what(theirs, z)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [(seconds(what, ours, z), seconds(what, theirs, z)) for _ in range(rounds)]
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"LFQ, {what.__name__}, training {training}: {1e3 * a:.2f} ms against {1e3 * b:.2f} ms,"
            f" ratio {a / b:.3f}"
        )
        if a <= MOST * b:
            break
    else:
        pytest.fail(
            f"{what.__name__} takes {a / b:.3f} of vector-quantize-pytorch's time, {MOST} allowed"
        )
