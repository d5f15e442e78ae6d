"""Answers to the exercises of notebook 02: more wrong ones, and right ones written differently."""

import math
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from einops import einsum, rearrange, reduce

from course_lib.papers import vit

# ---------------------------------------------------------------- wrong


def patchify_flipped_kernel(image, kernel, bias):
    return vit.embed_patches(image, kernel.flip(2, 3), bias)


def patchify_padded(image, kernel, bias):
    p = kernel.shape[-1]
    return F.conv2d(image, kernel, bias, stride=p, padding=p // 2).flatten(2).mT


def patchify_detached(image, kernel, bias):
    return vit.embed_patches(image, kernel.detach(), bias)


def patchify_squeezed(image, kernel, bias):
    return vit.embed_patches(image, kernel, bias).squeeze(0)


def patchify_one_token_squeezed(image, kernel, bias):
    return vit.embed_patches(image, kernel, bias).squeeze(1)


def patchify_in_single_precision(image, kernel, bias):
    return vit.embed_patches(image, kernel, bias).float()


def patchify_first_image_for_all(image, kernel, bias):
    return vit.embed_patches(image[:1], kernel, bias).expand(len(image), -1, -1)


def tokens_same_token_in_patches(patches, cls_token, positions):
    return vit.tokens_and_positions(patches + cls_token, cls_token, positions)


def tokens_reversed_positions(patches, cls_token, positions):
    return vit.tokens_and_positions(patches, cls_token, positions.flip(1))


def tokens_fresh_class_token(patches, cls_token, positions):
    return vit.tokens_and_positions(patches, torch.zeros_like(cls_token), positions)


def tokens_squeezed(patches, cls_token, positions):
    return vit.tokens_and_positions(patches, cls_token, positions).squeeze(0)


def tokens_in_single_precision(patches, cls_token, positions):
    return vit.tokens_and_positions(patches, cls_token, positions).float()


def tokens_detached_positions(patches, cls_token, positions):
    return vit.tokens_and_positions(patches, cls_token, positions.detach())


def attention_outputs_innermost(qkv, heads):
    out, weights = vit.attention(qkv, heads)
    return rearrange(out, "b n (heads d) -> b n (d heads)", heads=heads), weights


def attention_weights_first(qkv, heads):
    return vit.attention(qkv, heads)[::-1]


def attention_without_softmax(qkv, heads):
    q, k, v = vit.split_heads(qkv, heads)
    weights = q @ k.mT / math.sqrt(q.shape[-1])
    return rearrange(weights @ v, "b heads n d -> b n (heads d)"), weights


def attention_causal(qkv, heads):
    q, k, v = vit.split_heads(qkv, heads)
    later = torch.ones(qkv.shape[1], qkv.shape[1]).triu(1).bool()
    weights = (q @ k.mT / math.sqrt(q.shape[-1])).masked_fill(later, -math.inf).softmax(-1)
    return rearrange(weights @ v, "b heads n d -> b n (heads d)"), weights


def attention_in_one_head(qkv, heads):
    return vit.attention(qkv, 1)


def attention_squeezed(qkv, heads):
    out, weights = vit.attention(qkv, heads)
    return out.squeeze(0), weights.squeeze(0)


def attention_head_squeezed(qkv, heads):
    out, weights = vit.attention(qkv, heads)
    return out, weights.squeeze(1)


def attention_in_single_precision(qkv, heads):
    return vit.attention(qkv.float(), heads)


def attention_scaled_for_base(qkv, heads):
    q, k, v = vit.split_heads(qkv, heads)
    weights = torch.softmax(q @ k.mT / 8, dim=-1)
    return rearrange(weights @ v, "b heads n d -> b n (heads d)"), weights


def attention_scaled_twice(qkv, heads):
    q, k, v = vit.split_heads(qkv, heads)
    out = F.scaled_dot_product_attention(q / q.shape[-1] ** 0.5, k, v)
    return rearrange(out, "b heads n d -> b n (heads d)"), vit.attention(qkv, heads)[1]


def attention_of_one_head(qkv, heads):
    out, weights = vit.attention(qkv, heads)
    return out, weights.mean(1, keepdim=True)


def attention_values_detached(qkv, heads):
    q, k, v = vit.split_heads(qkv, heads)
    weights = torch.softmax(q @ k.mT / math.sqrt(q.shape[-1]), dim=-1)
    return rearrange(weights @ v.detach(), "b heads n d -> b n (heads d)"), weights


def block_norm_on_one_branch(x, norm1, attend, norm2, mlp):
    x = x + attend(norm1(x))
    return x + mlp(x)


def block_last_residual_missing(x, norm1, attend, norm2, mlp):
    x = x + attend(norm1(x))
    return mlp(norm2(x))


def block_norms_on_top_of_each_other(x, norm1, attend, norm2, mlp):
    x = x + attend(norm1(x))
    return x + mlp(norm2(norm1(x)))


def block_norm1_twice_over(x, norm1, attend, norm2, mlp):
    return vit.encoder_block(x, lambda y: norm1(norm1(y)), attend, norm2, mlp)


def block_norms_swapped(x, norm1, attend, norm2, mlp):
    return vit.encoder_block(x, norm2, attend, norm1, mlp)


def block_attends_twice(x, norm1, attend, norm2, mlp):
    return vit.encoder_block(x, norm1, lambda y: attend(attend(y)), norm2, mlp)


def block_norm_at_the_end(x, norm1, attend, norm2, mlp):
    return norm2(vit.encoder_block(x, norm1, attend, norm2, mlp))


def block_no_gradient_past_the_branches(x, norm1, attend, norm2, mlp):
    x = x.detach() + attend(norm1(x))
    return x.detach() + mlp(norm2(x))


def block_in_place(x, norm1, attend, norm2, mlp):
    with torch.no_grad():
        x += attend(norm1(x))
        x += mlp(norm2(x))
    return x


def count_as_float(config):
    return float(vit.count_parameters(config))


def count_in_millions(config):
    return round(vit.count_parameters(config), -6)


def count_one_mlp_layer(config):
    return vit.count_parameters(config) - config.depth * (config.width * config.mlp + config.width)


def count_one_layer(config):
    return vit.count_parameters(replace(config, depth=1))


def count_without_class_token_and_position(config):
    return vit.count_parameters(config) - 2 * config.width


def count_without_output_biases(config):
    return vit.count_parameters(config) - 2 * config.width * config.depth


def count_without_shifts(config):
    return vit.count_parameters(config) - (2 * config.depth + 1) * config.width


def count_square_by_columns(config):
    return vit.count_parameters(config) + (config.grid[1] ** 2 + 1 - config.tokens) * config.width


def count_mlp_four_times_as_wide(config):
    return vit.count_parameters(replace(config, mlp=4 * config.width))


def count_in_colour(config):
    return vit.count_parameters(replace(config, channels=3))


def count_for_imagenet(config):
    return vit.count_parameters(replace(config, num_classes=1000))


def count_no_bias_in_the_head(config):
    return vit.count_parameters(config) - config.num_classes


def count_tokens_in_the_mlp(config):
    return vit.count_parameters(replace(config, mlp=config.mlp + config.tokens))


def interpolate_token_last(positions, old, new):
    return vit.interpolate_positions(positions, old, new).roll(-1, 1)


def interpolate_cropped(positions, old, new):
    rows, columns = (
        torch.arange(n).clamp(max=before - 1) for n, before in zip(new, old, strict=True)
    )
    grid = positions[:, 1:].unflatten(1, old)[:, rows][:, :, columns]
    return torch.cat([positions[:, :1], grid.flatten(1, 2)], dim=1)


def interpolate_token_averaged(positions, old, new):
    return torch.cat(
        [positions.mean(1, keepdim=True), vit.interpolate_positions(positions, old, new)[:, 1:]],
        dim=1,
    )


def interpolate_antialiased(positions, old, new):
    grid = positions[:, 1:].mT.unflatten(2, old)
    grid = F.interpolate(grid, new, mode="bilinear", align_corners=True, antialias=True)
    return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)


