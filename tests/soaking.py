"""A long run, killed over and over, and watched from outside: for a test in small and `benchmarks/soak.py` at length.

A thousandth of what could go wrong in hours shows when hours' work is done in minutes: a quick engine,
small clips, one in a hundred of them bad, and a `kill -9` of the process group every few seconds.
"""

import json
import os
import signal
import sqlite3
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import closing, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from commands import Run, children_of, ended
from decoders import gone
from flow import clip_bytes, put_rows

from reelscribe.runners.status import ledger_of
from reelscribe.values import Row

_CLIPS: Final = 50
"""Files. Rows name them in turn, so that none is decoded for two rows at once."""
_BAD_EVERY: Final = 100
_BAD: Final = {"missing.mp4": "missing", "text.mp4": "unreadable", "empty.mp4": "unreadable"}
_LOOK_SECONDS: Final = 0.2
_EXPECTED: Final = "Candidate 0: 4 frames of 64x64 over 1.0 s."
_CONFIG: Final = 'engine = "fake"\nprompt_key = "ask"\ndecoders = 2\n[model_params]\nclips_per_second = {rate}\n'


@dataclass(frozen=True, kw_only=True)
class Look:
    """One look at the running command."""

    life: int
    """Number of the process, from 0."""
    seconds: float
    """Since it was started."""
    outcomes: int
    """On disk."""
    memory_bytes: int
    """Resident, of the command."""
    open_files: int
    decoder_memory_bytes: int
    """Resident, of all its decoders."""
    decoders: int


@dataclass(frozen=True, kw_only=True)
class Report:
    """What came of it."""

    rows: int
    seconds: float
    kills: int
    decoders_left: int
    """Decoders that a killed command left behind for longer than they may take to notice."""
    lost: int
    """Rows that are not in the output."""
    doubled: int
    """Rows that are there more than once, or out of order."""
    wrong: int
    """Rows with something else than they should have."""
    made_twice: int
    """Captions that were in the ledger and were made again all the same."""
    looks: tuple[Look, ...]

    def of_life(self, name: str, life: int) -> list[int]:
        """What was seen in one life, once it was at work."""
        seen = [look for look in self.looks if look.life == life and look.decoders]
        return [getattr(look, name) for look in seen[len(seen) // 4 :]] or [0]

    def told(self) -> dict[str, Any]:
        """In numbers, ready for JSON: medians of the first life, and of the first and the last half of the last one."""
        last = self.looks[-1].life
        told = {name: value for name, value in asdict(self).items() if name != "looks"}
        for name in ("memory_bytes", "open_files", "decoder_memory_bytes", "decoders"):
            values = self.of_life(name, last)
            half = len(values) // 2
            told[name] = {
                "first_life": statistics.median(self.of_life(name, 0)),
                "last_life_first_half": statistics.median(values[: half or 1]),
                "last_life_last_half": statistics.median(values[half:]),
                "most": max(getattr(look, name) for look in self.looks),
            }
        return told


def soak(folder: Path, *, rows: int, kill_seconds: float, rate: float, killed_share: float = 0.7) -> Report:
    """Run, kill, and run again until the output is whole; then hold it against what it should be.

    Args:
        folder: to work in.
        rows: of the data set.
        kill_seconds: between kills; a life that has not come further than the one before is given more.
        rate: clips a second that the engine takes.
        killed_share: of the rows, after which nothing is killed any more, so that the last life is a long one.
    """
    (folder / "run.toml").write_text(_CONFIG.format(rate=rate))
    put_rows(folder / "in.jsonl", _rows(folder, rows))
    looks: list[Look] = []
    began, kills, left = time.monotonic(), 0, 0
    while True:
        with ended(Run(folder, "soak", "--config", "run.toml")) as run:
            before = run.outcomes()
            for look in _watch(run, kills):
                looks.append(look)
                if look.seconds > kill_seconds and before < look.outcomes < killed_share * rows:
                    break
            if run.process.poll() is not None:
                break
            decoders = children_of(run.process.pid)
            os.killpg(run.process.pid, signal.SIGKILL)
            run.end()
            kills += 1
            left += sum(not gone(decoder, 10.0) for decoder in decoders)
    told = run.end()
    if run.process.returncode != 3:
        raise AssertionError(f"the run ended with {run.process.returncode}: {told}")
    return Report(
        rows=rows,
        seconds=round(time.monotonic() - began, 1),
        kills=kills,
        decoders_left=left,
        looks=tuple(looks),
        **_held_against(folder, run.output, rows),
    )


def _rows(folder: Path, count: int) -> Iterator[Row]:
    for number in range(_CLIPS):
        (folder / f"{number}.mp4").write_bytes(clip_bytes())
    (folder / "text.mp4").write_text("this is no video")
    (folder / "empty.mp4").touch()
    for number in range(count):
        yield {"id": number, "video": _video(number), "text": f"row {number}", "ask": f"{number}?"}


def _video(number: int) -> str:
    if number % _BAD_EVERY == _BAD_EVERY // 2:
        return list(_BAD)[number // _BAD_EVERY % len(_BAD)]
    return f"{number % _CLIPS}.mp4"


def _watch(run: Run, life: int) -> Iterator[Look]:
    pause, began = threading.Event(), time.monotonic()
    while run.process.poll() is None:
        with suppress(OSError):  # it may end meanwhile
            decoders = children_of(run.process.pid)
            yield Look(
                life=life,
                seconds=time.monotonic() - began,
                outcomes=run.outcomes(),
                memory_bytes=_resident_bytes(run.process.pid),
                open_files=len(list(Path(f"/proc/{run.process.pid}/fd").iterdir())),
                decoder_memory_bytes=sum(map(_resident_bytes, decoders)),
                decoders=len(decoders),
            )
        pause.wait(_LOOK_SECONDS)


def _resident_bytes(pid: int) -> int:
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def _held_against(folder: Path, output: Path, count: int) -> dict[str, int]:
    ids: list[int] = []
    wrong = 0
    with output.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            number = row["id"]
            ids.append(number)
            failure = _BAD.get(_video(number), "")
            told = (row["text"], row["video"], row["caption"], row["caption_failure"].partition(":")[0])
            wrong += told != (f"row {number}", _video(number), None if failure else _EXPECTED, failure)
    with closing(sqlite3.connect(ledger_of(output))) as base:
        (twice,) = base.execute("SELECT count(*) FROM outcomes WHERE kind IS NULL AND tries > 1").fetchone()
        (outcomes,) = base.execute("SELECT count(*) FROM outcomes").fetchone()
    listed = (folder / "soak" / "out.failures.jsonl").read_text("utf-8").count("\n")
    wrong += abs(outcomes - count) + abs(listed - sum(_video(number) in _BAD for number in range(count)))
    return {
        "lost": len(set(range(count)) - set(ids)),
        "doubled": len(ids) - len(set(ids)) + (ids != sorted(ids)),
        "wrong": wrong,
        "made_twice": twice,
    }
