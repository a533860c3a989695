"""Exports a captioned data set to a folder that a trainer reads. Checks everything first, then writes."""

import os
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import asdict
from itertools import chain
from pathlib import Path
from typing import Any

from reelscribe.dataset.names import SHARD
from reelscribe.errors import ClipError, DatasetError, SettingsError
from reelscribe.export.checks import Checks, Summary
from reelscribe.export.folder import ExportFolder
from reelscribe.export.options import CLIPS_PER_TAR, ExportOptions, check_options, form_of
from reelscribe.export.samples import Sample, Selection, chosen_tasks
from reelscribe.export.texts import Wording
from reelscribe.export.videos import MAKES_FILES, Names, Placer, suffix_of
from reelscribe.export.where import Condition
from reelscribe.export.writers import Job, Placed, Writer
from reelscribe.report.entries import CaptionedData
from reelscribe.runners.status import find_ledger
from reelscribe.video.fetch import Fetcher, FetchLimits
from reelscribe.words import token_counter

_OF_EACH = ("video", "caption", "captions", "start", "end")
"""Columns of tables that every sample has."""
_MOST_EXAMPLES = 5
"""Maximum number of failures whose messages are reported."""


def export_data(
    output: Path,
    folder: Path,
    options: ExportOptions,
    *,
    dry_run: bool = False,
    on_sample: Callable[[int], None] = lambda total: None,
) -> Summary:
    """Export the captions of a data set. The data set is read twice: to check it, and to write.

    Args:
        output: the output of the run, as its command names it.
        folder: the folder to write to: new, empty, or begun by the same command.
        options: what to export, and how.
        dry_run: only check, and write nothing.
        on_sample: called for each sample that was written or failed, with the number of all samples.

    Raises:
        SettingsError: an option is wrong, or does not go with the target. Nothing is written.
        DatasetError: there is nothing to export, videos cannot be placed in this way, most captions or clips break the
            target's limits, or the folder holds something else. Then nothing is written. Or a file cannot be
            written, or was changed since this export wrote it. Then files that were written before stay.
        MissingExtraError: a package that a format needs is not installed.
    """
    export = _Export(output, folder, options)
    summary = export.look()
    if not dry_run:
        export.write(summary, on_sample)
    return summary


