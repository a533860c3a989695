"""Models on a server that speaks OpenAI's protocol: vLLM, SGLang, OpenAI itself and many more.

A window of requests is in flight on an event loop in a thread of its own. Requests are pulled until the window is full,
and answers are given as they come. Three other modules do the rest: `gate` decides how large the window is and when all
requests wait, `server` what errors mean, and `chat` how a clip is shown.
"""

import json
import logging
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final

import anyio
import httpx2
import numpy as np
from anyio.from_thread import start_blocking_portal

from reelscribe.config import DEFAULT_MODEL, Settings
from reelscribe.engines.base import USUAL_LIMITS, ModelInfo
from reelscribe.engines.chat import Answer, Shown, body, hear, is_web_address, read_answer, show, with_fields
from reelscribe.engines.feed import feeding
from reelscribe.engines.gate import DeniedError, FailedError, Gate, RefusedError
from reelscribe.engines.judging import to_judge, with_chances, with_given
from reelscribe.engines.server import ServedModel, Server
from reelscribe.engines.stills import words_of
from reelscribe.errors import ClipError, EngineError, SettingsError
from reelscribe.thoughts import CLOSING, OPENING
from reelscribe.values import Candidate, Failure, Generation, Request, Sound, Work
from reelscribe.video.fetch import FetchLimits

logger = logging.getLogger(__name__)

BACK_OFF_SECONDS = 0.5
"""The first pause after a failure. Each further pause is twice as long."""
_ATTEMPTS: Final = 4
"""How often a request is tried if the server fails at it."""
_WINDOW_BYTES: Final = 1 << 30
"""Bytes of frames, pictures and files that requests in flight may hold. One request is always let through."""
_TAKES_FRAMES: Final = (0, 20)
"""The first version of vLLM that takes frames with their true times."""

HELLO: Final[Mapping[str, Any]] = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 1}
"""A request for one token, sent to find out what a server accepts."""

_SILENCE_SAMPLES: Final = 16000
"""The number of samples, and the sampling rate, of the second of silence that shows whether a server takes sound."""

_NOTHING: Final = Shown(parts=[], fields={})
"""For requests without a video."""

Reply = Generation | Failure


class _Showing:
    """The clip of a work in the form that is sent to the server. The first request that needs it converts it, once.

    Args:
        work: the work.
        convert: converts its clip.
    """

    def __init__(self, work: Work, convert: Callable[[Work], Shown]) -> None:
        self._waiting = [work]  # emptied by the conversion, since pixels take much more memory than the result
        self._convert = convert
        self._lock = anyio.Lock()
        self._made: Shown | ClipError = ClipError("engine", f"{work.clip.name} was not brought into the form to send.")
        self.held_bytes = _size(work)

    async def get(self) -> Shown:
        """The converted clip.

        Raises:
            ClipError: the clip cannot be shown. Each request that asks gets this error.
        """
        async with self._lock:
            if self._waiting:
                try:
                    # If the request is cancelled, a file that is still being fetched is not waited for.
                    self._made = await anyio.to_thread.run_sync(
                        self._convert, self._waiting.pop(), abandon_on_cancel=True
                    )
                except ClipError as exc:
                    self._made = ClipError(exc.kind, str(exc))
                self.held_bytes = self.body_bytes
        if isinstance(self._made, Shown):
            return self._made
        raise ClipError(self._made.kind, str(self._made))

    @property
    def body_bytes(self) -> int:
        """The bytes that the clip takes in the body of each request."""
        return self._made.held_bytes if isinstance(self._made, Shown) else 0


@dataclass(frozen=True, kw_only=True, eq=False)
class _Flight:
    """A request in flight. Compared by identity."""

    request: Request
    showing: _Showing | None
    """The clip that it shows; None for a request without a video."""


