"""Tar files through a run: every member comes out as it was, and rows made of one sample have names of their own."""

import io
import tarfile
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from flow import EOC, VIDEO, ScriptedEngine, clip_bytes, said

from reelscribe.config import Settings
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import DatasetError
from reelscribe.runners.local import RunSummary, run

Member = tuple[str, bytes, str, float, int, dict[str, str], bytes]


class _Tar:
    """Builds a tar file of odd members."""

    def __init__(self, file: Path, **options: Any) -> None:
        self.file = file
        self._tar = tarfile.open(file, "w:gz" if file.suffix == ".gz" else "w", **options)  # noqa: SIM115

    def add(self, name: str, data: bytes = b"", **header: Any) -> "_Tar":
        info = tarfile.TarInfo(name)
        info.size = len(data)
        for key, value in header.items():
            setattr(info, key, value)
        self._tar.addfile(info, io.BytesIO(data))
        return self

    def close(self) -> Path:
        self._tar.close()
        return self.file


def _members(file: Path) -> list[Member]:
    """All that there is of each member, its header's odd parts among it."""
    found = []
    with tarfile.open(file) as tar:
        for info in tar:
            data = tar.extractfile(info).read() if info.isreg() else b""  # type: ignore[union-attr]
            pax = {key: value for key, value in info.pax_headers.items() if key not in ("path", "size")}
            found.append((info.name, info.type, info.linkname, info.mtime, info.mode, pax, data))
    return found


def _run(output: Path, source: Path, **settings: Any) -> RunSummary:
    engine = ScriptedEngine(lambda item: said(*[f"text {n}" for n in range(item.requests[0].num_captions)]))
    return run([source], output, Settings(decoders=0, **settings), engine=engine)


@pytest.mark.parametrize("name", ["in.tar", "in.tar.gz"])
def test_every_member_comes_out_as_it_was(tmp_path: Path, name: str) -> None:
    clip, odd = clip_bytes(), dict[str, Any](type=tarfile.DIRTYPE, mode=0o755)
    tar = _Tar(tmp_path / name, pax_headers={"comment": "of all"})
    tar.add("README", b"no sample").add("s", **odd).add("s/link", type=tarfile.SYMTYPE, linkname="../README")
    tar.add("s/a.mp4", clip, mtime=1234567890.25, mode=0o600, uid=7, uname="ann")
    tar.add("s/a.odd name \udcfc.txt", b"kept", pax_headers={"SCHILY.xattr.user.a": "b", "mtime": "3.5"})
    tar.add("s/sub", **odd).add("s/a.json", b'{"id": 1}')
    tar.add("s/hard", type=tarfile.LNKTYPE, linkname="s/a.mp4").add("end/", **odd)
    tar.add("large.mp4", clip).add("large.bin", b"x" * 30_000).add("between", **odd).add("large.txt", b"words")
    tar.add("latin.mp4", clip).add("latin.txt", "für".encode("latin-1"))
    tar.add("twice.mp4", clip).add("twice.mp4", b"another")
    tar.add("z" * 300 + ".mp4", clip, mtime=5).add("last", b"1" * 513)
    source = tar.close()
    summary = _run(tmp_path / "out.tar", source, max_video_bytes=29_000)
    assert (summary.captions, summary.failures) == (2, {"row": 3})
    before, after = _members(source), _members(tmp_path / "out.tar")
    assert (tmp_path / "out.tar").stat().st_size % tarfile.RECORDSIZE == 0
    assert not Counter(map(repr, before)) - Counter(map(repr, after))
    added = [item[0] for item in after if repr(item) not in map(repr, before)]
    ends = ("caption_candidates.json", "caption_meta.json", "caption_failure.txt")
    broken = [f"{key}.{end}" for key in ("large", "latin", "twice") for end in ends]
    whole = [f"{key}.{end}" for key in ("s/a", "z" * 300) for end in ("caption.txt", *ends)]
    assert sorted(added) == sorted(broken + whole)
    problems = [item.problem for item in read_rows(find_sources([tmp_path / "out.tar"]), Settings(), output=source)]
    assert [bool(problem) for problem in problems] == [False, False, True, True, False], "only what was no row is none"
    order = [item[0] for item in after if item[0] not in added]
    assert (
        order.index("README")
        < order.index("s")
        < order.index("s/a.mp4")
        < order.index("end")
        < order.index("large.mp4")
    )


def test_what_is_copied_comes_before_what_is_told_of_it(tmp_path: Path) -> None:
    source = _Tar(tmp_path / "in.tar").add("a.mp4", b"x").add("a.mp4", b"y").add("a.caption_meta.json", b"1").close()
    _run(tmp_path / "out.tar", source)
    names = [item[0] for item in _members(tmp_path / "out.tar")]
    told = ["a.caption_candidates.json", "a.caption_failure.txt"]
    assert names == ["a.mp4", "a.mp4", "a.caption_meta.json", *told], "no member is there twice but its own"


def test_file_that_shrank_in_the_meantime_is_told(tmp_path: Path) -> None:
    tar = _Tar(tmp_path / "in.tar").add("a.mp4", clip_bytes()).add("b.mp4", b"x" * 100_000)
    source = tar.close()

    def shrink(item: Any) -> Any:
        with source.open("r+b") as opened:
            opened.truncate(10_000)
        return said("text")

    with pytest.raises(DatasetError, match=r"cannot read .*in\.tar: it is shorter than it was"):
        run([source], tmp_path / "out.tar", Settings(decoders=0, max_video_bytes=50_000), engine=ScriptedEngine(shrink))


def test_copies_have_names_that_no_sample_has(tmp_path: Path) -> None:
    tar = _Tar(tmp_path / "in.tar")
    keys_in = ("a", "a_1", "a_3", "a_1_2", "b", "a_x", "long" * 50)
    for key in keys_in:
        tar.add(f"{key}.mp4", clip_bytes()).add(f"{key}.txt", f"{VIDEO}{key}{EOC}".encode())
    _run(tmp_path / "out.tar", tar.close(), num_captions=3, keep="all")
    members = _members(tmp_path / "out.tar")
    names = [item[0] for item in members]
    assert len(names) == len(set(names)) == 7 * 4 * 2
    by_name = {item[0]: item[-1].decode("utf-8", "replace") for item in members}
    for key in keys_in:
        assert by_name[f"{key}.txt"] == f"{VIDEO}{key}{EOC}", "each sample has its own text still"
    assert [name for name in names if name.startswith("b")] == [
        f"b{end}.{kind}" for end in ("", "_1", "_2", "_3") for kind in ("mp4", "txt")
    ]
    assert {"a_2.txt", "a_4.txt", "a_5.txt"} <= by_name.keys()
    keys = [
        item.row["__key__"] for item in read_rows(find_sources([tmp_path / "out.tar"]), Settings(), output=tmp_path)
    ]
    assert len(keys) == len(set(keys)) == 28
