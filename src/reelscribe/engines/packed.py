"""Attention with flash kernels, which keep no scores in memory, to prompts that are not moved when rows join or leave.

The keys and values of all prompts lie in one buffer, one after the other and without padding. New prompts are written
after the last one. A prompt that leaves leaves a gap. The buffer is copied only if there is no room at its end.

One kernel call attends to the prompts and one to the rows' own tokens. Each also returns the logarithm of its sum of
exponentials, from which the weights of the two results follow.
"""

import functools
import itertools
import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, Final, NamedTuple, TypeVar

import torch
from torch.nn import functional

from reelscribe.engines.layers import ROOM, Branches, FullLayer, copied

logger = logging.getLogger(__name__)

_Made = TypeVar("_Made")

SLACK: Final = 1.25
"""The size of a new buffer for prompts, as a multiple of the prompts in it, so that few joins copy them."""
_LARGEST_HEAD: Final = 256
"""The largest head size that PyTorch's flash kernels take. It must also be a multiple of 8."""


def packs(keys: torch.Tensor | None, values: torch.Tensor | None) -> bool:
    """Whether a layer with these keys and values should be a `PackedLayer`: on a GPU whose flash kernels take them.

    On a CPU a `FullLayer` is faster, since it handles all prompts in one operation.

    Args:
        keys: shape (prefixes, heads, tokens, head size); None if there are none yet.
        values: of the same shape, or None.
    """
    if keys is None or values is None or keys.device.type != "cuda" or torch.version.hip:
        return False
    if keys.dtype not in (torch.float16, torch.bfloat16) or torch.cuda.get_device_capability(keys.device) < (8, 0):
        return False
    size = keys.shape[3]
    return size == values.shape[3] <= _LARGEST_HEAD and size % 8 == 0 and agrees(keys.device, keys.dtype, size)


