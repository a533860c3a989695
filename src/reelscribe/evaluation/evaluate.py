"""Scores one or two outputs against references, with intervals, and tests whether one output is better."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.errors import DatasetError, SettingsError, did_you_mean
from reelscribe.evaluation.metrics import METRICS, MetricName, Scorer, TokenizerName, scores_of, tokenizer_for
from reelscribe.evaluation.references import References, read_references
from reelscribe.report.entries import CaptionedData, NoVideo

SAMPLES: Final = 1000
"""Number of bootstrap samples."""
_FEWEST_CLIPS: Final = 2
"""Minimum number of clips: with one, CIDEr-D is always 0."""
_EXAMPLES: Final = 3
"""Maximum number of examples of clips and rows that are left out."""
_INTERVAL: Final = (2.5, 97.5)
"""Percentiles of the bootstrap that bound a 95% interval."""


@dataclass(frozen=True, kw_only=True)
class Score:
    """A score, or a difference of two, with its 95% interval by a bootstrap over clips."""

    value: float
    low: float
    high: float
    p: float | None = None
    """Two-sided p-value of a difference: how often bootstrap samples have no difference, or one of the other sign."""


@dataclass(frozen=True, kw_only=True)
class Scored:
    """An output and its scores."""

    output: str
    scores: Mapping[MetricName, Score]
    failed: int
    """Clips without a caption."""
    without_references: int
    """Clips with a caption, but without references."""
    examples: list[str]
    """Names of some of these clips."""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """The result of an evaluation."""

    task: str
    tokenizer: TokenizerName
    clips: int
    """Number of scored clips: with references, and a caption in each output."""
    references: int
    """Number of their references."""
    outputs: list[Scored]
    difference: Mapping[MetricName, Score] | None
    """Scores of the second output minus those of the first, over the same clips; None for one output."""
    unmatched_references: int
    """Clips with references, but without a caption in each output."""
    unmatched_examples: list[str]
    unusable_references: int
    """Rows without a usable reference."""
    unusable_examples: list[str]
    samples: int
    seed: int

    def told(self) -> dict[str, Any]:
        """The whole result as JSON values."""
        return asdict(self)


@dataclass(frozen=True, kw_only=True)
class _Captions:
    """The captions of an output, by clip. Clips have their names in the file of references."""

    task: str
    texts: dict[str, list[str]]
    failed: int
    without_references: list[str]


def evaluate(
    outputs: Sequence[Path],
    references: Path,
    *,
    task: str | None = None,
    reference_key: str | None = None,
    video_key: str | None = None,
    tokenizer: TokenizerName | None = None,
    root: Path | None = None,
    samples: int = SAMPLES,
    seed: int = 0,
) -> Evaluation:
    """Score captions against references.

    The model's texts are scored, without people's edits. If a clip has several kept captions, its score is their mean.

    Args:
        outputs: one or two outputs of runs.
        references: a data set of references; see `read_references`.
        task: the task to score; it must be named if there are several.
        reference_key: column of the references.
        video_key: column of the clips in the data set of references.
        tokenizer: how texts are split into words; by default, it follows from the language of the references.
        root: folder that relative paths of videos start from; by default that of the run.
        samples: number of bootstrap samples.
        seed: seed of the bootstrap.

    Raises:
        DatasetError: a file cannot be read, or fewer than two clips have both captions and references.
        SettingsError: there is no such task, or its answers are no plain text.
        MissingExtraError: the extra `eval`, or a package that a format needs, is not installed.
    """
    data = [CaptionedData(output, root=root, corrected=False) for output in outputs]
    folders = list(dict.fromkeys(folder for each in data for folder in (*each.folders, references.parent)))
    wanted = read_references(references, column=reference_key, video_key=video_key, folders=folders)
    captions = [_captions_of(each, task, wanted) for each in data]
    names = [name for name in wanted.texts if all(name in each.texts for each in captions)]
    if len(names) < _FEWEST_CLIPS:
        raise DatasetError(_too_few(outputs, references, captions, wanted, names))
    texts = [wanted.texts[name] for name in names]
    tokenizer = tokenizer or tokenizer_for([text for each in texts for text in each])
    scorer = Scorer(texts, tokenizer)
    statistics = [scorer.statistics([each.texts[name] for name in names]) for each in captions]
    drawn = _bootstrap(statistics, samples, seed)
    whole = [scores_of(each, np.ones(len(names))) for each in statistics]
    scored = [
        Scored(
            output=str(output),
            scores={metric: _score(scores[metric], found[metric]) for metric in METRICS},
            failed=each.failed,
            without_references=len(each.without_references),
            examples=each.without_references[:_EXAMPLES],
        )
        for output, each, scores, found in zip(outputs, captions, whole, drawn, strict=True)
    ]
    difference = None
    if len(scored) > 1:
        difference = {
            metric: _difference(whole[1][metric] - whole[0][metric], drawn[1][metric] - drawn[0][metric])
            for metric in METRICS
        }
    matched = set(names)
    unmatched = [name for name in wanted.texts if name not in matched]
    return Evaluation(
        task=captions[0].task,
        tokenizer=tokenizer,
        clips=len(names),
        references=sum(map(len, texts)),
        outputs=scored,
        difference=difference,
        unmatched_references=len(unmatched),
        unmatched_examples=unmatched[:_EXAMPLES],
        unusable_references=len(wanted.unusable),
        unusable_examples=wanted.unusable[:_EXAMPLES],
        samples=samples,
        seed=seed,
    )


def _captions_of(data: CaptionedData, task: str | None, references: References) -> _Captions:
    """Read the captions of a task, by clip. Raises SettingsError if they are JSON."""
    name = _task_of(data, task)
    texts: dict[str, list[str]] = {}
    failed, without = 0, []
    for entry in data.entries():
        if isinstance(entry, NoVideo):
            failed += 1
            continue
        if entry.task != name:
            continue
        if entry.failure or not entry.captions:
            failed += 1
            continue
        if entry.structured or entry.events is not None:
            raise SettingsError(
                f"the answers of the task {name!r} in {data.output} are JSON; scores are of plain text."
            )
        place = references.find(entry.video)
        if place is None:
            without.append(entry.video.name)
        else:
            texts.setdefault(place, []).extend(entry.captions)
    return _Captions(task=name, texts=texts, failed=failed, without_references=without)


def _task_of(data: CaptionedData, task: str | None) -> str:
    """The task that is named, or the only one."""
    names = [each.name for each in data.tasks]
    if task is None and len(names) == 1:
        return names[0]
    if task is None:
        raise SettingsError(f"{data.output} has the tasks {', '.join(names)}: name one with --task.")
    if task not in names:
        raise SettingsError(f"{data.output} has no task {task!r}; {did_you_mean(task, names)}")
    return task


def _too_few(
    outputs: Sequence[Path],
    references: Path,
    captions: Sequence[_Captions],
    wanted: References,
    names: Sequence[str],
) -> str:
    """The message if fewer than two clips can be scored, with hints why."""
    have = "clip has" if len(names) == 1 else "clips have"
    said = f"{len(names)} {have} both references in {references} and a caption in {' and '.join(map(str, outputs))}"
    without = next((each.without_references[0] for each in captions if each.without_references), None)
    shown = f" The output has, as an example, {without!r}, and the references {next(iter(wanted.texts))!r}."
    failed = "".join(
        f" In {output} {each.failed} {'clip has' if each.failed == 1 else 'clips have'} no caption."
        for output, each in zip(outputs, captions, strict=True)
        if each.failed
    )
    advice = " Name videos as the rows do that were captioned, or with their whole paths." if without else ""
    return f"{said}; at least {_FEWEST_CLIPS} are needed.{failed}{shown if without else ''}{advice}"


def _bootstrap(
    statistics: Sequence[NDArray[np.float64]], samples: int, seed: int
) -> list[dict[MetricName, NDArray[np.float64]]]:
    """Scores of each output on bootstrap samples: clips drawn with replacement, the same ones for all outputs.

    Args:
        statistics: of each output; see `Scorer.statistics`.
        samples: number of samples.
        seed: seed of the random choice.

    Returns:
        For each output and metric, the scores, shape (samples,).
    """
    rng, clips = np.random.default_rng(seed), len(statistics[0])
    found: list[dict[MetricName, list[float]]] = [{metric: [] for metric in METRICS} for _ in statistics]
    for _ in range(samples):
        weights = np.bincount(rng.integers(clips, size=clips), minlength=clips).astype(float)
        for scores, each in zip(found, statistics, strict=True):
            for metric, value in scores_of(each, weights).items():
                scores[metric].append(value)
    return [{metric: np.array(values) for metric, values in scores.items()} for scores in found]


def _score(value: float, drawn: NDArray[np.float64]) -> Score:
    low, high = np.percentile(drawn, _INTERVAL)
    return Score(value=value, low=float(low), high=float(high))


def _difference(value: float, drawn: NDArray[np.float64]) -> Score:
    """A difference of two scores, with the two-sided p-value of its bootstrap samples."""
    below, above = int((drawn <= 0).sum()), int((drawn >= 0).sum())
    # One is added to both counts, so that p is never 0: no sample of the other sign does not prove that none exists.
    p = min(1.0, 2 * (1 + min(below, above)) / (1 + len(drawn)))
    scored = _score(value, drawn)
    return Score(value=scored.value, low=scored.low, high=scored.high, p=p)
