"""Tasks: the questions about each clip, and which of them need the answers to others."""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, get_args

from reelscribe.checks import Checks
from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.events import Times, list_of
from reelscribe.sampling_params import SamplingParams
from reelscribe.schemas import READY, Schema
from reelscribe.scores import Scorer
from reelscribe.templates import Name, Part, is_utf8, joined, names_in, parts_of

Keep = Literal["random_any", "similar_one_simhash", "consensus", "likeliest", "judged", "scored", "all"]
ColumnKind = Literal["text", "candidates", "meta", "failure"]

COLUMN_KINDS: Final[tuple[ColumnKind, ...]] = get_args(ColumnKind)
DEFAULT_TASK: Final = "caption"
"""Name of the one task of a run that names none."""
DEFAULT_PROMPT: Final = "Describe the input video in 1-2 sentences."
DEFAULT_JUDGE_PROMPT: Final = "Is this statement true: {caption} Answer yes or no."
"""The built-in model was trained on this question, among others, so it can judge, too."""
_CAPTION: Final = "caption"
"""Name in a judge's prompt that stands for the candidate."""
CLIPS: Final = "clips"
"""Name in the prompt of a task over a whole video that stands for the answers about its clips."""
FAILED: Final = "failed"
"""Name in the prompt of a rewrite that stands for the claims that failed, each on a line."""
_DEFAULT_REWRITE: Final = """Write this caption again without what is not true. Change nothing else, and add nothing.

Caption: {{{task}}}

Not true:
{{failed}}"""
"""Filled with the name of the task whose caption is rewritten."""
DEFAULT_PROMPT_FOR_TIMES: Final = (
    "List the events of the video in order, each on a line with its times, as: 0.0-2.5 s: what happens"
)
CLIP_FACTS: Final = ("duration", "width", "height", "fps")
"""Names in a prompt that stand for facts of the clip's file, unless a column or task has that name: seconds, pixels as
shown, frames a second."""
_NAME: Final = re.compile(r"[^\W\d]\w*")
_STRUCTURED_TOKENS: Final = 2048
"""Default limit of tokens for an answer with a schema. It is high, since an answer that is cut off is no JSON."""


