"""The settings in groups: each says what it is about, and each field what of earlier results it touches.

Names are flat: on the command line, in TOML and in Python all of them are fields of `Settings`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Final, Literal, get_args

from reelscribe.config.kinds import setting
from reelscribe.tasks import COLUMN_KINDS, Keep

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
class ModelSettings:
    """Which model, what runs it, and how."""

    model: str = setting(
        DEFAULT_MODEL,
        "Hub name or folder of a checkpoint that takes videos or images; 'shapes' is the built-in one.",
        affects="captions",
    )
    revision: str | None = setting(None, "Branch, tag or commit of a hub model.", affects="captions")
    engine: str = setting(
        "transformers", "What runs the model: here, or (openai) a server.", *get_args(EngineName), affects="captions"
    )
    thinking: bool = setting(False, "Let a model that can think do so before it answers.", affects="captions")
    show: str = setting(
        "auto",
        "How a model that runs here is shown frames: as a video, or as images, each beside its time in words; auto: as "
        "a video if it takes any.",
        *get_args(Show),
        affects="captions",
    )
    device: str = setting(
        "auto", "auto, cpu, cuda, cuda:1, ...; auto takes a GPU where there is one.", affects="nothing"
    )
    dtype: str = setting(
        "auto",
        "Number format of the weights; auto: the checkpoint's on a GPU, else float32.",
        *get_args(Dtype),
        affects="captions",
    )
    batch_size: int = setting(
        32, "Most clips that the Transformers engine has under way at once.", at_least=1, affects="nothing"
    )
    batch_tokens: int | None = setting(
        None,
        "Most tokens that its key-value cache may hold; what memory has room for by default.",
        at_least=1,
        affects="nothing",
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
    base_url: str | None = setting(None, "Server of --engine openai, as http://localhost:8000/v1.", affects="nothing")
    api_key_env: str = setting("OPENAI_API_KEY", "Environment variable that holds the server's key.", affects="nothing")
    send: str = setting(
        "frames",
        "What a server is sent: frames, as one video where it takes that (vLLM) and else as images; images; or the "
        "whole video file.",
        *get_args(Send),
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
    model_params: Mapping[str, Any] = setting(dict, "Passed on to the engine's model loader.", affects="captions")
    extra_body: Mapping[str, Any] = setting(
        dict, "Fields for the body of each request to a server.", affects="captions"
    )


@dataclass(frozen=True, kw_only=True)
class TaskSettings:
    """What is asked about each clip, and what is kept of the answers."""

    num_captions: int = setting(1, "Candidates to generate for each video.", at_least=1, affects="rows")
    keep: str = setting(
        "random_any",
        "Candidates to keep: one at random, that nearest to the original text or to all others, the likeliest, that "
        "which the model itself holds to be true of the clip, that with the best score of a scorer, or all.",
        *get_args(Keep),
        affects="nothing",
    )
    judge_prompt: str | None = setting(
        None,
        "With --keep judged: what the model is asked of each candidate, with {caption} in it, to be answered yes or "
        "no.",
        affects="nothing",
    )
    prompt: str | None = setting(
        None, "Prompt for every row, in which {name} stands for a column; a general one by default.", affects="rows"
    )
    prompt_key: str | None = setting(None, "Column that holds a row's own prompt.", affects="rows")
    system_prompt: str | None = setting(None, "System prompt.", affects="rows")
    schema: str | None = setting(
        None, "JSON Schema that captions keep to: a .json file, or cosmos, lingbot or shot.", affects="rows"
    )
    tasks: Mapping[str, Any] = setting(
        dict,
        "A question about each clip, and the column of its answers, as short='Describe it in 5 words.'; repeatable.",
        option=("--task", "NAME=PROMPT"),
        affects="rows",
    )
    sampling: Mapping[str, Any] = setting(dict, "Sampling parameter, as temperature=0.7; repeatable.", affects="rows")
    seed: int = setting(0, "Root of all randomness; a row's result depends on it and on the row alone.", affects="rows")
    checks: Mapping[str, Any] = setting(
        dict,
        "Check of captions, as words=20-60 or language=en; one that does not keep to it has a fault. Repeatable.",
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
        "Ask once more, with other sampling, where every candidate has a fault: cut off, a loop, an echo, empty, ...",
        affects="failures",
    )


@dataclass(frozen=True, kw_only=True)
class FrameSettings:
    """What the model sees of a clip, and how that is decoded."""

    fps: float = setting(2.0, "Frames to look at for each second of video.", affects="captions")
    min_frames: int | None = setting(
        None, "Fewest frames; the checkpoint's own limit by default.", at_least=1, affects="captions"
    )
    max_frames: int | None = setting(
        None, "Most frames; the checkpoint's own limit by default.", at_least=1, affects="captions"
    )
    min_decoded: float = setting(
        1.0,
        "Share of a clip, from 0 to 1, that must be decodable; where less than all is, that part is captioned.",
        affects="failures",
    )
    max_video_tokens: int = setting(
        8192, "Most vision tokens that a clip may cost, spread over its frames.", at_least=1, affects="captions"
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
    """How rows are read and written."""

    layout: str = setting(
        "auto",
        "How rows hold text and videos: tokens in the text, or plain columns.",
        *get_args(LayoutName),
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
        None, "Split each video into clips first: 10 for clips of 10 seconds, or scenes.", affects="rows"
    )
    overlap: float = setting(
        0.0, "Seconds that each of such clips reaches into the one before; not for scenes.", at_least=0, affects="rows"
    )
    min_seconds: float = setting(0.5, "Leave out clips of --split that are shorter.", at_least=0, affects="rows")
    max_seconds: float | None = setting(None, "Divide scenes that are longer, evenly.", at_least=0.1, affects="rows")
    nested: bool = setting(
        False, "Let --split make one row a video, with its clips in the column --stretches-key.", affects="rows"
    )
    original: bool = setting(
        True, "Interleaved layout: keep the original row beside the captioned ones.", affects="nothing"
    )
    columns: str = setting(
        ",".join(COLUMN_KINDS),
        "Columns to add for each task, of text, candidates, meta and failure.",
        affects="nothing",
    )
    max_line_bytes: int = setting(
        1 << 24, "Longest line of JSON, in bytes; a longer one is a row that failed.", at_least=1, affects="nothing"
    )
    output_format: str = setting(
        "auto", "How to write OUTPUT; auto goes by its name.", *get_args(OutputFormat), affects="nothing"
    )
    shard_rows: int | None = setting(
        None,
        "Rows in each file, where OUTPUT is a folder or holds {shard}; 10000 by default.",
        at_least=1,
        affects="nothing",
    )
    sidecar: str | None = setting(
        None,
        "Also write each local video's caption beside it, in a file of its name.",
        *get_args(Sidecar),
        affects="nothing",
    )
    overwrite_sidecars: bool = setting(
        False,
        "Let --sidecar replace files that no run on OUTPUT wrote; each is kept beside, with .bak at its end.",
        affects="nothing",
    )


@dataclass(frozen=True, kw_only=True)
class FetchSettings:
    """Which videos may be had, and from where."""

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
class RunSettings:
    """Where a run goes on, where it runs, and when it stops."""

    resume: bool = setting(
        True,
        "Go on where the last run on OUTPUT ended; without, what it made is set aside and all is made anew.",
        affects="nothing",
    )
    shard: str | None = setting(
        None,
        "Caption only part I of N of the rows, as 3/8; see merge. Every part is given the same INPUT.",
        affects="nothing",
    )
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
    runner: str = setting(
        "local", "Where engines run: in this process, or on a Ray cluster.", *get_args(Runner), affects="nothing"
    )
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


RETRY_QUESTION: Final = ("prompt", "system_prompt", "num_captions", "sampling")
"""Settings of a task that a retry may have otherwise than its run."""
RETRY_SETTINGS: Final = (
    *(*RETRY_QUESTION, "seed", "retry_flagged"),
    *(item.name for group in (ModelSettings, FrameSettings) for item in fields(group)),
)
"""All settings that it may."""
