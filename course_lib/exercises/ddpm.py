"""Notebook 01: the equations of DDPM and of Improved DDPM, in the order in which the story needs
them.
"""

import math

import torch

from course_lib.checking import Exercise
from course_lib.diffusion import gather_at, normal_kl, previous, schedules
from course_lib.papers import ddpm, improved_ddpm

# pictures with every axis of another length; points in a plane
SHAPES = [(3, 2, 5, 4), (2, 3, 4, 6), (5, 2)]
STEPS = 7


def _betas(rng: torch.Generator) -> torch.Tensor:
    return torch.linspace(0.02, 0.4, STEPS) + 0.05 * torch.rand(STEPS, generator=rng)


def _alphas_cumprod(betas: torch.Tensor) -> torch.Tensor:
    return (1 - betas).cumprod(0)


def _steps(rng: torch.Generator, n: int) -> torch.Tensor:
    """Steps of n samples; the first and the last step are always among them."""
    t = torch.randint(0, STEPS, (n,), generator=rng)
    t[0], t[-1] = 0, STEPS - 1
    return t


def _pixels(rng: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    """Pixel values k / 127.5 - 1, black and white among them."""
    x = torch.randint(0, 256, shape, generator=rng) / 127.5 - 1
    x.view(-1)[:2] = torch.tensor([-1.0, 1.0])
    return x


def _per_sample(x: torch.Tensor) -> torch.Tensor:
    return x.flatten(1).mean(1)


# ---------------------------------------------------------------- q_sample


def _q_sample_cases(rng):
    return [
        {
            "x_start": torch.randn(shape, generator=rng),
            "t": _steps(rng, shape[0]),
            "noise": torch.randn(shape, generator=rng),
            "alphas_cumprod": _alphas_cumprod(_betas(rng)),
        }
        for shape in SHAPES
    ]


def _mixed(signal, sigma):
    """q_sample with other weights, each a function of alpha-bar."""

    def answer(x_start, t, noise, alphas_cumprod):
        a = gather_at(alphas_cumprod, t, x_start)
        return signal(a) * x_start + sigma(a) * noise

    return answer


def _one_step_early(x_start, t, noise, alphas_cumprod):
    return ddpm.q_sample(x_start, t, noise, previous(alphas_cumprod))


Q_SAMPLE = Exercise(
    id="ddpm.q_sample",
    reference=ddpm.q_sample,
    cases=_q_sample_cases,
    gradients=("x_start", "noise"),
    equation="DDPM, Eq. 4",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "no_sqrt": (
            _mixed(lambda a: a, lambda a: 1 - a),
            "You scaled by alpha-bar itself. It is a variance; Eq. 4 wants its square root, and the"
            " square root of 1 - alpha-bar for the noise.",
        ),
        "swapped": (
            _mixed(lambda a: (1 - a).sqrt(), lambda a: a.sqrt()),
            "The two weights have changed places. At t = 0 almost everything must be picture:"
            " alpha-bar is near 1.",
        ),
        "noise_variance": (
            _mixed(lambda a: a.sqrt(), lambda a: 1 - a),
            "The picture's weight is right. The noise's is still a variance: take the square root"
            " of 1 - alpha-bar.",
        ),
        "one_minus_root": (
            _mixed(lambda a: a.sqrt(), lambda a: 1 - a.sqrt()),
            "You subtracted the square root from 1. The variances add up to 1, not the standard"
            " deviations: sqrt(1 - alpha-bar), not 1 - sqrt(alpha-bar).",
        ),
        "one_step_early": (
            _one_step_early,
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
            _mixed(lambda a: a.sqrt(), torch.ones_like),
            "You added the noise unscaled. Then the variance would exceed 1; weigh it by sqrt(1 -"
            " alpha-bar).",
        ),
    },
)


# ---------------------------------------------------------------- predict_x_start


def _predict_cases(rng):
    return [
        {
            "x_t": torch.randn(shape, generator=rng),
            "t": _steps(rng, shape[0]),
            "eps": torch.randn(shape, generator=rng),
            "alphas_cumprod": _alphas_cumprod(_betas(rng)),
        }
        for shape in SHAPES
    ]


