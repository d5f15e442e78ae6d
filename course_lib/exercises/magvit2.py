"""Notebook 05, second half, MAGVIT-v2: lookup-free quantization, causal convolution, factors."""

import math

import torch
import torch.nn.functional as F

from course_lib.checking import Exercise, edit
from course_lib.nn import causal_conv
from course_lib.quantize import lfq

# ---------------------------------------------------------------- lfq


def _latent_cases(rng):
    """Draw latents of both signs, some beyond 1; exact zeros and numbers next to zero.

    One is a single number, one is in float64.
    """
    shapes = [(4, 3), (2, 5, 3, 4), (3, 4)]
    drawn = [0.1 + 0.8 * torch.rand(shape, generator=rng) for shape in shapes]
    signed = [x * (1 - 2 * (torch.arange(x.numel()).view_as(x) % 2)) for x in drawn]
    signed[0][:2] *= 3
    signed[1][0, :2] = 0
    signed[1][1, 0] *= 4
    signed[2][0] = 0
    signed[2][1] *= 5
    edges = torch.tensor([0.0, -0.0, 1e-6, -1e-6, 3.0, -0.4, 1.0, -1.0])
    return [{"z": z} for z in (*signed[:2], edges, torch.tensor(-1.7), signed[2].double())]


LFQ = Exercise(
    id="magvit2.lfq",
    reference=lfq.lfq,
    cases=_latent_cases,
    gradients=("z",),
    equation="MAGVIT-v2, Eq. 3",
    points=2,
    stars=1,
    minutes=6,
    misconceptions={
        "zero_stays": (
            edit("lfq_sign(z)", "torch.sign(z)"),
            "`torch.sign(0)` is 0, and no token means that. Eq. 3 has -1 for z <= 0 and +1 for"
            " z > 0: `torch.where`.",
        ),
        "zero_is_positive": (
            edit("z > 0", "z >= 0", of=lfq.lfq_sign),
            "A zero became +1. In Eq. 3 zero counts as negative: +1 only where z > 0.",
        ),
        "bits": (
            edit("lfq_sign(z)", "(z > 0).float()"),
            "Those are the bits, 0 and 1. The code that the decoder sees is made of -1 and +1.",
        ),
        "no_gradient": (
            edit("straight_through(z, lfq_sign(z))", "lfq_sign(z) + 0 * z.detach()"),
            "The signs are right, but no gradient comes through: a sign has none. Pass it straight"
            " through, z + (q - z).detach().",
        ),
        "held_gradient": (
            edit("straight_through(z,", "straight_through(z.clamp(-1, 1),"),
            "The signs are right. Your gradient stops where z is beyond -1 and 1, as in binarized"
            " networks; straight through, it goes everywhere. (The commitment loss keeps z small.)",
        ),
        "gradient_of_tanh": (
            edit("straight_through(z,", "straight_through(torch.tanh(z),"),
            "The signs are right, but the gradient is that of tanh. Straight through, it is passed"
            " to z unchanged.",
        ),
        "squashed": (
            lambda z: torch.tanh(z),
            "You squashed z softly between -1 and 1. A code has only these two values: the signs.",
        ),
        "turned_round": (
            edit("lfq_sign(z)", "-lfq_sign(z)"),
            "The signs are the wrong way round: +1 where z > 0.",
        ),
        "gradient_turned": (
            edit("straight_through(z,", "straight_through(-z,"),
            "The signs are right, but the gradient has the wrong sign: z + (q - z).detach(), where"
            " only the difference is detached.",
        ),
        "not_quantised": (
            lambda z: 1 * z,
            "You returned z. Forward, it is the sign of every number; backward, the gradient of z.",
        ),
    },
)


# ---------------------------------------------------------------- token_index


