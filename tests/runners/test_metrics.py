"""Figures for Prometheus, read from the port of a real run."""

import re
import signal
import sys
import urllib.request
from pathlib import Path

import pytest
from commands import Run, ended
from flow import ScriptedEngine, put_clip, put_rows, said
from prometheus_client.parser import text_string_to_metric_families

from reelscribe.config import Settings
from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.runners.local import run
from reelscribe.runners.metrics import Metrics


def _scrape(address: str) -> dict[str, float]:
    """Each figure, under its name and labels."""
    with urllib.request.urlopen(address, timeout=30) as answer:
        text = answer.read().decode()
    return {
        sample.name + "".join(f" {value}" for value in sample.labels.values()): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_a_real_run_can_be_collected_from(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    rows = [{"video": "none.mp4"}, *({"video": "a.mp4", "text": str(number)} for number in range(10_000))]
    put_rows(tmp_path / "in.jsonl", rows)
    (tmp_path / "slow.toml").write_text("[model_params]\nclips_per_second = 200\n")
    words = ("--engine", "fake", "--config", "slow.toml", "--metrics-port", "0", "--price", "1")
    with ended(Run(tmp_path, "run", *words)) as command:
        assert command.process.stderr
        address = re.search(r"metrics at (http://127\.0\.0\.1:\d+/metrics)", command.process.stderr.readline())
        assert address
        command.wait_until(lambda: command.lines() > 5)
        told = _scrape(address[1])
        command.process.send_signal(signal.SIGTERM)
        command.end()
    assert told["reelscribe_run_info fake fake "] == 1
    assert 5 <= told["reelscribe_rows_total"] < told["reelscribe_rows_expected"] == 10_001
    assert 0 <= told["reelscribe_rows_total"] - told["reelscribe_captions_total"] <= 2  # it may be between the two
    assert told["reelscribe_failures_total missing"] == 1
    assert told["reelscribe_tokens_total"] > told["reelscribe_clips_total"] >= 5
    assert told["reelscribe_tokens_per_second"] > told["reelscribe_clips_per_second"] > 0
    assert 0 < told["reelscribe_engine_busy_share"] <= 1
    assert told["reelscribe_in_flight"] in (0, 1)
    assert told["reelscribe_cost"] > 0
    assert sum(told[f"reelscribe_bottleneck {stage}"] for stage in ("reading", "decoding", "engine", "writing")) == 1
    assert "reelscribe_waited_share decoding" in told


def test_figures_are_the_run_s_own(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": "none.mp4"}])
    with Metrics(0) as metrics:
        assert _scrape(metrics.address) == {}
        run(
            [data],
            tmp_path / "out.jsonl",
            Settings(),
            engine=ScriptedEngine(lambda _: said("one two")),
            on_start=metrics.start,
        )
        told = _scrape(metrics.address)
    assert (told["reelscribe_rows_total"], told["reelscribe_captions_total"], told["reelscribe_made_total"]) == (
        2,
        1,
        2,
    )
    assert (told["reelscribe_clips_total"], told["reelscribe_tokens_total"]) == (1, 2)
    assert "reelscribe_cost" not in told
    with pytest.raises(OSError, match="refused"):
        _scrape(metrics.address)


def test_several_tasks_have_figures_of_their_own(tmp_path: Path) -> None:
    put_clip(tmp_path / "a.mp4")
    data = put_rows(tmp_path / "in.jsonl", [{"video": "a.mp4"}, {"video": "none.mp4"}])
    settings = Settings(tasks={"long": "Tell all.", "short": "In 5 words."})
    engine = ScriptedEngine(lambda _: said("one two"))
    with Metrics(0) as metrics:
        run([data], tmp_path / "out.jsonl", settings, engine=engine, on_start=metrics.start)
        told = _scrape(metrics.address)
    assert (told["reelscribe_clips_total"], told["reelscribe_answers_total"]) == (1, 2)
    assert (told["reelscribe_captions_total"], told["reelscribe_made_total"]) == (2, 2)
    assert (told["reelscribe_task_captions_total long"], told["reelscribe_task_failures_total missing short"]) == (1, 1)


def test_what_cannot_be_served() -> None:
    with Metrics(0) as metrics:
        taken = int(metrics.address.rpartition(":")[2].partition("/")[0])
        with pytest.raises(SettingsError, match=rf"served at 127\.0\.0\.1:{taken}: Address already in use; choose an"):
            Metrics(taken)
    with pytest.raises(SettingsError, match="metrics cannot be served at"):
        Metrics(99_999)


def test_without_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "prometheus_client", None)
    with pytest.raises(MissingExtraError, match=r"pip install 'reelscribe\[metrics\]'"):
        Metrics(0)
