"""`sample_scene`: a scene from a seed.

Everything random in the little world is drawn here, from the one method of Python's generator that
is promised to stay the same in every version, ``random.Random(number).random()``.
"""

import hashlib
import math
from collections.abc import Collection
from dataclasses import replace
from random import Random

from course_lib.world.motion import is_clear, orbit_centre
from course_lib.world.scene import (
    BACKDROPS,
    COUNTS,
    DIRECTIONS,
    FLOOR_COLOURS,
    VOCABULARY,
    Camera,
    Floor,
    Motion,
    Scene,
    Thing,
)

COUNTS_OF = {"collide": (2, 3), "orbit": (1, 2)}  # a collision needs a partner, an orbit needs room
# By count: lanes side by side, how far a thing may stand off its lane, and how far back or forth.
LANES = {1: ((0.0,), 0.3, 0.3), 2: ((-0.7, 0.7), 0.45, 1.2), 3: ((-1.05, 0.0, 1.05), 0.35, 1.2)}


def sample_scene(seed: int, **constraints: str | int | Collection) -> Scene:
    """Draw the scene of a seed; the same seed and constraints give the same scene on any machine.

    A constraint names an attribute of `VOCABULARY` and one value or several to draw from:
    ``sample_scene(7, shape="cube", colour=("red", "blue"), count=2)``.  Shape, colour, scale and
    material are those of the first thing, the one that moves.  Raises ValueError, naming the
    allowed values, for an unknown attribute, an unknown value, and a motion that this count does
    not allow.
    """
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an int of at least 0, got {seed!r}")
    allowed = _allowed(constraints)
    # Hashed first, because Random itself gives some pairs of integers, as 2 and 2**32 + 2, the same
    # stream.
    rng = Random(int.from_bytes(hashlib.sha256(str(seed).encode()).digest(), "big"))
    count = _pick(rng, allowed["count"])
    kinds = [kind for kind in allowed["motion"] if count in COUNTS_OF.get(kind, COUNTS)]
    kind, camera = _pick(rng, kinds), _sample_camera(rng, _pick(rng, allowed["camera"]), count)
    floor = Floor(
        pattern=_pick(rng, allowed["floor"]),
        angle=_between(rng, 0.3, 1.2),
        tiles=_between(rng, 0.65, 0.9),
        offset=(_between(rng, 0.0, 1.0), _between(rng, 0.0, 1.0)),
        colours=_pick(rng, FLOOR_COLOURS),
    )
    backdrop = _pick(rng, BACKDROPS)
    sun = (_pick(rng, (-1, 1)) * _between(rng, 2.0, 2.6), _between(rng, 0.70, 0.88))
    looks = _sample_looks(rng, allowed, count)
    things, motion = _sample_places(rng, looks, kind)
    return Scene(things, motion, camera, floor, backdrop, sun)


def _allowed(constraints: dict) -> dict[str, tuple]:
    """The values every attribute may take, after checking the constraints."""
    allowed = dict(VOCABULARY)
    for name, value in constraints.items():
        if name not in VOCABULARY:
            raise ValueError(
                f"unknown constraint {name!r}: expected one of {', '.join(VOCABULARY)}"
            )
        values = (value,) if isinstance(value, str | int) else tuple(value)
        if not values or any(each not in VOCABULARY[name] for each in values):
            raise ValueError(
                f"{name}: expected one or several of {VOCABULARY[name]}, got {value!r}"
            )
        allowed[name] = values
    possible = {count for kind in allowed["motion"] for count in COUNTS_OF.get(kind, COUNTS)}
    allowed["count"] = tuple(count for count in allowed["count"] if count in possible)
    if not allowed["count"]:
        allows = f"motion {allowed['motion']} allows {sorted(possible)}"
        raise ValueError(f"count: {allows}, got {constraints['count']!r}")
    return allowed


def _pick(rng: Random, values: Collection):
    return tuple(values)[int(rng.random() * len(values))]


def _between(rng: Random, low: float, high: float) -> float:
    return round(low + (high - low) * rng.random(), 6)


