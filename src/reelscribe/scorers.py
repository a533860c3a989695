"""Scorers that come with the package; see `reelscribe.scores` for what a scorer is."""

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.errors import MissingExtraError, ModelError, SettingsError
from reelscribe.scores import ToScore

_MOST_FRAMES: Final = 8
"""The most frames of a clip that `ClipScore` looks at, by default."""


class ClipScore:
    """The cosine of a text's features with the mean of the frames' features: CLIPScore without its factor.

    Hessel et al. (2021), "CLIPScore: A Reference-free Evaluation Metric for Image Captioning".

    Args:
        model: hub name or folder of a checkpoint of CLIP, SigLIP, or another model of Transformers that has
            `get_image_features` and `get_text_features`. Texts are cut to the length that it takes: 77 tokens for CLIP,
            64 for SigLIP.
        frames: the most frames of a clip to look at, evenly spread.
        device: "cpu", "cuda", ...; "auto" for a GPU if there is one.

    Raises:
        MissingExtraError: PyTorch or Transformers is not installed.
        SettingsError: `frames` is less than 1.
        ModelError: the checkpoint cannot be loaded, or its model has no such features.
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
            # SigLIP was trained with texts padded to the full length, and CLIP works with padding, too.
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
        """The features of images or texts, float32, shape (inputs, features), each normalised to length 1."""
        import torch

        made = features(**self._processor(**given, return_tensors="pt").to(self._device))
        # Transformers 5 returns the features as `pooler_output` among other outputs.
        return torch.nn.functional.normalize(getattr(made, "pooler_output", made).float(), dim=-1)


def _spread(pixels: NDArray[np.uint8], most: int) -> NDArray[np.uint8]:
    """At most `most` frames, evenly spread over the clip."""
    chosen: NDArray[np.uint8] = pixels[np.linspace(0, len(pixels) - 1, min(len(pixels), most)).round().astype(int)]
    return chosen
