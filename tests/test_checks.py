"""Checks that a user asks for: what they find, that they are asked for once more, and that they make nothing again."""

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import ScriptedEngine, put_clip, put_rows, read_rows_of, request, said

from reelscribe.checks import Checks
from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.models import model_path
from reelscribe.pipeline import caption
from reelscribe.runners.local import run
from reelscribe.values import Caption, Clip, Work

SORRY = "I'm sorry, but I cannot describe this."


def _found(text: str, seconds: float | None = None, **table: Any) -> list[str]:
    return list(Checks.of(table).find(text, seconds))


@pytest.mark.parametrize(
    ("table", "bad", "good", "fault"),
    [
        ({}, SORRY, "The video shows a dog in this clip.", "refusal"),
        ({"openings": True}, "The video shows a dog.", "A dog.", "opening"),
        ({"mentions": "yes"}, "A dog runs in this clip.", "A dog plays a video game.", "mention"),
        ({"words": "3-5"}, "A dog.", "A dog runs.", "length"),
        ({"words": "3-5"}, "A dog runs on the beach.", "A dog runs far away.", "length"),
        ({"words": "-3"}, "一只狗跑", "一只狗", "length"),
        ({"words": "3-"}, "A dog.", "A dog runs to me.", "length"),
    ],
)
def test_what_a_check_finds_and_what_not(table: dict[str, Any], bad: str, good: str, fault: str) -> None:
    assert _found(bad, **table) == [fault]
    assert _found(good, **table) == []


def test_refusals_can_be_let_pass() -> None:
    assert _found(SORRY, refusals="no") == []


def test_languages() -> None:
    pytest.importorskip("py3langid")
    german, english = "Ein Mann geht mit seinem Hund am Strand entlang.", "A man walks his dog along the beach."
    assert _found(english, language="de") == ["language"]
    assert _found(german, language="en") == ["language"]
    assert _found(german, language="de") == _found(english, language="en") == []
    assert _found("犬が海辺を走る。", language="zh") == ["language"]
    assert _found("Taxi.", language="de") == [], "it may be in any"
    with pytest.raises(SettingsError, match="code of ISO 639, as en or zh; got 'german'"):
        Checks.of({"language": "german"}).check_installed()


def test_languages_need_an_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "py3langid", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'reelscribe\[language\]'"):
        Checks.of({"language": "de"}).check_installed()


def test_tokens_are_those_of_a_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="there is no"):
        Checks.of({"tokens": "-5", "tokenizer": str(tmp_path)}).check_installed()
    pytest.importorskip("tokenizers")
    table: dict[str, Any] = {"tokens": "-5", "tokenizer": str(model_path("shapes"))}
    Checks.of(table).check_installed()
    assert _found("A red square moves left on a blue background.", **table) == ["length"]
    assert _found("A red", **table) == []
    told = Checks.of(table).told("length", "A red square moves left.")
    assert told == "It has 6 tokens of a tokenizer; it must have at most 5."


@pytest.mark.parametrize(
    ("text", "is_late"),
    [
        ("The dog barks at 0:12.", True),
        ("(12.5 s) The dog barks.", True),
        ("[0:08] The dog barks.", False),
        ("After 10.8 seconds it barks.", False),
        ("It barks around the 45 second mark.", True),
        ("第45秒,狗叫了。", True),
        ("The clock shows 12:45; it is from 12:30 pm.", False),
        ("A countdown of 60 seconds begins.", False),
        ("From 0:02 until 0:12 it rains.", True),
        ("From 1 s to 9.9 s it rains.", False),
        ("It rains from 1 to 14 seconds.", True),
        ("Between 2 and 14s a bird sings.", True),
        ("At 1:00:03 it ends.", True),
        ("A 60 second timer, in 4:3, after 30 people left.", False),
    ],
)
def test_times_past_the_end(text: str, is_late: bool) -> None:
    assert _found(text, 10.0, past_end=True) == (["past_end"] if is_late else [])
    assert _found(text, None, past_end=True) == [], "nobody knows how long it is"


