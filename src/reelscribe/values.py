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

ONE_TOKEN: Final = SamplingParams(max_tokens=1, temperature=0.0)
"""Sampling of what is asked for one word: yes or no."""

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
    """Name for messages, if it is not the source: the URL of a downloaded clip, or the sample's key in a tar file."""

    @property
    def name(self) -> str:
        """Name of the clip for messages: its path or URL without passwords, or the size of its bytes.

        A stretch has its times appended, in the syntax of W3C's Media Fragments.
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
        """Times of a stretch, to append to its path: `#t=12,18.5`. Empty for a whole file."""
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
    """A time without trailing zeros; in scientific notation if it is beyond any video's length, to keep names short."""
    return f"{seconds:.6f}".rstrip("0").rstrip(".") if abs(seconds) < MOST_SECONDS else f"{seconds:g}"


class Bounds(NamedTuple):
    """Where a clip lies in its file, in seconds from the file's first frame."""

    start: float
    end: float
    file_seconds: float
    """Length of the file."""


class RequestId(NamedTuple):
    """Name of a request, unique within a run: a task for a video of a row."""

    row: int
    """Place of the row in the data set, from 0."""
    slot: int | None = 0
    """Place of the video in the row, from 0; None for the row as a whole."""
    task: str = "caption"
    part: int = 0
    """For a film with too many clips for one prompt: number of the part that is asked first, from 1. Otherwise 0."""

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
    """Whether the model is shown the clip; False for a text stage."""
    reference: str = ""
    """The original text, for selection by similarity. It does not affect what is generated."""
    num_captions: int = 1
    """Candidates to generate."""
    sampling: SamplingParams = field(default_factory=SamplingParams)
    seed: int = 0
    """Root of all randomness of this request, 63 bits. A function of what is asked, not of its place in a batch."""
    attempt: int = 1
    """2 for a second try, after all candidates of the first had faults."""
    schema: Schema | None = None
    """What an answer has to fit, as JSON; None for free text."""
    keep: str = "random_any"
    """Which candidates to keep. It does not affect what is generated."""
    times: Times = False
    """Whether an answer is read as events. It does not affect what is generated."""
    checks: Checks = field(default_factory=Checks)
    """What answers are checked for. It does not affect what is generated."""
    tell_faults: bool = False
    """Whether a second try is told what was wrong with the first."""
    scorer: Scorer | None = None
    """Gives candidates scores. It does not affect what is generated."""
    row: Mapping[str, Any] = field(default_factory=dict, compare=False)
    """The row, for a scorer; else empty."""
    answered: "Answer | None" = None
    """A known answer that only lacks scores. Such a request goes past the engine."""
    judge: str = ""
    """Question that the model judges each candidate, or each of its claims, by: a template with {caption}. Empty for no
    judging. It does not affect the candidates."""
    verify: bool = False
    """Whether the claims of each candidate are judged. It does not affect the candidates, either."""
    given: "Answer | None" = None
    """Candidates that exist already and are only judged: the engine generates none."""
    unfilled: tuple[Part, ...] = ()
    """The prompt in parts, if it names facts of the clip. They are filled in when the clip is decoded."""
    instead: "Request | Failure | None" = None
    """What a retry asks in its place, or why it cannot; None to ask the same. The result is stored under the key of
    this request, so that the run finds it."""
    retried_with: str = ""
    """JSON of the settings in which a retry differs from the run; empty outside retries."""

    @property
    def scored(self) -> bool:
        """Whether the log-probabilities of candidates are asked for."""
        return self.keep in ("likeliest", "judged")

    @property
    def verifies(self) -> bool:
        """Whether it is about a text that the task has from elsewhere, and not about what a model said to it."""
        return self.given is not None and not self.given.meta

    def judging(self, caption: str) -> "Request":
        """The request that asks whether a caption is true of the clip, with the same system prompt."""
        prompt = "".join(map(str, filled(parts_of(self.judge), lambda _: caption)))
        return replace(self, prompt=prompt, num_captions=1, schema=None, sampling=ONE_TOKEN, keep="all", judge="")

    def for_engine(self) -> "Request":
        """It as an engine is to be asked. Of given candidates it draws a single token, which nobody looks at."""
        return replace(self, num_captions=1, schema=None, sampling=ONE_TOKEN) if self.given else self

    def lacks_scores(self, answer: "Answer") -> bool:
        """Whether any candidate with text still needs a score of the scorer."""
        if self.scorer is None:
            return False
        return any(self.scorer.name not in each.scores for each in answer.candidates if each.has_text)

    def __post_init__(self) -> None:
        if self.num_captions < 1:
            raise SettingsError(f"num_captions must be a whole number of at least 1; got {self.num_captions!r}.")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """The sound of a clip, of the clip's length. Compared by identity."""

    samples: NDArray[np.float32]
    """float32, shape (samples,), one channel, -1 to 1, from the clip's start. Empty if the clip has no sound."""
    rate: int
    """Samples a second."""
    heard: Literal["heard", "partly", "no sound", "no track"]
    """`partly` if the file has sound for a part of the clip, and the rest is silence; `no sound` if it has none there;
    `no track` if it has none at all."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Frames:
    """The frames of a clip that the model sees, at their final size. Compared by identity."""

    pixels: NDArray[np.uint8]
    """uint8, shape (frames, height, width, 3), RGB, upright."""
    timestamps: tuple[float, ...]
    """When each frame is shown, in seconds from the first frame of the clip."""
    duration_seconds: float
    video_tokens: int
    """Vision tokens that the clip costs."""
    decoded_share: float | None = None
    """If the clip is cut short or damaged: the share of it that the frames cover, its longest undamaged part. Then
    `duration_seconds` is the length of that part. None for a whole clip."""
    thinned: bool = False
    """Whether the budget allowed fewer frames a second than were asked for."""
    shrunk: bool = False
    """Whether the budget allowed less than a quarter of the picture's pixels."""
    tone_mapped: Literal["pq", "hlg"] | None = None
    """Transfer function of an HDR clip that was tone-mapped to SDR; None for an SDR clip."""
    deinterlaced: bool = False
    """Whether interlaced pictures, of two fields each, were deinterlaced."""
    facts: Facts = field(default_factory=Facts)
    """What the file states about itself, and the length of the clip."""
    bounds: Bounds | None = None
    """Where the clip lies in its file, also for a whole file. None if nothing was decoded."""
    span: tuple[float, float] | None = None
    """When the clip begins and ends, in seconds on the clock of all streams of the file; None without such a clock."""
    sound: Sound | None = None
    """None if it is not asked for."""

    @property
    def has_sound(self) -> bool:
        """Whether there are samples for a model to hear."""
        return self.sound is not None and self.sound.samples.size > 0

    @property
    def nbytes(self) -> int:
        """Bytes of pixels and samples."""
        return self.pixels.nbytes + (self.sound.samples.nbytes if self.sound else 0)


