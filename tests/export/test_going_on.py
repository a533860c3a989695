"""Exports that are stopped and go on, and folders and outputs that they cannot do anything with."""

import errno
import itertools
import json
import os
import shutil
import sqlite3
import subprocess
import sys
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, ScriptedEngine, fail_at, put_rows, said

from export.exporting import exported, files_in, film, lines_of, row, two_films, typed
from reelscribe.config import Settings
from reelscribe.dataset.lock import locked
from reelscribe.errors import DatasetError
from reelscribe.export.folder import OWN, ExportFolder
from reelscribe.runners.local import run
from reelscribe.runners.status import ledger_of


def test_what_is_in_the_folder_stays(tmp_path: Path) -> None:
    output = two_films(tmp_path)
    (tmp_path / "set").mkdir()
    (tmp_path / "set" / "notes.txt").write_text("a person's")
    code, [line] = typed(output, tmp_path / "set", "--as", "musubi")
    assert code == 2
    assert "something else is there already (notes.txt, ...); name a new folder" in line
    assert files_in(tmp_path / "set") == ["notes.txt"]
    with pytest.raises(DatasetError, match="it is no folder"):
        exported(output, "ltx", "a.mp4")


def test_another_command_or_other_captions_do_not_go_on(tmp_path: Path) -> None:
    output = two_films(tmp_path)
    exported(output, "musubi")
    with pytest.raises(DatasetError, match="holds an export by another command"):
        exported(output, "musubi", trigger="TOK")
    put_rows(output, [row("a.mp4", "Another."), row("b.mp4", "One.")])
    with pytest.raises(DatasetError, match="the captions have changed since then"):
        exported(output, "musubi")


@pytest.mark.parametrize(("target", "name"), [("onetrainer", "a.txt"), ("ltx", "metadata.jsonl")])
def test_what_was_changed_since_stays(target: Any, name: str, tmp_path: Path) -> None:
    output = two_films(tmp_path)
    exported(output, target)
    (tmp_path / "set" / name).write_text("a person's")
    with pytest.raises(DatasetError, match=f"{name} is not as this export wrote it; move it away"):
        exported(output, target)
    assert (tmp_path / "set" / name).read_text() == "a person's"


@pytest.mark.parametrize("target", ["videofolder", "webdataset", "ai-toolkit"])
def test_a_video_that_cannot_be_had_is_tried_again(
    target: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = two_films(tmp_path)
    data = (tmp_path / "a.mp4").read_bytes()
    looked = ExportFolder.opened

    def vanish(self: ExportFolder) -> Any:
        (tmp_path / "a.mp4").unlink(missing_ok=True)
        return looked(self)

    monkeypatch.setattr(ExportFolder, "opened", vanish)
    code, lines = typed(output, tmp_path / "set", "--as", target, "--videos", "copy")
    assert code == 3
    assert lines[0].startswith("1 clip with 1 caption in ")
    assert lines[-2] == "1 clip could not be written (1 missing); the same command tries again:"
    assert lines[-1] == "  missing: a.mp4: The video is not there."
    monkeypatch.undo()
    (tmp_path / "a.mp4").write_bytes(data)
    assert typed(output, tmp_path / "set", "--as", target, "--videos", "copy")[0] == 0
    exported(output, target, "at-once", videos="copy")
    assert files_in(tmp_path / "set") == files_in(tmp_path / "at-once")
    for name in files_in(tmp_path / "set"):
        assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "at-once" / name).read_bytes()


KILLED = """
import os, sys
from pathlib import Path
from reelscribe.export import folder
from reelscribe.cli import main

left = int(sys.argv.pop(1))
rename, replace = Path.rename, Path.replace

def counted(function, after):
    def moved(self, *args):
        global left
        if not after and left == 0:
            os._exit(9)
        made = function(self, *args)
        left -= 1
        if after and left < 0:
            os._exit(9)
        return made
    return moved

Path.rename = counted(rename, after=False)
Path.replace = counted(replace, after=True)
main()
"""


