"""Turning works into the inputs of a model.

The checkpoint's processor decides what they look like: its chat template, its tokenizer, and the tokens that stand for
a video. If our patches equal the processor's (see `families`), the processor gets only the shape of a video: the
pixels are cut into patches here, moved to the device as bytes, and converted to floats there.
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
"""The number of clip layouts that are cached. Each may take some 100 kB."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Question:
    """A request, tokenized."""

    request: Request
    ids: torch.Tensor
    """The tokens of the whole prompt, int64, shape (tokens,)."""
    longest_answer: int
    """The largest number of tokens that a candidate may need, including given candidates that are judged."""
    opens_thought: bool = False
    """Whether the prompt ends with the mark that opens a thought."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Prefix:
    """The tokens with which the prompts of some requests begin: at least all up to the end of the video."""

    ids: torch.Tensor
    """The tokens, int64, shape (tokens,)."""
    positions: torch.Tensor
    """The positions of the tokens, int64 or float32, shape (axes, tokens): one axis, or time, height and width."""
    next_position: float
    """The position of the token after the prefix, the same on all axes."""
    has_video: bool
    """Whether the video is among the tokens."""
    questions: tuple[Question, ...]
    """The questions whose prompts begin with the prefix. If there is only one, the prefix is its whole prompt, unless
    the question will be judged."""


@dataclass(frozen=True, kw_only=True, eq=False)
class ModelInputs:
    """One work as inputs of the model, ready to join a batch."""

    prefixes: tuple[Prefix, ...]
    """The different prefixes of the prompts. At least one, unless `only` has removed all requests."""
    layout: str
    """The text that stands for the video in a prompt."""
    video: Mapping[str, torch.Tensor]
    """The model's inputs for the video, by name. Empty if no prefix has the video. If the patches are ours, the pixels
    are uint8, shape (patches, colours x temporal x patch x patch)."""

    @property
    def nbytes(self) -> int:
        """The size of the video's tensors in bytes."""
        return sum(tensor.nbytes for tensor in self.video.values())

    @property
    def questions(self) -> list[Question]:
        """The questions of all prefixes."""
        return [question for prefix in self.prefixes for question in prefix.questions]

    @property
    def longest_prefix(self) -> int:
        """The number of tokens of the longest prefix."""
        return max(len(prefix.ids) for prefix in self.prefixes)

    @property
    def has_video(self) -> bool:
        """Whether any request asks about the video."""
        return any(prefix.has_video for prefix in self.prefixes)

    @property
    def has_sound(self) -> bool:
        """Whether the inputs include the sound of the video."""
        return SOUND in self.video

    def only(self, wanted: Collection[RequestId]) -> "ModelInputs":
        """A copy with only these requests."""
        prefixes = (
            replace(prefix, questions=tuple(each for each in prefix.questions if each.request.id in wanted))
            for prefix in self.prefixes
        )
        return replace(self, prefixes=tuple(prefix for prefix in prefixes if prefix.questions))


