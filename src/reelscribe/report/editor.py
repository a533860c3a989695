"""The edits that the page of `view` can make: change a caption, undo an action, find and replace in all captions."""

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
"""Maximum letters of a caption or a note."""
_SAMPLES: Final = 8
"""Number of changes that a preview of find and replace shows."""
_CHANGED: Final = "captions changed since the preview; look at it again."
_NO_EVENTS: Final = (
    "this has no events, or some that cannot be: write lines as 0.0-2.5 s: text, in order and within the clip; only "
    "where a task allows that may they overlap."
)
_VERDICTS: Final[Mapping[str, How]] = {"approved": "approve", "rejected": "reject", "": "clear"}
"""Action in the log for each verdict."""


class BadEditError(Exception):
    """An edit that makes no sense, or that cannot be made for this caption."""


class ConflictError(Exception):
    """An edit of a caption that somebody else changed in the meantime.

    Args:
        message: what happened.
        told: the states of the captions now, for the page.
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
    """The text before."""


class Editor:
    """Takes edits from pages and writes them to the log. May be used from several threads.

    Args:
        data: the data set, with entries as the model left them.
        entries: the entries that the page shows, by their identifiers on the page.

    Arguments of the methods come from the browser, and are checked. The methods raise:
        BadEditError: the request makes no sense. Nothing is changed.
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
        """Accept edits of entries that were added to the page."""
        with self._lock:
            self._entries |= entries
            self._ids |= {key_of(entry): name for name, entry in entries.items()}

    def states(self, since: int = 0) -> dict[str, Any]:
        """The states of all captions that changed after this line of the log, for the page."""
        with self._lock:
            self._log.refresh()
            since = since if since <= self._log.lines else 0  # the log was replaced by a shorter one
            return self._told(since)

    def change(self, asked: Mapping[str, Any]) -> dict[str, Any]:
        """Change one caption.

        Args:
            asked: `id` and present `version` of the caption, and one of `text` (None for the model's text), `candidate`
                (its number), `verdict` and `note`.
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
        """Undo the action in line `line` of the log."""
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
        """Find and replace in all captions of a task, including those that the page does not show.

        Args:
            asked: `find`, `with`, `task`, `case` (match case), `words` (match whole words); and `count`, the number of
                captions that the preview showed, or None to get the preview.
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

    # State of captions

    def _present(self, entry: Entry) -> Edit:
        """The present edit of a caption. If the edit is of a text that is gone, only its note is kept."""
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
        """The states of captions that changed after a line, or of the named ones; and the last line of the log."""
        keys = [edit.key for edit in self._log.since(since)] if names is None else []
        names = [self._ids[key] for key in keys if key in self._ids] if names is None else names
        return {"line": self._log.lines, "states": {name: self._state(self._entries[name]) for name in names}}

    def _state(self, entry: Entry) -> dict[str, Any]:
        """The state of a caption as the page shows it; see `states`."""
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

    # Requests of the page

    def _changes(self, asked: Mapping[str, Any], entry: Entry) -> tuple[How, dict[str, Any]]:
        """The kind of edit that a page asks for, and the fields that it changes."""
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
        """The text without white space around it. Raises BadEditError if it cannot replace the caption."""
        text = text.strip()
        if problem := self._problem(entry, text):
            raise BadEditError(problem)
        return text

    def _problem(self, entry: Entry, text: str) -> str | None:
        """Why a text cannot replace a caption; None if it can."""
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
        """Yield what find and replace would change. Counts in `left_out`, by reason, what it cannot change."""
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
        """Append edits to the log under the lock. Returns the new states, and the line of the action as `done`."""
        with self._lock:
            before = self._log.lines
            line = self._log.append(how, make, **more)
            return {**self._told(before), "done": line}


def _misfit(schema: Schema | None, text: str) -> str | None:
    """Why a text does not fit the schema; None if it does. Without a ledger, any JSON object fits."""
    schema = schema or Schema(text='{"type": "object"}')
    fault = schema.read(text)[1]
    return {None: None, "not_json": "this is no JSON.", "schema": "this does not fit the schema of the task."}[fault]


def _finder(asked: Mapping[str, Any]) -> re.Pattern[str]:
    """The pattern of a find-and-replace request. Raises BadEditError if a field is missing or not a string."""
    find, case, words = (asked.get(name) for name in ("find", "case", "words"))
    if not (
        isinstance(find, str) and find and isinstance(asked.get("with"), str) and isinstance(asked.get("task"), str)
    ):
        raise BadEditError("find and replace needs a text to find, one to put there, and a task.")
    return re.compile(whole_words(find) if words else re.escape(find), 0 if case else re.IGNORECASE)
