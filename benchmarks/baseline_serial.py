"""The published method, for comparison: one video, one candidate at a time, each with vision, prefill and decoding.

Written anew from its description. It is given the same frames at the same size, so that only the method differs.
"""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForImageTextToText, AutoProcessor

from reelscribe.config import Settings
from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.tasks import DEFAULT_PROMPT
from reelscribe.values import Clip, Frames
from reelscribe.video.decode import decode
from reelscribe.video.sampling import FrameBudget


class SerialBaseline:
    """A checkpoint as Transformers loads it; `generate` is called once a candidate."""

    def __init__(self, settings: Settings) -> None:
        place = "cuda" if torch.cuda.is_available() else "cpu"
        self.model: Any = AutoModelForImageTextToText.from_pretrained(settings.model, dtype="auto", device_map=place)
        self.processor: Any = AutoProcessor.from_pretrained(settings.model)
        self.budget = FrameBudget.of(settings, Checkpoint.load(settings.model, revision=None).limits)

    def caption_files(self, files: list[Path], *, num_captions: int, max_tokens: int) -> list[list[str]]:
        decoded = (decode(Clip(source=str(file)), self.budget) for file in files)
        return [self.caption_frames(frames, num_captions=num_captions, max_tokens=max_tokens) for frames in decoded]

    def inputs(self, *clips: Frames, prompt: str = DEFAULT_PROMPT) -> Any:
        """What the model is fed for clips."""
        content = [{"type": "video"}, {"type": "text", "text": prompt}]
        text = self.processor.apply_chat_template(
            [{"role": "user", "content": content}], tokenize=False, add_generation_prompt=True
        )
        times = [list(frames.timestamps) for frames in clips]
        inputs = self.processor(
            text=[text] * len(clips),
            videos=[frames.pixels.transpose(0, 3, 1, 2) for frames in clips],
            video_metadata=[{"fps": 1.0, "frames_indices": each, "total_num_frames": len(each)} for each in times],
            do_sample_frames=False,
            do_resize=False,
            padding=True,
            return_tensors="pt",
        ).to(self.model.device)
        inputs.pop("video_metadata", None)
        return inputs

    @torch.inference_mode()
    def caption_frames(self, frames: Frames, *, num_captions: int, max_tokens: int) -> list[str]:
        inputs = self.inputs(frames)
        texts = []
        for _ in range(num_captions):
            ids = self.model.generate(**inputs, max_new_tokens=max_tokens, do_sample=True, temperature=1.0)
            texts.append(self.processor.tokenizer.decode(ids[0, inputs["input_ids"].shape[1] :]))
        return texts
