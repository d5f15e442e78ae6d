"""How many generated samples look real, and how much of the real data they cover.

Features are (n d): whatever a network that knows the data makes of each image or clip.
"""

import torch

from course_lib.shapes import Float, Tensor


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3
) -> tuple[float, float]:
    """Return improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Precision: the share of fakes inside the real samples' manifold, the union of balls that reach
    from each real sample to its k-th nearest neighbour.  Recall: the share of reals inside the
    fakes' manifold.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"expected more than k = {k} samples a side, got {len(real)} and {len(fake)}"
        )
    return _inside(fake, real, k), _inside(real, fake, k)


def _inside(points: Tensor, support: Tensor, k: int) -> float:
    """Return the share of points within the support's k-nearest-neighbour balls."""
    # k + 1, because the nearest of all is the sample itself.
    radii = torch.cdist(support, support).kthvalue(k + 1, dim=1).values
    inside = (torch.cdist(points, support) <= radii).any(dim=1)
    return float(inside.float().mean())