def _solved(solution):
    """predict_x_start by another formula of (x_t, eps, alpha-bar)."""
    return lambda x_t, t, eps, alphas_cumprod: solution(x_t, eps, gather_at(alphas_cumprod, t, x_t))


PREDICT_X_START = Exercise(
    id="ddpm.predict_x_start",
    reference=ddpm.predict_x_start,
    cases=_predict_cases,
    gradients=("x_t", "eps"),
    equation="DDPM, Eq. 15",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "not_divided": (
            _solved(lambda x, eps, a: x - (1 - a).sqrt() * eps),
            "The noise is gone, but the picture is still shrunk. Divide by sqrt(alpha-bar).",
        ),
        "divided_by_variance": (
            _solved(lambda x, eps, a: (x - (1 - a).sqrt() * eps) / a),
            "You divided by alpha-bar. The picture was multiplied by its square root; divide by"
            " that.",
        ),
        "only_x_divided": (
            _solved(lambda x, eps, a: x / a.sqrt() - (1 - a).sqrt() * eps),
            "You divided x_t before you took the noise away. The whole difference is divided by"
            " sqrt(alpha-bar).",
        ),
        "wrong_sign": (
            _solved(lambda x, eps, a: (x + (1 - a).sqrt() * eps) / a.sqrt()),
            "You added the noise a second time. Solving Eq. 4 for x_0 subtracts it.",
        ),
        "noise_variance": (
            _solved(lambda x, eps, a: (x - (1 - a) * eps) / a.sqrt()),
            "The noise was added with weight sqrt(1 - alpha-bar); you removed it with weight 1 -"
            " alpha-bar.",
        ),
        "clamped": (
            _solved(lambda x, eps, a: ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)),
            "Do not clamp here: the function solves Eq. 4 exactly. Clipping is the sampler's"
            " business.",
        ),
        "unweighted_noise": (
            _solved(lambda x, eps, a: (x - eps) / a.sqrt()),
            "You subtracted the noise in full. Only sqrt(1 - alpha-bar) of it is in x_t.",
        ),
    },
)


# ---------------------------------------------------------------- posterior_mean_variance


def _posterior_cases(rng):
    return [
        {
            "x_start": torch.randn(shape, generator=rng),
            "x_t": torch.randn(shape, generator=rng),
            "t": _steps(rng, shape[0]),
            "betas": _betas(rng),
        }
        for shape in SHAPES
    ]


def _posterior(of_x_start, of_x_t, variance):
    """The posterior with other weights, each a function of (beta, alpha-bar, alpha-bar of the step
    before).
    """

    def answer(x_start, x_t, t, betas):
        a = _alphas_cumprod(betas)
        tables = [formula(betas, a, previous(a)) for formula in (of_x_start, of_x_t, variance)]
        w_start, w_t, v = (gather_at(table, t, x_t) for table in tables)
        return w_start * x_start + w_t * x_t, v

    return answer


def _of_x_start(beta, a, previous):
    return previous.sqrt() * beta / (1 - a)


def _of_x_t(beta, a, previous):
    return (1 - beta).sqrt() * (1 - previous) / (1 - a)


def _tilde(beta, a, previous):
    return beta * (1 - previous) / (1 - a)


def _rolled(x_start, x_t, t, betas):
    a = _alphas_cumprod(betas)
    w_start, w_t, v = (formula(betas, a, a.roll(1)) for formula in (_of_x_start, _of_x_t, _tilde))
    return gather_at(w_start, t, x_t) * x_start + gather_at(w_t, t, x_t) * x_t, gather_at(v, t, x_t)


