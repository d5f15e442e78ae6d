"""CLIP's towers against transformers' and against PyTorch's own layers under open_clip's names;
images and texts prepared for them as the peers prepare them.
"""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.nn.clip_text import CLIPTextConfig
from course_lib.nn.clip_vision import CLIPVisionConfig, prepare_image
from tests.parity.open_clip_model import OpenCLIP
from tests.parity.peers import (
    largest_difference,
    randomize,
    transformers_clip_text,
    transformers_clip_vision,
)


def vision(**changes):
    odd = dict(image_size=21, patch_size=7, width=20, depth=2, heads=4, mlp=36, projection=9)
    return CLIPVisionConfig(**{**odd, **changes})


def text(**changes):
    odd = dict(vocabulary=53, length=11, width=20, depth=2, heads=4, mlp=36)
    return CLIPTextConfig(**{**odd, **changes})


VISION = {
    "one layer, one head": vision(depth=1, heads=1),
    "three layers, quick GELU": vision(depth=3, gelu="quick"),
    "five layers, one channel": vision(
        depth=5, channels=1, image_size=15, patch_size=3, width=18, heads=3
    ),
    "one patch": vision(image_size=7, projection=31),
}
TEXT = {
    "one layer, one head": text(depth=1, heads=1),
    "three layers, quick GELU": text(depth=3, gelu="quick"),
    "five layers, wide": text(depth=5, width=27, heads=3, mlp=7),
}


def images(config, batch=3, seed=1):
    shape = (batch, config.channels, config.image_size, config.image_size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def captions(config, batch=3, length=None, seed=1):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(config.vocabulary, (batch, length or config.length), generator=generator)


# ---------------------------------------------------------------- values and gradients


def compare(paper, model, expected, parameters, x):
    """Return the largest difference of values and of gradients, theirs by our names: converting is
    linear.
    """
    got = model(x)
    assert got.shape == expected.shape
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    names, tensors = zip(*parameters, strict=True)
    probe = (
        torch.randn(got.shape, generator=torch.Generator().manual_seed(2)) / got[0].numel() ** 0.5
    )
    slopes = torch.autograd.grad((probe * expected).sum(), tensors, allow_unused=True)
    theirs = {
        name: torch.zeros_like(tensor) if slope is None else slope
        for name, tensor, slope in zip(names, tensors, slopes, strict=True)
    }
    converted = load_official(paper, theirs, model.config).state_dict()
    (probe * got).sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    slopes = largest_difference(ours, dict(converted))
    print(f"{paper}: values {values:.1e}, gradients {slopes:.1e}")
    return values, slopes


@pytest.mark.parametrize("name", VISION)
def test_the_image_tower_equals_transformers(name):
    config = VISION[name]
    peer = randomize(transformers_clip_vision(config)).eval()
    model = load_official("svd", peer.state_dict(), config)
    x = images(config)
    values, slopes = compare("svd", model, peer(x).image_embeds, peer.named_parameters(), x)
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("name", TEXT)
def test_the_text_tower_equals_transformers(name):
    config = TEXT[name]
    peer = randomize(transformers_clip_text(config)).eval()
    model = load_official("ldm", peer.state_dict(), config)
    for length in (config.length, 4):
        model.zero_grad()
        x = captions(config, length=length)
        output = peer(x).last_hidden_state
        values, slopes = compare("ldm", model, output, peer.named_parameters(), x)
        assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("unused", [0, 1])
@pytest.mark.parametrize("name", TEXT)
def test_both_towers_equal_open_clip(name, unused):
    """With a layer that is left out, as in Stable Diffusion 2, too."""
    configs = vision(gelu=TEXT[name].gelu, depth=TEXT[name].depth), TEXT[name]
    peer = randomize(OpenCLIP(*configs, unused))
    weights = peer.state_dict()
    image, tokens = images(configs[0]), captions(configs[1])
    cases = (
        ("svd", configs[0], image, peer.visual(image)),
        ("ldm", configs[1], tokens, peer.encode_text(tokens)),
    )
    for paper, config, x, output in cases:
        model = load_official(paper, weights, config)
        values, slopes = compare(paper, model, output, peer.named_parameters(), x)
        assert values < 1e-5 and slopes < 1e-5


def test_in_double_precision_they_agree_to_a_billionth():
    config = VISION["three layers, quick GELU"]
    peer = randomize(transformers_clip_vision(config)).eval()
    model = load_official("svd", peer.state_dict(), config).double()
    x = images(config).double()
    torch.testing.assert_close(model(x), peer.double()(x).image_embeds, rtol=0, atol=1e-9)
    config = TEXT["five layers, wide"]
    peer = randomize(transformers_clip_text(config)).eval()
    model = load_official("ldm", peer.state_dict(), config).double()
    x = captions(config)
    torch.testing.assert_close(model(x), peer.double()(x).last_hidden_state, rtol=0, atol=1e-9)


def test_the_two_gelus_differ():
    """The weights do not tell which it was: were it lost, the comparisons would have to fail."""
    weights = randomize(transformers_clip_vision(vision())).state_dict()
    x = images(vision())
    exact, quick = (load_official("svd", weights, vision(gelu=g))(x) for g in ("exact", "quick"))
    assert (exact - quick).abs().max() > 1e-4


def test_a_caption_s_later_tokens_do_not_change_the_earlier_ones():
    model = load_official("ldm", randomize(transformers_clip_text(text())).state_dict(), text())
    tokens = captions(text())
    changed = tokens.clone()
    changed[:, 5:] = (changed[:, 5:] + 1) % text().vocabulary
    one, other = model(tokens), model(changed)
    torch.testing.assert_close(one[:, :5], other[:, :5])
    assert (one[:, 5:] - other[:, 5:]).abs().amax((0, 2)).min() > 1e-3


# ---------------------------------------------------------------- counts

COUNTS = {
    "svd/CLIP-ViT-H": 632_076_800,
    "ldm/CLIP-text-H": 340_387_840,
    "ldm/CLIP-text-L": 123_060_480,
}


@pytest.mark.parametrize("name", COUNTS)
def test_counts_equal_transformers(name):
    peer = transformers_clip_vision if name.startswith("svd/") else transformers_clip_text
    with torch.device("meta"):
        models = zoo.build(name), peer(zoo.find(name).config)
    ours, theirs = (sum(p.numel() for p in model.parameters()) for model in models)
    assert ours == theirs == COUNTS[name]


# ---------------------------------------------------------------- an image, prepared


@pytest.mark.parametrize(
    "size", [(576, 1024), (224, 224), (100, 37), (225, 1500), (2, 9), (449, 448)], ids=str
)
def test_an_image_is_squeezed_and_normalized_as_in_diffusers(size):
    from diffusers.pipelines.stable_video_diffusion.pipeline_stable_video_diffusion import (
        _resize_with_antialiasing,
    )
    from transformers import CLIPImageProcessor

    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(0)) * 2 - 1
    squeezed = (_resize_with_antialiasing(image, (224, 224)) + 1) / 2
    options = dict(do_center_crop=False, do_resize=False, do_rescale=False, return_tensors="pt")
    expected = CLIPImageProcessor()(images=squeezed, do_normalize=True, **options).pixel_values
    difference = (prepare_image(image) - expected).abs().max()
    print(f"{size}: {difference:.1e}")
    assert difference < 2e-5