NO_FRAMES: Final = Frames(pixels=np.empty((0, 0, 0, 3), np.uint8), timestamps=(), duration_seconds=0.0, video_tokens=0)
"""What goes to an engine that takes files, not frames."""


@dataclass(frozen=True, kw_only=True, eq=False)
class Work:
    """The unit of an engine: a clip with the requests about it. Compared by identity."""

    requests: tuple[Request, ...]
    """At least one; all about the same clip."""
    frames: Frames = NO_FRAMES
    """`NO_FRAMES` until the clip is decoded, and always if the engine takes files."""

    @property
    def clip(self) -> Clip:
        """The clip that all requests are about."""
        return self.requests[0].clip

    @property
    def shows(self) -> bool:
        """Whether any request shows the clip to the model."""
        return any(request.video for request in self.requests)

    def singly(self) -> "Iterator[Work]":
        """Split into works of one request each, with the same frames."""
        return (replace(self, requests=(request,)) for request in self.requests)


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """One generated text."""

    text: str
    stop_reason: StopReason
    num_tokens: int | None
    """Number of generated tokens, the thought included; None if a server does not say."""
    thought: str = ""
    """What the model thought before it answered. Engines leave it in the text; `reelscribe.thoughts` moves it here."""
    unclosed: bool = False
    """Whether the thought did not end; then `text` is empty."""
    value: Any = None
    """The parsed text, if the request has a schema and the text fits it."""
    mean_logprob: float | None = None
    """Mean log-probability of its tokens, the end token among them, by the model itself: without temperature, filters
    and penalties. None if the request is not to be scored, or the engine does not tell."""
    scores: Mapping[str, float] = field(default_factory=dict, hash=False)
    """Scores by judges and scorers, by name; higher is better. The ledger stores them."""
    claims: Mapping[str, float | None] = field(default_factory=dict, hash=False)
    """The claims of the text, if it was verified, and the probability of each by the judge. None if the judge said
    neither yes nor no."""

    @property
    def failed_claims(self) -> tuple[str, ...]:
        """The claims that the judge holds to be false rather than true."""
        return tuple(claim for claim, chance in self.claims.items() if chance is not None and chance < 0.5)

    @property
    def verified(self) -> float | None:
        """The share of its judged claims that hold; None if none was judged."""
        judged = [chance for chance in self.claims.values() if chance is not None]
        return round(1 - len(self.failed_claims) / len(judged), 4) if judged else None

    @property
    def has_text(self) -> bool:
        """Whether there is something to score."""
        return bool(self.text.strip())


