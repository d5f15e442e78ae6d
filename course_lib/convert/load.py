"""Official weights into our models, strictly: every tensor is used once, and every parameter is
given.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from einops import rearrange
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.serialization import safe_globals

from course_lib import zoo
from course_lib.convert import ddpm, vit, vivit, vqgan
from course_lib.convert.layout import Layout, Source

LAYOUTS: dict[str, dict[str, Layout]] = {
    "ddpm": ddpm.DDPM_LAYOUTS,
    "improved_ddpm": ddpm.IMPROVED_DDPM_LAYOUTS,
    "vit": vit.VIT_LAYOUTS,
    "vivit": vivit.VIVIT_LAYOUTS,
    "vqgan": vqgan.VQGAN_LAYOUTS,
}
PRECISIONS = (torch.float32, torch.float16, torch.bfloat16)


def load_official(
    name: str, state_dict: Mapping | str | Path, config: Any = None, layout: str | None = None
) -> nn.Module:
    """A model of ours with official weights.

    `name` is a preset of the zoo ("ddpm/CIFAR-10"), or a paper ("ddpm") with a `config` of that
    paper.  The weights are a dict of tensors or of NumPy arrays, or a .safetensors, .npz, .pt, .bin
    or .ckpt file that holds one; of the state of a training, as PyTorch Lightning saves it, its
    "state_dict".  Their layout is recognised from the keys, or named.

    Raises:
        ValueError: for an unknown preset, paper or layout, a config of another paper, a layout of
        another model, a
            file that holds no dict of tensors; and listing every tensor of ours that the layout
            does not know, and every key that is missing, is not wanted, or has a wrong shape.
    """
    paper, model = _model(name, config)
    weights = _read(state_dict)
    layout = _layout(paper, weights, layout)
    chosen = LAYOUTS[paper][layout]
    if not isinstance(model, chosen.model):
        ours, theirs = type(model).__name__, chosen.model.__name__
        raise ValueError(
            f"expected weights of a {ours}, got the layout {layout}, which is of a {theirs}"
        )
    weights = {key: value for key, value in weights.items() if not chosen.set_aside(key, value)}
    _require(weights, lambda value: value.dtype in PRECISIONS)
    weights = _modern(weights, chosen)
    sources = chosen.sources(model)
    unknown = [ours for ours in model.state_dict() if ours not in sources]
    if unknown:
        raise ValueError(
            f"the layout {layout} of {paper} does not know these tensors of ours: {_first_few(unknown)}"
        )
    _check(name, weights, sources)
    model.load_state_dict(
        {ours: _assemble(weights, sources[ours], p) for ours, p in model.state_dict().items()}
    )
    return model


def _model(name: str, config: Any) -> tuple[str, nn.Module]:
    """The paper a name belongs to, and its model with fresh weights."""
    paper, _, preset = name.partition("/")
    if preset:
        entry = zoo.find(name)
        if config is not None:
            raise ValueError(
                f"{name!r} is a preset and brings its config; for another, name the paper:"
                f" {paper!r}"
            )
        if paper in LAYOUTS:
            return paper, entry.build()
    if paper not in LAYOUTS:
        raise ValueError(f"official weights are read for {', '.join(LAYOUTS)}, got {name!r}")
    models = {
        type(entry.config): entry.model
        for preset, entry in zoo.MODELS.items()
        if preset.startswith(f"{paper}/")
    }
    if type(config) not in models:
        needed = " or ".join(f"config={kind.__name__}(...)" for kind in models)
        raise ValueError(f"{paper!r} needs {needed}, got {config!r}")
    return paper, models[type(config)](config)


class Callback:
    """Stands in for a class by whose name PyTorch Lightning once filed how its callback's training
    stood.
    """


CALLBACK = "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint"


def _read(source: Mapping | str | Path) -> dict[str, Tensor]:
    """The tensors by name, from a dict or a file; of a pickle, nothing but plain values and tensors
    is let in.
    """
    if not isinstance(source, Mapping):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"no file of weights at {path}")
        try:
            if path.suffix == ".safetensors":
                source = load_file(path)
            elif path.suffix == ".npz":
                with np.load(path, allow_pickle=False) as file:
                    source = dict(file)
            else:
                with safe_globals([(Callback, CALLBACK)]):
                    source = torch.load(path, map_location="cpu", weights_only=True)
        except Exception as error:  # a broken file can make its reader raise anything
            raise ValueError(f"{path} is no file of weights: {error}") from error
    if isinstance(source, Mapping) and isinstance(source.get("state_dict"), Mapping):
        source = source["state_dict"]  # beside it stand the optimiser, the step and so on
    if not isinstance(source, Mapping):
        raise ValueError(f"expected a dict of tensors by name, got {type(source).__name__}")
    weights = {key: _tensor(value) for key, value in source.items()}
    _require(weights, lambda value: isinstance(value, Tensor))
    return weights


def _require(weights: Mapping, fits: Callable[[Any], bool]) -> None:
    """Refuse values that do not fit."""
    others = [
        f"{key} ({getattr(value, 'dtype', type(value).__name__)})"
        for key, value in weights.items()
        if not fits(value)
    ]
    if others:
        raise ValueError(
            f"expected float32, float16 or bfloat16 tensors by name; these are not: {_first_few(others)}"
        )


def _tensor(value: Any) -> Any:
    """An array of floats as a tensor; everything else as it is."""
    if isinstance(value, np.ndarray) and value.dtype in (np.float32, np.float16):
        # torch takes no mirrored or read-only array
        return torch.from_numpy(np.require(value, requirements="CW"))
    return value


def _layout(paper: str, weights: dict[str, Tensor], name: str | None) -> str:
    """The layout named, or the one these keys belong to."""
    layouts = LAYOUTS[paper]
    if name is not None and name not in layouts:
        raise ValueError(f"{paper} knows the layouts {', '.join(layouts)}, got {name!r}")
    recognised = [known for known, layout in layouts.items() if layout.marker in weights]
    if name is None and len(recognised) != 1:
        known = "; ".join(f"{name} by {layout.marker!r}" for name, layout in layouts.items())
        found = f"recognised {' and '.join(recognised)}" if recognised else "recognised none"
        raise ValueError(
            f"expected the keys of one layout ({known}), {found} among {_first_few(sorted(weights))}"
        )
    return name or recognised[0]


def _modern(weights: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """The weights under up-to-date keys; a tensor that is there in both spellings is refused."""
    renamed = {layout.modern(key): value for key, value in weights.items()}
    if len(renamed) < len(weights):
        twice = [
            key for key in weights if layout.modern(key) != key and layout.modern(key) in weights
        ]
        raise ValueError(f"these keys are there in a newer spelling too: {_first_few(twice)}")
    return renamed


def _check(name: str, weights: dict[str, Tensor], sources: dict[str, Source]) -> None:
    """Refuse weights that are not exactly the ones the model wants."""
    wanted = {key: source.shape for source in sources.values() for key in source.keys}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    wrong = [
        f"{key} has shape {shapes[key]}, expected {shape}"
        for key, shape in wanted.items()
        if key in shapes and shapes[key] != shape
    ]
    problems = {
        "missing": [key for key in wanted if key not in shapes],
        "not wanted": [key for key in shapes if key not in wanted],
        "misshapen": wrong,
    }
    if any(problems.values()):
        listed = "".join(
            f"\n{problem}, {len(keys)}:" + "".join(f"\n  {key}" for key in keys)
            for problem, keys in problems.items()
            if keys
        )
        raise ValueError(f"these weights are not those of {name}:{listed}")


def _assemble(weights: dict[str, Tensor], source: Source, like: Tensor) -> Tensor:
    """One of our tensors; `like` is what it is in a fresh model."""
    if not source.keys:
        return like
    stacked = rearrange([weights[key] for key in source.keys], source.axes)
    rows = stacked if source.rows is None else stacked[source.rows.to(stacked.device)]
    return rows.reshape(like.shape)


def _first_few(items: list[str], most: int = 8) -> str:
    """The first few of a list, and how many more there are."""
    more = f" and {len(items) - most} more" if len(items) > most else ""
    return (", ".join(items[:most]) or "no keys") + more
