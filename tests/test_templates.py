"""Which braces in a prompt are names, and what comes in their place."""

import pytest

from reelscribe.templates import Name, Part, filled, joined, names_in, parts_of


@pytest.mark.parametrize(
    ("template", "parts"),
    [
        ("Describe it.", ("Describe it.",)),
        ("", ()),
        ("{title}", (Name("title"),)),
        ("Of {title}: {title}.", ("Of ", Name("title"), ": ", Name("title"), ".")),
        ("{{title}", ("{title}",)),
        ("{{{title}", ("{", Name("title"))),
        ('As {"a": {"b": 1}}', ('As {"a": {"b": 1}}',)),
        ("{}, { title }, {0}, {a.b}, {a!r}, {a:.2f}", ("{}, { title }, {0}, {a.b}, {a!r}, {a:.2f}",)),
        ("{größe_2}", (Name("größe_2"),)),
        ("{broken", ("{broken",)),
    ],
)
def test_bare_names_in_braces_are_places(template: str, parts: tuple[Part, ...]) -> None:
    assert parts_of(template) == parts


def test_what_is_put_in_is_not_filled_again() -> None:
    parts = filled(parts_of("{a} and {b}"), {"a": "{b}"}.get)
    assert parts == ("{b} and ", Name("b"))
    assert names_in(parts) == ("b",)
    assert "".join(map(str, filled(parts, lambda _: "two"))) == "{b} and two"


def test_names_come_once_in_order() -> None:
    assert names_in(parts_of("{b} {a} {b}")) == ("b", "a")


def test_texts_that_follow_each_other_are_one() -> None:
    assert joined(["a", "", "b", Name("c"), ""]) == ("ab", Name("c"))
