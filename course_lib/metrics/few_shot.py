"""Linear few-shot accuracy in closed form (ViT, arXiv 2010.11929, section 4.1)."""

import torch
import torch.nn.functional as F

from course_lib.shapes import Float, Int, Tensor


def ridge(
    features: Float[Tensor, "n d"], targets: Float[Tensor, "n k"], penalty: float
) -> tuple[Float[Tensor, "d k"], Float[Tensor, " k"]]:
    """Return the weights and the bias that minimize |features W + b - targets|^2 + penalty |W|^2.

    The bias is not penalized.  Solved in float64, as features far from orthogonal cost digits.
    """
    x = features.double()
    y = targets.double()
    centred = x - x.mean(0)
    level = y.mean(0)
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
    """Fit `shots` examples of each class by ridge regression and return the accuracies on `test`.

    One for each of `repeats` draws of the examples (seeds 0, 1, ...).  Targets are in {-1, 1}.
    Features are first scaled to unit variance, so that one penalty suits all models.  Raises
    ValueError when a class has fewer than `shots` examples.
    """
    x, label = train
    x_test, label_test = test
    classes = int(label.max()) + 1
    counts = label.bincount(minlength=classes)
    if int(counts.min()) < shots:
        raise ValueError(
            f"expected at least {shots} examples of every class, got {counts.tolist()}"
        )
    mean = x.mean(0)
    std = x.std(0).clamp(min=1e-6)
    x = (x - mean) / std
    x_test = (x_test - mean) / std

    accuracies = []
    for seed in range(repeats):
        generator = torch.Generator().manual_seed(seed)
        order = torch.randperm(len(x), generator=generator).to(label.device)
        chosen = torch.cat([order[label[order] == k][:shots] for k in range(classes)])
        targets = 2 * F.one_hot(label[chosen], classes).to(x) - 1
        weights, bias = ridge(x[chosen], targets, penalty)
        answer = (x_test @ weights + bias).argmax(1)
        accuracies.append(float((answer == label_test).float().mean()))
    return accuracies
