"""Every preset of the course by name: zoo.build("ddpm/CIFAR-10")."""

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import nn

from course_lib.nn import clip_text, clip_vision, t5
from course_lib.papers import (
    cogvideox,
    cogvideox_vae,
    dcgan,
    ddpm,
    improved_ddpm,
    ldm,
    ldm_autoencoder,
    lvm,
    lvm_tokenizer,
    magvit,
    magvit2,
    magvit_tokenizer,
    svd,
    svd_decoder,
    videopoet_superresolution,
    vit,
    vivit,
    vqgan,
)


@dataclass(frozen=True)
class Entry:
    """A preset: its config, the model class, and the size its paper or authors state."""

    config: Any
    model: Callable[[Any], nn.Module]
    published: str = ""
    source: str = ""

    def build(self) -> nn.Module:
        """Build the model with fresh weights."""
        return self.model(self.config)


def _entries(
    paper: str, configs: dict, model: Callable, published: dict[str, tuple[str, str]]
) -> dict[str, Entry]:
    return {
        f"{paper}/{name}": Entry(config, model, *published.get(name, ()))
        for name, config in configs.items()
    }


MODELS: dict[str, Entry] = {
    **_entries("ddpm", ddpm.DDPM_CONFIGS, ddpm.UNet, {
        "CIFAR-10": ("35.7M", "paper, appendix B"),
        "LSUN": ("114M", "paper, appendix B"),
    }),
    **_entries("improved_ddpm", improved_ddpm.IMPROVED_DDPM_CONFIGS, improved_ddpm.UNet, {
        "CIFAR-10": ("50M", "name of the released checkpoint"),
        "ImageNet-64": ("120M", "paper, section 3; name of the released checkpoint"),
    }),
    **_entries("vit", vit.VIT_CONFIGS, vit.ViT, {
        "ViT-S/16": ("22M", "Touvron et al., table 1"),
        "ViT-B/16": ("86M", "paper, table 1"),
        "ViT-L/16": ("307M", "paper, table 1"),
        "ViT-H/14": ("632M", "paper, table 1"),
    }),
    **_entries("vivit", vivit.VIVIT_CONFIGS, vivit.ViViT, {
        "ViViT-B/16x2": ("88.9M", "paper, table 2"),
        "ViViT-B/16x2 FE": ("115.1M", "paper, table 2"),
        "ViViT-B/16x2 FSA": ("117.3M", "paper, table 2"),
        "ViViT-B/16x2 FDP": ("88.9M", "paper, table 2"),
    }),
    **_entries("vqgan", vqgan.VQGAN_CONFIGS, vqgan.VQGAN, {}),
    **_entries("vqgan", vqgan.TRANSFORMER_CONFIGS, vqgan.Transformer, {
        "transformer-cIN": ("1400M", "paper, appendix"),
        "transformer-faceshq": ("307M", "paper, appendix"),
    }),
    **_entries("magvit", magvit_tokenizer.TOKENIZER_CONFIGS, magvit_tokenizer.Tokenizer, {
        "3D-VQ-B": ("41M", "paper, table 6"),
        "3D-VQ-L": ("158M", "paper, table 6"),
        "2D-VQ-L": ("53M", "paper, table 6"),
    }),
    **_entries("magvit", magvit.BERT_CONFIGS, magvit.MaskedTransformer, {}),
    **_entries("magvit2", magvit2.TOKENIZER_CONFIGS, magvit2.Tokenizer, {}),
    **_entries("magvit2", magvit2.MLM_CONFIGS, magvit2.MaskedLM, {
        "MLM-UCF": ("307M", "paper, section 4.1"),
    }),
    **_entries("magvit2", magvit2.AR_CONFIGS, magvit2.CausalLM, {}),
    **_entries("lvm", lvm_tokenizer.TOKENIZER_CONFIGS, lvm_tokenizer.Tokenizer, {}),
    **_entries("lvm", lvm_tokenizer.MUSE_CONFIGS, lvm_tokenizer.MuseTokenizer, {}),
    **_entries("ldm", ldm.LDM_CONFIGS, ldm.UNet, {
        "SD-2.1": ("865M", "README of the release"),
        "SD-1.5": ("860M", "README of the release"),
    }),
    **_entries("ldm", ldm_autoencoder.AUTOENCODER_CONFIGS, ldm_autoencoder.AutoencoderKL, {}),
    **_entries("ldm", clip_text.CLIP_TEXT_CONFIGS, clip_text.CLIPText, {}),
    **_entries("svd", svd.SVD_CONFIGS, svd.UNet, {"SVD-text": ("1521M", "paper, appendix D")}),
    **_entries("svd", svd_decoder.TEMPORAL_DECODER_CONFIGS, svd_decoder.TemporalAutoencoder, {}),
    **_entries("svd", clip_vision.CLIP_VISION_CONFIGS, clip_vision.CLIPVision, {
        "CLIP-ViT-H": ("632M", "OpenCLIP, profile of its models"),
    }),
    **_entries("cogvideox", cogvideox.COGVIDEOX_CONFIGS, cogvideox.Transformer, {
        "2B": ("2B", "paper, table 6"),
        "5B": ("5B", "paper, table 6"),
        "5B-I2V": ("5B", "name of the released checkpoint"),
        "1.5-5B": ("5B", "name of the released checkpoint"),
        "1.5-5B-I2V": ("5B", "name of the released checkpoint"),
    }),
    **_entries("cogvideox", t5.T5_CONFIGS, t5.T5Encoder, {}),
    **_entries("cogvideox", cogvideox_vae.COGVIDEOX_VAE_CONFIGS, cogvideox_vae.CogVideoXVAE, {}),
    **_entries("lvm", lvm.LVM_CONFIGS, lvm.Transformer, {
        "LVM-100M": ("0.1B", "presets of the released code"),
        "LVM-300M": ("300M", "paper, section 5.1"),
        "LVM-600M": ("0.6B", "paper, section 5.1"),
        "LVM-1B": ("1B", "paper, section 5.1"),
        "LVM-3B": ("3B", "paper, section 5.1"),
        "LVM-7B": ("7B", "name of the released checkpoint"),
    }),
    **_entries(
        "videopoet",
        videopoet_superresolution.SUPERRESOLUTION_CONFIGS,
        videopoet_superresolution.SuperResolution,
        {
            "superresolution-1B": ("1B", "paper, appendix A.5.2; its layers and widths are ours"),
            "superresolution-500M": (
                "500M",
                "paper, appendix A.5.2; its layers and widths are ours",
            ),
        },
    ),
    **_entries("dcgan", dcgan.DCGAN_CONFIGS, dcgan.DCGAN, {}),
}  # fmt: skip


def find(name: str) -> Entry:
    """Return the entry of a preset.  Raises ValueError naming the nearest ones if there is none."""
    if name not in list(MODELS):
        near = difflib.get_close_matches(str(name), MODELS, cutoff=0.4) or list(MODELS)
        raise ValueError(
            f"expected a preset, got another name: no preset {name!r}; did you mean"
            f" {', '.join(near)}?"
        )
    return MODELS[name]


def build(name: str) -> nn.Module:
    """Build a preset's model with fresh weights; on torch.device("meta") it costs no memory."""
    return find(name).build()
