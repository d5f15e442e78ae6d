"""Attention against its definition, position by position and query by query."""

import pytest
import torch

from course_lib.nn.attention import SpatialAttention, causal_attention, causal_mask

X = torch.randn(3, 8, 6, 10, generator=torch.Generator().manual_seed(0))


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.mark.parametrize("heads", [1, 2, 4])
def test_attention_position_by_position(heads):
    layer = SpatialAttention(8, heads, groups=4, eps=1e-6)
    q, k, v = (part.flatten(2) for part in layer.qkv(layer.norm(X)).chunk(3, dim=1))  # b c n
    mixed = []
    for head in range(heads):
        own = slice(head * 8 // heads, (head + 1) * 8 // heads)
        # b n n
        share = torch.softmax(q[:, own].transpose(1, 2) @ k[:, own] / (8 // heads) ** 0.5, dim=2)
        mixed.append(v[:, own] @ share.transpose(1, 2))
    expected = X + layer.out(torch.cat(mixed, dim=1).reshape(X.shape))
    torch.testing.assert_close(layer(X), expected, rtol=1e-5, atol=1e-5)


def test_attention_moves_with_its_positions():
    """Nothing in it knows where a position is."""
    layer = SpatialAttention(8, 2, groups=4, eps=1e-6)
    torch.testing.assert_close(layer(X.flip(3)), layer(X).flip(3), rtol=1e-5, atol=1e-5)


def test_heads_that_do_not_share_the_channels():
    with pytest.raises(ValueError, match="heads: expected a divisor of the 8 channels, got 3"):
        SpatialAttention(8, 3, groups=4, eps=1e-6)


@pytest.mark.parametrize("m, n", [(1, 1), (1, 4), (3, 5), (4, 4)])
def test_the_mask_shows_a_token_itself_and_all_before_it(m, n):
    assert causal_mask(m, n).tolist() == [
        [key <= n - m + row for key in range(n)] for row in range(m)
    ]


def by_definition(q, k, v):
    """One query at a time, over the keys that it may see."""
    past = k.shape[2] - q.shape[2]
    rows = []
    for i in range(q.shape[2]):
        seen = k[:, :, : past + i + 1]
        weights = (q[:, :, i : i + 1] @ seen.mT / q.shape[-1] ** 0.5).softmax(-1)
        rows.append(weights @ v[:, :, : past + i + 1])
    return torch.cat(rows, dim=2)


@pytest.mark.parametrize("m, n", [(1, 1), (1, 6), (2, 6), (5, 6), (6, 6)])
def test_causal_attention_is_right_with_and_without_a_past(m, n):
    q, k, v = (
        x.double().requires_grad_()
        for x in (random(2, 3, m, 5), random(2, 3, n, 5), random(2, 3, n, 7))
    )
    got, expected = causal_attention(q, k, v), by_definition(q, k, v)
    torch.testing.assert_close(got, expected)
    weights = random(*got.shape).double()
    for a, b in zip(
        *(torch.autograd.grad((x * weights).sum(), (q, k, v)) for x in (got, expected)), strict=True
    ):
        torch.testing.assert_close(a, b)


def test_more_queries_than_keys_are_refused():
    with pytest.raises(ValueError, match="2 keys for 3 queries"):
        causal_attention(random(1, 1, 3, 4), random(1, 1, 2, 4), random(1, 1, 2, 4))
