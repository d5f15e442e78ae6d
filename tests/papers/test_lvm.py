"""LVM's transformer: its counts, what it sees, its loss, the images it draws, perplexity.

Equality with transformers' Llama is in tests/parity.
"""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from course_lib import zoo
from course_lib.lm.kv_cache import KVCache
from course_lib.lm.sampling import next_token_probabilities
from course_lib.papers import lvm
from course_lib.papers.lvm import LVM_CONFIGS, LVMConfig, Transformer
from course_lib.papers.lvm_sentences import document_ids, pack, visual_sentence

# images of 2 x 3 codes; the context holds 4 and a token more
ODD = LVMConfig(
    width=24, mlp=17, depth=3, heads=2, image=(2, 3), num_codes=11, specials=5, context=25
)


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


def draw(*shape, below=ODD.num_codes, seed=1):
    return torch.randint(below, shape, generator=seeded(seed))


# ---------------------------------------------------------------- places in an image

PLACED = replace(ODD, image_places=True)


def test_places_are_counted_anew_in_every_image():
    size = PLACED.image_tokens
    assert lvm.places_after_bos(0, 15, size).tolist() == [0, *range(1, 7), *range(1, 7), 1, 2]
    assert lvm.places_after_bos(6, 9, size).tolist() == [6, 1, 2]


def test_without_places_given_a_row_begins_with_bos():
    model = awake(PLACED)
    tokens = torch.cat([torch.full((2, 1), PLACED.bos), draw(2, 14)], dim=1)
    places = lvm.places_after_bos(0, 15, PLACED.image_tokens).expand(2, -1)
    assert torch.equal(model(tokens), model(tokens, places=places))
    assert not torch.allclose(model(tokens), model(tokens, places=places.flip(1)))


def test_a_place_adds_its_own_vector():
    model = awake(PLACED)
    tokens, places = draw(1, 5), torch.tensor([[3, 3, 0, 6, 1]])
    plain = awake(ODD)
    plain.load_state_dict({k: v for k, v in model.state_dict().items() if k != "places.weight"})
    embedded = model.tokens(tokens) + model.places.weight[places]
    plain.tokens = Table(embedded)
    assert torch.equal(model(tokens, places=places), plain(tokens))


class Table(torch.nn.Module):
    """What is embedded, whatever the tokens are."""

    def __init__(self, embedded):
        super().__init__()
        self.embedded = embedded

    def forward(self, tokens):
        return self.embedded


@pytest.mark.parametrize("temperature", [0.5, 2.0])
def test_with_places_a_cache_changes_no_code(temperature):
    model = awake(PLACED)
    prompt = torch.cat([torch.full((3, 1), PLACED.bos), draw(3, 6)], dim=1)
    drawn = [
        lvm.decode_images(
            model, prompt, 2, temperature=temperature, generator=seeded(5), cache=cache
        )
        for cache in (True, False)
    ]
    assert torch.equal(*drawn)


def test_losses_of_a_row_that_begins_within_an_image():
    """The rest of a sentence has the places that it has in the whole."""
    model = awake(PLACED)
    sentence = visual_sentence(draw(3, 2, 3), PLACED.bos, PLACED.eos)[None]
    places = torch.cat([lvm.places_after_bos(0, 19, 6), torch.zeros(1, dtype=torch.long)])[None]
    whole = lvm.sentence_losses(model, sentence, places=places)
    rest = lvm.sentence_losses(model, sentence[:, 4:], places=places[:, 4:])
    assert rest.shape[1] == whole.shape[1] - 4
    wrong = lvm.sentence_losses(model, sentence[:, 4:])
    assert not torch.allclose(rest, wrong)
    alone = lvm.sentence_losses(model, sentence[:, 4:6], places=places[:, 4:6])
    assert torch.allclose(rest[:, :1], alone)  # it sees nothing but its own row


COUNTS = {  # of PAPERS.md: all, and without the embedding and the head
    "100M": (116_974_720, 106_360_960),
    "300M": (290_968_576, 273_986_560),
    "600M": (648_396_288, 622_923_264),
    "1B": (1_147_119_616, 1_113_155_584),
    "3B": (3_274_742_400, 3_221_673_600),
    "7B": (6_544_199_680, 6_476_271_616),
}


