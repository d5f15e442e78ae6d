"""The official weights of latent diffusion: what is read, what is set aside, and what is refused by
name.
"""

import pytest
import torch
from safetensors.torch import save_file

from course_lib.convert import load_official
from course_lib.convert.ldm import LDM_LAYOUTS
from course_lib.papers.ldm import LDM_CONFIGS, LDMConfig, UNet
from course_lib.papers.ldm_autoencoder import (
    AUTOENCODER_CONFIGS,
    AutoencoderConfig,
    AutoencoderKL,
)
from tests.parity import compvis_layout, taming_layouts
from tests.parity.peers import diffusers_autoencoder, diffusers_conditional_unet, randomize

CONFIG = LDMConfig(
    width=8,
    multipliers=(1, 2, 2),
    blocks=1,
    attends=(False, True, False),
    heads=(1, 2, 4),
    context=6,
    linear_projection=False,
    groups=2,
)
AUTOENCODER = AutoencoderConfig(width=4, multipliers=(1, 2, 3), blocks=1, latent=3, groups=2)
CONFIGS = {
    "diffusers": CONFIG,
    "compvis": CONFIG,
    "diffusers autoencoder": AUTOENCODER,
    "compvis autoencoder": AUTOENCODER,
}


@pytest.fixture(scope="module")
def layouts():
    """The weights of every layout, by its name."""
    autoencoder = dict(randomize(diffusers_autoencoder(AUTOENCODER)).state_dict())
    return {
        "diffusers": dict(randomize(diffusers_conditional_unet(CONFIG)).state_dict()),
        "compvis": taming_layouts.random_weights(compvis_layout.unet_shapes(CONFIG)),
        "diffusers autoencoder": autoencoder,
        "compvis autoencoder": compvis_layout.autoencoder(autoencoder, levels=3),
    }


@pytest.fixture(scope="module")
def checkpoint(layouts):
    """A whole checkpoint of CompVis."""
    unet, first = layouts["compvis"], layouts["compvis autoencoder"]
    return {
        **{f"model.diffusion_model.{key}": value for key, value in unet.items()},
        **{f"first_stage_model.{key}": value for key, value in first.items()},
        **compvis_layout.around(),
    }


def numbers(state):
    return torch.cat([value.flatten() for value in state.values()]).sort().values


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


