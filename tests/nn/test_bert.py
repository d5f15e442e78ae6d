"""BERT's layers: norms after the sums, attention that sees all tokens, the start, and what is
refused.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.nn.bert import Bert, BertHead, BertLayer, truncated_normal_

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


def test_dropout_is_for_training_alone():
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
    with pytest.raises(ValueError, match="heads must divide width, got 5 for 12"):
        Bert(7, 12, 1, 5, 20)
    with pytest.raises(ValueError, match="expected at most 6 tokens, got 7"):
        Bert(6, 12, 1, 3, 20)(X)
