"""Captions whose claims are judged: what is said of those that fail, what is made again, and what is taken out."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.engines import fake, load_engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.engines.several import SeveralEngines
from reelscribe.errors import SettingsError
from reelscribe.runners.local import run
from reelscribe.values import Row, Work
from reelscribe.video.sampling import VisionLimits

TRUE, FALSE = "A dog runs. It barks.", "A dog runs. A cat flies."


class _Verifying:
    """An engine that says what a test tells it to, and holds what flies to be false; it counts both."""

    def __init__(self, *texts: str) -> None:
        self._texts = texts
        self.said: list[str] = []
        """Prompts of what was generated."""
        self.judged: list[str] = []
        self.engine = FakeEngine(self._say, judge=self._judge)

    def _say(self, work: Work, number: int) -> str:
        [request] = work.requests
        self.said.append(request.prompt)
        return self._texts[(number + request.attempt - 1) % len(self._texts)]

    def _judge(self, _: Work, claim: str) -> float | None:
        self.judged.append(claim)
        return None if "?" in claim else 0.125 if "flies" in claim else 0.875


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows: list[Row] = [{"video": put_clip(tmp_path / f"{name}.mp4").name, "text": name} for name in "ab"]
    rows[0]["text"], rows[1]["text"] = TRUE, FALSE
    return put_rows(tmp_path / "in.jsonl", rows)


def _run(data: Path, made: _Verifying, name: str = "out", **settings: Any) -> list[Row]:
    output = data.parent / f"{name}.jsonl"
    run([data], output, Settings(**settings), engine=made.engine)
    return read_rows_of(output)


def test_claims_are_told_and_those_that_fail_are_a_fault(data: Path) -> None:
    made = _Verifying("A dog runs. A cat flies. Why?")
    row, _ = _run(data, made, verify=True)
    meta = row["caption_meta"]
    assert json.loads(meta["claims"][0]) == {"A dog runs.": 0.875, "A cat flies.": 0.125, "Why?": None}
    assert meta["failed_claims"] == "A cat flies."
    assert json.loads(meta["scores"][0]) == {"verified": 0.5}
    assert meta["judge"] == "Is this statement true: {caption} Answer yes or no."
    assert (meta["faults"], meta["flags"]) == (["false_claim"], "false_claim")


def test_a_candidate_without_false_claims_is_kept(data: Path) -> None:
    made = _Verifying(FALSE, FALSE, TRUE)
    for row in _run(data, made, num_captions=3, verify=True):
        assert (row["caption"], row["caption_meta"]["failed_claims"]) == (TRUE, "")
        assert row["caption_meta"]["faults"] == ["false_claim", "false_claim", ""]
    assert len(made.judged) == 2 * 3  # of three sentences that differ


def test_a_second_try_is_told_which_claims_failed(data: Path) -> None:
    made = _Verifying(FALSE, TRUE)
    rows = _run(data, made, verify=True, retry_flagged=True, tell_faults=True)
    assert [row["caption"] for row in rows] == [TRUE, TRUE]
    told = "An earlier answer was not as it should be. It said what is not true of the video: A cat flies."
    assert [prompt.endswith(told) for prompt in made.said].count(True) == len(made.said) / 2 == 2


def test_what_a_run_did_not_verify_is_judged_and_not_made_again(data: Path) -> None:
    settings: dict[str, Any] = {"num_captions": 3, "retry_flagged": True, "checks": {"words": "5-9"}}
    fresh = _run(data, _Verifying(FALSE, "No.", TRUE), "fresh", **settings, verify=True)
    _run(data, _Verifying(FALSE, "No.", TRUE), **settings)
    made = _Verifying("never")
    assert _run(data, made, **settings, verify=True) == fresh
    assert (made.said, len(made.judged)) == ([], 2 * 4)
    for others in ({"verify": True}, {"verify": True, "keep": "all"}, {}):
        _run(data, made, **settings, **others)
    assert (made.said, len(made.judged)) == ([], 2 * 4)
    _run(data, made, **settings, verify=True, judge_prompt="Right? {caption}")
    assert (made.said, len(made.judged)) == ([], 2 * 8)


def test_a_second_try_of_an_earlier_run_is_no_reason_for_a_third(data: Path) -> None:
    settings: dict[str, Any] = {"retry_flagged": True, "checks": {"words": "9-"}}
    _run(data, _Verifying(FALSE), **settings)
    made = _Verifying("never")
    for row in _run(data, made, **settings, verify=True):
        assert (row["caption"], row["caption_meta"]["tries"]) == (FALSE, 2)
    assert made.said == []


def test_what_fails_of_an_earlier_run_is_asked_once_more(data: Path) -> None:
    settings: dict[str, Any] = {"retry_flagged": True, "tell_faults": True, "verify": True}
    fresh = _run(data, _Verifying(FALSE, TRUE), "fresh", **settings)
    _run(data, _Verifying(FALSE, TRUE))
    made = _Verifying(FALSE, TRUE)
    assert _run(data, made, **settings) == fresh
    assert [row["caption"] for row in fresh] == [TRUE, TRUE]
    assert len(made.said) == 2
    later = _run(data, made, retry_flagged=True, tell_faults=True)  # tried twice, and nothing else is known of it
    assert [row["caption_meta"]["try"] for row in later] == [2, 2]


def test_judging_that_fails_leaves_what_there_was(data: Path, caplog: pytest.LogCaptureFixture) -> None:
    _run(data, _Verifying(TRUE))
    broken = _Verifying(TRUE)
    broken.engine = FakeEngine(broken._say, refuse="Describe")
    for row in _run(data, broken, verify=True):
        assert (row["caption"], row["caption_meta"]["flags"]) == (TRUE, "unverified")
    for row in _run(data, _Verifying("never"), verify=True):
        assert (row["caption"], row["caption_meta"]["flags"]) == (TRUE, "")
    assert "2 captions could not be made or judged again" in caplog.text


def test_texts_that_are_there_already_are_verified(data: Path) -> None:
    made = _Verifying("never")
    settings: dict[str, Any] = {"tasks": {"checked": {"verifies": "{text}"}}, "num_captions": 4, "retry_flagged": True}
    for _ in range(2):
        rows = _run(data, made, **settings)
        assert [row["checked"] for row in rows] == [TRUE, FALSE]
        assert [row["checked_meta"]["failed_claims"] for row in rows] == ["", "A cat flies."]
    assert (made.said, made.judged) == ([], ["A dog runs.", "It barks.", "A dog runs.", "A cat flies."])
    settings["tasks"]["other"] = {"verifies": "{text}{fps}"}
    empty = put_rows(data, [{"video": "a.mp4", "text": " ..."}, {"video": "b.mp4"}])
    rows = _run(empty, made, "empty", **settings)
    failures = [row["checked_failure"] for row in rows]
    assert rows[0]["other_failure"] == "prompt: verifies has {fps}, which is no column of the row."
    assert failures[0] == "prompt: there is nothing to verify: {text} has no words."
    assert failures[1].startswith("prompt: the prompt has {text}")


TASKS: dict[str, Any] = {
    "caption": "Describe {text}",
    "claims": {"prompt": "List the claims: {caption}", "after": ["caption"], "video": False},
    "checked": {"verifies": "{claims}", "after": ["claims"]},
    "better": {"rewrites": "caption", "after": ["caption", "checked"]},
}


def test_claims_that_a_model_listed_are_judged_and_what_fails_is_taken_out(data: Path) -> None:
    made = _Verifying("never")

    def reply(work: Work, __: int) -> str:
        prompt = work.requests[0].prompt
        made.said.append(prompt)
        name, text = prompt.split(" ", 1)
        if name == "List":
            return "The claims:\n" + "\n".join(f"- {part}" for part in prompt.split(": ")[1].split(". "))
        return text if name == "Describe" else "A dog runs."

    made.engine = FakeEngine(reply, judge=made._judge)
    for _ in range(2):
        one, other = _run(data, made, tasks=TASKS)
        assert (one["better"], one["better_candidates"]) == (TRUE, [TRUE])
        assert one["better_meta"]["reason"] == "the task caption as it is: no claim failed"
        assert other["checked_meta"]["failed_claims"] == "A cat flies."
        assert (other["caption"], other["better"]) == (FALSE, "A dog runs.")
        assert other["better_meta"]["prompt"] == (
            "Write this caption again without what is not true. Change nothing else, and add nothing.\n\n"
            f"Caption: {FALSE}\n\nNot true:\nA cat flies."
        )
    assert made.judged == ["A dog runs", "It barks.", "A dog runs", "A cat flies."]
    assert len(made.said) == 2 + 2 + 1


def test_the_sentences_of_a_caption_are_taken_out_by_the_prompt_of_the_user(data: Path) -> None:
    made = _Verifying(FALSE)
    better = {"rewrites": "caption", "prompt": "Not {failed} in {caption}"}
    rows = _run(data, made, tasks={"caption": {"prompt": "Describe it.", "verify": True}, "better": better})
    assert [row["better_meta"]["prompt"] for row in rows] == [f"Not A cat flies. in {FALSE}"] * 2


def test_a_rewrite_of_what_failed_fails_like_any_task_after_another(data: Path) -> None:
    made = _Verifying(FALSE)
    made.engine = FakeEngine(made._say, refuse="Describe")
    tasks = {"caption": {"prompt": "Describe it.", "verify": True}, "better": {"rewrites": "caption"}}
    assert [row["better_failure"].partition(":")[0] for row in _run(data, made, tasks=tasks)] == ["after"] * 2


JUDGED_BY_ANOTHER: dict[str, Any] = {
    "caption": "Describe it.",
    "checked": {"verifies": "{caption}", "after": ["caption"], "engine": {"engine": "fake"}},
    "there": {"verifies": "{text}", "engine": {"engine": "fake"}},
}


def test_another_model_judges_what_the_first_one_said(data: Path) -> None:
    """It is shown the clip, in works of its own."""
    main, other = _Verifying(FALSE), _Verifying("never")
    shown: list[int] = []

    def judge(work: Work, claim: str) -> float | None:
        shown.append(work.frames.pixels.size)
        return other._judge(work, claim)

    judging = FakeEngine(other._say, judge=judge)
    engine = SeveralEngines(main.engine, {"checked": judging, "there": judging})
    for _ in range(2):
        run([data], data.parent / "out.jsonl", Settings(engine="fake", tasks=JUDGED_BY_ANOTHER), engine=engine)
        rows = read_rows_of(data.parent / "out.jsonl")
        assert [row["checked_meta"]["failed_claims"] for row in rows] == ["A cat flies."] * 2
        assert [row["there_meta"]["failed_claims"] for row in rows] == ["", "A cat flies."]
    assert (main.judged, len(main.said), other.said, len(other.judged)) == ([], 2, [], 8)
    assert all(shown)


def test_another_model_must_take_what_is_decoded_for_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = Settings(engine="fake", tasks={name: JUDGED_BY_ANOTHER[name] for name in ("caption", "checked")})
    assert load_engine(settings).info.others.keys() == {"checked"}
    made = iter([VisionLimits(), replace(VisionLimits(), max_frames=3)])
    monkeypatch.setattr(fake, "load", lambda _: FakeEngine(limits=next(made, VisionLimits())))
    with pytest.raises(SettingsError, match=r"^tasks\.checked\.engine: frames are decoded for fake, and fake"):
        load_engine(settings)
    with pytest.raises(SettingsError, match=r"with audio, only text stages can have an engine of their own"):
        Settings(engine="fake", audio=True, tasks=JUDGED_BY_ANOTHER)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ({"a": {"verifies": "A dog."}}, "tasks.a: verifies must name a column of the rows, or a task"),
        ({"a": {"verifies": "{text}", "prompt": "?"}}, "so prompt must not be set"),
        ({"a": {"verifies": "{text}", "num_captions": 2}}, "so num_captions must not be set"),
        ({"a": {"verifies": "{text}", "video": False}}, "verifies asks about the clip: set video = true"),
        ({"a": {"prompt": "?", "video": False, "verify": True}}, "tasks.a: verify asks about the clip"),
        ({"a": {"schema": "shot", "verify": True}}, "tasks.a: verify judges sentences of plain text"),
        ({"a": "?", "b": {"rewrites": "a"}}, "no task in its after is verified, so no claim can fail"),
        ({"a": {"verify": True}, "b": {"rewrites": "c"}}, "tasks.b: after names 'c'"),
        ({"a": {"verify": True}, "b": {"rewrites": "a", "after": []}}, "rewrites names 'a', which must be in after"),
        ({"a": {"verify": True}, "b": {"rewrites": "a", "prompt": "{a}"}}, "must have {a} and {failed} in it"),
        ({"a": {"verify": True}, "b": {"rewrites": "a", "video": True}}, "rewrites is for a text stage"),
        ({"a": {"verifies": "{b}"}, "b": "?"}, "tasks.a: its prompt names the task b"),
    ],
)
def test_what_cannot_be_verified_or_rewritten_is_told(tasks: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as error:
        Settings(tasks=tasks)
    assert message in str(error.value)


def test_text_stages_of_a_run_that_verifies_are_left_alone(data: Path) -> None:
    made = _Verifying(TRUE)
    tasks = {"caption": "Describe it.", "short": {"prompt": "{caption}", "after": ["caption"], "video": False}}
    rows = _run(data, made, tasks=tasks, verify=True)
    assert [row["short_meta"]["claims"] for row in rows] == [[""], [""]]
    assert [row["short_meta"]["judge"] for row in rows] == ["", ""]