def flash(
    query: torch.Tensor,
    held: Sequence[torch.Tensor],
    asked: torch.Tensor,
    starts: torch.Tensor,
    used: torch.Tensor,
    most: tuple[int, int],
    *,
    scaling: float,
    is_causal: bool = False,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Attention of several sequences that lie one after the other in the same tensors.

    Args:
        query: shape (queries, query heads, head size).
        held: keys and values, each of shape (tokens, heads, head size). If there are more query heads than heads,
            neighbouring query heads share one.
        asked: where the queries of each sequence begin, and where the last ones end; int32, shape (sequences + 1,).
        starts: where the keys of each sequence begin, and where the last room ends; int32, shape (sequences + 1,).
        used: the number of keys of each sequence, which may be fewer than its room; int32, shape (sequences,).
        most: the largest numbers of queries and of keys of a sequence.
        scaling: the factor for the products of queries and keys.
        is_causal: whether the last query of a sequence sees all keys, and each query before it one key less.

    Returns:
        The results, of the shape of the queries, and the logarithms of the sums of exponentials, float32, shape
        (query heads, queries). For a query that sees no key these are 0 and infinity.
    """
    if query.device.type == "cuda":
        seen, sums, *_ = torch.ops.aten._flash_attention_forward(
            query, *held, asked, starts, *most, 0.0, is_causal, False, scale=scaling, seqused_k=used
        )
        return seen, sums
    seen = torch.zeros_like(query)
    sums = query.new_full(query.shape[1::-1], torch.inf, dtype=torch.float32)
    bounds = zip(itertools.pairwise(asked.tolist()), starts.tolist(), used.tolist(), strict=False)
    for (begin, end), start, count in bounds:
        first = max(begin, end - count) if is_causal else begin  # earlier queries see no key
        if first == end or not count:
            continue
        mask = None
        if is_causal:
            mask = query.new_full((end - first, count), -torch.inf).triu(count - (end - first) + 1)
        parts = (query[first:end], *(part[start : start + count] for part in held))
        found, found_sums = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
            *(part.transpose(0, 1)[None] for part in parts), attn_mask=mask, scale=scaling
        )
        seen[first:end] = found[0].transpose(0, 1)
        sums[:, first:end] = found_sums[0]
    return seen, sums


@dataclass(frozen=True, kw_only=True, eq=False)
class Places:
    """Where prompts lie in a buffer, in ascending order. Counted in tokens."""

    starts: torch.Tensor
    """The start of each prompt, and the end of the last one's room; int32, shape (prefixes + 1,)."""
    lengths: torch.Tensor
    """The number of tokens of each prompt, int32, shape (prefixes,)."""
    end: int
    """The end of the last prompt's room, as a number on the host."""

    @classmethod
    def of(cls, lengths: torch.Tensor, end: int) -> "Places":
        """Places of prompts without gaps between them.

        Args:
            lengths: the number of tokens of each, shape (prefixes,).
            end: the sum of the lengths, as a number on the host.
        """
        return cls(starts=_bounds(lengths), lengths=lengths.int(), end=end)

    def chosen(self, prefixes: torch.Tensor) -> "Places":
        """The places of some of the prompts. The others leave gaps."""
        starts = torch.cat([self.starts[prefixes], self.starts[-1:]])
        return Places(starts=starts, lengths=self.lengths[prefixes], end=self.end)

    def then(self, others: Sequence["Places"]) -> "Places":
        """These places, followed by those of other buffers, which are appended with their gaps."""
        places = [self, *others]
        offsets = list(itertools.accumulate((each.end for each in places), initial=0))
        starts = [each.starts[:-1] + offset for each, offset in zip(places, offsets, strict=False)]
        end = self.starts.new_full((1,), offsets[-1])
        lengths = torch.cat([each.lengths for each in places])
        return Places(starts=torch.cat([*starts, end]), lengths=lengths, end=offsets[-1])

    def without_gaps(self) -> tuple["Places", torch.Tensor]:
        """The places after all gaps are removed, and the indices of the tokens to keep, int64, shape (tokens,)."""
        end = int(self.lengths.sum())
        made = Places.of(self.lengths, end)
        shifts = (self.starts - made.starts)[:-1].repeat_interleave(self.lengths.long(), output_size=end)
        return made, shifts + torch.arange(end, device=shifts.device)


class PackedLayer(FullLayer):
    """Keys and values of a layer with full causal attention, in the layout that flash kernels take.

    Keys and values of prompts (`prefix`) have the shape (tokens, heads, head size), with room at the end. Those of the
    rows' own tokens (`own`) have the shape (rows, room, heads, head size).

    Args:
        branches: of the cache.
    """

    _places: Places
    """The places of the prompts in `prefix`."""

    def _once(self, name: str, make: Callable[[], _Made]) -> _Made:
        """Make a value that is the same for all packed layers on a device, only once; see `Branches.once`."""
        return self._branches.once((PackedLayer, name, self.prefix[0].device), make)

    def begin(self, filled: Any, owners: torch.Tensor) -> None:
        tokens = [part.transpose(1, 2) for part in (filled.keys, filled.values)]
        filled.keys = filled.values = None
        mask = self._branches.prefix_mask.to(tokens[0].device)
        self.prefix = [part[mask] if self._branches.padded else part.flatten(0, 1) for part in tokens]
        self._places = self._once("begin", lambda: Places.of(mask.sum(1), len(self.prefix[0])))
        self._begin_own(len(owners))

    def _take(self, other: Any, prefixes: torch.Tensor | None, rows: int) -> None:
        self.prefix = other.prefix
        self._places = other._places if prefixes is None else self._once("take", lambda: other._places.chosen(prefixes))
        self._begin_own(rows)

    def _begin_own(self, rows: int) -> None:
        self.own = [part.new_zeros(rows, 0, *part.shape[1:]) for part in self.prefix]

    def join(self, parts: Sequence[Any], copies: Sequence[torch.Tensor | None]) -> None:
        places, buffers = [part._places for part in parts], [part.prefix for part in parts]
        own = [
            _left_padded([copied(part, rows) for part, rows in zip(of_one, copies, strict=True)])
            for of_one in zip(*(part.used() for part in parts), strict=True)
        ]
        for part in parts:
            part.prefix, part.own = [], []
        self.prefix, self.own = buffers[0], own
        self._places, moved = self._once("join", lambda: _joined(places, len(buffers[0][0])))
        ends = [each.end for each in places]
        self.prefix = [_put(of_one, ends, moved) for of_one in zip(*buffers, strict=True)]

    def keep(self, prefixes: torch.Tensor | None, first: int, rows: torch.Tensor, own_first: int) -> None:
        if prefixes is not None:
            left = self._places
            self._places = self._once("keep", lambda: left.chosen(prefixes.to(left.starts.device)))
        self.own = [part[rows.to(part.device), own_first:] for part in self.own]

    def begin_step(self, mask: torch.Tensor | None) -> None:
        missing = self._branches.own_mask.shape[1] - self.own[0].shape[1]
        if missing > 0:
            self.own = [functional.pad(part, (0, 0, 0, 0, 0, -(-missing // ROOM) * ROOM)) for part in self.own]

    def used(self) -> list[torch.Tensor]:
        return [part[:, : self._branches.own_mask.shape[1]] for part in self.own]

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple["FullLayer", "FullLayer"]:
        end = self._branches.own_mask.shape[1]
        for buffer, new in zip(self.own, (keys, values), strict=True):
            buffer[:, end - new.shape[2] : end] = new.transpose(1, 2)
        return self, self

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        rows, query_heads, tokens, size = query.shape
        heads = self.own[0].shape[2]
        group, places = query_heads // heads, self._places
        sequences = self._once(f"attend {tokens} {group}", lambda: self._sequences(tokens, group))
        # Query heads that share a head become further queries of the same sequence, as rows that share a prompt do. So
        # the kernel reads the prompt's keys once for all of them.
        asking = query.reshape(rows, heads, group, tokens, size).permute(0, 2, 3, 1, 4).reshape(-1, heads, size)
        branches = self._branches
        of_prompt, prompt_sums = flash(
            asking,
            self.prefix,
            sequences.to_prompts,
            places.starts,
            places.lengths,
            (branches.width * group * tokens, branches.prefix_mask.shape[1]),
            scaling=scaling,
        )
        of_own, own_sums = flash(
            query.transpose(1, 2).reshape(-1, query_heads, size),
            [part.flatten(0, 1) for part in self.own],
            sequences.to_own,
            sequences.own_starts,
            sequences.own_lengths,
            (tokens, branches.own_mask.shape[1]),
            scaling=scaling,
            is_causal=tokens > 1,
        )
        own_sums = own_sums.view(heads, group, rows, tokens).permute(2, 3, 0, 1)
        prompt_sums = prompt_sums.view(heads, rows, group, tokens).permute(1, 3, 0, 2)
        share = (prompt_sums - own_sums).sigmoid().to(of_own.dtype)[..., None]
        of_prompt = of_prompt.view(rows, group, tokens, heads, size).permute(0, 2, 3, 1, 4)
        return torch.lerp(of_own.view(of_prompt.shape), of_prompt, share).flatten(2, 3)

    def _sequences(self, tokens: int, group: int) -> "_Sequences":
        branches, device = self._branches, self.prefix[0].device
        owners, own_mask = branches.owners.to(device), branches.own_mask.to(device)
        rows, length = own_mask.shape
        firsts = torch.searchsorted(owners, torch.arange(len(branches.prefix_mask) + 1, device=device))
        every = torch.arange(rows + 1, device=device)
        counts = own_mask.sum(1)
        return _Sequences(
            to_prompts=(firsts * (group * tokens)).int(),
            to_own=(every * tokens).int(),
            own_starts=(every * self.own[0].shape[1] + functional.pad(length - counts, (0, 1))).int(),
            own_lengths=counts.int(),
        )


class _Sequences(NamedTuple):
    """Arguments of `flash` that are the same for all layers in a step; all int32."""

    to_prompts: torch.Tensor
    """Where the queries to each prompt begin, and where the last ones end, shape (prefixes + 1,)."""
    to_own: torch.Tensor
    """Where the queries to each row's own tokens begin, and where the last ones end, shape (rows + 1,)."""
    own_starts: torch.Tensor
    """Where each row's own tokens begin, after their padding, and where the buffer ends, shape (rows + 1,)."""
    own_lengths: torch.Tensor
    """The number of own tokens of each row, shape (rows,)."""


def _bounds(lengths: torch.Tensor) -> torch.Tensor:
    """The starts of sequences of these lengths that follow each other, and the end of the last one, int32."""
    return functional.pad(lengths.cumsum(0), (1, 0)).int()


def _joined(places: Sequence[Places], room: int) -> tuple[Places, list[torch.Tensor] | None]:
    """Plan how the prompts of several buffers come to lie in one.

    Args:
        places: of the prompts in each buffer.
        room: the size of the first buffer, in tokens.

    Returns:
        The places of all prompts; and None if they fit into the first buffer, or for each buffer the indices of the
        tokens that are copied to a new one.
    """
    first, *others = places
    together = first.then(others)
    if together.end <= room:
        return together, None
    dense = [each.without_gaps() for each in places]
    (first, _), *rest = dense
    return first.then([each for each, _ in rest]), [which for _, which in dense]


def _put(buffers: Sequence[torch.Tensor], ends: Sequence[int], moved: list[torch.Tensor] | None) -> torch.Tensor:
    """Join buffers: append the others' tokens to the first, or copy the tokens `moved` of each to a new buffer.

    Args:
        buffers: keys, or values, each of shape (room, heads, head size).
        ends: the end of the prompts in each buffer.
        moved: as `_joined` returns it.
    """
    first, *others = buffers
    if moved is None:
        start = ends[0]
        for other, end in zip(others, ends[1:], strict=True):
            first[start : start + end] = other[:end]
            start += end
        return first
    total = sum(map(len, moved))
    made = first.new_empty(math.ceil(total * SLACK), *first.shape[1:])
    for buffer, tokens, start in zip(buffers, moved, itertools.accumulate(map(len, moved), initial=0), strict=False):
        made[start : start + len(tokens)] = buffer[tokens]
    return made


def _left_padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Concatenate parts of shape (rows, tokens, heads, size), with padding on the left and `ROOM` on the right."""
    length = max(part.shape[1] for part in parts)
    return torch.cat([functional.pad(part, (0, 0, 0, 0, length - part.shape[1], ROOM)) for part in parts])


@functools.cache
def agrees(device: torch.device, dtype: torch.dtype, size: int) -> bool:
    """Whether flash kernels give the same results as plain attention, tried with random numbers.

    If they do not, a warning says why.

    Args:
        device: where the kernels run.
        dtype: of keys and values.
        size: the size of a head.
    """
    try:
        ours, plain = (_trial(kind, device, dtype, size) for kind in (PackedLayer, FullLayer))
    except RuntimeError as exc:
        why = str(exc).partition("\n")[0]
    else:
        furthest = float((ours - plain).abs().max())
        if furthest <= 8 * torch.finfo(dtype).eps:
            return True
        why = f"results differ by up to {furthest:.3g}"
    logger.warning("Flash kernels are not used for candidates, which costs memory and time: %s.", why)
    return False


@torch.inference_mode()
def _trial(kind: type[FullLayer], device: torch.device, dtype: torch.dtype, size: int) -> torch.Tensor:
    """The attention results of three rows with two prompts, for a step of three tokens and one of a single token."""
    numbers = torch.Generator().manual_seed(0)

    def some(*shape: int) -> torch.Tensor:
        return torch.randn(*shape, size, generator=numbers).to(device, dtype)

    branches = Branches(device)
    branches.change([70, 40], [0, 0, 0], [0, 0, 1], (70, 0))
    layer = kind(branches)
    layer.begin(SimpleNamespace(keys=some(2, 2, 70), values=some(2, 2, 70)), branches.owners)
    seen = []
    for own in ([[1, 1, 1], [0, 1, 1], [0, 0, 1]], None):
        told = None if own is None else torch.tensor(own, dtype=torch.bool)
        branches.begin_step(told)
        layer.begin_step(told)
        tokens = 1 if own is None else 3
        layer.update(some(3, 2, tokens), some(3, 2, tokens))
        made = layer.attend(some(3, 4, tokens), size**-0.5)
        seen.append(made[:, -1:] if told is None else made[told.to(device)])
    return torch.cat([each.float().flatten() for each in seen])
