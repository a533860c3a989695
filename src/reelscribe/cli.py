"""The command line: parse, call, print."""

import json
import logging
import signal
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import Field, asdict, fields
from pathlib import Path
from typing import Any

import click

from reelscribe import __version__
from reelscribe.config import Settings, kind_of
from reelscribe.errors import DatasetError, ReelscribeError, SettingsError, StoppedError

EXIT_ENGINE, EXIT_USAGE, EXIT_FAILURES, EXIT_SIGNAL = 1, 2, 3, 128

_HIDDEN = {"model_params"}
"""Settings that need a TOML file or Python."""


class _OneLine(click.ClickException):
    """An error as the user sees it."""

    def __init__(self, message: str, exit_code: int = EXIT_ENGINE) -> None:
        super().__init__(message)
        self.exit_code = exit_code  # type: ignore[misc] # which Click reads from the instance

    def show(self, file: Any = None) -> None:
        click.echo(f"reelscribe: {' '.join(self.message.splitlines())}", file=file, err=True)


@contextmanager
def _in_one_line() -> Iterator[None]:
    try:
        yield
    except click.UsageError as exc:
        hint = f" Try '{exc.ctx.command_path} --help'." if exc.ctx else ""
        raise _OneLine(exc.format_message() + hint, EXIT_USAGE) from exc
    except (SettingsError, DatasetError) as exc:
        raise _OneLine(str(exc), EXIT_USAGE) from exc
    except StoppedError as exc:
        raise _OneLine(str(exc), EXIT_SIGNAL + exc.signal) from exc
    except ReelscribeError as exc:
        raise _OneLine(str(exc)) from exc
    except KeyboardInterrupt as exc:
        raise _OneLine("stopped; what was made is kept.", EXIT_SIGNAL + signal.SIGINT) from exc


class _Group(click.Group):
    """Tells errors in one line, Click's own as well as the package's."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        with _in_one_line():
            return super().make_context(*args, **kwargs)

    def invoke(self, ctx: click.Context) -> Any:
        with _in_one_line():
            return super().invoke(ctx)


@click.group(
    "reelscribe",
    cls=_Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Tell more of what happens.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Caption videos with a vision-language model.

    \b
    reelscribe demo                                        try it, with the built-in model
    reelscribe caption clips/ -o captions.jsonl            every video in a folder
    reelscribe caption data.jsonl -o captioned.jsonl       every row of a data set
    reelscribe status captioned.jsonl                      what is done, failed and left
    reelscribe retry captioned.jsonl                       what failed, once more
    reelscribe merge captioned.jsonl part-*.jsonl          the shards of a run, put together
    reelscribe report captioned.jsonl                      a page to look at the captions
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="reelscribe: %(message)s")
    logging.getLogger("reelscribe.engines.planning").setLevel(logging.INFO)  # a plan is always told
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting."""
    for item in reversed(fields(Settings)):
        if item.name not in _HIDDEN:
            command = _option(item)(command)
    return command


def _option(item: Field[Any]) -> Callable[..., Any]:
    flag, text, choices = f"--{item.name.replace('_', '-')}", item.metadata["help"], item.metadata["choices"]
    kind, _ = kind_of(item)
    if kind is Mapping:
        return click.option(flag, item.name, multiple=True, metavar="KEY=VALUE", help=text)
    if kind is bool:
        shown = f"  [default: {'' if item.default else 'no-'}{flag[2:]}]"
        return click.option(f"{flag}/--no-{flag[2:]}", item.name, default=None, help=text + shown)
    shown = "" if item.default is None else f"  [default: {item.default}]"
    return click.option(
        flag, item.name, default=None, type=click.Choice(choices) if choices else kind, help=text + shown
    )


def _settings(given: Mapping[str, Any], config: Path | None) -> Settings:
    told = {name: value for name, value in given.items() if value not in (None, ())}
    if "sampling" in told:
        told["sampling"] = _pairs(told["sampling"])
    return Settings.load(config, **told)


