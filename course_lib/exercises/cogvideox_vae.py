"""Notebook 09, first half: the causal autoencoder, and the tokens of its latents in space and time.

Their ids begin with the topic's name, as those of the second half in `cogvideox`.
"""

import math

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from course_lib.checking import Exercise, edit
from course_lib.nn import context_parallel, rope, timeline
from course_lib.papers import cogvideox, cogvideox_diffusion

# ---------------------------------------------------------------- latent_shape


def _clip_sizes(rng):
    """Ask about released clips and the chapter's, an image, other factors, and what does not fit.

    Refused are a frame too few and too many, none at all, each of the two sides, and both.
    """
    asked = [
        (49, 480, 720),
        (17, 32, 32, 4, (4, 4, 4)),
        (1, 16, 40),
        (81, 768, 1360),
        (5, 24, 8, 32),
        (13, 12, 80, 4, (2, 4, 16)),
        (17, 24, 12, 3, (8, 8, 3)),
        (6, 5, 7, 16, (1, 1, 1)),
        (48, 480, 720),
        (50, 480, 720),
        (0, 480, 720),
        (0, 6, 4, 2, (1, 2, 2)),
        (49, 484, 720),
        (49, 480, 724),
        (9, 20, 24),
        (5, 8, 12),
        (9, 20, 12),
        (17, 32, 30, 4, (4, 4, 4)),
    ]
    names = ("frames", "height", "width", "channels", "compression")
    return [dict(zip(names, sizes, strict=False)) for sizes in asked]


REFUSED_SIZES = "frames < 1 or (frames - 1) % over_time or height % down or width % across"
SHAPE = "1 + (frames - 1) // over_time, channels, height // down, width // across"

LATENT_SHAPE = Exercise(
    id="cogvideox.latent_shape",
    reference=cogvideox_diffusion.latent_shape,
    cases=_clip_sizes,
    equation="CogVideoX, Section 2.1",
    points=1,
    stars=1,
    minutes=5,
    misconceptions={
        "all_frames_divided": (
            edit("1 + (frames - 1) // over_time", "frames // over_time"),
            "You divided all frames. The first one is a latent by itself: take it away, divide the"
            " rest, and count it again.",
        ),
        "first_divided_too": (
            edit("1 + (frames - 1) // over_time", "1 + frames // over_time"),
            "You counted the first frame, but divided it with the others, too. Divide frames - 1:"
            " it matters where each frame is a latent.",
        ),
        "first_not_counted": (
            edit("1 + (frames - 1) // over_time", "(frames - 1) // over_time"),
            "You took the first frame away and did not count it again: an image would have no"
            " latent.",
        ),
        "always_four_and_eight": (
            edit("over_time, down, across = compression", "over_time, down, across = 4, 8, 8"),
            "You divide by 4, 8 and 8 whatever is asked. Those are the defaults: use"
            " `compression`.",
        ),
        "compression_backwards": (
            edit("over_time, down, across = compression", "across, down, over_time = compression"),
            "The factors of time and width have changed places: `compression` is time, height,"
            " width.",
        ),
        "always_sixteen": (
            edit(SHAPE, SHAPE.replace("channels", "16")),
            "Your latents always have 16 channels. That is the default: use `channels`.",
        ),
        "channels_divided": (
            edit(SHAPE, SHAPE.replace("channels", "channels // over_time")),
            "You divided the channels, too. `channels` is the number that latents have.",
        ),
        "three_channels": (
            edit(SHAPE, SHAPE.replace("channels", "3")),
            "Your latents have the 3 channels of pixels. They have `channels`, 16 in the paper.",
        ),
        "without_channels": (
            edit(SHAPE, SHAPE.replace("channels, ", "")),
            "The three numbers are right. The shape has the channels, too: (t, c, h, w).",
        ),
        "channels_first": (
            edit(SHAPE, "channels, " + SHAPE.replace("channels, ", "")),
            "The numbers are right, but the channels come first. The transformer's clips are (t c h"
            " w).",
        ),
        "columns_first": (
            edit("height // down, width // across", "width // across, height // down"),
            "Height and width have changed places. The order is time, channels, height, width.",
        ),
        "nothing_refused": (
            edit(REFUSED_SIZES, "False"),
            "Right where a clip fits. One that does not become whole latents has to be refused:"
            " raise a ValueError.",
        ),
        "frames_not_checked": (
            edit("frames < 1 or (frames - 1) % over_time or ", ""),
            "You check the sides, but not the frames. If frames - 1 leaves a remainder, raise a"
            " ValueError.",
        ),
        "sides_not_checked": (
            edit(" or height % down or width % across", ""),
            "You check the frames, but not the sides. Height and width must be multiples of their"
            " factors; otherwise raise a ValueError.",
        ),
        "width_not_checked": (
            edit(" or width % across", ""),
            "You do not check the width. It must be a multiple, too.",
        ),
        "height_not_checked": (
            edit("height % down or ", ""),
            "You do not check the height. It must be a multiple, too.",
        ),
        "refused_for_both_alone": (
            edit("height % down or width % across", "(height % down and width % across)"),
            "You refuse a clip only where neither side fits. One that does not is enough: `or`.",
        ),
        "no_frame": (
            edit("frames < 1 or ", ""),
            "A clip of no frames passes your check where a latent is one frame, since -1 leaves no"
            " remainder. A clip has at least one frame: refuse fewer.",
        ),
        "multiples_expected": (
            edit("(frames - 1) % over_time", "frames % over_time"),
            "You expect a multiple of the factor. The frames are 1 + a multiple: 49, not 48.",
        ),
        "patches": (
            edit(SHAPE, SHAPE.replace("// down", "// down // 2") + " // 2"),
            "You counted the transformer's patches of 2 x 2. Count latents.",
        ),
        "sides_like_time": (
            edit(
                "height // down, width // across",
                "1 + height // down, 1 + width // across",
            ),
            "You counted one more row and one more column. Only time has a first one by itself.",
        ),
    },
)


