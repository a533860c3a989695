"""Decodes the frames that the model saw again, as small JPEGs for a page."""

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Final, TypeVar

from PIL import Image

from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.report.entries import Entry
from reelscribe.report.overview import frame_seconds_of
from reelscribe.values import Clip, Frames
from reelscribe.video.fetch import FetchLimits, fetched
from reelscribe.video.prefetch import Decode, decoding, usable_cpus
from reelscribe.video.sampling import FramesAt

_MAX_WIDTH, _MAX_HEIGHT = 200, 112
"""Maximum size of a picture in pixels."""
_STEPS: Final = ((1, 75), (1, 60), (1, 45), (2, 60), (2, 40))
"""Factor by which pictures are shrunk, and JPEG quality: tried in this order until the pictures fit."""
_MOST_BYTES: Final = 160 << 10
"""Maximum bytes of a clip's pictures on a page with few clips."""
_PAGE_BYTES: Final = 48 << 20
"""Maximum bytes of a page in a file: pictures get what the rest of the page leaves."""
_ROUND_BYTES: Final = 260
"""Bytes of HTML around each picture."""
_AHEAD: Final = 4
"""Clips that are decoded ahead, for each decoder."""
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A decoded frame."""

    seconds: float
    """Time of the frame in the file."""
    width: int
    """In pixels, as is the height."""
    height: int
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A frame as the page refers to it."""

    seconds: float
    """Time of the frame in the file."""
    width: int
    """In pixels, as is the height; both 0 if not known yet."""
    height: int
    data: str
    """URL of the picture: a data URL, or an address at the page's own server."""


@dataclass(frozen=True, kw_only=True)
class Filmstrip:
    """The frames of a clip that the page shows."""

    frames: tuple[Thumbnail, ...] = ()
    of: int = 0
    """Number of frames that the model saw."""
    problem: str = ""
    """Why there are no frames; empty if there are some, or none are wanted."""


