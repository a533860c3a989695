"""A captioned data set once more, with its captions as people left them."""

import json
import os
import shlex
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

from reelscribe.config import Settings
from reelscribe.dataset.edits import Edit
from reelscribe.dataset.formats import FORMATS, format_of
from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.dataset.names import edited_of
from reelscribe.dataset.write import DatasetWriter
from reelscribe.errors import DatasetError
from reelscribe.report.edited import marks_of
from reelscribe.report.entries import OVER, CaptionedData, Entry
from reelscribe.report.left import folders_of, last_run
from reelscribe.tasks import Task
from reelscribe.values import Row, RowResult


@dataclass(kw_only=True)
class ApplySummary:
    """What was written."""

    output: Path
    rows: int = 0
    edited: int = 0
    """Captions with another text than the model's."""
    verdicts: dict[str, int] = field(default_factory=lambda: {"approved": 0, "rejected": 0})
    notes: list[str] = field(default_factory=list)
    """What is to be known of edits that have no effect, and of where paths start from."""


def apply_edits(output: Path, new: Path | None = None, *, overwrite: bool = False) -> ApplySummary:
    """Write a data set again, with its captions as people left them in `view`. All its rows are there, in their order.

    Args:
        output: the data set, as the run was given it. It stays as it is.
        new: to write; by default `captions.edited.jsonl` beside `captions.jsonl`.
        overwrite: replace what is there.

    Raises:
        DatasetError: there is no such data set, nobody changed anything in it, its captions are in the text of rows, or
            the new one cannot be written, or is there already.
        MissingExtraError: what the format needs is not installed.
    """
    data = CaptionedData(output)
    if not data.log.lines:
        raise DatasetError(f"nobody corrected {output}: there is no {data.log.file.name}. reelscribe view does that.")
    if data.is_interleaved:
        raise DatasetError(
            f"{output} has its captions in the text of its rows, where they are not replaced; export takes corrections."
        )
    new = _checked(data, new or edited_of(output), overwrite=overwrite)
    summary, starts = ApplySummary(output=new), set[Path]()
    known = {Path(os.path.realpath(folder)) for folder in folders_of(new, last_run(new), None)}
    with DatasetWriter(new, _settings_for(new, data.settings), data.sources) as writer, closing(data.rows()) as rows:
        for item, entries in rows:
            row = with_entries(item.row, entries)
            writer.write(RowResult(index=item.index, rows=(row,), outcomes=(), origin=item))
            summary.rows += 1
            for entry in entries:
                _count(summary, entry)
                found = _starts_of(entry, data.folders)
                starts |= set() if found & known else found
    summary.notes = [*data.corrections.notes, *_note_on_paths(starts)]
    return summary


def _starts_of(entry: Entry, folders: Sequence[Path]) -> set[Path]:
    """Which folders the path of a video starts from; none for an absolute path, and for what is no file."""
    name = Path(entry.video.name.partition("#t=")[0])
    if entry.video.path is None or name.is_absolute():
        return set()
    return {folder for folder in folders if os.path.realpath(folder / name) == str(entry.video.path)}


def _note_on_paths(starts: set[Path]) -> Iterator[str]:
    """What finds the videos, which the new data set, without a ledger, does not tell."""
    if starts:
        told = " or ".join(f"--root {shlex.quote(folder)}" for folder in sorted(map(str, starts)))
        yield f"paths of its videos start from another folder: export and report find them with {told}"


def _checked(data: CaptionedData, new: Path | None, *, overwrite: bool) -> Path:
    """Where to write, if nothing is lost by that."""
    if new is None:
        raise DatasetError(f"{data.output} is in shards; name where to write with -o, as edited-{{shard}}.jsonl.")
    names = {data.output.resolve(), data.log.file.resolve()}
    if new.resolve() in names:
        raise DatasetError(f"cannot write to {new}: what the model said stays there; name another file with -o.")
    formats = {source.format for source in data.sources}
    if format_of(new.name) is None and not all(FORMATS[name].writable for name in formats):
        raise DatasetError(f"{data.output} is in a format that is read, not written; name a file with -o.")
    there = next(DatasetWriter(new, _settings_for(new, data.settings)).existing_files(), None)
    if there is not None and not overwrite:
        raise DatasetError(f"cannot write to {new}: {there} is there already; --overwrite replaces it.")
    return new


def _settings_for(new: Path, settings: Settings) -> Settings:
    """The settings of the run, as far as they go for rows that have all their columns."""
    told = replace(settings, split=None, overlap=0.0)
    return told if format_of(new.name) is None else replace(told, output_format="auto")


def _count(summary: ApplySummary, entry: Entry) -> None:
    if entry.edit is None:
        return
    summary.edited += entry.edit.text is not None
    if entry.edit.verdict:
        summary.verdicts[entry.edit.verdict] += 1


def with_entries(row: Row, entries: list[Entry]) -> Row:
    """A row whose captions and metadata are those of its entries; columns that stay are the very same objects."""
    changed: Row = {}
    for entry in entries:
        slot = 0 if entry.slot == OVER else entry.slot
        if entry.edit and entry.edit.text is not None and entry.task in row:
            text = entry.edit.text
            value = json.loads(text) if entry.structured else text
            changed[entry.task] = _at(changed.get(entry.task, row[entry.task]), slot, partial(_other, value))
        column = Task(name=entry.task).column("meta")
        if column in row and (entry.edit or not entry.failure):
            before = changed.get(column, row[column])
            told = _at_json(before, slot, partial(_marked, entry.edit))
            if told != before:
                changed[column] = told
    return {**row, **changed}


def _other(value: Any, before: Any) -> Any:
    return value


def _marked(edit: Edit | None, meta: dict[str, Any]) -> dict[str, Any]:
    return meta | marks_of(meta, edit)


def _at(cell: Any, slot: int, change: Callable[[Any], Any]) -> Any:
    """A cell with another value for one of its videos, of which it may hold a list."""
    if not isinstance(cell, list):
        return change(cell)
    return [change(item) if place == slot else item for place, item in enumerate(cell)]


def _at_json(cell: Any, slot: int, change: Callable[[Any], Any]) -> Any:
    """The same, of a cell that holds objects, or the JSON of one or of a list. What is no object stays."""
    if isinstance(cell, str):
        try:
            held = json.loads(cell)
        except ValueError:
            return cell
        told = _at_json(held, slot, change)
        return cell if told == held else to_json(told)
    if isinstance(cell, list):
        return _at(cell, slot, lambda item: _at_json(item, slot, change))
    return change(cell) if isinstance(cell, dict) else cell
