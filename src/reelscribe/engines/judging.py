"""Judging whether a sentence is true of a clip: the probability that the model answers yes rather than no.

When all candidates of a request are there, engines ask the model about each of them, or about each claim in them. The
question follows the same clip, and the answer is one token.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from reelscribe.claims import claims_in
from reelscribe.thoughts import set_apart
from reelscribe.values import JUDGED, Candidate, Generation, Request

if TYPE_CHECKING:
    import torch

TOP_LOGPROBS: Final = 20
"""How many of the likeliest tokens to ask for if the engine does not have the scores of all tokens: the most that
OpenAI's server and vLLM give."""
_YES: Final = ("yes", "Yes", "YES", " yes", " Yes", " YES")
_NO: Final = ("no", "No", "NO", " no", " No", " NO")


def with_given(request: Request, generation: Generation) -> Generation:
    """A copy with the candidates that the request itself brings to be judged, if it brings any."""
    return replace(generation, candidates=request.given.candidates) if request.given else generation


def to_judge(request: Request, generation: Generation) -> list[str]:
    """The texts to judge, without repetitions: candidates without their thoughts, or their claims, or both."""
    texts: list[str] = []
    for candidate in map(set_apart, generation.candidates if request.judge else ()):
        texts += [candidate.text] if candidate.text and request.keep == "judged" else []
        texts += claims_in(candidate.text) if request.verify else ()
    return list(dict.fromkeys(texts))


def with_chances(request: Request, generation: Generation, chances: Mapping[str, float | None]) -> Generation:
    """A copy with the judge's scores.

    Args:
        request: the request.
        generation: its answer.
        chances: the probability of yes by text; None if the judge said neither yes nor no.
    """

    def scored(candidate: Candidate) -> Candidate:
        text = set_apart(candidate).text
        chance = chances.get(text) if request.keep == "judged" else None
        scores = candidate.scores if chance is None else {**candidate.scores, JUDGED: chance}
        claims = {claim: chances.get(claim) for claim in claims_in(text)} if request.verify else candidate.claims
        return replace(candidate, scores=scores, claims=claims)

    return replace(generation, candidates=tuple(map(scored, generation.candidates)))


class YesNo:
    """The tokens with which a model says yes and no: the first tokens of these words in several spellings.

    Args:
        tokenizer: the model's tokenizer.
    """

    def __init__(self, tokenizer: Any) -> None:
        yes, no = (
            {tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words} for words in (_YES, _NO)
        )
        # If a space is a token of its own, it begins both words, and says neither.
        self.yes, self.no = sorted(yes - no), sorted(no - yes)

    def chances(self, logits: "torch.Tensor") -> list[float]:
        """P(yes) / (P(yes) + P(no)) for each row of logits, shape (rows, vocabulary)."""
        scores = logits.double()
        both = scores[:, [*self.yes, *self.no]].logsumexp(1)
        found: list[float] = (scores[:, self.yes].logsumexp(1) - both).exp().tolist()
        return found

    def chance(self, logprobs: Mapping[int, float]) -> float | None:
        """P(yes) / (P(yes) + P(no)) from log-probabilities by token; None if none of the tokens says yes or no."""
        return _chance(logprobs, lambda token: token in self.yes, lambda token: token in self.no)


def chance_in_words(tokens: Sequence[tuple[str, float]]) -> float | None:
    """P(yes) / (P(yes) + P(no)) from pairs of a token's text and log-probability; None if none says yes or no."""
    said = [(text.strip().casefold(), logprob) for text, logprob in tokens]
    by_number = {number: logprob for number, (_, logprob) in enumerate(said)}
    return _chance(by_number, lambda number: said[number][0] == "yes", lambda number: said[number][0] == "no")


def _chance(logprobs: Mapping[int, float], yes: Callable[[int], bool], no: Callable[[int], bool]) -> float | None:
    for_yes = sum(math.exp(logprob) for token, logprob in logprobs.items() if yes(token))
    for_no = sum(math.exp(logprob) for token, logprob in logprobs.items() if no(token))
    return for_yes / (for_yes + for_no) if for_yes + for_no else None
