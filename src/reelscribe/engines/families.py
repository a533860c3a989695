"""A family of models: how a checkpoint takes a video. `describing.py` finds that out."""

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from reelscribe.engines.patches import Cut
from reelscribe.engines.stills import PLACE, Stills
from reelscribe.values import Frames
from reelscribe.video.sampling import VisionLimits

Times = Literal["words", "positions", "drawn", "none"]
"""How a model is shown when each frame is: in the prompt, by the tokens' positions, in the pictures, or not at all."""
System = Literal["parts", "text", "question"]
"""How a system prompt is given to the chat template: as parts, as text, or before the question, if it drops both."""

PIXELS: Final = ("pixel_values_videos", "pixel_values")
"""What processors call the pixels of a video, and of images."""
SOUND: Final = "input_features"
"""What they call the features of its sound."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """A video, as a processor makes it."""

    layout: str
    """What stands in a prompt in the placeholder's place."""
    tensors: Mapping[str, torch.Tensor]
    """What a model is fed beside tokens. The pixels are missing where `Family.cut` is to make them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """How a checkpoint takes a video."""

    limits: VisionLimits
    times: Times
    mark: str
    """What stands for a clip in what the chat template makes of a message."""
    stills: Stills | None = None
    """Set if frames are shown as images, and not as a video."""
    placeholder: int
    """The token in whose places the vision features go."""
    kinds: Mapping[str, Mapping[int, int]]
    """Tensors that say of each token what it is, by name: tokens and their kinds. All others are of kind 0."""
    cut: Cut | None
    """By which our patches are the processor's own; None if it has to make the pixels."""
    bare: bool = False
    """Whether the pair of vision tokens that the chat template has around a video is to go."""
    system: System = "parts"
    opening: str = ""
    """What the processor puts before each prompt."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Of each call of the processor."""
    wants_rate: bool = False
    """Whether the processor takes frames a second as an argument `fps`, and nothing else of times."""
    sound: Mapping[str, Any] | None = None
    """Arguments by which the processor lays the sound of a video out among its frames; None if it takes none."""

    @property
    def part(self) -> Mapping[str, str]:
        """The part of a message for which the chat template writes the mark."""
        return {"type": "text", "text": PLACE} if self.stills else {"type": "video"}

    def show(self, processor: Any, frames: Frames) -> Shown:
        """A clip as the processor makes it. What the model is fed beside is the same for all prompts.

        Args:
            processor: the checkpoint's.
            frames: of the clip.

        Raises:
            ValueError: frames are not of a size that the model takes, or have sound, and it takes none.
        """
        count, height, width, _ = frames.pixels.shape
        if self.cut and (not count or height % self.cut.side or width % self.cut.side):
            raise ValueError(f"{count} frames of {width} x {height}; sides must be multiples of {self.cut.side}")
        arguments = self.arguments_for(frames)
        around = around_sound(processor) if frames.has_sound else ("", "")
        asked = self.stills, frames.timestamps, frames.duration_seconds, arguments, self.mark.join(around)
        if self.cut:
            layout, made = call_without_pixels(processor, frames.pixels.shape[:3], *asked)
        else:
            layout, made = call(processor, as_tensor(frames.pixels), *asked)
        skipped = {"input_ids", "attention_mask", *self.kinds, *(PIXELS if self.cut else ())}
        tensors = {name: value for name, value in made.items() if name not in skipped and torch.is_tensor(value)}
        layout = layout.removeprefix(self.opening).removeprefix(around[0]).removesuffix(around[1])
        return Shown(layout=layout, tensors=tensors)

    def arguments_for(self, frames: Frames) -> Mapping[str, Any]:
        """Of the processor's call with a clip, beside the clip and its metadata.

        Raises:
            ValueError: it has sound, and the model takes none.
        """
        arguments = dict(self.arguments)
        if self.wants_rate:
            arguments["fps"] = 1 / seconds_between(frames.timestamps, frames.duration_seconds)
        if frames.sound and frames.has_sound:
            if self.sound is None:
                raise ValueError("the clip has sound, and the model takes none with a video.")
            arguments |= {**self.sound, "audio": [frames.sound.samples]}
        return arguments


def sound_arguments(processor: Any) -> Mapping[str, Any] | None:
    """How a processor is told to lay the sound of a video out among its frames; None if it does not do so.

    Others take sound too, but each sound for a token of its own, without a place in the time of a video.
    """
    if hasattr(processor, "load_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    # As releases before Transformers 5.24 call it.
    known = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("videos_kwargs", {})
    return {"use_audio_in_video": True} if "use_audio_in_video" in known else None


def around_sound(processor: Any) -> tuple[str, str]:
    """The pair of vision tokens that older processors look for around the placeholder of a video with sound."""
    return processor.vision_bos_token, processor.vision_eos_token


class _Remembering:
    """A tokenizer that remembers the text which it was given: there the video has its layout."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.text = ""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._tokenizer, name)

    def __call__(self, text: Any, *args: Any, **kwargs: Any) -> Any:
        self.text = text if isinstance(text, str) else text[0]
        return self._tokenizer(text, *args, **kwargs)


def call(
    processor: Any,
    pixels: torch.Tensor,
    stills: Stills | None,
    times: Sequence[float],
    duration: float,
    arguments: Mapping[str, Any],
    text: str | None = None,
) -> tuple[str, Any]:
    """Call a processor with a clip and its mark alone as text, or with another text that holds the mark.

    The clip goes in as a video, or with `stills` as images.

    Returns:
        The text in which the clip has its layout, and tensors by name.
    """
    recorded = copy.copy(processor)
    recorded.tokenizer = _Remembering(processor.tokenizer)
    if stills:
        text = (text or PLACE).replace(PLACE, stills.text(times), 1)
        made = recorded(text=[text], images=[list(pixels)], return_tensors="pt", **arguments)
        return recorded.tokenizer.text, made
    made = recorded(
        text=[text or processor.video_token],
        videos=[pixels],
        video_metadata=[metadata(times, duration)],
        do_sample_frames=False,
        return_tensors="pt",
        **arguments,
    )
    return recorded.tokenizer.text, made


def call_without_pixels(processor: Any, shape: Sequence[int], *asked: Any) -> tuple[str, Any]:
    """The same with a video of this many frames, height and width, whose pixels are nobody's business."""
    count, height, width = shape
    try:
        return call(processor, torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta"), *asked)
    except RuntimeError as exc:
        if "meta" not in str(exc):
            raise
        # What it makes depends on values, or it knows no such device.
        return call(processor, torch.zeros(count, 3, height, width, dtype=torch.uint8), *asked)


def metadata(times: Sequence[float], duration: float) -> dict[str, Any]:
    """What processors are told of a video.

    With one "frame a second" the numbers of the frames are their times. All families read the true times from that; the
    number of frames is the one from which Qwen2.5-VL reckons how many a second were sampled.
    """
    return {
        "fps": 1.0,
        "frames_indices": list(times),  # a fresh list each time: Qwen3-VL's processor adds to it
        "total_num_frames": len(times) * seconds_between(times, duration),
        "duration": duration,
    }


def seconds_between(times: Sequence[float], duration: float) -> float:
    """Seconds from frame to frame, on average; of a single frame, what it lasts."""
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else max(duration, 1e-3)


def as_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """A copy of frames, colours first: Ernie's processor draws into what it is given."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
