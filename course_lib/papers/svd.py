"""Stable Video Diffusion (Scaling Latent Video Diffusion Models to Large Datasets).

Blattmann et al., 2023, arXiv 2311.15127.

Reading order: the configurations; the U-Net (appendix D), which is Stable Diffusion 2.1's with a
temporal layer after every spatial one and a learned blend of the two, as in Video LDM (Blattmann et
al., 2023, arXiv 2304.08818); what tells it about the clip; the conditions of image-to-video, of
frame interpolation and of multi-view generation (section 4); the loss, guidance and sampling.  The
maths of noise levels is `course_lib.diffusion.edm`, the decoder of clips
`course_lib.papers.svd_decoder`, camera-motion LoRA `course_lib.nn.lora`.

Differs from the paper, following the official code: cross-attention over time sees the context of
the first frame, at every place the same.
Differs from the official code: a batch is of clips or of images, in which no temporal layer acts
(there, every sample may be either, and alpha is 1 for an image).  diffusers, whose pipeline the
published weights run in, has another epsilon in some group norms: `SVDConfig.outer_eps`.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import NamedTuple

import torch
import torch.nn.functional as F
from einops import rearrange, repeat
from torch import nn

from course_lib.diffusion import edm
from course_lib.diffusion.guidance import guide
from course_lib.nn.embeddings import timestep_embedding
from course_lib.nn.norm import GroupNorm
from course_lib.papers import ldm
from course_lib.papers.ldm import (
    LDM_CONFIGS,
    Attention,
    FeedForward,
    LDMConfig,
    SpatialTransformer,
    cross_attention,
    residual,
)
from course_lib.shapes import Batch, Bool, Float, PerSample, Shaped, Table, Tensor

# ---------------------------------------------------------------- configurations


@dataclass(frozen=True)
class SVDConfig(LDMConfig):
    """The U-Net's shape.  Defaults: image-to-video, as released."""

    in_channels: int = 8  # the noisy latent, and the latent of the image it continues
    # Numbers of the vector condition: three sinusoids of 256.  Multi-view models have a fourth, for
    # the elevation.  None: there is no such condition.
    vector: int | None = 768
    # Of the residual blocks on the way up, and of those on the way down that attend: 1e-5 where the
    # weights were trained, 1e-6 in diffusers.
    outer_eps: float = 1e-5

    def __post_init__(self):
        super().__post_init__()
        if self.context is None:
            raise ValueError("context: expected the width of a token, got None")


SVD_CONFIGS = {
    "SVD": SVDConfig(),
    "SVD-text": SVDConfig(in_channels=4, vector=None),
    "interpolation": SVDConfig(in_channels=9),
    "multi-view": SVDConfig(vector=1024),
    # The shape of the tiny image model, from whose weights it can start.
    "tiny": SVDConfig(**{**vars(LDM_CONFIGS["tiny"]), "in_channels": 8, "vector": 96}),
}
SVD_CONFIGS |= {
    "interpolation-tiny": replace(SVD_CONFIGS["tiny"], in_channels=9),
    "multi-view-tiny": replace(SVD_CONFIGS["tiny"], vector=128),
}

# Appendix D: (p_mean, p_std) of ln(sigma) in every stage of training.  The larger the images, the
# more noise it takes to hide them (Hoogeboom et al. 2023, arXiv 2301.11093).
NOISE = {
    "images": (-1.2, 1.0),
    "256x384": (-1.2, 1.0),
    "320x576": (0.0, 1.0),
    "text-to-video": (0.5, 1.4),
    "image-to-video 320x576": (0.7, 1.6),
    "image-to-video 576x1024": (1.0, 1.6),
    "interpolation": (1.0, 1.2),
    "augmentation": (-3.0, 0.5),  # of the image that image-to-video continues
}


# ---------------------------------------------------------------- D the U-Net


