"""Notebook 09: clips of several durations in one batch, and clips that go on from an image.

`cogvideox-pack-*` train on rows of clips of 1, 2, 3 and 5 latent frames, two seeds;
`cogvideox-rope-*` train on as many rows of one clip of 5.  `cogvideox-image` goes on from
`cogvideox` and sees the first frame.
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor

from course_lib import zoo
from course_lib.diffusion import trailing_steps
from course_lib.metrics import psnr
from course_lib.nn.frame_pack import frame_pack, pack_clips
from course_lib.papers import cogvideox_diffusion
from course_lib.papers.cogvideox import Transformer
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import Recipe
from course_lib.training.recipes.cogvideox import (
    GUIDANCE,
    MODEL,
    ONE_THING,
    SHORT,
    STEPS,
    TextToVideo,
    TextToVideoRecipe,
    captions,
    encoded,
    latents_to_clips,
    movie_scores,
)
from course_lib.training.recipes.cogvideox_t5 import embed_captions
from course_lib.training.recipes.cogvideox_vae import movies
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

# Latent frames of the clips of four rows: whole rows, so that batches are as large as others.
ROWS = ((5,), (3, 2), (3, 1, 1), (2, 2, 1))
LENGTH = 5
DURATIONS = tuple(duration for row in ROWS for duration in row)

# ---------------------------------------------------------------- frame pack


class PackedTextToVideo(TextToVideo):
    """The loss of clips of several durations, packed into rows that are as long as the longest.

    The first latents of a clip are those of its beginning, because the autoencoder is causal.
    """

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        whole = batch["mean"] + batch["deviation"] * rng.randn_like(batch["mean"])
        b = len(whole)
        durations = [DURATIONS[i % len(DURATIONS)] for i in range(b)]
        pack = frame_pack(durations, LENGTH)
        x_start = pack_clips([x[:n] for x, n in zip(whole, durations, strict=True)], pack)
        text = self.keep_some(batch["text"], rng)
        t = self.draw_steps(b, rng)[torch.randperm(b, generator=rng.generator)]
        noise = torch.randn(x_start.shape, generator=rng.generator)
        return cogvideox_diffusion.packed_loss(
            self.model, x_start, t, noise, text, self.alphas_cumprod, pack
        ).mean()


@dataclass(frozen=True)
class PackRecipe(TextToVideoRecipe):
    """Clips of several durations, packed into rows."""

    def build(self) -> PackedTextToVideo:
        return PackedTextToVideo(self.untrained(), self)


# ---------------------------------------------------------------- image to video


class ImageToVideo(TextToVideo):
    """The same loss, with the first frame's latent beside the noisy ones; at times without it."""

    recipe: "ImageToVideoRecipe"

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x_start = batch["mean"] + batch["deviation"] * rng.randn_like(batch["mean"])
        b, frames = x_start.shape[:2]
        is_kept = rng.rand(b) >= self.recipe.image_dropout
        first = x_start[:, 0] * is_kept[:, None, None, None]
        return cogvideox_diffusion.loss(
            self.model,
            x_start,
            self.draw_steps(b, rng),
            rng.randn_like(x_start),
            self.keep_some(batch["text"], rng),
            self.alphas_cumprod,
            cogvideox_diffusion.image_condition(first, frames),
        ).mean()


@dataclass(frozen=True)
class ImageToVideoRecipe(TextToVideoRecipe):
    """A text-to-video model, trained on until it goes on from an image."""

    source: str = MODEL
    preset: str = "cogvideox/tiny-I2V"
    image_dropout: float = 0.05

    def build(self) -> ImageToVideo:
        model = self.untrained()
        state = load_checkpoint(self.source)[0].state_dict()
        state["patch_embed.weight"] = F.pad(
            state["patch_embed.weight"],
            (0, model.patch_embed.in_features - state["patch_embed.weight"].shape[1]),
        )  # the image's channels come after the noise's, and count for nothing yet
        model.load_state_dict(state)
        return ImageToVideo(model, self)

    @torch.no_grad()
    def measure(self, model: Transformer) -> dict:
        """Measure clips that go on from the first frames of test clips, beside what they are to be.

        Beside them: the first frame held, rebuilt clips, and what the source draws from the
        captions alone.
        """
        test = movies("test", self.samples, self.world)
        sentences = captions("test", self.samples, self.world)
        mean, _ = encoded("test", self.samples, self.world)
        real = pixels_to_float(test["pixels"])
        rebuilt = latents_to_clips(mean)
        generator = torch.Generator().manual_seed(0)
        source, _ = load_checkpoint(self.source)
        text_alone = replace(ONE_THING, name=self.source).draw(source, sentences, generator)
        shown = {
            "": self.draw_on(model, mean[:, 0], sentences, torch.Generator().manual_seed(0)),
            "held ": rebuilt[:, :1].expand_as(rebuilt),
            "rebuilt ": rebuilt,
            "text alone ": text_alone,
        }
        measured: dict = {}
        for name, clip in shown.items():
            measured |= {f"{name}{key}": x for key, x in movie_scores(clip, self.world).items()}
            first = psnr(clip[:, 0], real[:, 0])
            whole = psnr(clip.flatten(0, 1), real.flatten(0, 1)).unflatten(0, real.shape[:2])
            measured[f"{name}first frame psnr"] = float(first.mean())
            measured[f"{name}psnr"] = float(whole.mean())
            measured[f"{name}psnr by frame"] = whole.mean(0).tolist()
        return measured

    @torch.no_grad()
    def draw_on(
        self,
        model: Transformer,
        first: Tensor,
        sentences: list[str],
        generator: torch.Generator,
        guidance: float | Tensor = GUIDANCE,
        steps: int = STEPS,
    ) -> Tensor:
        """Draw clips (n t 3 32 32) that go on from normalized latents (n c h w), by DDIM."""
        frames, _, _ = zoo.find(self.preset).config.latent
        noise = torch.randn(len(first), frames, *first.shape[1:], generator=generator)
        text = embed_captions(sentences)
        drawn = []
        for x, image, words in zip(noise.split(64), first.split(64), text.split(64), strict=True):
            latents = cogvideox_diffusion.sample(
                model,
                x,
                words,
                torch.zeros_like(words[:1]),
                guidance,
                trailing_steps(len(self.alphas_cumprod), steps),
                self.alphas_cumprod,
                image=cogvideox_diffusion.image_condition(image, frames),
            )
            drawn.append(latents_to_clips(latents))
        return torch.cat(drawn)


# ---------------------------------------------------------------- the recipes

PACK = PackRecipe(
    "cogvideox-pack-0",
    steps=SHORT.steps,
    batch_size=SHORT.batch_size // len(ROWS) * len(DURATIONS),  # as many rows
    learning_rate=SHORT.learning_rate,
    warmup=SHORT.warmup,
    ema=SHORT.ema,
    clips=SHORT.clips,
    checkpoint_dtype=SHORT.checkpoint_dtype,
)

RECIPES: list[Recipe] = [
    *(replace(PACK, name=f"cogvideox-pack-{seed}", seed=seed) for seed in (0, 1)),
    ImageToVideoRecipe(
        "cogvideox-image",
        steps=3000,
        batch_size=16,
        learning_rate=1e-3,
        warmup=50,
        ema=0.995,
        checkpoint_dtype="float16",
    ),
]