@pytest.mark.parametrize("size", COUNTS)
def test_counts_are_the_published_ones(size):
    with torch.device("meta"):
        model = zoo.build(f"lvm/LVM-{size}")
    assert sum(p.numel() for p in model.parameters()) == COUNTS[size][0]
    inner = (*model.blocks.parameters(), *model.norm.parameters())
    assert sum(p.numel() for p in inner) == COUNTS[size][1]


def test_the_numbers_of_tokens_and_images():
    paper = LVM_CONFIGS["LVM-3B"]
    assert (paper.vocabulary, paper.image_tokens, paper.images) == (8292, 256, 16)
    assert (paper.bos, paper.eos, paper.head_width) == (8192, 8193, 100)
    assert all(config.images == 16 for config in LVM_CONFIGS.values())
    assert 1.64e9 * paper.image_tokens == pytest.approx(420e9, rel=1e-3)


def test_configs_that_make_no_sense():
    with pytest.raises(ValueError, match=r"heads: .* width 24, .* pairs, got 5"):
        LVMConfig(width=24, heads=5)
    with pytest.raises(ValueError, match=r"heads: .* width 24, .* pairs, got 8"):
        LVMConfig(width=24, heads=8)
    with pytest.raises(ValueError, match="specials: expected at least 2, BOS and EOS, got 1"):
        LVMConfig(specials=1)
    with pytest.raises(ValueError, match=r"context: expected at least the 256 tokens .* got 255"):
        LVMConfig(context=255)


# ---------------------------------------------------------------- what it sees


