"""Notebook 08, first half: more wrong answers, and right ones written differently."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange
from torch.distributions import Normal, kl_divergence

from course_lib.diffusion.guidance import guide
from course_lib.papers import ldm, ldm_autoencoder

# ---------------------------------------------------------------- wrong


def kl_detached_mean(mean, log_variance):
    return ldm_autoencoder.kl_term(mean.detach(), log_variance)


def kl_clamped(mean, log_variance):
    """Holds the log variance where the encoder does not."""
    return ldm_autoencoder.kl_term(mean, log_variance.clamp(-10, 10))


def kl_in_bits(mean, log_variance):
    return ldm_autoencoder.kl_term(mean, log_variance) / math.log(2)


def kl_entropy_alone(mean, log_variance):
    return -0.5 * log_variance.flatten(1).sum(1)


def kl_places_alone(mean, log_variance):
    nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return nats.sum((-1, -2)) if nats.ndim > 2 else nats.sum(-1)


def kl_mean_over_batch(mean, log_variance):
    nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return nats.sum() / len(mean)


def kl_swapped(mean, log_variance):
    return ldm_autoencoder.kl_term(log_variance, mean)


def kl_one_term_not_halved(mean, log_variance):
    nats = mean.square() + 0.5 * (log_variance.exp() - 1 - log_variance)
    return nats.flatten(1).sum(1)


def kl_mean_of_values_last_axis(mean, log_variance):
    nats = 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance)
    return nats.flatten(1).mean(1) * mean.shape[-1]


def scale_of_the_first(latents):
    return 1 / latents[0].std(correction=0)


def scale_published(latents):
    """Stable Diffusion's number, whatever the latents."""
    return torch.tensor(0.18215, dtype=latents.dtype)


def scale_mean_absolute(latents):
    return 1 / (latents - latents.mean()).abs().mean()


def scale_number(latents):
    return float(ldm_autoencoder.scale_factor(latents))


def scale_rms_of_channels(latents):
    axes = [a for a in range(latents.ndim) if a != 1]
    return latents.var(axes, correction=0).mean().rsqrt()


def scale_mean_of_samples(latents):
    return (1 / latents.flatten(1).std(1, correction=0)).mean()


def scale_single_precision(latents):
    return 1 / latents.float().std(correction=0)


def scale_of_centred_samples(latents):
    flat = latents.flatten(1)
    return 1 / (flat - flat.mean(1, keepdim=True)).std(correction=0)


def attend_without_maximum(q, k, v, heads):
    """Overflows where scores are large."""
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).exp()
    h = weights / weights.sum(-1, keepdim=True) @ v
    return rearrange(h, "b h n d -> b n (h d)")


def attend_causally(q, k, v, heads):
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return rearrange(h, "b h n d -> b n (h d)")


def attend_scaled_by_heads(q, k, v, heads):
    return ldm.cross_attention(q / math.sqrt(heads), k, v, heads)


def attend_with_residual(q, k, v, heads):
    return q + ldm.cross_attention(q, k, v, heads)


def attend_hard(q, k, v, heads):
    return ldm.cross_attention(1000 * q, k, v, heads)


def attend_sigmoid(q, k, v, heads):
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    return rearrange((q @ k.mT / math.sqrt(q.shape[-1])).sigmoid() @ v, "b h n d -> b n (h d)")


def attend_values_of_the_first(q, k, v, heads):
    return ldm.cross_attention(q, k, v[:1].expand(v.shape), heads)


def attend_keys_detached(q, k, v, heads):
    return ldm.cross_attention(q, k.detach(), v, heads)


def attend_heads_left(q, k, v, heads):
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    return F.scaled_dot_product_attention(q, k, v)


def attend_softmax_over_heads(q, k, v, heads):
    q, k, v = (rearrange(x, "b n (h d) -> b h n d", h=heads) for x in (q, k, v))
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(1)
    return rearrange(weights @ v, "b h n d -> b n (h d)")


def guide_product(conditional, unconditional, scale):
    return scale * conditional * unconditional


def guide_squared(conditional, unconditional, scale):
    return unconditional + scale**2 * (conditional - unconditional)


def guide_held(conditional, unconditional, scale):
    """Never goes beyond the conditional output."""
    scale = torch.as_tensor(scale, dtype=conditional.dtype).clamp(0, 1)
    return torch.lerp(unconditional, conditional, scale)


def guide_rescaled(conditional, unconditional, scale):
    guided = guide(conditional, unconditional, scale)
    return guided * conditional.std() / guided.std()


def guide_truncated(conditional, unconditional, scale):
    whole = int(scale) if isinstance(scale, float) else scale
    return guide(conditional, unconditional, whole)


def guide_both_added(conditional, unconditional, scale):
    return unconditional + scale * (conditional + unconditional)


def guide_in_place(conditional, unconditional, scale):
    conditional -= unconditional
    return unconditional + scale * conditional


def guide_minus_w(conditional, unconditional, scale):
    return scale * conditional - unconditional


