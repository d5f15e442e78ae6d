"""The official weights of Stable Video Diffusion: what is read, set aside, and refused by name."""

import pytest
import torch
from safetensors.torch import save_file

from course_lib.convert import load_official
from course_lib.papers.ldm_autoencoder import AutoencoderConfig
from course_lib.papers.svd import SVDConfig, UNet
from course_lib.papers.svd_decoder import TemporalAutoencoder
from tests.parity.peers import randomize
from tests.parity.svd_peers import (
    as_sgm,
    diffusers_svd,
    diffusers_temporal_autoencoder,
    sgm_autoencoder_key,
    sgm_unet_key,
)

CONFIG = SVDConfig(
    width=32,
    multipliers=(1, 1),
    blocks=1,
    attends=(False, True),
    heads=(1, 2),
    context=6,
    vector=12,
)
AUTOENCODER = AutoencoderConfig(width=32, multipliers=(1, 1), latent=2)
CONFIGS = {
    "diffusers": CONFIG,
    "sgm": CONFIG,
    "diffusers autoencoder": AUTOENCODER,
    "sgm autoencoder": AUTOENCODER,
}


@pytest.fixture(scope="module")
def layouts():
    """The weights of every layout, by its name."""
    unet = dict(randomize(diffusers_svd(CONFIG)).state_dict())
    autoencoder = dict(randomize(diffusers_temporal_autoencoder(AUTOENCODER)).state_dict())
    return {
        "diffusers": unet,
        "sgm": as_sgm(unet, sgm_unet_key, CONFIG),
        "diffusers autoencoder": autoencoder,
        "sgm autoencoder": as_sgm(autoencoder, sgm_autoencoder_key, AUTOENCODER),
    }


@pytest.fixture(scope="module")
def checkpoint(layouts):
    """A whole checkpoint of Stability: with CLIP, a second encoder and a second decoder."""
    around = (
        "conditioner.embedders.0.open_clip.model.visual.proj",
        "conditioner.embedders.3.encoder.decoder.conv_in.weight",
        "conditioner.embedders.3.encoder.post_quant_conv.bias",
        "first_stage_model.encoder.conv_in.weight",
        "model_ema.decay",
    )
    return {
        **layouts["sgm"],
        **layouts["sgm autoencoder"],
        **{key: torch.zeros(2) for key in around},
    }


def bare(key):
    """A key of the U-Net as it is when the U-Net comes by itself."""
    return key.removeprefix("model.diffusion_model.")


def numbers(state):
    return torch.cat([value.flatten() for value in state.values()]).sort().values


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


