"""Captions in files beside local videos: `clip.txt` or `clip.json` for `clip.mp4`."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Final

from reelscribe.config import Settings
from reelscribe.dataset.files import VIDEO_SUFFIXES, write_whole
from reelscribe.errors import ClipError, DatasetError
from reelscribe.pipeline import RowResult
from reelscribe.prompts import caption_cells, videos_of
from reelscribe.schema import Caption, Clip, Row
from reelscribe.video.fetch import FetchLimits, local, scheme_of


def sidecar_of(video: Path, kind: str) -> Path:
    """The file beside a video: `a.txt` for `a.mp4`, but `a.mp4.txt` where there is another video `a`, as `a.mov`.

    It is never the video itself, whatever that is called.
    """
    others = (video.with_suffix(suffix) for suffix in sorted(VIDEO_SUFFIXES - {video.suffix.lower()}))
    shared = any(os.path.lexists(other) for other in others)
    name = video.name if shared or video.suffix == f".{kind}" else video.stem
    return video.with_name(f"{name}.{kind}")


def read_sidecars(video: Path, settings: Settings) -> tuple[Row, str | None]:
    """The columns that files beside a video hold, and what is wrong with them.

    `.txt` is the column of the text, `.json` holds columns. What runs on this output write (`settings.sidecar`) is not
    read.
    """
    row: Row = {}
    for kind in ("json", "txt"):
        file = _find_sidecar(video, kind)
        if kind == settings.sidecar or file is None:
            continue
        try:
            with file.open("rb") as opened:
                data = opened.read(settings.max_line_bytes + 1)
            if len(data) > settings.max_line_bytes:
                return row, f"{file} is longer than {settings.max_line_bytes:,} bytes (max_line_bytes)."
            text = data.decode("utf-8-sig")
            columns = json.loads(text) if kind == "json" else {settings.text_key: text.strip()}
        except OSError as exc:
            return row, f"{file} cannot be read: {exc.strerror}."
        except (ValueError, RecursionError) as exc:
            return row, f"{file} cannot be read: {exc}."
        if not isinstance(columns, dict):
            return row, f"{file} must hold a JSON object; it holds {type(columns).__name__}."
        row |= columns
    return row, None


def _find_sidecar(video: Path, kind: str) -> Path | None:
    """The file beside a video, if it is there. Most are not, so that is asked first."""
    # os.path's function says False for a name that is too long, where pathlib's raises.
    if not any(os.path.isfile(video.with_name(f"{name}.{kind}")) for name in (video.stem, video.name)):  # noqa: PTH113
        return None
    file = sidecar_of(video, kind)
    return file if os.path.isfile(file) else None  # noqa: PTH113


class SidecarWriter:
    """Writes a file beside each local video that has a caption, whole or not at all. One that is there is replaced.

    Videos given by URL or by bytes have none, and a video without a caption leaves what is there.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._limits = FetchLimits.of(settings)

    def write(self, result: RowResult) -> None:
        """Write the files of one row.

        Raises:
            DatasetError: one cannot be written.
        """
        kind = self._settings.sidecar
        if kind is None or result.origin is None or not result.captions:
            return
        videos, _ = videos_of(result.origin.row, self._settings)
        for video, outcome in zip(videos, result.outcomes, strict=False):
            if isinstance(outcome, Caption) and isinstance(video, str) and scheme_of(video) in (None, "file"):
                path = _path_of(Clip(source=video, root=result.origin.root), self._limits)
                if path is not None:
                    _write(sidecar_of(path, kind), _CONTENTS[kind](outcome, self._settings))


def _path_of(clip: Clip, limits: FetchLimits) -> Path | None:
    try:
        return local(clip, limits).path
    except ClipError:  # it was captioned, so this is another file by now
        return None


def _as_json(caption: Caption, settings: Settings) -> str:
    table = dict(zip(settings.caption_columns, caption_cells(caption), strict=True))
    return json.dumps(table, ensure_ascii=False, indent=1) + "\n"


_CONTENTS: Final[dict[str, Callable[[Caption, Settings], str]]] = {
    "txt": lambda caption, _: caption.texts[0] + "\n",
    "json": _as_json,
}


def _write(file: Path, text: str) -> None:
    try:
        write_whole(file, text)
    except OSError as exc:
        raise DatasetError(f"cannot write to {file}: {exc.strerror}.") from exc
