"""Lookup-free quantization: MAGVIT-v2 (arXiv 2310.05737), section 3.1.

There is no codebook to look a vector up in: the signs of its log2(K) numbers are the code, and read
as bits they are the index.  The first number is the lowest bit, so that z = (-0.3, 0.1) is token 2,
and zero counts as negative.

The soft version of this choice is q(z) = softmax(-||z - code||^2 / temperature) over the 2^bits
codes: bit i is set with probability sigmoid(4 z_i / temperature), independently of the others.
Entropies are in nats and exact: a vector's is the sum over its bits, and the mean distribution over
all 2^bits codes is one matrix product of the distributions of the lower and of the upper half of
the bits, without a table of vectors by codes.  Above `group` bits that distribution is
approximated as independent between groups of neighbouring bits, which overstates its entropy.
"""

import torch
import torch.nn.functional as F
from einops import einsum, rearrange
from torch import nn

from course_lib.quantize.vq import (
    Quantized,
    check_indices,
    check_latents,
    entropy,
    is_whole,
    mean_over_processes,
    straight_through,
)
from course_lib.shapes import Float, Int, Shaped, Tensor

MAX_BITS = 62  # an index is an int64
MAX_GROUP_BITS = 24  # 2^24 probabilities are 64 MB


# ---------------------------------------------------------------- codes and indices


