"""The frames that the model saw, once more and small."""

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
_STEPS: Final = ((1, 75), (1, 60), (1, 45), (2, 60), (2, 40))
"""By how much pictures are made smaller, and their quality, until they fit."""
_MOST_BYTES: Final = 160 << 10
"""Of a clip's pictures, where there are few clips."""
_PAGE_BYTES: Final = 48 << 20
"""Of a page in a file."""
_ROUND_BYTES: Final = 260
"""Of what stands around a picture on a page."""
_AHEAD: Final = 4
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Picture:
    """A frame."""

    seconds: float
    """When it is shown."""
    width: int
    """In pixels."""
    height: int
    jpeg: bytes


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A frame on a page."""

    seconds: float
    """When it is shown."""
    width: int
    """In pixels; 0 if it is not known yet."""
    height: int
    data: str
    """Where the picture is: a data URL, or an address at the page's own server."""


@dataclass(frozen=True, kw_only=True)
class Filmstrip:
    """What there is to see of a clip."""

    frames: tuple[Thumbnail, ...] = ()
    of: int = 0
    """How many frames the model saw."""
    problem: str = ""
    """Why there are none."""


def room_for_pictures(page: bytes, clips: int) -> int:
    """How many bytes the pictures of each clip may have, on a page that is this without them."""
    return min(_MOST_BYTES, max(_PAGE_BYTES - len(page), 0) // max(clips, 1))


def filmstrips(
    entries: Sequence[Entry], *, most_frames: int, max_bytes: int = _MOST_BYTES, settings: Settings
) -> Iterator[Filmstrip]:
    """A filmstrip for each entry, in their order; decoded in processes of their own, some ahead.

    Args:
        entries: to look at.
        most_frames: of each, spread evenly over those that the model saw.
        max_bytes: of what each adds to a page.
        settings: of the run: how to decode.
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
    """Threads, and how they decode. At the end, what is not begun is dropped and what is under way given up."""
    with (
        ThreadPoolExecutor(settings.decoders or usable_cpus()) as executor,
        decoding(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as decode_clip,
    ):
        try:
            yield executor, decode_clip
        finally:
            executor.shutdown(wait=False, cancel_futures=True)


def filmstrip_at(entry: Entry, most_frames: int, address: str) -> Filmstrip:
    """A filmstrip whose pictures are at a server, where `pictures_of` makes them when they are asked for."""
    seen, problem = _seen(entry)
    frames = (
        Thumbnail(seconds=seconds, width=0, height=0, data=f"{address}/{place}")
        for place, seconds in enumerate(_spread(seen, most_frames))
    )
    return Filmstrip(frames=tuple(frames), of=len(seen), problem=problem)


def pictures_of(entry: Entry, most_frames: int, decode_clip: Decode) -> list[Picture]:
    """The pictures of such a filmstrip.

    Raises:
        ClipError: they cannot be had.
    """
    seen, _ = _seen(entry)
    if entry.video.clip is None or not seen:
        return []
    return _decode_again(entry.video.clip, _spread(seen, most_frames), _MOST_BYTES * most_frames, decode_clip)


def _seen(entry: Entry) -> tuple[list[float], str]:
    """When the frames are shown that the model saw; or none, and why. Of a failure there is nothing to see."""
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
        clip: that was captioned.
        seconds: when the frames are shown that the model saw.
        most_frames: to show of these, spread evenly.
        max_bytes: of the pictures.
        settings: of the run: what may be fetched and how to decode.
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
    """What a page says in the place of frames."""
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
    """Pictures that add at most so many bytes to a page: of less quality, then smaller, then fewer, then none."""
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
    """Bytes that a picture adds to a page: base64 makes four of three."""
    return len(jpeg) * 4 // 3 + _ROUND_BYTES


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(step * (len(items) - 1) / max(most - 1, 1))] for step in range(most)]
