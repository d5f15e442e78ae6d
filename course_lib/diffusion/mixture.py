"""A mixture of Gaussians, for which everything about diffusion is known exactly.

Diffusing a mixture gives a mixture (every mean shrinks, every variance grows), so its
density, its score and the best possible denoiser have closed forms.  A trained network, a bound on
the likelihood and a sampler can all be compared with the truth.
"""

import math

import torch

from course_lib.shapes import Float, Tensor


class GaussianMixture:
    """Isotropic components with means (k d), standard deviations (k,) and weights (k,)."""

    def __init__(self, means: Tensor, stds: Tensor, weights: Tensor | None = None):
        self.means = means.double()
        self.variances = stds.double() ** 2
        weights = torch.ones(len(means)) if weights is None else weights
        self.weights = weights.double() / weights.double().sum()
        if not (len(self.means) == len(self.variances) == len(self.weights)):
            raise ValueError(
                "means, stds and weights: expected one entry per component, got "
                f"{len(self.means)}, {len(self.variances)} and {len(self.weights)}"
            )

    @classmethod
    def ring(
        cls, components: int = 8, radius: float = 0.75, std: float = 0.06
    ) -> "GaussianMixture":
        """Put equal components on a circle in the plane, inside [-1, 1]."""
        angle = torch.arange(components) * 2 * math.pi / components
        means = radius * torch.stack([angle.cos(), angle.sin()], dim=1)  # k 2
        return cls(means, torch.full((components,), std))

    def sample(self, n: int, generator: torch.Generator | None = None) -> Float[Tensor, "n d"]:
        """Draw n independent points, float32."""
        which = torch.multinomial(self.weights, n, replacement=True, generator=generator)
        noise = torch.randn(n, self.means.shape[1], generator=generator, dtype=torch.float64)
        return (self.means[which] + self.variances[which].sqrt()[:, None] * noise).float()

    def diffused(self, alpha_bar: float) -> "GaussianMixture":
        """Return the mixture after q(x_t | x_0).

        Its means are multiplied by sqrt(alpha_bar), its variances pulled towards 1.
        """
        stds = (alpha_bar * self.variances + 1 - alpha_bar).sqrt()
        return GaussianMixture(math.sqrt(alpha_bar) * self.means, stds, self.weights)

    def log_prob(self, x: Float[Tensor, "n d"]) -> Float[Tensor, " n"]:
        """Return the exact log density in nats."""
        return self._joint(x).logsumexp(dim=1)

    def score(self, x: Float[Tensor, "n d"]) -> Float[Tensor, "n d"]:
        """Return the gradient of log_prob at x.

        It is a pull towards each mean, weighted by the probability that x came from that component.
        """
        whose = self._joint(x).softmax(dim=1)  # n k
        pulls = (self.means - x.double()[:, None]) / self.variances[:, None]  # n k d
        return (whose[..., None] * pulls).sum(dim=1)

    def best_eps(self, x_t: Float[Tensor, "n d"], alpha_bar: float) -> Float[Tensor, "n d"]:
        """Return E[eps | x_t], which no network can beat.

        It is -sqrt(1 - alpha_bar) times the diffused score.
        """
        score = self.diffused(alpha_bar).score(x_t)
        return (-math.sqrt(1 - alpha_bar) * score).to(x_t.dtype)

    def _joint(self, x: Tensor) -> Tensor:
        """Return the log of weight times density, per component (n k)."""
        squared = ((x.double()[:, None] - self.means) ** 2).sum(dim=2)  # n k
        dims = self.means.shape[1]
        log_volume = dims * torch.log(2 * math.pi * self.variances)  # k
        log_density = -0.5 * (squared / self.variances + log_volume)  # n k
        return log_density + self.weights.log()