@dataclass(frozen=True, kw_only=True)
class Template:
    """What is known about the chat template of a server."""

    fields: Mapping[str, Any]
    """Fields of the request body that turn thinking on or off."""
    opens_thought: bool
    """Whether the template opens a thought at the end of the prompt, so that answers begin within it."""

    def without_thought(self) -> dict[str, Any]:
        """The fields for an answer that is one word."""
        return {name: dict.fromkeys(switches, False) for name, switches in self.fields.items()}

    @classmethod
    def of(cls, server: Server, model: str, settings: Settings, *, vllm: bool) -> "Template":
        """Find out what a server's template does. Only vLLM can be asked.

        Other servers get the field only to turn thinking on, since they may refuse fields that they do not know.
        """
        thinking = settings.thinking
        fields = {"chat_template_kwargs": {"enable_thinking": thinking}}
        hello = {"model": model, **HELLO, **fields}
        if not thinking and not (vllm and server.takes(hello)):  # vLLM refuses the field with Mistral's tokenizers
            return cls(fields={}, opens_thought=False)
        end = server.prompt_end(with_fields(hello, _only_template(settings.extra_body))) if vllm else ""
        return cls(fields=fields, opens_thought=end.rfind(OPENING) > end.rfind(CLOSING))


class OpenAIEngine:
    """A model on a server.

    Args:
        server: the server.
        model: the model's name on the server.
        settings: of the run: concurrency, time limits, additional fields of the body and so on.
        vllm: whether the server is vLLM, which uses the checkpoint's own sampling defaults and can give more details.
        send: "frames", "images" or "video"; see `reelscribe.engines.chat`.
        template: what is known about the server's chat template.
        back_off_seconds: the first pause after a failure.
    """

    def __init__(
        self,
        server: Server,
        model: str,
        settings: Settings,
        *,
        vllm: bool,
        send: str,
        template: "Template",
        back_off_seconds: float,
    ) -> None:
        self._server = server
        self._settings = settings
        self._vllm = vllm
        self._send = send
        self._template = template
        self._back_off = back_off_seconds
        self._takes_n: bool | None = None  # whether it gives several candidates for one request; None: not known yet
        self._failed_in_a_row = self._denied_in_a_row = 0
        self._refused_before = False
        # What a clip costs is known only if the server takes our frames as the video.
        told: dict[str, Any] = {} if send == "frames" else {"video_tokens": None}
        if send == "images":
            told["times_given"] = "words"
        if settings.audio:
            told |= {"audio": "in file"} if send == "video" else {"sound_given": "beside"}
        self.info = ModelInfo(
            engine="openai",
            model=model,
            revision=None,
            limits=USUAL_LIMITS,
            wants_frames=send != "video",
            details={"sent": send, **told},
        )

    def generate(self, works: Iterator[Work]) -> Iterator[Reply]:
        """Keep a window of requests in flight, and give the answers as they come. Requests of a work share its clip."""
        gate = Gate(
            most=self._settings.max_concurrency,
            patience_seconds=self._settings.retry_seconds,
            back_off_seconds=self._back_off,
        )
        self._failed_in_a_row = self._denied_in_a_row = 0
        others = _Others(self._server, self.info.model)
        with (
            feeding(works) as feed,
            start_blocking_portal() as portal,
            portal.wrap_async_context_manager(self._server.connect()) as client,
        ):
            flying: dict[Future[Reply], _Flight] = {}
            queued: deque[_Flight] = deque()
            pull: Future[Work | None] | None = None
            more = True
            try:
                while True:
                    while queued and self._has_room(flying, gate):
                        flight = queued.popleft()
                        flying[portal.start_task_soon(self._answer, flight, client, gate, others)] = flight
                    if more and pull is None and not queued and self._has_room(flying, gate):
                        pull = feed.pull()
                    if pull is None and not flying:
                        return
                    waited: list[Future[Any]] = [*flying, *([] if pull is None else [pull])]
                    wait(waited, return_when=FIRST_COMPLETED)
                    if pull is not None and pull.done():
                        prepared, pull = pull.result(), None
                        more = prepared is not None
                        if prepared is not None:
                            queued.extend(self._flights(prepared))
                        del prepared  # it holds the pixels
                    del waited
                    finished = [future for future in flying if future.done()]
                    for future in finished:
                        del flying[future]
                    # Hand out the finished answers before an exception of another request ends the run.
                    yield from (future.result() for future in finished if not future.exception())
                    for future in finished:
                        future.result()
            finally:
                for future in flying:
                    future.cancel()

    def _flights(self, work: Work) -> Iterator[_Flight]:
        """The requests of a work, ready to be sent. They share the converted clip."""

        def convert(work: Work) -> Shown:
            limits, words = FetchLimits.of(self._settings), words_of(self.info.model)
            return show(work, self._send, self._settings.max_upload_bytes, limits, words)

        showing = _Showing(work, convert)
        return (_Flight(request=each, showing=showing if each.video else None) for each in work.requests)

    def _has_room(self, flying: Mapping["Future[Reply]", _Flight], gate: Gate) -> bool:
        """Whether one more request may be in flight. One request always may."""
        showings = [flight.showing for flight in flying.values() if flight.showing]
        held = sum(each.held_bytes for each in set(showings)) + sum(each.body_bytes for each in showings)
        return not flying or (len(flying) < gate.limit and held < _WINDOW_BYTES)

    async def _answer(self, flight: _Flight, client: httpx2.AsyncClient, gate: Gate, others: "_Others") -> Reply:
        request = flight.request
        candidates: list[Candidate] = []
        prompt_tokens: int | None = None
        with others.joined():
            try:
                shown = await flight.showing.get() if flight.showing else _NOTHING
                while not request.given and len(candidates) < request.num_captions:
                    answer = await self._ask(request, shown, len(candidates), client, gate)
                    others.tell()
                    candidates += answer.candidates
                    prompt_tokens = answer.prompt_tokens
                made = Generation(
                    id=request.id, candidates=tuple(candidates[: request.num_captions]), prompt_tokens=prompt_tokens
                )
                made = with_given(request, made)
                judged = await self._judge(request, to_judge(request, made), shown, client, gate)
                made = with_chances(request, made, judged)
            except (ClipError, RefusedError, FailedError) as exc:
                if isinstance(exc, DeniedError):
                    await others.wait_for_answer(exc)
                await self._count(exc, others)
                return Failure.of(request, str(exc), exc.kind if isinstance(exc, ClipError) else "engine")
        self._failed_in_a_row = self._denied_in_a_row = 0
        return made

    async def _judge(
        self, request: Request, captions: Sequence[str], shown: Shown, client: httpx2.AsyncClient, gate: Gate
    ) -> dict[str, float | None]:
        """Ask the model of each caption whether it is true. Each of these requests sends the clip again.

        Returns:
            The probability of "yes" by caption; None if the server does not say it.
        """
        found = {}
        for caption in captions:
            answer = await self._try(request.judging(caption), shown, 0, 1, client, gate, judges=True)
            found[caption] = answer.chance
        return found

    async def _ask(self, request: Request, shown: Shown, first: int, client: httpx2.AsyncClient, gate: Gate) -> Answer:
        """Ask for the missing candidates: all at once if the server accepts that, else for the next one.

        Args:
            request: the request.
            shown: its clip.
            first: the number of the first missing candidate.
            client: to send with.
            gate: that the attempt must pass.
        """
        missing = request.num_captions - first
        if missing > 1 and self._takes_n is not False:
            try:
                answer = await self._try(request, shown, first, missing, client, gate)
                self._takes_n = len(answer.candidates) > 1
                return answer
            except DeniedError:
                raise
            except RefusedError:
                if self._takes_n:
                    raise
        answer = await self._try(request, shown, first, 1, client, gate)
        if missing > 1:
            self._takes_n = False
        return answer

    async def _try(
        self,
        request: Request,
        shown: Shown,
        first: int,
        count: int,
        client: httpx2.AsyncClient,
        gate: Gate,
        *,
        judges: bool = False,
    ) -> Answer:
        """Send a request, and try again if the server fails at it, `_ATTEMPTS` times in all.

        Args:
            request: the request.
            shown: its clip.
            first: the number of the first candidate to ask for.
            count: how many candidates to ask for.
            client: to send with.
            gate: that each attempt must pass.
            judges: whether this is a judge's question.

        Raises:
            FailedError: the server failed each time.
            RefusedError, ClipError, EngineError: see `Gate.attempt`.
        """
        fields = body(
            request,
            shown,
            model=self.info.model,
            first=first,
            count=count,
            default_temperature=None if self._vllm else 1.0,
            judges=judges,
        )
        if self._vllm and count > 1:
            fields["return_token_ids"] = True  # else vLLM gives only the number of tokens of all candidates together
        fields.update(self._template.without_thought() if judges else self._template.fields)
        content = await anyio.to_thread.run_sync(_dumps, with_fields(fields, self._settings.extra_body))

        # An answer that matches a schema cannot contain a thought.
        opens_thought = self._template.opens_thought and not request.schema

        async def once() -> Answer:
            return read_answer(await self._server.ask(client, content), opens_thought=opens_thought)

        for attempt in range(_ATTEMPTS - 1):
            try:
                return await gate.attempt(once)
            except FailedError as exc:
                logger.info("%s: %s", request.clip.name, exc)
                await anyio.sleep(gate.pause(attempt))
        return await gate.attempt(once)

    async def _count(self, exc: Exception, others: "_Others") -> None:
        """Count failures in a row.

        Raises:
            EngineError: the server failed at too many requests in a row, or denies all requests.
        """
        if isinstance(exc, RefusedError) and not self._refused_before:
            self._refused_before = True
            logger.warning("The server refused a request, the first of this run: %s", exc)
        if isinstance(exc, DeniedError):
            self._denied_in_a_row += 1
            if self._denied_in_a_row >= self._settings.error_budget:
                self._denied_in_a_row = 0
                await others.ask_plainly(exc)
        if isinstance(exc, FailedError):
            self._failed_in_a_row += 1
            if self._failed_in_a_row >= self._settings.error_budget:
                raise EngineError(
                    f"the server failed at {self._failed_in_a_row} requests in a row, each tried {_ATTEMPTS} times "
                    f"(error_budget is {self._settings.error_budget}). The last one: {exc}"
                ) from exc


