"""Reads references (captions that people wrote) from a data set of any format."""

from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.records import whole_row
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import ClipError, DatasetError, did_you_mean
from reelscribe.layouts import clips_of
from reelscribe.report.videos import FoundVideo, VideoFinder
from reelscribe.values import Clip, InputRow, Row

REFERENCE_KEYS: Final = ("references", "reference", "captions", "caption", "text")
"""Columns that may hold references. If no column is named, the first one that exists is used."""


@dataclass(kw_only=True)
class References:
    """References by clip."""

    texts: dict[str, list[str]] = field(default_factory=dict)
    """References of each clip, by its name in the file."""
    places: dict[str, str] = field(default_factory=dict)
    """Maps every name that a clip may have to its name in the file."""
    unusable: list[str] = field(default_factory=list)
    """Messages about rows without a usable reference."""

    def find(self, video: FoundVideo) -> str | None:
        """The name under which a clip has references; None if it has none."""
        return next((self.places[name] for name in _names(video) if name in self.places), None)


def read_references(file: Path, *, column: str | None, video_key: str | None, folders: Sequence[Path]) -> References:
    """Read references.

    Args:
        file: a data set of any format, with a row for each reference, or for each clip with a list of them.
        column: column of the references; by default one of `REFERENCE_KEYS`.
        video_key: column of the clip's path, URL or key; "video" or "videos" by default. Stretches are named as in
            any data set.
        folders: folders that relative paths may start from; the first one that has the file is used.

    Raises:
        DatasetError: the file cannot be read, or holds no references.
        MissingExtraError: a package that its format needs is not installed.
    """
    settings = Settings(video_key=video_key)
    finders = [VideoFinder([folder]) for folder in folders]
    found = References()
    names: dict[str, None] = {}
    for item in read_rows(find_sources([file]), settings, output=file):
        try:
            row = _row_of(item)
            names |= dict.fromkeys(row)
            column = column or _column_of(row, file)
            clip, texts = _clip_of(row, settings, folders), _texts_of(row, column)
        except ClipError as exc:
            found.unusable.append(f"row {item.index} of {file}: {exc}")
            continue
        video = _find(clip, finders)
        name = next((found.places[name] for name in _names(video) if name in found.places), video.name)
        found.places |= dict.fromkeys(_names(video), name)
        found.texts.setdefault(name, []).extend(texts)
    if not found.texts:
        _check_there(names, column, video_key, file)
        why = f": {found.unusable[0]}" if found.unusable else "."
        raise DatasetError(f"{file} holds no references{why}")
    return found


def _row_of(item: InputRow) -> Row:
    """All columns of a row. Raises ClipError if it cannot be read."""
    if item.problem:
        raise ClipError("row", item.problem.message)
    try:
        return whole_row(item)
    except ValueError as exc:  # also pyarrow.ArrowInvalid
        raise ClipError("row", f"it cannot be read: {exc}.") from exc


def _check_there(names: Collection[str], column: str | None, video_key: str | None, file: Path) -> None:
    """Raise DatasetError if no row has the named columns, or one of videos."""
    if not names:
        return
    it_has = f"it has {', '.join(names)}."
    for name in filter(None, (column, video_key)):
        if name not in names:
            raise DatasetError(f"{file} has no column {name!r}; {did_you_mean(name, list(names), otherwise=it_has)}")
    if video_key is None and "video" not in names and "videos" not in names:
        raise DatasetError(f"{file} has no column video or videos; name that of the clips with --video-key: {it_has}")


def _column_of(row: Row, file: Path) -> str:
    """Find the column of references by the columns of a row. Raises DatasetError if there is none."""
    column = next((name for name in REFERENCE_KEYS if name in row), None)
    if column is None and row:
        raise DatasetError(
            f"{file} has no column {', '.join(REFERENCE_KEYS)}; name that of the references with --reference-key. "
            f"It has {', '.join(row)}."
        )
    return column or REFERENCE_KEYS[0]


def _clip_of(row: Row, settings: Settings, folders: Iterable[Path]) -> Clip:
    clips = clips_of(row, settings, *folders)
    if len(clips) != 1:
        raise ClipError("row", f"it names {len(clips)} clips; give each clip a row of its own.")
    return clips[0]


def _texts_of(row: Row, column: str) -> list[str]:
    """The references of a row. Raises ClipError if its column holds no texts, only blank ones, or anything else."""
    value: Any = row.get(column)
    texts = [value] if isinstance(value, str) else value
    if not isinstance(texts, list | tuple) or not all(isinstance(text, str) for text in texts):
        got = "nothing" if value is None else type(value).__name__
        raise ClipError("row", f"column {column!r} must hold a text, or a list of texts; it holds {got}.")
    texts = [text for text in texts if text.strip()]
    if not texts:
        raise ClipError("row", f"column {column!r} holds no words.")
    return texts


def _find(clip: Clip, finders: Iterable[VideoFinder]) -> FoundVideo:
    videos = [finder.find(clip) for finder in finders]
    return next((video for video in videos if video.clip), videos[0])


def _names(video: FoundVideo) -> Iterator[str]:
    """All names of a clip: its file with the stretch, and the name in the row."""
    clip = video.clip or video.remote
    if clip:
        yield video.film + clip.fragment
    yield video.name
