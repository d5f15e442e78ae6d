"""ViT-B/16 and ViViT-B, Model 1, against transformers': same weights, activation and batch, one CPU
thread.

As in test_unet_speed: seconds of the process's own CPU time, the two models taking turns, the
median of the ratios of neighbouring runs.  The models have four of their twelve layers, which are
all alike.  The activations are those that transformers' configs have: for ViViT the tanh form,
which it writes out in Python.  And how much of the machine's speed in matrix products a ViT
reaches.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from course_lib.convert import load_official
from course_lib.papers.vit import ViT, ViTConfig
from course_lib.papers.vivit import ViViTConfig
from tests.parity.peers import transformers_vit, transformers_vivit

MOST = 1.0
LEAST_SHARE = 0.8
# paper, config, peer, shape of a batch, how often a forward pass and a training step are measured
MODELS = {
    "ViT-B/16": ("vit", ViTConfig(depth=4, gelu="exact"), transformers_vit, (2, 3, 224, 224), 4, 2),
    "ViViT-B/16x2": (
        "vivit",
        ViViTConfig(frames=8, depth=4),
        transformers_vivit,
        (1, 8, 3, 224, 224),
        2,
        1,
    ),
}


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no checks of types, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


def seconds(work, *args):
    start = time.process_time()
    work(*args)
    return time.process_time() - start


def forward(model, x):
    with torch.no_grad():
        model(x)


def step(model, x):
    """A forward and a backward pass."""
    model.zero_grad()
    out = model(x)
    getattr(out, "logits", out).square().mean().backward()


@pytest.mark.parametrize("name", MODELS)
def test_no_slower_than_transformers(name):
    paper, config, build, shape, *rounds = MODELS[name]
    peer = build(config).train()
    model = load_official(paper, peer.state_dict(), config).train()
    x = torch.randn(shape)
    forward(model, x), forward(peer, x)
    for what, count in zip((forward, step), rounds, strict=True):
        for _ in range(3):  # a noisy machine is given two more chances
            pairs = [(seconds(what, model, x), seconds(what, peer, x)) for _ in range(count)]
            ratio = statistics.median(a / b for a, b in pairs)
            ours, theirs = (statistics.median(column) for column in zip(*pairs, strict=True))
            print(
                f"{name}, {what.__name__}: {ours:.2f} s against {theirs:.2f} s, ratio {ratio:.3f}"
            )
            if ratio <= MOST:
                break
        else:
            pytest.fail(
                f"{what.__name__} of {name} takes {ratio:.3f} of transformers' time, {MOST} allowed"
            )


def flops(config, batch):
    """Of the matrix products in a forward pass; a multiplication and an addition count as two."""
    with (
        torch.device("meta"),
        sdpa_kernel(SDPBackend.MATH),
        FlopCounterMode(display=False) as counter,
    ):
        ViT(config)(torch.empty(batch, 3, *config.size))
    return counter.get_total_flops()


def products(model, tokens):
    """Its linear layers and nothing else: the machine's speed in products of just these sizes."""
    with torch.no_grad():
        for block in model.blocks:
            for layer in (block.attention.qkv, block.attention.out, block.mlp[0], block.mlp[3]):
                layer(tokens[layer.in_features])


def test_a_vit_spends_its_time_in_matrix_products():
    config = ViTConfig(depth=4, gelu="exact")
    model = ViT(config)
    x = torch.randn(2, 3, 224, 224)
    n = 2 * config.tokens
    tokens = {width: torch.randn(n, width) for width in (config.width, config.mlp)}
    sizes = 4 * config.width**2 + 2 * config.width * config.mlp  # weights of a layer
    at_best = 2 * n * sizes * config.depth

    forward(model, x), products(model, tokens)
    for _ in range(3):  # a noisy machine is given two more chances
        pairs = [(seconds(forward, model, x), seconds(products, model, tokens)) for _ in range(5)]
        share = statistics.median(flops(config, 2) / ours * best / at_best for ours, best in pairs)
        speed = at_best / statistics.median(best for _, best in pairs)
        print(f"ViT-B/16, forward: {share:.2f} of {speed / 1e9:.0f} GFLOP/s")
        if LEAST_SHARE <= share < 1.2:
            break
    else:
        pytest.fail(f"a share of {share:.2f} of the machine's speed, {LEAST_SHARE} expected")
