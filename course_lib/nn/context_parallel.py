"""One clip over several processes: each holds a contiguous piece of its frames.

CogVideoX (arXiv 2408.06072, section 2.1) trains its autoencoder on long clips like this.  A causal
convolution of k frames lacks k - 1 frames before its piece, the halo: every process (rank) sends
the last k - 1 of its own to the next one, and nothing else.  The first repeats the clip's first
frame.  Then pooling is local where pieces have whole latents (`share_frames`), and a norm over all
frames adds up the ranks' moments.

A network that asks a `Timeline` runs over ranks when it is given `Ranks()`, in the processes of a
torch.distributed group (`course_lib.training.ranks` starts them on one machine).  What it computes
is what one process does with the whole clip, and so are its gradients: that of a halo goes back to
the rank whose frames these are.  The official code drops it: `RanksWithoutHaloGradients`.

All ranks must call the same layers in the same order, forward and backward: each waits for its
neighbour.  So each needs a loss, and their inputs ask for gradients on all or on none.
"""

from collections.abc import Iterable
from typing import NamedTuple

import torch
import torch.distributed as dist
from einops import rearrange, reduce, repeat
from torch import nn

from course_lib.nn.timeline import Timeline
from course_lib.shapes import Float, Tensor

# ---------------------------------------------------------------- pieces


def share_frames(frames: int, ranks: int, frames_per_latent: int) -> list[int]:
    """Return how many frames each rank holds: whole latents, as equal as can be.

    The first frame is a latent by itself, and goes to the first rank beside the fewer of the rest.
    Raises ValueError unless there are 1 + f n frames, and a latent for every rank.
    """
    latents, left = divmod(frames - 1, frames_per_latent)
    if left or frames < 1:
        raise ValueError(f"expected 1 + {frames_per_latent} n frames, got {frames}")
    if not 1 <= ranks <= 1 + latents:
        raise ValueError(f"expected 1 to {1 + latents} ranks, one latent for each, got {ranks}")
    least, more = divmod(latents, ranks)
    counts = [least + (rank >= ranks - more) for rank in range(ranks)]
    return [(rank == 0) + frames_per_latent * count for rank, count in enumerate(counts)]


def extend_pieces(
    pieces: list[Float[Tensor, "b c _ h w"]], past: int
) -> list[Float[Tensor, "b c _ h w"]]:
    """Return every piece of a clip with the `past` frames before it, in one process.

    Before the clip's first frame stands that frame, `past` times.  What the ranks get from each
    other, `Ranks.extend`, is this.
    """
    extended = []
    before = repeat(pieces[0][:, :, :1], "b c 1 h w -> b c past h w", past=past)
    for piece in pieces:
        extended.append(torch.cat([before, piece], dim=2))
        before = extended[-1][:, :, -past:]
    return extended


# ---------------------------------------------------------------- over processes


class Ranks(Timeline):
    """A clip of which every process of the default group holds a piece, in the order of ranks."""

    @property
    def starts(self) -> bool:
        return dist.get_rank() == 0

    def extend(
        self, layer: nn.Module, x: Float[Tensor, "b c t h w"], past: int
    ) -> Float[Tensor, "b c t2 h w"]:
        return torch.cat([Halo.apply(x, past), x], dim=2)

    def group_norm(
        self, norm: nn.GroupNorm, x: Float[Tensor, "b c t h w"]
    ) -> Float[Tensor, "b c t h w"]:
        """Return x normalized by the moments of all frames on all ranks.

        Every rank tells the sum of its values, then that of their squared distances to the mean.
        """
        variance, mean = torch.var_mean(x, dim=(2, 3, 4), correction=0)  # b c: of my frames
        mean, variance = (
            rearrange(moment, "b (g c) -> b g c", g=norm.num_groups) for moment in (mean, variance)
        )
        mine = x[0, 0].numel()  # values per channel
        all_values = AllSum.apply(x.new_tensor(mine * mean.shape[2]))

        total = AllSum.apply(reduce(mean, "b g c -> b g 1", "sum") * mine)
        center = total / all_values  # b g 1
        spread = variance + (mean - center).square()
        spread = AllSum.apply(reduce(spread, "b g c -> b g 1", "sum") * mine) / all_values

        weight = rearrange(norm.weight, "(g c) -> g c", g=norm.num_groups)
        bias = rearrange(norm.bias, "(g c) -> g c", g=norm.num_groups)
        scale = weight * torch.rsqrt(spread + norm.eps)  # b g c
        shift = bias - center * scale
        scale, shift = (rearrange(y, "b g c -> b (g c) 1 1 1") for y in (scale, shift))
        return torch.addcmul(shift, x, scale)


