"""The sound of clips: cut to the clip by the clock of its pictures, at the rate of a model, told for what it is."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import av
import numpy as np
import pytest
from clips import with_packet_overwritten
from sounds import RATE, Samples, lag, sweep, write_film

from reelscribe.config import Settings
from reelscribe.errors import ClipError, SettingsError
from reelscribe.values import Clip, Sound
from reelscribe.video.decode import decode
from reelscribe.video.isolate import DecoderPool
from reelscribe.video.sampling import FrameBudget, Hearing, VisionLimits
from reelscribe.video.sound import read_sound

HEARING = Hearing(rate=RATE, tokens_per_second=13.0)
BUDGET = FrameBudget.of(Settings(audio=True, fps=5), VisionLimits(hearing=HEARING))
CLOSE_MS = 2.0
"""Matroska rounds times to milliseconds."""
KINDS: dict[str, dict[str, Any]] = {
    "aac.mp4": {},
    "aac_stereo.mp4": {"layout": "stereo", "rate": 44100},
    "aac.mkv": {"rate": 44100},
    "opus.webm": {"codec": "libopus", "video": "libvpx", "layout": "stereo"},
    "pcm.mkv": {"codec": "pcm_s16le", "layout": "stereo", "rate": 44100},
    "pcm.mov": {"codec": "pcm_s16le", "rate": RATE},
    "mp3.mkv": {"codec": "libmp3lame", "rate": 44100},
    "aac.ts": {"layout": "5.1"},
    "late.mkv": {"start": 3.0},
}


def heard(file: Path, start: float = 0.0, end: float | None = None) -> Sound:
    sound = decode(Clip(source=str(file), start_seconds=start, end_seconds=end), BUDGET).sound
    assert sound is not None
    return sound


def assert_like(samples: Samples, expected: Samples) -> None:
    assert len(samples) == len(expected)
    late = lag(samples, expected)
    assert abs(late) < CLOSE_MS
    assert np.corrcoef(samples, np.roll(expected, round(late * RATE / 1000)))[0, 1] > 0.97


@pytest.mark.parametrize("name", KINDS)
def test_a_clip_has_the_sound_of_its_own_stretch(folder: Path, name: str) -> None:
    told = KINDS[name]
    file = write_film(folder / name, sweep(6, told.get("rate", 48000)), **told)
    for start, end in ((0.0, None), (1.3, 4.1), (2.0, 2.5)):
        sound = heard(file, start, end)
        assert (sound.rate, sound.heard) == (RATE, "heard")
        assert_like(sound.samples, sweep((end or 6) - start, start=start))


def test_a_stretch_far_into_a_film_is_sought(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, codec in (("far.mp4", "aac"), ("far.mkv", "libopus"), ("far.ts", "libmp3lame")):
        file = write_film(folder / name, sweep(30, 48000), seconds=30, codec=codec)
        sought = heard(file, 20.25, 23.0)
        assert_like(sought.samples, sweep(2.75, start=20.25))
        with monkeypatch.context() as patched:
            patched.setattr("reelscribe.video.sound._FAR_SECONDS", 1e9)
            read = heard(file, 20.25, 23.0)
        assert_like(sought.samples, read.samples)


def test_neighbours_make_up_the_whole(folder: Path) -> None:
    file = write_film(folder / "whole.mkv", sweep(6, 44100), rate=44100)
    parts = [heard(file, start, start + 1.5).samples for start in (0.0, 1.5, 3.0, 4.5)]
    assert abs(np.concatenate(parts) - heard(file).samples).mean() < 1e-3


def test_all_channels_are_heard_alike(folder: Path) -> None:
    left = np.stack([sweep(2, RATE), np.zeros(2 * RATE, np.float32)])
    for name, channels in (("left.mkv", left), ("right.mkv", left[::-1])):
        file = write_film(folder / name, channels, rate=RATE, codec="pcm_s16le", layout="stereo", seconds=2)
        np.testing.assert_allclose(heard(file).samples, left[0] / 2, atol=1e-3)


class TestSilence:
    def test_before_sound_begins(self, folder: Path) -> None:
        file = write_film(folder / "late.mp4", sweep(4, 48000), late=2.0)
        sound = heard(file)
        assert sound.heard == "partly"
        assert not sound.samples[: round(1.9 * RATE)].any()
        assert_like(sound.samples, np.concatenate([np.zeros(2 * RATE, np.float32), sweep(4)]))
        assert heard(file, 2.5, 4.0).heard == "heard"

    def test_behind_its_end(self, folder: Path) -> None:
        file = write_film(folder / "short.mp4", sweep(3, 48000))
        sound = heard(file)
        assert sound.heard == "partly"
        assert_like(sound.samples, np.concatenate([sweep(3), np.zeros(3 * RATE, np.float32)]))
        assert not heard(file, 4.0, 5.0).samples.size
        assert heard(file, 4.0, 5.0).heard == "no sound"

    def test_in_a_gap(self, folder: Path) -> None:
        """As where a packet is missing: what comes behind stays where it is."""
        file = write_film(folder / "gap.mkv", sweep(6, 44100), rate=44100, codec="pcm_s16le", lacking=(2.0, 4.0))
        sound = heard(file)
        assert sound.heard == "partly"
        first, last = (round(second * RATE) for second in (2.0, 4.0))
        block = round(1024 / 44100 * RATE)
        assert not sound.samples[first + block : last - block].any()
        for part in (slice(0, first), slice(last + block, None)):
            assert_like(sound.samples[part], sweep(6)[part])

    def test_in_place_of_a_packet_is_told(self, folder: Path) -> None:
        file = write_film(folder / "lost.mkv", sweep(3, 48000), seconds=3, lacking=(1.49, 1.511))
        assert heard(file).heard == "partly"
        assert heard(file, 0.0, 1.4).heard == heard(file, 1.6, 3.0).heard == "heard"

    def test_without_a_track(self, folder: Path) -> None:
        sound = heard(write_film(folder / "mute.mp4", None))
        assert (sound.heard, sound.samples.size) == ("no track", 0)


@pytest.fixture(scope="module")
def damaged(folder: Path) -> Path:
    """A packet of sound at 3 seconds is lost."""
    source = write_film(folder / "good.mp4", sweep(6, 48000))
    return with_packet_overwritten(source, folder / "damaged.mp4", 141, value=255, stream="audio")


class TestDamage:
    def test_costs_the_clip(self, damaged: Path) -> None:
        for min_decoded in (1.0, 0.5):
            with pytest.raises(
                ClipError, match=r"its sound is damaged at 2\.98.* s of .*: Invalid data .* Leave audio out"
            ) as caught:
                decode(Clip(source=str(damaged)), replace(BUDGET, min_decoded=min_decoded))
            assert caught.value.kind == "decode"

    @pytest.mark.parametrize("codec", ["flac", "ac3"])
    def test_is_noticed_by_checksums(self, folder: Path, codec: str) -> None:
        source = write_film(folder / f"{codec}.mkv", sweep(2, 48000), codec=codec, seconds=2)
        with av.open(str(source)) as container:
            packets = [packet for packet in container.demux(audio=0) if packet.size]
            middle = packets[len(packets) // 2]
            assert middle.pos is not None
            at = middle.pos + middle.size // 2
        data = bytearray(source.read_bytes())
        data[at] ^= 1
        with pytest.raises(ClipError, match=r"its sound is damaged at "):
            decode(Clip(source=bytes(data)), BUDGET)

    def test_is_also_what_no_sound_can_be(self, folder: Path) -> None:
        sound = sweep(2, 48000)
        for value in (np.nan, np.inf, 1e30):
            sound[48000] = value
            file = write_film(folder / "loud.mkv", sound, codec="pcm_f32le", seconds=2)
            with pytest.raises(
                ClipError, match=r"its sound is damaged at .*: it has samples far beyond full scale, or"
            ):
                decode(Clip(source=str(file)), BUDGET)

    def test_costs_no_other_stretch_and_no_clip_that_is_not_heard(self, damaged: Path) -> None:
        for start, end in ((0.0, 2.5), (3.5, 6.0)):
            assert_like(heard(damaged, start, end).samples, sweep(end - start, start=start))
        assert decode(Clip(source=str(damaged)), replace(BUDGET, hearing=None)).sound is None

    def test_what_can_be_decoded_of_pictures_has_its_own_sound(self, folder: Path) -> None:
        source = write_film(folder / "pictures.mkv", sweep(6, 48000))
        broken = with_packet_overwritten(source, folder / "broken.mkv", 2, value=255)
        found = decode(Clip(source=str(broken)), replace(BUDGET, min_decoded=0.3))
        assert found.decoded_share is not None
        assert found.sound is not None
        start = found.timestamps[0]
        assert start > 1
        assert_like(found.sound.samples, sweep(found.duration_seconds, start=start))

    def test_a_clock_that_jumps_is_no_guess(self, plain: Path, folder: Path) -> None:
        with pytest.raises(ClipError, match="it is not known which sound goes with them"):
            read_sound(Clip(source=str(write_film(folder / "jumps.mp4", sweep(6, 48000)))), None, HEARING)
        assert read_sound(Clip(source=str(plain)), None, HEARING).heard == "no track"


def test_too_much_sound_for_the_budget_is_said(folder: Path) -> None:
    file = write_film(folder / "long.mp4", sweep(6, 48000))
    budget = FrameBudget.of(Settings(audio=True, max_video_tokens=64), VisionLimits(hearing=HEARING))
    with pytest.raises(ClipError, match=r"6\.0 seconds of sound cost 78 tokens; max_video_tokens allows 64") as caught:
        decode(Clip(source=str(file)), budget)
    assert caught.value.kind == "too_large"
    assert decode(Clip(source=str(file), start_seconds=1.0, end_seconds=5.0), budget).sound


def test_sound_comes_out_of_a_decoder_of_its_own(folder: Path) -> None:
    file = write_film(folder / "own.mp4", sweep(6, 48000))
    pool = DecoderPool(seconds=60, max_memory=1 << 30)
    frames = pool.decode(Clip(source=file.read_bytes(), start_seconds=1.0, end_seconds=3.0), BUDGET, threads=1)
    pool.close()
    assert frames.sound is not None
    assert_like(frames.sound.samples, sweep(2, start=1.0))
    assert frames.nbytes == frames.pixels.nbytes + 2 * RATE * 4


class TestBudget:
    def test_a_model_that_takes_no_sound_refuses(self) -> None:
        with pytest.raises(SettingsError, match="this model takes no sound with a video here; leave audio out"):
            FrameBudget.of(Settings(audio=True), VisionLimits())
        assert FrameBudget.of(Settings(), VisionLimits(hearing=HEARING)).hearing is None

    def test_the_sound_of_a_clip_counts(self) -> None:
        deaf = FrameBudget.of(Settings(fps=5), VisionLimits(hearing=HEARING))
        assert BUDGET.most_sound_tokens == 8192
        assert (BUDGET.max_bytes - deaf.max_bytes) == np.ceil(8192 / 13 * RATE) * 4
        assert deaf.most_sound_tokens == 0
