"""Exports to trainers: what is left out, where videos come from, and how they get there."""

import itertools
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from clips import read_numbers
from decoding import EVERY_FRAME
from flow import EOC, VIDEO, ScriptedEngine, put_rows, said
from web_server import Server, give

from export.exporting import by_musubi, exported, files_in, film, lines_of, row, two_films, typed
from reelscribe.config import Settings
from reelscribe.config.groups import OutputFormat
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.runners.local import run
from reelscribe.values import Clip, Row
from reelscribe.video.decode import decode

# What is left out


def test_what_is_left_out_is_counted_by_why(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name)
    rows = [
        row("a.mp4", "A cat sits.", flags=""),
        row("a.mp4", "A cat.", flags="truncated loop"),
        row("b.mp4", None, failure="decode: it is damaged"),
        row("gone.mp4", "It is gone."),
        row("b.mp4", " \n"),
        {"video": None, "caption": None, "caption_failure": "", "caption_meta": None},
    ]
    output = put_rows(tmp_path / "out.jsonl", rows)
    code, lines = typed(output, tmp_path / "set", "--as", "musubi", "--where", "flags lacks truncated")
    assert code == 0
    assert lines == [
        f"1 clip with 1 caption in {tmp_path / 'set'}, for musubi-tuner",
        "left out: 1 caption not where flags lacks truncated",
        "left out: 1 caption that failed (decode)",
        "left out: 1 caption without text",
        "left out: 1 clip whose video is not there",
    ]
    assert [text for _, text in by_musubi(tmp_path / "set" / "dataset.toml")] == ["A cat sits."]


def test_nothing_to_export(tmp_path: Path) -> None:
    output = put_rows(tmp_path / "out.jsonl", [row("gone.mp4", "a"), row("a.mp4", None, failure="decode: no")])
    code, [line] = typed(output, tmp_path / "set", "--as", "ltx")
    assert code == 2
    assert "nothing to export" in line
    assert "1 that failed (decode), 1 whose video is not there" in line
    assert not (tmp_path / "set").exists()


