"""One look at a clip, however many prefixes it is read with."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

_FEATURES: Final = ("get_video_features", "get_image_features", "get_audio_features")
"""Methods by which models of Transformers make features of pixels and of sound."""


class OneLook:
    """Lets a model make the features of a video once for several passes through its language model.

    Args:
        model: a loaded one.
    """

    def __init__(self, model: Any) -> None:
        inner = getattr(model, "model", None)
        self._owners = [each for each in (model, inner) if each is not None]
        self._video: Mapping[str, torch.Tensor] | None = None
        self._made: dict[str, Any] = {}

    @contextmanager
    def at(self, video: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """While the model looks at this video, its features are those of the last time, if that is the same."""
        if video is not self._video:
            self._video, self._made = video, {}
        wrapped = []
        for owner in self._owners:
            for name in _FEATURES:
                if hasattr(owner, name):
                    owner.__dict__[name] = self._once(name, getattr(owner, name))
                    wrapped.append((owner, name))
        try:
            yield
        finally:
            for owner, name in wrapped:
                del owner.__dict__[name]

    def forget(self) -> None:
        """Hold no features any longer."""
        self._video, self._made = None, {}

    def _once(self, name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def features(*args: Any, **kwargs: Any) -> Any:
            if name not in self._made:
                self._made[name] = make(*args, **kwargs)
            return self._made[name]

        return features
