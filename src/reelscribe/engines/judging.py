"""Whether a sentence holds for a clip: how likely the model is to say yes, and not no, when it is asked.

Engines ask behind what they have read of the clip, for one token, when all candidates of a request are there. What is
asked about are the candidates, or the claims in them.
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
"""Likeliest tokens that are asked for where not all can be had: the most that OpenAI's server and vLLM give."""
_YES: Final = ("yes", "Yes", "YES", " yes", " Yes", " YES")
_NO: Final = ("no", "No", "NO", " no", " No", " NO")


def with_given(request: Request, generation: Generation) -> Generation:
    """The same with the candidates that the request gives, if it gives any, in place of what was generated."""
    return replace(generation, candidates=request.given.candidates) if request.given else generation


def to_judge(request: Request, generation: Generation) -> list[str]:
    """The texts that are to be judged, each once: candidates without their thoughts, or their claims, or both."""
    texts: list[str] = []
    for candidate in map(set_apart, generation.candidates if request.judge else ()):
        texts += [candidate.text] if candidate.text and request.keep == "judged" else []
        texts += claims_in(candidate.text) if request.verify else ()
    return list(dict.fromkeys(texts))


def with_chances(request: Request, generation: Generation, chances: Mapping[str, float | None]) -> Generation:
    """The same with what the judge said, by text. Of some it may have said neither yes nor no."""

    def scored(candidate: Candidate) -> Candidate:
        text = set_apart(candidate).text
        chance = chances.get(text) if request.keep == "judged" else None
        scores = candidate.scores if chance is None else {**candidate.scores, JUDGED: chance}
        claims = {claim: chances.get(claim) for claim in claims_in(text)} if request.verify else candidate.claims
        return replace(candidate, scores=scores, claims=claims)

    return replace(generation, candidates=tuple(map(scored, generation.candidates)))


class YesNo:
    """The tokens with which a model says yes and no: those that the words begin with, in whatever case.

    Args:
        tokenizer: the model's.
    """

    def __init__(self, tokenizer: Any) -> None:
        yes, no = (
            {tokenizer(word, add_special_tokens=False)["input_ids"][0] for word in words} for words in (_YES, _NO)
        )
        # A blank that is a token of its own begins both.
        self.yes, self.no = sorted(yes - no), sorted(no - yes)

    def chances(self, logits: "torch.Tensor") -> list[float]:
        """P(yes) of P(yes) and P(no), for each row of scores, shape (rows, vocabulary)."""
        scores = logits.double()
        both = scores[:, [*self.yes, *self.no]].logsumexp(1)
        found: list[float] = (scores[:, self.yes].logsumexp(1) - both).exp().tolist()
        return found

    def chance(self, logprobs: Mapping[int, float]) -> float | None:
        """The same from log-probabilities of some tokens; None if none of them says either."""
        return _chance(logprobs, lambda token: token in self.yes, lambda token: token in self.no)


def chance_in_words(tokens: Sequence[tuple[str, float]]) -> float | None:
    """The same from tokens as texts, as servers give them."""
    said = [(text.strip().casefold(), logprob) for text, logprob in tokens]
    by_number = {number: logprob for number, (_, logprob) in enumerate(said)}
    return _chance(by_number, lambda number: said[number][0] == "yes", lambda number: said[number][0] == "no")


def _chance(logprobs: Mapping[int, float], yes: Callable[[int], bool], no: Callable[[int], bool]) -> float | None:
    for_yes = sum(math.exp(logprob) for token, logprob in logprobs.items() if yes(token))
    for_no = sum(math.exp(logprob) for token, logprob in logprobs.items() if no(token))
    return for_yes / (for_yes + for_no) if for_yes + for_no else None
