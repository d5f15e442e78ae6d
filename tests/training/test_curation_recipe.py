"""The recipe of the text detector: what it learns from, and that it learns."""

import torch

from course_lib.curation.text import TEXT_DETECTOR, WORKING_SIDE
from course_lib.training import find_recipe, load_checkpoint, results
from course_lib.training.recipes.curation import TextTrainable, planted_text
from tests.training.helpers import train_model

RECIPE = find_recipe(TEXT_DETECTOR)


def test_half_of_the_images_have_text_and_its_boxes_are_marked():
    train = planted_text("train", 60)
    assert train["pixels"].shape == (60, WORKING_SIDE, WORKING_SIDE, 3)
    assert train["mask"].shape == (60, WORKING_SIDE, WORKING_SIDE)
    written = train["mask"].flatten(1).any(1)
    assert 0.3 < float(written.float().mean()) < 0.7
    assert 0.05 < float(train["mask"][written].float().mean()) < 0.5
    again = planted_text("train", 20)
    assert torch.equal(again["pixels"], train["pixels"][:20])
    assert not torch.equal(planted_text("test", 20)["pixels"], again["pixels"])


def test_it_measures_what_it_stored():
    model, provenance = load_checkpoint(TEXT_DETECTOR)
    assert provenance["metrics"] == results(TEXT_DETECTOR)["metrics"]
    measured = provenance["metrics"]
    assert measured["precision"] > 0.85 and measured["recall"] > 0.85
    assert sum(p.numel() for p in model.parameters()) < 100_000


def test_its_loss_falls():
    trainable = RECIPE.build()
    assert isinstance(trainable, TextTrainable)
    losses = train_model(trainable, planted_text("train", 12), 8)
    assert losses[-1] < 0.8 * losses[0]
