"""Estimates what captioning a data set takes: tokens, GPUs, hours, money."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines.planning import CLIPS, MEMORY_SHARE, Plan, longest_tokens, plan
from reelscribe.engines.prospects import Prospect, look_at_model
from reelscribe.errors import SettingsError
from reelscribe.plan.rates import Rate, find_rate
from reelscribe.plan.survey import MOST_ROWS, Estimate, Survey, survey
from reelscribe.video.sampling import FrameBudget

GPU_BYTES: Final[dict[str, int]] = {
    "h100": 80 * 10**9,
    "h200": 141 * 10**9,
    "b200": 180 * 10**9,
    "a100": 80 * 10**9,
    "a100-40gb": 40 * 10**9,
    "l40s": 48 * 10**9,
    "l4": 24 * 10**9,
    "a10g": 24 * 10**9,
    "rtx4090": 24 * 10**9,
    "rtx5090": 32 * 10**9,
}
"""Memory of GPUs in bytes, from NVIDIA's data sheets."""
_CANDIDATES: Final = (1, 4, 8)
"""Numbers of candidates whose cost is estimated, besides the number that is set."""
_COUNTS: Final = (1, 2, 4, 8)
"""Numbers of GPUs to try if none is given."""


@dataclass(frozen=True, kw_only=True)
class TokenCost:
    """Tokens of all clips, and of their sound if it is wanted, at one frame rate."""

    fps: float
    total: Estimate
    per_clip: float
    """Average tokens of a clip."""


@dataclass(frozen=True, kw_only=True)
class TaskCost:
    """Cost of one of several tasks."""

    name: str
    requests: Estimate
    """Number of requests."""
    answer_tokens: Estimate | None
    """Maximum tokens of all its answers; None if one answer's limit is not known."""


@dataclass(frozen=True, kw_only=True)
class CandidatesCost:
    """Cost of another number of candidates, from a measured run."""

    candidates: int
    answer_tokens: Estimate
    least_hours: Estimate
    """Lower bound of hours: if all measured time went into work that is done once a clip."""
    most_hours: Estimate
    """Upper bound of hours: if all measured time went into candidates."""


@dataclass(frozen=True, kw_only=True)
class GpuPlan:
    """How the model would be spread over GPUs."""

    gpu: str
    gpus: int
    tp: int
    dp: int
    needed_bytes: int
    """Memory needed on each GPU: weights, cache and working memory."""
    usable_bytes: int
    reason: str
    needs_vllm: bool
    """Whether this plan needs vLLM, but another engine is set, which uses one GPU."""


_IF_JUDGED: Final = ("judged", "verified")
"""Fields of `Outlook` that are reported only if a model judges or verifies."""


@dataclass(frozen=True, kw_only=True)
class Outlook:
    """The estimate of a run. What is not known is None."""

    survey: Survey
    clips: Estimate
    hours: Estimate
    """Hours of video."""
    tokens: list[TokenCost]
    """Tokens of reading each clip once: at the set frame rate, at half of it, and at twice it."""
    tasks: list[TaskCost]
    """Cost of each task, if there are several."""
    candidates: list[CandidatesCost] = field(default_factory=list)
    """Cost of 1, 4, 8 and the set number of candidates; empty if no run was measured, or there are several tasks."""
    readings: int
    """How often the model reads each clip. It reads a clip once for all tasks that are asked together. A server reads
    it once for each task, and again for each candidate and claim to judge. The number of claims is not known, so with
    verification this is a lower bound."""
    judged: Estimate
    """Number of candidates that a judge is asked about."""
    verified: Estimate
    """Number of candidates, and of given texts, whose claims are verified."""
    thinned: Estimate
    """Number of clips that get fewer frames per second than set, because they are long."""
    shrunk: Estimate
    """Number of clips whose frames lose more than three quarters of their pixels, because there are many frames."""
    model: str
    limits: str
    """Source of the model's limits, which numbers of tokens depend on."""
    tokens_are_exact: bool
    """Whether tokens were computed for the chosen model and every clip: exactly, if headers are right."""
    one_gpu_bytes: int | None
    """Memory of the whole model on one GPU: weights, a cache for a few of the longest clips, and working memory."""
    gpu_plan: GpuPlan | None
    no_gpu_plan: str
    """Why there is no GPU plan; empty if there is one."""
    rate: Rate | None
    price: float | None
    """Price of a GPU hour; None if not set."""
    gpu_hours: Estimate | None = field(default=None)
    """Hours of all GPUs together."""
    wall_hours: Estimate | None = field(default=None)
    """Hours until the run is finished."""
    cost: Estimate | None = field(default=None)
    """GPU hours times the price."""

    def told(self) -> dict[str, Any]:
        """The estimate as JSON values."""
        seen = {name: value for name, value in vars(self.survey).items() if name != "seen"}
        rest = {
            name: value
            for name, value in vars(self).items()
            if name not in ("survey", "gpu_plan", "rate", "tokens", "tasks", "candidates", "readings", *_IF_JUDGED)
        }
        plain = {name: asdict(value) if isinstance(value, Estimate) else value for name, value in rest.items()}
        return {
            **seen,
            **plain,
            "tokens": [asdict(each) for each in self.tokens],
            **({"candidates": [asdict(each) for each in self.candidates]} if self.candidates else {}),
            **({"tasks": [asdict(each) for each in self.tasks]} if self.tasks else {}),
            **{name: asdict(getattr(self, name)) for name in _IF_JUDGED if getattr(self, name).value},
            **({"readings": self.readings} if self.tasks or self.judged.value or self.verified.value else {}),
            "gpu_plan": self.gpu_plan and asdict(self.gpu_plan),
            "rate": self.rate and asdict(self.rate),
        }


