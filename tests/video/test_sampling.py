"""Which frames are looked at, and at which size."""

import itertools
import math
import random
from dataclasses import replace
from typing import Any

import pytest

from reelscribe.config import Settings
from reelscribe.errors import ClipError, SettingsError
from reelscribe.video.sampling import (
    FrameBudget,
    FramesAt,
    OwnSize,
    VisionLimits,
    count_video_tokens,
    fit_resolution,
    pick_frames,
)

BUDGET = FrameBudget(fps=2, min_frames=4, max_frames=768, max_video_tokens=8192, limits=VisionLimits())
SIZES = [(1920, 1080), (1080, 1920), (1280, 720), (854, 480), (640, 480), (176, 144), (64, 64), (33, 31), (4096, 2160)]
EXTREME_SIZES = [(1, 1), (2, 4000), (4000, 2), (16, 16), (10_000, 64), (31, 32)]
FRAMES = [2, 4, 7, 60, 768]
TOKENS = [1, 3, 64, 1000, 8192, 24_576]


def budgets() -> list[FrameBudget]:
    return [
        replace(BUDGET, max_video_tokens=tokens, limits=VisionLimits(token_pixels=side, max_frame_tokens=most))
        for tokens, side, most in itertools.product(TOKENS, (28, 32), (16, 768))
    ]


def at_rate(rate: float, seconds: float) -> list[float]:
    return [number / rate for number in range(round(rate * seconds))]


@pytest.mark.parametrize(
    ("size", "fitted"), [((4000, 400), (1540, 168)), ((400, 4000), (168, 1540)), ((56, 84), (56, 84))]
)
def test_a_side_is_no_longer_than_the_checkpoint_takes(size: tuple[int, int], fitted: tuple[int, int]) -> None:
    budget = replace(BUDGET, limits=VisionLimits(token_pixels=28, temporal_patch=1, longest_side=1540))
    assert fit_resolution(*size, 1, budget) == fitted


@pytest.mark.parametrize("frames", FRAMES)
@pytest.mark.parametrize("size", SIZES + EXTREME_SIZES)
def test_a_size_is_whole_tokens_within_the_budget_and_never_blown_up(size: tuple[int, int], frames: int) -> None:
    for budget in budgets():
        if frames > 2 * budget.max_video_tokens:
            continue  # pick_frames never picks so many
        side = budget.limits.token_pixels
        width, height = fit_resolution(*size, frames, budget)
        assert width % side == height % side == 0
        assert width > 0 < height
        assert width < size[0] + side
        assert height < size[1] + side
        assert width * height <= budget.limits.max_frame_tokens * side**2
        assert count_video_tokens(width, height, frames, budget.limits) <= budget.max_video_tokens
        assert frames * width * height * 3 <= budget.max_bytes


@pytest.mark.parametrize("size", SIZES)
def test_a_picture_keeps_its_shape_and_uses_what_it_may(size: tuple[int, int]) -> None:
    for tokens in range(100, 769):
        width, height = fit_resolution(*size, 2, replace(BUDGET, max_video_tokens=tokens))
        columns, rows = (max(length / 32, 1) for length in size)
        share = width * height / 32**2 / min(columns * rows, tokens)
        assert share > 0.85
        assert abs(math.log(width / height / (columns / rows))) < 0.1


def test_a_picture_within_the_budget_is_rounded_to_the_nearest_tokens() -> None:
    assert fit_resolution(640, 480, 4, BUDGET) == (640, 480)
    assert fit_resolution(650, 470, 4, BUDGET) == (640, 480)
    assert fit_resolution(160, 120, 4, BUDGET) == (160, 128)


def test_one_side_gives_way_where_both_cannot_be_rounded_up() -> None:
    # 174 tokens: 832x192 would be 17% too wide.
    assert fit_resolution(1142, 314, 2, replace(BUDGET, max_video_tokens=174)) == (768, 224)


