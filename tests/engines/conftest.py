"""Models and clips for the tests of engines."""

from typing import TYPE_CHECKING, Any

import pytest
from conftest import Prepare

from reelscribe.sampling_params import SamplingParams
from reelscribe.schema import PreparedRequest

if TYPE_CHECKING:
    from reelscribe.engines.transformers import TransformersEngine


@pytest.fixture(scope="session")
def varied(prepare: Prepare) -> list[PreparedRequest]:
    """Clips of several lengths and sizes, with prompts of several lengths."""
    shapes = [(4, (96, 64)), (7, (64, 96)), (2, (32, 32)), (12, (160, 96)), (5, (96, 64)), (8, (96, 96))]
    return [
        prepare(
            f"clip {number}",
            frames=frames,
            size=size,
            prompt="Describe the video. " * (number + 1),
            sampling=SamplingParams(temperature=0.0, max_tokens=10),
        )
        for number, (frames, size) in enumerate(shapes)
    ]


@pytest.fixture(scope="session")
def lively_engine() -> "TransformersEngine":
    """A model of the same shape whose every token hangs on all pixels, positions and tokens before it.

    A trained model is too sure of its words, and a freshly made one too dull, to show that something is slightly off.
    """
    import torch

    from reelscribe.engines.transformers import TransformersEngine

    engine = TransformersEngine("shapes", device="cpu", dtype="float32")
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in engine._model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=2 * weight[0].numel() ** -0.5, generator=generator)
    return engine


@pytest.fixture(scope="session")
def plain_model(lively_engine: "TransformersEngine") -> Any:
    """The lively model as Transformers runs it."""
    import torch
    from transformers import AutoModelForImageTextToText

    from reelscribe.models import model_path

    model = AutoModelForImageTextToText.from_pretrained(model_path("shapes"), dtype=torch.float32).eval()
    model.load_state_dict(lively_engine._model.state_dict())
    return model


@pytest.fixture
def quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine for servers with short pauses, and with nothing of this machine's settings."""
    from reelscribe.engines import openai

    monkeypatch.setattr(openai, "BACK_OFF_SECONDS", 0.002)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
