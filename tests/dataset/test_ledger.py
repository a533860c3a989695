"""The ledger: outcomes and runs, on disk soon, and told again as they were."""

import os
import sqlite3
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, named, put_clip, request, said

from reelscribe.config import Settings
from reelscribe.dataset import ledger_file
from reelscribe.dataset.ledger import Ledger
from reelscribe.dataset.ledger_file import read_answers, read_runs, set_aside
from reelscribe.dataset.remake import Remake
from reelscribe.errors import FAILURE_KINDS, RETRIED_KINDS, DatasetError, FailureKind
from reelscribe.outcomes import choose
from reelscribe.values import Answer, Candidate, Caption, Clip, Failure, Outcome, Request

INFO = ScriptedEngine(lambda _: said("text")).info


def _begin(ledger: Ledger, **settings: Any) -> Ledger:
    ledger.begin(Settings(**settings), INFO, output="out.jsonl", inputs=["in.jsonl"], total=5)
    return ledger


def _answer(candidates: tuple[Candidate, ...], meta: dict[str, Any]) -> Answer:
    return Answer(id=named("0"), candidates=candidates, meta=meta)


def _caption(key: str = "0", text: str = "half a pair \ud83d", **meta: Any) -> Caption:
    candidates = (
        Candidate(text="one", stop_reason="stop", num_tokens=None, scores={"clip": 0.25}),
        Candidate(text=text, stop_reason="length", num_tokens=3),
    )
    told = {"times": [0.1, 1e-9, 1 / 3], "none": None, "deep": {"a": [1, {"b": "ü"}]}}
    answer = _answer(candidates, {**told, "faults": ["loop", ""], "seed": 3, "tries": 1, **meta})
    return replace(choose(request(key=key), answer), id=named(key))


def _failure(kind: FailureKind = "decode", key: str = "0") -> Failure:
    return Failure(id=named(key), video=request().clip.name, kind=kind, message="it says why")


def _make(ledger: Ledger, outcome: Outcome, **changes: Any) -> Request:
    """Let a ledger see how a request is made; returns what it lets be asked."""
    asked = ledger.look_up(request(**changes))
    assert isinstance(asked, Request)
    ledger.record(outcome)
    return asked


def _look_up(file: Path, again: frozenset[FailureKind] = frozenset(), **settings: Any) -> Outcome | Request:
    """What a later run finds."""
    with Ledger(file, remake=Remake(kinds=again)) as ledger:
        return _begin(ledger, **settings).look_up(request())


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "out.ledger.sqlite"


# Outcomes


def _faulty(faults: list[str], tries: int = 1) -> Caption:
    return _caption(faults=faults, tries=tries)


@pytest.mark.parametrize(
    ("faults", "tries", "holds"),
    [(["", ""], 1, True), (["loop", ""], 1, True), (["loop", "cut_off echo"], 1, False), (["loop", "echo"], 2, True)],
)
def test_faulty_caption_is_tried_again_once_where_the_settings_say_so(
    file: Path, faults: list[str], tries: int, holds: bool
) -> None:
    caption = _faulty(faults, tries)
    with Ledger(file) as ledger:
        _make(_begin(ledger), caption)
    assert _look_up(file) == caption
    assert _look_up(file, retry_flagged=True) == (caption if holds else request())
    with Ledger(file) as ledger:
        assert (
            _make(
                _begin(ledger, retry_flagged=True, prompt="Who?"), replace(caption, id=named("1")), key="1", prompt="?"
            ).prompt
            == "?"
        )
        assert ledger.look_up(request(prompt="?")) == caption, "not again in the run that made it"


def test_failure_never_takes_the_place_of_a_caption(file: Path) -> None:
    with Ledger(file) as ledger:
        _make(_begin(ledger), _faulty(["loop"]))
    with Ledger(file) as ledger:
        _make(_begin(ledger, retry_flagged=True), _failure("engine"))
    assert _look_up(file) == _faulty(["loop"])
    with Ledger(file) as ledger:
        _make(_begin(ledger, retry_flagged=True), _faulty(["loop"], 2))
    assert _look_up(file, retry_flagged=True) == _faulty(["loop"], 2)


def test_caption_is_told_again_as_it_was_under_the_key_of_the_new_place(file: Path) -> None:
    with Ledger(file) as ledger:
        assert _make(_begin(ledger), _caption()) == request()
        assert ledger.look_up(request(key="later")) == replace(_caption(), id=named("later"))
    assert _look_up(file) == _caption()
    with Ledger(file) as ledger:
        assert isinstance(_begin(ledger).look_up(request(prompt="Who?")), Request)