def test_captions_beyond_the_first_are_counted(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    rows: list[Row] = [{"video": "a.mp4"}]
    output = tmp_path / "out.jsonl"
    settings = Settings(decoders=0, num_captions=2, keep="all", sampling={"temperature": 1})
    run([put_rows(tmp_path / "in.jsonl", rows)], output, settings, engine=ScriptedEngine(lambda _: said("one", "two")))
    assert exported(output, "ltx").left_out == {"beyond the first of a video": 1}
    summary = exported(output, "diffusion-pipe", "list")
    assert (summary.texts, summary.left_out) == (2, {})
    assert json.loads((tmp_path / "list" / "captions.json").read_text()) == {"a.mp4": ["one", "two"]}


def test_values_of_a_schema_that_do_not_fit_are_left_out(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    schema = {"type": "object", "required": ["n"], "properties": {"n": {"type": "integer"}}}
    answers = itertools.cycle(['{"n": 1}', "none"])
    output = tmp_path / "out.jsonl"
    tasks = {"tags": {"prompt": "Count.", "schema": schema}}
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": "a.mp4#t=0,1"}])
    run([rows], output, Settings(decoders=0, tasks=tasks), engine=ScriptedEngine(lambda _: said(next(answers))))
    summary = exported(output, "table", columns=("caption",))
    assert summary.left_out == {"that did not fit the schema": 1}
    [entry] = lines_of(tmp_path / "set" / "captions.jsonl")
    assert json.loads(entry["caption"]) == {"n": 1}


def test_of_a_list_of_stretches_those_without_a_value_are_left_out(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 100)
    answers = itertools.cycle(["0.0-1.0 s: A dog runs.", "A dog runs."])
    output = tmp_path / "out.jsonl"
    tasks = {"events": {"prompt": "List the events.", "times": True}}
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4", "stretches": [[0, 2], [2, 4]]}])
    run([rows], output, Settings(decoders=0, tasks=tasks), engine=ScriptedEngine(lambda _: said(next(answers))))
    summary = exported(output, "table", columns=("caption", "start"))
    assert (summary.samples, summary.left_out) == (1, {"that had no times, or wrong ones": 1})


def test_a_dry_run_counts_and_writes_nothing(tmp_path: Path) -> None:
    output = two_films(tmp_path)
    code, lines = typed(output, tmp_path / "set", "--as", "videofolder", "--dry-run")
    assert (code, lines) == (
        0,
        [f"2 clips with 2 captions would go to {tmp_path / 'set'}, for Hugging Face VideoFolder; nothing is written"],
    )
    assert not (tmp_path / "set").exists()


def test_words_are_put_around_captions(tmp_path: Path) -> None:
    output = two_films(tmp_path)
    options = ("--trigger", "TOK", "--prefix", "Film: ", "--suffix", " 35 mm.", "--newlines", "fold")
    assert typed(output, tmp_path / "set", "--as", "musubi", *options)[0] == 0
    texts = [text for _, text in by_musubi(tmp_path / "set" / "dataset.toml")]
    assert texts == ["TOK, Film: A cat sits. 35 mm.", "TOK, Film: A dog runs. It is brown. 35 mm."]


def test_without_a_folder_it_is_called_as_the_output(tmp_path: Path) -> None:
    assert typed(two_films(tmp_path), "--as", "ltx")[0] == 0
    assert files_in(tmp_path / "out.ltx") == ["a.mp4", "b.mp4", "metadata.jsonl"]


def test_rows_of_several_videos(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        film(tmp_path / name)
    rows = [{"videos": ["a.mp4", "gone.mp4", "b.mp4"]}, {"videos": ["b.mp4"]}]
    output = tmp_path / "out.jsonl"

    def answer(work: Any) -> Any:
        return said(f"{work.requests[0].id.row} {work.clip.source}")

    run([put_rows(tmp_path / "in.jsonl", rows)], output, Settings(decoders=0), engine=ScriptedEngine(answer))
    assert exported(output, "diffusion-pipe").left_out == {"that failed (missing)": 1}
    captions = json.loads((tmp_path / "set" / "captions.json").read_text())
    assert captions == {"a.mp4": ["0 a.mp4"], "b.mp4": ["0 b.mp4"], "b-2.mp4": ["1 b.mp4"]}


def test_a_task_over_a_film_beside_its_clips(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 100)
    rows = [{"video": "a.mp4", "stretches": [[0, 1], [1, 2]]}]
    whole = {"prompt": "Sum up: {clips}", "after": ["caption"], "video": False, "over": "video"}
    settings = Settings(decoders=0, tasks={"caption": "What happens?", "whole": whole})
    output = tmp_path / "out.jsonl"
    run([put_rows(tmp_path / "in.jsonl", rows)], output, settings, engine=ScriptedEngine(lambda _: said("A cat.")))
    exported(output, "ltx", "film", tasks=("whole",))
    assert lines_of(tmp_path / "film" / "metadata.jsonl") == [{"video": "a.mp4", "caption": "A cat."}]
    exported(output, "table", tasks=("whole", "caption"), columns=("start", "end", "whole", "caption"))
    entries = lines_of(tmp_path / "set" / "captions.jsonl")
    assert [tuple(entry.values()) for entry in entries] == [
        (0.0, None, "A cat.", None),
        (0.0, 1.0, None, "A cat."),
        (1.0, 2.0, None, "A cat."),
    ]


# Tokens


@pytest.mark.transformers
def test_captions_that_are_too_long_are_counted(tmp_path: Path) -> None:
    from reelscribe.models import shapes

    tokenizer = str(Path(shapes.__file__).parent)
    film(tmp_path / "a.mp4")
    texts = ["A dog.", "A cat.", "A dog and a cat and a horse and a cow and a sheep."]
    output = put_rows(tmp_path / "out.jsonl", [row("a.mp4", text) for text in texts])
    warnings = exported(output, "ltx", max_tokens=15, tokenizer=tokenizer).warnings
    assert "1 of 3 captions are longer than 15 tokens; LTX-2 trainer would cut them off" in warnings
    with pytest.raises(DatasetError, match=r"3 of 3 captions are longer than 2 tokens.*--where 'tokens<=2'"):
        exported(output, "ltx", "short", max_tokens=2, tokenizer=tokenizer)
    assert not (tmp_path / "short").exists()
    summary = exported(output, "ltx", "short", max_tokens=15, tokenizer=tokenizer, where=("tokens<=15",))
    assert summary.left_out == {"not where tokens<=15": 1}
    with pytest.raises(SettingsError, match=r"there is no .*tokenizer\.json; tokenizer takes the folder"):
        exported(output, "ltx", "other", tokenizer=str(tmp_path))


# Videos


def test_names_are_unique(tmp_path: Path) -> None:
    names = ["one/a.mp4", "two/A.mp4", "two/a-2.mp4", "two/a.mov", "x/b c\n.mp4", "one/a.mp4"]
    for name in names:
        film(tmp_path / name)
    output = put_rows(tmp_path / "out.jsonl", [row(name, f"of {name!r}") for name in names])
    exported(output, "diffusion-pipe")
    captions = json.loads((tmp_path / "set" / "captions.json").read_text())
    found = ["a.mp4", "A-2.mp4", "a-2-2.mp4", "a-3.mov", "b_c.mp4", "a-4.mp4"]
    assert captions == {name: [f"of {of!r}"] for name, of in zip(found, names, strict=True)}
    for name, of in zip(found, names, strict=True):
        assert (tmp_path / "set" / name).samefile(tmp_path / of)


def test_videos_of_one_name_are_a_warning_for_a_trainer_that_goes_by_names(tmp_path: Path) -> None:
    for name in ("one/a.mp4", "two/a.mp4"):
        film(tmp_path / name)
    output = put_rows(tmp_path / "out.jsonl", [row("one/a.mp4", "1"), row("two/a.mp4", "2")])
    [warning] = exported(output, "musubi", videos="in-place").warnings
    assert warning.startswith("videos that are called as others are, and that musubi-tuner takes for these: 1")
    assert files_in(tmp_path / "set") == ["dataset.toml", "metadata.jsonl"]
    assert exported(output, "musubi", "links").warnings == []


@pytest.mark.parametrize("placing", ["symlink", "hardlink", "copy"])
def test_ways_of_videos_into_the_folder(placing: Any, tmp_path: Path) -> None:
    exported(two_films(tmp_path), "videofolder", videos=placing)
    made, before = tmp_path / "set" / "a.mp4", tmp_path / "a.mp4"
    assert made.read_bytes() == before.read_bytes()
    assert made.is_symlink() == (placing == "symlink")
    assert made.samefile(before) == (placing != "copy")


def test_videos_in_rows_become_files(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    data = film(tmp_path / "a.mp4").read_bytes()
    output = tmp_path / "out.parquet"
    pq.write_table(pa.table({"video": [{"bytes": data, "path": "x.mp4"}], "caption": ["a"]}), output)
    with pytest.raises(DatasetError, match="1 are in the data set itself: --videos copy makes files of them"):
        exported(output, "videofolder")
    assert not (tmp_path / "set").exists()
    exported(output, "videofolder", videos="copy")
    assert (tmp_path / "set" / "row-0.mp4").read_bytes() == data


def test_videos_at_urls_are_downloaded_as_the_run_did(tmp_path: Path) -> None:
    data = film(tmp_path / "a.mp4").read_bytes()
    server = Server()
    server.answers["/clips/b.mp4?key=1"] = give(data)
    rows = put_rows(tmp_path / "in.jsonl", [{"video": server.url("/clips/b.mp4?key=1")}])
    output = tmp_path / "out.jsonl"
    settings = Settings(decoders=0, allow_private_urls=True)
    run([rows], output, settings, engine=ScriptedEngine(lambda _: said("A cat.")))
    with pytest.raises(DatasetError, match="1 are at URLs: --videos copy downloads them"):
        exported(output, "videofolder")
    exported(output, "videofolder", videos="copy")
    assert (tmp_path / "set" / "b.mp4").read_bytes() == data
    put_rows(tmp_path / "bare" / "out.jsonl", lines_of(output))  # without the settings of the run
    summary = exported(tmp_path / "bare" / "out.jsonl", "videofolder", videos="copy")
    assert summary.failed == {"refused": 1}
    assert summary.examples[0].startswith("refused: ")


def test_stretches_need_to_be_cut(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 100)
    rows = [row("a.mp4#t=1,2", "one"), row("a.mp4", "two")]
    output = put_rows(tmp_path / "out.jsonl", rows)
    with pytest.raises(DatasetError, match=r"1 are stretches of videos: --videos cut .* \(as a.mp4#t=1,2\)"):
        exported(output, "musubi")
    assert not (tmp_path / "set").exists()
    exported(output, "musubi", videos="cut")
    [(part, one), (whole, two)] = by_musubi(tmp_path / "set" / "dataset.toml")
    assert (Path(part).name, one, Path(whole).name, two) == ("a-000001000.mp4", "one", "a.mp4", "two")
    frames = decode(Clip(source=part), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(25, 50))
    before = decode(Clip(source=str(tmp_path / "a.mp4"), start_seconds=1, end_seconds=2), EVERY_FRAME)
    assert np.abs(frames.pixels.astype(int) - before.pixels).mean() < 12
    assert Path(whole).read_bytes() == (tmp_path / "a.mp4").read_bytes()


def test_stretches_of_a_film_within_a_tar_file_are_cut(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 100)
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4#t=1,2"}, {"video": "a.mp4", "start": 2, "end": 3}])
    output = tmp_path / "out.tar"
    run([rows], output, Settings(decoders=0), engine=ScriptedEngine(lambda _: said("A cat.")))
    (tmp_path / "a.mp4").unlink()
    with pytest.raises(DatasetError, match=r"2 are stretches of videos: --videos cut"):
        exported(output, "diffusion-pipe")
    exported(output, "diffusion-pipe", videos="cut")
    for name, first in zip(json.loads((tmp_path / "set" / "captions.json").read_text()), (25, 50), strict=True):
        frames = decode(Clip(source=str(tmp_path / "set" / name)), EVERY_FRAME)
        assert read_numbers(frames.pixels) == list(range(first, first + 25))


def test_a_stretch_in_a_tar_file(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 100)
    output = put_rows(tmp_path / "out.jsonl", [row("a.mp4#t=1,2", "one")])
    exported(output, "webdataset", videos="cut")
    shutil.unpack_archive(tmp_path / "set" / "00000.tar", tmp_path / "open")
    frames = decode(Clip(source=str(tmp_path / "open" / "a-000001000.mp4")), EVERY_FRAME)
    assert read_numbers(frames.pixels) == list(range(25, 50))


@pytest.mark.parametrize("name", ["out.parquet", "folder", "out.tar", "text.jsonl", "out-{shard}.jsonl"])
def test_other_formats_and_layouts(name: str, tmp_path: Path) -> None:
    if name in ("out.parquet", "folder"):
        pytest.importorskip("pyarrow")
    film(tmp_path / "a.mp4")
    rows: list[Row] = [{"video": "a.mp4", "id": 7}, {"video": "gone.mp4", "id": 8}]
    if "text" in name:
        rows = [{"videos": [item["video"]], "text": f"{VIDEO}{EOC}"} for item in rows]
    output = tmp_path / name
    shard_rows = 1 if "shard" in name else None
    output_format: OutputFormat = "hf" if name == "folder" else "auto"
    settings = Settings(decoders=0, shard_rows=shard_rows, output_format=output_format)
    run([put_rows(tmp_path / "in.jsonl", rows)], output, settings, engine=ScriptedEngine(lambda _: said("A cat.")))
    options: dict[str, Any] = {} if "text" in name else {"columns": ("video", "caption", "id")}
    summary = exported(output, "table", videos="copy", **options)
    [entry] = lines_of(tmp_path / "set" / "captions.jsonl")
    assert (entry["caption"], entry.get("id", 7)) == ("A cat.", 7)
    assert Path(entry["video"]).read_bytes() == (tmp_path / "a.mp4").read_bytes()
    assert summary.left_out == {"that failed (missing)": 1}
