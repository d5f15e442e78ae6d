"""Notebook 09, first half: more wrong answers, and right ones written differently."""

import math
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, reduce, repeat

from course_lib.nn.context_parallel import extend_pieces
from course_lib.nn.rope import rope_angles_3d, rotate
from course_lib.nn.timeline import causal_padding, pool_frames
from course_lib.papers.cogvideox import patchify
from course_lib.papers.cogvideox_diffusion import latent_shape

# ---------------------------------------------------------------- wrong: latent_shape


def shape_of(change, check=latent_shape):
    """Build latent_shape from a check and what is made of (t, c, h, w)."""

    def answer(frames, height, width, channels=16, compression=(4, 8, 8)):
        check(frames, height, width, channels, compression)
        return change(
            1 + (frames - 1) // compression[0],
            channels,
            height // compression[1],
            width // compression[2],
        )

    return answer


def shape_asserted(frames, height, width, channels=16, compression=(4, 8, 8)):
    f, p, q = compression
    assert frames >= 1
    assert (frames - 1) % f == 0
    assert height % p == width % q == 0
    return latent_shape(frames, height, width, channels, compression)


def shape_or_none(frames, height, width, channels=16, compression=(4, 8, 8)):
    f, p, q = compression
    if frames < 1 or (frames - 1) % f or height % p or width % q:
        return None
    return latent_shape(frames, height, width, channels, compression)


def shape_area_checked(frames, height, width, channels=16, compression=(4, 8, 8)):
    """Checks that the area divides."""
    f, p, q = compression
    if frames < 1 or (frames - 1) % f or height * width % (p * q):
        raise ValueError
    return 1 + (frames - 1) // f, channels, height // p, width // q


def shape_rounded(frames, height, width, channels=16, compression=(4, 8, 8)):
    f, p, q = compression
    return math.ceil(frames / f), channels, math.ceil(height / p), math.ceil(width / q)


def shape_fractions(frames, height, width, channels=16, compression=(4, 8, 8)):
    latent_shape(frames, height, width, channels, compression)
    f, p, q = compression
    return 1 + (frames - 1) / f, channels, height / p, width / q


def shape_square(frames, height, width, channels=16, compression=(4, 8, 8)):
    """Takes the factor of the height for the width."""
    f, p, _ = compression
    return latent_shape(frames, height, width, channels, (f, p, p))


def shape_other_defaults(frames, height, width, channels=4, compression=(4, 4, 4)):
    return latent_shape(frames, height, width, channels, compression)


# ---------------------------------------------------------------- wrong: causal_padding


def padding_of_three(x, kernel):
    return causal_padding(x, 3)


def padding_cut(x, kernel):
    return causal_padding(x, kernel)[:, :, : x.shape[2]]


def padding_first_sample(x, kernel):
    first = x[:1, :, :1].expand(len(x), -1, kernel - 1, -1, -1)
    return torch.cat([first, x], dim=2)


def padding_faded(x, kernel):
    """Fades the first frame in."""
    ramp = torch.linspace(0, 1, kernel).to(x)[:-1, None, None]
    return torch.cat([x[:, :, :1] * ramp, x], dim=2)


def padding_each_frame(x, kernel):
    return x.repeat_interleave(kernel, dim=2)[:, :, -(x.shape[2] + kernel - 1) :]


def padding_grey(x, kernel):
    """Takes the mean of the first frame."""
    grey = reduce(x[:, :, :1], "b c 1 h w -> b c 1 1 1", "mean").expand_as(x[:, :, :1])
    return torch.cat([grey] * (kernel - 1) + [x], dim=2)


def padding_all_detached(x, kernel):
    return causal_padding(x.detach(), kernel)


def padding_in_place(x, kernel):
    padded = causal_padding(x, kernel)
    with torch.no_grad():
        x[:, :, 0] = 0
    return padded


def padding_at_least_one(x, kernel):
    return causal_padding(x, max(kernel, 2))


