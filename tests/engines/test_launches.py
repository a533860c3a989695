"""How many kernels a step launches on a GPU: counted on a CPU, as operations that compute something."""

from collections import Counter
from pathlib import Path
from typing import Any, Final

import pytest
import tiny_checkpoints
import torch
from generating import noise
from torch.utils._python_dispatch import TorchDispatchMode

from reelscribe.engines import branching
from reelscribe.engines.transformers import TransformersEngine

MOST_KERNELS: Final = 36
"""A layer, of a Qwen3-VL. Transformers' own norms and rotations, with masks made in each layer, took up to 69."""
MOST_FLASH_KERNELS: Final = 30
"""Likewise, on a GPU whose flash kernels are used."""
_FUSED: Final = ("linear", "rms_norm")
"""Operations that PyTorch takes apart on a CPU, and not on a GPU."""
_EMPTY: Final = ("empty", "empty_like", "empty_strided", "new_empty", "new_empty_strided", "lift_fresh", "_unsafe_view")


class Kernels(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts operations, other than views and memory that is set aside."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.counts: Counter[str] = Counter()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = func._schema.name.removeprefix("aten::")
        if name not in _FUSED:
            with self:
                parts = func.decompose(*args, **(kwargs or {}))
            if parts is not NotImplemented:
                return parts
        returns = func._schema.returns
        alias = returns[0].alias_info if returns else None
        if name not in _EMPTY and (alias is None or alias.is_write):
            self.counts[name] += 1
        return func(*args, **(kwargs or {}))


def kernels(folder: Path, candidates: list[int]) -> int:
    """Of a step of clips with prompts of unequal lengths."""
    engine = TransformersEngine(str(folder), device="cpu", dtype="bfloat16")
    engine._rules.end_ids = frozenset()
    batch = engine._new_batch()
    batch.join([engine._inputs.prepare(noise(number, count)) for number, count in enumerate(candidates)])
    batch.step()
    with Kernels() as seen:
        batch.step()
    return sum(seen.counts.values())


def one_kernel(query: torch.Tensor, *_: Any, **__: Any) -> tuple[torch.Tensor, torch.Tensor]:
    """Stands for a flash kernel, whose CPU version is many operations."""
    return query.clone(), query.new_empty(query.shape[1::-1], dtype=torch.float32)


@pytest.mark.parametrize("packed", [False, True], ids=["plain", "flash"])
@pytest.mark.parametrize("candidates", [[1, 1], [3, 3], [2, 3]], ids=["one each", "even", "uneven"])
def test_a_layer_launches_few_kernels(
    candidates: list[int], packed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if packed:
        monkeypatch.setattr(branching, "packs", lambda keys, _: keys is not None)
        monkeypatch.setattr("reelscribe.engines.packed.flash", one_kernel)
    found = []
    for layers in (2, 3):
        monkeypatch.setattr(tiny_checkpoints, "_TEXT", {**tiny_checkpoints._TEXT, "num_hidden_layers": layers})
        found.append(kernels(tiny_checkpoints.make("qwen3_vl", tmp_path / f"{layers}"), candidates))
    assert 20 < found[1] - found[0] <= (MOST_FLASH_KERNELS if packed else MOST_KERNELS)
