"""Official weights are read strictly: whatever is not exactly right is refused, and said."""

import pytest
import torch
from safetensors.torch import save_file

from course_lib.convert import load_official
from course_lib.papers import ddpm, improved_ddpm
from course_lib.papers.ddpm import DDPM_CONFIGS, DDPMConfig
from course_lib.papers.improved_ddpm import IMPROVED_DDPM_CONFIGS, ImprovedDDPMConfig
from tests.parity import openai_layout
from tests.parity.peers import diffusers_unet, randomize

TINY = DDPM_CONFIGS["tiny"]
IMPROVED = IMPROVED_DDPM_CONFIGS["tiny"]


@pytest.fixture(scope="module")
def official():
    return randomize(diffusers_unet(TINY)).state_dict()


@pytest.fixture
def weights(official):
    return dict(official)


@pytest.fixture(scope="module")
def openai():
    return {key: torch.randn(shape) for key, shape in openai_layout.shapes(IMPROVED).items()}


def test_a_preset_by_name_is_a_model_of_that_config(weights):
    model = load_official("ddpm/tiny", weights)
    assert type(model) is ddpm.UNet and model.config == TINY
    torch.testing.assert_close(model.stem.weight, weights["conv_in.weight"], rtol=0, atol=0)


def test_a_paper_with_a_config_serves_any_size():
    config = DDPMConfig(
        8, width=8, multipliers=(1, 3), blocks_per_level=2, norm_groups=4, num_classes=3
    )
    model = load_official("ddpm", diffusers_unet(config).state_dict(), config)
    assert model.config == config


@pytest.mark.parametrize("layout", [None, "diffusers", "openai"])
def test_improved_ddpm_reads_both_layouts(layout, openai):
    weights = diffusers_unet(IMPROVED).state_dict() if layout == "diffusers" else openai
    assert type(load_official("improved_ddpm/tiny", weights, layout=layout)) is improved_ddpm.UNet


def test_every_number_arrives_and_none_is_made_up(weights):
    model = load_official("ddpm/tiny", weights)
    ours = torch.cat([value.flatten() for value in model.state_dict().values()]).sort().values
    theirs = torch.cat([value.flatten() for value in weights.values()]).sort().values
    assert torch.equal(ours, theirs)


def test_the_model_does_not_share_memory_with_the_weights(weights):
    before = weights["conv_in.weight"].clone()
    with torch.no_grad():
        for p in load_official("ddpm/tiny", weights).parameters():
            p.zero_()
    assert torch.equal(weights["conv_in.weight"], before)


@pytest.mark.parametrize("suffix", [".safetensors", ".pt"])
def test_files(suffix, weights, tmp_path):
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(weights, path)
    from_file, from_dict = (
        load_official("ddpm/tiny", source).state_dict() for source in (path, weights)
    )
    assert all(torch.equal(from_file[key], value) for key, value in from_dict.items())


def test_older_names_of_the_attention_are_read(weights):
    old = {}
    for key, value in weights.items():
        for new, name in {
            "to_q": "query",
            "to_k": "key",
            "to_v": "value",
            "to_out.0": "proj_attn",
        }.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value
    # 4 attentions, weights and biases of 4 layers
    assert len(old.keys() - weights.keys()) == 4 * 2 * 4
    ours, expected = (load_official("ddpm/tiny", source).state_dict() for source in (old, weights))
    assert all(torch.equal(ours[key], value) for key, value in expected.items())


def test_half_precision_is_widened(weights):
    model = load_official("ddpm/tiny", {key: value.half() for key, value in weights.items()})
    assert model.stem.weight.dtype == torch.float32
    assert torch.equal(model.stem.weight, weights["conv_in.weight"].half().float())


# ---------------------------------------------------------------- what is refused


