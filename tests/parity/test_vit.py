"""Our ViT against transformers', and against Google's and timm's layouts: values and gradients, in
odd shapes.
"""

import numpy as np
import pytest
import scipy.ndimage
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.papers.vit import ViT, ViTConfig, for_fine_tuning, interpolate_positions
from tests.parity import vit_layouts
from tests.parity.peers import gradients, largest_difference, randomize, transformers_vit


def vit(**changes):
    """Return a config with sides and widths of its own: 2 x 3 patches of 7 pixels."""
    odd = {
        "image_size": (14, 21),
        "patch_size": 7,
        "width": 20,
        "depth": 2,
        "heads": 4,
        "mlp": 36,
        "num_classes": 5,
    }
    return ViTConfig(**{**odd, **changes})


CASES = {
    "one layer, one head": vit(depth=1, heads=1),
    "three layers, exact GELU": vit(depth=3, gelu="exact", norm_eps=1e-12),
    "five layers, one channel, wide": vit(
        depth=5, image_size=(9, 30), patch_size=3, channels=1, width=27, heads=3
    ),
    "patches of a pixel": vit(image_size=(3, 4), patch_size=1, channels=5),
    "one patch": vit(image_size=7, gelu="exact"),
    "coarse epsilon": vit(norm_eps=1e-2),
}


def images(config, batch=3, seed=1):
    return torch.randn(
        batch, config.channels, *config.size, generator=torch.Generator().manual_seed(seed)
    )


def compare(model, image, peer, peer_parameters, layout):
    """Return the largest difference of values and of gradients; theirs by our names, as conversion
    is linear.
    """
    ours, theirs = image.clone().requires_grad_(), image.clone().requires_grad_()
    got, expected = model(ours), peer(theirs)
    assert got.shape == expected.shape
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    theirs_by_name = gradients(expected, theirs, peer_parameters)
    x = theirs_by_name.pop("x")
    single = {name: grad.float() for name, grad in theirs_by_name.items()}
    converted = load_official("vit", single, model.config, layout=layout).state_dict()
    slopes = largest_difference(
        gradients(got, ours, model.named_parameters()), {"x": x, **converted}
    )
    print(f"{layout}: values {values:.1e}, gradients {slopes:.1e}")
    return values, slopes


# ---------------------------------------------------------------- transformers


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name):
    config = CASES[name]
    peer = randomize(transformers_vit(config)).eval()
    model = load_official("vit", peer.state_dict(), config).eval()
    values, slopes = compare(
        model, images(config), lambda x: peer(x).logits, peer.named_parameters(), "transformers"
    )
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers_in_double_precision_to_a_billionth(name):
    config = CASES[name]
    peer = randomize(transformers_vit(config)).eval()
    model = load_official("vit", peer.state_dict(), config).eval()
    x = images(config).double()
    torch.testing.assert_close(model.double()(x), peer.double()(x).logits, rtol=0, atol=1e-9)


def test_what_a_checkpoint_does_not_say_changes_the_output():
    """GELU's form and epsilon leave no trace in the weights: were they lost, the comparisons would
    have to fail.
    """
    config = vit(norm_eps=1e-12, gelu="exact")
    weights = randomize(transformers_vit(config)).state_dict()
    x = images(config)
    expected = load_official("vit", weights, config)(x)
    for changed in (
        vit(norm_eps=1e-12, gelu="tanh"),
        vit(norm_eps=1e-3, gelu="exact"),
        vit(heads=2, gelu="exact"),
    ):
        assert (load_official("vit", weights, changed)(x) - expected).abs().max() > 1e-4


def test_attention_maps_equal_transformers():
    config = vit(depth=3, gelu="exact")
    peer = randomize(transformers_vit(config)).eval()
    peer.set_attn_implementation("eager")
    model = load_official("vit", peer.state_dict(), config).eval()
    x = images(config)
    with torch.no_grad():
        expected = torch.stack(peer(x, output_attentions=True).attentions)
    torch.testing.assert_close(model.attention_maps(x), expected, rtol=0, atol=1e-6)


# ---------------------------------------------------------------- Google's .npz

HYBRID = {"image_size": (48, 72), "patch_size": 24, "resnet": (1, 2), "depth": 1}
GOOGLE_CASES = {
    "plain": vit(),
    "four layers, representation": vit(depth=4, representation=11),
    "average pooling": vit(pool="average", image_size=(21, 7)),
    "no positions": vit(positions="none"),
    "hybrid": vit(**HYBRID),
    "hybrid of three stages": vit(
        image_size=(32, 16), patch_size=16, resnet=(2, 1, 1), depth=1, channels=2
    ),
}


