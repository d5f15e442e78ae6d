"""LVM's sentences in every form, rows of a stream, prompts: on images that say which they are."""

import pytest
import torch

from course_lib.papers.lvm_sentences import (
    analogy_prompt,
    annotated,
    combined_prompt,
    document_ids,
    frames_at_stride,
    images_of_category,
    pack,
    sequential_prompt,
    views_around,
    visual_sentence,
)

BOS, EOS = 90, 91


def grids(*names):
    """Images of 2 x 3 codes: image 4 is 40, 41, ..., 45 in reading order."""
    return 10 * torch.tensor(names).view(-1, 1, 1) + torch.arange(6).view(2, 3)


def names(tokens):
    """What a sentence is made of: the numbers of its images, and B and E."""
    found, rest = [], tokens.tolist()
    while rest:
        if rest[0] in (BOS, EOS):
            found.append("B" if rest.pop(0) == BOS else "E")
        else:
            image, rest = rest[:6], rest[6:]
            assert image == list(range(image[0], image[0] + 6))
            found.append(image[0] // 10)
    return found


# ---------------------------------------------------------------- which images make a sentence


def test_a_single_image_is_a_sentence():
    assert visual_sentence(grids(4), BOS, EOS).tolist() == [BOS, 40, 41, 42, 43, 44, 45, EOS]


def test_an_empty_sentence_has_a_beginning_and_an_end():
    assert visual_sentence(grids(1)[:0], BOS, EOS).tolist() == [BOS, EOS]


def test_frames_at_a_stride():
    clip = grids(*range(9))
    for (count, stride, start), found in {
        (3, 4, 0): [0, 4, 8],
        (3, 3, 2): [2, 5, 8],
        (1, 7, 8): [8],
        (9, 1, 0): [*range(9)],
    }.items():
        frames = frames_at_stride(clip, count, stride, start)
        assert names(visual_sentence(frames, BOS, EOS)) == ["B", *found, "E"]


@pytest.mark.parametrize(
    "wrong", [(3, 4, 1), (10, 1, 0), (0, 1, 0), (2, 0, 0), (2, -1, 5), (1, 1, -1), (1, 1, 9)]
)
def test_a_clip_that_is_too_short(wrong):
    with pytest.raises(ValueError, match="within 9, got"):
        frames_at_stride(grids(*range(9)), *wrong)


def test_views_go_round():
    views = grids(*range(5))
    for (count, start), found in {
        (3, 0): [0, 1, 2],
        (4, 3): [3, 4, 0, 1],
        (-4, 1): [1, 0, 4, 3],
        (5, 7): [2, 3, 4, 0, 1],
    }.items():
        assert names(visual_sentence(views_around(views, count, start), BOS, EOS))[1:-1] == found
    for wrong in (0, 6, -6):
        with pytest.raises(ValueError, match=f"1 to 5 views, got {wrong}"):
            views_around(views, wrong)


def test_images_of_a_category():
    images, labels = grids(*range(9)), torch.tensor([0, 1, 0, 1, 1, 2, 1, 0, 1])
    drawn = [
        names(images_of_category(images, labels, 1, 4, torch.Generator().manual_seed(s)).flatten())
        for s in range(40)
    ]
    assert all(len(set(each)) == 4 and set(each) <= {1, 3, 4, 6, 8} for each in drawn)
    assert len({tuple(each) for each in drawn}) > 20
    assert {each[0] for each in drawn} == {1, 3, 4, 6, 8}
    for category, count in ((1, 6), (3, 1), (2, 0)):
        with pytest.raises(ValueError, match=rf"of category {category}, got {count}"):
            images_of_category(images, labels, category, count, torch.Generator())


def test_annotated_images_with_several_kinds_of_map():
    images, depth, normals = grids(1, 2, 3), grids(4, 5, 6), grids(7, 8, 0)

    def order(*args, **options):
        return names(visual_sentence(annotated(*args, **options), BOS, EOS))[1:-1]

    assert order(images, [depth]) == [1, 4, 2, 5, 3, 6]
    assert order(images, [depth, normals]) == [1, 4, 7, 2, 5, 8, 3, 6, 0]
    assert order(images, [normals, depth]) == [1, 7, 4, 2, 8, 5, 3, 0, 6]
    assert order(images, [depth], order="images first") == [1, 2, 3, 4, 5, 6]
    assert order(images, [depth, normals], order="images first") == [1, 2, 3, 4, 5, 6, 7, 8, 0]


def test_maps_that_do_not_fit(untyped):
    images = grids(1, 2, 3)
    for wrong in ([], [grids(1, 2)], [images, images[:, :1]]):
        with pytest.raises(ValueError, match=r"maps: expected .* shape \(3, 2, 3\), got"):
            annotated(images, wrong)
    with pytest.raises(ValueError, match="order: expected 'interleaved' or 'images first', got"):
        annotated(images, [images], order="maps first")


# ---------------------------------------------------------------- rows of a stream


def test_packing_cuts_anywhere_and_loses_nothing():
    sentences = [visual_sentence(grids(*each), BOS, EOS) for each in ([1], [2, 3], [4])]
    stream = torch.cat(sentences)
    for length in (1, 5, 8, 13, 30, 31):
        rows, rest = pack(sentences, length)
        assert rows.shape == (30 // length, length) and len(rest) == 30 % length
        assert torch.equal(torch.cat([rows.flatten(), rest]), stream)


def test_what_is_left_goes_on_in_the_next_call():
    sentences = [visual_sentence(grids(n), BOS, EOS) for n in range(7)]
    whole, left = pack(sentences, 9)
    first, rest = pack(sentences[:3], 9)
    second, last = pack([rest, *sentences[3:]], 9)
    assert torch.equal(torch.cat([first, second]), whole) and torch.equal(last, left)
    rows, rest = pack([], 9)
    assert rows.shape == (0, 9) and len(rest) == 0


def test_no_rows_of_nothing():
    with pytest.raises(ValueError, match="at least one token, got 0"):
        pack([grids(1).flatten()], 0)


def test_documents_of_a_row():
    rows = torch.tensor([[BOS, 1, EOS, BOS, 2, 2], [2, EOS, BOS, 3, EOS, BOS], [4, 4, 4, 4, 4, 4]])
    expected = [[1, 1, 1, 2, 2, 2], [0, 0, 1, 1, 1, 2], [0] * 6]
    assert document_ids(rows, BOS).tolist() == expected


# ---------------------------------------------------------------- prompts


def test_a_sequential_prompt_is_left_open():
    assert names(sequential_prompt(grids(1, 2, 3), BOS)) == ["B", 1, 2, 3]


def test_an_analogy():
    pairs = torch.stack([grids(1, 2), grids(3, 4)], dim=1)  # p 2 h w
    assert names(analogy_prompt(pairs, grids(5), BOS)) == ["B", 1, 3, 2, 4, 5]
    assert names(analogy_prompt(pairs[:0], grids(5), BOS)) == ["B", 5]
    triples = torch.stack([grids(1, 2), grids(3, 4), grids(5, 6)], dim=1)
    assert names(analogy_prompt(triples, grids(7), BOS)) == ["B", 1, 3, 5, 2, 4, 6, 7]
    assert names(analogy_prompt(triples, grids(7, 8), BOS)) == ["B", 1, 3, 5, 2, 4, 6, 7, 8]
    for examples, query in ((pairs, grids(5, 6)), (triples, grids(1)[:0]), (pairs, grids(1, 2, 3))):
        with pytest.raises(ValueError, match=r"query: expected at least one image and fewer than"):
            analogy_prompt(examples, query, BOS)


def test_two_tasks_at_once():
    images, turned, segmented, query = grids(1, 2), grids(3, 4), grids(5, 6), grids(7)[0]
    shown = combined_prompt(images, turned, segmented, query, BOS)
    assert names(shown) == ["B", 1, 3, 5, 2, 4, 6, 7]
    shown = combined_prompt(images, turned, segmented, query, BOS, steps=False)
    assert names(shown) == ["B", 1, 5, 2, 6, 7]


def test_prompts_of_a_batch_are_those_of_each():
    pairs = torch.stack([grids(1, 2, 3, 4), grids(5, 6, 7, 8)], dim=1).view(2, 2, 2, 2, 3)
    query = grids(3, 0).view(2, 1, 2, 3)
    got = analogy_prompt(pairs, query, BOS)
    assert [names(row) for row in got] == [["B", 1, 5, 2, 6, 3], ["B", 3, 7, 4, 8, 0]]
    got = combined_prompt(pairs[:, 0], pairs[:, 1], pairs[:, 0], query[:, 0], BOS, steps=False)
    assert got.shape == (2, 1 + 5 * 6)
    assert sequential_prompt(pairs, BOS).shape == (2, 2, 13)
