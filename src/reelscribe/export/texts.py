"""Changes the wording of captions for a trainer: newlines, openings, suffix, prefix and trigger word."""

import re
from dataclasses import dataclass
from typing import Final

from reelscribe.export.choices import Newlines
from reelscribe.wording import ready_wordings

TRIGGER_MARK: Final = "[trigger]"
"""Placeholder of the trigger word in a caption, as in ai-toolkit. Without it, the word goes in front."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """Changes to each caption, in this order: newlines, opening, suffix, prefix, trigger word."""

    newlines: Newlines = "keep"
    strip_openings: bool = False
    """Whether to remove openings such as "The video shows". The next word then gets a capital letter."""
    trigger: str = ""
    """A word that stands for what is trained. It replaces `[trigger]`; without that, it goes in front, with a comma."""
    prefix: str = ""
    suffix: str = ""

    def texts_of(self, caption: str) -> list[str]:
        """The texts of a caption: one, or one for each line; none if it is blank."""
        lines = re.split(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", caption)
        if self.newlines == "fold":
            lines = [" ".join(line.strip() for line in lines if line.strip())]
        elif self.newlines == "keep":
            lines = [caption]
        return [self._worded(line.strip()) for line in lines if line.strip()]

    def _worded(self, text: str) -> str:
        text = f"{self.prefix}{ready_wordings().without_opening(text) if self.strip_openings else text}{self.suffix}"
        if not self.trigger:
            return text
        return text.replace(TRIGGER_MARK, self.trigger) if TRIGGER_MARK in text else f"{self.trigger}, {text}"
