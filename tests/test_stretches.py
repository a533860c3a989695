"""Clips that are stretches of a film, from rows to what is written: an engine that reads the numbers of its frames."""

from pathlib import Path
from typing import Any

import pytest
from clips import read_numbers, write_clip
from flow import ScriptedEngine, put_rows, read_rows_of, said

from reelscribe.config import Settings
from reelscribe.dataset.sidecars import sidecar_of
from reelscribe.engines.chat import show
from reelscribe.errors import ClipError, DatasetError
from reelscribe.operators.video_captioning_from_vlm_mapper import VideoCaptioningFromVLMMapper
from reelscribe.plan.survey import survey
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners.local import run
from reelscribe.runners.retry import retry
from reelscribe.values import Clip, Row, Work
from reelscribe.video.fetch import FetchLimits


def _say(work: Work) -> Any:
    return said(f"from {read_numbers(work.frames.pixels)[0]} to {read_numbers(work.frames.pixels)[-1]}")


@pytest.fixture
def film(tmp_path: Path) -> Path:
    """200 frames at 25 a second, each with its number."""
    return write_clip(tmp_path / "film.mp4", range(200), size=(64, 64))


def _captioned(folder: Path, rows: list[Row], output: str = "out.jsonl", **settings: Any) -> list[Work]:
    """Caption rows; what was asked for that."""
    asked: list[Work] = []

    def say(work: Work) -> Any:
        asked.append(work)
        return _say(work)

    engine = ScriptedEngine(say)
    run([put_rows(folder / "in.jsonl", rows)], folder / output, Settings(decoders=0, fps=25, **settings), engine=engine)
    return asked


def test_rows_are_captioned_by_their_stretches(film: Path) -> None:
    rows: list[Row] = [
        {"video": "film.mp4", "start": 1, "end": 2},
        {"video": "film.mp4#t=4,6"},
        {"video": "film.mp4", "start": "00:00:07"},
        {"video": "film.mp4", "start": 9, "end": 10},
        {"video": "film.mp4", "start": "soon"},
    ]
    asked = _captioned(film.parent, rows)
    made = read_rows_of(film.parent / "out.jsonl")
    assert [row["caption"] for row in made] == ["from 25 to 49", "from 100 to 149", "from 175 to 199", None, None]
    assert made[3]["caption_failure"].startswith("row: film.mp4#t=9,10 is not in the file: the file is 8.000 seconds")
    assert made[4]["caption_failure"].startswith("row: column 'start': a time is seconds")
    meta = made[1]["caption_meta"]
    assert (meta["clip_start"], meta["clip_end"], meta["file_seconds"]) == (4.0, 6.0, 8.0)
    assert meta["frame_timestamps"][:2] == [0.0, 0.04]
    assert meta["file_timestamps"][:2] == [4.0, 4.04]
    assert len(asked) == 3


def test_a_stretch_that_ends_after_its_file_says_so(film: Path) -> None:
    ends = [7.9, 8.0, 8.09, 8.2, 9.0, None]
    _captioned(film.parent, [{"video": "film.mp4", "start": 6, "end": end} for end in ends])
    metas = [row["caption_meta"] for row in read_rows_of(film.parent / "out.jsonl")]
    assert [meta["clip_flags"] for meta in metas] == ["", "", "", "ends_early", "ends_early", ""]
    assert [meta["flags"] for meta in metas] == [meta["clip_flags"] for meta in metas]
    assert [meta["clip_end"] for meta in metas] == [7.9, 8, 8, 8, 8, 8]


def test_a_second_run_knows_each_stretch(film: Path) -> None:
    rows: list[Row] = [{"video": "film.mp4", "start": start, "end": start + 1} for start in range(3)]
    _captioned(film.parent, rows)
    asked = _captioned(film.parent, [*rows[:2], {"video": "film.mp4", "start": 2, "end": 4}])
    assert [work.clip.name for work in asked] == ["film.mp4#t=2,4"]
    assert [row["caption"] for row in read_rows_of(film.parent / "out.jsonl")][2] == "from 50 to 99"


def test_a_list_of_stretches_has_a_list_of_captions(film: Path) -> None:
    _captioned(film.parent, [{"video": "film.mp4", "stretches": [[0, 1], [1, 20], [6, None]]}])
    [made] = read_rows_of(film.parent / "out.jsonl")
    assert made["caption"] == ["from 0 to 24", None, "from 150 to 199"]
    assert [bool(failure) for failure in made["caption_failure"]] == [False, True, False]


def test_a_film_is_named_with_its_stretch_on_the_command_line(film: Path) -> None:
    engine = ScriptedEngine(_say)
    run([f"{film}#t=2,3"], film.parent / "out.jsonl", Settings(decoders=0, fps=25), engine=engine)
    [made] = read_rows_of(film.parent / "out.jsonl")
    assert (made["video"], made["caption"]) == ("film.mp4#t=2,3", "from 50 to 74")
    with pytest.raises(DatasetError, match="there must be times"):
        run([f"{film}#t="], film.parent / "b.jsonl", Settings(), engine=engine)


