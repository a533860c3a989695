"""Engines by name. A module is imported only if its engine is used, so that only its users need its packages."""

import importlib
from importlib.util import find_spec
from typing import Final

from reelscribe.config import Settings
from reelscribe.engines.base import Engine, ModelInfo
from reelscribe.engines.hub import in_cache
from reelscribe.engines.several import SeveralEngines
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.video.sampling import FrameBudget

ENGINES: Final[dict[str, str]] = {
    "transformers": "reelscribe.engines.transformers:load",
    "vllm": "reelscribe.engines.vllm:load",
    "openai": "reelscribe.engines.openai:load",
    "fake": "reelscribe.engines.fake:load",
}
"""The loader of each engine, as "module:function". The function takes Settings and returns an Engine."""

_OF_CHECKPOINTS: Final = ("transformers", "vllm")
"""Engines that load checkpoints themselves. They have the names of the libraries that they need."""
_EXTRA_MODULES: Final = {"accelerate", "anyio", "httpx2", "torch", "torchvision", "transformers", "vllm"}
"""Packages of the extras. If one is missing, the error names the extra to install."""


def load_engine(settings: Settings) -> Engine:
    """Load the engine and the model that the settings name, and those of tasks with an engine of their own.

    Scorers are loaded first.

    Raises:
        SettingsError: a setting does not fit the engine, or a task's model cannot take the frames of the run.
        MissingExtraError: a package that the engine needs is not installed.
        ModelError: the model cannot be loaded.
        EngineError: the server cannot be reached, or does not have the model.
    """
    for task in settings.all_tasks:
        if task.scores_with:
            task.scores_with.load()  # first, so that an error shows before the models load, which takes longer
    main = _load(settings)
    if settings.audio and main.info.wants_frames:
        FrameBudget.of(settings, main.info.limits)  # raises before anything is decoded
    others = {task.name: _load(settings.of_task(task)) for task in settings.all_tasks if task.engine}
    for task in settings.all_tasks:
        if task.engine and task.video:
            _check_shown(task.name, main.info, others[task.name].info)
    return SeveralEngines(main, others) if others else main


def _check_shown(task: str, main: ModelInfo, other: ModelInfo) -> None:
    """Raise SettingsError if a task's own model cannot take the frames that the run decodes for the main model."""
    if main.wants_frames != other.wants_frames:
        raise SettingsError(
            f"tasks.{task}.engine: one of the two engines takes frames, and the other one files (send)."
        )
    # A server takes pictures of any size.
    if main.wants_frames and other.engine != "openai" and main.limits != other.limits:
        raise SettingsError(
            f"tasks.{task}.engine: frames are decoded for {main.model}, and {other.model} takes them in other sizes or "
            "numbers. Use a model of the same family, a server, or a run of its own on the captions of this one."
        )


def _load(settings: Settings) -> Engine:
    module, function = ENGINES[settings.engine].split(":")
    # Look for the model before PyTorch is imported, which takes time. An error then shows at once.
    if settings.engine in _OF_CHECKPOINTS and find_spec(settings.engine):
        in_cache(settings.model, settings.revision, **settings.model_params)
    try:
        engine: Engine = getattr(importlib.import_module(module), function)(settings)
    except ModuleNotFoundError as exc:
        package = (exc.name or "").partition(".")[0]
        if package not in _EXTRA_MODULES:
            raise
        raise MissingExtraError(
            f"the engine {settings.engine} needs {package}: pip install 'reelscribe[{settings.engine}]'"
        ) from exc
    return engine