def _pairs(items: tuple[str, ...]) -> dict[str, Any]:
    """KEY=VALUE to a table; a key that is given several times holds all its values."""
    table: dict[str, list[str]] = {}
    for item in items:
        name, equals, value = item.partition("=")
        if not equals:
            raise SettingsError(f"--sampling takes KEY=VALUE, as temperature=0.7; got {item!r}.")
        table.setdefault(name.strip(), []).append(value)
    return {name: values if len(values) > 1 else values[0] for name, values in table.items()}


def _some(count: int, noun: str) -> str:
    return f"{count} {noun}" if count == 1 else f"{count} {noun}s"


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=click.Path(path_type=Path),
    help="File to write (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .tar); with {shard} in its name, several.",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; options win over it.")
@_options
def caption(inputs: tuple[str, ...], output: Path, config: Path | None, **given: Any) -> None:
    """Caption the videos of INPUT: data sets, video files, or folders of either (recursive); globs; URLs.

    Data sets are .jsonl (also .gz, .zst), .parquet, WebDataset's .tar, and folders that Hugging Face's datasets saved.

    Writes one row for each input row (interleaved layout: also the original), in order. Rows without a caption are
    kept, and listed in OUTPUT's .failures.jsonl. A run that breaks off, however it does, goes on where it was when the
    same command is given again. Exit code: 0 all captioned, 1 the engine broke or cannot be loaded, or too much failed,
    2 wrong usage, 3 finished with failures, 130 or 143 stopped by Ctrl-C or SIGTERM.
    """
    from reelscribe.runners.local import run

    settings = _settings(given, config)
    with _Progress() as progress:
        summary = run(inputs, output, settings, on_start=progress.start, on_row=progress.advance, handle_signals=True)
    _report(summary, output)


def _report(summary: Any, output: Path) -> None:
    """Tell what a run did, and leave with the exit code for that."""
    known = f" ({summary.known} taken from the ledger)" if summary.known else ""
    click.echo(f"{_some(summary.captions, 'caption')} for {_some(summary.rows, 'row')} in {output}{known}", err=True)
    if summary.speed["clips"]:
        click.echo(_speed(summary.speed), err=True)
    if summary.without_video:
        where = "if theirs is in another column, name it with --video-key"
        click.echo(f"{_some(summary.without_video, 'row')} without a video; {where}", err=True)
    if summary.flags:
        hint = "; allow more with --sampling max_tokens=N" if "cut_off" in summary.flags else ""
        click.echo(f"flagged captions: {_kinds(summary.flags)}{hint}", err=True)
    if summary.failures:
        count = _some(sum(summary.failures.values()), "failure")
        click.echo(f"{count} ({_kinds(summary.failures)}), listed in {summary.failures_file}", err=True)
        for line in _examples(summary.failures, summary.examples):
            click.echo(f"  {line}", err=True)
        click.get_current_context().exit(EXIT_FAILURES)


_SLOW = {
    "reading": "reading the rows held it up",
    "decoding": "decoding held it up: give it more CPU cores, or fewer and smaller frames (--fps, --max-video-tokens)",
    "writing": "writing held it up",
}


def _speed(speed: Mapping[str, Any]) -> str:
    """How fast a run was, and what to do about it."""
    rates = _rates(speed["clips_per_second"], speed["tokens_per_second"])
    waited = speed["shares_waited_for"]["decoding"]
    slow = _SLOW.get(speed["bottleneck"], f"the engine waited for frames {waited:.0%} of the time")
    return f"in {speed['seconds']:.1f} s: {rates}; {slow}"


def _rates(clips: float, tokens: float) -> str:
    return f"{clips:.2f} clips/s, {tokens:.0f} tokens/s"


def _kinds(failures: Mapping[Any, int]) -> str:
    return ", ".join(f"{count} {kind}" for kind, count in sorted(failures.items()))


