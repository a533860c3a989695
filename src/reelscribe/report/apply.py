"""Writes a captioned data set again, with the corrections that people made in `view`."""

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
from reelscribe.layouts import captions_in, video_token, with_captions
from reelscribe.report.edited import is_by_hand, marks_of
from reelscribe.report.entries import OVER, CaptionedData, Entry, Group, is_by_video
from reelscribe.report.left import folders_of, last_run
from reelscribe.tasks import Task
from reelscribe.terminal import some
from reelscribe.values import CAPTION_META, InputRow, Row, RowResult


@dataclass(kw_only=True)
class ApplySummary:
    """What `apply_edits` wrote."""

    output: Path
    rows: int = 0
    edited: int = 0
    """Number of captions whose text a person changed or wrote."""
    verdicts: dict[str, int] = field(default_factory=lambda: {"approved": 0, "rejected": 0})
    notes: list[str] = field(default_factory=list)
    """Messages about edits that have no effect, and about the folders that relative paths start from."""


def apply_edits(output: Path, new: Path | None = None, *, overwrite: bool = False) -> ApplySummary:
    """Write a data set again, with the corrections that people made in `view`. All its rows are kept, in their order.

    Args:
        output: the output of the run, as its command names it. It is not changed.
        new: the file to write; by default `captions.edited.jsonl` beside `captions.jsonl`.
        overwrite: replace existing files.

    Raises:
        DatasetError: there is no such data set, nobody corrected it, or the new file cannot be written or exists
            already.
        MissingExtraError: a package that the format needs is not installed.
    """
    data = CaptionedData(output)
    if not data.log.lines:
        raise DatasetError(f"nobody corrected {output}: there is no {data.log.file.name}. reelscribe view does that.")
    new = _checked(data, new or edited_of(output), overwrite=overwrite)
    summary, starts, left = ApplySummary(output=new), set[Path](), 0
    known = {Path(os.path.realpath(folder)) for folder in folders_of(new, last_run(new), None)}
    writer = DatasetWriter(new, _settings_for(new, data.settings), data.sources)
    with writer, closing(data.groups()) as groups:
        for group in groups:
            for item, rows in _in_text(group, data.settings) if data.is_interleaved else _in_columns(group):
                writer.write(RowResult(index=item.index, rows=rows, outcomes=(), origin=item))
                summary.rows += len(rows)
            for entry in group.entries:
                _count(summary, entry)
                found = _starts_of(entry, data.folders)
                # No note is needed if the folders of the new file would find the video as well.
                starts |= set() if found & known else found
            if data.is_interleaved and not group.made and not _filled(group, data.settings.text_key):
                left += _written_by_hand(group)
    summary.notes = [*data.corrections.notes, *_note_on_text(data, summary, left), *_note_on_paths(starts)]
    return summary


def _note_on_text(data: CaptionedData, summary: ApplySummary, left: int) -> Iterator[str]:
    """Say which edits are lost because rows with captions in their text have no place for them."""
    if data.is_interleaved and any(summary.verdicts.values()):
        yield "verdicts and notes are not in the new file: its rows have no place for them; export goes by them"
    if left:
        yield (
            f"{some(left, 'caption')} by hand is not in the new file: another video of the row has none, and its text "
            "takes all or nothing"
        )


def _starts_of(entry: Entry, folders: Sequence[Path]) -> set[Path]:
    """The folders that a video's path is relative to. Empty if the path is absolute or the video is not a file."""
    name = Path(entry.video.name.partition("#t=")[0])
    if entry.video.path is None or name.is_absolute():
        return set()
    return {folder for folder in folders if os.path.realpath(folder / name) == str(entry.video.path)}


def _note_on_paths(starts: set[Path]) -> Iterator[str]:
    """Say which `--root` finds the videos: the new data set has no ledger that says where its paths start."""
    if starts:
        told = " or ".join(f"--root {shlex.quote(folder)}" for folder in sorted(map(str, starts)))
        yield f"paths of its videos start from another folder: export and report find them with {told}"


