"""What is asked about each clip: from tables to tasks, and what becomes of them in a run."""

import json
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, as_input, clip_bytes, said

from reelscribe.config import Settings
from reelscribe.errors import SettingsError
from reelscribe.pipeline import caption_rows
from reelscribe.tasks import DEFAULT_PROMPT, Task
from reelscribe.values import NO_FRAMES, Caption, Failure, Outcome, Request, Row, RowResult, Work

TWO = {"short": "Say it in one sentence.", "both": {"prompt": "Rewrite: {short}", "after": ["short"], "video": False}}


def _tasks(**tables: Any) -> tuple[Task, ...]:
    return Settings(tasks=tables).all_tasks


# From tables to tasks


def test_without_tables_there_is_one_task() -> None:
    [task] = Settings(prompt="What?", num_captions=2, keep="all", system_prompt="Be brief.").all_tasks
    assert (task.name, task.prompt, task.num_captions, task.keep) == ("caption", "What?", 2, "all")
    assert (task.system_prompt, task.after, task.video, task.schema) == ("Be brief.", (), True, None)


def test_a_task_has_what_its_table_says_and_else_what_the_settings_say() -> None:
    settings = Settings(
        num_captions=3,
        keep="all",
        sampling={"temperature": 0.5, "max_tokens": 9},
        tasks={"a": "First?", "b": {"prompt": "Second?", "num_captions": 1, "sampling": {"max_new_tokens": 7}}},
    )
    a, b = settings.all_tasks
    assert (a.prompt, a.num_captions, a.keep, a.sampling.max_tokens) == ("First?", 3, "all", 9)
    assert (b.prompt, b.num_captions, b.keep) == ("Second?", 1, "all")
    assert (b.sampling.temperature, b.sampling.max_tokens) == (0.5, 7)


def test_tasks_stand_behind_those_that_they_come_after() -> None:
    tasks = _tasks(c={"prompt": "{a}{b}", "after": ["a", "b"]}, b={"prompt": "{a}", "after": "a"}, a="What?")
    assert [task.name for task in tasks] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({"a": {"after": ["a"]}}, "after goes in a circle: none of the tasks a can be the first"),
        ({"a": {"after": ["b"]}, "b": {"after": ["a"]}}, "after goes in a circle: none of the tasks a and b can be"),
        ({"long": {"after": ["shorts"]}, "short": "?"}, "tasks.long: after names 'shorts'; did you mean short"),
        ({"a": {"after": 3}}, "tasks.a: after must be a list of names of tasks; got 3"),
        ({"a": {"promt": "?"}}, "tasks.a has the unknown key 'promt'; did you mean prompt"),
        ({"a": 3}, "tasks.a must be a table, or a prompt; got 3"),
        ({"a": {"num_captions": 0}}, "tasks.a: num_captions must be a whole number of at least 1; got 0"),
        (
            {"a": {"keep": "best"}},
            "tasks.a: keep must be one of random_any, similar_one_simhash, consensus, likeliest,",
        ),
        ({"a": {"judge_prompt": "Is it?"}}, "tasks.a: judge_prompt must have {caption} where a candidate belongs"),
        ({"a": {"judge_prompt": "{caption} {b}"}}, "tasks.a: judge_prompt must have {caption} where a candidate"),
        (
            {"a": {"prompt": "?", "video": False, "keep": "judged"}},
            'tasks.a: keep = "judged" asks about the clip, which a task without the video is not shown',
        ),
        ({"a": {"sampling": {"temprature": 1}}}, "tasks.a: unknown sampling parameter 'temprature'; did you mean"),
        ({"a": {"video": "no"}}, "tasks.a: video must be true or false; got 'no'"),
        ({"a": {"video": False}}, "tasks.a: a task without the video needs a prompt"),
        ({"a": {"prompt": "\ud800"}}, "tasks.a: prompt must be text in UTF-8"),
        ({"a": {"schema": "shots"}}, "tasks.a: there is no schema 'shots'; did you mean shot"),
        ({"a": {"schema": 3}}, "tasks.a: schema must be cosmos, lingbot, shot, a .json file, or a table; got 3"),
        ({"a": {"schema": {"type": "list"}}}, "tasks.a: the schema 'a' must be that of an object"),
        ({3: "?"}, "a task's name is made of letters, digits and _, as a column's; got 3"),
        (
            {"a": "{a}"},
            "tasks.a: its prompt names the task a; if a column of the rows is meant, give",
        ),
        ({"a": {"prompt": " ", "video": False}}, "tasks.a: a task without the video needs a prompt"),
        ({"a.b": "?"}, "a task's name is made of letters, digits and _, as a column's; got 'a.b'"),
        ({"__key__": "?"}, "a task's name is made of letters, digits and _, as a column's; got '__key__'"),
        ({"a": "?", "a_meta": "?"}, "the tasks a and a_meta would both add a column 'a_meta'"),
        ({"videos": "?"}, "the task 'videos' would add a column 'videos', which is that of videos; give the task"),
        ({"text": "?"}, "the task 'text' would add a column 'text', which is that of the text; give the task"),
        ({"a": "{title}", "title": "?"}, "tasks.a: its prompt names the task title; put that into its after; or, if"),
        ({"a": "{title_meta}", "title": "?"}, "which is that of tasks.a: {title_meta} in the prompt"),
    ],
)
def test_wrong_tables_are_told(tables: dict[str, Any], message: str) -> None:
    with pytest.raises(SettingsError) as caught:
        Settings(tasks=tables)
    assert message in str(caught.value)


