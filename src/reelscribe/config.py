"""The settings of a run. One place: the CLI's options, the keys of a TOML file and the keywords in Python are these fields."""

import difflib
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any, Literal, get_args

from reelscribe.errors import SettingsError
from reelscribe.sampling_params import SamplingParams

EngineName = Literal["transformers", "fake"]
Keep = Literal["random_any", "similar_one_simhash", "all"]
LayoutName = Literal["auto", "interleaved", "columns"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]

DEFAULT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"


def _setting(default: Any, text: str, *choices: str) -> Any:
    metadata = {"help": text, "choices": choices}
    return field(default_factory=dict, metadata=metadata) if default is dict else field(default=default, metadata=metadata)


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to do with each row. Each field's help text is in its metadata, where the CLI reads it."""

    model: str = _setting(DEFAULT_MODEL, "Hub name or folder of a Qwen3-VL checkpoint; 'shapes' is the built-in one.")
    revision: str | None = _setting(None, "Branch, tag or commit of a hub model.")
    engine: str = _setting("transformers", "What runs the model.", *get_args(EngineName))
    num_captions: int = _setting(1, "Candidates to generate for each video.")
    keep: str = _setting("random_any", "Which candidates to keep.", *get_args(Keep))
    prompt: str | None = _setting(None, "Prompt for every row; a general one by default.")
    prompt_key: str | None = _setting(None, "Column that holds a row's own prompt.")
    system_prompt: str | None = _setting(None, "System prompt.")
    original: bool = _setting(True, "Interleaved layout: keep the original row beside the captioned ones.")
    text_key: str = _setting("text", "Column of the text.")
    video_key: str | None = _setting(None, "Column of the videos; 'videos' or 'video' by default.")
    fps: float = _setting(2.0, "Frames to look at for each second of video.")
    min_frames: int | None = _setting(None, "Fewest frames; the checkpoint's own limit by default.")
    max_frames: int | None = _setting(None, "Most frames; the checkpoint's own limit by default.")
    max_video_tokens: int = _setting(8192, "Most vision tokens that a clip may cost, spread over its frames.")
    sampling: Mapping[str, Any] = _setting(dict, "Sampling parameter, as temperature=0.7; repeatable.")
    seed: int = _setting(0, "Root of all randomness; a row's result depends on it and on the row alone.")
    batch_size: int = _setting(8, "Clips that the Transformers engine takes at once.")
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")
    dtype: str = _setting("auto", "Number format of the weights; auto: the checkpoint's on a GPU, else float32.", *get_args(Dtype))
    layout: str = _setting(
        "auto", "How rows hold text and videos: tokens in the text, or plain columns.", *get_args(LayoutName)
    )
    prefetch_bytes: int = _setting(1 << 30, "Bytes of decoded frames that may wait for the engine.")
    model_params: Mapping[str, Any] = _setting(dict, "Passed on to the engine's model loader.")

    def __post_init__(self) -> None:
        for item in fields(self):
            choices, value = item.metadata["choices"], getattr(self, item.name)
            if choices and value not in choices:
                raise SettingsError(f"{item.name} must be one of {', '.join(choices)}; got {value!r}.")
        for name in ("num_captions", "min_frames", "max_frames", "max_video_tokens", "batch_size", "prefetch_bytes"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise SettingsError(f"{name} must be a whole number of at least 1; got {value!r}.")
        if not self.fps > 0:
            raise SettingsError(f"fps must be above 0; got {self.fps!r}.")
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise SettingsError(f"min_frames ({self.min_frames}) must not exceed max_frames ({self.max_frames}).")
        self.sampling_params()

    def sampling_params(self) -> SamplingParams:
        """The sampling parameters, checked."""
        return SamplingParams.parse(self.sampling)

    @classmethod
    def load(cls, file: Path | None = None, **overrides: Any) -> "Settings":
        """Read settings from a TOML file, then from keywords, which win.

        Raises:
            SettingsError: the file cannot be read, or a key is unknown or holds a wrong value.
        """
        values: dict[str, Any] = {}
        if file is not None:
            try:
                values = tomllib.loads(file.read_text("utf-8"))
            except OSError as exc:
                raise SettingsError(f"cannot read the settings in {file}: {exc.strerror}.") from exc
            except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
                raise SettingsError(f"{file} is not valid TOML: {exc}.") from exc
        values |= overrides
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.5)
                hint = f"did you mean {' or '.join(near)}?" if near else f"known are {', '.join(known)}."
                raise SettingsError(f"unknown setting {name!r}; {hint}")
        try:
            return cls(**values)
        except TypeError as exc:
            raise SettingsError(f"a setting has the wrong type: {exc}.") from exc
