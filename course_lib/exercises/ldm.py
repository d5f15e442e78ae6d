"""Notebook 08, first half: latents and their scale, attention to a caption, guidance, sampling."""

import math
from dataclasses import dataclass

import torch
from einops import rearrange
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from course_lib.checking import Exercise, call_by_name, edit
from course_lib.diffusion import ddim_steps, guidance
from course_lib.papers import ldm, ldm_autoencoder
from course_lib.papers.ldm import LDM_CONFIGS

# ---------------------------------------------------------------- kl_term


def _posterior_cases(rng):
    """Draw Gaussians of many shapes; N(0, 1) itself; the clamp's two ends; float64.

    A latent of the chapter has 4 channels of 8 x 8.
    """
    cases = []
    for shape in [(2, 3, 4, 5), (3, 4), (5, 4, 8, 8), (2, 3, 1, 4, 6), (1, 2, 5, 3)]:
        mean, log_variance = torch.randn(2, *shape, generator=rng)
        cases.append({"mean": 1.3 * mean + 0.4, "log_variance": log_variance - 0.7})
    cases.append({"mean": torch.zeros(2, 3), "log_variance": torch.zeros(2, 3)})
    mean = torch.tensor([[0.0, 1.0], [-2.0, 0.5], [3.0, -1.0]])
    ends = torch.tensor([[-30.0, 0.0], [20.0, 1.0], [-30.0, -2.0]])
    cases.append({"mean": mean, "log_variance": ends})
    return [*cases, {name: value.double() for name, value in cases[0].items()}]


KL_TERM = Exercise(
    id="ldm.kl_term",
    reference=ldm_autoencoder.kl_term,
    cases=_posterior_cases,
    gradients=("mean", "log_variance"),
    equation="LDM, Section 3.1 and appendix G; VAE, appendix B",
    points=2,
    stars=1,
    minutes=6,
    misconceptions={
        "no_half": (
            edit("0.5 * (", "("),
            "The half in front is missing: all four terms are halved.",
        ),
        "averaged": (
            edit(".sum(1)", ".mean(1)"),
            "You averaged over the values of a sample. They are independent, so their divergences"
            " add up: the sum.",
        ),
        "one_number": (
            edit("nats.flatten(1).sum(1)", "nats.sum()"),
            "You summed over the batch, too. Every sample has a divergence of its own: (b,).",
        ),
        "mean_of_the_batch": (
            edit("nats.flatten(1).sum(1)", "nats.flatten(1).sum(1).mean()"),
            "Each sample's sum is right, but you averaged them. Return all of them, (b,); the loss"
            " takes their mean later.",
        ),
        "channels_alone": (
            edit("nats.flatten(1).sum(1)", "nats.sum(1)"),
            "You summed over the channels and left the places. A sample's sum is over all axes but"
            " the first.",
        ),
        "variance_taken_for_the_log": (
            edit("log_variance.exp()", "log_variance", "- log_variance)", "- log_variance.log())"),
            "You took `log_variance` for the variance. The encoder says its logarithm, which may be"
            " negative: the variance is `log_variance.exp()`.",
        ),
        "deviation_taken_for_the_log": (
            edit(
                "log_variance.exp()",
                "(2 * log_variance).exp()",
                "- log_variance)",
                "- 2 * log_variance)",
            ),
            "You took `log_variance` for the logarithm of the deviation, and doubled it. It is that"
            " of the variance already.",
        ),
        "deviation_for_the_variance": (
            edit("log_variance.exp()", "(0.5 * log_variance).exp()"),
            "exp(log_variance / 2) is the deviation. The divergence has the variance there.",
        ),
        "other_way_round": (
            edit(
                "mean.square() + log_variance.exp() - 1 - log_variance",
                "(mean.square() + 1) / log_variance.exp() - 1 + log_variance",
            ),
            "That is KL(N(0, 1) || q), the other way round. The encoder's Gaussian comes first.",
        ),
        "log_added": (
            edit("- 1 - log_variance", "- 1 + log_variance"),
            "The logarithm has the wrong sign: a narrow Gaussian costs more, so it is subtracted.",
        ),
        "no_one": (
            edit(" - 1 -", " -"),
            "The - 1 is missing: for N(0, 1) itself nothing may remain.",
        ),
        "mean_not_squared": (
            edit("mean.square()", "mean"),
            "You added the mean itself. Its square counts: how far it is from 0, on either side.",
        ),
        "negative": (
            edit("return nats", "return -nats"),
            "The sign is wrong throughout. A divergence is never negative.",
        ),
    },
)


