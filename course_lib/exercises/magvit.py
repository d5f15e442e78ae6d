"""Notebook 05, the first half, MAGVIT: a start from pictures, borders, LeCam, the ten tasks, COMMIT
and decoding.
"""

import math

import torch
import torch.nn.functional as F

from course_lib.checking import Exercise
from course_lib.lm import maskgit
from course_lib.losses import adversarial
from course_lib.nn import conv3d
from course_lib.papers import magvit, magvit_tokenizer

# ---------------------------------------------------------------- inflate


def _kernel_cases(rng):
    """Odd and even numbers of frames, and a single one."""
    # o i h w frames
    sizes = [(5, 2, 3, 4, 3), (2, 3, 4, 1, 5), (3, 2, 1, 5, 4), (4, 1, 2, 3, 2), (2, 4, 3, 5, 1)]
    return [{"kernel": torch.randn(size[:4], generator=rng), "frames": size[4]} for size in sizes]


def _shared(shares):
    """inflate with the kernel times shares(frames), a number for each frame."""
    return lambda kernel, frames: kernel[:, :, None] * torch.tensor(shares(frames))[:, None, None]


def _one_frame(place, share=lambda frames: 1.0):
    """inflate with the kernel at place(frames) alone."""
    return _shared(lambda frames: [share(frames) * (i == place(frames)) for i in range(frames)])


def _middle_column(kernel, frames):
    columns = torch.arange(kernel.shape[-1]) == kernel.shape[-1] // 2
    return magvit_tokenizer.inflate_average(kernel * frames, frames) * columns


