"""An engine that is loaded once there is something for it to answer.

A run that finds everything in the ledger then loads none: one in another format, with another choice of candidates, or
one more of the same.
"""

from dataclasses import replace

from reelscribe.config import Settings
from reelscribe.dataset.identity import weights_of, work_of
from reelscribe.dataset.ledger_file import Run
from reelscribe.engines import load_engine
from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.engines.prospects import commit_of
from reelscribe.errors import EngineError
from reelscribe.video.sampling import VisionLimits


class OnDemand:
    """An engine that is not loaded yet.

    Args:
        settings: which.
        last: the run before this one, which may tell what it will be.
    """

    def __init__(self, settings: Settings, last: Run | None) -> None:
        self._settings = settings
        self.loading = "asking the server" if settings.engine == "openai" else f"loading {settings.model}"
        if settings.engine == "fake":
            self.loading = "loading the fake engine"
        """What happens while it is loaded, in words."""
        self.known = _recalled(last, settings)
        """What it will be, its limits aside; None where only loading shows it."""

    def load(self) -> Engine:
        """Load it.

        Raises:
            EngineError: it is not what it was taken for.
            ReelscribeError: it cannot be loaded, as `load_engine` says.
        """
        engine = load_engine(self._settings)
        if self.known and _by_name(engine.info) != _by_name(self.known):
            raise EngineError(
                f"the model {engine.info.model} changed while this run began; nothing is lost, give the command again."
            )
        return engine


def _recalled(last: Run | None, settings: Settings) -> ModelInfo | None:
    """What a run's engine will be, where the last run had the very same; None where that is not certain."""
    if last is None or settings.engine == "openai":
        return None
    if (last.engine, last.model) != (settings.engine, settings.model):
        return None
    weights, commit = weights_of(settings.model), last.work.get("commit")
    if work_of(settings, weights, commit) != last.work or (
        weights is None and (commit is None or commit != commit_of(settings))
    ):
        return None
    others = {task.name: _recalled_of_task(settings.of_task(task)) for task in settings.all_tasks if task.engine}
    known = {name: info for name, info in others.items() if info}
    return replace(last.model_info(), others=known) if len(known) == len(others) else None


def _recalled_of_task(settings: Settings) -> ModelInfo | None:
    """What the engine of a task will be. Only models in folders are certain: their files are looked at each time."""
    if settings.engine not in ("transformers", "vllm") or weights_of(settings.model) is None:
        return None
    return ModelInfo(engine=settings.engine, model=settings.model, revision=settings.revision, limits=VisionLimits())


def _by_name(info: ModelInfo) -> ModelInfo:
    """Without what only loading shows."""
    others = {task: _by_name(other) for task, other in info.others.items()}
    return replace(info, limits=VisionLimits(), details={}, gpus=1, others=others)
