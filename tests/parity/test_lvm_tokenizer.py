"""LVM's tokenizers against their published layouts, computed without our models: values, gradients,
codes, counts.
"""

from dataclasses import replace

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.papers.lvm_tokenizer import (
    MUSE_CONFIGS,
    MuseTokenizer,
    Tokenizer,
    TokenizerConfig,
)
from course_lib.papers.vqgan import VQGANConfig
from tests.parity import lvm_layouts, taming_layouts
from tests.parity.peers import compare_tokenizers


def first(**changes):
    """A tokenizer of the first kind, with widths of its own; the released file's commitment."""
    odd = {
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 2,
        "code_dim": 10,
        "num_codes": 37,
        "beta": 0.0,
        "groups": 4,
    }
    return TokenizerConfig(**{**odd, **changes})


def muse(**changes):
    """A tokenizer of the second kind, with widths of its own."""
    odd = {
        "image_size": 32,
        "width": 8,
        "multipliers": (1, 2),
        "blocks": 1,
        "attention": (),
        "attend_middle": False,
        "latent": 12,
        "code_dim": 10,
        "num_codes": 37,
        "legacy": True,
        "groups": 4,
    }
    return VQGANConfig(**{**odd, **changes})


CASES = {  # config, batch, height, width
    "one level": (first(multipliers=(2,)), 1, 6, 11),
    "two levels": (first(), 3, 24, 40),
    "two levels, committed": (first(beta=0.7, code_dim=3), 2, 10, 6),
    "one block, three levels": (first(blocks=1, multipliers=(1, 3, 2), channels=1), 2, 24, 40),
    "three blocks": (first(blocks=3, groups=8, num_codes=5), 2, 6, 10),
    "five levels as released": (first(multipliers=(1, 1, 2, 2, 4), code_dim=32), 2, 48, 80),
    "muse, one level": (muse(multipliers=(1,)), 1, 6, 11),
    "muse, two levels": (muse(), 3, 24, 40),
    "muse, three levels": (muse(multipliers=(1, 3, 2), blocks=2, channels=1), 2, 24, 40),
    "muse, five levels as released": (muse(width=16, multipliers=(1, 2, 2, 4, 6)), 2, 48, 80),
}


def shapes_of(config):
    if isinstance(config, TokenizerConfig):
        return lvm_layouts.vqvae_shapes(config)
    return taming_layouts.vqgan_shapes(config)


def layout_of(config):
    return "lvm tokenizer" if isinstance(config, TokenizerConfig) else "muse"


def run(weights, image, config):
    """What the layout makes of images in [-1, 1]; its own are in [0, 1]."""
    unit = (image + 1) / 2
    if isinstance(config, TokenizerConfig):
        levels = len(config.multipliers)
        rebuilt, codes, loss = lvm_layouts.run_vqvae(
            weights, unit, levels, config.blocks, config.groups, config.beta
        )
    else:
        rebuilt, codes, loss = taming_layouts.run_vqgan(weights, unit, config.groups, config.beta)
    return 2 * rebuilt - 1, codes, loss


def images(config, batch, height, width, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return 2 * torch.rand(batch, config.channels, height, width, generator=generator) - 1


@pytest.mark.parametrize("name", CASES)
def test_equals_its_layout(name):
    """The layout's own run is in double precision, so that the only difference is our rounding."""
    config, *shape = CASES[name]
    weights = taming_layouts.random_weights(shapes_of(config))
    model = load_official("lvm", weights, config).eval()
    weights = {key: value.double().requires_grad_() for key, value in weights.items()}
    values, slopes = compare_tokenizers(
        "lvm",
        model,
        images(config, *shape),
        lambda x: run(weights, x, config),
        weights.items(),
        layout_of(config),
    )
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_equals_its_layout_in_double_precision(name):
    """Values to a billionth; gradients as far as their way through single precision lets them."""
    config, *shape = CASES[name]
    weights = taming_layouts.random_weights(shapes_of(config))
    model = load_official("lvm", weights, config).eval().double()
    weights = {key: value.double().requires_grad_() for key, value in weights.items()}
    values, slopes = compare_tokenizers(
        "lvm",
        model,
        images(config, *shape).double(),
        lambda x: run(weights, x, config),
        weights.items(),
        layout_of(config),
    )
    assert values < 1e-9 and slopes < 1e-6


@pytest.mark.parametrize("grid", [(3, 5), (4, 2), (1, 1)], ids=str)
def test_codes_are_decoded_as_the_release_does(grid):
    config = first(multipliers=(1, 2, 3))
    weights = taming_layouts.random_weights(shapes_of(config))
    model = load_official("lvm", weights, config).eval()
    generator = torch.Generator().manual_seed(3)
    codes = torch.randint(0, config.num_codes, (2, *grid), generator=generator)
    vectors = weights["quantizer.embedding.weight"][codes].movedim(-1, 1)
    expected = 2 * lvm_layouts.decode_vqvae(weights, vectors, 3, config.blocks, config.groups) - 1
    with torch.no_grad():
        torch.testing.assert_close(model.decode_indices(codes), expected, rtol=0, atol=1e-5)


def test_what_a_checkpoint_does_not_say_changes_the_output():
    """Were the groups lost, the comparisons would have to fail."""
    config = first()
    weights = taming_layouts.random_weights(shapes_of(config))
    image = images(config, 2, 24, 40)
    rebuilt, _ = load_official("lvm", weights, config)(image)
    other, _ = load_official("lvm", weights, replace(config, groups=8))(image)
    assert (other - rebuilt).abs().max() > 1e-4


# ---------------------------------------------------------------- sizes

COUNTS = {  # counted in the official code
    "tokenizer": {"encoder": 23_496_352, "quantizer": 262_144, "decoder": 40_590_723},
    "tokenizer-muse": {
        "encoder": 58_693_568,
        "to_codes": 4_160,
        "quantizer": 524_288,
        "from_codes": 4_160,
        "decoder": 87_018_499,
    },
}
TOTALS = {"tokenizer": 64_349_219, "tokenizer-muse": 146_244_675}


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("name", COUNTS)
def test_counts_of_presets(name):
    with torch.device("meta"):
        model = zoo.build(f"lvm/{name}")
    assert {part: parameters(getattr(model, part)) for part in COUNTS[name]} == COUNTS[name]
    shapes = shapes_of(model.config).values()
    counted = sum(torch.Size(shape).numel() for shape in shapes)
    assert parameters(model) == counted == TOTALS[name]


def test_both_releases_make_256_tokens_of_an_image():
    for name, kind in (("tokenizer", Tokenizer), ("tokenizer-muse", MuseTokenizer)):
        with torch.device("meta"):
            model = zoo.build(f"lvm/{name}")
            features = model.features(torch.empty(1, 3, 256, 256))
        assert type(model) is kind and features.shape[2:] == (16, 16)
        assert model.quantizer.num_codes == 8192 and features.shape[1] == model.quantizer.dim
    assert not any(MUSE_CONFIGS["tokenizer-muse"].attends)
