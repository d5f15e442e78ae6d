"""Notebook 02: the equations of ViT, its size, and what its positions and its attention say."""

import torch
import torch.nn.functional as F
from einops import rearrange

from course_lib.checking import Exercise
from course_lib.papers import vit

# ---------------------------------------------------------------- embed_patches


def _patchify_cases(rng):
    # b c h w p d; the last is one patch
    sizes = [(2, 3, 4, 6, 2, 5), (4, 1, 9, 6, 3, 7), (3, 2, 5, 5, 5, 4)]
    return [
        {
            "image": torch.randn(b, c, h, w, generator=rng),
            "kernel": torch.randn(d, c, p, p, generator=rng),
            "bias": torch.randn(d, generator=rng),
        }
        for b, c, h, w, p, d in sizes
    ]


def _cut(cells="(h p1) (w p2)", tokens="b (h w)", row="c p1 p2", column="c p1 p2"):
    """embed_patches with axes in other places: of the picture, of the tokens, of a patch and of the
    kernel.
    """

    def answer(image, kernel, bias):
        p = kernel.shape[-1]
        patches = rearrange(image, f"b c {cells} -> {tokens} ({row})", p1=p, p2=p)
        return F.linear(patches, rearrange(kernel, f"d c p1 p2 -> d ({column})"), bias)

    return answer


def _convolved(arrange):
    """A convolution whose result, (b d h w), `arrange` brings into another form."""
    return lambda image, kernel, bias: arrange(
        F.conv2d(image, kernel, bias, stride=kernel.shape[-1])
    )


PATCHIFY = Exercise(
    id="vit.patchify",
    reference=vit.embed_patches,
    cases=_patchify_cases,
    gradients=("image", "kernel", "bias"),
    equation="ViT, Eq. 1 (patch embedding)",
    points=2,
    stars=2,
    minutes=7,
    misconceptions={
        "orders_differ": (
            _cut(row="p1 p2 c"),
            "The patches are flattened as (row, column, channel), the kernel as (channel, row,"
            " column). Pixels meet the weights of other pixels: flatten both in one order.",
        ),
        "columns_first": (
            _cut(tokens="b (w h)"),
            "Every token is right, but you walk through the picture column by column. Reading order"
            " is (h w).",
        ),
        "transposed_patch": (
            _cut(column="c p2 p1"),
            "The kernel lies transposed on the patch. Its last two axes are row and column, in this"
            " order, as in the picture.",
        ),
        "dilated": (
            _cut(cells="(p1 h) (p2 w)"),
            "In `(p1 h)` the patch is the outer part, so a token collects pixels that lie far"
            " apart. Neighbours share a patch when it is the inner part: `(h p1)`.",
        ),
        "no_bias": (
            lambda image, kernel, bias: vit.embed_patches(image, kernel, torch.zeros_like(bias)),
            "The bias is missing: add it to every token.",
        ),
        "overlapping": (
            lambda image, kernel, bias: F.conv2d(image, kernel, bias).flatten(2).mT,
            "Your patches overlap: the kernel moved on by one pixel. It must move on by a whole"
            " patch, `stride=kernel.shape[-1]`.",
        ),
        "grid_kept": (
            _convolved(lambda y: y),
            "That is the convolution's map, (b d h w). A sequence of tokens has one axis for all"
            " places, and the width last: (b n d).",
        ),
        "width_first": (
            _convolved(lambda y: y.flatten(2)),
            "You return (b d n). A token is a row of `d` numbers: move that axis to the end.",
        ),
        "reshaped": (
            _convolved(lambda y: y.reshape(len(y), -1, y.shape[1])),
            "`reshape` does not move axes: your tokens mix one channel's values at several places."
            " Flatten the grid, then swap the two axes.",
        ),
    },
)


# ---------------------------------------------------------------- tokens_and_positions


