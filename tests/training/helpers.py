"""What the tests of several chapters' recipes share."""

import torch

from course_lib.training import RandomSource, find_recipe


def differing(names):
    """Return the fields, other than the name, in which these recipes differ."""
    recipes = [find_recipe(name).fields() for name in names]
    keys = {key for fields in recipes for key in fields}
    values = {key: {str(fields.get(key)) for fields in recipes} for key in keys}
    return {key for key in keys if len(values[key]) > 1} - {"name"}


def train_players(trainable, batch, steps, until=lambda losses: False):
    """Train on one batch, and return the losses of every player.

    until: what tells from the losses so far that no more steps are needed
    """
    optimizers = {player: torch.optim.Adam(p, lr=2e-3) for player, p in trainable.players().items()}
    losses = {player: [] for player in optimizers}
    for step in range(steps):
        for player, optimizer in optimizers.items():
            loss = trainable.loss(player, batch, RandomSource(step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses[player].append(float(loss.detach()))
        if until(losses):
            break
    return losses


def train_model(trainable, batch, steps, until=lambda losses: False):
    """Train on one batch, and return the losses of the only player."""
    return train_players(trainable, batch, steps, lambda losses: until(losses["model"]))["model"]
