"""The weights of DDPM and of Improved DDPM, as others publish them.

diffusers' UNet2DModel (such as https://huggingface.co/google/ddpm-cifar10-32), for both papers.
The names do not say which of the two networks they belong to.  Ours equals theirs with these
arguments:
    DDPM           flip_sin_to_cos=False, freq_shift=1, downsample_padding=0, norm_eps=1e-6,
                   attention_head_dim=None
    Improved DDPM  flip_sin_to_cos=True, freq_shift=0, downsample_padding=1, norm_eps=1e-5,
                   resnet_time_scale_shift="scale_shift", attn_norm_num_groups=norm_num_groups
The older spelling of its attention (query, key, value, proj_attn) is read too.

openai/improved-diffusion's UNetModel with use_scale_shift_norm, only for Improved DDPM.  Without
that option its weights have the shapes of DDPM's, but belong to another network: all sides are
padded, the norms' epsilon is 1e-5, the time is [cos, sin].  So `ddpm` does not read this layout.
The rows of its packed queries, keys and values are sorted by head first; ours, by query, key and
value first.
"""

import re

import torch
from einops import rearrange
from torch import nn

from course_lib.convert.layout import Layout, Source
from course_lib.nn.attention import SpatialAttention
from course_lib.papers.ddpm import DDPMConfig

# ---------------------------------------------------------------- diffusers

DIFFUSERS_LEAVES = {
    "time": "time_emb_proj",
    "skip": "conv_shortcut",
    "attention.qkv": "to_q to_k to_v",
    "attention.norm": "group_norm",
    "attention.out": "to_out.0",
}
OLD_DIFFUSERS_LEAVES = {"query": "to_q", "key": "to_k", "value": "to_v", "proj_attn": "to_out.0"}


def diffusers_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' UNet2DModel.

    Its attention has linear layers for our 1x1 convolutions.
    """
    return _sources(model, _diffusers_names(model.config), DIFFUSERS_LEAVES, attention_axes=2)


def modern_diffusers(key: str) -> str:
    """Return a key of diffusers' layout with its attention named as it is since version 0.15."""
    pattern = rf"(\.attentions\.\d+\.)({'|'.join(OLD_DIFFUSERS_LEAVES)})(?=\.)"
    return re.sub(pattern, lambda found: found[1] + OLD_DIFFUSERS_LEAVES[found[2]], key)


def _diffusers_names(config: DDPMConfig) -> dict[str, str]:
    names = {
        "time_embed.mlp.0": "time_embedding.linear_1",
        "time_embed.mlp.2": "time_embedding.linear_2",
        "time_embed.label": "class_embedding",
        "stem": "conv_in",
        "middle.0.res": "mid_block.resnets.0",
        "middle.0.attention": "mid_block.attentions.0",
        "middle.1.res": "mid_block.resnets.1",
        "norm": "conv_norm_out",
        "out": "conv_out",
    }
    for side, blocks in (("down", config.blocks_per_level), ("up", config.blocks_per_level + 1)):
        for k in range(len(config.multipliers) * (blocks + 1)):
            # A level is its blocks, followed by the change of resolution.
            level, i = divmod(k, blocks + 1)
            names[f"{side}.{k}.res"] = f"{side}_blocks.{level}.resnets.{i}"
            names[f"{side}.{k}.attention"] = f"{side}_blocks.{level}.attentions.{i}"
            names[f"{side}.{k}.conv"] = f"{side}_blocks.{level}.{side}samplers.0.conv"
    return names


# ---------------------------------------------------------------- openai/improved-diffusion

OPENAI_RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "skip": "skip_connection",
}
OPENAI_LEAVES = OPENAI_RESIDUAL | {"attention.out": "proj_out"}


def openai_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in openai/improved-diffusion's UNetModel.

    Its attention convolves along one axis.
    """
    sources = _sources(model, _openai_names(model.config), OPENAI_LEAVES, attention_axes=3)
    for name in _attention_names(model):
        for leaf in ("qkv.weight", "qkv.bias"):
            source = sources[f"{name}.{leaf}"]
            rows = rearrange(
                torch.arange(source.shape[0]),
                "(heads three d) -> (three heads d)",
                three=3,
                heads=model.config.heads,
            )
            sources[f"{name}.{leaf}"] = Source(source.keys, source.shape, rows)
    return sources


def _openai_names(config: DDPMConfig) -> dict[str, str]:
    names = {
        "time_embed.mlp.0": "time_embed.0",
        "time_embed.mlp.2": "time_embed.2",
        "time_embed.label": "label_emb",
        "stem": "input_blocks.0.0",
        "middle.0.res": "middle_block.0",
        "middle.0.attention": "middle_block.1",
        "middle.1.res": "middle_block.2",
        "norm": "out.0",
        "out": "out.2",
    }
    levels, blocks = len(config.multipliers), config.blocks_per_level
    for k in range(levels * (blocks + 1)):
        entry = f"input_blocks.{k + 1}"
        names |= {
            f"down.{k}.res": f"{entry}.0",
            f"down.{k}.attention": f"{entry}.1",
            f"down.{k}.conv": f"{entry}.0.op",
        }
    for k in range(levels * (blocks + 2)):
        level, i = divmod(k, blocks + 2)
        # The last of a level's entries also doubles the resolution.
        entry = f"output_blocks.{level * (blocks + 1) + min(i, blocks)}"
        attends = config.image_size >> (levels - 1 - level) in config.attention_resolutions
        names |= {f"up.{k}.res": f"{entry}.0", f"up.{k}.attention": f"{entry}.1"}
        names[f"up.{k}.conv"] = f"{entry}.{2 if attends else 1}.conv"
    return names


# ---------------------------------------------------------------- both


def _sources(
    model: nn.Module, names: dict[str, str], leaves: dict[str, str], attention_axes: int
) -> dict[str, Source]:
    """Return the source of every tensor, by its layer's name or by its block's and its leaf's.

    The weights of their attention have only the first `attention_axes` axes of ours.
    """
    attentions = _attention_names(model)
    sources = {}
    for ours, tensor in model.state_dict().items():
        layer, kind = ours.rsplit(".", 1)
        block, _, leaf = layer.rpartition(".")
        in_attention = block in attentions

        if layer in names:
            theirs = [names[layer]]
        else:
            leaf = leaves.get(f"attention.{leaf}" if in_attention else leaf, leaf)
            theirs = [f"{names[block]}.{part}" for part in leaf.split()]

        rows, *rest = tensor.shape
        if in_attention:
            rest = rest[: attention_axes - 1]
        keys = tuple(f"{name}.{kind}" for name in theirs)
        sources[ours] = Source(keys, (rows // len(theirs), *rest))
    return sources


def _attention_names(model: nn.Module) -> set[str]:
    """Return the names of the model's attention layers."""
    return {name for name, m in model.named_modules() if isinstance(m, SpatialAttention)}


_DIFFUSERS = Layout("time_embedding.linear_1.weight", diffusers_sources, modern_diffusers)
DDPM_LAYOUTS = {"diffusers": _DIFFUSERS}
IMPROVED_DDPM_LAYOUTS = {
    "openai": Layout("input_blocks.0.0.weight", openai_sources),
    "diffusers": _DIFFUSERS,
}
