"""Counts of an audit for one task: 64 bytes a caption, and tables of bounded size."""

import json
import math
from array import array
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from reelscribe.audit.alike import Alike, Copies
from reelscribe.audit.counting import Common
from reelscribe.audit.findings import MARKED, script_of
from reelscribe.faults import texts_in
from reelscribe.report.entries import Entry
from reelscribe.report.overview import flags_of
from reelscribe.report.words import opening, phrases
from reelscribe.wording import ready_wordings
from reelscribe.wording.times import is_past_end
from reelscribe.words import language_of, tells_languages, words_of

_EDGES: Final = (2, 5, 10, 20, 60)
"""Limits in seconds between the groups of clip lengths for which mean words are counted."""
_BITS: Final[Mapping[str, int]] = {name: 1 << number for number, name in enumerate(MARKED)}
"""Bit of each finding in the bit mask of a caption."""
_TOP: Final = 15
"""Number of most frequent words that are listed."""
_EXAMPLES: Final = 3
"""Number of examples of each finding."""


class Figures:
    """Counts the captions of a task.

    Args:
        count_tokens: counts the tokens of a text; None not to count them.
        max_tokens: maximum tokens of a caption.
    """

    def __init__(self, *, count_tokens: Callable[[str], int] | None = None, max_tokens: int | None = None) -> None:
        self._count_tokens, self._max_tokens = count_tokens, max_tokens
        self.failed: Counter[str] = Counter()
        """Failures by kind."""
        self.without_text = 0
        """Number of answers whose text was not written to the output."""
        self.flags: Counter[str] = Counter()
        self.words: Counter[int] = Counter()
        """Captions by number of words."""
        self.tokens: Counter[int] = Counter()
        """Captions by number of tokens."""
        self.scripts: Counter[str] = Counter()
        self.languages: Counter[str] = Counter()
        """Captions by language, if the extra `language` is installed; "" for those of which it is not certain."""
        self._tells_languages = tells_languages()
        self.openings, self.phrases, self.vocabulary = Common(), Common(), Common()
        self._durations: dict[int, list[int]] = {}
        self._sums = np.zeros(6)
        """Sums over captions of 1, x, y, xx, yy and xy, with x the seconds of the clip and y the words."""
        self._alike, self._copies = Alike(), Copies()
        self._bits, self._rows, self._scripts_of = array("I"), array("Q"), array("H")
        self._script_numbers: dict[str, int] = {}
        self.clips: dict[int, str] = {}
        """Names of the clips of `examples`, by the number of the caption."""

    @property
    def captions(self) -> int:
        """Number of audited captions."""
        return len(self._bits)

    def add(self, entry: Entry) -> None:
        """Count an answer."""
        if entry.failure is not None:
            self.failed[entry.failure] += 1
            return
        if not entry.captions:
            self.without_text += 1
            return
        flags = flags_of(entry)
        self.flags.update(flags)
        for text in entry.captions:
            self._add(entry, text, flags)

    def _add(self, entry: Entry, caption: str, flags: list[str]) -> None:
        """Count one caption, and remember its findings."""
        text = _plain(entry, caption)
        words, script = words_of(text), script_of(text)
        found = [*flags, *self._found(entry, text)]
        if self._is_too_long(caption):
            found.append("too_long")
        self._bits.append(sum({_BITS[name] for name in found if name in _BITS}))
        self._rows.append(entry.row)
        self._scripts_of.append(self._script_numbers.setdefault(script, len(self._script_numbers)))
        self._alike.add(text, clip_name(entry))
        self._copies.add(entry.meta.get("fingerprint") or "", clip_name(entry))
        self.scripts[script] += 1
        if self._tells_languages:
            self.languages[language_of(text)] += 1
        self.words[len(words)] += 1
        self.vocabulary.add(words)
        if words:
            self.openings.add([opening(words)])
            self.phrases.add(set(phrases(words)))
        seconds = _seconds(entry)
        if seconds is not None:
            self._add_duration(seconds, len(words))

    def _found(self, entry: Entry, text: str) -> Iterator[str]:
        """Yield the findings that follow from one text and its clip."""
        wordings = ready_wordings()
        if wordings.find("refusal", text):
            yield "refusal"
        if wordings.find("mention", text):
            yield "mention"
        seconds = _seconds(entry)
        if seconds is not None and entry.events is None and is_past_end(text, seconds):
            yield "past_end"

    def _is_too_long(self, caption: str) -> bool:
        """Count the tokens of a caption, if wanted. Returns whether there are more than allowed."""
        if self._count_tokens is None:
            return False
        tokens = self._count_tokens(caption)
        self.tokens[tokens] += 1
        return self._max_tokens is not None and tokens > self._max_tokens

    def _add_duration(self, seconds: float, words: int) -> None:
        """Count a caption by the length of its clip, and update the sums for the correlation."""
        place = sum(seconds >= edge for edge in _EDGES)
        captions = self._durations.setdefault(place, [0, 0])
        captions[0] += 1
        captions[1] += words
        self._sums += (1, seconds, words, seconds * seconds, words * words, seconds * words)

    def close(self) -> None:
        """Find what follows only from all captions together: duplicates, near copies, other scripts."""
        bits = np.frombuffer(self._bits, np.uint32) if self._bits else np.zeros(0, np.uint32)
        same = self._alike.same()
        bits[same] |= _BITS["duplicate"]
        bits[self._alike.near() & ~same] |= _BITS["near_duplicate"]
        bits[self._copies.near()] |= _BITS["near_copy"]
        if self.scripts:
            most = self._script_numbers[self.scripts.most_common(1)[0][0]]
            none = self._script_numbers.get("", most)
            scripts = np.frombuffer(self._scripts_of, np.uint16)
            bits[(scripts != most) & (scripts != none)] |= _BITS["other_script"]

    def names_of(self, place: int) -> list[str]:
        """Names of the findings of a caption, given its number among those of the task."""
        return [name for name, bit in _BITS.items() if self._bits[place] & bit]

    def examples(self) -> set[int]:
        """Numbers of the captions that serve as examples: the first few of each finding."""
        return {int(place) for name in MARKED for place in np.flatnonzero(self._with(name))[:_EXAMPLES]}

    # Results

    def count(self, name: str) -> tuple[int, int]:
        """Number of captions with a finding, and number of all (for "failed": of all answers)."""
        answers = self.captions + self.without_text + self.failed.total()
        if name == "failed":
            return self.failed.total(), answers
        if name in ("common_opening", "common_phrase"):
            top = (self.openings if name == "common_opening" else self.phrases).top(1)
            return top[0][1] if top else 0, self.captions
        return int(np.count_nonzero(self._with(name))), self.captions

    def _with(self, name: str) -> NDArray[np.bool_]:
        bits = np.frombuffer(self._bits, np.uint32) if self._bits else np.zeros(0, np.uint32)
        found: NDArray[np.bool_] = (bits & _BITS[name]) != 0
        return found

    def told(self, common: float) -> dict[str, Any]:
        """The figures as JSON values.

        Args:
            common: share of captions, from 0 to 1, above which openings and phrases are listed.
        """
        return {
            "captions": self.captions,
            "failed": dict(self.failed.most_common()),
            "without_text": self.without_text,
            "findings": self._told_findings(),
            "flags": dict(self.flags.most_common()),
            "words": _told_lengths(self.words),
            "tokens": _told_lengths(self.tokens),
            "scripts": {name or "none": count for name, count in self.scripts.most_common()},
            "languages": {code or "uncertain": count for code, count in self.languages.most_common()},
            "openings": self._told_common(self.openings, common),
            "phrases": self._told_common(self.phrases, common),
            "phrases_missing": self.phrases.missing,
            "vocabulary": self._told_vocabulary(),
            "durations": [
                {
                    "from_seconds": (0, *_EDGES)[place],
                    "to_seconds": (*_EDGES, None)[place],
                    "captions": count,
                    "mean_words": round(words / count, 1),
                }
                for place, (count, words) in sorted(self._durations.items())
            ],
            "correlation": self._correlation(),
        }

    def _told_findings(self) -> dict[str, Any]:
        """Count, share and examples of each finding."""
        told: dict[str, Any] = {}
        rows = np.frombuffer(self._rows, np.uint64) if self._rows else np.zeros(0, np.uint64)
        for name in MARKED:
            found = np.flatnonzero(self._with(name))
            if len(found):
                told[name] = {
                    "captions": len(found),
                    "share": round(len(found) / self.captions, 6),
                    "rows": [int(row) for row in rows[found[:_EXAMPLES]]],
                    "clips": [self.clips[int(place)] for place in found[:_EXAMPLES]],
                }
        return told

    def _told_common(self, counted: Common, common: float) -> list[dict[str, Any]]:
        found = counted.above(common * self.captions)
        several = ((text, count) for text, count in found if count + counted.missing > 1)
        return [{"text": text, "captions": count, "share": round(count / self.captions, 6)} for text, count in several]

    def _told_vocabulary(self) -> dict[str, Any]:
        """Number of words and of different words. The latter is a lower bound once rare words were dropped."""
        words, different = self.vocabulary.total, len(self.vocabulary)
        return {
            "words": words,
            "different": different,
            "is_exact": not self.vocabulary.missing,
            "type_token_ratio": round(different / words, 6) if words else None,
            "top": [list(item) for item in self.vocabulary.top(_TOP)],
        }

    def _correlation(self) -> float | None:
        """Pearson's correlation between seconds of clips and words of captions; None if one of them does not vary."""
        count, x, y, xx, yy, xy = self._sums
        spread = (count * xx - x * x) * (count * yy - y * y)
        return round(float((count * xy - x * y) / math.sqrt(spread)), 4) if spread > 1e-9 else None


