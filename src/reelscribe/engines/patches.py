"""Frames to the patches that a vision encoder of Qwen's layout takes."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How frames are cut into patches.

    Bytes are cut, moved to the device as they are, and turned to floats once, there: a processor of Transformers turns
    whole batches of pixels to floats over and over.
    """

    patch: int
    """Side of a patch, in pixels."""
    merge: int
    """Patches of a row, and of a column, that become one token. They stand next to each other."""
    temporal: int
    """Frames of a patch."""
    mean: tuple[float, ...]
    """Of each colour, of pixels that are bytes times `rescale`."""
    deviation: tuple[float, ...]
    rescale: float

    @classmethod
    def of(cls, video_processor: Any) -> "Cut | None":
        """As a video processor says; None if it has no such words."""
        try:
            return cls(
                patch=int(video_processor.patch_size),
                merge=int(video_processor.merge_size),
                temporal=int(getattr(video_processor, "temporal_patch_size", None) or 1),
                mean=tuple(video_processor.image_mean),
                deviation=tuple(video_processor.image_std),
                rescale=float(video_processor.rescale_factor),
            )
        except (AttributeError, TypeError, ValueError):
            return None

    @property
    def side(self) -> int:
        """Of the square that becomes one token, in pixels."""
        return self.patch * self.merge

    def patches(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut frames into patches. A last group of frames that is not full has its last frame repeated.

        Args:
            pixels: uint8, shape (frames, height, width, colours).

        Returns:
            Shape (patches, colours x temporal x patch x patch).

        Raises:
            ValueError: frames are not of a size that patches fill.
        """
        odd = -len(pixels) % self.temporal
        if odd:
            pixels = np.concatenate([pixels, *[pixels[-1:]] * odd])
        count, height, width, colors = pixels.shape
        patch, merge, temporal = self.patch, self.merge, self.temporal
        rows, columns = height // (patch * merge), width // (patch * merge)
        cut = pixels.reshape(count // temporal, temporal, rows, merge, patch, columns, merge, patch, colors)
        return cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, colors * temporal * patch**2)

    def scales(self, device: torch.device) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and deviation of the bytes of a patch, float32, on a device; for `floats`."""
        values = self.temporal * self.patch**2  # of one colour in a patch
        mean, deviation = (
            (torch.tensor(each) * (1 / self.rescale)).repeat_interleave(values).to(device)
            for each in (self.mean, self.deviation)
        )
        return mean, deviation


def floats(patches: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Patches as the encoder takes them, float32, on their device; `scales` are those of the `Cut`."""
    mean, deviation = scales
    return patches.float().sub_(mean).div_(deviation)  # a difference of bytes and floats would take twice as long
