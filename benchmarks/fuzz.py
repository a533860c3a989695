"""What comes of broken containers, and of odd values and names in whole runs.

`tests/fuzzing.py` breaks containers and decodes them: bits flipped, parts cut out, repeated or wiped, boxes resized,
ends missing. `tests/odd_values.py` puts values that no video can have, and files and members of odd names, among good
ones. A crash, a hang, or a good row that suffers ends it with an error.
"""

import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

from common import arguments, save_result, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from fuzzing import NAMES, fuzz
from odd_values import fuzz_bytes, fuzz_members, fuzz_names, fuzz_values

_AT_ONCE = 1000
"""Rows of a run."""


def odd_values(count: int) -> dict[str, dict[str, int]]:
    """What this many odd rows of each kind come to."""
    ways: dict[str, Callable[[Path, int], Counter[str]]] = {
        "values": lambda folder, seed: fuzz_values(folder, count=_AT_ONCE, seed=seed),
        "values, in the text": lambda folder, seed: fuzz_values(folder, count=_AT_ONCE, seed=seed, in_text=True),
        "bytes": lambda folder, seed: fuzz_bytes(folder, count=_AT_ONCE, seed=seed),
        "names of members": lambda folder, seed: fuzz_members(folder, count=_AT_ONCE, seed=seed),
        "names of files": lambda folder, seed: Counter(captions=fuzz_names(folder, count=_AT_ONCE, seed=seed)),
    }
    results: dict[str, dict[str, int]] = {}
    for name, way in ways.items():
        kinds: Counter[str] = Counter()
        for seed in range(1000, 1000 + -(-count // _AT_ONCE)):
            with workspace() as folder:
                kinds += way(folder, seed)
        results[name] = dict(kinds)
    return results


def main() -> None:
    args = arguments(__doc__, files=20_160, min_decoded=0.3, rows=10_000)
    if args.rows:
        save_result("odd-values", {"settings": {"rows": args.rows}, "results": odd_values(args.rows)})
    if args.files:
        shares = {"whole": 1.0, "in_part": args.min_decoded}
        with workspace() as folder:
            results = {name: dict(fuzz(folder, count=args.files, min_decoded=share)) for name, share in shares.items()}
        settings = {"files": args.files, "min_decoded": args.min_decoded}
        save_result("fuzz", {"settings": settings, "containers": NAMES, "results": results})


if __name__ == "__main__":
    main()
