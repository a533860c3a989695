"""What the command says on standard error: events of JSON, the summary at the end, the next step."""

import json
import logging
import os
import shlex
import time
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from reelscribe.errors import RETRIED_KINDS, without_passwords
from reelscribe.runners.progress import TELLING_SECONDS, cost_in_words
from reelscribe.terminal import printable, some

if TYPE_CHECKING:
    from reelscribe.runners.local import RunSummary

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


def tell_stop_json(finishing: str) -> None:
    """Say that a signal to stop came, and what is still done, from wherever the program is just then."""
    with suppress(OSError):
        os.write(2, f"{_line('stop', {'message': f'{finishing}; once more stops at once.'})}\n".encode())


class JsonFormatter(logging.Formatter):
    """Records of `logging` as events."""

    def format(self, record: logging.LogRecord) -> str:
        """The line."""
        told = {"level": record.levelname.lower(), "logger": record.name, "message": record.getMessage()}
        if record.exc_info:
            told["traceback"] = self.formatException(record.exc_info)
        return _line("log", told)


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
    passing = sorted(kind for kind in summary.failures if kind in RETRIED_KINDS)
    if passing:
        return f"reelscribe retry {name} --kind {','.join(passing)}"
    if summary.failures:
        return f"fix what is listed, then reelscribe retry {name}"
    return f"reelscribe report {name}" if summary.captions else ""


def _speed(summary: "RunSummary") -> str:
    """How fast a run was, and what to do about it."""
    speed = summary.speed
    told = [f"{speed['clips_per_second']:.2f} clips/s"]
    if summary.tasks:
        told.append(f"{speed['answers_per_second']:.2f} answers/s")
    if speed["tokens_per_second"]:  # servers may tell none
        told.append(f"{speed['tokens_per_second']:.0f} tokens/s")
    if summary.cost is not None:
        told.append(cost_in_words(summary.cost))
    waited = speed["shares_waited_for"]["decoding"]
    slow = _SLOW.get(speed["bottleneck"], f"the engine waited for frames {waited:.0%} of the time")
    return f"in {speed['seconds']:.1f} s: {', '.join(told)}" + (
        f"; {slow}" if speed["seconds"] > TELLING_SECONDS else ""
    )
