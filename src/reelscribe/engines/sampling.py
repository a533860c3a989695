"""Drawing the next tokens of many candidates at once, each with random numbers of its own.

A candidate's random numbers depend only on its request's seed and on its own number within the request. So a candidate
comes out the same in every batch. Repetition penalty, temperature, top-k, top-p and min-p mean what they mean in
Transformers and are applied in the same order. Each row has its own values, and all rows are drawn together.

On a GPU the host reads drawn tokens one step late: they are copied to the host while the GPU computes the next logits.
So a row that has ended is computed once more, and the token drawn for it is dropped. The host waits for the device if
it needs the tokens at once: when a row reaches its token limit, while a row is constrained to a schema, and for top-p
or min-p without a top-k.
"""

import hashlib
import itertools
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from reelscribe.engines.constraints import Constraint, Constraints
from reelscribe.engines.moving import moved, numbers, repeated
from reelscribe.engines.thinking import before_stop, decode
from reelscribe.sampling_params import DEFAULT_MAX_TOKENS, SamplingParams
from reelscribe.values import Candidate, Failure, Generation, Request, RequestId, StopReason

_DEAD_SHARE: Final = 1 / 4
"""The share of finished rows at which they are dropped. Dropping them copies the cache of all other rows."""

_ALL: Final = 1 << 24
"""The top-k that means "no top-k": larger than any vocabulary."""
_LIKELIEST: Final = 1024
"""How many of the likeliest tokens are sorted for a top-p or min-p without a top-k. The whole vocabulary is sorted only
if these do not suffice."""
_LATE: Final = ("cuda",)
"""Types of devices whose tokens are read one step late. On a CPU nothing would run at the same time."""


class TokenRules:
    """What a checkpoint brings to sampling: its tokenizer and its own generation settings."""

    def __init__(self, tokenizer: Any, generation_config: Any) -> None:
        self.tokenizer = tokenizer
        self._config = generation_config
        ends = generation_config.eos_token_id if generation_config.eos_token_id is not None else tokenizer.eos_token_id
        self.end_ids = frozenset(ends if isinstance(ends, list) else [ends])
        self.constraints = Constraints(tokenizer, self.end_ids)

    def resolve(self, told: SamplingParams, num_captions: int) -> SamplingParams:
        """Fill in the parameters that the request leaves open from the checkpoint's generation config.

        The temperature becomes 0 (greedy) unless there is a reason to draw at random: the checkpoint or the request
        says `do_sample`, the request wants several candidates, which would all be the same otherwise, or it sets a
        filter (top-k, top-p, min-p), which would do nothing otherwise.
        """
        config = self._config
        samples = bool(config.do_sample or told.do_sample) or num_captions > 1 or _filters(told)
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


def _filters(params: SamplingParams) -> bool:
    """Whether a top-k, top-p or min-p excludes some tokens."""
    return bool(params.top_k or params.min_p) or params.top_p not in (None, 1)


def _uniforms(seed: int, number: int, count: int) -> NDArray[np.float32]:
    """The random numbers of a candidate, one for each token, float32 in [0, 1), shape (count,).

    A larger count gives the same numbers followed by more.

    Args:
        seed: of the request.
        number: of the candidate within its request.
        count: how many numbers.
    """
    digest = hashlib.sha256(f"{seed}:{number}".encode()).digest()
    return np.random.Generator(np.random.Philox(int.from_bytes(digest[:16], "big"))).random(count, np.float32)


