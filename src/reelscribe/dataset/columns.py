"""Checks the first rows for the columns and videos that a run needs, before a model is loaded or a file is written."""

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path

from reelscribe.config import Settings
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import Source, schemas
from reelscribe.errors import ClipError, DatasetError, SettingsError, did_you_mean
from reelscribe.layouts import choose_layout, video_column, videos_of
from reelscribe.pipeline import check_added, peek
from reelscribe.templates import names_in, parts_of
from reelscribe.values import InputRow, Row

_MOST_ROWS, _MOST_BYTES = 10_000, 1 << 28
"""Maximum number and total bytes of the rows that are read in search of a column or video: about a second of reading.
"""


@dataclass(kw_only=True)
class _Seen:
    """What was found in the first rows."""

    names: set[str] = field(default_factory=set)
    """Columns of any row."""
    rows: int = 0
    read: int = 0
    """Number of valid rows; the others fail by themselves."""
    any_video: bool = False
    all_rows: bool = False
    """Whether the data set has no more rows."""
    too_large: bool = False
    """Whether the rows are too large to read on."""

    def add(self, item: InputRow, settings: Settings) -> None:
        """Look at a row."""
        self.rows += 1
        if item.problem is None:
            self.read += 1
            self.names |= item.row.keys()
            self.any_video = self.any_video or _holds_video(item.row, settings)


def check_columns(sources: Sequence[Source], settings: Settings) -> None:
    """Check that there are rows, that they have the columns that settings name, and that some row has a video.

    If the format states its columns, no rows are needed for that. Of other formats rows are read until all columns are
    found. A column that none of the first 10,000 rows has counts as missing, unless the rows are too large to read that
    many.

    Raises:
        SettingsError: a named column or the video column is missing, a column that would be added exists already, or a
            system prompt has a column's name in braces.
        DatasetError: there are no rows, or no row has a video.
    """
    stated = {name for _, schema in schemas(sources) for name in schema.names}
    if stated:
        _check_names(stated, settings, "the data set has")
    seen = _look(sources, settings)
    if not seen.rows:
        raise DatasetError(f"there is nothing to caption: {_called(sources)} has no rows.")
    if not seen.read:
        return  # every row becomes a failure with its own reason
    names = stated | seen.names
    _check_added(stated, sources, settings)
    _check_system_prompt(names, settings)
    if seen.too_large:
        return  # only a few rows were read, and later ones may have the missing columns; the run warns if not
    _check_names(names, settings, "the data set has" if seen.all_rows else f"the first {seen.rows:,} rows have")
    if seen.all_rows and not seen.any_video:
        raise no_video(seen.rows, settings, names)


def no_video(rows: int, settings: Settings, names: set[str] | None = None) -> DatasetError:
    """The error of a data set in which no row has a video."""
    column = video_column(names or (), settings)
    return DatasetError(
        f"there is nothing to caption: none of {rows:,} rows has a video in its column {column!r}. If theirs is in "
        "another column, video_key names it."
    )


def _look(sources: Sequence[Source], settings: Settings) -> _Seen:
    """Read rows until all columns and a video are found; some rows of each source, since columns may differ."""
    seen, wanted = _Seen(), set(settings.named_columns.values())
    held, each, ended = 0, max(_MOST_ROWS // max(len(sources), 1), 1), 0
    for source in sources:
        with closing(read_rows([source], settings, output=Path("captions.jsonl"))) as rows:
            for item in islice(rows, each):
                seen.add(item, settings)
                held += item.num_bytes
                seen.too_large = held > _MOST_BYTES
                if (seen.any_video and wanted <= seen.names) or seen.too_large:
                    return seen
            ended += next(rows, None) is None
    seen.all_rows = ended == len(sources)
    return seen


def _holds_video(row: Row, settings: Settings) -> bool:
    try:
        return bool(videos_of(row, settings)[0])
    except ClipError:  # the column holds something that is no video: the row becomes a failure
        return True


def _check_names(names: set[str], settings: Settings, who: str) -> None:
    there = ", ".join(sorted(names)) or "none"
    for option, name in settings.named_columns.items():
        if name not in names:
            hint = did_you_mean(name, sorted(names), otherwise=f"there are {there}.")
            raise SettingsError(f"{who} no column {name!r}, which {option} names; {hint}")
    if not settings.video_key and not names & {"video", "videos"}:
        raise SettingsError(f"{who} no column 'video' or 'videos'; video_key names another of {there}.")


def _check_added(stated: set[str], sources: Sequence[Source], settings: Settings) -> None:
    """Raise SettingsError if a data set, also a later one that states its columns, has a column that the run adds."""
    # Columns of videos come from sidecars, which an earlier run on this output may have written.
    others = [source for source in sources if source.format != "videos"]
    with closing(read_rows(others, settings, output=Path("captions.jsonl"))) as rows:
        peeked = [item.row for item in peek(rows)]
    if choose_layout(peeked, settings).adds:
        check_added(stated.union(*peeked), settings)


def _check_system_prompt(names: set[str], settings: Settings) -> None:
    """Raise SettingsError if a system prompt has a column's name in braces: system prompts are not templates."""
    for task in settings.all_tasks:
        found = [name for name in names_in(parts_of(task.system_prompt or "")) if name in names]
        if found:
            raise SettingsError(
                f"system_prompt has {{{found[0]}}}, but the value of a column is put into prompts alone; move that "
                "part into the prompt."
            )


def _called(sources: Sequence[Source]) -> str:
    first = sources[0].location if sources else "the input"
    return first if len(sources) < 2 else f"{first} with {len(sources) - 1} more"
