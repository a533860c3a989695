"""Rows to what is asked about them, and captions back into rows."""

import copy
from dataclasses import replace
from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow import EOC, VIDEO, named, said

from reelscribe.asking import RowPlan
from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.layouts import LAYOUTS, caption_cells, choose_layout, clips_of, columns_used, videos_of
from reelscribe.outcomes import choose, once_more
from reelscribe.stretches import split_fragment
from reelscribe.tasks import DEFAULT_PROMPT, Task
from reelscribe.values import CAPTION_META, Answer, Caption, Clip, Failure, Outcome, Request, RequestId, Row


def _plan(row: Row, layout: str = "interleaved", index: int = 0, **settings: Any) -> RowPlan:
    return LAYOUTS[layout].plan(row, index, Settings(**settings), None)


def _requests(plan: RowPlan) -> list[Request]:
    made = [plan.request(name, {}) for name in plan.asked()]
    return [each for each in made if isinstance(each, Request)]


def _caption(*texts: str, kept: tuple[int, ...] = (0,)) -> Caption:
    return Caption(id=RequestId(0, 0), kept=kept, reason="", candidates=said(*texts), meta={"model": "m"})


def _filled(row: Row, *outcomes: Outcome, layout: str = "interleaved", **settings: Any) -> list[Row]:
    """The rows that come out, having made sure that the row that went in is as it was."""
    before = copy.deepcopy(row)
    plan = _plan(row, layout, **settings)
    assert len(plan.asked()) == len(outcomes)
    made = LAYOUTS[layout].fill(plan, outcomes, Settings(**settings))
    assert row == before
    return made


FAILURE = Failure(id=RequestId(0, 0), video="b.mp4", kind="missing", message="there is no such file.")


# Interleaved


def test_caption_takes_the_place_of_the_words_behind_its_token() -> None:
    row = {"videos": ["a.mp4"], "text": f"{VIDEO}a sheep talks{EOC}", "id": 7}
    assert _filled(row, _caption("A sheep.")) == [row, {**row, "text": f"{VIDEO} A sheep. {EOC}"}]


def test_original_is_left_out_on_request() -> None:
    row = {"videos": ["a.mp4"], "text": VIDEO}
    assert _filled(row, _caption("A."), original=False) == [{**row, "text": f"{VIDEO} A. {EOC}"}]


def test_each_video_of_a_chunk_gets_its_own_caption_behind_its_own_token() -> None:
    row = {"videos": ["a.mp4", "b.mp4"], "text": f"{VIDEO}{VIDEO}two clips"}
    made = _filled(row, _caption("first"), _caption("second"))
    assert made[1]["text"] == f"{VIDEO} first {VIDEO} second {EOC}"


def test_chunks_without_a_video_are_left_out_and_other_tokens_stay() -> None:
    text = f"intro{EOC}<__dj__image>see {VIDEO}one<__dj__audio>{EOC}between{EOC} {EOC}{VIDEO} two{EOC}"
    made = _filled({"videos": ["a.mp4", "b.mp4"], "text": text}, _caption("A."), _caption("B."))
    assert made[1]["text"] == f"<__dj__image>{VIDEO} A. <__dj__audio>{EOC}{VIDEO} B. {EOC}"


def test_mode_all_gives_a_row_for_each_candidate() -> None:
    row = {"videos": ["a.mp4", "b.mp4"], "text": f"{VIDEO}{EOC}{VIDEO}"}
    outcomes = [_caption("a0", "a1", kept=(0, 1)), _caption("b0", "b1", kept=(0, 1))]
    made = _filled(row, *outcomes, keep="all", num_captions=2, original=False)
    assert [item["text"] for item in made] == [f"{VIDEO} a{n} {EOC}{VIDEO} b{n} {EOC}" for n in (0, 1)]


def test_only_kept_candidates_are_written() -> None:
    made = _filled({"videos": ["a.mp4"], "text": VIDEO}, _caption("zero", "one", kept=(1,)), original=False)
    assert [item["text"] for item in made] == [f"{VIDEO} one {EOC}"]


