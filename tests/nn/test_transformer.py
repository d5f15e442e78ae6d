"""BERT's layers: norms after the sums, attention to all tokens, initial weights and refusals.  The
closed forms of a transformer's size and cost, against modules, torch's count and loops.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.nn.transformer import (
    Bert,
    BertHead,
    BertLayer,
    encoder_macs,
    encoder_parameters,
    truncated_normal_,
)
from course_lib.papers.vit import MLP, Attention

X = torch.randn(3, 7, 12, generator=torch.Generator().manual_seed(0))


def awake(model):
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return model


def test_a_layer_against_torch_s_own_post_norm_layer():
    torch.manual_seed(0)
    layer = awake(BertLayer(12, 3, 20, dropout=0.0))
    peer = nn.TransformerEncoderLayer(
        12,
        3,
        20,
        0.0,
        lambda x: F.gelu(x, approximate="tanh"),
        1e-12,
        batch_first=True,
        norm_first=False,
    )
    names = {
        "self_attn.in_proj_weight": layer.qkv.weight, "self_attn.in_proj_bias": layer.qkv.bias,
        "self_attn.out_proj.weight": layer.out.weight, "self_attn.out_proj.bias": layer.out.bias,
        "linear1.weight": layer.mlp1.weight, "linear1.bias": layer.mlp1.bias,
        "linear2.weight": layer.mlp2.weight, "linear2.bias": layer.mlp2.bias,
        "norm1.weight": layer.norm1.weight, "norm1.bias": layer.norm1.bias,
        "norm2.weight": layer.norm2.weight, "norm2.bias": layer.norm2.bias,
    }  # fmt: skip
    peer.load_state_dict(names)
    torch.testing.assert_close(layer(X), peer(X), rtol=1e-4, atol=1e-4)


def test_positions_are_added_before_the_first_norm():
    torch.manual_seed(0)
    model = awake(Bert(9, 12, 2, 3, 20))
    x = F.layer_norm(X + model.positions[:7], (12,), model.norm.weight, model.norm.bias, 1e-12)
    torch.testing.assert_close(model(X), model.layers[1](model.layers[0](x)))


def test_every_token_sees_every_other():
    torch.manual_seed(0)
    model = awake(Bert(7, 12, 1, 3, 20))
    x = X.clone().requires_grad_()
    for i in (0, 3, 6):
        (slope,) = torch.autograd.grad(model(x)[0, i].square().sum(), x)
        assert (slope[0].abs().sum(1) > 0).all() and not slope[1:].any()


def test_the_head_is_a_layer_a_gelu_and_a_norm():
    torch.manual_seed(0)
    head = awake(BertHead(12))
    h = X @ head.dense.weight.T + head.dense.bias
    h = 0.5 * h * (1 + torch.tanh((2 / torch.pi) ** 0.5 * (h + 0.044715 * h**3)))
    expected = (h - h.mean(2, keepdim=True)) / h.std(
        2, keepdim=True, correction=0
    ) * head.norm.weight + head.norm.bias
    torch.testing.assert_close(head(X), expected, rtol=1e-4, atol=1e-4)


def test_dropout_is_only_for_training():
    model = Bert(7, 12, 1, 3, 20, dropout=0.5)
    assert not torch.equal(model(X), model(X))
    model.eval()
    assert torch.equal(model(X), model(X))


def test_weights_start_small_and_biases_at_zero():
    torch.manual_seed(0)
    weight = torch.empty(400, 300)
    truncated_normal_(weight)
    assert (
        float(weight.std()) == pytest.approx(0.02 * 0.8796, rel=0.01)
        and float(weight.abs().max()) <= 0.04
    )
    model = Bert(7, 12, 1, 3, 20)
    matrices = [p for name, p in model.named_parameters() if p.ndim == 2]
    assert len(matrices) == 5 and all(0 < float(p.detach().abs().max()) <= 0.04 for p in matrices)
    assert not any(p.any() for name, p in model.named_parameters() if name.endswith("bias"))


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="heads: expected a divisor of width 12, got 5"):
        Bert(7, 12, 1, 5, 20)
    with pytest.raises(ValueError, match="expected at most 6 tokens, got 7"):
        Bert(6, 12, 1, 3, 20)(X)


# ---------------------------------------------------------------- what an encoder costs

SIZES = [(12, 3, 20, 2), (8, 2, 5, 3), (20, 5, 16, 1)]  # width, heads, mlp, depth


def layers(width, heads, mlp, depth):
    """Attention and MLP of each layer, each after a norm, and the norm after them."""
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
