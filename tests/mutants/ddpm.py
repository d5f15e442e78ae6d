"""Answers to the exercises of notebook 01: more wrong ones, and right ones written differently."""

import itertools
import math

import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

from course_lib.diffusion import schedules
from course_lib.papers import ddpm, improved_ddpm


def wide(table, t, x):
    """Return a table's entry per sample, shaped to multiply x."""
    return table[t].reshape(len(t), *[1] * (x.ndim - 1))


# ---------------------------------------------------------------- wrong


def q_sample_clamped_table(x_start, t, noise, alphas_cumprod):
    return ddpm.q_sample(x_start, t, noise, alphas_cumprod.clamp(0.01, 0.99))


def q_sample_two_mistakes(x_start, t, noise, alphas_cumprod):
    a = alphas_cumprod[t][:, None, None, None]
    return a * x_start + (1 - a) * noise


def q_sample_without_single_axes(x_start, t, noise, alphas_cumprod):
    return ddpm.q_sample(x_start, t, noise, alphas_cumprod).squeeze()


def q_sample_own_noise(x_start, t, noise, alphas_cumprod):
    return ddpm.q_sample(x_start, t, torch.randn_like(noise), alphas_cumprod)


def posterior_mean_only(x_start, x_t, t, betas):
    return ddpm.posterior_mean_variance(x_start, x_t, t, betas)[0]


def posterior_flat_variance(x_start, x_t, t, betas):
    mean, variance = ddpm.posterior_mean_variance(x_start, x_t, t, betas)
    return mean, variance.flatten()


def kl_summed(mean1, log_variance1, mean2, log_variance2):
    return ddpm.normal_kl(mean1, log_variance1, mean2, log_variance2).sum()


def loss_without_time(model, x_start, t, noise, alphas_cumprod):
    return ddpm.simple_loss(
        lambda x, t: model(x, torch.zeros_like(t)), x_start, t, noise, alphas_cumprod
    )


def loss_without_gradient(model, x_start, t, noise, alphas_cumprod):
    with torch.no_grad():
        return ddpm.simple_loss(model, x_start, t, noise, alphas_cumprod)


def loss_of_flat_samples(model, x_start, t, noise, alphas_cumprod):
    x_t = ddpm.q_sample(x_start, t, noise, alphas_cumprod).flatten(1)
    return (noise.flatten(1) - model(x_t, t)).square().mean(1)


def noise_by_the_last_sample(x_t, t, eps, noise, betas):
    mean = ddpm.predict_mean(x_t, t, eps, betas)
    return mean + wide(betas.sqrt(), t, x_t) * noise * float(t[-1] > 0)


def noise_but_at_the_start(x_t, t, eps, noise, betas):
    last = len(betas) - 1
    return ddpm.sample_step(x_t, t, eps, noise * wide(torch.arange(last + 1) < last, t, x_t), betas)


def kl_with_narrow_normals_widened(mean1, log_variance1, mean2, log_variance2):
    return ddpm.normal_kl(mean1, log_variance1.clamp(min=-8), mean2, log_variance2.clamp(min=-8))


def kl_of_one_shape(mean1, log_variance1, mean2, log_variance2):
    v1, v2 = log_variance1.exp(), log_variance2.exp()
    out = torch.empty_like(log_variance1)
    out[:] = (torch.log(v2 / v1) + (v1 + (mean1 - mean2) ** 2) / v2 - 1) / 2
    return out


def nll_one_open_end(x, mean, log_scale):
    normal = Normal(mean, log_scale.exp())
    above = torch.where(x > 0.999, 1.0, normal.cdf(x + 1 / 255))
    return -(above - normal.cdf(x - 1 / 255)).clamp(min=1e-12).log()


def nll_with_another_clamp(x, mean, log_scale):
    return ddpm.discretized_nll(x, mean, log_scale).clamp(max=-math.log(1e-10))


def nll_wide_ends(x, mean, log_scale):
    ends = torch.where(x.abs() > 0.99, x.sign(), x)
    return ddpm.discretized_nll(ends, mean + ends - x, log_scale)


