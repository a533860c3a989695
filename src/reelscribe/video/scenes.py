"""Where a film changes from scene to scene: hard cuts, fades through black and dissolves.

All is read from how much small pictures of the frames, 48 x 27, differ from each other, within about three seconds.

- A hard cut: all of the last frames differ from all of the next ones, by far more than neighbours do around it. (After
  a flash the picture is as before.) If the edges in the picture stay where they are, only light or colours changed.
- A dissolve: each frame on the way is a mixture of the first and the last. With x_t the pictures, d = x_b - x_a and
  a share s_t = <x_t - x_a, d> / |d|^2, what is left of x_t is |x_t - x_a|^2 - s_t^2 |d|^2: nothing in a dissolve of
  still pictures, a part of |d|^2 where things or the camera move. The change is where the share passes one half.
- A fade: frames that are dark and even, between others. The change is in their middle.

Windows and limits are for 25 frames a second; of a film with more, about as many are looked at. They were chosen
on films of `benchmarks/films.py`, and `benchmarks/scenes.py` measures what comes of them on others.
"""

import itertools
from array import array
from collections.abc import Iterable, Iterator
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reelscribe.values import Clip
from reelscribe.video.checked import every_frame, read_packets
from reelscribe.video.likeness import (
    Block,
    Distances,
    Floats,
    Picture,
    Steps,
    coarse_of,
    edges_agree,
    patterns_of,
    small_pictures,
    unmoved,
    vectors_of,
)

SCENES_VERSION: Final = 2
"""Part of the key under which scenes are stored. Raise it if a change gives a film other scenes."""
_RATE: Final = 25.0
"""Frame rate that all windows and limits are meant for, in frames a second."""
_CORE: Final = 512
"""Frames of a block that are judged together, with `_AROUND` more on each side."""
_NEAR: Final = 8
"""Frames on each side of a cut that are compared. Flashes are shorter."""
_HALVES: Final = (4, 6, 8, 11, 15, 20, 26)
"""Half lengths of windows for dissolves, in frames."""
_BACK: Final = (0, 2, 4, 6, 9)
"""Distances around a window at which frames must differ, too. After a flash within the window they would not."""
_AROUND: Final = _HALVES[-1] + _BACK[-1] + 1
_SPAN: Final = 2 * _AROUND
"""Maximum distance of two frames that are compared, in frames."""
_LEAST_CUT: Final = 8.0
"""Minimum difference at a cut, as root mean square of levels from 0 to 255 ..."""
_CUT_TIMES, _MOVED_TIMES = 1.65, 1.35
"""... and minimum ratio to the third quartile of the differences between neighbours around it: of the pictures as they
are, and after one is moved over the other to fit best, in case the camera moved."""
_LASTS: Final = 0.5
"""Minimum difference between any frame before a cut and any after it, as a share of the difference at the cut. After a
flash, only what moved meanwhile differs."""
_SAME_EDGES: Final = 0.82
"""If the edges of two pictures correlate by more than this, they show the same scene in another light. The maximum over
125 cuts of a music video with bars at its sides was 0.73."""
_LEAST_MIX: Final = 6.0
"""Minimum difference between the two sides of a dissolve."""
_LEAST_UNLIKE: Final = 0.3
"""Minimum of their mean squared difference after luma is normalized to mean 0 and deviation 1, which is 2 (1 -
correlation). If it is less, the same scene gets lighter or darker."""
_LEAST_UNMOVED: Final = 0.7
"""Minimum share of the steps around a dissolve that is left after each picture is moved over the next. A fast pan
leaves less."""
_LEAST_UNLIKE_MOVED: Final = 0.45
"""Minimum share of the difference of its two sides that is left after one is enlarged and moved over the other. A slow
pan, a zoom, and a thing that grows on a plain ground leave less."""
_MOST_STEP: Final = 0.35
"""Maximum share of a dissolve that lies between two neighbouring frames."""
_LEAST_STAY: Final = 0.25
"""Minimum squared distance between frames before and after a dissolve, as a share of that between its ends."""
_FAR: Final = 50.0
"""Distances are capped at this: a larger one is no better evidence."""
_MIX: Final = (5.0, -24.0, 5.5, -17.5)
"""Weights of a dissolve's score: of the logarithm of the distance, of the square roots of the two shares above, and a
constant. A score above 0 is a dissolve. Fitted by logistic regression, with the constant chosen for the best F1."""
_DARK, _LIGHTEST, _EVEN = 36, 60, 7.0
"""Limits on the luma of a black frame, or of a nearly black one in a short fade: mean, maximum, deviation. Black is 0
or 16."""
_FADE: Final = 36
"""Maximum length of a fade, in frames."""
_FADES: Final = 1.02
"""Minimum ratio by which contrast grows in two frames of a fade."""
_BLINK: Final = 16
"""Up to this many dark frames may lie within one scene."""
_SHORTEST: Final = 6
"""Minimum length of a scene between cuts, in frames."""
_BETWEEN: Final = 25
"""Minimum distance between dissolves, in frames."""


