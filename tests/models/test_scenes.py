"""What is true of a scene: every form of answer says the same, and a changed fact makes it false."""

import json

import numpy as np
import pytest

from reelscribe.models.shapes.scenes import FIELDS, Scene, change_fact, random_scene

GOLDEN = [
    "A large cyan cross rests on a black background.",
    "A large purple square moves up on a gray background, then turns blue.",
    "A large cyan square moves right on a gray background.",
]


def draw_scenes(count: int = 300) -> list[Scene]:
    rng = np.random.default_rng(12)
    return [random_scene(rng) for _ in range(count)]


def a_scene(**changes: object) -> Scene:
    facts: dict[str, object] = {
        "shape": "ring",
        "color": "red",
        "size": "small",
        "ground": "black",
        "motion": "moves left",
        "turns": None,
        "stops": False,
    }
    place: dict[str, object] = {"radius": 0.16, "growth": 1.0, "start": (0.7, 0.5), "travel": 0.3, "event_at": 0.5}
    return Scene(**facts | place | changes)  # type: ignore[arg-type]


def test_scenes_and_captions_of_a_seed_stay_what_they_were() -> None:
    rng = np.random.default_rng(7)
    assert [random_scene(rng).caption for _ in range(3)] == GOLDEN


def test_detail_says_what_changes_and_what_does_not() -> None:
    look = "The video shows a small red ring on a plain black background. The ring moves left"
    assert a_scene().detail == f"{look} from beginning to end."
    assert a_scene(stops=True).detail == f"{look} for the first half, and then stops."
    turned = f"{look} from beginning to end, and turns from red to blue about halfway through."
    assert a_scene(turns="blue").detail == turned


def test_json_has_the_facts_asked_for_in_one_order_and_no_free_white_space() -> None:
    scene = a_scene(turns="blue")
    assert scene.as_json(("motion", "size")) == '{"size":"small","motion":"moves left"}'
    assert json.loads(scene.as_json()) == scene.facts
    assert list(scene.facts) == list(FIELDS)
    assert scene.facts["change"] == "turns blue"
    assert a_scene(stops=True).facts["change"] == "stops"
    assert a_scene().facts["change"] == "none"


def test_timeline_has_tenths_of_seconds_and_the_words_of_what_happens() -> None:
    assert a_scene().timeline(4.1) == "moves left (0.0 s); ends (4.1 s)"
    assert a_scene(stops=True).timeline(5.2) == "moves left (0.0 s); stops (2.6 s); ends (5.2 s)"


@pytest.mark.parametrize("seconds", [1.5, 4.2, 11.9])
def test_a_scene_fits_its_own_timeline(seconds: float) -> None:
    assert all(scene.fits_timeline(scene.timeline(seconds), seconds) for scene in draw_scenes())


@pytest.mark.parametrize(
    ("text", "fits"),
    [
        ("moves left (0.0 s); stops (2.5 s); ends (5.0 s)", True),
        ("moves left (0.0 s); stops (3.0 s); ends (5.5 s)", True),
        ("moves left (0.0 s); stops (3.5 s); ends (5.0 s)", False),
        ("moves left (0.0 s); stops (2.5 s); ends (6.0 s)", False),
        ("moves right (0.0 s); stops (2.5 s); ends (5.0 s)", False),
        ("moves left (0.0 s); turns blue (2.5 s); ends (5.0 s)", False),
        ("moves left (0.0 s); ends (5.0 s)", False),
        ("moves left, then stops", False),
        ("", False),
    ],
)
def test_wrong_words_and_times_do_not_fit(text: str, fits: bool) -> None:
    assert a_scene(stops=True).fits_timeline(text, 5.0) == fits


@pytest.mark.parametrize("field", FIELDS)
def test_a_changed_fact_changes_that_fact_alone_and_every_claim_about_it(field: str) -> None:
    rng = np.random.default_rng(5)
    for scene in draw_scenes():
        changed = change_fact(scene, field, rng)
        differing = [name for name in FIELDS if scene.facts[name] != changed.facts[name]]
        assert differing == [field]
        assert changed.claims[field] != scene.claims[field]
        assert changed.caption != scene.caption
        assert changed.turns != changed.color
        assert not changed.stops or "moves" in changed.motion