def refusal(*args, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official(*args, **kwargs)
    return str(raised.value)


def test_missing_extra_and_misshapen_keys_are_all_listed(weights):
    del weights["conv_in.bias"], weights["mid_block.attentions.0.to_k.weight"]
    weights["ema.decay"] = torch.ones(1)
    weights["conv_out.weight"] = torch.zeros(3, 16, 1, 1)
    weights["time_embedding.linear_1.weight"] = weights["time_embedding.linear_1.weight"].reshape(
        16, 64
    )
    message = refusal("ddpm/tiny", weights)
    assert "missing, 2:" in message and "not wanted, 1:" in message and "misshapen, 2:" in message
    for part in (
        "conv_in.bias",
        "mid_block.attentions.0.to_k.weight",
        "ema.decay",
        "conv_out.weight has shape (3, 16, 1, 1), expected (3, 16, 3, 3)",
        "time_embedding.linear_1.weight has shape (16, 64), expected (64, 16)",
    ):
        assert part in message


def test_no_key_of_either_layout_may_be_left_out(openai):
    for name, weights in (
        ("ddpm/tiny", diffusers_unet(TINY).state_dict()),
        ("improved_ddpm/tiny", diffusers_unet(IMPROVED).state_dict()),
        ("improved_ddpm/tiny", openai),
    ):
        layout = "openai" if weights is openai else "diffusers"
        for key in list(weights)[::5]:
            rest = {other: value for other, value in weights.items() if other != key}
            assert f"missing, 1:\n  {key}" in refusal(name, rest, layout=layout)


def test_weights_of_another_size(weights):
    assert "misshapen" in refusal(
        "ddpm", weights, DDPMConfig(16, width=32, multipliers=(1, 2), norm_groups=8)
    )


def test_a_class_conditional_model_wants_its_labels(weights):
    config = DDPMConfig(**{**vars(TINY), "num_classes": 5})
    assert "missing, 1:\n  class_embedding.weight" in refusal("ddpm", weights, config)


def test_unknown_layouts(weights):
    message = refusal("improved_ddpm/tiny", {"stem.weight": torch.zeros(1)})
    assert "recognized none" in message and "openai by 'input_blocks.0.0.weight'" in message
    assert "'time_embedding.linear_1.weight'" in message and "stem.weight" in message
    assert "no keys" in refusal("ddpm/tiny", {})
    assert "layout: expected one of diffusers for ddpm, got 'keras'" in refusal(
        "ddpm/tiny", weights, layout="keras"
    )


def test_a_mixture_of_layouts(openai):
    both = {**openai, **diffusers_unet(IMPROVED).state_dict()}
    assert "recognized openai and diffusers" in refusal("improved_ddpm/tiny", both)
    assert "not wanted" in refusal("improved_ddpm/tiny", both, layout="openai")


def test_ddpm_does_not_read_openai_s_layout(openai):
    """Its network has the same shapes and other paddings, epsilon and time features."""
    assert "recognized none" in refusal("ddpm/tiny", openai)
    assert "layout: expected one of diffusers" in refusal("ddpm/tiny", openai, layout="openai")


def test_a_tensor_in_both_spellings(weights):
    name = "mid_block.attentions.0.{}.weight"
    weights[name.format("query")] = torch.zeros(32, 32)
    assert "newer spelling too: mid_block.attentions.0.query.weight" in refusal(
        "ddpm/tiny", weights
    )


@pytest.mark.parametrize(
    "value", [torch.zeros(16, dtype=torch.long), torch.zeros(16).double(), [0.0] * 16]
)
def test_what_is_no_float_tensor(weights, value):
    weights["conv_in.bias"] = value
    assert "these are not: conv_in.bias (" in refusal("ddpm/tiny", weights)


def test_a_training_state_around_the_weights(weights):
    assert "these are not: model (dict), step (int)" in refusal(
        "ddpm/tiny", {"model": weights, "step": 3}
    )


def test_files_that_are_no_weights(tmp_path):
    assert "expected a file of weights, got no file at" in refusal(
        "ddpm/tiny", tmp_path / "absent.pt"
    )
    for suffix in (".safetensors", ".pt"):
        path = tmp_path / f"text{suffix}"
        path.write_text("not weights", encoding="utf-8")
        assert "is not a file of weights" in refusal("ddpm/tiny", path)
    torch.save([1, 2], tmp_path / "list.pt")
    assert "expected a dict of tensors by name, got list" in refusal(
        "ddpm/tiny", tmp_path / "list.pt"
    )


def test_a_pickle_with_code_in_it_is_not_run(tmp_path):
    class Trap:
        def __reduce__(self):
            return (print, ("the trap has sprung",))

    torch.save({"conv_in.bias": Trap()}, tmp_path / "trap.pt")
    assert "is not a file of weights" in refusal("ddpm/tiny", tmp_path / "trap.pt")


def test_names_and_configs(weights):
    assert "did you mean ddpm/tiny" in refusal("ddpm/tinny", weights)
    assert (
        "name: expected a model of ddpm, improved_ddpm, ldm, lvm, vit, vivit, vqgan, svd,"
        " cogvideox, got 'dcgan'" in refusal("dcgan", weights)
    )
    assert "config: expected DDPMConfig(...) for 'ddpm', got None" in refusal("ddpm", weights)
    assert "config: expected DDPMConfig(...) for 'ddpm', got ImprovedDDPMConfig" in refusal(
        "ddpm", weights, ImprovedDDPMConfig()
    )
    assert "is a preset and brings its config" in refusal("ddpm/tiny", weights, TINY)
