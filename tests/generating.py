"""What tests of engines share: how to ask one, and what to ask it for."""

import copy
from collections.abc import Sequence
from pathlib import Path

from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.models import model_path
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Failure, Generation, Work

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
