"""Notebook 05, first half, MAGVIT: inflation, borders, LeCam, the ten tasks, COMMIT, decoding."""

import functools
import math

import torch
import torch.nn.functional as F

from course_lib.checking import Exercise, edit
from course_lib.lm import maskgit
from course_lib.losses import adversarial
from course_lib.nn import conv3d
from course_lib.papers import magvit, magvit_tokenizer

# ---------------------------------------------------------------- inflate


def _kernel_cases(rng):
    """Draw kernels for odd and even numbers of frames, for a single one, and in float64.

    The chapter inflates a (4 3 3 3) kernel to 3 frames.
    """
    # o i h w frames
    sizes = [(2, 3, 4, 1, 5), (4, 3, 3, 3, 3), (3, 2, 1, 5, 8), (4, 1, 2, 3, 2), (2, 4, 3, 5, 1)]
    cases = [{"kernel": torch.randn(size[:4], generator=rng), "frames": size[4]} for size in sizes]
    wide = torch.randn(1, 2, 3, 4, generator=rng, dtype=torch.float64)
    return [*cases, {"kernel": wide, "frames": 7}]


INFLATE = Exercise(
    id="magvit.inflate",
    reference=magvit_tokenizer.inflate_central,
    cases=_kernel_cases,
    equation="MAGVIT, Section 3.1 and Table 7 (central inflation)",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "first_frame": (
            edit("frames // 2]", "0]"),
            "The kernel is at the first frame, so every frame of the result shows one that came"
            " before it. Central inflation puts it in the middle, at frames // 2.",
        ),
        "last_frame": (
            edit("frames // 2]", "-1]"),
            "The kernel is at the last frame. That is MAGVIT-v2's inflation, whose convolutions"
            " look back; here the middle of the kernel meets the frame itself: frames // 2.",
        ),
        "earlier_middle": (
            edit("frames // 2]", "(frames - 1) // 2]"),
            "An even number of frames has two in the middle. Take the later one, frames // 2; yours"
            " has the kernel at the earlier.",
        ),
        "one_early": (
            edit("frames // 2]", "frames // 2 - 1]"),
            "Your kernel is one frame too early. Counted from 0, the middle one is frames // 2:"
            " number 1 of 3.",
        ),
        "one_late": (
            edit("frames // 2]", "frames // 2 + 1]"),
            "Your kernel is one frame too late. Counted from 0, the middle one is frames // 2:"
            " number 1 of 3.",
        ),
        "everywhere": (
            edit("frames // 2] = kernel", ":] = kernel[:, :, None]"),
            "The kernel is at every frame, undivided, so what does not move comes out `frames`"
            " times too strong. Section 3.1 fills only the middle frame.",
        ),
        "average": (
            edit("frames // 2] = kernel", ":] = kernel[:, :, None] * (1 / frames)"),
            "That is average inflation, the other row of Table 7: it blurs what moves. Central"
            " inflation fills only the middle frame, undivided.",
        ),
        "divided": (
            edit("] = kernel", "] = kernel * (1 / frames)"),
            "The place is right, but you divided by the number of frames. Nothing else adds to the"
            " sum here, so the kernel stays as it was.",
        ),
        "frames_last": (
            edit("return inflated", "return inflated.movedim(2, -1)"),
            "The numbers are right, but the axis of frames is last. A kernel of `conv3d` is (o i t"
            " h w).",
        ),
        "frames_first": (
            edit("return inflated", "return inflated.movedim(2, 0)"),
            "The numbers are right, but the axis of frames is first. A kernel of `conv3d` is (o i t"
            " h w).",
        ),
        "no_frames": (
            lambda kernel, frames: kernel[:, :, None],
            "Your kernel has a single frame. It needs `frames` of them: zeros, and the kernel in"
            " the middle one.",
        ),
        "middle_column": (
            edit(
                "[:, :, frames // 2] = kernel",
                "[..., kernel.shape[-1] // 2] = kernel[:, :, None, :, kernel.shape[-1] // 2]",
            ),
            "You kept the middle column of the width and filled every frame. It is the axis of"
            " frames that has one filled place. (ViViT's published code had the same slip.)",
        ),
    },
)


# ---------------------------------------------------------------- reflect_padding


