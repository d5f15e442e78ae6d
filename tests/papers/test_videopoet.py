"""VideoPoet's transformer: what it sees, its loss, what it draws, guidance, longer clips.

Equality with transformers' Llama is in tests/parity.
"""

import math
from dataclasses import replace

import pytest
import torch

from course_lib import zoo
from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import next_token_probabilities
from course_lib.papers import videopoet
from course_lib.papers.videopoet import Transformer, VideoPoetConfig
from course_lib.papers.videopoet_sequences import (
    TASKS,
    Vocabulary,
    audio_tokens,
    task_sequence,
    visual_tokens,
)

VOCABULARY = Vocabulary(specials=24, visual=7, levels=3, codes=5)
ODD = VideoPoetConfig(VOCABULARY, text_width=5, width=24, mlp=17, depth=3, heads=2)
PLACED = replace(ODD, places=12)


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def awake(config=ODD, seed=0):
    """A model whose tokens are far from equally probable."""
    model = Transformer(config)
    generator = seeded(seed)
    with torch.no_grad():
        for p in model.parameters():
            noise = torch.randn(p.shape, generator=generator)
            p.copy_(1 + 0.2 * noise if p.ndim == 1 else 1.5 * noise / p.shape[1] ** 0.5)
    return model.eval()


def draw(*shape, below, seed=0):
    return torch.randint(below, shape, generator=seeded(seed))


def sequence_of(task, b=3, seed=0):
    """Of a task's whole length: text of 2, 4 tokens of a clip given and 6 predicted, sounds."""
    given = {
        "visual": visual_tokens(draw(b, 1, 2, 2, below=7, seed=seed + 1), VOCABULARY),
        "audio": audio_tokens(draw(b, 1, 3, below=5, seed=seed + 2), VOCABULARY),
    }
    predicted = {
        "visual": visual_tokens(draw(b, 2, 1, 3, below=7, seed=seed + 3), VOCABULARY),
        "audio": audio_tokens(draw(b, 4, 3, below=5, seed=seed + 4), VOCABULARY),
    }
    return task_sequence(
        task,
        VOCABULARY,
        {kind: given[kind] for kind in TASKS[task].given if kind != "text"},
        {kind: predicted[kind] for kind in TASKS[task].predicted},
        text=2 if "text" in TASKS[task].given else 0,
    )


def text_of(sequence, seed=9):
    m = int(sequence.text.sum())
    return torch.randn(len(sequence.tokens), m, 5, generator=seeded(seed)) if m else None


# ---------------------------------------------------------------- sizes

COUNTS = {"300M": 298_894_336, "1B": 1_011_959_808, "8B": 8_095_338_496}


@pytest.mark.parametrize("size", COUNTS)
def test_our_layers_have_about_the_paper_s_sizes(size):
    with torch.device("meta"):
        model = zoo.build(f"videopoet/{size}")
    count = sum(p.numel() for p in (*model.blocks.parameters(), *model.norm.parameters()))
    assert count == COUNTS[size]
    unit = {"M": 1e6, "B": 1e9}[size[-1]]
    assert count == pytest.approx(float(size[:-1]) * unit, rel=0.02)
    tables = 2 * 266_496 * model.config.width + (model.config.text_width + 1) * model.config.width
    assert sum(p.numel() for p in model.parameters()) == count + tables


def test_configs_that_make_no_sense():
    for heads in (5, 8):
        with pytest.raises(ValueError, match=rf"heads: .* width 24, .* pairs, got {heads}"):
            VideoPoetConfig(width=24, heads=heads)


def test_fresh_weights():
    torch.manual_seed(0)
    model = zoo.build("videopoet/tiny")
    matrices = [p.detach() for p in model.parameters() if p.ndim == 2]
    assert all(float(p.std()) == pytest.approx(0.02, rel=0.05) for p in matrices)
    assert not model.text.bias.any()
    vocabulary = model.config.vocabulary
    codes = draw(4, 5, 4, 4, below=2**10)
    visual = {"visual": visual_tokens(codes, vocabulary)}
    sequence = task_sequence("unconditional", vocabulary, {}, visual)
    loss = videopoet.output_losses(model, sequence).mean().detach()
    assert float(loss) == pytest.approx(math.log(vocabulary.size), abs=0.2)


# ---------------------------------------------------------------- what it sees


