"""VideoPoet's vocabulary, the sequences of every task, who sees whom, and what is predicted."""

from dataclasses import replace

import pytest
import torch

from course_lib.papers.videopoet_sequences import (
    SPECIALS,
    TASK_TOKENS,
    TASKS,
    TEXT,
    TaskSequence,
    Vocabulary,
    audio_codes,
    audio_tokens,
    draw_task,
    image_share,
    loss_mask,
    places_in_parts,
    predicted_tokens,
    prefix_mask,
    task_sequence,
    token_ranges,
    visual_codes,
    visual_tokens,
)

PAPER = Vocabulary()
TINY = Vocabulary(specials=24, visual=7, levels=3, codes=5)
SIZES = [PAPER, TINY, Vocabulary(22, 1, 1, 1), Vocabulary(40, 9, 0, 4), Vocabulary(30, 2**10, 8, 3)]


def draw(*shape, below, seed=0):
    return torch.randint(below, shape, generator=torch.Generator().manual_seed(seed))


# ---------------------------------------------------------------- the vocabulary


def test_the_paper_s_numbers():
    assert PAPER.size == 266_496 == 256 + 262_144 + 4_096
    assert PAPER.ranges["visual"] == (256, 262_400)
    assert PAPER.ranges["audio 1"] == (262_400, 263_424)
    assert PAPER.ranges["audio 4"] == (265_472, 266_496)


@pytest.mark.parametrize("vocabulary", SIZES, ids=str)
def test_ranges_are_disjoint_and_complete(vocabulary):
    ranges = vocabulary.ranges
    assert len(ranges) == 2 + vocabulary.levels
    numbers = [number for first, end in ranges.values() for number in range(first, end)]
    assert numbers == list(range(vocabulary.size))


def test_special_tokens_and_tasks_have_numbers_of_their_own():
    numbers = [TINY.special(name) for name in SPECIALS] + [TINY.task(task) for task in TASKS]
    assert set(numbers) == set(range(len(SPECIALS) + len(TASK_TOKENS)))
    assert len(SPECIALS) == 14  # the paper's list of fifteen has <task> as well


def test_one_task_token_for_clips_from_text_an_image_or_nothing():
    shared = {PAPER.task(task) for task in ("unconditional", "T2V", "I2V", "T2I")}
    assert len(shared) == 1
    others = {PAPER.task(task) for task in TASKS} - shared
    assert len(others) == len(TASKS) - 4


@pytest.mark.parametrize("vocabulary", SIZES, ids=str)
def test_what_can_stand_in_a_token_s_place(vocabulary):
    tokens = {0, vocabulary.specials - 1, vocabulary.specials, vocabulary.size - 1}
    for token in tokens:
        first, end = vocabulary.among(token)
        assert first <= token < end
        if token < vocabulary.specials:
            assert (first, end) == (token, token + 1)
        else:
            assert (first, end) in vocabulary.ranges.values()
    for wrong in (-1, vocabulary.size):
        with pytest.raises(ValueError, match=f"expected a token from 0 .* got {wrong}"):
            vocabulary.among(wrong)


def test_names():
    tokens = [TEXT, 0, TINY.task("FP"), 23, 24, 30, 31, 35, 36, 45]
    names = ["<text>", "<bos>", "<task FP>", "<special 23>", "visual 0", "visual 6"]
    names += ["audio 1: 0", "audio 1: 4", "audio 2: 0", "audio 3: 4"]
    assert [TINY.name(token) for token in tokens] == names


@pytest.mark.parametrize(
    "wrong", [{"specials": 21}, {"visual": 0}, {"codes": 0}, {"levels": -1}], ids=str
)
def test_vocabularies_that_make_no_sense(wrong):
    with pytest.raises(ValueError, match="expected at least"):
        replace(TINY, **wrong)


def test_unknown_names():
    with pytest.raises(ValueError, match=r"expected one of <bos>, .* got '<task>'"):
        TINY.special("<task>")
    with pytest.raises(ValueError, match=r"expected a task of unconditional, .* got 'T2A'"):
        TINY.task("T2A")


