"""Whole runs in this process: files in, files out."""

import itertools
import os
import re
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, ScriptedEngine, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import DatasetError, EngineError, MissingExtraError, ModelError, SettingsError
from reelscribe.runners import on_demand
from reelscribe.runners.local import RunSummary, run
from reelscribe.tasks import DEFAULT_PROMPT
from reelscribe.values import Row, RowResult


def _run(output: Path, *inputs: Path, engine: Engine | None = None, **settings: Any) -> RunSummary:
    return run(inputs, output, Settings(engine="fake", **settings), engine=engine)


def _files(folder: Path) -> set[str]:
    return {file.name for file in folder.iterdir() if file.is_file()}


def test_run_writes_every_row_and_says_what_it_did(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    rows: list[Row] = [
        {"id": 0, "video": "clips/a.mp4"},
        {"id": 1, "video": "gone.mp4"},
        {"id": 2},
        {"id": 3, "videos": ["text.mp4", "clips/a.mp4"]},
        {"id": 4, "video": 4},
        {"id": 5, "video": "clips/a.mp4"},
    ]
    data = put_rows(tmp_path / "data.jsonl", rows)
    data.write_bytes(data.read_bytes() + b"broken\n")
    engine = ScriptedEngine(
        lambda item: said("cut ...") if item.requests[0].id.row == 5 else said("text"), batch_size=2
    )
    output = tmp_path / "results" / "out.jsonl"
    summary = _run(output, data, engine=engine)
    assert summary == RunSummary(
        rows=7,
        captions=3,
        videos=5,
        without_video=1,
        flags={"cut_off": 1},
        known=0,
        failures={"missing": 1, "unreadable": 1, "row": 2},
        examples={
            "missing": [f"row 1: gone.mp4: there is no such file; paths start from {tmp_path}."],
            "unreadable": ["row 3: text.mp4 cannot be opened as a video: it looks like text."],
            "row": [
                "row 4: column 'video' must hold paths or bytes of videos; got int.",
                "row 6: line 7 of data.jsonl is not a row: Expecting value at column 1.",
            ],
        },
        failures_file=tmp_path / "results" / "out.failures.jsonl",
    )
    written = read_rows_of(output)
    assert [row.get("id") for row in written] == [0, 1, 2, 3, 4, 5, None]
    assert [row["caption"] for row in written] == ["text", None, None, [None, "text"], None, "cut ...", None]
    assert [{**row, "id": n} for n, row in enumerate(rows)] == rows
    for before, after in zip(rows, written, strict=False):
        assert before.items() <= after.items()
    assert written[6]["caption_meta"]["unreadable_line"] == "broken"
    failures = read_rows_of(summary.failures_file)
    assert [(item["row"], item["video"], item["kind"]) for item in failures] == [
        (1, "gone.mp4", "missing"),
        (3, "text.mp4", "unreadable"),
        (4, None, "row"),
        (6, None, "row"),
    ]
    assert str(tmp_path) in failures[0]["message"]
    assert "line 7 of data.jsonl" in failures[3]["message"]


def test_data_set_with_tokens_comes_out_interleaved(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows: list[Row] = [
        {"text": f"{VIDEO}old{EOC}", "videos": ["a.mp4"], "id": 0},
        {"text": f"{VIDEO}{VIDEO}lost{EOC}", "videos": ["a.mp4", "gone.mp4"], "id": 1},
        {"text": "words", "videos": [], "id": 2},
    ]
    data = put_rows(tmp_path / "data.jsonl", rows)
    engine = ScriptedEngine(lambda _: said("one", "two"))
    summary = _run(tmp_path / "out.jsonl", data, engine=engine, num_captions=2, keep="all")
    made = [{**rows[0], "text": f"{VIDEO} {text} {EOC}"} for text in ("one", "two")]
    assert read_rows_of(tmp_path / "out.jsonl") == [rows[0], *made, rows[1], rows[2]]
    assert (summary.rows, summary.captions, summary.failures) == (3, 2, {"missing": 1})


def test_odd_contents_of_rows_come_back_as_they_were(tmp_path: Path) -> None:
    put_clip(tmp_path / "🐑.mp4")
    rows: list[Row] = [
        {
            "video": "🐑.mp4",
            "text": "half a pair \ud83d",
            "n": 10**30,
            "nested": [{"a": [None, 1.5, {}]}],
            "none": None,
        },
        {"video": "gone \udc00.mp4"},
        {"video": "nul \x00.mp4"},
    ]
    summary = _run(tmp_path / "out.jsonl", put_rows(tmp_path / "data.jsonl", rows), keep="similar_one_simhash")
    assert (summary.captions, summary.failures) == (1, {"missing": 2})
    for before, after in zip(rows, read_rows_of(tmp_path / "out.jsonl"), strict=True):
        assert before.items() <= after.items()


def test_output_of_a_folder_is_a_data_set_that_can_go_in_again(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/b.mp4"):
        put_clip(tmp_path / "clips" / name)
    _run(tmp_path / "first" / "out.jsonl", tmp_path / "clips")
    first = read_rows_of(tmp_path / "first" / "out.jsonl")
    assert [row["video"] for row in first] == ["../clips/a.mp4", "../clips/deep/b.mp4"]
    with pytest.raises(
        SettingsError, match=r"the rows have a column 'caption' and 'caption_candidates' and .* already"
    ):
        _run(tmp_path / "first" / "again.jsonl", tmp_path / "first" / "out.jsonl")
    again = {"again": DEFAULT_PROMPT}
    summary = _run(tmp_path / "first" / "again.jsonl", tmp_path / "first" / "out.jsonl", tasks=again)
    assert (summary.captions, summary.failures) == (2, {})
    second = read_rows_of(tmp_path / "first" / "again.jsonl")
    assert [{name: row[name] for name in before} for row, before in zip(second, first, strict=True)] == first
    assert [row["again"] for row in second] == [row["caption"] for row in first]


def test_rerun_over_its_own_output_is_the_same_byte_for_byte(tmp_path: Path) -> None:
    clip = put_clip(tmp_path / "a.mp4")
    _run(tmp_path / "out.jsonl", clip, num_captions=3)
    first = (tmp_path / "out.jsonl").read_bytes()
    _run(tmp_path / "out.jsonl", clip, num_captions=3)
    assert (tmp_path / "out.jsonl").read_bytes() == first


def test_inputs_and_output_may_be_plain_words(tmp_path: Path) -> None:
    video = put_clip(tmp_path / "a.mp4")
    for inputs in (str(video), video, [str(video)]):
        summary = run(inputs, str(tmp_path / "out.jsonl"), Settings(engine="fake"))
        assert summary.captions == 1


def test_captions_beside_videos_do_not_come_back_as_the_text(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (put_clip(tmp_path / "clips" / "b.mp4").with_suffix(".json")).write_text('{"by": "hand"}')
    output = tmp_path / "out.jsonl"
    made = []
    for told in ({}, {"sidecar": "txt"}, {}, {"seed": 1}, {}):
        run(tmp_path / "clips", output, Settings(engine="fake", **told))
        made.append(output.read_bytes())
    assert (tmp_path / "clips" / "a.txt").exists()
    assert [row.get("text") for row in read_rows_of(output)] == [None, None]
    assert [row.get("by") for row in read_rows_of(output)] == [None, "hand"]
    assert made[0] == made[1] == made[2] == made[4]


def test_list_of_failures_goes_once_there_are_none(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "data.jsonl", [{"video": "a.mp4"}])
    assert _run(tmp_path / "out.jsonl", data).failures == {"missing": 1}
    assert _files(tmp_path) == {"data.jsonl", "out.jsonl", "out.failures.jsonl", "out.ledger.sqlite", "out.run.json"}
    put_clip(tmp_path / "a.mp4")
    assert _run(tmp_path / "out.jsonl", data).failures == {}
    assert _files(tmp_path) == {"data.jsonl", "a.mp4", "out.jsonl", "out.ledger.sqlite", "out.run.json"}


@pytest.mark.parametrize("resume", [True, False])
@pytest.mark.parametrize(
    ("output", "theirs"),
    [
        ("out.jsonl", "out.jsonl"),
        ("out.jsonl", "out.failures.jsonl"),
        ("out-{shard}.jsonl", "out-00007.jsonl"),
        ("out", "out/00007.jsonl"),
    ],
)
def test_files_of_others_are_not_replaced(tmp_path: Path, output: str, theirs: str, resume: bool) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}])
    (tmp_path / theirs).parent.mkdir(exist_ok=True)
    (tmp_path / theirs).write_text("precious")
    before = sorted(tmp_path.rglob("*"))
    shards: dict[str, Any] = {} if output.endswith("t.jsonl") else {"shard_rows": 5, "output_format": "jsonl"}
    settings = Settings(engine="fake", resume=resume, **shards)
    with pytest.raises(DatasetError, match=re.escape(f"{tmp_path / theirs} is there already, and not from a run on")):
        run(data, tmp_path / output, settings)
    assert (tmp_path / theirs).read_text() == "precious"
    assert sorted(path for path in tmp_path.rglob("*") if ".lock" not in path.name) == before
    (tmp_path / theirs).unlink()
    run(data, tmp_path / output, settings)
    run(data, tmp_path / output, settings)


def test_a_run_that_sets_a_ledger_aside_and_fails_leaves_the_output_its_own(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}])
    _run(tmp_path / "out.jsonl", data)
    with pytest.raises((ModelError, MissingExtraError)):
        run(data, tmp_path / "out.jsonl", Settings(model=str(tmp_path / "none"), resume=False))
    assert _run(tmp_path / "out.jsonl", data).captions == 1


