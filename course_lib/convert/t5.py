"""The weights of T5's encoder, version 1.1, as transformers publishes them: T5EncoderModel.

The whole T5ForConditionalGeneration is read, too; its decoder and its head are set aside.  The
embedding of the tokens is `shared.weight`, and files may hold it once more as the encoder's own.

The paper's version, 1.0, has an MLP of another kind (wi instead of wi_0 and wi_1), and is refused
for these keys.
"""

from torch import Tensor, nn

from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.nn.t5 import T5Encoder

EMBEDDING = "shared.weight"
OWN_EMBEDDING = "encoder.embed_tokens.weight"  # the same tensor, in files that hold it twice
POSITIONS = "encoder.block.0.layer.0.SelfAttention.relative_attention_bias.weight"
REST = ("decoder.", "lm_head.")  # of the whole model


def transformers_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in T5EncoderModel."""
    names = {
        "tokens.weight": EMBEDDING,
        "distances.weight": POSITIONS,
        "norm": "encoder.final_layer_norm",
    }
    for i in range(model.config.depth):
        attention = f"encoder.block.{i}.layer.0"
        mlp = f"encoder.block.{i}.layer.1"
        names |= {
            f"blocks.{i}.norm1": f"{attention}.layer_norm",
            f"blocks.{i}.qkv": " ".join(f"{attention}.SelfAttention.{part}" for part in "qkv"),
            f"blocks.{i}.out": f"{attention}.SelfAttention.o",
            f"blocks.{i}.norm2": f"{mlp}.layer_norm",
            f"blocks.{i}.mlp1": f"{mlp}.DenseReluDense.wi_0 {mlp}.DenseReluDense.wi_1",
            f"blocks.{i}.mlp2": f"{mlp}.DenseReluDense.wo",
        }
    return torch_sources(model, names)


def _is_beside_encoder(key: str, value: Tensor, model: nn.Module) -> bool:
    """Tell whether a tensor is the embedding once more, or of the rest of the whole T5."""
    return key == OWN_EMBEDDING or key.startswith(REST)


T5_LAYOUTS = {
    "transformers T5 encoder": Layout(
        POSITIONS, transformers_sources, model=T5Encoder, set_aside=_is_beside_encoder
    ),
}
