"""The weights of ViT, as others publish them.  Ours equals theirs with these settings of our
config:
    google         gelu="tanh", norm_eps=1e-6 (the defaults)
    transformers   gelu="exact", norm_eps=1e-12, unless the checkpoint's config.json says otherwise
    timm           gelu="exact", norm_eps=1e-6

google: the .npz files of google-research/vision_transformer, hybrids included.  Such a file holds
weights and nothing else.  The paper's models pre-trained on ImageNet-21k have the representation
layer (`pre_logits`: that needs representation=width), and their published heads are zeros.  A group
norm's scale and bias are (1, 1, 1, c), as flax had them then.  The state of a training
(`opt/target/...`) is refused, like everything that no tensor of ours asks for.

transformers: ViTForImageClassification.  The older names
(encoder.layer.0.attention.attention.query), under which most weights are published, are read too.
It has no representation layer: that is the pooler of ViTModel, which has no head.

timm: VisionTransformer, vit_base_patch16_224 and the like; older versions have the representation
layer, `pre_logits.fc`.  What is not ours in exact arithmetic is not read: `fc_norm`, a norm behind
the average over the tokens (ours stands before it), and hybrids, whose convolutions and norms have
other epsilons.
"""

from torch import nn

from course_lib.convert.layout import STACKED, Layout, Source, torch_sources
from course_lib.papers.vit import ViTConfig

# ---------------------------------------------------------------- google-research/vision_transformer

GOOGLE_AXES = {  # theirs, of all parts of a layer, -> ours; all others are the same
    "conv.weight": "1 h w i o -> o i h w",
    "linear.weight": "1 i o -> o i",
    "qkv.weight": "parts i heads d -> (parts heads d) i",
    "qkv.bias": "parts heads d -> (parts heads d)",
    "out.weight": "1 heads d o -> o (heads d)",
    "group_norm.weight": "1 1 1 1 c -> c",
    "group_norm.bias": "1 1 1 1 c -> c",
}


def google_sources(model: nn.Module) -> dict[str, Source]:
    """The layout of the .npz files: their layers are flax's, whose kernels have their inputs first."""
    layers, sources = _google_layers(model.config), {}
    whole = {"cls_token": "cls", "positions.table": "Transformer/posembed_input/pos_embedding"}
    for ours, tensor in model.state_dict().items():
        layer, _, leaf = ours.rpartition(".")
        if ours in whole:
            sources[ours] = Source.of(tensor, (whole[ours],))
        elif layer in layers:
            kind, *theirs = layers[layer].split()
            name = "bias" if leaf == "bias" else "scale" if kind.endswith("norm") else "kernel"
            axes = GOOGLE_AXES.get(f"{kind}.{leaf}", STACKED)
            sources[ours] = Source.of(
                tensor, tuple(f"{each}/{name}" for each in theirs), axes, model.config.heads
            )
    return sources


def _google_layers(config: ViTConfig) -> dict[str, str]:
    """By our names, the kind of each layer and its names there."""
    layers = {
        "resnet.root": "conv conv_root",
        "resnet.norm": "group_norm gn_root",
        "patch_embed": "conv embedding",
        "norm": "norm Transformer/encoder_norm",
        "representation": "linear pre_logits",
        "head": "linear head",
    }
    for i in range(config.depth):
        block = f"Transformer/encoderblock_{i}"
        attention = f"{block}/MultiHeadDotProductAttention_1"
        layers |= {
            f"blocks.{i}.norm1": f"norm {block}/LayerNorm_0",
            f"blocks.{i}.attention.qkv": f"qkv {attention}/query {attention}/key {attention}/value",
            f"blocks.{i}.attention.out": f"out {attention}/out",
            f"blocks.{i}.norm2": f"norm {block}/LayerNorm_2",
            f"blocks.{i}.mlp.0": f"linear {block}/MlpBlock_3/Dense_0",
            f"blocks.{i}.mlp.3": f"linear {block}/MlpBlock_3/Dense_1",
        }
    units = [
        (stage, unit) for stage, units in enumerate(config.resnet or ()) for unit in range(units)
    ]
    for i, (stage, unit) in enumerate(units):
        theirs = f"block{stage + 1}/unit{unit + 1}"
        for n in (1, 2, 3):
            layers[f"resnet.stages.{i}.conv{n}"] = f"conv {theirs}/conv{n}"
            layers[f"resnet.stages.{i}.norm{n}"] = f"group_norm {theirs}/gn{n}"
        layers[f"resnet.stages.{i}.skip.0"] = f"conv {theirs}/conv_proj"
        layers[f"resnet.stages.{i}.skip.1"] = f"group_norm {theirs}/gn_proj"
    return layers


