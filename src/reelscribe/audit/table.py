"""Formats an audit as text for a terminal of 80 columns."""

import textwrap
from collections.abc import Iterator, Mapping
from typing import Any, Final

from reelscribe.audit.findings import FINDINGS
from reelscribe.terminal import printable, shortened

_COLUMNS: Final = 80
"""Maximum width of a line."""
_LISTED: Final = 10
"""Maximum number of openings, and of phrases, that are listed."""
_LONGEST: Final = 55
"""Maximum letters of an opening, a phrase or a clip's name."""


def lines(told: Mapping[str, Any]) -> Iterator[str]:
    """The lines for a result of `Audit.told`."""
    tasks = told["tasks"]
    for name, figures in tasks.items():
        if len(tasks) > 1:
            yield f"Task {name}"
        yield from _of_task(figures, told["common"])


def summary_of(figures: Mapping[str, Any]) -> str:
    """The numbers of captions, failures and unwritten columns, in words."""
    failed = figures["failed"]
    parts = [f"{figures['captions']:,} captions"]
    parts += [f"{sum(failed.values()):,} failed ({kinds_of(failed)})"] if failed else []
    unwritten = figures["without_text"]
    parts += [f"{unwritten:,} whose column was not written"] if unwritten else []
    return ", ".join(parts)


def kinds_of(counts: Mapping[str, int]) -> str:
    """Counts with their names, in words."""
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())


def clips_of(found: Mapping[str, Any], longest: int | None = None) -> str:
    """Names of a finding's example clips, each cut to `longest` letters."""
    names = [name if longest is None else shortened(name, longest) for name in found["clips"]]
    return ", ".join(names) + (", ..." if found["captions"] > len(names) else "")


def lengths_of(told: Mapping[str, Any]) -> str:
    """Statistics of lengths, in words."""
    return (
        f"{told['mean']:,} on average, from {told['least']:,} to {told['most']:,}; "
        f"90% from {told['p5']:,} to {told['p95']:,}, half up to {told['p50']:,}"
    )


def seconds_of(told: Mapping[str, Any]) -> str:
    """A range of clip lengths, in words."""
    low, high = told["from_seconds"], told["to_seconds"]
    return f"{low} s and more" if high is None else f"{low} to {high} s"


def _of_task(figures: Mapping[str, Any], common: float) -> Iterator[str]:
    """Yield the lines for one task."""
    yield from _wrapped("captions", summary_of(figures))
    if not figures["captions"]:
        return
    for name, found in figures["findings"].items():
        yield f"  {name:<15}{found['captions']:>9,}{found['share']:>8.2%}"
        if name in FINDINGS:
            yield f"  {'':<15}{FINDINGS[name]}"
        yield from _wrapped("", f"in {clips_of(found, _LONGEST)}", indent=17)
    if not figures["findings"]:
        yield "  nothing was found in single captions"
    if figures["flags"]:
        yield from _wrapped("flags", kinds_of(figures["flags"]))
    for name in ("words", "tokens"):
        if figures[name]:
            yield from _wrapped(name, lengths_of(figures[name]))
    yield from _wrapped("scripts", kinds_of(figures["scripts"]))
    if figures["languages"]:
        yield from _wrapped("languages", kinds_of(figures["languages"]))
    for name in ("openings", "phrases"):
        yield from _common(name, figures[name], common)
    yield from _vocabulary(figures["vocabulary"])
    yield from _durations(figures)


def _common(name: str, found: list[Mapping[str, Any]], common: float) -> Iterator[str]:
    what = f"in more than {100 * common:g}%"
    if not found:
        yield from _wrapped(name, f"none {what}")
        return
    yield from _wrapped(name, f"{len(found):,} {what}")
    for each in found[:_LISTED]:
        yield f"  {each['share']:>8.2%}  {printable(shortened(each['text'], _LONGEST))}"


def _vocabulary(told: Mapping[str, Any]) -> Iterator[str]:
    about = "" if told["is_exact"] else "more than "
    text = f"{told['words']:,} words, {about}{told['different']:,} different"
    if told["type_token_ratio"] is not None:
        text += f" (type-token ratio {told['type_token_ratio']:.4f})"
    yield from _wrapped("vocabulary", f"{text}; most frequent: {', '.join(word for word, _ in told['top'])}")


def _durations(figures: Mapping[str, Any]) -> Iterator[str]:
    if not figures["durations"]:
        return
    correlation = figures["correlation"]
    told = "nothing to compare" if correlation is None else f"correlation {correlation:.2f}"
    yield from _wrapped("durations", f"length of captions against that of clips: {told}")
    for each in figures["durations"]:
        yield f"  {seconds_of(each):<15}{each['captions']:>9,} captions, {each['mean_words']:>6,} words on average"


def _wrapped(name: str, text: str, *, indent: int = 12) -> Iterator[str]:
    yield from textwrap.wrap(
        printable(text),
        _COLUMNS,
        initial_indent=f"{name:<{indent}}",
        subsequent_indent=" " * indent,
        break_on_hyphens=False,
    )
