"""Data sets in: JSON Lines, video files, folders of videos."""

import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Final

from reelscribe.errors import DatasetError
from reelscribe.pipeline import InputRow
from reelscribe.schema import Failure

VIDEO_SUFFIXES: Final = frozenset(
    ".3gp .asf .avi .flv .gif .m2ts .m4v .mkv .mov .mp4 .mpeg .mpg .mts .mxf .ogv .ts .vob .webm .wmv".split()
)
"""What counts as a video in a folder. A file that is named itself may be called anything."""


def read_rows(inputs: Sequence[Path], *, output: Path) -> Iterator[InputRow]:
    """Read rows from data sets and videos, one after the other.

    Args:
        inputs: `.jsonl` files, whose relative video paths start from their own folder; video files; folders, searched
            for videos recursively, in the order of their names.
        output: where the result will be; rows made for video files name them relative to it.

    Raises:
        DatasetError: an input does not exist or holds nothing.
    """
    index = 0
    for source in inputs:
        for item in _read_one(source, output):
            yield InputRow(index=index, row=item.row, root=item.root, problem=item.problem and _renumber(item.problem, index))
            index += 1


def count_rows(inputs: Sequence[Path]) -> int:
    """How many rows `read_rows` will give.

    Raises:
        DatasetError: an input does not exist or holds nothing.
    """
    return sum(_count_one(source) for source in inputs)


def _renumber(problem: Failure, index: int) -> Failure:
    return Failure(key=str(index), video=problem.video, kind=problem.kind, message=problem.message)


def _check(source: Path) -> None:
    if not source.exists():
        raise DatasetError(f"there is no {source}; give a .jsonl file, a video or a folder of videos.")


def _is_jsonl(source: Path) -> bool:
    return source.suffix.lower() in (".jsonl", ".ndjson")


def _read_one(source: Path, output: Path) -> Iterator[InputRow]:
    _check(source)
    if _is_jsonl(source):
        yield from _read_jsonl(source)
        return
    for video in _find_videos(source) if source.is_dir() else [source]:
        named = Path(os.path.relpath(video, output.parent)).as_posix()
        yield InputRow(index=0, row={"video": named}, root=output.parent)


def _count_one(source: Path) -> int:
    _check(source)
    if _is_jsonl(source):
        with source.open("rb") as lines:
            return sum(1 for line in lines if line.strip())
    return len(_find_videos(source)) if source.is_dir() else 1


def _find_videos(folder: Path) -> list[Path]:
    found = sorted(path for path in folder.rglob("*") if path.suffix.lower() in VIDEO_SUFFIXES and path.is_file())
    if not found:
        raise DatasetError(f"the folder {folder} holds no video ({', '.join(sorted(VIDEO_SUFFIXES))}).")
    return found


def _read_jsonl(file: Path) -> Iterator[InputRow]:
    """Rows of a JSON Lines file. A line that is no JSON object becomes a row with a problem, and keeps its text."""
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                reason = None if isinstance(row, dict) else f"a JSON object is needed, got {type(row).__name__}"
            except (ValueError, RecursionError) as exc:
                row, reason = None, str(exc)
            if reason is None:
                yield InputRow(index=0, row=row, root=file.parent)
            else:
                message = f"line {number} of {file.name} is not a row: {reason}."
                problem = Failure(key="", video=None, kind="row", message=message)
                yield InputRow(index=0, row={"unreadable_line": line.decode("utf-8", "replace").rstrip("\n")}, problem=problem)
