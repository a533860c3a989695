"""Subtitles of captioned data sets: which files there are, and that players read in them what was said."""

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import av
import pytest
from click.testing import CliRunner
from clips import write_clip
from flow import ScriptedEngine, put_rows, read_rows_of, said

from reelscribe.cli import main
from reelscribe.config import Settings
from reelscribe.errors import DatasetError, SettingsError
from reelscribe.events import Event
from reelscribe.export.subtitles import as_srt, as_vtt, export_subtitles
from reelscribe.runners.local import run
from reelscribe.values import Row, Work

EVENTS: dict[str, Any] = {"events": {"prompt": "List the events.", "times": True}}
ODD = "Tom & Jerry:\n\n<b>1 --> 2</b>\r\n\r\n{\\an8}"
CUES = [Event(0.0, 2.5, "moves"), Event(2.5, 2.5, ODD), Event(3600.0, 360000.0, "一只狗在跑")]


def _film(file: Path) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    return write_clip(file, range(100), size=(64, 64))


def _run(folder: Path, rows: list[Row], say: Callable[[Work], str], **settings: Any) -> Path:
    output = folder / str(settings.pop("output", "out.jsonl"))
    given: dict[str, Any] = {"tasks": EVENTS, "decoders": 0, **settings}
    run(
        [put_rows(folder / "in.jsonl", rows)],
        output,
        Settings(**given),
        engine=ScriptedEngine(lambda work: said(say(work))),
    )
    return output


def _files(folder: Path) -> dict[str, str]:
    return {str(file.relative_to(folder)): file.read_text("utf-8") for file in folder.rglob("*") if file.is_file()}


def _by_clip(work: Work) -> str:
    return f"0-0.5 s: from {work.clip.start_seconds:g}; 0.5-1 s: to the end"


# Text


def test_web_vtt_escapes_what_is_markup_there() -> None:
    assert as_vtt(CUES).split("\n\n") == [
        "WEBVTT",
        "00:00:00.000 --> 00:00:02.500\nmoves",
        "00:00:02.500 --> 00:00:03.500\nTom &amp; Jerry:\n&lt;b&gt;1 --&gt; 2&lt;/b&gt;\n{\\an8}",
        "01:00:00.000 --> 100:00:00.000\n一只狗在跑\n",
    ]


def test_sub_rip_has_numbers_and_commas() -> None:
    assert as_srt(CUES).split("\n\n") == [
        "1\n00:00:00,000 --> 00:00:02,500\nmoves",
        "2\n00:00:02,500 --> 00:00:03,500\nTom & Jerry:\n<b>1 -> 2</b>\n{\\an8}",
        "3\n01:00:00,000 --> 100:00:00,000\n一只狗在跑\n",
    ]


@pytest.mark.parametrize("kind", ["vtt", "srt"])
def test_ffmpeg_reads_each_cue(tmp_path: Path, kind: str) -> None:
    file = tmp_path / f"a.{kind}"
    file.write_text({"vtt": as_vtt, "srt": as_srt}[kind](CUES), "utf-8")
    with av.open(str(file)) as container:
        packets = [packet for packet in container.demux() if packet.pts is not None]
        times = [float(packet.pts * packet.time_base) for packet in packets if packet.pts is not None]
        ends = [float((packet.pts + packet.duration) * packet.time_base) for packet in packets]  # type: ignore[operator]
    assert times == [0.0, 2.5, 3600.0]
    assert ends == [2.5, 3.5, 360000.0]
    assert bytes(packets[0]) == b"moves"
    assert len(bytes(packets[1]).split(b"\n")) == 3


# Files


def test_stretches_of_a_video_are_in_one_file_in_order(tmp_path: Path) -> None:
    _film(tmp_path / "films" / "a.mp4")
    _film(tmp_path / "films" / "b.mp4")
    rows: list[Row] = [
        {"video": "films/a.mp4", "start": 2, "end": 4},
        {"video": "films/b.mp4", "start": 1, "end": 2},
        {"video": "films/a.mp4#t=0,2"},
    ]
    output = _run(tmp_path, rows, _by_clip)
    summary = export_subtitles(output, "vtt")
    assert (summary.folder, summary.files, summary.cues, summary.left_out) == (tmp_path / "out.subtitles", 2, 6, {})
    files = _files(summary.folder)
    assert sorted(files) == ["a.vtt", "b.vtt"]
    cues = re.findall(r"00:00:(\S+) --> 00:00:(\S+)\n(.+)", files["a.vtt"])
    assert cues == [
        ("00.000", "00.500", "from 0"),
        ("00.500", "01.000", "to the end"),
        ("02.000", "02.500", "from 2"),
        ("02.500", "03.000", "to the end"),
    ]


