"""Notebook 04: VQ-VAE, VQGAN and the transformer on their codes, on images of the little world.

`vqgan-l1`, `vqgan-lpips` and `vqgan-gan` have the same network, data, seed and steps, and one more
term of the loss each; the last is the chapter's tokenizer.  `vqgan-collapse-*` differ in how the
codebook is kept alive, `vqgan-f*` and `vqgan-k*` in the size of the grid and of the codebook.
`vqgan-discriminator-*` train a discriminator alone, against a tokenizer that no longer changes.
`vqgan-prior` learns the tokenizer's codes, `vqgan-pixels` the pixels themselves, with the same
transformer.
"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import reduce
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import COLOURS, IMAGE_JUDGE, KINDS, LPIPS_TRUNK, images, in_batches
from course_lib.losses.adversarial import hinge_discriminator_loss
from course_lib.metrics import frechet_distance, psnr, ssim
from course_lib.nn.patchgan import PatchGAN
from course_lib.papers.vqgan import (
    VQGAN,
    Transformer,
    VQGANConfig,
    VQGANLoss,
    next_code_loss,
    sample_codes,
)
from course_lib.quantize.vq import nearest_code, perplexity, usage
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Model, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import float_to_pixels, pixels_to_float

TOKENIZER = "vqgan-gan"
DISCRIMINATOR = {"width": 32, "halvings": 2}

# ---------------------------------------------------------------- stage one


class Tokenizer(Trainable):
    """A VQGAN, its loss, and a patch discriminator that joins late."""

    model: VQGAN
    discriminator: PatchGAN | None
    step: Tensor

    def __init__(self, model: VQGAN, recipe: "TokenizerRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.perceptual = load_checkpoint(LPIPS_TRUNK)[0] if recipe.perceptual else None
        self.losses = VQGANLoss(
            self._perceptual_distance if recipe.perceptual else None,
            discriminator_weight=recipe.discriminator_weight,
        )
        if recipe.adversarial_from is None:
            self.discriminator = None
        else:
            self.discriminator = PatchGAN(**DISCRIMINATOR)
        self.register_buffer("step", torch.tensor(0))
        self.rebuilt = torch.empty(0)  # what the autoencoder made in this step

    def _perceptual_distance(self, image: Tensor, rebuilt: Tensor) -> Tensor:
        return self.perceptual.loss(rebuilt, image)

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        players: dict[str, Iterable[nn.Parameter]] = {"autoencoder": list(self.model.parameters())}
        if self.discriminator is not None:
            players["discriminator"] = list(self.discriminator.parameters())
        return players

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        image = pixels_to_float(batch["pixels"])
        start = self.recipe.adversarial_from
        has_joined = start is not None and int(self.step) >= start
        if player == "autoencoder":
            return self.autoencoder_loss(image, has_joined, rng)
        self.step += 1
        return self.discriminator_loss(image, has_joined)

    def autoencoder_loss(self, image: Tensor, has_joined: bool, rng: RandomSource) -> Tensor:
        """Revive dead codes, rebuild the images, and return the autoencoder's loss."""
        z = self.model.features(image)
        if self.recipe.revive_after:
            self.model.quantizer.revive(z, rng.rand(len(z), *z.shape[2:]), self.recipe.revive_after)
        quantized = self.model.quantizer(z)
        rebuilt = self.model.decode(quantized.latents)
        self.rebuilt = rebuilt.detach()
        last_layer = self.model.decoder.conv_out.weight
        discriminator = self.discriminator if has_joined else None
        total, _ = self.losses.generator_loss(
            image, rebuilt, quantized.loss, discriminator, last_layer
        )
        return total

    def discriminator_loss(self, image: Tensor, has_joined: bool) -> Tensor:
        """Return the discriminator's loss on the rebuilt images; zero until it joins."""
        if self.discriminator is None:
            raise ValueError("expected a recipe with a discriminator, got adversarial_from=None")
        if not has_joined:
            return 0 * reduce(torch.add, [p.sum() for p in self.discriminator.parameters()])
        return self.losses.discriminator_loss(self.discriminator, image, self.rebuilt)


