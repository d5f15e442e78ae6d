"""Official weights of LVM's tokenizers: what is read, and what is refused by name."""

from dataclasses import replace

import pytest
import torch

from course_lib.convert import load_official
from course_lib.papers.lvm_tokenizer import (
    MuseTokenizer,
    Tokenizer,
    TokenizerConfig,
)
from course_lib.papers.vqgan import VQGANConfig
from tests.parity import lvm_layouts, taming_layouts

FIRST = TokenizerConfig(width=4, multipliers=(1, 2, 3), blocks=2, code_dim=5, num_codes=7, groups=2)
MUSE = VQGANConfig(
    image_size=16,
    width=4,
    multipliers=(1, 2),
    blocks=1,
    attention=(),
    attend_middle=False,
    latent=6,
    code_dim=5,
    num_codes=7,
    groups=2,
)
CONFIGS = {"lvm tokenizer": FIRST, "muse": MUSE}
MODELS = {"lvm tokenizer": Tokenizer, "muse": MuseTokenizer}
STATISTICS = {"quantizer.unused", "quantizer.counts", "quantizer.sums"}


def weights_of(layout, config=None):
    shapes = lvm_layouts.vqvae_shapes if layout == "lvm tokenizer" else taming_layouts.vqgan_shapes
    return taming_layouts.random_weights(shapes(config or CONFIGS[layout]))


@pytest.fixture
def first():
    return weights_of("lvm tokenizer")


@pytest.fixture
def muse():
    return weights_of("muse")


def numbers(state):
    return torch.cat([value.flatten() for value in state.values()]).sort().values


def refusal(weights, config, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("lvm", weights, config, **kwargs)
    return str(raised.value)


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", CONFIGS)
def test_every_number_arrives_and_none_is_made_up(layout, named):
    weights, config = weights_of(layout), CONFIGS[layout]
    model = load_official("lvm", weights, config, layout=layout if named else None)
    assert type(model) is MODELS[layout] and model.config == config
    learnt = {key: value for key, value in model.state_dict().items() if key not in STATISTICS}
    assert torch.equal(numbers(learnt), numbers(weights))


def test_where_some_tensors_go(first):
    model = load_official("lvm", first, FIRST)
    for ours, theirs in (
        (model.quantizer.codebook, "quantizer.embedding.weight"),
        (model.encoder.conv_in.weight, "encoder.conv1.weight"),
        (model.encoder.conv_out.bias, "encoder.conv2.bias"),
        (model.encoder.levels[0][1].conv2.weight, "encoder.blocks.1.conv2.weight"),
        (model.encoder.levels[1][0].skip.weight, "encoder.blocks.2.conv_out.weight"),
        (model.encoder.middle[1].norm1.bias, "encoder.blocks.7.norm1.bias"),
        (model.decoder.middle[0].conv1.weight, "decoder.blocks.0.conv1.weight"),
        (model.decoder.levels[1][0].skip.weight, "decoder.blocks.4.conv_out.weight"),
        (model.decoder.doublings[1].conv.weight, "decoder.up_convs.1.weight"),
        (model.decoder.norm_out.weight, "decoder.norm1.weight"),
        (model.decoder.conv_out.bias, "decoder.conv6.bias"),
    ):
        assert torch.equal(ours, first[theirs]), theirs


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_the_statistics_of_a_training_are_fresh(update, first):
    config = replace(FIRST, update=update)
    model = load_official("lvm", first, config)
    fresh = dict(Tokenizer(config).quantizer.named_buffers())
    fresh.pop("codebook", None)
    assert len(fresh) == {"loss": 1, "ema": 3}[update]
    assert all(torch.equal(getattr(model.quantizer, name), value) for name, value in fresh.items())
    assert torch.equal(model.quantizer.codebook, first["quantizer.embedding.weight"])


def test_a_file_as_published_is_read(first, tmp_path):
    """The release holds its weights in a .pth file."""
    torch.save(first, tmp_path / "xh_ckpt.pth")
    model = load_official("lvm", tmp_path / "xh_ckpt.pth", FIRST)
    assert torch.equal(model.quantizer.codebook, first["quantizer.embedding.weight"])


# ---------------------------------------------------------------- what is refused


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_key_is_missed_by_its_name(layout):
    weights = weights_of(layout)
    for key in list(weights)[::3]:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, CONFIGS[layout], layout=layout)
        assert message.endswith(f"missing, 1:\n  {key}"), message


@pytest.mark.parametrize("layout", CONFIGS)
def test_missing_extra_and_misshapen_keys_are_all_listed(layout):
    weights = weights_of(layout)
    gone, wrong, *_ = sorted(key for key in weights if key.endswith("bias"))
    del weights[gone]
    weights["ema.decay"] = torch.ones(1)
    weights[wrong] = torch.zeros(1, 4)
    message = refusal(weights, CONFIGS[layout], layout=layout)
    assert f"missing, 1:\n  {gone}" in message and "not wanted, 1:\n  ema.decay" in message
    assert f"misshapen, 1:\n  {wrong} has shape (1, 4), expected (" in message


def test_weights_of_the_other_tokenizer(first, muse):
    for weights, config, ours, layout, theirs in (
        (first, MUSE, "MuseTokenizer", "lvm tokenizer", "Tokenizer"),
        (muse, FIRST, "Tokenizer", "muse", "MuseTokenizer"),
    ):
        message = f"expected weights of a {ours}, got the layout {layout}, which is of a {theirs}"
        assert refusal(weights, config) == refusal(weights, config, layout=layout) == message


def test_other_sizes(first, muse):
    for change, problem in (
        ({"multipliers": (1, 2)}, "not wanted"),
        ({"blocks": 1}, "not wanted"),
        ({"blocks": 3}, "missing"),
        ({"num_codes": 8}, "quantizer.embedding.weight has shape (7, 5), expected (8, 5)"),
        ({"code_dim": 6}, "misshapen, 4:"),
    ):
        assert problem in refusal(first, replace(FIRST, **change))
    assert "missing" in refusal(muse, replace(MUSE, attend_middle=True))


def test_a_vqgan_with_attention_is_not_the_release():
    weights = weights_of("muse", replace(MUSE, attend_middle=True))
    message = refusal(weights, MUSE)
    assert "not wanted, 20:\n" in message and "encoder.mid.attn_1.q.weight" in message


def test_the_file_of_the_decoder_misses_the_encoder(first):
    """The release has a class VAEDecoder, too: codebook and decoder, without the encoder."""
    part = {key: value for key, value in first.items() if not key.startswith("encoder.")}
    message = refusal(part, FIRST, layout="lvm tokenizer")
    assert "encoder.conv1.weight" in message and "not wanted" not in message


def test_layouts_mixed_and_unknown(first, muse):
    assert "recognized none among" in refusal(
        {"encoder.conv1.weight": torch.zeros(4, 3, 3, 3)}, FIRST
    )
    known = refusal(first, FIRST, layout="taming")
    assert known.startswith("layout: expected one of ") and known.endswith("for lvm, got 'taming'")
    # With the keys of both, this model's layout is the one; the other's keys are not wanted.
    assert "not wanted" in refusal(first | muse, FIRST)
