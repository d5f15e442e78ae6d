"""Image to video with the published weights of Stable Video Diffusion: `course generate svd`.

The parts are loaded one after the other, and each is let go before the next: CLIP's image tower,
the encoder, the U-Net, the decoder.
"""

import math
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch

from course_lib.busy import busy
from course_lib.diffusion import edm
from course_lib.nn.clip_vision import prepare_image
from course_lib.papers import svd
from course_lib.pipelines import memory
from course_lib.pipelines.configs import (
    clip_vision_config,
    noise_range,
    trained_frames,
    video_autoencoder_config,
    video_unet_config,
)
from course_lib.pipelines.parts import (
    Published,
    compute_in,
    require_finite,
    require_fit,
    require_range,
    require_size,
)
from course_lib.shapes import Float, Tensor

ADVICE = "a smaller --size, fewer --frames or a smaller --decode-at-once needs less"

# By the number of frames a model was trained on: steps, and guidance of the first and last frame.
# Those of the authors' code; for other models, diffusers'.
DEFAULTS = {14: (25, (1.0, 2.5)), 25: (30, (1.5, 3.0))}
OTHERWISE = (25, (1.0, 3.0))
MOST_AT_ONCE = 14  # frames that are decoded together, as in the authors' code
ROOM = 0.8  # of the free memory


@dataclass(frozen=True)
class Settings:
    """How a clip is made.  None is what suits the model (14 frames, or XT's 25) and the memory."""

    frames: int | None = None
    steps: int | None = None
    fps: int = 7
    motion_bucket: int = 127  # how much moves, from 0 to 255
    augmentation: int | float = 0.02  # deviation of the noise in the image's pixels
    guidance: tuple[float, float] | None = None  # of the first frame, and of the last
    frames_at_once: int | None = None  # decoded together: these see each other

    def __post_init__(self):
        counts = {
            "frames": self.frames,
            "steps": self.steps,
            "frames_at_once": self.frames_at_once,
        }
        given = {name: count for name, count in counts.items() if count is not None}
        require_range(1, 1000, fps=self.fps, **given)
        require_range(0, 255, motion_bucket=self.motion_bucket)
        require_range(0, math.inf, augmentation=self.augmentation)
        if self.guidance is not None and not all(map(math.isfinite, self.guidance)):
            raise ValueError(f"guidance: expected two numbers, got {self.guidance}")


