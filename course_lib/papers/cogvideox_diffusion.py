"""How CogVideoX is trained and sampled: Yang et al., 2024, arXiv 2408.06072, section 3.

Reading order: the latents of a clip; v-prediction and the loss, of an ordinary batch and of packed
clips; explicit uniform sampling of steps; what an image adds; guidance that grows; sampling.  The
network is `course_lib.papers.cogvideox`, the schedule its config's `alphas_cumprod`.  Steps count
from 0.

Differs from the paper, following the official code: an image to continue gets noise in its pixels
(`course_lib.papers.svd.augment`), and the loss of x_start is weighted by 1 / (1 - alpha_bar), which
makes it the plain error of v.
Differs from the official code: there, a rank draws all of its steps from one interval, and the ramp
of guidance is no ramp (`released_dynamic_guidance`).
"""

import math
from collections.abc import Callable, Iterator
from typing import Literal

import torch
import torch.nn.functional as F

from course_lib.diffusion import (
    ddim_step_towards,
    dpm_solver_step,
    gather_at,
    guide,
    trailing_steps,
    zero_terminal_snr,
)
from course_lib.nn.frame_pack import Pack, of_clips
from course_lib.papers.ddpm import q_sample
from course_lib.shapes import Batch, Float, Int, PerSample, Steps, Table, Tensor

# ---------------------------------------------------------------- 2.1 latents


def latent_shape(
    frames: int,
    height: int,
    width: int,
    channels: int = 16,
    compression: tuple[int, int, int] = (4, 8, 8),
) -> tuple[int, int, int, int]:
    """Section 2.1: return the shape (t c h w) of the latents of a clip.

    The first frame stands by itself, so that an image is a clip of one frame; then every 4 frames
    become one, and every 8 x 8 pixels.  Raises ValueError for a clip that does not fit this.
    """
    over_time, down, across = compression
    if frames < 1 or (frames - 1) % over_time or height % down or width % across:
        raise ValueError(
            f"expected 1 + a multiple of {over_time} frames of multiples of {down} x {across}"
            f" pixels, got {frames} of {height} x {width}"
        )
    return 1 + (frames - 1) // over_time, channels, height // down, width // across


# ---------------------------------------------------------------- 3 v-prediction


def v_target(x_start: Batch, t: Steps, noise: Batch, alphas_cumprod: Table) -> Batch:
    """Return v = sqrt(alpha_bar) eps - sqrt(1 - alpha_bar) x_0, which the network is to say.

    At the last step, where alpha_bar is 0, it is -x_0: there the noise would teach nothing.
    (Salimans and Ho 2022, arXiv 2202.00512, appendix D.)
    """
    signal = gather_at(alphas_cumprod.sqrt(), t, x_start)
    sigma = gather_at((1 - alphas_cumprod).sqrt(), t, x_start)
    return signal * noise - sigma * x_start


def loss(
    network: Callable,
    x_start: Float[Tensor, "b t c h w"],
    t: Steps,
    noise: Float[Tensor, "b t c h w"],
    text: Float[Tensor, "b m d"],
    alphas_cumprod: Table,
    image: Float[Tensor, "b t c h w"] | None = None,
) -> PerSample:
    """Return what training minimizes: the squared error of v, averaged over a clip's values.

    image: of `image_condition`.
    """
    x_t = q_sample(x_start, t, noise, alphas_cumprod)
    v = network(beside(x_t, image), t, text)
    return (v - v_target(x_start, t, noise, alphas_cumprod)).square().flatten(1).mean(1)


