"""Notebook 05, second half: more wrong answers, and right ones written differently."""

import torch
import torch.nn.functional as F

from course_lib.nn import causal_conv
from course_lib.quantize import lfq

# ---------------------------------------------------------------- wrong


def lfq_normalized(z):
    """Gives a direction of length 1, as in spherical quantization."""
    return F.normalize(z, dim=-1)


def lfq_hidden_gradient(z):
    """Has the right value and half the gradient."""
    return lfq.lfq_sign(z).detach() + (z - z.detach()) / 2


def lfq_by_division(z):
    """Divides 0 by 0."""
    return z / z.abs()


def lfq_rounded(z):
    return z + (z.round().clamp(-1, 1) - z).detach()


def lfq_detached_late(z):
    return (z + (lfq.lfq_sign(z) - z)).detach()


def lfq_through_sign(z):
    """Keeps a gradient in the difference that takes the other away."""
    return z + (lfq.lfq_sign(z) - z)


def index_first_axis(z):
    return lfq.token_index(z.movedim(0, -1))


def index_int32(z):
    return lfq.token_index(z).int()


def index_weighted_latents(z):
    return (z * 2.0 ** torch.arange(z.shape[-1])).sum(-1).long()


def index_kept_axis(z):
    return lfq.token_index(z)[..., None]


def index_of_all(z):
    """Gives one number for everything."""
    return lfq.token_index(z.flatten())


def index_gray(z):
    """Numbers tokens so that neighbours differ in one bit."""
    index = lfq.token_index(z)
    return index ^ (index >> 1)


def penalty_batch_of_means(z, temperature):
    """Averages logits."""
    logits = 2 * z @ lfq.token_code(torch.arange(2 ** z.shape[1]), z.shape[1]).T / temperature
    p = logits.mean(0).softmax(-1)
    return lfq.sample_entropy(z, temperature) + (p * p.log()).sum()


def penalty_squares(z, temperature):
    """Takes Gini's measure instead of Shannon's."""
    logits = 2 * z @ lfq.token_code(torch.arange(2 ** z.shape[1]), z.shape[1]).T / temperature
    q = logits.softmax(-1)
    return (1 - q.square().sum(-1)).mean() - (1 - q.mean(0).square().sum())


def penalty_tuple(z, temperature):
    return lfq.sample_entropy(z, temperature), lfq.batch_entropy(z, temperature)


def penalty_batch_detached(z, temperature):
    return lfq.sample_entropy(z, temperature) - lfq.batch_entropy(z.detach(), temperature)


def penalty_cross(z, temperature):
    """Halves the temperature."""
    return lfq.entropy_penalty(z, temperature / 2)


def penalty_each(z, temperature):
    """Gives one number for every vector."""
    return torch.stack(
        [lfq.sample_entropy(row[None], temperature) for row in z]
    ) - lfq.batch_entropy(z, temperature)


def penalty_over_the_batch(z, temperature):
    """Takes the softmax over vectors."""
    q = (2 * z @ lfq.token_code(torch.arange(2 ** z.shape[1]), z.shape[1]).T / temperature).softmax(
        0
    )
    return -(q * q.log()).sum(-1).mean() + (q.mean(0) * q.mean(0).log()).sum()


def conv_turned(x, weight, bias, stride):
    """Flips the kernel: a true convolution."""
    return causal_conv.causal_conv3d(x, weight.flip(2, 3, 4), bias, stride)


def conv_frames_turned(x, weight, bias, stride):
    return causal_conv.causal_conv3d(x, weight.flip(2), bias, stride)


def conv_every_second(x, weight, bias, stride):
    """Keeps every stride-th frame, without the first."""
    y = causal_conv.causal_conv3d(x, weight, bias, (1, *stride[1:]))
    return y[:, :, stride[0] - 1 :: stride[0]]


def conv_mirrored_frames(x, weight, bias, stride):
    front = weight.shape[2] - 1
    front = min(front, x.shape[2] - 1)
    x = torch.cat([x[:, :, 1 : 1 + front].flip(2), x], dim=2)
    _, _, _, kh, kw = weight.shape
    return F.conv3d(F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2)), weight, bias, stride)


