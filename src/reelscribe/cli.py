"""The command line: parse, call, print."""

import io
import json
import logging
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

import click

from reelscribe import __version__
from reelscribe.cli_export import export
from reelscribe.cli_looking import LOOKING
from reelscribe.command import (
    EXIT_ENGINE,
    EXIT_FAILURES,
    Group,
    LocalPath,
    Output,
    given_of,
    options,
    settings_of,
    watched,
    watching,
)
from reelscribe.config import Settings
from reelscribe.config.groups import RETRY_SETTINGS
from reelscribe.console import next_step, say, say_json, summary_lines
from reelscribe.errors import DatasetError, without_passwords
from reelscribe.runners.progress import Progress
from reelscribe.terminal import PlainFormatter, some

_PLANNED = (
    *(
        "model",
        "revision",
        "engine",
        "num_captions",
        "keep",
        "verify",
        "fps",
        "min_frames",
        "max_frames",
        "max_video_tokens",
        "sampling",
    ),
    *("tp", "dp", "price", "send", "show", "layout", "text_key", "video_key", "root", "decoders", "decode_seconds"),
    *("prompt", "schema", "tasks", "split", "overlap", "min_seconds", "max_seconds", "nested"),
    *("start_key", "end_key", "stretches_key"),
)
"""Settings that a plan depends on."""
_SPLIT = (
    *("overlap", "min_seconds", "max_seconds", "nested", "video_key", "start_key", "end_key", "stretches_key", "root"),
    *("output_format", "shard_rows", "max_line_bytes", "decoders", "decode_seconds"),
    *("allow_private_urls", "max_video_bytes", "download_seconds", "max_downloads"),
)
"""Settings that splitting depends on."""


