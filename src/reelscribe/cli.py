"""The command line: parse, call, print."""

import logging
import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import MISSING, Field, fields
from pathlib import Path
from typing import Any

import click

from reelscribe import __version__
from reelscribe.config import Settings
from reelscribe.errors import DatasetError, ReelscribeError, SettingsError

EXIT_ENGINE, EXIT_USAGE, EXIT_FAILURES = 1, 2, 3

_HIDDEN = {"model_params"}
"""Settings that need a TOML file or Python."""
_TYPES = {"fps": float}


class _Group(click.Group):
    """Turns the package's errors into one line and an exit code."""

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except ReelscribeError as exc:
            click.echo(f"reelscribe: {exc}", err=True)
            ctx.exit(EXIT_USAGE if isinstance(exc, (SettingsError, DatasetError)) else EXIT_ENGINE)


@click.group(cls=_Group, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Tell more of what happens.")
def main(verbose: bool) -> None:
    """Caption videos with a vision-language model.

    \b
    reelscribe demo                                        try it, with the built-in model
    reelscribe caption clips/ -o captions.jsonl            every video in a folder
    reelscribe caption data.jsonl -o captioned.jsonl       every row of a data set
    """
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING, format="reelscribe: %(message)s")


def _options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command one option for each setting."""
    for item in reversed(fields(Settings)):
        if item.name not in _HIDDEN:
            command = _option(item)(command)
    return command


def _option(item: Field[Any]) -> Callable[..., Any]:
    flag, text = f"--{item.name.replace('_', '-')}", item.metadata["help"]
    if item.default is MISSING:
        return click.option(flag, item.name, multiple=True, metavar="KEY=VALUE", help=text)
    if isinstance(item.default, bool):
        return click.option(f"{flag}/--no-{item.name}", item.name, default=None, help=f"{text}  [default: {flag[2:]}]")
    kind: Any = click.Choice(item.metadata["choices"]) if item.metadata["choices"] else _TYPES.get(item.name)
    if kind is None:
        kind = int if isinstance(item.default, int) or "frames" in item.name else str
    shown = "" if item.default is None else f"  [default: {item.default}]"
    return click.option(flag, item.name, default=None, type=kind, help=text + shown)


def _settings(given: Mapping[str, Any], config: Path | None) -> Settings:
    told = {name: value for name, value in given.items() if value not in (None, ())}
    if "sampling" in told:
        pairs = [item.partition("=") for item in told["sampling"]]
        wrong = [name for name, equals, _ in pairs if not equals]
        if wrong:
            raise SettingsError(f"--sampling takes KEY=VALUE, as temperature=0.7; got {wrong[0]!r}.")
        told["sampling"] = {name.strip(): value for name, _, value in pairs}
    return Settings.load(config, **told)


@main.command()
@click.argument("inputs", nargs=-1, required=True, type=click.Path(path_type=Path), metavar="INPUT...")
@click.option("-o", "--output", required=True, type=click.Path(path_type=Path, dir_okay=False), help="File to write (.jsonl).")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; options win over it.")
@_options
def caption(inputs: tuple[Path, ...], output: Path, config: Path | None, **given: Any) -> None:
    """Caption the videos of INPUT: .jsonl files, video files, or folders of videos (recursive).

    Writes one row for each input row (interleaved layout: also the original), in order. Rows without a caption are
    kept, and listed in OUTPUT's .failures.jsonl. Exit code: 0 all captioned, 1 the engine broke, 2 wrong usage,
    3 finished with failures.
    """
    from reelscribe.runners.local import run

    progress = _Progress()
    summary = run(inputs, output, _settings(given, config), on_start=progress.start, on_row=progress.advance)
    progress.close()
    click.echo(f"{summary.captions} captions for {summary.rows} rows in {output}", err=True)
    if summary.without_video:
        click.echo(
            f"{summary.without_video} rows hold no video; if theirs is in another column, name it with --video-key.", err=True
        )
    if summary.cut_off:
        click.echo(f"{summary.cut_off} captions were cut off; allow more with --sampling max_tokens=N.", err=True)
    if summary.failures:
        kinds = ", ".join(f"{count} {kind}" for kind, count in sorted(summary.failures.items()))
        click.echo(f"{sum(summary.failures.values())} failures ({kinds}), listed in {summary.failures_file}", err=True)
        sys.exit(EXIT_FAILURES)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path, file_okay=False), default="reelscribe-demo")
def demo(folder: Path) -> None:
    """Render a dozen clips into FOLDER, caption them with the built-in model, and compare with the truth."""
    from reelscribe.demo import CLIPS, prepare
    from reelscribe.runners.local import run

    click.echo(f"Rendering {CLIPS} clips into {folder} ...", err=True)
    data, truths = prepare(folder)
    captions: list[str] = []
    output = folder / "captioned.jsonl"
    progress = _Progress()

    def keep(result: Any) -> None:
        progress.advance(result)
        captions.append(result.rows[0]["caption"] or "(failed)")

    run([data], output, Settings(model="shapes"), on_start=progress.start, on_row=keep)
    progress.close()
    for name, truth, text in zip(sorted(truths), map(truths.get, sorted(truths)), captions, strict=True):
        click.echo(f"{name}   truth  {truth}\n{' ' * len(name)} {'  =' if text == truth else '!='}  model  {text}")
    right = sum(text == truths[name] for name, text in zip(sorted(truths), captions, strict=True))
    click.echo(f"\n{right} of {CLIPS} captions exactly right. The data set stays in {folder}:\n  {data}\n  {output}")


class _Progress:
    """A bar on a terminal, nothing elsewhere."""

    def __init__(self) -> None:
        self._bar: Any = None

    def start(self, total: int, engine: Any) -> None:
        from tqdm import tqdm

        logging.getLogger(__name__).info("%s with %s", engine.info.model, engine.info.engine)
        self._bar = tqdm(total=total, unit="row", disable=None, dynamic_ncols=True)

    def advance(self, result: Any) -> None:
        self._bar.update()

    def close(self) -> None:
        self._bar.close()


if __name__ == "__main__":
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    main()