class UNet(ldm.UNet):
    """F(x, c_noise): the U-Net of latent diffusion on frames, with layers between frames."""

    def __init__(self, config: SVDConfig):
        super().__init__(config, block=Block)
        self.config: SVDConfig = config
        time_width = 4 * config.width
        self.vector_embed = None
        if config.vector is not None:
            self.vector_embed = nn.Sequential(
                nn.Linear(config.vector, time_width), nn.SiLU(), nn.Linear(time_width, time_width)
            )
        attending = [block for block in self.down if getattr(block, "attention", None) is not None]
        for block in [*attending, *self.up]:
            if isinstance(block, Block):
                block.set_eps(config.outer_eps)

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "b t c h w"],
        t: Shaped[Tensor, " b"],
        context: Float[Tensor, "b m d"],
        vector: Float[Tensor, "b v"] | None = None,
        image_only: bool = False,
    ) -> Float[Tensor, "b t c_out h w"]:
        """Return v in noisy latents x at times t = c_noise.

        `context` is an image's embedding (m = 1) or a text's; `vector` is of `micro_conditioning`.
        image_only: every frame is an image by itself.  Raises ValueError for sides that cannot be
        halved at every level, and for conditions that the config does not have.
        """
        frames = x.shape[1]
        x = rearrange(x, "b t c h w -> (b t) c h w")
        context = repeat(context, "b m d -> (b t) m d", t=frames)
        self.validate(x, context)
        time = self.embed_time(t) + self.embed_vector(vector)  # b d
        time = repeat(time, "b d -> (b t) d", t=frames)
        x = self.run(x, time, context, None if image_only else frames)  # b*t c_out h w
        return rearrange(x, "(b t) c h w -> b t c h w", t=frames)

    def embed_vector(
        self, vector: Float[Tensor, "b v"] | None
    ) -> Float[Tensor, "b d"] | Float[Tensor, ""]:
        """Return what the vector condition adds to the time's vector.  Raises ValueError."""
        given = None if vector is None else vector.shape[1]
        if given != self.config.vector:
            raise ValueError(f"vector: expected {self.config.vector} numbers, got {given}")
        weight = self.stem.weight
        if self.vector_embed is None:
            return weight.new_zeros(())
        return self.vector_embed(vector.to(weight.dtype))


class Block(nn.Module):
    """A residual block in space, one over time; then, where the level attends, a transformer."""

    def __init__(self, config: SVDConfig, c_in: int, c_out: int, level: int, attends: bool):
        super().__init__()
        self.res = residual(config, c_in, c_out)
        self.temporal_res = TemporalResBlock(
            c_out, time_width=4 * config.width, groups=config.groups, eps=config.norm_eps
        )
        self.mix = nn.Parameter(torch.tensor([0.5]))  # alpha = 0.62
        self.attention = (
            SpatioTemporalTransformer(config, c_out, config.heads[level]) if attends else None
        )

    def forward(
        self,
        x: Float[Tensor, "b_t c_in h w"],
        time: Float[Tensor, "b_t d"],
        context: Float[Tensor, "b_t m d_context"],
        frames: int | None,
    ) -> Float[Tensor, "b_t c h w"]:
        x = self.res(x, time)  # b*t c h w
        if frames is not None:
            x = blend(x, self.temporal_res(x, frames, time[::frames]), self.mix)  # b*t c h w
        return x if self.attention is None else self.attention(x, context, frames)  # b*t c h w

    def set_eps(self, eps: float) -> None:
        """Give both residual blocks' norms this epsilon."""
        for res in (self.res, self.temporal_res):
            res.norm1.eps = res.norm2.eps = eps


class TemporalResBlock(nn.Module):
    """A residual block that convolves over three neighbouring frames, at every place by itself.

    Its norms share their statistics among the frames of a clip.  It begins as the identity.
    """

    def __init__(self, channels: int, time_width: int | None, groups: int, eps: float):
        super().__init__()
        self.norm1 = GroupNorm(groups, channels, eps)
        self.conv1 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        self.time = None if time_width is None else nn.Linear(time_width, channels)
        self.norm2 = GroupNorm(groups, channels, eps)
        self.conv2 = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0))
        nn.init.zeros_(self.conv2.weight)
        nn.init.zeros_(self.conv2.bias)  # type: ignore[arg-type]

    def forward(
        self, x: Float[Tensor, "b_t c h w"], frames: int, time: Float[Tensor, "b d"] | None = None
    ) -> Float[Tensor, "b_t c h w"]:
        # Kept channels-last, frames and a clip with its places in one axis are the same memory.
        clip = rearrange(x, "(b t) c h w -> b c t (h w)", t=frames)
        h = self.conv1(F.silu(self.norm1(clip)))  # b c t h*w
        if self.time is not None and time is not None:
            h = h + self.time(F.silu(time))[:, :, None, None]
        h = clip + self.conv2(F.silu(self.norm2(h)))  # b c t h*w
        return rearrange(h, "b c t (h w) -> (b t) c h w", h=x.shape[2])


