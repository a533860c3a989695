"""Attention by flash kernels over prompts that stay where they are, held against plain attention."""

import random
from collections.abc import Callable
from typing import Any, Final

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import DynamicCache

from reelscribe.engines import branching, packed
from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.layers import FullLayer
from reelscribe.engines.packed import PackedLayer, agrees, packs

HEADS: Final = 2
QUERY_HEADS: Final = 6
SIZE: Final = 16
CPU: Final = torch.device("cpu")


@pytest.fixture
def packing(monkeypatch: pytest.MonkeyPatch) -> Callable[[bool], None]:
    """Says whether caches that begin from here on are as on a GPU."""
    return lambda is_packed: monkeypatch.setattr(branching, "packs", lambda *_: is_packed)


class Twins:
    """Two caches that live the same life: one as on a GPU, one as on a CPU."""

    def __init__(self, packing: Callable[[bool], None], seed: int) -> None:
        self._packing = packing
        self._numbers = torch.Generator().manual_seed(seed)
        kinds = DynamicCache().layers
        self.caches = [BranchingCache(kinds, CPU) for _ in range(2)]
        self.lengths: list[int] = []
        """Own tokens of each row."""

    def some(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, SIZE, generator=self._numbers)

    def read(self, prompts: list[int], questions: list[int]) -> list[BranchingCache]:
        """Caches for prompts of these lengths, each with so many questions."""
        longest = max(prompts)
        keys, values = self.some(len(prompts), HEADS, longest), self.some(len(prompts), HEADS, longest)
        made = []
        for is_packed in (True, False):
            self._packing(is_packed)
            filled = DynamicCache()
            filled.update(keys.clone(), values.clone(), 0)
            made.append(BranchingCache.over(filled, prompts, questions, CPU))
        assert [type(cache.layers[0]) for cache in made] == [PackedLayer, FullLayer]
        return made

    def step(self, caches: list[BranchingCache], rows: int, own: torch.Tensor | None = None) -> None:
        """Take rows further by a token each, or by what the mask says; both see the same."""
        tokens = 1 if own is None else own.shape[1]
        keys, values = self.some(rows, HEADS, tokens), self.some(rows, HEADS, tokens)
        query = self.some(rows, QUERY_HEADS, tokens)
        seen = []
        for cache in caches:
            cache.begin_step(own)
            layer, _ = cache.update(keys, values, 0)
            seen.append(layer.attend(query, SIZE**-0.5))
        ours, plain = seen
        counted = torch.ones(rows, 1, dtype=torch.bool) if own is None else own
        assert ours.isfinite().all()
        torch.testing.assert_close(ours[counted], plain[counted], rtol=0, atol=1e-5)

    def join(self, prompts: list[int], questions: list[int], candidates: list[int]) -> None:
        """Let prompts join: questions of unequal lengths, each with so many candidates."""
        joining = self.read(prompts, questions)
        own = torch.tensor([[column >= 3 - number % 4 for column in range(3)] for number in range(sum(questions))])
        self.step(joining, sum(questions), own)
        for cache, part in zip(self.caches, joining, strict=True):
            cache.add([part], candidates)

    @property
    def rows(self) -> int:
        return len(self.caches[0]._branches.owners)

    def keep(self, rows: list[int]) -> None:
        for cache in self.caches:
            cache.keep(rows)

    @property
    def buffers(self) -> list[int]:
        """Where the prompts lie that are packed."""
        return [part.data_ptr() for part in self.caches[0].layers[0].prefix]


@pytest.mark.parametrize("seed", range(4))
def test_rows_that_join_and_leave_see_what_they_see_by_plain_attention(
    seed: int, packing: Callable[[bool], None]
) -> None:
    chance, twins = random.Random(seed), Twins(packing, seed)
    moves = set()
    for _ in range(12):
        if twins.rows < 4 or chance.random() < 0.4:
            prompts = [chance.randint(1, 40) for _ in range(chance.randint(1, 3))]
            questions = [chance.randint(1, 2) for _ in prompts]
            before = twins.buffers if twins.rows else []
            twins.join(prompts, questions, [chance.randint(1, 3) for _ in range(sum(questions))])
            if before:
                moves.add(before != twins.buffers)
        elif chance.random() < 0.6:
            twins.keep(sorted(chance.sample(range(twins.rows), chance.randint(2, twins.rows))))
        for _ in range(chance.choice([1, 3, 70])):
            twins.step(twins.caches, twins.rows)
    assert moves


