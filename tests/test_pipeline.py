"""The flow: one outcome a request, in order, whatever the engine does."""

import copy
import itertools
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from threading import Event, Thread, Timer
from typing import Any

import pytest
from flow import (
    EOC,
    VIDEO,
    AskingEngine,
    KeepingEngine,
    ScriptedEngine,
    SlowRequests,
    ThreadedEngine,
    as_input,
    clip_bytes,
    named,
    prepared,
    put_clip,
    request,
    said,
)

from reelscribe import pipeline, under_way
from reelscribe.config import Settings
from reelscribe.engines import feed
from reelscribe.engines.base import Engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import ClipError, EngineError, SettingsError
from reelscribe.pipeline import answers_in_order, caption, caption_rows
from reelscribe.values import (
    NO_FRAMES,
    Caption,
    Clip,
    Failure,
    Generation,
    InputRow,
    Outcome,
    Request,
    RequestId,
    Row,
    RowResult,
    Work,
)

NO_CLIP = Clip(source=b"this is no video")


def _echo(batch_size: int = 1) -> ScriptedEngine:
    """An engine that says each request's prompt."""
    return ScriptedEngine(lambda item: said(item.requests[0].prompt), batch_size=batch_size)


def _caption(requests: Iterable[Request], engine: Engine, **settings: Any) -> list[Outcome]:
    return list(caption(requests, Settings(**settings), engine))


def _only(answer: Any, num_captions: int = 1, *, keep: str = "random_any", **settings: Any) -> Outcome:
    """The outcome of one request that an engine answers so."""
    engine = ScriptedEngine(lambda _: answer)
    (outcome,) = _caption([request(num_captions=num_captions, keep=keep)], engine, **settings)
    return outcome


def _rows(rows: Iterable[Row], engine: Engine, **settings: Any) -> list[RowResult]:
    return list(caption_rows(as_input(rows), Settings(**settings), engine))


def _clip_row(**columns: Any) -> Row:
    return {"video": clip_bytes(), **columns}


# Requests


def test_engine_that_takes_files_gets_no_frames_and_tells_its_own_details(monkeypatch: pytest.MonkeyPatch) -> None:
    def echo(item: Work) -> Any:
        assert item.frames is NO_FRAMES
        return said("text")

    monkeypatch.setattr("reelscribe.pipeline.decode_ahead", lambda *_, **__: pytest.fail("decoded"))
    engine = ScriptedEngine(echo)
    engine.info = replace(engine.info, wants_frames=False, details={"sent": "video"})
    (outcome,) = _caption([request(clip=NO_CLIP)], engine)
    assert isinstance(outcome, Caption)
    assert outcome.meta["sent"] == "video"
    assert not {"frame_timestamps", "frame_size", "video_tokens"} & set(outcome.meta)


def test_engine_that_takes_files_gets_none_from_outside_the_root_folder(tmp_path: Path) -> None:
    put_clip(tmp_path / "secret.mp4")
    put_clip(tmp_path / "root" / "a.mp4")
    engine = ScriptedEngine(lambda item: said(item.requests[0].clip.name))
    engine.info = replace(engine.info, wants_frames=False)
    clips = [Clip(source=source, root=tmp_path / "root") for source in ("../secret.mp4", "a.mp4", "http://10.0.0.1/a")]
    asked = [request(key=str(number), clip=clip) for number, clip in enumerate(clips)]
    first, good, last = _caption(asked, engine, root=str(tmp_path / "root"))
    assert isinstance(good, Caption)
    assert good.texts == ("a.mp4",)
    for outcome in (first, last):
        assert isinstance(outcome, Failure)
        assert outcome.kind == "refused"


def test_details_of_an_engine_win_over_what_the_flow_says() -> None:
    engine = _echo()
    engine.info = replace(engine.info, details={"video_tokens": None})
    (outcome,) = _caption([request()], engine)
    assert isinstance(outcome, Caption)
    assert outcome.meta["video_tokens"] is None
    assert outcome.meta["frame_timestamps"]


@pytest.mark.parametrize("batch_size", [1, 3, 5, 100])
def test_outcomes_come_in_the_order_of_the_requests_whatever_the_engine_does(batch_size: int) -> None:
    asked = [request(key=str(number), prompt=f"prompt {number}") for number in range(11)]
    outcomes = _caption(asked, _echo(batch_size))
    assert [outcome.id.task for outcome in outcomes] == [item.id.task for item in asked]
    assert [outcome.texts for outcome in outcomes if isinstance(outcome, Caption)] == [(item.prompt,) for item in asked]


