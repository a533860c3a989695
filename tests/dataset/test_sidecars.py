"""Captions beside videos: whole files, where they belong, and never in the place of what a person wrote."""

import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine as Scripted
from flow import clip_bytes, put_clip, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.config.groups import Sidecar
from reelscribe.dataset import ledger, sidecars
from reelscribe.dataset.files import write_whole
from reelscribe.dataset.sidecars import sidecar_of
from reelscribe.errors import DatasetError, EngineError
from reelscribe.runners.local import run
from reelscribe.runners.retry import retry
from reelscribe.values import Failure, Work


def _say(item: Work) -> Any:
    return said(*[f"text {n} 🐑" for n in range(item.requests[0].num_captions)])


def _run(
    folder: Path,
    *inputs: Path,
    sidecar: Sidecar | None = "txt",
    output: str = "out.jsonl",
    say: Any = _say,
    **settings: Any,
) -> None:
    run(inputs, folder / output, Settings(sidecar=sidecar, decoders=0, **settings), engine=Scripted(say))


def _texts(folder: Path) -> dict[str, str]:
    found = (
        path
        for path in folder.rglob("*")
        if path.suffix in (".txt", ".json", ".partial", ".bak", ".bak1") and ".run." not in path.name
    )
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(found)}


def _original(folder: Path, output: str = "out.jsonl") -> list[str | None]:
    """The texts that a run read beside the videos."""
    return [row.get("text") for row in read_rows_of(folder / output)]


