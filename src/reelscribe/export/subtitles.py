"""Subtitles: a WebVTT or SubRip file for each video, from the events of a task or from captions of stretches."""

import os
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final, NamedTuple

from reelscribe.dataset.files import VIDEO_SUFFIXES, write_whole
from reelscribe.dataset.names import beside
from reelscribe.errors import DatasetError, SettingsError, did_you_mean
from reelscribe.events import Event
from reelscribe.export.choices import SubtitleFormat
from reelscribe.report.edited import verdict_of
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.video.fetch import scheme_of

_MOST_NAMED: Final = 3
"""Number of existing files that an error message names."""


@dataclass(frozen=True, kw_only=True)
class ExportSummary:
    """The result of an export of subtitles."""

    folder: Path
    files: int
    """Number of files."""
    cues: int
    """Number of subtitles in all files."""
    left_out: Mapping[str, int]
    """Clips without subtitles, by reason."""


def export_subtitles(
    output: Path, kind: SubtitleFormat, *, folder: Path | None = None, task: str | None = None, root: Path | None = None
) -> ExportSummary:
    """Write a file of subtitles for each video of a run's output. All stretches of a video go into one file.

    For a task with times, its events become subtitles. For other tasks, each caption is shown from the start of its
    clip to the end. All subtitles are held in memory at once.

    Args:
        output: the output of the run, as its command names it.
        kind: WebVTT or SubRip.
        folder: the folder to write to; by default `captions.subtitles` beside `captions.jsonl`. Files have the names of
            the videos, and the same subfolders below the folder that all videos share.
        task: the task to export; by default the only one, or the only one with times.
        root: folder that relative paths of videos start from; by default that of the run.

    Raises:
        DatasetError: there is no such data set, it has no subtitles, or a file exists already. In these cases nothing
            is written. Or a file cannot be written.
        SettingsError: there is no such task, or there are several and none is named.
        MissingExtraError: a package that the format of the data set needs is not installed.
    """
    data = CaptionedData(output, root=root)
    answers = _Answers()
    for entry in data.entries():
        if isinstance(entry, Entry) and task in (None, entry.task):
            answers.add(entry)
    timed = {item.name for item in data.tasks if item.times} | answers.with_events
    name = _chosen(task, [item.name for item in data.tasks], timed)
    cues, left_out = answers.cues_of(name, timed=name in timed)
    if not cues:
        why = ", ".join(f"{count:,} {reason}" for reason, count in left_out.items()) or "it has no clips"
        raise DatasetError(f"there is nothing to export of the task {name} in {output}: {why}.")
    folder = beside(output, "subtitles") if folder is None else folder
    files = {folder / f"{path}.{kind}": cues[key] for key, path in _paths(answers.places, cues).items()}
    there = [file for file in files if os.path.lexists(file)]
    if there:
        named = ", ".join(map(str, there[:_MOST_NAMED]))
        more = f" and {len(there) - _MOST_NAMED:,} more" if len(there) > _MOST_NAMED else ""
        verb = "is" if len(there) == 1 else "are"
        raise DatasetError(f"cannot write: {named}{more} {verb} there already. Name another FOLDER behind OUTPUT.")
    for file, events in files.items():
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            write_whole(file, FORMATS[kind](sorted(events)))
        except OSError as exc:
            raise DatasetError(f"cannot write to {file}: {exc.strerror or exc}.") from exc
    return ExportSummary(folder=folder, files=len(files), cues=sum(map(len, files.values())), left_out=left_out)


def _chosen(task: str | None, names: list[str], timed: set[str]) -> str:
    """The task to export."""
    if task is not None:
        if task not in names:
            raise SettingsError(f"there is no task {task!r}; {did_you_mean(task, names)}")
        return task
    several = [name for name in names if name in timed] or names
    if len(several) > 1:
        raise SettingsError(f"there are several tasks, {', '.join(several)}: name one with --task.")
    return several[0]


class _Answer(NamedTuple):
    """The parts of an entry that subtitles need."""

    video: str
    """Key of the video."""
    failed: bool
    rejected: bool
    events: tuple[Event, ...] | None
    caption: Event | None
    """The caption as an event as long as its clip; None if the clip's place in the file is not known."""