def test_an_output_of_another_format_is_not_known_by_the_ledger_that_they_share(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}])
    _run(tmp_path / "out.jsonl", data)
    (tmp_path / "out.jsonl.gz").write_text("precious")
    with pytest.raises(
        DatasetError,
        match=r"out\.jsonl\.gz is there already, and not from a run.*; the ledger beside it is of out\.jsonl\. ",
    ):
        _run(tmp_path / "out.jsonl.gz", data)


def test_urls_and_the_root_folder_hold_for_rows(tmp_path: Path) -> None:
    put_clip(tmp_path / "root" / "a.mp4")
    outside = put_clip(tmp_path / "b.mp4")
    os.mkfifo(tmp_path / "root" / "pipe.mp4")
    videos = [
        "a.mp4",
        f"file://{tmp_path}/root/a.mp4",
        "../b.mp4",
        f"file://{outside}",
        "http://127.0.0.1:1/a.mp4",
        "ftp://127.0.0.1/a.mp4",
        "pipe.mp4",
    ]
    data = put_rows(tmp_path / "data" / "in.jsonl", [{"video": video} for video in videos])
    summary = _run(tmp_path / "out.jsonl", data, root=str(tmp_path / "root"))
    assert (summary.captions, summary.failures) == (2, {"refused": 4, "unreadable": 1})
    assert [item["row"] for item in read_rows_of(summary.failures_file)] == [2, 3, 4, 5, 6]
    summary = _run(tmp_path / "out.jsonl", data, allow_private_urls=True)
    assert summary.failures == {"missing": 2, "download": 2}


