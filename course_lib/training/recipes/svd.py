"""Notebook 08, second half: Stable Video Diffusion on clips of the little world.

`svd-decoder` is the temporal decoder of the chapter's first stage.  `svd-images` teaches the image
model noise levels.  `svd-curated` goes on from it to what curation leaves of a small web of flawed
clips, and `svd-best` to the best tenth of it: the three stages of the paper.  `svd-three-*`,
shorter, have all of them, and `svd-no-*` lack one each; `svd-levels-*` differ in the noise levels.
"""

import functools
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Literal

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib import zoo
from course_lib.curation.aesthetics import aesthetic_score
from course_lib.curation.cuts import find_cuts, find_fades
from course_lib.curation.filter import Tools, curate, load_tools, score
from course_lib.curation.plant import uncurated
from course_lib.curation.text import MOST_TEXT, text_share
from course_lib.data import IMAGE_JUDGE, LPIPS_TRUNK, SCENE_JUDGE, images
from course_lib.diffusion.edm import (
    denoise,
    denoising_loss,
    euler_sample,
    karras_sigmas,
    noise_levels,
)
from course_lib.diffusion.guidance import Guided
from course_lib.metrics import frechet_distance, psnr
from course_lib.metrics.scene_judge import shrink
from course_lib.papers import svd
from course_lib.papers.svd_decoder import TemporalAutoencoder
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import LRSchedule, Recipe, Tensors, Trainable
from course_lib.training.recipes.judges import REST, read_scenes
from course_lib.training.recipes.ldm import (
    AUTOENCODER,
    FRAMES,
    SIZE,
    CaptionedDiffusion,
    CaptionedUNet,
    ImageRecipe,
    encode,
    scenes,
)
from course_lib.training.store import load_checkpoint
from course_lib.world import DURATION_SECONDS, float_to_pixels, pixels_to_float

DECODER = "svd-decoder"
FOUND_FRAMES = 27  # of a clip of the web: two seconds at 13 frames a second
FULL_FPS = (FOUND_FRAMES - 1) / DURATION_SECONDS
BUCKETS_PER_SCORE = 36.0  # motion buckets per unit of `curation.motion.motion_score`
VECTOR_WIDTH = 32  # numbers of one sinusoid of the vector condition

# What clips are asked for unless a caller says otherwise.
FPS = FULL_FPS / 2
BUCKET = 127.0
AUGMENTATION = 0.02
GUIDANCE = (1.0, 2.5)
STEPS = 20
SIGMA_MAX = 80.0

# ---------------------------------------------------------------- the temporal decoder


class DecoderTrainable(Trainable):
    """The temporal decoder's rebuilding loss; the encoder stays as it is."""

    model: TemporalAutoencoder

    def __init__(self, model: TemporalAutoencoder):
        super().__init__()
        self.model = model
        self.perceptual = load_checkpoint(LPIPS_TRUNK)[0]

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        return {"decoder": list(self.model.decoder.parameters())}

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        clip = pixels_to_float(batch["pixels"])
        frames = clip.shape[1]
        image = rearrange(clip, "b t c h w -> (b t) c h w")
        with torch.no_grad():
            posterior = self.model.encode(image)
        latents = posterior.sample(rng.randn_like(posterior.mean))
        rebuilt = self.model.decode(rearrange(latents, "(b t) ... -> b t ...", t=frames))
        rebuilt = rearrange(rebuilt, "b t c h w -> (b t) c h w")
        distance = self.perceptual.loss(rebuilt, image).mean()
        return (image - rebuilt).abs().mean() + distance


