"""The position ids of a prompt's tokens, computed by the loaded model itself."""

from collections.abc import Mapping
from typing import Any

import torch

from reelscribe.engines.families import SOUND


class Positions:
    """Finds the positions of tokens: one number for each token, or three, for time, height and width.

    Calls a private method of the model, the one that `generate` uses. Transformers 5.16 to 5.24 have it.

    Args:
        model: a loaded model.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: torch.Tensor, beside: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Find the positions of a prompt's tokens.

        Args:
            ids: the tokens, int64, shape (tokens,).
            beside: the model's other inputs that matter: kinds of tokens, sizes and times of a video.

        Returns:
            Positions, shape (axes, tokens): int64, or float32 for a model with positions between whole numbers.
        """
        rows = ids[None]
        given: dict[str, Any] = {"input_ids": rows, "attention_mask": torch.ones_like(rows), **beside}
        if SOUND in beside:
            given["use_audio_in_video"] = True  # else the model takes the sound for one without a video
        found: torch.Tensor = self._model._prepare_position_ids_for_generation(rows, given)
        # Some models put text positions before those of the three axes, to make masks from. They are not needed here.
        return found if found.ndim == 2 else found[-3:, 0]
