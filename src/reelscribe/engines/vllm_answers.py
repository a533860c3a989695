"""What vLLM answers, in the values of the flow."""

from typing import TYPE_CHECKING, Any

from reelscribe.engines.thinking import before_stop, decode, opens_thought, special_marks, with_opening
from reelscribe.sampling_params import SamplingParams
from reelscribe.values import Candidate, Generation, Request

if TYPE_CHECKING:
    from reelscribe.engines.sampling import TokenRules


def generation_of(output: Any, request: Request, rules: "TokenRules") -> Generation:
    """The answer to a request.

    Args:
        output: vLLM's RequestOutput.
        request: that it is to.
        rules: of the checkpoint's tokens.
    """
    candidates = [candidate_of(made, rules, request.sampling) for made in output.outputs]
    if len(candidates) == 1:  # at temperature 0 vLLM makes one; they are all the same
        candidates *= request.num_captions
    ids = output.prompt_token_ids
    made = Generation(id=request.id, candidates=tuple(candidates), prompt_tokens=len(ids))
    # An answer that keeps to a schema has no room for a thought.
    thought = not request.schema and opens_thought(rules.tokenizer, ids)
    return with_opening(made) if thought else made


def candidate_of(made: Any, rules: "TokenRules", told: SamplingParams) -> Candidate:
    """A candidate, of vLLM's CompletionOutput."""
    tokens = list(made.token_ids)
    total = made.cumulative_logprob
    mean_logprob = total / len(tokens) if total is not None and tokens else None
    if made.finish_reason == "stop" and tokens and tokens[-1] in rules.end_ids | set(told.stop_token_ids):
        tokens.pop()
    text = made.text
    if special_marks(rules.tokenizer):  # vLLM has dropped them
        text = before_stop(decode(rules.tokenizer, tokens), told.stop)
    return Candidate(
        text=text.strip(), stop_reason=made.finish_reason, num_tokens=len(tokens), mean_logprob=mean_logprob
    )
