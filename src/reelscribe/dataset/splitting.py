"""Splits rows of videos into rows of clips, with the same columns and the start and end of each clip."""

import itertools
import logging
import os
from collections import Counter, deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final, Protocol

from reelscribe.asking import shard_hash_of
from reelscribe.config import Settings, Shard
from reelscribe.dataset.formats.jsonl import JsonLine, splice
from reelscribe.dataset.identity import scenes_key
from reelscribe.dataset.sidecars import Beside
from reelscribe.dataset.sources import Source
from reelscribe.errors import ClipError, DatasetError
from reelscribe.layouts import clips_of, video_column, video_token
from reelscribe.splitting import CLIP, SCENE, Piece, Splitting
from reelscribe.values import Clip, Failure, InputRow, Row
from reelscribe.video.bounds import bounds_of
from reelscribe.video.fetch import Fetcher, FetchLimits, scheme_of
from reelscribe.video.prefetch import finding_scenes, reading_headers, usable_cpus

logger = logging.getLogger(__name__)

Found = list[Piece] | ClipError | None
"""The clips of a video, or the reason why they are not known; None if the video belongs to another shard."""
Videos = list[tuple[Clip, Any, Found]]
"""The videos of a row: each as a clip, as the row holds it, and its split."""

_NUMBERS_OF_A_ROW: Final = 10_000_000
"""In a shard, each input row numbers its clips in its own block of this size. Films of other shards are not split, so
the number of their clips is unknown."""
_AHEAD: Final = 4
"""Number of rows that are split ahead, for each CPU."""


def check_split(sources: Sequence[Source], settings: Settings) -> Splitting | None:
    """How the settings split videos; None if they do not.

    Raises:
        SettingsError: the settings contradict each other.
        DatasetError: a source holds the videos themselves, so each clip's row would hold the whole film.
    """
    splitting = Splitting.of(settings)
    for source in sources if splitting else ():
        if source.format == "webdataset":
            raise DatasetError(
                f"{source.location} holds the videos themselves, and would hold each film as often as it has clips; "
                "split videos in files, and name these."
            )
    return splitting


class Notes(Protocol):
    """Stores the scenes of films; see `Ledger`."""

    def scenes_of(self, film: bytes) -> list[tuple[float, float]] | None:
        """Start and end of each scene of a film in seconds, by the film's key; None if they are not known."""

    def note_scenes(self, film: bytes, scenes: Sequence[tuple[float, float]]) -> None:
        """Store the scenes of a film: start and end of each, in seconds."""


class _Memory:
    """`Notes` that are kept in memory only."""

    def __init__(self) -> None:
        self._scenes: dict[bytes, list[tuple[float, float]]] = {}

    def scenes_of(self, film: bytes) -> list[tuple[float, float]] | None:
        return self._scenes.get(film)

    def note_scenes(self, film: bytes, scenes: Sequence[tuple[float, float]]) -> None:
        self._scenes[film] = list(scenes)


def split_rows(
    rows: Iterable[InputRow],
    settings: Settings,
    notes: Notes | None = None,
    *,
    folder: Path | None = None,
    shard: Shard | None = None,
) -> Generator[InputRow, None, None]:
    """Yield a row for each clip of each video, numbered from 0; the unchanged rows if the settings split nothing.

    With the setting `nested` there is one row for each video, with a list of its clips in the column `stretches_key`.

    A video that cannot be read gives a row with a problem, and so does a row that does not say which video it has.

    Args:
        rows: the rows that were read.
        settings: how to split, names of columns, how to read videos.
        notes: store of the scenes of films, so that each film is searched once.
        folder: folder from which relative paths of videos start in the new rows; by default the same as before.
        shard: shard whose videos are split. A video of another shard is not read, and gives one row whose `shard_hash`
            shows that it is not of this shard. Row numbers are then the same in all shards, but not consecutive.

    Raises:
        DatasetError: the rows already have a column that is added.
    """
    splitting = Splitting.of(settings)
    if splitting is None:
        yield from rows
        return
    left_out, numbers = 0, itertools.count()
    for item, videos in _looked_at(rows, settings, splitting, notes or _Memory(), shard):
        if shard is not None:
            numbers = itertools.count(item.index * _NUMBERS_OF_A_ROW)
        if item.problem or not videos:
            yield _changed(item, next(numbers), _without_lists(item.row, settings), settings)
        clips: Counter[str | bytes] = Counter()
        for clip, video, found in videos:
            if shard is not None:
                item = replace(item, shard_hash=shard_hash_of([clip]))  # noqa: PLW2901
            kept = [piece for piece in found if splitting.is_long_enough(piece)] if isinstance(found, list) else []
            left_out += len(found) - len(kept) if isinstance(found, list) else 0
            alone = _alone(item, clip, video, settings, folder)
            if not kept:
                unsplit = _changed(item, next(numbers), alone | _own_times(item.row, clip, settings), settings)
                yield unsplit if found is None else _failed(unsplit, clip, found, splitting)
            for changes in _clip_columns(item.row, kept, settings, clips[clip.source]):
                yield _with_sidecars(_changed(item, next(numbers), {**alone, **changes}, settings), clip, settings)
            clips[clip.source] += len(kept)
    if left_out:
        what = "clip that is" if left_out == 1 else "clips that are"
        logger.warning("Left out: %d %s shorter than %g s (min_seconds).", left_out, what, splitting.shortest)


