"""Notebook 09, first stage: the causal 3D autoencoder of clips of 32 pixels.

As in the paper (section 2.1) it learns short clips first: `cogvideox-vae-short` on 5 frames, then
`cogvideox-vae-long` goes on from it on all 17.  `cogvideox-vae` trains the decoder alone for longer
and leaves the latents as they are.  `cogvideox-vae-4`, `-8` and `-16`, which are shorter, differ in
the channels of a latent (Table 1).
"""

from dataclasses import dataclass, replace

import torch
from einops import rearrange
from torch import Tensor

from course_lib import zoo
from course_lib.data import LPIPS_TRUNK, MOTIONS, free_clips, in_batches
from course_lib.metrics import psnr
from course_lib.papers.cogvideox_vae import CogVideoXVAE
from course_lib.papers.ldm_autoencoder import kl_term
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes.judges import read_scenes
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

SIZE = 32  # pixels
FRAMES = 17
SHORT_FRAMES = 5
VAE = "cogvideox-vae"
# What a clip may show: one thing before a still camera, or whatever there is.
WORLDS: dict[str, dict] = {
    "one thing": {"count": 1, "camera": "still", "motion": MOTIONS},
    "whole world": {},
}


def movies(split: str, n: int, world: str = "one thing", seed: int = 0) -> dict[str, Tensor]:
    """Return n clips of a world (n 17 32 32 3), and their labels (n,)."""
    return free_clips(split, n, FRAMES, seed, SIZE, **WORLDS[world])