# ---------------------------------------------------------------- causal_padding


def _clip(rng, *shape, dtype=torch.float32):
    """Draw a clip whose frames, rows and columns differ in their mean."""
    ramps = [torch.linspace(0, 1 + axis, length) for axis, length in enumerate(shape)]
    x = torch.randn(shape, generator=rng)
    for axis, ramp in enumerate(ramps):
        x = x + ramp.reshape([-1 if a == axis else 1 for a in range(len(shape))])
    return x.to(dtype)


def _padding_cases(rng):
    """Draw clips for odd and even kernels, of 1 frame and a kernel of 1; the chapter's; float64."""
    asked = [
        ((2, 3, 5, 4, 6), 3),
        ((1, 2, 4, 3, 5), 2),
        ((3, 2, 1, 4, 5), 4),
        ((2, 4, 3, 5, 1), 1),
        ((1, 3, 6, 2, 4), 5),
        ((1, 3, 17, 16, 16), 3),
    ]
    cases = [{"x": _clip(rng, *shape), "kernel": kernel} for shape, kernel in asked]
    return [*cases, {"x": _clip(rng, 2, 1, 3, 4, 5, dtype=torch.float64), "kernel": 3}]


def _before(past_of):
    """Build a padding that puts other frames before the clip."""
    return lambda x, kernel: torch.cat([past_of(x, kernel - 1), x], dim=2)


def _mirrored(x, past):
    """Return the frames after the first in reverse; the last one again where they are too few."""
    places = torch.arange(past, 0, -1).clamp(max=x.shape[2] - 1)
    return x[:, :, places]


def _from_the_end(x, past):
    """Return the last frames of the clip, and the first one of these before them if too few."""
    places = torch.arange(x.shape[2] - past, x.shape[2]).clamp(min=0)
    return x[:, :, places]


def _both_sides(x, kernel):
    before = (kernel - 1) // 2
    return torch.cat([x[:, :, :1]] * before + [x] + [x[:, :, -1:]] * (kernel - 1 - before), dim=2)


def _spatial_too(x, kernel):
    side = kernel // 2
    x = timeline.causal_padding(x, kernel)
    return F.pad(x, (side, side, side, side, 0, 0), mode="replicate")


CAUSAL_PADDING = Exercise(
    id="cogvideox.causal_padding",
    reference=timeline.causal_padding,
    cases=_padding_cases,
    gradients=("x",),
    equation="CogVideoX, Section 2.1",
    points=1,
    stars=1,
    minutes=5,
    misconceptions={
        "zeros": (
            edit("[x[:, :, :1]]", "[torch.zeros_like(x[:, :, :1])]"),
            "You padded with zeros, a grey past: the convolution would see the clip appear out of"
            " nothing. CogVideoX repeats the first frame.",
        ),
        "one_too_many": (
            edit("(kernel - 1)", "kernel"),
            "You added `kernel` frames. One of those that a convolution sees is its own: kernel - 1"
            " are missing.",
        ),
        "one_too_few": (
            edit("(kernel - 1)", "(kernel - 2)"),
            "There is one frame too few before the clip: together with itself, the first frame must"
            " see `kernel` frames.",
        ),
        "half_before": (
            edit("(kernel - 1)", "((kernel - 1) // 2)"),
            "You added half of kernel - 1, as if the other half came after the clip. No later"
            " frame is seen: all of them come before it.",
        ),
        "both_sides": (
            _both_sides,
            "You padded both ends, as for an ordinary convolution: it would see later frames. All"
            " kernel - 1 come before the clip.",
        ),
        "after_the_clip": (
            edit("[x[:, :, :1]] * (kernel - 1) + [x]", "[x] + [x[:, :, -1:]] * (kernel - 1)"),
            "You repeated the last frame after the clip. What is missing comes before the first.",
        ),
        "first_after_the_clip": (
            edit("[x[:, :, :1]] * (kernel - 1) + [x]", "[x] + [x[:, :, :1]] * (kernel - 1)"),
            "You have the right copies, but after the clip. They belong before it.",
        ),
        "last_frame": (
            edit("[x[:, :, :1]]", "[x[:, :, -1:]]"),
            "You repeated the last frame before the clip: the first one would see the future."
            " Repeat the first.",
        ),
        "mirrored": (
            _before(_mirrored),
            "You mirrored the clip at its first frame: that one would see the frames after it."
            " Copies of the first frame know nothing of them.",
        ),
        "circular": (
            _before(_from_the_end),
            "You put the end of the clip before its beginning, as if it ran in a circle. Repeat"
            " the first frame.",
        ),
        "mean_frame": (
            _before(lambda x, past: x.mean(2, keepdim=True).expand(-1, -1, past, -1, -1)),
            "You padded with the mean of all frames, which knows the later ones. Repeat the first.",
        ),
        "copies_detached": (
            edit("[x[:, :, :1]]", "[x[:, :, :1].detach()]"),
            "The values are right, but no gradient flows through the copies. (Nor does it in the"
            " official code.) They are the first frame: their gradient is its own.",
        ),
        "frames_on_axis_1": (
            edit("x[:, :, :1]", "x[:, :1]", "dim=2", "dim=1"),
            "You repeated the first channel. A clip is (b c t h w): frames are axis 2.",
        ),
        "rows_and_columns": (
            _spatial_too,
            "The frames are right, but you padded rows and columns as well. The convolution does"
            " that by itself: only time is padded here.",
        ),
        "padding_alone": (
            edit(" + [x]", ""),
            "Those are only the copies. The clip follows them.",
        ),
    },
)