def interpolate_square_grids(positions, old, new):
    side, wanted = math.isqrt(positions.shape[1] - 1), math.isqrt(new[0] * new[1])
    return vit.interpolate_positions(positions, (side, side), (wanted, wanted))


def interpolate_half_as_large_again(positions, old, new):
    return vit.interpolate_positions(positions, old, (3 * old[0] // 2, 3 * old[1] // 2))


def interpolate_rows_alone(positions, old, new):
    rows = vit.interpolate_positions(positions, old, (new[0], old[1]))
    grid = rows[:, 1:].mT.unflatten(2, (new[0], old[1]))
    grid = F.interpolate(grid, new, mode="nearest")
    return torch.cat([positions[:, :1], grid.flatten(2).mT], dim=1)


def distance_strongest_key(weights, grid, patch):
    hard = F.one_hot(weights[..., 1:, 1:].argmax(-1), grid[0] * grid[1]).float()
    return vit.attention_distance(hard, grid, patch)


def distance_without_itself(weights, grid, patch):
    return vit.attention_distance(weights * (1 - torch.eye(weights.shape[-1])), grid, patch)


def distance_of_each_image(weights, grid, patch):
    return torch.stack([vit.attention_distance(one[None], grid, patch) for one in weights])


def distance_from_the_class_token(weights, grid, patch):
    rows = weights[..., :1, 1:].expand(*weights.shape[:2], grid[0] * grid[1], -1)
    return vit.attention_distance(rows, grid, patch)


def distance_root_of_mean_square(weights, grid, patch):
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float() * patch
    squares = torch.cdist(places, places).square()
    between = F.normalize(weights[..., 1:, 1:], p=1, dim=-1)
    return (between * squares).sum(-1).mean((0, 2)).sqrt()


def distance_squared_in_patches(weights, grid, patch):
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float()
    between = F.normalize(weights[..., 1:, 1:], p=1, dim=-1)
    return (between * torch.cdist(places, places).square() * patch).sum(-1).mean((0, 2))


def distance_largest_step(weights, grid, patch):
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float() * patch
    between = F.normalize(weights[..., 1:, 1:], p=1, dim=-1)
    return (between * torch.cdist(places, places, p=torch.inf)).sum(-1).mean((0, 2))


def distance_images_averaged_first(weights, grid, patch):
    return vit.attention_distance(weights.mean(0, keepdim=True), grid, patch)


def distance_divided_by_the_total(weights, grid, patch):
    places = torch.cartesian_prod(torch.arange(grid[0]), torch.arange(grid[1])).float() * patch
    between = weights[..., 1:, 1:]
    return (between * torch.cdist(places, places)).sum((0, 2, 3)) / between.sum((0, 2, 3))


def distance_on_a_square(weights, grid, patch):
    n = torch.arange(grid[0] * grid[1])
    places = patch * torch.stack([n // grid[0], n % grid[0]], dim=1).float()
    between = F.normalize(weights[..., 1:, 1:], p=1, dim=-1)
    return (between * torch.cdist(places, places)).sum(-1).mean((0, 2))


def distance_patches_of_four(weights, grid, patch):
    return vit.attention_distance(weights, grid, 4)


def rollout_strongest_head(maps):
    return vit.attention_rollout(maps.amax(2, keepdim=True))


def rollout_last_layer(maps):
    return maps[-1].mean(1)


def rollout_columns_normalised(maps):
    rollout = eye = torch.eye(maps.shape[-1])
    for layer in maps.mean(2):
        rollout = (layer + eye) / (layer + eye).sum(-2, keepdim=True) @ rollout
    return rollout


def rollout_of_every_layer(maps):
    return torch.stack([vit.attention_rollout(maps[: i + 1]) for i in range(len(maps))])


def rollout_squeezed(maps):
    return vit.attention_rollout(maps).squeeze(0)


def rollout_identity_in_the_first_layer(maps):
    stay = torch.eye(maps.shape[-1])
    layers = maps.mean(2)
    rollout = (layers[0] + stay) / 2
    for layer in layers[1:]:
        rollout = layer @ rollout
    return rollout


def rollout_without_the_last_layer(maps):
    return vit.attention_rollout(maps[:-1])


def rollout_images_averaged(maps):
    rollout = vit.attention_rollout(maps)
    return rollout.mean(0, keepdim=True).expand_as(rollout)


def rollout_mostly_identity(maps):
    rollout = stay = torch.eye(maps.shape[-1])
    for layer in maps.mean(2):
        rollout = (0.1 * layer + 0.9 * stay) @ rollout
    return rollout


def rollout_transposed_maps(maps):
    return vit.attention_rollout(maps.mT)


WRONG = {
    "vit.patchify": {
        "flipped_kernel": patchify_flipped_kernel,
        "padded": patchify_padded,
        "detached": patchify_detached,
        "squeezed": patchify_squeezed,
        "one_token_squeezed": patchify_one_token_squeezed,
        "in_single_precision": patchify_in_single_precision,
        "first_image_for_all": patchify_first_image_for_all,
    },
    "vit.tokens_and_positions": {
        "same_token_in_patches": tokens_same_token_in_patches,
        "reversed_positions": tokens_reversed_positions,
        "fresh_class_token": tokens_fresh_class_token,
        "squeezed": tokens_squeezed,
        "in_single_precision": tokens_in_single_precision,
        "detached_positions": tokens_detached_positions,
    },
    "vit.attention": {
        "outputs_innermost": attention_outputs_innermost,
        "weights_first": attention_weights_first,
        "without_softmax": attention_without_softmax,
        "causal": attention_causal,
        "in_one_head": attention_in_one_head,
        "squeezed": attention_squeezed,
        "head_squeezed": attention_head_squeezed,
        "in_single_precision": attention_in_single_precision,
        "scaled_for_base": attention_scaled_for_base,
        "scaled_twice": attention_scaled_twice,
        "of_one_head": attention_of_one_head,
        "values_detached": attention_values_detached,
    },
    "vit.encoder_block": {
        "norm_on_one_branch": block_norm_on_one_branch,
        "last_residual_missing": block_last_residual_missing,
        "in_place": block_in_place,
        "norms_on_top_of_each_other": block_norms_on_top_of_each_other,
        "norm1_twice_over": block_norm1_twice_over,
        "norms_swapped": block_norms_swapped,
        "attends_twice": block_attends_twice,
        "norm_at_the_end": block_norm_at_the_end,
        "no_gradient_past_the_branches": block_no_gradient_past_the_branches,
    },
    "vit.count_parameters": {
        "as_float": count_as_float,
        "in_millions": count_in_millions,
        "one_mlp_layer": count_one_mlp_layer,
        "one_layer": count_one_layer,
        "without_class_token_and_position": count_without_class_token_and_position,
        "without_output_biases": count_without_output_biases,
        "without_shifts": count_without_shifts,
        "square_by_columns": count_square_by_columns,
        "mlp_four_times_as_wide": count_mlp_four_times_as_wide,
        "in_colour": count_in_colour,
        "for_imagenet": count_for_imagenet,
        "no_bias_in_the_head": count_no_bias_in_the_head,
        "tokens_in_the_mlp": count_tokens_in_the_mlp,
    },
    "vit.interpolate_positions": {
        "token_last": interpolate_token_last,
        "cropped": interpolate_cropped,
        "token_averaged": interpolate_token_averaged,
        "antialiased": interpolate_antialiased,
        "square_grids": interpolate_square_grids,
        "half_as_large_again": interpolate_half_as_large_again,
        "rows_alone": interpolate_rows_alone,
    },
    "vit.attention_distance": {
        "strongest_key": distance_strongest_key,
        "without_itself": distance_without_itself,
        "of_each_image": distance_of_each_image,
        "from_the_class_token": distance_from_the_class_token,
        "root_of_mean_square": distance_root_of_mean_square,
        "squared_in_patches": distance_squared_in_patches,
        "largest_step": distance_largest_step,
        "images_averaged_first": distance_images_averaged_first,
        "divided_by_the_total": distance_divided_by_the_total,
        "on_a_square": distance_on_a_square,
        "patches_of_four": distance_patches_of_four,
    },
    "vit.attention_rollout": {
        "strongest_head": rollout_strongest_head,
        "last_layer": rollout_last_layer,
        "columns_normalised": rollout_columns_normalised,
        "of_every_layer": rollout_of_every_layer,
        "squeezed": rollout_squeezed,
        "identity_in_the_first_layer": rollout_identity_in_the_first_layer,
        "without_the_last_layer": rollout_without_the_last_layer,
        "images_averaged": rollout_images_averaged,
        "mostly_identity": rollout_mostly_identity,
        "transposed_maps": rollout_transposed_maps,
    },
}


# ---------------------------------------------------------------- right, written differently


def patchify_by_convolution(image, kernel, bias):
    return F.conv2d(image, kernel, bias, stride=kernel.shape[-2:]).flatten(2).transpose(1, 2)


def patchify_by_unfold(image, kernel, bias):
    columns = F.unfold(image, kernel.shape[2:], stride=kernel.shape[2:])  # b c*p*p n
    return columns.mT @ kernel.reshape(len(kernel), -1).T + bias


def patchify_by_loops(image, kernel, bias):
    p = kernel.shape[-1]
    corners = [(y, x) for y in range(0, image.shape[2], p) for x in range(0, image.shape[3], p)]
    cut = [image[:, None, :, y : y + p, x : x + p] for y, x in corners]
    return torch.stack([(piece * kernel).sum((2, 3, 4)) + bias for piece in cut], dim=1)


def tokens_by_positions_apart(patches, cls_token, positions):
    token = (cls_token + positions[:, :1]).repeat(patches.shape[0], 1, 1)
    return torch.cat((token, patches + positions[:, 1:]), 1)


def tokens_by_padding(patches, cls_token, positions):
    first = F.pad(cls_token, (0, 0, 0, patches.shape[1]))
    return F.pad(patches, (0, 0, 1, 0)) + first + positions


def attention_by_heads(qkv, heads):
    d = qkv.shape[-1] // (3 * heads)
    outs, maps = [], []
    for head in range(heads):
        q, k, v = (qkv[..., (part * heads + head) * d :][..., :d] for part in range(3))
        maps.append(torch.softmax(torch.bmm(q, k.transpose(1, 2)) * d**-0.5, dim=2))
        outs.append(maps[-1] @ v)
    return torch.cat(outs, dim=-1), torch.stack(maps, dim=1)


def attention_by_einsum(qkv, heads):
    q, k, v = (part.unflatten(-1, (heads, -1)) for part in qkv.chunk(3, dim=-1))
    logits = einsum(q, k, "b i h d, b j h d -> b h i j") / q.shape[-1] ** 0.5
    exponents = (logits - logits.amax(-1, keepdim=True)).exp()
    weights = exponents / exponents.sum(-1, keepdim=True)
    return einsum(weights, v, "b h i j, b j h d -> b i h d").flatten(2), weights


def attention_by_torch(qkv, heads):
    q, k, v = vit.split_heads(qkv, heads)
    out = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
    return out, (q * q.shape[-1] ** -0.5 @ k.mT).softmax(3)


def block_in_lines(x, norm1, attend, norm2, mlp):
    found = attend(norm1(x))
    worked_out = mlp(norm2(x + found))
    return x + found + worked_out


def block_by_loop(x, norm1, attend, norm2, mlp):
    for norm, branch in ((norm1, attend), (norm2, mlp)):
        x = branch(norm(x)).add(x)
    return x


def count_on_meta(config):
    with torch.device("meta"):
        return sum(p.numel() for p in vit.ViT(config).parameters())


def count_by_layers(config):
    def linear(into, out):
        return into * out + out

    d, norm = config.width, 2 * config.width
    layer = (
        2 * norm + linear(d, 3 * d) + linear(d, d) + linear(d, config.mlp) + linear(config.mlp, d)
    )
    start = linear(config.channels * config.patch_size**2, d) + d + (1 + math.prod(config.grid)) * d
    return start + sum(layer for _ in range(config.depth)) + norm + linear(d, config.num_classes)


def interpolate_by_upsample(positions, old, new):
    grid = positions[:, 1:].mT.unflatten(2, old)  # 1 d h w
    grid = torch.nn.Upsample(new, mode="bilinear", align_corners=True)(grid)
    return torch.cat((positions[:, :1], grid.flatten(2).mT), 1)


def interpolate_by_matrices(positions, old, new):
    def hat(before, after):
        """How much each of the old places counts at each of the new ones, (after before)."""
        places = torch.linspace(0, before - 1, after)
        return (1 - (places[:, None] - torch.arange(before)).abs()).clamp(min=0)

    grid = positions[0, 1:].reshape(*old, -1)
    grid = torch.einsum("yh,xw,hwd->yxd", hat(old[0], new[0]), hat(old[1], new[1]), grid)
    return torch.cat([positions[0, :1], grid.reshape(new[0] * new[1], -1)])[None]


@torch.no_grad()
def interpolate_without_gradients(positions, old, new):
    return vit.interpolate_positions(positions, old, new)


def interpolate_in_numpy(positions, old, new):
    grid = positions[0, 1:].numpy().reshape(*old, -1)
    for axis in (0, 1):
        places = np.linspace(0, old[axis] - 1, new[axis])
        near = np.floor(places).astype(int)
        far = np.minimum(near + 1, old[axis] - 1)
        part = (places - near).reshape(-1, *(2 - axis) * [1])
        grid = grid.take(near, axis) * (1 - part) + grid.take(far, axis) * part
    rows = grid.reshape(1, new[0] * new[1], -1).astype(np.float32)
    return torch.cat([positions[:, :1], torch.from_numpy(rows)], dim=1)


def distance_by_loops(weights, grid, patch):
    found = torch.zeros(weights.shape[1], dtype=torch.float64)
    places = [(row, column) for row in range(grid[0]) for column in range(grid[1])]
    for i, here in enumerate(places, start=1):
        row = weights[:, :, i, 1:].double().mean(0) * 0
        for image in weights[:, :, i, 1:].double():
            row = row + image / image.sum(-1, keepdim=True) / len(weights)
        far = torch.tensor(
            [patch * math.dist(here, there) for there in places], dtype=torch.float64
        )
        found += row @ far / len(places)
    return found.float()


def distance_by_complex_numbers(weights, grid, patch):
    n = torch.arange(grid[0] * grid[1])
    places = patch * torch.complex((n // grid[1]).float(), (n % grid[1]).float())
    between = F.normalize(weights[..., 1:, 1:], p=1, dim=-1)
    return reduce(between * (places[:, None] - places).abs(), "b h i j -> h", "sum") / (
        len(weights) * len(n)
    )


@torch.no_grad()
def distance_without_gradients(weights, grid, patch):
    return vit.attention_distance(weights, grid, patch)


def rollout_by_multi_dot(maps):
    b, n = maps.shape[1], maps.shape[-1]
    layers = 0.5 * maps.mean(2) + 0.5 * torch.eye(n)
    if len(layers) == 1:
        return layers[0]
    return torch.stack([torch.linalg.multi_dot(list(layers[:, i].flip(0))) for i in range(b)])


def rollout_by_recursion(maps):
    last = maps[-1].mean(dim=1)
    if len(maps) == 1:
        return torch.lerp(last, torch.eye(last.shape[-1]).expand_as(last), 0.5)
    before = rollout_by_recursion(maps[:-1])
    return (before + last @ before) / 2


RIGHT = {
    "vit.patchify": {
        "by_convolution": patchify_by_convolution,
        "by_unfold": patchify_by_unfold,
        "by_loops": patchify_by_loops,
    },
    "vit.tokens_and_positions": {
        "by_positions_apart": tokens_by_positions_apart,
        "by_padding": tokens_by_padding,
    },
    "vit.attention": {
        "by_heads": attention_by_heads,
        "by_einsum": attention_by_einsum,
        "by_torch": attention_by_torch,
    },
    "vit.encoder_block": {"in_lines": block_in_lines, "by_loop": block_by_loop},
    "vit.count_parameters": {"on_meta": count_on_meta, "by_layers": count_by_layers},
    "vit.interpolate_positions": {
        "by_upsample": interpolate_by_upsample,
        "by_matrices": interpolate_by_matrices,
        "without_gradients": interpolate_without_gradients,
        "in_numpy": interpolate_in_numpy,
    },
    "vit.attention_distance": {
        "by_loops": distance_by_loops,
        "by_complex_numbers": distance_by_complex_numbers,
        "without_gradients": distance_without_gradients,
    },
    "vit.attention_rollout": {
        "by_multi_dot": rollout_by_multi_dot,
        "by_recursion": rollout_by_recursion,
    },
}
