"""The settings that `VideoCaptioner` takes beside the model, as editors and mypy read them.

Written by `python tools/render_keywords.py`.
"""

from collections.abc import Mapping
from typing import Any, TypedDict

from reelscribe.config.groups import Dtype, EngineName, LayoutName, OutputFormat, Runner, Send, Show, Sidecar
from reelscribe.tasks import Keep


class Keywords(TypedDict, total=False):
    """Fields of `Settings`, all but `model`."""

    revision: str | None
    engine: EngineName
    thinking: bool
    show: Show
    device: str
    dtype: Dtype
    batch_size: int
    batch_tokens: int | None
    deterministic: bool
    tp: int | None
    dp: int | None
    model_params: Mapping[str, Any]
    base_url: str | None
    api_key_env: str
    send: Send
    max_concurrency: int
    request_timeout: float
    retry_seconds: float
    error_budget: int
    max_upload_bytes: int
    extra_body: Mapping[str, Any]
    num_captions: int
    keep: Keep
    judge_prompt: str | None
    prompt: str | None
    prompt_key: str | None
    system_prompt: str | None
    schema: str | None
    tasks: Mapping[str, Any]
    sampling: Mapping[str, Any]
    seed: int
    checks: Mapping[str, Any]
    scorer: str | None
    scorer_params: Mapping[str, Any]
    tell_faults: bool
    retry_flagged: bool
    fps: float
    min_frames: int | None
    max_frames: int | None
    min_decoded: float
    max_video_tokens: int
    audio: bool
    prefetch_bytes: int
    decoders: int | None
    decode_seconds: float
    decoder_bytes: int
    layout: LayoutName
    text_key: str
    video_key: str | None
    start_key: str
    end_key: str
    stretches_key: str
    split: str | None
    overlap: float
    min_seconds: float
    max_seconds: float | None
    nested: bool
    max_line_bytes: int
    root: str | None
    allow_private_urls: bool
    max_video_bytes: int
    download_seconds: float
    max_downloads: int
    resume: bool
    original: bool
    columns: str
    output_format: OutputFormat
    shard_rows: int | None
    sidecar: Sidecar | None
    overwrite_sidecars: bool
    max_failures: str | None
    price: float | None
    budget: float | None
    runner: Runner
    address: str | None
    actors: str | None
    shard: str | None
