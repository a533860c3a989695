"""Shards of a run, and what they are put together to: the bytes of a run without shards."""

import contextlib
import itertools
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from commands import Run, ended
from flow import put_clip, put_rows, read_rows_of

from reelscribe.config import Settings, Shard
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import DatasetError, EngineError
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.merge import merge
from reelscribe.runners.retry import retry
from reelscribe.runners.status import ledger_of, read_status
from reelscribe.values import Row
from reelscribe.video.prefetch import reading_headers

CONFIG = """
engine = "fake"
prompt_key = "ask"
num_captions = 2
decoders = 1
sidecar = "txt"
overwrite_sidecars = true
[model_params]
clips_per_second = {rate}
"""
ROWS = 90


def _rows(folder: Path) -> Iterator[Row]:
    """Rows of all kinds: of several videos, of none, broken, missing, and doubles. Those of the first 64 are plain."""
    (folder / "text.mp4").write_text("this is no video")
    for number in range(ROWS):
        same = number % 80
        clip, other = (put_clip(folder / f"{same}{letter}.mp4").name for letter in "ab")
        videos = [[clip], [other, "text.mp4", clip], ["gone.mp4"], [], [other]][number % 5]
        yield {"id": number, "videos": videos, "ask": f"row {same}"}


@pytest.fixture
def data(tmp_path: Path) -> Path:
    file = put_rows(tmp_path / "in.jsonl", _rows(tmp_path))
    file.write_bytes(file.read_bytes() + b"no row\n")
    return file


def _run(data: Path, output: Path, engine: Any = None, **settings: Any) -> RunSummary:
    made = Settings(engine="fake", decoders=0, prompt_key="ask", **settings)
    return run([data], output, made, engine=engine or FakeEngine())


def _shards(data: Path, of: int = 3, suffix: str = "jsonl", **settings: Any) -> list[Path]:
    outputs = [data.parent / f"part-{number}.{suffix}" for number in range(1, of + 1)]
    for number, output in enumerate(outputs, 1):
        _run(data, output, shard=f"{number}/{of}", **settings)
    return outputs


