"""The weights of CogVideoX, as others publish them: the transformer and the autoencoder.

diffusers: its CogVideoXTransformer3DModel and AutoencoderKLCogVideoX, the folders transformer and
vae of a published model.  Its pipeline has another epsilon than the authors:
`CogVideoXConfig(norm_eps=1e-5)` is its transformer.

sat: the authors' own.  Of mp_rank_00_model_states.pt, in which all networks may be, the transformer
is model.diffusion_model.*; it may also come by itself, without its prefix.  Set aside are the other
networks, and a table of positions or rotations that is not learned.  The autoencoder is 3d-vae.pt;
what belongs to its training loss is set aside.
"""

import torch
from torch import Tensor, nn

from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.papers.cogvideox import Transformer
from course_lib.papers.cogvideox_vae import (
    CogVideoXVAE,
    Downsample,
    ResBlock,
    SpatialNorm,
    Upsample,
)

# ---------------------------------------------------------------- the transformer

TRANSFORMER_PREFIX = "model.diffusion_model."
# Ours -> theirs.
DIFFUSERS = {
    "patch_embed": "patch_embed.proj",
    "text_embed": "patch_embed.text_proj",
    "positions": "patch_embed.pos_embedding",
    "time_embed.0": "time_embedding.linear_1",
    "time_embed.2": "time_embedding.linear_2",
    "offset_embed.0": "ofs_embedding.linear_1",
    "offset_embed.2": "ofs_embedding.linear_2",
    "norm": "norm_final",
    "head.norm": "norm_out.norm",
    "head.modulation": "norm_out.linear",
    "head.out": "proj_out",
}
DIFFUSERS_BLOCK = {
    "norm1": "norm1.norm",
    "experts1": "norm1.linear",
    "norm2": "norm2.norm",
    "experts2": "norm2.linear",
    "attention.query": "attn1.to_q",
    "attention.key": "attn1.to_k",
    "attention.value": "attn1.to_v",
    "attention.norm_query": "attn1.norm_q",
    "attention.norm_key": "attn1.norm_k",
    "attention.out": "attn1.to_out.0",
    "mlp.0": "ff.net.0.proj",
    "mlp.2": "ff.net.2",
}
SAT = {
    "patch_embed": "mixins.patch_embed.proj",
    "text_embed": "mixins.patch_embed.text_proj",
    "positions": "mixins.pos_embed.pos_embedding",
    "time_embed.0": "time_embed.0",
    "time_embed.2": "time_embed.2",
    "offset_embed.0": "ofs_embed.0",
    "offset_embed.2": "ofs_embed.2",
    "norm": "transformer.final_layernorm",
    "head.norm": "mixins.final_layer.norm_final",
    "head.modulation": "mixins.final_layer.adaLN_modulation.1",
    "head.out": "mixins.final_layer.linear",
}
SAT_BLOCK = {
    "norm1": "transformer.layers.{}.input_layernorm",
    "norm2": "transformer.layers.{}.post_attention_layernorm",
    "attention.norm_query": "mixins.adaln_layer.query_layernorm_list.{}",
    "attention.norm_key": "mixins.adaln_layer.key_layernorm_list.{}",
    "attention.out": "transformer.layers.{}.attention.dense",
    "mlp.0": "transformer.layers.{}.mlp.dense_h_to_4h",
    "mlp.2": "transformer.layers.{}.mlp.dense_4h_to_h",
}
# Of one layer of theirs: which of ours its widths of rows are.
PROJECTIONS = ("attention.query", "attention.key", "attention.value")
EXPERTS = {"experts1": (0, 1, 2, 6, 7, 8), "experts2": (3, 4, 5, 9, 10, 11)}
UNLEARNED = ("embed_tokens.weight", "freqs_sin", "freqs_cos", "position_embedding", "pos_embedding")


def diffusers_transformer_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' CogVideoXTransformer3DModel.

    Raises ValueError for a model without experts, as every one that is published has them.
    """
    _require_experts(model)
    names = dict(DIFFUSERS)
    for i in range(model.config.depth):
        ours, theirs = f"blocks.{i}", f"transformer_blocks.{i}"
        names |= {f"{ours}.{name}": f"{theirs}.{name2}" for name, name2 in DIFFUSERS_BLOCK.items()}
    return torch_sources(model, names) | _patches(model, names)


def sat_transformer_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in the authors' layout.  Raises ValueError for a model without experts."""
    _require_experts(model)
    names, sources = dict(SAT), {}
    width = model.config.width
    rows = torch.arange(12 * width, device="cpu").view(12, width)
    for i in range(model.config.depth):
        block = f"blocks.{i}"
        names |= {f"{block}.{name}": theirs.format(i) for name, theirs in SAT_BLOCK.items()}
        attention = f"transformer.layers.{i}.attention.query_key_value"
        for part, name in enumerate(PROJECTIONS):
            sources |= _rows(model, f"{block}.{name}", attention, 3, rows[part])
        experts = f"mixins.adaln_layer.adaLN_modulations.{i}.1"
        for name, parts in EXPERTS.items():
            sources |= _rows(model, f"{block}.{name}", experts, 12, rows[list(parts)].flatten())
    return torch_sources(model, names) | sources | _patches(model, names)


def _require_experts(model: nn.Module) -> None:
    if not model.config.experts:
        raise ValueError("experts: expected a config with them for published weights, got False")


def _rows(model: nn.Module, ours: str, theirs: str, widths: int, rows: Tensor) -> dict[str, Source]:
    """Return the sources of a layer of ours that is some rows of theirs, of so many widths."""
    sources = {}
    for leaf in ("weight", "bias"):
        shape = (widths * model.config.width, *model.get_parameter(f"{ours}.{leaf}").shape[1:])
        sources[f"{ours}.{leaf}"] = Source((f"{theirs}.{leaf}",), shape, rows)
    return sources


