"""T5's encoder against transformers', in values, gradients and counts."""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.nn.t5 import T5Config, distance_bucket
from tests.parity.peers import largest_difference, randomize, transformers_t5


def config(**changes):
    odd = dict(vocabulary=53, width=20, depth=2, heads=3, head_width=7, mlp=37)
    return T5Config(**{**odd, **changes})


CONFIGS = {
    "one layer, one head": config(depth=1, heads=1),
    "two layers, heads that do not make up the width": config(),
    "five layers, other buckets": config(depth=5, buckets=12, farthest=19, head_width=5),
    "as the course trains it": zoo.find("cogvideox/T5-tiny").config,
}
LENGTHS = (1, 7, 33, 151)  # the last is beyond the farthest distance


def sentences(config, length, batch=3):
    generator = torch.Generator().manual_seed(length)
    return torch.randint(config.vocabulary, (batch, length), generator=generator)


def some_hidden(tokens):
    """Masks of different lengths, one with a hole."""
    b, n = tokens.shape
    mask = torch.arange(n) < torch.tensor([n, max(n // 2, 1), max(n - 2, 1)])[:b, None]
    mask[0, 1::3] = False
    return mask


def pair(config):
    peer = randomize(transformers_t5(config)).eval()
    return load_official("cogvideox", peer.state_dict(), config), peer


@pytest.mark.parametrize("masked", [False, True], ids=["all tokens", "a mask"])
@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_equal_transformers(name, length, masked):
    config = CONFIGS[name]
    model, peer = pair(config)
    tokens = sentences(config, length)
    mask = some_hidden(tokens) if masked else None
    got = model(tokens, mask)
    expected = peer(input_ids=tokens, attention_mask=mask).last_hidden_state
    assert got.shape == expected.shape
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})

    generator = torch.Generator().manual_seed(2)
    probe = torch.randn(got.shape, generator=generator) / got[0].numel() ** 0.5
    (probe * expected).sum().backward()
    (probe * got).sum().backward()
    # Converting is linear: their gradients by our names.
    theirs = {name: p.grad for name, p in peer.named_parameters()}
    theirs = load_official("cogvideox", theirs, config).state_dict()
    ours = {name: p.grad for name, p in model.named_parameters()}
    slopes = largest_difference(ours, dict(theirs))
    print(f"{name}, {length} tokens: values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-5 and slopes < 1e-5


def test_in_double_precision_they_agree_to_a_billionth(monkeypatch):
    """Their norm computes its variance in float32 always: here, in double precision."""
    from transformers.models.t5.modeling_t5 import T5LayerNorm

    def norm(self, x):
        return self.weight * x * (x.pow(2).mean(-1, keepdim=True) + self.variance_epsilon).rsqrt()

    monkeypatch.setattr(T5LayerNorm, "forward", norm)
    config = CONFIGS["five layers, other buckets"]
    model, peer = pair(config)
    tokens = sentences(config, 33)
    expected = peer.double()(input_ids=tokens).last_hidden_state
    torch.testing.assert_close(model.double()(tokens), expected, rtol=0, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_in_half_precision_both_are_as_near_to_the_truth(dtype):
    """Of transformers' loaded in float16, `wo` stays in float32."""
    config = CONFIGS["five layers, other buckets"]
    model, peer = pair(config)
    tokens = sentences(config, 33)
    truth = model(tokens)
    peer = peer.to(dtype)
    if dtype == torch.float16:
        for block in peer.encoder.block:
            block.layer[1].DenseReluDense.wo.float()
    ours, theirs = model.to(dtype)(tokens), peer(input_ids=tokens).last_hidden_state
    assert ours.dtype == dtype
    one, other = ((half.float() - truth).abs().mean().item() for half in (ours, theirs))
    print(f"{dtype}: ours {one:.1e}, theirs {other:.1e}")
    assert one < 1.1 * other + 1e-6


@pytest.mark.parametrize(("buckets", "farthest"), [(32, 128), (12, 19), (64, 500)])
def test_buckets_equal_transformers(buckets, farthest):
    from transformers.models.t5.modeling_t5 import T5Attention

    ahead = torch.arange(-1000, 1001)
    options = dict(num_buckets=buckets, max_distance=farthest)
    expected = T5Attention._relative_position_bucket(ahead, **options)
    assert torch.equal(distance_bucket(ahead, buckets, farthest), expected)


COUNTS = {"cogvideox/T5-v1.1-XXL": 4_762_310_656, "cogvideox/T5-v1.1-XL": 1_223_527_424}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_transformers(name):
    with torch.device("meta"):
        models = zoo.build(name), transformers_t5(zoo.find(name).config)
    ours, theirs = (sum(p.numel() for p in model.parameters()) for model in models)
    assert ours == theirs == COUNTS[name]
