"""VideoPoet's transformer against transformers' Llama with a mask of four axes and the text's
vectors among the embeddings: values, gradients, cached generation.
"""

import pytest
import torch

from course_lib.convert import load_official
from course_lib.papers import videopoet
from course_lib.papers.lvm import LVMConfig
from course_lib.papers.videopoet import Transformer, VideoPoetConfig
from course_lib.papers.videopoet_sequences import (
    TASKS,
    Vocabulary,
    audio_tokens,
    task_sequence,
    visual_tokens,
)
from tests.parity.peers import largest_difference, randomize, transformers_llama


def config(**changes):
    vocabulary = Vocabulary(specials=25, visual=37, levels=3, codes=11)
    odd = dict(vocabulary=vocabulary, text_width=7, width=24, mlp=37, depth=2, heads=3)
    return VideoPoetConfig(**{**odd, **changes})


CONFIGS = {
    "one layer, one head": config(depth=1, heads=1),
    "two layers, three heads": config(),
    "five layers, heads of two numbers": config(depth=5, heads=12),
    "three layers, heads of 22": config(depth=3, width=88, heads=4, mlp=101),
    "another epsilon": config(norm_eps=1e-3),
}


def as_lvm(config):
    """LVM's config of the same layers and vocabulary, by which Llama's weights are converted."""
    return LVMConfig(
        width=config.width,
        mlp=config.mlp,
        depth=config.depth,
        heads=config.heads,
        image=(1, 1),
        num_codes=config.vocabulary.size - 2,
        specials=2,
        norm_eps=config.norm_eps,
    )


def converted(tensors, config):
    return dict(load_official("lvm", tensors, as_lvm(config)).state_dict())


def pair(config, seed=0):
    peer = randomize(transformers_llama(as_lvm(config)), seed).eval()
    model = randomize(Transformer(config), seed + 1).eval()
    loaded = model.load_state_dict(converted(peer.state_dict(), config), strict=False)
    assert loaded.missing_keys == ["text.weight", "text.bias"] and not loaded.unexpected_keys
    return model, peer


def seeded(seed=3):
    return torch.Generator().manual_seed(seed)


def sequence_of(task, vocabulary, b=3):
    def visual(*grid):
        codes = torch.randint(vocabulary.visual, (b, *grid), generator=seeded())
        return visual_tokens(codes, vocabulary)

    def audio(t):
        codes = torch.randint(vocabulary.codes, (b, t, 3), generator=seeded())
        return audio_tokens(codes, vocabulary)

    given = {"visual": visual(1, 2, 5), "audio": audio(2)}
    predicted = {"visual": visual(2, 3, 4), "audio": audio(5)}
    return task_sequence(
        task,
        vocabulary,
        {kind: given[kind] for kind in TASKS[task].given if kind != "text"},
        {kind: predicted[kind] for kind in TASKS[task].predicted},
        text=4 if "text" in TASKS[task].given else 0,
    )


def text_of(sequence, config):
    m = int(sequence.text.sum())
    b = len(sequence.tokens)
    return torch.randn(b, m, config.text_width, generator=seeded()) if m else None


def embeddings(model, peer, sequence, text):
    """Row by row, their table of tokens and our layer for the text."""
    rows = []
    for b, tokens in enumerate(sequence.tokens.tolist()):
        vectors = iter(() if text is None else model.text(text[b]))
        table = peer.model.embed_tokens.weight
        rows.append(torch.stack([table[t] if t >= 0 else next(vectors) for t in tokens]))
    return torch.stack(rows)


def four_axes(prefix, m, n, b):
    """What their attention adds to its scores: 0 where the last m of n tokens may look."""
    mask = torch.full((m, n), float("-inf"))
    for i, row in enumerate(range(n - m, n)):
        mask[i, : max(row + 1, prefix)] = 0
    return mask.expand(b, 1, m, n)