def influence(model, task):
    """Which tokens' vectors (columns) the logits after each token (rows) depend on."""
    sequence = sequence_of(task, b=2)
    x = model.embed(sequence, text_of(sequence)).detach().requires_grad_()
    features = model.features(x, sequence.prefix)
    seen = []
    for n in range(features.shape[1]):
        (slope,) = torch.autograd.grad(features[:, n].square().sum(), x, retain_graph=True)
        seen.append(slope.abs().amax((0, 2)) > 0)
    return torch.stack(seen), sequence


@pytest.mark.parametrize("task", TASKS)
def test_the_prefix_sees_itself_both_ways_and_no_output_sees_a_later_one(task):
    seen, sequence = influence(awake(), task)
    n = len(seen)
    given = torch.arange(n) < sequence.prefix
    later = torch.ones(n, n, dtype=torch.bool).triu(1)
    assert seen[given][:, given].all()
    assert not seen[given][:, ~given].any()
    assert not (seen & later)[~given].any()
    assert seen[~given][:, given].all() and (seen | later)[~given].all()


def test_every_row_of_a_batch_is_its_own():
    model, sequence = awake(), sequence_of("AVCont")
    whole = model(sequence)
    for row in range(3):
        alone = model(replace(sequence, tokens=sequence.tokens[row : row + 1]))
        torch.testing.assert_close(alone[0], whole[row], rtol=1e-4, atol=1e-5)


def test_the_text_s_vectors_are_where_the_text_is():
    model, sequence = awake(), sequence_of("stylization")
    text = text_of(sequence)
    x = model.embed(sequence, text)
    at = sequence.text
    torch.testing.assert_close(x[:, at], text @ model.text.weight.T + model.text.bias)
    torch.testing.assert_close(x[:, ~at], model.tokens.weight[sequence.tokens[:, ~at]])
    assert not torch.allclose(model(sequence, text), model(sequence, text.flip(1)))


def test_texts_that_do_not_fit():
    model, sequence = awake(), sequence_of("T2V")
    for text, got in ((None, 0), (torch.zeros(3, 3, 5), 3)):
        with pytest.raises(ValueError, match=f"text: expected 2 vectors a sequence, got {got}"):
            model(sequence, text)
    with pytest.raises(ValueError, match="text: expected 0 vectors a sequence, got 2"):
        model(sequence_of("FP"), torch.zeros(3, 2, 5))


def test_a_place_adds_its_own_vector():
    model, sequence = awake(PLACED), sequence_of("T2V")
    plain = awake(ODD)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "places.weight"})
    places = torch.tensor([0, 0, 0, 1, 2, 0, 0, *range(1, 7), 0, 0])
    text = text_of(sequence)
    x = plain.embed(sequence, text)
    # A text's vectors take the place of both.
    expected = torch.where(sequence.text[:, None], x, x + model.places.weight[places])
    torch.testing.assert_close(model.embed(sequence, text), expected)
    short = awake(replace(PLACED, places=5))
    with pytest.raises(ValueError, match="expected parts of at most 5 tokens, got 6"):
        short(sequence, text)


@pytest.mark.parametrize("parts", [(19,), (8, *(1,) * 11), (9, 10), (8, 4, 1, 6)], ids=str)
def test_a_cache_changes_no_logit(parts):
    """The first call has the whole prefix of 8 tokens, if not more."""
    model, sequence = awake(), sequence_of("V2A", seed=5)
    x = model.embed(sequence)[:, :19]
    cache = KVCache(ODD.depth, 19)
    got = [model.features(part, 8, cache) for part in x.split(parts, dim=1)]
    expected = model.features(x, 8)
    torch.testing.assert_close(torch.cat(got, dim=1), expected, rtol=1e-4, atol=1e-5)
    among = VOCABULARY.ranges["audio 2"]
    logits = model.next_logits(x, 8, None, among)
    torch.testing.assert_close(logits, model.head(expected)[:, -1, among[0] : among[1]])


def test_a_prefix_in_two_parts_is_refused():
    model, sequence = awake(), sequence_of("V2A")
    x = model.embed(sequence)
    with pytest.raises(ValueError, match="whole prefix of 8 tokens in the first call, got 5"):
        model.features(x[:, :5], 8)
    cache = KVCache(ODD.depth, 30)
    model.features(x[:, :5], 4, cache)
    with pytest.raises(ValueError, match="whole prefix of 8 tokens in the first call, got 5"):
        model.features(x[:, 5:], 8, cache)


# ---------------------------------------------------------------- the loss


