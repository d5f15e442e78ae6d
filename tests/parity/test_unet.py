"""Our U-Nets against diffusers' and OpenAI's layout: values and gradients, in many shapes."""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.papers.ddpm import DDPM_CONFIGS, DDPMConfig
from course_lib.papers.improved_ddpm import IMPROVED_DDPM_CONFIGS, ImprovedDDPMConfig
from tests.parity import openai_layout
from tests.parity.peers import diffusers_unet, gradients, inputs, largest_difference, randomize

SMALL = {"image_size": 16, "width": 16, "dropout": 0.0, "norm_groups": 8}


def ddpm(**changes):
    return DDPMConfig(**{**SMALL, "multipliers": (1, 2), "blocks_per_level": 1, **changes})


def improved(**changes):
    return ImprovedDDPMConfig(**{**SMALL, "multipliers": (1, 2), "blocks_per_level": 1, **changes})


CASES = {  # config, (batch, height, width)
    "one level": (ddpm(multipliers=(1,), attention_resolutions=(16,)), (1, 6, 10)),
    "two levels, two blocks": (ddpm(blocks_per_level=2, attention_resolutions=(8,)), (3, 16, 16)),
    "three levels, attention first and last": (
        ddpm(multipliers=(1, 2, 3), attention_resolutions=(16, 4), heads=4),
        (3, 8, 20),
    ),
    "three blocks, classes, one channel": (
        ddpm(blocks_per_level=3, attention_resolutions=(16, 8), num_classes=7, channels=1),
        (5, 24, 10),
    ),
    "attention only in the middle": (
        ddpm(multipliers=(1, 1, 2), attention_resolutions=()),
        (2, 12, 8),
    ),
    "improved, one level, fixed variance": (
        improved(multipliers=(1,), attention_resolutions=(16,), heads=1, variance="fixed_large"),
        (1, 7, 5),
    ),
    "improved, two levels, classes": (
        improved(blocks_per_level=2, attention_resolutions=(16, 8), num_classes=5),
        (3, 6, 10),
    ),
    "improved, three levels": (
        improved(multipliers=(1, 2, 3), blocks_per_level=3, attention_resolutions=(8, 4)),
        (3, 16, 8),
    ),
}
IMPROVED_CASES = [name for name in CASES if name.startswith("improved")]


def paper(config):
    return "improved_ddpm" if isinstance(config, ImprovedDDPMConfig) else "ddpm"


def theirs_under_our_names(model, peer, grads):
    """A peer's gradients under our names: conversion is linear, so it converts gradients too."""
    converted = load_official(
        paper(model.config), {k: g for k, g in grads.items() if k != "x"}, model.config
    )
    return {"x": grads["x"], **converted.state_dict()}


