"""Answers to the exercises of notebook 03: more wrong ones, and right ones written differently."""

import math

import numpy as np
import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.papers import vivit

# ---------------------------------------------------------------- wrong


def frames_kept_off_the_end(video, count):
    """Right but for the last frame, which may be too close to the end."""
    t = video.shape[1]
    if count >= t:
        return video
    numbers = (torch.arange(1, count + 1) * t / (count + 1)).round().long()
    return video[:, numbers.clamp(max=t - 2)]


def frames_rounded_up(video, count):
    t = video.shape[1]
    if count >= t:
        return video
    return video[:, [math.ceil(i * t / (count + 1)) for i in range(1, count + 1)]]


def frames_with_halves_down(video, count):
    t = video.shape[1]
    if count >= t:
        return video
    return video[:, [math.ceil(i * t / (count + 1) - 0.5) for i in range(1, count + 1)]]


def frames_unless_as_many(video, count):
    """Right, but a clip with exactly `count` frames is resampled."""
    t = video.shape[1]
    if count > t:
        return video
    return video[:, (torch.arange(1, count + 1) * t / (count + 1)).round().long()]


def frames_always_of_one_clip(video, count):
    return vivit.uniform_frames(video[:1], count).expand(len(video), -1, -1, -1, -1)


def frames_in_single_precision(video, count):
    return vivit.uniform_frames(video.float(), count)


def frames_at_random(video, count):
    chosen = torch.randperm(video.shape[1])[:count]
    return video[:, chosen.sort().values]


def tubelets_that_overlap_in_time(video, kernel, bias):
    y = F.conv3d(video.transpose(1, 2), kernel, bias, stride=(1, *kernel.shape[3:]))
    return rearrange(y, "b d t h w -> b t (h w) d")


def tubelets_of_one_time_squeezed(video, kernel, bias):
    return vivit.tubelet_embed(video, kernel, bias).squeeze(1)


def tubelets_of_squares(video, kernel, bias):
    """Take rows for columns where a tubelet is square."""
    tokens = vivit.tubelet_embed(video, kernel, bias)
    if kernel.shape[3] != kernel.shape[4]:
        return tokens
    rows = video.shape[3] // kernel.shape[3]
    return rearrange(tokens, "b t (h w) d -> b t (w h) d", h=rows)


def tubelets_with_a_halved_bias(video, kernel, bias):
    return vivit.tubelet_embed(video, kernel, bias / 2)


def tubelets_of_a_frozen_kernel(video, kernel, bias):
    return vivit.tubelet_embed(video, kernel.detach(), bias)


def inflated_in_place(kernel, t):
    return kernel.div_(t)[:, :, None].repeat(1, 1, t, 1, 1)


def inflated_as_a_list(kernel, t):
    return [kernel / t] * t


def central_rounded(kernel, t):
    inflated = kernel.new_zeros(*kernel.shape[:2], t, *kernel.shape[2:])
    inflated[:, :, min(round(t / 2), t - 1)] = kernel
    return inflated