def test_who_goes_on_beside_others_sees_the_prompt_alone(packing: Callable[[bool], None]) -> None:
    twins = Twins(packing, 0)
    twins.join([5, 9, 7], [1, 2, 1], [2, 1, 3, 2])
    twins.step(twins.caches, twins.rows)
    beside = [cache.branch([0, 3, 6], [1, 2, 1]) for cache in twins.caches]
    assert isinstance(beside[0].layers[0], PackedLayer)
    assert [part.data_ptr() for part in beside[0].layers[0].prefix] == twins.buffers
    twins.step(beside, 4, torch.tensor([[0, 1], [1, 1], [0, 0], [1, 1]]).bool())
    some = [cache.branch([6], [2]) for cache in twins.caches]
    twins.step(some, 2, torch.tensor([[1, 1], [0, 1]]).bool())
    twins.step(twins.caches, twins.rows)


class Written(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The bytes of what operations write, and of the largest."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.all = self.most = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        returns = func._schema.returns
        alias = returns[0].alias_info if returns else None
        if alias is None or alias.is_write:
            sizes = [part.nbytes for part in (made if isinstance(made, tuple) else (made,)) if torch.is_tensor(part)]
            self.all += sum(sizes)
            self.most = max([self.most, *sizes])
        return made


def test_prompts_are_not_copied_when_others_join_or_leave(packing: Callable[[bool], None]) -> None:
    twins = Twins(packing, 0)
    twins.join([3500], [1], [1])
    twins.join([500], [1], [1])  # there is no room behind the only prompt
    cache = twins.caches[0]
    [layer] = cache.layers
    prompt = sum(part.nbytes for part in layer.prefix) / 1.25
    there = twins.buffers
    for length in (300, 200):
        joining = twins.read([length], [1])[0]
        with Written() as written:
            cache.add([joining], [2])
        assert twins.buffers == there
        assert written.all < prompt / 3  # rooms for own tokens, and the new prompt
    with Written() as written:
        cache.keep([0, 4, 5])
        cache.keep([0])
    assert twins.buffers == there
    assert written.all < prompt / 3  # rooms for own tokens, and the new prompt0
    joining = twins.read([700], [1])[0]  # there is no more room but where others left
    cache.add([joining], [1])
    assert twins.buffers != there
    assert len(layer.prefix[0]) == int((3500 + 700) * 1.25)


@pytest.mark.parametrize("is_packed", [True, False])
def test_no_scores_are_in_memory(is_packed: bool, packing: Callable[[bool], None]) -> None:
    twins = Twins(packing, 0)
    tokens, candidates = 4000, 8
    cache = twins.read([tokens], [1])[0 if is_packed else 1]
    cache.add([twins.read([tokens], [1])[0 if is_packed else 1]], [candidates])
    rows = len(cache._branches.owners)
    cache.begin_step()
    layer, _ = cache.update(twins.some(rows, HEADS, 1), twins.some(rows, HEADS, 1), 0)
    query = twins.some(rows, QUERY_HEADS, 1)
    with Written() as written:
        layer.attend(query, 1.0)
    scores = tokens * candidates * QUERY_HEADS * query.element_size()
    assert (written.most < scores / 20) == is_packed


class TestWhere:
    """Flash kernels are used on devices that have them, and only if they give what plain attention gives."""

    @pytest.fixture(autouse=True)
    def anew(self) -> None:
        agrees.cache_clear()

    def test_not_on_a_cpu(self) -> None:
        assert not packs(None, None)
        assert not packs(*(torch.zeros(1, 1, 1, 64, dtype=torch.bfloat16) for _ in range(2)))

    @pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
    def test_kernels_that_agree(self, dtype: torch.dtype, caplog: pytest.LogCaptureFixture) -> None:
        assert agrees(CPU, dtype, 64)
        assert not caplog.messages

    def test_kernels_that_do_not(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        flash = packed.flash

        def wrong(*args: Any, **kwargs: Any) -> Any:
            seen, sums = flash(*args, **kwargs)
            return seen, sums + kwargs.get("is_causal", False)

        monkeypatch.setattr(packed, "flash", wrong)
        assert not agrees(CPU, torch.bfloat16, 64)
        assert "results differ by up to 0." in caplog.text

    def test_kernels_that_fail(self, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture) -> None:
        def failing(*_: Any, **__: Any) -> Any:
            raise RuntimeError("FlashAttention only supports Ampere GPUs or newer.\nSee there.")

        monkeypatch.setattr(packed, "flash", failing)
        assert not agrees(CPU, torch.bfloat16, 64)
        assert caplog.messages == [
            "Flash kernels are not used for candidates, which costs memory and time: "
            "FlashAttention only supports Ampere GPUs or newer.."
        ]