def _index_cases(rng):
    """Draw zeros, 18 bits (the paper's vocabulary), single vectors; the chapter's own tokens.

    Of the 18 bits all, none, and only the first and the last are set in three rows.  One case has
    a single bit, one is in float64.
    """
    drawn = [torch.randn(shape, generator=rng) for shape in ((2, 3, 4, 5), (6, 18), (3,), (4, 1))]
    drawn[0][0, 0] = 0
    drawn[1][:3, ::2] = 0
    drawn[1][3:5] = torch.tensor([[0.5], [-0.5]])
    drawn[1][5] = torch.tensor([0.2, *[-0.1] * 16, 0.7])
    drawn[2] = drawn[2].abs() * torch.tensor([1.0, -1.0, 1.0])
    drawn[3][:2, 0] = torch.tensor([0.4, 0.0])
    chapter = torch.tensor([[-0.3, 0.1], [0.2, -1.0], [0.0, 0.0], [3.0, 4.0]])
    return [{"z": z} for z in (*drawn, chapter, drawn[1].double())]


TOKEN_INDEX = Exercise(
    id="magvit2.token_index",
    reference=lfq.token_index,
    cases=_index_cases,
    equation="MAGVIT-v2, Eq. 4",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "highest_first": (
            edit("device=z.device)", "device=z.device).flip(0)"),
            "Your first number is the highest bit, as in the library vector-quantize-pytorch. In"
            " Eq. 4 its weight is 2^0: z = (-0.3, 0.1) is token 2, not 1.",
        ),
        "from_one": (
            edit(".sum(dim=-1)", ".sum(dim=-1) + 1"),
            "Your tokens begin with 1. Where nothing is positive the sum of Eq. 4 is empty:"
            " token 0.",
        ),
        "doubled": (
            edit("arange(z.shape[-1]", "arange(1, z.shape[-1] + 1"),
            "Your tokens are twice too large. Eq. 4 counts i from 1 and has 2^(i-1): the first bit"
            " weighs 1.",
        ),
        "negatives_counted": (
            edit("z > 0", "z <= 0"),
            "You added up the weights of the negative numbers. In Eq. 4 a bit is set where z > 0.",
        ),
        "zero_counted": (
            edit("z > 0", "z >= 0"),
            "Right but for zeros: they count as negative, so their bit is 0. A bit is set where"
            " z > 0.",
        ),
        "codes_weighed": (
            edit("(z > 0)", "torch.where(z > 0, 1, -1)"),
            "You weighed the code, -1 and +1. Eq. 4 weighs the bits, 0 and 1, or half of the tokens"
            " are negative.",
        ),
        "bits_counted": (
            edit(" << torch.arange(z.shape[-1], device=z.device)", ""),
            "You counted how many numbers are positive. Each has a weight of its own: 2^(i-1).",
        ),
        "places_added": (
            edit("<< torch.arange(z.shape[-1]", "* torch.arange(1, z.shape[-1] + 1"),
            "You added up places. The weights are powers of two, so that every code has a token of"
            " its own.",
        ),
        "decimal": (
            edit("<< torch", "* 10 ** torch"),
            "You wrote the bits as decimal digits. The weights are powers of two.",
        ),
        "as_a_fraction": (
            edit(".sum(dim=-1)", ".sum(dim=-1).float()"),
            "The values are right, but a token is a whole number: int64, which an embedding can"
            " look up.",
        ),
    },
)


# ---------------------------------------------------------------- entropy_penalty


def _entropy_cases(rng):
    """Draw correlated bits, one bit, two vectors, a batch near zero; and the chapter's codes.

    With correlated bits the batch's codes are not what its single bits say.
    """
    cases = []
    for n, bits, temperature, scale in [
        (7, 3, 1.0, 0.5),
        (5, 4, 2.5, 0.9),
        (6, 1, 0.7, 0.4),
        (9, 2, 0.5, 0.1),
        (2, 3, 1.5, 0.8),
    ]:
        z = scale * torch.randn(n, bits, generator=rng)
        z[:, 1:] = 0.4 * z[:, 1:] + 0.6 * z[:, :1]
        cases.append({"z": z, "temperature": temperature})
    codes = torch.randint(16, (20,), generator=rng)
    codes[:2] = torch.tensor([0, 15])
    return [*cases, {"z": 2.0 * lfq.token_code(codes, 4), "temperature": 1.0}]


def _codes(bits):
    return lfq.token_code(torch.arange(2**bits), bits)


def _softmax_of_distances(z, temperature):
    """Return q(z) over all codes, (n K)."""
    distances = (z[:, None] - _codes(z.shape[1])).square().sum(-1)
    return (-distances / temperature).softmax(-1)


