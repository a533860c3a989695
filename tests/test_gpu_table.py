"""The table that a GPU is asked for goes through all its parts on a CPU."""

import json
import sys
from pathlib import Path

import pytest

pytest.importorskip("transformers")
pytestmark = pytest.mark.transformers
BENCHMARKS = Path(__file__).parent.parent / "benchmarks"


def test_each_line_has_its_speed_and_where_the_time_went(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    import common
    import gpu_table

    monkeypatch.setattr(common, "RESULTS", tmp_path)
    size = "--width 128 --height 96 --seconds 2 --clips 2 --tokens 4 --rounds 1"
    asked = f"--model tiny --engines transformers,none --prompt-tokens 160,200 --candidates 1,2 {size}"
    monkeypatch.setattr(sys, "argv", ["gpu_table.py", *asked.split()])
    gpu_table.main()
    [file] = tmp_path.iterdir()
    engines = json.loads(file.read_text())["engines"]
    cells = engines["transformers"]["cells"]
    assert [(cell["prompt_tokens"], cell["candidates"]) for cell in cells] == [(160, 1), (160, 2), (200, 1), (200, 2)]
    assert all(cell["clips_per_second"] > 0 and cell["seconds_by_part"]["prefill"] > 0 for cell in cells)
    assert cells[-1]["kernels"][0]["seconds"] > 0
    assert "left_out" not in engines["transformers"]
    assert engines["none"]["why"] == "KeyError: 'none'"
    assert len(engines["none"]["left_out"]) == 4
