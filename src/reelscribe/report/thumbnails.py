"""The frames that the model saw, once more and small."""

import base64
import io
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
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
_QUALITIES: Final = (75, 60, 45)
_MOST_BYTES: Final = 160 << 10
"""Of a clip's pictures, where there are few clips."""
_ALL_BYTES: Final = 42 << 20
"""Of all pictures of a report, as text."""
_AHEAD: Final = 4
_T = TypeVar("_T")


@dataclass(frozen=True, kw_only=True)
class Thumbnail:
    """A frame."""

    seconds: float
    """When it is shown."""
    width: int
    """In pixels."""
    height: int
    data: str
    """The picture, as a data URL."""


@dataclass(frozen=True, kw_only=True)
class Filmstrip:
    """What there is to see of a clip."""

    frames: tuple[Thumbnail, ...] = ()
    of: int = 0
    """How many frames the model saw."""
    problem: str = ""
    """Why there are none."""


def filmstrips(entries: Sequence[Entry], *, most_frames: int, settings: Settings) -> Iterator[Filmstrip]:
    """A filmstrip for each entry, in their order; decoded in processes of their own, some ahead.

    Args:
        entries: to look at.
        most_frames: of each, spread evenly over those that the model saw.
        settings: of the run: how to decode.
    """
    max_bytes = min(_MOST_BYTES, _ALL_BYTES // max(len(entries), 1) * 3 // 4)  # base64 makes four bytes of three
    workers = settings.decoders or usable_cpus()
    with (
        ThreadPoolExecutor(workers) as executor,
        decoding(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as decode_clip,
    ):
        waiting: list[Future[Filmstrip]] = []
        for entry in entries:
            waiting.append(executor.submit(_filmstrip, entry, most_frames, max_bytes, decode_clip))
            if len(waiting) > _AHEAD * workers:
                yield waiting.pop(0).result()
        for future in waiting:
            yield future.result()


def _filmstrip(entry: Entry, most_frames: int, max_bytes: int, decode_clip: Decode) -> Filmstrip:
    seen = sorted(set(frame_seconds_of(entry)))
    if entry.failure:
        return Filmstrip()
    if entry.video.clip is None or not seen:
        return Filmstrip(problem=entry.video.problem or "Which frames the model saw is not known.")
    return _decode_again(entry.video.clip, seen, most_frames, max_bytes, decode_clip)


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
        return Filmstrip(problem="Which frames the model saw is not known.")
    with decoding(settings.decoders, settings.decode_seconds, settings.decoder_bytes) as decode_clip:
        try:
            with fetched(clip, FetchLimits.of(settings)) as there:
                return _decode_again(there, sorted(set(seconds)), most_frames, max_bytes, decode_clip)
        except ClipError as exc:
            return Filmstrip(problem=f"The frames cannot be shown: {exc}")


def _decode_again(
    clip: Clip, seen: Sequence[float], most_frames: int, max_bytes: int, decode_clip: Decode
) -> Filmstrip:
    chosen = _spread(seen, most_frames)
    at = FramesAt(seconds=tuple(chosen), max_width=_MAX_WIDTH, max_height=_MAX_HEIGHT)
    try:
        frames = decode_clip(clip, at, threads=1)
    except ClipError as exc:
        return Filmstrip(problem=f"The frames cannot be shown: {exc}")
    return Filmstrip(frames=tuple(_compress(frames, max_bytes)), of=len(seen))


def _compress(frames: Frames, max_bytes: int) -> list[Thumbnail]:
    """Pictures within a limit of bytes: of less quality, then fewer."""
    height, width = frames.pixels.shape[1:3]
    pictures = [Image.fromarray(pixels) for pixels in frames.pixels]
    coded: list[bytes] = []
    for quality in _QUALITIES:
        coded = [_jpeg(picture, quality) for picture in pictures]
        if sum(map(len, coded)) <= max_bytes:
            break
    places = list(range(len(coded)))
    while len(places) > 1 and sum(len(coded[place]) for place in places) > max_bytes:
        places = _spread(places, -(-len(places) // 2))
    return [
        Thumbnail(
            seconds=frames.timestamps[place],
            width=width,
            height=height,
            data=f"data:image/jpeg;base64,{base64.b64encode(coded[place]).decode()}",
        )
        for place in places
    ]


def _jpeg(picture: Image.Image, quality: int) -> bytes:
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=quality, optimize=True)
    return file.getvalue()


def _spread(items: Sequence[_T], most: int) -> list[_T]:
    """At most so many, evenly, the first and the last among them."""
    if len(items) <= most:
        return list(items)
    return [items[round(step * (len(items) - 1) / max(most - 1, 1))] for step in range(most)]
