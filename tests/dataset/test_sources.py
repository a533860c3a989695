"""What users name to what is read."""

import json
import os
import sys
from pathlib import Path

import pytest
from flow import put_clip, put_rows

from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError, MissingExtraError


def _found(*inputs: str | Path) -> list[tuple[str, str]]:
    return [(Path(source.location).name, source.format) for source in find_sources(inputs)]


@pytest.mark.parametrize("name", ["data.jsonl", "data.JSONL", "data.ndjson"])
def test_data_sets_are_known_by_their_suffix(tmp_path: Path, name: str) -> None:
    assert _found(put_rows(tmp_path / name, [{}])) == [(name, "jsonl")]


def test_file_that_is_named_itself_may_be_called_anything(tmp_path: Path) -> None:
    assert _found(put_clip(tmp_path / "clip"), str(put_clip(tmp_path / "clip.data"))) == [
        ("clip", "videos"),
        ("clip.data", "videos"),
    ]


def test_folder_of_videos_is_one_source_even_beside_data_sets(tmp_path: Path) -> None:
    put_clip(tmp_path / "deep" / "a.mp4")
    put_rows(tmp_path / "clips.jsonl", [{}])
    assert _found(tmp_path) == [(tmp_path.name, "videos")]


def test_what_is_left_out_of_a_folder_is_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "a.txt").write_text("A text.")
    _found(tmp_path)
    assert not caplog.records
    (tmp_path / "readme.nfo").write_text("words")
    _found(tmp_path)
    assert "1 file that is no video: 1 .nfo." in caplog.text


