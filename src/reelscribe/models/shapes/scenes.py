"""The world that the built-in model knows: one coloured shape on a plain ground, and what is true of it.

A `Scene` says what happens; `render` draws any instant of it at any size. The training program, `reelscribe demo`, the
tests and the benchmarks all draw from here, so that an answer and a picture cannot drift apart.
"""

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray

Shape = Literal["ring", "square", "triangle", "cross"]
Color = Literal["red", "green", "blue", "yellow", "purple", "cyan"]
Ground = Literal["black", "gray", "white"]
Size = Literal["small", "large"]
Motion = Literal["moves left", "moves right", "moves up", "moves down", "rests", "grows", "shrinks"]

SHAPES: Final[tuple[Shape, ...]] = get_args(Shape)
COLORS: Final[tuple[Color, ...]] = get_args(Color)
GROUNDS: Final[tuple[Ground, ...]] = get_args(Ground)
SIZES: Final[tuple[Size, ...]] = get_args(Size)
MOTIONS: Final[tuple[Motion, ...]] = get_args(Motion)

RGB: Final[dict[str, tuple[int, int, int]]] = {
    "red": (220, 30, 30),
    "green": (30, 170, 50),
    "blue": (40, 60, 225),
    "yellow": (240, 215, 30),
    "purple": (145, 40, 190),
    "cyan": (40, 205, 225),
    "black": (10, 10, 10),
    "gray": (128, 128, 128),
    "white": (245, 245, 245),
}

FIELDS: Final = ("size", "color", "shape", "ground", "motion", "change")
"""The facts of a scene, in the order in which JSON has them."""

_DIRECTIONS: Final[dict[str, tuple[int, int]]] = {
    "moves left": (-1, 0),
    "moves right": (1, 0),
    "moves up": (0, -1),
    "moves down": (0, 1),
}


@dataclass(frozen=True, kw_only=True)
class Scene:
    """One clip's content.

    Lengths are fractions of the frame's shorter side, positions fractions of width and height.
    """

    shape: Shape
    color: Color
    size: Size
    ground: Ground
    motion: Motion
    turns: Color | None
    """The colour that the shape takes at `event_at`, if any."""
    stops: bool
    """Whether a moving shape comes to rest at `event_at`."""
    radius: float
    growth: float
    """Final radius over first radius; 1 unless the shape grows or shrinks."""
    start: tuple[float, float]
    """Centre at the first instant, as (x, y)."""
    travel: float
    """Distance covered by a moving shape, along its direction."""
    event_at: float
    """When the event happens, as a fraction of the clip."""

    @property
    def caption(self) -> str:
        event = f", then turns {self.turns}" if self.turns else ", then stops" if self.stops else ""
        return f"A {self.size} {self.color} {self.shape} {self.motion} on a {self.ground} background{event}."

    @property
    def detail(self) -> str:
        """Two sentences: what is seen, then what happens."""
        happens = f"{self.motion} from beginning to end"
        if self.turns:
            happens += f", and turns from {self.color} to {self.turns} about halfway through"
        elif self.stops:
            happens = f"{self.motion} for the first half, and then stops"
        look = f"{self.size} {self.color} {self.shape}"
        return f"The video shows a {look} on a plain {self.ground} background. The {self.shape} {happens}."

    @property
    def facts(self) -> dict[str, str]:
        """The value of each of `FIELDS`."""
        change = f"turns {self.turns}" if self.turns else "stops" if self.stops else "none"
        values = (self.size, self.color, self.shape, self.ground, self.motion, change)
        return dict(zip(FIELDS, values, strict=True))

    def as_json(self, fields: Sequence[str] = FIELDS) -> str:
        """Facts as a JSON object without white space between its parts, keys in the order of `FIELDS`."""
        chosen = {name: value for name, value in self.facts.items() if name in fields}
        return json.dumps(chosen, separators=(",", ":"))

    def events(self, seconds: float) -> list[tuple[str, float]]:
        """What begins when, and the end, in a clip of that length: (words, seconds)."""
        change = self.facts["change"]
        changes = [] if change == "none" else [(change, self.event_at * seconds)]
        return [(self.motion, 0.0), *changes, ("ends", seconds)]

    def timeline(self, seconds: float) -> str:
        """The events in one line, with times to the nearest tenth of a second.

        The time stands behind what it is the time of: a model can then look for that.
        """
        return "; ".join(f"{words} ({at:.1f} s)" for words, at in self.events(seconds))

    def fits_timeline(self, text: str, seconds: float, *, within: float = 0.5) -> bool:
        """Whether a line like `timeline` has the right words, and each time within this many seconds."""
        said = [re.fullmatch(r"(.+) \((\d+\.\d) s\)", part) for part in text.split("; ")]
        true = self.events(seconds)
        return len(said) == len(true) and all(
            match is not None and match[1] == words and abs(float(match[2]) - at) <= within
            for match, (words, at) in zip(said, true, strict=True)
        )

    @property
    def claims(self) -> dict[str, str]:
        """True statements: the caption, and one about each of `FIELDS`."""
        change = self.facts["change"]
        still = "neither stops nor turns another color"
        return {
            "caption": self.caption,
            "size": f"The {self.shape} is {self.size}.",
            "color": f"The {self.shape} is {self.color} at first.",
            "shape": f"The shape is a {self.shape}.",
            "ground": f"The background is {self.ground}.",
            "motion": f"The {self.shape} {self.motion}.",
            "change": f"The {self.shape} {still if change == 'none' else f'then {change}'}.",
        }

    def center(self, instant: float) -> tuple[float, float]:
        """Where the shape is, as fractions of width and height, at a fraction of the clip."""
        gone = self.travel * (min(instant / self.event_at, 1.0) if self.stops else instant)
        dx, dy = _DIRECTIONS.get(self.motion, (0, 0))
        return self.start[0] + dx * gone, self.start[1] + dy * gone