def test_duration_in_a_prompt_is_that_of_the_stretch(film: Path) -> None:
    rows: list[Row] = [{"video": "film.mp4", "start": 1, "end": 3.5}]
    asked = _captioned(film.parent, rows, prompt="What happens in {duration} s, from {start}?")
    assert [request.prompt for work in asked for request in work.requests] == ["What happens in 2.5 s, from 1?"]


def test_sidecars_have_the_times_in_their_names(film: Path) -> None:
    rows: list[Row] = [
        {"video": "film.mp4", "start": 1, "end": 2.25},
        {"video": "film.mp4", "start": 2.25},
        {"video": "film.mp4"},
    ]
    _captioned(film.parent, rows, sidecar="txt")
    names = ["film.00001.0-00002.25.txt", "film.00002.25-end.txt", "film.txt"]
    assert sorted(path.name for path in film.parent.glob("*.txt")) == names
    assert (film.parent / names[0]).read_text().startswith("from 25 to 5")
    assert sidecar_of(film, "txt").name == "film.txt"


def test_sidecars_of_stretches_are_no_files_that_are_left_out(film: Path, caplog: pytest.LogCaptureFixture) -> None:
    _captioned(film.parent, [{"video": "film.mp4", "start": 1, "end": 2}], sidecar="txt")
    (film.parent / "in.jsonl").unlink()
    run([film.parent], film.parent / "out.jsonl", Settings(decoders=0, fps=25), engine=ScriptedEngine(_say))
    assert "Left out" not in caplog.text


def test_a_retry_finds_the_stretch_that_failed(film: Path) -> None:
    rows: list[Row] = [{"video": "gone.mp4", "start": start, "end": start + 1} for start in range(2)]
    _captioned(film.parent, rows)
    film.rename(film.with_name("gone.mp4"))
    engine = ScriptedEngine(_say)
    retry(film.parent / "out.jsonl", engine=engine)
    assert [row["caption"] for row in read_rows_of(film.parent / "out.jsonl")] == ["from 0 to 24", "from 25 to 49"]


def test_a_plan_counts_what_is_in_the_stretches(film: Path) -> None:
    rows: list[Row] = [{"video": "film.mp4", "start": 0, "end": 2}, {"video": "film.mp4", "start": 9, "end": 10}]
    seen = survey([put_rows(film.parent / "in.jsonl", rows)], Settings(decoders=0))
    assert seen.total(lambda header: header.duration_seconds).value == 2.0
    assert seen.failures == {"row": 1}


def test_a_report_finds_the_film_of_a_stretch(film: Path) -> None:
    _captioned(film.parent, [{"video": "film.mp4#t=1,2"}, {"video": "film.mp4", "start": 9, "end": 10}])
    entries = [each for each in CaptionedData(film.parent / "out.jsonl").entries() if isinstance(each, Entry)]
    assert [entry.video.name for entry in entries] == ["film.mp4#t=1,2", "film.mp4#t=9,10"]
    assert [entry.video.path for entry in entries] == [film.resolve()] * 2
    assert [entry.failure for entry in entries] == [None, "row"]


def test_a_report_of_interleaved_text_finds_it_too(film: Path) -> None:
    text = "<__dj__video>a film<|__dj__eoc|>"
    _captioned(film.parent, [{"videos": ["film.mp4"], "text": text, "start": [1], "end": [2]}])
    [entry] = [each for each in CaptionedData(film.parent / "out.jsonl").entries() if isinstance(each, Entry)]
    assert (entry.video.name, entry.captions) == ("film.mp4#t=1,2", ("from 25 to 49",))


def test_a_whole_file_is_not_sent_in_the_place_of_a_stretch(film: Path) -> None:
    from flow import request

    clip = Clip(source=str(film), start_seconds=1.0)
    with pytest.raises(ClipError, match="is a stretch, and what is sent would be the whole file"):
        show(Work(requests=(request(clip=clip),)), "video", 1 << 20, FetchLimits())


def test_the_operator_never_looked_at_such_fields(film: Path) -> None:
    operator = VideoCaptioningFromVLMMapper()
    operator._engine = ScriptedEngine(lambda work: said(f"{work.frames.bounds}"))
    videos: dict[str, list[Any]] = {"videos": [[str(film)]], "text": ["<__dj__video>"]}
    batch = {**videos, "start": [5], "end": ["never"], "stretches": [[1]]}
    made = operator.process_batched(batch)
    assert made["text"][1].startswith("<__dj__video> Bounds(start=0.0, end=8.0")
    assert operator.failures == []
