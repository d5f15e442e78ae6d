"""Answers to the exercises of notebook 03: more wrong ones, and right ones written differently."""

import math

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.papers import vivit

# ---------------------------------------------------------------- wrong


def frames_of_a_clip_one_shorter(video, count):
    t = video.shape[1]
    if count >= t:
        return video
    return video[:, torch.linspace(0, t - 1, count + 2)[1:-1].round().long()]


def frames_at_random(video, count):
    chosen = torch.randperm(video.shape[1])[:count]
    return video[:, chosen.sort().values]


def tubelets_that_overlap_in_time(video, kernel, bias):
    y = F.conv3d(video.transpose(1, 2), kernel, bias, stride=(1, *kernel.shape[3:]))
    return rearrange(y, "b d t h w -> b t (h w) d")


def tubelets_of_a_frozen_kernel(video, kernel, bias):
    return vivit.tubelet_embed(video, kernel.detach(), bias)


def inflated_in_place(kernel, t):
    return kernel.div_(t)[:, :, None].repeat(1, 1, t, 1, 1)


def inflated_as_a_list(kernel, t):
    return [kernel / t] * t


def central_one_late(kernel, t):
    frames = torch.zeros(t)
    frames[min(t // 2 + 1, t - 1)] = 1
    return kernel[:, :, None] * frames[:, None, None]


def central_in_double_precision(kernel, t):
    d, c, h, w = kernel.shape
    inflated = torch.zeros(d, c, t, h, w, dtype=torch.float64)
    inflated[:, :, t // 2] = kernel
    return inflated


def encoder_of_a_clip_played_backwards(x, spatial, temporal):
    return vivit.factorised_encoder(x.flip(1), spatial, temporal)


def encoder_with_a_frozen_first_half(x, spatial, temporal):
    frames = torch.stack([spatial(x[:, t]) for t in range(x.shape[1])], dim=1)
    return temporal(frames.detach())


def layer_without_mlp(x, over_space, over_time, mlp):
    return vivit.factorised_self_attention(x, over_space, over_time, torch.zeros_like)


def layer_that_ends_in_the_mlp(x, over_space, over_time, mlp):
    return mlp(vivit.factorised_self_attention(x, over_space, over_time, torch.zeros_like))


def heads_that_all_look_over_time(qkv, heads):
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b n h t d", three=3, h=heads)
    return rearrange(F.scaled_dot_product_attention(q, k, v), "b n h t d -> b t n (h d)")


def heads_that_are_always_two(qkv, heads):
    return vivit.factorised_dot_product(qkv, 2)


def views_and_crops_in_pairs(model, video, frames, size, views, crops):
    t, _, h, w = video.shape[1:]
    logits = []
    for i in range(min(views, crops)):
        start = i * (t - frames) // max(views - 1, 1)
        shift = i * (max(h, w) - size) // max(crops - 1, 1)
        top, left = (shift, (w - size) // 2) if h > w else ((h - size) // 2, shift)
        window = video[:, start : start + frames]
        logits.append(model(window[..., top : top + size, left : left + size]))
    return torch.stack(logits).mean(0)


def a_single_view_from_the_start(model, video, frames, size, views, crops):
    if views == 1:
        video = video[:, :frames]
    return vivit.multi_view(model, video, frames, size, views, crops)


def views_that_vote(model, video, frames, size, views, crops):
    def vote(clip):
        logits = model(clip)
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)

    return vivit.multi_view(vote, video, frames, size, views, crops)


WRONG = {
    "vivit.uniform_frames": {
        "clip_one_shorter": frames_of_a_clip_one_shorter,
        "at_random": frames_at_random,
    },
    "vivit.tubelet_embed": {
        "overlapping_in_time": tubelets_that_overlap_in_time,
        "frozen_kernel": tubelets_of_a_frozen_kernel,
    },
    "vivit.filter_inflation_init": {"in_place": inflated_in_place, "as_a_list": inflated_as_a_list},
    "vivit.central_frame_init": {
        "one_late": central_one_late,
        "double_precision": central_in_double_precision,
    },
    "vivit.factorised_encoder": {
        "backwards": encoder_of_a_clip_played_backwards,
        "frozen_first_half": encoder_with_a_frozen_first_half,
    },
    "vivit.factorised_self_attention": {
        "no_mlp": layer_without_mlp,
        "no_identity_at_the_end": layer_that_ends_in_the_mlp,
    },
    "vivit.factorised_dot_product": {
        "only_time": heads_that_all_look_over_time,
        "two_heads_always": heads_that_are_always_two,
    },
    "vivit.multi_view": {
        "in_pairs": views_and_crops_in_pairs,
        "single_from_the_start": a_single_view_from_the_start,
        "votes": views_that_vote,
    },
}


# ---------------------------------------------------------------- right, written differently


def frames_by_linspace(video, count):
    t = video.shape[1]
    if count >= t:
        return video.clone()
    return video.index_select(1, torch.linspace(0, t, count + 2)[1:-1].round().int())


def frames_one_by_one(video, count):
    t = video.shape[1]
    gap = t / (count + 1)
    wanted = range(t) if t <= count else [round(gap * i) for i in range(1, count + 1)]
    return torch.stack([video[:, frame] for frame in wanted], dim=1)


def tubelets_by_convolution(video, kernel, bias):
    y = F.conv3d(video.transpose(1, 2), kernel, bias, stride=kernel.shape[2:])
    return y.flatten(3).permute(0, 2, 3, 1)


def tubelets_one_by_one(video, kernel, bias):
    kt, kh, kw = kernel.shape[2:]
    t, _, h, w = video.shape[1:]
    times = []
    for frame in range(0, t, kt):
        tokens = []
        for row in range(0, h, kh):
            for column in range(0, w, kw):
                box = video[:, frame : frame + kt, :, row : row + kh, column : column + kw]
                tokens.append(torch.einsum("btchw,dcthw->bd", box, kernel) + bias)
        times.append(torch.stack(tokens, dim=1))
    return torch.stack(times, dim=1)


def inflated_by_stack(kernel, t):
    return torch.stack([kernel] * t, dim=2) / t


def inflated_by_expand(kernel, t):
    return kernel.div(t).unsqueeze(2).expand(-1, -1, t, -1, -1)


def central_by_one_hot(kernel, t):
    frames = F.one_hot(torch.tensor(t // 2), t).to(kernel)
    return torch.einsum("dchw,t->dcthw", kernel, frames)


def central_by_padding(kernel, t):
    return F.pad(kernel[:, :, None], (0, 0, 0, 0, t // 2, t - 1 - t // 2))


def encoder_time_by_time(x, spatial, temporal):
    return temporal(torch.stack([spatial(tokens) for tokens in x.unbind(1)], dim=1))


def encoder_folded_times_first(x, spatial, temporal):
    b, t, n, d = x.shape
    frames = spatial(x.transpose(0, 1).reshape(t * b, n, d)).reshape(t, b, -1)
    return temporal(frames.transpose(0, 1))


def layer_of_folded_sequences(x, over_space, over_time, mlp):
    b = len(x)
    h = rearrange(x, "b t n d -> (b t) n d")
    h = h + over_space(h)
    h = rearrange(h, "(b t) n d -> (b n) t d", b=b)
    h = h + over_time(h)
    h = h + mlp(h)
    return rearrange(h, "(b n) t d -> b t n d", b=b)


def layer_sequence_by_sequence(x, over_space, over_time, mlp):
    x = x + torch.stack([over_space(tokens) for tokens in x.unbind(1)], dim=1)
    x = x + torch.stack([over_time(times) for times in x.unbind(2)], dim=2)
    return mlp(x) + x


def heads_with_masks(qkv, heads):
    """Attend over all tokens of the clip, with minus infinity where a head does not look."""
    t, n = qkv.shape[1:3]
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b h (t n) d", three=3, h=heads)
    time = torch.arange(t * n) // n
    place = torch.arange(t * n) % n
    seen = torch.stack([time[:, None] == time, place[:, None] == place])
    seen = seen.repeat_interleave(heads // 2, 0)
    scores = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(~seen, -math.inf)
    return rearrange(scores.softmax(-1) @ v, "b h (t n) d -> b t n (h d)", t=t)


def heads_one_by_one(qkv, heads):
    d = qkv.shape[-1] // 3 // heads
    q, k, v = (part.split(d, dim=-1) for part in qkv.chunk(3, dim=-1))
    outputs = []
    for head in range(heads):
        over_time = head >= heads // 2
        three = [part[head].transpose(1, 2) if over_time else part[head] for part in (q, k, v)]
        y = torch.softmax(three[0] @ three[1].mT * d**-0.5, dim=-1) @ three[2]
        outputs.append(y.transpose(1, 2) if over_time else y)
    return torch.cat(outputs, dim=-1)


def views_in_one_batch(model, video, frames, size, views, crops):
    t, _, h, w = video.shape[1:]
    starts = [(t - frames) // 2]
    if views > 1:
        starts = torch.linspace(0, t - frames, views).int().tolist()
    slack = max(h, w) - size
    shifts = [slack * i // (crops - 1) for i in range(crops)] if crops > 1 else [slack // 2]
    middle = (min(h, w) - size) // 2
    corners = [(shift, middle) if h > w else (middle, shift) for shift in shifts]
    clips = []
    for start in starts:
        for top, left in corners:
            window = video[:, start : start + frames]
            clips.append(window[..., top : top + size, left : left + size])
    return model(torch.cat(clips)).unflatten(0, (views * crops, -1)).mean(0)


def views_on_the_side(model, video, frames, size, views, crops):
    """Turn an upright clip on its side, cut it, and set each cut upright again."""
    upright = video.shape[3] > video.shape[4]
    wide = video.mT if upright else video
    t = wide.shape[1]
    short, long = wide.shape[3:]
    wide = wide[..., (short - size) // 2 :, :][..., :size, :]
    total = 0
    for view in range(views):
        start = view * (t - frames) // (views - 1) if views > 1 else (t - frames) // 2
        for crop in range(crops):
            left = crop * (long - size) // (crops - 1) if crops > 1 else (long - size) // 2
            clip = wide[:, start : start + frames, ..., left : left + size]
            total = total + model(clip.mT if upright else clip) / (views * crops)
    return total


RIGHT = {
    "vivit.uniform_frames": {"by_linspace": frames_by_linspace, "one_by_one": frames_one_by_one},
    "vivit.tubelet_embed": {
        "by_convolution": tubelets_by_convolution,
        "one_by_one": tubelets_one_by_one,
    },
    "vivit.filter_inflation_init": {"by_stack": inflated_by_stack, "by_expand": inflated_by_expand},
    "vivit.central_frame_init": {
        "by_one_hot": central_by_one_hot,
        "by_padding": central_by_padding,
    },
    "vivit.factorised_encoder": {
        "time_by_time": encoder_time_by_time,
        "folded_times_first": encoder_folded_times_first,
    },
    "vivit.factorised_self_attention": {
        "folded_sequences": layer_of_folded_sequences,
        "sequence_by_sequence": layer_sequence_by_sequence,
    },
    "vivit.factorised_dot_product": {
        "with_masks": heads_with_masks,
        "one_by_one": heads_one_by_one,
    },
    "vivit.multi_view": {"in_one_batch": views_in_one_batch, "on_the_side": views_on_the_side},
}