def _sample_camera(rng: Random, kind: str, count: int) -> Camera:
    """One thing is looked at from closer by; the motion of the things has no say in it."""
    sign = _pick(rng, (-1, 1))
    return Camera(
        kind=kind,
        elevation=_between(rng, 0.32, 0.46),
        distance=_between(rng, 4.6, 5.0) if count == 1 else _between(rng, 6.6, 7.0),
        sweep=sign * _between(rng, 1.0, 1.8) if kind == "orbit" else 0.0,
        zoom=(1.4 if sign > 0 else 1 / 1.4) if kind == "zoom" else 1.0,
    )


def _sample_looks(rng: Random, allowed: dict, count: int) -> list[dict]:
    """Shape, colour, scale and material of each thing; no two things share a colour."""
    looks: list[dict] = []
    for index in range(count):
        choice = allowed if index == 0 else VOCABULARY
        look = {name: _pick(rng, choice[name]) for name in ("shape", "colour", "scale", "material")}
        free = [
            colour
            for colour in choice["colour"]
            if all(colour != other["colour"] for other in looks)
        ]
        looks.append(look | {"colour": _pick(rng, free)})
    return looks


def _sample_places(rng: Random, looks: list[dict], kind: str) -> tuple[tuple[Thing, ...], Motion]:
    """Draw places and motions until nothing overlaps, hides another thing or leaves the stage."""
    lanes, width, depth = LANES[len(looks)]
    while True:
        first = int(rng.random() * len(lanes))
        things = tuple(
            Thing(
                **look,
                x=round(lane + _between(rng, -width, width), 6),
                y=_between(rng, -depth, depth),
                yaw=_between(rng, 0.0, math.tau),
            )
            for look, lane in zip(looks, lanes[first:] + lanes[:first], strict=True)
        )
        things, motion = _sample_motion(rng, things, kind)
        if is_clear(things, motion):
            return things, motion


def _sample_motion(
    rng: Random, things: tuple[Thing, ...], kind: str
) -> tuple[tuple[Thing, ...], Motion]:
    """The motion, and the things with the first one moved to where the motion starts."""
    first, *rest = things
    sign = _pick(rng, (-1, 1))
    match kind:
        case "slide":
            direction, path = _pick(rng, tuple(DIRECTIONS)), _between(rng, 0.9, 1.2)
            dx, dy = DIRECTIONS[direction]
            first = replace(
                first, x=round(first.x - dx * path / 2, 6), y=round(first.y - dy * path / 2, 6)
            )
            motion = Motion(kind, direction, path)
        case "bounce":
            motion = Motion(kind, amount=_between(rng, 0.6, 0.9), phase=_between(rng, 0.0, 1.0))
        case "spin":
            motion = Motion(kind, amount=sign * _between(rng, 4.5, 7.0))
        case "orbit":
            rest = [replace(thing, x=thing.x / 4, y=thing.y / 4) for thing in rest]
            x, y = orbit_centre((first, *rest))
            radius = (
                _between(rng, 0.45, 0.6)
                if not rest
                else _between(rng, 0.08, 0.15) + first.reach + rest[0].reach
            )
            angle = _between(rng, 0.0, math.tau)
            x, y = x + radius * math.cos(angle), y + radius * math.sin(angle)
            first = replace(first, x=round(x, 6), y=round(y, 6))
            motion = Motion(kind, amount=sign * _between(rng, 4.0, 6.0))
        case "rise" | "fall":
            motion = Motion(kind, amount=_between(rng, 0.8, 1.0))
        case "collide":
            # Turned towards each other, a cube is hit flat on its face and nothing would spin.
            yaw = round(math.atan2(rest[0].y - first.y, rest[0].x - first.x), 6)
            first, rest[0] = replace(first, yaw=yaw), replace(rest[0], yaw=yaw)
            motion = Motion(kind, amount=_between(rng, 0.7, 1.1))
        case _:
            motion = Motion(kind)
    return (first, *rest), motion