@pytest.mark.parametrize("option", ["prompt", "prompt_key", "schema"])
def test_what_is_one_tasks_is_not_set_for_all(option: str) -> None:
    with pytest.raises(SettingsError, match=rf"^{option} is that of one task, and there are tasks: set it in \[tasks"):
        Settings.load(None, tasks=TWO, **{option: "shot"})


def test_schema_lies_beside_the_file_of_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    schema = {"type": "object", "properties": {"who": {"type": "string"}}}
    (tmp_path / "who.json").write_text(json.dumps(schema), "utf-8")
    file = tmp_path / "settings.toml"
    file.write_text('[tasks.who]\nschema = "who.json"\n[tasks.say]\nprompt = "Say."\n', "utf-8")
    monkeypatch.chdir("/")
    settings = Settings.load(file, tasks={"say": {"num_captions": 2}})
    who, say = settings.all_tasks
    assert who.schema is not None
    assert json.loads(who.schema.text) == schema
    assert (say.prompt, say.num_captions) == ("Say.", 2), "tables of a task are put together"
    recorded = json.loads(json.dumps(settings.without_token()))
    monkeypatch.chdir(tmp_path)
    assert json.loads(Settings.load(None, schema="who.json").schema or "") == schema
    (tmp_path / "who.json").unlink()
    assert Settings.of_run(recorded).all_tasks == settings.all_tasks, "also where the file is gone"


def test_answers_that_keep_to_a_schema_have_room_and_a_prompt_of_their_own() -> None:
    [shot] = Settings(schema="shot").all_tasks
    assert shot.schema is not None
    assert (shot.template, shot.sampling.max_tokens) == ((shot.schema.default_prompt,), 2048)
    [short] = Settings(schema="shot", sampling={"max_tokens": 9}, prompt="What?").all_tasks
    assert (short.template, short.sampling.max_tokens) == (("What?",), 9)


def test_facts_that_are_not_known_have_to_be_columns() -> None:
    tasks = {"a": "{fps} {title}", "b": {"prompt": "{width}", "video": False}}
    named = {"tasks.a: {title} in the prompt": "title", "tasks.b: {width} in the prompt": "width"}
    assert Settings(tasks=tasks).named_columns == named
    sent = Settings(tasks=tasks, engine="openai", send="video").named_columns
    assert sent == {"tasks.a: {fps} in the prompt": "fps", **named}


def test_interleaved_text_has_room_for_one_caption() -> None:
    assert Settings(tasks=TWO).text_task.name == "both"
    with pytest.raises(SettingsError, match=r"that of the task 'b'; nothing would become of a\. Set layout to columns"):
        _ = Settings(tasks={"a": "?", "b": "?"}).text_task
    assert Settings(tasks={"caption": "?"}).text_task.name == "caption"


# Runs