@pytest.mark.parametrize("original", [True, False])
def test_row_of_which_a_video_failed_stays_as_it_is(original: bool) -> None:
    row = {"videos": ["a.mp4", "b.mp4"], "text": f"{VIDEO}{VIDEO}"}
    assert _filled(row, _caption("A."), FAILURE, original=original) == [row]


@pytest.mark.parametrize("original", [True, False])
@pytest.mark.parametrize("videos", [{}, {"videos": None}, {"videos": []}])
@pytest.mark.parametrize("text", ["words alone", VIDEO, None])
def test_row_without_videos_stays_as_it_is(videos: Row, text: str | None, original: bool) -> None:
    row = {"text": text, **videos}
    assert _plan(row).problem is None
    assert _filled(row, original=original) == [row]


def test_surplus_videos_are_not_asked_for() -> None:
    plan = _plan({"videos": ["a.mp4", "b.mp4", "c.mp4"], "text": f"{VIDEO}{VIDEO}"})
    assert [item.clip.source for item in plan.subjects] == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize(
    ("row", "kind", "message"),
    [
        ({"text": "no token", "videos": ["a.mp4"]}, "prompt", f"the text has no {VIDEO}, but the row has 1 video"),
        ({"text": VIDEO * 3, "videos": ["a.mp4"] * 2}, "prompt", f"has 3 {VIDEO}, but the row only 2 video"),
        ({"text": None, "videos": ["a.mp4"]}, "prompt", f"column 'text' must hold text with {VIDEO}; got nothing"),
        ({"text": [VIDEO], "videos": ["a.mp4"]}, "prompt", f"column 'text' must hold text with {VIDEO}; got list"),
        ({"text": VIDEO, "videos": 3}, "row", "column 'videos' must hold paths or bytes of videos; got int"),
        ({"text": VIDEO, "videos": {"name": "a"}}, "row", "must hold paths or bytes of videos; got dict"),
        ({"text": VIDEO, "videos": {"bytes": None, "path": 3}}, "row", "must hold paths or bytes of videos; got int"),
        ({"text": VIDEO, "videos": b""}, "row", "must hold paths or bytes of videos; got empty bytes"),
    ],
)
def test_row_that_cannot_be_captioned_is_a_problem_and_stays(row: Row, kind: str, message: str) -> None:
    plan = _plan(row, index=5)
    assert plan.asked() == ()
    assert plan.problem is not None
    assert (plan.problem.id, plan.problem.kind, plan.problem.video) == (RequestId(5, None), kind, None)
    assert message in plan.problem.message
    assert LAYOUTS["interleaved"].fill(plan, (), Settings(original=False)) == [row]


@pytest.mark.parametrize(
    ("value", "videos", "listed"),
    [
        ({"bytes": b"x", "path": "a.mp4"}, [b"x"], False),
        ({"bytes": None, "path": "a.mp4"}, ["a.mp4"], False),
        ({"path": "a.mp4"}, ["a.mp4"], False),
        ({"bytes": None, "path": None}, [], False),
        ([{"bytes": b"x"}, {"path": "b.mp4"}, "c.mp4"], [b"x", "b.mp4", "c.mp4"], True),
    ],
)
def test_videos_may_be_tables_of_bytes_and_path(value: Any, videos: list[Any], listed: bool) -> None:
    assert videos_of({"video": value}, Settings()) == (videos, listed)


def test_columns_that_the_flow_looks_at() -> None:
    added = {"caption", "caption_candidates", "caption_meta", "caption_failure"}
    assert columns_used(Settings()) == {"video", "videos", "text", "start", "end", "stretches", *added}
    tasks = {"long": {"prompt_key": "ask"}, "said": {"prompt": "{speech} {long} {fps}", "after": ["long"]}}
    others: dict[str, Any] = {"start_key": "from", "end_key": "", "stretches_key": ""}
    named = Settings(video_key="clip", text_key="title", columns="meta,text", tasks=tasks, **others)
    assert columns_used(named) == {
        "clip",
        "title",
        "from",
        "ask",
        "speech",
        "fps",
        "long",
        "long_meta",
        "said",
        "said_meta",
    }