def test_longer_clips_have_smaller_pictures() -> None:
    areas = [math.prod(fit_resolution(1920, 1080, frames, BUDGET)) for frames in (2, 20, 60, 200, 768)]
    assert areas == sorted(areas, reverse=True)
    assert areas[0] > 10 * areas[-1]


@pytest.mark.parametrize(("frames", "merged"), [(1, 1), (2, 1), (3, 2), (60, 30)])
def test_frames_cost_their_tokens_in_pairs(frames: int, merged: int) -> None:
    assert count_video_tokens(640, 352, frames, VisionLimits()) == merged * 20 * 11


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 2.4, 10, 600])
@pytest.mark.parametrize("rate", [1, 12.5, 30, 60])
@pytest.mark.parametrize("fps", [0.1, 2, 7, 1000])
def test_picks_are_within_the_limits_ascending_and_reach_both_ends(rate: float, seconds: float, fps: float) -> None:
    timestamps = at_rate(rate, seconds)
    budget = replace(BUDGET, fps=fps, max_frames=100)
    picked = pick_frames(timestamps, seconds, budget)
    assert picked == sorted(set(picked))
    assert len(picked) <= 100
    assert len(picked) >= min(len(timestamps), 4)
    if timestamps:
        assert (picked[0], picked[-1]) == (0, len(timestamps) - 1)
    if len(picked) < len(timestamps):
        assert len(picked) % 2 == 0
        assert len(picked) == min(max(int(seconds * fps + 1e-6) // 2 * 2, 4), 100)


def test_a_clip_of_few_frames_gives_them_all() -> None:
    assert pick_frames(at_rate(25, 0.12), 0.12, BUDGET) == [0, 1, 2]
    assert pick_frames([0.0, 5.0, 7.5, 8.0, 12.0], 20.0, BUDGET) == [0, 1, 2, 3, 4]


def test_no_more_frames_are_picked_than_tokens_can_pay_for() -> None:
    assert len(pick_frames(at_rate(30, 60), 60, replace(BUDGET, max_video_tokens=5))) == 10


def test_frames_of_a_steady_clip_are_at_even_distances() -> None:
    picked = pick_frames(at_rate(30, 10), 10, BUDGET)
    steps = {later - earlier for earlier, later in itertools.pairwise(picked)}
    assert len(picked) == 20
    assert steps <= {15, 16}


def test_frames_of_a_variable_rate_are_spread_over_time_not_over_numbers() -> None:
    burst = [number / 1000 for number in range(1000)]  # a thousand frames in the first second
    timestamps = [*burst, *range(1, 11)]
    picked = [timestamps[number] for number in pick_frames(timestamps, 11.0, replace(BUDGET, fps=1))]
    assert len(picked) == 10
    assert all(1 <= later - earlier <= 2 for earlier, later in itertools.pairwise(picked))


def test_each_pick_is_the_frame_on_screen_at_an_even_time() -> None:
    rng = random.Random(3)
    for _ in range(50):
        timestamps = sorted({0.0, *(round(rng.uniform(0, 20), 3) for _ in range(rng.randrange(30, 300)))})
        picked = pick_frames(timestamps, timestamps[-1] + 0.04, replace(BUDGET, fps=1))
        count = int(timestamps[-1] + 0.04) // 2 * 2
        targets = [timestamps[-1] * step / (count - 1) for step in range(count)]
        on_screen = {max(n for n, time in enumerate(timestamps) if time <= target + 1e-9) for target in targets}
        assert picked == sorted(on_screen)


def test_a_run_s_settings_win_over_the_checkpoint_s_limits() -> None:
    limits = VisionLimits(min_frames=8, max_frames=64)
    own = FrameBudget.of(Settings(), limits)
    assert (own.fps, own.min_frames, own.max_frames, own.max_video_tokens) == (2.0, 8, 64, 8192)
    told = FrameBudget.of(Settings(fps=1, min_frames=2, max_frames=6, max_video_tokens=100), limits)
    assert (told.fps, told.min_frames, told.max_frames, told.max_video_tokens) == (1, 2, 6, 100)
    assert FrameBudget.of(Settings(max_frames=4), limits).min_frames == 4
    assert FrameBudget.of(Settings(min_frames=100), limits).max_frames == 100


def test_a_budget_tells_itself_in_plain_words() -> None:
    assert str(BUDGET) == (
        "2 frames a second, 4 to 768 of them, at most 8,192 vision tokens a clip and 768 for each 2 frames"
    )


@pytest.mark.parametrize("rate", [23.976, 25, 29.97, 60, 120, 240])
def test_frames_at_recorded_times_are_those_that_were_picked(rate: float) -> None:
    timestamps = at_rate(rate, 9)
    picked = pick_frames(timestamps, 9.0, BUDGET)
    again = FramesAt(seconds=tuple(round(timestamps[at], 3) for at in picked), max_width=64, max_height=64)
    assert again.pick(timestamps, 9.0) == picked


@pytest.mark.parametrize("second", [-1.0, 0.02, 1.0])
def test_a_time_at_which_no_frame_is_shown_is_another_video(second: float) -> None:
    with pytest.raises(ClipError, match=f"no frame is shown at {second:g} s: the file is not the one") as caught:
        FramesAt(seconds=(second,), max_width=64, max_height=64).pick(at_rate(25, 0.5), 0.5)
    assert caught.value.kind == "decode"


@pytest.mark.parametrize(
    ("size", "small"),
    [((1920, 1080), (199, 112)), ((1080, 1920), (63, 112)), ((64, 64), (64, 64)), ((4000, 2), (200, 1))],
)
def test_small_pictures_keep_their_shape(size: tuple[int, int], small: tuple[int, int]) -> None:
    assert FramesAt(seconds=(), max_width=200, max_height=112).fit(*size, 8) == small


@pytest.mark.parametrize(
    ("rate", "seconds", "changes", "thinned"),
    [
        (25, 384, {}, False),
        (25, 385, {}, True),
        (1, 2000, {}, True),
        (1, 700, {}, False),  # all that it has
        (25, 10, {"max_frames": 8}, True),
        (25, 4, {"max_frames": 8}, False),
        (25, 10, {"max_video_tokens": 9}, True),
        (25, 10, {"max_video_tokens": 10}, False),
        (25, 1, {"min_frames": 20}, False),
    ],
)
def test_a_clip_is_thinned_if_the_budget_keeps_it_from_the_rate(
    rate: float, seconds: float, changes: dict[str, Any], thinned: bool
) -> None:
    budget = replace(BUDGET, **changes)
    times = at_rate(rate, seconds)
    assert budget.thins(len(times), seconds) is thinned
    got = len(budget.pick(times, seconds))
    assert thinned == (got < min(int(2 * seconds), len(times)) - 1)


@pytest.mark.parametrize(
    ("size", "frames", "changes", "shrunk"),
    [
        ((1920, 1080), 32, {}, False),
        ((1920, 1080), 40, {}, True),
        ((4096, 2160), 4, {}, False),  # the checkpoint's ceiling, which is no matter of the budget
        ((4096, 2160), 60, {}, True),
        ((64, 64), 768, {}, False),
        ((320, 240), 4, {"max_video_tokens": 4}, True),
        ((0, 0), 4, {"max_video_tokens": 4}, False),
    ],
)
def test_a_picture_is_shrunk_if_the_budget_leaves_less_than_a_quarter(
    size: tuple[int, int], frames: int, changes: dict[str, Any], shrunk: bool
) -> None:
    budget = replace(BUDGET, **changes)
    assert budget.shrinks(size[0], size[1], frames) is shrunk
    assert budget.shrinks(size[1], size[0], frames) is shrunk
    assert FramesAt(seconds=(), max_width=1, max_height=1).shrinks(*size, frames) is False


class TestOwnSizes:
    """Checkpoints that bring frames to a size of their own: the number of frames gives way to the budget."""

    FIXED = VisionLimits(own_size=OwnSize(pixels=448, frame_tokens=256, clip_tokens=3))
    SHAPED = VisionLimits(own_size=OwnSize(pixels=432, frame_tokens=70, step=48))
    ROUNDED = VisionLimits(own_size=OwnSize(pixels=448, frame_tokens=72, step=56, rounded=True))

    @pytest.mark.parametrize("tokens", [259, 600, 2051, 24_576])
    @pytest.mark.parametrize("limits", [FIXED, SHAPED, ROUNDED])
    def test_a_clip_costs_no_more_than_the_budget(self, limits: VisionLimits, tokens: int) -> None:
        budget = FrameBudget.of(Settings(max_video_tokens=tokens, fps=4, max_frames=100), limits)
        picked = pick_frames(at_rate(25, 60), 60, budget)
        own = limits.own_size
        assert own
        assert len(picked) == budget.most_frames == min((tokens - own.clip_tokens) // own.frame_tokens, 100)
        for size in SIZES + EXTREME_SIZES:
            width, height = budget.fit(*size, len(picked))
            cost = count_video_tokens(width, height, len(picked), limits)
            assert cost <= budget.most_tokens <= tokens
            assert len(picked) * width * height * 3 <= budget.max_bytes

    def test_a_constant_a_frame(self) -> None:
        assert count_video_tokens(800, 450, 5, self.FIXED) == 5 * 256 + 3

    @pytest.mark.parametrize(
        ("size", "tokens"), [((224, 112), 5 * 11), ((200, 300), 6 * 10), ((1920, 1080), 6 * 11), ((40, 4000), 70)]
    )
    def test_what_a_shape_says(self, size: tuple[int, int], tokens: int) -> None:
        assert count_video_tokens(*size, 3, self.SHAPED) == 3 * tokens

    @pytest.mark.parametrize(
        ("size", "tokens"), [((448, 448), 8 * 8), ((64, 64), 8 * 8), ((1920, 1080), 6 * 11), ((400, 1600), 16 * 4)]
    )
    def test_what_a_shape_says_to_the_nearest_square(self, size: tuple[int, int], tokens: int) -> None:
        assert count_video_tokens(*size, 3, self.ROUNDED) == 3 * tokens

    @pytest.mark.parametrize("size", SIZES)
    def test_no_more_is_sent_than_is_of_use(self, size: tuple[int, int]) -> None:
        width, height = fit_resolution(*size, 8, replace(BUDGET, limits=self.FIXED))
        assert min(width, height) == min(*size, 448)
        assert abs(math.log(width / height * size[1] / size[0])) < 0.01

    @pytest.mark.parametrize("size", EXTREME_SIZES)
    def test_a_long_picture_is_cut_short(self, size: tuple[int, int]) -> None:
        width, height = fit_resolution(*size, 8, replace(BUDGET, limits=self.FIXED))
        assert 1 <= min(width, height) <= 448
        assert max(width, height) <= 4 * min(width, height)

    def test_frames_need_not_be_even(self) -> None:
        budget = FrameBudget.of(Settings(max_video_tokens=5 * 256 + 3), self.FIXED)
        assert len(pick_frames(at_rate(25, 60), 60, budget)) == 5

    def test_a_budget_that_no_frame_keeps_to(self) -> None:
        with pytest.raises(SettingsError, match="max_video_tokens is 258, but this model makes 256 vision tokens of"):
            FrameBudget.of(Settings(max_video_tokens=258), self.FIXED)

    def test_it_says_what_it_is(self) -> None:
        budget = FrameBudget.of(Settings(), self.FIXED)
        assert str(budget).endswith("vision tokens a clip and 256 for each frame")
        assert not budget.shrinks(4000, 3000, 500)
