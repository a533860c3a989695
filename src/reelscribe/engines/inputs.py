"""Works to what a model is fed.

The checkpoint's processor says how: its chat template and tokenizer, and what stands in a prompt for a video. Where our
patches are its own (see `families`), it sees the shape of a video alone: bytes are cut into patches here, moved to the
device as they are, and turned to floats once, there.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import torch
from torch.nn import functional

from reelscribe.engines.families import PIXELS, SOUND, Family, Shown
from reelscribe.engines.judging import YesNo
from reelscribe.engines.moving import moved, pinned
from reelscribe.engines.patches import floats
from reelscribe.engines.prompt import Prompt
from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.thinking import opens_thought
from reelscribe.errors import SettingsError
from reelscribe.values import Frames, Request, RequestId, Work

_LAYOUTS: Final = 64
"""How clips were laid out in a prompt that are remembered: each may take some 100 kB."""


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
    """Theirs, int64 or float32, shape (axes, tokens): one axis, or time, height and width."""
    next_position: float
    """Of the token that comes next, the same on all axes."""
    has_video: bool
    questions: tuple[Question, ...]
    """Whose prompts begin with it. A prompt that is alone with its prefix is all prefix."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInputs:
    """One work, ready to go into a batch."""

    prefixes: tuple[Prefix, ...]
    """At least one, unless all requests were taken out."""
    layout: str
    """What stands in a prompt for the video."""
    video: Mapping[str, torch.Tensor]
    """What the model is fed of the video, by name; nothing if no prefix has it. If they are ours, its pixels are
    patches, uint8, shape (patches, colours x temporal x patch x patch)."""

    @property
    def nbytes(self) -> int:
        """Of the video."""
        return sum(tensor.nbytes for tensor in self.video.values())

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

    @property
    def has_sound(self) -> bool:
        """Whether the model is fed the sound of the video, too."""
        return SOUND in self.video

    def only(self, wanted: Collection[RequestId]) -> "ModelInputs":
        """The same for some of the requests."""
        prefixes = (
            replace(prefix, questions=tuple(each for each in prefix.questions if each.request.id in wanted))
            for prefix in self.prefixes
        )
        return replace(self, prefixes=tuple(prefix for prefix in prefixes if prefix.questions))


