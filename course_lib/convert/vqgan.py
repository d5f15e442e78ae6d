"""The weights of VQGAN and of its transformer, as others publish them.

taming: the autoencoder, VQModel of CompVis/taming-transformers.  Its loss is part of it there, so
that a file holds the networks of the loss too: their keys (loss.discriminator.*,
loss.perceptual_loss.*) are set aside.  We have no Gumbel variant; it is refused.

diffusers: its VQModel (https://huggingface.co/CompVis/ldm-celebahq-256 and the like), the same
network, with linear layers in its attention where we have 1x1 convolutions.  Ours equals it with
its defaults, lookup_from_codebook=False and norm_type="group".  The older spelling of its attention
is read too.

Both put beta on the codebook's term.  The weights do not depend on it; to continue training as they
do, use legacy=True.  Statistics that only our training keeps (how long a code has been unused, and
so on) are as in a fresh model.

taming transformer: Net2NetTransformer of the same repository.  Whatever surrounds its GPT is set
aside: the autoencoder and the network of the condition (first_stage_model.*, cond_stage_model.*),
and the causal mask in every layer (transformer.blocks.*.attn.mask).  A mask that is not causal
(n_unmasked) is refused: ours has no other.
"""

from typing import NamedTuple

import torch
from torch import Tensor, nn

from course_lib.convert.ddpm import modern_diffusers
from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.nn.attention import SpatialAttention
from course_lib.papers.vqgan import VQGAN, Transformer, VQGANConfig

# ---------------------------------------------------------------- the autoencoder


class Names(NamedTuple):
    """What a layout calls the parts of an encoder or decoder, and the layers in them.

    `layers` goes from our names to theirs; where one of ours is several of theirs, it has them all.
    """

    levels: dict[str, str]
    resize: dict[str, str]
    block: str
    attention: str
    middle: tuple[str, str, str]
    norm_out: str
    layers: dict[str, str]


SHARED = {name: name for name in ("norm1", "conv1", "norm2", "conv2", "conv")}
TAMING = Names(
    levels={"encoder": "down", "decoder": "up"},
    resize={"encoder": "downsample", "decoder": "upsample"},
    block="block",
    attention="attn",
    middle=("mid.block_1", "mid.attn_1", "mid.block_2"),
    norm_out="norm_out",
    layers=SHARED | {"skip": "nin_shortcut", "norm": "norm", "qkv": "q k v", "out": "proj_out"},
)
DIFFUSERS = Names(
    levels={"encoder": "down_blocks", "decoder": "up_blocks"},
    resize={"encoder": "downsamplers.0", "decoder": "upsamplers.0"},
    block="resnets",
    attention="attentions",
    middle=("mid_block.resnets.0", "mid_block.attentions.0", "mid_block.resnets.1"),
    norm_out="conv_norm_out",
    layers=SHARED
    | {
        "skip": "conv_shortcut",
        "norm": "group_norm",
        "qkv": "to_q to_k to_v",
        "out": "to_out.0",
    },
)


def taming_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in taming's VQModel, whose decoder counts its levels from the finest."""
    decoder = list(reversed(range(len(model.config.multipliers))))
    return fresh_statistics(model) | torch_sources(model, _layers(model.config, TAMING, decoder))


def diffusers_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' VQModel, whose decoder counts from the coarsest, as ours."""
    decoder = list(range(len(model.config.multipliers)))
    sources = torch_sources(model, _layers(model.config, DIFFUSERS, decoder))
    return fresh_statistics(model) | linear_attention(model, sources)


def linear_attention(model: nn.Module, sources: dict[str, Source]) -> dict[str, Source]:
    """Return the sources where linear layers are to become the attention's 1x1 convolutions."""
    linear = {}
    for name, module in model.named_modules():
        if isinstance(module, SpatialAttention):
            for layer in (f"{name}.qkv.weight", f"{name}.out.weight"):
                linear[layer] = Source.of(
                    model.get_parameter(layer),
                    sources[layer].keys,
                    "parts rows columns -> (parts rows) columns 1 1",
                )
    return sources | linear


