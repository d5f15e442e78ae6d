"""diffusers' autoencoder of CogVideoX, built from our configs, and the authors' keys."""

from course_lib.compat import import_torchvision

import_torchvision()  # before diffusers asks for it

from diffusers import AutoencoderKLCogVideoX  # noqa: E402


def diffusers_vae(config, frames_at_once=8, latents_at_once=2):
    """The AutoencoderKLCogVideoX that should equal ours of this config.

    It halves height and width between any two stages, and time between the first ones.
    """
    stages = len(config.widths)
    peer = AutoencoderKLCogVideoX(
        in_channels=config.channels,
        out_channels=config.channels,
        down_block_types=("CogVideoXDownBlock3D",) * stages,
        up_block_types=("CogVideoXUpBlock3D",) * stages,
        block_out_channels=config.widths,
        layers_per_block=config.blocks,
        latent_channels=config.latent,
        norm_num_groups=config.groups,
        temporal_compression_ratio=config.frames_per_latent,
    )
    peer.num_sample_frames_batch_size = frames_at_once
    peer.num_latent_frames_batch_size = latents_at_once
    return peer


# ---------------------------------------------------------------- the authors' keys
# From the table that their converter, tools/convert_weight_sat2hf.py, has of the other direction.


def sat_key(key, config):
    """The authors' key of a tensor of diffusers' autoencoder."""
    for place in range(len(config.widths)):
        theirs = f"decoder.up.{len(config.widths) - 1 - place}."
        key = key.replace(f"decoder.up_blocks.{place}.", theirs)
    for diffusers, sat in (
        ("down_blocks.", "down."),
        ("downsamplers.0", "downsample"),
        ("upsamplers.0", "upsample"),
        ("mid_block.resnets.0", "mid.block_1"),
        ("mid_block.resnets.1", "mid.block_2"),
        ("resnets.", "block."),
        ("conv_shortcut", "nin_shortcut"),
    ):
        key = key.replace(diffusers, sat)
    return key