def _border_cases(rng):
    """Draw clips with a different pad on each axis, and none on some or on all.

    In two of them a whole row or column is mirrored, one has a single frame, one is in float64.
    The chapter pads frames of 32 x 32 by four pixels.
    """
    cases = [
        ((2, 3, 4, 5, 6), (1, 2, 3)),
        ((1, 2, 5, 7, 5), (3, 0, 1)),
        ((3, 1, 2, 4, 6), (1, 3, 2)),
        ((2, 2, 1, 4, 5), (0, 2, 4)),
        ((1, 2, 3, 4, 2), (0, 0, 0)),
        ((1, 3, 2, 32, 32), (0, 4, 4)),
    ]
    drawn = [{"x": torch.randn(shape, generator=rng), "pad": pad} for shape, pad in cases]
    wide = torch.randn(2, 1, 4, 6, 5, generator=rng, dtype=torch.float64)
    return [*drawn, {"x": wide, "pad": (2, 3, 2)}]


def _padded_with(ends):
    """Build reflect_padding with other ends: ends(x, axis, p) gives what comes before and after."""

    def answer(x, pad):
        for axis, p in zip((2, 3, 4), pad, strict=True):
            before, after = ends(x, axis, p)
            x = torch.cat([before, x, after], dim=axis)
        return x

    return answer


def _mirror_images(x, axis, p):
    """Return the reference's ends: the border is the mirror."""
    before = x.narrow(axis, 1, p).flip(axis)
    after = x.narrow(axis, x.shape[axis] - 1 - p, p).flip(axis)
    return before, after


def _mirror_images_with_border(x, axis, p):
    return x.narrow(axis, 0, p).flip(axis), x.narrow(axis, x.shape[axis] - p, p).flip(axis)


def _mirror_images_not_flipped(x, axis, p):
    return tuple(end.flip(axis) for end in _mirror_images(x, axis, p))


def _mirror_images_swapped(x, axis, p):
    return _mirror_images(x, axis, p)[::-1]


REFLECT_PADDING = Exercise(
    id="magvit.reflect_padding",
    reference=conv3d.reflect_pad,
    cases=_border_cases,
    equation="MAGVIT, Section 3.1 and Appendix A (padding)",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "border_twice": (
            _padded_with(_mirror_images_with_border),
            "You repeat the border: 0 1 2 became 0 0 1 for a pad of 1. The border is the mirror"
            " itself, so the mirror image begins with its neighbour: 1 0 1.",
        ),
        "replicated": (
            edit('mode="reflect"', 'mode="replicate"'),
            "You continued with the border's value, p times. MAGVIT pads conditions of outpainting"
            " that way; its layers reflect: 2 1 0 1 2 for a pad of 2.",
        ),
        "zeros": (
            edit('mode="reflect"', 'mode="constant"'),
            "You padded with zeros, which tell every layer where the border is, so the same content"
            " gets other tokens there. (MAGVIT's published code does so by default.) Section 3.1"
            " reflects.",
        ),
        "circular": (
            edit('mode="reflect"', 'mode="circular"'),
            "You continued with what is at the other end. A mirror shows what is at the same end.",
        ),
        "not_flipped": (
            _padded_with(_mirror_images_not_flipped),
            "You took the right pieces but did not turn them round: next to the border comes its"
            " neighbour, then the one after that. `flip` them along their axis.",
        ),
        "front_alone": (
            edit("(w, w, h, h, t, t)", "(w, 0, h, 0, t, 0)"),
            "You padded only at the start. A kernel with its middle on the last place extends past"
            " the end, too.",
        ),
        "behind_alone": (
            edit("(w, w, h, h, t, t)", "(0, w, 0, h, 0, t)"),
            "You padded only at the end. A kernel with its middle on the first place extends before"
            " the start, too.",
        ),
        "space_alone": (
            edit("(w, w, h, h, t, t)", "(w, w, h, h, 0, 0)"),
            "You padded only rows and columns. The first number of `pad` is for the frames.",
        ),
        "ends_swapped": (
            _padded_with(_mirror_images_swapped),
            "Each end got the mirror image of the other one. What comes before the first place is"
            " near the first place.",
        ),
        "axes_reversed": (
            edit("(w, w, h, h, t, t)", "(t, t, h, h, w, w)"),
            "The pads of frames and columns have changed places. `F.pad` counts from the last axis,"
            " `pad` is (frames, rows, columns).",
        ),
    },
)


# ---------------------------------------------------------------- lecam


