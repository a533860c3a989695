"""Statistics over all captions of a data set, and the choice of videos to show."""

import json
import random
from collections import Counter
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Final

from reelscribe.report.edited import is_edited, verdict_of
from reelscribe.report.entries import Entry, NoVideo, by_video
from reelscribe.report.words import opening
from reelscribe.words import words_of

_TOP: Final = 6
"""Number of openings that are listed."""
_MAX_PLAUSIBLE: Final = 1 << 40
"""Larger counts and times are ignored as errors: a data set may hold any number, and plots must not break on it."""


@dataclass(kw_only=True)
class Overview:
    """Counts over all videos of a data set."""

    captions: int = 0
    tasks: Counter[str] = field(default_factory=Counter)
    """Captions by task; tasks without captions are included, with 0."""
    failed: Counter[str] = field(default_factory=Counter)
    """Failures by task, in the same way."""
    without_video: int = 0
    failures: Counter[str] = field(default_factory=Counter)
    """Failures by kind."""
    examples: dict[str, str] = field(default_factory=dict)
    """Message of the first failure of each kind."""
    flags: Counter[str] = field(default_factory=Counter)
    stop_reasons: Counter[str] = field(default_factory=Counter)
    """Stop reasons of all candidates."""
    openings: Counter[str] = field(default_factory=Counter)
    """First words of captions."""
    vocabulary: Counter[str] = field(default_factory=Counter)
    made_by: Counter[tuple[str, str]] = field(default_factory=Counter)
    """Captions by model (with its revision) and engine."""
    prompts: Counter[str] = field(default_factory=Counter)
    lengths: list[int] = field(default_factory=list)
    """Number of words of each caption."""
    seconds: list[float] = field(default_factory=list)
    """Time of the last frame that the model saw, in seconds, for each video."""
    caption_tokens: list[int] = field(default_factory=list)
    """Tokens of each caption."""
    video_tokens: list[int] = field(default_factory=list)
    """Vision tokens of each video."""
    strata: list[str] = field(default_factory=list)
    """Stratum of each video: its kinds of failure and its flags."""

    @classmethod
    def of(cls, entries: Iterable[Entry | NoVideo]) -> "Overview":
        """Count all entries, in one pass."""
        overview = cls()
        for answers in by_video(entries):
            overview._add_video(answers)
        return overview

    def _add_video(self, answers: Sequence[Entry]) -> None:
        """Count the answers about one video."""
        if not answers:
            self.without_video += 1
            return
        told = (word for entry in answers for word in ([entry.failure] if entry.failure else flags_of(entry)))
        self.strata.append(" ".join(dict.fromkeys(told)))
        for entry in answers:
            self._add(entry)
        shown = shown_of(answers)
        if (seconds := seconds_of(shown)) is not None:
            self.seconds.append(seconds)
        if _is_count(shown.meta.get("video_tokens")):
            self.video_tokens.append(shown.meta["video_tokens"])

    def _add(self, entry: Entry) -> None:
        """Count one answer."""
        self.tasks[entry.task] += not entry.failure
        self.failed[entry.task] += bool(entry.failure)
        if entry.failure:
            self.failures[entry.failure] += 1
            self.examples.setdefault(entry.failure, entry.message)
            return
        self.captions += 1
        self.flags.update(flags_of(entry))
        for text in entry.captions:
            words = words_of(text)
            self.lengths.append(len(words))
            self.openings[opening(words)] += 1
            self.vocabulary.update(words)
        self._add_meta(entry)

    def _add_meta(self, entry: Entry) -> None:
        """Count what the metadata of a caption say."""
        meta = entry.meta
        if not meta:
            return
        revision = f" at {meta['revision']}" if meta.get("revision") else ""
        self.made_by[f"{meta.get('model')}{revision}", str(meta.get("engine"))] += 1
        self.prompts[str(meta.get("prompt", ""))] += 1
        self.stop_reasons.update(str(reason) for reason in listed(meta.get("stop_reasons")))
        self.caption_tokens += caption_tokens_of(entry)

    @property
    def top_openings(self) -> list[tuple[str, int]]:
        """The most frequent openings that several captions share, with their counts."""
        return [(text, count) for text, count in self.openings.most_common(_TOP) if count > 1 and text]

    @property
    def words(self) -> int:
        """Number of words in all captions."""
        return self.vocabulary.total()

    @property
    def once(self) -> int:
        """Number of different words that occur once."""
        return sum(count == 1 for count in self.vocabulary.values())


def choose(strata: Sequence[str], most: int, seed: int) -> list[int]:
    """Choose at most `most` videos, spread over the strata: small strata are taken whole, the others share the rest.

    Returns:
        Indexes in `strata`, ascending.
    """
    if len(strata) <= most:
        return list(range(len(strata)))
    members: dict[str, list[int]] = {}
    for place, stratum in enumerate(strata):
        members.setdefault(stratum, []).append(place)
    generator, chosen = random.Random(seed), list[int]()
    by_size = sorted(members.values(), key=len)
    for number, places in enumerate(by_size):
        share = (most - len(chosen)) // (len(by_size) - number)
        chosen += places if len(places) <= share else generator.sample(places, share)
    return sorted(chosen)


def flags_of(entry: Entry) -> list[str]:
    """Flags of a caption: from the run's checks, and from people's edits and verdicts."""
    flags = entry.meta.get("flags")
    found = flags.split() if isinstance(flags, str) else [str(flag) for flag in listed(flags)]
    by_people = {"edited": is_edited(entry), "out_of_date": entry.outdated, verdict_of(entry): verdict_of(entry)}
    return found + [name for name, holds in by_people.items() if holds]


def caption_tokens_of(entry: Entry) -> list[int]:
    """Number of tokens of each kept caption, if known."""
    tokens, kept = listed(entry.meta.get("completion_tokens")), listed(entry.meta.get("kept"))
    found = [tokens[place] for place in kept if isinstance(place, int) and 0 <= place < len(tokens)]
    return [count for count in found if _is_count(count)]


def frame_seconds_of(entry: Entry) -> list[float]:
    """Times in seconds of the frames that the model saw; empty if not known."""
    seconds = listed(entry.meta.get("frame_timestamps"))
    return [float(second) for second in seconds if isinstance(second, int | float) and 0 <= second < _MAX_PLAUSIBLE]


def shown_of(answers: Sequence[Entry]) -> Entry:
    """The answer about a video whose frames are shown: with known frames if possible, else one that did not fail."""
    return max(answers, key=lambda entry: (bool(frame_seconds_of(entry)) and not entry.failure, not entry.failure))


def shown_text(text: str, entry: Entry) -> str:
    """A structured caption as indented JSON; any other text as it is."""
    if entry.structured:
        with suppress(ValueError):
            return json.dumps(json.loads(text), indent=2, ensure_ascii=False)
    return text


def seconds_of(entry: Entry) -> float | None:
    """Time in seconds of the last frame that the model saw; None if not known."""
    return max(frame_seconds_of(entry), default=None)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and 0 <= value < _MAX_PLAUSIBLE


def listed(value: Any) -> list[Any]:
    """The value if it is a list, else an empty one. A data set may hold anything."""
    return value if isinstance(value, list) else []
