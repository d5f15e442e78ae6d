"""VQGAN against diffusers' VQModel and taming's layout, its transformer against GPT2: values,
gradients, indices.
"""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.papers.vqgan import VQGAN, Transformer, TransformerConfig, VQGANConfig
from tests.parity import taming_layouts
from tests.parity.peers import (
    compare_tokenizers,
    diffusers_vqmodel,
    gpt2_as_taming,
    gradients,
    largest_difference,
    randomize,
    transformers_gpt2,
)


def vqgan(**changes):
    """A VQGAN with widths of its own; as released, with beta on the codebook's term."""
    odd = {
        "image_size": 32,
        "width": 16,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (),
        "latent": 12,
        "code_dim": 10,
        "num_codes": 37,
        "legacy": True,
        "groups": 4,
    }
    return VQGANConfig(**{**odd, **changes})


CASES = {  # config, batch, height, width
    "one level with attention, one image": (vqgan(multipliers=(1,), attention=(32,)), 1, 6, 11),
    "two levels": (vqgan(), 3, 24, 40),
    "two levels, attention at the finest": (vqgan(attention=(32,), blocks=2), 2, 10, 6),
    "three levels, attention at two of them": (
        vqgan(multipliers=(1, 3, 2), attention=(32, 8), channels=1),
        2,
        24,
        40,
    ),
    "three blocks, attention at the coarsest": (
        vqgan(blocks=3, attention=(16,), groups=8, latent=8, code_dim=24, num_codes=5),
        2,
        6,
        10,
    ),
    "five levels as on ImageNet": (vqgan(multipliers=(1, 1, 2, 2, 4), attention=(2,)), 2, 48, 80),
    "beta on the right term": (vqgan(legacy=False, beta=0.7), 2, 6, 10),
}


def images(config, batch, height, width, seed=1):
    return torch.randn(
        batch, config.channels, height, width, generator=torch.Generator().manual_seed(seed)
    )


def run_diffusers(peer, x):
    """Reconstructions, codes and codebook loss of a VQModel."""
    z = peer.encode(x).latents
    out = peer.decode(z)
    codes = peer.quantize(z)[2][2].reshape(len(z), *z.shape[2:])
    return out.sample, codes, out.commit_loss


# ---------------------------------------------------------------- diffusers


@pytest.mark.parametrize("name", CASES)
def test_equals_diffusers(name):
    """Theirs is in double precision, so that the only difference is our rounding."""
    config, *shape = CASES[name]
    peer = randomize(diffusers_vqmodel(config)).eval()
    model = load_official("vqgan", peer.state_dict(), config).eval()
    peer, x = peer.double(), images(config, *shape)
    values, slopes = compare_tokenizers(
        "vqgan", model, x, lambda x: run_diffusers(peer, x), peer.named_parameters(), "diffusers"
    )
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_equals_diffusers_in_double_precision(name):
    """Values to a billionth; gradients as far as their way through single precision lets them."""
    config, *shape = CASES[name]
    peer = randomize(diffusers_vqmodel(config)).eval()
    model = load_official("vqgan", peer.state_dict(), config).eval().double()
    peer, x = peer.double(), images(config, *shape).double()
    values, slopes = compare_tokenizers(
        "vqgan", model, x, lambda x: run_diffusers(peer, x), peer.named_parameters(), "diffusers"
    )
    assert values < 1e-9 and slopes < 1e-6


def test_codes_are_decoded_as_diffusers_does():
    config = vqgan()
    peer = randomize(diffusers_vqmodel(config)).eval()
    model = load_official("vqgan", peer.state_dict(), config).eval()
    codes = torch.randint(
        0, config.num_codes, (2, 3, 5), generator=torch.Generator().manual_seed(3)
    )
    with torch.no_grad():
        looked_up = peer.quantize.get_codebook_entry(codes.flatten(), (2, 3, 5, config.code_dim))
        expected = peer.decode(looked_up, force_not_quantize=True).sample
        torch.testing.assert_close(model.decode_indices(codes), expected, rtol=0, atol=1e-5)


