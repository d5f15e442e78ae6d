"""diffusers' networks of Stable Video Diffusion, built from our configs, and Stability's keys."""

from course_lib.compat import import_torchvision

import_torchvision()  # before diffusers asks for it

from diffusers import AutoencoderKLTemporalDecoder, UNetSpatioTemporalConditionModel  # noqa: E402


def diffusers_svd(config):
    """The UNetSpatioTemporalConditionModel that should equal our U-Net of this config."""
    attends = config.attends
    return UNetSpatioTemporalConditionModel(
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        down_block_types=tuple(
            "CrossAttnDownBlockSpatioTemporal" if here else "DownBlockSpatioTemporal"
            for here in attends
        ),
        up_block_types=tuple(
            "CrossAttnUpBlockSpatioTemporal" if here else "UpBlockSpatioTemporal"
            for here in reversed(attends)
        ),
        block_out_channels=tuple(config.widths),
        addition_time_embed_dim=config.vector // 3,
        projection_class_embeddings_input_dim=config.vector,
        layers_per_block=config.blocks,
        cross_attention_dim=config.context,
        transformer_layers_per_block=config.depth,
        num_attention_heads=config.heads,
    )


def diffusers_temporal_autoencoder(config):
    """The AutoencoderKLTemporalDecoder that should equal our autoencoder of this config."""
    return AutoencoderKLTemporalDecoder(
        in_channels=config.channels,
        out_channels=config.channels,
        down_block_types=("DownEncoderBlock2D",) * len(config.multipliers),
        block_out_channels=tuple(config.width * m for m in config.multipliers),
        layers_per_block=config.blocks,
        latent_channels=config.latent,
    )


# ---------------------------------------------------------------- Stability's keys
# Written down from its VideoUNet and VideoDecoder, and once compared with the keys of both, built.

RESIDUAL = {
    "norm1": "in_layers.0",
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "norm2": "out_layers.0",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}
TRANSFORMER = {
    "time_pos_embed.linear_1": "time_pos_embed.0",
    "time_pos_embed.linear_2": "time_pos_embed.2",
}
UNET = {
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
    "conv_in": "input_blocks.0.0",
    "conv_norm_out": "out.0",
    "conv_out": "out.2",
}


def _sgm_residual(leaf):
    """A tensor's name inside diffusers' SpatioTemporalResBlock, as Stability has it."""
    part, _, rest = leaf.partition(".")
    if part == "time_mixer":
        return leaf
    layer, kind = rest.rsplit(".", 1)
    return ("time_stack." if part == "temporal_res_block" else "") + f"{RESIDUAL[layer]}.{kind}"


def _sgm_transformer(leaf):
    leaf = leaf.replace("temporal_transformer_blocks.", "time_stack.")
    for theirs, stability in TRANSFORMER.items():
        leaf = leaf.replace(theirs, stability)
    return leaf


def sgm_unet_key(key, config):
    """Stability's key of a tensor of diffusers' U-Net."""
    layer, _, kind = key.rpartition(".")
    if layer in UNET:
        return f"model.diffusion_model.{UNET[layer]}.{kind}"
    side, *rest = key.split(".")
    blocks = config.blocks
    if side == "mid_block":
        what, index, leaf = rest[0], int(rest[1]), ".".join(rest[2:])
        entry = f"middle_block.{1 if what == 'attentions' else 2 * index}"
    else:
        level, what, index, leaf = int(rest[0]), rest[1], int(rest[2]), ".".join(rest[3:])
        if side == "down_blocks":
            entry = f"input_blocks.{1 + level * (blocks + 1)}"
            first = 1 + level * (blocks + 1)
            if what == "downsamplers":
                return f"model.diffusion_model.input_blocks.{first + blocks}.0.op.{kind}"
            entry = f"input_blocks.{first + index}.{1 if what == 'attentions' else 0}"
        else:
            first = level * (blocks + 1)
            if what == "upsamplers":
                place = 2 if config.attends[::-1][level] else 1
                return f"model.diffusion_model.output_blocks.{first + blocks}.{place}.conv.{kind}"
            entry = f"output_blocks.{first + index}.{1 if what == 'attentions' else 0}"
    leaf = _sgm_transformer(leaf) if what == "attentions" else _sgm_residual(leaf)
    return f"model.diffusion_model.{entry}.{leaf}"


ATTENTION = {
    "group_norm": "norm",
    "to_q": "q",
    "to_k": "k",
    "to_v": "v",
    "to_out.0": "proj_out",
}


def sgm_autoencoder_key(key, config):
    """Stability's key of a tensor of diffusers' autoencoder, in a whole checkpoint."""
    side, *rest = key.split(".")
    if side == "quant_conv":
        return f"conditioner.embedders.3.encoder.{key}"
    top = len(config.multipliers) - 1
    path = ".".join(rest)
    if path.startswith("time_conv_out"):
        path = path.replace("time_conv_out", "conv_out.time_mix_conv")
    elif path.startswith("conv_norm_out"):
        path = path.replace("conv_norm_out", "norm_out")
    elif rest[0] == "mid_block":
        index = int(rest[2]) + 1
        if rest[1] == "attentions":
            layer, kind = ".".join(rest[3:]).rsplit(".", 1)
            path = f"mid.attn_1.{ATTENTION[layer]}.{kind}"
        else:
            path = f"mid.block_{index}.{_sgm_decoder_residual('.'.join(rest[3:]))}"
    elif rest[0] in ("down_blocks", "up_blocks"):
        name = rest[0].removesuffix("_blocks")
        level = int(rest[1]) if name == "down" else top - int(rest[1])
        if rest[2] == "resnets":
            leaf = _sgm_decoder_residual(".".join(rest[4:]))
            path = f"{name}.{level}.block.{rest[3]}.{leaf}"
        else:
            path = f"{name}.{level}.{name}sample.conv.{rest[-1]}"
    if side == "encoder":
        return f"conditioner.embedders.3.encoder.encoder.{path}"
    return f"first_stage_model.decoder.{path}"


def _sgm_decoder_residual(leaf):
    if leaf.startswith("time_mixer."):
        return leaf.removeprefix("time_mixer.")
    if leaf.startswith("temporal_res_block."):
        layer, kind = leaf.removeprefix("temporal_res_block.").rsplit(".", 1)
        return f"time_stack.{RESIDUAL[layer]}.{kind}"
    return leaf.removeprefix("spatial_res_block.").replace("conv_shortcut", "nin_shortcut")


def as_sgm(weights, key_of, config):
    """Weights of diffusers under Stability's keys; its attention has 1x1 convolutions."""
    found = {}
    for key, value in weights.items():
        theirs = key_of(key, config)
        if ".mid.attn_1." in theirs and theirs.endswith("weight") and value.ndim == 2:
            value = value[:, :, None, None]
        found[theirs] = value
    return found
