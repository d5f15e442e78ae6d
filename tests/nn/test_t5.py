"""T5's encoder: its buckets, and what it refuses.  Equality with its peer is in tests/parity."""

import pytest
import torch

from course_lib import zoo
from course_lib.nn.t5 import T5Config, T5Encoder, distance_bucket

TINY = T5Config(vocabulary=11, width=8, depth=2, heads=2, head_width=3, mlp=12)


def test_buckets_of_known_distances():
    """The table of T5's own: exact up to 7, then wider; 16 more for keys ahead of the query."""
    known = {0: 0, 1: 17, -1: 1, 7: 23, 8: 24, 12: 25, 16: 26, 23: 27, 32: 28, 46: 29, 64: 30}
    known |= {91: 31, 128: 31, 10_000: 31, -7: 7, -8: 8, -128: 15, -10_000: 15}
    assert distance_bucket(torch.tensor(list(known))).tolist() == list(known.values())


def test_only_distances_tell_places_apart():
    """Places as far apart as others have the same scores; one table serves all layers."""
    torch.manual_seed(0)
    model = T5Encoder(TINY)
    bias = model.distances.bias(9)
    assert bias.shape == (2, 9, 9)
    torch.testing.assert_close(bias[:, :-1, :-1], bias[:, 1:, 1:])
    assert sum("distances" in name for name, _ in model.named_parameters()) == 1


def test_without_distances_it_sees_a_bag_of_words():
    torch.manual_seed(0)
    model = T5Encoder(TINY)
    tokens = torch.tensor([[1, 2, 3, 4, 5]])
    order = torch.tensor([3, 0, 4, 1, 2])
    told_apart = model(tokens)[:, order] - model(tokens[:, order])
    assert told_apart.abs().max() > 1e-2
    torch.nn.init.zeros_(model.distances.weight)
    torch.testing.assert_close(model(tokens)[:, order], model(tokens[:, order]))


def test_what_a_mask_hides_changes_nothing():
    torch.manual_seed(0)
    model = T5Encoder(TINY)
    tokens = torch.tensor([[3, 4, 5, 0, 0], [6, 7, 8, 9, 0]])
    mask = tokens != 0
    padded = torch.where(mask, tokens, 10)
    torch.testing.assert_close(model(tokens, mask)[mask], model(padded, mask)[mask])
    assert (model(tokens)[mask] - model(padded)[mask]).abs().max() > 1e-2  # without: attended to
    torch.testing.assert_close(model(tokens[:1, :3])[0], model(tokens, mask)[0, :3])


def test_where_float16_runs_over_float32_does_not():
    torch.manual_seed(0)
    model = T5Encoder(TINY)
    with torch.no_grad():
        for block in model.blocks:
            block.mlp1.weight.mul_(100)
            block.mlp2.weight.mul_(1000)
    tokens = torch.arange(11)[None]
    expected = model(tokens)
    largest = max(
        block.mlp(block.norm1(model.tokens(tokens))).abs().max() for block in model.blocks
    )
    assert largest > 65_504
    torch.testing.assert_close(model.half()(tokens).float(), expected, rtol=0, atol=2e-2)


def test_masks_and_configs_that_make_no_sense():
    model = T5Encoder(TINY)
    with pytest.raises(ValueError, match=r"a mask of the tokens' shape \(2, 5\), got \(2, 4\)"):
        T5Encoder.forward.__wrapped__(  # past jaxtyping, which would find it first
            model, torch.zeros(2, 5, dtype=torch.int64), torch.ones(2, 4, dtype=torch.bool)
        )
    with pytest.raises(ValueError, match="buckets: expected a multiple of 4, got 6"):
        T5Config(buckets=6)
    with pytest.raises(ValueError, match=r"farthest: expected more than 8, .* got 8"):
        T5Config(farthest=8)
    with pytest.raises(ValueError, match="heads: expected at least 1, got 0"):
        T5Config(heads=0)


def test_fresh_weights_keep_the_scores_small():
    """Without scaling the scores: their deviation is about 1 at the start."""
    torch.manual_seed(0)
    model = zoo.build("cogvideox/T5-tiny")
    x = torch.randn(4, 24, 64)
    q, k, _ = model.blocks[0].qkv(x).chunk(3, dim=-1)
    q, k = (part.unflatten(-1, (4, 16)).transpose(1, 2) for part in (q, k))
    assert 0.5 < (q @ k.mT).std() < 2
