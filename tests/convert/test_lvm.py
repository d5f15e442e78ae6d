"""The weights of LVM's transformer, in both layouts, and what is refused."""

import numpy as np
import pytest
import torch

from course_lib.convert import load_official
from course_lib.papers.lvm import LVMConfig, Transformer
from tests.parity.peers import llama_as_easylm, randomize, transformers_llama

CONFIG = LVMConfig(
    width=24, mlp=17, depth=2, heads=3, image=(2, 3), num_codes=11, specials=5, context=25
)
INVERSE = "model.layers.{}.self_attn.rotary_emb.inv_freq"


def llama(config=CONFIG):
    return dict(randomize(transformers_llama(config)).state_dict())


def easylm(config=CONFIG):
    return llama_as_easylm(llama(config), config)


def flat(tree, join=".", around=()):
    found = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= flat(value, join, (*around, key))
        else:
            found[join.join((*around, key))] = value
    return found


def refusal(weights, **options):
    with pytest.raises(ValueError) as raised:
        load_official("lvm", weights, CONFIG, **options)
    return str(raised.value)


def to_llama(model):
    """The way back: our model in transformers' layout, by the definition of its rotation."""
    c = model.config
    state = model.state_dict()
    half = c.head_width // 2
    found = {
        "model.embed_tokens.weight": state["tokens.weight"],
        "model.norm.weight": state["norm.weight"],
        "lm_head.weight": state["head.weight"],
    }
    for i in range(c.depth):
        theirs, ours = f"model.layers.{i}", f"blocks.{i}"
        for part, weight in zip("qkv", state[f"{ours}.qkv.weight"].chunk(3), strict=True):
            if part in "qk":
                rows = [
                    head * c.head_width + 2 * pair + number
                    for head in range(c.heads)
                    for number in range(2)
                    for pair in range(half)
                ]
                weight = weight[rows]
            found[f"{theirs}.self_attn.{part}_proj.weight"] = weight
        gate, up = state[f"{ours}.mlp1.weight"].chunk(2)
        found |= {
            f"{theirs}.self_attn.o_proj.weight": state[f"{ours}.out.weight"],
            f"{theirs}.mlp.gate_proj.weight": gate,
            f"{theirs}.mlp.up_proj.weight": up,
            f"{theirs}.mlp.down_proj.weight": state[f"{ours}.mlp2.weight"],
            f"{theirs}.input_layernorm.weight": state[f"{ours}.norm1.weight"],
            f"{theirs}.post_attention_layernorm.weight": state[f"{ours}.norm2.weight"],
        }
    return found


def test_there_and_back():
    torch.manual_seed(0)
    model = Transformer(CONFIG)
    theirs = to_llama(model)
    peer = transformers_llama(CONFIG)
    peer.load_state_dict(theirs)
    for weights in (theirs, llama_as_easylm(theirs, CONFIG)):
        back = load_official("lvm", weights, CONFIG).state_dict()
        assert all(torch.equal(back[key], value) for key, value in model.state_dict().items())
    ids = torch.arange(12).view(2, 6)
    torch.testing.assert_close(model(ids), peer.eval()(input_ids=ids).logits, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("join", [".", "/"])
@pytest.mark.parametrize("around", [(), ("params",), ("params", "params")], ids=str)
def test_easylm_s_arrays_are_read_nested_or_flat(join, around):
    tree = easylm()
    expected = load_official("lvm", llama(), CONFIG).state_dict()
    nested = tree
    for folder in around:
        nested = {folder: nested}
    for weights in (nested, flat(tree, join, around)):
        got = load_official("lvm", weights, CONFIG).state_dict()
        assert all(torch.equal(got[key], value) for key, value in expected.items())


def test_half_precision_is_widened():
    halves = {key: value.astype(np.float16) for key, value in flat(easylm()).items()}
    model = load_official("lvm", halves, CONFIG)
    theirs = torch.from_numpy(halves["lm_head.kernel"]).T.float()
    assert torch.equal(model.head.weight, theirs)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_the_frequencies_of_older_files_are_set_aside(dtype):
    weights = llama()
    inverse = 10_000.0 ** (-torch.arange(0, 8, 2) / 8)
    for i in range(2):
        weights[INVERSE.format(i)] = inverse.to(dtype)
    load_official("lvm", weights, CONFIG)
    for wrong in (500_000.0 ** (-torch.arange(0, 8, 2) / 8), inverse[:3], inverse[None]):
        weights[INVERSE.format(1)] = wrong
        assert f"not wanted, 1:\n  {INVERSE.format(1)}" in refusal(weights)


# ---------------------------------------------------------------- what is refused


def test_what_is_missing_misshapen_or_unknown_is_named():
    weights = llama()
    block = "model.layers.1"
    del weights[f"{block}.mlp.up_proj.weight"]
    weights |= {
        f"{block}.self_attn.k_proj.weight": torch.zeros(8, 24),
        f"{block}.self_attn.q_proj.bias": torch.ones(24),
    }
    message = refusal(weights)
    assert f"missing, 1:\n  {block}.mlp.up_proj.weight\n" in message
    assert f"not wanted, 1:\n  {block}.self_attn.q_proj.bias\n" in message
    assert f"{block}.self_attn.k_proj.weight has shape (8, 24), expected (24, 24)" in message


def test_no_key_of_either_layout_may_be_left_out():
    for layout, weights in (("transformers Llama", llama()), ("EasyLM", flat(easylm()))):
        for key in weights:
            rest = {other: value for other, value in weights.items() if other != key}
            assert f"missing, 1:\n  {key}" in refusal(rest, layout=layout)


def test_the_head_is_not_the_embedding():
    """Files of tied models have no head."""
    weights = llama()
    del weights["lm_head.weight"]
    assert "missing, 1:\n  lm_head.weight" in refusal(weights)


def test_a_kernel_of_torch_s_orientation():
    weights = flat(easylm())
    name = "transformer.h.0.feed_forward.w1.kernel"
    weights[name] = weights[name].T
    assert f"{name} has shape (17, 24), expected (24, 17)" in refusal(weights)


def test_other_depths_and_other_networks():
    deeper = LVMConfig(**{**vars(CONFIG), "depth": 3})
    assert "model.layers.2.input_layernorm.weight" in refusal(llama(deeper))
    gpt = {"transformer.tok_emb.weight": torch.zeros(2, 2)}
    message = refusal(gpt)
    assert "recognized none among transformer.tok_emb.weight" in message
    assert "EasyLM by 'transformer.wte.embedding'" in message
    assert "recognized transformers Llama and EasyLM" in refusal(llama() | flat(easylm()))


def test_the_same_tensor_under_two_spellings():
    weights = flat(easylm())
    weights["params.lm_head.kernel"] = weights["lm_head.kernel"]
    assert "newer spelling too: params.lm_head.kernel" in refusal(weights)


def test_trees_of_anything_but_arrays():
    tree = easylm()
    tree["lm_head"]["kernel"] = [1.0]
    assert "these are not: lm_head.kernel (list)" in refusal(tree)
    tree["lm_head"] = tree
    assert "these are not:" in refusal(tree)