@dataclass(frozen=True, kw_only=True)
class Generation:
    """An engine's result for one request: its candidates, in order."""

    id: RequestId
    candidates: tuple[Candidate, ...]
    prompt_tokens: int | None
    """Tokens of the whole prompt, the video's included; None if a server does not say."""


JUDGED: Final = "judged"
"""Name of the score by the model itself: the probability that it calls the candidate true of the clip."""
VERIFIED: Final = "verified"
"""Name of the score for the share of a candidate's claims that hold."""

UNREADABLE: Final = "unreadable_line"
"""Key under which a line that is no row is kept."""

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
    "judge": (
        "string",
        "with `keep` judged or `verify`: what the model was asked of each candidate or claim; else empty",
    ),
    "claims": (
        "list of string",
        "with `verify`: what each candidate claims and how likely each claim is to hold, as JSON; empty for nothing",
    ),
    "failed_claims": ("string", "claims of the kept candidates that do not hold, each on a line; empty for none"),
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
    """All that a model answered to a request. `choose` in outcomes.py decides which candidates are kept."""

    id: RequestId
    candidates: tuple[Candidate, ...]
    meta: dict[str, Any]
    """Provenance, ready for JSON: model, prompt, sampling, timestamps, tokens, faults."""

    @property
    def scored(self) -> bool:
        """Whether log-probabilities were asked for. The engine may still not have given them."""
        return bool(self.meta.get("scored"))

    def has_scores_for(self, request: Request) -> bool:
        """Whether this answer was generated with the scores that the request chooses by."""
        judge = request.judge if request.keep == "judged" else ""
        return (self.scored or not request.scored) and judge in ("", self.meta.get("judged_by"))

    def is_verified_for(self, request: Request) -> bool:
        """Whether its claims were judged as this request asks; True if it asks for none."""
        return not request.verify or self.meta.get("verified_by") == request.judge


@dataclass(frozen=True, kw_only=True)
class Caption:
    """A captioned request."""

    id: RequestId
    kept: tuple[int, ...]
    """Indices of the kept candidates."""
    reason: str
    """Why these were kept."""
    candidates: tuple[Candidate, ...]
    meta: dict[str, Any]
    """Provenance, ready for JSON: model, prompt, sampling, timestamps, tokens."""
    events: tuple[Event, ...] | None = None
    """Events of the first kept candidate, on the file's clock. None if the request has no times, or the candidate's
    events are invalid."""

    @property
    def texts(self) -> tuple[str, ...]:
        """The kept texts."""
        return tuple(self.candidates[index].text for index in self.kept)

    @property
    def kept_text(self) -> str:
        """The first kept text, as it is put into another prompt: as JSON if it has a value."""
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
        """A failure of a request."""
        return cls(id=request.id, video=request.clip.name, kind=kind, message=message)

    @classmethod
    def of_row(cls, index: int, message: str, kind: FailureKind) -> "Failure":
        """A failure of a whole row."""
        return cls(id=RequestId(row=index, slot=None), video=None, kind=kind, message=message)


Outcome = Caption | Failure
"""Result of a request."""


@dataclass(frozen=True, kw_only=True)
class InputRow:
    """A row as a reader yields it."""

    index: int
    """Its place in the data set, from 0."""
    row: Row
    root: Path | None = None
    """Folder that relative paths in the row start from."""
    problem: Failure | None = None
    """Set if the reader could not read a row here."""
    source: Any = None
    """The reader's own record, if it holds more than `row`. Then `row` has only the columns that the flow reads, and a
    writer takes all others from here, unchanged."""
    num_bytes: int = 0
    """Approximate memory of the row. It bounds how many rows are read ahead."""
    shard_hash: int | None = None
    """Decides which shard the row is in, if that does not follow from its own videos; see `RowPlan.shard_hash`."""


@dataclass(frozen=True, kw_only=True)
class RowResult:
    """What became of one row."""

    index: int
    rows: tuple[Row, ...]
    """The rows to write in its place."""
    outcomes: tuple[Outcome, ...]
    """One for each request, in order; or a single Failure of the whole row."""
    origin: InputRow | None = None
    """The row that was read."""
    known: frozenset[RequestId] = frozenset()
    """Ids of the outcomes that were known before the run made any."""

    @property
    def captions(self) -> tuple[Caption, ...]:
        """Outcomes that are captions."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Caption))

    @property
    def failures(self) -> tuple[Failure, ...]:
        """Outcomes that are failures."""
        return tuple(outcome for outcome in self.outcomes if isinstance(outcome, Failure))
