"""What the page of `view` may do to captions: change one, undo an action, find and replace in all of them."""

import re
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

from reelscribe.dataset.edits import Edit, EditLog, How, undone
from reelscribe.report.edited import events_in, key_of
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.report.words import differences
from reelscribe.schemas import Schema
from reelscribe.templates import is_utf8
from reelscribe.words import whole_words, words_of

_LONGEST: Final = 100_000
"""Letters of a caption or a note."""
_SAMPLES: Final = 8
_CHANGED: Final = "captions changed since the preview; look at it again."
_NO_EVENTS: Final = (
    "this has no events, or some that cannot be: write lines as 0.0-2.5 s: text, in order and within the clip; only "
    "where a task allows that may they overlap."
)
_VERDICTS: Final[Mapping[str, How]] = {"approved": "approve", "rejected": "reject", "": "clear"}


class BadEditError(Exception):
    """An edit that cannot be made, whatever others do."""


class ConflictError(Exception):
    """An edit of something that is not there any more, since somebody else changed it.

    Args:
        message: what happened.
        told: what is there instead.
    """

    def __init__(self, message: str, told: Mapping[str, Any]) -> None:
        super().__init__(message)
        self.told = told


@dataclass(frozen=True, kw_only=True)
class Replacement:
    """What find and replace does to one caption."""

    entry: Entry
    edit: Edit
    before: str


