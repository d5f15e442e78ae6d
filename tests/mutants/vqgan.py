"""Answers to the exercises of notebook 04: more wrong ones, and right ones written differently."""

import math

import torch
import torch.nn.functional as F
from einops import einsum

from course_lib.lm import sampling
from course_lib.losses import adversarial
from course_lib.nn import attention
from course_lib.papers import vqgan
from course_lib.quantize import vq

# ---------------------------------------------------------------- wrong


def nearest_as_one_hot(z, codebook):
    return F.one_hot(vq.nearest_code(z, codebook), len(codebook))


def nearest_largest_difference(z, codebook):
    return (z[:, None] - codebook).abs().amax(-1).argmin(1)


def nearest_by_length(z, codebook):
    return (z.norm(dim=1)[:, None] - codebook.norm(dim=1)).abs().argmin(1)


def nearest_by_sums(z, codebook):
    """Square the sum of the differences, not each of them."""
    return (z[:, None] - codebook).sum(-1).square().argmin(1)


def straight_through_parameter(z, z_q):
    """Make a new tensor, without a gradient to either."""
    return torch.tensor(z_q.tolist(), requires_grad=True)


def straight_through_codes(z, z_q):
    return z_q


def straight_through_half_gradient(z, z_q):
    return z_q.detach() + (z - z.detach()) / 2


def straight_through_sum(z, z_q):
    return z + z_q.detach()


def straight_through_scaled(z, z_q):
    """Multiply z by a detached ratio: the value is z_q's, the gradient has the ratio in it."""
    return z * (z_q / z).detach()


def vq_loss_root(z, z_q, beta):
    return (z.detach() - z_q).norm() + beta * (z - z_q.detach()).norm()


def vq_loss_pair(z, z_q, beta):
    return F.mse_loss(z.detach(), z_q), beta * F.mse_loss(z, z_q.detach())


def vq_loss_every_entry(z, z_q, beta):
    return (z.detach() - z_q).square() + beta * (z - z_q.detach()).square()


def vq_loss_all_detached(z, z_q, beta):
    return vq.vq_loss(z, z_q, beta).detach()


def vq_loss_commitment_without_beta(z, z_q, beta):
    return F.mse_loss(z, z_q.detach())


def vq_loss_twice_beta(z, z_q, beta):
    return beta * vq.vq_loss(z, z_q, beta)


def vq_loss_averaged(z, z_q, beta):
    """Make the weights add up to 1."""
    return vq.vq_loss(z, z_q, beta) / (1 + beta)


def ema_in_place(codebook, counts, sums, z, indices, decay, eps):
    new = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    for old, value in zip((codebook, counts, sums), new, strict=True):
        old.copy_(value)
    return codebook, counts, sums


def ema_only_codes(codebook, counts, sums, z, indices, decay, eps):
    return vq.ema_update(codebook, counts, sums, z, indices, decay, eps)[0]


def ema_sums_first(codebook, counts, sums, z, indices, decay, eps):
    codebook, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    return codebook, sums, counts


def ema_where_enough(codebook, counts, sums, z, indices, decay, eps):
    """Leave codes where they are whose count is small, though not zero."""
    moved, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    return torch.where(counts[:, None] > eps, moved, codebook), counts, sums


def ema_where_chosen(codebook, counts, sums, z, indices, decay, eps):
    """Leave codes where they are that got no vector this time."""
    moved, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    n = indices.bincount(minlength=len(codebook))
    return torch.where(n[:, None] > 0, moved, codebook), counts, sums


def ema_without_k(codebook, counts, sums, z, indices, decay, eps):
    """Leave the number of codes out of the smoothing."""
    old = codebook
    _, counts, sums = vq.ema_update(codebook, counts, sums, z, indices, decay, eps)
    smooth = (counts + eps) / (counts.sum() + eps) * counts.sum()
    return torch.where(counts[:, None] > 0, sums / smooth[:, None], old), counts, sums


def ema_each_vector_once(codebook, counts, sums, z, indices, decay, eps):
    """Add by indexing, which counts a repeated index once."""
    n = torch.zeros_like(counts)
    total = torch.zeros_like(sums)
    n[indices] += 1
    total[indices] += z
    counts = decay * counts + (1 - decay) * n
    sums = decay * sums + (1 - decay) * total
    smooth = (counts + eps) / (counts.sum() + len(counts) * eps) * counts.sum()
    return torch.where(counts[:, None] > 0, sums / smooth[:, None], codebook), counts, sums


