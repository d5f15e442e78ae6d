"""Others' networks, built from our configs, and what a comparison with them needs."""

import torch
from torch import nn

from course_lib.compat import import_torchvision
from course_lib.papers.improved_ddpm import ImprovedDDPMConfig

import_torchvision()  # before diffusers asks for it

from diffusers import DDIMScheduler, DDPMScheduler, UNet2DModel  # noqa: E402, F401
from diffusers.models.attention_processor import Attention  # noqa: E402
from transformers import (  # noqa: E402
    ViTConfig,
    ViTForImageClassification,
    VivitConfig,
    VivitForVideoClassification,
)


def diffusers_unet(config):
    """The UNet2DModel that should equal our network of this config."""
    improved = isinstance(config, ImprovedDDPMConfig)
    attends = [config.image_size >> level in config.attention_resolutions for level in range(len(config.multipliers))]
    peer = UNet2DModel(
        sample_size=config.image_size,
        in_channels=config.channels,
        out_channels=config.out_channels,
        block_out_channels=tuple(config.width * multiplier for multiplier in config.multipliers),
        layers_per_block=config.blocks_per_level,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        dropout=config.dropout,
        norm_num_groups=config.norm_groups,
        attn_norm_num_groups=config.norm_groups,
        norm_eps=1e-5 if improved else 1e-6,
        num_class_embeds=config.num_classes,
        attention_head_dim=None,
        flip_sin_to_cos=improved,
        freq_shift=0 if improved else 1,
        downsample_padding=1 if improved else 0,
        resnet_time_scale_shift="scale_shift" if improved else "default",
    )
    for module in peer.modules():  # its configs fix the width of a head; ours, their number
        if isinstance(module, Attention):
            module.heads = config.heads
    return peer


def transformers_vit(config):
    """The ViTForImageClassification that should equal our ViT of this config."""
    return ViTForImageClassification(
        ViTConfig(
            patch_size=config.patch_size,
            hidden_act={"exact": "gelu", "tanh": "gelu_pytorch_tanh"}[config.gelu],
            **_encoder(config),
        )
    )


def transformers_vivit(config):
    """The VivitForVideoClassification that should equal our Model 1 of this config."""
    return VivitForVideoClassification(
        VivitConfig(
            num_frames=config.frames,
            tubelet_size=config.tubelet,
            hidden_act={"exact": "gelu", "tanh": "gelu_fast"}[config.gelu],
            **_encoder(config),
        )
    )


def _encoder(config):
    """What transformers' two configs call alike."""
    return dict(
        image_size=config.size,
        num_channels=config.channels,
        hidden_size=config.width,
        num_hidden_layers=config.depth,
        num_attention_heads=config.heads,
        intermediate_size=config.mlp,
        num_labels=config.num_classes,
        layer_norm_eps=config.norm_eps,
    )


def randomise(model, seed=0):
    """Weights of unit gain, nowhere zero, so that every parameter has a say in the output."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for module in model.modules():
            for name, p in module.named_parameters(recurse=False):
                noise = torch.randn(p.shape, generator=generator)
                if isinstance(module, nn.GroupNorm | nn.LayerNorm):
                    p.copy_((name == "weight") + 0.2 * noise)
                elif name == "bias":
                    p.copy_(0.2 * noise)
                elif name in ("cls_token", "position_embeddings"):
                    p.copy_(noise)
                else:
                    p.copy_(noise / p[0].numel() ** 0.5)
    return model


def inputs(config, batch, height, width, float_times=False, seed=1):
    """Pictures, times that include both ends, and labels where the network wants them."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(batch, config.channels, height, width, generator=generator)
    t = torch.randint(0, 1000, (batch,), generator=generator)
    t[0], t[-1] = 999, 0
    if float_times:
        t = t * 0.9 + 0.25
    label = None
    if config.num_classes:
        label = torch.randint(0, config.num_classes, (batch,), generator=generator)
    return x, t, label


def gradients(output, x, parameters, seed=2):
    """Of a fixed random projection of the output, for x and for every parameter by name."""
    probe = torch.randn(output.shape, generator=torch.Generator().manual_seed(seed)).to(output)
    names, tensors = zip(*parameters, strict=True)
    grads = torch.autograd.grad((probe * output).sum() / output[0].numel() ** 0.5, [x, *tensors])
    return {name: grad.detach() for name, grad in zip(["x", *names], grads, strict=True)}


def largest_difference(ours, theirs):
    """The largest difference between two dicts of tensors, as a share of the largest value in its tensor.

    A tensor that is zero in exact arithmetic (the gradient of a key's bias) is measured by the largest of all.
    """
    assert ours.keys() == theirs.keys()
    largest = max(value.abs().max() for value in theirs.values())
    return max(
        float((ours[name] - value).abs().max() / max(value.abs().max(), 1e-2 * largest))
        for name, value in theirs.items()
    )
