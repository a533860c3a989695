"""Headers say beforehand what decoding finds."""

from dataclasses import replace
from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from clips import copy_packets, write_audio, write_clip

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import headers
from reelscribe.video.decode import decode
from reelscribe.video.headers import read_header
from reelscribe.video.isolate import DecoderPool
from reelscribe.video.sampling import FrameBudget, VisionLimits

BUDGET = FrameBudget(fps=2, min_frames=4, max_frames=768, max_video_tokens=300, limits=VisionLimits())


@pytest.mark.parametrize("frames", [12, 30, 95, 250])
@pytest.mark.parametrize(
    ("suffix", "codec", "called"),
    [
        ("mp4", "libx264", "h264"),
        ("mkv", "libx264", "h264"),
        ("ts", "libx264", "h264"),
        ("mp4", "libx265", "hevc"),
        ("webm", "libvpx-vp9", "vp9"),
        ("avi", "mpeg4", "mpeg4"),
    ],
)
def test_tokens_are_those_of_decoding(suffix: str, codec: str, called: str, frames: int, tmp_path: Path) -> None:
    clip = Clip(source=str(write_clip(tmp_path / f"a.{suffix}", range(frames), codec=codec, size=(352, 280))))
    header, decoded = read_header(clip), decode(clip, BUDGET)
    assert header.video_tokens(BUDGET) == decoded.video_tokens
    assert header.duration_seconds == pytest.approx(decoded.duration_seconds, abs=0.001)
    assert (header.codec, header.width, header.height) == (called, 352, 280)
    assert header.frames == frames


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("live.mkv", {"live": "1"}),
        ("a.flv", {}),
        ("fragments.mp4", {"movflags": "frag_keyframe+empty_moov"}),
        ("dash.mp4", {"movflags": "dash+frag_keyframe"}),
    ],
)
def test_files_that_say_little_of_themselves(name: str, options: dict[str, str], tmp_path: Path) -> None:
    clip = Clip(
        source=str(write_clip(tmp_path / name, range(100), container_options=options, keyframe_every=20, rate=10))
    )
    header, decoded = read_header(clip), decode(clip, BUDGET)
    assert header.video_tokens(BUDGET) == decoded.video_tokens
    assert header.duration_seconds == pytest.approx(decoded.duration_seconds, abs=0.2)


@pytest.mark.parametrize("tagged", [True, False])
@pytest.mark.parametrize(
    "settings",
    [{}, {"audio_seconds": 20.0}, {"times": range(90_000, 90_100)}, {"times": range(50, 150), "audio_seconds": 9.0}],
)
def test_length_in_matroska_is_that_of_the_video(settings: dict[str, Any], tagged: bool, tmp_path: Path) -> None:
    data = write_clip(tmp_path / "a.mkv", range(100), **settings).read_bytes()
    clip = Clip(source=data if tagged else data.replace(b"DURATION", b"DURATIO_"))
    header = read_header(clip)
    assert header.duration_seconds == pytest.approx(4.0, abs=0.002)
    assert header.frames == 100
    assert header.video_tokens(BUDGET) == decode(clip, BUDGET).video_tokens


