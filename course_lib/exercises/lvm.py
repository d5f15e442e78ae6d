"""Notebook 07, second half: the transformer's norm, positions and MLP, its loss, and drawing."""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from course_lib.checking import Exercise, edit
from course_lib.lm import llama
from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import draw_tokens, next_token_probabilities, top_p_filter
from course_lib.nn import norm, rope
from course_lib.papers import lvm
from course_lib.papers.lvm import LVM_CONFIGS, LVMConfig

TINY = LVM_CONFIGS["LVM-tiny"]
NANO = LVM_CONFIGS["LVM-nano"]


# ---------------------------------------------------------------- rms_norm


def _vectors(rng):
    """Draw vectors whose mean is not 0, some near 0, where eps counts, and some that are 0.

    One is a single vector.  The chapter's are a batch of tokens, as fresh embeddings are.
    """
    cases = []
    for shape, mean, deviation, eps in [
        ((2, 3, 5), 2.0, 1.0, 0.5),
        ((3, 4, 2, 6), -1.0, 3.0, 1e-6),
        ((7,), 0.5, 0.2, 0.1),
        ((4, 9), 0.0, 1e-3, 1e-6),
        ((2, 65, TINY.width), 0.0, 0.02, TINY.norm_eps),
    ]:
        x = mean + deviation * torch.randn(shape, generator=rng)
        weight = 0.3 + 2 * torch.rand(shape[-1], generator=rng)
        cases.append({"x": x, "weight": weight, "eps": eps})
    cases[4]["weight"] = torch.ones(TINY.width)
    x = torch.tensor([[0.0, 0.0, 0.0, 0.0], [3.0, -4.0, 0.0, 0.0], [1.0, 1.0, 1.0, 1.0]])
    cases.append({"x": x, "weight": torch.tensor([2.0, 0.5, -1.0, 3.0]), "eps": 0.01})
    wide = {name: cases[0][name].double() for name in ("x", "weight")}
    return [*cases, {**wide, "eps": 0.5}]


def _mean_square(x):
    return x.square().mean(-1, keepdim=True)


def _by_root(root=lambda x, eps: (_mean_square(x) + eps).sqrt(), last=lambda y, weight: y * weight):
    """Build rms_norm with another root, or another use of the weight."""
    return lambda x, weight, eps: last(x / root(x, eps), weight)


RMS_NORM = Exercise(
    id="lvm.rms_norm",
    reference=norm.rms_norm,
    cases=_vectors,
    gradients=("x", "weight"),
    equation="Zhang and Sennrich, Eq. 4; LVM, Section 4.2",
    points=1,
    stars=1,
    minutes=6,
    misconceptions={
        "centred": (
            lambda x, weight, eps: F.layer_norm(x, x.shape[-1:], weight, None, eps),
            "You took the mean away first. That is LayerNorm; this norm leaves the mean in, and"
            " only divides.",
        ),
        "variance": (
            _by_root(lambda x, eps: (x.var(-1, keepdim=True, unbiased=False) + eps).sqrt()),
            "You divided by the standard deviation, which is measured from the mean. Square the"
            " numbers as they are.",
        ),
        "eps_outside": (
            _by_root(lambda x, eps: _mean_square(x).sqrt() + eps),
            "You added eps to the root. Add it to the mean square, inside the root: it matters for"
            " small vectors.",
        ),
        "eps_left_out": (
            _by_root(lambda x, eps: _mean_square(x).sqrt()),
            "eps is missing: a vector of zeros becomes NaN. Add it to the mean square, inside the"
            " root.",
        ),
        "eps_as_floor": (
            _by_root(lambda x, eps: _mean_square(x).clamp(min=eps).sqrt()),
            "You took eps for the least that the mean square may be. It is added, whatever the mean"
            " square is.",
        ),
        "eps_under_no_root": (
            _by_root(lambda x, eps: _mean_square(x) + eps),
            "The root is missing: you divided by the mean square itself.",
        ),
        "length": (
            _by_root(lambda x, eps: (x.square().sum(-1, keepdim=True) + eps).sqrt()),
            "You summed the squares, so that every vector has length 1. Take their mean: then its"
            " numbers have a mean square of 1.",
        ),
        "absolute": (
            _by_root(lambda x, eps: x.abs().mean(-1, keepdim=True) + eps),
            "You took the mean of the absolute values. Take that of the squares, then the root.",
        ),
        "square_of_the_mean": (
            _by_root(lambda x, eps: (x.mean(-1, keepdim=True).square() + eps).sqrt()),
            "You squared the mean. Square first, then take the mean.",
        ),
        "greatest": (
            _by_root(lambda x, eps: (x.square().amax(-1, keepdim=True) + eps).sqrt()),
            "You divided by the greatest number of the vector. Take the mean of the squares.",
        ),
        "all_vectors_together": (
            _by_root(lambda x, eps: (x.square().mean() + eps).sqrt()),
            "You divided everything by one number. Each vector has a root of its own: take the mean"
            " over the last axis, and keep it (`keepdim=True`).",
        ),
        "multiplied": (
            lambda x, weight, eps: x * (_mean_square(x) + eps).sqrt() * weight,
            "You multiplied by the root. Divide by it.",
        ),
        "without_weight": (
            _by_root(last=lambda y, weight: y + 0 * weight),
            "The weight is missing: multiply every number by its own.",
        ),
        "weight_about_one": (
            _by_root(last=lambda y, weight: y * (1 + weight)),
            "You multiplied by 1 + weight. (Some models do.) Here the weight itself is the factor:"
            " it starts at 1.",
        ),
        "weight_added": (
            _by_root(last=lambda y, weight: y + weight),
            "You added the weight. This norm has no bias: the weight is a factor.",
        ),
        "weighted_first": (
            lambda x, weight, eps: norm.rms_norm(x * weight, torch.ones_like(weight), eps),
            "You multiplied by the weight before you normalized, so that the root divides it out"
            " again. It comes last.",
        ),
        "root_detached": (
            _by_root(lambda x, eps: (_mean_square(x) + eps).sqrt().detach()),
            "The values are right, but no gradient flows through the root. It depends on `x`, too:"
            " do not detach it.",
        ),
        "single_precision": (
            lambda x, weight, eps: norm.rms_norm(x.float(), weight.float(), eps),
            "Your result is in float32, whatever came in. Keep the precision of `x`.",
        ),
    },
)


