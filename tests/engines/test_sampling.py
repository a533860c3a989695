"""Drawing tokens: the distribution, the filters, who stops when, and that rows do not matter to each other."""

import itertools
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from flow import named
from transformers import (
    GenerationConfig,
    LogitsProcessorList,
    MinPLogitsWarper,
    RepetitionPenaltyLogitsProcessor,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from reelscribe.engines import sampling
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.sampling_params import DEFAULT_MAX_TOKENS, SamplingParams
from reelscribe.values import Candidate, Clip, Generation, Request

END = 0
PIECES = ["<end>", "a", "b", "c", " red", " ring", " moves", "."]
LOGITS = torch.tensor([[-9.0, 2.0, 1.5, 0.7, 0.2, -0.5, -1.0, -2.0]])


class Tokenizer:
    """A token is a piece of text; the end token is special."""

    eos_token_id = END

    def decode(self, tokens: Sequence[int], *, skip_special_tokens: bool) -> str:
        assert skip_special_tokens
        return "".join(PIECES[token] for token in tokens if token != END)


RULES = TokenRules(Tokenizer(), GenerationConfig())


def request(num_captions: int = 1, seed: int = 0, **sampling: Any) -> Request:
    params = SamplingParams(**{"max_tokens": 8, **sampling})
    return Request(
        id=named(f"{seed}"), clip=Clip(source="x.mp4"), prompt="", num_captions=num_captions, sampling=params, seed=seed
    )


def sampler_for(*requests: Request, prompt: Sequence[int] = (1, 1)) -> Sampler:
    sampler = Sampler(RULES, len(PIECES), torch.device("cpu"))
    if requests:
        join(sampler, *requests, prompt=prompt)
    return sampler


def join(sampler: Sampler, *requests: Request, prompt: Sequence[int] = (1, 1), padding: int = 0) -> list[int]:
    ids = torch.tensor([list(prompt)] * len(requests))
    mask = torch.ones_like(ids)
    mask[:, :padding] = 0
    return sampler.add(requests, ids, mask)


def first_tokens(*requests: Request, logits: torch.Tensor = LOGITS) -> list[int]:
    sampler = sampler_for(*requests)
    tokens: list[int] = sampler.step(logits.expand(len(sampler), -1)).tolist()
    return tokens


def play(script: Sequence[int], *requests: Request) -> list[Candidate]:
    """Make every row want the tokens of a script, one after the other, and then one that no text should have."""
    numbered = [replace(item, id=named(f"{number}")) for number, item in enumerate(requests)]
    sampler = sampler_for(*numbered)
    made: dict[str, tuple[Candidate, ...]] = {}
    for token in [*script, 7]:
        sampler.step(100 * torch.nn.functional.one_hot(torch.tensor([token] * len(sampler)), len(PIECES)).float())
        made |= {answer.id.task: answer.candidates for answer in sampler.finished() if isinstance(answer, Generation)}
        sampler.drop_finished()
        if not len(sampler):
            break
    return [candidate for item in numbered for candidate in made[item.id.task]]


def surprise(tokens: Sequence[int], chances: torch.Tensor) -> float:
    """Chi-square of drawn tokens against what their chances let expect; infinite for one that has none."""
    counts = Counter(tokens)
    if any(chances[token] == 0 for token in counts):
        return float("inf")
    expected = {token: chance * len(tokens) for token, chance in enumerate(chances.tolist()) if chance}
    return float(sum((counts[token] - mean) ** 2 / mean for token, mean in expected.items()))


@pytest.fixture(params=["at once", "late"])
def when_read(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Tokens are read when they are drawn, or one step late, as they are on a GPU."""
    monkeypatch.setattr(sampling, "_LATE", ("cpu",) if request.param == "late" else ())


LIMIT = 24.3
"""Chi-square of seven degrees of freedom passes it once in a thousand times."""


class TestLogProbabilities:
    def test_they_are_the_model_s_own_whatever_temperature_filters_and_penalty(self) -> None:
        """The end token counts. Rows leave and join on the way."""
        asked = replace(
            request(3, seed=5, temperature=1.7, top_k=4, repetition_penalty=1.4, max_tokens=6), keep="likeliest"
        )
        other = replace(request(2, seed=9, temperature=1.0, max_tokens=3), id=named("other"))
        sampler = sampler_for(other)
        sums: dict[int, list[float]] = {}
        made: list[Generation] = []
        while len(made) < 2:
            if not sums:
                join(sampler, asked)
            steps = LOGITS * (1 + len(sums) / 10)
            rows = [draft for draft in sampler._rows if draft.scored and not draft.stop_reason]
            places = [number for number, draft in enumerate(sampler._rows) if draft in rows]
            tokens = sampler.step(steps.expand(len(sampler), -1))
            for draft, place in zip(rows, places, strict=True):
                sums.setdefault(id(draft), []).append(float(steps.log_softmax(-1)[0, tokens[place]]))
            made += [answer for answer in sampler.finished() if isinstance(answer, Generation)]
            sampler.drop_finished(at_least=0)
        by_task = {answer.id.task: answer.candidates for answer in made}
        assert [candidate.mean_logprob for candidate in by_task["other"]] == [None, None]
        seen = [candidate.mean_logprob for candidate in by_task["5"]]
        assert seen == pytest.approx([np.mean(each) for each in sums.values()])
        assert len(set(seen)) == 3

    @pytest.mark.usefixtures("when_read")
    def test_the_end_token_counts(self) -> None:
        [made] = play([1, END], replace(request(temperature=0.0), keep="likeliest"))
        assert (made.text, made.num_tokens) == ("a", 1)
        assert made.mean_logprob == pytest.approx(0, abs=1e-6)


class TestDraw:
    def test_follows_the_chances_over_candidates_and_over_seeds(self) -> None:
        chances = LOGITS[0].softmax(-1)
        over_candidates = first_tokens(request(4000, temperature=1.0))
        over_seeds = first_tokens(*(request(seed=seed, temperature=1.0) for seed in range(4000)))
        assert surprise(over_candidates, chances) < LIMIT
        assert surprise(over_seeds, chances) < LIMIT
        assert over_candidates != over_seeds

    def test_follows_the_chances_over_the_steps_of_one_candidate(self) -> None:
        sampler = sampler_for(request(seed=3, temperature=1.0, max_tokens=4000))
        tokens = [sampler.step(LOGITS).item() for _ in range(4000)]
        assert surprise([int(token) for token in tokens], LOGITS[0].softmax(-1)) < LIMIT
        pairs = Counter(itertools.pairwise(tokens))
        assert pairs[1, 1] / 3999 == pytest.approx(LOGITS[0].softmax(-1)[1].item() ** 2, abs=0.03)

    def test_the_check_itself_sees_a_wrong_temperature(self) -> None:
        assert surprise(first_tokens(request(4000, temperature=1.1)), LOGITS[0].softmax(-1)) > LIMIT

    @pytest.mark.parametrize(
        ("params", "warpers"),
        [
            ({"temperature": 0.5}, [TemperatureLogitsWarper(0.5)]),
            ({"temperature": 1.0, "top_k": 3}, [TopKLogitsWarper(3)]),
            ({"temperature": 1.0, "top_p": 0.8}, [TopPLogitsWarper(0.8)]),
            ({"temperature": 1.0, "min_p": 0.3}, [MinPLogitsWarper(0.3)]),
            (
                {"temperature": 1.4, "top_k": 5, "top_p": 0.9, "min_p": 0.2},
                [TemperatureLogitsWarper(1.4), TopKLogitsWarper(5), TopPLogitsWarper(0.9), MinPLogitsWarper(0.2)],
            ),
            ({"temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0}, []),
            ({"temperature": 1.0, "top_k": 100}, []),
            ({"temperature": 1.0, "top_p": 0.001}, [TopPLogitsWarper(0.001)]),
        ],
    )
    def test_filters_do_what_those_of_transformers_do(self, params: dict[str, Any], warpers: list[Any]) -> None:
        chances = LogitsProcessorList(warpers)(torch.tensor([[1]]), LOGITS).softmax(-1)[0]
        assert surprise(first_tokens(request(4000, **params)), chances) < LIMIT

    @pytest.mark.parametrize("spread", [0.1, 1.0, 12.0])
    def test_few_likely_tokens_are_sorted_and_all_if_these_do_not_reach(
        self, spread: float, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        widths: list[int] = []
        topk = torch.Tensor.topk

        def see(chances: torch.Tensor, width: int) -> Any:
            widths.append(width)
            return topk(chances, width)

        monkeypatch.setattr(sampling, "_LIKELIEST", 64)
        monkeypatch.setattr(torch.Tensor, "topk", see)
        logits = spread * torch.randn(1, 4000, generator=torch.Generator().manual_seed(0))
        told: list[tuple[dict[str, Any], list[Any]]] = [
            ({"top_p": 0.6}, [TopPLogitsWarper(0.6)]),
            ({"min_p": 0.6}, [MinPLogitsWarper(0.6)]),
            ({"top_p": 0.5, "min_p": 0.3}, [TopPLogitsWarper(0.5), MinPLogitsWarper(0.3)]),
            ({"top_k": 20}, [TopKLogitsWarper(20)]),
            ({"top_k": 9, "top_p": 0.7}, [TopKLogitsWarper(9), TopPLogitsWarper(0.7)]),
            ({}, []),
        ]
        sampler = Sampler(RULES, 4000, torch.device("cpu"))
        greedy = request(temperature=0.0, top_p=0.9999)  # whose filter nothing is sorted for
        join(sampler, *(request(seed=n, temperature=1.0, **params) for n, (params, _) in enumerate(told)), greedy)
        *knobs, _, _ = sampler._knobs[:, :, None].unbind(1)
        kept = sampler._filtered((logits / knobs[0]).softmax(-1), *knobs[1:]) > 0
        for row, (_, warpers) in enumerate(told):
            expected = LogitsProcessorList(warpers)(torch.tensor([[1]]), logits) > -torch.inf
            assert torch.equal(kept[row : row + 1], expected)
        assert widths == ([64] if spread == 12.0 else [64, 4000])

    def test_each_row_has_its_own_filters(self) -> None:
        requests = [
            request(500, seed=1, temperature=1.0),
            request(500, seed=2, temperature=1.0, top_k=2),
            request(500, seed=3, temperature=2.0, top_p=0.5, min_p=0.1),
            request(500, seed=4, temperature=0.0),
        ]
        alone = [token for each in requests for token in first_tokens(each)]
        assert first_tokens(*requests) == alone
        assert set(alone[500:1000]) == {1, 2}
        assert set(alone[1500:]) == {1}

    def test_never_picks_a_token_without_a_chance(self) -> None:
        logits = torch.full((1, len(PIECES)), float("-inf"))
        logits[0, [3, 5]] = torch.tensor([0.0, 0.7])
        assert set(first_tokens(request(4000, temperature=1.0), logits=logits)) == {3, 5}
        assert set(first_tokens(request(4000, temperature=1.0, top_k=1), logits=logits)) == {5}

    @pytest.mark.parametrize(("drawn", "token"), [(0.0, 3), (float(np.nextafter(np.float32(1), np.float32(0))), 5)])
    def test_the_ends_of_the_scale_stay_within_what_has_a_chance(
        self, monkeypatch: pytest.MonkeyPatch, drawn: float, token: int
    ) -> None:
        monkeypatch.setattr(sampling, "_uniforms", lambda seed, number, count: np.full(count, drawn, np.float32))
        logits = torch.full((1, len(PIECES)), float("-inf"))
        logits[0, 3:6] = torch.tensor([0.3, 0.7, 0.5])
        assert first_tokens(request(temperature=1.0), logits=logits) == [token]
        assert first_tokens(request(temperature=1.0, top_p=0.99), logits=logits) == [token]

    def test_nearly_equal_chances_do_not_change_the_draw(self) -> None:
        nudged = LOGITS.clone()
        nudged[0, 2] = LOGITS[0, 1] + 1e-6
        even = LOGITS.clone()
        even[0, 2] = LOGITS[0, 1] - 1e-6
        params = request(500, temperature=1.0, top_k=5, top_p=0.95)
        assert first_tokens(params, logits=nudged) == first_tokens(params, logits=even)

    def test_top_k_of_one_is_greedy(self) -> None:
        torch.manual_seed(0)
        logits = torch.randn(64, len(PIECES))
        assert first_tokens(request(64, temperature=1.0, top_k=1), logits=logits) == logits.argmax(-1).tolist()

    def test_temperature_zero_is_greedy_beside_rows_that_are_not(self) -> None:
        tokens = first_tokens(request(50, temperature=0.0), request(50, seed=1, temperature=5.0))
        assert set(tokens[:50]) == {1}
        assert len(set(tokens[50:])) > 3

    def test_a_longer_limit_does_not_change_the_beginning(self) -> None:
        def tokens(limit: int) -> list[float]:
            sampler = sampler_for(request(seed=5, temperature=3.0, max_tokens=limit))
            return [sampler.step(LOGITS).item() for _ in range(8)]

        assert tokens(8) == tokens(300)

    def test_dropping_finished_rows_does_not_change_the_others(self) -> None:
        short = [request(seed=seed, temperature=5.0, max_tokens=seed + 1) for seed in range(4)]
        assert self.text_of_the_last(before=short) == self.text_of_the_last()

    @pytest.mark.parametrize("late", [1, 3])
    def test_a_row_that_joins_later_is_drawn_as_if_it_had_been_there_alone(self, late: int) -> None:
        others = [request(seed=seed, temperature=5.0, max_tokens=9 * seed + 2) for seed in range(4)]
        assert self.text_of_the_last(before=others, late=late) == self.text_of_the_last()

    def text_of_the_last(self, before: Sequence[Request] = (), late: int = 0) -> str:
        """The text of a request, drawn beside others that began so many steps before it."""
        sampler = sampler_for(*before)
        for _ in range(late):
            sampler.step(LOGITS.expand(len(sampler), -1))
        sampler.finished()
        assert join(sampler, request(seed=9, temperature=5.0, max_tokens=8)) == [1]
        while True:
            sampler.step(LOGITS.expand(len(sampler), -1))
            for answer in sampler.finished():
                if isinstance(answer, Generation) and answer.id.task == "9":
                    return answer.candidates[0].text
            sampler.drop_finished()


class TestRepetitionPenalty:
    def test_is_that_of_transformers_over_prompt_and_candidate(self) -> None:
        torch.manual_seed(1)
        sampler = sampler_for(request(temperature=0.0, repetition_penalty=1.8), prompt=(2, 5))
        ids = torch.tensor([[2, 5]])
        for _ in range(6):
            logits = torch.randn(1, len(PIECES))
            expected = RepetitionPenaltyLogitsProcessor(1.8)(ids, logits.clone()).argmax(-1)
            assert sampler.step(logits).tolist() == expected.tolist()
            ids = torch.cat([ids, expected[:, None]], 1)

    def test_does_not_count_padding(self) -> None:
        for padding, token in ((2, 1), (0, 2)):
            sampler = sampler_for()
            join(sampler, request(temperature=0.0, repetition_penalty=5.0), prompt=(1, 1, 4), padding=padding)
            assert sampler.step(LOGITS).tolist() == [token]

    @pytest.mark.parametrize("first", [1.0, 5.0])
    def test_may_join_a_batch_with_and_without_one(self, first: float) -> None:
        sampler = sampler_for(request(temperature=0.0, repetition_penalty=first), prompt=(7,))
        assert sampler.step(LOGITS).tolist() == [1]
        join(sampler, request(temperature=0.0, repetition_penalty=5.0), prompt=(1, 1))
        assert sampler.step(LOGITS.expand(2, -1)).tolist() == [1 if first == 1 else 2, 2]

    def test_is_a_row_s_own(self) -> None:
        plain, strict = request(temperature=0.0), request(2, temperature=0.0, repetition_penalty=5.0)
        assert first_tokens(plain, strict, plain) == [1, 2, 2, 1]

    def test_stays_with_its_row_when_others_are_dropped(self) -> None:
        short, long = request(temperature=0.0, max_tokens=1), request(temperature=0.0, repetition_penalty=5.0)
        sampler = sampler_for(short, long)
        assert sampler.step(LOGITS.expand(2, -1)).tolist() == [1, 2]
        assert sampler.drop_finished() is not None
        assert sampler.step(LOGITS).tolist() == [3]


@pytest.mark.usefixtures("when_read")
class TestStop:
    def test_an_end_token_ends_and_is_not_counted(self) -> None:
        assert play([1, 2, END], request()) == [Candidate(text="ab", stop_reason="stop", num_tokens=2)]

    def test_the_limit_of_tokens_ends(self) -> None:
        assert play([1, 2, 3], request(max_tokens=2)) == [Candidate(text="ab", stop_reason="length", num_tokens=2)]

    def test_an_end_token_right_after_the_limit_changes_nothing(self) -> None:
        assert play([1, END], request(max_tokens=1))[0].stop_reason == "length"

    def test_other_stop_tokens_end_too(self) -> None:
        assert play([1, 3, 2], request(stop_token_ids=(3,)))[0] == Candidate(text="a", stop_reason="stop", num_tokens=1)

    def test_text_is_cut_before_a_stop_string_that_spans_tokens(self) -> None:
        [made] = play([1, 4, 5, 6, 7], request(stop=("d rin",)))
        assert made == Candidate(text="a re", stop_reason="stop", num_tokens=3)

    def test_the_first_stop_string_in_the_text_wins(self) -> None:
        [made] = play([1, 4, 5], request(stop=("ring", " red ri")))
        assert made.text == "a"

    def test_a_stop_string_far_back_does_not_matter_to_what_has_none(self) -> None:
        plain, stopping = play([1, 4, 5, 6, END], request(), request(stop=("ring",)))
        assert (plain.text, plain.stop_reason) == ("a red ring moves", "stop")
        assert (stopping.text, stopping.num_tokens) == ("a red", 3)

    def test_candidates_end_one_by_one_and_come_in_order(self) -> None:
        requests = [request(max_tokens=limit, num_captions=2) for limit in (3, 1, 2)]
        assert [made.num_tokens for made in play([1, 2, 3], *requests)] == [3, 3, 1, 1, 2, 2]

    def test_surrounding_blanks_are_cut(self) -> None:
        assert play([4, 5, END], request())[0].text == "red ring"


class TestRules:
    QWEN = GenerationConfig(
        do_sample=True,
        temperature=0.7,
        top_k=20,
        top_p=0.8,
        repetition_penalty=1.05,
        max_new_tokens=99,
        eos_token_id=[3, 4],
    )
    GREEDY = GenerationConfig(do_sample=False, max_new_tokens=64, eos_token_id=3)

    def resolve(self, config: GenerationConfig, num_captions: int, **told: Any) -> SamplingParams:
        return TokenRules(Tokenizer(), config).resolve(SamplingParams(**told), num_captions)

    @pytest.mark.parametrize("num_captions", [1, 4])
    def test_a_checkpoint_that_samples_is_followed(self, num_captions: int) -> None:
        expected = SamplingParams(max_tokens=99, temperature=0.7, top_k=20, top_p=0.8, repetition_penalty=1.05)
        assert self.resolve(self.QWEN, num_captions) == expected

    def test_a_greedy_checkpoint_is_followed_for_one_candidate(self) -> None:
        assert self.resolve(self.GREEDY, 1) == SamplingParams(max_tokens=64, temperature=0.0)

    def test_several_candidates_are_sampled_even_from_a_greedy_checkpoint(self) -> None:
        assert self.resolve(self.GREEDY, 2) == SamplingParams(max_tokens=64, temperature=1.0)

    def test_what_is_told_wins(self) -> None:
        told = SamplingParams(
            max_tokens=5,
            temperature=0.0,
            top_k=0,
            top_p=1.0,
            min_p=0.1,
            repetition_penalty=1.0,
            stop=("x",),
            stop_token_ids=(7,),
        )
        assert TokenRules(Tokenizer(), self.QWEN).resolve(told, 4) == told

    def test_a_filter_that_is_told_makes_one_candidate_random(self) -> None:
        assert self.resolve(self.GREEDY, 1, top_p=0.9).temperature == 1.0
        assert self.resolve(self.GREEDY, 1, top_k=0, top_p=1.0).temperature == 0.0
        assert self.resolve(self.GREEDY, 1, top_p=0.9, temperature=0.0).temperature == 0.0

    def test_do_sample_makes_one_candidate_random(self) -> None:
        assert self.resolve(self.GREEDY, 1, do_sample=True).temperature == 1.0
        assert self.resolve(self.QWEN, 1, do_sample=False).temperature == 0.0

    def test_without_any_word_on_length_there_is_a_limit(self) -> None:
        assert self.resolve(GenerationConfig(), 1).max_tokens == DEFAULT_MAX_TOKENS

    def test_end_tokens_are_the_checkpoint_s_or_else_the_tokenizer_s(self) -> None:
        assert TokenRules(Tokenizer(), self.QWEN).end_ids == {3, 4}
        assert TokenRules(Tokenizer(), self.GREEDY).end_ids == {3}
        assert TokenRules(Tokenizer(), GenerationConfig()).end_ids == {END}