def _failed(row: InputRow, clip: Clip, found: list[Piece] | ClipError, splitting: Splitting) -> InputRow:
    """A row whose video is not split, with the reason as its problem."""
    if not isinstance(found, ClipError):
        short = f"no clip of it is as long as {splitting.shortest:g} s; min_seconds allows shorter ones."
        found = ClipError("too_short", f"{clip.name}: {short}")
    return replace(row, problem=replace(Failure.of_row(row.index, str(found), found.kind), video=clip.name))


def _with_sidecars(row: InputRow, film: Clip, settings: Settings) -> InputRow:
    """A row of a clip, with the columns from the clip's own sidecars if the film was found as a file."""
    if not isinstance(row.source, Beside) or settings.nested:
        return row
    start, end = row.row[settings.start_key], row.row[settings.end_key]
    columns, wrong = row.source.columns(replace(film, start_seconds=start, end_seconds=end), settings)
    named = {name: row.row[name] for name in (video_column(row.row, settings), CLIP, SCENE) if name in row.row}
    problem = Failure.of_row(row.index, wrong, "row") if wrong else row.problem
    return replace(row, row={**row.row, **columns, **named}, problem=problem)


def _looked_at(
    rows: Iterable[InputRow], settings: Settings, splitting: Splitting, notes: Notes, shard: Shard | None
) -> Iterator[tuple[InputRow, Videos]]:
    """Rows with the clips of each of their videos, in order. Videos of some rows ahead are split in threads."""
    # The order matters: `_finding` is closed first and cancels what is under way, before the executor waits for it.
    with ThreadPoolExecutor(usable_cpus(), "split") as executor, _finding(settings, splitting, notes) as find:
        waiting: deque[tuple[InputRow, list[tuple[Clip, Any, Future[Found]]]]] = deque()
        of_others: Future[Found] = Future()
        of_others.set_result(None)

        def look(clip: Clip) -> Future[Found]:
            return executor.submit(find, clip) if shard is None or shard.holds(shard_hash_of([clip])) else of_others

        def first() -> tuple[InputRow, Videos]:
            item, videos = waiting.popleft()
            return item, [(clip, video, found.result()) for clip, video, found in videos]

        for item in rows:
            clips: list[Clip] = []
            try:
                clips = [] if item.problem else clips_of(item.row, settings, item.root)
                _check_tokens(item.row, clips, settings)
            except ClipError as exc:
                clips = []
                item = replace(item, problem=Failure.of_row(item.index, str(exc), exc.kind))  # noqa: PLW2901
            held = item.row.get(video_column(item.row, settings))
            videos = list(held) if isinstance(held, list | tuple) else [held]
            videos = videos if len(videos) == len(clips) else videos * len(clips)  # stretches of one video
            waiting.append((item, [(clip, video, look(clip)) for clip, video in zip(clips, videos, strict=False)]))
            if len(waiting) > _AHEAD * usable_cpus():
                yield first()
        while waiting:
            yield first()


def _check_tokens(row: Row, clips: Sequence[Clip], settings: Settings) -> None:
    """Raise ClipError if a row's text has tokens for several videos: splitting would separate the videos."""
    text = row.get(settings.text_key)
    if len(clips) > 1 and isinstance(text, str) and video_token() in text and settings.layout != "columns":
        message = f"its text has {video_token()} for several videos, which split would part; set layout to columns."
        raise ClipError("prompt", message)


