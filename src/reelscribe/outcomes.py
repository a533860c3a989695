"""From an engine's answer to an outcome: which candidates are kept, what is told of them, whether to ask once more."""

import hashlib
from dataclasses import replace
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines.base import Engine
from reelscribe.faults import find_faults
from reelscribe.prompts import Outcome
from reelscribe.schema import NO_FRAMES, Candidate, Caption, CaptionRequest, Failure, Frames, Generation
from reelscribe.selection import SELECTORS

_RETRY_TEMPERATURE: Final = 0.7
_RETRY_TOP_P: Final = 0.8
"""Sampling of Qwen3-VL as released."""


def tell_frames(frames: Frames) -> dict[str, Any]:
    """What the record says of frames."""
    if frames is NO_FRAMES:
        return {}
    seen = (
        {}
        if frames.decoded_share is None
        else {"decoded_share": frames.decoded_share, "decoded_seconds": round(frames.duration_seconds, 3)}
    )
    return {
        "frame_timestamps": [round(seconds, 3) for seconds in frames.timestamps],
        "frame_size": [frames.pixels.shape[2], frames.pixels.shape[1]],
        "video_tokens": frames.video_tokens,
        **seen,
        "tone_mapped": frames.tone_mapped or "",
        "deinterlaced": frames.deinterlaced,
    }


def once_more(request: CaptionRequest) -> CaptionRequest:
    """The second try: another seed and, where the likeliest tokens were or may have been taken, others, too."""
    seed = int.from_bytes(hashlib.sha256(f"{request.seed}, once more".encode()).digest()[:8], "big")
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
    request: CaptionRequest, frames_told: dict[str, Any], generation: Generation, settings: Settings, engine: Engine
) -> tuple[Outcome, bool]:
    """Keep candidates. One without words is never kept, one with faults only where there is none with fewer.

    Returns:
        What came of it, and whether that is nothing but candidates with faults.
    """
    candidates = generation.candidates
    if len(candidates) != request.num_captions:
        message = f"the engine gave {len(candidates)} candidates; asked for were {request.num_captions}."
        return Failure.of(request, message), False
    faults = [find_faults(candidate, request) for candidate in candidates]
    silent = sum("empty" in found for found in faults)
    if silent == len(candidates) or (silent and settings.keep == "all"):
        return _silence(request, silent), True
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
    return _caption(request, candidates, meta, settings), all(faults)


def kept_anew(caption: Caption, request: CaptionRequest, settings: Settings) -> Outcome:
    """A caption of an earlier run with those of its candidates that the settings keep now: as if made with these."""
    if caption.meta["keep"] == settings.keep:
        return caption
    silent = caption.meta["faults"].count("empty")
    if silent and settings.keep == "all":
        return _silence(request, silent)
    return _caption(replace(request, seed=caption.meta["seed"]), caption.candidates, caption.meta, settings)


def _silence(request: CaptionRequest, silent: int) -> Failure:
    return Failure.of(request, f"the model gave no text for {silent} of {request.num_captions} candidates.")


def _caption(
    request: CaptionRequest, candidates: tuple[Candidate, ...], meta: dict[str, Any], settings: Settings
) -> Caption:
    """The caption with those of its candidates that are to be kept. At least one has words; with "all", all have.

    Args:
        request: that was made.
        candidates: what came of it.
        meta: what is told of them; which are kept, and why, is added or replaced.
        settings: which to keep.
    """
    faults = [found.split() for found in meta["faults"]]
    usable = list(range(len(candidates)))
    if settings.keep != "all":
        fewest = min(len(found) for found in faults if "empty" not in found)
        usable = [number for number, found in enumerate(faults) if "empty" not in found and len(found) == fewest]
    picked, reason = SELECTORS[settings.keep]([candidates[number].text for number in usable], request)
    if len(usable) < len(candidates):
        reason += f"; left out before: {len(candidates) - len(usable)} with faults"
    kept = tuple(usable[number] for number in picked)
    flags = {fault for number in kept for fault in faults[number]}
    if "decoded_share" in meta:
        flags.add("truncated")
    told = {"keep": settings.keep, "kept": list(kept), "reason": reason, "flags": sorted(flags)}
    return Caption(key=request.key, kept=kept, reason=reason, candidates=candidates, meta={**meta, **told})


def _prompt_sha256(request: CaptionRequest) -> str:
    text = f"{request.system_prompt or ''}\0{request.prompt}"
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
