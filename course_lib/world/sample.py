"""`sample_scene`: a scene from a seed.

Everything random in the little world is drawn here, with the one method of Python's generator that
is promised to stay the same in every version, ``random.Random(number).random()``.
"""

import hashlib
import math
from collections.abc import Collection, Iterable
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

# A collision takes a partner; an orbit takes room.
COUNTS_OF = {"collide": (2, 3), "orbit": (1, 2)}
# By count: lanes side by side, how far a thing may be off its lane, and how far back or forth.
LANES = {1: ((0.0,), 0.3, 0.3), 2: ((-0.7, 0.7), 0.45, 1.2), 3: ((-1.05, 0.0, 1.05), 0.35, 1.2)}


def sample_scene(seed: int, **constraints: str | int | Collection) -> Scene:
    """Draw the scene of a seed; the same seed and constraints give the same scene on any machine.

    A constraint names an attribute of `VOCABULARY` and one or several values to draw from:
    ``sample_scene(7, shape="cube", colour=("red", "blue"), count=2)``.  Shape, colour, scale and
    material are those of the first thing, the one that moves.  Raises ValueError, naming the
    allowed values, for an unknown attribute, an unknown value, and a motion that this count does
    not allow.
    """
    if not isinstance(seed, int) or seed < 0:
        raise ValueError(f"seed: expected an int of at least 0, got {seed!r}")
    allowed = _allowed_values(constraints)
    # Random gives some pairs of integers, such as 2 and 2**32 + 2, the same stream; hashes differ.
    rng = Random(int.from_bytes(hashlib.sha256(str(seed).encode()).digest(), "big"))
    count = _choose(rng, allowed["count"])
    kinds = [kind for kind in allowed["motion"] if count in COUNTS_OF.get(kind, COUNTS)]
    kind = _choose(rng, kinds)
    camera = _sample_camera(rng, _choose(rng, allowed["camera"]), count)
    floor = Floor(
        pattern=_choose(rng, allowed["floor"]),
        angle=_uniform(rng, 0.3, 1.2),
        tiles=_uniform(rng, 0.65, 0.9),
        offset=(_uniform(rng, 0.0, 1.0), _uniform(rng, 0.0, 1.0)),
        colours=_choose(rng, FLOOR_COLOURS),
    )
    backdrop = _choose(rng, BACKDROPS)
    sun = (_choose(rng, (-1, 1)) * _uniform(rng, 2.0, 2.6), _uniform(rng, 0.70, 0.88))
    looks = _sample_looks(rng, allowed, count)
    things, motion = _sample_places(rng, looks, kind)
    return Scene(things, motion, camera, floor, backdrop, sun)


def _allowed_values(constraints: dict) -> dict[str, tuple]:
    """Check the constraints and return the values that every attribute may take."""
    allowed = dict(VOCABULARY)
    for name, value in constraints.items():
        if name not in VOCABULARY:
            names = ", ".join(VOCABULARY)
            raise ValueError(f"unknown constraint: expected one of {names}, got {name!r}")
        is_several = isinstance(value, Iterable) and not isinstance(value, str)
        values = tuple(value) if is_several else (value,)
        if not values or any(each not in VOCABULARY[name] for each in values):
            raise ValueError(
                f"{name}: expected one or several of {VOCABULARY[name]}, got {value!r}"
            )
        allowed[name] = values

    possible = {count for kind in allowed["motion"] for count in COUNTS_OF.get(kind, COUNTS)}
    allowed["count"] = tuple(count for count in allowed["count"] if count in possible)
    if not allowed["count"]:
        raise ValueError(
            f"count: expected one of {sorted(possible)} with motion {allowed['motion']},"
            f" got {constraints['count']!r}"
        )
    return allowed


def _choose(rng: Random, values: Collection):
    return tuple(values)[int(rng.random() * len(values))]


def _uniform(rng: Random, low: float, high: float) -> float:
    return round(low + (high - low) * rng.random(), 6)


