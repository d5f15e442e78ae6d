"""VQGAN's and its transformer's official weights: what is read, what is set aside, and what is
refused by name.
"""

import sys
import types

import pytest
import torch

from course_lib.convert import load_official
from course_lib.convert.vqgan import diffusers_sources
from course_lib.nn.attention import SpatialAttention
from course_lib.papers.vqgan import (
    TRANSFORMER_CONFIGS,
    VQGAN,
    VQGAN_CONFIGS,
    Transformer,
    TransformerConfig,
    VQGANConfig,
)
from tests.parity import taming_layouts
from tests.parity.peers import diffusers_vqmodel, randomize

CONFIG = VQGANConfig(
    image_size=16,
    width=4,
    multipliers=(1, 2),
    blocks=1,
    attention=(16,),
    latent=6,
    code_dim=5,
    num_codes=7,
    groups=2,
)
GPT = TransformerConfig(vocabulary=11, length=9, depth=2, heads=2, width=8)
CONFIGS = {"taming": CONFIG, "diffusers": CONFIG, "taming transformer": GPT}
STATISTICS = {"quantizer.unused", "quantizer.counts", "quantizer.sums"}


def weights_of(layout, config=None):
    config = config or CONFIGS[layout]
    if layout == "diffusers":
        return dict(randomize(diffusers_vqmodel(config)).state_dict())
    shapes = (
        taming_layouts.vqgan_shapes if layout == "taming" else taming_layouts.transformer_shapes
    )
    return taming_layouts.random_weights(shapes(config))


@pytest.fixture
def taming():
    return weights_of("taming")


@pytest.fixture
def gpt():
    return weights_of("taming transformer")


def numbers(state):
    return torch.cat([value.flatten() for value in state.values()]).sort().values


def same(one, other):
    return all(
        torch.equal(value, other.state_dict()[key]) for key, value in one.state_dict().items()
    )


# ---------------------------------------------------------------- what is read


@pytest.mark.parametrize("named", [True, False], ids=["named", "recognized"])
@pytest.mark.parametrize("layout", CONFIGS)
def test_every_number_arrives_and_none_is_made_up(layout, named):
    weights, config = weights_of(layout), CONFIGS[layout]
    model = load_official("vqgan", weights, config, layout=layout if named else None)
    assert (
        type(model) is (Transformer if layout == "taming transformer" else VQGAN)
        and model.config == config
    )
    learnt = {key: value for key, value in model.state_dict().items() if key not in STATISTICS}
    assert torch.equal(numbers(learnt), numbers(weights))


@pytest.mark.parametrize(
    ("name", "layout"),
    [("tiny", "taming"), ("tiny", "diffusers"), ("transformer-tiny", "taming transformer")],
)
def test_a_preset_by_name(name, layout):
    config = {**VQGAN_CONFIGS, **TRANSFORMER_CONFIGS}[name]
    model = load_official(f"vqgan/{name}", weights_of(layout, config))
    assert model.config == config


def test_where_some_tensors_go(taming, gpt):
    model = load_official("vqgan", taming, CONFIG)
    assert torch.equal(model.quantizer.codebook, taming["quantize.embedding.weight"])
    assert torch.equal(model.to_codes.weight, taming["quant_conv.weight"])
    assert torch.equal(model.from_codes.bias, taming["post_quant_conv.bias"])
    assert torch.equal(
        model.encoder.levels[0][2].conv.weight, taming["encoder.down.0.downsample.conv.weight"]
    )
    assert torch.equal(
        model.decoder.levels[0][4].conv.weight, taming["decoder.up.1.upsample.conv.weight"]
    )
    assert torch.equal(
        model.encoder.levels[0][1].qkv.weight[4:8], taming["encoder.down.0.attn.0.k.weight"]
    )
    model = load_official("vqgan", gpt, GPT)
    assert torch.equal(
        model.blocks[1].qkv.weight[:8], gpt["transformer.blocks.1.attn.query.weight"]
    )
    assert torch.equal(model.blocks[1].qkv.bias[16:], gpt["transformer.blocks.1.attn.value.bias"])
    assert not torch.equal(model.head.weight, model.tokens.weight)


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_the_statistics_of_a_training_are_fresh(update, taming):
    config = VQGANConfig(**{**vars(CONFIG), "update": update})
    model = load_official("vqgan", taming, config)
    fresh = dict(VQGAN(config).quantizer.named_buffers())
    fresh.pop("codebook", None)
    assert len(fresh) == {"loss": 1, "ema": 3}[update]
    assert all(torch.equal(getattr(model.quantizer, name), value) for name, value in fresh.items())
    assert torch.equal(model.quantizer.codebook, taming["quantize.embedding.weight"])