class _Engine(ScriptedEngine):
    """Says what it was asked, and notes it."""

    def __init__(self, **answers: Any) -> None:
        self.asked: list[list[str]] = []
        super().__init__(lambda work: answers.get(work.requests[0].id.task) or said(f"<{work.requests[0].prompt}>"))

    def generate(self, requests: Any) -> Any:
        def noted() -> Any:
            for work in requests:
                self.asked.append([request.id.task for request in work.requests])
                assert (work.frames is NO_FRAMES) == (not work.shows)
                yield work

        return super().generate(noted())


def _run(rows: list[Row], engine: ScriptedEngine, memory: Any = None, **settings: Any) -> list[RowResult]:
    return list(caption_rows(as_input(rows), Settings(**settings), engine, memory=memory))


def test_a_clip_is_given_with_all_its_questions_and_text_stages_follow() -> None:
    engine = _Engine()
    rows = [{"video": clip_bytes()}, {"video": clip_bytes() + b"0"}]
    results = _run(rows, engine, tasks={"long": {"num_captions": 1}, **TWO})
    assert sorted(engine.asked) == sorted(2 * [["long", "short"]] + 2 * [["both"]])
    for result in results:
        [row] = result.rows
        assert (row["long"], row["short"]) == (f"<{DEFAULT_PROMPT}>", "<Say it in one sentence.>")
        assert row["both"] == "<Rewrite: <Say it in one sentence.>>"
        assert row["both_meta"]["frame_timestamps"] is None
        assert row["short_meta"]["frame_timestamps"]


def test_a_failure_costs_what_comes_after_it_and_nothing_else() -> None:
    failing = _Engine(short=said(""))
    memory = _Memory()
    [result] = _run([{"video": clip_bytes()}], failing, memory, tasks={"long": "Tell more.", **TWO})
    [row] = result.rows
    assert row["long"] == "<Tell more.>"
    assert row["short_failure"] == "engine: the model gave no text for 1 of 1 candidates."
    assert row["both_failure"] == (
        "after: it comes after the task short, which has no answer: the model gave no text for 1 of 1 candidates."
    )
    recorded = sorted(outcome.id.task for outcome in memory.recorded)
    assert recorded == ["long", "short"], "what was never asked is not known"


class _Memory:
    def __init__(self, **known: str) -> None:
        self._known = known
        self.recorded: list[Outcome] = []

    def look_up(self, request: Request) -> Outcome | Request:
        text = self._known.get(request.id.task)
        if text is None:
            return request
        return Caption(id=request.id, kept=(0,), reason="", candidates=said(text), meta={"flags": []})

    def record(self, outcome: Outcome) -> Outcome:
        self.recorded.append(outcome)
        return outcome


def test_what_is_known_opens_what_comes_after_it_without_the_clip() -> None:
    engine = _Engine()
    [result] = _run([{"video": b"no clip at all"}], engine, _Memory(short="known"), tasks=TWO)
    assert engine.asked == [["both"]]
    assert [caption.texts for caption in result.captions] == [("known",), ("<Rewrite: known>",)]
    assert {name.task for name in result.known} == {"short"}


def test_prompts_take_columns_and_facts_of_the_clip() -> None:
    prompt = "{title} at {fps} a second for {duration} s, {width}x{height}, no {{name}."
    rows = [{"video": clip_bytes(), "title": title} for title in ("A {duration}", 3, 0.5)]
    told = [result.rows[0]["caption"] for result in _run(rows, _Engine(), prompt=prompt)]
    assert [text.split(" at ")[0] for text in told] == ["<A {duration}", "<3", "<0.5"]
    meta = _run(rows, _Engine(), prompt=prompt)[0].rows[0]["caption_meta"]
    assert meta["prompt"].endswith(" no {name}.")
    assert "{fps}" not in meta["prompt"]


@pytest.mark.parametrize(
    ("value", "got"), [(None, "nothing"), (["a"], "list"), ({}, "dict"), (float("nan"), "float"), (b"", "bytes")]
)
def test_row_that_lacks_what_a_prompt_names_fails_alone(value: Any, got: str) -> None:
    rows = [{"video": clip_bytes(), "title": "A"}, {"video": clip_bytes(), "title": value}, {"video": clip_bytes()}]
    first, second, third = _run(rows, _Engine(), tasks={"a": "Of {title}.", "b": "What?"})
    assert first.rows[0]["a"] == "<Of A.>"
    assert second.rows[0]["a_failure"] == f"prompt: the prompt has {{title}}, but the row's column 'title' holds {got}."
    assert third.rows[0]["a_failure"].endswith("column 'title' holds nothing.")
    assert all(result.rows[0]["b"] == "<What?>" for result in (second, third))


