"""Finding out how a checkpoint takes a video, or frames as images, by calling its processor.

There is no table of models. A processor that is loaded is called a few times, mostly with videos on the meta device,
which have a shape but no pixels. Its results show whether it takes the video at all, which sizes it keeps, what a frame
costs, how it uses times, and whether its pixels equal the patches that we cut.
"""

import logging
import math
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

import numpy as np
import torch

from reelscribe.engines.families import (
    PIXELS,
    Family,
    System,
    Times,
    around_sound,
    as_tensor,
    call,
    call_without_pixels,
    sound_arguments,
)
from reelscribe.engines.patches import Cut, floats
from reelscribe.engines.stills import PLACE, Stills, words_of
from reelscribe.errors import ModelError
from reelscribe.video.sampling import LONGEST_SIDE, Hearing, OwnSize, VisionLimits

logger = logging.getLogger(__name__)

_DOUBLE_PAIR: Final = "Qwen3VLProcessor"
"""The class of the processor that puts a pair of vision tokens around each group of frames and, since Transformers 5.2,
also keeps the chat template's pair around all of them. The models were trained without the outer pair. No call of the
processor shows that, so that the class is known by name."""
_WHOLE: Final[Mapping[str, Mapping[str, Any]]] = {
    "video_compression_mask": {"use_token_compression": False},
    "target_sizes_videos": {"max_slice_nums": 1},
}
"""Arguments to pass if the processor's result has the name. VideoLLaMA3's processor drops tokens of parts that do not
move, so that the cost of a clip cannot be known before. MiniCPM-V's processor cuts large frames into several."""
_TILES: Final[Mapping[str, Any]] = {
    "crop_to_patches": False,
    "do_image_splitting": False,
    "max_slice_nums": 1,
    "vision_input_type": "vanilla",
}
"""Arguments that keep image processors from cutting a large image into several, for those that have an attribute of the
name. A frame is one image."""
_PROBE_FRAMES: Final = 8
"""The number of frames of most probes."""
_PROBE_SIZE: Final = (112, 224)
"""The height and width of probes, until sizes are known that the processor keeps."""
_SIZES: Final = ((112, 224), (224, 112), (300, 200), (64, 250), (720, 1280))
"""Heights and widths whose costs show by which rule frames are resized."""
_PROBE_SECONDS: Final = (2, 10)
"""Seconds of silence. The difference in tokens shows what sound costs."""
_USUAL_PIXELS: Final = 448
"""The side of an image, in pixels, that is assumed if a processor does not say it."""
_QUESTION: Final = {"type": "text", "text": "What?"}
_CLOSE: Final = 1e-5
"""The largest difference of pixels that count as equal. Steps between pixel values are 1/128 and more."""


def describe(processor: Any, *, show: str = "auto", name: str = "") -> Family:
    """Find out how a checkpoint takes a clip by calling its processor.

    Args:
        processor: the checkpoint's processor.
        show: "video", "images", or "auto", which means images only if the processor takes no video.
        name: the model's type, from which the words for times beside images follow.

    Raises:
        ModelError: the processor does not take clips, or takes them in a way that this package does not support.
    """
    if show == "auto":
        show = "video" if _has(processor, "video") or not _has(processor, "image") else "images"
    if show == "images":
        return _of_images(processor, name)
    if not _has(processor, "video"):
        hint = " It takes images: leave show out." if _has(processor, "image") else ""
        name = type(processor).__name__
        raise ModelError(f"it takes no videos with this Transformers: its processor is a {name}.{hint}")
    mark = processor.video_token
    rendered = _rendered(processor, [{"type": "video"}, _QUESTION])
    if mark not in rendered:
        raise ModelError(f"its chat template has no {mark} for a video.")
    asked = _Asked(processor)
    token, kinds = asked.tokens(rendered)
    cut = Cut.of(processor.video_processor)
    side = cut.side if cut and asked.takes_sizes(cut.side, cut.temporal, token) else 0
    if side:
        asked.keep_sizes(side)
    times, wants_rate = asked.times()
    hearing = asked.hearing()
    ours = cut if cut and side and times != "drawn" and asked.same_pixels(cut) else None
    limits = _limits(processor.video_processor, side, None if side else asked.own_size(token))
    return Family(
        limits=replace(limits, hearing=hearing),
        times=times,
        mark=mark,
        placeholder=token,
        kinds=kinds,
        cut=ours,
        bare=type(processor).__name__ == _DOUBLE_PAIR,
        system=_system(processor),
        opening=asked.opening(rendered, mark),
        arguments=asked.arguments,
        wants_rate=wants_rate,
        sound=sound_arguments(processor) if hearing else None,
    )


