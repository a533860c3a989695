"""A family of models: how a checkpoint takes a video. `describing.py` finds it out from the checkpoint's processor."""

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
"""How a model learns the times of frames: from words in the prompt, from the tokens' positions, from times drawn into
the frames, or not at all."""
System = Literal["parts", "text", "question"]
"""How the chat template gets a system prompt: as a list of parts, as text, or put before the question if the template
drops both."""

PIXELS: Final = ("pixel_values_videos", "pixel_values")
"""The names that processors give to the pixels of a video and of images."""
SOUND: Final = "input_features"
"""The name that processors give to the features of sound."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Shown:
    """What a processor makes of a video."""

    layout: str
    """The text that replaces the video's mark in a prompt."""
    tensors: Mapping[str, torch.Tensor]
    """The model's inputs besides tokens, by name. The pixels are missing if the family has a `cut` to make them."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Family:
    """How a checkpoint takes a video."""

    limits: VisionLimits
    times: Times
    mark: str
    """The text that the chat template writes where a clip belongs."""
    stills: Stills | None = None
    """How frames are shown as images; None if they are shown as a video."""
    placeholder: int
    """The token that vision features replace."""
    kinds: Mapping[str, Mapping[int, int]]
    """The model's inputs that give the kind of each token, by name: a map from tokens to kinds. Other tokens have kind
    0."""
    cut: Cut | None
    """How to cut frames into the same patches as the processor's; None if the processor has to make the pixels."""
    bare: bool = False
    """Whether the pair of vision tokens that the chat template writes around a video has to be removed."""
    system: System = "parts"
    opening: str = ""
    """The text that the processor puts before each prompt."""
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Arguments for each call of the processor."""
    wants_rate: bool = False
    """Whether the processor takes times only as a frame rate, as the argument `fps`."""
    sound: Mapping[str, Any] | None = None
    """Arguments that make the processor place the sound of a video among its frames; None if it takes no sound."""

    @property
    def part(self) -> Mapping[str, str]:
        """The part of a message for which the chat template writes the mark."""
        return {"type": "text", "text": PLACE} if self.stills else {"type": "video"}

    def show(self, processor: Any, frames: Frames) -> Shown:
        """Let the processor prepare a clip. The result does not depend on the prompt around it.

        Args:
            processor: the checkpoint's processor.
            frames: of the clip.

        Raises:
            ValueError: frames are not of a size that the model takes, or they have sound and the model takes none.
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
        """The arguments for the processor's call with a clip, besides the clip and its metadata.

        Raises:
            ValueError: the clip has sound, and the model takes none with a video.
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
    """Arguments that make a processor place the sound of a video among its frames; None if it cannot do that.

    Other processors may take sound too, but for a placeholder of its own, without relation to the times of a video.
    """
    if hasattr(processor, "load_audio_from_video"):
        return {"load_audio_from_video": True, "audio_from_video_indices": [0]}
    # The name in releases before Transformers 5.24.
    known = getattr(getattr(processor, "valid_processor_kwargs", None), "_defaults", {}).get("videos_kwargs", {})
    return {"use_audio_in_video": True} if "use_audio_in_video" in known else None


def around_sound(processor: Any) -> tuple[str, str]:
    """The pair of vision tokens that older processors expect around the placeholder of a video with sound."""
    return processor.vision_bos_token, processor.vision_eos_token


class _Remembering:
    """A tokenizer that remembers the last text it got: in it, the processor has replaced the mark by the layout."""

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
    """Call a processor with a clip.

    Args:
        processor: the checkpoint's processor.
        pixels: uint8, shape (frames, colours, height, width).
        stills: how to show the frames as images; None to show them as a video.
        times: of the frames, in seconds.
        duration: of the clip, in seconds.
        arguments: further arguments of the call.
        text: a prompt that holds the clip's mark; None for the mark alone.

    Returns:
        The text in which the layout has replaced the mark, and the tensors that the processor made, by name.
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
    """Call a processor with a clip whose pixels do not matter; see `call`.

    Args:
        processor: the checkpoint's processor.
        shape: the number of frames, their height and their width.
        asked: the other arguments of `call`.
    """
    count, height, width = shape
    try:
        return call(processor, torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta"), *asked)
    except RuntimeError as exc:
        if "meta" not in str(exc):
            raise
        # The processor reads values, or does not support the meta device.
        return call(processor, torch.zeros(count, 3, height, width, dtype=torch.uint8), *asked)


def metadata(times: Sequence[float], duration: float) -> dict[str, Any]:
    """The metadata of a video for processors.

    With an `fps` of 1, the indices of frames are their times in seconds, from which all families get the true times.
    From `total_num_frames`, Qwen2.5-VL computes how many frames a second were sampled.

    Args:
        times: of the frames, in seconds.
        duration: of the clip, in seconds.
    """
    return {
        "fps": 1.0,
        "frames_indices": list(times),  # a fresh list each time: Qwen3-VL's processor adds to it
        "total_num_frames": len(times) * seconds_between(times, duration),
        "duration": duration,
    }


def seconds_between(times: Sequence[float], duration: float) -> float:
    """The average time from frame to frame, in seconds; for a single frame, the clip's duration."""
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else max(duration, 1e-3)


def as_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    """Copy frames to a tensor, shape (frames, colours, height, width). Ernie's processor would draw into the frames."""
    return torch.tensor(pixels).permute(0, 3, 1, 2).contiguous()
