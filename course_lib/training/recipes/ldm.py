"""Notebook 08, first half: latent diffusion from captions, on images of the little world.

`ldm-kl` is the first stage that the whole chapter shares, an autoencoder of single frames.
`ldm-images` learns its latents from captions, `ldm-pixels` pixels, for as many multiply-adds.
`ldm-kl-short`, `ldm-kl-none` and `ldm-kl-strong` are shorter first stages, with the KL term's usual
weight, without it, and with ten thousand times as much; `ldm-*-unscaled` and `ldm-*-scaled` diffuse
their latents as they are, and with unit deviation.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce

import torch
from einops import rearrange
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from course_lib import zoo
from course_lib.data import (
    IMAGE_JUDGE,
    LPIPS_TRUNK,
    captions,
    free_clips,
    images,
    in_batches,
)
from course_lib.diffusion.guidance import Guided
from course_lib.metrics import frechet_distance, precision_recall, psnr, ssim
from course_lib.metrics.scene_judge import shrink
from course_lib.nn.patchgan import PatchGAN
from course_lib.papers import ldm
from course_lib.papers.ldm_autoencoder import AutoencoderKL, FirstStageLoss, kl_term, scale_factor
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import CAPTION_WORDS, pixels_to_float

SIZE = 64  # pixels
FRAMES = 14
AUTOENCODER = "ldm-kl"
# The U-Net of pixels: two more levels, which do not attend, and about as many weights.
PIXELS = replace(
    ldm.LDM_CONFIGS["tiny"],
    in_channels=3,
    out_channels=3,
    width=32,
    multipliers=(1, 1, 2, 2),
    attends=(False, False, True, True),
    heads=(1, 1, 1, 1),
    groups=8,
)
GUIDANCE = 3.0
DDIM_STEPS = 20

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
        """Measure rebuilt test frames, and the statistics of their latents.

        The judge of images reads shape, colour and scale in real and in rebuilt images at rest.
        """
        device = next(model.parameters()).device
        trunk, _ = load_checkpoint(LPIPS_TRUNK, device)
        pixels = rearrange(scenes("test", 256)["pixels"], "n t h w c -> (n t) h w c")
        mean, deviation = encode(model, pixels)
        image = pixels_to_float(pixels)
        rebuilt = decode(model, mean)
        parts = zip(rebuilt.split(64), image.split(64), strict=True)
        distance = torch.cat([trunk(x.to(device), y.to(device)).cpu() for x, y in parts])
        at_rest = images("test", 1000, SIZE)
        real = pixels_to_float(at_rest["pixels"])
        again = decode(model, encode(model, at_rest["pixels"])[0])
        others = pixels_to_float(images("test", 1000, SIZE, seed=1)["pixels"])
        return {
            "psnr": float(psnr(rebuilt, image).mean()),
            "ssim": float(ssim(rebuilt, image).mean()),
            "lpips": float(distance.mean()),
            **{f"real {name}": x for name, x in image_scores(real, at_rest, others).items()},
            **{f"rebuilt {name}": x for name, x in image_scores(again, at_rest, others).items()},
            "nats": float(kl_term(mean, 2 * deviation.log()).mean()),
            "scale_factor": float(scale_factor(mean)),
            "mean_by_channel": mean.mean((0, 2, 3)).tolist(),
            "std_by_channel": mean.std((0, 2, 3)).tolist(),
            "posterior_std": float(deviation.mean()),
        }


# ---------------------------------------------------------------- the second stage


class CaptionedUNet(nn.Module):
    """The U-Net and the encoder of its captions, which are trained together (Eq. 3)."""

    def __init__(self, config: ldm.LDMConfig):
        super().__init__()
        self.unet = ldm.UNet(config)
        self.captions = ldm.CaptionEncoder(ldm.CaptionConfig(CAPTION_WORDS))

    def guided(self, sentences: list[str], scale: float) -> Guided:
        """Return the U-Net under guidance towards these captions."""
        context = self.captions(self.captions.tokens(sentences))  # b n d
        null = self.captions(self.captions.tokens([""]))  # 1 n d
        return Guided(self.unet, context, null, scale)


class CaptionedDiffusion(Trainable):
    """The loss of Eq. 3 on latents or pixels; now and then a caption is left out."""

    model: CaptionedUNet

    def __init__(self, model: CaptionedUNet, caption_dropout: float):
        super().__init__()
        self.model = model
        self.caption_dropout = caption_dropout
        self.process = ldm.LatentDiffusion(model.unet.config)

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x_start = self.x_start(batch, rng)
        t = rng.randint(0, len(self.process.alphas_cumprod), len(x_start))
        noise = rng.randn_like(x_start)
        context = self.context(batch, rng)
        return self.process.loss(self.model.unet, x_start, t, noise, context).mean()

    def context(self, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        """Return the encoded captions, some of them left out."""
        is_kept = rng.rand(len(batch["tokens"])) >= self.caption_dropout
        return self.model.captions(batch["tokens"] * is_kept[:, None])

    @staticmethod
    def x_start(batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        """Return the pixels, or latents that are drawn from what the first stage says."""
        if "pixels" in batch:
            return pixels_to_float(batch["pixels"])
        return batch["mean"] + batch["deviation"] * rng.randn_like(batch["mean"])


@dataclass(frozen=True)
class ImageRecipe(Recipe):
    """A tiny diffusion model of images of one object at rest, from their captions."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "ldm/tiny"
    autoencoder: str | None = AUTOENCODER  # None: pixels are diffused
    scaled: bool = True  # whether latents are multiplied by the scale factor
    pictures: int = 20_000
    caption_dropout: float = 0.1
    samples: int = 400  # drawn images that are measured
    sweep: tuple[float, ...] = ()  # guidance scales that are measured besides GUIDANCE

    def build(self) -> CaptionedDiffusion:
        config = PIXELS if self.autoencoder is None else zoo.find(self.preset).config
        return CaptionedDiffusion(CaptionedUNet(config), self.caption_dropout)

    def data(self) -> Tensors:
        pixels = images("train", self.pictures, SIZE)["pixels"]
        encoder = ldm.CaptionEncoder(ldm.CaptionConfig(CAPTION_WORDS))
        tokens = encoder.tokens(captions("train", self.pictures))
        if self.autoencoder is None:
            return Tensors(pixels=pixels, tokens=tokens)
        mean, deviation = encode(load_checkpoint(self.autoencoder)[0], pixels)
        return Tensors(mean=self.factor * mean, deviation=self.factor * deviation, tokens=tokens)

    @property
    def factor(self) -> float:
        """What latents are multiplied by before they are diffused."""
        if self.autoencoder is None or not self.scaled:
            return 1.0
        return load_checkpoint(self.autoencoder)[1]["metrics"]["scale_factor"]

    @torch.no_grad()
    def draw(
        self, model: CaptionedUNet, sentences: list[str], scale: float, generator: torch.Generator
    ) -> Tensor:
        """Draw an image (n 3 64 64) in [-1, 1] for each caption."""
        shape = (model.unet.config.in_channels, *self.sides)
        noise = torch.randn(len(sentences), *shape, generator=generator)
        device = next(model.parameters()).device
        parts = []
        for first in range(0, len(sentences), 100):
            predict = model.guided(sentences[first : first + 100], scale)
            x = self.sample(model, predict, noise[first : first + 100].to(device))
            parts.append(self.decode(x))
        return torch.cat(parts)

    def sample(self, model: CaptionedUNet, predict: Guided, noise: Tensor) -> Tensor:
        """Return latents, from noise."""
        process = ldm.LatentDiffusion(model.unet.config)
        return process.sample(predict, noise, DDIM_STEPS)

    @property
    def sides(self) -> tuple[int, int]:
        """Height and width of what is diffused."""
        return (SIZE, SIZE) if self.autoencoder is None else (SIZE // 8, SIZE // 8)

    def decode(self, x: Tensor) -> Tensor:
        """Return the images of what was diffused."""
        if self.autoencoder is None:
            return x.cpu().clamp(-1, 1)
        return decode(load_checkpoint(self.autoencoder, x.device)[0], x / self.factor)

    def measure(self, model: CaptionedUNet) -> dict:
        """Measure drawn images with the judge of images, and what training cost.

        Beside them: the same for real images, and for what the first stage makes of those.
        """
        test = images("test", self.samples, SIZE)
        sentences = captions("test", self.samples)
        real = pixels_to_float(test["pixels"])
        others = pixels_to_float(images("test", self.samples, SIZE, seed=1)["pixels"])
        measured: dict = {}
        for scale in (GUIDANCE, *self.sweep):
            drawn = self.draw(model, sentences, scale, torch.Generator().manual_seed(0))
            name = "" if scale == GUIDANCE else f"guidance {scale:g} "
            measured |= {f"{name}{key}": x for key, x in image_scores(drawn, test, others).items()}
        measured |= {f"real {key}": x for key, x in image_scores(real, test, others).items()}
        if self.autoencoder is not None:
            mean, _ = encode(load_checkpoint(self.autoencoder)[0], test["pixels"])
            rebuilt = self.decode(self.factor * mean)
            scores = image_scores(rebuilt, test, others)
            measured |= {f"rebuilt {key}": x for key, x in scores.items()}
        return {
            **measured,
            "multiply-adds": self.steps * self.batch_size * training_macs(self, model),
        }


@torch.no_grad()
def encode(autoencoder: AutoencoderKL, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (n c h w) of the latents of images (n h w 3) of bytes."""
    device = next(autoencoder.parameters()).device
    moments = in_batches(lambda x: torch.cat(autoencoder.encode(x), dim=1), pixels, device)
    mean, log_variance = moments.chunk(2, dim=1)
    return mean, (0.5 * log_variance).exp()


@torch.no_grad()
def decode(autoencoder: AutoencoderKL, latents: Tensor) -> Tensor:
    """Return the images (n 3 h w) of latents as the encoder makes them, in [-1, 1]."""
    device = next(autoencoder.parameters()).device
    parts = [autoencoder.decode(part.to(device)).cpu() for part in latents.split(64)]
    return torch.cat(parts).clamp(-1, 1)


@torch.no_grad()
def image_scores(drawn: Tensor, asked: dict[str, Tensor], others: Tensor) -> dict:
    """Measure images (n 3 64 64) against what was asked for, and as a set against other real ones.

    The judge of images reads them; the set is compared by Fréchet distance, precision and recall in
    its features.
    """
    judge, _ = load_checkpoint(IMAGE_JUDGE)
    small = [shrink(x[None])[0] for x in (drawn, others)]
    readings = [judge.read(part) for part in small[0].split(100)]
    read = {name: torch.cat([reading[name] for reading in readings]) for name in readings[0]}
    fake, real = (torch.cat([judge.features(part) for part in x.split(100)]) for x in small)
    precision, recall = precision_recall(real, fake)
    right = {name: read[name] == asked[name] for name in ("shape", "colour", "scale")}
    everything = torch.stack(list(right.values())).all(0)
    return {
        **{f"{name} as asked": float(hits.float().mean()) for name, hits in right.items()},
        "all as asked": float(everything.float().mean()),
        "frechet": frechet_distance(real, fake),
        "precision": float(precision),
        "recall": float(recall),
        "hits": everything.int().tolist(),  # of every image
    }


def training_macs(recipe: ImageRecipe, model: CaptionedUNet) -> float:
    """Count the multiply-adds of one sample in one step: three times those of the forward pass."""
    x = torch.zeros(1, model.unet.config.in_channels, *recipe.sides)
    context = model.captions(model.captions.tokens([""]))
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        model.unet(x, torch.zeros(1), context)
    return 3 * counter.get_total_flops() / 2


# ---------------------------------------------------------------- the recipes

FIRST_STAGE = FirstStageRecipe(
    AUTOENCODER,
    steps=5000,
    batch_size=8,
    learning_rate=1e-3,
    betas=(0.5, 0.99),
    warmup=100,
    ema=0.99,
    precision="bfloat16",
    checkpoint_dtype="float16",
)
SHORT = replace(FIRST_STAGE, name="ldm-kl-short", steps=1500, adversarial_from=1500)
IMAGES = ImageRecipe(
    "ldm-images",
    steps=3000,
    batch_size=64,
    learning_rate=2e-3,
    warmup=100,
    ema=0.995,
    checkpoint_dtype="float16",
    sweep=(1.0, 2.0, 5.0, 8.0),
)
SHORT_IMAGES = replace(
    IMAGES, name="ldm-short-scaled", steps=1000, autoencoder="ldm-kl-short", sweep=()
)

RECIPES: list[Recipe] = [
    FIRST_STAGE,
    SHORT,
    replace(SHORT, name="ldm-kl-none", kl_weight=0.0),
    replace(SHORT, name="ldm-kl-strong", kl_weight=1e-2),
    IMAGES,
    replace(IMAGES, name="ldm-live", steps=400, warmup=20, ema=0.98, pictures=2000, sweep=()),
    replace(
        IMAGES,
        name="ldm-pixels",
        autoencoder=None,
        batch_size=16,
        steps=844,
        sweep=(),
    ),
    SHORT_IMAGES,
    replace(SHORT_IMAGES, name="ldm-short-unscaled", scaled=False),
    replace(SHORT_IMAGES, name="ldm-none-scaled", autoencoder="ldm-kl-none"),
    replace(SHORT_IMAGES, name="ldm-none-unscaled", autoencoder="ldm-kl-none", scaled=False),
    replace(SHORT_IMAGES, name="ldm-strong-scaled", autoencoder="ldm-kl-strong"),
]
