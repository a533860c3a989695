"""Models and clips for the tests of engines."""

import shutil
from typing import TYPE_CHECKING, Any

import pytest
from conftest import Prepare

from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Work

if TYPE_CHECKING:
    from reelscribe.engines.transformers import TransformersEngine


@pytest.fixture(scope="session")
def varied(prepare: Prepare) -> list[Work]:
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
def plain_model() -> Any:
    """A model whose every token hangs on all pixels, positions and tokens before it, as Transformers runs it.

    A trained model is too sure of its words, and a freshly made one too dull, to show that something is slightly off.
    """
    import torch
    from transformers import AutoModelForImageTextToText

    from reelscribe.models import model_path

    model = AutoModelForImageTextToText.from_pretrained(model_path("shapes"), dtype=torch.float32).eval()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=2 * weight[0].numel() ** -0.5, generator=generator)
    return model


@pytest.fixture(scope="session")
def lively_engine(plain_model: Any, tmp_path_factory: pytest.TempPathFactory) -> "TransformersEngine":
    """The same in the engine."""
    from reelscribe.engines.transformers import TransformersEngine
    from reelscribe.models import model_path

    folder = tmp_path_factory.mktemp("models") / "lively"
    shutil.copytree(model_path("shapes"), folder)
    plain_model.save_pretrained(folder)
    return TransformersEngine(str(folder), device="cpu", dtype="float32")


@pytest.fixture
def quick_and_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The engine for servers with short pauses, and with nothing of this machine's settings."""
    from reelscribe.engines import openai

    monkeypatch.setattr(openai, "BACK_OFF_SECONDS", 0.002)
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
