"""The interface between the flow and the engines that run models: `generate` turns a stream of works into answers."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from reelscribe.values import Failure, Generation, Work
from reelscribe.video.sampling import Hearing, VisionLimits

USUAL_LIMITS: Final = VisionLimits(hearing=Hearing(rate=16000, tokens_per_second=13.0))
"""The limits that are assumed for models whose own are not known, such as those on a server: Qwen3-VL's, and for sound
Qwen3-Omni's. Whether a model on a server takes sound at all is found out when the engine is loaded."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What an engine runs. The record stores it, and the decoder follows its limits."""

    engine: str
    model: str
    """The name on the hub or the folder, as the user gave it."""
    revision: str | None
    """The commit of a hub model; None if it is not known."""
    limits: VisionLimits
    wants_frames: bool = True
    """Whether clips must be decoded. False for an engine that takes files; its works have `NO_FRAMES`."""
    gpus: int = 1
    """The number of GPUs that the engine keeps busy, from which costs are computed; 1 for a CPU or a server."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More fields for the record. They win over the fields that the flow sets."""
    others: "Mapping[str, ModelInfo]" = field(default_factory=dict)
    """For each task with an engine of its own, by name: what that engine runs."""

    def of(self, task: str) -> "ModelInfo":
        """What the engine of a task runs."""
        return self.others.get(task, self)


class Engine(Protocol):
    """Generates candidates for the requests of works."""

    @property
    def info(self) -> ModelInfo:
        """What the engine runs."""
        ...

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer each request of each work exactly once, in any order.

        The engine pulls as many works as it can work on, and no more: that is what slows the decoders down. How it
        batches them is up to the engine. The requests of a work are about the same clip, so that the engine may encode
        it once for all of them.

        An engine that is working on answers should not block in `next(works)`. With
        `reelscribe.engines.feed.feeding(works)` it gets a future of the next work instead. An engine that iterates must
        answer all works that it got once the iteration ends. It may then be called again with the works that follow.

        A request that the engine cannot answer becomes a `Failure` of kind "engine". If the engine reads files itself,
        a file that is at fault gives the kind that the decoder would give.

        Raises:
            EngineError: the engine broke, and no further request can be answered.
        """
        ...
