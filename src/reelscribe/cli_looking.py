"""The commands that look at what a run wrote."""

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import click
from click.core import ParameterSource

from reelscribe.command import EXIT_FAILURES, LocalPath, Output
from reelscribe.config import Settings
from reelscribe.console import by_task, examples, flagged, say
from reelscribe.console import kinds as counts
from reelscribe.errors import SettingsError
from reelscribe.runners.progress import Progress
from reelscribe.terminal import shortened, some

_LONGEST_TOLD: Final = 200
"""Maximum characters of a setting's value that are shown."""


@click.command()
@click.argument("output", type=Output())
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def status(output: str | Path, as_json: bool) -> None:
    """Show what a run has done, what failed and what is left.

    OUTPUT is what caption writes. The run may still be going on.
    """
    from reelscribe.dataset.places import place_of_run
    from reelscribe.runners.status import read_status

    told = read_status(place_of_run(output))
    if as_json:
        click.echo(json.dumps({**asdict(told), "left": told.left}, indent=1))
        return
    total = "" if told.total is None else f" of {told.total:,}"
    made = some(told.captions, "caption")
    if told.tasks:
        made = f"{some(told.videos or 0, 'clip')}, {some(told.captions, 'answer')}"
    lines = {
        told.state: told.detail,
        "done": f"{told.rows:,}{total} rows, {made}",
        "failed": f"{sum(told.failures.values())} ({counts(told.failures)})" if told.failures else "0",
        "flagged": flagged(told.flags) or "0",
        "left": "unknown" if told.left is None else some(told.left, "row"),
        "rate": "unknown" if told.made_per_second is None else f"{told.made_per_second:.2f} videos/s",
        "begun": time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(told.started)),
        "model": f"{told.model} with {told.engine}",
        "inputs": " ".join(told.inputs),
        "settings": _changed_settings(told.settings) or "defaults",
    }
    for name, text in lines.items():
        say(f"{name:<10}  {text}".rstrip())
        if name == "done":
            for line in by_task(told.tasks):
                say(f"{'':<10}  {line}")
        if name == "failed":
            for line in examples(told.failures, told.examples):
                say(f"{'':<10}  {line}")


def _changed_settings(settings: Mapping[str, Any]) -> str:
    """Settings that differ from their defaults."""
    usual = asdict(Settings())
    changed = ((name, value) for name, value in settings.items() if usual.get(name) != value)
    return ", ".join(f"{name}={shortened(repr(value), _LONGEST_TOLD)}" for name, value in changed)


