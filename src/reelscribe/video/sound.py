"""The sound of a clip: one channel, at the rate that a model takes, and exactly as long as the clip's pictures.

Sound and pictures share the file's clock. Parts without sound, and gaps, become silence; `Sound.heard` says so. Damaged
sound is a ClipError.
"""

import contextlib
from collections.abc import Iterator
from fractions import Fraction
from itertools import chain
from typing import Final, Literal, TypeAlias

import av
import numpy as np
from av.audio.frame import AudioFrame
from av.audio.resampler import AudioResampler
from av.audio.stream import AudioStream
from av.container import InputContainer
from av.packet import Packet
from numpy.typing import NDArray

from reelscribe.errors import ClipError
from reelscribe.values import Clip, Sound
from reelscribe.video.opening import open_clip, reason, video_stream
from reelscribe.video.sampling import Hearing

_JITTER_SECONDS: Final = 0.01
"""Maximum seconds by which a block may begin too early or too late and still follow the one before: Matroska and FLV
round times to milliseconds. A missing packet is still noticed, since the shortest usual one lasts 20 ms."""
_LACKING_SECONDS: Final = 0.1
"""Seconds of sound that may be missing from a clip: tracks may end a few packets before the pictures."""
_ROLL_SECONDS: Final = 0.5
"""Seconds before a stretch at which decoding begins, since packets depend on earlier ones (Opus needs 80 ms)."""
_LEAST_ROLL_SECONDS: Final = 0.1
_FAR_SECONDS: Final = 10.0
"""Sound before a stretch is skipped by a seek if it is longer than this."""
_LOUDEST: Final = 100.0
"""Maximum absolute value of a sample; larger ones count as damage. Full scale is 1; lossy codecs exceed it a little,
and files of float samples may hold any value."""
_CAREFUL: Final = {"err_detect": "crccheck+explode"}
"""Decoder options that make FFmpeg check checksums, which FLAC and AC-3 have. AAC decoders notice most damage without
them; damage within packets of Opus, MP3 and PCM cannot be noticed."""
_PIECE: Final = 1 << 16
"""Number of samples that are resampled at a time."""

Samples: TypeAlias = NDArray[np.float32]
Packets: TypeAlias = "Iterator[Packet[AudioStream]]"


def read_sound(clip: Clip, span: tuple[float, float] | None, hearing: Hearing) -> Sound:
    """Decode the sound of a clip.

    Args:
        clip: the clip.
        span: start and end of its pictures on the file's clock, in seconds; None if they are not known.
        hearing: sample rate and token limit of the model's sound input.

    Raises:
        ClipError: kind "decode" if the sound is damaged, or if it is not known which part of it goes with the pictures;
            "too_large" if it costs too many tokens.
    """
    with open_clip(clip) as container:
        if _sound_stream(container, clip) is None:
            return _nothing(hearing.rate, "no track")
    if span is None:
        raise ClipError(
            "decode",
            f"{clip.name}: its pictures have no times, or their clock jumps, so that it is not known which sound goes "
            "with them. Leave audio out, or make an MP4 of it.",
        )
    start, end = span
    cost = hearing.tokens(end - start)
    if hearing.max_tokens is not None and cost > hearing.max_tokens:
        raise ClipError(
            "too_large",
            f"{clip.name}: {end - start:,.1f} seconds of sound cost {cost:,} tokens; max_video_tokens allows "
            f"{hearing.max_tokens:,}. Raise it, or caption shorter clips (--split).",
        )
    return _read(clip, start, end, hearing.rate)


def _read(clip: Clip, start: float, end: float, rate: int) -> Sound:
    blocks = _blocks(clip, start, end)
    first = next(blocks, None)
    if first is None:
        return _nothing(rate, "no sound")
    track = _Track(first.sample_rate, rate, end - start)
    for block in chain([first], blocks):
        if block.sample_rate != track.own_rate:
            rates = f"{track.own_rate} to {block.sample_rate}"
            raise ClipError("decode", f"{clip.name}: its sound changes from {rates} samples a second on the way.")
        begins = None if block.pts is None or block.time_base is None else block.pts * float(block.time_base)
        samples = _one_channel(block)
        if not (np.abs(samples) <= _LOUDEST).all():
            raise _damaged(clip, begins, "it has samples far beyond full scale, or that are no numbers")
        track.put(None if begins is None else begins - start, samples)
    if not track.covered:
        return _nothing(rate, "no sound")
    lacking = end - start - track.covered / track.own_rate
    heard: Literal["heard", "partly"] = "partly" if track.has_gap or lacking > _LACKING_SECONDS else "heard"
    return Sound(samples=track.finished(), rate=rate, heard=heard)


def _nothing(rate: int, why: Literal["no sound", "no track"]) -> Sound:
    return Sound(samples=np.empty(0, np.float32), rate=rate, heard=why)


def _sound_stream(container: InputContainer, clip: Clip) -> AudioStream | None:
    """The track that players play with the pictures; None if the file has no sound.

    Raises:
        ClipError: kind "decode", if there is no decoder for the sound.
    """
    stream = container.streams.best("audio", related=video_stream(container, clip))
    if not isinstance(stream, AudioStream):
        if container.streams.audio:
            raise ClipError("decode", f"{clip.name}: there is no decoder for its sound; leave audio out.")
        return None
    return stream


