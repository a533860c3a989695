"""Finds the videos in rows, and puts captions into rows.

A `Layout` defines how rows hold text and videos. `interleaved` is Data-Juicer's layout: text in chunks, with a token
for each video. `columns` is the layout of most data sets: a column of videos, to which columns of captions are added.
"""

import contextlib
import json
import os
import re
from collections.abc import Callable, Container, Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from reelscribe.asking import RowPlan, Subject
from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.events import as_rows
from reelscribe.stretches import WHOLE, Stretch, in_columns, in_list, split_fragment
from reelscribe.tasks import ColumnKind, Task
from reelscribe.values import CAPTION_META, UNREADABLE, Caption, Clip, Failure, Outcome, Row
from reelscribe.video.fetch import scheme_of


def video_token() -> str:
    """The token that stands for a video in interleaved text; Data-Juicer's environment variable overrides it."""
    return os.environ.get("_DJ_SPECIAL_TOKEN_VIDEO") or "<__dj__video>"


def eoc_token() -> str:
    """The token that ends a chunk of interleaved text; Data-Juicer's environment variable overrides it."""
    return os.environ.get("_DJ_SPECIAL_TOKEN_EOC") or "<|__dj__eoc|>"


def special_tokens() -> tuple[str, ...]:
    """All tokens that are kept when a caption replaces the words of a chunk."""
    kinds = {"IMAGE": "<__dj__image>", "AUDIO": "<__dj__audio>"}
    others = (os.environ.get(f"_DJ_SPECIAL_TOKEN_{kind}") or default for kind, default in kinds.items())
    return (video_token(), eoc_token(), *others)