def _page_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Give a command the options of a page about captions."""
    root = "Folder that paths start from; the run's own by default."
    for option in (
        click.option("--root", type=click.Path(path_type=Path), help=root),
        click.option("--seed", default=0, show_default=True, help="Seed for the choice of videos."),
        click.option("--frames", default=12, show_default=True, help="Maximum number of frames for each video."),
        click.option("--clips", default=1000, show_default=True, help="Maximum number of videos to show."),
    ):
        command = option(command)
    return command


@click.command()
@click.argument("output", type=Output())
@click.option("-o", "--file", type=LocalPath(), help="Page to write; OUTPUT's .report.html by default.")
@_page_options
def report(output: str | Path, file: Path | None, **given: Any) -> None:
    """Write a page to look at the captions and their frames.

    It also shows candidates, failures, and what captions have in common. It is one file, which opens from disk and
    loads nothing but videos that you play. OUTPUT is what caption wrote.
    """
    from reelscribe.dataset.stores import fetched
    from reelscribe.report.write import write_report

    with Progress() as progress:
        summary = write_report(fetched(output), file, **given, on_clip=progress.clip)
    of = "" if summary.shown == summary.videos else f" of {summary.videos:,}"
    say(f"{some(summary.shown, 'video')}{of} in {summary.file}", err=True)


@click.command()
@click.argument("output", type=Output())
@click.option("--port", default=0, help="Port to serve at; by default a free one.")
@_page_options
def view(output: str | Path, port: int, **given: Any) -> None:
    """Serve the report's page, to play videos and edit captions.

    To this machine alone, until Ctrl-C. Prints its address, which holds a token.
    """
    from reelscribe.dataset.stores import fetched
    from reelscribe.report.view import view as serve

    serve(fetched(output), port=port, **given, on_ready=say)


@click.command()
@click.argument("sides", nargs=-1, metavar="SIDE SIDE...")
@click.option("-o", "--file", type=LocalPath(), help="Page to write; first output's .compare.html.")
@click.option("--blind", is_flag=True, help="Shuffle the texts of each clip, and name the sides after the voting.")
@click.option(
    "--votes", type=click.Path(path_type=Path), multiple=True, help="Count the votes in this file. Repeatable."
)
@click.option("--json", "as_json", is_flag=True, help="With --votes: print JSON.")
@_page_options
def compare(sides: tuple[str, ...], votes: tuple[Path, ...], as_json: bool, **given: Any) -> None:
    """Put captions of the same clips side by side, to vote on.

    \b
    reelscribe compare a.jsonl b.jsonl                     two runs
    reelscribe compare asked.jsonl#short asked.jsonl#long  two tasks of one run
    reelscribe compare a.jsonl#caption:1 a.jsonl#:2        two candidates
    reelscribe compare a.jsonl b.jsonl --blind             without names
    reelscribe compare a.jsonl b.jsonl --votes votes.jsonl win rates

    A SIDE is what caption wrote. Clips are matched by video and stretch; what a side lacks is left out and counted.
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    if votes:
        _count(sides, votes, as_json, given)
        return
    if as_json:
        raise SettingsError("--json goes with --votes; a page is HTML.")
    from reelscribe.compare.write import write_comparison

    with Progress() as progress:
        summary = write_comparison(sides, **given, on_clip=progress.clip)
    of = "" if summary.shown == summary.clips else f" of {summary.clips:,}"
    say(f"{some(summary.shown, 'clip')}{of} in {summary.file}", err=True)
    for told in summary.left_out:
        say(f"left out: {told}", err=True)


def _count(sides: tuple[str, ...], votes: tuple[Path, ...], as_json: bool, given: dict[str, Any]) -> None:
    """Print the result of votes. No page is written, so most options do not apply."""
    from reelscribe.compare.telling import as_lines, as_told
    from reelscribe.compare.write import count_votes

    root, context = given.pop("root"), click.get_current_context()
    for name in given:
        if context.get_parameter_source(name) is not ParameterSource.DEFAULT:
            raise SettingsError(f"--{name} does not go with --votes, which writes no page.")
    counted = count_votes(sides, votes, root=root)
    if as_json:
        click.echo(json.dumps(as_told(counted), indent=1))
        return
    for line in as_lines(counted):
        say(line)


@click.command()
@click.argument("output", type=Output())
@click.option("-o", "--new", type=LocalPath(), help="Data set to write; OUTPUT with .edited by default.")
@click.option("--overwrite", is_flag=True, help="Replace a file that exists.")
def apply(output: str | Path, new: Path | None, overwrite: bool) -> None:
    """Write the data set with corrected captions.

    Captions are as they were left in view. OUTPUT stays as it is, and all rows are written. The metadata of each
    caption have the model's text, and whether a person approved or rejected it. export and report need no such file:
    they read the corrections that view keeps beside OUTPUT.
    """
    from reelscribe.dataset.stores import fetched
    from reelscribe.report.apply import apply_edits

    summary = apply_edits(fetched(output), new, overwrite=overwrite)
    verdicts = ", ".join(f"{count:,} {verdict}" for verdict, count in summary.verdicts.items())
    say(f"{some(summary.rows, 'row')} in {summary.output}: {summary.edited:,} edited, {verdicts}", err=True)
    for note in summary.notes:
        say(f"note: {note}", err=True)


