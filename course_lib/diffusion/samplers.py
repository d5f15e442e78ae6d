"""Samplers are plain functions: one step from x_t to x_s, given what the network said."""

from course_lib.shapes import Float, Tensor


def ddim_step(
    x_t: Float[Tensor, "b ..."],
    eps: Float[Tensor, "b ..."],
    alpha_bar: Float[Tensor, "..."],
    alpha_bar_prev: Float[Tensor, "..."],
    eta: float = 0.0,
    noise: Float[Tensor, "b ..."] | None = None,
) -> Float[Tensor, "b ..."]:
    """Take one DDIM step (Song et al. 2021, arXiv 2010.02502, Eq. 12 and 16).

    alpha_bar belongs to x_t and alpha_bar_prev to the less noisy x_s; both broadcast against x_t.
    eta = 0 is deterministic; eta = 1 has the variance of DDPM's posterior and needs `noise`.
    """
    x_start = (x_t - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt()
    variance = eta**2 * (1 - alpha_bar_prev) / (1 - alpha_bar) * (1 - alpha_bar / alpha_bar_prev)
    towards_x_t = (1 - alpha_bar_prev - variance).clamp(min=0).sqrt() * eps
    x_s = alpha_bar_prev.sqrt() * x_start + towards_x_t
    return x_s if noise is None else x_s + variance.sqrt() * noise
