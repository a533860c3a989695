"""The wording of captions."""

import pytest

from reelscribe.export.texts import Wording, without_opening


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("The video shows a man who sits.", "A man who sits."),
        ("This short clip depicts a dog.", "A dog."),
        ("In this video, a dog runs.", "A dog runs."),
        ("In the video we see a dog.", "A dog."),
        ("We can see the sea.", "The sea."),
        ("A video of two cats.", "Two cats."),
        ("Footage of a bird.", "A bird."),
        ("The scene opens with a storm.", "A storm."),
        ("the video clip features Anna.", "Anna."),
        ("A man films a video of a dog.", "A man films a video of a dog."),
        ("The scene of the crime is dark.", "The scene of the crime is dark."),
        ("A dog runs. The video shows it.", "A dog runs. The video shows it."),
        ("The video shows ", "The video shows "),
        ("In the videogame a man jumps.", "In the videogame a man jumps."),
    ],
)
def test_openings_that_only_say_that_it_is_a_video(text: str, wanted: str) -> None:
    assert without_opening(text) == wanted


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
