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
from reelscribe.events import as_rows
from reelscribe.report.edited import marks_of
from reelscribe.report.entries import OVER, CaptionedData, Entry, is_by_video
from reelscribe.report.left import folders_of, last_run
from reelscribe.tasks import Task
from reelscribe.values import CAPTION_META, Row, RowResult


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
        task, edit = Task(name=entry.task), entry.edit
        slot = (0 if entry.slot == OVER else entry.slot) if is_by_video(row, task) else None
        changes: dict[str, Callable[[Any], Any]] = {}
        if edit and edit.text is not None:
            changes[entry.task] = partial(_other, _value_of(entry, edit.text))
            changes[task.column("failure")] = partial(_other, "")
        if edit or not entry.failure:
            changes[task.column("meta")] = partial(_in_json, partial(_marked, edit))
        for column, change in changes.items():
            if column in row:
                before = changed.get(column, row[column])
                told = _at(before, slot, change)
                if told != before:
                    changed[column] = told
    return {**row, **changed}


def _value_of(entry: Entry, text: str) -> Any:
    """What the column holds for a text that was checked when it was written."""
    if entry.times:
        return None if entry.events is None else as_rows(entry.events)
    return json.loads(text) if entry.structured else text


def _other(value: Any, before: Any) -> Any:
    return value


def _marked(edit: Edit | None, meta: Any) -> Any:
    """Metadata with what an edit says. Those of a failure may be null; what else is no object stays."""
    if meta is None and edit and edit.text is not None:
        meta = dict.fromkeys(CAPTION_META)
    return meta | marks_of(meta, edit) if isinstance(meta, dict) else meta


def _at(cell: Any, slot: int | None, change: Callable[[Any], Any]) -> Any:
    """A cell with another value; with a slot, one that holds a list, of which that item has another one."""
    if slot is None:
        return change(cell)
    if isinstance(cell, str):
        return _in_json(lambda items: _at(items, slot, change), cell)
    if not isinstance(cell, list):
        return cell
    return [change(item) if place == slot else item for place, item in enumerate(cell)]


def _in_json(change: Callable[[Any], Any], cell: Any) -> Any:
    """A cell with another value, which may be in the JSON that it holds."""
    if not isinstance(cell, str):
        return change(cell)
    try:
        held = json.loads(cell)
    except ValueError:
        return cell
    told = change(held)
    return cell if told == held else to_json(told)
