"""Captions in files beside local videos: `clip.txt` or `clip.json` for `clip.mp4`, `clip.NAME.txt` for a task NAME.

Such files are called sidecars. Those of a stretch have its times in their names: `film.00012.0-00018.5.txt`.

A sidecar that no run on this output wrote, or that was changed since, belongs to a person. It is read as a part of the
row, and replaced only if the settings say so; then it is kept as `clip.txt.bak`, and read from there.
"""

import errno
import itertools
import json
import logging
import os
import re
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Final, Protocol, Self

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, write_whole
from reelscribe.errors import ClipError, DatasetError
from reelscribe.layouts import LAYOUTS, caption_cells, clips_of
from reelscribe.values import Caption, Clip, InputRow, Outcome, Row, RowResult
from reelscribe.video.fetch import FetchLimits, local, scheme_of

logger = logging.getLogger(__name__)

IsOwn = Callable[[Path, bytes], bool]
"""Function of a file and its content that returns whether a run on this output wrote it."""
_STRETCH: Final = re.compile(r"\.[0-9]{5,}\.[0-9]{1,3}-(?:[0-9]{5,}\.[0-9]{1,3}|end)\.")
_MOST_NAMED: Final = 3
_MOST_WAITING, _WAIT_SECONDS = 256, 1.0
"""Maximum number of files in a batch, and maximum seconds before a batch is written. Notes on files are committed once
per batch."""


class Notes(Protocol):
    """Knows which files runs on this output wrote; see `Ledger`."""

    def wrote(self, file: Path, content: bytes) -> bool:
        """Whether a run wrote it."""

    def may_have_written(self, file: Path, content: bytes) -> bool:
        """Whether a run wrote it, or may have: release 0.1.0 kept no notes."""

    def note_sidecar(self, file: Path, content: bytes) -> None:
        """Note that a file is about to be written."""

    def flush(self) -> None:
        """Write the notes to disk."""


def sidecar_of(video: Path, kind: str) -> Path:
    """Path of a video's sidecar: `a.txt` for `a.mp4`, but `a.mp4.txt` if there is another video `a`, such as `a.mov`.

    It is never the path of the video itself, whatever the video's suffix.
    """
    others = (video.with_suffix(suffix) for suffix in sorted(VIDEO_SUFFIXES - {video.suffix.lower()}))
    shared = any(os.path.lexists(other) for other in others)
    name = video.name if shared or video.suffix == f".{kind}" else video.stem
    return video.with_name(f"{name}.{kind}")


def _stretch_part(clip: Clip) -> str:
    """Times of a stretch as a part of file names, with a dot after it; empty for a whole video."""
    if clip.is_whole:
        return ""
    end = "end" if clip.end_seconds is None else _sortable(clip.end_seconds)
    return f"{_sortable(clip.start_seconds)}-{end}."


def _sortable(seconds: float) -> str:
    """A time padded with zeros (00012.5), so that names sort by time, up to a day."""
    digits = f"{seconds:09.3f}"
    return digits[:-2] + digits[-2:].rstrip("0")


def without_stretch(name: str) -> str:
    """The name of a sidecar without the times of a stretch."""
    return _STRETCH.sub(".", name)


# Reading


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Gives access to the sidecars of a local video and of its stretches. It is the `source` of the video's row."""

    video: Path
    is_own: IsOwn

    def columns(self, clip: Clip, settings: Settings) -> tuple[Row, str | None]:
        """The columns in the sidecars of a clip, and their problem, if any; see `read_sidecars`.

        For a stretch, columns of times are left out: the file names have its times.
        """
        columns, wrong = read_sidecars(self.video, settings, self.is_own, _stretch_part(clip))
        left_out = () if clip.is_whole else settings.stretch_columns
        return {name: value for name, value in columns.items() if name not in left_out}, wrong


def read_sidecars(
    video: Path, settings: Settings, is_own: IsOwn = lambda file, content: False, part: str = ""
) -> tuple[Row, str | None]:
    """Read the sidecars of a video.

    A `.txt` file holds the text column, a `.json` file holds an object of columns. A file that a run on this output
    wrote is not read; if it replaced a person's file, that file's backup is read.

    Args:
        video: path of the video.
        settings: name of the text column, and the maximum length of a file.
        is_own: whether a run on this output wrote a file.
        part: part of the file names for a stretch, with a dot after it; empty for the whole video.

    Returns:
        The columns, and a message if a file cannot be read, else None.
    """
    row: Row = {}
    for kind in ("json", "txt"):
        file = _find_sidecar(video, part + kind)
        if file is None:
            continue
        try:
            data = _content(file, settings)
            if is_own(file, data):
                backups = list(_backups(file))
                if not backups:
                    continue
                file = backups[-1]
                data = _content(file, settings)
            if len(data) > settings.max_line_bytes:
                return row, f"{file} is longer than {settings.max_line_bytes:,} bytes (max_line_bytes)."
            text = data.decode("utf-8-sig")
            columns = json.loads(text) if kind == "json" else {settings.text_key: text.strip()}
        except OSError as exc:
            return row, f"{file} cannot be read: {exc.strerror}."
        except (ValueError, RecursionError) as exc:
            return row, f"{file} cannot be read: {exc}."
        if not isinstance(columns, dict):
            return row, f"{file} must hold a JSON object; it holds {type(columns).__name__}."
        row |= columns
    return row, None


