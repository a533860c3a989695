"""The published method, for comparison: one video, one candidate at a time, each with vision, prefill and decoding.

Written anew from its description. It is given the same frames at the same size, so that only the method differs.
"""

from pathlib import Path
from typing import Any

import torch

from reelscribe.config import Settings
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.prompts import DEFAULT_PROMPT
from reelscribe.schema import CaptionRequest, Clip, Frames, PreparedRequest
from reelscribe.video.decode import decode
from reelscribe.video.sampling import FrameBudget


class SerialBaseline:
    """Wraps a loaded engine's model and processor; calls `generate` once a candidate."""

    def __init__(self, engine: TransformersEngine, settings: Settings) -> None:
        self._engine = engine
        self._model: Any = engine._model
        self._budget = FrameBudget.of(settings, engine.info.limits)

    def caption_files(self, files: list[Path], *, num_captions: int, max_tokens: int) -> list[list[str]]:
        decoded = (decode(Clip(source=str(file)), self._budget) for file in files)
        return [self.caption_frames(frames, num_captions=num_captions, max_tokens=max_tokens) for frames in decoded]

    @torch.inference_mode()
    def caption_frames(self, frames: Frames, *, num_captions: int, max_tokens: int) -> list[str]:
        request = CaptionRequest(key="", clip=Clip(source="x"), prompt=DEFAULT_PROMPT)
        texts = []
        for _ in range(num_captions):
            inputs = self._engine.inputs([PreparedRequest(request=request, frames=frames)]).to(self._model.device)
            ids = self._model.generate(**inputs, max_new_tokens=max_tokens, do_sample=True, temperature=1.0)
            texts.append(self._engine._processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]))
        return texts