@dataclass(kw_only=True)
class _Draft:
    """A candidate that is being decoded."""

    rules: TokenRules
    params: SamplingParams
    """Sampling parameters with all of the checkpoint's defaults filled in; see `TokenRules.resolve`."""
    tokens: list[int] = field(default_factory=list)
    """The tokens so far, without the end token."""
    stop_reason: StopReason | None = None
    """Why the candidate ended; None while it has not."""
    constraint: Constraint | None = None
    """The state of the schema that the candidate must match, if there is one."""
    scored: bool = False
    """Whether the request asks for the mean log-probability."""
    mean_logprob: float | None = None
    """The mean log-probability of the tokens, set when the candidate ends."""
    last_step: int = 0
    """The step of the sampler at which the candidate reaches its token limit."""

    def accept(self, token: int) -> None:
        """Append the next token, and set `stop_reason` if it is the last one."""
        if token in self.rules.end_ids or token in self.params.stop_token_ids:
            self.stop_reason = "stop"
            return
        self.tokens.append(token)
        complete = self.constraint is not None and self.constraint.accept(token)
        if complete or (self.params.stop and self._reaches_stop()):
            self.stop_reason = "stop"
        elif len(self.tokens) == self.params.max_tokens:
            self.stop_reason = "length"

    def _reaches_stop(self) -> bool:
        # A token is at least one byte. So a stop string that the last token completes begins at most this many tokens
        # back.
        reach = max(len(stop.encode()) for stop in self.params.stop)
        tail = self._decode(self.tokens[-reach:])
        return any(stop in tail for stop in self.params.stop)

    def _decode(self, tokens: list[int]) -> str:
        return decode(self.rules.tokenizer, tokens)

    def candidate(self) -> Candidate:
        """The finished candidate, its text cut before the first stop string."""
        text = self._decode(self.tokens)
        return Candidate(
            text=before_stop(text, self.params.stop).strip(),
            stop_reason=self.stop_reason or "length",
            num_tokens=len(self.tokens),
            mean_logprob=self.mean_logprob,
        )


@dataclass(frozen=True, kw_only=True)
class _Job:
    """A request that is being answered, with all of its candidates."""

    request: Request
    prompt_tokens: int
    drafts: tuple[_Draft, ...]

    @property
    def done(self) -> bool:
        return all(draft.stop_reason for draft in self.drafts)

    def answer(self) -> Generation | Failure:
        errors = [draft.constraint.error for draft in self.drafts if draft.constraint]
        if any(errors):
            return Failure.of(self.request, f"the answer could not be held to its schema: {max(errors)}")
        try:
            made = tuple(draft.candidate() for draft in self.drafts)
        except Exception as exc:  # a checkpoint's own tokenizer may raise anything
            return Failure.of(self.request, f"{type(exc).__name__}: {exc}")
        return Generation(id=self.request.id, candidates=made, prompt_tokens=self.prompt_tokens)


class _Drawn:
    """The tokens drawn in one step. They are copied to the host while the device goes on.

    Args:
        rows: the candidates that the tokens belong to.
        tokens: int64, shape (rows,).
        means: mean log-probability of each row so far, float64, shape (rows,); None if no row needs it.
    """

    def __init__(self, rows: Sequence[_Draft], tokens: torch.Tensor, means: torch.Tensor | None) -> None:
        self._rows = rows
        # A non-blocking copy from a GPU goes to pinned memory, which must not be read before the event has happened.
        self._tokens = tokens.to("cpu", non_blocking=True)
        self._means = None if means is None else means.to("cpu", non_blocking=True)
        self._copied = torch.cuda.Event() if tokens.is_cuda else None  # type: ignore[no-untyped-call]
        if self._copied:
            self._copied.record()

    def accept(self) -> None:
        """Wait for the copy, then give each row its token. Rows that ended before ignore theirs."""
        if self._copied:
            self._copied.synchronize()
        means = itertools.repeat(None) if self._means is None else self._means.tolist()
        for draft, token, mean in zip(self._rows, self._tokens.tolist(), means, strict=False):
            if not draft.stop_reason:
                draft.accept(token)
                if draft.stop_reason and draft.scored:
                    draft.mean_logprob = mean


