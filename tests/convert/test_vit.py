"""ViT's official weights, in three layouts: what is read, and what is refused by name."""

import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from course_lib.convert import load_official
from course_lib.papers.ddpm import DDPM_CONFIGS
from course_lib.papers.vit import VIT_CONFIGS, ViT, ViTConfig
from course_lib.papers.vivit import VIVIT_CONFIGS
from tests.parity import vit_layouts
from tests.parity.peers import diffusers_unet, randomize, transformers_vit, transformers_vivit

SMALL = {
    "image_size": (6, 9),
    "patch_size": 3,
    "width": 8,
    "depth": 2,
    "heads": 2,
    "mlp": 12,
    "num_classes": 5,
}
CONFIG = ViTConfig(**SMALL)
HYBRID = ViTConfig(**{**SMALL, "image_size": (16, 24), "patch_size": 8, "resnet": (1, 2)})
LAYOUTS = ["google", "transformers", "timm"]


def weights_of(layout, config=CONFIG):
    if layout == "transformers":
        return dict(randomize(transformers_vit(config)).state_dict())
    shapes = vit_layouts.google_shapes if layout == "google" else vit_layouts.timm_shapes
    return vit_layouts.random_weights(shapes(config))


@pytest.fixture
def google():
    return weights_of("google")


def arrays(weights):
    return {key: value.numpy() for key, value in weights.items()}


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_number_arrives_and_none_is_made_up(layout, named):
    weights = weights_of(layout)
    model = load_official("vit", weights, CONFIG, layout=layout if named else None)
    assert type(model) is ViT and model.config == CONFIG
    ours, theirs = (
        torch.cat([value.flatten() for value in state.values()]).sort().values
        for state in (model.state_dict(), weights)
    )
    assert torch.equal(ours, theirs)


def test_the_numbers_of_a_hybrid_arrive_too():
    weights = weights_of("google", HYBRID)
    model = load_official("vit", weights, HYBRID)
    assert torch.equal(model.resnet.root.weight, weights["conv_root/kernel"].permute(3, 2, 0, 1))
    assert torch.equal(
        model.resnet.stages[2].norm1.bias, weights["block2/unit2/gn1/bias"].flatten()
    )
    assert torch.equal(
        model.resnet.stages[1].skip[1].weight, weights["block2/unit1/gn_proj/scale"].flatten()
    )


@pytest.mark.parametrize("name", ["ViT-Ti/16", "tiny"])
def test_a_preset_by_name(name):
    weights = weights_of("google", VIT_CONFIGS[name])
    model = load_official(f"vit/{name}", weights)
    assert model.config == VIT_CONFIGS[name]
    assert torch.equal(model.head.weight, weights["head/kernel"].T)


def older_transformers(key):
    """Return a key as it was before transformers 5, and as it is in published files."""
    key = key.replace("vit.layers.", "vit.encoder.layer.")
    for new, old in {
        "q_proj": "attention.query",
        "k_proj": "attention.key",
        "v_proj": "attention.value",
    }.items():
        key = key.replace(f".{new}.", f".{old}.")
    key = key.replace(".o_proj.", ".output.dense.")
    return key.replace(".mlp.fc1.", ".intermediate.dense.").replace(".mlp.fc2.", ".output.dense.")


def test_the_older_names_of_transformers_are_read():
    weights = weights_of("transformers")
    older = {older_transformers(key): value for key, value in weights.items()}
    for key in (
        "vit.encoder.layer.1.attention.attention.value.bias",
        "vit.encoder.layer.0.attention.output.dense.weight",
        "vit.encoder.layer.0.intermediate.dense.weight",
        "vit.encoder.layer.1.output.dense.bias",
        "vit.encoder.layer.0.layernorm_before.weight",
    ):
        assert key in older
    # every key of both layers, of which four are norms
    assert len(older.keys() - weights.keys()) == 2 * 16
    assert same(load_official("vit", older, CONFIG), load_official("vit", weights, CONFIG))
    older["vit.layers.0.mlp.fc2.bias"] = torch.zeros(8)
    assert "newer spelling too: vit.encoder.layer.0.output.dense.bias" in refusal(older)


