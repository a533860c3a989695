"""Turning vLLM's answers into the flow's values."""

from typing import TYPE_CHECKING, Any

from reelscribe.engines.thinking import before_stop, decode, opens_thought, special_marks, with_opening
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Candidate, Generation, Request

if TYPE_CHECKING:
    from reelscribe.engines.sampling import TokenRules


def generation_of(output: Any, request: Request, rules: "TokenRules") -> Generation:
    """The answer to a request.

    Args:
        output: vLLM's `RequestOutput`.
        request: the request.
        rules: the tokenizer and the generation settings of the checkpoint.
    """
    candidates = [candidate_of(made, rules, request.sampling) for made in output.outputs]
    if len(candidates) == 1:  # at temperature 0 vLLM is asked for one, since all would be the same
        candidates *= request.num_captions
    ids = output.prompt_token_ids
    made = Generation(id=request.id, candidates=tuple(candidates), prompt_tokens=len(ids))
    # An answer that matches a schema cannot contain a thought.
    thought = not request.schema and opens_thought(rules.tokenizer, ids)
    return with_opening(made) if thought else made


def candidate_of(made: Any, rules: "TokenRules", told: SamplingParams) -> Candidate:
    """The candidate in a `CompletionOutput` of vLLM.

    Args:
        made: vLLM's `CompletionOutput`.
        rules: the tokenizer and the generation settings of the checkpoint.
        told: the request's sampling parameters.
    """
    tokens = list(made.token_ids)
    total = made.cumulative_logprob
    mean_logprob = total / len(tokens) if total is not None and tokens else None
    if made.finish_reason == "stop" and tokens and tokens[-1] in rules.end_ids | set(told.stop_token_ids):
        tokens.pop()
    text = made.text
    if special_marks(rules.tokenizer):  # vLLM drops special tokens from the text, and with them the marks of thoughts
        text = before_stop(decode(rules.tokenizer, tokens), told.stop)
    return Candidate(
        text=text.strip(), stop_reason=made.finish_reason, num_tokens=len(tokens), mean_logprob=mean_logprob
    )
