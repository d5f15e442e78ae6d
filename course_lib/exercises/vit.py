"""Notebook 02: the equations of ViT, its size, and what its positions and its attention say."""

from dataclasses import replace

import torch
import torch.nn.functional as F

from course_lib.checking import Exercise, edit
from course_lib.nn.patches import patchify
from course_lib.nn.transformer import encoder_parameters
from course_lib.papers import vit

# ---------------------------------------------------------------- embed_patches


def _patchify_cases(rng):
    sizes = [  # b c h w p d
        (2, 3, 4, 6, 2, 5),
        (4, 1, 9, 6, 3, 7),
        (3, 2, 5, 5, 5, 4),  # one patch
        (1, 3, 6, 4, 2, 8),  # one image
        (3, 2, 3, 4, 1, 5),  # every pixel is a patch
        (2, 3, 32, 32, 4, 96),  # the chapter's
    ]
    cases = [
        {
            "image": torch.randn(b, c, h, w, generator=rng),
            "kernel": torch.randn(d, c, p, p, generator=rng),
            "bias": torch.randn(d, generator=rng),
        }
        for b, c, h, w, p, d in sizes
    ]
    return [*cases, _in_float64(cases[0])]


def _in_float64(case):
    """Return the case with its tensors in double precision."""
    return {name: x.double() if torch.is_tensor(x) else x for name, x in case.items()}


def _feature_map(image, kernel, bias):
    """Return the convolution's output, (b d rows columns)."""
    return F.conv2d(image, kernel, bias, stride=kernel.shape[-1])


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
            edit("d (p1 p2 c)", "d (c p1 p2)"),
            "The patches are flattened as (row, column, channel), the kernel as (channel, row,"
            " column). Pixels meet the weights of other pixels: flatten both in one order.",
        ),
        "columns_first": (
            edit("b (h w)", "b (w h)", of=patchify),
            "Every token is right, but you walk through the image column by column. Reading order"
            " is (h w).",
        ),
        "transposed_patch": (
            edit("d (p1 p2 c)", "d (p2 p1 c)"),
            "The kernel is transposed relative to the patch. Its last two axes are row and column,"
            " in this order, as in the image.",
        ),
        "dilated": (
            edit("(h p1) (w p2)", "(p1 h) (p2 w)", of=patchify),
            "In `(p1 h)` the patch is the outer part, so a token collects pixels that are far"
            " apart. Neighbours share a patch when it is the inner part: `(h p1)`.",
        ),
        "no_bias": (
            edit(", bias)", ")"),
            "The bias is missing: add it to every token.",
        ),
        "overlapping": (
            lambda image, kernel, bias: F.conv2d(image, kernel, bias).flatten(2).mT,
            "Your patches overlap: the kernel moved on by one pixel. It has to move on by a whole"
            " patch, `stride=kernel.shape[-1]`.",
        ),
        "grid_kept": (
            _feature_map,
            "That is the convolution's output, (b d h w). A sequence of tokens has one axis for all"
            " places, and the width last: (b n d).",
        ),
        "width_first": (
            lambda image, kernel, bias: _feature_map(image, kernel, bias).flatten(2),
            "You return (b d n). A token is a row of `d` numbers: move that axis to the end.",
        ),
        "reshaped": (
            lambda image, kernel, bias: _feature_map(image, kernel, bias).reshape(
                len(image), -1, len(kernel)
            ),
            "`reshape` does not move axes: your tokens mix one channel's values at several places."
            " Flatten the grid, then swap the two axes.",
        ),
    },
)


# ---------------------------------------------------------------- tokens_and_positions


