"""The weights of latent diffusion, as others publish them: the U-Net and the KL autoencoder.

diffusers: its UNet2DConditionModel and AutoencoderKL, a file each, as in a folder of Stable
Diffusion.  The older spelling of the autoencoder's attention is read too.

compvis: the layout of CompVis and of Stability.  A checkpoint of theirs, such as v1-5-pruned.ckpt,
holds all networks: the U-Net is read from model.diffusion_model.*, the autoencoder from
first_stage_model.*.  What belongs to the others is set aside: the text's network, averaged weights
(model_ema.*), the tables of the noise schedule.  Either may also come by itself, without its
prefix.  The networks of the autoencoder's loss (loss.*) are set aside, too.
"""

from torch import Tensor, nn

from course_lib.convert.ddpm import OPENAI_RESIDUAL, modern_diffusers
from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.convert.vqgan import DIFFUSERS, TAMING, Names, autoencoder_names, linear_attention
from course_lib.nn.resnet import Upsample
from course_lib.papers.ldm import LDMConfig, UNet
from course_lib.papers.ldm_autoencoder import AutoencoderKL

# ---------------------------------------------------------------- the U-Net

TRANSFORMER = {name: name for name in ("norm", "proj_in", "proj_out")}
TRANSFORMER_BLOCK = {
    "norm1": "norm1",
    "self_attention.query": "attn1.to_q",
    "self_attention.key_value": "attn1.to_k attn1.to_v",
    "self_attention.out": "attn1.to_out.0",
    "norm2": "norm2",
    "cross_attention.query": "attn2.to_q",
    "cross_attention.key_value": "attn2.to_k attn2.to_v",
    "cross_attention.out": "attn2.to_out.0",
    "norm3": "norm3",
    "feed_forward.values_and_gates": "ff.net.0.proj",
    "feed_forward.out": "ff.net.2",
}
DIFFUSERS_RESIDUAL = {
    "norm1": "norm1",
    "conv1": "conv1",
    "time": "time_emb_proj",
    "norm2": "norm2",
    "conv2": "conv2",
    "skip": "conv_shortcut",
}


def diffusers_unet_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' UNet2DConditionModel."""
    names = {
        "time_embed.0": "time_embedding.linear_1",
        "time_embed.2": "time_embedding.linear_2",
        "stem": "conv_in",
        "norm": "conv_norm_out",
        "out": "conv_out",
    }
    for ours, (residual, transformer) in diffusers_blocks(model.config).items():
        names |= within(f"{ours}.res", residual, DIFFUSERS_RESIDUAL)
        names |= transformer_names(f"{ours}.attention", transformer, model.config.depth)
    return torch_sources(model, names | diffusers_resizes(model.config))


def diffusers_blocks(config: LDMConfig) -> dict[str, tuple[str, str]]:
    """Return, for each block of ours, the names of its two halves in diffusers."""
    blocks = {
        "middle.0": ("mid_block.resnets.0", "mid_block.attentions.0"),
        "middle.1": ("mid_block.resnets.1", ""),
    }
    for side, count in (("down", config.blocks), ("up", config.blocks + 1)):
        for level in range(len(config.multipliers)):
            for i in range(count):
                # A level of ours is its blocks, followed by the change of resolution.
                theirs = f"{side}_blocks.{level}"
                blocks[f"{side}.{level * (count + 1) + i}"] = (
                    f"{theirs}.resnets.{i}",
                    f"{theirs}.attentions.{i}",
                )
    return blocks


def diffusers_resizes(config: LDMConfig) -> dict[str, str]:
    """Return diffusers' names of the layers that halve and double the resolution."""
    names = {}
    for level in range(len(config.multipliers) - 1):
        down = level * (config.blocks + 1) + config.blocks
        up = level * (config.blocks + 2) + config.blocks + 1
        names[f"down.{down}"] = f"down_blocks.{level}.downsamplers.0.conv"
        names[f"up.{up}.conv"] = f"up_blocks.{level}.upsamplers.0.conv"
    return names


def compvis_unet_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in CompVis' UNetModel, whose entries count through all levels."""
    names = {
        "time_embed.0": "time_embed.0",
        "time_embed.2": "time_embed.2",
        "stem": "input_blocks.0.0",
        "norm": "out.0",
        "out": "out.2",
    }
    for ours, (residual, transformer) in compvis_blocks(model).items():
        names |= within(f"{ours}.res", residual, OPENAI_RESIDUAL)
        names |= transformer_names(f"{ours}.attention", transformer, model.config.depth)
    return torch_sources(model, names | compvis_resizes(model))


def compvis_blocks(model: nn.Module) -> dict[str, tuple[str, str]]:
    """Return, for each block of ours, the names of its two halves in CompVis' layout."""
    blocks = {
        "middle.0": ("middle_block.0", "middle_block.1"),
        "middle.1": ("middle_block.2", ""),
    }
    for k, layer in enumerate(model.down):
        if not isinstance(layer, nn.Conv2d):
            blocks[f"down.{k}"] = (f"input_blocks.{k + 1}.0", f"input_blocks.{k + 1}.1")
    for k, entry in _up_entries(model).items():
        if not isinstance(model.up[k], Upsample):
            blocks[f"up.{k}"] = (f"{entry}.0", f"{entry}.1")
    return blocks