def packed_loss(
    network: Callable,
    x_start: Float[Tensor, "b t c h w"],
    t: Int[Tensor, " clips"],
    noise: Float[Tensor, "b t c h w"],
    text: Float[Tensor, "clips m d"],
    alphas_cumprod: Table,
    pack: Pack,
) -> Float[Tensor, " clips"]:
    """Return the same of every clip in the rows of a pack: what it would be of the clip by itself.

    x_start and noise are rows, of `pack_clips`; steps and texts are in the order of the clips.
    """
    pack = pack.to(x_start.device)
    steps, texts = of_clips(t, pack), of_clips(text, pack)  # b k, b k m d
    frame_steps = steps.gather(1, pack.clip.clamp(min=0)).flatten()  # b*t
    frames, frame_noise = x_start.flatten(0, 1), noise.flatten(0, 1)  # b*t c h w
    x_t = q_sample(frames, frame_steps, frame_noise, alphas_cumprod).view_as(x_start)
    v = network(x_t, steps, texts, pack).flatten(0, 1)
    target = v_target(frames, frame_steps, frame_noise, alphas_cumprod)
    squared = (v - target).square().flatten(1).mean(1)  # b*t

    there = (pack.clip >= 0).flatten()
    clip = pack.numbers.gather(1, pack.clip.clamp(min=0)).flatten()[there]
    total = squared.new_zeros(len(t)).index_add(0, clip, squared[there])
    return total / clip.bincount(minlength=len(t))


def explicit_uniform(uniform: PerSample, timesteps: int, rank: int = 0, ranks: int = 1) -> Steps:
    """Section 3.3, explicit uniform sampling: draw every sample's step from an interval of its own.

    The steps 0..timesteps-1 are cut into as many intervals as all ranks together have samples; a
    rank has neighbouring ones.  `uniform`: one number from [0, 1) per sample of this rank.  Raises
    ValueError for others, and for a rank that is not one of the ranks.
    """
    if not 0 <= rank < ranks:
        raise ValueError(f"rank: expected 0..{ranks - 1}, got {rank}")
    if not bool(((uniform >= 0) & (uniform < 1)).all()):
        raise ValueError(f"uniform: expected numbers from [0, 1), got {uniform.tolist()}")
    count = len(uniform)
    interval = rank * count + torch.arange(count, device=uniform.device)
    steps = (interval + uniform.double()) * timesteps / (count * ranks)
    return steps.long().clamp(max=timesteps - 1)


# ---------------------------------------------------------------- image to video


def image_condition(latent: Float[Tensor, "b c h w"], frames: int) -> Float[Tensor, "b t c h w"]:
    """Return what stands beside the noisy latents to continue an image: it, and then zeros.

    latent: a sample of the encoder's, times the scale factor.
    """
    return F.pad(latent[:, None], (0, 0, 0, 0, 0, 0, 0, frames - 1))


def beside(
    x: Float[Tensor, "b t c h w"], image: Float[Tensor, "b t c2 h w"] | None
) -> Float[Tensor, "b t c3 h w"]:
    """Return noisy latents with those of an image after them, channel by channel."""
    return x if image is None else torch.cat([x, image.to(x)], dim=2)


# ---------------------------------------------------------------- guidance


def dynamic_guidance(steps: int, scale: float = 6.0, power: float = 5.0) -> Table:
    """Return the scale of guidance in each of `steps`, growing from 1 towards 1 + scale.

    It is 1 + scale (1 - cos(pi (i / steps)^power)) / 2 in step i = 0, 1, ...: little where all is
    noise, and most where only details are left.  Raises ValueError for no steps.
    """
    if steps < 1:
        raise ValueError(f"steps: expected at least 1, got {steps}")
    done = torch.arange(steps, dtype=torch.float64) / steps
    return 1 + scale * (1 - torch.cos(math.pi * done**power)) / 2


def released_dynamic_guidance(
    visited: Int[Tensor, " steps"], scale: float = 6.0, power: float = 5.0
) -> Table:
    """Return the scales of the released code, which is meant to be `dynamic_guidance`.

    It takes the step of training, such as 999, for the number of steps that are left.  The cosine
    then goes round and round, and the scales are all over the place.
    """
    steps = len(visited)
    done = (steps - visited.double()) / steps
    return 1 + scale * (1 - torch.cos(math.pi * done**power)) / 2


# ---------------------------------------------------------------- sampling


