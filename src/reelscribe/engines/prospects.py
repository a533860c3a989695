"""What is known about a model before it is loaded: the sizes of clips that it takes, and the GPU memory it needs."""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from reelscribe.config import ModelSettings, Settings
from reelscribe.engines.base import USUAL_LIMITS
from reelscribe.engines.hub import in_cache
from reelscribe.engines.planning import ModelSize
from reelscribe.errors import MissingExtraError, ModelError
from reelscribe.models import BUILT_IN
from reelscribe.sampling_params import DEFAULT_MAX_TOKENS
from reelscribe.video.sampling import VisionLimits

_OF_DOWNLOADS: Final = ("cache_dir", "local_files_only", "token")
"""Those of the user's `model_params` that also apply to the download of a single file from the hub."""


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """What is known about a model that is not loaded."""

    limits: VisionLimits
    size: ModelSize | None
    """The memory that it needs; None if the model does not run here, or if its size is not known."""
    source: str
    """Where the limits come from, in words."""
    exact: bool
    """Whether the limits are the model's own."""
    max_tokens: int | None = None
    """The most tokens of an answer if the user sets no limit; None if that is not known."""


def look_at_model(settings: ModelSettings) -> Prospect:
    """Find out what can be known about the model that settings name, without its weights.

    A checkpoint's configuration and processor are read from its folder or from the hub. If a hub model cannot be read,
    the family's usual limits are returned, and `source` says so.

    Raises:
        ModelError: a folder or built-in model cannot be read, or takes no videos.
    """
    if settings.engine in ("fake", "openai"):
        words = "the fake engine's" if settings.engine == "fake" else "the family's usual ones, as for every server"
        ours = settings.engine == "fake" or settings.send != "video"
        words += "" if ours else "; it is sent whole files, and chooses frames its own way"
        limits = VisionLimits() if settings.engine == "fake" else USUAL_LIMITS
        return Prospect(limits=limits, size=None, source=words, exact=ours)
    try:
        module = importlib.import_module("reelscribe.engines.checkpoint")
        hub = {name: settings.model_params[name] for name in module.HUB_PARAMS if name in settings.model_params}
        checkpoint = module.Checkpoint.load(settings.model, revision=settings.revision, show=settings.show, **hub)
    except ModuleNotFoundError as exc:
        why = f"{exc.name} is not installed (pip install 'reelscribe[transformers]')"
    except ModelError as exc:
        if settings.model in BUILT_IN or Path(settings.model).is_dir():
            raise
        why = " ".join(str(exc).split()).partition(". ")[0].partition("; ")[0]  # without the advice at its end
    else:
        try:
            size = checkpoint.size
        except ModelError:  # a model with code of its own on the hub, whose weights cannot be counted
            size = None
        return Prospect(
            limits=checkpoint.limits,
            size=size,
            source="the checkpoint's own",
            exact=True,
            max_tokens=checkpoint.generation_config().max_new_tokens or DEFAULT_MAX_TOKENS,
        )
    return Prospect(limits=USUAL_LIMITS, size=None, source=f"the family's usual ones, since {why}", exact=False)


def commit_of(settings: ModelSettings) -> str | None:
    """The commit of a hub model that would be loaded now; None if that cannot be found out."""
    given = {name: settings.model_params[name] for name in _OF_DOWNLOADS if name in settings.model_params}
    try:
        if here := in_cache(settings.model, settings.revision, **given):
            return here.name
        hub = importlib.import_module("huggingface_hub")
        file = hub.hf_hub_download(settings.model, "config.json", revision=settings.revision, **given)
    except Exception:  # invalid names and network failures raise all kinds of errors in there
        return None
    return Path(file).parent.name


def chat_template(settings: Settings) -> str:
    """The chat template with which to start a server for the model that settings name.

    Raises:
        MissingExtraError: Transformers is not installed.
        ModelError: see `checkpoint.chat_template`.
    """
    try:
        module = importlib.import_module("reelscribe.engines.checkpoint")
        template: str = module.chat_template(settings.model, settings.revision)
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"a chat template needs {exc.name}: pip install 'reelscribe[transformers]'") from exc
    return template


def visible_gpus() -> list[tuple[str, int]]:
    """The GPUs that PyTorch sees: the name and the bytes of memory of each.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
        Exception: of any kind, if PyTorch does not fit the machine.
    """
    cuda = importlib.import_module("torch").cuda
    found = [cuda.get_device_properties(number) for number in range(cuda.device_count())]
    return [(each.name, each.total_memory) for each in found]
