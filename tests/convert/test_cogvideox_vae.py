"""The published layouts of CogVideoX's autoencoder: what goes where, and what is refused."""

import pytest
import torch

from course_lib.convert import load_official
from course_lib.papers.cogvideox_vae import CogVideoXVAE, CogVideoXVAEConfig
from tests.parity.cogvideox_vae_peers import diffusers_vae, sat_key
from tests.parity.peers import randomize

CONFIG = CogVideoXVAEConfig(
    widths=(4, 8, 12), down=((2, 2), (2, 2)), up=((2, 2), (2, 2)), blocks=1, latent=2, groups=4
)
LAYOUTS = ("diffusers autoencoder", "sat autoencoder")


@pytest.fixture(scope="module")
def layouts():
    """The weights of every layout, by its name."""
    weights = dict(randomize(diffusers_vae(CONFIG)).state_dict())
    as_sat = {sat_key(key, CONFIG): value for key, value in weights.items()}
    return dict(zip(LAYOUTS, (weights, as_sat), strict=True))


def numbers(state):
    return torch.cat([value.flatten() for value in state.values()]).sort().values


def refusal(weights, config=CONFIG, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("cogvideox", weights, config, **kwargs)
    return str(raised.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_number_arrives_and_none_is_made_up(layout, named, layouts):
    model = load_official("cogvideox", layouts[layout], CONFIG, layout=layout if named else None)
    assert type(model) is CogVideoXVAE
    assert torch.equal(numbers(model.state_dict()), numbers(layouts[layout]))


def test_where_some_tensors_go(layouts):
    theirs = layouts["diffusers autoencoder"]
    model = load_official("cogvideox", theirs, CONFIG)
    both = model.decoder.stages[1][0].norm2.scale_and_shift.weight
    name = "decoder.up_blocks.1.resnets.0.norm2"
    assert torch.equal(both[:8], theirs[f"{name}.conv_y.conv.weight"])
    assert torch.equal(both[8:], theirs[f"{name}.conv_b.conv.weight"])
    assert torch.equal(
        model.encoder.stages[1][1].conv.bias,
        theirs["encoder.down_blocks.1.downsamplers.0.conv.bias"],
    )

    theirs = layouts["sat autoencoder"]
    model = load_official("cogvideox", theirs, CONFIG)
    assert torch.equal(  # the coarsest stage, which theirs counts last
        model.decoder.stages[0][1].conv2.weight, theirs["decoder.up.2.block.1.conv2.conv.weight"]
    )
    assert torch.equal(
        model.decoder.stages[2][0].skip.weight, theirs["decoder.up.0.block.0.nin_shortcut.weight"]
    )
    assert torch.equal(
        model.decoder.stages[1][2].conv.weight, theirs["decoder.up.1.upsample.conv.weight"]
    )
    assert torch.equal(
        model.encoder.middle[1].norm1.norm.bias, theirs["encoder.mid.block_2.norm1.bias"]
    )
    assert torch.equal(
        model.decoder.norm_out.norm.weight, theirs["decoder.norm_out.norm_layer.weight"]
    )


@pytest.mark.parametrize("layout", LAYOUTS)
def test_half_precision_is_read(layout, layouts):
    half = {key: value.half() for key, value in layouts[layout].items()}
    model = load_official("cogvideox", half, CONFIG)
    assert {value.dtype for value in model.state_dict().values()} == {torch.float32}


def test_the_authors_file_with_its_loss(layouts, tmp_path):
    """3d-vae.pt holds a state of training, with the discriminator and LPIPS."""
    weights = layouts["sat autoencoder"]
    loss = {
        "loss.logvar": torch.zeros(()),
        "loss.perceptual_loss.net.slice1.0.weight": torch.ones(3),
    }
    torch.save({"state_dict": weights | loss}, tmp_path / "3d-vae.pt")
    model = load_official("cogvideox", tmp_path / "3d-vae.pt", CONFIG)
    assert torch.equal(numbers(model.state_dict()), numbers(weights))


def test_weights_lie_channels_last(layouts):
    model = load_official("cogvideox", layouts["diffusers autoencoder"], CONFIG)
    weight = model.encoder.middle[0].conv1.weight
    assert weight.is_contiguous(memory_format=torch.channels_last_3d)


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_key_is_missed_by_its_name(layout, layouts):
    weights = layouts[layout]
    for key in list(weights)[3::20]:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, layout=layout)
        assert message.endswith(f"missing, 1:\n  {key}"), message


@pytest.mark.parametrize("layout", LAYOUTS)
def test_missing_extra_and_misshapen_keys_are_all_listed(layout, layouts):
    weights = dict(layouts[layout])
    del weights["decoder.conv_in.conv.bias"]
    weights["quant_conv.weight"] = torch.ones(1)
    weights["encoder.conv_in.conv.bias"] = torch.zeros(1, 4)
    message = refusal(weights, layout=layout)
    assert (
        "missing, 1:\n  decoder.conv_in.conv.bias\nnot wanted, 1:\n  quant_conv.weight" in message
    )
    assert "misshapen, 1:\n  encoder.conv_in.conv.bias has shape (1, 4), expected (4,)" in message


def test_an_autoencoder_of_images_is_none_of_clips(layouts):
    images = {
        key.replace(".conv.", ".").replace("norm_layer.", ""): value
        for key, value in layouts["diffusers autoencoder"].items()
    }
    assert "expected the keys of one layout" in refusal(images)
    assert "missing" in refusal(images, layout="diffusers autoencoder")


def test_a_loss_is_set_aside_in_the_authors_layout_only(layouts):
    loss = {"loss.logvar": torch.zeros(1)}
    assert "not wanted, 1:\n  loss.logvar" in refusal(layouts["diffusers autoencoder"] | loss)


def test_other_sizes(layouts):
    weights = layouts["diffusers autoencoder"]
    for changes, problem in (
        ({"blocks": 2}, "missing"),
        ({"latent": 3}, "misshapen"),
        ({"widths": (4, 8, 8)}, "misshapen"),
        ({"down": ((2, 2), (2, 1)), "up": ((2, 1), (2, 2))}, "not wanted, 4:"),
        ({"patch": 2}, "encoder.conv_in.conv.weight has shape (4, 3, 3, 3, 3), expected (4, 12"),
    ):
        config = CogVideoXVAEConfig(**{**vars(CONFIG), **changes})
        assert problem in refusal(weights, config)
