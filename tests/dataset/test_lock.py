"""One run at a time on one output."""

import errno
import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from reelscribe.dataset import lock
from reelscribe.dataset.lock import holder, locked
from reelscribe.errors import DatasetError

HOLD = """
import sys
from pathlib import Path
from reelscribe.dataset.lock import locked
with locked(Path(sys.argv[1]), Path("out.jsonl")):
    print("held", flush=True)
    sys.stdin.read()
"""


def _hold(file: Path) -> "subprocess.Popen[str]":
    """A process that holds a lock until its input ends."""
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(file)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    return process


def test_second_run_is_refused_and_told_who_holds_the_lock(tmp_path: Path) -> None:
    file = tmp_path / "out.lock"
    process = _hold(file)
    assert f"process {process.pid} on " in (holder(file) or "")
    words = rf"another run is writing to out\.jsonl \(process {process.pid} on .*\); wait for it, stop it, or choose"
    with pytest.raises(DatasetError, match=words), locked(file, Path("out.jsonl")):
        pytest.fail("the lock was had twice")
    process.communicate("")
    assert not file.exists()
    with locked(file, Path("out.jsonl")):
        assert holder(file)
    assert not file.exists()
    assert holder(file) is None


def test_killed_run_leaves_no_lock(tmp_path: Path) -> None:
    file = tmp_path / "out.lock"
    process = _hold(file)
    process.kill()
    process.wait()
    assert file.exists()
    assert holder(file) is None
    with locked(file, Path("out.jsonl")):
        assert f"process {os.getpid()} on " in (holder(file) or "")


def test_lock_that_its_holder_removed_in_the_meantime_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "out.lock"
    same = lock._is
    asked: list[Path] = []

    def gone_once(path: Path, opened: object) -> bool:
        if not asked:
            path.unlink()
        asked.append(path)
        return same(path, opened)  # type: ignore[arg-type]

    monkeypatch.setattr(lock, "_is", gone_once)
    with locked(file, Path("out.jsonl")):
        assert holder(file)
    assert len(asked) == 2


def test_folder_is_made_and_one_that_cannot_be_is_told(tmp_path: Path) -> None:
    with locked(tmp_path / "new" / "out.lock", Path("out.jsonl")):
        pass
    (tmp_path / "file").write_text("")
    words = r"cannot write to out\.jsonl: .*out\.lock cannot be made: "
    with pytest.raises(DatasetError, match=words), locked(tmp_path / "file" / "out.lock", Path("out.jsonl")):
        pass


def test_disk_that_has_no_locks_is_warned_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    monkeypatch.setattr("fcntl.flock", refuse)
    with locked(tmp_path / "out.lock", Path("out.jsonl")):
        assert holder(tmp_path / "out.lock") is None
    assert caplog.messages == [
        "out.jsonl cannot be locked (No locks available): see that no other run writes to it.",
    ]


def test_looking_at_a_lock_is_no_reason_to_refuse_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "out.lock"
    file.touch()
    with file.open("rb") as looking:
        fcntl.flock(looking, fcntl.LOCK_SH)
        monkeypatch.setattr("time.sleep", lambda _: fcntl.flock(looking, fcntl.LOCK_UN))
        with locked(file, Path("out.jsonl")):
            assert holder(file)
