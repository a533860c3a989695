"""Films joined of clips that the built-in model knows, and whether what was said of them is right.

For a small test, and `benchmarks/joined_films.py` at length.
"""

import itertools
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.demo import film, write_video
from reelscribe.models.shapes.scenes import Scene, random_scene
from reelscribe.values import Row

CONFIG: Final = """\
split = "scenes"
model = "shapes"

[tasks.caption]
prompt = "Describe the video in one sentence."

[tasks.events]
prompt = "List the events with their times."
times = true
"""
"""Settings of a run over such films."""
SLACK_FRAMES: Final = 2
"""How far each end of a scene that was found may be from the clip's, as the benchmark of scenes has it, too."""
SLACK_SECONDS: Final = 0.5
"""How far a time of an event may be from the true one."""


@dataclass(frozen=True, kw_only=True)
class Joined:
    """A clip in a film."""

    scene: Scene
    first: int
    """Number of its first frame."""
    count: int
    """Of its frames."""

    def events(self, fps: int) -> list[tuple[str, float, float]]:
        """What happens from when to when, in seconds on the film's clock."""
        start = self.first / fps
        said = [(words, start + at) for words, at in self.scene.events(self.count / fps)]
        return [(words, at, end) for (words, at), (_, end) in itertools.pairwise(said)]


@dataclass(frozen=True, kw_only=True)
class Counts:
    """How many clips of films came out right."""

    clips: int
    scenes: int
    """Rows: what was found."""
    found: int
    """Clips that are a scene, with both ends in place."""
    captions: int
    """Of these, captions that are right to the letter."""
    event_words: int
    """Lists of events with the right words in the right order."""
    event_times: int
    """Of these, lists whose every start and end is in time."""
    all_right: int
    """Clips found with caption and events right."""
    wrong: tuple[str, ...]
    """What is not, in words."""

    def told(self) -> dict[str, Any]:
        return asdict(self)


def join(
    file: Path, *, clips: int, seed: int, size: tuple[int, int], fps: int, seconds: tuple[float, float]
) -> list[Joined]:
    """Write a film of clips of the model's world, joined by hard cuts.

    Args:
        file: to write.
        clips: how many.
        seed: of what they show and how long each is.
        size: width and height in pixels.
        fps: frames a second.
        seconds: of the shortest and the longest clip.
    """
    rng = np.random.default_rng(seed)
    joined: list[Joined] = []
    first = 0
    for _ in range(clips):
        scene, count = random_scene(rng), round(float(rng.uniform(*seconds)) * fps)
        joined.append(Joined(scene=scene, first=first, count=count))
        first += count

    def frames() -> Iterator[NDArray[np.uint8]]:
        for clip in joined:
            yield from film(clip.scene, width=size[0], height=size[1], fps=fps, seconds=clip.count / fps)

    write_video(file, frames(), fps=fps)
    return joined


def hold(rows: Iterable[Row], joined: Sequence[Joined], *, fps: int) -> Counts:
    """Hold the rows of a run by `CONFIG` to what its film shows."""
    by_place = {(round(row["start"] * fps), round(row["end"] * fps)): row for row in rows}
    seen = dict.fromkeys(("found", "captions", "event_words", "event_times", "all_right"), 0)
    wrong = []
    for number, clip in enumerate(joined):
        ends = (clip.first, clip.first + clip.count)
        row = next((row for place, row in by_place.items() if _near(place, ends)), None)
        truth, said = clip.events(fps), _events(row)
        right = {
            "found": row is not None,
            "captions": row is not None and row["caption"] == clip.scene.caption,
            "event_words": [words for words, *_ in said] == [words for words, *_ in truth],
        }
        right["event_times"] = right["event_words"] and all(
            abs(seconds - true) <= SLACK_SECONDS
            for (_, *times), (_, *true_times) in zip(said, truth, strict=True)
            for seconds, true in zip(times, true_times, strict=True)
        )
        right["all_right"] = all(right.values())
        for name, is_right in right.items():
            seen[name] += is_right
        if not right["all_right"]:
            kind = next(name for name, is_right in right.items() if not is_right)
            truth_in_words = f"clip {number} at {ends[0] / fps:.2f} s, {clip.scene.caption} {truth}"
            wrong.append(f"{kind}: {truth_in_words}; said {row and row['caption']} {said}")
    return Counts(clips=len(joined), scenes=len(by_place), wrong=tuple(wrong), **seen)


def _near(place: tuple[int, int], ends: tuple[int, int]) -> bool:
    return all(abs(found - true) <= SLACK_FRAMES for found, true in zip(place, ends, strict=True))


def _events(row: Row | None) -> list[tuple[str, float, float]]:
    return [(event["text"], event["start"], event["end"]) for event in (row or {}).get("events") or []]