class SpatioTemporalTransformer(SpatialTransformer):
    """A transformer with blocks on the places of a frame and blocks on the frames at a place."""

    def __init__(self, config: SVDConfig, channels: int, heads: int):
        super().__init__(config, channels, heads)
        self.temporal_blocks = nn.ModuleList(
            TemporalBlock(config, channels, heads) for _ in range(config.depth)
        )
        self.frame_embed = nn.Sequential(
            nn.Linear(channels, 4 * channels), nn.SiLU(), nn.Linear(4 * channels, channels)
        )
        self.mix = nn.Parameter(torch.tensor([0.5]))  # alpha = 0.62

    def forward(  # type: ignore[override]
        self,
        x: Float[Tensor, "b_t c h w"],
        context: Float[Tensor, "b_t m d"],
        frames: int | None,
    ) -> Float[Tensor, "b_t c h w"]:
        if frames is None:
            return super().forward(x, context)
        tokens = self.tokens(x)  # b*t h*w c
        positions = self.embed_frames(frames, tokens)  # t 1 c
        for block, temporal_block in zip(self.blocks, self.temporal_blocks, strict=True):
            tokens = block(tokens, context)  # b*t h*w c
            clip = rearrange(tokens, "(b t) n d -> b t n d", t=frames)
            clip = temporal_block(clip + positions, context[::frames])  # b t h*w c
            tokens = blend(tokens, rearrange(clip, "b t n d -> (b t) n d"), self.mix)
        return x + self.feature_map(tokens, x.shape[2])  # b*t c h w

    def embed_frames(self, frames: int, tokens: Float[Tensor, "b_t n d"]) -> Float[Tensor, "t 1 d"]:
        """Return what tells each frame its place in the clip: 0, 1, 2, ..."""
        places = torch.arange(frames, device=tokens.device)
        features = timestep_embedding(places, tokens.shape[2])  # t d
        return self.frame_embed(features.to(tokens))[:, None]


class TemporalBlock(nn.Module):
    """A transformer block for the frames at a place, with a feed-forward network at both ends."""

    def __init__(self, config: SVDConfig, width: int, heads: int):
        super().__init__()
        self.norm_in = nn.LayerNorm(width)
        self.feed_forward_in = FeedForward(width)
        self.norm1 = nn.LayerNorm(width)
        self.self_attention = TemporalAttention(width, heads)
        self.norm2 = nn.LayerNorm(width)
        self.cross_attention = Attention(width, heads, config.context)
        self.norm3 = nn.LayerNorm(width)
        self.feed_forward = FeedForward(width)

    def forward(
        self, x: Float[Tensor, "b t n d"], context: Float[Tensor, "b m d_context"]
    ) -> Float[Tensor, "b t n d"]:
        x = x + self.feed_forward_in(self.norm_in(x))  # b t n d
        x = x + self.self_attention(self.norm1(x))  # b t n d
        queries = rearrange(self.norm2(x), "b t n d -> b (t n) d")
        seen = self.cross_attention(queries, context)  # b t*n d
        x = x + rearrange(seen, "b (t n) d -> b t n d", t=x.shape[1])
        return x + self.feed_forward(self.norm3(x))  # b t n d


class TemporalAttention(Attention):
    """Let the tokens of a place look at each other over time."""

    def forward(self, x: Float[Tensor, "b t n d"]) -> Float[Tensor, "b t n d"]:  # type: ignore[override]
        q = self.query(x)  # b t n d
        k, v = self.key_value(x).chunk(2, dim=-1)  # b t n d each
        return self.out(temporal_attention(q, k, v, self.heads))  # b t n d


