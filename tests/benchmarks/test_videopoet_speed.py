"""VideoPoet's cached generation against transformers' Llama: same weights, one CPU thread.

As in test_lvm_speed: seconds of the process's own CPU time, the two models taking turns, the median
of the ratios of neighbouring runs.  Both read the prefix both ways at once and then draw the codes
of a clip and of its sound, each kind among its own, with top-p.  Theirs runs without `generate`,
whose own work would count: a loop over its forward pass, with the cache that it has by default.
"""

import statistics
import time

import pytest
import torch
from jaxtyping import config as typing

from course_lib.lm.sampling import top_p_filter
from course_lib.papers import videopoet
from course_lib.papers.videopoet import VideoPoetConfig
from course_lib.papers.videopoet_sequences import (
    Vocabulary,
    audio_tokens,
    task_sequence,
    visual_tokens,
)
from tests.parity.test_videopoet import pair

MOST = 1.0
ROUNDS = 5
CONFIG = VideoPoetConfig(
    Vocabulary(specials=32, visual=2**12, levels=4, codes=256),
    text_width=64,
    width=192,
    mlp=512,
    depth=4,
    heads=3,
)


@pytest.fixture(autouse=True)
def as_in_a_notebook():
    """Use one thread and no type checks, which cost time only under pytest."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    typing.update("jaxtyping_disable", True)
    yield
    typing.update("jaxtyping_disable", False)
    torch.set_num_threads(threads)


def sequence_of(b):
    """Of 16 + 4 x 3 tokens given, 32 of a clip and 4 x 8 of a sound drawn."""
    vocabulary = CONFIG.vocabulary

    def zeros(*shape):
        return torch.zeros(b, *shape, dtype=torch.long)

    given = {"visual": zeros(1, 4, 4), "audio": zeros(3, 4)}
    predicted = {"visual": zeros(2, 4, 4), "audio": zeros(8, 4)}
    given, predicted = (
        {
            "visual": visual_tokens(each["visual"], vocabulary),
            "audio": audio_tokens(each["audio"], vocabulary),
        }
        for each in (given, predicted)
    )
    return task_sequence("AVCont", vocabulary, given, predicted)


@torch.no_grad()
def theirs(peer, sequence, top_p=None):
    from transformers import DynamicCache

    prefix = sequence.prefix
    cache = DynamicCache(config=peer.config)
    tokens = sequence.tokens[:, :prefix]
    seen_by_all = torch.ones(len(tokens), 1, prefix, prefix, dtype=torch.bool)
    options = {"attention_mask": seen_by_all}
    drawn = []
    for token in sequence.output[0].tolist():
        out = peer(tokens, past_key_values=cache, use_cache=True, logits_to_keep=1, **options)
        options = {}
        first, end = CONFIG.vocabulary.among(token)
        logits = out.logits[:, -1, first:end]
        if top_p is None:
            tokens = first + logits.argmax(-1, keepdim=True)
        else:
            tokens = first + torch.multinomial(top_p_filter(logits, top_p).softmax(-1), 1)
        drawn.append(tokens)
    return torch.cat(drawn, dim=1)


def seconds(run):
    start = time.process_time()
    run()
    return time.process_time() - start


@pytest.mark.parametrize("b", [1, 8])
def test_cached_generation(b):
    """A noisy machine is given two more chances."""
    model, peer = pair(CONFIG)
    sequence = sequence_of(b)
    greedy = videopoet.generate(model, sequence, top_k=1)
    assert torch.equal(greedy.output, theirs(peer, sequence))

    for _ in range(3):
        pairs = [
            (
                seconds(lambda: videopoet.generate(model, sequence, top_p=0.95)),
                seconds(lambda: theirs(peer, sequence, top_p=0.95)),
            )
            for _ in range(ROUNDS)
        ]
        ratio = statistics.median(ours / other for ours, other in pairs)
        ours, other = (statistics.median(column) for column in zip(*pairs, strict=True))
        print(f"{b} rows: {ours * 1e3:.0f} ms against {other * 1e3:.0f} ms, ratio {ratio:.3f}")
        if ratio <= MOST:
            return
    pytest.fail(f"takes {ratio:.3f} of transformers' time, {MOST} allowed")
