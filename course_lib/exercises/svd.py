"""Notebook 08, second half: noise levels, layers between frames, conditions, cuts, ratings."""

import math
from dataclasses import dataclass
from itertools import pairwise

import torch
from einops import rearrange, repeat
from torch import Tensor

from course_lib.checking import Exercise, call_by_name, edit
from course_lib.curation import cuts
from course_lib.diffusion import edm
from course_lib.metrics import elo
from course_lib.nn.embeddings import timestep_embedding
from course_lib.papers import svd
from course_lib.papers.ldm import cross_attention

# ---------------------------------------------------------------- precondition


def _sigma_cases(rng):
    """Give one level per clip, single numbers, a table, and the ends of sampling by themselves.

    At 700 c_skip is 2e-6, which would vanish beside the others.
    """
    drawn = torch.linspace(-3, 3, 7) + 0.3 * torch.rand(7, generator=rng)
    return [
        {"sigma": drawn.exp()},
        {"sigma": torch.tensor(700.0)},
        {"sigma": torch.tensor(0.002)},
        {"sigma": torch.tensor([1.0])},
        {"sigma": torch.tensor([0.3, 2.5, 9.0, 60.0]).reshape(4, 1, 1, 1, 1)},
        {"sigma": torch.tensor([[0.05, 0.7, 1.3], [4.0, 20.0, 110.0]]).double()},
    ]


def _factors(answer, case):
    """Return the four factors as a plain tuple, whether or not the answer names them."""
    factors = call_by_name(answer, case)
    return tuple(factors) if isinstance(factors, tuple) else factors


PRECONDITION = Exercise(
    id="svd.precondition",
    reference=edm.precondition,
    cases=_sigma_cases,
    probe=_factors,
    equation="EDM, Table 1 and Eq. 7, with data of variance 1; SVD, appendix D",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "data_of_a_half": (
            edit(
                "1 / (sigma.square() + 1)",
                "0.25 / (sigma.square() + 0.25)",
                "-sigma * (sigma.square() + 1).rsqrt()",
                "-0.5 * sigma * (sigma.square() + 0.25).rsqrt()",
                "c_in = (sigma.square() + 1)",
                "c_in = (sigma.square() + 0.25)",
            ),
            "You took EDM's data, of deviation 0.5. Latents are scaled to deviation 1.",
        ),
        "edm_sign": (
            edit("-sigma *", "sigma *"),
            "c_out has EDM's sign. Stable Video Diffusion's is negative, so that the network says"
            " the v of Stable Diffusion 2, from whose weights it starts.",
        ),
        "base_ten": (
            edit("sigma.log()", "sigma.log10()"),
            "You told the network a logarithm to base 10. c_noise is ln(sigma) / 4.",
        ),
        "not_quartered": (
            edit("sigma.log() / 4", "sigma.log()"),
            "c_noise is a quarter of ln(sigma).",
        ),
        "sigma_itself": (
            edit("sigma.log() / 4", "sigma"),
            "You told the network sigma itself, which spans five powers of ten. c_noise is"
            " ln(sigma) / 4.",
        ),
        "no_root_in_c_in": (
            edit("c_in = (sigma.square() + 1).rsqrt()", "c_in = 1 / (sigma.square() + 1)"),
            "Your c_in divides by the variance of x. To bring it to 1, divide x by the deviation:"
            " sqrt(sigma^2 + 1).",
        ),
        "root_in_c_skip": (
            edit("1 / (sigma.square() + 1)", "(sigma.square() + 1).rsqrt()"),
            "Your c_skip has a root. It is 1 / (sigma^2 + 1), the share of the signal in the"
            " variance of x.",
        ),
        "no_root_in_c_out": (
            edit("-sigma * (sigma.square() + 1).rsqrt()", "-sigma / (sigma.square() + 1)"),
            "Your c_out lacks the root: sigma over sqrt(sigma^2 + 1).",
        ),
        "not_squared": (
            edit(
                "1 / (sigma.square() + 1)",
                "1 / (sigma + 1)",
                "-sigma * (sigma.square() + 1)",
                "-sigma * (sigma + 1)",
                "c_in = (sigma.square() + 1)",
                "c_in = (sigma + 1)",
            ),
            "You added deviations. What adds up are variances: sigma^2 + 1.",
        ),
        "skip_of_the_noise": (
            edit("1 / (sigma.square() + 1)", "sigma.square() / (sigma.square() + 1)"),
            "Your c_skip keeps x where it is all noise. It is 1 where there is none, and falls to"
            " 0: 1 / (sigma^2 + 1).",
        ),
        "in_and_out_swapped": (
            edit("(c_skip, c_out, c_in,", "(c_skip, c_in, c_out,"),
            "c_in and c_out have changed places. The order is c_skip, c_out, c_in, c_noise.",
        ),
    },
)


# ---------------------------------------------------------------- noise_levels


def _level_cases(rng):
    """Draw levels of every stage of training, of a single sample, with no spread; float64."""
    normal = torch.linspace(-2, 2, 6) + 0.3 * torch.rand(6, generator=rng)
    stages = ["320x576", "images", "image-to-video 576x1024", "augmentation"]
    cases = [
        {"normal": normal, "p_mean": svd.NOISE[stage][0], "p_std": svd.NOISE[stage][1]}
        for stage in stages
    ]
    return [
        *cases,
        {"normal": torch.tensor([0.8]), "p_mean": 0.7, "p_std": 1.6},
        {"normal": torch.tensor([0.4, -1.0, 3.0]), "p_mean": -0.5, "p_std": 0.0},
        {"normal": torch.tensor([-0.6, 0.0, 1.1, 2.0]).double(), "p_mean": 0.5, "p_std": 1.4},
    ]


NOISE_LEVELS = Exercise(
    id="svd.noise_levels",
    reference=edm.noise_levels,
    cases=_level_cases,
    equation="EDM, Table 1 (training); SVD, appendix D",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "log_returned": (
            edit(".exp()", ""),
            "That is ln(sigma). It is what is normal; return sigma, its exponential.",
        ),
        "base_ten": (
            edit("(p_mean + p_std * normal).exp()", "10 ** (p_mean + p_std * normal)"),
            "You raised 10 to the power. The logarithm is the natural one: e.",
        ),
        "base_two": (
            edit(".exp()", ".exp2()"),
            "You raised 2 to the power. The logarithm is the natural one: e.",
        ),
        "variance_taken_for_the_deviation": (
            edit("p_std * normal", "p_std**0.5 * normal"),
            "You took a root of p_std. It is a deviation already.",
        ),
        "squared": (
            edit("p_std * normal", "p_std**2 * normal"),
            "You squared p_std. A normal number of deviation p_std is p_std times a standard one.",
        ),
        "mean_outside": (
            edit("(p_mean + p_std * normal).exp()", "p_mean + (p_std * normal).exp()"),
            "You added the mean after the exponential. p_mean is the mean of ln(sigma): add it"
            " before.",
        ),
        "mean_of_sigma": (
            edit("(p_mean + p_std * normal)", "(p_mean - p_std**2 / 2 + p_std * normal)"),
            "You made e^p_mean the mean of sigma. p_mean is the mean of its logarithm, so that half"
            " of the sigmas are below e^p_mean.",
        ),
        "added_and_scaled": (
            edit("(p_mean + p_std * normal)", "((p_mean + normal) * p_std)"),
            "You scaled the mean, too. p_std multiplies the normal number, then p_mean is added.",
        ),
        "standardized": (
            edit("(p_mean + p_std * normal)", "((normal - p_mean) / (p_std + 1e-12))"),
            "You went the other way: `normal` is standard already, and has to get mean p_mean and"
            " deviation p_std.",
        ),
        "swapped": (
            edit("p_mean + p_std * normal", "p_std + p_mean * normal"),
            "p_mean and p_std have changed places.",
        ),
    },
)


