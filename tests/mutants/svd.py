"""Notebook 08, second half: more wrong answers, and right ones written differently."""

import math
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from einops import rearrange, repeat

from course_lib.curation import cuts
from course_lib.diffusion import edm
from course_lib.metrics import elo
from course_lib.nn.embeddings import timestep_embedding
from course_lib.papers import svd
from course_lib.papers.ldm import cross_attention

# ---------------------------------------------------------------- wrong


def changed(place, change):
    """Build precondition with one factor changed."""

    def answer(sigma):
        factors = list(edm.precondition(sigma))
        factors[place] = change(factors[place], sigma)
        return tuple(factors)

    return answer


def levels_of_one(normal, p_mean, p_std):
    """Gives the whole batch one level."""
    return (p_mean + p_std * normal[:1]).exp().expand_as(normal)


def levels_clamped(normal, p_mean, p_std):
    return edm.noise_levels(normal, p_mean, p_std).clamp(0.002, 80)


def levels_redrawn(normal, p_mean, p_std):
    return edm.noise_levels(torch.randn_like(normal), p_mean, p_std)


def levels_absolute(normal, p_mean, p_std):
    return edm.noise_levels(normal.abs(), p_mean, p_std)


def levels_softplus(normal, p_mean, p_std):
    return F.softplus(p_mean + p_std * normal)


def levels_log1p(normal, p_mean, p_std):
    return (p_mean + p_std * normal).expm1()


def levels_negative(normal, p_mean, p_std):
    return edm.noise_levels(-normal, p_mean, p_std)


def levels_single(normal, p_mean, p_std):
    return edm.noise_levels(normal.float(), p_mean, p_std)


