"""How far a set of generated samples is from a set of real ones: the Fréchet distance.

Features are (n d): whatever a network that knows the data makes of each image (FID: Inception) or
clip (FVD: I3D; Unterthiner et al. 2018, arXiv 1812.01717).
"""

import torch

from course_lib.shapes import Float, Tensor


def frechet_distance(real: Float[Tensor, "n d"], fake: Float[Tensor, "m d"]) -> float:
    """Return the distance between the normals that fit the two sets (Heusel et al. 2017).

    With the sets' means and covariances, |mu_1 - mu_2|^2 + tr(C_1 + C_2 - 2 (C_1 C_2)^(1/2)).
    ValueError for fewer than two samples.
    """
    if min(len(real), len(fake)) < 2:
        raise ValueError(f"expected at least two samples a side, got {len(real)} and {len(fake)}")
    real = real.double()
    fake = fake.double()
    c_real = real.T.cov()
    c_fake = fake.T.cov()

    values, vectors = torch.linalg.eigh(c_real)
    root = (vectors * values.clamp(min=0).sqrt()) @ vectors.T
    # The eigenvalues of C_1 C_2 are those of the symmetric root C_2 root.
    product = torch.linalg.eigvalsh(root @ c_fake @ root).clamp(min=0)
    mean = (real.mean(0) - fake.mean(0)).square().sum()
    return float(mean + c_real.trace() + c_fake.trace() - 2 * product.sqrt().sum())
