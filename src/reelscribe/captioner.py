"""Captions in a notebook: a model that stays loaded, called with videos.

captioner = VideoCaptioner("shapes")
captioner("clip.mp4")            # one caption, shown with the frames that the model saw
captioner(["a.mp4", "b.mp4"])    # several, batched
captioner.map(dataset)           # a data set of Hugging Face's datasets
"""

import html
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Final, Self, TypeGuard, Unpack, overload

from reelscribe.config import DEFAULT_MODEL, Settings
from reelscribe.config.keywords import Keywords
from reelscribe.engines import load_engine
from reelscribe.engines.base import Engine
from reelscribe.errors import ClipError, MissingExtraError, SettingsError
from reelscribe.layouts import caption_cells, named_clip
from reelscribe.pipeline import caption_rows, check_added
from reelscribe.tasks import Task
from reelscribe.values import Clip, Failure, InputRow, Outcome

if TYPE_CHECKING:
    import pyarrow as pa

Video = str | Path | bytes
"""A path or URL, or the bytes of a whole video file."""

_SHOWN_FRAMES: Final = 8
_STRIP_BYTES: Final = 128 << 10
"""Maximum bytes of the pictures shown with a caption: a notebook stores them in its file."""
_BATCHES: Final = 4
"""Engine batches in each batch of a data set. The engine idles between batches of a data set, so these are larger."""


@dataclass(frozen=True, kw_only=True, repr=False)
class VideoCaption:
    """The caption of one video. `str()` of it is the text; Jupyter shows it below the frames that the model saw."""

    text: str
    """The kept caption; the first one if all are kept."""
    value: Any
    """The parsed value with a schema; the events on the file's clock with times; else None."""
    candidates: tuple[str, ...]
    """All that was generated, in order."""
    meta: dict[str, Any]
    """How it was made, as `caption_meta` in a data set: model, prompt, sampling, seed, times of frames, tokens."""
    video: str
    """What the video is called: its path or URL, or the size of its bytes."""
    clip: Clip = field(compare=False)
    """The clip, to decode its frames again."""
    settings: Settings = field(compare=False)
    """Settings that it was made with."""

    def __str__(self) -> str:
        return self.text

    def __repr__(self) -> str:
        return f"VideoCaption({self.video!r}: {self.text!r})"

    def _repr_html_(self) -> str:
        """What Jupyter shows. The frames are decoded again; if that fails, the reason is shown instead."""
        seconds = self.meta["frame_timestamps"] or []
        told = [
            self.video,
            self.meta["model"],
            f"{len(seconds)} frames",
            f"{self.meta['video_tokens'] or 0:,} tokens",
        ]
        flags = self.meta["flags"].split()
        parts = [
            self._frames_html(seconds),
            f'<p style="margin:.4em 0">{html.escape(self.text)}</p>',
            f'<p style="margin:.4em 0;opacity:.7;font-size:85%">{html.escape(" · ".join([*told, *flags]))}</p>',
        ]
        if len(self.candidates) > 1:
            items = "".join(f"<li>{html.escape(text)}</li>" for text in self.candidates)
            parts.append(f"<details><summary>{len(self.candidates)} candidates</summary><ol>{items}</ol></details>")
        return f'<div style="max-width:60em">{"".join(parts)}</div>'

    def _frames_html(self, seconds: Sequence[float]) -> str:
        try:
            from reelscribe.report.thumbnails import look_again
        except ModuleNotFoundError:
            return "<p>Frames are shown with pip install 'reelscribe[report]'.</p>"
        strip = look_again(
            self.clip, seconds, most_frames=_SHOWN_FRAMES, max_bytes=_STRIP_BYTES, settings=self.settings
        )
        if strip.problem:
            return f"<p>{html.escape(strip.problem)}</p>"
        pictures = "".join(
            f'<figure style="margin:0"><img src="{html.escape(frame.data)}" width="{frame.width}" '
            f'height="{frame.height}" alt="the frame at {frame.seconds:g} s" style="max-width:none;margin:0">'
            f'<figcaption style="font-size:75%;opacity:.7">{frame.seconds:.2f} s</figcaption></figure>'
            for frame in strip.frames
        )
        return f'<div style="display:flex;gap:3px;overflow-x:auto">{pictures}</div>'


Answers = dict[str, VideoCaption | Failure]
"""The answers about a video, by task name."""