# ---------------------------------------------------------------- codes and tokens


@pytest.mark.parametrize("vocabulary", SIZES, ids=str)
def test_codes_to_tokens_and_back(vocabulary):
    codes = draw(2, 3, 4, 5, below=vocabulary.visual)
    tokens = visual_tokens(codes, vocabulary)
    first, end = vocabulary.ranges["visual"]
    assert tokens.min() >= first and tokens.max() < end
    assert torch.equal(visual_codes(tokens, vocabulary, (4, 5)), codes)
    if not vocabulary.levels:
        return
    codes = draw(2, 6, vocabulary.levels, below=vocabulary.codes)
    tokens = audio_tokens(codes, vocabulary)
    assert torch.equal(audio_codes(tokens, vocabulary), codes)
    for level, part in enumerate(tokens.split(6, dim=1), start=1):
        first, end = vocabulary.ranges[f"audio {level}"]
        assert part.min() >= first and part.max() < end


def test_a_clip_of_the_paper_and_its_sound():
    codes = draw(1, 5, 16, 16, below=2**18)
    tokens = visual_tokens(codes, PAPER)
    assert tokens.shape == (1, 1280)
    assert tokens[0, 256 * 3 + 16 * 7 + 9] == 256 + codes[0, 3, 7, 9]
    codes = draw(1, 106, 4, below=1024)
    tokens = audio_tokens(codes, PAPER)
    assert tokens.shape == (1, 424)
    assert tokens[0, 2 * 106 + 31] == 262_400 + 2 * 1024 + codes[0, 31, 2]


def test_codes_that_are_none():
    for wrong in (torch.full((1, 1, 1, 1), 7), torch.full((1, 1, 1, 1), -1)):
        with pytest.raises(ValueError, match="expected codes from 0 to 6, got"):
            visual_tokens(wrong, TINY)
    with pytest.raises(ValueError, match="expected codes from 0 to 4, got"):
        audio_tokens(torch.full((1, 2, 3), 5), TINY)
    with pytest.raises(ValueError, match="expected 3 levels, got 2"):
        audio_tokens(torch.zeros(1, 2, 2, dtype=torch.long), TINY)
    tokens = audio_tokens(draw(1, 4, 3, below=5), TINY)
    with pytest.raises(ValueError, match="expected codes from 0 to 4, got"):
        audio_codes(tokens.flip(1), TINY)
    with pytest.raises(ValueError, match="expected 3 levels, got 11 tokens"):
        audio_codes(tokens[:, 1:], TINY)
    with pytest.raises(ValueError, match="expected frames of 2 x 3 tokens, got 11 tokens"):
        visual_codes(tokens[:, :11], TINY, (2, 3))
    with pytest.raises(ValueError, match="expected codes from 0 to 6, got"):
        visual_codes(tokens, TINY, (2, 3))


# ---------------------------------------------------------------- the sequences of every task


def parts(task, b=2):
    """Tokens of a little of everything that a task has: a clip's 4, what follows 3, sounds 3, 6."""
    expected = TASKS[task]
    given = {
        "visual": visual_tokens(draw(b, 1, 2, 2, below=7, seed=1), TINY),
        "audio": audio_tokens(draw(b, 1, 3, below=5, seed=2), TINY),
    }
    predicted = {
        "visual": visual_tokens(draw(b, 1, 1, 3, below=7, seed=3), TINY),
        "audio": audio_tokens(draw(b, 2, 3, below=5, seed=4), TINY),
    }
    given = {kind: given[kind] for kind in expected.given if kind != "text"}
    return given, {kind: predicted[kind] for kind in expected.predicted}


def sequence_of(task, text=None, **options):
    if text is None:
        text = 2 if "text" in TASKS[task].given else 0
    return task_sequence(task, TINY, *parts(task), text=text, **options)