def _told_lengths(counts: Counter[int]) -> dict[str, Any] | None:
    """Mean, smallest, largest and some quantiles of lengths, given the number of captions of each length."""
    if not counts:
        return None
    lengths = np.array(sorted(counts))
    numbers = np.array([counts[length] for length in sorted(counts)])
    upto = numbers.cumsum()
    quantiles = {
        f"p{percent}": int(lengths[np.searchsorted(upto, percent / 100 * upto[-1])]) for percent in (5, 50, 95)
    }
    mean = round(float((lengths * numbers).sum() / upto[-1]), 1)
    return {"mean": mean, "least": int(lengths[0]), **quantiles, "most": int(lengths[-1])}


def _plain(entry: Entry, text: str) -> str:
    """A caption as plain text. Of a structured caption or events, the texts within, joined by ". "."""
    if entry.events is not None:
        return ". ".join(event.text for event in entry.events)
    if not entry.structured:
        return text
    try:
        return ". ".join(texts_in(json.loads(text)))
    except ValueError:
        return text


def clip_name(entry: Entry) -> str:
    """The name of a clip. Rows with the same clip have the same name, unless its bytes are in the row."""
    clip = entry.video.clip
    if clip is not None and isinstance(clip.source, bytes):
        return f"row {entry.row}, {entry.slot}"
    return entry.video.name


def _seconds(entry: Entry) -> float | None:
    """Length of the clip in seconds, from the metadata; None if not known."""
    start, end = (entry.meta.get(name) for name in ("clip_start", "clip_end"))
    return float(end - start) if isinstance(start, int | float) and isinstance(end, int | float) else None
