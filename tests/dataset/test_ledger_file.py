"""Ledgers of earlier releases, damaged ones, and what is put aside: nothing that was paid for is lost, or misread."""

import contextlib
import re
import sqlite3
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from flow import ScriptedEngine, put_clip, put_rows, read_rows_of, request, said

from reelscribe.config import Settings
from reelscribe.dataset import ledger as ledger_module
from reelscribe.dataset import ledger_file
from reelscribe.dataset.ledger import Ledger
from reelscribe.dataset.ledger_file import copy_ledger, read_answers, read_runs, set_aside
from reelscribe.dataset.remake import Mark, Remake
from reelscribe.errors import DatasetError
from reelscribe.layouts import LAYOUTS
from reelscribe.report import entries as entries_module
from reelscribe.report.entries import CaptionedData, Entry
from reelscribe.runners.local import run
from reelscribe.runners.status import find_failures, find_ledger, ledger_of, read_status, runs_on
from reelscribe.schemas import Schema
from reelscribe.templates import Name
from reelscribe.values import Candidate, Caption, Failure, Outcome, Request, Row, Work

INFO = ScriptedEngine(lambda _: said("text")).info
ROWS: list[Row] = [
    {"video": "https://host/a.mp4", "text": "a text"},
    {"video": "https://host/a.mp4", "text": "a second"},
    {"video": "https://host/gone.mp4"},
]


def _old_ledger(file: Path, output: str = "out.jsonl") -> Path:
    """The ledger that release 0.1.0 wrote, as if beside this file."""
    dump = Path(__file__).with_name("ledger-0.1.0.sql").read_text("utf-8").replace("FOLDER", str(file.parent))
    with contextlib.closing(sqlite3.connect(file)) as base:
        base.executescript(dump)
        base.execute("UPDATE runs SET output = ?", (output,))
        base.commit()
    return file


def _asked(row: Row, index: int, settings: Settings) -> Request:
    """What is asked of a row."""
    plan = LAYOUTS["columns"].plan(row, index, settings, None)
    [name] = plan.asked()
    made = plan.request(name, {})
    assert isinstance(made, Request)
    return made


def _look_up(file: Path, rows: list[Row], **settings: Any) -> list[Outcome | Request]:
    asked = Settings(**{"num_captions": 3, **settings})
    with Ledger(file) as ledger:
        ledger.begin(asked, INFO, output="out.jsonl", inputs=["in.jsonl"], total=3)
        return [ledger.look_up(_asked(row, index, asked)) for index, row in enumerate(rows)]


# Of release 0.1.0


def test_ledger_of_0_1_0_is_taken_over_with_a_copy_kept(tmp_path: Path) -> None:
    file = _old_ledger(tmp_path / "out.ledger.sqlite")
    before = file.read_bytes()
    assert [run.number for run in read_runs(file)] == [2, 1], "to look at it changes nothing"
    assert file.read_bytes() == before
    for _ in range(2):
        first, second, failed = _look_up(file, ROWS)
        assert isinstance(first, Caption)
        assert isinstance(second, Caption)
        assert [first.texts[0][:-2], second.texts[0][:-2]] == ["a text", "a second"], "each row has what it had"
        assert first.meta["faults"] == ["empty", "", ""]
        assert all(0 <= item.meta["seed"] < 1 << 63 for item in (first, second))
        assert isinstance(failed, Request), "two tries of three"
    copy = file.with_name("out.ledger.sqlite.v2")
    assert [run.number for run in read_runs(copy)] == [2, 1]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.ledger.sqlite", copy.name]
    assert len(read_runs(file)) == 4


def test_captions_of_0_1_0_are_chosen_among_anew(tmp_path: Path) -> None:
    file = _old_ledger(tmp_path / "out.ledger.sqlite")
    [every, *_] = _look_up(file, ROWS, keep="all")
    assert isinstance(every, Caption)
    assert every.texts == ("a text 1", "a text 2")
    [near, *_] = _look_up(file, ROWS, keep="similar_one_simhash")
    assert isinstance(near, Caption)
    assert near.meta["keep"] == "similar_one_simhash"


def test_what_0_1_0_made_of_another_text_or_setting_is_made_again(tmp_path: Path) -> None:
    file = _old_ledger(tmp_path / "out.ledger.sqlite")
    edited = [{**ROWS[0], "text": "an edited text"}]
    assert isinstance(_look_up(file, edited)[0], Request), "its key was made of the text"
    assert isinstance(_look_up(file, ROWS, seed=1)[0], Request)
    assert isinstance(_look_up(file, ROWS, fps=3)[0], Request)