def test_engine_that_breaks_leaves_what_was_done(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "data.jsonl", [{"video": "a.mp4", "id": number} for number in range(5)])
    with pytest.raises(EngineError, match="breaks after 3 requests"):
        _run(tmp_path / "out.jsonl", data, engine=FakeEngine(break_after=3))
    assert _files(tmp_path) == {"a.mp4", "data.jsonl", "out.jsonl.partial", "out.ledger.sqlite", "out.run.json"}
    assert [row["id"] for row in read_rows_of(tmp_path / "out.jsonl.partial")] == [0, 1, 2]


def test_progress_is_told_row_by_row_once_it_is_written(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "data.jsonl", [{"video": "a.mp4"}, {}, {"video": "gone.mp4"}])
    told: list[Any] = []

    def on_row(result: RowResult) -> None:
        told.append((result.index, len(read_rows_of(tmp_path / "out.jsonl.partial"))))

    engine = FakeEngine()
    run(
        [data],
        tmp_path / "out.jsonl",
        Settings(),
        engine=engine,
        on_start=lambda live: told.append((live.total, live.watch.info)),
        on_row=on_row,
    )
    assert told == [(3, engine.info), (0, 1), (1, 2), (2, 3)]


def test_inputs_are_left_alone(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "data.jsonl", [{"video": "gone.mp4"}])
    clip = put_clip(tmp_path / "clip.bin")
    failures = put_rows(tmp_path / "out.failures.jsonl", [{"video": "clip.bin"}])
    before = {file: file.read_bytes() for file in (data, clip, failures)}
    (tmp_path / "link").symlink_to(tmp_path)
    for output, inputs in [
        (data, [clip, data]),
        (clip, [data, clip]),
        (tmp_path / "link" / "data.jsonl", [data]),
        (data, [tmp_path / "link" / "data.jsonl"]),
        (tmp_path / "out.jsonl", [failures]),
    ]:
        with pytest.raises(DatasetError, match=r"cannot write to .*: it is an input, too; choose another output"):
            _run(output, *inputs, output_format="jsonl")
    with pytest.raises(DatasetError, match=r"cannot write to .*a\.MP4: it is named as a video; name a data set"):
        _run(tmp_path / "a.MP4", data)
    assert {file: file.read_bytes() for file in before} == before
    assert _files(tmp_path) == {file.name for file in before}