def nll_in_bits(x, mean, log_scale):
    return ddpm.discretized_nll(x, mean, log_scale) / math.log(2)


def range_one_variance_for_all(v, t, betas):
    return improved_ddpm.learned_range_variance(v, torch.full_like(t, int(t[0])), betas)


def range_with_the_first_beta(v, t, betas):
    share = (v + 1) / 2
    small = torch.cat([betas[:1], ddpm.posterior_variance(betas)[1:]])
    return share * wide(betas.log(), t, v) + (1 - share) * wide(small.log(), t, v)


def hybrid_v_detached(output, x_start, x_t, t, noise, betas):
    eps, v = output.chunk(2, dim=1)
    vlb = improved_ddpm.vlb_term(eps.detach(), v.detach(), x_start, x_t, t, betas)
    return (noise - eps).square().flatten(1).mean(1) + 0.001 * len(betas) * vlb


def hybrid_all_eps_detached(output, x_start, x_t, t, noise, betas):
    eps, v = output.chunk(2, dim=1)
    vlb = improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas)
    return (noise - eps.detach()).square().flatten(1).mean(1) + 0.001 * len(betas) * vlb


def hybrid_in_nats(output, x_start, x_t, t, noise, betas):
    eps, v = output.chunk(2, dim=1)
    vlb = improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas) * math.log(2)
    return (noise - eps).square().flatten(1).mean(1) + 0.001 * len(betas) * vlb


def cosine_single(timesteps, s=0.008):
    return schedules.cosine_alphas_cumprod(timesteps, s).float()


def cosine_offset_not_renormalized(timesteps, s=0.008):
    t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
    f = torch.cos((t + s) * math.pi / 2).square()
    return f[1:] / f[0]


def importance_sum_over_steps(history, uniform=0.001):
    spread = history.square().mean(0).sqrt()
    p = (1 - uniform) * spread / spread.sum() + uniform / len(spread)
    return p, 1 / (len(p) * p)


def importance_with_its_own_share(history, uniform=0.001):
    return improved_ddpm.importance_weights(history)


def importance_probabilities_only(history, uniform=0.001):
    return improved_ddpm.importance_weights(history, uniform)[0]


def respace_clipped(betas, kept):
    return improved_ddpm.respace(betas, kept).clamp(max=0.999)


def respace_mean(betas, kept):
    return improved_ddpm.respace(betas, kept) * 0 + betas.mean()


def respace_product_of_betas(betas, kept):
    return 1 - torch.tensor([float(betas.detach()[: k + 1].prod()) for k in kept])


WRONG = {
    "ddpm.q_sample": {
        "clamped_table": q_sample_clamped_table,
        "two_mistakes": q_sample_two_mistakes,
        "without_single_axes": q_sample_without_single_axes,
        "own_noise": q_sample_own_noise,
    },
    "ddpm.predict_x_start": {
        "clipped": (
            lambda x_t, t, eps, alphas_cumprod: ddpm.predict_x_start(
                x_t, t, eps, alphas_cumprod
            ).clamp(-1, 1)
        ),
        "step_before_or_first": lambda x_t, t, eps, alphas_cumprod: ddpm.predict_x_start(
            x_t, (t - 1).clamp(min=0), eps, alphas_cumprod
        ),
        "alpha_bar_kept_off_zero": lambda x_t, t, eps, alphas_cumprod: ddpm.predict_x_start(
            x_t, t, eps, alphas_cumprod.clamp(min=1e-3)
        ),
    },
    "ddpm.posterior_mean_variance": {
        "mean_only": posterior_mean_only,
        "flat_variance": posterior_flat_variance,
    },
    "ddpm.normal_kl": {
        "summed": kl_summed,
        "absolute": lambda mean1, log_variance1, mean2, log_variance2: (
            ddpm.normal_kl(mean1, log_variance1, mean2, log_variance2).abs() + 1e-2
        ),
        "narrow_normals_widened": kl_with_narrow_normals_widened,
        "of_one_shape": kl_of_one_shape,
    },
    "ddpm.simple_loss": {
        "without_time": loss_without_time,
        "without_gradient": loss_without_gradient,
        "of_flat_samples": loss_of_flat_samples,
    },
    "ddpm.sample_step": {
        "noise_by_the_last_sample": noise_by_the_last_sample,
        "noise_but_at_the_start": noise_but_at_the_start,
    },
    "ddpm.discretised_nll": {
        "one_open_end": nll_one_open_end,
        "another_clamp": nll_with_another_clamp,
        "wide_ends": nll_wide_ends,
        "in_bits": nll_in_bits,
    },
    "ddpm.learned_range_variance": {
        "one_for_all": range_one_variance_for_all,
        "with_the_first_beta": range_with_the_first_beta,
    },
    "ddpm.hybrid_loss": {
        "v_detached": hybrid_v_detached,
        "all_eps_detached": hybrid_all_eps_detached,
        "in_nats": hybrid_in_nats,
    },
    "ddpm.cosine_alphas_cumprod": {
        "single": cosine_single,
        "offset_not_renormalized": cosine_offset_not_renormalized,
    },
    "ddpm.importance_weights": {
        "sum_over_steps": importance_sum_over_steps,
        "probabilities_only": importance_probabilities_only,
        "its_own_share": importance_with_its_own_share,
    },
    "ddpm.respace": {
        "mean": respace_mean,
        "product_of_betas": respace_product_of_betas,
        "clipped": respace_clipped,
    },
}


