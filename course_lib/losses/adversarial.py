"""The losses of a generator and its discriminator, from the discriminator's logits (b, ...)."""

import torch.nn.functional as F

from course_lib.shapes import Float, Tensor


def non_saturating_generator_loss(fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """-log D(G(z)) (Goodfellow et al. 2014, arXiv 1406.2661, section 3), the mean over all logits."""
    return F.softplus(-fake).mean()


def non_saturating_discriminator_loss(real: Float[Tensor, "..."], fake: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """-log D(x) - log(1 - D(G(z))) (the same paper, Eq. 1), the mean over all logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()
