"""Text or image to video with the published weights of CogVideoX: `course generate cogvideox`.

The parts are loaded one after the other, and each is let go before the next: T5, the encoder of an
image, the transformer, the decoder.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch

from course_lib.busy import busy
from course_lib.diffusion import trailing_steps
from course_lib.papers import cogvideox_diffusion as diffusion
from course_lib.papers.cogvideox_vae import piece_sizes
from course_lib.pipelines import memory
from course_lib.pipelines.configs import (
    cogvideox_config,
    cogvideox_schedule,
    cogvideox_vae_config,
    t5_config,
)
from course_lib.pipelines.folder import require_file
from course_lib.pipelines.parts import (
    Machine,
    Published,
    compute_in,
    require_finite,
    require_fit,
    require_range,
    require_size,
)
from course_lib.pipelines.t5_tokenizer import T5Tokenizer
from course_lib.shapes import Float, Table, Tensor

ADVICE = "a smaller --size or fewer --frames needs less"
SAMPLERS = {"CogVideoXDDIMScheduler": "ddim", "CogVideoXDPMScheduler": "dpm"}
FRAMES_AT_ONCE = 8  # encoded and decoded together, as in diffusers: the norms look across these


@dataclass(frozen=True)
class Settings:
    """How a clip is made.  None is what the published folder says."""

    negative: str = ""  # what to go away from
    frames: int | None = None  # 1 more than a multiple of 8
    size: tuple[int, int] | None = None  # height and width
    steps: int = 50
    guidance: int | float = 6.0  # 1 is none
    # Guidance that grows with the steps, from none to one more than `guidance`; "released" is the
    # ramp of the released code, which is none.
    dynamic: Literal["intended", "released"] | None = None
    sampler: Literal["ddim", "dpm"] | None = None
    fps: int | None = None  # by default 8, and 16 for CogVideoX 1.5

    def __post_init__(self):
        require_range(2, 1000, steps=self.steps)
        counts = {"frames": self.frames, "fps": self.fps}
        given = {name: count for name, count in counts.items() if count is not None}
        require_range(1, 1000, **given)
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance: expected a number, got {self.guidance}")
        for name, options in (("dynamic", ("intended", "released")), ("sampler", ("ddim", "dpm"))):
            if getattr(self, name) not in (None, *options):
                expected = " or ".join(map(repr, options))
                raise ValueError(f"{name}: expected {expected}, got {getattr(self, name)!r}")


class Pipeline(Published):
    """A folder of CogVideoX or CogVideoX 1.5, of text to video or of image to video.

    Raises ValueError for one that is incomplete, damaged or of something else.
    """

    def __init__(
        self,
        weights: Path,
        device: str | None = None,
        dtype: str | None = None,
        with_image: bool = False,
    ):
        kind = "CogVideoXImageToVideoPipeline" if with_image else "CogVideoXPipeline"
        super().__init__(weights, kind, device, dtype)
        self.text_config = self.config("text_encoder", "T5EncoderModel", t5_config)
        self.sampler, schedule = self._schedule()
        transformer = "CogVideoXTransformer3DModel"
        config = self.config("transformer", transformer, cogvideox_config)
        self.transformer_config = replace(config, **schedule)
        self.vae_config, self.scale, self.image_scale = self.config(
            "vae", "AutoencoderKLCogVideoX", cogvideox_vae_config
        )
        self.with_image = with_image
        channels = self.vae_config.latent * (2 if with_image else 1)
        require_fit("text_encoder", self.text_config.width, config.text_width, "transformer")
        require_fit("vae", channels, config.in_channels, "transformer")
        require_fit("vae", self.vae_config.latent, config.out_channels, "transformer")
        self.tokenizer = T5Tokenizer(weights / "tokenizer", config.text_length)
        self.count("text_encoder", "transformer", "vae")
        if dtype is None and self.machine.half and config.positions == "rope":
            # The larger models were trained in it; float16 is too narrow for their numbers.
            self.machine = Machine(self.machine.device, torch.bfloat16)

    def _schedule(self) -> tuple[str, dict]:
        """Return the sampler of the folder, and our fields for its schedule of the noise."""
        kind = self.folder.kind("scheduler")
        if kind not in SAMPLERS:
            path = require_file(self.folder.path / "model_index.json")
            expected = " or ".join(SAMPLERS)
            raise ValueError(f"{path}: expected a {expected} as scheduler, got {kind}")
        schedule = self.config("scheduler", kind, cogvideox_schedule, "scheduler_config.json")
        return SAMPLERS[kind], schedule

    def plan(self, settings: Settings) -> Settings:
        """Return the settings with what the folder says wherever they say None.

        Raises ValueError for a size or number of frames that will not do, RuntimeError where the
        memory will not.
        """
        config, vae = self.transformer_config, self.vae_config
        latents, rows, columns = config.latent
        f, side = vae.frames_per_latent, vae.pixels_per_latent
        # CogVideoX 1.5 counts one more latent than it was trained on, to fill up a patch.
        trained = (latents - (config.temporal_patch - 1) - 1) * f + 1
        own = {
            "frames": trained,
            "size": (rows * side, columns * side),
            "sampler": self.sampler,
            "fps": 8 * config.temporal_patch,
        }
        missing = {k: v for k, v in own.items() if getattr(settings, k) is None}
        settings = replace(settings, **missing)
        require_size(settings.size, side * config.patch)
        if (settings.frames - 1) % FRAMES_AT_ONCE:
            raise ValueError(
                f"frames: expected 1 more than a multiple of {FRAMES_AT_ONCE}, got"
                f" {settings.frames}"
            )
        learned = (settings.frames, settings.size) != (trained, own["size"])
        if config.learned_positions and learned:
            height, width = own["size"]
            raise ValueError(
                f"expected {trained} frames of {height}x{width}, all that a model with learned"
                f" positions can make, got {settings.frames} of"
                f" {settings.size[0]}x{settings.size[1]}"
            )
        self.require_memory(settings)
        return settings

    def notes(self, prompt: str, settings: Settings) -> list[str]:
        """Return what the user should know before it begins."""
        return [
            f"too long a text, not read from here on: {beyond!r}"
            for text in (prompt, settings.negative)
            if (beyond := self.tokenizer.beyond(text))
        ]

    @torch.no_grad()
    def generate(
        self,
        prompt: str,
        settings: Settings,
        generator: torch.Generator,
        image: Float[Tensor, "1 3 h w"] | None = None,
    ) -> Float[Tensor, "t 3 h w"]:
        """Return a clip in [-1, 1] of what the prompt says, continuing an image in [-1, 1].

        The generator draws all noise on the CPU, in the order of diffusers: a seed gives the same
        on every machine.  Raises ValueError for sides or frames that will not do and for an image
        where there should be none, or none where there should be one; RuntimeError where the
        memory will not do.
        """
        settings = self.plan(settings)
        size = None if image is None else tuple(image.shape[2:])
        if size != (settings.size if self.with_image else None):
            expected = f"one of {settings.size} pixels" if self.with_image else "none"
            raise ValueError(f"image: expected {expected}, got {size}")
        shape, filled = self.latent_shape(settings)
        with memory.helpful_when_full(ADVICE):
            text, null = self.read(prompt, settings.negative)
            beside = None
            if image is not None:
                beside = self.encode(image, shape[1], generator)
            noise = torch.randn(shape, generator=generator)
            latents = self.sample(noise, text, null, settings, generator, beside)
            return self.decode(latents[:, filled:])

    def latent_shape(self, settings: Settings) -> tuple[tuple[int, int, int, int, int], int]:
        """Return the shape of the noise, and how many latent frames at its front only fill up."""
        f, side = self.vae_config.frames_per_latent, self.vae_config.pixels_per_latent
        t, c, h, w = diffusion.latent_shape(
            settings.frames, *settings.size, self.vae_config.latent, (f, side, side)
        )
        filled = -t % self.transformer_config.temporal_patch
        return (1, t + filled, c, h, w), filled

    def read(self, *texts: str) -> list[Float[Tensor, "1 n d"]]:
        """Return what T5 says of each text, of its padding as well."""
        tower = self.machine.load(self.folder, "text_encoder", "cogvideox", self.text_config)
        tokens = [self.tokenizer(text).to(self.machine.device) for text in texts]
        return [tower(each).to(self.machine.dtype) for each in busy("Reading the text", tokens)]

    def encode(
        self, image: Float[Tensor, "1 3 h w"], frames: int, generator: torch.Generator
    ) -> Float[Tensor, "1 t d h2 w2"]:
        """Return what stands beside the noisy latents to continue an image."""
        machine = self.machine
        vae = machine.load(self.folder, "vae", "cogvideox", self.vae_config)
        posterior = vae.encode(image[:, :, None].to(machine.device, machine.dtype))
        noise = torch.randn(posterior.mean.shape, generator=generator).to(posterior.mean)
        latent = self.image_scale * posterior.sample(noise)[:, :, 0].float()  # 1 c h2 w2
        return diffusion.image_condition(latent, frames)

    def sample(
        self,
        noise: Float[Tensor, "1 t c h w"],
        text: Float[Tensor, "1 n d"],
        null: Float[Tensor, "1 n d"],
        settings: Settings,
        generator: torch.Generator,
        beside: Float[Tensor, "1 t c h w"] | None = None,
    ) -> Float[Tensor, "1 t c h w"]:
        """Return the latents of a clip, scaled."""
        device, config = self.machine.device, self.transformer_config
        network = self.machine.load(self.folder, "transformer", "cogvideox", config)
        compute_in(network, self.machine.dtype)
        visited = trailing_steps(config.timesteps, settings.steps)
        draw = as_released(noise.shape, generator)
        steps = diffusion.sampling(
            network,
            noise.to(device),
            text,
            null if settings.guidance > 1 else None,
            scales(settings, visited),
            visited,
            config.alphas_cumprod,
            settings.sampler,
            lambda: draw().to(device),
            beside,
        )
        *_, (latents, _) = busy("Sampling", steps, total=settings.steps)
        return require_finite(latents, self.machine.dtype)

    def decode(self, latents: Float[Tensor, "1 t2 c h2 w2"]) -> Float[Tensor, "t 3 h w"]:
        """Return the clip of scaled latents, decoded a few frames at a time."""
        vae = self.machine.load(self.folder, "vae", "cogvideox", self.vae_config)
        at_once = FRAMES_AT_ONCE // self.vae_config.frames_per_latent
        scaled = (latents / self.scale).to(self.machine.dtype).transpose(1, 2)  # 1 c t h2 w2
        parts = vae.decode_in_parts(scaled, at_once)
        count = len(piece_sizes(latents.shape[1], at_once))
        clip = [part[0].float().cpu() for part in busy("Decoding", parts, total=count)]
        return torch.cat(clip, dim=1).transpose(0, 1)

    def require_memory(self, settings: Settings) -> None:
        """Raise RuntimeError where the memory will not do, before anything is loaded."""
        each = self.machine.bytes_each
        (_, *latents), _ = self.latent_shape(settings)
        t, h, w = self.transformer_config.grid(latents[0], *latents[2:])
        tokens = self.transformer_config.text_length + t * h * w
        halves = 2 if settings.guidance > 1 else 1
        height, width = settings.size
        frames = min(settings.frames, FRAMES_AT_ONCE + 1)
        self.require_memory_to_load()
        stages = {
            f"sampling {settings.frames} frames of {height}x{width}": memory.transformer_bytes(
                self.counts["transformer"], halves * tokens * self.transformer_config.width, each
            ),
            f"decoding {frames} frames at once": memory.decoder_bytes(
                self.counts["vae"], frames * height * width * self.vae_config.widths[0], each
            ),
        }
        memory.require_memory(self.machine.device, stages, ADVICE)


def scales(settings: Settings, visited: Tensor) -> float | Table:
    """Return the scale of guidance, or one for every step."""
    if settings.dynamic == "intended":
        return diffusion.dynamic_guidance(settings.steps, settings.guidance)
    if settings.dynamic == "released":
        return diffusion.released_dynamic_guidance(visited.flip(0), settings.guidance)
    return float(settings.guidance)


def as_released(shape: tuple[int, ...], generator: torch.Generator) -> Callable[[], Tensor]:
    """Return what draws noise for one step after the other as the released DPM-Solver++ does.

    From the second step on it draws twice, and uses the second: so does a seed in diffusers.
    """
    drawn = 0

    def draw() -> Tensor:
        nonlocal drawn
        if drawn:
            torch.randn(shape, generator=generator)
        drawn += 1
        return torch.randn(shape, generator=generator)

    return draw