def most_tokens(batch: Sequence[ModelInputs], *, shared: bool = True, row_tokens: int = 0) -> int:
    """Tokens that the cache may come to hold for a batch: prefixes, and candidates, each as long as the longest.

    A candidate has its question's own tokens and its answer; if prefixes are not shared, its whole prompt. Where it is
    judged, about as much comes to it for the time that takes.

    Args:
        batch: of works.
        shared: whether candidates share the prefix of their prompts.
        row_tokens: as many as take the memory of a candidate's states; see `CacheCost.row_tokens`.
    """
    if not shared:
        asked = [each for item in batch for each in item.questions]
        return sum(each.request.num_captions * (len(each.ids) + each.longest_answer + row_tokens) for each in asked)
    prefixes = [prefix for item in batch for prefix in item.prefixes]
    own = [
        (
            each.request.num_captions * (2 if each.request.judge else 1),
            len(each.ids) - len(prefix.ids) + each.longest_answer + row_tokens,
        )
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
        family: how the checkpoint takes a video.
        rules: the checkpoint's, by which answers are as long as they may be.
        positions: where tokens stand; see `Positions`.
        device: where the model is.
        switches: variables of its chat template.
        context: most tokens of a prompt and its answer; None if that is not known.
        shares: whether requests about a clip share a prefix.
    """

    def __init__(
        self,
        processor: Any,
        family: Family,
        rules: TokenRules,
        positions: Callable[[torch.Tensor, Mapping[str, torch.Tensor]], torch.Tensor],
        device: torch.device,
        switches: Mapping[str, bool] | None = None,
        context: int | None = None,
        shares: bool = True,
    ) -> None:
        self._context = context
        self._shares = shares
        self._processor = processor
        self._family = family
        self._switches = switches
        self._judging_switches = dict.fromkeys(switches or {}, False)
        """A judge says yes or no at once."""
        self._rules = rules
        self._positions = positions
        self._device = device
        self._layouts: dict[Any, Shown] = {}
        self._scales = family.cut.scales(device) if family.cut else None

    @property
    def cuts(self) -> bool:
        """Whether the patches are ours."""
        return self._scales is not None

    @cached_property
    def yes_no(self) -> YesNo:
        """What a judge may answer."""
        return YesNo(self._processor.tokenizer)

    def prepare(self, item: Work) -> ModelInputs:
        """A work as the model is fed it. Nothing is on the device yet.

        Raises:
            ValueError: frames are not of a size that the model takes.
            SettingsError: a request's schema cannot be enforced, or its prompt leaves no room for an answer.
            MissingExtraError: the extra `structured` is not installed, and the request has a schema.
        """
        shows = any(request.video for request in item.requests)
        shown = self._shown(item.frames) if shows else _NOTHING
        alike: dict[Any, list[Question]] = {}
        for request in item.requests:
            ids = self._prompt(request, shown.layout).ids(self._processor.tokenizer)
            alike.setdefault(self._up_to_video(ids) if self._shares else request.id, []).append(
                self._question(request, ids)
            )
            if request.judge:
                self._check_judging(request, shown.layout, ids)
        video = dict(shown.tensors)
        if shows and self._family.cut:
            video[PIXELS[0]] = torch.from_numpy(self._family.cut.patches(item.frames.pixels))
        video = {name: pinned(tensor, self._device) for name, tensor in video.items()}
        prefixes = tuple(self._prefix(*each, shown) for each in alike.items())
        return ModelInputs(prefixes=prefixes, layout=shown.layout, video=video)

    def _check_judging(self, request: Request, layout: str, ids: list[int]) -> None:
        """See that a judge can go on from what the request shares with others.

        Raises:
            SettingsError: it cannot.
        """
        judging = self._judging_ids(request, layout, "?")
        before = self._up_to_video(ids)
        if tuple(judging[: len(before)]) != before or len(judging) == len(before):
            raise SettingsError('keep = "judged" needs a chat template that puts the video before the question.')
        if not (self.yes_no.yes and self.yes_no.no):
            raise SettingsError('keep = "judged" needs a tokenizer whose words yes and no begin otherwise.')
        if opens_thought(self._processor.tokenizer, judging):
            raise SettingsError('keep = "judged" asks for one word, and this model thinks before it answers.')

    def _judging_ids(self, request: Request, layout: str, caption: str) -> list[int]:
        prompt = self._prompt(request.judging(caption), layout, judges=True)
        return prompt.ids(self._processor.tokenizer)

    def judging(self, item: ModelInputs, asked: RequestId, captions: Sequence[str]) -> ModelInputs:
        """What the model is fed to judge captions of a request: its prefix, and a question for each caption."""
        for prefix in item.prefixes:
            for question in prefix.questions:
                if question.request.id == asked:
                    request = question.request
                    questions = tuple(
                        Question(
                            request=request.judging(caption),
                            ids=torch.tensor(self._judging_ids(request, item.layout, caption)),
                            longest_answer=1,
                        )
                        for caption in captions
                    )
                    return replace(item, prefixes=(replace(prefix, questions=questions),))
        raise ValueError(f"{asked} is not of this work.")

    def _question(self, request: Request, ids: list[int]) -> Question:
        if request.schema:
            self._rules.constraints.begin(request.schema)  # compiles it here, and not between two steps
        longest = self._rules.resolve(request.sampling, request.num_captions).max_tokens or 0
        if self._context:
            longest = min(longest, self._context - len(ids))
        if longest < 1:
            raise SettingsError(
                f"its prompt has {len(ids):,} tokens, and the model has room for {self._context:,} with the answer: "
                "lower max_video_tokens, shorten the prompt, or caption shorter clips (--split)."
            )
        return Question(
            request=replace(request, sampling=replace(request.sampling, max_tokens=longest)),
            ids=torch.tensor(ids),
            longest_answer=longest,
            # An answer that keeps to a schema has no room for a thought.
            opens_thought=not request.schema and opens_thought(self._processor.tokenizer, ids),
        )

    def _shown(self, frames: Frames) -> Shown:
        """A clip as the processor makes it. Without pixels it is the same for all clips of the same size and times."""
        if not self.cuts or frames.has_sound:
            return self._family.show(self._processor, frames)
        key = frames.pixels.shape, frames.timestamps, frames.duration_seconds
        shown = self._layouts.get(key)
        if shown is None:
            if len(self._layouts) >= _LAYOUTS:
                self._layouts.clear()
            shown = self._layouts[key] = self._family.show(self._processor, frames)
        return shown

    def _up_to_video(self, ids: list[int]) -> tuple[int, ...]:
        """The tokens up to the last one of the video; all, if there is none.

        A mark behind its last frame that is of the same kind is one of them: frames may attend to it.
        """
        video = {self._family.placeholder, *(token for kinds in self._family.kinds.values() for token in kinds)}
        last = max((place for place, token in enumerate(ids) if token in video), default=len(ids) - 1)
        return tuple(ids[: last + 1])

    def _prefix(self, up_to_video: Sequence[int], questions: Sequence[Question], shown: Shown) -> Prefix:
        """What these have in common; no more than all up to the video, where a judge is to go on from that."""
        ids = _common([question.ids for question in questions])
        if any(question.request.judge for question in questions):
            ids = ids[: len(up_to_video)]
        has_video = bool((ids == self._family.placeholder).any())
        # A word more shows where the next one stands: after a video it is not always after the last position.
        longer = torch.cat([ids, ids.new_tensor([self._processor.tokenizer.eos_token_id])])
        beside = {name: kinds[None] for name, kinds in self._kinds(longer).items()}
        positions = self._positions(longer, {**beside, **(shown.tensors if has_video else {})})
        return Prefix(
            ids=ids,
            positions=positions[:, :-1],
            next_position=positions[0, -1].item(),
            has_video=has_video,
            questions=tuple(questions),
        )

    def _kinds(self, ids: torch.Tensor) -> dict[str, torch.Tensor]:
        """What the processor says of each token, by name; of the shape of ids."""
        made = {}
        for name, kinds in self._family.kinds.items():
            made[name] = torch.zeros_like(ids)
            for token, kind in kinds.items():
                made[name][ids == token] = kind
        return made

    def collate(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """What a batch's prefill takes, on the device: ids of all prefixes, mask, positions and kinds of tokens.

        What is shorter is padded on the left. If there are videos, also what the model is fed of them, once for each
        work.
        """
        prefixes = [prefix for item in batch for prefix in item.prefixes]
        videos = [item.video for item in batch if item.has_video]
        ids, mask = self._padded([prefix.ids for prefix in prefixes])
        length = ids.shape[1]
        positions = torch.stack(
            [functional.pad(each.positions, (length - len(each.ids), 0), value=1) for each in prefixes], 1
        )
        on_cpu = {
            "input_ids": ids,
            "attention_mask": mask,
            "position_ids": positions if len(positions) > 1 else positions[0],
            **self._kinds(ids),
        }
        inputs = {name: moved(tensor, self._device) for name, tensor in on_cpu.items()}
        for name in videos[0] if videos else ():  # put together on the device: to do so here would unpin them
            inputs[name] = torch.cat([moved(video[name], self._device) for video in videos])
        if videos and self._scales:
            inputs[PIXELS[0]] = floats(inputs[PIXELS[0]], self._scales)
        return inputs

    def collate_prompts(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """The whole prompts of all questions.

        Returns:
            ids: int64, shape (questions, tokens), padded on the left, on the device.
            mask: of the same shape, on the CPU; 0 where an id is padding.
            own: how many of the tokens come after the prefix, int64, shape (questions,), on the CPU.
            ends: the position of an answer's first token, of the dtype of positions, shape (questions,), on the device.
        """
        asked = [(prefix, question) for item in batch for prefix in item.prefixes for question in prefix.questions]
        ids, mask = self._padded([question.ids for _, question in asked])
        own = torch.tensor([len(question.ids) - len(prefix.ids) for prefix, question in asked])
        ends = own + torch.tensor([prefix.next_position for prefix, _ in asked])
        return {"ids": moved(ids, self._device), "mask": mask, "own": own, "ends": moved(ends, self._device)}

    def _padded(self, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids, padded on the left, and their mask."""
        length = max(map(len, rows))
        pad = self._processor.tokenizer.pad_token_id
        ids = torch.stack([functional.pad(row, (length - len(row), 0), value=pad) for row in rows])
        return ids, torch.stack([functional.pad(torch.ones_like(row), (length - len(row), 0)) for row in rows])

    def _prompt(self, request: Request, layout: str, *, judges: bool = False) -> Prompt:
        switches = self._judging_switches if judges else self._switches
        prompt = Prompt.of(self._processor, self._family, request, switches)
        return prompt.with_video(self._family.mark, layout) if request.video else prompt


_NOTHING: Final = Shown(layout="", tensors={})


def _common(rows: Sequence[torch.Tensor]) -> torch.Tensor:
    """The tokens with which all begin."""
    length = min(map(len, rows))
    table = torch.stack([row[:length] for row in rows])
    same = (table == table[0]).all(0)
    return rows[0][: length if bool(same.all()) else int((~same).to(torch.uint8).argmax())]