def temporal_attention(
    q: Float[Tensor, "b t n d"],
    k: Float[Tensor, "b t n d"],
    v: Float[Tensor, "b t n d"],
    heads: int,
) -> Float[Tensor, "b t n d"]:
    """Let each of n places attend over its t frames: softmax(Q K^T / sqrt(d / heads)) V.

    A place never sees another one; a head owns d / heads neighbouring numbers.
    """
    b = len(q)
    q, k, v = (rearrange(x, "b t n d -> (b n) t d") for x in (q, k, v))
    h = cross_attention(q, k, v, heads)  # b*n t d
    return rearrange(h, "(b n) t d -> b t n d", b=b)


def blend(spatial: Batch, temporal: Batch, mix: Float[Tensor, "1"]) -> Batch:
    """Return alpha * spatial + (1 - alpha) * temporal with alpha = sigmoid(mix), which is learned.

    In the U-Net mix begins at 0.5.  The decoder begins at 0 and has the two exchanged.
    """
    alpha = mix.sigmoid()
    return alpha * spatial + (1 - alpha) * temporal


# ---------------------------------------------------------------- 3.3, 4 the conditions


def micro_conditioning(
    fps: PerSample, motion_bucket: PerSample, augmentation: PerSample, width: int = 256
) -> Float[Tensor, "b v"]:
    """Return the vector condition: three sinusoids of `width` numbers, in this order.

    fps: frames per second, less 1; motion_bucket: how much moves, from 0 to 255; augmentation: the
    deviation of the noise in the image that is continued.
    """
    values = (fps, motion_bucket, augmentation)
    return torch.cat([timestep_embedding(value, width) for value in values], dim=1)


class Condition(NamedTuple):
    """What a clip is generated from."""

    context: Float[Tensor, "b m d"]  # for cross-attention
    vector: Float[Tensor, "b v"] | None = None  # of `micro_conditioning`
    latent: Float[Tensor, "b t c h w"] | None = None  # next to the noisy latent, in every frame

    def keep(self, kept: Bool[Tensor, " b"]) -> "Condition":
        """Return the condition with context and latent zero wherever it is not kept.

        In training a tenth or so is not, which guidance needs; the vector always stays.
        """
        context = self.context * kept[:, None, None]
        latent = self.latent
        if latent is not None:
            latent = latent * kept[:, None, None, None, None]
        return Condition(context, self.vector, latent)

    def without(self) -> "Condition":
        """Return the condition of no image at all."""
        return self.keep(torch.zeros(len(self.context), dtype=torch.bool).to(self.context.device))


def image_condition(
    embedding: Float[Tensor, "b d"],
    latent: Float[Tensor, "b c h w"],
    vector: Float[Tensor, "b v"],
    frames: int,
) -> Condition:
    """Section 4.3: continue an image.

    embedding: CLIP's, the one token of cross-attention.  latent: the mean that the encoder gives
    for the image with noise (`augment`), not multiplied by the scale factor.
    """
    return Condition(embedding[:, None], vector, repeat(latent, "b c h w -> b t c h w", t=frames))


def interpolation_condition(
    embeddings: Float[Tensor, "b 2 d"],
    first: Float[Tensor, "b c h w"],
    last: Float[Tensor, "b c h w"],
    vector: Float[Tensor, "b v"],
    frames: int,
) -> Condition:
    """Section 4.4: fill in the frames between two.

    Their latents stand in their places, with zeros in between, and one more channel is 1 where a
    frame is known.  Raises ValueError for fewer than two frames.
    """
    if frames < 2:
        raise ValueError(f"frames: expected at least 2, got {frames}")
    b, c, h, w = first.shape
    latent = first.new_zeros(b, frames, c + 1, h, w)
    for place, known in ((0, first), (-1, last)):
        latent[:, place, :c] = known
        latent[:, place, c] = 1
    return Condition(embeddings, vector, latent)


def augment(
    image: Float[Tensor, "b c h w"], level: PerSample, noise: Float[Tensor, "b c h w"]
) -> Float[Tensor, "b c h w"]:
    """Appendix D: add noise of deviation `level` to pixels, so that no generator can copy them."""
    return image + level[:, None, None, None] * noise


