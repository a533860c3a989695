"""Turns a row into requests: each task for each of its videos, with names in prompts filled in."""

import hashlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from reelscribe.claims import claims_in
from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.films import Film, passage_of
from reelscribe.schemas import Facts
from reelscribe.tasks import CLIP_FACTS, CLIPS, FAILED, Task
from reelscribe.templates import Part, filled, is_utf8, names_in, parts_of
from reelscribe.values import (
    ONE_TOKEN,
    Answer,
    Candidate,
    Caption,
    Clip,
    Failure,
    Outcome,
    Request,
    RequestId,
    Row,
)


def shard_hash_of(clips: Sequence[Clip]) -> int:
    """A hash of the clips' sources, which decides which shard their row is in; see `RowPlan.shard_hash`."""
    sources = [clip.source for clip in clips]
    if not all(clip.is_whole for clip in clips):
        sources = list(dict.fromkeys(sources))  # all stretches of a file are in one shard, in whatever rows
    return int.from_bytes(_digest(sources)[:8], "big")


@dataclass(frozen=True, kw_only=True)
class Subject:
    """A video of a row that tasks are asked about."""

    clip: Clip
    reference: str = ""
    """The original text that belongs to it."""


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """A row, and what to ask about it. `problem` is set if the row as a whole cannot be captioned."""

    index: int
    row: Row
    settings: Settings
    subjects: tuple[Subject, ...] = ()
    problem: Failure | None = None
    retry_settings: Settings | None = None
    """Settings that a retry asks with; None if they are those of the run."""
    known_shard_hash: int | None = None
    """The `shard_hash`, if the reader gave one."""

    @property
    def shard_hash(self) -> int:
        """Number that decides which shard the row is in: a hash of its videos as the row names them.

        So all machines agree, and a new row does not move others to other shards. For a row without videos it is the
        row's index.
        """
        if self.known_shard_hash is not None:
            return self.known_shard_hash
        return shard_hash_of([subject.clip for subject in self.subjects]) if self.subjects else self.index

    def asked(self) -> tuple[RequestId, ...]:
        """Ids of all requests: each task for each clip, then the tasks over the whole video."""
        tasks = self.settings.all_tasks
        of_clips = [
            RequestId(row=self.index, slot=slot, task=task.name)
            for slot in range(len(self.subjects))
            for task in tasks
            if not task.is_over_video
        ]
        over = [self.name_of(task, 0) for task in tasks if task.is_over_video and self.subjects]
        return (*of_clips, *over)

    def name_of(self, task: Task, slot: int | None) -> RequestId:
        """Id of a task's request about a clip, or about the whole video."""
        return RequestId(row=self.index, slot=0 if task.is_over_video else slot, task=task.name)

    def film(self, name: RequestId, outcomes: Mapping[RequestId, Outcome]) -> Film | Failure:
        """The answers about all clips of a video, for a task over the video. Clips without an answer are left out.

        Args:
            name: id of the task's request.
            outcomes: outcomes of all tasks that it comes after.
        """
        before = [_task(task, self.settings) for task in self.task(name).after]
        of_clips = [task for task in before if not task.is_over_video]
        passages, failures = [], []
        for slot, subject in enumerate(self.subjects):
            found = [outcomes[self.name_of(task, slot)] for task in of_clips]
            captions = [outcome for outcome in found if isinstance(outcome, Caption)]
            failures += [outcome for outcome in found if isinstance(outcome, Failure)]
            if captions:
                passages.append(passage_of(subject.clip, captions))
        if len({subject.clip.source for subject in self.subjects}) > 1:
            message = "a task over the video is about one, but the row has several."
            return Failure(id=name, video=None, kind="row", message=message)
        if not passages:
            message = f"of none of the clips is there an answer: {failures[0].message}"
            return Failure(id=name, video=self.subjects[0].clip.whole.name, kind="after", message=message)
        return Film(passages, self.task(name).part_chars)

    def task(self, name: RequestId) -> Task:
        """The task of a request."""
        return _task(name.task, self.settings)

    def request(self, name: RequestId, said: Mapping[str, Outcome], clips: str = "") -> Request | Failure:
        """Make the request with an id. Returns a failure if it cannot be made.

        Args:
            name: an id from `asked`, possibly with the number of a part.
            said: outcomes of the tasks that its task comes after, by their names. For a task over the video, only those
                of other tasks over the video.
            clips: for a task over the video: the text about its clips.
        """
        made = self._request(name, said, clips, self.settings)
        if self.retry_settings is None or isinstance(made, Failure):
            return made
        return replace(made, instead=self._request(name, said, clips, self.retry_settings))

    def kept_as_it_is(self, name: RequestId, said: Mapping[str, Outcome]) -> Caption | None:
        """The caption that a rewrite keeps unchanged, since no claim failed; None if the rewrite must be asked."""
        rewritten = self.task(name).rewrites
        if not rewritten or _failed_in(said) or any(isinstance(outcome, Failure) for outcome in said.values()):
            return None
        kept = said[rewritten]
        assert isinstance(kept, Caption)
        reason = f"the task {rewritten} as it is: no claim failed"
        return replace(kept, id=name, reason=reason, meta={**kept.meta, "reason": reason})

    def _request(
        self, name: RequestId, said: Mapping[str, Outcome], clips: str, settings: Settings
    ) -> Request | Failure:
        task, subject = _task(name.task, settings), self.subjects[name.slot or 0]
        if task.is_over_video:
            subject = replace(subject, clip=subject.clip.whole)
        try:
            _check_answers(said)
            parts = _own_prompt(self.row, task) or _filled(task.template, task, self.row, said, clips)
            given = _given(name, task, self.row, said)
        except ClipError as exc:
            return Failure(id=name, video=subject.clip.name, kind=exc.kind, message=str(exc))
        parts = (parts,) if isinstance(parts, str) else parts
        prompt = "".join(map(str, parts))
        seed = settings.seed if task.sampling.seed is None else task.sampling.seed
        clip = subject.clip
        stretch = [] if clip.is_whole else [f"{clip.start_seconds},{clip.end_seconds}"]
        digest = _digest((str(seed), clip.source, prompt, task.system_prompt or "", str(name.slot), *stretch))
        return Request(
            id=name,
            clip=clip,
            prompt=prompt,
            unfilled=parts if names_in(parts) else (),
            system_prompt=task.system_prompt,
            video=task.video,
            reference=subject.reference,
            num_captions=task.num_captions,
            keep=task.keep,
            judge=task.judge,
            verify=task.is_verified,
            given=given,
            times=task.times,
            checks=task.checks,
            tell_faults=task.tell_faults,
            scorer=task.scores_with,
            row=self.row if task.scores_with else {},
            sampling=ONE_TOKEN if given else task.sampling,
            schema=task.schema,
            seed=int.from_bytes(digest[:8], "big") >> 1,  # 63 bits: Arrow's int64, and so any reader, holds them
        )


