"""From what a run wrote to its captions and failures, in every layout and format."""

import json
import re
import shutil
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, ScriptedEngine, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.errors import DatasetError
from reelscribe.report.entries import CaptionedData, Entry, NoVideo
from reelscribe.runners.local import run
from reelscribe.runners.status import ledger_of
from reelscribe.tasks import DEFAULT_PROMPT
from reelscribe.values import Row
from report.conftest import CANDIDATES, ROWS, captioned, put_videos

TWO: list[Row] = [
    {"videos": ["sea.mp4", "dog.mp4"], "text": f"{VIDEO}{VIDEO}two clips{EOC}"},
    {"videos": ["gone.mp4"], "text": f"{VIDEO}lost{EOC}"},
    {"videos": [], "text": "no video"},
    {"videos": ["cut.mp4"], "text": f"{VIDEO}one clip{EOC}"},
]


def _entries(output: Path, **options: Any) -> list[Entry]:
    return [entry for entry in CaptionedData(output, **options).entries() if isinstance(entry, Entry)]


def _told(entry: Entry) -> tuple[Any, ...]:
    return entry.row, entry.slot, entry.video.name, entry.captions, entry.failure


def test_columns(data: Path) -> None:
    entries = _entries(data)
    rows = read_rows_of(data)
    assert [entry.row for entry in entries] == list(range(8))
    assert [entry.captions for entry in entries[:6]] == [(row["caption"],) for row in rows[:6]]
    assert [entry.failure for entry in entries] == [None] * 6 + ["missing", "unreadable"]
    assert "there is no such file" in entries[6].message
    sea = entries[0]
    assert sorted([*sea.captions, *(text for _, text in sea.others)]) == sorted(CANDIDATES["sea.mp4"])
    assert sea.original == "stock footage of sea.mp4"
    assert sea.meta == rows[0]["caption_meta"]
    assert sea.video.path == (data.parent / "in" / "sea.mp4").resolve()
    assert [entry for entry in CaptionedData(data).entries() if isinstance(entry, NoVideo)] == [NoVideo(row=8)]


@pytest.mark.parametrize("name", ["out.jsonl.gz", "out.parquet", "out.tar", "out-{shard}.jsonl", "folder"])
def test_every_format_tells_the_same(name: str, data: Path, tmp_path: Path) -> None:
    changes: dict[str, dict[str, Any]] = {
        "out-{shard}.jsonl": {"shard_rows": 3},
        "folder": {"output_format": "hf"},
    }
    entries = _entries(captioned(tmp_path, name, **changes.get(name, {})))
    told = [_told(entry) for entry in _entries(data)]
    if name == "out.tar":  # which holds the videos themselves
        told = [(row, slot, video if row == 6 else f"{row:09d}", *rest) for row, slot, video, *rest in told]
    assert [_told(entry) for entry in entries] == told
    assert [entry.others for entry in entries] == [entry.others for entry in _entries(data)]
    assert entries[0].meta["frame_timestamps"] == _entries(data)[0].meta["frame_timestamps"]


def test_all_kept_candidates_are_captions(tmp_path: Path) -> None:
    sea = _entries(captioned(tmp_path, keep="all"))[0]
    assert sea.captions == CANDIDATES["sea.mp4"]
    assert sea.others == ()


def test_several_videos_in_a_row(tmp_path: Path) -> None:
    entries = _entries(captioned(tmp_path, rows=[{"videos": ["sea.mp4", "gone.mp4", "dog.mp4"]}]))
    assert [(entry.slot, entry.video.name, entry.failure) for entry in entries] == [
        (0, "sea.mp4", None),
        (1, "gone.mp4", "missing"),
        (2, "dog.mp4", None),
    ]


@pytest.mark.parametrize("keep", ["random_any", "all"])
@pytest.mark.parametrize("original", [True, False])
def test_interleaved(tmp_path: Path, keep: str, original: bool) -> None:
    output = captioned(tmp_path, rows=TWO, keep=keep, original=original)
    entries = _entries(output)
    told = [(entry.row, entry.slot, entry.video.name, entry.failure) for entry in entries]
    assert told == [
        (0, 0, "sea.mp4", None),
        (0, 1, "dog.mp4", None),
        (1, 0, "gone.mp4", "missing"),
        (3, 0, "cut.mp4", None),
    ]
    sea = entries[0]
    if keep == "all":
        assert sea.captions == CANDIDATES["sea.mp4"]
    else:
        assert sea.captions[0] in CANDIDATES["sea.mp4"]
    assert [NoVideo(row=2)] == [entry for entry in CaptionedData(output).entries() if isinstance(entry, NoVideo)]


