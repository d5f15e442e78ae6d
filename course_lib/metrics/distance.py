"""How far a set of generated samples is from a set of real ones, in the space of some features.

Features are (n d): whatever a network that knows the data makes of each picture or clip.
"""

import torch

from course_lib.shapes import Float, Tensor


def frechet_distance(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Distance between the normals that have the two sets' means and covariances (Heusel et al.
    2017).

    |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)).  ValueError for fewer than two samples.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"at least two samples a side are needed, got {len(real)} and {len(fake)}")
    real, fake = real.double(), fake.double()
    c_real, c_fake = real.T.cov(), fake.T.cov()
    values, vectors = torch.linalg.eigh(c_real)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # The eigenvalues of C_1 C_2 are those of the symmetric root C_2 root.
    product = torch.linalg.eigvalsh(root @ c_fake @ root).clamp(min=0)
    mean = (real.mean(0) - fake.mean(0)).square().sum()
    return float(mean + c_real.trace() + c_fake.trace() - 2 * product.sqrt().sum())


def precision_recall(
    real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"], k: int = 3
) -> tuple[float, float]:
    """Improved precision and recall (Kynkaanniemi et al. 2019, arXiv 1904.06991).

    Precision: the share of fakes inside the real samples' manifold, the union of balls that reach
    from each real sample to its k-th nearest neighbour.  Recall: the share of reals inside the
    fakes' manifold.
    """
    if min(len(real), len(fake)) <= k:
        raise ValueError(
            f"more than k = {k} samples a side are needed, got {len(real)} and {len(fake)}"
        )
    return _inside(fake, real, k), _inside(real, fake, k)


def _inside(points: Tensor, support: Tensor, k: int) -> float:
    """The share of points within the support's k-nearest-neighbour balls."""
    # the nearest is the sample itself
    radii = torch.cdist(support, support).kthvalue(k + 1, dim=1).values
    return float((torch.cdist(points, support) <= radii).any(dim=1).float().mean())
