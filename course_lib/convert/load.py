"""Official weights into our models, strictly: each tensor is used once, each parameter is given."""

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.convert import (
    clip,
    cogvideox,
    ddpm,
    ldm,
    lvm,
    lvm_tokenizer,
    svd,
    t5,
    vit,
    vivit,
    vqgan,
)
from course_lib.convert.layout import Layout, Source
from course_lib.convert.weights import (
    first_few,
    read_weights,
    require_finite,
    require_floats,
)

LAYOUTS: dict[str, dict[str, Layout]] = {
    "ddpm": ddpm.DDPM_LAYOUTS,
    "improved_ddpm": ddpm.IMPROVED_DDPM_LAYOUTS,
    "ldm": ldm.LDM_LAYOUTS | clip.CLIP_TEXT_LAYOUTS,
    "lvm": lvm.LVM_LAYOUTS | lvm_tokenizer.LVM_TOKENIZER_LAYOUTS,
    "vit": vit.VIT_LAYOUTS,
    "vivit": vivit.VIVIT_LAYOUTS,
    "vqgan": vqgan.VQGAN_LAYOUTS,
    "svd": svd.SVD_LAYOUTS | clip.CLIP_VISION_LAYOUTS,
    "cogvideox": cogvideox.COGVIDEOX_LAYOUTS | t5.T5_LAYOUTS,
}


def load_official(
    name: str, state_dict: Mapping | str | Path, config: Any = None, layout: str | None = None
) -> nn.Module:
    """Build a model of ours with official weights.

    `name` is a preset of the zoo ("ddpm/CIFAR-10"), or a paper ("ddpm") with a `config` of that
    paper.  The weights are a dict of tensors or of NumPy arrays, or a .safetensors, .npz, .pt, .bin
    or .ckpt file that holds one; of the state of a training run, as PyTorch Lightning saves it, its
    "state_dict".  Dicts of dicts, as flax has them, are read, too.  Their layout is recognized from
    the keys, or named.

    Raises:
        ValueError: for an unknown preset, paper or layout, a config of another paper, a layout of
            another model, or a file that holds no dict of tensors (nothing in a file is run); and,
            listing them, for tensors of ours that the layout does not know, for keys that are
            missing, not wanted or misshapen, and for tensors that are not plain, not of these three
            types (float32, float16, bfloat16) or not finite.
    """
    paper, model = _fresh_model(name, config)
    weights = read_weights(state_dict)
    layout = _find_layout(paper, model, weights, layout)
    chosen = LAYOUTS[paper][layout]
    if not isinstance(model, chosen.model):
        ours = type(model).__name__
        theirs = chosen.model.__name__
        raise ValueError(
            f"expected weights of a {ours}, got the layout {layout}, which is of a {theirs}"
        )

    weights = {
        key: value for key, value in weights.items() if not chosen.set_aside(key, value, model)
    }
    require_floats(weights)
    weights = _with_modern_keys(weights, chosen)

    sources = chosen.sources(model)
    unknown = [ours for ours in model.state_dict() if ours not in sources]
    if unknown:
        raise ValueError(
            f"the layout {layout} of {paper} does not know these tensors of ours:"
            f" {first_few(unknown)}"
        )
    _require_exact_match(name, weights, sources)
    require_finite(weights)

    # One by one: beside the model and the file, no third copy of all weights is in memory.
    for ours, fresh in model.state_dict().items():
        fresh.copy_(_assemble(weights, sources[ours], fresh))
    return model