class _Others:
    """What the requests in flight know about each other and about the server. Use it in one event loop only.

    A server may deny a request because of its content, or because the key or the model is wrong. In the latter case it
    denies all of them. This class tells the two cases apart.

    Args:
        server: that the requests are sent to.
        model: the model's name on the server.
    """

    def __init__(self, server: Server, model: str) -> None:
        self._server, self._model = server, model
        self._in_flight = self._denied = 0
        self._changed = anyio.Event()
        self._one_asks = anyio.Lock()

    @contextmanager
    def joined(self) -> Iterator[None]:
        """A context for the time that a request is in flight."""
        self._in_flight += 1
        try:
            yield
        finally:
            self._in_flight -= 1
            self.tell()

    async def wait_for_answer(self, exc: DeniedError) -> None:
        """Wait until the server has answered any request. Then the denied request itself is at fault.

        If all requests in flight are denied, a harmless request decides; see `ask_plainly`.

        Raises:
            EngineError: the server denies all requests.
        """
        self._denied += 1
        self.tell()
        try:
            while not self._server.has_answered:
                if self._denied == self._in_flight:
                    await self.ask_plainly(exc)
                else:
                    await self._changed.wait()
        finally:
            self._denied -= 1

    async def ask_plainly(self, exc: DeniedError) -> None:
        """Send a request that no server would moderate, after a request was denied.

        Raises:
            EngineError: that is denied too. So the key or the model is wrong.
        """
        async with self._one_asks:
            if self._denied and self._server.has_answered:
                return
            try:
                await anyio.to_thread.run_sync(self._server.takes, {"model": self._model, **HELLO})
            except EngineError:
                raise exc.for_all from exc
            self.tell()

    def tell(self) -> None:
        """Wake the requests that wait in `wait_for_answer`."""
        self._changed.set()
        self._changed = anyio.Event()


