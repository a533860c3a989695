"""Data sets with corrections: written once more, exported, reported."""

import importlib.util
import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from flow import EOC, VIDEO, ScriptedEngine, clip_bytes, put_clip, put_rows, read_rows_of, said

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.dataset.edits import edits_of
from reelscribe.errors import DatasetError
from reelscribe.export.options import ExportOptions
from reelscribe.export.trainers import export_data
from reelscribe.layouts import captions_in
from reelscribe.report.apply import apply_edits
from reelscribe.report.edited import is_edited
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners.local import run
from reelscribe.values import CAPTION_META, Row, Work
from report.correcting import Desk, failed, put_output, row

needs_data = pytest.mark.skipif(importlib.util.find_spec("pyarrow") is None, reason="the extra data is not installed")


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """An output that a person went through."""
    output = put_output(tmp_path)
    desk = Desk(output)
    desk.do(text="A woman walks a dog.", note="")
    desk.do(verdict="approved")
    desk.do("1-0", verdict="rejected")
    desk.do("2-0", text="A man sits.")
    desk.do("3-0", note="see to it")
    return output


def _marks(item: Row) -> dict[str, Any]:
    meta = item["caption_meta"] or {}
    return {name: meta[name] for name in ("edited_from", "verdict", "note", "flags") if name in meta}


def test_all_rows_are_written_with_captions_as_people_left_them(output: Path) -> None:
    before = output.read_bytes()
    summary = apply_edits(output)
    assert summary.output.name == "out.edited.jsonl"
    assert (summary.rows, summary.edited, summary.verdicts, summary.notes) == (4, 2, {"approved": 1, "rejected": 1}, [])
    rows = read_rows_of(summary.output)
    assert [item["caption"] for item in rows] == ["A woman walks a dog.", "A man walks a dog.", "A man sits.", None]
    assert [_marks(item) for item in rows] == [
        {"edited_from": "A man walks a dog.", "verdict": "approved", "note": "", "flags": ""},
        {"edited_from": "", "verdict": "rejected", "note": "", "flags": ""},
        {"edited_from": "The MAN sits on a mantelpiece.", "verdict": "", "note": "", "flags": "thinned"},
        {},
    ]
    assert [item["caption_candidates"] for item in rows[:3]] == [
        item["caption_candidates"] for item in read_rows_of(output)[:3]
    ]
    assert output.read_bytes() == before


def test_a_caption_by_hand_takes_the_place_of_a_failure(output: Path) -> None:
    Desk(output).do("3-0", text="A bird sings.")
    new = apply_edits(output).output
    item = read_rows_of(new)[3]
    assert (item["caption"], item["caption_failure"]) == ("A bird sings.", "")
    told = {name: item["caption_meta"][name] for name in ("model", "edited_from", "verdict", "note")}
    assert told == {"model": "by hand", "edited_from": "", "verdict": "", "note": "see to it"}
    assert item["caption_meta"].keys() == CAPTION_META.keys()
    for source in (output, new):
        [entry] = [item for item in CaptionedData(source).entries() if isinstance(item, Entry) and item.row == 3]
        assert (entry.captions, entry.failure, is_edited(entry)) == (("A bird sings.",), None, True)


def test_corrected_events_are_written_as_events(tmp_path: Path) -> None:
    events = [{"start": 4.0, "end": 5.0, "text": "A dog runs."}]
    said = row("a.mp4", "0-1: A dog runs.", clip_start=4.0, clip_end=6.0) | {"caption": events}
    output = put_rows(tmp_path / "out.jsonl", [said])
    Desk(output).do(text="0.5-2 s: A cat runs.")
    [item] = read_rows_of(apply_edits(output).output)
    assert item["caption"] == [{"start": 4.5, "end": 6.0, "text": "A cat runs."}]
    assert item["caption_meta"]["edited_from"] == "0-1: A dog runs."


def test_what_is_there_is_not_replaced_without_being_told(output: Path) -> None:
    new = output.with_name("mine.jsonl")
    new.write_text("mine")
    with pytest.raises(DatasetError, match=r"mine\.jsonl is there already; --overwrite replaces it"):
        apply_edits(output, new)
    assert new.read_text() == "mine"
    apply_edits(output, new, overwrite=True)
    assert len(read_rows_of(new)) == 4
    for same in (output, edits_of(output)):
        with pytest.raises(DatasetError, match="what the model said stays there"):
            apply_edits(output, same, overwrite=True)


