"""Notebook 01: diffusion models of the little world, a GAN to compare with, and their judge.

The six runs `ddpm-16-SCHEDULE-OBJECTIVE` share data, seed, steps and network, except the variance,
which `simple` fixes and the others learn.  `ddpm-16-width-*` show scaling, `ddpm-32` opens the
chapter, and `ddpm-live` is what the notebook trains while you watch.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal, cast

import torch
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import SMALL_IMAGE_JUDGE, images
from course_lib.diffusion import ddim_steps
from course_lib.losses.adversarial import (
    non_saturating_discriminator_loss,
    non_saturating_generator_loss,
)
from course_lib.metrics import Judge, JudgeConfig, frechet_distance, likelihood, precision_recall
from course_lib.papers.dcgan import DCGAN
from course_lib.papers.improved_ddpm import (
    ImportanceSampler,
    ImprovedDDPMConfig,
    ImprovedDiffusion,
    UNet,
    strided_steps,
)
from course_lib.training.distributed import all_gather
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float


def large_objects(split: str, n: int, size: int) -> Tensor:
    """Return n images of one large object each, as floats (n 3 h w) in [-1, 1]."""
    return pixels_to_float(images(split, n, size, scale="large")["pixels"])


# ---------------------------------------------------------------- diffusion


class Denoiser(Trainable):
    """A U-Net, a process, and one of the three objectives of Improved DDPM."""

    def __init__(self, config: ImprovedDDPMConfig):
        super().__init__()
        self.model = UNet(config)
        self.diffusion = _process(config)
        self.objective = {
            "simple": self.diffusion.loss,
            "hybrid": self.diffusion.hybrid_loss,
            "vlb": self.diffusion.vlb_loss,
        }[config.objective]
        # The paper samples t by importance only for L_vlb (section 3.3).
        self.importance = (
            ImportanceSampler(self.diffusion.steps) if config.objective == "vlb" else None
        )

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x_start = batch["pixels"]
        noise = rng.randn_like(x_start)
        if self.importance is None:
            t = rng.randint(0, self.diffusion.steps, len(x_start))
            return self.objective(self.model, x_start, t, noise).mean()
        probabilities, weights = self.importance.probabilities()
        t = rng.choice(probabilities, len(x_start))
        losses = self.objective(self.model, x_start, t, noise)
        self.importance.update(all_gather(t), all_gather(losses))
        return (weights[t] * losses).mean()


def _process(config: ImprovedDDPMConfig) -> ImprovedDiffusion:
    return cast(ImprovedDiffusion, ImprovedDiffusion.from_config(config))


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """A preset of Improved DDPM with its own width, noise schedule and objective."""

    lr_schedule: LRSchedule = "plateau"
    preset: str = "improved_ddpm/tiny"
    width: int = 16
    schedule: Literal["linear", "cosine"] = "cosine"  # of the noise
    objective: Literal["simple", "hybrid", "vlb"] = "hybrid"
    pictures: int = 30_000
    sampled_steps: tuple[int, ...] = (5, 10, 25, 50, 100)  # of the chains that are measured

    @property
    def config(self) -> ImprovedDDPMConfig:
        """The configuration of this recipe's network and process."""
        variance = "fixed_large" if self.objective == "simple" else "learned_range"
        return replace(
            zoo.find(self.preset).config,
            width=self.width,
            schedule=self.schedule,
            objective=self.objective,
            variance=variance,
        )

    @property
    def diffusion(self) -> ImprovedDiffusion:
        """The process of this recipe."""
        return _process(self.config)

    def build(self) -> Denoiser:
        return Denoiser(self.config)

    def data(self) -> Tensors:
        return Tensors(pixels=large_objects("train", self.pictures, self.config.image_size))

    def measure(self, model: UNet) -> dict:
        """Measure bits per dimension on test images, and compare samples with them."""
        size = self.config.image_size
        test = large_objects("test", 512, size).to(next(model.parameters()).device)
        generator = torch.Generator().manual_seed(0)
        bits = likelihood(self.diffusion, model, test[:128], generator)
        return {
            "bits_per_dim": float(bits.total.mean()),
            "bits_per_dim_error": float(bits.total.std() / len(bits.total) ** 0.5),
            "prior_bits": float(bits.prior.mean()),
            "totals": bits.total.tolist(),
            "terms": bits.terms.mean(0).tolist(),
            "rate": bits.rate.tolist(),
            "distortion": bits.distortion.tolist(),
            **(self.sample_quality(model, test) if self.sampled_steps else {}),
        }

    def sample_quality(self, model: UNet, test: Tensor) -> dict:
        """Compare samples of every number of steps, ancestral and DDIM's, with test images.

        The scores of the longest ancestral chain are the metrics.
        """
        ddpm = [self._sample_scores(model, test, n, "ddpm") for n in self.sampled_steps]
        ddim = [self._sample_scores(model, test, n, "ddim") for n in self.sampled_steps]
        curves = {"steps": list(self.sampled_steps), "ddpm": ddpm, "ddim": ddim}
        return {**ddpm[-1], "curves": curves}

    def _sample_scores(
        self, model: UNet, test: Tensor, steps: int, sampler: Literal["ddpm", "ddim"]
    ) -> dict[str, float]:
        generator = torch.Generator().manual_seed(steps)
        noise = torch.randn(test.shape, generator=generator).to(test)
        if sampler == "ddim":
            process = self.diffusion.respaced(steps, ddim_steps)
            samples = process.sample(model, noise, eta=0.0, generator=generator)
        else:
            process = self.diffusion.respaced(steps, strided_steps)
            samples = process.sample(model, noise, eta=None, generator=generator)
        return compare_sets(test, samples)


