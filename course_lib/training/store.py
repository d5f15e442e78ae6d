"""What training leaves on disk: a state to resume from, a checkpoint with its provenance, the results.

Everything is safetensors or JSON, never a pickle, and is written whole or not at all.
"""

import importlib.metadata
import json
import math
import os
from dataclasses import dataclass
from numbers import Real
from pathlib import Path

import safetensors.torch
import torch
from torch import Tensor, nn

from course_lib.paths import CHECKPOINTS, RESULTS, ROOT
from course_lib.training import distributed
from course_lib.training.recipe import Recipe
from course_lib.training.recipes import find_recipe

LARGEST = 6_000_000  # bytes of a checkpoint, so that the repository stays small
CURVE_POINTS = 200
_START_OVER = "Start over (course train --fresh, resume=False)"


@dataclass(frozen=True)
class Store:
    """The three folders; `STORE` is the course's own, `Store.under(folder)` keeps everything in one place."""

    training: Path
    checkpoints: Path
    results: Path

    @classmethod
    def under(cls, folder: Path) -> "Store":
        return cls(*(Path(folder) / part for part in ("training", "checkpoints", "results")))

    def encode(self, recipe: Recipe, model: nn.Module, provenance: dict) -> bytes:
        """The checkpoint file of a model.  Raises ValueError when it is too large or not finite."""
        dtype = getattr(torch, recipe.checkpoint_dtype)
        tensors = {k: x.to(dtype) if x.is_floating_point() else x for k, x in model.state_dict().items()}
        if broken := [key for key, x in tensors.items() if not x.isfinite().all()]:
            raise ValueError(
                f"recipe {recipe.name!r}: not finite as {recipe.checkpoint_dtype}: {', '.join(broken)}"
            )
        file = _encode(tensors, {"name": recipe.name, **provenance})
        if len(file) > LARGEST:
            raise ValueError(
                f"recipe {recipe.name!r}: its checkpoint would have {len(file):,} bytes, at most {LARGEST:,} are allowed;"
                " make the model smaller or set checkpoint_dtype='float16'"
            )
        return file

    @torch.no_grad()
    def finish(self, recipe: Recipe, trained, device: torch.device) -> dict[str, float]:
        """Measure the model as it will be stored, write checkpoint and results, return the metrics."""
        trained.model.load_state_dict(safetensors.torch.load(self.encode(recipe, trained.model, {})))
        torch.manual_seed(recipe.seed)
        measured = recipe.measure(trained.model)
        metrics = {key: float(x) for key, x in measured.items() if isinstance(x, Real)}
        if broken := [key for key, x in metrics.items() if not math.isfinite(x)]:
            raise ValueError(f"recipe {recipe.name!r}: measured values are not finite: {', '.join(broken)}")
        bfloat16 = recipe.precision == "bfloat16" and distributed.computes_bfloat16(device)
        provenance = {
            "recipe": recipe.fields(),
            "steps": trained.step,
            "seconds": round(trained.seconds, 1),
            "device": distributed.describe_device(device),
            "precision": "bfloat16" if bfloat16 else "float32",
            "torch": torch.__version__,
            "course": importlib.metadata.version("visual-generation-course"),
            "metrics": metrics,
        }
        record = {
            "name": recipe.name,
            "metrics": metrics,
            "curve": thin(trained.losses),
            "details": {key: x for key, x in measured.items() if key not in metrics},
            "provenance": provenance,
        }
        _write(self.results / f"{recipe.name}.json", (json.dumps(record, allow_nan=False) + "\n").encode())
        _write(
            self.checkpoints / f"{recipe.name}.safetensors", self.encode(recipe, trained.model, provenance)
        )
        return metrics

    def save_state(self, recipe: Recipe, tensors: dict[str, Tensor], progress: dict) -> None:
        """Keep a training state, replacing the one before."""
        _write(self._state(recipe), _encode(tensors, {"recipe": recipe.fields(), **progress}))

    def load_state(self, recipe: Recipe) -> tuple[dict[str, Tensor], dict] | None:
        """The saved tensors and progress, None if there are none.  ValueError for those of another recipe."""
        path = self._state(recipe)
        if not path.exists():
            return None
        tensors, progress = _read(path, _START_OVER)
        if differing := _differences(progress["recipe"], recipe.fields()):
            raise ValueError(
                f"{path} is a training of another recipe {recipe.name!r}: {differing}."
                f" {_START_OVER}, or give the changed recipe a new name."
            )
        return tensors, progress

    def _state(self, recipe: Recipe) -> Path:
        return self.training / f"{recipe.name}.safetensors"


STORE = Store(Path(os.environ.get("COURSE_HOME", ROOT / ".course")) / "training", CHECKPOINTS, RESULTS)


