"""The official weights of CogVideoX's transformer: what is read, set aside, refused by name."""

from dataclasses import replace

import pytest
import torch
from safetensors.torch import save_file

from course_lib.convert import load_official
from course_lib.papers.cogvideox import CogVideoXConfig, Transformer
from tests.parity.cogvideox_peers import as_sat, diffusers_transformer
from tests.parity.peers import randomize

CONFIG = CogVideoXConfig(
    in_channels=6,
    out_channels=3,
    depth=2,
    heads=2,
    head_width=16,
    text_width=5,
    text_length=3,
    time_width=7,
    learned_positions=True,
    latent=(2, 4, 6),
)
NEWER = replace(CONFIG, learned_positions=False, temporal_patch=2, offset=True)
PREFIX = "model.diffusion_model."


@pytest.fixture(scope="module")
def layouts():
    """The weights of every layout, by its name."""
    weights = dict(randomize(diffusers_transformer(CONFIG)).state_dict())
    return {"diffusers": weights, "sat": as_sat(weights)}


def numbers(state):
    return torch.cat([value.flatten() for value in state.values()]).sort().values


def refusal(weights, config=CONFIG, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("cogvideox", weights, config, **kwargs)
    return str(raised.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", ["diffusers", "sat"])
def test_every_number_arrives_and_none_is_made_up(layout, named, layouts):
    model = load_official("cogvideox", layouts[layout], CONFIG, layout if named else None)
    assert type(model) is Transformer
    assert torch.equal(numbers(model.state_dict()), numbers(layouts[layout]))


def test_where_some_tensors_go(layouts):
    theirs, model = layouts["sat"], load_official("cogvideox", layouts["sat"], CONFIG)
    block, d = model.blocks[1], CONFIG.width
    qkv = theirs[f"{PREFIX}transformer.layers.1.attention.query_key_value.weight"]
    assert torch.equal(block.attention.key.weight, qkv[d : 2 * d])
    experts = theirs[f"{PREFIX}mixins.adaln_layer.adaLN_modulations.1.1.bias"].view(12, d)
    assert torch.equal(block.experts1.bias.view(6, d), experts[[0, 1, 2, 6, 7, 8]])
    assert torch.equal(block.experts2.bias.view(6, d), experts[[3, 4, 5, 9, 10, 11]])
    kernel = layouts["diffusers"]["patch_embed.proj.weight"]
    assert kernel.shape == (d, 6, 2, 2)
    assert torch.equal(model.patch_embed.weight, kernel.flatten(1))
    assert torch.equal(model.positions, layouts["diffusers"]["patch_embed.pos_embedding"])


@pytest.mark.parametrize("layout", ["diffusers", "sat"])
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_read(layout, dtype, layouts):
    half = {key: value.to(dtype) for key, value in layouts[layout].items()}
    model = load_official("cogvideox", half, CONFIG)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_boxes_of_frames_and_the_offset():
    weights = randomize(diffusers_transformer(NEWER)).state_dict()
    model = load_official("cogvideox", weights, NEWER)
    assert torch.equal(model.patch_embed.weight, weights["patch_embed.proj.weight"])
    assert torch.equal(model.offset_embed[2].bias, weights["ofs_embedding.linear_2.bias"])
    sat = load_official("cogvideox", as_sat(weights), NEWER)
    assert torch.equal(sat.offset_embed[0].weight, weights["ofs_embedding.linear_1.weight"])


def test_the_authors_file_as_it_is_saved(layouts, tmp_path):
    """A pickle of DeepSpeed with all networks, and tables that are not learned."""
    weights = dict(layouts["sat"])
    around = (
        "first_stage_model.encoder.conv_in.conv.weight",
        "conditioner.embedders.0.transformer.shared.weight",
        f"{PREFIX}mixins.pos_embed.freqs_sin",
        f"{PREFIX}mixins.pos_embed.freqs_cos",
    )
    weights |= {key: torch.zeros(2) for key in around}
    torch.save({"module": weights, "iteration": 3}, tmp_path / "mp_rank_00_model_states.pt")
    model = load_official("cogvideox", tmp_path / "mp_rank_00_model_states.pt", CONFIG)
    expected = load_official("cogvideox", layouts["diffusers"], CONFIG).state_dict()
    assert all(torch.equal(value, expected[key]) for key, value in model.state_dict().items())


def test_a_table_of_sines_is_set_aside(layouts):
    config = replace(CONFIG, learned_positions=False, positions="sincos")
    model = load_official("cogvideox", layouts["sat"], config)
    assert model.positions is None
    assert "not wanted, 1:\n  patch_embed.pos_embedding" in refusal(layouts["diffusers"], config)


def test_a_transformer_without_its_prefix_and_a_file(layouts, tmp_path):
    alone = {key.removeprefix(PREFIX): value for key, value in layouts["sat"].items()}
    save_file(alone, tmp_path / "transformer.safetensors")
    model = load_official("cogvideox", tmp_path / "transformer.safetensors", CONFIG)
    assert torch.equal(numbers(model.state_dict()), numbers(alone))


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("layout", ["diffusers", "sat"])
def test_a_key_is_missed_by_its_name(layout, layouts):
    weights = layouts[layout]
    for key in list(weights)[2::7]:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, layout=layout)
        assert message.endswith(f"missing, 1:\n  {key.removeprefix(PREFIX)}"), message


@pytest.mark.parametrize("layout", ["diffusers", "sat"])
def test_missing_extra_and_misshapen_keys_are_all_listed(layout, layouts):
    weights = dict(layouts[layout])
    first, second, *_ = sorted(key for key in weights if key.endswith(".bias"))
    del weights[first]
    weights["ema.decay"] = torch.ones(1)
    weights[second] = torch.zeros(1, 4)
    message = refusal(weights, layout=layout)
    first, second = first.removeprefix(PREFIX), second.removeprefix(PREFIX)
    assert f"missing, 1:\n  {first}\nnot wanted, 1:\n  ema.decay" in message
    assert f"misshapen, 1:\n  {second} has shape (1, 4), expected" in message


def test_other_configs(layouts):
    for change, problem in (
        ({"depth": 3}, "missing"),
        ({"depth": 1}, "not wanted"),
        ({"offset": True}, "missing, 4:\n  ofs_embedding.linear_1.weight"),
        ({"learned_positions": False}, "not wanted, 1:\n  patch_embed.pos_embedding"),
        ({"in_channels": 3}, "patch_embed.proj.weight has shape (32, 6, 2, 2), expected (32, 3"),
        ({"latent": (3, 4, 6)}, "patch_embed.pos_embedding has shape (1, 15, 32), expected (1, 21"),
        ({"heads": 1, "head_width": 32}, "attn1.norm_q.weight has shape (16,), expected (32,)"),
        ({"experts": False}, "experts: expected a config with them"),
    ):
        assert problem in refusal(layouts["diffusers"], replace(CONFIG, **change)), change


def test_an_image_model_is_no_text_model(layouts):
    config = replace(CONFIG, in_channels=3)
    assert "mixins.patch_embed.proj.weight has shape" in refusal(layouts["sat"], config)


def test_an_autoencoder_is_no_transformer(layouts):
    other = {"encoder.down.0.block.0.conv1.conv.weight": torch.zeros(1)}
    assert "expected weights of a CogVideoXVAE, got the layout diffusers" in _refused_as_vae(
        layouts
    )
    assert "got the layout sat autoencoder, which is of a CogVideoXVAE" in refusal(other)


def _refused_as_vae(layouts):
    with pytest.raises(ValueError) as raised:
        load_official("cogvideox/VAE-tiny", layouts["diffusers"])
    return str(raised.value)