@dataclass(frozen=True)
class DecoderRecipe(Recipe):
    """The tiny temporal decoder, which starts from the decoder of single frames."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "svd/temporal-decoder-tiny"
    autoencoder: str = AUTOENCODER
    clips: int = 1000

    def build(self) -> DecoderTrainable:
        model = TemporalAutoencoder(zoo.find(self.preset).config)
        start_from_first_stage(model, load_checkpoint(self.autoencoder)[0])
        return DecoderTrainable(model)

    def data(self) -> Tensors:
        return Tensors(pixels=scenes("train", self.clips)["pixels"])

    @torch.no_grad()
    def measure(self, model: TemporalAutoencoder) -> dict:
        """Measure rebuilt test clips, and how much they flicker, beside the frame-wise decoder.

        What any model of clips is compared with is measured as its clips are: real clips, rebuilt
        ones, and rebuilt images, held for a whole clip.
        """
        test, at_rest = scenes("test", 128), images("test", 128, SIZE)
        clip = pixels_to_float(test["pixels"])
        image = pixels_to_float(at_rest["pixels"])[:, None]
        frame_wise, _ = load_checkpoint(self.autoencoder)
        parts = [
            by_frame(lambda x: frame_wise.decode(frame_wise.encode(x).mean), part)
            for part in clip.split(8)
        ]
        rebuilt = {"temporal": rebuild(model, clip), "frame-wise": torch.cat(parts).clamp(-1, 1)}
        measured: dict = {"real flicker": flicker(clip)}
        for name, again in rebuilt.items():
            measured[f"{name} psnr"] = float(psnr(again.flatten(0, 1), clip.flatten(0, 1)).mean())
            measured[f"{name} flicker"] = flicker(again - clip)
        held = rebuild(model, image).expand(-1, FRAMES, -1, -1, -1)
        yardsticks = {"real": (clip, test), "rebuilt": (rebuilt["temporal"], test)}
        for kind, (shown, of) in {**yardsticks, "held": (held, at_rest)}.items():
            measured |= {f"{kind} {key}": found for key, found in clip_scores(shown, of).items()}
        return measured


def rebuild(model: TemporalAutoencoder, clip: Tensor) -> Tensor:
    """Return what encoder and temporal decoder make of clips (n t 3 64 64)."""
    parts = [model.decode(by_frame(lambda x: model.encode(x).mean, part)) for part in clip.split(8)]
    return torch.cat(parts).clamp(-1, 1)


def start_from_first_stage(model: TemporalAutoencoder, first_stage: nn.Module) -> None:
    """Give a temporal autoencoder the weights of a frame-wise one, in place.

    The 1x1 convolution before the frame-wise decoder becomes part of the first one of the temporal
    decoder, which has none.  (Its bias does not reach the padding, so that the borders differ a
    little until training goes on.)
    """
    theirs = first_stage.state_dict()
    weight = theirs.pop("from_latents.weight")[:, :, 0, 0]  # z z_in
    bias = theirs.pop("from_latents.bias")
    conv = theirs["decoder.conv_in.weight"]  # c z 3 3
    theirs["decoder.conv_in.weight"] = torch.einsum("c z h w, z i -> c i h w", conv, weight)
    theirs["decoder.conv_in.bias"] = theirs["decoder.conv_in.bias"] + conv.sum((2, 3)) @ bias
    unknown = model.load_state_dict(theirs, strict=False).unexpected_keys
    if unknown:
        raise ValueError(f"expected a first stage of the decoder's shape, got {unknown[:4]}")
    nn.init.dirac_(model.decoder.time_conv_out.weight)
    nn.init.zeros_(model.decoder.time_conv_out.bias)  # type: ignore[arg-type]


def by_frame(function, clip: Tensor) -> Tensor:
    """Apply a function of images (n c h w) to all frames of clips (b t c h w)."""
    return rearrange(
        function(rearrange(clip, "b t c h w -> (b t) c h w")),
        "(b t) ... -> b t ...",
        t=clip.shape[1],
    )


def flicker(clip: Tensor) -> float:
    """Return the mean absolute change from frame to frame, of 255."""
    return 127.5 * float(clip.diff(dim=1).abs().mean())


# ---------------------------------------------------------------- what is found, and what is kept


@dataclass(frozen=True, eq=False)
class Web:
    """A small web of clips, and which of them curation keeps."""

    clips: Tensors  # as `encoded`, and the motion bucket of each, 0 to 255
    kept: Tensor  # the numbers of the clips that curation keeps
    best: Tensor  # those of the tenth that looks best


@functools.lru_cache(maxsize=1)
def web(n: int) -> Web:
    """Return the first n clips of the training web, encoded and curated."""
    found = uncurated("train", n, FOUND_FRAMES, SIZE, count=1)
    scores = score(found.pixels, found.captions, FULL_FPS, tools())
    kept = curate(scores).kept
    by_looks = kept[scores["aesthetics"][kept].argsort(descending=True)]
    return Web(
        clips=encoded(found.pixels, bucket=motion_bucket(scores["motion"])),
        kept=kept,
        best=by_looks[: n // 10],
    )


def encoded(pixels: Tensor, **more: Tensor) -> Tensors:
    """Return clips (n t 64 64 3), the mean and deviation of their scaled latents, and more."""
    first_stage, provenance = load_checkpoint(AUTOENCODER)
    factor = provenance["metrics"]["scale_factor"]
    mean, deviation = (
        factor * x.unflatten(0, pixels.shape[:2]) for x in encode(first_stage, pixels.flatten(0, 1))
    )
    return Tensors(pixels=pixels, mean=mean, deviation=deviation, **more)


@functools.lru_cache(maxsize=1)
def tools() -> Tools:
    """Return the tools of curation for clips of this size."""
    return load_tools(size=SIZE)


def motion_bucket(motion: Tensor) -> Tensor:
    """Return the motion bucket, 0 to 255, of motion scores."""
    return (BUCKETS_PER_SCORE * motion).clamp(0, 255)


# ---------------------------------------------------------------- images, by noise levels


class LevelledDiffusion(CaptionedDiffusion):
    """The loss of captioned images at noise levels, which the network is told in place of steps."""

    def __init__(self, model: CaptionedUNet, recipe: "LevelledRecipe"):
        super().__init__(model, recipe.caption_dropout)
        self.recipe = recipe

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x_start = self.x_start(batch, rng)
        b = len(x_start)
        sigma = noise_levels(rng.randn(b), self.recipe.p_mean, self.recipe.p_std)
        network = functools.partial(self.model.unet, context=self.context(batch, rng))
        return denoising_loss(network, x_start, sigma, rng.randn_like(x_start)).mean()


@dataclass(frozen=True)
class LevelledRecipe(ImageRecipe):
    """The image model, trained on until it knows noise levels (appendix D).

    The paper does so before it adds layers over time, with lower levels than for clips; here they
    are those of clips, which must be sampled from pure noise.
    """

    source: str = "ldm-images"
    p_mean: float = 0.7
    p_std: float = 1.6

    def build(self) -> LevelledDiffusion:
        return LevelledDiffusion(load_checkpoint(self.source)[0].requires_grad_(True), self)

    def sample(self, model: CaptionedUNet, predict: Guided, noise: Tensor) -> Tensor:
        denoiser = functools.partial(denoise, predict)
        return euler_sample(denoiser, noise, karras_sigmas(STEPS, sigma_max=SIGMA_MAX))


# ---------------------------------------------------------------- image to video


class ImageToVideo(Trainable):
    """The loss of image-to-video at the noise levels of a stage.

    A sample is some frames of a clip of 27, evenly spaced.
    """

    def __init__(self, model: nn.Module, recipe: "ClipRecipe"):
        super().__init__()
        self.model = model
        self.recipe = recipe
        self.first_stage, _ = load_checkpoint(AUTOENCODER)
        self.judge, _ = load_checkpoint(IMAGE_JUDGE)

    def players(self) -> dict[str, Iterable[nn.Parameter]]:
        return {"model": list(self.model.parameters())}

    def loss(self, player: str, batch: dict[str, Tensor], rng: RandomSource) -> Tensor:
        x_start, condition = self.sample(batch, rng)
        b = len(x_start)
        condition = condition.keep(rng.rand(b) >= self.recipe.condition_dropout)
        sigma = noise_levels(rng.randn(b), self.recipe.p_mean, self.recipe.p_std)
        noise = rng.randn_like(x_start)
        return svd.loss(self.model, x_start, sigma, noise, condition).mean()

    def sample(self, batch: dict[str, Tensor], rng: RandomSource) -> tuple[Tensor, svd.Condition]:
        """Return latents (b t c h w), and what the model is told of them."""
        b = len(batch["mean"])
        rows = torch.arange(b)[:, None]
        kept = torch.arange(self.recipe.frames, device=batch["mean"].device)
        stride = self.recipe.stride - (rng.rand(b) >= self.recipe.slow_rate).long()
        start = (rng.rand(b) * (FOUND_FRAMES - kept[-1] * stride)).long()
        frames = start[:, None] + stride[:, None] * kept

        mean = batch["mean"][rows, frames]  # b t c h w
        x_start = mean + batch["deviation"][rows, frames] * rng.randn_like(mean)
        ends = pixels_to_float(batch["pixels"][rows, frames[:, [0, -1]]])  # b 2 3 64 64
        return x_start, self.tell_ends(ends, FULL_FPS / stride, batch["bucket"], rng)

    def tell_ends(
        self, ends: Tensor, fps: Tensor, bucket: Tensor, rng: RandomSource
    ) -> svd.Condition:
        """Return what is told of samples with these first and last frames (b 2 3 64 64)."""
        return self.tell(ends[:, 0], fps, bucket, rng)

    def tell(self, image: Tensor, fps: Tensor, bucket: Tensor, rng: RandomSource) -> svd.Condition:
        """Return the condition of images (b 3 64 64), some noise added to them first."""
        augmentation = noise_levels(rng.randn(len(image)), *svd.NOISE["augmentation"])
        noised = svd.augment(image, augmentation, rng.randn_like(image))
        return image_condition(
            self.first_stage,
            self.judge,
            image,
            noised,
            self.recipe.frames,
            fps,
            bucket,
            augmentation,
        )


@torch.no_grad()
def image_condition(
    first_stage: nn.Module,
    judge: nn.Module,
    image: Tensor,
    noised: Tensor,
    frames: int,
    fps: Tensor,
    bucket: Tensor,
    augmentation: Tensor,
) -> svd.Condition:
    """Return what an image's continuation is told: (b 3 64 64), and three numbers (b,)."""
    embedding = judge.features(shrink(image[None])[0])  # b 96
    latent = first_stage.encode(noised).mean  # b 4 8 8
    vector = svd.micro_conditioning(fps - 1, bucket, augmentation, VECTOR_WIDTH)
    return svd.image_condition(embedding, latent, vector, frames)


