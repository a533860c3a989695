"""A retry: what failed in the last run on an output, or is marked, made again, perhaps with something else."""

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
        output: of that run.
        kinds: which of them; all by default, and none where there are marks.
        tasks: of which tasks, marks too; of all by default.
        marks: what to make again, whatever came of it: what has a flag in a file that a report or an audit wrote.
        marked: more of that.
        settings: for all that is made again, in place of the run's own: some of `RETRY_SETTINGS`. What comes out says
            so, and counts as made by the run, so that it is not made again later.
        **options: as `run` takes them: engine, on_start, on_row, handle_signals.

    Returns:
        What was done; `asked` is 0 if there was nothing to make again.

    Raises:
        DatasetError: there is no such run, its working directory is gone, or the marks cannot be read.
        SettingsError: a kind, task or setting is unknown, or marked rows would be made as they were.
        ReelscribeError: as `run` does.
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
    """The settings that a run had, to go on with it."""
    return replace(Settings.of_run(last.settings), resume=True, overwrite_sidecars=False)


@contextlib.contextmanager
def in_folder_of(last: Run) -> Iterator[None]:
    """Be where a run was started, as its inputs are named from there.

    Raises:
        DatasetError: the folder is gone.
    """
    if not Path(last.folder).is_dir():
        raise DatasetError(f"the folder {last.folder}, where the run on {last.output} was started, is gone.")
    with contextlib.chdir(last.folder):
        yield


def _nothing(last: Run) -> RunSummary:
    """What a retry did that had nothing to do."""
    told = {name: last.progress.get(name, 0) for name in ("rows", "captions", "without_video")}
    failures = last.progress["failures"]
    known = told["captions"] + sum(failures.values())
    listed = failures_at(last.output)
    return RunSummary(**told, known=known, failures=failures, failures_file=listed)


def _with_other(last: Run, base: Settings, given: Mapping[str, Any], tasks: Collection[str] | None) -> Remake:
    """With what is made again.

    Raises:
        SettingsError: a setting cannot be another one, or it is wrong.
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
    """With the folder of a model as it is from here, since the run may have been started elsewhere."""
    model = given.get("model")
    return {**given, "model": str(Path(model).absolute())} if model and Path(model).is_dir() else dict(given)


def _as_json(told: Mapping[str, Any]) -> str:
    return json.dumps(told, ensure_ascii=False, default=str) if told else ""


def _differs(name: str, base: Settings, other: Settings) -> bool:
    pairs = zip(base.all_tasks, other.all_tasks, strict=True)
    return any(getattr(one, name) != getattr(two, name) for one, two in pairs)


def _settings(base: Settings, given: Mapping[str, Any], tasks: Collection[str] | None) -> Settings:
    """The settings of a run with others in their place, those of a task in the tasks that are retried."""
    asked = {name: given[name] for name in RETRY_QUESTION if name in given}
    values = {name: value for name, value in given.items() if name not in asked}
    if "model" in values:
        values = {"revision": None, **values}  # which was the other model's
    if values.get("engine", base.engine) != base.engine:
        values = {"model_params": {}, "extra_body": {}, **values}  # likewise
    if "prompt" in asked:
        asked["prompt_key"] = None  # a row's own would win over it
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
    """What is set for a task, with its other sampling among that which it has."""
    if "sampling" not in asked:
        return dict(asked)
    own, other = (SamplingParams.parse(given or {}).told() for given in (table.get("sampling"), asked["sampling"]))
    return {**asked, "sampling": {**own, **other}}


def _flagged(marks: Path) -> frozenset[Mark]:
    """What has a flag in a file of marks. One without a task, of a report of release 0.1.0, is of all tasks."""
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
