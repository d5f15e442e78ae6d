"""Sentences that somebody types: captions are read as what they say, and all else gets a word."""

import pytest

from course_lib.world import LittleWorld, caption, label_names, labels
from course_lib.world.grammar import read_sentence


@pytest.mark.parametrize("constraints", [{}, {"count": 1, "camera": "still"}])
def test_every_caption_of_the_world_is_read_as_what_it_says(constraints):
    world = LittleWorld("test", length=600, **constraints)
    for scene in map(world.scene, range(600)):
        sentence = read_sentence(caption(scene), several=not constraints)
        truth = labels(scene)
        assert sentence.text == caption(scene)
        assert sentence.labels == {name: truth[name] for name in sentence.labels}
        assert len(sentence.labels) == 7


@pytest.mark.parametrize(
    "text",
    [
        "A small shiny RED cube\n bounces.",
        "a small shiny red cube bounces",
        "  a small shiny red cube bounces!! ",
    ],
)
def test_case_spaces_and_a_full_stop_do_not_matter(text):
    sentence = read_sentence(text)
    assert sentence.text == "a small shiny red cube bounces"
    named = label_names(sentence.labels)
    assert (named["shape"], named["motion"], named["material"]) == ("cube", "bounce", "shiny")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "Type a sentence, such as: a small red cube bounces"),
        ("?!", "Type a sentence"),
        ("an elephant dances", "no 'elephant' in the little world. It has a sphere"),
        ("a smal red cube bounces", "'smal'. Do you mean 'small'?"),
        ("red cube", "begins with a thing"),
        ("a red cube bounces", "begins with a thing"),
        ("a small red cube", "What does the cube do?"),
        ("a small red cone slides", "What does the cone do?"),
        ("a small red cube bounces and spins", "this is not: and spins"),
        ("a small red cube bounces behind", "this is not: behind"),
        ("a small red cube bounces as the camera orbits left", "this is not: left"),
    ],
)
def test_what_is_no_sentence_of_the_world_gets_a_word_about_it(text, said):
    with pytest.raises(ValueError) as refused:
        read_sentence(text)
    assert said in str(refused.value)


@pytest.mark.parametrize(
    "text",
    [
        "a small red cube bounces behind a blue cone",
        "a small red cube hits a blue cone",
        "a small red cube bounces as the camera orbits",
    ],
)
def test_a_model_of_one_thing_says_so(text):
    assert read_sentence(text).labels["motion"] in (2, 8)
    with pytest.raises(ValueError, match="one thing before a still camera"):
        read_sentence(text, several=False)
