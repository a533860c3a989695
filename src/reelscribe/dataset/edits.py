"""The log of people's corrections and verdicts on captions: an append-only file of JSON Lines beside the output.

Each line is one action: its time, its kind, and the full new state of each caption that it changed. So the last line
about a caption is its state, a half-written line loses only its own action, and undoing an action appends the state
before it.
"""

import json
import logging
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any, Final, Literal, NamedTuple, get_args

from reelscribe.dataset.files import sync_folder
from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.dataset.lock import held
from reelscribe.dataset.names import beside
from reelscribe.errors import DatasetError

logger = logging.getLogger(__name__)

Verdict = Literal["", "approved", "rejected"]
How = Literal["edit", "candidate", "model", "approve", "reject", "clear", "note", "replace", "undo"]
"""Kind of an action. `model` restores the model's text; `clear` removes a verdict."""

_VERDICTS: Final = get_args(Verdict)
_HOWS: Final = get_args(How)


class CaptionKey(NamedTuple):
    """Key of a caption in an output. It stays the same if rows are added before."""

    video: str
    """Video as the row names it, with its stretch."""
    task: str
    asked: str
    """Short hash of the prompt and the system prompt; empty if they are not known, as for failures."""
    copy: int
    """Number of earlier captions with the same video, task and prompts."""


@dataclass(frozen=True, kw_only=True)
class Edit:
    """The correction or verdict on one caption."""

    row: int
    """Index of the row when the edit was written, from 0. It is only for people to read, since rows may move."""
    slot: int
    """Place of the video in the row."""
    key: CaptionKey
    base: str | None
    """The model's text; None for a failure."""
    also: tuple[str, ...] = ()
    """Other kept captions of the same request."""
    text: str | None = None
    """The corrected text; None to keep the model's."""
    verdict: Verdict = ""
    """Verdict on this text."""
    note: str = ""
    line: int = 0
    """Number of the edit's line in the log, from 1. It serves as the version of the caption's state."""

    @property
    def says_nothing(self) -> bool:
        """Whether the edit changes nothing: it keeps the model's text, and has no verdict and no note."""
        return self.text is None and not self.verdict and not self.note

    def is_about(self, captions: Sequence[str]) -> bool:
        """Whether these are the captions that people saw; else the edit is out of date."""
        return tuple(captions) == (() if self.base is None else (self.base, *self.also))

    def is_like(self, other: "Edit | None") -> bool:
        """Whether another edit has the same content, at any time."""
        return other is not None and replace(self, row=other.row, slot=other.slot, line=other.line) == other

    def told(self) -> dict[str, Any]:
        """The edit as an object of the log."""
        values = asdict(self) | self.key._asdict()
        return {name: values[name] for name in _KEYS}


_KEYS: Final = ("row", "slot", "video", "task", "asked", "copy", "base", "also", "text", "verdict", "note")


def edits_of(output: Path) -> Path:
    """Path of the log of an output. Outputs that differ only in format share one, as they share their captions."""
    return beside(output, "edits.jsonl")


