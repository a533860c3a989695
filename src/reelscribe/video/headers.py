"""What the header of a video file says of it: for a look at many files, without reading them.

What a header says may be wrong. Captions are made of what is in a file; see `index.py`.
"""

from dataclasses import dataclass

import av

from reelscribe.errors import ClipError
from reelscribe.schema import Clip
from reelscribe.video.index import check_bytes, open_clip, read_index, reason, stated_seconds, video_stream
from reelscribe.video.sampling import FrameBudget, count_video_tokens


@dataclass(frozen=True, kw_only=True)
class Header:
    """What a file says of its video."""

    codec: str
    """As FFmpeg calls it: h264, hevc, av1, ..."""
    width: int
    """In square pixels; a picture that players turn is taken as it lies, which costs as much."""
    height: int
    frames: int
    duration_seconds: float

    def video_tokens(self, budget: FrameBudget) -> int:
        """Vision tokens that the clip costs: exact where the header is right and frames come at even distances."""
        picked = len(budget.pick(range(self.frames), self.duration_seconds))
        width, height = budget.fit(self.width, self.height, picked)
        return count_video_tokens(width, height, picked, budget.limits)

    def thinned(self, budget: FrameBudget) -> bool:
        """Whether the clip gets fewer frames a second than were asked for."""
        return budget.thins(self.frames, self.duration_seconds)

    def shrunk(self, budget: FrameBudget) -> bool:
        """Whether its pictures lose more than three quarters of their pixels to the budget."""
        return budget.shrinks(self.width, self.height, len(budget.pick(range(self.frames), self.duration_seconds)))


def read_header(clip: Clip) -> Header:
    """Read the header of a clip's file; all of its packets, where that does not say how long the video is.

    Raises:
        ClipError: kind "missing", "unreadable", "no_video", "too_large", "too_short", "decode" where the file ends
            before what it states, or "crashed".
    """
    try:
        with open_clip(clip) as container:
            stream = video_stream(container, clip)
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
            if not frames or not seconds:  # a live recording does not say
                index = read_index(container, stream, clip, [], 0)
                frames, seconds = len(index.pts), index.duration_seconds
            if frames < 2:
                raise ClipError("too_short", f"{clip.name} has 1 frame; at least 2 are needed.")
            aspect = stream.sample_aspect_ratio
            return Header(
                codec=stream.codec_context.codec.canonical_name,
                width=max(round(stream.width * aspect), 1) if aspect else stream.width,
                height=stream.height,
                frames=frames,
                duration_seconds=seconds,
            )
    except ClipError:
        raise
    except (av.FFmpegError, OSError) as exc:
        raise ClipError("unreadable", f"{clip.name} cannot be opened as a video: {reason(exc)}.") from exc
    except Exception as exc:  # nobody knows all that a file can do to libraries
        raise ClipError("crashed", f"{clip.name}: its decoder crashed ({type(exc).__name__}: {exc}).") from exc