@dataclass(frozen=True, kw_only=True)
class Task:
    """One question about each clip."""

    name: str = DEFAULT_TASK
    """Name of its column. Prompts of other tasks refer to its answer by this name."""
    prompt: str | None = None
    """A template, see `reelscribe.templates`. None or blank: the schema's own prompt, or else a default."""
    prompt_key: str | None = None
    """Column with a row's own prompt, which is used as it is: braces have no meaning in it."""
    system_prompt: str | None = None
    num_captions: int = 1
    keep: str = "random_any"
    judge_prompt: str | None = None
    """With keep "judged" or `verify`: the question about each candidate or claim, a template with {caption}. None for
    the default."""
    verify: bool = False
    """Whether the claims of each candidate are judged. Those of a text stage are not; see `is_verified`."""
    verifies: str | None = None
    """A template for a text that exists already, whose claims are judged. Then nothing is generated."""
    rewrites: str | None = None
    """Name of the task whose caption this text stage writes again without the claims that failed."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    schema: Schema | None = None
    after: tuple[str, ...] = ()
    """Tasks that must be answered first. The prompt may name their kept text."""
    video: bool = True
    """Whether the clip is shown; False for a text stage."""
    over: str = "clip"
    """"clip": asked about each clip. "video": asked once about a whole video, from the answers about its clips."""
    part_chars: int = 20_000
    """Maximum characters of clips' answers in one prompt. If there are more, parts are summed up first."""
    times: Times = False
    """Whether an answer is read as events with times. They are moved to the file's clock."""
    checks: Checks = field(default_factory=Checks)
    """What answers are checked for."""
    tell_faults: bool = False
    """Whether a second try is told what was wrong with the first."""
    scorer: str | None = None
    """`module:name` of a scorer of candidates; None or empty for none. A text stage has none."""
    scorer_params: Mapping[str, Any] = field(default_factory=dict)
    """Keywords for the scorer."""
    engine: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the task's own model and engine that differ from the run's: for a text stage, or with `verifies`."""

    @cached_property
    def template(self) -> tuple[Part, ...]:
        """The prompt in parts."""
        if self.verifies is not None:
            asked, text = parts_of(self.judge), parts_of(self.verifies)
            return joined([each for part in asked for each in (text if part == Name(_CAPTION) else (part,))])
        if self.prompt and self.prompt.strip():
            return parts_of(self.prompt)
        if self.rewrites:
            return parts_of(_DEFAULT_REWRITE.format(task=self.rewrites))
        if self.schema:
            return (self.schema.default_prompt,)
        return (DEFAULT_PROMPT_FOR_TIMES if self.times else DEFAULT_PROMPT,)

    @cached_property
    def names(self) -> tuple[str, ...]:
        """Names in the prompt that are no other tasks: columns, or facts of the clip."""
        given = (*self.after, *((CLIPS,) if self.is_over_video else ()), *((FAILED,) if self.rewrites else ()))
        return tuple(name for name in names_in(self.template) if name not in given)

    @property
    def judge(self) -> str:
        """The judge's question about each candidate or claim; empty if there is no judge."""
        judges = self.keep == "judged" or self.is_verified
        return (self.judge_prompt or DEFAULT_JUDGE_PROMPT) if judges else ""

    @property
    def is_verified(self) -> bool:
        """Whether the claims of its candidates are judged."""
        return self.video and (self.verify or self.verifies is not None)

    @property
    def is_over_video(self) -> bool:
        """Whether it has one answer for a video, whatever the number of clips."""
        return self.over == "video"

    @property
    def scores_with(self) -> Scorer | None:
        """The scorer of its candidates."""
        return Scorer(place=self.scorer, params=self.scorer_params) if self.scorer and self.video else None

    def column(self, kind: ColumnKind) -> str:
        """Name of a column that the task adds."""
        return self.name if kind == "text" else f"{self.name}_{kind}"


_KEYS: Final = tuple(item.name for item in fields(Task) if item.name != "name")


def tasks_of(tables: Mapping[str, Any], base: Task) -> tuple[Task, ...]:
    """The tasks that tables of settings describe, in an order in which each comes after those that it needs.

    Args:
        tables: settings of each task, by name. If empty, `base` is the only task.
        base: the settings that all tasks share.

    Raises:
        SettingsError: a name or a key is wrong, or a task would come after itself.
    """
    if not tables:
        return (_checked(base),)
    for option in ("prompt", "prompt_key", "schema"):
        if getattr(base, option) is not None:
            raise SettingsError(f"{option} is that of one task, and there are tasks: set it in [tasks.NAME].")
    return _in_order({name: _read(name, table, base) for name, table in tables.items()})


def _read(name: str, table: Any, base: Task) -> Task:
    if not isinstance(name, str) or not _NAME.fullmatch(name) or name.startswith("__"):
        raise SettingsError(f"a task's name is made of letters, digits and _, as a column's; got {name!r}.")
    if isinstance(table, str):
        table = {"prompt": table}
    if not isinstance(table, Mapping):
        raise SettingsError(f"tasks.{name} must be a table, or a prompt; got {table!r}.")
    for key in table:
        if key not in _KEYS:
            raise SettingsError(f"tasks.{name} has the unknown key {key!r}; {did_you_mean(key, _KEYS)}")
    values = {key: value for key, value in table.items() if value is not None}
    if "scorer" in values:
        values.setdefault("scorer_params", {})  # those of all tasks are for another one
    if "rewrites" in values:
        values = {"video": False, "after": [values["rewrites"]], **values}
    for key in ("num_captions", "sampling", "times"):
        if "verifies" in values and key in values:
            raise SettingsError(f"tasks.{name}: verifies names a text that is there already, so {key} must not be set.")
    if values.get("verify") and not values.get("video", True):
        raise SettingsError(f"tasks.{name}: verify asks about the clip, which a task without the video is not shown.")
    try:
        return _checked(replace(base, name=name, **{key: _value(name, key, values[key], base) for key in values}))
    except SettingsError as exc:
        raise SettingsError(f"tasks.{name}: {exc}") from exc