def karras_of_seven(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return edm.karras_sigmas(steps, sigma_min, sigma_max, 7.0)


def karras_own_range(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return edm.karras_sigmas(steps, 0.002, 700.0, rho)


def karras_of_edm(steps, sigma_min=0.002, sigma_max=80.0, rho=7.0):
    """Has EDM's highest level for its default."""
    return edm.karras_sigmas(steps, sigma_min, sigma_max, rho)


def karras_two_zeros(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return F.pad(edm.karras_sigmas(steps, sigma_min, sigma_max, rho), (0, 1))


def karras_min_at_the_end(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    sigmas = edm.karras_sigmas(steps, sigma_min, sigma_max, rho)
    sigmas[-1] = sigma_min
    return sigmas


def karras_root_of_the_ends(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    """Takes the root of the difference."""
    i = torch.arange(steps, dtype=torch.float64) / max(steps - 1, 1)
    sigmas = (sigma_max ** (1 / rho) - i * (sigma_max - sigma_min) ** (1 / rho)).clamp(min=0) ** rho
    return F.pad(sigmas, (0, 1))


def karras_list(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return edm.karras_sigmas(steps, sigma_min, sigma_max, rho).tolist()


def karras_rounded(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    return edm.karras_sigmas(steps, sigma_min, sigma_max, rho).round(decimals=3)


def euler_heun(x, denoised, sigma, sigma_next):
    """Uses the middle of the two levels below the line."""
    return x + (sigma_next - sigma) * (x - denoised) / ((sigma + sigma_next) / 2)


def euler_squared(x, denoised, sigma, sigma_next):
    return denoised + (sigma_next / sigma) ** 2 * (x - denoised)


def euler_in_place(x, denoised, sigma, sigma_next):
    x += (sigma_next - sigma) * (x - denoised) / sigma
    return x


def euler_first_level(x, denoised, sigma, sigma_next):
    sigma, sigma_next = (s.flatten()[0] for s in (sigma, sigma_next))
    return x + (sigma_next - sigma) * (x - denoised) / sigma


def euler_clamped(x, denoised, sigma, sigma_next):
    """Refuses to go up."""
    return x + (sigma_next - sigma).clamp(max=0) * (x - denoised) / sigma


def euler_of_variances(x, denoised, sigma, sigma_next):
    return x + (sigma_next**2 - sigma**2) * (x - denoised) / sigma**2


def euler_interpolated(x, denoised, sigma, sigma_next):
    return torch.lerp(x, denoised, sigma_next / sigma)


def euler_double(x, denoised, sigma, sigma_next):
    return edm.euler_step(x.double(), denoised.double(), sigma, sigma_next)


def temporal_causal(q, k, v, heads):
    b = len(q)
    q, k, v = (rearrange(x, "b t n (h d) -> (b n) h t d", h=heads) for x in (q, k, v))
    h = F.scaled_dot_product_attention(q, k, v, is_causal=True)
    return rearrange(h, "(b n) h t d -> b t n (h d)", b=b)


def temporal_summed(q, k, v, heads):
    return q + svd.temporal_attention(q, k, v, heads)


def temporal_interleaved(q, k, v, heads):
    q, k, v = (rearrange(x, "b t n (d h) -> b t n (h d)", h=heads) for x in (q, k, v))
    h = svd.temporal_attention(q, k, v, heads)
    return rearrange(h, "b t n (h d) -> b t n (d h)", h=heads)


def temporal_not_scaled(q, k, v, heads):
    return svd.temporal_attention(q * (q.shape[-1] // heads) ** 0.5, k, v, heads)


def temporal_whole_width(q, k, v, heads):
    return svd.temporal_attention(q * heads**-0.5, k, v, heads)


def temporal_softmax_over_queries(q, k, v, heads):
    q, k, v = (rearrange(x, "b t n (h d) -> b n h t d", h=heads) for x in (q, k, v))
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).softmax(-2)
    return rearrange(weights @ v, "b n h t d -> b t n (h d)")


def temporal_reversed(q, k, v, heads):
    return svd.temporal_attention(q, k, v, heads).flip(1)


def temporal_neighbours(q, k, v, heads):
    b, t = q.shape[:2]
    near = torch.ones(t, t, dtype=torch.bool).tril(1).triu(-1)
    q, k, v = (rearrange(x, "b t n (h d) -> (b n) h t d", h=heads) for x in (q, k, v))
    h = F.scaled_dot_product_attention(q, k, v, near)
    return rearrange(h, "(b n) h t d -> b t n (h d)", b=b)


def blend_number(spatial, temporal, mix):
    alpha = 1 / (1 + math.exp(-mix.item()))
    return alpha * spatial + (1 - alpha) * temporal


def blend_softmax_of_both(spatial, temporal, mix):
    alpha = (mix / (mix.abs() + 1) + 1) / 2
    return alpha * spatial + (1 - alpha) * temporal


def blend_residual(spatial, temporal, mix):
    return spatial + svd.blend(spatial, temporal, mix)


def blend_geometric(spatial, temporal, mix):
    alpha = mix.sigmoid()
    return alpha.sqrt() * spatial + (1 - alpha).sqrt() * temporal


def blend_clamped(spatial, temporal, mix):
    alpha = mix.clamp(0, 1)
    return alpha * spatial + (1 - alpha) * temporal


def blend_twice(spatial, temporal, mix):
    return svd.blend(spatial, temporal, mix.sigmoid())


def blend_spatial_detached(spatial, temporal, mix):
    return svd.blend(spatial.detach(), temporal, mix)


def blend_at_the_start(spatial, temporal, mix):
    return svd.blend(spatial, temporal, 0 * mix + 0.5)


def micro_sines_first(fps, motion_bucket, augmentation, width=256):
    rows = []
    for value in (fps, motion_bucket, augmentation):
        cos, sin = timestep_embedding(value, width).chunk(2, dim=1)
        rows += [sin, cos]
    return torch.cat(rows, dim=1)


def micro_fixed_width(fps, motion_bucket, augmentation, width=256):
    return svd.micro_conditioning(fps, motion_bucket, augmentation, 256)


def micro_two(fps, motion_bucket, augmentation, width=256):
    return svd.micro_conditioning(fps, motion_bucket, augmentation, width)[:, : 2 * width]


def micro_other_default(fps, motion_bucket, augmentation, width=320):
    return svd.micro_conditioning(fps, motion_bucket, augmentation, width)


def micro_first_sample(fps, motion_bucket, augmentation, width=256):
    values = (x[:1].expand_as(x) for x in (fps, motion_bucket, augmentation))
    return svd.micro_conditioning(*values, width)


def micro_whole_numbers(fps, motion_bucket, augmentation, width=256):
    return svd.micro_conditioning(fps.round(), motion_bucket.round(), augmentation, width)


def micro_percent(fps, motion_bucket, augmentation, width=256):
    return svd.micro_conditioning(fps, motion_bucket, 1000 * augmentation, width)


def micro_one_row(fps, motion_bucket, augmentation, width=256):
    return svd.micro_conditioning(fps, motion_bucket, augmentation, width).flatten()


def ramp_whole(frames, first, last):
    return torch.linspace(first, last, frames).round()


def ramp_squared(frames, first, last):
    return first + (last - first) * torch.linspace(0, 1, frames) ** 2


def ramp_cosine(frames, first, last):
    share = (1 - torch.cos(math.pi * torch.linspace(0, 1, frames))) / 2
    return first + (last - first) * share


def ramp_of_steps(frames, first, last):
    """Has a value for each of 25 sampling steps."""
    return torch.linspace(first, last, 25)


def ramp_by_frame_number(frames, first, last):
    return first + torch.arange(frames) * last / frames


def ramp_double(frames, first, last):
    return torch.linspace(first, last, frames, dtype=torch.float64)


def ramp_shaped(frames, first, last):
    return torch.linspace(first, last, frames)[:, None, None, None]


def ramp_sorted(frames, first, last):
    return torch.linspace(first, last, frames).sort().values


def cuts_late(clip, ratio=3.0, least=8.0, window=2):
    return [cut + 1 for cut in cuts.find_cuts(clip, ratio, least, window)]


def cuts_maximum(clip, ratio=3.0, least=8.0, window=2):
    distance = cuts.frame_distances(clip)
    found = []
    for i in range(len(distance)):
        around = torch.cat([distance[max(0, i - window) : i], distance[i + 1 : i + 1 + window]])
        usual = around.max() if len(around) else 0
        if distance[i] >= least and distance[i] >= ratio * usual:
            found.append(i + 1)
    return found


def cuts_zeros_outside(clip, ratio=3.0, least=8.0, window=2):
    """Divides by the whole window at the ends, too."""
    distance = cuts.frame_distances(clip)
    padded = F.pad(distance, (window, window))
    found = []
    for i in range(len(distance)):
        usual = (padded[i : i + 2 * window + 1].sum() - distance[i]) / (2 * window)
        if distance[i] >= least and distance[i] >= ratio * usual:
            found.append(i + 1)
    return found


def cuts_as_mask(clip, ratio=3.0, least=8.0, window=2):
    found = cuts.find_cuts(clip, ratio, least, window)
    return [frame in found for frame in range(len(clip))]


def cuts_as_tensor(clip, ratio=3.0, least=8.0, window=2):
    return torch.tensor(cuts.find_cuts(clip, ratio, least, window), dtype=torch.long)


def cuts_first(clip, ratio=3.0, least=8.0, window=2):
    return cuts.find_cuts(clip, ratio, least, window)[:1]


def cuts_own_settings(clip, ratio=3.0, least=8.0, window=2):
    return cuts.find_cuts(clip)


def cuts_not_at_the_ends(clip, ratio=3.0, least=8.0, window=2):
    found = cuts.find_cuts(clip, ratio, least, window)
    return [cut for cut in found if window < cut < len(clip) - window]


def cuts_apart(clip, ratio=3.0, least=8.0, window=2):
    """Finds no cut next to another."""
    kept = []
    for cut in cuts.find_cuts(clip, ratio, least, window):
        if not kept or cut - kept[-1] > 1:
            kept.append(cut)
    return kept


def cuts_added_ratio(clip, ratio=3.0, least=8.0, window=2):
    distance = cuts.frame_distances(clip)
    found = []
    for i in range(len(distance)):
        around = torch.cat([distance[max(0, i - window) : i], distance[i + 1 : i + 1 + window]])
        if distance[i] >= least + ratio * around.mean().nan_to_num():
            found.append(i + 1)
    return found


def elo_by(update):
    """Build ratings with another update(ratings, first, second, score)."""

    def answer(votes, players):
        rows = []
        for order in votes:
            ratings = torch.full((players,), 1000.0, dtype=votes.dtype)
            for first, second, score in order.tolist():
                update(ratings, int(first), int(second), score)
            rows.append(ratings)
        return torch.stack(rows)

    return answer


def expected(ratings, first, second):
    return 1 / (1 + 10 ** ((float(ratings[second]) - float(ratings[first])) / 400))


def update_second_by_new_rating(ratings, first, second, score):
    """Expects anew for the other player, after the first one's rating has changed."""
    ratings[first] += score - expected(ratings, first, second)
    ratings[second] += (1 - score) - expected(ratings, second, first)


def update_of_800(ratings, first, second, score):
    gain = score - 1 / (1 + 10 ** ((float(ratings[second]) - float(ratings[first])) / 800))
    ratings[first] += gain
    ratings[second] -= gain


def update_linear(ratings, first, second, score):
    gain = score - (0.5 + (float(ratings[first]) - float(ratings[second])) / 1600)
    ratings[first] += gain
    ratings[second] -= gain


def update_half(ratings, first, second, score):
    gain = (score - expected(ratings, first, second)) / 2
    ratings[first] += gain
    ratings[second] -= gain


def update_players_swapped(ratings, first, second, score):
    gain = score - expected(ratings, second, first)
    ratings[second] += gain
    ratings[first] -= gain


def update_base_two(ratings, first, second, score):
    gain = score - 1 / (1 + 2 ** ((float(ratings[second]) - float(ratings[first])) / 400))
    ratings[first] += gain
    ratings[second] -= gain


def elo_backwards(votes, players):
    return elo.play(votes.flip(1), players)


def elo_centred(votes, players):
    return elo.play(votes, players) - 1000


def elo_by_differences(votes, players):
    ratings = elo.play(votes, players)
    return ratings - ratings[:, :1]


def elo_single(votes, players):
    return elo.play(votes.float(), players)


def elo_mean(votes, players):
    return elo.play(votes, players).mean(0)


def video(network, noise, embedding, latent, vector, scale, sigmas, *, change):
    """Change the arguments before sampling."""
    given = {
        "network": network,
        "noise": noise,
        "embedding": embedding,
        "latent": latent,
        "vector": vector,
        "scale": scale,
        "sigmas": sigmas,
    }
    return svd.image_to_video(**{**given, **change(given)})


def video_with(change):
    """Build image_to_video on changed arguments."""

    def answer(network, noise, embedding, latent, vector, scale, sigmas):
        return video(network, noise, embedding, latent, vector, scale, sigmas, change=change)

    return answer


def video_last_frame(network, noise, embedding, latent, vector, scale, sigmas):
    """Puts the image beside the last frame."""
    frames = noise.shape[1]
    clip = F.pad(latent[:, None], (0, 0, 0, 0, 0, 0, frames - 1, 0))
    condition = svd.Condition(embedding[:, None], vector, clip)
    return svd.sample(network, noise, condition, condition.without(), scale, sigmas)


def video_tokens_of_frames(network, noise, embedding, latent, vector, scale, sigmas):
    """Gives every frame a token of the context."""
    frames = noise.shape[1]
    context = repeat(embedding, "b d -> b t d", t=frames)
    clip = repeat(latent, "b c h w -> b t c h w", t=frames)
    condition = svd.Condition(context, vector, clip)
    return svd.sample(network, noise, condition, condition.without(), scale, sigmas)


def video_guided_v_of_step(network, noise, embedding, latent, vector, scale, sigmas):
    """Lets the scale grow over the steps."""
    condition = svd.image_condition(embedding, latent, vector, noise.shape[1])
    x = noise * (1 + sigmas[0] ** 2).sqrt()
    for i, (sigma, sigma_next) in enumerate(pairwise(sigmas)):
        now = scale[min(i, len(scale) - 1)].expand_as(scale)
        denoised = svd.guided_denoiser(
            network, condition, condition.without(), now, x, sigma.float().expand(len(x))
        )
        x = edm.euler_step(x, denoised, sigma, sigma_next)
    return x


def video_time_of_one(network, noise, embedding, latent, vector, scale, sigmas):
    def told(x, t, context, vector):
        return network(x, t[0], context, vector)

    return svd.image_to_video(told, noise, embedding, latent, vector, scale, sigmas)


def video_noisy_image(network, noise, embedding, latent, vector, scale, sigmas):
    """Adds the start's noise to the image once more."""
    return svd.image_to_video(
        network, noise, embedding, latent + 0.02 * noise[:, 0], vector, scale, sigmas
    )


def video_denoised(network, noise, embedding, latent, vector, scale, sigmas):
    """Returns the first estimate."""
    condition = svd.image_condition(embedding, latent, vector, noise.shape[1])
    denoiser = partial(svd.guided_denoiser, network, condition, condition.without(), scale)
    return next(edm.euler_steps(denoiser, noise, sigmas))[1]


WRONG = {
    "svd.precondition": {
        "skip_one": changed(0, lambda c, sigma: torch.ones_like(c)),
        "skip_of_edm": changed(0, lambda c, sigma: 0.25 / (sigma**2 + 0.25)),
        "out_sigma": changed(1, lambda c, sigma: -sigma),
        "out_one": changed(1, lambda c, sigma: -torch.ones_like(c)),
        "in_one_over_sigma": changed(2, lambda c, sigma: 1 / sigma),
        "in_of_the_sum": changed(2, lambda c, sigma: 1 / (1 + sigma)),
        "noise_squared": changed(3, lambda c, sigma: (sigma**2).log() / 4),
        "noise_log1p": changed(3, lambda c, sigma: sigma.log1p() / 4),
        "noise_negative": changed(3, lambda c, sigma: -c),
        "noise_clamped": changed(3, lambda c, sigma: sigma.clamp(0.01, 100).log() / 4),
        "three": lambda sigma: tuple(edm.precondition(sigma))[:3],
        "stacked": lambda sigma: torch.stack(list(edm.precondition(sigma))),
    },
    "svd.noise_levels": {
        "of_one": levels_of_one,
        "clamped": levels_clamped,
        "redrawn": levels_redrawn,
        "absolute": levels_absolute,
        "softplus": levels_softplus,
        "log1p": levels_log1p,
        "negative": levels_negative,
        "single": levels_single,
    },
    "svd.karras_sigmas": {
        "of_seven": karras_of_seven,
        "own_range": karras_own_range,
        "of_edm": karras_of_edm,
        "two_zeros": karras_two_zeros,
        "min_at_the_end": karras_min_at_the_end,
        "root_of_the_ends": karras_root_of_the_ends,
        "list": karras_list,
        "rounded": karras_rounded,
    },
    "svd.euler_step": {
        "heun": euler_heun,
        "squared": euler_squared,
        "in_place": euler_in_place,
        "first_level": euler_first_level,
        "clamped": euler_clamped,
        "of_variances": euler_of_variances,
        "interpolated": euler_interpolated,
        "double": euler_double,
    },
    "svd.temporal_attention": {
        "causal": temporal_causal,
        "summed": temporal_summed,
        "interleaved": temporal_interleaved,
        "not_scaled": temporal_not_scaled,
        "whole_width": temporal_whole_width,
        "softmax_over_queries": temporal_softmax_over_queries,
        "reversed": temporal_reversed,
        "neighbours": temporal_neighbours,
    },
    "svd.blend": {
        "number": blend_number,
        "softmax_of_both": blend_softmax_of_both,
        "residual": blend_residual,
        "geometric": blend_geometric,
        "clamped": blend_clamped,
        "twice": blend_twice,
        "spatial_detached": blend_spatial_detached,
        "at_the_start": blend_at_the_start,
    },
    "svd.micro_conditioning": {
        "sines_first": micro_sines_first,
        "fixed_width": micro_fixed_width,
        "two": micro_two,
        "other_default": micro_other_default,
        "first_sample": micro_first_sample,
        "whole_numbers": micro_whole_numbers,
        "percent": micro_percent,
        "one_row": micro_one_row,
    },
    "svd.guidance_ramp": {
        "whole": ramp_whole,
        "squared": ramp_squared,
        "cosine": ramp_cosine,
        "of_steps": ramp_of_steps,
        "by_frame_number": ramp_by_frame_number,
        "double": ramp_double,
        "shaped": ramp_shaped,
        "sorted": ramp_sorted,
    },
    "svd.find_cuts": {
        "late": cuts_late,
        "maximum": cuts_maximum,
        "zeros_outside": cuts_zeros_outside,
        "as_mask": cuts_as_mask,
        "as_tensor": cuts_as_tensor,
        "first": cuts_first,
        "own_settings": cuts_own_settings,
        "not_at_the_ends": cuts_not_at_the_ends,
        "apart": cuts_apart,
        "added_ratio": cuts_added_ratio,
    },
    "svd.elo": {
        "second_by_new_rating": elo_by(update_second_by_new_rating),
        "of_800": elo_by(update_of_800),
        "linear": elo_by(update_linear),
        "half": elo_by(update_half),
        "players_swapped": elo_by(update_players_swapped),
        "base_two": elo_by(update_base_two),
        "backwards": elo_backwards,
        "centred": elo_centred,
        "by_differences": elo_by_differences,
        "single": elo_single,
        "mean": elo_mean,
    },
    "svd.image_to_video": {
        "last_frame": video_last_frame,
        "tokens_of_frames": video_tokens_of_frames,
        "scale_over_the_steps": video_guided_v_of_step,
        "time_of_one": video_time_of_one,
        "noisy_image": video_noisy_image,
        "first_estimate": video_denoised,
        "levels_reversed": video_with(lambda given: {"sigmas": given["sigmas"][:-1].flip(0)}),
        "one_less_step": video_with(lambda given: {"sigmas": given["sigmas"][1:]}),
        "no_image_latent": video_with(lambda given: {"latent": 0 * given["latent"]}),
        "no_image_token": video_with(lambda given: {"embedding": 0 * given["embedding"]}),
        "no_vector": video_with(lambda given: {"vector": 0 * given["vector"]}),
        "scale_one_more": video_with(lambda given: {"scale": given["scale"] + 1}),
        "frames_of_one_noise": video_with(
            lambda given: {"noise": given["noise"][:, :1].expand_as(given["noise"])}
        ),
    },
}


# ---------------------------------------------------------------- right


def precondition_by_angle(sigma):
    """Uses tan(angle) = sigma."""
    angle = sigma.atan()
    return angle.cos() ** 2, -angle.sin(), angle.cos(), sigma.sqrt().log() / 2


def precondition_in_parts(sigma):
    deviation = torch.sqrt(sigma * sigma + 1.0)
    return [1 / deviation**2, -(sigma / deviation), 1 / deviation, 0.25 * torch.log(sigma)]


def precondition_listed(sigma):
    return edm.Preconditioning(*precondition_in_parts(sigma))


def levels_by_power(normal, p_mean, p_std):
    return math.e ** (normal * p_std + p_mean)


def levels_by_product(normal, p_mean, p_std):
    return math.exp(p_mean) * torch.exp(normal * p_std)


def levels_one_by_one(normal, p_mean, p_std):
    levels = [math.exp(p_mean + p_std * number) for number in normal.tolist()]
    return torch.tensor(levels, dtype=normal.dtype)


def karras_by_formula(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    i = torch.arange(steps, dtype=torch.float64)
    sigmas = (high + i / max(steps - 1, 1) * (low - high)) ** rho
    return F.pad(sigmas, (0, 1))


def karras_by_numbers(steps, sigma_min=0.002, sigma_max=700.0, rho=7.0):
    low, high = sigma_min ** (1 / rho), sigma_max ** (1 / rho)
    gaps = max(steps - 1, 1)
    levels = [((high * (gaps - i) + low * i) / gaps) ** rho for i in range(steps)]
    return torch.tensor([*levels, 0.0], dtype=torch.float64)


def euler_by_ratio(x, denoised, sigma, sigma_next):
    return denoised + sigma_next / sigma * (x - denoised)


def euler_by_noise(x, denoised, sigma, sigma_next):
    eps = (x - denoised) / sigma
    return denoised + sigma_next * eps


def euler_weighted(x, denoised, sigma, sigma_next):
    share = sigma_next / sigma
    return share * x + (1 - share) * denoised


def temporal_by_einsum(q, k, v, heads):
    b, t, n, d = q.shape
    q, k, v = (x.reshape(b, t, n, heads, d // heads) for x in (q, k, v))
    weights = torch.einsum("bsnhd,btnhd->bnhst", q, k) / (d // heads) ** 0.5
    return torch.einsum("bnhst,btnhd->bsnhd", weights.softmax(-1), v).reshape(b, t, n, d)


def temporal_place_by_place(q, k, v, heads):
    places = [cross_attention(q[:, :, i], k[:, :, i], v[:, :, i], heads) for i in range(q.shape[2])]
    return torch.stack(places, dim=2)


def temporal_transposed(q, k, v, heads):
    b, _, n, _ = q.shape
    q, k, v = (x.transpose(1, 2).flatten(0, 1) for x in (q, k, v))
    return cross_attention(q, k, v, heads).unflatten(0, (b, n)).transpose(1, 2)


def blend_by_lerp(spatial, temporal, mix):
    return torch.lerp(temporal, spatial, torch.sigmoid(mix))


def blend_by_exponential(spatial, temporal, mix):
    return temporal + (spatial - temporal) / (1 + torch.exp(-mix))


def micro_by_one_call(fps, motion_bucket, augmentation, width=256):
    values = torch.stack([fps, motion_bucket, augmentation], dim=1)
    return timestep_embedding(values.flatten(), width).reshape(len(fps), 3 * width)


def micro_by_frequencies(fps, motion_bucket, augmentation, width=256):
    frequencies = 10_000 ** (-torch.arange(0, width, 2) / width)
    rows = []
    for value in (fps, motion_bucket, augmentation):
        rows += [torch.cos(value[:, None] * frequencies), torch.sin(value[:, None] * frequencies)]
    return torch.cat(rows, dim=-1)


def ramp_by_frames(frames, first, last):
    return torch.tensor([first + (last - first) * i / max(frames - 1, 1) for i in range(frames)])


def ramp_by_shares(frames, first, last):
    return first + (last - first) * torch.linspace(0, 1, frames)


def cuts_by_numbers(clip, ratio=3.0, least=8.0, window=2):
    x = clip.double()
    far = [float((b - a).abs().mean()) for a, b in pairwise(x)]
    found = []
    for i, distance in enumerate(far):
        around = [other for j, other in enumerate(far) if j != i and abs(j - i) <= window]
        usual = sum(around) / len(around) if around else 0.0
        if distance >= max(least, ratio * usual):
            found.append(i + 1)
    return found


def cuts_by_sums(clip, ratio=3.0, least=8.0, window=2):
    """Counts the neighbours with a convolution."""
    if len(clip) < 2:
        return []
    distance = (clip[1:].int() - clip[:-1].int()).abs().flatten(1).double().mean(1)
    kernel = torch.ones(1, 1, 2 * window + 1, dtype=torch.float64)
    total = F.conv1d(distance[None, None], kernel, padding=window)[0, 0] - distance
    count = F.conv1d(torch.ones_like(distance)[None, None], kernel, padding=window)[0, 0] - 1
    usual = total / count.clamp(min=1)
    cut = (distance >= least) & (distance >= ratio * usual)
    return (cut.nonzero()[:, 0] + 1).tolist()


def update_rightly(ratings, first, second, score):
    surprise = score - expected(ratings, first, second)
    ratings[first] += surprise
    ratings[second] -= surprise


def elo_by_strengths(votes, players):
    """Expects p / (p + q) with p = 10 ** (rating / 400)."""
    rows = []
    for order in votes.tolist():
        ratings = [1000.0] * players
        for first, second, score in order:
            p, q = (10 ** (ratings[int(i)] / 400) for i in (first, second))
            ratings[int(first)] += score - p / (p + q)
            ratings[int(second)] += (1 - score) - q / (p + q)
        rows.append(ratings)
    return torch.tensor(rows, dtype=votes.dtype)


def elo_by_one_hot(votes, players):
    ratings = torch.full((len(votes), players), 1000.0, dtype=votes.dtype)
    for i in range(votes.shape[1]):
        pair = F.one_hot(votes[:, i, :2].long(), players).to(votes)
        sign = pair[:, 0] - pair[:, 1]
        expectation = torch.sigmoid((sign * ratings).sum(1) * math.log(10) / 400)
        ratings = ratings + (votes[:, i, 2] - expectation)[:, None] * sign
    return ratings


@torch.no_grad()
def video_in_one_batch(network, noise, embedding, latent, vector, scale, sigmas):
    """Asks the network once about both."""
    b, frames = noise.shape[:2]
    image = latent[:, None].expand(-1, frames, -1, -1, -1)
    image = torch.cat([image, torch.zeros_like(image)])
    token = torch.cat([embedding, torch.zeros_like(embedding)])[:, None]
    strength = scale.reshape(1, -1, 1, 1, 1)
    x = noise * math.sqrt(1 + float(sigmas[0]) ** 2)
    for sigma, sigma_next in pairwise(sigmas.tolist()):
        size = math.sqrt(sigma**2 + 1)
        twice = torch.cat([x, x]) / size
        t = torch.full((2 * b,), math.log(sigma) / 4)
        v = network(torch.cat([twice, image], 2), t, token, torch.cat([vector, vector]))
        estimate = torch.cat([x, x]) / size**2 - sigma / size * v
        known, unknown = estimate.chunk(2)
        denoised = unknown + strength * (known - unknown)
        x = denoised + sigma_next / sigma * (x - denoised)
    return x


def video_by_frames(network, noise, embedding, latent, vector, scale, sigmas):
    """Guides frame by frame, and the network's outputs."""
    clip = torch.stack([latent] * noise.shape[1], dim=1)
    context = embedding.unsqueeze(1)
    x = noise * (1 + sigmas[0] ** 2) ** 0.5
    for i in range(len(sigmas) - 1):
        c_skip, c_out, c_in, c_noise = edm.precondition(sigmas[i])
        t = c_noise.repeat(len(x))
        known = network(torch.cat([c_in * x, clip], dim=2), t, context, vector)
        unknown = network(torch.cat([c_in * x, clip * 0], dim=2), t, context * 0, vector)
        v = torch.stack(
            [scale[f] * known[:, f] + (1 - scale[f]) * unknown[:, f] for f in range(x.shape[1])],
            dim=1,
        )
        slope = (x - (c_skip * x + c_out * v)) / sigmas[i]
        x = x + (sigmas[i + 1] - sigmas[i]) * slope
    return x


RIGHT = {
    "svd.precondition": {
        "by_angle": precondition_by_angle,
        "in_parts": precondition_in_parts,
        "listed": precondition_listed,
    },
    "svd.noise_levels": {
        "by_power": levels_by_power,
        "by_product": levels_by_product,
        "one_by_one": levels_one_by_one,
    },
    "svd.karras_sigmas": {"by_formula": karras_by_formula, "by_numbers": karras_by_numbers},
    "svd.euler_step": {
        "by_ratio": euler_by_ratio,
        "by_noise": euler_by_noise,
        "weighted": euler_weighted,
    },
    "svd.temporal_attention": {
        "by_einsum": temporal_by_einsum,
        "place_by_place": temporal_place_by_place,
        "transposed": temporal_transposed,
    },
    "svd.blend": {"by_lerp": blend_by_lerp, "by_exponential": blend_by_exponential},
    "svd.micro_conditioning": {
        "by_one_call": micro_by_one_call,
        "by_frequencies": micro_by_frequencies,
    },
    "svd.guidance_ramp": {"by_frames": ramp_by_frames, "by_shares": ramp_by_shares},
    "svd.find_cuts": {"by_numbers": cuts_by_numbers, "by_sums": cuts_by_sums},
    "svd.elo": {
        "one_order_a_time": elo_by(update_rightly),
        "by_strengths": elo_by_strengths,
        "by_one_hot": elo_by_one_hot,
    },
    "svd.image_to_video": {"in_one_batch": video_in_one_batch, "by_frames": video_by_frames},
}