def _entropy(p):
    return -(p * p.clamp(min=1e-12).log()).sum(-1)


def _difference(q, entropy):
    return entropy(q).mean() - entropy(q.mean(0))


def _penalty(q=_softmax_of_distances, combine=_difference):
    """Build entropy_penalty with other probabilities q(z, temperature).

    Or with another formula, combine, of them and of the entropy.
    """
    return lambda z, temperature: combine(q(z, temperature), _entropy)


def _single_bits(z, temperature):
    p = torch.sigmoid(4 * z / temperature)
    both = torch.stack([p, 1 - p], -1)  # n bits 2
    return _entropy(both).sum(1).mean() - _entropy(both.mean(0)).sum()


def _entropy_of_the_mean_vector(z, temperature):
    mean = z.mean(0, keepdim=True)
    entropies = _entropy(_softmax_of_distances(z, temperature))
    return entropies.mean() - _entropy(_softmax_of_distances(mean, temperature))[0]


ENTROPY_PENALTY = Exercise(
    id="magvit2.entropy_penalty",
    reference=lfq.entropy_penalty,
    cases=_entropy_cases,
    gradients=("z",),
    equation="MAGVIT-v2, Eq. 5",
    points=3,
    stars=3,
    minutes=13,
    misconceptions={
        "sign_swapped": (
            _penalty(combine=lambda q, h: h(q.mean(0)) - h(q).mean()),
            "The sign is wrong: as a loss, yours would make every vector unsure and use few codes."
            " Eq. 5: E[H(q)] - H(E[q]).",
        ),
        "sure_alone": (
            _penalty(combine=lambda q, h: h(q).mean()),
            "That is the first half, which asks every vector to be sure. With nothing else all of"
            " them could be sure of the same code: subtract the entropy of the mean distribution.",
        ),
        "used_alone": (
            _penalty(combine=lambda q, h: -h(q.mean(0))),
            "That is the second half, which asks the batch to use all codes. Add the first, the"
            " mean of the vectors' own entropies.",
        ),
        "single_bits": (
            _single_bits,
            "Your second term adds up the entropies of single bits, as if they were independent in"
            " the batch. They are independent for one vector, but not for the mean over vectors:"
            " E[q] is a distribution over all 2^bits codes.",
        ),
        "bits": (
            _penalty(combine=lambda q, h: (h(q).mean() - h(q.mean(0))) / math.log(2)),
            "Your entropies are in bits. Here they are in nats: the natural logarithm.",
        ),
        "mean_over_bits": (
            lambda z, temperature: lfq.entropy_penalty(z, temperature) / z.shape[1],
            "You divided by the number of bits. The entropy of a code is the sum over its bits, not"
            " their mean.",
        ),
        "half_the_distance": (
            _penalty(lambda z, temperature: (z @ _codes(z.shape[1]).T / temperature).softmax(-1)),
            "Your logits are z times the code. The squared distance has twice that, ||z - c||^2 ="
            " ||z||^2 - 2 z c + bits, and of these only the product differs from code to code.",
        ),
        "not_squared": (
            _penalty(
                lambda z, temperature: (-torch.cdist(z, _codes(z.shape[1])) / temperature).softmax(
                    -1
                )
            ),
            "Your logits are distances. They should be squared: -||z - c||^2 / temperature.",
        ),
        "temperature_multiplied": (
            _penalty(lambda z, temperature: _softmax_of_distances(z, 1 / temperature)),
            "You multiplied by the temperature. Divide by it: a low temperature makes q(z) sure.",
        ),
        "no_temperature": (
            _penalty(lambda z, temperature: _softmax_of_distances(z, 1.0)),
            "The temperature is missing: -||z - c||^2 / temperature.",
        ),
        "entropy_of_the_mean_vector": (
            _entropy_of_the_mean_vector,
            "You averaged the vectors and asked how sure their mean is. Eq. 5 averages the"
            " distributions: q of every vector first, then the mean over the batch.",
        ),
        "summed": (
            _penalty(combine=lambda q, h: h(q).sum() - h(q.mean(0))),
            "You added up the entropies of the vectors. E[H(q)] is their mean.",
        ),
        "hard": (
            _penalty(combine=lambda q, h: -h(F.one_hot(q.argmax(1), q.shape[1]).float().mean(0))),
            "You counted the tokens, and counts have no gradient. q(z) is soft: the probabilities"
            " of all codes.",
        ),
    },
)


