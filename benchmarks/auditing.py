"""Memory and time of `reelscribe audit` over outputs that are made up: whether memory stays what it is.

    PYTHONPATH=src python benchmarks/auditing.py --few 20000 --many 200000

Captions have some 60 words, drawn from a vocabulary as uneven as that of a language, so that nearly all phrases differ.
One in a hundred is as that of another clip, one in a hundred nearly so. Each audit is a process of its own.
"""

import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
from common import arguments, save_result, workspace

_VOCABULARY = 20_000
_AUDIT = """
import sys
import time
sys.path.insert(0, "benchmarks")
from pathlib import Path
from memory import peak_memory_bytes
from reelscribe.audit.audit import audit
found = audit(Path(sys.argv[1])).told()["tasks"]["caption"]["findings"]
counts = [found[name]["captions"] for name in ("duplicate", "near_duplicate")]
print(peak_memory_bytes(), round(1000 * time.process_time()), *counts)
"""


def write_output(file: Path, rows: int) -> None:
    """Write what a run might have written."""
    draw = np.random.default_rng(0)
    syllables = [first + second for first in "bdfgklmnprstvz" for second in "aeiou"]
    words = ["".join(draw.choice(syllables, draw.integers(1, 5))) for _ in range(_VOCABULARY)]
    shares = 1 / (np.arange(_VOCABULARY) + 10)
    shares /= shares.sum()
    text = before = ""
    meta = {"model": "m", "engine": "e", "clip_start": 0.0, "clip_end": 8.0, "flags": ""}
    with file.open("w") as opened:
        for row in range(rows):
            if row % 100 == 1:
                text = before  # of another clip
            elif row % 100 == 3:
                text = f"{before} {words[row % _VOCABULARY]}"
            else:
                text = " ".join(words[place] for place in draw.choice(_VOCABULARY, draw.integers(30, 90), p=shares))
            before = text
            line = {"video": f"{row:09d}.mp4", "caption": text, "caption_meta": meta, "caption_failure": ""}
            opened.write(json.dumps(line) + "\n")


def measure(rows: int) -> dict[str, Any]:
    """Audit so many rows."""
    with workspace() as folder:
        file = folder / "captions.jsonl"
        write_output(file, rows)
        began = time.monotonic()
        done = subprocess.run([sys.executable, "-c", _AUDIT, str(file)], capture_output=True, text=True, check=True)
        seconds = time.monotonic() - began
    peak, cpu_ms, same, near = map(int, done.stdout.split())
    return {
        "rows": rows,
        "seconds": round(seconds, 1),
        "cpu_seconds": cpu_ms / 1000,
        "rows_per_cpu_second": round(1000 * rows / cpu_ms),
        "peak_bytes": peak,
        "duplicate": same,
        "near_duplicate": near,
    }


def main() -> None:
    """Measure both."""
    given = arguments(__doc__, few=20_000, many=200_000)
    few, many = measure(given.few), measure(given.many)
    grown = (many["peak_bytes"] - few["peak_bytes"]) / (many["rows"] - few["rows"])
    save_result("audit", {"few": few, "many": many, "bytes_a_row": round(grown)})


if __name__ == "__main__":
    main()
