"""Clips of which one packet is damaged, each packet in turn: what we make of them, and what a plain decode says."""

import io
import random
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from av.codec.context import ThreadType
from av.video.frame import VideoFrame
from clips import copy_packets, write_clip
from decoding import EVERY_FRAME

from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import decode as decode_module
from reelscribe.video.decode import decode
from reelscribe.video.sampling import FrameBudget

X264 = {"preset": "medium", "threads": "1"}
CLIPS: dict[str, dict[str, Any]] = {
    "h264.mp4": {"options": X264, "b_frames": 3},
    "h264_open_groups.mkv": {"options": {**X264, "x264-params": "open-gop=1"}, "b_frames": 3},
    "h264_without_b_frames.mp4": {"options": {**X264, "tune": "zerolatency"}, "b_frames": 0},
    "hevc.mp4": {"codec": "libx265", "b_frames": 3},
    "mpeg4.mp4": {"codec": "mpeg4"},
    "mpeg2.mkv": {"codec": "mpeg2video"},
    "mpeg1.mkv": {"codec": "mpeg1video"},
    "vp8.webm": {"codec": "libvpx"},
    "vp9.webm": {"codec": "libvpx-vp9"},
    "av1.mkv": {"codec": "libsvtav1"},
}
"""Of the codecs for which PyAV brings an encoder."""

Change = Callable[[bytes, random.Random], bytes]


def zero_behind_length(data: bytes, _: random.Random) -> bytes:
    return data[:4].ljust(len(data), b"\0")


def zero_behind_header(data: bytes, _: random.Random) -> bytes:
    return data[:16].ljust(len(data), b"\0")


def zero_second_half(data: bytes, _: random.Random) -> bytes:
    return data[: len(data) // 2].ljust(len(data), b"\0")


def halve(data: bytes, _: random.Random) -> bytes:
    return data[: -(-len(data) // 2)]


def flip_a_bit(data: bytes, rng: random.Random) -> bytes:
    changed = bytearray(data)
    changed[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
    return bytes(changed)


def overwrite(data: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(data))
    return (data[:at] + rng.randbytes(8) + data[at + 8 :])[: len(data)]


def as_unreferenced(data: bytes, _: random.Random) -> bytes:
    """H.264 with lengths: the slices say that no other picture refers to theirs (nal_ref_idc)."""
    changed, at = bytearray(data), 0
    while at < len(data):
        if data[at + 4] & 0x1F in (1, 5):
            changed[at + 4] &= 0x9F
        at += 4 + int.from_bytes(data[at : at + 4])
    return bytes(changed)


CHANGES: tuple[Change, ...] = (
    zero_behind_length, zero_behind_header, zero_second_half, halve, flip_a_bit, overwrite,
)  # fmt: skip


def pan(number: int, width: int, height: int) -> VideoFrame:
    """A rough texture that a camera pans over: every frame is another one."""
    coarse = np.random.default_rng(0).integers(0, 256, (height // 8 + 16, width // 8 + 16), np.uint8)
    ground = VideoFrame.from_ndarray(coarse, format="gray").reformat(width=width + 128, height=height + 128)
    x, y = number * 3 % 128, number * 2 % 128
    grey = ground.to_ndarray()[y : y + height, x : x + width]
    planes = np.concatenate([grey, np.full((height // 2, width), 128, np.uint8)])
    return VideoFrame.from_ndarray(np.ascontiguousarray(planes), format="yuv420p")


def damaged(file: Path, change: Change) -> Iterator[bytes | None]:
    """The file with one packet damaged, for each packet; None if there is no such file."""
    with av.open(str(file)) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    whole, target = file.read_bytes(), file.with_stem("damaged")
    for number, data in enumerate(packets):
        bad = change(data, random.Random(f"{file.name}, {number}"))
        if bad == data:
            continue
        if len(bad) == len(data) and whole.count(data) == 1:
            yield whole.replace(data, bad)
            continue
        with_bad = [*packets[:number], bad, *packets[number + 1 :]]
        try:
            yield copy_packets(file, target, partial(_instead, with_bad)).read_bytes()
        except av.FFmpegError:  # the muxer finds it damaged
            yield None


def _instead(packets: list[bytes], _: list[bytes]) -> list[bytes]:
    return packets


def reported(data: bytes) -> bool:
    """Whether a plain decode reports damage: an error, a frame that it marks, or fewer frames than packets."""
    packets, frames = 0, 0
    try:
        with av.open(io.BytesIO(data), "r") as container:
            stream = container.streams.video[0]
            stream.codec_context.thread_count, stream.codec_context.thread_type = 1, ThreadType.NONE
            for packet in container.demux(stream):
                packets += packet.size > 0
                for frame in packet.decode():
                    if frame.is_corrupt:
                        return True
                    frames += 1
    except av.FFmpegError:
        return True
    return frames < packets


def evenly(count: int) -> FrameBudget:
    return replace(EVERY_FRAME, fps=1e-6, min_frames=count, max_frames=count)


def damage_each_packet(
    folder: Path,
    name: str,
    *,
    changes: Collection[Change] = CHANGES,
    frames: int = 48,
    counts: Collection[int] = (4, 6, 10, 1000),
    min_decoded: float = 1.0,
    whole_packets: int = 750,
    threads: int = 1,
) -> Counter[str]:
    """Damage a clip's packets one at a time, and look at the frames that come of it.

    Args:
        folder: for files.
        name: of `CLIPS`.
        changes: ways to damage a packet.
        frames: of the clip; every half of it begins with a keyframe.
        counts: numbers of frames to ask for.
        min_decoded: share that is enough.
        whole_packets: up to how many a clip counts as short, and is decoded whole.
        threads: of the decoder.

    Returns:
        How often a plain decode reported damage, or was silent, and we gave right or wrong frames or a failure.
    """
    settings = {"size": (128, 96), "rate": 24, "keyframe_every": frames // 2, "paint": pan, **CLIPS[name]}
    file = write_clip(folder / name, range(frames), **settings)
    whole = decode(Clip(source=str(file)), EVERY_FRAME)
    right = {round(second, 3): pixels for second, pixels in zip(whole.timestamps, whole.pixels, strict=True)}
    assert len(right) == frames
    assert not reported(file.read_bytes())
    tally = Counter[str]()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(decode_module, "_WHOLE_PACKETS", whole_packets)
        for change in changes:
            for data in damaged(file, change):
                if data is None:
                    tally["no such file"] += 1
                    continue
                says = "reported" if reported(data) else "silent"
                for count in counts:
                    try:
                        found = decode(
                            Clip(source=data), replace(evenly(count), min_decoded=min_decoded), threads=threads
                        )
                    except ClipError as error:
                        tally[f"{says}, {'failure' if error.kind == 'decode' else error.kind}"] += 1
                        continue
                    same = all(
                        (expected := right.get(round(second, 3))) is not None and np.array_equal(expected, pixels)
                        for second, pixels in zip(found.timestamps, found.pixels, strict=True)
                    )
                    part = "" if found.decoded_share is None else " part"
                    tally[f"{says}, {'right' if same else 'wrong'}{part}"] += 1
    return tally