@pytest.mark.parametrize("layout", ["google", "timm"])
def test_the_representation_layer(layout):
    config = ViTConfig(**SMALL, representation=7)
    weights = weights_of(layout, config)
    model = load_official("vit", weights, config)
    bias = "pre_logits/bias" if layout == "google" else "pre_logits.fc.bias"
    assert torch.equal(model.representation.bias, weights[bias])
    assert f"\n  {bias}" in refusal(weights).split("not wanted, 2:")[1].split("misshapen")[0]
    assert (
        f"\n  {bias}"
        in refusal(weights_of(layout), config).split("missing, 2:")[1].split("misshapen")[0]
    )


@pytest.mark.parametrize("layout", ["google", "timm"])
def test_average_pooling_has_no_class_token(layout):
    config = ViTConfig(**SMALL, pool="average")
    weights = weights_of(layout, config)
    assert load_official("vit", weights, config).cls_token is None
    # the token and its position
    assert "missing, 1:" in refusal(weights) and "misshapen, 1:" in refusal(weights)


@pytest.mark.parametrize("suffix", [".npz", ".compressed.npz", ".safetensors", ".pt"])
def test_files(suffix, google, tmp_path):
    path = tmp_path / f"ViT-B_16{suffix}"
    if suffix.endswith("npz"):
        (np.savez_compressed if "compressed" in suffix else np.savez)(path, **arrays(google))
    else:
        (save_file if suffix == ".safetensors" else torch.save)(google, path)
    expected = load_official("vit", google, CONFIG)
    assert same(load_official("vit", path, CONFIG), expected) and same(
        load_official("vit", str(path), CONFIG), expected
    )


def test_arrays_of_every_make(google):
    """Read-only, as JAX hands them out; with an axis turned round; in column order; in half
    precision.
    """
    expected = load_official("vit", google, CONFIG)
    given = arrays(google)
    given["cls"].setflags(write=False)
    given["head/bias"] = given["head/bias"][::-1].copy()[::-1]
    given["head/kernel"] = np.asfortranarray(given["head/kernel"])
    model = load_official("vit", given, CONFIG)
    assert same(model, expected)
    half = load_official(
        "vit", {key: value.astype(np.float16) for key, value in given.items()}, CONFIG
    )
    assert torch.equal(half.norm.weight, expected.norm.weight.half().float())
    with torch.no_grad():
        model.head.bias.zero_()
    assert given["head/bias"].any()  # the model has numbers of its own


# ---------------------------------------------------------------- what is refused


def refusal(weights, config=CONFIG, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("vit", weights, config, **kwargs)
    return str(raised.value)


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_single_key_is_missed_by_its_name(layout):
    weights = weights_of(layout)
    for key in weights:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, layout=layout)
        assert message.endswith(f"missing, 1:\n  {key}"), message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_extra_and_misshapen_keys_are_all_listed(layout):
    weights = weights_of(layout)
    first, second, third = sorted(key for key in weights if key.endswith("bias"))[:3]
    del weights[first], weights[second]
    weights["ema/decay"] = torch.ones(1)
    weights[third] = torch.zeros(1, 4)
    message = refusal(weights, layout=layout)
    assert (
        f"missing, 2:\n  {first}\n  {second}" in message
        or f"missing, 2:\n  {second}\n  {first}" in message
    )
    assert "not wanted, 1:\n  ema/decay" in message
    assert re.search(
        rf"misshapen, 1:\n  {re.escape(third)} has shape \(1, 4\), expected \(", message
    )


@pytest.mark.parametrize(
    "key,axes,expected",
    [
        ("embedding/kernel", (3, 2, 0, 1), "has shape (8, 3, 3, 3), expected (3, 3, 3, 8)"),
        ("head/kernel", (1, 0), "has shape (5, 8), expected (8, 5)"),
        (
            "Transformer/encoderblock_0/MlpBlock_3/Dense_1/kernel",
            (1, 0),
            "has shape (8, 12), expected (12, 8)",
        ),
        (
            "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/key/kernel",
            (1, 2, 0),
            "has shape (2, 4, 8), expected (8, 2, 4)",
        ),
        (
            "Transformer/encoderblock_1/MultiHeadDotProductAttention_1/out/kernel",
            (2, 0, 1),
            "has shape (8, 2, 4), expected (2, 4, 8)",
        ),
    ],
)
def test_axes_that_are_moved_already(key, axes, expected, google):
    google[key] = google[key].permute(axes)
    assert f"misshapen, 1:\n  {key} {expected}" in refusal(google)