def _examples(failures: Mapping[Any, int], examples: Mapping[Any, list[str]]) -> Iterator[str]:
    """A few failures of each kind, the commonest kind first."""
    for kind in sorted(failures, key=lambda kind: (-failures[kind], kind)):
        yield from (f"{kind}: {' '.join(text.split())}" for text in examples.get(kind, []))


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--kind", "kinds", multiple=True, metavar="KIND,...", help="Kinds of failures; all by default.")
@click.option(
    "--sampling", multiple=True, metavar="KEY=VALUE", help="Sampling parameter for what is tried again; repeatable."
)
def retry(output: Path, kinds: tuple[str, ...], sampling: tuple[str, ...]) -> None:
    """Try again what failed in the last run on OUTPUT, with its inputs and settings.

    All captions that are there stay. What is made with other sampling counts as made by the run: giving its command
    again does not make it again. Exit code as that of caption.
    """
    from reelscribe.runners import local

    named = [kind.strip() for group in kinds for kind in group.split(",") if kind.strip()]
    told: dict[str, Any] = {"kinds": named} if named else {}
    with _Progress() as progress:
        summary = local.retry(
            output,
            sampling=_pairs(sampling),
            on_start=progress.start,
            on_row=progress.advance,
            handle_signals=True,
            **told,
        )
    _report(summary, output)


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.argument("shards", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="SHARD_OUTPUT...")
def merge(output: Path, shards: tuple[Path, ...]) -> None:
    """Put the outputs of all shards of a run (caption --shard I/N) together into OUTPUT.

    The inputs are read again; OUTPUT, its ledger and its list of failures are those of a run without shards. Refused
    where shards are missing, doubled, unfinished or of different settings. Exit code as that of caption.
    """
    from reelscribe.runners.merge import merge as merged

    with _Progress() as progress:
        summary = merged(output, shards, on_start=progress.start, on_row=progress.advance, handle_signals=True)
    _report(summary, output)


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--json", "as_json", is_flag=True, help="As JSON.")
def status(output: Path, as_json: bool) -> None:
    """Say what is done, failed and left of the run on OUTPUT, also while it is going on."""
    from reelscribe.runners.status import read_status

    told = read_status(output)
    if as_json:
        click.echo(json.dumps({**asdict(told), "left": told.left}, indent=1))
        return
    total = "" if told.total is None else f" of {told.total:,}"
    lines = {
        told.state: told.detail,
        "done": f"{told.rows:,}{total} rows, {_some(told.captions, 'caption')}",
        "failed": f"{sum(told.failures.values())} ({_kinds(told.failures)})" if told.failures else "0",
        "flagged": _kinds(told.flags) or "0",
        "left": "unknown" if told.left is None else _some(told.left, "row"),
        "rate": "unknown" if told.made_per_second is None else f"{told.made_per_second:.2f} videos/s",
        "begun": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told.started)),
        "model": f"{told.model} with {told.engine}",
        "inputs": " ".join(told.inputs),
        "settings": _changed_settings(told.settings) or "defaults",
    }
    for name, text in lines.items():
        click.echo(f"{name:<10}  {text}".rstrip())
        if name == "failed":
            for line in _examples(told.failures, told.examples):
                click.echo(f"{'':<10}  {line}")


def _changed_settings(settings: Mapping[str, Any]) -> str:
    """Those that are not the defaults."""
    usual = asdict(Settings())
    return ", ".join(f"{name}={value!r}" for name, value in settings.items() if usual.get(name) != value)


