"""diffusers' networks of CogVideoX, built from our configs, and the authors' keys."""

import torch

from course_lib.compat import import_torchvision

import_torchvision()  # before diffusers asks for it

from diffusers import (  # noqa: E402
    CogVideoXDDIMScheduler,
    CogVideoXDPMScheduler,
    CogVideoXTransformer3DModel,
)
from diffusers.models.embeddings import get_3d_rotary_pos_embed  # noqa: E402
from diffusers.pipelines.cogvideo.pipeline_cogvideox import (  # noqa: E402
    get_resize_crop_region_for_grid,
)

SCHEDULERS = {"ddim": CogVideoXDDIMScheduler, "dpm": CogVideoXDPMScheduler}


def transformer_options(config):
    """The options of the CogVideoXTransformer3DModel that should equal ours of this config."""
    frames, rows, columns = config.latent
    return dict(
        num_attention_heads=config.heads,
        attention_head_dim=config.head_width,
        in_channels=config.in_channels,
        out_channels=config.out_channels,
        time_embed_dim=config.time_width,
        ofs_embed_dim=config.time_width if config.offset else None,
        text_embed_dim=config.text_width,
        num_layers=config.depth,
        sample_width=columns,
        sample_height=rows,
        sample_frames=4 * (frames - 1) + 1,
        patch_size=config.patch,
        patch_size_t=config.temporal_patch if config.temporal_patch > 1 else None,
        max_text_seq_length=config.text_length,
        norm_eps=config.norm_eps,
        spatial_interpolation_scale=config.spatial_scale,
        use_rotary_positional_embeddings=config.positions == "rope",
        use_learned_positional_embeddings=config.learned_positions,
    )


def diffusers_transformer(config):
    """The CogVideoXTransformer3DModel that should equal our transformer of this config.

    Its learned positions are a buffer; here they are a parameter, as the authors have them.
    """
    peer = CogVideoXTransformer3DModel(**transformer_options(config))
    if config.learned_positions:
        table = peer.patch_embed.pos_embedding
        del peer.patch_embed.pos_embedding
        peer.patch_embed.pos_embedding = torch.nn.Parameter(table.float())
    return peer


def diffusers_rotations(config, shape):
    """The cosines and sines that diffusers' pipeline gives its transformer, for latents (t h w)."""
    if config.positions != "rope":
        return None
    t, h, w = config.grid(*shape)
    _, rows, columns = config.grid(*config.latent)
    if config.temporal_patch > 1:
        return get_3d_rotary_pos_embed(
            config.head_width,
            None,
            (h, w),
            t,
            grid_type="slice",
            max_size=(max(h, rows), max(w, columns)),
        )
    region = get_resize_crop_region_for_grid((h, w), columns, rows)
    return get_3d_rotary_pos_embed(config.head_width, region, (h, w), t)


def run_diffusers(peer, config, x, t, text):
    """What diffusers' transformer says, in the precision of x."""
    rotations = diffusers_rotations(config, (x.shape[1], *x.shape[3:]))
    ofs = torch.full((1,), 2.0) if config.offset else None
    return peer(x, text.to(x), t, ofs=ofs, image_rotary_emb=rotations, return_dict=False)[0]


# ---------------------------------------------------------------- the authors' keys
# Written down from the authors' tools/convert_weight_sat2hf.py, which reads these.

SAT = {
    "patch_embed.proj": "mixins.patch_embed.proj",
    "patch_embed.text_proj": "mixins.patch_embed.text_proj",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "ofs_embedding.linear_1": "ofs_embed.0",
    "ofs_embedding.linear_2": "ofs_embed.2",
    "norm_final": "transformer.final_layernorm",
    "norm_out.norm": "mixins.final_layer.norm_final",
    "norm_out.linear": "mixins.final_layer.adaLN_modulation.1",
    "proj_out": "mixins.final_layer.linear",
}
SAT_BLOCK = {
    "norm1.norm": "transformer.layers.{}.input_layernorm",
    "norm2.norm": "transformer.layers.{}.post_attention_layernorm",
    "attn1.norm_q": "mixins.adaln_layer.query_layernorm_list.{}",
    "attn1.norm_k": "mixins.adaln_layer.key_layernorm_list.{}",
    "attn1.to_out.0": "transformer.layers.{}.attention.dense",
    "ff.net.0.proj": "transformer.layers.{}.mlp.dense_h_to_4h",
    "ff.net.2": "transformer.layers.{}.mlp.dense_4h_to_h",
}


def as_sat(weights, prefix="model.diffusion_model."):
    """Weights of diffusers' transformer under the authors' keys, with what they have in one."""
    found, weights = {}, dict(weights)
    if "patch_embed.pos_embedding" in weights:
        found["mixins.pos_embed.pos_embedding"] = weights.pop("patch_embed.pos_embedding")
    for key, value in weights.items():
        layer, _, leaf = key.rpartition(".")
        if layer in SAT:
            found[f"{SAT[layer]}.{leaf}"] = value
            continue
        _, i, name = layer.split(".", 2)
        if name in SAT_BLOCK:
            found[f"{SAT_BLOCK[name].format(i)}.{leaf}"] = value
        block = f"transformer_blocks.{i}"
        if name == "attn1.to_q":
            parts = [weights[f"{block}.attn1.to_{x}.{leaf}"] for x in "qkv"]
            found[f"transformer.layers.{i}.attention.query_key_value.{leaf}"] = torch.cat(parts)
        elif name == "norm1.linear":
            # Six each: shift, scale, gate of video, and of text.
            first, second = (weights[f"{block}.norm{n}.linear.{leaf}"].chunk(2) for n in (1, 2))
            parts = [first[0], second[0], first[1], second[1]]
            found[f"mixins.adaln_layer.adaLN_modulations.{i}.1.{leaf}"] = torch.cat(parts)
    return {f"{prefix}{key}": value for key, value in found.items()}
