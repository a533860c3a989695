"""Building the bodies of chat completion requests, and reading candidates from the answers.

There are three ways to show a clip:

- `video` sends the file, or its address if it is on the web.
- `images` sends our frames as pictures, each beside its time (see `stills`). Any server with vision takes that.
- `frames` sends our frames as one video with their true times, in the form that vLLM takes: a data URL with several
  JPEGs, and the numbers of these frames in the video. They are numbered at a million frames a second, so that times
  are exact.

With `images` and `frames`, sound is sent as a separate WAV file. With `video`, the file contains its sound.
"""

import base64
import io
import mimetypes
import re
import wave
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fractions import Fraction
from typing import Any, Final

import av
import numpy as np
from numpy.typing import NDArray

from reelscribe.engines.gate import FailedError
from reelscribe.engines.judging import TOP_LOGPROBS, chance_in_words
from reelscribe.engines.stills import HEARD, OTHERS, Words
from reelscribe.errors import ClipError
from reelscribe.schemas import Schema
from reelscribe.thoughts import CLOSING, OPENING
from reelscribe.values import Candidate, Clip, Frames, Request, Sound, Work
from reelscribe.video.fetch import FetchLimits, fetched
from reelscribe.video.index import read_index
from reelscribe.video.opening import open_clip, reason, video_stream

_TICKS: Final = 1_000_000
"""Frames a second in the metadata of a video that is sent as frames."""
_JPEG_QUANTISER: Final = 2
"""The quality of JPEGs on FFmpeg's scale, on which 1 is the best; with full colour resolution. The mean error of pixels
of real films is then about 1 in 255."""
_SEED_BITS: Final = 31
"""Bits of a seed. Servers hold seeds in signed integers of 32 bits or more."""

_LONGEST_NAME: Final = 64
"""The most characters of a schema's name that OpenAI's own server takes."""

Part = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class Shown:
    """A clip in the form that is sent to a server."""

    parts: list[Part]
    """Parts of the user's message."""
    fields: dict[str, Any]
    """Fields of the request's body."""

    @property
    def held_bytes(self) -> int:
        """The number of bytes of its media."""
        media = (value for part in self.parts for value in part.values() if isinstance(value, dict))
        return sum(len(text) for value in media for text in value.values())


@dataclass(frozen=True, kw_only=True)
class Answer:
    """A server's answer to one request."""

    candidates: list[Candidate]
    prompt_tokens: int | None
    chance: float | None = None
    """The probability that the first token is yes rather than no. None if none of the likeliest tokens says either, or
    if the server does not return likely tokens."""


def show(prepared: Work, send: str, max_upload_bytes: int, limits: FetchLimits, words: Words = OTHERS) -> Shown:
    """Convert a clip to the form that is sent to a server.

    Args:
        prepared: the work, with frames unless `send` is "video".
        send: "frames", "images" or "video".
        max_upload_bytes: the largest file to send.
        limits: the limits on fetching a file that is to be sent. A web address is not fetched here: the server gets
            the address.
        words: the texts beside images.

    Raises:
        ClipError: a file that is to be sent cannot be read completely (kind "missing", "unreadable", "no_video",
            "too_short" or "decode"), is too large, or the clip is only a part of it (kind "engine").
    """
    if send == "video":
        url = _video_url(prepared.clip, max_upload_bytes, limits)
        return Shown(parts=[{"type": "video_url", "video_url": {"url": url}}], fields={})
    jpegs = [base64.b64encode(jpeg).decode() for jpeg in _jpegs(prepared.frames.pixels)]
    sound = prepared.frames.sound
    heard = list(hear(sound)) if sound and prepared.frames.has_sound else []
    if send == "images":
        return Shown(parts=[*_images(jpegs, prepared.frames, words), *heard], fields={})
    url = "data:video/jpeg;base64," + ",".join(jpegs)
    kwargs = {"media_io_kwargs": {"video": _true_times(prepared.frames)}}
    return Shown(parts=[{"type": "video_url", "video_url": {"url": url}}, *heard], fields=kwargs)


def hear(sound: Sound) -> Iterator[Part]:
    """Sound as parts of a message: a WAV file with samples of 16 bits, after a text that says what it is."""
    file = io.BytesIO()
    with wave.open(file, "wb") as written:
        written.setnchannels(1)
        written.setsampwidth(2)
        written.setframerate(sound.rate)
        written.writeframes((sound.samples.clip(-1, 1) * (2**15 - 1)).round().astype("<i2").tobytes())
    data = base64.b64encode(file.getvalue()).decode()
    yield {"type": "text", "text": HEARD}
    yield {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}}


