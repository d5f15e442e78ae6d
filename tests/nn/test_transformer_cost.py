"""The closed forms of a transformer's size and cost, against modules, torch's count and loops."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.nn.transformer_cost import encoder_macs, encoder_parameters
from course_lib.papers.vit import MLP, Attention

SIZES = [(12, 3, 20, 2), (8, 2, 5, 3), (20, 5, 16, 1)]  # width, heads, mlp, depth


def layers(width, heads, mlp, depth):
    """Attention and MLP of each layer, every one behind a norm, and the norm after them."""
    parts = [
        [nn.LayerNorm(width), Attention(width, heads), nn.LayerNorm(width), MLP(width, mlp, "tanh")]
        for _ in range(depth)
    ]
    return nn.ModuleList([part for layer in parts for part in layer] + [nn.LayerNorm(width)])


@pytest.mark.parametrize(("width", "heads", "mlp", "depth"), SIZES)
def test_parameters_are_those_of_the_layers(width, heads, mlp, depth):
    counted = sum(p.numel() for p in layers(width, heads, mlp, depth).parameters())
    assert encoder_parameters(width, mlp, depth) == counted


@pytest.mark.parametrize(
    ("width", "mlp", "one"), [(768, 3072, 7_087_872), (1024, 4096, 12_596_224)]
)
def test_a_layer_of_base_and_of_large(width, mlp, one):
    """The figures of ViT-B and ViT-L, and a last norm of 2 * width."""
    assert encoder_parameters(width, mlp, 1) == one + 2 * width
    assert encoder_parameters(width, mlp, 24) == 24 * one + 2 * width


@pytest.mark.parametrize(("width", "heads", "mlp", "depth"), SIZES)
def test_multiply_adds_are_those_that_torch_counts(width, heads, mlp, depth):
    tokens, batch = 7, 2
    x = torch.randn(batch, tokens, width)
    with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        for layer in layers(width, heads, mlp, depth):
            x = layer(x)
    assert counter.get_total_flops() == 2 * batch * encoder_macs(tokens, tokens, width, mlp, depth)


def test_multiply_adds_of_a_layer_by_hand():
    tokens, attended, width, mlp = 6, 4, 10, 7
    projections = 4 * tokens * width * width
    scores_and_mix = tokens * attended * width * 2
    hidden = 2 * tokens * width * mlp
    assert encoder_macs(tokens, attended, width, mlp, 3) == 3 * (
        projections + scores_and_mix + hidden
    )


def test_half_an_attended_token_counts_half():
    less, half, more = (encoder_macs(6, attended, 10, 7, 3) for attended in (4, 4.5, 5))
    assert isinstance(half, int) and half - less == more - half == 3 * 6 * 10


def test_nothing_is_rounded_at_the_size_of_a_real_model():
    """Half a token more for each of 3136, in floating point and exactly."""
    exact = 12 * 3136 * (4 * 768**2 + 768 * (196 + 16) + 2 * 768 * 3072)
    assert encoder_macs(3136, (196 + 16) / 2, 768, 3072, 12) == exact
