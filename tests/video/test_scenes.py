"""Where a film changes from scene to scene, in small films that are joined here."""

import itertools
from collections.abc import Callable, Iterator, Sequence
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import pytest
from av.video.frame import VideoFrame
from clips import Pixels, cut, with_packet_overwritten, write_clip

from reelscribe.demo import prepare
from reelscribe.errors import ClipError
from reelscribe.values import Clip
from reelscribe.video import scenes
from reelscribe.video.likeness import small_pictures
from reelscribe.video.scenes import find_scenes

SIZE = WIDTH, HEIGHT = 160, 90
Shot = Callable[[int], Pixels]
"""Makes a frame by its number."""


def shot(seed: int, *, speed: float = 0.5, thing: bool = True) -> Shot:
    """A camera that pans over a landscape of light and dark, perhaps with a thing that stands before it."""
    rng = np.random.default_rng(seed)
    coarse = rng.integers(20, 236, (12, 40, 3), np.uint8)
    ground = VideoFrame.from_ndarray(coarse, format="rgb24").reformat(width=1200, height=HEIGHT).to_ndarray()
    color = rng.integers(0, 256, 3)

    def frame(number: int) -> Pixels:
        left = round(20 + speed * number)
        picture: Pixels = ground[:, left : left + WIDTH].copy().astype(np.uint8)
        if thing:
            picture[50:80, 60:90] = color
        return picture

    return frame


def joined(*lengths: int, first: int = 0) -> list[Pixels]:
    """Shots of these numbers of frames, one behind the other."""
    return [shot(first + number)(at) for number, length in enumerate(lengths) for at in range(length)]


def mixed(before: Sequence[Pixels], after: Sequence[Pixels]) -> list[Pixels]:
    """A dissolve."""
    shares = (np.arange(len(before)) + 1) / (len(before) + 1)
    return [
        (old * (1 - share) + new * share).astype(np.uint8)
        for share, old, new in zip(shares, before, after, strict=True)
    ]


def darkened(frames: Sequence[Pixels]) -> list[Pixels]:
    """A fade to black."""
    return mixed(frames, [np.zeros((HEIGHT, WIDTH, 3), np.uint8)] * len(frames))


def write(file: Path, frames: Sequence[Pixels], **options: object) -> Clip:
    """A film of pictures; options as of `write_clip`."""

    def paint(number: int, width: int, height: int) -> VideoFrame:
        return VideoFrame.from_ndarray(frames[number], format="rgb24").reformat(width=width, height=height)

    return Clip(source=str(write_clip(file, range(len(frames)), size=SIZE, paint=paint, **options)))  # type: ignore[arg-type]


def starts(clip: Clip) -> list[float]:
    return [scene.start_seconds for scene in find_scenes(clip)]


def edges(clip: Clip) -> list[float]:
    """When scenes start, and when the last one ends."""
    found = find_scenes(clip)
    return [*(scene.start_seconds for scene in found), found[-1].end_seconds]


# What is a change


def test_hard_cuts_are_where_the_new_scene_starts(tmp_path: Path) -> None:
    clip = write(tmp_path / "film.mp4", joined(40, 25, 60))
    found = find_scenes(clip)
    assert [scene.start_seconds for scene in found] == pytest.approx([0, 1.6, 2.6])
    assert [scene.end_seconds for scene in found] == pytest.approx([1.6, 2.6, 5.0])


def test_a_cut_between_small_things_on_the_same_ground_is_one(tmp_path: Path) -> None:
    film = np.full((80, HEIGHT, WIDTH, 3), 10, np.uint8)
    film[:40, 30:55, 20:45] = 145, 40, 190
    film[40:, 40:65, 110:135] = 240, 215, 30
    assert starts(write(tmp_path / "film.mp4", list(film))) == pytest.approx([0, 1.6])


def test_a_dissolve_is_one_change_in_its_middle(tmp_path: Path) -> None:
    before, after = [shot(1)(at) for at in range(70)], [shot(2)(at) for at in range(70)]
    for length in (8, 16, 32):
        film = [*before[:-length], *mixed(before[-length:], after[:length]), *after[length:]]
        _, second = starts(write(tmp_path / "film.mp4", film))
        assert second * 25 == pytest.approx(70 - length / 2, abs=2)