def lfq_sign(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Eq. 3: return q(z_i), -1 where z_i <= 0 and +1 where z_i > 0.

    torch.sign would leave 0, which is no code.
    """
    return 2 * (z > 0).to(z.dtype) - 1


def lfq(z: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the signs; backward the gradient goes straight through."""
    return straight_through(z, lfq_sign(z))


def token_index(z: Float[Tensor, "... bits"]) -> Int[Tensor, "..."]:
    """Eq. 4: return sum_i 2^(i-1) 1{z_i > 0} as int64; the first number is the lowest bit."""
    return ((z > 0) << torch.arange(z.shape[-1], device=z.device)).sum(dim=-1)


def token_code(indices: Int[Tensor, "..."], bits: int) -> Float[Tensor, "... bits"]:
    """Return the code, of -1 and +1, of each index: the inverse of token_index."""
    set_bits = indices[..., None] >> torch.arange(bits, device=indices.device) & 1
    return 2.0 * set_bits - 1


def factorize(indices: Int[Tensor, "..."], bits: tuple[int, ...]) -> Int[Tensor, "... factors"]:
    """Section 3.2: split an index of sum(bits) bits into several of so many bits each.

    The lowest bits come first: with bits (9, 9) token 2^18 - 2 is (510, 511).  Raises ValueError
    for an index that needs more bits.
    """
    check_indices(indices, 1 << sum(bits))
    parts = []
    for count in bits:
        parts.append(indices & (1 << count) - 1)
        indices = indices >> count
    return torch.stack(parts, dim=-1)


def join(parts: Int[Tensor, "... factors"], bits: tuple[int, ...]) -> Int[Tensor, "..."]:
    """Return the index whose factors these are: the inverse of factorize.

    Raises ValueError for a factor that needs more bits, and unless there are as many factors as
    entries of bits.
    """
    if parts.shape[-1] != len(bits):
        raise ValueError(
            f"expected {len(bits)} factors in the last axis, for bits {bits}, got"
            f" {tuple(parts.shape)}"
        )
    indices = torch.zeros_like(parts[..., 0])
    for number in reversed(range(len(bits))):
        check_indices(parts[..., number], 1 << bits[number])
        indices = (indices << bits[number]) + parts[..., number]
    return indices


# ---------------------------------------------------------------- the entropy penalty


def entropy_penalty(
    z: Float[Tensor, "n bits"], temperature: int | float = 0.01, group: int = 18
) -> Float[Tensor, ""]:
    """Eq. 5: return E[H(q(z))] - H(E[q(z)]).

    It is at least -bits log 2, where every vector is sure of its code and all codes are used.
    """
    return sample_entropy(z, temperature) - batch_entropy(z, temperature, group)


def sample_entropy(
    z: Float[Tensor, "n bits"], temperature: int | float = 0.01
) -> Float[Tensor, ""]:
    """Return E[H(q(z))]; bits are independent, so their entropies add up.

    A bit's entropy is the same for z and -z: with a = |4 z / temperature|, it is
    log(1 + exp(-a)) + a sigmoid(-a).
    """
    a = z.abs() * (4 / temperature)
    return (F.softplus(-a) + a * torch.sigmoid(-a)).sum(dim=1).mean()


def batch_entropy(
    z: Float[Tensor, "n bits"], temperature: int | float = 0.01, group: int = 18
) -> Float[Tensor, ""]:
    """Return H(E[q(z)]), joint over each `group` of bits and summed over groups.

    The mean is over the vectors of all processes.
    """
    parts = z.split(group, dim=1)
    entropies = [entropy(_mean_distribution(part, temperature)) for part in parts]
    return torch.stack(entropies).sum()


def _mean_distribution(
    z: Float[Tensor, "n bits"], temperature: int | float
) -> Float[Tensor, "upper lower"]:
    """Return E[q(z)]; entry (i, j) is the code with upper half of bits i and lower half j."""
    bits = z.shape[1]
    lower_bits, upper_bits = z.split([bits - bits // 2, bits // 2], dim=1)
    lower = _distribution(lower_bits, temperature)
    upper = _distribution(upper_bits, temperature)
    mean = einsum(upper, lower, "n upper, n lower -> upper lower") / len(z)
    return mean_over_processes(mean)


def _distribution(z: Float[Tensor, "n bits"], temperature: int | float) -> Float[Tensor, "n codes"]:
    """Return q(z) over all 2^bits codes.

    The products of the bits' probabilities stay exact where a softmax would not.
    """
    p = z.new_ones(len(z), 1)
    for a in (z * (4 / temperature)).unbind(dim=1):
        p_unset = p * torch.sigmoid(-a)[:, None]
        p_set = p * torch.sigmoid(a)[:, None]
        p = torch.cat([p_unset, p_set], dim=1)
    return p


def annealed_weight(
    step: int, weight: int | float = 0.1, boost: int | float = 3.0, steps: int = 2000
) -> int | float:
    """Return the penalty's weight at a step: boost times as large at first, then linearly down.

    It reaches `weight` after `steps` steps.
    """
    return weight * (1 + (boost - 1) * max(0.0, 1 - step / steps))


# ---------------------------------------------------------------- the module


class LFQ(nn.Module):
    """A quantizer with 2^bits codes and no codebook.  It has nothing to learn and nothing to save.

    The loss is beta times the commitment, the mean of (z - sg[q(z)])^2, plus, in training mode
    where gradients are enabled, entropy_weight times the penalty; set that attribute at every step
    to anneal it (annealed_weight).  group: the largest number of bits whose joint distribution is
    computed.  Raises ValueError for settings, channels, types and indices that do not fit.
    """

    def __init__(
        self,
        bits: int,
        beta: int | float = 0.25,
        entropy_weight: int | float = 0.1,
        temperature: int | float = 0.01,
        group: int = 18,
    ):
        super().__init__()
        if not (is_whole(bits) and 1 <= bits <= MAX_BITS):
            raise ValueError(f"expected from 1 to {MAX_BITS} bits, got {bits}")
        if not (is_whole(group) and 1 <= group <= MAX_GROUP_BITS):
            raise ValueError(f"expected a group of 1 to {MAX_GROUP_BITS} bits, got {group}")
        if not temperature > 0:
            raise ValueError(f"expected a positive temperature, got {temperature}")
        self.dim = bits
        self.num_codes = 1 << bits
        self.beta = beta
        self.entropy_weight = entropy_weight
        self.temperature = temperature
        self.group = group

    def forward(self, z: Shaped[Tensor, "b bits *grid"]) -> Quantized:
        """Quantize any grid: images (b bits h w), clips (b bits t h w).

        It computes in single precision, also under autocast.
        """
        check_latents(z, self.dim)
        with torch.autocast(z.device.type, enabled=False):
            z = z.to(torch.promote_types(z.dtype, torch.float32))
            latents = lfq(z)
            vectors = rearrange(z, "b bits ... -> b ... bits")
            loss = self.beta * F.mse_loss(z, latents.detach())
            if self.training and torch.is_grad_enabled() and self.entropy_weight:
                flat = vectors.reshape(-1, self.dim)  # n bits
                penalty = entropy_penalty(flat, self.temperature, self.group)
                loss = loss + self.entropy_weight * penalty
        return Quantized(latents, token_index(vectors), loss)

    def embed(self, indices: Shaped[Tensor, "b *grid"]) -> Float[Tensor, "b bits *grid"]:
        """Return the codes, of -1 and +1, of these indices."""
        check_indices(indices, self.num_codes)
        return rearrange(token_code(indices, self.dim), "b ... bits -> b bits ...")

    def extra_repr(self) -> str:
        return f"{self.dim} bits"