def _task(name: str, settings: Settings) -> Task:
    return next(task for task in settings.all_tasks if task.name == name)


def _digest(parts: Iterable[str | bytes]) -> bytes:
    digest = hashlib.sha256()
    for part in parts:
        content = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return digest.digest()


def _check_answers(said: Mapping[str, Outcome]) -> None:
    """Raise ClipError of kind "after" if a task that this one depends on has no answer."""
    for name, outcome in said.items():
        if isinstance(outcome, Failure):
            raise ClipError("after", f"it comes after the task {name}, which has no answer: {outcome.message}")


def _failed_in(said: Mapping[str, Outcome]) -> str:
    """The failed claims of the tasks before, each once, one per line."""
    captions = (outcome for outcome in said.values() if isinstance(outcome, Caption))
    failed = (claim for caption in captions for claim in caption.meta.get("failed_claims", "").splitlines())
    return "\n".join(dict.fromkeys(failed))


def _given(name: RequestId, task: Task, row: Row, said: Mapping[str, Outcome]) -> Answer | None:
    """The text that a task verifies, as if it had been answered; None if it generates one.

    Raises:
        ClipError: kind "prompt", if the row lacks a named column, or the text has no words.
    """
    if task.verifies is None:
        return None
    parts = _filled(parts_of(task.verifies), task, row, said)
    for name_left in names_in(parts):
        raise ClipError("prompt", f"verifies has {{{name_left}}}, which is no column of the row.")
    text = "".join(map(str, parts)).strip()
    if not claims_in(text):
        raise ClipError("prompt", f"there is nothing to verify: {task.verifies} has no words.")
    return Answer(id=name, candidates=(Candidate(text=text, stop_reason="stop", num_tokens=None),), meta={})


def _filled(
    template: Sequence[Part], task: Task, row: Row, said: Mapping[str, Outcome], clips: str = ""
) -> tuple[Part, ...]:
    """Fill in all names in a task's template for a row, except facts of the clip.

    For a task over a video, `clips` is the text about its clips.

    Raises:
        ClipError: kind "prompt", if the row lacks a column that the template names.
    """

    def find(name: str) -> str | None:
        if name == CLIPS and task.is_over_video:
            return clips
        if name == FAILED and task.rewrites:
            return _failed_in(said)
        outcome = said.get(name)
        if isinstance(outcome, Caption):
            return outcome.kept_text
        if name in CLIP_FACTS and name not in row:
            return None
        return _told(row.get(name), name)

    return filled(template, find)


def _told(value: Any, name: str) -> str:
    """The value of a column as text for a prompt.

    Raises:
        ClipError: kind "prompt", if it is neither text nor a finite number.
    """
    if not isinstance(value, str | int | float) or (isinstance(value, float) and not math.isfinite(value)):
        got = "nothing" if value is None else type(value).__name__
        raise ClipError("prompt", f"the prompt has {{{name}}}, but the row's column {name!r} holds {got}.")
    text = str(value)
    if not is_utf8(text):
        raise ClipError("prompt", f"the prompt has {{{name}}}, but column {name!r} holds half a surrogate pair.")
    return text


def _own_prompt(row: Row, task: Task) -> str | None:
    """The row's own prompt. A blank one counts as none."""
    own = row.get(task.prompt_key) if task.prompt_key else None
    if own is not None and not isinstance(own, str):
        message = f"column {task.prompt_key!r} must hold the row's prompt as text; got {type(own).__name__}."
        raise ClipError("prompt", message)
    if own and not is_utf8(own):
        message = f"column {task.prompt_key!r} must hold the row's prompt as text; it holds half a surrogate pair."
        raise ClipError("prompt", message)
    return own if own and own.strip() else None


def with_facts(request: Request, facts: Facts) -> Request:
    """Fill the facts of a clip into the prompt of a request.

    Raises:
        ClipError: kind "prompt", if one is not known.
    """
    known = {
        "duration": None if facts.duration_seconds is None else round(facts.duration_seconds, 1),
        "width": facts.width,
        "height": facts.height,
        "fps": facts.fps,
    }
    parts = filled(request.unfilled, lambda name: None if known[name] is None else f"{known[name]:g}")
    for name in names_in(parts):
        raise ClipError("prompt", f"the prompt has {{{name}}}, which is not known of {request.clip.name}.")
    return replace(request, prompt="".join(map(str, parts)), unfilled=()) if request.unfilled else request