class _Export:
    """One export: its checked options, and the two passes over the data."""

    def __init__(self, output: Path, folder: Path, options: ExportOptions) -> None:
        self._options, self._folder_path = options, folder
        self._target, self._form = form_of(options)
        self._placing = options.videos or self._form.placings[0]
        check_options(options, self._target, self._form)
        self._conditions = [Condition.parse(written) for written in options.where]
        self._columns = options.columns or self._form.columns or ()
        self._count = token_counter(Path(options.tokenizer)) if options.tokenizer else None
        root = Path(options.root) if options.root else None
        self._data = CaptionedData(output, root=root, unfinished="ended")
        self._tasks = chosen_tasks(self._data, options.tasks)
        if len(self._tasks) > 1 and not self._form.several:
            raise SettingsError(
                f"{self._target.title} takes one caption of a video, and {', '.join(self._tasks)} are several tasks; "
                "name one with --task."
            )
        self._folder = ExportFolder(folder, self._command(output))

    def _command(self, output: Path) -> dict[str, Any]:
        """The identity of an export: its options, and the names, sizes and times of the files of captions."""
        places = [*(Path(source.location) for source in self._data.sources), self._data.log.file]
        places += [find_ledger(output)] if self._data.is_partial else []
        paths = sorted(path for path in places if path.exists())
        files = [file for path in paths for file in (sorted(path.iterdir()) if path.is_dir() else [path])]
        stats = [(file.name, file.stat().st_size, file.stat().st_mtime_ns) for file in files]
        return {**asdict(self._options), "output": os.path.abspath(output), "captions": stats}  # noqa: PTH100

    def _selection(self) -> Selection:
        options = self._options
        wording = Wording(
            newlines=options.newlines or self._form.newlines[0],
            strip_openings=options.strip_openings,
            trigger=options.trigger,
            prefix=options.prefix,
            suffix=options.suffix,
        )
        return Selection(
            data=self._data,
            tasks=self._tasks,
            wording=wording,
            conditions=self._conditions,
            several=self._form.several,
            forbidden=self._target.forbidden,
            count_tokens=self._count,
        )

    def _can_be_had(self, sample: Sample) -> bool:
        """Whether the sample's video is there, or can be downloaded."""
        video = sample.entry.video
        return video.clip is not None or (video.remote is not None and self._placing in MAKES_FILES)

    # Checking

    def look(self) -> Summary:
        """Check all samples before anything is written. Raises if the export cannot succeed."""
        summary, selection = Summary(folder=self._folder_path), self._selection()
        checks = Checks(
            self._target,
            self._placing,
            count=self._count,
            most_tokens=self._options.max_tokens or self._target.max_tokens,
            columns=self._columns,
            of_each=[*_OF_EACH, *self._tasks],
        )
        for sample in selection:
            if checks.stands_in_the_way(sample):
                continue
            if not self._can_be_had(sample):
                summary.videos_left_out[_why(sample)] += 1
                continue
            summary.samples += 1
            summary.texts += len(sample.texts)
            checks.look_at(sample)
        summary.left_out = selection.left_out
        if selection.seen:
            selection.check_names()
        checks.finish(summary)
        if not summary.samples:
            why = chain(summary.left_out.items(), summary.videos_left_out.items())
            reasons = ", ".join(f"{count:,} {reason}" for reason, count in why) or "it has no captions"
            raise DatasetError(f"there is nothing to export of {self._data.output}: {reasons}.")
        run, output = self._data.run, self._data.output
        if self._data.is_partial or (SHARD in str(output) and run and run.ending != "finished"):
            what = "rows that it wrote" if self._data.is_partial else "shards that are whole"
            summary.notes.append(f"the run on {output} is not finished: these are the {what}")
        summary.notes += self._data.corrections.notes
        return summary

    # Writing

    def write(self, summary: Summary, on_sample: Callable[[int], None]) -> None:
        """Write the folder. Videos, texts and tar files that exist already are not written again."""
        with self._folder.opened() as folder, closing(Fetcher(FetchLimits.of(self._data.settings))) as fetcher:
            placer = Placer(folder, self._placing, fetcher)
            size = self._options.clips_per_tar or CLIPS_PER_TAR
            tasks = tuple(self._tasks)
            job = Job(folder=folder, placer=placer, tasks=tasks, columns=self._columns, clips_per_tar=size)
            writer = self._form.open(job)
            failed: list[int] = []
            for number, kind in self._write_all(writer, placer, summary):
                if kind is not None:
                    failed.append(number)
                on_sample(summary.samples)
            writer.close()
            for name, text in self._form.more(self._folder_path).items():
                folder.put_text(name, text)
            folder.finish(failed, finished=not summary.failed)
        summary.written = True

    def _write_all(self, writer: Writer, placer: Placer, summary: Summary) -> Iterator[tuple[int, str | None]]:
        """Write all samples. Yields the number of each, with the kind of failure if it could not be written."""
        missing = summary.videos_left_out.total()  # how many were missing when they were checked
        with closing(Names()) as names:
            for number, sample in enumerate(self._selection()):
                name = names.name(sample)  # also for missing videos, so that other names do not depend on them
                try:
                    if not self._can_be_had(sample):
                        raise ClipError("missing", f"{sample.entry.video.name}: {sample.entry.video.problem}")
                    writer.write(self._placed(sample, number, name, placer))
                    yield number, None
                except ClipError as exc:
                    if exc.kind == "missing" and not self._can_be_had(sample) and missing:
                        missing -= 1
                    else:
                        summary.failed[exc.kind] += 1
                        summary.texts -= len(sample.texts)
                        summary.examples += [f"{exc.kind}: {exc}"] if len(summary.examples) < _MOST_EXAMPLES else []
                    yield number, exc.kind

    def _placed(self, sample: Sample, number: int, name: str, placer: Placer) -> Placed:
        """Put a sample's video into the folder, unless it stays in place or goes into a tar file."""
        file = f"{name}{suffix_of(sample, self._placing)}"
        is_part = self._placing != "cut" and (clip := sample.entry.video.clip) is not None and not clip.is_whole
        if self._form.in_tars:
            return Placed(sample=sample, number=number, name=name, video=file, file=None)
        path = placer.place(sample, file)
        stays = self._placing == "in-place"
        absolute = stays or self._form.absolute
        video = str(path if stays else path.absolute()) if absolute else file
        return Placed(sample=sample, number=number, name=name, video=video, file=path, is_part=is_part)


def _why(sample: Sample) -> str:
    """Why a video cannot be had, without its name, so that equal reasons are counted together."""
    words = sample.entry.video.problem.partition(": ")[0].rstrip(".")
    return f"whose {words[4:]}" if words.startswith("The ") else f"of which {words[:1].lower()}{words[1:]}"