def room_for_pictures(page: bytes, clips: int) -> int:
    """Maximum bytes of each clip's pictures, given the page without pictures."""
    return min(_MOST_BYTES, max(_PAGE_BYTES - len(page), 0) // max(clips, 1))


def filmstrips(
    entries: Sequence[Entry], *, most_frames: int, max_bytes: int = _MOST_BYTES, settings: Settings
) -> Iterator[Filmstrip]:
    """Yield a filmstrip for each entry, in order. Clips are decoded in other processes, some of them ahead.

    Args:
        entries: one entry of each clip.
        most_frames: maximum number of frames of a clip, spread evenly over those that the model saw.
        max_bytes: maximum bytes that a clip's pictures add to the page.
        settings: settings of the run, for decoding.
    """
    with decoding_pictures(settings) as (executor, decode_clip):
        waiting: list[Future[Filmstrip]] = []
        for entry in entries:
            waiting.append(executor.submit(_filmstrip, entry, most_frames, max_bytes, decode_clip))
            if len(waiting) > _AHEAD * (settings.decoders or usable_cpus()):
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


@contextmanager
def decoding_pictures(settings: Settings) -> Iterator[tuple[ThreadPoolExecutor, Decode]]:
    """Threads, and a function with which they decode. On exit, waiting and running work is cancelled."""
    with (
        ThreadPoolExecutor(settings.decoders or usable_cpus()) as executor,
        decoding(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as decode_clip,
    ):
        try:
            yield executor, decode_clip
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def filmstrip_at(entry: Entry, most_frames: int, address: str) -> Filmstrip:
    """A filmstrip with addresses at the page's server, which makes the pictures with `pictures_of` on request."""
    seen, problem = _seen(entry)
    frames = (
        Thumbnail(seconds=seconds, width=0, height=0, data=f"{address}/{place}")
        for place, seconds in enumerate(_spread(seen, most_frames))
    )
    return Filmstrip(frames=tuple(frames), of=len(seen), problem=problem)


def pictures_of(entry: Entry, most_frames: int, decode_clip: Decode) -> list[Picture]:
    """Decode the pictures of a filmstrip made by `filmstrip_at`.

    Raises:
        ClipError: the clip cannot be decoded.
    """
    seen, _ = _seen(entry)
    if entry.video.clip is None or not seen:
        return []
    return _decode_again(entry.video.clip, _spread(seen, most_frames), _MOST_BYTES * most_frames, decode_clip)


def _seen(entry: Entry) -> tuple[list[float], str]:
    """Times of the frames that the model saw and ""; or no times and the reason. A failure has neither."""
    seen = sorted(set(frame_seconds_of(entry)))
    if entry.failure:
        return [], ""
    if entry.video.clip is None or not seen:
        return [], entry.video.problem or _UNKNOWN
    return seen, ""


_UNKNOWN: Final = "Which frames the model saw is not known."


def _filmstrip(entry: Entry, most_frames: int, max_bytes: int, decode_clip: Decode) -> Filmstrip:
    seen, problem = _seen(entry)
    if entry.video.clip is None or not seen:
        return Filmstrip(problem=problem)
    return _strip(entry.video.clip, seen, most_frames, max_bytes, decode_clip)


def look_again(
    clip: Clip, seconds: Sequence[float], *, most_frames: int, max_bytes: int, settings: Settings
) -> Filmstrip:
    """A filmstrip of one clip, which may be at a URL.

    Args:
        clip: the clip that was captioned.
        seconds: times of the frames that the model saw.
        most_frames: maximum number of these frames to show, spread evenly.
        max_bytes: maximum bytes of the pictures.
        settings: settings of the run, for fetching and decoding.
    """
    if not seconds:
        return Filmstrip(problem=_UNKNOWN)
    with decoding(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as decode_clip:
        try:
            with fetched(clip, FetchLimits.of(settings)) as there:
                return _strip(there, sorted(set(seconds)), most_frames, max_bytes, decode_clip)
        except ClipError as exc:
            return Filmstrip(problem=cannot_show(exc))


def cannot_show(exc: ClipError) -> str:
    """The message that a page shows in place of frames."""
    return f"The frames cannot be shown: {exc}"


def _strip(clip: Clip, seen: Sequence[float], most_frames: int, max_bytes: int, decode_clip: Decode) -> Filmstrip:
    try:
        pictures = _decode_again(clip, _spread(seen, most_frames), max_bytes, decode_clip)
    except ClipError as exc:
        return Filmstrip(problem=cannot_show(exc))
    if not pictures:
        return Filmstrip(problem="There is no room for frames on a page with so many clips; take fewer with --clips.")
    return Filmstrip(frames=tuple(map(_inline, pictures)), of=len(seen))


def _inline(picture: Picture) -> Thumbnail:
    data = f"data:image/jpeg;base64,{base64.b64encode(picture.jpeg).decode()}"
    return Thumbnail(seconds=picture.seconds, width=picture.width, height=picture.height, data=data)


def _decode_again(clip: Clip, seconds: Sequence[float], max_bytes: int, decode_clip: Decode) -> list[Picture]:
    at = FramesAt(seconds=tuple(seconds), max_width=_MAX_WIDTH, max_height=_MAX_HEIGHT)
    return _compress(decode_clip(clip, at, threads=1), max_bytes)


def _compress(frames: Frames, max_bytes: int) -> list[Picture]:
    """Encode frames as JPEGs within `max_bytes`: lower quality first, then smaller, then fewer, then none."""
    height, width = frames.pixels.shape[1:3]
    pictures = [Image.fromarray(pixels) for pixels in frames.pixels]
    coded: list[bytes] = []
    for shrink, quality in _STEPS:
        coded = [_jpeg(picture.reduce(shrink), quality) for picture in pictures]
        if sum(map(_size, coded)) <= max_bytes:
            break
    places = list(range(len(coded)))
    while places and sum(_size(coded[place]) for place in places) > max_bytes:
        places = _spread(places, len(places) // 2)
    return [
        Picture(seconds=frames.timestamps[place], width=width, height=height, jpeg=coded[place]) for place in places
    ]


def _size(jpeg: bytes) -> int:
    """Bytes that a picture adds to a page. Base64 turns three bytes into four."""
    return len(jpeg) * 4 // 3 + _ROUND_BYTES


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most `most` items, evenly spaced, with the first and the last."""
    if len(items) <= most:
        return list(items)
    return [items[round(step * (len(items) - 1) / max(most - 1, 1))] for step in range(most)]
