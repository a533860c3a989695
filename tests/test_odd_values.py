"""Odd values and names through whole runs: see `odd_values`. `make fuzz` takes more of them."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flow import put_clip, put_rows, read_rows_of
from odd_values import fuzz_bytes, fuzz_members, fuzz_names, fuzz_values

from reelscribe.config import Settings
from reelscribe.config.groups import Sidecar
from reelscribe.runners.local import run
from reelscribe.runners.retry import retry
from reelscribe.runners.status import runs_on

SETTINGS = Settings(engine="fake", model="fake", decoders=0)


def test_odd_values_cost_their_own_rows(tmp_path: Path) -> None:
    kinds = fuzz_values(tmp_path, count=400)
    assert min(kinds[kind] for kind in ("missing", "row", "download", "refused", "unreadable")) > 5, kinds
    assert kinds["crashed"] == kinds["engine"] == 0
    written = (tmp_path / "out.jsonl").read_bytes()
    assert [row["id"] for row in map(json.loads, written.splitlines())] == list(range(400))
    fuzz_values(tmp_path, count=400)  # goes on from what is known
    assert (tmp_path / "out.jsonl").read_bytes() == written


@pytest.mark.parametrize(
    ("seed", "settings"),
    [(1, {"in_text": True}), (2, {"decoders": 1}), (3, {"output": "out.tar"}), (4, {"allow_private_urls": True})],
)
def test_odd_values_cost_their_own_rows_in_all_ways(tmp_path: Path, seed: int, settings: dict[str, Any]) -> None:
    assert fuzz_values(tmp_path, count=150, seed=seed, **settings)["missing"] > 5


def test_odd_values_are_held_to_the_root(tmp_path: Path) -> None:
    kinds = fuzz_values(tmp_path / "root", count=150, seed=5, root=str(tmp_path / "root"))
    assert kinds["refused"] > 20, kinds


@pytest.mark.parametrize("output", ["out.parquet", "out"])
def test_odd_values_are_written_as_arrow_takes_them(tmp_path: Path, output: str) -> None:
    pytest.importorskip("pyarrow")
    assert fuzz_values(tmp_path, count=150, seed=6, output=output, output_format="hf" if output == "out" else "parquet")


def test_odd_bytes_cost_their_own_rows(tmp_path: Path) -> None:
    pytest.importorskip("pyarrow")
    assert fuzz_bytes(tmp_path, count=150)["unreadable"] > 50


@pytest.mark.parametrize(("output", "sidecar"), [("out.jsonl", None), ("out.tar", None), ("out.jsonl", "txt")])
def test_clips_of_odd_names_are_captioned(tmp_path: Path, output: str, sidecar: Sidecar | None) -> None:
    assert fuzz_names(tmp_path, count=100, output=output, sidecar=sidecar) > 80


def test_odd_names_in_a_tar_file_cost_their_own_rows(tmp_path: Path) -> None:
    assert fuzz_members(tmp_path, count=150)["captions"] > 30


# Folders whose names are not UTF-8


@pytest.fixture
def odd_folder(tmp_path: Path) -> Path:
    folder = tmp_path / os.fsdecode(b"caf\xe9")
    try:
        folder.mkdir()
    except OSError:
        pytest.skip("this system has no such names")
    return folder


@pytest.mark.parametrize("name", ["out.jsonl", "out.tar", "out.parquet", "out-{shard}.jsonl", "out"])
def test_folder_whose_name_is_not_utf_8_takes_outputs(
    odd_folder: Path, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if name in ("out.parquet", "out"):
        pytest.importorskip("pyarrow")
    put_clip(tmp_path / "a.mp4")
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": "gone.mp4"}])
    monkeypatch.chdir(odd_folder)
    settings = Settings(engine="fake", model="fake", decoders=0, output_format="hf" if name == "out" else "auto")
    for output in (odd_folder / name, Path(name)):
        summary = run([rows], output, settings)
        assert (summary.captions, summary.failures) == (1, {"missing": 1})
        assert runs_on(output)[0].folder == str(odd_folder)
    assert retry(odd_folder / name).captions == 1
    assert runs_on(odd_folder / name)[1].output == name


@pytest.mark.parametrize("sidecar", [None, "txt", "json"])
def test_clips_in_a_folder_whose_name_is_not_utf_8_are_captioned(
    odd_folder: Path, tmp_path: Path, sidecar: Sidecar | None
) -> None:
    shutil.copy(put_clip(tmp_path / "a.mp4"), odd_folder / os.fsdecode(b"clip\xff.mp4"))
    replace = sidecar is not None  # what other outputs wrote
    settings = Settings(engine="fake", model="fake", decoders=1, sidecar=sidecar, overwrite_sidecars=replace)
    assert run([odd_folder], tmp_path / "out.jsonl", settings).captions == 1
    again = dataclasses.replace(settings, tasks={"again": {}})
    assert run([tmp_path / "out.jsonl"], tmp_path / "again.jsonl", again).captions == 1
    (row,) = read_rows_of(tmp_path / "out.jsonl")
    url = odd_folder.as_uri() + "/clip%FF.mp4"
    assert row["video"] == url
    assert "\\ud" not in (tmp_path / "out.jsonl").read_text("utf-8")  # half surrogates, which other readers refuse
    rows = put_rows(tmp_path / "in.jsonl", [{"video": url}])
    assert run([rows], tmp_path / "by-url.jsonl", settings).captions == 1


@pytest.mark.parametrize(
    "value", ["file://[bad/a.mp4", "x" * 300 + ".mp4", "a/" * 3000 + "a.mp4", "\ud800", "a\x00b", "file:///%00"]
)
def test_value_that_no_system_takes_is_a_failure_of_its_row(tmp_path: Path, value: str) -> None:
    put_clip(tmp_path / "a.mp4")
    rows = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": value}, {"video": "a.mp4"}])
    for _ in range(2):
        summary = run([rows], tmp_path / "out.jsonl", SETTINGS)
        assert (summary.captions, sum(summary.failures.values())) == (2, 1)


def test_name_that_is_not_utf_8_is_printed_escaped(odd_folder: Path) -> None:
    put_clip(odd_folder / "a.mp4")
    run([odd_folder], odd_folder / "out.jsonl", SETTINGS)
    command = [sys.executable, "-c", "from reelscribe.cli import main; main()", "status", str(odd_folder / "out.jsonl")]
    strict = os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    done = subprocess.run(command, env=strict, capture_output=True, check=True)
    assert b"caf\\udce9" in done.stdout
