"""Copies from the CPU to a device that do not block the host."""

from collections.abc import Sequence

import torch


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to pinned memory if the device is a GPU, which can then copy it without the host."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """Copy a tensor to a device. It is pinned first: else the copy would wait for all of a GPU's queued work."""
    return pinned(tensor, device).to(device, non_blocking=True)


def numbers(values: Sequence[int], device: torch.device) -> torch.Tensor:
    """A tensor of these values on the device, int64, shape (values,)."""
    return moved(torch.tensor(values, dtype=torch.int64), device)


def repeated(counts: Sequence[int]) -> list[int]:
    """The index of each count, repeated that often: counts 2, 0, 1 give 0, 0, 2."""
    return [number for number, count in enumerate(counts) for _ in range(count)]
