"""Notebook 08, last part: what a clip model learns quickly (section 4 of the paper).

`svd-camera-*` are LoRAs of `svd-best`, each for one motion of the camera.  `svd-between` fills in
the frames between two.  `svd-views-*` draw an object at rest from all sides; they start from a clip
model, from an image model and from random weights.  The paper's baselines for views are Zero123
(arXiv 2303.11328) and SyncDreamer (arXiv 2309.03453), its objects Objaverse's (arXiv 2212.08051).
"""

from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from course_lib.curation.motion import motion_score
from course_lib.data import IMAGE_JUDGE, LPIPS_TRUNK, free_clips, orbits
from course_lib.metrics import psnr
from course_lib.metrics.scene_judge import shrink
from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.lora import add_lora
from course_lib.papers import svd
from course_lib.training.randomness import RandomSource
from course_lib.training.recipe import Recipe, Tensors
from course_lib.training.recipes.ldm import AUTOENCODER, FRAMES, SIZE
from course_lib.training.recipes.svd import (
    BUCKET,
    DECODER,
    FOUND_FRAMES,
    FPS,
    FULL_FPS,
    VECTOR_WIDTH,
    ClipRecipe,
    ImageToVideo,
    by_frame,
    draw,
    encoded,
    image_condition,
    motion_bucket,
    rebuild,
)
from course_lib.training.store import load_checkpoint
from course_lib.world import pixels_to_float

# ---------------------------------------------------------------- 4.3.1 the camera moves as asked


class CameraMotion(nn.Module):
    """A clip model with a LoRA in its temporal attention, which is all that is trained and kept."""

    def __init__(self, unet: svd.UNet, rank: int):
        super().__init__()
        unet.requires_grad_(False)
        layers = svd.temporal_attention_layers(unet)
        self.changes = nn.ParameterList(
            add_lora(unet, layers, rank, torch.Generator().manual_seed(0))
        )
        self.adapted = [unet]  # in a list, so that it is no part of this module

    def forward(self, *args: Tensor | None) -> Tensor:
        return self.adapted[0](*args)  # b t c h w

    def _apply(self, fn, recurse: bool = True):
        self.adapted[0]._apply(fn, recurse)
        return super()._apply(fn, recurse)


@dataclass(frozen=True)
class CameraRecipe(ClipRecipe):
    """A LoRA, from a few clips under one motion of the camera."""

    source: str | None = "svd-best"
    camera: str = "orbit"
    rank: int = 16
    found: int = 300

    def build(self) -> ImageToVideo:
        return ImageToVideo(self.untrained(), self)

    def untrained(self) -> CameraMotion:
        """Return `source` with new LoRAs: the checkpoint has theirs only."""
        return CameraMotion(self.start(), self.rank)

    def data(self) -> Tensors:
        clips = free_clips(
            "train", self.found, FOUND_FRAMES, seed=1, size=SIZE, count=1, camera=self.camera
        )
        moved = torch.tensor([motion_score(clip, FULL_FPS) for clip in clips["pixels"]])
        return encoded(clips["pixels"], bucket=motion_bucket(moved))


# ---------------------------------------------------------------- 4.4 the frames between two

BETWEEN_FRAMES = 5
BETWEEN_STRIDE = 2  # frames of the web from one to the next


class Between(ImageToVideo):
    """The loss of drawing the frames between the first and the last."""

    def tell_ends(
        self, ends: Tensor, fps: Tensor, bucket: Tensor, rng: RandomSource
    ) -> svd.Condition:
        return ends_condition(self.first_stage, self.judge, ends, fps, bucket)


