"""Which candidates are kept. SimHash is held against a computation of its own here, written from its description."""

import hashlib
from typing import get_args

import pytest
from flow import request

from reelscribe.selection import SELECTORS, simhash
from reelscribe.tasks import Keep


def _simhash_by_the_book(shingles: list[str]) -> int:
    """Sum the bits of all hashes as +1 or -1, column by column of their binary notation; a positive sum gives 1."""
    if not shingles:
        return 0
    rows = [bin(int(hashlib.md5(text.encode()).hexdigest()[:16], 16))[2:].zfill(64) for text in shingles]
    return int("".join("1" if column.count("1") > column.count("0") else "0" for column in zip(*rows, strict=True)), 2)


@pytest.mark.parametrize(
    ("text", "shingles"),
    [
        ("a sheep talks", ["a sheep", "sheep talks"]),
        ("A Sheep TALKS", ["a sheep", "sheep talks"]),
        ("two words", ["two words"]),
        ("a  b", ["a ", " b"]),
        (" a b ", [" a", "a b", "b "]),
        ("one two three four five", ["one two", "two three", "three four", "four five"]),
        ("Ein Schaf läuft über die Straße", ["ein schaf", "schaf läuft", "läuft über", "über die", "die straße"]),
        ("一只羊在说话", ["一只", "只羊", "羊在", "在说", "说话"]),
        ("一只 羊", ["一只", "只羊"]),
        ("羊が話す", ["羊が", "が話", "話す"]),
        ("แกะพูด", ["แก", "กะ", "ะพ", "พู", "ูด"]),
        ("羊 A b", ["羊a", "ab"]),
    ],
)
def test_simhash_is_what_its_description_says(text: str, shingles: list[str]) -> None:
    expected = _simhash_by_the_book(shingles)
    assert simhash(text) == expected
    assert 0 < expected < 1 << 64


@pytest.mark.parametrize("text", ["", "sheep", "Supercalifragilistic", "羊"])
def test_less_than_two_words_or_characters_hash_to_0(text: str) -> None:
    assert simhash(text) == 0


def test_near_texts_differ_in_fewer_bits_than_unrelated_ones() -> None:
    for text, near, far in [
        (
            "a large red circle moves to the left on a white ground",
            "a small red circle moves to the left on a white ground",
            "people dance at night while somebody plays the violin near a fire",
        ),
        (
            "一个红色的大圆在白色的地面上向左移动",
            "一个红色的小圆在白色的地面上向左移动",
            "夜晚人们在篝火旁伴着小提琴的声音跳舞",
        ),
    ]:
        assert (simhash(text) ^ simhash(near)).bit_count() < (simhash(text) ^ simhash(far)).bit_count()


def test_half_a_surrogate_pair_can_be_hashed() -> None:
    assert simhash("a \ud83d sheep") > 0


def test_every_mode_of_the_settings_has_a_function() -> None:
    assert set(SELECTORS) == set(get_args(Keep))


def test_similar_one_keeps_the_nearest_to_the_original_text() -> None:
    texts = ["two dogs run in the snow", "a sheep talks to a dog", "nothing at all happens"]
    for wanted, reference in enumerate(["two dogs run in snow", "a sheep talks to a cat", "nothing at all"]):
        kept, reason = SELECTORS["similar_one_simhash"](texts, request(reference=reference))
        distances = [(simhash(text) ^ simhash(reference)).bit_count() for text in texts]
        assert kept == (wanted,)
        assert reason == f"nearest to the original text: {min(distances)} of 64 bits differ"


def test_similar_one_sees_a_difference_in_chinese() -> None:
    texts = ["夜晚人们在篝火旁跳舞", "一只羊在草地上说话", "两只狗在雪地里奔跑"]
    assert SELECTORS["similar_one_simhash"](texts, request(reference="一只羊在山坡上说话"))[0] == (1,)


def test_ties_go_to_the_earliest() -> None:
    texts = ["nothing at all happens", "a sheep talks", "A SHEEP TALKS"]
    assert SELECTORS["similar_one_simhash"](texts, request(reference="a sheep talks"))[0] == (1,)
    assert SELECTORS["similar_one_simhash"](["sheep", "dog"], request(reference="cow"))[0] == (0,)


def test_random_any_draws_every_candidate_by_seed_alone() -> None:
    texts = ["a", "b", "c"]
    drawn = [SELECTORS["random_any"](texts, request(seed=seed))[0] for seed in range(60)]
    assert set(drawn) == {(0,), (1,), (2,)}
    assert min(drawn.count((number,)) for number in range(3)) >= 10
    again = [SELECTORS["random_any"](texts, request(seed=seed, key="other"))[0] for seed in range(60)]
    assert again == drawn


def test_random_any_says_whether_there_was_a_choice() -> None:
    assert SELECTORS["random_any"](["a"], request()) == ((0,), "the only candidate")
    assert SELECTORS["random_any"](["a", "b"], request())[1] == "drawn from 2 candidates"


def test_all_keeps_all_in_order() -> None:
    assert SELECTORS["all"](["b", "a", "b"], request()) == ((0, 1, 2), "all candidates are kept")
