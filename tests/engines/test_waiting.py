"""Where the host would wait for a GPU: found out on a CPU, by following what would be on the GPU."""

import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Final

import pytest
import tiny_checkpoints
import torch
from flow import named
from generating import noise
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode

import reelscribe
from reelscribe.engines import sampling
from reelscribe.engines.inputs import ModelInputs
from reelscribe.engines.transformers import TransformersEngine

_WAITING: Final = (
    *("_local_scalar_dense", "item", "is_nonzero", "nonzero", "equal", "allclose", "masked_select"),
    *("bincount", "unique_consecutive", "_unique2", "unique_dim"),
)
"""Operations whose result, or its shape, the host has to know."""
_OURS: Final = str(Path(reelscribe.__file__).parent)


def on_gpu(value: Any) -> bool:
    if isinstance(value, (list, tuple)):
        return any(map(on_gpu, value))
    return isinstance(value, torch.Tensor) and getattr(value, "on_gpu", False)


def mark(value: Any) -> Any:
    for each in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(each, torch.Tensor):
            each.on_gpu = True  # type: ignore[attr-defined]
    return value


class _Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """What is made of a tensor on the GPU is there, too."""

    def __init__(self, waits: "Waits") -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._waits = waits

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = func._schema.name.removeprefix("aten::")
        there = on_gpu(args) or on_gpu(list(kwargs.values()))
        if there and (
            name in _WAITING
            or (
                name == "repeat_interleave" and kwargs.get("output_size") is None and isinstance(args[-1], torch.Tensor)
            )
            or (
                name.startswith("index") and any(part is not None and part.dtype == torch.bool for part in _parts(args))
            )
        ):
            self._waits.see(name)
        result = func(*args, **kwargs)
        return mark(result) if there else result


def _parts(args: Any) -> Any:
    return args[1] if len(args) > 1 and isinstance(args[1], (list, tuple)) else ()


class _Calls(TorchFunctionMode):
    """Copies to the GPU and from there, and calls that copy without an operation that shows it."""

    def __init__(self, waits: "Waits") -> None:
        super().__init__()
        self._waits = waits

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name == "to" and kwargs.get("non_blocking"):
            copy = func(*args, **kwargs).clone()
            copy.on_gpu = args[1] != "cpu"
            return copy
        by_list = name in ("__getitem__", "__setitem__") and on_gpu(args[0]) and _has_list(args[1])
        to_host = on_gpu(args[:1]) and (name in ("tolist", "cpu", "numpy") or (name == "to" and "cpu" in args))
        if by_list or to_host or (name == "tensor" and "device" in kwargs):
            self._waits.see(name)
        return func(*args, **kwargs)


def _has_list(index: Any) -> bool:
    return isinstance(index, list) or (isinstance(index, tuple) and any(map(_has_list, index)))


class Waits:
    """Counts where the package waits, by what it calls.

    Args:
        everywhere: also count what others do in their own code, such as Transformers in a prefill.
    """

    def __init__(self, *, everywhere: bool = False) -> None:
        self.counts: Counter[str] = Counter()
        self._everywhere = everywhere

    def see(self, name: str) -> None:
        frame: Any = sys._getframe(2)
        while frame and ("/torch/" in frame.f_code.co_filename or frame.f_code.co_name.startswith("__torch_")):
            frame = frame.f_back
        if frame and (self._everywhere or frame.f_code.co_filename.startswith(_OURS)):
            self.counts[f"{name} in {frame.f_code.co_name}"] += 1

    @contextmanager
    def counted(self) -> Iterator[Counter[str]]:
        self.counts.clear()
        with _Operations(self), _Calls(self):
            yield self.counts


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> TransformersEngine:
    folder = tiny_checkpoints.make("qwen3_vl", tmp_path_factory.mktemp("tiny"))
    made = TransformersEngine(str(folder), device="cpu", dtype="float32")
    made._rules.end_ids = frozenset()
    for part in (*made._model.parameters(), *made._model.buffers()):
        mark(part)
    return made


def ready(engine: TransformersEngine, *candidates: int, **sampling: Any) -> list[ModelInputs]:
    """Clips with prompts of unequal lengths, the first of which is asked about twice."""
    works = [noise(number, count, **sampling) for number, count in enumerate(candidates)]
    another = replace(noise(3, 1, **sampling).requests[0], id=named("another"))
    works[0] = replace(works[0], requests=(*works[0].requests, another))
    return [engine._inputs.prepare(work) for work in works]


@pytest.mark.parametrize("told", [{}, {"repetition_penalty": 1.2}], ids=["plain", "penalty"])
def test_a_step_waits_for_nothing_and_a_join_once(
    engine: TransformersEngine, told: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LATE", ("cpu",))
    first, more = ready(engine, 2, 3, **told), ready(engine, 1, 2, 2, **told)
    waits, batch = Waits(), engine._new_batch()
    for joining in (first, more):
        with waits.counted() as counts:
            batch.join(joining)
            assert counts == {"tolist in _runs": 1}  # how large frames are, for the vision encoder
        for _ in range(2):
            with waits.counted() as counts:
                batch.step()
                assert not counts


def test_rows_leave_without_a_wait(engine: TransformersEngine) -> None:
    waits, batch = Waits(), engine._new_batch()
    with waits.counted() as counts:
        batch.join(ready(engine, 2, 3, 1))
        counts.clear()
        for left in (5, 2):
            for draft in batch._sampler._rows[:-left]:
                draft.stop_reason = "stop"
            batch.step()
            assert len(batch._sampler) == left
        assert not counts


def test_a_filter_without_a_top_k_waits_once_a_step(
    engine: TransformersEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sampling, "_LATE", ("cpu",))
    monkeypatch.setattr(sampling, "_LIKELIEST", 16)
    waits, batch = Waits(), engine._new_batch()
    with waits.counted() as counts:
        batch.join(ready(engine, 2, top_k=0))
        counts.clear()
        batch.step()
        assert counts == {"is_nonzero in _filtered": 1}


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "wait",
    [
        lambda there, here: there.sum().item(),
        lambda there, here: bool((there > 2).any()),
        lambda there, here: (there + here).tolist(),
        lambda there, here: there.to("cpu"),
        lambda there, here: here[there > 1],
        lambda there, here: there[[0, 2]],
        lambda there, here: here.repeat_interleave(there),
        lambda there, here: torch.tensor([1, 2], device=CPU),
        lambda there, here: here.to(CPU, non_blocking=True).max().item(),
    ],
)
def test_each_way_to_wait_is_seen(wait: Any) -> None:
    waits, here = Waits(everywhere=True), torch.arange(4)
    with waits.counted() as counts, torch.inference_mode():
        wait(mark(torch.arange(4)), here)
        assert sum(counts.values()) == 1


def test_what_does_not_wait_is_not_counted() -> None:
    waits, here = Waits(everywhere=True), torch.arange(4)
    with waits.counted() as counts:
        there = here.to(CPU, non_blocking=True)
        assert here.tolist() == (there[here] + 0).to("cpu", non_blocking=True).tolist()
        there.repeat_interleave(2)
        assert not counts
