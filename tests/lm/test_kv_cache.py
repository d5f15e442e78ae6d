"""The cache of keys and values against attention without one, and its ways to be used wrongly."""

import pytest
import torch

from course_lib.lm.kv_cache import KVCache
from tests.lm.gpt import GPT


def random(*shape):
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def test_it_gives_back_all_that_came_layer_by_layer():
    # layers b heads n d; values of another width than keys
    k, v = random(2, 3, 5, 7, 4), random(2, 3, 5, 7, 6)
    cache = KVCache(layers=2, length=9)
    for start, end in [(0, 3), (3, 4), (4, 4), (4, 7)]:
        for layer in range(2):
            assert len(cache) == start  # in the middle of a pass too
            keys, values = cache.extend(layer, k[layer, :, :, start:end], v[layer, :, :, start:end])
            assert torch.equal(keys, k[layer, :, :, :end]) and torch.equal(
                values, v[layer, :, :, :end]
            )
        assert len(cache) == end


def test_memory_is_taken_once_and_in_the_type_that_comes():
    cache = KVCache(layers=1, length=5)
    k = random(2, 3, 1, 4).bfloat16()
    views = [cache.extend(0, k, k + i)[1] for i in range(5)]
    assert views[0].dtype == torch.bfloat16
    assert len({view.data_ptr() for view in views}) == 1
    for n, view in enumerate(views, start=1):  # earlier views are as they were
        assert torch.equal(view, torch.cat([k + i for i in range(n)], dim=2))


def test_overflow_says_what_it_holds_and_what_came():
    cache = KVCache(layers=1, length=5)
    k = random(2, 3, 4, 4)
    cache.extend(0, k, k)
    with pytest.raises(ValueError, match="at most 5 tokens, got 2 more on top of 4"):
        cache.extend(0, k[:, :, :2], k[:, :, :2])
    assert len(cache) == 4
    cache.extend(0, k[:, :, :1], k[:, :, :1])
    assert len(cache) == 5


@pytest.mark.parametrize("b, heads", [(1, 3), (2, 1)])
def test_another_batch_is_refused_and_not_copied_to_all(b, heads):
    cache, k = KVCache(layers=1, length=5), random(2, 3, 1, 4)
    cache.extend(0, k, k)
    with pytest.raises(ValueError, match=r"to be \(2, 3\) as before, got"):
        cache.extend(0, k[:b, :heads], k[:b, :heads])


def test_a_layer_out_of_turn_is_refused():
    k = random(2, 3, 1, 4)
    twice, short = KVCache(layers=2, length=5), KVCache(layers=3, length=5)
    twice.extend(0, k, k)
    with pytest.raises(ValueError, match="every layer once"):
        twice.extend(0, k, k)
    # a pass of a model that has fewer layers than the cache
    short.extend(0, k, k), short.extend(1, k, k)
    with pytest.raises(
        ValueError, match="the last of 3 last: layer 0 has 1 tokens, the last one 0"
    ):
        short.extend(0, k, k)


@torch.no_grad()
def test_a_model_fed_in_parts_gives_the_logits_of_the_whole():
    model, tokens = (
        GPT().double(),
        torch.randint(0, 11, (3, 13), generator=torch.Generator().manual_seed(0)),
    )
    whole, cache = model(tokens), KVCache(layers=2, length=13)
    parts = [model(part, cache) for part in tokens.split([1, 4, 1, 7], dim=1)]
    torch.testing.assert_close(torch.cat(parts, dim=1), whole)