def _tokens_cases(rng):
    return [
        {
            "patches": torch.randn(b, n, d, generator=rng),
            "cls_token": torch.randn(1, 1, d, generator=rng),
            "positions": torch.randn(1, n + 1, d, generator=rng),
        }
        for b, n, d in [(3, 6, 4), (2, 4, 7), (1, 9, 5)]
    ]


def _placed(place):
    """tokens_and_positions by another formula of (patches, class token of every picture,
    positions).
    """
    return lambda patches, cls_token, positions: place(
        patches, cls_token.expand(len(patches), -1, -1), positions
    )


TOKENS_AND_POSITIONS = Exercise(
    id="vit.tokens_and_positions",
    reference=vit.tokens_and_positions,
    cases=_tokens_cases,
    gradients=("patches", "cls_token", "positions"),
    equation="ViT, Eq. 1 (class token and positions)",
    points=1,
    stars=1,
    minutes=4,
    misconceptions={
        "token_last": (
            _placed(lambda x, token, positions: torch.cat([x, token], dim=1) + positions),
            "The class token stands at the end. Eq. 1 puts it in front, as number 0: the head reads"
            " it there.",
        ),
        "token_without_position": (
            _placed(lambda x, token, positions: torch.cat([token, x + positions[:, 1:]], dim=1)),
            "The patches are right, the class token got no position. It is put in front first; then"
            " every one of the n + 1 tokens gets its own.",
        ),
        "added_before_the_token": (
            _placed(lambda x, token, positions: torch.cat([token, x + positions[:, :-1]], dim=1)),
            "You added positions before the class token was there, so every patch has the one of"
            " the place before it. Put the token in front, then add.",
        ),
        "one_position_for_all": (
            _placed(lambda x, token, positions: torch.cat([token, x], dim=1) + positions[:, :1]),
            "Every token got the same position, the first. Then nothing tells them apart: each has"
            " a row of its own.",
        ),
        "no_positions": (
            _placed(lambda x, token, positions: torch.cat([token, x], dim=1)),
            "The positions are not in your sum. Without them the model sees a bag of patches.",
        ),
        "concatenated": (
            _placed(
                lambda x, token, positions: torch.cat(
                    [torch.cat([token, x], dim=1), positions.expand(len(x), -1, -1)], 2
                )
            ),
            "You put the positions beside the tokens, so the width doubled. Eq. 1 adds them; the"
            " width stays.",
        ),
        "token_not_repeated": (
            lambda patches, cls_token, positions: (
                torch.cat([cls_token, patches], dim=1) + positions
            ),
            "`torch.cat` repeats nothing: there is one class token, (1 1 d), and `b` pictures want"
            " one each. Expand it to (b 1 d) first.",
        ),
    },
)


# ---------------------------------------------------------------- attention


def _attention_cases(rng):
    sizes = [(2, 5, 3, 4), (3, 4, 2, 6), (4, 6, 1, 5)]  # b n heads d_h
    return [
        {"qkv": torch.randn(b, n, 3 * heads * d, generator=rng), "heads": heads}
        for b, n, heads, d in sizes
    ]


def _attended(split="three heads d", merge="heads d", scale=lambda heads, d: d**-0.5, dim=-1):
    """attention with axes in other places, another scale, or a softmax over another axis."""

    def answer(qkv, heads):
        q, k, v = rearrange(qkv, f"b n ({split}) -> three b heads n d", three=3, heads=heads)
        weights = (scale(heads, q.shape[-1]) * q @ k.mT).softmax(dim)
        return rearrange(weights @ v, f"b heads n d -> b n ({merge})"), weights

    return answer


def _keys_ask(qkv, heads):
    q, k, v = qkv.chunk(3, dim=-1)
    return vit.attention(torch.cat([k, q, v], dim=-1), heads)


def _reshaped_back(qkv, heads):
    out, weights = vit.attention(qkv, heads)
    return rearrange(out, "b n (heads d) -> b heads n d", heads=heads).reshape(out.shape), weights


