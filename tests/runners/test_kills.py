"""The real command, killed and stopped at all kinds of moments: in the end, the bytes of a run left in peace."""

import os
import random
import signal
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from commands import Run, ended
from flow import put_clip, put_rows

from reelscribe.dataset.lock import holder
from reelscribe.runners.status import ledger_of, lock_of, read_status
from reelscribe.values import Row

if not Path("/proc/self/task").is_dir():
    pytest.skip("the processes of a run are found in /proc", allow_module_level=True)

ROWS = 400
CONFIG = """
engine = "fake"
prompt_key = "ask"
num_captions = 2
decoders = 2
sidecar = "txt"
[model_params]
clips_per_second = {rate}
"""


def _rows(folder: Path, count: int) -> Iterator[Row]:
    """Rows of all kinds, with doubles, rows without a video, failures, and rows of several videos."""
    for name in ("a", "b", "c"):
        put_clip(folder / f"{name}.mp4")
    (folder / "text.mp4").write_text("this is no video")
    for number in range(count):
        videos = [["a.mp4"], ["b.mp4", "text.mp4", "c.mp4"], ["gone.mp4"], [], ["a.mp4", "b.mp4"]][number % 5]
        yield {"id": number, "videos": videos, "ask": f"row {number % (count - count // 10)}"}


def _data(folder: Path, count: int, rate: float = 150) -> Path:
    data = put_rows(folder / "in.jsonl", _rows(folder, count))
    data.write_bytes(data.read_bytes() + b"no row\n")
    (folder / "run.toml").write_text(CONFIG.format(rate=rate))
    return data


def _taken(folder: Path, *names: str) -> dict[str, bytes]:
    """What a run made. Its sidecars are taken away: they would be in the way of a run on another output."""
    made = {path: path.read_bytes() for path in [*folder.parent.glob("?.txt"), *(folder / name for name in names)]}
    for path in folder.parent.glob("?.txt"):
        path.unlink()
    return {path.name: content for path, content in made.items()}


OUTPUTS = ("out.jsonl", "out.failures.jsonl")


def test_fifty_kills_at_random_moments_change_nothing(tmp_path: Path) -> None:
    _data(tmp_path, ROWS, rate=60)
    words = ("--config", "run.toml")
    whole = Run(tmp_path, "whole", *words)
    assert f"for {ROWS + 1} rows in whole/out.jsonl" in whole.end()
    expected = _taken(tmp_path / "whole", *OUTPUTS)
    assert expected.keys() >= {"a.txt", "b.txt", "c.txt"}
    chance = random.Random(7)
    kills = 0
    while kills < 50:
        with ended(Run(tmp_path, "again", *words)) as run:
            moments: dict[str, Callable[[], bool]] = {
                "lock": lock_of(run.output).exists,
                "ledger": ledger_of(run.output).exists,
                "journal": Path(f"{ledger_of(run.output)}-journal").exists,
                "partial": run.partial.exists,
            }
            before = run.outcomes()
            moment = chance.choice([*moments, "rows", "rows", "rows", "rows", "rows", "commit"])
            lines = before * 5 // 7 + chance.randrange(1, 30)  # seven outcomes for each five rows
            run.wait_until(
                {
                    **moments,
                    "rows": lambda run=run, lines=lines: run.lines() >= lines,  # type: ignore[misc]
                    "commit": lambda run=run, before=before: run.outcomes() > before,  # type: ignore[misc]
                }[moment]
            )
            if run.process.poll() is not None:
                break
            run.kill(children_first=chance.random() < 0.5)
            kills += 1
            assert not run.output.exists()
            assert holder(lock_of(run.output)) is None
            assert run.outcomes() >= before, "what was on disk is there"
    assert kills == 50, "the run came to its end before it was killed so often: give it more rows"
    last = Run(tmp_path, "again", *words)
    told = last.end()
    assert last.process.returncode == 3, told
    assert "taken from the ledger" in told
    assert _taken(tmp_path / "again", *OUTPUTS) == expected
    assert read_status(last.output).rows == ROWS + 1
    assert not list((tmp_path / "again").glob("*.partial"))


