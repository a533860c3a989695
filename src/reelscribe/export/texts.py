"""The wording of captions on their way to a trainer: openings, trigger word, prefix and suffix, newlines, tokens."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from reelscribe.errors import MissingExtraError, SettingsError
from reelscribe.export.choices import Newlines

TRIGGER_MARK: Final = "[trigger]"
"""In a caption, where the trigger word goes; without it the word goes in front. (ai-toolkit's own name for it.)"""
_KIND: Final = r"(?:video|clip|footage|film|recording)"
_SUBJECT: Final = rf"(?:the|this|a|an)\s+(?:\w+\s+)?(?:{_KIND}|scene|sequence)(?:\s+clip)?"
_VERB: Final = (
    r"(?:shows|depicts|features|captures|presents|displays|portrays|showcases|(?:begins|opens|starts)\s+with)"
)
_OPENING: Final = re.compile(
    rf"(?:in\s+{_SUBJECT}\s*,?\s+)?"
    rf"(?:{_SUBJECT}\s+{_VERB}\s+|(?:the|this|a)\s+{_KIND}\s+of\s+|footage\s+of\s+|(?:we|you)\s+(?:can\s+)?see\s+)"
    rf"|in\s+{_SUBJECT}\s*,\s*",
    re.IGNORECASE,
)
"""How captions begin that say first that they are of a video."""


@dataclass(frozen=True, kw_only=True)
class Wording:
    """What is done to each caption, in this order: newlines, opening, suffix, prefix, trigger word."""

    newlines: Newlines = "keep"
    strip_openings: bool = False
    """Take away "The video shows" and the like; the next word then begins with a capital."""
    trigger: str = ""
    """A word that stands for what is trained: in place of `[trigger]` in the caption, else in front, with a comma."""
    prefix: str = ""
    suffix: str = ""

    def texts_of(self, caption: str) -> list[str]:
        """The texts that a caption becomes: one, or one for each line; none of a blank one."""
        lines = re.split(r"[\r\n\v\f\x1c-\x1e\x85\u2028\u2029]+", caption)
        if self.newlines == "fold":
            lines = [" ".join(line.strip() for line in lines if line.strip())]
        elif self.newlines == "keep":
            lines = [caption]
        return [self._worded(line.strip()) for line in lines if line.strip()]

    def _worded(self, text: str) -> str:
        text = f"{self.prefix}{without_opening(text) if self.strip_openings else text}{self.suffix}"
        if not self.trigger:
            return text
        return text.replace(TRIGGER_MARK, self.trigger) if TRIGGER_MARK in text else f"{self.trigger}, {text}"


def without_opening(text: str) -> str:
    """A caption without the words that say no more than that it is one; as it is, if nothing else would be left."""
    found = _OPENING.match(text)
    rest = text[found.end() :] if found else ""
    return rest[:1].upper() + rest[1:] if rest else text


def token_counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text, special ones included, with the `tokenizer.json` of a checkpoint.

    Raises:
        SettingsError: the folder has no such file, or it cannot be read.
        MissingExtraError: the package tokenizers is not installed.
    """
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise SettingsError(
            f"there is no {file}; --tokenizer takes the folder of a text encoder's fast tokenizer. Transformers writes "
            "one of any other: AutoTokenizer.from_pretrained(NAME).save_pretrained(FOLDER)."
        )
    try:
        from tokenizers import Tokenizer
    except ModuleNotFoundError as exc:
        message = "counting tokens needs tokenizers: pip install 'reelscribe[transformers]'"
        raise MissingExtraError(message) from exc
    try:
        tokenizer: Any = Tokenizer.from_file(str(file))
    except Exception as exc:  # it raises Exception itself
        raise SettingsError(f"{file} cannot be read as a tokenizer: {exc}.") from exc
    return lambda text: len(tokenizer.encode(text).ids)