def _of_images(processor: Any, name: str) -> Family:
    """Find out how a processor takes frames as images; see `describe`."""
    if not _has(processor, "image"):
        raise ModelError(f"it takes no images with this Transformers: its processor is a {type(processor).__name__}.")
    rendered = _rendered(processor, [{"type": "text", "text": PLACE}, _QUESTION])
    asked = _Asked(processor, Stills(image=_image(processor), words=words_of(name)))
    token, kinds = asked.tokens(rendered)
    # The processor of an encoder with one fixed size passes every size on if it is told not to resize. So first see
    # whether the processor has a rule of its own.
    own_size = asked.own_size(token)
    side = 0 if own_size else asked.side(token)
    if side:
        asked.keep_sizes(side)
    return Family(
        limits=replace(_limits(processor.image_processor, side, own_size), temporal_patch=1),
        times="words",
        mark=PLACE,
        stills=asked.stills,
        placeholder=token,
        kinds=kinds,
        cut=None,
        system=_system(processor),
        opening=asked.opening(rendered, PLACE),
        arguments=asked.arguments,
    )


def _has(processor: Any, kind: str) -> bool:
    """Whether a processor takes inputs of a kind, "video" or "image"."""
    found = getattr(processor, f"{kind}_processor", None)
    return bool(found) and (kind == "image" or bool(getattr(processor, "video_token", None)))


def _image(processor: Any) -> str:
    """The text that the chat template writes for an image.

    Raises:
        ModelError: it writes nothing, or not the same text for each of several images.
    """
    first, then, image = {"type": "text", "text": "First"}, {"type": "text", "text": "then"}, {"type": "image"}
    without, one = _rendered(processor, [first, _QUESTION]), _rendered(processor, [first, image, _QUESTION])
    start = next((at for at, pair in enumerate(zip(one, without, strict=False)) if len(set(pair)) > 1), len(one))
    written = one.removesuffix(without[start:])[start:]
    several = _rendered(processor, [first, image, then, image, _QUESTION])
    # Some templates put all images before all text.
    if not written or not any(each in several for each in (f"{written}then{written}", written + written)):
        raise ModelError("its chat template has no place for an image, or writes several in another way than one.")
    return written


