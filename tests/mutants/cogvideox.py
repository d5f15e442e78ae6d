"""Notebook 09, second half: more wrong answers, and right ones written differently."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import einsum, rearrange

from course_lib.diffusion import ddim_step_towards, guide, shift_snr, trailing_steps
from course_lib.diffusion import zero_terminal_snr as rescaled
from course_lib.nn.frame_pack import frame_pack
from course_lib.nn.rope import rotate
from course_lib.papers.cogvideox import expert_adaln, expert_block
from course_lib.papers.cogvideox_diffusion import (
    dynamic_guidance,
    explicit_uniform,
    sample,
    sample_ddim,
    v_target,
)

# ---------------------------------------------------------------- wrong


def adaln_first_token(text, video, text_expert, video_expert):
    """Takes the first token's expert for all."""
    return expert_adaln(text, video, text_expert[:, :1], video_expert[:, :1])


def adaln_first_row(text, video, text_expert, video_expert):
    return expert_adaln(
        text,
        video,
        text_expert[:1].expand_as(text_expert),
        video_expert[:1].expand_as(video_expert),
    )


def adaln_together(text, video, text_expert, video_expert):
    """Returns one sequence."""
    text, video, *gates = expert_adaln(text, video, text_expert, video_expert)
    return torch.cat([text, video], dim=1), *gates


def adaln_without_gates(text, video, text_expert, video_expert):
    return expert_adaln(text, video, text_expert, video_expert)[:2]


def adaln_exponential(text, video, text_expert, video_expert):
    """Scales by e^scale, which is near 1 + scale."""
    out = []
    for x, expert in ((text, text_expert), (video, video_expert)):
        shift, scale, gate = expert.chunk(3, dim=-1)
        out.append((x * scale.exp() + shift, gate))
    return out[0][0], out[1][0], out[0][1], out[1][1]


def adaln_squashed_gates(text, video, text_expert, video_expert):
    text, video, *gates = expert_adaln(text, video, text_expert, video_expert)
    return text, video, *(gate.tanh() for gate in gates)


def adaln_detached(text, video, text_expert, video_expert):
    return expert_adaln(text, video, text_expert.detach(), video_expert)


def adaln_shift_taken_away(text, video, text_expert, video_expert):
    d = text.shape[-1]
    sign = torch.ones(3 * d).to(text)
    sign[:d] = -1
    return expert_adaln(text, video, text_expert * sign, video_expert * sign)


def adaln_averaged(text, video, text_expert, video_expert):
    """Gives both the mean of the experts."""
    mean = (text_expert.mean(1, keepdim=True) + video_expert.mean(1, keepdim=True)) / 2
    return expert_adaln(text, video, mean, mean)


def block_with(change):
    """Build expert_block on changed arguments."""

    def answer(text, video, time, angles, layers):
        given = {"text": text, "video": video, "time": time, "angles": angles, "layers": layers}
        return expert_block(**{**given, **change(given)})

    return answer


def block_exchanged(text, video, time, angles, layers):
    """Returns the video first."""
    return expert_block(text, video, time, angles, layers)[::-1]


def block_together(text, video, time, angles, layers):
    return torch.cat(expert_block(text, video, time, angles, layers), dim=1)


def block_twice(text, video, time, angles, layers):
    return expert_block(*expert_block(text, video, time, angles, layers), time, angles, layers)


def block_attention_alone(text, video, time, angles, layers):
    """Stops after the first half."""
    normed = layers.norm1(text), layers.norm1(video)
    *seen, text_gate, video_gate = expert_adaln(*normed, *layers.experts1(time))
    seen = attended(layers.attention, *seen, angles)
    return text + text_gate * seen[0], video + video_gate * seen[1]


def attended(a, text, video, angles):
    x = torch.cat([text, video], dim=1)
    q, k, v = (f(x).unflatten(-1, (a.heads, -1)) for f in (a.query, a.key, a.value))
    q, k = a.norm_query(q), a.norm_key(k)
    if angles is not None:
        q, k = rotate(q, angles), rotate(k, angles)
    weights = einsum(q, k, "b n h d, b s h d -> b h n s") / q.shape[-1] ** 0.5
    seen = a.out(einsum(weights.softmax(-1), v, "b h n s, b s h d -> b n h d").flatten(-2))
    return seen[:, : text.shape[1]], seen[:, text.shape[1] :]


def block_mlp_first(text, video, time, angles, layers):
    """Lets the MLP come before attention."""
    normed = layers.norm2(text), layers.norm2(video)
    *seen, text_gate, video_gate = expert_adaln(*normed, *layers.experts2(time))
    text, video = (
        text + text_gate * layers.mlp(seen[0]),
        video + video_gate * layers.mlp(seen[1]),
    )
    return block_attention_alone(text, video, time, angles, layers)