def written(sequence):
    """What a sequence is made of: runs of codes are counted."""
    names = [TINY.name(token).split()[0].strip("<>") for token in sequence.tokens[0].tolist()]
    names = ["text" if name == "text" else name for name in names]
    found = []
    for name in [*names[: sequence.prefix], "|", *names[sequence.prefix :]]:
        if name in ("text", "visual", "audio") and found and found[-1].split()[0] == name:
            found[-1] = f"{name} {int(found[-1].split()[1]) + 1}"
        else:
            found.append(f"{name} 1" if name in ("text", "visual", "audio") else name)
    return " ".join(found)


TEXT_IN = "bot_i text 2 eot_i"
CLIP_IN = "bov_i visual 4 eov_i"
SOUND_IN = "boa_i audio 3 eoa_i"
CLIP_OUT = "| bov_o visual 3 eov_o eos"
SOUND_OUT = "| boa_o audio 6 eoa_o eos"
WRITTEN = {
    "unconditional": f"bos task {CLIP_OUT}",
    "T2V": f"bos task {TEXT_IN} {CLIP_OUT}",
    "T2I": f"bos task {TEXT_IN} | bov_o visual 3",
    "I2V": f"bos task {CLIP_IN} {CLIP_OUT}",
    "FP": f"bos task {CLIP_IN} {CLIP_OUT}",
    "inpainting": f"bos task {CLIP_IN} {CLIP_OUT}",
    "outpainting": f"bos task {CLIP_IN} {CLIP_OUT}",
    "stylization": f"bos task {TEXT_IN} {CLIP_IN} {CLIP_OUT}",
    "A2V": f"bos task {SOUND_IN} {CLIP_OUT}",
    "V2A": f"bos task {CLIP_IN} {SOUND_OUT}",
    "AVCont": f"bos task {CLIP_IN} {SOUND_IN} | bov_o visual 3 eov_o boa_o audio 6 eoa_o eos",
}


@pytest.mark.parametrize("task", TASKS)
def test_the_sequence_of_every_task(task):
    sequence = sequence_of(task)
    assert written(sequence) == WRITTEN[task]
    assert (sequence.tokens[:, 1] == TINY.task(task)).all()
    given, predicted = parts(task)
    for kind, tokens in predicted_tokens(sequence, TINY).items():
        assert torch.equal(tokens, predicted.pop(kind))
    assert not predicted
    rows = [row.tolist() for row in sequence.tokens[:, : sequence.prefix]]
    for tokens in given.values():
        for row, part in zip(rows, tokens.tolist(), strict=True):
            assert any(row[i : i + len(part)] == part for i in range(len(row)))


def test_a_text_beside_what_else_is_given():
    assert written(sequence_of("I2V", text=2)) == f"bos task {TEXT_IN} {CLIP_IN} {CLIP_OUT}"
    assert written(sequence_of("V2A", text=2)) == f"bos task {TEXT_IN} {CLIP_IN} {SOUND_OUT}"
    sequence = sequence_of("T2V", text=64)
    assert sequence.text.nonzero()[:, 0].tolist() == list(range(3, 67))


def test_source_and_resolution_end_the_prefix():
    sequence = sequence_of("T2V", marks=("<source>", "<res>"))
    assert written(sequence) == f"bos task {TEXT_IN} source res {CLIP_OUT}"


def test_a_clip_from_text_begins_as_an_image_does():
    """T2I leaves <eov_o> and <eos> out, so that its sequence is the beginning of a clip's."""
    image, clip = sequence_of("T2I"), sequence_of("T2V")
    n = image.tokens.shape[1]
    assert image.prefix == clip.prefix and torch.equal(image.tokens, clip.tokens[:, :n])


def test_other_tokens_after_the_same_beginning():
    sequence = sequence_of("AVCont")
    other = sequence.with_output(torch.zeros_like(sequence.output))
    assert torch.equal(other.tokens[:, : other.prefix], sequence.tokens[:, : sequence.prefix])
    assert not other.output.any() and other.output.shape == sequence.output.shape