def compvis_resizes(model: nn.Module) -> dict[str, str]:
    """Return CompVis' names of the layers that halve and double the resolution."""
    names = {}
    for k, layer in enumerate(model.down):
        if isinstance(layer, nn.Conv2d):
            names[f"down.{k}"] = f"input_blocks.{k + 1}.0.op"
    for k, entry in _up_entries(model).items():
        if isinstance(model.up[k], Upsample):
            # It is the last layer of the entry that the block before it begins.
            place = 1 if model.up[k - 1].attention is None else 2
            names[f"up.{k}.conv"] = f"{entry}.{place}.conv"
    return names


def _up_entries(model: nn.Module) -> dict[int, str]:
    """Return the entry of CompVis' layout in which each layer of our way up is."""
    entries = {}
    blocks = 0
    for k, layer in enumerate(model.up):
        blocks += not isinstance(layer, Upsample)
        entries[k] = f"output_blocks.{blocks - 1}"
    return entries


def transformer_names(ours: str, theirs: str, depth: int) -> dict[str, str]:
    """Return the names of a transformer's layers, which both layouts share."""
    names = within(ours, theirs, TRANSFORMER)
    for i in range(depth):
        names |= within(f"{ours}.blocks.{i}", f"{theirs}.transformer_blocks.{i}", TRANSFORMER_BLOCK)
    return names


def within(ours: str, theirs: str, names: dict[str, str]) -> dict[str, str]:
    """Return the names of a part's layers in the whole; where ours is several of theirs, of all."""
    return {
        f"{ours}.{name}": " ".join(f"{theirs}.{part}" for part in parts.split())
        for name, parts in names.items()
    }


# ---------------------------------------------------------------- the autoencoder


def diffusers_autoencoder_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in diffusers' AutoencoderKL, with linear layers in its attention."""
    decoder = list(range(len(model.config.multipliers)))
    return linear_attention(model, _autoencoder_sources(model, DIFFUSERS, decoder))


def compvis_autoencoder_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in CompVis' AutoencoderKL, whose decoder counts from the finest level."""
    decoder = list(reversed(range(len(model.config.multipliers))))
    return _autoencoder_sources(model, TAMING, decoder)


def _autoencoder_sources(model: nn.Module, names: Names, decoder: list[int]) -> dict[str, Source]:
    layers = {"to_moments": "quant_conv", "from_latents": "post_quant_conv"}
    network = model.config.network(model.config.latent)
    return torch_sources(model, layers | autoencoder_names(network, names, decoder))


# ---------------------------------------------------------------- a whole checkpoint

UNET_PREFIX = "model.diffusion_model."
AUTOENCODER_PREFIX = "first_stage_model."
OTHER_PREFIXES = ("cond_stage_model.", "model_ema.")
LOSS_PREFIXES = ("loss.perceptual_loss.", "loss.discriminator.")
TABLES = {
    "betas",
    "alphas_cumprod",
    "alphas_cumprod_prev",
    "sqrt_alphas_cumprod",
    "sqrt_one_minus_alphas_cumprod",
    "log_one_minus_alphas_cumprod",
    "sqrt_recip_alphas_cumprod",
    "sqrt_recipm1_alphas_cumprod",
    "posterior_variance",
    "posterior_log_variance_clipped",
    "posterior_mean_coef1",
    "posterior_mean_coef2",
    "lvlb_weights",
    "logvar",
    "scale_factor",
}


def unet_key(key: str) -> str:
    """Return a key of the U-Net as it is when the U-Net comes by itself."""
    return key.removeprefix(UNET_PREFIX)


def autoencoder_key(key: str) -> str:
    """Return a key of the autoencoder as it is when the autoencoder comes by itself."""
    return key.removeprefix(AUTOENCODER_PREFIX)


def _is_around_unet(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor of a whole checkpoint is not the U-Net's."""
    return key in TABLES or key.startswith((AUTOENCODER_PREFIX, *OTHER_PREFIXES))


def _is_around_autoencoder(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is not the autoencoder's but its loss's, or the whole checkpoint's."""
    of_loss = autoencoder_key(key)
    if of_loss == "loss.logvar" or of_loss.startswith(LOSS_PREFIXES):
        return True
    return key in TABLES or key.startswith((UNET_PREFIX, *OTHER_PREFIXES))


LDM_LAYOUTS = {
    "diffusers": Layout("time_embedding.linear_1.weight", diffusers_unet_sources, model=UNet),
    "compvis": Layout(
        "input_blocks.0.0.weight", compvis_unet_sources, unet_key, UNet, _is_around_unet
    ),
    "diffusers autoencoder": Layout(
        "encoder.down_blocks.0.resnets.0.conv1.weight",
        diffusers_autoencoder_sources,
        modern_diffusers,
        AutoencoderKL,
    ),
    "compvis autoencoder": Layout(
        "encoder.down.0.block.0.conv1.weight",
        compvis_autoencoder_sources,
        autoencoder_key,
        AutoencoderKL,
        _is_around_autoencoder,
    ),
}
