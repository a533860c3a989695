"""Rates come from somebody who measured them."""

import json
from pathlib import Path
from typing import Any

import pytest

from reelscribe.config import Settings
from reelscribe.errors import SettingsError
from reelscribe.plan.rates import find_rate, read_rate

BENCHMARK = {
    "benchmark": "gpu-qwen3-vl-8b",
    "date": "2026-11-24",
    "hardware": {"cpu": "x", "cores": 16, "gpus": ["NVIDIA H100 80GB HBM3"]},
    "settings": {"candidates": 4, "tokens": 128},
    "variants": {
        "sdpa": {"clips_per_second": 2.5, "video_tokens": 4000},
        "compiled": {"clips_per_second": 3.5, "video_tokens": 4000},
        "flash_attention_2": {"error": "ImportError: none"},
    },
}
RUN = {
    "started": "2026-11-24T08:00:00Z",
    "model": {"gpus": 4},
    "clips": 100,
    "clips_per_second": 12.0,
    "hardware": {"cores": 16, "gpus": ["NVIDIA H200"] * 4},
    "settings": {"fps": 1.0, "num_captions": 1, "model": Settings().model},
}


def _put(file: Path, told: Any) -> Path:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(told))
    return file


def test_of_a_benchmark(tmp_path: Path) -> None:
    rate = read_rate(_put(tmp_path / "gpu.json", BENCHMARK), Settings(num_captions=1))
    assert rate.clips_per_second == 3.5
    assert "2026-11-24, NVIDIA H100 80GB HBM3, 4,000 vision tokens a clip, 4 x 128 tokens of answer" in rate.source
    assert rate.differences == ["num_captions was 4, is 1"]


def test_of_a_run_is_that_of_one_gpu(tmp_path: Path) -> None:
    rate = read_rate(_put(tmp_path / "out.run.json", RUN), Settings())
    assert rate.clips_per_second == 3.0
    assert rate.source.endswith("out.run.json (2026-11-24, 4 x NVIDIA H200, 100 clips)")
    assert rate.differences == ["fps was 1.0, is 2.0"]
    assert read_rate(tmp_path / "out.run.json", Settings(fps=1.0), gpu="h200").differences == []
    other = read_rate(tmp_path / "out.run.json", Settings(fps=1.0), gpu="h100")
    assert other.differences == ["the machine was NVIDIA H200, is to be h100"]


def test_which_one_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    asked: dict[str, Any] = {"given": None, "measured": None}
    assert find_rate(Settings(), **asked, gpu="h100") is None
    _put(tmp_path / "benchmarks" / "results" / "gpu-a.json", BENCHMARK)
    found = find_rate(Settings(), **asked, gpu="H100")
    assert found
    assert found.clips_per_second == 3.5
    assert find_rate(Settings(), **asked, gpu="h200") is None
    assert find_rate(Settings(), **asked, gpu=None) is None
    run = _put(tmp_path / "run.json", RUN)
    measured = find_rate(Settings(), given=None, measured=run, gpu="h100")
    assert measured
    assert measured.clips_per_second == 3.0
    given = find_rate(Settings(), given=0.5, measured=run, gpu="h100")
    assert given
    assert (given.clips_per_second, given.source) == (0.5, "--rate")


def test_what_is_no_rate(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"rate must be a number of clips per second above 0; got -1\."):
        find_rate(Settings(), given=-1, measured=None, gpu=None)
    with pytest.raises(SettingsError, match=r"cannot read .*none\.json: No such file or directory\."):
        read_rate(tmp_path / "none.json", Settings())
    wrong: list[Any] = [{}, [], RUN | {"clips_per_second": 0.0}, BENCHMARK | {"variants": {"eager": {"error": "x"}}}]
    for told in wrong:
        with pytest.raises(SettingsError, match=r"holds no measured rate; take OUTPUT\.run\.json"):
            read_rate(_put(tmp_path / "file.json", told), Settings())


def test_other_tasks_are_told(tmp_path: Path) -> None:
    file = _put(tmp_path / "out.run.json", RUN)
    several = Settings(fps=1.0, tasks={"long": "Tell all.", "short": "In 5 words."})
    assert read_rate(file, several).differences == ["tasks was one, is long, short"]
    _put(file, RUN | {"settings": several.without_token()})
    assert read_rate(file, several).differences == []
    assert read_rate(file, Settings(fps=1.0)).differences == ["tasks was long, short, is one"]
