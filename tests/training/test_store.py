"""Checkpoints, results and the command: what is written, and what is refused."""

import json
from dataclasses import dataclass, replace

import pytest
import safetensors.torch
import torch
from torch import nn

from course_lib import cli
from course_lib.training import Store, load_checkpoint, results, show_checkpoint, train
from course_lib.training.registry import find_recipe
from course_lib.training.store import downsample_curve
from tests.training.toy_recipes import TOY, Denoiser, ToyRecipe


@pytest.fixture
def store(tmp_path):
    store = Store.under(tmp_path)
    train(TOY, "cpu", store=store)
    return store


def checkpoint(store):
    return store.checkpoints / "toy.safetensors"


def test_a_checkpoint_comes_back_with_its_provenance(store):
    trained = train(TOY, "cpu", store=None)
    model, provenance = load_checkpoint(TOY, store=store)
    assert not model.training
    for key, value in trained.model.state_dict().items():
        assert torch.equal(model.state_dict()[key], value), key
    assert provenance["recipe"] == TOY.fields()
    assert provenance["steps"] == 30
    assert provenance["metrics"] == {"weight": pytest.approx(TOY.measure(model)["weight"])}
    assert show_checkpoint(TOY, store).startswith("toy: 30 steps, ")
    assert "weight 1." in show_checkpoint(TOY, store)


def test_results_hold_metrics_curve_and_details(store):
    record = results(TOY, store)
    assert record["metrics"].keys() == {"weight"}
    assert record["details"] == {"list": [1.0, 2.0]}
    assert record["curve"]["step"] == list(range(1, 31))
    assert len(record["curve"]["model"]) == 30
    assert record["provenance"]["torch"] == torch.__version__


def test_half_precision_is_measured_as_it_is_stored(tmp_path):
    store = Store.under(tmp_path)
    recipe = replace(TOY, checkpoint_dtype="float16")
    train(recipe, "cpu", store=store)
    model, provenance = load_checkpoint(recipe, store=store)
    assert next(model.parameters()).dtype == torch.float32
    assert provenance["metrics"]["weight"] == pytest.approx(
        recipe.measure(model)["weight"], rel=1e-7
    )
    assert "F16" in checkpoint(store).read_bytes()[:2000].decode("latin-1")


def test_a_missing_checkpoint_says_how_to_make_it(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no .*toy\.safetensors\. .*course train toy"):
        load_checkpoint(TOY, store=Store.under(tmp_path))
    with pytest.raises(FileNotFoundError, match="course train toy"):
        results(TOY, Store.under(tmp_path))


def test_a_truncated_checkpoint_is_refused(store):
    checkpoint(store).write_bytes(checkpoint(store).read_bytes()[:-50])
    with pytest.raises(ValueError, match=r"truncated or damaged .*course train toy"):
        load_checkpoint(TOY, store=store)


def test_a_renamed_checkpoint_is_refused(store):
    checkpoint(store).rename(store.checkpoints / "other.safetensors")
    with pytest.raises(ValueError, match="expected 'other', got 'toy': was the file renamed"):
        load_checkpoint(replace(TOY, name="other"), store=store)


def test_a_pickle_is_never_loaded(store):
    torch.save({"weight": torch.ones(2)}, checkpoint(store))
    with pytest.raises(ValueError, match="a pickle, which could run any code"):
        load_checkpoint(TOY, store=store)


def test_a_foreign_file_without_provenance_is_refused(store):
    safetensors.torch.save_file({"weight": torch.ones(2)}, checkpoint(store))
    with pytest.raises(ValueError, match="it has no provenance"):
        load_checkpoint(TOY, store=store)


def test_a_checkpoint_of_other_numbers_is_refused(store):
    with pytest.raises(ValueError, match=r"earlier recipe 'toy': steps was 30 and is 99"):
        load_checkpoint(replace(TOY, steps=99), store=store)


def test_a_checkpoint_of_another_schedule_is_refused(store):
    with pytest.raises(ValueError, match="lr_schedule was 'constant' and is 'linear'"):
        load_checkpoint(replace(TOY, lr_schedule="linear"), store=store)


def test_a_checkpoint_from_before_a_field_existed_loads(store):
    earlier = {key: value for key, value in TOY.fields().items() if key != "lr_schedule"}
    metadata = {"course": json.dumps({"name": "toy", "recipe": earlier})}
    tensors = safetensors.torch.load_file(checkpoint(store))
    safetensors.torch.save_file(tensors, checkpoint(store), metadata)
    model, provenance = load_checkpoint(TOY, store=store)
    assert torch.equal(model.state_dict()["0.bias"], tensors["0.bias"])
    assert provenance["recipe"] == earlier


def test_wrong_keys_are_refused(store):
    tensors = safetensors.torch.load_file(checkpoint(store))
    metadata = {"course": json.dumps({"name": "toy", "recipe": TOY.fields()})}
    del tensors["0.bias"]
    safetensors.torch.save_file({**tensors, "extra": torch.ones(1)}, checkpoint(store), metadata)
    with pytest.raises(ValueError, match=r"(?s)does not fit the model of 'toy'.*0\.bias.*extra"):
        load_checkpoint(TOY, store=store)


def test_a_crash_while_writing_leaves_the_old_file(store, monkeypatch):
    paths = [checkpoint(store), store.results / "toy.json", store.training / "toy.safetensors"]
    before = [path.read_bytes() for path in paths]
    monkeypatch.setattr("os.replace", lambda *_: (_ for _ in ()).throw(OSError("the disk is gone")))
    with pytest.raises(OSError, match="gone"):
        train(replace(TOY, seed=1), "cpu", resume=False, store=store)
    assert [path.read_bytes() for path in paths] == before


def test_a_model_too_large_to_keep_fails_before_training(tmp_path):
    @dataclass(frozen=True)
    class Large(ToyRecipe):
        def build(self):
            return Denoiser(nn.Linear(1300, 1300))

    with pytest.raises(ValueError, match=r"at most 6,000,000 bytes, got 6,76\d,\d{3};"):
        train(Large("large", steps=1), "cpu", store=Store.under(tmp_path))


def test_a_downsampled_curve_keeps_the_mean_and_the_last_step():
    curve = downsample_curve({"model": [float(i) for i in range(1000)]}, points=200)
    assert len(curve["step"]) == len(curve["model"]) == 200
    assert curve["step"][-1] == 1000
    assert curve["model"][0] == 2.0
    assert downsample_curve({"model": [1.0, 2.0, 6.0]}, points=2) == {
        "step": [2, 3],
        "model": [1.5, 6.0],
    }


def test_the_command_trains_in_parts_and_prints_what_it_measured(tmp_path, capsys):
    arguments = ["tests.training.toy_recipes:TOY", "--device=cpu", "--folder", str(tmp_path)]
    assert cli.main(["train", *arguments, "--steps=4"]) == 0
    assert "stopped after step 4 of 30" in capsys.readouterr().out
    assert cli.main(["train", *arguments]) == 0
    assert "toy: weight = 1." in capsys.readouterr().out


def test_the_command_reports_bad_input(capsys):
    assert cli.main(["train", "no-such-recipe"]) == 2
    assert "no recipe 'no-such-recipe'" in capsys.readouterr().err
    with pytest.raises(ValueError, match="expected a Recipe at"):
        find_recipe("tests.training.toy_recipes:Denoiser")
