"""What comes of damage inside packets: each packet of a clip zeroed, halved or changed by a few bits, one at a time.

Held against a plain decode: whether that reports the damage, and whether our frames are those of the undamaged clip.
`tests/damaging.py` damages and decodes them; as short clips, as long ones of which only some packets are decoded, by
several threads, and where a part is enough. A wrong frame where a plain decode reports damage ends it with an error.
"""

import sys
from collections import Counter
from pathlib import Path
from typing import Any

from common import arguments, save_result, workspace

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))

from damaging import CHANGES, CLIPS, damage_each_packet

WAYS: dict[str, dict[str, Any]] = {
    "short": {},
    "long": {"whole_packets": 0},
    "long, two threads": {"whole_packets": 0, "threads": 2, "counts": (4, 10)},
    "in part": {"min_decoded": 0.2, "counts": (6,)},
}


def main() -> None:
    args = arguments(__doc__, frames=48)
    results: dict[str, dict[str, dict[str, int]]] = {}
    totals = {way: Counter[str]() for way in WAYS}
    for way, settings in WAYS.items():
        results[way] = {}
        for name in CLIPS:
            with workspace() as folder:
                tally = damage_each_packet(folder, name, frames=args.frames, **settings)
            totals[way] += tally
            results[way][name] = dict(sorted(tally.items()))
            print(way, name, results[way][name], file=sys.stderr)
    wrong = {
        way: sum(total[key] for key in total if key.startswith("reported, wrong")) for way, total in totals.items()
    }
    save_result(
        "damage",
        {
            "settings": vars(args),
            "changes": [change.__name__ for change in CHANGES],
            "wrong_frames_where_a_plain_decode_reports_damage": wrong,
            "totals": {way: dict(sorted(total.items())) for way, total in totals.items()},
            "results": results,
        },
    )
    if any(wrong.values()):
        raise SystemExit(f"Frames were wrong where a plain decode reports damage: {wrong}")


if __name__ == "__main__":
    main()
