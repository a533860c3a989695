"""What was said of the clips of a video, for one prompt about all of it; in parts, where that is long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reelscribe.values import Caption, Clip, Failure


@dataclass(frozen=True, kw_only=True)
class Passage:
    """What was said of a stretch of a video."""

    start: float
    """In seconds from the first frame of the file."""
    end: float
    text: str

    def __str__(self) -> str:
        line_break = "\n" if "\n" in self.text else " "
        return f"{self.start:.1f}-{self.end:.1f} s:{line_break}{self.text}"


def passage_of(clip: Clip, captions: Sequence[Caption]) -> Passage:
    """What tasks said of a clip: the text of one, or of each behind its name."""
    start, end = next(
        (
            (caption.meta["clip_start"], caption.meta["clip_end"])
            for caption in captions
            if caption.meta.get("clip_end") is not None
        ),
        (clip.start_seconds, clip.start_seconds if clip.end_seconds is None else clip.end_seconds),
    )
    texts = [_told(caption) for caption in captions]
    if len(captions) > 1:
        texts = [f"{caption.id.task}: {text}" for caption, text in zip(captions, texts, strict=True)]
    return Passage(start=start, end=end, text="\n".join(texts))


def _told(caption: Caption) -> str:
    """Its text; of one that has events these, since they are on the film's clock."""
    if caption.events is None:
        return caption.kept_text
    return "\n".join(str(Passage(start=event.start, end=event.end, text=event.text)) for event in caption.events)


class Film:
    """The passages of a video on their way to one prompt.

    Where they are too long for that, parts are asked with the same prompt, and what came of them are the passages then.

    Args:
        passages: in order; at least one.
        most_chars: letters that a prompt may hold of them; but there are at least two in each.
    """

    def __init__(self, passages: Sequence[Passage], most_chars: int) -> None:
        self._passages, self._most = list(passages), most_chars
        self._numbers = 0
        """Of parts so far."""
        self._asked: dict[int, list[Passage]] = {}
        self._answers: dict[int, str] = {}
        self.failure: Failure | None = None
        """Of a part: then there is no answer about the video."""

    @property
    def waits(self) -> bool:
        """Whether parts are asked that have no answer."""
        return len(self._answers) < len(self._asked)

    def texts(self) -> dict[int, str]:
        """What to put into prompts now, by the numbers of parts; by 0 where all fits into one."""
        if self._asked:
            self._passages = [
                Passage(start=part[0].start, end=part[-1].end, text=self._answers[number])
                for number, part in self._asked.items()
            ]
            self._asked, self._answers = {}, {}
        parts = list(self._parts())
        if len(parts) == 1:
            return {0: _joined(parts[0])}
        self._asked = dict(enumerate(parts, self._numbers + 1))
        self._numbers += len(parts)
        return {number: _joined(part) for number, part in self._asked.items()}

    def take(self, number: int, outcome: Caption | Failure) -> None:
        """Take what came of a part."""
        if isinstance(outcome, Failure):
            self.failure = outcome
        self._answers[number] = outcome.kept_text if isinstance(outcome, Caption) else ""

    def _parts(self) -> Iterator[list[Passage]]:
        part: list[Passage] = []
        for passage in self._passages:
            if len(part) >= _FEWEST and len(_joined([*part, passage])) > self._most:
                yield part
                part = []
            part.append(passage)
        yield part


_FEWEST = 2
"""Passages in each part but the last: with fewer there would never be an end."""


def _joined(passages: Sequence[Passage]) -> str:
    return "\n".join(map(str, passages))