# ---------------------------------------------------------------- right, written differently


def q_sample_by_items(x_start, t, noise, alphas_cumprod):
    rows = []
    for x, step, e in zip(x_start, t.tolist(), noise, strict=True):
        a = float(alphas_cumprod[step])
        rows.append(math.sqrt(a) * x + math.sqrt(1 - a) * e)
    return torch.stack(rows)


def q_sample_by_variance(x_start, t, noise, alphas_cumprod):
    a = wide(alphas_cumprod, t, x_start)
    return torch.lerp(torch.zeros_like(x_start), x_start, a**0.5) + noise.mul((1 - a) ** 0.5)


def q_sample_in_numpy(x_start, t, noise, alphas_cumprod):
    a = alphas_cumprod.numpy()[t.numpy()].reshape(-1, *[1] * (x_start.ndim - 1))
    return torch.from_numpy(a**0.5 * x_start.numpy() + (1 - a) ** 0.5 * noise.numpy())


def predict_factored(x_t, t, eps, alphas_cumprod):
    a = wide(alphas_cumprod.double(), t, x_t)
    return ((x_t - (1 - a).sqrt() * eps) / a.sqrt()).to(x_t)


def predict_by_ratio(x_t, t, eps, alphas_cumprod):
    ratio = ((1 - alphas_cumprod) / alphas_cumprod).sqrt()
    return x_t * wide(alphas_cumprod, t, x_t).rsqrt() - wide(ratio, t, x_t) * eps


def posterior_by_precision(x_start, x_t, t, betas):
    a = (1 - betas).cumprod(0)
    previous = F.pad(a[:-1], (1, 0), value=1.0)
    variance = (1 - previous) / (1 - a) * betas
    mean = (previous.sqrt() * betas)[t].reshape(-1, *[1] * (x_t.ndim - 1)) * x_start
    mean = mean + wide((1 - betas).sqrt() * (1 - previous), t, x_t) * x_t
    return mean / wide(1 - a, t, x_t), wide(variance, t, x_t)


def posterior_by_items(x_start, x_t, t, betas):
    means = []
    variances = []
    for x, y, step in zip(x_start, x_t, t.tolist(), strict=True):
        a = float((1 - betas[: step + 1]).prod())
        before = float((1 - betas[:step]).prod())
        beta = float(betas[step])
        weighted = math.sqrt(before) * beta * x + math.sqrt(1 - beta) * (1 - before) * y
        means.append(weighted / (1 - a))
        variances.append((1 - before) / (1 - a) * beta)
    variances = torch.tensor(variances, dtype=x_t.dtype)
    return torch.stack(means), variances.reshape(-1, *[1] * (x_t.ndim - 1))


