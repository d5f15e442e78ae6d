"""Attention in windows against torch's `MultiheadAttention` among all tokens, with a mask.

VideoPoet's code is not released.  The mask says which two tokens share a window: of the large clip,
or of the large and the small one.
"""

import pytest
import torch
from torch import nn

from course_lib.papers.videopoet_superresolution import (
    Attention,
    Layer,
    SuperResolutionConfig,
    halved,
    merge_windows,
    windows,
)

CONFIG = SuperResolutionConfig(
    grid=(3, 8, 12),
    windows=((1, 8, 4), (1, 2, 12), (3, 4, 6)),
    width=20,
    heads=5,
    mlp=28,
)
LOW = CONFIG.low_grid
WINDOWS = pytest.mark.parametrize("window", [*CONFIG.windows, (3, 8, 12), (1, 2, 2)])


def numbers(grid, window):
    """The window of every token, in reading order."""
    t, h, w = torch.meshgrid(
        *(torch.arange(n) // s for n, s in zip(grid, window, strict=True)), indexing="ij"
    )
    return (10_000 * t + 100 * h + w).flatten()


def hidden(window, low=False):
    """True where a token of the large clip (row) may not look, as MultiheadAttention has it."""
    queries = numbers(CONFIG.grid, window)
    keys = numbers(LOW, halved(window)) if low else queries
    return queries[:, None] != keys


def peer(attention):
    """torch's attention with the weights of ours."""
    width = attention.q.in_features
    theirs = nn.MultiheadAttention(width, attention.heads, batch_first=True, dtype=torch.float64)
    with torch.no_grad():
        theirs.in_proj_weight.copy_(torch.cat([attention.q.weight, attention.kv.weight]))
        theirs.in_proj_bias.copy_(torch.cat([attention.q.bias, attention.kv.bias]))
        theirs.out_proj.load_state_dict(attention.out.state_dict())
    return theirs


def ours(kind, *args):
    torch.manual_seed(0)
    model = kind(*args).double()
    for p in model.parameters():
        nn.init.normal_(p, std=0.4)
    return model


def rand(*shape, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, generator=generator, dtype=torch.float64).requires_grad_()


def close(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-9)


@WINDOWS
def test_attention_within_windows(window):
    attention = ours(Attention, 20, 5)
    theirs = peer(attention)
    x, weight = rand(2, *CONFIG.grid, 20), rand(2, *CONFIG.grid, 20, seed=1).detach()

    parts = windows(x, window)
    found = merge_windows(attention(parts, parts), window, CONFIG.grid)
    flat = x.flatten(1, 3)
    expected = theirs(flat, flat, flat, attn_mask=hidden(window), need_weights=False)[0]
    expected = expected.view_as(x)
    close(found, expected)
    gradients = torch.autograd.grad(
        (found * weight).sum(), [x, attention.q.weight, attention.kv.weight]
    )
    their_gradients = torch.autograd.grad((expected * weight).sum(), [x, theirs.in_proj_weight])
    close(gradients[0], their_gradients[0])
    close(torch.cat(gradients[1:]), their_gradients[1])


@WINDOWS
def test_attention_to_the_same_window_of_the_small_clip(window):
    attention = ours(Attention, 20, 5)
    theirs = peer(attention)
    x, low = rand(2, *CONFIG.grid, 20), rand(2, *LOW, 20, seed=2)
    weight = rand(2, *CONFIG.grid, 20, seed=1).detach()

    parts = attention(windows(x, window), windows(low, halved(window)))
    found = merge_windows(parts, window, CONFIG.grid)
    flat, keys = x.flatten(1, 3), low.flatten(1, 3)
    expected = theirs(flat, keys, keys, attn_mask=hidden(window, low=True), need_weights=False)[0]
    expected = expected.view_as(x)
    close(found, expected)
    for a, b in zip(
        torch.autograd.grad((found * weight).sum(), [x, low]),
        torch.autograd.grad((expected * weight).sum(), [x, low]),
        strict=True,
    ):
        close(a, b)


def test_attention_to_a_padded_text():
    attention = ours(Attention, 20, 5)
    theirs = peer(attention)
    x, text = rand(3, 7, 20), rand(3, 5, 20, seed=1)
    is_text = torch.tensor([[1, 1, 1, 1, 1], [1, 0, 0, 0, 0], [1, 1, 0, 1, 0]]).bool()
    found = attention(x, text, is_text)
    expected = theirs(x, text, text, key_padding_mask=~is_text, need_weights=False)[0]
    close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found.square().sum(), [x, text]),
        torch.autograd.grad(expected.square().sum(), [x, text]),
        strict=True,
    ):
        close(a, b)


@pytest.mark.parametrize("window", CONFIG.windows)
def test_a_whole_layer(window):
    layer = ours(Layer, CONFIG, window)
    x, low = rand(2, *CONFIG.grid, 20), rand(2, *LOW, 20, seed=2)
    found = layer(x, low)

    y, keys = x.flatten(1, 3), low.flatten(1, 3)
    h = layer.norms[0](y)
    y = y + peer(layer.attention)(h, h, h, attn_mask=hidden(window), need_weights=False)[0]
    h, mask = layer.norms[1](y), hidden(window, low=True)
    y = y + peer(layer.low_attention)(h, keys, keys, attn_mask=mask, need_weights=False)[0]
    gelu = nn.GELU(approximate="tanh")
    expected = (y + layer.mlp2(gelu(layer.mlp1(layer.norms[2](y))))).view_as(x)
    close(found, expected)
    for a, b in zip(
        torch.autograd.grad(found.sin().sum(), [x, low]),
        torch.autograd.grad(expected.sin().sum(), [x, low]),
        strict=True,
    ):
        close(a, b)