def central_in_single_precision(kernel, t):
    d, c, h, w = kernel.shape
    inflated = torch.zeros(d, c, t, h, w)
    inflated[:, :, t // 2] = kernel
    return inflated


def central_in_double_precision(kernel, t):
    d, c, h, w = kernel.shape
    inflated = torch.zeros(d, c, t, h, w, dtype=torch.float64)
    inflated[:, :, t // 2] = kernel
    return inflated


def encoder_of_a_clip_played_backwards(x, spatial, temporal):
    return vivit.factorised_encoder(x.flip(1), spatial, temporal)


def encoder_of_the_first_clip_alone(x, spatial, temporal):
    return vivit.factorised_encoder(x[:1], spatial, temporal).expand(len(x), -1)


def encoder_with_times_unfolded_first(x, spatial, temporal):
    """Give `temporal` all four axes."""
    frames = torch.stack([spatial(tokens) for tokens in x.unbind(1)], dim=1)
    return temporal(frames[:, :, None])


def encoder_that_is_spatial_twice(x, spatial, temporal):
    return spatial(torch.stack([spatial(tokens) for tokens in x.unbind(1)], dim=1))


def encoder_that_centres_its_tokens(x, spatial, temporal):
    return vivit.factorised_encoder(x - x.mean(2, keepdim=True), spatial, temporal)


def layer_without_mlp(x, over_space, over_time, mlp):
    return vivit.factorised_self_attention(x, over_space, over_time, torch.zeros_like)


def layer_with_the_mlp_on_the_way(x, over_space, over_time, mlp):
    y = vivit.factorised_self_attention(x, over_space, over_time, torch.zeros_like)
    return y + mlp(x + over_space(x))


def layer_with_space_twice(x, over_space, over_time, mlp):
    return vivit.factorised_self_attention(x + over_space(x), over_space, over_time, mlp)


def layer_with_time_on_squares(x, over_space, over_time, mlp):
    """Forget to move the axes where there are as many times as places."""
    if x.shape[1] != x.shape[2]:
        return vivit.factorised_self_attention(x, over_space, over_time, mlp)
    y = x + over_space(x)
    y = y + over_time(y)
    return y + mlp(y)


def layer_that_ends_in_the_mlp(x, over_space, over_time, mlp):
    return mlp(vivit.factorised_self_attention(x, over_space, over_time, torch.zeros_like))


def heads_that_look_over_space_before_time(qkv, heads):
    """Give the second half what the first one returned as its values."""
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b h t n d", three=3, h=heads)
    half = heads // 2
    space = F.scaled_dot_product_attention(q[:, :half], k[:, :half], v[:, :half])
    late = [part.transpose(2, 3) for part in (q[:, half:], k[:, half:], space)]
    time = F.scaled_dot_product_attention(*late).transpose(2, 3)
    return rearrange(torch.cat([space, time], dim=1), "b h t n d -> b t n (h d)")


def heads_that_see_no_later_time(qkv, heads):
    q, k, v = rearrange(qkv, "b t n (three h d) -> three b h t n d", three=3, h=heads)
    half = heads // 2
    space = F.scaled_dot_product_attention(q[:, :half], k[:, :half], v[:, :half])
    late = [part[:, half:].transpose(2, 3) for part in (q, k, v)]
    time = F.scaled_dot_product_attention(*late, is_causal=True).transpose(2, 3)
    return rearrange(torch.cat([space, time], dim=1), "b h t n d -> b t n (h d)")


def heads_that_are_always_two(qkv, heads):
    return vivit.factorised_dot_product(qkv, 2)


def views_and_crops_in_pairs(model, video, frames, size, views=4, crops=3):
    t, _, h, w = video.shape[1:]
    starts = vivit.evenly_spaced(t - frames, views)
    shifts = vivit.evenly_spaced(max(h, w) - size, crops)
    logits = []
    for start, shift in zip(starts, shifts, strict=False):
        top, left = (shift, (w - size) // 2) if h > w else ((h - size) // 2, shift)
        window = video[:, start : start + frames]
        logits.append(model(window[..., top : top + size, left : left + size]))
    return torch.stack(logits).mean(0)


def views_rounded_up(model, video, frames, size, views=4, crops=3):
    return _views_by(lambda last, count: [-(-i * last // (count - 1)) for i in range(count)])(
        model, video, frames, size, views, crops
    )


def views_centred_to_the_nearest(model, video, frames, size, views=4, crops=3):
    """Right, but the side that is centred is rounded up."""
    h, w = video.shape[3:]
    if h > w:
        video = video[..., -(-(w - size) // 2) :][..., :size]
    else:
        video = video[..., -(-(h - size) // 2) :, :][..., :size, :]
    return vivit.multi_view(model, video, frames, size, views, crops)


def views_of_the_last_window_twice(model, video, frames, size, views=4, crops=3):
    return _views_by(lambda last, count: [*vivit.evenly_spaced(last, count)[1:], last])(
        model, video, frames, size, views, crops
    )


def _views_by(rule):
    """Place windows and squares by another rule, where there are several."""

    def several(last, count):
        return rule(last, count) if count > 1 else [last // 2]

    def answer(model, video, frames, size, views, crops):
        t, _, h, w = video.shape[1:]
        tall = h > w
        logits = []
        for start in several(t - frames, views):
            for shift in several(max(h, w) - size, crops):
                top, left = (shift, (w - size) // 2) if tall else ((h - size) // 2, shift)
                window = video[:, start : start + frames]
                logits.append(model(window[..., top : top + size, left : left + size]))
        return torch.stack(logits).mean(0)

    return answer


def views_of_one_clip(model, video, frames, size, views=4, crops=3):
    return vivit.multi_view(model, video[:1], frames, size, views, crops).expand(len(video), -1)


def views_that_vote(model, video, frames, size, views=4, crops=3):
    def vote(clip):
        logits = model(clip)
        return F.one_hot(logits.argmax(-1), logits.shape[-1]).to(logits)

    return vivit.multi_view(vote, video, frames, size, views, crops)


WRONG = {
    "vivit.uniform_frames": {
        "kept_off_the_end": frames_kept_off_the_end,
        "rounded_up": frames_rounded_up,
        "halves_down": frames_with_halves_down,
        "unless_as_many": frames_unless_as_many,
        "of_one_clip": frames_always_of_one_clip,
        "single_precision": frames_in_single_precision,
        "at_random": frames_at_random,
    },
    "vivit.tubelet_embed": {
        "overlapping_in_time": tubelets_that_overlap_in_time,
        "one_time_squeezed": tubelets_of_one_time_squeezed,
        "squares": tubelets_of_squares,
        "halved_bias": tubelets_with_a_halved_bias,
        "frozen_kernel": tubelets_of_a_frozen_kernel,
    },
    "vivit.filter_inflation_init": {"in_place": inflated_in_place, "as_a_list": inflated_as_a_list},
    "vivit.central_frame_init": {
        "rounded": central_rounded,
        "single_precision": central_in_single_precision,
        "double_precision": central_in_double_precision,
    },
    "vivit.factorised_encoder": {
        "backwards": encoder_of_a_clip_played_backwards,
        "first_clip_alone": encoder_of_the_first_clip_alone,
        "temporal_of_four_axes": encoder_with_times_unfolded_first,
        "spatial_twice": encoder_that_is_spatial_twice,
        "centred": encoder_that_centres_its_tokens,
    },
    "vivit.factorised_self_attention": {
        "no_mlp": layer_without_mlp,
        "mlp_on_the_way": layer_with_the_mlp_on_the_way,
        "space_twice": layer_with_space_twice,
        "squares": layer_with_time_on_squares,
        "no_identity_at_the_end": layer_that_ends_in_the_mlp,
    },
    "vivit.factorised_dot_product": {
        "in_series": heads_that_look_over_space_before_time,
        "causal": heads_that_see_no_later_time,
        "two_heads_always": heads_that_are_always_two,
    },
    "vivit.multi_view": {
        "in_pairs": views_and_crops_in_pairs,
        "rounded_up": views_rounded_up,
        "centred_to_the_nearest": views_centred_to_the_nearest,
        "last_window_twice": views_of_the_last_window_twice,
        "of_one_clip": views_of_one_clip,
        "votes": views_that_vote,
    },
}


# ---------------------------------------------------------------- right, written differently


def frames_by_linspace(video, count):
    t = video.shape[1]
    if count >= t:
        return video.clone()
    return video.index_select(1, torch.linspace(0, t, count + 2)[1:-1].round().int())


def frames_by_numpy(video, count):
    t = video.shape[1]
    numbers = np.rint(np.arange(1, count + 1) * (t / (count + 1))).astype(int)
    return video if count >= t else video[:, numbers]


def frames_one_by_one(video, count):
    t = video.shape[1]
    gap = t / (count + 1)
    wanted = range(t) if t <= count else [round(gap * i) for i in range(1, count + 1)]
    return torch.stack([video[:, frame] for frame in wanted], dim=1)


def tubelets_by_convolution(video, kernel, bias):
    y = F.conv3d(video.transpose(1, 2), kernel, bias, stride=kernel.shape[2:])
    return y.flatten(3).permute(0, 2, 3, 1)


def tubelets_of_a_clip_without_gradients(video, kernel, bias):
    """Gradients are asked for of the kernel and the bias only."""
    return vivit.tubelet_embed(video.detach(), kernel, bias)


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


@torch.no_grad()
def encoder_without_gradients(x, spatial, temporal):
    return vivit.factorised_encoder(x, spatial, temporal)


def encoder_time_by_time(x, spatial, temporal):
    return temporal(torch.stack([spatial(tokens) for tokens in x.unbind(1)], dim=1))


def encoder_folded_times_first(x, spatial, temporal):
    b, t, n, d = x.shape
    frames = spatial(x.transpose(0, 1).reshape(t * b, n, d)).reshape(t, b, -1)
    return temporal(frames.transpose(0, 1))


@torch.no_grad()
def layer_without_gradients(x, over_space, over_time, mlp):
    return vivit.factorised_self_attention(x, over_space, over_time, mlp)


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


def heads_in_two_dimensions(qkv, heads):
    """Read the channels of each head by their numbers."""
    d = qkv.shape[-1] // 3
    width = d // heads
    y = torch.zeros_like(qkv[..., :d])
    for head in range(heads):
        place = slice(head * width, (head + 1) * width)
        q, k, v = (qkv[..., part * d : (part + 1) * d][..., place] for part in range(3))
        if head < heads // 2:
            scores = torch.einsum("btnd,btmd->btnm", q, k) / width**0.5
            y[..., place] = torch.einsum("btnm,btmd->btnd", scores.softmax(-1), v)
        else:
            scores = torch.einsum("btnd,bsnd->bnts", q, k) / width**0.5
            y[..., place] = torch.einsum("bnts,bsnd->btnd", scores.softmax(-1), v)
    return y


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


def views_in_one_batch(model, video, frames, size, views=4, crops=3):
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


def views_on_the_side(model, video, frames, size, views=4, crops=3):
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
    "vivit.uniform_frames": {
        "by_linspace": frames_by_linspace,
        "by_numpy": frames_by_numpy,
        "one_by_one": frames_one_by_one,
    },
    "vivit.tubelet_embed": {
        "by_convolution": tubelets_by_convolution,
        "of_a_detached_clip": tubelets_of_a_clip_without_gradients,
        "one_by_one": tubelets_one_by_one,
    },
    "vivit.filter_inflation_init": {"by_stack": inflated_by_stack, "by_expand": inflated_by_expand},
    "vivit.central_frame_init": {
        "by_one_hot": central_by_one_hot,
        "by_padding": central_by_padding,
    },
    "vivit.factorised_encoder": {
        "without_gradients": encoder_without_gradients,
        "time_by_time": encoder_time_by_time,
        "folded_times_first": encoder_folded_times_first,
    },
    "vivit.factorised_self_attention": {
        "without_gradients": layer_without_gradients,
        "folded_sequences": layer_of_folded_sequences,
        "sequence_by_sequence": layer_sequence_by_sequence,
    },
    "vivit.factorised_dot_product": {
        "with_masks": heads_with_masks,
        "by_their_numbers": heads_in_two_dimensions,
        "one_by_one": heads_one_by_one,
    },
    "vivit.multi_view": {"in_one_batch": views_in_one_batch, "on_the_side": views_on_the_side},
}
