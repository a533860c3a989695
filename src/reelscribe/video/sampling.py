"""Which frames of a clip to look at, and at which size: pure arithmetic.

The cost of a clip is known before an engine sees it. A model that keeps the size of frames turns each group of them
(`temporal_patch`, a pair in Qwen3-VL) into one vision token for each square of `token_pixels` by `token_pixels` pixels.
Another brings each frame to a size of its own (`OwnSize`): there the number of frames gives way to the budget.
"""

import math
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol

from reelscribe.config import FrameSettings
from reelscribe.errors import ClipError, SettingsError
from reelscribe.video.bounds import ROUNDED_SECONDS

_LEAST_SHARE = 0.25
"""Below this share of a picture's pixels, small things and text in it are lost, and the clip counts as shrunk."""
LONGEST_SIDE = 4
"""Maximum aspect ratio of a picture for a model that resizes frames to its own size."""


@dataclass(frozen=True, kw_only=True)
class OwnSize:
    """How a checkpoint resizes each frame to a size of its own."""

    pixels: int
    """Pixels of a frame's shorter side that the model sees; more are scaled away."""
    frame_tokens: int
    """Vision tokens of a frame; the maximum if there is a `step`."""
    clip_tokens: int = 0
    """Vision tokens of a clip beside those of its frames."""
    step: int | None = None
    """If the model keeps a frame's aspect ratio: side of the squares that it is cut into, in pixels; a token each."""
    rounded: bool = False
    """Whether the frame is scaled to an area of `pixels` squared, and its sides rounded to whole squares."""

    def tokens(self, width: int, height: int) -> int:
        """Vision tokens of a frame of this size. With a `step`, the size is the largest of the frame's shape."""
        if self.step is None:
            return self.frame_tokens
        if self.rounded:
            down = int(self.pixels / math.sqrt(width / height))
            return math.prod(max(round(side / self.step), 1) for side in (down, int(down * (width / height))))
        scale = math.sqrt(self.frame_tokens / (width * height))
        columns, rows = math.floor(width * scale), math.floor(height * scale)
        if not rows:
            return min(width // height, self.frame_tokens)
        return columns * rows if columns else min(height // width, self.frame_tokens)

    def fit(self, width: int, height: int) -> tuple[int, int]:
        """Width and height to send: aspect ratio kept up to `LONGEST_SIDE`, no more pixels than the model uses."""
        longest = LONGEST_SIDE * min(self.pixels, width, height)
        scale = min(1.0, self.pixels / min(width, height))
        return tuple(min(max(round(side * scale), 1), longest) for side in (width, height))  # type: ignore[return-value]


@dataclass(frozen=True, kw_only=True)
class Hearing:
    """How a checkpoint takes the sound of a video."""

    rate: int
    """Samples a second."""
    tokens_per_second: float
    max_tokens: int | None = None
    """Most tokens that the sound of a clip may cost; None until settings say so."""

    def tokens(self, seconds: float) -> int:
        """Tokens that sound of this length costs, rounded up by at most one."""
        return math.ceil(seconds * self.tokens_per_second)


@dataclass(frozen=True, kw_only=True)
class VisionLimits:
    """Limits of a checkpoint on its videos."""

    token_pixels: int = 32
    """Side of the square that becomes one vision token, in pixels: patch size times merge size."""
    temporal_patch: int = 2
    """Number of frames that are merged into one group."""
    max_frame_tokens: int = 768
    """Maximum of vision tokens for each group of frames. 768 is the limit of the released models' reference
    preprocessing (VIDEO_MAX_TOKEN_NUM in qwen-vl-utils)."""
    min_frames: int = 4
    max_frames: int = 768
    longest_side: int | None = None
    """Most pixels of a frame's longer side, if there is such a limit; a multiple of `token_pixels`."""
    own_size: OwnSize | None = None
    """Set if the model resizes frames. Then the fields on squares and groups do not count."""
    hearing: Hearing | None = None
    """None if it takes no sound with a video."""


class FrameChoice(Protocol):
    """Which frames of a clip to decode, and at which size."""

    @property
    def limits(self) -> VisionLimits:
        """Limits of the checkpoint, by which vision tokens are counted."""

    @property
    def min_decoded(self) -> float:
        """Share of the clip that is enough if the rest is missing or damaged; 1 if all of it is needed."""

    @property
    def hearing(self) -> Hearing | None:
        """How its sound is wanted; None if it is not."""

    def pick(self, timestamps: Sequence[float], duration_seconds: float) -> list[int]:
        """Indices into the times of all frames, ascending."""

    def fit(self, width: int, height: int, num_frames: int) -> tuple[int, int]:
        """Width and height in pixels, for an upright picture of that size."""

    def thins(self, num_frames: int, duration_seconds: float) -> bool:
        """Whether a clip with this many frames is so long that it gets fewer frames a second than asked for."""

    def shrinks(self, width: int, height: int, num_frames: int) -> bool:
        """Whether pictures keep less than a quarter of their pixels, because the clip has many frames."""


@dataclass(frozen=True, kw_only=True)
class FrameBudget:
    """Which frames of a clip to show, and how large: the run's settings within the checkpoint's limits."""

    fps: float
    min_frames: int
    max_frames: int
    max_video_tokens: int
    limits: VisionLimits
    min_decoded: float = 1.0
    """Share of a clip that must be there and undamaged."""
    hearing: Hearing | None = None
    """How its sound is wanted; None if it is not."""

    @classmethod
    def of(cls, settings: FrameSettings, limits: VisionLimits) -> "FrameBudget":
        """The settings, with the checkpoint's limits for what they leave open.

        Raises:
            SettingsError: not even one frame is within the settings, or sound is wanted by a model that takes none.
        """
        if settings.audio:
            check_hears(limits)
        own = limits.own_size
        if own and own.clip_tokens + own.frame_tokens > settings.max_video_tokens:
            raise SettingsError(
                f"max_video_tokens is {settings.max_video_tokens}, but this model makes {own.frame_tokens} vision "
                f"tokens of each frame and {own.clip_tokens} more of a clip; raise it to their sum at least."
            )
        max_frames = settings.max_frames or max(limits.max_frames, settings.min_frames or 0)
        return cls(
            fps=settings.fps,
            min_frames=min(settings.min_frames or limits.min_frames, max_frames),
            max_frames=max_frames,
            max_video_tokens=settings.max_video_tokens,
            limits=limits,
            min_decoded=settings.min_decoded,
            hearing=replace(limits.hearing, max_tokens=settings.max_video_tokens)
            if settings.audio and limits.hearing
            else None,
        )

    @property
    def most_tokens(self) -> int:
        """Most vision tokens that one clip can cost."""
        if own := self.limits.own_size:
            return own.clip_tokens + self.most_frames * own.frame_tokens
        merged = -(-self.max_frames // self.limits.temporal_patch)
        return min(self.max_video_tokens, merged * self.limits.max_frame_tokens)

    @property
    def most_frames(self) -> int:
        """Most frames that one clip can have: each group of them costs a token at least."""
        if own := self.limits.own_size:
            return min(self.max_frames, (self.max_video_tokens - own.clip_tokens) // own.frame_tokens)
        return min(self.max_frames, self.limits.temporal_patch * self.max_video_tokens)

    @property
    def most_sound_tokens(self) -> int:
        """Most tokens that the sound of one clip can cost."""
        return self.hearing.max_tokens or 0 if self.hearing else 0

    @property
    def max_bytes(self) -> int:
        """Most bytes that the decoded frames of one clip, and its sound, can take."""
        sound = 0
        if self.hearing:
            sound = math.ceil(self.most_sound_tokens / self.hearing.tokens_per_second * self.hearing.rate) * 4
        if own := self.limits.own_size:
            return self.most_frames * LONGEST_SIDE * own.pixels**2 * 3 + sound
        return self.most_tokens * self.limits.token_pixels**2 * self.limits.temporal_patch * 3 + sound

    def pick(self, timestamps: Sequence[float], duration_seconds: float) -> list[int]:
        """See `pick_frames`."""
        return pick_frames(timestamps, duration_seconds, self)

    def fit(self, width: int, height: int, num_frames: int) -> tuple[int, int]:
        """See `fit_resolution`."""
        return fit_resolution(width, height, num_frames, self)

    def thins(self, num_frames: int, duration_seconds: float) -> bool:
        """Whether the budget, and not what the clip has, keeps it from `fps` frames a second."""
        return min(int(duration_seconds * self.fps + 1e-6), num_frames) > self.most_frames

    def shrinks(self, width: int, height: int, num_frames: int) -> bool:
        """Whether the clip's tokens, spread over so many frames, leave less than a quarter of the pixels."""
        if self.limits.own_size:
            return False  # whatever the settings say
        merged = -(-num_frames // self.limits.temporal_patch)
        if not width * height or self.max_video_tokens // merged >= self.limits.max_frame_tokens:
            return False  # the checkpoint's own ceiling for a frame, which no setting lifts
        fitted = self.fit(width, height, num_frames)
        return _LEAST_SHARE * width * height > fitted[0] * fitted[1]

    def __str__(self) -> str:
        start = f"{self.fps:g} frames a second, {self.min_frames} to {self.max_frames} of them, at most "
        if own := self.limits.own_size:
            return f"{start}{self.max_video_tokens:,} vision tokens a clip and {own.frame_tokens:,} for each frame"
        return (
            f"{start}{self.max_video_tokens:,} vision tokens a clip and {self.limits.max_frame_tokens:,} for each "
            f"{self.limits.temporal_patch} frames"
        )


def check_hears(limits: VisionLimits) -> None:
    """Check that a model takes sound with a video.

    Raises:
        SettingsError: it does not.
    """
    if limits.hearing is None:
        raise SettingsError(
            "audio is set, but this model takes no sound with a video here; leave audio out, or take a model that "
            "does, such as Qwen3-Omni."
        )


@dataclass(frozen=True, kw_only=True)
class FramesAt:
    """The frames at given times, to show again what a model saw."""

    seconds: tuple[float, ...]
    """Ascending; rounded to milliseconds, as records of captions have them."""
    max_width: int
    """Of the pictures, in pixels; they keep their shape."""
    max_height: int
    limits: VisionLimits = field(default_factory=VisionLimits)
    min_decoded: float = 1e-3
    """Tiny, so that any clip that was captioned can be shown."""
    hearing: None = None

    def pick(self, timestamps: Sequence[float], _: float) -> list[int]:
        """The frame at each of the times.

        Raises:
            ClipError: kind "decode", where there is none at one of them: it is another video.
        """
        picked = []
        for second in self.seconds:
            at = bisect_right(timestamps, second + ROUNDED_SECONDS) - 1
            if at < 0 or timestamps[at] < second - ROUNDED_SECONDS:
                raise ClipError("decode", f"no frame is shown at {second:g} s: the file is not the one that it was.")
            picked.append(at)
        return sorted(set(picked))

    def fit(self, width: int, height: int, _: int) -> tuple[int, int]:
        """The largest size of the same shape."""
        scale = min(self.max_width / width, self.max_height / height, 1.0)
        return max(round(width * scale), 1), max(round(height * scale), 1)

    def thins(self, *_: float) -> bool:
        """No: these are the frames that were asked for."""
        return False

    def shrinks(self, *_: int) -> bool:
        """No: they are only looked at."""
        return False


def pick_frames(timestamps: Sequence[float], duration_seconds: float, budget: FrameBudget) -> list[int]:
    """Choose frames at even distances in time.

    Targets are spread evenly from the first frame to the last; a single one is in the middle. Each picks the frame that
    is on screen then: the last one at or before it. So frames of a variable-rate clip are spread over time, not over
    their numbers. No frame is picked twice, hence a clip of few frames gives them all.

    Args:
        timestamps: when each frame is shown, in seconds, ascending.
        duration_seconds: length of the clip, the last frame's own time on screen included.
        budget: how many frames.

    Returns:
        Indices into `timestamps`, ascending.
    """
    patch = 1 if budget.limits.own_size else budget.limits.temporal_patch
    count = int(duration_seconds * budget.fps + 1e-6)
    count = min(max(count, budget.min_frames), budget.most_frames)
    count = max(count - count % patch, patch)  # an odd one out would cost as much as a pair
    if count >= len(timestamps):
        return list(range(len(timestamps)))
    first, last = timestamps[0], timestamps[-1]
    shares = [step / (count - 1) for step in range(count)] if count > 1 else [0.5]
    targets = [first + (last - first) * share for share in shares]
    return sorted({max(bisect_right(timestamps, target + 1e-9) - 1, 0) for target in targets})


def fit_resolution(width: int, height: int, num_frames: int, budget: FrameBudget) -> tuple[int, int]:
    """Choose the size at which the model sees the frames.

    If the checkpoint keeps sizes, both sides are multiples of `token_pixels`. Of the sizes in the budget, the one is
    taken that keeps most pixels and distorts the picture least; distortion weighs double. A small picture is not blown
    up: it costs what it has.

    Args:
        width: of the upright picture, in square pixels.
        height: likewise.
        num_frames: over which the budget is spread.
        budget: how many tokens.

    Returns:
        (width, height) in pixels.
    """
    if budget.limits.own_size:
        return budget.limits.own_size.fit(width, height)
    side = budget.limits.token_pixels
    merged = -(-num_frames // budget.limits.temporal_patch)
    most = max(min(budget.limits.max_frame_tokens, budget.max_video_tokens // merged), 1)
    longest = budget.limits.longest_side or math.inf
    shrink = min(1.0, math.sqrt(most * side * side / (width * height)), longest / max(width, height))
    ideal_columns, ideal_rows = (max(length * shrink / side, 1e-9) for length in (width, height))
    columns = {max(math.floor(ideal_columns), 1), math.ceil(ideal_columns)}
    rows = {max(math.floor(ideal_rows), 1), math.ceil(ideal_rows)}
    # Where both sides cannot be rounded up, one of them gives way to the other.
    sizes = {(min(c, most // r), r) for c in columns for r in rows if r <= most}
    sizes |= {(c, min(r, most // c)) for c in columns for r in rows if c <= most}

    def loss(size: tuple[int, int]) -> float:
        distortion = abs(math.log(size[0] / size[1] * ideal_rows / ideal_columns))
        return 2 * distortion + abs(math.log(size[0] * size[1] / (ideal_columns * ideal_rows)))

    best = min(sorted(sizes), key=loss)
    return best[0] * side, best[1] * side


def count_video_tokens(width: int, height: int, num_frames: int, limits: VisionLimits) -> int:
    """Vision tokens that frames of this size cost, exactly."""
    if own := limits.own_size:
        return own.clip_tokens + num_frames * own.tokens(width, height)
    merged = -(-num_frames // limits.temporal_patch)
    return merged * (width // limits.token_pixels) * (height // limits.token_pixels)
