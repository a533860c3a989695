"""The values that travel through a run. Frozen, keyword-only, no I/O."""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from reelscribe.checks import Checks
from reelscribe.errors import FailureKind, SettingsError, without_passwords
from reelscribe.events import Event, Times
from reelscribe.sampling_params import SamplingParams
from reelscribe.schemas import Facts, Schema
from reelscribe.scores import Scorer
from reelscribe.stretches import MOST_SECONDS
from reelscribe.templates import Part, filled, parts_of

Row = dict[str, Any]
"""One row of a data set: column name to value."""

StopReason = Literal["stop", "length"]
"""Why a generation ended: an end token or stop string, or the limit of tokens."""


@dataclass(frozen=True, kw_only=True)
class Clip:
    """A video, by path or by content, or a stretch of one."""

    source: str | bytes
    """A path, or the bytes of a whole video file."""
    start_seconds: float = 0.0
    """Where the stretch begins, from the first frame of the file."""
    end_seconds: float | None = None
    """Where it ends, on the same clock; None for the end of the file."""
    root: Path | None = None
    """Folder that a relative path starts from; None for the working directory."""
    called: str | None = field(default=None, compare=False)
    """What to call it in messages, where that is not its source: a downloaded clip goes by its URL, one in a tar file
    by its sample's key."""

    @property
    def name(self) -> str:
        """What to call the clip in messages: its path or URL as given, less any password, or the size of its bytes.

        Behind it stands which stretch it is, as W3C's Media Fragments have it.
        """
        if self.called is None and isinstance(self.source, bytes):
            return f"<{len(self.source):,} bytes>{self.fragment}"
        return without_passwords(str(self.source if self.called is None else self.called)) + self.fragment

    @property
    def is_whole(self) -> bool:
        """Whether it is all of the file."""
        return not self.start_seconds and self.end_seconds is None

    @property
    def whole(self) -> "Clip":
        """All of the file."""
        return replace(self, start_seconds=0.0, end_seconds=None)

    @property
    def fragment(self) -> str:
        """What stands behind the path of a stretch: `#t=12,18.5`; nothing behind that of a whole file."""
        if self.is_whole:
            return ""
        end = "" if self.end_seconds is None else f",{_plain(self.end_seconds)}"
        return f"#t={_plain(self.start_seconds)}{end}"

    @property
    def path(self) -> Path:
        """The path to open; only for clips given by path."""
        if isinstance(self.source, bytes):
            raise TypeError("a clip given by its bytes has no path")
        return self.root / self.source if self.root else Path(self.source)


