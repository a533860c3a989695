"""Runs an audit: one pass over a data set, and another one for marks and examples."""

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
"""Called for each audited answer."""


@dataclass(frozen=True, kw_only=True)
class Audit:
    """The result of an audit."""

    output: Path
    data: CaptionedData
    figures: dict[str, Figures]
    """Figures of each task."""
    common: float
    """Share of captions, from 0 to 1, above which openings and phrases are listed."""

    def told(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        tasks = {name: figures.told(self.common) for name, figures in self.figures.items()}
        return {"output": str(self.output), "common": self.common, "tasks": tasks}

    def lengths(self) -> dict[str, Counter[int]]:
        """For each task, the number of captions by number of words."""
        return {name: figures.words for name, figures in self.figures.items()}

    def passed(self, limits: Sequence[Limit]) -> Iterator[str]:
        """Messages about limits that some task exceeds."""
        for limit in limits:
            for name, figures in self.figures.items():
                count, of = figures.count(limit.name)
                if limit.is_passed(count, of):
                    where = f" of {name}" if len(self.figures) > 1 else ""
                    yield f"{limit.written}: it is {count:,} of {of:,} captions{where} ({count / max(of, 1):.2%})"

    def faulty(self) -> Iterator[tuple[Entry, list[str]]]:
        """Yield the answers with findings, each with the names of its findings. Reads the data set again."""
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
    """Audit all captions of a data set.

    Memory grows by 64 bytes a caption, and to about 180 bytes a caption while hashes are sorted at the end.

    Args:
        output: the output of a run, as its command names it.
        tasks: tasks to audit; all by default.
        common: share of captions, from 0 to 1, above which an opening or a phrase is listed.
        tokenizer: folder of the tokenizer to count tokens with.
        max_tokens: maximum tokens of a caption.
        on_entry: called for each answer.

    Raises:
        DatasetError: there is no such data set, it is not finished, or it cannot be read.
        SettingsError: there is no such task, or a number is wrong.
        MissingExtraError: a package that its format or the tokenizer needs is not installed.
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
    """Yield answers, each with the numbers of its captions among all captions of its task."""
    seen: Counter[str] = Counter()
    for entry in _entries(data, tasks):
        start = seen[entry.task]
        seen[entry.task] += len(entry.captions)
        yield entry, range(start, seen[entry.task])


def _name_examples(data: CaptionedData, tasks: dict[str, Figures]) -> None:
    """Find the clip names of examples in another pass: the names of all clips would not fit in bounded memory."""
    wanted = {name: figures.examples() for name, figures in tasks.items()}
    left = sum(map(len, wanted.values()))
    answers = _with_places(data, tasks)
    while left and (found := next(answers, None)):
        entry, places = found
        for place in wanted[entry.task].intersection(places):
            tasks[entry.task].clips[place] = clip_name(entry)
            left -= 1