def _page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a page about captions."""
    root = "Folder that paths start from; the run's own by default."
    for option in (
        click.option("--root", type=click.Path(path_type=Path), help=root),
        click.option("--seed", default=0, show_default=True, help="Of the choice of videos."),
        click.option("--frames", default=12, show_default=True, help="Most frames to show of each."),
        click.option("--clips", default=1000, show_default=True, help="Most videos to show; of more, some."),
    ):
        command = option(command)
    return command


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("-o", "--file", type=click.Path(path_type=Path), help="Page to write; OUTPUT's .report.html by default.")
@_page_options
def report(output: Path, file: Path | None, **given: Any) -> None:
    """Write a page about the captions in OUTPUT: frames, captions, candidates, failures, and what they have in common.

    One file that opens from disk and loads nothing, but for a video that is played. OUTPUT is what caption wrote.
    """
    from reelscribe.report.write import write_report

    with _Progress() as progress:
        summary = write_report(output, file, **given, on_clip=progress.clip)
    of = "" if summary.shown == summary.videos else f" of {summary.videos:,}"
    click.echo(f"{_some(summary.shown, 'video')}{of} in {summary.file}", err=True)


@main.command()
@click.argument("output", type=click.Path(path_type=Path))
@click.option("--port", default=0, help="To serve at; one that is free by default.")
@_page_options
def view(output: Path, port: int, **given: Any) -> None:
    """Serve the same page as report to this machine alone, until Ctrl-C. Prints its address, which holds a token."""
    from reelscribe.report.view import view as serve

    with _Progress() as progress:
        serve(output, port=port, **given, on_clip=progress.clip, on_ready=click.echo)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default="reelscribe-demo")
def demo(folder: Path) -> None:
    """Render a dozen clips into FOLDER, caption them with the built-in model, and compare with the truth."""
    from reelscribe.demo import CLIPS, prepare
    from reelscribe.runners.local import run

    click.echo(f"Rendering {CLIPS} clips into {folder} ...", err=True)
    try:
        data, scenes = prepare(folder)
    except OSError as exc:
        raise DatasetError(f"cannot write to {folder}: {exc.strerror}.") from exc
    truths = {name: scene.caption for name, scene in scenes.items()}
    captions: list[str] = []
    output = folder / "captioned.jsonl"
    with _Progress() as progress:

        def keep(result: Any) -> None:
            progress.advance(result)
            captions.append(result.rows[0]["caption"] or "(failed)")

        run([data], output, Settings(model="shapes"), on_start=progress.start, on_row=keep)
    for (name, truth), text in zip(truths.items(), captions, strict=True):
        click.echo(f"{name}   truth  {truth}\n{' ' * len(name)} {'  =' if text == truth else '!='}  model  {text}")
    right = sum(text == truth for text, truth in zip(captions, truths.values(), strict=True))
    click.echo(
        f"\n{right} of {len(truths)} captions exactly right. The data set stays in {folder}:\n  {data}\n  {output}"
    )


@main.command("dj-path")
def dj_path() -> None:
    """Print the folder to name under custom_operator_paths in a recipe of Data-Juicer.

    It puts this package's operator in the place of video_captioning_from_vlm_mapper, also on Ray.
    """
    from reelscribe.integrations import DATA_JUICER_PLUGIN

    click.echo(DATA_JUICER_PLUGIN)


class _Progress:
    """A bar on a terminal, a line now and then elsewhere. It counts rows, and tells the rates of clips and tokens."""

    LINE_SECONDS = 30.0

    def __init__(self) -> None:
        self._bar: Any = None
        self._watch: Any = None
        self._failures = 0
        self._told = time.monotonic()

    def __enter__(self) -> "_Progress":
        return self

    def __exit__(self, *_: object) -> None:
        if self._bar is not None:
            self._bar.close()

    def start(self, total: int | None, watch: Any) -> None:
        from tqdm import tqdm

        logging.getLogger(__name__).info("%s with %s", watch.info.model, watch.info.engine)
        self._watch = watch
        self._bar = tqdm(total=total, unit="row", disable=None, dynamic_ncols=True)
        self._told = time.monotonic()

    def clip(self, total: int) -> None:
        """Count a clip that was looked at, of so many."""
        from tqdm import tqdm

        self._bar = self._bar or tqdm(total=total, unit="clip", disable=None, dynamic_ncols=True)
        self._bar.update()

    def advance(self, result: Any) -> None:
        self._failures += len(result.failures)
        self._bar.update()
        if not self._bar.disable:
            self._bar.set_postfix_str(self._rates(), refresh=False)
        elif time.monotonic() - self._told >= self.LINE_SECONDS:
            self._told = time.monotonic()
            limit = f"limit: {self._watch.bottleneck()}"
            click.echo(f"{self._rows(result.index + 1)}, {self._rates()}, {limit}", err=True)

    def _rows(self, done: int) -> str:
        total, seconds = self._bar.total, self._watch.seconds
        if not total:
            return f"{done:,} rows"
        return f"{done:,} of {total:,} rows, {seconds * (total - done) / done:,.0f} s left"

    def _rates(self) -> str:
        rates = _rates(self._watch.clips_per_second, self._watch.tokens_per_second)
        return f"{rates}, {_some(self._failures, 'failure')}" if self._failures else rates


if __name__ == "__main__":
    main()
