"""When frames are shown, and packets that are no frames."""

import logging
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import cast

import av
import pytest
from av.container import InputContainer
from av.video.stream import VideoStream
from clips import VOP, copy_packets, pack_b_frames, read_numbers, repeat_last, write_clip
from decoding import BUDGET, EVERY_FRAME, decoded

from reelscribe.values import Clip
from reelscribe.video import decode as decode_module
from reelscribe.video.decode import decode
from reelscribe.video.index import packets_of

# Times


def test_frames_of_a_variable_rate_are_spread_over_time(tmp_path: Path) -> None:
    times = [0, 10, 20, 30, 40, 1000, 1010, 1020, 2000, 2500, 2510, 4000]
    for name, codec in (("variable.mp4", "libx264"), ("variable.mkv", "libx264"), ("variable.avi", "mpeg4")):
        b_frames = 0 if codec == "mpeg4" else 2
        file = write_clip(tmp_path / name, range(12), codec=codec, b_frames=b_frames, rate=1000, times=times)
        frames = decoded(file, replace(BUDGET, fps=2))
        assert read_numbers(frames.pixels) == [0, 4, 7, 8, 10, 11]
        assert frames.timestamps == (0.0, 0.04, 1.02, 2.0, 2.51, 4.0)


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_frame_of_a_stream_that_starts_late(name: str, tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / name, times=range(100, 130)))
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.timestamps == pytest.approx([0, 0.2, 0.44, 0.68, 0.92, 1.16])
    assert frames.duration_seconds == pytest.approx(1.2)


def test_frames_that_an_edit_list_hides_are_not_shown(tmp_path: Path) -> None:
    options = {"avoid_negative_ts": "disabled"}
    frames = decoded(write_clip(tmp_path / "edited.mp4", times=range(-10, 20), container_options=options), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(10, 30))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(20)])
    assert frames.duration_seconds == pytest.approx(0.8)


def test_an_edit_list_that_ends_early_is_no_damage(tmp_path: Path) -> None:
    data = bytearray(write_clip(tmp_path / "whole.mp4", range(100)).read_bytes())
    at = data.index(b"elst") + 12  # type, flags, count; then the length, in milliseconds
    data[at : at + 4] = (1000).to_bytes(4)
    frames = decode(Clip(source=bytes(data)), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(len(frames.pixels)))
    assert frames.duration_seconds == pytest.approx(1.0, abs=0.05)


@pytest.mark.parametrize("name", ["sound.mp4", "sound.mkv", "sound.ts"])
def test_sound_that_is_longer_than_the_picture_is_no_damage(name: str, tmp_path: Path) -> None:
    frames = decoded(write_clip(tmp_path / name, audio_seconds=5.0))
    assert read_numbers(frames.pixels) == [0, 5, 11, 17, 23, 29]
    assert frames.duration_seconds == pytest.approx(1.2)


def test_the_frames_of_files_joined_end_to_end_are_counted(tmp_path: Path) -> None:
    part = write_clip(tmp_path / "part.mpg", codec="mpeg2video", keyframe_every=10).read_bytes()
    frames = decode(Clip(source=part + part), EVERY_FRAME)
    assert read_numbers(frames.pixels) == [*range(30), *range(30)]
    assert frames.duration_seconds == pytest.approx(2.4)


# Packets that are no frames


def test_a_packet_that_repeats_the_last_frame_leaves_that_on_screen(tmp_path: Path) -> None:
    repeated = (5, 10, 11, 12, 29)
    numbers = [number for number in range(30) if number not in repeated]
    shown = [max(n for n in numbers if n <= number) for number in range(30)]
    source = write_clip(tmp_path / "source.mp4", shown, codec="mpeg4", b_frames=0)

    def repeat(packets: list[bytes]) -> list[bytes]:
        return [repeat_last(data) if number in repeated else data for number, data in enumerate(packets)]

    for name in ("repeats.mp4", "repeats.avi"):
        frames = decoded(copy_packets(source, tmp_path / name, repeat), EVERY_FRAME)
        assert read_numbers(frames.pixels) == numbers
        assert frames.timestamps == pytest.approx([number / 25 for number in numbers])


def test_a_packet_without_a_picture_gives_the_frame_that_is_on_screen(tmp_path: Path) -> None:
    source = write_clip(tmp_path / "source.webm", codec="libvpx")

    def hide(packets: list[bytes]) -> list[bytes]:  # the bit of VP8 that says whether a frame is shown
        return [bytes([data[0] & ~0x10]) + data[1:] if number == 11 else data for number, data in enumerate(packets)]

    frames = decoded(copy_packets(source, tmp_path / "hidden.webm", hide))
    assert read_numbers(frames.pixels) == [0, 5, 10, 17, 23, 29]


def test_frames_that_divx_packed_together_are_told_apart(tmp_path: Path) -> None:
    options = {"b_strategy": "0", "sc_threshold": "1000000000"}
    source = write_clip(tmp_path / "source.avi", codec="mpeg4", b_frames=1, options=options)
    packed = copy_packets(source, tmp_path / "packed.avi", pack_b_frames)
    with av.open(str(packed)) as container:
        assert max(bytes(packet).count(VOP) for packet in container.demux(video=0)) == 2
    frames = decoded(packed, EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(30))
    assert frames.timestamps == pytest.approx([number / 25 for number in range(30)])


def test_keyframes_that_decoding_cannot_start_at_cost_time_but_no_frame(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(decode_module, "_WHOLE_PACKETS", 0)
    # Here a part of the picture is refreshed in each frame, and the keyframes only begin another round.
    options = {"x264-params": "intra-refresh=1:keyint=10"}
    file = write_clip(tmp_path / "refreshed.mp4", range(128), options=options)
    with caplog.at_level(logging.DEBUG):
        frames = decoded(file, replace(BUDGET, fps=1.1))
    assert read_numbers(frames.pixels) == [0, 42, 84, 127]
    assert "once more, by a plainer way: " in caplog.text


def test_a_stream_that_turns_up_late_does_not_end_the_reading(plain: Path) -> None:
    class Container:
        """Breaks off behind the last packet, as PyAV does when a stream turned up that was not there at the start."""

        def demux(self, stream: VideoStream) -> Iterator[int]:
            yield from (1, 2, 3)
            raise IndexError("list index out of range")

    packets = packets_of(cast(InputContainer, Container()), cast(VideoStream, None))
    assert len(list(packets)) == 3
