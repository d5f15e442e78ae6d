"""The world's judges: trained networks that read what is in an image or a clip of the little world.

They measure what a model generates.  That works because the truth about the world's own images is
known.
"""

from collections.abc import Mapping

import torch
from torch import nn

from course_lib.shapes import Float, Int, Shaped, Tensor

IMAGE_LABELS = {"shape": 4, "colour": 8, "scale": 2, "count": 3}
CLIP_LABELS = {"motion": 9, "camera": 3}


class LabelJudge(nn.Module):
    """A classifier of several labels at once, which share the logits of one network.

    network: has `forward` to logits and `features` below them.  labels: how many values each label
    has, in the order of the logits.  `temperature` divides each label's logits; `calibrate` sets
    it.
    """

    temperature: Tensor  # one per label

    def __init__(self, network: nn.Module, labels: Mapping[str, int]):
        super().__init__()
        self.network = network
        self.labels = dict(labels)
        self.register_buffer("temperature", torch.ones(len(labels)))

    def forward(self, x: Float[Tensor, "b ..."]) -> dict[str, Float[Tensor, "b classes"]]:
        """Return the logits of every label, calibrated."""
        parts = self.network(x).split(list(self.labels.values()), dim=1)
        return {
            name: part / t
            for name, part, t in zip(self.labels, parts, self.temperature, strict=True)
        }

    def features(self, x: Float[Tensor, "b ..."]) -> Float[Tensor, "b d"]:
        """Return one vector per image or clip: in their space, sets of samples can be compared."""
        return self.network.features(x)

    @torch.no_grad()
    def read(self, x: Float[Tensor, "b ..."]) -> dict[str, Int[Tensor, " b"]]:
        """Return the number of each label's most likely value."""
        return {name: logits.argmax(1) for name, logits in self(x).items()}

    @torch.no_grad()
    def confidence(self, x: Float[Tensor, "b ..."]) -> Shaped[Tensor, " b"]:
        """Return the probability of the judge's own reading of all labels together."""
        return torch.stack([logits.softmax(1).amax(1) for logits in self(x).values()]).prod(0)