def _tokens_cases(rng):
    sizes = [  # b n d
        (3, 6, 4),
        (2, 4, 7),
        (1, 9, 5),  # one image
        (4, 1, 6),  # one patch
        (8, 64, 96),  # the chapter's
    ]
    cases = [
        {
            "patches": torch.randn(b, n, d, generator=rng),
            "cls_token": torch.randn(1, 1, d, generator=rng),
            "positions": torch.randn(1, n + 1, d, generator=rng),
        }
        for b, n, d in sizes
    ]
    return [*cases, _in_float64(cases[0])]


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
            edit(
                "[cls_token.expand(len(patches), -1, -1), patches]",
                "[patches, cls_token.expand(len(patches), -1, -1)]",
            ),
            "The class token is at the end. Eq. 1 puts it first, as number 0: the head reads it"
            " there.",
        ),
        "token_without_position": (
            edit("patches], dim=1)", "patches + positions[:, 1:]], dim=1)", " + positions\n", "\n"),
            "The patches are right, but the class token got no position. Put it before the patches"
            " first; then every one of the n + 1 tokens gets its own.",
        ),
        "added_before_the_token": (
            edit(
                "patches], dim=1)", "patches + positions[:, :-1]], dim=1)", " + positions\n", "\n"
            ),
            "You added positions before the class token was there, so every patch has the one of"
            " the place before it. Put the token first, then add.",
        ),
        "one_position_for_all": (
            edit("+ positions", "+ positions[:, :1]"),
            "Every token got the same position, the first. Then nothing tells them apart: each has"
            " a row of its own.",
        ),
        "no_positions": (
            edit(" + positions", ""),
            "The positions are not in your sum. Without them the model sees a bag of patches.",
        ),
        "concatenated": (
            edit(
                "patches + positions",
                "torch.cat([patches, positions.expand(len(patches), -1, -1)], dim=2)",
            ),
            "You concatenated the positions to the tokens, so the width doubled. Eq. 1 adds them;"
            " the width stays.",
        ),
        "token_not_repeated": (
            edit("cls_token.expand(len(patches), -1, -1)", "cls_token"),
            "`torch.cat` repeats nothing: there is one class token, (1 1 d), and each of the `b`"
            " images needs its own. Expand it to (b 1 d) first.",
        ),
    },
)


# ---------------------------------------------------------------- attention


def _attention_cases(rng):
    sizes = [  # b n heads d_h
        (2, 5, 3, 4),
        (3, 4, 2, 6),
        (4, 6, 1, 5),  # one head
        (3, 1, 2, 5),  # one token
        (1, 10, 4, 3),  # one image: the chapter's shuffled tokens
        (2, 65, 4, 24),  # a layer of the chapter's network
    ]
    cases = [
        {"qkv": torch.randn(b, n, 3 * heads * d, generator=rng), "heads": heads}
        for b, n, heads, d in sizes
    ]
    return [*cases, _in_float64(cases[0])]


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
            edit(" / math.sqrt(q.shape[-1])", ""),
            "The products of queries and keys are not scaled. Eq. 6 divides them by the square root"
            " of a head's width.",
        ),
        "whole_width": (
            edit("q.shape[-1]", "heads * q.shape[-1]"),
            "You divided by the root of the whole width. A product in one head has only d / heads"
            " terms: take the root of that.",
        ),
        "no_root": (
            edit("math.sqrt(q.shape[-1])", "q.shape[-1]"),
            "You divided by a head's width. A sum of d_h products of variance 1 has variance d_h:"
            " divide by its root.",
        ),
        "softmax_over_queries": (
            edit("dim=-1", "dim=-2"),
            "Your softmax runs over the queries. Row i says where token i looks: every row, the"
            " last axis, sums to 1.",
        ),
        "softmax_over_heads": (
            edit("dim=-1", "dim=1"),
            "Your softmax runs over the heads. Each head has one of its own, over the keys: the"
            " last axis.",
        ),
        "heads_innermost": (
            edit(
                "split_heads(qkv, heads)",
                'rearrange(qkv, "b n (three d heads) -> three b heads n d", three=3, heads=heads)',
                "(heads d)",
                "(d heads)",
            ),
            "You dealt the channels out to the heads one by one. A head owns a block of"
            " neighbouring channels: `(heads d)`, not `(d heads)`.",
        ),
        "heads_outermost": (
            edit("b n (three heads d)", "b n (heads three d)", of=vit.split_heads),
            "You cut into heads first, and each head into q, k, v. `qkv` holds all queries, then"
            " all keys, then all values: `(three heads d)`.",
        ),
        "keys_ask": (
            edit("q, k, v = split", "k, q, v = split"),
            "Queries and keys have changed places. Row i of A comes from query i and every key: q"
            " k^T.",
        ),
        "reshaped_back": (
            edit(
                'rearrange(weights @ v, "b heads n d -> b n (heads d)")',
                "(weights @ v).reshape(len(qkv), qkv.shape[1], -1)",
            ),
            "The attention is right, but `reshape` put the heads of several tokens into one row."
            " Move the head axis after the token axis first.",
        ),
    },
)