@click.command("eval")
@click.argument("outputs", nargs=-1, required=True, type=Output(), metavar="OUTPUT [OUTPUT]")
@click.option("--references", required=True, type=click.Path(path_type=Path), help="Data set with the references.")
@click.option("--task", help="Task whose captions are scored; the only one by default.")
@click.option(
    "--reference-key",
    help="Column of the references: a text or a list; references, reference, captions, caption or text by default.",
)
@click.option("--video-key", help="Column there of the video's path, URL or key; 'videos' or 'video' by default.")
@click.option(
    "--tokenizer",
    type=click.Choice(["13a", "zh", "char"]),
    help="What a word is, as sacrebleu has it; by the language of the references by default.",
)
@click.option("--root", type=click.Path(path_type=Path), help="Folder that paths start from; the run's own by default.")
@click.option("--seed", default=0, show_default=True, help="Seed of the bootstrap.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def evaluate(outputs: tuple[str | Path, ...], references: Path, as_json: bool, **given: Any) -> None:
    """Score captions by references that people wrote.

    CIDEr-D, chrF, BLEU and ROUGE-L, with 95% intervals.

    \b
    reelscribe eval captions.jsonl --references written.jsonl
    reelscribe eval before.jsonl after.jsonl --references written.csv

    With two outputs, it also says how much better the second is on the same clips. Clips are matched by video and
    stretch. Those without a match are counted and left out.
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    from reelscribe.dataset.stores import fetched
    from reelscribe.evaluation.evaluate import evaluate as scored
    from reelscribe.evaluation.table import table

    if len(outputs) > 2:
        raise click.UsageError(f"give one OUTPUT, or two to compare; got {len(outputs)}.")
    found = scored([fetched(output) for output in outputs], references, **given)
    if as_json:
        click.echo(json.dumps(found.told(), indent=1))
        return
    for line in table(found):
        say(line)


@click.command()
@click.argument("output", type=Output())
@click.option("--task", "tasks", metavar="NAME", multiple=True, help="Task to look at; all by default. Repeatable.")
@click.option(
    "--common",
    default=5.0,
    show_default=True,
    metavar="PERCENT",
    help="Report openings and phrases in more captions than this.",
)
@click.option("--tokenizer", type=click.Path(path_type=Path), metavar="FOLDER", help="Tokenizer to count tokens with.")
@click.option("--max-tokens", type=int, metavar="N", help="Maximum tokens of a caption; longer ones are too_long.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--html", type=LocalPath(), metavar="FILE", help="Also write a page.")
@click.option("--marks", type=LocalPath(), metavar="FILE", help="Also write marks, for retry --marks.")
@click.option("--mark", "only", metavar="NAME", multiple=True, help="Mark only this finding. Repeatable.")
@click.option(
    "--fail-on", metavar="CONDITION", multiple=True, help="Fail on a finding, as refusal or 'duplicate>1%'. Repeatable."
)
def audit(
    output: str | Path,
    as_json: bool,
    html: Path | None,
    marks: Path | None,
    only: tuple[str, ...],
    fail_on: tuple[str, ...],
    common: float,
    **given: Any,
) -> None:
    """Find faults in captions, and phrases that are too common.

    It looks at all captions in OUTPUT together.

    \b
    reelscribe audit captions.jsonl
    reelscribe audit captions.jsonl --fail-on refusal --fail-on 'duplicate>1%'
    reelscribe audit captions.jsonl --marks marks.jsonl --mark refusal

    Exit code: 0 looked at, 2 wrong usage, or no such captions, 3 a condition of --fail-on holds.
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    from reelscribe.audit.audit import audit as look
    from reelscribe.audit.findings import Limit, checked_names
    from reelscribe.audit.marks import check_free, write_marks
    from reelscribe.audit.page import check_page, write_page
    from reelscribe.audit.table import lines
    from reelscribe.dataset.stores import fetched

    limits = [Limit.parse(text) for text in fail_on]
    checked_names("--mark", only)
    if marks:
        check_free(marks)
    if html:
        check_page(html)
    with Progress() as progress:
        found = look(fetched(output), common=common / 100, **given, on_entry=progress.answer)
    told = found.told()
    for line in json.dumps(told, indent=1).splitlines() if as_json else lines(told):
        say(line)
    if html:
        write_page(html, told, found.lengths())
        say(f"page in {html}", err=True)
    if marks:
        say(f"{some(write_marks(marks, found.faulty(), only), 'mark')} in {marks}", err=True)
    passed = list(found.passed(limits))
    for line in passed:
        say(f"too much: {line}", err=True)
    if passed:
        click.get_current_context().exit(EXIT_FAILURES)


LOOKING: Final = (status, report, view, compare, apply, evaluate, audit)