def _layers(config: VQGANConfig, names: Names, decoder: list[int]) -> dict[str, str]:
    """Return their names of layers by ours; `decoder` as in `autoencoder_names`."""
    around = {
        "to_codes": "quant_conv",
        "quantizer.codebook": "quantize.embedding.weight",
        "from_codes": "post_quant_conv",
    }
    return around | autoencoder_names(config, names, decoder)


def autoencoder_names(config: VQGANConfig, names: Names, decoder: list[int]) -> dict[str, str]:
    """Return their names of an encoder's and a decoder's layers by ours.

    `decoder`: the numbers they give its levels, from the coarsest to the finest.
    """
    layers = {}
    sides = (
        ("encoder", sorted(decoder), config.blocks),
        ("decoder", decoder, config.blocks + 1),
    )
    for side, levels, blocks in sides:
        layers[f"{side}.conv_in"] = f"{side}.conv_in"
        layers[f"{side}.conv_out"] = f"{side}.conv_out"
        layers[f"{side}.norm_out"] = f"{side}.{names.norm_out}"

        parts = {f"middle.{i}": theirs for i, theirs in enumerate(names.middle)}
        for i, level in enumerate(levels):
            theirs = f"{names.levels[side]}.{level}"
            for j in range(blocks):
                parts[f"levels.{i}.{2 * j}"] = f"{theirs}.{names.block}.{j}"
                parts[f"levels.{i}.{2 * j + 1}"] = f"{theirs}.{names.attention}.{j}"
            parts[f"levels.{i}.{2 * blocks}"] = f"{theirs}.{names.resize[side]}"

        for part, theirs in parts.items():
            for ours, several in names.layers.items():
                layers[f"{side}.{part}.{ours}"] = " ".join(
                    f"{side}.{theirs}.{layer}" for layer in several.split()
                )
    return layers


def fresh_statistics(model: nn.Module) -> dict[str, Source]:
    """Return the quantizer's training statistics, which no layout has, as in a fresh model."""
    return {
        f"quantizer.{name}": Source((), tuple(value.shape))
        for name, value in model.quantizer.named_buffers()
    }


def _is_loss(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor of taming's VQModel belongs to its loss."""
    return key.startswith(("loss.discriminator.", "loss.perceptual_loss."))


# ---------------------------------------------------------------- the transformer


def taming_transformer_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in taming's Net2NetTransformer."""
    names = {
        "tokens": "transformer.tok_emb",
        "positions": "transformer.pos_emb",
        "norm": "transformer.ln_f",
        "head": "transformer.head",
    }
    for i in range(model.config.depth):
        block = f"transformer.blocks.{i}"
        names |= {
            f"blocks.{i}.norm1": f"{block}.ln1",
            f"blocks.{i}.qkv": f"{block}.attn.query {block}.attn.key {block}.attn.value",
            f"blocks.{i}.out": f"{block}.attn.proj",
            f"blocks.{i}.norm2": f"{block}.ln2",
            f"blocks.{i}.mlp.0": f"{block}.mlp.0",
            f"blocks.{i}.mlp.2": f"{block}.mlp.2",
        }
    return torch_sources(model, names)


def _is_around_transformer(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is of another network in Net2NetTransformer, or its causal mask."""
    if key.startswith("transformer.blocks.") and key.endswith(".attn.mask"):
        return value.ndim == 4 and torch.equal(value, torch.ones_like(value).tril())
    return key.startswith(("first_stage_model.", "cond_stage_model."))


VQGAN_LAYOUTS = {
    "taming": Layout(
        "encoder.down.0.block.0.conv1.weight", taming_sources, model=VQGAN, set_aside=_is_loss
    ),
    "diffusers": Layout(
        "encoder.down_blocks.0.resnets.0.conv1.weight", diffusers_sources, modern_diffusers, VQGAN
    ),
    "taming transformer": Layout(
        "transformer.tok_emb.weight",
        taming_transformer_sources,
        model=Transformer,
        set_aside=_is_around_transformer,
    ),
}