def test_captions_are_shown_as_long_as_their_clips(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4")
    rows: list[Row] = [{"video": "a.mp4#t=0,1.5"}, {"video": "a.mp4", "start": 1.5}]
    output = _run(tmp_path, rows, lambda work: f"from {work.clip.start_seconds:g}", tasks={})
    export_subtitles(output, "srt", folder=tmp_path / "subtitles")
    assert _files(tmp_path / "subtitles") == {
        "a.srt": "1\n00:00:00,000 --> 00:00:01,500\nfrom 0\n\n2\n00:00:01,500 --> 00:00:04,000\nfrom 1.5\n"
    }


@pytest.mark.parametrize("name", ["out.parquet", "out.tar", "text-with-tokens.jsonl"])
def test_other_formats_and_layouts(tmp_path: Path, name: str) -> None:
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow")
    _film(tmp_path / "a.mp4")
    rows: list[Row] = [{"video": "a.mp4", "start": 1, "end": 2}]
    tasks: dict[str, Any] = EVENTS
    if "text" in name:
        rows, tasks = [{"videos": ["a.mp4"], "text": "<__dj__video><|__dj__eoc|>", "start": [1], "end": [2]}], {}
    output = _run(tmp_path, rows, _by_clip, tasks=tasks, output=name)
    export_subtitles(output, "vtt", folder=tmp_path / "subtitles")
    [text] = _files(tmp_path / "subtitles").values()
    assert "00:00:01.000 --> 00:00:0" in text


def test_videos_in_a_tar_file_go_by_their_keys(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4")
    output = _run(tmp_path, [{"video": "a.mp4"}], _by_clip, output="out.tar")
    export_subtitles(output, "vtt")
    assert list(_files(tmp_path / "out.subtitles")) == ["000000000.vtt"]


def test_videos_of_one_name_are_told_apart(tmp_path: Path) -> None:
    names = ["one/a.mp4", "two/a.mp4", "two/b.mp4", "two/b.mov", "two/c.d.mp4"]
    for name in names:
        _film(tmp_path / "in" / name)
    output = _run(tmp_path, [{"video": f"in/{name}"} for name in names], _by_clip)
    export_subtitles(output, "vtt")
    found = sorted(_files(tmp_path / "out.subtitles"))
    assert found == ["one/a.vtt", "two/a.vtt", "two/b.mov.vtt", "two/b.mp4.vtt", "two/c.d.vtt"]


def test_videos_that_went_keep_their_names(tmp_path: Path) -> None:
    meta = {"clip_start": 0.0, "clip_end": 2.0}
    names = ["https://host/x/a.mp4?id=1#t=0,2", "https://host/x/a.mp4?id=2", "../gone/b.mp4", "gone/b.mp4", ".."]
    rows: list[Row] = [{"video": name, "caption": f"said of {name}", "caption_meta": meta} for name in names]
    rows += [rows[2]]
    summary = export_subtitles(put_rows(tmp_path / "out.jsonl", rows), "vtt")
    files = _files(tmp_path / "out.subtitles")
    of_urls = ["host/x/a.mp4?id=1.vtt", "host/x/a.mp4?id=2.vtt"]
    assert sorted(files) == ["gone/b.mp4-2.vtt", "gone/b.mp4.vtt", *of_urls, "row-4.vtt"]
    assert summary.cues == 6


def test_links_to_one_video_are_one_video_of_the_first_name(tmp_path: Path) -> None:
    _film(tmp_path / "blobs" / "a.mp4").rename(tmp_path / "blobs" / "0123abcd")
    for name in ("film.mp4", "again.mp4"):
        (tmp_path / name).symlink_to("blobs/0123abcd")
    output = _run(tmp_path, [{"video": "film.mp4#t=2,4"}, {"video": "again.mp4#t=0,2"}], _by_clip)
    export_subtitles(output, "vtt")
    assert _files(tmp_path / "out.subtitles")["film.vtt"].count("-->") == 4


def test_names_that_no_file_can_have(tmp_path: Path) -> None:
    row: Row = {"caption": "a", "caption_meta": {"clip_start": 0, "clip_end": 1}}
    output = put_rows(tmp_path / "out.jsonl", [{**row, "video": name} for name in ("a\ud800.mp4", "b\0.mp4")])
    export_subtitles(output, "vtt")
    assert sorted(_files(tmp_path / "out.subtitles")) == ["a?.vtt", "b_.vtt"]


# Which task


def test_the_task_with_times_is_taken(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4")
    tasks = {"caption": "What happens?", **EVENTS, "more": EVENTS["events"]}

    def say(work: Work) -> str:
        return _by_clip(work).replace("from", work.requests[0].id.task)

    output = _run(tmp_path, [{"video": "a.mp4"}], say, tasks={**tasks, "more": "More?"})
    export_subtitles(output, "vtt", folder=tmp_path / "one")
    assert "events 0" in _files(tmp_path / "one")["a.vtt"]
    export_subtitles(output, "vtt", folder=tmp_path / "two", task="more")
    assert "00:00:00.000 --> 00:00:04.000\n0-0.5 s: more 0" in _files(tmp_path / "two")["a.vtt"]
    with pytest.raises(SettingsError, match="there is no task 'event'; did you mean events"):
        export_subtitles(output, "vtt", task="event")
    output = _run(tmp_path, [{"video": "a.mp4"}], say, tasks=tasks, output="b.jsonl")
    with pytest.raises(SettingsError, match="there are several tasks, events, more: name one with --task"):
        export_subtitles(output, "vtt")


def test_without_a_ledger_events_tell_the_task(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4")
    output = _run(tmp_path, [{"video": "a.mp4"}], _by_clip, tasks={"caption": "What happens?", **EVENTS})
    moved = put_rows(tmp_path / "moved" / "out.jsonl", read_rows_of(output))
    export_subtitles(moved, "vtt")
    assert "from 0" in _files(moved.parent / "out.subtitles")["a.vtt"]


# What has none, and what is in the way


def test_what_has_no_subtitles_is_counted(tmp_path: Path) -> None:
    for name in ("a.mp4", "b.mp4", "c.mp4"):
        _film(tmp_path / name)
    said_of = {"a.mp4": "0-1 s: one", "b.mp4": "no times", "c.mp4": '{"events": []}'}
    rows: list[Row] = [{"video": name} for name in (*said_of, "gone.mp4")] + [{"id": 1}]
    output = _run(tmp_path, rows, lambda work: said_of[str(work.clip.source)])
    typed = CliRunner().invoke(main, ["export", str(output), "--as", "vtt"])
    assert typed.exit_code == 0
    assert typed.stderr.splitlines() == [
        f"1 subtitle in 1 file in {tmp_path / 'out.subtitles'}",
        "left out: 1 clip without events that can be read",
        "left out: 1 clip in which nothing happens",
        "left out: 1 clip that failed",
    ]


def test_where_nothing_has_times_nothing_is_written(tmp_path: Path) -> None:
    rows: list[Row] = [{"video": "a.mp4", "caption": "a", "caption_meta": {"clip_start": None}}]
    typed = CliRunner().invoke(main, ["export", str(put_rows(tmp_path / "out.jsonl", rows)), "--as", "srt"])
    assert typed.exit_code == 2
    assert "nothing to export of the task caption" in typed.stderr
    assert "1 of which it is not known where they begin and end" in typed.stderr
    assert not (tmp_path / "out.subtitles").exists()


def test_a_file_that_is_there_stays_and_none_is_written(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4")
    _film(tmp_path / "b.mp4")
    output = _run(tmp_path, [{"video": "b.mp4"}, {"video": "a.mp4"}], _by_clip)
    theirs = tmp_path / "a.vtt"
    theirs.write_text("a person's")
    with pytest.raises(DatasetError, match=r"cannot write: .*a\.vtt is there already\. Name another FOLDER"):
        export_subtitles(output, "vtt", folder=tmp_path)
    assert theirs.read_text() == "a person's"
    assert not (tmp_path / "b.vtt").exists()


def test_a_folder_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    _film(tmp_path / "a.mp4")
    output = _run(tmp_path, [{"video": "a.mp4"}], _by_clip)
    with pytest.raises(DatasetError, match="cannot write to"):
        export_subtitles(output, "vtt", folder=output / "in")
