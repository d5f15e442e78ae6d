"""Where a diffusion model's bits go: the bound of Eq. 5, term by term, with rate and distortion."""

from collections.abc import Callable
from dataclasses import dataclass

import torch

from course_lib.papers.ddpm import GaussianDiffusion, term_bits
from course_lib.shapes import Batch, Float, Tensor


@dataclass(frozen=True)
class Likelihood:
    """The bound on -log p(x_0) of n samples, in bits per dimension; axis t counts from 0.

    prior: L_T.  terms: L_0 at t = 0, then L_{t-1}.  x_start_mse and eps_mse: the squared error,
    averaged over a sample's values, of the clean image and of the noise that the network predicts
    at each step.
    """

    prior: Float[Tensor, " n"]
    terms: Float[Tensor, "n t"]
    x_start_mse: Float[Tensor, "n t"]
    eps_mse: Float[Tensor, "n t"]

    @property
    def total(self) -> Float[Tensor, " n"]:
        """The bound itself."""
        return self.prior + self.terms.sum(dim=1)

    @property
    def rate(self) -> Float[Tensor, " t"]:
        """Bits per dimension already sent to a receiver who has x_t: all of the terms above t."""
        above = self.terms.mean(dim=0).flip(0).cumsum(0).flip(0)[1:]
        return self.prior.mean() + torch.cat([above, above.new_zeros(1)])

    @property
    def distortion(self) -> Float[Tensor, " t"]:
        """Root mean squared error of the receiver's best guess from x_t, on a scale of 0 to 255."""
        return 127.5 * self.x_start_mse.mean(dim=0).sqrt()


@torch.no_grad()
def likelihood(
    diffusion: GaussianDiffusion,
    model: Callable,
    x_start: Batch,
    generator: torch.Generator | None = None,
    clip: bool = True,
) -> Likelihood:
    """Evaluate every term of the bound, one network call per step, noise drawn anew for each.

    x_start holds pixel values k / 127.5 - 1.  The estimate of x_0 is clipped, as in the papers'
    evaluations.
    """
    columns = []
    for step in range(diffusion.steps):
        t = torch.full((len(x_start),), step, device=x_start.device)
        noise = torch.randn(x_start.shape, generator=generator).to(x_start)
        x_t = diffusion.q_sample(x_start, t, noise)
        p = diffusion.p_mean_variance(model, x_t, t, clip)
        bits = term_bits(p.mean, p.log_variance, x_start, x_t, t, diffusion.betas)
        x_start_mse = (p.x_start - x_start).square().flatten(1).mean(1)
        eps_mse = (p.eps - noise).square().flatten(1).mean(1)
        columns.append(torch.stack([bits, x_start_mse, eps_mse]))
    terms, x_start_mse, eps_mse = torch.stack(columns, dim=-1).cpu()  # n t each
    return Likelihood(diffusion.prior_bits(x_start).cpu(), terms, x_start_mse, eps_mse)