FindSubjects = Callable[[Row, Settings, Path | None], list[Subject]]
FillRow = Callable[[RowPlan, Sequence[Outcome], Settings], list[Row]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows hold text and videos: a function that finds videos, and one that puts captions into rows."""

    subjects: FindSubjects
    """Function of (row, settings, folder of relative paths) that returns the row's videos or raises ClipError."""
    fill: FillRow
    """Function of (plan, an outcome for each id in `plan.asked()`, settings) that returns the rows to write."""
    adds: bool = False
    """Whether `fill` sets the columns of captions (`Settings.added_columns`)."""

    def plan(self, row: Row, index: int, settings: Settings, root: Path | None) -> RowPlan:
        """Plan a row. If something is wrong with the row, the plan's `problem` says so."""
        try:
            return RowPlan(index=index, row=row, settings=settings, subjects=tuple(self.subjects(row, settings, root)))
        except ClipError as exc:
            problem = Failure.of_row(index, str(exc), exc.kind)
            return RowPlan(index=index, row=row, settings=settings, problem=problem)


def columns_used(settings: Settings) -> frozenset[str]:
    """The columns that the pipeline reads; all others pass through unchanged."""
    videos = (settings.video_key,) if settings.video_key else ("video", "videos")
    prompts = [name for task in settings.all_tasks for name in (task.prompt_key, *task.names) if name]
    return frozenset((*videos, *settings.stretch_columns, settings.text_key, *prompts, *settings.added_columns))


def video_column(names: Container[str], settings: Settings) -> str:
    """Name of the column that holds the videos."""
    return settings.video_key or ("videos" if "videos" in names else "video")


def videos_of(row: Row, settings: Settings) -> tuple[list[str | bytes], bool]:
    """The videos of a row, and whether the column holds a list of them.

    A video is a path, the bytes of a file, or an object with `bytes` or else `path`, as in Hugging Face data sets. Any
    other value in a list becomes an empty path, so that only this video fails, and not the whole row.

    Raises:
        ClipError: kind "row", if the column holds something else.
    """
    key = video_column(row, settings)
    value = _unpacked(row.get(key))
    if value is None:
        return [], False
    listed = isinstance(value, (list, tuple))
    videos = [_unpacked(video) for video in (value if listed else [value])]
    if listed:
        return [video if isinstance(video, (str, bytes)) and video else "" for video in videos], True
    if not isinstance(value, (str, bytes)) or not value:
        empty = "empty " if isinstance(value, (str, bytes)) else ""
        got = f"{empty}{type(value).__name__}"
        raise ClipError("row", f"column {key!r} must hold paths or bytes of videos; got {got}.")
    return videos, False


def clips_of(row: Row, settings: Settings, *roots: Path | None) -> list[Clip]:
    """The clips of a row, in order: its videos, or the stretches of them that the row names.

    Args:
        row: a row with a column of videos.
        settings: names of the columns.
        *roots: folders from which relative paths may start; the first one is set as the clips' root. If one of them has
            a file that is really named `a.mp4#t=1,2`, the path means this file, and not a stretch of `a.mp4`.

    Raises:
        ClipError: kind "row", if a column holds a value of a wrong type.
    """
    clips = [named_clip(video, *roots) for video in videos_of(row, settings)[0]]
    stretches = _stretches_in(row, settings, len(clips)) if clips else None
    if stretches and not all(clip.is_whole for clip in clips):
        raise ClipError("row", f"{clips[0].name} names a stretch, and so does a column of the row; one of them may.")
    if stretches is not None:
        several = clips if len(clips) > 1 else clips * len(stretches)
        clips = [_part(clip, stretch) for clip, stretch in zip(several, stretches, strict=True)]
    sample = row.get("__key__")  # of a tar file
    return [
        replace(clip, called=sample) if isinstance(clip.source, bytes) and isinstance(sample, str) else clip
        for clip in clips
    ]


def named_clip(video: str | bytes, *roots: Path | None) -> Clip:
    """The clip that a path, a URL or the bytes of a file stand for; see `clips_of`.

    Raises:
        ClipError: kind "row", if there are no times after `#t=`.
    """
    root = roots[0] if roots else None
    if isinstance(video, bytes) or "#" not in video or "t=" not in video:
        return Clip(source=video, root=root)
    if scheme_of(video) is None:
        for folder in roots or (None,):
            with contextlib.suppress(OSError, ValueError):  # no file can have such a name
                if (folder / video if folder else Path(video)).exists():
                    return Clip(source=video, root=root)
    path, stretch = split_fragment(video)
    return _part(Clip(source=path, root=root), stretch)


def _part(clip: Clip, stretch: Stretch) -> Clip:
    return replace(clip, start_seconds=stretch.start_seconds, end_seconds=stretch.end_seconds)


def _stretches_in(row: Row, settings: Settings, videos: int) -> list[Stretch] | None:
    """The stretches that a row's columns name: several of one video, or one for each video; None if they name none."""
    key = settings.stretches_key
    if key and row.get(key) is not None:
        other = next(
            (name for name in (settings.start_key, settings.end_key) if name and row.get(name) is not None), None
        )
        if other:
            raise ClipError("row", f"columns {key!r} and {other!r} both name stretches; one of them may.")
        if videos > 1:
            raise ClipError("row", f"column {key!r} holds stretches of one video, but the row has {videos}.")
        return in_list(row[key], key)
    names = settings.start_key, settings.end_key
    starts, ends = (row.get(name) if name else None for name in names)
    if not isinstance(starts, list | tuple) and not isinstance(ends, list | tuple):
        if videos > 1 and (starts is not None or ends is not None):
            wanted = " and ".join(repr(name) for name in names if name)
            raise ClipError("row", f"the row has {videos} videos; columns {wanted} must hold a list with one for each.")
        found = in_columns(starts, ends, names)
        return None if found == WHOLE else [found]
    starts, ends = ([None] * videos if times is None else times for times in (starts, ends))
    for name, times in zip(names, (starts, ends), strict=True):
        if not isinstance(times, list | tuple) or len(times) != videos:
            raise ClipError("row", f"column {name!r} must hold one time for each of the row's {videos} video(s).")
    return [in_columns(start, end, names) for start, end in zip(starts, ends, strict=True)]


def _is_listed(row: Row, settings: Settings) -> bool | None:
    """Whether a row holds a list of clips; None if the row leaves that open."""
    held = row.get(video_column(row, settings))
    if held is None:
        return None
    return isinstance(held, list | tuple) or row.get(settings.stretches_key) is not None


def _unpacked(video: Any) -> Any:
    """The video in a Hugging Face object with `bytes` or `path`; any other value is returned unchanged."""
    if not isinstance(video, dict) or not video.keys() & {"bytes", "path"}:
        return video
    return video.get("path") if video.get("bytes") is None else video["bytes"]


# Layout "interleaved": the text has a token for each video.


def _interleaved_subjects(row: Row, settings: Settings, root: Path | None) -> list[Subject]:
    clips = clips_of(row, settings, root)
    if not clips:
        return []
    text = row.get(settings.text_key)
    if not isinstance(text, str):
        got = "nothing" if text is None else type(text).__name__
        raise ClipError("prompt", f"column {settings.text_key!r} must hold text with {video_token()}; got {got}.")
    owners = [chunk for chunk in text.split(eoc_token()) for _ in range(chunk.count(video_token()))]
    if not owners:
        raise ClipError("prompt", f"the text has no {video_token()}, but the row has {len(clips)} video(s).")
    if len(owners) > len(clips):
        message = f"the text has {len(owners)} {video_token()}, but the row only {len(clips)} video(s)."
        raise ClipError("prompt", message)
    return [Subject(clip=clip, reference=_words(chunk)) for clip, chunk in zip(clips, owners, strict=False)]


def _words(chunk: str) -> str:
    """The text of a chunk without its special tokens."""
    for token in special_tokens():
        chunk = chunk.replace(token, "")
    return chunk.strip()


def _tokens_only(chunk: str) -> list[str]:
    """The special tokens of a chunk, in order."""
    return re.findall("|".join(map(re.escape, special_tokens())), chunk)


def captions_in(text: str) -> list[str]:
    """The caption after each video token of an interleaved text; an empty list if any token has no caption."""
    pieces = [piece.strip() for chunk in text.split(eoc_token()) for piece in chunk.split(video_token())[1:]]
    return pieces if all(pieces) else []


def without_tokens(text: str) -> str:
    """Make a caption safe for interleaved text: insert a space after the first character of each special token in it.

    Otherwise such a token would stand for another video, or end the chunk.
    """
    for token in special_tokens():
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def with_captions(text: str, captions: Iterator[str]) -> str:
    """An interleaved text with a caption after each video token, in place of its former words."""
    chunks = []
    for chunk in text.split(eoc_token()):
        if video_token() in chunk:
            tokens = _tokens_only(chunk)
            pieces = [
                f"{token} {without_tokens(next(captions))} " if token == video_token() else token for token in tokens
            ]
            chunks.append("".join(pieces) + eoc_token())
    return "".join(chunks)


def _interleaved_fill(plan: RowPlan, outcomes: Sequence[Outcome], settings: Settings) -> list[Row]:
    told = [outcome for outcome in outcomes if outcome.id.task == settings.text_task.name]
    captions = [outcome for outcome in told if isinstance(outcome, Caption)]
    if not told or len(captions) < len(told):
        return [plan.row]
    rows = [plan.row] if settings.original else []
    for number in range(max(len(caption.kept) for caption in captions)):
        # With "all", a video may have fewer kept captions than others, as those without words are left out. Its
        # captions are then used again from the first.
        texts = iter([caption.texts[number % len(caption.kept)] for caption in captions])
        rows.append({**plan.row, settings.text_key: with_captions(plan.row[settings.text_key], texts)})
    return rows


# Layout "columns": a column of videos, and columns of captions.


def _columns_subjects(row: Row, settings: Settings, root: Path | None) -> list[Subject]:
    clips = clips_of(row, settings, root)
    text = row.get(settings.text_key)
    reference = text if isinstance(text, str) else ""
    if clips and settings.layout == "auto" and video_token() in reference:
        raise ClipError(
            "prompt",
            f"the text has {video_token()}, but the first rows have none, so captions go to columns; set layout to "
            "interleaved, or to columns if that is text as any other.",
        )
    there = [name for name in settings.added_columns if name in row]
    if clips and there:
        raise ClipError(
            "row",
            f"the row has a column {' and '.join(map(repr, there))} already, which the first rows have not; give the "
            "task another name, as --task described=PROMPT.",
        )
    return [Subject(clip=clip, reference=reference) for clip in clips]


def _columns_fill(plan: RowPlan, outcomes: Sequence[Outcome], settings: Settings, *, listed: bool = False) -> list[Row]:
    """Fill the columns of captions. `listed` says whether other rows hold lists of clips, for rows without a video."""
    says = _is_listed(plan.row, settings)
    several = listed if says is None else says
    if not outcomes and not plan.problem:  # nothing was captioned: values that the row already has stay
        added: Row = {}
        for task in settings.all_tasks:
            failure: Any = [] if several and not task.is_over_video else ""
            blank: dict[ColumnKind, Any] = {"text": None, "candidates": [], "meta": None, "failure": failure}
            for kind in settings.column_kinds:
                added[task.column(kind)] = [] if says and not task.is_over_video else blank[kind]
        return [added | plan.row]
    row = plan.row
    unreadable = plan.problem is not None and row.keys() == {UNREADABLE} and "meta" in settings.column_kinds
    columns: Row = {}
    for task in settings.all_tasks:
        told = [plan.problem] if plan.problem else [outcome for outcome in outcomes if outcome.id.task == task.name]
        cells = [caption_cells(outcome, task) for outcome in told]
        if unreadable:
            cells[0]["meta"][UNREADABLE] = row[UNREADABLE]
        for kind in settings.column_kinds:
            listed = several and not task.is_over_video
            columns[task.column(kind)] = [cell[kind] for cell in cells] if listed else cells[0][kind]
    if unreadable:  # typed readers reject a column that other rows lack, so the text is kept in the metadata instead
        row = {}
    return [{**row, **{name: cell for name, cell in columns.items() if name not in row}}]


def caption_cells(outcome: Outcome, task: Task) -> dict[ColumnKind, Any]:
    """Values of the columns that a task adds for one video, by kind of column.

    The text column of a task with a schema holds the value, that of a task with times a list of events; it is null if
    the kept caption does not fit. The metadata has the same keys for captions and failures. For captions, no key is
    null or an empty list in some rows and another type in others: readers of JSON Lines infer a column's type from its
    first rows. After a failure no caption of an earlier run is left in the columns.
    """
    empty: Row = dict.fromkeys(CAPTION_META)
    if isinstance(outcome, Failure):
        message = f"{outcome.kind}: {outcome.message}"
        # The message may contain paths that are not UTF-8.
        told = message.encode("utf-8", "backslashreplace").decode()
        return {"text": None, "candidates": [], "meta": empty, "failure": told}
    nobody = dict.fromkeys((UNREADABLE, "retried_with", "edited_from", "verdict", "note"), "")
    meta = empty | nobody | {name: told for name, told in outcome.meta.items() if name in empty}
    meta["thoughts"] = [candidate.thought for candidate in outcome.candidates]
    if meta["frame_timestamps"] is not None and meta["clip_flags"] is None:
        # Release 0.1.0 recorded the share only for damaged clips, and had neither tone mapping nor deinterlacing.
        share = 1.0 if meta["decoded_share"] is None else meta["decoded_share"]
        flags = "truncated" if "truncated" in (meta["flags"] or ()) else ""
        meta |= {"decoded_share": share, "clip_flags": flags, "tone_mapped": "", "deinterlaced": False}
    if meta["frame_timestamps"] is not None and meta["file_timestamps"] is None:  # of a release without stretches
        seconds = meta["decoded_seconds"]
        meta |= {"file_timestamps": meta["frame_timestamps"], "clip_start": 0.0}
        meta |= {"clip_end": seconds, "file_seconds": seconds}
    for name in ("flags", "clip_flags"):
        meta[name] = " ".join(meta[name] or ()) if not isinstance(meta[name], str) else meta[name]
    meta["sampling"] = json.dumps(meta["sampling"] or {})
    candidates = [each.text for each in outcome.candidates]
    return {"text": _value(outcome, task), "candidates": candidates, "meta": meta, "failure": ""}


def _value(caption: Caption, task: Task) -> Any:
    """Value of the text column: events, the value of a schema, or text."""
    if task.times:
        return None if caption.events is None else as_rows(caption.events)
    return caption.candidates[caption.kept[0]].value if task.schema else caption.texts[0]


LAYOUTS: Final[dict[str, Layout]] = {
    "interleaved": Layout(subjects=_interleaved_subjects, fill=_interleaved_fill),
    "columns": Layout(subjects=_columns_subjects, fill=_columns_fill, adds=True),
}


def choose_layout(rows: Sequence[Row], settings: Settings) -> Layout:
    """The layout that the settings name. "auto" is "interleaved" if any of the rows has a video token in its text, else
    "columns".
    """
    name = settings.layout
    if name == "auto":
        texts = (row.get(settings.text_key) for row in rows)
        name = "interleaved" if any(isinstance(text, str) and video_token() in text for text in texts) else "columns"
    if name == "interleaved":
        _ = settings.text_task  # raises SettingsError if no task's captions can go into the text
        return LAYOUTS[name]
    say = [says for row in rows if (says := _is_listed(row, settings)) is not None]
    listed = bool(say) and all(say)
    return replace(LAYOUTS[name], fill=partial(_columns_fill, listed=listed))