@pytest.mark.parametrize("task", TASKS)
def test_the_loss_of_every_output_by_hand(task):
    model, sequence = awake(PLACED), sequence_of(task)
    text = text_of(sequence)
    p = model(sequence, text).double().softmax(-1)
    got = videopoet.output_losses(model, sequence, text)
    assert got.shape == sequence.output.shape
    for b in range(3):
        for i, token in enumerate(sequence.output[b].tolist()):
            expected = -math.log(p[b, sequence.prefix + i - 1, token])
            assert float(got[b, i]) == pytest.approx(expected, rel=1e-3, abs=1e-5)


def test_no_gradient_asks_for_the_prefix():
    """The head learns from outputs only: what is given is not predicted."""
    model, sequence = awake(), sequence_of("FP")
    videopoet.output_losses(model, sequence).sum().backward()
    p = model(sequence).softmax(-1)[:, sequence.prefix - 1 : -1]  # b m v
    features = model.features(model.embed(sequence), sequence.prefix)[:, sequence.prefix - 1 : -1]
    wanted = torch.nn.functional.one_hot(sequence.output, VOCABULARY.size)
    expected = torch.einsum("bmv, bmd -> vd", p - wanted, features)
    torch.testing.assert_close(model.head.weight.grad, expected, rtol=1e-3, atol=1e-4)


# ---------------------------------------------------------------- generation


def generate(model, sequence, **options):
    return videopoet.generate(model, sequence, text_of(sequence), **options)


@pytest.mark.parametrize("task", TASKS)
def test_only_what_is_due_is_drawn(task):
    sequence = sequence_of(task, b=40)
    drawn = generate(awake(), sequence, temperature=5.0, generator=seeded())
    assert torch.equal(drawn.tokens[:, : drawn.prefix], sequence.tokens[:, : drawn.prefix])
    for place, token in enumerate(sequence.output[0].tolist()):
        first, end = VOCABULARY.among(token)
        column = drawn.output[:, place]
        assert column.min() >= first and column.max() < end
        assert len(column.unique()) > (end - first) / 2


@pytest.mark.parametrize("options", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 1}], ids=str)
@pytest.mark.parametrize("config", [ODD, PLACED], ids=["plain", "placed"])
@pytest.mark.parametrize("task", ["T2V", "T2I", "V2A", "AVCont", "stylization"])
def test_a_cache_changes_no_token(task, config, options):
    model, sequence = awake(config), sequence_of(task, b=5)
    cached, uncached = (
        generate(model, sequence, generator=seeded(2), cache=cache, **options)
        for cache in (True, False)
    )
    assert torch.equal(cached.tokens, uncached.tokens)


@pytest.mark.parametrize("scale", [0.0, 1.0, 3.0])
def test_each_token_is_drawn_from_the_guided_distribution_of_its_kind(scale):
    model, sequence = awake(PLACED), sequence_of("T2V", b=4)
    text = text_of(sequence)
    options = {"temperature": 2.0, "top_p": 0.8}
    got = videopoet.generate(model, sequence, text, scale=scale, generator=seeded(4), **options)
    tokens = sequence
    uniforms = torch.rand(sequence.output.shape[1], 4, generator=seeded(4))
    for place, uniform in enumerate(uniforms):
        first, end = VOCABULARY.among(int(sequence.output[0, place]))
        with_text, without = (
            model(tokens, given)[:, tokens.prefix + place - 1, first:end].log_softmax(-1)
            for given in (text, torch.zeros_like(text))
        )
        p = next_token_probabilities(without + scale * (with_text - without), **options)
        token = first + (p.cumsum(-1) <= uniform[:, None]).sum(-1)
        output = tokens.output.clone()
        output[:, place] = token
        tokens = tokens.with_output(output)
    assert torch.equal(got.tokens, tokens.tokens)


def test_guidance_changes_what_is_drawn_and_a_cache_does_not():
    model, sequence = awake(), sequence_of("T2V", b=8)
    text = text_of(sequence)
    drawn = {
        (scale, cache): videopoet.generate(
            model, sequence, text, scale=scale, generator=seeded(1), cache=cache
        ).tokens
        for scale in (0, 1, 4)
        for cache in (True, False)
    }
    for scale in (0, 1, 4):
        assert torch.equal(drawn[scale, True], drawn[scale, False])
    assert not torch.equal(drawn[1, True], drawn[4, True])
    assert not torch.equal(drawn[1, True], drawn[0, True])
    other = videopoet.generate(model, sequence, text + 1, scale=0, generator=seeded(1))
    assert torch.equal(other.tokens, drawn[0, True])