# ---------------------------------------------------------------- scale_factor


def _latents(rng, *shape, dtype=torch.float32):
    """Draw latents whose samples and channels differ in mean and deviation."""
    b, c = shape[:2]
    ones = [1] * (len(shape) - 2)
    size = torch.linspace(0.5, 3, c).reshape(1, c, *ones) * torch.linspace(1, 1.6, b).reshape(
        b, 1, *ones
    )
    shift = torch.linspace(-1, 2.5, c).reshape(1, c, *ones)
    return {"latents": (size * torch.randn(shape, generator=rng) + shift).to(dtype)}


def _latent_cases(rng):
    """Draw latents of images, of vectors, of a clip of the chapter; few values; float64."""
    return [
        _latents(rng, 3, 4, 2, 5),
        _latents(rng, 5, 3),
        _latents(rng, 2, 14, 4, 8, 8),
        _latents(rng, 1, 4, 3, 2),
        _latents(rng, 4, 2, 3, 1, dtype=torch.float64),
        {"latents": torch.tensor([[2.0, 4.0], [4.0, 6.0]])},
    ]


def _but(axis, latents):
    return [a for a in range(latents.ndim) if a != axis]


SCALE_FACTOR = Exercise(
    id="ldm.scale_factor",
    reference=ldm_autoencoder.scale_factor,
    cases=_latent_cases,
    equation="LDM, appendix G",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "over_the_variance": (
            edit(".std(", ".var("),
            "You divided by the variance. Multiplied by that, latents get the deviation 1 / sigma,"
            " not 1: divide by sigma itself, its square root.",
        ),
        "deviation": (
            edit("1 / latents", "latents"),
            "That is sigma. Latents are multiplied by the factor, so it is 1 / sigma.",
        ),
        "per_channel": (
            lambda latents: 1 / latents.std(_but(1, latents), correction=0),
            "You have a factor for every channel. Appendix G has one for all, so that the channels"
            " keep their proportions.",
        ),
        "per_sample": (
            lambda latents: 1 / latents.flatten(1).std(1, correction=0),
            "You have a factor for every sample. The decoder would need to know it: one for all.",
        ),
        "mean_of_channels": (
            lambda latents: 1 / latents.std(_but(1, latents), correction=0).mean(),
            "You averaged the deviations of the channels. Appendix G takes one deviation of all"
            " values together, around their one mean.",
        ),
        "mean_kept": (
            lambda latents: latents.square().mean().rsqrt(),
            "You took the root of the mean square. sigma is measured around the mean: subtract it"
            " before you square.",
        ),
        "one_fewer": (
            edit("correction=0", ""),
            "Right but for the divisor: `std` divides by n - 1. Appendix G has the mean over all n"
            " values: `correction=0`.",
        ),
        "largest": (
            lambda latents: 1 / latents.abs().max(),
            "You divided by the largest value. What should become 1 is the deviation.",
        ),
        "scaled_latents": (
            edit("1 / latents", "latents / latents"),
            "You scaled the latents already. The factor is wanted, one number.",
        ),
    },
)


# ---------------------------------------------------------------- cross_attention


