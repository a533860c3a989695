"""The captions and failures of a data set that a run wrote, in either layout, with all that is known of each."""

import contextlib
import itertools
import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.dataset.identity import seed_of_0_1
from reelscribe.dataset.ledger_file import Run, read_answers
from reelscribe.dataset.names import SHARD
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import Source, find_sources
from reelscribe.errors import ClipError, DatasetError, ReelscribeError
from reelscribe.outcomes import choose
from reelscribe.prompts import LAYOUTS, eoc_token, video_token, videos_of, without_tokens
from reelscribe.report.videos import FoundVideo, VideoFinder
from reelscribe.runners.status import find_failures, find_ledger, ledger_of, runs_on
from reelscribe.values import Answer, Caption, InputRow, Request, Row

_PEEK_ROWS: Final = 64
_MOST_REMEMBERED: Final = 200_000
"""Captions of the ledger that are held in memory."""


@dataclass(frozen=True, kw_only=True)
class Entry:
    """One video of the data set: its captions, or why there are none."""

    row: int
    """Place of its row in the data set that was captioned, from 0, as in the list of failures."""
    slot: int
    """Place of the video in that row."""
    video: FoundVideo
    original: str
    """The text that the row had."""
    captions: tuple[str, ...] = ()
    """Those that were kept."""
    others: tuple[tuple[int, str], ...] = ()
    """The other candidates and the place of each, where they are known."""
    meta: dict[str, Any] = field(default_factory=dict)
    """Provenance, where it is known; see `caption_meta`."""
    failure: str | None = None
    """Kind of failure."""
    message: str = ""
    """What is told of it."""


@dataclass(frozen=True, kw_only=True)
class NoVideo:
    """A row without a video."""

    row: int


