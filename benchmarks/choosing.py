"""The caption that is kept of several candidates: at random, the nearest to all others, the likeliest, the judged.

Clips of the built-in model's world, in its own form, so that a caption is right or wrong, letter by letter. The model
is sampled at a temperature at which about every second candidate is right. With --model, another checkpoint of it: one
that is undertrained, as tools/train_shapes/undertrain.py makes it, errs at temperature 1 by itself. Intervals are 95%,
by a paired bootstrap over clips. Agreement is held against what is right (AUC): how often that of a right caption is
higher than that of a wrong one, among the kept ones, and among all candidates. So is what the judge says.
"""

import json
from pathlib import Path
from typing import Final

import numpy as np
from common import arguments, save_result, workspace
from numpy.typing import NDArray

from reelscribe import Settings, run
from reelscribe.demo import write_clip
from reelscribe.models.shapes.scenes import random_scene
from reelscribe.selection import SELECTORS, chrf
from reelscribe.values import JUDGED, Candidate, Clip, Request, RequestId

_DRAWS: Final = 10_000
MODES: Final = ("random_any", "consensus", "likeliest", "judged")


def interval(differences: NDArray[np.float64], rng: np.random.Generator) -> list[float]:
    """What the mean of differences may be, in points."""
    means = differences[rng.integers(0, len(differences), (_DRAWS, len(differences)))].mean(1)
    return [round(100 * float(bound), 1) for bound in np.quantile(means, (0.025, 0.975))]


def auc(scores: NDArray[np.float64], right: NDArray[np.bool_]) -> float:
    """How often a right one's score is above a wrong one's; a tie is half of that."""
    above = scores[right][:, None] - scores[~right]
    return round(float(((above > 0) + 0.5 * (above == 0)).mean()), 3)


def main() -> None:
    args = arguments(__doc__, model="shapes", clips=500, candidates=8, temperature=1.8, seed=90211)
    rng = np.random.default_rng(args.seed)
    scenes = [random_scene(rng) for _ in range(args.clips)]
    with workspace() as folder:
        clips = folder / "clips"
        clips.mkdir()
        for number, scene in enumerate(scenes):
            write_clip(clips / f"{number:05d}.mp4", scene, width=320, height=240, fps=24, seconds=4.0)
        settings = Settings(
            model=args.model,
            num_captions=args.candidates,
            keep="judged",  # so that candidates have all scores
            sampling={"temperature": args.temperature},
        )
        run([clips], folder / "out.jsonl", settings)
        made = candidates_of(folder / "out.jsonl")
    truth = [scene.caption for scene in scenes]
    share = np.mean([[one.text == right for one in each] for each, right in zip(made, truth, strict=True)])
    kept = {mode: np.zeros(len(made), bool) for mode in MODES}
    agreements = np.zeros(len(made))
    of_all: list[tuple[float, bool]] = []
    judged: list[tuple[float, bool]] = []
    for number, each in enumerate(made):
        request = Request(id=RequestId(row=number), clip=Clip(source=""), prompt="", seed=number)
        for mode in MODES:
            chosen = SELECTORS[mode](each, request)
            kept[mode][number] = each[chosen.kept[0]].text == truth[number]
            agreements[number] = chosen.agreement or agreements[number]
        near = chrf([one.text for one in each])
        judged += [(one.scores[JUDGED], one.text == truth[number]) for one in each if JUDGED in one.scores]
        of_all += zip((near.sum(1) - 1) / (len(each) - 1), [one.text == truth[number] for one in each], strict=True)
    gains = {mode: kept[mode].astype(float) - kept["random_any"] for mode in MODES[1:]}
    save_result(
        "choosing" if args.model == "shapes" else "choosing-undertrained",
        {
            "settings": {**vars(args), "model": Path(args.model).name},
            "candidates_right": round(100 * float(share), 1),
            "right": {mode: round(100 * float(right.mean()), 1) for mode, right in kept.items()},
            "gains": {mode: round(100 * float(gain.mean()), 1) for mode, gain in gains.items()},
            "gains_intervals": {mode: interval(gain, rng) for mode, gain in gains.items()},
            "agreement_auc": {
                "kept": auc(agreements, kept["consensus"]),
                "all": auc(*(np.array(part) for part in zip(*of_all, strict=True))),
            },
            "judged_auc": auc(*(np.array(part) for part in zip(*judged, strict=True))),
        },
    )


def candidates_of(output: Path) -> list[list[Candidate]]:
    """All candidates of each row, in order."""
    with output.open(encoding="utf-8") as lines:
        rows = [json.loads(line) for line in lines]
    metas = [row["caption_meta"] for row in rows]
    return [
        [
            Candidate(text=text, stop_reason="stop", num_tokens=None, mean_logprob=likely, scores=json.loads(scores))
            for text, likely, scores in zip(
                row["caption_candidates"], meta["mean_logprobs"], meta["scores"], strict=True
            )
        ]
        for row, meta in zip(rows, metas, strict=True)
    ]


if __name__ == "__main__":
    main()
