"""Sides of a comparison: an output, one of its tasks and, optionally, one of its candidates."""

import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reelscribe.dataset.stores import fetched
from reelscribe.errors import DatasetError, SettingsError, did_you_mean
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.report.overview import shown_text

MOST_SIDES: Final = 9
"""Maximum number of sides: each is voted for with a digit."""
_WHAT: Final = re.compile(r"(#(?P<task>\w+)?(:(?P<number>0*[1-9][0-9]*))?(?<!#))?")
"""The part of a side's name after the output: nothing, `#TASK`, `#TASK:N` or `#:N`."""


@dataclass(frozen=True, kw_only=True)
class Side:
    """One of the sets of captions that are compared."""

    name: str
    """Name of the side, on the page and in votes."""
    data: CaptionedData
    task: str
    candidate: int | None = None
    """Number of the candidate, from 0; None for the kept one."""

    def entries(self) -> Iterator[Entry]:
        """The side's entries: the outcome of its task for each video that has a name."""
        for entry in self.data.entries():
            if isinstance(entry, Entry) and entry.task == self.task and entry.video.name:
                yield entry

    def place_in(self, entry: Entry) -> int | None:
        """Number of the side's text among the candidates of an entry; None if not known."""
        if self.candidate is not None:
            return self.candidate
        return next(iter(_kept_places(entry)), None)

    def text_of(self, entry: Entry) -> str | None:
        """The side's text for an entry, as the page shows it; None if there is none."""
        if entry.failure or not entry.captions:
            return None
        if self.candidate is None:
            return shown_text(entry.captions[0], entry) if entry.events is None else _as_lines(entry)
        kept = dict(zip(_kept_places(entry), entry.captions, strict=False))
        text = (dict(entry.others) | kept).get(self.candidate)
        return text and shown_text(text, entry)


def _kept_places(entry: Entry) -> list[int]:
    """Numbers of the kept captions: those that are not among the other candidates."""
    others = {place for place, _ in entry.others}
    return [place for place in range(len(others) + len(entry.captions)) if place not in others]


def _as_lines(entry: Entry) -> str:
    """The events of an entry as text, one a line."""
    events = entry.events or ()
    return "\n".join(f"{event.start:.2f}-{event.end:.2f} s: {event.text}" for event in events) or "Nothing happens."


def open_sides(named: Sequence[str], root: Path | None = None) -> list[Side]:
    """Open sides by their names: `OUTPUT`, `OUTPUT#TASK`, `OUTPUT#TASK:N` or `OUTPUT#:N`.

    Args:
        named: names as users write them; `N` is the number of a candidate, from 1.
        root: folder that relative paths of videos start from; by default each run's own.

    Raises:
        SettingsError: there are fewer than two sides or more than nine, or one is named twice or in another form.
        DatasetError: an output does not exist, is not finished, holds no captions, or has no such task.
    """
    if len(named) < 2:
        raise SettingsError("compare takes two sides or more, as a.jsonl b.jsonl, or a.jsonl#short a.jsonl#long.")
    if len(named) > MOST_SIDES:
        raise SettingsError(f"compare takes at most {MOST_SIDES} sides; got {len(named)}.")
    parts = [_parts(text) for text in named]
    short = [output.name + rest for output, rest in parts]
    opened: dict[str, CaptionedData] = {}
    sides: list[Side] = []
    for text, name, (output, rest) in zip(named, short, parts, strict=True):
        task, candidate = _named_in(rest, text)
        data = opened.setdefault(os.path.realpath(output), CaptionedData(output, root=root, corrected=False))
        side = Side(
            name=name if short.count(name) == 1 else text, data=data, task=_task(data, task), candidate=candidate
        )
        if any((side.data, side.task, side.candidate) == (old.data, old.task, old.candidate) for old in sides):
            raise SettingsError(f"{text} is named twice; a side is compared with another one.")
        sides.append(side)
    return sides


def _parts(text: str) -> tuple[Path, str]:
    """Split into output and the part after `#`. A file may have a `#` in its name."""
    if "#" not in text or Path(text).exists():
        return fetched(text), ""
    output, sign, rest = text.rpartition("#")
    return fetched(output), sign + rest


def _named_in(rest: str, text: str) -> tuple[str, int | None]:
    """Parse the part after the output. Returns the task ("" if none is named) and the candidate, from 0."""
    if not (found := _WHAT.fullmatch(rest)):
        raise SettingsError(
            f"a side is OUTPUT, OUTPUT#TASK, or OUTPUT#TASK:N for the Nth candidate, from 1; got {text!r}."
        )
    return found["task"] or "", int(found["number"]) - 1 if found["number"] else None


def _task(data: CaptionedData, task: str) -> str:
    """The task that is named, or the only one. Raises DatasetError if there is none of the name, or several."""
    names = [known.name for known in data.tasks]
    if not task and len(names) > 1:
        raise DatasetError(
            f"{data.output} has the tasks {', '.join(names)}; say which, as {data.output.name}#{names[0]}."
        )
    if task and task not in names:
        raise DatasetError(f"{data.output} has no task {task!r}; {did_you_mean(task, names)}")
    return task or names[0]