def weight_of_the_input(reconstruction_loss, generator_loss, last_layer, delta):
    """Take the last layer itself, not its gradients."""
    return last_layer.detach().norm() / (last_layer.detach().norm() + delta)


def weight_scaled(reconstruction_loss, generator_loss, last_layer, delta):
    return 0.8 * adversarial.adaptive_weight(reconstruction_loss, generator_loss, last_layer, delta)


def weight_held_at_a_thousand(reconstruction_loss, generator_loss, last_layer, delta):
    weight = adversarial.adaptive_weight(reconstruction_loss, generator_loss, last_layer, delta)
    return weight.clamp(max=1e3)


def weight_at_least_one(reconstruction_loss, generator_loss, last_layer, delta):
    weight = adversarial.adaptive_weight(reconstruction_loss, generator_loss, last_layer, delta)
    return weight.clamp(min=1)


def weight_with_a_fixed_delta(reconstruction_loss, generator_loss, last_layer, delta):
    return adversarial.adaptive_weight(reconstruction_loss, generator_loss, last_layer, 1e-4)


def weight_frees_the_graph_late(reconstruction_loss, generator_loss, last_layer, delta):
    """Keep the graph for the second loss only."""
    (r,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (g,) = torch.autograd.grad(generator_loss, last_layer)
    return (r.norm() / (g.norm() + delta)).clamp(0, 1e4)


def weight_elementwise(reconstruction_loss, generator_loss, last_layer, delta):
    (r,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (g,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    return (r.abs() / (g.abs() + delta)).clamp(max=1e4).mean()


def weight_per_filter(reconstruction_loss, generator_loss, last_layer, delta):
    (r,) = torch.autograd.grad(reconstruction_loss, last_layer, retain_graph=True)
    (g,) = torch.autograd.grad(generator_loss, last_layer, retain_graph=True)
    return (r.flatten(2).norm(dim=2) / (g.flatten(2).norm(dim=2) + delta)).clamp(max=1e4).mean()


def weight_leaves_gradients(reconstruction_loss, generator_loss, last_layer, delta):
    """Use `backward`, whose gradients the training step then adds to its own."""
    reconstruction_loss.backward(retain_graph=True)
    r = last_layer.grad.clone()
    generator_loss.backward(retain_graph=True)
    return (r.norm() / ((last_layer.grad - r).norm() + delta)).clamp(max=1e4)


def weight_as_a_number(reconstruction_loss, generator_loss, last_layer, delta):
    return adversarial.adaptive_weight(
        reconstruction_loss, generator_loss, last_layer, delta
    ).item()


def hinge_summed(real, fake):
    return (F.relu(1 - real).sum() + F.relu(1 + fake).sum()) / 2


def hinge_per_image(real, fake):
    real_loss = F.relu(1 - real).flatten(1).mean(1).mean()
    fake_loss = F.relu(1 + fake).flatten(1).sum(1).mean()
    return (real_loss + fake_loss) / 2


def hinge_of_probabilities(real, fake):
    return (F.relu(1 - real.sigmoid()).mean() + F.relu(1 + fake.sigmoid()).mean()) / 2


def hinge_fake_detached(real, fake):
    return adversarial.hinge_discriminator_loss(real, fake.detach())


def hinge_constant(real, fake):
    return torch.zeros(())


def hinge_only_real(real, fake):
    return F.relu(1 - real).mean() / 2


def hinge_one_half(real, fake):
    return F.relu(1 - real).mean() / 2 + F.relu(1 + fake).mean()


def hinge_squared(real, fake):
    return (F.relu(1 - real).square().mean() + F.relu(1 + fake).square().mean()) / 2


def mask_one_step_ahead(m, n):
    return torch.ones(m, n, dtype=torch.bool).tril(n - m + 1)


def mask_upside_down(m, n):
    return attention.causal_mask(m, n).flip(0)


def mask_with_heads(m, n):
    return attention.causal_mask(m, n)[None, None]


def mask_only_the_last(m, n):
    """Shift the diagonal only where a single token asks."""
    return attention.causal_mask(m, n) if m in (1, n) else torch.ones(m, n, dtype=torch.bool).tril()


def mask_of_the_first(m, n):
    """Take the first rows of the square mask."""
    return attention.causal_mask(n, n)[:m]


def mask_local(m, n):
    """Show a token itself and the one before it."""
    mask = attention.causal_mask(m, n)
    return mask & ~mask.tril(n - m - 2)


def top_k_multinomial(logits, k, temperature, uniform):
    return sampling.next_token_probabilities(logits, temperature, k).multinomial(1)[:, 0]


def top_k_of_the_batch(logits, k, temperature, uniform):
    """Take one threshold for all rows."""
    kept = logits.masked_fill(
        logits < logits.flatten().topk(k * len(logits)).values[-1], -torch.inf
    )
    p = (kept / temperature).softmax(-1).nan_to_num()
    return (p.cumsum(-1) <= uniform[:, None]).sum(-1)


def top_k_zeros(logits, k, temperature, uniform):
    """Set the other logits to zero, which is a logit like any other."""
    kept = logits * (logits >= logits.topk(k).values[:, -1:])
    return sampling.draw_tokens((kept / temperature).softmax(-1), uniform)


def top_k_as_a_column(logits, k, temperature, uniform):
    return sampling.top_k_sample(logits, k, temperature, uniform)[:, None]


def top_k_argmax_without_sum(logits, k, temperature, uniform):
    p = (logits / temperature).softmax(-1)
    p = p * (logits >= logits.topk(k).values[:, -1:])
    return (p.cumsum(-1) > uniform[:, None]).int().argmax(-1)


def top_k_evenly(logits, k, temperature, uniform):
    return sampling.draw_tokens((logits >= logits.topk(k).values[:, -1:]).float(), uniform)


def top_k_by_scatter(logits, k, temperature, uniform):
    """Keep exactly k tokens, whichever of equals `topk` lists."""
    values, tokens = logits.topk(k, sorted=False)
    p = torch.zeros_like(logits).scatter(1, tokens, (values / temperature).softmax(1))
    return (p.cumsum(1) > uniform[:, None]).int().argmax(1)


def top_k_minus_ten(logits, k, temperature, uniform):
    """Set the other logits to -10, which is a logit like any other."""
    kept = logits.masked_fill(logits < logits.topk(k).values[:, -1:], -10.0)
    p = (kept / temperature).softmax(-1)
    return sampling.draw_tokens(p, uniform)


def top_k_minus_thirty(logits, k, temperature, uniform):
    kept = logits.masked_fill(logits < logits.topk(k).values[:, -1:], -30.0)
    p = (kept / temperature).softmax(-1)
    return sampling.draw_tokens(p, uniform)


def top_k_constant(logits, k, temperature, uniform):
    return torch.zeros(len(logits), dtype=torch.int64)


def window_as_floats(row, column, grid, window):
    return tuple(float(x) for x in vqgan.sliding_window(row, column, grid, window))


def window_with_its_end(row, column, grid, window):
    top, left = vqgan.sliding_window(row, column, grid, window)
    return top, left, top + window[0], left + window[1]


def window_place_inside(row, column, grid, window):
    top, left = vqgan.sliding_window(row, column, grid, window)
    return row - top, column - left


def window_constant(row, column, grid, window):
    return 0, 0


def window_middle_rounded(row, column, grid, window):
    """Round half a window to the even number, as Python's `round` does."""
    edges = zip((row, column), grid, window, strict=True)
    return tuple(min(max(place - round(size / 2), 0), whole - size) for place, whole, size in edges)


def window_one_inside(row, column, grid, window):
    edges = zip((row, column), grid, window, strict=True)
    return tuple(max(0, min(place - size // 2, whole - size - 1)) for place, whole, size in edges)


WRONG = {
    "vqgan.nearest_code": {
        "as_one_hot": nearest_as_one_hot,
        "largest_difference": nearest_largest_difference,
        "by_length": nearest_by_length,
        "by_sums": nearest_by_sums,
    },
    "vqgan.straight_through": {
        "parameter": straight_through_parameter,
        "codes": straight_through_codes,
        "half_gradient": straight_through_half_gradient,
        "sum": straight_through_sum,
        "scaled": straight_through_scaled,
    },
    "vqgan.vq_loss": {
        "root": vq_loss_root,
        "pair": vq_loss_pair,
        "every_entry": vq_loss_every_entry,
        "all_detached": vq_loss_all_detached,
        "averaged": vq_loss_averaged,
        "commitment_without_beta": vq_loss_commitment_without_beta,
        "twice_beta": vq_loss_twice_beta,
    },
    "vqgan.ema_update": {
        "in_place": ema_in_place,
        "only_codes": ema_only_codes,
        "sums_first": ema_sums_first,
        "each_vector_once": ema_each_vector_once,
        "where_enough": ema_where_enough,
        "where_chosen": ema_where_chosen,
        "without_k": ema_without_k,
    },
    "vqgan.adaptive_weight": {
        "of_the_input": weight_of_the_input,
        "scaled": weight_scaled,
        "elementwise": weight_elementwise,
        "per_filter": weight_per_filter,
        "leaves_gradients": weight_leaves_gradients,
        "as_a_number": weight_as_a_number,
        "held_at_a_thousand": weight_held_at_a_thousand,
        "at_least_one": weight_at_least_one,
        "with_a_fixed_delta": weight_with_a_fixed_delta,
        "frees_the_graph_late": weight_frees_the_graph_late,
    },
    "vqgan.hinge_loss": {
        "summed": hinge_summed,
        "per_image": hinge_per_image,
        "of_probabilities": hinge_of_probabilities,
        "fake_detached": hinge_fake_detached,
        "squared": hinge_squared,
        "constant": hinge_constant,
        "only_real": hinge_only_real,
        "one_half": hinge_one_half,
    },
    "vqgan.causal_mask": {
        "one_step_ahead": mask_one_step_ahead,
        "upside_down": mask_upside_down,
        "with_heads": mask_with_heads,
        "local": mask_local,
        "only_the_last": mask_only_the_last,
        "of_the_first": mask_of_the_first,
    },
    "vqgan.top_k_sample": {
        "multinomial": top_k_multinomial,
        "of_the_batch": top_k_of_the_batch,
        "zeros": top_k_zeros,
        "as_a_column": top_k_as_a_column,
        "argmax_without_sum": top_k_argmax_without_sum,
        "evenly": top_k_evenly,
        "by_scatter": top_k_by_scatter,
        "minus_ten": top_k_minus_ten,
        "minus_thirty": top_k_minus_thirty,
        "constant": top_k_constant,
    },
    "vqgan.sliding_window": {
        "as_floats": window_as_floats,
        "with_its_end": window_with_its_end,
        "place_inside": window_place_inside,
        "one_inside": window_one_inside,
        "constant": window_constant,
        "middle_rounded": window_middle_rounded,
    },
}


# ---------------------------------------------------------------- right, written differently


def nearest_by_cdist(z, codebook):
    return torch.cdist(z, codebook).argmin(dim=-1)


def nearest_by_loop(z, codebook):
    return torch.stack([((codebook - vector) ** 2).sum(1).min(0).indices for vector in z])


def nearest_by_score(z, codebook):
    return (z @ codebook.T - codebook.square().sum(1) / 2).argmax(1)


def straight_through_from_z(z, z_q):
    return z + (z_q - z).detach()


class _Through(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z, z_q):
        return z_q.clone()

    @staticmethod
    def backward(ctx, gradient):
        return gradient, None


def straight_through_by_function(z, z_q):
    return _Through.apply(z, z_q)


def vq_loss_by_squares(z, z_q, beta):
    codebook = torch.mean((z_q - z.detach()) ** 2)
    commitment = torch.mean((z_q.detach() - z) ** 2)
    return codebook + beta * commitment


def vq_loss_by_sums(z, z_q, beta):
    towards = (z.detach() - z_q).pow(2).sum() + beta * (z - z_q.detach()).pow(2).sum()
    return towards / z.numel()


def ema_by_one_hot(codebook, counts, sums, z, indices, decay, eps):
    given = F.one_hot(indices, len(codebook)).float()  # n k
    counts = torch.lerp(given.sum(0), counts, decay)
    sums = torch.lerp(einsum(given, z, "n k, n d -> k d"), sums, decay)
    total = counts.sum()
    share = (counts + eps) / (total + eps * len(counts))
    moved = sums / (share * total)[:, None]
    return moved.where(counts[:, None] != 0, codebook), counts, sums


def ema_by_loop(codebook, counts, sums, z, indices, decay, eps):
    codebook = codebook.clone()
    counts = counts.clone()
    sums = sums.clone()
    for code in range(len(codebook)):
        mine = z[indices == code]
        counts[code] = decay * counts[code] + (1 - decay) * len(mine)
        sums[code] = decay * sums[code] + (1 - decay) * mine.sum(0)
    for code in range(len(codebook)):
        if counts[code] > 0:
            smooth = (counts[code] + eps) / (counts.sum() + len(counts) * eps) * counts.sum()
            codebook[code] = sums[code] / smooth
    return codebook, counts, sums


def weight_by_squares(reconstruction_loss, generator_loss, last_layer, delta):
    def length(loss):
        (gradient,) = torch.autograd.grad(loss, [last_layer], retain_graph=True)
        return gradient.flatten().pow(2).sum().sqrt()

    return torch.minimum(
        length(reconstruction_loss) / (length(generator_loss) + delta), torch.tensor(1e4)
    )


def weight_by_backward(reconstruction_loss, generator_loss, last_layer, delta):
    norms = []
    for loss in (reconstruction_loss, generator_loss):
        last_layer.grad = None
        loss.backward(retain_graph=True)
        norms.append(torch.linalg.vector_norm(last_layer.grad))
    last_layer.grad = None
    return torch.clamp(norms[0] / (norms[1] + delta), 0, 1e4)


def weight_detached_late(reconstruction_loss, generator_loss, last_layer, delta):
    (r,) = torch.autograd.grad(reconstruction_loss, last_layer, create_graph=True)
    (g,) = torch.autograd.grad(generator_loss, last_layer, create_graph=True)
    return (r.norm() / (g.norm() + delta)).clamp(max=1e4).detach()


def hinge_by_clamp(real, fake):
    return 0.5 * (1 - real).clamp(min=0).mean() + 0.5 * (1 + fake).clamp(min=0).mean()


def hinge_by_maximum(real, fake):
    zero = torch.zeros(())
    return torch.stack(
        [torch.maximum(zero, 1 - real).mean(), torch.maximum(zero, 1 + fake).mean()]
    ).mean()


def mask_by_comparison(m, n):
    query, key = torch.arange(n - m, n)[:, None], torch.arange(n)
    return key <= query


def mask_by_last_rows(m, n):
    return torch.tril(torch.ones(n, n)).bool()[-m:]


def mask_by_triu(m, n):
    return torch.ones(m, n).triu(n - m + 1) == 0


def top_k_temperature_after_the_filter(logits, k, temperature, uniform):
    least = logits.topk(k).values[:, -1:]
    p = torch.softmax(logits.masked_fill(logits < least, -math.inf) / temperature, dim=-1)
    sums = p.cumsum(dim=-1)
    return (sums <= uniform[:, None] * sums[:, -1:]).sum(dim=-1)


def top_k_renormalized(logits, k, temperature, uniform):
    p = (logits / temperature).softmax(-1)
    p = p.where(p >= p.sort(descending=True).values[:, k - 1 : k], 0)
    sums = p.cumsum(-1)
    return torch.searchsorted(sums, uniform[:, None] * sums[:, -1:], right=True)[:, 0]


def top_k_large_negative(logits, k, temperature, uniform):
    """Set the others to a number whose exponential is zero."""
    kept = torch.where(logits >= logits.sort(-1).values[:, -k, None], logits, -1e9)
    sums = (kept / temperature).softmax(-1).double().cumsum(1)
    return ((sums / sums[:, -1:]) > uniform[:, None]).int().argmax(1)


def window_by_cases(row, column, grid, window):
    def start(place, whole, size):
        if place < size // 2:
            return 0
        if place - size // 2 > whole - size:
            return whole - size
        return place - size // 2

    return start(row, grid[0], window[0]), start(column, grid[1], window[1])


def window_by_sorting(row, column, grid, window):
    """Take the middle one of three numbers."""
    return [
        sorted((0, place - size // 2, whole - size))[1]
        for place, whole, size in zip((row, column), grid, window, strict=True)
    ]


RIGHT = {
    "vqgan.nearest_code": {
        "by_cdist": nearest_by_cdist,
        "by_loop": nearest_by_loop,
        "by_score": nearest_by_score,
    },
    "vqgan.straight_through": {
        "from_z": straight_through_from_z,
        "by_function": straight_through_by_function,
    },
    "vqgan.vq_loss": {"by_squares": vq_loss_by_squares, "by_sums": vq_loss_by_sums},
    "vqgan.ema_update": {"by_one_hot": ema_by_one_hot, "by_loop": ema_by_loop},
    "vqgan.adaptive_weight": {
        "by_squares": weight_by_squares,
        "by_backward": weight_by_backward,
        "detached_late": weight_detached_late,
    },
    "vqgan.hinge_loss": {"by_clamp": hinge_by_clamp, "by_maximum": hinge_by_maximum},
    "vqgan.causal_mask": {
        "by_comparison": mask_by_comparison,
        "by_last_rows": mask_by_last_rows,
        "by_triu": mask_by_triu,
    },
    "vqgan.top_k_sample": {
        "temperature_after_the_filter": top_k_temperature_after_the_filter,
        "renormalized": top_k_renormalized,
        "large_negative": top_k_large_negative,
    },
    "vqgan.sliding_window": {"by_cases": window_by_cases, "by_sorting": window_by_sorting},
}
