"""The weights of Stable Video Diffusion, as others publish them: the U-Net and the autoencoder.

diffusers: its UNetSpatioTemporalConditionModel and AutoencoderKLTemporalDecoder, a file each, as in
the folder of stable-video-diffusion-img2vid.  Its pipeline has another epsilon than the authors:
`SVDConfig(outer_eps=1e-6)` is its network.

sgm: the layout of Stability, in which svd.safetensors and svd_xt.safetensors hold all networks.
The U-Net is model.diffusion_model.*.  The autoencoder is the encoder for the image that a clip
continues, conditioner.embedders.3.encoder.*, and the decoder of clips, first_stage_model.decoder.*;
a second encoder and a second decoder in those two places, which image-to-video does not use, are
set aside, and so is CLIP.  svd_image_decoder.safetensors has the decoder of images: from it only
the U-Net is read.  The U-Net may also come by itself, without its prefix.
"""

from torch import Tensor, nn

from course_lib.convert.ddpm import OPENAI_RESIDUAL, modern_diffusers
from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.convert.ldm import (
    DIFFUSERS_RESIDUAL,
    TRANSFORMER_BLOCK,
    UNET_PREFIX,
    compvis_blocks,
    compvis_resizes,
    diffusers_blocks,
    diffusers_resizes,
    transformer_names,
    unet_key,
    within,
)
from course_lib.convert.vqgan import DIFFUSERS, TAMING, Names, autoencoder_names, linear_attention
from course_lib.papers.svd import TemporalResBlock, UNet
from course_lib.papers.svd_decoder import TemporalAutoencoder, TemporalDecoder

TEMPORAL_BLOCK = TRANSFORMER_BLOCK | {
    "norm_in": "norm_in",
    "feed_forward_in.values_and_gates": "ff_in.net.0.proj",
    "feed_forward_in.out": "ff_in.net.2",
}

# ---------------------------------------------------------------- the U-Net


def diffusers_unet_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' UNetSpatioTemporalConditionModel."""
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "vector_embed.0": "add_embedding.linear_1",
        "vector_embed.2": "add_embedding.linear_2",
        "stem": "conv_in",
        "norm": "conv_norm_out",
        "out": "conv_out",
    }
    for ours, (residual, transformer) in diffusers_blocks(model.config).items():
        names |= within(f"{ours}.res", f"{residual}.spatial_res_block", DIFFUSERS_RESIDUAL)
        names |= within(
            f"{ours}.temporal_res", f"{residual}.temporal_res_block", DIFFUSERS_RESIDUAL
        )
        names[f"{ours}.mix"] = f"{residual}.time_mixer.mix_factor"
        names |= _transformer_names(f"{ours}.attention", transformer, model.config.depth)
        names |= _temporal_names(
            f"{ours}.attention", f"{transformer}.temporal_transformer_blocks", model.config.depth
        )
        names[f"{ours}.attention.frame_embed.0"] = f"{transformer}.time_pos_embed.linear_1"
        names[f"{ours}.attention.frame_embed.2"] = f"{transformer}.time_pos_embed.linear_2"
    return _sources(model, names | diffusers_resizes(model.config))


def sgm_unet_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in Stability's VideoUNet."""
    names = {
        "time_embed.0": "time_embed.0",
        "time_embed.2": "time_embed.2",
        "vector_embed.0": "label_emb.0.0",
        "vector_embed.2": "label_emb.0.2",
        "stem": "input_blocks.0.0",
        "norm": "out.0",
        "out": "out.2",
    }
    for ours, (residual, transformer) in compvis_blocks(model).items():
        names |= within(f"{ours}.res", residual, OPENAI_RESIDUAL)
        names |= within(f"{ours}.temporal_res", f"{residual}.time_stack", OPENAI_RESIDUAL)
        names[f"{ours}.mix"] = f"{residual}.time_mixer.mix_factor"
        names |= _transformer_names(f"{ours}.attention", transformer, model.config.depth)
        names |= _temporal_names(
            f"{ours}.attention", f"{transformer}.time_stack", model.config.depth
        )
        names[f"{ours}.attention.frame_embed.0"] = f"{transformer}.time_pos_embed.0"
        names[f"{ours}.attention.frame_embed.2"] = f"{transformer}.time_pos_embed.2"
    return _sources(model, names | compvis_resizes(model))


def _transformer_names(ours: str, theirs: str, depth: int) -> dict[str, str]:
    """Return the names of a transformer's layers in space, and of its blend."""
    return transformer_names(ours, theirs, depth) | {
        f"{ours}.mix": f"{theirs}.time_mixer.mix_factor"
    }


