"""Clips whose beginning is lost: a failure, or a part whose times count from the beginning of the clip."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import pytest
from clips import copy_packets, read_numbers, write_clip
from decoding import BUDGET, EVERY_FRAME, decoded, failure

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import decode as decode_module
from reelscribe.video.decode import decode

PART = replace(EVERY_FRAME, min_decoded=0.2)
CALM = {"x264-params": "scenecut=0"}
OPEN_GROUPS = {"x264-params": "open-gop=1:keyint=20:min-keyint=20:scenecut=0:b-adapt=0:bframes=2"}
CODECS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": CALM},
    "h264.mkv": {"options": CALM},
    "h264.ts": {"options": CALM},
    "hevc.mkv": {"codec": "libx265"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg2.ts": {"codec": "mpeg2video"},
}


def without_first_packets(source: Path, file: Path, count: int) -> Path:
    """Copy a clip but for some packets at its start."""
    with av.open(str(source)) as container, av.open(str(file), "w") as target:
        stream = container.streams.video[0]
        copied = target.add_stream_from_template(stream, opaque=True)
        for number, packet in enumerate(packet for packet in container.demux(stream) if packet.size):
            if number >= count:
                packet.stream = copied
                target.mux(packet)
    return file


@pytest.mark.parametrize("name", CODECS)
def test_stream_that_starts_between_keyframes_has_lost_its_beginning(name: str, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / f"whole_{name}", range(60), keyframe_every=20, b_frames=0, **CODECS[name])
    file = without_first_packets(whole, tmp_path / name, 5)
    for budget in (BUDGET, replace(BUDGET, fps=0.1), EVERY_FRAME):
        error = failure(file, budget)
        assert error.kind == "decode"
        with pytest.raises(ClipError, match=r"begins between keyframes: its first 15 frames are lost\.$"):
            raise error
    frames = decoded(file, PART)
    assert read_numbers(frames.pixels) == list(range(20, 60))
    assert frames.timestamps == pytest.approx([number / 25 - 0.2 for number in range(20, 60)], abs=2e-3)
    assert frames.duration_seconds == pytest.approx(1.6, abs=0.01)
    assert frames.decoded_share == pytest.approx(40 / 55, abs=0.03)


def test_transport_stream_cut_in_the_middle_has_lost_its_beginning(tmp_path: Path) -> None:
    data = write_clip(tmp_path / "whole.ts", range(60), keyframe_every=20, options=CALM).read_bytes()
    packet = 188
    tables = data[: 3 * packet]
    cut = tables + data[len(data) // packet // 6 * packet :]
    assert failure(cut).kind == "decode"
    frames = decode(Clip(source=cut), PART)
    assert read_numbers(frames.pixels) == list(range(20, 60))
    assert 0 < frames.timestamps[0] < 0.8
    assert frames.timestamps[-1] - frames.timestamps[0] == pytest.approx(39 / 25)
    assert frames.decoded_share == pytest.approx(1.6 / (1.6 + frames.timestamps[0]), abs=0.02)


@pytest.mark.parametrize("name", [name for name in CODECS if name != "mpeg2.ts"])  # whose packets start codes part
def test_damaged_first_keyframe_costs_what_needs_it(name: str, tmp_path: Path) -> None:
    whole = write_clip(tmp_path / f"whole_{name}", range(60), keyframe_every=20, b_frames=0, **CODECS[name])
    file = copy_packets(
        whole, tmp_path / name, lambda packets: [packets[0][:4] + bytes(len(packets[0]) - 4), *packets[1:]]
    )
    for budget in (BUDGET, replace(BUDGET, fps=0.1), EVERY_FRAME):
        assert failure(file, budget).kind == "decode"
    frames = decoded(file, PART)
    assert read_numbers(frames.pixels) == list(range(20, 60))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(20, 60)], abs=2e-3)
    assert frames.decoded_share == pytest.approx(2 / 3, abs=0.03)


def test_longest_stretch_is_taken(tmp_path: Path) -> None:
    """Of five groups of pictures the first and the fourth are damaged: the second and third are the longest stretch."""
    whole = write_clip(tmp_path / "whole.mp4", range(100), keyframe_every=20, options=CALM)

    def change(packets: list[bytes]) -> list[bytes]:
        return [data[:4] + bytes(len(data) - 4) if at in (7, 65) else data for at, data in enumerate(packets)]

    frames = decoded(copy_packets(whole, tmp_path / "damaged.mp4", change), PART)
    assert read_numbers(frames.pixels) == list(range(20, 60))
    assert frames.timestamps[0] == pytest.approx(0.8)
    assert frames.decoded_share == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "settings"),
    [
        ("h264.mp4", {"options": OPEN_GROUPS}),
        ("h264.ts", {"options": OPEN_GROUPS}),
        ("hevc.mp4", {"codec": "libx265", "options": {"x265-params": "log-level=none:open-gop=1:keyint=20"}}),
        ("mpeg2.ts", {"codec": "mpeg2video", "keyframe_every": 20}),
    ],
)
def test_leading_frames_that_no_player_shows_are_no_loss(name: str, settings: dict[str, Any], tmp_path: Path) -> None:
    whole = write_clip(tmp_path / f"whole_{name}", range(60), **settings)
    with av.open(str(whole)) as container:
        packets = [packet for packet in container.demux(video=0) if packet.size]
    keyframe = [number for number, packet in enumerate(packets) if packet.is_keyframe][1]
    times = [packet.pts or 0 for packet in packets]
    leading = sum(pts < times[keyframe] for pts in times[keyframe:])
    assert leading or name == "mpeg2.ts"
    frames = decoded(without_first_packets(whole, tmp_path / name, keyframe), EVERY_FRAME)
    numbers = read_numbers(frames.pixels)
    assert numbers == list(range(numbers[0], 60))
    assert frames.timestamps[0] == 0.0


def test_keyframe_that_is_none_gives_no_made_up_frames(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", 0)  # as of a long clip
    whole = write_clip(tmp_path / "whole.mkv", range(60), codec="msmpeg4", b_frames=0)
    file = copy_packets(whole, tmp_path / "wrong.mkv", lambda packets: packets, all_keyframes=True)
    frames = decoded(file, replace(BUDGET, fps=1))
    assert read_numbers(frames.pixels) == [0, 19, 39, 59]
