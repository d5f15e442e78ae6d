"""How good a clip looks: a linear head on an embedding, fitted to ratings.

Stable Video Diffusion (arXiv 2311.15127, appendix C) rates the first, the middle and the last frame
with LAION's aesthetic predictor (arXiv 2210.08402), a linear layer on CLIP's image embedding that
was fitted to ratings by people.  Here the embedding is what the course's own LPIPS trunk sees, and
the ratings are planted: 10 for an untouched frame, down to 1 for one that was spoilt
(`plant.degrade`).
"""

from dataclasses import dataclass
from random import Random

import torch

from course_lib import data
from course_lib.curation.plant import DEGRADATIONS, degrade
from course_lib.curation.text import three_frames
from course_lib.losses.perceptual import LPIPS
from course_lib.metrics.few_shot import ridge
from course_lib.shapes import Float, PerSample, Tensor, UInt8
from course_lib.world import pixels_to_float

WORST, BEST = 1.0, 10.0  # ratings
PENALTY = 100.0  # of the ridge regression, on embeddings of unit variance


@torch.no_grad()
def embed(frames: UInt8[Tensor, "n h w 3"], trunk: LPIPS) -> Float[Tensor, "n d"]:
    """Return the mean and the standard deviation over the places of every channel of every tap.

    The deviations see what the means do not: blur, noise and blocks leave colours alone.
    """
    parts = []
    for part in frames.split(200):
        taps = trunk.features(pixels_to_float(part))
        parts.append(torch.cat([m for tap in taps for m in (tap.mean((2, 3)), tap.std((2, 3)))], 1))
    return torch.cat(parts)


@dataclass(frozen=True, eq=False)
class AestheticHead:
    """A linear layer on standardized embeddings; `rate` gives ratings, about WORST to BEST."""

    mean: Float[Tensor, " d"]
    spread: Float[Tensor, " d"]
    weights: Float[Tensor, " d"]
    bias: Float[Tensor, ""]

    def rate(self, embeddings: Float[Tensor, "n d"]) -> PerSample:
        """Return a rating for every embedding."""
        return (embeddings - self.mean) / self.spread @ self.weights + self.bias


def fit_head(embeddings: Float[Tensor, "n d"], ratings: Float[Tensor, " n"]) -> AestheticHead:
    """Fit a head to ratings by ridge regression, in closed form."""
    mean = embeddings.mean(0)
    spread = embeddings.std(0).clamp(min=1e-6)
    weights, bias = ridge((embeddings - mean) / spread, ratings[:, None], PENALTY)
    return AestheticHead(mean, spread, weights[:, 0], bias[0])


def rated_frames(
    frames: UInt8[Tensor, "n h w 3"], seed: int = 0
) -> tuple[UInt8[Tensor, "n h w 3"], Float[Tensor, " n"]]:
    """Spoil two frames of three by a random amount; returns them, and the rating of each."""
    spoilt, ratings = [], []
    for i, frame in enumerate(frames):
        rng = Random(f"rated {seed} {i}")
        strength = rng.random() if i % 3 else 0.0
        generator = torch.Generator().manual_seed(rng.getrandbits(32))
        spoilt.append(degrade(frame[None], rng.choice(DEGRADATIONS), strength, generator)[0])
        ratings.append(BEST - (BEST - WORST) * strength)
    return torch.stack(spoilt), torch.tensor(ratings)


def training_frames(n: int, size: int = 32) -> UInt8[Tensor, "n h w 3"]:
    """Return frames to spoil and rate: half of the little world, half patches of photographs."""
    drawn = data.images("train", n - n // 2, size, count=(1, 2, 3))["pixels"]
    photos = data.photo_patches(data.TRAIN_PHOTOS, n // 2, size)["pixels"]
    return torch.cat([drawn, photos])


def aesthetic_head(trunk: LPIPS, n: int = 3000, size: int = 32) -> AestheticHead:
    """Return a head fitted to n planted ratings of frames of this size."""
    frames, ratings = rated_frames(training_frames(n, size))
    return fit_head(embed(frames, trunk), ratings)


def aesthetic_score(clip: UInt8[Tensor, "t h w 3"], trunk: LPIPS, head: AestheticHead) -> float:
    """Return the mean rating of the first, the middle and the last frame."""
    return float(head.rate(embed(three_frames(clip), trunk)).mean())
