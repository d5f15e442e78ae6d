"""VQGAN against diffusers' VQModel: same weights and images, one CPU thread.

As in test_unet_speed: seconds of the process's own CPU time, the two models taking turns, the
median of the ratios of neighbouring runs.  The network is the one for ImageNet, at half its width
and on smaller images.  Ours is placed as in the course's training runs, theirs is as it comes.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers.vqgan import VQGANConfig
from course_lib.training.distributed import place
from tests.parity.peers import diffusers_vqmodel, randomize

MOST = 1.0
CONFIG = VQGANConfig(width=64, legacy=True)
PICTURES = (2, 3, 64, 64)


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
    """Return ours, theirs and images, after a first run."""
    peer = randomize(diffusers_vqmodel(CONFIG)).train()
    model = place(load_official("vqgan", peer.state_dict(), CONFIG), torch.device("cpu")).train()
    image = torch.randn(PICTURES, generator=torch.Generator().manual_seed(0))
    return model, peer, image


def seconds(work, *args):
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def run(model, image):
    """Reconstruction and codebook loss of either model."""
    out = model(image)
    return (out[0], out[1].loss) if isinstance(out, tuple) else (out.sample, out.commit_loss)


def encode_and_decode(model, image):
    with torch.no_grad():
        run(model, image)


def training_step(model, image):
    """A forward and a backward pass."""
    model.zero_grad()
    reconstruction, codebook_loss = run(model, image)
    ((image - reconstruction).abs().mean() + codebook_loss).backward()


@pytest.mark.parametrize(
    ("work", "rounds"), [(encode_and_decode, 5), (training_step, 3)], ids=["forward", "step"]
)
def test_no_slower_than_diffusers(work, rounds, models):
    model, peer, image = models
    work(model, image), work(peer, image)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [(seconds(work, model, image), seconds(work, peer, image)) for _ in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{work.__name__}: {ours * 1e3:.0f} ms against {theirs * 1e3:.0f} ms, ratio {ratio:.3f}"
        )
        if ratio <= MOST:
            return
    pytest.fail(f"{work.__name__} takes {ratio:.3f} of diffusers' time, {MOST} allowed")
