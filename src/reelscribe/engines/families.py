"""How a checkpoint takes a video, as its own processor shows when it is asked.

There is no table of models. A processor is called a few times when it is loaded, mostly with videos on the meta device,
which have a shape and no pixels, and what comes out says the rest: whether it sees the video at all, which sizes pass,
what a frame costs, how times enter, and whether its pixels are those that we cut.
"""

import copy
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal, get_args

import numpy as np
import torch
from numpy.typing import NDArray

from reelscribe.engines.patches import Cut, floats
from reelscribe.errors import ModelError
from reelscribe.values import Frames
from reelscribe.video.sampling import VisionLimits

Times = Literal["words", "positions", "drawn", "none"]
"""How a model is shown when each frame is: in the prompt, by the tokens' positions, in the pictures, or not at all."""
System = Literal["parts", "text", "question"]
"""How a system prompt is given to the chat template: as parts, as text, or before the question, if it drops both."""

PIXELS: Final = ("pixel_values_videos", "pixel_values")
"""What processors call the pixels of a video."""
_DOUBLE_PAIR: Final = "Qwen3VLProcessor"
"""It puts a pair of vision tokens around each group of frames, and since Transformers 5.2 leaves the one of the chat
template around all of them. The models were released knowing the layout without that one. No call shows it."""
_WHOLE: Final = {"video_compression_mask": {"use_token_compression": False}}
"""Arguments by a name in what comes out. VideoLLaMA3's processor drops tokens of parts that do not move, so that a clip
costs less than its budget and nobody knows how much."""
_PROBE_FRAMES: Final = 8
_PROBE_SIZE: Final = (112, 224)
"""Height and width of videos to ask with, unless sizes are known that pass."""
_CLOSE: Final = 1e-5
"""By which pixels may differ and count as equal: their steps are 1/128 and more."""


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

    def show(self, processor: Any, frames: Frames) -> Shown:
        """A clip as the processor makes it. What the model is fed beside is the same for all prompts.

        Args:
            processor: the checkpoint's.
            frames: of the clip.

        Raises:
            ValueError: frames are not of a size that the model takes.
        """
        count, height, width, _ = frames.pixels.shape
        if self.cut and (not count or height % self.cut.side or width % self.cut.side):
            raise ValueError(f"{count} frames of {width} x {height}; sides must be multiples of {self.cut.side}")
        asked = frames.timestamps, frames.duration_seconds, self._arguments(frames)
        if self.cut:
            layout, made = _call_without_pixels(processor, frames.pixels.shape[:3], *asked)
        else:
            layout, made = _call(processor, _as_tensor(frames.pixels), *asked)
        skipped = {"input_ids", "attention_mask", *self.kinds, *(PIXELS if self.cut else ())}
        tensors = {name: value for name, value in made.items() if name not in skipped and torch.is_tensor(value)}
        return Shown(layout=layout.removeprefix(self.opening), tensors=tensors)

    def _arguments(self, frames: Frames) -> Mapping[str, Any]:
        if not self.wants_rate:
            return self.arguments
        return {**self.arguments, "fps": 1 / _step(frames.timestamps, frames.duration_seconds)}


def describe(processor: Any) -> Family:
    """Ask a checkpoint's processor how it takes a video.

    Raises:
        ModelError: it takes none, or in a way that this package cannot keep to.
    """
    if not getattr(processor, "video_processor", None) or not getattr(processor, "video_token", None):
        raise ModelError(f"it takes no videos with this Transformers: its processor is a {type(processor).__name__}.")
    placeholder = processor.video_token
    rendered = _rendered(processor, [{"type": "video"}, {"type": "text", "text": "What?"}])
    if placeholder not in rendered:
        raise ModelError(f"its chat template has no {placeholder} for a video.")
    asked = _Asked(processor)
    token, kinds = asked.tokens(rendered)
    cut = Cut.of(processor.video_processor)
    own = asked.takes_sizes(cut.side, cut.temporal, token) if cut else False
    if cut and own:
        asked.keep_sizes(cut.side)
    times, wants_rate = asked.times()
    cut = cut if cut and own and times != "drawn" and asked.same_pixels(cut) else None
    return Family(
        limits=_limits(processor.video_processor, asked, own, token),
        times=times,
        placeholder=token,
        kinds=kinds,
        cut=cut,
        bare=type(processor).__name__ == _DOUBLE_PAIR,
        system=_system(processor),
        opening=asked.opening(rendered, placeholder),
        arguments=asked.arguments,
        wants_rate=wants_rate,
    )


