"""The batch that a model is working on, which clips join and leave while it runs."""

import inspect
from collections.abc import Iterator, Sequence
from typing import Any, Final

import torch
from transformers import DynamicCache

from reelscribe.engines.branching import BranchingCache
from reelscribe.engines.inputs import InputBuilder, ModelInputs
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.engines.thinking import with_opening
from reelscribe.values import Failure, Generation

_PREFILL_TOKENS: Final = {"cpu": 1280}
"""Tokens that go through the vision encoder and the prefill together: on a CPU so many that the caches hold them."""
_PREFILL_TOKENS_GPU: Final = 16384


class RunningBatch:
    """Clips under way: one pass of the vision encoder and one prefill each, then token by token.

    Args:
        model: a loaded Qwen3-VL.
        builder: of its inputs.
        rules: of its checkpoint.
        device: where inputs go.
    """

    def __init__(self, model: Any, builder: InputBuilder, rules: TokenRules, device: torch.device) -> None:
        self._model, self._builder, self._device = model, builder, device
        self._config = model.config.get_text_config()
        has_new_name = "cache" in inspect.signature(model.forward).parameters  # since Transformers 5.23
        self._cache_name = "cache" if has_new_name else "past_key_values"
        self._clips: dict[str, ModelInputs] = {}
        self._sampler = Sampler(rules, self._config.vocab_size, device)
        self._empty()

    def _empty(self) -> None:
        self._cache = BranchingCache(self._config.num_hidden_layers, self._device)
        self._logits = torch.zeros(0, self._config.vocab_size, device=self._device)
        """Scores of the next token of each candidate."""
        self._positions = torch.zeros(0, 1, dtype=torch.int64, device=self._device)
        """Of the next token of each candidate."""

    @property
    def clips(self) -> list[ModelInputs]:
        """What has joined and is not answered: under way, or to be run elsewhere after a step that failed."""
        return list(self._clips.values())

    @torch.inference_mode()
    def join(self, group: Sequence[ModelInputs]) -> None:
        """Let clips join: look at them, and read their prompts. They are the batch's from here on, even if it fails."""
        self._clips |= {item.request.key: item for item in group}
        self._keep(self._sampler.drop_finished(at_least=0))
        filled, masks, logits, counts = [], [], [], []
        for part in _parts(group, _PREFILL_TOKENS.get(self._device.type, _PREFILL_TOKENS_GPU)):
            inputs = self._builder.collate(part)
            filled.append(DynamicCache(config=self._config))
            cache = {self._cache_name: filled[-1]}
            output = self._model(**inputs, **cache, use_cache=True, logits_to_keep=1)
            logits.append(output.logits[:, -1])
            masks.append(inputs["attention_mask"])
            counts += self._sampler.add([item.request for item in part], inputs["input_ids"], masks[-1])
        self._cache.add(filled, masks, counts)
        repeats = torch.tensor(counts, device=self._device)
        scores = torch.cat(logits).to(self._device)
        self._logits = torch.cat([self._logits.to(scores.dtype), scores.repeat_interleave(repeats, 0)])
        positions = torch.tensor([[item.next_position] for item in group], device=self._device)
        self._positions = torch.cat([self._positions, positions.repeat_interleave(repeats, 0)])

    @torch.inference_mode()
    def step(self) -> None:
        """Draw a token of each candidate, and score the next ones. If scoring fails, what is finished stays."""
        tokens = self._sampler.step(self._logits)
        tokens = self._keep(self._sampler.drop_finished(), tokens)
        if len(tokens):
            self._cache.begin_step()
            hidden = self._model.model.language_model(
                inputs_embeds=self._model.get_input_embeddings()(tokens[:, None]),
                attention_mask=_NO_MASK,
                position_ids=self._positions.expand(3, -1, -1),
                **{self._cache_name: self._cache},
                use_cache=True,
            ).last_hidden_state
            self._logits = self._model.lm_head(hidden)[:, -1].to(self._device)
            self._positions = self._positions + 1

    def finished(self) -> list[Generation | Failure]:
        """The requests that came to their end since the last call; also after a step that failed."""
        answers = [(answer, self._clips.pop(answer.key)) for answer in self._sampler.finished()]
        return [
            with_opening(answer) if clip.opens_thought and isinstance(answer, Generation) else answer
            for answer, clip in answers
        ]

    def _keep(self, rows: torch.Tensor | None, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Go on with some of the candidates. Returns their tokens."""
        tokens = tokens if tokens is not None else self._positions[:, 0]
        if rows is None:
            return tokens
        if len(rows):
            self._cache.keep(rows)
            self._logits, self._positions = self._logits[rows], self._positions[rows]
        else:
            self._empty()
        return tokens[rows]


_NO_MASK: Final = torch.empty(0, 0, 0, 0)
"""Four dimensions tell Transformers that a mask is made already; the cache knows what is padding."""


def _parts(group: Sequence[ModelInputs], tokens: int) -> Iterator[list[ModelInputs]]:
    """Cut a group such that each part, padded, has at most so many tokens, or is one clip."""
    part: list[ModelInputs] = []
    longest = 0
    for item in group:
        longest = max(longest, len(item.ids))
        if part and longest * (len(part) + 1) > tokens:
            yield part
            part, longest = [], len(item.ids)
        part.append(item)
    if part:
        yield part
