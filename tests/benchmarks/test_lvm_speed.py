"""LVM's transformer against transformers' Llama: same weights and batch, one CPU thread.

As in test_unet_speed: seconds of the process's own CPU time, the two models taking turns, the
median of the ratios of neighbouring runs.  Both sample from codes only, with top-p; the peer has
the cache that it has by default.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.convert import load_official
from course_lib.papers import lvm
from course_lib.papers.lvm import LVMConfig
from tests.parity.peers import randomize, transformers_llama

MOST = 1.0
CONFIGS = {
    128: LVMConfig(
        width=128, mlp=344, depth=4, heads=2, image=(8, 8), num_codes=512, specials=4, context=512
    ),
    512: LVMConfig(
        width=512, mlp=1376, depth=3, heads=8, image=(8, 8), num_codes=1024, specials=4, context=512
    ),
}
TRAINED = {128: (4, 256), 512: (2, 128)}  # rows and tokens of a batch
DRAWN = 64  # tokens
ROUNDS = {"forward": 9, "step": 5, "sample": 5}


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no type checks, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


@pytest.fixture(scope="module", params=CONFIGS, ids=lambda width: f"width {width}")
def models(request):
    config = CONFIGS[request.param]
    peer = randomize(transformers_llama(config)).eval()
    return load_official("lvm", peer.state_dict(), config).eval(), peer


def rows(config, b, n):
    return torch.randint(config.num_codes, (b, n), generator=torch.Generator().manual_seed(0))


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


def compare(what, ours, theirs, rounds):
    """Fail unless ours takes no longer; a noisy machine is given two more chances."""
    ours(), theirs()
    for _ in range(3):
        pairs = [(seconds(ours), seconds(theirs)) for _ in range(rounds)]
        ratio = statistics.median(a / b for a, b in pairs)
        a, b = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{what}: {a * 1e3:.0f} ms against {b * 1e3:.0f} ms, ratio {ratio:.3f}")
        if ratio <= MOST:
            return
    pytest.fail(f"{what} takes {ratio:.3f} of transformers' time, {MOST} allowed")


def test_a_forward_pass(models):
    model, peer = models
    tokens = rows(model.config, *TRAINED[model.config.width])
    with torch.no_grad():
        compare(
            f"forward, width {model.config.width}",
            lambda: model(tokens),
            lambda: peer(input_ids=tokens, use_cache=False).logits,
            ROUNDS["forward"],
        )


def test_a_training_step(models):
    """A forward pass, the loss and a backward pass."""
    model, peer = models
    tokens = rows(model.config, *TRAINED[model.config.width])

    def ours():
        model.zero_grad()
        lvm.sentence_losses(model, tokens).mean().backward()

    def theirs():
        peer.zero_grad()
        peer(input_ids=tokens, labels=tokens, use_cache=False).loss.backward()

    compare(f"step, width {model.config.width}", ours, theirs, ROUNDS["step"])


@pytest.mark.parametrize("b", [1, 2, 8])
def test_cached_generation(models, b):
    model, peer = models
    config = model.config
    prompt = rows(config, b, 1 + 2 * config.image_tokens)
    options = dict(
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=DRAWN,
        suppress_tokens=list(range(config.num_codes, config.vocabulary)),
        pad_token_id=config.num_codes,
    )
    greedy = peer.generate(prompt, do_sample=False, **options)[:, prompt.shape[1] :]
    assert torch.equal(lvm.decode_images(model, prompt, 1, top_k=1).flatten(1), greedy)
    compare(
        f"{DRAWN} tokens for {b}, width {config.width}",
        lambda: lvm.decode_images(model, prompt, 1, top_p=0.95),
        lambda: peer.generate(prompt, do_sample=True, top_k=0, top_p=0.95, **options),
        ROUNDS["sample"],
    )