def _value(name: str, key: str, value: Any, base: Task) -> Any:
    """Convert a value of a table to what a task holds."""
    if key == "sampling":
        own = SamplingParams.parse(_held(key, value, Mapping, "a table"))
        return SamplingParams.parse({**base.sampling.told(), **own.told()})
    if key == "checks":
        return Checks.of(_held(key, value, Mapping, "a table"), base.checks)
    if key == "after":
        names = [value] if isinstance(value, str) else value
        if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
            raise SettingsError(f"after must be a list of names of tasks; got {value!r}.")
        return tuple(names)
    if key in ("num_captions", "part_chars") and (type(value) is not int or value < 1):
        raise SettingsError(f"{key} must be a whole number of at least 1; got {value!r}.")
    if key == "times":
        if not isinstance(value, bool) and value != "overlapping":
            raise SettingsError(f'times must be true, false or "overlapping"; got {value!r}.')
        return value
    return read_schema(value, name) if key == "schema" else _held(key, value, *_HELD.get(key, (str, "text")))


_HELD: Final[Mapping[str, tuple[type, str]]] = {
    "engine": (Mapping, "a table of settings of a model"),
    "num_captions": (int, "a whole number"),
    "part_chars": (int, "a whole number"),
    "scorer_params": (Mapping, "a table of keywords"),
    "tell_faults": (bool, "true or false"),
    "verify": (bool, "true or false"),
    "video": (bool, "true or false"),
}
"""Types of a table's values, and their names in errors. Other keys hold text."""


def _held(key: str, value: Any, kind: type, words: str) -> Any:
    if not isinstance(value, kind):
        raise SettingsError(f"{key} must be {words}; got {value!r}.")
    return value


def read_schema(given: Any, task: str = DEFAULT_TASK) -> Schema:
    """The schema that a task's setting names or contains.

    Raises:
        SettingsError: there is none, or it cannot be used.
    """
    if not isinstance(given, str | Mapping):
        raise SettingsError(f"schema must be {', '.join(READY)}, a .json file, or a table; got {given!r}.")
    return Schema.of(given, folder=Path(), name=task)


def _checked(task: Task) -> Task:
    for name in ("prompt", "system_prompt", "judge_prompt", "verifies"):
        if not is_utf8(getattr(task, name) or ""):
            raise SettingsError(f"{name} must be text in UTF-8; got {getattr(task, name)!r}.")
    _check_choice(task)
    _check_claims(task)
    if not task.video and not (task.prompt or "").strip() and task.prompt_key is None and not task.rewrites:
        raise SettingsError("a task without the video needs a prompt.")
    if task.over not in ("clip", "video"):
        raise SettingsError(f"over must be clip or video; got {task.over!r}.")
    if task.is_over_video and task.video:
        raise SettingsError("a task over the video is not shown it: set video = false.")
    if task.is_over_video and not (task.after and CLIPS in names_in(task.template)):
        raise SettingsError(
            "a task over the video comes after tasks of its clips, whose texts are {clips} in its prompt."
        )
    if task.video and task.engine and task.verifies is None:
        raise SettingsError(
            "only a task without the video (video = false), or with verifies, can have an engine of its own."
        )
    if task.verifies is not None:
        task = replace(task, num_captions=1)  # the text that is there
    if task.times and task.schema and list_of(task.schema) is None:
        raise SettingsError(
            "times needs a schema with one list of objects that have start, end and text, by these names; "
            f"{task.schema.name} has none, or several."
        )
    if task.schema and task.sampling.max_tokens is None:
        return replace(task, sampling=replace(task.sampling, max_tokens=_STRUCTURED_TOKENS))
    return task