def test_what_cannot_be_applied(tmp_path: Path) -> None:
    output = put_output(tmp_path)
    with pytest.raises(DatasetError, match=r"nobody corrected .*: there is no out\.edits\.jsonl"):
        apply_edits(output)
    with pytest.raises(DatasetError, match="there is no"):
        apply_edits(tmp_path / "none.jsonl")
    for number in range(2):
        put_rows(tmp_path / f"shard-{number:05d}.jsonl", [row("a.mp4", "A man.")])
    shards = tmp_path / "shard-{shard}.jsonl"
    Desk(shards).do(text="A woman.")
    with pytest.raises(DatasetError, match="is in shards; name where to write with -o"):
        apply_edits(shards)
    apply_edits(shards, tmp_path / "new.jsonl")
    assert [item["caption"] for item in read_rows_of(tmp_path / "new.jsonl")] == ["A woman.", "A man."]


def test_edits_without_effect_are_said(output: Path) -> None:
    rows = read_rows_of(output)
    rows[2]["caption"], rows[2]["caption_candidates"] = "Anew.", ["Anew."]
    put_rows(output, rows[:3])
    summary = apply_edits(output)
    assert read_rows_of(summary.output)[2]["caption"] == "Anew."
    assert summary.notes == [
        "1 correction is of what is no longer kept: it has no effect, and stays in the log",
        "1 correction is of a caption that is not there: it has no effect, and stays in the log",
    ]


def test_corrections_of_answers_to_another_prompt_are_said_to_be_that(tmp_path: Path) -> None:
    before = [row(name, "A man.", prompt_sha256="1" * 64) for name in ("a.mp4", "b.mp4", "c.mp4")]
    output = put_rows(tmp_path / "out.jsonl", before)
    for number in range(3):
        Desk(output).do(f"{number}-0", text="A woman.")
    put_rows(output, [row("a.mp4", "A dog.", prompt_sha256="2" * 64), failed("b.mp4")])
    assert apply_edits(output).notes == [
        "1 correction is of an answer to another prompt: it has no effect, and stays in the log",
        "2 corrections are of captions that are not there: they have no effect, and stay in the log",
    ]
    put_rows(output, before)
    assert apply_edits(output, overwrite=True).notes == []


def test_the_root_is_said_where_paths_start_from_another_folder(output: Path) -> None:
    put_clip(output.parent / "a.mp4")
    assert apply_edits(output).notes == []
    new = output.parent / "final" / "out.jsonl"
    [note] = apply_edits(output, new).notes
    assert note.endswith(f"find them with --root {output.parent.resolve()}")
    [first, *_] = CaptionedData(new, root=Path(note.rpartition(" ")[2])).entries()
    assert isinstance(first, Entry)
    assert first.video.path is not None


def test_the_command(output: Path) -> None:
    result = CliRunner().invoke(main, ["apply", str(output)])
    assert result.exit_code == 0
    assert result.stderr == f"4 rows in {output.with_name('out.edited.jsonl')}: 2 edited, 1 approved, 1 rejected\n"
    result = CliRunner().invoke(main, ["apply", str(output)])
    assert result.exit_code == 2


def test_corrections_of_a_corrected_output_keep_what_the_model_said(output: Path) -> None:
    new = apply_edits(output).output
    Desk(new).do(text="Once more.")
    [first, *_] = read_rows_of(apply_edits(new).output)
    assert (first["caption"], _marks(first)["edited_from"]) == ("Once more.", "A man walks a dog.")


# Real runs, which write the output anew


def _captioned(folder: Path, name: str, rows: list[Row], **changes: Any) -> Path:
    data = put_rows(folder / "in.jsonl", rows)
    engine = ScriptedEngine(lambda asked: said("A man walks.", "A dog."))
    settings = Settings(**{"num_captions": 2, "decoders": 0, "seed": 1, **changes})
    run([data], folder / name, settings, engine=engine)
    return folder / name