class _Asked:
    """A processor that is asked."""

    def __init__(self, processor: Any) -> None:
        self._processor = processor
        self.arguments: dict[str, Any] = {}
        self._size = _PROBE_SIZE
        made = self(_PROBE_FRAMES)[1]
        for name, arguments in _WHOLE.items():
            self.arguments |= arguments if name in made else {}

    def __call__(
        self, count: int, *size: int, step: float = 0.5, text: str | None = None, **more: Any
    ) -> tuple[str, Any]:
        """Layout and all that is made of so many frames, `step` seconds apart."""
        times = [number * step for number in range(count)]
        arguments = {**self.arguments, **more}
        return _call_without_pixels(
            self._processor, (count, *(size or self._size)), times, count * step, arguments, text
        )

    def keep_sizes(self, side: int) -> None:
        """Let frames keep the size that they come in."""
        self.arguments["do_resize"] = False
        self._size = (3 * side, 4 * side)

    def tokens(self, rendered: str) -> tuple[int, Mapping[str, Mapping[int, int]]]:
        """The token of vision features, and the kinds of tokens; see `Family`. GLM's depend on what stands around.

        Raises:
            ModelError: the video does not get there.
        """
        layout, made = self(_PROBE_FRAMES, text=rendered)
        if layout == rendered or not any(name in made for name in PIXELS):
            raise ModelError(f"its processor, a {type(self._processor).__name__}, drops the video.")
        ids = made["input_ids"][0].tolist()
        special = set(self._processor.tokenizer.get_added_vocab().values())
        [(token, _)] = Counter(each for each in ids if each in special).most_common(1)
        kinds = {
            name: {each: kind for each, kind in zip(ids, values[0].tolist(), strict=True) if kind}
            for name, values in made.items()
            if name.endswith("token_type_ids")
        }
        return token, kinds

    def count(self, count: int, height: int, width: int, token: int, **more: Any) -> int:
        """Vision tokens that so many frames cost."""
        return int((self(count, height, width, **more)[1]["input_ids"] == token).sum())

    def takes_sizes(self, side: int, temporal: int, token: int) -> bool:
        """Whether frames keep the size that they come in, and cost a token for each square of a group of frames."""
        for count, rows, columns in ((2, 2, 3), (2, 5, 4), (3, 2, 3)):
            try:
                found = self.count(count * temporal, rows * side, columns * side, token, do_resize=False)
            except Exception:  # processors that need to resize raise all kinds of errors
                return False
            if found != count * rows * columns:
                return False
        return True

    def times(self) -> tuple[Times, bool]:
        """How times enter, and whether the processor wants them as an argument."""
        (layout, made), (later, other) = (self(_PROBE_FRAMES, step=step) for step in (0.5, 1.75))
        if layout != later:
            return "words", False
        seconds = [name for name in made if "second" in name]
        if any(bool((made[name] != other[name]).any()) for name in seconds):
            return "positions", False
        if seconds:
            given = self(_PROBE_FRAMES, fps=1 / 1.75)[1]
            if any(bool((made[name] != given[name]).any()) for name in seconds):
                return "positions", True
        noise = _noise(2, *self._size)
        first, last = (
            self._pixels(_call(self._processor, noise, times, times[1] + 1, self.arguments)[1])
            for times in ((0.0, 1.0), (30.0, 50.0))
        )
        return ("none" if torch.equal(first, last) else "drawn"), False

    def same_pixels(self, cut: Cut) -> bool:
        """Whether our patches are the processor's."""
        noise = _noise(2 * cut.temporal, 2 * cut.side, 3 * cut.side)
        times = [float(number) for number in range(len(noise))]
        made = self._pixels(_call(self._processor, noise, times, len(times), self.arguments)[1])
        cpu = torch.device("cpu")
        ours = floats(torch.from_numpy(cut.patches(noise.permute(0, 2, 3, 1).numpy())), cut.scales(cpu))
        return made.shape == ours.shape and torch.allclose(made.float(), ours, rtol=0, atol=_CLOSE)

    def opening(self, rendered: str, placeholder: str) -> str:
        """What the processor puts before a prompt; most put nothing there.

        Raises:
            ModelError: what it makes of a video depends on the prompt around it.
        """
        layout, (whole, _) = self(_PROBE_FRAMES)[0], self(_PROBE_FRAMES, text=rendered)
        if rendered.replace(placeholder, layout, 1) == whole:
            return ""
        tokenizer = self._processor.tokenizer
        for opening in (tokenizer.bos_token, tokenizer.eos_token):
            if opening and opening + rendered.replace(placeholder, layout.removeprefix(opening), 1) == whole:
                return str(opening)
        raise ModelError("what its processor makes of a video depends on the prompt around it.")

    def _pixels(self, made: Mapping[str, Any]) -> torch.Tensor:
        found: torch.Tensor = next(made[name] for name in PIXELS if name in made)
        return found


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


