"""Where stretches of a film are drawn: lines of its clock, and rows for what overlaps."""

import random

import pytest

from reelscribe.report.timeline import Span, clock, lines_of

NOTHING: list[Span[int]] = []


def _spans(*times: tuple[float, float]) -> list[Span[int]]:
    return [Span(start=start, end=end, what=number) for number, (start, end) in enumerate(times)]


def _drawn(*times: tuple[float, float], seconds: float) -> list[tuple[int, float, float, int]]:
    (line,) = lines_of(_spans(*times), NOTHING, seconds)
    return [(piece.what, piece.left, piece.width, piece.row) for piece in line.clips.pieces]


def test_stretches_lie_on_the_clock_of_the_film() -> None:
    assert _drawn((0, 10), (10, 15), (50, 100), seconds=100) == [(0, 0, 10, 0), (1, 10, 5, 0), (2, 50, 50, 0)]


def test_what_overlaps_is_in_rows_of_its_own_whatever_the_order() -> None:
    times = [(10, 30), (0, 20), (20, 40), (30, 50), (5, 25)]
    assert [(what, row) for what, *_, row in _drawn(*times, seconds=100)] == [(1, 0), (4, 1), (0, 2), (2, 0), (3, 1)]


def test_what_is_too_short_to_be_seen_is_drawn_wider_and_beside_others() -> None:
    drawn = _drawn((0, 0.1), (0.1, 0.2), (99.99, 100), seconds=100)
    assert drawn == [(0, 0, 1, 0), (1, 0.1, 1, 1), (2, 99, 1, 0)]


def test_an_end_past_that_of_the_film_is_drawn_at_its_end() -> None:
    assert _drawn((90, 100.7), seconds=100) == [(0, 90, 10, 0)]


def test_many_stretches_are_drawn_in_lines_of_round_length() -> None:
    lines = lines_of(_spans(*((float(start), start + 10.0) for start in range(0, 7190, 10))), NOTHING, 7190)
    assert [line.start for line in lines] == [300 * number for number in range(24)]
    assert {len(line.clips.pieces) for line in lines[:-1]} == {30}
    assert {line.clips.rows for line in lines} == {1}
    assert [line.filled for line in lines] == [100] * 23 + [pytest.approx(290 / 3, abs=0.001)]


def test_a_stretch_goes_on_in_the_next_line_and_lines_without_any_are_left_out() -> None:
    many = [(float(start), start + 1.0) for start in range(41)]
    lines = lines_of(_spans(*many, (55, 65), (179.5, 180)), NOTHING, 180)
    assert [(line.start, line.after_gap) for line in lines] == [(0, False), (30, False), (60, False), (150, True)]
    across = [(line.start, piece.is_first, piece.width) for line in lines for piece in line.clips.pieces]
    long = [
        told
        for told, piece in zip(across, (p for line in lines for p in line.clips.pieces), strict=True)
        if piece.what == 41
    ]
    assert [(start, first) for start, first, _ in long] == [(30, True), (60, False)]


def test_events_have_rows_of_their_own() -> None:
    (line,) = lines_of(_spans((0, 10)), _spans((2, 4), (3, 5), (20, 21)), 100)
    assert [(piece.left, piece.row) for piece in line.events.pieces] == [(2, 0), (3, 1), (20, 0)]
    assert (line.clips.rows, line.events.rows) == (1, 2)


def test_lines_stay_few_and_nothing_in_them_overlaps() -> None:
    for seed in range(100):
        draw = random.Random(seed)
        seconds = 10 ** draw.uniform(-1, 8.9)
        starts = [draw.choice([draw.uniform(0, seconds), draw.gauss(seconds / 2, 1e-4) % seconds]) for _ in range(300)]
        spans = _spans(*((start, start + draw.expovariate(1 / draw.choice([1, seconds]))) for start in starts))
        lines = lines_of(spans, NOTHING, seconds)
        assert len(lines) <= 61
        firsts = [piece.what for line in lines for piece in line.clips.pieces if piece.is_first]
        assert sorted(firsts) == list(range(300))
        for line in lines:
            rows: dict[int, float] = {}
            for piece in line.clips.pieces:
                assert piece.left >= max(rows.get(piece.row, 0.0) - 0.06, 0)
                assert piece.left + piece.width <= 100.001
                rows[piece.row] = piece.left + piece.width


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        (0, "0:00"),
        (9.5, "0:09.5"),
        (59.9996, "1:00"),
        (61.25, "1:01.25"),
        (3600, "1:00:00"),
        (86399.999, "23:59:59.999"),
    ],
)
def test_clock(seconds: float, shown: str) -> None:
    assert clock(seconds) == shown
