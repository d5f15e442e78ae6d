"""Latent diffusion against diffusers: same weights, latents and images, one CPU thread.

As in test_unet_speed: seconds of the process's own CPU time, the two models taking turns, the
median of the ratios of neighbouring runs.  The U-Net is Stable Diffusion's at a fifth of its width
on latents of 16x16, the autoencoder Stable Diffusion's at half its width on an image of 64x64.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers.ldm import LDMConfig
from course_lib.papers.ldm_autoencoder import AutoencoderConfig
from course_lib.training.distributed import place
from tests.parity.peers import diffusers_autoencoder, diffusers_conditional_unet, randomize

MOST = 1.0
UNET = LDMConfig(width=64, heads=(1, 2, 4, 4), context=256)
AUTOENCODER = AutoencoderConfig(width=64)


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
    """Return ours and theirs: U-Nets, and autoencoders."""
    unet = randomize(diffusers_conditional_unet(UNET)).train()
    autoencoder = randomize(diffusers_autoencoder(AUTOENCODER)).train()
    ours = load_official("ldm", autoencoder.state_dict(), AUTOENCODER).train()
    return {
        "unet": (load_official("ldm", unet.state_dict(), UNET).train(), unet),
        "autoencoder": (place(ours, torch.device("cpu")), autoencoder),
    }


def inputs(part):
    """Return what a part of either model is called with."""
    generator = torch.Generator().manual_seed(0)
    if part == "encode":
        return (torch.randn(1, 3, 64, 64, generator=generator),)
    if part == "decode":
        return (torch.randn(1, 4, 8, 8, generator=generator),)
    latents = torch.randn(2, 4, 16, 16, generator=generator)
    return latents, torch.tensor([3, 800]), torch.randn(2, 77, 256, generator=generator)


def run(model, part, args):
    """Return the output of one part of either model as a tensor."""
    if part == "denoise":
        out = model(*args)
        return getattr(out, "sample", out)
    if part == "decode":
        out = model.decode(*args)
        return getattr(out, "sample", out)
    out = model.encode(*args)
    return getattr(out, "latent_dist", out).mean


def forward(model, part, args):
    with torch.no_grad():
        run(model, part, args)


def training_step(model, part, args):
    """A forward and a backward pass."""
    model.zero_grad()
    run(model, part, args).square().mean().backward()


def seconds(work, *args):
    start = time.process_time()
    work(*args)
    return time.process_time() - start


@pytest.mark.parametrize(
    ("work", "rounds"), [(forward, 5), (training_step, 3)], ids=["forward", "step"]
)
@pytest.mark.parametrize("part", ["denoise", "encode", "decode"])
def test_no_slower_than_diffusers(part, work, rounds, models):
    model, peer = models["unet" if part == "denoise" else "autoencoder"]
    args = inputs(part)
    work(model, part, args), work(peer, part, args)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [
            (seconds(work, model, part, args), seconds(work, peer, part, args))
            for _ in range(rounds)
        ]
        ratio = statistics.median(a / b for a, b in pairs)
        ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(
            f"{part}, {work.__name__}: {ours * 1e3:.0f} ms against {theirs * 1e3:.0f} ms, ratio"
            f" {ratio:.3f}"
        )
        if ratio <= MOST:
            return
    pytest.fail(f"{part}, {work.__name__} takes {ratio:.3f} of diffusers' time, {MOST} allowed")