def test_interleaved_rows_have_candidates_and_provenance_from_the_ledger(tmp_path: Path) -> None:
    sea, dog, _, cut = _entries(captioned(tmp_path, rows=TWO))
    for entry, name in ((sea, "sea.mp4"), (dog, "dog.mp4"), (cut, "cut.mp4")):
        assert sorted([*entry.captions, *(text for _, text in entry.others)]) == sorted(CANDIDATES[name])
        assert entry.meta["frame_timestamps"][0] == 0.0
    assert sea.original == TWO[0]["text"]


def test_interleaved_rows_whose_captions_were_chosen_anew_have_it_too(tmp_path: Path) -> None:
    output = captioned(tmp_path, rows=TWO, keep="random_any")
    kept = {"num_captions": 3, "seed": 1, "decoders": 0, "keep": "all"}
    run(tmp_path / "in" / "rows.jsonl", output, Settings(**kept), engine=ScriptedEngine(lambda _: ()))  # type: ignore[arg-type]
    sea = _entries(output)[0]
    assert sea.captions == CANDIDATES["sea.mp4"]
    assert sea.meta["keep"] == "all"


def test_captions_that_hold_tokens_are_those_of_their_videos(tmp_path: Path) -> None:
    put_videos(tmp_path)
    data = put_rows(tmp_path / "in.jsonl", TWO[:1])
    engine = ScriptedEngine(
        lambda item: said(f"{item.requests[0].id.slot} says {VIDEO}, {EOC} and <__dj__audio>", "Another.")
    )
    settings = Settings(num_captions=2, keep="random_any", decoders=0)
    run(data, tmp_path / "out.jsonl", settings, engine=engine)
    entries = _entries(tmp_path / "out.jsonl")
    assert [len(entry.others) for entry in entries] == [1, 1]
    assert {entry.meta["prompt"] for entry in entries} == {DEFAULT_PROMPT}
    again = run(tmp_path / "out.jsonl", tmp_path / "again.jsonl", settings, engine=engine)
    assert (again.captions, again.failures) == (4, {})


@pytest.mark.parametrize("suffix", ["jsonl", "parquet"])
def test_failures_of_rows_without_a_list_are_told_where_others_have_one(tmp_path: Path, suffix: str) -> None:
    if suffix == "parquet":
        pytest.importorskip("pyarrow")
    put_videos(tmp_path)
    data, output = put_rows(tmp_path / "in.jsonl", [{"videos": ["sea.mp4", "dog.mp4"]}]), tmp_path / f"out.{suffix}"
    with data.open("a") as file:
        file.write("broken\n")
    run([data], output, Settings(decoders=0), engine=ScriptedEngine(lambda _: said("A.")))
    told = [(entry.row, entry.slot, entry.captions, entry.failure) for entry in _entries(output)]
    assert told == [(0, 0, ("A.",), None), (0, 1, ("A.",), None), (1, 0, (), "row")]


def test_columns_of_other_names(tmp_path: Path) -> None:
    output = captioned(tmp_path, rows=ROWS[:1], tasks={"long": DEFAULT_PROMPT})
    [sea] = _entries(output)
    assert sorted([*sea.captions, *(text for _, text in sea.others)]) == sorted(CANDIDATES["sea.mp4"])


def test_what_an_earlier_model_said_is_not_taken_for_the_caption(tmp_path: Path) -> None:
    output = captioned(tmp_path, rows=TWO)
    rows = read_rows_of(output)
    rows[1]["text"] = f"{VIDEO} Other words. {VIDEO} More. {EOC}"
    put_rows(output, rows)
    sea = _entries(output)[0]
    assert (sea.captions, sea.others, sea.meta) == (("Other words.",), (), {})


def test_interleaved_rows_without_their_ledger_are_refused(tmp_path: Path) -> None:
    output = captioned(tmp_path, rows=TWO)
    (tmp_path / "out.ledger.sqlite").unlink()
    with pytest.raises(DatasetError, match=r"has its captions in the text.*out\.ledger\.sqlite, which is not there"):
        CaptionedData(output)


@pytest.mark.parametrize("less", [True, False])
def test_interleaved_rows_that_the_run_does_not_write_are_refused(tmp_path: Path, less: bool) -> None:
    output = captioned(tmp_path, rows=TWO)
    rows = read_rows_of(output)
    put_rows(output, rows[:1] + rows[2:] if less else [rows[0], rows[0], *rows[2:]])
    with pytest.raises(DatasetError, match="the rows for row 0 of the input are not those that its last run writes"):
        _entries(output)


@pytest.mark.parametrize("line", ["{half", '{"video": "a.mp4"}'])
def test_a_list_of_failures_that_is_none_is_refused(tmp_path: Path, line: str) -> None:
    output = captioned(tmp_path, rows=TWO)
    (tmp_path / "out.failures.jsonl").write_text(line)
    with pytest.raises(DatasetError, match=r"out\.failures\.jsonl is no list of failures; give the command"):
        CaptionedData(output)