def block_norm_of_the_sequence(text, video, time, angles, layers):
    """Modulates before it normalizes."""
    *seen, text_gate, video_gate = expert_adaln(text, video, *layers.experts1(time))
    seen = attended(layers.attention, layers.norm1(seen[0]), layers.norm1(seen[1]), angles)
    text, video = text + text_gate * seen[0], video + video_gate * seen[1]
    *seen, text_gate, video_gate = expert_adaln(text, video, *layers.experts2(time))
    seen = [layers.mlp(layers.norm2(x)) for x in seen]
    return text + text_gate * seen[0], video + video_gate * seen[1]


def block_video_first(text, video, time, angles, layers):
    """Puts the video before the text."""
    normed = layers.norm1(text), layers.norm1(video)
    *seen, text_gate, video_gate = expert_adaln(*normed, *layers.experts1(time))
    seen = attended(layers.attention, *seen[::-1], angles)[::-1]
    text, video = text + text_gate * seen[0], video + video_gate * seen[1]
    normed = layers.norm2(text), layers.norm2(video)
    *seen, text_gate, video_gate = expert_adaln(*normed, *layers.experts2(time))
    return text + text_gate * layers.mlp(seen[0]), video + video_gate * layers.mlp(seen[1])


def block_in_place(text, video, time, angles, layers):
    """Writes into what it is given."""
    new = expert_block(text, video, time, angles, layers)
    with torch.no_grad():
        text.copy_(new[0])
    return new


def target_with(change):
    """Build v_target on changed arguments."""

    def answer(x_start, t, noise, alphas_cumprod):
        given = {"x_start": x_start, "t": t, "noise": noise, "alphas_cumprod": alphas_cumprod}
        return v_target(**{**given, **change(given)})

    return answer


def target_of_the_sample(x_start, t, noise, alphas_cumprod):
    """Uses x_t for x_0."""
    a = alphas_cumprod[t].reshape(-1, *[1] * (x_start.ndim - 1)).to(x_start)
    x_t = a.sqrt() * x_start + (1 - a).sqrt() * noise
    return a.sqrt() * noise - (1 - a).sqrt() * x_t


def target_last_axis(x_start, t, noise, alphas_cumprod):
    """Lets the steps run along the last axis."""
    a = alphas_cumprod[t][..., : x_start.shape[-1]].to(x_start)
    a = F.pad(a, (0, x_start.shape[-1] - len(a)), value=0.5)
    return a.sqrt() * noise - (1 - a).sqrt() * x_start


def target_clamped(x_start, t, noise, alphas_cumprod):
    return v_target(x_start, t, noise, alphas_cumprod.clamp(min=1e-2))


def terminal_small(alphas_cumprod, snr_shift=1.0):
    """Leaves something at the end, lest a division fail."""
    return rescaled(alphas_cumprod, snr_shift).clamp(min=1e-4)


def terminal_by_betas(alphas_cumprod, snr_shift=1.0):
    """Returns betas."""
    table = rescaled(alphas_cumprod, snr_shift)
    return 1 - table / F.pad(table[:-1], (1, 0), value=1.0)


def terminal_twice(alphas_cumprod, snr_shift=1.0):
    return rescaled(rescaled(alphas_cumprod, snr_shift), snr_shift)


def terminal_other_default(alphas_cumprod, snr_shift=3.0):
    return rescaled(alphas_cumprod, snr_shift)


def terminal_to_the_least(alphas_cumprod, snr_shift=1.0):
    """Divides by the whole range from 1."""
    root = shift_snr(alphas_cumprod, snr_shift).sqrt()
    return ((root - root[-1]) * root[0] / (1 - root[-1])).square()


def terminal_in_place(alphas_cumprod, snr_shift=1.0):
    new = rescaled(alphas_cumprod, snr_shift)
    alphas_cumprod.copy_(new)
    return new


def terminal_rounded(alphas_cumprod, snr_shift=1.0):
    return rescaled(alphas_cumprod, snr_shift).round(decimals=4)


def terminal_turned(alphas_cumprod, snr_shift=1.0):
    return rescaled(alphas_cumprod, snr_shift).flip(0)


def steps_with(change):
    """Build explicit_uniform on changed arguments."""

    def answer(uniform, timesteps, rank=0, ranks=1):
        given = {"uniform": uniform, "timesteps": timesteps, "rank": rank, "ranks": ranks}
        return explicit_uniform(**{**given, **change(given)})

    return answer


