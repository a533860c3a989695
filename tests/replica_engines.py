"""Engines for replicas, as their processes load them: they behave as the prompt says, and tell where they ran."""

import os
import signal
import threading
from pathlib import Path
from typing import Final

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.engines.fake import FakeEngine
from reelscribe.errors import ModelError
from reelscribe.values import Work

STUCK: Final = "RS_STUCK"
"""A variable: a named pipe. The first answer of the replica that has it waits until somebody writes there."""
REFUSES: Final = "RS_REFUSES"
"""A variable with which a replica cannot be loaded."""


def _reply(work: Work, _: int) -> str:
    if fifo := os.environ.pop(STUCK, None):
        with Path(fifo).open("rb", buffering=0) as pipe:
            pipe.read(1)
    prompt = work.requests[0].prompt
    if prompt == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    if prompt == "raise":
        raise ZeroDivisionError("of this replica")
    if prompt == "hang":
        threading.Event().wait()
    pixels = work.frames.pixels
    pixels += 0  # as PyTorch does, it wants memory that can be written to
    return f"{os.getpid()} {pixels.shape} {int(pixels.sum())} {len(work.frames.timestamps)}"


def load(settings: Settings) -> Engine:
    """The engine of a replica."""
    if os.environ.get(REFUSES):
        raise ModelError("the model is not there")
    return FakeEngine(_reply)
