"""How far a run is, for a person: one line that is drawn again each second, or a line now and then."""

import logging
import os
import shutil
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict
from typing import IO, TYPE_CHECKING, Final, Self

from reelscribe.terminal import printable, some

if TYPE_CHECKING:
    from reelscribe.runners.live import Live

logger = logging.getLogger(__name__)

READING: Final = "reading the inputs ..."
TELLING_SECONDS: Final = 5.0
"""What a run waits for can be said after this long: the first seconds are not like those that follow."""
_MINUTE, _HOUR = 60, 3600
_RED, _GREEN, _DIM, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[0m"
_CLEAR: Final = "\r\x1b[K"

Part = tuple[str, str]
"""A text and its colour."""


class Progress:
    """Shows progress on standard error: a line that is redrawn on a terminal or in a notebook, events of JSON if they
    are asked for, and elsewhere a line every half minute.

    Lines and events come whether anything is done or not: who looks for them may want to know why nothing is.

    One whose context is not entered shows nothing.

    Args:
        first: what is shown until something is known.
        events: takes events of JSON, with their names; then there are no lines.
    """

    DRAW_SECONDS = 1.0
    LINE_SECONDS = 30.0

    def __init__(self, *, first: str = "", events: Callable[..., None] | None = None) -> None:
        self._first, self._events = first, events
        self._live: Live | None = None
        self._count, self._unit = 0, ""
        self._total: int | None = None
        self._loading = ""
        self._is_stopping = False
        self._screen: _Screen | None = None
        self._ended = threading.Event()
        self._teller = threading.Thread(target=self._tell_now_and_then, name="progress", daemon=True)

    def __enter__(self) -> Self:
        self._screen = None if self._events else _Screen.found()
        if self._screen:
            self._screen.share()
            self._draw()
        self._teller.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Show no more; also before the context ends."""
        self._ended.set()
        self._teller.join()
        if self._screen:
            self._screen.leave()

    def loading(self, text: str) -> None:
        """A model begins to be loaded. Its libraries draw bars of their own meanwhile, so the line stays as it is."""
        self._loading = f"{text} ..."
        if self._screen:
            self._screen.keep([(self._loading, _DIM)])

    def start(self, live: "Live") -> None:
        """Begin to tell of a run."""
        self._live = live
        if self._events:
            told = asdict(live.watch.model)
            self._events("start", total=live.total, **{name: told[name] for name in ("model", "revision", "engine")})
        else:
            logger.info("%s with %s", live.watch.model.model, live.watch.model.engine)
        self._draw()

    def stop(self) -> None:
        """Tell from now on what is finished. Takes no lock: called by a signal's handler."""
        self._is_stopping = True

    def clip(self, total: int) -> None:
        """Count a clip that was looked at, of this many."""
        self._add(total, "clip")

    def row(self, total: int) -> None:
        """Count a row that was looked at, of this many."""
        self._add(total, "row")

    def answer(self) -> None:
        """Count an answer that was looked at, of nobody knows how many."""
        self._add(None, "answer")

    def _add(self, total: int | None, unit: str) -> None:
        self._count, self._total, self._unit = self._count + 1, total, unit

    def _tell_now_and_then(self) -> None:
        while not self._ended.wait(self.DRAW_SECONDS if self._screen else self.LINE_SECONDS):
            if self._screen:
                self._draw()
            elif self._events and self._live is not None:
                self._events("progress", **self._live.told())
            elif not self._events and (parts := self._parts()):
                _print(_joined(parts))

    def _draw(self) -> None:
        live = self._live
        loads = live.watch.is_loading if live else self._loading
        if self._screen and not loads:
            self._screen.draw(self._parts())

    def _parts(self) -> list[Part]:
        if self._live is not None and not self._live.watch.is_loading:
            return list(parts_of(self._live, is_stopping=self._is_stopping))
        if self._loading:
            return [(self._loading, _DIM)]
        if self._unit:
            return [(_done(self._count, self._total, self._unit), _GREEN)]
        return [(self._first, _DIM)] if self._first else []


def _print(line: str) -> None:
    sys.stderr.write(printable(line) + "\n")
    sys.stderr.flush()


def parts_of(live: "Live", *, is_stopping: bool = False) -> Iterator[Part]:
    """What there is to say of a run, most important first. What is not known yet is left out."""
    watch = live.watch
    if is_stopping:
        yield live.finishing(), _GREEN
    else:
        yield _done(watch.rows_done, live.total, live.unit), _GREEN
        if watch.clips:
            yield f"{watch.clips_per_second:.2f} clips/s", ""
        if (left := live.seconds_left) is not None:
            yield f"{_duration(left)} left", ""
    if failures := sum(dict(live.tally.failures).values()):
        yield some(failures, "failure"), _RED
    if watch.clips and watch.seconds > TELLING_SECONDS:
        yield f"limit: {watch.bottleneck()}", _DIM
    if live.tally.tasks and watch.answers:
        yield f"{watch.answers_per_second:.2f} answers/s", _DIM
    if watch.tokens:
        yield f"{watch.tokens_per_second:.0f} tokens/s", _DIM
    if live.spending.cost is not None:
        yield cost_in_words(live.spending.cost), _DIM
    if watch.clips and (busy := watch.engine_busy_share) is not None:
        yield f"engine busy {busy:.0%}", _DIM


def cost_in_words(cost: float) -> str:
    """What a run cost."""
    return f"cost {cost:.2f}" if cost >= 0.005 else "cost under 0.01"


def _done(count: int, total: int | None, unit: str) -> str:
    return f"{count:,} {unit}{'s'[: count != 1]}" if total is None else f"{count:,} of {total:,} {unit}s"


def _duration(seconds: float) -> str:
    if seconds < 1.5 * _MINUTE:
        return f"{seconds:.0f} s"
    return f"{seconds / _MINUTE:.0f} min" if seconds < 1.5 * _HOUR else f"{seconds / _HOUR:.1f} h"


def _joined(parts: list[Part]) -> str:
    return ", ".join(text for text, _ in parts)


def shown(progress: Progress | bool | None) -> AbstractContextManager[Progress]:
    """What shows the progress of a run.

    Args:
        progress: the one, which is left as it is; or whether to show it; None to do so in a notebook only.
    """
    if isinstance(progress, Progress):
        return nullcontext(progress)
    wanted = in_notebook() if progress is None else progress
    return Progress(first=READING) if wanted else nullcontext(Progress())


def in_notebook() -> bool:
    """Whether a cell of a notebook runs this. Nothing is imported to find out."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return getattr(shell, "kernel", None) is not None


class _Screen(logging.Filter):
    """The last line of a terminal, or of the output of a notebook's cell. What is logged comes above it.

    Args:
        stream: where to draw.
        is_terminal: whether it knows control sequences and has a width; a notebook knows carriage returns alone.
    """

    def __init__(self, stream: IO[str], *, is_terminal: bool) -> None:
        super().__init__()
        self._stream, self._is_terminal = stream, is_terminal
        self._has_colour = is_terminal and not os.environ.get("NO_COLOR")
        self._drawn = 0
        self._lock = threading.Lock()
        self._handlers: list[logging.Handler] = []

    @classmethod
    def found(cls) -> "_Screen | None":
        """Where a line can be drawn again and again; None if that is nowhere."""
        if in_notebook():
            return cls(sys.stdout, is_terminal=False)
        return cls(sys.stderr, is_terminal=True) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None

    def share(self) -> None:
        """Let the line make way for what is logged."""
        self._handlers = list(logging.getLogger().handlers)
        for handler in self._handlers:
            handler.addFilter(self)

    def leave(self) -> None:
        """Clear the line, for what comes after."""
        for handler in self._handlers:
            handler.removeFilter(self)
        self.draw([])

    def filter(self, record: logging.LogRecord) -> bool:
        """Clear the line before something is logged."""
        self.draw([])
        return True

    def draw(self, parts: list[Part], end: str = "") -> None:
        """Draw the line, with as many of these parts as fit."""
        with self._lock:
            width = shutil.get_terminal_size().columns if self._is_terminal else 120
            shown = [(printable(text), colour) for text, colour in parts]
            while len(shown) > 1 and len(_joined(shown)) >= width:
                shown.pop()
            text = _joined(shown)
            if self._is_terminal:
                coloured = ", ".join(self._coloured(text, colour) for text, colour in shown)
                self._write((_CLEAR if self._drawn else "") + (coloured if len(text) < width else text[: width - 1]))
            else:
                self._write("\r" * bool(self._drawn) + text + " " * (self._drawn - len(text)))
            self._write(end)
            self._drawn = 0 if end else len(text)
            self._stream.flush()

    def keep(self, parts: list[Part]) -> None:
        """Draw a line that stays; the next one comes below."""
        self.draw(parts, end="\n")

    def _coloured(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if colour and self._has_colour else text

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
