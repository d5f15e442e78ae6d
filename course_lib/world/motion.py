"""Where everything is at a time: the motions, the contacts and the camera's path.

A scene lasts `DURATION` seconds however many frames are drawn of it.  Sines and cosines come from
Python's math, whose last digit may differ between machines; every result is rounded to a millionth,
so that all machines draw the same picture.
"""

import math
from dataclasses import dataclass
from itertools import combinations

from course_lib.world.scene import DIRECTIONS, SCALES, Camera, Motion, Scene, Thing

DURATION = 2.0  # seconds
BOUNCE = 0.8  # seconds from contact to contact
LANDING = 1.4  # seconds until a falling thing lands
FRICTION = 1.6  # metres per second squared, after a collision
RESTITUTION = 0.9  # of the speed, kept in a collision
LOOK_AT = 0.62  # metres above the floor: the camera's target
FOCAL = 1.6  # focal length over the shorter side of the picture


@dataclass(frozen=True)
class Pose:
    """Where a thing is: its foot (x, y, z), its turn about the vertical, its half width."""

    x: float
    y: float
    z: float
    yaw: float
    scale: float


@dataclass(frozen=True)
class View:
    """The camera: where it is, its three unit axes, and its focal length in units of the shorter
    side.
    """

    eye: tuple[float, float, float]
    right: tuple[float, float, float]
    up: tuple[float, float, float]
    forward: tuple[float, float, float]
    focal: float


@dataclass(frozen=True)
class Contact:
    """At `time` seconds the things with these indices touched; one index is a contact with the
    floor.
    """

    time: float
    things: tuple[int, ...]


def poses(scene: Scene, time: float) -> list[Pose]:
    """The pose of every thing at a time in seconds."""
    return _poses(scene.things, scene.motion, time)


def contacts(scene: Scene) -> list[Contact]:
    """Every contact in the scene's `DURATION`, in order."""
    motion = scene.motion
    if motion.kind == "bounce":
        first = (1 - motion.phase) * BOUNCE
        return [
            Contact(round(first + n * BOUNCE, 6), (0,))
            for n in range(3)
            if first + n * BOUNCE < DURATION
        ]
    if motion.kind == "fall":
        return [Contact(LANDING, (0,))]
    if motion.kind == "collide":
        return [Contact(motion.amount, (0, 1))]
    return []


def view(camera: Camera, time: float) -> View:
    """Where the camera looks from: at a point above the middle of the stage, never rolled."""
    ease = smoothstep(time / DURATION)
    azimuth = camera.azimuth + camera.sweep * time / DURATION
    ca, sa = math.cos(azimuth), math.sin(azimuth)
    ce, se = math.cos(camera.elevation), math.sin(camera.elevation)
    forward = (-sa * ce, ca * ce, -se)
    eye = (sa * ce * camera.distance, -ca * ce * camera.distance, LOOK_AT + se * camera.distance)
    focal = FOCAL / math.sqrt(camera.zoom) * (1 + (camera.zoom - 1) * ease)
    return View(
        *map(_rounded, (eye, (ca, sa, 0.0), (-sa * se, ca * se, ce), forward)), round(focal, 6)
    )


def smoothstep(x: float) -> float:
    """0 to 1 with a slow start and a slow end."""
    return x * x * (3 - 2 * x)


def orbit_centre(things: tuple[Thing, ...]) -> tuple[float, float]:
    """What an orbiting thing goes around: the second thing, or the middle of the stage."""
    return (things[1].x, things[1].y) if len(things) > 1 else (0.0, 0.0)


def is_clear(things: tuple[Thing, ...], motion: Motion) -> bool:
    """Whether nothing overlaps or leaves the stage at any time, and nothing hides another at time
    0.
    """
    for a, b in combinations(things, 2):
        if abs(a.x - b.x) < 0.5 * (a.reach + b.reach):
            return False
    if motion.kind == "collide" and not 0.3 < _travel(things) < 1.5:
        return False
    # the others keep their place
    steps = 9 if motion.kind in ("slide", "orbit", "grow", "collide") else 1
    return all(_is_clear_at(things, motion, DURATION * step / 8) for step in range(steps))