@pytest.mark.parametrize("batch_size", [1, 4, 100])
@pytest.mark.parametrize("bad", [{0}, {9}, {3, 4, 5}, {0, 2, 4, 6, 8}, set(range(10))])
def test_failing_clip_costs_itself_alone(bad: set[int], batch_size: int) -> None:
    asked = [request(key=str(n), **({"clip": NO_CLIP} if n in bad else {})) for n in range(10)]
    outcomes = _caption(asked, _echo(batch_size))
    assert [outcome.id.task for outcome in outcomes] == [str(n) for n in range(10)]
    assert {int(item.id.task) for item in outcomes if isinstance(item, Failure)} == bad
    for failure in (item for item in outcomes if isinstance(item, Failure)):
        assert failure.kind == "unreadable"
        assert failure.video == "<16 bytes>"
        assert "cannot be opened as a video" in failure.message


def test_no_requests_give_no_outcomes() -> None:
    assert _caption([], _echo()) == []


def test_request_without_an_answer_becomes_a_failure() -> None:
    engine = ScriptedEngine(lambda item: None if item.requests[0].id.task == "1" else said("text"), batch_size=2)
    outcomes = _caption([request(key=str(n)) for n in range(4)], engine)
    assert [type(item) for item in outcomes] == [Caption, Failure, Caption, Caption]
    assert isinstance(outcomes[1], Failure)
    assert (outcomes[1].id.task, outcomes[1].kind) == ("1", "engine")
    assert outcomes[1].message == "the engine gave no answer to this request."


def test_failure_that_the_engine_answers_is_the_outcome() -> None:
    failure = Failure(id=named("0"), video="a.mp4", kind="engine", message="out of memory")
    assert _only(failure) is failure