def test_reference_is_the_text_of_the_chunk_without_tokens() -> None:
    plan = _plan({"videos": ["a.mp4"] * 3, "text": f"{VIDEO}{VIDEO} a sheep<__dj__image> {EOC}{VIDEO}a dog"})
    assert [item.reference for item in plan.subjects] == ["a sheep", "a sheep", "a dog"]


def test_tokens_come_from_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("_DJ_SPECIAL_TOKEN_VIDEO", "[V]")
    monkeypatch.setenv("_DJ_SPECIAL_TOKEN_EOC", "[E]")
    monkeypatch.setenv("_DJ_SPECIAL_TOKEN_IMAGE", "[I]")
    row = {"videos": ["a.mp4"], "text": f"words[E][I][V]{VIDEO}old"}
    assert _filled(row, _caption("new"))[1]["text"] == "[I][V] new [E]"


def test_empty_token_in_the_environment_is_no_token(monkeypatch: pytest.MonkeyPatch) -> None:
    for kind in ("VIDEO", "EOC", "IMAGE"):
        monkeypatch.setenv(f"_DJ_SPECIAL_TOKEN_{kind}", "")
    row = {"videos": ["a.mp4"], "text": f"{VIDEO}old"}
    assert _filled(row, _caption("new"))[1]["text"] == f"{VIDEO} new {EOC}"


@pytest.mark.parametrize("token", [VIDEO, EOC, "<__dj__image>", "<__dj__audio>"])
def test_token_in_a_caption_is_broken_and_stands_for_nothing(token: str) -> None:
    row = {"videos": ["a.mp4"], "text": f"{VIDEO}old"}
    text = _filled(row, _caption(f"It shows {token} twice: {token}"))[1]["text"]
    broken = f"{token[0]} {token[1:]}"
    assert text == f"{VIDEO} It shows {broken} twice: {broken} {EOC}"


# Columns


def _told(meta: Row) -> Row:
    """What is not empty in the metadata of a video."""
    return {name: value for name, value in meta.items() if value is not None}


def test_single_video_gets_plain_cells() -> None:
    made = _filled({"video": "a.mp4", "id": 7}, _caption("zero", "one", kept=(1,)), layout="columns")
    (row,) = made
    assert row | {"caption_meta": {}} == {
        **{"video": "a.mp4", "id": 7},
        **{"caption": "one", "caption_candidates": ["zero", "one"], "caption_meta": {}, "caption_failure": ""},
    }
    assert row["caption_meta"]["model"] == "m"


def test_list_of_videos_gets_lists_also_if_there_is_one() -> None:
    made = _filled({"videos": ["a.mp4"]}, _caption("A."), layout="columns")
    assert (made[0]["caption"], made[0]["caption_candidates"]) == (["A."], [["A."]])
    made = _filled({"videos": ["a.mp4", "b.mp4"]}, _caption("A."), FAILURE, layout="columns")
    assert made[0]["caption"] == ["A.", None]
    assert made[0]["caption_candidates"] == [["A."], []]
    assert made[0]["caption_failure"] == ["", "missing: there is no such file."]
    assert _told(made[0]["caption_meta"][1]) == {}


def test_failed_video_has_no_caption_and_says_why() -> None:
    made = _filled({"video": "b.mp4"}, FAILURE, layout="columns")
    assert _told(made[0].pop("caption_meta")) == {}
    failure = "missing: there is no such file."
    assert made == [{"video": "b.mp4", "caption": None, "caption_candidates": [], "caption_failure": failure}]


def test_row_with_a_problem_stays_and_says_why() -> None:
    row = {"video": 3}
    made = LAYOUTS["columns"].fill(_plan(row, "columns"), (), Settings())
    assert made[0]["video"] == 3
    assert made[0]["caption"] is None
    assert made[0]["caption_failure"].startswith("row: column 'video' must hold paths")


