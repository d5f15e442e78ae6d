"""Notebook 03: a clip's tokens, the start from an image model, three of the four models, and many
views of one clip.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from course_lib.checking import Exercise, edit
from course_lib.papers import vivit


def _normal(rng: torch.Generator, *shape: int, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(shape, generator=rng, dtype=dtype)


# ---------------------------------------------------------------- uniform_frames


def _uniform_cases(rng):
    chapter = torch.arange(32.0).reshape(1, 32, 1, 1, 1)  # frames that are their own numbers
    sizes = [
        ((2, 10, 3, 4, 5), 2),
        ((3, 23, 2, 5, 4), 6),
        ((3, 18, 1, 2, 4), 7),  # 4.5 becomes 4, and 13.5 becomes 14
        ((4, 8, 2, 3, 5), 1),
        ((2, 6, 3, 4, 5), 5),  # one frame fewer than there are
        ((3, 5, 2, 4, 6), 5),  # as many,
        ((2, 4, 3, 6, 5), 6),  # and more
        ((2, 1, 3, 5, 4), 1),
        ((1, 250, 1, 2, 1), 32),  # ten seconds
    ]
    cases = [{"video": chapter, "count": count} for count in (8, 16)]
    cases += [{"video": _normal(rng, *shape), "count": count} for shape, count in sizes]
    halves = _normal(rng, 2, 10, 3, 4, 5, dtype=torch.float64)  # 2.5 and 7.5 among others
    return [*cases, {"video": halves, "count": 7}]


# The rule in the reference, which the edits replace.
NUMBERS = "torch.arange(1, count + 1) * frames / (count + 1)"

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
            edit(NUMBERS, "torch.arange(count)"),
            "You took the first frames, one after the other. What happens later in the clip is"
            " never seen; spread the frames over all of it.",
        ),
        "middle_window": (
            edit(NUMBERS, "(frames - count) // 2 + torch.arange(count)"),
            "You took neighbouring frames from the middle of the clip. They should be spread over"
            " all of it.",
        ),
        "every_nth": (
            edit(NUMBERS, "torch.arange(count) * (frames // count)"),
            "You stepped through the clip from frame 0. The first frame should be as far from the"
            " start as the last one is from the end: a gap of t / (count + 1) on either side.",
        ),
        "ends_included": (
            edit(NUMBERS, "torch.arange(count) * (frames - 1) / max(count - 1, 1)"),
            "You included both ends of the clip. The rule leaves a gap before the first frame and"
            " after the last one: divide by count + 1, not by count - 1.",
        ),
        "counted_from_zero": (
            edit("torch.arange(1, count + 1)", "torch.arange(count)"),
            "The gap is right, but i runs from 1 to count; yours starts from 0 and so at frame 0.",
        ),
        "middles": (
            edit(NUMBERS, "(torch.arange(count) + 0.5) * frames / count", "round()", "floor()"),
            "You cut the clip into count parts and took the middle of each. Here the frames are"
            " separated, and kept from both ends, by count + 1 gaps of equal length.",
        ),
        "cut_off": (
            edit(".round()", ""),
            "You cut off the fraction. Round to the nearest frame.",
        ),
        "halves_up": (
            edit(".round()", ".add(0.5).floor()"),
            "You round halves up. `torch.round` takes a half to the even number: 2.5 becomes 2, and"
            " 3.5 becomes 4.",
        ),
        "gap_of_numbers": (
            edit(NUMBERS, "torch.arange(1, count + 1) * (frames - 1) / (count + 1)"),
            "Your gap is (t - 1) / (count + 1). Divide the number of frames, t, not the number of"
            " the last one.",
        ),
        "one_early": (
            edit(".long()", ".long() - 1"),
            "Every frame is one too early. The rule gives indices that already count from 0;"
            " subtract nothing.",
        ),
        "repeated": (
            edit("    if count >= frames:\n        return video\n", ""),
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
        ((2, 3, 4, 6, 10), (6, 4, 1, 3, 5)),  # Tubelets of one frame are patches.
        ((2, 6, 3, 6, 6), (5, 3, 3, 3, 3)),  # all square
        ((1, 4, 3, 4, 6), (5, 3, 2, 4, 6)),  # one place, and one clip
        ((1, 16, 3, 48, 48), (64, 3, 2, 8, 8)),  # the chapter's bouncing clip
    ]
    cases = [_tubelet_case(rng, _normal(rng, *clip), kernel) for clip, kernel in sizes]
    # The chapter's moving clips: four frames of bytes (t h w c), made floats.  One time.
    moving = _normal(rng, 2, 16, 32, 32, 3).movedim(-1, 2)[:, 4:8]
    double = _normal(rng, 3, 4, 2, 9, 4, dtype=torch.float64)
    return [
        *cases,
        _tubelet_case(rng, moving, (64, 3, 4, 8, 8)),
        _tubelet_case(rng, double, (6, 2, 2, 3, 2)),
    ]


def _tubelet_case(rng, video, kernel):
    return {
        "video": video,
        "kernel": _normal(rng, *kernel, dtype=video.dtype) / math.prod(kernel[1:]) ** 0.5,
        "bias": _normal(rng, kernel[0], dtype=video.dtype),
    }


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
    gradients=("kernel", "bias"),
    equation="ViViT, Figure 3",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "frames_before_channels": (
            edit("(c kt kh kw)", "(kt c kh kw)"),
            "The boxes are right, but their numbers are in the wrong order: you have frames before"
            " channels, the kernel has (c kt kh kw). Each number meets the weight of another one.",
        ),
        "channels_last": (
            edit("(c kt kh kw)", "(kt kh kw c)"),
            "You put the channels last in each box, as ViT's `patchify` does. This kernel is laid"
            " out like that of a convolution: (c kt kh kw).",
        ),
        "columns_first": (
            edit("b t (h w)", "b t (w h)"),
            "Your tokens run down the columns. Read each time row by row: (h w), not (w h).",
        ),
        "scattered": (
            edit("b (t kt) c (h kh) (w kw)", "b (kt t) c (kh h) (kw w)"),
            "Your boxes collect pixels from all over the clip: in einops the first letter of a"
            " bracket moves slowest. A box of neighbours is (t kt), not (kt t).",
        ),
        "places_before_times": (
            edit("b t (h w)", "b (h w) t"),
            "You exchanged times and places. The result is (b t n d): n tokens at each of t times.",
        ),
        "one_sequence": (
            edit("b t (h w)", "b (t h w)"),
            "You put all tokens into one sequence. Keep times and places apart, (b t n d): three of"
            " the four models need to know which is which.",
        ),
        "overlapping": (
            _overlapping,
            "Your boxes overlap: the stride is 1. Tubelets are side by side, so the stride is the"
            " kernel's size in all three directions.",
        ),
        "left_as_convolved": (
            _convolved,
            "That is what the convolution returns, (b d t h w). Join rows and columns to one axis"
            " and rearrange to (b t n d).",
        ),
        "no_bias": (
            edit("kernel.flatten(1), bias", "kernel.flatten(1)"),
            "The bias is missing.",
        ),
    },
)


# ---------------------------------------------------------------- filter_inflation_init


def _inflation_cases(rng):
    sizes = [((5, 3, 2, 4), 6), ((2, 4, 5, 3), 7), ((3, 2, 4, 5), 1), ((4, 4, 4, 4), 4)]
    cases = [{"kernel": _normal(rng, *shape), "t": t} for shape, t in sizes]
    return [
        *cases,
        {"kernel": _normal(rng, 2, 3, 5, 4, dtype=torch.float64), "t": 2},
        {"kernel": _normal(rng, 64, 3, 8, 8), "t": 4},  # the chapter's
    ]


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
            edit("kernel / t", "kernel"),
            "You did not divide by t. On a clip in which nothing moves the tokens would be t times"
            " what the image model saw.",
        ),
        "divided_by_root": (
            edit("kernel / t", "kernel * t**-0.5"),
            "You divided by the square root of t. That keeps the filter's norm; what should stay is"
            " its answer to a clip in which nothing moves, a sum of t equal terms.",
        ),
        "divided_by_the_box": (
            edit("kernel / t", "kernel / (t * kernel[0, 0].numel())"),
            "You divided by all pixels of the box. The image filter already sums over rows and"
            " columns; only the t frames are new.",
        ),
        "one_frame": (
            vivit.central_frame_init,
            "You gave the filter to one frame and zeros to the others. That is central frame"
            " initialization, which comes next; inflation treats all frames alike.",
        ),
        "time_before_channels": (
            edit("-> d c t h w", "-> d t c h w"),
            "The new axis comes before the channels. The kernel of a 3-D convolution is"
            " (d c t h w).",
        ),
        "time_last": (
            edit("-> d c t h w", "-> d c h w t"),
            "The new axis comes last. The kernel of a 3-D convolution is (d c t h w).",
        ),
        "no_new_axis": (
            edit("-> d c t h w", "-> d (t c) h w"),
            "You repeated the channels. Time needs an axis of its own: (d c t h w).",
        ),
    },
)


# ---------------------------------------------------------------- central_frame_init


def _central_cases(rng):
    sizes = [
        ((5, 3, 4, 2), 6),
        ((4, 3, 5, 6), 2),
        ((2, 4, 3, 6), 5),
        ((3, 2, 4, 5), 3),  # rounding 1.5 would give 2
        ((2, 5, 3, 4), 1),
        ((4, 4, 4, 4), 4),
        ((2, 3, 4, 5), 8),
    ]
    cases = [{"kernel": _normal(rng, *shape), "t": t} for shape, t in sizes]
    return [
        *cases,
        {"kernel": _normal(rng, 3, 2, 5, 4, dtype=torch.float64), "t": 7},
        {"kernel": _normal(rng, 64, 3, 8, 8), "t": 4},  # the chapter's
    ]


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
            edit("[:, :, t // 2]", "[:, :, 0]"),
            "You put the filter at the first frame. It belongs in the middle, at t // 2.",
        ),
        "last_frame": (
            edit("[:, :, t // 2]", "[:, :, t - 1]"),
            "You put the filter at the last frame. It belongs in the middle, at t // 2.",
        ),
        "before_the_middle": (
            edit("[:, :, t // 2]", "[:, :, (t - 1) // 2]"),
            "For an odd t you are right. An even number of frames has two in the middle; take the"
            " later one, t // 2.",
        ),
        "after_the_middle": (
            edit("[:, :, t // 2]", "[:, :, min(t // 2 + 1, t - 1)]"),
            "You put the filter one frame too late. Frames count from 0, so the middle is t // 2.",
        ),
        "both_middles": (
            edit(
                "inflated[:, :, t // 2] = kernel",
                "inflated[:, :, t // 2] += kernel / 2"
                "\n    inflated[:, :, (t - 1) // 2] += kernel / 2",
            ),
            "For an even t you shared the filter between the two middle frames. Give all of it to"
            " the later one, t // 2.",
        ),
        "divided": (
            edit("] = kernel", "] = kernel / t"),
            "You divided by t. Only one frame answers here, so the filter enters as it is; the"
            " division belongs to inflation.",
        ),
        "every_frame": (
            vivit.filter_inflation_init,
            "That is filter inflation: every frame gets a share. Here the middle frame gets all of"
            " it and the others get zeros.",
        ),
        "middle_column": (
            _middle_column,
            "You kept the middle column of the filter in every frame. The middle is meant in time;"
            " rows and columns stay whole.",
        ),
        "time_before_channels": (
            edit("return inflated", "return inflated.transpose(1, 2)"),
            "The new axis comes before the channels. The kernel of a 3-D convolution is"
            " (d c t h w).",
        ),
    },
)


# ---------------------------------------------------------------- factorised_encoder


def _spatial(x):
    """Stand in for the encoder of one time, (b n d) to (b d); every place counts differently."""
    _require_sequences("spatial", x)
    return torch.tanh(x * torch.linspace(0.5, 2, x.shape[1])[:, None]).mean(1)


def _temporal(x):
    """Stand in for the encoder over time, (b t d) to (b d); the order counts."""
    _require_sequences("temporal", x)
    return torch.sin(2 * x + torch.linspace(0, 2, x.shape[1])[:, None]).mean(1)


def _mean(x):
    """Stand in for the temporal encoder that the chapter begins with."""
    _require_sequences("temporal", x)
    return x.mean(1)


def _require_sequences(name, x):
    if x.ndim != 3:
        raise ValueError(
            f"{name}: expected an input of three axes, (batch, sequence, d),"
            f" got one of {x.ndim}, {tuple(x.shape)}"
        )


def _factorised_cases(rng):
    shapes = [
        (2, 3, 4, 5),
        (4, 2, 6, 3),
        (3, 5, 2, 4),
        (3, 3, 3, 4),  # orders that any shape would let pass
        (1, 4, 3, 5),
        (3, 1, 4, 2),
        (2, 4, 1, 3),
    ]
    two = {"spatial": _spatial, "temporal": _temporal}
    double = _normal(rng, 2, 4, 3, 5, dtype=torch.float64)
    return [
        *({"x": _normal(rng, *shape), **two} for shape in shapes),
        {"x": double, **two},
        # As the chapter calls it: tokens of four clips, and a mean over time.
        {"x": _normal(rng, 4, 8, 16, 64), "spatial": _spatial, "temporal": _mean},
    ]


FACTORISED_ENCODER = Exercise(
    id="vivit.factorised_encoder",
    reference=vivit.factorised_encoder,
    cases=_factorised_cases,
    equation="ViViT, Figure 4",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "all_in_one_sequence": (
            edit("-> (b t) n d", "-> b (t n) d"),
            "You gave the first encoder all times in one sequence. It should read each time"
            " separately: fold time into the batch, not into the tokens.",
        ),
        "folded_otherwise": (
            edit("-> (b t) n d", "-> (t b) n d"),
            "You folded as (t b) and unfolded as (b t). The shapes fit either way, but frames of"
            " one clip end up in another: use the same order twice.",
        ),
        "four_axes": (
            edit('rearrange(x, "b t n d -> (b t) n d")', "x"),
            "`spatial` takes sequences, (b n d), and got (b t n d). Fold the times into the batch"
            " first.",
        ),
        "places_first": (
            edit("-> (b t) n d", "-> (b n) t d"),
            "You read each place through time first and then went over places. The first encoder"
            " reads the tokens of one time; the second one goes over times.",
        ),
        "exchanged": (
            edit("frames = spatial", "frames = temporal", "return temporal", "return spatial"),
            "You exchanged the two encoders: `spatial` reads the tokens of one time, `temporal`"
            " reads what `spatial` returns.",
        ),
        "averaged": (
            edit("return temporal(", "return torch.mean(", "b=len(x)))", "b=len(x)), dim=1)"),
            "You averaged over time. That is the paper's pooling baseline, and it cannot tell in"
            " which order the times came; use `temporal`.",
        ),
        "batch_in_time": (
            edit('rearrange(frames, "(b t) d -> b t d", b=len(x))', "frames[None]"),
            "You gave the second encoder the times of all clips as one sequence. Unfold (b t)"
            " again, so that it sees one clip at a time.",
        ),
        "tokens_averaged": (
            lambda x, spatial, temporal: temporal(x.mean(2)),
            "You averaged the tokens of each time. A time is represented by what `spatial` returns"
            " for its tokens.",
        ),
    },
)


# ---------------------------------------------------------------- factorised_self_attention


def _over_space(x):
    """Stand in for attention over space and its norm, (... n d) to the same; the order counts."""
    return torch.tanh(x.cumsum(-2))


def _over_time(x):
    """Stand in for attention over time and its norm, (... t d) to the same; the order counts."""
    return torch.sin(2 * x.cumsum(-2) + 1)


def _mlp(x):
    """Stand in for the MLP, which takes each token separately."""
    return 0.5 * torch.cos(2 * x + x.roll(1, -1))


def _attention_cases(rng):
    branches = {"over_space": _over_space, "over_time": _over_time, "mlp": _mlp}
    shapes = [
        (2, 3, 4, 5),
        (4, 2, 5, 3),
        (3, 6, 2, 4),
        (2, 4, 4, 3),  # as many times as places
        (3, 3, 3, 3),
        (1, 4, 3, 5),
        (3, 1, 4, 5),
        (2, 4, 1, 3),
        (2, 8, 16, 64),  # the chapter's own size
    ]
    inputs = [_normal(rng, *shape) for shape in shapes]
    inputs.append(_normal(rng, 2, 4, 3, 5, dtype=torch.float64))
    return [{"x": x, **branches} for x in inputs]


def _all_tokens(x, over_space, over_time, mlp):
    h = x.flatten(1, 2)
    h = h + over_space(h)
    h = h + over_time(h)
    return (h + mlp(h)).view_as(x)


# The lines of Eq. 4 and 5 in the reference, which the edits move and change.
ADD_SPACE = "    x = x + over_space(x)\n"
TO_TIMES = 'rearrange(x, "b t n d -> b n t d")'
TO_PLACES = 'rearrange(along, "b n t d -> b t n d")'

FACTORISED_SELF_ATTENTION = Exercise(
    id="vivit.factorised_self_attention",
    reference=vivit.factorised_self_attention,
    cases=_attention_cases,
    equation="ViViT, Eq. 4 to 6",
    points=3,
    stars=2,
    minutes=8,
    misconceptions={
        "in_parallel": (
            edit(
                ADD_SPACE,
                "    space = over_space(x)\n",
                f"x + {TO_PLACES}",
                f"x + space + {TO_PLACES}",
            ),
            "Both attentions read the same x. In Eq. 5 the one over time reads what the one over"
            " space wrote, so that together they reach every token.",
        ),
        "time_first": (
            edit(ADD_SPACE, "", "    return", ADD_SPACE + "    return"),
            "You went over time first. The paper finds that the order matters little, but Eq. 4 is"
            " over space.",
        ),
        "no_identity": (
            edit(
                ADD_SPACE,
                "    x = over_space(x)\n",
                f"x + {TO_PLACES}",
                TO_PLACES,
                "x + mlp",
                "mlp",
            ),
            "The identity is missing: each of the three branches is added to its own input.",
        ),
        "identity_around_both": (
            edit(ADD_SPACE, "    h = over_space(x)\n", TO_TIMES, TO_TIMES.replace("(x", "(h")),
            "You put one identity around both attentions. Each has its own: add x after space, and"
            " again after time.",
        ),
        "two_whole_layers": (
            edit(ADD_SPACE, ADD_SPACE + "    x = x + mlp(x)\n"),
            "You ran the MLP after each attention. Model 3 has one, at the end of the layer.",
        ),
        "both_over_places": (
            edit(TO_TIMES, "x", TO_PLACES, "along"),
            "`over_time` went along places: it works along the last axis but one. Move time there"
            " first, and back afterwards.",
        ),
        "reshaped": (
            edit(
                TO_TIMES,
                "x.reshape(x.shape[0], x.shape[2], x.shape[1], x.shape[3])",
                TO_PLACES,
                "along.reshape(x.shape)",
            ),
            "You exchanged times and places by a reshape. That leaves the numbers where they are in"
            " memory and mixes up the tokens; move the axes, with rearrange or transpose.",
        ),
        "exchanged": (
            edit(
                ADD_SPACE,
                "",
                f"over_time({TO_TIMES})",
                f"over_space({TO_TIMES})",
                "    return",
                "    x = x + over_time(x)\n    return",
            ),
            "You exchanged the two attentions: `over_space` goes along the tokens of one time,"
            " `over_time` along the times of one place.",
        ),
        "all_tokens": (
            _all_tokens,
            "You put all tokens into one sequence, as Model 1 does. Here a sequence has the tokens"
            " of one time, or the times of one place.",
        ),
    },
)


# ---------------------------------------------------------------- factorised_dot_product


def _dot_product_cases(rng):
    sizes = [
        ((2, 3, 5, 3 * 16), 4),
        ((3, 4, 2, 3 * 12), 6),
        ((2, 5, 3, 3 * 8), 2),
        ((2, 4, 4, 3 * 16), 4),  # as many times as places, heads as wide as they are many
        ((1, 3, 4, 3 * 20), 4),
        ((2, 1, 4, 3 * 12), 4),
        ((2, 4, 1, 3 * 12), 4),
        ((2, 8, 16, 3 * 64), 4),  # the chapter's own size
    ]
    inputs = [(2 * _normal(rng, *shape), heads) for shape, heads in sizes]
    inputs.append((2 * _normal(rng, 2, 3, 4, 3 * 8, dtype=torch.float64), 4))
    return [{"qkv": qkv, "heads": heads} for qkv, heads in inputs]


def _everywhere(qkv, heads):
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b h (t n) d", three=3, h=heads)
    y = F.scaled_dot_product_attention(q, k, v)
    return rearrange(y, "b h (t n) d -> b t n (h d)", t=qkv.shape[1])


def _all_over_space(qkv, heads):
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b t h n d", three=3, h=heads)
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b t h n d -> b t n (h d)")


def _all_over_time(qkv, heads):
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b n h t d", three=3, h=heads)
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b n h t d -> b t n (h d)")


def _scaled(scale):
    """Give another scale to both calls of the attention."""
    old = "F.scaled_dot_product_attention(q, k, v"
    new = f"{old}, scale={scale}"
    return edit(f"y_space = {old}", f"y_space = {new}", f"y_time = {old}", f"y_time = {new}")


# What comes back from the two attentions, head by head, is put together again within each head.
WITHIN_HEADS = (
    "(b t) h n d -> b t n (h d)",
    "(b t) h n d -> b t n h d",
    "(b n) h t d -> b t n (h d)",
    "(b n) h t d -> b t n h d",
    "torch.cat([y_space, y_time], dim=-1)",
    "torch.stack([y_space, y_time], dim=4).flatten(3)",
)

FACTORISED_DOT_PRODUCT = Exercise(
    id="vivit.factorised_dot_product",
    reference=vivit.factorised_dot_product,
    cases=_dot_product_cases,
    equation="ViViT, Section 3.3, Model 4",
    points=3,
    stars=3,
    minutes=15,
    misconceptions={
        "exchanged": (
            edit("space, time =", "time, space =", "[y_space, y_time]", "[y_time, y_space]"),
            "You exchanged the halves: the first half of the heads looks over space, the second"
            " half over time.",
        ),
        "in_turn": (
            edit("(three two h d)", "(three h two d)", *WITHIN_HEADS),
            "You gave every other head to time. The first heads // 2 look over space, the others"
            " over time.",
        ),
        "channels_halved": (
            edit("(three two h d)", "(three h two d)", "h=heads // 2", "h=heads", *WITHIN_HEADS),
            "You cut every head in two. The heads are shared out, not their channels: heads // 2"
            " whole heads look over space.",
        ),
        "cut_again": (
            edit("h=heads // 2", "h=heads"),
            "The halves are right, but you cut each into `heads` heads. Each half has heads // 2 of"
            " them, as wide as before.",
        ),
        "head_by_head": (
            edit("(three two h d)", "(two h three d)"),
            "You read qkv head by head. All queries come first, then all keys, then all values:"
            " (three heads d).",
        ),
        "averaged": (
            edit(
                "space, time =",
                "space = time =",
                "(three two h d) -> two three b",
                "(three h d) -> three b",
                "two=2, h=heads // 2",
                "h=heads",
                "torch.cat([y_space, y_time], dim=-1)",
                "(y_space + y_time) / 2",
            ),
            "Every head looked over space and over time, and you averaged. Each head does one of"
            " the two, and the outputs go side by side: that costs no more than ordinary"
            " attention.",
        ),
        "everywhere": (
            _everywhere,
            "Every token attends to all tokens of the clip: that is Model 1. A head sees the tokens"
            " of one time, or the times of one place.",
        ),
        "all_over_space": (
            _all_over_space,
            "All of your heads look over space. The second half of them looks over time: among the"
            " tokens of one place.",
        ),
        "all_over_time": (
            _all_over_time,
            "All of your heads look over time. The first half of them looks over space: among the"
            " tokens of one time.",
        ),
        "scaled_by_width": (
            _scaled("(qkv.shape[-1] // 3) ** -0.5"),
            "The scores are divided by the square root of the whole width. Divide by that of one"
            " head's width.",
        ),
        "not_scaled": (
            _scaled("1.0"),
            "The scale is missing: divide the scores by the square root of one head's width before"
            " the softmax.",
        ),
    },
)


# ---------------------------------------------------------------- multi_view


def _classifier(clip):
    """Stand in for a trained model, (b t c h w) to 4 logits.

    Early and late frames, top and bottom, left and right count differently.
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
        ((2, 10, 3, 6, 12), dict(frames=4, size=3, views=3, crops=3)),
        ((3, 11, 2, 13, 5), dict(frames=4, size=3, views=5, crops=3)),  # upright
        ((2, 8, 3, 5, 9), dict(frames=2, size=5, views=1, crops=1)),
        ((2, 9, 3, 8, 8), dict(frames=4, size=3, views=2, crops=3)),  # square
        # Windows start at 0, 2.33, 4.67 and 7, squares at 0, 3.33, 6.67 and 10, at the height 2.5.
        ((1, 12, 3, 9, 14), dict(frames=5, size=4, views=4, crops=4)),
        # A single window starts at 3.5, a single square at 3.5 and 1.5.
        ((2, 11, 2, 10, 6), dict(frames=4, size=3, views=1, crops=1)),
        ((2, 7, 2, 6, 10), dict(frames=4, size=3, views=1, crops=2)),  # a window, squares
        ((2, 7, 3, 10, 7), dict(frames=3, size=4, views=2, crops=1)),  # windows, a square
        ((2, 7, 3, 5, 7), dict(frames=5, size=4, views=4, crops=3)),  # more windows than starts
        ((3, 4, 2, 5, 5), dict(frames=4, size=5, views=3, crops=2)),  # all views alike
        ((2, 5, 2, 5, 6), dict(frames=4, size=4, views=1, crops=2)),  # one frame to spare
        # the chapter's
        ((1, 22, 3, 32, 36), dict(frames=16, size=32, views=4, crops=3)),
        ((1, 22, 3, 32, 36), dict(frames=16, size=32, views=1, crops=3)),
        ((2, 9, 3, 5, 8), dict(frames=4, size=5)),  # 4 and 3 by default
    ]
    inputs = [(_normal(rng, *shape), asked) for shape, asked in sizes]
    double = _normal(rng, 2, 8, 3, 7, 9, dtype=torch.float64)
    inputs.append((double, dict(frames=3, size=4, views=3, crops=2)))
    return [{"model": _classifier, "video": video, **asked} for video, asked in inputs]