def test_another_number_of_heads(google):
    message = refusal(google, ViTConfig(**{**SMALL, "heads": 4}))
    # three kernels and biases, and the kernel after them, in both layers
    assert "misshapen, 14:" in message
    assert "query/bias has shape (2, 4), expected (4, 2)" in message


def test_group_norms_without_their_axes_of_length_1():
    weights = weights_of("google", HYBRID)
    weights["gn_root/scale"] = weights["gn_root/scale"].flatten()
    assert "gn_root/scale has shape (64,), expected (1, 1, 1, 64)" in refusal(weights, HYBRID)


def test_a_hybrid_is_not_a_plain_model_nor_the_other_way_round(google):
    assert (
        "\n  block2/unit1/conv_proj/kernel"
        in refusal(weights_of("google", HYBRID)).split("not wanted")[1]
    )
    assert "\n  block2/unit1/conv_proj/kernel" in refusal(google, HYBRID).split("not wanted")[0]


@pytest.mark.parametrize("layout", LAYOUTS)
def test_another_depth_and_another_resolution(layout):
    weights = weights_of(layout)
    assert "missing, 1" in refusal(weights, ViTConfig(**{**SMALL, "depth": 3}))
    assert "not wanted, 1" in refusal(weights, ViTConfig(**{**SMALL, "depth": 1}))
    message = refusal(weights, ViTConfig(**{**SMALL, "image_size": (9, 9)}))
    assert "misshapen, 1:" in message and "has shape (1, 7, 8), expected (1, 10, 8)" in message


def test_a_preset_of_another_size(google):
    with pytest.raises(
        ValueError, match=r"not those of vit/tiny:\nmissing, 32:\n  Transformer/encoderblock_2/"
    ) as raised:
        load_official("vit/tiny", google)
    assert "cls has shape (1, 1, 8), expected (1, 1, 64)" in str(raised.value)


def test_weights_of_another_paper():
    for other in (transformers_vivit(VIVIT_CONFIGS["tiny"]), diffusers_unet(DDPM_CONFIGS["tiny"])):
        assert "recognized none among" in refusal(other.state_dict())


@pytest.mark.parametrize("layout", ["transformers", "timm"])
def test_a_hybrid_in_a_layout_that_has_none(layout):
    message = refusal(weights_of(layout), HYBRID)
    assert (
        f"the layout {layout} of vit does not know these tensors of ours: resnet.root.weight"
        in message
    )


def test_what_transformers_does_not_have():
    weights = weights_of("transformers")
    for config, name in (
        (ViTConfig(**SMALL, representation=8), "representation.weight, representation.bias"),
        (ViTConfig(**SMALL, positions="2d"), "positions.rows, positions.columns"),
    ):
        assert refusal(weights, config).endswith(f"does not know these tensors of ours: {name}")
    weights |= {
        "vit.pooler.dense.weight": torch.zeros(8, 8),
        "vit.pooler.dense.bias": torch.zeros(8),
    }
    assert "not wanted, 2:\n  vit.pooler.dense.weight\n  vit.pooler.dense.bias" in refusal(weights)
    bare = {
        key.removeprefix("vit."): value for key, value in weights.items() if key.startswith("vit.")
    }
    assert "recognized none" in refusal(bare)  # ViTModel's, which has no head


def test_what_only_timm_has():
    weights = weights_of("timm", ViTConfig(**SMALL, pool="average"))
    after = {
        key.replace("norm.", "fc_norm.") if key.startswith("norm.") else key: v
        for key, v in weights.items()
    }
    message = refusal(after, ViTConfig(**SMALL, pool="average"))
    assert "missing, 2:\n  norm.weight\n  norm.bias" in message
    assert "not wanted, 2:\n  fc_norm.weight\n  fc_norm.bias" in message
    distilled = weights_of("timm") | {
        "dist_token": torch.zeros(1, 1, 8),
        "head_dist.bias": torch.zeros(5),
    }
    assert "not wanted, 2:\n  dist_token\n  head_dist.bias" in refusal(distilled)


