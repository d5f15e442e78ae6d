"""Notebook 09: text to video, in the latents of `cogvideox-vae`.

`cogvideox` films one thing before a still camera, `cogvideox-world` whatever the little world has.
The rest, shorter and with two seeds each, differ from `cogvideox-rope-*` in one choice:
`cogvideox-sin-cos-*` add positions instead of rotating, `cogvideox-one-expert-*` modulate text and
video alike, `cogvideox-2d-1d-*` attend within frames and across them in turn,
`cogvideox-random-times-*` draw every step independently, and `cogvideox-some-signal-*` end the
schedule where latent diffusion ends it.
`cogvideox-rope-long` and `cogvideox-sin-cos-long` take four times as many steps.
"""

import functools
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from course_lib import zoo
from course_lib.data import SCENE_JUDGE
from course_lib.diffusion import scaled_linear_betas, trailing_steps
from course_lib.metrics import frechet_distance
from course_lib.papers import cogvideox_diffusion
from course_lib.papers.cogvideox import Transformer
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes.cogvideox_t5 import embed_captions, normalize_vectors
from course_lib.training.recipes.cogvideox_vae import (
    FRAMES,
    SIZE,
    VAE,
    WORLDS,
    decode,
    encode,
    movies,
)
from course_lib.training.recipes.judges import read_scenes
from course_lib.training.store import load_checkpoint, results
from course_lib.world import LittleWorld, caption, pixels_to_float

MODEL = "cogvideox"  # of one thing
WORLD_MODEL = "cogvideox-world"
GUIDANCE = 3.0
STEPS = 20
TIMES = (100, 300, 500, 700, 900)  # of Table 9's losses
LENGTHS = (1, 2, 3, 5)  # latent frames of the clips whose losses are compared

# ---------------------------------------------------------------- latents and captions


def captions(split: str, n: int, world: str = "one thing", seed: int = 0) -> list[str]:
    """Return the captions of `movies` of the same arguments."""
    scenes = LittleWorld(split, SIZE, FRAMES, length=n, seed=seed, **WORLDS[world])
    return [caption(scenes.scene(i)) for i in range(n)]


@functools.lru_cache(maxsize=1)
def latent_statistics() -> tuple[Tensor, Tensor]:
    """Return the mean and the deviation of every channel of the latents, c 1 1 each."""
    details = results(VAE)["details"]
    mean, deviation = (torch.tensor(details[f"{name}_by_channel"]) for name in ("mean", "std"))
    return mean[:, None, None], deviation[:, None, None]


@functools.lru_cache(maxsize=4)
def encoded(split: str, n: int, world: str) -> tuple[Tensor, Tensor]:
    """Return mean and deviation of the normalized latents (n t c h w) of clips."""
    mean, deviation = encode(load_checkpoint(VAE)[0], movies(split, n, world)["pixels"])
    centre, scale = latent_statistics()
    return (mean.transpose(1, 2) - centre) / scale, deviation.transpose(1, 2) / scale


def latents_to_clips(latents: Tensor) -> Tensor:
    """Return the clips (n t 3 32 32) in [-1, 1] of normalized latents (n t c h w)."""
    centre, scale = latent_statistics()
    return decode(load_checkpoint(VAE)[0], (latents.cpu() * scale + centre).transpose(1, 2))


# ---------------------------------------------------------------- the model and its loss


