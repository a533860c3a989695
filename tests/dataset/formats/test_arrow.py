"""Parquet and Hugging Face data sets: columns come out as they went in, batch by batch."""

import datetime
import decimal
import json
import re
import shutil
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from flow import EOC, VIDEO, clip_bytes, put_clip, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.dataset.formats import hf, parquet
from reelscribe.dataset.formats.arrow import UNFIT
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.runners.local import RunSummary, run

datasets.disable_progress_bars()
TEXT = "Candidate 0: 4 frames of 64x64 over 1.0 s."
ODD = pa.table(
    {
        "video": ["a.mp4", "gone.mp4", None],
        "int64": pa.array([2**63 - 1, -(2**63), None]),
        "uint64": pa.array([2**64 - 1, 0, None], pa.uint64()),
        "int8": pa.array([-128, None, 127], pa.int8()),
        "float32": pa.array([0.1, None, 3.4e38], pa.float32()),
        "float16": pa.array([0.5, None, 1.0], pa.float16()),
        "double": pa.array([-0.0, 5e-324, float("inf")]),
        "bool": pa.array([True, None, False]),
        "decimal": pa.array([decimal.Decimal("1.10"), None, decimal.Decimal("99999999.99")], pa.decimal128(10, 2)),
        "nanos": pa.array([1, None, 2**62], pa.timestamp("ns")),
        "zoned": pa.array([datetime.datetime(2024, 2, 29, tzinfo=datetime.UTC), None, None], pa.timestamp("us", "UTC")),
        "far": pa.array([2**58, -(2**58), None], pa.timestamp("us")),
        "date": pa.array([datetime.date(1, 1, 1), None, datetime.date(9999, 12, 31)]),
        "span": pa.array([1, None, 2**60], pa.duration("ns")),
        "bytes": pa.array([b"\x00\xff", b"", None]),
        "text": pa.array(["ünï 🐑 羊 \u2028\x00", "", None]),
        "large": pa.array(["a", None, ""], pa.large_string()),
        "coded": pa.array(["x", "y", None]).dictionary_encode(),
        "nested": pa.array([[{"a": [1, None]}, None], [], None]),
        "struct": pa.array([{"x": {"y": [None, "z"]}}, {"x": None}, None]),
        "fixed": pa.array([[1, 2], None, [3, 4]], pa.list_(pa.int32(), 2)),
        "map": pa.array([[("k", 1)], [], None], pa.map_(pa.string(), pa.int64())),
        "nulls": pa.nulls(3),
    }
)
ADDED = ["caption", "caption_candidates", "caption_meta", "caption_failure"]


def _run(output: Path, *inputs: Path, **settings: Any) -> RunSummary:
    """A run that writes the folder of a data set where the output has no suffix."""
    told = {"engine": "fake", "output_format": "auto" if output.suffix else "hf"}
    return run(inputs, output, Settings(**told | settings))


def _save_parquet(table: pa.Table, path: Path, rows: int = 1000) -> None:
    pq.write_table(table, path, row_group_size=rows, write_batch_size=16)  # rows between looks at a page's size