class CaptionedData:
    """A data set that a run wrote.

    Args:
        output: as the run was given it.
        root: folder that relative paths of videos start from; by default the run's own, or where its inputs lie.

    Raises:
        DatasetError: there is no such data set, it holds no captions, or the ledger that it takes to read it is gone.
        MissingExtraError: its format needs what is not installed.
    """

    def __init__(self, output: Path, *, root: Path | None = None) -> None:
        self.output = output
        self.run = _last_run(output)
        if self.run and SHARD not in str(output) and not output.exists():
            raise DatasetError(
                f"the run on {output} is not finished: give its command again, and there is something to report. "
                "reelscribe status says how far it is."
            )
        self.settings = replace(_settings_of(self.run), root=None)
        self._sources = find_sources([str(output).replace(SHARD, "*")])
        self._finder = VideoFinder(_folders(output, self.run, root))
        self._interleaved = self._is_interleaved()
        self._failures: dict[int, list[Row]] = {}
        self._remembered: Callable[[Request, list[str]], Caption | None] = lambda request, texts: None
        self._kept: Callable[[Request], int] = lambda request: 0
        if self._interleaved:
            self._failures = _read_failures(find_failures(output))
            if self._failures and self.settings.shard:  # they are counted in the rows of all shards
                raise DatasetError(
                    f"{output} is a shard with captions in the text: merge all shards, and report on that."
                )
            known = read_answers(find_ledger(output), most=_MOST_REMEMBERED) or {}
            self._remembered = _remembering(known, self.settings)
            self._kept = _counting(known, self.settings)

    def _is_interleaved(self) -> bool:
        rows = [item.row for item, _ in zip(self._rows(), range(_PEEK_ROWS), strict=False)]
        meta = self.settings.caption_columns[-1]
        if any(meta in row for row in rows):
            return False
        texts = [row.get(self.settings.text_key) for row in rows]
        if not any(isinstance(text, str) and video_token() in text for text in texts):
            raise DatasetError(
                f"{self.output} holds no captions: its rows have no column {meta!r}, and their text no "
                f"{video_token()}. Give a data set that reelscribe caption wrote."
            )
        if self.run is None:
            raise DatasetError(
                f"{self.output} has its captions in the text, and which of its rows are captioned is told by its "
                f"ledger, {ledger_of(self.output).name}, which is not there. Put it back beside it."
            )
        return True

    def _rows(self) -> Iterator[InputRow]:
        return read_rows(self._sources, self.settings, output=self.output)

    def entries(self) -> Iterator[Entry | NoVideo]:
        """Each video of each row, in order; may be asked for several times."""
        return self._from_text() if self._interleaved else self._from_columns()

    # Columns

    def _from_columns(self) -> Iterator[Entry | NoVideo]:
        for item in self._rows():
            if item.problem:  # the output itself is damaged here
                raise DatasetError(f"{self.output}: {item.problem.message}")
            cells = [item.row.get(name) for name in self.settings.caption_columns]
            cells[2] = _from_json(cells[2])
            videos, _ = self._videos(item.row)
            if not isinstance(cells[2], list):
                cells = [[cell] for cell in cells]
            metas = cells[2] if isinstance(cells[2], list) else []
            if not any(metas):
                yield NoVideo(row=item.index)
            for slot, meta in enumerate(map(_from_json, metas)):
                video = videos[slot] if slot < len(videos) else None
                texts, candidates = (_at(cell, slot) for cell in cells[:2])
                if isinstance(meta, dict):
                    yield self._from_cells(item, slot, video, texts, candidates, meta)

    def _from_cells(
        self, item: InputRow, slot: int, video: str | bytes | None, caption: Any, candidates: Any, meta: Row
    ) -> Entry:
        entry = Entry(
            row=item.index,
            slot=slot,
            video=self._finder.find(video, item.row.get("__key__")),
            original=_text(item.row.get(self.settings.text_key)),
            meta=meta,
        )
        if meta.get("failure") or caption is None:
            return replace(entry, failure=_text(meta.get("failure")) or "row", message=_text(meta.get("message")))
        texts = [_text(text) for text in candidates] if isinstance(candidates, list) else [_text(caption)]
        return _with_texts(entry, texts, meta.get("kept"), _text(caption))

    def _videos(self, row: Row) -> tuple[list[str | bytes], bool]:
        try:
            return videos_of(row, self.settings)
        except ClipError:  # the row's own failure says so
            return [], False

    # Tokens in the text

    def _from_text(self) -> Iterator[Entry | NoVideo]:
        rows = (item.row for item in self._rows())
        next_one: list[Row] = []
        for index in itertools.count():
            first = next_one.pop() if next_one else next(rows, None)
            if first is None:
                return
            failed = self._failures.get(index)
            videos, _ = self._videos(first)
            if failed:
                yield from (self._failed(index, first, slot, told) for slot, told in enumerate(failed))
            elif not videos:
                yield NoVideo(row=index)
            else:
                copies = self._copies(index, first)
                made = [] if self.settings.original else [first]
                while len(made) < (copies or self.settings.num_captions):
                    row = next(rows, {})
                    if made and not copies and not self._is_made_of(row, videos):
                        next_one += [row] if row else []
                        break
                    made.append(row)
                texts = [_texts_after_tokens(_text(row.get(self.settings.text_key))) for row in made]
                if not all(texts) or any(self._videos(row)[0] != videos for row in made):
                    raise DatasetError(
                        f"{self.output}: the rows for row {index} of the input are not those that its last run writes; "
                        "give the command of that run again."
                    )
                yield from self._captioned(index, first, texts)

    def _is_made_of(self, row: Row, videos: list[str | bytes]) -> bool:
        """Whether a row with these videos looks as one that was made: a blank and a caption follow each token."""
        text = _text(row.get(self.settings.text_key))
        all_spaced = text.count(video_token()) == text.count(f"{video_token()} ")
        return all_spaced and bool(_texts_after_tokens(text)) and self._videos(row)[0] == videos

    def _copies(self, index: int, first: Row) -> int:
        """How many rows were made of one: as many as its videos have captions that were kept, those with most.

        0 where that is not known: of a great many captions, and of videos in a tar file, which were paths before.
        """
        if self.settings.keep != "all":
            return 1
        requests = self._requests(index, first)
        kept = [self._kept(request) for request in requests]
        return max(kept, default=0)

    def _requests(self, index: int, row: Row) -> list[Request]:
        with contextlib.suppress(ClipError):
            return LAYOUTS["interleaved"].requests(row, index, self.settings, None)
        return []

    def _failed(self, index: int, row: Row, slot: int, told: Row) -> Entry:
        return Entry(
            row=index,
            slot=slot,
            video=self._finder.find(told.get("video")),
            original=_text(row.get(self.settings.text_key)),
            failure=_text(told.get("kind")) or "row",
            message=_text(told.get("message")),
        )

    def _captioned(self, index: int, first: Row, texts: list[list[str]]) -> Iterator[Entry]:
        """The entries of a row, from the captions of each row that was made of it."""
        videos, _ = self._videos(first)
        requests = self._requests(index, first) if self.settings.original else []
        for slot, (video, *captions) in enumerate(zip(videos, *texts, strict=False)):
            entry = Entry(
                row=index,
                slot=slot,
                video=self._finder.find(video),
                original=_text(first.get(self.settings.text_key)) if self.settings.original else "",
                captions=tuple(captions),
            )
            known = self._remembered(requests[slot], captions) if slot < len(requests) else None
            if known:
                candidates = [candidate.text for candidate in known.candidates]
                entry = _with_texts(replace(entry, meta=known.meta), candidates, known.kept, captions[0])
            yield entry


