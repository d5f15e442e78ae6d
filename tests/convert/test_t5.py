"""The weights of T5's encoder, as published."""

import pytest
import torch

from course_lib.convert import load_official
from course_lib.nn.t5 import T5Config, T5Encoder
from tests.parity.peers import randomize, transformers_t5

CONFIG = T5Config(vocabulary=11, width=8, depth=2, heads=2, head_width=3, mlp=12)
OWN = "encoder.embed_tokens.weight"


def published():
    """As the encoder is published alone: the embedding is there once."""
    weights = dict(randomize(transformers_t5(CONFIG)).state_dict())
    weights.pop(OWN, None)
    return weights


def whole():
    """The whole model, with decoder and head."""
    return dict(randomize(transformers_t5(CONFIG, whole=True)).state_dict())


def refusal(weights, **options):
    with pytest.raises(ValueError) as raised:
        load_official("cogvideox", weights, CONFIG, **options)
    return str(raised.value)


def test_every_number_arrives():
    weights = published()
    model = load_official("cogvideox", weights, CONFIG)
    assert type(model) is T5Encoder
    sides = (model.state_dict().values(), weights.values())
    one, other = (torch.cat([v.flatten() for v in side]).sort().values for side in sides)
    assert torch.equal(one, other)


def test_the_embedding_may_be_there_twice():
    weights = published()
    twice = weights | {OWN: weights["shared.weight"]}
    one, other = (load_official("cogvideox", w, CONFIG).state_dict() for w in (weights, twice))
    assert all(torch.equal(one[key], other[key]) for key in one)


def test_the_encoder_of_the_whole_model_is_read():
    weights = whole()
    assert any(key.startswith("decoder.") for key in weights)
    model = load_official("cogvideox", weights, CONFIG)
    assert torch.equal(model.tokens.weight, weights["shared.weight"])


def test_what_is_missing_misshapen_or_unknown_is_named():
    weights = published()
    block = "encoder.block.1.layer.0"
    del weights[f"{block}.layer_norm.weight"]
    weights |= {
        f"{block}.SelfAttention.o.weight": torch.zeros(3, 8),
        f"{block}.lora": torch.ones(2),
    }
    message = refusal(weights)
    assert f"missing, 1:\n  {block}.layer_norm.weight\n" in message
    assert f"not wanted, 1:\n  {block}.lora\n" in message
    assert f"{block}.SelfAttention.o.weight has shape (3, 8), expected (8, 6)" in message


def test_the_paper_s_own_version_is_refused():
    """Version 1.0 has one layer, wi, where 1.1 has two."""
    weights = published()
    for i in range(2):
        mlp = f"encoder.block.{i}.layer.1.DenseReluDense"
        weights[f"{mlp}.wi.weight"] = weights.pop(f"{mlp}.wi_0.weight")
        del weights[f"{mlp}.wi_1.weight"]
    message = refusal(weights)
    assert "missing, 4:\n  encoder.block.0.layer.1.DenseReluDense.wi_0.weight" in message
    assert "not wanted, 2:\n  encoder.block.0.layer.1.DenseReluDense.wi.weight" in message


def test_a_model_of_another_depth_is_refused():
    deeper = dict(randomize(transformers_t5(T5Config(**{**vars(CONFIG), "depth": 3}))).state_dict())
    assert "encoder.block.2.layer.0.layer_norm.weight" in refusal(deeper)


def test_another_network_is_not_recognized():
    clip = {"text_model.embeddings.token_embedding.weight": torch.zeros(2, 2)}
    assert "recognized none among" in refusal(clip)
