"""Finds a measured rate to plan with. Rates are never guessed."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.errors import SettingsError

BENCHMARKS: Final = Path("benchmarks", "results")
"""Folder of results of benchmarks/gpu.py in a checkout."""
_COMPARED: Final = ("model", "engine", "num_captions", "fps", "max_video_tokens", "sampling", "tasks", "schema")
"""Settings that a rate depends on."""


@dataclass(frozen=True, kw_only=True)
class Rate:
    """Clips per second of one GPU."""

    clips_per_second: float
    source: str
    """Where the rate was measured, in words."""
    differences: list[str] = field(default_factory=list)
    """Settings that differed there from the planned run."""
    candidates: int | None = None
    """Candidates for each clip there; None if not known, or if there were several tasks."""
    candidate_tokens: float | None = None
    """Average tokens of a candidate there."""


def find_rate(settings: Settings, *, given: float | None, measured: Path | None, gpu: str | None) -> Rate | None:
    """The rate to plan with; None if none is known.

    Args:
        settings: settings of the planned run.
        given: clips per second of one GPU, from the user.
        measured: a file with a measured rate: OUTPUT.run.json of a run, or a result of benchmarks/gpu.py.
        gpu: name of the planned GPU. Without `given` and `measured`, a result for it in `BENCHMARKS` is used, if any.

    Raises:
        SettingsError: `given` is not a positive number, or `measured` holds no rate.
    """
    if given is not None:
        if not 0 < given < float("inf"):
            raise SettingsError(f"rate must be a number of clips per second above 0; got {given:g}.")
        return Rate(clips_per_second=given, source="--rate")
    if measured is not None:
        return read_rate(measured, settings, gpu=gpu)
    for file in sorted(BENCHMARKS.glob("gpu-*.json")) if gpu else ():
        names = json.loads(file.read_text("utf-8")).get("hardware", {}).get("gpus", [])
        if names and gpu and _is(gpu, names[0]):
            return read_rate(file, settings)
    return None


def read_rate(file: Path, settings: Settings, *, gpu: str | None = None) -> Rate:
    """Read the rate from a file.

    Args:
        file: a record of a run, or a result of the benchmark.
        settings: settings of the planned run.
        gpu: name of the planned GPU, to report if the rate was measured on another one.

    Raises:
        SettingsError: the file cannot be read, or holds no rate.
    """
    try:
        told = json.loads(file.read_text("utf-8"))
        rate, source, used, tokens = _of_benchmark(told) if "variants" in told else _of_run(told)
        machine = _machine(told["hardware"])
    except OSError as exc:
        raise SettingsError(f"cannot read {file}: {exc.strerror}.") from exc
    except (ValueError, KeyError, TypeError, AttributeError) as exc:
        hint = "take OUTPUT.run.json of a run that captioned something, or a result of benchmarks/gpu.py."
        raise SettingsError(f"{file} holds no measured rate; {hint}") from exc
    now = {name: getattr(settings, name) for name in _COMPARED}
    used, now = _with_names(used), _with_names(now)
    differences = [
        f"{name} was {used[name]}, is {now[name]}" for name in now if name in used and used[name] != now[name]
    ]
    if gpu and not _is(gpu, machine):
        differences.insert(0, f"the machine was {machine}, is to be {gpu}")
    return Rate(
        clips_per_second=rate,
        source=f"{file} ({source})",
        differences=differences,
        candidates=None if tokens is None else used["num_captions"],
        candidate_tokens=tokens,
    )


def _with_names(used: Mapping[str, Any]) -> dict[str, Any]:
    """Replace the table of tasks in settings by their names, or "one" if there is a single unnamed task."""
    return {**used, "tasks": ", ".join(used["tasks"]) or "one"} if "tasks" in used else dict(used)


def _is(gpu: str, machine: str) -> bool:
    """Whether the driver's name of a GPU, `machine`, contains a name of `GPU_BYTES` (without its memory size)."""
    return gpu.partition("-")[0].lower() in machine.lower().replace(" ", "")


_Found = tuple[float, str, dict[str, Any], float | None]
"""Clips per second of one GPU, source in words, settings that were used, and average tokens of a candidate."""


def _of_benchmark(told: Mapping[str, Any]) -> _Found:
    """The fastest variant of a result of benchmarks/gpu.py."""
    rates = [each["clips_per_second"] for each in told["variants"].values() if "clips_per_second" in each]
    tokens = max(each["video_tokens"] for each in told["variants"].values() if "video_tokens" in each)
    sizes = told["settings"]
    used = {"num_captions": sizes["candidates"]}
    work = f"{tokens:,} vision tokens a clip, {sizes['candidates']} x {sizes['tokens']} tokens of answer"
    return _positive(max(rates)), f"{told['date']}, {_machine(told['hardware'])}, {work}", used, float(sizes["tokens"])


def _of_run(told: Mapping[str, Any]) -> _Found:
    """The rate in a run's record, divided by its number of GPUs."""
    gpus = told["model"].get("gpus", 1)
    rate = _positive(told["clips_per_second"]) / gpus
    where = _machine(told["hardware"]) if gpus == 1 else f"{gpus} x {_machine(told['hardware'])}"
    used: dict[str, Any] = {"tasks": {}} | told["settings"]
    made = 0 if used["tasks"] else told.get("answers", 0) * used.get("num_captions", 0)
    tokens = told.get("tokens", 0) / made if made else None
    return rate, f"{told['started'][:10]}, {where}, {told['clips']:,} clips", used, tokens or None


def _positive(rate: float) -> float:
    if not rate > 0:
        raise ValueError("no clip was captioned")
    return float(rate)


def _machine(hardware: Mapping[str, Any]) -> str:
    return str(hardware["gpus"][0]) if hardware["gpus"] else f"{hardware['cores']} CPU cores"