class RanksWithoutHaloGradients(Ranks):
    """The official code's: forward as `Ranks`; backward, nothing goes back through a halo.

    Not to the neighbour, and not to the first frame for its copies.
    """

    def extend(
        self, layer: nn.Module, x: Float[Tensor, "b c t h w"], past: int
    ) -> Float[Tensor, "b c t2 h w"]:
        return torch.cat([Halo.apply(x.detach(), past), x], dim=2)


class Halo(torch.autograd.Function):
    """The `past` frames before x: from the rank before, or copies of the clip's first frame.

    Backward, their gradient goes where they came from.  A piece of fewer frames than `past` passes
    on what it was sent itself.
    """

    @staticmethod
    def forward(ctx, x: Tensor, past: int) -> Tensor:
        ctx.past, ctx.frames = past, x.shape[2]
        before = repeat(x[:, :, :1], "b c 1 h w -> b c past h w", past=past)
        enough = ctx.frames >= past
        sending = _send(x[:, :, -past:], +1) if enough else None
        if dist.get_rank() > 0:
            before = _receive(before, -1)
        if not enough:
            sending = _send(torch.cat([before, x], dim=2)[:, :, -past:], +1)
        _finish(sending)
        return before

    @staticmethod
    def backward(ctx, grad: Tensor) -> tuple[Tensor, None]:  # type: ignore[override]
        past, frames = ctx.past, ctx.frames
        first = dist.get_rank() == 0
        sending = None if frames < past or first else _send(grad, -1)
        of_sent = _receive(grad, +1)  # of the frames that I sent; zeros on the last rank
        if frames < past:  # the first of those I had been sent myself
            grad = grad + nn.functional.pad(of_sent[:, :, : past - frames], (0, 0, 0, 0, frames, 0))
            sending = None if first else _send(grad, -1)
        kept = min(frames, past)
        of_x = nn.functional.pad(of_sent[:, :, past - kept :], (0, 0, 0, 0, frames - kept, 0))
        if first:
            of_x[:, :, 0] += grad.sum(dim=2)
        _finish(sending)
        return of_x, None


class Sending(NamedTuple):
    """A message on its way."""

    work: dist.Work | None
    frames: Tensor  # kept alive until it has left


class AllSum(torch.autograd.Function):
    """The sum over all ranks, on all of them.  So is its gradient."""

    @staticmethod
    def forward(ctx, x: Tensor) -> Tensor:
        total = x.clone()
        dist.all_reduce(total)
        return total

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:  # type: ignore[override]
        total = grad.clone()
        dist.all_reduce(total)
        return total


def add_over_ranks(gradients: Iterable[Tensor]) -> None:
    """Add up the gradients of all ranks, in place: each has those of its own frames."""
    for gradient in gradients:
        dist.all_reduce(gradient)


def _send(x: Tensor, way: int) -> Sending | None:
    """Begin to send to the neighbour; `_finish` waits for it.  None: there is no neighbour."""
    to = dist.get_rank() + way
    if not 0 <= to < dist.get_world_size():
        return None
    frames = rearrange(x, "b c t h w -> b t h w c").contiguous()  # as they lie in memory
    return Sending(dist.isend(frames, to), frames)


def _finish(sending: Sending | None) -> None:
    """Wait until what was sent, if anything, has left."""
    if sending is not None and sending.work is not None:
        sending.work.wait()


def _receive(like: Tensor, way: int) -> Tensor:
    """Return what the neighbour sends, of this shape; zeros if there is no neighbour."""
    source = dist.get_rank() + way
    b, c, t, h, w = like.shape
    frames = like.new_zeros(b, t, h, w, c)
    if 0 <= source < dist.get_world_size():
        dist.recv(frames, source)
    return rearrange(frames, "b t h w c -> b c t h w")
