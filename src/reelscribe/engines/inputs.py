"""Works to what a Qwen3-VL model is fed.

The checkpoint's processor says how: its chat template, tokenizer, layout of frames and times, mean and deviation. Its
call is not used, because it turns whole batches of pixels to floats over and over; here bytes are cut into patches,
moved to the device as they are, and turned to floats once, there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from reelscribe.engines.prompt import Prompt
from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.thinking import opens_thought
from reelscribe.values import Frames, Request, RequestId, Work


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A request as tokens."""

    request: Request
    ids: torch.Tensor
    """Tokens of the whole prompt, int64, shape (tokens,)."""
    longest_answer: int
    """Tokens that a candidate may have."""
    opens_thought: bool = False
    """Whether the prompt ends with the mark that opens a thought."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """What the prompts of some requests have in common: at least all up to the end of the video."""

    ids: torch.Tensor
    """Tokens, int64, shape (tokens,)."""
    positions: torch.Tensor
    """Theirs in time, height and width, int64, shape (3, tokens)."""
    next_position: int
    """Of the token that comes next, the same in all three."""
    has_video: bool
    questions: tuple[Question, ...]
    """Whose prompts begin with it. A prompt that is alone with its prefix is all prefix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInputs:
    """One work, ready to go into a batch."""

    prefixes: tuple[Prefix, ...]
    """At least one, unless all requests were taken out."""
    patches: torch.Tensor
    """Of the video, uint8, shape (patches, colours x temporal x patch x patch); none if no prefix has it."""
    grid: tuple[int, int, int]
    """Patches in time, height and width."""

    @property
    def questions(self) -> list[Question]:
        """Those of all prefixes."""
        return [question for prefix in self.prefixes for question in prefix.questions]

    @property
    def longest_prefix(self) -> int:
        """In tokens."""
        return max(len(prefix.ids) for prefix in self.prefixes)

    @property
    def has_video(self) -> bool:
        """Whether any request asks about the video."""
        return any(prefix.has_video for prefix in self.prefixes)

    def only(self, wanted: Collection[RequestId]) -> "ModelInputs":
        """The same for some of the requests."""
        prefixes = (
            replace(prefix, questions=tuple(each for each in prefix.questions if each.request.id in wanted))
            for prefix in self.prefixes
        )
        return replace(self, prefixes=tuple(prefix for prefix in prefixes if prefix.questions))


def most_tokens(batch: Sequence[ModelInputs]) -> int:
    """Tokens that the cache may come to hold for a batch: prefixes, and candidates, each as long as the longest.

    A candidate has its question's own tokens and its answer.
    """
    prefixes = [prefix for item in batch for prefix in item.prefixes]
    own = [
        (each.request.num_captions, len(each.ids) - len(prefix.ids) + each.longest_answer)
        for prefix in prefixes
        for each in prefix.questions
    ]
    if not own:
        return 0
    candidates = sum(count for count, _ in own) * max(length for _, length in own)
    return len(prefixes) * max(len(prefix.ids) for prefix in prefixes) + candidates


