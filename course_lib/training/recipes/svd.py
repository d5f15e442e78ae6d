"""Notebook 08: latent diffusion and Stable Video Diffusion on clips of the little world.

`ldm-kl` is the first stage that everything after it shares: an autoencoder of single frames.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from functools import reduce

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import LPIPS_TRUNK, SCENE_JUDGE, free_clips
from course_lib.metrics import psnr, ssim
from course_lib.nn.patchgan import PatchGAN
from course_lib.papers.ldm_autoencoder import AutoencoderKL, FirstStageLoss, kl_term, scale_factor
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

SIZE = 64  # pixels
FRAMES = 14
AUTOENCODER = "ldm-kl"

# ---------------------------------------------------------------- data


def scenes(split: str, n: int, seed: int = 0) -> dict[str, Tensor]:
    """Return n clips of one object (n 14 64 64 3), under any camera, and their labels (n,)."""
    return free_clips(split, n, FRAMES, seed, SIZE, count=1)


# ---------------------------------------------------------------- the first stage


class FirstStage(Trainable):
    """An autoencoder, its loss, and a patch discriminator that joins late."""

    model: AutoencoderKL
    step: Tensor

    def __init__(self, model: AutoencoderKL, recipe: "FirstStageRecipe"):
        super().__init__()
        self.model = model.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.recipe = recipe
        self.perceptual = load_checkpoint(LPIPS_TRUNK)[0]
        self.losses = FirstStageLoss(
            self._perceptual_distance,
            kl_weight=recipe.kl_weight,
            discriminator_weight=recipe.discriminator_weight,
        )
        self.discriminator = PatchGAN(width=32, halvings=2)
        self.register_buffer("step", torch.tensor(0))
        self.image = torch.empty(0)  # of this step
        self.rebuilt = torch.empty(0)  # what the autoencoder made of it

    def _perceptual_distance(self, image: Tensor, rebuilt: Tensor) -> Tensor:
        return self.perceptual.loss(rebuilt, image)

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        return {
            "autoencoder": list(self.model.parameters()),
            "discriminator": list(self.discriminator.parameters()),
        }

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        has_joined = int(self.step) >= self.recipe.adversarial_from
        if player == "discriminator":
            self.step += 1
            if not has_joined:
                return 0 * reduce(torch.add, [p.sum() for p in self.discriminator.parameters()])
            return self.losses.discriminator_loss(self.discriminator, self.image, self.rebuilt)

        pixels = batch["pixels"]
        is_mirrored = rng.rand(len(pixels))[:, None, None, None] < 0.5
        self.image = pixels_to_float(torch.where(is_mirrored, pixels.flip(2), pixels))
        posterior = self.model.encode(self.image)
        rebuilt = self.model.decode(posterior.sample(rng.randn_like(posterior.mean)))
        self.rebuilt = rebuilt.detach()
        last_layer = self.model.decoder.conv_out.weight
        discriminator = self.discriminator if has_joined else None
        total, _ = self.losses.generator_loss(
            self.image, rebuilt, posterior, discriminator, last_layer
        )
        return total


@dataclass(frozen=True)
class FirstStageRecipe(Recipe):
    """The tiny KL-f8 on single frames of 64 pixels."""

    lr_schedule: LRSchedule = "plateau"
    preset: str = "ldm/kl-tiny"
    clips: int = 3000
    kl_weight: float = 1e-6
    adversarial_from: int = 3500  # step at which the discriminator joins
    discriminator_weight: float = 0.3  # 0.5 in the paper's code

    def build(self) -> FirstStage:
        return FirstStage(AutoencoderKL(zoo.find(self.preset).config), self)

    def data(self) -> Tensors:
        pixels = scenes("train", self.clips)["pixels"]
        return Tensors(pixels=rearrange(pixels, "n t h w c -> (n t) h w c"))

    @torch.no_grad()
    def measure(self, model: AutoencoderKL) -> dict:
        """Measure rebuilt test clips, what a judge reads in them, and the latents' statistics."""
        test = scenes("test", 256)
        judge, _ = load_checkpoint(SCENE_JUDGE)
        trunk, _ = load_checkpoint(LPIPS_TRUNK)
        image = pixels_to_float(rearrange(test["pixels"], "n t h w c -> (n t) h w c"))
        parts = [model.encode(part) for part in image.split(64)]
        mean = torch.cat([part.mean for part in parts])
        log_variance = torch.cat([part.log_variance for part in parts])
        rebuilt = torch.cat([model.decode(part).clamp(-1, 1) for part in mean.split(64)])
        distance = [trunk(x, y) for x, y in zip(rebuilt.split(64), image.split(64), strict=True)]
        clips = rearrange(rebuilt, "(n t) c h w -> n t c h w", t=FRAMES)
        readings = [judge.read(part) for part in clips.split(64)]
        right = {
            f"{name} read right": float(
                (torch.cat([reading[name] for reading in readings]) == test[name]).float().mean()
            )
            for name in ("shape", "colour", "scale", "motion", "camera")
        }
        return {
            "psnr": float(psnr(rebuilt, image).mean()),
            "ssim": float(ssim(rebuilt, image).mean()),
            "lpips": float(torch.cat(distance).mean()),
            **right,
            "nats": float(kl_term(mean, log_variance).mean()),
            "scale_factor": float(scale_factor(mean)),
            "mean_by_channel": mean.mean((0, 2, 3)).tolist(),
            "std_by_channel": mean.std((0, 2, 3)).tolist(),
            "posterior_std": float((0.5 * log_variance).exp().mean()),
        }


RECIPES: list[Recipe] = [
    FirstStageRecipe(
        AUTOENCODER,
        steps=5000,
        batch_size=8,
        learning_rate=1e-3,
        betas=(0.5, 0.99),
        warmup=100,
        ema=0.99,
        precision="bfloat16",
        checkpoint_dtype="float16",
    ),
]