# ---------------------------------------------------------------- rotary


def _places(rng):
    """Draw queries at places from 0 on and further on, of one pair, one head, one token.

    The chapter's are BOS and an image from the start, and one token after a thousand in a cache.
    """
    cases = []
    for b, n, heads, d, first in [
        (2, 5, 3, 8, 3),
        (3, 4, 1, 6, 11),
        (5, 7, 3, 4, None),
        (4, 3, 5, 10, 1),
        (4, 1, 2, 6, 130),
        (5, 3, 4, 2, 7),
        (1, 65, TINY.heads, TINY.head_width, None),
        (2, 1, TINY.heads, TINY.head_width, 1000),
        (2, 1, 3, 4, 0),
    ]:
        case = {"x": torch.randn(b, n, heads, d, generator=rng)}
        cases.append(case if first is None else {**case, "first": first})
    return [*cases, {"x": cases[1]["x"].double(), "first": 11}]


def _frequencies(d):
    return rope.THETA ** (-torch.arange(0, d, 2) / d)


def _from(first, x):
    return torch.arange(first, first + x.shape[1])


def _rotation(even, odd, cos, sin):
    return [even * cos - odd * sin, even * sin + odd * cos]


def _pairs(x):
    return x[..., 0::2], x[..., 1::2]


def _interleaved(rows):
    return torch.stack(rows, dim=-1).flatten(-2)


def _rotary(
    places=_from,
    frequencies=_frequencies,
    unit=lambda angles: angles,
    make=_rotation,
    pairs=_pairs,
    back=_interleaved,
):
    """Build rotary with another part."""

    def answer(x, first=0):
        angles = unit(places(first, x)[:, None] * frequencies(x.shape[-1]))  # n half
        cos, sin = (y[:, None].to(x) for y in (angles.cos(), angles.sin()))
        return back(make(*pairs(x), cos, sin))

    return answer


def _heads_for_places(x, first=0):
    turned = rope.rotate_places(rearrange(x, "b n heads d -> b heads n d"), first)
    return rearrange(turned, "b heads n d -> b n heads d")


def _rows_for_places(x, first=0):
    turned = rope.rotate_places(rearrange(x, "b n heads d -> n b heads d"), first)
    return rearrange(turned, "n b heads d -> b n heads d")


def _all_heads_one_vector(x, first=0):
    """Take the pairs of all heads for one long head."""
    long = rearrange(x, "b n heads d -> b n 1 (heads d)")
    turned = rope.rotate_places(long, first)
    return rearrange(turned, "b n 1 (heads d) -> b n heads d", d=x.shape[-1])


def _angles_as_halves(x, first=0):
    """Turn neighbours by angles that are laid out for halves."""
    angles = _from(first, x)[:, None] * _frequencies(x.shape[-1])
    cos, sin = (torch.cat([y, y], dim=-1)[:, None].to(x) for y in (angles.cos(), angles.sin()))
    even, odd = _pairs(x)
    return x * cos + _interleaved([-odd, even]) * sin


