"""Turns an engine's answer into an outcome: chooses candidates, adds metadata, and prepares second tries."""

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, TypeGuard

from reelscribe.checks import CHECK_FAULTS
from reelscribe.engines.base import ModelInfo
from reelscribe.events import Event
from reelscribe.faults import WITHOUT_TEXT, checked_faults, events_of, find_faults, told_of, with_value
from reelscribe.schemas import Facts
from reelscribe.selection import SELECTORS
from reelscribe.thoughts import set_apart
from reelscribe.values import (
    JUDGED,
    NO_FRAMES,
    VERIFIED,
    Answer,
    Bounds,
    Candidate,
    Caption,
    Clip,
    Failure,
    Frames,
    Generation,
    Outcome,
    Request,
)
from reelscribe.video.bounds import ends_early
from reelscribe.video.showing import fingerprint, shown

_RETRY_TEMPERATURE: Final = 0.7
_RETRY_TOP_P: Final = 0.8
"""Sampling of a second try, if the first one took the likeliest tokens: the released defaults of Qwen3-VL."""


def tell_frames(frames: Frames, clip: Clip) -> dict[str, Any]:
    """Metadata of a clip's frames, with keys of `CAPTION_META`; empty if there are no frames."""
    if frames is NO_FRAMES:
        return {}
    bounds = frames.bounds or Bounds(0.0, frames.duration_seconds, frames.duration_seconds)
    start, end, length = bounds
    flags = {
        "truncated": frames.decoded_share is not None,
        "thinned": frames.thinned,
        "shrunk": frames.shrunk,
        "ends_early": ends_early(clip, bounds),
        **shown(frames.pixels),
    }
    return {
        "frame_timestamps": [round(seconds, 3) for seconds in frames.timestamps],
        "file_timestamps": [round(start + seconds, 3) for seconds in frames.timestamps],
        "clip_start": round(float(start), 3),
        "clip_end": round(float(end), 3),
        "file_seconds": round(float(length), 3),
        "frame_size": [frames.pixels.shape[2], frames.pixels.shape[1]],
        "fps": round(len(frames.timestamps) / max(frames.duration_seconds, 1e-3), 3),
        "video_tokens": frames.video_tokens,
        "decoded_share": 1.0 if frames.decoded_share is None else float(frames.decoded_share),
        "decoded_seconds": round(float(frames.duration_seconds), 3),
        "clip_flags": " ".join(name for name, flagged in flags.items() if flagged),
        "fingerprint": fingerprint(frames.pixels),
        "audio": frames.sound.heard if frames.sound else None,
        "tone_mapped": frames.tone_mapped or "",
        "deinterlaced": frames.deinterlaced,
    }


def once_more(request: Request, first: Answer) -> Request:
    """The request of a second try: with another seed, and with sampling if the first try was or may have been greedy.

    With `tell_faults` its prompt also names the faults of the first answer.
    """
    seed = int.from_bytes(hashlib.sha256(f"{request.seed}, once more".encode()).digest()[:8], "big") >> 1
    told = request.sampling
    # Without a temperature, several candidates are sampled; for one, the checkpoint decides whether it is sampled.
    greedy = told.temperature == 0 or (told.temperature is None and not told.do_sample and request.num_captions == 1)
    sampling = replace(told, temperature=_RETRY_TEMPERATURE, top_p=_RETRY_TOP_P) if greedy else told
    said = told_of(request, first) if request.tell_faults else ""
    return replace(
        request,
        attempt=2,
        seed=seed,
        sampling=sampling,
        prompt=request.prompt + said,
        given=None,
        unfilled=(*request.unfilled, said) if said and request.unfilled else request.unfilled,
    )


def better_of(request: Request, first: Answer, second: Answer | Failure) -> Answer | Failure:
    """The better of two tries: the second one if it has no faults, or if the first one has no text; else the first."""
    if isinstance(second, Answer) and _has_words(second) and not (_has_words(first) and is_faulty(second)):
        return second
    if _has_words(first):
        return replace(first, meta={**first.meta, "tries": 2})
    said = _wordless(second) if isinstance(second, Answer) else second.message
    return Failure.of(request, f"{_wordless(first)} And: {said}")