def _blocks(clip: Clip, start: float, end: float) -> Iterator[AudioFrame]:
    """Decoded blocks of samples, from before a stretch to its end. If a seek misses, all of the file is read."""
    for seek in (True, False):
        with open_clip(clip) as container:
            stream = _sound_stream(container, clip)
            assert stream is not None
            packets = _packets_before(container, stream, start) if seek else container.demux(stream)
            if packets is not None:
                yield from _decoded(clip, stream, packets, start, end)
                return


def _packets_before(container: InputContainer, stream: AudioStream, start: float) -> "Packets | None":
    """Packets from shortly before a stretch on; None if there is no way to them but from the start of the file."""
    begin = float(container.start_time or 0) / av.time_base
    if start - begin < _FAR_SECONDS or stream.time_base is None:
        return None
    with contextlib.suppress(av.FFmpegError):
        container.seek(int((start - _ROLL_SECONDS) / stream.time_base), stream=stream)
        packets = container.demux(stream)
        first = next(packets, None)
        if first and first.pts is not None and first.pts * stream.time_base <= start - _LEAST_ROLL_SECONDS:
            return chain([first], packets)
    return None


def _decoded(clip: Clip, stream: AudioStream, packets: Packets, start: float, end: float) -> Iterator[AudioFrame]:
    base = float(stream.time_base or 1)
    stream.codec_context.options = _CAREFUL
    for packet in packets:
        begins = None if packet.pts is None else packet.pts * base
        if begins is not None and begins >= end:
            yield from stream.decode(None)
            return
        # Ignore damage before the stretch: the first packets after a seek may lack the ones that they depend on.
        matters = begins is None or begins + (packet.duration or 0) * base > start
        try:
            blocks = packet.decode()
        except av.FFmpegError as exc:
            if matters:
                raise _damaged(clip, begins, reason(exc)) from exc
            continue
        if matters and (packet.is_corrupt or any(block.is_corrupt for block in blocks)):
            raise _damaged(clip, begins, "it is marked as such")
        yield from blocks


def _damaged(clip: Clip, seconds: float | None, why: str) -> ClipError:
    where = "" if seconds is None else f" at {seconds:.3f} s of the file's clock"
    return ClipError(
        "decode", f"{clip.name}: its sound is damaged{where}: {why}. Leave audio out to caption it without."
    )


def _one_channel(block: AudioFrame) -> Samples:
    """Mix all channels to one: float32, shape (samples,)."""
    [planar] = AudioResampler(format="fltp").resample(block)
    channels = planar.to_ndarray()
    mean: Samples = np.add.reduce(channels) / np.float32(len(channels))
    return mean


class _Track:
    """A track of fixed length that blocks are put on in order, and that is resampled.

    Args:
        own_rate: rate of the blocks, in samples a second.
        rate: rate of the result.
        seconds: length of the track.
    """

    def __init__(self, own_rate: int, rate: int, seconds: float) -> None:
        self.own_rate = own_rate
        self.covered = 0
        """Number of samples that are sound of the file, not inserted silence."""
        self.has_gap = False
        """Whether silence was inserted between blocks."""
        self._length, self._most = round(seconds * own_rate), round(seconds * rate)
        self._resampler = AudioResampler(format="flt", layout="mono", rate=rate) if rate != own_rate else None
        self._laid_out: list[Samples] = []
        self._reached = self._brought = 0
        """Samples put on the track so far, and how many of them were resampled."""
        self._next: int | None = None
        """Sample at which the next block should begin."""
        self._made: list[Samples] = []

    def put(self, seconds: float | None, samples: Samples) -> None:
        """Put a block on the track. Blocks must come in order; parts outside of the track are left out.

        Args:
            seconds: time of the block's first sample, from the start of the track; None to follow the block before.
            samples: float32, shape (samples,).
        """
        at = None if seconds is None else round(seconds * self.own_rate)
        if at is None or (self._next is not None and abs(at - self._next) <= _JITTER_SECONDS * self.own_rate):
            at = self._next or 0
        self._next = at + len(samples)
        begin, end = max(at, self._reached), min(self._next, self._length)
        if begin < end:
            self.has_gap |= begin > self._reached and self.covered > 0
            self._silence(begin)
            self._write(samples[begin - at : end - at])
            self.covered += end - begin

    def finished(self) -> Samples:
        """The whole track, resampled."""
        self._silence(self._length)
        self._bring()
        if self._resampler:
            self._take(self._resampler.resample(None))
        samples = np.zeros(self._most, np.float32)
        made = np.concatenate([samples[:0], *self._made])[: self._most]
        samples[: len(made)] = made  # rounding may leave it a sample short
        return samples

    def _silence(self, until: int) -> None:
        while self._reached < until:
            self._write(np.zeros(min(until - self._reached, _PIECE), np.float32))

    def _write(self, samples: Samples) -> None:
        self._laid_out.append(samples)
        self._reached += len(samples)
        if self._reached - self._brought >= _PIECE:
            self._bring()

    def _bring(self) -> None:
        """Resample what was put on the track, in large pieces, since each call of FFmpeg's filters costs time."""
        samples = np.concatenate([*self._laid_out, np.empty(0, np.float32)])
        self._laid_out.clear()
        if not self._resampler:
            self._made.append(samples)
        elif len(samples):
            frame = AudioFrame.from_ndarray(samples[None], format="flt", layout="mono")
            frame.sample_rate, frame.pts, frame.time_base = self.own_rate, self._brought, Fraction(1, self.own_rate)
            self._take(self._resampler.resample(frame))
        self._brought = self._reached

    def _take(self, frames: list[AudioFrame]) -> None:
        self._made += [frame.to_ndarray()[0] for frame in frames]
