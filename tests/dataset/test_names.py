"""What lies beside outputs: shared where it should be, and never by accident."""

import itertools
import json
from pathlib import Path

import pytest
from flow import put_clip, put_rows, read_rows_of

from reelscribe.config import Settings
from reelscribe.dataset.names import beside, failures_of
from reelscribe.dataset.sources import find_sources
from reelscribe.engines.fake import FakeEngine
from reelscribe.runners.local import run
from reelscribe.runners.status import ledger_of, lock_of

STEMS = (
    "a",
    "a.",
    ".a",
    "-a",
    "a-",
    "a_",
    "_a",
    "a.-",
    "a..b",
    "a-b",
    "a.b",
    "a.parquet",
    "a.jsonl",
    "a.data",
    "a.shards",
)
SUFFIXES = ("", ".jsonl", ".jsonl.gz", ".jsonl.zst", ".ndjson", ".JSONL", ".parquet", ".tar", ".tgz")


def test_no_two_outputs_share_a_list_of_failures() -> None:
    names = {f"{stem}{shard}{suffix}" for stem in STEMS for shard in ("", "-{shard}") for suffix in SUFFIXES}
    lists = {name: failures_of(Path("made") / name) for name in names}
    doubled = [pair for pair in itertools.combinations(names, 2) if lists[pair[0]] == lists[pair[1]]]
    assert doubled == []
    assert not set(lists) & {path.name for path in lists.values()}
    assert all(path.parent == Path("made") and ".failures." in path.name for path in lists.values())


@pytest.mark.parametrize(
    ("output", "listed"),
    [
        ("out.jsonl", "out.failures.jsonl"),
        ("out.parquet", "out.parquet.failures.jsonl"),
        ("out.jsonl.gz", "out.jsonl.gz.failures.jsonl"),
        ("out", "out.data.failures.jsonl"),
        ("part-{shard}.jsonl", "part.jsonl.shards.failures.jsonl"),
    ],
)
def test_lists_have_names_that_can_be_guessed(output: str, listed: str) -> None:
    assert failures_of(Path(output)) == Path(listed)


def test_names_that_differ_in_dots_and_dashes_share_nothing() -> None:
    for kind in ("ledger.sqlite", "ledger.lock", "run.json", "report.html"):
        made = [beside(Path(f"{stem}.jsonl"), kind) for stem in STEMS]
        assert len(set(made)) == len(made)


def test_formats_and_shards_of_one_name_share_a_ledger() -> None:
    for output in ("a.jsonl", "a.JSONL.gz", "a.parquet", "a-{shard}.tar", "a"):
        assert ledger_of(Path(output)) == Path("a.ledger.sqlite")
        assert lock_of(Path(output)) == Path("a.ledger.lock")


def test_outputs_side_by_side_leave_each_other_alone(tmp_path: Path) -> None:
    """Every other one has failures; whichever run comes last, each has its own list."""
    pytest.importorskip("pyarrow")
    put_clip(tmp_path / "a.mp4")
    good = put_rows(tmp_path / "good.jsonl", [{"video": "a.mp4"}])
    outputs = [
        ("out.jsonl", {}), ("out.parquet", {}), ("out.jsonl.gz", {}), ("out.tar", {}), ("out", {"output_format": "hf"}),
        ("out-{shard}.jsonl", {}), ("out-.jsonl", {}), (".out.jsonl", {}), ("out_{shard}.jsonl", {}),
    ]  # fmt: skip
    for turn in (0, 1):
        for number, (name, settings) in enumerate(outputs):
            bad = put_rows(tmp_path / f"{number}.jsonl", [{"video": f"gone-{number}.mp4"}])
            data = bad if number % 2 == turn else good
            run([data], tmp_path / name, Settings(engine="fake", decoders=0, **settings), engine=FakeEngine())  # type: ignore[arg-type]
        for number, (name, _) in enumerate(outputs):
            listed = failures_of(tmp_path / name)
            assert listed.exists() == (number % 2 == turn), name
            if listed.exists():
                assert [item["video"] for item in read_rows_of(listed)] == [f"gone-{number}.mp4"]
    assert len({ledger_of(tmp_path / name) for name, _ in outputs}) == 4


def test_lists_of_failures_are_no_shards(tmp_path: Path) -> None:
    for name in ("out_00000.jsonl", "out_00001.jsonl"):
        put_rows(tmp_path / name, [{"n": name}])
    put_rows(failures_of(tmp_path / "out_{shard}.jsonl"), [{"row": 0}])
    found = find_sources([str(tmp_path / "out_*.jsonl")])
    assert [Path(source.location).name for source in found] == ["out_00000.jsonl", "out_00001.jsonl"]
    [listed] = find_sources([str(tmp_path / "*.failures.jsonl")])
    assert json.loads(Path(listed.location).read_text()) == {"row": 0}