def is_web_address(clip: Clip) -> bool:
    """Whether a server can fetch the clip itself."""
    return isinstance(clip.source, str) and clip.source.lower().startswith(("http://", "https://"))


def _video_url(clip: Clip, max_bytes: int, limits: FetchLimits) -> str:
    """The web address of a clip's file, or a data URL with its content; see `show` for the errors."""
    if not clip.is_whole:
        raise ClipError("engine", f"{clip.name} is a stretch, and what is sent would be the whole file; send frames.")
    if is_web_address(clip):
        return str(clip.source)
    try:
        with fetched(clip, limits) as here, open_clip(here) as container:
            stream, size = video_stream(container, here), container.size
            if size > max_bytes:
                told = f"{clip.name} has {size:,} bytes; max_upload_bytes is {max_bytes:,}. Raise it, or send frames."
                raise ClipError("engine", told)
            read_index(container, stream, here, [], 0)  # checks that the file is complete: a server may not notice
            content = here.source if isinstance(here.source, bytes) else here.path.read_bytes()
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("decode", f"{clip.name} cannot be read to its end: {reason(exc)}.") from exc
    kind = mimetypes.guess_type(clip.source)[0] if isinstance(clip.source, str) else None
    kind = kind if kind and kind.startswith("video/") else "video/mp4"
    return f"data:{kind};base64,{base64.b64encode(content).decode()}"


def _jpegs(pixels: NDArray[np.uint8]) -> Iterator[bytes]:
    """Encode frames as JPEGs. `pixels` are uint8, RGB, shape (frames, height, width, 3)."""
    encoder = av.CodecContext.create("mjpeg", "w")
    encoder.height, encoder.width = pixels.shape[1:3]
    encoder.pix_fmt, encoder.time_base, encoder.thread_count = "yuvj444p", Fraction(1, _TICKS), 1
    encoder.qmin = encoder.qmax = _JPEG_QUANTISER
    for picture in pixels:
        frame = av.VideoFrame.from_ndarray(np.ascontiguousarray(picture), format="rgb24")
        yield from map(bytes, encoder.encode(frame.reformat(format="yuvj444p")))
    yield from map(bytes, encoder.encode(None))


def _images(jpegs: list[str], frames: Frames, words: Words) -> Iterator[Part]:
    """Frames as parts of a message, each beside the words for its time. `jpegs` are in base64."""
    *before, last = words.around(frames.timestamps)
    parts: list[Part] = [{"type": "text", "text": words.lead}]
    for text, jpeg in zip(before, jpegs, strict=True):
        parts.append({"type": "text", "text": text})
        parts.append({"type": "image_url", "image_url": {"url": f"data:image/jpeg;base64,{jpeg}"}})
    parts.append({"type": "text", "text": last})
    yield from (part for part in parts if part.get("text") != "")


def _true_times(frames: Frames) -> dict[str, Any]:
    """The `media_io_kwargs` for vLLM, with the number of each frame at `_TICKS` frames a second."""
    ticks = [round(seconds * _TICKS) for seconds in frames.timestamps]
    return {
        "num_frames": -1,  # all; by default the server takes the first 32
        "fps": _TICKS,
        "frames_indices": ticks,
        "total_num_frames": max(round(frames.duration_seconds * _TICKS), ticks[-1] + 1, len(ticks)),
        "duration": frames.duration_seconds,
        "do_sample_frames": False,
    }


def body(
    request: Request,
    shown: Shown,
    *,
    model: str,
    first: int,
    count: int,
    default_temperature: float | None,
    judges: bool = False,
) -> dict[str, Any]:
    """Build a request's body.

    Args:
        request: the request.
        shown: its clip.
        model: the model's name on the server.
        first: the number of the first candidate to ask for. It is added to the seed.
        count: how many candidates to ask for.
        default_temperature: the temperature if candidates have to differ and the request does not set one.
        judges: whether this is a judge's question. Then the server also returns its likeliest tokens.
    """
    sampling = request.sampling
    messages: list[Part] = [{"role": "system", "content": request.system_prompt}] if request.system_prompt else []
    # The video comes first, so that prompts about one clip share a prefix.
    messages.append({"role": "user", "content": [*shown.parts, {"type": "text", "text": request.prompt}]})
    differ = request.num_captions > 1 or sampling.do_sample
    given = {
        "n": count if count > 1 else None,
        "seed": (request.seed + first) % 2**_SEED_BITS,
        "temperature": default_temperature if sampling.temperature is None and differ else sampling.temperature,
        "top_p": sampling.top_p,
        "max_tokens": sampling.max_tokens,
        "stop": list(sampling.stop) or None,
        "response_format": _response_format(request.schema) if request.schema else None,
        "logprobs": request.scored or judges or None,
        "top_logprobs": TOP_LOGPROBS if judges else None,
        # The following names are those of vLLM and SGLang. OpenAI's own server refuses them.
        "top_k": -1 if sampling.top_k == 0 else sampling.top_k,
        "min_p": sampling.min_p,
        "repetition_penalty": sampling.repetition_penalty,
        "stop_token_ids": list(sampling.stop_token_ids) or None,
    }
    told = {name: value for name, value in given.items() if value is not None}
    return {"model": model, "messages": messages, **told, **shown.fields}