# Real logits, fake ones, and their moving averages: on both sides of the averages, and exactly at
# them; one of each, as the chapter calls it, and single numbers.
LECAM_LOGITS = [
    ([1.6, -0.9, 0.4, 2.3, -0.3, 0.9], [0.1, -1.2, 1.4, 0.5], 0.5, -0.3),
    ([[0.9, -0.6, 1.7], [0.2, 2.4, -1.1]], [[1.9], [-0.7], [1.4], [0.3], [-1.8]], 1.4, 0.2),
    ([-0.9, -0.2, 0.7], [0.3, 1.2, -0.6, 0.8], -0.2, 0.4),  # the two have changed sides
    ([2.5], [-9.0], 1.0, -1.0),
    (1.3, -0.8, 0.6, 0.1),
]


def _lecam_cases(rng):
    """Draw logits of other numbers of real and fake clips, the last case in float64."""
    cases = []
    for *logits, ema_real, ema_fake in LECAM_LOGITS:
        real, fake = (torch.tensor(side) for side in logits)
        real, fake = (
            side + 0.05 * torch.rand(side.shape, generator=rng) * (side - other).sign()
            for side, other in ((real, ema_fake), (fake, ema_real))  # a tie stays one
        )
        cases.append({"real": real, "fake": fake, "ema_real": ema_real, "ema_fake": ema_fake})
    wide = {name: cases[0][name].double() for name in ("real", "fake")}
    return [*cases, {**wide, "ema_real": 0.2, "ema_fake": -0.4}]


def _one_mean_of_all(real, fake, ema_real, ema_fake):
    penalties = F.relu(real - ema_fake).square(), F.relu(ema_real - fake).square()
    return torch.cat([each.flatten() for each in penalties]).mean()


LECAM = Exercise(
    id="magvit.lecam",
    reference=adversarial.lecam_penalty,
    cases=_lecam_cases,
    gradients=("real", "fake"),
    equation="LeCam, Eq. 8, with its code's cut at 0; MAGVIT, Section 3.1",
    points=2,
    stars=1,
    minutes=6,
    misconceptions={
        "own_side": (
            edit("real - ema_fake", "real - ema_real", "ema_real - fake)", "ema_fake - fake)"),
            "Each logit is measured against the average of its own side. Eq. 8 crosses them: real"
            " ones against ema_fake, fakes against ema_real, so that the discriminator pays for"
            " telling them apart too well.",
        ),
        "turned_round": (
            edit("real - ema_fake", "ema_fake - real", "ema_real - fake)", "fake - ema_real)"),
            "The differences are the wrong way round, so you punish the logits that are already on"
            " the wrong side. Real ones are pulled down: D(x) - ema_fake; fakes up: ema_real -"
            " D(x^).",
        ),
        "not_cut": (
            edit(
                "F.relu(real - ema_fake)",
                "(real - ema_fake)",
                "F.relu(ema_real - fake)",
                "(ema_real - fake)",
            ),
            "That is Eq. 8 as the paper has it. Its code, and this exercise, cut the differences"
            " off at 0 before squaring: a logit that has passed the other side's average is left as"
            " it is.",
        ),
        "not_squared": (
            edit(
                "F.relu(real - ema_fake).square()",
                "F.relu(real - ema_fake)",
                "F.relu(ema_real - fake).square()",
                "F.relu(ema_real - fake)",
            ),
            "The square is missing: Eq. 8 punishes large distances more than in proportion.",
        ),
        "real_alone": (
            edit("F.relu(ema_real - fake).square().mean()", "0 * fake.mean()"),
            "That is the term of the real logits. Eq. 8 has a second one for the fakes.",
        ),
        "fakes_with_the_same_sign": (
            edit("ema_real - fake)", "fake - ema_real)"),
            "The real logits are right. The fakes are below the average of the real ones, and their"
            " distance to it is ema_real - D(x^).",
        ),
        "half": (
            lambda real, fake, ema_real, ema_fake: (
                adversarial.lecam_penalty(real, fake, ema_real, ema_fake) / 2
            ),
            "You halved the sum. The hinge loss of VQGAN has a half, Eq. 8 has none.",
        ),
        "one_mean": (
            _one_mean_of_all,
            "You averaged real and fake logits together. Eq. 8 has two means, and adds them up.",
        ),
        "mean_first": (
            edit(
                "F.relu(real - ema_fake).square().mean()",
                "F.relu(real.mean() - ema_fake).square()",
                "F.relu(ema_real - fake).square().mean()",
                "F.relu(ema_real - fake.mean()).square()",
            ),
            "You averaged the logits first. Every logit has a distance of its own: cut, square,"
            " then take the mean.",
        ),
        "averages_of_the_batch": (
            edit(
                "real - ema_fake", "real - fake.mean()", "ema_real - fake)", "real.mean() - fake)"
            ),
            "You took the means of this batch. Eq. 8 has the moving averages of past batches,"
            " ema_real and ema_fake, which change slowly and carry no gradient.",
        ),
    },
)


