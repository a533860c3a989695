"""Broken containers: see `fuzzing`. `make fuzz` takes forty times as many."""

from pathlib import Path

import pytest
from fuzzing import fuzz

COUNT = 500


@pytest.mark.parametrize("min_decoded", [1.0, 0.3])
def test_broken_files_cost_themselves_and_nothing_else(tmp_path: Path, min_decoded: float) -> None:
    kinds = fuzz(tmp_path, count=COUNT, min_decoded=min_decoded)
    assert kinds["frames"] > COUNT // 20, kinds
    assert kinds["decode"] > COUNT // 20, kinds
    assert (kinds["part"] > COUNT // 50) == (min_decoded < 1), kinds