ROTARY = Exercise(
    id="lvm.rotary",
    reference=rope.rotate_places,
    cases=_places,
    gradients=("x",),
    equation="RoFormer, Eq. 15 and 34; LVM, Section 4.2",
    points=3,
    stars=3,
    minutes=15,
    tolerance=1e-3,  # angles in single precision are 1e-4 off at the thousandth place
    misconceptions={
        "cache_forgotten": (
            _rotary(lambda first, x: _from(0, x)),
            "The places: you count from 0 in every call. With a cache there are earlier"
            " tokens: the first of the new ones is at place `first`.",
        ),
        "all_at_the_first": (
            _rotary(lambda first, x: torch.full((x.shape[1],), first)),
            "The places: all your tokens are at `first`. Each is one further than the one before"
            " it.",
        ),
        "one_too_far": (
            _rotary(lambda first, x: _from(first + 1, x)),
            "The places: yours are one too far. The first token is at `first`, and so is not"
            " turned at all where `first` is 0.",
        ),
        "backwards": (
            _rotary(lambda first, x: _from(first, x).flip(0)),
            "The places: yours fall. They grow from `first` on, token by token.",
        ),
        "ends_at_first": (
            _rotary(lambda first, x: _from(first - x.shape[1] + 1, x)),
            "The places: you took `first` for the place of the last token. It is that of the"
            " first.",
        ),
        "heads_counted": (
            _heads_for_places,
            "The places: you counted the heads, not the tokens. All heads of a token turn alike;"
            " tokens are axis 1.",
        ),
        "rows_counted": (
            _rows_for_places,
            "The places: you counted the rows of the batch. Each row begins at `first`; tokens are"
            " axis 1.",
        ),
        "one_frequency": (
            _rotary(frequencies=lambda d: torch.ones(d // 2)),
            "The frequencies are missing: all your pairs turn by the place itself. Pair i turns by"
            " the place times 10000^(-2i / d).",
        ),
        "exponent_halved": (
            _rotary(frequencies=lambda d: rope.THETA ** (-torch.arange(d // 2) / d)),
            "The frequencies: your exponent is -i / d. It is -2i / d: pair i begins at number 2i of"
            " the head.",
        ),
        "exponent_doubled": (
            _rotary(frequencies=lambda d: rope.THETA ** (-2 * torch.arange(0, d, 2) / d)),
            "The frequencies: your exponent is -4i / d. `arange(0, d, 2)` counts 2i already.",
        ),
        "slowest_is_theta": (
            _rotary(frequencies=lambda d: rope.THETA ** -torch.linspace(0, 1, d // 2)),
            "The frequencies: you spread them as far as 1 / 10000. The last pair has the exponent"
            " -(d - 2) / d, and does not quite reach it.",
        ),
        "growing": (
            _rotary(frequencies=lambda d: rope.THETA ** (torch.arange(0, d, 2) / d)),
            "The frequencies: yours grow, as the exponent's sign is missing. Pair 0 is the"
            " fastest.",
        ),
        "slowest_first": (
            _rotary(frequencies=lambda d: _frequencies(d).flip(0)),
            "The frequencies: your first pair is the slowest. Pair 0 turns by the place itself, and"
            " each further one more slowly.",
        ),
        "one_long_head": (
            _all_heads_one_vector,
            "The frequencies: you spread them over all heads together. Every head has all of them:"
            " d is the width of one head.",
        ),
        "degrees": (
            _rotary(unit=torch.deg2rad),
            "You took the angles for degrees. They are radians.",
        ),
        "whole_turns": (
            _rotary(unit=lambda angles: 2 * math.pi * angles),
            "You multiplied by 2 pi. The angle is the place times the frequency, in radians.",
        ),
        "halves": (
            _rotary(
                pairs=lambda x: x.chunk(2, dim=-1), back=lambda rows: torch.cat(list(rows), dim=-1)
            ),
            "You paired number i with number i + d/2. (transformers' Llama does.) Here the pairs"
            " are neighbours, 2i and 2i + 1.",
        ),
        "left_as_halves": (
            _rotary(back=lambda rows: torch.cat(list(rows), dim=-1)),
            "The pairs are turned right, but all first numbers come before all second ones. Put"
            " them back as neighbours: `stack` and `flatten`.",
        ),
        "angles_as_halves": (
            _angles_as_halves,
            "Your pairs are neighbours, but you laid the angles out twice one after the other, so"
            " that most numbers get another pair's. Each angle comes twice in a row.",
        ),
        "clockwise": (
            _rotary(unit=lambda angles: -angles),
            "You turned the other way. Counter-clockwise, the first number of a pair loses sin"
            " times the second.",
        ),
        "mirrored": (
            _rotary(make=lambda a, b, cos, sin: [a * cos + b * sin, a * sin - b * cos]),
            "You mirrored the pairs: a rotation has cos twice with one sign, and sin with both.",
        ),
        "both_added": (
            _rotary(make=lambda a, b, cos, sin: [a * cos + b * sin, a * sin + b * cos]),
            "You added in both rows. In the first, sin times the second number is subtracted.",
        ),
        "sine_and_cosine_swapped": (
            _rotary(make=lambda a, b, cos, sin: [a * sin - b * cos, a * cos + b * sin]),
            "Sine and cosine have changed places: the token at place 0 must stay as it is.",
        ),
        "turned_one_after_the_other": (
            _rotary(
                make=lambda a, b, cos, sin: [
                    a * cos - b * sin,
                    (a * cos - b * sin) * sin + b * cos,
                ]
            ),
            "The second row used the first number after it was turned. Both need it as it was.",
        ),
        "cosine_alone": (
            _rotary(make=lambda a, b, cos, sin: [a * cos, b * cos]),
            "You multiplied only by the cosine, which shrinks. The other number of the pair comes"
            " in by the sine.",
        ),
        "angles_added": (
            _rotary(make=lambda a, b, cos, sin: [a + sin, b + cos]),
            "You added sines and cosines, as to embeddings. Here they turn: they are factors.",
        ),
        "detached": (
            lambda x, first=0: rope.rotate_places(x.detach(), first),
            "The values are right, but no gradient flows back to `x`. Queries and keys are"
            " learned through the rotation.",
        ),
    },
)


# ---------------------------------------------------------------- swiglu


@dataclass(frozen=True)
class Linear:
    """A linear layer without bias, and without the bookkeeping of one."""

    weight: Tensor

    def __call__(self, x: Tensor) -> Tensor:
        return F.linear(x, self.weight)


def _mlps(rng):
    """Draw layers of several widths, and x of several axes: a single vector, zeros, a clip.

    The last but one is the chapter's smallest network; what comes out may have another width.
    """
    cases = []
    for shape, mlp, wide in [
        ((2, 3, 5), 7, 5),
        ((1, 4, 6), 3, 6),
        ((4,), 6, 4),
        ((3, 2, 4, 5), 9, 2),
        ((2, 33, NANO.width), NANO.mlp, NANO.width),
    ]:
        d = shape[-1]
        into = 3 * torch.randn(2 * mlp, d, generator=rng) / d**0.5
        out = torch.randn(wide, mlp, generator=rng) / mlp**0.5
        x = torch.randn(shape, generator=rng)
        cases.append({"x": x, "into": Linear(into), "out": Linear(out)})
    layers = cases[0]
    doubled = {name: Linear(layers[name].weight.double()) for name in ("into", "out")}
    return [*cases, {**layers, "x": torch.zeros(2, 5)}, {"x": layers["x"].double(), **doubled}]


GATED = "F.silu(gate) * value"

SWIGLU = Exercise(
    id="lvm.swiglu",
    reference=llama.swiglu,
    cases=_mlps,
    gradients=("x",),
    equation="Shazeer, Eq. 6; LVM, Section 4.2",
    points=1,
    stars=1,
    minutes=6,
    misconceptions={
        "value_first": (
            edit("gate, value =", "value, gate ="),
            "Gate and value have changed places: the first half of what `into` gives goes through"
            " silu.",
        ),
        "dealt_out": (
            edit("into(x).chunk(2, dim=-1)", "into(x).unflatten(-1, (-1, 2)).unbind(-1)"),
            "You dealt the numbers out in turn. The first half is all of the gate, the second all"
            " of the value: `chunk(2, dim=-1)`.",
        ),
        "sigmoid": (
            edit(GATED, "F.sigmoid(gate) * value"),
            "Your gate is a sigmoid: that is a GLU. silu is the number times its sigmoid.",
        ),
        "relu": (
            edit(GATED, "F.relu(gate) * value"),
            "Your gate is a ReLU. Here it is silu, x sigmoid(x), which lets a little of what is"
            " negative through.",
        ),
        "gelu": (
            edit(GATED, "F.gelu(gate) * value"),
            "Your gate is a GELU: that is a GEGLU, as in other networks. LLaMA's is silu.",
        ),
        "tanh": (
            edit(GATED, "F.tanh(gate) * value"),
            "Your gate is a tanh. Here it is silu, which grows without bound.",
        ),
        "bilinear": (
            edit(GATED, "gate * value"),
            "silu is missing: you multiplied the two halves as they are.",
        ),
        "both_activated": (
            edit(GATED, "F.silu(gate) * F.silu(value)"),
            "You put silu on both halves. The value is multiplied as it is.",
        ),
        "product_activated": (
            edit(GATED, "F.silu(gate * value)"),
            "You multiplied first and put silu on the product. It belongs on the gate.",
        ),
        "activated_at_the_end": (
            edit(f"out({GATED})", "F.silu(out(gate * value))"),
            "You put silu after the last layer. It belongs on the gate, before the product.",
        ),
        "added": (
            edit(GATED, "F.silu(gate) + value"),
            "You added the value. The gate is a factor: it decides how much of the value passes.",
        ),
        "without_value": (
            edit(GATED, "F.silu(gate)"),
            "The second half is not used: multiply the gate by it.",
        ),
        "without_gate": (
            edit(GATED, "F.silu(value)"),
            "The first half is not used. It is the gate, and goes through silu; the second is the"
            " value.",
        ),
        "residual": (
            edit(f"return out({GATED})", f"return x + out({GATED})"),
            "You added x. The block does that, around this function.",
        ),
        "not_projected": (
            edit(f"out({GATED})", GATED),
            "The last layer, `out`, is missing: you returned the product.",
        ),
        "gate_detached": (
            edit(GATED, "F.silu(gate.detach()) * value"),
            "The values are right, but no gradient flows through the gate. It is learned, too.",
        ),
        "value_detached": (
            edit(GATED, "F.silu(gate) * value.detach()"),
            "The values are right, but no gradient flows through the value. It is learned, too.",
        ),
    },
)


# ---------------------------------------------------------------- next_token_loss


def _rows(rng):
    """Draw rows of tokens and logits: large ones, a single loss, the chapter's; float64."""
    cases = []
    for b, n, v, scale in [(2, 5, 7, 1.0), (3, 4, 11, 2.0), (4, 2, 6, 200.0)]:
        logits = scale * torch.randn(b, n, v, generator=rng)
        tokens = torch.randint(v, (b, n + 1), generator=rng)
        cases.append({"logits": logits, "tokens": tokens})
    # In the third, some tokens are all but impossible.
    cases[2]["tokens"][:, 1:] = cases[2]["logits"].argmin(-1)
    one = torch.tensor([[[0.5, -1.0, 2.0, 0.0, 1.0, -2.0]]])
    cases.append({"logits": one, "tokens": torch.tensor([[2, 4]])})
    codes = torch.randint(TINY.num_codes, (2, TINY.image_tokens), generator=rng)
    sentence = F.pad(F.pad(codes, (1, 0), value=TINY.bos), (0, 1), value=TINY.eos)
    logits = torch.randn(2, sentence.shape[1] - 1, TINY.vocabulary, generator=rng)
    cases.append({"logits": logits, "tokens": sentence})
    return [*cases, {**cases[1], "logits": cases[1]["logits"].double()}]


def _picked(values, following):
    return values.gather(-1, following[..., None])[..., 0]


def _loss(
    log_p=lambda logits: logits.log_softmax(-1),
    following=lambda tokens: tokens[:, 1:],
    last=lambda log_p: -log_p,
):
    """Build next_token_loss with another part."""
    return lambda logits, tokens: last(_picked(log_p(logits), following(tokens)))


def _rows_mixed(logits, tokens):
    """Flatten the logits token by token, and the tokens row by row."""
    flat = rearrange(logits, "b n v -> (n b) v")
    losses = F.cross_entropy(flat, tokens[:, 1:].flatten(), reduction="none")
    return losses.view(logits.shape[:2])


NEXT_TOKEN_LOSS = Exercise(
    id="lvm.next_token_loss",
    reference=lvm.next_token_loss,
    cases=_rows,
    gradients=("logits",),
    equation="LVM, Section 4.2",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "itself": (
            _loss(following=lambda tokens: tokens[:, :-1]),
            "The shift: you asked for the token that the model has just read, which it could copy."
            " Logits i are about the token that follows, `tokens[:, 1:]`.",
        ),
        "two_ahead": (
            _loss(following=lambda tokens: tokens.roll(-2, dims=1)[:, :-1]),
            "The shift: you shifted twice, and the last logits meet a token that wrapped around"
            " from the front. Logits i are about token i + 1.",
        ),
        "mean": (
            _loss(last=lambda log_p: -log_p.mean()),
            "You took the mean. The chapter needs the loss of every token: it averages them by"
            " image, too.",
        ),
        "sum": (
            _loss(last=lambda log_p: -log_p.sum()),
            "You summed. Return the loss of every token, (b n).",
        ),
        "mean_of_each_row": (
            _loss(last=lambda log_p: -log_p.mean(1)),
            "You took the mean of each row. Return the loss of every token, (b n).",
        ),
        "not_negative": (
            _loss(last=lambda log_p: log_p),
            "The sign is missing: a loss is -ln p, 0 at best and never negative.",
        ),
        "bits": (
            _loss(last=lambda log_p: -log_p / math.log(2)),
            "Those are bits. Nats are asked for: the natural logarithm.",
        ),
        "probability": (
            _loss(last=lambda log_p: log_p.exp()),
            "Those are the probabilities. Take the logarithm, and the sign.",
        ),
        "perplexity": (
            _loss(last=lambda log_p: (-log_p).exp()),
            "That is 1 / p, the perplexity of every token. Its logarithm is the loss.",
        ),
        "rest_of_one": (
            _loss(last=lambda log_p: 1 - log_p.exp()),
            "You returned 1 - p. The loss is -ln p, which has no upper bound.",
        ),
        "not_normalized": (
            _loss(log_p=lambda logits: logits),
            "You took the logit itself. It becomes ln p when the logarithm of all logits'"
            " exponentials together is subtracted: `log_softmax`.",
        ),
        "softmax_twice": (
            _loss(log_p=lambda logits: logits.softmax(-1).log_softmax(-1)),
            "You took the softmax twice: `cross_entropy` and `log_softmax` want logits.",
        ),
        "over_the_tokens": (
            _loss(log_p=lambda logits: logits.log_softmax(1)),
            "Your probabilities sum to 1 over the places of a row. They do over the vocabulary, the"
            " last axis.",
        ),
        "sigmoid": (
            _loss(log_p=F.logsigmoid),
            "You took each logit for a yes or no of its own (sigmoid). One token follows: the"
            " softmax over the vocabulary.",
        ),
        "underflow": (
            _loss(log_p=lambda logits: logits.softmax(-1).log()),
            "A small probability rounds to 0, and its logarithm is minus infinity. Take"
            " `log_softmax`, or `cross_entropy` of the logits, which never compute it.",
        ),
        "small_number_added": (
            _loss(log_p=lambda logits: (logits.softmax(-1) + 1e-9).log()),
            "You added a small number to the probabilities, so that no loss can grow beyond it."
            " Take `log_softmax`, or `cross_entropy` of the logits.",
        ),
        "rows_mixed": (
            _rows_mixed,
            "Logits and tokens of different rows meet: you flattened one row by row, the other"
            " token by token. Flatten both as (b n).",
        ),
        "detached": (
            lambda logits, tokens: lvm.next_token_loss(logits.detach(), tokens),
            "The values are right, but no gradient flows back to the logits: nothing could be"
            " learned.",
        ),
    },
)


# ---------------------------------------------------------------- decode_picture


@dataclass(frozen=True)
class Model:
    """A stand-in for the transformer, exact with a cache and without: a table of logits.

    All tokens so far and their places decide the row of the table.
    """

    config: LVMConfig
    table: Tensor  # rows vocabulary

    def __call__(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits after each token.  Raises ValueError for what the network would refuse.

        The cache holds the tokens themselves for keys and values.
        """
        if tokens.ndim != 2 or not tokens.shape[1] or tokens.is_floating_point():
            shape = tuple(tokens.shape)
            raise ValueError(f"tokens: expected whole numbers (b n), got {tokens.dtype} {shape}")
        seen, new = tokens, tokens.shape[1]
        if cache is not None:
            for layer in range(self.config.depth):
                held = tokens[:, None, :, None].double()
                seen = cache.extend(layer, held, held)[0][:, 0, :, 0].long()
        if seen.shape[1] > self.config.context:
            raise ValueError(f"expected at most {self.config.context} tokens, got {seen.shape[1]}")
        place = torch.arange(1, 1 + seen.shape[1])
        rows = ((seen + 1) * (place * place + 2)).cumsum(1) % len(self.table)
        return self.table[rows[:, -new:]]

    def next_logits(self, tokens: Tensor, cache: KVCache | None = None) -> Tensor:
        """Return the logits after the last token."""
        return self(tokens, cache)[:, -1]


# Of what the codes are drawn by, in a vocabulary of so many: no two alike within a nucleus.
SHARES = {
    5: [3, 7, 11, 16, 27],
    7: [1, 2, 4, 6, 9, 15, 27],
    9: [1, 2, 3, 5, 6, 8, 10, 12, 17],
}
SHARES[TINY.num_codes] = [240 * share for share in SHARES[7]] + [1] * (TINY.num_codes - 7)
ROWS = 97


def _image_cases(rng):
    """Ask models that would rather say EOS, BOS or another token that is no code for an image.

    Images are wide, high, or a single code; prompts are only BOS, or longer.  No uniform number is
    near a sum of probabilities: rounding may not decide.  The last case is the chapter's, after BOS
    and three images.
    """
    cases = []
    for image, codes, b, n, options, loud in [
        ((2, 3), 7, 2, 4, {}, (5, 9, 13)),
        ((3, 2), 5, 3, 1, {}, (30, 2)),
        ((2, 4), 9, 1, 7, {"temperature": 0.5}, (2, 40, 7, 3)),
        ((4, 2), 7, 2, 5, {"temperature": 3.0}, (8, 8)),
        ((2, 3), 9, 3, 13, {"top_p": 0.8}, (0.3, 0.5, 0.1)),
        ((2, 5), 7, 2, 3, {"temperature": 2.0, "top_p": 0.5}, (0.4, 0.2)),
        ((1, 1), 5, 4, 2, {"top_p": 0.7}, (6, 20, 1)),
    ]:
        config = LVMConfig(
            width=2,
            mlp=3,
            depth=2,
            heads=1,
            image=image,
            num_codes=codes,
            specials=len(loud),
            context=n + image[0] * image[1],
        )
        cases.append(_image_case(config, b, n, loud, options, rng))
    n = 1 + 3 * TINY.image_tokens
    return [*cases, _image_case(TINY, 2, n, (40, 60), {"top_p": 0.95}, rng)]


def _image_case(config, b, n, loud, options, rng):
    """Draw a model, prompts that begin with BOS, and uniform numbers.

    loud: how much more probable than all codes together each of the other tokens is.
    """
    codes = config.num_codes
    shares = torch.tensor(SHARES[codes]).float()
    order = torch.rand(ROWS, codes, generator=rng).argsort(-1)
    louder = shares.sum() * torch.tensor(loud).float().expand(ROWS, -1)
    table = options.get("temperature", 1.0) * torch.cat([shares[order], louder], dim=1).log()
    prompt = torch.randint(codes, (b, n), generator=rng)
    prompt[:, 0] = config.bos
    uniform = (torch.randint(64, (config.image_tokens, b), generator=rng) + 0.5) / 64
    return {"model": Model(config, table), "prompt": prompt, "uniform": uniform, **options}


def _spread(logits, config, temperature, top_p):
    return next_token_probabilities(logits[:, : config.num_codes], temperature, top_p=top_p)


def _decoder(
    look=lambda model, tokens, prompt: model.next_logits(tokens),
    spread=_spread,
    pick=draw_tokens,
    keep=lambda code, config: code,
    numbers=lambda uniform: uniform,
    grid=lambda codes, h, w: rearrange(codes, "b (h w) -> b h w", h=h, w=w),
):
    """Build decode_picture with another part."""

    def answer(model, prompt, uniform, temperature=1.0, top_p=None):
        tokens = prompt
        for u in numbers(uniform):
            logits = look(model, tokens, prompt)
            p = spread(logits, model.config, temperature, top_p)
            code = keep(pick(p, u), model.config)
            tokens = torch.cat([tokens, code[:, None]], dim=1)
        return grid(tokens[:, prompt.shape[1] :], *model.config.image)

    return answer


def _all_tokens(logits, config, temperature, top_p):
    return next_token_probabilities(logits, temperature, top_p=top_p)


def _without(*places):
    """Forbid single tokens, by how far they are from the first that is no code."""

    def spread(logits, config, temperature, top_p):
        logits = logits.clone()
        logits[:, [config.num_codes + place for place in places]] = -torch.inf
        return next_token_probabilities(logits, temperature, top_p=top_p)

    return spread


def _nucleus_with_specials(logits, config, temperature, top_p):
    return _all_tokens(logits, config, temperature, top_p)[:, : config.num_codes]


def _nucleus_first(logits, config, temperature, top_p):
    logits = logits[:, : config.num_codes]
    if top_p is not None:
        logits = top_p_filter(logits, top_p)
    return next_token_probabilities(logits, temperature)


def _cache_fed_again(model, prompt, uniform, temperature=1.0, top_p=None):
    """Give the cache all tokens in every step, those that it holds as well."""
    long = Model(LVMConfig(**{**vars(model.config), "context": 10**9}), model.table)
    cache = KVCache(model.config.depth, (prompt.shape[1] + len(uniform)) * (len(uniform) + 1))
    return _decoder(look=lambda m, tokens, prompt: long.next_logits(tokens, cache))(
        model, prompt, uniform, temperature, top_p
    )


DECODE_PICTURE = Exercise(
    id="lvm.decode_picture",
    reference=lvm.decode_image,
    cases=_image_cases,
    equation="LVM, Section 4.3",
    points=3,
    stars=3,
    minutes=15,
    misconceptions={
        "specials_too": (
            _decoder(spread=_all_tokens),
            "Your image has tokens in it that are no codes, such as EOS. Leave the model nothing"
            " but codes to choose from: the first `num_codes` logits.",
        ),
        "only_eos_forbidden": (
            _decoder(spread=_without(1)),
            "You forbade only EOS. There are other tokens that are no codes, BOS among them: keep"
            " the first `num_codes` logits and no others.",
        ),
        "only_bos_and_eos_forbidden": (
            _decoder(spread=_without(0, 1)),
            "You forbade BOS and EOS. A vocabulary may have more tokens that are no codes (the"
            " paper's has 100): keep the first `num_codes` logits and no others.",
        ),
        "one_special_left": (
            _decoder(
                spread=lambda logits, c, t, p: _all_tokens(logits[:, : c.num_codes + 1], c, t, p)
            ),
            "You kept one logit too many: the one after the codes' is BOS.",
        ),
        "last_code_lost": (
            _decoder(
                spread=lambda logits, c, t, p: _all_tokens(logits[:, : c.num_codes - 1], c, t, p)
            ),
            "Your last code is never drawn: there are `num_codes` codes, 0 to num_codes - 1.",
        ),
        "specials_taken_for_the_first": (
            _decoder(spread=lambda logits, c, t, p: _all_tokens(logits[:, c.specials :], c, t, p)),
            "You cut off the first logits. Those are codes: the tokens that are none come after"
            " them.",
        ),
        "clamped": (
            _decoder(
                spread=_all_tokens,
                keep=lambda code, config: code.clamp(max=config.num_codes - 1),
            ),
            "You drew from all tokens and made the last code of what is none. Then it is drawn far"
            " too often: cut the logits before you draw.",
        ),
        "wrapped": (
            _decoder(spread=_all_tokens, keep=lambda code, config: code % config.num_codes),
            "You drew from all tokens and took the remainder by the number of codes. Then BOS"
            " counts as code 0: cut the logits before you draw.",
        ),
        "nucleus_with_specials": (
            _decoder(spread=_nucleus_with_specials),
            "You cut the specials off after top-p, so that they fill the nucleus and few codes or"
            " none are left. Cut the logits first.",
        ),
        "temperature_ignored": (
            _decoder(spread=lambda logits, c, t, p: _spread(logits, c, 1.0, p)),
            "The temperature has no effect: pass it on.",
        ),
        "temperature_inverted": (
            _decoder(spread=lambda logits, c, t, p: _spread(logits, c, 1 / t, p)),
            "You multiplied by the temperature. Logits are divided by it: a high one makes the draw"
            " more even.",
        ),
        "top_p_ignored": (
            _decoder(spread=lambda logits, c, t, p: _spread(logits, c, t, None)),
            "`top_p` has no effect: pass it on.",
        ),
        "nucleus_first": (
            _decoder(spread=_nucleus_first),
            "You filtered by top-p before you divided by the temperature. The temperature comes"
            " first: `next_token_probabilities` does both in this order.",
        ),
        "greedy": (
            _decoder(pick=lambda p, u: p.argmax(-1)),
            "You always take the most probable code. Draw one: `uniform` decides which.",
        ),
        "from_the_prompt_alone": (
            _decoder(look=lambda model, tokens, prompt: model.next_logits(prompt)),
            "All your codes are drawn given only the prompt. Each also depends on the codes before"
            " it: give them back to the model.",
        ),
        "last_token_alone": (
            _decoder(
                look=lambda model, tokens, prompt: model.next_logits(
                    tokens if tokens.shape[1] == prompt.shape[1] else tokens[:, -1:]
                )
            ),
            "After the first step your model sees the last code and nothing else. Give it all"
            " tokens so far, or a cache that holds the others.",
        ),
        "last_token_alone_from_the_start": (
            _decoder(look=lambda model, tokens, prompt: model.next_logits(tokens[:, -1:])),
            "Your model sees the last token and nothing else, not even the prompt. Give it all"
            " tokens so far, or fill a cache with the prompt.",
        ),
        "cache_fed_again": (
            _cache_fed_again,
            "You gave the cache all tokens in every step. It holds those of the steps before: after"
            " the prompt, give it only the new token.",
        ),
        "first_logits": (
            _decoder(look=lambda model, tokens, prompt: model(tokens)[:, 0]),
            "You read the logits after the first token of the row. The next token's are those after"
            " the last: `next_logits`.",
        ),
        "column_by_column": (
            _decoder(grid=lambda codes, h, w: rearrange(codes, "b (w h) -> b h w", h=h, w=w)),
            "You filled the grid column by column. Codes come in reading order: the first row from"
            " left to right, then the second.",
        ),
        "a_row_of_codes": (
            _decoder(grid=lambda codes, h, w: codes),
            "You returned the codes in a row. Give them the image's rows and columns, (b h w).",
        ),
        "numbers_of_the_first_row": (
            _decoder(numbers=lambda uniform: uniform[:, :1].expand_as(uniform)),
            "You drew all of the batch with the first one's numbers. Each has its own: column j of"
            " `uniform`.",
        ),
        "one_number_for_all": (
            _decoder(numbers=lambda uniform: uniform[:1].expand_as(uniform)),
            "You drew every code with the first number. Code i is drawn with `uniform[i]`.",
        ),
        "numbers_backwards": (
            _decoder(numbers=lambda uniform: uniform.flip(0)),
            "You went through the numbers from the last. `uniform[0]` draws the first code.",
        ),
    },
)

EXERCISES = [RMS_NORM, ROTARY, SWIGLU, NEXT_TOKEN_LOSS, DECODE_PICTURE]