def test_guided_logits_by_hand():
    without, conditional = torch.randn(2, 3, 5, generator=seeded())
    both = torch.cat([without, conditional])
    torch.testing.assert_close(videopoet.guided_logits(both, 1), conditional)
    torch.testing.assert_close(videopoet.guided_logits(both, 0), without)
    p = videopoet.guided_logits(both, 2.5).softmax(-1)
    expected = without.softmax(-1) * (conditional.softmax(-1) / without.softmax(-1)) ** 2.5
    torch.testing.assert_close(p, expected / expected.sum(-1, keepdim=True))


def test_the_codes_of_an_output_that_is_drawn_anew_do_not_count():
    model, sequence = awake(), sequence_of("AVCont")
    blank = sequence_of("AVCont", seed=30)
    blank = sequence.with_output(blank.output)
    one, other = (generate(model, each, generator=seeded(7)) for each in (sequence, blank))
    assert torch.equal(one.tokens, other.tokens)


def test_guidance_without_a_text_is_refused():
    with pytest.raises(ValueError, match="scale: expected 1 without a text, got 2"):
        videopoet.generate(awake(), sequence_of("FP"), scale=2)
    with pytest.raises(ValueError, match="text: expected 2 vectors a sequence, got 0"):
        videopoet.generate(awake(), sequence_of("T2V"))


def test_a_model_that_knows_draws_what_it_learned():
    """It is trained for a moment on three texts with a clip each."""
    torch.manual_seed(0)
    model, sequence = Transformer(PLACED), sequence_of("T2V")
    text = text_of(sequence)
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(80):
        optimizer.zero_grad()
        videopoet.output_losses(model, sequence, text).mean().backward()
        optimizer.step()
    blank = sequence.with_output(sequence.output[:1].expand_as(sequence.output))
    drawn = videopoet.generate(model.eval(), blank, text, top_k=1)
    assert torch.equal(drawn.tokens, sequence.tokens)


# ---------------------------------------------------------------- longer clips


def test_what_follows_a_clip_is_the_task_of_frame_prediction():
    model = awake()
    codes, text = draw(2, 3, 2, 2, below=7), torch.randn(2, 4, 5, generator=seeded(3))
    got = videopoet.predict_frames(model, codes, 2, text, scale=2, generator=seeded(1))
    assert got.shape == (2, 2, 2, 2) and got.min() >= 0 and got.max() < 7
    sequence = task_sequence(
        "FP",
        VOCABULARY,
        {"visual": visual_tokens(codes, VOCABULARY)},
        {"visual": visual_tokens(got, VOCABULARY)},
        text=4,
    )
    drawn = videopoet.generate(model, sequence, text, scale=2, generator=seeded(1))
    assert torch.equal(drawn.tokens, sequence.tokens)
    assert videopoet.predict_frames(model, codes, 1).shape == (2, 1, 2, 2)


class Counting:
    """A tokenizer of clips of one pixel: a code is a frame and the three after it, causally."""

    def __init__(self):
        self.seen = []

    def encode(self, clip):
        self.seen.append(clip[0, 0, :, 0, 0].tolist())
        return clip[:, 0, ::4].long()  # b t 1 1

    def predict(self, codes):
        return torch.stack([codes[:, -1] + 4, codes[:, -1] + 8], dim=1)

    def decode(self, codes):
        first, rest = codes[:, :1], codes[:, 1:, None] - torch.arange(3, -1, -1)[:, None, None]
        return torch.cat([first, rest.flatten(1, 2)], dim=1)[:, None].float()


@pytest.mark.parametrize("chunks", [0, 1, 3])
def test_chunks_of_a_second_make_a_long_clip(chunks):
    """Nine frames, a second and the one it begins with, give the eight after them."""
    count = Counting()
    clip = torch.arange(17.0).view(1, 1, 17, 1, 1).repeat(2, 1, 1, 1, 1)
    got = videopoet.continue_clip(clip, chunks, 9, count.encode, count.predict, count.decode)
    assert got.shape == (2, 1, 17 + 8 * chunks, 1, 1)
    assert torch.equal(got[1].flatten(), torch.arange(17.0 + 8 * chunks))
    assert count.seen == [list(range(8 + 8 * i, 17 + 8 * i)) for i in range(chunks)]


def test_a_clip_that_is_shorter_than_the_overlap():
    count = Counting()
    for overlap in (0, 18):
        with pytest.raises(ValueError, match=f"overlap: expected 1 to .* 17 frames, got {overlap}"):
            videopoet.continue_clip(
                torch.zeros(1, 1, 17, 1, 1), 1, overlap, count.encode, count.predict, count.decode
            )
