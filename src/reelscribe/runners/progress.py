"""Progress of a run on standard error: one line that is redrawn each second, or a new line every half minute."""

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
"""Seconds before the bottleneck is shown. The first seconds are dominated by start-up, unlike those that follow."""
_MINUTE, _HOUR = 60, 3600
_RED, _GREEN, _DIM, _PLAIN = "\x1b[31m", "\x1b[32m", "\x1b[2m", "\x1b[0m"
_CLEAR: Final = "\r\x1b[K"

Part = tuple[str, str]
"""A text and its colour."""


class Progress:
    """Shows progress: a redrawn line on a terminal or in a notebook, JSON events if wanted, else a line every 30 s.

    Lines and events are also emitted while nothing advances, so that a user can see why. A `Progress` whose context is
    not entered shows nothing.

    Args:
        first: text to show until there are figures.
        events: called with an event's name and its values; it replaces the lines.
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
        """Stop showing progress. May be called before the context ends."""
        self._ended.set()
        self._teller.join()
        if self._screen:
            self._screen.leave()

    def loading(self, text: str) -> None:
        """Show that a model is being loaded. The line is not redrawn meanwhile: libraries draw their own bars then."""
        self._loading = f"{text} ..."
        if self._screen:
            self._screen.keep([(self._loading, _DIM)])

    def start(self, live: "Live") -> None:
        """Begin to show the progress of a run."""
        self._live = live
        if self._events:
            told = asdict(live.watch.model)
            self._events("start", total=live.total, **{name: told[name] for name in ("model", "revision", "engine")})
        else:
            logger.info("%s with %s", live.watch.model.model, live.watch.model.engine)
        self._draw()

    def stop(self) -> None:
        """From now on show what is still being finished. It takes no lock, since a signal handler calls it."""
        self._is_stopping = True

    def clip(self, total: int) -> None:
        """Count a processed clip, of `total` clips."""
        self._add(total, "clip")

    def row(self, total: int) -> None:
        """Count a processed row, of `total` rows."""
        self._add(total, "row")

    def answer(self) -> None:
        """Count a processed answer. Their total is not known."""
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
    """Parts of the progress line, most important first. Unknown figures are left out."""
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
    """The cost of a run as a text; small costs are shown as "under 0.01"."""
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
    """A context that gives the `Progress` of a run.

    Args:
        progress: an entered `Progress`, which this context does not close; or whether to show progress. None shows it
            in a notebook only.
    """
    if isinstance(progress, Progress):
        return nullcontext(progress)
    wanted = in_notebook() if progress is None else progress
    return Progress(first=READING) if wanted else nullcontext(Progress())


def in_notebook() -> bool:
    """Whether this code runs in a notebook cell. The check imports nothing: in a notebook IPython is loaded already."""
    interactive = sys.modules.get("IPython")
    shell = interactive.get_ipython() if interactive else None
    return getattr(shell, "kernel", None) is not None


class _Screen(logging.Filter):
    """The last line of a terminal or of a notebook cell's output. Log messages appear above it.

    It is a logging filter only to be called before each message: it clears the line and lets the message pass.

    Args:
        stream: stream to draw on.
        is_terminal: whether the stream supports control sequences and has a width. A notebook only supports carriage
            returns.
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
        """The screen on which a line can be redrawn; None if there is none, as when standard error is a file."""
        if in_notebook():
            return cls(sys.stdout, is_terminal=False)
        return cls(sys.stderr, is_terminal=True) if sys.stderr.isatty() and os.environ.get("TERM") != "dumb" else None

    def share(self) -> None:
        """Clear the line before each log message, by a filter on the root logger's handlers."""
        self._handlers = list(logging.getLogger().handlers)
        for handler in self._handlers:
            handler.addFilter(self)

    def leave(self) -> None:
        """Clear the line, and stop filtering log messages."""
        for handler in self._handlers:
            handler.removeFilter(self)
        self.draw([])

    def filter(self, record: logging.LogRecord) -> bool:
        """Clear the line before a message is logged. Always True: every message passes."""
        self.draw([])
        return True

    def draw(self, parts: list[Part], end: str = "") -> None:
        """Draw the line, with as many of the parts as fit the width; the last ones are dropped first."""
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
        """Draw a line that stays; the next one is drawn below it."""
        self.draw(parts, end="\n")

    def _coloured(self, text: str, colour: str) -> str:
        return f"{colour}{text}{_PLAIN}" if colour and self._has_colour else text

    def _write(self, text: str) -> None:
        if text:
            self._stream.write(text)
