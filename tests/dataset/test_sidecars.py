"""Captions beside videos: whole, in the right place, and never over anything else."""

import json
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine as Scripted
from flow import clip_bytes, put_clip, put_rows, said

from reelscribe.config import Settings
from reelscribe.dataset.sidecars import sidecar_of
from reelscribe.errors import DatasetError
from reelscribe.runners.local import run


def _run(folder: Path, *inputs: Path, sidecar: str = "txt", **settings: Any) -> None:
    engine = Scripted(lambda item: said(*[f"text {n} 🐑" for n in range(item.request.num_captions)]))
    run(inputs, folder / "out.jsonl", Settings(sidecar=sidecar, **settings), engine=engine)


def _texts(folder: Path) -> dict[str, str]:
    found = (
        path for path in folder.rglob("*") if path.suffix in (".txt", ".json", ".partial") and ".run." not in path.name
    )
    return {path.relative_to(folder).as_posix(): path.read_text("utf-8") for path in sorted(found)}


def test_each_video_of_a_folder_gets_its_caption(tmp_path: Path) -> None:
    for name in ("a.mp4", "deep/b.mov"):
        put_clip(tmp_path / "clips" / name)
    (tmp_path / "clips" / "bad.mp4").write_text("no video")
    (tmp_path / "clips" / "bad.txt").write_text("my own")
    (tmp_path / "clips" / "a.txt").write_text("older")
    _run(tmp_path, tmp_path / "clips")
    assert _texts(tmp_path / "clips") == {
        "a.txt": "text 0 🐑\n",
        "bad.txt": "my own",
        "deep/b.txt": "text 0 🐑\n",
    }


def test_json_holds_all_candidates_and_where_they_come_from(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    _run(tmp_path, tmp_path / "clips", sidecar="json", num_captions=2, keep="all")
    table = json.loads(_texts(tmp_path / "clips")["a.json"])
    assert (table["caption"], table["captions"]) == ("text 0 🐑", ["text 0 🐑", "text 1 🐑"])
    assert table["caption_meta"]["kept"] == [0, 1]
    _run(tmp_path, tmp_path / "clips", sidecar="json", num_captions=2, keep="all", caption_key="long")
    assert [*json.loads(_texts(tmp_path / "clips")["a.json"])] == ["long", "longs", "long_meta"]


def test_run_over_its_own_files_does_not_see_them(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    _run(tmp_path, tmp_path / "clips")
    first = (tmp_path / "out.jsonl").read_bytes()
    _run(tmp_path, tmp_path / "clips")
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


def test_link_is_replaced_not_what_it_leads_to(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "precious").write_text("mine")
    (tmp_path / "clips" / "a.txt").symlink_to(tmp_path / "precious")
    _run(tmp_path, tmp_path / "clips")
    assert (tmp_path / "precious").read_text() == "mine"
    assert not (tmp_path / "clips" / "a.txt").is_symlink()


def test_file_that_cannot_be_written_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    (tmp_path / "clips" / "a.txt" / "in the way").mkdir(parents=True)
    with pytest.raises(DatasetError, match=r"cannot write to .*clips/a\.txt: Is a directory"):
        _run(tmp_path, tmp_path / "clips")
    assert sorted(path.name for path in (tmp_path / "clips").iterdir()) == ["a.mp4", "a.txt"]
