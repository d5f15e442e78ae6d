"""A folder of weights as published for diffusers: which pipeline it is, its configs and its files.

Only safetensors are read, whole or in shards, in full or half precision (`.fp16`).  Everything that
is not as it should be is a ValueError that names the file.
"""

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from course_lib.convert import load_official

T = TypeVar("T")
COMMANDS = {
    "StableVideoDiffusionPipeline": "course generate svd",
    "StableDiffusionPipeline": "course generate ldm",
    "CogVideoXPipeline": "course generate cogvideox without --image",
    "CogVideoXImageToVideoPipeline": "course generate cogvideox with --image",
}
STEMS = {"diffusers": "diffusion_pytorch_model", "transformers": "model"}  # of the weights' files


class Folder:
    """A folder with model_index.json and one folder below it for every part of a pipeline."""

    def __init__(self, path: Path, pipeline: str):
        """Open the folder of a `pipeline`, such as StableDiffusionPipeline.  Raises ValueError."""
        self.path = path
        if path.is_file():
            raise ValueError(f"expected a folder in diffusers' layout, got a single file: {path}")
        if not path.is_dir():
            raise ValueError(f"expected a folder of weights, got no folder at {path}")
        self.index = read_json(require_file(path / "model_index.json"))
        found = self.index.get("_class_name")
        if found != pipeline:
            hint = f"; {COMMANDS[found]} runs it" if str(found) in COMMANDS else ""
            raise ValueError(f"{path}: expected a {pipeline}, got a {found}{hint}")

    def kind(self, part: str) -> str:
        """Return the class of a part, as the index has it."""
        given = self.index.get(part)
        return str(given[-1]) if isinstance(given, list) and given else "nothing"

    def config(self, part: str, kind: str, name: str = "config.json") -> dict[str, Any]:
        """Return the config of a part whose class should be `kind`.  Raises ValueError."""
        given = self.index.get(part)
        if given not in ([library, kind] for library in STEMS):
            raise ValueError(
                f"{self.path / 'model_index.json'}: expected a {kind} as {part}, got {given}"
            )
        return read_json(require_file(self.path / part / name))

    def weight_files(self, part: str, half: bool) -> list[Path]:
        """Return the files of a part's weights; those in half precision where that will do.

        Without those of the wanted precision, the others.  Raises ValueError for a missing one.
        """
        folder = self.path / part
        stem = STEMS[self.index[part][0]]
        for variant in (".fp16", "") if half else ("", ".fp16"):
            whole = folder / f"{stem}{variant}.safetensors"
            index = folder / f"{stem}.safetensors.index{variant}.json"
            if whole.is_file():
                return [whole]
            if index.is_file():
                shards = sorted(set(_shards(index).values()))
                return [require_file(folder / Path(shard).name) for shard in shards]
        pickled = sorted(path.name for path in folder.glob(f"{stem}*.bin"))
        hint = f"; {pickled[0]} is pickled: save it as safetensors" if pickled else ""
        raise ValueError(f"expected {folder / stem}.safetensors, got no such file{hint}")

    def load(self, part: str, model: str, config: Any, half: bool) -> nn.Module:
        """Build a part of ours, `model` in the words of `convert`, with the folder's weights."""
        weights: dict[str, Tensor] = {}
        for path in self.weight_files(part, half):
            weights |= read_with(path, load_file)
        try:
            return load_official(model, weights, config)
        except ValueError as error:
            raise ValueError(f"{self.path / part}: {error}") from error

    def parameters(self, part: str, half: bool) -> int:
        """Return how many numbers a part's weights are, without reading them."""
        return sum(read_with(path, _count) for path in self.weight_files(part, half))


def read_json(path: Path) -> dict[str, Any]:
    """Return the object in a JSON file.  Raises ValueError for a file that holds none."""
    found = read_with(path, _parse)
    if not isinstance(found, dict):
        raise ValueError(f"{path}: expected a JSON object, got {type(found).__name__}")
    return found


def require_file(path: Path) -> Path:
    """Return the path.  Raises ValueError where there is no such file."""
    if not path.is_file():
        raise ValueError(f"expected a file {path.name} in {path.parent}, got none")
    return path


def _parse(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))


def _count(path: Path) -> int:
    with safe_open(path, "pt") as file:
        return sum(math.prod(file.get_slice(key).get_shape()) for key in file.keys())  # noqa: SIM118


def _shards(index: Path) -> dict[str, str]:
    """Return the file of every tensor.  Raises ValueError for an index that has none."""
    shards = read_json(index).get("weight_map")
    if not isinstance(shards, dict) or not {type(name) for name in shards.values()} == {str}:
        raise ValueError(f"{index}: expected a weight_map, got {shards!r}")
    return shards


def read_with(path: Path, reader: Callable[[Path], T]) -> T:
    """Apply a reader to a file; whatever a damaged file makes it raise becomes a ValueError."""
    try:
        return reader(path)
    except Exception as error:
        raise ValueError(
            f"{path}: expected a whole file, got one that is damaged or cut off ({error})"
        ) from error