def look_ahead(
    inputs: Sequence[str | Path],
    settings: Settings,
    *,
    gpu: str | None = None,
    gpus: int | None = None,
    rate: float | None = None,
    measured: Path | None = None,
    most_rows: int = MOST_ROWS,
    on_row: Callable[[int], None] = lambda total: None,
) -> Outlook:
    """Estimate what a run takes.

    Args:
        inputs: data sets, videos and folders, as for a run.
        settings: settings of the run; its `price` is that of a GPU hour.
        gpu: a name in `GPU_BYTES`.
        gpus: number of GPUs. By default, the fewest of 1, 2, 4 and 8 that hold the model and several of the longest
            clips at once; if none does, the fewest that hold the model and one clip.
        rate: clips per second of one GPU, if known.
        measured: a file with a measured rate; see `find_rate`.
        most_rows: if there are more rows than this, a random sample is surveyed.
        on_row: see `survey`.

    Raises:
        DatasetError: an input cannot be read.
        SettingsError: the GPU is unknown, the model does not fit, or the rate is invalid.
        ModelError: the model is of no supported family.
    """
    if gpu is not None and gpu.lower() not in GPU_BYTES:
        raise SettingsError(f"gpu must be one of {', '.join(GPU_BYTES)}; got {gpu!r}.")
    if gpus is not None and gpus < 1:
        raise SettingsError(f"gpus must be a whole number of at least 1; got {gpus}.")
    found_rate = find_rate(settings, given=rate, measured=measured, gpu=gpu)
    prospect = look_at_model(settings)
    budget = FrameBudget.of(settings, prospect.limits)
    gpu_plan, no_gpu_plan = _on_gpus(prospect, settings, budget, gpu, gpus)
    seen = survey(inputs, settings, most_rows=most_rows, on_row=on_row)
    clips = seen.clips
    made = Outlook(
        survey=seen,
        clips=clips,
        hours=seen.total(lambda header: header.duration_seconds / 3600),
        tokens=[_tokens(seen, replace(budget, fps=budget.fps * many)) for many in (1, 0.5, 2)],
        tasks=_tasks(clips, settings, prospect),
        readings=_readings(settings),
        judged=times(clips, sum(task.num_captions for task in settings.all_tasks if task.keep == "judged")),
        verified=times(clips, sum(task.num_captions for task in settings.all_tasks if task.is_verified)),
        thinned=seen.total(lambda header: header.thinned(budget)),
        shrunk=seen.total(lambda header: header.shrunk(budget)),
        model=settings.model,
        limits=prospect.source,
        tokens_are_exact=prospect.exact and not seen.remote and seen.looked_at == seen.rows,
        one_gpu_bytes=prospect.size.gpu_bytes(1, CLIPS * longest_tokens(budget)) if prospect.size else None,
        gpu_plan=gpu_plan,
        no_gpu_plan=no_gpu_plan,
        rate=found_rate,
        price=settings.price,
    )
    if found_rate is None:
        return made
    count = gpu_plan.gpus if gpu_plan else gpus or 1
    hours = times(clips, 1 / found_rate.clips_per_second / 3600)
    cost = None if settings.price is None else times(hours, settings.price)
    wall = times(hours, 1 / count)
    candidates = _candidates(clips, wall, settings, found_rate)
    return replace(made, gpu_hours=hours, wall_hours=wall, cost=cost, candidates=candidates)


