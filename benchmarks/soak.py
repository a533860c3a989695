"""Hours of work in minutes, killed over and over, watched through /proc. Writes a JSON result.

    PYTHONPATH=src python benchmarks/soak.py --rows 72000 --kill-seconds 20

72,000 rows are an hour's work at 20 clips a second. See `tests/soaking.py` for what is done and `Report` for what is
told.
"""

import argparse
import json
import os
import platform
import sys
import tempfile
from datetime import date
from importlib.metadata import version
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from soaking import soak

RESULTS = Path(__file__).parent / "results"


def main() -> None:
    """Run it, and tell."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=72_000)
    parser.add_argument("--kill-seconds", type=float, default=20.0)
    parser.add_argument("--rate", type=float, default=10_000.0, help="clips a second that the engine takes")
    parser.add_argument("--out", type=Path, default=RESULTS / "soak-cpu2.json")
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(Path(folder), rows=told.rows, kill_seconds=told.kill_seconds, rate=told.rate)
    result = {
        "benchmark": "soak",
        "date": date.today().isoformat(),
        "machine": {"cpus": os.cpu_count(), "python": platform.python_version(), "av": version("av")},
        "kill_seconds": told.kill_seconds,
        "clips_per_second": round(report.rows / report.seconds, 1),
        **report.told(),
    }
    told.out.write_text(json.dumps(result, indent=1) + "\n")
    print(json.dumps(result, indent=1))


if __name__ == "__main__":
    main()