POSTERIOR = Exercise(
    id="ddpm.posterior_mean_variance",
    reference=ddpm.posterior_mean_variance,
    cases=_posterior_cases,
    gradients=("x_start", "x_t"),
    equation="DDPM, Eq. 6 and 7",
    points=3,
    stars=2,
    minutes=10,
    misconceptions={
        "swapped": (
            _posterior(_of_x_t, _of_x_start, _tilde),
            "The weights of x_0 and x_t have changed places. At t = 0 the mean must be x_0 itself.",
        ),
        "variance_is_beta": (
            _posterior(_of_x_start, _of_x_t, lambda beta, a, previous: beta),
            "The mean is right. The variance you return is beta, that of q(x_t | x_{t-1}); knowing"
            " x_0 as well makes it smaller: beta-tilde.",
        ),
        "same_alpha_bar": (
            _posterior(
                lambda beta, a, previous: a.sqrt() * beta / (1 - a),
                _of_x_t,
                _tilde,
            ),
            "In the weight of x_0 you used alpha-bar of step t. Eq. 7 has alpha-bar of step t - 1"
            " under the root.",
        ),
        "no_root_previous": (
            _posterior(lambda beta, a, previous: previous * beta / (1 - a), _of_x_t, _tilde),
            "The weight of x_0 misses a square root: sqrt(alpha-bar of t - 1) times beta over 1 -"
            " alpha-bar.",
        ),
        "no_root_alpha": (
            _posterior(
                _of_x_start, lambda beta, a, previous: (1 - beta) * (1 - previous) / (1 - a), _tilde
            ),
            "The weight of x_t misses a square root: it is sqrt(alpha_t), not alpha_t.",
        ),
        "alpha_bar_for_alpha": (
            _posterior(
                _of_x_start, lambda beta, a, previous: a.sqrt() * (1 - previous) / (1 - a), _tilde
            ),
            "In the weight of x_t you used alpha-bar. Eq. 7 has the single step's alpha_t = 1 -"
            " beta_t there.",
        ),
        "deviation": (
            _posterior(
                _of_x_start, _of_x_t, lambda beta, a, previous: _tilde(beta, a, previous).sqrt()
            ),
            "The second output is the standard deviation. Return the variance.",
        ),
        "rolled": (
            _rolled,
            "All is right but t = 0: before the first step there is no noise, so alpha-bar is 1"
            " there. `roll` brings the last entry round instead.",
        ),
    },
)


# ---------------------------------------------------------------- normal_kl


def _kl_cases(rng):
    shapes = [(3, 2, 5, 4), (4,), (2, 3)]
    names = ("mean1", "log_variance1", "mean2", "log_variance2")
    cases = [{name: torch.randn(shape, generator=rng) for name in names} for shape in shapes]
    same = torch.randn(5, generator=rng)
    return [
        *cases,
        {name: same.clone() for name in names},
    ]


def _from_log_stds(mean1, log_variance1, mean2, log_variance2):
    return normal_kl(mean1, 2 * log_variance1, mean2, 2 * log_variance2)


def _kl(formula):
    """The KL by another formula of (log variance 2 - log variance 1, mean difference, log variance
    2).
    """
    return lambda mean1, log_variance1, mean2, log_variance2: formula(
        log_variance2 - log_variance1, mean1 - mean2, log_variance2
    )


NORMAL_KL = Exercise(
    id="ddpm.normal_kl",
    reference=ddpm.normal_kl,
    cases=_kl_cases,
    gradients=("mean1", "log_variance1", "mean2", "log_variance2"),
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
            _kl(lambda d, m, v: d - 1 + torch.exp(-d) + m.square() * torch.exp(-v)),
            "Twice too large: the factor 1/2 is missing.",
        ),
        "no_minus_one": (
            _kl(lambda d, m, v: 0.5 * (d + torch.exp(-d) + m.square() * torch.exp(-v))),
            "The KL of a normal with itself must be 0; yours is 1/2. The -1 is missing.",
        ),
        "log_std": (
            _from_log_stds,
            "You treated the logarithms as those of standard deviations. They are log variances:"
            " exp(log_variance) is sigma squared already.",
        ),
        "bits": (
            _kl(
                lambda d, m, v: (
                    0.5 * (d - 1 + torch.exp(-d) + m.square() * torch.exp(-v)) / math.log(2)
                )
            ),
            "Your answer is in bits. Nats are wanted: the natural logarithm, nothing divided by"
            " log 2.",
        ),
        "mean_not_squared": (
            _kl(lambda d, m, v: 0.5 * (d - 1 + torch.exp(-d) + m.abs() * torch.exp(-v))),
            "The distance between the means enters squared.",
        ),
        "wrong_sign_of_logs": (
            _kl(lambda d, m, v: 0.5 * (-d - 1 + torch.exp(-d) + m.square() * torch.exp(-v))),
            "The logarithms have the wrong sign: it is log variance 2 minus log variance 1.",
        ),
        "mean_unscaled": (
            _kl(lambda d, m, v: 0.5 * (d - 1 + torch.exp(-d) + m.square())),
            "Divide the squared distance of the means by the second variance: a unit matters more"
            " to a narrow normal.",
        ),
    },
)


