"""Presets by name."""

import pytest
import torch

from course_lib import zoo
from course_lib.papers import ddpm, improved_ddpm


@pytest.mark.parametrize("name", zoo.MODELS)
def test_every_preset_builds_on_the_meta_device(name):
    with torch.device("meta"):
        model = zoo.build(name)
    assert (
        all(p.is_meta for p in model.parameters())
        and sum(p.numel() for p in model.parameters()) > 0
    )
    assert model.config == zoo.find(name).config


@pytest.mark.parametrize(
    "name", [name for name, entry in zoo.MODELS.items() if entry.published.endswith("M")]
)
def test_published_sizes_are_the_counted_ones_rounded(name):
    entry = zoo.find(name)
    with torch.device("meta"):
        count = sum(p.numel() for p in entry.build().parameters())
    assert (
        count / 1e6 == pytest.approx(float(entry.published.removesuffix("M")), rel=0.06)
        and entry.source
    )


def test_what_is_built_is_the_paper_s():
    assert type(zoo.build("ddpm/tiny")) is ddpm.UNet
    assert type(zoo.build("improved_ddpm/tiny")) is improved_ddpm.UNet


@pytest.mark.parametrize(
    ("name", "near"),
    [("ddpm/CIFAR", "ddpm/CIFAR-10"), ("improved_ddpm/imagenet", "improved_ddpm/ImageNet-64")],
)
def test_an_unknown_name_brings_its_neighbours(name, near):
    with pytest.raises(ValueError, match=f"no preset '{name}'; did you mean .*{near}"):
        zoo.build(name)