def _call(
    processor: Any,
    pixels: torch.Tensor,
    times: Sequence[float],
    duration: float,
    arguments: Mapping[str, Any],
    text: str | None = None,
) -> tuple[str, Any]:
    """Call a processor with a video and the placeholder alone as text, or with another text.

    With one "frame a second" the numbers of the frames are their times. All families read the true times from that; the
    number of frames is the one from which Qwen2.5-VL reckons how many a second were sampled.

    Returns:
        The text in which the placeholder was replaced, and tensors by name.
    """
    recorded = copy.copy(processor)
    recorded.tokenizer = _Remembering(processor.tokenizer)
    metadata = {
        "fps": 1.0,
        "frames_indices": list(times),  # a fresh list each time: Qwen3-VL's processor adds to it
        "total_num_frames": len(times) * _step(times, duration),
        "duration": duration,
    }
    made = recorded(
        text=[text or processor.video_token],
        videos=[pixels],
        video_metadata=[metadata],
        do_sample_frames=False,
        return_tensors="pt",
        **arguments,
    )
    return recorded.tokenizer.text, made


def _call_without_pixels(processor: Any, shape: Sequence[int], *asked: Any) -> tuple[str, Any]:
    """The same with a video of this many frames, height and width, whose pixels are nobody's business."""
    count, height, width = shape
    try:
        return _call(processor, torch.empty(count, 3, height, width, dtype=torch.uint8, device="meta"), *asked)
    except RuntimeError as exc:
        if "meta" not in str(exc):
            raise
        # What it makes depends on values, or it knows no such device.
        return _call(processor, torch.zeros(count, 3, height, width, dtype=torch.uint8), *asked)


def _limits(video: Any, asked: _Asked, own: bool, token: int) -> VisionLimits:
    """What videos the checkpoint takes, and what they cost.

    Raises:
        ModelError: they cost neither what their size says, nor a constant a frame.
    """
    usual = VisionLimits.max_frame_tokens
    limits = VisionLimits(
        min_frames=getattr(video, "min_frames", None) or VisionLimits.min_frames,
        max_frames=getattr(video, "max_frames", None) or VisionLimits.max_frames,
    )
    if own:
        return replace(
            limits,
            token_pixels=video.patch_size * video.merge_size,
            temporal_patch=getattr(video, "temporal_patch_size", None) or 1,
            # Qwen3-VL's processor means a frame by that name, Qwen2.5-VL's a clip.
            max_frame_tokens=min(getattr(video, "max_video_tokens", None) or usual, usual),
        )
    raise ModelError("its frames cost what their size does not say, which this package cannot keep to yet.")


def _rendered(processor: Any, content: Sequence[Mapping[str, str]], system: Any = None) -> str:
    messages: list[Any] = [{"role": "user", "content": list(content)}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _system(processor: Any) -> System:
    """The form in which the words of a system prompt come out of the chat template, and stand alone there."""
    words, question = "Be brief.", [{"type": "text", "text": "What?"}]
    forms: dict[System, Any] = {"parts": [{"type": "text", "text": words}], "text": words}
    for form in get_args(System)[:2]:
        try:
            text = _rendered(processor, question, forms[form])
        except Exception:  # a template may raise anything at what it does not take
            continue
        if words in text and f"'{words}'" not in text and f'"{words}"' not in text:
            found: System = form
            return found
    return "question"


def _step(times: Sequence[float], duration: float) -> float:
    """Seconds from frame to frame."""
    return (times[-1] - times[0]) / (len(times) - 1) if len(times) > 1 else max(duration, 1e-3)


def _as_tensor(pixels: NDArray[np.uint8]) -> torch.Tensor:
    return torch.from_numpy(pixels).permute(0, 3, 1, 2)


def _noise(count: int, height: int, width: int) -> torch.Tensor:
    return _as_tensor(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))
