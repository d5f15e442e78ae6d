"""Vector quantization: VQ-VAE (arXiv 1711.00937), as in VQGAN (arXiv 2012.09841) and MAGVIT (arXiv
2212.05199).

A vector becomes the number of the nearest of k codes.  The number has no gradient, so the decoder's
passes straight through to the encoder; two losses, or a moving average, bring codes and vectors
together; codes may start at the centres that k-means finds in a batch; and those that nothing, or
little, has been near for a while are moved to where the data are.

In multi-process training the statistics (counts, sums, unused codes, mean probabilities) are those
of the whole batch, so that two processes train as one does.
"""

from numbers import Integral
from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import pack, rearrange, unpack
from torch import nn

from course_lib.shapes import Float, Int, Shaped, Tensor

MAX_DISTANCES_AT_ONCE = 1 << 22  # held in memory: 16 MB


class Quantized(NamedTuple):
    """What a quantizer makes of latents."""

    # The quantized vectors; gradients go straight through to what was quantized.
    latents: Float[Tensor, "b c *grid"]
    indices: Int[Tensor, "b *grid"]  # the tokens, int64
    loss: Float[Tensor, ""]  # what the quantizer adds to the tokenizer's loss


# ---------------------------------------------------------------- the maths


def nearest_code(z: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """VQ-VAE, Eq. 1: find for each vector the code at the smallest squared Euclidean distance.

    On ties it is the lowest.  ||z - e||^2 = ||z||^2 - 2 z e + ||e||^2, and ||z||^2 is the same for
    all codes.
    """
    with torch.no_grad():
        norms = codebook.square().sum(dim=1)
        parts = z.split(max(1, MAX_DISTANCES_AT_ONCE // len(codebook)))
        return torch.cat(
            [torch.addmm(norms, part, codebook.T, alpha=-2).argmin(dim=1) for part in parts]
        )


def straight_through(z: Float[Tensor, "..."], z_q: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """VQ-VAE, section 3.2: return exactly z_q, with the gradient of z.

    Backward the gradient goes to z as if z had not been touched.
    """
    return z_q.detach() + (z - z.detach())


def vq_loss(
    z: Float[Tensor, "..."], z_q: Float[Tensor, "..."], beta: int | float = 0.25
) -> Float[Tensor, ""]:
    """VQ-VAE, Eq. 3; VQGAN, Eq. 4: return ||sg[z] - z_q||^2 + beta ||z - sg[z_q]||^2.

    Both are means over all entries.  The first term moves the codes towards the vectors, the second
    commits the vectors to their codes.
    """
    return F.mse_loss(z_q, z.detach()) + beta * F.mse_loss(z, z_q.detach())


def ema_update(
    codebook: Float[Tensor, "k d"],
    counts: Float[Tensor, " k"],
    sums: Float[Tensor, "k d"],
    z: Float[Tensor, "n d"],
    indices: Int[Tensor, " n"],
    decay: int | float = 0.99,
    eps: int | float = 1e-5,
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """VQ-VAE, appendix A.1: return the new codebook, counts and sums.

    Each code is the average of the vectors it was given: counts <- decay counts + (1 - decay) n,
    and likewise the sums of the vectors; code = sum / count, with Laplace smoothing of the counts,
    (count + eps) / (total + k eps) * total, as in the authors' code.  Averages start at zero: the
    first vectors that a code gets are its mean, and a code that never got one stays where it is.
    """
    n, added = cluster_totals(z.to(sums), indices, len(codebook))
    counts = counts * decay + (1 - decay) * n
    sums = sums * decay + (1 - decay) * added

    total = counts.sum()
    smooth = (counts + eps) / (total + len(counts) * eps) * total
    codebook = torch.where(counts[:, None] > 0, sums / smooth[:, None], codebook)
    return codebook, counts, sums


def cluster_totals(
    z: Float[Tensor, "n d"], indices: Int[Tensor, " n"], k: int
) -> tuple[Float[Tensor, " k"], Float[Tensor, "k d"]]:
    """Return how many vectors each of k codes was given, and their sum, in all processes."""
    ones = z.new_ones(len(z))
    counts = sum_over_processes(z.new_zeros(k).index_add(0, indices, ones))
    sums = sum_over_processes(z.new_zeros(k, z.shape[1]).index_add(0, indices, z))
    return counts, sums


def k_means(
    z: Float[Tensor, "n d"], centres: Float[Tensor, "k d"], steps: int = 10
) -> tuple[Float[Tensor, "k d"], Float[Tensor, " k"]]:
    """Return the centres after so many steps of Lloyd's algorithm, and their numbers of vectors.

    A step moves each centre to the mean of the vectors that it is the nearest to; one that has none
    stays where it is.  The numbers are those of the last step, whose means the centres are.
    """
    counts = z.new_zeros(len(centres))
    for _ in range(steps):
        counts, sums = cluster_totals(z, nearest_code(z, centres), len(centres))
        has_some = (counts > 0)[:, None]
        centres = torch.where(has_some, sums / counts.clamp(min=1)[:, None], centres)
    return centres, counts


def entropy_loss(
    z: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], temperature: int | float = 0.01
) -> Float[Tensor, ""]:
    """Return MAGVIT's entropy loss, E[H(p)] - H(E[p]), in nats.

    p = softmax(-||z - e||^2 / temperature) over the codes.  It is small when each vector is sure of
    its code and all codes are in use.  The official code adds 1e-5 in a logarithm.
    """
    # ||z||^2 is left out: it is the same for all codes.
    logits = torch.addmm(-codebook.square().sum(dim=1), z, codebook.T, alpha=2) / temperature
    log_p = logits.log_softmax(dim=1)  # n k
    p = log_p.exp()
    mean = mean_over_processes(p.mean(dim=0))
    return -(p * log_p).sum(dim=1).mean() - entropy(mean)


def entropy(p: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return -sum p log p over all entries of one distribution, in nats."""
    # The slope of p log p at 0 is infinite, and 0 times that would be NaN.
    return -(p * p.clamp(min=1e-30).log()).sum()


def perplexity(indices: Int[Tensor, "..."], k: int) -> Float[Tensor, ""]:
    """Return exp(entropy) of how often each of k codes was used: 1 (always one) to k (evenly)."""
    p = torch.bincount(indices.flatten(), minlength=k) / indices.numel()
    return entropy(p).exp()


def usage(indices: Int[Tensor, "..."], k: int) -> Float[Tensor, ""]:
    """Return the share of k codes that was used at all."""
    return (torch.bincount(indices.flatten(), minlength=k) > 0).float().mean()


# ---------------------------------------------------------------- several processes


def sum_over_processes(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """Return the sum of every process's x, without gradient; x itself if there is only one."""
    if dist.is_available() and dist.is_initialized():
        x = x.detach().clone()
        dist.all_reduce(x)
    return x


def mean_over_processes(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Return the mean of every process's x; x itself if there is only one or gradients are off.

    The gradient goes to this process's x as if it were the mean.  Averaged over processes, as
    data-parallel training does, that is the gradient of the whole batch's loss.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return x
    return straight_through(x, sum_over_processes(x) / dist.get_world_size())


def _gather(x: Tensor) -> Tensor:
    """Return the parts (n, ...) of all processes, in order; x itself if there is only one."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


def _with_largest(z: Float[Tensor, "n d"], priority: Float[Tensor, " n"], count: int) -> Tensor:
    """Return the `count` vectors of all processes with the largest numbers; fewer if there are."""
    # The best of every process are enough to find the best of all; equal numbers keep the order
    # of the batch.
    best = priority.argsort(descending=True, stable=True)[:count]
    candidates = _gather(z[best])
    priority = _gather(priority[best])
    best = priority.argsort(descending=True, stable=True)[:count]
    return candidates[best]


# ---------------------------------------------------------------- the module


class VectorQuantizer(nn.Module):
    """A codebook of num_codes vectors of dim numbers, which learns from a loss or as an average.

    It starts uniform in [-1/num_codes, 1/num_codes], as in taming's code.
    update="loss": the codebook is a parameter, which vq_loss moves.
    update="ema": it is a buffer, which ema_update moves; the loss is beta times the commitment.
    legacy=True is what taming's code does by default and how its released models were trained: beta
    multiplies the codebook term instead of the commitment.
    entropy_weight (MAGVIT: 0.1) adds that much of entropy_loss at this temperature.

    It learns in training mode where gradients are enabled: only then is the entropy part of the
    loss, do codes move, and are their steps without use counted (buffer `unused`).  Run the
    tokenizer under torch.no_grad() when it is the discriminator's turn.
    Raises ValueError for settings, channels, types and indices that do not fit.
    """

    codebook: Tensor
    counts: Tensor
    sums: Tensor
    unused: Tensor

    def __init__(
        self,
        num_codes: int,
        dim: int,
        beta: int | float = 0.25,
        update: str = "loss",
        decay: int | float = 0.99,
        legacy: bool = False,
        entropy_weight: int | float = 0.0,
        temperature: int | float = 0.01,
    ):
        super().__init__()
        if not (is_whole(num_codes) and is_whole(dim) and num_codes >= 1 and dim >= 1):
            raise ValueError(
                f"expected at least one code of at least one number, got num_codes={num_codes},"
                f" dim={dim}"
            )
        if update not in ("loss", "ema"):
            raise ValueError(f"expected update 'loss' or 'ema', got {update!r}")
        if legacy and update == "ema":
            raise ValueError(
                "expected update='loss' with legacy=True, got 'ema', which has no codebook term for"
                " beta to multiply"
            )
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay in [0, 1), got {decay}")
        if not temperature > 0:
            raise ValueError(f"expected a positive temperature, got {temperature}")
        self.num_codes = num_codes
        self.dim = dim
        self.update = update
        self.decay = decay
        self.beta = beta
        self.legacy = legacy
        self.entropy_weight = entropy_weight
        self.temperature = temperature

        codebook = torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes)
        if update == "loss":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("counts", torch.zeros(num_codes))
            self.register_buffer("sums", torch.zeros(num_codes, dim))
        self.register_buffer("unused", torch.zeros(num_codes, dtype=torch.int64))

    def forward(self, z: Shaped[Tensor, "b c *grid"]) -> Quantized:
        """Quantize any grid: images (b c h w), clips (b c t h w).

        It computes in the codebook's precision, also under autocast.
        """
        with torch.autocast(z.device.type, enabled=False):
            flat, shape = self._flatten(z)  # n d
            indices = nearest_code(flat, self.codebook)
            z_q = F.embedding(indices, self.codebook)  # n d
            loss = self._loss(flat, z_q)
            if self.training and torch.is_grad_enabled():
                if self.entropy_weight:
                    # The codes may move in place before the backward pass, so this takes a copy.
                    codebook = self.codebook.clone()
                    penalty = entropy_loss(flat, codebook, self.temperature)
                    loss = loss + self.entropy_weight * penalty
                self.learn(flat.detach(), indices)
            (latents,) = unpack(straight_through(flat, z_q), shape, "* d")  # b *grid d
            (indices,) = unpack(indices, shape, "*")  # b *grid
        return Quantized(rearrange(latents, "b ... d -> b d ..."), indices, loss)

    def embed(self, indices: Shaped[Tensor, "b *grid"]) -> Float[Tensor, "b c *grid"]:
        """Return the codes of these indices."""
        check_indices(indices, self.num_codes)
        return rearrange(F.embedding(indices, self.codebook), "b ... d -> b d ...")

    @torch.no_grad()
    def revive(
        self, z: Shaped[Tensor, "b c *grid"], uniform: Float[Tensor, "..."], after: int = 100
    ) -> int:
        """Move codes unused for `after` training steps onto vectors of the batch; return how many.

        uniform: (b *grid), a random number per vector (a recipe's draw.rand(b, *grid)).  The
        vectors with the largest are taken, each once, so that the result depends only on the
        arguments.  Call it before the forward pass: the codes then win their vectors at once.

        An average of weights (training.EMA) copies buffers, so update="ema" needs no care.  It
        follows a parameter slowly: with update="loss" stop reviving several times 1 / (1 - decay of
        that average) steps before the end, or the averaged codebook holds codes that are still on
        their way.
        """
        dead = (self.unused >= after).nonzero().flatten()
        # The averages become those of a code that was given its vector once.
        return self._move(dead, z, uniform, count=1 - self.decay)

    @torch.no_grad()
    def replace_rare(
        self, z: Shaped[Tensor, "b c *grid"], uniform: Float[Tensor, "..."], least: int | float = 2
    ) -> int:
        """Move codes that win fewer than `least` vectors of a batch onto some; return how many.

        SoundStream (arXiv 2107.03312), section III-C: a code is rare by its average count, which
        update="ema" keeps.  It is `least` after the move, as if the code had always won so many.
        The averages are those of batches only once they have settled: `start` sees to that.
        Otherwise as `revive`.  Raises ValueError for a codebook that keeps no counts.
        """
        if self.update != "ema":
            raise ValueError(f"expected a codebook with update='ema', got {self.update!r}")
        rare = (self.counts < least).nonzero().flatten()
        return self._move(rare, z, uniform, count=least)

    @torch.no_grad()
    def start(
        self, z: Shaped[Tensor, "b c *grid"], uniform: Float[Tensor, "..."], steps: int = 10
    ) -> None:
        """Put the codes where k-means finds the centres of a batch: the first one of a training.

        uniform: (b *grid), a random number per vector; k-means starts from the vectors with the
        largest.  With update="ema" the averages become those of this batch.
        """
        flat, _ = self._flatten(z)
        chosen = _with_largest(flat, self._priority(z, uniform), self.num_codes)
        # A batch may hold fewer vectors than there are codes: the rest stay where they are.
        first = torch.cat([chosen, self.codebook[len(chosen) :]])
        centres, counts = k_means(flat, first, steps)
        self.codebook.copy_(centres)
        if self.update == "ema":
            self.counts.copy_(counts)
            self.sums.copy_(counts[:, None] * centres)

    def _move(
        self, codes: Int[Tensor, " m"], z: Tensor, uniform: Tensor, count: int | float
    ) -> int:
        """Move these codes onto vectors of z; with update="ema" they count for so many there."""
        priority = self._priority(z, uniform)
        flat, _ = self._flatten(z)
        chosen = _with_largest(flat, priority, len(codes))
        codes = codes[: len(chosen)]  # a batch may hold fewer vectors than there are dead codes
        self.codebook[codes] = chosen.to(self.codebook)
        self.unused[codes] = 0
        if self.update == "ema":
            self.counts[codes] = count
            self.sums[codes] = count * self.codebook[codes]
        return len(codes)

    def _priority(self, z: Tensor, uniform: Tensor) -> Float[Tensor, " n"]:
        """Return the random numbers of the vectors in z, one after another."""
        check_latents(z, self.dim)
        grid = z[:, 0].shape
        if uniform.shape != grid:
            raise ValueError(
                f"expected one random number per vector, {tuple(grid)}, got {tuple(uniform.shape)}"
            )
        return rearrange(uniform, "b ... -> (b ...)")

    def _flatten(self, z: Tensor) -> tuple[Tensor, list]:
        """Return z as (n d) in the codebook's precision, and the grid to undo that with."""
        check_latents(z, self.dim)
        vectors = rearrange(z, "b d ... -> b ... d").to(self.codebook.dtype)
        return pack([vectors], "* d")

    def _loss(self, z: Float[Tensor, "n d"], z_q: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        if self.update == "ema":
            return self.beta * F.mse_loss(z, z_q)
        if self.legacy:
            return vq_loss(z_q, z, self.beta)  # z and z_q change places
        return vq_loss(z, z_q, self.beta)

    @torch.no_grad()
    def learn(self, z: Float[Tensor, "n d"], indices: Int[Tensor, " n"]) -> None:
        """Count the steps without use; with update="ema", move the codes to their vectors."""
        used_here = torch.zeros_like(self.unused).index_fill(0, indices, 1)
        used = sum_over_processes(used_here) > 0
        self.unused.copy_(torch.where(used, 0, self.unused + 1))
        if self.update == "ema":
            new = ema_update(self.codebook, self.counts, self.sums, z, indices, self.decay)
            for buffer, value in zip((self.codebook, self.counts, self.sums), new, strict=True):
                buffer.copy_(value)

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.dim}, update={self.update!r}"


def is_whole(number: object) -> bool:
    """Tell whether this is a whole number, of Python or of NumPy."""
    return isinstance(number, Integral)


def check_latents(z: Tensor, channels: int) -> None:
    """Raise ValueError unless z is floating (b c *grid) with so many channels."""
    if z.ndim < 2 or z.shape[1] != channels:
        raise ValueError(f"expected latents (b c *grid) with c = {channels}, got {tuple(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"expected latents of floating-point numbers, got {z.dtype}")


def check_indices(indices: Tensor, codes: int) -> None:
    """Raise ValueError unless these are whole numbers from 0 to codes - 1."""
    if indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"expected indices of type int64 or int32, got {indices.dtype}")
    if indices.numel() and not (indices.min() >= 0 and indices.max() < codes):
        got = f"{int(indices.min())} to {int(indices.max())}"
        raise ValueError(f"expected indices from 0 to {codes - 1}, got some from {got}")
