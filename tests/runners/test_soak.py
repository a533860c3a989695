"""An hour in a minute: nothing lost, nothing doubled, and no more memory or open files than at the start."""

from pathlib import Path

import pytest
from soaking import soak

if not Path("/proc/self/task").is_dir():
    pytest.skip("the processes of a run are found in /proc", allow_module_level=True)

ROWS, RATE = 3000, 250.0
"""Twelve seconds of work on any machine that is fast enough, so that there is time to kill it."""
MEMORY_BYTES = 24 << 20
"""Growth that is let pass: SQLite's cache fills up to 32 MiB, with some 8 KiB for each row up to there."""


@pytest.mark.soak
def test_long_run_that_is_killed_over_and_over(tmp_path: Path) -> None:
    report = soak(tmp_path, rows=ROWS, kill_seconds=3.0, rate=RATE)
    assert (report.lost, report.doubled, report.wrong, report.made_twice) == (0, 0, 0, 0)
    assert report.decoders_left == 0
    assert report.kills >= 2, "it came to its end before it was killed: give it more rows"
    told = report.told()
    memory, files = told["memory_bytes"], told["open_files"]
    assert memory["last_life_last_half"] < memory["first_life"] + MEMORY_BYTES
    assert files["last_life_last_half"] <= files["last_life_first_half"] + 2
    assert files["most"] <= files["first_life"] + 10
    assert told["decoders"]["most"] <= 2