# ---------------------------------------------------------------- karras_sigmas


def _karras_cases(rng):
    """Ask for sampling's own levels, a narrow range, other rhos, a single step and the defaults."""
    asked = [
        (5, 0.5, 12.0, 3.0),
        (8, 0.1, 4.0, 7.0),
        (4, 1.0, 9.0, 1.0),
        (6, 0.2, 5.0, 2.0),
        (2, 0.03, 2.0, 5.0),
        (1, 0.4, 3.0, 7.0),
        (25, 0.002, 700.0, 7.0),
        (7, 0.002, 0.09, 7.0),
    ]
    names = ("steps", "sigma_min", "sigma_max", "rho")
    return [*(dict(zip(names, values, strict=True)) for values in asked), {"steps": 30}]


def _karras(between, last=True):
    """Build karras_sigmas with another way from the highest to the lowest level."""

    def answer(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
        i = torch.arange(steps, dtype=torch.float64)
        sigmas = between(i / max(steps - 1, 1), sigma_min, sigma_max, rho)
        return torch.cat([sigmas, torch.zeros(1, dtype=torch.float64)])

    return answer


def _zero_included(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return edm.karras_sigmas(max(steps - 1, 1), sigma_min, sigma_max, rho)[-steps:]


def _divided_by_steps(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return edm.karras_sigmas(steps + 1, sigma_min, sigma_max, rho)[[*range(steps), steps + 1]]


def _divided_by_none(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    if steps == 1:
        return torch.tensor([math.nan, 0.0], dtype=torch.float64)
    return edm.karras_sigmas(steps, sigma_min, sigma_max, rho)


def _division_by_zero(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    share = 1 / (steps - 1)
    return edm.karras_sigmas(steps, sigma_min, sigma_max, rho + 0 * share)


ONE_STEP_SENTENCE = (
    "Right but for a single step, where you divide by steps - 1 = 0. It is sigma_max, then 0;"
    " `linspace` knows that."
)

KARRAS_SIGMAS = Exercise(
    id="svd.karras_sigmas",
    reference=edm.karras_sigmas,
    cases=_karras_cases,
    equation="EDM, Eq. 5",
    points=2,
    stars=2,
    minutes=8,
    tolerance=1e-8,
    misconceptions={
        "linear": (
            _karras(lambda share, low, high, rho: high + share * (low - high)),
            "Your levels are evenly spaced. Eq. 5 spaces their rho-th roots evenly, which puts most"
            " steps where little noise is left.",
        ),
        "geometric": (
            _karras(lambda share, low, high, rho: high * (low / high) ** share),
            "Your logarithms are evenly spaced. Eq. 5 spaces the rho-th roots; only for a very"
            " large rho is it the same.",
        ),
        "roots_returned": (
            edit("roots**rho", "roots"),
            "Those are the roots. Raise them to the power rho again.",
        ),
        "powers_spaced": (
            _karras(
                lambda share, low, high, rho: (
                    (high**rho + share * (low**rho - high**rho)) ** (1 / rho)
                )
            ),
            "You spaced the rho-th powers evenly. It is the roots: sigma^(1/rho).",
        ),
        "no_zero_at_the_end": (
            edit("torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])", "roots**rho"),
            "The 0 at the end is missing: the last step leads from sigma_min to no noise.",
        ),
        "zero_among_the_steps": (
            _zero_included,
            "You counted the 0 as one of the steps. There are `steps` levels above 0, and the 0"
            " after them: steps + 1 numbers.",
        ),
        "rising": (
            edit(
                "torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)])",
                "torch.cat([roots**rho, torch.zeros(1, dtype=torch.float64)]).flip(0)",
            ),
            "Your levels rise. Sampling starts at the noisy end: from sigma_max down.",
        ),
        "ends_swapped": (
            edit("sigma_max ** (1 / rho), sigma_min", "sigma_min ** (1 / rho), sigma_max"),
            "Your levels rise to sigma_max, and then comes 0. Sampling starts at sigma_max and goes"
            " down.",
        ),
        "zero_first": (
            edit(
                "[roots**rho, torch.zeros(1, dtype=torch.float64)]",
                "[torch.zeros(1, dtype=torch.float64), roots**rho]",
            ),
            "Your 0 comes first. It is where sampling ends.",
        ),
        "sigma_min_not_reached": (
            _divided_by_steps,
            "Your last level above 0 is not sigma_min: `steps` levels have steps - 1 gaps.",
        ),
        "one_step_nan": (_divided_by_none, ONE_STEP_SENTENCE),
        "one_step_raises": (
            _division_by_zero,
            "Right but for a single step: then steps - 1 is 0. The level is sigma_max, then 0, as"
            " `linspace` has it.",
        ),
        "computed_in_single_precision": (
            edit("steps, dtype=torch.float64\n", "steps\n"),
            "The levels are right to six digits only: you computed them in single precision. Give"
            " `linspace` the dtype, too.",
        ),
        "single_precision": (
            lambda steps, sigma_min=0.002, sigma_max=700.0, rho=7.0: edm.karras_sigmas(
                steps, sigma_min, sigma_max, rho
            ).float(),
            "Your table is in float32. Tables of a schedule are kept in float64, as in chapter 01.",
        ),
    },
)


# ---------------------------------------------------------------- euler_step


def _euler_cases(rng):
    """Step down, up, nowhere and to 0; by one level for all and one per sample; float64.

    Two are the first and the last step of the chapter's sampler.
    """
    table = edm.karras_sigmas(25)
    cases = []
    for shape, sigma, sigma_next in [
        ((2, 3, 4, 5), torch.tensor(2.5), torch.tensor(1.1)),
        ((3, 2, 5), torch.tensor(0.7), torch.tensor(0.0)),
        ((3, 2, 4, 1), *torch.tensor([[0.4, 3.0, 9.0], [0.1, 0.0, 5.0]]).reshape(2, 3, 1, 1, 1)),
        ((4, 2), torch.tensor(1.2), torch.tensor(1.9)),
        ((2, 14, 4, 8, 8), table[0], table[1]),
        ((1, 14, 4, 8, 8), table[-2], table[-1]),
    ]:
        denoised = torch.randn(shape, generator=rng)
        x = denoised + sigma.float() * torch.randn(shape, generator=rng)
        cases.append({"x": x, "denoised": denoised, "sigma": sigma, "sigma_next": sigma_next})
    wide = {name: value.double() for name, value in cases[0].items()}
    return [*cases, wide]


EULER_STEP = Exercise(
    id="svd.euler_step",
    reference=edm.euler_step,
    cases=_euler_cases,
    equation="EDM, Algorithm 1, lines 4 and 5 (without lines 6 to 8)",
    points=2,
    stars=1,
    minutes=6,
    misconceptions={
        "not_divided": (
            edit("(x - denoised) / sigma", "(x - denoised)"),
            "Your slope is the whole noise, sigma times eps. What changes with sigma is eps: divide"
            " by sigma.",
        ),
        "multiplied": (
            edit("(x - denoised) / sigma", "(x - denoised) * sigma"),
            "You multiplied by sigma. x - D(x) is sigma times eps, so divide.",
        ),
        "divided_by_the_next": (
            edit("(x - denoised) / sigma", "(x - denoised) / sigma_next"),
            "You divided by the next level, which is 0 in the end. x is at the noise of `sigma`.",
        ),
        "uphill": (
            edit("(sigma_next - sigma)", "(sigma - sigma_next)"),
            "Your step goes away from D(x). Mind the signs: the slope is (x - D(x)) / sigma, and"
            " the step is the new level minus the old one.",
        ),
        "to_the_level": (
            edit("(sigma_next - sigma)", "sigma_next"),
            "You went as far as the next level is high. The step is the difference of the levels.",
        ),
        "sigma_for_the_slope": (
            edit("* slope", "* sigma"),
            "You multiplied the step by sigma. It is multiplied by the slope, (x - D(x)) / sigma.",
        ),
        "along_x": (
            edit("(x - denoised) / sigma", "x / sigma"),
            "You took all of x for noise. Only what D(x) does not explain is: x - D(x).",
        ),
        "along_denoised": (
            edit("(x - denoised) / sigma", "denoised / sigma"),
            "You moved along D(x). The slope is what is left without it, x - D(x), over sigma.",
        ),
        "from_denoised": (
            edit("return x + ", "return denoised + "),
            "You started from D(x). The step starts where you are, at x.",
        ),
        "step_alone": (
            edit("return x + ", "return "),
            "That is the step alone. Add it to x.",
        ),
        "denoised_returned": (
            edit("x + (sigma_next - sigma) * slope", "x - sigma * slope"),
            "You went all the way to D(x), which is only a first guess. Go as far as the next"
            " level.",
        ),
    },
)


# ---------------------------------------------------------------- temporal_attention


def _clip_attention_cases(rng):
    """Draw clips of many shapes: a frame, a place, a clip by itself; the chapter's; float64."""
    cases = []
    for b, t, n, d, heads in [
        (2, 5, 3, 12, 3),
        (3, 4, 7, 6, 1),
        (2, 1, 4, 10, 5),
        (1, 6, 1, 8, 2),
        (1, 14, 64, 16, 4),
    ]:
        q, k, v = 1.4 * torch.randn(3, b, t, n, d, generator=rng)
        cases.append({"q": q, "k": k, "v": v, "heads": heads})
    wide = {name: cases[0][name].double() for name in "qkv"}
    return [*cases, {**wide, "heads": 2}]


def _attend_in(pattern, back):
    """Build an attention over another axis of a clip."""

    def answer(q, k, v, heads):
        b, t = q.shape[:2]
        h = cross_attention(*(rearrange(x, pattern) for x in (q, k, v)), heads)
        return rearrange(h, back, b=b, t=t)

    return answer


def _not_rearranged(q, k, v, heads):
    """Cut the memory into rows of t tokens, as `reshape` does."""
    b, t, n, d = q.shape
    h = cross_attention(*(x.reshape(b * n, t, d) for x in (q, k, v)), heads)
    return h.reshape(b, t, n, d)


def _first_frame_seen(q, k, v, heads):
    return svd.temporal_attention(q, *(x[:, :1].expand_as(q) for x in (k, v)), heads)


def _frames_averaged(q, k, v, heads):
    return v.mean(1, keepdim=True).expand_as(v)


TEMPORAL_ATTENTION = Exercise(
    id="svd.temporal_attention",
    reference=svd.temporal_attention,
    cases=_clip_attention_cases,
    gradients=("q", "k", "v"),
    equation="SVD, appendix D; Video LDM, Section 3.1",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "over_space": (
            _attend_in("b t n d -> (b t) n d", "(b t) n d -> b t n d"),
            "That is attention in space: the places of a frame look at each other. Here the frames"
            " of a place do: the places go to the batch, (b n) t d.",
        ),
        "over_everything": (
            _attend_in("b t n d -> b (t n) d", "b (t n) d -> b t n d"),
            "Every token looks at all places of all frames. A place sees its own frames only: the"
            " places go to the batch.",
        ),
        "over_the_batch": (
            _attend_in("b t n d -> (t n) b d", "(t n) b d -> b t n d"),
            "Your clips look at each other. What is in the batch is never mixed: attend over t.",
        ),
        "reshaped": (
            _not_rearranged,
            "You cut (b t n d) into (b n, t, d) without moving an axis, so that rows hold several"
            " places of a frame. Move the places before the frames first.",
        ),
        "put_back_otherwise": (
            edit('"(b n) t d -> b t n d", b=b', '"(n b) t d -> b t n d", b=b'),
            "The attention is right, but clips and places come back mixed up: in the batch (b n)"
            " the clip is the slow one.",
        ),
        "left_apart": (
            edit('return rearrange(h, "(b n) t d -> b t n d", b=b)', "return h"),
            "The attention is right. Bring the places back to their own axis: (b t n d).",
        ),
        "one_head": (
            edit("cross_attention(q, k, v, heads)", "cross_attention(q, k, v, 1)"),
            "You attend with a single head. Pass `heads` on.",
        ),
        "keys_as_values": (
            edit("cross_attention(q, k, v, heads)", "cross_attention(q, k, k, heads)"),
            "You added up the keys. What a frame gets from the others are their values.",
        ),
        "first_frame_alone": (
            _first_frame_seen,
            "All frames see the first one only. Each looks at all t frames of its place, later ones"
            " too.",
        ),
        "averaged": (
            _frames_averaged,
            "You averaged over the frames. Attention weighs them: softmax(Q K^T / sqrt(d /"
            " heads)).",
        ),
    },
)


# ---------------------------------------------------------------- blend


def _blend_cases(rng):
    """Blend with numbers on both sides of 0, the learned ones' starts, and ends; float64."""
    cases = []
    for shape, mix in [
        ((2, 3, 4, 5), 0.5),
        ((3, 4), -1.7),
        ((2, 5, 3), 0.0),
        ((4, 2), 2.6),
        ((14, 4, 8, 8), 0.31),
        ((1, 3, 2), 120.0),
    ]:
        spatial, temporal = torch.randn(2, *shape, generator=rng)
        cases.append({"spatial": spatial, "temporal": temporal, "mix": torch.tensor([mix])})
    return [*cases, {name: value.double() for name, value in cases[1].items()}]


BLEND = Exercise(
    id="svd.blend",
    reference=svd.blend,
    cases=_blend_cases,
    gradients=("spatial", "temporal", "mix"),
    equation="SVD, appendix D; Video LDM, Eq. 2",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "reversed": (
            edit(
                "return alpha * spatial + (1 - alpha) * temporal",
                "return (1 - alpha) * spatial + alpha * temporal",
            ),
            "The two have changed places: in the U-Net alpha weighs the spatial layer. (In the"
            " decoder it is the other way round.)",
        ),
        "no_sigmoid": (
            edit("mix.sigmoid()", "mix"),
            "You blended with `mix` itself, which may be any number. alpha is its sigmoid, between"
            " 0 and 1.",
        ),
        "both_by_alpha": (
            edit(
                "return alpha * spatial + (1 - alpha) * temporal",
                "return alpha * (spatial + temporal)",
            ),
            "You weighed both by alpha. The temporal layer gets the rest, 1 - alpha.",
        ),
        "added": (
            edit(
                "return alpha * spatial + (1 - alpha) * temporal",
                "return alpha * spatial + temporal",
            ),
            "You added all of the temporal layer. The two weights add up to 1.",
        ),
        "temporal_added": (
            edit(
                "return alpha * spatial + (1 - alpha) * temporal",
                "return spatial + (1 - alpha) * temporal",
            ),
            "You kept all of the spatial layer. The two weights add up to 1.",
        ),
        "detached": (
            edit("mix.sigmoid()", "mix.detach().sigmoid()"),
            "The values are right, but `mix` gets no gradient. It is learned: how much a layer"
            " between frames counts.",
        ),
        "mixed_first": (
            edit(
                "return alpha * spatial + (1 - alpha) * temporal",
                "return (mix * spatial + (1 - mix) * temporal).sigmoid()",
            ),
            "You took the sigmoid of the blend. It belongs to `mix`.",
        ),
        "tanh": (
            edit("mix.sigmoid()", "mix.tanh()"),
            "You took tanh, which is between -1 and 1. A share is between 0 and 1: sigmoid.",
        ),
        "halves": (
            edit("mix.sigmoid()", "0 * mix + 0.5"),
            "You took the mean. How much each counts is learned, in `mix`.",
        ),
    },
)


# ---------------------------------------------------------------- micro_conditioning


def _micro_cases(rng):
    """Ask with the width left out and with others; released values; one clip; float64."""
    released = [torch.tensor([value]) for value in (6.0, 127.0, 0.02)]
    cases = []
    for b, width in [(3, 8), (2, 32), (4, 6)]:
        fps = 5 + 20 * torch.rand(b, generator=rng)
        bucket = 20 + 200 * torch.rand(b, generator=rng)
        noise = 0.02 + 0.5 * torch.rand(b, generator=rng)
        cases.append([fps, bucket, noise, width])
    names = ("fps", "motion_bucket", "augmentation", "width")
    asked = [dict(zip(names, case, strict=True)) for case in cases]
    default = dict(zip(names, released, strict=False))
    zeros = {name: torch.zeros(2) + place for place, name in enumerate(names[:3])}
    return [*asked, default, {**default, "width": 32}, {**zeros, "width": 4}]


def _of_one_width(fps, motion_bucket, augmentation, width=256):
    values = (fps, motion_bucket, augmentation)
    share = width // 3 + width // 3 % 2
    return torch.cat([timestep_embedding(value, share) for value in values], dim=1)


def _interleaved(fps, motion_bucket, augmentation, width=256):
    values = (fps, motion_bucket, augmentation)
    return torch.stack([timestep_embedding(value, width) for value in values], 2).flatten(1)


MICRO_CONDITIONING = Exercise(
    id="svd.micro_conditioning",
    reference=svd.micro_conditioning,
    cases=_micro_cases,
    equation="SVD, Sections 3.3 and 4, appendix D; SDXL, Section 2.2",
    points=1,
    stars=1,
    minutes=5,
    misconceptions={
        "bucket_first": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (motion_bucket, fps, augmentation)",
            ),
            "Motion bucket and fps have changed places. The network learned the order fps, motion"
            " bucket, augmentation.",
        ),
        "augmentation_second": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (fps, augmentation, motion_bucket)",
            ),
            "Augmentation and motion bucket have changed places. The order is fps, motion bucket,"
            " augmentation.",
        ),
        "backwards": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (augmentation, motion_bucket, fps)",
            ),
            "The order is the other way round: fps, motion bucket, augmentation.",
        ),
        "one_less_again": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (fps - 1, motion_bucket, augmentation)",
            ),
            "You subtracted 1 from `fps`. It comes as the network knows it, one less than the"
            " frames per second already.",
        ),
        "frames_per_second": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (fps + 1, motion_bucket, augmentation)",
            ),
            "You added 1 to `fps`. The network was told frames per second less 1: pass it on as it"
            " is.",
        ),
        "bucket_scaled": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (fps, motion_bucket / 255, augmentation)",
            ),
            "You brought the motion bucket to 0 ... 1. Its sinusoid is of the number itself, 0 to"
            " 255.",
        ),
        "logarithm": (
            edit(
                "values = (fps, motion_bucket, augmentation)",
                "values = (fps, motion_bucket, augmentation.log())",
            ),
            "You took the logarithm of the augmentation, as c_noise does. Here it is the deviation"
            " itself.",
        ),
        "added": (
            edit(
                "torch.cat([timestep_embedding(value, width) for value in values], dim=1)",
                "sum(timestep_embedding(value, width) for value in values)",
            ),
            "You added the three sinusoids. They are put side by side: 3 * width numbers.",
        ),
        "side_by_side_in_the_batch": (
            edit("dim=1", "dim=0"),
            "You put the sinusoids below each other, along the batch. They go side by side, along"
            " axis 1.",
        ),
        "stacked": (
            edit("torch.cat(", "torch.stack("),
            "You stacked the sinusoids on an axis of their own. They are one row of 3 * width"
            " numbers.",
        ),
        "interleaved": (
            _interleaved,
            "The numbers of the three sinusoids alternate in your row. First all of fps, then all"
            " of the motion bucket, then all of the augmentation.",
        ),
        "width_shared": (
            _of_one_width,
            "You shared the width among the three. Each has `width` numbers.",
        ),
        "values_themselves": (
            lambda fps, motion_bucket, augmentation, width=256: torch.stack(
                [fps, motion_bucket, augmentation], dim=1
            ),
            "You returned the three numbers. Each becomes a sinusoid first: `timestep_embedding`.",
        ),
    },
)