def _response_format(schema: Schema) -> dict[str, Any]:
    name = re.sub(r"[^a-zA-Z0-9_-]", "_", schema.name)[:_LONGEST_NAME]
    # Without `strict`, OpenAI's own server does not guarantee that answers match the schema.
    return {"type": "json_schema", "json_schema": {"name": name, "schema": schema.asked, "strict": True}}


def with_fields(made: Mapping[str, Any], extra: Mapping[str, Any]) -> dict[str, Any]:
    """A body with additional fields, which override its own. If both have a table of a name, the tables are merged."""
    merged = dict(made)
    for name, value in extra.items():
        held = merged.get(name)
        merged[name] = {**held, **value} if isinstance(held, Mapping) and isinstance(value, Mapping) else value
    return merged


def read_answer(answer: Any, *, opens_thought: bool = False) -> Answer:
    """Read the candidates from an answer's JSON, in order.

    Args:
        answer: the parsed JSON.
        opens_thought: whether the prompt ends with the mark that opens a thought, so that the answer lacks it.

    Raises:
        FailedError: the answer does not have the form of a chat completion.
        ClipError: kind "engine": a candidate ended for another reason than "stop" or "length".
    """
    try:
        choices = sorted(answer["choices"], key=lambda choice: choice.get("index") or 0)
        usage = answer.get("usage") or {}
        total = _count(usage.get("completion_tokens")) if len(choices) == 1 else None
        candidates = [_candidate(choice, total, opens_thought=opens_thought) for choice in choices]
        prompt_tokens = _count(usage.get("prompt_tokens"))
        chance = _chance(choices[0].get("logprobs")) if choices else None
    except (KeyError, TypeError, AttributeError) as exc:
        raise FailedError(f"the server's answer has another form than it should: {type(exc).__name__} {exc}.") from exc
    if not candidates:
        raise FailedError("the server's answer has no choices.")
    return Answer(candidates=candidates, prompt_tokens=prompt_tokens, chance=chance)


def _candidate(choice: Mapping[str, Any], total_tokens: int | None, *, opens_thought: bool) -> Candidate:
    message = choice["message"]
    text, why, ids = message.get("content"), choice.get("finish_reason"), choice.get("token_ids")
    if text is not None and not isinstance(text, str):
        raise TypeError(f"content is a {type(text).__name__}")
    if why not in ("stop", "length"):
        raise ClipError("engine", f"the server ended the answer for the reason {why!r}, not stop or length.")
    return Candidate(
        text=_with_thought(message, text or "", cut_off=why == "length", opens_thought=opens_thought),
        stop_reason=why,
        num_tokens=len(ids) if isinstance(ids, list) else total_tokens,
        mean_logprob=_mean_logprob(choice.get("logprobs")),
    )


def _chance(told: Mapping[str, Any] | None) -> float | None:
    first: Mapping[str, Any] = next(iter((told or {}).get("content") or ()), {})
    return chance_in_words([(each["token"], each["logprob"]) for each in first.get("top_logprobs") or ()])


def _mean_logprob(told: Mapping[str, Any] | None) -> float | None:
    """The mean log-probability of a choice's tokens; None if the server gives none."""
    each = [token["logprob"] for token in (told or {}).get("content") or ()]
    return sum(each) / len(each) if each else None


def _with_thought(message: Mapping[str, Any], text: str, *, cut_off: bool, opens_thought: bool) -> str:
    """A candidate's text with its thought before it, as models write it.

    Servers may return the thought separately, under one of two names.
    """
    thoughts = (message.get(name) for name in ("reasoning_content", "reasoning"))
    thought = next((each for each in thoughts if each and isinstance(each, str)), None)
    if thought is not None:
        return f"{OPENING}{thought}{CLOSING if text or not cut_off else ''}{text}"
    # A complete text without the closing mark may come from a server that has removed an empty thought.
    return f"{OPENING}{text}" if opens_thought and cut_off and CLOSING not in text else text


def _count(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
