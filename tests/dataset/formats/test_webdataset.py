"""WebDataset: samples to rows and back, every member as it was."""

import io
import json
import os
import tarfile
import tracemalloc
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, clip_bytes, put_clip, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.dataset.formats import webdataset
from reelscribe.dataset.read import count_rows, read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import SettingsError
from reelscribe.runners.local import RunSummary, run
from reelscribe.values import InputRow, RowResult

TEXT = "Candidate 0: 4 frames of 64x64 over 1.0 s."
Members = list[tuple[str, bytes]]


def _put(file: Path, members: Members) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(file, "w:gz" if file.name.endswith("gz") else "w") as tar:
        for name, data in members:
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return file


def _members(file: Path) -> Members:
    with tarfile.open(file) as tar:
        return [(info.name, tar.extractfile(info).read()) for info in tar]  # type: ignore[union-attr]


def _read(file: Path, **settings: Any) -> list[InputRow]:
    return list(read_rows(find_sources([file]), Settings(**settings), output=file.with_name("out")))


def _run(output: Path, *inputs: Path, **settings: Any) -> RunSummary:
    return run(inputs, output, Settings(**{"engine": "fake"} | settings))


@pytest.mark.parametrize("name", ["in.tar", "in.tar.gz", "in.tgz"])
def test_samples_are_rows(tmp_path: Path, name: str) -> None:
    file = _put(
        tmp_path / name,
        [
            ("./a/0.mp4", b"video"),
            ("./a/0.txt", "ünï\n".encode()),
            ("./a/0.json", b'{"id": 7, "tags": [null]}'),
            ("./a/0.cls", b"3"),
            ("./a/0.title.txt", b"a title"),
            ("./a/0.more.json", b"[1]"),
            ("readme", b"no sample"),
            ("1.0.MKV", b"first"),
            ("1.1.webm", b"second"),
            ("2.json", b"[1]"),
        ],
    )
    first, second, third = _read(file)
    told = {"__url__": str(file)}
    assert first.row == {
        "__key__": "./a/0", **told, "text": "ünï", "id": 7, "tags": [None], "cls": b"3", "title": "a title",
        "more": [1], "video": b"video",
    }  # fmt: skip
    assert second.row == {"__key__": "1", **told, "videos": [b"first", b"second"]}
    assert third.row == {"__key__": "2", **told, "json": [1]}
    assert [item.problem for item in (first, second, third)] == [None] * 3
    assert count_rows(find_sources([file])) is None


def test_video_column_may_be_named(tmp_path: Path) -> None:
    file = _put(tmp_path / "in.tar", [("a.mp4", b"x"), ("a.mov", b"y")])
    assert _read(file)[0].row["videos"] == [b"x", b"y"]
    assert _read(file, video_key="mov")[0].row["mov"] == b"y"
    assert _read(file, video_key="clip")[0].row["clip"] == [b"x", b"y"]


def test_what_the_real_webdataset_writes_is_read_and_what_is_written_it_reads(tmp_path: Path) -> None:
    real = pytest.importorskip("webdataset")
    with real.TarWriter(str(tmp_path / "in.tar")) as sink:
        for number in range(3):
            sink.write({"__key__": f"s{number}", "mp4": clip_bytes(), "json": {"n": number}, "txt": "words"})
    summary = _run(tmp_path / "out.tar", tmp_path / "in.tar")
    assert (summary.captions, summary.failures) == (3, {})
    samples = list(real.WebDataset(str(tmp_path / "out.tar"), shardshuffle=False))
    assert [sample["__key__"] for sample in samples] == ["s0", "s1", "s2"]
    for number, sample in enumerate(samples):
        assert (sample["mp4"], json.loads(sample["json"])) == (clip_bytes(), {"n": number})
        assert sample["caption.txt"].decode() == TEXT
        assert json.loads(sample["caption_candidates.json"]) == [TEXT]
        assert json.loads(sample["caption_meta.json"])["kept"] == [0]