MULTI_VIEW = Exercise(
    id="vivit.multi_view",
    reference=vivit.multi_view,
    cases=_view_cases,
    equation="ViViT, Section 4.1",
    points=3,
    stars=2,
    minutes=12,
    misconceptions={
        "after_the_softmax": (
            edit(".mean(0)", ".softmax(-1).mean(0)"),
            "You averaged probabilities. Average the logits, as the model returns them.",
        ),
        "summed": (
            edit(".mean(0)", ".sum(0)"),
            "You summed over the views. Take their mean, so that the logits do not grow with the"
            " number of views.",
        ),
        "one_crop": (
            edit("zip(tops, lefts, strict=True)", "[((h - size) // 2, (w - size) // 2)]"),
            "You looked only at the middle of the image. Each window is seen through `crops`"
            " squares.",
        ),
        "shorter_side": (
            edit("if h > w", "if h < w"),
            "Your squares move along the shorter side. What a square leaves out is along the longer"
            " one.",
        ),
        "always_downwards": (
            edit("if h > w", "if True"),
            "Your squares always move from top to bottom. They move along the longer side, and in"
            " square frames along the width.",
        ),
        "rows_for_columns": (
            edit("for top, left in zip", "for left, top in zip"),
            "You exchanged rows and columns. The last two axes are height and width, so a square is"
            " [..., top : top + size, left : left + size].",
        ),
        "square_downwards": (
            edit("if h > w", "if h >= w"),
            "In square frames your squares move from top to bottom. Where both sides are equally"
            " long they move along the width.",
        ),
        "to_the_nearest": (
            edit(
                "i * last // (count - 1)",
                "round(i * last / (count - 1))",
                "last // 2",
                "round(last / 2)",
                of=vivit.evenly_spaced,
            ),
            "You rounded to the nearest start. Windows and squares start at the quotient rounded"
            " down.",
        ),
        "single_from_the_start": (
            edit("[last // 2]", "[0]", of=vivit.evenly_spaced),
            "A single window, or a single square, belongs in the middle; yours starts at 0.",
        ),
        "always_across": (
            edit("if h > w", "if False"),
            "Your squares always move from left to right. An upright clip is longer from top to"
            " bottom; move them that way.",
        ),
        "back_to_back": (
            edit("evenly_spaced(t - frames, views)", "range(0, views * frames, frames)"),
            "Your windows follow each other from the start. Spread them over the clip: the first"
            " starts at 0 and the last at t - frames.",
        ),
        "never_the_end": (
            edit(
                "evenly_spaced(t - frames, views)",
                "[i * (t - frames) // views for i in range(views)]",
            ),
            "Your last window stops short of the end: you divided by views. From the first start to"
            " the last there are views - 1 steps.",
        ),
        "every_nth_frame": (
            edit(
                "evenly_spaced(t - frames, views)",
                "range(views)",
                "video[:, start : start + frames]",
                "video[:, start :: t // frames][:, :frames]",
            ),
            "You skipped frames within each view. A window is `frames` frames in a row; only its"
            " start moves.",
        ),
        "mixed_up": (
            edit(
                "torch.stack(logits).mean(0)",
                "torch.cat(logits).unflatten(0, (len(video), -1)).mean(1)",
            ),
            "The views of different clips are mixed: stacked views form the first axis and the"
            " batch the second, so average over the first.",
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