# ---------------------------------------------------------------- simple_loss


def _toy_model(x_t, t):
    """A stand-in for the network, different at every step."""
    return torch.tanh(0.7 * x_t + 0.1 * t.reshape(-1, *[1] * (x_t.ndim - 1)))


def _simple_cases(rng):
    return [{"model": _toy_model, **case} for case in _q_sample_cases(rng)]


def _loss(loss):
    """A loss of (model, x_start, t, noise, x_t)."""

    def answer(model, x_start, t, noise, alphas_cumprod):
        return loss(model, x_start, t, noise, ddpm.q_sample(x_start, t, noise, alphas_cumprod))

    return answer


SIMPLE_LOSS = Exercise(
    id="ddpm.simple_loss",
    reference=ddpm.simple_loss,
    cases=_simple_cases,
    gradients=("x_start",),
    equation="DDPM, Eq. 14",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "target_is_picture": (
            _loss(lambda model, x, t, noise, x_t: _per_sample((x - model(x_t, t)).square())),
            "You compared the network's output with the picture. In Eq. 14 it predicts the noise.",
        ),
        "clean_input": (
            _loss(lambda model, x, t, noise, x_t: _per_sample((noise - model(x, t)).square())),
            "You showed the network the clean picture. It must find the noise in x_t.",
        ),
        "summed": (
            _loss(
                lambda model, x, t, noise, x_t: (noise - model(x_t, t)).square().flatten(1).sum(1)
            ),
            "You summed over each sample's values; take their mean, so that the loss does not grow"
            " with the picture.",
        ),
        "one_number": (
            _loss(lambda model, x, t, noise, x_t: (noise - model(x_t, t)).square().mean()),
            "You averaged over the batch too. Return one loss per sample, shape (b,): importance"
            " sampling will need them apart.",
        ),
        "absolute": (
            _loss(lambda model, x, t, noise, x_t: _per_sample((noise - model(x_t, t)).abs())),
            "You took the absolute error. The squared one comes from the KL between Gaussians.",
        ),
        "rooted": (
            _loss(
                lambda model, x, t, noise, x_t: _per_sample((noise - model(x_t, t)).square()).sqrt()
            ),
            "You took a square root at the end. Eq. 14 stops at the squared error.",
        ),
    },
)


# ---------------------------------------------------------------- sample_step


def _sample_step_cases(rng):
    return [
        {
            "x_t": torch.randn(shape, generator=rng),
            "t": _steps(rng, shape[0]),
            "eps": torch.randn(shape, generator=rng),
            "noise": torch.randn(shape, generator=rng),
            "betas": _betas(rng),
        }
        for shape in SHAPES
    ]


def _step_back(scale, pull, sigma):
    """Algorithm 2 with other tables, each a function of (beta, alpha-bar)."""

    def answer(x_t, t, eps, noise, betas):
        a = _alphas_cumprod(betas)
        scale_t, pull_t, sigma_t = (
            gather_at(table(betas, a), t, x_t) for table in (scale, pull, sigma)
        )
        return scale_t * (x_t - pull_t * eps) + sigma_t * noise

    return answer


def _scale(beta, a):
    return (1 - beta).rsqrt()


def _pull(beta, a):
    return beta / (1 - a).sqrt()


def _sigma(beta, a):
    return beta.sqrt() * (torch.arange(len(beta)) > 0)


