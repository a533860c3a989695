"""Cutting frames into patches in the layout of Qwen's vision encoders."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How frames are cut into patches.

    Pixels are cut and moved to the device as bytes, and converted to floats once, on the device. The processors of
    Transformers convert whole batches of pixels to floats several times.
    """

    patch: int
    """The side of a patch, in pixels."""
    merge: int
    """Squares of `merge` x `merge` patches become one token. Their patches follow each other."""
    temporal: int
    """The number of frames in a patch."""
    mean: tuple[float, ...]
    """The mean of each colour, for pixels that are bytes times `rescale`."""
    deviation: tuple[float, ...]
    """The standard deviation of each colour, for the same pixels."""
    rescale: float
    """The factor from bytes to the pixels that `mean` and `deviation` are for."""

    @classmethod
    def of(cls, video_processor: Any) -> "Cut | None":
        """Read the cut from a video processor's attributes; None if it lacks one of them."""
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
        """The side of the square that becomes one token, in pixels."""
        return self.patch * self.merge

    def patches(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Cut frames into patches. The last frame is repeated until the last group of frames is full.

        Args:
            pixels: uint8, shape (frames, height, width, colours).

        Returns:
            The patches, uint8, shape (patches, colours x temporal x patch x patch).

        Raises:
            ValueError: height or width is not a multiple of `side`.
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
        """Mean and standard deviation of each byte of a patch, for `floats`.

        Returns:
            Two tensors on the device, float32, shape (colours x temporal x patch x patch,).
        """
        values = self.temporal * self.patch**2  # bytes of one colour in a patch
        mean, deviation = (
            (torch.tensor(each) * (1 / self.rescale)).repeat_interleave(values).to(device)
            for each in (self.mean, self.deviation)
        )
        return mean, deviation


def floats(patches: torch.Tensor, scales: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
    """Normalise patches for the encoder: uint8 to float32, of the same shape, on the same device.

    Args:
        patches: shape (patches, bytes of a patch).
        scales: from `Cut.scales`.
    """
    mean, deviation = scales
    return patches.float().sub_(mean).div_(deviation)  # in place: subtracting floats from bytes takes twice as long