def random_scene(rng: np.random.Generator, *, still: bool = False) -> Scene:
    """Draw a scene.

    Args:
        rng: the only source of randomness.
        still: a resting shape without an event.
    """
    color = COLORS[rng.integers(len(COLORS))]
    size = SIZES[rng.integers(len(SIZES))]
    motion: Motion = "rests" if still else MOTIONS[rng.integers(len(MOTIONS))]
    kind = 1.0 if still else rng.random()
    turns = COLORS[(COLORS.index(color) + rng.integers(1, len(COLORS))) % len(COLORS)] if kind < 0.3 else None
    radius = rng.uniform(0.15, 0.17) if size == "small" else rng.uniform(0.27, 0.3)
    growth = {"grows": rng.uniform(1.4, 1.55), "shrinks": rng.uniform(0.5, 0.6)}.get(motion, 1.0)
    travel = float(rng.uniform(0.26, 0.36)) if motion in _DIRECTIONS else 0.0
    margin = radius * max(growth, 1.0) + 0.01
    start = [0.0, 0.0]
    for axis, step in enumerate(_DIRECTIONS.get(motion, (0, 0))):
        low, high = margin + travel * (step < 0), 1 - margin - travel * (step > 0)
        start[axis] = float(rng.uniform(low, high))
    return Scene(
        shape=SHAPES[rng.integers(len(SHAPES))],
        color=color,
        size=size,
        ground=GROUNDS[rng.integers(len(GROUNDS))],
        motion=motion,
        turns=turns,
        stops=motion in _DIRECTIONS and 0.3 <= kind < 0.55,
        radius=float(radius),
        growth=float(growth),
        start=(start[0], start[1]),
        travel=travel,
        event_at=float(rng.uniform(0.4, 0.6)),
    )