def _save_hf(table: pa.Table, path: Path, rows: int = 1000) -> None:
    datasets.Dataset(table).save_to_disk(path, num_shards=max(len(table) // rows, 1))


def test_an_earlier_caption_stays_where_the_new_one_has_a_column_of_another_name(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    files = [tmp_path / f"{name}.parquet" for name in ("in", "first", "second")]
    _save_parquet(pa.table({"video": ["a.mp4", "gone.mp4"]}), files[0])
    for before, after, key in zip(files, files[1:], ("caption", "long"), strict=False):
        _run(after, before, tasks={key: key})
    made = pq.read_table(files[-1])
    assert made.column_names == ["video", *ADDED, "long", "long_candidates", "long_meta", "long_failure"]
    assert made.select(ADDED).equals(pq.read_table(files[1]).select(ADDED))
    assert made.schema.types[1:5] == made.schema.types[5:]
    assert made["long"].to_pylist() == [TEXT, None]
    assert made["long_candidates"].to_pylist() == [[TEXT], []]
    assert json.loads(made["long_meta"].to_pylist()[0])["prompt"] == "long"
    assert made["long_failure"].to_pylist()[1].startswith("missing: gone.mp4: ")


Save = Callable[..., None]
Load = Callable[[Path], pa.Table]
FORMATS = pytest.mark.parametrize(
    ("save", "load", "suffix"),
    [
        (_save_parquet, pq.read_table, ".parquet"),
        (_save_hf, lambda path: datasets.load_from_disk(path).data.table, ""),
    ],
    ids=["parquet", "hf"],
)


def _put_stream(folder: Path, tables: list[pa.Table]) -> Path:
    """A data set's folder with one file for each table, as `datasets` saves it."""
    folder.mkdir()
    names = [f"data-{number:05d}-of-{len(tables):05d}.arrow" for number in range(len(tables))]
    for name, table in zip(names, tables, strict=True):
        with pa.OSFile(str(folder / name), "wb") as file, pa.ipc.new_stream(file, table.schema) as stream:
            stream.write_table(table)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": name} for name in names]}))
    (folder / "dataset_info.json").write_text("{}")
    return folder


def _same(made: pa.Table, before: pa.Table) -> None:
    """Every column, value and type is the same."""
    for name in before.column_names:
        assert made.schema.field(name).equals(before.schema.field(name)), name
        assert made.column(name).combine_chunks().equals(before.column(name).combine_chunks()), name


def _check_added(made: pa.Table, before: pa.Table) -> None:
    assert made.column_names == [*before.column_names, *ADDED]
    assert [made.schema.field(name).type for name in ADDED if name != "caption_candidates"] == [pa.string()] * 3
    assert made.schema.field("caption_candidates").type.value_type == pa.string()
    assert made.column("caption").to_pylist() == [TEXT, None, None]
    assert made.column("caption_candidates").to_pylist() == [[TEXT], [], []]
    first, second, third = made.column("caption_meta").to_pylist()
    assert (json.loads(first)["kept"], json.loads(second)["kept"], third) == ([0], None, None)
    first, second, third = made.column("caption_failure").to_pylist()
    assert (first, second.partition(":")[0], third) == ("", "missing", "")


@pytest.mark.parametrize("rows", [1, 2, 1000])
def test_parquet_columns_come_out_exactly_as_they_went_in(tmp_path: Path, rows: int) -> None:
    put_clip(tmp_path / "a.mp4")
    table = ODD.replace_schema_metadata({"mine": "kept"})
    _save_parquet(table, tmp_path / "in.parquet", rows)
    summary = _run(tmp_path / "out.parquet", tmp_path / "in.parquet")
    assert (summary.rows, summary.captions, summary.failures) == (3, 1, {"missing": 1})
    made = pq.read_table(tmp_path / "out.parquet")
    _same(made, pq.read_table(tmp_path / "in.parquet"))
    _check_added(made, table)
    assert made.schema.metadata[b"mine"] == b"kept"


def test_hugging_face_columns_come_out_exactly_as_they_went_in(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    source = _put_stream(tmp_path / "in", [ODD.slice(0, 2), ODD.slice(2)])
    _run(tmp_path / "out", source)
    (file,) = (tmp_path / "out").glob("*.arrow")
    made = pa.ipc.open_stream(file.read_bytes()).read_all()
    _same(made, ODD)
    _check_added(made, ODD)


def test_data_set_with_videos_inside_keeps_its_features(tmp_path: Path) -> None:
    features = datasets.Features(
        {"video": datasets.Video(decode=False), "label": datasets.ClassLabel(names=["x", "y"])}
    )
    videos = [{"bytes": clip_bytes(), "path": "a.mp4"}, {"bytes": b"no video", "path": None}, None]
    before = datasets.Dataset.from_dict({"video": videos, "label": [1, 0, 1]}, features=features)
    before.save_to_disk(tmp_path / "in")
    summary = _run(tmp_path / "out", tmp_path / "in")
    assert (summary.captions, summary.without_video, summary.failures) == (1, 1, {"unreadable": 1})
    made = datasets.load_from_disk(tmp_path / "out")
    text = datasets.Value("string")
    assert made.features == {**features, **dict.fromkeys(ADDED, text), "caption_candidates": datasets.List(text)}
    assert list(made.select_columns(["video", "label"])) == list(before)
    assert made["caption"][:] == [TEXT, None, None]
    again = datasets.load_from_disk(tmp_path / "out")
    assert made._fingerprint == again._fingerprint
    _run(tmp_path / "out", tmp_path / "in", max_frames=2)
    assert datasets.load_from_disk(tmp_path / "out")._fingerprint != made._fingerprint


@FORMATS
def test_lists_of_videos_get_lists(tmp_path: Path, save: Save, load: Load, suffix: str) -> None:
    put_clip(tmp_path / "a.mp4")
    save(pa.table({"videos": [None, [], ["a.mp4", "gone.mp4"], ["a.mp4"]]}), tmp_path / f"in{suffix}")
    _run(tmp_path / f"out{suffix}", tmp_path / f"in{suffix}")
    made = load(tmp_path / f"out{suffix}")
    assert made.column("caption").to_pylist() == [None, [], [TEXT, None], [TEXT]]
    assert made.column("caption_candidates").to_pylist() == [[], [], [[TEXT], []], [[TEXT]]]
    metas = made.column("caption_meta").to_pylist()
    assert [None if meta is None else len(meta) for meta in metas] == [None, 0, 2, 1]
    failures = made.column("caption_failure").to_pylist()
    assert [len(told) for told in failures] == [0, 0, 2, 1]
    assert (failures[2][0], failures[2][1].partition(":")[0], failures[3]) == ("", "missing", [""])


@FORMATS
def test_interleaved_rows_are_repeated_with_all_their_columns(
    tmp_path: Path, save: Save, load: Load, suffix: str
) -> None:
    put_clip(tmp_path / "a.mp4")
    texts = pa.array([f"{VIDEO}old{EOC}", "words", f"{VIDEO}lost{EOC}", f"{VIDEO}x{EOC}"], pa.large_string())
    nanos = pa.array([1, 2, 3, None], pa.timestamp("ns"))
    table = pa.table({"text": texts, "videos": [["a.mp4"], [], ["gone.mp4"], ["a.mp4"]], "at": nanos})
    save(table, tmp_path / f"in{suffix}", 3)
    _run(tmp_path / f"out{suffix}", tmp_path / f"in{suffix}")
    made = load(tmp_path / f"out{suffix}")
    new = f"{VIDEO} {TEXT} {EOC}"
    assert made.schema.types == table.schema.types
    assert made.column("text").to_pylist() == [
        f"{VIDEO}old{EOC}", new, "words", f"{VIDEO}lost{EOC}", f"{VIDEO}x{EOC}", new,
    ]  # fmt: skip
    assert made.column("at").cast(pa.int64()).to_pylist() == [1, 1, 2, 3, None, None]


@FORMATS
@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())], ids=str)
def test_text_that_cannot_be_read_stays_among_captioned_ones(
    tmp_path: Path, save: Save, load: Load, suffix: str, kind: pa.DataType
) -> None:
    put_clip(tmp_path / "a.mp4")
    texts = pa.array([f"{VIDEO}x{EOC}", "bad", f"{VIDEO}z{EOC}", None], kind)
    if kind == pa.string() and suffix == ".parquet":
        texts = pa.array([f"{VIDEO}x{EOC}".encode(), b"\xff", f"{VIDEO}z{EOC}".encode(), None]).view(kind)
    table = pa.table({"text": texts, "videos": [["a.mp4"], ["a.mp4"], ["a.mp4"], []], "id": range(4)})
    if suffix:
        save(table, tmp_path / f"in{suffix}")
    else:
        _put_stream(tmp_path / "in", [table])
    summary = _run(tmp_path / f"out{suffix}", tmp_path / f"in{suffix}")
    assert (summary.captions, sum(summary.failures.values())) == (2, 1)
    if suffix:
        made = load(tmp_path / f"out{suffix}")
    else:
        made = pa.ipc.open_stream((tmp_path / "out" / "data-00000.arrow").read_bytes()).read_all()
    assert made.schema.field("text").type == kind
    assert made.column("id").to_pylist() == [0, 0, 1, 2, 2, 3]
    new = f"{VIDEO} {TEXT} {EOC}".encode()
    bad = texts.cast(pa.binary() if kind != pa.large_string() else pa.large_binary())[1].as_py()
    held = [value.cast(pa.large_binary()).as_py() for value in made.column("text").cast(pa.large_string())]
    assert held == [texts[0].as_py().encode(), new, bad, texts[2].as_py().encode(), new, None]


@FORMATS
def test_captions_of_an_earlier_run_are_never_replaced(tmp_path: Path, save: Save, load: Load, suffix: str) -> None:
    put_clip(tmp_path / "a.mp4")
    older = {
        "caption": [1, 2],
        "video": ["a.mp4", None],
        "caption_meta": [{"by": "hand"}, {"by": "hand"}],
        "id": [7, 8],
    }
    save(pa.table(older), tmp_path / f"in{suffix}")
    with pytest.raises(SettingsError, match="have a column 'caption' and 'caption_meta' already, which would be lost"):
        _run(tmp_path / f"out{suffix}", tmp_path / f"in{suffix}")
    _run(tmp_path / f"out{suffix}", tmp_path / f"in{suffix}", tasks={"other": {}})
    made = load(tmp_path / f"out{suffix}")
    assert made.column_names == [*older, "other", "other_candidates", "other_meta", "other_failure"]
    assert made.select([*older]).to_pydict() == older
    assert made.column("other").to_pylist() == [TEXT, None]


@pytest.mark.parametrize("output", ["out.parquet", "out.jsonl", "out"])
def test_fields_of_nothing_but_nulls_stay_in_every_place(output: str, tmp_path: Path) -> None:
    cells = [{"score": 0.5, "at": datetime.datetime(2024, 1, 1), "comment": None} for _ in range(3000)]
    columns = {"video": [f"{number}.mp4" for number in range(3000)], "cell": pa.array(cells)}
    _save_parquet(pa.table(columns), tmp_path / "in.parquet")
    summary = _run(tmp_path / output, tmp_path / "in.parquet", shard="2/3")
    assert 900 < summary.failures["missing"] < 1100
    made = tmp_path / output
    if output == "out.jsonl":
        made_cells = [row["cell"] for row in map(json.loads, made.read_text().splitlines())]
        assert made_cells == [{"score": 0.5, "at": "2024-01-01 00:00:00.000000", "comment": None}] * len(made_cells)
    else:
        table = pq.read_table(made) if made.suffix else datasets.load_from_disk(made).data.table
        assert table.column("cell").to_pylist() == cells[: len(table)]


def test_value_that_python_cannot_hold_costs_its_row_and_stays(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    bad = pa.array([b"a.mp4", b"\xff.mp4", b"a.mp4"]).view(pa.string())
    _save_parquet(pa.table({"video": bad, "id": [1, 2, 3]}), tmp_path / "in.parquet")
    summary = _run(tmp_path / "out.parquet", tmp_path / "in.parquet")
    assert (summary.captions, summary.failures) == (2, {"row": 1})
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.column("video").cast(pa.binary()).to_pylist() == [b"a.mp4", b"\xff.mp4", b"a.mp4"]
    assert "row: this row cannot be read: 'utf-8' codec" in made.column("caption_failure").to_pylist()[1]


def test_data_sets_that_lack_a_column_go_together(tmp_path: Path) -> None:
    _save_parquet(pa.table({"video": ["x"], "n": pa.nulls(1)}), tmp_path / "1.parquet")
    _save_parquet(pa.table({"n": pa.array([2**60]), "video": ["y"], "more": ["z"]}), tmp_path / "2.parquet")
    _run(tmp_path / "out.parquet", tmp_path)
    made = pq.read_table(tmp_path / "out.parquet")
    assert made.select(["video", "n", "more"]).to_pylist() == [
        {"video": "x", "n": None, "more": None},
        {"video": "y", "n": 2**60, "more": "z"},
    ]


def test_columns_of_several_types_are_refused(tmp_path: Path) -> None:
    _save_parquet(pa.table({"n": pa.array([1]), "video": ["gone.mp4"]}), tmp_path / "1.parquet")
    _save_parquet(pa.table({"n": pa.array([0.5]), "video": ["gone.mp4"]}), tmp_path / "2.parquet")
    with pytest.raises(DatasetError, match=r"2\.parquet has other types than the data sets before it \(.*n .*\); "):
        _run(tmp_path / "out.parquet", tmp_path / "1.parquet", tmp_path / "2.parquet")
    _run(tmp_path / "out.jsonl", tmp_path / "1.parquet", tmp_path / "2.parquet")
    assert [row["n"] for row in read_rows_of(tmp_path / "out.jsonl")] == [1, 0.5]


def test_type_that_parquet_lacks_is_told_before_a_model_is_loaded(tmp_path: Path) -> None:
    spans = pa.array([(1, 2, 3)], pa.month_day_nano_interval())
    source = _put_stream(tmp_path / "in", [pa.table({"span": spans, "video": ["gone.mp4"]})])
    with pytest.raises(DatasetError, match=r"cannot write out\.parquet: .*interval.*; write \.jsonl or a Hugging Face"):
        _run(tmp_path / "out.parquet", source, engine="vllm")
    assert not list(tmp_path.glob("out*"))
    _run(tmp_path / "out", source)
    assert (
        pa.ipc.open_stream((tmp_path / "out" / "data-00000.arrow").read_bytes()).read_all().column("span")[0]
        == spans[0]
    )


@pytest.mark.parametrize("suffix", [".parquet", ""])
@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"video_key": "clp"}, "no column 'clp', which video_key names; did you mean clip?"),
        ({"video_key": "clip", "text_key": "words"}, "no column 'words', which text_key names; there are clip, id."),
        ({"video_key": "clip", "prompt_key": "x"}, "no column 'x', which prompt_key names; there are clip, id."),
        ({}, "no column 'video' or 'videos'; video_key names another of clip, id."),
    ],
)
def test_columns_that_are_not_there_are_told_before_a_model_is_loaded(
    tmp_path: Path, settings: dict[str, Any], told: str, suffix: str
) -> None:
    table = pa.table({"clip": ["gone.mp4"], "id": [1]})
    source = tmp_path / f"in{suffix}"
    (_save_parquet if suffix else _save_hf)(table, source)
    with pytest.raises(SettingsError, match=re.escape(told)):
        _run(tmp_path / "out.jsonl", source, engine="vllm", **settings)
    assert not list(tmp_path.glob("out*"))