def load(settings: Settings) -> OpenAIEngine:
    """Load the engine that the settings describe. This asks the server for its models and for what it accepts.

    Raises:
        SettingsError: the address or the key cannot be used, or the model takes no sound and `audio` is set.
        EngineError: the server cannot be reached, refuses the key, or does not have the model.
    """
    server = Server(settings.base_url, settings.api_key_env, settings.request_timeout)
    model = _choose_model(settings.model, server.models(), server)
    vllm, send = model.owner == "vllm", settings.send
    if send == "frames" and not (vllm and _takes_frames(server, model.name)):
        send = "images"
    if settings.audio and send != "video" and not _takes_sound(server, model.name):
        raise SettingsError(
            f"audio is set, but {model.name!r} on the server takes no sound (input_audio); leave audio out, or serve a "
            "model that takes it."
        )
    logger.info("%s at %s is sent %s.", model.name, server.url, send)
    template = Template.of(server, model.name, settings, vllm=vllm)
    return OpenAIEngine(
        server, model.name, settings, vllm=vllm, send=send, template=template, back_off_seconds=BACK_OFF_SECONDS
    )


def _only_template(extra: Mapping[str, Any]) -> dict[str, Any]:
    """The fields of a body that change the prompt."""
    return {name: value for name, value in extra.items() if name.startswith("chat_template")}