@pytest.mark.parametrize(("name", "codec"), [("a.flv", "libx264"), ("a.nut", "mpeg4"), ("untagged.mkv", "libx264")])
def test_sound_that_goes_on_is_no_part_of_the_video(name: str, codec: str, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mkv", range(100), codec=codec, keyframe_every=20, b_frames=0)

    def change(packets: list[bytes]) -> list[bytes]:
        return [data[:4] + bytes(len(data) - 4) if number == 90 else data for number, data in enumerate(packets)]

    sound = copy_packets(whole, tmp_path / name, list, audio_seconds=20.0).read_bytes()
    header = read_header(Clip(source=sound.replace(b"DURATION", b"DURATIO_")))
    assert header.frames == 100
    assert header.duration_seconds == pytest.approx(4.0, abs=0.05)
    damaged = copy_packets(whole, tmp_path / f"damaged_{name}", change, audio_seconds=20.0).read_bytes()
    clip = Clip(source=damaged.replace(b"DURATION", b"DURATIO_"))
    share = decode(clip, replace(BUDGET, min_decoded=0.5)).decoded_share
    assert share is not None
    assert 0.79 < share < 0.91


def test_share_of_a_part_of_matroska_is_that_of_the_video(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "a.mkv", range(100), keyframe_every=20, options={"x264-params": "scenecut=0"})

    def change(packets: list[bytes]) -> list[bytes]:
        return [data[:4] + bytes(len(data) - 4) if number == 90 else data for number, data in enumerate(packets)]

    damaged = copy_packets(whole, tmp_path / "b.mkv", change, audio_seconds=20.0)
    frames = decode(Clip(source=str(damaged)), replace(BUDGET, min_decoded=0.5))
    assert frames.decoded_share == pytest.approx(0.8, abs=0.01)


def test_odd_pixels_and_turned_pictures(tmp_path: Path) -> None:
    for file in (
        write_clip(tmp_path / "wide.mp4", range(60), size=(320, 180), aspect=Fraction(2)),
        write_clip(tmp_path / "turned.mp4", range(60), size=(320, 180), turn=1),
    ):
        clip = Clip(source=str(file))
        assert read_header(clip).video_tokens(BUDGET) == decode(clip, BUDGET).video_tokens


def test_what_is_wrong_is_told(tmp_path: Path) -> None:
    whole = write_clip(tmp_path / "whole.mp4", range(60), container_options={"movflags": "faststart"})
    matroska = write_clip(tmp_path / "whole.mkv", range(60))
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path / "cut.mp4").write_bytes(whole.read_bytes()[:-2000])
    (tmp_path / "cut.mkv").write_bytes(matroska.read_bytes()[: matroska.stat().st_size // 2])
    write_clip(tmp_path / "one.mp4", [1])
    write_audio(tmp_path / "sound.mp4")
    cases = {
        "text.mp4": ("unreadable", "cannot be opened as a video"),
        "cut.mp4": ("decode", "is cut short: it states frames behind its"),
        "cut.mkv": ("decode", "is cut short: .* bytes that it states are there"),
        "one.mp4": ("too_short", "has 1 frame; at least 2 are needed"),
        "sound.mp4": ("no_video", "has no video stream, only audio"),
        "none.mp4": ("missing", "there is no such file"),
    }
    for name, (kind, words) in cases.items():
        with pytest.raises(ClipError, match=words) as caught:
            read_header(Clip(source=str(tmp_path / name)))
        assert caught.value.kind == kind, name


def test_trouble_of_other_kinds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clip = Clip(source=str(write_clip(tmp_path / "a.mp4")))
    for error, kind, words in (
        (OSError(5, "Input/output error"), "unreadable", r"a\.mp4 cannot be opened as a video: Input/output error\."),
        (RuntimeError("odd"), "crashed", r"a\.mp4: its decoder crashed \(RuntimeError: odd\)\."),
    ):

        def fail(*_: object, error: Exception = error) -> float:
            raise error

        monkeypatch.setattr(headers, "stated_seconds", fail)
        with pytest.raises(ClipError, match=words) as caught:
            read_header(clip)
        assert caught.value.kind == kind


def test_in_a_process_of_its_own(tmp_path: Path) -> None:
    file = write_clip(tmp_path / "a.mp4")
    pool = DecoderPool(seconds=30, max_memory=1 << 30)
    header = read_header(Clip(source=str(file)))
    assert pool.read_header(Clip(source=str(file))) == header
    assert pool.read_header(Clip(source=file.read_bytes())) == header
    assert pool.decode(Clip(source=str(file)), BUDGET, threads=1).video_tokens == header.video_tokens(BUDGET)
    with pytest.raises(ClipError, match="there is no such file"):
        pool.read_header(Clip(source=str(tmp_path / "b.mp4")))
