"""A key-value cache in which candidates branch off from the prompt of their clip.

The keys and values of a prompt are held and read once, however many candidates go on from it: a decode step attends
to them with the queries of all candidates of the clip together, and to each candidate's own tokens beside. (The idea is
that of shared-prefix attention; see Juravsky et al., "Hydragen", 2024.) Clips may join while others are under way.
"""

import sys
from collections.abc import Callable, Sequence
from typing import Any, Final

import torch
from torch.nn import functional
from transformers import AttentionInterface, AttentionMaskInterface, DynamicCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

_ROOM: Final = 64
"""Tokens by which the room for candidates' own tokens grows, so that few steps copy what is there."""
_EAGER: Final = "reelscribe_eager"


def enable_branching(model: Any) -> None:
    """Let a loaded model's language model decode with a `BranchingCache`; with other caches it does what it did.

    An attention keeps its name, by which flash attention finds its kernels. Only eager attention gets one of ours: it
    is in no table, since each family has its own beside its model.
    """
    name: str = model.config.get_text_config()._attn_implementation
    attend = ALL_ATTENTION_FUNCTIONS.get(name)
    if attend is None:
        attend, name = sys.modules[type(model).__module__].eager_attention_forward, _EAGER
        AttentionMaskInterface.register(name, ALL_MASK_ATTENTION_FUNCTIONS["eager"])
    if not isinstance(attend, _Attention):
        AttentionInterface.register(name, _Attention(attend))
    if name == _EAGER:
        model.set_attn_implementation({"text_config": name})


class _Attention:
    """An attention of Transformers that knows a `BranchingCache` as well."""

    def __init__(self, attend: Callable[..., Any]) -> None:
        self._attend = attend

    def __call__(
        self, module: torch.nn.Module, query: torch.Tensor, key: Any, value: Any, *args: Any, **kwargs: Any
    ) -> Any:
        if isinstance(key, _Layer):
            return key.attend(query, kwargs["scaling"]), None
        return self._attend(module, query, key, value, *args, **kwargs)


class _Branches:
    """Who goes on from which prompt, and what counts as padding: the same for all layers."""

    def __init__(self, device: torch.device) -> None:
        self.prompt_mask = torch.zeros(0, 0, dtype=torch.bool, device=device)
        """bool, shape (clips, prompt tokens)."""
        self.own_mask = torch.zeros(0, 0, dtype=torch.bool, device=device)
        """bool, shape (candidates, own tokens)."""
        self.owners = torch.zeros(0, dtype=torch.int64, device=device)
        """The clip of each candidate, ascending, int64, shape (candidates,)."""
        self._lay_out()

    def _lay_out(self) -> None:
        """Candidates as a table with a line for each clip; lines are as long as the longest."""
        counts = self.owners.bincount(minlength=len(self.prompt_mask))
        self.width = int(counts.max()) if len(counts) else 0
        starts = counts.cumsum(0) - counts
        rank = torch.arange(len(self.owners), device=self.owners.device) - starts[self.owners]
        self.place = self.owners * self.width + rank
        """Where in the table each candidate stands, int64, shape (candidates,)."""
        self.even = len(self.owners) == len(self.prompt_mask) * self.width
        """Whether the table has no gaps, so that it is the candidates in their order."""
        self.padded = not bool(self.prompt_mask.all())

    def change(self, prompt_mask: torch.Tensor, own_mask: torch.Tensor, owners: torch.Tensor) -> None:
        self.prompt_mask, self.own_mask, self.owners = prompt_mask, own_mask, owners
        self._lay_out()

    def table(self, rows: torch.Tensor) -> torch.Tensor:
        """Shape (candidates, ...) to (clips, width, ...); gaps hold zeros."""
        clips = len(self.prompt_mask)
        if not self.even:
            place = self.place.to(rows.device)
            rows = rows.new_zeros(clips * self.width, *rows.shape[1:]).index_copy_(0, place, rows)
        return rows.reshape(clips, self.width, *rows.shape[1:])

    def rows(self, table: torch.Tensor) -> torch.Tensor:
        """The way back."""
        flat = table.flatten(0, 1)
        return flat if self.even else flat[self.place.to(flat.device)]