ATTENTION = Exercise(
    id="vit.attention",
    reference=vit.attention,
    cases=_attention_cases,
    gradients=("qkv",),
    equation="ViT, Eq. 5 to 7",
    points=3,
    stars=3,
    minutes=12,
    misconceptions={
        "not_scaled": (
            _attended(scale=lambda heads, d: 1),
            "The products of queries and keys are not scaled. Eq. 6 divides them by the square root"
            " of a head's width.",
        ),
        "whole_width": (
            _attended(scale=lambda heads, d: (heads * d) ** -0.5),
            "You divided by the root of the whole width. A product in one head has only d / heads"
            " terms: take the root of that.",
        ),
        "no_root": (
            _attended(scale=lambda heads, d: 1 / d),
            "You divided by a head's width. A sum of d_h products of variance 1 has variance d_h:"
            " divide by its root.",
        ),
        "softmax_over_queries": (
            _attended(dim=-2),
            "Your softmax runs over the queries. Row i says where token i looks: every row, the"
            " last axis, sums to 1.",
        ),
        "softmax_over_heads": (
            _attended(dim=1),
            "Your softmax runs over the heads. Each head has one of its own, over the keys: the"
            " last axis.",
        ),
        "heads_innermost": (
            _attended(split="three d heads", merge="d heads"),
            "You dealt the channels out to the heads one by one. A head owns a block of"
            " neighbouring channels: `(heads d)`, not `(d heads)`.",
        ),
        "heads_outermost": (
            _attended(split="heads three d"),
            "You cut into heads first, and each head into q, k, v. `qkv` holds all queries, then"
            " all keys, then all values: `(three heads d)`.",
        ),
        "keys_ask": (
            _keys_ask,
            "Queries and keys have changed places. Row i of A comes from query i and every key: q"
            " k^T.",
        ),
        "reshaped_back": (
            _reshaped_back,
            "The attention is right, but `reshape` put the heads of several tokens into one row."
            " Move the head axis behind the token axis first.",
        ),
    },
)


# ---------------------------------------------------------------- encoder_block


def _norm(x):
    return F.layer_norm(x, x.shape[-1:])


def _other_norm(x):
    """A norm that has learned a scale and a shift."""
    return 1.6 * F.layer_norm(x, x.shape[-1:]) - 0.3


def _gather(x):
    """A stand-in for attention: every token takes from those before it."""
    return torch.tanh(0.8 * x + 0.2).cumsum(1)


def _bend(x):
    """A stand-in for the MLP: every token for itself."""
    return torch.sin(1.4 * x) * x


def _block_cases(rng):
    return [
        {
            "x": 2 * torch.randn(shape, generator=rng) + 0.5,
            "norm1": _norm if first else _other_norm,
            "attend": _gather,
            "norm2": _other_norm if first else _norm,
            "mlp": _bend,
        }
        for shape, first in [((2, 4, 5), True), ((3, 2, 7), False), ((1, 6, 4), True)]
    ]


def _block(first, second):
    """A block of two halves: each a function of (what came so far, the block's input, its norm, its
    branch).
    """

    def answer(x, norm1, attend, norm2, mlp):
        return second(first(x, x, norm1, attend), x, norm2, mlp)

    return answer


def _half(x, start, norm, branch):
    return x + branch(norm(x))


def _both(half):
    return _block(half, half)


