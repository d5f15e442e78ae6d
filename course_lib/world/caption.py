"""What is said of a scene: a caption from a small grammar, and class labels.

    caption   thing verb [relation "and" relation] [camera]      a small red cube bounces behind a blue sphere
    thing     "a" scale ["shiny"] colour shape                     a large shiny green cone
    relation  ("left of" | "right of" | "behind" | "in front of") "a" colour shape
    camera    "as the camera" ("orbits" | "zooms in" | "zooms out")

Relations hold in the first frame, seen from the camera.  Labels are those of `VOCABULARY`; shape,
colour, scale and material are of the first thing, the one that moves and with which the caption
begins.
"""

import torch
from torch import Tensor

from course_lib.world.motion import view
from course_lib.world.scene import VOCABULARY, Scene, Thing

VERBS = {
    "rest": "rests",
    "bounce": "bounces",
    "spin": "spins",
    "rise": "rises",
    "fall": "falls",
    "grow": "grows",
}


def caption(scene: Scene) -> str:
    """The sentence of a scene."""
    first, *others = scene.things
    shiny = "shiny " if first.material == "shiny" else ""
    words = [f"a {first.scale} {shiny}{first.colour} {first.shape}"]
    match scene.motion.kind:
        case "slide":
            words.append(f"slides {scene.motion.direction}" + ("," if others else ""))
        case "collide":
            words.append(f"hits {_briefly(others.pop(0))}")
        case "orbit":
            words.append(f"orbits {_briefly(others.pop(0))}" if others else "goes in a circle")
        case kind:
            words.append(VERBS[kind])
    if others:
        words.append(
            " and ".join(f"{relation(scene, other)} {_briefly(other)}" for other in others)
        )
    if scene.camera.kind == "orbit":
        words.append("as the camera orbits")
    if scene.camera.kind == "zoom":
        words.append(
            "as the camera zooms in" if scene.camera.zoom > 1 else "as the camera zooms out"
        )
    return " ".join(words)


def relation(scene: Scene, other: Thing) -> str:
    """How the first thing stands to another at time 0: along the larger of the two distances."""
    first, camera = scene.things[0], view(scene.camera, 0.0)
    dx, dy = first.x - other.x, first.y - other.y
    aside = dx * camera.right[0] + dy * camera.right[1]
    beyond = dx * camera.forward[0] + dy * camera.forward[1]
    if abs(aside) >= abs(beyond):
        return "right of" if aside > 0 else "left of"
    return "behind" if beyond > 0 else "in front of"


def _briefly(thing: Thing) -> str:
    return f"{'an' if thing.colour == 'orange' else 'a'} {thing.colour} {thing.shape}"


def labels(scene: Scene) -> dict[str, int]:
    """The class of a scene in every attribute: a place in ``VOCABULARY[attribute]``."""
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
    """The names of label numbers: ``{"shape": 1}`` becomes ``{"shape": "cube"}``."""
    return {attribute: VOCABULARY[attribute][int(number)] for attribute, number in labels.items()}


def stack_labels(scenes: list[Scene]) -> dict[str, Tensor]:
    """The labels of many scenes: one int64 tensor (b) per attribute."""
    rows = [labels(scene) for scene in scenes]
    return {attribute: torch.tensor([row[attribute] for row in rows]) for attribute in VOCABULARY}
