"""How many inventions `verify` finds, and how often it doubts what is true.

Clips of the built-in model's world, and texts about them of three forms: its caption, one sentence; its long form, two;
and six short ones, one about each fact. Each is verified as it is true, and once more with an invention: the color or
the motion is another, in turns. An invention is found if a claim that has it fails. A false alarm is a true claim that
fails, in either text. Intervals are 95%, by Wilson's score.
"""

import json
import math
from collections.abc import Sequence
from typing import Any, Final

import numpy as np
from common import arguments, save_result, workspace

from reelscribe import Settings, run
from reelscribe.claims import claims_in
from reelscribe.demo import write_clip
from reelscribe.models.shapes.scenes import FIELDS, Scene, change_fact, random_scene

_PLANTED: Final = ("color", "motion")
"""What is invented, in turns."""
_DEVIATIONS: Final = 1.96
"""Of a normal distribution, for an interval of 95%."""


def texts_of(scene: Scene, planted: Scene, field: str) -> dict[str, tuple[str, str]]:
    """The forms of a text: true, and with the invention."""
    claims = {**scene.claims, field: planted.claims[field]}
    facts, wrong = (" ".join(each[name] for name in FIELDS) for each in (scene.claims, claims))
    return {
        "sentence": (scene.caption, planted.caption),
        "long": (scene.detail, planted.detail),
        "facts": (facts, wrong),
    }


def interval(count: int, total: int) -> list[float]:
    """Wilson's (1927) for a share, in percent."""
    share, square = count / total, _DEVIATIONS**2
    middle = (share + square / (2 * total)) / (1 + square / total)
    half = _DEVIATIONS / (1 + square / total) * math.sqrt(share * (1 - share) / total + square / (4 * total**2))
    return [round(100 * max(middle - half, 0.0), 1), round(100 * min(middle + half, 1.0), 1)]


def told(counted: Sequence[bool]) -> dict[str, Any]:
    """How many, and the share in percent."""
    count, total = sum(counted), len(counted)
    return {
        "count": count,
        "of": total,
        "percent": round(100 * count / total, 1),
        "interval": interval(count, total),
    }


def failed_of(row: dict[str, Any], task: str) -> dict[str, bool]:
    """The claims of a text, and whether each failed."""
    meta = row[f"{task}_meta"]
    if meta is None or row[f"{task}_failure"]:
        raise RuntimeError(f"{task}: {row[f'{task}_failure']}")
    failed = meta["failed_claims"].splitlines()
    return {claim: claim in failed for claim in json.loads(meta["claims"][0])}


def main() -> None:
    args = arguments(__doc__, clips=320, seed=70517, model="shapes")
    rng = np.random.default_rng(args.seed)
    scenes = [random_scene(rng) for _ in range(args.clips)]
    fields = [_PLANTED[number % len(_PLANTED)] for number in range(args.clips)]
    texts = [
        texts_of(scene, change_fact(scene, field, rng), field) for scene, field in zip(scenes, fields, strict=True)
    ]
    with workspace() as folder:
        rows = []
        for number, (scene, forms) in enumerate(zip(scenes, texts, strict=True)):
            write_clip(folder / f"{number:05d}.mp4", scene, width=320, height=240, fps=24, seconds=4.0)
            columns = {
                f"{form}_{kind}": text for form, pair in forms.items() for kind, text in zip("ab", pair, strict=True)
            }
            rows.append({"video": f"{number:05d}.mp4", **columns})
        (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        names = [name for name in rows[0] if name != "video"]
        tasks = {f"of_{name}": {"verifies": f"{{{name}}}"} for name in names}
        run([folder / "clips.jsonl"], folder / "out.jsonl", Settings(model=args.model, tasks=tasks))
        made = [json.loads(line) for line in (folder / "out.jsonl").read_text().splitlines()]
    save_result(
        "verifying", {"settings": vars(args), "forms": {form: counted(form, texts, fields, made) for form in texts[0]}}
    )


def counted(
    form: str, texts: Sequence[dict[str, tuple[str, str]]], fields: Sequence[str], made: Sequence[dict[str, Any]]
) -> dict[str, Any]:
    """What was found in texts of a form."""
    found: dict[str, list[bool]] = {field: [] for field in _PLANTED}
    alarms: dict[int, list[bool]] = {}
    for forms, field, row in zip(texts, fields, made, strict=True):
        true = claims_in(forms[form][0])
        as_it_is = failed_of(row, f"of_{form}_a")
        planted = failed_of(row, f"of_{form}_b")
        found[field].append(any(failed for claim, failed in planted.items() if claim not in true))
        for failed in (as_it_is, planted):
            for place, claim in enumerate(true):
                if claim in failed:
                    alarms.setdefault(place, []).append(failed[claim])
    return {
        "found": {field: told(each) for field, each in found.items()},
        "false_alarms": told([alarm for each in alarms.values() for alarm in each]),
        "false_alarms_by_claim": [told(alarms[place]) for place in sorted(alarms)],
    }


if __name__ == "__main__":
    main()
