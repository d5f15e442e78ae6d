"""Losses of a generator and its discriminator, from the discriminator's logits (b, ...)."""

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from course_lib.shapes import Batch, Float, Tensor

Logits = Float[Tensor, "..."]
Scalar = Float[Tensor, ""]


def non_saturating_generator_loss(fake: Logits) -> Scalar:
    """Return -log D(G(z)), the mean over all logits.

    Goodfellow et al. 2014, arXiv 1406.2661, section 3.
    """
    return F.softplus(-fake).mean()


def non_saturating_discriminator_loss(real: Logits, fake: Logits) -> Scalar:
    """Return -log D(x) - log(1 - D(G(z))), the mean over all logits (the same paper, Eq. 1)."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def hinge_generator_loss(fake: Logits) -> Scalar:
    """Return -D(G(z)), the mean over all logits.

    Lim and Ye 2017, "Geometric GAN", arXiv 1705.02894.
    """
    return -fake.mean()


def hinge_discriminator_loss(real: Logits, fake: Logits) -> Scalar:
    """Return (max(0, 1 - D(x)) + max(0, 1 + D(G(z)))) / 2, means over all logits (the same paper).

    The half is from VQGAN's code (taming-transformers); the paper has the sum.
    """
    return (F.relu(1 - real).mean() + F.relu(1 + fake).mean()) / 2


def adaptive_weight(
    reconstruction_loss: Scalar,
    generator_loss: Scalar,
    last_layer: Tensor,
    delta: int | float = 1e-4,
) -> Scalar:
    """VQGAN (arXiv 2012.09841), Eq. 7: return the weight of the generator's adversarial loss.

    It is |gradient of the reconstruction loss| / (|gradient of the generator's loss| + delta).  The
    gradients are those of the decoder's last layer (its weight); the result has no gradient and is
    at most 1e4.  delta is 1e-6 in the paper and 1e-4 in its code.
    """
    (r,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (g,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    weight = r.norm() / (g.norm() + delta)
    return weight.clamp(0, 1e4).detach()


def r1_penalty(real_images: Batch, logits: Logits) -> Scalar:
    """Return the mean of |grad of D(x)|^2 over real samples: R1 without its gamma / 2.

    Mescheder et al., arXiv 1801.04406.  Several logits of a sample (patches) are added up.  The
    penalty can be differentiated again, with respect to D.  Raises ValueError unless `real_images`
    required a gradient before D saw them.
    """
    wanted = "real_images: expected requires_grad, set before the discriminator sees them"
    if not (real_images.requires_grad and logits.requires_grad):
        raise ValueError(f"{wanted}; got none")
    (gradient,) = torch.autograd.grad(
        logits.sum(), real_images, create_graph=True, allow_unused=True
    )  # b ...
    if gradient is None:
        raise ValueError(f"{wanted}; got it set afterwards")
    return gradient.square().flatten(1).sum(1).mean()


def lecam_penalty(
    real: Logits, fake: Logits, ema_real: Scalar | int | float, ema_fake: Scalar | int | float
) -> Scalar:
    """Return the LeCam penalty, which keeps D's logits from running away from the other side's.

    mean max(0, D(x) - ema_fake)^2 + mean max(0, ema_real - D(G(z)))^2, with moving averages of past
    mean logits (Tseng et al., arXiv 2104.03310).  The paper has no max; its code does: logits that
    have already passed the other side's mean are left as they are.
    """
    return F.relu(real - ema_fake).square().mean() + F.relu(ema_real - fake).square().mean()


class LeCam(nn.Module):
    """`lecam_penalty` with its moving averages, kept as buffers, so that a run resumes with them.

    `forward(real, fake)` first updates the averages with the batch; they weigh all batches so far
    and no start at 0 (as in the code).  Several processes take the mean of their batches.
    """

    sums: Tensor
    mass: Tensor

    def __init__(self, decay: float = 0.99):
        super().__init__()
        if not 0 <= decay < 1:
            raise ValueError(f"decay: expected a number in [0, 1), got {decay}")
        self.decay = decay
        self.register_buffer("sums", torch.zeros(2))  # weighted sums of real and of fake logits
        self.register_buffer("mass", torch.zeros(()))  # the sum of all batches' weights

    def forward(self, real: Logits, fake: Logits) -> Scalar:
        """Return the penalty of this batch's logits."""
        self.update(real, fake)
        ema_real, ema_fake = self.sums / self.mass
        return lecam_penalty(real, fake, ema_real, ema_fake)

    @torch.no_grad()
    def update(self, real: Logits, fake: Logits) -> None:
        """Update the averages with the mean logits of a batch."""
        means = torch.stack([real.mean(), fake.mean()]).to(self.sums)
        if dist.is_initialized():
            dist.all_reduce(means)
            means = means / dist.get_world_size()
        self.sums.lerp_(means, 1 - self.decay)
        self.mass.lerp_(torch.ones_like(self.mass), 1 - self.decay)