def _candidates(clips: Estimate, hours: Estimate, settings: Settings, rate: Rate) -> list[CandidatesCost]:
    """Costs of other numbers of candidates. Decoding of video, the vision tower and prefill cost the same for all."""
    if rate.candidates is None or rate.candidate_tokens is None or len(settings.all_tasks) > 1:
        return []
    [task] = settings.all_tasks
    return [
        CandidatesCost(
            candidates=count,
            answer_tokens=times(clips, count * rate.candidate_tokens),
            least_hours=times(hours, min(count / rate.candidates, 1)),
            most_hours=times(hours, max(count / rate.candidates, 1)),
        )
        for count in sorted({*_CANDIDATES, task.num_captions})
    ]


def times(estimate: Estimate, factor: float) -> Estimate:
    """An estimate times a factor."""
    return Estimate(value=estimate.value * factor, error=estimate.error * factor)


def _tokens(seen: Survey, budget: FrameBudget) -> TokenCost:
    total = seen.total(lambda header: header.video_tokens(budget) + header.sound_tokens(budget))
    count = seen.total(lambda _: 1).value
    return TokenCost(fps=budget.fps, total=total, per_clip=total.value / count if count else 0.0)


def _tasks(clips: Estimate, settings: Settings, prospect: Prospect) -> list[TaskCost]:
    """Costs of each of several tasks. Empty for one task, as its costs are those of the run."""
    if len(settings.all_tasks) == 1:
        return []
    found = []
    for task in settings.all_tasks:
        most = 0 if task.verifies is not None else task.sampling.max_tokens or prospect.max_tokens
        tokens = None if most is None else times(clips, task.num_captions * most)
        found.append(TaskCost(name=task.name, requests=clips, answer_tokens=tokens))
    return found


def _readings(settings: Settings) -> int:
    """How often a clip is read: without a server, once for all tasks that depend on the same other tasks."""
    shown = [task for task in settings.all_tasks if task.video]
    if settings.engine == "openai":
        asked = sum(task.verifies is None for task in shown)
        return asked + sum(task.num_captions * ((task.keep == "judged") + task.is_verified) for task in shown)
    return len({frozenset(task.after) for task in shown})


def _on_gpus(
    prospect: Prospect, settings: Settings, budget: FrameBudget, gpu: str | None, gpus: int | None
) -> tuple[GpuPlan | None, str]:
    """The plan of GPUs and ""; or None, and why there is no plan. Raises SettingsError if the model fits on none."""
    size = prospect.size
    if size is None:
        served = settings.engine in ("openai", "fake")
        return None, "the model does not run here" if served else "the size of the model is not known"
    if gpu is None:
        return None, f"--gpu names one of {', '.join(GPU_BYTES)}"
    longest = longest_tokens(budget)
    found: list[Plan] = []
    for count in (gpus,) if gpus else _COUNTS:
        try:
            found.append(
                plan(size, [GPU_BYTES[gpu.lower()]] * count, longest_tokens=longest, tp=settings.tp, dp=settings.dp)
            )
        except SettingsError as exc:
            problem = exc
    if not found:
        raise problem
    spread = max(found, key=lambda item: item.clips)  # of equal ones the first, with the fewest GPUs
    return GpuPlan(
        gpu=gpu.lower(),
        gpus=spread.tp * spread.dp,
        tp=spread.tp,
        dp=spread.dp,
        needed_bytes=size.gpu_bytes(spread.tp, spread.clips * longest),
        usable_bytes=int(GPU_BYTES[gpu.lower()] * MEMORY_SHARE),
        reason=spread.reason,
        needs_vllm=settings.engine != "vllm" and spread.tp * spread.dp > 1,
    ), ""
