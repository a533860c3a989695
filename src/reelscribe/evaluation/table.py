"""Formats an evaluation as text."""

from collections.abc import Iterator, Mapping
from typing import Final

from reelscribe.evaluation.evaluate import Evaluation, Score
from reelscribe.evaluation.metrics import MetricName

LABELS: Final[Mapping[MetricName, str]] = {
    "cider_d": "CIDEr-D",
    "chrf": "chrF",
    "bleu": "BLEU",
    "rouge_l": "ROUGE-L",
}
"""Names of metrics in the table."""


def table(found: Evaluation) -> Iterator[str]:
    """Yield lines of at most 80 columns, unless names are long."""
    of = f"{found.clips} clips, {found.references} references"
    yield f"{of}; words by sacrebleu's {found.tokenizer}; 95% intervals over clips"
    for each in found.outputs:
        yield ""
        yield each.output
        yield from _lines(each.scores)
    if found.difference:
        yield ""
        yield "the second less the first"
        yield from _lines(found.difference)
    yield from _left_out(found)


def _lines(scores: Mapping[MetricName, Score]) -> Iterator[str]:
    signed = "+" if any(score.p is not None for score in scores.values()) else ""
    for metric, label in LABELS.items():
        score, digits = scores[metric], 3 if metric == "cider_d" else 2
        value, low, high = (f"{number:{signed}.{digits}f}" for number in (score.value, score.low, score.high))
        p = "" if score.p is None else f"   p {score.p:.3f}"
        yield f"  {label:<8} {value:>8}   {low:>8} to {high:>8}{p}".rstrip()


def _left_out(found: Evaluation) -> Iterator[str]:
    """Yield lines about clips and rows that the scores leave out."""
    told: list[tuple[int, str, str, list[str]]] = []
    for each in found.outputs:
        told.append((each.failed, "clip", f"of {each.output} without a caption", []))
        told.append((each.without_references, "clip", f"of {each.output} without references", each.examples))
    told.append((found.unmatched_references, "clip", "with references, but no caption", found.unmatched_examples))
    told.append((found.unusable_references, "row", "of references that cannot be used", found.unusable_examples))
    if any(count for count, *_ in told):
        yield ""
        yield "left out"
    for count, noun, what, examples in told:
        if count:
            yield f"  {count:>8,} {noun}{'' if count == 1 else 's'} {what}"
            yield from (f"           {example}" for example in examples)