def steps_drawn(uniform, timesteps, rank=0, ranks=1):
    """Draws its own numbers."""
    return explicit_uniform(torch.rand(len(uniform)), timesteps, rank, ranks)


def steps_short(uniform, timesteps, rank=0, ranks=1):
    return explicit_uniform(uniform, timesteps, rank, ranks).int()


def steps_listed(uniform, timesteps, rank=0, ranks=1):
    return explicit_uniform(uniform, timesteps, rank, ranks).tolist()


def steps_of_a_thousand(uniform, timesteps, rank=0, ranks=1):
    return explicit_uniform(uniform, 1000, rank, ranks)


def steps_by_multiplying(uniform, timesteps, rank=0, ranks=1):
    """Multiplies the interval by the number where it should add."""
    n = len(uniform)
    return ((rank * n + torch.arange(n)) * uniform.double() * timesteps / (n * ranks)).long()


def steps_in_the_other_order(uniform, timesteps, rank=0, ranks=1):
    return explicit_uniform(uniform, timesteps, ranks - 1 - rank, ranks)


def pack_with(change):
    """Build frame_pack with its tables changed."""

    def answer(durations, length):
        tables = frame_pack(durations, length)
        return tuple({**tables._asdict(), **change(*tables)}.values())

    return answer


def pack_two_tables(durations, length):
    return tuple(frame_pack(durations, length))[:2]


def pack_wide(durations, length):
    """Gives `numbers` a column for every clip."""
    clip, place, numbers = frame_pack(durations, length)
    return clip, place, F.pad(numbers, (0, len(durations) - numbers.shape[1]), value=-1)


def pack_long(durations, length):
    """Adds a row that nothing is in."""
    clip, place, numbers = frame_pack(durations, length)
    return (
        F.pad(clip, (0, 0, 0, 1), value=-1),
        F.pad(place, (0, 0, 0, 1)),
        F.pad(numbers, (0, 0, 0, 1), value=-1),
    )


def pack_another_error(durations, length):
    if max(durations) > length:
        raise IndexError("too long")
    return frame_pack(durations, length)


def pack_refuses_whole_rows(durations, length):
    if max(durations) >= length:
        raise ValueError("a clip fills its row")
    return frame_pack(durations, length)


def pack_spread(durations, length):
    """Leaves a frame between clips where there is room; else nothing."""
    clip, place, numbers = frame_pack(durations, length)
    return clip.roll(1, dims=1), place.roll(1, dims=1), numbers


def ramp_of_sines(steps, scale=6.0, power=5.0):
    done = torch.arange(steps, dtype=torch.float64) / steps
    return 1 + scale * torch.sin(math.pi / 2 * done**power)


def ramp_of_half_a_turn(steps, scale=6.0, power=5.0):
    done = torch.arange(steps, dtype=torch.float64) / steps
    return 1 + scale * (1 - torch.cos(math.pi / 2 * done**power)) / 2


def ramp_root(steps, scale=6.0, power=5.0):
    return dynamic_guidance(steps, scale, 1 / power)


def ramp_own_settings(steps, scale=6.0, power=5.0):
    return dynamic_guidance(steps)


def ramp_other_default(steps, scale=6.0, power=2.0):
    return dynamic_guidance(steps, scale, power)


def ramp_all_scaled(steps, scale=6.0, power=5.0):
    """Multiplies the 1, too."""
    return scale * dynamic_guidance(steps, 1.0, power)


def ramp_longer(steps, scale=6.0, power=5.0):
    """Has an entry for the end as well."""
    return F.pad(dynamic_guidance(steps, scale, power), (0, 1), value=1.0 + scale)


def ramp_listed(steps, scale=6.0, power=5.0):
    return dynamic_guidance(steps, scale, power).tolist()


def ramp_degrees(steps, scale=6.0, power=5.0):
    done = torch.arange(steps, dtype=torch.float64) / steps
    return 1 + scale * (1 - torch.cos(180 * done**power)) / 2


def sampler_with(change):
    """Build the sampler on changed arguments."""

    def answer(network, noise, text, null, count, alphas_cumprod, scale=6.0):
        given = {
            "network": network,
            "noise": noise,
            "text": text,
            "null": null,
            "count": count,
            "alphas_cumprod": alphas_cumprod,
            "scale": scale,
        }
        return sample_ddim(**{**given, **change(given)})

    return answer


