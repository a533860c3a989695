"""The settings of a run: the CLI's options, the keys of a TOML file and the keywords in Python are all these fields."""

import math
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, fields, replace
from functools import cached_property
from pathlib import Path
from typing import Any, Final, get_args

from reelscribe.checks import Checks
from reelscribe.config.groups import (
    DEFAULT_MODEL,
    DataSettings,
    FetchSettings,
    FrameSettings,
    LimitSettings,
    MachineSettings,
    ModelSettings,
    OutputSettings,
    TaskSettings,
)
from reelscribe.config.kinds import Effect, check, choices_of, described, kind_of
from reelscribe.config.limits import FailureLimit, Shard
from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.sampling_params import SamplingParams
from reelscribe.tasks import CLIP_FACTS, COLUMN_KINDS, DEFAULT_TASK, ColumnKind, Task, read_schema, tasks_of
from reelscribe.wording import read_list

__all__ = [
    "AFFECTS",
    "DEFAULT_MODEL",
    "PARAMS_WITHOUT_EFFECT",
    "DataSettings",
    "Effect",
    "FailureLimit",
    "FetchSettings",
    "FrameSettings",
    "LimitSettings",
    "ModelSettings",
    "Settings",
    "Shard",
    "TaskSettings",
    "choices_of",
    "kind_of",
]