def test_columns_of_one_name_are_refused(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    _save_parquet(table, tmp_path / "in.parquet")
    with pytest.raises(DatasetError, match=r"in\.parquet has several columns called a; rename them"):
        find_sources([tmp_path / "in.parquet"])


@pytest.mark.parametrize("table", [ODD.slice(0, 0), pa.table({"video": pa.nulls(3, pa.string())})])
def test_data_set_without_rows_or_without_a_video_is_refused(tmp_path: Path, table: pa.Table) -> None:
    _save_parquet(table, tmp_path / "in.parquet")
    with pytest.raises(
        DatasetError, match=r"nothing to caption: (.*in\.parquet has no rows|none of 3 rows has a video)"
    ):
        _run(tmp_path / "out.parquet", tmp_path / "in.parquet", engine="vllm")
    assert not list(tmp_path.glob("out*"))


@FORMATS
def test_no_rows_give_a_data_set_without_rows(tmp_path: Path, save: Save, load: Load, suffix: str) -> None:
    _save_parquet(pa.table({"video": ["gone.mp4"] * 3}), tmp_path / "in.parquet")
    shards = [tmp_path / f"{number}{suffix}" for number in (1, 2)]
    for number, output in enumerate(shards, 1):
        _run(output, tmp_path / "in.parquet", shard=f"{number}/2")
    assert sorted(len(load(output)) for output in shards) == [0, 3]  # doubles are in one shard


# From and to other formats


def test_rows_of_json_get_types_and_lose_nothing(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows: list[dict[str, Any]] = [
        {"video": "a.mp4", "n": n, "f": 0.5, "d": {"x": [1]}, "mixed": n} for n in range(2100)
    ]
    rows[3] |= {"n": 2**63, "mixed": "text", "text": "half \ud83d"}
    rows[4] |= {"n": None, "d": {"x": [2], "y": 1}, "text": "ünï"}
    rows[2050] |= {"n": "seven", "d": {"x": [1], "z": 5}, "new": [1, {"a": None}]}
    rows[2060] |= {"n": True, "f": 10**400, "text": "\ud83d"}
    source = put_rows(tmp_path / "in.jsonl", rows)
    with source.open("ab") as file:
        file.write(b"broken\n")
    _run(tmp_path / "out.parquet", source)
    made = pq.read_table(tmp_path / "out.parquet")
    types = {name: str(made.schema.field(name).type) for name in ("n", "f", "mixed", "text")}
    assert types == {"n": "uint64", "f": "double", "mixed": "string", "text": "string"}
    table = made.to_pylist()
    assert [row["n"] for row in table[:4]] == [0, 1, 2, 2**63]
    assert [row["mixed"] for row in table[2:5]] == ["2", '"text"', "4"]
    assert [row["text"] for row in table[2:5]] == [None, None, "ünï"]
    unfit = {number: json.loads(row[UNFIT]) for number, row in enumerate(table) if row[UNFIT]}
    assert unfit == {
        3: {"text": "half \ud83d"},
        2050: {"n": "seven", "d": {"x": [1], "z": 5}, "new": [1, {"a": None}]},
        2060: {"n": True, "f": 10**400, "text": "\ud83d"},
    }
    assert [row["caption"] for row in table] == [TEXT] * 2100 + [None]
    assert made.column_names[-1] == UNFIT


@pytest.mark.parametrize("value", [2**63, -1, 2**64, {"seed": 2**63}, [2**63, "a"]])
def test_large_integers_keep_their_column(tmp_path: Path, value: Any) -> None:
    rows = [{"video": "gone.mp4", "x": value if number % 2 else 2**63 + number} for number in range(10)]
    _run(tmp_path / "out.parquet", put_rows(tmp_path / "in.jsonl", rows))
    made = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert [json.loads(row["x"]) if isinstance(row["x"], str) else row["x"] for row in made] == [r["x"] for r in rows]
    assert {row[UNFIT] for row in made} == {None}


@pytest.mark.parametrize("value", [[], {}, [{}], {"a": []}, [None], None, "", {"": 1}])
def test_empty_values_of_json_can_be_written(tmp_path: Path, value: Any) -> None:
    rows = [{"video": "gone.mp4", "x": value}] * 2
    _run(tmp_path / "out.parquet", put_rows(tmp_path / "in.jsonl", rows))
    (held, _) = pq.read_table(tmp_path / "out.parquet").column("x").to_pylist()
    assert held == value or json.loads(held) == value


@pytest.mark.parametrize("levels", [40, 200, 800])
@pytest.mark.parametrize("alone", [True, False])
def test_deeply_nested_values_of_json_can_be_written_and_read(tmp_path: Path, levels: int, alone: bool) -> None:
    rows = [f'{{"video": "gone.mp4", "d": {"[" * levels}1{"]" * levels}}}']
    if not alone:
        rows.insert(0, '{"video": "gone.mp4", "d": [1]}')
    (tmp_path / "in.jsonl").write_text("\n".join(rows) + "\n")
    _run(tmp_path / "out.parquet", tmp_path / "in.jsonl")
    made = pq.read_table(tmp_path / "out.parquet").to_pylist()
    assert len(made) == len(rows)
    assert any("[" * levels in str(value) for row in made for value in row.values())


def test_parquet_to_json_keeps_what_json_can_say(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    _save_parquet(ODD, tmp_path / "in.parquet")
    _run(tmp_path / "out.jsonl", tmp_path / "in.parquet")
    first, second, third = map(json.loads, (tmp_path / "out.jsonl").read_text("utf-8").strip().split("\n"))
    assert list(first) == [*ODD.column_names, *ADDED]
    wanted = {
        "int64": 2**63 - 1, "uint64": 2**64 - 1, "decimal": "1.10", "nanos": "1970-01-01 00:00:00.000000001",
        "zoned": "2024-02-29 00:00:00.000000Z", "date": "0001-01-01", "bytes": "AP8=", "coded": "x",
        "far": "11103-08-29 17:22:31.711744", "span": 1,
        "nested": [{"a": [1, None]}, None], "map": [["k", 1]], "nulls": None, "caption": TEXT,
    }  # fmt: skip
    assert {name: first[name] for name in wanted} == wanted
    assert second["caption_failure"].startswith("missing: ")
    assert [third[name] for name in ("int64", "text", "caption")] == [None, None, None]


# Streaming and damage


def test_row_groups_are_read_one_after_the_other(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _save_parquet(pa.table({"video": [f"{n}.mp4" for n in range(1000)], "n": range(1000)}), tmp_path / "in.parquet", 10)
    read = 0
    iterate = pq.ParquetFile.iter_batches

    def counted(file: Any, *words: Any, **named: Any) -> Any:
        nonlocal read
        for batch in iterate(file, *words, **named):
            read += len(batch)
            yield batch

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", counted)
    sources = find_sources([tmp_path / "in.parquet"])
    rows = read_rows(sources, Settings(), output=tmp_path / "out.jsonl")
    for number in range(100):
        assert next(rows).index == number
        assert read <= (number // 10 + 1) * 11


@pytest.mark.parametrize("repeated", [True, False])
def test_large_rows_are_read_few_at_a_time(tmp_path: Path, repeated: bool) -> None:
    blob = bytes(1 << 19)  # a repeated one of up to a megabyte is stored once
    blobs = [blob] * 200 if repeated else [blob + bytes([number]) for number in range(200)]
    _save_parquet(pa.table({"video": [None] * 200, "blob": blobs}), tmp_path / "in.parquet")
    rows = read_rows(find_sources([tmp_path / "in.parquet"]), Settings(), output=tmp_path / "out.jsonl")
    before = pa.total_allocated_bytes()
    held = max(pa.total_allocated_bytes() - before for _ in rows)
    assert held < 60 << 20


def test_rows_are_written_in_groups_of_bounded_size(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet, "_GROUP_ROWS", 1000)
    table = pa.table({"id": range(2500), "video": [None] * 2499 + ["gone.mp4"]})
    _save_parquet(table, tmp_path / "in.parquet")
    _run(tmp_path / "out.parquet", tmp_path / "in.parquet")
    file = pq.ParquetFile(tmp_path / "out.parquet")
    assert [file.metadata.row_group(n).num_rows for n in range(file.num_row_groups)] == [1000, 1000, 500]
    assert file.read(["id", "video"]).equals(table)


def test_numbers_of_rows_are_known(tmp_path: Path) -> None:
    table = pa.table({"video": [None] * 2500})
    _save_parquet(table, tmp_path / "in.parquet")
    source = _put_stream(tmp_path / "in", [table.slice(0, 1100), table.slice(1100)])
    assert count_rows(find_sources([tmp_path / "in.parquet", source])) == 5000
    assert hf.count(str(source), 0.0) is None


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    _save_parquet(ODD, tmp_path / "in.parquet")
    files = []
    for _ in range(2):
        _run(tmp_path / "out.parquet", tmp_path / "in.parquet")
        _run(tmp_path / "out", tmp_path / "in.parquet")
        made = [tmp_path / "out.parquet", *sorted((tmp_path / "out").iterdir())]
        files.append([file.read_bytes() for file in made])
        shutil.rmtree(tmp_path / "out")
    assert files[0] == files[1]


@pytest.mark.parametrize("content", [b"", b"PAR1", b"PAR1" + b"x" * 100 + b"PAR1", b"\xff" * 1000])
def test_file_that_is_no_parquet_is_told_at_once(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "in.parquet").write_bytes(content)
    with pytest.raises(DatasetError, match=r"cannot read .*in\.parquet: "):
        find_sources([tmp_path / "in.parquet"])


def test_damaged_row_group_costs_what_follows_in_its_file(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    for name in ("1", "2"):
        _save_parquet(pa.table({"video": ["a.mp4"] * 4, "n": range(4)}), tmp_path / f"{name}.parquet", 2)
    data = bytearray((tmp_path / "1.parquet").read_bytes())
    place = pq.ParquetFile(tmp_path / "1.parquet").metadata.row_group(1).column(0).data_page_offset
    data[place : place + 30] = b"\xff" * 30
    (tmp_path / "1.parquet").write_bytes(data)
    output = tmp_path / "out" / "out.jsonl"
    summary = _run(output, tmp_path / "1.parquet", tmp_path / "2.parquet", root=str(tmp_path))
    assert (summary.captions, summary.failures) == (6, {"row": 1})
    assert "1.parquet" in read_rows_of(summary.failures_file)[0]["message"]
    assert "What it holds from here on is left out." in read_rows_of(summary.failures_file)[0]["message"]
    summary = _run(tmp_path / "out" / "out.parquet", tmp_path / "1.parquet", tmp_path / "2.parquet", root=str(tmp_path))
    assert pq.read_table(tmp_path / "out" / "out.parquet").column("n").to_pylist() == [0, 1, 0, 1, 2, 3]


@pytest.mark.parametrize(
    ("state", "told"),
    [
        ("{", "its state.json lists no data files"),
        ("[" * 100_000, "its state.json lists no data files"),
        ("[]", "its state.json lists no data files"),
        ('{"_data_files": [{"filename": "../in.arrow"}]}', "lists '../in.arrow', which is not in the folder"),
        ('{"_data_files": [{"filename": "gone.arrow"}]}', "lists gone.arrow, which is not there"),
        ('{"_data_files": [{"filename": "bad.arrow"}]}', "bad.arrow: "),
        ('{"_data_files": [], "_indices_data_files": [1]}', r"save it again with flatten_indices\(\)"),
    ],
)
def test_folder_that_is_no_data_set_is_told_at_once(tmp_path: Path, state: str, told: str) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "in" / "bad.arrow").write_bytes(b"words" * 100)
    (tmp_path / "in" / "dataset_info.json").write_text("{}")
    (tmp_path / "in" / "state.json").write_text(state)
    with pytest.raises(DatasetError, match=told):
        find_sources([tmp_path / "in"])


def test_damaged_stream_costs_what_follows(tmp_path: Path) -> None:
    source = _put_stream(tmp_path / "in", [pa.table({"video": ["gone.mp4"] * 2})])
    (file,) = source.glob("*.arrow")
    data = file.read_bytes()
    file.write_bytes(data[: len(data) - 100])
    (bad,) = read_rows(find_sources([source]), Settings(), output=tmp_path / "out.jsonl")
    assert bad.problem is not None
    assert ".arrow: " in bad.problem.message


def test_stream_that_points_outside_of_itself_is_told_and_not_followed(tmp_path: Path) -> None:
    source = _put_stream(tmp_path / "in", [pa.table({"video": ["aaaa", "bbbb"]})])
    (file,) = source.glob("*.arrow")
    data, offsets = file.read_bytes(), struct.pack("<3i", 0, 4, 8)
    assert data.count(offsets) == 1
    file.write_bytes(data.replace(offsets, struct.pack("<3i", 0, 4, 1 << 30)))
    (bad,) = read_rows(find_sources([source]), Settings(), output=tmp_path / "out.jsonl")
    assert bad.problem is not None
    assert "out of bounds" in bad.problem.message


def test_folder_of_something_else_is_not_replaced(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    _save_parquet(ODD, tmp_path / "in.parquet")
    _run(tmp_path / "out", tmp_path / "in.parquet")
    _run(tmp_path / "out", tmp_path / "in.parquet")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "precious").touch()
    with pytest.raises(DatasetError, match=r"cannot write to .*other: something else is there already; name a new"):
        _run(tmp_path / "other", tmp_path / "in.parquet")
    with pytest.raises(DatasetError, match=r"cannot write to .*: it is an input, too"):
        _run(tmp_path / "out", tmp_path / "out")
    assert sorted(file.name for file in tmp_path.iterdir()) == [
        "in.parquet", "other", "out", "out.data.failures.jsonl", "out.ledger.sqlite", "out.run.json",
    ]  # fmt: skip


def test_files_of_a_data_set_have_so_many_rows(tmp_path: Path) -> None:
    _save_parquet(pa.table({"id": range(5), "video": ["gone.mp4"] * 5}), tmp_path / "in.parquet")
    _run(tmp_path / "out", tmp_path / "in.parquet", shard_rows=2)
    assert len(list((tmp_path / "out").glob("data-*.arrow"))) == 3
    assert datasets.load_from_disk(tmp_path / "out")["id"][:] == list(range(5))