class Scene(NamedTuple):
    """A stretch of a film without a change of scene."""

    start_seconds: float
    """When its first frame is shown, in seconds; see `FrameIndex.seconds`."""
    end_seconds: float
    """When the next scene starts, or the film ends."""


class _Found(NamedTuple):
    """A possible change of scene."""

    score: float
    at: int
    """Number of the new scene's first frame."""
    reach: int
    """Number of frames on each side in which no other change is accepted."""


class _Mix(NamedTuple):
    """A window that looks like a dissolve, with its first and last frame."""

    score: float
    begin: int
    end: int


def find_scenes(clip: Clip, *, threads: int = 0) -> list[Scene]:
    """Find the scenes of a film: one after the other, from its first frame to its end.

    The film is decoded once. Beside its index, a few bytes a frame are kept in memory.

    Args:
        clip: the film.
        threads: of the decoder, if its codec allows several; 0 for one on each CPU.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_short", "too_large", "decode" or "crashed".
    """
    source = read_packets(clip)
    index = source.index
    every = max(round(index.fps / _RATE), 1)
    changes = find_changes(small_pictures(every_frame(source, threads=threads)), every)
    seconds = index.seconds
    starts = [seconds[number] for number in (0, *changes)]
    ends = [*starts[1:], float((index.end - index.start) * index.time_base)]
    return [Scene(start, end) for start, end in zip(starts, ends, strict=True)]


def find_changes(pictures: Iterable[Picture], every: int = 1) -> list[int]:
    """Find changes of scene in small pictures.

    Args:
        pictures: of all frames, as from `small_pictures`.
        every: look at one frame of this many.

    Returns:
        The first frame of each scene but the first one, ascending.
    """
    cuts: list[_Found] = []
    mixes: list[_Found] = []
    dark, contrast, behind = array("b"), array("f"), array("I")
    thinned = _thinned(pictures, every, behind)
    for start, block, core in _blocks(thinned):
        coarse = coarse_of(block)
        near, far = Distances(vectors_of(block), 2 * _NEAR), Distances(vectors_of(coarse), _SPAN)
        spread = block[:, 0].std((1, 2), dtype=np.float32)
        cuts += [found._replace(at=found.at + start) for found in _cuts(block, core, near)]
        mixes += [found._replace(at=found.at + start) for found in _dissolves(block, coarse, core, far)]
        dark.extend(_dark(block, spread, far)[core.start : core.stop].tolist())
        contrast.extend(spread[core.start : core.stop].tolist())
    chosen = _choose(cuts, mixes, np.array(dark, bool), np.array(contrast))
    return [at * every - behind[at] for at in chosen]


def _thinned(pictures: Iterable[Picture], every: int, behind: "array[int]") -> Iterator[Picture]:
    """One picture of each `every`; `behind` takes how many frames before it the largest step to it is."""
    steps: list[float] = []
    last: Picture | None = None
    for number, picture in enumerate(pictures):
        if every > 1 and last is not None:
            steps.append(float(np.abs(picture.astype(np.int16) - last).mean()))
        if number % every == 0:
            behind.append(len(steps) - 1 - int(np.argmax(steps)) if steps else 0)
            steps.clear()
            yield picture
        last = picture


def _blocks(pictures: Iterable[Picture]) -> Iterator[tuple[int, Block, range]]:
    """Overlapping blocks of pictures, each of shape (frames, 3, 27, 48), with the number of its first frame and the
    range to judge. The frames around that range are context.
    """
    held: list[Picture] = []
    start = before = 0
    for picture in itertools.chain(pictures, [None]):
        if picture is not None:
            held.append(picture)
        if picture is None or len(held) == before + _CORE + _AROUND:
            stop = len(held) if picture is None else before + _CORE
            if stop > before:
                yield start, np.stack(held), range(before, stop)
            gone = max(stop - _AROUND, 0)
            held, before, start = held[gone:], stop - gone, start + gone


