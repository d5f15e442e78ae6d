"""Latent diffusion: published sizes, the U-Net's shapes, what it refuses."""

import pytest
import torch

from course_lib.papers.ldm import LDM_CONFIGS, UNet

COUNTS = {"SD-2.1": 865_910_724, "SD-1.5": 859_520_964, "txt2img-1.4B": 872_300_484}


@pytest.mark.parametrize("name", COUNTS)
def test_sizes(name):
    with torch.device("meta"):
        model = UNet(LDM_CONFIGS[name])
    assert sum(p.numel() for p in model.parameters()) == COUNTS[name]
