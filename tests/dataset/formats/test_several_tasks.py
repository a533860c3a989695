"""Columns of several tasks in each format: texts and values, of one video and of lists, with all that may fail."""

import json
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, clip_bytes, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.runners.local import run
from reelscribe.schemas import Schema
from reelscribe.values import Failure, Row, Work

datasets = pytest.importorskip("datasets")
pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
datasets.disable_progress_bars()

SCHEMA: dict[str, Any] = {
    "type": "object",
    "properties": {
        "seconds": {"type": "number", "x-from": "duration"},
        "what": {"type": "string"},
        "count": {"type": "integer"},
        "tags": {"type": "array", "items": {"type": "string"}},
        "where": {"type": "object", "properties": {"indoors": {"type": "boolean"}}},
        "other": {},
    },
    "required": ["what", "count", "tags", "where"],
}
TASKS: dict[str, Any] = {"short": "Say it.", "form": {"prompt": "Fill it in.", "schema": SCHEMA}}
SAID = {"what": "ünï 🐑", "count": 2, "tags": ["a", "b"], "where": {"indoors": True}}
VALUE = {"seconds": 1.0, **SAID}
ENDS = ("", "_candidates", "_meta", "_failure")
SINGLE: list[Row] = [
    *({"video": "a.mp4"}, {"video": "b.mp4"}, {"video": "gone.mp4"}, {"video": None}, {"video": "odd.mp4"}),
    {"video": 5},
]
SHORT = ["A clip.", None, None, None, "A clip.", None, None]
FORM = [VALUE, VALUE, None, None, None, None, None]
SHORT_FAILURES = ["", "engine", "missing", "", "", "row", "row"]
FORM_FAILURES = ["", "", "missing", "", "", "row", "row"]
LISTS: list[Row] = [
    *({"videos": ["a.mp4", "b.mp4"]}, {"videos": []}, {"videos": None}, {"videos": ["gone.mp4", "odd.mp4"]}),
    {"videos": ["a.mp4"]},
]
SHORTS = [["A clip.", None], [], None, [None, "A clip."], ["A clip."], [None]]
FORMS = [[VALUE, VALUE], [], None, [None, None], [VALUE], [None]]
SHORTS_FAILURES = [["", "engine"], [], [], ["missing", ""], [""], ["row"]]
FORMS_FAILURES = [["", ""], [], [], ["missing", ""], [""], ["row"]]


def _answer(work: Work) -> Any:
    [asked] = work.requests
    if asked.id.task == "form":
        return said("no value" if asked.clip.name == "odd.mp4" else json.dumps(SAID))
    return Failure.of(asked, "it broke") if asked.clip.name == "b.mp4" else said("A clip.")


def _put(folder: Path, rows: list[Row]) -> Path:
    for name in ("a", "b", "odd"):
        put_clip(folder / f"{name}.mp4")
    file = put_rows(folder / "in.jsonl", rows)
    file.write_text(file.read_text() + "{broken\n")
    return file


def _run(output: Path, *inputs: Path, **settings: Any) -> Path:
    told: dict[str, Any] = {"tasks": TASKS, "decoders": 0, "output_format": "auto" if output.suffix else "hf"}
    run(inputs, output, Settings(**told | settings), engine=ScriptedEngine(_answer))
    return output


def _from_tar(file: Path) -> list[Row]:
    """The members of samples that are no videos; those that are not there are null."""
    rows: dict[str, Row] = {}
    with tarfile.open(file) as tar:
        for info in tar:
            key, _, name = info.name.partition(".")
            row = rows.setdefault(key, {})
            data = tar.extractfile(info).read()  # type: ignore[union-attr]
            if name.endswith(".json"):
                row[name.removesuffix(".json")] = json.loads(data)
            elif name.endswith(".txt"):
                row[name.removesuffix(".txt")] = data.decode()
    names = {name for row in rows.values() for name in row}
    return [dict.fromkeys(names) | row for row in rows.values()]


def _from_arrow(rows: list[Row]) -> list[Row]:
    """With metadata as values, and no field that a value lacks."""

    def plain(value: Any) -> Any:
        if isinstance(value, list):
            return list(map(plain, value))
        if not isinstance(value, dict):
            return value
        return {name: item for name, item in value.items() if item is not None}

    def read(meta: Any) -> Any:
        return [json.loads(item) for item in meta] if isinstance(meta, list) else meta and json.loads(meta)

    return [
        {name: read(value) if name.endswith("_meta") else plain(value) for name, value in row.items()} for row in rows
    ]


