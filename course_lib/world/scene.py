"""What is in the little world: the vocabulary and the parts of a scene.

World axes: x to the right, y away from the first camera, z up; the floor is z = 0.  Lengths are in
metres, angles in radians, colours are sRGB in [0, 1].
"""

from dataclasses import dataclass

SHAPES = ("sphere", "cube", "cylinder", "cone")
COLOURS = {
    "red": (0.90, 0.14, 0.16),
    "orange": (1.00, 0.55, 0.08),
    "yellow": (0.99, 0.86, 0.12),
    "green": (0.20, 0.67, 0.24),
    "cyan": (0.12, 0.80, 0.84),
    "blue": (0.16, 0.33, 0.90),
    "purple": (0.55, 0.22, 0.75),
    "pink": (0.99, 0.56, 0.76),
}
SCALES = {"small": 0.44, "large": 0.66}  # half the width, in metres
MATERIALS = ("matte", "shiny")
MOTIONS = ("rest", "slide", "bounce", "spin", "orbit", "rise", "fall", "grow", "collide")
DIRECTIONS = {"left": (-1, 0), "right": (1, 0), "away": (0, 1), "closer": (0, -1)}
CAMERAS = ("still", "orbit", "zoom")
COUNTS = (1, 2, 3)
FLOORS = ("checker", "stripes", "rings", "dots")

FLOOR_COLOURS = (  # Each has a light and a darker tone, pale enough for the things to stand out.
    ((0.94, 0.89, 0.79), (0.84, 0.76, 0.63)),
    ((0.87, 0.90, 0.94), (0.70, 0.76, 0.84)),
    ((0.85, 0.93, 0.87), (0.67, 0.81, 0.73)),
    ((0.91, 0.88, 0.95), (0.77, 0.72, 0.86)),
    ((0.62, 0.65, 0.71), (0.47, 0.50, 0.57)),
)
BACKDROPS = (  # Each has the colour at the horizon and the colour high up.
    ((1.00, 0.88, 0.78), (0.62, 0.73, 0.93)),
    ((0.88, 0.94, 1.00), (0.42, 0.63, 0.92)),
    ((0.96, 0.78, 0.80), (0.45, 0.42, 0.70)),
    ((0.91, 0.97, 0.93), (0.44, 0.74, 0.74)),
    ((0.50, 0.54, 0.72), (0.16, 0.18, 0.38)),
)
VOCABULARY = {
    "shape": SHAPES,
    "colour": tuple(COLOURS),
    "scale": tuple(SCALES),
    "material": MATERIALS,
    "motion": MOTIONS,
    "camera": CAMERAS,
    "count": COUNTS,
    "floor": FLOORS,
}


@dataclass(frozen=True)
class Thing:
    """One object: what it is, where its foot is at rest (x, y), and how it is turned."""

    shape: str
    colour: str
    scale: str
    material: str
    x: float
    y: float
    yaw: float

    @property
    def reach(self) -> float:
        """Return the radius of the upright cylinder that holds the thing however it is turned."""
        return SCALES[self.scale] * (1.16 if self.shape == "cube" else 1.0)


@dataclass(frozen=True)
class Motion:
    """What the first thing does.

    `amount` is the path in metres (slide), the height in metres (bounce, rise, fall), the turn in
    radians (spin, orbit), or the time of the hit in seconds (collide).  `phase` in [0, 1) says how
    much of a bounce is over at time 0.
    """

    kind: str = "rest"
    direction: str = "none"
    amount: float = 0.0
    phase: float = 0.0


@dataclass(frozen=True)
class Camera:
    """Where the camera is at time 0, and how it moves.

    `sweep` is the angle of an orbit; `zoom` is the last focal length divided by the first.
    """

    kind: str = "still"
    azimuth: float = 0.0
    elevation: float = 0.35
    distance: float = 7.0
    sweep: float = 0.0
    zoom: float = 1.0


@dataclass(frozen=True)
class Floor:
    """A pattern of two tones: turned by `angle`, `tiles` per metre, shifted by `offset` tiles."""

    pattern: str
    angle: float
    tiles: float
    offset: tuple[float, float]
    colours: tuple[tuple[float, float, float], ...]


@dataclass(frozen=True)
class Scene:
    """Everything there is to know about a clip; `things[0]` is the one that moves."""

    things: tuple[Thing, ...]
    motion: Motion
    camera: Camera
    floor: Floor
    backdrop: tuple[tuple[float, float, float], ...]
    sun: tuple[float, float]  # azimuth, elevation