@pytest.mark.parametrize("task", TASKS)
def test_parts_that_are_not_the_task_s(task):
    given, predicted = parts(task)
    text = 2 if "text" in TASKS[task].given else 0
    with pytest.raises(ValueError, match=r"predicted, got .* and \[\]"):
        task_sequence(task, TINY, given, {}, text)
    wrong = {**given, "smell": torch.zeros(2, 1, dtype=torch.long)}
    with pytest.raises(ValueError, match=f"{task}: expected .* got .*smell"):
        task_sequence(task, TINY, wrong, predicted, text)
    with pytest.raises(ValueError, match="text: expected"):
        task_sequence(task, TINY, given, predicted, -1)
    if given:
        short = {kind: tokens[:1] for kind, tokens in given.items()}
        with pytest.raises(ValueError, match=r"one batch size, got \[1, 2\]"):
            task_sequence(task, TINY, short, predicted, text)


def test_texts_that_must_be_and_must_not_be():
    with pytest.raises(
        ValueError, match="text: expected at least one of its places for T2V, got 0"
    ):
        sequence_of("T2V", text=0)
    with pytest.raises(ValueError, match=r"text: expected none .* for unconditional, got 3"):
        sequence_of("unconditional", text=3)


def test_places_count_anew_in_every_part():
    places = places_in_parts(sequence_of("AVCont", text=2), TINY).tolist()
    text, clip, sound = [0, 1, 2, 0], [0, 1, 2, 3, 4, 0], [0, 1, 2, 3, 0]
    output = [0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5, 6, 0, 0]
    assert places == [0, 0, *text, *clip, *sound, *output]


# ---------------------------------------------------------------- masks


@pytest.mark.parametrize(("prefix", "n"), [(0, 5), (1, 5), (3, 7), (6, 6), (4, 5)])
def test_who_sees_whom(prefix, n):
    mask = prefix_mask(prefix, n)
    for row in range(n):
        for column in range(n):
            both_given = row < prefix and column < prefix
            assert bool(mask[row, column]) == (both_given or column <= row)


@pytest.mark.parametrize("task", TASKS)
def test_what_is_predicted(task):
    sequence = sequence_of(task)
    mask = sequence.loss_mask
    assert torch.equal(mask, loss_mask(sequence.prefix, sequence.tokens.shape[1]))
    assert torch.equal(sequence.tokens[:, mask], sequence.output)
    assert not mask[sequence.text].any()
    assert TINY.name(int(sequence.output[0, 0])) in ("<bov_o>", "<boa_o>")


# ---------------------------------------------------------------- the tasks of a training run


def test_tasks_come_as_often_as_asked():
    shares = {"T2V": 2, "FP": 0, "V2A": 1.0, "A2V": 5}
    drawn = [draw_task(shares, (i + 0.5) / 80) for i in range(80)]
    assert {task: drawn.count(task) for task in shares} == {
        "T2V": 20,
        "FP": 0,
        "V2A": 10,
        "A2V": 50,
    }
    assert draw_task({"FP": 0, "T2V": 3, "I2V": 0}, 1 - 2**-53) == "T2V"
    for shares, uniform in (({"FP": 0}, 0.5), ({}, 0.5), ({"FP": 1}, 1.0), ({"FP": 1}, -0.1)):
        with pytest.raises(ValueError, match="expected positive sums"):
            draw_task(shares, uniform)


def test_images_first_and_then_clips():
    assert [image_share(step, 100) for step in (0, 24, 25, 99)] == [0.9, 0.9, 0.1, 0.1]


def test_ranges_as_a_function():
    assert token_ranges(2, 3, 2, 5) == {
        "special": (0, 2),
        "visual": (2, 5),
        "audio 1": (5, 10),
        "audio 2": (10, 15),
    }


def test_a_sequence_of_other_types_of_whole_numbers():
    """Recipes keep codes as int32."""
    codes = draw(2, 1, 1, 3, below=7).int()
    sequence = task_sequence("unconditional", TINY, {}, {"visual": visual_tokens(codes, TINY)})
    assert isinstance(sequence, TaskSequence) and sequence.tokens.dtype == torch.int64
