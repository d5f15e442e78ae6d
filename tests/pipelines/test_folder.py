"""Which files of a folder are read."""

import json

import pytest
import torch
from safetensors.torch import save_file

from course_lib.pipelines.folder import Folder

STEM = "diffusion_pytorch_model"


@pytest.fixture
def folder(tmp_path):
    parts = {"unet": ["diffusers", "UNet"], "tower": ["transformers", "Tower"]}
    index = {"_class_name": "Pipeline", **parts}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    for part in parts:
        (tmp_path / part).mkdir()
    return tmp_path


def files(folder, half, part="unet"):
    found = Folder(folder, "Pipeline").weight_files(part, half)
    return [path.relative_to(folder / part).as_posix() for path in found]


def test_half_precision_is_preferred_where_it_will_do(folder):
    for variant in ("", ".fp16"):
        (folder / "unet" / f"{STEM}{variant}.safetensors").touch()
    assert files(folder, half=True) == [f"{STEM}.fp16.safetensors"]
    assert files(folder, half=False) == [f"{STEM}.safetensors"]


def test_what_is_there_is_read(folder):
    for part, stem, variant in (("unet", STEM, ".fp16"), ("tower", "model", "")):
        (folder / part / f"{stem}{variant}.safetensors").touch()
        for half in (False, True):
            assert files(folder, half, part) == [f"{stem}{variant}.safetensors"]


@pytest.mark.parametrize("variant", ["", ".fp16"])
def test_shards_are_those_of_the_index(folder, variant):
    names = [f"{STEM}{variant}-0000{n}-of-00002.safetensors" for n in (1, 2)]
    for name in names:
        (folder / "unet" / name).touch()
    index = {"weight_map": {"a": names[1], "b": names[0], "c": names[1]}}
    (folder / "unet" / f"{STEM}.safetensors.index{variant}.json").write_text(json.dumps(index))
    assert files(folder, half=bool(variant)) == names


def test_an_index_cannot_lead_out_of_its_folder(folder):
    (folder / "elsewhere.safetensors").touch()
    index = folder / "unet" / f"{STEM}.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {"a": "../elsewhere.safetensors"}}))
    with pytest.raises(ValueError, match=r"expected a file elsewhere.safetensors in .*unet, got"):
        files(folder, half=False)
    index.write_text(json.dumps({"weight_map": {}}))
    with pytest.raises(ValueError, match=r"expected a weight_map, got \{\}"):
        files(folder, half=False)


def test_weights_are_counted_without_being_read(folder):
    tensors = {"a": torch.zeros(3, 5), "b": torch.zeros(()), "c": torch.zeros(7)}
    save_file(tensors, folder / "unet" / f"{STEM}.safetensors")
    assert Folder(folder, "Pipeline").parameters("unet", half=True) == 23