SAMPLE_STEP = Exercise(
    id="ddpm.sample_step",
    reference=ddpm.sample_step,
    cases=_sample_step_cases,
    gradients=("x_t", "eps"),
    equation="DDPM, Algorithm 2, line 4",
    points=3,
    stars=2,
    minutes=8,
    misconceptions={
        "noise_at_the_end": (
            _step_back(_scale, _pull, lambda beta, a: beta.sqrt()),
            "You add noise in the last step too. At t = 0 the result is the picture: leave the"
            " noise out there.",
        ),
        "variance_for_std": (
            _step_back(_scale, _pull, lambda beta, a: beta * (torch.arange(len(beta)) > 0)),
            "The noise is scaled by beta, a variance. Scale it by sigma, its square root.",
        ),
        "beta_tilde": (
            _step_back(_scale, _pull, lambda beta, a: _tilde(beta, a, previous(a)).sqrt()),
            "You chose sigma squared = beta-tilde, which the paper allows. Here the choice is sigma"
            " squared = beta.",
        ),
        "alpha_bar_scale": (
            _step_back(lambda beta, a: a.rsqrt(), _pull, _sigma),
            "You divided by sqrt(alpha-bar), which leaps to x_0. One step back divides by"
            " sqrt(alpha_t) = sqrt(1 - beta_t).",
        ),
        "no_root_in_pull": (
            _step_back(_scale, lambda beta, a: beta / (1 - a), _sigma),
            "The predicted noise is weighed by beta over the square root of 1 - alpha-bar; your"
            " root is missing.",
        ),
        "no_scale": (
            _step_back(lambda beta, a: torch.ones_like(beta), _pull, _sigma),
            "The mean is not scaled back: every forward step shrank the picture by sqrt(alpha_t),"
            " so divide by it.",
        ),
        "first_of_the_batch": (
            lambda x_t, t, eps, noise, betas: (
                ddpm.predict_mean(x_t, t, eps, betas)
                + gather_at(betas.sqrt(), t, x_t) * noise * float(t[0] > 0)
            ),
            "`t` differs from sample to sample. Decide about the noise for each entry, not by"
            " `t[0]`.",
        ),
        "root_of_beta": (
            _step_back(_scale, lambda beta, a: (beta / (1 - a)).sqrt(), _sigma),
            "The weight of eps is beta over sqrt(1 - alpha-bar); you took the root of beta too.",
        ),
        "all_noise_removed": (
            _step_back(_scale, lambda beta, a: (1 - a).sqrt(), _sigma),
            "You removed all of the predicted noise at once. One step removes beta / sqrt(1 -"
            " alpha-bar) of it.",
        ),
    },
)


# ---------------------------------------------------------------- discretised_nll


def _nll_cases(rng):
    cases = []
    for shape in SHAPES:
        x = _pixels(rng, shape)
        log_scale = -4 + 0.5 * torch.randn(shape, generator=rng)  # around the width of two bins
        mean = x + log_scale.exp() * torch.randn(shape, generator=rng).clamp(-2, 2)
        cases.append({"x": x, "mean": mean, "log_scale": log_scale})
    return cases


def _mass(half=1 / 255, scale=torch.exp, open_ends=True, sign=-1):
    def answer(x, mean, log_scale):
        above = torch.special.ndtr((x + half - mean) / scale(log_scale))
        below = torch.special.ndtr((x - half - mean) / scale(log_scale))
        if open_ends:
            above, below = torch.where(x > 0.999, 1.0, above), torch.where(x < -0.999, 0.0, below)
        return sign * (above - below).clamp(min=1e-12).log()

    return answer


def _swapped_ends(x, mean, log_scale):
    above = torch.special.ndtr((x + 1 / 255 - mean) / log_scale.exp())
    below = torch.special.ndtr((x - 1 / 255 - mean) / log_scale.exp())
    above, below = torch.where(x < -0.999, 1.0, above), torch.where(x > 0.999, 0.0, below)
    return -(above - below).clamp(min=1e-12).log()


def _density(x, mean, log_scale):
    z = (x - mean) / log_scale.exp()
    return 0.5 * z.square() + log_scale + 0.5 * math.log(2 * math.pi)