ENCODER_BLOCK = Exercise(
    id="vit.encoder_block",
    reference=vit.encoder_block,
    cases=_block_cases,
    gradients=("x",),
    equation="ViT, Eq. 2 and 3",
    points=2,
    stars=1,
    minutes=5,
    misconceptions={
        "post_norm": (
            _both(lambda x, start, norm, branch: norm(x + branch(x))),
            "That is the first transformer's order: the norm after the sum. ViT norms what goes"
            " into a branch, and leaves the sum alone.",
        ),
        "residual_after_norm": (
            _both(lambda x, start, norm, branch: norm(x) + branch(norm(x))),
            "You added the branch to the normed tokens. The path past the branch carries x itself,"
            " not its norm.",
        ),
        "norm_on_output": (
            _both(lambda x, start, norm, branch: x + norm(branch(x))),
            "You normed what comes out of the branches. The norm belongs in front of them.",
        ),
        "no_norms": (
            _both(lambda x, start, norm, branch: x + branch(x)),
            "The sums are right, the norms are missing: attention sees norm1(x), the MLP sees norm2"
            " of what came then.",
        ),
        "no_residuals": (
            _both(lambda x, start, norm, branch: branch(norm(x))),
            "Nothing leads past the branches. Eq. 2 and 3 add each branch to what went into its"
            " norm.",
        ),
        "parallel": (
            _block(_half, lambda x, start, norm, branch: x + branch(norm(start))),
            "Your MLP reads the block's input. Eq. 3 lets it read the sum of Eq. 2.",
        ),
        "input_again": (
            _block(_half, lambda x, start, norm, branch: start + branch(norm(x))),
            "The last sum starts from the block's input, so what attention found can reach the next"
            " layer through the MLP alone. Add the MLP to the result of Eq. 2.",
        ),
        "same_norm": (
            lambda x, norm1, attend, norm2, mlp: vit.encoder_block(x, norm1, attend, norm1, mlp),
            "You used norm1 twice. The MLP has a norm of its own, norm2.",
        ),
        "mlp_first": (
            lambda x, norm1, attend, norm2, mlp: vit.encoder_block(x, norm2, mlp, norm1, attend),
            "You let the MLP come first. Tokens exchange what they know, then each works on it:"
            " attention, then MLP.",
        ),
    },
)


# ---------------------------------------------------------------- count_parameters


def _count_cases(rng):
    def draw(low, high):
        return int(torch.randint(low, high, (), generator=rng))

    cases = []
    for channels in (1, 3):
        patch, heads, depth, rows = draw(2, 6), draw(2, 5), draw(2, 8), draw(2, 5)
        config = vit.ViTConfig(
            image_size=(patch * rows, patch * (rows + draw(1, 4))),
            patch_size=patch,
            channels=channels,
            width=heads * draw(5, 9),
            depth=depth,
            heads=heads,
            mlp=draw(50, 90),
            num_classes=draw(9, 40),
        )
        cases.append({"config": config})
    return [*cases, {"config": vit.VIT_CONFIGS["ViT-B/16"]}]


def _miscounted(missing):
    """A count without something: a function of (configuration, width, depth)."""
    return lambda config: vit.count_parameters(config) - missing(config, config.width, config.depth)


COUNT_PARAMETERS = Exercise(
    id="vit.count_parameters",
    reference=vit.count_parameters,
    cases=_count_cases,
    equation="ViT, Table 1",
    points=2,
    stars=2,
    minutes=10,
    misconceptions={
        "one_vector_short": (
            _miscounted(lambda config, d, depth: d),
            "You are short by exactly one width d. Three things of that size are easily forgotten:"
            " the bias of the patch embedding, the class token, and the class token's position.",
        ),
        "last_norm": (
            _miscounted(lambda config, d, depth: 2 * d),
            "You are short by exactly 2 d. Behind the last layer stands one more norm, with its"
            " scale and its shift.",
        ),
        "one_norm": (
            _miscounted(lambda config, d, depth: 2 * d * depth),
            "You are short by 2 d in every layer. A layer has two norms, each with a scale and a"
            " shift.",
        ),
        "no_biases": (
            _miscounted(
                lambda config, d, depth: d + depth * (5 * d + config.mlp) + config.num_classes
            ),
            "You counted the weights of the linear layers, not their biases: one for each number"
            " that comes out.",
        ),
        "no_output_projection": (
            _miscounted(lambda config, d, depth: depth * (d * d + d)),
            "Queries, keys and values make three matrices. Attention has a fourth, behind the heads"
            " (Eq. 8).",
        ),
        "times_heads": (
            _miscounted(lambda config, d, depth: -depth * (config.heads - 1) * 4 * (d * d + d)),
            "You counted attention once per head. The heads share the width: together their"
            " matrices are d x d, however many heads there are.",
        ),
        "one_channel": (
            _miscounted(lambda config, d, depth: (config.channels - 1) * config.patch_size**2 * d),
            "A patch of one channel has patch x patch numbers. Count all channels.",
        ),
        "square_picture": (
            _miscounted(
                lambda config, d, depth: (config.grid[1] - config.grid[0]) * config.grid[0] * d
            ),
            "Your count is right for square pictures. The grid has `config.grid[0]` rows and"
            " `config.grid[1]` columns.",
        ),
        "no_head": (
            _miscounted(lambda config, d, depth: (d + 1) * config.num_classes),
            "The head is missing: a linear layer from d numbers to the classes.",
        ),
    },
)