def _attention_cases(rng):
    """Draw more and fewer queries than keys, a single one, one head and many, huge scores.

    The chapter's tiny network lets 64 places look at 32 tokens; Stable Diffusion has 5 heads.
    """
    cases = []
    for b, n, m, d, heads in [
        (2, 5, 3, 12, 3),
        (3, 2, 7, 6, 1),
        (1, 1, 4, 10, 5),
        (4, 3, 2, 8, 2),
        (2, 4, 6, 12, 4),
        (1, 64, 32, 20, 5),
        (2, 64, 32, 64, 1),
    ]:
        q = 1.5 * torch.randn(b, n, d, generator=rng)
        k, v = torch.randn(2, b, m, d, generator=rng)
        cases.append({"q": q, "k": 1.5 * k, "v": v, "heads": heads})
    for x in (cases[4]["q"], cases[4]["k"]):
        x[..., ::3] = 20.0  # all scores are above 230, and e to their power is infinite
    wide = {name: cases[0][name].double() for name in "qkv"}
    return [*cases, {**wide, "heads": 2}]


def _without_kernels(answer, case):
    """Call an answer without torch's fused kernels, which trust that keys are as many as values.

    An answer that exchanges queries and keys would have them write over foreign memory.
    """
    with sdpa_kernel(SDPBackend.MATH):
        return call_by_name(answer, case)


def _split(x, heads):
    return rearrange(x, "b n (heads d) -> b heads n d", heads=heads)


def _weights(q, k, heads):
    """Return the scores of every head, scaled as they should be."""
    q, k = _split(q, heads), _split(k, heads)
    return q @ k.mT / math.sqrt(q.shape[-1])


def _softmax_over_queries(q, k, v, heads):
    h = _weights(q, k, heads).softmax(dim=-2) @ _split(v, heads)
    return rearrange(h, "b heads n d -> b n (heads d)")


def _no_softmax(q, k, v, heads):
    h = _weights(q, k, heads) @ _split(v, heads)
    return rearrange(h, "b heads n d -> b n (heads d)")