class TextToVideo(Trainable):
    """The error of v on latents at steps of the schedule; now and then the text is left out."""

    model: Transformer
    alphas_cumprod: Tensor

    def __init__(self, model: Transformer, recipe: "TextToVideoRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.register_buffer("alphas_cumprod", recipe.alphas_cumprod)

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x_start = batch["mean"] + batch["deviation"] * rng.randn_like(batch["mean"])
        text = self.keep_some(batch["text"], rng)
        t = self.draw_steps(len(x_start), rng)
        noise = rng.randn_like(x_start)
        return cogvideox_diffusion.loss(
            self.model, x_start, t, noise, text, self.alphas_cumprod
        ).mean()

    def keep_some(self, text: Tensor, rng: RandomSource) -> Tensor:
        """Replace some texts by zeros, which stand for no text."""
        is_kept = rng.rand(len(text)) >= self.recipe.text_dropout
        return text * is_kept[:, None, None]

    def draw_steps(self, b: int, rng: RandomSource) -> Tensor:
        """Draw the steps of a batch."""
        timesteps = len(self.alphas_cumprod)
        if self.recipe.explicit_uniform:
            uniform = rng.rand(b)
            return cogvideox_diffusion.explicit_uniform(uniform, timesteps, rng.rank, rng.processes)
        return rng.randint(0, timesteps, b)


@dataclass(frozen=True)
class TextToVideoRecipe(Recipe):
    """A tiny expert transformer on clips of one world and their captions."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "cogvideox/tiny"
    world: str = "one thing"
    clips: int = 8000
    text_dropout: float = 0.1
    normalized_text: bool = False
    positions: str = "rope"
    attention: str = "full"
    experts: bool = True
    explicit_uniform: bool = True
    zero_snr: bool = True  # whether nothing but noise is left at the last step
    samples: int = 256  # clips that are drawn and measured
    sweep: tuple[float, ...] = ()  # guidance scales that are measured besides GUIDANCE

    def build(self) -> TextToVideo:
        return TextToVideo(self.untrained(), self)

    def untrained(self) -> Transformer:
        config = replace(
            zoo.find(self.preset).config,
            positions=self.positions,
            attention=self.attention,
            experts=self.experts,
        )
        return Transformer(config)

    @property
    def alphas_cumprod(self) -> Tensor:
        """The schedule's products, (T,)."""
        config = zoo.find(self.preset).config
        if self.zero_snr:
            return config.alphas_cumprod
        return (1 - scaled_linear_betas(config.timesteps, *config.betas)).cumprod(0)

    def data(self) -> Tensors:
        mean, deviation = encoded("train", self.clips, self.world)
        text = self.embed(captions("train", self.clips, self.world))
        return Tensors(mean=mean, deviation=deviation, text=text)

    def embed(self, sentences: list[str]) -> Tensor:
        """Return the vectors of sentences, b n d."""
        vectors = embed_captions(sentences)
        return normalize_vectors(vectors) if self.normalized_text else vectors

    @torch.no_grad()
    def measure(self, model: Transformer) -> dict:
        """Measure the loss of test clips at Table 9's steps, and clips drawn from test captions.

        The loss of shorter clips is that of the test clips' first latent frames.
        """
        sentences = captions("test", self.samples, self.world)
        losses = {n: self.losses_on_test_clips(model, n) for n in LENGTHS}  # by step and clip
        whole = losses[max(LENGTHS)]
        measured: dict = {"loss": float(whole.mean()), "losses": whole.mean(0).tolist()}
        measured |= {f"loss at {t}": float(x.mean()) for t, x in zip(TIMES, whole, strict=True)}
        for n, of_length in losses.items():
            measured[f"loss of {n}"] = float(of_length.mean())
            measured[f"losses of {n}"] = of_length.mean(0).tolist()
        for scale in (GUIDANCE, *self.sweep):
            drawn = self.draw(model, sentences, torch.Generator().manual_seed(0), scale)
            name = "" if scale == GUIDANCE else f"guidance {scale:g} "
            scores = movie_scores(drawn, self.world)
            measured |= {f"{name}{key}": value for key, value in scores.items()}
        return measured

    def losses_on_test_clips(self, model: Transformer, frames: int) -> Tensor:
        """Return the losses (steps n) of the first latent frames of test clips at `TIMES`."""
        mean, _ = encoded("test", self.samples, self.world)
        noise = torch.randn(mean.shape, generator=torch.Generator().manual_seed(0))
        text = self.embed(captions("test", self.samples, self.world))
        return torch.stack(
            [
                cogvideox_diffusion.loss(
                    model,
                    mean[:, :frames],
                    torch.full((self.samples,), t),
                    noise[:, :frames],
                    text,
                    self.alphas_cumprod,
                )
                for t in TIMES
            ]
        )

    def draw(
        self,
        model: Transformer,
        sentences: list[str],
        generator: torch.Generator,
        guidance: float | Tensor = GUIDANCE,
        steps: int = STEPS,
        frames: int | None = None,
    ) -> Tensor:
        """Draw a clip (n t 3 32 32) in [-1, 1] for each sentence, by DDIM.

        guidance: one scale, or one for every step.  frames: of the latents, if not those that the
        model was trained on.
        """
        t, h, w = model.config.latent
        device = next(model.parameters()).device
        shape = (len(sentences), frames or t, model.config.out_channels, h, w)
        noise = torch.randn(shape, generator=generator)
        visited = trailing_steps(len(self.alphas_cumprod), steps)
        text = self.embed(sentences)
        null = torch.zeros_like(text[:1]).to(device)
        drawn = []
        for x, part in zip(noise.split(64), text.split(64), strict=True):
            latents = cogvideox_diffusion.sample(
                model,
                x.to(device),
                part.to(device),
                null,
                guidance,
                visited,
                self.alphas_cumprod,
            )
            drawn.append(latents_to_clips(latents))
        return torch.cat(drawn)


@torch.no_grad()
def movie_scores(drawn: Tensor, world: str) -> dict:
    """Measure clips (n t 3 32 32) drawn from the captions of the first n test clips of a world.

    The judge of scenes reads them, as detectors do in VBench (arXiv 2311.17982); the set is
    compared with other real clips by the Fréchet distance of the judge's features.  By chance: how
    often another test clip fits the caption.
    """
    test = movies("test", len(drawn), world)
    judge, _ = load_checkpoint(SCENE_JUDGE)
    read = read_scenes(drawn)
    others = pixels_to_float(movies("test", len(drawn), world, seed=1)["pixels"])
    fake, real = (
        torch.cat([judge.features(part) for part in x.split(64)]) for x in (drawn, others)
    )
    names = ("shape", "colour", "motion")
    hits = {name: read[name] == test[name] for name in read}
    brightness = drawn.mean((1, 2, 3, 4))
    return {
        **{f"{name} as asked": float(hit.float().mean()) for name, hit in hits.items()},
        "all as asked": float(torch.stack([hits[name] for name in names]).all(0).float().mean()),
        **{f"chance {name}": share_of_equal_pairs(test[name]) for name in read},
        "chance all": share_of_equal_pairs(*(test[name] for name in names)),
        "frechet": frechet_distance(real, fake),
        "brightness": float(brightness.mean()),
        "brightness deviation": float(brightness.std()),
        "real brightness": float(others.mean()),
        "real brightness deviation": float(others.mean((1, 2, 3, 4)).std()),
        **{f"{name} hits": hit.int().tolist() for name, hit in hits.items()},
    }


def share_of_equal_pairs(*values: Tensor) -> float:
    """Return the share of the pairs of clips that have all values in common, each value (n,)."""
    n = len(values[0])
    same = torch.stack([x[:, None] == x for x in values]).all(0)
    return float(same.sum() - n) / (n * (n - 1))


# ---------------------------------------------------------------- the recipes

ONE_THING = TextToVideoRecipe(
    MODEL,
    steps=20_000,
    batch_size=16,
    learning_rate=3e-3,
    warmup=200,
    ema=0.999,
    checkpoint_dtype="float16",
    sweep=(1.0, 2.0, 5.0),
)
SHORT = replace(
    ONE_THING, name="cogvideox-rope-0", steps=1000, warmup=50, ema=0.99, clips=4000, sweep=()
)
VARIANTS: dict[str, dict] = {
    "rope": {},
    "sin-cos": {"positions": "sincos"},
    "one-expert": {"experts": False},
    "2d-1d": {"attention": "factorised"},
    "random-times": {"explicit_uniform": False},
    "some-signal": {"zero_snr": False},
}

# What a notebook has the time for: few clips, which are soon encoded.
LIVE = replace(
    ONE_THING,
    name="cogvideox-live",
    steps=400,
    warmup=20,
    ema=0.98,
    clips=800,
    normalized_text=True,
    sweep=(),
)

RECIPES: list[Recipe] = [
    ONE_THING,
    LIVE,
    replace(ONE_THING, name=WORLD_MODEL, world="whole world", steps=14_000, clips=10_000, sweep=()),
    *(
        replace(SHORT, name=f"cogvideox-{name}-{seed}", seed=seed, **choice)
        for name, choice in VARIANTS.items()
        for seed in (0, 1)
    ),
    *(
        replace(SHORT, name=f"cogvideox-{name}-long", steps=4 * SHORT.steps, **VARIANTS[name])
        for name in ("rope", "sin-cos")
    ),
]