def _cuts(block: Block, core: range, distances: Distances) -> Iterator[_Found]:
    """Possible hard cuts."""
    at = np.arange(core.start, core.stop)
    across = np.minimum.reduce(
        [distances(at - before, at + after) for before in range(1, _NEAR + 1) for after in range(_NEAR)]
    )
    around = [distances(at + shift - 1, at + shift) for shift in range(-_NEAR, _NEAR + 1) if shift]
    usual = np.sort(np.sqrt(np.stack(around)), 0)[len(around) * 3 // 4]
    score = np.sqrt(across)
    times = score / (usual + 1)
    lasts = score > _LASTS * np.sqrt(distances(at - 1, at))
    for number in np.flatnonzero((score > _LEAST_CUT) & (times > _CUT_TIMES) & lasts):
        before, after = block[at[number] - 1], block[at[number]]
        moved = times[number] * unmoved(before[0], after[0])
        if moved > _MOVED_TIMES and edges_agree(before, after) < _SAME_EDGES:
            yield _Found(float(score[number]), int(at[number]), _SHORTEST)


def _dissolves(block: Block, coarse: Floats, core: range, distances: Distances) -> Iterator[_Found]:
    """Possible dissolves: windows around each frame that look like one."""
    patterns, steps = Distances(patterns_of(coarse), _SPAN), Steps(block)
    middle = np.arange(core.start, core.stop)
    best: dict[int, _Mix] = {}
    for half in _HALVES:
        first, last = middle - half, middle + half
        whole = distances(first, last) + 1e-3
        shares = np.zeros((2 * half + 1, len(middle)), np.float32)
        left = np.zeros(len(middle), np.float32)
        for step in range(1, 2 * half):
            gone = distances(first, first + step)
            shares[step] = (gone + whole - distances(first + step, last)) / (2 * whole)
            left += (gone / whole - shares[step] ** 2).clip(0)
        shares[-1] = 1
        left /= 2 * half - 1
        stays = np.minimum.reduce([distances(first - a, last + b) for a in _BACK for b in _BACK]) / whole
        by_distance, by_left, by_stay, constant = _MIX
        distance = np.sqrt(whole)
        score = by_distance * np.log(distance.clip(max=_FAR) + 1) + by_left * np.sqrt(left) + by_stay * np.sqrt(stays)
        good = (distance > _LEAST_MIX) & (np.diff(shares, axis=0).max(0) < _MOST_STEP) & (stays > _LEAST_STAY)
        good &= (patterns(first, last) > _LEAST_UNLIKE) & (first >= 0) & (last < len(block))
        half_way = first + np.argmax(shares >= 0.5, axis=0)
        for number in np.flatnonzero(good & (score + constant > 0)):
            mix = _Mix(float(score[number]), int(first[number]), int(last[number]))
            at = int(half_way[number])
            best[at] = max(best.get(at, mix), mix)
    for at, mix in best.items():
        sides = block[mix.begin, 0], block[mix.end, 0]
        if steps.unmoved(at, _HALVES[0]) > _LEAST_UNMOVED and unmoved(*sides, zoomed=True) > _LEAST_UNLIKE_MOVED:
            yield _Found(mix.score, at, _BETWEEN)


def _dark(block: Block, spread: Floats, distances: Distances) -> NDArray[np.bool_]:
    """Which frames are black, except for moments of darkness within a scene."""
    luma = block[:, 0].reshape(len(block), -1)
    dark: NDArray[np.bool_] = (luma.max(1) < _LIGHTEST) & (luma.mean(1) < _DARK) & (spread < _EVEN)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dark, [False]])))
    for first, stop in edges.reshape(-1, 2):
        before, behind = first - _SHORTEST, stop + _SHORTEST - 1
        if stop - first <= _BLINK and before >= 0 and behind < len(dark):
            light = max(spread[before], spread[behind]) ** 2
            dark[first:stop] = distances(before, behind) > _LEAST_STAY * light
    return dark


def _choose(cuts: list[_Found], mixes: list[_Found], dark: NDArray[np.bool_], contrast: Floats) -> list[int]:
    """Choose among possible changes. Fades come first: their ways to black and back look like cuts and dissolves."""
    chosen: list[int] = []
    taken, count = np.zeros(len(dark), bool), len(dark)
    edges = np.flatnonzero(np.diff(np.concatenate([[False], dark, [False]])))
    for first, stop in edges.reshape(-1, 2).tolist():
        if first and stop < count:  # a film may begin and end with black
            chosen.append((first + stop) // 2)
        begin, end = max(first - 1, 0), min(stop, count - 1)
        while begin > max(first - _FADE, 1) and contrast[begin - 2] > contrast[begin] * _FADES:
            begin -= 1
        while end < min(stop + _FADE, count - 2) and contrast[end + 2] > contrast[end] * _FADES:
            end += 1
        taken[max(begin - 4, 0) : end + 5] = True
    for found, apart in [(cut, 0) for cut in _best_first(cuts)] + [(mix, 4) for mix in _best_first(mixes)]:
        if not taken[max(found.at - apart, 0) : found.at + apart + 1].any():
            chosen.append(found.at)
            taken[max(found.at - found.reach, 0) : found.at + found.reach + 1] = True
    return sorted(chosen)


def _best_first(found: list[_Found]) -> list[_Found]:
    return sorted(found, key=lambda each: -each.score)
