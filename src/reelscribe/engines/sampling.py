"""Drawing tokens for many candidates at once, each with randomness of its own.

The numbers that a candidate is drawn with depend on its request's seed and its own number alone, so that it comes out
the same in whichever batch it is. Filters (temperature, top-k, ...) are those of Transformers.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import (
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reelscribe.sampling_params import SamplingParams
from reelscribe.schema import Candidate, CaptionRequest, StopReason

DEFAULT_MAX_TOKENS = 512
"""Where neither the user nor the checkpoint says how long a candidate may be."""


class TokenRules:
    """What a checkpoint brings to sampling: its tokenizer and its own generation settings."""

    def __init__(self, tokenizer: Any, generation_config: Any) -> None:
        self.tokenizer = tokenizer
        self._config = generation_config
        ends = generation_config.eos_token_id if generation_config.eos_token_id is not None else tokenizer.eos_token_id
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])

    def resolve(self, told: SamplingParams, num_captions: int) -> SamplingParams:
        """Fill in what was not told: from the checkpoint, or such that several candidates differ."""
        config = self._config
        samples = bool(config.do_sample) or num_captions > 1
        temperature = told.temperature
        if temperature is None:
            own = config.temperature if config.temperature is not None else 1.0
            temperature = own if samples else 0.0

        def pick(name: str) -> Any:
            value = getattr(told, name)
            return value if value is not None else getattr(config, name, None)

        return SamplingParams(
            max_tokens=told.max_tokens or config.max_new_tokens or DEFAULT_MAX_TOKENS,
            temperature=temperature,
            top_p=pick("top_p"),
            top_k=pick("top_k"),
            min_p=pick("min_p"),
            repetition_penalty=pick("repetition_penalty"),
            stop=told.stop,
            stop_token_ids=told.stop_token_ids,
        )


def _filters(params: SamplingParams) -> LogitsProcessorList:
    """Transformers' own filters, in its own order."""
    filters = LogitsProcessorList()
    if params.repetition_penalty not in (None, 1.0):
        filters.append(RepetitionPenaltyLogitsProcessor(params.repetition_penalty))
    if params.temperature:
        if params.temperature != 1.0:
            filters.append(TemperatureLogitsWarper(params.temperature))
        if params.top_k:
            filters.append(TopKLogitsWarper(params.top_k))
        if params.top_p is not None and 0 < params.top_p < 1:
            filters.append(TopPLogitsWarper(params.top_p))
        if params.min_p:
            filters.append(MinPLogitsWarper(params.min_p))
    return filters


def _uniforms(seed: int, number: int, count: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The numbers between 0 and 1 that a candidate is drawn with, one a token."""
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "big"))).random(count, np.float32)


class Sampler:
    """Candidates of a batch in the making: one row each, those of a request one after the other.

    Args:
        requests: the batch.
        prompt_ids: int64, shape (requests, tokens), for the repetition penalty.
        rules: of the checkpoint.
    """

    def __init__(self, requests: Sequence[CaptionRequest], prompt_ids: torch.Tensor, rules: TokenRules) -> None:
        self._rules = rules
        self._params: list[SamplingParams] = []
        self._tokens: list[list[int]] = []
        self._reasons: dict[int, StopReason] = {}
        draws = []
        for request in requests:
            params = rules.resolve(request.sampling, request.num_captions)
            for number in range(request.num_captions):
                self._params.append(params)
                self._tokens.append([])
                draws.append(_uniforms(request.seed, number, params.max_tokens or DEFAULT_MAX_TOKENS))
        self._draws = draws
        self._filters = {params: _filters(params) for params in set(self._params)}
        counts = torch.tensor([request.num_captions for request in requests], device=prompt_ids.device)
        self._ids = prompt_ids.repeat_interleave(counts, 0)
        self._alive = list(range(len(self._params)))

    def step(self, logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Draw each living row's next token.

        Args:
            logits: shape (living rows, vocabulary).

        Returns:
            The tokens drawn, int64, shape (living rows,), and the indices of the rows that live on, int64.
        """
        scores = logits.float()
        tokens = torch.empty(len(scores), dtype=torch.long, device=scores.device)
        for params, filters in self._filters.items():
            rows = [row for row, number in enumerate(self._alive) if self._params[number] == params]
            if rows:
                tokens[rows] = self._draw(filters(self._ids[rows], scores[rows]), rows, greedy=not params.temperature)
        stays = [row for row, token in enumerate(tokens.tolist()) if self._accept(self._alive[row], token)]
        alive = torch.tensor(stays, dtype=torch.long, device=scores.device)
        self._ids = torch.cat([self._ids, tokens[:, None]], 1)[alive]
        self._alive = [self._alive[row] for row in stays]
        return tokens, alive

    def _draw(self, scores: torch.Tensor, rows: list[int], *, greedy: bool) -> torch.Tensor:
        if greedy:
            return scores.argmax(-1)
        numbers = [self._alive[row] for row in rows]
        draws = torch.tensor(
            [[self._draws[number][len(self._tokens[number])]] for number in numbers],
            dtype=torch.float32,
            device=scores.device,
        )
        reached = scores.softmax(-1).cumsum(-1)
        drawn = torch.searchsorted(reached, draws * reached[:, -1:], right=True)[:, 0]
        return drawn.clamp(max=scores.shape[-1] - 1)

    def _accept(self, number: int, token: int) -> bool:
        """Add a token to a candidate; return whether it goes on."""
        params, tokens = self._params[number], self._tokens[number]
        if token in self._rules.end_ids or token in params.stop_token_ids:
            self._reasons[number] = "stop"
            return False
        tokens.append(token)
        if params.stop and any(stop in self._text(number) for stop in params.stop):
            self._reasons[number] = "stop"
        elif len(tokens) == params.max_tokens:
            self._reasons[number] = "length"
        return number not in self._reasons

    def _text(self, number: int) -> str:
        text: str = self._rules.tokenizer.decode(self._tokens[number], skip_special_tokens=True)
        return text

    def candidates(self) -> list[Candidate]:
        """All candidates, in the order of their rows."""
        made = []
        for number, tokens in enumerate(self._tokens):
            text = self._text(number)
            ends = [text.find(stop) for stop in self._params[number].stop if stop in text]
            made.append(
                Candidate(
                    text=(text[: min(ends)] if ends else text).strip(),
                    stop_reason=self._reasons[number],
                    num_tokens=len(tokens),
                )
            )
        return made
