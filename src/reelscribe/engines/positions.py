"""Where the tokens of a prompt stand, as a loaded model says."""

from collections.abc import Mapping
from typing import Any

import torch

from reelscribe.engines.families import SOUND


class Positions:
    """Positions of tokens: a number each, or one each for time, height and width.

    `generate` asks the model by a hook of its own, which is not public; Transformers 5.16 to 5.24 have it.

    Args:
        model: a loaded one.
    """

    def __init__(self, model: Any) -> None:
        self._model = model

    def __call__(self, ids: torch.Tensor, beside: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Find the positions of a prompt's tokens.

        Args:
            ids: int64, shape (tokens,).
            beside: what else the model is fed with them: kinds of tokens, sizes and times of a video.

        Returns:
            Positions, shape (axes, tokens): int64, or float32 of a model that has some between whole numbers.
        """
        rows = ids[None]
        given: dict[str, Any] = {"input_ids": rows, "attention_mask": torch.ones_like(rows), **beside}
        if SOUND in beside:
            given["use_audio_in_video"] = True  # else they would be those of a sound that comes by itself
        found: torch.Tensor = self._model._prepare_position_ids_for_generation(rows, given)
        # Some models put plain positions before those of the three axes, for masks that are not needed here.
        return found if found.ndim == 2 else found[-3:, 0]