@pytest.mark.parametrize(
    ("table", "said_of_it"),
    [
        ({"opening": True}, "unknown key 'opening'; did you mean openings"),
        ({"openings": "maybe"}, "openings must be true or false; got 'maybe'"),
        ({"openings": 1}, "openings must be true or false; got 1"),
        ({"words": 20}, "words must be text"),
        ({"words": "20"}, "words must be the fewest and the most, as 20-60, -60 or 20-; got '20'"),
        ({"words": "-"}, "words must be the fewest and the most"),
        ({"words": "60-20"}, "words must have the fewest first"),
        ({"tokens": "20-60"}, "tokens and tokenizer go together"),
        ({"lists": "openings = 3"}, "openings must be a list of regular expressions"),
    ],
)
def test_checks_that_are_none(table: dict[str, Any], said_of_it: str) -> None:
    for settings in ({"checks": table}, {"tasks": {"short": {"prompt": "Who?", "checks": table}}}):
        with pytest.raises(SettingsError) as caught:
            Settings(**settings)
        assert said_of_it in str(caught.value)


def test_a_task_has_checks_of_its_own_over_those_of_the_run() -> None:
    tasks = {"short": {"prompt": "Who?", "checks": {"words": "-9"}}, "long": "What?"}
    short, long = Settings(checks={"words": "20-", "openings": True}, tasks=tasks).all_tasks
    assert (short.checks.words, short.checks.openings) == ("-9", True)
    assert (long.checks.words, long.checks.openings) == ("20-", True)


def test_lists_are_read_from_where_the_settings_lie(tmp_path: Path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "own.toml").write_text("mentions = ['beach']", "utf-8")
    file = tmp_path / "sub" / "settings.toml"
    file.write_text('[checks]\nmentions = true\nlists = "own.toml"\ntokens = "-9"\ntokenizer = "t5"\n', "utf-8")
    settings = Settings.load(file)
    (tmp_path / "sub" / "own.toml").unlink()
    again = Settings.of_run(settings.without_token())
    assert list(again.all_tasks[0].checks.wordings().patterns["mention"])
    assert again.checks["tokenizer"] == str(tmp_path / "sub" / "t5")
    assert again.all_tasks[0].checks.wordings().find("mention", "A dog on the beach")


# In the flow


def _only(answers: list[str], settings: dict[str, Any] | None = None, **asked: Any) -> tuple[Caption, list[Work]]:
    works: list[Work] = []

    def answer(work: Work) -> Any:
        works.append(work)
        return said(*[answers[len(works) - 1]])

    made = request(**asked)
    (outcome,) = caption([made], Settings(retry_flagged=True, **settings or {}), ScriptedEngine(answer))
    assert isinstance(outcome, Caption)
    return outcome, works


def test_candidate_that_keeps_to_the_checks_is_preferred() -> None:
    asked = request(num_captions=3, checks=Checks(openings=True))
    engine = ScriptedEngine(lambda _: said("The video shows a dog.", "A dog.", SORRY))
    (outcome,) = caption([asked], Settings(), engine)
    assert isinstance(outcome, Caption)
    assert outcome.kept == (1,)
    assert outcome.meta["faults"] == ["opening", "", "refusal"]


def test_it_is_asked_once_more_and_told_where_the_task_says_so() -> None:
    checks = Checks(openings=True, words="2-4", language=None)
    answers = ["The video shows a dog that runs.", "A dog runs."]
    outcome, works = _only(answers, checks=checks, tell_faults=True, prompt="What is seen?")
    assert outcome.texts == ("A dog runs.",)
    first, second = (work.requests[0].prompt for work in works)
    assert first == "What is seen?"
    assert second == (
        "What is seen?\n\nAn earlier answer was not as it should be. "
        'It has the words "The video shows": say what is seen, not that it is a video. '
        "It has 7 words; it must have 2 to 4."
    )
    assert outcome.meta["prompt"] == second
    _, works = _only(answers, checks=checks, prompt="What is seen?")
    assert [work.requests[0].prompt for work in works] == ["What is seen?"] * 2


