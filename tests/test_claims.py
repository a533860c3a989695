"""Texts cut into claims by rule."""

import pytest

from reelscribe.claims import claims_in


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("A ring moves left. It then stops.", ("A ring moves left.", "It then stops.")),
        ("A ring moves left, then stops", ("A ring moves left, then stops",)),
        ("A dog barks; a cat (black) runs! Why? …", ("A dog barks", "a cat (black) runs!", "Why?")),
        (
            'Mr. Smith waits 2.5 s. "Stop!" he says. (He sits.) Then J. Doe, vs. him, runs... away.',
            ("Mr. Smith waits 2.5 s.", '"Stop!" he says.', "(He sits.)", "Then J. Doe, vs. him, runs... away."),
        ),
        ("一个人在走。狗“在跑。”他停下", ("一个人在走。", "狗“在跑。”", "他停下")),
        ("एक आदमी चलता है। कुत्ता दौड़ता है।", ("एक आदमी चलता है।", "कुत्ता दौड़ता है।")),
        (
            "The claims are:\n- The ring is red.\n2) It is **small**\n(3) It is red\n\n* It is red",
            ("The ring is red.", "It is **small**", "It is red"),
        ),
        ("-5 degrees", ("-5 degrees",)),
        ("Only this:", ("Only this:",)),
        (" ... \n!", ()),
    ],
)  # fmt: skip
def test_sentences_lines_and_parts_between_semicolons_are_claims(text: str, claims: tuple[str, ...]) -> None:
    assert claims_in(text) == claims


def test_time_is_linear() -> None:
    assert len(claims_in("a. " * 50_000 + "1 A. B" * 20_000)) >= 1