# ---------------------------------------------------------------- temporal_pool


def _pooling_cases(rng):
    """Draw clips and pieces, an image, one pair, frames without a partner; the chapter's; float64.

    Without `starts`, a clip begins.
    """
    asked = [
        ((2, 3, 5, 4, 6), None),
        ((1, 2, 9, 3, 4), True),
        ((3, 2, 1, 4, 5), None),
        ((2, 4, 6, 3, 5), False),
        ((2, 3, 2, 5, 4), False),
        ((1, 4, 3, 5, 2), True),
        ((1, 6, 17, 8, 8), None),
        ((2, 3, 4, 5, 6), None),
        ((1, 2, 6, 3, 4), True),
        ((2, 2, 3, 4, 5), False),
        ((1, 3, 1, 2, 4), False),
    ]
    cases = []
    for shape, starts in asked:
        case = {"x": _clip(rng, *shape)}
        cases.append(case if starts is None else {**case, "starts": starts})
    return [*cases, {"x": _clip(rng, 2, 1, 7, 4, 5, dtype=torch.float64)}]


PAIRED = "(rest[:, :, 0::2] + rest[:, :, 1::2]) / 2"
REFUSED = """    if rest.shape[2] % 2:
        wanted = "an odd number of frames (1 + 2 n)" if starts else "an even number of frames"
        raise ValueError(f"expected {wanted} to pool, got {x.shape[2]}")
"""


def _last_alone(x, starts=True):
    """Pool from the first frame on, and leave the last one over."""
    if (x.shape[2] - starts) % 2:
        raise ValueError("a frame without a partner")
    if not starts:
        return timeline.pool_frames(x, starts)
    pairs, last = x[:, :, :-1], x[:, :, -1:]
    return torch.cat([(pairs[:, :, 0::2] + pairs[:, :, 1::2]) / 2, last], dim=2)


def _distant_partners(x, starts=True):
    """Pair the first half of the frames with the second."""
    first, rest = x[:, :, :starts], x[:, :, starts:]
    if rest.shape[2] % 2:
        raise ValueError("a frame without a partner")
    early, late = rest.chunk(2, dim=2) if rest.shape[2] else (rest, rest)
    return torch.cat([first, (early + late) / 2], dim=2)


TEMPORAL_POOL = Exercise(
    id="cogvideox.temporal_pool",
    reference=timeline.pool_frames,
    cases=_pooling_cases,
    gradients=("x",),
    equation="CogVideoX, Section 2.1",
    points=2,
    stars=1,
    minutes=7,
    misconceptions={
        "all_in_pairs": (
            lambda x, starts=True: F.avg_pool3d(x, (2, 1, 1)),
            "You averaged all frames in pairs, the first one with the second. It stays alone, so"
            " it has seen no other; and a frame that is left over is a ValueError.",
        ),
        "last_alone": (
            _last_alone,
            "You left the last frame alone. It is the first one, which must not see the second.",
        ),
        "first_dropped": (
            edit("[first, pooled]", "[pooled]"),
            "The pairs are right, but the first frame is gone. It stays, as it is.",
        ),
        "summed": (
            edit(" / 2", ""),
            "You added the partners. Take their mean.",
        ),
        "earlier_of_two": (
            edit(PAIRED, "rest[:, :, 0::2]"),
            "You took the earlier frame of each pair. Take the mean of both.",
        ),
        "later_of_two": (
            edit(PAIRED, "rest[:, :, 1::2]"),
            "You took the later frame of each pair. Take the mean of both.",
        ),
        "larger_of_two": (
            edit(PAIRED, "torch.maximum(rest[:, :, 0::2], rest[:, :, 1::2])"),
            "You took the larger value of each pair. Take the mean of both.",
        ),
        "overlapping": (
            edit(PAIRED, "(rest[:, :, :-1] + rest[:, :, 1:]) / 2"),
            "Your pairs overlap, so time is not halved. Each frame has one partner.",
        ),
        "distant_partners": (
            _distant_partners,
            "You paired the first half of the frames with the second half. Partners are"
            " neighbours.",
        ),
        "all_like_a_start": (
            edit("x[:, :, :starts], x[:, :, starts:]", "x[:, :, :1], x[:, :, 1:]"),
            "You always left a first frame alone. With `starts=False` x is a piece from the middle:"
            " all of its frames have partners.",
        ),
        "none_like_a_start": (
            edit("x[:, :, :starts], x[:, :, starts:]", "x[:, :, :0], x[:, :, 0:]"),
            "You always paired all frames. Where the clip `starts`, its first frame stays alone.",
        ),
        "other_way_round": (
            edit(
                "x[:, :, :starts], x[:, :, starts:]", "x[:, :, :not starts], x[:, :, not starts:]"
            ),
            "`starts` is the other way round: the first frame is alone where it is True.",
        ),
        "by_parity": (
            edit(
                "x[:, :, :starts], x[:, :, starts:]",
                "x[:, :, : x.shape[2] % 2], x[:, :, x.shape[2] % 2 :]",
            ),
            "You took an odd number of frames for a start. (So does diffusers.) `starts` says it;"
            " a number of frames that does not fit it is a ValueError.",
        ),
        "nothing_refused": (
            edit(
                REFUSED,
                "",
                PAIRED,
                "(rest[:, :, 0 : rest.shape[2] // 2 * 2 : 2] + rest[:, :, 1::2]) / 2",
            ),
            "Right where frames have partners. You dropped one that has none; raise a ValueError.",
        ),
        "partners_missing": (
            edit(REFUSED, ""),
            "Right where frames have partners. One without is a ValueError: check before you add,"
            " since torch's own error is another one, and it adds a tensor of one frame to one of"
            " none without any.",
        ),
        "detached": (
            edit("[first, pooled]", "[first.detach(), pooled]"),
            "The values are right, but the first frame gets no gradient.",
        ),
    },
)


