"""A checkpoint's configuration, processor, limits and size, for the engines that run checkpoints themselves."""

import functools
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from reelscribe.engines.hub import ask, in_cache, not_had
from reelscribe.engines.planning import ModelSize
from reelscribe.engines.prompt import bare_video
from reelscribe.engines.thinking import template_switches
from reelscribe.errors import ModelError
from reelscribe.models import model_path
from reelscribe.video.sampling import VisionLimits

if TYPE_CHECKING:
    from reelscribe.engines.families import Family

HUB_PARAMS: Final = ("cache_dir", "force_download", "local_files_only", "token", "trust_remote_code")
"""Those of the user's `model_params` that also apply to loading the configuration and the processor."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint without its weights."""

    path: str
    """The folder or the name on the hub."""
    revision: str | None
    """The commit of a hub model if it is known, else the revision that the user asked for."""
    config: Any
    processor: Any
    family: "Family"
    """How the checkpoint takes a video."""
    quantised: str | None = None
    """The name of the quantisation method in the configuration; None if the weights are not quantised."""
    is_part: bool = False
    """Whether only a part of the checkpoint is used: the thinker of a model that also speaks, such as Qwen3-Omni."""

    @classmethod
    def load(cls, model: str, *, revision: str | None, show: str = "auto", **hub: Any) -> "Checkpoint":
        """Read a checkpoint's configuration and processor.

        Args:
            model: hub name, folder, or the name of a built-in model.
            revision: branch, tag or commit of a hub model.
            show: see `describe`.
            **hub: those of `HUB_PARAMS` that are set.

        Raises:
            ModelError: they cannot be read, or the model does not take clips in a way that is supported.
        """
        from transformers import AutoConfig, AutoProcessor

        from reelscribe.engines.describing import describe

        path, commit = str(model_path(model)), None
        if (found := in_cache(model, revision, **hub)) is not None:
            path, commit = str(found), found.name
        # If the program has set up logging, the handlers of the hub's library would print its messages a second time.
        if logging.getLogger().handlers:
            logging.getLogger("huggingface_hub").handlers.clear()
        try:
            config = AutoConfig.from_pretrained(path, revision=revision, **hub)
            processor = AutoProcessor.from_pretrained(path, revision=revision, **hub)
        except Exception as exc:  # damaged files and odd parameters raise all kinds of errors in there
            trouble = None if Path(path).is_dir() else ask(model, hub.get("token"))
            raise (not_had(model, trouble) if trouble else cannot_load(model, str(exc))) from exc
        try:
            family = describe(processor, show=show, name=config.model_type)
        except ModelError as exc:
            raise ModelError(f"the model {model!r}, a {config.model_type}, cannot be used: {exc}") from exc
        except Exception as exc:  # a processor's code may raise anything
            raise cannot_load(model, f"its processor fails at a clip: {exc}") from exc
        thinker = getattr(config, "thinker_config", None)
        return cls(
            path=path,
            revision=commit or getattr(config, "_commit_hash", None) or revision,
            config=thinker or config,
            processor=processor,
            family=family,
            quantised=_quantised(config),
            is_part=thinker is not None,
        )

    @property
    def limits(self) -> VisionLimits:
        """The sizes of clips that the model takes, and what they cost."""
        return self.family.limits

    @property
    def context(self) -> int | None:
        """The most tokens of a prompt and its answer together; None if the configuration does not say."""
        text = self.config.get_text_config()
        found: int | None = getattr(text, "max_position_embeddings", None)
        rope = getattr(text, "rope_parameters", None) or {}
        # With YaRN, `max_position_embeddings` is often still the length before the extension.
        if found and rope.get("rope_type") == "yarn":
            return max(found, int(rope["factor"] * (rope.get("original_max_position_embeddings") or found)))
        return found

    @functools.cached_property
    def size(self) -> ModelSize:
        """The memory that the model needs. If it is in a folder, its weight files are measured."""
        folder = Path(self.path)
        on_disk = sum(file.stat().st_size for file in folder.glob("*.safetensors")) if folder.is_dir() else 0
        return ModelSize.of(self.config, bytes_on_disk=on_disk or None)

    def template_switches(self, *, thinking: bool) -> Mapping[str, bool]:
        """The variables that turn thinking on or off in the chat template; see `thinking.template_switches`.

        Raises:
            ModelError: the template fails.
        """
        try:
            return template_switches(self.processor, thinking=thinking)
        except Exception as exc:  # a template may raise anything
            raise cannot_load(self.path, f"its chat template fails: {exc}") from exc

    def generation_config(self) -> Any:
        """The checkpoint's generation config; the one that Transformers derives from the model's if it has none."""
        from transformers import GenerationConfig

        try:
            return GenerationConfig.from_pretrained(self.path, revision=self.revision)
        except OSError:
            return GenerationConfig.from_model_config(self.config)


def _quantised(config: Any) -> str | None:
    told = getattr(config, "quantization_config", None)
    if not told:
        return None
    return str(told.get("quant_method") if isinstance(told, Mapping) else told.quant_method)


def cannot_load(model: str, reason: str) -> ModelError:
    """The error for a model that does not load, with the first line of the reason."""
    said = reason.strip().partition("\n")[0]
    return ModelError(f"the model {model!r} cannot be loaded: {said}")


def chat_template(model: str, revision: str | None = None) -> str:
    """The chat template with which to start a server for a checkpoint, corrected as `Prompt.of` does it.

    Raises:
        ModelError: the checkpoint cannot be read, takes no videos, or has no template with a place for a video.
    """
    checkpoint = Checkpoint.load(model, revision=revision)
    processor = checkpoint.processor
    template: str = processor.chat_template or ""
    family = checkpoint.family
    if not family.stills and family.mark not in template:
        raise ModelError(f"the chat template of the model {model!r} has no {family.mark} in it.")
    return bare_video(template, processor) if family.bare else template
