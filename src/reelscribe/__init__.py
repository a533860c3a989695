"""Captions for video data sets with vision-language models.

Importing the package loads nothing heavy: each name below comes with its module when it is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from reelscribe.captioner import VideoCaption, VideoCaptioner
    from reelscribe.config import Settings
    from reelscribe.engines import load_engine
    from reelscribe.engines.fake import FakeEngine
    from reelscribe.errors import ReelscribeError
    from reelscribe.models import model_path
    from reelscribe.operators.video_captioning_from_vlm_mapper import VideoCaptioningFromVLMMapper
    from reelscribe.pipeline import caption, caption_rows
    from reelscribe.runners.local import run
    from reelscribe.runners.split import split
    from reelscribe.values import Caption, Clip, Failure, Request

_HOMES = {
    "Caption": "values",
    "Request": "values",
    "Clip": "values",
    "Failure": "values",
    "FakeEngine": "engines.fake",
    "ReelscribeError": "errors",
    "Settings": "config",
    "VideoCaption": "captioner",
    "VideoCaptioner": "captioner",
    "VideoCaptioningFromVLMMapper": "operators.video_captioning_from_vlm_mapper",
    "caption": "pipeline",
    "caption_rows": "pipeline",
    "load_engine": "engines",
    "model_path": "models",
    "run": "runners.local",
    "split": "runners.split",
}

__all__ = [
    "Caption",
    "Clip",
    "Failure",
    "FakeEngine",
    "ReelscribeError",
    "Request",
    "Settings",
    "VideoCaption",
    "VideoCaptioner",
    "VideoCaptioningFromVLMMapper",
    "caption",
    "caption_rows",
    "load_engine",
    "model_path",
    "run",
    "split",
]
__version__ = "0.2.0.dev0"


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return [*__all__, "__version__"]
