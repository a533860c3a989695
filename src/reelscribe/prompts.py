"""Rows to requests, and captions back into rows.

A `Layout` knows how rows hold text and videos. `interleaved` is Data-Juicer's: text with a token for each video, in
chunks. `columns` is what most data sets have: a column of videos, to which columns with captions are added.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable, Container, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.errors import ClipError
from reelscribe.values import CAPTION_META, UNREADABLE, Caption, Clip, Failure, Outcome, Request, RequestId, Row

DEFAULT_PROMPT: Final = "Describe the input video in 1-2 sentences."


def video_token() -> str:
    """The token that stands for a video in interleaved text; Data-Juicer's environment variable overrides it."""
    return os.environ.get("_DJ_SPECIAL_TOKEN_VIDEO") or "<__dj__video>"


def eoc_token() -> str:
    """The token that ends a chunk of interleaved text; Data-Juicer's environment variable overrides it."""
    return os.environ.get("_DJ_SPECIAL_TOKEN_EOC") or "<|__dj__eoc|>"


def special_tokens() -> tuple[str, ...]:
    """All tokens that stay when the words of a chunk are taken out."""
    kinds = {"IMAGE": "<__dj__image>", "AUDIO": "<__dj__audio>"}
    others = (os.environ.get(f"_DJ_SPECIAL_TOKEN_{kind}") or default for kind, default in kinds.items())
    return (video_token(), eoc_token(), *others)


@dataclass(frozen=True, kw_only=True)
class RowPlan:
    """A row and the requests that it makes; `problem` is set instead where the row as a whole cannot be captioned."""

    index: int
    row: Row
    requests: tuple[Request, ...] = ()
    problem: Failure | None = None

    @property
    def lot(self) -> int:
        """What decides which shard of a data set the row is in: a hash of what it asks, whatever machine it is read on
        and whatever place it has. A row that asks nothing goes by its place.
        """
        return self.requests[0].seed if self.requests else self.index


PlanRow = Callable[[Row, int, Settings, Path | None], list[Request]]
FillRow = Callable[[RowPlan, Sequence[Outcome], Settings], list[Row]]


@dataclass(frozen=True, kw_only=True)
class Layout:
    """How rows hold text and videos: two functions, there and back."""

    requests: PlanRow
    """(row, its index, settings, folder of relative paths) -> one request a video. Raises ClipError."""
    fill: FillRow
    """(plan, one outcome a request, settings) -> the rows to write."""
    adds: bool = False
    """Whether `fill` sets the columns of captions (`Settings.caption_columns`), whatever they held before."""

    def plan(self, row: Row, index: int, settings: Settings, root: Path | None) -> RowPlan:
        """Plan a row; what is wrong with the row becomes its `problem`."""
        try:
            return RowPlan(index=index, row=row, requests=tuple(self.requests(row, index, settings, root)))
        except ClipError as exc:
            problem = Failure.of_row(index, str(exc), exc.kind)
            return RowPlan(index=index, row=row, problem=problem)


def columns_used(settings: Settings) -> frozenset[str]:
    """The columns that the flow looks at; all others only pass through."""
    videos = (settings.video_key,) if settings.video_key else ("video", "videos")
    prompts = (settings.prompt_key,) if settings.prompt_key else ()
    return frozenset((*videos, settings.text_key, *prompts, *settings.caption_columns))


def video_column(names: Container[str], settings: Settings) -> str:
    """Which of a row's columns holds its videos."""
    return settings.video_key or ("videos" if "videos" in names else "video")