@dataclass(frozen=True, kw_only=True)
class Settings(
    MachineSettings,
    LimitSettings,
    OutputSettings,
    FetchSettings,
    DataSettings,
    FrameSettings,
    TaskSettings,
    ModelSettings,
):
    """What to do with each row."""

    def __post_init__(self) -> None:
        for item in fields(self):
            check(item, getattr(self, item.name))
        for name in ("fps", "decode_seconds", "download_seconds", "request_timeout"):
            if not 0 < getattr(self, name) < math.inf:
                raise SettingsError(f"{name} must be a number above 0; got {getattr(self, name)!r}.")
        for name in ("price", "budget"):
            value = getattr(self, name)
            if value is not None and not 0 < value < math.inf:
                raise SettingsError(f"{name} must be a number above 0; got {value!r}.")
        if self.budget is not None and self.price is None:
            raise SettingsError("a budget needs a price: what a GPU hour costs.")
        if not 0 < self.min_decoded <= 1:
            raise SettingsError(f"min_decoded must be a number above 0 and at most 1; got {self.min_decoded!r}.")
        if self.min_frames and self.max_frames and self.min_frames > self.max_frames:
            raise SettingsError(f"min_frames ({self.min_frames}) must not exceed max_frames ({self.max_frames}).")
        # What is recorded of a run holds wherever it goes on, and whatever becomes of files of schemas and wordings.
        given = {"schema": self.schema, "checks": self.checks, "tasks": self.tasks}
        for name, value in _with_paths(given, _content_of).items():
            object.__setattr__(self, name, value)
        for task in self.all_tasks:
            if task.engine:
                self.of_task(task)
        _check_passed_on(self)
        _check_columns(self)
        self.failure_limit()
        self.part()
        self.actor_range()

    def check_checks(self) -> None:
        """Find out before a run whether all can be checked and scored that is to be, and faults be told that are to be.

        Raises:
            SettingsError: a tokenizer is not there, a language is unknown, a scorer cannot be imported, or there is no
                second try that is told, or no judge that is asked.
            MissingExtraError: what it takes is not installed.
        """
        for task in self.all_tasks:
            task.checks.check_installed()
            if task.scores_with:
                task.scores_with.check()
            if task.tell_faults and not self.retry_flagged:
                of = f"tasks.{task.name}: " if self.tasks else ""
                raise SettingsError(f"{of}tell_faults is for second tries, and there are none without retry_flagged.")
        tasks = self.all_tasks
        if any(task.judge_prompt is not None for task in tasks) and not any(task.judge for task in tasks):
            raise SettingsError("judge_prompt is for keep judged, by which no task chooses.")

    def __getstate__(self) -> dict[str, Any]:
        """What was set, without what was worked out from it: equal settings are pickled alike."""
        return {item.name: getattr(self, item.name) for item in fields(self)}

    def part(self) -> Shard | None:
        """The part of the rows, checked."""
        return None if self.shard is None else Shard.parse(self.shard)

    def failure_limit(self) -> FailureLimit | None:
        """The most failures, checked."""
        return None if self.max_failures is None else FailureLimit.parse(self.max_failures)

    def actor_range(self) -> tuple[int, int] | None:
        """The fewest and the most actors, checked."""
        if self.actors is None:
            return None
        fewest, _, most = self.actors.partition("-")
        most = most or fewest
        if not (fewest.isdecimal() and most.isdecimal() and 1 <= int(fewest) <= int(most)):
            raise SettingsError(f"actors must be a number, or the fewest and the most, as 1-64; got {self.actors!r}.")
        return int(fewest), int(most)

    @cached_property
    def all_tasks(self) -> tuple[Task, ...]:
        """What is asked about each clip, each after those that it comes after.

        Raises:
            SettingsError: the settings of a task are wrong.
        """
        base = Task(
            prompt=self.prompt,
            prompt_key=self.prompt_key,
            system_prompt=self.system_prompt,
            num_captions=self.num_captions,
            keep=self.keep,
            judge_prompt=self.judge_prompt,
            sampling=self.sampling_params(),
            schema=None if self.schema is None else read_schema(self.schema),
            checks=Checks.of(self.checks),
            tell_faults=self.tell_faults,
            scorer=self.scorer,
            scorer_params=self.scorer_params,
        )
        return tasks_of(self.tasks, base)

    def of_task(self, task: Task) -> "Settings":
        """The settings for the engine of a task that has one of its own.

        Raises:
            SettingsError: one of them is no setting of a model, or wrong.
        """
        known = [item.name for item in fields(ModelSettings)]
        for name in task.engine:
            if name not in known:
                raise SettingsError(
                    f"tasks.{task.name}.engine has the unknown key {name!r}; {did_you_mean(name, known)}"
                )
        table = {**self.tasks[task.name], "prompt": "?", "after": [], "engine": {}}
        try:
            return replace(self, tasks={task.name: table}, audio=False, **task.engine)  # it is shown no clip
        except SettingsError as exc:
            raise SettingsError(f"tasks.{task.name}.engine: {exc}") from exc

    @cached_property
    def text_task(self) -> Task:
        """The task whose captions go into interleaved text.

        Raises:
            SettingsError: there are several, and it is not clear which.
        """
        found = next((task for task in self.all_tasks if task.name == DEFAULT_TASK), self.all_tasks[-1])
        if found.is_over_video:
            raise SettingsError("in interleaved text there is no room for what is over a video; set layout to columns.")
        if found.times:
            raise SettingsError(
                f"in interleaved text there is no room for a list of events, which the task {found.name!r} makes with "
                "times. Set layout to columns, or leave out times."
            )
        unused = {task.name for task in self.all_tasks} - self._leading_to(found)
        if unused:
            raise SettingsError(
                f"in interleaved text there is room for one caption, that of the task {found.name!r}; nothing would "
                f"become of {' and '.join(sorted(unused))}. Set layout to columns, or leave them out."
            )
        return found

    def _leading_to(self, task: Task) -> set[str]:
        """A task, and all that have to be answered before it."""
        before = [other for other in self.all_tasks if other.name in task.after]
        return {task.name}.union(*map(self._leading_to, before))

    @cached_property
    def column_kinds(self) -> tuple[ColumnKind, ...]:
        """The kinds of columns that each task adds, in their order."""
        chosen = [name.strip() for name in self.columns.split(",")]
        for name in chosen:
            if name not in COLUMN_KINDS:
                raise SettingsError(f"columns must be some of {','.join(COLUMN_KINDS)}; got {self.columns!r}.")
        return tuple(kind for kind in COLUMN_KINDS if kind in chosen)

    @cached_property
    def added_columns(self) -> tuple[str, ...]:
        """All columns that are added for a video."""
        return tuple(task.column(kind) for task in self.all_tasks for kind in self.column_kinds)

    @property
    def named_columns(self) -> dict[str, str]:
        """Columns of the rows that are named, by what does so."""
        named = {"video_key": self.video_key}
        for task in self.all_tasks:
            of = f"tasks.{task.name}: " if self.tasks else ""
            named |= {f"{of}prompt_key": task.prompt_key}
            # Facts of a clip are known where it is decoded here.
            decoded = task.video and not (self.engine == "openai" and self.send == "video")
            columns = [name for name in task.names if not (decoded and name in CLIP_FACTS)]
            named |= {f"{of}{{{name}}} in the prompt": name for name in columns}
        for option in ("start_key", "end_key", "stretches_key"):
            name = getattr(self, option)
            named[option] = None if name == getattr(Settings, option) else name
        named["text_key"] = None if self.text_key == Settings.text_key else self.text_key
        return {option: name for option, name in named.items() if name}

    @property
    def stretch_columns(self) -> tuple[str, ...]:
        """Columns that may name stretches of videos."""
        return tuple(name for name in (self.start_key, self.end_key, self.stretches_key) if name)

    def without_token(self) -> dict[str, Any]:
        """All of them, ready for JSON, less what opens the hub to whoever reads them."""
        told: dict[str, Any] = _without_token(asdict(self))
        return told

    def sampling_params(self) -> SamplingParams:
        """The sampling parameters, checked."""
        return SamplingParams.parse(self.sampling)

    @classmethod
    def of_run(cls, recorded: Mapping[str, Any]) -> "Settings":
        """The settings that a run recorded, also one of an earlier release.

        Raises:
            SettingsError: a value is wrong.
        """
        names = {item.name for item in fields(cls)}
        values = {name: value for name, value in recorded.items() if name in names}
        if values.get("engine") == "openai" and values.get("model_params"):
            # Release 0.1.0 had no extra_body, and sent model_params to servers.
            values["extra_body"] = values.pop("model_params")
        return cls.load(None, **values)

    @classmethod
    def load(cls, file: Path | None = None, **overrides: Any) -> "Settings":
        """Read settings from a TOML file, then from keywords, which win; tables are merged.

        Raises:
            SettingsError: the file cannot be read, or a key is unknown or holds a wrong value.
        """
        values: dict[str, Any] = {} if file is None else _placed(_read_toml(file), file.parent)
        for name, value in _placed(overrides, Path()).items():
            values[name] = _merged(values.get(name), value)
        known = [item.name for item in fields(cls)]
        for name in values:
            if name not in known:
                raise SettingsError(f"unknown setting {name!r}; {did_you_mean(name, known)}")
        if type(values.get("split")) in (int, float):
            values["split"] = f"{values['split']:g}"
        return cls(**values)