class Sampler:
    """The candidates of a running batch. Each is one row of the model's input; those of a request are neighbours.

    Args:
        rules: the tokenizer and the generation settings of the checkpoint.
        vocabulary: the number of tokens for which the model gives logits.
        device: the device on which the logits are.
    """

    def __init__(self, rules: TokenRules, vocabulary: int, device: torch.device) -> None:
        self._rules = rules
        self._vocabulary = vocabulary
        self._late = device.type in _LATE
        self._jobs: list[_Job] = []
        self._rows: list[_Draft] = []
        self._drawn: deque[_Drawn] = deque()
        """Tokens that were drawn and not yet given to their rows, oldest step first."""
        self._step = 0
        self._knobs = torch.zeros(0, len(_knobs(SamplingParams())), device=device)
        self._draws = torch.zeros(0, 0, device=device)
        self._steps = torch.zeros(0, 1, dtype=torch.int64, device=device)
        """The number of tokens that each row has, int64, shape (rows, 1)."""
        self._logprobs = torch.zeros(0, 1, dtype=torch.float64, device=device)
        """The sum of the log-probabilities of each row's tokens, float64, shape (rows, 1). It grows only while some row
        needs it."""
        self._seen = torch.zeros(0, vocabulary, dtype=torch.bool, device=device)
        """The tokens that occur in each row, prompt and answer, bool, shape (rows, vocabulary). It has no rows until a
        row with a repetition penalty joins."""
        self._look()

    def add(self, requests: Sequence[Request], prompt_ids: torch.Tensor, prompt_mask: torch.Tensor) -> list[int]:
        """Add requests. Their candidates become the last rows.

        Args:
            requests: the requests to add.
            prompt_ids: the tokens of their prompts, int64, shape (requests, tokens), for the repetition penalty.
            prompt_mask: of the same shape, on the CPU; 0 where an id is padding.

        Returns:
            The number of candidates of each request.
        """
        jobs = []
        for request, length in zip(requests, prompt_mask.sum(1).tolist(), strict=True):
            made = tuple(self._draft(request) for _ in range(request.num_captions))
            jobs.append(_Job(request=request, prompt_tokens=length, drafts=made))
        drafts = [draft for job in jobs for draft in job.drafts]
        numbered = [(job, number) for job in jobs for number in range(len(job.drafts))]
        penalised = any(draft.params.repetition_penalty not in (None, 1) for draft in (*self._rows, *drafts))
        if penalised or len(self._seen):
            rows = numbers(repeated([len(job.drafts) for job in jobs]), prompt_ids.device)
            seen = self._tokens_of(prompt_ids, moved(prompt_mask, prompt_ids.device))[rows]
            # The rows that are there already have no penalty, so that it does not matter which tokens they have.
            held = self._seen if len(self._seen) else self._seen.new_zeros(len(self._rows), self._vocabulary)
            self._seen = torch.cat([held, seen])
        longest = max((draft.params.max_tokens or 0 for draft in drafts if draft.params.temperature), default=0)
        draws = [_uniforms(job.request.seed, number, longest) for job, number in numbered]
        self._draws = _stack(self._draws, torch.from_numpy(np.stack(draws)))
        self._knobs = _stack(self._knobs, torch.tensor([_knobs(draft.params) for draft in drafts]))
        self._steps = _stack(self._steps, torch.zeros(len(drafts), 1, dtype=torch.int64))
        self._logprobs = _stack(self._logprobs, torch.zeros(len(drafts), 1, dtype=torch.float64))
        self._jobs += jobs
        self._rows = [*self._rows, *drafts]  # a new list: each `_Drawn` still holds the old one
        self._look()
        return [len(job.drafts) for job in jobs]

    def _draft(self, request: Request) -> _Draft:
        params = self._rules.resolve(request.sampling, request.num_captions)
        constraint = self._rules.constraints.begin(request.schema) if request.schema else None
        last = self._step + (params.max_tokens or 0)
        return _Draft(rules=self._rules, params=params, constraint=constraint, scored=request.scored, last_step=last)

    def _tokens_of(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        """Which tokens occur in each prompt, bool, shape (prompts, vocabulary).

        Padding is left out: with it, a request's answer would depend on the others in its batch.
        """
        seen = torch.zeros(len(ids), self._vocabulary + 1, dtype=torch.bool, device=ids.device)
        return seen.scatter_(1, ids.masked_fill(mask == 0, self._vocabulary), True)[:, : self._vocabulary]

    def _look(self) -> None:
        """Note which features the rows use, so that `step` skips the work that no row needs."""
        sampled = [draft.params for draft in self._rows if draft.params.temperature]
        self._samples = bool(sampled)
        self._scores = any(draft.scored for draft in self._rows)
        self._constrained = any(draft.constraint for draft in self._rows)
        self._limits = {draft.last_step for draft in self._rows}
        filtered = [params for params in sampled if _filters(params)]
        self._all_filtered = len(filtered) == len(sampled)
        self._all_top_k = all(params.top_k for params in filtered)
        # How many of the likeliest tokens to sort, to find out which ones filters exclude; 0 if no row has a filter.
        self._width = max((params.top_k or _LIKELIEST for params in filtered), default=0)

    def __len__(self) -> int:
        """The number of rows."""
        return len(self._rows)

    def step(self, logits: torch.Tensor) -> torch.Tensor:
        """Draw the next token of each row.

        Args:
            logits: shape (rows, vocabulary). Rows with a schema are overwritten.

        Returns:
            The tokens, int64, shape (rows,). Ignore those of finished rows. On a GPU a row may be known to be finished
            one step late.
        """
        scores = logits.float()
        totals = scores.logsumexp(-1, keepdim=True) if self._scores else None
        own = scores = self._constrain(scores)
        *knobs, penalty, greedy = self._knobs[:, :, None].unbind(1)
        if len(self._seen):
            scores = torch.where(self._seen, torch.where(scores < 0, scores * penalty, scores / penalty), scores)
        tokens = scores.argmax(-1)
        if self._samples:
            tokens = torch.where(greedy[:, 0] > 0, tokens, self._draw(scores, *knobs))
        if len(self._seen):
            self._seen.scatter_(1, tokens[:, None], True)
        self._steps += 1
        if totals is not None:
            self._logprobs += (own.gather(1, tokens[:, None]) - totals).double()
        means = (self._logprobs / self._steps)[:, 0] if self._scores else None
        self._drawn.append(_Drawn(self._rows, tokens, means))
        self._step += 1
        at_once = not self._late or self._constrained or self._step in self._limits
        self.settle(but=0 if at_once else 1)
        return tokens

    def settle(self, *, but: int = 0) -> None:
        """Give rows the tokens that were drawn for them.

        Args:
            but: leave the tokens of this many latest steps on their way.
        """
        while len(self._drawn) > but:
            self._drawn.popleft().accept()

    def _constrain(self, scores: torch.Tensor) -> torch.Tensor:
        """Set the scores of tokens that a row's schema forbids to minus infinity. Rows without one cost nothing."""
        held = {
            row: draft.constraint for row, draft in enumerate(self._rows) if draft.constraint and not draft.stop_reason
        }
        if held:
            rows = numbers(list(held), scores.device)
            allowed = self._rules.constraints.allowed(list(held.values()), self._vocabulary, scores.device)
            scores[rows] = torch.where(allowed, scores[rows], -torch.inf)
        return scores

    def _draw(
        self,
        scores: torch.Tensor,
        temperature: torch.Tensor,
        top_k: torch.Tensor,
        top_p: torch.Tensor,
        min_p: torch.Tensor,
    ) -> torch.Tensor:
        chances = (scores / temperature).softmax(-1)
        if self._width:
            chances = self._filtered(chances, top_k, top_p, min_p)
        # Sums run in the order of token ids, not of chances: a rounding error may swap two likely tokens when sorted,
        # and would then change the token drawn.
        # A number below 1 times the sum is below the sum in floats, too, so that a token is always found.
        sums = _running_sums(chances)
        draws = self._draws.gather(1, self._steps.clamp(max=self._draws.shape[1] - 1))
        return torch.searchsorted(sums, draws * sums[:, -1:], right=True)[:, 0]

    def _filtered(
        self, chances: torch.Tensor, top_k: torch.Tensor, top_p: torch.Tensor, min_p: torch.Tensor
    ) -> torch.Tensor:
        """The chances, with 0 for the tokens that each row's filters exclude.

        Args:
            chances: shape (rows, vocabulary).
            top_k: shape (rows, 1), as are the others.
            top_p: above 1 if there is none.
            min_p: 0 if there is none.
        """
        free = (top_k >= _ALL) & (top_p > 1) & (min_p == 0)
        for width in (self._width, chances.shape[1]):
            likeliest, ids = chances.topk(min(width, chances.shape[1]))
            likeliest = likeliest.masked_fill(torch.arange(likeliest.shape[1], device=chances.device) >= top_k, 0)
            sums = _running_sums(likeliest)
            reached, least = sums[:, -1:], min_p * likeliest[:, :1]
            whole = reached if self._all_top_k else torch.where(top_k > width, chances.sum(-1, keepdim=True), reached)
            stays = (sums - likeliest < top_p * whole) & (likeliest >= least)
            if self._all_top_k or width >= chances.shape[1]:
                break
            enough = free | (top_k <= width) | (reached >= top_p * whole) | (likeliest[:, -1:] < least)
            if bool(enough.all()):
                break
        cut = torch.zeros_like(chances).scatter_(1, ids, likeliest * stays)
        return cut if self._all_filtered else torch.where(free, chances, cut)

    def ended(self) -> dict[RequestId, int]:
        """The requests that `finished` will return next, each with the number of one of its rows.

        The numbers hold until rows are dropped. A request whose rows are all gone is left out.
        """
        rows = {id(draft): row for row, draft in enumerate(self._rows)}
        return {
            job.request.id: row
            for job in self._jobs
            if job.done
            for row in sorted(rows[id(draft)] for draft in job.drafts if id(draft) in rows)[:1]
        }

    def finished(self) -> list[Generation | Failure]:
        """The answers to the requests whose candidates have all ended since the last call."""
        done = [job for job in self._jobs if job.done]
        self._jobs = [job for job in self._jobs if not job.done]
        return [job.answer() for job in done]

    def drop_finished(self, *, at_least: float = _DEAD_SHARE) -> list[int] | None:
        """Drop finished rows if there are enough of them.

        Args:
            at_least: the share of the rows that must be finished.

        Returns:
            The numbers of the rows that stay, ascending; None if no row was dropped.
        """
        staying = [row for row, draft in enumerate(self._rows) if not draft.stop_reason]
        if len(self._rows) - len(staying) < max(len(self._rows) * at_least, 1):
            return None
        self._rows = [self._rows[row] for row in staying]
        rows = numbers(staying, self._knobs.device)
        self._knobs, self._draws, self._steps = self._knobs[rows], self._draws[rows], self._steps[rows]
        self._logprobs = self._logprobs[rows]
        if len(self._seen):
            self._seen = self._seen[rows]
        self._look()
        return staying


def _running_sums(chances: torch.Tensor) -> torch.Tensor:
    """Cumulative sums along rows.

    CUDA's `cumsum` may give a different last bit each time. If PyTorch is set to be deterministic, the CPU does it.
    """
    if chances.device.type == "cuda" and torch.are_deterministic_algorithms_enabled():
        return chances.cpu().cumsum(-1).to(chances.device)
    return chances.cumsum(-1)


def _stack(held: torch.Tensor, new: torch.Tensor) -> torch.Tensor:
    """Both tensors one below the other, the narrower one padded with zeros on the right."""
    width = max(held.shape[1], new.shape[1])
    parts = [held, moved(new, held.device)]
    return torch.cat([functional.pad(part, (0, width - part.shape[1])) for part in parts])


def _knobs(params: SamplingParams) -> tuple[float, ...]:
    """Temperature, top-k, top-p, min-p, repetition penalty, and 1 if the row is greedy, as numbers.

    A parameter that is off gets a value that does nothing. The filters of a greedy row are off.
    """
    greedy = not params.temperature
    return (
        params.temperature or 1.0,
        float(_ALL if greedy else params.top_k or _ALL),
        2.0 if greedy or params.top_p in (None, 1) else params.top_p,
        0.0 if greedy else params.min_p or 0.0,
        params.repetition_penalty or 1.0,
        float(greedy),
    )