# ---------------------------------------------------------------- interpolate_positions


def _interpolate_cases(rng):
    grids = [((2, 3), (4, 7), 5), ((4, 3), (3, 5), 6), ((5, 4), (2, 3), 4), ((2, 4), (2, 4), 3)]
    return [
        {"positions": torch.randn(1, 1 + old[0] * old[1], d, generator=rng), "old": old, "new": new}
        for old, new, d in grids
    ]


def _resized(cells="h w", **how):
    """interpolate_positions with the grid laid out differently, or another way to interpolate."""
    how = {"mode": "bilinear", "align_corners": True, **how}

    def answer(positions, old, new):
        grid = rearrange(positions[:, 1:], f"1 ({cells}) d -> 1 d h w", h=old[0], w=old[1])
        grid = F.interpolate(grid, new, **how)
        return torch.cat([positions[:, :1], rearrange(grid, f"1 d h w -> 1 ({cells}) d")], dim=1)

    return answer


def _as_a_line(positions, n):
    return F.interpolate(positions.mT, n, mode="linear", align_corners=True).mT


def _new_swapped(positions, old, new):
    return vit.interpolate_positions(positions, old, new[::-1])


def _reshaped(positions, old, new):
    token, patches = positions[:, :1], positions[:, 1:]
    grid = F.interpolate(patches.reshape(1, -1, *old), new, mode="bilinear", align_corners=True)
    return torch.cat([token, grid.reshape(1, -1, positions.shape[-1])], dim=1)


INTERPOLATE_POSITIONS = Exercise(
    id="vit.interpolate_positions",
    reference=vit.interpolate_positions,
    cases=_interpolate_cases,
    gradients=("positions",),
    equation="ViT, section 3.2",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "token_interpolated": (
            lambda positions, old, new: _as_a_line(positions, 1 + new[0] * new[1]),
            "You stretched the whole sequence as a line, class token and all. The class token has"
            " no place in the picture: keep its row, and interpolate the others as a grid.",
        ),
        "as_a_line": (
            lambda positions, old, new: torch.cat(
                [positions[:, :1], _as_a_line(positions[:, 1:], new[0] * new[1])], dim=1
            ),
            "The class token is right, but you stretched the patches as a line: the end of one row"
            " was mixed with the start of the next. Lay them out as rows and columns first.",
        ),
        "corners_cut": (
            _resized(align_corners=False),
            "PyTorch's default lets the outer edges of the two grids coincide. Corners on corners"
            " is `align_corners=True`.",
        ),
        "nearest": (
            _resized(mode="nearest", align_corners=None),
            "You took the nearest old position, so neighbours share one. Ask for"
            ' `mode="bilinear"`.',
        ),
        "bicubic": (
            _resized(mode="bicubic"),
            "Bicubic is what some libraries do. Bilinear is asked for: a mean of the four old"
            " positions around.",
        ),
        "columns_first": (
            _resized(cells="w h"),
            "You laid the sequence out column by column. Patches are in reading order: `(h w)`,"
            " with h = old[0] rows.",
        ),
        "new_swapped": (
            _new_swapped,
            "The new grid has its sides swapped. `new` is (rows, columns), the order that"
            " `F.interpolate` wants too.",
        ),
        "token_dropped": (
            lambda positions, old, new: vit.interpolate_positions(positions[:, 1:], old, new),
            "The class token's position is gone. Put its row back in front, as it was.",
        ),
        "reshaped": (
            _reshaped,
            "`reshape` to (1 d h w) does not move axes: a channel of your grid is made of pieces of"
            " several vectors. Use `rearrange`, or swap the axes first.",
        ),
    },
)