def test_each_video_of_a_folder_gets_its_caption(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/b.mov"):
        put_clip(tmp_path / "clips" / name)
    (tmp_path / "clips" / "bad.mp4").write_text("no video")
    (tmp_path / "clips" / "alone.txt").write_text("my own")
    _run(tmp_path, tmp_path / "clips")
    assert _texts(tmp_path / "clips") == {
        "a.txt": "text 0 🐑\n",
        "alone.txt": "my own",
        "deep/b.txt": "text 0 🐑\n",
    }


def test_json_holds_all_candidates_and_where_they_come_from(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    _run(tmp_path, tmp_path / "clips", sidecar="json", num_captions=2, keep="all")
    table = json.loads(_texts(tmp_path / "clips")["a.json"])
    assert (table["caption"], table["caption_candidates"]) == ("text 0 🐑", ["text 0 🐑", "text 1 🐑"])
    assert table["caption_meta"]["kept"] == [0, 1]
    _run(tmp_path, tmp_path / "clips", sidecar="json", num_captions=2, keep="all", tasks={"long": {}})
    names = ["long", "long_candidates", "long_meta", "long_failure"]
    assert [*json.loads(_texts(tmp_path / "clips")["a.json"])] == names


TASKS: dict[str, Any] = {"short": "Say it.", "long": {"prompt": "Tell {short} at length.", "after": "short"}}


def _say_task(item: Work) -> Any:
    [asked] = item.requests
    if asked.id.task == "long" and asked.clip.name.endswith("b.mp4"):
        return Failure.of(asked, "it broke")
    return said(asked.prompt)


def test_each_task_has_a_file_of_its_name(tmp_path: Path) -> None:
    clips = tmp_path / "clips"
    for name in ("a.mp4", "b.mp4", "c.mp4", "c.mov"):
        put_clip(clips / name)
    (clips / "bad.mp4").write_text("no video")
    _run(tmp_path, clips, say=_say_task, tasks=TASKS)
    short, long = "Say it.\n", "Tell Say it. at length.\n"
    made = _texts(clips)
    assert made == {
        **{"a.short.txt": short, "a.long.txt": long, "b.short.txt": short},
        **{f"c.{end}.{task}.txt": text for end in ("mp4", "mov") for task, text in (("short", short), ("long", long))},
    }
    _run(tmp_path, clips, say=_say_task, tasks=TASKS)
    assert _texts(clips) == made
    assert _original(tmp_path) == [None] * 5, "they are read by no run"
    _run(tmp_path, clips, say=_say_task, tasks={"short": "Again."}, output="other.jsonl", overwrite_sidecars=True)
    assert _texts(clips)["a.short.txt"] == "Again.\n"
    assert _original(tmp_path, "other.jsonl") == [None] * 5


def test_one_task_that_has_a_name_has_a_file_of_it(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    _run(tmp_path, tmp_path / "clips", say=_say_task, tasks={"short": "Say it."})
    _run(tmp_path, tmp_path / "clips", say=_say_task, prompt="Say it.")
    assert _texts(tmp_path / "clips") == {"a.short.txt": "Say it.\n", "a.txt": "Say it.\n"}


def test_json_holds_all_tasks_and_why_some_failed(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        put_clip(tmp_path / "clips" / name)
    _run(tmp_path, tmp_path / "clips", say=_say_task, tasks=TASKS, sidecar="json", columns="text,failure")
    made = {name: json.loads(text) for name, text in _texts(tmp_path / "clips").items()}
    assert made == {
        "a.json": {"short": "Say it.", "short_failure": "", "long": "Tell Say it. at length.", "long_failure": ""},
        "b.json": {"short": "Say it.", "short_failure": "", "long": None, "long_failure": "engine: it broke"},
    }
    _run(tmp_path, tmp_path / "clips", say=_say_task, tasks=TASKS, sidecar="json")
    ends = ("", "_candidates", "_meta", "_failure")
    assert [*json.loads(_texts(tmp_path / "clips")["b.json"])] == [f"{task}{end}" for task in TASKS for end in ends]


def test_file_of_a_value_holds_it_filled(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4"):
        put_clip(tmp_path / "clips" / name)
    fields = {"seconds": {"type": "number", "x-from": "duration"}, "what": {"type": "string"}}
    tasks = {"form": {"schema": {"type": "object", "properties": fields}}}

    def say(item: Work) -> Any:
        return said('{"what": "🐑"}' if item.requests[0].clip.name.endswith("a.mp4") else "no value")

    _run(tmp_path, tmp_path / "clips", say=say, tasks=tasks)
    assert _texts(tmp_path / "clips") == {"a.form.txt": '{"seconds": 1.0, "what": "🐑"}\n'}


def test_files_of_others_are_in_the_way_of_their_task_alone(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    for name in ("a.long.txt", "a.txt"):
        (tmp_path / "clips" / name).write_text("my own")
    with pytest.raises(DatasetError, match=r"sidecars would replace files .*: \S*/a\.long\.txt\. Move them away"):
        _run(tmp_path, tmp_path / "clips", say=_say_task, tasks=TASKS)
    _run(tmp_path, tmp_path / "clips", say=_say_task, tasks={"short": "Say it."})
    _run(tmp_path, tmp_path / "clips", say=_say_task, tasks=TASKS, overwrite_sidecars=True)
    assert _texts(tmp_path / "clips") == {
        "a.long.txt": "Tell Say it. at length.\n",
        "a.long.txt.bak": "my own",
        "a.short.txt": "Say it.\n",
        "a.txt": "my own",
    }
    assert _original(tmp_path) == ["my own"]


def test_lists_of_videos_have_files_of_each_task_beside_each(tmp_path: Path) -> None:
    for name in ("a", "b"):
        put_clip(tmp_path / "clips" / f"{name}.mp4")
    rows: list[dict[str, Any]] = [{"videos": ["clips/a.mp4", "gone.mp4", "clips/b.mp4"]}]
    _run(tmp_path, put_rows(tmp_path / "in.jsonl", rows), say=_say_task, tasks=TASKS)
    assert set(_texts(tmp_path / "clips")) == {"a.short.txt", "a.long.txt", "b.short.txt"}


def test_run_over_its_own_files_does_not_see_them(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    _run(tmp_path, tmp_path / "clips")
    first = (tmp_path / "out.jsonl").read_bytes()
    for sidecar in ("txt", None, "json", "txt"):
        _run(tmp_path, tmp_path / "clips", sidecar=sidecar)
        assert (tmp_path / "out.jsonl").read_bytes() == first


def test_videos_of_one_name_have_files_of_their_own(tmp_path: Path) -> None:
    for name in ("a.mp4", "a.mov", "b.mp4", "c"):
        put_clip(tmp_path / name)
    assert sidecar_of(tmp_path / "a.mp4", "txt").name == "a.mp4.txt"
    assert sidecar_of(tmp_path / "a.mov", "txt").name == "a.mov.txt"
    assert sidecar_of(tmp_path / "b.mp4", "txt").name == "b.txt"
    assert sidecar_of(tmp_path / "c", "txt").name == "c.txt"


def test_rows_that_name_videos_get_theirs_beside_them(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    put_clip(tmp_path / "clips" / "odd.txt")
    rows: list[dict[str, Any]] = [
        {"videos": ["clips/a.mp4", "gone.mp4"]},
        {"video": f"file://{tmp_path}/clips/odd.txt"},
        {"video": 5},
        {"video": "nul \0.mp4"},
        {},
    ]
    _run(tmp_path, put_rows(tmp_path / "in.jsonl", rows))
    assert (tmp_path / "clips" / "a.txt").read_text("utf-8") == "text 0 🐑\n"
    assert (tmp_path / "clips" / "odd.txt").read_bytes() == clip_bytes()
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a.mp4", "a.txt", "odd.txt", "odd.txt.txt"]


def test_videos_by_bytes_have_none(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"video": [clip_bytes()]}), tmp_path / "in.parquet")
    _run(tmp_path, tmp_path / "in.parquet")
    assert _texts(tmp_path) == {}


# Files of others


def _never(item: Work) -> Any:
    pytest.fail("nothing is made before it is seen that no file is in the way")


def _write(text: str) -> Callable[[Path], None]:
    return lambda file: [file.write_text(text, "utf-8")].clear()


IN_THE_WAY: dict[str, Callable[[Path], Any]] = {
    "text": _write("my own"),
    "empty": _write(""),
    "the same as the caption but for white space": _write("text 0 🐑"),
    "no text": lambda file: file.write_bytes(b"\xff"),
    "link": lambda file: file.symlink_to(file.with_suffix(".mp4")),
    "link to nowhere": lambda file: file.symlink_to("gone"),
    "folder": lambda file: (file / "inside").mkdir(parents=True),
}


@pytest.mark.parametrize("what", IN_THE_WAY)
@pytest.mark.parametrize("sidecar", ["txt", "json"])
def test_file_that_no_run_wrote_stops_the_run_before_it_costs_anything(
    tmp_path: Path, what: str, sidecar: Sidecar
) -> None:
    for name in "ab":
        put_clip(tmp_path / "clips" / f"{name}.mp4")
    IN_THE_WAY[what](tmp_path / "clips" / f"b.{sidecar}")
    before = sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*"))
    told = rf"would replace files that no run on this output wrote, or that were changed since: .*clips/b\.{sidecar}\. "
    for _ in range(2):
        with pytest.raises(DatasetError, match=told + ".* give --overwrite-sidecars, which keeps each as .bak"):
            _run(tmp_path, tmp_path / "clips", sidecar=sidecar, say=_never)
    assert sorted((path, path.lstat().st_mtime_ns) for path in tmp_path.rglob("*")) == before


def test_many_files_in_the_way_are_counted(tmp_path: Path) -> None:
    for number in range(5):
        put_clip(tmp_path / "clips" / f"{number}.mp4").with_suffix(".txt").write_text("mine")
    with pytest.raises(DatasetError, match=r"clips/0\.txt, .*1\.txt, .*2\.txt and 2 more\. Move them away"):
        _run(tmp_path, tmp_path / "clips", say=_never)


def test_file_that_was_edited_since_is_a_persons(tmp_path: Path) -> None:
    file = put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt")
    _run(tmp_path, tmp_path / "clips")
    file.write_text("text 0, corrected")
    with pytest.raises(DatasetError, match=r"changed since: .*a\.txt"):
        _run(tmp_path, tmp_path / "clips", say=_never)
    assert file.read_text() == "text 0, corrected"
    _run(tmp_path, tmp_path / "clips", sidecar=None, say=_never)
    assert _original(tmp_path) == ["text 0, corrected"], "it is read as any text of a person"
    _run(tmp_path, tmp_path / "clips", say=_never, overwrite_sidecars=True)
    assert _texts(tmp_path / "clips") == {"a.txt": "text 0 🐑\n", "a.txt.bak": "text 0, corrected"}


def test_what_is_replaced_is_kept_and_still_read(tmp_path: Path) -> None:
    file = put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt")
    outputs = []
    for text in ("mine", "mine again"):
        file.write_text(text)
        for _ in range(2):
            _run(tmp_path, tmp_path / "clips", overwrite_sidecars=True)
            outputs.append(_original(tmp_path))
    assert outputs == [["mine"], ["mine"], ["mine again"], ["mine again"]], (
        "as at first, whenever the run is given again"
    )
    assert _texts(tmp_path / "clips") == {"a.txt": "text 0 🐑\n", "a.txt.bak": "mine", "a.txt.bak1": "mine again"}


def test_link_is_kept_and_what_it_leads_to_is_not_touched(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "clips" / "a.txt").symlink_to(tmp_path / "precious")
    _run(tmp_path, tmp_path / "clips", overwrite_sidecars=True)
    assert (tmp_path / "precious").read_text() == "mine"
    assert (tmp_path / "clips" / "a.txt.bak").is_symlink()
    assert _texts(tmp_path / "clips") == {"a.txt": "text 0 🐑\n", "a.txt.bak": "mine"}


def test_folder_cannot_be_replaced_and_nothing_is_left(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "clips" / "a.txt" / "in the way").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"cannot write to .*clips/a\.txt: Is a directory"):
        _run(tmp_path, tmp_path / "clips", overwrite_sidecars=True)
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a.mp4", "a.txt"]


def test_caption_that_was_linked_or_copied_to_another_video_is_a_persons(tmp_path: Path) -> None:
    for name in "ab":
        put_clip(tmp_path / "clips" / f"{name}.mp4")
    say = lambda item: said(f"of {item.requests[0].clip.name[-5]}")  # noqa: E731
    _run(tmp_path, tmp_path / "clips", say=say)
    first, second = (tmp_path / "clips" / f"{name}.txt" for name in "ab")
    first.rename(tmp_path / "a.txt")
    first.symlink_to(tmp_path / "a.txt")
    with pytest.raises(DatasetError, match=r"changed since: [^,]*a\.txt\. "):
        _run(tmp_path, tmp_path / "clips", say=say)
    first.unlink()
    first.write_bytes(second.read_bytes())
    with pytest.raises(DatasetError, match=r"changed since: [^,]*a\.txt\. "):
        _run(tmp_path, tmp_path / "clips", say=say)


def test_files_of_a_run_on_another_output_are_those_of_others_and_change_nothing_that_is_known(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    _run(tmp_path, tmp_path / "clips", output="first.jsonl", sidecar=None)
    _run(tmp_path, tmp_path / "clips", output="second.jsonl")
    _run(tmp_path, tmp_path / "clips", output="first.jsonl", sidecar=None, say=_never)
    assert _original(tmp_path, "first.jsonl") == ["text 0 🐑"]
    with pytest.raises(DatasetError, match="no run on this output wrote"):
        _run(tmp_path, tmp_path / "clips", output="first.jsonl", say=_never)


def test_texts_of_persons_are_read_by_the_run_that_writes_beside_them(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt").write_text("the second of two texts")
    say = lambda _: said("the first of texts", "the second of two words", "no text at all")  # noqa: E731
    _run(tmp_path, tmp_path / "clips", sidecar="json", num_captions=3, keep="similar_one_simhash", say=say)
    [row] = read_rows_of(tmp_path / "out.jsonl")
    assert (row["text"], row["caption"]) == ("the second of two texts", "the second of two words")


def test_file_that_comes_while_the_run_goes_on_stays(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt")

    def say(item: Work) -> Any:
        file.write_text("just written")
        return _say(item)

    _run(tmp_path, tmp_path / "clips", say=say)
    assert file.read_text() == "just written"
    [told] = caplog.messages
    assert "a.txt stays as it is, though the caption is another: it is not as a run on this output wrote it" in told
    file.write_text("text 0 🐑\n", "utf-8")
    with pytest.raises(DatasetError, match="would replace"):
        _run(tmp_path, tmp_path / "clips")


def test_files_of_a_run_that_was_killed_are_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed before and after it was written, and what is made anew is another text."""
    file = put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt")
    monkeypatch.setattr(ledger, "_COMMIT_SECONDS", 1e6)
    write = write_whole
    for number, place in enumerate(["before", "after"]):

        def killed(to: Path, text: str, place: str = place, number: int = number) -> None:
            with closing(sqlite3.connect(tmp_path / "out.ledger.sqlite")) as base:  # as it is on the disk
                assert base.execute("SELECT count(*) FROM sidecars").fetchone() == (number + 1,)
            if place == "after":
                write(to, text)
            raise KeyboardInterrupt

        monkeypatch.setattr(sidecars, "write_whole", killed)
        with pytest.raises(KeyboardInterrupt):
            _run(tmp_path, tmp_path / "clips", seed=number, say=lambda _, n=number: said(f"made {n}"))
        assert file.exists() == (place == "after")
    monkeypatch.setattr(sidecars, "write_whole", write)
    _run(tmp_path, tmp_path / "clips", seed=2, say=lambda _: said("made 2"))
    assert _texts(tmp_path / "clips") == {"a.txt": "made 2\n"}


@pytest.mark.parametrize("seconds", [0.0, 1e6])
def test_files_are_written_as_the_run_goes_or_at_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, seconds: float
) -> None:
    monkeypatch.setattr(sidecars, "_WAIT_SECONDS", seconds)
    monkeypatch.setattr(sidecars, "_MOST_WAITING", 3)
    for number in range(8):
        put_clip(tmp_path / "clips" / f"{number}.mp4")
    seen: list[int] = []
    run(
        [tmp_path / "clips"],
        tmp_path / "out.jsonl",
        Settings(sidecar="txt", decoders=0),
        engine=Scripted(_say),
        on_row=lambda _: seen.append(len(_texts(tmp_path / "clips"))),
    )
    assert seen == ([1, 2, 3, 4, 5, 6, 7, 8] if seconds == 0 else [0, 0, 3, 3, 3, 6, 6, 6])
    assert len(_texts(tmp_path / "clips")) == 8


def test_changed_choice_and_a_run_from_the_start_replace_their_own(tmp_path: Path) -> None:
    file = put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt")
    say = lambda _: said("one", "two", "three")  # noqa: E731
    seen = set()
    for seed in range(12):
        _run(tmp_path, tmp_path / "clips", num_captions=3, seed=seed, say=say, resume=bool(seed % 2))
        seen.add(file.read_text())
    assert len(seen) == 3
    assert len(_texts(tmp_path / "clips")) == 1


def test_data_set_that_moved_with_its_output_knows_its_files(tmp_path: Path) -> None:
    put_clip(tmp_path / "old" / "clips" / "a.mp4")
    _run(tmp_path / "old", tmp_path / "old" / "clips")
    (tmp_path / "old").rename(tmp_path / "new")
    (tmp_path / "new" / "clips" / "b.mp4").write_bytes(clip_bytes())
    _run(tmp_path / "new", tmp_path / "new" / "clips", num_captions=1, say=lambda _: said("other"))
    assert _texts(tmp_path / "new" / "clips") == {"a.txt": "other\n", "b.txt": "other\n"}
    (tmp_path / "new" / "clips" / "a.txt").rename(tmp_path / "new" / "clips" / "b.txt")
    (tmp_path / "new" / "clips" / "a.txt").write_text("text 0 🐑\n", "utf-8")
    _run(tmp_path / "new", tmp_path / "new" / "clips")


def test_permission_to_replace_is_not_taken_over_by_retry(tmp_path: Path) -> None:
    file = put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt")
    (tmp_path / "clips" / "bad.mp4").write_text("no video")
    file.write_text("mine")
    _run(tmp_path, tmp_path / "clips", overwrite_sidecars=True)
    file.write_text("mine again")
    with pytest.raises(DatasetError, match="changed since"):
        retry(tmp_path / "out.jsonl", engine=Scripted(_never))
    assert file.read_text() == "mine again"


def test_shard_looks_at_its_own_rows_alone(tmp_path: Path) -> None:
    rows = [{"video": put_clip(tmp_path / "clips" / f"{n}.mp4").relative_to(tmp_path).as_posix()} for n in range(8)]
    data = put_rows(tmp_path / "in.jsonl", rows)
    for number in (1, 2):
        _run(tmp_path, data, output=f"{number}.jsonl", shard=f"{number}/2")
        assert len(_texts(tmp_path / "clips")) >= number
    assert len(_texts(tmp_path / "clips")) == 8


# Names and disks


@pytest.mark.parametrize("stem", ["羊" * 80, "x" * 251, "ä" * 125])
def test_long_names_cost_their_own_file_at_most(tmp_path: Path, stem: str, caplog: pytest.LogCaptureFixture) -> None:
    put_clip(tmp_path / "clips" / f"{stem}.mp4")
    put_clip(tmp_path / "clips" / "b.mp4")
    for sidecar in ("txt", "json"):
        _run(tmp_path, tmp_path / "clips", sidecar=sidecar)
    names = {path.name for path in (tmp_path / "clips").iterdir() if path.suffix != ".mp4"}
    long = {f"{stem}{end}" for end in (".txt", ".json") if len(os.fsencode(stem + end)) <= 255}
    assert names == {"b.txt", "b.json"} | long
    assert [row["caption"] for row in read_rows_of(tmp_path / "out.jsonl")] == ["text 0 🐑"] * 2
    assert len([message for message in caplog.messages if "its name is too long" in message]) == 2 - len(long)


def test_full_disk_is_told_and_nothing_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("reelscribe.dataset.files.os.fsync", full)
    with pytest.raises(DatasetError, match=r"cannot write to .*clips/a\.txt: No space left on device"):
        _run(tmp_path, tmp_path / "clips")
    assert [path.name for path in (tmp_path / "clips").iterdir()] == ["a.mp4"]


def test_run_that_breaks_has_written_what_it_had(tmp_path: Path) -> None:
    for name in "abc":
        put_clip(tmp_path / "clips" / f"{name}.mp4")

    def say(item: Work) -> Any:
        if item.requests[0].clip.name.endswith("c.mp4"):
            raise EngineError("broken")
        return _say(item)

    with pytest.raises(EngineError):
        _run(tmp_path, tmp_path / "clips", say=say)
    assert {"a.txt"} <= _texts(tmp_path / "clips").keys() <= {"a.txt", "b.txt"}
    _run(tmp_path, tmp_path / "clips")
    assert _texts(tmp_path / "clips").keys() == {"a.txt", "b.txt", "c.txt"}
