"""Copies from the CPU to a device, for which the host does not wait."""

from collections.abc import Sequence

import torch


def pinned(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """In memory that a GPU copies from by itself; as it is for other devices."""
    return tensor.pin_memory() if device.type == "cuda" and tensor.device.type == "cpu" else tensor


def moved(tensor: torch.Tensor, device: torch.device) -> torch.Tensor:
    """On the device. To copy from other than pinned memory would wait for all that a GPU has to do before."""
    return pinned(tensor, device).to(device, non_blocking=True)


def numbers(values: Sequence[int], device: torch.device) -> torch.Tensor:
    """On the device, int64, shape (values,)."""
    return moved(torch.tensor(values, dtype=torch.int64), device)


def repeated(counts: Sequence[int]) -> list[int]:
    """Number 0 as often as the first count says, then 1, and so on."""
    return [number for number, count in enumerate(counts) for _ in range(count)]
