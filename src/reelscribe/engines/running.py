"""The batch that a model is working on, which works join and leave while it runs."""

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
"""Tokens that go through the vision encoder and the prefill together: on a CPU so many that the caches hold them."""
_PREFILL_TOKENS_GPU: Final = 16384
_QUESTION_TOKENS: Final = 2048
"""Tokens of questions that go through the model together. Their attention takes memory by their number times the length
of prefixes."""


class RunningBatch:
    """Works under way.

    Each costs one pass of the vision encoder, one prefill for each prefix that its prompts share, and the tokens of
    each question beside; then its candidates go on token by token.

    Args:
        model: a loaded one, with branching enabled.
        builder: of its inputs.
        rules: of its checkpoint.
        device: where inputs go.
    """

    def __init__(self, model: Any, builder: InputBuilder, rules: TokenRules, device: torch.device) -> None:
        self._model, self._builder, self._device = model, builder, device
        self._config = model.config.get_text_config()
        self._cache_name = cache_name(model)
        self._kinds = DynamicCache(config=self._config).layers
        self._branches = can_branch(self._config, self._kinds)
        self._together = self._branches and builder.cuts and all(type(kind) is DynamicLayer for kind in self._kinds)
        """Whether several works may be read at once: padding would leave traces in other kinds of layers."""
        self._looks = OneLook(model)
        self._axes = 1
        """Of positions."""
        self._works: list[ModelInputs] = []
        self._vocabulary = model.get_output_embeddings().out_features
        self._sampler = Sampler(rules, self._vocabulary, device)
        self._finished: list[Generation | Failure] = []
        """Answers that are whole, and judged if they are to be."""
        self._empty()

    def _empty(self) -> None:
        self._cache: BranchingCache | RepeatingCache
        self._cache = BranchingCache(self._kinds, self._device) if self._branches else RepeatingCache(self._device)
        self._logits = torch.zeros(0, self._vocabulary, device=self._device)
        """Scores of the next token of each candidate."""
        self._positions = torch.zeros(0, 1, dtype=torch.int64, device=self._device)
        """Of the next token of each candidate."""

    @property
    def works(self) -> list[ModelInputs]:
        """What has joined and is not answered: under way, or to be run elsewhere after a step that failed."""
        return list(self._works)

    @torch.inference_mode()
    def join(self, group: Sequence[ModelInputs]) -> None:
        """Let works join: look at them, and read their prompts. They are the batch's from here on, even if it fails."""
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
        """Look at videos and read prefixes.

        Returns:
            A cache with a row for each question, and the scores of what comes next for each, which hold for those that
            have no tokens of their own.
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
        """Read the tokens that each question has of its own, if any has.

        Returns:
            Scores of the first token of each answer, shape (questions, vocabulary).
        """
        ids, own, ends = prompts["ids"], prompts["own"], prompts["ends"]
        width = max(_QUESTION_TOKENS // len(own), 1)
        left = scores
        # Padding leaves no trace in keys, but would change states: there a piece is all padding in a row, or none.
        for start, end in _pieces(sorted(set(own.tolist())) if cache.has_states else [int(own.max())], width):
            distance = torch.arange(-start, -end)  # from the prompts' ends
            cache.begin_step(distance >= -own[:, None])
            places = slice(ids.shape[1] - start, ids.shape[1] - end)
            left = self._score(ids[:, places], ends[:, None] + moved(distance, ends.device), cache)
            cache.end_step()
        return torch.where(moved(own[:, None] > 0, scores.device), left, scores)

    def _score(self, tokens: torch.Tensor, positions: torch.Tensor, cache: Any) -> torch.Tensor:
        """Take rows further by these tokens, int64, shape (rows, tokens). Returns scores of those that come next."""
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
        """Draw a token of each candidate, and score the next ones. If scoring fails, what is finished stays."""
        tokens = self._sampler.step(self._logits)
        self._finish()
        tokens = self._keep(self._sampler.drop_finished(), tokens)
        if not len(tokens):
            return
        try:
            self._cache.begin_step()
            self._logits = self._score(tokens[:, None], self._positions, self._cache).to(self._device)
        except Exception:
            self._sampler.settle()  # or what ended in the step before would be charged with this one
            self._finish()
            raise
        self._positions = self._positions + 1

    def finished(self) -> list[Generation | Failure]:
        """The requests that came to their end since the last call; also after a step that failed."""
        answers, self._finished = self._finished, []
        if answers:
            left = {each.request.id for item in self._works for each in item.questions}
            left -= {answer.id for answer in answers}
            self._works = [some for item in self._works if (some := item.only(left)).prefixes]
        return answers

    def _finish(self) -> None:
        """Take the answers that have come to their end, before their rows leave. If judging fails, others stay."""
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
        """How likely the model is to say yes to each question, behind the prefix from which candidates branched off.

        Of layers with states, and of those that no `BranchingCache` holds, nothing is left of a prefix: there the clip
        is looked at once more.

        Args:
            rows: one of the candidates of each work.
            judging: what is asked behind its prefix.
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
        """Go on with some of the candidates. Returns their tokens."""
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
"""Four dimensions tell Transformers that a mask is made already; the cache knows what is padding."""
_STATES: Final = ("linear_attention", "conv")
"""Types of layers that have states; they take a mask of two dimensions, or none."""


def _no_masks(config: Any) -> Any:
    """What a model takes for a mask where the cache has it: by type of layer, if it has several."""
    types = set(getattr(config, "layer_types", None) or ())
    return {each: None if each in _STATES else _NO_MASK for each in types} if len(types) > 1 else _NO_MASK


def _pieces(lengths: Sequence[int], width: int) -> Iterator[tuple[int, int]]:
    """Distances from the end, from the longest length down to 0: in pieces of a width that each length parts."""
    bounds = [0, *(length for length in lengths if length)]
    for end, length in reversed(list(itertools.pairwise(bounds))):
        for start in range(length, end, -width):
            yield start, max(start - width, end)


def _parts(group: Sequence[ModelInputs], tokens: int, *, together: bool, padded: bool) -> Iterator[list[ModelInputs]]:
    """Cut a group such that the prefixes of each part, padded, have at most so many tokens, or it is one work.

    A work that has several prefixes with its video goes by itself, a prefix at a time, so that the pixels are the same.
    So does one with sound: beside a longer one, models hear the end of a short sound otherwise.

    Args:
        group: works.
        tokens: of a part.
        together: whether works can be read together at all.
        padded: whether those of unequal lengths can. On a GPU they cost flash attention, which takes no padding.
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
