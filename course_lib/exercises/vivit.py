"""Notebook 03: a clip's tokens, starting from an image model, three of the four models, and many
views of one clip.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from course_lib.checking import Exercise
from course_lib.papers import vivit


def _normal(rng: torch.Generator, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=rng)


# ---------------------------------------------------------------- uniform_frames


def _uniform_cases(rng):
    sizes = [
        ((2, 10, 3, 4, 5), 2),
        ((3, 23, 2, 5, 4), 6),
        ((4, 8, 2, 3, 5), 1),
        ((3, 5, 2, 4, 6), 5),
    ]
    sizes.append(((2, 4, 3, 6, 5), 6))  # fewer frames than are asked for
    return [{"video": _normal(rng, *shape), "count": count} for shape, count in sizes]


def _picked(frame):
    """Frames chosen by another rule of (i, frames of the clip, count), i from 1; a short clip comes
    back whole.
    """

    def answer(video, count):
        t = video.shape[1]
        return video if count >= t else video[:, [frame(i, t, count) for i in range(1, count + 1)]]

    return answer


def _nearest(i, t, count):
    return round(i * t / (count + 1))


def _repeated(video, count):
    return video[:, [_nearest(i, video.shape[1], count) for i in range(1, count + 1)]]


UNIFORM_FRAMES = Exercise(
    id="vivit.uniform_frames",
    reference=vivit.uniform_frames,
    cases=_uniform_cases,
    equation="ViViT, Figure 2",
    points=1,
    stars=1,
    minutes=6,
    misconceptions={
        "from_the_start": (
            _picked(lambda i, t, count: i - 1),
            "You took the first frames, one after the other. What happens later in the clip is"
            " never seen; spread the frames over all of it.",
        ),
        "middle_window": (
            _picked(lambda i, t, count: (t - count) // 2 + i - 1),
            "You took neighbouring frames from the middle of the clip. They should be spread over"
            " all of it.",
        ),
        "every_nth": (
            _picked(lambda i, t, count: (i - 1) * (t // count)),
            "You stepped through the clip from frame 0. The first frame should be as far from the"
            " start as the last one is from the end: one gap of t / (count + 1) on either side.",
        ),
        "ends_included": (
            _picked(lambda i, t, count: round((i - 1) * (t - 1) / max(count - 1, 1))),
            "You included both ends of the clip. The rule leaves a gap before the first frame and"
            " after the last: divide by count + 1, not by count - 1.",
        ),
        "counted_from_zero": (
            _picked(lambda i, t, count: _nearest(i - 1, t, count)),
            "The gap is right, but i runs from 1 to count; yours starts from 0 and so at frame 0.",
        ),
        "middles": (
            _picked(lambda i, t, count: int((i - 0.5) * t / count)),
            "You cut the clip into count parts and took the middle of each. Here count + 1 gaps of"
            " equal length lie around the frames.",
        ),
        "cut_off": (
            _picked(lambda i, t, count: int(i * t / (count + 1))),
            "You cut the fraction off. Round to the nearest frame.",
        ),
        "one_early": (
            _picked(lambda i, t, count: _nearest(i, t, count) - 1),
            "Every frame is one too early. The rule gives indices that count from 0 already;"
            " subtract nothing.",
        ),
        "repeated": (
            _repeated,
            "A clip with no more frames than are asked for should come back as it is; yours repeats"
            " or loses some.",
        ),
    },
)


# ---------------------------------------------------------------- tubelet_embed


def _tubelet_cases(rng):
    sizes = [
        ((2, 6, 3, 8, 15), (7, 3, 2, 4, 5)),
        ((3, 8, 2, 6, 9), (5, 2, 4, 2, 3)),
        ((2, 3, 4, 6, 10), (6, 4, 1, 3, 5)),  # tubelets of one frame are patches
    ]
    return [
        {
            "video": _normal(rng, *clip),
            "kernel": _normal(rng, *kernel) / math.prod(kernel[1:]) ** 0.5,
            "bias": _normal(rng, kernel[0]),
        }
        for clip, kernel in sizes
    ]


def _cut(after, before="b (t kt) c (h kh) (w kw)"):
    """Tubelets cut or laid out otherwise, as einops says."""

    def answer(video, kernel, bias):
        kt, kh, kw = kernel.shape[2:]
        boxes = rearrange(video, f"{before} -> {after}", kt=kt, kh=kh, kw=kw)
        return F.linear(boxes, kernel.flatten(1), bias)

    return answer


def _overlapping(video, kernel, bias):
    y = F.conv3d(rearrange(video, "b t c h w -> b c t h w"), kernel, bias)
    return rearrange(y, "b d t h w -> b t (h w) d")


def _convolved(video, kernel, bias):
    return F.conv3d(
        rearrange(video, "b t c h w -> b c t h w"), kernel, bias, stride=kernel.shape[2:]
    )


TUBELET_EMBED = Exercise(
    id="vivit.tubelet_embed",
    reference=vivit.tubelet_embed,
    cases=_tubelet_cases,
    gradients=("video", "kernel", "bias"),
    equation="ViViT, Figure 3",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "frames_before_channels": (
            _cut("b t (h w) (kt c kh kw)"),
            "The boxes are right, their numbers are in the wrong order: you have frames before"
            " channels, the kernel has (c kt kh kw). Each number then meets the weight of another.",
        ),
        "channels_last": (
            _cut("b t (h w) (kt kh kw c)"),
            "You put the channels last in each box, as ViT's `patchify` does. This kernel is laid"
            " out like a convolution's: (c kt kh kw).",
        ),
        "columns_first": (
            _cut("b t (w h) (c kt kh kw)"),
            "Your tokens run down the columns. Read each time row by row: (h w), not (w h).",
        ),
        "scattered": (
            _cut("b t (h w) (c kt kh kw)", before="b (kt t) c (kh h) (kw w)"),
            "Your boxes collect pixels from all over the clip: in einops the first letter of a"
            " bracket moves slowest. A box of neighbours is (t kt), not (kt t).",
        ),
        "places_before_times": (
            _cut("b (h w) t (c kt kh kw)"),
            "Times and places have changed axes. The result is (b t n d): n tokens at each of t"
            " times.",
        ),
        "one_sequence": (
            _cut("b (t h w) (c kt kh kw)"),
            "You laid all tokens in one sequence. Keep times and places apart, (b t n d): three of"
            " the four models need to know which is which.",
        ),
        "overlapping": (
            _overlapping,
            "Your boxes overlap: the stride is 1. Tubelets lie side by side, so the stride is the"
            " kernel's size in all three directions.",
        ),
        "left_as_convolved": (
            _convolved,
            "That is what the convolution gives, (b d t h w). Make rows and columns one axis and"
            " bring it to (b t n d).",
        ),
        "no_bias": (
            lambda video, kernel, bias: vivit.tubelet_embed(video, kernel, torch.zeros_like(bias)),
            "The bias is missing.",
        ),
    },
)


# ---------------------------------------------------------------- filter_inflation_init


def _inflation_cases(rng):
    sizes = [((5, 3, 2, 4), 6), ((2, 4, 5, 3), 7), ((3, 2, 4, 5), 1)]
    return [{"kernel": _normal(rng, *shape), "t": t} for shape, t in sizes]


def _everywhere(share, layout="d c t h w"):
    """The same filter for every frame, times a share of (t, h, w), with the axes of `layout`."""

    def answer(kernel, t):
        return repeat(kernel * share(t, *kernel.shape[2:]), f"d c h w -> {layout}", t=t)

    return answer


def _mean(t, h, w):
    return 1 / t


FILTER_INFLATION_INIT = Exercise(
    id="vivit.filter_inflation_init",
    reference=vivit.filter_inflation_init,
    cases=_inflation_cases,
    equation="ViViT, Eq. 8",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "not_divided": (
            _everywhere(lambda t, h, w: 1.0),
            "You did not divide by t. On a clip that stands still the tokens would be t times what"
            " the image model saw.",
        ),
        "divided_by_root": (
            _everywhere(lambda t, h, w: t**-0.5),
            "You divided by the square root of t. That keeps the filter's norm; what should stay is"
            " its answer to a clip that stands still, a sum of t equal terms.",
        ),
        "divided_by_the_box": (
            _everywhere(lambda t, h, w: 1 / (t * h * w)),
            "You divided by all pixels of the box. The image filter has summed over rows and"
            " columns all along; only the t frames are new.",
        ),
        "one_frame": (
            vivit.central_frame_init,
            "You gave the filter to one frame and zeros to the others. That is central frame"
            " initialisation, which comes next; inflation treats all frames alike.",
        ),
        "time_before_channels": (
            _everywhere(_mean, "d t c h w"),
            "The new axis stands before the channels. A 3-D convolution's kernel is (d c t h w).",
        ),
        "time_last": (
            _everywhere(_mean, "d c h w t"),
            "The new axis stands at the end. A 3-D convolution's kernel is (d c t h w).",
        ),
        "no_new_axis": (
            _everywhere(_mean, "d (t c) h w"),
            "You repeated the channels. Time needs an axis of its own: (d c t h w).",
        ),
    },
)


# ---------------------------------------------------------------- central_frame_init


def _central_cases(rng):
    sizes = [((5, 3, 4, 2), 6), ((4, 3, 5, 6), 2), ((2, 4, 3, 6), 5)]
    return [{"kernel": _normal(rng, *shape), "t": t} for shape, t in sizes]


def _weighed(weights):
    """The filter at every frame, times weights that are a function of t."""
    return lambda kernel, t: torch.einsum("dchw,t->dcthw", kernel, torch.tensor(weights(t)))


def _at(frame):
    return _weighed(lambda t: [float(i == frame(t)) for i in range(t)])


def _middle_column(kernel, t):
    kept = torch.zeros_like(kernel)
    middle = kernel.shape[-1] // 2
    kept[..., middle] = kernel[..., middle]
    return repeat(kept, "d c h w -> d c t h w", t=t)


CENTRAL_FRAME_INIT = Exercise(
    id="vivit.central_frame_init",
    reference=vivit.central_frame_init,
    cases=_central_cases,
    equation="ViViT, Eq. 9",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "first_frame": (
            _at(lambda t: 0),
            "You put the filter at the first frame. It belongs in the middle, at t // 2.",
        ),
        "last_frame": (
            _at(lambda t: t - 1),
            "You put the filter at the last frame. It belongs in the middle, at t // 2.",
        ),
        "before_the_middle": (
            _at(lambda t: (t - 1) // 2),
            "For an odd t you are right. An even number of frames has two in the middle; take the"
            " later one, t // 2.",
        ),
        "both_middles": (
            _weighed(lambda t: [((i == t // 2) + (i == (t - 1) // 2)) / 2 for i in range(t)]),
            "For an even t you shared the filter between the two middle frames. Give all of it to"
            " the later one, t // 2.",
        ),
        "divided": (
            lambda kernel, t: vivit.central_frame_init(kernel / t, t),
            "You divided by t. Only one frame answers here, so the filter enters as it is; dividing"
            " belongs to inflation.",
        ),
        "every_frame": (
            vivit.filter_inflation_init,
            "That is filter inflation: every frame has a share. Here the middle frame has all of it"
            " and the others have zeros.",
        ),
        "middle_column": (
            _middle_column,
            "You kept the middle column of the filter in every frame. The axis with the middle is"
            " time; rows and columns stay whole.",
        ),
        "time_before_channels": (
            lambda kernel, t: vivit.central_frame_init(kernel, t).transpose(1, 2),
            "The new axis stands before the channels. A 3-D convolution's kernel is (d c t h w).",
        ),
    },
)


# ---------------------------------------------------------------- factorised_encoder


def _spatial(x):
    """A stand-in for the encoder of one time, (b n d) to (b d); every place counts differently."""
    _, n, _ = x.shape
    return torch.tanh(x * torch.linspace(0.5, 2, n)[:, None]).mean(1)


def _temporal(x):
    """A stand-in for the encoder over time, (b t d) to (b d); the order counts."""
    _, t, _ = x.shape
    return torch.sin(2 * x + torch.linspace(0, 2, t)[:, None]).mean(1)


def _factorised_cases(rng):
    shapes = [(2, 3, 4, 5), (4, 2, 6, 3), (3, 5, 2, 4)]
    return [
        {"x": _normal(rng, *shape), "spatial": _spatial, "temporal": _temporal} for shape in shapes
    ]


def _said(x, spatial):
    """What the first encoder says of every time, (b t d)."""
    return rearrange(spatial(x.flatten(0, 1)), "(b t) d -> b t d", b=len(x))


def _folded_otherwise(x, spatial, temporal):
    frames = spatial(rearrange(x, "b t n d -> (t b) n d"))
    return temporal(rearrange(frames, "(b t) d -> b t d", b=len(x)))


FACTORISED_ENCODER = Exercise(
    id="vivit.factorised_encoder",
    reference=vivit.factorised_encoder,
    cases=_factorised_cases,
    gradients=("x",),
    equation="ViViT, Figure 4",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "all_in_one_sequence": (
            lambda x, spatial, temporal: temporal(spatial(x.flatten(1, 2))[:, None]),
            "You gave the first encoder all times in one sequence. It should read each time by"
            " itself: fold time into the batch, not into the tokens.",
        ),
        "folded_otherwise": (
            _folded_otherwise,
            "You folded as (t b) and unfolded as (b t). The numbers fit either way, but frames of"
            " one clip end up in another's: use the same order twice.",
        ),
        "four_axes": (
            lambda x, spatial, temporal: temporal(spatial(x)),
            "`spatial` takes sequences, (b n d), and got (b t n d). Fold the times into the batch"
            " first.",
        ),
        "places_first": (
            lambda x, spatial, temporal: temporal(
                _said(rearrange(x, "b t n d -> b n t d"), spatial)
            ),
            "You read each place through time first and then went over places. The first encoder"
            " reads the tokens of one time; the second goes over times.",
        ),
        "exchanged": (
            lambda x, spatial, temporal: spatial(_said(x, temporal)),
            "The two encoders have changed places: `spatial` reads the tokens of one time,"
            " `temporal` what it said.",
        ),
        "averaged": (
            lambda x, spatial, temporal: _said(x, spatial).mean(1),
            "You averaged over time. That is the paper's pooling baseline, and it cannot tell in"
            " which order the times came; use `temporal`.",
        ),
        "batch_in_time": (
            lambda x, spatial, temporal: temporal(spatial(x.flatten(0, 1))[None]),
            "You gave the second encoder the times of all clips as one sequence. Unfold (b t)"
            " again, so that it sees one clip at a time.",
        ),
        "tokens_averaged": (
            lambda x, spatial, temporal: temporal(x.mean(2)),
            "You averaged the tokens of each time. What stands for a time is what `spatial` says of"
            " its tokens.",
        ),
    },
)


# ---------------------------------------------------------------- factorised_self_attention


def _over_space(x):
    """A stand-in for attention over space and its norm, (... n d) to the same; the order counts."""
    return torch.tanh(x.cumsum(-2))


def _over_time(x):
    return torch.sin(2 * x.cumsum(-2))


def _mlp(x):
    """A stand-in for the MLP: each token by itself."""
    return 0.5 * torch.cos(2 * x + x.roll(1, -1))


def _attention_cases(rng):
    branches = {"over_space": _over_space, "over_time": _over_time, "mlp": _mlp}
    return [
        {"x": _normal(rng, *shape), **branches}
        for shape in [(2, 3, 4, 5), (4, 2, 5, 3), (3, 6, 2, 4)]
    ]


def _along_time(over_time, x):
    """(b t n d) to the same, sequences of one place."""
    return rearrange(over_time(rearrange(x, "b t n d -> b n t d")), "b n t d -> b t n d")


def _layer(steps):
    """Model 3's layer with other steps: a function of (x, space, time, mlp), each of which takes (b
    t n d).
    """
    return lambda x, over_space, over_time, mlp: steps(
        x, over_space, lambda h: _along_time(over_time, h), mlp
    )


def _in_parallel(x, space, time, mlp):
    x = x + space(x) + time(x)
    return x + mlp(x)


def _time_first(x, space, time, mlp):
    x = x + time(x)
    x = x + space(x)
    return x + mlp(x)


def _no_identity(x, space, time, mlp):
    return mlp(time(space(x)))


def _identity_around_both(x, space, time, mlp):
    x = x + time(space(x))
    return x + mlp(x)


def _two_whole_layers(x, space, time, mlp):
    x = x + space(x)
    x = x + mlp(x)
    x = x + time(x)
    return x + mlp(x)


def _both_over_places(x, over_space, over_time, mlp):
    x = x + over_space(x)
    x = x + over_time(x)
    return x + mlp(x)


def _reshaped(x, over_space, over_time, mlp):
    b, t, n, d = x.shape
    x = x + over_space(x)
    x = x + over_time(x.reshape(b, n, t, d)).reshape(b, t, n, d)
    return x + mlp(x)


def _exchanged(x, over_space, over_time, mlp):
    x = x + _along_time(over_space, x)
    x = x + over_time(x)
    return x + mlp(x)


def _all_tokens(x, over_space, over_time, mlp):
    h = x.flatten(1, 2)
    h = h + over_space(h)
    h = h + over_time(h)
    return (h + mlp(h)).view_as(x)


FACTORISED_SELF_ATTENTION = Exercise(
    id="vivit.factorised_self_attention",
    reference=vivit.factorised_self_attention,
    cases=_attention_cases,
    gradients=("x",),
    equation="ViViT, Eq. 4 to 6",
    points=3,
    stars=2,
    minutes=8,
    misconceptions={
        "in_parallel": (
            _layer(_in_parallel),
            "Both attentions read the same x. In Eq. 5 the one over time reads what the one over"
            " space has left behind, so that together they reach every token.",
        ),
        "time_first": (
            _layer(_time_first),
            "You went over time first. The paper finds that the order matters little, but Eq. 4 is"
            " over space.",
        ),
        "no_identity": (
            _layer(_no_identity),
            "The identity is missing: each of the three branches is added to what went in.",
        ),
        "identity_around_both": (
            _layer(_identity_around_both),
            "You put one identity around both attentions. Each has its own: add x after space, and"
            " again after time.",
        ),
        "two_whole_layers": (
            _layer(_two_whole_layers),
            "You ran the MLP after each attention. Model 3 has one, at the end of the layer.",
        ),
        "both_over_places": (
            _both_over_places,
            "`over_time` went along places: it works along the last axis but one. Bring time there"
            " first, and back afterwards.",
        ),
        "reshaped": (
            _reshaped,
            "You exchanged times and places by a reshape. That keeps the numbers in memory where"
            " they are and mixes the tokens up; move the axes, with rearrange or transpose.",
        ),
        "exchanged": (
            _exchanged,
            "The two attentions have changed places: `over_space` goes along the tokens of one"
            " time, `over_time` along the times of one place.",
        ),
        "all_tokens": (
            _all_tokens,
            "You laid all tokens in one sequence, as Model 1 does. Here a sequence is the tokens of"
            " one time, or the times of one place.",
        ),
    },
)


# ---------------------------------------------------------------- factorised_dot_product


def _dot_product_cases(rng):
    sizes = [((2, 3, 5, 3 * 16), 4), ((3, 4, 2, 3 * 12), 6), ((2, 5, 3, 3 * 8), 2)]
    return [{"qkv": 2 * _normal(rng, *shape), "heads": heads} for shape, heads in sizes]


def _head_by_head(qkv, heads):
    return rearrange(qkv, "b t n (three h d) -> three b t n h d", three=3, h=heads)


def _among_places(three, scale=None):
    """Attention of every head among the tokens of one time, (b t n h d)."""
    q, k, v = rearrange(three, "three b t n h d -> three b t h n d")
    return rearrange(F.scaled_dot_product_attention(q, k, v, scale=scale), "b t h n d -> b t n h d")


def _among_times(three, scale=None):
    """The same among the times of one place."""
    y = _among_places(rearrange(three, "three b t n h d -> three b n t h d"), scale)
    return rearrange(y, "b n t h d -> b t n h d")


def _halves(
    first=_among_places, second=_among_times, by_head=_head_by_head, scale=lambda width: None
):
    """Model 4 with other halves, another layout of qkv, or another scale, a function of the width."""

    def answer(qkv, heads):
        three, one = by_head(qkv, heads), scale(qkv.shape[-1] // 3)
        y = [first(three[..., : heads // 2, :], one), second(three[..., heads // 2 :, :], one)]
        return torch.cat(y, dim=3).flatten(3)

    return answer


def _in_turn(qkv, heads):
    three = _head_by_head(qkv, heads)
    y = [_among_places(three[..., ::2, :]), _among_times(three[..., 1::2, :])]
    return torch.stack(y, dim=4).flatten(3)


def _channels_halved(qkv, heads):
    three = _head_by_head(qkv, heads)
    middle = three.shape[-1] // 2
    return torch.cat(
        [_among_places(three[..., :middle]), _among_times(three[..., middle:])], dim=-1
    ).flatten(3)


def _cut_again(qkv, heads):
    first, second = rearrange(qkv, "b t n (three two d) -> two b t n (three d)", three=3, two=2)
    y = [_among_places(_head_by_head(first, heads)), _among_times(_head_by_head(second, heads))]
    return torch.cat([part.flatten(3) for part in y], dim=-1)


def _averaged(qkv, heads):
    three = _head_by_head(qkv, heads)
    return (_among_places(three) + _among_times(three)).flatten(3) / 2


def _everywhere_at_once(qkv, heads):
    three = rearrange(_head_by_head(qkv, heads), "three b t n h d -> three b 1 (t n) h d")
    return _among_places(three).flatten(3).reshape(*qkv.shape[:3], -1)


FACTORISED_DOT_PRODUCT = Exercise(
    id="vivit.factorised_dot_product",
    reference=vivit.factorised_dot_product,
    cases=_dot_product_cases,
    gradients=("qkv",),
    equation="ViViT, section 3.3, Model 4",
    points=3,
    stars=3,
    minutes=15,
    misconceptions={
        "exchanged": (
            _halves(_among_times, _among_places),
            "Your halves have changed places: the first half of the heads looks over space, the"
            " second over time.",
        ),
        "in_turn": (
            _in_turn,
            "You gave every other head to time. The first heads // 2 look over space, the others"
            " over time.",
        ),
        "channels_halved": (
            _channels_halved,
            "You cut every head in two. The heads are shared out, not their channels: heads // 2"
            " whole heads look over space.",
        ),
        "cut_again": (
            _cut_again,
            "The halves are right, but you cut each into `heads` heads. Each half has heads // 2 of"
            " them, as wide as before.",
        ),
        "head_by_head": (
            _halves(
                by_head=lambda qkv, heads: rearrange(
                    qkv, "b t n (h k d) -> k b t n h d", h=heads, k=3
                )
            ),
            "You read qkv head by head. All queries come first, then all keys, then all values:"
            " (three heads d).",
        ),
        "averaged": (
            _averaged,
            "Every head looked over space and over time, and you averaged. Each head does one of"
            " the two, and the outputs stand side by side: that costs no more than ordinary"
            " attention.",
        ),
        "everywhere": (
            _everywhere_at_once,
            "Every token attends to all tokens of the clip: that is Model 1. A head sees the tokens"
            " of one time, or the times of one place.",
        ),
        "scaled_by_width": (
            _halves(scale=lambda width: width**-0.5),
            "The scores are divided by the square root of the whole width. Divide by that of one"
            " head's width.",
        ),
        "not_scaled": (
            _halves(scale=lambda width: 1.0),
            "The scale is missing: divide the scores by the square root of one head's width before"
            " the softmax.",
        ),
    },
)


# ---------------------------------------------------------------- multi_view


def _classifier(clip):
    """A stand-in for a trained model, (b t c h w) to 4 logits; early and late, top and bottom count
    differently.
    """
    t, _, h, w = clip.shape[1:]
    ramps = [
        torch.linspace(-1, 1, t)[:, None, None, None],
        torch.linspace(-1, 1, h)[:, None],
        torch.linspace(-1, 1, w),
    ]
    return torch.stack(
        [torch.tanh(5 * (clip * ramp).flatten(1).mean(1)) for ramp in (*ramps, clip)], dim=1
    )


def _view_cases(rng):
    sizes = [
        ((2, 10, 3, 6, 12), dict(frames=4, size=4, views=3, crops=3)),
        ((3, 11, 2, 13, 5), dict(frames=3, size=3, views=5, crops=3)),  # upright
        ((2, 8, 3, 5, 9), dict(frames=2, size=5, views=1, crops=1)),
    ]
    return [
        {"model": _classifier, "video": _normal(rng, *shape), **asked} for shape, asked in sizes
    ]


def _spread(last, count):
    return [i * last // (count - 1) for i in range(count)] if count > 1 else [last // 2]


def _starts(t, frames, views):
    return _spread(t - frames, views)


def _squares(down):
    """Where the squares begin that move down the picture if `down` of its (h, w) says so, across if
    not.
    """

    def corners(h, w, size, crops):
        if down(h, w):
            return [(top, (w - size) // 2) for top in _spread(h - size, crops)]
        return [((h - size) // 2, left) for left in _spread(w - size, crops)]

    return corners


_along_the_longer = _squares(lambda h, w: h > w)


def _seen(starts=_starts, corners=_along_the_longer, one_of=lambda logits: logits.mean(0)):
    """multi_view with other windows, other crops, or another way to make one answer of many."""

    def answer(model, video, frames, size, views, crops):
        t, _, h, w = video.shape[1:]
        logits = [
            model(video[:, start : start + frames, :, top : top + size, left : left + size])
            for start in starts(t, frames, views)
            for top, left in corners(h, w, size, crops)
        ]
        return one_of(torch.stack(logits))

    return answer


def _every_nth(model, video, frames, size, views, crops):
    step = video.shape[1] // frames
    windows = [video[:, start::step][:, :frames] for start in range(views)]
    return torch.stack(
        [vivit.multi_view(model, window, frames, size, 1, crops) for window in windows]
    ).mean(0)


MULTI_VIEW = Exercise(
    id="vivit.multi_view",
    reference=vivit.multi_view,
    cases=_view_cases,
    equation="ViViT, section 4.1",
    points=3,
    stars=2,
    minutes=12,
    misconceptions={
        "after_the_softmax": (
            _seen(one_of=lambda logits: logits.softmax(-1).mean(0)),
            "You averaged probabilities. Average the logits, as the model gives them.",
        ),
        "summed": (
            _seen(one_of=lambda logits: logits.sum(0)),
            "You added the views up. Take their mean, so that the logits do not grow with the"
            " number of views.",
        ),
        "one_crop": (
            _seen(corners=lambda h, w, size, crops: [((h - size) // 2, (w - size) // 2)]),
            "You looked at the middle of the picture alone. Each window is seen through `crops`"
            " squares.",
        ),
        "shorter_side": (
            _seen(corners=_squares(lambda h, w: h < w)),
            "Your squares move along the shorter side. What a square leaves out lies along the"
            " longer one.",
        ),
        "always_across": (
            _seen(corners=_squares(lambda h, w: False)),
            "Your squares always move from left to right. An upright clip is longer from top to"
            " bottom; move them there.",
        ),
        "back_to_back": (
            _seen(starts=lambda t, frames, views: [i * frames for i in range(views)]),
            "Your windows follow each other from the start. Spread them over the clip: the first"
            " starts at 0 and the last at t - frames.",
        ),
        "never_the_end": (
            _seen(
                starts=lambda t, frames, views: [i * (t - frames) // views for i in range(views)]
            ),
            "Your last window stops short of the end: you divided by views. From the first start to"
            " the last there are views - 1 steps.",
        ),
        "every_nth_frame": (
            _every_nth,
            "You thinned the clip out for each view. A window is `frames` frames in a row; only its"
            " start moves.",
        ),
        "mixed_up": (
            _seen(
                one_of=lambda logits: rearrange(
                    logits.flatten(0, 1), "(b v) k -> b v k", b=logits.shape[1]
                ).mean(1)
            ),
            "The views of different clips are mixed: with views stacked in front, the batch is the"
            " second axis, so average over the first.",
        ),
    },
)

EXERCISES = [
    UNIFORM_FRAMES,
    TUBELET_EMBED,
    FILTER_INFLATION_INIT,
    CENTRAL_FRAME_INIT,
    FACTORISED_ENCODER,
    FACTORISED_SELF_ATTENTION,
    FACTORISED_DOT_PRODUCT,
    MULTI_VIEW,
]
