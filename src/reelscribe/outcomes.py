"""From an engine's answer to an outcome: which candidates are kept, what is told of them, whether to ask once more."""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.faults import WITHOUT_TEXT, Fault, find_faults
from reelscribe.selection import SELECTORS
from reelscribe.thoughts import set_apart
from reelscribe.values import NO_FRAMES, Candidate, Caption, Failure, Frames, Generation, Outcome, Request

_RETRY_TEMPERATURE: Final = 0.7
_RETRY_TOP_P: Final = 0.8
"""Sampling of Qwen3-VL as released."""


def tell_frames(frames: Frames) -> dict[str, Any]:
    """What the record says of frames."""
    if frames is NO_FRAMES:
        return {}
    flags = {"truncated": frames.decoded_share is not None, "thinned": frames.thinned, "shrunk": frames.shrunk}
    return {
        "frame_timestamps": [round(seconds, 3) for seconds in frames.timestamps],
        "frame_size": [frames.pixels.shape[2], frames.pixels.shape[1]],
        "fps": round(len(frames.timestamps) / max(frames.duration_seconds, 1e-3), 3),
        "video_tokens": frames.video_tokens,
        "decoded_share": 1.0 if frames.decoded_share is None else float(frames.decoded_share),
        "decoded_seconds": round(float(frames.duration_seconds), 3),
        "clip_flags": " ".join(name for name, flagged in flags.items() if flagged),
        "tone_mapped": frames.tone_mapped or "",
        "deinterlaced": frames.deinterlaced,
    }


def once_more(request: Request) -> Request:
    """The second try: another seed and, where the likeliest tokens were or may have been taken, others, too."""
    seed = int.from_bytes(hashlib.sha256(f"{request.seed}, once more".encode()).digest()[:8], "big") >> 1
    told = request.sampling
    # Without a temperature several candidates are drawn at random; one may be or not, as the checkpoint says.
    greedy = told.temperature == 0 or (told.temperature is None and not told.do_sample and request.num_captions == 1)
    sampling = replace(told, temperature=_RETRY_TEMPERATURE, top_p=_RETRY_TOP_P) if greedy else told
    return replace(request, attempt=2, seed=seed, sampling=sampling)


def better_of(first: Outcome, second: Outcome, *, faulty: bool) -> Outcome:
    """Which of two tries to have: the second, where it is without fault or the first had nothing to keep."""
    if isinstance(second, Caption) and (isinstance(first, Failure) or not faulty):
        return second
    if isinstance(first, Caption):
        return replace(first, meta={**first.meta, "tries": 2})
    return first if isinstance(second, Caption) else replace(first, message=f"{first.message} And: {second.message}")


def select(
    request: Request, frames_told: dict[str, Any], generation: Generation, settings: Settings, engine: Engine
) -> tuple[Outcome, bool]:
    """Find the faults of an answer's candidates, and choose among them. Where none has words, it is a failure.

    Returns:
        What came of it, and whether that is nothing but candidates with faults.
    """
    candidates = tuple(map(set_apart, generation.candidates))
    if len(candidates) != request.num_captions:
        message = f"the engine gave {len(candidates)} candidates; asked for were {request.num_captions}."
        return Failure.of(request, message), False
    faults = [find_faults(candidate, request) for candidate in candidates]
    if all(WITHOUT_TEXT.intersection(found) for found in faults):
        return Failure.of(request, _no_text(faults)), True
    meta: dict[str, Any] = {
        "engine": engine.info.engine,
        "model": engine.info.model,
        "revision": engine.info.revision,
        "prompt": request.prompt,
        "prompt_sha256": _prompt_sha256(request),
        "sampling": request.sampling.told(),
        "seed": request.seed,
        **frames_told,
        **engine.info.details,
        "prompt_tokens": generation.prompt_tokens,
        "completion_tokens": [candidate.num_tokens for candidate in generation.candidates],
        "stop_reasons": [candidate.stop_reason for candidate in generation.candidates],
        "faults": [" ".join(found) for found in faults],
        "try": request.attempt,
        "tries": request.attempt,
    }
    return choose(request, candidates, meta, settings.keep), all(faults)


def choose(request: Request, candidates: tuple[Candidate, ...], meta: Mapping[str, Any], keep: str) -> Caption:
    """The caption with those of its candidates that are to be kept: when they are made, and each time they are found.

    It depends on nothing else, so that runs with other choices may come before and between. A candidate without words
    is never kept; but for "all", only those with the fewest faults are.

    Args:
        request: that was made. Its text has a part in "similar_one_simhash" alone.
        candidates: what came of it; at least one has words.
        meta: what is known of them. Chance comes from the seed in it, which is that of the request that made them.
        keep: a name in `SELECTORS`.
    """
    faults = [found.split() for found in meta["faults"]]
    usable = [number for number, found in enumerate(faults) if WITHOUT_TEXT.isdisjoint(found)]
    if keep != "all":
        fewest = min(len(faults[number]) for number in usable)
        usable = [number for number in usable if len(faults[number]) == fewest]
    texts = [candidates[number].text for number in usable]
    picked, reason = SELECTORS[keep](texts, replace(request, seed=meta["seed"]))
    if len(usable) < len(candidates):
        why = "without words" if keep == "all" else "with faults"
        reason += f"; left out before: {len(candidates) - len(usable)} {why}"
    kept = tuple(usable[number] for number in picked)
    flags = {fault for number in kept for fault in faults[number]}
    # Release 0.1.0 had no flags of clips, and recorded a share of damaged ones alone.
    flags |= set(meta.get("clip_flags", "truncated" if "decoded_share" in meta else "").split())
    told = {"keep": keep, "kept": list(kept), "reason": reason, "flags": sorted(flags)}
    return Caption(key=request.key, kept=kept, reason=reason, candidates=candidates, meta={**meta, **told})


def without_choice(meta: Mapping[str, Any]) -> dict[str, Any]:
    """What is known of candidates, whichever of them are kept."""
    return {name: value for name, value in meta.items() if name not in ("keep", "kept", "reason", "flags")}


def _no_text(faults: Sequence[Sequence[Fault]]) -> str:
    unclosed = sum("unclosed" in found for found in faults)
    advice = f" It was still thinking at the end of {unclosed}: raise max_tokens in sampling." if unclosed else ""
    return f"the model gave no text for {len(faults)} of {len(faults)} candidates.{advice}"


def _prompt_sha256(request: Request) -> str:
    text = f"{request.system_prompt or ''}\0{request.prompt}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