def sampler(
    seen=lambda v, x, a: (v * a.sqrt() + x * (1 - a).sqrt(), x * a.sqrt() - v * (1 - a).sqrt()),
    step=lambda x_start, eps, a, a_next: a_next.sqrt() * x_start + (1 - a_next).sqrt() * eps,
    start=lambda noise, a: noise,
    end=lambda steps: [*steps.tolist(), 0],
):
    """Build a sampler with another part."""

    @torch.no_grad()
    def answer(network, noise, context, null, scale, steps, alphas_cumprod):
        x = start(noise, alphas_cumprod[steps[0]])
        for now, later in pairwise(end(steps)):
            t = torch.full((len(x),), now)
            v = guide(network(x, t, context), network(x, t, null.expand_as(context)), scale)
            a, a_next = alphas_cumprod[now], alphas_cumprod[later]
            eps, x_start = seen(v, x, a)
            x = step(x_start, eps, a, a_next)
        return x

    return answer


def sample_single_time(network, noise, context, null, scale, steps, alphas_cumprod):
    """Gives the network one number for all."""
    return sampler()(
        lambda x, t, c: network(x, t[0], c), noise, context, null, scale, steps, alphas_cumprod
    )


def sample_zero_null(network, noise, context, null, scale, steps, alphas_cumprod):
    return ldm.sample(network, noise, context, 0 * null, scale, steps, alphas_cumprod)


def sample_null_not_expanded(network, noise, context, null, scale, steps, alphas_cumprod):
    x = noise
    for now, later in pairwise([*steps.tolist(), 0]):
        t = torch.full((len(x),), now)
        v = guide(network(x, t, context), network(x, t, null), scale)
        eps, x_start = ldm.from_velocity(v, x, t, alphas_cumprod)
        a = alphas_cumprod[later]
        x = a.sqrt() * x_start + (1 - a).sqrt() * eps
    return x


def sample_scale_plus_one(network, noise, context, null, scale, steps, alphas_cumprod):
    return ldm.sample(network, noise, context, null, scale + 1, steps, alphas_cumprod)


def sample_by_places(network, noise, context, null, scale, steps, alphas_cumprod):
    """Tells the network how many steps are left."""
    left = {int(step): len(steps) - i for i, step in enumerate(steps)}
    return sampler()(
        lambda x, t, c: network(x, torch.full_like(t, left[int(t[0])]), c),
        noise,
        context,
        null,
        scale,
        steps,
        alphas_cumprod,
    )


def sample_first_context(network, noise, context, null, scale, steps, alphas_cumprod):
    context = context[:1].expand_as(context)
    return ldm.sample(network, noise, context, null, scale, steps, alphas_cumprod)


def sample_one_step(network, noise, context, null, scale, steps, alphas_cumprod):
    return ldm.sample(network, noise, context, null, scale, steps[:1], alphas_cumprod)


def sample_clamped(network, noise, context, null, scale, steps, alphas_cumprod):
    return ldm.sample(network, noise, context, null, scale, steps, alphas_cumprod).clamp(-1, 1)


WRONG = {
    "ldm.kl_term": {
        "detached_mean": kl_detached_mean,
        "clamped": kl_clamped,
        "in_bits": kl_in_bits,
        "entropy_alone": kl_entropy_alone,
        "places_alone": kl_places_alone,
        "mean_over_batch": kl_mean_over_batch,
        "swapped": kl_swapped,
        "one_term_not_halved": kl_one_term_not_halved,
        "mean_of_values_last_axis": kl_mean_of_values_last_axis,
    },
    "ldm.scale_factor": {
        "of_the_first": scale_of_the_first,
        "published": scale_published,
        "mean_absolute": scale_mean_absolute,
        "number": scale_number,
        "rms_of_channels": scale_rms_of_channels,
        "mean_of_samples": scale_mean_of_samples,
        "single_precision": scale_single_precision,
        "of_centred_samples": scale_of_centred_samples,
    },
    "ldm.cross_attention": {
        "without_maximum": attend_without_maximum,
        "causally": attend_causally,
        "scaled_by_heads": attend_scaled_by_heads,
        "with_residual": attend_with_residual,
        "hard": attend_hard,
        "sigmoid": attend_sigmoid,
        "values_of_the_first": attend_values_of_the_first,
        "keys_detached": attend_keys_detached,
        "heads_left": attend_heads_left,
        "softmax_over_heads": attend_softmax_over_heads,
    },
    "ldm.guidance": {
        "product": guide_product,
        "squared": guide_squared,
        "held": guide_held,
        "rescaled": guide_rescaled,
        "truncated": guide_truncated,
        "both_added": guide_both_added,
        "in_place": guide_in_place,
        "minus_w": guide_minus_w,
    },
    "ldm.sample": {
        "single_time": sample_single_time,
        "zero_null": sample_zero_null,
        "null_not_expanded": sample_null_not_expanded,
        "scale_plus_one": sample_scale_plus_one,
        "by_places": sample_by_places,
        "first_context": sample_first_context,
        "one_step": sample_one_step,
        "clamped": sample_clamped,
        "start_scaled": sampler(start=lambda noise, a: (1 - a).sqrt() * noise),
        "to_no_noise": sampler(step=lambda x_start, eps, a, a_next: a_next.sqrt() * x_start),
        "variance_added": sampler(
            step=lambda x_start, eps, a, a_next: a_next.sqrt() * x_start + (1 - a_next) * eps
        ),
        "signal_not_shrunk": sampler(
            step=lambda x_start, eps, a, a_next: x_start + (1 - a_next).sqrt() * eps
        ),
        "first_left_out": sampler(end=lambda steps: [*steps[1:].tolist(), 0]),
    },
}