# ---------------------------------------------------------------- encoder_block


# Stand-ins for the layers.  No two of them commute, and none undoes, absorbs or repeats another, so
# that every order in which they can be applied gives other numbers.


def _norm1(x):
    return torch.tanh(0.7 * x - 0.4) + 0.3 * x.mean(-1, keepdim=True)


def _norm2(x):
    return x / (1.5 + (x + 0.5).abs()) - 0.2 * x[..., :1]


def _attend(x):
    """Give every token something from those before it."""
    return torch.tanh(0.8 * x + 0.2).cumsum(1)


def _mlp(x):
    """Change every token separately."""
    return torch.sin(1.4 * x) * x + 0.3


def _block_cases(rng):
    sizes = [
        (2, 4, 5),
        (3, 2, 7),
        (1, 6, 4),  # one image
        (3, 1, 5),  # one token
    ]
    stand_ins = {"norm1": _norm1, "attend": _attend, "norm2": _norm2, "mlp": _mlp}
    cases = [{"x": 2 * torch.randn(size, generator=rng) + 0.5, **stand_ins} for size in sizes]
    return [*cases, _in_float64(cases[0]), _layer_of_the_chapter(rng)]


@torch.no_grad()
def _layer_of_the_chapter(rng):
    """Return a layer of the image judge's size, with weights as after some training."""
    config = vit.ViTConfig(width=96, heads=4, mlp=192)
    block = vit.Block(config).requires_grad_(False)
    for weight in block.parameters():
        weight.normal_(std=0.1, generator=rng)
    block.norm1.weight.add_(1.0)
    block.norm2.weight.add_(1.0)
    return {
        "x": torch.randn(2, 65, config.width, generator=rng),
        "norm1": block.norm1,
        "attend": block.attention,
        "norm2": block.norm2,
        "mlp": block.mlp,
    }


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
            edit(
                "x + attend(norm1(x))",
                "norm1(x + attend(x))",
                "x + mlp(norm2(x))",
                "norm2(x + mlp(x))",
            ),
            "That is the original transformer's order: the norm after the sum. ViT normalizes what"
            " goes into a branch, and leaves the sum as it is.",
        ),
        "residual_after_norm": (
            edit("x + attend", "norm1(x) + attend", "x + mlp", "norm2(x) + mlp"),
            "You added the branch to the normalized tokens. The path past the branch carries x"
            " itself, not its norm.",
        ),
        "norm_on_output": (
            edit("attend(norm1(x))", "norm1(attend(x))", "mlp(norm2(x))", "norm2(mlp(x))"),
            "You normalized what comes out of the branches. The norm belongs before them.",
        ),
        "no_norms": (
            edit("norm1(x)", "x", "norm2(x)", "x"),
            "The sums are right, the norms are missing: attention sees norm1(x), and the MLP sees"
            " norm2 of the result.",
        ),
        "no_residuals": (
            edit("x + attend", "attend", "x + mlp", "mlp"),
            "Nothing leads past the branches. Eq. 2 and 3 add each branch to what went into its"
            " norm.",
        ),
        "parallel": (
            edit("x = x + attend", "attended = x + attend", "x + mlp", "attended + mlp"),
            "Your MLP reads the block's input. Eq. 3 lets it read the sum of Eq. 2.",
        ),
        "input_again": (
            edit("x = x + attend", "attended = x + attend", "norm2(x)", "norm2(attended)"),
            "The last sum starts from the block's input, so what attention found can reach the next"
            " layer only through the MLP. Add the MLP to the result of Eq. 2.",
        ),
        "same_norm": (
            edit("norm2(x)", "norm1(x)"),
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
    # Every field has another value, and no two parts of the sum are equal.
    wide = vit.ViTConfig(
        image_size=(6, 15),
        patch_size=3,
        channels=2,
        width=28,
        depth=5,
        heads=4,
        mlp=53,
        num_classes=11,
    )
    high = vit.ViTConfig(
        image_size=(20, 8),
        patch_size=4,
        channels=1,
        width=18,
        depth=3,
        heads=2,
        mlp=61,
        num_classes=23,
    )
    one_layer = replace(wide, depth=1, image_size=(12, 12), channels=3)
    published = [vit.VIT_CONFIGS[name] for name in ("ViT-B/32", "ViT-B/16", "ViT-L/16", "ViT-H/14")]
    return [{"config": config} for config in (wide, high, one_layer, *published)]


def _without_biases(config):
    patches_and_head = config.width + config.num_classes
    layer = 5 * config.width + config.mlp  # q, k, v and the outputs of attention and of the MLP
    return vit.count_parameters(config) - patches_and_head - config.depth * layer


def _attention_of_every_head(config):
    attention = 4 * (config.width * config.width + config.width)
    return vit.count_parameters(config) + config.depth * (config.heads - 1) * attention


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
            edit("patch_size**2 * d + d", "patch_size**2 * d"),
            "You are short by exactly one width d. Three things of that size are easily forgotten:"
            " the bias of the patch embedding, the class token, and the class token's position.",
        ),
        "last_norm": (
            edit("2 * norm) + norm", "2 * norm)", of=encoder_parameters),
            "You are short by exactly 2 d. Two things of that size are easily forgotten: the norm"
            " after the last layer (a scale and a shift), and the class token with its position.",
        ),
        "one_norm": (
            edit("2 * norm)", "norm)", of=encoder_parameters),
            "You are short by exactly 2 d in every layer. A layer has two norms, each with a scale"
            " and a shift, and five biases of d numbers: of q, k, v, and where attention and the"
            " MLP end.",
        ),
        "no_biases": (
            _without_biases,
            "You counted the weights of the linear layers, not their biases: one for each number"
            " that comes out.",
        ),
        "no_output_projection": (
            edit("4 * (width", "3 * (width", of=encoder_parameters),
            "Queries, keys and values make three matrices. Attention has a fourth, after the heads"
            " (Eq. 8).",
        ),
        "times_heads": (
            _attention_of_every_head,
            "You counted attention once per head. The heads share the width: together their"
            " matrices are d x d, however many heads there are.",
        ),
        "one_channel": (
            edit("config.channels * ", ""),
            "A patch of one channel has patch x patch numbers. Count all channels.",
        ),
        "square_picture": (
            edit("config.tokens * d", "(config.grid[0] ** 2 + 1) * d"),
            "Your count is right for square images. The grid has `config.grid[0]` rows and"
            " `config.grid[1]` columns.",
        ),
        "no_head": (
            edit(" + head", ""),
            "The head is missing: a linear layer from d numbers to the classes.",
        ),
    },
)