INFLATE = Exercise(
    id="magvit.inflate",
    reference=magvit_tokenizer.inflate_central,
    cases=_kernel_cases,
    gradients=("kernel",),
    equation="MAGVIT, section 3.1 and Table 7 (central inflation)",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "first_frame": (
            _one_frame(lambda frames: 0),
            "The kernel lies at the first frame, so every frame of the result shows one that came"
            " before it. Central inflation puts it in the middle, at frames // 2.",
        ),
        "last_frame": (
            _one_frame(lambda frames: frames - 1),
            "The kernel lies at the last frame. That is MAGVIT-v2's inflation, whose convolutions"
            " look back; here the middle of the kernel meets the frame itself: frames // 2.",
        ),
        "earlier_middle": (
            _one_frame(lambda frames: (frames - 1) // 2),
            "Right for odd numbers of frames. Of the two in the middle of an even number take the"
            " later one: frames // 2.",
        ),
        "everywhere": (
            _shared(lambda frames: [1.0] * frames),
            "The kernel lies at every frame, undivided, so what stands still comes out `frames`"
            " times too strong. Section 3.1 fills the middle frame alone.",
        ),
        "average": (
            _shared(lambda frames: [1 / frames] * frames),
            "That is average inflation, the other row of Table 7: it blurs what moves. Central"
            " inflation fills the middle frame alone, undivided.",
        ),
        "divided": (
            _one_frame(lambda frames: frames // 2, share=lambda frames: 1 / frames),
            "The place is right, but you divided by the number of frames. Nothing else adds to the"
            " sum here, so the kernel stays as it was.",
        ),
        "frames_last": (
            lambda kernel, frames: magvit_tokenizer.inflate_central(kernel, frames).movedim(2, -1),
            "The numbers are right, the axis of frames stands last. A kernel of `conv3d` is (o i t"
            " h w).",
        ),
        "frames_first": (
            lambda kernel, frames: magvit_tokenizer.inflate_central(kernel, frames).movedim(2, 0),
            "The numbers are right, the axis of frames stands first. A kernel of `conv3d` is (o i t"
            " h w).",
        ),
        "no_frames": (
            lambda kernel, frames: kernel[:, :, None],
            "Your kernel has a single frame. It needs `frames` of them: zeros, and the kernel in"
            " the middle one.",
        ),
        "middle_column": (
            _middle_column,
            "You kept the middle column of the width and filled every frame. It is the axis of"
            " frames that has one filled place. (ViViT's published code had the same slip.)",
        ),
    },
)


# ---------------------------------------------------------------- reflect_padding


def _border_cases(rng):
    """Other pads on every axis, none on some; then the whole row mirrored, then a clip of one
    frame.
    """
    cases = [
        ((2, 3, 4, 5, 6), (1, 2, 3)),
        ((1, 2, 3, 7, 5), (2, 0, 1)),
        ((3, 1, 2, 4, 5), (1, 3, 0)),
        ((2, 2, 1, 3, 4), (0, 2, 0)),
    ]
    return [{"x": torch.randn(shape, generator=rng), "pad": pad} for shape, pad in cases]


def _bordered(ends, axes=(2, 3, 4)):
    """reflect_padding with other ends: (what comes before, what comes behind) of x along an axis, p
    wide.
    """

    def answer(x, pad):
        for axis, p in zip((2, 3, 4), pad, strict=True):
            before, behind = ends(x, axis, p if axis in axes else 0)
            x = torch.cat([before, x, behind], dim=axis)
        return x

    return answer


def _mirrored(x, axis, p):
    """The reference's ends: the border is the mirror."""
    return x.narrow(axis, 1, p).flip(axis), x.narrow(axis, x.shape[axis] - 1 - p, p).flip(axis)


def _with_border(x, axis, p):
    return x.narrow(axis, 0, p).flip(axis), x.narrow(axis, x.shape[axis] - p, p).flip(axis)


def _not_flipped(x, axis, p):
    return tuple(end.flip(axis) for end in _mirrored(x, axis, p))


def _border_repeated(x, axis, p):
    return tuple(
        x.narrow(axis, place, 1).repeat_interleave(p, axis) for place in (0, x.shape[axis] - 1)
    )


def _other_end(x, axis, p):
    return x.narrow(axis, x.shape[axis] - p, p), x.narrow(axis, 0, p)


def _nothing(x, axis, p):
    return x.narrow(axis, 0, 0)


REFLECT_PADDING = Exercise(
    id="magvit.reflect_padding",
    reference=conv3d.reflect_pad,
    cases=_border_cases,
    gradients=("x",),
    equation="MAGVIT, section 3.1 and appendix A (padding)",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "border_twice": (
            _bordered(_with_border),
            "You repeat the border: 0 1 2 became 0 0 1 for a pad of 1. The border is the mirror"
            " itself, so the image begins with its neighbour: 1 0 1.",
        ),
        "replicated": (
            _bordered(_border_repeated),
            "You went on with the border's value, p times. MAGVIT pads conditions of outpainting"
            " that way; its layers reflect: 2 1 0 1 2 for a pad of 2.",
        ),
        "zeros": (
            _bordered(
                lambda x, axis, p: tuple(torch.zeros_like(end) for end in _mirrored(x, axis, p))
            ),
            "You padded with zeros, which tell every layer where the border is, so the same content"
            " gets other tokens there. (MAGVIT's published code does so by default.) Section 3.1"
            " reflects.",
        ),
        "circular": (
            _bordered(_other_end),
            "You went on with what lies at the other end. A mirror shows what lies at the same"
            " end.",
        ),
        "not_flipped": (
            _bordered(_not_flipped),
            "You took the right pieces and did not turn them round: next to the border stands its"
            " neighbour, then the one after that. `flip` them along their axis.",
        ),
        "front_alone": (
            _bordered(lambda x, axis, p: (_mirrored(x, axis, p)[0], _nothing(x, axis, p))),
            "You padded in front alone. A kernel with its middle on the last place hangs over"
            " behind, too.",
        ),
        "behind_alone": (
            _bordered(lambda x, axis, p: (_nothing(x, axis, p), _mirrored(x, axis, p)[1])),
            "You padded behind alone. A kernel with its middle on the first place hangs over in"
            " front, too.",
        ),
        "space_alone": (
            _bordered(_mirrored, axes=(3, 4)),
            "You padded rows and columns alone. The first number of `pad` is for the frames.",
        ),
        "ends_swapped": (
            _bordered(lambda x, axis, p: _mirrored(x, axis, p)[::-1]),
            "Each end got the image of the other one. What stands in front of the first place is"
            " near the first place.",
        ),
        "axes_reversed": (
            lambda x, pad: F.pad(x, [p for p in pad for _ in range(2)], mode="reflect"),
            "The pads of frames and columns have changed places. `F.pad` counts from the last axis,"
            " `pad` is (frames, rows, columns).",
        ),
    },
)