def _takes_frames(server: Server, model: str) -> bool:
    """Whether a vLLM server takes frames as one video with their times. If not, a warning says why."""
    if server.vllm_version() < _TAKES_FRAMES:
        logger.warning("The server's vLLM takes no frames with their times; at least %d.%d does.", *_TAKES_FRAMES)
    elif not server.takes({"model": model, **HELLO, "media_io_kwargs": {"video": {"num_frames": -1}}}):
        logger.warning("The server takes no frames with their times; start vLLM with --trust-request-mm-kwargs.")
    else:
        return True
    logger.warning("So frames go as images, which models of the Qwen3-VL family see less well; or use --send video.")
    return False


def _takes_sound(server: Server, model: str) -> bool:
    silence = Sound(samples=np.zeros(_SILENCE_SAMPLES, np.float32), rate=_SILENCE_SAMPLES, heard="heard")
    asked = [*hear(silence), {"type": "text", "text": "Hello"}]
    return server.takes({**HELLO, "model": model, "messages": [{"role": "user", "content": asked}]})


def _choose_model(name: str, served: list[ServedModel] | None, server: Server) -> ServedModel:
    """The model of this name, or the server's only model if the name is the default.

    Args:
        name: from the settings.
        served: the server's models; None if it has no list. Then the name is taken as it is.
        server: for the error.

    Raises:
        EngineError: the server does not have the model.
    """
    if served is None:
        return ServedModel(name=name, owner="")
    for model in served:
        if model.name == name:
            return model
    if name == DEFAULT_MODEL and len(served) == 1:
        return served[0]
    names = ", ".join(model.name for model in served[:10]) or "none"
    more = f" and {len(served) - 10} more" if len(served) > 10 else ""
    raise EngineError(f"the server at {server.url} has no model {name!r}; it has {server.tell(names)}{more}.")


def _size(prepared: Work) -> int:
    """The approximate number of bytes that a work holds until its clip is converted."""
    clip = prepared.clip
    if prepared.frames.pixels.size:
        return prepared.frames.pixels.nbytes
    if isinstance(clip.source, bytes):
        return len(clip.source)
    try:
        return 0 if is_web_address(clip) else clip.path.stat().st_size
    except (OSError, ValueError):  # the row fails later, when the file is read
        return 0


def _dumps(fields: Mapping[str, Any]) -> bytes:
    return json.dumps(fields).encode()