@pytest.mark.parametrize("float_times", [False, True], ids=["integer times", "float times"])
@pytest.mark.parametrize("name", CASES)
def test_equals_diffusers(name, float_times):
    config, shape = CASES[name]
    peer = randomize(diffusers_unet(config)).eval()
    model = load_official(paper(config), peer.state_dict(), config).eval()
    x, t, label = inputs(config, *shape, float_times)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = model(ours, t, label), peer(theirs, t, label).sample
    assert got.shape == expected.shape == (shape[0], config.out_channels, *shape[1:])
    values = float((got - expected).detach().abs().max())
    grads = gradients(got, ours, model.named_parameters())
    peer_grads = theirs_under_our_names(
        model, peer, gradients(expected, theirs, peer.named_parameters())
    )
    slopes = largest_difference(grads, peer_grads)
    print(
        f"{name}: values {values:.1e} of {float(expected.detach().abs().max()):.1f}, gradients"
        f" {slopes:.1e}"
    )
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_equals_diffusers_in_double_precision_to_a_billionth(name):
    config, shape = CASES[name]
    peer = randomize(diffusers_unet(config)).eval()
    model = load_official(paper(config), peer.state_dict(), config).eval()
    x, t, label = inputs(config, *shape)
    got, expected = model.double()(x.double(), t, label), peer.double()(x.double(), t, label).sample
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("name", IMPROVED_CASES)
@pytest.mark.parametrize("dtype, bound", [(torch.float32, 1e-5), (torch.float64, 1e-9)])
def test_equals_the_openai_layout(name, dtype, bound):
    """Values in single precision; gradients in double, where no order of sums hides a mistake."""
    config, shape = CASES[name]
    generator = torch.Generator().manual_seed(0)
    weights = {
        key: torch.randn(size, generator=generator) / max(1, torch.Size(size[1:]).numel()) ** 0.5
        for key, size in openai_layout.shapes(config).items()
    }
    model = load_official("improved_ddpm", weights, config).eval().to(dtype)
    x, t, label = inputs(config, *shape)
    ours = x.to(dtype).requires_grad_()
    theirs = x.to(dtype).requires_grad_()
    weights = {key: value.to(dtype).requires_grad_() for key, value in weights.items()}
    got = model(ours, t, label)
    expected = openai_layout.run(weights, theirs, t, label, config.heads, config.norm_groups)
    values = float(((got - expected).abs().max() / expected.abs().max()).detach())
    assert got.dtype == expected.dtype == dtype and values < bound
    if dtype == torch.float64:
        grads = gradients(got, ours, model.named_parameters())
        peer_grads = gradients(expected, theirs, weights.items())
        single = {name: grad.float() for name, grad in peer_grads.items()}  # as they are loaded
        assert largest_difference(grads, theirs_under_our_names(model, None, single)) < 1e-6


def test_the_two_networks_differ():
    """With the same weights, each quirk of the layouts changes the output."""
    config = ddpm(attention_resolutions=(8,))
    peer = randomize(diffusers_unet(config)).eval()
    x, t, _ = inputs(config, 2, 8, 8)
    expected = peer(x, t).sample
    for quirk in (
        {"flip_sin_to_cos": True},
        {"freq_shift": 0},
        {"downsample_padding": 1},
        {"norm_eps": 1e-2},
    ):
        other = type(peer).from_config({**peer.config, **quirk}).eval()
        other.load_state_dict(peer.state_dict())
        assert (other(x, t).sample - expected).abs().max() > 1e-4, quirk


# ---------------------------------------------------------------- sizes

COUNTS = {  # PAPERS and the papers themselves
    "ddpm/CIFAR-10": 35_746_307,
    "improved_ddpm/CIFAR-10": 52_546_438,
    "improved_ddpm/CIFAR-10 fixed variance": 52_542_979,
    "improved_ddpm/ImageNet-64": 121_063_942,
}


@pytest.mark.parametrize(
    "name", [n for n in zoo.MODELS if n.startswith(("ddpm/", "improved_ddpm/"))]
)
def test_counts_equal_diffusers(name):
    with torch.device("meta"):
        model, peer = zoo.build(name), diffusers_unet(zoo.find(name).config)
    count = sum(p.numel() for p in model.parameters())
    assert count == sum(p.numel() for p in peer.parameters())
    assert count == COUNTS.get(name, count)


@pytest.mark.parametrize("name", ["CIFAR-10", "ImageNet-64", "ImageNet-64 class-conditional"])
def test_counts_equal_the_openai_layout(name):
    with torch.device("meta"):
        model = zoo.build(f"improved_ddpm/{name}")
    listed = openai_layout.shapes(IMPROVED_DDPM_CONFIGS[name]).values()
    assert sum(p.numel() for p in model.parameters()) == sum(
        torch.Size(shape).numel() for shape in listed
    )


def test_a_learned_variance_costs_one_output_more_per_value():
    with torch.device("meta"):
        both = [zoo.build(f"improved_ddpm/CIFAR-10{rest}") for rest in ("", " fixed variance")]
    learned, fixed = (sum(p.numel() for p in model.parameters()) for model in both)
    assert learned - fixed == 9 * DDPM_CONFIGS["CIFAR-10"].width * 3 + 3 == 3459