@dataclass(frozen=True)
class TokenizerRecipe(Recipe):
    """A tiny VQGAN on images of one to three objects."""

    lr_schedule: LRSchedule = "plateau"
    pictures: int = 20_000
    multipliers: tuple[int, ...] = (1, 1, 2)
    num_codes: int = 256
    update: Literal["loss", "ema"] = "ema"
    revive_after: int | None = 50  # steps without use
    perceptual: bool = True
    adversarial_from: int | None = None  # step at which the discriminator joins; None: never
    discriminator_weight: float = 0.3  # 0.8 in the paper's code

    @property
    def config(self) -> VQGANConfig:
        """The configuration of this recipe's network."""
        return replace(
            zoo.find("vqgan/tiny").config,
            multipliers=self.multipliers,
            num_codes=self.num_codes,
            update=self.update,
        )

    def build(self) -> Tokenizer:
        return Tokenizer(VQGAN(self.config), self)

    def data(self) -> Tensors:
        return Tensors(pixels=images("train", self.pictures, count=(1, 2, 3))["pixels"])

    def measure(self, model: VQGAN) -> dict:
        """Measure the fidelity of rebuilt test images and the use of the codebook."""
        device = next(model.parameters()).device
        pixels = images("test", 1000, count=(1, 2, 3))["pixels"]
        indices = in_batches(lambda x: model.encode(x).indices, pixels, device)
        parts = [model.decode_indices(part.to(device)) for part in indices.split(100)]
        rebuilt = torch.cat([part.clamp(-1, 1).cpu() for part in parts])
        counts = torch.bincount(indices.flatten(), minlength=self.num_codes)
        return {
            **fidelity(pixels_to_float(pixels), rebuilt),
            "perplexity": float(perplexity(indices, self.num_codes)),
            "usage": float(usage(indices, self.num_codes)),
            "counts": counts.sort(descending=True).values.tolist(),
        }