# ---------------------------------------------------------------- guidance_ramp


def _ramp_cases(rng):
    """Ask for released ramps, falling, level and negative ones, two frames and a single one."""
    asked = [(5, 1.0, 3.0), (14, 1.0, 2.5), (25, 1.5, 3.0), (4, 2.0, -1.0), (3, 2.2, 2.2)]
    asked += [(2, 1.0, 4.0), (1, 1.2, 3.0), (6, 1.0, 3.0)]
    names = ("frames", "first", "last")
    return [dict(zip(names, values, strict=True)) for values in asked]


def _ramp_by_division(frames, first, last):
    return first + torch.arange(frames) * ((last - first) / (frames - 1))


def _ramp_by_tensors(frames, first, last):
    return first + (last - first) * torch.arange(frames) / (frames - 1)


GUIDANCE_RAMP = Exercise(
    id="svd.guidance_ramp",
    reference=svd.guidance_ramp,
    cases=_ramp_cases,
    equation="SVD, Section 4.3",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "last_not_reached": (
            edit(
                "torch.linspace(first, last, frames)",
                "torch.linspace(first, last, frames + 1)[:-1]",
            ),
            "Your last frame has less than `last`: between `frames` frames there are frames - 1"
            " steps.",
        ),
        "first_left_out": (
            edit(
                "torch.linspace(first, last, frames)", "torch.linspace(first, last, frames + 1)[1:]"
            ),
            "Your first frame has more than `first` already: the ramp begins with `first` itself.",
        ),
        "one_too_many": (
            edit("last, frames)", "last, frames + 1)"),
            "Your ramp has a number more than there are frames.",
        ),
        "falling": (
            edit("(first, last, frames)", "(last, first, frames)"),
            "Your ramp goes from `last` to `first`.",
        ),
        "constant": (
            edit(
                "torch.linspace(first, last, frames)", "torch.full((frames,), (first + last) / 2)"
            ),
            "All frames have the same scale. The image's own frame gets `first`, the farthest one"
            " `last`.",
        ),
        "geometric": (
            lambda frames, first, last: first * (last / first) ** torch.linspace(0, 1, frames),
            "Your ramp grows by a factor from frame to frame. It grows by the same amount.",
        ),
        "there_and_back": (
            lambda frames, first, last: torch.maximum(
                torch.linspace(first, 2 * last - first, frames),
                torch.linspace(2 * last - first, first, frames),
            ),
            "Your ramp falls and rises. It leads evenly from the first frame to the last.",
        ),
        "one_frame_raises": (
            _ramp_by_division,
            "Right but for a single frame: then frames - 1 is 0. It gets `first`, as `linspace` has"
            " it.",
        ),
        "one_frame_nan": (
            _ramp_by_tensors,
            "Right but for a single frame, where 0 / 0 is no number. It gets `first`, as `linspace`"
            " has it.",
        ),
        "numbers": (
            edit(
                "torch.linspace(first, last, frames)",
                "torch.linspace(first, last, frames).tolist()",
            ),
            "The numbers are right. Return a tensor, which the guidance can broadcast.",
        ),
    },
)