def _plain(seconds: float) -> str:
    """A time without the zeros behind it; one that no video has, in short."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") if abs(seconds) < MOST_SECONDS else f"{seconds:g}"


class Bounds(NamedTuple):
    """Where a clip lies in its file, in seconds from the first frame of that."""

    start: float
    end: float
    file_seconds: float
    """Length of the file."""


class RequestId(NamedTuple):
    """Names a request within a run: a task, for a video of a row."""

    row: int
    """Place of the row in the data set, from 0."""
    slot: int | None = 0
    """Place of the video in the row, from 0; None for the row as a whole."""
    task: str = "caption"
    part: int = 0
    """Number of a part that is asked beforehand, from 1, where a film's clips are too many for one prompt; else 0."""

    def __str__(self) -> str:
        where = f"row {self.row}" if self.slot is None else f"video {self.slot} of row {self.row}"
        part = f", part {self.part}" if self.part else ""
        return f"{self.task} of {where}{part}"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One question about one clip."""

    id: RequestId
    """Unique within a run."""
    clip: Clip
    prompt: str
    system_prompt: str | None = None
    video: bool = True
    """Whether the clip is part of what is asked; False for a text stage."""
    reference: str = ""
    """The original text, for selection by similarity. It has no part in what is made."""
    num_captions: int = 1
    """Candidates to generate."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    """Root of all randomness of this request, 63 bits. A function of what is asked, not of its place in a batch."""
    attempt: int = 1
    """2 where it is asked once more, since all that came of the first try had faults."""
    schema: Schema | None = None
    """What an answer has to fit, as JSON; None for free text."""
    keep: str = "random_any"
    """Which candidates to keep. It has no part in what is made."""
    times: Times = False
    """Whether an answer is read as events. It has no part in what is made, either."""
    checks: Checks = field(default_factory=Checks)
    """What answers are checked for. It has no part in what is made."""
    tell_faults: bool = False
    """Whether a second try is told what was wrong with the first."""
    scorer: Scorer | None = None
    """What gives candidates scores. It has no part in what is made."""
    row: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The row, for a scorer; else empty."""
    answered: "Answer | None" = None
    """What was answered before, and only lacks scores: no engine is asked."""
    judge: str = ""
    """What the model is asked of each candidate, a template with {caption}; nothing if they are not to be judged. It
    has no part in the candidates."""
    unfilled: tuple[Part, ...] = ()
    """The prompt in parts, while it names facts of the clip, which are known once that is decoded."""
    instead: "Request | Failure | None" = None
    """What a retry asks in its place, or why it cannot; None for the same. Captions are known by what the run asks."""
    retried_with: str = ""
    """What of this is not as in the run, as JSON, if a retry asks something else."""

    @property
    def scored(self) -> bool:
        """Whether the log-probabilities of candidates are asked for."""
        return self.keep in ("likeliest", "judged")

    def judging(self, caption: str) -> "Request":
        """The question whether a caption holds for the clip, behind the same system prompt."""
        prompt = "".join(map(str, filled(parts_of(self.judge), lambda _: caption)))
        one_token = SamplingParams(max_tokens=1, temperature=0.0)
        return replace(self, prompt=prompt, num_captions=1, schema=None, sampling=one_token, keep="all", judge="")

    def lacks_scores(self, answer: "Answer") -> bool:
        """Whether a candidate with text has no score of the scorer."""
        if self.scorer is None:
            return False
        return any(self.scorer.name not in each.scores for each in answer.candidates if each.has_text)

    def __post_init__(self) -> None:
        if self.num_captions < 1:
            raise SettingsError(f"num_captions must be a whole number of at least 1; got {self.num_captions!r}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """The sound of a clip, as long as the clip. Equal only to itself."""

    samples: NDArray[np.float32]
    """float32, shape (samples,), one channel, -1 to 1, from the clip's start on; none if the clip has no sound."""
    rate: int
    """Samples a second."""
    heard: Literal["heard", "partly", "no sound", "no track"]
    """`partly` if the file has sound for a part of the clip, and the rest is silence; `no sound` if it has none there;
    `no track` if it has none at all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """The frames of a clip that the model sees, at the size that it sees. Equal only to itself."""

    pixels: NDArray[np.uint8]
    """uint8, shape (frames, height, width, 3), RGB, upright."""
    timestamps: tuple[float, ...]
    """When each frame is shown, in seconds from the first frame of the clip."""
    duration_seconds: float
    video_tokens: int
    """Vision tokens that the clip costs."""
    decoded_share: float | None = None
    """If the clip is cut short or damaged: the share of it that these frames are spread over, which is its longest
    stretch without damage. Then `duration_seconds` is the length of that."""
    thinned: bool = False
    """Whether the budget allowed fewer frames a second than were asked for."""
    shrunk: bool = False
    """Whether the budget allowed less than a quarter of the picture's pixels."""
    tone_mapped: Literal["pq", "hlg"] | None = None
    """How the clip holds high dynamic range, which was brought to the range of SDR."""
    deinterlaced: bool = False
    """Whether pictures of two fields were brought to one moment."""
    facts: Facts = field(default_factory=Facts)
    """What the file says of itself, whatever of it the model sees; of a stretch, its own length."""
    bounds: Bounds | None = None
    """Where the clip lies in its file. Decoding sets it, for a whole file, too; None where nothing was decoded."""
    span: tuple[float, float] | None = None
    """When these frames begin and end by the clock that the file's streams share, in seconds; None if it has none."""
    sound: Sound | None = None
    """None if it is not asked for."""

    @property
    def has_sound(self) -> bool:
        """Whether there are samples for a model to hear."""
        return self.sound is not None and self.sound.samples.size > 0

    @property
    def nbytes(self) -> int:
        """Of pixels and samples."""
        return self.pixels.nbytes + (self.sound.samples.nbytes if self.sound else 0)


NO_FRAMES: Final = Frames(pixels=np.empty((0, 0, 0, 3), np.uint8), timestamps=(), duration_seconds=0.0, video_tokens=0)
"""What goes to an engine that takes files, not frames."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """A clip, and what is asked about it at one time: what an engine is given. Equal only to itself."""

    requests: tuple[Request, ...]
    """At least one; all about the same clip."""
    frames: Frames = NO_FRAMES
    """`NO_FRAMES` until the clip is decoded, and where the engine takes the file."""

    @property
    def clip(self) -> Clip:
        """What the requests are about."""
        return self.requests[0].clip

    @property
    def shows(self) -> bool:
        """Whether the clip is part of what is asked."""
        return any(request.video for request in self.requests)

    def singly(self) -> "Iterator[Work]":
        """Works of one request each, with the same frames."""
        return (replace(self, requests=(request,)) for request in self.requests)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One generated text."""

    text: str
    stop_reason: StopReason
    num_tokens: int | None
    """Of all that was generated, the thought included; None where a server does not tell."""
    thought: str = ""
    """What the model thought before it answered. An engine leaves it in the text; see `reelscribe.thoughts`."""
    unclosed: bool = False
    """Whether the thought has no end. Then there is no text."""
    value: Any = None
    """What the text holds, where the request has a schema and the text fits it."""
    mean_logprob: float | None = None
    """Mean log-probability of its tokens, the end token among them, by the model itself: without temperature, filters
    and penalties. None if the request is not to be scored, or the engine does not tell."""
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """What judges and scorers said of it, by their names; higher is better. The ledger keeps them."""

    @property
    def has_text(self) -> bool:
        """Whether there is something to score."""
        return bool(self.text.strip())


@dataclass(frozen=True, kw_only=True)
class Generation:
    """What an engine made of one request: its candidates, in order."""

    id: RequestId
    candidates: tuple[Candidate, ...]
    prompt_tokens: int | None
    """Tokens of the whole prompt, those of the video included; None where a server does not tell."""


JUDGED: Final = "judged"
"""Name of the score that the model itself gives a candidate: how likely it is to say that it holds for the clip."""

UNREADABLE: Final = "unreadable_line"
"""Name of what was read in the place of a row, if that is none."""

CAPTION_META: Final[dict[str, tuple[str, str]]] = {
    UNREADABLE: ("string", "the line that is no row; empty for a caption"),
    "engine": ("string", "what ran the model"),
    "model": ("string", "its name or folder; `by hand` for a caption that a person wrote where there was none"),
    "revision": ("string", "its commit on the hub"),
    "prompt": ("string", "what was asked"),
    "prompt_sha256": ("string", "hash of the system prompt and the prompt"),
    "sampling": ("string", "the sampling parameters that were set, as JSON"),
    "seed": ("int64", "root of the randomness"),
    "frame_timestamps": (
        "list of float64",
        "when each frame that the model saw is shown, in seconds from the clip's start",
    ),
    "file_timestamps": ("list of float64", "the same from the start of the file"),
    "clip_start": ("float64", "where the clip begins in its file, in seconds"),
    "clip_end": ("float64", "where it ends"),
    "file_seconds": ("float64", "length of the whole file"),
    "frame_size": ("list of int64", "width and height of these, in pixels"),
    "fps": ("float64", "frames a second that the model saw"),
    "video_tokens": ("int64", "vision tokens that the frames cost"),
    "decoded_share": ("float64", "share of the clip that they are spread over; 1 for a whole clip"),
    "decoded_seconds": ("float64", "length of that part"),
    "clip_flags": (
        "string",
        "what is to be known of the frames: `truncated`, `thinned`, `shrunk`, `ends_early`, `black`, `frozen`, "
        "`blurred`; or none",
    ),
    "fingerprint": (
        "string",
        "32 hexadecimal digits, of which those of a near copy of the clip differ in few bits; zeros for plain frames",
    ),
    "audio": (
        "string",
        "with `audio`: `heard`; `partly` if a part of the clip has no sound, which is fed as silence; `no sound` if "
        "none of it has; `no track` if the file has none; `in file` if a server was sent that; else null",
    ),
    "tone_mapped": ("string", "`pq` or `hlg` for a clip of high dynamic range, which was brought to SDR; else empty"),
    "deinterlaced": ("bool", "whether pictures of two fields were brought to one moment"),
    "times_given": (
        "string",
        "how the model was given the times of frames: in `words`, by `positions` of tokens, `drawn` into the pictures, "
        "or `none`; null if that is not known",
    ),
    "sound_given": (
        "string",
        "with `audio`: how a model is given sound: `among` the frames, each part of it at its time, or `beside` them; "
        "else null",
    ),
    "sent": ("string", "what a server was sent; null for a model that runs here"),
    "prompt_tokens": ("int64", "tokens of the whole prompt, the video's among them"),
    "completion_tokens": ("list of int64", "tokens of each candidate"),
    "stop_reasons": ("list of string", "why each candidate ended: `stop` or `length`"),
    "thoughts": ("list of string", "what the model thought before each candidate; empty for nothing"),
    "faults": ("list of string", "what is wrong with each candidate, or nothing"),
    "mean_logprobs": (
        "list of float64",
        "with `keep` likeliest or judged: the mean log-probability of each candidate's tokens; else null",
    ),
    "scores": (
        "list of string",
        "what judges and scorers said of each candidate, as JSON: a number by each one's name; empty for nothing",
    ),
    "judge": ("string", "with `keep` judged: what the model was asked of each candidate; else empty"),
    "retried_with": ("string", "what a retry asked otherwise than the run, as JSON; empty for nothing"),
    "try": ("int64", "which try it is from"),
    "tries": ("int64", "how many were made"),
    "keep": ("string", "which candidates were to be kept"),
    "kept": ("list of int64", "their places"),
    "reason": ("string", "why those"),
    "agreement": (
        "float64",
        "with `keep` consensus: how near the kept one is to the other candidates, 0 to 1; else null",
    ),
    "flags": ("string", "faults of the kept ones and `clip_flags`, with blanks between; empty for none"),
    "edited_from": ("string", "what the model had said, if a person changed it since; else empty"),
    "verdict": ("string", "what a person said of it: `approved` or `rejected`; else empty"),
    "note": ("string", "what a person noted of it; else empty"),
}
"""Keys of the metadata of each video, for captions and failures: the type and the meaning of each."""


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a model said to a request, and what is known of that. Which of it is kept is another matter."""

    id: RequestId
    candidates: tuple[Candidate, ...]
    meta: dict[str, Any]
    """Provenance, ready for JSON: model, prompt, sampling, timestamps, tokens, faults."""

    @property
    def scored(self) -> bool:
        """Whether log-probabilities were asked for, though the engine may not have said them."""
        return bool(self.meta.get("scored"))

    def has_scores_for(self, request: Request) -> bool:
        """Whether it was asked for the scores by which this request is to choose."""
        return (self.scored or not request.scored) and request.judge in ("", self.meta.get("judged_by"))


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A captioned request."""

    id: RequestId
    kept: tuple[int, ...]
    """Indices of the candidates that were kept."""
    reason: str
    """Why those."""
    candidates: tuple[Candidate, ...]
    meta: dict[str, Any]
    """Provenance, ready for JSON: model, prompt, sampling, timestamps, tokens."""
    events: tuple[Event, ...] | None = None
    """The events in the first of the kept candidates, on the file's clock. None if the request has no times, or they
    are not as they should be."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The kept texts."""
        return tuple(self.candidates[index].text for index in self.kept)

    @property
    def kept_text(self) -> str:
        """The first of them, as another prompt takes it: where it has a value, that as JSON."""
        kept = self.candidates[self.kept[0]]
        return kept.text if kept.value is None else json.dumps(kept.value, ensure_ascii=False)


@dataclass(frozen=True, kw_only=True)
class Failure:
    """A request, or a row, that has no caption, and why."""

    id: RequestId
    video: str | None
    kind: FailureKind
    message: str

    @classmethod
    def of(cls, request: Request, message: str, kind: FailureKind = "engine") -> "Failure":
        """What a request came to."""
        return cls(id=request.id, video=request.clip.name, kind=kind, message=message)

    @classmethod
    def of_row(cls, index: int, message: str, kind: FailureKind) -> "Failure":
        """What a row came to as a whole."""
        return cls(id=RequestId(row=index, slot=None), video=None, kind=kind, message=message)


Outcome = Caption | Failure
"""What a request came to."""


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """A row as a reader gives it."""

    index: int
    """Its place in the data set, from 0."""
    row: Row
    root: Path | None = None
    """Folder that its relative paths start from."""
    problem: Failure | None = None
    """Set by a reader that found no row here."""
    source: Any = None
    """The record as its reader had it, where that is more than `row` holds: then `row` has the columns that the flow
    looks at, and a writer takes the others from here, unchanged."""
    num_bytes: int = 0
    """About how much memory it takes; bounds how many are read ahead."""
    lot: int | None = None
    """What decides which shard it is in, if that is not told by the row itself."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What became of one row."""

    index: int
    rows: tuple[Row, ...]
    """The rows to write in its place."""
    outcomes: tuple[Outcome, ...]
    """One for each of its videos, in order; or the one Failure that the row is as a whole."""
    origin: InputRow | None = None
    """The row that was read."""
    known: frozenset[RequestId] = frozenset()
    """Names of those outcomes that were known before."""

    @property
    def captions(self) -> tuple[Caption, ...]:
        """Its videos that have a caption."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Caption))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Why the others have none."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failure))