class Pipeline(Published):
    """A folder of stable-video-diffusion-img2vid, or of its XT.

    Raises ValueError for one that is incomplete, damaged or of something else.
    """

    def __init__(self, weights: Path, device: str | None = None, dtype: str | None = None):
        super().__init__(weights, "StableVideoDiffusionPipeline", device, dtype)
        unet = "UNetSpatioTemporalConditionModel"
        vae = "AutoencoderKLTemporalDecoder"
        self.clip_config = self.config(
            "image_encoder", "CLIPVisionModelWithProjection", clip_vision_config
        )
        self.unet_config = self.config("unet", unet, video_unet_config)
        self.defaults = default_settings(self.config("unet", unet, trained_frames))
        self.vae_config, self.scale, upcast = self.config("vae", vae, video_autoencoder_config)
        self.vae_machine = self.autoencoder_machine(upcast)
        self.sigma_min, self.sigma_max = self.config(
            "scheduler", "EulerDiscreteScheduler", noise_range, "scheduler_config.json"
        )
        require_fit("image_encoder", self.clip_config.projection, self.unet_config.context)
        require_fit("vae", 2 * self.vae_config.latent, self.unet_config.in_channels)
        self.count("image_encoder", "unet", "vae")

    def plan(self, settings: Settings, size: tuple[int, int]) -> Settings:
        """Return the settings with what suits the model and the machine wherever they say None.

        Raises ValueError for a size that will not do, RuntimeError where the memory will not.
        """
        require_size(size, self.multiple)
        missing = [name for name, value in vars(settings).items() if value is None]
        settings = replace(settings, **{name: self.defaults.get(name, 1) for name in missing})
        if "frames_at_once" in missing:
            free = memory.free_bytes(self.machine.device)
            for more in range(2, min(settings.frames, MOST_AT_ONCE) + 1):
                if self.decoding_bytes(size, more) < ROOM * free:
                    settings = replace(settings, frames_at_once=more)
        self.require_memory(settings, size)
        return settings

    @property
    def multiple(self) -> int:
        """What both sides of an image must be multiples of."""
        return self.vae_config.downsampling * self.unet_config.downsampling

    @torch.no_grad()
    def generate(
        self, image: Float[Tensor, "1 3 h w"], settings: Settings, generator: torch.Generator
    ) -> Float[Tensor, "t 3 h w"]:
        """Return a clip in [-1, 1] that continues an image in [-1, 1].

        The generator draws the noise of the image, then that of the clip, on the CPU: a seed gives
        the same noise on every machine.  Raises ValueError for sides that the networks cannot
        halve, RuntimeError where the memory will not do.
        """
        height, width = image.shape[2:]
        settings = self.plan(settings, (height, width))
        f = self.vae_config.downsampling
        image_noise = torch.randn(image.shape, generator=generator)
        shape = (1, settings.frames, self.vae_config.latent, height // f, width // f)
        noise = torch.randn(shape, generator=generator)

        with memory.helpful_when_full(ADVICE):
            condition = self.condition(image, image_noise, settings)
            latents = self.sample(noise, condition, settings)
            return self.decode(latents, settings.frames_at_once)

    def condition(
        self,
        image: Float[Tensor, "1 3 h w"],
        noise: Float[Tensor, "1 3 h w"],
        settings: Settings,
    ) -> svd.Condition:
        """Return what the U-Net is told: CLIP's embedding, the image's latent, three numbers."""
        device, dtype = self.machine.device, self.machine.dtype
        tower = self.machine.load(self.folder, "image_encoder", "svd", self.clip_config)
        seen = prepare_image(image, self.clip_config.image_size)
        embedding = tower(seen.to(device, dtype))  # 1 d
        del tower

        vae = self.vae_machine.load(self.folder, "vae", "svd", self.vae_config)
        noisy = svd.augment(image, torch.tensor([float(settings.augmentation)]), noise)
        latent = vae.encode(noisy.to(device, self.vae_machine.dtype)).mean  # 1 c h/f w/f
        # The model was told frames per second less one.
        numbers = (settings.fps - 1, settings.motion_bucket, settings.augmentation)
        fps, bucket, augmentation = (torch.tensor([float(number)]) for number in numbers)
        vector = svd.micro_conditioning(
            fps, bucket, augmentation, width=(self.unet_config.vector or 0) // 3
        )
        return svd.image_condition(embedding, latent.float(), vector.to(device), settings.frames)

    def sample(
        self, noise: Float[Tensor, "1 t d h w"], condition: svd.Condition, settings: Settings
    ) -> Float[Tensor, "1 t d h w"]:
        """Return the latents of a clip, scaled."""
        unet = self.machine.load(self.folder, "unet", "svd", self.unet_config)
        compute_in(unet, self.machine.dtype)
        scale = svd.guidance_ramp(noise.shape[1], *settings.guidance)
        denoiser = partial(svd.guided_denoiser, unet, condition, condition.without(), scale)
        sigmas = edm.karras_sigmas(settings.steps, self.sigma_min, self.sigma_max)
        steps = edm.euler_steps(denoiser, noise.to(self.machine.device), sigmas)
        *_, (latents, _) = busy("Sampling", steps, total=settings.steps)
        return require_finite(latents, self.machine.dtype)

    def decode(
        self, latents: Float[Tensor, "1 t d h2 w2"], frames_at_once: int
    ) -> Float[Tensor, "t 3 h w"]:
        """Return the clip of scaled latents, decoded a few frames at a time."""
        vae = self.vae_machine.load(self.folder, "vae", "svd", self.vae_config)
        parts = vae.decode_in_parts(
            (latents / self.scale).to(self.vae_machine.dtype), frames_at_once
        )
        count = -(-latents.shape[1] // frames_at_once)
        clip = [part[0].float().cpu() for part in busy("Decoding", parts, total=count)]
        return torch.cat(clip)

    def decoding_bytes(self, size: tuple[int, int], frames: int) -> int:
        """Return the memory that decoding so many frames at once needs."""
        values = frames * math.prod(size) * self.vae_config.width
        return memory.decoder_bytes(self.counts["vae"], values, self.vae_machine.bytes_each)

    def require_memory(self, settings: Settings, size: tuple[int, int]) -> None:
        """Raise RuntimeError where the memory will not do, before anything is loaded."""
        each = self.machine.bytes_each
        places = settings.frames * math.prod(size) // self.vae_config.downsampling**2
        at_once = min(settings.frames, settings.frames_at_once)
        self.require_memory_to_load()
        stages = {
            f"sampling {settings.frames} frames of {size[0]}x{size[1]}": memory.unet_bytes(
                self.counts["unet"], places * self.unet_config.width, each
            ),
            f"decoding {at_once} frames at once": self.decoding_bytes(size, at_once),
        }
        memory.require_memory(self.machine.device, stages, ADVICE)


def default_settings(frames: int) -> dict[str, Any]:
    """Return the settings that suit a model, by the frames it was trained on."""
    steps, guidance = DEFAULTS.get(frames, OTHERWISE)
    return {"frames": frames, "steps": steps, "guidance": guidance}
