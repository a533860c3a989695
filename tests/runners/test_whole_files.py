"""Files get their names when they are whole, on the disk, and all that is in them is in the ledger."""

import os
import sqlite3
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, put_rows, said

from reelscribe.config import Settings
from reelscribe.dataset import ledger as ledger_module
from reelscribe.dataset.files import sync_folder, write_whole
from reelscribe.runners.local import run
from reelscribe.runners.status import ledger_of
from reelscribe.values import Row

Events = list[tuple[str, str]]


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Events:
    """What is brought to the disk, and what gets its name, in order. (SQLite does both by itself.)"""
    seen: Events = []
    fsync, replace = os.fsync, Path.replace

    def note_fsync(opened: int) -> None:
        fsync(opened)
        seen.append(("sync", Path(f"/proc/self/fd/{opened}").readlink().name))

    def note_replace(self: Path, target: Path) -> Path:
        moved = replace(self, target)
        seen.append(("name", Path(target).name))
        return moved

    monkeypatch.setattr(os, "fsync", note_fsync)
    monkeypatch.setattr(Path, "replace", note_replace)
    return seen


def _data(folder: Path, count: int = 4) -> Path:
    rows: list[Row] = [
        {"video": put_clip(folder / "clips" / f"{number}.mp4").relative_to(folder).as_posix()}
        for number in range(count)
    ]
    return put_rows(folder / "in.jsonl", [*rows, {"video": "gone.mp4"}])


def _run(output: Path, data: Path, **settings: Any) -> None:
    run([data], output, Settings(decoders=0, **settings), engine=ScriptedEngine(lambda _: said("text")))


@pytest.mark.skipif(not Path("/proc/self/fd").is_dir(), reason="names of open files are found in /proc")
@pytest.mark.parametrize(
    ("output", "settings", "named"),
    [
        ("out.jsonl", {}, ["out.jsonl"]),
        ("out.jsonl.gz", {}, ["out.jsonl.gz"]),
        ("out.tar", {}, ["out.tar"]),
        ("out.parquet", {}, ["out.parquet"]),
        ("{shard}.jsonl", {"shard_rows": 2}, [f"0000{number}.jsonl" for number in range(3)]),
    ],
)
def test_files_are_on_the_disk_before_they_have_their_names(
    tmp_path: Path, events: Events, output: str, settings: dict[str, Any], named: list[str]
) -> None:
    if output.endswith("parquet"):
        pytest.importorskip("pyarrow")
    (tmp_path / "made").mkdir()
    data = _data(tmp_path)
    events.clear()
    _run(tmp_path / "made" / output, data, **settings)
    for name in named:
        at = events.index(("name", name))
        assert ("sync", f"{name}.partial") in events[:at]
        assert ("sync", "made") in events[at:], "and the name itself"
    listed = next(name for kind, name in events if kind == "name" and ".failures." in name)
    assert events.index(("sync", f"{listed}.partial")) < events.index(("name", listed))


def test_folder_of_a_data_set_is_on_the_disk_before_it_has_its_name(tmp_path: Path, events: Events) -> None:
    pytest.importorskip("pyarrow")
    _run(tmp_path / "out", _data(tmp_path), output_format="hf")
    at = events.index(("name", "out"))
    synced = {name for kind, name in events[:at] if kind == "sync"}
    assert {path.name for path in (tmp_path / "out").iterdir()} <= synced


@pytest.mark.parametrize(("output", "settings"), [("out.jsonl", {}), ("{shard}.jsonl", {"shard_rows": 1})])
def test_what_is_in_a_file_with_its_name_is_in_the_ledger(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, output: str, settings: dict[str, Any]
) -> None:
    """However long the ledger would wait by itself, and however the run ends right after that."""
    monkeypatch.setattr(ledger_module, "_COMMIT_SECONDS", 1e6)
    replace, known = Path.replace, []

    def look(self: Path, target: Path) -> Path:
        if Path(target).suffix == ".jsonl":
            with closing(sqlite3.connect(ledger_of(tmp_path / output))) as base:
                (count,) = base.execute("SELECT count(*) FROM outcomes").fetchone()
            known.append((Path(target).name, count))
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", look)
    _run(tmp_path / output, _data(tmp_path), **settings)
    assert len(known) == (6 if settings else 2)
    for name, count in known:
        rows = 5 if ".failures." in name or not settings else int(name[:5]) + 1
        assert count >= rows, name


def test_file_that_is_written_whole_is_on_the_disk_first(tmp_path: Path, events: Events) -> None:
    write_whole(tmp_path / "a.txt", "text")
    assert [kind for kind, _ in events] == ["sync", "name"]
    sync_folder(tmp_path / "gone")