@pytest.mark.parametrize("kind", FAILURE_KINDS)
def test_failure_is_known_unless_it_says_more_of_the_moment_which_is_tried_thrice(
    file: Path, kind: FailureKind
) -> None:
    for _ in range(3):
        with Ledger(file) as ledger:
            found = _begin(ledger).look_up(request())
            if isinstance(found, Request):
                ledger.record(_failure(kind))
            assert ledger.look_up(request()) == _failure(kind), "known to the run that saw it"
    with Ledger(file) as ledger:
        assert _begin(ledger).look_up(request()) == _failure(kind)
    with sqlite3.connect(file) as base:
        assert base.execute("SELECT tries FROM outcomes").fetchall() == [(3 if kind in RETRIED_KINDS else 1,)]


def test_failure_is_tried_again_where_limits_are_others_and_a_caption_is_not(file: Path) -> None:
    with Ledger(file) as ledger:
        _make(_begin(ledger), _failure("too_large"))
        _make(ledger, _caption("1"), key="1", prompt="Who?")
    assert _look_up(file) == _failure("too_large")
    assert _look_up(file, decoder_bytes=1 << 40) == request()
    with Ledger(file) as ledger:
        assert _begin(ledger, decoder_bytes=5).look_up(request(key="1", prompt="Who?")) == _caption("1")


def test_named_kinds_are_tried_again_once(file: Path) -> None:
    with Ledger(file) as ledger:
        _make(_begin(ledger), _failure("decode"))
    assert _look_up(file, again=frozenset({"missing"})) == _failure("decode")
    with Ledger(file, remake=Remake(kinds=frozenset({"decode"}))) as ledger:
        assert _make(_begin(ledger), _failure("decode")) == request()
        assert ledger.look_up(request()) == _failure("decode")
    assert _look_up(file) == _failure("decode")


def test_doubles_of_one_clip_in_a_run_are_one_try(file: Path) -> None:
    for tried in (1, 2, 3):
        with Ledger(file) as ledger:
            _begin(ledger)
            asked = [ledger.look_up(request(key=key)) for key in "abc"]
            assert all(isinstance(item, Request) for item in asked)
            for key in "abc":
                ledger.record(_failure("download", key))
        with sqlite3.connect(file) as base:
            assert base.execute("SELECT tries FROM outcomes").fetchall() == [(tried,)]
    assert _look_up(file) == _failure("download")


@pytest.mark.parametrize(("own", "theirs", "tries"), [(0, 3, 3), (1, 3, 3), (3, 1, 3), (1, 2, 2)])
def test_tries_of_a_ledger_that_is_taken_over_count(file: Path, own: int, theirs: int, tries: int) -> None:
    """Once: also where it is taken over again, as by a merge that is given again."""
    other = file.with_name("other.sqlite")
    for each, count in ((file, own), (other, theirs)):
        for _ in range(count):
            with Ledger(each) as ledger:
                _make(_begin(ledger), _failure("download"))
    for _ in range(2):
        with Ledger(file) as ledger:
            _begin(ledger).adopt(other)
    with sqlite3.connect(file) as base:
        assert base.execute("SELECT tries FROM outcomes").fetchall() == [(tries,)]
    assert _look_up(file) == (_failure("download") if tries == 3 else request())


def test_what_is_tried_again_may_be_asked_otherwise_and_is_kept_under_the_old_key(file: Path) -> None:
    other = request(prompt="Else?", seed=5)
    asked: dict[str, Any] = {"instead": other}
    with Ledger(file) as ledger:
        _make(_begin(ledger), _failure("engine"))
    again = Remake(kinds=frozenset({"engine"}), settings=Settings(seed=5), differs='{"seed": 5}')
    with Ledger(file, remake=again) as ledger:
        made = _make(_begin(ledger), _caption(), **asked)
        assert made == replace(other, retried_with='{"seed": 5}')
        new = ledger.look_up(request(key="1", prompt="Who?", **asked))
        assert new == request(key="1", prompt="Who?"), "that is asked as ever"
    with Ledger(file) as ledger:
        assert _begin(ledger).look_up(request()) == _caption()


