"""ViViT's official weights, Model 1's: what is read, and what is refused by name."""

import pytest
import torch
from safetensors.torch import save_file

from course_lib.convert import load_official
from course_lib.papers.vit import VIT_CONFIGS
from course_lib.papers.vivit import VIVIT_CONFIGS, ViViT, ViViTConfig
from tests.parity.peers import randomize, transformers_vit, transformers_vivit

SMALL = {
    "frames": 4,
    "image_size": (6, 9),
    "tubelet": (2, 3, 3),
    "width": 8,
    "depth": 2,
    "heads": 2,
    "mlp": 12,
}
CONFIG = ViViTConfig(1, **SMALL, num_classes=5)


@pytest.fixture(scope="module")
def official():
    return randomize(transformers_vivit(CONFIG)).state_dict()


@pytest.fixture
def weights(official):
    return dict(official)


def refusal(weights, config=CONFIG, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("vivit", weights, config, **kwargs)
    return str(raised.value)


def test_every_number_arrives_and_none_is_made_up(weights):
    model = load_official("vivit", weights, CONFIG)
    assert type(model) is ViViT and model.config == CONFIG
    ours, theirs = (
        torch.cat([value.flatten() for value in state.values()]).sort().values
        for state in (model.state_dict(), weights)
    )
    assert torch.equal(ours, theirs)
    kernel = weights["vivit.embeddings.patch_embeddings.projection.weight"]
    assert torch.equal(model.tubelet_embed.weight, kernel)


def test_a_preset_by_name_from_a_file(tmp_path):
    weights = randomize(transformers_vivit(VIVIT_CONFIGS["tiny"])).state_dict()
    save_file(weights, tmp_path / "vivit.safetensors")
    model = load_official("vivit/tiny", tmp_path / "vivit.safetensors")
    assert model.config == VIVIT_CONFIGS["tiny"] and torch.equal(
        model.head.bias, weights["classifier.bias"]
    )


def test_the_older_names_are_read(weights):
    names = {
        ".layers.": ".encoder.layer.",
        ".q_proj.": ".attention.query.",
        ".k_proj.": ".attention.key.",
        ".v_proj.": ".attention.value.",
        ".o_proj.": ".output.dense.",
        ".mlp.fc1.": ".intermediate.dense.",
        ".mlp.fc2.": ".output.dense.",
    }
    older = {}
    for key, value in weights.items():
        for new, old in names.items():
            key = key.replace(new, old)
        older[key] = value
    assert "vivit.encoder.layer.0.attention.attention.query.weight" in older
    assert len(older.keys() - weights.keys()) == 2 * 16
    ours, expected = (
        load_official("vivit", each, CONFIG).state_dict() for each in (older, weights)
    )
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


def test_every_single_key_is_missed_by_its_name(weights):
    for key in weights:
        rest = {other: value for other, value in weights.items() if other != key}
        assert refusal(rest, layout="transformers").endswith(f"missing, 1:\n  {key}")


def test_missing_extra_and_misshapen_keys_are_all_listed(weights):
    del weights["classifier.bias"], weights["vivit.layers.1.attention.k_proj.weight"]
    weights["vivit.pooler.dense.bias"] = torch.zeros(8)
    weights["vivit.embeddings.cls_token"] = torch.zeros(1, 8)
    message = refusal(weights)
    assert (
        "missing, 2:" in message
        and "classifier.bias" in message
        and "layers.1.attention.k_proj.weight" in message
    )
    assert "not wanted, 1:\n  vivit.pooler.dense.bias" in message
    assert (
        "misshapen, 1:\n  vivit.embeddings.cls_token has shape (1, 8), expected (1, 1, 8)"
        in message
    )


def test_another_size(weights):
    message = refusal(weights, ViViTConfig(1, **{**SMALL, "frames": 8}, num_classes=5))
    assert message.endswith(
        "vivit.embeddings.position_embeddings has shape (1, 13, 8), expected (1, 25, 8)"
    )
    message = refusal(weights, ViViTConfig(1, **{**SMALL, "tubelet": (1, 3, 3)}, num_classes=5))
    assert "projection.weight has shape (8, 3, 2, 3, 3), expected (8, 3, 1, 3, 3)" in message


@pytest.mark.parametrize(
    "model,expected",
    [
        (2, "does not know these tensors of ours: encoder.spatial.cls_token"),
        (3, "encoder.blocks.0.norm_time.weight"),
        (4, "not wanted, 1:\n  vivit.embeddings.cls_token"),
    ],
)
def test_the_other_three_models(model, expected, weights):
    """Model 4 has Model 1's layers; it is its missing class token that gives it away."""
    assert expected in refusal(weights, ViViTConfig(model, **SMALL, num_classes=5))


def test_the_weights_of_an_image_model():
    message = refusal(transformers_vit(VIT_CONFIGS["tiny"]).state_dict())
    assert (
        "recognized none among" in message
        and "vivit.embeddings.patch_embeddings.projection.weight" in message
    )
