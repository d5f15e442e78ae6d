"""The tokenizers' losses: every part in the units of pictures in [0, 1], and whom each of them
moves.
"""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from course_lib.losses.adversarial import LeCam
from course_lib.losses.video_tokenizer import TokenizerLoss
from course_lib.nn.stylegan_discriminator import StyleGANDiscriminator


def rand(*shape, seed=0):
    return (
        torch.rand(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
        - 1
    )


# logits of the clip are higher
CLIP, RECONSTRUCTION = rand(2, 3, 4, 5, 6).abs(), rand(2, 3, 4, 5, 6, seed=1)


class Curved(nn.Module):
    """A discriminator with a known slope: the mean of w x + x^2."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(0.7, dtype=torch.float64))

    def forward(self, x):
        return (self.w * x + x.square()).flatten(1).mean(1)


def distance(x, y):
    return (x - y).abs().mean((1, 2, 3))


def test_what_the_tokenizer_minimises_part_by_part():
    model = Curved()
    loss = TokenizerLoss(distance)
    total, parts = loss.generator_loss(
        CLIP, RECONSTRUCTION, torch.tensor(0.3, dtype=torch.float64), model
    )
    unit, rebuilt = (CLIP + 1) / 2, (RECONSTRUCTION + 1) / 2
    expected = {
        "squared": (unit - rebuilt).square().mean(),
        "perceptual": 0.1 * (CLIP - RECONSTRUCTION).abs().mean(),
        "adversarial": 0.1 * -F.logsigmoid(model(RECONSTRUCTION)).mean(),
        "quantizer": torch.tensor(0.3, dtype=torch.float64),
    }
    assert parts.keys() == expected.keys()
    for name, value in expected.items():
        torch.testing.assert_close(parts[name].detach(), value.detach())
    torch.testing.assert_close(total, sum(parts.values()))


def test_frames_are_judged_one_by_one():
    seen = []

    def watch(x, y):
        seen.append((x, y))
        return distance(x, y)

    TokenizerLoss(watch).generator_loss(CLIP, RECONSTRUCTION, torch.tensor(0.0), None)
    ((x, y),) = seen
    assert x.shape == y.shape == (8, 3, 5, 6)
    assert torch.equal(x[5], CLIP[1, :, 1]) and torch.equal(y[2], RECONSTRUCTION[0, :, 2])


def test_without_a_discriminator_or_a_perceptual_distance_they_have_no_part():
    parts = TokenizerLoss(None).generator_loss(CLIP, RECONSTRUCTION, torch.tensor(0.0), None)[1]
    assert parts.keys() == {"squared", "quantizer"}


def test_what_the_discriminator_minimises_part_by_part():
    model, lecam = Curved(), LeCam().double()
    reconstruction = RECONSTRUCTION.clone().requires_grad_()
    total, parts = TokenizerLoss(None).discriminator_loss(model, CLIP, reconstruction, lecam)
    real, fake = model(CLIP), model(RECONSTRUCTION)
    unit = ((CLIP + 1) / 2).requires_grad_()
    (slope,) = torch.autograd.grad(model(2 * unit - 1).sum(), unit, create_graph=True)
    torch.testing.assert_close(parts["game"], -(F.logsigmoid(real) + F.logsigmoid(-fake)).mean())
    torch.testing.assert_close(parts["r1"], 10 * slope.square().flatten(1).sum(1).mean())
    penalty = (
        F.relu(real - fake.mean()).square().mean() + F.relu(real.mean() - fake).square().mean()
    )
    assert penalty > 0.1
    torch.testing.assert_close(parts["lecam"], 0.001 * penalty)
    torch.testing.assert_close(total, sum(parts.values()))
    total.backward()
    assert model.w.grad is not None and reconstruction.grad is None and not CLIP.requires_grad


@pytest.mark.parametrize("weight", ["squared", "perceptual", "adversarial", "r1", "lecam"])
def test_every_weight_multiplies_its_own_part(weight):
    results = []
    for value in (1.0, 3.0):
        loss = TokenizerLoss(distance, **{f"{weight}_weight": value})
        results.append(
            loss.generator_loss(CLIP, RECONSTRUCTION, torch.tensor(0.3), Curved())[1]
            | loss.discriminator_loss(Curved(), CLIP, RECONSTRUCTION, LeCam().double())[1]
        )
    for name in results[0]:
        assert float((results[1][name] / results[0][name]).detach()) == pytest.approx(
            3.0 if name == weight else 1.0
        )


def test_the_discriminator_learns_in_full_precision_also_under_autocast():
    """A small one ends in maps of two frames, for which bfloat16 has given gradients of 1e35."""
    torch.manual_seed(0)
    model = StyleGANDiscriminator((16, 8, 8), 4, (2, 2, 2))
    clip, gradients = torch.rand(3, 3, 16, 8, 8) * 2 - 1, []
    for enabled in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            rebuilt = (clip / 2).bfloat16() if enabled else (clip / 2).bfloat16().float()
            total = TokenizerLoss(None).discriminator_loss(model, clip, rebuilt, LeCam())[0]
        gradients.append(torch.autograd.grad(total, list(model.parameters())))
    for ours, wanted in zip(*gradients, strict=True):
        assert ours.dtype == torch.float32 and torch.equal(ours, wanted)
