"""The package as a whole: what it offers, and what loading it costs."""

import importlib.metadata
import json
import subprocess
import sys

import pytest

import reelscribe

MODEL_LIBRARIES = {"torch", "torchvision", "transformers", "accelerate", "vllm", "ray"}
HEAVY = MODEL_LIBRARIES | {"av", "httpcore2", "httpx2", "numpy", "jinja2"}


def _loaded_by(code: str) -> set[str]:
    """The top-level modules that a fresh interpreter has after running code."""
    script = f"{code}\nimport json, sys\nprint(json.dumps(sorted({{n.partition('.')[0] for n in sys.modules}})))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(json.loads(done.stdout.splitlines()[-1]))


@pytest.mark.parametrize(
    "code",
    [
        "import reelscribe",
        "from reelscribe import Settings; Settings(sampling={'temperature': 0.7})",
        "from reelscribe import ReelscribeError",
        "from reelscribe.cli import main; main(['--help'], standalone_mode=False)",
        "from reelscribe.cli import main; main(['caption', '--help'], standalone_mode=False)",
        "from reelscribe.cli import main; main(['plan', '--help'], standalone_mode=False)",
        "from reelscribe.cli import main; main(['report', '--help'], standalone_mode=False)",
        "from reelscribe.cli import main; main(['export', '--help'], standalone_mode=False)",
    ],
)
def test_nothing_heavy_is_imported_before_it_is_needed(code: str) -> None:
    loaded = _loaded_by(code)
    assert "reelscribe" in loaded
    assert not loaded & HEAVY


def test_a_run_without_a_model_needs_no_model_library() -> None:
    loaded = _loaded_by("from reelscribe import FakeEngine, VideoCaptioningFromVLMMapper, caption, run; FakeEngine()")
    assert not loaded & MODEL_LIBRARIES


@pytest.mark.parametrize("name", reelscribe.__all__)
def test_every_public_name_resolves(name: str) -> None:
    assert getattr(reelscribe, name).__name__ == name


def test_public_names_are_listed() -> None:
    assert set(reelscribe.__all__) < set(dir(reelscribe))
    assert sorted(reelscribe.__all__) == list(reelscribe.__all__)


def test_unknown_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError, match="module 'reelscribe' has no attribute 'captoin'"):
        _ = reelscribe.captoin


def test_version_is_that_of_the_distribution() -> None:
    assert reelscribe.__version__ == importlib.metadata.version("reelscribe")
