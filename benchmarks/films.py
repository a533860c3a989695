"""Films whose changes of scene are known: shots, joined by hard cuts, fades through black and dissolves.

Shots are rendered: a camera over a landscape of texture, with things that move, noise, flashes and fast pans. A folder
of real clips, each a single shot, gives half of them.
"""

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Final, Literal, cast

import av
import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import NDArray

from reelscribe.demo import film as film_of_shapes
from reelscribe.models.shapes.scenes import random_scene

WIDTH, HEIGHT, FPS = 320, 180, 25
Kind = Literal["cut", "fade", "dissolve"]
MIX: Final[dict[Kind, float]] = {"cut": 70 / 119, "fade": 26 / 119, "dissolve": 23 / 119}
"""How often each comes."""
Pixels = NDArray[np.uint8]
Floats = NDArray[np.float32]


@dataclass(frozen=True, kw_only=True)
class Change:
    """A change of scene."""

    kind: Kind
    first: int
    """The first frame that is not the old scene's alone."""
    last: int
    """The first frame that is the new scene's alone; of a cut the same as `first`."""


# Rendered shots


def _texture(rng: np.random.Generator, height: int, width: int) -> Floats:
    """Noise with more of the coarse than of the fine, as pictures have it: shape (height, width, 3), about 0 to 255."""
    across, down = np.fft.rfftfreq(width), np.fft.fftfreq(height)
    falloff = 1 / np.maximum(np.hypot(across[None, :], down[:, None]), 1 / width) ** rng.uniform(1.0, 1.6)
    layers = [
        np.fft.irfft2(falloff * np.exp(2j * np.pi * rng.random(falloff.shape)), s=(height, width)) for _ in range(3)
    ]
    plain = np.stack([layer / layer.std() for layer in layers])
    mixed = np.eye(3) * rng.uniform(0.1, 0.6) + rng.uniform(0.3, 1.0)  # mostly light and dark, some colour
    colours = np.einsum("ij,jhw->hwi", mixed / mixed.sum(1, keepdims=True), plain)
    level = rng.uniform(60, 180) + rng.normal(0, 22, 3)
    texture: Floats = (level + colours * rng.uniform(20, 55)).astype(np.float32)
    return texture