@click.group(
    "reelscribe",
    cls=Group,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.version_option(__version__)
@click.option("-v", "--verbose", is_flag=True, help="Log more of what happens.")
@click.pass_context
def main(context: click.Context, verbose: bool) -> None:
    """Caption videos with a vision-language model.

    \b
    reelscribe demo                               try it, with the built-in model
    reelscribe caption clips/ -o captions.jsonl   every video in a folder
    reelscribe caption data.jsonl -o out.jsonl    every row of a data set
    reelscribe report captions.jsonl              a page to look at the captions
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")  # as stderr: names of files need not be UTF-8
    logging.basicConfig(level=logging.INFO if verbose else logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(PlainFormatter("reelscribe: %(message)s"))
    for name in ("engines.planning", "dataset.stores"):  # a plan, and where a ledger is, are always told
        logging.getLogger(f"reelscribe.{name}").setLevel(logging.INFO)
    if context.invoked_subcommand is None:
        click.echo(context.get_help())


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option(
    "-o",
    "--output",
    required=True,
    type=Output(),
    help="File to write (.jsonl, .jsonl.gz, .jsonl.zst, .parquet, .tar), or a URL; with {shard} in it, several.",
)
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; options win over it.")
@watched
@options()
def caption(
    inputs: tuple[str, ...],
    output: str | Path,
    config: Path | None,
    log_json: bool,
    metrics_port: int | None,
    metrics_host: str,
    **given: Any,
) -> None:
    """Caption videos: folders, files, data sets or URLs.

    INPUT is a data set, a video, a folder of either, with its subfolders, a glob or a URL. Data sets are .jsonl, .json
    (an array), .csv, .tsv (all also .gz, .zst), .parquet, WebDataset's .tar, and folders that Hugging Face's datasets
    saved.

    \b
    reelscribe caption clips/ -o captions.jsonl --model shapes
    reelscribe caption data.parquet -o out.parquet --num-captions 4 --keep all
    reelscribe caption 'data/*.jsonl' -o 'out-{shard}.jsonl' --engine vllm

    Writes one row for each input row (interleaved layout: also the original), in order. Rows without a caption are
    kept, and listed in OUTPUT's .failures.jsonl. If a run stops or crashes, the same command continues it.

    Exit code: 0 all captioned, 1 the engine broke or cannot be loaded, or too much failed, 2 wrong usage, or nothing to
    caption, 3 finished with failures, 4 stopped before --budget was passed, 130 or 143 stopped by Ctrl-C or SIGTERM.
    """  # noqa: D301 - as above
    from reelscribe.runners.local import run

    settings = settings_of(given, config)
    with watching(log_json, metrics_port, metrics_host) as hooks:
        summary = run(inputs, output, settings, **hooks)
    _report(summary, output, log_json)


def _report(summary: Any, output: str | Path, log_json: bool) -> None:
    """Print what a run did, and exit with the code for that."""
    if log_json:
        say_json("summary", **asdict(summary), output=without_passwords(str(output)), next=next_step(summary, output))
    else:
        for line in summary_lines(summary, output):
            say(line, err=True)
    if summary.failures:
        click.get_current_context().exit(EXIT_FAILURES)


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("-o", "--output", required=True, type=LocalPath(), help="Data set to write.")
@click.option("--every", type=float, metavar="SECONDS", help="Length of each clip.")
@click.option("--scenes", is_flag=True, help="Make a clip of each scene.")
@options(*_SPLIT)
def split(inputs: tuple[str, ...], output: Path, every: float | None, scenes: bool, **given: Any) -> None:
    """Write a data set with a row for each clip of long videos.

    The videos of INPUT stay as they are. It takes no model.

    \b
    reelscribe split films/ -o clips.jsonl --every 10
    reelscribe split films/ -o clips.jsonl --scenes --max-seconds 20
    reelscribe caption clips.jsonl -o captions.jsonl

    The rows have the columns start and end, which caption reads. `caption --split 10` does the same in one step.
    Exit code: 0 all split, 2 wrong usage, or nothing to split, 3 some videos could not be.
    """  # noqa: D301 - as above
    from reelscribe.runners.split import split as run

    if scenes and every is not None:
        raise click.UsageError("give --every or --scenes, not both.")
    how = "scenes" if scenes else None if every is None else f"{every:g}"
    settings = settings_of({**given, "split": how}, None)
    summary = run(inputs, output, settings)
    say(f"{some(summary.rows, 'row')} in {output}", err=True)
    if summary.failures:
        say(f"{some(summary.failures, 'video')} could not be split: see {summary.failures_file}", err=True)
        click.get_current_context().exit(EXIT_FAILURES)


@main.command()
@click.argument("inputs", nargs=-1, required=True, metavar="INPUT...")
@click.option("--config", type=click.Path(path_type=Path), help="TOML file of settings; options win over it.")
@click.option("--gpu", help="GPU to plan for: h100, h200, a100, l40s, ...")
@click.option("--gpus", type=int, help="Number of GPUs; by default the fewest that hold the model.")
@click.option("--rate", type=float, metavar="CLIPS_PER_S", help="Clips that one GPU captions a second, if you know it.")
@click.option(
    "--measured",
    type=click.Path(path_type=Path),
    help="File with a measured rate: OUTPUT.run.json of a run, or a result of benchmarks/gpu.py.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@options(*_PLANNED)
def plan(inputs: tuple[str, ...], config: Path | None, as_json: bool, **given: Any) -> None:
    """Say what a run would take: tokens, GPUs, hours and cost.

    Time and cost take the rate of a run that was measured.

    \b
    reelscribe plan clips/ --gpu h100 --price 2.50
    reelscribe plan data.jsonl --measured first-hundred.run.json --fps 1

    Reads only headers of videos, and the model's configuration. Of more than 10,000 rows, 10,000 are chosen at random,
    and totals are estimated with their error. Clips at URLs are counted, not downloaded.
    """  # noqa: D301 - as above
    from reelscribe.plan.outlook import look_ahead
    from reelscribe.plan.table import lines

    own = {name: given.pop(name) for name in ("gpu", "gpus", "rate", "measured")}
    with Progress() as progress:
        outlook = look_ahead(inputs, settings_of(given, config), **own, on_row=progress.row)
    for line in json.dumps(outlook.told(), indent=1, default=str).splitlines() if as_json else lines(outlook):
        say(line)


@main.command()
@click.argument("output", type=Output())
@click.option("--kind", "kinds", multiple=True, metavar="KIND,...", help="Kinds of failures; all by default.")
@click.option("--task", "tasks", multiple=True, metavar="NAME", help="Task to try again; all by default. Repeatable.")
@click.option(
    "--marks",
    type=click.Path(path_type=Path),
    help="Rows to make again: those with a flag in what a report exported, or an audit wrote.",
)
@click.option(
    "--where", metavar="CONDITION", multiple=True, help="Captions to make again, as 'words<20'; all must hold."
)
@options(*RETRY_SETTINGS)
@watched
def retry(
    output: str | Path,
    kinds: tuple[str, ...],
    tasks: tuple[str, ...],
    marks: Path | None,
    where: tuple[str, ...],
    log_json: bool,
    metrics_port: int | None,
    metrics_host: str,
    **given: Any,
) -> None:
    """Try again what failed, or rows that you name.

    Inputs and settings are those of the last run on OUTPUT, unless you give others.

    \b
    reelscribe retry captions.jsonl --kind decode,engine
    reelscribe retry captions.jsonl --marks marks.jsonl --sampling temperature=1
    reelscribe retry captions.jsonl --where 'flags has loop' --model other/model

    Without --marks and --where, only failures are tried again. With them, the captions of the named rows are made
    again, and you have to change something: the prompt, the model or the sampling. Failures are then left alone,
    unless --kind names some. --task limits this to some tasks; tasks that come after them are made again, too.

    New captions note in their metadata what was changed. The run's own command keeps them. A caption that cannot be
    made again stays. Exit code as that of caption.
    """  # noqa: D301 - as above
    from reelscribe.runners.retry import retry as run

    named = [kind.strip() for group in kinds for kind in group.split(",") if kind.strip()]
    told: dict[str, Any] = {"kinds": named or None, "tasks": tasks or None, "marks": marks}
    if where:
        from reelscribe.audit.marks import marked_where
        from reelscribe.dataset.stores import fetched

        told["marked"] = marked_where(fetched(output), where, tasks)
    with watching(log_json, metrics_port, metrics_host) as hooks:
        summary = run(output, settings=given_of(given), **hooks, **told)
    if summary.asked or log_json:
        _report(summary, output, log_json)
    else:
        say(f"nothing to retry in {output}: {_reason(named, summary, has_marks=bool(marks or where))}.", err=True)
        if summary.failures:
            click.get_current_context().exit(EXIT_FAILURES)


def _reason(kinds: list[str], summary: Any, *, has_marks: bool) -> str:
    """Why there is nothing to retry."""
    reasons = ["nothing is marked that was not made so already"] if has_marks else []
    if kinds or not has_marks:
        failed = f"nothing failed as {' or '.join(kinds)}" if kinds else "nothing failed"
        reasons.append(failed if kinds or not summary.failures else "what failed cannot be asked about")
    return " and ".join(reasons)


@main.command()
@click.argument("output", type=Output())
@click.argument("shards", nargs=-1, required=True, type=Output(), metavar="SHARD_OUTPUT...")
@watched
def merge(output: str | Path, shards: tuple[str | Path, ...], log_json: bool, **where: Any) -> None:
    """Put the outputs of all shards of a run together.

    Shards are what `caption --shard I/N` wrote. The inputs are read again; OUTPUT, its ledger and its list of failures
    are those of a run without shards. Shards must not be missing, given twice, unfinished or of different settings.
    Exit code as that of caption.
    """
    from reelscribe.runners.merge import merge as merged

    with watching(log_json, **where) as hooks:
        summary = merged(output, shards, **hooks)
    _report(summary, output, log_json)


for _command in (*LOOKING, export):
    main.add_command(_command)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default="reelscribe-demo")
def demo(folder: Path) -> None:
    """Caption a dozen rendered clips with the built-in model.

    The clips go to FOLDER. Each caption is compared with the truth.
    """
    from reelscribe.demo import CLIPS, prepare
    from reelscribe.runners.local import run

    say(f"Rendering {CLIPS} clips into {folder} ...", err=True)
    try:
        data, scenes = prepare(folder)
    except OSError as exc:
        raise DatasetError(f"cannot write to {folder}: {exc.strerror}.") from exc
    truths = {name: scene.caption for name, scene in scenes.items()}
    captions: list[str] = []
    output = folder / "captioned.jsonl"

    def keep(result: Any) -> None:
        captions.append(result.rows[0]["caption"] or "(failed)")

    run([data], output, Settings(model="shapes"), progress=True, on_row=keep)
    for (name, truth), text in zip(truths.items(), captions, strict=True):
        say(f"{name}   truth  {truth}")
        say(f"{' ' * len(name)} {'  =' if text == truth else '!='}  model  {text}")
    right = sum(text == truth for text, truth in zip(captions, truths.values(), strict=True))
    say("")
    say(f"{right} of {len(truths)} captions exactly right. The data set stays in {folder}:")
    say(f"  {data}")
    say(f"  {output}")


@main.command("chat-template")
@options("model", "revision")
def chat_template(**given: Any) -> None:
    """Print the chat template to start a vLLM server with.

    vllm serve ... --chat-template FILE. With the model's own, a server of vLLM puts two tokens around a video that the
    model was not released with.
    """
    from reelscribe.engines.prospects import chat_template

    click.echo(chat_template(settings_of(given, None)), nl=False)


@main.command()
@click.argument("folder", type=click.Path(path_type=Path), default=".")
@options("model", "engine")
def doctor(folder: Path, **given: Any) -> None:
    """Check that this machine is set up, and say what to do.

    For a run that writes to FOLDER. A line for each finding: ok, note, or problem. Exit code: 1 if there is a problem.
    """
    from reelscribe.doctor import examine

    found = []
    for finding in examine(settings_of(given, None), folder):
        found.append(finding)
        advice = f" -> {finding.advice}" if finding.advice else ""
        say(f"{finding.state:<8} {finding.check:<13} {finding.text}{advice}")
    if any(finding.state == "problem" for finding in found):
        click.get_current_context().exit(EXIT_ENGINE)


@main.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that completes commands in a shell.

    \b
    bash   eval "$(reelscribe completion bash)"     in ~/.bashrc
    zsh    eval "$(reelscribe completion zsh)"      in ~/.zshrc
    fish   reelscribe completion fish | source      in ~/.config/fish/config.fish
    """  # noqa: D301 - Click takes the backspace for "leave these lines as they are"
    from click.shell_completion import get_completion_class

    kind = get_completion_class(shell)
    assert kind is not None  # Click has all three
    click.echo(kind(main, {}, "reelscribe", "_REELSCRIBE_COMPLETE").source())


@main.command("dj-path")
def dj_path() -> None:
    """Print the folder that a Data-Juicer recipe names.

    Named under custom_operator_paths, it puts this package's operator in the place of
    video_captioning_from_vlm_mapper, also on Ray.
    """
    from reelscribe.integrations import DATA_JUICER_PLUGIN

    click.echo(DATA_JUICER_PLUGIN)


if __name__ == "__main__":
    main()
