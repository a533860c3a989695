"""The settings of a run: the CLI's options, the keys of a TOML file and the keywords in Python are all these fields."""

import math
import tomllib
from collections.abc import Mapping
from dataclasses import Field, asdict, dataclass, field, fields
from pathlib import Path
from types import NoneType
from typing import Any, Final, Literal, get_args, get_origin

from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.sampling_params import SamplingParams

EngineName = Literal["transformers", "vllm", "openai", "fake"]
Keep = Literal["random_any", "similar_one_simhash", "all"]
LayoutName = Literal["auto", "interleaved", "columns"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Send = Literal["frames", "images", "video"]
OutputFormat = Literal["auto", "jsonl", "parquet", "hf", "webdataset"]
Sidecar = Literal["txt", "json"]
Runner = Literal["local", "ray"]
Effect = Literal["rows", "captions", "failures", "nothing"]

DEFAULT_MODEL = "Qwen/Qwen3-VL-8B-Instruct"

_KINDS: Final[dict[type, tuple[tuple[type, ...], str]]] = {
    str: ((str,), "a string"),
    bool: ((bool,), "true or false"),
    int: ((int,), "a whole number"),
    float: ((float, int), "a number"),
    Mapping: ((Mapping,), "a table of names and values"),
}
"""Type of a setting to what is taken for it, in types and in words."""


def _setting(default: Any, text: str, *choices: str, at_least: int | None = None) -> Any:
    metadata = {"help": text, "choices": choices, "at_least": at_least}
    if default is dict:
        return field(default_factory=dict, metadata=metadata)
    return field(default=default, metadata=metadata)


def kind_of(item: Field[Any]) -> tuple[type, bool]:
    """The type of a setting (str, bool, int, float or Mapping), and whether it may be None."""
    kinds = get_args(item.type) if NoneType in get_args(item.type) else (item.type,)
    return get_origin(kinds[0]) or kinds[0], NoneType in kinds


def _check(item: Field[Any], value: Any) -> None:
    """Raise SettingsError where a setting cannot hold this value."""
    choices, at_least = item.metadata["choices"], item.metadata["at_least"]
    kind, optional = kind_of(item)
    if value is None and optional:
        return
    if choices:
        if value not in choices:
            raise SettingsError(f"{item.name} must be one of {', '.join(choices)}; got {value!r}.")
        return
    types, words = _KINDS[kind]
    fits = isinstance(value, types) and not (isinstance(value, bool) and kind is not bool)
    if not fits or (at_least is not None and value < at_least):
        limit = "" if at_least is None else f" of at least {at_least}"
        raise SettingsError(f"{item.name} must be {words}{limit}; got {value!r}.")


@dataclass(frozen=True, kw_only=True)
class Settings:
    """What to do with each row. Each field's help text is in its metadata, where the CLI reads it."""

    model: str = _setting(DEFAULT_MODEL, "Hub name or folder of a Qwen3-VL checkpoint; 'shapes' is the built-in one.")
    revision: str | None = _setting(None, "Branch, tag or commit of a hub model.")
    engine: str = _setting("transformers", "What runs the model: here, or (openai) a server.", *get_args(EngineName))
    num_captions: int = _setting(1, "Candidates to generate for each video.", at_least=1)
    keep: str = _setting("random_any", "Which candidates to keep.", *get_args(Keep))
    prompt: str | None = _setting(None, "Prompt for every row; a general one by default.")
    prompt_key: str | None = _setting(None, "Column that holds a row's own prompt.")
    system_prompt: str | None = _setting(None, "System prompt.")
    original: bool = _setting(True, "Interleaved layout: keep the original row beside the captioned ones.")
    text_key: str = _setting("text", "Column of the text.")
    video_key: str | None = _setting(None, "Column of the videos; 'videos' or 'video' by default.")
    caption_key: str = _setting(
        "caption",
        "Column of the caption that is kept; with s at its end that of all candidates, with _meta that of "
        "where they come from.",
    )
    fps: float = _setting(2.0, "Frames to look at for each second of video.")
    min_frames: int | None = _setting(None, "Fewest frames; the checkpoint's own limit by default.", at_least=1)
    max_frames: int | None = _setting(None, "Most frames; the checkpoint's own limit by default.", at_least=1)
    min_decoded: float = _setting(
        1.0, "Share of a clip, from 0 to 1, that must be decodable; where less than all is, that part is captioned."
    )
    max_video_tokens: int = _setting(
        8192, "Most vision tokens that a clip may cost, spread over its frames.", at_least=1
    )
    sampling: Mapping[str, Any] = _setting(dict, "Sampling parameter, as temperature=0.7; repeatable.")
    seed: int = _setting(0, "Root of all randomness; a row's result depends on it and on the row alone.")
    thinking: bool = _setting(False, "Let a model that can think do so before it answers.")
    retry_flagged: bool = _setting(
        False,
        "Ask once more, with other sampling, where every candidate is cut off, a loop, an echo, empty or unclosed.",
    )
    batch_size: int = _setting(32, "Most clips that the Transformers engine has under way at once.", at_least=1)
    batch_tokens: int | None = _setting(
        None, "Most tokens that its key-value cache may hold; what memory has room for by default.", at_least=1
    )
    device: str = _setting("auto", "auto, cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.")
    dtype: str = _setting(
        "auto", "Number format of the weights; auto: the checkpoint's on a GPU, else float32.", *get_args(Dtype)
    )
    tp: int | None = _setting(
        None, "vLLM: GPUs for each replica of the model; the fewest that it fits by default.", at_least=1
    )
    dp: int | None = _setting(
        None, "vLLM: replicas, which share all GPUs; as many as the GPUs allow by default.", at_least=1
    )
    layout: str = _setting(
        "auto", "How rows hold text and videos: tokens in the text, or plain columns.", *get_args(LayoutName)
    )
    prefetch_bytes: int = _setting(1 << 30, "Bytes of decoded frames that may wait for the engine.", at_least=1)
    decoders: int | None = _setting(
        None, "Processes that decode; one for each CPU by default, up to 32. 0: decode in this process.", at_least=0
    )
    decode_seconds: float = _setting(120.0, "Seconds that decoding a clip may take.")
    decoder_bytes: int = _setting(4 << 30, "Bytes of memory that a decoder may take for a clip.", at_least=1)
    base_url: str | None = _setting(None, "Server of --engine openai, as http://localhost:8000/v1.")
    api_key_env: str = _setting("OPENAI_API_KEY", "Environment variable that holds the server's key.")
    send: str = _setting(
        "frames",
        "What a server is sent: frames, as one video where it takes that (vLLM) and else as images; images; or the "
        "whole video file.",
        *get_args(Send),
    )
    max_concurrency: int = _setting(
        64, "Most requests that a server works on at once; how many, up to that, adapts to it.", at_least=1
    )
    request_timeout: float = _setting(600.0, "Seconds that a server may take to answer one request.")
    retry_seconds: float = _setting(
        300.0, "Seconds to wait for a server that is away or busy before the run stops.", at_least=0
    )
    error_budget: int = _setting(
        20, "Requests in a row that a server may fail to answer before the run stops.", at_least=1
    )
    max_upload_bytes: int = _setting(256 << 20, "Largest file that --send video uploads.", at_least=1)
    root: str | None = _setting(None, "Folder that relative paths of videos start from, and that no path may leave.")
    allow_private_urls: bool = _setting(
        False, "Let the URLs of videos lead to private and loopback addresses, and use any scheme that fsspec knows."
    )
    max_video_bytes: int = _setting(
        1 << 30, "Largest video to download, or to read out of a tar, in bytes.", at_least=1
    )
    download_seconds: float = _setting(300.0, "Longest time that a download may take, in seconds.")
    max_downloads: int = _setting(16, "Most downloads at once.", at_least=1)
    max_line_bytes: int = _setting(
        1 << 24, "Longest line of JSON, in bytes; a longer one is a row that failed.", at_least=1
    )
    output_format: str = _setting("auto", "How to write OUTPUT; auto goes by its name.", *get_args(OutputFormat))
    shard_rows: int | None = _setting(
        None, "Rows in each file, where OUTPUT is a folder or holds {shard}; 10000 by default.", at_least=1
    )
    sidecar: str | None = _setting(
        None, "Also write each local video's caption beside it, in a file of its name.", *get_args(Sidecar)
    )
    overwrite_sidecars: bool = _setting(
        False, "Let --sidecar replace files that no run on OUTPUT wrote; each is kept beside, with .bak at its end."
    )
    resume: bool = _setting(
        True, "Go on where the last run on OUTPUT ended; without, what it made is set aside and all is made anew."
    )
    max_failures: str | None = _setting(
        None, "Stop when more videos than this fail: a number, or a share, as 5%, once 100 videos are done."
    )
    price: float | None = _setting(None, "What a GPU hour costs, in any money; of a CPU or a server, an hour of it.")
    budget: float | None = _setting(None, "Stop before the run costs more than this, at --price; it can go on later.")
    runner: str = _setting("local", "Where engines run: in this process, or on a Ray cluster.", *get_args(Runner))
    address: str | None = _setting(
        None, "Ray cluster to join, as auto or host:6379; $RAY_ADDRESS by default, else one on this machine."
    )
    actors: str | None = _setting(
        None, "Engines on Ray: a number, or fewest-most, as 1-64; as many as there is room for by default."
    )
    shard: str | None = _setting(
        None, "Caption only part I of N of the rows, as 3/8; see merge. Every part is given the same INPUT."
    )
    model_params: Mapping[str, Any] = _setting(dict, "Passed on to the engine's model loader.")
    extra_body: Mapping[str, Any] = _setting(dict, "Fields for the body of each request to a server.")

    def __post_init__(self) -> None:
        for item in fields(self):
            _check(item, getattr(self, item.name))
        for name in ("fps", "decode_seconds", "download_seconds", "request_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be a number above 0; got {getattr(self, name)!r}.")
        for name in ("price", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"{name} must be a number above 0; got {value!r}.")
        for name in ("prompt", "system_prompt"):
            if any("\ud800" <= letter <= "\udfff" for letter in getattr(self, name) or ""):
                raise SettingsError(f"{name} must be text in UTF-8; got {getattr(self, name)!r}.")
        if self.budget is not None and self.price is None:
            raise SettingsError("a budget needs a price: what a GPU hour costs.")
        if not 0 < self.min_decoded <= 1:
            raise SettingsError(f"min_decoded must be a number above 0 and at most 1; got {self.min_decoded!r}.")
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise SettingsError(f"min_frames ({self.min_frames}) must not exceed max_frames ({self.max_frames}).")
        if self.video_key in self.caption_columns:
            raise SettingsError(f"video_key must not be a column that caption_key adds; both have {self.video_key!r}.")
        parts_of_names = self.caption_key.startswith("__") or {*"./"} & {*self.caption_key}  # of members of a tar file
        if not self.caption_key or parts_of_names or {"video", "videos"} & {*self.caption_columns}:
            raise SettingsError(f"caption_key must be a column of its own, without . and /; got {self.caption_key!r}.")
        _check_passed_on(self)
        self.sampling_params()
        self.failure_limit()
        self.part()
        self.actor_range()

    def part(self) -> "Shard | None":
        """The part of the rows, checked."""
        return None if self.shard is None else Shard.parse(self.shard)

    def failure_limit(self) -> "FailureLimit | None":
        """The most failures, checked."""
        return None if self.max_failures is None else FailureLimit.parse(self.max_failures)

    def actor_range(self) -> tuple[int, int] | None:
        """The fewest and the most actors, checked."""
        if self.actors is None:
            return None
        fewest, _, most = self.actors.partition("-")
        most = most or fewest
        if not (fewest.isdecimal() and most.isdecimal() and 1 <= int(fewest) <= int(most)):
            raise SettingsError(f"actors must be a number, or the fewest and the most, as 1-64; got {self.actors!r}.")
        return int(fewest), int(most)

    @property
    def caption_columns(self) -> tuple[str, str, str]:
        """Columns that are added for each video: the kept caption, all candidates, where they come from."""
        return self.caption_key, f"{self.caption_key}s", f"{self.caption_key}_meta"

    @property
    def named_columns(self) -> dict[str, str]:
        """Columns of the rows that are named, by the setting that does so."""
        text_key = None if self.text_key == Settings.text_key else self.text_key
        named = {"video_key": self.video_key, "prompt_key": self.prompt_key, "text_key": text_key}
        return {option: name for option, name in named.items() if name}

    def without_token(self) -> dict[str, Any]:
        """All of them, ready for JSON, less what opens the hub to whoever reads them."""
        params = {name: value for name, value in self.model_params.items() if name != "token"}
        return {**asdict(self), "model_params": params}

    def sampling_params(self) -> SamplingParams:
        """The sampling parameters, checked."""
        return SamplingParams.parse(self.sampling)

    @classmethod
    def of_run(cls, recorded: Mapping[str, Any]) -> "Settings":
        """The settings that a run recorded, also one of an earlier release.

        Raises:
            SettingsError: a value is wrong.
        """
        names = {item.name for item in fields(cls)}
        values = {name: value for name, value in recorded.items() if name in names}
        if values.get("engine") == "openai" and values.get("model_params"):
            # Release 0.1.0 had no extra_body, and sent model_params to servers.
            values["extra_body"] = values.pop("model_params")
        return cls.load(None, **values)

    @classmethod
    def load(cls, file: Path | None = None, **overrides: Any) -> "Settings":
        """Read settings from a TOML file, then from keywords, which win; tables are merged.

        Raises:
            SettingsError: the file cannot be read, or a key is unknown or holds a wrong value.
        """
        values: dict[str, Any] = {} if file is None else _read_toml(file)
        for name, value in overrides.items():
            tables = isinstance(value, Mapping) and isinstance(values.get(name), dict)
            values[name] = values[name] | dict(value) if tables else value
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}; {did_you_mean(name, known)}")
        return cls(**values)


