"""The stage of a Ray data set, called as an actor calls it, but without Ray: batches in and out."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from flow import ScriptedEngine, put_clip, said

from reelscribe import pipeline
from reelscribe.config import Settings
from reelscribe.dataset.formats import Record
from reelscribe.errors import DatasetError, EngineError, SettingsError
from reelscribe.integrations.ray import CaptionBatches
from reelscribe.integrations.tables import caption_table
from reelscribe.runners.stream import Batch
from reelscribe.values import Failure, Generation, RowResult, Work


@pytest.fixture
def clips(tmp_path: Path) -> Path:
    for name in ("a", "b"):
        put_clip(tmp_path / f"{name}.mp4")
    (tmp_path / "text.mp4").write_text("this is no video")
    return tmp_path


def _stage(root: Path, engine: Any = None, **settings: Any) -> CaptionBatches:
    engine = engine or ScriptedEngine(lambda item: said(f"of {item.requests[0].clip.name}"), batch_size=2)
    return CaptionBatches(Settings(engine="fake", decoders=0, **settings), str(root), engine=engine)


def test_rows_come_back_with_captions_and_their_own_types(clips: Path) -> None:
    batch = pa.table(
        {
            "id": pa.array([2**62, 1, 2, 3], pa.int64()),
            "video": ["a.mp4", "text.mp4", None, "b.mp4"],
            "at": pa.array([1, None, 3, 4], pa.timestamp("ns")),
        }
    )
    made = _stage(clips).caption(batch)
    assert made.select(batch.column_names).equals(batch)
    assert made["caption"].to_pylist() == ["of a.mp4", None, None, "of b.mp4"]
    failures = made["caption_failure"].to_pylist()
    assert failures[1].startswith("unreadable: text.mp4 cannot be opened as a video")
    assert [bool(told) for told in failures] == [False, True, False, False]


def test_a_stage_splits_no_videos(clips: Path) -> None:
    with pytest.raises(SettingsError, match="a stage splits no videos"):
        _stage(clips, split="2")


def test_interleaved_rows_grow(clips: Path) -> None:
    texts = ["<__dj__video>x<|__dj__eoc|>", "words", "<__dj__video>y"]
    batch = pa.table({"text": texts, "videos": [["a.mp4"], [], ["text.mp4"]]})
    made = _stage(clips).caption(batch)
    assert made["text"].to_pylist() == [texts[0], "<__dj__video> of a.mp4 <|__dj__eoc|>", *texts[1:]]
    failures = made["caption_failure"].to_pylist()
    assert failures[:3] == [[], [], []]
    assert failures[3][0].startswith("unreadable: text.mp4 cannot be opened as a video")
    assert _stage(clips, columns="text").caption(batch).column_names == ["text", "videos"]


def test_a_second_pass_has_another_name(clips: Path) -> None:
    """What the first said is not lost."""
    first = _stage(clips).caption(pa.table({"video": ["a.mp4", "text.mp4"]}))
    with pytest.raises(SettingsError, match=r"have a column 'caption' and .*'caption_failure' already"):
        _stage(clips).caption(first)
    second = _stage(clips, tasks={"again": {}}).caption(first)
    assert second.select(first.column_names).equals(first)
    assert second["again"].equals(first["caption"])


def test_each_task_has_its_columns(clips: Path) -> None:
    schema = {"type": "object", "properties": {"what": {"type": "string"}}}
    tasks = {"form": {"prompt": "What?", "schema": schema}, "short": {"prompt": "Shorten {form}", "after": "form"}}

    def answer(work: Work) -> Any:
        [asked] = work.requests
        return said('{"what": "a sheep"}' if asked.id.task == "form" else asked.prompt)

    stage = _stage(clips, ScriptedEngine(answer), tasks=tasks, columns="text,failure")
    for videos in (["text.mp4", None], ["a.mp4", "b.mp4"]):  # what came first decides about no type
        made = stage.caption(pa.table({"video": pa.array(videos, pa.string()), "id": [1, 2]}))
        assert made.column_names == ["video", "id", "form", "form_failure", "short", "short_failure"]
        assert made.schema.field("form").type == pa.struct([("what", pa.string())])
    assert made["form"].to_pylist() == [{"what": "a sheep"}] * 2
    assert made["short"].to_pylist() == ['Shorten {"what": "a sheep"}'] * 2


def test_column_that_is_there_is_never_lost(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where it comes with a later batch of a stream, whose first rows have none such."""
    monkeypatch.setattr(pipeline, "_PEEK_ROWS", 1)
    later = pa.table({"video": ["b.mp4"], "caption": ["mine"]})
    stage = _stage(clips)
    with pytest.raises(SettingsError, match="have a column 'caption' already, which would be lost"):
        stage.caption(later)
    assert stage.caption(pa.table({"video": ["a.mp4"]}))["caption"].to_pylist() == ["of a.mp4"]
    made = caption_table(
        later,
        stage._settings,
        clips,
        lambda records: stage._stream.send([Record(row={"video": "a.mp4"}, root=clips), *records])[1:],
    )
    assert made["caption"].to_pylist() == ["mine"]
    assert made["caption_failure"][0].as_py().startswith("row: the row has a column 'caption' already, which the first")


