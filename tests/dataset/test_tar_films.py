"""Films in tar files: each is there once, and the stretches that come back are those that went in."""

import functools
import io
import json
import logging
import re
import tarfile
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flow import ScriptedEngine, clip_bytes, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.demo import write_clip
from reelscribe.errors import EngineError
from reelscribe.layouts import clips_of
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.runners.local import RunSummary, run
from reelscribe.values import Row, Work

FILM = re.compile(r"[0-9a-f]{32}\.film\.(mp4|mov)")
ROWS: list[Row] = [
    {"video": "film.mp4", "start": 0, "end": "00:00:01.500"},
    {"video": "film.mp4#t=1,2.5", "text": "own"},
    {"video": "film.mp4", "stretches": [[0, 1], {"start": 2, "end": None}]},
    {"video": "clip.mp4"},
    {"videos": ["clip.mp4", "film.mp4", "sub/other.MOV"], "start": [None, 2, 0.5], "end": [None, 3, None]},
    {"video": "film.mp4", "start": 3},
    {"video": "gone.mp4", "start": 1, "end": 2},
]
Stretches = list[list[tuple[bytes, float, float | None]]]


@functools.cache
def _film(seed: int) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "film.mp4"
        write_clip(file, random_scene(np.random.default_rng(seed)), width=64, height=48, fps=8, seconds=4)
        return file.read_bytes()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    """Rows that name stretches in all ways, beside their films."""
    (tmp_path / "in" / "sub").mkdir(parents=True)
    (tmp_path / "in" / "film.mp4").write_bytes(_film(1))
    (tmp_path / "in" / "sub" / "other.MOV").write_bytes(_film(2))
    (tmp_path / "in" / "clip.mp4").write_bytes(clip_bytes())
    return put_rows(tmp_path / "in" / "rows.jsonl", ROWS)


def _told(asked: Work) -> str:
    bounds = asked.frames.bounds
    return f"{len(asked.frames.pixels)} frames from {bounds.start:g} to {bounds.end:g}" if bounds else "nothing"


def _run(output: Path, *inputs: Path, engine: Any = None, **settings: Any) -> RunSummary:
    engine = engine or ScriptedEngine(lambda asked: said(_told(asked)))
    return run(inputs, output, Settings(decoders=0, **settings), engine=engine)


def _members(file: Path) -> dict[str, bytes]:
    with tarfile.open(file) as tar:
        found = [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]
    assert len(found) == len(dict(found))
    return dict(found)


def _films_of(file: Path) -> list[str]:
    return [name for name in _members(file) if FILM.fullmatch(name)]


def _stretches(*files: Path) -> Stretches:
    rows = read_rows(find_sources(files), Settings(), output=files[0].with_name("out"))
    found: Stretches = []
    for item in rows:
        assert item.problem is None
        clips = clips_of(item.row, Settings(), item.root)
        assert all(isinstance(clip.source, bytes) for clip in clips)
        found.append([(clip.source, clip.start_seconds, clip.end_seconds) for clip in clips])  # type: ignore[misc]
    return found


WANTED: Stretches = [
    [(_film(1), 0, 1.5)],
    [(_film(1), 1, 2.5)],
    [(_film(1), 0, 1), (_film(1), 2, None)],
    [(clip_bytes(), 0, None)],
    [(clip_bytes(), 0, None), (_film(1), 2, 3), (_film(2), 0.5, None)],
    [(_film(1), 3, None)],
]


def _put(file: Path, *members: tuple[str, bytes]) -> Path:
    with tarfile.open(file, "w") as tar:
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            tar.addfile(info, io.BytesIO(content))
    return file


# There


def test_a_film_is_there_once_before_the_stretches_that_refer_to_it(data: Path, tmp_path: Path) -> None:
    _run(tmp_path / "out.tar", data, columns="text,failure")
    made = _members(tmp_path / "out.tar")
    first, second = _films_of(tmp_path / "out.tar")
    assert (made[first], made[second], second.endswith(".film.mov")) == (_film(1), _film(2), True)
    assert list(made)[:4] == [first, "000000000.film-stretch.json", "000000000.json", "000000000.caption.txt"]
    told = {name: json.loads(content) for name, content in made.items() if name.endswith("film-stretch.json")}
    assert told == {
        "000000000.film-stretch.json": {"film": first, "start": 0, "end": 1.5},
        "000000001.film-stretch.json": {"film": first, "start": 1, "end": 2.5},
        "000000002.film-stretch.json": [
            {"film": first, "start": 0, "end": 1},
            {"film": first, "start": 2, "end": None},
        ],
        "000000004.1.film-stretch.json": {"film": first, "start": 2, "end": 3},
        "000000004.2.film-stretch.json": {"film": second, "start": 0.5, "end": None},
        "000000005.film-stretch.json": {"film": first, "start": 3, "end": None},
    }
    assert json.loads(made["000000001.json"]) == {"video": "film.mp4#t=1,2.5", "text": "own"}
    assert sum(map(len, made.values())) < 2.2 * len(_film(1)) + 2 * len(clip_bytes()) + 4000


