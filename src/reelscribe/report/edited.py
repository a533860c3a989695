"""Applies people's edits to the entries that a model left."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from reelscribe.dataset.edits import CaptionKey, Edit, EditLog
from reelscribe.events import Event, Times, checked, in_text, moved

if TYPE_CHECKING:
    from reelscribe.report.entries import Entry

BY_HAND: Final = "by hand"
"""Value of `model` in the metadata of a caption that a person wrote because there was none."""
_HASH_LETTERS: Final = 12
"""Letters of a prompt's SHA-256 that are part of a caption's key."""


class Numbering:
    """Numbers entries with the same key, in one pass through a data set."""

    def __init__(self) -> None:
        self._met: Counter[int] = Counter()

    def __call__(self, entry: "Entry") -> "Entry":
        """The entry with its `copy`: how many entries with its key came before."""
        name = hash(key_of(entry)[:3])  # a hash takes less memory, as there may be millions
        self._met[name] += 1
        return replace(entry, copy=self._met[name] - 1)


class Corrections:
    """Applies people's edits to entries, in one pass through a data set.

    Args:
        log: the log of edits.
    """

    def __init__(self, log: EditLog) -> None:
        self._log = log
        self._met: Counter[tuple[str, str, str]] = Counter()
        self._answers: set[tuple[str, str]] = set()
        self._found: set[CaptionKey] = set()
        self.outdated = 0
        """Number of edits whose caption was made again since."""

    def __call__(self, entry: "Entry") -> "Entry":
        """The entry with its edit. An edit of a text that is gone is only noted, in `outdated`."""
        name = key_of(entry)[:3]
        if name[2] and name[:2] in self._log.answers:
            self._answers.add(name[:2])
        if name not in self._log.names:
            return entry
        entry = replace(entry, copy=self._met[name])
        self._met[name] += 1
        key = key_of(entry)
        edit = self._log.latest(key)
        if edit is None:
            return entry
        self._found.add(key)
        if edit.says_nothing:
            return entry
        if not edit.is_about(entry.captions):
            self.outdated += 1
            return replace(entry, outdated=edit)
        return corrected(entry, edit)

    @property
    def notes(self) -> list[str]:
        """Messages about edits that have no effect. Complete only after the last entry."""
        gone = [edit.key for edit in self._log.edits() if edit.key not in self._found and not edit.says_nothing]
        # No entry has the prompt of these edits, but their video has an answer of this task to another prompt.
        otherwise = sum(bool(key.asked) and key[:2] in self._answers and key[:3] not in self._met for key in gone)
        notes = []
        if self.outdated:
            notes.append(_count(self.outdated, "is of what is no longer kept", "are of what is no longer kept"))
        if otherwise:
            notes.append(_count(otherwise, "is of an answer to another prompt", "are of answers to another prompt"))
        if len(gone) > otherwise:
            notes.append(
                _count(len(gone) - otherwise, "is of a caption that is not there", "are of captions that are not there")
            )
        return notes


def _count(number: int, one: str, several: str) -> str:
    """A sentence about this many edits without effect."""
    if number == 1:
        return f"1 correction {one}: it has no effect, and stays in the log"
    return f"{number:,} corrections {several}: they have no effect, and stay in the log"


def key_of(entry: "Entry") -> CaptionKey:
    """The key of a caption in the log of edits."""
    asked = str(entry.meta.get("prompt_sha256") or "")[:_HASH_LETTERS]
    return CaptionKey(entry.video.name, entry.task, asked, entry.copy)


def corrected(entry: "Entry", edit: Edit) -> "Entry":
    """Apply an edit to an entry. If the text changes, the text before becomes one of the other candidates."""
    meta = entry.meta | marks_of(entry.meta, edit)
    if edit.text is None or edit.text == entry.said:
        return replace(entry, edit=edit, meta=meta)
    places = entry.meta.get("kept") or [0]
    before = [(place, text) for place, text in zip(places, entry.captions, strict=False) if text != edit.text]
    others = tuple(item for item in (*before, *entry.others) if item[1] != edit.text)
    events = events_in(entry, edit.text, entry.times) if entry.times else None
    changed = replace(entry, edit=edit, meta=meta, captions=(edit.text,), others=others, events=events)
    return replace(changed, failure=None, message="")


def events_in(entry: "Entry", text: str, times: Times) -> tuple[Event, ...] | None:
    """Read the events in a text about an entry's clip, with times from the start of the file.

    Args:
        entry: the entry; it says where the clip begins and ends.
        text: a text with times from the start of the clip, as a model writes them.
        times: whether events may overlap.

    Returns:
        The events; None if the text has none, or some are impossible.
    """
    start, end = (entry.meta.get(name) for name in ("clip_start", "clip_end"))
    if start is None and entry.video.clip is not None:
        start, end = entry.video.clip.start_seconds, entry.video.clip.end_seconds
    start = start or 0.0
    seconds = None if end is None else end - start
    found = in_text(text, seconds)
    events = None if found is None else checked(found, seconds, times)
    return None if events is None else moved(events, start)


def marks_of(meta: Mapping[str, Any], edit: Edit | None) -> dict[str, Any]:
    """The fields of a caption's metadata that an edit sets. Without an edit, those fields as they are, or empty."""
    before = {name: meta.get(name) or "" for name in ("edited_from", "verdict", "note")}
    if edit is None:
        return before
    marks = {"edited_from": before["edited_from"], "verdict": edit.verdict, "note": edit.note}
    if edit.text is not None and edit.text != edit.base:
        # Flags about the old text go; flags about the clip stay.
        marks |= {"edited_from": before["edited_from"] or edit.base or "", "flags": meta.get("clip_flags") or ""}
        marks |= {"model": BY_HAND} if edit.base is None else {}
    return marks


def is_edited(entry: "Entry") -> bool:
    """Whether a person changed or wrote the text of an entry."""
    return bool(entry.meta.get("edited_from")) or is_by_hand(entry)


def is_by_hand(entry: "Entry") -> bool:
    """Whether a person wrote the text of an entry that had none."""
    return entry.meta.get("model") == BY_HAND


def verdict_of(entry: "Entry") -> str:
    """A person's verdict on an entry: "approved", "rejected" or ""."""
    return str(entry.meta.get("verdict") or "")
