"""A data set through an audit, once; and its marks, by a second look."""

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from reelscribe.audit.figures import Figures, clip_name
from reelscribe.audit.findings import Limit
from reelscribe.errors import SettingsError
from reelscribe.export.samples import chosen_tasks
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.words import token_counter

OnEntry = Callable[[], None]
"""Called for each answer that was looked at."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """What came of it."""

    output: Path
    data: CaptionedData
    figures: dict[str, Figures]
    """Of each task."""
    common: float

    def told(self) -> dict[str, Any]:
        """All of it, ready for JSON."""
        tasks = {name: figures.told(self.common) for name, figures in self.figures.items()}
        return {"output": str(self.output), "common": self.common, "tasks": tasks}

    def lengths(self) -> dict[str, Counter[int]]:
        """Captions of each task, by their number of words."""
        return {name: figures.words for name, figures in self.figures.items()}

    def passed(self, limits: Sequence[Limit]) -> Iterator[str]:
        """What is told of the limits that some task passes."""
        for limit in limits:
            for name, figures in self.figures.items():
                count, of = figures.count(limit.name)
                if limit.is_passed(count, of):
                    where = f" of {name}" if len(self.figures) > 1 else ""
                    yield f"{limit.written}: it is {count:,} of {of:,} captions{where} ({count / max(of, 1):.2%})"

    def faulty(self) -> Iterator[tuple[Entry, list[str]]]:
        """The answers with a finding, by a second look at the data set, and what was found in each."""
        for entry, places in _with_places(self.data, self.figures):
            names = {name: None for place in places for name in self.figures[entry.task].names_of(place)}
            if names:
                yield entry, list(names)


def audit(
    output: Path,
    *,
    tasks: Sequence[str] = (),
    common: float = 0.05,
    tokenizer: Path | None = None,
    max_tokens: int | None = None,
    on_entry: OnEntry = lambda: None,
) -> Audit:
    """Look at all captions of a data set.

    Memory does not grow with the data set, but for 64 bytes a caption, and some 180 where these are sorted at the end.

    Args:
        output: the data set, as a run was given it.
        tasks: whose answers; of all by default.
        common: share of captions, from 0 to 1, above which an opening or a phrase is told.
        tokenizer: folder of the tokenizer to count tokens with.
        max_tokens: that a caption may have.
        on_entry: called for each answer.

    Raises:
        DatasetError: there is no such data set, it is not finished, or it cannot be read.
        SettingsError: there is no such task, or a number is wrong.
        MissingExtraError: what its format, or the tokenizer, needs is not installed.
    """
    if not 0 < common <= 1:
        raise SettingsError(f"--common takes a share above 0% and up to 100%; got {100 * common:g}%.")
    if max_tokens is not None and (max_tokens < 1 or tokenizer is None):
        raise SettingsError("--max-tokens takes a number of at least 1, and --tokenizer the folder to count with.")
    count = token_counter(tokenizer) if tokenizer else None
    data = CaptionedData(output, videos=False)
    names = chosen_tasks(data, tasks or [task.name for task in data.tasks])
    figures = {name: Figures(count_tokens=count, max_tokens=max_tokens) for name in names}
    for entry in _entries(data, figures):
        figures[entry.task].add(entry)
        on_entry()
    for each in figures.values():
        each.close()
    _name_examples(data, figures)
    return Audit(output=output, data=data, figures=figures, common=common)


def _entries(data: CaptionedData, tasks: dict[str, Figures]) -> Iterator[Entry]:
    return (entry for entry in data.entries() if isinstance(entry, Entry) and entry.task in tasks)


def _with_places(data: CaptionedData, tasks: dict[str, Figures]) -> Iterator[tuple[Entry, range]]:
    """The answers, and where the captions of each are among those of its task."""
    seen: Counter[str] = Counter()
    for entry in _entries(data, tasks):
        start = seen[entry.task]
        seen[entry.task] += len(entry.captions)
        yield entry, range(start, seen[entry.task])


def _name_examples(data: CaptionedData, tasks: dict[str, Figures]) -> None:
    """Look once more for what the clips of examples are called. Names of all clips would not fit in bounded memory."""
    wanted = {name: figures.examples() for name, figures in tasks.items()}
    left = sum(map(len, wanted.values()))
    answers = _with_places(data, tasks)
    while left and (found := next(answers, None)):
        entry, places = found
        for place in wanted[entry.task].intersection(places):
            tasks[entry.task].clips[place] = clip_name(entry)
            left -= 1