def padding_odd_kernels(x, kernel):
    return causal_padding(x, kernel // 2 * 2 + 1)


def padding_extrapolated(x, kernel):
    """Goes on before the clip as it begins."""
    step = x[:, :, 1:2] - x[:, :, :1] if x.shape[2] > 1 else 0
    past = [x[:, :, :1] - i * step for i in range(kernel - 1, 0, -1)]
    return torch.cat([*past, x], dim=2)


def padding_rows(x, kernel):
    return F.pad(x, (0, 0, kernel - 1, 0, 0, 0), mode="replicate")


def padding_flipped(x, kernel):
    return causal_padding(x.flip(2), kernel).flip(2)


# ---------------------------------------------------------------- wrong: temporal_pool


def pool_start_forgotten(x, starts=False):
    return pool_frames(x, starts)


def pool_smoothed(x, starts=True):
    """Averages three frames around each that stays."""
    first, rest = x[:, :, :starts], x[:, :, starts:]
    if rest.shape[2] % 2:
        raise ValueError
    padded = torch.cat([rest, rest[:, :, -1:]], dim=2)
    pooled = (padded[:, :, 0:-1:2] + padded[:, :, 1::2] + padded[:, :, 2::2]) / 3
    return torch.cat([first, pooled], dim=2)


def pool_squares(x, starts=True):
    return pool_frames(x.square(), starts).sqrt()


def pool_space_too(x, starts=True):
    return F.avg_pool3d(pool_frames(x, starts), (1, 2, 2), ceil_mode=True)


def pool_floor(x, starts=True):
    """Never asks, and forgets the last frame."""
    first, rest = x[:, :, :starts], x[:, :, starts:]
    if rest.shape[2] < 2:
        return first
    return torch.cat([first, F.avg_pool3d(rest, (2, 1, 1))], dim=2)


def pool_first_halved(x, starts=True):
    if not starts:
        return pool_frames(x, starts)
    x = torch.cat([torch.zeros_like(x[:, :, :1]), x], dim=2)
    return pool_frames(x, False)


def pool_first_twice(x, starts=True):
    return torch.cat([x[:, :, :1], pool_frames(x, starts)], dim=2)


def pool_pairs_first(x, starts=True):
    """Puts the first frame at the end."""
    pooled = pool_frames(x, starts)
    return torch.cat([pooled[:, :, starts:], pooled[:, :, :starts]], dim=2)


def pool_type_error(x, starts=True):
    if (x.shape[2] - starts) % 2:
        raise TypeError("expected partners")
    return pool_frames(x, starts)


def pool_channels(x, starts=True):
    return pool_frames(x.transpose(1, 2), starts).transpose(1, 2)


def pool_no_grad(x, starts=True):
    with torch.no_grad():
        return pool_frames(x, starts)


def pool_weighted(x, starts=True):
    first, rest = x[:, :, :starts], x[:, :, starts:]
    if rest.shape[2] % 2:
        raise ValueError
    return torch.cat([first, 0.25 * rest[:, :, 0::2] + 0.75 * rest[:, :, 1::2]], dim=2)


def pool_never_an_image(x, starts=True):
    if x.shape[2] == 1:
        raise ValueError("an image cannot be pooled")
    return pool_frames(x, starts)


# ---------------------------------------------------------------- wrong: context_parallel


def halo_of_two(pieces, past):
    return extend_pieces(pieces, 2)


def halo_in_place(pieces, past):
    """Hands back the list it was given."""
    pieces[:] = extend_pieces(pieces, past)
    return pieces


def halo_for_two_ranks(pieces, past):
    return extend_pieces(pieces[:2], past)


def halo_over_one_rank(pieces, past):
    """Looks into the piece before, and no further: zeros."""
    extended = extend_pieces(pieces[:1], past)
    for before, piece in pairwise(pieces):
        halo = before[:, :, -past:]
        zeros = torch.zeros_like(halo[:, :, :1])
        missing = past - halo.shape[2]
        extended.append(torch.cat([zeros] * missing + [halo, piece], dim=2))
    return extended


def halo_backwards(pieces, past):
    """Sends to the rank before."""
    return [x.flip(2) for x in extend_pieces([p.flip(2) for p in pieces[::-1]], past)][::-1]


def halo_order_of_ranks(pieces, past):
    return extend_pieces(pieces, past)[::-1]


def halo_mean(pieces, past):
    extended = extend_pieces(pieces, past)
    means = [x[:, :, :past].mean(2, keepdim=True).expand(-1, -1, past, -1, -1) for x in extended]
    return [torch.cat([m, x[:, :, past:]], dim=2) for m, x in zip(means, extended, strict=True)]


def halo_piece_detached(pieces, past):
    clip = extend_pieces(pieces, past)
    return [torch.cat([x[:, :, :past], x[:, :, past:].detach()], dim=2) for x in clip]


def halo_all_detached(pieces, past):
    return extend_pieces([piece.detach() for piece in pieces], past)


def halo_equal_shares(pieces, past):
    """Shares the frames again, as equally as can be."""
    clip = torch.cat(pieces, dim=2)
    return extend_pieces(list(clip.tensor_split(len(pieces), dim=2)), past)


def halo_of_whole_clip(pieces, past):
    """Gives each piece all that stands before it."""
    clip = causal_padding(torch.cat(pieces, dim=2), past + 1)
    ends = torch.tensor([piece.shape[2] for piece in pieces]).cumsum(0).tolist()
    return [clip[:, :, : past + end] for end in ends]


def halo_halved(pieces, past):
    """Adds and averages what should stand side by side."""
    extended = extend_pieces(pieces, past)
    for whole in extended[1:]:
        whole[:, :, :past] *= 0.5
    return extended


def halo_overwritten(pieces, past):
    """Puts the halo in the place of a piece's own first frames."""
    return [x[:, :, : -min(past, x.shape[2])] for x in extend_pieces(pieces, past)]


def halo_nested(pieces, past):
    return [(x[:, :, :past], x[:, :, past:]) for x in extend_pieces(pieces, past)]


# ---------------------------------------------------------------- wrong: patchify


def patches_overlapping(latents, patch):
    frames = rearrange(latents, "b t c h w -> (b t) c h w")
    cut = F.unfold(frames, patch, stride=max(patch // 2, 1))
    return rearrange(cut, "(b t) d n -> b (t n) d", b=len(latents))


def patches_averaged(latents, patch):
    return reduce(latents, "b t c (h p) (w q) -> b (t h w) c", "mean", p=patch, q=patch)


def patches_of_two(latents, patch):
    return patchify(latents, 2)


def patches_frames_backwards(latents, patch):
    return patchify(latents.flip(1), patch)


def patches_first_sample(latents, patch):
    return patchify(latents[:1], patch).expand(len(latents), -1, -1)


def patches_sequence_first(latents, patch):
    return patchify(latents, patch).transpose(0, 1)


def patches_one_sequence(latents, patch):
    return patchify(latents, patch).flatten(0, 1)


def patches_single(latents, patch):
    return patchify(latents, patch).float()


def patches_serpentine(latents, patch):
    """Turns round at the end of every row."""
    x = rearrange(latents, "b t c (h p) (w q) -> b t h w (c p q)", p=patch, q=patch).clone()
    x[:, :, 1::2] = x[:, :, 1::2].flip(3)
    return x.flatten(1, 3)


def patches_of_chunks(latents, patch):
    """Cuts into `patch` parts, not into parts of `patch`."""
    return rearrange(latents, "b t c (p h) (q w) -> b (t p q) (c h w)", p=patch, q=patch)


def patches_columns_of_strides(latents, patch):
    return rearrange(latents, "b t c (h p) (q w) -> b (t h w) (c p q)", p=patch, q=patch)


def patches_time_fastest(latents, patch):
    return rearrange(latents, "b t c (h p) (w q) -> b (h t w) (c p q)", p=patch, q=patch)


# ---------------------------------------------------------------- wrong: rope_angles


def angles_with(theta=10_000.0, shares=(2, 3, 3), exponent=lambda m: torch.arange(0, m, 2) / m):
    """Build rope_angles with another base, other shares or another exponent."""

    def answer(positions, width):
        parts = [
            positions[..., axis, None] * theta ** -exponent(share * width // 8)
            for axis, share in enumerate(shares)
        ]
        return torch.cat(parts, dim=-1)

    return answer


def angles_of_time_alone(positions, width):
    m = torch.arange(0, width, 2) / width
    return positions[..., :1] * 10_000**-m


def angles_added(positions, width):
    m = torch.arange(0, width, 2) / width
    return positions.sum(-1, keepdim=True) * 10_000**-m


def angles_interleaved(positions, width):
    """Deals the axes out in turn."""
    m = torch.arange(0, width, 2) / width
    return positions.repeat(*[1] * (positions.ndim - 1), width)[..., : width // 2] * 10_000**-m


def angles_centred(positions, width):
    return rope_angles_3d(positions - positions.flatten(0, -2).mean(0), width)


def angles_from_one(positions, width):
    return rope_angles_3d(positions + 1, width)


def angles_scaled(positions, width):
    """Brings positions to 0 ... 1."""
    return rope_angles_3d(positions / positions.abs().max(), width)


def angles_absolute(positions, width):
    return rope_angles_3d(positions.abs(), width)


def angles_of_64(positions, width):
    return rope_angles_3d(positions, 64)


def angles_transposed(positions, width):
    """Takes the first axis for t, h, w."""
    return rope_angles_3d(positions.transpose(0, -1), width)


def angles_reversed(positions, width):
    return rope_angles_3d(positions, width).flip(-1)


def angles_complex(positions, width):
    angles = rope_angles_3d(positions, width)
    return torch.polar(torch.ones_like(angles), angles)


def angles_truncated(positions, width):
    return rope_angles_3d(positions.trunc(), width)


def angles_flat(positions, width):
    return rope_angles_3d(positions.reshape(-1, 3), width)


# ---------------------------------------------------------------- wrong: rotate


def rotate_not(x, angles):
    return x + 0 * angles.sum()


def rotate_first_head(x, angles):
    return torch.cat([rotate(x, angles)[:, :, :1], x[:, :, 1:]], dim=2)


def rotate_backwards(x, angles):
    """Gives the tokens the angles of the others, last first."""
    return rotate(x, angles.flip(-2))


def rotate_added(x, angles):
    """Adds sines and cosines, as a table of positions is."""
    table = torch.stack([angles.cos(), angles.sin()], dim=-1).flatten(-2)
    return x + table[..., None, :]


def rotate_in_place(x, angles):
    with torch.no_grad():
        x[..., 0::2] *= angles[..., None, :].cos()
    return rotate(x, angles)


def rotate_normalized(x, angles):
    turned = rotate(x, angles)
    return turned / turned.norm(dim=-1, keepdim=True) * math.sqrt(x.shape[-1])


def rotate_first_pair(x, angles):
    return torch.cat([rotate(x[..., :2], angles[..., :1]), x[..., 2:]], dim=-1)


def rotate_first_angle(x, angles):
    return rotate(x, angles[..., :1].expand(angles.shape))


def rotate_each_head_further(x, angles):
    heads = torch.arange(1, x.shape[2] + 1).to(x)
    turned = [rotate(x[:, :, i : i + 1], angles * n) for i, n in enumerate(heads)]
    return torch.cat(turned, dim=2)


def rotate_heads_for_tokens(x, angles):
    return rotate(x.transpose(1, 2), angles[..., : x.shape[2], :]).transpose(1, 2)


def rotate_sines_detached(x, angles):
    even, odd = x[..., 0::2], x[..., 1::2]
    cos, sin = angles[..., None, :].cos(), angles[..., None, :].sin()
    turned = [even * cos - odd.detach() * sin, even.detach() * sin + odd * cos]
    return torch.stack(turned, dim=-1).flatten(-2)


def rotate_wrong_sine(x, angles):
    """Takes the sine's size from the cosine."""
    even, odd = x[..., 0::2], x[..., 1::2]
    cos = angles[..., None, :].cos()
    sin = (1 - cos**2).clamp(min=0).sqrt()
    turned = [even * cos - odd * sin, even * sin + odd * cos]
    return torch.stack(turned, dim=-1).flatten(-2)


def rotate_complex(x, angles):
    turns = torch.polar(torch.ones_like(angles), angles)[..., None, :]
    return torch.view_as_complex(x.unflatten(-1, (-1, 2))) * turns


def rotate_single(x, angles):
    return rotate(x.float(), angles.float())


WRONG = {
    "cogvideox.latent_shape": {
        "named": shape_of(lambda t, c, h, w: {"t": t, "c": c, "h": h, "w": w}),
        "tokens": shape_of(lambda t, c, h, w: t * h * w),
        "as_tensor": shape_of(lambda t, c, h, w: torch.tensor([t, c, h, w])),
        "with_a_batch": shape_of(lambda t, c, h, w: (1, t, c, h, w)),
        "channels_last": shape_of(lambda t, c, h, w: (t, h, w, c)),
        "one_more": shape_of(lambda t, c, h, w: (t + 1, c, h, w)),
        "never_an_image": shape_of(lambda t, c, h, w: (max(t, 2), c, h, w)),
        "square_frames": shape_of(lambda t, c, h, w: (t, c, h, h)),
        "asserted": shape_asserted,
        "or_none": shape_or_none,
        "area_checked": shape_area_checked,
        "rounded": shape_rounded,
        "fractions": shape_fractions,
        "square": shape_square,
        "other_defaults": shape_other_defaults,
    },
    "cogvideox.causal_padding": {
        "of_three": padding_of_three,
        "cut": padding_cut,
        "first_sample": padding_first_sample,
        "faded": padding_faded,
        "each_frame": padding_each_frame,
        "grey": padding_grey,
        "all_detached": padding_all_detached,
        "in_place": padding_in_place,
        "at_least_one": padding_at_least_one,
        "odd_kernels": padding_odd_kernels,
        "extrapolated": padding_extrapolated,
        "rows": padding_rows,
        "flipped": padding_flipped,
    },
    "cogvideox.temporal_pool": {
        "start_forgotten": pool_start_forgotten,
        "smoothed": pool_smoothed,
        "squares": pool_squares,
        "space_too": pool_space_too,
        "floor": pool_floor,
        "first_halved": pool_first_halved,
        "first_twice": pool_first_twice,
        "pairs_first": pool_pairs_first,
        "type_error": pool_type_error,
        "channels": pool_channels,
        "no_grad": pool_no_grad,
        "weighted": pool_weighted,
        "never_an_image": pool_never_an_image,
    },
    "cogvideox.context_parallel": {
        "of_two": halo_of_two,
        "in_place": halo_in_place,
        "for_two_ranks": halo_for_two_ranks,
        "over_one_rank": halo_over_one_rank,
        "backwards": halo_backwards,
        "order_of_ranks": halo_order_of_ranks,
        "mean": halo_mean,
        "piece_detached": halo_piece_detached,
        "all_detached": halo_all_detached,
        "equal_shares": halo_equal_shares,
        "of_whole_clip": halo_of_whole_clip,
        "halved": halo_halved,
        "overwritten": halo_overwritten,
        "nested": halo_nested,
    },
    "cogvideox.patchify": {
        "overlapping": patches_overlapping,
        "averaged": patches_averaged,
        "of_two": patches_of_two,
        "frames_backwards": patches_frames_backwards,
        "first_sample": patches_first_sample,
        "sequence_first": patches_sequence_first,
        "one_sequence": patches_one_sequence,
        "single": patches_single,
        "serpentine": patches_serpentine,
        "of_chunks": patches_of_chunks,
        "columns_of_strides": patches_columns_of_strides,
        "time_fastest": patches_time_fastest,
    },
    "cogvideox.rope_angles": {
        "base_1000": angles_with(theta=1000.0),
        "base_of_llama_3": angles_with(theta=500_000.0),
        "shares_of_the_whole": angles_with(shares=(4, 2, 2)),
        "not_over_m": angles_with(exponent=lambda m: torch.arange(0, m, 2) / 10),
        "half_pairs": angles_with(exponent=lambda m: torch.arange(0, m, 4) / m),
        "of_time_alone": angles_of_time_alone,
        "added": angles_added,
        "interleaved": angles_interleaved,
        "centred": angles_centred,
        "from_one": angles_from_one,
        "scaled": angles_scaled,
        "absolute": angles_absolute,
        "of_64": angles_of_64,
        "transposed": angles_transposed,
        "reversed": angles_reversed,
        "complex": angles_complex,
        "truncated": angles_truncated,
        "flat": angles_flat,
    },
    "cogvideox.rotate": {
        "not_at_all": rotate_not,
        "first_head": rotate_first_head,
        "backwards": rotate_backwards,
        "added": rotate_added,
        "in_place": rotate_in_place,
        "normalized": rotate_normalized,
        "first_pair": rotate_first_pair,
        "first_angle": rotate_first_angle,
        "each_head_further": rotate_each_head_further,
        "heads_for_tokens": rotate_heads_for_tokens,
        "sines_detached": rotate_sines_detached,
        "wrong_sine": rotate_wrong_sine,
        "complex": rotate_complex,
        "single": rotate_single,
    },
}


# ---------------------------------------------------------------- right


def shape_by_divmod(frames, height, width, channels=16, compression=(4, 8, 8)):
    moving, left = divmod(frames - 1, compression[0])
    h, below = divmod(height, compression[1])
    w, right = divmod(width, compression[2])
    if frames <= 0 or left or below or right:
        raise ValueError("does not fit")
    return moving + 1, channels, h, w


def shape_by_rounding_up(frames, height, width, channels=16, compression=(4, 8, 8)):
    f, *sides = compression
    if frames % f != 1 % f or not frames:
        raise ValueError(frames)
    latents = [-(-frames // f), channels]
    for length, side in zip((height, width), sides, strict=True):
        if length % side != 0:
            raise ValueError(length)
        latents.append(length // side)
    return latents


def shape_by_counting(frames, height, width, channels=16, compression=(4, 8, 8)):
    f, p, q = compression
    firsts = list(range(1, frames, f))
    if frames == 0 or (frames - 1) != len(firsts) * f:
        raise ValueError("frames")
    if height / p != height // p or width / q != width // q:
        raise ValueError("sides")
    return torch.Size([1 + len(firsts), channels, int(height / p), int(width / q)])


def padding_by_pad(x, kernel):
    return F.pad(x, (0, 0, 0, 0, kernel - 1, 0), mode="replicate")


def padding_by_places(x, kernel):
    return x[:, :, torch.arange(1 - kernel, x.shape[2]).clamp(min=0)]


def padding_by_repeat(x, kernel):
    return torch.cat([repeat(x[:, :, 0], "b c h w -> b c t h w", t=kernel - 1), x], dim=2)


def padding_by_loop(x, kernel):
    for _ in range(kernel - 1):
        x = torch.cat([x[:, :, :1], x], dim=2)
    return x


def pool_by_einops(x, starts=True):
    alone = int(starts)
    if (x.shape[2] - alone) % 2:
        raise ValueError("a frame without a partner")
    pooled = reduce(x[:, :, alone:], "b c (t two) h w -> b c t h w", "mean", two=2)
    return torch.cat([x[:, :, :alone], pooled], dim=2)


def pool_by_avg_pool(x, starts=True):
    if x.shape[2] % 2 != starts:
        raise ValueError("a frame without a partner")
    if not starts:
        return F.avg_pool3d(x, (2, 1, 1))
    if x.shape[2] == 1:
        return x
    return torch.cat([x[:, :, :1], F.avg_pool3d(x[:, :, 1:], (2, 1, 1))], dim=2)


def pool_by_copy_of_the_first(x, starts=True):
    """Gives the first frame itself as a partner."""
    if starts:
        x = torch.cat([x[:, :, :1], x], dim=2)
    if x.shape[2] % 2 == 1:
        raise ValueError("a frame without a partner")
    return x.unflatten(2, (-1, 2)).mean(3)


def halo_by_the_clip(pieces, past):
    """Cuts the whole, padded clip."""
    clip = causal_padding(torch.cat(pieces, dim=2), past + 1)
    extended, start = [], 0
    for piece in pieces:
        extended.append(clip[:, :, start : start + past + piece.shape[2]])
        start += piece.shape[2]
    return extended


def halo_by_unfolding(pieces, past):
    lengths = [past + piece.shape[2] for piece in pieces]
    first = pieces[0].narrow(2, 0, 1).expand(-1, -1, past, -1, -1)
    wholes = [torch.cat([first, pieces[0]], dim=2)]
    for piece in pieces[1:]:
        wholes.append(torch.cat([wholes[-1], piece], dim=2))
    return tuple(whole[:, :, -length:] for whole, length in zip(wholes, lengths, strict=True))


def halo_by_looking_back(pieces, past):
    """Goes back from rank to rank until enough frames are together."""
    extended = []
    for rank, piece in enumerate(pieces):
        halo = []
        for before in pieces[:rank][::-1]:
            frames = list(before.unbind(2))[::-1]
            halo += frames[: past - len(halo)]
        halo += [pieces[0][:, :, 0]] * (past - len(halo))
        extended.append(torch.cat([torch.stack(halo[::-1], dim=2), piece], dim=2))
    return extended


def patches_by_unfold(latents, patch):
    frames = latents.flatten(0, 1)
    tokens = F.unfold(frames, patch, stride=patch).mT
    return tokens.reshape(len(latents), -1, tokens.shape[-1])


def patches_by_shuffle(latents, patch):
    cut = F.pixel_unshuffle(latents, patch)
    return rearrange(cut, "b t c h w -> b (t h w) c")


def patches_by_reshape(latents, patch):
    b, t, c, h, w = latents.shape
    x = latents.reshape(b, t, c, h // patch, patch, w // patch, patch)
    return x.permute(0, 1, 3, 5, 2, 4, 6).reshape(b, -1, c * patch**2)


def angles_in_a_loop(positions, width):
    columns = []
    for axis, eighths in ((0, 2), (1, 3), (2, 3)):
        m = eighths * width // 8
        columns += [positions[..., axis] / 10_000 ** (2 * i / m) for i in range(m // 2)]
    return torch.stack(columns, dim=-1)


def angles_by_logarithms(positions, width):
    t, h, w = positions.unbind(-1)
    parts = []
    for place, m in ((t, width // 4), (h, 3 * width // 8), (w, 3 * width // 8)):
        frequencies = torch.exp(torch.arange(m // 2) * (-2 * math.log(10_000) / m))
        parts.append(torch.einsum("...,f->...f", place, frequencies))
    return torch.cat(parts, dim=-1)


def angles_by_one_table(positions, width):
    """Chooses an axis and a frequency for each pair."""
    sizes = [width // 8, 3 * width // 16, 3 * width // 16]
    axis = torch.arange(3).repeat_interleave(torch.tensor(sizes))
    i = torch.cat([torch.arange(size) / size for size in sizes])
    return positions[..., axis] * (1e-4) ** i


def rotate_by_partners(x, angles):
    cos, sin = (y.repeat_interleave(2, dim=-1)[..., None, :] for y in (angles.cos(), angles.sin()))
    even, odd = x.unflatten(-1, (-1, 2)).unbind(-1)
    return x * cos + torch.stack([-odd, even], dim=-1).flatten(-2) * sin


def rotate_by_matrices(x, angles):
    cos, sin = angles.cos(), angles.sin()
    turns = torch.stack([torch.stack([cos, -sin], -1), torch.stack([sin, cos], -1)], -2)
    pairs = rearrange(x, "b n heads (d two) -> b n heads d two", two=2)
    turned = torch.einsum("...ndij,...nhdj->...nhdi", turns, pairs)
    return rearrange(turned, "b n heads d two -> b n heads (d two)")


def rotate_in_polar(x, angles):
    """Adds to the angle that a pair has already."""
    even, odd = x[..., 0::2], x[..., 1::2]
    length = torch.hypot(even, odd)
    angle = torch.atan2(odd, even) + angles.unsqueeze(-2)
    return torch.stack([length * angle.cos(), length * angle.sin()], dim=-1).flatten(-2)


RIGHT = {
    "cogvideox.latent_shape": {
        "by_divmod": shape_by_divmod,
        "by_rounding_up": shape_by_rounding_up,
        "by_counting": shape_by_counting,
    },
    "cogvideox.causal_padding": {
        "by_pad": padding_by_pad,
        "by_places": padding_by_places,
        "by_repeat": padding_by_repeat,
        "by_loop": padding_by_loop,
    },
    "cogvideox.temporal_pool": {
        "by_einops": pool_by_einops,
        "by_avg_pool": pool_by_avg_pool,
        "by_copy_of_the_first": pool_by_copy_of_the_first,
    },
    "cogvideox.context_parallel": {
        "by_the_clip": halo_by_the_clip,
        "by_unfolding": halo_by_unfolding,
        "by_looking_back": halo_by_looking_back,
    },
    "cogvideox.patchify": {
        "by_unfold": patches_by_unfold,
        "by_shuffle": patches_by_shuffle,
        "by_reshape": patches_by_reshape,
    },
    "cogvideox.rope_angles": {
        "in_a_loop": angles_in_a_loop,
        "by_logarithms": angles_by_logarithms,
        "by_one_table": angles_by_one_table,
    },
    "cogvideox.rotate": {
        "by_partners": rotate_by_partners,
        "by_matrices": rotate_by_matrices,
        "in_polar": rotate_in_polar,
    },
}
