"""Small video files with sound for tests: a sweep that differs in every second, so that each moment tells its time."""

from fractions import Fraction
from pathlib import Path
from typing import Any, cast

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.video.frame import VideoFrame
from clips import ENCODER_OPTIONS, draw_number
from numpy.typing import NDArray

Samples = NDArray[np.float32]
RATE = 16000
"""Samples a second that models take."""


def sweep(seconds: float, rate: int = RATE, start: float = 0.0) -> Samples:
    """A tone that rises by 1500 Hz in every second, from a pitch that is higher in each: float32, shape (samples,)."""
    time = start + np.arange(round(seconds * rate)) / rate
    second, within = np.floor(time), time % 1
    return np.asarray(0.5 * np.sin(2 * np.pi * ((300 + 170 * second) * within + 750 * within**2)), np.float32)


def write_film(
    file: Path,
    sound: Samples | None,
    *,
    rate: int = 48000,
    codec: str = "aac",
    layout: str = "mono",
    video: str = "libx264",
    seconds: float = 6.0,
    late: float = 0.0,
    start: float = 0.0,
    lacking: tuple[float, float] = (0.0, 0.0),
) -> Path:
    """Render a film of numbered frames, 10 a second, with sound.

    Args:
        file: to write.
        sound: float32, shape (samples,) for all channels alike, or (channels, samples).
        rate: its samples a second.
        codec: FFmpeg's name of the encoder of the sound.
        layout: of its channels.
        video: FFmpeg's name of the encoder of the pictures.
        seconds: of pictures.
        late: when the sound begins, in seconds after the pictures.
        start: when the pictures begin, in seconds.
        lacking: packets of sound that begin in between are left out.
    """
    with av.open(str(file), "w") as container:
        stream = cast(Any, container.add_stream(cast(Any, video), rate=10, options=ENCODER_OPTIONS.get(video, {})))
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        stream.codec_context.time_base, stream.codec_context.gop_size = Fraction(1, 10), 20
        track = None
        if sound is not None:
            track = cast(Any, container.add_stream(cast(Any, codec), rate=rate, layout=layout))
            track.codec_context.time_base = Fraction(1, rate)
        packets = []
        for number in range(round(seconds * 10)):
            frame = VideoFrame.from_ndarray(draw_number(number % 256, 64, 48), format="rgb24")
            frame.pts = number + round(start * 10)
            packets += stream.encode(frame)
        packets += stream.encode(None)
        if track is not None and sound is not None:
            channels = np.broadcast_to(sound, (len(track.layout.channels), sound.shape[-1]))
            resampler = av.AudioResampler(format=track.format, frame_size=track.codec_context.frame_size or 1024)
            block = AudioFrame.from_ndarray(np.ascontiguousarray(channels), format="fltp", layout=layout)
            block.sample_rate, block.time_base = rate, Fraction(1, rate)
            block.pts = round((start + late) * rate)
            sounding: list[Any] = []
            for made in [*resampler.resample(block), *resampler.resample(None)]:
                if made is not None:
                    sounding += track.encode(made)
            sounding += track.encode(None)
            packets += [each for each in sounding if not lacking[0] <= each.pts * each.time_base < lacking[1]]
        for packet in sorted(packets, key=lambda each: float(each.dts * each.time_base)):
            container.mux(packet)
    return file


def lag(heard: Samples, expected: Samples) -> float:
    """By how many milliseconds sound is later than it should be, to 1/16 of one."""
    size = len(heard) + len(expected)
    product = np.fft.rfft(heard, size) * np.conj(np.fft.rfft(expected, size))
    at = int(np.argmax(np.fft.irfft(product, size)))
    return 1000 * (at - size * (at > size // 2)) / RATE
