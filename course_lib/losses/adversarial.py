"""The losses of a generator and its discriminator, from the discriminator's logits (b, ...)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course_lib.shapes import Batch, Float, Tensor

Logits = Float[Tensor, "..."]
Scalar = Float[Tensor, ""]


def non_saturating_generator_loss(fake: Logits) -> Scalar:
    """-log D(G(z)) (Goodfellow et al. 2014, arXiv 1406.2661, section 3), the mean over all logits."""
    return F.softplus(-fake).mean()


def non_saturating_discriminator_loss(real: Logits, fake: Logits) -> Scalar:
    """-log D(x) - log(1 - D(G(z))) (the same paper, Eq. 1), the mean over all logits."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def hinge_generator_loss(fake: Logits) -> Scalar:
    """-D(G(z)) (Lim and Ye 2017, "Geometric GAN", arXiv 1705.02894), the mean over all logits."""
    return -fake.mean()


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Scalar:
    """(max(0, 1 - D(x)) + max(0, 1 + D(G(z)))) / 2 (the same paper), the means over all logits.

    The half is VQGAN's code's (taming-transformers); the paper has the sum.
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    reconstruction_loss: Scalar,
    generator_loss: Scalar,
    last_layer: Tensor,
    delta: int | float = 1e-4,
) -> Scalar:
    """How much the generator's adversarial loss counts: |grad of reconstruction| / (|grad of
    adversarial| + delta).

    VQGAN (arXiv 2012.09841), Eq. 7.  The gradients are those of the decoder's last layer (its
    weight); the result has no gradient and is at most 1e4.  delta is 1e-6 in the paper and 1e-4 in
    its code.
    """
    norms = [
        torch.autograd.grad(loss, last_layer, retain_graph=True)[0].norm()
        for loss in (reconstruction_loss, generator_loss)
    ]
    return (norms[0] / (norms[1] + delta)).clamp(0, 1e4).detach()


def r1_penalty(real_images: Batch, logits: Logits) -> Scalar:
    """|grad of D(x)|^2 at real samples, their mean (Mescheder et al., arXiv 1801.04406: R1 without
    its gamma / 2).

    `real_images` must have required a gradient before D saw them; several logits of a sample
    (patches) are added up. The penalty can be differentiated again, with respect to D.
    """
    if not real_images.requires_grad:
        raise ValueError(
            "real_images: expected requires_grad, set before the discriminator sees them"
        )
    (gradient,) = torch.autograd.grad(logits.sum(), real_images, create_graph=True)  # b ...
    return gradient.square().flatten(1).sum(1).mean()


def lecam_penalty(
    real: Logits, fake: Logits, ema_real: Scalar | int | float, ema_fake: Scalar | int | float
) -> Scalar:
    """LeCam regularisation (Tseng et al., arXiv 2104.03310): D's logits do not run away from those
    of the other side.

    mean max(0, D(x) - ema_fake)^2 + mean max(0, ema_real - D(G(z)))^2, with moving averages of past
    mean logits.  The paper has no max; its code does: logits that have already passed the other
    side's mean are left alone.
    """
    return F.relu(real - ema_fake).square().mean() + F.relu(ema_real - fake).square().mean()


class LeCam(nn.Module):
    """`lecam_penalty` with the moving averages it needs, kept as buffers, so that a training
    resumes with them.

    `forward(real, fake)` first takes the batch into the averages, which weigh all batches so far
    and no start at 0 (as in the code).  Several processes take the mean of their batches.
    """

    def __init__(self, decay: float = 0.99):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("sums", torch.zeros(2))  # of real and fake logits
        # what the weights of all batches so far add up to
        self.register_buffer("mass", torch.zeros(()))

    def forward(self, real: Logits, fake: Logits) -> Scalar:
        """The penalty of this batch's logits."""
        self.update(real, fake)
        ema_real, ema_fake = self.sums / self.mass
        return lecam_penalty(real, fake, ema_real, ema_fake)

    @torch.no_grad()
    def update(self, real: Logits, fake: Logits) -> None:
        """Take the mean logits of a batch into the averages."""
        means = torch.stack([real.mean(), fake.mean()]).to(self.sums)
        if dist.is_initialized():
            dist.all_reduce(means)
            means = means / dist.get_world_size()
        self.sums.lerp_(means, 1 - self.decay)
        self.mass.lerp_(torch.ones_like(self.mass), 1 - self.decay)