@contextmanager
def _finding(settings: Settings, splitting: Splitting, notes: Notes) -> Iterator[Callable[[Clip], Found]]:
    """A context that gives the function which finds the clips of a video. It may be called from any thread."""
    limits = FetchLimits.of(settings)
    with (
        reading_headers(settings) as read,
        finding_scenes(settings) as find_scenes,
        closing(Fetcher(limits)) as fetcher,
    ):

        def find(clip: Clip) -> Found:
            if isinstance(clip.source, bytes):
                message = "the row holds the video itself, which would be there for each clip; keep it in a file."
                return ClipError("row", message)
            try:
                with fetcher.fetched(clip.whole) as film:
                    seconds = read(film).duration_seconds
                    scenes: list[tuple[float, float]] = []
                    if splitting.every is None:
                        key = scenes_key(clip.whole, limits)
                        scenes = notes.scenes_of(key) or []
                        if not scenes:
                            scenes = [(*scene,) for scene in find_scenes(film, seconds)]
                            notes.note_scenes(key, scenes)
                        seconds = scenes[-1][1]
                    bounds = bounds_of(clip, seconds)
                    return list(splitting.pieces(bounds.start, bounds.end, scenes))
            except ClipError as exc:
                return exc

        yield find


# Rows


def _alone(item: InputRow, clip: Clip, video: Any, settings: Settings, folder: Path | None) -> dict[str, Any]:
    """Columns to set so that a row has only one of its videos."""
    row, column = item.row, video_column(item.row, settings)
    name = clip.source
    if folder is not None and item.root is not None and isinstance(name, str) and scheme_of(name) is None:
        name = os.path.relpath(item.root / name, folder) if not os.path.isabs(name) else name  # noqa: PTH117 - a name
    held: Any = name
    if isinstance(video, dict):
        held = video if isinstance(name, bytes) else {**video, "path": name}
    held = [held] if isinstance(row[column], list | tuple) else held
    alone = {} if row[column] == held else {column: held}
    return alone | {name: None for name in (settings.stretches_key,) if row.get(name) is not None}


def _own_times(row: Row, clip: Clip, settings: Settings) -> dict[str, Any]:
    """Columns to set so that an unsplit row names the same clip as before."""
    start, end = (None, None) if clip.is_whole else (clip.start_seconds, clip.end_seconds)
    times = {settings.start_key: start, settings.end_key: end}
    return {name: seconds for name, seconds in times.items() if name in row or not clip.is_whole}


def _without_lists(row: Row, settings: Settings) -> dict[str, Any]:
    """Columns to set in a row without clips, so that its columns of times hold single values, as in other rows."""
    names = () if settings.nested else (settings.start_key, settings.end_key)
    return {name: None for name in names if isinstance(row.get(name), list | tuple)}


def _clip_columns(row: Row, pieces: Sequence[Piece], settings: Settings, first: int) -> Iterator[dict[str, Any]]:
    """Columns to set for each clip; `first` is the number of the first clip in its video."""
    if settings.nested and pieces:
        others = {name: None for name in (settings.start_key, settings.end_key) if name in row}
        yield {**others, settings.stretches_key: [_times(piece) for piece in pieces]}
        return
    for number, piece in enumerate(pieces, first):
        times = _times(piece)
        scene = {} if piece.scene is None else {SCENE: piece.scene}
        yield {settings.start_key: times["start"], settings.end_key: times["end"], **scene, CLIP: number}


def _times(piece: Piece) -> dict[str, Any]:
    times: dict[str, Any] = {"start": round(piece.start, 3), "end": round(piece.end, 3)}
    return times if piece.scene is None else {**times, SCENE: piece.scene}


def _changed(item: InputRow, index: int, changes: dict[str, Any], settings: Settings) -> InputRow:
    """A row with columns set, also in its source, from which writers take the row.

    Raises:
        DatasetError: the row already has a column that is added.
    """
    for name in (SCENE, CLIP):
        if name in changes and name in item.row:
            raise DatasetError(
                f"the rows have a column {name!r} already, in which split puts numbers; rename it, or set nested."
            )
    source = item.source
    if changes and isinstance(source, JsonLine):
        source = JsonLine(splice(source, changes).decode())
    elif changes and source is not None and not isinstance(source, Beside):
        source = source.with_columns(changes, settings)
    problem = item.problem and replace(item.problem, id=item.problem.id._replace(row=index))
    return replace(item, index=index, row={**item.row, **changes}, source=source, problem=problem)
