"""The weights of CogVideoX, as others publish them: the autoencoder.

diffusers: its AutoencoderKLCogVideoX, the folder vae of a published model.

sat: the authors' own, 3d-vae.pt of their releases.  What belongs to the training loss is set aside.
"""

from torch import Tensor, nn

from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.papers.cogvideox_vae import (
    CogVideoXVAE,
    Downsample,
    ResBlock,
    SpatialNorm,
    Upsample,
)

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