class InputBuilder:
    """Builds batches for one checkpoint.

    Args:
        processor: the checkpoint's.
        rules: the checkpoint's, by which answers are as long as they may be.
        rope_index: the model's `get_rope_index`, which says where each token stands.
        device: where the model is.
        switches: variables of its chat template.
    """

    def __init__(
        self,
        processor: Any,
        rules: TokenRules,
        rope_index: Callable[..., Any],
        device: torch.device,
        switches: Mapping[str, bool] | None = None,
    ) -> None:
        self._processor = processor
        self._switches = switches
        self._rules = rules
        self._rope_index = rope_index
        self._device = device
        video = processor.video_processor
        self._patch, self._merge, self._temporal = video.patch_size, video.merge_size, video.temporal_patch_size
        values = self._temporal * self._patch**2  # of one colour in a patch
        scale = 1 / video.rescale_factor
        self._mean, self._deviation = (
            (torch.tensor(each) * scale).repeat_interleave(values).to(device)
            for each in (video.image_mean, video.image_std)
        )

    def prepare(self, item: Work) -> ModelInputs:
        """A work as the model is fed it. Nothing is on the device yet.

        Raises:
            ValueError: frames are not of a size that the model takes.
            SettingsError: the request's schema cannot be enforced.
            MissingExtraError: the extra `structured` is not installed, and the request has a schema.
        """
        shows = any(request.video for request in item.requests)
        grid = self._grid(item.frames) if shows else (0, 0, 0)
        layout = self._layout(item.frames, grid) if shows else ""
        alike: dict[tuple[int, ...], list[Question]] = {}
        for request in item.requests:
            if request.schema:
                self._rules.constraints.begin(request.schema)  # compiles it here, and not between two steps
            ids = self._prompt(request, layout).ids(self._processor.tokenizer)
            longest = self._rules.resolve(request.sampling, request.num_captions).max_tokens or 0
            question = Question(
                request=request,
                ids=torch.tensor(ids),
                longest_answer=longest,
                # An answer that keeps to a schema has no room for a thought.
                opens_thought=not request.schema and opens_thought(self._processor.tokenizer, ids),
            )
            alike.setdefault(self._up_to_video(ids), []).append(question)
        return ModelInputs(
            prefixes=tuple(self._prefix(questions, grid) for questions in alike.values()),
            patches=torch.from_numpy(self._patches(item.frames.pixels)) if shows else _NO_PATCHES,
            grid=grid,
        )

    def _up_to_video(self, ids: list[int]) -> tuple[int, ...]:
        """The tokens up to the last one of the video; all, if there is none."""
        video = self._processor.video_token_id
        return tuple(ids[: len(ids) - ids[::-1].index(video)] if video in ids else ids)

    def _prefix(self, questions: Sequence[Question], grid: tuple[int, int, int]) -> Prefix:
        """What these have in common."""
        ids = _common([question.ids for question in questions])
        kinds = 2 * (ids == self._processor.video_token_id)
        has_video = bool(kinds.any())
        grids = torch.tensor([grid]) if has_video else None
        positions, delta = self._rope_index(ids[None], kinds[None], video_grid_thw=grids)
        return Prefix(
            ids=ids,
            positions=positions[:, 0],
            next_position=len(ids) + int(delta),
            has_video=has_video,
            questions=tuple(questions),
        )

    def collate(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """What a batch's prefill takes, on the device: ids of all prefixes, mask, positions and kinds (2 for vision).

        What is shorter is padded on the left. If there are videos, also their patches and grids, one for each work.
        """
        prefixes = [prefix for item in batch for prefix in item.prefixes]
        videos = [item for item in batch if item.has_video]
        ids, mask = self._padded([prefix.ids for prefix in prefixes])
        length = ids.shape[1]
        positions = [functional.pad(each.positions, (length - len(each.ids), 0), value=1) for each in prefixes]
        on_cpu = {
            "input_ids": ids,
            "attention_mask": mask,
            "mm_token_type_ids": 2 * (ids == self._processor.video_token_id),
            "position_ids": torch.stack(positions, 1),
        }
        if videos:
            on_cpu["video_grid_thw"] = torch.tensor([item.grid for item in videos])
            on_cpu["pixel_values_videos"] = torch.cat([item.patches for item in videos])
        inputs = {name: tensor.to(self._device, non_blocking=True) for name, tensor in on_cpu.items()}
        if videos:  # step by step: a difference of bytes and floats takes twice as long
            pixels = inputs["pixel_values_videos"].float()
            inputs["pixel_values_videos"] = pixels.sub_(self._mean).div_(self._deviation)
        return inputs

    def collate_prompts(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """The whole prompts of all questions, on the device.

        Returns:
            ids: int64, shape (questions, tokens), padded on the left.
            mask: of the same shape; 0 where an id is padding.
            own: how many of the tokens come after the prefix, int64, shape (questions,).
            ends: the position of an answer's first token, int64, shape (questions,).
        """
        asked = [(prefix, question) for item in batch for prefix in item.prefixes for question in prefix.questions]
        ids, mask = self._padded([question.ids for _, question in asked])
        own = torch.tensor([len(question.ids) - len(prefix.ids) for prefix, question in asked])
        ends = own + torch.tensor([prefix.next_position for prefix, _ in asked])
        on_cpu = {"ids": ids, "mask": mask, "own": own, "ends": ends}
        return {name: tensor.to(self._device, non_blocking=True) for name, tensor in on_cpu.items()}

    def _padded(self, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids, padded on the left, and their mask."""
        length = max(map(len, rows))
        pad = self._processor.tokenizer.pad_token_id
        ids = torch.stack([functional.pad(row, (length - len(row), 0), value=pad) for row in rows])
        return ids, torch.stack([functional.pad(torch.ones_like(row), (length - len(row), 0)) for row in rows])

    def _grid(self, frames: Frames) -> tuple[int, int, int]:
        """Patches in time, height and width."""
        count, height, width, _ = frames.pixels.shape
        return -(-count // self._temporal), height // self._patch, width // self._patch

    def _layout(self, frames: Frames, grid: tuple[int, int, int]) -> str:
        """A video in a prompt, with a placeholder for each vision token."""
        start, end = self._processor.vision_start_token, self._processor.vision_end_token
        pads = self._processor.video_token * (grid[1] * grid[2] // self._merge**2)
        return "".join(f"<{when:.1f} seconds>{start}{pads}{end}" for when in self._times(frames))

    def _prompt(self, request: Request, layout: str) -> Prompt:
        prompt = Prompt.of(self._processor, request, self._switches)
        return prompt.with_video(self._processor.video_token, layout) if request.video else prompt

    def _times(self, frames: Frames) -> list[float]:
        """A time for each merged group of frames: the middle between its first and last."""
        step = self._temporal
        times = [*frames.timestamps, *[frames.timestamps[-1]] * (-len(frames.timestamps) % step)]
        return [(first + last) / 2 for first, last in zip(times[::step], times[step - 1 :: step], strict=True)]

    def _patches(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Frames cut into patches, those that are merged next to each other; an odd frame out is repeated."""
        odd = -len(pixels) % self._temporal
        if odd:
            pixels = np.concatenate([pixels, *[pixels[-1:]] * odd])
        count, height, width, colors = pixels.shape
        patch, merge, temporal = self._patch, self._merge, self._temporal
        rows, columns = height // (patch * merge), width // (patch * merge)
        cut = pixels.reshape(count // temporal, temporal, rows, merge, patch, columns, merge, patch, colors)
        return cut.transpose(0, 2, 5, 3, 6, 8, 1, 4, 7).reshape(-1, colors * temporal * patch**2)


_NO_PATCHES: Final = torch.empty(0, 0, dtype=torch.uint8)


def _common(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tokens with which all begin."""
    length = min(map(len, rows))
    table = torch.stack([row[:length] for row in rows])
    same = (table == table[0]).all(0)
    return rows[0][: length if bool(same.all()) else int((~same).to(torch.uint8).argmax())]
