"""Whatever stands in for weights and is none is refused: one ValueError, by name, no code run."""

import os
import traceback

import numpy as np
import pytest
import torch
from safetensors.torch import save, save_file
from torch import nn

from course_lib import zoo
from course_lib.convert import load_official
from tests.parity.peers import diffusers_unet, randomize

pytestmark = [
    pytest.mark.usefixtures("untyped"),
    pytest.mark.filterwarnings(
        "ignore:.*(beta state|prototype|deprecated|TorchScript archive|protocol)"
    ),
]


@pytest.fixture(scope="module")
def official():
    return randomize(diffusers_unet(zoo.find("ddpm/tiny").config)).state_dict()


def refusal(source):
    with pytest.raises(ValueError) as raised:
        load_official("ddpm/tiny", source)
    assert "weights_only" not in "".join(traceback.format_exception(raised.value))
    assert "allow_pickle" not in str(raised.value)
    return str(raised.value)


NAME = "conv_out.weight"
SHAPE = (3, 16, 3, 3)


class Branded(torch.Tensor):
    """A tensor of another library, which may mean anything by its numbers."""


def freed():
    tensor = torch.ones(SHAPE)
    tensor.untyped_storage().resize_(0)
    return tensor


ODD_VALUES = {
    "meta": (lambda: torch.empty(SHAPE, device="meta"), "(torch.float32, on the meta device)"),
    "sparse": (lambda: torch.ones(SHAPE).to_sparse(), "(torch.float32, torch.sparse_coo)"),
    "sparse rows": (lambda: torch.ones(3, 16).to_sparse_csr(), "(torch.float32, torch.sparse_csr)"),
    "nested": (
        lambda: torch.nested.nested_tensor([torch.ones(2), torch.ones(3)]),
        "(torch.float32, nested)",
    ),
    "quantized": (
        lambda: torch.quantize_per_tensor(torch.ones(SHAPE), 0.1, 0, torch.qint8),
        "qint8)",
    ),
    "complex": (lambda: torch.ones(SHAPE, dtype=torch.complex64), "(torch.complex64)"),
    "whole": (lambda: torch.ones(SHAPE, dtype=torch.int32), "(torch.int32)"),
    "yes or no": (lambda: torch.ones(SHAPE, dtype=torch.bool), "(torch.bool)"),
    "eight bits": (lambda: torch.ones(SHAPE).to(torch.float8_e4m3fn), "(torch.float8_e4m3fn)"),
    "another library's": (lambda: torch.ones(SHAPE).as_subclass(Branded), "(Branded)"),
    "not yet made": (lambda: nn.LazyLinear(3).weight, "(UninitializedParameter)"),
    "freed": (freed, "(torch.float32, freed)"),
    "masked": (lambda: np.ma.masked_array(np.ones(SHAPE, np.float32)), "(float32, masked)"),
    "of objects": (lambda: np.full(SHAPE, None), "(object)"),
    "a number": (lambda: 1.0, "(float)"),
    "a list": (lambda: [1.0], "(list)"),
    "nothing": (lambda: None, "(NoneType)"),
    "a layer": (lambda: nn.Linear(2, 2), "(Linear)"),
}


@pytest.mark.parametrize("value", ODD_VALUES)
def test_what_is_no_plain_tensor_of_floats_is_named(official, value):
    make, described = ODD_VALUES[value]
    said = refusal({**official, NAME: make()})
    assert "expected float32, float16 or bfloat16 tensors by name; got some" in said
    assert f": {NAME} (" in said and said.endswith(described)


@pytest.mark.parametrize("number", [float("nan"), float("inf"), -float("inf")])
@pytest.mark.parametrize("kind", [torch.float32, torch.float16, torch.bfloat16, np.float32])
def test_numbers_that_are_none_are_named(official, kind, number):
    weights = {key: value.clone() for key, value in official.items()}
    for name in (NAME, "conv_in.bias"):
        weights[name].view(-1)[-1] = number
    if kind is np.float32:
        weights = {key: value.numpy() for key, value in weights.items()}
    else:
        weights = {key: value.to(kind) for key, value in weights.items()}
    said = refusal(weights)
    assert said.startswith("expected finite weights, got NaN or infinity in")
    assert NAME in said and "conv_in.bias" in said


@pytest.mark.parametrize("key", [3, None, ("conv_out", "weight"), b"conv_out.weight", 1.5, True])
def test_keys_that_are_no_names_are_shown(official, key):
    said = refusal({**official, key: torch.ones(SHAPE)})
    assert said == f"expected names of tensors as keys, got {key!r} ({type(key).__name__})"
    assert refusal({"state_dict": {**official, key: torch.ones(SHAPE)}}) == said


