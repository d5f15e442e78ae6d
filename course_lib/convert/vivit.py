"""The weights of ViViT's Model 1, as transformers publishes them: VivitForVideoClassification.

Our model equals it with the defaults of our config: its "gelu_fast" is the tanh form, its epsilon
1e-6.  The older names of layers are read too.  transformers has none of the other three models.
"""

from torch import nn

from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.convert.vit import modern_transformers, transformers_blocks


def transformers_sources(model: nn.Module) -> dict[str, Source]:
    """Return the layout of transformers' VivitForVideoClassification."""
    names = {
        "encoder.cls_token": "vivit.embeddings.cls_token",
        "encoder.positions": "vivit.embeddings.position_embeddings",
        "tubelet_embed": "vivit.embeddings.patch_embeddings.projection",
        "encoder.norm": "vivit.layernorm",
        "head": "classifier",
    }
    return torch_sources(
        model, names | transformers_blocks(model.config.depth, "encoder.blocks", "vivit.layers")
    )


VIVIT_LAYOUTS = {
    "transformers": Layout(
        "vivit.embeddings.patch_embeddings.projection.weight",
        transformers_sources,
        modern_transformers,
    ),
}