def write_npz(path, shapes, seed=0):
    """Write a file as the official ones are, of random numbers."""
    np.savez(
        path,
        **{name: value.numpy() for name, value in vit_layouts.random_weights(shapes, seed).items()},
    )
    return path


def load_both(path, config, dtype):
    """Load one file into our model and into the layout's own run."""
    model = load_official("vit", path, config).to(dtype).eval()
    with np.load(path) as arrays:
        weights = {key: torch.from_numpy(arrays[key]).to(dtype).requires_grad_() for key in arrays}
    return model, lambda x: vit_layouts.run_google(weights, x), weights.items()


@pytest.mark.parametrize("name", GOOGLE_CASES)
def test_equals_the_google_layout_read_from_a_file(name, tmp_path):
    """Values in single precision.  Gradients too, but for hybrids: where the input of a ReLU is
    zero up to rounding, its slope is 0 in one of the two and 1 in the other."""
    config = GOOGLE_CASES[name]
    path = write_npz(tmp_path / "ViT.npz", vit_layouts.google_shapes(config))
    model, peer, parameters = load_both(path, config, torch.float32)
    values, slopes = compare(model, images(config), peer, parameters, "google")
    if config.resnet:
        model, peer, parameters = load_both(path, config, torch.float64)
        exact_values, slopes = compare(model, images(config).double(), peer, parameters, "google")
        assert exact_values < 1e-12
    assert values < 1e-5 and slopes < 1e-5


def back_to_google(model):
    """Return our tensors as Google's arrays: every axis moved by hand."""
    found, heads = {}, model.config.heads
    for key, value in model.state_dict().items():
        found[key] = value.numpy()
    d = model.config.width
    arrays = {
        "cls": found["cls_token"],
        "Transformer/posembed_input/pos_embedding": found["positions.table"],
        "embedding/kernel": found["patch_embed.weight"].transpose(2, 3, 1, 0),
        "embedding/bias": found["patch_embed.bias"],
        "Transformer/encoder_norm/scale": found["norm.weight"],
        "Transformer/encoder_norm/bias": found["norm.bias"],
        "pre_logits/kernel": found["representation.weight"].T,
        "pre_logits/bias": found["representation.bias"],
        "head/kernel": found["head.weight"].T,
        "head/bias": found["head.bias"],
    }
    for i in range(model.config.depth):
        ours, theirs = f"blocks.{i}", f"Transformer/encoderblock_{i}"
        attention = f"{theirs}/MultiHeadDotProductAttention_1"
        for n, part in enumerate(("query", "key", "value")):
            rows = slice(n * d, (n + 1) * d)
            arrays[f"{attention}/{part}/kernel"] = found[f"{ours}.attention.qkv.weight"][
                rows
            ].T.reshape(d, heads, -1)
            arrays[f"{attention}/{part}/bias"] = found[f"{ours}.attention.qkv.bias"][rows].reshape(
                heads, -1
            )
        arrays[f"{attention}/out/kernel"] = found[f"{ours}.attention.out.weight"].T.reshape(
            heads, -1, d
        )
        arrays[f"{attention}/out/bias"] = found[f"{ours}.attention.out.bias"]
        for norm, flax in (("norm1", "LayerNorm_0"), ("norm2", "LayerNorm_2")):
            arrays[f"{theirs}/{flax}/scale"] = found[f"{ours}.{norm}.weight"]
            arrays[f"{theirs}/{flax}/bias"] = found[f"{ours}.{norm}.bias"]
        for layer, flax in ((0, "Dense_0"), (3, "Dense_1")):
            arrays[f"{theirs}/MlpBlock_3/{flax}/kernel"] = found[f"{ours}.mlp.{layer}.weight"].T
            arrays[f"{theirs}/MlpBlock_3/{flax}/bias"] = found[f"{ours}.mlp.{layer}.bias"]
    return arrays


def test_a_round_trip_gives_the_same_arrays_bit_for_bit():
    config = vit(depth=3, representation=11)
    weights = vit_layouts.random_weights(vit_layouts.google_shapes(config))
    arrays = back_to_google(load_official("vit", weights, config))
    assert arrays.keys() == weights.keys()
    for key, value in weights.items():
        assert np.array_equal(arrays[key], value.numpy()), key