def test_linear_layers_of_diffusers_are_those_of_our_attention_by_its_class():
    model = VQGAN(CONFIG)
    attentions = [
        name for name, module in model.named_modules() if isinstance(module, SpatialAttention)
    ]
    expected = {f"{name}.{layer}.weight" for name in attentions for layer in ("qkv", "out")}
    sources = diffusers_sources(model)
    linear = {name for name, source in sources.items() if source.axes.endswith("columns 1 1")}
    assert linear == expected and len(attentions) > 2


def test_older_names_of_the_attention_are_read():
    weights, old = weights_of("diffusers"), {}
    for key, value in weights.items():
        for new, name in {
            "to_q": "query",
            "to_k": "key",
            "to_v": "value",
            "to_out.0": "proj_attn",
        }.items():
            key = key.replace(f".{new}.", f".{name}.")
        old[key] = value
    # 5 attentions, weights and biases of 4 layers
    assert len(old.keys() - weights.keys()) == 5 * 2 * 4
    assert same(load_official("vqgan", old, CONFIG), load_official("vqgan", weights, CONFIG))


# ---------------------------------------------------------------- what is set aside


def test_the_networks_of_the_loss_are_set_aside(taming):
    whole = {**taming, **taming_layouts.loss_weights()}
    assert any(value.dtype == torch.int64 for value in whole.values())
    assert same(load_official("vqgan", whole, CONFIG), load_official("vqgan", taming, CONFIG))


@pytest.mark.parametrize(
    "key", ["loss.logvar", "losses.discriminator.main.0.bias", "loss.weight", "discriminator.bias"]
)
def test_what_only_looks_like_the_loss_is_not(key, taming):
    taming[key] = torch.zeros(3)
    assert refusal(taming).endswith(f"not wanted, 1:\n  {key}")


def test_diffusers_has_no_loss():
    weights = {
        **weights_of("diffusers"),
        "loss.discriminator.main.0.weight": torch.zeros(64, 3, 4, 4),
    }
    assert refusal(weights).endswith("not wanted, 1:\n  loss.discriminator.main.0.weight")


def around(taming):
    """Return what surrounds the GPT in a Net2NetTransformer."""
    first = {
        f"first_stage_model.{key}": value
        for key, value in {**taming, **taming_layouts.loss_weights()}.items()
    }
    condition = {f"cond_stage_model.{key}": value for key, value in taming.items()}
    return {**first, **condition, **taming_layouts.masks(GPT)}


def test_what_stands_around_the_gpt_is_set_aside(taming, gpt):
    whole = {**around(taming), **gpt}
    assert same(load_official("vqgan", whole, GPT), load_official("vqgan", gpt, GPT))


def test_a_mask_that_is_not_causal_is_refused(gpt):
    message = refusal({**gpt, **taming_layouts.masks(GPT, unmasked=3)}, GPT)
    assert message.endswith(
        "not wanted, 2:\n  transformer.blocks.0.attn.mask\n  transformer.blocks.1.attn.mask"
    )
    gpt["transformer.blocks.1.attn.mask"] = torch.ones(9)
    assert refusal(gpt, GPT).endswith("not wanted, 1:\n  transformer.blocks.1.attn.mask")
    gpt["transformer.attn.mask"] = gpt.pop("transformer.blocks.1.attn.mask")
    assert refusal(gpt, GPT).endswith("not wanted, 1:\n  transformer.attn.mask")


