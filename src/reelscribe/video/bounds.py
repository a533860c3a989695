"""Where a clip lies in its file."""

from typing import Final

from reelscribe.errors import ClipError
from reelscribe.values import Bounds, Clip

ROUNDED_SECONDS: Final = 0.00051
"""Times are written in milliseconds, so a frame that is shown this much later still counts as shown at a time."""
_LATE_SECONDS: Final = 1.0
"""A clip's end up to this far behind the file's is taken for it: stated lengths are often rounded, or the sound's."""

_NOTED_SECONDS: Final = 0.1
"""A clip's end further behind the file's than this is flagged; less is rounding, or the last frame."""


def bounds_of(clip: Clip, file_seconds: float) -> Bounds:
    """Where a clip begins and ends in a file of this length.

    Raises:
        ClipError: kind "row": it is empty, ends before it begins, or reaches out of the file.
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