def _checked(data: CaptionedData, new: Path | None, *, overwrite: bool) -> Path:
    """The file to write. Raises DatasetError if that would overwrite something or cannot be done."""
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
    """The run's settings without splitting of videos: the rows of an output are split already."""
    told = replace(settings, split=None, overlap=0.0)
    return told if format_of(new.name) is None else replace(told, output_format="auto")


def _count(summary: ApplySummary, entry: Entry) -> None:
    """Add an entry's edit, if it has one, to the summary."""
    if entry.edit is None:
        return
    summary.edited += entry.edit.text is not None
    if entry.edit.verdict:
        summary.verdicts[entry.edit.verdict] += 1


def _in_columns(group: Group) -> Iterator[tuple[InputRow, tuple[Row, ...]]]:
    """The rows to write for a group whose captions are in columns."""
    for item in group.items:
        yield item, (with_entries(item.row, group.entries),)


def _in_text(group: Group, settings: Settings) -> Iterator[tuple[InputRow, tuple[Row, ...]]]:
    """The rows to write for a group whose captions are in the text: for each row of the output, what replaces it."""
    texts = {place: entry.edit.text for place, entry in enumerate(group.entries) if entry.edit and entry.edit.text}
    key, before = settings.text_key, group.items[: len(group.items) - group.made]
    if not group.made:
        [item] = group.items
        made = ({**item.row, key: with_captions(item.row[key], iter(texts.values()))},) if _filled(group, key) else ()
        yield item, ((item.row, *made) if settings.original or not made else made)
        return
    yield from ((item, (item.row,)) for item in before)
    # A correction replaces all captions of its video. If every video has one, all rows would be the same: write one.
    for item in group.items[len(before) :][: 1 if len(texts) == len(group.entries) else None]:
        captions = (texts.get(place, said) for place, said in enumerate(captions_in(item.row[key])))
        yield item, ({**item.row, key: with_captions(item.row[key], captions)} if texts else item.row,)


def _filled(group: Group, key: str) -> bool:
    """Whether people wrote a caption for every video of a failed row."""
    text = group.items[0].row.get(key)
    return isinstance(text, str) and 0 < text.count(video_token()) == _written_by_hand(group)


def _written_by_hand(group: Group) -> int:
    return sum(is_by_hand(entry) for entry in group.entries)


def with_entries(row: Row, entries: list[Entry]) -> Row:
    """Put the captions and metadata of entries into a row. Columns that do not change stay the same objects."""
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
    """The value of the caption column for a corrected text. The text was checked when the edit was made."""
    if entry.times:
        return None if entry.events is None else as_rows(entry.events)
    return json.loads(text) if entry.structured else text


def _other(value: Any, before: Any) -> Any:
    """Replace a value, whatever it was before."""
    return value


def _marked(edit: Edit | None, meta: Any) -> Any:
    """Add an edit to metadata. A failure's metadata may be null; any other value that is not a dict is kept."""
    if meta is None and edit and edit.text is not None:
        meta = dict.fromkeys(CAPTION_META)
    return meta | marks_of(meta, edit) if isinstance(meta, dict) else meta


def _at(cell: Any, slot: int | None, change: Callable[[Any], Any]) -> Any:
    """Apply a change to a cell or, if a slot is given, to that item of the list in the cell."""
    if slot is None:
        return change(cell)
    if isinstance(cell, str):
        return _in_json(lambda items: _at(items, slot, change), cell)
    if not isinstance(cell, list):
        return cell
    return [change(item) if place == slot else item for place, item in enumerate(cell)]


def _in_json(change: Callable[[Any], Any], cell: Any) -> Any:
    """Apply a change to a cell, or to the value inside if the cell is JSON text."""
    if not isinstance(cell, str):
        return change(cell)
    try:
        held = json.loads(cell)
    except ValueError:
        return cell
    told = change(held)
    return cell if told == held else to_json(told)
