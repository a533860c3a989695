"""What is found in a caption alone, and the conditions of --fail-on."""

import pytest

from reelscribe.audit.findings import Limit, script_of
from reelscribe.errors import SettingsError


@pytest.mark.parametrize(
    ("text", "script"),
    [
        ("A dog.", "Latin"),
        ("Ein Hund läuft.", "Latin"),
        ("Собака бежит.", "Cyrillic"),
        ("一只狗在跑。", "Han"),
        ("犬が走っている。", "Japanese"),
        ("สุนัขวิ่ง", "Thai"),
        ("개가 달린다.", "Hangul"),
        ("The sign says 出口.", "Latin"),
        ("12:30!", ""),
        ("", ""),
    ],
)
def test_scripts(text: str, script: str) -> None:
    assert script_of(text) == script


@pytest.mark.parametrize(
    ("written", "least"),
    [("refusal", 1), ("refusal>2", 3), ("refusal >= 2", 2), ("duplicate>1%", 3), ("loop>=1%", 2), ("failed>0%", 1)],
)
def test_limits_are_passed_by_more_of_two_hundred(written: str, least: int) -> None:
    limit = Limit.parse(written)
    assert [limit.is_passed(count, 200) for count in (least - 1, least)] == [False, True]


@pytest.mark.parametrize(
    ("written", "told"),
    [
        ("refusals", "there is no finding 'refusals'; did you mean refusal?"),
        ("gone>3", "there is no finding 'gone'; known are duplicate, "),
        ("refusal<3", "alone or with a number"),
        ("refusal>", "alone or with a number"),
        ("", "alone or with a number"),
        ("refusal>1%%", "alone or with a number"),
        ("refusal>-1", "alone or with a number"),
    ],
)
def test_conditions_that_are_none_are_told(written: str, told: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Limit.parse(written)
    assert told in str(caught.value)