def _find_sidecar(video: Path, kind: str) -> Path | None:
    """The file beside a video, if it exists. Most do not, so that is checked first."""
    # os.path.isfile returns False for a name that is too long; Path.is_file raises.
    if not any(os.path.isfile(video.with_name(f"{name}.{kind}")) for name in (video.stem, video.name)):  # noqa: PTH113
        return None
    file = sidecar_of(video, kind)
    return file if os.path.isfile(file) else None  # noqa: PTH113


def _content(file: Path, settings: Settings) -> bytes:
    """Content of a file, up to one byte more than the limit, so that the caller can see that it is too long."""
    with file.open("rb") as opened:
        return opened.read(settings.max_line_bytes + 1)


def _backups(file: Path) -> Iterator[Path]:
    """Backups of a replaced file, the latest last."""
    names = (f"{file.name}.bak{number or ''}" for number in itertools.count())
    return itertools.takewhile(os.path.lexists, (file.with_name(name) for name in names))


# Writing


class SidecarWriter:
    """Writes a sidecar beside each local video that has a caption. Each file is written atomically.

    Videos given by URL or as bytes get no sidecar. For a video without a caption an existing file stays.

    Args:
        settings: kind of the files, and whether files that no run wrote may be replaced.
        notes: store of the files that runs on this output wrote; new files are added to it.
    """

    def __init__(self, settings: Settings, notes: Notes) -> None:
        self._settings, self._notes = settings, notes
        self._limits = FetchLimits.of(settings)
        self._kinds: dict[str | None, str] = {None: settings.sidecar or ""}
        """Suffix of the file for each task; key None for one file with all tasks."""
        self._over = {task.name: f"{task.name}.{settings.sidecar}" for task in settings.all_tasks if task.is_over_video}
        if settings.sidecar == "txt":
            names = [task.name for task in settings.all_tasks if task.name not in self._over]
            self._kinds = {name: f"{name}.txt" if settings.tasks else "txt" for name in names}
        self._left = 0
        self._waiting: dict[Path, str] = {}
        self._written = time.monotonic()

    def check(self, rows: Iterable[InputRow]) -> None:
        """Check that no sidecar would replace a file that no run wrote.

        Raises:
            DatasetError: there are such files.
        """
        found: dict[Path, None] = {}
        for row in rows:
            if self._is_of_shard(row):
                found |= dict.fromkeys(file for *_, file in self._files(row) if self._is_of_others(file))
        if found:
            named = ", ".join(map(str, itertools.islice(found, _MOST_NAMED)))
            more = f" and {len(found) - _MOST_NAMED:,} more" if len(found) > _MOST_NAMED else ""
            raise DatasetError(
                f"sidecars would replace files that no run on this output wrote, or that were changed since: {named}"
                f"{more}. Move them away, leave out --sidecar, or give --overwrite-sidecars, which keeps each as .bak."
            )

    def _is_of_shard(self, row: InputRow) -> bool:
        shard = self._settings.part()
        if shard is None or row.problem:
            return True
        as_columns = replace(self._settings, layout="columns")  # the videos, which tell the shard, are the same in all
        plan = LAYOUTS["columns"].plan(row.row, row.index, as_columns, row.root)
        return shard.holds(plan.shard_hash if row.shard_hash is None else row.shard_hash)

    def _files(self, row: InputRow) -> Iterator[tuple[int, str | None, Path]]:
        """Number of each local video of a row, and the files beside it: each with its task, or None for all in one."""
        try:
            clips = clips_of(row.row, self._settings, row.root)
        except ClipError:
            return
        for number, clip in enumerate(clips):
            if isinstance(clip.source, str) and scheme_of(clip.source) in (None, "file"):
                try:
                    path = local(clip, self._limits).path
                    there = path.is_file()
                except (ClipError, OSError, ValueError):  # there can be no such file, or it must not be read
                    continue
                if there:
                    part = _stretch_part(clip)
                    yield from ((number, task, sidecar_of(path, part + kind)) for task, kind in self._kinds.items())
                    if number == 0:  # what is over the video lies beside it as a whole
                        yield from ((0, task, sidecar_of(path, kind)) for task, kind in self._over.items())

    def _is_of_others(self, file: Path) -> bool:
        if not os.path.lexists(file):
            return False
        try:
            return file.is_symlink() or not self._notes.may_have_written(file, _content(file, self._settings))
        except OSError:  # a folder, or what may not be read
            return True

    def write(self, result: RowResult) -> None:
        """Queue the sidecars of one row. They are written with the next batch, or when the context ends.

        Raises:
            DatasetError: a file of the batch cannot be written.
        """
        kind = self._settings.sidecar
        if kind is None or result.origin is None or not result.captions:
            return
        for number, task, file in self._files(result.origin):
            of_clip = [made for made in result.outcomes if made.id.slot == number]
            found = [
                made for made in of_clip if made.id.task == task or (task is None and made.id.task not in self._over)
            ]
            if any(isinstance(made, Caption) for made in found):
                content = _CONTENTS[kind](found, self._settings)
                if content is not None:
                    self._waiting[file] = content
        if len(self._waiting) >= _MOST_WAITING or time.monotonic() - self._written > _WAIT_SECONDS:
            self._write_waiting()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with suppress(*(DatasetError,) if error else ()):
            self._write_waiting()

    def _write_waiting(self) -> None:
        """Note all waiting files in one transaction, since commits are slow on most disks, and then write the files."""
        waiting, self._waiting = self._waiting, {}
        wanted = [item for item in waiting.items() if _tried(item[0], partial(self._is_wanted, *item))]
        if wanted:
            self._notes.flush()
        for file, text in wanted:
            _tried(file, partial(self._put, file, text))
        self._written = time.monotonic()

    def _is_wanted(self, file: Path, text: str) -> bool:
        """Note a file that may be replaced, and return whether it must be written.

        False if it has this content already, or if it belongs to a person.
        """
        content = text.encode("utf-8", "backslashreplace")
        if not self._may_replace(file, content):
            return False
        self._notes.note_sidecar(file, content)
        return self._content_at(file) != content

    def _content_at(self, file: Path) -> bytes | None:
        """Content of a file; None if it does not exist or is not a regular file."""
        return None if file.is_symlink() or not file.is_file() else _content(file, self._settings)

    def _may_replace(self, file: Path, content: bytes) -> bool:
        there = self._content_at(file)
        if not os.path.lexists(file) or self._settings.overwrite_sidecars or there == content:
            return True
        if there is not None and self._notes.wrote(file, there):
            return True
        self._leave(file)
        return False

    def _put(self, file: Path, text: str) -> bool:
        there = self._content_at(file)
        if os.path.lexists(file) and not file.is_dir() and (there is None or not self._notes.wrote(file, there)):
            file.rename(next_backup(file))
        write_whole(file, text)
        return True

    def _leave(self, file: Path) -> None:
        self._left += 1
        if self._left <= _MOST_NAMED:
            logger.warning(
                "%s stays as it is, though the caption is another: it is not as a run on this output wrote it. Give "
                "--overwrite-sidecars to have the caption there.",
                file,
            )


