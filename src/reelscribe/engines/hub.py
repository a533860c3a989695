"""Finding a model in a folder, on the hub, or in the hub's cache on this machine.

The hub's library tries several times for each file, with long time limits. So the hub is asked once before. If it is
out of reach, the library gets the model's folder in the cache, or an error is raised.
"""

import functools
import json
import logging
import os
import threading
import time
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final
from urllib.parse import quote

from reelscribe.errors import ModelError, did_you_mean
from reelscribe.models import BUILT_IN

logger = logging.getLogger(__name__)

_HUB_SECONDS: Final = 5.0
"""The time limit for the hub's answer, including the resolution of its name, for which resolvers have other limits."""
_HOLDS_SECONDS: Final = 60.0
"""How long an answer is reused. While a model loads, it is looked for several times."""
_answers: Final[dict[tuple[str, str, str], tuple[float, "Trouble | None"]]] = {}
"""For each host, model and token, when the hub was asked and what it answered."""
_INSTEAD: Final = f"or name a folder with --model, or the built-in model, {' or '.join(BUILT_IN)}"


@dataclass(frozen=True, kw_only=True)
class Trouble:
    """Why a model cannot be had from the hub."""

    text: str
    """What is wrong."""
    advice: str
    """What the user can do."""
    is_out_of_reach: bool = False
    """Whether the hub did not answer, or must not be asked."""


def ask(model: str, token: object = None) -> Trouble | None:
    """Ask the hub whether it has a model. Takes `_HUB_SECONDS` at most.

    Args:
        model: its name on the hub.
        token: the user's token; if it is not given, HF_TOKEN or the saved one is used.

    Returns:
        What is wrong, or None if the hub has the model.
    """
    if _is_offline():
        advice = f"take it out of the environment, {_INSTEAD}"
        return Trouble(text="HF_HUB_OFFLINE forbids to ask the hub", advice=advice, is_out_of_reach=True)
    host = os.environ.get("HF_ENDPOINT") or "https://huggingface.co"
    given = token or os.environ.get("HF_TOKEN") or _saved_token()
    question = host, model, given if isinstance(given, str) else ""
    asked_at, found = _answers.get(question, (-_HOLDS_SECONDS, None))
    if time.monotonic() - asked_at >= _HOLDS_SECONDS:
        found = _answer_in_time(*question)
        _answers[question] = time.monotonic(), found
    return found


def _answer_in_time(host: str, model: str, token: str) -> Trouble | None:
    answers: list[Trouble | None] = []
    asking = threading.Thread(target=lambda: answers.append(_answer(host, model, token)), name="hub", daemon=True)
    asking.start()
    asking.join(_HUB_SECONDS)
    return answers[0] if answers else _out_of_reach(host, f"no answer in {_HUB_SECONDS:g} s")


def _answer(host: str, model: str, token: str) -> Trouble | None:
    try:
        request = urllib.request.Request(f"{host}/api/models/{quote(model)}")
        if token:
            request.add_header("Authorization", f"Bearer {token}")
        with urllib.request.urlopen(request, timeout=_HUB_SECONDS) as answer:
            json.load(answer)
    except urllib.error.HTTPError as exc:
        if exc.code in (401, 403, 404):
            return Trouble(
                text=f"the hub gives no {model} to you (HTTP {exc.code})",
                advice=f"look at its name; where it is not public, set HF_TOKEN; {_INSTEAD}",
            )
        return Trouble(text=f"the hub answers HTTP {exc.code}", advice=f"try later, {_INSTEAD}")
    except Exception as exc:  # the address and the answer may be anything
        return _out_of_reach(host, str(getattr(exc, "reason", None) or exc))
    return None


def _out_of_reach(host: str, why: str) -> Trouble:
    advice = f"set HTTPS_PROXY or HF_ENDPOINT, {_INSTEAD}"
    return Trouble(text=f"the hub, {host}, cannot be reached: {why}", advice=advice, is_out_of_reach=True)


def cache() -> Path:
    """The folder in which the hub's library keeps models."""
    return Path(os.environ.get("HF_HUB_CACHE") or _home() / "hub")


def cached(model: str, revision: str | None = None, folder: str | None = None) -> Path | None:
    """The folder of a model in the cache, whose name is the commit; None if the cache does not have the model.

    Args:
        model: its name on the hub.
        revision: branch, tag or commit.
        folder: the cache, if it is not the usual one.
    """
    here = Path(folder or cache(), f"models--{model.replace('/', '--')}")
    ref = here / "refs" / (revision or "main")
    commit = ref.read_text("utf-8").strip() if ref.is_file() else revision or ""
    found = here / "snapshots" / commit
    return found if commit and (found / "config.json").is_file() else None


def in_cache(model: str, revision: str | None = None, /, **hub: Any) -> Path | None:
    """The folder in the cache from which to load a model of the hub.

    None if the model is built in or in a folder, or if the hub's library should ask the hub.

    Args:
        model: its name.
        revision: branch, tag or commit.
        **hub: the user's `model_params`, of which `cache_dir`, `local_files_only` and `token` count.

    Raises:
        ModelError: the name is that of a folder that does not exist, or the hub is out of reach and the cache does not
            have the model.
    """
    if model in BUILT_IN or Path(model).is_dir():
        return None
    if model.startswith((".", "/", "~", "\\")) or model.count("/") > 1:
        what = "is a file, and not a folder" if Path(model).exists() else "there is no such folder"
        raise not_had(model, Trouble(text=what, advice="name one that holds a checkpoint, or a model of the hub"))
    here = cached(model, revision, hub.get("cache_dir"))
    if hub.get("local_files_only") or (here and _is_offline()):
        return here
    trouble = ask(model, hub.get("token"))
    if trouble is None or not trouble.is_out_of_reach:
        return None
    if here is None:
        raise not_had(model, trouble)
    _tell(f"{trouble.text}; the cache has {model}, and will do.")
    return here


def not_had(model: str, trouble: Trouble) -> ModelError:
    """The error for a model that cannot be loaded from the hub or from a folder."""
    meant = did_you_mean(model, BUILT_IN, otherwise=" ").capitalize().strip()
    text = f"the model {model!r} cannot be loaded: {trouble.text}; {trouble.advice}."
    return ModelError(f"{text} {meant}".strip())


@functools.cache
def _tell(text: str) -> None:
    """Log a warning, but each text only once."""
    logger.warning("%s", text)


def _is_offline() -> bool:
    """Whether HF_HUB_OFFLINE forbids asking the hub, by the rule of the hub's library."""
    return os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE")


def _home() -> Path:
    caches = os.environ.get("XDG_CACHE_HOME") or Path("~/.cache").expanduser()
    return Path(os.environ.get("HF_HOME") or Path(caches, "huggingface"))


def _saved_token() -> str:
    """The token that `hf auth login` has saved; empty if there is none."""
    try:
        return Path(os.environ.get("HF_TOKEN_PATH") or _home() / "token").read_text("utf-8").strip()
    except OSError:
        return ""