DISCRETISED_NLL = Exercise(
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
            _mass(open_ends=False),
            "Inside you are right. The bins at -1 and 1 are open: black reaches to minus infinity,"
            " white to infinity, so that all 256 probabilities add up to 1.",
        ),
        "double_width": (
            _mass(half=2 / 255),
            "Your bins are twice as wide as they are: pixel values lie 2/255 apart, so a bin"
            " reaches 1/255 to each side.",
        ),
        "half_width": (
            _mass(half=0.5 / 255),
            "Your bins are half as wide as they are: on [-1, 1] pixel values lie 2/255 apart, so a"
            " bin reaches 1/255 to each side.",
        ),
        "log_variance": (
            _mass(scale=lambda log_scale: torch.exp(0.5 * log_scale)),
            "log_scale is the logarithm of the standard deviation, not of the variance: do not"
            " halve it.",
        ),
        "bits": (
            lambda x, mean, log_scale: _mass()(x, mean, log_scale) / math.log(2),
            "Your answer is in bits. Nats are wanted: the natural logarithm.",
        ),
        "ends_swapped": (
            _swapped_ends,
            "Black and white have changed places: at x = -1 the lower value is 0, at x = 1 the"
            " upper one is 1.",
        ),
        "positive": (_mass(sign=1), "That is the log probability. Its negative is asked for."),
    },
)


# ---------------------------------------------------------------- learned_range_variance


def _range_cases(rng):
    return [
        {"v": torch.randn(shape, generator=rng), "t": _steps(rng, shape[0]), "betas": _betas(rng)}
        for shape in SHAPES
    ]


def _between(interpolate):
    """The log variance by another rule of (v, log beta, log beta-tilde)."""

    def answer(v, t, betas):
        return interpolate(
            v, gather_at(betas.log(), t, v), gather_at(ddpm.posterior_log_variance(betas), t, v)
        )

    return answer


def _mix(share, upper, lower):
    return share * upper + (1 - share) * lower


LEARNED_RANGE = Exercise(
    id="ddpm.learned_range_variance",
    reference=improved_ddpm.learned_range_variance,
    cases=_range_cases,
    gradients=("v",),
    equation="Improved DDPM, Eq. 15",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "not_shifted": (
            _between(_mix),
            "You used v as it comes. The network's output is around 0 where it does not know; (v +"
            " 1) / 2 puts that in the middle of the two variances.",
        ),
        "swapped": (
            _between(lambda v, upper, lower: _mix((v + 1) / 2, lower, upper)),
            "The ends have changed places: v = 1 is log beta, the larger variance, v = -1 is log"
            " beta-tilde.",
        ),
        "variances_mixed": (
            _between(
                lambda v, upper, lower: _mix((v + 1) / 2, upper.exp(), lower.exp()).abs().log()
            ),
            "You mixed the variances and then took the logarithm. Mix the logarithms: the two ends"
            " lie orders of magnitude apart near t = 0.",
        ),
        "exponentiated": (
            _between(lambda v, upper, lower: _mix((v + 1) / 2, upper, lower).exp()),
            "That is the variance. Return its logarithm, which is what the KL wants.",
        ),
        "clamped": (
            _between(lambda v, upper, lower: _mix(((v + 1) / 2).clamp(0, 1), upper, lower)),
            "You clamped the share to [0, 1]. The paper leaves it free, and finds that the network"
            " stays inside by itself.",
        ),
        "squashed": (
            _between(lambda v, upper, lower: _mix(v.sigmoid(), upper, lower)),
            "You put a sigmoid on v. The paper interpolates with the plain output, shifted by (v +"
            " 1) / 2.",
        ),
    },
)


# ---------------------------------------------------------------- hybrid_loss


def _hybrid_cases(rng):
    cases = []
    for shape in SHAPES[:2]:
        b, c, *sides = shape
        betas, t, noise, x = (
            _betas(rng),
            _steps(rng, b),
            torch.randn(shape, generator=rng),
            _pixels(rng, shape),
        )
        output = torch.cat([noise, torch.zeros(shape)], dim=1) + 0.3 * torch.randn(
            b, 2 * c, *sides, generator=rng
        )
        x_t = ddpm.q_sample(x, t, noise, _alphas_cumprod(betas))
        cases.append(
            {"output": output, "x_start": x, "x_t": x_t, "t": t, "noise": noise, "betas": betas}
        )
    return cases


def _hybrid(
    weight=lambda betas: 0.001 * len(betas),
    detach=torch.Tensor.detach,
    last=lambda vlb: vlb,
    order=1,
):
    def answer(output, x_start, x_t, t, noise, betas):
        eps, v = output.chunk(2, dim=1)[::order]
        vlb = last(improved_ddpm.vlb_term(detach(eps), v, x_start, x_t, t, betas))
        return _per_sample((noise - eps).square()) + weight(betas) * vlb

    return answer