def test_merged_shards_of_real_runs_are_the_bytes_of_a_run_without(tmp_path: Path, data: Path) -> None:
    (tmp_path / "quick.toml").write_text(CONFIG.format(rate=1e6))
    (tmp_path / "slow.toml").write_text(CONFIG.format(rate=30))
    whole = Run(tmp_path, "whole", "--config", "quick.toml")
    whole.end()
    sidecars = {path: path.read_bytes() for path in tmp_path.glob("*.txt")}
    with ended(Run(tmp_path, "one", "--config", "slow.toml", "--shard", "1/3")) as first:
        first.wait_until(lambda: first.outcomes() > 5)
        first.kill(children_first=False)
    words = [("one", "1/3"), ("two", "2/3"), ("three", "3/3")]
    parts = [Run(tmp_path, name, "--config", "quick.toml", "--shard", shard) for name, shard in words]
    for part in parts:
        with ended(part):
            assert "failures (" in part.end()
    ids = [_ids(part.output) for part in parts]
    assert sorted(itertools.chain(*ids), key=str) == sorted([*range(ROWS), None], key=str)
    assert min(map(len, ids)) > ROWS // 6
    for path in sidecars:
        path.unlink()
    outputs = [str(part.output) for part in parts]
    typed = [sys.executable, "-m", "reelscribe.cli", "merge", "merged.jsonl", *reversed(outputs)]
    done = subprocess.run(typed, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 3, done.stderr
    assert f"for {ROWS + 1} rows in merged.jsonl (" in done.stderr
    for name in ("jsonl", "failures.jsonl"):
        assert (tmp_path / f"merged.{name}").read_bytes() == (tmp_path / "whole" / f"out.{name}").read_bytes()
    assert {path: path.read_bytes() for path in tmp_path.glob("*.txt")} == sidecars


def test_the_layout_is_that_of_the_whole_data_set(tmp_path: Path) -> None:
    """It is told by the first rows of all, though this shard may have none of those."""
    clips = [put_clip(tmp_path / f"{number}.mp4").name for number in range(22)]
    rows = [{"text": f"<__dj__video>{clip}", "videos": [clip], "ask": ""} for clip in clips[:2]]
    rows += [{"text": clip, "videos": [clip], "ask": ""} for clip in clips[2:]]
    data = put_rows(tmp_path / "in.jsonl", rows)
    _run(data, tmp_path / "whole.jsonl")
    merge(tmp_path / "merged.jsonl", _shards(data, 8))
    assert (tmp_path / "merged.jsonl").read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_formats_with_types_come_out_the_same(tmp_path: Path, data: Path) -> None:
    pytest.importorskip("pyarrow")
    _run(data, tmp_path / "whole.parquet")
    merge(tmp_path / "merged.parquet", _shards(data, suffix="parquet"))
    assert (tmp_path / "merged.parquet").read_bytes() == (tmp_path / "whole.parquet").read_bytes()


def test_doubles_share_a_shard_and_new_rows_move_no_other(tmp_path: Path, data: Path) -> None:
    before = [_ids(output) for output in _shards(data)]
    data.write_bytes(b'{"id": "new", "videos": ["0a.mp4"], "ask": "new"}\n' + data.read_bytes())
    asked: list[str] = []

    def reply(prepared: Any, _: int) -> str:
        asked.append(prepared.requests[0].prompt)
        return "text"

    for number in (1, 2, 3):
        _run(data, tmp_path / f"part-{number}.jsonl", FakeEngine(reply), shard=f"{number}/3")
    assert asked == ["new"]
    after = [_ids(tmp_path / f"part-{number}.jsonl") for number in (1, 2, 3)]
    for number in range(ROWS):
        if number % 5 != 3:  # those without a video go by their place
            assert [number in ids for ids in before] == [number in ids for ids in after]
        if number < 10 and number % 5 != 3:
            assert [number in ids for ids in before] == [number + 80 in ids for ids in before]


def _ids(output: Path) -> list[Any]:
    return [row.get("id") for row in read_rows_of(output)]


def test_merging_again_takes_what_was_tried_again(tmp_path: Path, data: Path) -> None:
    shards = _shards(data)
    merged = tmp_path / "merged.jsonl"
    failed = sum(merge(merged, shards).failures.values())
    put_clip(tmp_path / "text.mp4")
    put_clip(tmp_path / "gone.mp4")
    with pytest.raises(DatasetError, match="is in no shard's ledger: its video, the inputs, the paths or the model's"):
        merge(merged, shards)
    for shard in shards:
        retry(shard, engine=FakeEngine())
    summary = merge(merged, shards)
    assert (failed > 20, summary.failures, summary.known) == (True, {"row": 1}, summary.captions)
    _run(data, tmp_path / "whole.jsonl")
    assert merged.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()
    assert (read_status(merged).state, read_status(merged).total) == ("finished", ROWS + 1)


def test_a_merged_run_goes_on_as_one_without_shards(tmp_path: Path, data: Path) -> None:
    merged = tmp_path / "merged.jsonl"
    merge(merged, _shards(data))
    summary = _run(data, merged, FakeEngine(break_after=0))
    assert summary.known == summary.captions + sum(summary.failures.values()) - 1  # the line that is no row


def test_what_is_no_whole_run_is_refused(tmp_path: Path, data: Path) -> None:
    one, two, three = _shards(data)
    merged = tmp_path / "merged.jsonl"
    with pytest.raises(DatasetError, match="of the shards 1/3, 3/3 there is no output; name those of all shards"):
        merge(merged, [two])
    with pytest.raises(DatasetError, match=r"shard 2/3 is there twice, in .*part-2.jsonl and in .*part-2.jsonl"):
        merge(merged, [one, two, two])
    with pytest.raises(DatasetError, match="there is nothing to merge"):
        merge(merged, [])
    with pytest.raises(DatasetError, match=r"no run has begun"):
        merge(merged, [one, two, tmp_path / "part-9.jsonl"])
    with pytest.raises(DatasetError, match=r"cannot write to .*part-3.jsonl: it has the name of one of the shards"):
        merge(three, [one, two, three])
    _run(data, tmp_path / "whole.jsonl")
    with pytest.raises(DatasetError, match=r"whole.jsonl is not the output of a shard: its run had no --shard"):
        merge(merged, [one, two, tmp_path / "whole.jsonl"])
    _run(data, tmp_path / "of-two.jsonl", shard="2/2")
    with pytest.raises(DatasetError, match=r"of-two.jsonl is shard 2/2, but .*part-1.jsonl is shard 1/3"):
        merge(merged, [one, tmp_path / "of-two.jsonl"])
    _run(data, three, shard="3/3", fps=1.0)
    with pytest.raises(DatasetError, match=r"part-1.jsonl and .*part-3.jsonl differ in fps \(2.0 and 1.0\)"):
        merge(merged, [one, two, three])
    with pytest.raises(EngineError):
        _run(data, three, FakeEngine(break_after=2), shard="3/3", seed=3)
    with pytest.raises(DatasetError, match=r"shard 3/3 in .*part-3.jsonl is not finished \(the fake engine breaks"):
        merge(merged, [one, two, three])
    assert not merged.exists()
    assert not ledger_of(merged).exists()


def test_a_shard_does_not_take_the_place_of_another(tmp_path: Path, data: Path) -> None:
    one, *_ = _shards(data)
    before = one.read_bytes()
    with pytest.raises(DatasetError, match=r"the last run on .* was shard 1/3, and this is 2/3; name another"):
        _run(data, one, shard="2/3")
    assert one.read_bytes() == before
    _run(data, one, shard="1/3")


def test_shards_are_told_by_lots() -> None:
    shards = [Shard.parse(f"{number}/3") for number in (1, 2, 3)]
    assert [[shard.holds(lot) for shard in shards] for lot in (0, 1, 5)] == [
        [True, False, False],
        [False, True, False],
        [False, False, True],
    ]


@pytest.mark.parametrize("settings", [{}, {"nested": True}, {"split": "scenes"}], ids=["clips", "nested", "scenes"])
def test_a_shard_splits_its_own_films_alone(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, settings: dict[str, Any]
) -> None:
    settings = {"split": "0.4", "min_seconds": 0.1, **settings}
    films = [put_clip(tmp_path / f"{number}.mp4").name for number in range(9)]
    rows: list[Row] = [{"video": film, "ask": film} for film in films]
    rows += [{"videos": films[:3]}, {"video": films[4], "start": 0.2, "end": 0.7}, {"video": "gone.mp4"}, {"id": 1}]
    rows += [{"video": f"{number}.gone.mp4"} for number in range(5)] + [{"video": films[0], "start": "never"}]
    data = put_rows(tmp_path / "in.jsonl", rows)
    data.write_bytes(data.read_bytes() + b"no row\n")
    _run(data, tmp_path / "whole.jsonl", **settings)
    looked: list[list[str]] = []

    @contextlib.contextmanager
    def noting(settings: Settings) -> Iterator[Any]:
        looked.append(names := [])
        with reading_headers(settings) as read:

            def note(film: Any) -> Any:
                names.append(Path(film.source).name)
                return read(film)

            yield note

    monkeypatch.setattr("reelscribe.dataset.splitting.reading_headers", noting)
    outputs = _shards(data, **settings)
    assert len(looked) == 3
    assert [set(one) & set(other) for one, other in itertools.combinations(looked, 2)] == [set()] * 3
    assert set().union(*looked) == {*films, "gone.mp4", *(f"{number}.gone.mp4" for number in range(5))}
    whole = [path.read_text("utf-8") for path in (tmp_path / "whole.jsonl", tmp_path / "whole.failures.jsonl")]
    parts = [line for output in outputs for line in output.read_text("utf-8").splitlines()]
    assert sorted(parts) == sorted(whole[0].splitlines())
    failed = [row["row"] for output in outputs for row in read_rows_of(output.with_suffix(".failures.jsonl"))]
    assert len(failed) == len(set(failed)) == len(whole[1].splitlines())
    merge(tmp_path / "merged.jsonl", outputs)
    merged = tmp_path / "merged.jsonl", tmp_path / "merged.failures.jsonl"
    assert [path.read_text("utf-8") for path in merged] == whole