def _with_texts(entry: Entry, candidates: list[str], kept: Any, caption: str) -> Entry:
    """Part candidates into those that were kept and the others."""
    places = [place for place in kept if isinstance(place, int)] if isinstance(kept, list | tuple) else []
    if not places or any(not 0 <= place < len(candidates) for place in places):
        places = [candidates.index(caption)] if caption in candidates else []
    captions = tuple(candidates[place] for place in places) or (caption,)
    others = tuple((place, text) for place, text in enumerate(candidates) if place not in places)
    return replace(entry, captions=captions, others=others)


def _texts_after_tokens(text: str) -> list[str]:
    """The caption after each token of a video; none where some token has none."""
    pieces = [piece.strip() for chunk in text.split(eoc_token()) for piece in chunk.split(video_token())[1:]]
    return pieces if all(pieces) else []


def _at(cell: Any, slot: int) -> Any:
    return cell[slot] if isinstance(cell, list) and slot < len(cell) else None


def _from_json(value: Any) -> Any:
    """What a text of JSON holds, as formats with types have it; anything else as it is."""
    try:
        return json.loads(value) if isinstance(value, str) else value
    except ValueError:
        return None


def _text(value: Any) -> str:
    return value if isinstance(value, str) else "" if value is None else str(value)


# What the run left beside the output


def _last_run(output: Path) -> Run | None:
    """The last run on the output; None where its ledger is gone."""
    return runs_on(output)[0] if find_ledger(output).is_file() else None


def _settings_of(run: Run | None) -> Settings:
    return Settings() if run is None else Settings.of_run(run.settings)


def _folders(output: Path, run: Run | None, root: Path | None) -> list[Path]:
    """Where relative paths of videos may start from."""
    if root is not None:
        return [root]
    if run is None:
        return [output.parent]
    if run.settings.get("root"):
        return [Path(run.folder, run.settings["root"])]
    folders = [output.parent]
    for named in run.inputs:
        with contextlib.suppress(ReelscribeError):  # it went since then
            folders += [Path(source.location).parent for source in _sources_in(Path(run.folder), named)]
    return folders


def _sources_in(folder: Path, named: str) -> list[Source]:
    return [source for source in find_sources([os.path.join(folder, named)]) if source.format != "videos"]  # noqa: PTH118


def _read_failures(file: Path) -> dict[int, list[Row]]:
    """What is told of the failures of each row."""
    found: dict[int, list[Row]] = {}
    if file.is_file():
        for item in read_rows(find_sources([file]), Settings(), output=file):
            if item.problem or not isinstance(item.row.get("row"), int):
                raise DatasetError(f"{file} is no list of failures; give the command of the run again.")
            found.setdefault(item.row["row"], []).append(item.row)
    return found


def _answers(known: Mapping[int, list[Answer]], request: Request, settings: Settings) -> list[Answer]:
    """What is known of a request, the answers that release 0.1.0 had to it last."""
    return [*known.get(request.seed, []), *known.get(seed_of_0_1(request, settings), [])]


def _counting(known: Mapping[int, list[Answer]], settings: Settings) -> Callable[[Request], int]:
    """Finds how many captions of a request the last run kept; 0 where that is not known."""

    def count(request: Request) -> int:
        answers = _answers(known, request, settings)
        return len(choose(request, answers[0], settings.keep).kept) if answers else 0

    return count


def _remembering(
    known: Mapping[int, list[Answer]], settings: Settings
) -> Callable[[Request, list[str]], Caption | None]:
    """Finds what the ledger knows of a request whose kept captions are these."""

    def find(request: Request, texts: list[str]) -> Caption | None:
        wanted = [text.strip() for text in texts]  # as interleaved text can hold them
        answers = _answers(known, request, settings)
        captions = (choose(request, item, settings.keep) for item in answers)
        same = (item for item in captions if [without_tokens(text).strip() for text in item.texts] == wanted)
        return next((item for item in same if item.meta.get("prompt") == request.prompt), None)

    return find
