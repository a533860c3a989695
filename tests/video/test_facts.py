"""What a file says of itself goes along with its frames: as the video is shown, not as the model sees it."""

from collections.abc import Callable
from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from clips import cut, write_clip
from decoders import pool
from decoding import BUDGET, EVERY_FRAME

from reelscribe.schemas import Facts
from reelscribe.values import Clip, Frames
from reelscribe.video.decode import decode
from reelscribe.video.sampling import FrameBudget

SMALL = replace(BUDGET, max_video_tokens=60)

Decode = Callable[[Path, FrameBudget], Frames]


@pytest.fixture(params=["in this process", "in another one"])
def decoded(request: pytest.FixtureRequest) -> Decode:
    if request.param == "in this process":
        return lambda file, budget: decode(Clip(source=str(file)), budget)
    return lambda file, budget: pool().decode(Clip(source=str(file)), budget, threads=1)


@pytest.mark.parametrize(
    ("settings", "width", "height"),
    [
        ({"size": (322, 242)}, 322, 242),
        ({"size": (384, 256), "turn": 1}, 256, 384),
        ({"size": (384, 256), "turn": 2}, 384, 256),
        ({"size": (384, 256), "aspect": Fraction(4, 3)}, 512, 256),
        ({"size": (256, 256), "aspect": Fraction(2), "turn": 3}, 256, 512),
    ],
)
def test_the_size_is_upright_and_with_square_pixels_and_not_shrunk(
    settings: dict[str, Any], width: int, height: int, decoded: Decode, tmp_path: Path
) -> None:
    frames = decoded(write_clip(tmp_path / "a.mp4", **settings), SMALL)
    assert frames.facts == Facts(duration_seconds=1.2, fps=25.0, width=width, height=height)
    assert max(frames.pixels.shape[1:3]) < max(width, height)


def test_the_rate_is_that_of_all_frames_on_average(decoded: Decode, tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4", range(10), times=[0, 1, 2, 3, 4, 10, 11, 12, 13, 14])
    frames = decoded(file, BUDGET)
    assert len(frames.pixels) < 10
    assert frames.facts == Facts(duration_seconds=0.6, fps=16.667, width=160, height=120)


def test_of_a_damaged_clip_the_facts_are_those_of_its_part(decoded: Decode, tmp_path: Path) -> None:
    whole = write_clip(
        tmp_path / "whole.mp4",
        range(100),
        times=[*range(20), *range(20, 180, 2)],
        size=(192, 128),
        turn=1,
        aspect=Fraction(4, 3),
        keyframe_every=20,
        container_options={"movflags": "faststart"},
    )
    frames = decoded(cut(whole, tmp_path / "cut.mp4", keep=0.6), replace(EVERY_FRAME, min_decoded=0.2))
    count = len(frames.pixels)
    assert frames.decoded_share is not None
    assert 20 < count < 80
    assert frames.facts.duration_seconds == frames.duration_seconds
    assert frames.facts.fps == round(count / frames.duration_seconds, 3)
    assert 13 < frames.facts.fps < 25 * 0.8
    assert (frames.facts.width, frames.facts.height) == (128, 256)