def answer_of(
    request: Request, frames_told: dict[str, Any], facts: Facts, generation: Generation, info: ModelInfo
) -> Answer | Failure:
    """An engine's answer with the values, faults and metadata of its candidates.

    It is a failure if the engine gave a wrong number of candidates.
    """
    candidates = tuple(with_value(set_apart(candidate), request, facts) for candidate in generation.candidates)
    if not request.given and len(candidates) != request.num_captions:
        message = f"the engine gave {len(candidates)} candidates; asked for were {request.num_captions}."
        return Failure.of(request, message)
    meta: dict[str, Any] = {
        "engine": info.engine,
        "model": info.model,
        "revision": info.revision,
        "prompt": request.prompt,
        "prompt_sha256": _prompt_sha256(request),
        "sampling": request.sampling.told(),
        "seed": request.seed,
        **frames_told,
        **info.details,
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": [candidate.num_tokens for candidate in candidates],
        "stop_reasons": [candidate.stop_reason for candidate in candidates],
        "faults": [" ".join(find_faults(candidate, request)) for candidate in candidates],
        "scored": request.scored,
        "judged_by": request.judge if request.keep == "judged" else "",
        "verified_by": request.judge if request.verify else "",
        "retried_with": request.retried_with,
        "try": request.attempt,
        "tries": request.attempt,
    }
    if request.given:  # the text was made before: its metadata stays
        meta |= {**request.given.meta, "verified_by": meta["verified_by"]}
    return _judged(request, Answer(id=request.id, candidates=candidates, meta=meta))[0]


_UNREADABLE: Final = WITHOUT_TEXT | {"not_json", "schema"}
"""Faults of candidates from which no events are parsed."""
_JUDGED: Final[frozenset[str]] = CHECK_FAULTS | {"times", "false_claim"}
"""Faults that are computed at each choice, since they depend on settings that are not part of the request's key."""


def _judged(request: Request, answer: Answer) -> tuple[Answer, list[tuple[Event, ...] | None]]:
    """An answer with the faults of `_JUDGED` computed again, and the events of each candidate.

    A stored answer may have been made with other checks, without times, or with another setting for overlaps.
    """
    events: list[tuple[Event, ...] | None] = []
    faults = []
    for candidate, found in zip(answer.candidates, answer.meta["faults"], strict=False):
        judged = [fault for fault in found.split() if fault not in _JUDGED]
        looks = request.times and _UNREADABLE.isdisjoint(judged)
        events.append(events_of(candidate, request, answer.meta) if looks else None)
        if WITHOUT_TEXT.isdisjoint(judged):
            judged += checked_faults(candidate, request, answer.meta)
        faults.append(" ".join([*judged, "times"] if looks and events[-1] is None else judged))
    return replace(answer, meta={**answer.meta, "faults": faults}), events


def is_faulty(answer: Answer | Failure) -> TypeGuard[Answer]:
    """Whether all candidates have faults, so that a second try may help."""
    return isinstance(answer, Answer) and all(answer.meta["faults"])


def outcome_of(request: Request, answer: Answer | Failure) -> Outcome:
    """Choose among the candidates of an answer. If none has words, the outcome is a failure."""
    if isinstance(answer, Failure):
        return answer
    if not _has_words(answer):
        return Failure.of(request, _wordless(answer))
    return choose(request, answer)


def _has_words(answer: Answer) -> bool:
    return any(WITHOUT_TEXT.isdisjoint(found.split()) for found in answer.meta["faults"])


def _wordless(answer: Answer) -> str:
    faults = [found.split() for found in answer.meta["faults"]]
    unclosed = sum("unclosed" in found for found in faults)
    advice = f" It was still thinking at the end of {unclosed}: raise max_tokens in sampling." if unclosed else ""
    return f"the model gave no text for {len(faults)} of {len(faults)} candidates.{advice}"


