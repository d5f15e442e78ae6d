"""Whether a classifier's confidence means what it says (Guo et al., arXiv 1706.04599)."""

import torch
import torch.nn.functional as F

from course_lib.shapes import Float, Int, Tensor


def calibration_error(
    logits: Float[Tensor, "n k"], label: Int[Tensor, " n"], bins: int = 15
) -> float:
    """Return the expected calibration error, in [0, 1]; 0 is perfect.

    It is |accuracy - mean confidence| of the answers in each of `bins` equal ranges of confidence,
    averaged with the number of answers as weights.
    """
    confidence, answer = logits.softmax(1).max(1)
    right = (answer == label).to(confidence)
    bin_of = (confidence * bins).long().clamp(max=bins - 1)
    # Each bin's sum is count * (accuracy - mean confidence).
    gaps = torch.zeros(bins).to(confidence).index_add(0, bin_of, right - confidence)
    return float(gaps.abs().sum() / len(label))


def fit_temperature(logits: Float[Tensor, "n k"], label: Int[Tensor, " n"]) -> float:
    """Return the T > 0 that makes these labels most likely under softmax(logits / T)."""
    log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS([log_t], max_iter=50, line_search_fn="strong_wolfe")

    def loss() -> Tensor:
        optimizer.zero_grad()
        value = F.cross_entropy(logits.detach().cpu().double() / log_t.exp(), label.cpu())
        value.backward()
        return value

    with torch.enable_grad():
        optimizer.step(loss)
    return float(log_t.detach().exp())
