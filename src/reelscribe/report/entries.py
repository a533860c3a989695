"""Reads the captions and failures of a run's output, in either layout, with all that is known about each."""

import itertools
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.dataset.edits import Edit, EditLog, edits_of
from reelscribe.dataset.formats import format_of
from reelscribe.dataset.formats.jsonl import to_json
from reelscribe.dataset.ledger_file import read_answers
from reelscribe.dataset.names import SHARD
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import Source, find_sources
from reelscribe.dataset.write import failures_in
from reelscribe.errors import ClipError, DatasetError
from reelscribe.events import Event, Times, from_rows
from reelscribe.layouts import LAYOUTS, captions_in, clips_of, named_clip, video_token
from reelscribe.outcomes import without_choice
from reelscribe.report.edited import Corrections, Numbering, is_edited
from reelscribe.report.left import (
    Unfinished,
    counting,
    folders_of,
    is_unfinished,
    last_run,
    not_finished,
    read_failures,
    remembering,
    settings_of,
    tasks_in,
)
from reelscribe.report.videos import FoundVideo, VideoFinder
from reelscribe.runners.known import KnownRows
from reelscribe.runners.status import find_failures, find_ledger, ledger_of
from reelscribe.tasks import COLUMN_KINDS, ColumnKind, Task
from reelscribe.values import Answer, Caption, Clip, InputRow, Request, Row, RowResult

_PEEK_ROWS: Final = 64
"""Rows that are read first, to find the tasks and the layout of an output."""
_KNOWN_AT_ONCE: Final = 256
"""Rows of an unfinished run that are read from its ledger at a time."""
_MOST_REMEMBERED: Final = 200_000
"""Maximum number of the ledger's answers to hold in memory."""


OVER: Final = -1
"""Value of `Entry.slot` for an answer about the whole video. -1 sorts it before the answers about its clips."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """The outcome of a task for one video or clip: its captions, or why there are none."""

    row: int
    """Number of its row in the data set that was captioned, from 0, as in the list of failures."""
    slot: int
    """Number of the clip in that row, from 0; `OVER` for the video as a whole."""
    task: str
    """Name of the task."""
    structured: bool = False
    """Whether its captions are JSON."""
    times: Times = False
    """Whether its captions are events with times, and whether these may overlap."""
    video: FoundVideo
    source: InputRow | None = None
    """The row of the output that it was read from; None if captions are in the text of rows."""
    original: str
    """The text of the input row."""
    captions: tuple[str, ...] = ()
    """The kept captions."""
    events: tuple[Event, ...] | None = None
    """The events in the first caption, with times from the start of the file; None if there are none, or some are
    wrong."""
    others: tuple[tuple[int, str], ...] = ()
    """The candidates that were not kept, each with its number; empty if they are not known."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Provenance; see `caption_meta`. Empty if it is not known."""
    failure: str | None = None
    """Kind of failure; None if there is a caption."""
    message: str = ""
    """Message of the failure."""
    copy: int = 0
    """How many answers to the same prompt about a video of this name come before it. It tells apart captions with
    the same key in the log of edits, and is counted only when edits are looked up."""
    edit: Edit | None = None
    """A person's edit of this answer. It is already applied to `captions` and `meta`."""
    outdated: Edit | None = None
    """A person's edit of an earlier text of this answer. It is not applied."""

    @property
    def said(self) -> str | None:
        """The first caption; None if there is none."""
        return self.captions[0] if self.captions else None


@dataclass(frozen=True, kw_only=True)
class NoVideo:
    """A row without a video."""

    row: int


def by_video(entries: Iterable[Entry | NoVideo]) -> Iterator[tuple[Entry, ...]]:
    """Group entries by video. A row without a video gives an empty tuple."""

    def place(entry: Entry | NoVideo) -> tuple[int, int | None]:
        return entry.row, entry.slot if isinstance(entry, Entry) else None

    for _, group in itertools.groupby(entries, key=place):
        yield tuple(entry for entry in group if isinstance(entry, Entry))


@dataclass(frozen=True, kw_only=True)
class Group:
    """The rows of the output that were made from one input row, with their entries."""

    items: list[InputRow]
    entries: list[Entry]
    """The entries of its videos; empty if it has no videos."""
    made: int = 0
    """Number of rows with captions in their text. They are the last ones of `items`."""

    def told(self, index: int) -> Sequence[Entry | NoVideo]:
        """The entries or, if there are none, a `NoVideo` for the input row with this number."""
        if self.entries:
            return self.entries
        return [NoVideo(row=index)]