def test_another_order_of_the_codes_is_refused(gpt):
    """A permuter other than the identity brings its order along."""
    gpt["permuter.forward_shuffle_idx"] = torch.arange(256)
    assert "these are not: permuter.forward_shuffle_idx (torch.int64)" in refusal(gpt, GPT)


# ---------------------------------------------------------------- files


@pytest.fixture
def lightning(monkeypatch, tmp_path):
    """Write weights as PyTorch Lightning did: beside them, under its class, the state of a
    callback.

    Lightning is not installed; the class is there for as long as the file is written.
    """

    def write(weights, name):
        package = "pytorch_lightning.callbacks.model_checkpoint"
        callback = type(name, (), {"__module__": package})
        state = {
            "epoch": 3,
            "callbacks": {
                callback: {"monitor": "val/rec_loss", "best_model_score": torch.tensor(0.5)}
            },
            "optimizer_states": [
                {
                    "state": {0: {"step": 5, "exp_avg": torch.zeros(3)}},
                    "param_groups": [{"lr": 1.0}],
                }
            ],
            "state_dict": weights,
        }
        with monkeypatch.context() as patch:
            for parent in ("pytorch_lightning", "pytorch_lightning.callbacks", package):
                patch.setitem(sys.modules, parent, types.ModuleType(parent))
            setattr(sys.modules[package], name, callback)
            torch.save(state, tmp_path / "last.ckpt")
        return tmp_path / "last.ckpt"

    return write


def test_a_checkpoint_of_lightning_is_read(taming, lightning):
    """As the published last.ckpt: the state of a callback is filed under its class."""
    whole = {**taming, **taming_layouts.loss_weights()}
    path = lightning(whole, "ModelCheckpoint")
    assert "pytorch_lightning" not in sys.modules
    with pytest.raises(
        Exception, match=r"pytorch_lightning\.callbacks\.model_checkpoint\.ModelCheckpoint"
    ):
        torch.load(path, weights_only=True)
    assert same(load_official("vqgan", path, CONFIG), load_official("vqgan", taming, CONFIG))
    # The class is only let in while we read a file.
    with pytest.raises(Exception, match="ModelCheckpoint"):
        torch.load(path, weights_only=True)


def test_other_classes_are_not_let_in(taming, lightning):
    path = lightning(taming, "EarlyStopping")
    assert f"{path} is not a file of weights" in refusal(path)


def test_code_beside_the_weights_is_not_run(taming, tmp_path):
    sprung = tmp_path / "sprung"

    class Trap:
        def __reduce__(self):
            return type(sprung).touch, (sprung,)

    path = tmp_path / "last.ckpt"
    torch.save({"callbacks": Trap(), "state_dict": taming}, path)
    assert f"{path} is not a file of weights" in refusal(path)
    assert not sprung.exists()
    torch.load(path, weights_only=False)
    assert sprung.exists()  # it would have


def test_the_state_of_a_training_in_memory(taming):
    state = {"state_dict": taming, "epoch": 3, "optimizer_states": [{}]}
    assert same(load_official("vqgan", state, CONFIG), load_official("vqgan", taming, CONFIG))
    assert "these are not: state_dict (list), epoch (int)" in refusal(
        {"state_dict": [taming], "epoch": 3}
    )


# ---------------------------------------------------------------- what is refused


def refusal(weights, config=CONFIG, **kwargs):
    with pytest.raises(ValueError) as raised:
        load_official("vqgan", weights, config, **kwargs)
    return str(raised.value)