def choose(request: Request, answer: Answer) -> Caption:
    """Choose the candidates to keep. This is done when they are made, and again each time they come from the ledger.

    The choice depends only on the arguments, so runs with other choices in between do not change it. A candidate
    without words is never kept. Except for "all", only candidates with the fewest faults are considered.

    Args:
        request: the request. Its `keep` is a name in `SELECTORS`; its reference text matters only for
            "similar_one_simhash".
        answer: the answer to it, in which at least one candidate has words. Random choices use the seed in its
            metadata, which is that of the request that made the candidates.
    """
    answer, events = _judged(request, answer)
    candidates, meta, keep = answer.candidates, answer.meta, request.keep
    faults = [found.split() for found in meta["faults"]]
    usable = [number for number, found in enumerate(faults) if WITHOUT_TEXT.isdisjoint(found)]
    if keep != "all":
        fewest = min(len(faults[number]) for number in usable)
        usable = [number for number in usable if len(faults[number]) == fewest]
    # Copying a request for each row is slow and seldom needed, so it is copied only if the seeds differ.
    drawn = request if request.seed == meta["seed"] else replace(request, seed=meta["seed"])
    picked, reason, agreement = SELECTORS[keep]([candidates[number] for number in usable], drawn)
    if len(usable) < len(candidates):
        why = "without words" if keep == "all" else "with faults"
        reason += f"; left out before: {len(candidates) - len(usable)} {why}"
    kept = tuple(usable[number] for number in picked)
    flags = {fault for number in kept for fault in faults[number]}
    # Release 0.1.0 had no clip flags, and recorded the decoded share only for damaged clips.
    flags |= set(meta.get("clip_flags", "truncated" if "decoded_share" in meta else "").split())
    flags |= {"unscored"} if request.lacks_scores(answer) else set()
    unverified = request.verify and any(candidates[number].verified is None for number in kept)
    flags |= {"unverified"} if unverified else set()
    told = {
        "keep": keep,
        "kept": list(kept),
        "reason": reason,
        "agreement": agreement,
        "mean_logprobs": [candidate.mean_logprob for candidate in candidates] if request.scored else None,
        "scores": [_scores_told(candidate, request) for candidate in candidates],
        "judge": request.judge,
        "claims": [json.dumps(each.claims) if request.verify and each.claims else "" for each in candidates],
        "failed_claims": _failed_claims([candidates[number] for number in kept]) if request.verify else "",
        "flags": sorted(flags),
    }
    return Caption(
        id=request.id,
        kept=kept,
        reason=reason,
        candidates=candidates,
        meta={**meta, **told},
        events=events[kept[0]],
    )


_OF_A_CHOICE: Final = frozenset(
    {
        *("keep", "kept", "reason", "agreement", "mean_logprobs", "scores", "judge", "claims", "failed_claims"),
        "flags",
    }
)


def _scores_told(candidate: Candidate, request: Request) -> str:
    """A candidate's scores as JSON, or an empty text. A judge's score is left out if `keep` is not "judged" now."""
    judged = request.keep == "judged"
    scores = {name: score for name, score in candidate.scores.items() if name != JUDGED or judged}
    if request.verify and candidate.verified is not None:
        scores[VERIFIED] = candidate.verified
    return json.dumps(scores) if scores else ""


def _failed_claims(kept: Sequence[Candidate]) -> str:
    return "\n".join(dict.fromkeys(claim for candidate in kept for claim in candidate.failed_claims))


def without_choice(meta: Mapping[str, Any]) -> dict[str, Any]:
    """The metadata that does not depend on which candidates are kept."""
    return {name: value for name, value in meta.items() if name not in _OF_A_CHOICE}


def _prompt_sha256(request: Request) -> str:
    text = f"{request.system_prompt or ''}\0{request.prompt}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