@torch.no_grad()
def ends_condition(
    first_stage: nn.Module, judge: nn.Module, ends: Tensor, fps: Tensor, bucket: Tensor
) -> svd.Condition:
    """Return what is told of the frames between two: (b 2 3 64 64), and two numbers (b,)."""
    embeddings = judge.features(shrink(ends).flatten(0, 1)).unflatten(0, ends.shape[:2])  # b 2 96
    first, last = by_frame(lambda x: first_stage.encode(x).mean, ends).unbind(1)
    vector = svd.micro_conditioning(fps - 1, bucket, 0 * bucket, VECTOR_WIDTH)
    return svd.interpolation_condition(embeddings, first, last, vector, BETWEEN_FRAMES)


@dataclass(frozen=True)
class BetweenRecipe(ClipRecipe):
    """Frames between two, after a clip model, on the same curated clips."""

    preset: str = "svd/interpolation-tiny"
    source: str | None = "svd-curated"
    frames: int = BETWEEN_FRAMES
    stride: int = BETWEEN_STRIDE
    slow_rate: float = 1.0

    def build(self) -> Between:
        return Between(self.start(), self)

    @torch.no_grad()
    def measure(self, model: svd.UNet) -> dict:
        """Measure the three frames between two of test clips in which something moves.

        Beside them, "blend" fades one known frame into the other, "copy" holds the nearer one, and
        "rebuilt" is what the first stage makes of the truth.
        """
        steps = self.stride * torch.arange(self.frames)
        pixels = free_clips("test", 2 * self.samples, FOUND_FRAMES, size=SIZE, count=1)["pixels"]
        truth = pixels_to_float(pixels[:, 9 + steps])
        moves = (truth[:, 0] != truth[:, -1]).flatten(1).any(1)  # at rest there is nothing to draw
        truth = truth[moves][: self.samples]
        ends = truth[:, [0, -1]]
        drawn = fill_in(model, ends, torch.Generator().manual_seed(0))
        share = torch.linspace(0, 1, self.frames)[:, None, None, None]
        blend = (1 - share) * ends[:, :1] + share * ends[:, 1:]
        return {
            **fidelity("", drawn, truth),
            **fidelity("blend ", blend, truth),
            **fidelity("copy ", ends[:, [0, 0, 0, 1, 1]], truth),
            **fidelity("rebuilt ", rebuild(load_checkpoint(DECODER)[0], truth), truth),
        }


@torch.no_grad()
def fill_in(model: nn.Module, ends: Tensor, generator: torch.Generator) -> Tensor:
    """Draw five frames (n 5 3 64 64), the first and the last of which are known (n 2 3 64 64)."""
    first_stage, _ = load_checkpoint(AUTOENCODER)
    judge, _ = load_checkpoint(IMAGE_JUDGE)
    fps, bucket = (torch.full((len(ends),), x) for x in (FULL_FPS / BETWEEN_STRIDE, BUCKET))
    condition = ends_condition(first_stage, judge, ends, fps, bucket)
    return draw(model, condition, generator, guidance=(1.0, 1.0))


def fidelity(prefix: str, drawn: Tensor, truth: Tensor) -> dict:
    """Compare all frames but the first and the last (n t 3 64 64)."""
    trunk, _ = load_checkpoint(LPIPS_TRUNK)
    x, y = (clip[:, 1:-1].flatten(0, 1) for clip in (drawn, truth))
    distance = torch.cat([trunk(*parts) for parts in zip(x.split(64), y.split(64), strict=True)])
    per_clip = psnr(x, y).unflatten(0, (len(drawn), -1)).mean(1)
    return {
        f"{prefix}psnr": float(per_clip.mean()),
        f"{prefix}lpips": float(distance.mean()),
        f"{prefix}psnr of each": per_clip.tolist(),
    }


# ---------------------------------------------------------------- 4.2 an object from all sides


class NovelViews(ImageToVideo):
    """The loss of drawing an object from 14 sides, of which the first is given."""

    def sample(self, batch: dict[str, Tensor], rng: RandomSource) -> tuple[Tensor, svd.Condition]:
        x_start = batch["mean"] + batch["deviation"] * rng.randn_like(batch["mean"])
        image = pixels_to_float(batch["pixels"][:, 0])
        fps, bucket = (torch.full_like(batch["elevation"], x) for x in (FPS, BUCKET))
        condition = self.tell(image, fps, bucket, rng)
        return x_start, with_elevation(condition, batch["elevation"])