@pytest.mark.parametrize(
    ("row", "empty"),
    [({}, (None, [], None, "")), ({"video": None}, (None, [], None, "")), ({"videos": []}, ([], [], [], []))],
)
def test_row_without_videos_gets_empty_cells(row: Row, empty: tuple[Any, ...]) -> None:
    made = _filled(row, layout="columns")
    assert made == [{**row, **dict(zip(Settings().added_columns, empty, strict=True))}]


def test_older_caption_of_a_row_that_comes_late_stays_and_is_its_failure() -> None:
    row = {"video": "a.mp4", "caption": "old", "caption_meta": {"model": "other"}}
    [made] = _filled(row, layout="columns")
    assert made["caption_failure"].startswith("row: the row has a column 'caption' and 'caption_meta' already, which")
    assert made == {**row, "caption_candidates": [], "caption_failure": made["caption_failure"]}


def test_older_caption_of_a_row_without_videos_stays() -> None:
    row = {"image": "a.png", "caption": "a picture of a sheep"}
    assert _filled(row, layout="columns")[0] == {
        **row,
        **{"caption_candidates": [], "caption_meta": None, "caption_failure": ""},
    }


def test_rows_do_not_share_their_empty_cells() -> None:
    first, second = (_filled({"video": None}, layout="columns")[0] for _ in range(2))
    first["caption_candidates"].append("changed")
    assert second["caption_candidates"] == []


def test_reference_is_the_text_column() -> None:
    plan = _plan({"video": "a.mp4", "title": "a sheep"}, "columns", text_key="title")
    assert plan.subjects[0].reference == "a sheep"
    assert _plan({"video": "a.mp4", "text": 3}, "columns").subjects[0].reference == ""


# Both


@pytest.mark.parametrize(
    ("row", "settings", "found"),
    [
        ({"video": "a.mp4"}, {}, (["a.mp4"], False)),
        ({"videos": ["a.mp4", b"raw"]}, {}, (["a.mp4", b"raw"], True)),
        ({"videos": ("a.mp4",)}, {}, (["a.mp4"], True)),
        ({"videos": ["a.mp4"], "video": "b.mp4"}, {}, (["a.mp4"], True)),
        ({"clip": "a.mp4", "video": "b.mp4"}, {"video_key": "clip"}, (["a.mp4"], False)),
        ({"video": "b.mp4"}, {"video_key": "clip"}, ([], False)),
        ({"videos": None}, {}, ([], False)),
        ({"videos": [None, "a.mp4", 3, "", b"", {"path": 3}]}, {}, (["", "a.mp4", "", "", "", ""], True)),
    ],
)
def test_videos_are_found_in_their_column(row: Row, settings: Row, found: tuple[list[Any], bool]) -> None:
    assert videos_of(row, Settings(**settings)) == found


def test_what_is_no_video_is_told() -> None:
    with pytest.raises(ClipError, match="column 'clip' must hold paths or bytes of videos; got float"):
        videos_of({"clip": 1.5}, Settings(video_key="clip"))


@pytest.mark.parametrize(
    ("row", "settings", "prompt"),
    [
        ({}, {}, DEFAULT_PROMPT),
        ({}, {"prompt": "What?"}, "What?"),
        ({"ask": "Who?"}, {"prompt": "What?", "prompt_key": "ask"}, "Who?"),
        ({}, {"prompt": "What?", "prompt_key": "ask"}, "What?"),
        ({"ask": None}, {"prompt": "What?", "prompt_key": "ask"}, "What?"),
        ({"ask": ""}, {"prompt": "What?", "prompt_key": "ask"}, "What?"),
        ({"ask": " \n"}, {"prompt": "What?", "prompt_key": "ask"}, "What?"),
        ({"ask": " \n"}, {"prompt_key": "ask"}, DEFAULT_PROMPT),
    ],
)
def test_prompt_of_the_row_comes_before_that_of_the_settings(row: Row, settings: Row, prompt: str) -> None:
    [request] = _requests(_plan({"video": "a.mp4", **row}, "columns", **settings))
    assert request.prompt == prompt
    assert DEFAULT_PROMPT == "Describe the input video in 1-2 sentences."


