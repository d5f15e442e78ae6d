"""The weights of CLIP's towers, as others publish them.

Our towers equal theirs with gelu="exact" for OpenCLIP's weights and gelu="quick" for OpenAI's,
unless the checkpoint's config.json says otherwise (`hidden_act`).

transformers: CLIPVisionModelWithProjection, CLIPTextModel; the text tower's keys with and without
`text_model.` before them.  The whole CLIPModel is read too.

open_clip: the state dict of the whole model.  A tower leaves the other aside, and what compares the
two (logit_scale).  Our text tower has no projection; with one layer less than the file has, as in
Stable Diffusion 2, the last one is set aside.

Both are also found in the checkpoints of a whole Stable (Video) Diffusion, as Stability and CompVis
publish them: behind one of PREFIXES.  The other networks are set aside there.
"""

from torch import Tensor, nn

from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.convert.ldm import TABLES
from course_lib.nn.clip_text import CLIPText
from course_lib.nn.clip_vision import CLIPVision

PREFIXES = (
    "conditioner.embedders.0.open_clip.model.",  # Stable Video Diffusion
    "conditioner.embedders.0.model.",  # Stable Diffusion 2, saved by the later code
    "cond_stage_model.transformer.",  # Stable Diffusion 1
    "cond_stage_model.model.",  # Stable Diffusion 2
)
# What else such a checkpoint holds: other networks, and the noise schedule.
AROUND = ("model.", "model_ema.", "first_stage_model.", "conditioner.", "cond_stage_model.")


def modern(key: str) -> str:
    """Return the key without what is before a tower in a larger checkpoint."""
    for prefix in PREFIXES:
        key = key.removeprefix(prefix)
    return key.removeprefix("text_model.")


def _is_around(key: str) -> bool:
    """Tell whether a tensor belongs to another part of a whole Stable (Video) Diffusion."""
    outside = key.startswith(AROUND) and not key.startswith(PREFIXES)
    return outside or key in TABLES


# ---------------------------------------------------------------- transformers


def transformers_vision_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in CLIPVisionModelWithProjection."""
    names = {
        "patch_embed": "vision_model.embeddings.patch_embedding",
        "cls_token": "vision_model.embeddings.class_embedding",
        "positions": "vision_model.embeddings.position_embedding.weight",
        "norm_in": "vision_model.pre_layrnorm",
        "norm_out": "vision_model.post_layernorm",
        "projection": "visual_projection",
    }
    return torch_sources(model, names | _transformers_blocks(model, "vision_model."))


def transformers_text_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in CLIPTextModel."""
    names = {
        "tokens": "embeddings.token_embedding",
        "positions": "embeddings.position_embedding.weight",
        "norm": "final_layer_norm",
    }
    return torch_sources(model, names | _transformers_blocks(model, ""))


def _transformers_blocks(model: nn.Module, tower: str) -> dict[str, str]:
    """Name the layers of all blocks: ours, and transformers'."""
    names = {}
    for i in range(model.config.depth):
        block = f"{tower}encoder.layers.{i}"
        names |= {
            f"blocks.{i}.norm1": f"{block}.layer_norm1",
            f"blocks.{i}.qkv": " ".join(f"{block}.self_attn.{part}_proj" for part in "qkv"),
            f"blocks.{i}.out": f"{block}.self_attn.out_proj",
            f"blocks.{i}.norm2": f"{block}.layer_norm2",
            f"blocks.{i}.mlp1": f"{block}.mlp.fc1",
            f"blocks.{i}.mlp2": f"{block}.mlp.fc2",
        }
    return names


def _is_beside_transformers_vision(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is not of the image tower; or its numbered positions, 0, 1, 2, ..."""
    text = key.startswith("text_model.") or key in ("text_projection.weight", "logit_scale")
    return text or key == "vision_model.embeddings.position_ids" or _is_around(key)


def _is_beside_transformers_text(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is not of the text tower; or its numbered positions, 0, 1, 2, ..."""
    vision = key.startswith("vision_model.") or key == "visual_projection.weight"
    both = key in ("text_projection.weight", "logit_scale")
    return vision or both or modern(key) == "embeddings.position_ids" or _is_around(key)


# ---------------------------------------------------------------- open_clip


def open_clip_vision_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in open_clip's `visual`, whose projection has its inputs first."""
    names = {
        "patch_embed": "visual.conv1",
        "cls_token": "visual.class_embedding",
        "positions": "visual.positional_embedding",
        "norm_in": "visual.ln_pre",
        "norm_out": "visual.ln_post",
    }
    projection = Source.of(model.projection.weight, ("visual.proj",), "1 i o -> o i")
    blocks = _open_clip_blocks(model, "visual.")
    return torch_sources(model, names | blocks) | {"projection.weight": projection}


def open_clip_text_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in open_clip's text tower, which has no prefix there."""
    names = {
        "tokens": "token_embedding",
        "positions": "positional_embedding",
        "norm": "ln_final",
    }
    return torch_sources(model, names | _open_clip_blocks(model, ""))


def _open_clip_blocks(model: nn.Module, tower: str) -> dict[str, str]:
    """Name the layers of all blocks: ours, and open_clip's, which packs q, k and v as we do."""
    names = {}
    for i in range(model.config.depth):
        block = f"{tower}transformer.resblocks.{i}"
        names |= {
            f"blocks.{i}.norm1": f"{block}.ln_1",
            f"blocks.{i}.qkv.weight": f"{block}.attn.in_proj_weight",
            f"blocks.{i}.qkv.bias": f"{block}.attn.in_proj_bias",
            f"blocks.{i}.out": f"{block}.attn.out_proj",
            f"blocks.{i}.norm2": f"{block}.ln_2",
            f"blocks.{i}.mlp1": f"{block}.mlp.c_fc",
            f"blocks.{i}.mlp2": f"{block}.mlp.c_proj",
        }
    return names


OPEN_CLIP_TEXT = ("transformer.resblocks.", "token_embedding.", "ln_final.")
OPEN_CLIP_ALONE = ("positional_embedding", "text_projection", "logit_scale", "attn_mask")


def _is_beside_open_clip_vision(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is of the text tower or of neither."""
    bare = modern(key)
    return bare.startswith(OPEN_CLIP_TEXT) or bare in OPEN_CLIP_ALONE or _is_around(key)


def _is_beside_open_clip_text(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is of the image tower, of neither, or of the layer left out."""
    bare = modern(key)
    unused = bare.startswith(f"transformer.resblocks.{model.config.depth}.")
    alone = bare in OPEN_CLIP_ALONE[1:]
    return bare.startswith("visual.") or unused or alone or _is_around(key)


CLIP_VISION_LAYOUTS = {
    "transformers image tower": Layout(
        "vision_model.embeddings.class_embedding",
        transformers_vision_sources,
        modern,
        CLIPVision,
        _is_beside_transformers_vision,
    ),
    "open_clip image tower": Layout(
        "visual.class_embedding",
        open_clip_vision_sources,
        modern,
        CLIPVision,
        _is_beside_open_clip_vision,
    ),
}
CLIP_TEXT_LAYOUTS = {
    "transformers text tower": Layout(
        "embeddings.token_embedding.weight",
        transformers_text_sources,
        modern,
        CLIPText,
        _is_beside_transformers_text,
    ),
    "open_clip text tower": Layout(
        "token_embedding.weight",
        open_clip_text_sources,
        modern,
        CLIPText,
        _is_beside_open_clip_text,
    ),
}