def test_each_tar_file_has_the_films_of_its_own_stretches(data: Path, tmp_path: Path) -> None:
    _run(tmp_path / "out-{shard}.tar", data, shard_rows=2)
    files = sorted(tmp_path.glob("out-*.tar"))
    assert [len(_films_of(file)) for file in files] == [1, 1, 2, 0]
    assert _stretches(*files[:3]) == WANTED


def test_bytes_of_rows_are_there_once_as_well(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    table = pa.table({"video": [_film(1)] * 3, "start": [0, 1, 2], "end": [1, 2, 3]})
    pq.write_table(table, tmp_path / "in.parquet")
    _run(tmp_path / "out.tar", tmp_path / "in.parquet")
    assert len(_films_of(tmp_path / "out.tar")) == 1
    assert _stretches(tmp_path / "out.tar") == [[(_film(1), start, start + 1)] for start in range(3)]


def test_a_run_that_was_broken_off_gives_the_same_bytes(data: Path, tmp_path: Path) -> None:
    for name in ("whole.tar", "broken.tar"):
        left = [4 if name == "broken.tar" else 100]

        def answer(asked: Work, left: list[int] = left) -> Any:
            left[0] -= 1
            if left[0] == 0:
                raise EngineError("it broke")
            return said(_told(asked))

        if name == "broken.tar":
            with pytest.raises(EngineError):
                _run(tmp_path / name, data, engine=ScriptedEngine(answer))
            assert not (tmp_path / name).exists()
        summary = _run(tmp_path / name, data, engine=ScriptedEngine(answer))
    assert summary.known > 0
    assert (tmp_path / "broken.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


# And back


def test_what_comes_back_are_the_same_stretches(data: Path, tmp_path: Path) -> None:
    for name in ("out.tar", "out.tar.gz"):
        _run(tmp_path / name, data)
        with pytest.raises(AssertionError):
            _stretches(tmp_path / name)  # the last one had no film
        rows = list(read_rows(find_sources([tmp_path / name]), Settings(), output=tmp_path / "x"))
        assert [clips_of(item.row, Settings())[0].start_seconds for item in rows] == [0, 1, 0, 0, 0, 3, 1]


def test_they_are_captioned_as_before(data: Path, tmp_path: Path) -> None:
    _run(tmp_path / "first.tar", data)
    _run(tmp_path / "again.jsonl", tmp_path / "first.tar", tasks={"other": {}})
    for row in read_rows_of(tmp_path / "again.jsonl")[:-1]:
        assert row["other"] == row["caption"]
        assert row["other"] is not None
        meta, before = row["other_meta"], row["caption_meta"]
        times = [
            [(told["clip_start"], told["clip_end"]) for told in (one if isinstance(one, list) else [one])]
            for one in (meta, before)
        ]
        assert times[0] == times[1]


def test_the_real_webdataset_finds_the_film_of_each_stretch(data: Path, tmp_path: Path) -> None:
    real = pytest.importorskip("webdataset")
    put_rows(data, [{"video": "film.mp4", "start": start, "end": start + 1} for start in range(3)])
    _run(tmp_path / "out.tar", data)
    films: dict[str, bytes] = {}
    found = []
    for sample in real.WebDataset(str(tmp_path / "out.tar"), shardshuffle=False):
        films |= {
            f"{sample['__key__']}.{name}": content for name, content in sample.items() if name.startswith("film.")
        }
        if "film-stretch.json" in sample:
            told = json.loads(sample["film-stretch.json"])
            found.append((films[told["film"]], told["start"], told["end"], sample["caption.txt"].decode()))
    assert found == [(_film(1), start, start + 1, f"4 frames from {start} to {start + 1}") for start in range(3)]


def test_from_tar_to_tar_films_go_where_their_stretches_go(data: Path, tmp_path: Path) -> None:
    put_rows(data, ROWS[:-1])
    _run(tmp_path / "first.tar", data)
    _run(tmp_path / "again.tar", tmp_path / "first.tar", tasks={"other": {}})
    before, after = _members(tmp_path / "first.tar"), _members(tmp_path / "again.tar")
    assert {name: after.pop(name) for name in before} == before
    assert all(".other" in name for name in after)
    assert next(iter(_members(tmp_path / "again.tar"))) == next(iter(before))
    _run(tmp_path / "part-{shard}.tar", tmp_path / "first.tar", tasks={"other": {}}, shard_rows=2)
    files = sorted(tmp_path.glob("part-*.tar"))
    assert [len(_films_of(file)) for file in files] == [1, 1, 2]
    assert _stretches(*files) == _stretches(tmp_path / "first.tar") == WANTED


def test_other_formats_get_the_path_and_the_times(data: Path, tmp_path: Path) -> None:
    put_rows(data, ROWS[:2])
    _run(tmp_path / "first.tar", data)
    _run(tmp_path / "out.jsonl", tmp_path / "first.tar", tasks={"other": {}})
    named = [(row["video"], row["start"], row["end"]) for row in read_rows_of(tmp_path / "out.jsonl")]
    assert named == [("film.mp4", 0, "00:00:01.500"), ("film.mp4", 1, 2.5)]
    pq = pytest.importorskip("pyarrow.parquet")
    _run(tmp_path / "out.parquet", tmp_path / "first.tar", tasks={"other": {}})
    assert pq.read_table(tmp_path / "out.parquet")["video"].to_pylist() == ["film.mp4", "film.mp4"]


def test_films_that_take_turns_are_read_again(data: Path, tmp_path: Path) -> None:
    names = ["film.mp4", "sub/other.MOV"] * 3
    put_rows(data, [{"video": name, "start": number} for number, name in enumerate(names[:4])])
    _run(tmp_path / "out.tar", data)
    assert len(_films_of(tmp_path / "out.tar")) == 2
    assert _stretches(tmp_path / "out.tar") == [[(_film(1 + number % 2), number, None)] for number in range(4)]


@pytest.mark.parametrize(
    ("settings", "cut", "told"),
    [
        ({}, 1, "its film [0-9a-f]{32}.film.mp4 is not before it in the file"),
        ({"max_video_bytes": 1000}, 0, "of its film [0-9a-f]{32}.film.mp4: it holds more than 1,000 bytes"),
        ({"start_key": ""}, 0, "it is a stretch of a film, and start_key, end_key or stretches_key is empty"),
    ],
)
def test_a_stretch_whose_film_cannot_be_had_costs_itself(
    data: Path, tmp_path: Path, settings: dict[str, Any], cut: int, told: str
) -> None:
    put_rows(data, ROWS[1:2])
    _run(tmp_path / "out.tar", data, columns="text")
    members = list(_members(tmp_path / "out.tar").items())[cut:]
    source = _put(tmp_path / "in.tar", *members, ("z.mp4", b"z"))
    bad, good = read_rows(find_sources([source]), Settings(**settings), output=tmp_path / "x")
    assert bad.problem is not None
    assert re.match(f"sample 000000000 of in.tar is not a row: {told}", bad.problem.message)
    assert good.row["video"] == b"z"
    _run(tmp_path / "copy.tar", source, tasks={"other": {}}, **settings)
    assert dict(members).items() <= _members(tmp_path / "copy.tar").items()


def test_only_what_refers_to_a_film_is_taken_for_that(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    hexed = "0123456789abcdef" * 2
    source = _put(
        tmp_path / "in.tar",
        ("a.film.mp4", b"a"),
        (f"{hexed}.mp4", b"b"),
        ("c.film-stretch.json", b'{"start": 1}'),
        ("d.film-stretch.json", b'{"film": "a.film.mp4", "start": 1, "end": 2}'),
        (f"{hexed}.film.mp4", b"e"),
    )
    with caplog.at_level(logging.WARNING):
        rows = [item.row for item in read_rows(find_sources([source]), Settings(), output=tmp_path / "x")]
    assert [row.get("video", row.get("videos")) for row in rows] == [[b"a"], b"b", None, None]
    assert rows[2]["film-stretch"] == {"start": 1}
    assert f"ends with the film {hexed}.film.mp4, to which no sample refers" in caplog.text