def test_layouts_mixed_and_unknown(google):
    both = google | weights_of("timm")
    assert "recognized google and timm" in refusal(both)
    assert "not wanted" in refusal(both, layout="timm")
    assert "layout: expected one of google, transformers, timm for vit, got 'keras'" in refusal(
        google, layout="keras"
    )
    assert "missing" in refusal(google, layout="timm")


def test_the_state_of_a_training_run(google):
    state = {f"opt/target/{key}": value for key, value in google.items()} | {
        "opt/state/step": torch.ones(1)
    }
    message = refusal(state)
    assert "google by 'embedding/kernel'" in message and "opt/target/Transformer/" in message
    assert "not wanted, 1:\n  opt/state/step" in refusal(google | {"opt/state/step": torch.ones(1)})


TODAY = {
    "MultiHeadDotProductAttention_1": "MultiHeadDotProductAttention_0",
    "LayerNorm_2": "LayerNorm_1",
    "MlpBlock_3": "MlpBlock_0",
}


def test_the_names_of_today_s_flax_are_read(google):
    renamed = {}
    for key, value in google.items():
        renamed["/".join(TODAY.get(part, part) for part in key.split("/"))] = value
    assert renamed.keys() != google.keys()
    assert same(load_official("vit", renamed, CONFIG), load_official("vit", google, CONFIG))
    message = refusal(google | renamed)
    assert "expected each tensor once" in message and "LayerNorm_1" in message
    del renamed["Transformer/encoderblock_0/MlpBlock_0/Dense_0/bias"]
    assert "missing, 1:\n  Transformer/encoderblock_0/MlpBlock_3/Dense_0/bias" in refusal(renamed)


# ---------------------------------------------------------------- files that are refused


@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.999])
def test_a_file_that_is_cut_short(share, google, tmp_path):
    whole, path = tmp_path / "whole.npz", tmp_path / "cut.npz"
    np.savez(whole, **arrays(google))
    path.write_bytes(whole.read_bytes()[: int(share * whole.stat().st_size)])
    assert f"{path} is not a file of weights" in refusal(path)


def test_a_file_with_a_wrong_byte(google, tmp_path):
    path = tmp_path / "wrong.npz"
    np.savez(path, **arrays(google))
    content = bytearray(path.read_bytes())
    content[len(content) // 3] ^= 255
    path.write_bytes(content)
    assert "is not a file of weights: Bad CRC-32" in refusal(path)


def test_a_pickle_in_a_file_is_not_run(google, tmp_path):
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return Path.touch, (sprung,)

    path = tmp_path / "trap.npz"
    np.savez(path, **arrays(google), trap=np.array([Trap()], dtype=object))
    assert "is not a file of weights: Object arrays cannot be loaded" in refusal(path)
    path.write_bytes(np.array([Trap()], dtype=object).dumps())
    assert "is not a file of weights" in refusal(path)
    assert not sprung.exists()
    np.load(path, allow_pickle=True)
    assert sprung.exists()  # it would have


def test_what_is_no_npz(google, tmp_path):
    path = tmp_path / "other.npz"
    assert f"expected a file of weights, got no file at {path}" in refusal(path)
    path.write_text("not weights", encoding="utf-8")
    assert "is not a file of weights" in refusal(path)
    with path.open("wb") as file:
        np.save(file, google["cls"].numpy())  # one array and no names
    assert "is not a file of weights" in refusal(path)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("embedding/kernel", b"no array")
    assert "these are not: embedding/kernel (bytes)" in refusal(path)


@pytest.mark.parametrize("dtype", ["float64", "int32", ">f4", "V2", "complex64"])
def test_arrays_that_are_not_of_a_wanted_type(dtype, google, tmp_path):
    given = arrays(google)
    given["cls"] = np.zeros((1, 1, 8), dtype)
    shown = {"V2": "\\|V2"}.get(dtype, dtype)
    np.savez(tmp_path / "types.npz", **given)
    for source in (given, tmp_path / "types.npz"):
        assert re.search(rf"these are not: cls \({shown}\)$", refusal(source))
