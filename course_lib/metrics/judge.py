"""The world's judge: a small network that reads what is in an image of the little world.

Because it knows the world's shapes and colours, its features are a space in which samples can be
compared (`course_lib.metrics.frechet`), and its confidence says whether a generated object is one.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import nn

from course_lib.shapes import Float, Tensor


@dataclass(frozen=True)
class JudgeConfig:
    """What is read: how many values each label has, in the order of the heads."""

    width: int = 32
    features: int = 64
    labels: tuple[tuple[str, int], ...] = (("shape", 4), ("colour", 8))


class Judge(nn.Module):
    """Three strided convolutions, a mean over positions and one linear head per label."""

    def __init__(self, config: JudgeConfig):
        super().__init__()
        self.config = config
        w = config.width
        self.convolutions = nn.ModuleList(
            [
                nn.Conv2d(3, w, 3, padding=1),
                nn.Conv2d(w, 2 * w, 3, stride=2, padding=1),
                nn.Conv2d(2 * w, 4 * w, 3, stride=2, padding=1),
                nn.Conv2d(4 * w, 4 * w, 3, padding=1),
            ]
        )
        self.norms = nn.ModuleList(nn.GroupNorm(8, conv.out_channels) for conv in self.convolutions)
        self.project = nn.Linear(2 * 4 * w, config.features)
        self.heads = nn.ModuleDict(
            {name: nn.Linear(config.features, n) for name, n in config.labels}
        )

    def features(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, "b d"]:
        """Return one vector per image in [-1, 1]."""
        h = image
        for conv, norm in zip(self.convolutions, self.norms, strict=True):
            h = F.relu(norm(conv(h)))  # b c h w
        pooled = torch.cat([h.mean((2, 3)), h.amax((2, 3))], dim=1)  # b 2*c
        return self.project(pooled)

    def forward(self, image: Float[Tensor, "b c h w"]) -> dict[str, Float[Tensor, "b classes"]]:
        """Return the logits of every label."""
        features = F.relu(self.features(image))
        return {name: head(features) for name, head in self.heads.items()}

    @torch.no_grad()
    def confidence(self, image: Float[Tensor, "b c h w"]) -> Float[Tensor, " b"]:
        """Return the probability that the judge gives its own reading of all labels together."""
        probabilities = [logits.softmax(dim=1).amax(dim=1) for logits in self(image).values()]
        return torch.stack(probabilities).prod(dim=0)