# ---------------------------------------------------------------- causal_conv


def _clip_cases(rng):
    """Draw clips of 1 + s t frames, and an image, which is a clip of one frame.

    Kernels have two or more frames, or one.  Then the chapter's flash, with and without a stride,
    and a clip in float64.
    """
    sizes = [
        ((2, 3, 5, 6, 7), (4, 3, 3, 3, 5), (1, 1, 1)),
        ((1, 2, 9, 7, 8), (3, 2, 3, 5, 3), (2, 2, 2)),
        ((3, 2, 1, 4, 5), (2, 2, 4, 1, 3), (1, 1, 1)),
        ((2, 1, 5, 4, 7), (2, 1, 2, 3, 1), (2, 1, 2)),
        ((1, 2, 4, 5, 3), (3, 2, 1, 3, 3), (1, 2, 1)),
    ]
    cases = [
        {
            "x": torch.randn(x, generator=rng),
            "weight": torch.randn(weight, generator=rng),
            "bias": torch.randn(weight[0], generator=rng),
            "stride": stride,
        }
        for x, weight, stride in sizes
    ]
    flash = torch.zeros(1, 1, 9, 1, 1)
    flash[:, :, 4] = 1
    shown = {"x": flash, "weight": torch.ones(1, 1, 3, 1, 1), "bias": torch.zeros(1)}
    cases += [{**shown, "stride": stride} for stride in ((1, 1, 1), (2, 1, 1))]
    wide = {name: cases[0][name].double() for name in ("x", "weight", "bias")}
    return [*cases, {**wide, "stride": (2, 1, 3)}]


CAUSAL_CONV = Exercise(
    id="magvit2.causal_conv",
    reference=causal_conv.causal_conv3d,
    cases=_clip_cases,
    equation="MAGVIT-v2, Section 3.2 (causal 3D CNN)",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "both_sides": (
            edit("past, 0)", "past // 2, kt // 2)"),
            "You padded frames on both sides, so a frame sees later ones. All kt - 1 of them come"
            " before the first.",
        ),
        "behind": (
            edit("past, 0)", "0, past)"),
            "You padded frames after the last, so a frame sees what comes and not what was. They"
            " belong before the first.",
        ),
        "first_frame_repeated": (
            edit('if past and padding == "replicate"', "if past"),
            "You repeated the first frame before it. CogVideoX does so; here the padded frames are"
            " zeros.",
        ),
        "frames_not_padded": (
            edit("past, 0)", "0, 0)"),
            "Without padded frames the clip becomes shorter, and an image cannot be read at all:"
            " kt - 1 before the first.",
        ),
        "half_in_front": (
            edit("past = kt - 1", "past = kt // 2"),
            "You padded kt // 2 frames, half of what is needed. None comes after the last, so all"
            " kt - 1 come before the first.",
        ),
        "one_too_few": (
            edit("past = kt - 1", "past = kt - 2"),
            "You padded one frame too few: kt - 1, as only the last weight meets the frame itself.",
        ),
        "one_too_many": (
            edit("past = kt - 1", "past = kt"),
            "You padded one frame too many: kt - 1, as the last weight meets the frame itself.",
        ),
        "past_alone": (
            edit("past = kt - 1", "past = kt", "F.pad(x, pad)", "F.pad(x[:, :, :-1], pad)"),
            "Your frames see only those before them. Causal includes the present one, too: the last"
            " weight meets the frame itself, so kt - 1 frames are padded and none is cut off.",
        ),
        "picture_not_padded": (
            edit(
                "((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2, past, 0)", "(0, 0, 0, 0, past, 0)"
            ),
            "The frames are right, but there are fewer rows and columns. In space the padding is as"
            " usual: k // 2 zeros on each side.",
        ),
        "causal_in_space": (
            edit("(kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2", "kw - 1, 0, kh - 1, 0"),
            "You pad rows and columns only before the first, too. In space a pixel may look to all"
            " sides: k // 2 on each.",
        ),
        "axes_reversed": (
            edit(
                "((kw - 1) // 2, kw // 2, (kh - 1) // 2, kh // 2, past, 0)",
                "(past, 0, (kh - 1) // 2, kh // 2, (kw - 1) // 2, kw // 2)",
            ),
            "The pads of frames and columns have changed places: `F.pad` counts from the last axis."
            " First columns, then rows, then frames.",
        ),
        "stride_forgotten": (
            edit("bias, tuple(stride)", "bias"),
            "The stride is missing: pass it to the convolution. It takes 1 + s t frames to 1 + t.",
        ),
        "no_bias": (
            edit("weight, bias, tuple", "weight, None, tuple"),
            "The bias is missing: pass it to the convolution.",
        ),
    },
)