def test_failure_of_a_file_that_changed_in_the_meantime_is_not_kept(file: Path, tmp_path: Path) -> None:
    clip = Clip(source=str(put_clip(tmp_path / "a.mp4")))
    os.utime(tmp_path / "a.mp4", (1, 1))
    with Ledger(file) as ledger:
        assert _begin(ledger).look_up(request(clip=clip)) == request(clip=clip)
        (tmp_path / "a.mp4").unlink()  # as where the disk goes
        ledger.record(_failure("unreadable"))
        os.utime(put_clip(tmp_path / "a.mp4"), (1, 1))
        assert ledger.look_up(request(clip=clip)) == request(clip=clip)
        ledger.record(_failure("unreadable"))
        assert isinstance(ledger.look_up(request(clip=clip)), Failure)


def test_two_requests_of_one_content_may_be_on_their_way_at_once(file: Path) -> None:
    with Ledger(file) as ledger:
        _begin(ledger)
        for key in "ab":
            assert isinstance(ledger.look_up(request(key=key)), Request)
        for key in "ba":
            ledger.record(_caption(key))
    assert _look_up(file) == _caption()


def test_no_run_no_outcomes(file: Path) -> None:
    with Ledger(file) as ledger, pytest.raises(RuntimeError, match="no run has begun"):
        ledger.look_up(request())


# On disk


def _wait_until(true: Callable[[], bool]) -> None:
    """Look again and again; a test that waits in vain is ended by hand."""
    pause = threading.Event()
    while not true():
        pause.wait(0.005)


def _count(file: Path) -> int:
    with sqlite3.connect(file) as base:
        return int(base.execute("SELECT count(*) FROM outcomes").fetchone()[0])


def test_what_is_recorded_is_on_disk_soon_and_others_see_it_while_the_run_goes_on(file: Path) -> None:
    with Ledger(file) as ledger:
        _make(_begin(ledger), _caption())
        ledger.advance({"rows": 1})
        _wait_until(lambda: _count(file) == 1)
        _wait_until(lambda: read_runs(file)[0].progress == {"rows": 1})
        assert read_runs(file)[0].ending is None
    assert read_runs(file)[0].ending == "finished"


def test_what_is_recorded_is_kept_where_the_run_breaks(file: Path) -> None:
    def work() -> None:
        with Ledger(file) as ledger:
            _make(_begin(ledger), _caption())
            raise KeyError("broken")

    with pytest.raises(KeyError):
        work()
    assert _look_up(file) == _caption()
    assert [run.ending for run in read_runs(file)] == ["finished", "'broken'"]


def test_several_threads_may_look_up_and_record(file: Path) -> None:
    def work(name: str) -> None:
        for number in range(50):
            key = f"{name}{number}"
            _make(ledger, _caption(key), key=key, prompt=key)

    with Ledger(file) as ledger:
        _begin(ledger)
        threads = [threading.Thread(target=work, args=(name,)) for name in "abcd"]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert ledger.count_captions() == 200
    assert _count(file) == 200


def test_ledger_that_cannot_be_written_any_more_breaks_the_run(file: Path) -> None:
    """A trigger stands in for a full disk: it fails the commit that the ledger makes by itself."""

    def work() -> None:
        with Ledger(file) as ledger:
            _begin(ledger)
            with sqlite3.connect(file) as base:
                base.execute("CREATE TRIGGER t BEFORE UPDATE ON runs BEGIN SELECT RAISE(ABORT, 'no room'); END")
            _wait_until(lambda: ledger._trouble is not None)
            ledger.look_up(request())
            with pytest.raises(DatasetError, match="no room"):
                ledger.record(_caption())
            ledger.advance({})

    with pytest.raises(DatasetError, match=r"the ledger .* cannot be used: no room; once that is put right"):
        work()


def test_codes_of_sqlite_come_with_advice(file: Path) -> None:
    with Ledger(file) as ledger:
        _begin(ledger)
        ledger._base.execute("PRAGMA max_page_count = 1")
        large = _caption(text="".join(map(chr, range(32, 50_000))))
        with pytest.raises(DatasetError, match=r"disk is full; make room, and the same command goes on"):
            _make(ledger, large)
    assert _look_up(file) == request()


@pytest.mark.parametrize("content", [b"this is no data base" * 100, None])
def test_file_that_is_no_ledger_is_told_and_can_be_set_aside(file: Path, content: bytes | None) -> None:
    if content:
        file.write_bytes(content)
    else:
        with sqlite3.connect(file) as base:
            base.execute("CREATE TABLE other (a)")
        base.close()
    for use in (Ledger, read_runs):
        with pytest.raises(DatasetError, match=r"no-resume sets it aside and begins anew"):
            use(file)
    set_aside(file)
    assert [path.name for path in file.parent.iterdir()] == ["out.ledger.sqlite.older"]
    assert _look_up(file) == request()


