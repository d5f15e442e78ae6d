"""What training leaves on disk: a state to resume from, a checkpoint with its provenance, the
results.

Everything is safetensors or JSON, never a pickle, and is written whole or not at all.
"""

import importlib.metadata
import json
import math
import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path
from statistics import fmean

import safetensors.torch
import torch
from torch import Tensor, nn

from course_lib.paths import CHECKPOINTS, RESULTS, ROOT
from course_lib.training import distributed
from course_lib.training.recipe import Recipe
from course_lib.training.registry import find_recipe

MAX_CHECKPOINT_BYTES = 6_000_000  # bytes of a checkpoint, so that the repository stays small
CURVE_POINTS = 200
_START_OVER_ADVICE = "Start over (course train --fresh, resume=False)"


@dataclass(frozen=True)
class Store:
    """The three folders; `STORE` is the course's own, `Store.under(folder)` keeps everything in one
    place.
    """

    training: Path
    checkpoints: Path
    results: Path

    @classmethod
    def under(cls, folder: Path) -> "Store":
        return cls(*(Path(folder) / part for part in ("training", "checkpoints", "results")))

    def encode(self, recipe: Recipe, model: nn.Module, provenance: dict) -> bytes:
        """The checkpoint file of a model.  Raises ValueError when it is too large or not finite."""
        dtype = getattr(torch, recipe.checkpoint_dtype)
        tensors = {
            k: x.to(dtype) if x.is_floating_point() else x for k, x in model.state_dict().items()
        }
        if broken := [key for key, x in tensors.items() if not x.isfinite().all()]:
            raise ValueError(f"recipe {recipe.name!r}: not finite as {dtype}: {', '.join(broken)}")
        file = _encode(tensors, {"name": recipe.name, **provenance})
        if len(file) > MAX_CHECKPOINT_BYTES:
            raise ValueError(
                f"recipe {recipe.name!r}: its checkpoint would have {len(file):,} bytes, allowed"
                f" are {MAX_CHECKPOINT_BYTES:,}; make the model smaller or set checkpoint_dtype='float16'"
            )
        return file

    @torch.no_grad()
    def finish(
        self,
        recipe: Recipe,
        device: torch.device,
        model: nn.Module,
        losses: dict[str, list[float]],
        seconds: float,
        machine: str,
    ) -> dict[str, float]:
        """Measure the model as it will be stored, write checkpoint and results, return the metrics."""
        model.load_state_dict(safetensors.torch.load(self.encode(recipe, model, {})))
        torch.manual_seed(recipe.seed)
        recipe.complete(model)
        measured = recipe.measure(model)
        metrics = {key: float(x) for key, x in measured.items() if isinstance(x, Real)}
        if broken := [key for key, x in metrics.items() if not math.isfinite(x)]:
            raise ValueError(
                f"recipe {recipe.name!r}: measured values are not finite: {', '.join(broken)}"
            )
        provenance = {
            "recipe": recipe.fields(),
            "steps": recipe.steps,
            "seconds": round(seconds, 1),
            "device": machine,
            "precision": distributed.precision_on(device, recipe.precision),
            "torch": torch.__version__,
            "course": _version(),
            "metrics": metrics,
        }
        record = {
            "name": recipe.name,
            "metrics": metrics,
            "curve": downsample_curve(losses),
            "details": {key: x for key, x in measured.items() if key not in metrics},
            "provenance": provenance,
        }
        checkpoint = self.encode(recipe, model, provenance)
        _write(
            self.results / f"{recipe.name}.json",
            (json.dumps(record, allow_nan=False) + "\n").encode(),
        )
        _write(self.checkpoints / f"{recipe.name}.safetensors", checkpoint)
        return metrics

    def save_state(self, recipe: Recipe, tensors: dict[str, Tensor], progress: dict) -> None:
        """Keep a training state, replacing the one before."""
        _write(self._state(recipe), _encode(tensors, {"recipe": recipe.fields(), **progress}))

    def load_state(self, recipe: Recipe) -> tuple[dict[str, Tensor], dict] | None:
        """The saved tensors and progress, None if there are none.  ValueError for those of another
        recipe.
        """
        path = self._state(recipe)
        if not path.exists():
            return None
        tensors, progress = _read(path, _START_OVER_ADVICE)
        if differing := _differences(progress["recipe"], recipe.fields()):
            raise ValueError(
                f"{path} is a training of another recipe {recipe.name!r}: {differing}."
                f" {_START_OVER_ADVICE}, or give the changed recipe a new name."
            )
        return tensors, progress

    def _state(self, recipe: Recipe) -> Path:
        return self.training / f"{recipe.name}.safetensors"


