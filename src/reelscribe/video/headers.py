"""Reads headers of video files: for surveys of many files, mostly without reading them whole.

What a header says may be wrong. Captions are made of what is in a file; see `index.py`.
"""

import math
from dataclasses import dataclass, replace
from typing import Final

import av
from av.container import InputContainer

from reelscribe.errors import ClipError
from reelscribe.values import Bounds, Clip
from reelscribe.video.bounds import ROUNDED_SECONDS, bounds_of
from reelscribe.video.clock import may_jump
from reelscribe.video.index import packets_of, read_index
from reelscribe.video.opening import check_not_encrypted, open_clip, reason, video_stream
from reelscribe.video.sampling import FrameBudget, count_video_tokens
from reelscribe.video.stated import check_bytes, stated_seconds

_MOST_SECONDS: Final = 1e8
"""Headers with a longer duration, three years, are not believed."""
_READ_BYTES: Final = 256 << 20
"""Files up to this size are read whole if their header has no duration."""


@dataclass(frozen=True, kw_only=True)
class Header:
    """The header of a file or clip."""

    codec: str
    """FFmpeg's name of the codec: h264, hevc, av1, ..."""
    width: int
    """Width in square pixels, before rotation. Rotation does not change the number of tokens."""
    height: int
    frames: int
    duration_seconds: float
    first_frame: int = 0
    """Number of its first frame in the file, from 0."""
    has_sound: bool = False
    """Whether the file has a track of sound."""

    def video_tokens(self, budget: FrameBudget) -> int:
        """Vision tokens that the clip costs: exact where the header is right and frames come at even distances."""
        picked = len(budget.pick(range(self.frames), self.duration_seconds))
        width, height = budget.fit(self.width, self.height, picked)
        return count_video_tokens(width, height, picked, budget.limits)

    def sound_tokens(self, budget: FrameBudget) -> int:
        """Tokens of its sound, if that is wanted, assuming that it lasts as long as the pictures."""
        return budget.hearing.tokens(self.duration_seconds) if budget.hearing and self.has_sound else 0

    def thinned(self, budget: FrameBudget) -> bool:
        """Whether the clip gets fewer frames a second than were asked for."""
        return budget.thins(self.frames, self.duration_seconds)

    def shrunk(self, budget: FrameBudget) -> bool:
        """Whether the budget leaves less than a quarter of the pictures' pixels."""
        return budget.shrinks(self.width, self.height, len(budget.pick(range(self.frames), self.duration_seconds)))


def read_header(clip: Clip) -> Header:
    """Read the header of a clip's file; all of its packets, where that does not say how long the video is.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_large", "too_short", "row" for what is no
            stretch of the file, "decode" where the file ends
            before what it states, or "crashed".
    """
    try:
        with open_clip(clip) as container:
            stream = video_stream(container, clip)
            if not stream.width or not stream.height:
                size = f"{stream.width} x {stream.height}"
                raise ClipError("decode", f"{clip.name}: its header says that its pictures are of {size} pixels.")
            is_mp4 = "mp4" in container.format.name
            if is_mp4 and len(stream.index_entries):
                last = stream.index_entries[len(stream.index_entries) - 1]
                if last.pos + last.size > container.size:
                    message = f"{clip.name} is cut short: it states frames behind its {container.size:,} bytes."
                    raise ClipError("decode", message)
            else:
                check_bytes(container, clip)
            seconds = stated_seconds(container, stream)
            counted = len(stream.index_entries) if is_mp4 else stream.frames
            frames = counted or round(seconds * float(stream.average_rate or 0))
            if not frames or not 0 < seconds < _MOST_SECONDS or _may_be_joined(container):
                index = read_index(container, stream, clip, [], 0)
                frames, seconds = len(index.pts), index.duration_seconds
            else:
                check_not_encrypted(next(packets_of(container, stream)), clip)
            aspect = stream.sample_aspect_ratio
            header = Header(
                codec=stream.codec_context.codec.canonical_name,
                width=max(round(stream.width * aspect), 1) if aspect else stream.width,
                height=stream.height,
                frames=frames,
                duration_seconds=seconds,
                has_sound=bool(container.streams.audio),
            )
            return of_clip(header, clip)
    except ClipError:
        raise
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("unreadable", f"{clip.name} cannot be opened as a video: {reason(exc)}.") from exc
    except Exception as exc:  # nobody knows all that a file can do to libraries
        raise ClipError("crashed", f"{clip.name}: its decoder crashed ({type(exc).__name__}: {exc}).") from exc


def of_clip(header: Header, clip: Clip) -> Header:
    """The header of a clip, from that of its whole file.

    Raises:
        ClipError: kind "row" for what is no stretch of the file, or "too_short".
    """
    if not clip.is_whole:
        bounds = bounds_of(clip, header.duration_seconds)
        shown = _on_screen(header.frames, bounds)
        header = replace(header, frames=len(shown), duration_seconds=bounds.end - bounds.start, first_frame=shown.start)
    if (count := header.frames) < 2:
        raise ClipError("too_short", f"{clip.name} has {count} frame{'s' * (count != 1)}; at least 2 are needed.")
    return header


def _on_screen(frames: int, bounds: Bounds) -> range:
    """Range of the file's frames on screen in a stretch, assuming equal durations; see `FrameIndex.within`."""
    rate = frames / bounds.file_seconds
    first = math.floor((bounds.start + ROUNDED_SECONDS) * rate)
    return range(first, min(math.ceil((bounds.end - ROUNDED_SECONDS) * rate), frames))


def _may_be_joined(container: InputContainer) -> bool:
    """Whether a file may be joined from parts with their own clocks. Then only its packets tell its length.

    In these formats FFmpeg guesses: it takes the time from the first picture to the last. Very large files are left
    to that guess, since reading them takes as long as captioning does.
    """
    return may_jump(container) and container.size <= _READ_BYTES
