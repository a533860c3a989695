"""Whether there is anything to caption, as far as the first rows tell."""

import io
import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows

from reelscribe.config import Settings
from reelscribe.dataset import columns
from reelscribe.dataset.columns import check_columns
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError, ReelscribeError, SettingsError
from reelscribe.plan.survey import survey
from reelscribe.runners.local import run
from reelscribe.values import Row


def _put_tar(file: Path, rows: list[Row]) -> Path:
    with tarfile.open(file, "w") as tar:
        for number, row in enumerate(rows):
            data = json.dumps(row).encode()
            info = tarfile.TarInfo(f"{number:04d}.json")
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


PUT: dict[str, Callable[[Path, list[Row]], Path]] = {"in.jsonl": put_rows, "in.tar": _put_tar}
ROW = {"video": "a.mp4", "text": "old", "ask": "Who?"}


def _check(*inputs: Path, **settings: Any) -> None:
    check_columns(find_sources(inputs), Settings(**settings))


@pytest.mark.parametrize("name", PUT)
@pytest.mark.parametrize(
    ("rows", "settings", "error", "told"),
    [
        ([], {}, DatasetError, "there is nothing to caption: .* has no rows"),
        ([ROW], {"video_key": "vdieo"}, SettingsError, "no column 'vdieo', which video_key names; did you mean video"),
        ([ROW], {"prompt_key": "ask_"}, SettingsError, "no column 'ask_', which prompt_key names; did you mean ask"),
        ([ROW], {"text_key": "words"}, SettingsError, "no column 'words', which text_key names"),
        ([{"file": "a.mp4"}], {}, SettingsError, "no column 'video' or 'videos'; video_key names another of .*file"),
        ([{"video": None}, {"videos": []}], {}, DatasetError, "none of 2 rows has a video in its column 'videos'"),
        ([{"clip": None}], {"video_key": "clip"}, DatasetError, "none of 1 rows has a video in its column 'clip'"),
    ],
)
def test_where_nothing_can_be_done_the_run_is_refused_before_a_model_is_loaded(
    tmp_path: Path, name: str, rows: list[Row], settings: Row, error: type[ReelscribeError], told: str
) -> None:
    data = PUT[name](tmp_path / name, rows)
    with pytest.raises(error, match=told):
        run(data, tmp_path / "out.jsonl", Settings(engine="vllm", **settings))
    with pytest.raises(error, match=told):
        survey([data], Settings(**settings))
    assert [file.name for file in tmp_path.iterdir()] == [name]


def test_rows_that_cannot_be_read_are_failures_of_their_own(tmp_path: Path) -> None:
    (tmp_path / "in.jsonl").write_text("broken\n[]\n")
    _check(tmp_path / "in.jsonl", prompt_key="ask")
    put_rows(tmp_path / "odd.jsonl", [{"video": 3}])
    _check(tmp_path / "odd.jsonl")