STORE = Store(
    Path(os.environ.get("COURSE_HOME", ROOT / ".course")) / "training", CHECKPOINTS, RESULTS
)


def load_checkpoint(
    recipe: Recipe | str, device: str | torch.device = "cpu", store: Store = STORE
) -> tuple[nn.Module, dict]:
    """The trained model of a recipe (float32, eval mode) and its provenance.

    Raises FileNotFoundError when there is no checkpoint; ValueError when the file is damaged, a
    pickle, of another name, of a recipe with other numbers, or does not fit the model.
    """
    recipe = find_recipe(recipe)
    path = store.checkpoints / f"{recipe.name}.safetensors"
    again = _retrain_advice(recipe.name)
    tensors, provenance = _read(path, again)
    if (name := provenance.get("name")) != recipe.name:
        raise ValueError(
            f"{path} holds {name!r}, expected {recipe.name!r}: was the file renamed? {again}"
        )
    then, now = provenance["recipe"], recipe.fields()
    both = then.keys() & now.keys()  # a field that recipes got later does not spoil a checkpoint
    if differing := _differences({key: then[key] for key in both}, {key: now[key] for key in both}):
        raise ValueError(
            f"{path} was trained by an earlier recipe {recipe.name!r}: {differing}. {again}"
        )
    with torch.random.fork_rng(devices=[]):
        model = recipe.build().model
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the model of {recipe.name!r}. {again}\n{error}"
        ) from None
    return distributed.place(model, torch.device(device)).eval().requires_grad_(False), provenance


def results(recipe: Recipe | str, store: Store = STORE) -> dict:
    """What was measured: name, metrics, curve (thinned losses), details (arrays for figures),
    provenance.
    """
    name = recipe if isinstance(recipe, str) and ":" not in recipe else find_recipe(recipe).name
    path = store.results / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no results at {path}. {_retrain_advice(name)}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. {_retrain_advice(name)}") from None


def show_checkpoint(recipe: Recipe | str, store: Store = STORE) -> str:
    """One line on where a checkpoint comes from: steps, time, device, scores."""
    name = find_recipe(recipe).name
    _, made = _read(store.checkpoints / f"{name}.safetensors", _retrain_advice(name))
    minutes, seconds = divmod(round(made["seconds"]), 60)
    took = (
        f"{minutes} min"
        if minutes >= 10
        else f"{minutes} min {seconds} s"
        if minutes
        else f"{seconds} s"
    )
    scores = "; ".join(f"{key} {value:.4g}" for key, value in made["metrics"].items())
    line = f"{name}: {made['steps']:,} steps, {took} on {made['device']}, torch {made['torch']}"
    return f"{line}; {scores}" if scores else line


def downsample_curve(losses: dict[str, list[float]], points: int = CURVE_POINTS) -> dict[str, list]:
    """Loss curves for a figure: the mean of each of at most `points` equal stretches, at its last
    step.
    """
    length = max(len(curve) for curve in losses.values())
    size = max(1, -(-length // points))
    stretches = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    means = {player: [fmean(curve[part]) for part in stretches] for player, curve in losses.items()}
    return {"step": [part.stop for part in stretches], **means}


def _differences(saved: dict, now: dict) -> str:
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    return ", ".join(f"{key} was {saved.get(key)!r} and is {now.get(key)!r}" for key in keys)


def _retrain_advice(name: str) -> str:
    return f"Restore it from the repository, or train it again: course train {name}"


def _version() -> str:
    try:
        return importlib.metadata.version("visual-generation-course")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


def _encode(tensors: dict[str, Tensor], facts: dict) -> bytes:
    plain = {"device": "cpu", "memory_format": torch.contiguous_format, "copy": True}
    tensors = {key: x.detach().to(**plain) for key, x in tensors.items()}
    return safetensors.torch.save(tensors, {"course": json.dumps(facts)})


def _read(path: Path, advice: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of one of our files, or a clear error."""
    try:
        file = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}. {advice}") from None
    try:
        tensors = safetensors.torch.load(file)
    except safetensors.SafetensorError as error:
        pickled = file.startswith((b"PK", b"\x80"))
        what = (
            "a pickle, which could run any code" if pickled else f"truncated or damaged ({error})"
        )
        raise ValueError(f"{path} is not a safetensors file: it is {what}. {advice}") from None
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    if "course" not in header.get("__metadata__", {}):
        raise ValueError(f"{path} was not written by this course: it has no provenance. {advice}")
    return tensors, json.loads(header["__metadata__"]["course"])


def _write(path: Path, content: bytes) -> None:
    """Write a whole file or nothing: a crash in the middle leaves the file that was there before."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(path.name + ".part")
    part.write_bytes(content)
    part.replace(path)