@pytest.mark.parametrize("task", ["unconditional", "T2V", "stylization", "AVCont"])
@pytest.mark.parametrize("name", CONFIGS)
def test_values_and_gradients_equal_transformers(name, task):
    config = CONFIGS[name]
    model, peer = pair(config)
    sequence = sequence_of(task, config.vocabulary)
    text = text_of(sequence, config)
    b, n = sequence.tokens.shape
    got = model(sequence, text)
    given = embeddings(model, peer, sequence, text)
    mask = four_axes(sequence.prefix, n, n, b)
    expected = peer(inputs_embeds=given, attention_mask=mask, use_cache=False).logits
    values = largest_difference({"y": got.detach()}, {"y": expected.detach()})

    probe = torch.randn(got.shape, generator=seeded(2)) / got[0].numel() ** 0.5
    (probe * expected).sum().backward()
    theirs = converted({name: p.grad for name, p in peer.named_parameters()}, config)
    theirs |= {f"text.{name}": p.grad for name, p in model.text.named_parameters()}  # or None
    model.zero_grad()
    (probe * got).sum().backward()
    ours = {name: p.grad for name, p in model.named_parameters()}
    if text is None:
        ours, theirs = (
            {name: slope for name, slope in each.items() if not name.startswith("text.")}
            for each in (ours, theirs)
        )
    slopes = largest_difference(ours, theirs)
    print(f"{name}, {task}: values {values:.1e}, gradients {slopes:.1e}")
    assert values < 1e-5 and slopes < 1e-5


def test_the_loss_equals_transformers():
    """Labels of -100 are not counted: theirs for the prefix."""
    config = CONFIGS["three layers, heads of 22"]
    model, peer = pair(config)
    sequence = sequence_of("stylization", config.vocabulary)
    text = text_of(sequence, config)
    b, n = sequence.tokens.shape
    labels = sequence.tokens.masked_fill(torch.arange(n) < sequence.prefix, -100)
    theirs = peer(
        inputs_embeds=embeddings(model, peer, sequence, text),
        attention_mask=four_axes(sequence.prefix, n, n, b),
        labels=labels,
        use_cache=False,
    ).loss
    ours = videopoet.output_losses(model, sequence, text).mean()
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=1e-6)


@torch.no_grad()
def greedy(peer, model, sequence, text):
    """Their most probable tokens of the kinds that are due, with their cache, one by one."""
    from transformers import DynamicCache

    vocabulary = model.config.vocabulary
    b, prefix = len(sequence.tokens), sequence.prefix
    cache = DynamicCache(config=peer.config)
    given = embeddings(model, peer, sequence, text)[:, :prefix]
    drawn = []
    for place, token in enumerate(sequence.output[0].tolist()):
        m, n = given.shape[1], prefix + place
        mask = four_axes(prefix, m, n, b)
        out = peer(inputs_embeds=given, attention_mask=mask, past_key_values=cache, use_cache=True)
        first, end = vocabulary.among(token)
        new = first + out.logits[:, -1, first:end].argmax(-1, keepdim=True)
        drawn.append(new)
        given = peer.model.embed_tokens(new)
    return torch.cat(drawn, dim=1)


@pytest.mark.parametrize("task", ["T2V", "V2A", "AVCont", "T2I"])
@pytest.mark.parametrize("name", ["two layers, three heads", "three layers, heads of 22"])
def test_cached_generation_gives_the_same_tokens_as_theirs_and_as_without_a_cache(name, task):
    config = CONFIGS[name]
    model, peer = pair(config)
    for b in (1, 4):
        sequence = sequence_of(task, config.vocabulary, b)
        text = text_of(sequence, config)
        cached = videopoet.generate(model, sequence, text, top_k=1)
        uncached = videopoet.generate(model, sequence, text, top_k=1, cache=False)
        assert torch.equal(cached.output, greedy(peer, model, sequence, text))
        assert torch.equal(cached.tokens, uncached.tokens)
        assert len(cached.output.unique()) > 3