Settings.__doc__ = f"{Settings.__doc__}\n\n{described(Settings)}"

AFFECTS: Final[Mapping[Effect, tuple[str, ...]]] = {
    effect: tuple(item.name for item in fields(Settings) if item.metadata["affects"] == effect)
    for effect in get_args(Effect)
}
"""The settings by what of earlier results they touch."""

PARAMS_WITHOUT_EFFECT: Final = frozenset(
    {
        *("cache_dir", "device_map", "force_download", "local_files_only", "token", "trust_remote_code"),
        *("data_parallel_size", "gpu_memory_utilization", "max_num_batched_tokens", "max_num_seqs"),
        *("pipeline_parallel_size", "tensor_parallel_size"),
    }
)
"""Of `model_params`, what changes no caption: where the model comes from and how it is spread."""

_SET_BY_US: Final[Mapping[str, str]] = {
    "messages": "prompt, system_prompt and the videos make them",
    "model": "the setting model names it",
    "n": "num_captions says how many candidates to generate",
    "stream": "answers are read whole",
}
"""Fields of a request's body that `extra_body` cannot replace, and why."""


def _check_passed_on(settings: Settings) -> None:
    """Raise SettingsError if an engine does not take what is set for it, or a table holds what a setting says."""
    if settings.engine == "openai" and settings.model_params:
        raise SettingsError(
            "model_params are for loading a model, which a server has done; extra_body holds fields for the body of "
            "each request."
        )
    if settings.engine == "openai" and settings.show != "auto":
        raise SettingsError("show is for models that run here; send says what a server is sent.")
    if settings.engine != "transformers" and settings.deterministic:
        raise SettingsError(f"deterministic is for the engine transformers only; the engine is {settings.engine}.")
    if settings.engine != "openai" and settings.extra_body:
        raise SettingsError(f"extra_body is for the engine openai only; the engine is {settings.engine}.")
    if (
        settings.engine == "openai"
        and settings.send == "video"
        and any(task.scores_with for task in settings.all_tasks)
    ):
        raise SettingsError("a scorer looks at frames, and with send = video none are decoded; send frames or images.")
    for name, why in _SET_BY_US.items():
        if name in settings.extra_body:
            raise SettingsError(f"extra_body must not hold {name!r}: {why}.")


