"""A small recipe with all three quantizers, revival of dead codes and entropy losses.

The codes of one are trained by a loss, those of another are averages, and the third takes signs.
"""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.quantize.lfq import LFQ, annealed_weight
from course_lib.quantize.vq import VectorQuantizer
from course_lib.training import Recipe, Tensors, Trainable


class Coder(nn.Module):
    """Three 1x1 autoencoders side by side."""

    def __init__(self):
        super().__init__()
        self.encoders = nn.ModuleList(nn.Conv2d(3, 4, 1) for _ in range(3))
        self.quantizers = nn.ModuleList(
            [
                VectorQuantizer(60, 4, entropy_weight=0.1, temperature=0.5),
                VectorQuantizer(60, 4, update="ema", decay=0.9),
                LFQ(4, temperature=2.0, group=3),
            ]
        )
        self.decoders = nn.ModuleList(nn.Conv2d(4, 3, 1) for _ in range(3))


class Coding(Trainable):
    """The three autoencoders; codes unused for two steps are revived."""

    def __init__(self):
        super().__init__()
        self.model = Coder()
        self.register_buffer("step", torch.tensor(0))

    def loss(self, player, batch, rng):
        image = batch["image"]
        model = self.model
        losses = []
        model.quantizers[2].entropy_weight = annealed_weight(int(self.step), steps=4)
        self.step += 1
        for encode, quantize, decode in zip(
            model.encoders, model.quantizers, model.decoders, strict=True
        ):
            z = encode(image)
            if isinstance(quantize, VectorQuantizer):
                quantize.revive(z, rng.rand(len(z), *z.shape[2:]), after=2)
            latents, _, loss = quantize(z)
            losses.append((decode(latents) - image).square().mean() + loss)
        return sum(losses)


@dataclass(frozen=True)
class CodingRecipe(Recipe):
    def build(self):
        return Coding()

    def data(self):
        return Tensors(image=torch.randn(32, 3, 5, 6, generator=torch.Generator().manual_seed(0)))

    def optimizer(self, player, parameters):
        return torch.optim.SGD(parameters, lr=self.learning_rate)


CODING = CodingRecipe("coding", steps=7, batch_size=8, learning_rate=0.1, ema=0.5)