# ---------------------------------------------------------------- attention_distance


def _distance_cases(rng):
    sizes = [(2, 3, (2, 4), 16), (3, 2, (4, 3), 5), (1, 4, (3, 3), 2)]  # b heads grid patch
    return [
        {
            "weights": torch.randn(b, heads, *2 * [1 + h * w], generator=rng).mul(2).softmax(-1),
            "grid": (h, w),
            "patch": patch,
        }
        for b, heads, (h, w), patch in sizes
    ]


def _steps(grid, cells="h w"):
    """Rows and columns from each patch to each other one, (2 n n)."""
    places = rearrange(
        torch.stack(torch.meshgrid(*map(torch.arange, grid), indexing="ij")),
        f"two h w -> ({cells}) two",
    )
    return rearrange((places[:, None] - places[None]).float(), "n m two -> two n m")


def _patches_alone(weights, dim=-1):
    between = weights[..., 1:, 1:]
    return between / between.sum(dim, keepdim=True)


def _mean(between, distances):
    return (between * distances).sum(-1).mean((0, 2))


def _looking(length, cells="h w"):
    """attention_distance with another length of the steps (2 n n), or the patches in another order."""
    return lambda weights, grid, patch: _mean(
        _patches_alone(weights), patch * length(_steps(grid, cells))
    )


def _euclid(steps):
    return steps.norm(dim=0)


def _not_renormalised(weights, grid, patch):
    return _mean(weights[..., 1:, 1:], patch * _euclid(_steps(grid)))


def _token_counted(weights, grid, patch):
    return _mean(weights, F.pad(patch * _euclid(_steps(grid)), (1, 0, 1, 0)))


def _over_queries(weights, grid, patch):
    return _mean(_patches_alone(weights, dim=-2), patch * _euclid(_steps(grid)))


ATTENTION_DISTANCE = Exercise(
    id="vit.attention_distance",
    reference=vit.attention_distance,
    cases=_distance_cases,
    equation="ViT, Figure 7 and appendix D.7",
    points=3,
    stars=3,
    minutes=12,
    misconceptions={
        "in_patches": (
            lambda weights, grid, patch: vit.attention_distance(weights, grid, 1),
            "Your distances are in patches. Pixels are wanted: neighbouring centres are `patch`"
            " pixels apart.",
        ),
        "not_renormalised": (
            _not_renormalised,
            "You cut the class token out and left the rows short of 1. What fell on it must be"
            " shared by the others: divide each row by its sum.",
        ),
        "token_counted": (
            _token_counted,
            "You kept the class token, at distance 0 from everything. It has no place: leave its"
            " row and its column out, then bring the rows back to a sum of 1.",
        ),
        "manhattan": (
            _looking(lambda steps: steps.abs().sum(0)),
            "You added the steps along rows and columns. The straight line is wanted: the root of"
            " the sum of squares.",
        ),
        "squared": (
            _looking(lambda steps: steps.square().sum(0)),
            "The square root is missing: you averaged squared distances.",
        ),
        "normalised_over_queries": (
            _over_queries,
            "You made the columns sum to 1. Row i holds the weights of query i, so the sum over the"
            " last axis is 1.",
        ),
        "columns_first": (
            _looking(_euclid, cells="w h"),
            "You numbered the patches column by column. They are in reading order: patch i is in"
            " row i // grid[1].",
        ),
        "averaged_over_keys": (
            lambda weights, grid, patch: (
                vit.attention_distance(weights, grid, patch) / (grid[0] * grid[1])
            ),
            "You took a mean over the keys. The weights of a row sum to 1 already: over the keys,"
            " sum.",
        ),
        "one_number": (
            lambda weights, grid, patch: vit.attention_distance(weights, grid, patch).mean(),
            "You averaged over the heads too. One number per head is wanted: some look far, some"
            " near.",
        ),
    },
)