def _fresh_model(name: str, config: Any) -> tuple[str, nn.Module]:
    """Return the paper a name belongs to, and its model with fresh weights."""
    if not isinstance(name, str):
        raise ValueError(f"name: expected that of a preset or a paper, got {name!r}")
    paper, _, preset = name.partition("/")
    if preset:
        entry = zoo.find(name)
        if config is not None:
            raise ValueError(
                f"config: expected none, got one: {name!r} is a preset and brings its config; for"
                f" another, name the paper: {paper!r}"
            )
        if paper in LAYOUTS:
            return paper, entry.build()
    if paper not in LAYOUTS:
        raise ValueError(f"name: expected a model of {', '.join(LAYOUTS)}, got {name!r}")
    models = {
        type(entry.config): entry.model
        for preset, entry in zoo.MODELS.items()
        if preset.startswith(f"{paper}/")
    }
    if type(config) not in models:
        expected = " or ".join(f"{kind.__name__}(...)" for kind in models)
        raise ValueError(f"config: expected {expected} for {paper!r}, got {config!r}")
    return paper, models[type(config)](config)


def _find_layout(paper: str, model: nn.Module, weights: dict[str, Tensor], name: str | None) -> str:
    """Return the layout named, or the one these keys belong to.

    A file may hold several networks of a paper: then the layout is the one of this model.
    """
    layouts = LAYOUTS[paper]
    if name is not None:
        if not isinstance(name, str) or name not in layouts:
            raise ValueError(
                f"layout: expected one of {', '.join(layouts)} for {paper}, got {name!r}"
            )
        return name

    recognized = [known for known, layout in layouts.items() if _is_marked(weights, layout)]
    if len(recognized) > 1:
        recognized = [
            known for known in recognized if isinstance(model, layouts[known].model)
        ] or recognized
    if len(recognized) != 1:
        known = "; ".join(f"{name} by {layout.marker!r}" for name, layout in layouts.items())
        raise ValueError(
            f"expected the keys of one layout ({known}), recognized"
            f" {' and '.join(recognized) or 'none'} among {first_few(sorted(weights))}"
        )
    return recognized[0]


def _is_marked(weights: dict[str, Tensor], layout: Layout) -> bool:
    """Tell whether the key that marks a layout is there, in any of its spellings."""
    return any(layout.modern(key) == layout.marker for key in weights)


def _with_modern_keys(weights: dict[str, Tensor], layout: Layout) -> dict[str, Tensor]:
    """Return the weights under up-to-date keys; refuse a tensor that is there in both spellings."""
    renamed = {layout.modern(key): value for key, value in weights.items()}
    if len(renamed) < len(weights):
        times = Counter(layout.modern(key) for key in weights)
        twice = [
            key for key in weights if layout.modern(key) != key and times[layout.modern(key)] > 1
        ]
        raise ValueError(
            f"expected each tensor once, got these in a newer spelling too: {first_few(twice)}"
        )
    return renamed


def _require_exact_match(name: str, weights: dict[str, Tensor], sources: dict[str, Source]) -> None:
    """Refuse weights that are not exactly the ones the model wants (ValueError listing them)."""
    wanted = {key: source.shape for source in sources.values() for key in source.keys}
    shapes = {key: tuple(value.shape) for key, value in weights.items()}
    misshapen = [
        f"{key} has shape {shapes[key]}, expected {shape}"
        for key, shape in wanted.items()
        if key in shapes and shapes[key] != shape
    ]
    problems = {
        "missing": [key for key in wanted if key not in shapes],
        "not wanted": [key for key in shapes if key not in wanted],
        "misshapen": misshapen,
    }
    if any(problems.values()):
        listed = "".join(
            f"\n{problem}, {len(keys)}:" + "".join(f"\n  {key}" for key in keys)
            for problem, keys in problems.items()
            if keys
        )
        raise ValueError(f"these weights are not those of {name}:{listed}")


def _assemble(weights: dict[str, Tensor], source: Source, like: Tensor) -> Tensor:
    """Return one of our tensors; `like` is what it is in a fresh model."""
    if not source.keys:
        return like
    stacked = rearrange([weights[key] for key in source.keys], source.axes)
    rows = stacked if source.rows is None else stacked[source.rows.to(stacked.device)]
    return rows.reshape(like.shape)