def test_prompt_with_facts_of_the_clip_is_told_as_well(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}])
    put_clip(tmp_path / "a.mp4")
    prompts = []

    def answer(work: Work) -> Any:
        prompts.append(work.requests[0].prompt)
        return said(SORRY if len(prompts) == 1 else "A dog.")

    settings = Settings(prompt="It has {width} columns.", retry_flagged=True, tell_faults=True, decoders=0)
    run([data], tmp_path / "out.jsonl", settings, engine=ScriptedEngine(answer))
    told = "\n\nAn earlier answer was not as it should be. It did not describe what is seen; describe it."
    assert prompts[1] == prompts[0] + told
    assert "{width}" not in prompts[0]


def test_other_checks_generate_nothing_and_choose_anew(tmp_path: Path) -> None:
    data, output = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}]), tmp_path / "out.jsonl"
    put_clip(tmp_path / "a.mp4")
    asked = []

    def answer(work: Work) -> Any:
        asked.append(work)
        return said("The video shows a dog.", "A dog runs on the beach.")

    def caption_it(**checks: Any) -> tuple[str, str, list[str]]:
        settings = Settings(num_captions=2, keep="likeliest", checks=checks, decoders=0)
        run([data], output, settings, engine=ScriptedEngine(answer))
        (row,) = read_rows_of(output)
        return row["caption"], row["caption_meta"]["flags"], row["caption_meta"]["faults"]

    assert caption_it(openings=True) == ("A dog runs on the beach.", "", ["opening", ""])
    assert caption_it(words="-5") == ("The video shows a dog.", "", ["", "length"])
    assert caption_it(words="-5", mentions=True)[1:] in (
        ("mention", ["mention", "length"]),
        ("length", ["mention", "length"]),
    )
    assert caption_it()[2] == ["", ""]
    assert len(asked) == 1


def test_texts_of_json_are_checked_one_by_one(tmp_path: Path) -> None:
    schema = {"type": "object", "properties": {"what": {"type": "string"}, "who": {"type": "string"}}}
    settings = Settings(schema=json.dumps(schema), checks={"openings": True, "words": "-1"})
    (task,) = settings.all_tasks
    text = json.dumps({"what": "The video shows a dog.", "who": SORRY})
    asked = request(schema=task.schema, checks=task.checks, clip=Clip(source=put_clip(tmp_path / "a.mp4").read_bytes()))
    (outcome,) = caption([asked], settings, ScriptedEngine(lambda _: said(text)))
    assert isinstance(outcome, Caption)
    assert outcome.meta["flags"] == ["opening", "refusal"], "a length is one of plain text"


def test_from_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    put_clip(tmp_path / "a.mp4")
    words = ("caption", "a.mp4", "-o", "out.jsonl", "--engine", "fake")
    done = CliRunner().invoke(main, [*words, "--check", "words=500-", "--check", "openings=yes"])
    assert done.exit_code == 0, done.output
    assert read_rows_of(tmp_path / "out.jsonl")[0]["caption_meta"]["flags"] == "length"
    for wrong, said_of_it in (("words", "--check takes KEY=VALUE, as words=20-60"), ("tokens=-9", "go together")):
        refused = CliRunner().invoke(main, [*words, "--check", wrong])
        assert refused.exit_code == 2
        assert said_of_it in refused.stderr
    refused = CliRunner().invoke(main, [*words, "--check", "tokens=-9", "--check", "tokenizer=none"])
    assert refused.exit_code == 2
    assert "none/tokenizer.json" in refused.stderr or "there is no" in refused.stderr
