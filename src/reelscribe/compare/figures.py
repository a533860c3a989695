"""Figures of a comparison that need no voter: lengths, tokens, agreement, faults, cost, and similarity of texts."""

import itertools
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from reelscribe.compare.sides import Side
from reelscribe.report.entries import Entry
from reelscribe.report.overview import flags_of, listed
from reelscribe.runners.status import record_of
from reelscribe.selection import chrf
from reelscribe.words import words_of


@dataclass(frozen=True, kw_only=True)
class TextFigures:
    """Figures of one text."""

    words: int
    tokens: int | None
    """Tokens of the text; None if not known."""
    prompt_tokens: int | None
    """Tokens of the whole prompt, the video's included."""
    agreement: float | None
    """Similarity of the kept candidate to the others; see `Selection`. None if not known."""
    faults: tuple[str, ...]
    """Names of its faults."""

    @classmethod
    def of(cls, side: Side, entry: Entry, text: str) -> "TextFigures":
        """Figures of a side's text for a clip."""
        place, meta = side.place_in(entry), entry.meta
        faults = flags_of(entry)
        if side.candidate is not None:
            faults = [*str(_at(meta.get("faults"), place) or "").split(), *str(meta.get("clip_flags") or "").split()]
        return cls(
            words=len(words_of(text)),
            tokens=_number(_at(meta.get("completion_tokens"), place), int),
            prompt_tokens=_number(meta.get("prompt_tokens"), int),
            agreement=None if side.candidate is not None else _number(meta.get("agreement"), float),
            faults=tuple(faults),
        )

    def lines(self) -> Iterator[str]:
        """Yield the figures in words."""
        yield f"{self.words} word{'' if self.words == 1 else 's'}"
        if self.tokens is not None:
            yield f"{self.tokens} tokens"
        if self.agreement is not None:
            yield f"agreement {self.agreement:.2f}"
        yield from (name.replace("_", " ") for name in self.faults)


@dataclass(kw_only=True)
class SideFigures:
    """Figures of a side, over all clips that are compared."""

    words: list[int] = field(default_factory=list)
    tokens: list[int] = field(default_factory=list)
    """Tokens of each text. Like the lists below, it has only the known values."""
    prompt_tokens: list[int] = field(default_factory=list)
    agreement: list[float] = field(default_factory=list)
    faults: Counter[str] = field(default_factory=Counter)
    models: Counter[str] = field(default_factory=Counter)
    prompts: Counter[str] = field(default_factory=Counter)
    cost: float | None = None
    """Cost of the last run on the output, at the price that was set for it; None if not known."""

    def add(self, figures: TextFigures, meta: Mapping[str, Any]) -> None:
        """Count one text."""
        self.words.append(figures.words)
        for name in ("tokens", "prompt_tokens", "agreement"):
            if (value := getattr(figures, name)) is not None:
                getattr(self, name).append(value)
        self.faults.update(figures.faults)
        for name, counts in (("model", self.models), ("prompt", self.prompts)):
            if isinstance(meta.get(name), str):
                counts[meta[name]] += 1

    def told(self) -> dict[str, Any]:
        """The figures for JSON; a mean is None if nothing is known."""
        return {
            "clips": len(self.words),
            "mean_words": _mean(self.words),
            "median_words": float(np.median(self.words)) if self.words else None,
            "mean_tokens": _mean(self.tokens),
            "mean_prompt_tokens": _mean(self.prompt_tokens),
            "mean_agreement": _mean(self.agreement),
            "faults": dict(self.faults.most_common()),
            "models": dict(self.models.most_common()),
            "cost_of_last_run": self.cost,
        }

    def rows(self) -> dict[str, str]:
        """The known figures in words, by label."""
        told = self.told()
        faults = ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in self.faults.most_common())
        words = f"{told['mean_words']:.1f} on average, median {told['median_words']:.0f}" if self.words else None
        return {
            name: text
            for name, text in {
                "Model": ", ".join(self.models),
                "Prompt": next(iter(self.prompts)) if len(self.prompts) == 1 else "",
                "Words": words,
                "Tokens of a text": _told(told["mean_tokens"], ".1f"),
                "Tokens of a prompt": _told(told["mean_prompt_tokens"], ".1f"),
                "Agreement of candidates": _told(told["mean_agreement"], ".2f"),
                "Faults and flags": faults or "none",
                "Cost of its last run": _told(self.cost, ".2f"),
            }.items()
            if text
        }


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """Similarity of the texts of two sides."""

    sides: tuple[int, int]
    """Numbers of the two sides."""
    chrf: float
    """Mean chrF of the clips, from 0 to 1; see `reelscribe.selection.chrf`."""
    same: int
    """Number of clips with the same text."""
    clips: int
    """Number of compared clips."""


def overlaps(texts: Sequence[Sequence[str]]) -> list[Overlap]:
    """Compute the overlap of each pair of sides.

    Args:
        texts: for each clip, the text of each side; at least one clip.
    """
    scores = np.mean([chrf(each) for each in texts], axis=0)
    return [
        Overlap(
            sides=(one, other),
            chrf=float(scores[one, other]),
            same=sum(each[one] == each[other] for each in texts),
            clips=len(texts),
        )
        for one, other in itertools.combinations(range(len(texts[0])), 2)
    ]


def cost_of(side: Side) -> float | None:
    """Cost of the last run on a side's output, if its record has it."""
    with suppress(OSError, ValueError):
        record = json.loads(record_of(side.data.output).read_text("utf-8"))
        return _number(record.get("cost"), float) if isinstance(record, dict) else None
    return None


def _at(values: Any, place: int | None) -> Any:
    known = listed(values)
    return known[place] if place is not None and place < len(known) else None


def _number(value: Any, kind: type) -> Any:
    """The value if it is a number of this kind; None otherwise. A data set may hold anything."""
    is_number = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < float("inf")
    return kind(value) if is_number else None


def _mean(values: Iterable[float]) -> float | None:
    found = list(values)
    return sum(found) / len(found) if found else None


def _told(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