def _is_clear_at(things: tuple[Thing, ...], motion: Motion, time: float) -> bool:
    to_camera, half_depth = (4.4, 1.0) if len(things) == 1 else (6.2, 1.8)
    margin = 0.0 if motion.kind == "orbit" else 1.0  # a large orbit may touch the frame
    now = _poses(things, motion, time)
    if any(
        abs(p.x) + margin * p.scale > 0.32 * (to_camera + p.y) or abs(p.y) > half_depth for p in now
    ):
        return False
    for (i, a), (j, b) in combinations(enumerate(now), 2):
        gap = (
            0.0 if motion.kind == "collide" and j == 1 else things[i].reach + things[j].reach + 0.06
        )
        if (a.x - b.x) ** 2 + (a.y - b.y) ** 2 < gap * gap:
            return False
    return True


def _poses(things: tuple[Thing, ...], motion: Motion, time: float) -> list[Pose]:
    """The things at rest, with the one or two that move put elsewhere."""
    now = [Pose(thing.x, thing.y, 0.0, thing.yaw, SCALES[thing.scale]) for thing in things]
    part, first = time / DURATION, now[0]
    x, y, z, yaw, scale = first.x, first.y, 0.0, first.yaw, first.scale
    match motion.kind:
        case "slide":
            dx, dy = DIRECTIONS[motion.direction]
            x, y = x + dx * motion.amount * part, y + dy * motion.amount * part
        case "bounce":
            arc = (motion.phase + time / BOUNCE) % 1.0
            z = 4 * motion.amount * arc * (1 - arc)
        case "spin":
            yaw += motion.amount * part
        case "orbit":
            (cx, cy), turn = orbit_centre(things), motion.amount * part
            c, s = math.cos(turn), math.sin(turn)
            x, y, yaw = (
                cx + c * (x - cx) - s * (y - cy),
                cy + s * (x - cx) + c * (y - cy),
                yaw + turn,
            )
        case "rise":
            z = motion.amount * smoothstep(part)
        case "fall":
            z = motion.amount * max(0.0, 1 - (time / LANDING) ** 2)
        case "grow":
            scale *= 0.4 + 0.6 * part
        case "collide":
            here, there = _collision(things, motion.amount, time)
            away = math.cos(first.yaw), math.sin(first.yaw)
            x, y = x + here * away[0], y + here * away[1]
            second = now[1]
            moved = second.x + there * away[0], second.y + there * away[1]
            now[1] = Pose(*_rounded(moved), 0.0, second.yaw, second.scale)
    now[0] = Pose(*_rounded((x, y, z, yaw, scale)))
    return now


def _travel(things: tuple[Thing, ...]) -> float:
    """How far the first thing goes along the line of centres until it touches the second."""
    first, second = things[:2]
    distance = math.sqrt((first.x - second.x) ** 2 + (first.y - second.y) ** 2)
    return distance - _touching_distance(first, second)


def _touching_distance(first: Thing, second: Thing) -> float:
    """The distance of the axes at which two things touch, looking at 200 heights."""
    a, b = SCALES[first.scale], SCALES[second.scale]
    heights = [2 * min(a, b) * step / 200 for step in range(201)]
    return max(
        a * _half_width(first.shape, z / a) + b * _half_width(second.shape, z / b) for z in heights
    )


def _half_width(shape: str, z: float) -> float:
    """Half the width of a unit solid at height z, across a face for a cube."""
    match shape:
        case "sphere":
            return math.sqrt(max(0.0, z * (2 - z)))
        case "cone":
            return max(0.0, 1 - z / 2)
        case "cylinder":
            return 0.8 if z <= 1.8 else 0.0
        case _:
            return 0.82 if z <= 1.64 else 0.0


def _collision(things: tuple[Thing, ...], hit: float, time: float) -> tuple[float, float]:
    """How far the first and the second thing have moved along the line of centres.

    The first arrives with a steady speed.  Both leave with the speeds that conserve momentum (mass
    goes with the cube of the size), and slow down by friction.
    """
    travel = _travel(things)
    if time <= hit:
        return travel * time / hit, 0.0
    speed = travel / hit
    m, n = (SCALES[thing.scale] ** 3 for thing in things[:2])
    here = _coast(speed * (m - RESTITUTION * n) / (m + n), time - hit)
    there = _coast(speed * (m + RESTITUTION * m) / (m + n), time - hit)
    return travel + here, there


def _coast(speed: float, time: float) -> float:
    """The way made in a time when friction slows a thing down to a stop; the sign is the speed's."""
    time = min(time, abs(speed) / FRICTION)
    return speed * time - math.copysign(FRICTION, speed) * time * time / 2


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