# ---------------------------------------------------------------- lecam


def _lecam_cases(rng):
    """Logits on both sides of the averages, other numbers of real and fake ones; then two that have
    changed sides.
    """
    cases = []
    for real, fake, ema_real, ema_fake in [((6,), (4,), 0.5, -0.3), ((2, 3, 2), (3, 5), 1.4, 0.2)]:
        logits = {
            "real": torch.randn(real, generator=rng) + 0.3,
            "fake": torch.randn(fake, generator=rng),
        }
        cases.append({**logits, "ema_real": ema_real, "ema_fake": ema_fake})
    lost, won = (0.1 + torch.rand(n, generator=rng) for n in (3, 4))
    return [*cases, {"real": -lost, "fake": won, "ema_real": -0.2, "ema_fake": 0.4}]


def _anchored(by_real, by_fake=None):
    """lecam by other penalties: by_real(real, ema_real, ema_fake), by_fake(fake, ema_real,
    ema_fake).
    """
    by_fake = by_fake or (lambda fake, ema_real, ema_fake: by_real(-fake, -ema_fake, -ema_real))

    def answer(real, fake, ema_real, ema_fake):
        return by_real(real, ema_real, ema_fake).mean() + by_fake(fake, ema_real, ema_fake).mean()

    return answer


def _pull(real, ema_real, ema_fake):
    """The reference's penalty of real logits."""
    return F.relu(real - ema_fake).square()


def _lecam_together(real, fake, ema_real, ema_fake):
    each = _pull(real, ema_real, ema_fake), _pull(-fake, -ema_fake, -ema_real)
    return torch.cat([part.flatten() for part in each]).mean()


LECAM = Exercise(
    id="magvit.lecam",
    reference=adversarial.lecam_penalty,
    cases=_lecam_cases,
    gradients=("real", "fake"),
    equation="LeCam, Eq. 8, with its code's cut at 0; MAGVIT, section 3.1",
    points=2,
    stars=1,
    minutes=6,
    misconceptions={
        "own_side": (
            _anchored(lambda real, ema_real, ema_fake: F.relu(real - ema_real).square()),
            "Each logit is measured against the average of its own side. Eq. 8 crosses them: real"
            " ones against ema_fake, fakes against ema_real, so that the discriminator pays for"
            " telling them apart too well.",
        ),
        "turned_round": (
            _anchored(lambda real, ema_real, ema_fake: F.relu(ema_fake - real).square()),
            "The differences are the wrong way round, so you punish the logits that are on the"
            " wrong side already. Real ones are pulled down: D(x) - ema_fake; fakes up: ema_real -"
            " D(x^).",
        ),
        "not_cut": (
            _anchored(lambda real, ema_real, ema_fake: (real - ema_fake).square()),
            "That is Eq. 8 as it stands in the paper. Its code, and this exercise, cut the"
            " differences off at 0 before squaring: a logit that has passed the other side's"
            " average is left alone.",
        ),
        "not_squared": (
            _anchored(lambda real, ema_real, ema_fake: F.relu(real - ema_fake)),
            "The square is missing: Eq. 8 punishes large distances more than in proportion.",
        ),
        "real_alone": (
            lambda real, fake, ema_real, ema_fake: (
                _pull(real, ema_real, ema_fake).mean() + 0 * fake.mean()
            ),
            "That is the term of the real logits. Eq. 8 has a second one for the fakes.",
        ),
        "fakes_with_the_same_sign": (
            _anchored(_pull, lambda fake, ema_real, ema_fake: F.relu(fake - ema_real).square()),
            "The real logits are right. The fakes lie below the average of the real ones, and their"
            " distance to it is ema_real - D(x^).",
        ),
        "half": (
            lambda real, fake, ema_real, ema_fake: (
                adversarial.lecam_penalty(real, fake, ema_real, ema_fake) / 2
            ),
            "You halved the sum. The hinge loss of VQGAN has a half, Eq. 8 has none.",
        ),
        "one_mean": (
            _lecam_together,
            "You threw real and fake logits together. Eq. 8 has two means, and adds them up.",
        ),
        "mean_first": (
            lambda real, fake, ema_real, ema_fake: (
                F.relu(real.mean() - ema_fake).square() + F.relu(ema_real - fake.mean()).square()
            ),
            "You averaged the logits first. Every logit has a distance of its own: cut, square,"
            " then the mean.",
        ),
        "averages_of_the_batch": (
            lambda real, fake, ema_real, ema_fake: (
                F.relu(real - fake.mean()).square().mean()
                + F.relu(real.mean() - fake).square().mean()
            ),
            "You took the means of this batch. Eq. 8 has the moving averages of past batches,"
            " ema_real and ema_fake, which change slowly and carry no gradient.",
        ),
    },
)


