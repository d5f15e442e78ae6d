"""Where everything is at a time: the motions, the contacts and the camera's path.

A scene lasts `DURATION_SECONDS` however many frames are rendered of it.  Sines and cosines come
from Python's math, whose last digit may differ between machines; every result is rounded to a
millionth, so that all machines render the same image.
"""

import functools
import math
from dataclasses import dataclass, replace
from itertools import combinations

from course_lib.world.scene import DIRECTIONS, SCALES, Camera, Motion, Scene, Thing

DURATION_SECONDS = 2.0
BOUNCE_SECONDS = 0.8  # from contact to contact
LANDING_SECONDS = 1.4  # until a falling thing lands
FRICTION = 1.6  # deceleration after a collision, in metres per second squared
RESTITUTION = 0.9  # the share of the relative speed that a collision keeps
TARGET_HEIGHT = 0.62  # metres above the floor: the camera looks at this point
FOCAL_LENGTH = 1.6  # in units of the shorter side of the image


@dataclass(frozen=True)
class Pose:
    """Where a thing is: its foot (x, y, z), its turn about the vertical axis, its half width."""

    x: float
    y: float
    z: float
    yaw: float
    scale: float


@dataclass(frozen=True)
class View:
    """A camera at one time: its position, its three unit axes and its focal length.

    The focal length is in units of the shorter side of the image.
    """

    eye: tuple[float, float, float]
    right: tuple[float, float, float]
    up: tuple[float, float, float]
    forward: tuple[float, float, float]
    focal: float


@dataclass(frozen=True)
class Contact:
    """A touch at `time` seconds of the things with these indices; one thing touches the floor."""

    time: float
    things: tuple[int, ...]


def poses(scene: Scene, time: float) -> list[Pose]:
    """Return the pose of every thing at a time in seconds."""
    return _poses(scene.things, scene.motion, time)


def contacts(scene: Scene) -> list[Contact]:
    """Return every contact of the scene, in order of time."""
    motion = scene.motion
    if motion.kind == "bounce":
        first = (1 - motion.phase) * BOUNCE_SECONDS
        times = [first + n * BOUNCE_SECONDS for n in range(3)]
        return [Contact(round(time, 6), (0,)) for time in times if time < DURATION_SECONDS]
    if motion.kind == "fall":
        return [Contact(LANDING_SECONDS, (0,))]
    if motion.kind == "collide":
        return [Contact(motion.amount, (0, 1))]
    return []


def view(camera: Camera, time: float) -> View:
    """Return the camera at a time: never rolled, looking at a point above the stage's middle."""
    ease = smoothstep(time / DURATION_SECONDS)
    azimuth = camera.azimuth + camera.sweep * time / DURATION_SECONDS
    ca = math.cos(azimuth)
    sa = math.sin(azimuth)
    ce = math.cos(camera.elevation)
    se = math.sin(camera.elevation)

    height = TARGET_HEIGHT + se * camera.distance
    focal = FOCAL_LENGTH / math.sqrt(camera.zoom) * (1 + (camera.zoom - 1) * ease)
    return View(
        eye=_rounded((sa * ce * camera.distance, -ca * ce * camera.distance, height)),
        right=_rounded((ca, sa, 0.0)),
        up=_rounded((-sa * se, ca * se, ce)),
        forward=_rounded((-sa * ce, ca * ce, -se)),
        focal=round(focal, 6),
    )


def full_turn(scene: Scene, frames: int) -> Scene:
    """Return the scene with a camera that goes all around it: `frames` views, evenly spaced."""
    sweep = math.tau * (1 - 1 / frames)
    camera = replace(scene.camera, kind="orbit", azimuth=0.0, sweep=sweep, zoom=1.0)
    return replace(scene, camera=camera)


def smoothstep(x: float) -> float:
    """Go from 0 to 1 with a slow start and a slow end."""
    return x * x * (3 - 2 * x)


def orbit_centre(things: tuple[Thing, ...]) -> tuple[float, float]:
    """Return what an orbiting thing goes around: the second thing, or the middle of the stage."""
    return (things[1].x, things[1].y) if len(things) > 1 else (0.0, 0.0)


def is_clear(things: tuple[Thing, ...], motion: Motion) -> bool:
    """Tell whether nothing overlaps or leaves the stage, and nothing hides another at time 0."""
    for a, b in combinations(things, 2):
        if abs(a.x - b.x) < 0.5 * (a.reach + b.reach):
            return False
    if motion.kind == "collide" and not 0.3 < _distance_to_contact(things) < 1.5:
        return False
    # The other motions never leave their place on the floor, so one time is enough.
    steps = 9 if motion.kind in ("slide", "orbit", "grow", "collide") else 1
    return all(_is_clear_at(things, motion, DURATION_SECONDS * step / 8) for step in range(steps))