class EditLog:
    """Reads a log and appends to it. Several processes may do so: each reads the others' new lines before it appends.

    Args:
        file: path of the log. The file need not exist.

    Raises:
        DatasetError: the log cannot be read.
    """

    def __init__(self, file: Path) -> None:
        self.file = file
        self._forget()
        with _reaching(file, "read"), suppress(FileNotFoundError), file.open("rb") as opened, held(opened, shared=True):
            rest = self._take(opened)
            if rest:
                told = "The last line of %s is half written, as a crash leaves it: that one change is lost."
                logger.warning(told, file)

    def _forget(self) -> None:
        self._size = self.lines = 0
        self._history: dict[CaptionKey, list[Edit]] = {}
        self._actions: dict[int, list[CaptionKey]] = {}
        self.names: set[tuple[str, str, str]] = set()
        """Keys of all edits, without the `copy` number."""
        self.answers: set[tuple[str, str]] = set()
        """Video and task of all edits."""

    def latest(self, key: CaptionKey) -> Edit | None:
        """The latest edit of a caption; None if there is none."""
        return self._history[key][-1] if key in self._history else None

    def before(self, line: int) -> list[tuple[Edit, Edit | None]]:
        """For each caption that the action in a line changed: the edit, and the edit before it, if any."""
        found = []
        for key in self._actions.get(line, ()):
            edits = self._history[key]
            place = next(number for number, edit in enumerate(edits) if edit.line == line)
            found.append((edits[place], edits[place - 1] if place else None))
        return found

    def edits(self) -> Iterator[Edit]:
        """The latest edit of each caption."""
        return (edits[-1] for edits in self._history.values())

    def since(self, line: int) -> Iterator[Edit]:
        """The latest edit of each caption that changed after a line."""
        keys = {key for number in range(line + 1, self.lines + 1) for key in self._actions.get(number, ())}
        return (self._history[key][-1] for key in keys)

    def refresh(self) -> None:
        """Read the lines that were appended since the last read. If the file's size is unchanged, it is not opened.

        Raises:
            DatasetError: the log cannot be read.
        """
        with _reaching(self.file, "read"), suppress(FileNotFoundError):
            if self.file.stat().st_size != self._size:
                with self.file.open("rb") as opened:
                    self._take(opened)

    def append(self, how: How, make: Callable[[], Sequence[Edit]], **more: Any) -> int:
        """Append an action. When this returns, the line is on disk.

        Args:
            how: kind of the action.
            make: returns the edits to append. It is called while the log is locked and all lines of other processes
                are read. It may raise; if it returns no edits, nothing is appended.
            **more: further values to store in the line.

        Returns:
            Number of the new line, or of the last one if nothing was appended.

        Raises:
            DatasetError: the line cannot be written; then the log is unchanged.
        """
        with _reaching(self.file, "write to"), self.file.open("a+b") as opened, held(opened):
            rest = self._take(opened)
            edits = make()
            if not edits:
                return self.lines
            told = {"time": datetime.now(UTC).isoformat(timespec="seconds"), "how": how, **more}
            line = to_json({**told, "changes": [edit.told() for edit in edits]}).encode() + b"\n"
            self._write(opened, b"\n" + line if rest else line)
            self._size += len(rest) + 1 if rest else 0
            self.lines += bool(rest)
            self._take(opened)
            return self.lines

    def _write(self, opened: IO[bytes], data: bytes) -> None:
        size = opened.seek(0, os.SEEK_END)
        try:
            opened.write(data)
            opened.flush()
            os.fsync(opened.fileno())
        except OSError:
            with suppress(OSError):  # remove the part of the line that was written
                opened.truncate(size)
            raise
        if not size:
            sync_folder(self.file.parent)

    def _take(self, opened: IO[bytes]) -> bytes:
        """Read the new lines. Returns the bytes after the last line break: a half-written line, if any."""
        if opened.seek(0, os.SEEK_END) < self._size:  # the file was replaced by another one: read it from its start
            self._forget()
        opened.seek(self._size)
        *lines, rest = opened.read().split(b"\n")
        for line in lines:
            self._size += len(line) + 1
            self.lines += 1
            try:
                edits = list(_edits_in(line, self.lines))
            except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
                logger.warning("Line %d of %s cannot be read; that one change is lost.", self.lines, self.file)
                continue
            self._actions[self.lines] = [edit.key for edit in edits]
            for edit in edits:
                self._history.setdefault(edit.key, []).append(edit)
                self.names.add(edit.key[:3])
                self.answers.add(edit.key[:2])
        return rest


def _edits_in(line: bytes, number: int) -> Iterator[Edit]:
    """The edits in a line of a log.

    Raises:
        ValueError, TypeError, LookupError, AttributeError: the line is not an action.
    """
    action = json.loads(line)
    if action["how"] not in _HOWS:
        raise ValueError(action["how"])
    for told in action["changes"]:
        key = CaptionKey(*(told[name] for name in CaptionKey._fields))
        values = {name: told[name] for name in _KEYS if name not in key._fields}
        kinds = {"row": int, "slot": int, "also": list, "base": str | None, "text": str | None, "note": str}
        if values["verdict"] not in _VERDICTS or not all(isinstance(values[name], kinds[name]) for name in kinds):
            raise TypeError(values)
        values["also"] = tuple(values["also"])
        texts = (*key[:3], *values["also"])
        if not (all(isinstance(text, str) for text in texts) and isinstance(key.copy, int)):
            raise TypeError(key)
        yield Edit(key=key, line=number, **values)


def undone(pairs: Iterable[tuple[Edit, Edit | None]]) -> list[Edit]:
    """Edits that restore what an action changed."""
    blank: dict[str, Any] = {"text": None, "verdict": "", "note": ""}
    return [before or replace(edit, **blank) for edit, before in pairs]


@contextmanager
def _reaching(file: Path, what: str) -> Iterator[None]:
    try:
        yield
    except OSError as exc:
        raise DatasetError(f"cannot {what} {file}: {exc.strerror or exc}.") from exc