@pytest.mark.transformers
def test_kills_change_nothing_with_the_built_in_model(tmp_path: Path) -> None:
    put_rows(tmp_path / "in.jsonl", _rows(tmp_path, 10))
    words = ("--model", "shapes", "--device", "cpu", "--decoders", "1", "--batch-size", "2", "--sampling", "seed=3")
    whole = Run(tmp_path, "whole", *words)
    whole.end()
    expected = _taken(tmp_path / "whole", *OUTPUTS)
    for more in (1, 3):
        with ended(Run(tmp_path, "again", *words)) as run:
            before = run.outcomes()
            run.wait_until(lambda run=run, most=before + more: run.outcomes() >= most)  # type: ignore[misc]
            run.kill(children_first=more == 1)
    last = Run(tmp_path, "again", *words)
    told = last.end()
    assert last.process.returncode == whole.process.returncode == 3, told
    assert "taken from the ledger" in told
    assert _taken(tmp_path / "again", *OUTPUTS) == expected


# Signals


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signal_lets_what_is_in_flight_be_finished_and_recorded(tmp_path: Path, number: signal.Signals) -> None:
    _data(tmp_path, 200)
    words = ("--config", "run.toml")
    with ended(Run(tmp_path, "again", *words)) as run:
        run.wait_until(lambda: run.lines() >= 5)
        os.killpg(run.process.pid, number)
        first, last = run.end().strip().splitlines()
        assert run.process.returncode == 128 + number
    assert first.startswith("reelscribe: finishing ")
    assert first.endswith("; once more stops at once.")
    assert f"reelscribe: stopped by {number.name} after " in last
    assert last.endswith(" rows; what was made is kept, and the same command goes on from there.")
    assert not run.output.exists()
    status = read_status(run.output)
    assert status.state == "broken off"
    assert status.rows == run.lines() < 200
    Run(tmp_path, "again", *words).end()
    stopped = _taken(tmp_path / "again", *OUTPUTS)
    Run(tmp_path, "whole", *words).end()
    assert stopped == _taken(tmp_path / "whole", *OUTPUTS)


def test_second_signal_stops_at_once_and_what_is_finished_is_kept(tmp_path: Path) -> None:
    """The engine takes two minutes for the first clip; nobody waits for it."""
    data = _data(tmp_path, 5, rate=1 / 120)
    data.write_bytes(b'{"video": "text.mp4"}\n' + data.read_bytes())
    with ended(Run(tmp_path, "again", "--config", "run.toml")) as run:
        assert run.process.stderr is not None
        run.wait_until(lambda: run.outcomes() >= 1)  # that of the first row, which the engine never sees
        os.killpg(run.process.pid, signal.SIGINT)
        while "once more stops at once" not in run.process.stderr.readline():
            assert run.process.poll() is None
        os.killpg(run.process.pid, signal.SIGINT)
        assert run.end() == "reelscribe: stopped; what was made is kept.\n"
        assert run.process.returncode == 130
        assert run.outcomes() >= 1
        assert holder(lock_of(run.output)) is None


def test_signal_before_anything_is_in_flight_stops_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "config.toml")
    _data(tmp_path, 5)
    with ended(Run(tmp_path, "again", "--config", "config.toml")) as run:
        with (tmp_path / "config.toml").open("wb"):  # the command waits for what is written here
            os.killpg(run.process.pid, signal.SIGINT)
            told = run.end()
        assert (run.process.returncode, told) == (130, "reelscribe: stopped; what was made is kept.\n")


# Trouble with the disk


def test_full_disk_stops_the_run_and_loses_nothing(tmp_path: Path) -> None:
    """A limit on the size of files stands in for the disk: the same call fails."""
    _data(tmp_path, ROWS, rate=10_000)
    words = ("--config", "run.toml")
    kept = 0
    for limit_kib in (64, 128, 192):
        run = Run(tmp_path, "again", *words, limit_kib=limit_kib)
        told = run.end()
        assert run.process.returncode == 2, told
        assert "cannot write to again/out.jsonl: File too large." in told or "goes on" in told
        assert not run.output.exists()
        assert run.outcomes() >= kept
        kept = run.outcomes()
    assert kept
    Run(tmp_path, "again", *words).end()
    made = _taken(tmp_path / "again", *OUTPUTS)
    Run(tmp_path, "whole", *words).end()
    assert made == _taken(tmp_path / "whole", *OUTPUTS)