def test_a_rerun_loses_no_edit(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    put_clip(tmp_path / "b.mp4")
    output = _captioned(tmp_path, "out.jsonl", [{"video": "b.mp4"}])
    Desk(output).do(text="A woman walks.")
    _captioned(tmp_path, "out.jsonl", [{"video": "a.mp4"}, {"video": "b.mp4"}])
    entries = [item for item in CaptionedData(output).entries() if isinstance(item, Entry)]
    assert [item.captions[0] == "A woman walks." for item in entries] == [False, True]
    assert entries[1].meta["edited_from"] in ("A man walks.", "A dog.")


def test_edits_stay_with_the_question_that_the_caption_answers(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows: list[Row] = [{"video": "a.mp4", "q": question} for question in ("Who?", "What?")]
    output = _captioned(tmp_path, "out.jsonl", rows, prompt_key="q")
    desk = Desk(output)
    desk.do("0-0", text="A woman walks.")
    desk.do("1-0", verdict="rejected")
    _captioned(tmp_path, "out.jsonl", [{"video": "a.mp4", "q": "Where?"}, *rows], prompt_key="q")
    applied = read_rows_of(apply_edits(output).output)
    assert [item["caption"] == "A woman walks." for item in applied] == [False, True, False]
    assert [_marks(item)["verdict"] for item in applied] == ["", "", "rejected"]
    assert Desk(output).editor.states()["states"].keys() == {"1-0", "2-0"}


def test_what_was_made_of_one_caption_does_not_hold_when_others_are_kept_beside_it(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    put_clip(tmp_path / "b.mp4")
    rows: list[Row] = [{"video": "a.mp4"}, {"video": "b.mp4"}]
    output = _captioned(tmp_path, "out.jsonl", rows, seed=5)
    assert [item["caption"] for item in read_rows_of(output)] == ["A man walks."] * 2  # the first of both candidates
    desk = Desk(output)
    desk.do("0-0", verdict="approved")
    desk.do("1-0", text="A woman walks.")
    _captioned(tmp_path, "out.jsonl", rows, seed=5, keep="all")
    desk = Desk(output)
    assert [desk.state(name)["outdated"] for name in ("0-0", "1-0")] == [True, True]
    summary = apply_edits(output)
    assert (summary.edited, summary.verdicts["approved"], len(summary.notes)) == (0, 0, 1)
    desk.do("0-0", verdict="approved")  # of both
    assert not desk.state("0-0")["outdated"]
    _captioned(tmp_path, "out.jsonl", rows, seed=5)
    desk = Desk(output)
    assert [desk.state(name)["outdated"] for name in ("0-0", "1-0")] == [True, False]


@needs_data
@pytest.mark.parametrize("name", ["out.parquet", "out.tar", "hf"])
def test_the_format_stays(tmp_path: Path, name: str) -> None:
    put_clip(tmp_path / "a.mp4")
    listed: Row = {"videos": ["a.mp4", "a.mp4"], "n": 7}
    changes = {} if "." in name else {"output_format": "hf"}
    output = _captioned(tmp_path, name, [listed], **changes)
    desk = Desk(output)
    desk.do("0-1", text="A woman walks.")
    desk.do("0-0", verdict="rejected")
    new = apply_edits(output).output
    assert new.name == {"hf": "hf.edited"}.get(name, f"out.edited.{name[4:]}")
    before, after = (
        [item for item in CaptionedData(each, corrected=False).entries() if isinstance(item, Entry)]
        for each in (output, new)
    )
    assert [item.captions for item in after] == [before[0].captions, ("A woman walks.",)]
    assert [item.meta["verdict"] for item in after] == ["rejected", ""]
    assert after[1].meta["edited_from"] == before[1].captions[0]
    assert after[0].source is not None
    assert after[0].source.row["videos"] == before[0].source.row["videos"]  # type: ignore[union-attr]


@needs_data
def test_structured_captions_are_values_again(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    schema = {"type": "object", "properties": {"animal": {"type": "string"}}, "required": ["animal"]}
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}])
    settings = Settings(tasks={"shot": {"schema": schema}}, decoders=0)
    engine = ScriptedEngine(lambda asked: said('{"animal": "dog"}'))
    run([data], tmp_path / "out.parquet", settings, engine=engine)
    Desk(tmp_path / "out.parquet").do(text='{"animal": "cat"}')
    import pyarrow.parquet as pq

    new = apply_edits(tmp_path / "out.parquet").output
    assert pq.read_table(new).column("shot").to_pylist() == [{"animal": "cat"}]
    assert json.loads(pq.read_table(new).column("shot_meta")[0].as_py())["edited_from"] == '{"animal": "dog"}'


# Captions in the text


def _interleaved(folder: Path, **settings: Any) -> Path:
    """An output of four rows: of two videos, of one, of one that is gone, and of one that is gone beside another."""
    for name in "ab":
        put_clip(folder / f"{name}.mp4")
    told = [("a", "b"), ("b",), ("gone",), ("gone", "a")]
    rows: list[Row] = [
        {"n": n, "videos": [f"{name}.mp4" for name in names], "text": f"{VIDEO} words {EOC}" * len(names)}
        for n, names in enumerate(told)
    ]

    def answer(asked: Work) -> Any:
        stem, [request] = asked.clip.path.stem, asked.requests
        return said(*[f"{stem} {number}" for number in range(request.num_captions)])

    data = put_rows(folder / "in.jsonl", rows)
    run([data], folder / "out.jsonl", Settings(decoders=0, **settings), engine=ScriptedEngine(answer))
    return folder / "out.jsonl"


def test_captions_in_the_text_are_written_as_people_left_them(tmp_path: Path) -> None:
    output = _interleaved(tmp_path, original=False)
    before = read_rows_of(output)
    Desk(output).do("0-1", text=f"A boat {VIDEO}.")
    Desk(output).do("1-0", verdict="rejected")
    Desk(output).do("2-0", text="By hand.")
    Desk(output).do("3-0", text="In vain.")
    summary = apply_edits(output)
    rows = read_rows_of(summary.output)
    assert [row["n"] for row in rows] == [0, 1, 2, 3]
    assert captions_in(rows[0]["text"]) == ["a 0", f"A boat {VIDEO[0]} {VIDEO[1:]}."]
    assert rows[1] == before[1]
    assert captions_in(rows[2]["text"]) == ["By hand."]
    assert rows[3] == before[3]
    assert (summary.rows, summary.edited) == (4, 3)
    assert [note.partition(":")[0] for note in summary.notes[:2]] == [
        "verdicts and notes are not in the new file",
        "1 caption by hand is not in the new file",
    ]


@pytest.mark.parametrize("original", [True, False])
def test_a_correction_takes_the_place_of_all_captions_of_its_video(original: bool, tmp_path: Path) -> None:
    output = _interleaved(tmp_path, original=original, keep="all", num_captions=2)
    Desk(output).do("0-0", text="A boat.")
    Desk(output).do("1-0", text="A ship.")
    Desk(output).do("2-0", text="By hand.")
    found: dict[int, list[list[str]]] = {}
    for item in read_rows_of(apply_edits(output).output):
        found.setdefault(item["n"], []).append(captions_in(item["text"]))
    made = {0: [["A boat.", "b 0"], ["A boat.", "b 1"]], 1: [["A ship."]], 2: [["By hand."]]}
    before = {n: [["words"] * (2 if n in (0, 3) else 1)] if original or n == 3 else [] for n in range(4)}
    assert found == {n: before[n] + made.get(n, []) for n in range(4)}


# Exports


def _exported(output: Path, *where: str, name: str = "set") -> tuple[list[Row], dict[str, int]]:
    columns = ("video", "caption", "edited_from", "verdict")
    options = ExportOptions(target="table", form="jsonl", columns=columns, where=where)
    summary = export_data(output, output.parent / name, options)
    [file] = (output.parent / name).glob("*.jsonl")
    return read_rows_of(file), dict(summary.left_out)


@needs_data
def test_exports_have_corrected_text_and_leave_rejected_out(output: Path) -> None:
    for name in "abc":
        (output.parent / f"{name}.mp4").write_bytes(clip_bytes())
    rows, left_out = _exported(output)
    assert [(item["caption"], item["edited_from"], item["verdict"]) for item in rows] == [
        ("A woman walks a dog.", "A man walks a dog.", "approved"),
        ("A man sits.", "The MAN sits on a mantelpiece.", ""),
    ]
    assert left_out == {"that a person rejected": 1, "that failed (missing)": 1}
    conditions = {"approved": 1, "approved=false": 1, "edited": 2, "rejected": 1, "rejected=false": 2, "note=": 2}
    for number, (condition, count) in enumerate(conditions.items()):
        assert len(_exported(output, condition, name=f"set-{number}")[0]) == count, condition
    Desk(output).do("3-0", text="A bird sings.")  # which had failed
    assert [item["caption"] for item in _exported(output, "edited", name="by-hand")[0]][-1] == "A bird sings."
    Desk(output).do(text="Changed.")
    with pytest.raises(DatasetError, match="the captions have changed"):
        _exported(output)