def test_members_come_out_as_they_went_in(tmp_path: Path) -> None:
    members = [
        ("x/0.mp4", clip_bytes()),
        ("x/0.json", b'{ "n":1.0e5}'),
        ("x/0.bin", bytes(range(256))),
        ("x/1.txt", b"no video"),
        ("x/2.mp4", b"broken"),
    ]
    summary = _run(tmp_path / "out.tar", _put(tmp_path / "in.tar", members))
    assert (summary.rows, summary.captions, summary.without_video) == (3, 1, 1)
    made = dict(_members(tmp_path / "out.tar"))
    assert members == [(name, made[name]) for name, _ in members]
    assert set(made) - {name for name, _ in members} == {
        "x/0.caption.txt", "x/0.caption_candidates.json", "x/0.caption_meta.json", "x/0.caption_failure.txt",
        "x/1.caption_candidates.json", "x/1.caption_failure.txt",
        "x/2.caption_candidates.json", "x/2.caption_meta.json", "x/2.caption_failure.txt",
    }  # fmt: skip
    failures = [made[f"x/{number}.caption_failure.txt"].decode() for number in range(3)]
    assert [told.partition(":")[0] for told in failures] == ["", "", "unreadable"]
    again = _run(tmp_path / "again.tar", tmp_path / "out.tar", tasks={"other": {}})
    assert again.captions == 1
    twice = dict(_members(tmp_path / "again.tar"))
    assert {name: twice.pop(name) for name in made} == made
    assert {name.replace("other", "caption") for name in twice} == made.keys() - {name for name, _ in members}


def test_captions_of_an_earlier_run_are_never_replaced(tmp_path: Path) -> None:
    columns = b'{"caption": "old", "n": 1.50}'
    members = [("0.mp4", clip_bytes()), ("0.json", columns), ("0.caption_candidates.json", b'["old"]')]
    source = _put(tmp_path / "in.tar", members)
    with pytest.raises(SettingsError, match="have a column 'caption' and 'caption_candidates' already"):
        _run(tmp_path / "out.tar", source)
    _run(tmp_path / "out.tar", source, tasks={"other": {}}, columns="text")
    assert _members(tmp_path / "out.tar") == [*members, ("0.other.txt", TEXT.encode())]


def test_interleaved_samples_are_repeated(tmp_path: Path) -> None:
    text = f"{VIDEO}old{EOC}"
    members = [("0.mp4", clip_bytes()), ("0.txt", text.encode()), ("0.cls", b"1")]
    _run(tmp_path / "out.tar", _put(tmp_path / "in.tar", members))
    changed = ("0_1.txt", f"{VIDEO} {TEXT} {EOC}".encode())
    again = [("0_1.mp4", clip_bytes()), ("0_1.cls", b"1"), changed]
    made = _members(tmp_path / "out.tar")
    assert made[:3] == members
    assert sorted(made[3:]) == sorted(again)


