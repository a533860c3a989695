"""Which candidates are kept. SimHash is held against a computation of its own here, written from its description."""

import hashlib
import itertools
from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from flow import request

from reelscribe.selection import SELECTORS, Selection, chrf, simhash
from reelscribe.tasks import Keep
from reelscribe.values import Candidate, Request


def select(keep: str, texts: Sequence[str], asked: Request, scores: Sequence[float | None] = ()) -> Selection:
    """What a mode keeps of candidates with these texts."""
    candidates = [
        Candidate(text=text, stop_reason="stop", num_tokens=1, mean_logprob=score)
        for text, score in itertools.zip_longest(texts, scores)
    ]
    return SELECTORS[keep](candidates, asked)


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


def _chrf_by_the_book(text: str, reference: str) -> float:
    """Precision and recall of the n-grams of each length that both have, averaged; F1 of the two."""
    text, reference = text.replace(" ", ""), reference.replace(" ", "")
    precisions, recalls = [], []
    for length in range(1, min(len(text), len(reference), 6) + 1):
        said, wanted = (
            Counter(each[at : at + length] for at in range(len(each) + 1 - length)) for each in (text, reference)
        )
        precisions.append((said & wanted).total() / said.total())
        recalls.append((said & wanted).total() / wanted.total())
    precision, recall = (sum(shares) / max(len(shares), 1) for shares in (precisions, recalls))
    return 2 * precision * recall / (precision + recall) if precision else 0.0


CIRCLES = [
    "a large red circle moves to the left on a white ground",
    "a small red circle moves to the left on a white ground",
]


def test_chrf_is_what_its_description_says() -> None:
    texts = [*CIRCLES, "people dance at night", "一个红色的大圆在白色的地面上向左移动", "一个红色的小圆", "ab", "a"]
    for text, row in zip(texts, chrf(texts), strict=True):
        assert row == pytest.approx([_chrf_by_the_book(text, reference) for reference in texts])


def test_chrf_is_that_of_sacrebleu() -> None:
    """Of release 2.6, with `CHRF(word_order=0, beta=1)`."""
    scores = chrf([*CIRCLES, "people dance at night", "一个红色的大圆在白色的地面上向左移动", "一个红色的小圆"])
    expected = (0.8671837641648369, 0.09873347915154775, 0.24174440471190217)
    assert (scores[0, 1], scores[0, 2], scores[3, 4]) == pytest.approx(expected)
    assert (scores == scores.T).all()


def test_consensus_does_not_favour_the_longest() -> None:
    said = "a red ring moves left"
    texts = [said, f"{said} and a blue dog sings to the moon", "a red ring moves", f"{said}."]
    assert select("consensus", texts, request()).kept[0] != 1


def test_consensus_keeps_what_most_candidates_say() -> None:
    texts = ["a dog runs", "a red circle moves left", "a blue cross", "a red circle moves left", "it rains"]
    kept, reason, agreement = select("consensus", texts, request())
    assert kept == (1,)
    others = [_chrf_by_the_book(texts[1], text) for text in [*texts[:1], *texts[2:]]]
    assert agreement == pytest.approx(sum(others) / 4, abs=1e-4)
    assert reason == f"nearest to the other candidates, of 5: chrF {agreement:.2f}"
    chinese = ["夜晚人们在篝火旁跳舞", "一只羊在草地上说话", "一只羊在草地上说话"]
    assert select("consensus", chinese, request()).kept == (1,)


def test_agreement_is_high_where_all_say_the_same_and_low_where_each_says_something_else() -> None:
    same, other = (select("consensus", texts, request()) for texts in (["a sheep"] * 3, ["sheep", "dog", "fly"]))
    assert (same.kept, same.agreement) == ((0,), 1.0)
    assert other.agreement is not None
    assert other.agreement < 0.1
    assert select("consensus", ["a sheep"], request()).agreement == 1.0


def test_of_two_candidates_one_is_drawn() -> None:
    texts = ["a sheep", "a sheep talks to a dog"]
    kept = [select("consensus", texts, request(seed=seed)).kept for seed in range(20)]
    assert set(kept) == {(0,), (1,)}


def test_similar_one_keeps_the_nearest_to_the_original_text() -> None:
    texts = ["two dogs run in the snow", "a sheep talks to a dog", "nothing at all happens"]
    for wanted, reference in enumerate(["two dogs run in snow", "a sheep talks to a cat", "nothing at all"]):
        kept, reason, _ = select("similar_one_simhash", texts, request(reference=reference))
        distances = [(simhash(text) ^ simhash(reference)).bit_count() for text in texts]
        assert kept == (wanted,)
        assert reason == f"nearest to the original text: {min(distances)} of 64 bits differ"


def test_similar_one_sees_a_difference_in_chinese() -> None:
    texts = ["夜晚人们在篝火旁跳舞", "一只羊在草地上说话", "两只狗在雪地里奔跑"]
    assert select("similar_one_simhash", texts, request(reference="一只羊在山坡上说话"))[0] == (1,)


def test_ties_go_to_the_earliest() -> None:
    texts = ["nothing at all happens", "a sheep talks", "A SHEEP TALKS"]
    assert select("similar_one_simhash", texts, request(reference="a sheep talks"))[0] == (1,)
    assert select("similar_one_simhash", ["sheep", "dog"], request(reference="cow"))[0] == (0,)


def test_judged_keeps_the_one_that_most_likely_holds() -> None:
    judged = [
        Candidate(text=text, stop_reason="stop", num_tokens=1, scores={} if score is None else {"judged": score})
        for text, score in (("a", 0.25), ("b", 0.75), ("c", 0.5), ("d", None))
    ]
    assert SELECTORS["judged"](judged[:3], request())[:2] == ((1,), "judged most likely to hold, of 3: P(yes) 0.750")
    drawn = [SELECTORS["judged"](judged, request(seed=seed)) for seed in range(30)]
    assert {each.kept for each in drawn} == {(0,), (1,), (2,), (3,)}
    assert drawn[0].reason.endswith("the model said neither yes nor no of all")


def test_likeliest_keeps_the_one_whose_tokens_are() -> None:
    kept, reason, _ = select("likeliest", ["a", "b", "c"], request(), [-0.5, -0.125, -0.25])
    assert (kept, reason) == ((1,), "likeliest of 3: mean log-probability -0.125")


def test_what_has_no_log_probability_is_drawn() -> None:
    """As of servers that say none."""
    drawn = [select("likeliest", ["a", "b"], request(seed=seed), [-0.5, None]) for seed in range(20)]
    assert {each.kept for each in drawn} == {(0,), (1,)}
    assert drawn[0].reason == "drawn from 2 candidates: not all have a log-probability"


def test_random_any_draws_every_candidate_by_seed_alone() -> None:
    texts = ["a", "b", "c"]
    drawn = [select("random_any", texts, request(seed=seed))[0] for seed in range(60)]
    assert set(drawn) == {(0,), (1,), (2,)}
    assert min(drawn.count((number,)) for number in range(3)) >= 10
    again = [select("random_any", texts, request(seed=seed, key="other"))[0] for seed in range(60)]
    assert again == drawn


def test_random_any_says_whether_there_was_a_choice() -> None:
    assert select("random_any", ["a"], request())[:2] == ((0,), "the only candidate")
    assert select("random_any", ["a", "b"], request())[1] == "drawn from 2 candidates"


def test_all_keeps_all_in_order() -> None:
    assert select("all", ["b", "a", "b"], request())[:2] == ((0, 1, 2), "all candidates are kept")
