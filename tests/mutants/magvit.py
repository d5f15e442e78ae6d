"""Notebook 05, first half: more wrong answers, and right ones written differently."""

import math

import torch
import torch.nn.functional as F
from einops import repeat

from course_lib.lm import maskgit
from course_lib.losses import adversarial
from course_lib.nn import conv3d
from course_lib.papers import magvit, magvit_tokenizer

# ---------------------------------------------------------------- wrong


def inflate_halves(kernel, frames):
    """Shares the kernel between two middle frames."""
    return (
        magvit_tokenizer.inflate_central(kernel, frames)
        + magvit_tokenizer.inflate_central(kernel, frames).flip(2)
    ) / 2


def inflate_new_tensor(kernel, frames):
    """Forgets the dtype."""
    return torch.tensor(magvit_tokenizer.inflate_central(kernel, frames).tolist())


def inflate_channels_swapped(kernel, frames):
    return magvit_tokenizer.inflate_central(kernel, frames).transpose(0, 1)


def inflate_random(kernel, frames):
    inflated = 0.01 * torch.randn(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, frames // 2] = kernel
    return inflated


def inflate_turned(kernel, frames):
    """Flips the kernel, as a true convolution does."""
    return magvit_tokenizer.inflate_central(kernel.flip(2, 3), frames)


def inflate_half_rounded_up(kernel, frames):
    inflated = kernel.new_zeros(*kernel.shape[:2], frames, *kernel.shape[2:])
    inflated[:, :, min((frames + 1) // 2, frames - 1)] = kernel
    return inflated


def only_the_padding(x, pad):
    """Only where all axes are padded does anything appear: the rest is zero."""
    inner = F.pad(torch.ones_like(x), [p for p in reversed(pad) for _ in range(2)])
    return conv3d.reflect_pad(x, pad) * (1 - inner)


def padding_odd(x, pad):
    """Turned round at the border, so that a slope continues."""
    for axis, p in zip((2, 3, 4), pad, strict=True):
        n = x.shape[axis]
        first, last = x.narrow(axis, 0, 1), x.narrow(axis, n - 1, 1)
        before, after = x.narrow(axis, 1, p).flip(axis), x.narrow(axis, n - 1 - p, p).flip(axis)
        x = torch.cat([2 * first - before, x, 2 * last - after], dim=axis)
    return x


def padding_frames_alone(x, pad):
    return conv3d.reflect_pad(x, (pad[0], 0, 0))


def padding_of_one(x, pad):
    """Pads one place on every side, whatever is asked for."""
    return conv3d.reflect_pad(x, tuple(min(p, 1) for p in pad))


def padding_by_last_elements(x, pad):
    """Forgets that x[-0:] is all of x."""
    for axis, p in zip((2, 3, 4), pad, strict=True):
        x = x.movedim(axis, 0)
        x = torch.cat([x[1 : p + 1].flip(0), x, x[:-1][-p:].flip(0)]).movedim(0, axis)
    return x


def padding_same_pad(x, pad):
    return conv3d.reflect_pad(x, (0, pad[2], pad[2]))


def lecam_of_probabilities(real, fake, ema_real, ema_fake):
    return adversarial.lecam_penalty(real.sigmoid(), fake.sigmoid(), ema_real, ema_fake)


def lecam_swapped(real, fake, ema_real, ema_fake):
    return adversarial.lecam_penalty(fake, real, ema_fake, ema_real)


def lecam_summed(real, fake, ema_real, ema_fake):
    return F.relu(real - ema_fake).square().sum() + F.relu(ema_real - fake).square().sum()


def lecam_detached(real, fake, ema_real, ema_fake):
    return adversarial.lecam_penalty(real, fake.detach(), ema_real, ema_fake)


def lecam_negative(real, fake, ema_real, ema_fake):
    return -adversarial.lecam_penalty(real, fake, ema_real, ema_fake)


def lecam_cut_one_side(real, fake, ema_real, ema_fake):
    return F.relu(real - ema_fake).square().mean() + (ema_real - fake).square().mean()


def lecam_fake_alone(real, fake, ema_real, ema_fake):
    return F.relu(ema_real - fake).square().mean() + 0 * real.sum()


def lecam_cut_after_squaring(real, fake, ema_real, ema_fake):
    return F.relu((real - ema_fake).square()).mean() + F.relu((ema_real - fake).square()).mean()


def tasks_as_numbers(task, grid):
    return magvit.task_mask(task, grid).float()


def tasks_flat(task, grid):
    return magvit.task_mask(task, grid).flatten()


def tasks_of_pixels(task, grid):
    """Marks cells of 4 x 8 x 8 pixels that hold any given pixel."""
    t, h, w = grid
    return magvit.cells_with_given_pixels(magvit.task_mask(task, (4 * t, 8 * h, 8 * w)), (4, 8, 8))


def tasks_last_frame(task, grid):
    """Predicts backwards."""
    mask = magvit.task_mask(task, grid)
    return mask.flip(0) if task in ("FP", "CFP") else mask


def tasks_middle_frames(task, grid):
    """Gives interpolation what it has to make."""
    mask = magvit.task_mask(task, grid)
    return ~mask if task == "FI" else mask


def tasks_vertical_motion(task, grid):
    """Moves the window down."""
    if task not in ("OPD", "IPD"):
        return magvit.task_mask(task, grid)
    t, h, w = grid
    return magvit.task_mask(task, (t, w, h)).transpose(1, 2)


def tasks_one_frame(task, grid):
    return magvit.task_mask(task, grid)[:1]


def tasks_by_window_size(task, grid):
    """Begins at a quarter and takes a half, each rounded down."""
    t, h, w = grid
    rows, columns = torch.zeros(h, 1, dtype=torch.bool), torch.zeros(w, dtype=torch.bool)
    rows[h // 4 : h // 4 + h // 2], columns[w // 4 : w // 4 + w // 2] = True, True
    masks = {"OPC": rows & columns, "OPV": columns, "OPH": rows, "IPC": ~(rows & columns)}
    if task in masks:
        return masks[task].expand(t, h, w)
    return magvit.task_mask(task, grid)


def tasks_strip(width, reach):
    """Build answers whose moving window has another width or goes elsewhere."""

    def answer(task, grid):
        if task not in ("OPD", "IPD"):
            return magvit.task_mask(task, grid)
        t, h, w = grid
        frame = torch.arange(t)[:, None, None]
        left = (reach(w) * frame / (t - 1)).round()
        column = torch.arange(w)
        strip = (column >= left) & (column < left + width(w))
        rows = magvit.task_mask("OPH", grid)
        return strip.expand(t, h, w) if task == "OPD" else ~(rows & strip)

    return answer


def commit_in_place(codes, condition, given, masked, mask_token):
    codes.copy_(magvit.commit_tokens(codes, condition, given, masked, mask_token))
    return codes


def commit_masked_only(codes, condition, given, masked, mask_token):
    return magvit.commit_tokens(codes, condition, given, masked, mask_token)[masked]


def commit_one_mask_for_all(codes, condition, given, masked, mask_token):
    return magvit.commit_tokens(
        codes, condition, given, masked[:1].expand(masked.shape), mask_token
    )


def commit_last_code(codes, condition, given, masked, mask_token):
    return magvit.commit_tokens(codes, condition, given, masked, int(codes.max()))


def commit_swapped_codes(codes, condition, given, masked, mask_token):
    return magvit.commit_tokens(condition, codes, given, masked, mask_token)


def commit_added(codes, condition, given, masked, mask_token):
    return codes + masked * given * condition + masked * ~given * mask_token


def schedule_squared(steps, n):
    return maskgit.unknown_after(steps, n, "square")


def schedule_one_step_more(steps, n):
    return maskgit.unknown_after(steps + 1, n)[:-1]


def schedule_fractions(steps, n):
    return torch.stack([math.cos(math.pi / 2 * step / steps) * n for step in range(1, steps + 1)])


def schedule_rows_first(steps, n):
    return maskgit.unknown_after(steps, n).T


def schedule_of_the_longest(steps, n):
    return maskgit.unknown_after(steps, n.amax().expand(n.shape))


def schedule_shares(steps, n):
    return maskgit.mask_ratio(torch.arange(1, steps + 1) / steps)[:, None].expand(steps, len(n))


def schedule_decoded_in_each(steps, n):
    counts = maskgit.unknown_after(steps, n)
    return torch.cat([n[None], counts[:-1]]) - counts


def schedule_idle_at_the_end(steps, n):
    """Rounds to nothing and stays there, without holding the steps before."""
    ratios = torch.arange(1, steps + 1) / steps
    return (torch.cos(math.pi / 2 * ratios)[:, None] * n).floor().long().clamp(min=0)


def schedule_with_the_start(steps, n):
    return torch.cat([n[None], maskgit.unknown_after(steps, n)])


def decode_multinomial(logits, tokens, unknown, number, uniform, noise):
    """Draws with random numbers of its own."""
    uniform = torch.rand(uniform.shape)
    return maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)


def decode_known_flags(logits, tokens, unknown, number, uniform, noise):
    tokens, unknown = maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)
    return tokens, ~unknown


def decode_forgotten_hidden(logits, tokens, unknown, number, uniform, noise):
    """Lets the forgotten places show what was there before."""
    new, forgotten = maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)
    return torch.where(forgotten, tokens, new), forgotten


def decode_any_place(logits, tokens, unknown, number, uniform, noise):
    """Forgets at random."""
    new, _ = maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)
    return new, maskgit.remask(noise.masked_fill(~unknown, torch.inf), number)


