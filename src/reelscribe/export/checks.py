"""Checks an export before anything is written: finds what prevents it, and what the trainer would reject or change."""

from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from reelscribe.errors import DatasetError
from reelscribe.export.choices import Placing
from reelscribe.export.samples import Sample, unknown_name
from reelscribe.export.targets import Target
from reelscribe.export.videos import Names, suffix_of, trouble

_WARNING_SHARE: Final = 0.5
"""If a larger share of the captions or clips breaks a trainer's limit, nothing is written."""


@dataclass(kw_only=True)
class Summary:
    """The result of an export, or of a dry run."""

    folder: Path
    samples: int = 0
    """Number of samples: videos or stretches."""
    texts: int = 0
    """Number of captions."""
    left_out: Counter[str] = field(default_factory=Counter)
    """Captions that were left out, by reason."""
    videos_left_out: Counter[str] = field(default_factory=Counter)
    """Videos with captions that were left out, by reason."""
    warnings: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    """Samples that could not be written, by kind of failure. The same command tries them again."""
    examples: list[str] = field(default_factory=list)
    """Messages of some of the failures."""
    notes: list[str] = field(default_factory=list)
    """Notes on unfinished runs and on edits without effect."""
    written: bool = False
    """Whether files were written; False for a dry run."""


class Checks:
    """Checks each sample, and reports at the end.

    Args:
        target: the trainer.
        placing: how videos get into the folder.
        count: counts the tokens of a text; None not to check them.
        most_tokens: maximum tokens of a caption; None for no limit.
        columns: columns that the user chose.
        of_each: columns that every sample has.
    """

    def __init__(
        self,
        target: Target,
        placing: Placing,
        *,
        count: Callable[[str], int] | None,
        most_tokens: int | None,
        columns: Sequence[str],
        of_each: Collection[str],
    ) -> None:
        self._target, self._placing = target, placing
        self._count, self._most_tokens, self._unknown = count, most_tokens, set(columns) - set(of_each)
        self._of_each = of_each
        self._troubles: Counter[str] = Counter()
        self._example = ""
        self._broken: Counter[int] = Counter()
        self._kinds: Counter[str] = Counter()
        self._unread = self._long = 0
        self._names = Names()

    def stands_in_the_way(self, sample: Sample) -> bool:
        """Whether the sample's video cannot be placed in this way, so that nothing can be written."""
        message = trouble(sample.entry.video, self._placing, stretches=self._target.stretches)
        if message:
            self._troubles[message] += 1
            self._example = self._example or sample.entry.video.name
        return message is not None

    def look_at(self, sample: Sample) -> None:
        """Check a sample that can be written."""
        if self._count and self._most_tokens:
            self._long += sum(self._count(item.text) > self._most_tokens for item in sample.texts)
        if self._target.rules:
            header = sample.header
            self._unread += header is None
            broken = (number for number, rule in enumerate(self._target.rules) if header and not rule.holds(header))
            self._broken.update(broken)
        suffix = suffix_of(sample, self._placing)
        if self._target.suffixes and suffix not in self._target.suffixes:
            self._kinds[suffix] += 1
        if self._target.by_name and self._placing == "in-place":
            self._names.name(sample)
        self._unknown -= {name for name in self._unknown if sample.texts[0].named.knows(name)}

    def finish(self, summary: Summary) -> None:
        """Raise the errors that were found, and add the warnings to the summary.

        Raises:
            DatasetError: videos cannot be placed in this way, or most captions or clips break a limit.
            SettingsError: a chosen column is one that no row has.
        """
        self._names.close()
        if self._troubles:
            reasons = "; ".join(f"{count:,} {message}" for message, count in self._troubles.items())
            raise DatasetError(f"of the videos, {reasons} (as {self._example}). Nothing is written.")
        if summary.samples and self._unknown:
            raise unknown_name("--columns", min(self._unknown), self._of_each)
        summary.warnings += [*self._of_tokens(summary), *self._of_rules(summary), *self._of_files()]

    def _of_tokens(self, summary: Summary) -> Iterator[str]:
        """Yield a warning about captions with too many tokens. Raises DatasetError if most have."""
        if not self._long:
            return
        what = f"{self._long:,} of {summary.texts:,} captions are longer than {self._most_tokens:,} tokens"
        if self._long > summary.texts * _WARNING_SHARE:
            raise DatasetError(
                f"{what}, which is most of them: nothing is written. Ask for shorter ones, raise --max-tokens, or "
                f"leave them out with --where 'tokens<={self._most_tokens}'."
            )
        yield f"{what}; {self._target.title} would cut them off"

    def _of_rules(self, summary: Summary) -> Iterator[str]:
        """Yield warnings about clips that break the trainer's rules. Raises DatasetError if it would skip most."""
        title = self._target.title
        for number, rule in enumerate(self._target.rules):
            broken = self._broken[number]
            what = f"{broken:,} of {summary.samples:,} clips {rule.words}"
            if rule.refuses and broken > summary.samples * _WARNING_SHARE:
                raise DatasetError(
                    f"{what}, which {title} does not take: nothing is written. Split films into clips "
                    "that it takes, or leave these out with --where, as 'seconds<=61' or 'frames>=61'."
                )
            if broken:
                yield f"{what}: {title} {'does not take' if rule.refuses else 'trims or resizes'} them"
        if self._unread:
            yield f"clips whose headers cannot be read, so that they were not held against the rules: {self._unread:,}"

    def _of_files(self) -> Iterator[str]:
        """Yield warnings about files that the trainer cannot read, or cannot tell apart."""
        title = self._target.title
        for suffix, number in self._kinds.items():
            yield f"videos that end in {suffix}, which {title} does not read: {number:,}"
        if repeated := self._names.repeated:
            what = f"videos that are called as others are, and that {title} takes for these: {repeated:,}"
            yield f"{what}. --videos symlink gives each a name of its own."