class _Asked:
    """Calls a processor with probes: with videos, or with `stills` with frames as images."""

    def __init__(self, processor: Any, stills: Stills | None = None) -> None:
        self._processor, self.stills = processor, stills
        self._visual = processor.image_processor if stills else processor.video_processor
        whole = _TILES if stills else {}
        self.arguments = {name: value for name, value in whole.items() if hasattr(processor.image_processor, name)}
        self._size = _PROBE_SIZE
        made = self(_PROBE_FRAMES)[1]
        for name, arguments in _WHOLE.items():
            self.arguments |= arguments if name in made else {}

    def __call__(
        self, count: int, *size: int, step: float = 0.5, text: str | None = None, **more: Any
    ) -> tuple[str, Any]:
        """Call the processor with a clip.

        Args:
            count: the number of frames.
            size: height and width; empty for those of other probes.
            step: seconds from frame to frame.
            text: a prompt that holds the clip's mark; None for the mark alone.
            more: further arguments of the call.

        Returns:
            The layout and the processor's result; see `call`.
        """
        times = [number * step for number in range(count)]
        arguments = {**self.arguments, **more}
        return call_without_pixels(
            self._processor, (count, *(size or self._size)), self.stills, times, count * step, arguments, text
        )

    def keep_sizes(self, side: int) -> None:
        """From now on, tell the processor not to resize, and probe with frames of 3 x 4 squares of this side."""
        self.arguments["do_resize"] = False
        self._size = (3 * side, 4 * side)

    def tokens(self, rendered: str) -> tuple[int, Mapping[str, Mapping[int, int]]]:
        """The token that vision features replace, and the kinds of tokens; see `Family`.

        Args:
            rendered: a prompt with a clip. It is needed because GLM's kinds depend on the tokens around the clip.

        Raises:
            ModelError: the processor drops the video.
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
        """The number of vision tokens of a clip with this many frames of this size."""
        return int((self(count, height, width, **more)[1]["input_ids"] == token).sum())

    def side(self, token: int) -> int:
        """The side of the square of an image that becomes one token, in pixels.

        0 if the processor resizes images, or if their cost does not follow from such squares.
        """
        try:
            tokens = self.count(1, _USUAL_PIXELS, _USUAL_PIXELS, token, do_resize=False)
        except Exception:  # as in `takes_sizes`
            return 0
        side = round(_USUAL_PIXELS / math.sqrt(tokens))
        return side if self.takes_sizes(side, 1, token) else 0

    def takes_sizes(self, side: int, temporal: int, token: int) -> bool:
        """Whether frames keep their size and each square of a group of frames costs one token.

        Args:
            side: of the square, in pixels.
            temporal: frames in a group.
            token: the token that vision features replace.
        """
        for count, rows, columns in ((2, 2, 3), (2, 5, 4), (3, 2, 3)):
            try:
                found = self.count(count * temporal, rows * side, columns * side, token, do_resize=False)
            except Exception:  # processors that need to resize raise all kinds of errors
                return False
            if found != count * rows * columns:
                return False
        return True

    def own_size(self, token: int) -> OwnSize | None:
        """The rule by which the processor resizes frames, if it is one that we know and that all probes confirm."""
        sizes = [(count, *size) for count in (4, 8, 5) for size in _SIZES]
        found = [self.count(*shape, token) for shape in sizes]
        for rule in _rules(self._visual, found[0], found[len(_SIZES)]):
            if found == [rule.clip_tokens + count * rule.tokens(width, height) for count, height, width in sizes]:
                return rule
        return None

    def times(self) -> tuple[Times, bool]:
        """How the processor uses times, and whether it takes them as the argument `fps` only; see `Family`."""
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
        first, last = (
            self._pixels(call(self._processor, _noise(2, *self._size), None, times, times[1] + 1, self.arguments)[1])
            for times in ((0.0, 1.0), (30.0, 50.0))
        )
        return ("none" if torch.equal(first, last) else "drawn"), False

    def hearing(self) -> Hearing | None:
        """The sampling rate and the cost of sound among the frames of a video; None if the processor takes no sound."""
        arguments = sound_arguments(self._processor)
        if arguments is None:
            return None
        lengths = []
        try:
            rate = int(self._processor.feature_extractor.sampling_rate)
            text = self._processor.video_token.join(around_sound(self._processor))
            for seconds in _PROBE_SECONDS:
                silence = np.zeros(rate * seconds, np.float32)
                made = self(_PROBE_FRAMES, text=text, audio=[silence], **arguments)[1]
                lengths.append(made["input_ids"].shape[-1])
        except Exception as exc:  # a processor may raise anything; the model can be used without sound
            logger.info("Its processor takes no sound: %s", exc)
            return None
        per_second = (lengths[1] - lengths[0]) / (_PROBE_SECONDS[1] - _PROBE_SECONDS[0])
        return Hearing(rate=rate, tokens_per_second=per_second) if per_second > 0 else None

    def same_pixels(self, cut: Cut) -> bool:
        """Whether the patches that we cut equal the processor's pixels."""
        noise = _noise(2 * cut.temporal, 2 * cut.side, 3 * cut.side)
        times = [float(number) for number in range(len(noise))]
        made = self._pixels(call(self._processor, noise, None, times, len(times), self.arguments)[1])
        cpu = torch.device("cpu")
        ours = floats(torch.from_numpy(cut.patches(noise.permute(0, 2, 3, 1).numpy())), cut.scales(cpu))
        return made.shape == ours.shape and torch.allclose(made.float(), ours, rtol=0, atol=_CLOSE)

    def opening(self, rendered: str, mark: str) -> str:
        """The text that the processor puts before a prompt. Most processors put nothing there.

        Args:
            rendered: a prompt with a clip.
            mark: the clip's mark in it.

        Raises:
            ModelError: the layout of a video depends on the prompt around it.
        """
        layout, (whole, _) = self(_PROBE_FRAMES)[0], self(_PROBE_FRAMES, text=rendered)
        if rendered.replace(mark, layout, 1) == whole:
            return ""
        tokenizer = self._processor.tokenizer
        for opening in (tokenizer.bos_token, tokenizer.eos_token):
            if opening and opening + rendered.replace(mark, layout.removeprefix(opening), 1) == whole:
                return str(opening)
        raise ModelError("what its processor makes of a video depends on the prompt around it.")

    def _pixels(self, made: Mapping[str, Any]) -> torch.Tensor:
        found: torch.Tensor = next(made[name] for name in PIXELS if name in made)
        return found


