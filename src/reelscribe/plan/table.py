"""Formats an outlook as text."""

from collections.abc import Iterator, Mapping
from typing import Any

from reelscribe.plan.outlook import Outlook, times
from reelscribe.plan.survey import Estimate


def lines(outlook: Outlook) -> Iterator[str]:
    """Yield the lines to print."""
    seen, per_clip = outlook.survey, len(f"{max(each.per_clip for each in outlook.tokens):,.0f}")
    some = "" if seen.looked_at == seen.rows else f"; {seen.looked_at:,} looked at, the rest estimated (± holds in 95%)"
    of_those = "" if seen.looked_at == seen.rows else " (of those looked at)"
    facts = {
        "rows": f"{seen.rows:,}{some}",
        "clips": f"{_number(outlook.clips)}, {_duration(outlook.hours)} of video",
        "codecs": (_counts(seen.codecs) or "none seen") + of_those,
        "broken": (_counts(seen.failures) or "none, as far as headers tell") + of_those,
    }
    yield from _columns(facts)
    for kind in seen.failures:
        yield from (f"{'':<10}  {kind}: {text}" for text in seen.examples[kind])
    if seen.without_video:
        yield from _columns({"no video": f"{seen.without_video:,} rows"})
    if seen.remote:
        yield from _columns({"remote": f"{seen.remote:,} clips were not downloaded; hours and tokens leave them out"})
    yield from _columns({"model": f"{outlook.model}; limits: {outlook.limits}"})
    for number, cost in enumerate(outlook.tokens):
        mark = "  (as set)" if number == 0 else ""
        yield (
            f"{'tokens' if number == 0 else '':<10}  at {cost.fps:g} fps  {cost.per_clip:>{per_clip},.0f} a clip  "
            f"{_number(cost.total)} in all{mark}"
        )
    yield from _tasks(outlook)
    rate = f"fewer than {outlook.tokens[0].fps:g} frames a second; see --max-frames, --max-video-tokens"
    share = "less than a quarter of their pixels; see --max-video-tokens, or lower --fps"
    for name, clips, what in (("thinned", outlook.thinned, rate), ("shrunk", outlook.shrunk, share)):
        if clips.value:
            yield from _columns({name: f"{_number(clips)}, {what}"})
    yield from _columns({"GPU": _gpu(outlook), **_speed(outlook)})
    for number, made in enumerate(outlook.candidates):
        hours = " to ".join(dict.fromkeys((_duration(made.least_hours), _duration(made.most_hours))))
        tokens = f"{made.candidates}: {_number(made.answer_tokens)} tokens of answers"
        yield f"{'' if number else 'candidates':<10}  {tokens}, {hours}"


def _tasks(outlook: Outlook) -> Iterator[str]:
    """Yield lines about the costs of tasks, and about judging and verifying."""
    width = max((len(task.name) for task in outlook.tasks), default=0)
    for number, task in enumerate(outlook.tasks):
        tokens = "tokens of answers not known: set max_tokens in sampling"
        if task.answer_tokens is not None:
            tokens = f"at most {_number(task.answer_tokens)} tokens of answers"
        yield f"{'' if number else 'tasks':<10}  {task.name:<{width}}  {_number(task.requests)} requests, {tokens}"
    if outlook.judged.value:
        yield f"{'judged':<10}  {_number(outlook.judged)} candidates, each by one more question and one token"
    if outlook.verified.value:
        yield f"{'verified':<10}  {_number(outlook.verified)} texts, each claim by one more question and one token"
    if outlook.tasks or outlook.judged.value or outlook.verified.value:
        once = "once for all tasks" if outlook.tasks else "once"
        least = "at least " if outlook.verified.value else ""
        times = once if outlook.readings == 1 else f"{least}{outlook.readings} times; tokens are of one time"
        yield f"{'':<10}  each clip is read {times}"


def _columns(facts: Mapping[str, str]) -> Iterator[str]:
    yield from (f"{name:<10}  {text}" for name, text in facts.items())


def _gpu(outlook: Outlook) -> str:
    """The plan of GPUs in words, or why there is none."""
    made = outlook.gpu_plan
    if made is None:
        needed = outlook.one_gpu_bytes
        return ("not planned: " if needed is None else f"{needed / 10**9:.1f} GB on one; ") + outlook.no_gpu_plan
    how = f"tp={made.tp}, dp={made.dp}" + (", with --engine vllm" if made.needs_vllm else "")
    return (
        f"{made.gpus} x {made.gpu} ({how}), {made.needed_bytes / 10**9:.1f} GB of "
        f"{made.usable_bytes / 10**9:.1f} GB that can be used on each"
    )


def _speed(outlook: Outlook) -> dict[str, str]:
    """Rate, time and cost in words, or what to do if no rate is known."""
    rate = outlook.rate
    if rate is None or outlook.gpu_hours is None or outlook.wall_hours is None:
        return {
            "time": "not known: no rate was measured. Caption some clips first and name OUTPUT.run.json with "
            "--measured, or give --rate CLIPS_PER_SECOND of one GPU"
        }
    differs = f"; there {', '.join(rate.differences)}" if rate.differences else ""
    told = {
        "rate": f"{rate.clips_per_second:g} clips/s on one GPU, from {rate.source}{differs}",
        "time": f"{_duration(outlook.wall_hours)}; {_number(outlook.gpu_hours, 2)} GPU hours",
    }
    if outlook.cost is None:
        return {**told, "cost": "not known: --price names that of a GPU hour"}
    return {**told, "cost": f"{_number(outlook.cost, 2)} at {outlook.price:g} a GPU hour"}


def _number(estimate: Estimate, digits: int = 0) -> str:
    error = f" ± {estimate.error:,.{digits}f}" if estimate.error else ""
    return f"{estimate.value:,.{digits}f}{error}"


def _duration(hours: Estimate) -> str:
    units = {"hours": 1, "minutes": 60, "seconds": 3600}
    unit = next((name for name, many in units.items() if hours.value * many >= 1), "seconds")
    return f"{_number(times(hours, units[unit]), 1)} {unit}"


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items())
