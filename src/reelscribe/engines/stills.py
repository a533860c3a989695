"""Frames as images, each beside its time in words, for models without video and for servers.

If a family's own processor writes words beside the frames of a video, these are used, since its models were trained on
them. All other models get the same words, which say what the images are.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

HEARD: Final = "The sound of the video:"
"""The text before the sound of a clip, if sound follows the frames as a part of its own."""
PLACE: Final = "\uf8ff"
"""The mark for a clip in a message: a private-use character, which no chat template treats specially."""


@dataclass(frozen=True, kw_only=True)
class Words:
    """The texts beside frames.

    Formats may hold `number` (from 1), `seconds`, `whole` (seconds, rounded down), `minutes` (as 01:11) and `hours` (as
    00:01:11.500).
    """

    before: str = ""
    """The format of the text before each frame."""
    after: str = ""
    """The format of the text after each frame."""
    between: str = ""
    """The text between a frame with its texts and the next."""
    lead: str = ""
    """The text before everything else, on a line of its own."""

    def around(self, times: Sequence[float]) -> list[str]:
        """The texts before each frame and after the last one: one more than there are frames. Without `lead`.

        Args:
            times: of the frames, in seconds.
        """
        told = [_told(number, seconds) for number, seconds in enumerate(times, 1)]
        before = [self.before.format_map(each) for each in told]
        after = [self.after.format_map(each) for each in told]
        starts = ["", *(each + self.between for each in after[:-1])]
        return [*map("".join, zip(starts, before, strict=True)), *after[-1:]]


@dataclass(frozen=True, kw_only=True)
class Stills:
    """How frames are shown to a checkpoint as images."""

    image: str
    """The text that its chat template writes for an image."""
    words: Words

    def text(self, times: Sequence[float]) -> str:
        """The text that stands in a prompt for a clip with frames at these times, in seconds."""
        return "\n".join(filter(None, [self.words.lead, self.image.join(self.words.around(times))]))


OTHERS: Final = Words(lead="A video, as frames, each after its time:", before="{seconds:.2f} s")
"""The words for models whose own are not known."""
_SECONDS: Final = Words(before="<{seconds:.1f} seconds>")
_FAMILIES: Final[Mapping[str, Words]] = {
    r"qwen3[._-]?vl|qwen3[._][56]|lfm3[._-]?vl": _SECONDS,
    r"glm4v|glm-4\.[15]v": Words(after="{whole}"),
    r"glm46v|glm-4\.6v": Words(after="{seconds:.1f} seconds"),
    r"gemma-?4": Words(before="{minutes} ", between=" "),
    r"molmo-?2": Words(before="{seconds:.1f} ", between=" "),
    r"video[_-]?llama[_-]?3": Words(before="Time {seconds:.1f}s:", between=","),
    r"smolvlm": Words(before="\nFrame from {minutes}:"),
    r"kimi[._-]k2[._-]?5": Words(before="{hours}"),
    # InternVL itself numbers frames and writes no times, but it can read them.
    r"internvl": Words(before="Frame{number} at {seconds:.1f} seconds: "),
}
"""The words that a family's processor writes beside the frames of a video, by a regular expression that is searched for
in the model's name in lower case. The name is all that a server tells of a model."""


def words_of(name: str) -> Words:
    """The words for a model, by its name on the hub or a server, or by its type in Transformers."""
    small = name.lower()
    return next((words for pattern, words in _FAMILIES.items() if re.search(pattern, small)), OTHERS)


def _told(number: int, seconds: float) -> dict[str, float | str]:
    whole = int(seconds)
    minutes = f"{whole // 60:02d}:{whole % 60:02d}"
    milliseconds = round(seconds * 1000)
    hours = f"{milliseconds // 3_600_000:02d}:{milliseconds // 60_000 % 60:02d}:{milliseconds / 1000 % 60:06.3f}"
    return {"number": number, "seconds": seconds, "whole": whole, "minutes": minutes, "hours": hours}
