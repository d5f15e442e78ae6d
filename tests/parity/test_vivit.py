"""Our ViViT, Model 1, against transformers': values and gradients, in odd shapes."""

import pytest
import torch

from course_lib import zoo
from course_lib.convert import load_official
from course_lib.papers.vivit import ViViTConfig
from tests.parity.peers import gradients, largest_difference, randomize, transformers_vivit


def vivit(**changes):
    """Return a config of Model 1: 2 x 2 x 3 tubelets of 3 frames of 5 x 4 pixels."""
    odd = {
        "frames": 6,
        "image_size": (10, 12),
        "tubelet": (3, 5, 4),
        "width": 20,
        "depth": 2,
        "heads": 4,
        "mlp": 36,
    }
    return ViViTConfig(**{**odd, "num_classes": 7, **changes})


CASES = {
    "one layer, one head": vivit(depth=1, heads=1),
    "three layers, exact GELU": vivit(depth=3, gelu="exact", norm_eps=1e-12),
    "five layers, one channel, a frame a tubelet": vivit(depth=5, channels=1, tubelet=(1, 5, 6)),
    "one tubelet": vivit(tubelet=(6, 10, 12)),
    "coarse epsilon": vivit(norm_eps=1e-2, width=27, heads=3),
}


def clips(config, batch=3, seed=1):
    shape = (batch, config.frames, config.channels, *config.size)
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers(name):
    config = CASES[name]
    peer = randomize(transformers_vivit(config)).eval()
    model = load_official("vivit", peer.state_dict(), config).eval()
    x = clips(config)
    ours, theirs = x.clone().requires_grad_(), x.clone().requires_grad_()
    got, expected = model(ours), peer(theirs).logits
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})
    peer_grads = gradients(expected, theirs, peer.named_parameters())
    of_x = peer_grads.pop("x")
    # conversion is linear: it carries gradients
    converted = load_official("vivit", peer_grads, config).state_dict()
    slopes = largest_difference(
        gradients(got, ours, model.named_parameters()), {"x": of_x, **converted}
    )
    print(f"{name}: values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-5 and slopes < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_equals_transformers_in_double_precision_to_a_billionth(name):
    config = CASES[name]
    peer = randomize(transformers_vivit(config)).eval()
    model = load_official("vivit", peer.state_dict(), config).eval()
    x = clips(config).double()
    expected = peer.double()(x).logits
    # "gelu_fast" writes sqrt(2 / pi) with ten digits
    atol = 1e-7 if config.gelu == "tanh" else 1e-9
    torch.testing.assert_close(model.double()(x), expected, rtol=0, atol=atol)


def test_what_a_checkpoint_does_not_say_changes_the_output():
    config = vivit(gelu="tanh")
    weights = randomize(transformers_vivit(config)).state_dict()
    x = clips(config)
    expected = load_official("vivit", weights, config)(x)
    for changed in (vivit(gelu="exact"), vivit(norm_eps=1e-3), vivit(heads=2)):
        assert (load_official("vivit", weights, changed)(x) - expected).abs().max() > 1e-4


@pytest.mark.parametrize("name", ["ViViT-B/16x2", "tiny"])
def test_counts_equal_transformers(name):
    with torch.device("meta"):
        model, peer = (
            zoo.build(f"vivit/{name}"),
            transformers_vivit(zoo.find(f"vivit/{name}").config),
        )
    ours, theirs = (sum(p.numel() for p in each.parameters()) for each in (model, peer))
    assert ours == theirs == {"ViViT-B/16x2": 88_954_000}.get(name, theirs)
