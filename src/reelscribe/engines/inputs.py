"""Requests to what a Qwen3-VL model is fed.

The checkpoint's processor says how: its chat template, tokenizer, layout of frames and times, mean and deviation. Its
call is not used, because it turns whole batches of pixels to floats over and over; here bytes are cut into patches,
moved to the device as they are, and turned to floats once, there.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from reelscribe.engines.checkpoint import prompt_text
from reelscribe.schema import Frames, PreparedRequest


class InputBuilder:
    """Builds batches for one checkpoint.

    Args:
        processor: the checkpoint's.
        device: where the model is.
    """

    def __init__(self, processor: Any, device: torch.device) -> None:
        self._processor = processor
        self._device = device
        video = processor.video_processor
        self._patch, self._merge, self._temporal = video.patch_size, video.merge_size, video.temporal_patch_size
        values = self._temporal * self._patch**2  # of one colour in a patch
        scale = 1 / video.rescale_factor
        self._mean, self._deviation = (
            (torch.tensor(each) * scale).repeat_interleave(values).to(device)
            for each in (video.image_mean, video.image_std)
        )

    def build(self, batch: Sequence[PreparedRequest]) -> dict[str, torch.Tensor]:
        """Left-padded token ids and mask, their kinds (2 for vision), patches and grids.

        Pixels are on the model's device, all else on the CPU.
        """
        grids = torch.tensor([self._grid(item.frames) for item in batch])
        texts = [self._text(item, grid) for item, grid in zip(batch, grids, strict=True)]
        tokens = self._processor.tokenizer(texts, padding=True, padding_side="left", return_tensors="pt")
        ids = tokens["input_ids"]
        return {
            "input_ids": ids,
            "attention_mask": tokens["attention_mask"],
            "mm_token_type_ids": 2 * (ids == self._processor.video_token_id),
            "pixel_values_videos": self._pixels([item.frames for item in batch]),
            "video_grid_thw": grids,
        }

    def _grid(self, frames: Frames) -> tuple[int, int, int]:
        """Patches in time, height and width."""
        count, height, width, _ = frames.pixels.shape
        return -(-count // self._temporal), height // self._patch, width // self._patch

    def _text(self, item: PreparedRequest, grid: torch.Tensor) -> str:
        """The prompt's text, with a placeholder for each vision token.

        Raises:
            ValueError: a prompt holds a placeholder itself.
        """
        start, end = self._processor.vision_start_token, self._processor.vision_end_token
        placeholder: str = self._processor.video_token
        tokens = int(grid[1:].prod()) // self._merge**2
        layout = "".join(f"<{when:.1f} seconds>{start}{placeholder * tokens}{end}" for when in self._times(item.frames))
        return prompt_text(self._processor, item.request).replace(placeholder, layout, 1)

    def _times(self, frames: Frames) -> list[float]:
        """A time for each merged group of frames: the middle between its first and last."""
        step = self._temporal
        times = [*frames.timestamps, *[frames.timestamps[-1]] * (-len(frames.timestamps) % step)]
        return [(first + last) / 2 for first, last in zip(times[::step], times[step - 1 :: step], strict=True)]

    def _pixels(self, videos: Sequence[Frames]) -> torch.Tensor:
        """float32, shape (patches, colours x temporal x patch x patch), on the device."""
        patches = torch.from_numpy(np.concatenate([self._patches(frames.pixels) for frames in videos]))
        return patches.to(self._device).float().sub_(self._mean).div_(self._deviation)

    def _patches(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames cut into patches, those that are merged next to each other; an odd frame out is repeated."""
        odd = -len(pixels) % self._temporal
        if odd:
            pixels = np.concatenate([pixels, *[pixels[-1:]] * odd])
        count, height, width, colors = pixels.shape
        patch, merge, temporal = self._patch, self._merge, self._temporal
        rows, columns = height // (patch * merge), width // (patch * merge)
        cut = pixels.reshape(count // temporal, temporal, rows, merge, patch, columns, merge, patch, colors)
        return cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, colors * temporal * patch**2)
