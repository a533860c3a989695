"""What commands have in common: errors in one line, options from the settings, a run that is watched."""

import contextlib
import json
import logging
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import Field, fields
from pathlib import Path
from typing import Any, ClassVar, Final

import click

from reelscribe.config import Settings, choices_of, kind_of
from reelscribe.config.groups import GROUPS
from reelscribe.console import JsonFormatter, say, say_json, tell_stop_json
from reelscribe.errors import BudgetError, DatasetError, ReelscribeError, SettingsError, StoppedError
from reelscribe.runners.progress import READING, Progress

EXIT_ENGINE, EXIT_USAGE, EXIT_FAILURES, EXIT_BUDGET, EXIT_SIGNAL = 1, 2, 3, 4, 128

_JSON = "reelscribe.log_json"
"""Key in Click's context: whether a command prints JSON events."""
_HIDDEN = {"model_params", "extra_body"}
"""Settings that need a TOML file or Python."""
_HELP_ALL: Final = "--help-all"
ALL_OPTIONS: Final = "reelscribe.help_all"
"""Key in Click's context: whether help shows all options."""
_WATCHING: Final = "Watching the run"
_FEW: Final = 20
"""A command with up to this many settings shows all of them in its short help."""


class _OneLine(click.ClickException):
    """An error as the user sees it."""

    def __init__(self, message: str, exit_code: int = EXIT_ENGINE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # which Click reads from the instance
        self.as_json = False

    def show(self, file: Any = None) -> None:
        if self.as_json:
            say_json("error", message=self.message, exit_code=self.exit_code)
            return
        say(f"reelscribe: {' '.join(self.message.splitlines())}", err=True)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as exc:
        hint = f" Try '{exc.ctx.command_path} --help'." if exc.ctx else ""
        raise _OneLine(exc.format_message() + hint, EXIT_USAGE) from exc
    except (SettingsError, DatasetError) as exc:
        raise _OneLine(str(exc), EXIT_USAGE) from exc
    except BudgetError as exc:
        raise _OneLine(str(exc), EXIT_BUDGET) from exc
    except StoppedError as exc:
        raise _OneLine(str(exc), EXIT_SIGNAL + exc.signal) from exc
    except ReelscribeError as exc:
        raise _OneLine(str(exc)) from exc
    except KeyboardInterrupt as exc:
        raise _OneLine("stopped; what was made is kept.", EXIT_SIGNAL + signal.SIGINT) from exc


class _Option(click.Option):
    """An option that stands under a heading of the help."""

    def __init__(self, *args: Any, heading: str, common: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.heading = heading
        self.common = common


def _show_all(context: click.Context, _: click.Parameter, given: bool) -> None:
    if given:
        context.meta[ALL_OPTIONS] = True
        click.echo(context.get_help(), color=context.color)
        context.exit()


_help_all = click.option(
    _HELP_ALL, is_flag=True, is_eager=True, expose_value=False, callback=_show_all, help="Show all options and exit."
)
"""For commands of many options: their `--help` shows the common ones."""


class Command(click.Command):
    """Shows its options under headings."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        params = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        is_short = any(_HELP_ALL in param.opts for param in params) and not ctx.meta.get(ALL_OPTIONS)
        sections: dict[str, list[tuple[str, str]]] = {heading: [] for heading in ("Options", *GROUPS, _WATCHING)}
        for param in params:
            heading = param.heading if isinstance(param, _Option) and not param.common else "Options"
            record = param.get_help_record(ctx)
            if record and (heading == "Options" or not is_short):
                sections[heading].append(record)
        for heading, records in sections.items():
            if records:
                with formatter.section(heading):
                    formatter.write_dl(records)


class Output(click.Path):
    """An output: a path, or a URL as a text."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Tell URLs from paths."""
        from reelscribe.dataset.places import place_of, url_of

        return url_of(value) or place_of(value)


class LocalPath(click.Path):
    """A path to write to; a URL is refused."""

    def __init__(self) -> None:
        super().__init__(path_type=Path)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Refuse URLs."""
        from reelscribe.dataset.files import is_url

        if isinstance(value, str) and is_url(value):
            raise DatasetError(f"cannot write to {value}: only caption and merge write to URLs; name a local path.")
        return super().convert(value, param, ctx)


class Group(click.Group):
    """Prints errors in one line, Click's own and the package's. Its help lists commands in sections."""

    command_class = Command
    SECTIONS: ClassVar[Mapping[str, Sequence[str]]] = {
        "Start": ("doctor", "demo"),
        "Make captions": ("plan", "split", "caption", "status", "retry", "merge"),
        "Look at captions": ("report", "view", "compare", "eval", "audit"),
        "Use them": ("apply", "export"),
        "Set up other programs": ("completion", "chat-template", "dj-path"),
    }

    def list_commands(self, ctx: click.Context) -> list[str]:
        return [name for names in self.SECTIONS.values() for name in names]

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        widest = max(map(len, self.commands))
        for heading, names in self.SECTIONS.items():
            with formatter.section(heading):
                shown = [(name, self.commands[name].get_short_help_str(formatter.width)) for name in names]
                formatter.write_dl([(name.ljust(widest), summary) for name, summary in shown])

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        try:
            with _in_one_line():
                return super().invoke(ctx)
        except _OneLine as exc:
            exc.as_json = ctx.meta.get(_JSON, False)
            raise


def options(*names: str) -> Callable[..., Any]:
    """Give a command one option for each setting, or for each of those named."""

    def give(command: Callable[..., Any]) -> Callable[..., Any]:
        chosen = [item for item in fields(Settings) if (item.name in names if names else item.name not in _HIDDEN)]
        headings = {item.name: heading for heading, group in GROUPS.items() for item in fields(group)}
        if len(chosen) > _FEW:
            command = _help_all(command)
        for item in reversed(chosen):
            command = _option(item, headings[item.name])(command)
        return command

    return give


def _option(item: Field[Any], heading: str) -> Callable[..., Any]:
    flag, text, choices = f"--{item.name.replace('_', '-')}", item.metadata["help"], choices_of(item)
    kind, _ = kind_of(item)
    place: dict[str, Any] = {"cls": _Option, "heading": heading, "common": item.metadata["common"]}
    if kind is Mapping:
        flag, written = item.metadata["option"] or (flag, "KEY=VALUE")
        return click.option(flag, item.name, multiple=True, metavar=written, help=text, **place)
    if kind is bool:
        shown = f"  [default: {'' if item.default else 'no-'}{flag[2:]}]"
        return click.option(f"{flag}/--no-{flag[2:]}", item.name, default=None, help=text + shown, **place)
    shown = "" if item.default in (None, "") else f"  [default: {item.default}]"
    return click.option(
        flag, item.name, default=None, type=click.Choice(choices) if choices else kind, help=text + shown, **place
    )


def settings_of(given: Mapping[str, Any], config: Path | None) -> Settings:
    """The settings of a command: its options take precedence over a file's."""
    return Settings.load(config, **given_of(given))


def given_of(given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that were given as options, converted to what `Settings` takes."""
    told = {name: value for name, value in given.items() if value not in (None, ())}
    if "sampling" in told:
        told["sampling"] = _pairs(told["sampling"])
    if "checks" in told:
        told["checks"] = _pairs(told["checks"], "--check", "words=20-60")
    if "scorer_params" in told:
        params = _pairs(told["scorer_params"], "--scorer-param", "model=FOLDER")
        told["scorer_params"] = {name: _read(value) for name, value in params.items()}
    if "tasks" in told:
        told["tasks"] = _tasks(told["tasks"])
    return told


def _pairs(items: tuple[str, ...], option: str = "--sampling", example: str = "temperature=0.7") -> dict[str, Any]:
    """Convert KEY=VALUE options to a table. A key that is given several times gets a list of its values."""
    table: dict[str, list[str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise SettingsError(f"{option} takes KEY=VALUE, as {example}; got {item!r}.")
        table.setdefault(name.strip(), []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in table.items()}


def _read(value: Any) -> Any:
    """A value of the command line: a number or a truth value if it reads as one, else text."""
    try:
        return json.loads(value)
    except (ValueError, TypeError):
        return value


def _tasks(items: tuple[str, ...]) -> dict[str, Any]:
    """Convert NAME=PROMPT options to a table of tasks."""
    table: dict[str, Any] = {}
    for item in items:
        name, equals, prompt = item.partition("=")
        if not equals or not prompt.strip():
            raise SettingsError(f"--task takes NAME=PROMPT, as short='Describe it in 5 words.'; got {item!r}.")
        if name.strip() in table:
            raise SettingsError(f"--task names {name.strip()!r} twice; each task needs a name of its own.")
        table[name.strip()] = {"prompt": prompt}
    return table


def watched(command: Callable[..., Any]) -> Callable[..., Any]:
    """Decorator: give a command the options for watching its run."""
    place: dict[str, Any] = {"cls": _Option, "heading": _WATCHING}
    for option in (
        click.option(
            "--metrics-host", default="127.0.0.1", show_default=True, help="Address to serve them at.", **place
        ),
        click.option(
            "--metrics-port", type=int, help="Serve figures for Prometheus at this port, while it runs.", **place
        ),
        click.option("--log-json", is_flag=True, help="Log to standard error as JSON, one object a line.", **place),
    ):
        command = option(command)
    return command


@contextmanager
def watching(log_json: bool, metrics_port: int | None, metrics_host: str) -> Iterator[dict[str, Any]]:
    """Arguments for a run that let it be watched."""
    from reelscribe.runners.stop import tell_stop

    if log_json:
        click.get_current_context().meta[_JSON] = True
    with Progress(first=READING, events=say_json if log_json else None) as progress, contextlib.ExitStack() as stack:
        for handler in logging.getLogger().handlers if log_json else ():
            stack.callback(handler.setFormatter, handler.formatter)
            handler.setFormatter(JsonFormatter())
        hooks: dict[str, Any] = {}
        if metrics_port is not None:
            from reelscribe.runners.metrics import Metrics

            metrics = stack.enter_context(Metrics(metrics_port, metrics_host))
            logging.getLogger(__name__).warning("metrics at %s", metrics.address)
            hooks["on_start"] = metrics.start
        on_stop = tell_stop_json if log_json else tell_stop
        yield {"progress": progress, "on_stop": on_stop, "handle_signals": True, **hooks}