# ---------------------------------------------------------------- attention_rollout


def _rollout_cases(rng):
    sizes = [(4, 2, 3, 5), (2, 4, 5, 3), (3, 1, 2, 6)]  # depth b heads n
    return [
        {"maps": torch.randn(depth, b, heads, n, n, generator=rng).mul(2).softmax(-1)}
        for depth, b, heads, n in sizes
    ]


def _rolled(
    step=lambda layer, rollout: layer @ rollout,
    stay=lambda layer, eye: (layer + eye) / 2,
    heads=torch.mean,
):
    """attention_rollout with another step from layer to layer, another share that stays, or heads
    merged otherwise.
    """

    def answer(maps):
        eye = torch.eye(maps.shape[-1])
        rollout, *rest = (stay(heads(layer, dim=1), eye) for layer in maps)
        for layer in rest:
            rollout = step(layer, rollout)
        return rollout

    return answer


def _per_head(maps):
    alone = (vit.attention_rollout(maps[:, :, [head]]) for head in range(maps.shape[2]))
    return torch.stack(list(alone)).mean(0)


def _identity_once(maps):
    return (_rolled(stay=lambda layer, eye: layer)(maps) + torch.eye(maps.shape[-1])) / 2


ATTENTION_ROLLOUT = Exercise(
    id="vit.attention_rollout",
    reference=vit.attention_rollout,
    cases=_rollout_cases,
    equation="Abnar and Zuidema, section 3; ViT, Figure 6",
    points=2,
    stars=2,
    minutes=7,
    misconceptions={
        "no_identity": (
            _rolled(stay=lambda layer, eye: layer),
            "You multiplied the attention alone. The path past attention keeps a token where it is:"
            " each layer is (A + I) / 2.",
        ),
        "identity_once": (
            _identity_once,
            "You added the identity once, at the end. Every layer has a path past its attention: (A"
            " + I) / 2 in each.",
        ),
        "not_halved": (
            _rolled(stay=lambda layer, eye: layer + eye),
            "Your rows sum to 2 to the power of the depth. Halve A + I in every layer, so that rows"
            " stay shares.",
        ),
        "wrong_order": (
            _rolled(step=lambda layer, rollout: rollout @ layer),
            "The order is reversed. Row i must end with what the last layer's token i sees:"
            " multiply each further layer from the left.",
        ),
        "elementwise": (
            _rolled(step=lambda layer, rollout: layer * rollout),
            "You multiplied entry by entry. To go from i over every k to j takes the matrix"
            " product, `@`.",
        ),
        "layers_averaged": (
            lambda maps: (maps.mean((0, 2)) + torch.eye(maps.shape[-1])) / 2,
            "You averaged the layers. They act one after the other: multiply their matrices.",
        ),
        "heads_summed": (
            _rolled(heads=torch.sum),
            "You summed the heads, so each row grows with their number. Take their mean.",
        ),
        "per_head": (
            _per_head,
            "You followed each head by itself through the layers and averaged at the end. A layer's"
            " heads are mixed before the next one reads them: average in every layer.",
        ),
        "class_token_alone": (
            lambda maps: vit.attention_rollout(maps)[:, 0],
            "You return the class token's row alone. Return the whole matrix; the picture is cut"
            " from it later.",
        ),
    },
)


EXERCISES = [
    PATCHIFY,
    TOKENS_AND_POSITIONS,
    ATTENTION,
    ENCODER_BLOCK,
    COUNT_PARAMETERS,
    INTERPOLATE_POSITIONS,
    ATTENTION_DISTANCE,
    ATTENTION_ROLLOUT,
]