def _summed_hybrid(output, x_start, x_t, t, noise, betas):
    eps, v = output.chunk(2, dim=1)
    vlb = improved_ddpm.vlb_term(eps.detach(), v, x_start, x_t, t, betas)
    return (noise - eps).square().flatten(1).sum(1) + 0.001 * len(betas) * vlb


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
            _hybrid(detach=lambda eps: eps),
            "The value is right and the gradient is not: L_vlb also pulls at the predicted noise."
            " Detach eps inside `vlb_term`, so that the bound teaches the variance alone.",
        ),
        "all_detached": (
            _hybrid(last=torch.Tensor.detach),
            "You detached the whole bound, so nothing teaches the variance. Only eps is cut off"
            " inside it; v is not.",
        ),
        "no_steps": (
            _hybrid(weight=lambda betas: 0.001),
            "L_vlb is the sum over all T steps, and you have one term of it: weigh the term by"
            " 0.001 times T.",
        ),
        "global_T": (
            _hybrid(weight=lambda betas: 0.001 * 1000),
            "You used the notebook's T = 1000. This chain has len(betas) steps.",
        ),
        "summed": (_summed_hybrid, "L_simple is the mean over a sample's values, not the sum."),
        "no_lambda": (
            _hybrid(weight=len),
            "The 0.001 is missing: without it the bound overwhelms L_simple.",
        ),
        "halves_swapped": (
            _hybrid(order=-1),
            "The halves of the output have changed places: the noise comes first, v second.",
        ),
        "vlb_alone": (
            lambda output, x_start, x_t, t, noise, betas: (
                0.001
                * len(betas)
                * improved_ddpm.vlb_term(
                    output.chunk(2, dim=1)[0].detach(),
                    output.chunk(2, dim=1)[1],
                    x_start,
                    x_t,
                    t,
                    betas,
                )
            ),
            "L_simple is missing: nothing teaches the network to find the noise.",
        ),
    },
)


# ---------------------------------------------------------------- cosine_alphas_cumprod


def _cosine_cases(rng):
    return [
        {"timesteps": n, "s": s} for n, s in ((1, 0.008), (10, 0.008), (1000, 0.008), (37, 0.1))
    ]


def _cosine(f=lambda angle: angle.cos().square(), first=1, normalise=True, offset=True):
    def answer(timesteps, s):
        s = s if offset else 0.0
        t = torch.arange(timesteps + 1, dtype=torch.float64) / timesteps
        values = f((t + s) / (1 + s) * math.pi / 2)
        return values[first : timesteps + first] / (values[0] if normalise else 1)

    return answer


def _single_precision(timesteps, s):
    t = torch.arange(timesteps + 1) / timesteps
    f = torch.cos((t + s) / (1 + s) * math.pi / 2).square()
    return (f[1:] / f[0]).double()


def _one_too_many(timesteps, s):
    return torch.cat(
        [torch.ones(1, dtype=torch.float64), schedules.cosine_alphas_cumprod(timesteps, s)]
    )


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
            _cosine(normalise=False),
            "Divide by f(0): without it alpha-bar does not start from 1.",
        ),
        "not_squared": (
            _cosine(f=torch.cos),
            "f is the square of the cosine: yours is sqrt(alpha-bar), near enough.",
        ),
        "from_zero": (
            _cosine(first=0),
            "You started at t = 0. The first entry belongs to the paper's t = 1: evaluate f at 1/T,"
            " 2/T, ..., 1.",
        ),
        "single_precision": (
            _single_precision,
            "The values differ after the seventh digit: t was made in float32. Make it float64 from"
            " the start.",
        ),
        "one_too_many": (
            _one_too_many,
            "One value too many: drop f(0) / f(0) = 1, which belongs to t = 0.",
        ),
        "no_offset": (
            _cosine(offset=False),
            "The offset s is missing. Without it the first steps add almost no noise, less than one"
            " pixel value.",
        ),
        "sine": (
            _cosine(f=lambda angle: 1 - angle.cos().square(), normalise=False),
            "That grows with t: it is 1 - alpha-bar. alpha-bar falls from 1 to 0.",
        ),
        "degrees": (
            _cosine(f=lambda angle: (2 * angle).cos().square()),
            "The angle runs to pi/2, a quarter turn; yours runs to pi, and alpha-bar rises again"
            " after the middle.",
        ),
    },
)