def sampler_scalar_time(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    def told(x, t, words):
        return network(x, t[0], words)

    return sample_ddim(told, noise, text, null, count, alphas_cumprod, scale)


def sampler_share_told(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Tells the network how much of the way is left, a number up to 1."""

    def told(x, t, words):
        return network(x, t / len(alphas_cumprod), words)

    return sample_ddim(told, noise, text, null, count, alphas_cumprod, scale)


def sampler_null_of_one(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Does not give every sample the null text."""
    x = noise
    steps = trailing_steps(len(alphas_cumprod), count).flip(0)
    for step, strength in zip(steps, dynamic_guidance(count, scale), strict=True):
        t = step.expand(len(x))
        v = guide(network(x, t, text), network(x, t, null), strength)
        x = x - v
    return x


def sampler_fresh_noise(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Adds x_0 to the start's noise at the next level, whatever the network finds in between."""
    bars = alphas_cumprod[trailing_steps(len(alphas_cumprod), count).flip(0)]
    x = noise
    scales = dynamic_guidance(count, scale)
    steps = trailing_steps(len(alphas_cumprod), count).flip(0).tolist()
    for i, (a, a_next) in enumerate(pairwise(F.pad(bars, (0, 1), value=1.0))):
        t = torch.full((len(x),), steps[i])
        v = guide(network(x, t, text), network(x, t, null.expand_as(text)), scales[i])
        x_start = a.sqrt() * x - (1 - a).sqrt() * v
        x = a_next.sqrt() * x_start + (1 - a_next).sqrt() * noise
    return x


def sampler_clamped(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Keeps x_0 in [-1, 1], as one does with pixels."""
    return sample_ddim(network, noise, text, null, count, alphas_cumprod, scale).clamp(-1, 1)


def sampler_first_estimate(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Goes all the way in one step, from the last."""
    t = torch.full((len(noise),), len(alphas_cumprod) - 1)
    a = alphas_cumprod[-1]
    return a.sqrt() * noise - (1 - a).sqrt() * network(noise, t, text)


def sampler_double(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    return sample_ddim(network, noise.double(), text, null, count, alphas_cumprod, scale)


def doubled(name):
    return lambda given: {name: 2 * given[name]}


def without(name):
    return lambda given: {name: 0 * given[name]}


WRONG = {
    "cogvideox.expert_adaln": {
        "first_token": adaln_first_token,
        "first_row": adaln_first_row,
        "together": adaln_together,
        "without_gates": adaln_without_gates,
        "exponential": adaln_exponential,
        "squashed_gates": adaln_squashed_gates,
        "detached": adaln_detached,
        "shift_taken_away": adaln_shift_taken_away,
        "averaged": adaln_averaged,
    },
    "cogvideox.expert_block": {
        "exchanged": block_exchanged,
        "together": block_together,
        "twice": block_twice,
        "attention_alone": block_attention_alone,
        "mlp_first": block_mlp_first,
        "normed_after_the_experts": block_norm_of_the_sequence,
        "video_first": block_video_first,
        "in_place": block_in_place,
        "without_time": block_with(without("time")),
        "turned_back": block_with(
            lambda given: {"angles": None if given["angles"] is None else given["angles"].flip(-2)}
        ),
        "never_turned": block_with(lambda given: {"angles": None}),
        "text_detached": block_with(lambda given: {"text": given["text"].detach()}),
    },
    "cogvideox.v_target": {
        "of_the_sample": target_of_the_sample,
        "last_axis": target_last_axis,
        "clamped": target_clamped,
        "doubled_noise": target_with(doubled("noise")),
        "no_clip": target_with(without("x_start")),
        "no_noise": target_with(without("noise")),
        "steps_turned": target_with(lambda given: {"t": given["t"].flip(0)}),
        "table_turned": target_with(
            lambda given: {"alphas_cumprod": given["alphas_cumprod"].flip(0)}
        ),
        "step_after": target_with(
            lambda given: {"t": (given["t"] + 1).clamp(max=len(given["alphas_cumprod"]) - 1)}
        ),
    },
    "cogvideox.zero_terminal_snr": {
        "small": terminal_small,
        "by_betas": terminal_by_betas,
        "twice": terminal_twice,
        "other_default": terminal_other_default,
        "to_the_least": terminal_to_the_least,
        "in_place": terminal_in_place,
        "rounded": terminal_rounded,
        "turned": terminal_turned,
    },
    "cogvideox.explicit_uniform": {
        "drawn": steps_drawn,
        "short": steps_short,
        "listed": steps_listed,
        "of_a_thousand": steps_of_a_thousand,
        "by_multiplying": steps_by_multiplying,
        "ranks_in_the_other_order": steps_in_the_other_order,
        "turned_numbers": steps_with(lambda given: {"uniform": 1 - 2**-24 - given["uniform"]}),
        "one_step_more": steps_with(lambda given: {"timesteps": given["timesteps"] + 1}),
    },
    "cogvideox.frame_pack": {
        "two_tables": pack_two_tables,
        "wide": pack_wide,
        "long": pack_long,
        "another_error": pack_another_error,
        "refuses_whole_rows": pack_refuses_whole_rows,
        "spread": pack_spread,
        "rows_turned": pack_with(
            lambda clip, place, numbers: {
                "clip": clip.flip(0),
                "place": place.flip(0),
                "numbers": numbers.flip(0),
            }
        ),
        "short_numbers": pack_with(lambda clip, place, numbers: {"numbers": numbers.int()}),
        "numbers_from_one": pack_with(lambda clip, place, numbers: {"numbers": numbers + 1}),
        "there_or_not": pack_with(lambda clip, place, numbers: {"clip": clip.clamp(max=0)}),
    },
    "cogvideox.dynamic_guidance": {
        "of_sines": ramp_of_sines,
        "of_half_a_turn": ramp_of_half_a_turn,
        "root": ramp_root,
        "own_settings": ramp_own_settings,
        "other_default": ramp_other_default,
        "all_scaled": ramp_all_scaled,
        "longer": ramp_longer,
        "listed": ramp_listed,
        "degrees": ramp_degrees,
    },
    "cogvideox.sampler": {
        "scalar_time": sampler_scalar_time,
        "share_told": sampler_share_told,
        "null_of_one": sampler_null_of_one,
        "fresh_noise": sampler_fresh_noise,
        "clamped": sampler_clamped,
        "first_estimate": sampler_first_estimate,
        "in_double": sampler_double,
        "twice_the_scale": sampler_with(doubled("scale")),
        "null_is_zero": sampler_with(without("null")),
        "one_text_for_all": sampler_with(
            lambda given: {"text": given["text"][:1].expand_as(given["text"])}
        ),
        "one_step_less": sampler_with(lambda given: {"count": max(given["count"] - 1, 2)}),
        "other_table": sampler_with(
            lambda given: {"alphas_cumprod": rescaled(given["alphas_cumprod"], 3.0)}
        ),
    },
}


# ---------------------------------------------------------------- right


def adaln_by_slices(text, video, text_expert, video_expert):
    d = text.shape[-1]
    changed = [
        torch.addcmul(e[..., :d] + x, x, e[..., d : 2 * d])
        for x, e in ((text, text_expert), (video, video_expert))
    ]
    return [*changed, text_expert[..., 2 * d :], video_expert[..., 2 * d :]]


def adaln_by_rearrange(text, video, text_expert, video_expert):
    pattern = "b n (three d) -> three b n d"
    shift, scale, gate = rearrange(text_expert, pattern, three=3)
    shift2, scale2, gate2 = rearrange(video_expert, pattern, three=3)
    return scale * text + text + shift, scale2 * video + video + shift2, gate, gate2


def adaln_by_sizes(text, video, text_expert, video_expert):
    d = video.shape[2]
    shift, scale, gate = text_expert.split(d, dim=2)
    text = shift + (scale + 1) * text
    shift, scale, video_gate = video_expert.split([d, d, d], dim=2)
    return text, shift + (scale + 1) * video, gate, video_gate


def block_by_halves(text, video, time, angles, layers):
    text, video = block_attention_alone(text, video, time, angles, layers)
    for_text, for_video = layers.experts2(time)
    normed = layers.norm2(text), layers.norm2(video)
    *seen, text_gate, video_gate = expert_adaln(*normed, for_text, for_video)
    return [text + text_gate * layers.mlp(seen[0]), video + video_gate * layers.mlp(seen[1])]


def block_as_one_sequence(text, video, time, angles, layers):
    """Keeps one sequence, with an expert for every token."""
    m, n, a = text.shape[1], video.shape[1], layers.attention
    x = torch.cat([text, video], dim=1)

    def experts(of):
        for_text, for_video = of(time)
        rows = [for_text.expand(-1, m, -1), for_video.expand(-1, n, -1)]
        return torch.cat(rows, dim=1).chunk(3, dim=-1)

    shift, scale, gate = experts(layers.experts1)
    y = layers.norm1(x) * (1 + scale) + shift
    q, k, v = (
        rearrange(f(y), "b n (h d) -> b h n d", h=a.heads) for f in (a.query, a.key, a.value)
    )
    q, k = a.norm_query(q), a.norm_key(k)
    if angles is not None:
        q, k = (rotate(z.transpose(1, 2), angles).transpose(1, 2) for z in (q, k))
    y = F.scaled_dot_product_attention(q, k, v)
    x = x + gate * a.out(y.transpose(1, 2).flatten(2))

    shift, scale, gate = experts(layers.experts2)
    x = x + gate * layers.mlp(layers.norm2(x) * (1 + scale) + shift)
    return x[:, :m], x[:, m:]


def block_head_by_head(text, video, time, angles, layers):
    """Attends in one head after the other."""
    a, m = layers.attention, text.shape[1]
    (s, c, g), (s2, c2, g2) = (e.chunk(3, dim=2) for e in layers.experts1(time))
    y = torch.cat([layers.norm1(text) * (1 + c) + s, layers.norm1(video) * (1 + c2) + s2], dim=1)
    heads = []
    for q, k, v in zip(*(f(y).chunk(a.heads, -1) for f in (a.query, a.key, a.value)), strict=True):
        q, k = a.norm_query(q), a.norm_key(k)
        if angles is not None:
            q, k = (rotate(z[:, :, None], angles)[:, :, 0] for z in (q, k))
        heads.append((q @ k.mT / math.sqrt(q.shape[2])).softmax(2) @ v)
    y = a.out(torch.cat(heads, dim=2))
    text, video = text + g * y[:, :m], video + g2 * y[:, m:]

    (s, c, g), (s2, c2, g2) = (e.chunk(3, dim=2) for e in layers.experts2(time))
    text = text + g * layers.mlp(layers.norm2(text) * (1 + c) + s)
    return text, video + g2 * layers.mlp(layers.norm2(video) * (1 + c2) + s2)


def target_by_angle(x_start, t, noise, alphas_cumprod):
    phi = alphas_cumprod.sqrt().acos()[t].to(x_start)
    phi = phi.reshape(len(t), *[1] * (x_start.ndim - 1))
    return phi.cos() * noise - phi.sin() * x_start


def target_one_by_one(x_start, t, noise, alphas_cumprod):
    v = []
    for x, step, eps in zip(x_start, t.tolist(), noise, strict=True):
        a = float(alphas_cumprod[step])
        v.append(math.sqrt(a) * eps - math.sqrt(1 - a) * x)
    return torch.stack(v)


def target_single(x_start, t, noise, alphas_cumprod):
    a = alphas_cumprod.to(x_start)[t]
    signal, sigma = a**0.5, (1 - a) ** 0.5
    flat = signal[:, None] * noise.flatten(1) - sigma[:, None] * x_start.flatten(1)
    return flat.view_as(x_start)


def terminal_by_ratio(alphas_cumprod, snr_shift=1.0):
    """Works with 1 / SNR, which is 0 where alpha_bar is 1."""
    inverse = snr_shift * (1 - alphas_cumprod) / alphas_cumprod
    root = (1 + inverse) ** -0.5
    first, last = root[0].clone(), root[-1].clone()
    return (first * (root - last) / (first - last)) ** 2


def terminal_by_line(alphas_cumprod, snr_shift=1.0):
    a = alphas_cumprod / (alphas_cumprod + snr_shift * (1 - alphas_cumprod))
    root = a.sqrt()
    slope = root[0] / (root[0] - root[-1])
    return (slope * root - slope * root[-1]).square()


def terminal_only_if_shifted(alphas_cumprod, snr_shift=1.0):
    if snr_shift != 1:
        alphas_cumprod = shift_snr(alphas_cumprod, snr_shift)
    root = torch.sqrt(alphas_cumprod)
    return ((root - root.min()) / (root.max() - root.min()) * root.max()) ** 2


def steps_by_shares(uniform, timesteps, rank=0, ranks=1):
    count = len(uniform)
    first = rank * count
    interval = torch.arange(first, first + count, dtype=torch.float64)
    return torch.floor((interval + uniform) * (timesteps / (count * ranks))).to(torch.int64)


def steps_by_numbers(uniform, timesteps, rank=0, ranks=1):
    length = timesteps / (len(uniform) * ranks)
    start = rank * len(uniform)
    steps = [int((start + i + u) * length) for i, u in enumerate(uniform.tolist())]
    return torch.tensor(steps)


def steps_single_and_clamped(uniform, timesteps, rank=0, ranks=1):
    """Adds in single precision, but lets nothing go too far."""
    n = len(uniform)
    share = (torch.arange(n) + rank * n + uniform) / (n * ranks)
    return (share * timesteps).long().clamp(0, timesteps - 1)


def steps_of_all_ranks(uniform, timesteps, rank=0, ranks=1):
    """Cuts the borders of all ranks, and goes into its own."""
    n = len(uniform)
    borders = torch.arange(n * ranks + 1).double() * timesteps / (n * ranks)
    mine = borders[rank * n : rank * n + n + 1]
    return torch.lerp(mine[:-1], mine[1:], uniform.double()).floor().long()


def pack_by_lists(durations, length):
    longest = sorted(enumerate(durations), key=lambda pair: (-pair[1], pair[0]))
    if longest[0][1] > length:
        raise ValueError("too long")
    rows, room = [], []
    for number, duration in longest:
        row = next((i for i, free in enumerate(room) if free >= duration), len(rows))
        if row == len(rows):
            rows.append([])
            room.append(length)
        rows[row].append(number)
        room[row] -= duration
    most = max(len(row) for row in rows)
    clip, place, numbers = [], [], []
    for row, free in zip(rows, room, strict=True):
        clip.append([k for k, i in enumerate(row) for _ in range(durations[i])] + [-1] * free)
        place.append([j for i in row for j in range(durations[i])] + [0] * free)
        numbers.append(row + [-1] * (most - len(row)))
    return torch.tensor(clip), torch.tensor(place), torch.tensor(numbers)


def pack_by_tensors(durations, length):
    """Finds room with tensors, and times by counting."""
    duration = torch.tensor(durations)
    if (duration > length).any():
        raise ValueError(f"expected at most {length} frames")
    clip = torch.full((len(durations), length), -1)
    numbers = torch.full((len(durations), len(durations)), -1)
    for number in duration.sort(descending=True, stable=True).indices.tolist():
        used = (clip >= 0).sum(1)
        row = int((used + duration[number] <= length).int().argmax())
        slot = int((numbers[row] >= 0).sum())
        clip[row, used[row] : used[row] + duration[number]] = slot
        numbers[row, slot] = number
    kept = int((clip >= 0).any(1).sum())
    clip, numbers = clip[:kept], numbers[:kept]
    numbers = numbers[:, : int((numbers >= 0).sum(1).max())]
    place = torch.zeros_like(clip)
    for frame in range(1, length):
        same = clip[:, frame] == clip[:, frame - 1]
        place[:, frame] = torch.where(same & (clip[:, frame] >= 0), place[:, frame - 1] + 1, 0)
    return [clip, place, numbers]


def pack_as_the_solution(durations, length):
    if max(durations) > length:
        raise ValueError(f"a clip of {max(durations)} frames is longer than a row")
    rows = []
    for i in sorted(range(len(durations)), key=lambda i: -durations[i]):
        for row in rows:
            if sum(durations[j] for j in row) + durations[i] <= length:
                row.append(i)
                break
        else:
            rows.append([i])

    clip = torch.full((len(rows), length), -1)
    place = torch.zeros(len(rows), length, dtype=torch.int64)
    numbers = torch.full((len(rows), max(map(len, rows))), -1)
    for r, row in enumerate(rows):
        start = 0
        for k, i in enumerate(row):
            end = start + durations[i]
            clip[r, start:end] = k
            place[r, start:end] = torch.arange(durations[i])
            numbers[r, k] = i
            start = end
    return clip, place, numbers


def ramp_by_half_angle(steps, scale=6.0, power=5.0):
    """Uses (1 - cos 2a) / 2 = sin^2 a."""
    done = torch.linspace(0, 1, steps + 1, dtype=torch.float64)[:-1]
    return 1 + scale * torch.sin(math.pi / 2 * done.pow(power)).square()


def ramp_by_numbers(steps, scale=6.0, power=5.0):
    grown = [(1 - math.cos(math.pi * (i / steps) ** power)) / 2 for i in range(steps)]
    return torch.tensor([1 + scale * share for share in grown], dtype=torch.float64)


def ramp_by_mean(steps, scale=6.0, power=5.0):
    done = torch.arange(steps).double().div(steps)
    return torch.lerp(
        torch.full_like(done, 1.0 + scale),
        torch.ones_like(done),
        (1 + (math.pi * done**power).cos()) / 2,
    )


@torch.no_grad()
def sampler_as_the_solution(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    x = noise
    steps = torch.arange(count, 0, -1) * len(alphas_cumprod) // count - 1
    alpha_bars = F.pad(alphas_cumprod[steps], (0, 1), value=1.0)
    scales = dynamic_guidance(count, scale)
    for i, step in enumerate(steps.tolist()):
        t = torch.full((len(x),), step)
        known = network(x, t, text)
        unknown = network(x, t, null.expand_as(text))
        v = guide(known, unknown, scales[i])

        a, a_next = alpha_bars[i : i + 2]
        x_start = a.sqrt() * x - (1 - a).sqrt() * v
        eps = (1 - a).sqrt() * x + a.sqrt() * v
        x = a_next.sqrt() * x_start + (1 - a_next).sqrt() * eps
    return x


def sampler_as_one_batch(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Asks for both outputs at once, with gradients on."""
    x, b, stride = noise.clone(), len(noise), len(alphas_cumprod) // count
    texts = torch.cat([text, null.repeat(b, 1, 1)])
    for i, strength in enumerate(dynamic_guidance(count, scale).tolist()):
        step = len(alphas_cumprod) - 1 - i * stride
        both = network(x.repeat(2, 1, 1, 1, 1), torch.full((2 * b,), step), texts)
        v = strength * both[:b] + (1 - strength) * both[b:]
        a = float(alphas_cumprod[step])
        a_next = float(alphas_cumprod[step - stride]) if i < count - 1 else 1.0
        x_start = math.sqrt(a) * x - math.sqrt(1 - a) * v
        eps = math.sqrt(1 - a) * x + math.sqrt(a) * v
        x = math.sqrt(a_next) * x_start + math.sqrt(1 - a_next) * eps
    return x


@torch.no_grad()
def sampler_by_angles(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Turns x by the difference of two angles: cos = sqrt(alpha_bar)."""
    steps = trailing_steps(len(alphas_cumprod), count).flip(0)
    angles = F.pad(alphas_cumprod.sqrt().acos()[steps], (0, 1)).tolist()
    x = noise
    for step, strength, turns in zip(
        steps.tolist(), dynamic_guidance(count, scale), pairwise(angles), strict=True
    ):
        t = torch.full((len(x),), step)
        unknown = network(x, t, null.expand(len(x), -1, -1))
        v = unknown + strength * (network(x, t, text) - unknown)
        turn = turns[0] - turns[1]
        x = math.cos(turn) * x - math.sin(turn) * v
    return x


@torch.no_grad()
def sampler_towards(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    stride = len(alphas_cumprod) // count
    x = noise
    for i in range(count):
        step = (count - i) * stride - 1
        t = torch.tensor([step] * len(x))
        v = guide(
            network(x, t, text),
            network(x, t, null.expand_as(text)),
            float(dynamic_guidance(count, scale)[i]),
        )
        a = alphas_cumprod[step]
        a_next = alphas_cumprod[step - stride] if step >= stride else torch.ones_like(a)
        x = ddim_step_towards(x, a.sqrt() * x - (1 - a).sqrt() * v, a, a_next)
    return x


def sampler_scales_by_step(network, noise, text, null, count, alphas_cumprod, scale=6.0):
    """Takes the ramp over all steps of training, at those that are visited: the same."""
    timesteps = len(alphas_cumprod)
    steps = trailing_steps(timesteps, count)
    scales = dynamic_guidance(timesteps, scale)[timesteps - 1 - steps].flip(0)
    return sample(network, noise, text, null, scales, steps, alphas_cumprod)


RIGHT = {
    "cogvideox.expert_adaln": {
        "by_slices": adaln_by_slices,
        "by_rearrange": adaln_by_rearrange,
        "by_sizes": adaln_by_sizes,
    },
    "cogvideox.expert_block": {
        "by_halves": block_by_halves,
        "as_one_sequence": block_as_one_sequence,
        "head_by_head": block_head_by_head,
    },
    "cogvideox.v_target": {
        "by_angle": target_by_angle,
        "one_by_one": target_one_by_one,
        "single": target_single,
    },
    "cogvideox.zero_terminal_snr": {
        "by_ratio": terminal_by_ratio,
        "by_line": terminal_by_line,
        "only_if_shifted": terminal_only_if_shifted,
    },
    "cogvideox.explicit_uniform": {
        "by_shares": steps_by_shares,
        "by_numbers": steps_by_numbers,
        "single_and_clamped": steps_single_and_clamped,
        "of_all_ranks": steps_of_all_ranks,
    },
    "cogvideox.frame_pack": {
        "by_lists": pack_by_lists,
        "by_tensors": pack_by_tensors,
        "as_the_solution": pack_as_the_solution,
    },
    "cogvideox.dynamic_guidance": {
        "by_half_angle": ramp_by_half_angle,
        "by_numbers": ramp_by_numbers,
        "by_mean": ramp_by_mean,
    },
    "cogvideox.sampler": {
        "as_the_solution": sampler_as_the_solution,
        "as_one_batch": sampler_as_one_batch,
        "by_angles": sampler_by_angles,
        "towards": sampler_towards,
        "scales_by_step": sampler_scales_by_step,
    },
}