def test_rows_of_other_formats_take_their_videos_along(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    put_clip(tmp_path / "b.MOV")
    (tmp_path / "out.txt").write_text("secret")
    os.mkfifo(tmp_path / "pipe.mp4")
    source = tmp_path / "in.jsonl"
    source.write_text(
        '{"video": "a.mp4", "n": 1.0e5}\n{"videos": ["b.MOV", "gone.mp4"]}\n'
        '{"video": "pipe.mp4"}\n{"video": 5, "title": "own"}\n'
    )
    _run(tmp_path / "out.tar", source)
    made = dict(_members(tmp_path / "out.tar"))
    assert made["000000000.mp4"] == made["000000001.0.mov"] == clip_bytes()
    assert made["000000000.json"] == b'{"video": "a.mp4", "n": 1.0e5}'
    assert made["000000000.caption.txt"].decode() == TEXT
    assert json.loads(made["000000001.caption.json"]) == [TEXT, None]
    assert json.loads(made["000000003.json"]) == {"video": 5, "title": "own"}
    assert not any("000000002.mp4" in name for name in made)
    with tarfile.open(tmp_path / "out.tar") as tar:
        assert {info.mtime for info in tar} == {0}


def test_bytes_of_other_formats_are_videos_inside(tmp_path: Path) -> None:
    pa, pq = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    pq.write_table(pa.table({"video": [clip_bytes()], "id": [7]}), tmp_path / "in.parquet")
    _run(tmp_path / "out.tar", tmp_path / "in.parquet")
    made = dict(_members(tmp_path / "out.tar"))
    assert (made["000000000.mp4"], made["000000000.json"]) == (clip_bytes(), b'{"id": 7}')
    _run(tmp_path / "back.parquet", tmp_path / "out.tar", tasks={"other": {}})
    (row,) = pq.read_table(tmp_path / "back.parquet").to_pylist()
    assert (row["video"], row["id"], row["caption"], row["other"]) == (clip_bytes(), 7, TEXT, TEXT)


def test_json_names_the_members_that_it_cannot_hold(tmp_path: Path) -> None:
    members = [("0.mp4", clip_bytes()), ("0.bin", b"\xff"), ("1.0.mp4", clip_bytes()), ("1.1.mp4", b"")]
    source = _put(tmp_path / "in.tar", members)
    _run(tmp_path / "out.jsonl", source)
    first, second = read_rows_of(tmp_path / "out.jsonl")
    assert {name: first[name] for name in ("__key__", "__url__", "video", "bin", "caption")} == {
        "__key__": "0", "__url__": str(source), "video": "0.mp4", "bin": "0.bin", "caption": TEXT,
    }  # fmt: skip
    assert (second["videos"], second["caption"]) == (["1.0.mp4", "1.1.mp4"], [TEXT, None])


def test_what_the_json_says_of_the_video_comes_back_where_the_video_cannot(tmp_path: Path) -> None:
    put_clip(tmp_path / "clips" / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "clips/a.mp4", "id": 1}, {"videos": ["clips/a.mp4"], "id": 2}])
    _run(tmp_path / "packed.tar", data)
    _run(tmp_path / "out.jsonl", tmp_path / "packed.tar", tasks={"other": {}})
    first, second = read_rows_of(tmp_path / "out.jsonl")
    assert (first["video"], second["videos"]) == ("clips/a.mp4", ["clips/a.mp4"])
    assert (first["__key__"], first["id"], first["other"]) == ("000000000", 1, TEXT)


@pytest.mark.parametrize("told", [["a.mp4"], None, {"fps": 30}, ""])
def test_json_of_another_shape_does_not_stand_for_a_video(tmp_path: Path, told: Any) -> None:
    members = [("0.mp4", clip_bytes()), ("0.json", json.dumps({"video": told}).encode())]
    _run(tmp_path / "out.jsonl", _put(tmp_path / "in.tar", members))
    [row] = read_rows_of(tmp_path / "out.jsonl")
    assert (row["video"], row["caption"]) == ("0.mp4", TEXT)


def test_same_rows_give_the_same_bytes(tmp_path: Path) -> None:
    source = _put(tmp_path / "in.tar", [("0.mp4", clip_bytes())])
    made = set()
    for _ in range(2):
        _run(tmp_path / "out.tar.gz", source)
        made.add((tmp_path / "out.tar.gz").read_bytes())
    assert len(made) == 1


@pytest.mark.parametrize(
    ("members", "told"),
    [
        ([("0.json", b"{")], "its member 'json' cannot be read: Expecting property name"),
        ([("0.json", b"[" * 9_000)], "its member 'json' cannot be read: "),  # the depth that is too much is Python's
        ([("0.txt", b"\xff")], "its member 'txt' cannot be read: 'utf-8' codec"),
        ([("0.mp4", b"x"), ("0.mp4", b"y")], "it has the member 'mp4' twice"),
        ([("0.mp4", b"x" * 5000), ("0.mov", b"y" * 5001)], r"it holds more than 10,000 bytes \(max_video_bytes\)"),
        ([(f"0.{n}", b"") for n in range(1001)], "it has more than 1,000 members"),
    ],
)
def test_bad_sample_costs_itself(tmp_path: Path, members: Members, told: str) -> None:
    source = _put(tmp_path / "in.tar", [("a.mp4", b"x"), *members, ("b.mp4", b"y")])
    first, bad, last = _read(source, max_video_bytes=10_000)
    assert (first.row["video"], last.row["video"]) == (b"x", b"y")
    assert bad.row == {"__key__": "0"}
    assert bad.problem is not None
    with pytest.raises(Exception, match=f"^sample 0 of in.tar is not a row: {told}"):
        raise Exception(bad.problem.message)


