"""Words, phrases, near duplicates and differences."""

import pytest

from reelscribe.report.words import differences, near_duplicates, opening, own_pieces, phrases
from reelscribe.words import words_of


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("A dog's well-lit bowl.", ["a", "dog's", "well-lit", "bowl"]),
        ("", []),
        ("... !", []),
        ("Ein Hund läuft, 3 Mal", ["ein", "hund", "läuft", "3", "mal"]),
        ("狗在跑 fast", ["狗", "在", "跑", "fast"]),
    ],
)
def test_words(text: str, words: list[str]) -> None:
    assert words_of(text) == words


def test_opening_is_the_first_three_words() -> None:
    assert opening(words_of("The video shows a dog.")) == "the video shows"
    assert opening(["one"]) == "one"


def test_phrases_have_four_words() -> None:
    assert list(phrases(list("abcde"))) == ["a b c d", "b c d e"]
    assert list(phrases(["too", "short"])) == []


def test_near_duplicates_are_grouped_the_largest_group_first() -> None:
    long = "a person walks along the beach at sunset while waves roll onto the sand and gulls circle above the cliffs"
    texts = ["one thing", f"{long} slowly", long, "another one entirely", long, "one thing", "word", "other"]
    assert near_duplicates(texts) == [[1, 2, 4], [0, 5]]


def test_differences_are_whole_words_and_give_the_second_text() -> None:
    first, second = "A person walks along the beach.", "A woman walks slowly along the beach!"
    pieces = differences(first, second)
    assert pieces == [
        ("same", "A "),
        ("gone", "person"),
        ("new", "woman"),
        ("same", " walks "),
        ("new", "slowly "),
        ("same", "along the beach"),
        ("gone", "."),
        ("new", "!"),
    ]


@pytest.mark.parametrize(("first", "second"), [("same", "same"), ("", "x"), ("x", ""), ("a  b\nc", "a b\tc d")])
def test_differences_lose_nothing(first: str, second: str) -> None:
    pieces = differences(first, second)
    assert "".join(text for kind, text in pieces if kind != "gone") == second
    assert "".join(text for kind, text in pieces if kind != "new") == first


def test_own_pieces_are_those_that_no_other_text_has() -> None:
    texts = ["A brown dog runs.", "A brown cat runs.", "A dog sleeps, 一只狗"]
    pieces = own_pieces(texts)
    assert ["".join(text for _, text in each) for each in pieces] == texts
    own = [[text.strip() for is_own, text in each if is_own and text.strip()] for each in pieces]
    assert own == [[], ["cat"], ["sleeps, 一只狗"]]