# ---------------------------------------------------------------- interpolate_positions


def _interpolate_cases(rng):
    grids = [
        ((2, 3), (4, 7), 5),
        ((4, 3), (3, 5), 6),
        ((5, 4), (2, 3), 4),  # smaller
        ((2, 4), (2, 4), 3),  # the same
        ((3, 3), (5, 5), 4),  # from a square to a square
        ((3, 3), (2, 5), 7),  # from a square to an oblong
        ((8, 8), (12, 12), 64),  # the chapter's
    ]
    return [
        {"positions": torch.randn(1, 1 + old[0] * old[1], d, generator=rng), "old": old, "new": new}
        for old, new, d in grids
    ]


def _stretched_as_a_line(positions, n):
    return F.interpolate(positions.mT, n, mode="linear", align_corners=True).mT


def _token_interpolated(positions, old, new):
    return _stretched_as_a_line(positions, 1 + new[0] * new[1])


def _patches_as_a_line(positions, old, new):
    patches = _stretched_as_a_line(positions[:, 1:], new[0] * new[1])
    return torch.cat([positions[:, :1], patches], dim=1)


INTERPOLATE_POSITIONS = Exercise(
    id="vit.interpolate_positions",
    reference=vit.interpolate_positions,
    cases=_interpolate_cases,
    equation="ViT, Section 3.2",
    points=2,
    stars=2,
    minutes=8,
    misconceptions={
        "token_interpolated": (
            _token_interpolated,
            "You stretched the whole sequence as a line, class token and all. The class token has"
            " no place in the image: keep its row, and interpolate the others as a grid.",
        ),
        "as_a_line": (
            _patches_as_a_line,
            "The class token is right, but you stretched the patches as a line: the end of one row"
            " was mixed with the start of the next. Lay them out as rows and columns first.",
        ),
        "corners_cut": (
            edit("align_corners=True", "align_corners=False"),
            "PyTorch's default lets the outer edges of the two grids coincide. Corners on corners"
            " is `align_corners=True`.",
        ),
        "nearest": (
            edit('"bilinear", align_corners=True', '"nearest"'),
            "You took the nearest old position, so neighbours share one. Ask for"
            ' `mode="bilinear"`.',
        ),
        "bicubic": (
            edit('"bilinear"', '"bicubic"'),
            "Bicubic is what some libraries do. The task asks for bilinear: a mean of the four old"
            " positions around.",
        ),
        "columns_first": (
            edit("1 (h w) d ->", "1 (w h) d ->", "-> 1 (h w) d", "-> 1 (w h) d"),
            "You laid the sequence out column by column. Patches are in reading order: `(h w)`,"
            " with h = old[0] rows.",
        ),
        "new_swapped": (
            edit("grid, new", "grid, new[::-1]"),
            "The new grid has its sides swapped. `new` is (rows, columns), the order that"
            " `F.interpolate` wants too.",
        ),
        "token_dropped": (
            edit("[token, ", "["),
            "The class token's position is gone. Put its row back at the start, as it was.",
        ),
        "reshaped": (
            edit(
                'rearrange(grid, "1 (h w) d -> 1 d h w", h=old[0])',
                "grid.reshape(1, -1, *old)",
                'rearrange(grid, "1 d h w -> 1 (h w) d")',
                "grid.reshape(1, -1, positions.shape[-1])",
            ),
            "`reshape` to (1 d h w) does not move axes: a channel of your grid is made of pieces of"
            " several vectors. Use `rearrange`, or swap the axes first.",
        ),
    },
)