def guided_v(
    network: Callable,
    x_t: Float[Tensor, "b t c h w"],
    t: Steps,
    text: Float[Tensor, "b m d"],
    null: Float[Tensor, "_ m d"] | None,
    scale: float | Float[Tensor, ""],
    image: Float[Tensor, "b t c h w"] | None = None,
) -> Float[Tensor, "b t c h w"]:
    """Return v, guided away from that of `null`, what stands for no text; None: there is no such.

    Both are computed as one batch.  The image stays where the text is left out.
    """
    x = beside(x_t, image)
    if null is None:
        return network(x, t, text)
    texts = torch.cat([null.expand_as(text), text])  # 2*b m d
    without, known = network(torch.cat([x, x]), torch.cat([t, t]), texts).chunk(2)
    return guide(known, without, scale)


def sampling(
    network: Callable,
    noise: Float[Tensor, "b t c h w"],
    text: Float[Tensor, "b m d"],
    null: Float[Tensor, "_ m d"] | None,
    guidance: float | Float[Tensor, " visited"],
    steps: Int[Tensor, " visited"],
    alphas_cumprod: Table,
    sampler: Literal["ddim", "dpm"] = "ddim",
    fresh: Callable[[], Batch] | None = None,
    image: Float[Tensor, "b t c h w"] | None = None,
) -> Iterator[tuple[Batch, Batch]]:
    """Go from noise to latents; after every step yield x_t and the x_0 that was seen.

    guidance: one scale, or one for every step.  steps: those to visit, in any order, as of
    `trailing_steps`.  sampler: DDIM, or DPM-Solver++, which draws noise for every step by `fresh`.
    Raises ValueError for another sampler, "dpm" without `fresh`, or another number of scales than
    of steps.
    """
    if sampler not in ("ddim", "dpm"):
        raise ValueError(f"sampler: expected 'ddim' or 'dpm', got {sampler!r}")
    if sampler == "dpm" and fresh is None:
        raise ValueError("fresh: expected noise for every step of the sampler 'dpm', got None")
    scales = torch.as_tensor(guidance, dtype=torch.float64)
    if scales.ndim and len(scales) != len(steps):
        raise ValueError(f"guidance: expected {len(steps)} scales, got {len(scales)}")
    scales = scales.expand(len(steps))
    steps = steps.sort(descending=True).values
    alpha_bars = F.pad(alphas_cumprod[steps], (0, 1), value=1.0)

    x, before = noise, None
    for i, step in enumerate(steps.tolist()):
        alpha_bar, alpha_bar_prev = alpha_bars[i : i + 2]
        with torch.no_grad():
            t = torch.full((len(x),), step, device=x.device)
            v = guided_v(network, x, t, text, null, scales[i], image)
            x_start = alpha_bar.sqrt() * x - (1 - alpha_bar).sqrt() * v
            if fresh is None or sampler == "ddim":
                x = ddim_step_towards(x, x_start, alpha_bar, alpha_bar_prev)
            else:
                x = dpm_solver_step(x, x_start, alpha_bar, alpha_bar_prev, fresh(), before)
        before = x_start, alpha_bar
        yield x, x_start


def sample(network: Callable, noise: Batch, *args, **options) -> Batch:
    """Return the latents in which `sampling` of these arguments ends."""
    x = noise
    for x_next, _ in sampling(network, noise, *args, **options):
        x = x_next
    return x


def sample_ddim(
    network: Callable,
    noise: Float[Tensor, "b t c h w"],
    text: Float[Tensor, "b m d"],
    null: Float[Tensor, "_ m d"] | None,
    count: int,
    alphas_cumprod: Table,
    scale: float = 6.0,
) -> Float[Tensor, "b t c h w"]:
    """Draw latents as the paper does: `count` steps of DDIM from the last one on, guidance growing.

    Raises ValueError unless 2 <= count <= the steps of the table.
    """
    steps = trailing_steps(len(alphas_cumprod), count)
    guidance = dynamic_guidance(count, scale)
    return sample(network, noise, text, null, guidance, steps, alphas_cumprod)


def authors_alphas_cumprod(shifted: Table, steps: Int[Tensor, " visited"]) -> Table:
    """Return the table as the authors' sampler has it, from one without zero terminal SNR.

    It takes the steps that it visits, and rescales only these: their first keeps its value, and
    all differ a little from training's.
    """
    table = shifted.clone()
    steps = steps.sort().values
    table[steps] = zero_terminal_snr(shifted[steps])
    return table