def decode_over_the_batch(logits, tokens, unknown, number, uniform, noise):
    """Forgets the lowest of all rows together."""
    p = logits.softmax(-1)
    guess = (p.cumsum(-1) <= uniform[..., None]).sum(-1)
    confidence = (p.gather(-1, guess[..., None])[..., 0].log() + noise).masked_fill(
        ~unknown, torch.inf
    )
    rank = confidence.flatten().argsort().argsort().view_as(confidence)
    return torch.where(unknown, guess, tokens), rank < number.sum()


def decode_one_too_many(logits, tokens, unknown, number, uniform, noise):
    return maskgit.decode_step(logits, tokens, unknown, number + 1, uniform, noise)


def decode_in_place(logits, tokens, unknown, number, uniform, noise):
    new, forgotten = maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)
    tokens.copy_(new)
    return tokens, forgotten


def decode_where_tokens_are_masks(logits, tokens, unknown, number, uniform, noise):
    """Takes places for known that hold an old guess."""
    unknown = unknown & (tokens == logits.shape[-1])
    return maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)


def decode_only_tokens(logits, tokens, unknown, number, uniform, noise):
    return maskgit.decode_step(logits, tokens, unknown, number, uniform, noise)[0]


WRONG = {
    "magvit.inflate": {
        "halves": inflate_halves,
        "new_tensor": inflate_new_tensor,
        "half_rounded_up": inflate_half_rounded_up,
        "channels_swapped": inflate_channels_swapped,
        "random": inflate_random,
        "turned": inflate_turned,
    },
    "magvit.reflect_padding": {
        "only_the_padding": only_the_padding,
        "odd": padding_odd,
        "frames_alone": padding_frames_alone,
        "of_one": padding_of_one,
        "by_last_elements": padding_by_last_elements,
        "same_pad": padding_same_pad,
    },
    "magvit.lecam": {
        "of_probabilities": lecam_of_probabilities,
        "swapped": lecam_swapped,
        "summed": lecam_summed,
        "detached": lecam_detached,
        "negative": lecam_negative,
        "cut_after_squaring": lecam_cut_after_squaring,
        "cut_one_side": lecam_cut_one_side,
        "fake_alone": lecam_fake_alone,
    },
    "magvit.task_masks": {
        "as_numbers": tasks_as_numbers,
        "flat": tasks_flat,
        "of_pixels": tasks_of_pixels,
        "last_frame": tasks_last_frame,
        "middle_frames": tasks_middle_frames,
        "vertical_motion": tasks_vertical_motion,
        "one_frame": tasks_one_frame,
        "by_window_size": tasks_by_window_size,
        "half_a_column_wider": tasks_strip(lambda w: w / 2, lambda w: w // 2),
        "to_half_the_width": tasks_strip(lambda w: w // 2, lambda w: w / 2),
        "to_the_border": tasks_strip(lambda w: w // 2, lambda w: w - w // 2),
    },
    "magvit.commit_tokens": {
        "in_place": commit_in_place,
        "masked_only": commit_masked_only,
        "one_mask_for_all": commit_one_mask_for_all,
        "last_code": commit_last_code,
        "swapped_codes": commit_swapped_codes,
        "added": commit_added,
    },
    "magvit.mask_schedule": {
        "squared": schedule_squared,
        "one_step_more": schedule_one_step_more,
        "fractions": schedule_fractions,
        "rows_first": schedule_rows_first,
        "of_the_longest": schedule_of_the_longest,
        "shares": schedule_shares,
        "decoded_in_each": schedule_decoded_in_each,
        "with_the_start": schedule_with_the_start,
        "idle_at_the_end": schedule_idle_at_the_end,
    },
    "magvit.parallel_decode": {
        "multinomial": decode_multinomial,
        "known_flags": decode_known_flags,
        "forgotten_hidden": decode_forgotten_hidden,
        "any_place": decode_any_place,
        "over_the_batch": decode_over_the_batch,
        "one_too_many": decode_one_too_many,
        "in_place": decode_in_place,
        "only_tokens": decode_only_tokens,
        "where_tokens_are_masks": decode_where_tokens_are_masks,
    },
}


# ---------------------------------------------------------------- right, written differently


def inflate_by_pad(kernel, frames):
    before = frames // 2
    return F.pad(kernel.unsqueeze(2), (0, 0, 0, 0, before, frames - 1 - before))


def inflate_by_one_hot(kernel, frames):
    place = F.one_hot(torch.tensor(frames // 2), frames).to(kernel.dtype)
    return torch.einsum("oihw,t->oithw", kernel, place)


def inflate_by_stack(kernel, frames):
    return torch.stack(
        [kernel if i == frames // 2 else torch.zeros_like(kernel) for i in range(frames)], dim=2
    )


def padding_by_flips(x, pad):
    for axis, p in enumerate(pad, start=2):
        n = x.shape[axis]
        before, after = x.narrow(axis, 1, p), x.narrow(axis, n - 1 - p, p)
        x = torch.cat([before.flip(axis), x, after.flip(axis)], dim=axis)
    return x


def padding_by_index(x, pad):
    for axis, p in enumerate(pad, start=2):
        last = x.shape[axis] - 1
        places = torch.arange(-p, last + p + 1).abs()
        x = x.index_select(axis, last - (last - places).abs())
    return x


def padding_place_by_place(x, pad):
    for axis, p in zip((2, 3, 4), pad, strict=True):
        slices = list(x.unbind(axis))
        slices = [slices[i] for i in range(p, 0, -1)] + slices + [slices[-2 - i] for i in range(p)]
        x = torch.stack(slices, axis)
    return x


def lecam_by_clamp(real, fake, ema_real, ema_fake):
    return torch.mean((real - ema_fake).clamp(min=0) ** 2) + torch.mean(
        (ema_real - fake).clamp(min=0) ** 2
    )


def lecam_by_where(real, fake, ema_real, ema_fake):
    above, below = (real - ema_fake).flatten(), (ema_real - fake).flatten()
    return sum(torch.where(side > 0, side.pow(2), 0.0).sum() / len(side) for side in (above, below))


def tasks_by_slices(task, grid):
    t, h, w = grid
    given = torch.zeros(t, h, w, dtype=torch.bool)
    rows, columns = slice(h // 4, h * 3 // 4), slice(w // 4, w * 3 // 4)
    if task in ("FP", "CFP", "FI"):
        given[0] = True
    if task == "FI":
        given[-1] = True
    if task in ("OPC", "IPC"):
        given[:, rows, columns] = True
    if task == "OPV":
        given[:, :, columns] = True
    if task == "OPH":
        given[:, rows] = True
    if task in ("OPD", "IPD"):
        for i in range(t):
            left = round((w // 2) * i / (t - 1))
            given[i, rows if task == "IPD" else slice(h), left : left + w // 2] = True
    return ~given if task.startswith("IP") else given


def tasks_by_places(task, grid):
    """Asks for every place on its own."""
    t, h, w = grid

    def is_given(i, r, c):
        first, last = i == 0, i == t - 1
        row, column = h // 4 <= r < h * 3 // 4, w // 4 <= c < w * 3 // 4
        start = math.floor(w // 2 * i / (t - 1) + 0.5)
        moving = start <= c < start + w // 2
        return {
            "FP": first,
            "CFP": first,
            "FI": first or last,
            "OPC": row and column,
            "OPV": column,
            "OPH": row,
            "OPD": moving,
            "IPC": not (row and column),
            "IPD": not (row and moving),
            "CG": False,
        }[task]

    return torch.tensor(
        [[[is_given(i, r, c) for c in range(w)] for r in range(h)] for i in range(t)]
    )


def commit_by_cases(codes, condition, given, masked, mask_token):
    shown = codes.clone()
    shown[masked] = mask_token
    touched = masked & given
    shown[touched] = condition[touched]
    return shown


def commit_by_sums(codes, condition, given, masked, mask_token):
    masked, given = masked.long(), given.long()
    return (1 - masked) * codes + masked * (given * condition + (1 - given) * mask_token)


def schedule_by_numbers(steps, n):
    rows = []
    for left in n.tolist():
        start, row = left, []
        for step in range(1, steps + 1):
            left = max(0, min(int(start * math.cos(math.pi / 2 * step / steps)), left - 1))
            row.append(left)
        rows.append(row)
    return torch.tensor(rows).T.contiguous()


def schedule_by_tensors(steps, n):
    counts, left = [], n
    for step in range(1, steps):
        gamma = torch.cos(torch.tensor(math.pi / 2 * step / steps))
        left = torch.minimum((gamma * n).floor().long(), left - 1).clamp(min=0)
        counts.append(left)
    return torch.stack([*counts, torch.zeros_like(n)])


def decode_by_rows(logits, tokens, unknown, number, uniform, noise):
    tokens, again = tokens.clone(), torch.zeros_like(unknown)
    for b in range(len(tokens)):
        confidence = {}
        for i in unknown[b].nonzero().flatten().tolist():
            p = torch.softmax(logits[b, i], dim=0)
            code = int((p.cumsum(0) > uniform[b, i]).int().argmax())
            tokens[b, i] = code
            confidence[i] = float(p[code].log() + noise[b, i])
        again[b, sorted(confidence, key=confidence.get)[: int(number[b])]] = True
    return tokens, again


def decode_by_cut_off(logits, tokens, unknown, number, uniform, noise):
    """Compares with the confidence where the sorted list is cut, as the official code does."""
    guess = torch.searchsorted(logits.softmax(-1).cumsum(-1), uniform[..., None], right=True)
    confidence = logits.log_softmax(-1).gather(-1, guess)[..., 0] + noise
    confidence = confidence.where(unknown, math.inf)
    cut_off = confidence.sort().values.gather(1, number[:, None])
    return guess[..., 0].where(unknown, tokens), confidence < cut_off


def decode_by_scatter(logits, tokens, unknown, number, uniform, noise):
    p = logits.softmax(-1)
    guess = (p.cumsum(-1) <= uniform.unsqueeze(-1)).sum(-1)
    confidence = torch.take_along_dim(p.log(), guess[..., None], -1).squeeze(-1) + noise
    confidence[~unknown] = math.inf
    first = repeat(torch.arange(tokens.shape[1]), "n -> b n", b=len(tokens)) < number[:, None]
    return torch.where(unknown, guess, tokens), torch.zeros_like(unknown).scatter(
        1, confidence.argsort(1), first
    )


RIGHT = {
    "magvit.inflate": {
        "by_pad": inflate_by_pad,
        "by_one_hot": inflate_by_one_hot,
        "by_stack": inflate_by_stack,
    },
    "magvit.reflect_padding": {
        "by_flips": padding_by_flips,
        "by_index": padding_by_index,
        "place_by_place": padding_place_by_place,
    },
    "magvit.lecam": {"by_clamp": lecam_by_clamp, "by_where": lecam_by_where},
    "magvit.task_masks": {"by_slices": tasks_by_slices, "by_places": tasks_by_places},
    "magvit.commit_tokens": {"by_cases": commit_by_cases, "by_sums": commit_by_sums},
    "magvit.mask_schedule": {"by_numbers": schedule_by_numbers, "by_tensors": schedule_by_tensors},
    "magvit.parallel_decode": {
        "by_rows": decode_by_rows,
        "by_cut_off": decode_by_cut_off,
        "by_scatter": decode_by_scatter,
    },
}