# ---------------------------------------------------------------- right


def kl_by_torch(mean, log_variance):
    q = Normal(mean, (log_variance / 2).exp())
    return kl_divergence(q, Normal(torch.zeros_like(mean), 1)).flatten(1).sum(1)


def kl_by_samples(mean, log_variance):
    rows = [
        -0.5 * torch.sum(1 + s - m**2 - s.exp()) for m, s in zip(mean, log_variance, strict=True)
    ]
    return torch.stack(rows)


def kl_by_einsum(mean, log_variance):
    m, s = mean.flatten(1), log_variance.flatten(1)
    rest = s.exp().sum(1) - s.sum(1) - s.shape[1]
    return (torch.einsum("bn,bn->b", m, m) + rest) / 2


def scale_by_moments(latents):
    values = latents.flatten()
    return ((values - values.mean()) ** 2).mean() ** -0.5


def scale_by_norm(latents):
    return math.sqrt(latents.numel()) / torch.linalg.vector_norm(latents - latents.mean())


def attend_by_einsum(q, k, v, heads):
    b, n, d = q.shape
    q, k, v = (x.reshape(b, -1, heads, d // heads) for x in (q, k, v))
    weights = torch.einsum("bnhd,bmhd->bhnm", q, k) / (d // heads) ** 0.5
    return torch.einsum("bhnm,bmhd->bnhd", weights.softmax(-1), v).reshape(b, n, d)


def attend_head_by_head(q, k, v, heads):
    size = q.shape[2] // heads
    parts = []
    for own in (slice(i * size, (i + 1) * size) for i in range(heads)):
        scores = q[:, :, own] @ k[:, :, own].mT * size**-0.5
        parts.append(scores.softmax(dim=2) @ v[:, :, own])
    return torch.cat(parts, dim=2)


def attend_by_chunks(q, k, v, heads):
    q, k, v = (torch.cat(x.chunk(heads, dim=2)) for x in (q, k, v))  # heads*b n d
    h = F.scaled_dot_product_attention(q, k, v)
    return torch.cat(h.chunk(heads), dim=2)


def guide_by_lerp(conditional, unconditional, scale):
    return scale * conditional + (1 - scale) * unconditional


def guide_by_w(conditional, unconditional, scale):
    return conditional + (scale - 1) * (conditional - unconditional)


@torch.no_grad()
def sample_in_one_batch(network, noise, context, null, scale, steps, alphas_cumprod):
    """Asks the network once about both."""
    x = noise
    both = torch.cat([null.expand(len(x), -1, -1), context])
    for now, later in pairwise([*steps.tolist(), 0]):
        t = torch.full((2 * len(x),), now)
        unconditional, conditional = network(torch.cat([x, x]), t, both).chunk(2)
        v = unconditional + scale * (conditional - unconditional)
        signal, sigma = alphas_cumprod[now].sqrt(), (1 - alphas_cumprod[now]).sqrt()
        x_start, eps = signal * x - sigma * v, sigma * x + signal * v
        x = alphas_cumprod[later].sqrt() * x_start + (1 - alphas_cumprod[later]).sqrt() * eps
    return x


def sample_by_angles(network, noise, context, null, scale, steps, alphas_cumprod):
    """Turns x and v: with alpha-bar = cos^2 a step is a rotation."""
    angle = alphas_cumprod.sqrt().acos()
    x = noise
    for i in range(len(steps)):
        t = steps[i].repeat(len(x))
        known = network(x, t, context)
        unknown = network(x, t, null.repeat(len(x), 1, 1))
        v = known + (scale - 1) * (known - unknown)
        turn = angle[steps[i]] - angle[steps[i + 1] if i + 1 < len(steps) else 0]
        x = turn.cos() * x - turn.sin() * v
    return x


RIGHT = {
    "ldm.kl_term": {
        "by_torch": kl_by_torch,
        "by_samples": kl_by_samples,
        "by_einsum": kl_by_einsum,
    },
    "ldm.scale_factor": {"by_moments": scale_by_moments, "by_norm": scale_by_norm},
    "ldm.cross_attention": {
        "by_einsum": attend_by_einsum,
        "head_by_head": attend_head_by_head,
        "by_chunks": attend_by_chunks,
    },
    "ldm.guidance": {"by_lerp": guide_by_lerp, "by_w": guide_by_w},
    "ldm.sample": {
        "in_one_batch": sample_in_one_batch,
        "by_angles": sample_by_angles,
        "in_a_loop": sampler(),
    },
}