def conv_of_frames(x, weight, bias, stride):
    """Convolves each frame on its own, with the last slice of the kernel."""
    return causal_conv.causal_conv3d(x, weight[:, :, -1:], bias, stride)


def conv_symmetric(x, weight, bias, stride):
    """Pads frames on both sides, as `padding` does."""
    return F.conv3d(x, weight, bias, stride, padding=[k // 2 for k in weight.shape[2:]])


def conv_bias_twice(x, weight, bias, stride):
    return causal_conv.causal_conv3d(x, weight, 2 * bias, stride)


def factorize_tuple(indices, bits):
    return tuple(lfq.factorize(indices, bits).unbind(-1))


def factorize_floats(indices, bits):
    parts, rest = [], indices.float()
    for count in bits:
        parts.append(rest % 2**count)
        rest = rest // 2**count
    return torch.stack(parts, -1)


def factorize_interleaved(indices, bits):
    """Deals the bits out one by one."""
    set_bits = indices[..., None] >> torch.arange(sum(bits)) & 1
    dealt = [set_bits[..., i :: len(bits)][..., :count] for i, count in enumerate(bits)]
    return torch.stack([(part << torch.arange(part.shape[-1])).sum(-1) for part in dealt], dim=-1)


def factorize_last_keeps_all(indices, bits):
    parts = lfq.factorize(indices, bits)
    return torch.cat([parts[..., :-1], indices[..., None]], dim=-1)


def factorize_unshifted_high(indices, bits):
    """Lets the later factors keep their place value."""
    parts, done = [], 0
    for count in bits:
        parts.append(indices & ((1 << count) - 1 << done))
        done += count
    return torch.stack(parts, -1)


def factorize_in_place(indices, bits):
    parts = lfq.factorize(indices, bits)
    indices >>= sum(bits[:-1])
    return parts


WRONG = {
    "magvit2.lfq": {
        "normalized": lfq_normalized,
        "hidden_gradient": lfq_hidden_gradient,
        "by_division": lfq_by_division,
        "rounded": lfq_rounded,
        "detached_late": lfq_detached_late,
        "through_sign": lfq_through_sign,
    },
    "magvit2.token_index": {
        "first_axis": index_first_axis,
        "int32": index_int32,
        "weighted_latents": index_weighted_latents,
        "kept_axis": index_kept_axis,
        "of_all": index_of_all,
        "gray": index_gray,
    },
    "magvit2.entropy_penalty": {
        "batch_of_means": penalty_batch_of_means,
        "squares": penalty_squares,
        "tuple": penalty_tuple,
        "batch_detached": penalty_batch_detached,
        "cross": penalty_cross,
        "each": penalty_each,
        "over_the_batch": penalty_over_the_batch,
    },
    "magvit2.causal_conv": {
        "turned": conv_turned,
        "frames_turned": conv_frames_turned,
        "every_second": conv_every_second,
        "mirrored_frames": conv_mirrored_frames,
        "of_frames": conv_of_frames,
        "symmetric": conv_symmetric,
        "bias_twice": conv_bias_twice,
    },
    "magvit2.factorise": {
        "tuple": factorize_tuple,
        "floats": factorize_floats,
        "interleaved": factorize_interleaved,
        "last_keeps_all": factorize_last_keeps_all,
        "unshifted_high": factorize_unshifted_high,
        "in_place": factorize_in_place,
    },
}


# ---------------------------------------------------------------- right, written differently


def lfq_by_where(z):
    q = torch.where(z > 0, 1.0, -1.0)
    return z + (q - z).detach()


def lfq_by_bits(z):
    q = 2 * (z > 0).to(z.dtype) - 1
    return q + z - z.detach()


class _Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z.gt(0).to(z.dtype) - z.le(0).to(z.dtype)

    @staticmethod
    def backward(ctx, gradient):
        return gradient


def lfq_by_function(z):
    return _Sign.apply(z)


def index_by_product(z):
    powers = 2.0 ** torch.arange(z.shape[-1])
    return ((z > 0).float() @ powers).long()


def index_by_loop(z):
    index = torch.zeros(z.shape[:-1], dtype=torch.int64)
    for i in range(z.shape[-1]):
        index = index + (z[..., i] > 0) * 2**i
    return index


def index_by_horner(z):
    index = 0
    for bit in reversed((z > 0).long().unbind(-1)):
        index = 2 * index + bit
    return index


def penalty_by_softmax(z, temperature):
    bits = z.shape[1]
    codes = 2.0 * (torch.arange(2**bits)[:, None] >> torch.arange(bits) & 1) - 1
    q = (2 * z @ codes.T / temperature).softmax(-1)

    def entropy(p):
        return -(p * p.log()).sum(-1)

    return entropy(q).mean() - entropy(q.mean(0))


def penalty_by_distances(z, temperature):
    """The codes in another order, and logarithms of the softmax itself."""
    codes = torch.cartesian_prod(*[torch.tensor([-1.0, 1.0])] * z.shape[1]).view(-1, z.shape[1])
    log_q = (-(z[:, None] - codes).pow(2).sum(-1) / temperature).log_softmax(-1)
    mean = log_q.exp().mean(0)
    return (-log_q.exp() * log_q).sum() / len(z) + (mean * mean.log()).sum()


def penalty_by_categorical(z, temperature):
    codes = lfq.token_code(torch.arange(2 ** z.shape[1]), z.shape[1])
    each = torch.distributions.Categorical(logits=2 * z @ codes.T / temperature)
    together = torch.distributions.Categorical(probs=each.probs.mean(0))
    return each.entropy().mean() - together.entropy()


def penalty_farthest(z, temperature):
    """Takes the opposite codes: an entropy does not see which of two is nearer."""
    return penalty_by_softmax(-z, temperature)


def conv_by_pad(x, weight, bias, stride):
    kt, kh, kw = weight.shape[2:]
    x = F.pad(x, (kw // 2, kw // 2, kh // 2, kh // 2, kt - 1, 0))
    return F.conv3d(x, weight, bias, stride)


def conv_by_padding(x, weight, bias, stride):
    """Symmetric padding of kt - 1, the frames that look ahead thrown away."""
    kt, kh, kw = weight.shape[2:]
    y = F.conv3d(x, weight, bias, stride, padding=(kt - 1, kh // 2, kw // 2))
    return y[:, :, : (x.shape[2] - 1) // stride[0] + 1]


def conv_frame_by_frame(x, weight, bias, stride):
    """A two-dimensional convolution for each slice of the kernel."""
    kt, kh, kw = weight.shape[2:]
    frames = []
    for last in range(0, x.shape[2], stride[0]):
        y = bias[:, None, None]
        for i in range(kt):
            at = last - (kt - 1) + i
            if at >= 0:
                y = y + F.conv2d(x[:, :, at], weight[:, :, i], None, stride[1:], (kh // 2, kw // 2))
        frames.append(y)
    return torch.stack(frames, dim=2)


def factorize_by_remainder(indices, bits):
    parts = []
    for count in bits:
        parts.append(indices % 2**count)
        indices = indices // 2**count
    return torch.stack(parts, dim=-1)


def factorize_by_codes(indices, bits):
    set_bits = (indices.unsqueeze(-1) >> torch.arange(sum(bits))) % 2
    parts = set_bits.split(list(bits), dim=-1)
    return torch.stack([part @ 2 ** torch.arange(part.shape[-1]) for part in parts], -1)


def factorize_by_unravel(indices, bits):
    """Places in a table whose last axis is the first factor."""
    return torch.stack(
        torch.unravel_index(indices, [2**count for count in reversed(bits)])[::-1], dim=-1
    )


RIGHT = {
    "magvit2.lfq": {
        "by_where": lfq_by_where,
        "by_bits": lfq_by_bits,
        "by_function": lfq_by_function,
    },
    "magvit2.token_index": {
        "by_product": index_by_product,
        "by_loop": index_by_loop,
        "by_horner": index_by_horner,
    },
    "magvit2.entropy_penalty": {
        "by_softmax": penalty_by_softmax,
        "by_distances": penalty_by_distances,
        "by_categorical": penalty_by_categorical,
        "farthest": penalty_farthest,
    },
    "magvit2.causal_conv": {
        "by_pad": conv_by_pad,
        "by_padding": conv_by_padding,
        "frame_by_frame": conv_frame_by_frame,
    },
    "magvit2.factorise": {
        "by_remainder": factorize_by_remainder,
        "by_codes": factorize_by_codes,
        "by_unravel": factorize_by_unravel,
    },
}