# ---------------------------------------------------------------- context_parallel


def _pieces_cases(rng):
    """Share clips over one to five ranks; pieces shorter than the halo, the first too; float64.

    The chapter's tiny autoencoder has 17 frames, as 9 and 8 on two ranks.
    """
    asked = [
        ([5, 4], 2, (2, 3, 4, 6)),
        ([9, 8], 2, (1, 3, 8, 8)),
        ([6], 2, (3, 2, 4, 5)),
        ([5, 4, 8, 4], 2, (1, 2, 3, 4)),
        ([3, 1, 2, 4], 2, (2, 1, 4, 3)),
        ([4, 3, 2], 1, (1, 4, 2, 3)),
        ([1, 1, 1, 2, 3], 4, (2, 3, 1, 4)),
        ([2, 3, 1], 3, (3, 2, 4, 1)),
    ]
    cases = []
    for frames, past, (b, c, h, w) in asked:
        clip = _clip(rng, b, c, sum(frames), h, w)
        cases.append({"pieces": [part.clone() for part in clip.split(frames, 2)], "past": past})
    wide = [piece.double() for piece in cases[4]["pieces"]]
    return [*cases, {"pieces": wide, "past": 3}]


def _copies(piece, past):
    return repeat(piece[:, :, :1], "b c 1 h w -> b c past h w", past=past)


def _halos(halo_of, first=lambda pieces, past: _copies(pieces[0], past)):
    """Build an answer from what a piece gets of the one before it and its whole."""

    def answer(pieces, past):
        halo = first(pieces, past)
        extended = []
        for i, piece in enumerate(pieces):
            if i:
                halo = halo_of(pieces[i - 1], extended[-1], past)
            extended.append(torch.cat([halo, piece], dim=2))
        return extended

    return answer


def _filled(piece, whole, past):
    """Return the last frames of a piece, and copies of its first one if it is too short."""
    last = piece[:, :, -past:]
    return torch.cat([_copies(last, past - last.shape[2]), last], dim=2)


def _future(pieces, past):
    """Take what is missing from the piece after."""
    clip = torch.cat(pieces, dim=2)
    clip = torch.cat([clip, repeat(clip[:, :, -1:], "b c 1 h w -> b c past h w", past=past)], dim=2)
    ends = torch.tensor([piece.shape[2] for piece in pieces]).cumsum(0).tolist()
    lengths = [piece.shape[2] + past for piece in pieces]
    return [
        clip[:, :, end + past - length : end + past]
        for end, length in zip(ends, lengths, strict=True)
    ]


def _halos_alone(pieces, past):
    return [x[:, :, :past] for x in context_parallel.extend_pieces(pieces, past)]


def _ring(pieces, past):
    """Give the first rank the end of the clip."""
    clip = torch.cat(pieces, dim=2)
    first = _from_the_end(clip, past)
    return _halos(_last_frames, lambda pieces, past: first)(pieces, past)


def _last_frames(piece, whole, past):
    return whole[:, :, -past:]


def _each_by_itself(pieces, past):
    return [torch.cat([_copies(piece, past), piece], dim=2) for piece in pieces]


def _appended(pieces, past):
    extended = context_parallel.extend_pieces(pieces, past)
    return [torch.cat([x[:, :, past:], x[:, :, :past]], dim=2) for x in extended]


