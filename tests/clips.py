"""Small video files for tests, rendered on the spot, with each frame's number readable in its pixels.

A frame is a grid of four by four blocks, black or white. The upper eight spell the frame's number in bits, row by row
from the highest; the lower eight are their opposites. So a grey or mixed picture is no number at all, and a picture
that is turned or mirrored is none or another one.
"""

import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.stream import AudioStream
from av.container import OutputContainer
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

os.environ.setdefault("SVT_LOG", "1")  # or the AV1 encoder tells its whole configuration

Pixels = NDArray[np.uint8]
ENCODER_OPTIONS = {
    "libsvtav1": {"preset": "8", "crf": "20"},  # the quickest presets lose whole blocks
    # Threads of libvpx wait for each other without sleeping: two programs that encode make each other crawl.
    "libvpx": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libvpx-vp9": {"deadline": "realtime", "cpu-used": "8", "threads": "1"},
    "libx264": {"preset": "veryfast", "threads": "1", "b_strategy": "0"},  # so that slices do not depend on the machine
    "libx265": {"preset": "ultrafast", "x265-params": "log-level=none"},
}
VOP = b"\x00\x00\x01\xb6"
"""What an MPEG-4 frame starts with."""


def draw_number(number: int, width: int, height: int) -> Pixels:
    """A picture that spells a number from 0 to 255: uint8, shape (height, width, 3)."""
    bits = np.array([number >> shift & 1 for shift in range(7, -1, -1)], np.uint8)
    blocks = np.concatenate([bits, 1 - bits]).reshape(4, 4) * 255
    picture = blocks[np.arange(height) * 4 // height][:, np.arange(width) * 4 // width]
    return np.repeat(picture[:, :, None], 3, axis=2)


def read_number(picture: Pixels) -> int:
    """Read the number back, from a picture of any size, whatever compression and scaling did to it."""
    height, width, _ = picture.shape
    middles = [[(height * row // 8, width * column // 8) for column in (1, 3, 5, 7)] for row in (1, 3, 5, 7)]
    levels = np.array([[picture[at].mean() for at in row] for row in middles]).reshape(2, 8)
    white = levels > 128
    if np.abs(levels - 128).min() < 60 or (white[0] == white[1]).any():
        raise AssertionError(f"this picture spells no number; its blocks are at {levels.round().tolist()}")
    return int("".join("1" if bit else "0" for bit in white[0]), 2)


def read_numbers(pixels: Pixels) -> list[int]:
    """The numbers of frames: uint8, shape (frames, height, width, 3)."""
    return [read_number(picture) for picture in pixels]


def write_clip(
    file: Path,
    numbers: Iterable[int] = range(30),
    *,
    codec: str = "libx264",
    options: dict[str, str] | None = None,
    container_format: str | None = None,
    container_options: dict[str, str] | None = None,
    size: tuple[int, int] = (160, 120),
    rate: int = 25,
    times: Sequence[int] | None = None,
    keyframe_every: int = 250,
    b_frames: int = 2,
    turn: int = 0,
    mirrored: bool = False,
    aspect: Fraction | None = None,
    audio_seconds: float = 0.0,
    paint: Callable[[int, int, int], VideoFrame] | None = None,
) -> Path:
    """Render a clip whose frames spell numbers.

    Args:
        file: to write; its suffix names the container unless `container_format` does.
        numbers: one for each frame.
        codec: FFmpeg's name of the encoder.
        options: FFmpeg's options of the encoder.
        container_format: FFmpeg's name of the container.
        container_options: FFmpeg's options of the container.
        size: width and height of the pictures as stored, in pixels.
        rate: frames a second.
        times: when each frame is shown, in units of 1 / rate; one after the other by default.
        keyframe_every: frames from one keyframe to the next.
        b_frames: most frames in a row that refer to later ones.
        turn: quarter turns, counter-clockwise, that bring the stored pictures upright; the file's metadata says so.
        mirrored: whether they are to be mirrored, left to right, after that.
        aspect: width of a stored pixel divided by its height.
        audio_seconds: length of an audio track beside the video.
        paint: makes a frame from its number, width and height, in place of `draw_number`.

    Returns:
        `file`.
    """
    with av.open(str(file), "w", format=container_format, options=container_options or {}) as container:
        stream = _add_video(container, codec, rate, ENCODER_OPTIONS.get(codec, {}) | (options or {}))
        stream.width, stream.height = size
        stream.pix_fmt = "yuv420p"
        encoder = stream.codec_context
        encoder.time_base, encoder.gop_size, encoder.max_b_frames = Fraction(1, rate), keyframe_every, b_frames
        if aspect:
            encoder.sample_aspect_ratio = aspect
        if turn or mirrored:
            stream.set_display_rotation(90 * turn, hflip=mirrored)
        audio = container.add_stream("aac", rate=16000) if audio_seconds else None
        for place, number in enumerate(numbers):
            if paint:
                frame = paint(number, *size)
            else:
                picture = draw_number(number, *(reversed(size) if turn % 2 else size))
                stored = np.rot90(picture[:, ::-1] if mirrored else picture, -turn)
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(stored), format="rgb24")
            frame.pts = times[place] if times else place
            container.mux(stream.encode(frame))
        container.mux(stream.encode())
        if audio:
            _write_silence(container, audio, audio_seconds)
    return file


def write_audio(file: Path, *, codec: Literal["aac", "mp3"] = "aac", seconds: float = 1.0) -> Path:
    """Render silence."""
    with av.open(str(file), "w") as container:
        _write_silence(container, container.add_stream(codec, rate=16000), seconds)
    return file


def cut(source: Path, file: Path, *, keep: float) -> Path:
    """Copy the first part of a file, as an interrupted download leaves it."""
    data = source.read_bytes()
    file.write_bytes(data[: int(len(data) * keep)])
    return file


def with_packet_overwritten(
    source: Path, file: Path, number: int, *, value: int = 0, stream: Literal["video", "audio"] = "video"
) -> Path:
    """Copy a video and overwrite a packet, by number, but for its first four bytes, which say how long it is."""
    with av.open(str(source)) as container:
        at, size = [(packet.pos, packet.size) for packet in container.demux(**{stream: 0})][number]
    assert at is not None
    data = bytearray(source.read_bytes())
    data[at + 4 : at + size] = bytes([value]) * (size - 4)
    file.write_bytes(data)
    return file


def copy_packets(
    source: Path,
    file: Path,
    change: Callable[[list[bytes]], list[bytes]],
    *,
    all_keyframes: bool = False,
    audio_seconds: float = 0.0,
) -> Path:
    """Copy a clip, packet by packet, with their bytes changed.

    Args:
        source: to copy from.
        file: to write.
        change: takes the bytes of all packets in order of the file, and gives as many back.
        all_keyframes: whether the file is to say of every packet that it is a keyframe's.
        audio_seconds: length of an audio track beside the video.

    Returns:
        `file`.
    """
    with av.open(str(source)) as container, av.open(str(file), "w") as target:
        stream = container.streams.video[0]
        copied = target.add_stream_from_template(stream, opaque=True)
        audio = target.add_stream("aac", rate=16000) if audio_seconds else None
        packets = [packet for packet in container.demux(stream) if packet.size]
        for packet, data in zip(packets, change([bytes(packet) for packet in packets]), strict=True):
            fresh: Packet[Any] = Packet(data)
            fresh.stream, fresh.time_base = copied, packet.time_base
            fresh.pts, fresh.dts, fresh.duration = packet.pts, packet.dts, packet.duration
            fresh.is_keyframe = packet.is_keyframe or all_keyframes
            target.mux(fresh)
        if audio:
            _write_silence(target, audio, audio_seconds)
    return file


def repeat_last(data: bytes) -> bytes:
    """The packet of an MPEG-4 frame, changed to hold no picture of its own: the one before stays on screen.

    The frame's header goes on with two bits for its type, ones and a zero that count seconds, a one, five bits of time
    (at 25 frames a second), a one, and the bit that says whether a picture follows.
    """
    start = data.index(VOP) + 4
    bits = "".join(f"{byte:08b}" for byte in data[start : start + 8])
    kept = bits.index("0", 2) + 8
    bits = bits[:kept] + "0"
    bits += "0" + "1" * (7 - len(bits) % 8)
    return VOP + int(bits, 2).to_bytes(len(bits) // 8)


def pack_b_frames(packets: list[bytes]) -> list[bytes]:
    """Rearrange MPEG-4 packets as DivX wrote them into AVI: a frame that refers to a later one shares the later one's
    packet, and an empty packet follows.
    """
    mark = b"\x00\x00\x01\xb2DivX503b1393p"
    start = packets[0].index(VOP)
    packed, rest = [packets[0][:start] + mark + packets[0][start:]], packets[1:]
    while rest:
        if len(rest) > 1 and rest[1][rest[1].index(VOP) + 4] >> 6 == 2:  # its type: it refers to a later one
            packed += [rest[0] + rest[1], repeat_last(rest[0])]
            rest = rest[2:]
        else:
            packed.append(rest.pop(0))
    return packed


def _add_video(container: OutputContainer, codec: str, rate: int, options: dict[str, str]) -> VideoStream:
    return cast(VideoStream, container.add_stream(cast(Any, codec), rate=rate, options=options))


def _write_silence(container: OutputContainer, audio: AudioStream, seconds: float) -> None:
    for sound in _silence(seconds):
        container.mux(audio.encode(sound))
    container.mux(audio.encode())


def _silence(seconds: float) -> Iterator[AudioFrame]:
    for start in range(0, int(seconds * 16000), 1024):
        frame = AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate, frame.pts = 16000, start
        yield frame
