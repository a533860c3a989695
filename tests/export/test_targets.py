"""Each target's folder, read as its trainer reads it: with its library, or as its documents say."""

import csv
import json
from pathlib import Path
from typing import Any, get_args

import pytest
from clips import read_numbers
from decoding import EVERY_FRAME
from flow import put_rows

from export.exporting import TWO_LINES, by_musubi, by_sharegpt, exported, files_in, film, lines_of, row, two_films
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.export.choices import TargetName
from reelscribe.export.targets import TARGETS
from reelscribe.values import Clip
from reelscribe.video.decode import decode

FOLDED = "A dog runs. It is brown."


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return two_films(tmp_path)


def _texts(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text("utf-8") for file in folder.glob("*.txt")}


def test_each_target_has_rules() -> None:
    assert tuple(TARGETS) == get_args(TargetName)


@pytest.mark.parametrize(
    ("target", "form"), [(name, form) for name, target in TARGETS.items() for form in target.forms]
)
def test_each_form_is_written_in_whole_and_a_second_time_stays(target: Any, form: str, output: Path) -> None:
    if "parquet" in form:
        pytest.importorskip("pyarrow")
    first = exported(output, target, form=form)
    assert (first.samples, first.failed.total()) == (2, 0)
    before = {name: (output.parent / "set" / name).read_bytes() for name in files_in(output.parent / "set")}
    exported(output, target, form=form)
    assert {name: (output.parent / "set" / name).read_bytes() for name in files_in(output.parent / "set")} == before


def test_musubi(output: Path) -> None:
    exported(output, "musubi")
    read = by_musubi(output.parent / "set" / "dataset.toml")
    assert [(Path(path).name, text) for path, text in read] == [("a.mp4", "A cat sits."), ("b.mp4", TWO_LINES)]
    assert all(Path(path).is_absolute() and Path(path).read_bytes()[4:8] == b"ftyp" for path, _ in read)
    exported(output, "musubi", "texts", form="txt")
    read = by_musubi(output.parent / "texts" / "dataset.toml")
    assert [(Path(path).name, text) for path, text in read] == [("a.mp4", "A cat sits."), ("b.mp4", TWO_LINES)]


def test_diffusion_pipe(output: Path) -> None:
    exported(output, "diffusion-pipe", newlines="split")
    assert files_in(output.parent / "set") == ["a.mp4", "b.mp4", "captions.json"]
    captions = json.loads((output.parent / "set" / "captions.json").read_text("utf-8"))
    assert captions == {"a.mp4": ["A cat sits."], "b.mp4": ["A dog runs.", "It is brown."]}


def test_texts_beside_videos(output: Path) -> None:
    for target, wanted in (("ai-toolkit", FOLDED), ("simpletuner", FOLDED), ("onetrainer", FOLDED)):
        exported(output, target, target)
        assert files_in(output.parent / target) == ["a.mp4", "a.txt", "b.mp4", "b.txt"]
        assert _texts(output.parent / target) == {"a.txt": "A cat sits.", "b.txt": wanted}
    exported(output, "simpletuner", "split", newlines="split")
    assert _texts(output.parent / "split")["b.txt"].split("\n") == ["A dog runs.", "It is brown."]


@pytest.mark.parametrize("form", ["jsonl", "json", "csv"])
def test_ltx(form: str, output: Path) -> None:
    exported(output, "ltx", form=form, videos="copy")
    file = output.parent / "set" / f"metadata.{form}"
    if form == "csv":
        with file.open(newline="", encoding="utf-8") as opened:
            entries = list(csv.DictReader(opened))
    else:
        entries = lines_of(file) if form == "jsonl" else json.loads(file.read_text("utf-8"))
    assert entries == [{"video": "a.mp4", "caption": "A cat sits."}, {"video": "b.mp4", "caption": TWO_LINES}]
    assert all((file.parent / entry["video"]).is_file() for entry in entries)