class VAETrainable(Trainable):
    """Squared error, LPIPS of a few frames, and a small KL term, on pieces of clips."""

    model: CogVideoXVAE

    def __init__(self, model: CogVideoXVAE, recipe: "VAERecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.perceptual = load_checkpoint(LPIPS_TRUNK)[0]

    def players(self):
        part = self.model.decoder if self.recipe.decoder_only else self.model
        return {"model": list(part.parameters())}

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        recipe = self.recipe
        pixels = batch["pixels"]
        b = len(pixels)
        start = (rng.rand(b) * (FRAMES - recipe.frames + 1)).long()
        frames = start[:, None] + torch.arange(recipe.frames, device=pixels.device)
        pixels = pixels[torch.arange(b)[:, None], frames]  # b t h w 3
        is_mirrored = rng.rand(b)[:, None, None, None, None] < 0.5
        clip = pixels_to_float(torch.where(is_mirrored, pixels.flip(3), pixels))
        video = rearrange(clip, "b t c h w -> b c t h w")

        posterior = self.model.encode(video)
        rebuilt = self.model.decode(posterior.sample(rng.randn_like(posterior.mean)))
        seen = (rng.rand(b, recipe.perceptual_frames) * recipe.frames).long()
        pairs = [
            rearrange(x.transpose(1, 2)[torch.arange(b)[:, None], seen], "b t c h w -> (b t) c h w")
            for x in (rebuilt, video)
        ]
        distance = self.perceptual.loss(*pairs).mean()
        nats = kl_term(*posterior).mean() / posterior.mean[0].numel()  # per value of a latent
        return (
            recipe.squared_weight * (rebuilt - video).square().mean()
            + recipe.perceptual_weight * distance
            + recipe.kl_weight * nats
        )


@dataclass(frozen=True)
class VAERecipe(Recipe):
    """The tiny causal autoencoder, on half clips of one thing and half of the whole world."""

    lr_schedule: LRSchedule = "plateau"
    preset: str = "cogvideox/VAE-tiny"
    source: str | None = None  # the checkpoint that it starts from
    decoder_only: bool = False  # whether the encoder stays as it is
    latent: int = 4  # channels of a latent
    clips: int = 6000
    frames: int = FRAMES
    squared_weight: float = 20.0
    perceptual_weight: float = 0.25
    perceptual_frames: int = 2
    kl_weight: float = 1e-3
    tests: int = 256  # clips of each world that are measured

    def build(self) -> VAETrainable:
        model = self.untrained()
        if self.source is not None:
            model.load_state_dict(load_checkpoint(self.source)[0].state_dict())
        return VAETrainable(model, self)

    def untrained(self) -> CogVideoXVAE:
        return CogVideoXVAE(replace(zoo.find(self.preset).config, latent=self.latent))

    def data(self) -> Tensors:
        half = self.clips // 2
        parts = [movies("train", half, world)["pixels"] for world in WORLDS]
        return Tensors(pixels=torch.cat(parts))

    @torch.no_grad()
    def measure(self, model: CogVideoXVAE) -> dict:
        """Measure rebuilt test clips of both worlds beside real ones, and the latents' statistics.

        The judge of scenes reads both.  What flickers is the error: how much it changes from frame
        to frame, of 255.
        """
        trunk, _ = load_checkpoint(LPIPS_TRUNK)
        measured: dict = {}
        for world in WORLDS:
            test = movies("test", self.tests, world)
            clip = pixels_to_float(test["pixels"])
            mean, _ = encode(model, test["pixels"])
            again = decode(model, mean)
            frames, rebuilt = clip.flatten(0, 1), again.flatten(0, 1)
            distance = torch.cat(
                [trunk(x, y) for x, y in zip(rebuilt.split(64), frames.split(64), strict=True)]
            )
            measured |= {
                f"{world} psnr": float(psnr(rebuilt, frames).mean()),
                f"{world} first frame psnr": float(psnr(again[:, 0], clip[:, 0]).mean()),
                f"{world} lpips": float(distance.mean()),
                f"{world} flicker": 127.5 * float((again - clip).diff(dim=1).abs().mean()),
            }
            for kind, shown in {"real": clip, "rebuilt": again}.items():
                read = read_scenes(shown)
                hits = {name: read[name] == test[name] for name in read}
                measured |= {
                    f"{world} {kind} {name}": float(hit.float().mean())
                    for name, hit in hits.items()
                }
                everything = torch.stack([hits[name] for name in ("shape", "colour", "motion")])
                measured[f"{world} {kind} all"] = float(everything.all(0).float().mean())
        mean, deviation = encode(model, movies("train", 500)["pixels"])
        return {
            **measured,
            "mean_by_channel": mean.mean((0, 2, 3, 4)).tolist(),
            "std_by_channel": mean.std((0, 2, 3, 4)).tolist(),
            "posterior_std": float(deviation.mean()),
        }


@torch.no_grad()
def encode(model: CogVideoXVAE, pixels: Tensor) -> tuple[Tensor, Tensor]:
    """Return mean and deviation (n c t h w) of the latents of clips (n t h w 3) of bytes."""
    device = next(model.parameters()).device

    def moments(clip: Tensor) -> Tensor:
        return torch.cat(model.encode(rearrange(clip, "b t c h w -> b c t h w")), dim=1)

    mean, log_variance = in_batches(moments, pixels, device).chunk(2, dim=1)
    return mean, (0.5 * log_variance).exp()


@torch.no_grad()
def decode(model: CogVideoXVAE, latents: Tensor) -> Tensor:
    """Return the clips (n t 3 h w) of latents as the encoder makes them, in [-1, 1]."""
    device = next(model.parameters()).device
    parts = [model.decode(part.to(device)).cpu() for part in latents.split(64)]
    return rearrange(torch.cat(parts).clamp(-1, 1), "b c t h w -> b t c h w")


SHORT = VAERecipe(
    "cogvideox-vae-short",
    steps=3000,
    batch_size=16,
    learning_rate=2e-3,
    warmup=100,
    ema=0.995,
    precision="bfloat16",
    checkpoint_dtype="float16",
    frames=SHORT_FRAMES,
)
CHANNELS = replace(SHORT, steps=800, clips=2000, frames=SHORT_FRAMES)

LONG = replace(
    SHORT,
    name="cogvideox-vae-long",
    source=SHORT.name,
    frames=FRAMES,
    steps=600,
    batch_size=8,
    learning_rate=5e-4,
    warmup=20,
)

RECIPES: list[Recipe] = [
    SHORT,
    LONG,
    replace(LONG, name=VAE, source=LONG.name, decoder_only=True, steps=2500, learning_rate=1e-3),
    *(replace(CHANNELS, name=f"cogvideox-vae-{c}", latent=c) for c in (4, 8, 16)),
]
