"""Low-rank adaptation of linear layers (LoRA): Hu et al. 2021, arXiv 2106.09685.

A layer's weight W becomes W + scale * up @ down, with `up` (out rank) and `down` (rank in).  W
stays as it is and the two are trained: few numbers, which can be kept beside a model and change
what it does.  `up` starts at zero, so that nothing changes before training.

Stable Video Diffusion (arXiv 2311.15127, section 4.3.1) adapts its temporal attention like this,
with rank 16, once for every motion of the camera.
"""

from collections.abc import Iterable

import torch
from torch import nn
from torch.nn.utils import parametrize

from course_lib.shapes import Float, Tensor


class LowRank(nn.Module):
    """A change of low rank to a weight (out in)."""

    def __init__(
        self, weight: Float[Tensor, "out in"], rank: int, scale: float, generator: torch.Generator
    ):
        super().__init__()
        rows, columns = weight.shape
        self.scale = scale
        down = torch.randn(rank, columns, generator=generator) / columns**0.5
        self.down = nn.Parameter(down.to(weight))
        self.up = nn.Parameter(torch.zeros(rows, rank).to(weight))

    def forward(self, weight: Float[Tensor, "out in"]) -> Float[Tensor, "out in"]:
        return weight + self.scale * self.up @ self.down  # out in


def add_lora(
    model: nn.Module,
    layers: Iterable[str],
    rank: int,
    generator: torch.Generator,
    scale: float = 1.0,
) -> list[nn.Parameter]:
    """Adapt the linear layers of these names, and return what is to be trained.

    Nothing else is told to keep still: give these alone to the optimizer.  Raises ValueError,
    before anything is changed, for a name that is no linear layer's, for one that is named twice or
    adapted already, and for a rank that is too high.
    """
    layers, modules = list(layers), dict(model.named_modules())
    for name in layers:
        layer = modules.get(name)
        if not isinstance(layer, nn.Linear):
            found = "nothing" if layer is None else type(layer).__name__
            raise ValueError(f"layers: expected the name of a linear layer, got {found} at {name}")
        if parametrize.is_parametrized(layer) or layers.count(name) > 1:
            raise ValueError(f"layers: expected ones without LoRA, each once, got {name}")
        if not 1 <= rank <= min(layer.weight.shape):
            raise ValueError(f"rank: expected 1 to {min(layer.weight.shape)}, got {rank}")

    trained = []
    for name in layers:
        change = LowRank(modules[name].weight, rank, scale, generator)
        parametrize.register_parametrization(modules[name], "weight", change)
        trained += [change.down, change.up]
    return trained


def merge_lora(model: nn.Module) -> None:
    """Add every change to its weight for good: the model is as it was, and behaves as adapted."""
    for layer, _ in _adapted(model).values():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=True)


def remove_lora(model: nn.Module) -> None:
    """Take every change away: the model is what it was before."""
    for layer, _ in _adapted(model).values():
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)


def lora_state(model: nn.Module) -> dict[str, Tensor]:
    """Return the changes alone, by "LAYER.down" and "LAYER.up"."""
    state = {}
    for name, (_, change) in _adapted(model).items():
        state[f"{name}.down"] = change.down.detach()
        state[f"{name}.up"] = change.up.detach()
    return state


def load_lora(model: nn.Module, state: dict[str, Tensor]) -> None:
    """Fill in the changes of an adapted model, in place.

    Raises ValueError, naming them, unless layers and shapes are the model's.
    """
    ours = lora_state(model)
    wrong = [name for name in sorted(ours.keys() ^ state.keys())]
    wrong += [name for name in ours.keys() & state.keys() if ours[name].shape != state[name].shape]
    if wrong:
        raise ValueError(f"expected the model's own LoRA layers and ranks, got others: {wrong[:4]}")
    for name, tensor in ours.items():
        tensor.copy_(state[name])


def _adapted(model: nn.Module) -> dict[str, tuple[nn.Linear, LowRank]]:
    """Return every adapted layer and its change, by the layer's name."""
    return {
        name: (layer, change)
        for name, layer in model.named_modules()
        if isinstance(layer, nn.Linear) and parametrize.is_parametrized(layer, "weight")
        for change in layer.parametrizations["weight"]
        if isinstance(change, LowRank)
    }
