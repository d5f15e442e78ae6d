"""Notebook 01: diffusion models of the little world, a GAN to compare with, and their judge.

The six runs `ddpm-16-SCHEDULE-OBJECTIVE` share data, seed, steps and network, but for the variance,
which `simple` fixes and the others learn.  `ddpm-16-width-*` show scaling, `ddpm-32` opens the
chapter, and `ddpm-live` is what the notebook trains while you watch.
"""

from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import SMALL_IMAGE_JUDGE, images
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
    ddim_steps,
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
        self.diffusion = ImprovedDiffusion.from_config(config)
        self.objective = {
            "simple": self.diffusion.loss,
            "hybrid": self.diffusion.hybrid_loss,
            "vlb": self.diffusion.vlb_loss,
        }[config.objective]
        # The paper samples t by importance for L_vlb alone (section 3.3).
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


@dataclass(frozen=True)
class DiffusionRecipe(Recipe):
    """A preset of Improved DDPM with another schedule and objective, trained on `pictures`
    pictures.
    """

    lr_schedule: LRSchedule = "plateau"
    preset: str = "improved_ddpm/tiny"
    width: int = 16
    schedule: str = "cosine"
    objective: str = "hybrid"
    pictures: int = 30_000
    # lengths of the chains whose samples are judged
    sampled_steps: tuple[int, ...] = (5, 10, 25, 50, 100)

    @property
    def config(self) -> ImprovedDDPMConfig:
        """The network and process of this recipe."""
        variance = "fixed_large" if self.objective == "simple" else "learned_range"
        base = zoo.find(self.preset).config
        return replace(
            base,
            width=self.width,
            schedule=self.schedule,
            objective=self.objective,
            variance=variance,
        )

    @property
    def diffusion(self) -> ImprovedDiffusion:
        """The process of this recipe."""
        return ImprovedDiffusion.from_config(self.config)

    def build(self) -> Denoiser:
        return Denoiser(self.config)

    def data(self) -> Tensors:
        return Tensors(pixels=large_objects("train", self.pictures, self.config.image_size))

    def measure(self, model: nn.Module) -> dict:
        """Bits per dimension on test pictures, and how samples of 50 steps compare with them."""
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

    def sample_quality(self, model: nn.Module, test: Tensor) -> dict:
        """Samples against test pictures: the longest chain's scores, and every length's, ancestral
        and DDIM.
        """
        curves: dict[str, list] = {"steps": list(self.sampled_steps), "ddpm": [], "ddim": []}
        for name, eta, choose in (("ddpm", None, strided_steps), ("ddim", 0.0, ddim_steps)):
            for steps in self.sampled_steps:
                generator = torch.Generator().manual_seed(steps)
                noise = torch.randn(test.shape, generator=generator).to(test)
                x = self.diffusion.respaced(steps, choose).sample(
                    model, noise, eta=eta, generator=generator
                )
                curves[name].append(compare_sets(test, x))
        return {**curves["ddpm"][-1], "curves": curves}


def compare_sets(real: Tensor, fake: Tensor) -> dict[str, float]:
    """Fréchet distance, precision and recall in the judge's features, and the share it is sure of."""
    judge, _ = load_checkpoint(SMALL_IMAGE_JUDGE, real.device)
    with torch.no_grad():
        real_features, fake_features = judge.features(real), judge.features(fake)
    precision, recall = precision_recall(real_features, fake_features)
    return {
        "frechet": frechet_distance(real_features, fake_features),
        "precision": precision,
        "recall": recall,
        "recognised": float((judge.confidence(fake) > 0.9).float().mean()),
    }


# ---------------------------------------------------------------- the GAN


class Adversaries(Trainable):
    """DCGAN's two players, moving in turn."""

    def __init__(self):
        super().__init__()
        self.model = DCGAN(zoo.find("dcgan/tiny").config)

    def players(self):
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
    """DCGAN on the same pictures (its section 4: Adam with beta_1 = 0.5 at 2e-4)."""

    pictures: int = 30_000

    def build(self) -> Adversaries:
        return Adversaries()

    def data(self) -> Tensors:
        return Tensors(pixels=large_objects("train", self.pictures, 16))

    def measure(self, model: nn.Module) -> dict:
        test = large_objects("test", 512, 16).to(next(model.parameters()).device)
        return compare_sets(test, model.sample(len(test), torch.Generator().manual_seed(0)))


# ---------------------------------------------------------------- the judge


class SmallJudgeTrainable(Trainable):
    """The judge, learning to read the labels."""

    def __init__(self):
        super().__init__()
        self.model = Judge(JudgeConfig())

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        logits = self.model(batch["pixels"])
        return sum(nn.functional.cross_entropy(logits[name], batch[name]) for name in logits)


@dataclass(frozen=True)
class JudgeRecipe(Recipe):
    """The judge of 16-pixel pictures."""

    pictures: int = 30_000

    def build(self) -> SmallJudgeTrainable:
        return SmallJudgeTrainable()

    def data(self) -> Tensors:
        train = images("train", self.pictures, 16, scale="large")
        return Tensors(
            pixels=pixels_to_float(train["pixels"]), shape=train["shape"], colour=train["colour"]
        )

    def measure(self, model: nn.Module) -> dict:
        """Accuracy of each label on test pictures."""
        test = images("test", 2000, 16, scale="large")
        logits = model(pixels_to_float(test["pixels"]).to(next(model.parameters()).device))
        right = {name: x.argmax(1).cpu() == test[name] for name, x in logits.items()}
        return {f"{name} accuracy": float(x.float().mean()) for name, x in right.items()}


TRAINED = dict(steps=8000, batch_size=64, learning_rate=1e-3, warmup=200, ema=0.999)

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

RECIPES = [
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
    *(
        DiffusionRecipe(
            f"ddpm-16-{schedule}-{objective}", schedule=schedule, objective=objective, **TRAINED
        )
        for schedule in ("linear", "cosine")
        for objective in ("simple", "hybrid", "vlb")
    ),
    *(
        DiffusionRecipe(
            f"ddpm-16-width-{width}", width=width, sampled_steps=(50,), **TRAINED | {"steps": 1500}
        )
        for width in (8, 16, 24)
    ),
    DiffusionRecipe(
        "ddpm-32", preset="improved_ddpm/tiny-32", sampled_steps=(), **TRAINED | {"steps": 3500}
    ),
]