@pytest.mark.parametrize("layout", ["columns", "interleaved"])
@pytest.mark.parametrize(("own", "got"), [(3, "int"), (["Who?"], "list"), (True, "bool"), ({"q": 1}, "dict")])
def test_prompt_of_a_row_that_is_no_text_is_a_failure(own: Any, got: str, layout: str) -> None:
    row = {"videos": ["a.mp4"], "text": VIDEO if layout == "interleaved" else "", "ask": own}
    plan = _plan(row, layout, prompt="What?", prompt_key="ask")
    [name] = plan.asked()
    failed = plan.request(name, {})
    assert isinstance(failed, Failure)
    assert (failed.id, failed.video, failed.kind) == (RequestId(0, 0), "a.mp4", "prompt")
    assert failed.message == f"column 'ask' must hold the row's prompt as text; got {got}."


def test_prompt_of_a_row_with_half_a_surrogate_pair_is_a_failure() -> None:
    plan = _plan({"video": "a.mp4", "ask": "What is \ud83d?"}, "columns", prompt_key="ask")
    failed = plan.request(RequestId(0, 0), {})
    assert isinstance(failed, Failure)
    assert (failed.kind, failed.message) == (
        "prompt",
        "column 'ask' must hold the row's prompt as text; it holds half a surrogate pair.",
    )


def test_request_carries_what_the_settings_say() -> None:
    root = Path("/data")
    settings = Settings(num_captions=3, system_prompt="Be brief.", sampling={"temperature": 0.5})
    (made,) = _requests(LAYOUTS["columns"].plan({"video": "a.mp4"}, 7, settings, root))
    assert made.id == RequestId(7, 0)
    assert made.clip.path == root / "a.mp4"
    assert (made.num_captions, made.system_prompt, made.sampling.temperature) == (3, "Be brief.", 0.5)


def _seed(row: Row, *, index: int = 0, slot: int = 0, **settings: Any) -> int:
    return _requests(_plan(row, "columns", index=index, **settings))[slot].seed


def test_seed_depends_on_the_content_of_the_row_alone() -> None:
    row = {"videos": ["a.mp4", "a.mp4"], "text": "old"}
    seed = _seed(row)
    assert all(0 <= _seed({"video": f"{number}.mp4"}) < 1 << 63 for number in range(64))
    assert seed == _seed({**row, "id": 3}, index=99)
    assert seed == _seed({**row, "text": "new"}), "which no prompt names"
    assert seed == _seed(row, num_captions=4, batch_size=1)
    others = {
        _seed(row, slot=1),
        _seed({**row, "videos": ["b.mp4"]}),
        _seed(row, seed=1),
        _seed(row, prompt="What?"),
        _seed(row, system_prompt="Be brief."),
    }
    assert len(others - {seed}) == 5


def test_seed_among_the_sampling_parameters_overrides_that_of_the_run() -> None:
    row = {"video": "a.mp4"}
    assert _seed(row, seed=1, sampling={"seed": 5}) == _seed(row, seed=5) != _seed(row, seed=1)


def test_half_a_surrogate_pair_in_a_row_is_no_hindrance() -> None:
    assert _seed({"video": "a\ud83d.mp4", "text": "\udc00"}) != _seed({"video": "a.mp4", "text": "\udc00"})


@pytest.mark.parametrize(
    ("texts", "settings", "layout"),
    [
        (["plain", f"{VIDEO}x"], {}, "interleaved"),
        (["plain", None, 3], {}, "columns"),
        ([], {}, "columns"),
        ([f"{VIDEO}x"], {"layout": "columns"}, "columns"),
        (["plain"], {"layout": "interleaved"}, "interleaved"),
        ([f"{VIDEO}x"], {"text_key": "title"}, "columns"),
    ],
)
def test_layout_is_seen_by_the_tokens_unless_told(texts: list[Any], settings: Row, layout: str) -> None:
    rows = [{"text": text, "videos": ["a.mp4"]} for text in texts]
    assert choose_layout(rows, Settings(**settings)).subjects is LAYOUTS[layout].subjects