def test_what_0_1_0_could_not_ask_it_has_not_answered(tmp_path: Path) -> None:
    file = _old_ledger(tmp_path / "out.ledger.sqlite")
    asked = _asked(ROWS[0], 0, Settings(num_captions=3))
    schema = Schema.of("shot", folder=tmp_path)
    with Ledger(file) as ledger:
        ledger.begin(Settings(num_captions=3), INFO, output="out.jsonl", inputs=["in.jsonl"], total=3)
        assert isinstance(ledger.look_up(asked), Caption)
        assert isinstance(ledger.look_up(replace(asked, id=asked.id._replace(task="short"))), Caption)
        for changes in ({"schema": schema}, {"video": False}, {"unfilled": (asked.prompt, Name("fps"))}):
            assert isinstance(ledger.look_up(replace(asked, **changes)), Request), changes


def test_what_takes_the_place_of_a_caption_of_0_1_0_is_no_failure(tmp_path: Path) -> None:
    file, settings = _old_ledger(tmp_path / "out.ledger.sqlite"), Settings(num_captions=3)
    asked = _asked(ROWS[0], 0, settings)
    with Ledger(file, remake=Remake(marked=frozenset({Mark(0)}), differs="{}")) as ledger:
        ledger.begin(settings, INFO, output="out.jsonl", inputs=[], total=1)
        assert isinstance(ledger.look_up(asked), Request)
        ledger.record(Failure.of(asked, "no"))
    assert isinstance(_look_up(file, ROWS)[0], Caption)


def test_ledger_of_0_1_0_is_taken_over_by_a_merge(tmp_path: Path) -> None:
    old = _old_ledger(tmp_path / "part.ledger.sqlite")
    with Ledger(tmp_path / "out.ledger.sqlite") as ledger:
        ledger.begin(Settings(num_captions=3), INFO, output="out.jsonl", inputs=[], total=3)
        ledger.adopt_sidecars(old)
        ledger.adopt(old)
        asked = _asked(ROWS[0], 0, Settings(num_captions=3))
        assert isinstance(ledger.look_up(asked), Caption), "in the merge itself, and later"
    assert isinstance(_look_up(tmp_path / "out.ledger.sqlite", ROWS)[0], Caption)


