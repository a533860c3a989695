"""The settings in groups: one class for each group of the help, and what each field has to say of itself.

Names are flat: on the command line, in TOML and in Python all of them are fields of `Settings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal

from reelscribe.config.kinds import setting
from reelscribe.sampling_params import DEFAULT_MAX_TOKENS, PARAMETER_NAMES
from reelscribe.tasks import COLUMN_KINDS, DEFAULT_PROMPT, Keep

EngineName = Literal["transformers", "vllm", "openai", "fake"]
LayoutName = Literal["auto", "interleaved", "columns"]
Dtype = Literal["auto", "bfloat16", "float16", "float32"]
Send = Literal["frames", "images", "video"]
Show = Literal["auto", "video", "images"]
OutputFormat = Literal["auto", "jsonl", "parquet", "hf", "webdataset"]
Sidecar = Literal["txt", "json"]
Runner = Literal["local", "ray"]

DEFAULT_MODEL: Final = "Qwen/Qwen3-VL-8B-Instruct"


@dataclass(frozen=True, kw_only=True)
class EngineSettings:
    """The model, the engine that runs it, and how."""

    model: str = setting(
        DEFAULT_MODEL,
        "Hub name or folder of a checkpoint that takes videos or images; 'shapes' is the built-in one.",
        affects="captions",
        common=True,
    )
    revision: str | None = setting(None, "Branch, tag or commit of a hub model.", affects="captions")
    engine: EngineName = setting(
        "transformers",
        "What runs the model: Transformers or vLLM here, or a server with OpenAI's API; fake is for tests.",
        affects="captions",
        common=True,
    )
    thinking: bool = setting(False, "Let a model that can think do so before it answers.", affects="captions")
    show: Show = setting(
        "auto",
        "How a model that runs here is shown frames: as a video, or as images, each beside its time in words; auto: as "
        "a video if it takes any.",
        affects="captions",
    )
    device: str = setting("auto", "auto, cpu, cuda, cuda:1, ...; auto takes a GPU if there is one.", affects="nothing")
    dtype: Dtype = setting(
        "auto", "Number format of the weights; auto: the checkpoint's on a GPU, else float32.", affects="captions"
    )
    batch_size: int = setting(
        32, "Most clips that the Transformers engine has under way at once.", at_least=1, affects="nothing"
    )
    batch_tokens: int | None = setting(
        None,
        "Most tokens that its cache may hold, states counted as tokens; what memory has room for by default.",
        at_least=1,
        affects="nothing",
    )
    deterministic: bool = setting(
        False,
        "Let the Transformers engine answer one request at a time, by repeatable operations alone, so that no answer "
        "depends on others; slower.",
        affects="captions",
    )
    tp: int | None = setting(
        None,
        "vLLM: GPUs for each replica of the model; the fewest that it fits by default.",
        at_least=1,
        affects="nothing",
    )
    dp: int | None = setting(
        None,
        "vLLM: replicas, which share all GPUs; as many as the GPUs allow by default.",
        at_least=1,
        affects="nothing",
    )
    model_params: Mapping[str, Any] = setting(dict, "Passed on to the engine's model loader.", affects="captions")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    """Servers, for --engine openai."""

    base_url: str | None = setting(None, "Server of --engine openai, as http://localhost:8000/v1.", affects="nothing")
    api_key_env: str = setting("OPENAI_API_KEY", "Environment variable that holds the server's key.", affects="nothing")
    send: Send = setting(
        "frames",
        "What a server is sent: frames, as one video where it takes that (vLLM) and else as images; images; or the "
        "whole video file.",
        affects="captions",
    )
    max_concurrency: int = setting(
        64,
        "Most requests that a server works on at once; how many, up to that, adapts to it.",
        at_least=1,
        affects="nothing",
    )
    request_timeout: float = setting(600.0, "Seconds that a server may take to answer one request.", affects="failures")
    retry_seconds: float = setting(
        300.0, "Seconds to wait for a server that is away or busy before the run stops.", at_least=0, affects="nothing"
    )
    error_budget: int = setting(
        20, "Requests in a row that a server may fail to answer before the run stops.", at_least=1, affects="nothing"
    )
    max_upload_bytes: int = setting(
        256 << 20, "Largest file that --send video uploads.", at_least=1, affects="failures"
    )
    extra_body: Mapping[str, Any] = setting(
        dict, "Fields for the body of each request to a server.", affects="captions"
    )


@dataclass(frozen=True, kw_only=True)
class ModelSettings(ServerSettings, EngineSettings):
    """All settings of a model; those that a task with its own model may set."""


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What is asked about each clip, and what is kept of the answers."""

    num_captions: int = setting(1, "Candidates to generate for each video.", at_least=1, affects="rows", common=True)
    keep: Keep = setting(
        "random_any",
        "Candidates to keep. random_any: one at random, the same in every run; similar_one_simhash: the nearest to the "
        "row's own text; consensus: the nearest to all others; likeliest: the likeliest by the model itself; judged: "
        "the one that the model itself holds to be true of the clip; scored: the best by --scorer; all: all.",
        affects="nothing",
        common=True,
    )
    judge_prompt: str | None = setting(
        None,
        "With --keep judged or --verify: what the model is asked of each candidate or sentence, with {caption} in it, "
        "to be answered yes or no.",
        affects="nothing",
    )
    verify: bool = setting(
        False,
        "Ask the model of each sentence of a caption whether it holds for the clip; a caption with one that does not "
        "has a fault.",
        affects="nothing",
    )
    prompt: str | None = setting(
        None,
        f"Prompt for every row, in which {{name}} stands for a column; by default '{DEFAULT_PROMPT}'",
        affects="rows",
        common=True,
    )
    prompt_key: str | None = setting(
        None, "Column of a row's own prompt; a row without one is asked --prompt.", affects="rows"
    )
    system_prompt: str | None = setting(None, "System prompt; none by default.", affects="rows")
    schema: str | None = setting(
        None, "JSON Schema that captions keep to: a .json file, or cosmos, lingbot or shot.", affects="rows"
    )
    tasks: Mapping[str, Any] = setting(
        dict,
        "A question about each clip, and the column of its answers, as short='Describe it in 5 words.'; repeatable.",
        option=("--task", "NAME=PROMPT"),
        affects="rows",
        common=True,
    )
    sampling: Mapping[str, Any] = setting(
        dict,
        f"Sampling parameter, as temperature=0.7; repeatable. Names: {', '.join(PARAMETER_NAMES)}. The default is the "
        f"checkpoint's own; max_tokens is {DEFAULT_MAX_TOKENS} if it has none.",
        affects="rows",
        common=True,
    )
    seed: int = setting(0, "Root of all randomness; a row's result depends on it and on the row alone.", affects="rows")
    checks: Mapping[str, Any] = setting(
        dict,
        "Check of captions, as words=20-60 or language=en; a caption that fails it has a fault. Repeatable.",
        option=("--check", "KEY=VALUE"),
        affects="nothing",
    )
    scorer: str | None = setting(
        None,
        "What gives candidates scores, by their texts and the frames: module:name of a function or class, as "
        "reelscribe.scorers:ClipScore.",
        affects="nothing",
    )
    scorer_params: Mapping[str, Any] = setting(
        dict,
        "Keyword for the scorer, as model=FOLDER; repeatable.",
        option=("--scorer-param", "KEY=VALUE"),
        affects="nothing",
    )
    tell_faults: bool = setting(
        False, "With --retry-flagged: tell the model what was wrong with its first answer.", affects="nothing"
    )
    retry_flagged: bool = setting(
        False,
        "Ask once more, with other sampling, if every candidate has a fault: cut off, a loop, an echo, empty, ...",
        affects="failures",
    )


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """What the model sees of a clip, and how that is decoded."""

    fps: float = setting(2.0, "Frames to look at for each second of video.", affects="captions", common=True)
    min_frames: int | None = setting(
        None, "Fewest frames; the checkpoint's own limit by default.", at_least=1, affects="captions"
    )
    max_frames: int | None = setting(
        None, "Most frames; the checkpoint's own limit by default.", at_least=1, affects="captions"
    )
    min_decoded: float = setting(
        1.0,
        "Share of a clip, from 0 to 1, that must be decodable; of a damaged clip, what can be decoded is captioned.",
        affects="failures",
    )
    max_video_tokens: int = setting(
        8192,
        "Most vision tokens that a clip may cost, spread over its frames.",
        at_least=1,
        affects="captions",
        common=True,
    )
    audio: bool = setting(
        False, "Let the model hear each clip's sound, if it takes sound with a video.", affects="captions"
    )
    prefetch_bytes: int = setting(
        1 << 30, "Bytes of decoded frames that may wait for the engine.", at_least=1, affects="nothing"
    )
    decoders: int | None = setting(
        None,
        "Processes that decode; one for each CPU by default, up to 32. 0: decode in this process.",
        at_least=0,
        affects="nothing",
    )
    decode_seconds: float = setting(120.0, "Seconds that decoding a clip may take.", affects="failures")
    decoder_bytes: int = setting(
        4 << 30, "Bytes of memory that a decoder may take for a clip.", at_least=1, affects="failures"
    )


