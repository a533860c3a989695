"""Chooses the captions that go to a trainer, applies their wording, and counts what is left out."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.export.texts import Wording
from reelscribe.export.where import VALUES, Condition, Named, header_of
from reelscribe.report.edited import verdict_of
from reelscribe.report.entries import CaptionedData, Entry, by_video
from reelscribe.values import CAPTION_META
from reelscribe.video.headers import Header


@dataclass(frozen=True, kw_only=True)
class Text:
    """A caption as a trainer gets it."""

    text: str
    named: Named
    """The caption that the text was made from."""

    @property
    def task(self) -> str:
        """The task that it answers."""
        return self.named.entry.task


@dataclass(frozen=True, kw_only=True)
class Sample:
    """A video, or a stretch of one, with its captions."""

    texts: tuple[Text, ...]
    """At least one."""

    @property
    def entry(self) -> Entry:
        """The entry of the first caption, with the video and its metadata."""
        return self.texts[0].named.entry

    @cached_property
    def header(self) -> Header | None:
        """Header of the clip's file; None if it cannot be read."""
        return header_of(self.entry)

    def value(self, name: str) -> Any:
        """The value of a name, as in conditions and columns of tables."""
        return self.texts[0].named.value(name)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """The captions to export, with their wording. Iterating over it yields samples.

    Raises, during iteration:
        DatasetError: the data set is damaged.
    """

    data: CaptionedData
    tasks: Sequence[str]
    wording: Wording
    conditions: Sequence[Condition] = ()
    several: bool = False
    """Whether a video may have several captions. If not, the first one is taken."""
    forbidden: Sequence[str] = ()
    """Strings that no caption may contain."""
    count_tokens: Callable[[str], int] | None = None
    left_out: Counter[str] = field(default_factory=Counter)
    """Captions that were left out, by reason."""
    seen: Counter[str] = field(default_factory=Counter)
    """For each name in conditions, the number of captions that have such a value; under "", the number of captions."""

    def __iter__(self) -> Iterator[Sample]:
        """Yield the samples, in order of the rows, and count what is left out."""
        for entries in by_video(self.data.entries()):
            chosen = [entry for name in self.tasks for entry in entries if entry.task == name]
            texts = [text for entry in chosen for text in self._texts_of(entry)]
            if not self.several and len(texts) > 1:
                self.left_out["beyond the first of a video"] += len(texts) - 1
                texts = texts[:1]
            if texts:
                yield Sample(texts=tuple(texts))

    def _texts_of(self, entry: Entry) -> Iterator[Text]:
        """The texts of an answer. Counts the answer as left out if it is not exported."""
        if entry.failure is not None:
            self.left_out[f"that failed ({entry.failure})"] += 1
        elif self._is_rejected(entry):
            self.left_out["that a person rejected"] += 1
        elif misfit := _misfit(entry):
            self.left_out[misfit] += 1
        elif not entry.captions:
            self.left_out["whose column was not written"] += 1
        else:
            for caption in entry.captions:
                yield from self._worded(Named(entry=entry, text=caption, count_tokens=self.count_tokens))

    def _is_rejected(self, entry: Entry) -> bool:
        """Whether a person rejected the caption, and no condition asks for rejected ones."""
        return verdict_of(entry) == "rejected" and not any(item.name == "rejected" for item in self.conditions)

    def _worded(self, named: Named) -> Iterator[Text]:
        """Apply conditions and wording to a caption."""
        self.seen.update(["", *(item.name for item in self.conditions if named.knows(item.name))])
        missed = next((item for item in self.conditions if not item.holds(named.value(item.name))), None)
        if missed:
            self.left_out[f"not where {missed.written}"] += 1
            return
        texts = self.wording.texts_of(named.text)
        if not texts:
            self.left_out["without text"] += 1
        for text in texts:
            if found := next((mark for mark in self.forbidden if mark in text), None):
                self.left_out[f"with {found} in the text"] += 1
            else:
                yield Text(text=text, named=named)

    def check_names(self) -> None:
        """Raise SettingsError if a condition has a name that no row has. Call it after the last sample."""
        for item in self.conditions:
            if not self.seen[item.name]:
                raise unknown_name(f"--where {item.written!r}", item.name)


def _misfit(entry: Entry) -> str:
    """Why an answer has a text but no value in its column, such as invalid JSON; empty if it has a value."""
    if entry.edit and entry.edit.text is not None:  # it was checked when the edit was made
        return ""
    flags = set(str(entry.meta.get("flags") or "").split())
    if flags & {"not_json", "schema"}:
        return "that did not fit the schema"
    if "times" in flags:
        return "that had no times, or wrong ones"
    without_meta = entry.source is not None and entry.source.row.get(entry.task, "") is None
    return "that did not fit the schema, or had no times" if without_meta else ""


def unknown_name(what: str, name: str, more: Iterable[str] = ()) -> SettingsError:
    """The error for a name that is neither a computed value, a key of metadata nor a column.

    Args:
        what: the option that has the name; it begins the message.
        name: the unknown name.
        more: names that are known besides the usual ones.
    """
    usual = [*more, *VALUES]
    hint = f"known are columns of the rows, keys of caption_meta, and {', '.join(usual)}."
    known = [*usual, *CAPTION_META]
    return SettingsError(f"{what}: no row has a column {name!r}; {did_you_mean(name, known, otherwise=hint)}")


def chosen_tasks(data: CaptionedData, wanted: Sequence[str]) -> list[str]:
    """The tasks to export: those that are named, or the only one.

    Raises:
        SettingsError: there is no such task, or there are several and none is named.
    """
    names = [task.name for task in data.tasks]
    for name in wanted:
        if name not in names:
            raise SettingsError(f"there is no task {name!r}; {did_you_mean(name, names)}")
    if not wanted and len(names) > 1:
        raise SettingsError(f"there are several tasks, {', '.join(names)}: name one, or some, with --task.")
    return list(dict.fromkeys(wanted)) or names