Load = Callable[[Path], list[Row]]
FORMATS = pytest.mark.parametrize(
    ("name", "load"),
    [
        ("out.jsonl", read_rows_of),
        ("out.parquet", lambda path: _from_arrow(pq.read_table(path).to_pylist())),
        ("out", lambda path: _from_arrow(list(datasets.load_from_disk(path)))),
        ("out.tar", _from_tar),
    ],
    ids=["jsonl", "parquet", "hf", "webdataset"],
)


def _kinds(failures: Any) -> Any:
    """Of failures, or of lists of them."""
    return list(map(_kinds, failures)) if isinstance(failures, list) else failures.partition(":")[0]


@FORMATS
def test_each_task_has_its_columns(tmp_path: Path, name: str, load: Load) -> None:
    rows = load(_run(tmp_path / name, _put(tmp_path, SINGLE)))
    assert {f"{task}{end}" for task in TASKS for end in ENDS} <= rows[0].keys()
    assert [row["short"] for row in rows] == SHORT
    assert [row["form"] for row in rows] == FORM
    assert _kinds([row["short_failure"] for row in rows]) == SHORT_FAILURES
    assert _kinds([row["form_failure"] for row in rows]) == FORM_FAILURES
    assert [row["short_candidates"] for row in rows] == [["A clip."], [], [], [], ["A clip."], [], []]
    texts = [json.dumps(SAID)]
    assert [row["form_candidates"] for row in rows] == [texts, texts, [], [], ["no value"], [], []]
    assert [meta and meta["prompt"] for meta in (row["short_meta"] for row in rows)] == [
        *("Say it.", None, None, None, "Say it.", None, None)
    ]
    assert rows[4]["form_meta"]["faults"] == ["not_json"], "why there is no value"


@FORMATS
def test_lists_of_videos_give_lists_of_each(tmp_path: Path, name: str, load: Load) -> None:
    rows = load(_run(tmp_path / name, _put(tmp_path, LISTS)))
    assert [row["short"] for row in rows] == SHORTS
    assert [row["form"] for row in rows] == FORMS
    assert _kinds([row["short_failure"] for row in rows]) == SHORTS_FAILURES
    assert _kinds([row["form_failure"] for row in rows]) == FORMS_FAILURES
    first = rows[0]
    assert first["short_candidates"] == [["A clip."], []]
    assert first["form_candidates"] == [[json.dumps(SAID)]] * 2
    assert [meta["prompt"] for meta in first["form_meta"]] == ["Fill it in."] * 2


@FORMATS
@pytest.mark.parametrize("listed", [False, True])
def test_columns_that_are_not_chosen_are_not_there(tmp_path: Path, name: str, load: Load, listed: bool) -> None:
    rows = load(_run(tmp_path / name, _put(tmp_path, LISTS if listed else SINGLE), columns="text,failure"))
    added = {f"{task}{end}" for task in TASKS for end in ENDS}
    assert rows[0].keys() & added == {"short", "short_failure", "form", "form_failure"}
    assert [row["short"] for row in rows] == (SHORTS if listed else SHORT)
    assert [row["form"] for row in rows] == (FORMS if listed else FORM)
    assert _kinds([row["form_failure"] for row in rows]) == (FORMS_FAILURES if listed else FORM_FAILURES)


