"""Small recipes that use all that the loop offers, such as two players, buffers and dropout."""

from dataclasses import dataclass

import torch
from torch import nn

from course_lib.training import Recipe, Tensors, Trainable, all_gather


class Denoiser(Trainable):
    """A model of noise that draws noise levels in proportion to their last losses."""

    def __init__(self, model):
        super().__init__()
        self.model = model
        self.register_buffer("history", torch.ones(4))

    def loss(self, player, batch, rng):
        image = batch["image"]
        level = rng.choice(self.history, len(image))
        noise = rng.randn_like(image)
        noisy = image + noise * (1 + level)[:, None, None, None]
        losses = (self.model(noisy) - noise).square().mean(dim=(1, 2, 3))
        with torch.no_grad():
            levels = all_gather(level)
            gathered = all_gather(losses)
            for k in range(4):
                if (levels == k).any():
                    self.history[k] = gathered[levels == k].mean()
        return losses.mean()


class Gan(Trainable):
    """Two players; `model` is the generator."""

    def __init__(self):
        super().__init__()
        self.model = nn.Sequential(
            nn.Linear(3, 108), nn.SiLU(), nn.Linear(108, 108), nn.Unflatten(1, (3, 6, 6))
        )
        self.critic = nn.Sequential(nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Flatten(), nn.Linear(128, 1))

    def players(self):
        return {"critic": self.critic.parameters(), "generator": self.model.parameters()}

    def loss(self, player, batch, rng):
        fake = self.model(rng.randn(len(batch["image"]), 3))
        if player == "generator":
            assert not any(p.requires_grad for p in self.critic.parameters())
            return nn.functional.softplus(-self.critic(fake)).mean()
        return (
            nn.functional.softplus(self.critic(fake)).mean()
            + nn.functional.softplus(-self.critic(batch["image"])).mean()
        )


@dataclass(frozen=True)
class ToyRecipe(Recipe):
    dropout: float = 0.0
    players: int = 1

    def build(self):
        if self.players == 2:
            return Gan()
        layers = (
            nn.Conv2d(3, 8, 3, padding=1),
            nn.BatchNorm2d(8),
            nn.SiLU(),
            nn.Dropout(self.dropout),
        )
        plain = [layer for layer in layers if self.dropout or not isinstance(layer, nn.BatchNorm2d)]
        return Denoiser(nn.Sequential(*plain, nn.Conv2d(8, 3, 3, padding=1)))

    def data(self):
        return Tensors(image=torch.rand(50, 3, 6, 6, generator=torch.Generator().manual_seed(7)))

    def measure(self, model):
        return {
            "weight": sum(p.abs().mean().item() for p in model.parameters()),
            "list": [1.0, 2.0],
        }


TOY = ToyRecipe("toy", steps=30, batch_size=8, learning_rate=1e-2, warmup=5, dropout=0.2)
PLAIN = ToyRecipe("plain", steps=30, batch_size=8, learning_rate=1e-2, warmup=5)
GAN = ToyRecipe("gan", steps=20, batch_size=8, learning_rate=1e-3, betas=(0.5, 0.9), players=2)
LONG = ToyRecipe("long", steps=400, batch_size=8, dropout=0.2)
LOST = ToyRecipe("lost", steps=30, batch_size=8, learning_rate=1e30, clip=None)
