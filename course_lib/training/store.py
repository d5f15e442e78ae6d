"""What training leaves on disk: a state to resume from, a checkpoint, the results.

Everything is safetensors or JSON, never a pickle, and is written whole or not at all.  A
checkpoint carries its provenance: recipe, steps, seconds, device, versions and metrics.
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

from course_lib.files import write_atomically
from course_lib.paths import CHECKPOINTS, RESULTS, ROOT
from course_lib.training import distributed
from course_lib.training.recipe import Model, Recipe
from course_lib.training.registry import find_recipe

MAX_CHECKPOINT_BYTES = 6_000_000  # so that the repository stays small
CURVE_POINTS = 200
_START_OVER_ADVICE = "Start over (course train --fresh, resume=False)"


@dataclass(frozen=True)
class Store:
    """The three folders.  `STORE` has the course's own, `Store.under(folder)` is for your own."""

    training: Path
    checkpoints: Path
    results: Path

    @classmethod
    def under(cls, folder: Path) -> "Store":
        """Return a store that keeps everything in one folder."""
        folder = Path(folder)
        return cls(folder / "training", folder / "checkpoints", folder / "results")

    def encode(self, recipe: Recipe, model: nn.Module, provenance: dict) -> bytes:
        """Return the bytes of a model's checkpoint file.

        Raises ValueError when it would be too large, or when a tensor is not finite.
        """
        dtype = getattr(torch, recipe.checkpoint_dtype)
        tensors = {
            key: x.to(dtype) if x.is_floating_point() else x
            for key, x in model.state_dict().items()
        }
        if broken := [key for key, x in tensors.items() if not x.isfinite().all()]:
            raise ValueError(
                f"recipe {recipe.name!r}: expected finite tensors, got some that are not finite as"
                f" {dtype}: {', '.join(broken)}"
            )
        file = _encode(tensors, {"name": recipe.name, **provenance})
        if len(file) > MAX_CHECKPOINT_BYTES:
            raise ValueError(
                f"recipe {recipe.name!r}: expected a checkpoint of at most"
                f" {MAX_CHECKPOINT_BYTES:,} bytes, got {len(file):,}; make the model smaller or set"
                " checkpoint_dtype='float16'"
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
        """Measure the model as it will be stored, write checkpoint and results, return the metrics.

        Raises ValueError when a measured value is not finite.
        """
        model.load_state_dict(safetensors.torch.load(self.encode(recipe, model, {})))
        torch.manual_seed(recipe.seed)
        recipe.complete(model)
        measured = recipe.measure(model)
        metrics = {key: float(x) for key, x in measured.items() if isinstance(x, Real)}
        if broken := [key for key, x in metrics.items() if not math.isfinite(x)]:
            raise ValueError(
                f"recipe {recipe.name!r}: expected finite measures, got some that are not:"
                f" {', '.join(broken)}"
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
        write_atomically(
            self.results / f"{recipe.name}.json",
            (json.dumps(record, allow_nan=False) + "\n").encode(),
        )
        write_atomically(self.checkpoints / f"{recipe.name}.safetensors", checkpoint)
        return metrics

    def save_state(self, recipe: Recipe, tensors: dict[str, Tensor], progress: dict) -> None:
        """Save a training state, replacing the previous one."""
        write_atomically(
            self._state(recipe), _encode(tensors, {"recipe": recipe.fields(), **progress})
        )

    def load_state(self, recipe: Recipe) -> tuple[dict[str, Tensor], dict] | None:
        """Return the saved tensors and progress, or None if there are none.

        Raises ValueError when they are of a recipe with other fields.
        """
        path = self._state(recipe)
        if not path.exists():
            return None
        tensors, progress = _read(path, _START_OVER_ADVICE)
        if differing := _differences(progress["recipe"], recipe.fields()):
            raise ValueError(
                f"{path} is a run of another recipe {recipe.name!r}: {differing}."
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
) -> tuple[Model, dict]:
    """Return the trained model of a recipe (float32, eval mode) and its provenance.

    Raises FileNotFoundError when there is no checkpoint; ValueError when the file is damaged, a
    pickle, of another name, of a recipe with other numbers, or does not fit the model.
    """
    recipe = find_recipe(recipe)
    path = store.checkpoints / f"{recipe.name}.safetensors"
    advice = _retrain_advice(recipe.name)
    tensors, provenance = _read(path, advice)
    if (name := provenance.get("name")) != recipe.name:
        raise ValueError(
            f"{path}: expected {recipe.name!r}, got {name!r}: was the file renamed? {advice}"
        )
    trained = provenance["recipe"]
    current = recipe.fields()
    # A field that recipes gained later does not invalidate a checkpoint.
    common = [key for key in trained if key in current]
    differing = _differences(
        {key: trained[key] for key in common}, {key: current[key] for key in common}
    )
    if differing:
        raise ValueError(
            f"{path} was trained by an earlier recipe {recipe.name!r}: {differing}. {advice}"
        )
    with torch.random.fork_rng(devices=[]):
        model = recipe.untrained()
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(
            f"{path} does not fit the model of {recipe.name!r}. {advice}\n{error}"
        ) from None
    model = distributed.place(model, torch.device(device))
    return model.eval().requires_grad_(False), provenance


def results(recipe: Recipe | str, store: Store = STORE) -> dict:
    """Return what was measured after a run.

    A dict of `name`, `metrics`, `curve` (downsampled losses), `details` (arrays for figures) and
    `provenance`.  Raises FileNotFoundError or, for a damaged file, ValueError.
    """
    name = recipe if isinstance(recipe, str) and ":" not in recipe else find_recipe(recipe).name
    path = store.results / f"{name}.json"
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no results at {path}. {_retrain_advice(name)}") from None
    except (ValueError, RecursionError) as error:
        record = error
    if not isinstance(record, dict):
        raise ValueError(
            f"expected results, got others: {path} is damaged: {record}. {_retrain_advice(name)}"
        )
    return record


def show_checkpoint(recipe: Recipe | str, store: Store = STORE) -> str:
    """Return one line on where a checkpoint comes from: steps, time, device, scores."""
    name = find_recipe(recipe).name
    _, provenance = _read(store.checkpoints / f"{name}.safetensors", _retrain_advice(name))
    steps = f"{provenance['steps']:,} steps"
    duration = _duration(provenance["seconds"])
    line = f"{name}: {steps}, {duration} on {provenance['device']}, torch {provenance['torch']}"
    scores = "; ".join(f"{key} {value:.4g}" for key, value in provenance["metrics"].items())
    return f"{line}; {scores}" if scores else line


def _duration(total_seconds: float) -> str:
    minutes, seconds = divmod(round(total_seconds), 60)
    if minutes >= 10:
        return f"{minutes} min"
    return f"{minutes} min {seconds} s" if minutes else f"{seconds} s"


def downsample_curve(losses: dict[str, list[float]], points: int = CURVE_POINTS) -> dict[str, list]:
    """Average loss curves over at most `points` stretches of equal length, for a figure.

    `step` has the last step of each stretch, every player its means.
    """
    length = max(len(curve) for curve in losses.values())
    size = max(1, -(-length // points))
    stretches = [slice(start, min(start + size, length)) for start in range(0, length, size)]
    means = {player: [fmean(curve[part]) for part in stretches] for player, curve in losses.items()}
    return {"step": [part.stop for part in stretches], **means}


def _differences(saved: dict, now: dict) -> str:
    """Describe the fields whose values differ; an empty string says that none does."""
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
    """Return a safetensors file of copies of the tensors, with the facts in its metadata."""
    copies = {}
    for key, x in tensors.items():
        copies[key] = x.detach().to("cpu", memory_format=torch.contiguous_format, copy=True)
    return safetensors.torch.save(copies, {"course": json.dumps(facts)})


def _read(path: Path, advice: str) -> tuple[dict[str, Tensor], dict]:
    """Return the tensors and facts of one of our files.

    Raises FileNotFoundError when it is missing, ValueError when it is not one of ours or damaged.
    """
    try:
        file = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}. {advice}") from None
    try:
        tensors = safetensors.torch.load(file)
    except safetensors.SafetensorError as error:
        is_pickle = file.startswith((b"PK", b"\x80"))
        kind = (
            "a pickle, which could run any code" if is_pickle else f"truncated or damaged ({error})"
        )
        raise ValueError(
            f"expected a checkpoint, got another file: {path} is not a safetensors file: it is"
            f" {kind}. {advice}"
        ) from None
    header = json.loads(file[8 : 8 + int.from_bytes(file[:8], "little")])
    try:
        facts = json.loads(header.get("__metadata__", {}).get("course", "null"))
    except (json.JSONDecodeError, RecursionError):
        facts = None
    if not isinstance(facts, dict) or not isinstance(facts.get("recipe"), dict):
        raise ValueError(
            f"expected a file of this course, got another: {path} was not written by this course:"
            f" it has no provenance. {advice}"
        )
    return tensors, facts