# ---------------------------------------------------------------- find_cuts


def _grey(*levels):
    """Make a clip of plain frames, three by four pixels, with these levels."""
    return repeat(torch.tensor(levels, dtype=torch.uint8), "t -> t h w c", h=3, w=4, c=3)


def _from_steps(start, *steps):
    """Make a clip of plain frames in which these are the differences of neighbours."""
    levels = [start]
    for step in steps:
        up = levels[-1] + step
        levels.append(up if up <= 255 else levels[-1] - step)
    return _grey(*levels)


def _scene(rng, frames, size):
    """Draw a noisy texture that slides a pixel a frame."""
    h, w = size
    texture = torch.randint(40, 216, (h, w, 3), generator=rng)
    moved = [texture.roll(frame, 1) for frame in range(frames)]
    return torch.stack(moved).to(torch.uint8)


def _cut_cases(rng):
    """Make clips with none, one and several cuts, fast ones, and differences at the thresholds.

    Most are of plain frames, so that all differences are whole numbers.
    """
    smooth = _scene(rng, 5, (6, 8)) // 16
    two_scenes = torch.cat([smooth, 200 + _scene(rng, 7, (6, 8)) // 16])
    return [
        {"clip": _grey(20, 20, 20, 20, 20, 200, 200, 200, 200)},
        {"clip": _from_steps(0, 40, 40, 40, 40, 40, 40)},  # fast: no cut
        {"clip": _from_steps(10, 10, 12, 10, 11, 90, 12, 10, 11)},
        {"clip": _from_steps(100, 0, 1, 0, 3, 0, 6, 0)},  # nothing is far enough
        {"clip": _from_steps(5, 60, 0, 0, 0, 70, 0, 0, 0, 80)},  # at both ends
        {"clip": _from_steps(5, 0, 0, 100, 90, 0, 0, 80, 0, 95, 0)},  # neighbouring cuts
        {"clip": _from_steps(3, 1, 1, 30, 1, 1, 40, 40, 40, 40, 40, 40)},  # half slow, half fast
        {"clip": _from_steps(0, 10, 10, 30, 10, 10, 0, 0, 8, 0, 0, 0, 7, 0)},  # at the thresholds
        {"clip": _from_steps(0, 12, 4, 22, 4, 4, 2, 1, 9, 2, 9, 1)},
        {"clip": _from_steps(9, 60, 60, 10, 10, 2, 9, 10, 40, 9, 20)},
        {"clip": _grey(7, 120)},
        {"clip": _grey(7)},
        {
            "clip": _from_steps(0, 6, 6, 16, 6, 0, 0, 1, 5, 1, 40, 0, 40, 30, 9, 60, 9, 9, 9),
            "ratio": 2.0,
            "least": 5.0,
            "window": 3,
        },
        {"clip": _from_steps(0, 10, 10, 25, 10, 10, 0, 7, 0), "ratio": 2.0},
        {"clip": _from_steps(0, 1, 1, 7, 1, 1, 0, 5, 0, 12, 4, 4), "least": 5.0},
        {"clip": _from_steps(0, 40, 5, 45, 5, 40, 2, 7, 1), "window": 1},
        {"clip": _from_steps(0, 50, 90, 50, 10, 10, 10), "ratio": 2.0, "window": 3},
        {"clip": two_scenes},
    ]


def _cuts_with(usual, is_cut=None, place=1):
    """Build find_cuts with another threshold.

    usual(distance, i, window) -> what is normal around distance i
    """

    def answer(clip, ratio=3.0, least=8.0, window=2):
        distance = cuts.frame_distances(clip)
        return [
            i + place
            for i in range(len(distance))
            if distance[i] >= least and distance[i] >= ratio * usual(distance, i, window)
        ]

    return answer


def _around(distance, i, window):
    return torch.cat([distance[max(0, i - window) : i], distance[i + 1 : i + 1 + window]])


def _mean_or_zero(x):
    return x.mean().nan_to_num()


def _bytes_subtracted(clip, ratio=3.0, least=8.0, window=2):
    """Subtract bytes, which wraps around below 0."""
    distance = (clip[1:] - clip[:-1]).float().mean((1, 2, 3))
    found = []
    for i in range(len(distance)):
        usual = _mean_or_zero(_around(distance, i, window))
        if distance[i] >= least and distance[i] >= ratio * usual:
            found.append(i + 1)
    return found


FIND_CUTS = Exercise(
    id="svd.find_cuts",
    reference=cuts.find_cuts,
    cases=_cut_cases,
    equation="SVD, appendix C (cut detection)",
    points=3,
    stars=3,
    minutes=12,
    misconceptions={
        "one_early": (
            edit("cuts.append(i + 1)", "cuts.append(i)"),
            "Your cuts are one frame early, at the last frame of the old scene. Distance i is from"
            " frame i to frame i + 1, and i + 1 begins the new scene.",
        ),
        "global": (
            _cuts_with(lambda distance, i, window: distance.mean()),
            "Your threshold is the mean of the whole clip. It is local: the mean of the `window`"
            " distances before and after this one, or one fast stretch hides a cut elsewhere.",
        ),
        "itself_counted": (
            _cuts_with(
                lambda distance, i, window: distance[max(0, i - window) : i + 1 + window].mean()
            ),
            "You counted the distance itself among its neighbours, which raises its own threshold."
            " Leave it out.",
        ),
        "before_alone": (
            _cuts_with(lambda distance, i, window: _mean_or_zero(distance[max(0, i - window) : i])),
            "You looked at the distances before only. After a cut counts as well, `window` on"
            " either side.",
        ),
        "after_alone": (
            _cuts_with(lambda distance, i, window: _mean_or_zero(distance[i + 1 : i + 1 + window])),
            "You looked at the distances after only. Those before count as well, `window` on either"
            " side.",
        ),
        "median": (
            _cuts_with(
                lambda distance, i, window: (
                    around.median() if len(around := _around(distance, i, window)) else 0.0
                )
            ),
            "You took the median of the neighbours. The task says their mean.",
        ),
        "summed": (
            _cuts_with(lambda distance, i, window: _around(distance, i, window).sum()),
            "You summed the neighbours. What is normal there is their mean.",
        ),
        "no_ratio": (
            edit("distance[i] >= least and distance[i] >= ratio * usual", "distance[i] >= least"),
            "You compare with `least` only, so every frame of a fast scene is a cut. It must be"
            " `ratio` times as far as its neighbours are, too.",
        ),
        "no_least": (
            edit("distance[i] >= least and ", ""),
            "You compare with the neighbours only, so that in a still clip the least flicker is a"
            " cut. It must be at least `least`, too.",
        ),
        "either": (
            edit("least and distance", "least or distance"),
            "One of the two conditions is enough for you. A cut meets both.",
        ),
        "strictly": (
            edit(
                "distance[i] >= least and distance[i] >= ratio",
                "distance[i] > least and distance[i] > ratio",
            ),
            "You want more than the thresholds. Reaching them is enough: >=.",
        ),
        "no_neighbours": (
            edit(".nan_to_num()", ""),
            "Right but for a clip of two frames: its one distance has no neighbours, and the mean"
            " of nothing is no number. What is normal there is 0.",
        ),
        "window_from_the_end": (
            _cuts_with(
                lambda distance, i, window: _mean_or_zero(
                    torch.cat([distance[i - window : i], distance[i + 1 : i + 1 + window]])
                )
            ),
            "Near the first frame i - window is negative, and a slice then counts from the end."
            " Hold it at 0.",
        ),
        "bytes_subtracted": (
            _bytes_subtracted,
            "You subtracted bytes, and 20 - 200 is 76 there. Make them floats first; a distance is"
            " absolute.",
        ),
    },
)


# ---------------------------------------------------------------- elo


def _vote_cases(rng):
    """Make votes in one order and in several; ties; a player who never plays; a clear winner.

    In the last there are as many votes as the chapter's judge casts in a small tournament.
    """
    strength = torch.tensor([0.0, 1.0, 2.5])
    first = torch.randint(0, 3, (160,), generator=rng)
    second = (first + 1 + torch.randint(0, 2, (160,), generator=rng)) % 3
    wins = torch.rand(160, generator=rng) < (strength[first] - strength[second]).sigmoid()
    many = torch.stack([first, second, wins], dim=1).double()
    many[::9, 2] = 0.5
    shuffled = torch.stack([many[torch.randperm(160, generator=rng)] for _ in range(4)])

    few = torch.tensor([[0, 1, 1], [2, 1, 0], [0, 2, 0.5], [1, 0, 1], [3, 2, 0]]).double()
    return [
        {"votes": few[None], "players": 4},
        {"votes": torch.stack([few, few.flip(0), few[[2, 0, 1, 4, 3]]]), "players": 5},
        {"votes": torch.tensor([[[1.0, 0.0, 1.0]] * 90]).double(), "players": 2},
        {"votes": torch.tensor([[[0, 1, 1]], [[1, 0, 1]], [[0, 1, 0.5]]]).double(), "players": 2},
        {"votes": few.float()[None], "players": 4},
        {"votes": shuffled, "players": 3},
    ]


def _ratings(expect=None, gain=None):
    """Build Elo's ratings with another expectation or gain."""

    def answer(votes, players):
        ratings = torch.full((len(votes), players), 1000.0, dtype=votes.dtype)
        row = torch.arange(len(votes))
        for vote in votes.unbind(1):
            first, second, score = vote[:, 0].long(), vote[:, 1].long(), vote[:, 2]
            gap = ratings[row, second] - ratings[row, first]
            expected = 1 / (1 + 10 ** (gap / 400)) if expect is None else expect(gap)
            change = score - expected if gain is None else gain(score, expected)
            ratings[row, first] += change
            ratings[row, second] -= change
        return ratings

    return answer


ELO = Exercise(
    id="svd.elo",
    reference=elo.play,
    cases=_vote_cases,
    equation="SVD, appendix E.2; Elo",
    points=3,
    stars=3,
    minutes=12,
    tolerance=1e-7,
    misconceptions={
        "base_e": (
            _ratings(expect=lambda gap: 1 / (1 + torch.exp(gap / 400))),
            "You took e for the base. In chess, and here, 400 points are odds of 10 to 1: the base"
            " is 10.",
        ),
        "no_400": (
            _ratings(expect=lambda gap: 1 / (1 + 10**gap)),
            "The gap is not divided by 400, so that a few points decide every vote.",
        ),
        "gap_turned": (
            edit(
                "ratings[row, second] - ratings[row, first]",
                "ratings[row, first] - ratings[row, second]",
            ),
            "You expect the weaker one to win: the gap is the opponent's rating minus the player's"
            " own.",
        ),
        "only_the_winner": (
            edit("ratings[row, second] -= gain", "pass"),
            "The other player loses nothing, so that points come from nowhere. What one gains the"
            " other loses.",
        ),
        "both_gain": (
            edit("ratings[row, second] -= gain", "ratings[row, second] += gain"),
            "Both players gain. What one gains the other loses.",
        ),
        "chess_k": (
            edit("gain = K *", "gain = 32 *"),
            "Your votes count 32 times too much: that is the K of chess clubs. Here K is 1.",
        ),
        "nothing_expected": (
            _ratings(gain=lambda score, expected: score - 0.5),
            "You expect one half of every vote. E comes from the ratings as they are when the vote"
            " is cast, after all the votes before it.",
        ),
        "score_alone": (
            _ratings(gain=lambda score, expected: score),
            "You added the score. What moves a rating is the surprise, S - E.",
        ),
        "surprise_turned": (
            _ratings(gain=lambda score, expected: expected - score),
            "Who wins loses points. It is S - E: more than expected is a gain.",
        ),
        "ties_left_out": (
            _ratings(gain=lambda score, expected: (score != 0.5) * (score - expected)),
            "You left ties out. A tie is a score of 0.5, with which the weaker one gains.",
        ),
        "ties_lost": (
            _ratings(gain=lambda score, expected: (score == 1) * 1.0 - expected),
            "You took a tie for a defeat. Its score is 0.5.",
        ),
        "from_zero": (
            edit("START, dtype", "0, dtype"),
            "Your players start at 0. The task says 1000.",
        ),
        "first_order_alone": (
            lambda votes, players: elo.play(votes[:1].expand_as(votes), players),
            "Every row has the ratings of the first one. Each row of `votes` is an order of its"
            " own.",
        ),
        "mean_of_orders": (
            lambda votes, players: elo.play(votes, players).mean(0, keepdim=True),
            "You averaged over the orders already. Return a row for each.",
        ),
    },
)


# ---------------------------------------------------------------- image_to_video


@dataclass(frozen=True)
class Network:
    """A stand-in for the U-Net of clips that brings one part of a sampler to light.

    euler            v is 0: what is left are the start, c_skip and the steps
    preconditioning  v depends on the noisy half of x, and on nothing else
    time             v depends on t, too
    image_latent     v depends on the other half of x, too
    image_token      v depends on the context, too
    vector           v depends on the vector, too
    whole            v depends on all of them, as a U-Net's does
    """

    part: str

    def __call__(self, x: Tensor, t: Tensor, context: Tensor, vector: Tensor) -> Tensor:
        """Return v.  Raises ValueError for what does not belong together."""
        b = len(x)
        if x.ndim != 5 or x.shape[2] % 2:
            raise ValueError(
                f"x: expected the noisy latents and the image's (b t 2*c h w), got {tuple(x.shape)}"
            )
        if tuple(t.shape) != (b,):
            raise ValueError(f"t: expected shape ({b},), got {tuple(t.shape)}")
        if context.ndim != 3 or len(context) != b or context.shape[1] != 1:
            raise ValueError(
                f"context: expected one token per clip (b 1 d), got {tuple(context.shape)}"
            )
        if vector.ndim != 2 or len(vector) != b:
            raise ValueError(f"vector: expected shape ({b}, v), got {tuple(vector.shape)}")
        noisy, image = x.chunk(2, dim=2)
        if self.part == "euler":
            return 0 * noisy
        v = 0.7 * torch.sin(1.5 * noisy) + 0.3 * noisy.flip(-1)
        if self.part in ("time", "whole"):
            v = v + torch.cos(2 * t.to(x))[:, None, None, None, None]
        if self.part in ("image_latent", "whole"):
            v = v + torch.tanh(image) * (1 + 0.5 * noisy)
        if self.part in ("image_token", "whole"):
            told = torch.tanh((context * torch.linspace(-0.5, 1, context.shape[2])).sum((1, 2)))
            v = v + told.to(x)[:, None, None, None, None] * (1 + 0.5 * noisy.roll(1, -1))
        if self.part in ("vector", "whole"):
            told = torch.tanh((vector * torch.linspace(-1, 0.5, vector.shape[1])).sum(1))
            v = v + told.to(x)[:, None, None, None, None]
        return v


def _video_cases(rng):
    """Continue images by networks that each bring a part to light, then by one that hears all.

    The last is as the chapter calls it: 14 frames of 4 x 8 x 8, from 700 down to 0.002.
    """
    cases = []
    for part, b, steps, low, high, last in [
        ("euler", 2, 1, 0.5, 3.0, 1.0),
        ("euler", 1, 4, 0.1, 2.0, 1.0),
        ("preconditioning", 2, 3, 0.2, 4.0, 1.0),
        ("time", 3, 2, 0.3, 5.0, 1.0),
        ("image_latent", 2, 2, 0.3, 4.0, 3.0),
        ("image_token", 3, 2, 0.3, 4.0, 2.5),
        ("vector", 2, 2, 0.3, 4.0, 2.0),
    ]:
        cases.append(
            {
                "network": Network(part),
                "noise": torch.randn(b, 4, 3, 2, 5, generator=rng),
                "embedding": torch.randn(b, 6, generator=rng),
                "latent": 1.5 * torch.randn(b, 3, 2, 5, generator=rng),
                "vector": torch.randn(b, 9, generator=rng),
                "scale": svd.guidance_ramp(4, 1.0, last),
                "sigmas": edm.karras_sigmas(steps, low, high),
            }
        )
    whole = {
        "network": Network("whole"),
        "noise": torch.randn(1, 14, 4, 8, 8, generator=rng),
        "embedding": torch.randn(1, 12, generator=rng),
        "latent": 3 * torch.randn(1, 4, 8, 8, generator=rng),
        "vector": torch.randn(1, 18, generator=rng),
        "scale": svd.guidance_ramp(14, 1.0, 2.5),
        "sigmas": edm.karras_sigmas(10),
    }
    return [*cases, whole]


def _under_its_part(answer, case):
    """Return the sample under the name of the part that the network brings to light."""
    return {case["network"].part: call_by_name(answer, case)}


def _video(
    start=lambda noise, sigma: noise * (1 + sigma**2).sqrt(),
    factors=edm.precondition,
    images=lambda latent, frames: repeat(latent, "b c h w -> b t c h w", t=frames),
    beside=lambda x, image, c_in: torch.cat([x, image], dim=2),
    seen=lambda x, c_in: c_in * x,
    null=lambda image, token, vector: (0 * image, 0 * token, vector),
    strength=lambda scale, step: scale[:, None, None, None],
    guide=lambda known, unknown, scale: unknown + scale * (known - unknown),
    denoised=lambda x, v, c_skip, c_out: c_skip * x + c_out * v,
    levels=lambda sigmas: sigmas,
):
    """Build image_to_video with another part."""

    @torch.no_grad()
    def answer(network, noise, embedding, latent, vector, scale, sigmas):
        image = images(latent, noise.shape[1])
        token = embedding[:, None]
        image0, token0, vector0 = null(image, token, vector)
        x = start(noise, sigmas[0])
        for step, (sigma, sigma_next) in enumerate(pairwise(levels(sigmas))):
            c_skip, c_out, c_in, c_noise = factors(sigma)
            t = c_noise.float().expand(len(x))
            noisy = seen(x, c_in)
            known = network(beside(noisy, image, c_in), t, token, vector)
            unknown = network(beside(noisy, image0, c_in), t, token0, vector0)
            v = guide(known, unknown, strength(scale, step))
            x = edm.euler_step(x, denoised(x, v, c_skip, c_out), sigma, sigma_next)
        return x

    return answer


def _edm_sign(sigma):
    c_skip, c_out, c_in, c_noise = edm.precondition(sigma)
    return c_skip, -c_out, c_in, c_noise


def _sigma_told(sigma):
    return (*edm.precondition(sigma)[:3], sigma)


def _first_frame(latent, frames):
    clip = repeat(0 * latent, "b c h w -> b t c h w", t=frames).clone()
    clip[:, 0] = latent
    return clip


IMAGE_TO_VIDEO = Exercise(
    id="svd.image_to_video",
    reference=svd.image_to_video,
    cases=_video_cases,
    probe=_under_its_part,
    equation="SVD, Section 4.3 and appendix D; EDM, Algorithm 1",
    points=6,
    stars=4,
    minutes=25,
    misconceptions={
        "start_by_sigma": (
            _video(start=lambda noise, sigma: noise * sigma),
            "The start: you multiplied the noise by sigma_0. Noisy data has the variance sigma_0^2"
            " + 1, so multiply by its root.",
        ),
        "start_not_scaled": (
            _video(start=lambda noise, sigma: noise),
            "The start: the noise has deviation 1. At sigma_0 x has the deviation sqrt(sigma_0^2 +"
            " 1).",
        ),
        "without_the_last_step": (
            _video(levels=lambda sigmas: sigmas[:-1]),
            "The steps: your loop ends at the last level above 0. The last step leads to 0, where x"
            " becomes D(x).",
        ),
        "not_scaled_by_c_in": (
            _video(seen=lambda x, c_in: x),
            "The network's input: x has deviations up to 700. It sees c_in x.",
        ),
        "image_scaled_too": (
            _video(
                beside=lambda x, image, c_in: torch.cat([x, image], dim=2),
                images=lambda latent, frames: (
                    repeat(latent, "b c h w -> b t c h w", t=frames) * 0.18215
                ),
            ),
            "The image's latent: it is not multiplied by the scale factor, 0.18215. Put it beside x"
            " as it is.",
        ),
        "image_scaled_by_c_in": (
            _video(beside=lambda x, image, c_in: torch.cat([x, c_in * image], dim=2)),
            "The image's latent: you multiplied it by c_in. Only the noisy latents are; it stands"
            " beside them as it is.",
        ),
        "image_first": (
            _video(beside=lambda x, image, c_in: torch.cat([image, x], dim=2)),
            "The network's input: the image's latent comes before the noisy one. The noisy one is"
            " first.",
        ),
        "first_frame_alone": (
            _video(images=_first_frame),
            "The image's latent: only your first frame has it. It stands beside every frame.",
        ),
        "null_keeps_the_latent": (
            _video(null=lambda image, token, vector: (image, 0 * token, vector)),
            "The null condition: it still has the image's latent. Without an image both are zero,"
            " the latent and the token.",
        ),
        "null_keeps_the_token": (
            _video(null=lambda image, token, vector: (0 * image, token, vector)),
            "The null condition: it still has the image's token. Without an image both are zero,"
            " the latent and the token.",
        ),
        "null_drops_the_vector": (
            _video(null=lambda image, token, vector: (0 * image, 0 * token, 0 * vector)),
            "The null condition: the vector stays as it is. Frame rate and motion are known without"
            " an image, too.",
        ),
        "no_guidance": (
            _video(guide=lambda known, unknown, scale: known),
            "The guidance is missing: ask the network twice, with and without the image.",
        ),
        "guidance_swapped": (
            _video(guide=lambda known, unknown, scale: known + scale * (unknown - known)),
            "The guidance: the two outputs have changed places. The one with the image comes"
            " first.",
        ),
        "one_scale": (
            _video(strength=lambda scale, step: scale.mean()),
            "The guidance: every frame has a scale of its own, `scale[:, None, None, None]` for (b"
            " t c h w).",
        ),
        "ramp_turned": (
            _video(strength=lambda scale, step: scale.flip(0)[:, None, None, None]),
            "The guidance: your ramp falls over the frames. Frame i has `scale[i]`.",
        ),
        "ramp_over_the_steps": (
            _video(strength=lambda scale, step: scale[min(step, len(scale) - 1)]),
            "The guidance: your scale grows from step to step, the same for all frames. It grows"
            " from frame to frame, the same in all steps.",
        ),
        "sigma_told": (
            _video(factors=_sigma_told),
            "The network's time: you told it sigma. It knows c_noise, ln(sigma) / 4.",
        ),
        "output_taken_for_x_start": (
            _video(denoised=lambda x, v, c_skip, c_out: v),
            "The preconditioning: the network does not say D(x) but v: D(x) = c_skip x + c_out v.",
        ),
        "no_skip": (
            _video(denoised=lambda x, v, c_skip, c_out: c_out * v),
            "The preconditioning: c_skip x is missing in D(x).",
        ),
        "edm_sign": (
            _video(factors=_edm_sign),
            "The preconditioning: c_out has the wrong sign. The network says v, so it is negative.",
        ),
    },
)

EXERCISES = [
    PRECONDITION,
    NOISE_LEVELS,
    KARRAS_SIGMAS,
    EULER_STEP,
    TEMPORAL_ATTENTION,
    BLEND,
    MICRO_CONDITIONING,
    GUIDANCE_RAMP,
    IMAGE_TO_VIDEO,
    FIND_CUTS,
    ELO,
]
