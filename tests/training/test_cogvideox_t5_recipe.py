"""The tiny T5 of chapter 09: spans are hidden as T5 hides them, and what was hidden is learned."""

from itertools import pairwise

import pytest
import torch

from course_lib.training import RandomSource, find_recipe, load_checkpoint, results
from course_lib.training.recipes.cogvideox_t5 import (
    CONFIG,
    END,
    LENGTH,
    PAD,
    TEXT_ENCODER,
    CaptionT5,
    SpanCorruption,
    caption_tokens,
    clip_captions,
    corrupt,
    corrupt_all,
    embed_captions,
    guesses,
    hidden_words,
    normalize_vectors,
    sentinel,
    simple_guesses,
    words_of,
)
from course_lib.world import CAPTION_WORDS
from tests.training.helpers import train_model

SENTENCE = "a small shiny red cube slides left, in front of an orange cone as the camera zooms out"


def put_back(left, said):
    """Put what was said in the place of each sentinel."""
    spans = {}
    for token in said:
        if token > sentinel(len(said)):
            name = token
            spans[name] = []
        else:
            spans[name].append(token)
    return [word for token in left for word in spans.get(token, [token])]


# ---------------------------------------------------------------- tokens


def test_the_words_of_captions_fit_and_leave_room_for_sentinels():
    captions = clip_captions("test", 3000)
    tokens = caption_tokens(captions)
    assert tokens.shape == (3000, LENGTH)
    assert [words_of(row) for row in tokens] == captions
    assert int(tokens.max()) < 2 + len(CAPTION_WORDS) < sentinel(9)
    ends = (tokens == END).int().argmax(1)
    assert ((tokens == END).sum(1) == 1).all()
    assert all((row[end + 1 :] == PAD).all() for row, end in zip(tokens, ends, strict=True))


def test_the_longest_caption_of_the_grammar_just_fits():
    """Every part that may be there, in its longest form."""
    relation = "in front of a blue sphere"
    parts = ["a small shiny red cube slides left,", relation, "and", relation]
    longest = " ".join([*parts, "as the camera zooms in"])
    assert caption_tokens([longest])[0, -1] == END
    with pytest.raises(ValueError, match="expected at most 26 words, got 27"):
        caption_tokens([f"{longest} and"])


def test_no_caption_is_the_end_alone_and_sentinels_are_words():
    assert caption_tokens([""])[0].tolist() == [END] + [PAD] * (LENGTH - 1)
    assert caption_tokens([]).shape == (0, LENGTH)
    text = "a <extra_id_0> cube <extra_id_1>"
    tokens = caption_tokens([text])[0]
    assert tokens[1] == CONFIG.vocabulary - 1 and tokens[3] == CONFIG.vocabulary - 2
    assert words_of(tokens) == text


def test_words_that_no_caption_has_are_named():
    with pytest.raises(ValueError, match=r"got turtle, mauve in 'a mauve|got mauve, turtle in"):
        caption_tokens(["a red cube", "a mauve turtle rests"])
    with pytest.raises(ValueError, match="that captions of the little world have, got turtle"):
        embed_captions(["a turtle"])


# ---------------------------------------------------------------- the objective


@pytest.mark.parametrize("n", [2, 5, 13, 26, 100])
def test_what_is_hidden_can_be_put_back(n):
    text = [2 + i % 40 for i in range(n)]
    for seed in range(30):
        uniform = RandomSource(seed).rand(n + 1).tolist()
        left, said = corrupt(text, uniform, 0.15, 3.0)
        assert put_back(left, said) == text
        hidden = [token for token in said if token <= sentinel(len(said))]
        assert len(hidden) == max(round(0.15 * n), 1)
        sentinels = [token for token in said if token > sentinel(len(said))]
        assert sentinels == [sentinel(i) for i in range(len(sentinels))]
        assert len(sentinels) == max(round(len(hidden) / 3), 1) + 1
        assert [token for token in left if token in sentinels] == sentinels[:-1]
        places = [i for i, token in enumerate(left) if token in sentinels]
        assert all(b - a > 1 for a, b in pairwise(places))  # apart


def test_every_place_is_hidden_about_as_often_and_spans_have_all_lengths():
    text = list(range(2, 42))
    hits = torch.zeros(40)
    lengths = []
    for seed in range(2000):
        _, said = corrupt(text, RandomSource(seed).rand(41).tolist(), 0.15, 3.0)
        for token in said:
            if token > 50:
                lengths.append(0)
            else:
                hits[token - 2] += 1
                lengths[-1] += 1
    spans = [length for length in lengths if length]
    assert set(spans) == {1, 2, 3, 4, 5} and sum(spans) / len(spans) == 3
    inner = hits[4:-4] / 2000
    assert float(inner.mean()) == pytest.approx(0.15, abs=0.03)
    assert float(inner.std()) < 0.02


def test_too_few_numbers_and_texts_that_are_too_short_or_too_long():
    with pytest.raises(ValueError, match="got 1 tokens and 9 numbers"):
        corrupt([5], [0.5] * 9, 0.15, 3.0)
    with pytest.raises(ValueError, match="got 4 tokens and 4 numbers"):
        corrupt([5, 6, 7, 8], [0.5] * 4, 0.15, 3.0)
    with pytest.raises(ValueError, match="expected fewer than 19 spans, got 26"):
        corrupt([5] * 512, [0.5] * 513, 0.15, 3.0)


