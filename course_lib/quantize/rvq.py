"""Residual vector quantization: SoundStream (arXiv 2107.03312), section III-C.

A codebook of 2^80 vectors would spend 80 bits on a frame of sound; eight codebooks in a row of 2^10
spend as many.  The first one quantizes the vector, each further one what the ones before it have
left over, and the sum of their codes is the result.  The first m numbers of a vector alone are a
coarser version of it, so that one model serves several bit rates, if it has been trained with every
m (`draw_levels`).

Codebooks are moving averages (`course_lib.quantize.vq`) and start at the centres that k-means finds
in the first batch; codes that win fewer than two vectors of a batch are moved.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from einops import pack, rearrange, unpack
from torch import nn

from course_lib.quantize.vq import (
    Quantized,
    VectorQuantizer,
    check_indices,
    check_latents,
    is_whole,
    nearest_code,
    straight_through,
)
from course_lib.shapes import Float, Int, PerSample, Shaped, Tensor

# ---------------------------------------------------------------- the maths


def residual_quantize(
    z: Float[Tensor, "n d"], codebooks: Float[Tensor, "levels k d"]
) -> Int[Tensor, "n levels"]:
    """Algorithm 1: find for each vector a code of every level.

    A level takes the code nearest to what the levels before it have left over.
    """
    residual = z
    indices = []
    for codebook in codebooks:
        nearest = nearest_code(residual, codebook)  # n
        residual = residual - F.embedding(nearest, codebook)  # n d
        indices.append(nearest)
    return torch.stack(indices, dim=1)


def level_codes(
    indices: Int[Tensor, "*b m"], codebooks: Float[Tensor, "levels k d"]
) -> Float[Tensor, "*b m d"]:
    """Return the codes of the first m levels, whose sum stands for the vector."""
    parts = zip(indices.unbind(-1), codebooks, strict=False)
    return torch.stack([F.embedding(part, codebook) for part, codebook in parts], dim=-2)


def draw_levels(uniform: PerSample, levels: int) -> Int[Tensor, " b"]:
    """Quantizer dropout: return how many levels each example uses, from 1 to `levels`.

    uniform: a random number in [0, 1) per example; all results are equally likely.
    """
    return (uniform * levels).long() + 1


# ---------------------------------------------------------------- the module


class ResidualVQ(nn.Module):
    """Codebooks in a row, each for what the ones before it leave over.

    A token is `levels` numbers, one of `num_codes` each, in the last axis of the indices.  The loss
    is beta times the commitment, summed over levels.  Codebooks are averages of that decay; they
    learn in training mode where gradients are enabled, and only there.
    Raises ValueError for settings, channels, types, levels and indices that do not fit.
    """

    def __init__(
        self,
        levels: int,
        num_codes: int,
        dim: int,
        beta: int | float = 0.25,
        decay: int | float = 0.99,
    ):
        super().__init__()
        if not (is_whole(levels) and levels >= 1):
            raise ValueError(f"expected at least one level, got {levels}")
        self.num_codes = num_codes
        self.dim = dim
        self.beta = beta
        self.levels = nn.ModuleList(
            VectorQuantizer(num_codes, dim, update="ema", decay=decay) for _ in range(levels)
        )

    def forward(
        self, z: Shaped[Tensor, "b c *grid"], use: Int[Tensor, " b"] | None = None
    ) -> Quantized:
        """Quantize any grid: sound (b c n), images (b c h w).

        use: how many levels each example uses (`draw_levels`); all, if it is not given.  Only these
        add to its latents and to the loss, and only they learn from it; its indices (b *grid
        levels) are those of all.  It computes in the codebooks' precision, also under autocast.
        """
        used = self._used(z, use)  # b levels
        with torch.autocast(z.device.type, enabled=False):
            vectors, shape = self._pack(z)  # b n d
            b = len(vectors)
            indices = residual_quantize(vectors.detach().flatten(0, 1), self.codebooks)
            indices = rearrange(indices, "(b n) levels -> b n levels", b=b)
            codes = level_codes(indices, self.codebooks)  # b n levels d

            left = vectors[:, :, None] - codes.cumsum(dim=2)  # b n levels d
            loss = self.beta * (left.square().mean((1, 3)) * used).sum(1).mean()
            if self.training and torch.is_grad_enabled():
                self._learn((left + codes).detach(), indices, used)

            quantized = (codes * used[:, None, :, None]).sum(dim=2)  # b n d
            (latents,) = unpack(straight_through(vectors, quantized), shape, "b * d")
            (indices,) = unpack(indices, shape, "b * levels")
        return Quantized(rearrange(latents, "b ... d -> b d ..."), indices, loss)

    def embed(self, indices: Shaped[Tensor, "b *grid levels"]) -> Float[Tensor, "b c *grid"]:
        """Return the sum of the codes of these indices.

        The first m levels alone are enough: indices[..., :m] are a coarser version.
        """
        if not 1 <= indices.shape[-1] <= len(self.levels):
            raise ValueError(
                f"expected from 1 to {len(self.levels)} levels in the last axis, got"
                f" {tuple(indices.shape)}"
            )
        check_indices(indices, self.num_codes)
        return rearrange(level_codes(indices, self.codebooks).sum(dim=-2), "b ... d -> b d ...")

    @torch.no_grad()
    def start(self, z: Shaped[Tensor, "b c *grid"], uniform: Float[Tensor, "..."]) -> None:
        """Put every level's codes where k-means finds the centres of what is left of a batch.

        uniform: (b *grid levels), a random number per vector and level (`VectorQuantizer.start`).
        """
        for level, residual, numbers in self._residuals(z, uniform):
            level.start(residual, numbers)

    @torch.no_grad()
    def replace_rare(
        self, z: Shaped[Tensor, "b c *grid"], uniform: Float[Tensor, "..."], least: int | float = 2
    ) -> int:
        """Move codes that win fewer than `least` vectors of a batch, on average; return how many.

        uniform: (b *grid levels).  They go to what is left of this batch at their level
        (`VectorQuantizer.replace_rare`).  Call it before the forward pass.
        """
        levels = self._residuals(z, uniform)
        return sum(
            level.replace_rare(residual, numbers, least) for level, residual, numbers in levels
        )

    @property
    def codebooks(self) -> Float[Tensor, "levels k d"]:
        """The codes of all levels."""
        return torch.stack([level.codebook for level in self.levels])

    def _learn(self, residuals: Tensor, indices: Tensor, used: Tensor) -> None:
        """Let every level learn from the examples that use it."""
        for number, level in enumerate(self.levels):
            here = used[:, number]
            level.learn(
                residuals[here, :, number].flatten(0, 1), indices[here, :, number].flatten()
            )

    def _residuals(
        self, z: Tensor, uniform: Tensor
    ) -> Iterator[tuple[VectorQuantizer, Tensor, Tensor]]:
        """Yield each level, what it gets (b c *grid), and its random numbers (b *grid)."""
        check_latents(z, self.dim)
        expected = (*z[:, 0].shape, len(self.levels))
        if uniform.shape != expected:
            raise ValueError(
                f"expected one random number per vector and level, {expected}, got"
                f" {tuple(uniform.shape)}"
            )
        for level, numbers in zip(self.levels, uniform.unbind(-1), strict=True):
            yield level, z, numbers
            z = z - level(z).latents  # with the codes as they are now

    def _used(self, z: Tensor, use: Tensor | None) -> Tensor:
        """Return for every example and level whether it is used: (b levels)."""
        number = torch.arange(len(self.levels), device=z.device)
        if use is None:
            return (number >= 0).expand(len(z), -1)
        if use.shape != z.shape[:1] or bool(((use < 1) | (use > len(self.levels))).any()):
            raise ValueError(
                f"expected from 1 to {len(self.levels)} levels for each of {len(z)} examples, got"
                f" {use.tolist()}"
            )
        return number < use[:, None]

    def _pack(self, z: Tensor) -> tuple[Tensor, list]:
        """Return z as (b n d) in the codebooks' precision, and the grid to undo that with."""
        check_latents(z, self.dim)
        vectors = rearrange(z, "b d ... -> b ... d").to(self.levels[0].codebook.dtype)
        return pack([vectors], "b * d")

    def extra_repr(self) -> str:
        return f"{len(self.levels)} levels"
