"""Scorers of candidates: a user's function or class that gets texts, frames and rows, and returns numbers.

`reelscribe.scorers` has the scorers that come with the package.
"""

import functools
import importlib
import inspect
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from reelscribe.errors import MissingExtraError, ModelError, SettingsError

if TYPE_CHECKING:
    from reelscribe.values import Frames


@dataclass(frozen=True, kw_only=True, eq=False)
class ToScore:
    """The candidates of a clip, in the form that scorers get."""

    texts: tuple[str, ...]
    """The candidates' texts without their thoughts. Candidates without text are left out."""
    frames: "Frames"
    """The frames that the model saw: `pixels`, uint8, shape (frames, height, width, 3), and `timestamps` in seconds."""
    row: Mapping[str, Any]
    """The row, with the columns that the run reads."""


Score = Callable[[Sequence[ToScore]], Sequence[Sequence[float]]]
"""A scorer that is ready to be called with several clips. It returns a number for each text of each clip; higher is
better."""


@dataclass(frozen=True, kw_only=True)
class Scorer:
    """A scorer as settings name it."""

    place: str
    """The `module:name` of a function, or of a class whose objects can be called."""
    params: Mapping[str, Any] = field(default_factory=dict, hash=False)
    """Keyword arguments for each call of the function, or for the class when its object is made."""

    @property
    def name(self) -> str:
        """The name of its scores. It includes the parameters, since other parameters make another scorer."""
        told = ", ".join(f"{name}={value}" for name, value in sorted(self.params.items()))
        return f"{self.place}({told})" if told else self.place

    def check(self) -> None:
        """Check before a run that the scorer can be called.

        Raises:
            SettingsError: it cannot be imported, cannot be called, or does not take these parameters.
        """
        found = _found(self.place)
        given: tuple[Any, ...] = () if inspect.isclass(found) else ([],)
        try:
            inspect.signature(found).bind(*given, **self.params)
        except ValueError:  # a function in C may not have a signature
            return
        except TypeError as exc:
            takes = "the parameters" if inspect.isclass(found) else "a list of clips, and the parameters"
            raise SettingsError(f"the scorer {self.place} does not take {takes} {dict(self.params)}: {exc}.") from exc

    def load(self) -> Score:
        """The function to call, or the object of the class, which is made once in each process.

        Raises:
            SettingsError: it cannot be imported, or does not take these parameters.
            ModelError, MissingExtraError, SettingsError: the class raised it. Any other exception of the class becomes
                a ModelError.
        """
        return _loaded(self.place, json.dumps(dict(self.params), sort_keys=True))


@functools.lru_cache(maxsize=4)
def _loaded(place: str, params: str) -> Score:
    scorer = Scorer(place=place, params=json.loads(params))
    scorer.check()
    found = _found(place)
    if not inspect.isclass(found):
        return functools.partial(found, **scorer.params)
    try:
        made: Any = found(**scorer.params)
    except (ModelError, MissingExtraError, SettingsError):
        raise
    except Exception as exc:
        raise ModelError(f"the scorer {scorer.name} cannot be made: {type(exc).__name__}: {exc}") from exc
    return made  # type: ignore[no-any-return]


def _found(place: str) -> Callable[..., Any]:
    """Import the object that a `module:name` names. Modules in the working directory are found, too."""
    module, _, name = place.partition(":")
    if not module or not name:
        raise SettingsError(f"scorer must be module:function, as my_scorers:sharpness; got {place!r}.")
    if (folder := str(Path.cwd())) not in sys.path:
        sys.path.append(folder)
    try:
        found: Any = importlib.import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except Exception as exc:  # a module may raise anything
        raise SettingsError(
            f"the scorer {place} cannot be imported: {type(exc).__name__}: {exc}. It is looked for in installed "
            f"packages and in {folder}."
        ) from exc
    if not callable(found):
        raise SettingsError(f"the scorer {place} must be a function or a class; it is {type(found).__name__}.")
    return found  # type: ignore[no-any-return]


Scored = list[tuple[float, ...] | str]
"""For each clip, the scores of its texts, or a message that says why it has none."""


def scores_of(scorer: Scorer, clips: Sequence[ToScore]) -> Scored:
    """Call a scorer. If it fails with several clips, it is called again with each clip alone.

    Args:
        scorer: the scorer.
        clips: at least one.
    """
    try:
        given = list(scorer.load()(clips))
        if len(given) != len(clips):
            raise ValueError(f"it gave scores of {len(given)} clips; it was given {len(clips)}")
    except Exception as exc:  # a user's function may raise anything
        if len(clips) > 1:
            return [scored for clip in clips for scored in scores_of(scorer, [clip])]
        return [f"{type(exc).__name__}: {exc}"]
    return [_checked(scores, clip) for scores, clip in zip(given, clips, strict=True)]


def _checked(given: Any, clip: ToScore) -> tuple[float, ...] | str:
    try:
        scores = tuple(float(score) for score in given)
    except Exception as exc:  # the scorer may return anything instead of numbers
        return f"it must give a list of numbers for each clip; got {given!r} ({exc})"
    if len(scores) != len(clip.texts):
        return f"it gave {len(scores)} scores; the clip has {len(clip.texts)} texts"
    bad = [score for score in scores if not math.isfinite(score)]
    return f"it gave {bad[0]}, which is no number to compare" if bad else scores
