"""The judges' frame, and the two judges that ship."""

import pytest
import torch
from torch import nn

from course_lib.metrics import CLIP_LABELS, IMAGE_LABELS, LabelJudge
from course_lib.training import load_checkpoint, results
from course_lib.training.recipes.vit import judge_images, reading_scores
from course_lib.training.recipes.vivit import judge_clips
from course_lib.world import VOCABULARY, pixels_to_float


class Flat(nn.Module):
    """Logits that are the input itself."""

    def features(self, x):
        return x.flatten(1)

    def forward(self, x):
        return x.flatten(1)


def test_the_logits_are_split_in_order_and_divided_by_each_temperature():
    judge = LabelJudge(Flat(), {"a": 2, "b": 3})
    judge.temperature.copy_(torch.tensor([1.0, 2.0]))
    x = torch.tensor([[1.0, 3.0, 2.0, 8.0, 4.0]])
    logits = judge(x)
    assert logits["a"].tolist() == [[1.0, 3.0]] and logits["b"].tolist() == [[1.0, 4.0, 2.0]]
    assert {name: int(v) for name, v in judge.read(x).items()} == {"a": 1, "b": 1}
    expected = logits["a"].softmax(1).max() * logits["b"].softmax(1).max()
    assert float(judge.confidence(x)) == pytest.approx(float(expected))
    assert "temperature" in judge.state_dict()


def test_labels_have_as_many_values_as_the_world():
    for name, n in {**IMAGE_LABELS, **CLIP_LABELS}.items():
        assert n == len(VOCABULARY[name])


JUDGES = {"vit-judge": (judge_images, 300), "vivit-judge": (judge_clips, 60)}


@pytest.mark.parametrize("name", JUDGES)
def test_a_shipped_judge_reads_what_it_has_not_seen_as_well_as_its_results_say(name):
    labelled, n = JUDGES[name]
    judge, provenance = load_checkpoint(name)
    test = labelled("test", n, seed=7)
    scores = reading_scores(judge, test)
    assert results(name)["metrics"] == provenance["metrics"]
    for label in judge.labels:
        stated = provenance["metrics"][f"{label} accuracy"]
        known = int((test[label] >= 0).sum())
        error = max((stated * (1 - stated) / known) ** 0.5, 0.01)
        assert abs(scores[f"{label} accuracy"] - stated) < 4 * error, label


def test_the_image_judge_is_surer_of_images_than_of_noise():
    judge, _ = load_checkpoint("vit-judge")
    seen = pixels_to_float(judge_images("test", 100)["pixels"])
    noise = torch.randn(seen.shape, generator=torch.Generator().manual_seed(0)).clamp(-1, 1)
    assert judge.confidence(seen).mean() > judge.confidence(noise).mean() + 0.2