# ---------------------------------------------------------------- task_masks

# The chapter's tokens, and sides that have no half or quarter.
GRIDS = [(4, 8, 8), (3, 7, 9), (6, 10, 11)]


def _task_cases(rng):
    """Ask for every task on every grid, and for the windows that move on the chapter's pixels."""
    cases = [{"task": task, "grid": grid} for grid in GRIDS for task in magvit.TASKS]
    return [*cases, *({"task": task, "grid": (16, 32, 32)} for task in ("OPC", "OPD", "IPD"))]


def _still_windows(middle):
    """Build task_masks with another window for the tasks whose window does not move.

    middle(n) gives the first place of the window on an axis of n places, and the one after its
    last.
    """

    def answer(task, grid):
        if task not in ("OPC", "OPV", "OPH", "IPC"):
            return magvit.task_mask(task, grid)

        t, h, w = grid
        row = torch.arange(h)[:, None]
        column = torch.arange(w)
        top, bottom = middle(h)
        left, right = middle(w)
        rows = (row >= top) & (row < bottom)
        columns = (column >= left) & (column < right)
        masks = {"OPC": rows & columns, "OPV": columns, "OPH": rows, "IPC": ~(rows & columns)}
        return masks[task].expand(t, h, w).clone()

    return answer


INPAINTING_INVERTED = (
    '"IPC": ~(middle_rows & middle_columns)',
    '"IPC": middle_rows & middle_columns',
    '"IPD": ~(middle_rows & strip)',
    '"IPD": middle_rows & strip',
)
OUTPAINTING_INVERTED = (
    '"OPC": middle_rows & middle_columns',
    '"OPC": ~(middle_rows & middle_columns)',
    '"OPV": middle_columns',
    '"OPV": ~middle_columns',
    '"OPH": middle_rows',
    '"OPH": ~middle_rows',
    '"OPD": strip',
    '"OPD": ~strip',
)