@pytest.mark.parametrize("layout", CONFIGS)
def test_a_key_is_missed_by_its_name(layout):
    weights = weights_of(layout)
    for key in list(weights)[::4]:
        rest = {other: value for other, value in weights.items() if other != key}
        message = refusal(rest, CONFIGS[layout], layout=layout)
        assert message.endswith(f"missing, 1:\n  {key}"), message


@pytest.mark.parametrize("layout", CONFIGS)
def test_missing_extra_and_misshapen_keys_are_all_listed(layout):
    weights = weights_of(layout)
    first, second, *_ = sorted(key for key in weights if key.endswith("bias"))
    del weights[first]
    weights["ema.decay"] = torch.ones(1)
    weights[second] = torch.zeros(1, 4)
    message = refusal(weights, CONFIGS[layout], layout=layout)
    assert f"missing, 1:\n  {first}" in message and "not wanted, 1:\n  ema.decay" in message
    assert f"misshapen, 1:\n  {second} has shape (1, 4), expected (" in message


def test_weights_of_the_other_model(taming, gpt):
    for weights, config, ours, layout, theirs in (
        (taming, GPT, "Transformer", "taming", "VQGAN"),
        (weights_of("diffusers"), GPT, "Transformer", "diffusers", "VQGAN"),
        (gpt, CONFIG, "VQGAN", "taming transformer", "Transformer"),
        ({**around(taming), **gpt}, CONFIG, "VQGAN", "taming transformer", "Transformer"),
    ):
        message = f"expected weights of a {ours}, got the layout {layout}, which is of a {theirs}"
        assert refusal(weights, config) == refusal(weights, config, layout=layout) == message
    with pytest.raises(
        ValueError, match="of a VQGAN, got the layout taming transformer, which is of a Transformer"
    ):
        load_official("vqgan/tiny", gpt)


def test_configs_of_neither_model(taming):
    for config in (None, "tiny", vars(CONFIG)):
        assert (
            "config: expected VQGANConfig(...) or TransformerConfig(...) for 'vqgan', got "
            in refusal(taming, config)
        )


def test_other_sizes(taming, gpt):
    for change, problem in (
        ({"multipliers": (1, 2, 2)}, "missing"),
        ({"blocks": 2}, "missing"),
        ({"attention": ()}, "not wanted, 30:"),
        ({"num_codes": 8}, "quantize.embedding.weight has shape (7, 5), expected (8, 5)"),
    ):
        assert problem in refusal(taming, VQGANConfig(**{**vars(CONFIG), **change}))
    assert "misshapen, 1:" in refusal(gpt, TransformerConfig(**{**vars(GPT), "length": 10}))
    assert "misshapen, 2:" in refusal(gpt, TransformerConfig(**{**vars(GPT), "vocabulary": 12}))


def test_attention_of_diffusers_is_linear():
    weights = weights_of("diffusers")
    key = "encoder.mid_block.attentions.0.to_out.0.weight"
    weights[key] = weights[key][:, :, None, None]
    assert refusal(weights).endswith(
        f"misshapen, 1:\n  {key} has shape (8, 8, 1, 1), expected (8, 8)"
    )


def test_the_gumbel_variant_is_not_ours(taming):
    taming["quantize.embed.weight"] = taming.pop("quantize.embedding.weight")
    taming |= {
        "quantize.proj.weight": torch.zeros(7, 6, 1, 1),
        "quantize.proj.bias": torch.zeros(7),
    }
    message = refusal(taming)
    assert "missing, 1:\n  quantize.embedding.weight" in message and "not wanted, 3:" in message


def test_layouts_mixed_and_unknown(taming):
    both = taming | weights_of("diffusers")
    assert "recognized taming and diffusers" in refusal(both)
    assert (
        "layout: expected one of taming, diffusers, taming transformer for vqgan, got 'keras'"
        in refusal(taming, layout="keras")
    )
    assert "recognized none among" in refusal({"encoder.conv_in.weight": torch.zeros(4, 3, 3, 3)})
