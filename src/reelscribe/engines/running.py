"""The batch that a model is working on, which works join and leave while it runs."""

import inspect
from collections.abc import Iterator, Mapping, Sequence
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
_QUESTION_TOKENS: Final = 2048
"""Tokens of questions that go through the model together. Their attention takes memory by their number times the length
of prefixes."""


class RunningBatch:
    """Works under way.

    Each costs one pass of the vision encoder, one prefill for each prefix that its prompts share, and the tokens of
    each question beside; then its candidates go on token by token.

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
        self._works: list[ModelInputs] = []
        self._sampler = Sampler(rules, self._config.vocab_size, device)
        self._empty()

    def _empty(self) -> None:
        self._cache = BranchingCache(self._config.num_hidden_layers, self._device)
        self._logits = torch.zeros(0, self._config.vocab_size, device=self._device)
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
        self._keep(self._sampler.drop_finished(at_least=0))
        caches, logits, ends, counts = [], [], [], []
        for part in _parts(group, _PREFILL_TOKENS.get(self._device.type, _PREFILL_TOKENS_GPU)):
            prompts = self._builder.collate_prompts(part)
            cache, scores = self._read(part)
            caches.append(cache)
            logits.append(self._ask(cache, scores, prompts).to(self._device))
            ends.append(prompts["ends"])
            requests = [question.request for item in part for question in item.questions]
            counts += self._sampler.add(requests, prompts["ids"], prompts["mask"])
        self._cache.add(caches, counts)
        repeats = torch.tensor(counts, device=self._device)
        scores = torch.cat(logits)
        self._logits = torch.cat([self._logits.to(scores.dtype), scores.repeat_interleave(repeats, 0)])
        self._positions = torch.cat([self._positions, torch.cat(ends)[:, None].repeat_interleave(repeats, 0)])

    def _read(self, part: Sequence[ModelInputs]) -> tuple[BranchingCache, torch.Tensor]:
        """Look at videos and read prefixes.

        Returns:
            A cache with a row for each question, and the scores of what comes next for each, which hold for those that
            have no tokens of their own.
        """
        inputs = self._builder.collate(part)
        embeds = self._model.get_input_embeddings()(inputs["input_ids"])
        seen: dict[str, Any] = {}
        if "pixel_values_videos" in inputs:
            shown = inputs["mm_token_type_ids"] == 2
            features, deepstack = self._look(part, inputs)
            embeds = embeds.masked_scatter(shown.to(embeds.device)[..., None], features.to(embeds))
            seen = {"visual_pos_masks": shown, "deepstack_visual_embeds": deepstack}
        filled = DynamicCache(config=self._config)
        hidden = self._model.model.language_model(
            inputs_embeds=embeds,
            attention_mask=inputs["attention_mask"],
            position_ids=inputs["position_ids"],
            **{self._cache_name: filled},
            use_cache=True,
            **seen,
        ).last_hidden_state
        counts = [len(prefix.questions) for item in part for prefix in item.prefixes]
        repeats = torch.tensor(counts, device=hidden.device)
        scores = self._model.lm_head(hidden[:, -1:])[:, -1].repeat_interleave(repeats, 0)
        return BranchingCache.over(filled, inputs["attention_mask"], counts), scores

    def _look(
        self, part: Sequence[ModelInputs], inputs: Mapping[str, torch.Tensor]
    ) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Run the vision encoder once a work.

        Returns:
            Embeddings of the vision tokens of all prefixes, shape (tokens, size), and those for its layers of
            deepstack.
        """
        vision = self._model.model.visual
        grids = inputs["video_grid_thw"]
        output = vision(inputs["pixel_values_videos"].to(vision.dtype), grid_thw=grids)
        sizes = (grids.prod(-1) // vision.spatial_merge_size**2).tolist()
        times = [sum(prefix.has_video for prefix in item.prefixes) for item in part if item.has_video]

        def repeated(features: torch.Tensor) -> torch.Tensor:
            if set(times) == {1}:
                return features
            parts = torch.split(features, sizes)
            return torch.cat([each.repeat(often, 1) for each, often in zip(parts, times, strict=True)])

        return repeated(output.pooler_output), [repeated(features) for features in output.deepstack_features]

    def _ask(self, cache: BranchingCache, scores: torch.Tensor, prompts: Mapping[str, torch.Tensor]) -> torch.Tensor:
        """Read the tokens that each question has of its own, if any has.

        Returns:
            Scores of the first token of each answer, shape (questions, vocabulary).
        """
        ids, own, ends = prompts["ids"], prompts["own"], prompts["ends"]
        longest, width = int(own.max()), max(_QUESTION_TOKENS // len(own), 1)
        left = scores
        for start in range(longest, 0, -width):
            distance = torch.arange(-start, min(width - start, 0), device=ids.device)  # from the prompts' ends
            cache.begin_step(distance >= -own[:, None])
            left = self._score(ids[:, distance], ends[:, None] + distance, cache)
        return torch.where(own[:, None].to(scores.device) > 0, left, scores)

    def _score(self, tokens: torch.Tensor, positions: torch.Tensor, cache: BranchingCache) -> torch.Tensor:
        """Take rows further by these tokens, int64, shape (rows, tokens). Returns scores of those that come next."""
        hidden = self._model.model.language_model(
            inputs_embeds=self._model.get_input_embeddings()(tokens),
            attention_mask=_NO_MASK,
            position_ids=positions.expand(3, -1, -1),
            **{self._cache_name: cache},
            use_cache=True,
        ).last_hidden_state
        scores: torch.Tensor = self._model.lm_head(hidden[:, -1:])[:, -1]
        return scores

    @torch.inference_mode()
    def step(self) -> None:
        """Draw a token of each candidate, and score the next ones. If scoring fails, what is finished stays."""
        tokens = self._sampler.step(self._logits)
        tokens = self._keep(self._sampler.drop_finished(), tokens)
        if len(tokens):
            self._cache.begin_step()
            self._logits = self._score(tokens[:, None], self._positions, self._cache).to(self._device)
            self._positions = self._positions + 1

    def finished(self) -> list[Generation | Failure]:
        """The requests that came to their end since the last call; also after a step that failed."""
        answers = self._sampler.finished()
        if not answers:
            return []
        asked = {each.request.id: each for item in self._works for each in item.questions}
        left = asked.keys() - {answer.id for answer in answers}
        self._works = [some for item in self._works if (some := item.only(left)).prefixes]
        return [
            with_opening(answer) if isinstance(answer, Generation) and asked[answer.id].opens_thought else answer
            for answer in answers
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
    """Cut a group such that the prefixes of each part, padded, have at most so many tokens, or it is one work."""
    part: list[ModelInputs] = []
    longest = rows = 0
    for item in group:
        longest = max(longest, item.longest_prefix)
        if part and longest * (rows + len(item.prefixes)) > tokens:
            yield part
            part, longest, rows = [], item.longest_prefix, 0
        part.append(item)
        rows += len(item.prefixes)
    if part:
        yield part
