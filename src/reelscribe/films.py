"""Joins the answers about a video's clips into one prompt about the whole video, in several steps if they are long."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from reelscribe.values import Caption, Clip, Failure


@dataclass(frozen=True, kw_only=True)
class Passage:
    """The text about a stretch of a video. Times are in seconds from the first frame of the file."""

    start: float
    end: float
    text: str

    def __str__(self) -> str:
        line_break = "\n" if "\n" in self.text else " "
        return f"{self.start:.1f}-{self.end:.1f} s:{line_break}{self.text}"


def passage_of(clip: Clip, captions: Sequence[Caption]) -> Passage:
    """The answers of tasks about a clip: the text of one task, or each text after its task's name."""
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
    """A caption's text. If it has events, these are written instead, since their times are on the film's clock."""
    if caption.events is None:
        return caption.kept_text
    return "\n".join(str(Passage(start=event.start, end=event.end, text=event.text)) for event in caption.events)


class Film:
    """Reduces the passages of a video until they fit into one prompt.

    If they are too long, they are divided into parts, and the task's prompt is asked about each part. The answers
    replace the passages. This repeats until all passages fit.

    Args:
        passages: passages in order; at least one.
        most_chars: maximum characters of passages in a prompt. A part has at least two passages, however long.
    """

    def __init__(self, passages: Sequence[Passage], most_chars: int) -> None:
        self._passages, self._most = list(passages), most_chars
        self._numbers = 0
        """Number of parts so far."""
        self._asked: dict[int, list[Passage]] = {}
        self._answers: dict[int, str] = {}
        self.failure: Failure | None = None
        """Failure of a part, if there was one; then there is no answer about the video."""

    @property
    def waits(self) -> bool:
        """Whether parts were asked and have no answer yet."""
        return len(self._answers) < len(self._asked)

    def texts(self) -> dict[int, str]:
        """Texts for the prompts to ask now, by part number. The number is 0 if all passages fit into one prompt."""
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
        """Store the outcome of a part."""
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
"""Minimum passages in each part but the last. With fewer, the number of passages would not shrink."""


def _joined(passages: Sequence[Passage]) -> str:
    return "\n".join(map(str, passages))
