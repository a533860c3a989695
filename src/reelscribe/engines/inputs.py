"""Requests to what a Qwen3-VL model is fed.

The checkpoint's processor says how: its chat template, tokenizer, layout of frames and times, mean and deviation. Its
call is not used, because it turns whole batches of pixels to floats over and over; here bytes are cut into patches,
moved to the device as they are, and turned to floats once, there.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from reelscribe.engines.prompt import Prompt
from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.thinking import opens_thought
from reelscribe.values import Frames, PreparedRequest, Request


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInputs:
    """One request, ready to go into a batch."""

    request: Request
    ids: torch.Tensor
    """Tokens of the prompt, int64, shape (tokens,)."""
    positions: torch.Tensor
    """Theirs in time, height and width, int64, shape (3, tokens)."""
    next_position: int
    """Of the first token of an answer, the same in all three."""
    patches: torch.Tensor
    """uint8, shape (patches, colours x temporal x patch x patch)."""
    grid: tuple[int, int, int]
    """Patches in time, height and width."""
    longest_answer: int
    """Tokens that a candidate may have."""
    opens_thought: bool = False
    """Whether the prompt ends with the mark that opens a thought."""


def most_tokens(batch: Sequence[ModelInputs]) -> int:
    """Tokens that the cache may come to hold for a batch: prompts and candidates, each as long as the longest."""
    if not batch:
        return 0
    prompts = len(batch) * max(len(item.ids) for item in batch)
    return prompts + sum(item.request.num_captions for item in batch) * max(item.longest_answer for item in batch)


class InputBuilder:
    """Builds batches for one checkpoint.

    Args:
        processor: the checkpoint's.
        rules: the checkpoint's, by which answers are as long as they may be.
        rope_index: the model's `get_rope_index`, which says where each token stands.
        device: where the model is.
        switches: variables of its chat template.
    """

    def __init__(
        self,
        processor: Any,
        rules: TokenRules,
        rope_index: Callable[..., Any],
        device: torch.device,
        switches: Mapping[str, bool] | None = None,
    ) -> None:
        self._processor = processor
        self._switches = switches
        self._rules = rules
        self._rope_index = rope_index
        self._device = device
        video = processor.video_processor
        self._patch, self._merge, self._temporal = video.patch_size, video.merge_size, video.temporal_patch_size
        values = self._temporal * self._patch**2  # of one colour in a patch
        scale = 1 / video.rescale_factor
        self._mean, self._deviation = (
            (torch.tensor(each) * scale).repeat_interleave(values).to(device)
            for each in (video.image_mean, video.image_std)
        )

    def prepare(self, item: PreparedRequest) -> ModelInputs:
        """One request as the model is fed it. Nothing is on the device yet.

        Raises:
            ValueError: frames are not of a size that the model takes.
        """
        grid = self._grid(item.frames)
        prompt_ids = self._prompt(item, grid).ids(self._processor.tokenizer)
        ids = torch.tensor([prompt_ids])
        kinds = 2 * (ids == self._processor.video_token_id)
        request = item.request
        longest = self._rules.resolve(request.sampling, request.num_captions).max_tokens or 0
        positions, delta = self._rope_index(ids, kinds, video_grid_thw=torch.tensor([grid]))
        return ModelInputs(
            request=request,
            ids=ids[0],
            positions=positions[:, 0],
            next_position=ids.shape[1] + int(delta),
            patches=torch.from_numpy(self._patches(item.frames.pixels)),
            grid=grid,
            longest_answer=longest,
            opens_thought=opens_thought(self._processor.tokenizer, prompt_ids),
        )

    def collate(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """Token ids, mask, kinds (2 for vision), patches, grids and positions of a batch, on the device.

        What is shorter is padded on the left.
        """
        length = max(len(item.ids) for item in batch)

        def padded(rows: Sequence[torch.Tensor], filler: int) -> torch.Tensor:
            return torch.stack([functional.pad(row, (length - row.shape[-1], 0), value=filler) for row in rows])

        ids = padded([item.ids for item in batch], self._processor.tokenizer.pad_token_id)
        on_cpu = {
            "input_ids": ids,
            "attention_mask": padded([torch.ones_like(item.ids) for item in batch], 0),
            "mm_token_type_ids": 2 * (ids == self._processor.video_token_id),
            "video_grid_thw": torch.tensor([item.grid for item in batch]),
            "position_ids": padded([item.positions for item in batch], 1).transpose(0, 1),
            "pixel_values_videos": torch.cat([item.patches for item in batch]),
        }
        inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in on_cpu.items()}
        # Step by step: a difference of bytes and floats takes twice as long.
        inputs["pixel_values_videos"] = inputs["pixel_values_videos"].float().sub_(self._mean).div_(self._deviation)
        return inputs

    def _grid(self, frames: Frames) -> tuple[int, int, int]:
        """Patches in time, height and width."""
        count, height, width, _ = frames.pixels.shape
        return -(-count // self._temporal), height // self._patch, width // self._patch

    def _prompt(self, item: PreparedRequest, grid: tuple[int, int, int]) -> Prompt:
        """The prompt, with a placeholder for each vision token."""
        start, end = self._processor.vision_start_token, self._processor.vision_end_token
        placeholder: str = self._processor.video_token
        tokens = grid[1] * grid[2] // self._merge**2
        layout = "".join(f"<{when:.1f} seconds>{start}{placeholder * tokens}{end}" for when in self._times(item.frames))
        return Prompt.of(self._processor, item.request, self._switches).with_video(placeholder, layout)

    def _times(self, frames: Frames) -> list[float]:
        """A time for each merged group of frames: the middle between its first and last."""
        step = self._temporal
        times = [*frames.timestamps, *[frames.timestamps[-1]] * (-len(frames.timestamps) % step)]
        return [(first + last) / 2 for first, last in zip(times[::step], times[step - 1 :: step], strict=True)]

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
