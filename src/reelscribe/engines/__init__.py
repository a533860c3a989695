"""Engines by name. Each is loaded when it is asked for, so that only its own users need what it needs."""

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
"""Name to "module:function"; the function takes Settings and returns an Engine."""

_OF_CHECKPOINTS: Final = ("transformers", "vllm")
"""Engines that load models themselves. They are called as the libraries that they need."""
_EXTRA_MODULES: Final = {"accelerate", "anyio", "httpx2", "torch", "torchvision", "transformers", "vllm"}


def load_engine(settings: Settings) -> Engine:
    """Load the engine that the settings name, and its model; also those of tasks that have one of their own.

    Scorers are loaded first.

    Raises:
        SettingsError: the engine cannot take what is set for it, or the model of a task not what the run decodes.
        MissingExtraError: what the engine needs is not installed.
        ModelError: the model cannot be loaded.
        EngineError: the server cannot be reached, or does not have the model.
    """
    for task in settings.all_tasks:
        if task.scores_with:
            task.scores_with.load()  # before what takes longer
    main = _load(settings)
    if settings.audio and main.info.wants_frames:
        FrameBudget.of(settings, main.info.limits)  # before anything is decoded
    others = {task.name: _load(settings.of_task(task)) for task in settings.all_tasks if task.engine}
    for task in settings.all_tasks:
        if task.engine and task.video:
            _check_shown(task.name, main.info, others[task.name].info)
    return SeveralEngines(main, others) if others else main


def _check_shown(task: str, main: ModelInfo, other: ModelInfo) -> None:
    """Raise SettingsError if another model cannot be shown what the run decodes for its own."""
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
    if settings.engine in _OF_CHECKPOINTS and find_spec(settings.engine):  # before PyTorch is loaded for nothing
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
