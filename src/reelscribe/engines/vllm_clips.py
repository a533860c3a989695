"""Passing clips to vLLM, and checking that vLLM prepares a clip as the checkpoint's own processor does.

vLLM has code of its own for each family, which reads the times of frames, writes them into the prompt and counts
tokens. No list says for which families that code is right. So vLLM prepares small clips before any weights are loaded,
and a model is refused if the results differ from those of its own processor.

Sound stands after the frames in the prompt, as a part of its own. vLLM 0.32 can also place it among the frames, as the
Transformers engine does, but then it gives the frames wrong positions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final

import numpy as np
import torch
from PIL import Image

from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.families import Family, as_tensor, call, metadata, seconds_between
from reelscribe.engines.prompt import Prompt
from reelscribe.errors import ModelError
from reelscribe.values import Clip, Frames, Request, RequestId, Sound
from reelscribe.video.sampling import FrameBudget, Hearing, VisionLimits

_PROBES: Final = (((0.0, 0.7, 1.4, 2.1, 2.8, 3.5), (2, 3)), ((0.3, 61.9, 100.02), (4, 2)))
"""The clips of the check: the times of their frames in seconds, and their height and width in squares of one token.
The first has several groups of frames, the second an odd number of frames at uneven distances."""
_BY_IMAGES: Final = "MiniCPMV4_6Processor"
"""The class of the processor for which vLLM passes each frame of a video to the image processor. That one fails at
arguments for videos."""
_WITH_SOUND: Final = "with its sound, "
"""The beginning of a fault that occurs only with sound."""
_ROUNDED: Final = 0.01
"""The relative and absolute difference up to which values count as equal: vLLM rounds them to bfloat16."""


def prompt_for_vllm(words: Prompt, processor: Any, family: Family, frames: Frames | None, clip: str) -> dict[str, Any]:
    """Build a prompt for vLLM.

    Args:
        words: the prompt, with the family's mark in place of the clip and the chat template's mark in place of sound.
        processor: the checkpoint's processor.
        family: how the checkpoint takes a video.
        frames: of the clip; None for a prompt without one.
        clip: the name of the clip in vLLM's caches.
    """
    if frames is not None and family.stills:
        words = words.with_video(family.mark, family.stills.text(frames.timestamps))
    tokenizer = processor.tokenizer
    # A text that begins with the BOS token is passed as tokens: vLLM would add a second one.
    begun = bool(tokenizer.bos_token) and words.text.startswith(tokenizer.bos_token)
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
    data: dict[str, Any] = {"video": [(frames.pixels, told)]}
    if frames.sound and frames.has_sound:
        data["audio"] = [frames.sound.samples]
    return prompt | {
        "multi_modal_data": data,
        "multi_modal_uuids": {kind: [f"{kind} of {clip}"] for kind in data},
        "mm_processor_kwargs": {**family.arguments_for(_mute(frames)), **({} if by_images else whole)},
    }


def _mute(frames: Frames) -> Frames:
    """A copy without sound."""
    return replace(frames, sound=None)


def keep_seconds(rendered: Mapping[str, Any], family: Family, frames: Frames) -> None:
    """Give vLLM the exact number of seconds from one group of frames to the next.

    vLLM rounds that number to the model's dtype, as it does pixels. In bfloat16 it is wrong by up to 0.4%, so that the
    last frames of a long clip are wrong by several positions.

    Args:
        rendered: the prompt with a clip that vLLM has prepared; changed in place.
        family: how the checkpoint takes a video.
        frames: of the clip.
    """
    if family.times != "positions":
        return
    exact = family.limits.temporal_patch * seconds_between(frames.timestamps, frames.duration_seconds)
    item = rendered["mm_kwargs"]["video"][0] or {}  # None if the user has turned vLLM's cache on and it has the clip
    for name, field in item.items():
        if "second" in name:
            field.data = torch.full_like(field.data, exact, dtype=torch.float32)


def check(config: Any, checkpoint: Checkpoint, model: str, hearing: Hearing | None = None) -> None:
    """Check that vLLM prepares a clip as the checkpoint's own processor does.

    Args:
        config: vLLM's configuration. The engine need not run.
        checkpoint: of the model.
        model: its name, for the error.
        hearing: the sampling rate and cost of sound; None if clips come without sound.

    Raises:
        ModelError: it does not.
    """
    if fault := fault_of(config, checkpoint, hearing):
        other = "" if checkpoint.family.stills else ", or show it frames as images: --show images"
        other = ", or leave audio out" if fault.startswith(_WITH_SOUND) else other
        raise ModelError(
            f"vLLM cannot be trusted with videos of the model {model!r}, a {checkpoint.config.model_type}: {fault}. "
            f"Use the engine transformers: --engine transformers{other}."
        )


def fault_of(config: Any, checkpoint: Checkpoint, hearing: Hearing | None = None) -> str | None:
    """How vLLM's preparation of clips differs from the processor's; None if it does not. See `check`."""
    from vllm.renderers import renderer_from_config

    renderer = renderer_from_config(config)
    try:
        for heard in (None, hearing) if hearing else (None,):
            for times, shape in _PROBES:
                if fault := _difference(renderer, checkpoint, _clip(checkpoint.limits, times, shape, heard)):
                    return f"{_WITH_SOUND}{fault}" if heard else fault
        return None
    finally:
        renderer.shutdown()


def _difference(renderer: Any, checkpoint: Checkpoint, frames: Frames) -> str | None:
    """How vLLM's preparation of one clip differs from the processor's; None if it does not."""
    processor, family = checkpoint.processor, checkpoint.family
    request = Request(id=RequestId(0), clip=Clip(source="probe.mp4"), prompt="What?")
    words = Prompt.of(processor, family, request, hears=frames.has_sound)
    ours, tensors = by_processor(words, processor, family, frames)
    prompt = prompt_for_vllm(words, processor, family, frames, f"probe of {len(frames.timestamps)} frames")
    try:
        [rendered] = renderer.render_cmpl([prompt])
    except Exception as exc:  # vLLM's code and the processor raise all kinds of errors
        reason = " ".join(str(exc.__cause__ or exc).split())
        return f"it takes none of them, or fails at them ({type(exc.__cause__ or exc).__name__}: {reason:.200})"
    if _places(rendered, processor, family) != ours:
        return "it makes other tokens of a clip than the model's own processor does"
    # A word in the names of the tensors that carry the times. Other families have times in the prompt, or none.
    word = {"positions": "second", "drawn": "pixel_values"}.get(family.times)
    if word and not _alike(rendered["mm_kwargs"]["video"][0].get_data(), tensors, word):
        return "it does not tell the model the times of frames as the model's own processor does"
    if frames.has_sound and not _alike(rendered["mm_kwargs"]["audio"][0].get_data(), tensors, "features"):
        return "it makes other features of it than the model's own processor does"
    return None


def by_processor(
    words: Prompt, processor: Any, family: Family, frames: Frames
) -> tuple[list[int], Mapping[str, torch.Tensor]]:
    """The tokens of a prompt with a clip, and the model's other inputs by name, made by the checkpoint's processor."""
    if not (frames.sound and frames.has_sound):
        shown = family.show(processor, frames)
        return words.with_video(family.mark, shown.layout).ids(processor.tokenizer), shown.tensors
    arguments = {**family.arguments_for(_mute(frames)), "audio": [frames.sound.samples]}
    pixels, times = as_tensor(frames.pixels), frames.timestamps
    _, made = call(processor, pixels, None, times, frames.duration_seconds, arguments, words.text)
    return made["input_ids"][0].tolist(), made


def _places(rendered: Mapping[str, Any], processor: Any, family: Family) -> list[int]:
    """The tokens of a prompt that vLLM has prepared, with our placeholder in exactly the places that features replace.

    For InternVL, vLLM writes another token in these places. That does not matter, since the model sees features there.
    """
    tokens = dict.fromkeys(("image", "video"), family.placeholder)
    if family.sound:
        tokens["audio"] = processor.tokenizer.convert_tokens_to_ids(processor.audio_token)
    ids = [-1 if each in tokens.values() else each for each in rendered["prompt_token_ids"]]
    for kind, places in rendered["mm_placeholders"].items():
        for place in places:
            features = range(place.length) if place.is_embed is None else place.is_embed.nonzero().flatten().tolist()
            for number in features:
                ids[place.offset + number] = tokens[kind]
    return ids


def _alike(fed: Mapping[str, Any], shown: Mapping[str, torch.Tensor], word: str) -> bool:
    """Whether both sides have tensors with a word in their names, and these are equal except for rounding."""
    theirs, ours = (
        [torch.as_tensor(each).flatten().float() for name, each in made.items() if word in name]
        for made in (fed, shown)
    )
    return len(ours) == len(theirs) > 0 and all(
        one.shape == other.shape and torch.allclose(one, other, rtol=_ROUNDED, atol=_ROUNDED)
        for one, other in zip(ours, theirs, strict=True)
    )


def _clip(
    limits: VisionLimits, times: Sequence[float], shape: tuple[int, int], hearing: Hearing | None = None
) -> Frames:
    """A clip of noise, with noise as sound if `hearing` is given.

    Args:
        limits: of the checkpoint.
        times: of the frames, in seconds.
        shape: height and width, in squares of one token.
        hearing: the sampling rate of sound; None for no sound.
    """
    height, width = (limits.token_pixels * squares for squares in shape)
    if limits.own_size:
        width, height = limits.own_size.fit(width, height)
    draw, length = np.random.default_rng(0), times[-1] + 0.7
    noise = draw.integers(0, 256, (len(times), height, width, 3), dtype=np.uint8)
    sound = None
    if hearing:
        samples = draw.uniform(-1, 1, round(length * hearing.rate)).astype(np.float32)
        sound = Sound(samples=samples, rate=hearing.rate, heard="heard")
    return Frames(pixels=noise, timestamps=tuple(times), duration_seconds=length, video_tokens=0, sound=sound)


def largest_clip(checkpoint: Checkpoint, budget: FrameBudget) -> dict[str, Any]:
    """The arguments that tell vLLM the size of the largest clip, for which it reserves memory.

    They hold the number of images or videos of a prompt and, if the processor has such a setting, its largest area.
    """
    limits, processor = checkpoint.limits, checkpoint.processor
    square = limits.token_pixels**2 * limits.temporal_patch
    most = {"image": 0, "video": 1, "audio": 1 if budget.hearing else 0}
    args: dict[str, Any] = {"limit_mm_per_prompt": most, "mm_processor_kwargs": {}}
    area = budget.most_tokens * square
    if checkpoint.family.stills:
        most |= {"image": budget.most_frames, "video": 0}
        area = limits.max_frame_tokens * square
        known = area < _longest_edge(processor.image_processor)  # a smaller value may be a side, as in Pixtral's
    elif limits.own_size:
        args["limit_mm_per_prompt"] = {**most, "video": {"count": 1, "num_frames": budget.most_frames}}
        known = False
    else:
        known = bool(_longest_edge(processor.video_processor))
    if known:
        args["mm_processor_kwargs"] = {"size": {"longest_edge": area, "shortest_edge": square}}
    return args


def _longest_edge(processor: Any) -> int:
    """The `longest_edge` of a processor's size, which is an area in pixels in most families; 0 if it has none."""
    return dict(getattr(processor, "size", None) or {}).get("longest_edge") or 0


def set_aside(config: Any, budget: FrameBudget, *, ours: bool) -> None:
    """Make vLLM reserve memory for the largest clip, and for no more.

    Args:
        config: vLLM's configuration; changed in place.
        budget: the run's limits on frames of a clip.
        ours: whether its `mm_processor_kwargs` are those of `largest_clip`, and not the user's.
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
        # For Qwen2.5-VL, `size` limits a frame, not a clip, and vLLM counts as many frames as there is room for.
        held["size"]["longest_edge"] = edge
    # For some families vLLM's count stops at some number of frames, and for all of them at half a minute of sound.
    scheduler, most = config.scheduler_config, max(most, budget.most_sound_tokens)
    scheduler.max_num_encoder_input_tokens = max(scheduler.max_num_encoder_input_tokens, most)
    scheduler.encoder_cache_size = max(scheduler.encoder_cache_size, most)
