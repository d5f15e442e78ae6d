"""Captions from a small grammar, and class labels.

    caption   thing verb [relation "and" relation] [camera]
                  a small red cube bounces behind a blue sphere
    thing     "a" scale ["shiny"] colour shape
                  a large shiny green cone
    relation  ("left of" | "right of" | "behind" | "in front of") "a" colour shape
    camera    "as the camera" ("orbits" | "zooms in" | "zooms out")

Relations hold in the first frame, as seen from the camera.  Labels are those of `VOCABULARY`;
shape, colour, scale and material describe the first thing, which moves and begins the caption.
"""

import torch
from torch import Tensor

from course_lib.world.motion import view
from course_lib.world.scene import DIRECTIONS, VOCABULARY, Scene, Thing

VERBS = {
    "rest": "rests",
    "bounce": "bounces",
    "spin": "spins",
    "rise": "rises",
    "fall": "falls",
    "grow": "grows",
}

# Every word that a caption may have, and the comma.
CAPTION_WORDS: tuple[str, ...] = (
    *("a", "an", "shiny", *VOCABULARY["scale"], *VOCABULARY["colour"], *VOCABULARY["shape"]),
    *(*VERBS.values(), "slides", *DIRECTIONS, "hits", "orbits", "goes", "in", "circle"),
    *(",", "and", "of", "behind", "front", "as", "the", "camera", "zooms", "out"),
)


def caption(scene: Scene) -> str:
    """Return the sentence that describes a scene."""
    first, *others = scene.things
    shiny = "shiny " if first.material == "shiny" else ""
    words = [f"a {first.scale} {shiny}{first.colour} {first.shape}"]
    match scene.motion.kind:
        case "slide":
            words.append(f"slides {scene.motion.direction}" + ("," if others else ""))
        case "collide":
            words.append(f"hits {_short_name(others.pop(0))}")
        case "orbit":
            words.append(f"orbits {_short_name(others.pop(0))}" if others else "goes in a circle")
        case kind:
            words.append(VERBS[kind])
    if others:
        relations = [f"{relation(scene, other)} {_short_name(other)}" for other in others]
        words.append(" and ".join(relations))
    if scene.camera.kind == "orbit":
        words.append("as the camera orbits")
    if scene.camera.kind == "zoom":
        direction = "in" if scene.camera.zoom > 1 else "out"
        words.append(f"as the camera zooms {direction}")
    return " ".join(words)


def relation(scene: Scene, other: Thing) -> str:
    """Say where the first thing is, seen from the camera, relative to another at time 0.

    The larger of the two distances, sideways and in depth, decides.
    """
    first = scene.things[0]
    camera = view(scene.camera, 0.0)
    dx = first.x - other.x
    dy = first.y - other.y
    aside = dx * camera.right[0] + dy * camera.right[1]
    beyond = dx * camera.forward[0] + dy * camera.forward[1]
    if abs(aside) >= abs(beyond):
        return "right of" if aside > 0 else "left of"
    return "behind" if beyond > 0 else "in front of"


def _short_name(thing: Thing) -> str:
    article = "an" if thing.colour == "orange" else "a"
    return f"{article} {thing.colour} {thing.shape}"


def labels(scene: Scene) -> dict[str, int]:
    """Return the class of a scene in every attribute: an index in ``VOCABULARY[attribute]``."""
    first = scene.things[0]
    names = {
        "shape": first.shape,
        "colour": first.colour,
        "scale": first.scale,
        "material": first.material,
        "motion": scene.motion.kind,
        "camera": scene.camera.kind,
        "count": len(scene.things),
        "floor": scene.floor.pattern,
    }
    return {attribute: VOCABULARY[attribute].index(name) for attribute, name in names.items()}


def label_names(labels: dict[str, int]) -> dict[str, str | int]:
    """Translate label numbers to names: ``{"shape": 1}`` becomes ``{"shape": "cube"}``."""
    return {attribute: VOCABULARY[attribute][int(number)] for attribute, number in labels.items()}


def stack_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """Return the labels of many scenes: one int64 tensor (b) per attribute."""
    rows = [labels(scene) for scene in scenes]
    return {attribute: torch.tensor([row[attribute] for row in rows]) for attribute in VOCABULARY}
