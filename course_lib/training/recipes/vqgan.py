"""Notebook 04: VQ-VAE, VQGAN and the transformer on their codes, on pictures of the little world.

`vqgan-l1`, `vqgan-lpips` and `vqgan-gan` have the same network, data, seed and steps, and one more
term of the loss each; the last is the chapter's tokenizer.  `vqgan-collapse-*` differ in how the
codebook is kept alive, `vqgan-f*` and `vqgan-k*` in the size of the grid and of the codebook.
`vqgan-prior` learns the tokenizer's codes, `vqgan-pixels` the pixels themselves, with the same
transformer.
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.data import IMAGE_JUDGE, KINDS, LPIPS_TRUNK, images, in_batches
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
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

TOKENIZER = "vqgan-gan"


# ---------------------------------------------------------------- stage one


class Tokenizer(Trainable):
    """A VQGAN, its loss, and a patch discriminator that joins late."""

    def __init__(self, model: VQGAN, recipe: "TokenizerRecipe"):
        super().__init__()
        self.model, self.recipe = model, recipe
        self.perceptual = load_checkpoint(LPIPS_TRUNK)[0] if recipe.perceptual else None
        distance = self.perceptual and (lambda image, rebuilt: self.perceptual.loss(rebuilt, image))
        self.losses = VQGANLoss(distance, discriminator_weight=recipe.discriminator_weight)
        self.discriminator = (
            None if recipe.adversarial_from is None else PatchGAN(width=32, halvings=2)
        )
        self.register_buffer("step", torch.tensor(0))
        self.rebuilt = None  # by the autoencoder in this step

    def players(self):
        players = {"autoencoder": list(self.model.parameters())}
        return (
            players
            if self.discriminator is None
            else players | {"discriminator": self.discriminator.parameters()}
        )

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        image = pixels_to_float(batch["pixels"])
        playing = self.discriminator is not None and bool(self.step >= self.recipe.adversarial_from)
        if player == "autoencoder":
            return self.autoencoder_loss(image, playing, rng)
        self.step += 1
        if not playing:
            return 0 * sum(p.sum() for p in self.discriminator.parameters())
        return self.losses.discriminator_loss(self.discriminator, image, self.rebuilt)

    def autoencoder_loss(self, image: Tensor, playing: bool, rng: RandomSource) -> Tensor:
        """Rebuild the pictures, dead codes revived first."""
        z = self.model.features(image)
        if self.recipe.revive_after:
            self.model.quantizer.revive(z, rng.rand(len(z), *z.shape[2:]), self.recipe.revive_after)
        quantized = self.model.quantizer(z)
        rebuilt = self.model.decode(quantized.latents)
        self.rebuilt = rebuilt.detach()
        judge, last = self.discriminator if playing else None, self.model.decoder.conv_out.weight
        return self.losses.generator_loss(image, rebuilt, quantized.loss, judge, last)[0]


@dataclass(frozen=True)
class TokenizerRecipe(Recipe):
    """A tiny VQGAN on pictures of one to three objects."""

    lr_schedule: LRSchedule = "plateau"
    pictures: int = 20_000
    multipliers: tuple[int, ...] = (1, 1, 2)
    num_codes: int = 256
    update: str = "ema"
    revive_after: int | None = 50  # steps without use
    perceptual: bool = True
    adversarial_from: int | None = None  # step of the discriminator's entry; None: it never enters
    discriminator_weight: float = 0.3  # the paper's 0.8 costs our small pictures more than it gives

    @property
    def config(self) -> VQGANConfig:
        """The network of this recipe."""
        tiny = zoo.find("vqgan/tiny").config
        return replace(
            tiny, multipliers=self.multipliers, num_codes=self.num_codes, update=self.update
        )

    def build(self) -> Tokenizer:
        return Tokenizer(VQGAN(self.config), self)

    def data(self) -> Tensors:
        return Tensors(pixels=images("train", self.pictures, count=(1, 2, 3))["pixels"])

    def measure(self, model: VQGAN) -> dict:
        """Fidelity of rebuilt test pictures, Fréchet distance in the judge's features, and use of
        the codebook.
        """
        device = next(model.parameters()).device
        pixels = images("test", 1000, count=(1, 2, 3))["pixels"]
        indices = in_batches(lambda x: model.encode(x).indices, pixels, device)
        rebuilt = torch.cat(
            [
                model.decode_indices(part.to(device)).clamp(-1, 1).cpu()
                for part in indices.split(100)
            ]
        )
        counts = torch.bincount(indices.flatten(), minlength=self.num_codes)
        return {
            **fidelity(pixels_to_float(pixels), rebuilt),
            "perplexity": float(perplexity(indices, self.num_codes)),
            "usage": float(usage(indices, self.num_codes)),
            "counts": counts.sort(descending=True).values.tolist(),
        }


@torch.no_grad()
def fidelity(image: Tensor, rebuilt: Tensor) -> dict[str, float]:
    """How near rebuilt pictures (n 3 h w) in [-1, 1] are to the originals, one by one and as a set."""
    trunk, judge = load_checkpoint(LPIPS_TRUNK)[0], load_checkpoint(IMAGE_JUDGE)[0]
    distance = torch.cat(
        [trunk(x, y) for x, y in zip(image.split(100), rebuilt.split(100), strict=True)]
    )
    real, fake = (
        torch.cat([judge.features(part) for part in x.split(100)]) for x in (image, rebuilt)
    )
    return {
        "psnr": float(psnr(rebuilt, image).mean()),
        "ssim": float(ssim(rebuilt, image).mean()),
        "lpips": float(distance.mean()),
        "frechet": frechet_distance(real, fake),
    }


# ---------------------------------------------------------------- stage two


class Prior(Trainable):
    """A transformer that learns sequences of codes behind a token for the class."""

    def __init__(self, model: nn.Module):
        super().__init__()
        self.model = model

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        codes = batch["codes"].long()
        return next_code_loss(self.model, class_token(batch["kind"]), codes).mean()


def class_token(kind: Tensor) -> Tensor:
    """The condition (b 1) of classes (b,): class c shares its token with code c, as in the official
    code.
    """
    return kind[:, None]


@dataclass(frozen=True)
class PriorRecipe(Recipe):
    """The tiny transformer on the codes of pictures with one object, given its shape and colour."""

    lr_schedule: LRSchedule = "linear"
    pictures: int = 20_000
    samples: int = 512
    weight_decay: float = 0.01

    def build(self) -> Prior:
        return Prior(Transformer(zoo.find("vqgan/transformer-tiny").config))

    def codes(self, split: str, n: int) -> dict[str, Tensor]:
        """Codes (n 64) and classes (n,) of n pictures."""
        tokenizer, found = load_checkpoint(TOKENIZER)[0], images(split, n)
        indices = in_batches(lambda x: tokenizer.encode(x).indices.short(), found["pixels"])
        return {"codes": rearrange(indices, "n h w -> n (h w)"), "kind": found["kind"]}

    def data(self) -> Tensors:
        return Tensors(**self.codes("train", self.pictures))

    def sample_images(
        self, model: nn.Module, kind: Tensor, generator: torch.Generator, **how
    ) -> Tensor:
        """Pictures (n 3 h w) of these classes (n,), in [-1, 1]."""
        tokenizer = load_checkpoint(TOKENIZER, kind.device)[0]
        return tokenizer.decode_indices(
            sample_codes(model, class_token(kind), (8, 8), generator=generator, **how)
        )

    def measure(self, model: nn.Module) -> dict:
        """Nats per token and bits per pixel on test pictures, and what the judge makes of samples
        of every class.
        """
        device = next(model.parameters()).device
        test = self.codes("test", 500)
        nats = torch.cat([
            next_code_loss(model, class_token(kind.to(device)), codes.long().to(device)).cpu()
            for codes, kind in zip(test["codes"].split(50), test["kind"].split(50), strict=True)
        ])  # fmt: skip
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
    """The judge on drawn pictures (n 3 h w) of classes (n,): the share it reads as asked, and the
    Fréchet distance.
    """
    judge = load_checkpoint(IMAGE_JUDGE)[0]
    drawn, kind = drawn.cpu(), kind.cpu()
    read = [judge.read(part) for part in drawn.split(100)]
    shape, colour = (torch.cat([part[name] for part in read]) for name in ("shape", "colour"))
    real = images("test", 1000)["pixels"]
    fake = torch.cat([judge.features(part) for part in drawn.split(100)])
    return {
        "shape as asked": float((shape == kind // 8).float().mean()),
        "colour as asked": float((colour == kind % 8).float().mean()),
        "frechet": frechet_distance(in_batches(judge.features, real), fake),
    }


class PixelTransformer(Transformer):
    """The same transformer on pixels, each one the nearest of 256 colours."""

    def __init__(self):
        super().__init__(replace(zoo.find("vqgan/transformer-tiny").config, length=32**2))
        self.register_buffer("palette", torch.zeros(256, 3))

    def tokenize(self, image: Tensor) -> Tensor:
        """(b 3 h w) in [-1, 1] -> (b h*w)"""
        return nearest_code(rearrange(image, "b c h w -> (b h w) c"), self.palette).view(
            len(image), -1
        )

    def decode(self, tokens: Tensor) -> Tensor:
        """(b h w) -> (b 3 h w)"""
        return rearrange(self.palette[tokens], "b h w c -> b c h w")


def fit_palette(pixels: Tensor, colours: int = 256) -> Tensor:
    """The colours (colours 3) in [-1, 1] that k-means finds in pictures (n h w 3) uint8."""
    from sklearn.cluster import MiniBatchKMeans

    seen = rearrange(pixels_to_float(pixels), "n c h w -> (n h w) c")
    means = (
        MiniBatchKMeans(colours, random_state=0, batch_size=4096, n_init=1)
        .fit(seen.numpy())
        .cluster_centers_
    )
    return torch.from_numpy(means).float()


@dataclass(frozen=True)
class PixelPriorRecipe(PriorRecipe):
    """The same on pixels: sixteen times as many tokens."""

    def build(self) -> Prior:
        model = PixelTransformer()
        model.palette.copy_(fit_palette(images("train", 500)["pixels"]))
        return Prior(model)

    def codes(self, split: str, n: int) -> dict[str, Tensor]:
        """The colours (n 1024) of n pictures."""
        model, found = self.build().model, images(split, n)
        return {
            "codes": in_batches(lambda x: model.tokenize(x).short(), found["pixels"]),
            "kind": found["kind"],
        }

    def sample_images(
        self, model: nn.Module, kind: Tensor, generator: torch.Generator, **how
    ) -> Tensor:
        """Pictures (n 3 h w) of these classes (n,), in [-1, 1], pixel by pixel."""
        return model.decode(
            sample_codes(model, class_token(kind), (32, 32), generator=generator, **how)
        )


STAGE_ONE = dict(
    batch_size=16,
    learning_rate=5e-4,
    betas=(0.5, 0.9),
    warmup=100,
    ema=0.99,
    checkpoint_dtype="float16",
)
FULL, SHORT = STAGE_ONE | {"steps": 5000}, STAGE_ONE | {"steps": 1200}
# by the number of pixels per code along a side
MULTIPLIERS = {2: (1, 2), 4: (1, 1, 2), 8: (1, 1, 1, 2)}
STAGE_TWO = dict(learning_rate=1e-3, warmup=100, ema=0.99, checkpoint_dtype="float16")

RECIPES = [
    TokenizerRecipe("vqgan-live", **STAGE_ONE | {"steps": 600, "learning_rate": 1e-3, "warmup": 30}, pictures=4000),
    TokenizerRecipe("vqgan-l1", perceptual=False, **FULL),
    TokenizerRecipe("vqgan-lpips", **FULL),
    TokenizerRecipe(TOKENIZER, adversarial_from=3200, **FULL),
    *(
        TokenizerRecipe(
            f"vqgan-collapse-{name}", perceptual=False, num_codes=1024, update=update, revive_after=revive, **SHORT
        )
        for name, update, revive in (
            ("loss", "loss", None), ("ema", "ema", None), ("loss-revived", "loss", 50), ("ema-revived", "ema", 50),
        )
    ),
    *(TokenizerRecipe(f"vqgan-f{f}", multipliers=m, **SHORT) for f, m in MULTIPLIERS.items()),
    *(TokenizerRecipe(f"vqgan-k{k}", num_codes=k, **SHORT) for k in (16, 64, 1024)),
    PriorRecipe("vqgan-prior", steps=2500, batch_size=64, **STAGE_TWO),
    PixelPriorRecipe("vqgan-pixels", steps=400, batch_size=8, samples=128, **STAGE_TWO),
]  # fmt: skip