def kl_by_distributions(mean1, log_variance1, mean2, log_variance2):
    first = Normal(mean1, (0.5 * log_variance1).exp())
    second = Normal(mean2, (0.5 * log_variance2).exp())
    return kl_divergence(first, second)


def kl_by_variances(mean1, log_variance1, mean2, log_variance2):
    v1 = log_variance1.exp()
    v2 = log_variance2.exp()
    return (torch.log(v2 / v1) + (v1 + (mean1 - mean2) ** 2) / v2 - 1) / 2


def loss_by_mse(model, x_start, t, noise, alphas_cumprod):
    a = wide(alphas_cumprod, t, x_start)
    guess = model(a.sqrt() * x_start + (1 - a).sqrt() * noise, t)
    return F.mse_loss(guess, noise, reduction="none").flatten(1).mean(dim=1)


def loss_by_axes(model, x_start, t, noise, alphas_cumprod):
    error = noise - model(ddpm.q_sample(x_start, t, noise, alphas_cumprod), t)
    return (error**2).mean(dim=tuple(range(1, error.ndim)))


def step_by_posterior(x_t, t, eps, noise, betas):
    x_start = ddpm.predict_x_start(x_t, t, eps, (1 - betas).cumprod(0))
    mean, _ = ddpm.posterior_mean_variance(x_start, x_t, t, betas)
    sigma = betas.sqrt()  # a new tensor
    sigma[0] = 0
    return mean + wide(sigma, t, x_t) * noise


@torch.no_grad()
def step_without_gradient(x_t, t, eps, noise, betas):
    return ddpm.sample_step(x_t, t, eps, noise, betas)


def loss_of_noised_data(model, x_start, t, noise, alphas_cumprod):
    with torch.no_grad():
        x_t = ddpm.q_sample(x_start, t, noise, alphas_cumprod)
    return (model(x_t, t) - noise).pow(2).flatten(1).mean(1)


def step_by_items(x_t, t, eps, noise, betas):
    alphas = 1 - betas
    a = alphas.cumprod(0)
    rows = []
    for x, step, e, z in zip(x_t, t.tolist(), eps, noise, strict=True):
        mean = (x - betas[step] / (1 - a[step]) ** 0.5 * e) / alphas[step] ** 0.5
        rows.append(mean + betas[step] ** 0.5 * z if step else mean)
    return torch.stack(rows)


def nll_by_normal(x, mean, log_scale):
    normal = Normal(mean, log_scale.exp())
    above = torch.where(x > 0.999, torch.ones_like(x), normal.cdf(x + 1 / 255))
    below = torch.where(x < -0.999, torch.zeros_like(x), normal.cdf(x - 1 / 255))
    return -(above - below).clamp(min=1e-12).log()


def nll_by_erf(x, mean, log_scale):
    def cdf(at):
        return 0.5 * (1 + torch.erf((at - mean) / (math.sqrt(2) * log_scale.exp())))

    upper = torch.where(x > 0.999, torch.tensor(math.inf), x + 1 / 255)
    lower = torch.where(x < -0.999, torch.tensor(-math.inf), x - 1 / 255)
    mass = cdf(upper) - cdf(lower)
    return -torch.log(torch.maximum(mass, torch.tensor(1e-12)))


def range_by_lerp(v, t, betas):
    small = ddpm.posterior_log_variance(betas)
    lower = wide(small, t, v).expand_as(v)
    upper = wide(betas.log(), t, v).expand_as(v)
    return torch.lerp(lower, upper, 0.5 * v + 0.5)


def range_by_product(v, t, betas):
    small = ddpm.posterior_log_variance(betas).exp()
    share = (v + 1) / 2
    return share * wide(betas, t, v).log() + wide(small, t, v).log() * (1 - share)


def hybrid_by_slices(output, x_start, x_t, t, noise, betas):
    c = x_t.shape[1]
    eps = output[:, :c]
    v = output[:, c:]
    vlb = improved_ddpm.vlb_term(eps.clone().detach(), v, x_start, x_t, t, betas)
    return F.mse_loss(eps, noise, reduction="none").mean(dim=(1, 2, 3)) + vlb * len(betas) / 1000


