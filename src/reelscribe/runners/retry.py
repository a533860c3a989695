"""A retry: make failed or marked captions of the last run on an output again, possibly with other settings."""

import contextlib
import json
import logging
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, Final

from reelscribe.config import SETTINGS_BY_EFFECT, Settings
from reelscribe.config.groups import RETRY_QUESTION, RETRY_SETTINGS
from reelscribe.dataset.ledger_file import Run
from reelscribe.dataset.places import failures_at, place_of_run
from reelscribe.dataset.read import read_rows
from reelscribe.dataset.remake import Mark, Remake
from reelscribe.dataset.sources import find_sources
from reelscribe.errors import FAILURE_KINDS, DatasetError, SettingsError, did_you_mean
from reelscribe.runners.local import RunSummary, run
from reelscribe.runners.status import runs_on
from reelscribe.sampling_params import SamplingParams

logger = logging.getLogger(__name__)

_MODEL: Final = frozenset({"model", "engine", "revision"})

_AS_THEY_ARE: Final = (
    "marked rows would come out as they are; give something else for them: another prompt, model or engine, or other "
    "sampling, as temperature=0.7 or seed=1."
)


def retry(
    output: str | Path,
    *,
    kinds: Collection[str] | None = None,
    tasks: Collection[str] | None = None,
    marks: Path | None = None,
    marked: Iterable[Mark] | None = None,
    settings: Mapping[str, Any] | None = None,
    **options: Any,
) -> RunSummary:
    """Try failures of the last run on an output again, with its inputs and settings, in its working directory.

    Args:
        output: path or URL of that run's output.
        kinds: kinds of failures to try again. By default all; with marks, none.
        tasks: tasks whose failures and marks are made again; by default all.
        marks: file of marks that a report or an audit wrote. Requests with a flag in it are made again, whether they
            have a caption or a failure.
        marked: more marks.
        settings: settings that replace the run's own for everything that is made again, by names in `RETRY_SETTINGS`.
            The new captions name them (`retried_with`). Later runs take these captions as the run's own, and do not
            make them again.
        **options: options of `run`: engine, on_start, on_row, handle_signals.

    Returns:
        The result of the run; `asked` is 0 if there was nothing to make again.

    Raises:
        DatasetError: there is no such run, its working directory is gone, or the marks cannot be read.
        SettingsError: a kind, task or setting is unknown, or marked rows would be made with the same settings again.
        ReelscribeError: any error of `run`.
    """
    has_marks = marks is not None or marked is not None
    if has_marks and not settings:
        raise SettingsError(_AS_THEY_ARE)
    kinds = (() if has_marks else FAILURE_KINDS) if kinds is None else kinds
    for kind in kinds:
        if kind not in FAILURE_KINDS:
            raise SettingsError(f"there is no failure of kind {kind!r}; kinds are {', '.join(FAILURE_KINDS)}.")
    settings = _placed(settings or {})
    found = frozenset(marked or ()) | (_flagged(marks) if marks else frozenset())
    last = runs_on(place_of_run(output))[0]
    base = settings_of(last)
    known = [task.name for task in base.all_tasks]
    for name in tasks or ():
        if name not in known:
            raise SettingsError(f"the run has no task {name!r}; tasks are {', '.join(known)}.")
    if has_marks and base.shard:
        raise SettingsError("marks count the rows of all shards' output: merge these, and retry what comes of that.")
    with in_folder_of(last):
        remake = replace(
            _with_other(last, base, settings, tasks),
            kinds=frozenset(kind for kind in FAILURE_KINDS if kind in kinds),
            marked=found,
            tasks=frozenset(tasks) if tasks else None,
        )
        if has_marks and not remake.differs:
            raise SettingsError(_AS_THEY_ARE)
        if last.ending == "finished" and not remake.marked and not (kinds and last.progress["failures"]):
            return _nothing(last)
        if last.ending != "finished" and not remake.model_differs:
            logger.warning("The last run on %s did not come to its end: what it left is made, too.", last.output)
        return run(last.inputs, last.output, base, remake=remake, **options)


def settings_of(last: Run) -> Settings:
    """The settings of an earlier run, changed so that a run with them continues it."""
    return replace(Settings.of_run(last.settings), resume=True, overwrite_sidecars=False)


@contextlib.contextmanager
def in_folder_of(last: Run) -> Iterator[None]:
    """Change to the working directory of a run, since its relative paths start there.

    Raises:
        DatasetError: the folder is gone.
    """
    if not Path(last.folder).is_dir():
        raise DatasetError(f"the folder {last.folder}, where the run on {last.output} was started, is gone.")
    with contextlib.chdir(last.folder):
        yield


def _nothing(last: Run) -> RunSummary:
    """The summary of a retry that has nothing to do: the counts of the last run."""
    told = {name: last.progress.get(name, 0) for name in ("rows", "captions", "without_video")}
    failures = last.progress["failures"]
    known = told["captions"] + sum(failures.values())
    listed = failures_at(last.output)
    return RunSummary(**told, known=known, failures=failures, failures_file=listed)