def test_column_of_a_facts_name_comes_before_the_fact() -> None:
    [result] = _run([{"video": clip_bytes(), "duration": "long"}], _Engine(), prompt="{duration}")
    assert result.rows[0]["caption"] == "<long>"


def test_fact_that_is_not_known_is_a_failure() -> None:
    engine = _Engine()
    [result] = _run([{"video": clip_bytes()}], engine, tasks={"a": "?", "b": {"prompt": "{fps}", "video": False}})
    assert result.rows[0]["a"] == "<?>"
    assert result.rows[0]["b_failure"].startswith("prompt: the prompt has {fps}, which is not known of <")


def test_second_tries_and_text_stages_go_together() -> None:
    def answer(work: Work) -> Any:
        [request] = work.requests
        return said("" if request.id.task == "short" and request.attempt == 1 else f"try {request.attempt}")

    [result] = _run([{"video": clip_bytes()}], ScriptedEngine(answer), tasks=TWO, retry_flagged=True)
    assert [caption.texts for caption in result.captions] == [("try 2",), ("try 1",)]
    assert result.captions[1].meta["prompt"] == "Rewrite: try 2"


def test_candidates_of_each_task_are_chosen_by_its_own_rule() -> None:
    tasks = {"one": "?", "all": {"prompt": "?", "keep": "all"}}
    engine = ScriptedEngine(lambda _: said("a", "b"))
    [result] = _run([{"video": clip_bytes()}], engine, tasks=tasks, num_captions=2)
    one, every = result.captions
    assert (len(one.kept), every.kept) == (1, (0, 1))


def test_each_video_of_a_row_has_all_tasks() -> None:
    [result] = _run([{"videos": [clip_bytes(), b"no clip"]}], _Engine(), tasks=TWO)
    [row] = result.rows
    assert row["both"] == ["<Rewrite: <Say it in one sentence.>>", None]
    assert [failure.split(":")[0] for failure in row["both_failure"]] == ["", "after"]
    assert [type(outcome) for outcome in result.outcomes] == [Caption, Caption, Failure, Failure]


def test_row_as_a_whole_fails_for_all_tasks() -> None:
    [result] = _run([{"video": 3}], _Engine(), tasks=TWO)
    assert len(result.outcomes) == 1
    [row] = result.rows
    assert row["short_failure"] == row["both_failure"] != ""


def test_structured_answers_are_values() -> None:
    fields = {"who": {"type": "string"}, "s": {"type": "number", "x-from": "duration"}}
    engine = _Engine(who=said('{"who": "a sheep"}'))
    tasks = {
        "who": {"schema": {"type": "object", "properties": fields}},
        "say": {"prompt": "Of {who}", "after": ["who"], "video": False},
    }
    [result] = _run([{"video": clip_bytes()}], engine, tasks=tasks)
    [row] = result.rows
    assert row["who"]["who"] == "a sheep"
    assert row["who"]["s"] > 0
    assert row["who_candidates"] == ['{"who": "a sheep"}']
    assert row["say"] == f"<Of {json.dumps(row['who'])}>", "with what the file says"


def test_answer_that_does_not_fit_its_schema_is_no_value() -> None:
    tasks = {"who": {"schema": {"type": "object", "properties": {"who": {"type": "string"}}}}}
    [result] = _run([{"video": clip_bytes()}], _Engine(who=said("a sheep")), tasks=tasks)
    [row] = result.rows
    assert (row["who"], row["who_failure"], row["who_meta"]["flags"]) == (None, "", "not_json")
    assert row["who_candidates"] == ["a sheep"]


def test_columns_that_are_chosen_are_written() -> None:
    [result] = _run([{"video": clip_bytes()}], _Engine(), tasks=TWO, columns="failure, text")
    assert list(result.rows[0]) == ["video", "short", "short_failure", "both", "both_failure"]
