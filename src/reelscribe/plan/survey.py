"""Surveys a data set by reading the headers of its clips, or of a random sample of rows if there are very many."""

import itertools
import math
import random
from collections import Counter, deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reelscribe.asking import RowPlan
from reelscribe.config import Settings
from reelscribe.dataset.columns import check_columns
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sources import Source, find_sources
from reelscribe.dataset.splitting import check_split, split_rows
from reelscribe.errors import ClipError, FailureKind
from reelscribe.layouts import choose_layout
from reelscribe.pipeline import peek, plan_row
from reelscribe.values import Clip, InputRow
from reelscribe.video.fetch import FetchLimits, local, scheme_of
from reelscribe.video.headers import Header
from reelscribe.video.prefetch import reading_headers, usable_cpus

MOST_ROWS: Final = 10_000
"""If there are more rows than this, a random sample of this size is surveyed."""
_MOST_EXAMPLES: Final = 3
"""Maximum number of examples of each kind of failure."""
_AHEAD: Final = 4
"""Rows that are read ahead, for each worker."""
_CONFIDENCE: Final = 1.96
"""Standard errors of a 95% confidence interval."""

Look = Header | ClipError | None
"""A clip's header, the reason why it has none, or None if it would have to be downloaded."""


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """An estimate of a total over all rows."""

    value: float
    error: float
    """Half width of the 95% confidence interval; 0 if every row was surveyed."""


@dataclass(frozen=True, kw_only=True)
class Survey:
    """The result of a survey."""

    rows: int
    """Number of rows in the data set."""
    looked_at: int
    """Number of surveyed rows."""
    seen: list[list[Look]] = field(repr=False)
    """For each surveyed row, the result for each of its clips."""
    remote: int
    """Surveyed clips that would have to be downloaded."""
    without_video: int
    """Surveyed rows without a video."""
    codecs: dict[str, int]
    """Surveyed clips by codec."""
    failures: dict[FailureKind, int]
    """Surveyed clips or rows that cannot be captioned, as far as headers show."""
    examples: dict[FailureKind, list[str]]
    """Messages of the first failures of each kind."""

    def total(self, of: Callable[[Header], float]) -> Estimate:
        """Estimate the sum of a quantity over all clips that can be captioned."""
        return self._scale([sum(of(look) for look in row if isinstance(look, Header)) for row in self.seen])

    @property
    def clips(self) -> Estimate:
        """Estimated number of clips to caption, remote ones included."""
        return self._scale([sum(not isinstance(look, ClipError) for look in row) for row in self.seen])

    def _scale(self, sums: Sequence[float]) -> Estimate:
        """Scale sums of surveyed rows to all rows. The error's last factor corrects for the finite population."""
        count = len(sums)
        if count == self.rows or count < 2:
            return Estimate(value=sum(sums), error=0.0)
        mean = sum(sums) / count
        deviation = math.sqrt(sum((each - mean) ** 2 for each in sums) / (count - 1))
        error = _CONFIDENCE * deviation / math.sqrt(count) * math.sqrt(1 - count / self.rows)
        return Estimate(value=self.rows * mean, error=self.rows * error)


def survey(
    inputs: Sequence[str | Path],
    settings: Settings,
    *,
    most_rows: int = MOST_ROWS,
    on_row: Callable[[int], None] = lambda total: None,
) -> Survey:
    """Read the headers of the clips of data sets, in parallel and in other processes.

    Args:
        inputs: data sets, videos, and folders of them; see `find_sources`.
        settings: which columns hold videos, where they lie, and what may be read.
        most_rows: if there are more rows than this, a random sample of this size is surveyed, always the same one.
        on_row: called for each surveyed row, with the number of rows to survey.

    Raises:
        DatasetError: an input cannot be read, or holds nothing to caption.
        SettingsError: the settings name a column that the data set does not have.
        MissingExtraError: a package that a format needs is not installed.
    """
    sources = find_sources(inputs)
    check_columns(sources, settings)
    check_split(sources, settings)
    total = _count(sources, settings)
    chosen = sorted(random.Random(0).sample(range(total), min(total, most_rows)))
    plans = _plans(_only(_rows(sources, settings), chosen), settings)
    seen: list[list[Look]] = []
    remote, without, codecs = 0, 0, Counter[str]()
    failures, examples = Counter[FailureKind](), dict[FailureKind, list[str]]()
    for plan, looks in _looked_at(plans, settings):
        problem = [ClipError(plan.problem.kind, plan.problem.message)] if plan.problem else []
        row: list[Look] = [*problem, *looks]
        seen.append(row)
        remote += row.count(None)
        without += not row
        codecs.update(look.codec for look in row if isinstance(look, Header))
        for error in (look for look in row if isinstance(look, ClipError)):
            failures[error.kind] += 1
            if failures[error.kind] <= _MOST_EXAMPLES:
                examples.setdefault(error.kind, []).append(f"row {plan.index}: {error}")
        on_row(len(chosen))
    return Survey(
        rows=total,
        looked_at=len(seen),
        seen=seen,
        remote=remote,
        without_video=without,
        codecs=dict(codecs.most_common()),
        failures=dict(failures.most_common()),
        examples=examples,
    )


def _rows(sources: Sequence[Source], settings: Settings) -> Iterator[InputRow]:
    return split_rows(read_rows(sources, settings, output=Path("captions.jsonl")), settings)


def _count(sources: Sequence[Source], settings: Settings) -> int:
    """Number of rows. If videos are split, or the format has no count, all rows are read for it."""
    count = None if settings.split else count_rows(sources)
    return sum(1 for _ in _rows(sources, settings)) if count is None else count


def _only(rows: Iterable[InputRow], chosen: Sequence[int]) -> Iterator[InputRow]:
    """Yield the rows with these indexes, which ascend. Stops reading after the last one."""
    wanted = iter(chosen)
    number = next(wanted, None)
    for row in rows:
        if row.index == number:
            yield row
            number = next(wanted, None)
        if number is None:
            return


def _plans(rows: Iterator[InputRow], settings: Settings) -> Iterator[RowPlan]:
    peeked = peek(rows)
    layout = choose_layout([item.row for item in peeked], settings)
    yield from (plan_row(item, layout, settings) for item in itertools.chain(peeked, rows))


def _looked_at(plans: Iterator[RowPlan], settings: Settings) -> Iterator[tuple[RowPlan, list[Look]]]:
    """Yield rows with the results for their clips, in order."""
    limits, workers = FetchLimits.of(settings), settings.decoders or usable_cpus()
    with ThreadPoolExecutor(workers, thread_name_prefix="headers") as executor, reading_headers(settings) as read:

        def look(clip: Clip) -> Look:
            if not isinstance(clip.source, bytes) and scheme_of(clip.source) not in (None, "file"):
                return None
            try:
                return read(local(clip, limits))
            except ClipError as exc:
                return exc

        waiting: deque[tuple[RowPlan, list[Future[Look]]]] = deque()
        for plan in plans:
            waiting.append((plan, [executor.submit(look, subject.clip) for subject in plan.subjects]))
            if len(waiting) > _AHEAD * workers:
                first, looks = waiting.popleft()
                yield first, [each.result() for each in looks]
        for first, looks in waiting:
            yield first, [each.result() for each in looks]