def test_a_batch_is_hidden_row_by_row_and_ends():
    tokens = caption_tokens([SENTENCE, "a large blue cone rests"])
    uniform = RandomSource(0).rand(2, LENGTH)
    left, said = corrupt_all(tokens, uniform, 0.15, 3.0)
    assert left.shape == (2, LENGTH) and len(said) == 2
    for row, numbers, one, other in zip(tokens, uniform, left, said, strict=True):
        words = row[: int((row == END).int().argmax())].tolist()
        expected = corrupt(words, numbers.tolist(), 0.15, 3.0)
        for got, sequence in zip((one, other), expected, strict=True):
            assert got[: len(sequence) + 1].tolist() == [*sequence, END]
            assert (got[len(sequence) + 1 :] == PAD).all()
    assert hidden_words(said).sum(1).tolist() == [3, 1]


# ---------------------------------------------------------------- the model


def test_what_is_said_next_depends_on_what_is_left_and_was_said_before():
    torch.manual_seed(0)
    model = CaptionT5(CONFIG)
    left, said = corrupt_all(caption_tokens([SENTENCE]), RandomSource(1).rand(1, LENGTH), 0.3, 3.0)
    logits = model(left, said)
    assert logits.shape == (1, said.shape[1], CONFIG.vocabulary)
    later = said.clone()
    later[0, 3] += 1
    torch.testing.assert_close(model(left, later)[:, :4], logits[:, :4])
    assert (model(left, later)[:, 4:] - logits[:, 4:]).abs().amax(-1).min() > 1e-3
    other = left.clone()
    other[0, 2] += 1
    assert (model(other, said) - logits).abs().amax(-1).min() > 1e-4


def test_a_batch_of_captions_is_learned():
    torch.manual_seed(0)
    trainable = SpanCorruption(CaptionT5(CONFIG), 0.15, 3.0)
    batch = {"tokens": caption_tokens([SENTENCE, "a large blue cone rests"] * 4)}
    losses = train_model(trainable, batch, 80)
    assert sum(losses[-5:]) < 0.5 * sum(losses[:5])


def test_filling_says_the_likeliest_token_after_its_own():
    torch.manual_seed(0)
    model = CaptionT5(CONFIG)
    left = caption_tokens(["a <extra_id_0> cube rests"])
    filled = model.fill(left, 4)
    assert filled.shape == (1, 4)
    assert torch.equal(model(left, filled).argmax(-1), filled)


def test_simple_guesses_by_hand():
    train = caption_tokens(["a red cube rests", "a red cone rests", "a red cube spins"])
    left = caption_tokens(["a <extra_id_0> rests", "a <extra_id_0> cone rests"])
    said = caption_tokens(["<extra_id_0> red cube <extra_id_1>", "<extra_id_0> blue <extra_id_1>"])
    found = simple_guesses(train, left, said)
    assert found["right by the word before"] == pytest.approx(2 / 3)  # red after a, cube after red
    assert found["right by the commonest"] in (0, pytest.approx(1 / 3))  # a or red, a tie
    assert found["right by chance"] == pytest.approx(1 / 43)


def test_the_recipe_warms_up_and_ends_at_zero():
    recipe = find_recipe(TEXT_ENCODER)
    assert recipe.lr_scale(0) < 0.1 and recipe.lr_scale(recipe.steps) == 0


# ---------------------------------------------------------------- as it was trained


def test_the_trained_model_guesses_as_was_measured():
    model, provenance = load_checkpoint(TEXT_ENCODER)
    measured = results(TEXT_ENCODER)["metrics"]
    assert provenance["metrics"] == measured
    tokens = caption_tokens(clip_captions("test", 1000))
    left, said = corrupt_all(tokens, RandomSource(5).rand(*tokens.shape), 0.15, 3.0)
    assert guesses(model, left, said)["right"] == pytest.approx(measured["right"], abs=0.04)
    order = ["right", "right by the word before", "right by the commonest", "right by chance"]
    assert sorted(order, key=measured.get, reverse=True) == order


def test_normalized_vectors_have_mean_0_and_deviation_1():
    vectors = normalize_vectors(embed_captions(clip_captions("train", 2000))).flatten(0, 1)
    assert vectors.mean(0).abs().max() < 0.1
    assert (vectors.std(0) - 1).abs().max() < 0.1
    measured = results(TEXT_ENCODER)["metrics"]
    assert measured["length of the mean vector"] > 0.4 * measured["mean length of vectors"]


def test_captions_are_embedded_once_and_each_by_itself():
    captions = [SENTENCE, "a large blue cone rests", ""]
    vectors = embed_captions(captions)
    assert vectors.shape == (3, LENGTH, CONFIG.width) and not vectors.requires_grad
    assert embed_captions(captions) is vectors
    torch.testing.assert_close(embed_captions(captions[1:2])[0], vectors[1])
    encoder = load_checkpoint(TEXT_ENCODER)[0].encoder
    torch.testing.assert_close(vectors, encoder(caption_tokens(captions)))
    assert embed_captions([]).shape == (0, LENGTH, CONFIG.width)
