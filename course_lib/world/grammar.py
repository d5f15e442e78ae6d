"""Sentences that somebody types, read by the grammar of captions (`course_lib.world.caption`)."""

import difflib
import re
from typing import NamedTuple

from course_lib.world.caption import CAPTION_WORDS, VERBS
from course_lib.world.scene import COLOURS, DIRECTIONS, SCALES, SHAPES, VOCABULARY

EXAMPLE = "a small red cube bounces"


class Sentence(NamedTuple):
    """A caption in the world's spelling, and the numbers of the labels that it tells."""

    text: str
    labels: dict[str, int]


def _one_of(words) -> str:
    return "(" + "|".join(words) + ")"


def _listed(words) -> str:
    *first, last = words
    return f"{', '.join(first)} or {last}"


_OTHER = rf"an? {_one_of(COLOURS)} {_one_of(SHAPES)}"
_THING = rf"an? {_one_of(SCALES)} (shiny )?{_one_of(COLOURS)} {_one_of(SHAPES)}"
_DEEDS = {  # pattern: motion
    **{verb: kind for kind, verb in VERBS.items()},
    f"slides {_one_of(DIRECTIONS)}": "slide",
    "goes in a circle": "orbit",
    f"orbits {_OTHER}": "orbit",
    f"hits {_OTHER}": "collide",
}
_RELATION = rf"(left of|right of|behind|in front of) {_OTHER}"
_CAMERAS = {"as the camera orbits": "orbit", "as the camera zooms (in|out)": "zoom"}
_SINGLE = [*VERBS.values(), "goes in a circle", f"slides {_listed(DIRECTIONS)}"]


def read_sentence(text: str, several: bool = True) -> Sentence:
    """Read a sentence of the grammar of captions; case, spaces and a last full stop do not matter.

    several: whether there may be other things, and a camera that moves.  Raises ValueError, which
    tells whoever typed it what the world has instead, or what is missing where.
    """
    words = re.findall(r"[^\W_]+|,", text.lower())
    if not words:
        raise ValueError(f"Type a sentence, such as: {EXAMPLE}")
    unknown = [word for word in words if word not in CAPTION_WORDS]
    if unknown:
        raise ValueError(_about_unknown(unknown[0]))
    sentence = " ".join(words).replace(" ,", ",")

    thing = _match(_THING, sentence)
    if thing is None:
        raise ValueError(
            "A sentence begins with a thing: a, its size (small or large), shiny if it is, its"
            f" colour, its shape; such as: {EXAMPLE}"
        )
    scale, shiny, colour, shape = thing.groups()
    rest = sentence[thing.end() :].strip()
    found = [(kind, m) for deed, kind in _DEEDS.items() if (m := _match(deed, rest))]
    if not found:
        raise ValueError(f"What does the {shape} do? It {_listed(_SINGLE)}.")
    motion, deed = found[0]
    rest = rest[deed.end() :].strip(" ,")
    others = int(re.match("orbits|hits", deed[0]) is not None)

    while (relation := _match(_RELATION, rest)) and others < 2:
        others += 1
        rest = re.sub("^and ", "", rest[relation.end() :].strip())
    cameras = [(kind, m) for said, kind in _CAMERAS.items() if (m := _match(said, rest))]
    camera = cameras[0][0] if cameras else "still"
    rest = rest[cameras[0][1].end() :].strip() if cameras else rest
    if not several and (others or camera != "still"):
        raise ValueError(
            "This model films one thing before a still camera: the sentence ends with what it does."
        )
    if rest:
        raise ValueError(f"This is understood up to here; this is not: {rest}")
    names = {"shape": shape, "colour": colour, "scale": scale, "motion": motion, "camera": camera}
    names["material"] = "shiny" if shiny else "matte"
    labels = {name: VOCABULARY[name].index(value) for name, value in names.items()}
    return Sentence(sentence, {**labels, "count": others})


def _match(pattern: str, text: str) -> re.Match | None:
    """Match whole words at the start of a text."""
    return re.match(rf"{pattern}(?![\w])", text)


def _about_unknown(word: str) -> str:
    near = difflib.get_close_matches(word, CAPTION_WORDS, n=1)
    if near:
        return f"The little world does not know {word!r}. Do you mean {near[0]!r}?"
    return (
        f"There is no {word!r} in the little world. It has a {_listed(SHAPES)}, small or large, in"
        f" {_listed(COLOURS)}, which {_listed(_SINGLE)}."
    )
