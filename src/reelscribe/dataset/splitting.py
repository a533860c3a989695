"""Rows of videos to rows of their clips: the same columns, and where each clip begins and ends."""

import logging
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.dataset.formats.jsonl import JsonLine, splice
from reelscribe.dataset.sources import Source
from reelscribe.errors import ClipError, DatasetError
from reelscribe.layouts import clips_of, video_column
from reelscribe.splitting import CLIP, SCENE, Piece, Splitting
from reelscribe.values import Clip, Failure, InputRow, Row
from reelscribe.video.bounds import bounds_of
from reelscribe.video.fetch import Fetcher, FetchLimits
from reelscribe.video.prefetch import reading_headers, usable_cpus

logger = logging.getLogger(__name__)

Found = list[Piece] | ClipError
"""The clips of a video, or of a stretch of one; or why they are not known."""
Videos = list[tuple[Clip, Any, Found]]
"""Those of a row: each as a clip and as the row has it, and what it is split into."""

_AHEAD: Final = 4
"""Rows that are looked at ahead, for each CPU."""


def check_split(sources: Sequence[Source], settings: Settings) -> Splitting | None:
    """How the settings split videos, if they do.

    Raises:
        SettingsError: what they say does not go together.
        DatasetError: a source holds the videos themselves, which would be there for each clip.
    """
    splitting = Splitting.of(settings)
    for source in sources if splitting else ():
        if source.format == "webdataset":
            raise DatasetError(
                f"{source.location} holds the videos themselves, and would hold each film as often as it has clips; "
                "split videos in files, and name these."
            )
    return splitting


def split_rows(rows: Iterable[InputRow], settings: Settings) -> Generator[InputRow, None, None]:
    """A row for each clip of each video, numbered from 0; the rows as they are where the settings split nothing.

    With the setting `nested` there is one for each video, with a list of its clips in the column `stretches_key`.

    A video that cannot be had makes a row with a problem, and so does a row that does not say which it is.

    Args:
        rows: that were read.
        settings: how to split, which columns are meant, how to read videos.

    Raises:
        DatasetError: a column that is added is there already.
    """
    splitting = Splitting.of(settings)
    if splitting is None:
        yield from rows
        return
    left_out = index = 0
    for item, videos in _looked_at(rows, settings, splitting):
        if item.problem or not videos:
            yield _numbered(item, index)
            index += 1
        for clip, video, found in videos:
            if isinstance(found, ClipError):
                yield _with_problem(item, index, video, clip.name, found, settings)
                index += 1
                continue
            kept = [piece for piece in found if splitting.is_long_enough(piece)]
            left_out += len(found) - len(kept)
            for changes in _changes(item.row, clip, video, kept, settings):
                yield _changed(item, index, changes, settings)
                index += 1
    if left_out:
        logger.warning("Left out: %d clips that are shorter than %g s (min_seconds).", left_out, splitting.shortest)


def _looked_at(rows: Iterable[InputRow], settings: Settings, splitting: Splitting) -> Iterator[tuple[InputRow, Videos]]:
    """Rows with the clips of each of their videos, in order; some are looked at ahead."""
    with _finding(settings, splitting) as find, ThreadPoolExecutor(usable_cpus(), "split") as executor:
        waiting: deque[tuple[InputRow, list[tuple[Clip, Any, Future[Found]]]]] = deque()

        def first() -> tuple[InputRow, Videos]:
            item, videos = waiting.popleft()
            return item, [(clip, video, found.result()) for clip, video, found in videos]

        for item in rows:
            clips: list[Clip] = []
            try:
                clips = [] if item.problem else clips_of(item.row, settings, item.root)
            except ClipError as exc:
                item = replace(item, problem=Failure.of_row(item.index, str(exc), exc.kind))  # noqa: PLW2901
            held = item.row.get(video_column(item.row, settings))
            videos = list(held) if isinstance(held, list | tuple) else [held]
            videos = videos if len(videos) == len(clips) else videos * len(clips)  # stretches of one video
            waiting.append(
                (item, [(clip, video, executor.submit(find, clip)) for clip, video in zip(clips, videos, strict=False)])
            )
            if len(waiting) > _AHEAD * usable_cpus():
                yield first()
        while waiting:
            yield first()


@contextmanager
def _finding(settings: Settings, splitting: Splitting) -> Iterator[Callable[[Clip], Found]]:
    """What finds the clips of a video, from any thread."""
    limits = FetchLimits.of(settings)
    with reading_headers(settings) as read, closing(Fetcher(limits)) as fetcher:

        def find(clip: Clip) -> Found:
            if isinstance(clip.source, bytes):
                message = "the row holds the video itself, which would be there for each clip; keep it in a file."
                return ClipError("row", message)
            try:
                with fetcher.fetched(clip) as here:
                    bounds = bounds_of(clip, read(replace(here, start_seconds=0.0, end_seconds=None)).duration_seconds)
                    return list(splitting.pieces(bounds.start, bounds.end))
            except ClipError as exc:
                return exc

        yield find


# Rows


def _changes(row: Row, clip: Clip, video: Any, pieces: Sequence[Piece], settings: Settings) -> Iterator[dict[str, Any]]:
    """What is to be set in the row of each clip."""
    same = _video_alone(row, clip.source if isinstance(video, str) else video, settings)
    if settings.nested:
        yield {**same, settings.stretches_key: [_times(piece) for piece in pieces]}
        return
    if row.get(settings.stretches_key) is not None:
        same[settings.stretches_key] = None
    for number, piece in enumerate(pieces):
        times = _times(piece)
        scene = {} if piece.scene is None else {SCENE: piece.scene}
        yield {**same, settings.start_key: times["start"], settings.end_key: times["end"], **scene, CLIP: number}


def _video_alone(row: Row, video: Any, settings: Settings) -> dict[str, Any]:
    """What is to be set so that a row has this one of its videos."""
    column = video_column(row, settings)
    held = [video] if isinstance(row[column], list | tuple) else video
    return {} if row[column] == held else {column: held}


def _times(piece: Piece) -> dict[str, Any]:
    times: dict[str, Any] = {"start": round(piece.start, 3), "end": round(piece.end, 3)}
    return times if piece.scene is None else {**times, SCENE: piece.scene}


def _changed(item: InputRow, index: int, changes: dict[str, Any], settings: Settings) -> InputRow:
    """A row in which columns are set, also in the record as its reader had it."""
    for name in (SCENE, CLIP):
        if name in changes and name in item.row:
            raise DatasetError(f"the rows have a column {name!r} already, in which split puts numbers; rename it.")
    source = item.source
    if changes and isinstance(source, JsonLine):
        source = JsonLine(splice(source, changes).decode())
    elif changes and source is not None:
        source = source.with_columns(changes, settings)
    return replace(item, index=index, row={**item.row, **changes}, source=source)


def _numbered(item: InputRow, index: int) -> InputRow:
    problem = item.problem and replace(item.problem, id=item.problem.id._replace(row=index))
    return replace(item, index=index, problem=problem)


def _with_problem(item: InputRow, index: int, video: Any, name: str, error: ClipError, settings: Settings) -> InputRow:
    """The row of a video that cannot be split."""
    failure = replace(Failure.of_row(index, str(error), error.kind), video=name)
    return replace(_changed(item, index, _video_alone(item.row, video, settings), settings), problem=failure)