def test_what_a_checkpoint_does_not_say_changes_the_output():
    """Groups and the side of beta leave no trace in the weights: were they lost, the comparisons
    would have to fail.
    """
    config = vqgan()
    weights = randomize(diffusers_vqmodel(config)).state_dict()
    x = images(config, 2, 24, 40)
    expected, quantized = load_official("vqgan", weights, config)(x)
    other, _ = load_official("vqgan", weights, vqgan(groups=8))(x)
    assert (other - expected).abs().max() > 1e-4
    _, other = load_official("vqgan", weights, vqgan(legacy=False, beta=0.5))(x)
    assert (other.loss - quantized.loss).abs() > 1e-3


# ---------------------------------------------------------------- taming

TAMING_CASES = {
    **CASES,
    "a first level that is wider than its input": (vqgan(multipliers=(2, 3, 4)), 2, 8, 20),
}


@pytest.mark.parametrize("name", TAMING_CASES)
def test_equals_the_taming_layout(name):
    """The layout's own run is in double precision, so that the only difference is our rounding."""
    config, *shape = TAMING_CASES[name]
    config = vqgan(**{**vars(config), "legacy": True, "beta": 0.25})
    weights = taming_layouts.random_weights(taming_layouts.vqgan_shapes(config))
    model = load_official("vqgan", weights, config).eval()
    weights = {key: value.double().requires_grad_() for key, value in weights.items()}
    values, slopes = compare_tokenizers(
        "vqgan",
        model,
        images(config, *shape),
        lambda x: taming_layouts.run_vqgan(weights, x, config.groups),
        weights.items(),
        "taming",
    )
    assert values < 1e-5 and slopes < 1e-5


def test_the_two_layouts_tell_of_one_network():
    """diffusers' decoder counts from the coarsest level, taming's from the finest."""
    config = vqgan(multipliers=(1, 2, 3), attention=(16,))
    weights = taming_layouts.random_weights(taming_layouts.vqgan_shapes(config))
    model = load_official("vqgan", weights, config)
    assert torch.equal(
        model.decoder.levels[0][0].conv1.weight, weights["decoder.up.2.block.0.conv1.weight"]
    )
    peer = diffusers_vqmodel(config).state_dict()
    assert torch.equal(
        load_official("vqgan", peer, config).decoder.levels[0][0].conv1.weight,
        peer["decoder.up_blocks.0.resnets.0.conv1.weight"],
    )


# ---------------------------------------------------------------- the transformer


def transformer(**changes):
    return TransformerConfig(
        **{**{"vocabulary": 23, "length": 13, "depth": 2, "heads": 4, "width": 20}, **changes}
    )


TRANSFORMERS = {  # config, batch, tokens
    "one layer, one head": (transformer(depth=1, heads=1), 3, 13),
    "three layers": (transformer(depth=3), 2, 7),
    "wide heads, one token": (transformer(heads=2, width=34), 5, 1),
}


def compare_transformers(model, tokens, peer, parameters, rename):
    """As `compare`; tokens have no gradient."""
    got, expected = model(tokens), peer(tokens)
    assert got.shape == expected.shape == (*tokens.shape, model.config.vocabulary)
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    nothing = torch.zeros((), requires_grad=True)
    by_name = gradients(expected + nothing, nothing, parameters)
    slope = by_name.pop("x")
    converted = load_official("vqgan", rename(by_name), model.config).state_dict()
    slopes = largest_difference(
        gradients(got + nothing, nothing, model.named_parameters()), {"x": slope, **converted}
    )
    print(f"values {values:.1e}, gradients {slopes:.1e}")
    return values, slopes


def tokens_of(config, batch, n):
    return torch.randint(
        0, config.vocabulary, (batch, n), generator=torch.Generator().manual_seed(5)
    )


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_transformer_equals_gpt2(name):
    config, *shape = TRANSFORMERS[name]
    peer = randomize(transformers_gpt2(config)).eval()
    model = load_official("vqgan", gpt2_as_taming(peer.state_dict()), config).eval()
    values, slopes = compare_transformers(
        model,
        tokens_of(config, *shape),
        lambda x: peer(x).logits,
        peer.named_parameters(),
        gpt2_as_taming,
    )
    assert values < 1e-5 and slopes < 1e-5