def most_tokens(batch: Sequence[ModelInputs], *, shared: bool = True, row_tokens: int = 0) -> int:
    """The largest number of tokens that the cache may hold for a batch.

    That is the prefixes, padded to the longest, and the candidates, padded to the longest. A candidate has its
    question's own tokens and its answer, or its whole prompt and its answer if prefixes are not shared. A candidate
    that is judged counts twice, since the judge's question takes about as many tokens meanwhile. If its claims are
    judged too, it counts once more, since each claim has a question of its own.

    Args:
        batch: the works.
        shared: whether candidates share the prefix of their prompts.
        row_tokens: the number of tokens that take as much memory as a candidate's states; see `CacheCost.row_tokens`.
    """
    if not shared:
        asked = [each for item in batch for each in item.questions]
        return sum(each.request.num_captions * (len(each.ids) + each.longest_answer + row_tokens) for each in asked)
    prefixes = [prefix for item in batch for prefix in item.prefixes]
    own = [
        (
            each.request.num_captions * (1 + bool(each.request.judge) + each.request.verify),
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
    """Builds the inputs of one checkpoint's model.

    Args:
        processor: the checkpoint's processor.
        family: how the checkpoint takes a video.
        rules: fills in the checkpoint's sampling defaults, such as the length of answers, and compiles schemas.
        positions: finds the positions of tokens; see `Positions`.
        device: the device that inputs are moved to.
        switches: variables for the chat template that turn thinking on or off.
        context: the largest number of tokens of a prompt and its answer; None if that is not known.
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
        """Variables for the chat template of a judge's question: a judge answers yes or no without thinking."""
        self._rules = rules
        self._positions = positions
        self._device = device
        self._layouts: dict[Any, Shown] = {}
        self._scales = family.cut.scales(device) if family.cut else None

    @property
    def cuts(self) -> bool:
        """Whether patches are cut here, and not by the processor."""
        return self._scales is not None

    @cached_property
    def yes_no(self) -> YesNo:
        """The tokens with which the model says yes and no."""
        return YesNo(self._processor.tokenizer)

    def prepare(self, item: Work) -> ModelInputs:
        """Build the inputs for a work. All tensors are on the CPU.

        Raises:
            ValueError: frames are not of a size that the model takes.
            SettingsError: a request's schema cannot be enforced, its prompt leaves no room for an answer, or it cannot
                be judged.
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
        """Check that a judge's question can branch off from the request's prefix.

        Raises:
            SettingsError: it cannot.
        """
        judging = self._judging_ids(request, layout, "?")
        before = self._up_to_video(ids)
        if tuple(judging[: len(before)]) != before or len(judging) == len(before):
            raise SettingsError("a judge needs a chat template that puts the video before the question.")
        if not (self.yes_no.yes and self.yes_no.no):
            raise SettingsError("a judge needs a tokenizer whose words yes and no begin otherwise.")
        if opens_thought(self._processor.tokenizer, judging):
            raise SettingsError("a judge is asked for one word, and this model thinks before it answers.")

    def _judging_ids(self, request: Request, layout: str, caption: str) -> list[int]:
        prompt = self._prompt(request.judging(caption), layout, judges=True)
        return prompt.ids(self._processor.tokenizer)

    def judging(self, item: ModelInputs, asked: RequestId, captions: Sequence[str]) -> ModelInputs:
        """Build the inputs to judge captions of a request: the request's prefix, and a question for each caption.

        Args:
            item: the work that has the request.
            asked: the request.
            captions: the texts to judge.

        Raises:
            ValueError: the work does not have the request.
        """
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
            self._rules.constraints.begin(request.schema)  # compile it now, so that no decoding step waits for that
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
            longest_answer=longest + self._tokens_given(request),
            # An answer that matches a schema cannot contain a thought.
            opens_thought=not request.schema and opens_thought(self._processor.tokenizer, ids),
        )

    def _tokens_given(self, request: Request) -> int:
        """The number of tokens of the candidates that the request itself brings, to be judged."""
        texts = [candidate.text for candidate in request.given.candidates] if request.given else []
        return sum(len(self._processor.tokenizer(text, add_special_tokens=False)["input_ids"]) for text in texts)

    def _shown(self, frames: Frames) -> Shown:
        """Show a clip to the processor; see `Family.show`.

        If patches are cut here and there is no sound, the result depends only on the size and the times, and is cached.
        """
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
        """The tokens up to the last one of the video; all tokens if there is no video.

        This includes a mark after the last frame if its kind is that of the frames, since frames may attend to it.
        """
        video = {self._family.placeholder, *(token for kinds in self._family.kinds.values() for token in kinds)}
        last = max((place for place, token in enumerate(ids) if token in video), default=len(ids) - 1)
        return tuple(ids[: last + 1])

    def _prefix(self, up_to_video: Sequence[int], questions: Sequence[Question], shown: Shown) -> Prefix:
        """The tokens that the prompts of these questions have in common.

        If one of the questions will be judged, the prefix ends with the video, so that the judge's question can branch
        off from it.
        """
        ids = _common([question.ids for question in questions])
        if any(question.request.judge for question in questions):
            ids = ids[: len(up_to_video)]
        has_video = bool((ids == self._family.placeholder).any())
        # One more token shows the next position: after a video it does not always follow the last one.
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
        """The tensors that say of what kind each token is, by name; each of the shape of `ids`."""
        made = {}
        for name, kinds in self._family.kinds.items():
            made[name] = torch.zeros_like(ids)
            for token, kind in kinds.items():
                made[name][ids == token] = kind
        return made

    def collate(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """The model's inputs for the prefill of all prefixes of a batch, on the device, by name.

        These are ids, attention mask, positions and kinds of tokens, with a row for each prefix, padded on the left,
        and the inputs for the video of each work that shows it, concatenated.
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
        for name in videos[0] if videos else ():  # joined on the device: on the CPU the result would not be pinned
            inputs[name] = torch.cat([moved(video[name], self._device) for video in videos])
        if videos and self._scales:
            inputs[PIXELS[0]] = floats(inputs[PIXELS[0]], self._scales)
        return inputs

    def collate_prompts(self, batch: Sequence[ModelInputs]) -> dict[str, torch.Tensor]:
        """The whole prompts of all questions of a batch.

        Returns:
            ids: the tokens, int64, shape (questions, tokens), padded on the left, on the device.
            mask: int64, of the same shape, on the CPU; 0 where an id is padding.
            own: the number of tokens after the prefix, int64, shape (questions,), on the CPU.
            ends: the position of each answer's first token, of the dtype of positions, shape (questions,), on the
                device.
        """
        asked = [(prefix, question) for item in batch for prefix in item.prefixes for question in prefix.questions]
        ids, mask = self._padded([question.ids for _, question in asked])
        own = torch.tensor([len(question.ids) - len(prefix.ids) for prefix, question in asked])
        ends = own + torch.tensor([prefix.next_position for prefix, _ in asked])
        return {"ids": moved(ids, self._device), "mask": mask, "own": own, "ends": moved(ends, self._device)}

    def _padded(self, rows: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
        """Stack ids, padded on the left. Returns them and their mask, both int64, shape (rows, tokens)."""
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
    """The tokens with which all rows begin."""
    length = min(map(len, rows))
    table = torch.stack([row[:length] for row in rows])
    same = (table == table[0]).all(0)
    return rows[0][: length if bool(same.all()) else int((~same).to(torch.uint8).argmax())]