# ---------------------------------------------------------------- task_masks

_GRIDS = [(3, 8, 12), (4, 6, 10)]  # with whole quarters, and without


def _task_cases(rng):
    return [{"task": task, "grid": grid} for grid in _GRIDS for task in magvit.TASKS]


def _tasked(tasks, rule):
    """task_masks with another rule for some tasks: rule(task, grid), of shape (t, h, w)."""

    def answer(task, grid):
        return rule(task, grid) if task in tasks else magvit.task_mask(task, grid)

    return answer


def _other_task(names):
    """A rule that takes another task's mask, turned round where its name begins with ~."""

    def rule(task, grid):
        mask = magvit.task_mask(names[task].strip("~"), grid)
        return ~mask if names[task].startswith("~") else mask

    return _tasked(names, rule)


def _window(rows=(1 / 4, 3 / 4), columns=(1 / 4, 3 / 4)):
    """A rule for the tasks with a window that stands still, given as shares of the sides."""

    def rule(task, grid):
        t, h, w = grid
        row, column = torch.arange(h)[:, None], torch.arange(w)
        inside = {
            "rows": (int(h * rows[0]) <= row) & (row < int(h * rows[1])),
            "columns": (int(w * columns[0]) <= column) & (column < int(w * columns[1])),
        }
        mask = inside["rows"] & inside["columns"]
        if task in ("OPV", "OPH"):
            mask = inside["columns" if task == "OPV" else "rows"].expand(h, w)
        return (~mask if task == "IPC" else mask).repeat(t, 1, 1)

    return _tasked(("OPC", "OPV", "OPH", "IPC"), rule)