# ---------------------------------------------------------------- attention_distance


def _distance_cases(rng):
    sizes = [  # b heads grid patch
        (2, 3, (2, 4), 16),
        (3, 2, (4, 3), 5),
        (1, 4, (3, 3), 2),  # one image
        (3, 1, (1, 5), 3),  # one head, one row of patches
        (2, 3, (3, 2), 1),  # patches of one pixel
        (2, 4, (8, 8), 4),  # the chapter's
    ]
    cases = [
        {
            "weights": torch.randn(b, heads, *2 * [1 + h * w], generator=rng).mul(2).softmax(-1),
            "grid": (h, w),
            "patch": patch,
        }
        for b, heads, (h, w), patch in sizes
    ]
    uniform = {"weights": torch.full((1, 1, 65, 65), 1 / 65), "grid": (8, 8), "patch": 4}
    return [*cases, uniform]


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
            edit("places = patch * ", "places = "),
            "Your distances are in patches. The task asks for pixels: neighbouring centres are"
            " `patch` pixels apart.",
        ),
        "not_renormalised": (
            edit("between / between.sum(-1, keepdim=True)", "between"),
            "You cut the class token out and left the rows short of 1. What fell on it is shared"
            " among the others: divide each row by its sum.",
        ),
        "token_counted": (
            edit(
                "weights[..., extra:, extra:]",
                "weights",
                "distances = (places",
                "distances = F.pad((places",
                ".sqrt()",
                ".sqrt(), (1, 0, 1, 0))",
            ),
            "This is what comes out with the class token kept, at distance 0 from everything. It"
            " has no place: leave its row and its column out, then bring the rows back to a sum"
            " of 1.",
        ),
        "manhattan": (
            edit(".square().sum(-1).sqrt()", ".abs().sum(-1)"),
            "You added the steps along rows and columns. The task asks for the straight line: the"
            " root of the sum of squares.",
        ),
        "squared": (
            edit(".sqrt()", ""),
            "The square root is missing: you averaged squared distances.",
        ),
        "normalised_over_queries": (
            edit("between.sum(-1,", "between.sum(-2,"),
            "You made the columns sum to 1. Row i holds the weights of query i, so the sum over the"
            " last axis is 1.",
        ),
        "columns_first": (
            edit("rows.flatten(), columns.flatten()", "rows.T.flatten(), columns.T.flatten()"),
            "You numbered the patches column by column. They are in reading order: patch i is in"
            " row i // grid[1].",
        ),
        "averaged_over_keys": (
            edit(".sum(-1).mean(", ".mean(-1).mean("),
            "You took a mean over the keys. The weights of a row sum to 1 already: over the keys,"
            " sum.",
        ),
        "one_number": (
            edit(".mean((0, 2))", ".mean()"),
            "You averaged over the heads too. The task asks for one number per head: some look far,"
            " some near.",
        ),
    },
)