def test_what_cannot_be_read_or_written_is_told_before_a_model_is_loaded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(on_demand, "load_engine", lambda _: pytest.fail("the engine was loaded"))
    data = put_rows(tmp_path / "data.jsonl", [{"video": "gone.mp4"}])
    with pytest.raises(DatasetError, match="there is no "):
        run([data, tmp_path / "gone.jsonl"], tmp_path / "out.jsonl", Settings())
    with pytest.raises(DatasetError, match=r"cannot write to .*data"):
        run([data], data / "out.jsonl", Settings())
    with pytest.raises(DatasetError, match="it is a folder"):
        run([data], tmp_path, Settings())
    assert _files(tmp_path) == {"data.jsonl"}


def test_model_that_cannot_be_loaded_leaves_no_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(_: Settings) -> Engine:
        raise ModelError("the model cannot be loaded")

    monkeypatch.setattr(on_demand, "load_engine", fail)
    data = put_rows(tmp_path / "data.jsonl", [{"video": "gone.mp4"}])
    with pytest.raises(ModelError, match="cannot be loaded"):
        run([data], tmp_path / "out.jsonl", Settings())
    assert _files(tmp_path) == {"data.jsonl"}


def test_engine_of_the_settings_is_loaded(tmp_path: Path) -> None:
    _run(tmp_path / "out.jsonl", put_clip(tmp_path / "a.mp4"), fps=4, max_frames=2)
    (row,) = read_rows_of(tmp_path / "out.jsonl")
    assert row["caption"] == "Candidate 0: 2 frames of 64x64 over 1.0 s."
    assert row["caption_meta"]["engine"] == "fake"


def test_result_does_not_depend_on_what_else_is_in_the_data_set(tmp_path: Path) -> None:
    for number in range(6):
        put_clip(tmp_path / f"{number}.mp4")
    rows = [{"video": f"{number}.mp4"} for number in range(6)]
    picked = {}
    for name, part in {"all": rows, "back": rows[::-1], "some": rows[2:4]}.items():
        _run(tmp_path / f"{name}.jsonl", put_rows(tmp_path / "data.jsonl", part), num_captions=5)
        picked[name] = {row["video"]: row["caption"] for row in read_rows_of(tmp_path / f"{name}.jsonl")}
    assert picked["all"] == picked["back"]
    assert picked["some"].items() <= picked["all"].items()
    assert len(set(itertools.chain(picked["all"].values()))) > 1