CONTEXT_PARALLEL = Exercise(
    id="cogvideox.context_parallel",
    reference=context_parallel.extend_pieces,
    cases=_pieces_cases,
    gradients=("pieces",),
    equation="CogVideoX, Section 2.1",
    points=3,
    stars=3,
    minutes=15,
    misconceptions={
        "halo_detached": (
            _halos(
                lambda piece, whole, past: whole[:, :, -past:].detach(),
                lambda pieces, past: _copies(pieces[0], past).detach(),
            ),
            "The values are right, but no gradient goes back through any halo. (Nor does it in the"
            " official code: its ranks follow another gradient than one rank should.)",
        ),
        "neighbours_detached": (
            _halos(lambda piece, whole, past: whole[:, :, -past:].detach()),
            "The values are right, but the gradient of a halo does not go back to the piece whose"
            " frames it has. Keep the graph: no `detach`.",
        ),
        "copies_detached": (
            _halos(_last_frames, lambda pieces, past: _copies(pieces[0], past).detach()),
            "The values are right, but the first frame gets no gradient for its copies.",
        ),
        "each_by_itself": (
            _each_by_itself,
            "You padded every piece with its own first frame, as if each were a clip. Only the"
            " first one begins the clip; before each of the others come the last frames of the"
            " piece before.",
        ),
        "too_short": (
            _halos(lambda piece, whole, past: piece[:, :, -past:]),
            "Right where pieces are long enough. Of one shorter than `past` you pass on too few"
            " frames: before them come those that it was given itself.",
        ),
        "filled_with_copies": (
            _halos(_filled),
            "Right where pieces are long enough. You filled up the halo of a short piece with"
            " copies of its first frame; before that one come the frames of earlier pieces.",
        ),
        "first_frames": (
            _halos(lambda piece, whole, past: whole[:, :, past:][:, :, :past]),
            "You passed on the first frames of the piece before. Its last ones are next to yours.",
        ),
        "one_frame_repeated": (
            _halos(lambda piece, whole, past: _copies(piece[:, :, -1:], past)),
            "You repeated the last frame of the piece before. The halo is its last `past` frames,"
            " each once; only the clip's first frame is repeated.",
        ),
        "clip_start_for_all": (
            _halos(lambda piece, whole, past: whole[:, :, :past]),
            "You gave every piece copies of the clip's first frame. Only the first piece gets"
            " them; the others the last frames of the piece before.",
        ),
        "whole_neighbour": (
            _halos(lambda piece, whole, past: piece),
            "You passed on the whole piece before. A convolution needs its last `past` frames;"
            " passing on more is what context parallelism avoids.",
        ),
        "zeros_first": (
            _halos(_last_frames, lambda pieces, past: 0 * _copies(pieces[0], past)),
            "The first piece has zeros before it. It gets copies of the clip's first frame, as in"
            " `causal_padding`.",
        ),
        "first_without": (
            _halos(
                lambda piece, whole, past: whole[:, :, -past:],
                lambda pieces, past: pieces[0][:, :, :0],
            ),
            "Your first piece has nothing before it. It gets `past` copies of the clip's first"
            " frame.",
        ),
        "one_too_many": (
            lambda pieces, past: context_parallel.extend_pieces(pieces, past + 1),
            "Your halo has one frame too many: `past` is kernel - 1 already.",
        ),
        "one_too_few": (
            lambda pieces, past: [
                x[:, :, 1:] for x in context_parallel.extend_pieces(pieces, past)
            ],
            "Your halo has one frame too few: `past` is kernel - 1 already.",
        ),
        "ring": (
            _ring,
            "You gave the first rank the end of the clip, as if the ranks stood in a circle. Before"
            " the first frame come its copies.",
        ),
        "future": (
            _future,
            "You gave each piece the frames after it. A causal convolution sees earlier ones only.",
        ),
        "appended": (
            _appended,
            "The halos are right, but after the pieces. They come before them.",
        ),
        "reversed": (
            _halos(
                lambda piece, whole, past: (
                    whole[:, :, -past:].flip(2) if piece.shape[2] >= past else whole[:, :, -past:]
                )
            ),
            "Your halos run backwards. Their frames stay in the order of the clip.",
        ),
        "halos_alone": (
            _halos_alone,
            "Those are only the halos. Return each with its piece after it.",
        ),
        "joined": (
            lambda pieces, past: torch.cat(context_parallel.extend_pieces(pieces, past), dim=2),
            "You joined the pieces. Every rank keeps its own: return a list of tensors.",
        ),
    },
)


# ---------------------------------------------------------------- patchify


def _latent_clips(rng):
    """Draw wide and high latents, an image, patches of 1 to 4; the chapter's; float64."""
    asked = [
        ((2, 3, 5, 4, 8), 2),
        ((3, 2, 4, 9, 6), 3),
        ((1, 4, 2, 3, 5), 1),
        ((2, 1, 3, 8, 6), 2),
        ((1, 3, 2, 4, 12), 4),
        ((2, 5, 4, 8, 8), 2),
    ]
    cases = [{"latents": _clip(rng, *shape), "patch": patch} for shape, patch in asked]
    return [*cases, {"latents": _clip(rng, 1, 2, 3, 6, 4, dtype=torch.float64), "patch": 2}]


def _cut(pattern):
    """Build patchify by another pattern."""
    return lambda latents, patch: rearrange(latents, pattern, p=patch, q=patch)


def _in_memory_order(latents, patch):
    b, _, c, _, _ = latents.shape
    return latents.reshape(b, -1, c * patch**2)


def _frames_for_channels(latents, patch):
    return rearrange(latents, "b c t (h p) (w q) -> b (t h w) (c p q)", p=patch, q=patch)


