"""What several test files need: the built-in model, loaded once, and requests for it without any file."""

import importlib.util
import os
import shutil
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
from flow import named

from reelscribe.models.shapes.scenes import random_scene, render
from reelscribe.values import Clip, Frames, Request, Work
from reelscribe.video.sampling import VisionLimits, count_video_tokens

if TYPE_CHECKING:
    from reelscribe.engines.transformers import TransformersEngine

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def _there(*modules: str) -> bool:
    return all(importlib.util.find_spec(module) is not None for module in modules)


NEEDED = {
    "vllm": ("vLLM", "make test-vllm", _there("vllm")),
    "ray": ("Ray", "pip install -e '.[dev]'", _there("ray")),
    "data_juicer": ("Data-Juicer or Ray", "pip install -e '.[dev]'", _there("data_juicer", "ray")),
    "model_packages": ("num2words or timm", "pip install -e '.[dev]'", _there("num2words", "timm")),
    "browser": ("Chromium", "make browser", shutil.which("chromium") is not None),
}
"""Marker of tests to what they need, the command that brings it, and whether it is there."""

collect_ignore: list[str] = []
if importlib.util.find_spec("torch") is None:  # only the extra brings it
    collect_ignore += [
        f"engines/test_{name}.py"
        for name in (
            "branching",
            "cached",
            "describing",
            "families",
            "inputs",
            "judging",
            "late",
            "launches",
            "omni",
            "packed",
            "quantised",
            "repeatable",
            "running",
            "sampling",
            "sharing",
            "thinking",
            "transformers",
            "vllm_families",
            "vllm_server",
            "waiting",
        )
    ]
if not _there("torch", "llguidance"):
    collect_ignore += ["engines/test_constraints.py"]
if importlib.util.find_spec("httpx2") is None:
    collect_ignore += [
        f"engines/test_{name}.py"
        for name in ("chat", "gate", "openai", "openai_load", "openai_runs", "server", "vllm_server")
    ]
if importlib.util.find_spec("pyarrow") is None:
    collect_ignore += ["dataset/formats/test_arrow.py", "integrations/test_ray_stage.py"]
if not _there("furo", "myst_parser", "sphinx"):
    collect_ignore += ["test_site.py"]
if not _there("prometheus_client"):
    collect_ignore += ["runners/test_metrics.py"]
if any(importlib.util.find_spec(name) is None for name in ("jinja2", "playwright")):
    collect_ignore += ["report", "compare/test_page_in_browser.py"]


@pytest.hookimpl(trylast=True)  # when those that -m leaves out are gone
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Without what they need, tests are skipped, and loudly; where the variable CI is set, that is an error."""
    for marker, (name, _, there) in NEEDED.items():
        without = [item for item in items if item.get_closest_marker(marker) and not there]
        if without and os.environ.get("CI"):
            raise pytest.UsageError(
                f"CI is set, so the {len(without)} tests that need {name} must run; it is not installed."
            )
        for item in without:
            item.add_marker(pytest.mark.skip(reason=f"{name} is not installed"))


def pytest_terminal_summary(terminalreporter: Any) -> None:
    """Say what was skipped for want of what it needs."""
    for name, command, _ in NEEDED.values():
        reason = f"{name} is not installed"
        skipped = [report for report in terminalreporter.getreports("skipped") if reason in str(report.longrepr)]
        if skipped:
            terminalreporter.section(f"{len(skipped)} TESTS SKIPPED: {reason}; `{command}` has it", "!")


Prepare = Callable[..., Work]


@pytest.fixture(scope="session")
def shapes_engine() -> "TransformersEngine":
    """The built-in model on the CPU, in float32. Tests copy it before they change its attributes."""
    import torch

    from reelscribe.engines.transformers import TransformersEngine

    torch.set_num_threads(min(os.cpu_count() or 1, 2))
    return TransformersEngine("shapes", device="cpu", dtype="float32")


@pytest.fixture(scope="session")
def prepare() -> Prepare:
    """Makes requests whose frames are rendered, not decoded: `prepare("key", frames=5, size=(96, 64), num_captions=4)`.

    `frames`, `size` (width, height) and `timestamps` shape the clip; what is shown depends on the key alone. All other
    keywords go into the `Request`.
    """

    def make(
        key: str,
        *,
        frames: int = 4,
        size: tuple[int, int] = (96, 64),
        timestamps: Sequence[float] | None = None,
        prompt: str = "Describe the video in one sentence.",
        **request: Any,
    ) -> Work:
        times = tuple(timestamps or (0.5 * number for number in range(frames)))
        width, height = size
        scene = random_scene(np.random.default_rng(list(key.encode())))
        pixels = render(scene, width=width, height=height, at=np.linspace(0, 1, len(times)).tolist())
        return Work(
            requests=(Request(id=named(key), clip=Clip(source=f"{key}.mp4"), prompt=prompt, **request),),
            frames=Frames(
                pixels=pixels,
                timestamps=times,
                duration_seconds=times[-1] + 0.5,
                video_tokens=count_video_tokens(width, height, len(times), VisionLimits()),
            ),
        )

    return make