def test_a_video_that_fails_is_called_by_its_sample(tmp_path: Path) -> None:
    _run(tmp_path / "out.jsonl", _put(tmp_path / "in.tar", [("s/0010.mp4", b"no video")]))
    [failure] = read_rows_of(tmp_path / "out.failures.jsonl")
    assert failure["video"] == "s/0010"
    assert str(failure["message"]).startswith("s/0010 cannot be opened as a video")


def test_links_and_devices_inside_are_passed_over(tmp_path: Path) -> None:
    with tarfile.open(tmp_path / "in.tar", "w") as tar:
        for name, kind in [("0.mp4", tarfile.SYMTYPE), ("0.mov", tarfile.CHRTYPE), ("0.avi", tarfile.FIFOTYPE)]:
            info = tarfile.TarInfo(name)
            info.type, info.linkname = kind, "/etc/passwd"
            tar.addfile(info)
        tar.addfile(tarfile.TarInfo("0.mkv"), io.BytesIO())
    (read,) = _read(tmp_path / "in.tar")
    assert read.row["video"] == b""


@pytest.mark.parametrize("damage", ["cut in a member", "cut between members", "cut in a header", "no header"])
def test_damaged_file_costs_what_follows(tmp_path: Path, damage: str) -> None:
    source = _put(tmp_path / "in.tar", [("a.mp4", b"x" * 1000), ("b.mp4", b"y" * 1000), ("c.mp4", b"z" * 1000)])
    data = source.read_bytes()
    if damage == "no header":
        source.write_bytes(data[:3072] + b"\xff" * 512 + data[3584:])
    else:
        source.write_bytes(
            data[: {"cut in a member": 2500, "cut between members": 3072, "cut in a header": 3300}[damage]]
        )
    # The second sample may be one of those that lack a member, so it is left out, too.
    first, bad = _read(source)
    assert first.row["video"] == b"x" * 1000
    assert bad.problem is not None
    assert f"cannot read {source}: " in bad.problem.message
    assert bad.problem.message.endswith("What it holds from here on is left out.")


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME])
def test_gigantic_header_is_not_read(tmp_path: Path, kind: bytes) -> None:
    source = _put(tmp_path / "in.tar", [("a.mp4", b"x"), ("b.mp4", b"y")])
    info = tarfile.TarInfo("header")
    info.type, info.size = kind, 500 << 20
    with source.open("r+b") as file:
        file.seek(2048)
        file.write(info.tobuf())
        file.truncate(500 << 20)
    tracemalloc.start()
    first, bad = _read(source)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert first.row["video"] == b"x"
    assert bad.problem is not None
    assert "it is damaged, or no tar file: a header of 524,288,000 bytes." in bad.problem.message
    assert peak < 4 << 20


def test_memory_does_not_grow_with_the_number_of_samples(tmp_path: Path) -> None:
    source = _put(tmp_path / "in.tar", [(f"{n}.mp4", b"x" * 1000) for n in range(5000)])
    rows = read_rows(find_sources([source]), Settings(), output=tmp_path / "out")
    writer = webdataset.Writer(tmp_path / "out.tar", "out.tar", Settings())
    tracemalloc.start()
    for item in rows:
        writer.write(RowResult(index=item.index, rows=({**item.row, "caption": "x"},), outcomes=(), origin=item))
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    writer.close()
    assert len(_members(tmp_path / "out.tar")) == 10_000
    assert peak < 1 << 20


def test_output_of_json_lines_is_a_tar_that_can_go_in_again(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    _run(tmp_path / "out.tar", put_rows(tmp_path / "in.jsonl", [{"videos": ["a.mp4"], "text": "x"}]))
    (read,) = _read(tmp_path / "out.tar")
    assert (read.row["videos"], read.row["text"], read.row["caption"]) == ([clip_bytes()], "x", [TEXT])
