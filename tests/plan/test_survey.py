"""What there is to caption."""

from pathlib import Path

import pytest
from clips import write_clip
from flow import EOC, VIDEO, clip_bytes, put_clip, put_rows

from reelscribe.config import Settings
from reelscribe.plan import survey as module
from reelscribe.plan.survey import survey
from reelscribe.values import Row
from reelscribe.video.headers import Header


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    put_clip(tmp_path / "a.mp4")
    (tmp_path / "text.mp4").write_text("no video")
    return tmp_path


def test_every_row_is_accounted_for(folder: Path) -> None:
    rows: list[Row] = [
        {"video": "a.mp4"},
        {"video": "text.mp4"},
        {"video": None},
        {"video": "https://example.org/a.mp4"},
        {"video": 7},
        {"video": "a.mp4"},
    ]
    data = put_rows(folder / "in.jsonl", rows)
    data.write_text(data.read_text() + "no json\n")
    told: list[int] = []
    seen = survey([data], Settings(), on_row=told.append)
    assert (seen.rows, seen.looked_at, seen.without_video, seen.remote) == (7, 7, 1, 1)
    assert seen.failures == {"unreadable": 1, "row": 2}
    assert seen.examples["unreadable"][0].startswith("row 1: text.mp4 cannot be opened as a video")
    assert seen.codecs == {"h264": 2}
    assert (seen.clips.value, seen.clips.error) == (3, 0)
    assert seen.total(lambda header: header.duration_seconds).value == pytest.approx(2.0)
    assert told == [7] * 7


def test_a_header_without_a_size_costs_its_row(folder: Path) -> None:
    data = write_clip(folder / "b.ts", range(30), keyframe_every=10).read_bytes()
    (folder / "b.ts").write_bytes(data.replace(b"\0\0\1\x67", b"\0\0\1\x6c"))  # parameter sets hold the size
    seen = survey([folder], Settings())
    assert seen.failures == {"decode": 1, "unreadable": 1}
    assert seen.total(lambda header: header.duration_seconds).value == pytest.approx(1.0)


def test_clips_of_interleaved_rows_bytes_and_folders(folder: Path) -> None:
    data = put_rows(folder / "in.jsonl", [{"text": f"{VIDEO}{VIDEO}{EOC}", "videos": ["a.mp4", "a.mp4"]}])
    assert survey([data], Settings()).clips.value == 2
    pa = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    parquet.write_table(pa.table({"clip": [clip_bytes()] * 3}), folder / "in.parquet")
    [[look], *_] = survey([folder / "in.parquet"], Settings(video_key="clip", decoders=0)).seen
    assert isinstance(look, Header)
    (folder / "in.parquet").unlink()
    data.unlink()
    assert survey([folder], Settings()).failures == {"unreadable": 1}


def test_the_root_is_kept_to(folder: Path) -> None:
    data = put_rows(folder / "in.jsonl", [{"video": "../a.mp4"}])
    (folder / "inner").mkdir()
    assert survey([data], Settings(root=str(folder / "inner"))).failures == {"refused": 1}


def test_of_many_rows_some_are_looked_at(folder: Path) -> None:
    put_clip(folder / "b.mp4")
    rows = [{"videos": ["a.mp4", "b.mp4"][: number % 3]} for number in range(300)]
    data = put_rows(folder / "in.jsonl", rows)
    whole, part = survey([data], Settings()), survey([data], Settings(), most_rows=100)
    assert (whole.rows, whole.looked_at, whole.clips.value, whole.clips.error) == (300, 300, 300, 0)
    assert (part.rows, part.looked_at) == (300, 100)
    assert 0 < part.clips.error < 60
    assert abs(part.clips.value - 300) <= part.clips.error
    assert survey([data], Settings(), most_rows=100).clips == part.clips
    assert survey([data], Settings(), most_rows=299).clips.error < 3  # but for one row, all is known


def test_rows_that_take_long_to_count_are_counted(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "count_rows", lambda _: None)
    data = put_rows(folder / "in.jsonl", [{"video": "a.mp4"}] * 5)
    assert survey([data], Settings(), most_rows=2).rows == 5
