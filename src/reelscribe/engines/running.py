"""The batch that a model is working on. Works join and leave it while it runs (continuous batching)."""

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import torch
from transformers import DynamicCache
from transformers.cache_utils import DynamicLayer

from reelscribe.engines.branching import BranchingCache, can_branch
from reelscribe.engines.cached import cache_name
from reelscribe.engines.families import PIXELS
from reelscribe.engines.inputs import InputBuilder, ModelInputs
from reelscribe.engines.judging import to_judge, with_chances, with_given
from reelscribe.engines.looks import OneLook
from reelscribe.engines.moving import moved, numbers, repeated
from reelscribe.engines.repeating import RepeatingCache
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.engines.thinking import with_opening
from reelscribe.values import Failure, Generation

_PREFILL_TOKENS: Final = {"cpu": 1280}
"""Most prompt tokens, padding included, in one pass of vision encoder and prefill, by type of device.

On a CPU this is few enough for the CPU's caches to hold their activations.
"""
_PREFILL_TOKENS_GPU: Final = 16384
"""The same limit for every type of device that `_PREFILL_TOKENS` does not name."""
_QUESTION_TOKENS: Final = 2048
"""Most tokens of questions in one forward pass. Their attention takes memory in proportion to this number times the
length of the prefixes."""


class RunningBatch:
    """The works that one model is answering at the moment.

    A work costs one pass of the vision encoder, one prefill for each prefix that its prompts share, and one pass over
    the tokens that each question adds to its prefix. After that its candidates are decoded token by token.

    Args:
        model: a loaded model, with branching enabled; see `enable_branching`.
        builder: builds the model's inputs.
        rules: the tokenizer and the generation settings of the checkpoint.
        device: the device that inputs are moved to.
    """

    def __init__(self, model: Any, builder: InputBuilder, rules: TokenRules, device: torch.device) -> None:
        self._model, self._builder, self._device = model, builder, device
        # Layers of a `DynamicCache` show of which kind each layer of the model is.
        self._config = model.config.get_text_config()
        self._cache_name = cache_name(model)
        self._kinds = DynamicCache(config=self._config).layers
        self._branches = can_branch(self._config, self._kinds)
        self._together = self._branches and builder.cuts and all(type(kind) is DynamicLayer for kind in self._kinds)
        """Whether one prefill may read several works. That needs padding, which only plain attention layers ignore."""
        self._looks = OneLook(model)
        self._axes = 1
        """The number of position axes: 1, or 3 for time, height and width."""
        self._works: list[ModelInputs] = []
        self._vocabulary = model.get_output_embeddings().out_features
        self._sampler = Sampler(rules, self._vocabulary, device)
        self._finished: list[Generation | Failure] = []
        """Complete answers that the caller has not fetched yet. Those that needed judging have been judged."""
        self._empty()

    def _empty(self) -> None:
        self._cache: BranchingCache | RepeatingCache
        self._cache = BranchingCache(self._kinds, self._device) if self._branches else RepeatingCache(self._device)
        self._logits = torch.zeros(0, self._vocabulary, device=self._device)
        """Logits of the next token of each candidate, shape (rows, vocabulary)."""
        self._positions = torch.zeros(0, 1, dtype=torch.int64, device=self._device)
        """The position of the next token of each candidate, int64 or float32, shape (rows, 1)."""

    @property
    def works(self) -> list[ModelInputs]:
        """The works that have joined and are not fully answered. After a failed step, they have to be run elsewhere."""
        return list(self._works)

    @torch.inference_mode()
    def join(self, group: Sequence[ModelInputs]) -> None:
        """Add works to the batch: encode their videos and prefill their prompts.

        From here on the works belong to the batch, even if this raises; see `works`.
        """
        self._works += group
        self._axes = len(group[0].prefixes[0].positions)
        self._keep(self._sampler.drop_finished(at_least=0))
        caches, logits, ends, counts = [], [], [], []
        tokens = _PREFILL_TOKENS.get(self._device.type, _PREFILL_TOKENS_GPU)
        for part in _parts(group, tokens, together=self._together, padded=self._device.type == "cpu"):
            prompts = self._builder.collate_prompts(part)
            cache, scores = self._read(part)
            caches.append(cache)
            logits.append(self._ask(cache, scores, prompts).to(self._device))
            ends.append(prompts["ends"])
            requests = [question.request for item in part for question in item.questions]
            counts += self._sampler.add(requests, prompts["ids"], prompts["mask"])
        self._looks.forget()
        self._cache.add(caches, counts)
        rows, scores = numbers(repeated(counts), self._device), torch.cat(logits)
        self._logits = torch.cat([self._logits.to(scores.dtype), scores[rows]])
        self._positions = torch.cat([self._positions, torch.cat(ends)[rows, None]])

    def _read(self, part: Sequence[ModelInputs]) -> tuple[Any, torch.Tensor]:
        """Encode the videos of some works and prefill their prefixes.

        Returns:
            A cache with one row for each question, and logits of the token after each question's prefix, shape
            (questions, vocabulary). For a question without tokens of its own these are the logits of its answer.
        """
        inputs = self._builder.collate(part)
        for name in PIXELS:
            if name in inputs:
                inputs[name] = inputs[name].to(self._model.dtype)
        filled = DynamicCache(config=self._config)
        with self._looks.at(part[0].video):
            scores = self._model(**inputs, **{self._cache_name: filled}, use_cache=True, logits_to_keep=1).logits[:, -1]
        prefixes = [prefix for item in part for prefix in item.prefixes]
        lengths, counts = [len(each.ids) for each in prefixes], [len(each.questions) for each in prefixes]
        cache = type(self._cache).over(filled, lengths, counts, self._device)
        return cache, scores[numbers(repeated(counts), scores.device)]

    def _ask(self, cache: Any, scores: torch.Tensor, prompts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Prefill the tokens that each question has after its prefix, if any has some.

        Args:
            cache: one row for each question.
            scores: logits after each question's prefix, shape (questions, vocabulary).
            prompts: the whole prompts, as `InputBuilder.collate_prompts` returns them.

        Returns:
            Logits of the first token of each answer, shape (questions, vocabulary).
        """
        ids, own, ends = prompts["ids"], prompts["own"], prompts["ends"]
        width = max(_QUESTION_TOKENS // len(own), 1)
        left = scores
        # Masks hide padding from attention, but padding would change a layer's states. With states, pieces are cut so
        # that each row of a piece is either all padding or has none.
        for start, end in _pieces(sorted(set(own.tolist())) if cache.has_states else [int(own.max())], width):
            distance = torch.arange(-start, -end)  # negative: counted from the ends of the prompts
            cache.begin_step(distance >= -own[:, None])
            places = slice(ids.shape[1] - start, ids.shape[1] - end)
            left = self._score(ids[:, places], ends[:, None] + moved(distance, ends.device), cache)
            cache.end_step()
        return torch.where(moved(own[:, None] > 0, scores.device), left, scores)

    def _score(self, tokens: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Run the model on the next tokens of each row.

        Args:
            tokens: int64, shape (rows, tokens).
            positions: of these tokens, of the same shape.
            cache: of these rows.

        Returns:
            Logits of the token that follows in each row, shape (rows, vocabulary).
        """
        scores = None
        for rows, held in cache.passes():
            places = positions[rows]
            made: torch.Tensor = self._model(
                input_ids=tokens[rows],
                attention_mask=_no_masks(self._config) if self._branches else None,
                position_ids=places if self._axes == 1 else places.expand(self._axes, -1, -1),
                **{self._cache_name: held},
                use_cache=True,
                logits_to_keep=1,
            ).logits[:, -1]
            if self._branches:
                return made
            scores = made.new_zeros(len(tokens), self._vocabulary) if scores is None else scores
            scores[rows] = made
        if scores is None:
            raise ValueError("no row has a token.")
        return scores

    @torch.inference_mode()
    def step(self) -> None:
        """Draw a token for each candidate, then compute the logits of the next one.

        If the model raises, answers that are complete by then can still be fetched with `finished`.
        """
        tokens = self._sampler.step(self._logits)
        self._finish()
        tokens = self._keep(self._sampler.drop_finished(), tokens)
        if not len(tokens):
            return
        try:
            self._cache.begin_step()
            self._logits = self._score(tokens[:, None], self._positions, self._cache).to(self._device)
        except Exception:
            self._sampler.settle()  # else requests that ended in the step before would fail with this step
            self._finish()
            raise
        self._positions = self._positions + 1

    def finished(self) -> list[Generation | Failure]:
        """The answers that were completed since the last call. May also be called after a step that failed."""
        answers, self._finished = self._finished, []
        if answers:
            left = {each.request.id for item in self._works for each in item.questions}
            left -= {answer.id for answer in answers}
            self._works = [some for item in self._works if (some := item.only(left)).prefixes]
        return answers

    def _finish(self) -> None:
        """Collect the answers that are complete, and judge those that need it, before their rows are dropped.

        If judging raises, the answers that need no judging are collected all the same.
        """
        rows = self._sampler.ended()
        if not rows:
            return
        asked = {each.request.id: (item, each) for item in self._works for each in item.questions}
        unjudged, judging = [], []
        for answer in self._sampler.finished():
            if not isinstance(answer, Generation):
                self._finished.append(answer)
                continue
            item, question = asked[answer.id]
            made = with_given(question.request, with_opening(answer) if question.opens_thought else answer)
            if texts := to_judge(question.request, made):
                unjudged.append((rows[answer.id], question.request, made, texts))
                judging.append(self._builder.judging(item, answer.id, texts))
            else:
                self._finished.append(made)
        if unjudged:
            chances = self._chances([row for row, *_ in unjudged], judging)
            for _, request, made, texts in unjudged:
                self._finished.append(with_chances(request, made, dict(zip(texts, chances, strict=False))))

    def _chances(self, rows: Sequence[int], judging: Sequence[ModelInputs]) -> Iterator[float]:
        """The probability of "yes" as the answer to each question of the works in `judging`.

        The questions go on from the prefixes that the cache still holds. Layers with states, and a `RepeatingCache`,
        hold no prefix: there the clip is encoded and the prefix is read once more.

        Args:
            rows: for each work in `judging`, the row of a candidate that goes on from its prefix.
            judging: one prefix each, with the questions to ask after it.
        """
        if isinstance(self._cache, BranchingCache) and not self._cache.has_states:
            cache = self._cache.branch(rows, [len(item.questions) for item in judging])
            scores = self._ask(cache, self._logits.new_zeros(()), self._builder.collate_prompts(judging))
            return iter(self._builder.yes_no.chances(scores))
        chances: list[float] = []
        for item in judging:
            scores = self._ask(*self._read([item]), self._builder.collate_prompts([item]))
            self._looks.forget()
            chances += self._builder.yes_no.chances(scores)
        return iter(chances)

    def _keep(self, rows: list[int] | None, tokens: torch.Tensor | None = None) -> torch.Tensor:
        """Keep only some rows.

        Args:
            rows: their numbers, ascending; None to keep all.
            tokens: of all rows, shape (rows,).

        Returns:
            The tokens of the rows that stay.
        """
        tokens = tokens if tokens is not None else self._positions[:, 0]
        if rows is None:
            return tokens
        if not rows:
            self._empty()
            return tokens[:0]
        self._cache.keep(rows)
        staying = numbers(rows, self._device)
        self._logits, self._positions = self._logits[staying], self._positions[staying]
        return tokens[staying]


_NO_MASK: Final = torch.empty(0, 0, 0, 0)
"""Stands in for an attention mask. Transformers takes a mask of four dimensions as ready and makes none of its own; the
cache hides padding itself."""
_STATES: Final = ("linear_attention", "conv")
"""Types of layers that have states. They take a mask of two dimensions, or None."""


def _no_masks(config: Any) -> Any:
    """The value for `attention_mask` if the cache does the masking: one mask, or a dict by layer type for several."""
    types = set(getattr(config, "layer_types", None) or ())
    return {each: None if each in _STATES else _NO_MASK for each in types} if len(types) > 1 else _NO_MASK


def _pieces(lengths: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Cut the range from the longest length down to 0 into pieces of at most `width`.

    Each of the lengths is also the bound of a piece. Yields the start and the end of each piece, both as distances from
    the end of the prompts.
    """
    bounds = [0, *(length for length in lengths if length)]
    for end, length in reversed(list(itertools.pairwise(bounds))):
        for start in range(length, end, -width):
            yield start, max(start - width, end)


def _parts(group: Sequence[ModelInputs], tokens: int, *, together: bool, padded: bool) -> Iterator[list[ModelInputs]]:
    """Cut a group of works into parts, each of which one prefill reads.

    The prefixes of a part have at most `tokens` tokens, padding included, unless the part is a single work. A work with
    several prefixes that hold its video is read by itself, one prefix at a time, so that all passes use the same
    pixels. So is a work with sound: padded to the length of a longer sound, the end of a short one is encoded
    differently.

    Args:
        group: the works.
        tokens: most tokens of a part.
        together: whether several works may be read together at all.
        padded: whether prefixes of unequal lengths may be read together. On a GPU that would rule out flash attention,
            which takes no padding.
    """
    part: list[ModelInputs] = []
    longest = rows = 0
    for item in group if padded else sorted(group, key=lambda item: item.longest_prefix):
        uneven = len({len(prefix.ids) for prefix in item.prefixes}) > 1 and not padded
        if not together or uneven or item.has_sound or sum(prefix.has_video for prefix in item.prefixes) > 1:
            if part:
                yield part
            part, longest, rows = [], 0, 0
            yield from ([replace(item, prefixes=(prefix,))] for prefix in item.prefixes)
            continue
        unlike = not padded and item.longest_prefix != longest
        longest = max(longest, item.longest_prefix)
        if part and (unlike or longest * (rows + len(item.prefixes)) > tokens):
            yield part
            part, longest, rows = [], item.longest_prefix, 0
        part.append(item)
        rows += len(item.prefixes)
    if part:
        yield part