@pytest.mark.parametrize(("length", "black"), [(6, 0), (12, 5), (24, 20)])
def test_a_fade_through_black_is_one_change_where_it_is_black(length: int, black: int, tmp_path: Path) -> None:
    before, after = joined(60, first=3), joined(60, first=4)
    fade = [*darkened(before[-length:]), *[np.zeros_like(before[0])] * black, *darkened(after[:length][::-1])[::-1]]
    _, second = starts(write(tmp_path / "film.mp4", [*before[:-length], *fade, *after[length:]]))
    assert second * 25 == pytest.approx(60 + black / 2, abs=2)


def test_black_at_the_beginning_and_the_end_is_no_scene(tmp_path: Path) -> None:
    frames = joined(60)
    film = [
        *[np.zeros_like(frames[0])] * 10,
        *darkened(frames[:10][::-1])[::-1],
        *frames[10:50],
        *darkened(frames[50:]),
    ]
    assert starts(write(tmp_path / "film.mp4", film)) == [0.0]


# What is none


def flash(frames: list[Pixels]) -> list[Pixels]:
    """Three frames, much lighter."""
    return [
        (frame * (3.0 if 30 <= number < 33 else 1)).clip(0, 255).astype(np.uint8) for number, frame in enumerate(frames)
    ]


def blink(frames: list[Pixels]) -> list[Pixels]:
    """Four frames, black."""
    return [frame * (not 30 <= number < 34) for number, frame in enumerate(frames)]


def lighter(frames: list[Pixels]) -> list[Pixels]:
    """Slowly, two thirds as light again, while nothing moves."""
    return [(frames[0] * (0.6 + 0.4 * number / len(frames))).astype(np.uint8) for number in range(len(frames))]


def other_light(frames: list[Pixels]) -> list[Pixels]:
    """From one frame to the next."""
    return [(frame * (1 if number < 30 else 0.5)).astype(np.uint8) for number, frame in enumerate(frames)]


def fast_pan(frames: list[Pixels]) -> list[Pixels]:
    """Ten frames, in each of which the camera goes on by a tenth of the picture."""
    return [shot(5)(number + 32 * min(max(number - 30, 0), 10)) for number in range(len(frames))]


def swing(frames: list[Pixels]) -> list[Pixels]:
    """The camera moves all the time, and for three frames far."""
    camera = shot(5, speed=4, thing=False)
    return [camera(number + 6 * min(max(number - 40, 0), 3)) for number in range(len(frames))]


def small_thing(frames: list[Pixels]) -> list[Pixels]:
    """One that moves before a plain ground."""
    made = [np.full_like(frame, 128) for frame in frames]
    for number, frame in enumerate(made):
        frame[30:50, 10 + number : 30 + number] = 230, 40, 40
    return made


def growing_thing(frames: list[Pixels]) -> list[Pixels]:
    """One that grows before a plain ground, by half."""
    made = [np.full_like(frame, 245) for frame in frames]
    for number, frame in enumerate(made):
        half = round(22 * (1 + 0.5 * number / len(made)))
        frame[45 - half : 45 + half, 70 - half : 70 + half] = 220, 30, 30
    return made


@pytest.mark.parametrize(
    "change", [list, flash, blink, lighter, other_light, fast_pan, swing, small_thing, growing_thing]
)
def test_what_happens_within_a_scene_is_no_change(
    change: Callable[[list[Pixels]], list[Pixels]], tmp_path: Path
) -> None:
    assert starts(write(tmp_path / "film.mp4", change(joined(90, first=5)))) == [0.0]


def test_the_clips_of_the_demo_are_single_shots(tmp_path: Path) -> None:
    _, rendered = prepare(tmp_path, clips=8, seed=3)
    for name in rendered:
        assert starts(Clip(source=name, root=tmp_path)) == [0.0], rendered[name].caption


# On the file's clock


@pytest.mark.parametrize("name", ["film.mp4", "film.mkv", "film.ts", "film.avi"])
def test_times_are_those_of_frames_in_any_container(name: str, tmp_path: Path) -> None:
    codec = {"codec": "mpeg4", "b_frames": 0} if name.endswith("avi") else {"b_frames": 3}
    clip = write(tmp_path / name, joined(40, 30), **codec)
    assert edges(clip) == pytest.approx([0, 1.6, 2.8])