PATCHIFY = Exercise(
    id="cogvideox.patchify",
    reference=cogvideox.patchify,
    cases=_latent_clips,
    equation="CogVideoX, Section 2.2",
    points=1,
    stars=1,
    minutes=5,
    misconceptions={
        "channels_last": (
            _cut("b t c (h p) (w q) -> b (t h w) (p q c)"),
            "You flattened a patch place by place, as chapter 02's. Here it goes channel by"
            " channel: (c p q).",
        ),
        "columns_of_a_patch": (
            _cut("b t c (h p) (w q) -> b (t h w) (c q p)"),
            "Within a channel you went column by column. A square goes row by row: (c p q).",
        ),
        "column_by_column": (
            _cut("b t c (h p) (w q) -> b (t w h) (c p q)"),
            "The tokens of a frame go column by column. They go row by row: (t h w).",
        ),
        "place_by_place": (
            _cut("b t c (h p) (w q) -> b (h w t) (c p q)"),
            "You put the frames of one place side by side. Tokens go frame by frame: (t h w).",
        ),
        "strided": (
            _cut("b t c (p h) (q w) -> b (t h w) (c p q)"),
            "Your tokens gather numbers that lie far apart. Those of a patch are neighbours: the"
            " rows split as (h p), the patch's own last.",
        ),
        "in_memory_order": (
            _in_memory_order,
            "`reshape` alone cuts the memory into runs, not squares. Split height and width, then"
            " move the axes.",
        ),
        "frames_apart": (
            _cut("b t c (h p) (w q) -> b t (h w) (c p q)"),
            "The patches are right, but the frames still have an axis of their own. The"
            " transformer reads one sequence: b (t h w).",
        ),
        "frames_in_the_batch": (
            _cut("b t c (h p) (w q) -> (b t) (h w) (c p q)"),
            "You put the frames into the batch: they would not see each other. They go into the"
            " sequence: b (t h w).",
        ),
        "not_flattened": (
            _cut("b t c (h p) (w q) -> b (t h w) c p q"),
            "The patches are right. Flatten each into one token: (c p q).",
        ),
        "channels_are_tokens": (
            _cut("b t c (h p) (w q) -> b (t c h w) (p q)"),
            "Every channel became a token of its own. A token has all channels of its square.",
        ),
        "frames_for_channels": (
            _frames_for_channels,
            "You took the second axis for the channels. Latents come as (b t c h w): frames, then"
            " channels.",
        ),
        "pixels_are_tokens": (
            _cut("b t c (h p) (w q) -> b (t h p w q) c"),
            "Every place became a token. Those of a `patch` x `patch` square are one.",
        ),
        "turned": (
            _cut("b t c (h p) (w q) -> b (c p q) (t h w)"),
            "Tokens and their numbers have changed places: b (t h w) (c p q).",
        ),
    },
)


# ---------------------------------------------------------------- rope_angles


def _position_cases(rng):
    """Draw positions of a sequence, of a batch, of one token; far and negative ones; the chapter's.

    One is the grid of 5 latents of 8 x 8, in patches of 2 x 2.
    """
    grid = cogvideox.coordinates((5, 4, 4))
    shapes = [((7, 3), 16), ((2, 5, 3), 32), ((3,), 48), ((4, 3), 64)]
    cases = [
        {"positions": 12 * torch.rand(shape, generator=rng) - 2, "width": width}
        for shape, width in shapes
    ]
    rows = torch.tensor([[0.0, 0.0, 0.0], [1.0, 2.0, 4.0], [0.5, -3.0, 1000.0]])
    return [*cases, {"positions": rows, "width": 64}, {"positions": grid, "width": 64}]


