"""Image to video with the published weights of Stable Video Diffusion: `course generate svd`.

The parts are loaded one after the other, and each is let go before the next: CLIP's image tower,
the encoder, the U-Net, the decoder.
"""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch

from course_lib.busy import busy
from course_lib.diffusion import edm
from course_lib.nn.clip_vision import prepare_image
from course_lib.papers import svd
from course_lib.pipelines.configs import (
    clip_vision_config,
    noise_range,
    trained_frames,
    video_autoencoder_config,
    video_unet_config,
)
from course_lib.pipelines.memory import (
    decoder_bytes,
    helpful_when_full,
    require_memory,
    unet_bytes,
)
from course_lib.pipelines.parts import Published, compute_in, require_positive, require_size
from course_lib.shapes import Float, Tensor

ADVICE = "a smaller --size, fewer --frames or a smaller --decode-at-once needs less"


@dataclass(frozen=True)
class Settings:
    """How a clip is made."""

    frames: int | None = None  # by default as many as the model was trained on: 14, or 25 for XT
    steps: int = 25
    fps: int = 7
    motion_bucket: int = 127  # how much moves, from 0 to 255
    augmentation: int | float = 0.02  # deviation of the noise in the image's pixels
    first: int | float = 1.0  # guidance of the first frame
    last: int | float = 3.0  # and of the last
    frames_at_once: int = 4  # decoded together; these see each other

    def __post_init__(self):
        require_positive(steps=self.steps, fps=self.fps, frames_at_once=self.frames_at_once)
        if self.frames is not None:
            require_positive(frames=self.frames)
        if self.augmentation < 0:
            raise ValueError(f"augmentation: expected at least 0, got {self.augmentation}")


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
        self.frames = self.config("unet", unet, trained_frames)
        self.vae_config, self.scale, upcast = self.config("vae", vae, video_autoencoder_config)
        self.vae_machine = self.autoencoder_machine(upcast)
        self.sigma_min, self.sigma_max = self.config(
            "scheduler", "EulerDiscreteScheduler", noise_range, "scheduler_config.json"
        )
        self.counts = self.count("image_encoder", "unet", "vae")

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
        require_size((height, width), self.multiple)
        frames = settings.frames or self.frames
        self.require_memory(height, width, frames, settings.frames_at_once)
        f = self.vae_config.downsampling
        image_noise = torch.randn(image.shape, generator=generator)
        shape = (1, frames, self.vae_config.latent, height // f, width // f)
        noise = torch.randn(shape, generator=generator)

        with helpful_when_full(ADVICE):
            condition = self.condition(image, image_noise, frames, settings)
            latents = self.sample(noise, condition, settings)
            return self.decode(latents, settings.frames_at_once)

    def condition(
        self,
        image: Float[Tensor, "1 3 h w"],
        noise: Float[Tensor, "1 3 h w"],
        frames: int,
        settings: Settings,
    ) -> svd.Condition:
        """Return what the U-Net is told: CLIP's embedding, the image's latent, three numbers."""
        device, dtype = self.machine.device, self.machine.dtype
        tower = self.machine.load(self.folder, "image_encoder", "svd", self.clip_config)
        seen = prepare_image(image, self.clip_config.image_size)
        embedding = tower(seen.to(device, dtype))  # 1 d
        del tower

        vae = self.vae_machine.load(self.folder, "vae", "svd", self.vae_config)
        noisy = svd.augment(image, torch.tensor([settings.augmentation]), noise)
        latent = vae.encode(noisy.to(device, self.vae_machine.dtype)).mean  # 1 c h/f w/f
        # The model was told frames per second less one.
        numbers = (settings.fps - 1, settings.motion_bucket, settings.augmentation)
        fps, bucket, augmentation = (torch.tensor([float(number)]) for number in numbers)
        vector = svd.micro_conditioning(
            fps, bucket, augmentation, width=(self.unet_config.vector or 0) // 3
        )
        return svd.image_condition(embedding, latent.float(), vector.to(device), frames)

    def sample(
        self, noise: Float[Tensor, "1 t d h w"], condition: svd.Condition, settings: Settings
    ) -> Float[Tensor, "1 t d h w"]:
        """Return the latents of a clip, scaled."""
        unet = self.machine.load(self.folder, "unet", "svd", self.unet_config)
        compute_in(unet, self.machine.dtype)
        scale = svd.guidance_ramp(noise.shape[1], settings.first, settings.last)
        denoiser = partial(svd.guided_denoiser, unet, condition, condition.without(), scale)
        sigmas = edm.karras_sigmas(settings.steps, self.sigma_min, self.sigma_max)
        steps = edm.euler_steps(denoiser, noise.to(self.machine.device), sigmas)
        return [latents for latents, _ in busy("Sampling", steps, total=settings.steps)][-1]

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

    def require_memory(self, height: int, width: int, frames: int, frames_at_once: int) -> None:
        """Raise RuntimeError where the memory will not do, before anything is loaded."""
        f = self.vae_config.downsampling
        each, vae_each = self.machine.bytes_each, self.vae_machine.bytes_each
        pixels = height * width
        sampled = frames * (pixels // f**2) * self.unet_config.width
        decoded = min(frames, frames_at_once) * pixels * self.vae_config.width
        stages = {
            "reading the image": each * self.counts["image_encoder"],
            f"sampling {frames} frames of {height}x{width}": unet_bytes(
                self.counts["unet"], sampled, each
            ),
            f"decoding {min(frames, frames_at_once)} frames at once": decoder_bytes(
                self.counts["vae"], decoded, vae_each
            ),
        }
        require_memory(self.machine.device, stages, ADVICE)
