"""Notebook 01: the equations of DDPM and Improved DDPM, in the order of the story."""

import math
from functools import partial
from typing import NamedTuple

import torch

from course_lib.checking import Exercise, call_by_name, edit
from course_lib.diffusion import ddim_steps, gather_at, normal_kl, previous, schedules
from course_lib.papers import ddpm, improved_ddpm

STEPS = 7  # of the short chain that most cases use
LINEAR = schedules.linear_betas(1000)  # the notebook's own chain
PLANE = schedules.linear_betas(100)  # and that of its points in the plane


class Setting(NamedTuple):
    """Samples on a chain: their shape, the step of each, the betas, and the dtype of it all."""

    shape: tuple[int, ...]
    steps: list[int]
    betas: torch.Tensor
    dtype: torch.dtype = torch.float32

    @property
    def t(self) -> torch.Tensor:
        return torch.tensor(self.steps)

    @property
    def table(self) -> torch.Tensor:
        return self.betas.to(self.dtype)

    @property
    def alphas_cumprod(self) -> torch.Tensor:
        return (1 - self.betas).cumprod(0).to(self.dtype)

    def randn(self, rng: torch.Generator) -> torch.Tensor:
        return torch.randn(self.shape, generator=rng).to(self.dtype)


def _short_betas(rng: torch.Generator) -> torch.Tensor:
    return torch.linspace(0.02, 0.4, STEPS) + 0.05 * torch.rand(STEPS, generator=rng)


def _short_settings(rng: torch.Generator) -> list[Setting]:
    """Return images of unequal axes, points in a plane, one image, and float64, on short chains.

    The first step and the last are among the steps; some samples begin with the first, some end
    with it.
    """
    return [
        Setting((3, 2, 5, 4), [0, 3, 6], _short_betas(rng)),
        Setting((2, 3, 4, 6), [5, 1], _short_betas(rng)),
        Setting((5, 2), [1, 0, 6, 4, 2], _short_betas(rng)),
        Setting((1, 2, 4, 3), [4], _short_betas(rng)),
        Setting((4, 3, 2, 5), [5, 6, 1, 0], _short_betas(rng), torch.float64),
    ]