def _with_other(last: Run, base: Settings, given: Mapping[str, Any], tasks: Collection[str] | None) -> Remake:
    """The `Remake` for the given settings, with how they differ from the run's.

    Raises:
        SettingsError: a setting cannot be changed in a retry, or its value is wrong.
    """
    for name in given:
        if name not in RETRY_SETTINGS:
            raise SettingsError(f"a retry cannot have another {name!r}; {did_you_mean(name, RETRY_SETTINGS)}")
    other = _settings(base, given, tasks)
    if _MODEL & given.keys() and any(task.engine for task in base.all_tasks):
        raise SettingsError("tasks of this run have models of their own: retry with the same model and engine.")
    told = other.without_token()
    counts = {*SETTINGS_BY_EFFECT["captions"], "min_decoded"}
    changed = [item.name for item in fields(Settings) if getattr(base, item.name) != getattr(other, item.name)]
    of_model = {name: told[name] for name in changed if name in counts}
    of_tasks = {name: given[name] for name in RETRY_QUESTION if name in given and _differs(name, base, other)}
    if "sampling" in of_tasks:
        of_tasks["sampling"] = SamplingParams.parse(of_tasks["sampling"]).told()
    of_tasks |= {"seed": other.seed} if other.seed != base.seed else {}
    return Remake(
        settings=None if other == base else other,
        differs=_as_json({**of_tasks, **of_model}),
        model_differs=_as_json(of_model),
        run=last if _MODEL & of_model.keys() else None,
    )


def _placed(given: Mapping[str, Any]) -> dict[str, Any]:
    """The given settings with a model's folder made absolute, as the retry changes to the run's working directory."""
    model = given.get("model")
    return {**given, "model": str(Path(model).absolute())} if model and Path(model).is_dir() else dict(given)


def _as_json(told: Mapping[str, Any]) -> str:
    return json.dumps(told, ensure_ascii=False, default=str) if told else ""


def _differs(name: str, base: Settings, other: Settings) -> bool:
    pairs = zip(base.all_tasks, other.all_tasks, strict=True)
    return any(getattr(one, name) != getattr(two, name) for one, two in pairs)


def _settings(base: Settings, given: Mapping[str, Any], tasks: Collection[str] | None) -> Settings:
    """The run's settings with the given ones in their place. Settings of tasks change only in the retried tasks."""
    asked = {name: given[name] for name in RETRY_QUESTION if name in given}
    values = {name: value for name, value in given.items() if name not in asked}
    if "model" in values:
        values = {"revision": None, **values}  # the run's revision belongs to its own model
    if values.get("engine", base.engine) != base.engine:
        values = {"model_params": {}, "extra_body": {}, **values}  # these belong to the run's own engine
    if "prompt" in asked:
        asked["prompt_key"] = None  # otherwise a row's own prompt would take precedence
    if not base.tasks:
        return replace(base, **_asked_for({"sampling": base.sampling}, asked), **values)
    chosen = [task.name for task in base.all_tasks if tasks is None or task.name in tasks]
    if "prompt" in asked and len(chosen) > 1:
        raise SettingsError(f"the run has several tasks, {', '.join(chosen)}: say with --task whose prompt it is.")
    tables = dict(base.tasks)
    for name in chosen:
        table = tables[name] if isinstance(tables[name], Mapping) else {"prompt": tables[name]}
        tables[name] = {**table, **_asked_for(table, asked)}
    return replace(base, tasks=tables, **values)


def _asked_for(table: Mapping[str, Any], asked: Mapping[str, Any]) -> dict[str, Any]:
    """New values for a task's settings. Given sampling parameters are merged into those that the task has."""
    if "sampling" not in asked:
        return dict(asked)
    own, other = (SamplingParams.parse(given or {}).told() for given in (table.get("sampling"), asked["sampling"]))
    return {**asked, "sampling": {**own, **other}}


def _flagged(marks: Path) -> frozenset[Mark]:
    """The flagged marks in a file. A mark without a task, as reports of release 0.1.0 wrote it, is for all tasks.

    Raises:
        DatasetError: the file has a line that is not a mark.
    """
    flagged: set[Mark] = set()
    for item in read_rows(find_sources([marks]), Settings(), output=marks):
        row, video, task, flag = (item.row.get(name) for name in ("row", "video", "task", "flag"))
        if item.problem or type(row) is not int or row < 0 or type(flag) is not bool:
            raise DatasetError(
                f"{marks}, line {item.index + 1}: a mark has a row (a number) and a flag (true or false), as a report "
                f"exports it; got {item.problem or item.row!r}."
            )
        if flag:
            flagged.add(Mark(row, *(name if isinstance(name, str) else None for name in (video, task))))
    return frozenset(flagged)
