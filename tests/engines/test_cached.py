"""What a cache takes of memory, as it is reckoned before and as it is."""

from pathlib import Path

import numpy as np
import pytest
import tiny_checkpoints
import torch
from flow import named
from generating import GREEDY
from transformers import AutoConfig, AutoModelForMultimodalLM

from reelscribe.engines.cached import CacheCost
from reelscribe.engines.inputs import most_tokens
from reelscribe.engines.layers import StateLayer
from reelscribe.engines.planning import ModelSize
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.values import Clip, Frames, Request, Work

CANDIDATES = 3


FAMILIES = [name for name in ("qwen3_5", "lfm3_vl", "qwen3_vl") if name in tiny_checkpoints.NAMES]


@pytest.fixture(scope="module", params=FAMILIES)
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    name: str = request.param
    return tiny_checkpoints.make(name, tmp_path_factory.mktemp("tiny") / name)


def work(engine: TransformersEngine) -> Work:
    side = 2 * engine.info.limits.token_pixels
    request = Request(
        id=named("a"), clip=Clip(source="a.mp4"), prompt="What?", num_captions=CANDIDATES, sampling=GREEDY
    )
    pixels = np.zeros((4, side, side, 3), dtype=np.uint8)
    frames = Frames(pixels=pixels, timestamps=(0.0, 0.5, 1.0, 1.5), duration_seconds=2.0, video_tokens=0)
    return Work(requests=(request,), frames=frames)


def test_tokens_and_states_take_what_is_reckoned(folder: Path) -> None:
    engine = TransformersEngine(str(folder), device="cpu")
    cost, batch = engine._cost, engine._new_batch()
    prepared = engine._inputs.prepare(work(engine))
    batch.join([prepared])
    states = keys = 0
    for layer in batch._cache.layers:  # type: ignore[union-attr]
        if isinstance(layer, StateLayer):
            states += sum(state.nbytes for state in layer._states())
        else:
            keys += sum(part.nbytes for part in layer.prefix)
    assert states == CANDIDATES * cost.row_bytes
    assert keys == len(prepared.prefixes[0].ids) * cost.token_bytes
    assert bool(states) == (folder.name != "qwen3_vl")
    with_states = engine._tokens_of([prepared])
    assert with_states == most_tokens([prepared]) + CANDIDATES * cost.row_tokens
    assert cost.row_tokens * cost.token_bytes >= cost.row_bytes > (cost.row_tokens - 1) * cost.token_bytes


def test_a_plan_counts_states_of_a_model_that_is_not_loaded(folder: Path) -> None:
    size = ModelSize.of(AutoConfig.from_pretrained(folder))
    model = AutoModelForMultimodalLM.from_pretrained(folder, dtype=torch.bfloat16)
    assert size.state_bytes == CacheCost.of(model, model.device).row_bytes
    assert size.is_exact
    assert size.gpu_bytes(2, 100, sequences=7) - size.gpu_bytes(2, 100) == 7 * size.state_bytes // 2


def test_states_that_cannot_be_measured_are_a_warning(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fails(*_: object) -> None:
        raise RuntimeError("made up")

    monkeypatch.setattr(CacheCost, "of", fails)
    size = ModelSize.of(AutoConfig.from_pretrained(folder))
    assert (size.state_bytes, size.is_exact) == (0, True)
    assert ("are not counted, since it cannot be run: made up" in caplog.text) == (folder.name != "qwen3_vl")