def test_interleaved_names_may_hold_anything(tmp_path: Path) -> None:
    entries = _entries(captioned(tmp_path, rows=[{"videos": ["a\u2028b\x85.mp4"], "text": f"{VIDEO}{EOC}"}]))
    assert [(entry.video.name, entry.failure) for entry in entries] == [("a\u2028b\x85.mp4", "missing")]


def test_a_data_set_without_captions_is_refused(tmp_path: Path) -> None:
    put_videos(tmp_path, ["sea.mp4"])
    with pytest.raises(DatasetError, match=r"rows\.jsonl holds no captions: its rows have no column 'caption'"):
        CaptionedData(put_rows(tmp_path / "rows.jsonl", [{"video": "sea.mp4"}]))


def test_a_damaged_data_set_is_refused(tmp_path: Path) -> None:
    output = captioned(tmp_path)
    output.write_text(output.read_text() + "{half a row")
    with pytest.raises(DatasetError, match=r"out\.jsonl: line 10 of out\.jsonl is not a row"):
        _entries(output)


@pytest.mark.parametrize(
    "meta",
    [
        {"kept": [7], "completion_tokens": "many", "frame_timestamps": {"a": 1}, "flags": 3},
        {"kept": None},
        {"kept": ["0"], "stop_reasons": None},
    ],
)
def test_odd_records_cost_nothing(tmp_path: Path, meta: Row) -> None:
    row = {"video": "a.mp4", "caption": "kept", "caption_candidates": ["other", "kept"], "caption_meta": meta}
    (entry,) = _entries(put_rows(tmp_path / "rows.jsonl", [row]))
    assert entry.captions == ("kept",)
    assert entry.others == ((0, "other"),)


# Where the videos are


def test_paths_start_from_where_the_input_lies_also_without_it(tmp_path: Path) -> None:
    output = captioned(tmp_path)
    (tmp_path / "out.ledger.sqlite").unlink()
    sea = _entries(output)[0]
    assert (sea.video.clip, sea.video.problem) == (None, "The video is not there.")
    assert _entries(output, root=tmp_path / "in")[0].video.path == (tmp_path / "in" / "sea.mp4").resolve()


def test_a_name_that_two_inputs_have_is_not_guessed_at(tmp_path: Path) -> None:
    output = captioned(tmp_path)
    put_videos(tmp_path, ["sea.mp4"])
    sea, dog, *_ = _entries(output)
    assert sea.video.problem == "Several inputs have a video of this name; tell which with --root."
    assert dog.video.path


@pytest.mark.parametrize(
    ("video", "url", "problem"),
    [
        ("https://example.org/a.mp4", "https://example.org/a.mp4", "The video is at a URL"),
        ("s3://bucket/a.mp4", None, "The video is at a URL"),
        ("file://elsewhere/a.mp4", None, "on another machine"),
        ("a\0b.mp4", None, "The video cannot be reached|The video is not there"),
        ("javascript:alert(1)", None, "The video is not there"),
    ],
)
def test_videos_that_cannot_be_reached(tmp_path: Path, video: str, url: str | None, problem: str) -> None:
    row = {"video": video, "caption": "x", "caption_candidates": ["x"], "caption_meta": {"model": "m"}}
    (entry,) = _entries(put_rows(tmp_path / "rows.jsonl", [row]))
    assert (entry.video.name, entry.video.url, entry.video.clip) == (video, url, None)
    assert re.search(problem, entry.video.problem)


def test_bytes_that_are_written_as_text_are_a_video_that_cannot_be_reached(tmp_path: Path) -> None:
    [entry] = _entries(captioned(tmp_path, rows=[{"video": "QUJD" * 5000, "text": "bytes"}]))
    assert entry.video.clip is None
    assert len(entry.video.name) == 300


def test_shards_with_captions_in_the_text_are_to_be_merged_first(tmp_path: Path) -> None:
    shards = [captioned(tmp_path, f"{part}.jsonl", rows=TWO, shard=f"{part}/2") for part in (1, 2)]
    failed = [shard for shard in shards if (tmp_path / f"{shard.stem}.failures.jsonl").exists()]
    assert len(failed) == 1
    with pytest.raises(DatasetError, match="is a shard with captions in the text: merge all shards"):
        CaptionedData(failed[0])


def test_metadata_may_be_json_in_a_text(tmp_path: Path) -> None:
    row = {"video": "a.mp4", "caption": "x", "caption_candidates": ["x"], "caption_meta": json.dumps({"model": "m"})}
    (entry,) = _entries(put_rows(tmp_path / "rows.jsonl", [row]))
    assert entry.meta == {"model": "m"}


def test_a_run_that_is_not_finished_is_told(data: Path, tmp_path: Path) -> None:
    output = tmp_path / data.name
    with closing(sqlite3.connect(shutil.copy(ledger_of(data), ledger_of(output)))) as ledger, ledger:
        ledger.execute("UPDATE runs SET output = ?", (str(output),))
    with pytest.raises(DatasetError, match=r"the run on .*\.jsonl is not finished: give its command again"):
        CaptionedData(output)
