"""What the command says on standard error: progress, the summary at the end; for people, or as JSON."""

import json
import logging
import os
import shlex
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import click

from reelscribe.errors import TRANSIENT_KINDS, without_passwords
from reelscribe.terminal import printable

if TYPE_CHECKING:
    from reelscribe.runners.live import Live
    from reelscribe.runners.local import RunSummary
    from reelscribe.values import RowResult

logger = logging.getLogger(__name__)

_MOST_EXAMPLES: Final = 4
"""Of failures; with them the summary has ten lines at most."""
_SLOW: Final = {
    "reading": "reading the rows held it up",
    "decoding": "decoding held it up: give it more CPU cores, or fewer and smaller frames (--fps, --max-video-tokens)",
    "writing": "writing held it up",
}
_ALLOW_MORE: Final = {
    "cut_off": "--sampling max_tokens=N",
    "thinned": "--max-frames N",
    "shrunk": "--max-video-tokens N",
}
"""Flags to what their captions were short of."""


def some(count: int, noun: str) -> str:
    """A count with its noun."""
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


def kinds(failures: Mapping[Any, int]) -> str:
    """Counts of each kind."""
    return ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items()))


def flagged(flags: Mapping[str, int]) -> str:
    """Counts of each flag. The name comes first: one is called `times`."""
    return ", ".join(f"{name} {count}" for name, count in sorted(flags.items()))


def examples(failures: Mapping[Any, int], told: Mapping[Any, list[str]]) -> Iterator[str]:
    """A few failures of each kind, the commonest kind first."""
    for kind in sorted(failures, key=lambda kind: (-failures[kind], kind)):
        yield from (f"{kind}: {' '.join(text.split())}" for text in told.get(kind, []))


def by_task(tasks: Mapping[str, Mapping[str, Any]]) -> Iterator[str]:
    """What came of each task."""
    for name, told in tasks.items():
        failures = told["failures"]
        failed = f", {some(sum(failures.values()), 'failure')} ({kinds(failures)})" if failures else ""
        yield f"{name}: {some(told['captions'], 'answer')}{failed}"


def say(line: str, *, err: bool = False) -> None:
    """Print a line; what would make a terminal do anything but show it is escaped."""
    click.echo(printable(line), err=err)


# JSON


def say_json(event: str, **told: Any) -> None:
    """One event, as one line of JSON."""
    click.echo(_line(event, told), err=True)


def _line(event: str, told: Mapping[str, Any]) -> str:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return json.dumps({"event": event, "time": now, **told}, default=str)


def tell_stop_json() -> None:
    """Say that a signal to stop came, from wherever the program is just then."""
    from reelscribe.runners.stop import NOTICE

    with suppress(OSError):
        os.write(2, f"{_line('stop', {'message': NOTICE})}\n".encode())


