"""The words, the tokens and the language of a text."""

import heapq
import importlib.util
import re
from collections.abc import Callable
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

from reelscribe.errors import MissingExtraError, SettingsError

UNSPACED: Final = re.compile("[\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff\u3040-\u30ff\u3400-\u9fff\U00020000-\U0003ffff]")
"""A character of Thai, Lao, Burmese, Khmer, kana or Han: scripts that are written without spaces."""
_LETTER: Final = f"(?:(?!{UNSPACED.pattern})\\w)"
WORD: Final = re.compile(f"{UNSPACED.pattern}|{_LETTER}+(?:['\u2019-]{_LETTER}+)*")
"""A word, which may contain apostrophes and hyphens. In scripts without spaces, each character counts as a word."""
_CERTAIN: Final = 20.0
"""The difference in log-likelihood by which another language must be likelier. In a text of a few words no language is
likelier by that much. Related languages differ by as little as 15."""


def words_of(text: str) -> list[str]:
    """The words of a text, in lower case."""
    return WORD.findall(text.lower())


def whole_words(text: str) -> str:
    """A regular expression that finds a text only as whole words."""
    begins = "" if UNSPACED.match(text[:1]) else f"(?<!{_LETTER})"
    ends = "" if UNSPACED.match(text[-1:]) else f"(?!{_LETTER})"
    return f"{begins}{re.escape(text)}{ends}"


@lru_cache(maxsize=4)
def token_counter(folder: Path) -> Callable[[str], int]:
    """A function that counts the tokens of a text, special ones included, with a checkpoint's `tokenizer.json`.

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
    except Exception as exc:  # tokenizers raises `Exception` itself
        raise SettingsError(f"{file} cannot be read as a tokenizer: {exc}.") from exc
    return lambda text: len(tokenizer.encode(text).ids)


def known_languages() -> frozenset[str]:
    """The codes of ISO 639 that `is_in_language` knows.

    Raises:
        MissingExtraError: the extra `language` is not installed.
    """
    return frozenset(_ranked(""))


def is_in_language(text: str, code: str) -> bool:
    """Whether a text may be in a language, because no other language is much likelier.

    Args:
        text: the text.
        code: the language's code of ISO 639, one of `known_languages`.

    Raises:
        MissingExtraError: the extra `language` is not installed.
    """
    scores = _ranked(text)
    return max(scores.values()) - scores[code] < _CERTAIN


def tells_languages() -> bool:
    """Whether the extra `language` is installed."""
    return importlib.util.find_spec("py3langid") is not None


def language_of(text: str) -> str:
    """The ISO 639 code of the language of a text; "" if another language is about as likely, as in a few words.

    Raises:
        MissingExtraError: the extra `language` is not installed.
    """
    (code, score), (_, next_score) = heapq.nlargest(2, _ranked(text).items(), key=lambda each: each[1])
    return code if score - next_score >= _CERTAIN else ""


def _ranked(text: str) -> dict[str, float]:
    """The log-likelihood of each language that py3langid knows, by code."""
    try:
        from py3langid import rank
    except ModuleNotFoundError as exc:
        raise MissingExtraError(f"telling languages needs {exc.name}: pip install 'reelscribe[language]'") from exc
    return dict(rank(text))
