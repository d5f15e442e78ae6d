"""LVM's tokenizers: shapes, ranges, where gradients go, and what is refused."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from course_lib import zoo
from course_lib.nn.attention import SpatialAttention
from course_lib.papers.lvm_tokenizer import (
    MUSE_CONFIGS,
    TOKENIZER_CONFIGS,
    DepthToSpace,
    MuseTokenizer,
    Tokenizer,
    TokenizerConfig,
)
from course_lib.papers.vqgan import VQGAN, VQGANConfig

SMALL = TokenizerConfig(
    channels=2, width=4, multipliers=(1, 3, 2), blocks=2, code_dim=5, num_codes=13, groups=2
)
MUSE = VQGANConfig(
    image_size=16,
    channels=2,
    width=4,
    multipliers=(1, 3, 2),
    blocks=1,
    attention=(),
    attend_middle=False,
    latent=6,
    code_dim=5,
    num_codes=13,
    groups=2,
)
KINDS = [(Tokenizer, SMALL), (MuseTokenizer, MUSE)]


def rand(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def awake(model, seed=0):
    """Return the model after no weight in it is zero, one or small any more."""
    torch.manual_seed(seed)
    for p in model.parameters():
        nn.init.normal_(p, std=0.3)
    return model.eval()


def test_presets():
    config = TOKENIZER_CONFIGS["tokenizer"]
    assert (config.downsampling, config.num_codes, config.code_dim) == (16, 8192, 32)
    assert config.widths == [128, 128, 256, 256, 512]
    config = MUSE_CONFIGS["tokenizer-muse"]
    assert (config.downsampling, config.num_codes, config.code_dim) == (16, 8192, 64)
    assert config.widths == [128, 256, 256, 512, 768]


def test_the_tiny_one_is_for_images_of_32_pixels():
    model = zoo.build("lvm/tokenizer-tiny")
    image = rand(2, 3, 32, 32).tanh()
    with torch.no_grad():
        rebuilt, quantized = model(image)
    assert rebuilt.shape == image.shape and quantized.indices.shape == (2, 8, 8)
    state = sum(x.numel() * x.element_size() for x in model.state_dict().values())
    assert state < 6_000_000  # what a checkpoint may have, in bytes


@pytest.mark.parametrize(("local", "changed"), [(True, 9), (False, 64)])
def test_what_a_local_encoder_says_of_a_place_depends_on_what_is_near_it(local, changed):
    config = replace(TOKENIZER_CONFIGS["tokenizer-tiny"], local=local)
    encoder = awake(Tokenizer(config)).encoder
    image = rand(1, 3, 32, 32)
    other = image.clone()
    other[:, :, 12:16, 16:20] += 1.0  # what the code in row 3, column 4 stands for
    differs = (encoder(image) != encoder(other)).any(1)[0]  # 8 8
    assert int(differs.sum()) == changed
    if local:
        assert differs[2:5, 3:6].all()


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("size", [(8, 20), (4, 4), (24, 40)], ids=str)
def test_shapes_on_unequal_axes(kind, config, size):
    model, image = awake(kind(config)), rand(3, 2, *size)
    rebuilt, quantized = model(image)
    grid = (size[0] // 4, size[1] // 4)
    assert rebuilt.shape == image.shape
    assert quantized.latents.shape == (3, 5, *grid) and quantized.indices.shape == (3, *grid)
    assert quantized.loss.shape == () and quantized.indices.dtype == torch.int64
    assert model.features(image).shape == (3, 5, *grid)
    torch.testing.assert_close(model.decode_indices(quantized.indices), rebuilt)


@pytest.mark.parametrize(("kind", "config"), KINDS)
@pytest.mark.parametrize("size", [(8, 22), (10, 8), (3, 4)], ids=str)
def test_sides_that_f_does_not_divide_are_refused(kind, config, size):
    model = awake(kind(config))
    for work in (model, model.encode, model.features):
        with pytest.raises(
            ValueError, match=rf"expected sides divisible by 4, got \({size[0]}, {size[1]}\)"
        ):
            work(rand(1, 2, *size))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"groups": 8}, r"expected widths that 8 groups share evenly, got \[4, 12\]"),
        ({"update": "average"}, "expected update 'loss' or 'ema', got 'average'"),
        ({"num_codes": 0}, "expected at least one code"),
    ],
)
def test_impossible_configs_say_what_is_wrong(change, message, untyped):
    with pytest.raises(ValueError, match=message):
        Tokenizer(replace(SMALL, **change))


def test_the_networks_see_and_make_pixels_from_0_to_1():
    image = rand(2, 2, 8, 12).tanh()
    model = awake(Tokenizer(SMALL))
    torch.testing.assert_close(model.features(image), model.encoder((image + 1) / 2))
    latents = rand(2, 5, 2, 3)
    torch.testing.assert_close(model.decode(latents), 2 * model.decoder(latents) - 1)

    muse, plain = awake(MuseTokenizer(MUSE)), awake(VQGAN(MUSE))
    torch.testing.assert_close(muse.features(image), plain.features((image + 1) / 2))
    torch.testing.assert_close(muse.decode(latents), 2 * plain.decode(latents) - 1)


def test_the_muse_tokenizer_attends_nowhere():
    def attentions(config):
        return sum(isinstance(layer, SpatialAttention) for layer in VQGAN(config).modules())

    assert attentions(MUSE) == 0 and attentions(replace(MUSE, attend_middle=True)) == 2


def test_depth_to_space_counts_rows_columns_channels():
    layer = DepthToSpace(3)
    with torch.no_grad():
        layer.conv.weight.zero_()
        layer.conv.bias.copy_(torch.arange(12.0))
    out = layer(torch.zeros(1, 3, 4, 5))
    assert out.shape == (1, 3, 8, 10)
    for channel in range(3):
        corner = out[0, channel, 2:4, 4:6]
        assert corner.tolist() == [[channel, 3 + channel], [6 + channel, 9 + channel]]


@pytest.mark.parametrize("update", ["loss", "ema"])
def test_every_parameter_learns(update):
    torch.manual_seed(0)
    model = Tokenizer(replace(SMALL, update=update)).train()
    image = rand(3, 2, 8, 12).tanh()
    before = model.quantizer.codebook.clone()
    rebuilt, quantized = model(image)
    ((rebuilt - image).abs().mean() + quantized.loss).backward()
    still = [name for name, p in model.named_parameters() if not p.grad.abs().sum() > 0]
    assert still == []
    assert torch.equal(before, model.quantizer.codebook) == (update == "loss")
