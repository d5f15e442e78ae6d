"""The judge that ships reads the little world."""

import torch

from course_lib.data import images
from course_lib.metrics import Judge, JudgeConfig
from course_lib.training import load_checkpoint
from course_lib.training.recipes.ddpm import compare_sets, large_objects
from course_lib.world import pixels_to_float


def test_shapes_and_confidence_of_any_size():
    judge = Judge(JudgeConfig(width=8, features=5)).eval()
    image = torch.rand(3, 3, 12, 20) * 2 - 1
    assert {name: tuple(x.shape) for name, x in judge(image).items()} == {
        "shape": (3, 4),
        "colour": (3, 8),
    }
    assert judge.features(image).shape == (3, 5)
    assert ((judge.confidence(image) > 0) & (judge.confidence(image) <= 1)).all()


def test_the_shipped_judge_reads_unseen_images_and_is_unsure_of_noise():
    judge, provenance = load_checkpoint("judge-16")
    test = images("test", 200, 16, scale="large")
    pixels = pixels_to_float(test["pixels"])
    logits = judge(pixels)
    for name in ("shape", "colour"):
        accuracy = (logits[name].argmax(1) == test[name]).float().mean()
        assert accuracy > 0.97
        assert abs(float(accuracy) - provenance["metrics"][f"{name} accuracy"]) < 0.03
    noise = torch.randn(200, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert judge.confidence(pixels).mean() > judge.confidence(noise).mean() + 0.2


def test_images_resemble_images_and_not_noise():
    one, two = large_objects("test", 300, 16).split(150)
    noise = torch.randn(150, 3, 16, 16, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    alike, far = compare_sets(one, two), compare_sets(one, noise)
    assert alike["frechet"] * 5 < far["frechet"]
    assert alike["precision"] > 0.6 and alike["recall"] > 0.6 and far["precision"] < 0.1
    assert alike["recognised"] > 0.95
