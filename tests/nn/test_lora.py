"""Low-rank changes to linear layers: against the weights they stand for."""

import pytest
import torch
from torch import nn

from course_lib.nn.lora import add_lora, load_lora, lora_state, merge_lora, remove_lora


class Two(nn.Module):
    """Two linear layers that can be told apart, and one that stays as it is."""

    def __init__(self):
        super().__init__()
        self.first = nn.Linear(5, 7)
        self.inner = nn.Sequential(nn.Tanh(), nn.Linear(7, 4, bias=False))
        self.last = nn.Linear(4, 3)

    def forward(self, x):
        return self.last(self.inner(self.first(x)))


LAYERS = ("first", "inner.1")


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def adapted(rank=2, scale=0.5, seed=0):
    """A model whose changes are not zero, and its copy without them."""
    torch.manual_seed(seed)
    model, plain = Two(), Two()
    plain.load_state_dict(model.state_dict())
    trained = add_lora(model, LAYERS, rank, generator(seed), scale)
    with torch.no_grad():
        for parameter in trained:
            parameter.normal_(generator=generator(1))
    return model, plain


def test_nothing_changes_before_training():
    torch.manual_seed(0)
    model, x = Two(), torch.randn(6, 5)
    expected = model(x)
    trained = add_lora(model, LAYERS, 3, generator())
    assert torch.equal(model(x), expected)
    assert [tuple(p.shape) for p in trained] == [(3, 5), (7, 3), (3, 7), (4, 3)]
    assert all(bool(down.any()) for down in trained[::2])


def test_the_change_is_the_product_of_two_thin_matrices():
    model, plain = adapted(scale=0.5)
    state, x = lora_state(model), torch.randn(6, 5)
    with torch.no_grad():
        for name in LAYERS:
            weight = plain.get_parameter(f"{name}.weight")
            weight += 0.5 * state[f"{name}.up"] @ state[f"{name}.down"]
    torch.testing.assert_close(model(x), plain(x))
    assert torch.linalg.matrix_rank(model.first.weight - Two().first.weight) > 2
    changed = model.first.weight - model.first.parametrizations.weight.original
    assert torch.linalg.matrix_rank(changed) == 2


def test_only_the_change_is_trained():
    model, _ = adapted()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    trained = [p for name, p in model.named_parameters() if name.endswith((".down", ".up"))]
    optimizer = torch.optim.SGD(trained, lr=0.1)
    model(torch.randn(6, 5)).square().mean().backward()
    optimizer.step()
    moved = {name for name, value in model.state_dict().items() if (value != before[name]).any()}
    assert {name.rsplit(".", 1)[1] for name in moved} == {"down", "up"} and len(moved) == 4


def test_merging_keeps_what_the_model_does_and_restores_its_names():
    model, plain = adapted()
    x = torch.randn(6, 5)
    expected = model(x)
    merge_lora(model)
    assert model.state_dict().keys() == plain.state_dict().keys() and not lora_state(model)
    torch.testing.assert_close(model(x), expected)
    assert (plain(x) - expected).abs().max() > 1e-3


def test_removing_restores_the_model():
    model, plain = adapted()
    remove_lora(model)
    assert all(torch.equal(value, plain.state_dict()[n]) for n, value in model.state_dict().items())


def test_changes_are_kept_beside_the_model_and_exchanged():
    model, plain = adapted()
    add_lora(plain, LAYERS, 2, generator(9), 0.5)
    x = torch.randn(6, 5)
    load_lora(plain, lora_state(model))
    assert torch.equal(plain(x), model(x))


@pytest.mark.parametrize(
    ("layers", "rank", "message"),
    [
        (("second",), 2, "expected the name of a linear layer, got nothing at second"),
        (("inner",), 2, "expected the name of a linear layer, got Sequential at inner"),
        (("first", "first"), 2, "expected ones without LoRA, each once, got first"),
        (("last", "inner"), 2, "got Sequential at inner"),
        (("last",), 4, "rank: expected 1 to 3, got 4"),
        (("last",), 0, "rank: expected 1 to 3, got 0"),
    ],
)
def test_what_cannot_be_adapted_is_refused_by_name(layers, rank, message):
    model = Two()
    with pytest.raises(ValueError, match=message):
        add_lora(model, layers, rank, generator())
    assert not lora_state(model)


def test_a_layer_is_adapted_once():
    model, _ = adapted()
    with pytest.raises(ValueError, match="expected ones without LoRA, each once, got first"):
        add_lora(model, ["last", "first"], 2, generator())


def test_changes_of_other_layers_and_ranks_are_refused():
    model, _ = adapted()
    other, _ = adapted(rank=1)
    with pytest.raises(ValueError, match=r"LoRA layers and ranks, got others: \['.*\.(up|down)'"):
        load_lora(model, lora_state(other))
    with pytest.raises(ValueError, match=r"got others: \['first.down'\]"):
        load_lora(model, {n: v for n, v in lora_state(model).items() if n != "first.down"})
