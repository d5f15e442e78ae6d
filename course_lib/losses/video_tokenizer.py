"""What the tokenizers of MAGVIT and MAGVIT-v2 minimise, and what their discriminators do."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import nn

from course_lib.losses.adversarial import (
    LeCam,
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
    r1_penalty,
)
from course_lib.shapes import Float, PerSample, Tensor

Clip = Float[Tensor, "b c t h w"]
Scalar = Float[Tensor, ""]


@dataclass(frozen=True)
class TokenizerLoss:
    """The terms with their weights.  Defaults: MAGVIT (arXiv 2212.05199, appendix A and its code).

    Clips are in [-1, 1]; the weights are those of pictures in [0, 1], so squared errors and R1 are
    computed in these units.  perceptual(x, y) gives one distance per frame (n,) of frames (n c h w)
    in [-1, 1].  LeCam's weight is MAGVIT-v2's (2310.05737, appendix A), which has 5 for the squared
    error; MAGVIT's released configurations have no LeCam.
    """

    perceptual: Callable[[Tensor, Tensor], PerSample] | None
    squared_weight: float = 1.0
    perceptual_weight: float = 0.1
    adversarial_weight: float = 0.1
    r1_weight: float = 10.0
    lecam_weight: float = 0.001

    def generator_loss(
        self,
        clip: Clip,
        reconstruction: Clip,
        quantizer_loss: Scalar,
        discriminator: nn.Module | None,
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """What encoder, codebook and decoder minimise, and its parts; without a discriminator there
        is no game.
        """
        parts = {
            "squared": self.squared_weight * F.mse_loss(reconstruction, clip) / 4,
            "quantizer": quantizer_loss,
        }
        if self.perceptual:
            frames = (rearrange(x, "b c t h w -> (b t) c h w") for x in (clip, reconstruction))
            parts["perceptual"] = self.perceptual_weight * self.perceptual(*frames).mean()
        if discriminator is not None:
            fooling = non_saturating_generator_loss(discriminator(reconstruction))
            parts["adversarial"] = self.adversarial_weight * fooling
        return sum(parts.values()), parts

    def discriminator_loss(
        self, discriminator: nn.Module, clip: Clip, reconstruction: Clip, lecam: LeCam
    ) -> tuple[Scalar, dict[str, Scalar]]:
        """What the discriminator minimises, and its parts; `lecam` takes the batch into its
        averages.

        In full precision, also under autocast: on a CPU torch 2.13 gives weights of bfloat16
        convolutions over three frames gradients of any size where the map has two frames, as the
        last one of a small discriminator has.
        """
        clip = clip.detach().clone().requires_grad_()
        with torch.autocast(clip.device.type, enabled=False):
            # b, b
            real, fake = discriminator(clip), discriminator(reconstruction.detach().to(clip))
            parts = {
                "game": non_saturating_discriminator_loss(real, fake),
                "r1": self.r1_weight * 4 * r1_penalty(clip, real),
                "lecam": self.lecam_weight * lecam(real, fake),
            }
        return sum(parts.values()), parts