def _is_clear_at(things: tuple[Thing, ...], motion: Motion, time: float) -> bool:
    is_single = len(things) == 1
    to_camera = 4.4 if is_single else 6.2
    half_depth = 1.0 if is_single else 1.8
    margin = 0.0 if motion.kind == "orbit" else 1.0  # A large orbit may touch the frame.
    now = _poses(things, motion, time)
    for pose in now:
        outside = abs(pose.x) + margin * pose.scale > 0.32 * (to_camera + pose.y)
        if outside or abs(pose.y) > half_depth:
            return False

    for (i, a), (j, b) in combinations(enumerate(now), 2):
        may_touch = motion.kind == "collide" and j == 1
        gap = 0.0 if may_touch else things[i].reach + things[j].reach + 0.06
        if (a.x - b.x) ** 2 + (a.y - b.y) ** 2 < gap * gap:
            return False
    return True


def _poses(things: tuple[Thing, ...], motion: Motion, time: float) -> list[Pose]:
    """Return the poses at rest, with the one or two things that move put where they are."""
    now = [Pose(thing.x, thing.y, 0.0, thing.yaw, SCALES[thing.scale]) for thing in things]
    first = now[0]
    part = time / DURATION_SECONDS
    x = first.x
    y = first.y
    z = 0.0
    yaw = first.yaw
    scale = first.scale
    match motion.kind:
        case "slide":
            dx, dy = DIRECTIONS[motion.direction]
            x += dx * motion.amount * part
            y += dy * motion.amount * part
        case "bounce":
            arc = (motion.phase + time / BOUNCE_SECONDS) % 1.0
            z = 4 * motion.amount * arc * (1 - arc)
        case "spin":
            yaw += motion.amount * part
        case "orbit":
            cx, cy = orbit_centre(things)
            turn = motion.amount * part
            c = math.cos(turn)
            s = math.sin(turn)
            x, y = cx + c * (x - cx) - s * (y - cy), cy + s * (x - cx) + c * (y - cy)
            yaw += turn
        case "rise":
            z = motion.amount * smoothstep(part)
        case "fall":
            z = motion.amount * max(0.0, 1 - (time / LANDING_SECONDS) ** 2)
        case "grow":
            scale *= 0.4 + 0.6 * part
        case "collide":
            # Both yaws point from the first thing to the second: see `sample_scene`.
            c = math.cos(first.yaw)
            s = math.sin(first.yaw)
            first_moved, second_moved = _collision(things, motion.amount, time)
            x += first_moved * c
            y += first_moved * s
            second = now[1]
            place = _rounded((second.x + second_moved * c, second.y + second_moved * s))
            now[1] = Pose(*place, 0.0, second.yaw, second.scale)
    now[0] = Pose(*_rounded((x, y, z, yaw, scale)))
    return now


def _distance_to_contact(things: tuple[Thing, ...]) -> float:
    """Return how far the first thing goes along the line of centres until it touches the second."""
    first, second = things[:2]
    distance = math.sqrt((first.x - second.x) ** 2 + (first.y - second.y) ** 2)
    return distance - _touching_distance(
        first.shape, SCALES[first.scale], second.shape, SCALES[second.scale]
    )


@functools.cache
def _touching_distance(first: str, a: float, second: str, b: float) -> float:
    """Return the distance between the axes of two solids that touch, in 200 steps of height.

    The solids are given by shape and scale.
    """
    widths = []
    for step in range(201):
        z = 2 * min(a, b) * step / 200
        widths.append(a * _half_width(first, z / a) + b * _half_width(second, z / b))
    return max(widths)


def _half_width(shape: str, z: float) -> float:
    """Return half the width of a unit solid at height z, across a face for a cube."""
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
    """Return how far the first and the second thing have moved along the line of centres.

    The first arrives at a steady speed.  Both leave with the speeds that conserve momentum (mass
    grows with the cube of the size), and friction slows them down.
    """
    travel = _distance_to_contact(things)
    if time <= hit:
        return travel * time / hit, 0.0
    speed = travel / hit
    m, n = (SCALES[thing.scale] ** 3 for thing in things[:2])
    first_moved = _coast(speed * (m - RESTITUTION * n) / (m + n), time - hit)
    second_moved = _coast(speed * (m + RESTITUTION * m) / (m + n), time - hit)
    return travel + first_moved, second_moved


def _coast(speed: float, time: float) -> float:
    """Return the distance travelled in `time` under friction, with the sign of the speed."""
    time = min(time, abs(speed) / FRICTION)
    return speed * time - math.copysign(FRICTION, speed) * time * time / 2


def _rounded(values: tuple[float, ...]) -> tuple[float, ...]:
    return tuple(round(value, 6) for value in values)