def test_another_activation_changes_the_output():
    """Were GELU's form lost, the comparison with GPT2 would have to fail."""
    config = transformer()
    peer = randomize(transformers_gpt2(config)).eval()
    model = load_official("vqgan", gpt2_as_taming(peer.state_dict()), config).eval()
    other = type(peer)(
        type(peer.config)(**{**peer.config.to_dict(), "activation_function": "gelu_new"})
    ).eval()
    other.load_state_dict(peer.state_dict())
    tokens = tokens_of(config, 2, 9)
    assert (model(tokens) - other(tokens).logits).abs().max() > 1e-4


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_the_transformer_equals_the_taming_layout(name):
    config, *shape = TRANSFORMERS[name]
    weights = taming_layouts.random_weights(taming_layouts.transformer_shapes(config))
    model = load_official("vqgan", weights, config).eval()
    weights = {key: value.requires_grad_() for key, value in weights.items()}
    values, slopes = compare_transformers(
        model,
        tokens_of(config, *shape),
        lambda x: taming_layouts.run_transformer(weights, x, config.heads),
        weights.items(),
        dict,
    )
    assert values < 1e-5 and slopes < 1e-5


# ---------------------------------------------------------------- sizes

VQGAN_COUNTS = {  # PAPERS, counted in the official code
    "encoder": 29_298_176,
    "decoder": 42_449_795,
    "to_codes": 65_792,
    "from_codes": 65_792,
}
COUNTS = {
    "imagenet-f16-1024": 72_141_699,
    "imagenet-f16-16384": 76_073_859,
    "transformer-cIN": 1_410_640_896,
    "transformer-faceshq": 304_932_864,
}
OTHER_TRANSFORMERS = {  # of the paper and of the official configurations, but no presets
    "24 layers of 1664": (TransformerConfig(1024, 256, 24, 16, 1664), 801_798_400),
    "COCO-Stuff": (TransformerConfig(8192, 512, 32, 16, 1280), 651_307_520),
    "scenes": (TransformerConfig(8192, 348, 40, 16, 1408), 975_876_352),
}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", [n for n in zoo.MODELS if n.startswith("vqgan/")])
def test_counts_of_presets(name):
    config = zoo.find(name).config
    with torch.device("meta"):
        model = zoo.build(name)
        is_vqgan = isinstance(config, VQGANConfig)
        peer = diffusers_vqmodel(config) if is_vqgan else transformers_gpt2(config)
    shapes = (taming_layouts.vqgan_shapes if is_vqgan else taming_layouts.transformer_shapes)(
        config
    )
    count = parameters(model)
    averaged = (
        0
        if "quantizer.codebook" not in dict(model.named_buffers())
        else model.quantizer.codebook.numel()
    )
    assert (
        count + averaged
        == parameters(peer)
        == sum(torch.Size(shape).numel() for shape in shapes.values())
    )
    assert count == COUNTS.get(name.removeprefix("vqgan/"), count)


@pytest.mark.parametrize("codes", [1024, 16384])
def test_counts_of_the_parts(codes):
    with torch.device("meta"):
        model = VQGAN(VQGANConfig(num_codes=codes))
    assert {name: parameters(getattr(model, name)) for name in VQGAN_COUNTS} == VQGAN_COUNTS
    assert parameters(model.quantizer) == codes * 256 == {1024: 262_144, 16384: 4_194_304}[codes]
    assert parameters(model) == sum(VQGAN_COUNTS.values()) + codes * 256


@pytest.mark.parametrize("name", OTHER_TRANSFORMERS)
def test_counts_of_other_transformers(name):
    config, count = OTHER_TRANSFORMERS[name]
    with torch.device("meta"):
        assert parameters(Transformer(config)) == count


def test_every_published_count_is_a_preset():
    assert {f"vqgan/{name}" for name in COUNTS} <= set(zoo.MODELS)
