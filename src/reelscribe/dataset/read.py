"""Data sets in: JSON Lines, video files, folders of videos."""

import itertools
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from reelscribe.errors import DatasetError
from reelscribe.pipeline import InputRow
from reelscribe.schema import Failure

_SUFFIXES = "3gp asf avi flv gif m2ts m4v mkv mov mp4 mpeg mpg mts mxf ogv ts vob webm wmv"
VIDEO_SUFFIXES: Final = frozenset(f".{name}" for name in _SUFFIXES.split())
"""What counts as a video in a folder. A file that is named itself may be called anything."""


def read_rows(inputs: Sequence[Path], *, output: Path) -> Iterator[InputRow]:
    """Read rows from data sets and videos, one after the other.

    Args:
        inputs: `.jsonl` files, whose relative video paths start from their own folder; video files; folders, searched
            for videos recursively, in the order of their names.
        output: where the result will be; rows made for video files name them relative to it.

    Raises:
        DatasetError: an input does not exist, cannot be read, or is a folder without videos.
    """
    numbers = itertools.count()
    for source in inputs:
        if _is_jsonl(source):
            yield from _read_jsonl(source, numbers)
            continue
        # The video's own name stays, but both folders are resolved: ".." steps out of where a link leads to.
        root = output.parent.resolve()
        for video in _find_videos(source):
            named = os.path.relpath(video.parent.resolve() / video.name, root)
            yield InputRow(index=next(numbers), row={"video": Path(named).as_posix()}, root=output.parent)


def count_rows(inputs: Sequence[Path]) -> int:
    """How many rows `read_rows` will give.

    Raises:
        DatasetError: an input does not exist, cannot be read, or is a folder without videos.
    """
    return sum(_count_lines(source) if _is_jsonl(source) else len(_find_videos(source)) for source in inputs)


def _is_jsonl(source: Path) -> bool:
    return source.suffix.lower() in (".jsonl", ".ndjson") and not source.is_dir()


def _find_videos(source: Path) -> list[Path]:
    if not source.exists():
        raise _missing(source)
    if not source.is_dir():
        return [source]
    found = sorted(path for path in source.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not found:
        raise DatasetError(f"the folder {source} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    return found


def _missing(source: Path) -> DatasetError:
    return DatasetError(f"there is no {source}; give a .jsonl file, a video or a folder of videos.")


def _lines(file: Path) -> Iterator[tuple[int, bytes]]:
    """The lines of a file that hold something, with their numbers from 1."""
    try:
        with file.open("rb") as lines:
            yield from ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    except FileNotFoundError as exc:
        raise _missing(file) from exc
    except OSError as exc:
        raise DatasetError(f"cannot read {file}: {exc.strerror}.") from exc


def _count_lines(file: Path) -> int:
    return sum(1 for _ in _lines(file))


def _read_jsonl(file: Path, numbers: Iterator[int]) -> Iterator[InputRow]:
    """Rows of a JSON Lines file. A line that is no JSON object becomes a row with a problem, and keeps its text."""
    for (line_number, line), index in zip(_lines(file), numbers, strict=False):
        try:
            row = json.loads(line.rstrip())
            reason = None if isinstance(row, dict) else f"it must be a JSON object; got {type(row).__name__}"
        except json.JSONDecodeError as exc:
            row, reason = None, f"{exc.msg} at column {exc.colno}"
        except (ValueError, RecursionError) as exc:  # no UTF-8, a number of too many digits, too many levels
            row, reason = None, str(exc)
        if reason is None:
            yield InputRow(index=index, row=row, root=file.parent)
            continue
        problem = Failure(
            key=str(index), video=None, kind="row", message=f"line {line_number} of {file.name} is not a row: {reason}."
        )
        kept = line.decode("utf-8", "replace").rstrip("\r\n")
        yield InputRow(index=index, row={"unreadable_line": kept}, problem=problem)