def _check_columns(settings: Settings) -> None:
    """Raise SettingsError if a column that is added is one that is read."""
    if settings.layout == "interleaved":
        return  # which adds none
    read = {"video": "videos", "videos": "videos", settings.text_key: "the text"}
    read |= dict.fromkeys(settings.stretch_columns, "stretches of videos")
    read |= {name: option for option, name in settings.named_columns.items()}
    for task in settings.all_tasks:
        for kind in settings.column_kinds:
            if (name := task.column(kind)) in read:
                raise SettingsError(
                    f"the task {task.name!r} would add a column {name!r}, which is that of {read[name]}; give the "
                    "task another name, as --task described=PROMPT."
                )


def _merged(first: Any, second: Any) -> Any:
    """Two tables as one, in which the second wins; else the second."""
    if not isinstance(first, Mapping) or not isinstance(second, Mapping):
        return second
    return {**first, **{name: _merged(first.get(name), value) for name, value in second.items()}}


def _placed(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Settings in which paths of schemas and of what checks need start from a folder."""
    return _with_paths(values, lambda _, path: str((folder / path).absolute()))


_PATHS: Final[Mapping[str, str]] = {"schema": ".json", "lists": ".toml", "tokenizer": ""}
"""Names of what may hold a path, and how that ends."""


def _content_of(name: str, path: str) -> str:
    """What is in the file of a schema or a list of wordings; of a tokenizer its path."""
    if name == "tokenizer":
        return path
    return read_schema(path).text if name == "schema" else read_list(Path(path))


def _with_paths(values: dict[str, Any], change: Callable[[str, str], str]) -> dict[str, Any]:
    """Settings in which these paths are changed, also those of tasks."""

    def changed(table: Any) -> Any:
        if not isinstance(table, Mapping):
            return table
        made = dict(table)
        for name, suffix in _PATHS.items():
            if isinstance(path := table.get(name), str) and path.lower().endswith(suffix):
                made[name] = change(name, path)
        if "checks" in made:
            made["checks"] = changed(made["checks"])
        return made

    values, tables = changed(values), values.get("tasks")
    if not isinstance(tables, Mapping):
        return values
    return {**values, "tasks": {name: changed(table) for name, table in tables.items()}}


def _without_token(table: Any) -> Any:
    """A table without the tokens in model_params, also of tasks."""
    if not isinstance(table, Mapping):
        return table
    made = {name: _without_token(value) for name, value in table.items()}
    if isinstance(params := made.get("model_params"), dict):
        params.pop("token", None)
    return made


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text("utf-8"))
    except OSError as exc:
        raise SettingsError(f"cannot read the settings in {file}: {exc.strerror}.") from exc
    except ValueError as exc:  # TOMLDecodeError and UnicodeDecodeError are both
        raise SettingsError(f"{file} is not valid TOML: {exc}.") from exc