@pytest.mark.parametrize("target", ["musubi", "webdataset"])
def test_killed_at_any_moment_it_goes_on(target: Any, tmp_path: Path) -> None:
    output = two_films(tmp_path)
    tars: dict[str, Any] = {"clips_per_tar": 1} if target == "webdataset" else {}
    exported(output, target, "whole", videos="copy", **tars)
    words = ["export", str(output), str(tmp_path / "set"), "--as", target, "--videos", "copy"]
    words += ["--clips-per-tar", "1"] if tars else []
    for moves in itertools.count():
        done = subprocess.run([sys.executable, "-c", KILLED, str(moves), *words], check=False, capture_output=True)
        for name in files_in(tmp_path / "set"):
            if not name.endswith(("toml", "jsonl")):
                assert (tmp_path / "set" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes()
        if done.returncode == 0:
            break
        assert done.returncode == 9, done.stderr.decode()
    assert moves > 2
    assert files_in(tmp_path / "set") == files_in(tmp_path / "whole")


def test_one_export_at_a_time(tmp_path: Path) -> None:
    output = two_films(tmp_path)
    exported(output, "ltx")
    held = locked(tmp_path / "set" / OWN / "lock", tmp_path / "set")
    with held, pytest.raises(DatasetError, match="another run is writing to"):
        exported(output, "ltx")


@pytest.mark.parametrize(
    ("name", "made", "what"),
    [("out-{shard}.jsonl", ["one"], "shards that are whole"), ("out.jsonl", ["one", "two"], "rows that it wrote")],
)
def test_an_unfinished_run_is_exported_as_far_as_it_is_whole(
    name: str, made: list[str], what: str, tmp_path: Path
) -> None:
    film(tmp_path / "a.mp4")
    rows = put_rows(tmp_path / "in.jsonl", [{"video": f"a.mp4#t=0,{end}"} for end in (1, 2, 2.5)])
    output, answers = tmp_path / name, iter([said("one"), said("two")])

    def answer(_: Any) -> Any:
        for found in answers:
            return found
        raise KeyboardInterrupt

    settings = Settings(decoders=0, shard_rows=1 if "shard" in name else None)
    with pytest.raises(KeyboardInterrupt):
        run([rows], output, settings, engine=ScriptedEngine(answer))
    if "shard" not in name:
        partial = tmp_path / "out.jsonl.partial"
        partial.write_bytes(partial.read_bytes() + b'{"video": "a.mp4", "cap')
    code, lines = typed(output, tmp_path / "set", "--as", "table")
    assert code == 0, lines
    assert [entry["caption"] for entry in lines_of(tmp_path / "set" / "captions.jsonl")] == made
    assert lines[-1] == f"note: the run on {output} is not finished: these are the {what}"


def test_bad_outputs(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    outputs = {
        "gone.jsonl": (None, "there is no"),
        "rows.jsonl": ('{"video": "a.mp4"}\n', "holds no captions"),
        "half.jsonl": (json.dumps(row("a.mp4", "a")) + '\n{"video": "a.mp4", "capt', "half.jsonl"),
        "text.jsonl": (json.dumps({"videos": ["a.mp4"], "text": f"{VIDEO} a{EOC}"}) + "\n", "ledger"),
    }
    for name, (content, said_of) in outputs.items():
        if content is not None:
            (tmp_path / name).write_text(content)
        code, [line] = typed(tmp_path / name, tmp_path / "set", "--as", "ltx")
        assert (code, said_of in line) == (2, True), line
        assert not (tmp_path / "set").exists()


def test_a_ledger_of_a_later_release(tmp_path: Path) -> None:
    film(tmp_path / "a.mp4")
    output = tmp_path / "out.jsonl"
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}])
    run([rows], output, Settings(decoders=0), engine=ScriptedEngine(lambda _: said("A cat.")))
    with closing(sqlite3.connect(ledger_of(output))) as ledger:
        ledger.execute("PRAGMA user_version = 99")
    code, [line] = typed(output, tmp_path / "set", "--as", "ltx")
    assert (code, "release" in line) == (2, True), line


def test_a_hard_link_to_another_disk_is_an_error_that_says_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = two_films(tmp_path)
    fail_at(monkeypatch, os, "link", OSError(errno.EXDEV, "Invalid cross-device link"))
    code, lines = typed(output, tmp_path / "set", "--as", "ltx", "--videos", "hardlink")
    assert code == 2
    assert "--videos symlink or copy does not need one" in lines[-1]


def test_a_full_disk_ends_an_export_which_goes_on_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = two_films(tmp_path)
    fail_at(monkeypatch, shutil, "copyfile", OSError(errno.ENOSPC, "No space left on device"), calls=(2,))
    code, lines = typed(output, tmp_path / "set", "--as", "ai-toolkit", "--videos", "copy")
    assert code == 2
    assert "b.mp4: No space left on device" in lines[-1]
    assert files_in(tmp_path / "set") == ["a.mp4", "a.txt"]
    assert typed(output, tmp_path / "set", "--as", "ai-toolkit", "--videos", "copy")[0] == 0
    assert files_in(tmp_path / "set") == ["a.mp4", "a.txt", "b.mp4", "b.txt"]


def test_options_that_subtitles_do_not_take(tmp_path: Path) -> None:
    output = two_films(tmp_path)
    for options, said_of in (
        (("--videos", "cut"), "--videos does not go with --as vtt"),
        (("--strip-openings",), "--strip-openings does not go with --as vtt"),
        (("--task", "a", "--task", "b"), "--as vtt takes one --task; got a, b"),
    ):
        code, [line] = typed(output, "--as", "vtt", *options)
        assert (code, said_of in line) == (2, True), line