def _patches(model: nn.Module, names: dict[str, str]) -> dict[str, Source]:
    """Return the source of the patches' weights, which are a convolution's without time."""
    if model.config.temporal_patch > 1:
        return {}
    side = model.config.patch
    shape = (model.config.width, model.config.in_channels, side, side)
    return {"patch_embed.weight": Source((f"{names['patch_embed']}.weight",), shape)}


def transformer_key(key: str) -> str:
    """Return the name of a transformer's tensor without the prefix that whole checkpoints have."""
    return key.removeprefix(TRANSFORMER_PREFIX)


def is_around_transformer(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor of a whole checkpoint is not the transformer's, or is not learned."""
    if key.startswith(("first_stage_model.", "conditioner.", "model_ema.")):
        return True
    learned = model.config.learned_positions and key.endswith(SAT["positions"])
    return key.endswith(UNLEARNED) and not learned


TRANSFORMER_LAYOUTS = {
    "diffusers": Layout(
        "transformer_blocks.0.attn1.to_q.weight", diffusers_transformer_sources, model=Transformer
    ),
    "sat": Layout(
        "transformer.layers.0.attention.query_key_value.weight",
        sat_transformer_sources,
        transformer_key,
        Transformer,
        is_around_transformer,
    ),
}


# ---------------------------------------------------------------- the autoencoder

WAYS = {"encoder": "down", "decoder": "up"}


def diffusers_vae_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' AutoencoderKLCogVideoX."""
    names = _ends()
    for ours, layer in _layers(model):
        side, _, *place = ours.split(".")
        if isinstance(layer, ResBlock):
            names |= _residual(ours, layer, _diffusers_block(side, place), "conv_shortcut")
        else:
            way = WAYS[side]
            names[f"{ours}.conv"] = f"{side}.{way}_blocks.{place[0]}.{way}samplers.0.conv"
    return torch_sources(model, names)


def sat_vae_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in the authors' layout, which counts the decoder's stages from the end."""
    names, last = _ends(), len(model.config.widths) - 1
    for ours, layer in _layers(model):
        side, _, *place = ours.split(".")
        if isinstance(layer, ResBlock):
            names |= _residual(ours, layer, _sat_block(side, place, last), "nin_shortcut")
        elif side == "encoder":
            names[f"{ours}.conv"] = f"encoder.down.{place[0]}.downsample.conv"
        else:
            names[f"{ours}.conv"] = f"decoder.up.{last - int(place[0])}.upsample.conv"
    return torch_sources(model, names)


def _layers(model: nn.Module) -> list[tuple[str, nn.Module]]:
    """Return the residual blocks and the changes of size by name: side, part, place in it."""
    kinds = (ResBlock, Downsample, Upsample)
    return [(name, layer) for name, layer in model.named_modules() if isinstance(layer, kinds)]


def _diffusers_block(side: str, place: list[str]) -> str:
    """Return the name of a residual block: of the middle, or of a stage."""
    if len(place) == 1:
        return f"{side}.mid_block.resnets.{place[0]}"
    return f"{side}.{WAYS[side]}_blocks.{place[0]}.resnets.{place[1]}"


def _sat_block(side: str, place: list[str], last: int) -> str:
    """Return the name of a residual block: of the middle, or of a stage."""
    if len(place) == 1:
        return f"{side}.mid.block_{int(place[0]) + 1}"
    stage = f"down.{place[0]}" if side == "encoder" else f"up.{last - int(place[0])}"
    return f"{side}.{stage}.block.{place[1]}"


def _ends() -> dict[str, str]:
    """Return the names of the first and last layers, the same in both layouts."""
    names = {"encoder.norm_out.norm": "encoder.norm_out"} | _spatial_norm(
        "decoder.norm_out", "decoder.norm_out"
    )
    for side in ("encoder", "decoder"):
        names |= {f"{side}.{end}": f"{side}.{end}.conv" for end in ("conv_in", "conv_out")}
    return names


def _residual(ours: str, block: ResBlock, theirs: str, shortcut: str) -> dict[str, str]:
    """Return the names of a residual block's layers."""
    names = {f"{ours}.skip": f"{theirs}.{shortcut}"}
    for i in (1, 2):
        names[f"{ours}.conv{i}"] = f"{theirs}.conv{i}.conv"
        if isinstance(block.norm1, SpatialNorm):
            names |= _spatial_norm(f"{ours}.norm{i}", f"{theirs}.norm{i}")
        else:
            names[f"{ours}.norm{i}.norm"] = f"{theirs}.norm{i}"
    return names


def _spatial_norm(ours: str, theirs: str) -> dict[str, str]:
    """Return the names of a norm that is told the latents; scale and shift are two layers there."""
    return {
        f"{ours}.norm": f"{theirs}.norm_layer",
        f"{ours}.scale_and_shift": f"{theirs}.conv_y.conv {theirs}.conv_b.conv",
    }


def _is_of_the_loss(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor of the authors' file is the loss's: LPIPS, a discriminator."""
    return key.startswith("loss.")


COGVIDEOX_VAE_LAYOUTS = {
    "diffusers autoencoder": Layout(
        "encoder.down_blocks.0.resnets.0.conv1.conv.weight",
        diffusers_vae_sources,
        model=CogVideoXVAE,
    ),
    "sat autoencoder": Layout(
        "encoder.down.0.block.0.conv1.conv.weight",
        sat_vae_sources,
        model=CogVideoXVAE,
        set_aside=_is_of_the_loss,
    ),
}

COGVIDEOX_LAYOUTS = TRANSFORMER_LAYOUTS | COGVIDEOX_VAE_LAYOUTS
