"""The command that exports captions for other programs."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast, get_args

import click
from click.core import ParameterSource

from reelscribe.command import EXIT_FAILURES, LocalPath, Output
from reelscribe.console import kinds, say
from reelscribe.errors import SettingsError
from reelscribe.export.choices import Newlines, Placing, SubtitleFormat, TargetName
from reelscribe.runners.progress import Progress
from reelscribe.terminal import some

if TYPE_CHECKING:
    from reelscribe.export.checks import Summary

_SUBTITLES: Final = get_args(SubtitleFormat)
_TARGETS: Final = (*get_args(TargetName), *_SUBTITLES)


@click.command()
@click.argument("output", type=Output())
@click.argument("folder", type=LocalPath(), required=False)
@click.option(
    "--as",
    "target",
    type=click.Choice(_TARGETS),
    required=True,
    metavar="TARGET",
    help=f"What it is for: {', '.join(_TARGETS)}.",
)
@click.option("--form", metavar="NAME", help="Kind of list, if the target takes several, as csv.")
@click.option("--task", "tasks", metavar="NAME", multiple=True, help="Task to export. Repeatable.")
@click.option("--where", metavar="CONDITION", multiple=True, help="Only these, as 'seconds<=61'; all must hold.")
@click.option(
    "--newlines",
    type=click.Choice(get_args(Newlines)),
    help="Keep line breaks, turn them into blanks, or split captions there.",
)
@click.option("--strip-openings", is_flag=True, help="Remove openings such as 'The video shows'.")
@click.option("--trigger", default="", metavar="WORD", help="Put WORD in place of [trigger], or in front.")
@click.option("--prefix", default="", metavar="TEXT", help="Put TEXT in front of each caption.")
@click.option("--suffix", default="", metavar="TEXT", help="Put TEXT behind each caption.")
@click.option("--videos", type=click.Choice(get_args(Placing)), help="How videos get into FOLDER.")
@click.option("--columns", metavar="NAME,...", help="Columns of a table, or beside the caption.")
@click.option("--max-tokens", type=int, metavar="N", help="Maximum tokens of a caption; the target's own by default.")
@click.option("--tokenizer", metavar="FOLDER", help="Tokenizer to count them with.")
@click.option("--clips-per-tar", type=int, metavar="N", help="Clips in each tar file; 1000 by default.")
@click.option("--root", metavar="FOLDER", help="Folder that paths start from; the run's own by default.")
@click.option("--dry-run", is_flag=True, help="Look and count; write nothing.")
def export(
    output: str | Path, folder: Path | None, target: str, columns: str | None, dry_run: bool, **given: Any
) -> None:
    """Export captions as a trainer or a video player takes them.

    OUTPUT is what caption wrote.

    \b
    reelscribe export captions.jsonl train/ --as musubi --trigger TOK
    reelscribe export clips.jsonl train/ --as ltx --videos cut
    reelscribe export captions.jsonl table/ --as table --columns video,caption
    reelscribe export captions.jsonl --as vtt

    FOLDER must be new or empty. By default it is OUTPUT's name with the target's appended (.subtitles for vtt and srt).
    What failed, or is left out, is counted. If an export stops, the same command continues it.
    Exit code: 0 all is there, 2 wrong usage, nothing to export, or most of it is beyond the target's limits, 3 some
    clips could not be written.
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    from reelscribe.dataset.stores import fetched

    if target in _SUBTITLES:
        _subtitles(fetched(output), folder, target, {"columns": columns, "dry_run": dry_run, **given})
        return
    from reelscribe.dataset.names import beside
    from reelscribe.export.options import ExportOptions
    from reelscribe.export.targets import TARGETS
    from reelscribe.export.trainers import export_data

    chosen = tuple(name.strip() for name in columns.split(",") if name.strip()) if columns else ()
    options = ExportOptions(target=cast(TargetName, target), columns=chosen, **given)
    with Progress() as progress:
        output = fetched(output)
        summary = export_data(
            output, folder or beside(output, target), options, dry_run=dry_run, on_sample=progress.clip
        )
    for line in _lines(summary, TARGETS[options.target].title):
        say(line, err=True)
    if summary.failed:
        click.get_current_context().exit(EXIT_FAILURES)


def _lines(summary: "Summary", title: str) -> Iterator[str]:
    """What an export did, or would do."""
    written = summary.samples - summary.failed.total()
    what = f"{some(written, 'clip')} with {some(summary.texts, 'caption')}"
    if summary.written:
        yield f"{what} in {summary.folder}, for {title}"
    else:
        yield f"{what} would go to {summary.folder}, for {title}; nothing is written"
    yield from (f"left out: {some(count, 'caption')} {why}" for why, count in summary.left_out.items())
    yield from (f"left out: {some(count, 'clip')} {why}" for why, count in summary.videos_left_out.items())
    yield from (f"warning: {warning}" for warning in summary.warnings)
    yield from (f"note: {note}" for note in summary.notes)
    if summary.failed:
        count = some(summary.failed.total(), "clip")
        yield f"{count} could not be written ({kinds(summary.failed)}); the same command tries again:"
        yield from (f"  {example}" for example in summary.examples)


def _subtitles(output: Path, folder: Path | None, kind: Any, given: dict[str, Any]) -> None:
    """Write subtitles, which take few of the options."""
    from reelscribe.export.subtitles import export_subtitles

    tasks, root = given.pop("tasks"), given.pop("root")
    context = click.get_current_context()
    for name in given:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            option = f"--{name.replace('_', '-')}"
            raise SettingsError(f"{option} does not go with --as {kind}: subtitles have no use for it.")
    if len(tasks) > 1:
        raise SettingsError(f"--as {kind} takes one --task; got {', '.join(tasks)}.")
    summary = export_subtitles(
        output, kind, folder=folder, task=tasks[0] if tasks else None, root=Path(root) if root else None
    )
    say(f"{some(summary.cues, 'subtitle')} in {some(summary.files, 'file')} in {summary.folder}", err=True)
    for why, count in summary.left_out.items():
        say(f"left out: {some(count, 'clip')} {why}", err=True)