def videos_of(row: Row, settings: Settings) -> tuple[list[str | bytes], bool]:
    """The videos of a row, and whether the column holds a list of them.

    A video is a path, the bytes of a file, or a table with `bytes` or else `path`, as Hugging Face data sets hold them.
    Whatever else is in a list becomes an empty path: a video that cannot be had, and costs the others nothing.

    Raises:
        ClipError: kind "row", where the column holds something else.
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


def _unpacked(video: Any) -> Any:
    """What a table stands for; anything else as it is."""
    if not isinstance(video, dict) or not video.keys() & {"bytes", "path"}:
        return video
    return video.get("path") if video.get("bytes") is None else video["bytes"]


def choose_prompt(row: Row, settings: Settings) -> str:
    """The row's own prompt, else the setting's, else the default one. One without a word is none.

    Raises:
        ClipError: kind "prompt", if the row's column of prompts holds something else than text.
    """
    own = row.get(settings.prompt_key) if settings.prompt_key else None
    if own is not None and not isinstance(own, str):
        message = f"column {settings.prompt_key!r} must hold the row's prompt as text; got {type(own).__name__}."
        raise ClipError("prompt", message)
    if own and any("\ud800" <= letter <= "\udfff" for letter in own):
        message = f"column {settings.prompt_key!r} must hold the row's prompt as text; it holds half a surrogate pair."
        raise ClipError("prompt", message)
    return own if own and own.strip() else settings.prompt or DEFAULT_PROMPT


def _request(
    row: Row, video: str | bytes, reference: str, *, index: int, slot: int, settings: Settings, root: Path | None
) -> Request:
    prompt, sampling = choose_prompt(row, settings), settings.sampling_params()
    digest = hashlib.sha256()
    seed = settings.seed if sampling.seed is None else sampling.seed
    for part in (str(seed), video, prompt, settings.system_prompt or "", str(slot)):
        content = part if isinstance(part, bytes) else part.encode("utf-8", "surrogatepass")
        digest.update(len(content).to_bytes(8, "big") + content)
    return Request(
        id=RequestId(row=index, slot=slot),
        clip=Clip(source=video, root=root, called=_sample_of(row) if isinstance(video, bytes) else None),
        prompt=prompt,
        system_prompt=settings.system_prompt,
        reference=reference,
        num_captions=settings.num_captions,
        sampling=sampling,
        seed=int.from_bytes(digest.digest()[:8], "big") >> 1,  # 63 bits: Arrow's int64, and so any reader, holds them
    )


def _sample_of(row: Row) -> str | None:
    """What a sample of a tar file is called, for messages about the videos in it."""
    key = row.get("__key__")
    return key if isinstance(key, str) else None


# Interleaved: tokens in the text.


def _interleaved_requests(row: Row, index: int, settings: Settings, root: Path | None) -> list[Request]:
    videos, _ = videos_of(row, settings)
    if not videos:
        return []
    text = row.get(settings.text_key)
    if not isinstance(text, str):
        got = "nothing" if text is None else type(text).__name__
        raise ClipError("prompt", f"column {settings.text_key!r} must hold text with {video_token()}; got {got}.")
    owners = [chunk for chunk in text.split(eoc_token()) for _ in range(chunk.count(video_token()))]
    if not owners:
        raise ClipError("prompt", f"the text has no {video_token()}, but the row has {len(videos)} video(s).")
    if len(owners) > len(videos):
        message = f"the text has {len(owners)} {video_token()}, but the row only {len(videos)} video(s)."
        raise ClipError("prompt", message)
    pairs = enumerate(zip(videos, owners, strict=False))
    return [
        _request(row, video, _words(chunk), index=index, slot=slot, settings=settings, root=root)
        for slot, (video, chunk) in pairs
    ]


def _words(chunk: str) -> str:
    """The text of a chunk without its special tokens."""
    for token in special_tokens():
        chunk = chunk.replace(token, "")
    return chunk.strip()


def _tokens_only(chunk: str) -> list[str]:
    """The special tokens of a chunk, in order."""
    return re.findall("|".join(map(re.escape, special_tokens())), chunk)


def without_tokens(text: str) -> str:
    """A caption as interleaved text can hold it: a special token in it gets a blank after its first character.

    Left as it is, it would stand for one more video, or end the chunk.
    """
    for token in special_tokens():
        text = text.replace(token, f"{token[0]} {token[1:]}")
    return text


def _interleaved_fill(plan: RowPlan, outcomes: Sequence[Outcome], settings: Settings) -> list[Row]:
    captions = [outcome for outcome in outcomes if isinstance(outcome, Caption)]
    if not outcomes or len(captions) < len(outcomes):
        return [plan.row]
    rows = [plan.row] if settings.original else []
    for number in range(max(len(caption.kept) for caption in captions)):
        # With "all", a video may have fewer than others: those without words are left out. It begins again then.
        texts = iter([caption.texts[number % len(caption.kept)] for caption in captions])
        chunks = []
        for chunk in plan.row[settings.text_key].split(eoc_token()):
            if video_token() in chunk:
                tokens = _tokens_only(chunk)
                pieces = [
                    f"{token} {without_tokens(next(texts))} " if token == video_token() else token for token in tokens
                ]
                chunks.append("".join(pieces) + eoc_token())
        rows.append({**plan.row, settings.text_key: "".join(chunks)})
    return rows


# Columns: the videos in a column, the captions beside them.


def _columns_requests(row: Row, index: int, settings: Settings, root: Path | None) -> list[Request]:
    videos, _ = videos_of(row, settings)
    text = row.get(settings.text_key)
    reference = text if isinstance(text, str) else ""
    if videos and settings.layout == "auto" and video_token() in reference:
        raise ClipError(
            "prompt",
            f"the text has {video_token()}, but the first rows have none, so captions go to columns; set layout to "
            "interleaved, or to columns if that is text as any other.",
        )
    pairs = enumerate(videos)
    return [_request(row, video, reference, index=index, slot=n, settings=settings, root=root) for n, video in pairs]


def _columns_fill(plan: RowPlan, outcomes: Sequence[Outcome], settings: Settings, *, listed: bool = False) -> list[Row]:
    """Fill the columns of captions; `listed`: whether other rows hold lists of videos, if this one does not say."""
    names = settings.caption_columns
    held = plan.row.get(video_column(plan.row, settings))
    if not outcomes and not plan.problem:  # nothing was captioned: what the row says of itself stands
        blank: tuple[Any, ...] = ([], [], []) if isinstance(held, list | tuple) else (None, [], None)
        return [{**dict(zip(names, blank, strict=True)), **plan.row}]
    several = isinstance(held, list | tuple) or (held is None and listed)
    cells = [caption_cells(outcome) for outcome in ([plan.problem] if plan.problem else outcomes)]
    row = plan.row
    if plan.problem and row.keys() == {UNREADABLE}:  # readers with types take no column that other rows lack
        cells[0][2][UNREADABLE], row = row[UNREADABLE], {}
    columns: Iterable[Any] = map(list, zip(*cells, strict=True)) if several else cells[0]
    return [{**row, **dict(zip(names, columns, strict=True))}]


def caption_cells(outcome: Outcome) -> tuple[str | None, list[str], Row]:
    """What the columns that are added (`Settings.caption_columns`) hold for one video.

    The metadata has the same keys whatever came of the video, and of a caption no value that is null or an empty list
    for some and something else for others: readers of JSON Lines take the type of a column from its first rows. A
    caption there is always this run's: a failure leaves no older one.
    """
    empty: Row = dict.fromkeys(CAPTION_META)
    if isinstance(outcome, Failure):
        message = outcome.message.encode("utf-8", "backslashreplace").decode()  # it may name folders that are not
        return None, [], empty | {"failure": outcome.kind, "message": message}
    meta = empty | {"failure": "", "message": "", UNREADABLE: ""} | outcome.meta
    meta["thoughts"] = [candidate.thought for candidate in outcome.candidates]
    if meta["frame_timestamps"] is not None and meta["clip_flags"] is None:
        # Release 0.1.0 recorded the share of damaged clips alone, and made neither SDR nor one moment of anything.
        share = 1.0 if meta["decoded_share"] is None else meta["decoded_share"]
        flags = "truncated" if "truncated" in (meta["flags"] or ()) else ""
        meta |= {"decoded_share": share, "clip_flags": flags, "tone_mapped": "", "deinterlaced": False}
    for name in ("flags", "clip_flags"):
        meta[name] = " ".join(meta[name] or ()) if not isinstance(meta[name], str) else meta[name]
    meta["sampling"] = json.dumps(meta["sampling"] or {})
    return outcome.texts[0], [candidate.text for candidate in outcome.candidates], meta


LAYOUTS: Final[dict[str, Layout]] = {
    "interleaved": Layout(requests=_interleaved_requests, fill=_interleaved_fill),
    "columns": Layout(requests=_columns_requests, fill=_columns_fill, adds=True),
}


def choose_layout(rows: Sequence[Row], settings: Settings) -> Layout:
    """The layout that the settings name; for "auto", interleaved if any of these rows has a video token in its text."""
    name = settings.layout
    if name == "auto":
        texts = (row.get(settings.text_key) for row in rows)
        name = "interleaved" if any(isinstance(text, str) and video_token() in text for text in texts) else "columns"
    if name == "interleaved":
        return LAYOUTS[name]
    held = [value for row in rows if (value := row.get(video_column(row, settings))) is not None]
    listed = bool(held) and all(isinstance(value, list | tuple) for value in held)
    return replace(LAYOUTS[name], fill=partial(_columns_fill, listed=listed))
