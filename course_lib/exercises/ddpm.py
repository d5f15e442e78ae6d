"""Notebook 01: the equations of DDPM and Improved DDPM, in the order of the story."""

import math

import torch

from course_lib.checking import Exercise, edit
from course_lib.diffusion import gather_at, normal_kl, previous, schedules
from course_lib.papers import ddpm, improved_ddpm

# Images in which every axis has another length, and points in a plane.
SHAPES = [(3, 2, 5, 4), (2, 3, 4, 6), (5, 2)]
STEPS = 7


def _betas(rng: torch.Generator) -> torch.Tensor:
    return torch.linspace(0.02, 0.4, STEPS) + 0.05 * torch.rand(STEPS, generator=rng)


def _alphas_cumprod(betas: torch.Tensor) -> torch.Tensor:
    return (1 - betas).cumprod(0)


def _steps(rng: torch.Generator, n: int) -> torch.Tensor:
    """Draw the steps of n samples; the first and the last step are always among them."""
    t = torch.randint(0, STEPS, (n,), generator=rng)
    t[0] = 0
    t[-1] = STEPS - 1
    return t


def _pixels(rng: torch.Generator, shape: tuple[int, ...]) -> torch.Tensor:
    """Draw pixel values k / 127.5 - 1, black and white among them."""
    x = torch.randint(0, 256, shape, generator=rng) / 127.5 - 1
    x.view(-1)[:2] = torch.tensor([-1.0, 1.0])
    return x


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


def _x_start_by(formula):
    """Build predict_x_start from a formula of (x_t, eps, alpha-bar), as a student solves Eq. 4."""

    def answer(x_t, t, eps, alphas_cumprod):
        return formula(x_t, eps, gather_at(alphas_cumprod, t, x_t))

    return answer


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
            _x_start_by(lambda x, eps, a: ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)),
            "Do not clamp here: the function solves Eq. 4 exactly. Clipping is the sampler's job.",
        ),
        "unweighted_noise": (
            _x_start_by(lambda x, eps, a: (x - eps) / a.sqrt()),
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
    },
)


# ---------------------------------------------------------------- normal_kl


def _kl_cases(rng):
    shapes = [(3, 2, 5, 4), (4,), (2, 3)]
    names = ("mean1", "log_variance1", "mean2", "log_variance2")
    cases = [{name: torch.randn(shape, generator=rng) for name in names} for shape in shapes]
    same = torch.randn(5, generator=rng)
    return [*cases, {name: same.clone() for name in names}]


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


def _toy_model(x_t, t):
    """Stand in for the network, with another output at every step."""
    return torch.tanh(0.7 * x_t + 0.1 * t.reshape(-1, *[1] * (x_t.ndim - 1)))


def _simple_cases(rng):
    return [{"model": _toy_model, **case} for case in _q_sample_cases(rng)]


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
            "`t` differs from sample to sample. Decide about the noise for each entry, not by"
            " `t[0]`.",
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
    },
)


# ---------------------------------------------------------------- discretized_nll


def _nll_cases(rng):
    cases = []
    for shape in SHAPES:
        x = _pixels(rng, shape)
        log_scale = -4 + 0.5 * torch.randn(shape, generator=rng)  # around the width of two bins
        mean = x + log_scale.exp() * torch.randn(shape, generator=rng).clamp(-2, 2)
        cases.append({"x": x, "mean": mean, "log_scale": log_scale})
    return cases


def _nll_by_cdf(half=1 / 255, scale=torch.exp, open_below=-1, open_above=1, sign=-1):
    """Build discretized_nll from two values of the normal's distribution function.

    half: half the width of a bin.  open_below, open_above: the pixel values whose bins are open on
    that side; None for no such bin.
    """

    def answer(x, mean, log_scale):
        below = torch.special.ndtr((x - half - mean) / scale(log_scale))
        above = torch.special.ndtr((x + half - mean) / scale(log_scale))
        if open_below is not None:
            below = torch.where((x - open_below).abs() < 1e-3, 0.0, below)
        if open_above is not None:
            above = torch.where((x - open_above).abs() < 1e-3, 1.0, above)
        return sign * (above - below).clamp(min=1e-12).log()

    return answer


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
            _nll_by_cdf(open_below=None, open_above=None),
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
            _nll_by_cdf(open_below=1, open_above=-1),
            "Black and white have changed places: at x = -1 the lower value is 0, at x = 1 the"
            " upper one is 1.",
        ),
        "positive": (
            _nll_by_cdf(sign=1),
            "That is the log probability. Its negative is asked for.",
        ),
    },
)


# ---------------------------------------------------------------- learned_range_variance


def _range_cases(rng):
    return [
        {"v": torch.randn(shape, generator=rng), "t": _steps(rng, shape[0]), "betas": _betas(rng)}
        for shape in SHAPES
    ]


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
    },
)


# ---------------------------------------------------------------- hybrid_loss


def _hybrid_cases(rng):
    cases = []
    for shape in SHAPES[:2]:
        b, c, *sides = shape
        betas = _betas(rng)
        t = _steps(rng, b)
        noise = torch.randn(shape, generator=rng)
        x_start = _pixels(rng, shape)

        right = torch.cat([noise, torch.zeros(shape)], dim=1)
        output = right + 0.3 * torch.randn(b, 2 * c, *sides, generator=rng)
        cases.append(
            {
                "output": output,
                "x_start": x_start,
                "x_t": ddpm.q_sample(x_start, t, noise, _alphas_cumprod(betas)),
                "t": t,
                "noise": noise,
                "betas": betas,
            }
        )
    return cases


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
    return [
        {"timesteps": n, "s": s} for n, s in ((1, 0.008), (10, 0.008), (1000, 0.008), (37, 0.1))
    ]


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
    falling = torch.tensor([9.0, 3.0, 1.0, 0.3, 0.1])[:, None]
    first = torch.rand(5, 3, generator=rng) * falling
    second = torch.rand(5, 3, generator=rng) * falling
    spikes = torch.rand(7, 4, generator=rng) ** 6
    return [
        {"history": first, "uniform": 0.001},
        {"history": second, "uniform": 0.1},
        {"history": spikes, "uniform": 0.01},
    ]


def _weights_by(spread, weight=lambda p: 1 / (len(p) * p)):
    """Build importance_weights from what p is proportional to, and what a loss weighs at p."""

    def answer(history, uniform):
        s = spread(history)
        p = (1 - uniform) * (s / s.sum()) + uniform / len(s)
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
    kept = [torch.tensor([0, 2, 3, 6]), torch.tensor([1, 5]), torch.arange(STEPS)]
    return [{"betas": _betas(rng), "kept": k} for k in kept]


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