def test_folder_of_shards_gives_them_in_order_of_their_names(tmp_path: Path) -> None:
    for name in ("2.jsonl", "10.jsonl", "sub/3.ndjson", "1.jsonl", "0.failures.jsonl", "4.jsonl.partial", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        put_rows(tmp_path / name, [{}])
    assert [name for name, _ in _found(tmp_path)] == ["1.jsonl", "10.jsonl", "2.jsonl", "3.ndjson"]


def test_globs_are_expanded_in_order_of_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("b.jsonl", "a.jsonl", "sub/c.jsonl", "a[1].jsonl"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        put_rows(tmp_path / name, [{}])
    assert [name for name, _ in _found("*.jsonl")] == ["a.jsonl", "a[1].jsonl", "b.jsonl"]
    assert [name for name, _ in _found("**/c.jsonl")] == ["c.jsonl"]
    assert [name for name, _ in _found("a[1].jsonl")] == ["a[1].jsonl"]
    with pytest.raises(DatasetError, match=r"nothing is called as '\*\.parquet'"):
        find_sources(["*.parquet"])


def test_folder_with_several_formats_is_refused(tmp_path: Path) -> None:
    put_rows(tmp_path / "a.jsonl", [{}])
    (tmp_path / "a.parquet").write_bytes(b"")
    with pytest.raises(DatasetError, match=r"holds data sets of several formats \(jsonl, parquet\); name one"):
        find_sources([tmp_path])


def test_splits_are_to_be_named(tmp_path: Path) -> None:
    (tmp_path / "dataset_dict.json").write_text(json.dumps({"splits": ["train", "test"]}))
    with pytest.raises(DatasetError, match=r"holds several splits \(train, test\); name one of them, as .*/train"):
        find_sources([tmp_path])
    (tmp_path / "dataset_dict.json").write_text("[]")
    with pytest.raises(DatasetError, match=r"holds several splits \(see dataset_dict\.json\)"):
        find_sources([tmp_path])


@pytest.mark.parametrize("name", ["no.jsonl", "no.mp4", "no", "no.parquet", "no.tar"])
def test_input_that_is_not_there_is_told(tmp_path: Path, name: str) -> None:
    message = rf"there is no .*{name}; give a data set \(\.jsonl, \.parquet, \.tar\), a video or a folder of them"
    with pytest.raises(DatasetError, match=message):
        find_sources([tmp_path / name])


@pytest.mark.parametrize("name", ["clips", "clips.jsonl"])
def test_folder_without_videos_is_told_what_counts(tmp_path: Path, name: str) -> None:
    (tmp_path / name).mkdir()
    (tmp_path / name / "notes.txt").write_text("no video")
    with pytest.raises(
        DatasetError,
        match=rf"the folder .*{name} holds no video \(\.264, .*\.mp4, .*\.y4m\) and no data set \(\.jsonl, \.parquet, ",
    ):
        find_sources([tmp_path / name])


@pytest.mark.parametrize("name", ["data.jsonl", "data.jsonl.gz", "data.tar"])
def test_pipe_or_device_is_no_data_set_and_is_not_waited_for(tmp_path: Path, name: str) -> None:
    os.mkfifo(tmp_path / name)
    with pytest.raises(DatasetError, match=rf"cannot read .*{name}: it is not a regular file"):
        find_sources([tmp_path / name])
    (tmp_path / "zero.jsonl").symlink_to("/dev/zero")
    with pytest.raises(DatasetError, match=r"cannot read .*zero\.jsonl: it is not a regular file"):
        find_sources([tmp_path / "zero.jsonl"])


def test_data_set_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    loop = tmp_path / "data.jsonl"
    loop.symlink_to(loop)
    with pytest.raises(DatasetError, match=r"cannot read .*data\.jsonl: Too many levels of symbolic links"):
        find_sources([loop])


@pytest.mark.parametrize("name", ["data.jsonl.gz", "data.tar", "data.tar.gz"])
def test_file_that_is_not_what_its_name_says_is_told_at_once(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_bytes(b"words" * 1000)
    with pytest.raises(DatasetError, match=rf"cannot read .*{name}: "):
        find_sources([tmp_path / name])


@pytest.mark.parametrize("name", ["data.parquet", "data.jsonl.zst", "s3://bucket/data.jsonl", "s3://bucket/*.jsonl"])
def test_missing_extra_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    for module in ("pyarrow", "pyarrow.parquet", "fsspec"):
        monkeypatch.setitem(sys.modules, module, None)
    for module in ("arrow", "parquet"):
        monkeypatch.delitem(sys.modules, f"reelscribe.dataset.formats.{module}", raising=False)
    (tmp_path / "data.parquet").write_bytes(b"PAR1")
    (tmp_path / "data.jsonl.zst").write_bytes(b"")
    with pytest.raises(MissingExtraError, match=r"needs (pyarrow|fsspec): pip install 'reelscribe\[data\]'"):
        find_sources([name if "://" in name else tmp_path / name])


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("a.xlsx", "save it as CSV UTF-8, or pandas.read_excel(FILE).to_parquet('rows.parquet') makes one of it."),
        ("a.TXT", "if it names a video in each line, jq -cR '{video: .}' FILE > rows.jsonl makes rows of it."),
        ("a.yaml", "yq -o=json FILE > rows.json makes an array of a list."),
        ("a.feather", "pandas.read_feather(FILE).to_parquet('rows.parquet') makes one of it; of save_to_disk name the"),
        ("a.zip", "unpack it first; .jsonl, .json, .csv and .tsv may be compressed, as .gz or .zst."),
        (
            "https://host/a.h5?key=a.mp4",
            """write a line of JSON for each video, as {"video": "clip.mp4"}, into """,
        ),
    ],
)
def test_what_is_no_video_and_no_data_set_says_what_to_give(tmp_path: Path, name: str, told: str) -> None:
    location = name if "://" in name else str(tmp_path / name)
    if location != name:
        (tmp_path / name).write_text("a.mp4")
    with pytest.raises(DatasetError) as refused:
        find_sources([location])
    assert f"cannot read {location}: data sets are .jsonl, .parquet, .tar, .json, .csv files; {told}" in str(
        refused.value
    )


def test_text_and_json_beside_videos_are_not_read_again_when_all_files_are_named(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    put_clip(tmp_path / "a.mp4")
    for name in ("a.txt", "a.json", "a.mp4.txt"):
        (tmp_path / name).write_text("text")
    put_rows(tmp_path / "b.json", [{}])
    found = [("a.mp4", "videos"), ("b.json", "json_array")]
    assert _found(str(tmp_path / "*")) == found
    assert _found(*sorted(tmp_path.iterdir())) == found
    beside = f"3 of the files that are named, as {tmp_path / 'a.json'}, lie beside a video, and are read with it"
    assert caplog.messages == [f"{beside}, not as inputs."] * 2


def test_json_beside_data_sets_is_left_out_and_said(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_rows(tmp_path / "a.json", [{}])
    put_rows(tmp_path / "out.run.json", [{}])
    assert _found(tmp_path) == [("a.json", "json_array")]
    put_rows(tmp_path / "a.jsonl", [{}])
    assert _found(tmp_path) == [("a.jsonl", "jsonl")]
    assert caplog.messages == [f"Left out beside data sets: {tmp_path / 'a.json'}; name .json files to have them read."]


def test_braces_in_the_name_of_an_input_are_said_to_be_left_alone(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no .*Braces are left to the shell: write them without quotes"):
        find_sources([tmp_path / "shard-{000..009}.tar"])