@pytest.mark.parametrize("source", [None, 3, 1.5, [], ("a", "b"), b"weights.pt", {1, 2}, object()])
def test_what_is_neither_a_dict_nor_a_path_is_refused(source):
    kind = type(source).__name__
    assert refusal(source) == (
        f"expected a dict of tensors by name or the path of a file, got {kind}"
    )


def test_a_model_in_place_of_its_weights_is_refused():
    assert refusal(diffusers_unet(zoo.find("ddpm/tiny").config)).endswith("got UNet2DModel")


@pytest.mark.parametrize("name", [None, 3, ["ddpm/tiny"], b"ddpm/tiny"])
def test_names_that_are_no_text_are_refused(official, name):
    for arguments in ((name, official), ("ddpm/tiny", official, None, name or 0)):
        with pytest.raises(ValueError, match=r"expected .*, got "):
            load_official(*arguments)


# ---------------------------------------------------------------- files


def test_what_is_no_file_is_refused(tmp_path):
    assert refusal(tmp_path) == f"expected a file of weights, got a folder at {tmp_path}"
    for path in (tmp_path / "none.pt", str(tmp_path / "none.pt"), "", "zero\0byte", "a" * 5000):
        assert "expected a file of weights, got " in refusal(path)
    os.mkfifo(tmp_path / "pipe.pt")
    assert "got no file at" in refusal(tmp_path / "pipe.pt")


@pytest.mark.parametrize("suffix", [".safetensors", ".pt", ".npz", ".bin", ".ckpt", ""])
def test_files_that_are_empty_cut_off_or_something_else_are_refused(official, tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    if suffix == ".npz":
        np.savez(path, **{key: value.numpy() for key, value in official.items()})
    elif suffix == ".safetensors":
        save_file(official, path)
    else:
        torch.save(official, path)
    whole = path.read_bytes()
    for data in (b"", whole[:4], whole[: len(whole) // 2], whole[:-9], b"\x80" * 99, b"PK" * 50):
        path.write_bytes(data)
        said = refusal(path)
        assert f"{path} is not a file of weights: " in said and len(said.splitlines()) == 1
        assert ("it is empty" in said) == (not data)


class Trap:
    def __reduce__(self):
        return (print, ("the trap has sprung",))


@pytest.mark.parametrize("options", [{}, {"_use_new_zipfile_serialization": False}])
def test_a_pickle_that_calls_something_is_refused_with_its_name(tmp_path, options, capsys):
    torch.save({NAME: Trap()}, tmp_path / "trap.pt", **options)
    said = refusal(tmp_path / "trap.pt")
    assert "this pickle calls print, and reading it could run any code" in said.replace(
        "builtins.", ""
    ).replace("__builtin__.", "")
    assert capsys.readouterr().out == ""


def test_other_things_that_torch_and_numpy_write_are_refused(tmp_path):
    torch.jit.save(torch.jit.trace(nn.Linear(2, 2), torch.ones(1, 2)), tmp_path / "program.pt")
    assert "it is a program (TorchScript)" in refusal(tmp_path / "program.pt")
    torch.save(nn.Linear(2, 2), tmp_path / "layer.pt")
    assert "this pickle calls torch.nn.modules.linear.Linear" in refusal(tmp_path / "layer.pt")
    np.save(tmp_path / "array.npy", np.ones(3))
    (tmp_path / "array.npy").rename(tmp_path / "array.npz")
    assert "is not a file of weights" in refusal(tmp_path / "array.npz")
    np.savez(tmp_path / "objects.npz", a=np.array([Trap()], object))
    assert "Object arrays cannot be loaded" in refusal(tmp_path / "objects.npz")


@pytest.mark.parametrize(
    "name", [b"w\xff.safetensors", "gewichte ä 重み.safetensors".encode(), b"W.SAFETENSORS"]
)
def test_a_file_may_have_any_name(official, tmp_path, name):
    path = tmp_path / os.fsdecode(name)
    path.write_bytes(save(official))
    assert load_official("ddpm/tiny", path).config == zoo.find("ddpm/tiny").config
    path.write_bytes(b"")
    refusal(path).encode()  # can be printed


def test_gradients_and_shared_memory_in_the_weights_stay_outside(official):
    weights = {key: nn.Parameter(value.clone()) for key, value in official.items()}
    model = load_official("ddpm/tiny", weights)
    assert all(p.is_leaf and p.requires_grad and p.grad_fn is None for p in model.parameters())
    assert all(value.grad is None for value in weights.values())