def slow(model, tokens):
    """The same network written out for one row, token by token, with sines and cosines."""
    c = model.config
    x = model.tokens.weight[tokens]

    def norm(x, layer):
        return layer.weight * x / (x.square().mean(-1, keepdim=True) + c.norm_eps).sqrt()

    def turned(x):
        out = torch.empty_like(x)
        for n in range(len(x)):
            for i in range(c.head_width // 2):
                angle = n * 10_000 ** (-2 * i / c.head_width)
                a, b = x[n, 2 * i], x[n, 2 * i + 1]
                out[n, 2 * i] = a * math.cos(angle) - b * math.sin(angle)
                out[n, 2 * i + 1] = a * math.sin(angle) + b * math.cos(angle)
        return out

    for block in model.blocks:
        q, k, v = (norm(x, block.norm1) @ block.qkv.weight.T).chunk(3, dim=-1)
        seen = []
        for head in range(c.heads):
            at = slice(head * c.head_width, (head + 1) * c.head_width)
            queries, keys = turned(q[:, at]), turned(k[:, at])
            rows = []
            for n in range(len(x)):
                scores = keys[: n + 1] @ queries[n] / c.head_width**0.5
                rows.append(scores.softmax(0) @ v[: n + 1, at])
            seen.append(torch.stack(rows))
        x = x + torch.cat(seen, dim=-1) @ block.out.weight.T
        gate, value = (norm(x, block.norm2) @ block.mlp1.weight.T).chunk(2, dim=-1)
        x = x + (gate * gate.sigmoid() * value) @ block.mlp2.weight.T
    return norm(x, model.norm) @ model.head.weight.T


def test_it_is_the_network_of_the_equations():
    model = awake().double()
    tokens = draw(2, 9, below=ODD.vocabulary)
    expected = torch.stack([slow(model, row) for row in tokens])
    torch.testing.assert_close(model(tokens), expected, rtol=1e-6, atol=1e-6)
    assert expected.std() > 0.3


def test_no_token_sees_a_later_one():
    model = awake()
    tokens = draw(2, 12)
    other = tokens.clone()
    other[:, 7:] = (other[:, 7:] + 3) % ODD.num_codes
    before, after = model(tokens), model(other)
    torch.testing.assert_close(before[:, :7], after[:, :7])
    assert (before[:, 7:] - after[:, 7:]).abs().amax(-1).min() > 1e-3


@pytest.mark.parametrize("parts", [(12,), (1,) * 12, (5, 1, 6), (3, 4, 5)], ids=str)
def test_a_cache_changes_no_logit(parts):
    model, tokens = awake(), draw(3, 12)
    cache = KVCache(ODD.depth, 12)
    got = [model(part, cache) for part in tokens.split(parts, dim=1)]
    torch.testing.assert_close(torch.cat(got, dim=1), model(tokens), rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(model.next_logits(tokens), model(tokens)[:, -1])


def test_the_head_is_asked_about_the_last_token_only():
    model, shown = awake(), []
    model.head.register_forward_pre_hook(lambda head, given: shown.append(given[0].shape))
    for cache in (True, False):
        lvm.decode_images(model, draw(2, 7), 1, cache=cache)
    assert shown == [(2, 24)] * 12


def test_documents_are_kept_apart():
    """Each sees what it would see alone, though its positions do not start at 0."""
    model = awake()
    first, second, third = draw(2, 5, seed=1), draw(2, 1, seed=2), draw(2, 9, seed=3)
    row = torch.cat([first, second, third], dim=1)
    documents = torch.tensor([[0] * 5 + [1] + [2] * 9]).expand(2, -1)
    alone = torch.cat([model(part) for part in (first, second, third)], dim=1)
    apart = model(row, documents=documents)
    torch.testing.assert_close(apart, alone, rtol=1e-3, atol=1e-4)
    assert (model(row) - alone)[:, 5:].abs().amax(-1).min() > 1e-3
    torch.testing.assert_close(model(row, documents=torch.zeros_like(row)), model(row))


def test_only_distances_matter():
    """A rotation of all positions by as many places changes no logit of a masked document."""
    model = awake()
    document = draw(1, 6)
    for before in (0, 4, 19):
        row = torch.cat([draw(1, before, seed=5), document], dim=1)
        ids = (torch.arange(before + 6) >= before).long()[None]
        got = model(row, documents=ids)[:, before:]
        torch.testing.assert_close(got, model(document), rtol=1e-3, atol=1e-4)


def test_what_is_refused():
    model = awake()
    with pytest.raises(ValueError, match="expected at most 25 tokens, got 26"):
        model(draw(1, 26))
    cache = KVCache(ODD.depth, 99)
    model(draw(1, 20), cache)
    with pytest.raises(ValueError, match="expected at most 25 tokens, got 26"):
        model.features(draw(1, 6), cache)
    with pytest.raises(ValueError, match="documents: expected none beside a cache"):
        model(draw(1, 2), cache, torch.zeros(1, 2, dtype=torch.long))


def test_fresh_weights():
    torch.manual_seed(0)
    model = zoo.build("lvm/LVM-tiny")
    matrices = [p.detach() for p in model.parameters() if p.ndim == 2]
    assert all(float(p.std()) == pytest.approx(0.02, rel=0.05) for p in matrices)
    assert all((p == 1).all() for p in model.parameters() if p.ndim == 1)
    tokens = torch.randint(512, (4, 128))
    loss = lvm.sentence_losses(model, tokens).mean()
    assert float(loss) == pytest.approx(math.log(model.config.vocabulary), abs=0.2)


# ---------------------------------------------------------------- the loss


def test_the_loss_of_every_token_by_hand():
    model, tokens = awake(), draw(2, 8, below=ODD.vocabulary)
    p = model(tokens).double().softmax(-1)
    got = lvm.sentence_losses(model, tokens)
    assert got.shape == (2, 7)
    for b in range(2):
        for n in range(7):
            expected = -math.log(p[b, n, tokens[b, n + 1]])
            assert float(got[b, n]) == pytest.approx(expected, rel=1e-4)


def test_the_loss_of_packed_sentences_kept_apart_is_that_of_each_alone():
    model = awake()
    sentences = [visual_sentence(draw(p, 2, 3, seed=p), ODD.bos, ODD.eos) for p in (1, 2)]
    (row,), _ = pack(sentences, 22)
    row = row[None]
    losses = lvm.sentence_losses(model, row, document_ids(row, ODD.bos))
    alone = [lvm.sentence_losses(model, sentence[None]) for sentence in sentences]
    torch.testing.assert_close(losses[:, :7], alone[0], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(losses[:, 8:], alone[1], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(lvm.sentence_losses(model, row)[:, 8:], alone[1], rtol=1e-2)


# ---------------------------------------------------------------- drawing images


def loud(model):
    """The same model with a head that shouts for everything that is no code."""
    with torch.no_grad():
        model.head.weight[ODD.num_codes :] *= 10
    return model


@pytest.mark.parametrize("count", [1, 2])
def test_only_codes_are_drawn_and_just_as_many_as_images_have(count):
    model, prompt = loud(awake()), draw(4, 6)
    assert (model.next_logits(prompt).argmax(-1) >= ODD.num_codes).any()
    got = lvm.decode_images(model, prompt, count, temperature=5, generator=seeded())
    assert got.shape == (4, count, 2, 3)
    assert got.min() >= 0 and got.max() < ODD.num_codes and len(got.unique()) > 5


@pytest.mark.parametrize(
    "options", [{}, {"temperature": 0.7, "top_p": 0.9}, {"top_k": 1}, {"top_k": 4}], ids=str
)
def test_a_cache_changes_no_code(options):
    model, prompt = loud(awake()), draw(5, 7)
    cached, uncached = (
        lvm.decode_images(model, prompt, 3, generator=seeded(2), cache=cache, **options)
        for cache in (True, False)
    )
    assert torch.equal(cached, uncached)


def test_one_image_drawn_with_the_callers_numbers():
    model, prompt = loud(awake()), draw(4, 7)
    uniform = torch.rand(6, 4, generator=seeded(2))
    got = lvm.decode_image(model, prompt, uniform, 0.8, 0.9)
    expected = lvm.decode_images(model, prompt, 1, temperature=0.8, top_p=0.9, generator=seeded(2))
    assert torch.equal(got, expected[:, 0]) and got.shape == (4, 2, 3)
    assert torch.equal(
        lvm.decode_image(model, prompt, uniform),
        lvm.decode_images(model, prompt, generator=seeded(2))[:, 0],
    )


def test_each_code_is_drawn_from_the_codes_share_of_the_distribution():
    model, prompt = loud(awake()), draw(5, 7)
    got = lvm.decode_images(model, prompt, 1, temperature=2, top_p=0.8, generator=seeded(4))
    tokens = prompt
    for uniform in torch.rand(6, 5, generator=seeded(4)):
        logits = model(tokens)[:, -1, : ODD.num_codes]
        p = next_token_probabilities(logits, 2, top_p=0.8)
        code = (p.cumsum(-1) <= uniform[:, None]).sum(-1, keepdim=True)
        tokens = torch.cat([tokens, code], dim=1)
    assert torch.equal(got.flatten(1), tokens[:, 7:])


@pytest.mark.parametrize("cache", [True, False])
@pytest.mark.parametrize("begin", [0, 1], ids=["without BOS", "after BOS"])
def test_the_last_images_stay_when_the_context_is_full(begin, cache):
    """Four fit: each further one is drawn given the last three, in positions from 0 on."""
    model = loud(awake())
    start = torch.full((3, begin), ODD.bos)
    prompt = torch.cat([start, draw(3, 12)], dim=1)
    options = {"top_k": 1, "cache": cache}
    got = lvm.continue_sentence(model, prompt, 5, **options)
    assert got.shape == (3, 5, 2, 3)
    tokens = prompt
    for image in range(5):
        window = torch.cat([start, tokens[:, begin:][:, -18:]], dim=1)
        expected = lvm.decode_images(model, window, 1, **options)
        assert torch.equal(got[:, image : image + 1], expected)
        tokens = torch.cat([tokens, expected.flatten(1)], dim=1)


def test_a_prompt_longer_than_the_context_is_cut_in_front():
    model = awake()
    prompt = torch.cat([torch.full((2, 1), ODD.bos), draw(2, 6 * 6)], dim=1)
    short = torch.cat([prompt[:, :1], prompt[:, -18:]], dim=1)
    one, other = (lvm.continue_sentence(model, p, 2, top_k=1) for p in (prompt, short))
    assert torch.equal(one, other)
    assert lvm.continue_sentence(model, prompt, 0).shape == (2, 0, 2, 3)


def test_images_from_nothing_but_bos():
    model = awake()
    got = lvm.continue_sentence(model, torch.full((2, 1), ODD.bos), 6, generator=seeded())
    assert got.shape == (2, 6, 2, 3) and not torch.equal(got[0], got[1])


@pytest.mark.parametrize(
    "tokens",
    [[ODD.bos], [1] * 8, [1] * 7, [1, 2, 3, 4, 5, ODD.eos], [ODD.eos] + [1] * 6],
    ids=["BOS twice", "two tokens over", "a code in front", "EOS in an image", "EOS in front"],
)
def test_prompts_of_anything_but_images_are_refused(tokens):
    if tokens == [ODD.bos]:
        tokens = [ODD.bos] * 2
    with pytest.raises(ValueError, match=r"expected BOS \(11\) or nothing, then images of 6 codes"):
        lvm.continue_sentence(awake(), torch.tensor([tokens]), 1)


def test_what_the_context_does_not_hold_is_refused():
    with pytest.raises(ValueError, match="expected at most 25 tokens, got 26"):
        lvm.decode_images(awake(), draw(1, 21), 1, cache=False)
    with pytest.raises(ValueError, match="at least one token, got none"):
        lvm.decode_images(awake(), draw(1, 0), 1)


# ---------------------------------------------------------------- perplexity


def test_perplexity_by_image_by_hand():
    losses = torch.tensor([[0.0, 1.0, 2.0, 0.5, 0.5, 0.5], [3.0, 0.0, 0.0, 1.0, 1.0, 4.0]])
    expected = [[math.e, math.exp(0.5)], [math.e, math.exp(2)]]
    torch.testing.assert_close(lvm.perplexity_by_image(losses, 3), torch.tensor(expected))
    for wrong in (4, 0, -3):
        with pytest.raises(ValueError, match=f"whole images of {wrong} tokens, got 6 tokens"):
            lvm.perplexity_by_image(losses, wrong)


def test_perplexity_is_one_number_per_example():
    """All tokens compete, those that are no codes too; the prompt is not counted."""
    model, prompt, target = loud(awake()), draw(4, 7), draw(4, 6, seed=9)
    logits = model(torch.cat([prompt, target], dim=1))[:, 6:-1]
    log_p = logits.log_softmax(-1).gather(2, target[..., None])[..., 0]
    expected = log_p.mean(1).neg().exp()
    torch.testing.assert_close(lvm.perplexity(model, prompt, target), expected)
    fair = F.cross_entropy(logits[..., :11].mT, target, reduction="none").mean(1).exp()
    assert not torch.allclose(fair, expected, rtol=0.05)


@pytest.mark.parametrize(("m", "n"), [(0, 6), (6, 0)])
def test_perplexity_of_nothing_is_refused(m, n):
    with pytest.raises(ValueError, match=f"at least one token, got {m} and {n}"):
        lvm.perplexity(awake(), draw(1, m), draw(1, n))


def test_a_model_that_knows_has_a_perplexity_near_one():
    """It is trained on a sentence of four images for a moment, and then knows the last."""
    torch.manual_seed(0)
    model = Transformer(ODD)
    sentence = visual_sentence(draw(4, 2, 3), ODD.bos, ODD.eos)[None, :25]
    optimizer = torch.optim.AdamW(model.parameters(), 1e-2)
    for _ in range(60):
        optimizer.zero_grad()
        lvm.sentence_losses(model, sentence).mean().backward()
        optimizer.step()
    prompt, last = sentence[:, :19], sentence[:, 19:]
    assert float(lvm.perplexity(model, prompt, last)) < 1.2
    assert torch.equal(lvm.continue_sentence(model, prompt, 1, top_k=1).flatten(1), last)