# ---------------------------------------------------------------- timm

TIMM_CASES = {
    "three layers": vit(depth=3, gelu="exact"),
    "representation, seven patches": vit(gelu="exact", representation=9, image_size=(7, 49)),
    "average pooling": vit(gelu="exact", pool="average"),
}


@pytest.mark.parametrize("name", TIMM_CASES)
def test_equals_the_timm_layout(name):
    config = TIMM_CASES[name]
    weights = vit_layouts.random_weights(vit_layouts.timm_shapes(config))
    model = load_official("vit", weights, config).eval()
    weights = {key: value.requires_grad_() for key, value in weights.items()}

    def peer(x):
        return vit_layouts.run_timm(weights, x, config.heads)

    values, slopes = compare(model, images(config), peer, weights.items(), "timm")
    assert values < 1e-5 and slopes < 1e-5


# ---------------------------------------------------------------- another resolution


def resized_by_the_official_code(table, old, new, tokens):
    """Resize positions as Google does before fine-tuning: SciPy's linear zoom of the grid."""
    token, grid = table[:, :tokens], table[0, tokens:]
    grid = scipy.ndimage.zoom(
        grid.reshape(*old, -1), (new[0] / old[0], new[1] / old[1], 1), order=1
    )
    return np.concatenate([token, grid.reshape(1, new[0] * new[1], -1)], axis=1)


@pytest.mark.parametrize("tokens", [0, 1])
@pytest.mark.parametrize(
    "old,new", [((3, 5), (7, 4)), ((14, 14), (24, 24)), ((6, 2), (3, 9)), ((4, 4), (4, 4))]
)
def test_positions_are_resized_as_in_the_official_code(old, new, tokens):
    table = torch.randn(
        1,
        tokens + old[0] * old[1],
        6,
        dtype=torch.float64,
        generator=torch.Generator().manual_seed(3),
    )
    got = interpolate_positions(table, old, new)
    expected = torch.from_numpy(resized_by_the_official_code(table.numpy(), old, new, tokens))
    torch.testing.assert_close(got, expected, rtol=0, atol=1e-12)


def test_a_checkpoint_starts_at_a_higher_resolution_as_the_official_code_does():
    config = vit(representation=11)
    weights = vit_layouts.random_weights(vit_layouts.google_shapes(config))
    model = for_fine_tuning(load_official("vit", weights, config), (28, 42), num_classes=4)
    key = "Transformer/posembed_input/pos_embedding"
    resized = resized_by_the_official_code(weights[key].numpy(), (2, 3), (4, 6), tokens=1)
    weights[key] = torch.from_numpy(resized.astype(np.float32))
    weights = {name: value for name, value in weights.items() if not name.startswith("pre_logits")}
    weights |= {"head/kernel": torch.randn(20, 4), "head/bias": torch.randn(4)}
    with torch.no_grad():
        model.head.weight.copy_(weights["head/kernel"].T)
        model.head.bias.copy_(weights["head/bias"])
        x = images(model.config)
        torch.testing.assert_close(model(x), vit_layouts.run_google(weights, x), rtol=0, atol=1e-5)


# ---------------------------------------------------------------- sizes

COUNTS = {"ViT-B/16": 86_567_656, "ViT-L/16": 304_326_632, "ViT-H/14": 632_045_800}  # PAPERS


def parameters(model):
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize(
    "name", [n.removeprefix("vit/") for n in zoo.MODELS if n.startswith("vit/ViT")]
)
def test_counts_equal_transformers(name):
    with torch.device("meta"):
        model, peer = zoo.build(f"vit/{name}"), transformers_vit(zoo.find(f"vit/{name}").config)
    assert parameters(model) == parameters(peer) == COUNTS.get(name, parameters(peer))


@pytest.mark.parametrize("name", [n for n in zoo.MODELS if n.startswith("vit/")])
def test_counts_equal_the_google_layout(name):
    with torch.device("meta"):
        model = zoo.build(name)
    shapes = vit_layouts.google_shapes(zoo.find(name).config).values()
    assert parameters(model) == sum(torch.Size(shape).numel() for shape in shapes)


def test_the_head_of_imagenet_21k_with_its_representation_layer():
    config = ViTConfig(num_classes=21_843, representation=768)
    with torch.device("meta"):
        model = ViT(config)
    headless, layer, head = 85_798_656, 768 * 768 + 768, 768 * 21_843 + 21_843
    assert parameters(model) == headless + layer + head