@dataclass(frozen=True, kw_only=True)
class DataSettings:
    """How rows name videos and clips."""

    layout: LayoutName = setting(
        "auto",
        "How rows hold text and videos. interleaved: tokens in the text stand for videos, as in Data-Juicer; columns: "
        "each has its own column; auto: interleaved if the first rows have such tokens.",
        affects="rows",
    )
    text_key: str = setting("text", "Column of the text.", affects="nothing")
    video_key: str | None = setting(None, "Column of the videos; 'videos' or 'video' by default.", affects="rows")
    start_key: str = setting(
        "start",
        "Column in which rows say where in the video their clip begins, in seconds or as HH:MM:SS.mmm; '' for none.",
        affects="rows",
    )
    end_key: str = setting("end", "Column that says where it ends, in the same ways; '' for none.", affects="rows")
    stretches_key: str = setting(
        "stretches",
        "Column with a list of such pairs: several clips of the row's one video; '' for none.",
        affects="rows",
    )
    split: str | None = setting(
        None,
        "Split each video into clips first: 10 for clips of 10 seconds, or scenes.",
        affects="rows",
        common=True,
    )
    overlap: float = setting(
        0.0,
        "Seconds that each clip of --split reaches into the one before; not for scenes.",
        at_least=0,
        affects="rows",
    )
    min_seconds: float = setting(0.5, "Leave out clips of --split that are shorter.", at_least=0, affects="rows")
    max_seconds: float | None = setting(None, "Divide scenes that are longer, evenly.", at_least=0.1, affects="rows")
    nested: bool = setting(
        False, "Let --split make one row a video, with its clips in the column --stretches-key.", affects="rows"
    )
    max_line_bytes: int = setting(
        1 << 24, "Longest line of JSON, in bytes; a longer one is a row that failed.", at_least=1, affects="nothing"
    )


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Which videos may be read, and from where."""

    root: str | None = setting(
        None, "Folder that relative paths of videos start from, and that no path may leave.", affects="failures"
    )
    allow_private_urls: bool = setting(
        False,
        "Let the URLs of videos lead to private and loopback addresses, and use any scheme that fsspec knows.",
        affects="failures",
    )
    max_video_bytes: int = setting(
        1 << 30, "Largest video to download, or to read out of a tar, in bytes.", at_least=1, affects="failures"
    )
    download_seconds: float = setting(300.0, "Longest time that a download may take, in seconds.", affects="failures")
    max_downloads: int = setting(16, "Most downloads at once.", at_least=1, affects="nothing")


@dataclass(frozen=True, kw_only=True)
class OutputSettings:
    """What is written, and how."""

    resume: bool = setting(
        True,
        "Keep the captions of earlier runs on OUTPUT. --no-resume sets them aside and starts over.",
        affects="nothing",
    )
    original: bool = setting(
        True, "Interleaved layout: keep the original row beside the captioned ones.", affects="nothing"
    )
    columns: str = setting(
        ",".join(COLUMN_KINDS),
        "Columns to add for each task, of text, candidates, meta and failure.",
        affects="nothing",
    )
    output_format: OutputFormat = setting("auto", "How to write OUTPUT; auto goes by its name.", affects="nothing")
    shard_rows: int | None = setting(
        None,
        "Rows in each file, where OUTPUT is a folder or holds {shard}; 10000 by default.",
        at_least=1,
        affects="nothing",
    )
    sidecar: Sidecar | None = setting(
        None,
        "Also write each local video's caption beside it, in a file of its name.",
        affects="nothing",
    )
    overwrite_sidecars: bool = setting(
        False,
        "Let --sidecar replace files that no run on OUTPUT wrote; each is kept beside, with .bak at its end.",
        affects="nothing",
    )


@dataclass(frozen=True, kw_only=True)
class LimitSettings:
    """When a run stops."""

    max_failures: str | None = setting(
        None,
        "Stop when more videos than this fail: a number, or a share, as 5%, once 100 videos are done.",
        affects="nothing",
    )
    price: float | None = setting(
        None, "What a GPU hour costs, in any money; of a CPU or a server, an hour of it.", affects="nothing"
    )
    budget: float | None = setting(
        None, "Stop before the run costs more than this, at --price; it can go on later.", affects="nothing"
    )


@dataclass(frozen=True, kw_only=True)
class MachineSettings:
    """On which machines a run is."""

    runner: Runner = setting("local", "Where engines run: in this process, or on a Ray cluster.", affects="nothing")
    address: str | None = setting(
        None,
        "Ray cluster to join, as auto or host:6379; $RAY_ADDRESS by default, else one on this machine.",
        affects="nothing",
    )
    actors: str | None = setting(
        None,
        "Engines on Ray: a number, or fewest-most, as 1-64; as many as there is room for by default.",
        affects="nothing",
    )
    shard: str | None = setting(
        None,
        "Caption only part I of N of the rows, as 3/8; see merge. Every part is given the same INPUT.",
        affects="nothing",
    )


GROUPS: Final[Mapping[str, type]] = {
    "What to caption": DataSettings,
    "Reading videos": FetchSettings,
    "How to caption": TaskSettings,
    "Which frames": FrameSettings,
    "Model and engine": EngineSettings,
    "Output": OutputSettings,
    "Limits of the run": LimitSettings,
    "Ray and several machines": MachineSettings,
    "Servers": ServerSettings,
}
"""Headings of the help, in its order, to the settings under each."""

RETRY_QUESTION: Final = ("prompt", "system_prompt", "num_captions", "sampling")
"""Settings of a task that a retry may change."""
RETRY_SETTINGS: Final = (
    *(*RETRY_QUESTION, "seed", "retry_flagged"),
    *(item.name for group in (ModelSettings, FrameSettings) for item in fields(group)),
)
"""All settings that a retry may change."""