class JsonFormatter(logging.Formatter):
    """Records of `logging` as events."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return _line("log", told)


# Progress


class Progress:
    """A bar on a terminal, a line now and then elsewhere, or events of JSON.

    Lines and events come whether rows are done or not: who looks for them may want to know why none are.

    Args:
        as_json: events of JSON, wherever it is.
    """

    LINE_SECONDS = 30.0

    def __init__(self, *, as_json: bool = False) -> None:
        self._json = as_json
        self._bar: Any = None
        self._live: Live | None = None
        self._ended = threading.Event()
        self._teller = threading.Thread(target=self._tell_now_and_then, name="progress", daemon=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        if self._teller.is_alive():
            self._teller.join()
        if self._bar is not None:
            self._bar.close()

    def start(self, live: "Live") -> None:
        """Begin to tell of a run."""
        self._live = live
        if self._json:
            told = asdict(live.watch.model)
            say_json("start", total=live.total, model=told["model"], revision=told["revision"], engine=told["engine"])
        else:
            logger.info("%s with %s", live.watch.model.model, live.watch.model.engine)
        self._new_bar(live.total, "row")
        if self._bar.disable:
            self._teller.start()

    def clip(self, total: int) -> None:
        """Count a clip that was looked at, of so many."""
        self._count(total, "clip")

    def row(self, total: int) -> None:
        """Likewise, a row."""
        self._count(total, "row")

    def answer(self) -> None:
        """Likewise, an answer, of nobody knows how many."""
        self._count(None, "answer")

    def _count(self, total: int | None, unit: str) -> None:
        if self._bar is None:
            self._new_bar(total, unit)
        self._bar.update()

    def _new_bar(self, total: int | None, unit: str) -> None:
        from tqdm import tqdm

        self._bar = tqdm(total=total, unit=unit, disable=True if self._json else None, dynamic_ncols=True)

    def advance(self, _: "RowResult") -> None:
        """A row of the run is done."""
        self._bar.update()
        if self._live is not None and not self._bar.disable:
            self._bar.set_postfix_str(_rates_so_far(self._live), refresh=False)

    def _tell_now_and_then(self) -> None:
        while self._live is not None and not self._ended.wait(self.LINE_SECONDS):
            if self._json:
                say_json("progress", **self._live.told())
            else:
                say(_line_of_progress(self._live), err=True)


def _line_of_progress(live: "Live") -> str:
    done, left = live.tally.rows, live.seconds_left
    rows = f"{done:,} rows" if left is None else f"{done:,} of {live.total:,} rows, {left:,.0f} s left"
    return f"{rows}, {_rates_so_far(live)}"


def _rates_so_far(live: "Live") -> str:
    watch = live.watch
    answers = watch.answers_per_second if live.tally.tasks else None
    parts = [_rates(watch.clips_per_second, watch.tokens_per_second, answers)]
    failures, cost = sum(dict(live.tally.failures).values()), live.spending.cost
    if failures:
        parts.append(some(failures, "failure"))
    if cost is not None:
        parts.append(f"cost {cost:.2f}")
    if (busy := watch.engine_busy_share) is not None:
        parts.append(f"engine busy {busy:.0%}")
    parts.append(f"limit: {watch.bottleneck()}")
    return ", ".join(parts)


def _rates(clips: float, tokens: float, answers: float | None) -> str:
    """Answers are told where a clip has several."""
    of_them = "" if answers is None else f", {answers:.2f} answers/s"
    return f"{clips:.2f} clips/s{of_them}, {tokens:.0f} tokens/s"


# The end


def summary_lines(summary: "RunSummary", output: str | Path) -> Iterator[str]:
    """What a run did, and what may be done next: ten lines at most."""
    known = f" ({summary.known} taken from the ledger)" if summary.known else ""
    made = some(summary.captions, "caption")
    if summary.tasks:
        made = f"{some(summary.captions, 'answer')} about {some(summary.videos, 'clip')}"
    yield f"{made} for {some(summary.rows, 'row')} in {without_passwords(str(output))}{known}"
    if summary.tasks:
        yield f"by task: {'; '.join(by_task(summary.tasks))}"
    if summary.speed["answers"]:
        yield _speed(summary)
    if summary.without_video:
        where = "if theirs is in another column, name it with --video-key"
        yield f"{some(summary.without_video, 'row')} without a video; {where}"
    if summary.flags:
        hints = {option: None for flag, option in _ALLOW_MORE.items() if flag in summary.flags}
        hint = f"; allow more with {' and '.join(hints)}" if hints else ""
        yield f"flagged {'answers' if summary.tasks else 'captions'}: {flagged(summary.flags)}{hint}"
    if summary.failures:
        count = some(sum(summary.failures.values()), "failure")
        yield f"{count} ({kinds(summary.failures)}), listed in {summary.failures_file}"
        most = _MOST_EXAMPLES - bool(summary.tasks)  # which took a line
        yield from [f"  {line}" for line in examples(summary.failures, summary.examples)][:most]
    step = next_step(summary, output)
    if step:
        yield f"next: {step}"


def next_step(summary: "RunSummary", output: str | Path) -> str:
    """The next useful thing to do; nothing where there is none."""
    name = shlex.quote(without_passwords(str(output)))
    passing = sorted(kind for kind in summary.failures if kind in TRANSIENT_KINDS)
    if passing:
        return f"reelscribe retry {name} --kind {','.join(passing)}"
    if summary.failures:
        return f"mend what is listed, then reelscribe retry {name}"
    return f"reelscribe report {name}" if summary.captions else ""


def _speed(summary: "RunSummary") -> str:
    """How fast a run was, and what to do about it."""
    speed = summary.speed
    answers = speed["answers_per_second"] if summary.tasks else None
    rates = _rates(speed["clips_per_second"], speed["tokens_per_second"], answers)
    waited = speed["shares_waited_for"]["decoding"]
    slow = _SLOW.get(speed["bottleneck"], f"the engine waited for frames {waited:.0%} of the time")
    cost = "" if summary.cost is None else f", cost {summary.cost:.2f}"
    return f"in {speed['seconds']:.1f} s: {rates}{cost}; {slow}"