def start_from(unet: UNet, source: ldm.UNet) -> None:
    """Section 3.2: give the layers that both have an image or clip model's weights, in place.

    Other layers stay as they are, and weights of inputs that only this model has become zero.
    Raises ValueError, naming them, for tensors of the source that the clip model does not have.
    """
    ours, theirs = unet.state_dict(), source.state_dict()
    for name, behind in (("stem.weight", (0, 0, 0, 0)), ("vector_embed.0.weight", ())):
        if name in ours and name in theirs:
            more = max(ours[name].shape[1] - theirs[name].shape[1], 0)
            theirs[name] = F.pad(theirs[name], (*behind, 0, more))
    misfits = [
        name
        for name, tensor in theirs.items()
        if name not in ours or ours[name].shape != tensor.shape
    ]
    if misfits:
        raise ValueError(
            f"expected a source of the clip model's shape, got others at {', '.join(misfits[:4])}"
        )
    unet.load_state_dict(theirs, strict=False)


def temporal_attention_layers(unet: UNet) -> list[str]:
    """Section 4.3.1: return the names of the layers that a camera-motion LoRA adapts."""
    return [
        f"{name}.{layer}"
        for name, module in unet.named_modules()
        if isinstance(module, TemporalAttention)
        for layer in ("query", "key_value", "out")
    ]


# ---------------------------------------------------------------- D training and sampling


def predict_v(
    network: Callable, condition: Condition, x: Float[Tensor, "b t c h w"], t: PerSample
) -> Float[Tensor, "b t c h w"]:
    """Call the network, with the condition's latent next to the noisy one."""
    if condition.latent is not None:
        x = torch.cat([x, condition.latent.to(x)], dim=2)  # b t 2*c h w
    return network(x, t, condition.context, condition.vector)


def loss(
    network: Callable, x_start: Batch, sigma: PerSample, noise: Batch, condition: Condition
) -> PerSample:
    """Return what training minimizes, per clip: the weighted error of the estimate of x_start."""
    return edm.denoising_loss(partial(predict_v, network, condition), x_start, sigma, noise)


def guidance_ramp(frames: int, first: float, last: float) -> Float[Tensor, " t"]:
    """Section 4.3: return a guidance scale per frame, in even steps from `first` to `last`.

    Frames far from the image need more of it.  Raises ValueError for no frames.
    """
    if frames < 1:
        raise ValueError(f"frames: expected at least 1, got {frames}")
    return torch.linspace(first, last, frames)


def guided_denoiser(
    network: Callable,
    condition: Condition,
    unconditional: Condition,
    scale: Float[Tensor, " t"],
    x: Float[Tensor, "b t c h w"],
    sigma: PerSample,
) -> Float[Tensor, "b t c h w"]:
    """Return the estimate of x_start, guided away from the one without a condition."""
    known = edm.denoise(partial(predict_v, network, condition), x, sigma)
    unknown = edm.denoise(partial(predict_v, network, unconditional), x, sigma)
    return guide(known, unknown, scale.to(x)[:, None, None, None])


def sample(
    network: Callable,
    noise: Float[Tensor, "b t c h w"],
    condition: Condition,
    unconditional: Condition,
    scale: Float[Tensor, " t"],
    sigmas: Table,
) -> Float[Tensor, "b t c h w"]:
    """Return scaled latents of a clip, sampled with guidance per frame by Euler's method."""
    denoiser = partial(guided_denoiser, network, condition, unconditional, scale)
    return edm.euler_sample(denoiser, noise, sigmas)


def image_to_video(
    network: Callable,
    noise: Float[Tensor, "b t c h w"],
    embedding: Float[Tensor, "b d"],
    latent: Float[Tensor, "b c h w"],
    vector: Float[Tensor, "b v"],
    scale: Float[Tensor, " t"],
    sigmas: Table,
) -> Float[Tensor, "b t c h w"]:
    """Section 4.3: sample the scaled latents of a clip that continues an image.

    It is guided away from what no image gives: embedding and latent zero, the vector as it is.
    """
    condition = image_condition(embedding, latent, vector, frames=noise.shape[1])
    return sample(network, noise, condition, condition.without(), scale, sigmas)