@torch.no_grad()
def fidelity(image: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """Measure how near rebuilt images (n 3 h w) in [-1, 1] are to the originals.

    PSNR, SSIM and LPIPS compare them one by one, and the Fréchet distance in the features of the
    judge of images compares them as sets.
    """
    trunk, _ = load_checkpoint(LPIPS_TRUNK)
    judge, _ = load_checkpoint(IMAGE_JUDGE)
    parts = zip(image.split(100), rebuilt.split(100), strict=True)
    distance = torch.cat([trunk(x, y) for x, y in parts])
    real = torch.cat([judge.features(part) for part in image.split(100)])
    fake = torch.cat([judge.features(part) for part in rebuilt.split(100)])
    return {
        "psnr": float(psnr(rebuilt, image).mean()),
        "ssim": float(ssim(rebuilt, image).mean()),
        "lpips": float(distance.mean()),
        "frechet": frechet_distance(real, fake),
    }


class Detector(Trainable):
    """A fresh discriminator that learns to tell images from what a tokenizer made of them."""

    model: PatchGAN

    def __init__(self) -> None:
        super().__init__()
        self.model = PatchGAN(**DISCRIMINATOR)

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        real = self.model(pixels_to_float(batch["pixels"]))
        return hinge_discriminator_loss(real, self.model(pixels_to_float(batch["rebuilt"])))


@dataclass(frozen=True)
class DetectorRecipe(Recipe):
    """A fresh discriminator against a finished tokenizer, which it does not change.

    Both kinds of images are bytes, so that rounding does not tell them apart.
    """

    lr_schedule: LRSchedule = "plateau"
    pictures: int = 4000
    tokenizer: str = "vqgan-lpips"

    def build(self) -> Detector:
        return Detector()

    def pairs(self, split: str, n: int) -> dict[str, Tensor]:
        """Return n images and what the tokenizer makes of them, both (n h w 3) uint8."""
        tokenizer, _ = load_checkpoint(self.tokenizer)
        pixels = images(split, n, count=(1, 2, 3))["pixels"]
        rebuilt = in_batches(lambda x: tokenizer(x)[0].clamp(-1, 1), pixels)
        return {"pixels": pixels, "rebuilt": float_to_pixels(rebuilt)}

    @torch.no_grad()
    def data(self) -> Tensors:
        return Tensors(**self.pairs("train", self.pictures))

    def measure(self, model: PatchGAN) -> dict:
        """Measure the loss on test images, and each image's mean logit."""
        device = next(model.parameters()).device
        test = self.pairs("test", 1000)
        real = in_batches(model, test["pixels"], device)  # n 1 h w
        fake = in_batches(model, test["rebuilt"], device)
        return {
            "hinge": float(hinge_discriminator_loss(real, fake)),
            "real": real.mean((1, 2, 3)).tolist(),
            "fake": fake.mean((1, 2, 3)).tolist(),
        }


# ---------------------------------------------------------------- stage two


class Prior(Trainable):
    """A transformer that learns sequences of codes after a token for the class."""

    model: Transformer

    def __init__(self, model: Transformer):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long()
        return next_code_loss(self.model, class_token(batch["kind"]), codes).mean()


def class_token(kind: Tensor) -> Tensor:
    """Return the condition (b 1) of classes (b,).

    Class c shares its token with code c, following the official code.
    """
    return kind[:, None]


@dataclass(frozen=True)
class PriorRecipe(Recipe):
    """The tiny transformer on the codes of images with one object, given its shape and colour."""

    lr_schedule: LRSchedule = "linear"
    pictures: int = 20_000
    samples: int = 512  # drawn images that are measured
    weight_decay: float = 0.01

    def build(self) -> Prior:
        return Prior(Transformer(zoo.find("vqgan/transformer-tiny").config))

    def codes(self, split: str, n: int) -> dict[str, Tensor]:
        """Return the codes (n 64) and classes (n,) of n images."""
        tokenizer, _ = load_checkpoint(TOKENIZER)
        labelled = images(split, n)
        indices = in_batches(lambda x: tokenizer.encode(x).indices.short(), labelled["pixels"])
        return {"codes": rearrange(indices, "n h w -> n (h w)"), "kind": labelled["kind"]}

    def data(self) -> Tensors:
        return Tensors(**self.codes("train", self.pictures))

    def sample_images(
        self, model: Model, kind: Tensor, generator: torch.Generator, **options
    ) -> Tensor:
        """Draw images (n 3 h w) of these classes (n,), in [-1, 1]; options as of `sample_codes`."""
        tokenizer, _ = load_checkpoint(TOKENIZER, kind.device)
        codes = sample_codes(model, class_token(kind), (8, 8), generator=generator, **options)
        return tokenizer.decode_indices(codes)

    def measure(self, model: Model) -> dict:
        """Measure nats per token on test images, and samples of every class with the judge."""
        device = next(model.parameters()).device
        test = self.codes("test", 500)
        losses = []
        for codes, kind in zip(test["codes"].split(50), test["kind"].split(50), strict=True):
            condition = class_token(kind.to(device))
            losses.append(next_code_loss(model, condition, codes.long().to(device)).cpu())
        nats = torch.cat(losses)  # n 64
        kind = (torch.arange(self.samples) % KINDS).to(device)
        drawn = self.sample_images(model, kind, torch.Generator().manual_seed(0)).clamp(-1, 1)
        return {
            "nats_per_token": float(nats.mean()),
            "nats_by_place": nats.mean(0).tolist(),
            "bits_per_pixel": float(nats.sum(1).mean() / torch.tensor(2.0).log() / 32**2),
            **sample_scores(drawn, kind),
        }


@torch.no_grad()
def sample_scores(drawn: Tensor, kind: Tensor) -> dict[str, float]:
    """Measure drawn images (n 3 h w) of classes (n,) with the judge of images.

    It gives the shares of shapes and colours that it reads as asked for, and the Fréchet distance
    to test images in its features.
    """
    judge, _ = load_checkpoint(IMAGE_JUDGE)
    drawn = drawn.cpu()
    kind = kind.cpu()
    readings = [judge.read(part) for part in drawn.split(100)]
    shape = torch.cat([reading["shape"] for reading in readings])
    colour = torch.cat([reading["colour"] for reading in readings])
    real = images("test", 1000)["pixels"]
    fake = torch.cat([judge.features(part) for part in drawn.split(100)])
    return {
        "shape as asked": float((shape == kind // COLOURS).float().mean()),
        "colour as asked": float((colour == kind % COLOURS).float().mean()),
        "frechet": frechet_distance(in_batches(judge.features, real), fake),
    }


class PixelTransformer(Transformer):
    """The same transformer on pixels, each of them the nearest of 256 colours."""

    palette: Tensor

    def __init__(self) -> None:
        super().__init__(replace(zoo.find("vqgan/transformer-tiny").config, length=32**2))
        self.register_buffer("palette", torch.zeros(256, 3))

    def tokenize(self, image: Tensor) -> Tensor:
        """Return the number of every pixel's nearest colour, (b 3 h w) in [-1, 1] -> (b h*w)."""
        colours = rearrange(image, "b c h w -> (b h w) c")
        return rearrange(nearest_code(colours, self.palette), "(b n) -> b n", b=len(image))

    def decode(self, tokens: Tensor) -> Tensor:
        """Return the colours of tokens as an image, (b h w) -> (b 3 h w)."""
        return rearrange(self.palette[tokens], "b h w c -> b c h w")


def fit_palette(pixels: Tensor, colours: int = 256) -> Tensor:
    """Return the colours (colours 3) in [-1, 1] that k-means finds in images (n h w 3) uint8."""
    from sklearn.cluster import MiniBatchKMeans

    points = rearrange(pixels_to_float(pixels), "n c h w -> (n h w) c")
    clustering = MiniBatchKMeans(colours, random_state=0, batch_size=4096, n_init=1)
    return torch.from_numpy(clustering.fit(points.numpy()).cluster_centers_).float()


@dataclass(frozen=True)
class PixelPriorRecipe(PriorRecipe):
    """The same on pixels, with sixteen times as many tokens."""

    def build(self) -> Prior:
        model = PixelTransformer()
        model.palette.copy_(fit_palette(images("train", 500)["pixels"]))
        return Prior(model)

    def codes(self, split: str, n: int) -> dict[str, Tensor]:
        """Return the colours (n 1024) and classes (n,) of n images."""
        model = self.build().model
        labelled = images(split, n)
        codes = in_batches(lambda x: model.tokenize(x).short(), labelled["pixels"])
        return {"codes": codes, "kind": labelled["kind"]}

    def sample_images(
        self, model: Model, kind: Tensor, generator: torch.Generator, **options
    ) -> Tensor:
        """Draw images (n 3 h w) of these classes (n,), in [-1, 1], pixel by pixel."""
        codes = sample_codes(model, class_token(kind), (32, 32), generator=generator, **options)
        return model.decode(codes)


# ---------------------------------------------------------------- the recipes

WITH_LPIPS = TokenizerRecipe(
    "vqgan-lpips",
    steps=5000,
    batch_size=16,
    learning_rate=5e-4,
    betas=(0.5, 0.9),
    warmup=100,
    ema=0.99,
    checkpoint_dtype="float16",
)
LIVE = replace(
    WITH_LPIPS, name="vqgan-live", steps=600, learning_rate=1e-3, warmup=30, pictures=4000
)
F4 = replace(WITH_LPIPS, name="vqgan-f4", steps=1200)
DETECTOR = DetectorRecipe(
    "vqgan-discriminator-lpips",
    steps=200,
    batch_size=16,
    learning_rate=5e-4,
    betas=(0.5, 0.9),
    warmup=20,
    ema=0.0,
    checkpoint_dtype="float16",
)
COLLAPSE = replace(
    F4,
    name="vqgan-collapse-loss",
    perceptual=False,
    num_codes=1024,
    update="loss",
    revive_after=None,
)

RECIPES: list[Recipe] = [
    LIVE,
    replace(WITH_LPIPS, name="vqgan-l1", perceptual=False),
    WITH_LPIPS,
    replace(WITH_LPIPS, name=TOKENIZER, adversarial_from=3200),
    DETECTOR,
    replace(DETECTOR, name="vqgan-discriminator-gan", tokenizer=TOKENIZER),
    COLLAPSE,
    replace(COLLAPSE, name="vqgan-collapse-ema", update="ema"),
    replace(COLLAPSE, name="vqgan-collapse-loss-revived", revive_after=50),
    replace(COLLAPSE, name="vqgan-collapse-ema-revived", update="ema", revive_after=50),
    replace(F4, name="vqgan-f2", multipliers=(1, 2)),
    F4,
    replace(F4, name="vqgan-f8", multipliers=(1, 1, 1, 2)),
    replace(F4, name="vqgan-k16", num_codes=16),
    replace(F4, name="vqgan-k64", num_codes=64),
    replace(F4, name="vqgan-k1024", num_codes=1024),
    PriorRecipe(
        "vqgan-prior",
        steps=2500,
        batch_size=64,
        learning_rate=1e-3,
        warmup=100,
        ema=0.99,
        checkpoint_dtype="float16",
    ),
    PixelPriorRecipe(
        "vqgan-pixels",
        steps=400,
        batch_size=8,
        learning_rate=1e-3,
        warmup=100,
        ema=0.99,
        checkpoint_dtype="float16",
        samples=128,
    ),
]