def test_finetrainers(output: Path) -> None:
    exported(output, "finetrainers")
    prompts, videos = (
        (output.parent / "set" / f"{name}.txt").read_text("utf-8").splitlines() for name in ("prompts", "videos")
    )
    assert list(zip(videos, prompts, strict=True)) == [("a.mp4", "A cat sits."), ("b.mp4", FOLDED)]
    exported(output, "finetrainers", "list", form="jsonl")
    assert lines_of(output.parent / "list" / "metadata.jsonl")[1] == {"file_name": "b.mp4", "caption": TWO_LINES}


def test_diffsynth(output: Path) -> None:
    exported(output, "diffsynth")
    with (output.parent / "set" / "metadata.csv").open(newline="", encoding="utf-8") as opened:
        entries = list(csv.DictReader(opened))
    assert [entry["prompt"] for entry in entries] == ["A cat sits.", TWO_LINES]
    assert [(output.parent / "set" / entry["video"]).name for entry in entries] == ["a.mp4", "b.mp4"]


def test_simpletuner_s_parquet_has_lists(output: Path) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    exported(output, "simpletuner", form="parquet", newlines="split")
    assert pq.read_table(output.parent / "set" / "metadata.parquet").to_pylist() == [
        {"filename": "a.mp4", "caption": ["A cat sits."], "width": 96, "height": 64},
        {"filename": "b.mp4", "caption": ["A dog runs.", "It is brown."], "width": 96, "height": 64},
    ]


def test_cosmos(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 200)
    rows = [row("a.mp4", "all"), row("a.mp4#t=1,4", "a part"), row({"path": "a.mp4"}, "again")]
    exported(put_rows(tmp_path / "out.jsonl", rows), "cosmos")
    entries = lines_of(tmp_path / "set" / "metadata.jsonl")
    assert len({entry["uuid"] for entry in entries}) == 3
    assert [entry["vision_path"] for entry in entries] == [str(tmp_path / "a.mp4")] * 3
    assert [(entry["width"], entry["height"], entry["duration"]) for entry in entries] == [
        (96, 64, 8.0),
        (96, 64, 3.0),
        (96, 64, 8.0),
    ]
    [window] = entries[1]["t2w_windows"]
    assert window == {
        "start_frame": 25,
        "end_frame": 100,
        "temporal_interval": 1,
        "caption": "a part",
        "caption_json": None,
    }


