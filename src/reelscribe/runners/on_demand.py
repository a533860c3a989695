"""An engine that is loaded when the first request needs it.

A run that finds every outcome in the ledger then loads no model: for example a run with another output format or
another choice of candidates, or the same run once more.
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
        settings: settings that say which engine to load.
        last: the previous run on this output, from which `known` may be taken.
    """

    def __init__(self, settings: Settings, last: Run | None) -> None:
        self._settings = settings
        self.loading = "asking the server" if settings.engine == "openai" else f"loading {settings.model}"
        if settings.engine == "fake":
            self.loading = "loading the fake engine"
        """Text to show while the engine is loading."""
        self.known = _recalled(last, settings)
        """Engine and model as they will be after loading, without valid limits; None if only loading shows them."""

    def load(self) -> Engine:
        """Load the engine.

        Raises:
            EngineError: the loaded model is not the one in `known`.
            ReelscribeError: the engine cannot be loaded; see `load_engine`.
        """
        engine = load_engine(self._settings)
        if self.known and _by_name(engine.info) != _by_name(self.known):
            raise EngineError(
                f"the model {engine.info.model} changed while this run began; nothing is lost, give the command again."
            )
        return engine


def _recalled(last: Run | None, settings: Settings) -> ModelInfo | None:
    """Engine and model of a run, if it is certain that they are those of the last run; else None."""
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
    """Engine and model of a task that has its own; None if they are not certain.

    Only a model in a folder is certain, since its files are hashed each time.
    """
    if settings.engine not in ("transformers", "vllm") or weights_of(settings.model) is None:
        return None
    return ModelInfo(engine=settings.engine, model=settings.model, revision=settings.revision, limits=VisionLimits())


def _by_name(info: ModelInfo) -> ModelInfo:
    """The names in `info`, without the values that are known only after loading."""
    others = {task: _by_name(other) for task, other in info.others.items()}
    return replace(info, limits=VisionLimits(), details={}, gpus=1, others=others)