class _Answers:
    """The answers of all entries, by task."""

    def __init__(self) -> None:
        self._by_task: dict[str, list[_Answer]] = {}
        self.places: dict[str, tuple[str, ...]] = {}
        """Path of each video by its key: folders and name."""
        self.with_events: set[str] = set()
        """Tasks that have events."""

    def add(self, entry: Entry) -> None:
        """Add an entry."""
        key, place = _video_of(entry)
        self.places.setdefault(key, place)
        if entry.events is not None:
            self.with_events.add(entry.task)
        start, end = entry.meta.get("clip_start"), entry.meta.get("clip_end")
        caption = None
        if entry.captions and entry.captions[0] and isinstance(start, int | float) and isinstance(end, int | float):
            caption = Event(float(start), float(end), entry.captions[0])
        made = _Answer(key, entry.failure is not None, verdict_of(entry) == "rejected", entry.events, caption)
        self._by_task.setdefault(entry.task, []).append(made)

    def cues_of(self, task: str, *, timed: bool) -> tuple[dict[str, list[Event]], Counter[str]]:
        """The cues of each video, and the number of clips without any, by reason."""
        cues: dict[str, list[Event]] = {}
        left_out: Counter[str] = Counter()
        for video, failed, rejected, events, caption in self._by_task.get(task, []):
            found = events if timed else caption and (caption,)
            if rejected:
                left_out["that a person rejected"] += 1
            elif found:
                cues.setdefault(video, []).extend(found)
            elif failed:
                left_out["that failed"] += 1
            elif not timed:
                left_out["of which it is not known where they begin and end"] += 1
            else:
                left_out["without events that can be read" if events is None else "in which nothing happens"] += 1
        return cues, left_out


# Names of files


def _video_of(entry: Entry) -> tuple[str, tuple[str, ...]]:
    """The key of a video, the same for all its stretches, and the parts of its path as in the row."""
    clip, otherwise = entry.video.clip, f"row-{entry.row}"
    if clip is None:
        name = entry.video.film
    else:
        name = clip.called or (otherwise if isinstance(clip.source, bytes) else clip.name)
    path = name if scheme_of(name) is None else name.partition("://")[2]
    parts = [part for part in path.split("/") if part not in ("", ".", "..")]
    # Names in rows may hold what no file name can: a NUL, or half of a surrogate pair.
    place = tuple(part.replace("\0", "_").encode("utf-8", "replace").decode() for part in parts)
    return entry.video.film, place or (otherwise,)


def _paths(places: Mapping[str, tuple[str, ...]], keys: Iterable[str]) -> dict[str, str]:
    """Relative paths of the files to write, without suffix: those of the videos, below the folder that all share.

    A video's suffix is left out unless two videos differ only in it. If names are still equal, a number is added.
    """
    wanted = {key: places[key] for key in keys}
    shared = len(os.path.commonprefix([place[:-1] for place in wanted.values()]))  # noqa: RUF071 - of lists of names
    below = {key: place[shared:] for key, place in wanted.items()}
    short = {key: "/".join((*place[:-1], _stem(place[-1]))) for key, place in below.items()}
    counts, taken = Counter(short.values()), set[str]()
    for key, name in short.items():
        unique = name if counts[name] == 1 else "/".join(below[key])
        full, number = unique, 1
        while unique in taken:
            number += 1
            unique = f"{full}-{number}"
        taken.add(unique)
        short[key] = unique
    return short


def _stem(name: str) -> str:
    stem, suffix = os.path.splitext(name)  # noqa: PTH122 - pathlib treats some names differently
    return stem if suffix.lower() in VIDEO_SUFFIXES else name


# Contents of files


def as_vtt(events: Iterable[Event]) -> str:
    """Events as WebVTT (W3C, "WebVTT: The Web Video Text Tracks Format"): text is escaped, since WebVTT has markup."""
    cues = (
        f"{_clock(event.start, '.')} --> {_clock(event.shown_until, '.')}\n{_escaped(_lines(event.text))}\n"
        for event in events
    )
    return "\n".join(["WEBVTT\n", *cues])


def as_srt(events: Iterable[Event]) -> str:
    """Events as SubRip. It has no standard and no escapes, so `-->` in a text, which marks times, becomes `->`."""
    return "\n".join(
        f"{number}\n{_clock(event.start, ',')} --> {_clock(event.shown_until, ',')}\n"
        f"{_lines(event.text).replace('-->', '->')}\n"
        for number, event in enumerate(events, 1)
    )


FORMATS: Final[dict[SubtitleFormat, Callable[[Iterable[Event]], str]]] = {"vtt": as_vtt, "srt": as_srt}
"""Functions that write each format."""


def _clock(seconds: float, point: str) -> str:
    """A time as HH:MM:SS.mmm; hours may have more than two digits."""
    thousandths = round(seconds * 1000)
    minutes, thousandths = divmod(thousandths, 60_000)
    return f"{minutes // 60:02d}:{minutes % 60:02d}:{thousandths // 1000:02d}{point}{thousandths % 1000:03d}"


def _lines(text: str) -> str:
    """Remove blank lines, which would end the cue, and NULs."""
    lines = re.split(r"[\r\n]+", text.replace("\0", ""))
    return "\n".join(line.strip() for line in lines if line.strip())


def _escaped(text: str) -> str:
    return text.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;")