def test_token_in_a_row_after_the_layout_was_chosen_is_a_failure_unless_columns_are_set() -> None:
    row = {"videos": ["a.mp4"], "text": f"{VIDEO} old"}
    layout = choose_layout([{"videos": ["a.mp4"], "text": "plain"}], Settings())
    problem = layout.plan(row, 64, Settings(), None).problem
    assert problem is not None
    assert problem.kind == "prompt"
    assert "set layout to interleaved" in problem.message
    assert layout.plan(row, 64, Settings(layout="columns"), None).problem is None


@pytest.mark.parametrize("videos", ["a.mp4", ["a.mp4"], 3, None])
@pytest.mark.parametrize("listed", [True, False])
def test_metadata_has_the_same_keys_and_the_shape_of_the_column_whatever_came_of_it(videos: Any, listed: bool) -> None:
    before = [{"video": ["b.mp4"] if listed else "b.mp4"}]
    layout = choose_layout(before, Settings())
    row = {"video": videos}
    outcomes: list[Outcome] = [_caption("A.")] if isinstance(videos, str | list) else []
    problem = replace(FAILURE, id=RequestId(0, None), kind="row")
    for made in (outcomes, [FAILURE] if outcomes else [], None):
        plan = RowPlan(index=0, row=row, settings=Settings(), problem=problem if made is None else None)
        meta = layout.fill(plan, made or [], Settings())[0]["caption_meta"]
        several = isinstance(videos, list) or (videos is None and listed)
        assert isinstance(meta, list) == several or (meta is None and not outcomes and made is not None)
        for each in meta if isinstance(meta, list) else [meta] if meta else []:
            assert list(each) == [*CAPTION_META]


def _meta(caption: Caption) -> Row:
    meta: Row = caption_cells(caption, Task())["meta"]
    return meta


def test_records_of_the_first_release_get_the_same_keys_and_types() -> None:
    told = {"keep": "all", "faults": [""], "seed": 5, "flags": ["truncated"], "sampling": {"top_k": 5}}
    frames = {"frame_timestamps": [0.0, 0.5], "decoded_share": 0.5}
    old = Caption(id=RequestId(0), kept=(0,), reason="", candidates=said("A."), meta=told | frames)
    meta, whole = _meta(old), _meta(replace(old, meta={**told, **frames, "flags": []}))
    assert (list(meta), meta["flags"], meta["sampling"]) == ([*CAPTION_META], "truncated", '{"top_k": 5}')
    assert (whole["flags"], whole["clip_flags"]) == ("", "")
    assert _meta(replace(old, meta={**told, "frame_timestamps": [0.0]}))["decoded_share"] == 1.0
    asked = Request(id=named("0:0"), clip=Clip(source="a.mp4"), prompt="?")
    chosen = choose(asked, Answer(id=asked.id, candidates=old.candidates, meta=old.meta))
    assert chosen.meta["flags"] == ["truncated"]
    meta = _meta(chosen)
    assert (meta["clip_flags"], meta["tone_mapped"], meta["deinterlaced"]) == ("truncated", "", False)


def test_seed_of_a_second_try_has_no_more_bits() -> None:
    asked = Request(id=named("0:0"), clip=Clip(source="a.mp4"), prompt="?")
    first = Answer(id=asked.id, candidates=(), meta={"faults": []})
    assert all(0 <= once_more(replace(asked, seed=number), first).seed < 1 << 63 for number in range(64))


# Stretches


def _stretches(row: Row, **settings: Any) -> list[tuple[str | bytes, float, float | None]]:
    return [(clip.source, clip.start_seconds, clip.end_seconds) for clip in clips_of(row, Settings(**settings))]


@pytest.mark.parametrize(
    ("start", "end", "seconds"),
    [
        (12, 18.5, (12.0, 18.5)),
        ("12", "18.5", (12.0, 18.5)),
        ("00:00:12", "00:00:18.500", (12.0, 18.5)),
        ("01:02", "1:01:02,25", (62.0, 3662.25)),
        (None, 5, (0.0, 5.0)),
        ("", "5s", (0.0, 5.0)),
        (7, None, (7.0, None)),
        (7.0, float("nan"), (7.0, None)),
        (None, None, (0.0, None)),
        ("75:30", "1:15:31", (4530.0, 4531.0)),
        (Decimal("1.5"), timedelta(seconds=3.5), (1.5, 3.5)),
        (np.float32(1.5), np.int64(3), (1.5, 3.0)),
        (np.float32("nan"), Decimal("NaN"), (0.0, None)),
    ],
)
def test_columns_say_where_a_clip_begins_and_ends(start: Any, end: Any, seconds: tuple[float, float | None]) -> None:
    assert _stretches({"video": "a.mp4", "start": start, "end": end}) == [("a.mp4", *seconds)]


