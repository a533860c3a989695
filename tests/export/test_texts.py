"""The wording of captions."""

from reelscribe.export.texts import Wording


def test_newlines() -> None:
    caption = " One.\r\n\n  Two.\u2028Three. \n"
    assert Wording().texts_of(caption) == ["One.\r\n\n  Two.\u2028Three."]
    assert Wording(newlines="fold").texts_of(caption) == ["One. Two. Three."]
    assert Wording(newlines="split").texts_of(caption) == ["One.", "Two.", "Three."]
    for newlines in ("keep", "fold", "split"):
        assert Wording(newlines=newlines, prefix="a ").texts_of(" \n ") == []


def test_what_is_put_around_a_caption() -> None:
    wording = Wording(trigger="TOK", prefix="Film of ", suffix=" (35 mm)", strip_openings=True)
    assert wording.texts_of("The video shows a cat.") == ["TOK, Film of A cat. (35 mm)"]
    assert wording.texts_of("[trigger] sits by [trigger].") == ["Film of TOK sits by TOK. (35 mm)"]
    assert Wording().texts_of("[trigger] sits.") == ["[trigger] sits."]
    assert Wording(newlines="split", prefix="- ").texts_of("a\nb") == ["- a", "- b"]