def load_checkpoint(
    recipe: Recipe | str, device: str | torch.device = "cpu", store: Store = STORE
) -> tuple[nn.Module, dict]:
    """The trained model of a recipe (float32, eval mode) and its provenance.

    Raises FileNotFoundError when there is no checkpoint; ValueError when the file is damaged, a pickle, of another
    name, of a recipe with other numbers, or does not fit the model.
    """
    recipe = find_recipe(recipe)
    path = store.checkpoints / f"{recipe.name}.safetensors"
    again = _again(recipe.name)
    tensors, provenance = _read(path, again)
    if (name := provenance.get("name")) != recipe.name:
        raise ValueError(
            f"{path} holds the checkpoint of {name!r}, expected {recipe.name!r}: was it renamed? {again}"
        )
    both = (
        provenance["recipe"].keys() & recipe.fields().keys()
    )  # a field added later does not spoil a checkpoint
    now = {key: value for key, value in recipe.fields().items() if key in both}
    then = {key: value for key, value in provenance["recipe"].items() if key in both}
    if differing := _differences(then, now):
        raise ValueError(f"{path} was trained by an earlier recipe {recipe.name!r}: {differing}. {again}")
    with torch.random.fork_rng(devices=[]):
        model = recipe.build().model
    try:
        model.load_state_dict(tensors)
    except RuntimeError as error:
        raise ValueError(f"{path} does not fit the model of {recipe.name!r}. {again}\n{error}") from None
    return model.to(device).eval().requires_grad_(False), provenance


def results(recipe: Recipe | str, store: Store = STORE) -> dict:
    """What was measured: name, metrics, curve (thinned losses), details (arrays for figures), provenance."""
    name = recipe if isinstance(recipe, str) and ":" not in recipe else find_recipe(recipe).name
    path = store.results / f"{name}.json"
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise FileNotFoundError(f"no results at {path}. {_again(name)}") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"{path} is damaged: {error}. {_again(name)}") from None


def show_checkpoint(recipe: Recipe | str, store: Store = STORE) -> str:
    """One line on where a checkpoint comes from: steps, time, device, scores."""
    name = find_recipe(recipe).name
    _, made = _read(store.checkpoints / f"{name}.safetensors", _again(name))
    minutes, seconds = divmod(round(made["seconds"]), 60)
    took = f"{minutes} min" if minutes >= 10 else f"{minutes} min {seconds} s" if minutes else f"{seconds} s"
    scores = "; ".join(f"{key} {value:.4g}" for key, value in made["metrics"].items())
    line = f"{name}: {made['steps']:,} steps, {took} on {made['device']}, torch {made['torch']}"
    return f"{line}; {scores}" if scores else line


def thin(losses: dict[str, list[float]], points: int = CURVE_POINTS) -> dict[str, list]:
    """Loss curves for a figure: means over up to `points` stretches of equal length, at the last step of each."""
    length = max(len(curve) for curve in losses.values())
    size = max(1, -(-length // points))
    curve = {
        player: [sum(part) / len(part) for part in _parts(values, size)] for player, values in losses.items()
    }
    return {"step": [min(start + size, length) for start in range(0, length, size)], **curve}


def _parts(values: list[float], size: int) -> list[list[float]]:
    return [values[start : start + size] for start in range(0, len(values), size)]


def _differences(saved: dict, now: dict) -> str:
    keys = [key for key in {**saved, **now} if saved.get(key) != now.get(key)]
    return ", ".join(f"{key} was {saved.get(key)!r} and is {now.get(key)!r}" for key in keys)


def _again(name: str) -> str:
    return f"Restore it from the repository, or train it again: course train {name}"


def _encode(tensors: dict[str, Tensor], facts: dict) -> bytes:
    plain = {
        k: x.detach().to("cpu", memory_format=torch.contiguous_format, copy=True) for k, x in tensors.items()
    }
    return safetensors.torch.save(plain, {"course": json.dumps(facts)})


def _read(path: Path, advice: str) -> tuple[dict[str, Tensor], dict]:
    """The tensors and facts of one of our files, or a clear error."""
    try:
        file = path.read_bytes()
    except FileNotFoundError:
        raise FileNotFoundError(f"there is no {path}. {advice}") from None
    if file[:2] == b"PK" or file[:1] == b"\x80":
        raise ValueError(
            f"{path} is a pickle (torch.save), which could run any code: it is never loaded. {advice}"
        )
    try:
        tensors = safetensors.torch.load(file)
    except safetensors.SafetensorError as error:
        raise ValueError(f"{path} is truncated or not a safetensors file ({error}). {advice}") from None
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