def _check_choice(task: Task) -> None:
    """Raise SettingsError if candidates cannot be chosen as a task says."""
    if task.keep not in get_args(Keep):
        raise SettingsError(f"keep must be one of {', '.join(get_args(Keep))}; got {task.keep!r}.")
    if task.keep == "scored" and task.scores_with is None:
        why = "set scorer" if task.video else "a task without the video has no frames to score with"
        raise SettingsError(f"keep is scored, but there is no scorer: {why}.")
    if task.scorer_params and not task.scorer:
        raise SettingsError("scorer_params are for a scorer, and there is none: set scorer.")
    if task.judge_prompt is not None and names_in(parts_of(task.judge_prompt)) != (_CAPTION,):
        raise SettingsError(
            "judge_prompt must have {caption} where a candidate belongs, and no other name; got "
            f"{task.judge_prompt!r}."
        )
    if task.keep == "judged" and not task.video:
        raise SettingsError('keep = "judged" asks about the clip, which a task without the video is not shown.')


def _check_claims(task: Task) -> None:
    """Raise SettingsError if claims cannot be judged, or taken out, as a task says."""
    if task.is_verified and task.schema:
        raise SettingsError("verify judges sentences of plain text, and there is a schema: set verify = false.")
    if task.verifies is not None:
        if not task.video:
            raise SettingsError("verifies asks about the clip: set video = true.")
        beside = [key for key in ("prompt", "prompt_key", "rewrites") if getattr(task, key) is not None]
        if beside:
            raise SettingsError(f"verifies names a text that is there already, so {beside[0]} must not be set.")
        if not names_in(parts_of(task.verifies)):
            raise SettingsError(
                "verifies must name a column of the rows, or a task that it comes after, as {text}; got "
                f"{task.verifies!r}."
            )
    if task.rewrites is None:
        return
    if task.video or task.is_over_video:
        raise SettingsError("rewrites is for a text stage about each clip: leave out video and over.")
    if task.rewrites not in task.after:
        raise SettingsError(f"rewrites names {task.rewrites!r}, which must be in after.")
    if task.prompt_key is not None or not {task.rewrites, FAILED} <= set(names_in(task.template)):
        raise SettingsError(f"the prompt of a rewrite must have {{{task.rewrites}}} and {{{FAILED}}} in it.")


def _in_order(tasks: Mapping[str, Task]) -> tuple[Task, ...]:
    """Sort tasks so that each comes after those that it needs; otherwise their order stays."""
    for task in tasks.values():
        for name in task.after:
            if name not in tasks:
                raise SettingsError(f"tasks.{task.name}: after names {name!r}; {did_you_mean(name, list(tasks))}")
        for name in task.names:
            if name in tasks:
                hint = "" if name == task.name else "put that into its after; or, "
                hint += f"if a column of the rows is meant, give the task {name} another name."
                raise SettingsError(f"tasks.{task.name}: its prompt names the task {name}; {hint}")
    made: dict[str, Task] = {}
    while len(made) < len(tasks):
        ready = [task for name, task in tasks.items() if name not in made and made.keys() >= set(task.after)]
        if not ready:
            left = " and ".join(name for name in tasks if name not in made)
            raise SettingsError(f"after goes in a circle: none of the tasks {left} can be the first.")
        made |= {task.name: task for task in ready}
    _check_rewrites(made)
    _check_columns(made.values())
    return tuple(made.values())


def _check_rewrites(tasks: Mapping[str, Task]) -> None:
    """Raise SettingsError if a rewrite comes after no task that is verified."""
    for task in tasks.values():
        if task.rewrites and not any(tasks[name].is_verified for name in task.after):
            raise SettingsError(
                f"tasks.{task.name}: no task in its after is verified, so no claim can fail: set verify = true in "
                f"tasks.{task.rewrites}."
            )
        if task.rewrites and (tasks[task.rewrites].schema or tasks[task.rewrites].is_over_video):
            raise SettingsError(f"tasks.{task.name}: rewrites is for plain text about a clip; {task.rewrites} is none.")


def _check_columns(tasks: Iterable[Task]) -> None:
    owners: dict[str, str] = {}
    for task in tasks:
        for kind in COLUMN_KINDS:
            owner = owners.setdefault(task.column(kind), task.name)
            if owner != task.name:
                raise SettingsError(f"the tasks {owner} and {task.name} would both add a column {task.column(kind)!r}.")
