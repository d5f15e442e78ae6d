"""The weights of LVM's tokenizers, as others publish them.

lvm tokenizer: VQVAE of ytongbai/LVM, torch_vqvae_model.py, whose encoder and decoder each count
their blocks through: in the encoder the levels' from fine to coarse, then those next to the codes;
in the decoder those next to the codes, then the levels' from coarse to fine.

muse: VQGANModel of the same repository, vqvae_muse.py, as published in Emma02/vqvae_ckpts.  Its
names are taming's.

Statistics that only our training keeps are as in a fresh model.
"""

from itertools import chain

from torch import nn

from course_lib.convert.layout import Layout, Source, torch_sources
from course_lib.convert.vqgan import fresh_statistics, taming_sources
from course_lib.papers.lvm_tokenizer import MuseTokenizer, Tokenizer

BLOCK = {name: name for name in ("norm1", "conv1", "norm2", "conv2")} | {"skip": "conv_out"}


def vqvae_sources(model: nn.Module) -> dict[str, Source]:
    """Return the sources in LVM's VQVAE."""
    names = {
        "encoder.conv_in": "encoder.conv1",
        "encoder.norm_out": "encoder.norm1",
        "encoder.conv_out": "encoder.conv2",
        "quantizer.codebook": "quantizer.embedding.weight",
        "decoder.conv_in": "decoder.conv1",
        "decoder.norm_out": "decoder.norm1",
        "decoder.conv_out": "decoder.conv6",
    }
    for i in range(len(model.decoder.doublings)):
        names[f"decoder.doublings.{i}.conv"] = f"decoder.up_convs.{i}"

    levels = [f"levels.{i}" for i in range(len(model.config.multipliers))]
    for side, parts in (("encoder", [*levels, "middle"]), ("decoder", ["middle", *levels])):
        ours = chain.from_iterable(
            (f"{side}.{part}.{j}" for j in range(model.config.blocks)) for part in parts
        )
        for number, block in enumerate(ours):
            for name, theirs in BLOCK.items():
                names[f"{block}.{name}"] = f"{side}.blocks.{number}.{theirs}"
    return fresh_statistics(model) | torch_sources(model, names)


LVM_TOKENIZER_LAYOUTS = {
    "lvm tokenizer": Layout("encoder.blocks.0.conv1.weight", vqvae_sources, model=Tokenizer),
    "muse": Layout("encoder.down.0.block.0.conv1.weight", taming_sources, model=MuseTokenizer),
}