# ---------------------------------------------------------------- factorize


def _factor_cases(rng):
    """Draw indices for two halves, three factors of different widths, a single factor.

    The first and the last index of every vocabulary are among them; then the chapter's index, and a
    single number.
    """
    cases = []
    for shape, bits in [((3, 5), (9, 9)), ((2, 3, 4), (3, 5, 2)), ((6,), (7,)), ((7,), (4, 1))]:
        indices = torch.randint(0, 2 ** sum(bits), shape, generator=rng)
        indices.view(-1)[:3] = torch.tensor([2 ** sum(bits) - 1, 0, 2 ** sum(bits) - 2])
        cases.append({"indices": indices, "bits": bits})
    return [
        *cases,
        {"indices": torch.tensor([200_000]), "bits": (9, 9)},
        {"indices": torch.tensor(37), "bits": (2, 4)},
    ]


FACTORIZE = Exercise(
    id="magvit2.factorise",
    reference=lfq.factorize,
    cases=_factor_cases,
    equation="MAGVIT-v2, Section 3.2 (token factorization)",
    points=2,
    stars=2,
    minutes=7,
    misconceptions={
        "highest_first": (
            lambda indices, bits: lfq.factorize(indices, bits[::-1]).flip(-1),
            "Your first factor has the highest bits. The lowest come first, as in Eq. 4: with bits"
            " (9, 9) token 2^18 - 2 is (510, 511).",
        ),
        "order_turned": (
            edit("stack(parts", "stack(parts[::-1]"),
            "The factors are right but in the wrong order: the one with the lowest bits comes"
            " first.",
        ),
        "widths_turned": (
            edit("in bits", "in bits[::-1]"),
            "The widths are in the wrong order: bits[0] is how many of the lowest bits the first"
            " factor takes.",
        ),
        "decimal": (
            edit("& (1 << count) - 1", "% 10**count", ">> count", "// 10**count"),
            "You cut decimal digits. A factor of b bits has 2^b values.",
        ),
        "first_width_for_all": (
            edit("in bits", "in bits[:1] * len(bits)"),
            "Every factor has as many bits as the first. Each has its own number in `bits`.",
        ),
        "not_shifted": (
            edit("indices >> count", "indices"),
            "Every factor begins at the lowest bit. What a factor has taken must go before the next"
            " one is cut: indices // 2^b.",
        ),
        "not_cut": (
            edit(" & (1 << count) - 1", ""),
            "The bits of later factors are still in the earlier ones. Take the remainder: indices %"
            " 2^b.",
        ),
        "bits_for_values": (
            edit("& (1 << count) - 1", "% count", ">> count", "// count"),
            "You divided by the number of bits. A factor of b bits has 2^b values.",
        ),
        "one_short": (
            edit("& (1 << count) - 1", "% (2**count - 1)", ">> count", "// (2**count - 1)"),
            "You divided by 2^b - 1, the greatest value. There are 2^b of them. (With `&` it would"
            " be 2^b - 1.)",
        ),
        "factors_first": (
            edit("dim=-1", "dim=0"),
            "The factors are in the first axis. They belong in the last one: (..., factors).",
        ),
        "codes": (
            lambda indices, bits: lfq.token_code(indices, sum(bits)),
            "You returned the code, a -1 or +1 for every bit. A factor is a whole number, from"
            " several bits.",
        ),
    },
)

EXERCISES = [LFQ, TOKEN_INDEX, ENTROPY_PENALTY, CAUSAL_CONV, FACTORIZE]
