"""Who decodes what: neighbours in a film stay with one decoder."""

import itertools

from reelscribe.values import Clip
from reelscribe.video.turns import next_turn


def part(start: float, film: str = "a") -> Clip:
    return Clip(source=film, start_seconds=start, end_seconds=start + 1)


def parts(*starts: float, film: str = "a") -> list[Clip]:
    return [part(start, film) for start in starts]


def test_whole_files_are_taken_in_their_order() -> None:
    files = [Clip(source=name) for name in "abc"]
    assert next_turn(files, Clip(source="z"), [Clip(source="y")]) == 0


def test_a_decoder_goes_on_in_its_film() -> None:
    assert next_turn([*parts(0, 1, film="b"), *parts(5, 4, 3)], part(2), [part(0, "c")]) == 4


def test_a_decoder_leaves_what_another_is_on_its_way_to() -> None:
    assert next_turn([*parts(9, 10), Clip(source="c")], part(2), [part(8)]) == 2


def test_one_without_a_film_begins_another() -> None:
    assert next_turn([*parts(1, 2), *parts(0, 1, film="b")], None, [part(0)]) == 2


def test_it_takes_over_half_of_the_longest_way() -> None:
    assert next_turn([*parts(1, 2, film="b"), *parts(*range(1, 9))], None, [part(0), part(0, "b")]) == 6
    assert next_turn(parts(1), None, [part(0)]) == 0


def test_what_comes_before_all_decoders_is_nobody_s() -> None:
    assert next_turn(parts(7, 2), part(6, "b"), [part(5)]) == 1


def test_bytes_are_taken_in_their_order() -> None:
    waiting = [Clip(source=b"video", start_seconds=start) for start in (3.0, 1.0)]
    assert next_turn(waiting, Clip(source=b"video", start_seconds=0.5), []) == 0


def test_two_decoders_go_through_a_film_with_few_jumps() -> None:
    """Each time one is done, it takes the next of 64 clips, of which 32 may wait."""
    film = parts(*range(64))
    waiting, last, taken = film[:32], dict[int, Clip](), dict[int, list[float]]({0: [], 1: []})
    for step in range(64):
        mine, other = step % 2, 1 - step % 2
        others = [last[other]] if other in last else []
        clip = waiting.pop(next_turn(waiting, last.get(mine), others))
        last[mine] = clip
        taken[mine].append(clip.start_seconds)
        waiting += film[32 + step : 33 + step]
    steps = [after - before for starts in taken.values() for before, after in itertools.pairwise(starts)]
    jumps = sum(step != 1 for step in steps)
    assert jumps <= 6