class CaptionedData:
    """A data set that a run wrote.

    Args:
        output: the output of the run, as its command names it.
        root: folder that relative paths of videos start from; by default the run's own, or the folders of the output
            and of the inputs.
        unfinished: read the ledger in place of an output that is not whole: "ended" if the run broke off, "running"
            also if it still runs. None never does.
        corrected: whether to apply people's edits to the entries; False gives what the model said.
        videos: whether to look for the files of videos. If not, only their names are known, which is much faster.

    Raises:
        DatasetError: there is no such data set, it is not finished, it holds no captions, or the ledger that is needed
            to read it is gone.
        MissingExtraError: a package that its format needs is not installed.
    """

    def __init__(
        self,
        output: Path,
        *,
        root: Path | None = None,
        unfinished: Unfinished | None = None,
        corrected: bool = True,
        videos: bool = True,
    ) -> None:
        self.output = output
        self.log = EditLog(edits_of(output))
        """The log of people's edits."""
        self.corrections = Corrections(self.log)
        """Corrections that the last pass applied, with notes about edits without effect."""
        self._corrected = corrected
        self.reached: tuple[KnownRows, Callable[[Entry], Entry]] | None = None
        """For an unfinished run, after a pass through all its rows: the rows that come next, and the function that is
        applied to each entry. `Follower` goes on with both."""
        self.run = last_run(output)
        self._unfinished = unfinished
        self.is_partial = self._is_unfinished()
        """Whether the output is not whole, so that entries come from the ledger of its run."""
        if self.run and SHARD not in str(output) and not output.exists() and not self.is_partial:
            raise not_finished(output)
        self.settings = replace(settings_of(self.run), root=None)
        self.sources = [] if self.is_partial else self._find_sources()
        """The files or folders of the data set; empty if it is not whole."""
        self._finder = VideoFinder(folders_of(output, self.run, root), looks=videos)
        first = self._first_rows()
        self._tasks = self.settings.all_tasks if self.run else tasks_in(first)
        self.is_interleaved = self.known_rows().is_interleaved() if self.is_partial else self._holds_tokens(first)
        """Whether captions are in the text of rows, not in columns."""
        self._failures: dict[int, list[Row]] = {}
        self._remembered: Callable[[Request, list[str]], Caption | None] = lambda request, texts: None
        self._kept: Callable[[Request], int] = lambda request: 0
        if self.is_interleaved and not self.is_partial:
            self._failures = read_failures(find_failures(output))
            if self._failures and self.settings.shard:  # failures are numbered by the rows of all shards
                raise DatasetError(
                    f"{output} is a shard with captions in the text: merge all shards, and report on that."
                )
            known = read_answers(find_ledger(output), most=_MOST_REMEMBERED) or {}
            self._remembered = remembering(known, self.settings)
            self._kept = counting(known, self.settings)

    def _holds_tokens(self, rows: list[Row]) -> bool:
        """Whether rows hold captions in their text, after video tokens; False if they are in columns.

        Raises:
            DatasetError: there are no captions, or the ledger that is needed to find them in the text is gone.
        """
        added = [task.column(kind) for task in self._tasks for kind in COLUMN_KINDS]
        if any(name in row for row in rows for name in added):
            return False
        texts = [row.get(self.settings.text_key) for row in rows]
        if not any(isinstance(text, str) and video_token() in text for text in texts):
            raise DatasetError(
                f"{self.output} holds no captions: its rows have no column {added[0]!r}, and their text no "
                f"{video_token()}. Give a data set that reelscribe caption wrote."
            )
        if self.run is None:
            raise DatasetError(
                f"{self.output} has its captions in the text, and which of its rows are captioned is told by its "
                f"ledger, {ledger_of(self.output).name}, which is not there. Put it back beside it."
            )
        return True

    @property
    def folders(self) -> Sequence[Path]:
        """Folders that relative paths of videos may start from."""
        return self._finder.folders

    @property
    def tasks(self) -> tuple[Task, ...]:
        """The tasks of the run. Without a ledger, only their names are known."""
        return (self.settings.text_task,) if self.is_interleaved else self._tasks

    def _is_unfinished(self) -> bool:
        return bool(self.run and self._unfinished and is_unfinished(self.output, self.run, self._unfinished))

    def _find_sources(self) -> list[Source]:
        return find_sources([str(self.output).replace(SHARD, "*")])

    def _first_rows(self) -> list[Row]:
        if self.is_partial:
            return [row for result in self.known_rows().take(_PEEK_ROWS) for row in result.rows]
        return [item.row for item in itertools.islice(self._rows(), _PEEK_ROWS)]

    def _rows(self) -> Iterator[InputRow]:
        return read_rows(self.sources, self.settings, output=self.output)

    def known_rows(self) -> KnownRows:
        """The rows that the ledger of an unfinished run knows, from the first."""
        assert self.run
        return KnownRows(self.output, self.run)

    def entries_of_next(self, known: KnownRows, most: int) -> list[Entry | NoVideo]:
        """Take at most `most` further rows that a run knows. Returns their entries as the model left them."""
        start, results = known.taken, known.take(most)
        found = self._in_results(results, start)
        if (format_of(self.output.name) or self.settings.output_format) != "webdataset":
            return found
        return [_as_in_tar(entry, results[entry.row - start]) if isinstance(entry, Entry) else entry for entry in found]

    def _in_results(self, results: Sequence[RowResult], start: int) -> list[Entry | NoVideo]:
        """The entries of results of which the first is for row `start`."""
        groups = self._groups_in(results, start)
        return [entry for place, group in enumerate(groups, start) for entry in group.told(place)]

    def _groups_in(self, results: Sequence[RowResult], start: int) -> Iterator[Group]:
        """The groups of an unfinished run's results of which the first is for row `start`."""
        rows = (row for result in results for row in result.rows)
        if not self.is_interleaved:
            items = (InputRow(index=start + n, row=_as_read(row, self.settings)) for n, row in enumerate(rows))
            return (Group(items=[item], entries=self.entries_of(item)) for item in items)
        self._failures = {start + place: list(failures_in(result)) for place, result in enumerate(results)}
        answers: dict[int, list[Answer]] = {}
        for outcome in (outcome for result in results for outcome in result.outcomes):
            if isinstance(outcome, Caption):
                answer = Answer(id=outcome.id, candidates=outcome.candidates, meta=without_choice(outcome.meta))
                answers.setdefault(outcome.meta["seed"], []).append(answer)
        self._remembered, self._kept = remembering(answers, self.settings), counting(answers, self.settings)
        return self._from_text((InputRow(index=start, row=row) for row in rows), start)

    def entries(self) -> Iterator[Entry | NoVideo]:
        """Yield the entries of all rows, in order. Each call starts a new pass."""
        if self.is_partial and not self._is_unfinished():  # the run has finished since
            self.sources, self.is_partial = self._find_sources(), False
        if self.is_partial:
            known, look_up = self.known_rows(), self._begin()
            while found := self.entries_of_next(known, _KNOWN_AT_ONCE):
                yield from (look_up(entry) if isinstance(entry, Entry) else entry for entry in found)
            self.reached = known, look_up
        else:
            for index, group in enumerate(self.groups()):
                yield from group.told(index)

    def _begin(self) -> Callable[[Entry], Entry]:
        """Start a pass. Returns the function that is applied to each of its entries."""
        self.corrections = Corrections(self.log)
        return self.corrections if self._corrected else Numbering()

    def groups(self) -> Generator[Group, None, None]:
        """Yield the rows of a whole output with their entries. Rows that were made from one input row come together."""
        look_up = self._begin()
        groups = self._from_text(self._rows()) if self.is_interleaved else self._from_columns()
        for group in groups:
            yield replace(group, entries=list(map(look_up, group.entries)))

    # Columns

    def _from_columns(self) -> Iterator[Group]:
        for item in self._rows():
            if item.problem:  # the output itself is damaged here
                raise DatasetError(f"{self.output}: {item.problem.message}")
            yield Group(items=[item], entries=self.entries_of(item))

    def entries_of(self, item: InputRow) -> list[Entry]:
        """The entries of a row of the output, as the model left them."""
        entries = [entry for task in self._tasks for entry in self._of_task(item, task)]
        return sorted(entries, key=lambda entry: entry.slot)

    def _of_task(self, item: InputRow, task: Task) -> Iterator[Entry]:
        """The entries of a task for each video of a row."""
        clips = self._clips(item.row)
        for slot, cells in enumerate(_by_video(item.row, task)):
            if cells["text"] is None and not (cells["failure"] or cells["meta"] or cells["candidates"]):
                continue
            meta = _from_json(cells["meta"])
            clip = clips[slot] if slot < len(clips) else None
            over = task.is_over_video
            entry = Entry(
                row=item.index,
                slot=OVER if over else slot,
                task=task.name,
                structured=task.schema is not None or isinstance(cells["text"], dict),
                times=task.times or ("overlapping" if from_rows(cells["text"]) is not None else False),
                video=self._finder.find(clip.whole if clip and over else clip),
                source=item,
                original=_text(item.row.get(self.settings.text_key)),
                meta=meta if isinstance(meta, dict) else {},
            )
            kind, _, message = _text(cells["failure"]).partition(": ")
            if kind or (cells["text"] is None and not cells["candidates"]):
                made = not kind and entry.meta.get("model")  # there is a caption, but its column was not written
                yield entry if made else replace(entry, failure=kind or "row", message=message)
                continue
            texts, kept = [_text(text) for text in cells["candidates"] or []], cells["text"]
            entry = replace(entry, events=from_rows(kept))
            if not isinstance(kept, str):  # JSON, or no column, or a value of another type than a caption's
                kept = texts[0] if kept is None else to_json(kept)
            yield _with_texts(entry, texts or [kept], entry.meta.get("kept"), kept)

    def _clips(self, row: Row) -> list[Clip]:
        try:
            return clips_of(row, self.settings, *self._finder.folders)
        except ClipError:  # the row's own failure says so
            return []

    # Tokens in the text

    def _from_text(self, rows: Iterator[InputRow], start: int = 0) -> Iterator[Group]:
        """The groups of an output with captions in the text, of which the first was made from input row `start`.

        One input row gives a row for each kept caption, before them the original if it is kept. Where the number of
        kept captions is not known, rows belong together as long as they look like rows that were made from the first.
        """
        next_one: list[InputRow] = []
        for index in itertools.count(start):
            first = next_one.pop() if next_one else next(rows, None)
            if first is None:
                return
            failed = self._failures.get(index)
            clips = self._clips(first.row)
            if failed:
                yield Group(items=[first], entries=list(self._failed(index, first.row, failed)))
            elif not clips:
                yield Group(items=[first], entries=[])
            else:
                copies = self._copies(index, first.row)
                made = [] if self.settings.original else [first]
                while len(made) < (copies or self.settings.num_captions):
                    item = next(rows, None)
                    if made and not copies and not (item and self._is_made_of(item.row, clips)):
                        next_one += [item] if item else []  # the first row of the next input row
                        break
                    made += [item] if item else []
                    if item is None:
                        break
                texts = [captions_in(_text(item.row.get(self.settings.text_key))) for item in made]
                if not (texts and all(texts)) or any(self._clips(item.row) != clips for item in made):
                    raise DatasetError(
                        f"{self.output}: the rows for row {index} of the input are not those that its last run writes; "
                        "give the command of that run again."
                    )
                entries = list(self._captioned(index, first.row, texts))
                yield Group(items=[first, *made] if self.settings.original else made, entries=entries, made=len(made))

    def _is_made_of(self, row: Row, clips: list[Clip]) -> bool:
        """Whether a row has these clips and looks captioned: a blank and a caption follow each token."""
        text = _text(row.get(self.settings.text_key))
        all_spaced = text.count(video_token()) == text.count(f"{video_token()} ")
        return all_spaced and bool(captions_in(text)) and self._clips(row) == clips

    def _copies(self, index: int, first: Row) -> int:
        """Number of rows that were made from an input row: the largest number of kept captions of one of its videos.

        0 if that is not known: the ledger holds too many answers, or videos are in a tar file, where they are known by
        other names than before.
        """
        if self.settings.keep != "all":
            return 1
        requests = self._requests(index, first)
        kept = [self._kept(request) for request in requests]
        return max(kept, default=0)

    def _requests(self, index: int, row: Row) -> list[Request]:
        """The requests about each video, as far as they can be rebuilt from the row."""
        plan = LAYOUTS["interleaved"].plan(row, index, self.settings, None)
        task = self.settings.text_task
        names = [name for name in plan.asked() if name.task == task.name] if not task.after else []
        return [made for made in (plan.request(name, {}) for name in names) if isinstance(made, Request)]

    def _failed(self, index: int, row: Row, failed: list[Row]) -> Iterator[Entry]:
        """The entries of a failed row: one for each failure of the task whose answers go into the text."""
        task = self.settings.text_task
        of_it = [told for told in failed if told.get("task") in (None, task.name)]
        for slot, told in enumerate(of_it):
            yield Entry(
                row=index,
                slot=slot,
                task=task.name,
                video=self._finder.find(self._named(told.get("video"))),
                original=_text(row.get(self.settings.text_key)),
                failure=_text(told.get("kind")) or "row",
                message=_text(told.get("message")),
            )

    def _named(self, video: Any) -> Clip | None:
        return named_clip(video, *self._finder.folders) if isinstance(video, str) else None

    def _captioned(self, index: int, first: Row, texts: list[list[str]]) -> Iterator[Entry]:
        """The entries of an input row, from the captions in each row that was made from it."""
        clips = self._clips(first)
        requests = self._requests(index, first) if self.settings.original else []
        for slot, (clip, *captions) in enumerate(zip(clips, *texts, strict=False)):
            entry = Entry(
                row=index,
                slot=slot,
                task=self.settings.text_task.name,
                structured=self.settings.text_task.schema is not None,
                video=self._finder.find(clip),
                original=_text(first.get(self.settings.text_key)) if self.settings.original else "",
                captions=tuple(captions),
            )
            known = self._remembered(requests[slot], captions) if slot < len(requests) else None
            if known:
                candidates = [candidate.text for candidate in known.candidates]
                entry = _with_texts(replace(entry, meta=known.meta), candidates, known.kept, captions[0])
            yield entry