def _sample_camera(rng: Random, kind: str, count: int) -> Camera:
    """Draw a camera, closer to a single thing; it does not depend on the motion of the things."""
    sign = _choose(rng, (-1, 1))
    return Camera(
        kind=kind,
        elevation=_uniform(rng, 0.32, 0.46),
        distance=_uniform(rng, 4.6, 5.0) if count == 1 else _uniform(rng, 6.6, 7.0),
        sweep=sign * _uniform(rng, 1.0, 1.8) if kind == "orbit" else 0.0,
        zoom=(1.4 if sign > 0 else 1 / 1.4) if kind == "zoom" else 1.0,
    )


def _sample_looks(rng: Random, allowed: dict, count: int) -> list[dict]:
    """Draw shape, colour, scale and material of each thing; no two things share a colour."""
    looks: list[dict] = []
    for index in range(count):
        choice = allowed if index == 0 else VOCABULARY
        look = {
            name: _choose(rng, choice[name]) for name in ("shape", "colour", "scale", "material")
        }
        taken = {other["colour"] for other in looks}
        free = [colour for colour in choice["colour"] if colour not in taken]
        looks.append(look | {"colour": _choose(rng, free)})
    return looks


def _sample_places(rng: Random, looks: list[dict], kind: str) -> tuple[tuple[Thing, ...], Motion]:
    """Draw places and motions until nothing overlaps, hides another thing or leaves the stage."""
    lanes, width, depth = LANES[len(looks)]
    while True:
        first = int(rng.random() * len(lanes))
        things = []
        for look, lane in zip(looks, lanes[first:] + lanes[:first], strict=True):
            x = round(lane + _uniform(rng, -width, width), 6)
            y = _uniform(rng, -depth, depth)
            yaw = _uniform(rng, 0.0, math.tau)
            things.append(Thing(**look, x=x, y=y, yaw=yaw))
        things, motion = _sample_motion(rng, tuple(things), kind)
        if is_clear(things, motion):
            return things, motion


def _sample_motion(
    rng: Random, things: tuple[Thing, ...], kind: str
) -> tuple[tuple[Thing, ...], Motion]:
    """Draw the motion; return it after the things, the first one moved to where it starts."""
    first, *rest = things
    sign = _choose(rng, (-1, 1))
    match kind:
        case "slide":
            direction = _choose(rng, tuple(DIRECTIONS))
            path = _uniform(rng, 0.9, 1.2)
            dx, dy = DIRECTIONS[direction]
            x = round(first.x - dx * path / 2, 6)
            y = round(first.y - dy * path / 2, 6)
            first = replace(first, x=x, y=y)
            motion = Motion(kind, direction, path)
        case "bounce":
            motion = Motion(kind, amount=_uniform(rng, 0.6, 0.9), phase=_uniform(rng, 0.0, 1.0))
        case "spin":
            motion = Motion(kind, amount=sign * _uniform(rng, 4.5, 7.0))
        case "orbit":
            rest = [replace(thing, x=thing.x / 4, y=thing.y / 4) for thing in rest]
            x, y = orbit_centre((first, *rest))
            if rest:
                radius = _uniform(rng, 0.08, 0.15) + first.reach + rest[0].reach
            else:
                radius = _uniform(rng, 0.45, 0.6)
            angle = _uniform(rng, 0.0, math.tau)
            x += radius * math.cos(angle)
            y += radius * math.sin(angle)
            first = replace(first, x=round(x, 6), y=round(y, 6))
            motion = Motion(kind, amount=sign * _uniform(rng, 4.0, 6.0))
        case "rise" | "fall":
            motion = Motion(kind, amount=_uniform(rng, 0.8, 1.0))
        case "collide":
            # The things face each other, so that a cube is hit flat on its face and nothing spins.
            yaw = round(math.atan2(rest[0].y - first.y, rest[0].x - first.x), 6)
            first = replace(first, yaw=yaw)
            rest[0] = replace(rest[0], yaw=yaw)
            motion = Motion(kind, amount=_uniform(rng, 0.7, 1.1))
        case _:
            motion = Motion(kind)
    return (first, *rest), motion
