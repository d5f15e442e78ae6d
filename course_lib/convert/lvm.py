"""The weights of LVM's transformer, as others publish them.

transformers: LlamaForCausalLM, in which the released model comes.  Its rotation pairs number i of a
head with number i + d/2, ours and EasyLM's number 2i with 2i + 1, so that the rows of its queries
and keys are in another order: first all first numbers of the pairs, then all second ones.  Older
files hold the frequencies of the rotation once in every layer; they are set aside if they are ours.
It has our values with rms_norm_eps=1e-6, an untied head, as many heads of keys as of queries, and
no biases.

EasyLM: what the official code saves, a tree of flax's layers: kernels with their inputs first.  It
is read as nested dicts or flat, its names joined by "." or "/", with "params" around it or not.
"""

import torch
from einops import rearrange
from torch import Tensor, nn

from course_lib.convert.layout import STACKED, Layout, Source, torch_sources
from course_lib.nn.rope import THETA
from course_lib.papers.lvm import LVMConfig, Transformer

# ---------------------------------------------------------------- transformers

INVERSE = ".self_attn.rotary_emb.inv_freq"


def transformers_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in LlamaForCausalLM."""
    names = {"tokens": "model.embed_tokens", "norm": "model.norm", "head": "lm_head"}
    for i in range(model.config.depth):
        block = f"model.layers.{i}"
        qkv = " ".join(f"{block}.self_attn.{part}_proj" for part in "qkv")
        names |= {
            f"blocks.{i}.norm1": f"{block}.input_layernorm",
            f"blocks.{i}.qkv": qkv,
            f"blocks.{i}.out": f"{block}.self_attn.o_proj",
            f"blocks.{i}.norm2": f"{block}.post_attention_layernorm",
            f"blocks.{i}.mlp1": f"{block}.mlp.gate_proj {block}.mlp.up_proj",
            f"blocks.{i}.mlp2": f"{block}.mlp.down_proj",
        }
    sources = torch_sources(model, names)
    rows = rows_of_pairs(model.config)
    for i in range(model.config.depth):
        source = sources[f"blocks.{i}.qkv.weight"]
        sources[f"blocks.{i}.qkv.weight"] = Source(source.keys, source.shape, rows)
    return sources


def rows_of_pairs(config: LVMConfig) -> Tensor:
    """Return which of their rows of q, k and v, one after the other, becomes each row of ours."""
    rows = torch.arange(3 * config.width, device="cpu")
    qk, v = rows.split([2 * config.width, config.width])
    heads = 2 * config.heads
    pairs = rearrange(qk, "(heads two half) -> (heads half two)", heads=heads, two=2)
    return torch.cat([pairs, v])


def _is_frequencies(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is the frequencies of our rotation, up to the digits of float16."""
    if not (key.startswith("model.layers.") and key.endswith(INVERSE)):
        return False
    width = model.config.head_width
    ours = THETA ** (-torch.arange(0, width, 2, device=value.device) / width)
    return value.shape == ours.shape and torch.allclose(value.float(), ours, rtol=1e-2, atol=1e-6)


# ---------------------------------------------------------------- EasyLM

KERNEL = "parts i o -> (parts o) i"  # a flax kernel has its inputs first


def easylm_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in EasyLM's FlaxLLaMAForCausalLM."""
    names = {
        "tokens": ("transformer.wte.embedding", STACKED),
        "norm": ("transformer.ln_f.kernel", STACKED),
        "head": ("lm_head.kernel", KERNEL),
    }
    for i in range(model.config.depth):
        block = f"transformer.h.{i}"
        qkv = " ".join(f"{block}.attention.{part}.kernel" for part in ("wq", "wk", "wv"))
        mlp = f"{block}.feed_forward"
        names |= {
            f"blocks.{i}.norm1": (f"{block}.attention_norm.kernel", STACKED),
            f"blocks.{i}.qkv": (qkv, KERNEL),
            f"blocks.{i}.out": (f"{block}.attention.wo.kernel", KERNEL),
            f"blocks.{i}.norm2": (f"{block}.ffn_norm.kernel", STACKED),
            f"blocks.{i}.mlp1": (f"{mlp}.w1.kernel {mlp}.w3.kernel", KERNEL),
            f"blocks.{i}.mlp2": (f"{mlp}.w2.kernel", KERNEL),
        }
    sources = {}
    for layer, (keys, axes) in names.items():
        tensor = model.get_parameter(f"{layer}.weight")
        sources[f"{layer}.weight"] = Source.of(tensor, tuple(keys.split()), axes)
    return sources


def joined_by_dots(key: str) -> str:
    """Return the name of a tensor without what is around the model, joined by dots."""
    return key.replace("/", ".").removeprefix("params.").removeprefix("params.")


LVM_LAYOUTS = {
    "transformers Llama": Layout(
        "model.embed_tokens.weight",
        transformers_sources,
        model=Transformer,
        set_aside=_is_frequencies,
    ),
    "EasyLM": Layout(
        "transformer.wte.embedding", easylm_sources, modern=joined_by_dots, model=Transformer
    ),
}