def test_columns_of_times_have_the_names_that_are_set() -> None:
    row = {"video": "a.mp4", "start": "x", "end": [], "from": 1, "to": 2, "parts": [[3, 4]]}
    assert _stretches(row, start_key="from", end_key="to") == [("a.mp4", 1.0, 2.0)]
    assert _stretches(row, start_key="", end_key="", stretches_key="parts") == [("a.mp4", 3.0, 4.0)]
    assert _stretches(row, start_key="", end_key="") == [("a.mp4", 0.0, None)]


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("a.mp4#t=12,18.5", ("a.mp4", 12.0, 18.5)),
        ("a.mp4#t=12", ("a.mp4", 12.0, None)),
        ("a.mp4#t=,18", ("a.mp4", 0.0, 18.0)),
        ("a.mp4#t=npt:0:02,0:01:00.5", ("a.mp4", 2.0, 60.5)),
        ("https://example.org/a.mp4?b=c#t=1,2", ("https://example.org/a.mp4?b=c", 1.0, 2.0)),
        ("a.mp4#t=1%2C2", ("a.mp4", 1.0, 2.0)),
        ("a#2.mp4", ("a#2.mp4", 0.0, None)),
        ("a.mp4#track=1", ("a.mp4#track=1", 0.0, None)),
    ],
)
def test_the_end_of_a_path_names_a_stretch(path: str, found: tuple[str, float, float | None]) -> None:
    assert _stretches({"video": path}) == [found]


def test_a_file_that_is_called_like_a_stretch_is_that_file(tmp_path: Path) -> None:
    (tmp_path / "a.mp4#t=1,2").touch()
    [clip] = clips_of({"video": "a.mp4#t=1,2"}, Settings(), tmp_path)
    assert (clip.source, clip.is_whole) == ("a.mp4#t=1,2", True)


def test_a_list_of_stretches_makes_several_clips_of_one_video() -> None:
    row = {"video": "a.mp4", "stretches": [[0, 2], ("00:02", None), {"start": 5, "end": 6, "scene": 1}]}
    assert _stretches(row) == [("a.mp4", 0.0, 2.0), ("a.mp4", 2.0, None), ("a.mp4", 5.0, 6.0)]


def test_lists_of_times_belong_to_the_videos_of_a_list() -> None:
    row = {"videos": ["a.mp4", "b.mp4"], "start": [0, 5]}
    assert _stretches(row) == [("a.mp4", 0.0, None), ("b.mp4", 5.0, None)]