def test_what_the_first_rows_lack_may_come_later_but_not_too_late(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(columns, "_MOST_ROWS", 100)
    rows: list[Row] = [{"video": None}] * 99 + [ROW]
    _check(put_rows(tmp_path / "in.jsonl", rows), prompt_key="ask")
    late = put_rows(tmp_path / "late.jsonl", [{"video": None}, *rows])
    with pytest.raises(SettingsError, match="the first 100 rows have no column 'ask', which prompt_key names"):
        _check(late, prompt_key="ask")
    _check(late)  # a video may come as late as it likes


def test_what_few_large_rows_lack_may_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_BYTES", 100)
    large = _put_tar(tmp_path / "in.tar", [{"video": "a.mp4", "notes": "x" * 99}] * 3 + [ROW])
    _check(large, prompt_key="ask")
    _check(large, put_rows(tmp_path / "in.jsonl", [{**ROW, "words": "x"}]), text_key="words")


def test_no_more_rows_are_read_than_it_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[Row] = []

    def look(row: Row, _: Settings) -> bool:
        read.append(row)
        return bool(row["video"])

    monkeypatch.setattr(columns, "_holds_video", look)
    _check(put_rows(tmp_path / "in.jsonl", [{"video": None}, ROW, ROW, ROW]), prompt_key="ask")
    assert read == [{"video": None}, ROW]


def test_column_of_one_of_several_data_sets_is_enough(tmp_path: Path) -> None:
    first = put_rows(tmp_path / "1.jsonl", [{"video": "a.mp4"}] * 3000)
    second = put_rows(tmp_path / "2.jsonl", [ROW])
    _check(first, second, prompt_key="ask")
    with pytest.raises(DatasetError, match=r"nothing to caption: .*1\.jsonl with 1 more has no rows"):
        _check(put_rows(first, []), put_rows(second, []))


def test_run_that_met_no_video_has_no_output(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(columns, "_MOST_ROWS", 5)
    data = put_rows(tmp_path / "in.jsonl", [{"video": None}] * 10)
    with pytest.raises(DatasetError, match="nothing to caption: none of 10 rows has a video"):
        run(data, tmp_path / "out.jsonl", Settings(engine="fake"))
    assert not (tmp_path / "out.jsonl").exists()
    summary = run(data, tmp_path / "shard.jsonl", Settings(engine="fake", shard="1/2"))
    assert (summary.captions, (tmp_path / "shard.jsonl").exists()) == (0, True)


def test_prompt_names_columns_that_are_there_and_a_system_prompt_none(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "in.jsonl", [ROW])
    _check(data, prompt="Describe {text} of {duration} s well.")
    with pytest.raises(SettingsError, match=r"no column 'tex', which {tex} in the prompt names; did you mean text"):
        _check(data, prompt="Describe {tex} well.")
    told = r"which tasks\.b: {words} in the prompt names"
    with pytest.raises(SettingsError, match=told):
        _check(data, tasks={"a": "{text}", "b": {"prompt": "{a}, {words}", "after": "a"}})
    told = r"system_prompt has {text}, but the value of a column is put into prompts alone"
    for settings in ({"system_prompt": "See {text}."}, {"tasks": {"a": {"system_prompt": "See {text}."}}}):
        with pytest.raises(SettingsError, match=told):
            _check(data, **settings)
    _check(data, prompt='Answer in JSON: {"text": "...", "n": {}}, {{words}}, { words }.', system_prompt="{{text}")


def test_column_that_is_there_is_not_added_before_a_model_is_loaded(tmp_path: Path) -> None:
    data = put_rows(tmp_path / "in.jsonl", [{"video": None}, {**ROW, "short": "mine", "long_failure": ""}])
    told = "have a column 'short' and 'long_failure' already, which would be lost; give the task another name"
    tasks = {"short": "Who?", "long": "Where?"}
    with pytest.raises(SettingsError, match=told):
        run(data, tmp_path / "out.jsonl", Settings(engine="vllm", tasks=tasks))
    assert [file.name for file in tmp_path.iterdir()] == ["in.jsonl"]
    _check(data, tasks={"long": "Where?"}, columns="text")
    in_text = put_rows(tmp_path / "text.jsonl", [{"videos": ["a.mp4"], "text": "<__dj__video>", "caption": "mine"}])
    _check(in_text)
    with pytest.raises(SettingsError, match="have a column 'caption' already"):
        _check(in_text, layout="columns")


def test_column_that_is_there_in_a_later_data_set_is_not_added(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"video": ["a.mp4"] * 100}), tmp_path / "1.parquet")
    pq.write_table(pa.table({"video": ["a.mp4"], "caption_meta": ["mine"]}), tmp_path / "2.parquet")
    with pytest.raises(SettingsError, match="have a column 'caption_meta' already"):
        _check(tmp_path / "1.parquet", tmp_path / "2.parquet")
    _check(tmp_path / "1.parquet", tmp_path / "2.parquet", columns="text,failure")


def test_files_beside_videos_that_a_run_wrote_are_no_columns(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    for _ in range(2):
        run(tmp_path / "clips", tmp_path / "out.jsonl", Settings(engine="fake", sidecar="json"))
    with pytest.raises(SettingsError, match=r"have a column 'caption' and .* already"):
        run(tmp_path / "clips", tmp_path / "other.jsonl", Settings(engine="fake"))


def test_folder_of_videos_takes_prompts_from_files_beside_them(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    put_clip(tmp_path / "b.mp4")
    with pytest.raises(SettingsError, match="no column 'ask', which prompt_key names; there are video"):
        _check(tmp_path, prompt_key="ask")
    (tmp_path / "b.json").write_text('{"ask": "Who?"}')
    _check(tmp_path, prompt_key="ask")