def _temporal_names(ours: str, theirs: str, depth: int) -> dict[str, str]:
    """Return the names of a transformer's blocks over time."""
    names = {}
    for i in range(depth):
        names |= within(f"{ours}.temporal_blocks.{i}", f"{theirs}.{i}", TEMPORAL_BLOCK)
    return names


def _is_around_unet(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor of a whole checkpoint is not the U-Net's."""
    return key.startswith(("first_stage_model.", "conditioner.", "model_ema."))


# ---------------------------------------------------------------- the autoencoder

ENCODER = "conditioner.embedders.3.encoder."
DECODER = "first_stage_model.decoder."


def diffusers_autoencoder_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' AutoencoderKLTemporalDecoder."""
    names = _autoencoder_names(model, DIFFUSERS, list(range(len(model.config.multipliers))))
    for ours in _residuals(model):
        theirs = names[f"{ours}.norm1"].removesuffix(".norm1")
        names |= within(ours, f"{theirs}.spatial_res_block", DIFFUSERS_RESIDUAL)
        names |= within(f"{ours}.temporal", f"{theirs}.temporal_res_block", DIFFUSERS_RESIDUAL)
        names[f"{ours}.mix"] = f"{theirs}.time_mixer.mix_factor"
    names["decoder.time_conv_out"] = "decoder.time_conv_out"
    return linear_attention(model, _sources(model, names))


def sgm_autoencoder_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in a whole checkpoint of Stability."""
    levels = list(reversed(range(len(model.config.multipliers))))
    names = _autoencoder_names(model, TAMING, levels)
    for ours in _residuals(model):
        theirs = names[f"{ours}.norm1"].removesuffix(".norm1")
        names |= within(f"{ours}.temporal", f"{theirs}.time_stack", OPENAI_RESIDUAL)
        names[f"{ours}.mix"] = f"{theirs}.mix_factor"
    names["decoder.time_conv_out"] = "decoder.conv_out.time_mix_conv"
    placed = {
        ours: " ".join(_place(layer) for layer in theirs.split()) for ours, theirs in names.items()
    }
    return _sources(model, placed)


def _autoencoder_names(model: nn.Module, names: Names, decoder: list[int]) -> dict[str, str]:
    """Return the names of the layers that the image's autoencoder has as well."""
    network = model.config.network(model.config.latent)
    return {"to_moments": "quant_conv"} | autoencoder_names(network, names, decoder)


def _residuals(model: nn.Module) -> list[str]:
    """Return the names of the decoder's residual blocks."""
    return [
        name.removesuffix(".temporal")
        for name, module in model.named_modules()
        if isinstance(module, TemporalResBlock)
    ]


def _place(layer: str) -> str:
    """Return the name of a layer in a whole checkpoint of Stability."""
    if layer.startswith("decoder."):
        return DECODER + layer.removeprefix("decoder.")
    return ENCODER + layer


def _is_around_autoencoder(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor of a whole checkpoint is not the autoencoder's."""
    if key.startswith(DECODER):
        return False
    if key.startswith(ENCODER):
        return key.startswith((f"{ENCODER}decoder.", f"{ENCODER}post_quant_conv."))
    return key.startswith((UNET_PREFIX, "model_ema.", "first_stage_model.", "conditioner."))


# ---------------------------------------------------------------- both


def _sources(model: nn.Module, names: dict[str, str]) -> dict[str, Source]:
    """Return the sources of layers by name, with 3-D kernels (3 1 1) for ours over time (3 1)."""
    sources = torch_sources(model, names)
    over_time = []
    for name, module in model.named_modules():
        if isinstance(module, TemporalResBlock):
            over_time += [f"{name}.conv1.weight", f"{name}.conv2.weight"]
        if isinstance(module, TemporalDecoder):
            over_time.append(f"{name}.time_conv_out.weight")
    for name in over_time:
        if name in sources:
            sources[name] = Source.of(
                model.get_parameter(name),
                sources[name].keys,
                "parts rows columns t h 1 -> (parts rows) columns t h",
            )
    return sources


SVD_LAYOUTS = {
    "diffusers": Layout("time_embedding.linear_1.weight", diffusers_unet_sources, model=UNet),
    "sgm": Layout("input_blocks.0.0.weight", sgm_unet_sources, unet_key, UNet, _is_around_unet),
    "diffusers autoencoder": Layout(
        "decoder.time_conv_out.weight",
        diffusers_autoencoder_sources,
        modern_diffusers,
        TemporalAutoencoder,
    ),
    "sgm autoencoder": Layout(
        f"{DECODER}conv_out.time_mix_conv.weight",
        sgm_autoencoder_sources,
        model=TemporalAutoencoder,
        set_aside=_is_around_autoencoder,
    ),
}