def test_engine_that_breaks_stops_the_run_after_what_it_answered() -> None:
    outcomes = caption((request(key=str(n)) for n in itertools.count()), Settings(), FakeEngine(break_after=3))
    assert [next(outcomes).id.task for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(EngineError, match="breaks after 3 requests"):
        next(outcomes)


class _Disobedient(ScriptedEngine):
    """Answers one request, then as it was told."""

    def __init__(self, *keys: str) -> None:
        super().__init__(lambda _: said("text"))
        self._keys = keys

    def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
        next(requests)
        for key in self._keys:
            yield Generation(id=named(key), candidates=said("text"), prompt_tokens=1)


@pytest.mark.parametrize("keys", [("other",), ("0", "0")])
def test_answer_that_was_not_asked_for_breaks_the_run(keys: tuple[str, ...]) -> None:
    asked = f"{keys[-1]} of video 0 of row 0"
    with pytest.raises(EngineError, match=f"the engine answered {asked}, which it was not asked, or had answered"):
        _caption([request(key="0"), request(key="1")], _Disobedient(*keys))


def test_engine_that_stops_early_breaks_the_run_rather_than_losing_requests() -> None:
    with pytest.raises(EngineError, match="the engine stopped although there were requests left"):
        _caption([request(key="0"), request(key="1")], _Disobedient("0"))
    assert len(_caption([request(key="0"), request(key="1", clip=NO_CLIP)], _Disobedient("0"))) == 2


def test_requests_of_one_name_are_refused() -> None:
    name = "0 of video 0 of row 0"
    for clip in (Clip(source=clip_bytes()), NO_CLIP):
        with pytest.raises(SettingsError, match=f"two requests have the name {name}; each needs one of its own"):
            _caption([request(key="0", clip=clip), request(key="0")], _echo(2))


def test_engine_pulls_and_nothing_runs_far_ahead() -> None:
    pulled = []

    def requests() -> Iterator[Request]:
        for number in range(1000):
            pulled.append(number)
            yield request(key=str(number))

    outcomes = caption(requests(), Settings(prefetch_bytes=1), _echo())
    assert [next(outcomes).id.task for _ in range(5)] == ["0", "1", "2", "3", "4"]
    assert len(pulled) <= 7


# Slow sources


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Feeds that wait for a moment only."""
    monkeypatch.setattr(feed, "_PATIENCE_SECONDS", 0.01)
    monkeypatch.setattr(feed, "_END_SECONDS", 0.01)


@pytest.mark.parametrize("engine", [AskingEngine, KeepingEngine, ThreadedEngine, ScriptedEngine])
@pytest.mark.usefixtures("impatient")
def test_answers_are_recorded_while_a_slow_clip_is_waited_for(engine: Any) -> None:
    source = SlowRequests(*(request(key=str(number)) for number in range(5)))
    recorded: list[Outcome] = []
    outcomes = caption(source, Settings(prefetch_bytes=1), engine(lambda _: said("text")), record=recorded.append)
    for first, count in ((0, 2), (2, 1), (3, 2)):
        source.give(count)
        keys = [str(number) for number in range(first, first + count)]
        assert [next(outcomes).id.task for _ in keys] == keys
        assert [outcome.id.task for outcome in recorded][first:] == keys
    assert list(outcomes) == []


@pytest.mark.usefixtures("impatient")
def test_engine_that_iterates_is_left_alone_while_it_owes_nothing() -> None:
    engine = KeepingEngine(lambda _: said("text"), most=1)
    source = SlowRequests(*(request(key=str(number)) for number in range(3)))
    outcomes = caption(source, Settings(prefetch_bytes=1), engine)
    for _ in range(3):
        source.waited_for.clear()
        Timer(0.05, source.give).start()
        next(outcomes)
    assert list(outcomes) == []
    assert engine.streams == 1


@pytest.mark.usefixtures("impatient")
def test_requests_without_an_answer_do_not_hold_up_a_slow_source() -> None:
    engine = KeepingEngine(lambda item: None if item.requests[0].id.task == "0" else said("text"))
    source = SlowRequests(*(request(key=str(number)) for number in range(3)))
    source.give(2)
    recorded: list[Outcome] = []

    def record(outcome: Outcome) -> None:
        recorded.append(outcome)
        source.give()

    outcomes = list(caption(source, Settings(prefetch_bytes=1), engine, record=record))
    assert [outcome.id.task for outcome in recorded] == ["1", "2", "0"]
    assert [type(outcome) for outcome in outcomes] == [Failure, Caption, Caption]


@pytest.mark.parametrize("engine", [AskingEngine, KeepingEngine, ThreadedEngine, ScriptedEngine])
def test_error_where_requests_come_from_costs_no_answer(engine: Any) -> None:
    def requests() -> Iterator[Request]:
        yield from (request(key=str(number)) for number in range(3))
        raise OSError("the disk is away")

    outcomes = caption(requests(), Settings(prefetch_bytes=1), engine(lambda _: said("text")))
    assert [next(outcomes).id.task for _ in range(3)] == ["0", "1", "2"]
    with pytest.raises(OSError, match="the disk is away"):
        next(outcomes)


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_clips_that_pass_slow_ones_are_recorded_at_once_and_leave_in_their_place(
    batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decode_ahead(works: Iterator[Work], *_: Any, **__: Any) -> Iterator[Any]:
        while batch := list(itertools.islice(works, 4)):
            for item in reversed(batch):
                bad = item.clip == NO_CLIP
                yield item, ClipError("unreadable", "no video") if bad else prepared().frames

    monkeypatch.setattr(pipeline, "decode_ahead", decode_ahead)
    asked = [request(key=str(n), prompt=str(n), **({"clip": NO_CLIP} if n in (2, 7) else {})) for n in range(10)]
    recorded: list[Outcome] = []
    outcomes = list(caption(asked, Settings(), _echo(batch_size), record=recorded.append))
    assert [outcome.id.task for outcome in outcomes] == [str(n) for n in range(10)]
    assert sorted(recorded, key=lambda outcome: int(outcome.id.task)) == outcomes
    assert [outcome.id.task for outcome in recorded] != [outcome.id.task for outcome in outcomes]


@pytest.mark.usefixtures("impatient")
def test_broken_engine_ends_the_flow_though_its_source_waits() -> None:
    source = SlowRequests(request(key="0"), request(key="1"))

    def answer(item: Work) -> Any:
        assert source.waited_for.wait(20)
        raise EngineError("broken")

    source.give()
    with pytest.raises(EngineError, match="broken"):
        list(caption(source, Settings(prefetch_bytes=1), AskingEngine(answer)))
    source.give()  # only now, so that its thread ends


@pytest.mark.parametrize("broken", [True, False])
def test_clips_under_way_are_cancelled_where_nobody_wants_them(broken: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    decoding, given_up = Event(), Event()

    def decode_ahead(works: Iterator[Work], *_: Any, cancelled: Callable[[], bool], **__: Any) -> Iterator[Any]:
        yield next(works), prepared().frames
        decoding.set()
        until = time.monotonic() + 20
        while not cancelled() and time.monotonic() < until:
            Event().wait(0.004)
        if cancelled():
            given_up.set()

    def answer(_: Work) -> Any:
        assert decoding.wait(20)
        if broken:
            raise EngineError("broken")
        return said("text")

    monkeypatch.setattr(pipeline, "decode_ahead", decode_ahead)
    outcomes = caption([request()], Settings(), AskingEngine(answer))
    if broken:
        with pytest.raises(EngineError, match="broken"):
            next(outcomes)
    else:
        next(outcomes)
        outcomes.close()
    assert given_up.wait(20)


# Candidates


def test_caption_carries_where_it_comes_from() -> None:
    engine = ScriptedEngine(lambda _: said("one two", "three"))
    asked = request(num_captions=2, seed=5, system_prompt="Be brief.", keep="all")
    (outcome,) = _caption([asked], engine)
    assert isinstance(outcome, Caption)
    digest = outcome.meta.pop("prompt_sha256")
    assert len(digest) == 64
    assert outcome.meta == {
        "engine": "scripted",
        "model": "a script",
        "revision": "1",
        "prompt": "What happens?",
        "sampling": {},
        "seed": 5,
        "frame_timestamps": [0.0, 0.25, 0.5, 0.875],
        "file_timestamps": [0.0, 0.25, 0.5, 0.875],
        "clip_start": 0.0,
        "clip_end": 1.0,
        "file_seconds": 1.0,
        "frame_size": [64, 64],
        "fps": 4.0,
        "video_tokens": 8,
        "decoded_share": 1.0,
        "decoded_seconds": 1.0,
        "clip_flags": "",
        "fingerprint": "0010103030600000080c0c0606030300",
        "audio": None,
        "tone_mapped": "",
        "deinterlaced": False,
        "prompt_tokens": 10,
        "completion_tokens": [2, 1],
        "stop_reasons": ["stop", "stop"],
        "keep": "all",
        "kept": [0, 1],
        "reason": "all candidates are kept",
        "agreement": None,
        "faults": ["", ""],
        "scored": False,
        "retried_with": "",
        "mean_logprobs": None,
        "scores": ["", ""],
        "judge": "",
        "judged_by": "",
        "claims": ["", ""],
        "failed_claims": "",
        "verified_by": "",
        "flags": [],
        "try": 1,
        "tries": 1,
    }
    for other in ({"prompt": "Who?"}, {"system_prompt": None}):
        (changed,) = _caption([request(num_captions=2, **{"system_prompt": "Be brief."} | other)], engine)
        assert isinstance(changed, Caption)
        assert changed.meta["prompt_sha256"] != digest


@pytest.mark.parametrize("text", ["", " \n"])
def test_empty_text_is_a_failure_and_no_caption(text: str) -> None:
    outcome = _only(said(text))
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.message) == ("engine", "the model gave no text for 1 of 1 candidates.")


def test_empty_candidate_is_never_kept_where_another_has_text() -> None:
    for keep in ("random_any", "similar_one_simhash"):
        outcome = _only(said("", "text", ""), 3, keep=keep)
        assert isinstance(outcome, Caption)
        assert outcome.texts == ("text",)
        assert outcome.reason.endswith("; left out before: 2 with faults")


def test_empty_candidate_is_left_out_where_all_are_to_be_kept() -> None:
    outcome = _only(said("", "text", "?"), 3, keep="all")
    assert isinstance(outcome, Caption)
    assert (outcome.kept, outcome.meta["kept"], outcome.texts) == ((1,), [1], ("text",))
    assert outcome.reason == "all candidates are kept; left out before: 2 without words"
    assert [candidate.text for candidate in outcome.candidates] == ["", "text", "?"]
    silent = _only(said("", "?"), 2, keep="all")
    assert isinstance(silent, Failure)
    assert (silent.kind, silent.message) == ("engine", "the model gave no text for 2 of 2 candidates.")


@pytest.mark.parametrize("count", [0, 1, 3])
@pytest.mark.parametrize("keep", ["random_any", "all"])
def test_wrong_number_of_candidates_is_a_failure(count: int, keep: str) -> None:
    outcome = _only(said(*["text"] * count), 2, keep=keep)
    assert isinstance(outcome, Failure)
    assert (outcome.kind, outcome.message) == ("engine", f"the engine gave {count} candidates; asked for were 2.")


def test_cut_off_candidate_is_avoided_where_a_whole_one_exists() -> None:
    for keep in ("random_any", "similar_one_simhash"):
        outcome = _only(said("a sheep ...", "a whole one", "a dog ..."), 3, keep=keep)
        assert isinstance(outcome, Caption)
        assert outcome.kept == (1,)
        assert outcome.meta["flags"] == []


def test_cut_off_candidate_is_flagged_where_there_is_no_other() -> None:
    outcome = _only(said("a sheep ...", "a dog ..."), 2)
    assert isinstance(outcome, Caption)
    assert outcome.meta["flags"] == ["cut_off"]
    assert outcome.reason == "drawn from 2 candidates"


def test_cut_off_candidate_is_kept_and_flagged_among_all() -> None:
    outcome = _only(said("whole", "a sheep ..."), 2, keep="all")
    assert isinstance(outcome, Caption)
    assert outcome.kept == (0, 1)
    assert outcome.meta["flags"] == ["cut_off"]


def test_half_a_surrogate_pair_costs_its_row_in_a_prompt_and_nothing_in_a_text() -> None:
    rows = [_clip_row(ask="\ud83d", text="a"), _clip_row(ask="Who?", text="\udc00 \udc00")]
    odd, good = _rows(rows, FakeEngine(), prompt_key="ask")
    assert [failure.kind for failure in odd.failures] == ["prompt"]  # no tokenizer takes it
    assert len(good.captions) == 1
    (result,) = _rows([_clip_row(text="\udc00 \udc00")], FakeEngine(), keep="similar_one_simhash")
    assert len(result.captions) == 1


# Rows


@pytest.mark.parametrize("batch_size", [1, 3, 100])
def test_rows_come_in_order_and_none_is_lost(batch_size: int) -> None:
    rows: list[Row] = [
        {"id": 0},
        _clip_row(id=1),
        {"id": 2, "video": b"no video"},
        {"id": 3, "video": 3},
        {"id": 4, "videos": []},
        {"id": 5, "videos": [clip_bytes(), b"no video", clip_bytes()]},
        _clip_row(id=6),
        {"id": 7},
    ]
    results = _rows(rows, _echo(batch_size))
    assert [result.index for result in results] == list(range(8))
    assert [result.rows[0]["id"] for result in results] == list(range(8))
    assert [len(result.captions) for result in results] == [0, 1, 0, 0, 0, 2, 1, 0]
    assert [[failure.kind for failure in result.failures] for result in results] == [
        [], [], ["unreadable"], ["row"], [], ["unreadable"], [], [],
    ]  # fmt: skip
    text = "Describe the input video in 1-2 sentences."
    assert [result.rows[0]["caption"] for result in results] == [
        None, text, None, None, [], [text, None, text], text, None,
    ]  # fmt: skip


def test_rows_without_a_video_need_no_answer_of_the_engine() -> None:
    rows = [{"id": number} for number in range(3)]
    results = _rows(rows, FakeEngine(break_after=0))
    assert [result.rows[0]["id"] for result in results] == [0, 1, 2]
    assert _rows([], FakeEngine()) == []


def test_duplicates_of_a_row_are_rows_of_their_own_with_one_result() -> None:
    results = _rows([_clip_row(), _clip_row(), _clip_row()], _echo(2), num_captions=1)
    assert [result.index for result in results] == [0, 1, 2]
    assert results[0].rows == results[1].rows == results[2].rows


def test_row_that_the_reader_could_not_read_stays_with_its_problem() -> None:
    problem = Failure(id=named("0"), video=None, kind="row", message="line 1 is not a row.")
    rows = [InputRow(index=0, row={"unreadable_line": "{"}, problem=problem), *as_input([{}, _clip_row()])[1:]]
    results = list(caption_rows(rows, Settings(), _echo()))
    assert results[0].failures == (problem,)
    assert results[0].rows[0]["caption_meta"]["unreadable_line"] == "{"
    assert [len(result.captions) for result in results] == [0, 1]


def test_interleaved_rows_are_seen_by_their_tokens() -> None:
    rows: list[Row] = [{"text": "words", "videos": []}, {"text": f"{VIDEO}old", "videos": [clip_bytes()]}]
    results = _rows(rows, ScriptedEngine(lambda _: said("new")))
    assert [[row["text"] for row in result.rows] for result in results] == [
        ["words"],
        [f"{VIDEO}old", f"{VIDEO} new {EOC}"],
    ]


def _picks(rows: list[Row], batch_size: int = 1, **settings: Any) -> list[str]:
    engine = ScriptedEngine(lambda item: said("zero", "one", "two", "three"), batch_size=batch_size)
    return [result.rows[0]["caption"] for result in _rows(rows, engine, num_captions=4, prompt_key="ask", **settings)]


def test_what_a_row_gets_depends_on_neither_batch_nor_neighbours_nor_place() -> None:
    rows = [_clip_row(ask=f"row {number}") for number in range(12)]
    picks = _picks(rows)
    assert len(set(picks)) > 1
    assert _picks(rows, batch_size=5) == picks
    assert [_picks([row])[0] for row in rows] == picks
    assert _picks(rows[::-1])[::-1] == picks
    assert _picks([{}, {"video": b"no video"}, *rows])[2:] == picks


def test_another_seed_draws_other_candidates() -> None:
    rows = [_clip_row(ask=f"row {number}") for number in range(12)]
    assert _picks(rows, seed=1) != _picks(rows) == _picks(rows, seed=0)
    assert _picks(rows, sampling={"seed": 1}) == _picks(rows, seed=1)


@pytest.mark.parametrize("layout", ["interleaved", "columns"])
def test_rows_of_the_caller_are_never_changed(layout: str) -> None:
    rows: list[Row] = [{"text": f"{VIDEO}old", "videos": [clip_bytes()], "nested": {"a": [1]}}, {"text": None}]
    before = copy.deepcopy(rows)
    _rows(rows, FakeEngine(), layout=layout)
    assert rows == before


def test_rows_are_read_as_far_as_they_are_needed() -> None:
    read = []

    def rows() -> Iterator[InputRow]:
        for number in range(1000):
            read.append(number)
            yield InputRow(index=number, row=_clip_row())

    results = caption_rows(rows(), Settings(prefetch_bytes=1), FakeEngine())
    assert [next(results).index for _ in range(3)] == [0, 1, 2]
    assert len(read) <= 70


def test_what_is_no_video_in_a_list_costs_the_others_nothing() -> None:
    [row] = _rows([{"videos": [None, clip_bytes(), {"path": 5}]}], FakeEngine())
    assert [failure.kind for failure in row.failures] == ["row", "row"]
    assert "the list of videos holds something else here" in row.failures[0].message
    assert [bool(text) for text in row.rows[0]["caption"]] == [False, True, False]


def test_columns_that_are_named_and_nowhere_are_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    rows = [_clip_row(ask="What?"), _clip_row()]
    _rows(rows, FakeEngine(), prompt_key="ask")
    assert caplog.messages == []
    _rows(rows, FakeEngine(), prompt_key="aks", video_key="vid", text_key="caption_text")
    assert [message.removeprefix("None of the first rows has a column ") for message in caplog.messages] == [
        "'vid', which video_key names.",
        "'aks', which prompt_key names.",
        "'caption_text', which text_key names.",
    ]
    caplog.clear()
    _rows([{"text": "a clip", "file": "a.mp4"}], FakeEngine())
    assert caplog.messages == ["None of the first rows has a column 'video' or 'videos'; video_key names another one."]
    caplog.clear()
    [result] = _rows([_clip_row(text="")], FakeEngine(), keep="similar_one_simhash", num_captions=2)
    assert caplog.messages == [
        "None of the first rows has a text for captions to be near to; text_key names its column."
    ]
    assert result.captions[0].reason == "there is no original text to be near to"


def test_columns_that_would_be_replaced_end_the_run() -> None:
    rows = [_clip_row(), _clip_row(caption="old"), _clip_row(caption="old", caption_meta={})]
    with pytest.raises(SettingsError, match=r"have a column 'caption' and 'caption_meta' already, which would be lost"):
        _rows(rows, FakeEngine())
    [_, row, _] = [result.rows[0] for result in _rows(rows, FakeEngine(), tasks={"long": "Tell more."})]
    assert (row["caption"], row["long_failure"]) == ("old", "")
    [result] = _rows([{"text": VIDEO, "videos": [clip_bytes()], "caption": "old"}], FakeEngine())
    assert result.rows[1]["caption"] == "old"


# Rows that wait


@pytest.mark.parametrize("row", [{}, {"video": b"no video"}, {"video": 5}, None])
def test_long_run_of_rows_that_no_engine_sees_does_not_pile_up(
    row: Row | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WAITING_ROWS", 10)
    read = []

    def rows() -> Iterator[InputRow]:
        for number in itertools.count():
            read.append(number)
            problem = None if row is not None else Failure.of_row(number, "no row", "row")
            yield InputRow(index=number, row=row or {}, problem=problem)

    results = caption_rows(rows(), Settings(), FakeEngine())
    for number in range(200):
        assert next(results).index == number
        assert len(read) <= max(64, number + 11)


@pytest.mark.parametrize("waiting", [1, 2, 3, 7])
def test_what_comes_out_does_not_depend_on_how_many_rows_may_wait(
    waiting: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    good, bad = clip_bytes(), b"no video"
    rows: list[Row] = [{"videos": videos} for videos in ([good], [], [bad], [good, bad, good], [], [], [bad], [good])]
    whole = _rows(rows, _echo(3))
    monkeypatch.setattr(pipeline, "WAITING_ROWS", waiting)
    assert _rows(rows, _echo(3)) == whole


def test_large_rows_are_not_read_far_ahead(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PEEK_BYTES", 1000)
    monkeypatch.setattr(under_way, "_WAITING_BYTES", 1000)
    read = []

    def rows() -> Iterator[InputRow]:
        for number in range(100):
            read.append(number)
            yield InputRow(index=number, row={}, num_bytes=400)

    results = caption_rows(rows(), Settings(), FakeEngine())
    for number in range(100):
        assert next(results).index == number
        assert len(read) <= number + 3
    assert list(results) == []


def test_engine_is_drained_only_where_rows_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "_WAITING_BYTES", 1000)
    runs = []

    class Counted(ScriptedEngine):
        def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
            runs.append(0)
            return super().generate(requests)

    rows = (InputRow(index=number, row=_clip_row(), num_bytes=10) for number in range(200))
    assert len(list(caption_rows(rows, Settings(), Counted(lambda _: said("text"))))) == 200
    assert len(runs) == 1


@pytest.mark.parametrize("rows_that_fit", [1, 2, 5])
def test_large_rows_drain_no_engine_that_asks(rows_that_fit: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "_PEEK_BYTES", 400)
    monkeypatch.setattr(under_way, "_WAITING_BYTES", 400 * rows_that_fit)
    read = []

    def rows() -> Iterator[InputRow]:
        for number in range(30):
            read.append(number)
            yield InputRow(index=number, row=_clip_row(), num_bytes=400)

    engine = AskingEngine(lambda _: said("text"))
    for number, result in enumerate(caption_rows(rows(), Settings(), engine)):
        assert result.index == number
        assert len(read) <= number + 1 + rows_that_fit + 1
    assert len(read) == 30
    assert engine.streams == 1


def test_large_rows_drain_an_engine_that_iterates_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """It would wait for rows to leave, and they for it."""
    monkeypatch.setattr(feed, "_PATIENCE_SECONDS", 1000)
    monkeypatch.setattr(under_way, "_WAITING_BYTES", 1000)
    rows = (InputRow(index=number, row=_clip_row(), num_bytes=400) for number in range(30))
    engine = KeepingEngine(lambda _: said("text"))
    assert [result.index for result in caption_rows(rows, Settings(), engine)] == list(range(30))
    assert engine.streams > 1


@pytest.mark.parametrize("engine", [KeepingEngine, ThreadedEngine, ScriptedEngine])
def test_requests_without_an_answer_do_not_hold_up_rows_that_wait_for_room(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nothing would make room any more."""
    monkeypatch.setattr(pipeline, "WAITING_ROWS", 4)
    numbers = itertools.count()
    silent = engine(lambda _: None if next(numbers) == 1 else said("text"))
    results: list[RowResult] = []
    run = Thread(target=lambda: results.extend(caption_rows(as_input([_clip_row()] * 9), Settings(), silent)))
    run.daemon = True
    run.start()
    run.join(20)
    failed = [isinstance(result.outcomes[0], Failure) for result in results]
    assert len(failed) == 9
    assert sum(failed) == 1


def test_who_closes_the_flow_ends_a_source_that_waits_for_room(monkeypatch: pytest.MonkeyPatch) -> None:
    """Though the row that was given last has made some."""
    monkeypatch.setattr(pipeline, "WAITING_ROWS", 4)
    before = set(threading.enumerate())
    results = caption_rows(as_input([_clip_row()] * 9), Settings(), KeepingEngine(lambda _: said("text")))
    next(results)
    [source] = [each for each in threading.enumerate() if each.name == "reelscribe-feed" and each not in before]
    results.close()
    source.join(20)
    assert not source.is_alive()


def test_large_rows_that_no_engine_sees_leave_beside_those_that_it_has(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(under_way, "_WAITING_BYTES", 1000)
    kinds: list[Row] = [{}, _clip_row(), {"video": b"no video"}, {"videos": [b"no video", clip_bytes()]}]
    rows = [InputRow(index=n, row=kinds[n * 7 % 4 if n % 5 else 0], num_bytes=400) for n in range(40)]
    for engine in (AskingEngine(lambda _: said("text")), KeepingEngine(lambda _: said("text")), _echo(3)):
        assert [result.index for result in caption_rows(rows, Settings(), engine)] == list(range(40))


def test_result_carries_the_row_that_was_read() -> None:
    (item,) = as_input([_clip_row()])
    (result,) = caption_rows([item], Settings(), FakeEngine())
    assert result.origin is item


# What is known, and when to stop


class _Notes:
    """A memory that knows requests of some prompts, and asks others in its own words."""

    def __init__(self, known: Iterable[str] = ()) -> None:
        self.known = set(known)
        self.recorded: list[Outcome] = []

    def look_up(self, request: Request) -> Outcome | Request:
        if request.prompt in self.known:
            return Failure(id=request.id, video=None, kind="engine", message=f"known {request.prompt}")
        return replace(request, prompt=f"{request.prompt}!")

    def record(self, outcome: Outcome) -> Outcome:
        self.recorded.append(outcome)
        return outcome


def _asking(*prompts: str) -> list[Row]:
    return [_clip_row(ask=prompt) for prompt in prompts]


@pytest.mark.parametrize("batch_size", [1, 3, 100])
@pytest.mark.parametrize("waiting", [1, 2, 100])
@pytest.mark.parametrize("known", ["", "a", "f", "abc", "def", "bd", "abcdef"])
def test_what_is_known_is_not_made_and_comes_in_its_place(
    known: str, waiting: int, batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pipeline, "WAITING_ROWS", waiting)
    notes = _Notes(known)
    settings = Settings(prompt_key="ask")
    results = list(caption_rows(as_input(_asking(*"abcdef")), settings, _echo(batch_size), memory=notes))
    told = [result.rows[0]["caption_failure"] or result.rows[0]["caption"] for result in results]
    assert told == [f"engine: known {prompt}" if prompt in known else f"{prompt}!" for prompt in "abcdef"]
    assert [bool(result.known) for result in results] == [prompt in known for prompt in "abcdef"]
    assert sorted(item.id.row for item in notes.recorded) == [
        number for number, prompt in enumerate("abcdef") if prompt not in known
    ]


def test_row_of_which_a_part_is_known_is_filled_in_order() -> None:
    rows: list[Row] = [{"videos": [clip_bytes()] * 3, "ask": "a"}, {"videos": [clip_bytes()] * 2, "ask": "b"}]

    class Odd(_Notes):
        def look_up(self, request: Request) -> Outcome | Request:
            self.known = {request.prompt} if request.id[:2] in ((0, 1), (1, 0)) else set()
            return super().look_up(request)

    results = list(caption_rows(as_input(rows), Settings(prompt_key="ask"), _echo(2), memory=Odd()))
    assert [result.rows[0]["caption"] for result in results] == [["a!", None, "a!"], [None, "b!"]]
    assert [result.known for result in results] == [{RequestId(0, 1)}, {RequestId(1, 0)}]
    places = [outcome.id[:2] for result in results for outcome in result.outcomes]
    assert places == [(0, 0), (0, 1), (0, 2), (1, 0), (1, 1)]


def test_all_outcomes_are_recorded_as_soon_as_they_are_there_whatever_they_are() -> None:
    notes = _Notes()
    rows = [*_asking("never", "a"), {"video": b"no video", "ask": "x"}, *_asking("b"), {}]

    def answer(item: Work) -> Any:
        if item.requests[0].prompt == "b!":
            assert [outcome.id.row for outcome in notes.recorded] == [2], "the first row is not finished"
        return None if item.requests[0].prompt == "never!" else said(item.requests[0].prompt)

    results = caption_rows(
        as_input(rows), Settings(prompt_key="ask"), ScriptedEngine(answer, batch_size=4), memory=notes
    )
    assert len(list(results)) == 5
    assert [(outcome.id.row, type(outcome)) for outcome in notes.recorded] == [
        (2, Failure), (3, Caption), (1, Caption), (0, Failure),
    ]  # fmt: skip


def test_long_run_of_known_rows_does_not_pile_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pipeline, "WAITING_ROWS", 10)
    read = []

    def rows() -> Iterator[InputRow]:
        for number in itertools.count():
            read.append(number)
            yield InputRow(index=number, row=_clip_row(ask="a"))

    results = caption_rows(rows(), Settings(prompt_key="ask"), FakeEngine(break_after=0), memory=_Notes("a"))
    for number in range(200):
        assert next(results).index == number
        assert len(read) <= max(64, number + 11)


@pytest.mark.parametrize("batch_size", [1, 3])
def test_once_told_to_stop_rows_on_their_way_are_finished_and_no_other_is_begun(batch_size: int) -> None:
    notes = _Notes()
    results = caption_rows(
        as_input(_asking(*"abcdefghij") * 10),
        Settings(prompt_key="ask", prefetch_bytes=1),
        _echo(batch_size),
        memory=notes,
        stop=lambda: bool(notes.recorded),
    )
    done = [result.index for result in results]
    assert done == list(range(len(done)))
    assert len(done) == len(notes.recorded) <= batch_size + 2
    assert list(caption_rows(as_input(_asking("a")), Settings(), _echo(), stop=lambda: True)) == []


def test_answers_in_order_come_to_all_works_once_they_are_dropped() -> None:
    works = [Work(requests=(request(key=str(number)),)) for number in range(40)]
    answers: list[tuple[Any, ...]] = []
    for each in answers_in_order(works, Settings(decoders=1), FakeEngine(), drop=lambda: len(answers) >= 2):
        answers.append(each)
    assert len(answers) == len(works)
    assert [len(each) for each in answers[:2]] == [1, 1]
    assert answers[-1] == (), "what the engine has not begun has no answer"