class _Layer:
    """Keys and values of one layer of the model."""

    def __init__(self, branches: _Branches) -> None:
        self._branches = branches
        self.prompt: list[torch.Tensor] = []
        """Keys and values, each of shape (clips, heads, prompt tokens, size of a head)."""
        self.own: list[torch.Tensor] = []
        """Keys and values, each of shape (candidates, heads, room, size of a head)."""

    def update(self, keys: torch.Tensor, values: torch.Tensor) -> tuple["_Layer", "_Layer"]:
        """Write the keys and values of one token for each candidate. What comes back is for `attend`."""
        last = self._branches.own_mask.shape[1] - 1
        for buffer, new in zip(self.own, (keys, values), strict=True):
            buffer[:, :, last] = new[:, :, 0]
        return self, self

    def attend(self, query: torch.Tensor, scaling: float) -> torch.Tensor:
        """Attention of one token for each candidate.

        Args:
            query: shape (candidates, query heads, 1, size of a head).
            scaling: of the products.

        Returns:
            Shape (candidates, 1, query heads, size of a head).
        """
        branches = self._branches
        keys, values = self.prompt
        own_length = branches.own_mask.shape[1]
        own_keys, own_values = (part[:, :, :own_length] for part in self.own)
        heads, size = keys.shape[1], keys.shape[3]
        grouped = query.reshape(len(query), heads, -1, size) * scaling
        group = grouped.shape[2]
        # (clips, width, heads, group, size) -> (clips, heads, width x group, size)
        asked = branches.table(grouped).transpose(1, 2).flatten(2, 3)
        to_prompt = asked @ keys.transpose(2, 3)
        if branches.padded:
            to_prompt = to_prompt.masked_fill(~branches.prompt_mask[:, None, None].to(query.device), -torch.inf)
        to_own = grouped @ own_keys.transpose(2, 3)
        to_own = to_own.masked_fill(~branches.own_mask[:, None, None].to(query.device), -torch.inf)
        to_own = branches.table(to_own).transpose(1, 2).flatten(2, 3)
        weights = torch.cat([to_prompt, to_own], -1).softmax(-1, torch.float32).to(values.dtype)
        split = keys.shape[2]
        parts = weights[..., :split] @ values, weights[..., split:]
        # ... and back again
        from_prompt, own_weights = (
            branches.rows(part.reshape(len(keys), heads, -1, group, part.shape[3]).transpose(1, 2)) for part in parts
        )
        mixed = from_prompt + own_weights @ own_values
        return mixed.reshape(len(query), 1, -1, size)


class BranchingCache:
    """The cache of a running batch, as a language model takes it. Clips join by `add`; candidates leave by `keep`.

    Args:
        layers: of the language model.
        device: of its first layer.
    """

    def __init__(self, layers: int, device: torch.device) -> None:
        self._branches = _Branches(device)
        self.layers = [_Layer(self._branches) for _ in range(layers)]

    def update(self, keys: torch.Tensor, values: torch.Tensor, layer: int, *_: Any, **__: Any) -> Any:
        """What a layer of the model calls before its attention."""
        return self.layers[layer].update(keys, values)

    def add(self, filled: Sequence[DynamicCache], masks: Sequence[torch.Tensor], counts: Sequence[int]) -> None:
        """Let clips join.

        Args:
            filled: keys and values of their prompts, padded on the left, in one or more parts, which are emptied.
            masks: of each part, shape (clips, tokens); 0 where there is padding.
            counts: candidates of each clip, of all parts.
        """
        old = self._branches
        prompt_masks = [old.prompt_mask, *(mask.bool() for mask in masks)]
        number = torch.arange(len(counts), device=old.owners.device) + len(old.prompt_mask)
        owners = number.repeat_interleave(torch.tensor(counts, device=number.device))
        for index, layer in enumerate(self.layers):
            held = [layer.prompt] if layer.prompt else []
            fresh = [(part.layers[index].keys, part.layers[index].values) for part in filled]
            for part in filled:
                part.layers[index].keys = part.layers[index].values = None
            layer.prompt = [_left_padded(parts) for parts in zip(*held, *fresh, strict=True)]
            if layer.own:
                layer.own = [functional.pad(part, (0, 0, 0, 0, 0, 0, 0, len(owners))) for part in layer.own]
            else:
                heads, size = fresh[0][0].shape[1], fresh[0][0].shape[3]
                layer.own = [fresh[0][0].new_zeros(len(owners), heads, _ROOM, size) for _ in range(2)]
        old.change(
            _left_padded([mask[:, None, :, None] for mask in prompt_masks])[:, 0, :, 0],
            functional.pad(old.own_mask, (0, 0, 0, len(owners))),
            torch.cat([old.owners, owners]),
        )

    def begin_step(self) -> None:
        """Make room for a token more of each candidate; the forward pass that follows fills it."""
        branches = self._branches
        branches.own_mask = functional.pad(branches.own_mask, (0, 1), value=True)
        if branches.own_mask.shape[1] > self.layers[0].own[0].shape[2]:
            for layer in self.layers:
                layer.own = [functional.pad(part, (0, 0, 0, _ROOM)) for part in layer.own]

    def keep(self, rows: torch.Tensor) -> None:
        """Keep some candidates, the clips that they go on from, and no more padding than they need.

        Args:
            rows: which, ascending, int64.
        """
        old = self._branches
        clips, owners = torch.unique_consecutive(old.owners[rows], return_inverse=True)
        prompt_mask, own_mask = old.prompt_mask[clips], old.own_mask[rows]
        first, own_first = (_first_column(mask) for mask in (prompt_mask, own_mask))
        everyone = len(clips) == len(old.prompt_mask)
        for layer in self.layers:
            if not everyone or first:
                layer.prompt = [part[clips.to(part.device), :, first:] for part in layer.prompt]
            layer.own = [part[rows.to(part.device), :, own_first:] for part in layer.own]
        old.change(prompt_mask[:, first:], own_mask[:, own_first:], owners)


def _left_padded(parts: Sequence[torch.Tensor]) -> torch.Tensor:
    """Parts of shape (clips, heads, tokens, size) one after the other, the shorter filled up on the left."""
    length = max(part.shape[2] for part in parts)
    widened = [functional.pad(part, (0, 0, length - part.shape[2], 0)) for part in parts]
    return torch.cat(widened) if len(widened) > 1 else widened[0]


def _first_column(mask: torch.Tensor) -> int:
    """The first column that is not padding in every row."""
    used = mask.any(0)
    return int(used.to(torch.uint8).argmax()) if bool(used.any()) else mask.shape[1]