def hybrid_by_no_grad(output, x_start, x_t, t, noise, betas):
    eps, v = torch.split(output, x_t.shape[1], dim=1)
    with torch.no_grad():
        mean = ddpm.predict_mean(x_t, t, eps, betas)
    log_variance = improved_ddpm.learned_range_variance(v, t, betas)
    vlb = ddpm.term_bits(mean, log_variance, x_start, x_t, t, betas)
    return ((noise - eps) ** 2).flatten(1).mean(1) + 1e-3 * betas.numel() * vlb


def cosine_by_loop(timesteps, s=0.008):
    def f(t):
        return math.cos((t / timesteps + s) / (1 + s) * math.pi / 2) ** 2

    return torch.tensor([f(t) / f(0) for t in range(1, timesteps + 1)], dtype=torch.float64)


def cosine_by_double_angle(timesteps, s=0.008):
    t = torch.linspace(1 / timesteps, 1, timesteps, dtype=torch.float64)
    return (1 + torch.cos((t + s) / (1 + s) * math.pi)) / (1 + math.cos(s / (1 + s) * math.pi))


def importance_by_norm(history, uniform=0.001):
    size = torch.linalg.vector_norm(history, dim=1)
    p = size / size.sum() * (1 - uniform) + uniform / history.shape[0]
    return p, p.reciprocal() / history.shape[0]


def importance_by_power(history, uniform=0.001):
    spread = (history**2).mean(dim=-1) ** 0.5
    p = torch.full_like(spread, uniform / len(spread)) + (spread - uniform * spread) / spread.sum()
    return p, torch.ones_like(p).div(p * len(p))


def respace_by_loop(betas, kept):
    a = (1 - betas).cumprod(0)
    before = 1.0
    out = []
    for step in kept.tolist():
        out.append(1 - a[step] / before)
        before = a[step]
    return torch.stack(out)


def respace_with_item(betas, kept):
    a = [1.0, *(float((1 - betas.double())[: k + 1].prod()) for k in kept.tolist())]
    out = [1 - after / before for before, after in itertools.pairwise(a)]
    return torch.tensor(out, dtype=betas.dtype)


def respace_by_products(betas, kept):
    starts = [0, *(kept[:-1] + 1).tolist()]
    parts = [
        (1 - betas[start : end + 1]).prod()
        for start, end in zip(starts, kept.tolist(), strict=True)
    ]
    return 1 - torch.stack(parts)


RIGHT = {
    "ddpm.q_sample": {
        "by_items": q_sample_by_items,
        "by_variance": q_sample_by_variance,
        "in_numpy": q_sample_in_numpy,
    },
    "ddpm.predict_x_start": {"factored": predict_factored, "by_ratio": predict_by_ratio},
    "ddpm.posterior_mean_variance": {
        "by_precision": posterior_by_precision,
        "by_items": posterior_by_items,
    },
    "ddpm.normal_kl": {"by_distributions": kl_by_distributions, "by_variances": kl_by_variances},
    "ddpm.simple_loss": {
        "by_mse": loss_by_mse,
        "by_axes": loss_by_axes,
        "of_noised_data": loss_of_noised_data,
    },
    "ddpm.sample_step": {
        "by_posterior": step_by_posterior,
        "by_items": step_by_items,
        "without_gradient": step_without_gradient,
    },
    "ddpm.discretised_nll": {"by_normal": nll_by_normal, "by_erf": nll_by_erf},
    "ddpm.learned_range_variance": {"by_lerp": range_by_lerp, "by_product": range_by_product},
    "ddpm.hybrid_loss": {"by_slices": hybrid_by_slices, "by_no_grad": hybrid_by_no_grad},
    "ddpm.cosine_alphas_cumprod": {
        "by_loop": cosine_by_loop,
        "by_double_angle": cosine_by_double_angle,
    },
    "ddpm.importance_weights": {"by_norm": importance_by_norm, "by_power": importance_by_power},
    "ddpm.respace": {
        "by_loop": respace_by_loop,
        "by_products": respace_by_products,
        "with_item": respace_with_item,
    },
}
