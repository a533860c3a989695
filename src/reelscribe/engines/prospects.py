"""What is known of a model before it is loaded: what it takes of a video, and of a GPU's memory."""

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
"""Of what a user passes on to a loader, what a file of the hub needs, too."""


@dataclass(frozen=True, kw_only=True)
class Prospect:
    """A model that is not loaded."""

    limits: VisionLimits
    size: ModelSize | None
    """None where it does not run here, or nothing is known of it."""
    source: str
    """Where the limits come from, in words."""
    exact: bool
    """Whether they are the model's own."""
    max_tokens: int | None = None
    """Of an answer, at most, where the user does not say; None where that is not known."""


def look_at_model(settings: ModelSettings) -> Prospect:
    """What can be known of the model that settings name, without its weights.

    A checkpoint's configuration and processor are read, from its folder or the hub. Where a hub model cannot be read,
    the family's usual limits are taken, and `source` says so.

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
        why = " ".join(str(exc).split()).partition(". ")[0].partition("; ")[0]  # without what to do
    else:
        try:
            size = checkpoint.size
        except ModelError:  # of a hub's own code, whose weights nobody here can count
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
    """The commit of a hub model that would be loaded now; None where that cannot be found out."""
    given = {name: settings.model_params[name] for name in _OF_DOWNLOADS if name in settings.model_params}
    try:
        if here := in_cache(settings.model, settings.revision, **given):
            return here.name
        hub = importlib.import_module("huggingface_hub")
        file = hub.hf_hub_download(settings.model, "config.json", revision=settings.revision, **given)
    except Exception:  # names that are none, and networks, raise all kinds of errors in there
        return None
    return Path(file).parent.name


def chat_template(settings: Settings) -> str:
    """The template to start a server with for the model that settings name; see `checkpoint.chat_template`.

    Raises:
        MissingExtraError: Transformers is not installed.
        ModelError: see there.
    """
    try:
        module = importlib.import_module("reelscribe.engines.checkpoint")
        template: str = module.chat_template(settings.model, settings.revision)
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"a chat template needs {exc.name}: pip install 'reelscribe[transformers]'") from exc
    return template


def visible_gpus() -> list[tuple[str, int]]:
    """GPUs that PyTorch sees: name, and bytes of memory.

    Raises:
        ModuleNotFoundError: PyTorch is not installed.
        Exception: of any kind, where it does not go with the machine.
    """
    cuda = importlib.import_module("torch").cuda
    found = [cuda.get_device_properties(number) for number in range(cuda.device_count())]
    return [(each.name, each.total_memory) for each in found]
