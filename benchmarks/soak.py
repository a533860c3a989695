"""Hours of work in minutes, killed over and over, watched through /proc. Writes a JSON result.

    PYTHONPATH=src python benchmarks/soak.py --rows 72000 --kill-seconds 20

72,000 rows are an hour's work at 20 clips a second. See `tests/soaking.py` for what is done and `Report` for what is
told.
"""

import sys
from pathlib import Path

from common import arguments, save_result, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from soaking import soak


def main() -> None:
    args = arguments(__doc__, rows=72_000, kill_seconds=20.0, rate=10_000.0)
    with workspace() as folder:
        report = soak(folder, rows=args.rows, kill_seconds=args.kill_seconds, rate=args.rate)
    clips_per_second = round(report.rows / report.seconds, 1)
    save_result("soak", {"settings": vars(args), "clips_per_second": clips_per_second, **report.told()})


if __name__ == "__main__":
    main()