@pytest.mark.parametrize(
    ("row", "says"),
    [
        ({"video": "a.mp4", "start": "2024-01-01"}, "a time is seconds, or HH:MM:SS.mmm; got '2024-01-01'"),
        ({"video": "a.mp4", "start": 10**400}, "a time is seconds, or HH:MM:SS.mmm; got a number that is too large"),
        ({"video": "a.mp4", "start": 10**5000}, "a time is seconds, or HH:MM:SS.mmm; got a number that is too large"),
        ({"video": "a.mp4", "start": "9" * 400}, f"a time is seconds, or HH:MM:SS.mmm; got '{'9' * 79}..."),
        ({"video": "a.mp4", "start": "9" * 5000 + ":30"}, "a time is seconds"),
        ({"video": "a.mp4", "end": 1e308}, "a time is seconds, or HH:MM:SS.mmm; got 1e+308"),
        ({"video": "a.mp4", "start": "1:75:30"}, "a time is seconds"),
        ({"video": "a.mp4", "start": ".5"}, "a time is seconds"),
        ({"video": "a.mp4", "start": True}, "a time is seconds"),
        ({"video": "a.mp4", "end": float("inf")}, "a time is seconds"),
        ({"video": "a.mp4#t=x"}, "a time is seconds"),
        ({"video": "a.mp4#t="}, "there must be times"),
        ({"video": "a.mp4#t=1,"}, "there must be times"),
        ({"video": "a.mp4#t=1,2&track=x"}, "only times are read, as #t=12,18; got 't=1,2&track=x'"),
        ({"video": "a.mp4#t=1,2", "start": 1}, "names a stretch, and so does a column"),
        ({"video": "a.mp4", "stretches": [[1, 2]], "start": 5}, "'stretches' and 'start' both name stretches"),
        ({"video": "a.mp4", "stretches": [[1, 2, 3]]}, "a stretch is a pair of times"),
        ({"video": "a.mp4", "stretches": "1-2"}, "a stretch is a pair of times"),
        ({"videos": ["a.mp4", "b.mp4"], "stretches": [[1, 2]]}, "the row has 2"),
        ({"videos": ["a.mp4", "b.mp4"], "start": 1}, "must hold a list with one for each"),
        ({"videos": ["a.mp4", "b.mp4"], "start": [1]}, "one time for each"),
    ],
)
def test_what_names_no_stretch_is_a_failure_of_the_row(row: Row, says: str) -> None:
    plan = _plan(row, "columns")
    assert plan.problem
    assert plan.problem.kind == "row"
    assert says in plan.problem.message


@pytest.mark.parametrize(
    ("row", "column", "setting"),
    [
        ({"start": "2020-01-01", "end": 3}, "column 'start': ", "start_key"),
        ({"start": 3, "end": "2020-01-01"}, "column 'end': ", "end_key"),
        ({"stretches": [[0, 1], "2020-01-01"]}, "column 'stretches', entry 1: ", "stretches_key"),
        ({"stretches": [[0, "never"]]}, "column 'stretches', entry 0: ", "stretches_key"),
    ],
)
def test_of_a_column_that_means_something_else_it_says_how_to_leave_it_alone(
    row: Row, column: str, setting: str
) -> None:
    plan = _plan({"video": "a.mp4", **row}, "columns")
    assert plan.problem
    assert plan.problem.message.startswith(column)
    assert plan.problem.message.endswith(f". If the column means something else, {setting} '' leaves it alone.")


@pytest.mark.parametrize("fragment", ["t=1,2&track=x", "xywh=0,0,9,9&t=1,2", "t=1&t=2"])
def test_other_dimensions_beside_times_are_refused(fragment: str) -> None:
    with pytest.raises(ClipError, match="only times are read") as caught:
        split_fragment(f"https://user:secret@example.org/a.mp4#{fragment}")
    assert caught.value.kind == "row"
    assert "secret" not in str(caught.value)


def test_with_a_list_of_stretches_columns_hold_lists() -> None:
    row = {"video": "a.mp4", "stretches": [[0, 2], [2, 4]]}
    [made] = _filled(row, _caption("A."), replace(_caption("B."), id=RequestId(0, 1)), layout="columns")
    assert (made["caption"], made["caption_failure"]) == (["A.", "B."], ["", ""])


def test_an_empty_list_of_stretches_asks_nothing() -> None:
    assert _filled({"video": "a.mp4", "stretches": []}, layout="columns")[0]["caption"] == []


def test_stretches_of_a_file_have_seeds_of_their_own_and_one_shard() -> None:
    plans = [_plan({"video": "a.mp4", "start": start}, "columns") for start in (1, 2)]
    first, second = (_requests(plan)[0] for plan in plans)
    assert first.seed != second.seed
    listed = _plan({"video": "a.mp4", "stretches": [[0, 1], [1, 2]]}, "columns")
    assert (
        plans[0].shard_hash
        == plans[1].shard_hash
        == listed.shard_hash
        == _plan({"video": "a.mp4"}, "columns").shard_hash
    )


def test_times_mean_nothing_beside_no_video() -> None:
    assert _stretches({"start": "soon"}) == []