def _up_to_the_border(task, grid):
    """The window from a quarter to a quarter before the end, both rounded down."""
    t, h, w = grid
    rows, columns = (torch.arange(n) for n in (h, w))
    rows, columns = ((n // 4 <= p) & (p < n - n // 4) for n, p in ((h, rows), (w, columns)))
    mask = {"OPV": columns.expand(h, w), "OPH": rows[:, None].expand(h, w)}.get(
        task, rows[:, None] & columns
    )
    return (~mask if task == "IPC" else mask).repeat(t, 1, 1)


def _moving(left):
    """A rule for OPD and IPD with another left edge: left(frame, frames, columns)."""

    def rule(task, grid):
        t, h, w = grid
        column = torch.arange(w)
        lefts = [left(i, t, w) for i in range(t)]
        strip = torch.stack([(a <= column) & (column < a + w // 2) for a in lefts])[:, None].expand(
            t, h, w
        )
        return strip.clone() if task == "OPD" else ~(strip & magvit.task_mask("OPH", grid))

    return _tasked(("OPD", "IPD"), rule)


def _filled(value):
    return lambda task, grid: torch.full(grid, value)


def _strip_inpainted(task, grid):
    return ~magvit.task_mask("OPD", grid)


def _box_outpainted(task, grid):
    return ~magvit.task_mask("IPD", grid)


TASK_MASKS = Exercise(
    id="magvit.task_masks",
    reference=magvit.task_mask,
    cases=_task_cases,
    equation="MAGVIT, section 3.2, appendix B.1 and Table 12",
    points=4,
    stars=3,
    minutes=15,
    misconceptions={
        "true_is_generated": (
            lambda task, grid: ~magvit.task_mask(task, grid),
            "Your masks are True where something is to be generated. True is what is given:"
            " appendix B.1 says where the condition lies.",
        ),
        "vertical_and_horizontal_swapped": (
            _other_task({"OPV": "OPH", "OPH": "OPV"}),
            "OPV and OPH have changed places. A vertical strip stands upright: it has all rows and"
            " the middle half of the columns.",
        ),
        "inpainting_not_inverted": (
            _other_task({"IPC": "~IPC", "IPD": "~IPD"}),
            "Inpainting is given the inside of its box in your masks. It has to fill the box: given"
            " is all but it.",
        ),
        "outpainting_inverted": (
            _other_task({"OPC": "~OPC", "OPV": "~OPV", "OPH": "~OPH", "OPD": "~OPD"}),
            "Outpainting is given the outside in your masks. It has to continue outwards: given is"
            " the window.",
        ),
        "all_windows_inverted": (
            _other_task({name: f"~{name}" for name in ("OPC", "OPV", "OPH", "OPD", "IPC", "IPD")}),
            "Outpainting and inpainting have changed places: outpainting (OP) is given the window"
            " and makes the rest, inpainting (IP) is given the rest and fills the window.",
        ),
        "interpolation_without_the_last": (
            _other_task({"FI": "FP"}),
            "Frame interpolation (FI) is given the last frame as well as the first: something to"
            " arrive at.",
        ),
        "prediction_with_the_last": (
            _other_task({"FP": "FI", "CFP": "FI"}),
            "Frame prediction (FP, CFP) is given the first frame alone. With the last one it would"
            " be interpolation.",
        ),
        "quarter_window": (
            _window(rows=(3 / 8, 5 / 8), columns=(3 / 8, 5 / 8)),
            "Your window is a quarter as high and wide as the clip. It is half as high and half as"
            " wide: from h // 4 to h * 3 // 4, which for OPC is a quarter of the places (Table"
            " 12).",
        ),
        "window_in_the_corner": (
            _window(rows=(0, 1 / 2), columns=(0, 1 / 2)),
            "Your window has the right size and begins at 0. It lies in the middle: from h // 4 to"
            " h * 3 // 4.",
        ),
        "up_to_the_border": (
            _tasked(("OPC", "OPV", "OPH", "IPC"), _up_to_the_border),
            "Right where the sides have whole quarters. Elsewhere the window ends before h * 3 //"
            " 4, which is not h - h // 4 once both are rounded down.",
        ),
        "right_to_left": (
            _moving(lambda i, t, w: w // 2 - round(w // 2 * i / (t - 1))),
            "Your window moves from right to left. In appendix B.1 it starts at column 0.",
        ),
        "leaves_the_clip": (
            _moving(lambda i, t, w: round(w * i / (t - 1))),
            "Your window moves out of the clip. Its left edge goes from 0 to w // 2, then its right"
            " edge is at the border and half of every frame is given (Table 12).",
        ),
        "stops_early": (
            _moving(lambda i, t, w: round(w // 2 * i / t)),
            "Your window does not arrive: in the last frame its left edge is to be at w // 2. From"
            " the first frame to the last there are t - 1 steps.",
        ),
        "rounded_down": (
            _moving(lambda i, t, w: w // 2 * i // (t - 1)),
            "The left edge is rounded down. It goes to the nearest column: `round`.",
        ),
        "stands_still": (
            _other_task({"OPD": "OPV", "IPD": "IPC"}),
            "Your dynamic windows (OPD, IPD) stand still. They move from the left border to the"
            " right one.",
        ),
        "dynamic_outpainting_of_a_box": (
            _tasked(("OPD",), _box_outpainted),
            "OPD is given a box that moves. It is a strip as high as the clip, half of every frame"
            " (Table 12); the box is IPD's.",
        ),
        "dynamic_inpainting_of_a_strip": (
            _tasked(("IPD",), _strip_inpainted),
            "IPD has to fill a strip as high as the clip. It is a box of half the rows, those of"
            " OPH, and half the columns.",
        ),
        "class_task_given_all": (
            _tasked(("CG",), _filled(True)),
            "In class-conditional generation (CG) the whole clip is given in your mask. Nothing of"
            " it is: the class comes as a token in front.",
        ),
        "class_prediction_given_nothing": (
            _tasked(("CFP",), _filled(False)),
            "CFP is frame prediction with a class: its first frame is given, as in FP.",
        ),
    },
)


# ---------------------------------------------------------------- commit_tokens


def _commit_cases(rng):
    """Sequences and grids; in the last case all is masked, as when decoding starts."""
    cases = []
    for shape, codes, share in [((3, 11), 9, 0.5), ((2, 3, 4, 5), 30, 0.6), ((2, 7), 5, 1.0)]:
        code, condition = (torch.randint(0, codes, shape, generator=rng) for _ in range(2))
        given = torch.rand(shape[1:], generator=rng) < 0.5
        given.view(-1)[:2] = torch.tensor([True, False])
        masked = torch.rand(shape, generator=rng) < share
        cases.append({"codes": code, "condition": condition, "given": given, "masked": masked})
    return [{**case, "mask_token": 40 + i} for i, case in enumerate(cases)]


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
            lambda codes, condition, given, masked, mask_token: torch.where(
                masked, mask_token, codes
            ),
            "That is MaskGIT's masking, which knows no condition. In Eq. 2 a masked token that"
            " holds some of the condition shows the condition's code instead of [MASK].",
        ),
        "given_stays_clean": (
            lambda codes, condition, given, masked, mask_token: torch.where(
                masked & ~given, mask_token, codes
            ),
            "Where the condition lies you show the clip's own codes. They know pixels that are not"
            " given, so the answer leaks: Eq. 2 shows the code of the padded condition there.",
        ),
        "condition_where_unmasked": (
            lambda codes, condition, given, masked, mask_token: torch.where(
                given, condition, torch.where(masked, mask_token, codes)
            ),
            "You show the condition's code wherever something is given. Eq. 2 asks first whether a"
            " token is masked: one that is not shows itself.",
        ),
        "no_mask_token": (
            lambda codes, condition, given, masked, mask_token: torch.where(
                masked, condition, codes
            ),
            "Every masked token shows the condition's code, also where the condition clip is"
            " nothing but padding. There Eq. 2 has [MASK].",
        ),
        "given_turned_round": (
            lambda codes, condition, given, masked, mask_token: magvit.commit_tokens(
                codes, condition, ~given, masked, mask_token
            ),
            "`given` is the wrong way round: True is where a token holds some of the condition."
            " There its code is shown, and [MASK] elsewhere.",
        ),
        "masked_turned_round": (
            lambda codes, condition, given, masked, mask_token: magvit.commit_tokens(
                codes, condition, given, ~masked, mask_token
            ),
            "`masked` is the wrong way round: what is masked is what the transformer must not see,"
            " and what is not masked shows its own code.",
        ),
        "nothing_of_the_clip": (
            lambda codes, condition, given, masked, mask_token: torch.where(
                given, condition, mask_token
            ).expand(codes.shape),
            "The clip's own codes appear nowhere. That is how decoding starts; in training a token"
            " that is not masked shows its own code, the third line of Eq. 2.",
        ),
        "masked_as_condition": (
            lambda codes, condition, given, masked, mask_token: torch.where(
                masked, mask_token, torch.where(given, condition, codes)
            ),
            "The condition's codes stand where nothing is masked. In Eq. 2 they stand in for"
            " [MASK]: masked, and given.",
        ),
    },
)


# ---------------------------------------------------------------- mask_schedule


def _schedule_cases(rng):
    """Rows of other lengths; a single step; more steps than tokens."""
    drawn = torch.randint(20, 300, (3,), generator=rng) * 2 + 1
    cases = [(12, [1025, 257, 65]), (7, drawn.tolist()), (8, [5, 31, 1, 0]), (1, [9, 4]), (2, [40])]
    return [{"steps": steps, "n": torch.tensor(n)} for steps, n in cases]


def _cosine(r):
    return math.cos(math.pi / 2 * r)


def _fewer(wanted, left):
    return max(0, min(wanted, left - 1))


def _counted(gamma=_cosine, whole=math.floor, hold=_fewer, of=lambda n, left: n, first=1):
    """mask_schedule by another gamma, another rounding, without holding, or beginning with another
    step.
    """

    def row(steps, n):
        left, counts = n, []
        for step in range(first, first + steps):
            left = hold(whole(gamma(step / steps) * of(n, left)), left)
            counts.append(left)
        return counts

    return lambda steps, n: torch.tensor([row(steps, each) for each in n.tolist()]).T


MASK_SCHEDULE = Exercise(
    id="magvit.mask_schedule",
    reference=maskgit.unknown_after,
    cases=_schedule_cases,
    equation="MaskGIT, section 3.3; MAGVIT, Algorithm 1",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "linear": (
            _counted(lambda r: 1 - r),
            "Your counts fall in equal steps. The cosine is slow at first, when next to nothing is"
            " known, and decodes most tokens at the end: gamma(r) = cos(pi / 2 r).",
        ),
        "sine": (
            _counted(lambda r: math.sin(math.pi / 2 * r)),
            "Your share grows. r is the share of steps that is done, not what is left of them, and"
            " the function is the cosine: 1 at the start, 0 at the end.",
        ),
        "half_period": (
            _counted(lambda r: math.cos(math.pi * r)),
            "Your cosine runs through half a period and is negative from the middle on. It ends at"
            " a quarter, where it is 0: cos(pi / 2 r).",
        ),
        "before_each_step": (
            _counted(hold=lambda wanted, left: max(0, wanted), first=0),
            "You count what is unknown before each step. After the first of K steps r is 1 / K,"
            " after the last it is 1 and nothing is unknown.",
        ),
        "rounded_up": (
            _counted(whole=lambda x: math.ceil(x - 1e-9)),
            "You rounded up, as the papers write. The official code rounds down, and so does the"
            " course: `floor`.",
        ),
        "rounded": (
            _counted(whole=round),
            "You rounded to the nearest number. The official code rounds down: `floor`.",
        ),
        "not_held": (
            _counted(hold=lambda wanted, left: wanted),
            "Right as long as there are many tokens. With few of them some of your steps decode"
            " nothing: after a step at least one fewer is unknown than before, down to 0.",
        ),
        "negative": (
            _counted(hold=lambda wanted, left: min(wanted, left - 1)),
            "Your counts fall below 0 where there are fewer tokens than steps. Once all are known,"
            " 0 are unknown.",
        ),
        "of_what_is_left": (
            _counted(of=lambda n, left: left),
            "You took the share of those still unknown, so your counts fall too fast. gamma is a"
            " share of all n that were unknown at first.",
        ),
        "known_counted": (
            lambda steps, n: n - maskgit.unknown_after(steps, n),
            "You count what is known after each step. The schedule says how many are still unknown:"
            " n at first, 0 at last.",
        ),
    },
)


# ---------------------------------------------------------------- parallel_decode


def _decode_cases(rng):
    """A step in the middle, one without noise where a row is known already, and the last one, which
    forgets none.
    """
    cases = []
    for b, n, v, forget, heat in [
        (9, 12, 5, 0.5, 1.5),
        (6, 9, 7, 0.4, 0.0),
        (2, 7, 4, 0.0, 1.0),
        (8, 10, 3, 0.7, 0.6),
    ]:
        codes, unknown = (
            torch.randint(0, v, (b, n), generator=rng),
            torch.rand(b, n, generator=rng) < 0.8,
        )
        unknown[:, :3] = torch.tensor([True, True, False])  # in every row something of both
        if not heat:
            unknown[-1] = False
        gumbel = -torch.log(-torch.log(0.001 + 0.998 * torch.rand(b, n, generator=rng)))
        case = {
            "logits": 1.5 * torch.randn(b, n, v, generator=rng),
            "tokens": codes.masked_fill(unknown, v),
            "unknown": unknown,
            "number": (forget * unknown.sum(1)).long(),
            "uniform": 0.999 * torch.rand(b, n, generator=rng),
            "noise": heat * gumbel,
        }
        cases.append(case)
    return cases


def _first_above(p, uniform):
    return (p.cumsum(-1) <= uniform[..., None]).sum(-1)


def _log_of_the_guess(p, guess, noise):
    return p.gather(-1, guess[..., None])[..., 0].log() + noise


def _lowest(confidence, number, unknown):
    return confidence.masked_fill(~unknown, torch.inf).argsort(1).argsort(1) < number[:, None]


def _decoded(pick=_first_above, sure=_log_of_the_guess, forget=_lowest):
    """parallel_decode with another guess, another confidence, or another choice of what is
    forgotten.
    """

    def answer(logits, tokens, unknown, number, uniform, noise):
        p = logits.softmax(-1)
        guess = pick(p, uniform)
        return torch.where(unknown, guess, tokens), forget(sure(p, guess, noise), number, unknown)

    return answer


def _surest_forgotten(confidence, number, unknown):
    return _lowest(-confidence, number, unknown)


def _known_forgotten(confidence, number, unknown):
    return confidence.argsort(1).argsort(1) < number[:, None]


def _sorted_once(confidence, number, unknown):
    return confidence.masked_fill(~unknown, torch.inf).argsort(1) < number[:, None]


def _number_kept(confidence, number, unknown):
    return unknown & ~_surest_forgotten(confidence, number, unknown)


def _first_number(confidence, number, unknown):
    return _lowest(confidence, number[:1].expand(len(number)), unknown)


def _all_overwritten(logits, tokens, unknown, number, uniform, noise):
    guess = _first_above(logits.softmax(-1), uniform)
    return guess, maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)[1]


PARALLEL_DECODE = Exercise(
    id="magvit.parallel_decode",
    reference=maskgit.decode_step,
    cases=_decode_cases,
    equation="MAGVIT, Algorithm 1; MaskGIT, section 3.2",
    points=4,
    stars=4,
    minutes=16,
    misconceptions={
        "surest_forgotten": (
            _decoded(forget=_surest_forgotten),
            "You forget the guesses that are surest. The least sure ones go: the lowest ln p +"
            " noise.",
        ),
        "known_forgotten": (
            _decoded(forget=_known_forgotten),
            "You forget tokens that were known. What is decoded once stays: give known places an"
            " infinite confidence before you look for the lowest.",
        ),
        "known_overwritten": (
            _all_overwritten,
            "You put a guess in known places, too. A guess goes where a token is unknown; elsewhere"
            " `tokens` stay.",
        ),
        "most_probable": (
            _decoded(pick=lambda p, uniform: p.argmax(-1)),
            "You take the most probable code everywhere. Algorithm 1 draws: the first code whose"
            " cumulative probability exceeds `uniform`.",
        ),
        "from_above": (
            _decoded(pick=lambda p, uniform: _first_above(p, 1 - uniform)),
            "You compared with 1 - u. The guess is the first code whose cumulative probability"
            " exceeds u.",
        ),
        "no_noise": (
            _decoded(sure=lambda p, guess, noise: _log_of_the_guess(p, guess, 0 * noise)),
            "The guesses are right, but the noise is missing from the confidence: without it the"
            " plain regions are always first, and samples resemble one another.",
        ),
        "noise_subtracted": (
            _decoded(sure=lambda p, guess, noise: _log_of_the_guess(p, guess, -noise)),
            "You subtracted the noise. Its distribution is lopsided, so the sign matters: ln p +"
            " noise.",
        ),
        "probability": (
            _decoded(sure=lambda p, guess, noise: _log_of_the_guess(p, guess, 0).exp() + noise),
            "You added the noise to the probability. Gumbel noise belongs to its logarithm: ln p +"
            " noise.",
        ),
        "best_code": (
            _decoded(sure=lambda p, guess, noise: p.amax(-1).log() + noise),
            "Your confidence is that of the most probable code. Take the ln p of the code that was"
            " drawn, `gather`.",
        ),
        "logit": (
            lambda logits, tokens, unknown, number, uniform, noise: _decoded(
                sure=lambda p, guess, noise: logits.gather(-1, guess[..., None])[..., 0] + noise
            )(logits, tokens, unknown, number, uniform, noise),
            "You compare logits of different places. Only probabilities can be compared across"
            " places: ln p is the logit after `log_softmax`.",
        ),
        "sorted_once": (
            _decoded(forget=_sorted_once),
            "`argsort` says which place comes first, second, ..., not which rank a place has. Sort"
            " its result once more, or mark the first `number` places of it.",
        ),
        "number_kept": (
            _decoded(forget=_number_kept),
            "You keep `number` of the guesses. That is how many are forgotten.",
        ),
        "first_number": (
            _decoded(forget=_first_number),
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