@dataclass(frozen=True)
class ClipRecipe(Recipe):
    """A tiny image-to-video model on clips of the web, from an image model or a clip model."""

    lr_schedule: LRSchedule = "linear"
    preset: str = "svd/tiny"
    source: str | None = "svd-images"
    found: int = 3000  # clips of the web
    clips: Literal["all", "kept", "best"] = "kept"
    frames: int = FRAMES
    stride: int = 2  # frames of the web from one of a sample to the next
    slow_rate: float = 0.7  # share of samples of this stride; others have one less
    condition_dropout: float = 0.1
    p_mean: float = 0.7
    p_std: float = 1.6
    samples: int = 128  # clips that are drawn and measured

    def build(self) -> ImageToVideo:
        return ImageToVideo(self.start(), self)

    def untrained(self) -> nn.Module:
        return svd.UNet(zoo.find(self.preset).config)

    def start(self) -> svd.UNet:
        """Return the network as training finds it."""
        unet = svd.UNet(zoo.find(self.preset).config)
        if self.source is not None:
            source, _ = load_checkpoint(self.source)
            svd.start_from(unet, source.unet if isinstance(source, CaptionedUNet) else source)
        return unet

    def data(self) -> Tensors:
        found = web(self.found)
        which = {"all": torch.arange(self.found), "kept": found.kept, "best": found.best}
        return Tensors(**found.clips.batch(which[self.clips]))

    def measure(self, model: svd.UNet) -> dict:
        """Measure clips that continue test images."""
        return self.measure_continued(model, self.samples)

    def measure_continued(self, model: svd.UNet, samples: int, **knobs) -> dict:
        """Measure clips that continue as many test images, drawn with these options."""
        test = images("test", samples, SIZE)
        image = pixels_to_float(test["pixels"])
        options = {"fps": FULL_FPS / self.stride, "frames": self.frames} | knobs
        drawn = continue_images(model, image, torch.Generator().manual_seed(0), **options)
        first = float(psnr(drawn[:, 0], image).mean())
        return {"first frame psnr": first, **clip_scores(drawn, test)}