def _rope(frequencies_of=None, shares=(2, 3, 3), order=(0, 1, 2)):
    """Build rope_angles with other frequencies, shares in eighths or order of the axes."""
    of = frequencies_of or (lambda m, width: rope.THETA ** (-torch.arange(0, m, 2) / m))

    def answer(positions, width):
        parts = [
            positions[..., axis, None] * of(share * width // 8, width)
            for axis, share in zip(order, shares, strict=True)
        ]
        return torch.cat(parts, dim=-1)

    return answer


def _thirds(positions, width):
    """Share the pairs as equally as can be; height and width get what is left over."""
    pairs = width // 2
    sizes = [pairs // 3, (pairs + 1) // 3, (pairs + 2) // 3]
    parts = [
        positions[..., axis, None] * rope.THETA ** (-torch.arange(size) / size)
        for axis, size in enumerate(sizes)
    ]
    return torch.cat(parts, dim=-1)


def _one_spectrum(positions, width):
    """Let the frequencies fall on through all three shares."""
    frequencies = rope.THETA ** (-torch.arange(0, width, 2) / width)
    sizes = [width // 8, 3 * width // 16, 3 * width // 16]
    parts = frequencies.split(sizes)
    return torch.cat([positions[..., i, None] * part for i, part in enumerate(parts)], dim=-1)


def _after_rope(change):
    return lambda positions, width: change(rope.rope_angles_3d(positions, width))


ROPE_ANGLES = Exercise(
    id="cogvideox.rope_angles",
    reference=rope.rope_angles_3d,
    cases=_position_cases,
    equation="CogVideoX, Section 2.2; RoFormer, Eq. 15",
    points=2,
    stars=2,
    minutes=12,
    tolerance=1e-5,
    misconceptions={
        "time_last": (
            _rope(shares=(3, 3, 2), order=(1, 2, 0)),
            "You put time last. The paper names it last, but the angles come in the order time,"
            " row, column.",
        ),
        "papers_order": (
            _rope(shares=(3, 3, 2), order=(2, 1, 0)),
            "That is the order in which the paper names them: x, y, t. The released weights have"
            " time, row, column.",
        ),
        "column_before_row": (
            _rope(order=(0, 2, 1)),
            "Row and column have changed places. The order is time, row, column.",
        ),
        "shares_turned": (
            _rope(shares=(3, 3, 2)),
            "The order is right, but time has 3/8 and the column 2/8. Time has the smallest share:"
            " 2/8, 3/8, 3/8.",
        ),
        "thirds": (
            _thirds,
            "You shared the numbers equally. Time gets 2/8 of them, row and column 3/8 each.",
        ),
        "frequencies_of_the_whole": (
            _rope(lambda m, width: rope.THETA ** (-torch.arange(0, m, 2) / width)),
            "You divided by the width of the head. Each share has frequencies of its own: divide by"
            " the share's m numbers.",
        ),
        "one_spectrum": (
            _one_spectrum,
            "Your frequencies fall on from one share to the next, so that row and column have slow"
            " ones only. Each share begins again at i = 0.",
        ),
        "i_for_2i": (
            _rope(lambda m, width: rope.THETA ** (-torch.arange(m // 2) / m)),
            "Your exponent is -i/m. It is -2i/m: pairs take two numbers each, and the slowest is"
            " near 1/10000.",
        ),
        "sign": (
            _rope(lambda m, width: rope.THETA ** (torch.arange(0, m, 2) / m)),
            "Your frequencies rise to 10000 turns. The exponent is negative: they fall from 1.",
        ),
        "to_the_end": (
            _rope(
                lambda m, width: rope.THETA ** (-torch.arange(m // 2) / max(m // 2 - 1, 1)),
            ),
            "Your slowest pair turns by exactly 1/10000: you divided by one pair less, as the"
            " embedding of a step in DDPM does. It is -2i/m.",
        ),
        "every_angle_twice": (
            _after_rope(lambda angles: angles.repeat_interleave(2, dim=-1)),
            "You have every angle twice, one for each number. A pair shares one: `width` / 2.",
        ),
        "sines_and_cosines": (
            _after_rope(lambda angles: torch.cat([angles.sin(), angles.cos()], dim=-1)),
            "Those are sines and cosines. The angles themselves are wanted.",
        ),
        "wrapped": (
            _after_rope(lambda angles: angles % (2 * math.pi)),
            "You took the angles between 0 and 2 pi. They turn alike, but the formula's own are"
            " wanted, which may be beyond.",
        ),
        "degrees": (
            _after_rope(torch.rad2deg),
            "Those are degrees. Angles are in radians, as `sin` and `cos` take them.",
        ),
        "turns": (
            _after_rope(lambda angles: 2 * math.pi * angles),
            "You multiplied by 2 pi. The formula gives radians already.",
        ),
        "pairs_backwards": (
            _rope(lambda m, width: rope.THETA ** (-torch.arange(0, m, 2).flip(0) / m)),
            "Within a share your slowest pair comes first. Pair i = 0 is the fastest: it turns by"
            " the position itself.",
        ),
        "whole_positions": (
            lambda positions, width: rope.rope_angles_3d(positions.round(), width),
            "You rounded the positions. They may lie between the whole numbers.",
        ),
    },
)


# ---------------------------------------------------------------- rotate


def _head_cases(rng):
    """Draw queries with angles for all and for each of a batch; beyond a turn; a text's zeros.

    The chapter's have 24 tokens of text and 80 of a clip in 2 heads of 64 numbers.
    """
    angles = F.pad(rope.rope_angles_3d(cogvideox.coordinates((5, 4, 4)), 64), (0, 0, 24, 0))
    cases = []
    for b, n, heads, d, each in [
        (2, 5, 3, 8, False),
        (3, 4, 1, 6, True),
        (1, 6, 4, 2, False),
        (2, 3, 5, 10, True),
        (4, 1, 2, 6, False),
    ]:
        shape = (b, n, d // 2) if each else (n, d // 2)
        own = 9 * torch.rand(shape, generator=rng) - 1
        cases.append({"x": torch.randn(b, n, heads, d, generator=rng), "angles": own})
    cases.append({"x": torch.randn(2, 104, 2, 64, generator=rng), "angles": angles})
    cases.append({"x": torch.randn(2, 3, 4, 6, generator=rng), "angles": torch.zeros(3, 3)})
    return [*cases, {name: value.double() for name, value in cases[3].items()}]


def _pairs(x):
    return x[..., 0::2], x[..., 1::2]


def _turn(make, cos_sin=lambda angles: (angles.cos(), angles.sin())):
    """Build rotate from (even, odd, cos, sin) to the two rows of pairs that it interleaves."""

    def answer(x, angles):
        cos, sin = cos_sin(angles[..., None, :])
        return torch.stack(make(*_pairs(x), cos, sin), dim=-1).flatten(-2)

    return answer


def _halves(x, angles):
    """Pair number i with number i + d/2."""
    a, b = x.chunk(2, dim=-1)
    cos, sin = angles[..., None, :].cos(), angles[..., None, :].sin()
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)


def _left_as_halves(x, angles):
    even, odd = _pairs(rope.rotate(x, angles))
    return torch.cat([even, odd], dim=-1)


def _angles_as_halves(x, angles):
    """Turn neighbours by angles that are laid out for halves."""
    cos, sin = (torch.cat([y, y], dim=-1)[..., None, :] for y in (angles.cos(), angles.sin()))
    even, odd = _pairs(x)
    partner = torch.stack([-odd, even], dim=-1).flatten(-2)
    return x * cos + partner * sin


def _of_two_axes(x, angles):
    """Put the heads' axis where it is right for angles (n half) alone."""
    cos, sin = angles[:, None].cos(), angles[:, None].sin()
    even, odd = _pairs(x)
    return torch.stack([even * cos - odd * sin, even * sin + odd * cos], dim=-1).flatten(-2)


ROTATE = Exercise(
    id="cogvideox.rotate",
    reference=rope.rotate,
    cases=_head_cases,
    gradients=("x",),
    equation="RoFormer, Eq. 34",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "halves": (
            _halves,
            "You paired number i with number i + d/2. (Some language models do.) CogVideoX's pairs"
            " are neighbours, 2i and 2i + 1; its weights fit no other.",
        ),
        "clockwise": (
            edit("angles), angles)", "angles), -angles)"),
            "You turned the other way. Counter-clockwise, the first number of a pair loses sin"
            " times the second.",
        ),
        "left_as_halves": (
            _left_as_halves,
            "The pairs are turned right, but all first numbers stand before all second ones. Put"
            " them back as neighbours: `stack` and `flatten`.",
        ),
        "angles_as_halves": (
            _angles_as_halves,
            "Your pairs are neighbours, but you laid the angles out twice one after the other, so"
            " that most pairs get another one's. Each angle stands twice in a row:"
            " `repeat_interleave`.",
        ),
        "mirrored": (
            _turn(lambda a, b, cos, sin: [a * cos + b * sin, a * sin - b * cos]),
            "You mirrored the pairs: a rotation has cos twice with one sign, and sin with both.",
        ),
        "both_added": (
            _turn(lambda a, b, cos, sin: [a * cos + b * sin, a * sin + b * cos]),
            "You added in both rows. In the first, sin times the second number is subtracted.",
        ),
        "both_subtracted": (
            _turn(lambda a, b, cos, sin: [a * cos - b * sin, a * sin - b * cos]),
            "You subtracted in both rows. In the second, the terms are added.",
        ),
        "sine_and_cosine_swapped": (
            _turn(lambda a, b, cos, sin: [a * sin - b * cos, a * cos + b * sin]),
            "Sine and cosine have changed places: an angle of 0 must leave everything as it is.",
        ),
        "numbers_swapped": (
            _turn(lambda a, b, cos, sin: [a * sin + b * cos, a * cos - b * sin]),
            "The two numbers of each pair have changed places.",
        ),
        "turned_one_after_the_other": (
            _turn(
                lambda a, b, cos, sin: [
                    a * cos - b * sin,
                    (a * cos - b * sin) * sin + b * cos,
                ]
            ),
            "The second row used the first number after it was turned. Both need it as it was.",
        ),
        "cosine_alone": (
            _turn(lambda a, b, cos, sin: [a * cos, b * cos]),
            "You multiplied by the cosine alone, which shrinks. The other number of the pair comes"
            " in by the sine.",
        ),
        "scaled_by_the_angle": (
            _turn(
                lambda a, b, cos, sin: [a * cos - b * sin, a * sin + b * cos],
                lambda angles: (1 - angles**2 / 2, angles),
            ),
            "You took 1 - x^2/2 for the cosine and x for the sine: right near 0 alone.",
        ),
        "twice_as_far": (
            edit("angles), angles)", "angles), 2 * angles)"),
            "You turned twice as far. The angle is the one given.",
        ),
        "half_as_far": (
            edit("angles), angles)", "angles), angles / 2)"),
            "You turned half as far. The angle is the one given.",
        ),
        "degrees": (
            edit("angles), angles)", "angles), angles.deg2rad())"),
            "You took the angles for degrees. They are radians.",
        ),
        "shared_angles_alone": (
            _of_two_axes,
            "Right for angles (n d/2) alone. Those of a batch have an axis more before: put the"
            " heads' axis second to last, `angles[..., None, :]`.",
        ),
        "angles_of_the_first": (
            lambda x, angles: rope.rotate(x, angles[0] if angles.ndim == 3 else angles),
            "You turned the whole batch by the first one's angles. With (b n d/2), each has its"
            " own.",
        ),
        "detached": (
            lambda x, angles: rope.rotate(x.detach(), angles),
            "The values are right, but no gradient flows back to `x`. Queries and keys are"
            " learned through the rotation.",
        ),
    },
)

EXERCISES = [
    LATENT_SHAPE,
    CAUSAL_PADDING,
    TEMPORAL_POOL,
    CONTEXT_PARALLEL,
    PATCHIFY,
    ROPE_ANGLES,
    ROTATE,
]