def _landscape(rng: np.random.Generator, height: int, width: int) -> Pixels:
    """A texture with things in it that have edges."""
    ground = _texture(rng, height, width)
    for _ in range(rng.integers(0, 14)):
        high, wide = rng.integers(15, height // 2), rng.integers(10, width // 3)
        top, left = rng.integers(0, height - high), rng.integers(0, width - wide)
        part = ground[top : top + high, left : left + wide]
        part[:] = rng.uniform(0.2, 0.9) * part * rng.uniform(0.1, 1) + rng.uniform(0, 160, 3)
    return ground.clip(0, 255).astype(np.uint8)


def _smooth_walk(rng: np.random.Generator, count: int, *, step: float) -> NDArray[np.float64]:
    """How a hand shakes: shape (count, 2)."""
    pushes = rng.normal(0, step, (count + 8, 2))
    walk = np.cumsum(pushes, 0)
    walk -= np.linspace(0, 1, len(walk))[:, None] * walk[-1]
    return np.stack([np.convolve(walk[:, axis], np.ones(9) / 9, "valid") for axis in (0, 1)], 1)


def _path(rng: np.random.Generator, count: int) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where a camera looks, in pixels of the landscape from its middle, shape (count, 2); and its zoom, (count,)."""
    place = np.zeros((count, 2))
    zoom = np.full(count, rng.uniform(1.0, 1.6))
    kind = rng.random()
    at = np.arange(count)[:, None]
    if kind < 0.35:  # a pan
        speed, turn = rng.uniform(0.3, 4), rng.uniform(0, 2 * np.pi)
        place += at * speed * np.array([np.cos(turn), 0.4 * np.sin(turn)])
    elif kind < 0.55:  # a zoom
        zoom = zoom * np.exp(np.linspace(0, rng.uniform(-0.5, 0.5), count))
    if rng.random() < 0.5:
        place += _smooth_walk(rng, count, step=rng.uniform(0.2, 2.5))
    if rng.random() < 0.15 and count > 30:  # a fast pan
        length, start = rng.integers(5, 14), rng.integers(8, count - 22)
        gone = np.clip((at[:, 0] - start) / length, 0, 1)
        place[:, 0] += rng.choice((-1, 1)) * rng.uniform(200, 500) * gone * gone * (3 - 2 * gone)
    return place, zoom


@dataclass
class _Thing:
    """Something that moves before the ground."""

    picture: Pixels
    mask: NDArray[np.bool_]
    start: NDArray[np.float64]
    speed: NDArray[np.float64]
    sway: float

    def draw(self, frame: Pixels, number: int) -> None:
        x, y = self.start + self.speed * number + np.array([0, self.sway * np.sin(number / 4)])
        left, top = round(x), round(y)
        high, wide = self.mask.shape
        rows = slice(max(top, 0), max(min(top + high, HEIGHT), 0))
        columns = slice(max(left, 0), max(min(left + wide, WIDTH), 0))
        if rows.start < rows.stop and columns.start < columns.stop:
            inside = np.s_[rows.start - top : rows.stop - top, columns.start - left : columns.stop - left]
            np.copyto(frame[rows, columns], self.picture[inside], where=self.mask[inside][..., None])


def _thing(rng: np.random.Generator, count: int) -> _Thing:
    high, wide = int(rng.integers(20, 110)), int(rng.integers(20, 120))
    down, across = np.mgrid[-1 : 1 : high * 1j, -1 : 1 : wide * 1j]
    mask = down**2 + across**2 < 1 if rng.random() < 0.7 else np.ones((high, wide), bool)
    turn, speed = rng.uniform(0, 2 * np.pi), rng.choice((0, 1, 3, 7), p=(0.2, 0.4, 0.3, 0.1)) * rng.uniform(0.5, 1.5)
    direction = np.array([np.cos(turn), 0.5 * np.sin(turn)]) * speed
    middle = np.array([rng.uniform(0, WIDTH - wide), rng.uniform(0, HEIGHT - high)])
    picture = _texture(rng, high, wide).clip(0, 255).astype(np.uint8)
    return _Thing(picture, mask, middle - direction * count / 2, direction, rng.choice((0, 0, 4)))


def _flashes(rng: np.random.Generator, count: int) -> NDArray[np.float64]:
    """How much light each frame has; 1 is plain."""
    light = np.ones(count)
    if rng.random() < 0.15:  # it gets lighter or darker
        light *= np.linspace(1, rng.uniform(0.6, 1.5), count)
    if rng.random() < 0.2 and count > 24:
        for _ in range(rng.integers(1, 4)):
            start, length = rng.integers(6, count - 10), rng.integers(1, 5)
            light[start : start + length] += rng.uniform(0.5, 3) * np.linspace(1, 0.3, length)
    if rng.random() < 0.06:
        light *= rng.uniform(0.85, 1.15, count)
    return light


def rendered(rng: np.random.Generator, count: int) -> Iterator[Pixels]:
    """The frames of a shot, as many as asked for: each uint8, shape (HEIGHT, WIDTH, 3)."""
    if rng.random() < 0.06:
        yield from film_of_shapes(random_scene(rng), width=WIDTH, height=HEIGHT, fps=FPS, seconds=count / FPS)
        return
    place, zoom = _path(rng, count)
    reach = np.abs(place).max(0) if count else np.zeros(2)
    high, wide = (round(size / zoom.min() + 2 * reach[1 - axis]) + 8 for axis, size in enumerate((HEIGHT, WIDTH)))
    ground = _landscape(rng, high + high % 2, wide + wide % 2)
    things = [_thing(rng, count) for _ in range(rng.integers(0, 5))]
    light, grain = _flashes(rng, count), rng.uniform(0, 5) * (rng.random() < 0.6)
    for number in range(count):
        size = np.array([WIDTH, HEIGHT]) / zoom[number]
        left, top = (np.array(ground.shape[1::-1]) / 2 + place[number] - size / 2).round().astype(int).clip(0)
        part = ground[top : top + round(size[1]), left : left + round(size[0])]
        frame = _scaled(part)
        for thing in things:
            thing.draw(frame, number)
        if light[number] != 1 or grain:
            noise = rng.standard_normal((HEIGHT, WIDTH, 1), np.float32) * grain
            frame = (frame * np.float32(light[number]) + noise).clip(0, 255).astype(np.uint8)
        yield frame


def _scaled(picture: Pixels) -> Pixels:
    frame = VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
    scaled = frame.reformat(width=WIDTH, height=HEIGHT, interpolation="BILINEAR")
    return cast(Pixels, scaled.to_ndarray().copy())


# Real shots


def real(file: Path, start: int, count: int) -> Iterator[Pixels]:
    """Frames of a clip, at most as many as asked for, cut to the shape of the film."""
    with av.open(str(file)) as container:
        frames = container.decode(video=0)
        every = 2 if (container.streams.video[0].average_rate or FPS) > 1.5 * FPS else 1
        for frame in itertools.islice(frames, start * every, (start + count) * every, every):
            wide = min(frame.width, frame.height * WIDTH // HEIGHT)
            high = min(frame.height, frame.width * HEIGHT // WIDTH)
            left, top = (frame.width - wide) // 2, (frame.height - high) // 2
            pixels = cast(Pixels, frame.to_ndarray(format="rgb24"))
            yield _scaled(pixels[top : top + high, left : left + wide])


def length_of(file: Path) -> int:
    """Frames that `real` can give of a clip."""
    with av.open(str(file)) as container:
        every = 2 if (container.streams.video[0].average_rate or FPS) > 1.5 * FPS else 1
        return sum(packet.size > 0 for packet in container.demux(video=0)) // every


# Films


@dataclass(frozen=True, kw_only=True)
class _Join:
    kind: Kind
    out: int
    """Frames of the shot before, and of the one after, that are mixed or darkened."""
    black: int = 0


def _join(rng: np.random.Generator) -> _Join:
    kind = cast(Kind, rng.choice(list(MIX), p=list(MIX.values())))
    if kind == "cut":
        return _Join(kind=kind, out=0)
    if kind == "dissolve":
        return _Join(kind=kind, out=int(rng.integers(8, 33)))
    return _Join(kind=kind, out=int(rng.integers(6, 25)), black=int(rng.integers(0, 11)))


def _shots(rng: np.random.Generator, lengths: Sequence[int], clips: Sequence[Path]) -> Iterator[list[Pixels]]:
    known = {file: length_of(file) for file in clips}
    before: Path | None = None
    for length in lengths:
        fits = [file for file, most in known.items() if most >= length and file != before]
        before = None
        if fits and rng.random() < 0.5:
            before = fits[rng.integers(len(fits))]
            yield list(real(before, int(rng.integers(0, known[before] - length + 1)), length))
        else:
            yield list(rendered(rng, length))


def film(seed: int, changes: int, clips: Sequence[Path] = ()) -> Iterator[tuple[Pixels, Change | None]]:
    """The frames of a film, in order; with the frame that ends a change comes what it was.

    Args:
        seed: of all that is drawn.
        changes: how many.
        clips: real ones, each a single shot.
    """
    rng = np.random.default_rng(seed)
    joins = [_join(rng) for _ in range(changes)]
    sides = [0, *(join.out for join in joins)], [*(join.out for join in joins), 0]
    # What is left of a shot between its changes: from less than a second to seven.
    lengths = [before + after + 18 + int(min(rng.gamma(2, 25), 150)) for before, after in zip(*sides, strict=True)]
    shots = _shots(rng, lengths, clips)
    shot, used, number = next(shots), 0, 0
    for join in joins:
        after = next(shots)
        for frame in shot[used : len(shot) - join.out]:
            yield frame, None
            number += 1
        mixed = list(_mixed(join, shot[len(shot) - join.out :], after[: join.out]))
        for frame in mixed:
            yield frame, None
        change = Change(kind=join.kind, first=number, last=number + len(mixed))
        number += len(mixed)
        shot, used = after, join.out
        yield shot[used], change
        used, number = used + 1, number + 1
    for frame in shot[used:]:
        yield frame, None


def _mixed(join: _Join, before: Sequence[Pixels], after: Sequence[Pixels]) -> Iterator[Pixels]:
    shares = (np.arange(join.out, dtype=np.float32) + 1) / (join.out + 1)
    if join.kind == "dissolve":
        for share, old, new in zip(shares, before, after, strict=True):
            yield (old * (1 - share) + new * share).astype(np.uint8)
        return
    yield from ((old * (1 - share)).astype(np.uint8) for share, old in zip(shares, before, strict=True))
    yield from [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * join.black
    yield from ((new * share).astype(np.uint8) for share, new in zip(shares, after, strict=True))


def write_film(file: Path, frames: Iterator[tuple[Pixels, Change | None]]) -> list[Change]:
    """Encode a film as H.264, and say where it changes."""
    found = []
    with av.open(str(file), "w") as container:
        stream = container.add_stream("libx264", rate=FPS, options={"preset": "veryfast"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.codec_context.time_base = Fraction(1, FPS)
        for pixels, change in frames:
            container.mux(stream.encode(VideoFrame.from_ndarray(pixels, format="rgb24")))
            if change:
                found.append(change)
        container.mux(stream.encode())
    return found


# Right and wrong


def score(found: Sequence[int], truth: Sequence[Change], *, slack: int = 2) -> dict[str, float]:
    """Hold found changes, each the number of a scene's first frame, to the true ones.

    One is right if it is within a change, or this many frames beside it; a second one for the same change is wrong.

    Returns:
        F1, precision, the recall of each kind, and counts.
    """
    left, hits = sorted(found), dict.fromkeys(MIX, 0)
    for change in truth:
        match = next((at for at in left if change.first - slack <= at <= change.last + slack), None)
        if match is not None:
            left.remove(match)
            hits[change.kind] += 1
    right = sum(hits.values())
    of_kind = {kind: sum(change.kind == kind for change in truth) for kind in MIX}
    return {
        "f1": round(2 * right / max(len(found) + len(truth), 1), 4),
        "precision": round(right / max(len(found), 1), 4),
        **{f"recall_{kind}": round(hits[kind] / of_kind[kind], 4) for kind in MIX if of_kind[kind]},
        "changes": len(truth),
        "wrong": len(left),
    }