@torch.no_grad()
def continue_images(
    model: nn.Module,
    image: Tensor,
    generator: torch.Generator,
    fps: float = FPS,
    bucket: float = BUCKET,
    augmentation: float = AUGMENTATION,
    guidance: tuple[float, float] = GUIDANCE,
    steps: int = STEPS,
    frames: int = FRAMES,
) -> Tensor:
    """Draw a clip (n t 3 64 64) in [-1, 1] that continues each image (n 3 64 64)."""
    device = next(model.parameters()).device
    autoencoder, _ = load_checkpoint(AUTOENCODER, device)
    judge, _ = load_checkpoint(IMAGE_JUDGE, device)
    clips = []
    for part in image.split(32):
        grain = torch.randn(part.shape, generator=generator).to(device)
        part = part.to(device)
        numbers = [torch.full((len(part),), x, device=device) for x in (fps, bucket, augmentation)]
        noised = svd.augment(part, numbers[2], grain)
        condition = image_condition(autoencoder, judge, part, noised, frames, *numbers)
        clips.append(draw(model, condition, generator, guidance, steps))
    return torch.cat(clips)


@torch.no_grad()
def draw(
    model: nn.Module,
    condition: svd.Condition,
    generator: torch.Generator,
    guidance: tuple[float, float] = GUIDANCE,
    steps: int = STEPS,
) -> Tensor:
    """Draw a clip (n t 3 64 64) in [-1, 1] under each condition, which has latents (n t c h w)."""
    if condition.latent is None:
        raise ValueError("condition: expected one with latents, got one without")
    n, frames = condition.latent.shape[:2]
    device = condition.context.device
    temporal, _ = load_checkpoint(DECODER, device)
    factor = load_checkpoint(AUTOENCODER)[1]["metrics"]["scale_factor"]
    noise = torch.randn(n, frames, 4, SIZE // 8, SIZE // 8, generator=generator).to(device)
    scale = svd.guidance_ramp(frames, *guidance)
    sigmas = karras_sigmas(steps, sigma_max=SIGMA_MAX)
    latents = svd.sample(model, noise, condition, condition.without(), scale, sigmas)
    return temporal.decode(latents / factor).clamp(-1, 1).cpu()


@torch.no_grad()
def clip_scores(drawn: Tensor, test: dict[str, Tensor]) -> dict:
    """Measure clips (n t 3 64 64) of objects of these labels.

    The judge of scenes reads whether the object is still the same and whether anything moves; the
    set is compared with other real clips by the Fréchet distance of the judge's features.  The
    tools of curation rate every clip, and say whether there is text on it and whether it cuts.
    """
    judge, _ = load_checkpoint(SCENE_JUDGE)
    shown = torch.linspace(0, FRAMES - 1, drawn.shape[1]).round().long()
    others = pixels_to_float(scenes("test", len(drawn), seed=1)["pixels"][:, shown])
    read = read_scenes(drawn)
    kept = {name: read[name] == test[name] for name in ("shape", "colour", "scale")}
    fake, real = (
        torch.cat([judge.features(x) for x in part.split(64)]) for part in (drawn, others)
    )
    found = tools()
    pixels = float_to_pixels(drawn)
    per_clip = {
        "kept": kept["shape"] & kept["colour"],
        "moving": read["motion"] > REST,
        "any motion": (read["motion"] > REST) | (read["camera"] > 0),
        "text": torch.tensor([text_share(clip, found.detector) > MOST_TEXT for clip in pixels]),
        "cut": torch.tensor([bool(find_cuts(clip) or find_fades(clip)) for clip in pixels]),
        "rating": torch.tensor([aesthetic_score(clip, found.trunk, found.head) for clip in pixels]),
    }
    return {
        **{f"{name} kept": float(hits.float().mean()) for name, hits in kept.items()},
        "object kept": float(per_clip["kept"].float().mean()),
        "object moves": float(per_clip["moving"].float().mean()),
        "something moves": float(per_clip["any motion"].float().mean()),
        "text on it": float(per_clip["text"].float().mean()),
        "cuts": float(per_clip["cut"].float().mean()),
        "looks": float(per_clip["rating"].mean()),
        "change": flicker(drawn),
        "frechet": frechet_distance(real, fake),
        **{name: (1.0 * x).tolist() for name, x in per_clip.items()},
        "motions": read["motion"].bincount(minlength=9).tolist(),
        "cameras": read["camera"].bincount(minlength=3).tolist(),
    }


# What is tried; each with half as many clips as are measured otherwise.
KNOBS: dict[str, dict] = {
    "as asked": {},
    "bucket 20": {"bucket": 20.0},
    "bucket 230": {"bucket": 230.0},
    "fps 13": {"fps": FULL_FPS},
    "guidance 1": {"guidance": (1.0, 1.0)},
    "guidance 2.5": {"guidance": (2.5, 2.5)},
    "guidance 5": {"guidance": (1.0, 5.0)},
}


@dataclass(frozen=True)
class FinalRecipe(ClipRecipe):
    """The last stage, which clips are drawn from: what its knobs do is measured as well."""

    def measure(self, model: svd.UNet) -> dict:
        measured = super().measure(model)
        for name, knobs in KNOBS.items():
            scores = self.measure_continued(model, self.samples // 2, **knobs)
            measured |= {f"{name} {key}": x for key, x in scores.items()}
        return measured


# ---------------------------------------------------------------- the recipes

LEVELLED = LevelledRecipe(
    "svd-images",
    steps=1000,
    batch_size=64,
    learning_rate=1e-3,
    warmup=50,
    ema=0.99,
    checkpoint_dtype="float16",
)
CURATED = ClipRecipe(
    "svd-curated",
    steps=6000,
    batch_size=8,
    learning_rate=1e-3,
    warmup=100,
    ema=0.995,
    checkpoint_dtype="float16",
)
# What is compared: the whole of a clip in nine frames.
SHORT = replace(
    CURATED,
    name="svd-short",
    steps=600,
    batch_size=4,
    frames=9,
    stride=3,
    slow_rate=1.0,
    samples=64,
)
BEST = FinalRecipe(
    "svd-best",
    steps=1500,
    batch_size=8,
    checkpoint_dtype="float16",
    learning_rate=7e-4,
    warmup=50,
    ema=0.995,
    source="svd-curated",
    clips="best",
)


def stages(name: str, seed: int, pictured: bool, curated: bool, tuned: bool) -> list[ClipRecipe]:
    """Return the runs of three stages, or of three less one, with 800 steps on clips in all.

    Without images the clip model starts from random weights, without curation it is trained on all
    clips of the web, and without fine-tuning the second stage is as long as both.
    """
    video = replace(
        SHORT,
        name=f"svd-{name}-{seed}-video",
        seed=seed,
        steps=600 if tuned else 800,
        source="svd-images" if pictured else None,
        clips="kept" if curated else "all",
    )
    if not tuned:
        return [video]
    tuning = replace(
        video,
        name=f"svd-{name}-{seed}",
        steps=200,
        learning_rate=3e-4,
        warmup=20,
        ema=0.99,
        source=video.name,
        clips="best",
    )
    return [video, tuning]


# The distributions of ln(sigma) that are compared: three of the paper's stages, and one above.
LEVELS = {
    "images": svd.NOISE["images"],
    "clips": svd.NOISE["320x576"],
    "image-to-video": svd.NOISE["image-to-video 320x576"],
    "higher": (1.5, 1.6),
}

RECIPES: list[Recipe] = [
    DecoderRecipe(
        DECODER,
        steps=400,
        batch_size=2,
        learning_rate=5e-4,
        warmup=20,
        ema=0.99,
        precision="bfloat16",
        checkpoint_dtype="float16",
    ),
    LEVELLED,
    CURATED,
    BEST,
    *(
        replace(SHORT, name=f"svd-levels-{name}", p_mean=p_mean, p_std=p_std)
        for name, (p_mean, p_std) in LEVELS.items()
    ),
    *(
        recipe
        for seed in (0, 1)
        for runs in (
            stages("three", seed, pictured=True, curated=True, tuned=True),
            stages("no-images", seed, pictured=False, curated=True, tuned=True),
            stages("no-curation", seed, pictured=True, curated=False, tuned=True),
            stages("no-tuning", seed, pictured=True, curated=True, tuned=False),
        )
        for recipe in runs
    ),
]
