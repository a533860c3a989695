"""Scorers that come with the package; see `reelscribe.scores` for what a scorer is."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.errors import MissingExtraError, ModelError, SettingsError
from reelscribe.scores import ToScore

_MOST_FRAMES: Final = 8
"""Of a clip that `ClipScore` looks at, unless it is set."""


class ClipScore:
    """Cosine of a text's features with the mean of the frames', as CLIPScore has it, without its factor.

    Hessel et al. (2021), "CLIPScore: A Reference-free Evaluation Metric for Image Captioning".

    Args:
        model: hub name or folder of a checkpoint of CLIP, SigLIP, or another model of Transformers that has
            `get_image_features` and `get_text_features`. Texts are cut to what it takes: 77
            tokens in CLIP, 64 in SigLIP.
        frames: most frames of a clip to look at, evenly spread.
        device: "cpu", "cuda", ...; a GPU by default, if there is one.

    Raises:
        MissingExtraError: PyTorch or Transformers is not installed.
        ModelError: there is no such checkpoint, or its model has no such features.
    """

    def __init__(self, model: str, frames: int = _MOST_FRAMES, device: str = "auto") -> None:
        try:
            import torch
            from transformers import AutoModel, AutoProcessor
        except ImportError as exc:
            raise MissingExtraError(f"ClipScore needs {exc.name}: pip install 'reelscribe[transformers]'") from exc
        if frames < 1:
            raise SettingsError(f"frames of ClipScore must be at least 1; got {frames!r}.")
        device = ("cuda" if torch.cuda.is_available() else "cpu") if device == "auto" else device
        try:
            self._model = AutoModel.from_pretrained(model).eval().to(device)
            self._processor = AutoProcessor.from_pretrained(model)
        except Exception as exc:  # Transformers raises whatever a file led to
            raise ModelError(f"the model {model} of ClipScore cannot be loaded: {exc}") from exc
        if not (hasattr(self._model, "get_image_features") and hasattr(self._model, "get_text_features")):
            kind = type(self._model).__name__
            raise ModelError(
                f"ClipScore needs a model with features of images and of texts, as CLIP; {model} is {kind}."
            )
        self._frames, self._device = frames, device
        self._most_tokens = self._model.config.text_config.max_position_embeddings

    def __call__(self, clips: Sequence[ToScore]) -> list[list[float]]:
        """The cosine of each text with the frames of its clip."""
        import torch

        chosen = [_spread(clip.frames.pixels, self._frames) for clip in clips]
        images = [frame for frames in chosen for frame in frames]
        texts = [text for clip in clips for text in clip.texts]
        with torch.inference_mode():
            seen = self._features(self._model.get_image_features, images=images)
            # SigLIP was trained with texts that are filled up, and CLIP does not mind.
            said = self._features(
                self._model.get_text_features,
                text=texts,
                padding="max_length",
                truncation=True,
                max_length=self._most_tokens,
            )
        scores, frames_at, texts_at = [], 0, 0
        for clip, frames in zip(clips, chosen, strict=True):
            mean = torch.nn.functional.normalize(seen[frames_at : frames_at + len(frames)].mean(0), dim=0)
            scores.append((said[texts_at : texts_at + len(clip.texts)] @ mean).tolist())
            frames_at, texts_at = frames_at + len(frames), texts_at + len(clip.texts)
        return scores

    def _features(self, features: Callable[..., Any], **given: Any) -> Any:
        """Features of length 1, one a row."""
        import torch

        made = features(**self._processor(**given, return_tensors="pt").to(self._device))
        # Transformers 5 gives them among other outputs.
        return torch.nn.functional.normalize(getattr(made, "pooler_output", made).float(), dim=-1)


def _spread(pixels: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """At most this many frames, evenly spread."""
    chosen: NDArray[np.uint8] = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), most)).round().astype(int)]
    return chosen