class Editor:
    """Takes edits from pages, and keeps them in the log. May be used from several threads.

    Args:
        data: the data set, with entries as the model left them.
        entries: those that the page shows, by what it knows them by.

    What its methods are given comes from outside, and is checked. They raise:
        BadEditError: that makes no sense. Nothing is changed.
        ConflictError: somebody else changed a caption meanwhile. Nothing is changed.
        DatasetError: the log cannot be read or written.
    """

    def __init__(self, data: CaptionedData, entries: Mapping[str, Entry]) -> None:
        self._data, self._entries = data, dict(entries)
        self._log: EditLog = data.log
        self._ids = {key_of(entry): name for name, entry in entries.items()}
        self._tasks = {task.name: task for task in data.tasks}
        self._lock = threading.Lock()

    def add(self, entries: Mapping[str, Entry]) -> None:
        """Take edits of more entries: those that came to the page since."""
        with self._lock:
            self._entries |= entries
            self._ids |= {key_of(entry): name for name, entry in entries.items()}

    def states(self, since: int = 0) -> dict[str, Any]:
        """What the page shows of edits: of all that changed after a line of the log."""
        with self._lock:
            self._log.refresh()
            since = since if since <= self._log.lines else 0  # another log took its place
            return self._told(since)

    def change(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Change one caption.

        Args:
            asked: `id` and `version` of what it is now, and one of `text` (None for the model's), `candidate` (its
                place), `verdict` and `note`.
        """
        name = asked.get("id")
        entry = self._entries.get(name) if isinstance(name, str) else None
        if entry is None or not isinstance(name, str):
            raise BadEditError("there is no such caption on this page; load it again.")
        how, changes = self._changes(asked, entry)

        def make() -> list[Edit]:
            present = self._log.latest(key_of(entry))
            if (present.line if present else 0) != asked.get("version"):
                raise ConflictError("somebody else changed this caption meanwhile.", self._told(names=[name]))
            return [replace(self._present(entry), **changes)]

        return self._append(how, make)

    def undo(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Put back what was before the action in a line of the log, `line`."""
        line = asked.get("line")

        def make() -> list[Edit]:
            pairs = self._log.before(line) if isinstance(line, int) else []
            if not pairs:
                raise BadEditError("there is nothing to undo.")
            later = [edit.key for edit, _ in pairs if not edit.is_like(self._log.latest(edit.key))]
            if later:
                names = [self._ids[key] for key in later if key in self._ids]
                message = "what is to be undone was changed again since; it stays as it is."
                raise ConflictError(message, self._told(names=names))
            return undone(pairs)

        return self._append("undo", make, undoes=line)

    def replace(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Find and replace in the captions of a task, also in those that the page does not show.

        Args:
            asked: `find`, `with`, `task`, `case` and `words` (whether letters' case and whole words matter); and
                `count`, how many captions are to be changed, or None to look how many that would be.
        """
        find = _finder(asked)
        left_out: dict[str, int] = {}
        found = list(self._replacements(asked, find, left_out))
        if asked.get("count") is None:
            samples = [
                {"video": item.entry.video.name, "pieces": differences(item.before, item.edit.text or "")}
                for item in found[:_SAMPLES]
            ]
            return {"count": len(found), "samples": samples, "left_out": left_out}
        if asked["count"] != len(found):
            raise ConflictError(_CHANGED, {})

        def make() -> list[Edit]:
            for item in found:
                if self._text_of(item.entry) != item.before:
                    raise ConflictError(_CHANGED, {})
            return [item.edit for item in found]

        return self._append("replace", make, find=asked["find"], **{"with": asked["with"]})

    # What things are

    def _present(self, entry: Entry) -> Edit:
        """What people made of a caption; of a text that is not there any more the note alone stays."""
        known = self._log.latest(key_of(entry))
        if known and known.is_about(entry.captions):
            return replace(known, row=entry.row, slot=entry.slot)
        note = known.note if known else ""
        also = entry.captions[1:]
        return Edit(row=entry.row, slot=entry.slot, key=key_of(entry), base=entry.said, also=also, note=note)

    def _text_of(self, entry: Entry) -> str | None:
        text = self._present(entry).text
        return entry.said if text is None else text

    def _told(self, since: int = 0, names: Sequence[str] | None = None) -> dict[str, Any]:
        """The states of what changed since a line, or of some captions; and how long the log is."""
        keys = [edit.key for edit in self._log.since(since)] if names is None else []
        names = [self._ids[key] for key in keys if key in self._ids] if names is None else names
        return {"line": self._log.lines, "states": {name: self._state(self._entries[name]) for name in names}}

    def _state(self, entry: Entry) -> dict[str, Any]:
        known = self._log.latest(key_of(entry)) or self._present(entry)
        events = events_in(entry, known.text, entry.times) if entry.times and known.text is not None else None
        return {
            "version": known.line,
            "text": known.text,
            "events": events and [{**event._asdict(), "shown_until": event.shown_until} for event in events],
            "verdict": known.verdict,
            "note": known.note,
            "outdated": not known.is_about(entry.captions) and not known.says_nothing,
            "words": len(words_of(self._text_of(entry) or "")),
        }

    # What is asked

    def _changes(self, asked: Mapping[str, Any], entry: Entry) -> tuple[How, dict[str, Any]]:
        """What a page wants to do, and what changes by that."""
        match asked:
            case {"text": None}:
                return "model", {"text": None, "verdict": ""}
            case {"text": str(text)}:
                return "edit", {"text": self._checked(entry, text), "verdict": ""}
            case {"candidate": int(place)} if place in dict(entry.others):
                return "candidate", {"text": self._checked(entry, dict(entry.others)[place]), "verdict": ""}
            case {"verdict": str(verdict)} if verdict in _VERDICTS:
                return _VERDICTS[verdict], {"verdict": verdict}
            case {"note": str(note)} if not is_utf8(note):
                raise BadEditError("a note cannot hold half a surrogate pair.")
            case {"note": str(note)} if len(note) <= _LONGEST:
                return "note", {"note": note}
        raise BadEditError("an edit is a text, one of the candidates, a verdict or a note.")

    def _checked(self, entry: Entry, text: str) -> str:
        """A text that may take the place of a caption."""
        text = text.strip()
        if problem := self._problem(entry, text):
            raise BadEditError(problem)
        return text

    def _problem(self, entry: Entry, text: str) -> str | None:
        """Why a text cannot take the place of a caption."""
        task = self._tasks.get(entry.task)
        schema = task.schema if task else None
        own = None
        times = entry.times or (task.times if task else False)
        if entry.said is None and not entry.failure:
            own = "the text of this answer was not written to the output; there is nothing to correct."
        elif entry.failure and not entry.video.name:
            own = "its row has no video that could be read; there is nothing to describe."
        elif schema and '"x-from"' in schema.text:
            own = "an answer with fields from the file cannot be corrected; it can be approved, rejected and noted on."
        elif not text:
            own = "a caption cannot be empty; reject it."
        elif len(text) > _LONGEST:
            own = f"a caption has at most {_LONGEST:,} letters; this has {len(text):,}."
        elif not is_utf8(text):
            own = "a caption cannot hold half a surrogate pair."
        elif times and events_in(entry, text, times) is None:
            own = _NO_EVENTS
        return own or (_misfit(schema, text) if entry.structured else None)

    def _replacements(
        self, asked: Mapping[str, Any], find: re.Pattern[str], left_out: dict[str, int]
    ) -> Iterator[Replacement]:
        for entry in self._data.entries():
            if not isinstance(entry, Entry) or entry.task != asked["task"]:
                continue
            with self._lock:
                present = self._present(entry)
            before = entry.said if present.text is None else present.text
            if before is None or not find.search(before):
                continue
            text = find.sub(lambda _: asked["with"], before).strip()
            if text == before:
                continue
            problem = "it has several captions." if len(entry.captions) > 1 else self._problem(entry, text)
            if problem:
                left_out[problem] = left_out.get(problem, 0) + 1
                continue
            yield Replacement(entry=entry, edit=replace(present, text=text, verdict=""), before=before)

    def _append(self, how: How, make: Callable[[], list[Edit]], **more: Any) -> dict[str, Any]:
        with self._lock:
            before = self._log.lines
            line = self._log.append(how, make, **more)
            return {**self._told(before), "done": line}


def _misfit(schema: Schema | None, text: str) -> str | None:
    """Why a text is no value of a structured caption; without a ledger no more is known than that it is an object."""
    schema = schema or Schema(text='{"type": "object"}')
    fault = schema.read(text)[1]
    return {None: None, "not_json": "this is no JSON.", "schema": "this does not fit the schema of the task."}[fault]


def _finder(asked: Mapping[str, Any]) -> re.Pattern[str]:
    find, case, words = (asked.get(name) for name in ("find", "case", "words"))
    if not (
        isinstance(find, str) and find and isinstance(asked.get("with"), str) and isinstance(asked.get("task"), str)
    ):
        raise BadEditError("find and replace needs a text to find, one to put there, and a task.")
    return re.compile(whole_words(find) if words else re.escape(find), 0 if case else re.IGNORECASE)