def with_elevation(condition: svd.Condition, elevation: Tensor) -> svd.Condition:
    """Add a fourth sinusoid to the vector: how high the camera is, in degrees (b,)."""
    if condition.vector is None:
        raise ValueError("condition: expected one with a vector, got one without")
    more = timestep_embedding(elevation, VECTOR_WIDTH)
    return condition._replace(vector=torch.cat([condition.vector, more], dim=1))


@dataclass(frozen=True)
class ViewsRecipe(ClipRecipe):
    """Views of an object at rest, all around it, from its first one."""

    preset: str = "svd/multi-view-tiny"
    found: int = 1000

    def build(self) -> NovelViews:
        return NovelViews(self.start(), self)

    def data(self) -> Tensors:
        return encoded(**orbits("train", self.found, FRAMES, SIZE))

    @torch.no_grad()
    def measure(self, model: svd.UNet) -> dict:
        """Compare views of test objects with the truth; beside them, the first view held."""
        test = orbits("test", self.samples, FRAMES, SIZE)
        truth = pixels_to_float(test["pixels"])
        drawn = look_around(model, truth[:, 0], test["elevation"], torch.Generator().manual_seed(0))
        return {
            **view_scores("", drawn, truth),
            **view_scores("held ", truth[:, :1].expand_as(truth), truth),
            **view_scores("rebuilt ", rebuild(load_checkpoint(DECODER)[0], truth), truth),
        }


@torch.no_grad()
def look_around(
    model: nn.Module,
    image: Tensor,
    elevation: Tensor,
    generator: torch.Generator,
) -> Tensor:
    """Draw the views (n 14 3 64 64) around the objects of images (n 3 64 64)."""
    first_stage, _ = load_checkpoint(AUTOENCODER)
    judge, _ = load_checkpoint(IMAGE_JUDGE)
    numbers = [torch.full((len(image),), x) for x in (FPS, BUCKET, 0.0)]
    condition = image_condition(first_stage, judge, image, image, FRAMES, *numbers)
    return draw(model, with_elevation(condition, elevation), generator)


def view_scores(prefix: str, drawn: Tensor, truth: Tensor) -> dict:
    """Compare all views but the first, at the pixels and by the cosine of the judge's features."""
    judge, _ = load_checkpoint(IMAGE_JUDGE)
    ours, theirs = (judge.features(shrink(x)[:, 1:].flatten(0, 1)) for x in (drawn, truth))
    return {
        **fidelity(prefix, drawn, truth),
        f"{prefix}similarity": float(F.cosine_similarity(ours, theirs, dim=-1).mean()),
    }


# ---------------------------------------------------------------- the recipes

VIEWS = ViewsRecipe(
    "svd-views-clips",
    steps=400,
    batch_size=8,
    learning_rate=1e-3,
    warmup=50,
    ema=0.99,
    checkpoint_dtype="float16",
    source="svd-curated",
    samples=64,
)

RECIPES: list[Recipe] = [
    *(
        CameraRecipe(
            f"svd-camera-{camera}",
            steps=400,
            samples=64,
            batch_size=8,
            learning_rate=2e-3,
            warmup=20,
            ema=0.98,
            camera=camera,
        )
        for camera in ("still", "orbit", "zoom")
    ),
    BetweenRecipe(
        "svd-between",
        steps=3000,
        batch_size=16,
        samples=64,
        learning_rate=1e-3,
        warmup=50,
        lr_schedule="linear",
        ema=0.995,
        checkpoint_dtype="float16",
    ),
    VIEWS,
    replace(VIEWS, name="svd-views-images", source="svd-images"),
    replace(VIEWS, name="svd-views-scratch", source=None),
]
