"""Makes marks from findings or conditions, in the format that reports export and `retry --marks` reads."""

import json
import os
from collections.abc import Collection, Iterable, Sequence
from contextlib import suppress
from pathlib import Path

from reelscribe.dataset.remake import Mark
from reelscribe.errors import DatasetError
from reelscribe.export.samples import chosen_tasks, unknown_name
from reelscribe.export.where import Condition, Named
from reelscribe.report.entries import CaptionedData, Entry


def check_free(file: Path) -> None:
    """Raise DatasetError if the file exists: it may hold marks that a person made."""
    if file.exists():
        raise DatasetError(f"there is {file} already, which may hold marks of yours; choose another name.")


def write_marks(file: Path, faulty: Iterable[tuple[Entry, list[str]]], only: Collection[str] = ()) -> int:
    """Write a mark for each answer with a wanted finding.

    Args:
        file: the file to write. It gets its name when it is complete.
        faulty: answers with the names of their findings, which become the mark's note.
        only: findings to mark; all by default.

    Returns:
        The number of marks.

    Raises:
        DatasetError: the file exists already, or cannot be written.
    """
    check_free(file)
    partial, count = file.with_name(f"{file.name}.{os.getpid()}.partial"), 0
    try:
        with partial.open("w", encoding="utf-8", errors="surrogatepass") as opened:
            for entry, names in faulty:
                if only and not set(only) & set(names):
                    continue
                count += 1
                mark = {"row": entry.row, "video": entry.video.name or None, "task": entry.task}
                opened.write(json.dumps({**mark, "flag": True, "note": ", ".join(names)}) + "\n")
        partial.replace(file)
    except OSError as exc:
        raise DatasetError(f"cannot write to {file}: {exc.strerror or exc}.") from exc
    finally:
        with suppress(OSError):
            partial.unlink()
    return count


def marked_where(output: Path, written: Sequence[str], tasks: Sequence[str]) -> set[Mark]:
    """Mark the answers of which some kept caption meets all conditions.

    Args:
        output: the output of the run.
        written: conditions, as `export --where` takes them.
        tasks: tasks whose answers are marked; all by default.

    Raises:
        SettingsError: a condition cannot be parsed, or has a name that no row has; or there is no such task.
        DatasetError: the output cannot be read.
    """
    conditions = [Condition.parse(text) for text in written]
    data = CaptionedData(output)
    names = chosen_tasks(data, tasks or [task.name for task in data.tasks])
    marks: set[Mark] = set()
    unknown, looked = set(conditions), False
    for entry in data.entries():
        if not isinstance(entry, Entry) or entry.task not in names or entry.failure is not None:
            continue
        for text in entry.captions:
            named, looked = Named(entry=entry, text=text), True
            unknown -= {item for item in unknown if named.knows(item.name)}
            if all(item.holds(named.value(item.name)) for item in conditions):
                marks.add(Mark(entry.row, entry.video.name or None, entry.task))
    for item in unknown if looked else ():
        raise unknown_name(f"--where {item.written!r}", item.name)
    return marks