def _limits(visual: Any, side: int, own_size: OwnSize | None) -> VisionLimits:
    """The sizes of clips that the checkpoint takes, and what they cost.

    Args:
        visual: the processor's part for videos, or for images.
        side: of the square that becomes one token, in pixels; 0 if frames do not keep their size.
        own_size: the rule by which frames are resized in that case, if it is known.

    Raises:
        ModelError: frames do not keep their size, and the rule is not known.
    """
    usual = VisionLimits.max_frame_tokens
    limits = VisionLimits(
        min_frames=getattr(visual, "min_frames", None) or VisionLimits.min_frames,
        max_frames=getattr(visual, "max_frames", None) or VisionLimits.max_frames,
    )
    if side:
        return replace(
            limits,
            token_pixels=side,
            temporal_patch=getattr(visual, "temporal_patch_size", None) or 1,
            # `max_video_tokens` is the limit of a frame in Qwen3-VL's processor, and of a clip in Qwen2.5-VL's.
            max_frame_tokens=min(getattr(visual, "max_video_tokens", None) or usual, usual),
            # In processors with Qwen's attributes, `longest_edge` is an area, not a side.
            longest_side=None if Cut.of(visual) else max(_lengths(visual, "size"), default=0) // side * side or None,
        )
    if own_size:
        return replace(limits, own_size=own_size)
    raise ModelError(
        "its processor changes the size of frames by a rule that is not known here, and what they cost by it."
    )


def _rules(visual: Any, four: int, eight: int) -> Iterator[OwnSize]:
    """The rules that could explain the cost of a clip.

    Args:
        visual: the processor's part for videos, or for images.
        four: the number of vision tokens of a clip of four frames.
        eight: the same for eight frames.
    """
    each = (eight - four) // 4
    # Idefics' processors enlarge an image to `size`, cut it up, and resize each part to `max_image_size`. Here the
    # whole image is the only part.
    lengths = _lengths(visual, "max_image_size") or [*_lengths(visual, "size"), *_lengths(visual, "crop_size")]
    if each > 0:
        yield OwnSize(pixels=max(lengths, default=_USUAL_PIXELS), frame_tokens=each, clip_tokens=four - 4 * each)
    most, pool = (getattr(visual, name, None) for name in ("max_soft_tokens", "pooling_kernel_size"))
    if most and pool:  # attributes of Gemma 4's processor
        step = pool * visual.patch_size
        yield OwnSize(pixels=math.ceil(math.sqrt(most)) * step, frame_tokens=most, step=step)
    pixels, merged = (getattr(visual, name, None) for name in ("scale_resolution", "downsample_mode"))
    if pixels and merged:  # attributes of MiniCPM-V's processor
        step = visual.patch_size * (2 if merged == "4x" else 4)
        rule = OwnSize(pixels=pixels, frame_tokens=0, step=step, rounded=True)
        shapes = range(1000 // LONGEST_SIDE, 1000 * LONGEST_SIDE + 1)
        yield replace(rule, frame_tokens=max(rule.tokens(width, 1000) for width in shapes))


def _lengths(visual: Any, name: str) -> list[int]:
    held = getattr(visual, name, None)
    words = ("height", "width", "longest_edge", "shortest_edge")
    sides = [held.get(word) if isinstance(held, Mapping) else getattr(held, word, None) for word in words]
    return [int(side) for side in sides if side]


def _rendered(processor: Any, content: Sequence[Mapping[str, str]], system: Any = None) -> str:
    messages: list[Any] = [{"role": "user", "content": list(content)}]
    if system:
        messages.insert(0, {"role": "system", "content": system})
    text: str = processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
    return text


def _system(processor: Any) -> System:
    """The form in which the chat template takes a system prompt.

    A template may drop the words, or print the Python list that holds them. Such a form does not count.
    """
    words = "Be brief."
    forms: dict[System, Any] = {"parts": [{"type": "text", "text": words}], "text": words}
    for form in get_args(System)[:2]:
        try:
            text = _rendered(processor, [_QUESTION], forms[form])
        except Exception:  # a template may raise anything at what it does not take
            continue
        if words in text and f"'{words}'" not in text and f'"{words}"' not in text:
            found: System = form
            return found
    return "question"


def _noise(count: int, height: int, width: int) -> torch.Tensor:
    return as_tensor(np.random.default_rng(0).integers(0, 256, (count, height, width, 3), dtype=np.uint8))
