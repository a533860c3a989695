"""Running the vision and audio encoders once for a clip, however many prefixes hold it."""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final

import torch

_FEATURES: Final = ("get_video_features", "get_image_features", "get_audio_features")
"""The methods with which models of Transformers encode pixels and sound."""


class OneLook:
    """Caches the features of the last video, so that several forward passes with it run the encoders only once.

    Args:
        model: a loaded model.
    """

    def __init__(self, model: Any) -> None:
        inner = getattr(model, "model", None)
        self._owners = [each for each in (model, inner) if each is not None]
        self._video: Mapping[str, torch.Tensor] | None = None
        self._made: dict[str, Any] = {}

    @contextmanager
    def at(self, video: Mapping[str, torch.Tensor]) -> Iterator[None]:
        """Inside this context, the model reuses the features of the last call if that had the same video.

        The encoder methods of the model are replaced on the instance, and restored at the end.

        Args:
            video: the inputs of the encoders, by name. The same video means the same object.
        """
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
        """Drop the cached features."""
        self._video, self._made = None, {}

    def _once(self, name: str, make: Callable[..., Any]) -> Callable[..., Any]:
        def features(*args: Any, **kwargs: Any) -> Any:
            if name not in self._made:
                self._made[name] = make(*args, **kwargs)
            return self._made[name]

        return features