def test_empty_batches_and_batches_without_videos(clips: Path) -> None:
    stage = _stage(clips)
    assert stage.caption(pa.table({"video": pa.array([], pa.string())})).num_rows == 0
    assert stage.caption(pa.table({"video": pa.array([None, None], pa.string())}))["caption"].to_pylist() == [
        None,
        None,
    ]


def test_batches_of_several_callers_are_one_stream(clips: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A batch that comes while the rows of another are pulled joins them."""
    monkeypatch.setattr(pipeline, "_PEEK_ROWS", 1)
    late: Batch[Record, RowResult] = Batch(items=[Record(row={"video": "b.mp4"}, root=clips)] * 2)
    streams: list[int] = []

    class Greedy:
        info = replace(
            ScriptedEngine(lambda _: said("text")).info, wants_frames=False
        )  # so that nothing is pulled ahead

        def generate(self, requests: Iterator[Work]) -> Iterator[Generation | Failure]:
            asked = [next(requests)]
            stage._stream._waiting.put(late)
            asked += requests
            streams.append(len(asked))
            yield from (
                Generation(id=item.requests[0].id, candidates=said("text"), prompt_tokens=None) for item in asked
            )

    stage = _stage(clips, Greedy())
    assert stage.caption(pa.table({"video": ["a.mp4", "b.mp4", "a.mp4"]}))["caption"].to_pylist() == ["text"] * 3
    late.done.result()
    assert len(late.results) == 2
    assert streams == [5]


def test_an_engine_that_breaks_fails_the_batches_under_way_and_no_other(clips: Path) -> None:
    calls = 0

    def answer(_: Work) -> Any:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise EngineError("it broke")
        return said("text")

    stage = _stage(clips, ScriptedEngine(answer))
    batch = pa.table({"video": ["a.mp4", "b.mp4"]})
    with pytest.raises(EngineError, match="it broke"):
        stage.caption(batch)
    assert stage.caption(batch)["caption"].to_pylist() == ["text", "text"]


def test_columns_of_one_name_are_refused(clips: Path) -> None:
    batch = pa.Table.from_arrays([pa.array(["a.mp4"]), pa.array(["b.mp4"])], names=["video", "video"])
    with pytest.raises(DatasetError, match="the batch has several columns called video; rename them"):
        _stage(clips).caption(batch)


def test_options_for_ray() -> None:
    assert CaptionBatches.ray_options(num_gpus=0, concurrency=(1, 8)) == {
        "batch_format": "pyarrow",
        "batch_size": 64,
        "num_gpus": 0,
        "concurrency": (1, 8),
    }
