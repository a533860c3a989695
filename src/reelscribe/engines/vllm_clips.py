"""How vLLM is fed a clip, and whether it makes of it what the checkpoint's own processor makes.

vLLM has code of its own for each family: it reads the times of frames, writes them into the prompt, counts tokens. No
list says for which families that is right. vLLM is asked with small clips before any weights are loaded, and a model is
refused if something else comes out than of its own processor.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.families import Family, metadata, seconds_between
from reelscribe.engines.prompt import Prompt
from reelscribe.errors import ModelError
from reelscribe.values import Clip, Frames, Request, RequestId
from reelscribe.video.sampling import FrameBudget, VisionLimits

_PROBES: Final = (((0.0, 0.7, 1.4, 2.1, 2.8, 3.5), (2, 3)), ((0.3, 61.9, 100.02), (4, 2)))
"""Times of the frames of clips to ask with, and their heights and widths in squares of a token: several groups of
frames, and an odd number at uneven distances."""
_BY_IMAGES: Final = "MiniCPMV4_6Processor"
"""Of its videos vLLM gives each frame to the image processor, which fails at words for videos."""
_ROUNDED: Final = 0.01
"""By which bfloat16 may differ and count as equal."""


def prompt_for_vllm(words: Prompt, processor: Any, family: Family, frames: Frames | None, clip: str) -> dict[str, Any]:
    """A prompt as vLLM takes it.

    Args:
        words: with the family's mark where the clip belongs.
        processor: the checkpoint's.
        family: how the checkpoint takes a video.
        frames: of the clip; None for a prompt without one.
        clip: what vLLM is to know the clip by.
    """
    if frames is not None and family.stills:
        words = words.with_video(family.mark, family.stills.text(frames.timestamps))
    tokenizer = processor.tokenizer
    begun = bool(tokenizer.bos_token) and words.text.startswith(tokenizer.bos_token)  # vLLM would put another before it
    prompt: dict[str, Any] = (
        {"prompt_token_ids": words.ids(tokenizer)} if begun or words.covered else {"prompt": words.text}
    )
    if frames is None:
        return prompt
    if family.stills:
        return prompt | {
            "multi_modal_data": {"image": [Image.fromarray(frame) for frame in frames.pixels]},
            "multi_modal_uuids": {"image": [f"{clip} {number}" for number in range(len(frames.pixels))]},
            "mm_processor_kwargs": dict(family.arguments),
        }
    whole = {"do_sample_frames": False}
    told = metadata(frames.timestamps, frames.duration_seconds) | whole
    by_images = type(processor).__name__ == _BY_IMAGES
    return prompt | {
        "multi_modal_data": {"video": [(frames.pixels, told)]},
        "multi_modal_uuids": {"video": [clip]},
        "mm_processor_kwargs": {**family.arguments_for(frames), **({} if by_images else whole)},
    }


def keep_seconds(rendered: Mapping[str, Any], family: Family, frames: Frames) -> None:
    """Give vLLM the exact seconds from group to group of frames.

    It rounds them to the model's dtype, as it does pixels. In bfloat16 they are wrong by up to 0.4%, and so are the
    positions of a long clip's last frames, by several.

    Args:
        rendered: what vLLM made of a prompt with a clip; changed in place.
        family: how the checkpoint takes a video.
        frames: of the clip.
    """
    if family.times != "positions":
        return
    exact = family.limits.temporal_patch * seconds_between(frames.timestamps, frames.duration_seconds)
    item = rendered["mm_kwargs"]["video"][0] or {}  # nothing if vLLM's own cache, where a user has it, holds the clip
    for name, field in item.items():
        if "second" in name:
            field.data = torch.full_like(field.data, exact, dtype=torch.float32)


def check(config: Any, checkpoint: Checkpoint, model: str) -> None:
    """See whether vLLM makes of a clip what the checkpoint's own processor makes.

    Args:
        config: vLLM's, of an engine that need not run.
        checkpoint: of the model.
        model: its name, for the error.

    Raises:
        ModelError: it does not.
    """
    if fault := fault_of(config, checkpoint):
        other = "" if checkpoint.family.stills else ", or show it frames as images: --show images"
        raise ModelError(
            f"vLLM cannot be trusted with videos of the model {model!r}, a {checkpoint.config.model_type}: {fault}. "
            f"Use the engine transformers: --engine transformers{other}."
        )


def fault_of(config: Any, checkpoint: Checkpoint) -> str | None:
    """What is wrong with what vLLM makes of clips; None if nothing is. See `check`."""
    from vllm.renderers import renderer_from_config

    renderer = renderer_from_config(config)
    try:
        clips = (_clip(checkpoint.limits, *probe) for probe in _PROBES)
        return next(filter(None, (_difference(renderer, checkpoint, frames) for frames in clips)), None)
    finally:
        renderer.shutdown()


def _difference(renderer: Any, checkpoint: Checkpoint, frames: Frames) -> str | None:
    """What is wrong with what vLLM makes of a clip; None if nothing is."""
    processor, family = checkpoint.processor, checkpoint.family
    words = Prompt.of(processor, family, Request(id=RequestId(0), clip=Clip(source="probe.mp4"), prompt="What?"))
    shown = family.show(processor, frames)
    ours = words.with_video(family.mark, shown.layout).ids(processor.tokenizer)
    prompt = prompt_for_vllm(words, processor, family, frames, f"probe of {len(frames.timestamps)} frames")
    try:
        [rendered] = renderer.render_cmpl([prompt])
    except Exception as exc:  # vLLM's code and the processor raise all kinds of errors
        reason = " ".join(str(exc.__cause__ or exc).split())
        return f"it takes none of them, or fails at them ({type(exc.__cause__ or exc).__name__}: {reason:.200})"
    if _places(rendered, family) != ours:
        return "it makes other tokens of a clip than the model's own processor does"
    word = {"positions": "second", "drawn": "pixel_values"}.get(family.times)  # in the names of what tells times
    if word and not _alike(rendered["mm_kwargs"]["video"][0].get_data(), shown.tensors, word):
        return "it does not tell the model the times of frames as the model's own processor does"
    return None


def _places(rendered: Mapping[str, Any], family: Family) -> list[int]:
    """A prompt's ids as vLLM has them, with our token wherever vision features go, and there alone.

    Of InternVL's frames vLLM writes another token in these places. The model is fed none of them.
    """
    ids = [-1 if each == family.placeholder else each for each in rendered["prompt_token_ids"]]
    for place in rendered["mm_placeholders"]["image" if family.stills else "video"]:
        features = range(place.length) if place.is_embed is None else place.is_embed.nonzero().flatten().tolist()
        for number in features:
            ids[place.offset + number] = family.placeholder
    return ids


def _alike(fed: Mapping[str, Any], shown: Mapping[str, torch.Tensor], word: str) -> bool:
    """Whether there are tensors with a word in their names, and they are equal but for rounding."""
    theirs, ours = (
        [torch.as_tensor(each).flatten().float() for name, each in made.items() if word in name]
        for made in (fed, shown)
    )
    return len(ours) == len(theirs) > 0 and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=_ROUNDED, atol=_ROUNDED)
        for one, other in zip(ours, theirs, strict=True)
    )


def _clip(limits: VisionLimits, times: Sequence[float], shape: tuple[int, int]) -> Frames:
    """Frames of noise."""
    height, width = (limits.token_pixels * squares for squares in shape)
    if limits.own_size:
        width, height = limits.own_size.fit(width, height)
    noise = np.random.default_rng(0).integers(0, 256, (len(times), height, width, 3), dtype=np.uint8)
    return Frames(pixels=noise, timestamps=tuple(times), duration_seconds=times[-1] + 0.7, video_tokens=0)


def largest_clip(checkpoint: Checkpoint, budget: FrameBudget) -> dict[str, Any]:
    """Arguments of vLLM that say how large a clip can be, in the family's own words. For that it sets memory aside."""
    limits, processor = checkpoint.limits, checkpoint.processor
    square = limits.token_pixels**2 * limits.temporal_patch
    args: dict[str, Any] = {"limit_mm_per_prompt": {"image": 0, "video": 1}, "mm_processor_kwargs": {}}
    area = budget.most_tokens * square
    if checkpoint.family.stills:
        args["limit_mm_per_prompt"] = {"image": budget.most_frames, "video": 0}
        area = limits.max_frame_tokens * square
        known = area < _longest_edge(processor.image_processor)  # else it may be a side, as Pixtral's is
    elif limits.own_size:
        args["limit_mm_per_prompt"]["video"] = {"count": 1, "num_frames": budget.most_frames}
        known = False
    else:
        known = bool(_longest_edge(processor.video_processor))
    if known:
        args["mm_processor_kwargs"] = {"size": {"longest_edge": area, "shortest_edge": square}}
    return args


