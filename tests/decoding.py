"""What the tests of decoding share: budgets, kinds of clips, and short ways to decode one or to fail at it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from av.video.frame import VideoFrame
from clips import draw_number

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Frames
from reelscribe.video.decode import decode
from reelscribe.video.index import FrameIndex, read_index
from reelscribe.video.opening import open_clip, video_stream
from reelscribe.video.sampling import FrameBudget, FrameChoice, VisionLimits

BUDGET = FrameBudget(fps=5, min_frames=4, max_frames=768, max_video_tokens=2000, limits=VisionLimits())
EVERY_FRAME = replace(BUDGET, fps=1000)

KINDS: dict[str, dict[str, Any]] = {
    "h264.mp4": {},
    "h264.mov": {},
    "h264.mkv": {},
    "h264.ts": {"keyframe_every": 10},
    "h264.flv": {},
    "h264.avi": {},
    "fragments.mp4": {"container_options": {"movflags": "frag_keyframe+empty_moov"}, "keyframe_every": 10},
    "live.mkv": {"container_options": {"live": "1"}},
    "bare.h264": {"container_format": "h264"},
    "ten_bits.mp4": {"options": {"profile": "high10"}, "paint": lambda n, w, h: painted(n, w, h, "yuv420p10le")},
    "hevc.mp4": {"codec": "libx265"},
    "bare.hevc": {"codec": "libx265", "container_format": "hevc"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
    "mpeg4.avi": {"codec": "mpeg4", "b_frames": 0},
    "mpeg4_b_frames.avi": {"codec": "mpeg4"},
    "mpeg2.mpg": {"codec": "mpeg2video", "keyframe_every": 12},
    "mpeg2.ts": {"codec": "mpeg2video", "keyframe_every": 12},
}
"""Clips of 30 frames at 25 a second, each the same to a viewer."""
COUNT = 200
"""Frames of a clip with stretches, at 25 a second: 8 seconds."""
LONG_KINDS: dict[str, dict[str, Any]] = {
    "open_groups.mp4": {"options": {"x264-params": "open-gop=1:bframes=3:b-pyramid=normal"}, "keyframe_every": 24},
    "open_groups.ts": {"options": {"x264-params": "open-gop=1:bframes=3"}, "keyframe_every": 24},
    "one_keyframe.mkv": {"keyframe_every": 1000, "b_frames": 3},
    "late.ts": {"times": range(1000, 1000 + COUNT), "keyframe_every": 30},
    "late.mp4": {"times": range(1000, 1000 + COUNT), "keyframe_every": 30},
}
"""Further clips of `COUNT` frames."""


def painted(number: int, width: int, height: int, pixel_format: str) -> VideoFrame:
    return VideoFrame.from_ndarray(draw_number(number, width, height), format="rgb24").reformat(format=pixel_format)


def decoded(file: Path, budget: FrameBudget = BUDGET) -> Frames:
    return decode(Clip(source=str(file)), budget)


def failure(file: Path | bytes, budget: FrameChoice = BUDGET) -> ClipError:
    with pytest.raises(ClipError) as caught:
        decode(Clip(source=file if isinstance(file, bytes) else str(file)), budget)
    return caught.value


def index_of(file: Path) -> FrameIndex:
    clip = Clip(source=str(file))
    with open_clip(clip) as container:
        return read_index(container, video_stream(container, clip), clip, [], 0)
