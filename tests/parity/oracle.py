"""The equations of DDPM and Improved DDPM, number by number, in plain Python floats (float64).

Steps are the papers', t = 1..T, and `betas[t - 1]` is beta_t.  Nothing here is vectorized,
rearranged or shared with the library, so that a mistake there cannot be repeated here.
"""

import math
from itertools import pairwise


def linear_betas(T):
    """Section 4: from 1e-4 to 0.02, times 1000 / T."""
    return [1000 / T * (1e-4 + (0.02 - 1e-4) * i / (T - 1)) for i in range(T)]


def cosine_betas(T, s=0.008):
    """Improved DDPM, Eq. 17: beta_t = 1 - alpha_bar_t / alpha_bar_{t-1}, at most 0.999."""

    def f(t):
        return math.cos((t / T + s) / (1 + s) * math.pi / 2) ** 2

    return [min(1 - f(t) / f(t - 1), 0.999) for t in range(1, T + 1)]


class Oracle:
    """Every quantity of a chain with these betas."""

    def __init__(self, betas):
        self.T = len(betas)
        self.beta = [None, *betas]
        self.alpha = [None, *(1 - beta for beta in betas)]
        self.alpha_bar = [1.0]
        for t in range(1, self.T + 1):
            self.alpha_bar.append(self.alpha_bar[-1] * self.alpha[t])

    def q_sample(self, x0, t, eps):
        """Eq. 4 with the noise given."""
        return math.sqrt(self.alpha_bar[t]) * x0 + math.sqrt(1 - self.alpha_bar[t]) * eps

    def posterior_mean(self, x0, xt, t):
        """Eq. 7, by Bayes' rule: two Gaussians in x_{t-1}, their precisions and weighted means."""
        if t == 1:
            return x0
        prior = 1 / (1 - self.alpha_bar[t - 1])
        likelihood = self.alpha[t] / self.beta[t]
        weighted_x0 = prior * math.sqrt(self.alpha_bar[t - 1]) * x0
        weighted_xt = likelihood * xt / math.sqrt(self.alpha[t])
        return (weighted_x0 + weighted_xt) / (prior + likelihood)

    def posterior_variance(self, t):
        """Eq. 7, by the same product."""
        if t == 1:
            return 0.0
        return 1 / (1 / (1 - self.alpha_bar[t - 1]) + self.alpha[t] / self.beta[t])

    def posterior_log_variance(self, t):
        """The code's convention: beta-tilde_2 replaces beta-tilde_1 = 0."""
        return math.log(self.posterior_variance(max(t, 2)))

    def mean_from_eps(self, xt, t, eps):
        """Eq. 11."""
        without_eps = xt - self.beta[t] / math.sqrt(1 - self.alpha_bar[t]) * eps
        return without_eps / math.sqrt(self.alpha[t])

    def x0_from_eps(self, xt, t, eps):
        """Eq. 15."""
        return (xt - math.sqrt(1 - self.alpha_bar[t]) * eps) / math.sqrt(self.alpha_bar[t])

    def weight(self, t, variance):
        """The factor of Eq. 12."""
        return self.beta[t] ** 2 / (2 * variance * self.alpha[t] * (1 - self.alpha_bar[t]))

    def learned_log_variance(self, v, t):
        """Improved DDPM, Eq. 15, with the network's v in [-1, 1] brought to [0, 1]."""
        share = (v + 1) / 2
        return share * math.log(self.beta[t]) + (1 - share) * self.posterior_log_variance(t)

    def term(self, x0, xt, t, mean, log_variance):
        """Eq. 5, one dimension, in bits: L_{t-1} for t > 1, L_0 for t = 1."""
        if t == 1:
            return nll(x0, mean, math.exp(0.5 * log_variance)) / math.log(2)
        true = (self.posterior_mean(x0, xt, t), self.posterior_log_variance(t))
        return kl(*true, mean, log_variance) / math.log(2)

    def prior(self, x0):
        """Eq. 5, L_T, one dimension, in bits."""
        a = self.alpha_bar[self.T]
        return 0.5 * (a * x0**2 - a - math.log1p(-a)) / math.log(2)

    def respaced(self, kept):
        """Improved DDPM, Eq. 19, for kept steps S_1 < S_2 < ... of the paper."""
        steps = [0, *kept]
        return [1 - self.alpha_bar[b] / self.alpha_bar[a] for a, b in pairwise(steps)]


def kl(mean1, log_variance1, mean2, log_variance2):
    """KL between two normals, in nats."""
    difference = log_variance1 - log_variance2
    return 0.5 * (
        math.expm1(difference) - difference + (mean1 - mean2) ** 2 / math.exp(log_variance2)
    )


def tail(z):
    """The mass of the standard normal above z."""
    return 0.5 * math.erfc(z / math.sqrt(2))


def nll(x, mean, sigma, floor=1e-12):
    """Eq. 13, one dimension, in nats: the integral over the pixel's bin, its ends open at -1 and 1.

    A mass below `floor` counts as `floor`, as in both papers' code.
    """
    low = -math.inf if x == -1 else (x - 1 / 255 - mean) / sigma
    high = math.inf if x == 1 else (x + 1 / 255 - mean) / sigma
    if low + high < 0:  # mirrored, so that two small numbers are subtracted, not two near 1
        low, high = -high, -low
    return -math.log(max(tail(low) - tail(high), floor))


def importance(history, uniform):
    """Improved DDPM, Eq. 18: p_t and 1 / (T p_t), a share `uniform` of p spread evenly."""
    root = [math.sqrt(sum(loss**2 for loss in losses) / len(losses)) for losses in history]
    T = len(history)
    p = [(1 - uniform) * r / sum(root) + uniform / T for r in root]
    return p, [1 / (T * each) for each in p]
