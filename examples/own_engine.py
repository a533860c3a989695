"""An engine of your own: anything with `info` and `generate` can take a model's place."""

import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from reelscribe import Settings, run
from reelscribe.demo import prepare
from reelscribe.engines.base import ModelInfo
from reelscribe.values import Candidate, Generation, Work
from reelscribe.video.sampling import VisionLimits


class BrightnessEngine:
    """Says how bright a clip is, which takes no model."""

    info = ModelInfo(engine="mean", model="brightness", revision=None, limits=VisionLimits(max_frame_tokens=16))

    def generate(self, works: Iterator[Work]) -> Iterator[Generation]:
        for work in works:
            level = float(np.mean(work.frames.pixels)) / 255
            candidate = Candidate(text=f"A clip of brightness {level:.2f}.", stop_reason="stop", num_tokens=6)
            for request in work.requests:
                yield Generation(id=request.id, candidates=(candidate,), prompt_tokens=0)


data, _ = prepare(Path("clips"), clips=3)
run([data], Path("bright.jsonl"), Settings(), engine=BrightnessEngine())
for line in Path("bright.jsonl").read_text("utf-8").splitlines():
    row = json.loads(line)
    print(row["video"], row["caption"])
