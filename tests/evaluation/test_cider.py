"""CIDEr-D, against the values of its authors' code (coco-caption, as in pycocoevalcap 1.2)."""

import pytest

from reelscribe.evaluation.cider import CiderD

REFERENCES = [
    ["a man walks a dog on the beach", "a man and his dog walk along the sea"],
    ["two children play football in a park"],
    ["a red car drives down a wet street", "a car drives in the rain", "a red car on a street"],
    ["a chef cuts onions in a kitchen"],
]
CAPTIONS = [
    "a man walks his dog on the beach",
    "children play in the park",
    "a red car drives down a street in the rain",
    "a woman reads a book",
]
WORDS = [[text.split() for text in texts] for texts in REFERENCES]


def test_values_of_the_authors_code() -> None:
    scorer = CiderD(WORDS)
    scores = [scorer.score(caption.split(), texts) for caption, texts in zip(CAPTIONS, WORDS, strict=True)]
    assert scores == pytest.approx([3.8624634552749937, 2.282004644640339, 3.7509871250243894, 0.0], abs=1e-12)


def test_reference_itself_scores_ten_and_nothing_scores_none() -> None:
    scorer = CiderD(WORDS)
    assert scorer.score(WORDS[3][0], WORDS[3]) == pytest.approx(10)
    assert scorer.score([], WORDS[3]) == 0.0
    assert CiderD(WORDS[:1]).score(WORDS[0][0], WORDS[0]) == 0.0, "no n-gram tells one clip from no other"
