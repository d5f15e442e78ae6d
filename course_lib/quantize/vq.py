"""Vector quantisation: VQ-VAE (arXiv 1711.00937), as VQGAN (arXiv 2012.09841) and MAGVIT (arXiv
2212.05199) use it.

A vector becomes the number of the nearest of k codes.  The number has no gradient, so the decoder's
passes straight through to the encoder; two losses, or a moving average, bring codes and vectors
together; and codes that nothing has been near for a while are put where the data are.

In a training of several processes the statistics (counts, sums, unused codes, mean probabilities)
are those of the whole batch, so that two processes train as one does.
"""

from typing import NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from einops import pack, rearrange, unpack
from torch import nn

from course_lib.shapes import Float, Int, Shaped, Tensor

AT_ONCE = 1 << 22  # distances held in memory at a time: 16 MB


class Quantized(NamedTuple):
    """What a quantiser makes of latents."""

    # quantised; gradients go straight through to what was quantised
    latents: Float[Tensor, "b c *grid"]
    indices: Int[Tensor, "b *grid"]  # the tokens, int64
    loss: Float[Tensor, ""]  # what the quantiser adds to the tokenizer's loss


# ---------------------------------------------------------------- the maths


def nearest_code(z: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"]) -> Int[Tensor, " n"]:
    """The code at the smallest squared Euclidean distance from each vector (VQ-VAE, Eq. 1), the
    lowest on ties.

    ||z - e||^2 = ||z||^2 - 2 z e + ||e||^2, and ||z||^2 is the same for all codes.
    """
    with torch.no_grad():
        norms = codebook.square().sum(dim=1)
        parts = z.split(max(1, AT_ONCE // len(codebook)))
        return torch.cat(
            [torch.addmm(norms, part, codebook.T, alpha=-2).argmin(dim=1) for part in parts]
        )


def straight_through(z: Float[Tensor, "..."], z_q: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """z_q forward, exactly; backward the gradient goes to z as if z had not been touched (VQ-VAE,
    section 3.2).
    """
    return z_q.detach() + (z - z.detach())


def vq_loss(
    z: Float[Tensor, "..."], z_q: Float[Tensor, "..."], beta: int | float = 0.25
) -> Float[Tensor, ""]:
    """||sg[z] - z_q||^2 + beta ||z - sg[z_q]||^2 (VQ-VAE, Eq. 3; VQGAN, Eq. 4), means over all
    entries.

    The first term moves the codes towards the vectors, the second commits the vectors to their
    codes.
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
    """The new codebook, counts and sums: each code is the average of the vectors it was given
    (VQ-VAE, appendix A.1).

    counts <- decay counts + (1 - decay) n, and likewise the sums of the vectors; code = sum /
    count, with counts under Laplace smoothing, (count + eps) / (total + k eps) * total, as in the
    authors' code.  Averages start at zero: the first vectors that a code gets are its mean, and a
    code that never got one stays where it is.
    """
    ones = torch.ones_like(indices, dtype=counts.dtype)
    counts = counts * decay + (1 - decay) * sum_over_processes(
        torch.zeros_like(counts).index_add(0, indices, ones)
    )
    sums = sums * decay + (1 - decay) * sum_over_processes(
        torch.zeros_like(sums).index_add(0, indices, z.to(sums))
    )
    total = counts.sum()
    smooth = (counts + eps) / (total + len(counts) * eps) * total
    codebook = torch.where(counts[:, None] > 0, sums / smooth[:, None], codebook)
    return codebook, counts, sums


def entropy_loss(
    z: Float[Tensor, "n d"], codebook: Float[Tensor, "k d"], temperature: int | float = 0.01
) -> Float[Tensor, ""]:
    """E[H(p)] - H(E[p]), p = softmax(-||z - e||^2 / temperature) over the codes, in nats: MAGVIT's
    entropy loss.

    Small when each vector is sure of its code and all codes are in use.  The official code adds
    1e-5 in a logarithm.
    """
    # n k; without ||z||^2
    logits = torch.addmm(-codebook.square().sum(dim=1), z, codebook.T, alpha=2) / temperature
    log_p = logits.log_softmax(dim=1)
    p = log_p.exp()
    mean = mean_over_processes(p.mean(dim=0))
    return -(p * log_p).sum(dim=1).mean() - entropy(mean)


def entropy(p: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """-sum p log p over all entries of one distribution, in nats."""
    # the slope of p log p at 0 is infinite: 0 times that would be NaN
    return -(p * p.clamp(min=1e-30).log()).sum()


def perplexity(indices: Int[Tensor, "..."], k: int) -> Float[Tensor, ""]:
    """exp(entropy) of how often each of k codes was used: from 1 (always the same) to k (all
    alike).
    """
    p = torch.bincount(indices.flatten(), minlength=k) / indices.numel()
    return entropy(p).exp()


def usage(indices: Int[Tensor, "..."], k: int) -> Float[Tensor, ""]:
    """The share of k codes that was used at all."""
    return (torch.bincount(indices.flatten(), minlength=k) > 0).float().mean()


# ---------------------------------------------------------------- several processes


def sum_over_processes(x: Shaped[Tensor, "..."]) -> Shaped[Tensor, "..."]:
    """The sum of every process's x, without gradient; alone, x itself."""
    if dist.is_available() and dist.is_initialized():
        x = x.detach().clone()
        dist.all_reduce(x)
    return x


def mean_over_processes(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """The mean of every process's x; alone, or where no gradient is wanted, x itself.

    The gradient goes to this process's x as to the mean's.  Averaged over processes, as
    data-parallel training does, that is the gradient of the whole batch's loss.
    """
    if not (torch.is_grad_enabled() and dist.is_available() and dist.is_initialized()):
        return x
    return straight_through(x, sum_over_processes(x) / dist.get_world_size())


def _gather(x: Tensor) -> Tensor:
    """The parts (n, ...) of all processes, in order; alone, x itself."""
    if not (dist.is_available() and dist.is_initialized()):
        return x
    parts = [torch.empty_like(x) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, x)
    return torch.cat(parts)


# ---------------------------------------------------------------- the module


class VectorQuantizer(nn.Module):
    """A codebook of num_codes vectors of dim numbers, uniform in [-1/num_codes, 1/num_codes] at
    first (taming).

    update="loss": the codebook is a parameter, which vq_loss moves.
    update="ema": it is a buffer, which ema_update moves; the loss is beta times the commitment
    alone. legacy=True is what taming's code does by default and its released models were trained
    with: beta multiplies the codebook term in place of the commitment.
    entropy_weight (MAGVIT: 0.1) adds that much of entropy_loss at this temperature.

    It learns in training mode where gradients are enabled: only then is the entropy in the loss, do
    codes move and are their steps without use counted (buffer `unused`).  Run the tokenizer under
    torch.no_grad() when it is the discriminator's turn.
    Raises ValueError for settings, channels, types and indices that do not fit.
    """

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
        if num_codes < 1 or dim < 1:
            raise ValueError(
                f"expected at least one code of at least one number, got num_codes={num_codes},"
                f" dim={dim}"
            )
        if update not in ("loss", "ema"):
            raise ValueError(f"expected update 'loss' or 'ema', got {update!r}")
        if legacy and update == "ema":
            raise ValueError(
                "expected update='loss' with legacy=True: 'ema' has no codebook term for beta to"
                " stand on"
            )
        if not 0 <= decay < 1:
            raise ValueError(f"expected a decay in [0, 1), got {decay}")
        self.num_codes, self.dim, self.update, self.decay = num_codes, dim, update, decay
        self.beta, self.legacy = beta, legacy
        self.entropy_weight, self.temperature = entropy_weight, temperature
        codebook = torch.empty(num_codes, dim).uniform_(-1 / num_codes, 1 / num_codes)
        if update == "loss":
            self.codebook = nn.Parameter(codebook)
        else:
            self.register_buffer("codebook", codebook)
            self.register_buffer("counts", torch.zeros(num_codes))
            self.register_buffer("sums", torch.zeros(num_codes, dim))
        self.register_buffer("unused", torch.zeros(num_codes, dtype=torch.int64))

    def forward(self, z: Shaped[Tensor, "b c *grid"]) -> Quantized:
        """Any grid: pictures (b c h w), clips (b c t h w).  In the codebook's precision, also under
        autocast.
        """
        with torch.autocast(z.device.type, enabled=False):
            flat, shape = self._flatten(z)  # n d
            indices = nearest_code(flat, self.codebook)
            z_q = F.embedding(indices, self.codebook)  # n d
            loss = self._loss(flat, z_q)
            if self.training and torch.is_grad_enabled():
                # of a copy: the codes may move in place before the backward pass
                if self.entropy_weight:
                    loss = loss + self.entropy_weight * entropy_loss(
                        flat, self.codebook.clone(), self.temperature
                    )
                self._learn(flat.detach(), indices)
            (latents,) = unpack(straight_through(flat, z_q), shape, "* d")  # b *grid d
            (indices,) = unpack(indices, shape, "*")  # b *grid
        return Quantized(rearrange(latents, "b ... d -> b d ..."), indices, loss)

    def embed(self, indices: Shaped[Tensor, "b *grid"]) -> Float[Tensor, "b c *grid"]:
        """The codes of these indices."""
        check_indices(indices, self.num_codes)
        return rearrange(F.embedding(indices, self.codebook), "b ... d -> b d ...")

    @torch.no_grad()
    def revive(
        self, z: Shaped[Tensor, "b c *grid"], uniform: Float[Tensor, "..."], after: int = 100
    ) -> int:
        """Put the codes that `after` training steps left unused onto vectors of the batch; how many
        that were.

        uniform: (b *grid), a random number per vector (a recipe's draw.rand(b, *grid)).  The
        vectors with the largest are taken, each once, so that the result depends on the arguments
        and on nothing else.  Call it before the forward pass: the codes then win their vectors at
        once.

        An average of weights (training.EMA) copies buffers, so that update="ema" needs no care.  It
        follows a parameter slowly: with update="loss" stop reviving several times 1 / (1 - decay of
        that average) steps before the end, or the averaged codebook holds codes that are still on
        their way.
        """
        flat, _ = self._flatten(z)
        if uniform.shape != (grid := z[:, 0].shape):
            raise ValueError(
                f"expected one random number per vector, {tuple(grid)}, got {tuple(uniform.shape)}"
            )
        priority = rearrange(uniform, "b ... -> (b ...)")
        dead = (self.unused >= after).nonzero().flatten()
        # The best of every process are enough to find the best of all; equal numbers keep the order
        # of the batch.
        best = priority.argsort(descending=True, stable=True)[: len(dead)]
        candidates, priority = _gather(flat[best]), _gather(priority[best])
        chosen = candidates[priority.argsort(descending=True, stable=True)[: len(dead)]]
        dead = dead[: len(chosen)]  # a batch may hold fewer vectors than there are dead codes
        self.codebook[dead] = chosen.to(self.codebook)
        self.unused[dead] = 0
        if self.update == "ema":  # as if each code had been given its vector once
            self.counts[dead] = 1 - self.decay
            self.sums[dead] = (1 - self.decay) * self.codebook[dead]
        return len(dead)

    def _flatten(self, z: Tensor) -> tuple[Tensor, list]:
        """z as (n d) in the codebook's precision, and the grid to undo that with."""
        check_latents(z, self.dim)
        return pack([rearrange(z, "b d ... -> b ... d").to(self.codebook.dtype)], "* d")

    def _loss(self, z: Float[Tensor, "n d"], z_q: Float[Tensor, "n d"]) -> Float[Tensor, ""]:
        if self.update == "ema":
            return self.beta * F.mse_loss(z, z_q)
        if self.legacy:
            return vq_loss(z_q, z, self.beta)  # the two change places
        return vq_loss(z, z_q, self.beta)

    @torch.no_grad()
    def _learn(self, z: Float[Tensor, "n d"], indices: Int[Tensor, " n"]) -> None:
        """Count the steps without use; with update="ema", move the codes."""
        used = sum_over_processes(torch.zeros_like(self.unused).index_fill(0, indices, 1)) > 0
        self.unused.copy_(torch.where(used, 0, self.unused + 1))
        if self.update == "ema":
            new = ema_update(self.codebook, self.counts, self.sums, z, indices, self.decay)
            for buffer, value in zip((self.codebook, self.counts, self.sums), new, strict=True):
                buffer.copy_(value)

    def extra_repr(self) -> str:
        return f"{self.num_codes}, {self.dim}, update={self.update!r}"


def check_latents(z: Tensor, channels: int) -> None:
    """Raises ValueError unless z is floating (b c *grid) with so many channels."""
    if z.ndim < 2 or z.shape[1] != channels:
        raise ValueError(f"expected latents (b c *grid) with c = {channels}, got {tuple(z.shape)}")
    if not z.is_floating_point():
        raise ValueError(f"expected latents of floating-point numbers, got {z.dtype}")


def check_indices(indices: Tensor, codes: int) -> None:
    """Raises ValueError unless these are whole numbers from 0 to codes - 1."""
    if indices.dtype not in (torch.int64, torch.int32):
        raise ValueError(f"expected indices of type int64 or int32, got {indices.dtype}")
    if indices.numel() and not (indices.min() >= 0 and indices.max() < codes):
        got = f"{int(indices.min())} to {int(indices.max())}"
        raise ValueError(f"expected indices from 0 to {codes - 1}, got some from {got}")