@pytest.mark.parametrize("source", ["in.jsonl", "in.parquet"])
@pytest.mark.parametrize("listed", [False, True])
@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_values_have_the_type_of_their_schema_whatever_came_first(
    tmp_path: Path, name: str, listed: bool, source: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also where the first rows, from which others have their types, have no value at all."""
    monkeypatch.setattr("reelscribe.dataset.formats.arrow.TABLE_ROWS", 2)
    videos: list[Any] = ["gone.mp4", "odd.mp4", "odd.mp4", "a.mp4"]
    cells = [[video] for video in videos] if listed else videos
    column = "videos" if listed else "video"
    _put(tmp_path, [{column: cell} for cell in cells])
    pq.write_table(pa.table({column: cells}), tmp_path / "in.parquet")
    output = _run(tmp_path / name, tmp_path / source)
    made = pq.read_table(output) if output.suffix else datasets.load_from_disk(output).data.table
    wanted = Schema.of(SCHEMA, folder=tmp_path).arrow_type()
    assert pa.types.is_struct(wanted)
    assert made.schema.field("form").type == (pa.list_(wanted) if listed else wanted)
    assert made.schema.field("short").type == (pa.list_(pa.string()) if listed else pa.string())
    value = {**VALUE, "other": None}
    assert made.column("form").to_pylist()[3] == ([value] if listed else value)


@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_lists_among_single_videos_go_where_what_does_not_fit_goes(
    tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("reelscribe.dataset.formats.arrow.TABLE_ROWS", 1)
    rows: list[Row] = [{"video": "a.mp4"}, {"video": ["a.mp4", "gone.mp4"]}, {"video": []}, {"video": "a.mp4"}]
    output = _run(tmp_path / name, _put(tmp_path, rows))
    made = pq.read_table(output) if output.suffix else datasets.load_from_disk(output).data.table
    assert [row["short"] for row in made.to_pylist()[::3]] == ["A clip."] * 2
    unfit = [cells and json.loads(cells) for cells in made["reelscribe_unfit"].to_pylist()]
    assert unfit[0] is None
    assert (unfit[1]["form"], unfit[2]["form"]) == ([VALUE, None], [])


@pytest.mark.parametrize("source", ["in.jsonl", "in.parquet"])
@pytest.mark.parametrize("name", ["out.parquet", "out"])
def test_rows_of_interleaved_text_keep_columns_that_are_called_as_tasks_are(
    tmp_path: Path, name: str, source: str
) -> None:
    text = "<__dj__video>x<|__dj__eoc|>"
    rows = [{"text": text, "videos": ["a.mp4"], "caption": 1, "caption_meta": {"by": "hand"}, "caption_failure": None}]
    _put(tmp_path, rows)
    put_rows(tmp_path / "in.jsonl", rows)
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "in.parquet")
    output = _run(tmp_path / name, tmp_path / source, tasks={})
    made = pq.read_table(output) if output.suffix else datasets.load_from_disk(output).data.table
    columns = made.select(list(rows[0])).to_pylist()
    assert columns == [rows[0], {**rows[0], "text": "<__dj__video> A clip. <|__dj__eoc|>"}]


def test_samples_of_a_tar_file_get_members_of_each_task(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name, data in (("x/a.mp4", clip_bytes()), ("x/a.txt", b"own"), ("x/b.mp4", b"no video")):
            file = tmp_path / "member"
            file.write_bytes(data)
            tar.add(file, name)
    _run(tmp_path / "out.tar", tmp_path / "in.tar")
    with tarfile.open(tmp_path / "out.tar") as tar:
        made = {info.name: tar.extractfile(info).read() for info in tar}  # type: ignore[union-attr]
    ends = ("short.txt", "form.json", *(f"{task}_{kind}.json" for task in TASKS for kind in ("candidates", "meta")))
    failures = ("short_failure.txt", "form_failure.txt")
    assert set(made) == {
        *("x/a.mp4", "x/a.txt", "x/b.mp4"),
        *(f"x/a.{end}" for end in (*ends, *failures)),
        *(f"x/b.{end}" for end in (*ends[2:], *failures)),
    }
    assert (made["x/a.short.txt"].decode(), json.loads(made["x/a.form.json"])) == ("A clip.", VALUE)
    assert made["x/b.form_failure.txt"].startswith(b"unreadable: ")
    again = _run(tmp_path / "again.jsonl", tmp_path / "out.tar", tasks={"third": "Who?"}, columns="text")
    assert [(row.get("form"), row.get("short"), row["third"]) for row in read_rows_of(again)] == [
        *((VALUE, "A clip.", "A clip."), (None, None, None))
    ]


def test_lines_keep_what_is_not_added_to_the_byte(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    line = '{"n": 1.50, "video": "a.mp4",  "s": "\\u00fc"}'
    (tmp_path / "in.jsonl").write_text(line + "\n")
    output = _run(tmp_path / "out.jsonl", tmp_path / "in.jsonl", columns="text,failure")
    told = {"short": "A clip.", "short_failure": "", "form": VALUE, "form_failure": ""}
    assert output.read_text("utf-8") == line[:-1] + ", " + json.dumps(told, ensure_ascii=False)[1:] + "\n"