# ---------------------------------------------------------------- importance_weights


def _importance_cases(rng):
    histories = [
        torch.rand(5, 3, generator=rng) * torch.tensor([9.0, 3.0, 1.0, 0.3, 0.1])[:, None]
        for _ in range(2)
    ]
    spikes = torch.rand(7, 4, generator=rng) ** 6
    return [
        {"history": history, "uniform": u}
        for history, u in zip([*histories, spikes], (0.001, 0.1, 0.01), strict=True)
    ]


def _weighted(spread, weight=lambda p: 1 / (len(p) * p), mix=True):
    def answer(history, uniform):
        s = spread(history)
        p = s / s.sum()
        p = (1 - uniform) * p + uniform / len(p) if mix else p
        return p, weight(p)

    return answer


def _root_mean_square(history):
    return history.square().mean(1).sqrt()


def _added_not_mixed(history, uniform):
    p = _root_mean_square(history)
    p = p / p.sum() + uniform
    return p / p.sum(), p.sum() / (len(p) * p)


def _weights_before_mixing(history, uniform):
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
            _weighted(lambda history: history.mean(1)),
            "You used the mean loss. Eq. 18 wants the root of the mean square, which also counts"
            " how much it varies.",
        ),
        "not_rooted": (
            _weighted(lambda history: history.square().mean(1)),
            "The square root is missing: p is proportional to sqrt(E[L^2]).",
        ),
        "no_T": (
            _weighted(_root_mean_square, weight=lambda p: 1 / p),
            "Your weights are T times too large. An evenly drawn step has p = 1/T and must weigh 1:"
            " use 1 / (T p).",
        ),
        "no_uniform": (
            _weighted(_root_mean_square, mix=False),
            "You left out the even share. Without it a step whose recorded losses are tiny is never"
            " visited again.",
        ),
        "added_not_mixed": (
            _added_not_mixed,
            "Mix, do not add: (1 - uniform) * p + uniform / T keeps the sum at 1 and the share at"
            " `uniform`.",
        ),
        "weights_before_mixing": (
            _weights_before_mixing,
            "The weights must come from the probabilities you return, after mixing.",
        ),
        "global_T": (
            _weighted(_root_mean_square, weight=lambda p: 1 / (1000 * p)),
            "You used the notebook's T = 1000. Here T is the number of rows, len(history).",
        ),
        "deviation": (
            _weighted(lambda history: history.std(1)),
            "You used the standard deviation. A large but steady loss matters too: E[L^2], not the"
            " variance.",
        ),
        "not_inverted": (
            _weighted(_root_mean_square, weight=lambda p: len(p) * p),
            "You weigh often-drawn steps more, so they count twice. The weight undoes the"
            " probability: 1 / (T p).",
        ),
    },
)


# ---------------------------------------------------------------- respace


def _respace_cases(rng):
    kept = [torch.tensor([0, 2, 3, 6]), torch.tensor([1, 5]), torch.arange(STEPS)]
    return [{"betas": _betas(rng), "kept": k} for k in kept]


def _respace_rolled(betas, kept):
    a = _alphas_cumprod(betas)[kept]
    return 1 - a / a.roll(1)


RESPACE = Exercise(
    id="ddpm.respace",
    reference=improved_ddpm.respace,
    cases=_respace_cases,
    gradients=("betas",),
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
            "You took a square root. alpha-bar is a product of alphas as it stands; the root"
            " belongs to Eq. 4.",
        ),
        "summed": (
            lambda betas, kept: betas.cumsum(0)[kept].diff(prepend=torch.zeros(1)),
            "You added up the betas that are skipped. Variances of a chain that also shrinks do not"
            " add; the alphas multiply.",
        ),
        "rolled": (
            _respace_rolled,
            "`roll` brings the last entry round to the front; before the first kept step alpha-bar"
            " is 1.",
        ),
        "not_relative": (
            lambda betas, kept: 1 - _alphas_cumprod(betas)[kept],
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
    DISCRETISED_NLL,
    LEARNED_RANGE,
    HYBRID_LOSS,
    COSINE,
    IMPORTANCE,
    RESPACE,
]