def _with_texts(entry: Entry, candidates: list[str], kept: Any, caption: str) -> Entry:
    """Put texts into an entry: the kept candidates as `captions`, the rest as `others`."""
    if is_edited(entry):  # the kept text is a person's, not a candidate
        return replace(entry, captions=(caption,), others=tuple(enumerate(candidates)))
    places = [place for place in kept if isinstance(place, int)] if isinstance(kept, list | tuple) else []
    if not places or any(not 0 <= place < len(candidates) for place in places):
        places = [candidates.index(caption)] if caption in candidates else []
    captions = tuple(candidates[place] for place in places) or (caption,)
    others = tuple((place, text) for place, text in enumerate(candidates) if place not in places)
    return replace(entry, captions=captions, others=others)


def _by_video(row: Row, task: Task) -> list[dict[ColumnKind, Any]]:
    """The cells of a task's columns, for each video of a row."""
    cells: dict[ColumnKind, Any] = {kind: row.get(task.column(kind)) for kind in COLUMN_KINDS}
    cells["meta"] = _from_json(cells["meta"])
    if not is_by_video(row, task):
        return [cells]
    count = max(len(cell) for cell in cells.values() if isinstance(cell, list))
    return [{kind: _at(cells[kind], slot) for kind in COLUMN_KINDS} for slot in range(count)]


