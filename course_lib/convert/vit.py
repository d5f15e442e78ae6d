"""The weights of ViT, as others publish them.

Our model equals theirs with these settings of our config:
    google         gelu="tanh", norm_eps=1e-6 (the defaults)
    transformers   gelu="exact", norm_eps=1e-12, unless the checkpoint's config.json says otherwise
    timm           gelu="exact", norm_eps=1e-6

google: the .npz files of google-research/vision_transformer, hybrids included.  Such a file holds
only weights.  The paper's models pre-trained on ImageNet-21k have the representation layer
(`pre_logits`: set representation=width), and their published heads are zeros.  A group norm's scale
and bias are (1, 1, 1, c), as flax had them then.  The state of a training run (`opt/target/...`) is
refused, like everything that no tensor of ours asks for.  Their code of today numbers the layers of
a block by kind (MultiHeadDotProductAttention_0, LayerNorm_1, MlpBlock_0): these names are read too.

transformers: ViTForImageClassification.  The older names
(encoder.layer.0.attention.attention.query), under which most weights are published, are read too.
It has no representation layer: that is the pooler of ViTModel, which has no head.

timm: VisionTransformer, such as vit_base_patch16_224; older versions have the representation layer,
`pre_logits.fc`.  What is not ours in exact arithmetic is not read: `fc_norm`, a norm after the
average over the tokens (ours is before it), and hybrids, whose convolutions and norms have other
epsilons.
"""

from dataclasses import dataclass

from torch import nn

from course_lib.convert.layout import STACKED, Layout, Source, torch_sources
from course_lib.papers.vit import ViTConfig

# ---------------------------------------------------------------- google

# Their names of a layer's weight and bias, by the kind of layer; and the axes that differ from
# ours: those of all parts of a layer, theirs -> ours.
GOOGLE_NAMES = {
    "conv": {"weight": "kernel", "bias": "bias"},
    "linear": {"weight": "kernel", "bias": "bias"},
    "qkv": {"weight": "kernel", "bias": "bias"},
    "out": {"weight": "kernel", "bias": "bias"},
    "layer_norm": {"weight": "scale", "bias": "bias"},
    "group_norm": {"weight": "scale", "bias": "bias"},
}
GOOGLE_AXES = {
    ("conv", "weight"): "1 h w i o -> o i h w",
    ("linear", "weight"): "1 i o -> o i",
    ("qkv", "weight"): "parts i heads d -> (parts heads d) i",
    ("qkv", "bias"): "parts heads d -> (parts heads d)",
    ("out", "weight"): "1 heads d o -> o (heads d)",
    ("group_norm", "weight"): "1 1 1 1 c -> c",
    ("group_norm", "bias"): "1 1 1 1 c -> c",
}


@dataclass(frozen=True)
class GoogleLayer:
    """The kind of a layer, a key of GOOGLE_NAMES, and the names of its parts there."""

    kind: str
    names: tuple[str, ...]


# The code of today -> the published files.
LINEN = {
    "/MultiHeadDotProductAttention_0/": "/MultiHeadDotProductAttention_1/",
    "/LayerNorm_1/": "/LayerNorm_2/",
    "/MlpBlock_0/": "/MlpBlock_3/",
}


def published(key: str) -> str:
    """Return the published name of one that today's code gives."""
    for today, then in LINEN.items():
        key = key.replace(today, then)
    return key


def google_sources(model: nn.Module) -> dict[str, Source]:
    """Return the layout of the .npz files: flax's layers, with a kernel's inputs first."""
    layers = _google_layers(model.config)
    single = {"cls_token": "cls", "positions.table": "Transformer/posembed_input/pos_embedding"}
    sources = {}
    for ours, tensor in model.state_dict().items():
        name, _, leaf = ours.rpartition(".")
        if ours in single:
            sources[ours] = Source.of(tensor, (single[ours],))
        elif name in layers:
            layer = layers[name]
            keys = tuple(f"{part}/{GOOGLE_NAMES[layer.kind][leaf]}" for part in layer.names)
            axes = GOOGLE_AXES.get((layer.kind, leaf), STACKED)
            sources[ours] = Source.of(tensor, keys, axes, model.config.heads)
    return sources


def _google_layers(config: ViTConfig) -> dict[str, GoogleLayer]:
    """Return each layer by our name."""
    layers = {
        "resnet.root": GoogleLayer("conv", ("conv_root",)),
        "resnet.norm": GoogleLayer("group_norm", ("gn_root",)),
        "patch_embed": GoogleLayer("conv", ("embedding",)),
        "norm": GoogleLayer("layer_norm", ("Transformer/encoder_norm",)),
        "representation": GoogleLayer("linear", ("pre_logits",)),
        "head": GoogleLayer("linear", ("head",)),
    }
    for i in range(config.depth):
        ours = f"blocks.{i}"
        theirs = f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        qkv = tuple(f"{attention}/{part}" for part in ("query", "key", "value"))
        layers |= {
            f"{ours}.norm1": GoogleLayer("layer_norm", (f"{theirs}/LayerNorm_0",)),
            f"{ours}.attention.qkv": GoogleLayer("qkv", qkv),
            f"{ours}.attention.out": GoogleLayer("out", (f"{attention}/out",)),
            f"{ours}.norm2": GoogleLayer("layer_norm", (f"{theirs}/LayerNorm_2",)),
            f"{ours}.mlp.0": GoogleLayer("linear", (f"{theirs}/MlpBlock_3/Dense_0",)),
            f"{ours}.mlp.3": GoogleLayer("linear", (f"{theirs}/MlpBlock_3/Dense_1",)),
        }

    number = 0  # ours: units are counted through all stages
    for stage, units in enumerate(config.resnet or (), start=1):
        for unit in range(1, units + 1):
            ours = f"resnet.stages.{number}"
            theirs = f"block{stage}/unit{unit}"
            for n in (1, 2, 3):
                layers[f"{ours}.conv{n}"] = GoogleLayer("conv", (f"{theirs}/conv{n}",))
                layers[f"{ours}.norm{n}"] = GoogleLayer("group_norm", (f"{theirs}/gn{n}",))
            layers[f"{ours}.skip.0"] = GoogleLayer("conv", (f"{theirs}/conv_proj",))
            layers[f"{ours}.skip.1"] = GoogleLayer("group_norm", (f"{theirs}/gn_proj",))
            number += 1
    return layers


# ---------------------------------------------------------------- transformers

# In this order: attention's output is renamed before the MLP's, whose name its own contains.
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
    """Return the layout of transformers' ViTForImageClassification."""
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
    """Name the layers of `depth` blocks: ours, and those of transformers' ViT and ViViT."""
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
    """Rename a key of transformers' ViT or ViViT to what it is since version 5."""
    for old, new in OLD_TRANSFORMERS.items():
        key = key.replace(old, new)
    return key


# ---------------------------------------------------------------- timm


def timm_sources(model: nn.Module) -> dict[str, Source]:
    """Return the layout of timm's VisionTransformer, which packs q, k and v as we do."""
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
    "google": Layout("embedding/kernel", google_sources, published),
    "transformers": Layout(
        "vit.embeddings.patch_embeddings.projection.weight",
        transformers_sources,
        modern_transformers,
    ),
    "timm": Layout("patch_embed.proj.weight", timm_sources),
}