def _tried(file: Path, do: Callable[[], bool]) -> bool:
    """Run an operation on a file. If the file's name is too long, log a warning and return False.

    Raises:
        DatasetError: the operation failed for another reason.
    """
    try:
        return do()
    except OSError as exc:
        if exc.errno != errno.ENAMETOOLONG:
            raise DatasetError(f"cannot write to {file}: {exc.strerror}.") from exc
        logger.warning("%s is not written: its name is too long.", file)
        return False


def next_backup(file: Path) -> Path:
    """Path of the next backup: `.bak`, or `.bak1` and so on if that exists."""
    return file.with_name(f"{file.name}.bak{len(list(_backups(file))) or ''}")


def _as_text(outcomes: Sequence[Outcome], settings: Settings) -> str | None:
    """Content of a `.txt` sidecar: the text or value of its only task; None if there is none."""
    [outcome] = outcomes
    [task] = [task for task in settings.all_tasks if task.name == outcome.id.task]
    text = caption_cells(outcome, task)["text"]
    if text is None:
        return None
    return (text if isinstance(text, str) else json.dumps(text, ensure_ascii=False)) + "\n"


def _as_json(outcomes: Sequence[Outcome], settings: Settings) -> str:
    """Content of a `.json` sidecar: the columns of all tasks, also of those that failed."""
    tasks = {task.name: task for task in settings.all_tasks}
    table = {
        tasks[outcome.id.task].column(kind): cell
        for outcome in outcomes
        for kind, cell in caption_cells(outcome, tasks[outcome.id.task]).items()
        if kind in settings.column_kinds
    }
    return json.dumps(table, ensure_ascii=False, indent=1) + "\n"


_CONTENTS: Final[dict[str, Callable[[Sequence[Outcome], Settings], str | None]]] = {"txt": _as_text, "json": _as_json}