AFFECTS: Final[Mapping[Effect, tuple[str, ...]]] = {
    "rows": (*("num_captions", "prompt", "prompt_key", "system_prompt", "video_key", "sampling", "seed", "layout"),),
    "captions": (
        *("model", "revision", "engine", "fps", "min_frames", "max_frames", "max_video_tokens", "dtype"),
        *("send", "model_params", "thinking", "extra_body"),
    ),
    "failures": (
        *("root", "allow_private_urls", "max_video_bytes", "download_seconds", "decode_seconds", "decoder_bytes"),
        *("max_upload_bytes", "request_timeout", "retry_flagged", "min_decoded"),
    ),
    "nothing": (
        *("text_key", "original", "batch_size", "batch_tokens", "device", "tp", "dp", "prefetch_bytes", "decoders"),
        *("base_url", "api_key_env", "max_concurrency", "retry_seconds", "error_budget", "max_line_bytes"),
        *("output_format", "shard_rows", "sidecar", "overwrite_sidecars", "resume", "max_failures", "price", "budget"),
        *("keep", "caption_key", "shard", "runner", "address", "actors", "max_downloads"),
    ),
}
"""What each setting has a part in, and so what of an earlier run holds when it changes.

rows: what is asked about each row's videos. A request that stays the same keeps its caption.
captions: what comes out for one and the same request. No caption made before holds.
failures: whether a video, or a good caption of it, can be had at all. Captions hold; what failed is tried again, and so
    are captions that fall short of what is set now (see `Ledger`).
nothing: neither; how fast, which candidates are kept, how it is written, when the run stops.
"""