def _pixels(rng: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw pixel values k / 127.5 - 1, black and white among them."""
    x = torch.randint(0, 256, shape, generator=rng) / 127.5 - 1
    x.view(-1)[:2] = torch.tensor([-1.0, 1.0])
    return x


def _per_image(table: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
    """Look up a table with the axes of images, whatever the samples are: (b, 1, 1, 1)."""
    return table[t][:, None, None, None]


FOR_IMAGES_ONLY = (
    "Your tables have the axes of images, (b, 1, 1, 1), and these samples are points, (b, 2). Give"
    " them as many axes of length 1 as a sample has."
)
TOO_MANY_AXES = (
    edit("x.ndim - 1", "x.ndim + 1", of=gather_at),
    "Your tables have too many axes of length 1. After the axis of the batch there are as many as"
    " a sample has: (b, 1, 1, 1) for images, (b, 1) for points.",
)


# ---------------------------------------------------------------- q_sample


def _q_sample_cases(rng):
    settings = [
        *_short_settings(rng),
        Setting((6, 3, 16, 16), [60, 0, 999, 500, 1, 998], LINEAR),
        Setting((3, 3, 5, 4), [998, 0, 999], schedules.cosine_betas(1000)),
        Setting((4, 1), [59] * 4, LINEAR),
    ]
    return [
        {
            "x_start": setting.randn(rng),
            "t": setting.t,
            "noise": setting.randn(rng),
            "alphas_cumprod": setting.alphas_cumprod,
        }
        for setting in settings
    ]


def _q_sample_of_images(x_start, t, noise, alphas_cumprod):
    a = _per_image(alphas_cumprod, t)
    return a.sqrt() * x_start + (1 - a).sqrt() * noise


def _q_sample_by_first(x_start, t, noise, alphas_cumprod):
    a = alphas_cumprod[t[0]]
    return a.sqrt() * x_start + (1 - a).sqrt() * noise


Q_SAMPLE = Exercise(
    id="ddpm.q_sample",
    reference=ddpm.q_sample,
    cases=_q_sample_cases,
    equation="DDPM, Eq. 4",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "no_sqrt": (
            edit(
                "signal = alphas_cumprod.sqrt()",
                "signal = alphas_cumprod",
                "sigma = (1 - alphas_cumprod).sqrt()",
                "sigma = 1 - alphas_cumprod",
            ),
            "You scaled by alpha-bar itself. It is a variance; Eq. 4 takes its square root, and the"
            " square root of 1 - alpha-bar for the noise.",
        ),
        "swapped": (
            edit("gather_at(signal", "gather_at(sigma", "gather_at(sigma", "gather_at(signal"),
            "The two weights have changed places. At t = 0 almost everything must be image:"
            " alpha-bar is near 1.",
        ),
        "noise_variance": (
            edit("(1 - alphas_cumprod).sqrt()", "1 - alphas_cumprod"),
            "The image's weight is right. The noise's is still a variance: take the square root"
            " of 1 - alpha-bar.",
        ),
        "one_minus_root": (
            edit("(1 - alphas_cumprod).sqrt()", "1 - alphas_cumprod.sqrt()"),
            "You subtracted the square root from 1. The variances add up to 1, not the standard"
            " deviations: sqrt(1 - alpha-bar), not 1 - sqrt(alpha-bar).",
        ),
        "one_step_early": (
            lambda x_start, t, noise, alphas_cumprod: ddpm.q_sample(
                x_start, t, noise, previous(alphas_cumprod)
            ),
            "You read alpha-bar one step too early. Steps count from 0 here: t = 0 is the paper's t"
            " = 1, so alphas_cumprod[t] is the entry you want.",
        ),
        "t_minus_1": (
            lambda x_start, t, noise, alphas_cumprod: ddpm.q_sample(
                x_start, t, noise, alphas_cumprod.roll(1)
            ),
            "You looked up t - 1. Code counts from 0: `alphas_cumprod[t]` already belongs to"
            " step t.",
        ),
        "noise_not_scaled": (
            edit("gather_at(sigma, t, x_start) * noise", "noise"),
            "You added the noise unscaled. Then the variance would exceed 1; weight it by sqrt(1 -"
            " alpha-bar).",
        ),
        "signal_not_scaled": (
            edit("gather_at(signal, t, x_start) * x_start", "x_start"),
            "You left the image at its full strength. Eq. 4 shrinks it by sqrt(alpha-bar) as the"
            " noise comes in, so that the variance stays 1.",
        ),
        "of_images": (_q_sample_of_images, FOR_IMAGES_ONLY),
        "too_many_axes": TOO_MANY_AXES,
        "first_of_the_batch": (
            _q_sample_by_first,
            "You looked up alpha-bar for the first sample only. `t` differs from sample to sample:"
            " look up all of them, `alphas_cumprod[t]`.",
        ),
    },
)


# ---------------------------------------------------------------- predict_x_start


def _predict_cases(rng):
    """The first steps and the last are apart: x_0 is in the hundreds at the last."""
    settings = [
        *_short_settings(rng),
        Setting((2, 3, 5, 4), [1, 0], LINEAR),
        Setting((3, 3, 5, 4), [999, 998, 960], LINEAR),
        Setting((6, 2), [99] * 6, PLANE),
    ]
    return [
        {
            "x_t": setting.randn(rng),
            "t": setting.t,
            "eps": setting.randn(rng),
            "alphas_cumprod": setting.alphas_cumprod,
        }
        for setting in settings
    ]


def _x_start_by(formula, look_up=gather_at):
    """Build predict_x_start from a formula of (x_t, eps, alpha-bar), as a student solves Eq. 4."""

    def answer(x_t, t, eps, alphas_cumprod):
        return formula(x_t, eps, look_up(alphas_cumprod, t, x_t))

    return answer


def _solved(x_t, eps, a):
    return (x_t - (1 - a).sqrt() * eps) / a.sqrt()


PREDICT_X_START = Exercise(
    id="ddpm.predict_x_start",
    reference=ddpm.predict_x_start,
    cases=_predict_cases,
    equation="DDPM, Eq. 15",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "not_divided": (
            _x_start_by(lambda x, eps, a: x - (1 - a).sqrt() * eps),
            "The noise is gone, but the image is still shrunk. Divide by sqrt(alpha-bar).",
        ),
        "divided_by_variance": (
            _x_start_by(lambda x, eps, a: (x - (1 - a).sqrt() * eps) / a),
            "You divided by alpha-bar. The image was multiplied by its square root; divide by"
            " that.",
        ),
        "only_x_divided": (
            _x_start_by(lambda x, eps, a: x / a.sqrt() - (1 - a).sqrt() * eps),
            "You divided x_t before you took the noise away. The whole difference is divided by"
            " sqrt(alpha-bar).",
        ),
        "wrong_sign": (
            _x_start_by(lambda x, eps, a: (x + (1 - a).sqrt() * eps) / a.sqrt()),
            "You added the noise a second time. Solving Eq. 4 for x_0 subtracts it.",
        ),
        "noise_variance": (
            _x_start_by(lambda x, eps, a: (x - (1 - a) * eps) / a.sqrt()),
            "The noise was added with weight sqrt(1 - alpha-bar); you removed it with weight 1 -"
            " alpha-bar.",
        ),
        "clamped": (
            _x_start_by(lambda x, eps, a: _solved(x, eps, a).clamp(-1, 1)),
            "Do not clamp here: the function solves Eq. 4 exactly. Clipping is the sampler's job.",
        ),
        "unweighted_noise": (
            _x_start_by(lambda x, eps, a: (x - eps) / a.sqrt()),
            "You subtracted the noise in full. Only sqrt(1 - alpha-bar) of it is in x_t.",
        ),
        "of_images": (
            _x_start_by(_solved, look_up=lambda table, t, x: _per_image(table, t)),
            FOR_IMAGES_ONLY,
        ),
        "too_many_axes": TOO_MANY_AXES,
        "one_step_early": (
            lambda x_t, t, eps, alphas_cumprod: ddpm.predict_x_start(
                x_t, t, eps, previous(alphas_cumprod)
            ),
            "You read alpha-bar one step too early. Steps count from 0 here: `alphas_cumprod[t]`"
            " belongs to step t.",
        ),
    },
)


# ---------------------------------------------------------------- posterior_mean_variance


def _posterior_cases(rng):
    """The first steps of the long chain are in float64: float32 leaves 1 - alpha-bar few digits."""
    settings = [
        *_short_settings(rng),
        Setting((1, 1), [60], LINEAR),
        Setting((3, 4, 2, 5), [1, 0, 999], LINEAR, torch.float64),
        Setting((4, 2), [0, 0, 0, 0], PLANE),
        Setting((3, 2), [19, 1, 18], schedules.cosine_betas(20)),
    ]
    return [
        {
            "x_start": setting.randn(rng),
            "x_t": setting.randn(rng),
            "t": setting.t,
            "betas": setting.table,
        }
        for setting in settings
    ]


def _posterior_of_images(x_start, x_t, t, betas):
    a = (1 - betas).cumprod(0)
    x_start_weight = previous(a).sqrt() * betas / (1 - a)
    x_t_weight = (1 - betas).sqrt() * (1 - previous(a)) / (1 - a)
    mean = _per_image(x_start_weight, t) * x_start + _per_image(x_t_weight, t) * x_t
    return mean, _per_image(ddpm.posterior_variance(betas), t)


POSTERIOR = Exercise(
    id="ddpm.posterior_mean_variance",
    reference=ddpm.posterior_mean_variance,
    cases=_posterior_cases,
    equation="DDPM, Eq. 6 and 7",
    points=3,
    stars=2,
    minutes=10,
    misconceptions={
        "swapped": (
            edit(
                "gather_at(x_start_weight",
                "gather_at(x_t_weight",
                "gather_at(x_t_weight",
                "gather_at(x_start_weight",
            ),
            "The weights of x_0 and x_t have changed places. At t = 0 the mean must be x_0 itself.",
        ),
        "variance_is_beta": (
            edit("posterior_variance(betas)", "betas"),
            "The mean is right. The variance you return is beta, that of q(x_t | x_{t-1}); knowing"
            " x_0 as well makes it smaller: beta-tilde.",
        ),
        "same_alpha_bar": (
            edit("alphas_cumprod_prev.sqrt()", "alphas_cumprod.sqrt()"),
            "In the weight of x_0 you used alpha-bar of step t. Eq. 7 has alpha-bar of step t - 1"
            " under the root.",
        ),
        "no_root_previous": (
            edit("alphas_cumprod_prev.sqrt()", "alphas_cumprod_prev"),
            "The weight of x_0 lacks a square root: it is sqrt(alpha-bar of t - 1) times beta over"
            " 1 - alpha-bar.",
        ),
        "no_root_alpha": (
            edit("(1 - betas).sqrt()", "(1 - betas)"),
            "The weight of x_t lacks a square root: it is sqrt(alpha_t), not alpha_t.",
        ),
        "alpha_bar_for_alpha": (
            edit("(1 - betas).sqrt()", "alphas_cumprod.sqrt()"),
            "In the weight of x_t you used alpha-bar. Eq. 7 has the single step's alpha_t = 1 -"
            " beta_t there.",
        ),
        "deviation": (
            edit("posterior_variance(betas)", "posterior_variance(betas).sqrt()"),
            "The second output is the standard deviation. Return the variance.",
        ),
        "rolled": (
            edit(
                "previous(alphas_cumprod)",
                "alphas_cumprod.roll(1)",
                "posterior_variance(betas)",
                "betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)",
            ),
            "Everything is right but t = 0: before the first step there is no noise, so alpha-bar"
            " is 1 there. `roll` brings the last entry round instead.",
        ),
        "from_zero": (
            edit(
                "previous(alphas_cumprod)",
                "previous(alphas_cumprod) * (torch.arange(len(betas)) > 0)",
                "posterior_variance(betas)",
                "betas * (1 - alphas_cumprod_prev) / (1 - alphas_cumprod)",
            ),
            "Everything is right but t = 0: you put alpha-bar = 0 before the first step. There is"
            " no noise yet, so it is 1.",
        ),
        "of_images": (_posterior_of_images, FOR_IMAGES_ONLY),
        "too_many_axes": TOO_MANY_AXES,
    },
)


# ---------------------------------------------------------------- normal_kl


def _kl_cases(rng):
    """Normals of any width; twice the same; and as in the bound: narrow ones, one width a step."""
    names = ("mean1", "log_variance1", "mean2", "log_variance2")
    cases = [
        {name: torch.randn(shape, generator=rng).to(dtype) for name in names}
        for shape, dtype in (
            ((3, 2, 5, 4), torch.float32),
            ((4,), torch.float32),
            ((2, 3), torch.float64),
            ((1, 1), torch.float32),
        )
    ]
    same = torch.randn(5, generator=rng)
    mean = torch.randn(6, 2, generator=rng)
    t = torch.tensor([0, 1, 10, 100, 500, 998])
    betas = schedules.cosine_betas(1000)
    as_in_the_bound = {
        "mean1": mean,
        "log_variance1": ddpm.posterior_log_variance(betas).float()[t, None],
        "mean2": mean + 0.02 * torch.randn(6, 2, generator=rng),
        "log_variance2": betas.log().float()[t, None],
    }
    return [*cases, {name: same.clone() for name in names}, as_in_the_bound]


def _kl_by(formula):
    """Build normal_kl from a formula of three numbers.

    They are log variance 2 - log variance 1, mean 1 - mean 2 and log variance 2.
    """

    def answer(mean1, log_variance1, mean2, log_variance2):
        return formula(log_variance2 - log_variance1, mean1 - mean2, log_variance2)

    return answer


NORMAL_KL = Exercise(
    id="ddpm.normal_kl",
    reference=ddpm.normal_kl,
    cases=_kl_cases,
    equation="DDPM, Eq. 5 (the KL between two Gaussians)",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "reversed": (
            lambda mean1, log_variance1, mean2, log_variance2: normal_kl(
                mean2, log_variance2, mean1, log_variance1
            ),
            "That is KL(N2 || N1). The KL is not symmetric: the mean difference is divided by the"
            " variance of the second normal.",
        ),
        "no_half": (
            _kl_by(lambda d, m, v: d - 1 + torch.exp(-d) + m.square() * torch.exp(-v)),
            "Twice too large: the factor 1/2 is missing.",
        ),
        "no_minus_one": (
            _kl_by(lambda d, m, v: 0.5 * (d + torch.exp(-d) + m.square() * torch.exp(-v))),
            "The KL of a normal with itself must be 0; yours is 1/2. The -1 is missing.",
        ),
        "log_std": (
            lambda mean1, log_variance1, mean2, log_variance2: normal_kl(
                mean1, 2 * log_variance1, mean2, 2 * log_variance2
            ),
            "You treated the logarithms as those of standard deviations. They are log variances:"
            " exp(log_variance) is sigma squared already.",
        ),
        "bits": (
            _kl_by(
                lambda d, m, v: (
                    0.5 * (d - 1 + torch.exp(-d) + m.square() * torch.exp(-v)) / math.log(2)
                )
            ),
            "Your answer is in bits. Nats are wanted: the natural logarithm, not divided by log 2.",
        ),
        "mean_not_squared": (
            _kl_by(lambda d, m, v: 0.5 * (d - 1 + torch.exp(-d) + m.abs() * torch.exp(-v))),
            "The distance between the means enters squared.",
        ),
        "wrong_sign_of_logs": (
            _kl_by(lambda d, m, v: 0.5 * (-d - 1 + torch.exp(-d) + m.square() * torch.exp(-v))),
            "The logarithms have the wrong sign: it is log variance 2 minus log variance 1.",
        ),
        "mean_unscaled": (
            _kl_by(lambda d, m, v: 0.5 * (d - 1 + torch.exp(-d) + m.square())),
            "Divide the squared distance of the means by the second variance: a unit matters more"
            " to a narrow normal.",
        ),
    },
)


# ---------------------------------------------------------------- simple_loss


def _toy_model(weight, x_t, t):
    """Stand in for the network: every value and every step matter, and so does their place."""
    if t.shape != x_t.shape[:1]:
        raise ValueError(
            f"the model takes one step per sample, ({len(x_t)},), got {tuple(t.shape)}"
        )
    time = torch.sin(t.to(x_t) + 1).reshape(-1, *[1] * (x_t.ndim - 1))
    return torch.tanh(weight[0] * x_t - weight[1] * x_t.roll(1, -1) + weight[2] * time + 0.2)


def _simple_cases(rng):
    settings = [*_short_settings(rng), Setting((256, 2), [7 * i % 100 for i in range(256)], PLANE)]
    return [_simple_case(setting, rng) for setting in settings]


def _simple_case(setting, rng):
    """Make a case whose model has a weight; it is a part of the case, for its gradient."""
    weight = torch.tensor([0.7, 0.4, 0.3], dtype=setting.dtype)
    return {
        "model": partial(_toy_model, weight),
        "x_start": setting.randn(rng),
        "t": setting.t,
        "noise": setting.randn(rng),
        "alphas_cumprod": setting.alphas_cumprod,
        "weight": weight,
    }


def _call_without_weight(answer, case):
    return call_by_name(answer, {name: case[name] for name in case if name != "weight"})


SIMPLE_LOSS = Exercise(
    id="ddpm.simple_loss",
    reference=ddpm.simple_loss,
    cases=_simple_cases,
    gradients=("weight",),
    probe=_call_without_weight,
    equation="DDPM, Eq. 14",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "target_is_picture": (
            edit("(noise - model", "(x_start - model"),
            "You compared the network's output with the image. In Eq. 14 it predicts the noise.",
        ),
        "clean_input": (
            edit("model(x_t, t)", "model(x_start, t)"),
            "You showed the network the clean image. It must find the noise in x_t.",
        ),
        "summed": (
            edit(".mean(1)", ".sum(1)"),
            "You summed over each sample's values; take their mean, so that the loss does not grow"
            " with the image.",
        ),
        "one_number": (
            edit(".flatten(1).mean(1)", ".mean()"),
            "You averaged over the batch too. Return one loss per sample, shape (b,): importance"
            " sampling will need them apart.",
        ),
        "absolute": (
            edit(".square()", ".abs()"),
            "You took the absolute error. The squared one comes from the KL between Gaussians.",
        ),
        "rooted": (
            edit(".mean(1)", ".mean(1).sqrt()"),
            "You took a square root at the end. Eq. 14 stops at the squared error.",
        ),
        "noise_is_input": (
            edit("model(x_t, t)", "model(noise, t)"),
            "You showed the network the noise itself. It must find the noise in x_t.",
        ),
        "no_gradient": (
            edit("model(x_t, t)).square()", "model(x_t, t).detach()).square()"),
            "The values are right, but no gradient reaches the network, so it cannot learn. Leave"
            " no_grad, detach and item out of this function.",
        ),
    },
)


# ---------------------------------------------------------------- sample_step


def _sample_step_cases(rng):
    settings = [
        *_short_settings(rng),
        Setting((2, 2, 3, 5), [1, 2], _short_betas(rng)),
        Setting((6, 2), [99] * 6, PLANE),
        Setting((6, 2), [0] * 6, PLANE),
        Setting((3, 2, 4, 5), [999, 0, 1], LINEAR, torch.float64),
    ]
    return [
        {
            "x_t": setting.randn(rng),
            "t": setting.t,
            "eps": setting.randn(rng),
            "noise": setting.randn(rng),
            "betas": setting.table,
        }
        for setting in settings
    ]


def _sample_step_of_images(x_t, t, eps, noise, betas):
    scale = _per_image((1 - betas).rsqrt(), t)
    pull = _per_image(betas / (1 - (1 - betas).cumprod(0)).sqrt(), t)
    sigma = _per_image(betas.sqrt() * (torch.arange(len(betas)) > 0), t)
    return scale * (x_t - pull * eps) + sigma * noise


SAMPLE_STEP = Exercise(
    id="ddpm.sample_step",
    reference=ddpm.sample_step,
    cases=_sample_step_cases,
    equation="DDPM, Algorithm 2, line 4",
    points=3,
    stars=2,
    minutes=8,
    misconceptions={
        "noise_at_the_end": (
            edit("torch.cat([torch.zeros_like(betas[:1]), betas[1:]])", "betas"),
            "You add noise in the last step too. At t = 0 the result is the image: leave the"
            " noise out there.",
        ),
        "variance_for_std": (
            edit("betas[1:]]).sqrt()", "betas[1:]])"),
            "The noise is scaled by beta, a variance. Scale it by sigma, its square root.",
        ),
        "beta_tilde": (
            edit(
                "torch.cat([torch.zeros_like(betas[:1]), betas[1:]])", "posterior_variance(betas)"
            ),
            "You chose sigma squared = beta-tilde, which the paper allows. Here the choice is sigma"
            " squared = beta.",
        ),
        "alpha_bar_scale": (
            edit("(1 - betas).rsqrt()", "(1 - betas).cumprod(0).rsqrt()", of=ddpm.predict_mean),
            "You divided by sqrt(alpha-bar), which leaps to x_0. One step back divides by"
            " sqrt(alpha_t) = sqrt(1 - beta_t).",
        ),
        "no_root_in_pull": (
            edit(".cumprod(0)).sqrt()", ".cumprod(0))", of=ddpm.predict_mean),
            "The predicted noise is weighted by beta over the square root of 1 - alpha-bar; your"
            " root is missing.",
        ),
        "no_scale": (
            edit("gather_at(scale, t, x_t) * ", "", of=ddpm.predict_mean),
            "The mean is not scaled back: every forward step shrank the image by sqrt(alpha_t),"
            " so divide by it.",
        ),
        "first_of_the_batch": (
            edit(
                "torch.cat([torch.zeros_like(betas[:1]), betas[1:]]).sqrt()",
                "betas.sqrt() * float(t[0] > 0)",
            ),
            "You decide about the noise once for the whole batch. `t` differs from sample to"
            " sample: decide for each.",
        ),
        "root_of_beta": (
            edit(
                "betas / (1 - (1 - betas).cumprod(0)).sqrt()",
                "(betas / (1 - (1 - betas).cumprod(0))).sqrt()",
                of=ddpm.predict_mean,
            ),
            "The weight of eps is beta over sqrt(1 - alpha-bar); you took the root of beta too.",
        ),
        "all_noise_removed": (
            edit("pull = betas / ", "pull = ", of=ddpm.predict_mean),
            "You removed all of the predicted noise at once. One step removes beta / sqrt(1 -"
            " alpha-bar) of it.",
        ),
        "never_noisy": (
            lambda x_t, t, eps, noise, betas: ddpm.predict_mean(x_t, t, eps, betas),
            "That is the mean of Eq. 11 only. Algorithm 2 adds sigma_t z to it, wherever t is not"
            " 0.",
        ),
        "noise_from_2": (
            edit(
                "torch.zeros_like(betas[:1]), betas[1:]", "torch.zeros_like(betas[:2]), betas[2:]"
            ),
            "You leave the noise out at t = 1 too. Steps count from 0 here: the last step back, the"
            " paper's t = 1, is t = 0.",
        ),
        "all_or_none": (
            lambda x_t, t, eps, noise, betas: ddpm.sample_step(
                x_t, t, eps, noise * (t > 0).all(), betas
            ),
            "You leave the noise out of all samples where only some are at t = 0. Decide for each"
            " sample.",
        ),
        "all_if_any": (
            lambda x_t, t, eps, noise, betas: (
                ddpm.predict_mean(x_t, t, eps, betas)
                + gather_at(betas.sqrt(), t, x_t) * noise * (t > 0).any()
            ),
            "You add noise to the samples at t = 0 where others in the batch are not there yet."
            " Decide for each sample.",
        ),
        "of_images": (_sample_step_of_images, FOR_IMAGES_ONLY),
    },
)


# ---------------------------------------------------------------- discretized_nll


def _nll_cases(rng):
    """Normals near their pixels; masses of 0; almost black and white; and the notebook's own.

    Where a mass is between 1e-7 and 1e-12 no case looks: a right difference of two cdfs has no
    digit there.
    """
    near = [
        _near(rng, shape, log_scale, dtype)
        for shape, log_scale, dtype in (
            ((3, 2, 5, 4), -4.0, torch.float32),
            ((2, 3, 4, 6), -5.1, torch.float32),
            ((5, 2), -2.5, torch.float32),
            ((4, 3), -4.0, torch.float64),
            ((1, 3), 0.0, torch.float32),
        )
    ]

    far = torch.tensor([[-1.0, -1.0, 1.0], [0.2, 0.2, 1.0]])
    far_means = torch.tensor([[0.8, -1.3, -0.9], [-0.7, 1.2, 1.4]])
    none = {"x": far, "mean": far_means, "log_scale": torch.full((2, 3), -4.0)}

    rounded = torch.tensor([-0.99995, -0.9991, 0.99995, 0.9991, -1 + 2 / 255, 1 - 2 / 255])
    almost = {
        "x": rounded,
        "mean": rounded + torch.tensor([0.004, -0.01, 0.002, -0.006, -0.01, 0.01]),
        "log_scale": torch.full((6,), -4.2),
    }

    levels = torch.tensor([0, 100, 200, *range(235, 256)]) / 127.5 - 1
    of_the_notebook = {
        "x": levels,
        "mean": torch.full_like(levels, 0.97),
        "log_scale": torch.full_like(levels, -3.0),
    }
    return [*near, none, almost, of_the_notebook]


def _near(rng, shape, log_scale, dtype):
    """Put normals within two standard deviations of pixels, or within two bins of them."""
    x = _pixels(rng, shape)
    log_scale = log_scale + 0.3 * torch.rand(shape, generator=rng)
    reach = log_scale.exp().clamp(max=2 / 255)
    mean = x + reach * torch.randn(shape, generator=rng).clamp(-2, 2)
    return {"x": x.to(dtype), "mean": mean.to(dtype), "log_scale": log_scale.to(dtype)}


def _never(x):
    return torch.zeros_like(x, dtype=torch.bool)


def _nll_by_cdf(
    half=1 / 255,
    scale=torch.exp,
    black=lambda x: x < -0.999,
    white=lambda x: x > 0.999,
    sign=-1,
    least=1e-12,
):
    """Build discretized_nll from two values of the normal's distribution function.

    half: half the width of a bin.  black, white: whose bins are open below, and above.
    """

    def answer(x, mean, log_scale):
        below = torch.special.ndtr((x - half - mean) / scale(log_scale))
        above = torch.special.ndtr((x + half - mean) / scale(log_scale))
        below = torch.where(black(x), 0.0, below)
        above = torch.where(white(x), 1.0, above)
        return sign * (above - below).clamp(min=least).log()

    return answer


def _nll_with_ends_swapped(x, mean, log_scale):
    below = torch.special.ndtr((x - 1 / 255 - mean) / log_scale.exp())
    above = torch.special.ndtr((x + 1 / 255 - mean) / log_scale.exp())
    below = torch.where(x > 0.999, 0.0, below)
    above = torch.where(x < -0.999, 1.0, above)
    return -(above - below).clamp(min=1e-12).log()


def _density(x, mean, log_scale):
    z = (x - mean) / log_scale.exp()
    return 0.5 * z.square() + log_scale + 0.5 * math.log(2 * math.pi)


DISCRETIZED_NLL = Exercise(
    id="ddpm.discretised_nll",
    reference=ddpm.discretized_nll,
    cases=_nll_cases,
    equation="DDPM, Eq. 13",
    points=3,
    stars=3,
    minutes=12,
    tolerance=1e-3,  # a difference of two float32 cdfs near 1 is right as well
    misconceptions={
        "density": (
            _density,
            "You returned the density at x. A pixel is one of 256 values: its probability is the"
            " normal's mass in the bin around it, a difference of two values of the distribution"
            " function.",
        ),
        "density_times_width": (
            lambda x, mean, log_scale: _density(x, mean, log_scale) - math.log(2 / 255),
            "Density times the bin's width is an approximation that fails when the normal is"
            " narrower than a bin. Eq. 13 takes the integral, and leaves the two end bins open.",
        ),
        "closed_ends": (
            _nll_by_cdf(black=_never, white=_never),
            "Inside you are right. The bins at -1 and 1 are open: black reaches to minus infinity,"
            " white to infinity, so that all 256 probabilities add up to 1.",
        ),
        "double_width": (
            _nll_by_cdf(half=2 / 255),
            "Your bins are twice as wide as they should be: pixel values are 2/255 apart, so a bin"
            " reaches 1/255 to each side.",
        ),
        "half_width": (
            _nll_by_cdf(half=0.5 / 255),
            "Your bins are half as wide as they should be: on [-1, 1] pixel values are 2/255 apart,"
            " so a bin reaches 1/255 to each side.",
        ),
        "log_variance": (
            _nll_by_cdf(scale=lambda log_scale: torch.exp(0.5 * log_scale)),
            "log_scale is the logarithm of the standard deviation, not of the variance: do not"
            " halve it.",
        ),
        "bits": (
            lambda x, mean, log_scale: _nll_by_cdf()(x, mean, log_scale) / math.log(2),
            "Your answer is in bits. Nats are wanted: the natural logarithm.",
        ),
        "ends_swapped": (
            _nll_with_ends_swapped,
            "Black and white have changed places: at x = -1 the lower value is 0, at x = 1 the"
            " upper one is 1.",
        ),
        "positive": (
            _nll_by_cdf(sign=1),
            "That is the log probability. Its negative is asked for.",
        ),
        "not_clamped": (
            _nll_by_cdf(least=0.0),
            "Far from the mean the mass rounds to 0, and its logarithm is minus infinity: one such"
            " pixel would ruin the average. Clamp the mass at 1e-12.",
        ),
        "exact_ends": (
            _nll_by_cdf(black=lambda x: x <= -1, white=lambda x: x >= 1),
            "You compare with -1 and 1 exactly. Rounding can leave -0.99995 where black is meant:"
            " black is all below -0.999, white all above 0.999.",
        ),
        "black_closed": (
            _nll_by_cdf(black=_never),
            "The bin of black is still closed. It reaches down to minus infinity: the lower value"
            " is 0 there.",
        ),
        "white_closed": (
            _nll_by_cdf(white=_never),
            "The bin of white is still closed. It reaches up to infinity: the upper value is 1"
            " there.",
        ),
    },
)


# ---------------------------------------------------------------- learned_range_variance


def _range_cases(rng):
    settings = [
        *_short_settings(rng),
        Setting((5, 3, 4, 2), [999, 0, 1, 500, 2], schedules.cosine_betas(1000)),
        Setting((3, 3, 16, 16), [2, 999, 0], LINEAR, torch.float64),
    ]
    cases = [
        {"v": setting.randn(rng), "t": setting.t, "betas": setting.table} for setting in settings
    ]
    for case in cases:
        some = torch.tensor([-2.5, -1.0, 0.0, 1.0, 2.5]).to(case["v"])
        case["v"].view(-1)[:5] = some
    return cases


def _range_of_images(v, t, betas):
    share = (v + 1) / 2
    upper = _per_image(betas.log(), t)
    return share * upper + (1 - share) * _per_image(ddpm.posterior_log_variance(betas), t)


LEARNED_RANGE = Exercise(
    id="ddpm.learned_range_variance",
    reference=improved_ddpm.learned_range_variance,
    cases=_range_cases,
    equation="Improved DDPM, Eq. 15",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "not_shifted": (
            edit("share = (v + 1) / 2", "share = v"),
            "You used v as it is. The network's output is around 0 where it does not know; (v +"
            " 1) / 2 puts that in the middle of the two variances.",
        ),
        "swapped": (
            edit("share * upper", "share * lower", "(1 - share) * lower", "(1 - share) * upper"),
            "The ends have changed places: v = 1 is log beta, the larger variance, v = -1 is log"
            " beta-tilde.",
        ),
        "variances_mixed": (
            edit(
                "share * upper + (1 - share) * lower",
                "(share * upper.exp() + (1 - share) * lower.exp()).abs().log()",
            ),
            "You mixed the variances and then took the logarithm. Mix the logarithms: the two ends"
            " are orders of magnitude apart near t = 0.",
        ),
        "exponentiated": (
            edit(
                "share * upper + (1 - share) * lower", "(share * upper + (1 - share) * lower).exp()"
            ),
            "That is the variance. Return its logarithm, which is what the KL wants.",
        ),
        "clamped": (
            edit("share = (v + 1) / 2", "share = ((v + 1) / 2).clamp(0, 1)"),
            "You clamped the share to [0, 1]. The paper leaves it free, and finds that the network"
            " stays inside of its own accord.",
        ),
        "squashed": (
            edit("share = (v + 1) / 2", "share = v.sigmoid()"),
            "You put a sigmoid on v. The paper interpolates with the plain output, shifted by (v +"
            " 1) / 2.",
        ),
        "minus_infinity": (
            edit("ddpm.posterior_log_variance(betas)", "ddpm.posterior_variance(betas).log()"),
            "All right but t = 0: beta-tilde is 0 there and its logarithm minus infinity. The first"
            " entry is replaced by the second, as in `ddpm.posterior_log_variance`.",
        ),
        "of_images": (_range_of_images, FOR_IMAGES_ONLY),
        "too_many_axes": TOO_MANY_AXES,
    },
)


# ---------------------------------------------------------------- hybrid_loss


def _hybrid_cases(rng):
    settings = [
        Setting((3, 2, 5, 4), [0, 3, 6], _short_betas(rng)),
        Setting((2, 3, 4, 6), [5, 1], _short_betas(rng)),
        Setting((1, 2, 4, 3), [4], _short_betas(rng)),
        Setting((2, 3, 5, 4), [5, 0], _short_betas(rng), torch.float64),
        Setting((3, 3, 16, 16), [400, 0, 1], schedules.cosine_betas(1000)),
    ]
    return [_hybrid_case(setting, rng) for setting in settings]


def _hybrid_case(setting, rng):
    """Make a case of a network that is nearly right about the noise."""
    b, c, *sides = setting.shape
    noise = setting.randn(rng)
    x_start = _pixels(rng, setting.shape).to(setting.dtype)
    off = 0.3 * torch.randn(b, 2 * c, *sides, generator=rng).to(setting.dtype)
    return {
        "output": torch.cat([noise, torch.zeros_like(noise)], dim=1) + off,
        "x_start": x_start,
        "x_t": ddpm.q_sample(x_start, setting.t, noise, setting.alphas_cumprod),
        "t": setting.t,
        "noise": noise,
        "betas": setting.table,
    }


HYBRID_LOSS = Exercise(
    id="ddpm.hybrid_loss",
    reference=improved_ddpm.hybrid_loss,
    cases=_hybrid_cases,
    gradients=("output",),
    equation="Improved DDPM, Eq. 16",
    points=3,
    stars=3,
    minutes=10,
    misconceptions={
        "no_stop_gradient": (
            edit("eps.detach()", "eps"),
            "The value is right and the gradient is not: L_vlb also pulls at the predicted noise."
            " Detach eps inside `vlb_term`, so that the bound teaches only the variance.",
        ),
        "all_detached": (
            edit("len(betas) * vlb", "len(betas) * vlb.detach()"),
            "You detached the whole bound, so nothing teaches the variance. Only eps is cut off"
            " inside it; v is not.",
        ),
        "no_steps": (
            edit("0.001 * len(betas)", "0.001"),
            "L_vlb is the sum over all T steps, and you have one term of it: weight the term by"
            " 0.001 times T.",
        ),
        "global_T": (
            edit("0.001 * len(betas)", "0.001 * 1000"),
            "You used the notebook's T = 1000. This chain has len(betas) steps.",
        ),
        "summed": (
            edit(".mean(1)", ".sum(1)"),
            "L_simple is the mean over a sample's values, not the sum.",
        ),
        "no_lambda": (
            edit("0.001 * ", ""),
            "The 0.001 is missing: without it the bound overwhelms L_simple.",
        ),
        "halves_swapped": (
            edit("eps, v = ", "v, eps = "),
            "The halves of the output have changed places: the noise comes first, v second.",
        ),
        "vlb_alone": (
            edit("return simple + ", "return "),
            "L_simple is missing: nothing teaches the network to find the noise.",
        ),
    },
)


# ---------------------------------------------------------------- cosine_alphas_cumprod


def _cosine_cases(rng):
    """The notebook leaves the offset to its default."""
    offsets = [(10, 0.008), (3, 0.008), (37, 0.1), (4, 0.0)]
    return [*({"timesteps": n, "s": s} for n, s in offsets), {"timesteps": 1000}]


COSINE = Exercise(
    id="ddpm.cosine_alphas_cumprod",
    reference=schedules.cosine_alphas_cumprod,
    cases=_cosine_cases,
    equation="Improved DDPM, Eq. 17",
    points=2,
    stars=1,
    minutes=6,
    tolerance=1e-8,
    misconceptions={
        "not_normalised": (
            edit("f[1:] / f[0]", "f[1:]"),
            "Divide by f(0): without it alpha-bar does not start from 1.",
        ),
        "not_squared": (
            edit(".square()", ""),
            "f is the square of the cosine: yours is sqrt(alpha-bar), near enough.",
        ),
        "from_zero": (
            edit("f[1:]", "f[:-1]"),
            "You started at t = 0. The first entry belongs to the paper's t = 1: evaluate f at 1/T,"
            " 2/T, ..., 1.",
        ),
        "single_precision": (
            edit(", dtype=torch.float64", "", "f[1:] / f[0]", "(f[1:] / f[0]).double()"),
            "The values differ after the seventh digit: t was made in float32. Make it float64 from"
            " the start.",
        ),
        "one_too_many": (
            edit("f[1:]", "f"),
            "One value too many: drop f(0) / f(0) = 1, which belongs to t = 0.",
        ),
        "no_offset": (
            edit("(t + s) / (1 + s)", "t"),
            "The offset s is missing. Without it the first steps add almost no noise, less than one"
            " pixel value.",
        ),
        "sine": (
            edit("f = torch.cos", "f = 1 - torch.cos", "f[1:] / f[0]", "f[1:]"),
            "That grows with t: it is 1 - alpha-bar. alpha-bar falls from 1 to 0.",
        ),
        "degrees": (
            edit("math.pi / 2", "math.pi"),
            "The angle runs to pi/2, a quarter turn; yours runs to pi, and alpha-bar rises again"
            " after the middle.",
        ),
    },
)


# ---------------------------------------------------------------- importance_weights


def _importance_cases(rng):
    """Among the losses are those of a chain like the notebook's, which span five orders."""
    falling = torch.tensor([9.0, 3.0, 1.0, 0.3, 0.1])[:, None]
    silent = torch.rand(4, 4, generator=rng) + 0.1
    silent[2] = 0
    t = torch.arange(1000)[:, None]
    chain = 1500 / (1 + t) ** 1.5 * (0.5 + torch.rand(1000, 4, generator=rng))
    return [
        {"history": torch.rand(5, 3, generator=rng) * falling, "uniform": 0.001},
        {"history": torch.rand(5, 3, generator=rng) * falling, "uniform": 0.1},
        {"history": torch.rand(7, 4, generator=rng) ** 6, "uniform": 0.01},
        {"history": silent, "uniform": 0.5},
        {"history": torch.rand(3, 2, generator=rng) + torch.tensor([[0.1], [1.0], [3.0]])},
        {"history": (torch.rand(6, 2, generator=rng) + 0.1).double(), "uniform": 0.3},
        {"history": chain},
    ]


def _weights_by(spread, weight=lambda p: 1 / (len(p) * p)):
    """Build importance_weights from what p is proportional to, and what a loss weighs at p."""

    def answer(history, uniform=0.001):
        s = spread(history)
        p = (1 - uniform) * (s / s.sum()) + uniform / len(s)
        return p, weight(p)

    return answer


def _root_mean_square(history):
    return history.square().mean(1).sqrt()


def _added_not_mixed(history, uniform=0.001):
    p = _root_mean_square(history)
    p = p / p.sum() + uniform
    return p / p.sum(), p.sum() / (len(p) * p)


def _mixed_before_normalizing(history, uniform=0.001):
    p = (1 - uniform) * _root_mean_square(history) + uniform / len(history)
    p = p / p.sum()
    return p, 1 / (len(p) * p)


def _raised(history, uniform=0.001):
    p = _root_mean_square(history)
    p = (p / p.sum()).clamp(min=uniform / len(history))
    return p, 1 / (len(p) * p)


def _weights_before_mixing(history, uniform=0.001):
    p = _root_mean_square(history)
    p = p / p.sum()
    return (1 - uniform) * p + uniform / len(p), 1 / (len(p) * p)


IMPORTANCE = Exercise(
    id="ddpm.importance_weights",
    reference=improved_ddpm.importance_weights,
    cases=_importance_cases,
    equation="Improved DDPM, Eq. 18",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "mean_loss": (
            _weights_by(lambda history: history.mean(1)),
            "You used the mean loss. Eq. 18 takes the root of the mean square, which also counts"
            " how much it varies.",
        ),
        "not_rooted": (
            _weights_by(lambda history: history.square().mean(1)),
            "The square root is missing: p is proportional to sqrt(E[L^2]).",
        ),
        "no_T": (
            _weights_by(_root_mean_square, weight=lambda p: 1 / p),
            "Your weights are T times too large. An evenly drawn step has p = 1/T and must weigh 1:"
            " use 1 / (T p).",
        ),
        "no_uniform": (
            edit("(1 - uniform) * spread", "spread", " + uniform / len(spread)", ""),
            "You left out the even share. Without it a step whose recorded losses are tiny is never"
            " visited again.",
        ),
        "added_not_mixed": (
            _added_not_mixed,
            "Mix, do not add: (1 - uniform) * p + uniform / T keeps the sum at 1 and the share at"
            " `uniform`.",
        ),
        "mixed_before_normalizing": (
            _mixed_before_normalizing,
            "You mixed before you normalized, so the scale of the losses decides how large the even"
            " share is. First make p add up to 1, then mix.",
        ),
        "raised": (
            _raised,
            "You raised the small probabilities to uniform / T, and they no longer add up to 1."
            " Mix: (1 - uniform) * p + uniform / T.",
        ),
        "weights_before_mixing": (
            _weights_before_mixing,
            "The weights must come from the probabilities you return, after mixing.",
        ),
        "global_T": (
            _weights_by(_root_mean_square, weight=lambda p: 1 / (1000 * p)),
            "You used the notebook's T = 1000. Here T is the number of rows, len(history).",
        ),
        "deviation": (
            _weights_by(lambda history: history.std(1)),
            "You used the standard deviation. A large but steady loss matters too: E[L^2], not the"
            " variance.",
        ),
        "not_inverted": (
            _weights_by(_root_mean_square, weight=lambda p: len(p) * p),
            "You weight often-drawn steps more, so they count twice. The weight undoes the"
            " probability: 1 / (T p).",
        ),
    },
)


