"""Where a clip lies in its file."""

from typing import Final

from reelscribe.errors import ClipError
from reelscribe.values import Bounds, Clip

ROUNDED_SECONDS: Final = 0.00051
"""Times are written down in milliseconds: a frame that is shown by so much later counts as shown at a time."""
_LATE_SECONDS: Final = 1.0
"""An end that is at most so far behind the file's is taken for it: lengths are often rounded, or those of the sound."""

_NOTED_SECONDS: Final = 0.1
"""An end that is further behind the file's is noted; less is rounding, or the last frame."""


def bounds_of(clip: Clip, file_seconds: float) -> Bounds:
    """Where a clip begins and ends in a file of a length.

    Raises:
        ClipError: kind "row", where it is empty, ends before it begins, or reaches out of the file.
    """
    start, end = clip.start_seconds, file_seconds if clip.end_seconds is None else clip.end_seconds
    length = f"the file is {file_seconds:.3f} seconds long"
    if start < 0 or start >= file_seconds or end > file_seconds + _LATE_SECONDS:
        message = f"{clip.name} is not in the file: {length}. If it is cut out already, see start_key and end_key."
        raise ClipError("row", message)
    if end <= start:
        raise ClipError("row", f"{clip.name} ends {'where' if end == start else 'before'} it begins; {length}.")
    return Bounds(start, min(end, file_seconds), file_seconds)


def ends_early(clip: Clip, bounds: Bounds) -> bool:
    """Whether the file ends before the clip was to end."""
    return clip.end_seconds is not None and clip.end_seconds > bounds.end + _NOTED_SECONDS