# ---------------------------------------------------------------- transformers

OLD_TRANSFORMERS = {
    ".encoder.layer.": ".layers.",
    ".attention.attention.query": ".attention.q_proj",
    ".attention.attention.key": ".attention.k_proj",
    ".attention.attention.value": ".attention.v_proj",
    ".attention.output.dense": ".attention.o_proj",
    ".intermediate.dense": ".mlp.fc1",
    ".output.dense": ".mlp.fc2",
}


def transformers_sources(model: nn.Module) -> dict[str, Source]:
    """The layout of transformers' ViTForImageClassification."""
    names = {
        "cls_token": "vit.embeddings.cls_token",
        "positions.table": "vit.embeddings.position_embeddings",
        "patch_embed": "vit.embeddings.patch_embeddings.projection",
        "norm": "vit.layernorm",
        "head": "classifier",
    }
    return torch_sources(
        model, names | transformers_blocks(model.config.depth, "blocks", "vit.layers")
    )


def transformers_blocks(depth: int, ours: str, theirs: str) -> dict[str, str]:
    """The layers of `depth` blocks, ours and those of transformers' ViT and ViViT."""
    names = {}
    for i in range(depth):
        block = f"{theirs}.{i}"
        names |= {
            f"{ours}.{i}.norm1": f"{block}.layernorm_before",
            f"{ours}.{i}.attention.qkv": " ".join(
                f"{block}.attention.{part}_proj" for part in "qkv"
            ),
            f"{ours}.{i}.attention.out": f"{block}.attention.o_proj",
            f"{ours}.{i}.norm2": f"{block}.layernorm_after",
            f"{ours}.{i}.mlp.0": f"{block}.mlp.fc1",
            f"{ours}.{i}.mlp.3": f"{block}.mlp.fc2",
        }
    return names


def modern_transformers(key: str) -> str:
    """A key of transformers' ViT or ViViT, with the layers of its blocks named as they are since
    version 5.
    """
    for old, new in OLD_TRANSFORMERS.items():
        key = key.replace(old, new)
    return key


# ---------------------------------------------------------------- timm


def timm_sources(model: nn.Module) -> dict[str, Source]:
    """The layout of timm's VisionTransformer, which packs queries, keys and values as we do."""
    names = {
        "cls_token": "cls_token",
        "positions.table": "pos_embed",
        "patch_embed": "patch_embed.proj",
        "norm": "norm",
        "representation": "pre_logits.fc",
        "head": "head",
    }
    for i in range(model.config.depth):
        names |= {
            f"blocks.{i}.norm1": f"blocks.{i}.norm1",
            f"blocks.{i}.attention.qkv": f"blocks.{i}.attn.qkv",
            f"blocks.{i}.attention.out": f"blocks.{i}.attn.proj",
            f"blocks.{i}.norm2": f"blocks.{i}.norm2",
            f"blocks.{i}.mlp.0": f"blocks.{i}.mlp.fc1",
            f"blocks.{i}.mlp.3": f"blocks.{i}.mlp.fc2",
        }
    return torch_sources(model, names)


VIT_LAYOUTS = {
    "google": Layout("embedding/kernel", google_sources),
    "transformers": Layout(
        "vit.embeddings.patch_embeddings.projection.weight",
        transformers_sources,
        modern_transformers,
    ),
    "timm": Layout("patch_embed.proj.weight", timm_sources),
}
