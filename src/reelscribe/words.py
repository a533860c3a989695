"""What a text is made of: words, tokens of a tokenizer, a language."""

import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from reelscribe.errors import MissingExtraError, SettingsError

UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""Thai, Lao, Burmese, Khmer, kana and Han: scripts that are written without spaces."""
_LETTER: Final = f"(?:(?!{UNSPACED.pattern})\\w)"
WORD: Final = re.compile(f"{UNSPACED.pattern}|{_LETTER}+(?:['\u2019-]{_LETTER}+)*")
"""May have apostrophes and hyphens within. In scripts that are written without spaces, a character counts as a word."""
_CERTAIN: Final = 20.0
"""By how much another language must be likelier, in the logarithm. Of a text of a few words none is; related languages
are as near as 15."""


def words_of(text: str) -> list[str]:
    """The words of a text, in small letters."""
    return WORD.findall(text.lower())


def whole_words(text: str) -> str:
    """A pattern that finds a text where it begins and ends with whole words."""
    begins = "" if UNSPACED.match(text[:1]) else f"(?<!{_LETTER})"
    ends = "" if UNSPACED.match(text[-1:]) else f"(?!{_LETTER})"
    return f"{begins}{re.escape(text)}{ends}"


@lru_cache(maxsize=4)
def token_counter(folder: Path) -> Callable[[str], int]:
    """Counts the tokens of a text, special ones included, with the `tokenizer.json` of a checkpoint.

    Raises:
        SettingsError: the folder has no such file, or it cannot be read.
        MissingExtraError: the package tokenizers is not installed.
    """
    file = folder / "tokenizer.json" if folder.is_dir() else folder
    if not file.is_file():
        raise SettingsError(
            f"there is no {file}; tokenizer takes the folder of a text encoder's fast tokenizer. Transformers writes "
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


def known_languages() -> frozenset[str]:
    """The codes of ISO 639 that `is_in_language` knows.

    Raises:
        MissingExtraError: the extra `language` is not installed.
    """
    return frozenset(_ranked(""))


def is_in_language(text: str, code: str) -> bool:
    """Whether a text may be in a language: no other is much likelier.

    Raises:
        MissingExtraError: the extra `language` is not installed.
    """
    scores = _ranked(text)
    return max(scores.values()) - scores[code] < _CERTAIN


def _ranked(text: str) -> dict[str, float]:
    """The logarithm of how likely each language is."""
    try:
        from py3langid import rank
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"telling languages needs {exc.name}: pip install 'reelscribe[language]'") from exc
    return dict(rank(text))