TASK_MASKS = Exercise(
    id="magvit.task_masks",
    reference=magvit.task_mask,
    cases=_task_cases,
    equation="MAGVIT, Section 3.2, Appendix B.1 and Table 12",
    points=4,
    stars=3,
    minutes=15,
    misconceptions={
        "true_is_generated": (
            edit("masks[task].expand", "(~masks[task]).expand"),
            "Your masks are True where something is to be generated. True is what is given:"
            " Appendix B.1 says where the condition is.",
        ),
        "vertical_and_horizontal_swapped": (
            edit(
                '"OPV": middle_columns',
                '"OPV": middle_rows',
                '"OPH": middle_rows',
                '"OPH": middle_columns',
            ),
            "OPV and OPH have changed places. A vertical strip is upright: it has all rows and the"
            " middle half of the columns.",
        ),
        "inpainting_not_inverted": (
            edit(*INPAINTING_INVERTED),
            "Inpainting is given the inside of its box in your masks. It has to fill the box:"
            " everything else is given.",
        ),
        "outpainting_inverted": (
            edit(*OUTPAINTING_INVERTED),
            "Outpainting is given the outside in your masks. It has to continue outwards: the"
            " window is given.",
        ),
        "all_windows_inverted": (
            edit(*INPAINTING_INVERTED, *OUTPAINTING_INVERTED),
            "Outpainting and inpainting have changed places: outpainting (OP) is given the window"
            " and makes the rest, inpainting (IP) is given the rest and fills the window.",
        ),
        "interpolation_without_the_last": (
            edit(" | (frame == t - 1)", ""),
            "Frame interpolation (FI) is given the last frame as well as the first: something to"
            " arrive at.",
        ),
        "prediction_with_the_last": (
            edit(
                '"FP": frame == 0',
                '"FP": (frame == 0) | (frame == t - 1)',
                '"CFP": frame == 0',
                '"CFP": (frame == 0) | (frame == t - 1)',
            ),
            "Frame prediction (FP, CFP) is given only the first frame. With the last one it would"
            " be interpolation.",
        ),
        "quarter_window": (
            _still_windows(lambda n: (n * 3 // 8, n * 5 // 8)),
            "Your window is a quarter as high and wide as the clip. It is half as high and half as"
            " wide: from h // 4 to h * 3 // 4, which for OPC is a quarter of the places (Table"
            " 12).",
        ),
        "window_in_the_corner": (
            _still_windows(lambda n: (0, n // 2)),
            "Your window has the right size, but it begins at 0. It is in the middle: from h // 4"
            " to h * 3 // 4.",
        ),
        "up_to_the_border": (
            _still_windows(lambda n: (n // 4, n - n // 4)),
            "Right where the sides have whole quarters. Elsewhere the window ends before h * 3 //"
            " 4, which is not h - h // 4 once both are rounded down.",
        ),
        "right_to_left": (
            edit("[round(w // 2 * i", "[w // 2 - round(w // 2 * i"),
            "Your window moves from right to left. In Appendix B.1 it starts at column 0.",
        ),
        "leaves_the_clip": (
            edit("round(w // 2 * i", "round(w * i"),
            "Your window moves out of the clip. Its left edge goes from 0 to w // 2; then its right"
            " edge is at the border and half of every frame is given (Table 12).",
        ),
        "stops_early": (
            edit("max(t - 1, 1)", "t"),
            "Your window does not arrive: in the last frame its left edge should be at w // 2. From"
            " the first frame to the last there are t - 1 steps.",
        ),
        "rounded_down": (
            edit("round(w // 2 * i / max(t - 1, 1))", "w // 2 * i // max(t - 1, 1)"),
            "The left edge is rounded down. It goes to the nearest column: `round`.",
        ),
        "stands_still": (
            edit('"OPD": strip', '"OPD": middle_columns', "& strip)", "& middle_columns)"),
            "Your dynamic windows (OPD, IPD) do not move. They go from the left border to the right"
            " one.",
        ),
        "dynamic_outpainting_of_a_box": (
            edit('"OPD": strip', '"OPD": middle_rows & strip'),
            "OPD is given a box that moves. It should be a strip as high as the clip, half of every"
            " frame (Table 12); the box is IPD's.",
        ),
        "dynamic_inpainting_of_a_strip": (
            edit("~(middle_rows & strip)", "~strip"),
            "IPD has to fill a strip as high as the clip. It should be a box of half the rows,"
            " those of OPH, and half the columns.",
        ),
        "class_task_given_all": (
            edit("frame < 0", "frame >= 0"),
            "In class-conditional generation (CG) the whole clip is given in your mask. Nothing of"
            " it is: the class comes as a token before the clip's.",
        ),
        "class_prediction_given_nothing": (
            edit('"CFP": frame == 0', '"CFP": frame < 0'),
            "CFP is frame prediction with a class: its first frame is given, as in FP.",
        ),
    },
)


# ---------------------------------------------------------------- commit_tokens


def _commit_cases(rng):
    """Draw sequences and grids, in which every kind of place occurs.

    In the later cases nothing is masked, or everything, as when decoding starts; nothing is given,
    or everything; and a batch has one clip.  The last case is as the chapter has it.
    """
    cases = []
    for shape, codes, given, masked in [
        ((3, 11), 9, None, None),
        ((2, 3, 4, 5), 30, None, None),
        ((2, 7), 5, None, True),
        ((2, 6), 7, None, False),
        ((1, 8), 4, False, None),
        ((2, 9), 6, True, None),
        ((2, 4, 8, 8), 1024, None, None),
    ]:
        code = torch.randint(0, codes, shape, generator=rng)
        other = torch.randint(1, codes, shape, generator=rng)  # never the clip's own code
        place = torch.randperm(math.prod(shape[1:]), generator=rng).view(shape[1:])
        row = torch.arange(shape[0]).view(-1, *[1] * (len(shape) - 1))
        case = {
            "codes": code,
            "condition": (code + other) % codes,
            "given": place % 2 == 0 if given is None else torch.full(shape[1:], given),
            "masked": (place // 2 + row) % 2 == 0 if masked is None else torch.full(shape, masked),
            "mask_token": codes + 9,
        }
        cases.append(case)
    cases[-1]["given"] = magvit.task_mask("OPC", (4, 8, 8))
    return cases


COMMIT_TOKENS = Exercise(
    id="magvit.commit_tokens",
    reference=magvit.commit_tokens,
    cases=_commit_cases,
    equation="MAGVIT, Eq. 2",
    points=1,
    stars=1,
    minutes=5,
    misconceptions={
        "two_ways": (
            edit("torch.where(given, condition, mask_token)", "mask_token"),
            "That is MaskGIT's masking, which knows no condition. In Eq. 2 a masked token that"
            " holds some of the condition shows the condition's code instead of [MASK].",
        ),
        "given_stays_clean": (
            edit(
                "masked, torch.where(given, condition, mask_token)", "masked & ~given, mask_token"
            ),
            "Where the condition is you show the clip's own codes. They know pixels that are not"
            " given, so the answer leaks: Eq. 2 shows the code of the padded condition there.",
        ),
        "condition_where_unmasked": (
            edit(
                "masked, torch.where(given, condition, mask_token), codes",
                "given, condition, torch.where(masked, mask_token, codes)",
            ),
            "You show the condition's code wherever something is given. Eq. 2 asks first whether a"
            " token is masked: one that is not shows itself.",
        ),
        "no_mask_token": (
            edit("torch.where(given, condition, mask_token)", "condition"),
            "Every masked token shows the condition's code, even where the condition clip is"
            " nothing but padding. There Eq. 2 has [MASK].",
        ),
        "given_turned_round": (
            edit("where(given", "where(~given"),
            "`given` is the wrong way round: True is where a token holds some of the condition."
            " There its code is shown, and [MASK] elsewhere.",
        ),
        "masked_turned_round": (
            edit("where(masked", "where(~masked"),
            "`masked` is the wrong way round: what is masked is what the transformer must not see,"
            " and what is not masked shows its own code.",
        ),
        "nothing_of_the_clip": (
            edit(
                "torch.where(masked, torch.where(given, condition, mask_token), codes)",
                "torch.where(given, condition, mask_token).expand(codes.shape)",
            ),
            "The clip's own codes appear nowhere. That is how decoding starts; in training a token"
            " that is not masked shows its own code, the third line of Eq. 2.",
        ),
        "masked_as_condition": (
            edit(
                "masked, torch.where(given, condition, mask_token), codes",
                "masked, mask_token, torch.where(given, condition, codes)",
            ),
            "The condition's codes appear where nothing is masked. In Eq. 2 they replace [MASK]:"
            " where a token is masked, and given.",
        ),
    },
)


# ---------------------------------------------------------------- mask_schedule


def _schedule_cases(rng):
    """Draw rows of several lengths; a single step; more steps than tokens; an empty row.

    The chapter takes 12 steps.  After 8 of them the cosine is 1/2: its lengths are odd here, so
    that nothing depends on how that is rounded, nor in the drawn ones.
    """
    clear = _clear_lengths(steps=7)
    drawn = [clear[i] for i in torch.randperm(len(clear), generator=rng)[:3]]
    cases = [
        (12, [1025, 257, 65]),
        (7, drawn),
        (8, [5, 31, 1, 0]),
        (1, [9, 4]),
        (2, [41]),
        (20, [7]),
    ]
    return [{"steps": steps, "n": torch.tensor(n)} for steps, n in cases]


@functools.cache
def _clear_lengths(steps):
    return [n for n in range(41, 600) if _is_far_from_whole(n, steps)]


def _is_far_from_whole(n, steps):
    shares = (_cosine(step / steps) * n % 1 for step in range(1, steps))
    return all(0.01 < share < 0.99 for share in shares)


def _cosine(r):
    return math.cos(math.pi / 2 * r)


def _at_least_one_fewer(wanted, left):
    return max(0, min(wanted, left - 1))


def _share_of_all(gamma, n, left):
    return gamma * n


def _schedule(
    gamma=_cosine,
    wanted=_share_of_all,
    whole=math.floor,
    held=_at_least_one_fewer,
    first_step=1,
):
    """Build mask_schedule with another function gamma of the share of steps that is done.

    Or with another number of wanted tokens, another rounding, another limit by what is left, or
    counted from another step on.
    """

    def counts_of(steps, n):
        left = n
        counts = []
        for step in range(first_step, first_step + steps):
            left = held(whole(wanted(gamma(step / steps), n, left)), left)
            counts.append(left)
        return counts

    return lambda steps, n: torch.tensor([counts_of(steps, each) for each in n.tolist()]).T


MASK_SCHEDULE = Exercise(
    id="magvit.mask_schedule",
    reference=maskgit.unknown_after,
    cases=_schedule_cases,
    equation="MaskGIT, Section 3.3; MAGVIT, Algorithm 1",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "linear": (
            _schedule(gamma=lambda r: 1 - r),
            "Your counts fall in equal steps. The cosine is slow at first, when next to nothing is"
            " known, and decodes most tokens at the end: gamma(r) = cos(pi / 2 r).",
        ),
        "sine": (
            _schedule(gamma=lambda r: math.sin(math.pi / 2 * r)),
            "Your share grows. r is the share of steps that is done, not what is left of them, and"
            " the function is the cosine: 1 at the start, 0 at the end.",
        ),
        "half_period": (
            _schedule(gamma=lambda r: math.cos(math.pi * r)),
            "Your cosine runs through half a period and is negative from the middle on. It ends at"
            " a quarter, where it is 0: cos(pi / 2 r).",
        ),
        "before_each_step": (
            _schedule(held=lambda wanted, left: max(0, wanted), first_step=0),
            "You count what is unknown before each step. After the first of K steps r is 1 / K,"
            " after the last it is 1 and nothing is unknown.",
        ),
        "rounded_up": (
            _schedule(whole=lambda x: math.ceil(x - 1e-9)),
            "You rounded up, as the papers write. The official code rounds down, and so does the"
            " course: `floor`.",
        ),
        "rounded": (
            _schedule(whole=round),
            "You rounded to the nearest number. The official code rounds down: `floor`.",
        ),
        "not_held": (
            _schedule(held=lambda wanted, left: wanted),
            "Right as long as there are many tokens. With few of them some of your steps decode"
            " nothing: after a step at least one fewer is unknown than before, down to 0.",
        ),
        "negative": (
            _schedule(held=lambda wanted, left: min(wanted, left - 1)),
            "Your counts fall below 0 where there are fewer tokens than steps. Once all are known,"
            " 0 are unknown.",
        ),
        "of_what_is_left": (
            _schedule(wanted=lambda gamma, n, left: gamma * left),
            "You took the share of those still unknown, so your counts fall too fast. gamma is a"
            " share of all n that were unknown at first.",
        ),
        "known_counted": (
            edit("return torch.stack", "return n - torch.stack"),
            "You count what is known after each step. The schedule says how many are still unknown:"
            " n at first, 0 at the end.",
        ),
    },
)


# ---------------------------------------------------------------- parallel_decode


def _decode_cases(rng):
    """Draw steps of decoding: in the middle, without noise, the last one, the chapter's first one.

    A row is known already, a batch has one clip, and places that are unknown hold [MASK] or an
    old guess.  Every `uniform` is well inside the interval of a code, so that rounding decides
    nothing, but for two: at 0 a first code of probability 0 is not drawn, and one is next to 1.
    """
    cases = []
    for b, n, v, forget, heat, share in [
        (5, 12, 5, 0.5, 1.5, 0.8),
        (6, 9, 7, 0.4, 0.0, 0.8),
        (2, 7, 4, 0.0, 1.0, 0.8),
        (8, 10, 3, 0.7, 0.6, 0.8),
        (1, 256, 48, 0.991, 4.125, 1.0),  # after the first of 12 steps 253 of 256 are unknown
    ]:
        unknown = torch.rand(b, n, generator=rng) < share
        if share < 1:
            unknown[:, :3] = torch.tensor([True, True, False])  # every row has some of both
        if not heat:
            unknown[-1] = False
        logits = 1.5 * torch.randn(b, n, v, generator=rng)
        logits[0, 0, 0] = -200.0
        probabilities = logits.softmax(-1)
        code = torch.multinomial(probabilities.flatten(0, 1), 1, generator=rng).view(b, n, 1)
        below = (probabilities.cumsum(-1) - probabilities).gather(-1, code)[..., 0]
        inside = 0.3 + 0.4 * torch.rand(b, n, generator=rng)
        uniform = below + inside * probabilities.gather(-1, code)[..., 0]
        uniform[0, :2] = torch.tensor([0.0, 0.9999])
        gumbel = -torch.log(-torch.log(0.001 + 0.998 * torch.rand(b, n, generator=rng)))
        tokens = torch.randint(0, v, (b, n), generator=rng)
        case = {
            "logits": logits,
            "tokens": tokens.masked_fill(unknown, v) if share == 1 or not heat else tokens,
            "unknown": unknown,
            "number": (forget * unknown.sum(1)).long(),
            "uniform": uniform,
            "noise": heat * gumbel,
        }
        cases.append(case)
    return cases


def _decode_with_guess(guess, logits, tokens, unknown, number, noise):
    """Decode with other guesses than the reference's."""
    log_p = logits.log_softmax(-1).gather(2, guess[..., None])[..., 0]
    confidence = (log_p + noise).masked_fill(~unknown, torch.inf)
    return torch.where(unknown, guess, tokens), maskgit.remask(confidence, number)


PARALLEL_DECODE = Exercise(
    id="magvit.parallel_decode",
    reference=maskgit.decode_step,
    cases=_decode_cases,
    equation="MAGVIT, Algorithm 1; MaskGIT, Section 3.2",
    points=4,
    stars=4,
    minutes=16,
    misconceptions={
        "surest_forgotten": (
            edit("(log_p + noise)", "(-log_p - noise)"),
            "You forget the guesses that are surest. The least sure ones go: the lowest ln p +"
            " noise.",
        ),
        "known_forgotten": (
            edit(".masked_fill(~unknown, torch.inf)", ""),
            "You forget tokens that were known. What is decoded once stays: give known places an"
            " infinite confidence before you look for the lowest.",
        ),
        "known_overwritten": (
            edit("torch.where(unknown, guess, tokens)", "guess"),
            "You put a guess in known places, too. A guess goes where a token is unknown; elsewhere"
            " `tokens` stay.",
        ),
        "most_probable": (
            edit(
                "draw_tokens(probabilities, uniform.flatten()).view_as(tokens)", "logits.argmax(-1)"
            ),
            "You take the most probable code everywhere. Algorithm 1 draws: the first code whose"
            " cumulative probability exceeds `uniform`.",
        ),
        "from_above": (
            edit("uniform.flatten()", "1 - uniform.flatten()"),
            "You compared with 1 - u. The guess is the first code whose cumulative probability"
            " exceeds u.",
        ),
        "reached": (
            lambda logits, tokens, unknown, number, uniform, noise: _decode_with_guess(
                (logits.softmax(-1).cumsum(-1) < uniform[..., None]).sum(-1),
                logits,
                tokens,
                unknown,
                number,
                noise,
            ),
            "You draw the first code whose cumulative probability reaches u. It has to exceed it:"
            " at u = 0 you draw code 0, even where its probability is 0.",
        ),
        "no_noise": (
            edit("log_p + noise", "log_p"),
            "The guesses are right, but the noise is missing from the confidence: without it the"
            " plain regions are always first, and samples resemble one another.",
        ),
        "noise_subtracted": (
            edit("log_p + noise", "log_p - noise"),
            "You subtracted the noise. Its distribution is lopsided, so the sign matters: ln p +"
            " noise.",
        ),
        "probability": (
            edit("log_p + noise", "log_p.exp() + noise"),
            "You added the noise to the probability. Gumbel noise belongs to its logarithm: ln p +"
            " noise.",
        ),
        "best_code": (
            edit(".gather(2, guess[..., None])[..., 0]", ".amax(-1)"),
            "Your confidence is that of the most probable code. Take the ln p of the code that was"
            " drawn, `gather`.",
        ),
        "logit": (
            edit("logits.log_softmax(-1)", "logits"),
            "You compare logits of different places. Only probabilities can be compared across"
            " places: ln p is the logit after `log_softmax`.",
        ),
        "sorted_once": (
            edit("stable=True).argsort(dim=1)", "stable=True)", of=maskgit.remask),
            "`argsort` says which place comes first, second, ..., not which rank a place has. Sort"
            " its result once more, or mark the first `number` places of it.",
        ),
        "number_kept": (
            edit(
                "remask(confidence, number)",
                "unknown & ~remask((-log_p - noise).masked_fill(~unknown, torch.inf), number)",
            ),
            "You keep `number` of the guesses. That is how many are forgotten.",
        ),
        "first_number": (
            edit("number[:, None]", "number[0]", of=maskgit.remask),
            "Every row forgets as many as the first. Each has its own: `number[:, None]`.",
        ),
    },
)

EXERCISES = [
    INFLATE,
    REFLECT_PADDING,
    LECAM,
    TASK_MASKS,
    COMMIT_TOKENS,
    MASK_SCHEDULE,
    PARALLEL_DECODE,
]