def refusal(weights, config, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("ldm", weights, config, **kwargs)
    return str(raised.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", CONFIGS)
def test_every_number_arrives_and_none_is_made_up(layout, named, layouts):
    config = CONFIGS[layout]
    model = load_official("ldm", layouts[layout], config, layout=layout if named else None)
    assert type(model) is (AutoencoderKL if "autoencoder" in layout else UNet)
    assert model.config == config
    assert torch.equal(numbers(model.state_dict()), numbers(layouts[layout]))


def test_a_preset_by_name():
    weights = taming_layouts.random_weights(compvis_layout.unet_shapes(LDM_CONFIGS["tiny"]))
    assert load_official("ldm/tiny", weights).config == LDM_CONFIGS["tiny"]


def test_where_some_tensors_go(layouts):
    theirs = layouts["compvis"]
    model = load_official("ldm", theirs, CONFIG)
    # Levels 0 and 1 have one block and one convolution each, then comes level 2.
    block = model.down[2].attention.blocks[0]
    name = "input_blocks.3.1.transformer_blocks.0"
    assert torch.equal(
        block.cross_attention.key_value.weight[:16], theirs[f"{name}.attn2.to_k.weight"]
    )
    assert torch.equal(
        block.cross_attention.key_value.weight[16:], theirs[f"{name}.attn2.to_v.weight"]
    )
    assert torch.equal(block.feed_forward.out.bias, theirs[f"{name}.ff.net.2.bias"])
    assert torch.equal(model.down[3].weight, theirs["input_blocks.4.0.op.weight"])
    assert torch.equal(model.middle[1].res.time.bias, theirs["middle_block.2.emb_layers.1.bias"])
    # The doubling stands in the entry of the block before it: after it, or after its transformer.
    assert torch.equal(model.up[2].conv.weight, theirs["output_blocks.1.1.conv.weight"])
    assert torch.equal(model.up[5].conv.weight, theirs["output_blocks.3.2.conv.weight"])
    theirs = layouts["compvis autoencoder"]
    model = load_official("ldm", theirs, AUTOENCODER)
    assert torch.equal(model.to_moments.weight, theirs["quant_conv.weight"])
    assert torch.equal(model.from_latents.bias, theirs["post_quant_conv.bias"])
    assert torch.equal(
        model.decoder.levels[0][0].conv1.weight, theirs["decoder.up.2.block.0.conv1.weight"]
    )


@pytest.mark.parametrize("layout", CONFIGS)
def test_half_precision_is_read(layout, layouts):
    half = {key: value.half() for key, value in layouts[layout].items()}
    model = load_official("ldm", half, CONFIGS[layout])
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_older_names_of_the_autoencoder_s_attention_are_read(layouts):
    weights, old = layouts["diffusers autoencoder"], {}
    names = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    for key, value in weights.items():
        for new, name in names.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value
    # 2 attentions, weights and biases of 4 layers
    assert len(old.keys() - weights.keys()) == 2 * 2 * 4
    assert same(load_official("ldm", old, AUTOENCODER), load_official("ldm", weights, AUTOENCODER))


def wanted(sources):
    """The keys and shapes that a layout's sources ask for."""
    return {key: source.shape for source in sources.values() for key in source.keys}


@pytest.mark.parametrize("name", LDM_CONFIGS)
def test_the_published_files_have_the_keys_that_are_asked_for(name):
    config = LDM_CONFIGS[name]
    with torch.device("meta"):
        model, peer = UNet(config), diffusers_conditional_unet(config)
    shapes = {key: tuple(value.shape) for key, value in peer.state_dict().items()}
    assert wanted(LDM_LAYOUTS["diffusers"].sources(model)) == shapes
    assert wanted(LDM_LAYOUTS["compvis"].sources(model)) == compvis_layout.unet_shapes(config)


@pytest.mark.parametrize("name", AUTOENCODER_CONFIGS)
def test_the_published_autoencoders_have_the_keys_that_are_asked_for(name):
    """CompVis' is taming's autoencoder with twice the channels after the encoder, and no codes."""
    config = AUTOENCODER_CONFIGS[name]
    z = config.latent
    with torch.device("meta"):
        model, peer = AutoencoderKL(config), diffusers_autoencoder(config)
    shapes = taming_layouts.vqgan_shapes(config.network(z))
    shapes |= {
        "encoder.conv_out.weight": (2 * z, *shapes["encoder.conv_out.weight"][1:]),
        "encoder.conv_out.bias": (2 * z,),
        "quant_conv.weight": (2 * z, 2 * z, 1, 1),
        "quant_conv.bias": (2 * z,),
        "post_quant_conv.weight": (z, z, 1, 1),
        "post_quant_conv.bias": (z,),
    }
    del shapes["quantize.embedding.weight"]
    assert wanted(LDM_LAYOUTS["compvis autoencoder"].sources(model)) == shapes
    if not config.attention:
        theirs = {key: tuple(value.shape) for key, value in peer.state_dict().items()}
        assert wanted(LDM_LAYOUTS["diffusers autoencoder"].sources(model)) == theirs


# ---------------------------------------------------------------- a whole checkpoint


@pytest.mark.parametrize(
    ("layout", "config"), [("compvis", CONFIG), ("compvis autoencoder", AUTOENCODER)]
)
def test_a_whole_checkpoint_holds_both(layout, config, checkpoint, layouts):
    model = load_official("ldm", checkpoint, config)
    assert same(model, load_official("ldm", layouts[layout], config))


@pytest.mark.parametrize("ending", ["ckpt", "safetensors"])
def test_a_whole_checkpoint_from_a_file(ending, checkpoint, layouts, tmp_path):
    path = tmp_path / f"sd.{ending}"
    if ending == "ckpt":
        torch.save({"state_dict": checkpoint, "global_step": 470000}, path)
    else:
        save_file(checkpoint, path)
    for layout, config in (("compvis", CONFIG), ("compvis autoencoder", AUTOENCODER)):
        model = load_official("ldm", path, config)
        assert same(model, load_official("ldm", layouts[layout], config))


def test_the_networks_of_the_loss_are_set_aside(layouts):
    first = layouts["compvis autoencoder"]
    whole = {**first, **taming_layouts.loss_weights(), "loss.logvar": torch.zeros(())}
    expected = load_official("ldm", first, AUTOENCODER)
    assert same(load_official("ldm", whole, AUTOENCODER), expected)
    prefixed = {f"first_stage_model.{key}": value for key, value in whole.items()}
    assert same(load_official("ldm", prefixed, AUTOENCODER), expected)


@pytest.mark.parametrize("prefix", ["model.diffusion_model.", "first_stage_model."])
@pytest.mark.parametrize("key", ["{}extra.bias", "betas2", "cond_stage.bias", "loss.x", "model.x"])
def test_what_only_looks_like_the_rest_of_a_checkpoint_is_not(key, prefix, checkpoint):
    config = CONFIG if prefix == "model.diffusion_model." else AUTOENCODER
    weights = {**checkpoint, key.format(prefix): torch.zeros(3)}
    assert refusal(weights, config).endswith(f"not wanted, 1:\n  {key.format('')}")


def test_a_checkpoint_without_the_autoencoder_is_not_one_of_it(checkpoint):
    rest = {k: v for k, v in checkpoint.items() if not k.startswith("first_stage_model.")}
    message = refusal(rest, AUTOENCODER)
    assert message == (
        "expected weights of a AutoencoderKL, got the layout compvis, which is of a UNet"
    )


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_key_is_missed_by_its_name(layout, layouts):
    weights = layouts[layout]
    for key in list(weights)[::17]:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, CONFIGS[layout], layout=layout)
        assert message.endswith(f"missing, 1:\n  {key}"), message


@pytest.mark.parametrize("layout", CONFIGS)
def test_missing_extra_and_misshapen_keys_are_all_listed(layout, layouts):
    weights = dict(layouts[layout])
    first, second, *_ = sorted(key for key in weights if key.endswith("bias"))
    del weights[first]
    weights["ema.decay"] = torch.ones(1)
    weights[second] = torch.zeros(1, 4)
    message = refusal(weights, CONFIGS[layout], layout=layout)
    assert f"missing, 1:\n  {first}" in message and "not wanted, 1:\n  ema.decay" in message
    assert f"misshapen, 1:\n  {second} has shape (1, 4), expected (" in message


@pytest.mark.parametrize("layout", CONFIGS)
def test_weights_of_the_other_network(layout, layouts):
    other = CONFIG if CONFIGS[layout] is AUTOENCODER else AUTOENCODER
    ours, theirs = ("UNet", "AutoencoderKL") if other is CONFIG else ("AutoencoderKL", "UNet")
    assert refusal(layouts[layout], other) == (
        f"expected weights of a {ours}, got the layout {layout}, which is of a {theirs}"
    )


def test_other_sizes(layouts):
    for change, problem in (
        ({"context": 7}, "misshapen"),
        ({"context": None}, "not wanted"),
        ({"linear_projection": True}, "has shape (16, 16, 1, 1), expected (16, 16)"),
        ({"depth": 2}, "missing"),
        ({"attends": (True, True, False)}, "missing"),
        ({"in_channels": 8}, "has shape (8, 4, 3, 3), expected (8, 8, 3, 3)"),
    ):
        for layout in ("diffusers", "compvis"):
            assert problem in refusal(layouts[layout], LDMConfig(**{**vars(CONFIG), **change}))
    with pytest.raises(ValueError, match="these weights are not those of ldm/tiny:\nmissing"):
        load_official("ldm/tiny", layouts["compvis"])


def test_layouts_mixed_and_unknown(layouts):
    both = layouts["diffusers"] | layouts["compvis"]
    assert "recognized diffusers and compvis" in refusal(both, CONFIG)
    assert "recognized none among" in refusal({"conv_in.weight": torch.zeros(8, 4, 3, 3)}, CONFIG)
    assert "layout: expected one of diffusers, compvis, " in refusal(both, CONFIG, layout="keras")
