"""Linear few-shot accuracy in closed form (ViT, arXiv 2010.11929, section 4.1)."""

import torch

from course_lib.shapes import Float, Int, Tensor


def ridge(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n k"], penalty: float
) -> tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """The weights and the bias that minimise |features W + b - targets|^2 + penalty |W|^2.

    The bias is not penalised.  Solved in float64: features far from orthogonal cost digits.
    """
    x, y = features.double(), targets.double()
    centred, level = x - x.mean(0), y.mean(0)
    gram = centred.T @ centred + penalty * torch.eye(x.shape[1], dtype=x.dtype, device=x.device)
    weights = torch.linalg.solve(gram, centred.T @ (y - level))
    return weights.to(features), (level - x.mean(0) @ weights).to(features)


def few_shot_accuracy(
    train: tuple[Float[Tensor, "n d"], Int[Tensor, " n"]],
    test: tuple[Float[Tensor, "m d"], Int[Tensor, " m"]],
    shots: int,
    repeats: int = 5,
    penalty: float = 1.0,
) -> list[float]:
    """Accuracy on `test` of ridge regression from features to targets in {-1, 1}, on `shots`
    examples of each class.

    One number for each of `repeats` draws of the examples (seeds 0, 1, ...).  Features are first
    scaled to unit variance, so that one penalty suits all models.  Raises ValueError when a class
    has fewer than `shots` examples.
    """
    (x, label), (x_test, label_test) = train, test
    classes = int(label.max()) + 1
    counts = label.bincount(minlength=classes)
    if int(counts.min()) < shots:
        raise ValueError(
            f"expected at least {shots} examples of every class, got {counts.tolist()}"
        )
    mean, std = x.mean(0), x.std(0).clamp(min=1e-6)
    x, x_test = (x - mean) / std, (x_test - mean) / std
    accuracies = []
    for seed in range(repeats):
        order = torch.randperm(len(x), generator=torch.Generator().manual_seed(seed)).to(
            label.device
        )
        chosen = torch.cat([order[label[order] == k][:shots] for k in range(classes)])
        targets = 2 * torch.nn.functional.one_hot(label[chosen], classes).to(x) - 1
        weights, bias = ridge(x[chosen], targets, penalty)
        accuracies.append(float(((x_test @ weights + bias).argmax(1) == label_test).float().mean()))
    return accuracies