PARAMS_WITHOUT_EFFECT: Final = frozenset(
    {
        *("cache_dir", "device_map", "force_download", "local_files_only", "token", "trust_remote_code"),
        *("data_parallel_size", "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs"),
        *("pipeline_parallel_size", "tensor_parallel_size"),
    }
)
"""Of `model_params`, what changes no caption: where the model comes from and how it is spread."""


@dataclass(frozen=True, kw_only=True)
class Shard:
    """One of several parts that the rows of a data set are dealt out to."""

    number: int
    """From 1."""
    of: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """Read "3/8".

        Raises:
            SettingsError: it is no such thing.
        """
        number, slash, of = text.partition("/")
        if not (slash and number.isdecimal() and of.isdecimal() and 1 <= int(number) <= int(of)):
            raise SettingsError(f"shard must be a part and the number of all parts, as 3/8; got {text!r}.")
        return cls(number=int(number), of=int(of))

    def __str__(self) -> str:
        return f"{self.number}/{self.of}"

    def holds(self, lot: int) -> bool:
        """Whether the row with this lot is in it; see `RowPlan.lot`."""
        return lot % self.of == self.number - 1


@dataclass(frozen=True, kw_only=True)
class FailureLimit:
    """How many failures are too many."""

    count: int | None = None
    share: float | None = None
    """Of all videos; from 0 to 1."""

    @classmethod
    def parse(cls, text: str) -> "FailureLimit":
        """Read "10" or "5%".

        Raises:
            SettingsError: it is neither.
        """
        number, percent, rest = text.strip().partition("%")
        try:
            limit = cls(share=float(number) / 100) if percent else cls(count=int(number))
        except ValueError:
            limit = cls(share=-1)
        if rest or (limit.count or 0) < 0 or not 0 <= (limit.share or 0) < 1:
            raise SettingsError(f"max_failures must be a whole number, or a share below 100%, as 5%; got {text!r}.")
        return limit

    def __str__(self) -> str:
        return str(self.count) if self.share is None else f"{100 * self.share:g}%"

    def exceeded_by(self, failures: int, videos: int) -> bool:
        """Whether so many failures of so many videos are too many; a share says little of the first few."""
        if self.count is not None:
            return failures > self.count
        return videos >= _SHARE_FROM and failures > (self.share or 0) * videos


_SHARE_FROM: Final = 100


_SET_BY_US: Final[Mapping[str, str]] = {
    "messages": "prompt, system_prompt and the videos make them",
    "model": "the setting model names it",
    "n": "num_captions says how many candidates to generate",
    "stream": "answers are read whole",
}
"""Fields of a request's body that `extra_body` cannot replace, and why."""


def _check_passed_on(settings: Settings) -> None:
    """Raise SettingsError if a table goes to an engine that does not take it, or holds what a setting says."""
    if settings.engine == "openai" and settings.model_params:
        raise SettingsError(
            "model_params are for loading a model, which a server has done; extra_body holds fields for the body of "
            "each request."
        )
    if settings.engine != "openai" and settings.extra_body:
        raise SettingsError(f"extra_body is for the engine openai only; the engine is {settings.engine}.")
    for name, why in _SET_BY_US.items():
        if name in settings.extra_body:
            raise SettingsError(f"extra_body must not hold {name!r}: {why}.")


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError(f"cannot read the settings in {file}: {exc.strerror}.") from exc
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError are both
        raise SettingsError(f"{file} is not valid TOML: {exc}.") from exc