@pytest.mark.parametrize("name", ["late.mp4", "late.mkv", "late.ts"])
def test_times_count_from_the_first_frame(name: str, tmp_path: Path) -> None:
    clip = write(tmp_path / name, joined(40, 30), times=range(100, 170))
    assert edges(clip) == pytest.approx([0, 1.6, 2.8])


def test_what_an_edit_list_hides_is_no_scene(tmp_path: Path) -> None:
    options = {"avoid_negative_ts": "disabled"}
    clip = write(tmp_path / "edited.mp4", joined(20, 40, 30), times=range(-20, 70), container_options=options)
    assert starts(clip) == pytest.approx([0, 1.6])


def test_a_variable_rate_gives_the_time_at_which_the_scene_starts(tmp_path: Path) -> None:
    steps = itertools.accumulate(itertools.cycle([20, 60, 40]), initial=0)
    times = list(itertools.islice(steps, 90))
    found = find_scenes(write(tmp_path / "variable.mkv", joined(50, 40), rate=1000, times=times))
    assert [scene.start_seconds for scene in found] == pytest.approx([0, times[50] / 1000])


@pytest.mark.parametrize("rate", [12, 50, 120])
def test_cuts_are_exact_at_any_rate(rate: int, tmp_path: Path) -> None:
    lengths = [rate * 3 // 2 + 1, rate + 2, rate * 2]
    clip = write(tmp_path / "film.mp4", joined(*lengths), rate=rate)
    assert [start * rate for start in starts(clip)] == pytest.approx([0, lengths[0], sum(lengths[:2])])


# On the way


def test_blocks_of_a_long_film_do_not_matter(monkeypatch: pytest.MonkeyPatch) -> None:
    rng = np.random.default_rng(9)
    lengths = rng.integers(20, 60, 12).tolist()
    frames = [VideoFrame.from_ndarray(frame, format="rgb24") for frame in joined(*lengths)]
    whole = scenes.find_changes(small_pictures(frames))
    assert whole == list(itertools.accumulate(lengths))[:-1]
    monkeypatch.setattr(scenes, "_CORE", 50)
    assert scenes.find_changes(small_pictures(frames)) == whole


def test_few_pictures_are_in_memory_at_once() -> None:
    alive = 0
    most = 0

    class Counted(np.ndarray[tuple[int, ...], np.dtype[np.uint8]]):
        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def pictures() -> Iterator[np.ndarray[tuple[int, ...], np.dtype[np.uint8]]]:
        nonlocal alive, most
        for _ in range(3000):
            alive += 1
            most = max(most, alive)
            yield np.zeros((3, 27, 48), np.uint8).view(Counted)

    assert scenes.find_changes(pictures()) == []
    assert most < 700


def test_damage_is_a_failure(tmp_path: Path) -> None:
    clip = write(tmp_path / "film.mp4", joined(40, 30), container_options={"movflags": "faststart"})
    short = cut(clip.path, tmp_path / "short.mp4", keep=0.6)
    with pytest.raises(ClipError) as caught:
        find_scenes(Clip(source=str(short)))
    assert caught.value.kind == "decode"
    with pytest.raises(ClipError) as caught:
        find_scenes(Clip(source=str(tmp_path / "none.mp4")))
    assert caught.value.kind == "missing"


def test_a_frame_that_cannot_be_decoded_is_a_failure(tmp_path: Path) -> None:
    clip = write(tmp_path / "film.mp4", joined(40, 30))
    damaged = with_packet_overwritten(clip.path, tmp_path / "damaged.mp4", 55)
    with pytest.raises(ClipError) as caught:
        find_scenes(Clip(source=damaged.read_bytes()))
    assert caught.value.kind == "decode"


def test_high_bit_depths_are_read(tmp_path: Path) -> None:
    file = tmp_path / "deep.mkv"
    with av.open(str(file), "w") as container:
        stream = container.add_stream("ffv1", rate=25)
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv422p10le"
        stream.codec_context.time_base = Fraction(1, 25)
        for frame in joined(40, 30):
            container.mux(stream.encode(VideoFrame.from_ndarray(frame, format="rgb24").reformat(format="yuv422p10le")))
        container.mux(stream.encode())
    assert starts(Clip(source=str(file))) == pytest.approx([0, 1.6])