def refusal(weights, config, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("svd", weights, config, **kwargs)
    return str(raised.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", CONFIGS)
def test_every_number_arrives_and_none_is_made_up(layout, named, layouts):
    config = CONFIGS[layout]
    model = load_official("svd", layouts[layout], config, layout=layout if named else None)
    assert type(model) is (TemporalAutoencoder if "autoencoder" in layout else UNet)
    assert torch.equal(numbers(model.state_dict()), numbers(layouts[layout]))


def test_where_some_tensors_go(layouts):
    theirs = {bare(key): value for key, value in layouts["sgm"].items()}
    model = load_official("svd", layouts["sgm"], CONFIG)
    attention, name = model.down[2].attention, "input_blocks.3.1"
    block = attention.temporal_blocks[0]
    assert torch.equal(
        block.self_attention.key_value.weight[32:], theirs[f"{name}.time_stack.0.attn1.to_v.weight"]
    )
    assert torch.equal(
        block.feed_forward_in.out.bias, theirs[f"{name}.time_stack.0.ff_in.net.2.bias"]
    )
    assert torch.equal(attention.mix, theirs[f"{name}.time_mixer.mix_factor"])
    assert torch.equal(attention.frame_embed[2].bias, theirs[f"{name}.time_pos_embed.2.bias"])
    assert torch.equal(model.down[2].mix, theirs["input_blocks.3.0.time_mixer.mix_factor"])
    assert torch.equal(
        model.middle[1].temporal_res.conv1.weight[..., None],
        theirs["middle_block.2.time_stack.in_layers.2.weight"],
    )
    assert torch.equal(model.vector_embed[0].bias, theirs["label_emb.0.0.bias"])
    assert torch.equal(model.up[2].conv.bias, theirs["output_blocks.1.2.conv.bias"])

    theirs = layouts["sgm autoencoder"]
    model, decoder = load_official("svd", theirs, AUTOENCODER), "first_stage_model.decoder"
    block = model.decoder.levels[0][2]  # the coarsest level, which theirs counts last
    assert torch.equal(
        block.temporal.conv2.bias, theirs[f"{decoder}.up.1.block.1.time_stack.out_layers.3.bias"]
    )
    assert torch.equal(block.mix, theirs[f"{decoder}.up.1.block.1.mix_factor"])
    assert torch.equal(
        model.decoder.time_conv_out.bias, theirs[f"{decoder}.conv_out.time_mix_conv.bias"]
    )
    assert torch.equal(
        model.to_moments.weight, theirs["conditioner.embedders.3.encoder.quant_conv.weight"]
    )


@pytest.mark.parametrize("layout", CONFIGS)
def test_half_precision_is_read(layout, layouts):
    half = {key: value.half() for key, value in layouts[layout].items()}
    model = load_official("svd", half, CONFIGS[layout])
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_a_unet_of_stability_without_its_prefix(layouts):
    alone = {bare(key): value for key, value in layouts["sgm"].items()}
    assert same(load_official("svd", alone, CONFIG), load_official("svd", layouts["sgm"], CONFIG))


@pytest.mark.parametrize("layout", ["sgm", "sgm autoencoder"])
def test_a_whole_checkpoint_holds_both(layout, checkpoint, layouts, tmp_path):
    expected = load_official("svd", layouts[layout], CONFIGS[layout])
    assert same(load_official("svd", checkpoint, CONFIGS[layout]), expected)
    save_file(checkpoint, tmp_path / "svd.safetensors")
    assert same(load_official("svd", tmp_path / "svd.safetensors", CONFIGS[layout]), expected)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_key_is_missed_by_its_name(layout, layouts):
    weights = layouts[layout]
    for key in list(weights)[3::90]:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, CONFIGS[layout], layout=layout)
        assert message.endswith(f"missing, 1:\n  {bare(key)}"), message


@pytest.mark.parametrize("layout", CONFIGS)
def test_missing_extra_and_misshapen_keys_are_all_listed(layout, layouts):
    weights = dict(layouts[layout])
    first, second, *_ = sorted(key for key in weights if key.endswith("mix_factor"))
    del weights[first]
    weights["ema.decay"] = torch.ones(1)
    weights[second] = torch.zeros(1, 4)
    message = refusal(weights, CONFIGS[layout], layout=layout)
    assert f"missing, 1:\n  {bare(first)}\nnot wanted, 1:\n  ema.decay" in message
    assert f"misshapen, 1:\n  {bare(second)} has shape (1, 4), expected (1,)" in message


def test_the_decoder_of_images_is_no_decoder_of_clips(checkpoint):
    """svd_image_decoder.safetensors."""
    images = {
        key: value
        for key, value in checkpoint.items()
        if not any(part in key for part in ("decoder.conv_out.time", ".mix_factor", ".time_stack."))
        or key.startswith("model.")
    }
    message = refusal(images, AUTOENCODER)
    assert "expected weights of a TemporalAutoencoder, got the layout sgm, which is of a UNet" in (
        message
    )
    assert "missing" in refusal(images, AUTOENCODER, layout="sgm autoencoder")
    load_official("svd", images, CONFIG)


def test_an_image_model_is_no_clip_model(layouts):
    spatial = {key: value for key, value in layouts["sgm"].items() if "time_" not in key}
    message = refusal(spatial, CONFIG)
    assert "missing" in message and "input_blocks.1.0.time_stack.in_layers.0.weight" in message


def test_other_sizes(layouts):
    for change, problem in (
        ({"depth": 2}, "missing"),
        ({"vector": None}, "not wanted, 4:"),
        ({"vector": 18}, "misshapen, 1:\n  add_embedding.linear_1.weight has shape"),
        ({"in_channels": 9}, "misshapen, 1:\n  conv_in.weight has shape (32, 8, 3, 3), expected"),
    ):
        config = SVDConfig(**{**vars(CONFIG), **change})
        assert problem in refusal(layouts["diffusers"], config)