# ---------------------------------------------------------------- attention_rollout


def _rollout_cases(rng):
    sizes = [  # depth b heads n
        (4, 2, 3, 5),
        (2, 4, 5, 3),
        (3, 1, 2, 6),  # one image
        (1, 3, 2, 4),  # one layer
        (3, 2, 1, 5),  # one head
        (6, 2, 4, 65),  # the chapter's
    ]
    return [
        {"maps": torch.randn(depth, b, heads, n, n, generator=rng).mul(2).softmax(-1)}
        for depth, b, heads, n in sizes
    ]


ATTENTION_ROLLOUT = Exercise(
    id="vit.attention_rollout",
    reference=vit.attention_rollout,
    cases=_rollout_cases,
    equation="Abnar and Zuidema, Section 3; ViT, Figure 6",
    points=2,
    stars=2,
    minutes=7,
    misconceptions={
        "no_identity": (
            edit("(layer + stay) / 2", "layer"),
            "You multiplied only the attention. The path past attention keeps a token where it is:"
            " each layer is (A + I) / 2.",
        ),
        "identity_once": (
            edit("(layer + stay) / 2", "layer", "return rollout", "return (rollout + stay) / 2"),
            "You added the identity once, at the end. Every layer has a path past its attention: (A"
            " + I) / 2 in each.",
        ),
        "not_halved": (
            edit(" / 2", ""),
            "Your rows sum to 2 to the power of the depth. Halve A + I in every layer, so that rows"
            " stay shares.",
        ),
        "wrong_order": (
            edit("(layer + stay) / 2 @ rollout", "rollout @ ((layer + stay) / 2)"),
            "The order is reversed. Row i has to end with what the last layer's token i sees:"
            " multiply each further layer from the left.",
        ),
        "elementwise": (
            edit("rollout = stay", "rollout = torch.ones_like(stay)", "2 @", "2 *"),
            "You multiplied entry by entry. To go from i over every k to j takes the matrix"
            " product, `@`.",
        ),
        "layers_averaged": (
            lambda maps: (maps.mean((0, 2)) + torch.eye(maps.shape[-1])) / 2,
            "You averaged the layers. They act one after the other: multiply their matrices.",
        ),
        "heads_summed": (
            edit("maps.mean(2)", "maps.sum(2)"),
            "You summed the heads, so each row grows with their number. Take their mean.",
        ),
        "per_head": (
            edit("maps.mean(2)", "maps", "return rollout", "return rollout.mean(1)"),
            "You followed each head separately through the layers and averaged at the end. A"
            " layer's heads are mixed before the next one reads them: average in every layer.",
        ),
        "class_token_alone": (
            edit("return rollout", "return rollout[:, 0]"),
            "You return only the class token's row. Return the whole matrix; the row for the image"
            " is cut from it later.",
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