def test_ledger_that_is_set_aside_is_whole(file: Path) -> None:
    with Ledger(file) as ledger:
        _make(_begin(ledger), _caption())
    set_aside(file)
    older = file.with_name("out.ledger.sqlite.older")
    assert (file.exists(), _look_up(older)) == (False, _caption())
    set_aside(file)
    assert older.exists()
    older.unlink()
    older.mkdir()
    file.write_bytes(b"")
    with pytest.raises(DatasetError, match=r"cannot set .*out\.ledger\.sqlite aside: "):
        set_aside(file)


def test_ledger_of_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match="cannot be used: unable to open database file"):
        Ledger(tmp_path / "gone" / "out.ledger.sqlite")


# Runs


def test_ledger_without_a_run_is_not_left(file: Path) -> None:
    with Ledger(file) as ledger:
        assert ledger.last is None
    assert list(file.parent.iterdir()) == []
    with Ledger(file) as ledger:
        _begin(ledger)
    with Ledger(file) as ledger:
        assert ledger.last is not None
    assert [path.name for path in file.parent.iterdir()] == ["out.ledger.sqlite"]


def test_runs_are_told_as_they_were_begun(file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with Ledger(file) as ledger:
        first = ledger.begin(Settings(fps=3), INFO, output="out.jsonl", inputs=["in.jsonl"], total=5)
        assert (first.folder, first.output, first.inputs) == (str(tmp_path), "out.jsonl", ("in.jsonl",))
        assert (first.engine, first.model, first.total, first.ended) == ("scripted", "a script", 5, None)
        assert first.settings["fps"] == first.work["fps"] == 3
        assert Settings(**first.settings) == Settings(fps=3)
        assert "batch_size" not in first.work
        ledger.advance({"rows": 3})
    with Ledger(file) as ledger:
        assert ledger.last is not None
        assert (ledger.last.progress, ledger.last.ending) == ({"rows": 3}, "finished")
        second = ledger.begin(Settings(fps=2), INFO, output="out.jsonl", inputs=["in.jsonl"], total=None)
        assert not ledger.knows_work_of(second)
    with Ledger(file) as ledger:
        third = ledger.begin(Settings(fps=3, batch_size=5), INFO, output="o", inputs=[], total=None)
        assert ledger.knows_work_of(third)
    assert [run.number for run in read_runs(file)] == [3, 2, 1]


def test_token_is_not_kept(file: Path) -> None:
    with Ledger(file) as ledger:
        _begin(ledger, model_params={"token": "hf_secret", "local_files_only": True})
    (run,) = read_runs(file)
    assert run.settings["model_params"] == {"local_files_only": True}
    assert b"hf_secret" not in file.read_bytes()


def test_ledger_that_is_not_there_is_told(file: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no out\.ledger\.sqlite in .*: no run has begun to write there"):
        read_runs(file)
    file.write_bytes(b"")
    assert read_runs(file) == []


def test_version_that_is_to_come_is_told(file: Path) -> None:
    with Ledger(file) as ledger:
        _begin(ledger)
    with sqlite3.connect(file) as base:
        base.execute(f"PRAGMA user_version = {ledger_file._VERSION + 1}")
    with pytest.raises(DatasetError, match="is no ledger that this release knows"):
        Ledger(file)


# What is told to who looks at captions


def test_answers_are_found_by_the_seed_of_what_was_asked_the_last_run_first(file: Path) -> None:
    for model, text in (("a", "first"), ("b", "second")):
        with Ledger(file) as ledger:
            _begin(ledger, model=model, fps=len(text))
            for key, seed in (("0", 7), ("1", 1 << 62)):
                asked = request(key=key, seed=seed, prompt=key)
                assert ledger.look_up(asked) is asked
                ledger.record(_caption(key, f"{text} {key}", seed=9 if key == "0" else seed))  # of a second try
            failed = request(key="2", prompt="fails")
            ledger.look_up(failed)
            ledger.record(_failure(key="2"))
    known = read_answers(file, most=4)
    assert known is not None
    assert {seed: [item.candidates[1].text for item in items] for seed, items in known.items()} == {
        7: ["second 0", "first 0"],
        1 << 62: ["second 1", "first 1"],
    }
    assert not {"keep", "kept", "reason", "flags"} & known[7][0].meta.keys(), "the choice is computed, never stored"
    assert read_answers(file, most=3) is None


def test_captions_of_no_ledger(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"there is no l\.sqlite in"):
        read_answers(tmp_path / "l.sqlite", most=1)