# ---------------------------------------------------------------- respace


def _respace_cases(rng):
    """Steps with the first and without it, all of them, and ten of a thousand."""
    kept = [[0, 2, 3, 6], [2, 5], [*range(STEPS)]]
    short = [{"betas": _short_betas(rng), "kept": torch.tensor(steps)} for steps in kept]
    return [
        *short,
        {"betas": LINEAR.float(), "kept": improved_ddpm.strided_steps(1000, 10)},
        {"betas": schedules.cosine_betas(1000), "kept": improved_ddpm.strided_steps(1000, 10)},
        {"betas": schedules.cosine_betas(1000), "kept": ddim_steps(1000, 10)},
    ]


RESPACE = Exercise(
    id="ddpm.respace",
    reference=improved_ddpm.respace,
    cases=_respace_cases,
    equation="Improved DDPM, Eq. 19",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "picked": (
            lambda betas, kept: betas[kept],
            "You kept the betas of the kept steps. They are too small: each must now do the work of"
            " the steps skipped before it. What stays the same is alpha-bar.",
        ),
        "rooted": (
            lambda betas, kept: 1 - (1 - improved_ddpm.respace(betas, kept)).sqrt(),
            "You took a square root. alpha-bar is already a product of alphas; the root belongs to"
            " Eq. 4.",
        ),
        "summed": (
            lambda betas, kept: betas.cumsum(0)[kept].diff(prepend=torch.zeros(1)),
            "You added up the betas that are skipped. Variances of a chain that also shrinks do not"
            " add; the alphas multiply.",
        ),
        "rolled": (
            edit("previous(alphas_cumprod)", "alphas_cumprod.roll(1)"),
            "`roll` brings the last entry round to the front; before the first kept step alpha-bar"
            " is 1.",
        ),
        "not_relative": (
            edit(" / previous(alphas_cumprod)", ""),
            "That is 1 - alpha-bar, all the noise since the start. A step's beta is 1 - alpha-bar"
            " over the alpha-bar of the kept step before.",
        ),
        "first_picked": (
            lambda betas, kept: torch.cat(
                [betas[kept[:1]], improved_ddpm.respace(betas, kept)[1:]]
            ),
            "All right but the first: if the chain starts later than step 0, its first beta covers"
            " the skipped steps too. Before it alpha-bar is 1.",
        ),
        "alphas": (
            lambda betas, kept: 1 - improved_ddpm.respace(betas, kept),
            "Those are the alphas; the betas are 1 minus them.",
        ),
    },
)

EXERCISES = [
    Q_SAMPLE,
    PREDICT_X_START,
    POSTERIOR,
    NORMAL_KL,
    SIMPLE_LOSS,
    SAMPLE_STEP,
    DISCRETIZED_NLL,
    LEARNED_RANGE,
    HYBRID_LOSS,
    COSINE,
    IMPORTANCE,
    RESPACE,
]