def change_fact(scene: Scene, field: str, rng: np.random.Generator) -> Scene:
    """The scene with another value for one of `FIELDS` and all others as they are: the hardest to tell from it."""
    if field == "change":
        return _change_event(scene, rng)
    choices: dict[str, tuple[Any, ...]] = {
        "size": SIZES,
        "color": tuple(color for color in COLORS if color != scene.turns),
        "shape": SHAPES,
        "ground": GROUNDS,
        "motion": tuple(_DIRECTIONS) if scene.stops else MOTIONS,
    }
    free = [value for value in choices[field] if value != scene.facts[field]]
    return replace(scene, **{field: free[rng.integers(len(free))]})


def _change_event(scene: Scene, rng: np.random.Generator) -> Scene:
    colors = [color for color in COLORS if color not in (scene.color, scene.turns)]
    events: list[tuple[Color | None, bool]] = [(colors[rng.integers(len(colors))], False)]
    if scene.turns or scene.stops:
        events.append((None, False))
    if scene.motion in _DIRECTIONS and not scene.stops:
        events.append((None, True))
    turns, stops = events[rng.integers(len(events))]
    return replace(scene, turns=turns, stops=stops)


def render(
    scene: Scene, *, width: int, height: int, at: Sequence[float], aspect: float | None = None
) -> NDArray[np.uint8]:
    """Draw instants of a scene, antialiased.

    Args:
        scene: what to draw.
        width: pixels.
        height: pixels.
        at: instants, as fractions of the clip from 0 to 1.
        aspect: width over height as seen, where pixels are not square.

    Returns:
        uint8, shape (len(at), height, width, 3), RGB.
    """
    aspect = width / height if aspect is None else aspect
    short = min(aspect, 1.0)
    frames = np.empty((len(at), height, width, 3), np.uint8)
    frames[:] = RGB[scene.ground]
    pixel = 0.5 * (aspect / width + 1.0 / height)
    for frame, instant in zip(frames, at, strict=True):
        center_x, center_y = scene.center(instant)
        center_x *= aspect
        radius = scene.radius * short * (1 + (scene.growth - 1) * instant)
        color = scene.turns if scene.turns and instant >= scene.event_at else scene.color
        reach = 1.15 * radius + pixel
        left, right = (int(np.clip((center_x + s * reach) / aspect * width, 0, width)) for s in (-1, 1))
        top, bottom = (int(np.clip((center_y + s * reach) * height, 0, height)) for s in (-1, 1))
        x = (np.arange(left, right + 1)[: width - left] + 0.5) / width * aspect - center_x
        y = (np.arange(top, bottom + 1)[: height - top] + 0.5) / height - center_y
        outside = _signed_distance(scene.shape, x[None, :], y[:, None], radius)
        alpha = np.clip(0.5 - outside / pixel, 0.0, 1.0)[..., None]
        patch = frame[top : top + len(y), left : left + len(x)]
        patch[:] = np.rint(alpha * np.array(RGB[color]) + (1 - alpha) * patch)
    return frames


def _signed_distance(
    shape: Shape, x: NDArray[np.float64], y: NDArray[np.float64], radius: float
) -> NDArray[np.float64]:
    """Distance to the outline of a shape around the origin, negative inside. y points down."""
    across, up = np.abs(x), np.abs(y)
    if shape == "ring":
        distance = np.abs(np.hypot(x, y) - 0.72 * radius) - 0.28 * radius
    elif shape == "square":
        distance = np.maximum(across, up) - 0.88 * radius
    elif shape == "cross":
        arm = 0.33 * radius
        distance = np.minimum(np.maximum(across - arm, up - radius), np.maximum(up - arm, across - radius))
    else:
        run, rise = 1.05, 1.75  # the triangle's half base and height, in radii; its tip points up
        slope = (across * rise - (y + radius) * run) / np.hypot(run, rise)
        distance = np.maximum(slope, y - (rise - 1) * radius)
    return np.asarray(distance, np.float64)
