"""Text to image with the published weights of Stable Diffusion 1 and 2: `course generate ldm`.

The parts are loaded one after the other, and each is let go before the next: CLIP's text tower, the
U-Net, the decoder.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from course_lib.busy import busy
from course_lib.diffusion import edm
from course_lib.diffusion.guidance import Guided
from course_lib.papers.ldm import LatentDiffusion
from course_lib.pipelines import memory
from course_lib.pipelines.configs import (
    autoencoder_config,
    clip_text_config,
    euler_spacing,
    require_leading_steps,
    schedule_config,
    trained_side,
    unet_config,
)
from course_lib.pipelines.folder import require_file
from course_lib.pipelines.parts import (
    Published,
    compute_in,
    require_finite,
    require_fit,
    require_range,
    require_size,
)
from course_lib.pipelines.tokenizer import Tokenizer
from course_lib.shapes import Float, Table, Tensor

ADVICE = "a smaller --size needs less"


@dataclass(frozen=True)
class Settings:
    """How an image is made."""

    negative: str = ""  # what to go away from
    size: tuple[int, int] | None = None  # height and width; by default, the model's own
    steps: int = 50
    guidance: int | float = 7.5  # 1 is none

    def __post_init__(self):
        require_range(2, 1000, steps=self.steps)
        if not math.isfinite(self.guidance):
            raise ValueError(f"guidance: expected a number, got {self.guidance}")


class Pipeline(Published):
    """A folder of Stable Diffusion 1 or 2.

    Raises ValueError for one that is incomplete, damaged or of something else.
    """

    def __init__(self, weights: Path, device: str | None = None, dtype: str | None = None):
        super().__init__(weights, "StableDiffusionPipeline", device, dtype)
        self.text_config = self.config("text_encoder", "CLIPTextModel", clip_text_config)
        self.scheduler = self.folder.kind("scheduler")
        self.spacing, schedule = self._schedule()
        self.unet_config = self.config(
            "unet", "UNet2DConditionModel", partial(unet_config, schedule=schedule)
        )
        self.vae_config, self.scale, upcast = self.config(
            "vae", "AutoencoderKL", autoencoder_config
        )
        self.vae_machine = self.autoencoder_machine(upcast)
        side = self.config("unet", "UNet2DConditionModel", trained_side)
        self.size = (side * self.vae_config.downsampling,) * 2
        require_fit("text_encoder", self.text_config.width, self.unet_config.context)
        require_fit("vae", self.vae_config.latent, self.unet_config.in_channels)
        self.tokenizer = Tokenizer(weights / "tokenizer", self.text_config.length)
        self.count("text_encoder", "unet", "vae")

    def _schedule(self) -> tuple[str | None, dict[str, Any]]:
        """Return how Euler's steps are spaced, None for DDIM's; and the schedule of the noise."""
        read = partial(self.config, "scheduler", self.scheduler, name="scheduler_config.json")
        if self.scheduler == "EulerDiscreteScheduler":
            return read(euler_spacing), read(schedule_config)
        if self.scheduler in ("DDIMScheduler", "PNDMScheduler"):
            read(require_leading_steps)
            return None, read(schedule_config)
        path = require_file(self.folder.path / "model_index.json")
        raise ValueError(
            f"{path}: expected a DDIMScheduler, PNDMScheduler or EulerDiscreteScheduler as"
            f" scheduler, got {self.scheduler}"
        )

    def notes(self, prompt: str, settings: Settings) -> list[str]:
        """Return what the user should know before it begins."""
        notes = []
        if self.scheduler == "PNDMScheduler":
            notes.append("the folder asks for PNDM's sampler; DDIM's is used instead")
        for text in (prompt, settings.negative):
            if beyond := self.tokenizer.beyond(text):
                notes.append(f"too long a text, not read from here on: {beyond!r}")
        return notes

    @torch.no_grad()
    def generate(
        self, prompt: str, settings: Settings, generator: torch.Generator
    ) -> Float[Tensor, "3 h w"]:
        """Return an image in [-1, 1] of what the prompt says.

        The generator draws the noise on the CPU: a seed gives the same noise on every machine.
        Raises ValueError for sides that the networks cannot halve, RuntimeError where the memory
        will not do.
        """
        self.check(settings)
        height, width = settings.size or self.size
        f = self.vae_config.downsampling
        noise = torch.randn(1, self.vae_config.latent, height // f, width // f, generator=generator)
        with memory.helpful_when_full(ADVICE):
            context, null = self.read(prompt, settings.negative)
            latents = self.sample(noise, context, null, settings)
            return self.decode(latents)

    def read(self, *texts: str) -> list[Float[Tensor, "1 n d"]]:
        """Return what the text tower says of each text."""
        tower = self.machine.load(self.folder, "text_encoder", "ldm", self.text_config)
        return [tower(self.tokenizer(text).to(self.machine.device)) for text in texts]

    def sample(
        self,
        noise: Float[Tensor, "1 d h w"],
        context: Float[Tensor, "1 n c"],
        null: Float[Tensor, "1 n c"],
        settings: Settings,
    ) -> Float[Tensor, "1 d h w"]:
        """Return the latents of an image, scaled."""
        unet = self.machine.load(self.folder, "unet", "ldm", self.unet_config)
        compute_in(unet, self.machine.dtype)
        guided = Guided(unet, context, null, settings.guidance)
        process = LatentDiffusion(self.unet_config)
        noise = noise.to(self.machine.device)
        if self.spacing is None:
            steps: Iterator = process.denoise(guided, noise, settings.steps)
        else:
            sigmas, start = self.levels(process, settings.steps)
            steps = edm.euler_steps(partial(process.estimate, guided), start * noise, sigmas)
        *_, (latents, _) = busy("Sampling", steps, total=settings.steps)
        return require_finite(latents, self.machine.dtype)

    def levels(self, process: LatentDiffusion, count: int) -> tuple[Table, float]:
        """Return the noise levels of an EulerDiscreteScheduler.

        And what to multiply noise by before `edm.euler_steps`, so that it begins as that does.
        """
        if self.spacing == "leading":
            return process.levels(count), 1.0
        sigmas = process.sigmas
        places = np.linspace(len(sigmas) - 1, 0, count)
        kept = torch.from_numpy(np.interp(places, np.arange(len(sigmas)), sigmas.numpy()))
        start = float(kept[0] / (1 + kept[0].square()).sqrt())
        return torch.cat([kept, torch.zeros_like(kept[:1])]), start

    def decode(self, latents: Float[Tensor, "1 d h2 w2"]) -> Float[Tensor, "3 h w"]:
        """Return the image of scaled latents."""
        vae = self.vae_machine.load(self.folder, "vae", "ldm", self.vae_config)
        image = vae.decode((latents / self.scale).to(self.vae_machine.dtype))
        return image[0].float().cpu()

    def check(self, settings: Settings) -> None:
        """Raise ValueError for a size that will not do, RuntimeError where the memory will not."""
        height, width = size = settings.size or self.size
        require_size(size, self.vae_config.downsampling * self.unet_config.downsampling)
        pixels = height * width
        latents = 2 * pixels // self.vae_config.downsampling**2  # with and without the prompt
        each = self.machine.bytes_each
        self.require_memory_to_load()
        stages = {
            f"sampling an image of {height}x{width}": memory.unet_bytes(
                self.counts["unet"], latents * self.unet_config.width, each
            ),
            f"decoding an image of {height}x{width}": memory.decoder_bytes(
                self.counts["vae"], pixels * self.vae_config.width, self.vae_machine.bytes_each
            ),
        }
        memory.require_memory(self.machine.device, stages, ADVICE)