def compare_sets(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Compare sets of images in the judge's features: Fréchet distance, precision and recall.

    `recognised` is the share of the second set that the judge is sure of.
    """
    judge, _ = load_checkpoint(SMALL_IMAGE_JUDGE, real.device)
    with torch.no_grad():
        real_features = judge.features(real)
        fake_features = judge.features(fake)
    precision, recall = precision_recall(real_features, fake_features)
    return {
        "frechet": frechet_distance(real_features, fake_features),
        "precision": precision,
        "recall": recall,
        "recognised": float((judge.confidence(fake) > 0.9).float().mean()),
    }


# ---------------------------------------------------------------- the GAN


class Adversaries(Trainable):
    """DCGAN's two players, which take their steps in turn."""

    model: DCGAN

    def __init__(self) -> None:
        super().__init__()
        self.model = DCGAN(zoo.find("dcgan/tiny").config)

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        return {
            "discriminator": self.model.discriminator.parameters(),
            "generator": self.model.generator.parameters(),
        }

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        fake = self.model(rng.randn(len(batch["pixels"]), self.model.config.latent))
        if player == "generator":
            return non_saturating_generator_loss(self.model.discriminator(fake))
        real = self.model.discriminator(batch["pixels"])
        return non_saturating_discriminator_loss(real, self.model.discriminator(fake.detach()))


@dataclass(frozen=True)
class GANRecipe(Recipe):
    """DCGAN on the same images (its section 4: Adam with beta_1 = 0.5 at 2e-4)."""

    pictures: int = 30_000

    def build(self) -> Adversaries:
        return Adversaries()

    def data(self) -> Tensors:
        return Tensors(pixels=large_objects("train", self.pictures, 16))

    def measure(self, model: DCGAN) -> dict:
        """Compare as many samples with 512 test images."""
        test = large_objects("test", 512, 16).to(next(model.parameters()).device)
        samples = model.sample(len(test), torch.Generator().manual_seed(0))
        return compare_sets(test, samples)


# ---------------------------------------------------------------- the judge


class SmallJudgeTrainable(Trainable):
    """The judge and the cross-entropy of its labels."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Judge(JudgeConfig())

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        logits = self.model(batch["pixels"])
        losses = [nn.functional.cross_entropy(logits[name], batch[name]) for name in logits]
        return reduce(torch.add, losses)


@dataclass(frozen=True)
class JudgeRecipe(Recipe):
    """The judge of images of 16 pixels."""

    pictures: int = 30_000

    def build(self) -> SmallJudgeTrainable:
        return SmallJudgeTrainable()

    def data(self) -> Tensors:
        train = images("train", self.pictures, 16, scale="large")
        return Tensors(
            pixels=pixels_to_float(train["pixels"]), shape=train["shape"], colour=train["colour"]
        )

    def measure(self, model: Judge) -> dict:
        """Measure the accuracy of each label on test images."""
        test = images("test", 2000, 16, scale="large")
        pixels = pixels_to_float(test["pixels"]).to(next(model.parameters()).device)
        accuracies = {}
        for name, logits in model(pixels).items():
            right = logits.argmax(1).cpu() == test[name]
            accuracies[f"{name} accuracy"] = float(right.float().mean())
        return accuracies


# ---------------------------------------------------------------- the recipes

LIVE = DiffusionRecipe(
    "ddpm-live",
    steps=2000,
    learning_rate=2e-3,
    warmup=100,
    ema=0.995,
    schedule="linear",
    objective="simple",
    pictures=6000,
)
DDPM_16 = DiffusionRecipe(
    "ddpm-16-cosine-hybrid",
    steps=8000,
    batch_size=64,
    learning_rate=1e-3,
    warmup=200,
    ema=0.999,
    schedule="cosine",
    objective="hybrid",
)
WIDTH_16 = replace(DDPM_16, name="ddpm-16-width-16", steps=1500, width=16, sampled_steps=(50,))

RECIPES: list[Recipe] = [
    LIVE,
    JudgeRecipe(
        SMALL_IMAGE_JUDGE, steps=3000, batch_size=64, learning_rate=1e-3, warmup=100, ema=0.99
    ),
    GANRecipe(
        "dcgan-16",
        steps=8000,
        batch_size=64,
        learning_rate=2e-4,
        betas=(0.5, 0.999),
        clip=None,
        ema=0.99,
    ),
    replace(DDPM_16, name="ddpm-16-linear-simple", schedule="linear", objective="simple"),
    replace(DDPM_16, name="ddpm-16-linear-hybrid", schedule="linear"),
    replace(DDPM_16, name="ddpm-16-linear-vlb", schedule="linear", objective="vlb"),
    replace(DDPM_16, name="ddpm-16-cosine-simple", objective="simple"),
    DDPM_16,
    replace(DDPM_16, name="ddpm-16-cosine-vlb", objective="vlb"),
    replace(WIDTH_16, name="ddpm-16-width-8", width=8),
    WIDTH_16,
    replace(WIDTH_16, name="ddpm-16-width-24", width=24),
    replace(DDPM_16, name="ddpm-32", preset="improved_ddpm/tiny-32", steps=3500, sampled_steps=()),
]