def _reshaped(q, k, v, heads):
    """Cut tokens into heads without moving the axis of heads."""
    b, n, d = q.shape
    q, k, v = (x.reshape(b, heads, -1, d // heads) for x in (q, k, v))
    return torch.nn.functional.scaled_dot_product_attention(q, k, v).reshape(b, n, d)


def _of_another_head_count(heads_of):
    return lambda q, k, v, heads: ldm.cross_attention(q, k, v, heads_of(q, heads))


CROSS_ATTENTION = Exercise(
    id="ldm.cross_attention",
    reference=ldm.cross_attention,
    cases=_attention_cases,
    probe=_without_kernels,
    gradients=("q", "k", "v"),
    equation="LDM, Section 3.3",
    points=3,
    stars=2,
    minutes=10,
    misconceptions={
        "softmax_over_queries": (
            _softmax_over_queries,
            "Your softmax runs over the places of the image. Each place shares its attention among"
            " the tokens of the caption: softmax over the keys, the last axis of the scores.",
        ),
        "no_softmax": (
            _no_softmax,
            "The softmax is missing: the scores weigh the values only after it, when those of one"
            " place add up to 1.",
        ),
        "scaled_by_the_whole_width": (
            edit("(q, k, v)", "(q, k, v, scale=(q.shape[1] * q.shape[3]) ** -0.5)"),
            "You divided by the square root of the whole width. A score is a sum over one head's d"
            " / heads numbers: that is what is under the root.",
        ),
        "not_scaled": (
            edit("(q, k, v)", "(q, k, v, scale=1)"),
            "The scores are not divided by sqrt(d / heads).",
        ),
        "scaled_twice": (
            edit("(q, k, v)", "(q * q.shape[3] ** -0.5, k, v)"),
            "You divided the scores by d / heads: by the number itself, or by its root twice"
            " (`scaled_dot_product_attention` divides, too). Once by the root is right.",
        ),
        "heads_interleaved": (
            edit(
                'q = rearrange(q, "b n (heads d)',
                'q = rearrange(q, "b n (d heads)',
                'k = rearrange(k, "b m (heads d)',
                'k = rearrange(k, "b m (d heads)',
                'v = rearrange(v, "b m (heads d)',
                'v = rearrange(v, "b m (d heads)',
                "-> b n (heads d)",
                "-> b n (d heads)",
            ),
            "Your heads own every heads-th number. A head owns d / heads neighbouring ones:"
            " `(heads d)`.",
        ),
        "put_back_otherwise": (
            edit("-> b n (heads d)", "-> b n (d heads)"),
            "The heads are right, but you put them back interleaved. One head's numbers stay"
            " together: `(heads d)`, as they were taken apart.",
        ),
        "reshaped": (
            _reshaped,
            "`reshape` alone cuts the sequence, not the width: a head got all of some tokens. Split"
            " the last axis first, then move the heads before the tokens.",
        ),
        "one_head": (
            _of_another_head_count(lambda q, heads: 1),
            "You attend with a single head. Cut q, k and v into `heads` parts; each has a softmax"
            " of its own.",
        ),
        "width_of_a_head": (
            _of_another_head_count(lambda q, heads: q.shape[2] // heads),
            "You made d / heads heads of `heads` numbers each. It is the other way round.",
        ),
        "keys_as_values": (
            edit("(q, k, v)", "(q, k, k)"),
            "You added up the keys. They say where to look; what is seen there are the values.",
        ),
        "image_at_itself": (
            lambda q, k, v, heads: ldm.cross_attention(q, q, q, heads),
            "Your image looks at itself. Queries come from the image, keys and values from the"
            " caption.",
        ),
        "caption_at_the_image": (
            lambda q, k, v, heads: ldm.cross_attention(k, q, q, heads),
            "Your caption looks at the image. A result is wanted for each of the n queries: the"
            " scores are Q K^T, n rows of m.",
        ),
    },
)


# ---------------------------------------------------------------- guidance


def _guidance_cases(rng):
    """Ask for no condition, no guidance, less than nothing and a lot; per frame; whole numbers."""
    frame = torch.linspace(1.0, 2.5, 14)[:, None, None, None]
    sample = torch.tensor([0.5, 4.0, -1.0])[:, None, None]
    asked = [
        ((2, 4, 3, 5), 7.5),
        ((3, 2, 4, 6), 1.0),
        ((2, 3, 5), 0.0),
        ((1, 4, 8, 8), 3),
        ((2, 14, 4, 8, 8), frame),
        ((3, 5, 2), sample),
        ((4, 3), -0.5),
    ]
    cases = []
    for shape, scale in asked:
        conditional, unconditional = torch.randn(2, *shape, generator=rng)
        cases.append(
            {"conditional": conditional, "unconditional": unconditional + 0.3, "scale": scale}
        )
    wide = {name: cases[0][name].double() for name in ("conditional", "unconditional")}
    return [*cases, {**wide, "scale": 2.25}]


GUIDANCE = Exercise(
    id="ldm.guidance",
    reference=guidance.guide,
    cases=_guidance_cases,
    equation="Classifier-free guidance, Eq. 6, with scale = 1 + w",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "scale_is_w": (
            edit("unconditional + scale", "conditional + scale"),
            "You started from the conditional output, so a scale of 1 already goes twice as far."
            " `scale` is the paper's 1 + w: start from the unconditional one; 1 means no guidance.",
        ),
        "swapped": (
            edit(
                "unconditional + scale * (conditional - unconditional)",
                "conditional + scale * (unconditional - conditional)",
            ),
            "The two outputs have changed places: your guidance leads away from the caption.",
        ),
        "backwards": (
            edit("(conditional - unconditional)", "(unconditional - conditional)"),
            "The start is right, the direction is not: go from the unconditional output towards the"
            " conditional one.",
        ),
        "no_difference": (
            edit("(conditional - unconditional)", "conditional"),
            "You added the conditional output itself. What is scaled is the difference that the"
            " condition makes.",
        ),
        "direction_alone": (
            edit("unconditional + scale", "scale"),
            "That is the way alone. Add it to where it starts, the unconditional output.",
        ),
        "between": (
            edit("scale * (conditional", "(1 / scale) * (conditional"),
            "You divided by the scale. The larger it is, the further you go.",
        ),
        "averaged": (
            lambda conditional, unconditional, scale: (
                (scale * conditional + unconditional) / (scale + 1)
            ),
            "That is a weighted mean, which stays between the two. Guidance goes beyond the"
            " conditional output.",
        ),
        "one_scale_for_all": (
            edit(
                "unconditional + scale *",
                "unconditional + (scale if isinstance(scale, (int, float)) else scale.mean()) *",
            ),
            "Right for a number. Where `scale` is a tensor it broadcasts, so that every frame has a"
            " strength of its own.",
        ),
    },
)


# ---------------------------------------------------------------- sample


@dataclass(frozen=True)
class Network:
    """A stand-in for the U-Net that brings one part of a sampler to light.

    one_step, steps   v depends on x, and on nothing else
    time              v depends on t, too
    guidance          v depends on the context, too
    whole             v depends on all of them, as a U-Net's does
    """

    part: str

    def __call__(self, x: Tensor, t: Tensor, context: Tensor) -> Tensor:
        """Return v.  Raises ValueError for what does not belong together."""
        if tuple(t.shape) != (len(x),):
            raise ValueError(f"t: expected shape ({len(x)},), got {tuple(t.shape)}")
        if context.ndim != 3 or len(context) != len(x):
            raise ValueError(
                f"context: expected {len(x)} contexts (b n d) for {len(x)} latents, got shape"
                f" {tuple(context.shape)}"
            )
        v = 0.7 * torch.sin(1.5 * x) + 0.3 * x.flip(-1)
        if self.part in ("time", "whole"):
            v = v + 0.5 * torch.cos(t.to(x) / 150)[:, None, None, None]
        if self.part in ("guidance", "whole"):
            told = torch.tanh((context * torch.linspace(-0.5, 1, context.shape[2])).sum((1, 2)))
            v = v + told.to(x)[:, None, None, None] * (1 + 0.5 * x.roll(1, -1))
        return v


def _sampling_cases(rng):
    """Sample by networks that each bring a part to light, then by one that hears all.

    All go along the chapter's schedule of 1000 steps.
    """
    table = LDM_CONFIGS["tiny"].alphas_cumprod
    cases = []
    for part, b, steps, scale in [
        ("one_step", 3, [600], 1.0),
        ("steps", 2, [801, 501, 251, 101], 1.0),
        ("time", 3, [901, 401, 151], 1.0),
        ("guidance", 3, [701, 301], 4.0),
        ("guidance", 1, [501], 3),
    ]:
        cases.append(
            {
                "network": Network(part),
                "noise": torch.randn(b, 2, 4, 5, generator=rng),
                "context": torch.randn(b, 4, 6, generator=rng),
                "null": 0.5 * torch.randn(1, 4, 6, generator=rng),
                "scale": scale,
                "steps": torch.tensor(steps),
                "alphas_cumprod": table,
            }
        )
    whole = {
        "network": Network("whole"),
        "noise": torch.randn(2, 4, 8, 8, generator=rng),
        "context": torch.randn(2, 32, 12, generator=rng),
        "null": torch.randn(1, 32, 12, generator=rng),
        "scale": 2.5,
        "steps": ddim_steps(len(table), 10, offset=1).flip(0),
        "alphas_cumprod": table,
    }
    return [*cases, whole]


def _under_its_part(answer, case):
    """Return the sample under the name of the part that the network brings to light."""
    return {case["network"].part: call_by_name(answer, case)}


def _sample_reading(read):
    """Build a sampler that reads the noise and x_0 from the output otherwise."""

    @torch.no_grad()
    def answer(network, noise, context, null, scale, steps, alphas_cumprod):
        x = noise
        for step, step_next in zip(steps, [*steps[1:], 0], strict=True):
            t = step.expand(len(x))
            known, unknown = (network(x, t, c) for c in (context, null.expand_as(context)))
            a, a_next = alphas_cumprod[step], alphas_cumprod[step_next]
            eps, x_start = read(guidance.guide(known, unknown, scale), x, a)
            x = a_next.sqrt() * x_start + (1 - a_next).sqrt() * eps
        return x

    return answer


BOTH_CALLS = "guide(network(x, t, context), network(x, t, null.expand_as(context)), scale)"

SAMPLE = Exercise(
    id="ldm.sample",
    reference=ldm.sample,
    cases=_sampling_cases,
    probe=_under_its_part,
    equation="LDM, Section 3.3; DDIM, Eq. 12; guidance, Eq. 6",
    points=5,
    stars=4,
    minutes=20,
    misconceptions={
        "no_guidance": (
            edit(BOTH_CALLS, "network(x, t, context)"),
            "The guidance is missing: you go on with what the network says of `context`. Ask it"
            " about `null`, too, and go `scale` times from the one to the other.",
        ),
        "guidance_swapped": (
            edit(
                BOTH_CALLS,
                "guide(network(x, t, null.expand_as(context)), network(x, t, context), scale)",
            ),
            "In the guidance the two outputs have changed places: the conditional one comes first.",
        ),
        "contexts_guided": (
            edit(BOTH_CALLS, "network(x, t, guide(context, null.expand_as(context), scale))"),
            "You guided the contexts and asked the network once. Guidance is between its two"
            " outputs.",
        ),
        "without_step_0": (
            edit("F.pad(steps, (0, 1))", "steps"),
            "Your chain ends at the last of `steps`. One more move leads from there to step 0.",
        ),
        "ends_in_x_start": (
            edit("return x", "return x_start"),
            "You returned the last x_0 that was seen. The chain ends in x, at the noise of step 0.",
        ),
        "given_noise": (
            edit("t_next, eps,", "t_next, noise,"),
            "You added the noise of the start. A step of DDIM adds the noise that is seen now,"
            " eps.",
        ),
        "same_step": (
            edit("x_start, t_next, eps", "x_start, t, eps"),
            "Your x never leaves the noise of the start. Put together at the same step, x_0 and eps"
            " give x again: the noise level is the next step's, and the sum is the next x.",
        ),
        "noise_and_x_start_swapped": (
            edit("eps, x_start = from", "x_start, eps = from"),
            "You took the noise for x_0 and x_0 for the noise.",
        ),
        "v_taken_for_the_noise": (
            _sample_reading(lambda v, x, a: (v, (x - (1 - a).sqrt() * v) / a.sqrt())),
            "You took the network's output for the noise. It says v: eps = sqrt(1 - alpha-bar) x +"
            " sqrt(alpha-bar) v, and x_0 = sqrt(alpha-bar) x - sqrt(1 - alpha-bar) v.",
        ),
        "v_taken_for_x_start": (
            _sample_reading(lambda v, x, a: ((x - a.sqrt() * v) / (1 - a).sqrt(), v)),
            "You took the network's output for x_0. It says v: x_0 = sqrt(alpha-bar) x - sqrt(1 -"
            " alpha-bar) v.",
        ),
        "sign_of_v": (
            _sample_reading(
                lambda v, x, a: (
                    (1 - a).sqrt() * x - a.sqrt() * v,
                    a.sqrt() * x + (1 - a).sqrt() * v,
                )
            ),
            "v has the wrong sign: x_0 = sqrt(alpha-bar) x - sqrt(1 - alpha-bar) v, and eps has a"
            " plus.",
        ),
        "no_roots": (
            _sample_reading(lambda v, x, a: ((1 - a) * x + a * v, a * x - (1 - a) * v)),
            "v is read without square roots: alpha-bar and 1 - alpha-bar are variances.",
        ),
        "rising": (
            edit("F.pad(steps,", "F.pad(steps.flip(0),"),
            "Your steps rise. They come as they are to be visited, the noisiest first.",
        ),
        "asked_about_the_noise": (
            edit(
                "network(x, t, context), network(x, t, null",
                "network(noise, t, context), network(noise, t, null",
            ),
            "You show the network the noise of the start every time. It must see x as it is now.",
        ),
        "next_time": (
            edit(
                "network(x, t, context), network(x, t, null",
                "network(x, t_next, context), network(x, t_next, null",
            ),
            "You tell the network the next step. x is still at the noise of this one.",
        ),
    },
)

EXERCISES = [KL_TERM, SCALE_FACTOR, CROSS_ATTENTION, GUIDANCE, SAMPLE]