def test_windows_and_counts_are_of_the_frames_that_a_cut_has(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4", 200, rate=50)
    rows = [row("a.mp4#t=0.75,2.75", "between frames"), row("a.mp4#t=0.74,2.74", "from a frame on")]
    output = put_rows(tmp_path / "out.jsonl", rows)
    exported(output, "cosmos", "windows")
    exported(output, "table", "cuts", videos="cut", columns=("video", "frames"))
    cuts = [(item["video"], item["frames"]) for item in lines_of(tmp_path / "cuts" / "captions.jsonl")]
    for entry, (video, counted), first in zip(
        lines_of(tmp_path / "windows" / "metadata.jsonl"), cuts, (37, 37), strict=True
    ):
        [window] = entry["t2w_windows"]
        numbers = read_numbers(decode(Clip(source=video), EVERY_FRAME).pixels)
        assert numbers == list(range(window["start_frame"], window["end_frame"]))
        assert (numbers[0], len(numbers)) == (first, counted)
    assert [counted for _, counted in cuts] == [101, 100]


def test_cosmos_takes_no_short_clips(tmp_path: Path) -> None:
    for number in range(3):
        film(tmp_path / f"{number}.mp4", 30 if number else 70)
    rows = [row(f"{number}.mp4", "a") for number in range(3)]
    output = put_rows(tmp_path / "out.jsonl", rows)
    with pytest.raises(DatasetError, match=r"2 of 3 clips have fewer than 61 frames, which Cosmos.* does not take"):
        exported(output, "cosmos")
    assert not (tmp_path / "set").exists()
    output = put_rows(tmp_path / "out.jsonl", rows[:2])
    assert exported(output, "cosmos").warnings == [
        "1 of 2 clips have fewer than 61 frames: Cosmos SFT does not take them"
    ]


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_videofolder_is_read_by_datasets(form: str, output: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    exported(output, "videofolder", form=form, columns=("words", "prompt"))
    loaded = datasets.load_dataset("videofolder", data_dir=str(tmp_path / "set"), cache_dir=str(tmp_path / "cache"))
    train = loaded["train"].cast_column("video", datasets.Video(decode=False))
    assert train["text"][:] == ["A cat sits.", TWO_LINES]
    assert train["words"][:] == [3, 6]
    assert train["prompt"][:] == ["What?", "What?"]
    assert [Path(video["path"]).name for video in train["video"]] == ["a.mp4", "b.mp4"]


def test_tar_files_are_read_by_webdataset(output: Path, tmp_path: Path) -> None:
    webdataset = pytest.importorskip("webdataset")
    exported(output, "webdataset", clips_per_tar=1, newlines="split")
    assert files_in(tmp_path / "set") == ["00000.tar", "00001.tar"]
    urls = [f"file:{tmp_path}/set/0000{number}.tar" for number in range(2)]
    samples = list(webdataset.WebDataset(urls, shardshuffle=False).decode())
    assert [sample["__key__"] for sample in samples] == ["a", "b"]
    assert [sample["txt"] for sample in samples] == ["A cat sits.", "A dog runs."]
    assert samples[1]["json"] == {"captions": ["A dog runs.", "It is brown."], "source": "b.mp4"}
    assert samples[0]["mp4"] == (tmp_path / "a.mp4").read_bytes()


def test_chats(output: Path, tmp_path: Path) -> None:
    exported(output, "llama-factory", "llama")
    assert by_sharegpt(tmp_path / "llama")[0] == (
        [str(tmp_path / "a.mp4")],
        [{"from": "human", "value": "<video>What?"}, {"from": "gpt", "value": "A cat sits."}],
    )
    exported(output, "ms-swift", "swift")
    assert lines_of(tmp_path / "swift" / "data.jsonl")[0] == {
        "messages": [{"role": "user", "content": "<video>What?"}, {"role": "assistant", "content": "A cat sits."}],
        "videos": [str(tmp_path / "a.mp4")],
    }
    exported(output, "qwen-vl", "qwen", videos="symlink")
    assert json.loads((tmp_path / "qwen" / "data.json").read_text("utf-8"))[0] == {
        "video": "a.mp4",
        "conversations": [{"from": "human", "value": "<video>\nWhat?"}, {"from": "gpt", "value": "A cat sits."}],
    }


def test_tasks_become_turns(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    asked = {"short_meta": {"prompt": "In short? <video>"}, "long_meta": {"prompt": "At length?"}}
    rows = [{"video": "a.mp4", "short": "A cat.", "long": "A cat sits.", **asked}]
    output = put_rows(tmp_path / "out.jsonl", rows)
    exported(output, "llama-factory", tasks=("long", "short"))
    [(_, turns)] = by_sharegpt(tmp_path / "set")
    assert [turn["value"] for turn in turns] == ["<video>At length?", "A cat sits.", "In short? ", "A cat."]
    with pytest.raises(SettingsError, match="there are several tasks, short, long: name one, or some, with --task"):
        exported(output, "llama-factory")
    with pytest.raises(SettingsError, match="LTX-2 trainer takes one caption of a video, and short, long are several"):
        exported(output, "ltx", "other", tasks=("short", "long"))
    with pytest.raises(SettingsError, match="there is no task 'shot'; did you mean short"):
        exported(output, "ltx", "other", tasks=("shot",))


@pytest.mark.parametrize("form", ["jsonl", "csv", "parquet"])
def test_tables_have_the_columns_of_the_user_s_choice(form: str, tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas")
    film(tmp_path / "a.mp4", 100)
    rows = [row("a.mp4#t=0,1", "one", clip_start=0.0, clip_end=1.0) | {"score": 0.5, "id": "x"}]
    rows += [row("a.mp4", TWO_LINES, clip_start=0.0, clip_end=4.0) | {"score": None, "id": "y"}]
    columns = ("id", "caption", "captions", "start", "end", "seconds", "score", "words")
    exported(put_rows(tmp_path / "out.jsonl", rows), "table", form=form, columns=columns, newlines="split")
    file = tmp_path / "set" / f"captions.{form}"
    if form == "parquet":
        table = pandas.read_parquet(file)
    else:
        table = pandas.read_csv(file) if form == "csv" else pandas.read_json(file, lines=True)
    assert list(table.columns) == list(columns)
    assert table["caption"].tolist() == ["one", "A dog runs."]
    assert table["seconds"].tolist() == [1.0, 4.0]
    lists = [json.loads(cell) if form == "csv" else list(cell) for cell in table["captions"]]
    assert lists == [["one"], ["A dog runs.", "It is brown."]]
    assert table["end"][0] == 1.0
    assert table["score"].isna().tolist() == [False, True]
    if form == "parquet":
        exported(put_rows(tmp_path / "whole.jsonl", rows[1:]), "table", "whole", form=form, columns=("start", "end"))
        kinds = pandas.read_parquet(tmp_path / "whole" / "captions.parquet", dtype_backend="pyarrow").dtypes
        assert [str(kind) for kind in kinds] == ["double[pyarrow]"] * 2
    with pytest.raises(SettingsError, match="--columns: no row has a column 'vide'; did you mean video"):
        exported(tmp_path / "out.jsonl", "table", "other", form=form, columns=("vide",))
    with pytest.raises(SettingsError, match="--columns: no row has a column 'wrods'; did you mean words"):
        exported(tmp_path / "out.jsonl", "table", "other", form=form, columns=("wrods",))


def test_captions_with_what_stands_for_a_video_are_left_out(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    output = put_rows(tmp_path / "out.jsonl", [row("a.mp4", "It says <video> there."), row("a.mp4", "a")])
    summary = exported(output, "qwen-vl")
    assert (summary.samples, summary.left_out) == (1, {"with <video> in the text": 1})


def test_what_a_target_does_not_take(output: Path) -> None:
    for options, said in (
        ({"form": "xml"}, "LTX-2 trainer has no form 'xml'; known are jsonl, json, csv"),
        ({"newlines": "split"}, "LTX-2 trainer does not take --newlines split; it takes keep, fold"),
        ({"columns": ("a",)}, "LTX-2 trainer does not take --columns"),
        ({"prefix": "a\nb", "newlines": "fold"}, "--prefix has several lines, and LTX-2 trainer is to get one"),
        ({"max_tokens": 5}, "--max-tokens needs --tokenizer"),
        ({"clips_per_tar": 5}, "LTX-2 trainer does not take --clips-per-tar"),
    ):
        with pytest.raises(SettingsError, match=said):
            exported(output, "ltx", **options)
    with pytest.raises(SettingsError, match="VideoFolder does not take --videos in-place; it takes symlink, hardlink"):
        exported(output, "videofolder", videos="in-place")
    with pytest.raises(SettingsError, match="--clips-per-tar must be a whole number of at least 1; got 0"):
        exported(output, "webdataset", clips_per_tar=0)
    assert not (output.parent / "set").exists()


def test_videos_that_a_trainer_does_not_read_are_counted(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.ts"):
        film(tmp_path / name)
    output = put_rows(tmp_path / "out.jsonl", [row("a.mp4", "a"), row("b.ts", "b")])
    assert exported(output, "ai-toolkit").warnings == ["videos that end in .ts, which ai-toolkit does not read: 1"]
    warnings = exported(output, "ltx", "ltx").warnings
    assert warnings == []