class VideoCaptioner:
    """A model, loaded once, that captions videos.

    Use it in a `with` statement, or `close` it, where the memory that the model takes is needed again.

    Args:
        model: hub name or folder of a checkpoint that takes videos; "shapes" is the built-in one.
        **settings: any other field of `Settings`: `num_captions=4`, `sampling={"temperature": 0.8}`, ...

    Raises:
        SettingsError: a setting is unknown or wrong.
        MissingExtraError: what the engine needs is not installed.
        ModelError: the model cannot be loaded.
    """

    def __init__(self, model: str = DEFAULT_MODEL, **settings: Unpack[Keywords]) -> None:
        self.settings = Settings.load(None, **{"layout": "columns", **settings, "model": model})
        if self.settings.split is not None:
            raise SettingsError(
                "a VideoCaptioner splits no videos; see reelscribe.split, or name stretches, as a.mp4#t=1,2."
            )
        if self.settings.layout != "columns":
            raise SettingsError(f"layout must be columns in a VideoCaptioner; got {self.settings.layout!r}.")
        self.settings.check_checks()
        self._engine: Engine | None = load_engine(self.settings)

    @overload  # a str is an iterable of str, too: the first one that fits holds
    def __call__(self, videos: Video, *, prompt: str | None = None) -> VideoCaption: ...  # type: ignore[overload-overlap]

    @overload
    def __call__(self, videos: Iterable[Video], *, prompt: str | None = None) -> list[VideoCaption | Failure]: ...

    def __call__(
        self, videos: Video | Iterable[Video], *, prompt: str | None = None
    ) -> VideoCaption | list[VideoCaption | Failure]:
        """Caption one video, or several at once, which is faster than one by one.

        Args:
            videos: a path, a URL or the bytes of a file; or several of these. Relative paths start from the working
                directory, or from the setting `root`.
            prompt: in place of the setting.

        Returns:
            For one video its caption. For several a list with, for each in order, its caption, or a `Failure` that says
            of which `kind` it is and why, in `message`: a broken video costs the others nothing.

        Raises:
            ClipError: the one video cannot be captioned; its `kind` is that of a failure.
            SettingsError: it is no video that was given, there are several tasks, or the captioner is closed.
            EngineError: the engine broke.
        """
        settings = self.settings if prompt is None else replace(self.settings, prompt=prompt)
        if len(settings.all_tasks) > 1:
            raise SettingsError("this captioner has several tasks: ask(videos) gives the answer to each.")
        [task] = settings.all_tasks
        if _are_several(videos):
            return [answers[task.name] for answers in self._ask([_checked(video) for video in videos], settings)]
        [made] = self._ask([_checked(videos)], settings)
        answer = made[task.name]
        if isinstance(answer, Failure):
            raise ClipError(answer.kind, answer.message)
        return answer

    @overload
    def ask(self, videos: Video) -> Answers: ...  # type: ignore[overload-overlap]

    @overload
    def ask(self, videos: Iterable[Video]) -> list[Answers]: ...

    def ask(self, videos: Video | Iterable[Video]) -> Answers | list[Answers]:
        """Ask all tasks of one video, or of several at once. The clip is decoded once, and looked at once.

        Args:
            videos: as for a call.

        Returns:
            For one video the answer to each task by its name: a caption or a `Failure`. For several a list of such.

        Raises:
            SettingsError: it is no video that was given, or the captioner is closed.
            EngineError: the engine broke.
        """
        if _are_several(videos):
            return self._ask([_checked(video) for video in videos], self.settings)
        [made] = self._ask([_checked(videos)], self.settings)
        return made

    def _ask(self, videos: list[str | bytes], settings: Settings) -> list[Answers]:
        root = Path(settings.root) if settings.root else None
        key = settings.video_key or "video"
        rows = (InputRow(index=number, row={key: video}, root=root) for number, video in enumerate(videos))
        made: list[Answers] = []
        for result in caption_rows(rows, settings, self._loaded()):
            found = {outcome.id.task: outcome for outcome in result.outcomes}
            [whole, *_] = result.outcomes  # of a row that cannot be captioned, for all tasks
            made.append(
                {
                    task.name: _told(found.get(task.name, whole), task, settings, videos[result.index], root)
                    for task in settings.all_tasks
                }
            )
        return made

    def map(self, dataset: Any, *, batch_size: int | None = None) -> Any:
        """Caption a data set of Hugging Face's datasets.

        Columns are added as `reelscribe caption` does: `caption`, `caption_candidates`, `caption_meta` (JSON) and
        `caption_failure`, or such of each task. Every row stays. Videos are in the column `video` or `videos`, or the
        one that the setting `video_key` names: paths, bytes, or the type `Video`.

        Nothing is taken from the cache of datasets: what failed yesterday may be there today. For work of hours, which
        is to go on where it broke off, take `reelscribe.run`.

        Args:
            dataset: a Dataset, an IterableDataset, or a DatasetDict or IterableDatasetDict of these.
            batch_size: rows in a batch, which are in memory at once; by default some batches of the engine.

        Returns:
            A data set of the same kind and format.

        Raises:
            MissingExtraError: datasets is not installed.
            SettingsError: it is no such data set, it has no column of videos, it has one that would be added, or the
                captioner is closed.
            EngineError: the engine broke.
        """
        try:
            import datasets
        except ModuleNotFoundError as exc:
            raise MissingExtraError("VideoCaptioner.map needs datasets: pip install datasets") from exc
        if isinstance(dataset, dict):
            return type(dataset)({name: self.map(split, batch_size=batch_size) for name, split in dataset.items()})
        if not isinstance(dataset, datasets.Dataset | datasets.IterableDataset):
            raise SettingsError(f"map takes a data set of Hugging Face's datasets; got {type(dataset).__name__}.")
        self._loaded()
        self._check_columns(dataset.column_names)
        options: dict[str, Any] = {"batched": True, "batch_size": batch_size or _BATCHES * self.settings.batch_size}
        if isinstance(dataset, datasets.IterableDataset):
            return dataset.with_format("arrow").map(self._table, **options).with_format(None)
        random = datasets.fingerprint.generate_random_fingerprint()
        made = dataset.with_format("arrow").map(self._table, **options, new_fingerprint=random, desc="captions")
        return made.with_format(dataset.format["type"], **dataset.format["format_kwargs"])

    def _check_columns(self, names: Sequence[str] | None) -> None:
        check_added(names or (), self.settings)
        wanted = [self.settings.video_key] if self.settings.video_key else ["video", "videos"]
        if names is not None and not set(wanted) & set(names):
            raise SettingsError(
                f"the data set has no column {' or '.join(wanted)}, only {', '.join(names)}; name that of the videos "
                "with video_key."
            )
        for option, name in self.settings.named_columns.items():
            if names is not None and name not in names:
                raise SettingsError(f"the data set has no column {name!r}, which {option} names.")

    def _table(self, batch: "pa.Table") -> "pa.Table":
        from reelscribe.integrations.tables import caption_records, caption_table

        root = Path(self.settings.root) if self.settings.root else None
        return caption_table(
            batch, self.settings, root, lambda records: caption_records(records, self.settings, self._loaded())
        )

    def _loaded(self) -> Engine:
        if self._engine is None:
            raise SettingsError("this VideoCaptioner is closed; make another one.")
        return self._engine

    def close(self) -> None:
        """Release the model. Captions that were made stay valid."""
        engine, self._engine = self._engine, None
        end = getattr(engine, "close", None)
        if end:
            end()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _checked(video: Any) -> str | bytes:
    """Check a video, and convert it to what a row holds."""
    if isinstance(video, Path):
        return str(video)
    if isinstance(video, str | bytes) and video:
        return video
    got = f"an empty {type(video).__name__}" if isinstance(video, str | bytes) else type(video).__name__
    raise SettingsError(f"a video is a path, a URL or the bytes of a file; got {got}.")


def _are_several(videos: Any) -> TypeGuard[Iterable[Any]]:
    return isinstance(videos, Iterable) and not isinstance(videos, str | bytes | bytearray | Mapping)


def _told(
    outcome: Outcome, task: Task, settings: Settings, video: str | bytes, root: Path | None
) -> VideoCaption | Failure:
    if isinstance(outcome, Failure):
        return outcome
    clip, cells = named_clip(video, root), caption_cells(outcome, task)
    return VideoCaption(
        text=outcome.texts[0],
        candidates=tuple(candidate.text for candidate in outcome.candidates),
        value=cells["text"] if task.schema or task.times else None,
        meta=cells["meta"],
        video=clip.name,
        clip=clip,
        settings=settings,
    )
