"""The seam between the flow and what runs a model: one verb, a stream on both sides."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Protocol

from reelscribe.values import Failure, Generation, Work
from reelscribe.video.sampling import Hearing, VisionLimits

USUAL_LIMITS: Final = VisionLimits(hearing=Hearing(rate=16000, tokens_per_second=13.0))
"""Of models that cannot be asked, as those on a server: Qwen3-VL's, with the ears of Qwen3-Omni. Whether it has any is
seen when it is loaded."""


@dataclass(frozen=True, kw_only=True)
class ModelInfo:
    """What is running, for the record and for the decoder."""

    engine: str
    model: str
    """Hub name or folder, as given."""
    revision: str | None
    """Commit of a hub model, where it is known."""
    limits: VisionLimits
    wants_frames: bool = True
    """Whether clips are to be decoded; False for an engine that takes the files, and gets `NO_FRAMES`."""
    gpus: int = 1
    """GPUs that it keeps busy, by which its cost is reckoned; 1 for a CPU, and for a server."""
    details: Mapping[str, Any] = field(default_factory=dict)
    """More for the record; what stands here wins over what the flow says itself."""
    others: "Mapping[str, ModelInfo]" = field(default_factory=dict)
    """What answers those tasks that have an engine of their own."""

    def of(self, task: str) -> "ModelInfo":
        """What answers a task."""
        return self.others.get(task, self)


class Engine(Protocol):
    """Generates candidates for the requests of works."""

    @property
    def info(self) -> ModelInfo:
        """What is running."""
        ...

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Answer each request of each work once, in any order.

        The engine pulls as many works as it can keep busy and no more: that is what holds the decoders back.
        Batching is its own affair. The requests of a work are about one clip, which the engine may look at once for all
        of them. An engine with answers under way should not wait in `next`: with
        `reelscribe.engines.feed.feeding(works)` it asks for a future of the next work instead. One that iterates
        has to answer all that it was given once iteration ends; it may then be called again with those that follow.
        A request that it cannot answer becomes a Failure of kind "engine", or, where the
        engine reads the file itself, of the kind that is wrong with that.

        Raises:
            EngineError: the engine broke, and no further request can be answered.
        """
        ...
