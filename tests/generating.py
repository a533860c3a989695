"""What tests of engines share: how to ask one, and what to ask it for."""

import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from flow import named

from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.models import model_path
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Clip, Failure, Frames, Generation, Request, Work

SHAPES = Path(model_path("shapes"))
GREEDY = SamplingParams(temperature=0.0, max_tokens=10)
WILD = SamplingParams(temperature=1.5, max_tokens=8)


class Ids:
    """A tokenizer that shows token ids, so that texts can be compared token for token."""

    eos_token_id = None

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        return " ".join(map(str, tokens))


def variant(engine: TransformersEngine, *, batch_size: int = 8, show_ids: bool = False) -> TransformersEngine:
    """The same model with another batch size, or with texts that list token ids."""
    twin = copy.copy(engine)
    twin._batch_size = batch_size
    if show_ids:
        twin._rules = TokenRules(Ids(), engine._model.generation_config)
    return twin


def noise(number: int, candidates: int, **told: Any) -> Work:
    """A clip of noise; the higher its number, the longer are clip and prompt."""
    frames = 4 + 2 * number
    request = Request(
        id=named(f"{number}"),
        clip=Clip(source="a.mp4"),
        prompt="What?" * (number + 1),
        num_captions=candidates,
        sampling=SamplingParams(**{"temperature": 0.7, "top_p": 0.8, "top_k": 20, "max_tokens": 50, **told}),
    )
    shown = Frames(
        pixels=np.random.default_rng(number).integers(0, 256, (frames, 64, 64, 3), dtype=np.uint8),
        timestamps=tuple(0.5 * each for each in range(frames)),
        duration_seconds=0.5 * frames,
        video_tokens=0,
    )
    return Work(requests=(request,), frames=shown)


def answers(engine: TransformersEngine, *batch: Work) -> dict[str, Generation | Failure]:
    replies = list(engine.generate(iter(batch)))
    assert len(replies) == len(batch)
    return {reply.id.task: reply for reply in replies}


def texts(engine: TransformersEngine, *batch: Work) -> dict[str, list[str]]:
    """Texts of the candidates by key; a failure has none."""
    return {
        key: [made.text for made in reply.candidates] if isinstance(reply, Generation) else []
        for key, reply in answers(engine, *batch).items()
    }