def _longest_edge(processor: Any) -> int:
    """What most families mean an area by, in pixels; 0 if a processor does not have the word."""
    return dict(getattr(processor, "size", None) or {}).get("longest_edge") or 0


def set_aside(config: Any, budget: FrameBudget, *, ours: bool) -> None:
    """Let vLLM set memory aside for the largest clip, and for no more.

    Args:
        config: vLLM's; changed in place.
        budget: of the run.
        ours: whether its `mm_processor_kwargs` are those of `largest_clip`.
    """
    from vllm.multimodal import MULTIMODAL_REGISTRY
    from vllm.multimodal.encoder_budget import MultiModalBudget

    most = budget.most_tokens
    held = config.model_config.multimodal_config.mm_processor_kwargs or {}
    while ours and "size" in held:
        counted = MultiModalBudget(config, MULTIMODAL_REGISTRY).mm_max_toks_per_item.get("video", 0)
        edge = held["size"]["longest_edge"] * most // max(counted, 1)
        if counted <= most or edge < held["size"]["shortest_edge"]:
            break
        # Qwen2.5-VL means a frame by these words, and makes up as many as there is room for.
        held["size"]["longest_edge"] = edge
    # Some families stop counting at some frames, however many a clip has.
    scheduler = config.scheduler_config
    scheduler.max_num_encoder_input_tokens = max(scheduler.max_num_encoder_input_tokens, most)
    scheduler.encoder_cache_size = max(scheduler.encoder_cache_size, most)