def test_sidecars_that_0_1_0_may_have_written_are_neither_read_nor_replaced(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """It did not note which: what is as this run would write it is its own from then on."""
    _old_ledger(tmp_path / "out.ledger.sqlite")
    for name, text in (("same", "text\n"), ("other", "of a person")):
        put_clip(tmp_path / "clips" / f"{name}.mp4").with_suffix(".txt").write_text(text)
    run(
        [tmp_path / "clips"],
        tmp_path / "out.jsonl",
        Settings(sidecar="txt"),
        engine=ScriptedEngine(lambda _: said("text")),
    )
    assert (tmp_path / "clips" / "other.txt").read_text() == "of a person"
    assert any("other.txt stays as it is" in message for message in caplog.messages)
    assert not any("text" in row for row in read_rows_of(tmp_path / "out.jsonl"))
    run(
        [tmp_path / "clips"],
        tmp_path / "out.jsonl",
        Settings(sidecar="txt", seed=1),
        engine=ScriptedEngine(lambda _: said("new")),
    )
    assert (tmp_path / "clips" / "same.txt").read_text() == "new\n"


def test_merge_takes_over_sidecars_that_0_1_0_may_have_written(tmp_path: Path) -> None:
    old = _old_ledger(tmp_path / "part.ledger.sqlite")
    put_clip(tmp_path / "clips" / "a.mp4").with_suffix(".txt").write_text("a text\n")
    engine = ScriptedEngine(lambda _: said("a text"))
    run([tmp_path / "clips"], tmp_path / "out.jsonl", Settings(sidecar="txt"), engine=engine, adopt=[old])
    assert not any("text" in row for row in read_rows_of(tmp_path / "out.jsonl"))


def test_report_knows_what_0_1_0_made_of_interleaved_rows(tmp_path: Path) -> None:
    """Of the three candidates of each, one has no words."""
    _old_ledger(tmp_path / "out.ledger.sqlite")
    texts = [f"<__dj__video>{row['text']}<|__dj__eoc|>" for row in ROWS[:2]]
    rows: list[Row] = [{"text": text, "videos": [ROWS[0]["video"]]} for text in texts]
    data, output = put_rows(tmp_path / "in.jsonl", rows), tmp_path / "out.jsonl"
    settings = Settings(num_captions=3, keep="all")
    run([data], output, settings, engine=ScriptedEngine(lambda _: pytest.fail("it is known")))
    entries = [item for item in CaptionedData(output).entries() if isinstance(item, Entry)]
    assert [(entry.row, len(entry.captions)) for entry in entries] == [(0, 2), (1, 2)]
    assert all(entry.meta["prompt"] for entry in entries)


def test_new_release_says_nothing_of_settings_that_made_no_difference(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    _old_ledger(tmp_path / "out.ledger.sqlite")
    data = put_rows(tmp_path / "in.jsonl", ROWS)
    settings = Settings(num_captions=3, max_failures=None)
    run([data], tmp_path / "out.jsonl", settings, engine=ScriptedEngine(lambda _: pytest.fail("it is known")))
    assert caplog.messages == []
    assert [row["caption"] for row in read_rows_of(tmp_path / "out.jsonl")[:2]] != [None, None]


# Names of files


@pytest.mark.parametrize("output", ["out-.jsonl", ".out.jsonl", "out_{shard}.jsonl", "out..parquet"])
def test_ledger_of_0_1_0_is_found_under_the_name_that_it_had(tmp_path: Path, output: str) -> None:
    if output.endswith("parquet"):
        pytest.importorskip("pyarrow")
    _old_ledger(tmp_path / "out.ledger.sqlite", output)
    (tmp_path / "out.failures.jsonl").write_text('{"row": 2, "kind": "download"}\n')
    target = tmp_path / output
    assert len(runs_on(target)) == 2
    assert read_status(target).output == output
    assert find_failures(target).name == "out.failures.jsonl"
    data = put_rows(tmp_path / "in.jsonl", ROWS[:2])
    run([data], target, Settings(num_captions=3), engine=ScriptedEngine(lambda _: pytest.fail("it is known")))
    assert ledger_of(target).is_file()
    assert not {"out.ledger.sqlite", "out.failures.jsonl"} & {path.name for path in tmp_path.iterdir()}
    assert find_ledger(target) == ledger_of(target)


def test_ledger_of_0_1_0_that_two_outputs_shared_is_theirs_both(tmp_path: Path) -> None:
    old = _old_ledger(tmp_path / "out.ledger.sqlite", "out.jsonl")
    with contextlib.closing(sqlite3.connect(old)) as base:
        base.execute("UPDATE runs SET output = 'out-.jsonl' WHERE number = 1")
        base.commit()
    (tmp_path / "out.failures.jsonl").write_text("{}\n")
    data = put_rows(tmp_path / "in.jsonl", ROWS[:2])
    for name in ("out-.jsonl", "out.jsonl"):
        assert (tmp_path / "out.failures.jsonl").exists(), "it may be the other's"
        run([data], tmp_path / name, Settings(num_captions=3), engine=ScriptedEngine(lambda _: pytest.fail("known")))
        assert len(runs_on(tmp_path / name)) == 2
    assert (tmp_path / "out.ledger.sqlite").is_file()
    assert (tmp_path / "out-.ledger.sqlite").is_file()


# Damage


def _damage(file: Path, number: int = 0) -> None:
    """Flip bits within the blob of an outcome, which SQLite does not notice."""
    with contextlib.closing(sqlite3.connect(file)) as base:
        key, outcome = base.execute("SELECT key, outcome FROM outcomes ORDER BY rowid").fetchall()[number]
        damaged = (
            outcome[: len(outcome) // 2] + bytes([outcome[len(outcome) // 2] ^ 4]) + outcome[len(outcome) // 2 + 1 :]
        )
        base.execute("UPDATE outcomes SET outcome = ? WHERE key = ?", (damaged, key))
        base.commit()


@pytest.fixture
def data(tmp_path: Path) -> Path:
    rows: list[Row] = [{"video": put_clip(tmp_path / f"{name}.mp4").name} for name in "abc"]
    return put_rows(tmp_path / "in.jsonl", [*rows, {"video": "gone.mp4"}])


def _run(output: Path, data: Path, **settings: Any) -> list[str]:
    """Run; returns the videos that were asked, sorted: clips that are ready pass others."""
    asked: list[str] = []

    def answer(item: Work) -> tuple[Candidate, ...]:
        asked.append(item.clip.name)
        return said(f"of {item.clip.name}")

    engine = ScriptedEngine(answer)
    run([data], output, Settings(decoders=0, **settings), engine=engine)
    return sorted(asked)


@pytest.mark.parametrize("number", range(4))
def test_damaged_outcome_costs_itself(
    tmp_path: Path, data: Path, number: int, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.jsonl"
    assert _run(output, data) == ["a.mp4", "b.mp4", "c.mp4"]
    whole = output.read_bytes()
    with contextlib.closing(sqlite3.connect(ledger_of(output))) as base:
        failures = [kind for (kind,) in base.execute("SELECT kind FROM outcomes ORDER BY rowid")]
    _damage(ledger_of(output), number)
    assert len(_run(output, data)) == (failures[number] is None)
    assert output.read_bytes() == whole
    [told] = caplog.messages
    assert "out.ledger.sqlite is damaged: an outcome cannot be read (" in told
    assert "It is made again, and so are others like it" in told
    caplog.clear()
    assert (_run(output, data), caplog.messages) == ([], [])


def test_failure_takes_the_place_of_a_damaged_caption(
    tmp_path: Path, data: Path, caplog: pytest.LogCaptureFixture
) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    with contextlib.closing(sqlite3.connect(ledger_of(output))) as base:
        base.execute("UPDATE outcomes SET outcome = x'00' WHERE kind IS NULL")
        base.commit()
    refusing = ScriptedEngine(lambda item: Failure.of(item.requests[0], "no"))
    for _ in range(3):
        assert run([data], output, Settings(decoders=0), engine=refusing).failures == {"engine": 3, "missing": 1}
    assert len(caplog.messages) == 1, "at the first of these runs alone"
    assert _run(output, data) == []


@pytest.mark.parametrize("packed", [b"", b"x", b"x\x9c\x03\x00\x00\x00\x00\x01", None, 5, "text"])
def test_odd_outcome_is_a_damaged_one(tmp_path: Path, data: Path, packed: Any) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    with contextlib.closing(sqlite3.connect(ledger_of(output))) as base:
        base.execute("UPDATE outcomes SET outcome = ?", (packed,))
        base.commit()
    assert read_answers(ledger_of(output), most=9) == {}
    assert _run(output, data) == ["a.mp4", "b.mp4", "c.mp4"]


def test_page_of_the_file_that_is_damaged_is_told_with_what_to_do(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    file, whole, told = ledger_of(output), output.read_bytes(), []
    content = file.read_bytes()
    for page in range(len(content) // 4096):
        file.write_bytes(content[: page * 4096] + b"\xaa" * 4096 + content[(page + 1) * 4096 :])
        try:
            _run(output, data)
        except DatasetError as exc:
            told.append(str(exc))
        assert output.read_bytes() == whole
    assert len(told) >= 3, "the first page, and those of both tables"
    for message in told:
        what = r"the ledger .*out\.ledger\.sqlite (cannot be used: .*(malformed|not a database)|is damaged: .*); put "
        assert re.match(what + "a copy of it in its place", message), message
        assert message.endswith("--no-resume sets it aside and begins anew; it stays, as out.ledger.sqlite.older.")
    assert _run(output, data, resume=False) == ["a.mp4", "b.mp4", "c.mp4"]
    assert (tmp_path / "out.ledger.sqlite.older").is_file()


@pytest.mark.parametrize("column", ["settings", "inputs", "work", "progress"])
@pytest.mark.parametrize("value", ["{", None, b"\xff\xff", 7])
def test_run_that_cannot_be_read_is_told(tmp_path: Path, data: Path, column: str, value: Any) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    with contextlib.closing(sqlite3.connect(ledger_of(output))) as base:
        base.execute(f"UPDATE runs SET {column} = ?", (value,))
        base.commit()
    before = ledger_of(output).read_bytes()
    for use in (lambda: _run(output, data), lambda: read_status(output)):
        with pytest.raises(
            DatasetError, match=r"the ledger .* (is damaged|cannot be used): .*--no-resume sets it aside"
        ):
            use()
    assert ledger_of(output).read_bytes() == before


def test_ledger_of_a_newer_release_is_told_and_left(tmp_path: Path, data: Path) -> None:
    output = tmp_path / "out.jsonl"
    _run(output, data)
    for version in (1, 99):
        with contextlib.closing(sqlite3.connect(ledger_of(output))) as base:
            base.execute(f"PRAGMA user_version = {version}")
        before = ledger_of(output).read_bytes()
        told = (
            rf"is no ledger that this release knows \(it is of version {version}, and versions 2 to 4 are known\): take"
        )
        with pytest.raises(DatasetError, match=told):
            _run(output, data)
        assert ledger_of(output).read_bytes() == before


# Set aside


def test_journal_goes_with_the_ledger_that_is_set_aside(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """SQLite would play it into the next ledger of this name, or into the one that is set aside later."""
    file = tmp_path / "out.ledger.sqlite"
    journal, older = (tmp_path / f"out.ledger.sqlite{end}-journal" for end in ("", ".older"))
    file.write_bytes(b"damaged beyond use" * 100)
    journal.write_bytes(b"of the damaged one")
    with monkeypatch.context() as patch:  # SQLite cannot open it, and leaves the journal
        patch.setattr(ledger_file, "uri_of", lambda *_: "file:/nowhere/at/all?mode=rw")
        set_aside(file)
    assert not journal.exists()
    assert older.read_bytes() == b"of the damaged one"
    with Ledger(file) as ledger:
        ledger.begin(Settings(), INFO, output="out.jsonl", inputs=[], total=1)
    set_aside(file)
    assert not older.exists()
    journal.write_bytes(b"of a ledger that was removed by hand")
    set_aside(file)
    assert (journal.exists(), older.exists()) == (False, False)
    assert len(read_runs(tmp_path / "out.ledger.sqlite.older")) == 1


def test_copy_is_whole_while_a_run_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ledger_module, "_COMMIT_SECONDS", 1e6)
    with Ledger(tmp_path / "a.sqlite") as ledger:
        ledger.begin(Settings(), INFO, output="out.jsonl", inputs=[], total=1)
        assert isinstance(ledger.look_up(request()), Request)
        ledger.flush()
        copy_ledger(tmp_path / "a.sqlite", tmp_path / "b.sqlite")
    assert [run.ending for run in read_runs(tmp_path / "b.sqlite")] == [None]


# What is kept of each answer


def test_report_of_interleaved_rows_knows_how_many_were_made_of_each(tmp_path: Path) -> None:
    """With all kept, one without words makes a row fewer."""
    rows: list[Row] = []
    for name in ("all", "two", "one"):
        put_clip(tmp_path / f"{name}.mp4")
        rows.append({"text": f"<__dj__video>{name}<|__dj__eoc|>", "videos": [f"{name}.mp4"]})
    rows.append({"text": "<__dj__video><__dj__video>both<|__dj__eoc|>", "videos": ["two.mp4", "all.mp4"]})
    said_of = {"all": said("1", "2", "3"), "two": said("1", "", "3"), "one": said("", "2", "!")}
    for original in (True, False):
        output = tmp_path / f"out-{original}.jsonl"
        settings = Settings(num_captions=3, keep="all", original=original, decoders=0)
        engine = ScriptedEngine(lambda item: said_of[item.requests[0].clip.name.removesuffix(".mp4")])
        run([put_rows(tmp_path / "in.jsonl", rows)], output, settings, engine=engine)
        entries = [item for item in CaptionedData(output).entries() if isinstance(item, Entry)]
        made = [(entry.row, entry.captions) for entry in entries]
        assert made == [
            (0, ("1", "2", "3")), (1, ("1", "3")), (2, ("2",)), (3, ("1", "3", "1")), (3, ("1", "2", "3")),
        ]  # fmt: skip


@pytest.mark.parametrize(("name", "most"), [("out.jsonl", 1), ("out.tar", 9)])
@pytest.mark.parametrize("original", [True, False])
def test_report_tells_rows_that_were_made_of_one_also_where_the_ledger_does_not(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, most: int, original: bool
) -> None:
    """The ledger does not where it holds very many captions, or where the output has bytes in place of paths."""
    monkeypatch.setattr(entries_module, "_MOST_REMEMBERED", most)
    rows: list[Row] = []
    for number, video in enumerate(("two", "one", "last")):
        put_clip(tmp_path / f"{video}.mp4").open("ab").write(bytes(8 + number))
        rows.append({"text": f"<__dj__video>{video}<|__dj__eoc|>", "videos": [f"{video}.mp4"]})
    said_of = {"two.mp4": said("1", "2"), "one.mp4": said("", "2"), "last.mp4": said("1", "")}
    settings = Settings(num_captions=2, keep="all", original=original, decoders=0)
    engine = ScriptedEngine(lambda item: said_of[item.requests[0].clip.name])
    run([put_rows(tmp_path / "in.jsonl", rows)], tmp_path / name, settings, engine=engine)
    entries = [item for item in CaptionedData(tmp_path / name).entries() if isinstance(item, Entry)]
    assert [(entry.row, entry.captions) for entry in entries] == [(0, ("1", "2")), (1, ("2",)), (2, ("1",))]