def is_by_video(row: Row, task: Task) -> bool:
    """Whether the columns of a task hold lists, with an item for each video of the row.

    Columns of candidates and events always hold lists, so metadata and failures are looked at first.
    """
    known = [_from_json(row.get(task.column("meta"))), row.get(task.column("failure"))]
    known = [cell for cell in known if cell is not None]
    text = row.get(task.column("text"))
    if not known and not from_rows(text):
        known = [text]
    return any(isinstance(cell, list) for cell in known)


def _at(cell: Any, slot: int) -> Any:
    return cell[slot] if isinstance(cell, list) and slot < len(cell) else None


def _from_json(value: Any) -> Any:
    """Parse a string as JSON, as typed formats hold metadata; None if it is no JSON. Other values stay as they are."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _as_in_tar(entry: Entry, result: RowResult) -> Entry:
    """An entry with its video named by the key of its sample, as in a finished WebDataset output."""
    clip = entry.video.clip
    if clip is None or "__key__" in (result.origin.row if result.origin else {}):
        return entry
    return replace(entry, video=replace(entry.video, name=f"{result.index:09d}{clip.fragment}"))


def _as_read(row: Row, settings: Settings) -> Row:
    """A row with the columns that the run adds as they would be read back from a file."""
    return {**row, **{name: json.loads(to_json(row[name])) for name in settings.added_columns if name in row}}


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)
