"""Running checkpoints with vLLM, in this process or in one process for each replica.

vLLM's engine core runs in a process beside this one and batches the requests in flight. `generate` keeps a window of
requests in flight, and refills it one by one as answers come out, so that it never drains. Frames are passed at their
final size and with their true times: vLLM does not sample them. Sound is passed beside them. Before weights are loaded,
`vllm_clips.py` checks what vLLM makes of a clip.

All candidates of a request are one request to vLLM. All requests of a work give its clip the same name, so that vLLM's
caches share the encoded clip and the prefill up to the question. vLLM draws tokens from the request's seed in its own
way. So its answers differ from those of the Transformers engine, and they may differ from batch to batch by as much as
the arithmetic does.
"""

import asyncio
import dataclasses
import itertools
import os
import queue
import threading
import weakref
from collections.abc import Collection, Iterator
from concurrent.futures import Future, wait
from dataclasses import dataclass, replace
from multiprocessing import resource_tracker
from typing import Any, Final, get_args

from reelscribe.config import Settings
from reelscribe.engines import planning
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.checkpoint import HUB_PARAMS, Checkpoint, cannot_load
from reelscribe.engines.feed import feeding
from reelscribe.engines.guard import Guard
from reelscribe.engines.judging import TOP_LOGPROBS, YesNo, to_judge, with_chances, with_given
from reelscribe.engines.planning import Plan
from reelscribe.engines.prompt import Prompt
from reelscribe.engines.replicas import Replicas
from reelscribe.engines.vllm_answers import generation_of
from reelscribe.engines.vllm_arguments import (
    check_device,
    check_params,
    device_sets,
    has_own_replicas,
    made_arguments,
    planned,
)
from reelscribe.errors import EngineError, ModelError, SettingsError
from reelscribe.sampling_params import SamplingParams
from reelscribe.schemas import Schema
from reelscribe.values import Failure, Generation, StopReason, Work
from reelscribe.video.sampling import FrameBudget

_ENVIRONMENT: Final = {
    "VLLM_LOGGING_LEVEL": "ERROR",
    "VLLM_LOGGING_STREAM": "ext://sys.stderr",
    "VLLM_NO_USAGE_STATS": "1",
}
"""Environment variables for vLLM that the user has not set: log errors only, and send no usage statistics."""
CORE_ENVIRONMENT: Final = {"VLLM_WORKER_MULTIPROC_METHOD": "spawn", "OMP_WAIT_POLICY": "PASSIVE"}
"""Environment variables for vLLM's processes that the user has not set: start new processes instead of forking this one
with its threads, and let OpenMP's threads sleep while they wait, since a CPU has other work too."""
_PROCESSOR_THREADS: Final = 8
"""Threads for preparing clips. vLLM prepares one clip at a time in this process, by default with one thread."""
_AHEAD: Final = 1.25
"""Candidates in flight for each candidate that vLLM runs at once. The others wait in vLLM, already prepared."""
_HEAD_START_SECONDS: Final = 0.05
"""How long to wait for the next work before an answer is handed out, so that free places are filled first."""
_SECONDS_BETWEEN_LOOKS: Final = 5.0
"""How often to check that vLLM is alive while it sends nothing."""
_SECONDS_TO_STOP: Final = 30.0
"""The time for vLLM's processes to end by themselves, before they are killed."""
_SEEDS: Final = 1 << 62
"""The bound of seeds for vLLM. It takes seeds of 63 bits, and adds the number of a candidate."""


@dataclass(frozen=True, kw_only=True)
class _Made:
    """vLLM's answer to a request."""

    generation: Generation
    """The candidates, with the judge's scores if they or their claims are judged."""
    reasons: frozenset[str]
    """vLLM's finish reasons of the candidates."""


@dataclass(frozen=True, kw_only=True, eq=False)
class _Flight:
    """A request that vLLM is working on. Compared and hashed by identity."""

    item: Work
    """The work, with this request alone."""
    replica: int
    future: "Future[_Made]"

    @property
    def num_candidates(self) -> int:
        return self.item.requests[0].num_captions


class VllmEngine:
    """A checkpoint loaded into vLLM.

    Args:
        settings: of the model and the tasks.
        checkpoint: the model's checkpoint.
        budget: the limits on frames of a clip.
        spread: how the model is spread over GPUs.

    Raises:
        SettingsError: vLLM does not accept a task's sampling parameters.
        ModelError: the checkpoint cannot be loaded, or vLLM does not take its videos as its own processor does.
    """

    def __init__(self, settings: Settings, checkpoint: Checkpoint, budget: FrameBudget, spread: Plan) -> None:
        from vllm.exceptions import VLLMValidationError
        from vllm.platforms import current_platform

        from reelscribe.engines.sampling import TokenRules

        self._processor, self._family = checkpoint.processor, checkpoint.family
        self._rules = TokenRules(self._processor.tokenizer, checkpoint.generation_config())
        self._switches = checkpoint.template_switches(thinking=settings.thinking)
        try:
            for task in settings.all_tasks:
                if task.schema:
                    self._rules.constraints.begin(task.schema)
                self.to_vllm(task.sampling, task.num_captions, settings.seed, task.schema)
        except VLLMValidationError as exc:
            raise SettingsError(f"vLLM does not take these sampling parameters: {exc}") from exc
        answers = [self._rules.resolve(task.sampling, task.num_captions).max_tokens or 0 for task in settings.all_tasks]
        self.engine_args = made_arguments(
            settings, checkpoint, budget, spread, answer_tokens=max(answers), on_cpu=current_platform.is_cpu()
        )
        """The arguments that vLLM is started with."""
        # Start the tracker before the guard: it serves the whole program, and must not be ended with vLLM's processes.
        resource_tracker.ensure_running()
        guard = Guard()
        self._llm = self._start(guard, settings, checkpoint, budget)
        if not current_platform.is_cpu():  # on a CPU, vLLM has its own use for OpenMP's threads
            os.environ.setdefault("OMP_NUM_THREADS", str(min(_PROCESSOR_THREADS, os.cpu_count() or 1)))
        self._loop = asyncio.new_event_loop()
        thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="vllm")
        thread.start()
        self._finalizer = weakref.finalize(self, _stop, self._llm, self._loop, thread, guard)
        self._replicas = self._llm.vllm_config.parallel_config.data_parallel_size
        self._clip_bytes = budget.max_bytes
        self._window_bytes = settings.prefetch_bytes * self._replicas
        self._window_candidates = int(_AHEAD * self._llm.vllm_config.scheduler_config.max_num_seqs * self._replicas)
        self._numbers = itertools.count()
        self._yes_no = YesNo(self._rules.tokenizer)
        self.info = ModelInfo(
            engine="vllm",
            model=settings.model,
            revision=checkpoint.revision,
            limits=checkpoint.limits,
            details={"times_given": checkpoint.family.times, **({"sound_given": "beside"} if budget.hearing else {})},
            gpus=self._replicas * self._llm.vllm_config.parallel_config.tensor_parallel_size,
        )

    def _start(self, guard: Guard, settings: Settings, checkpoint: Checkpoint, budget: FrameBudget) -> Any:
        """Check that vLLM takes the checkpoint's videos as its processor does, then start vLLM's engine.

        Raises:
            ModelError: it does not, or it cannot be started.
        """
        from vllm import AsyncEngineArgs
        from vllm.config import StructuredOutputsConfig
        from vllm.usage.usage_lib import UsageContext
        from vllm.v1.engine.async_llm import AsyncLLM

        from reelscribe.engines.vllm_clips import check, set_aside

        try:
            with guard.starting(CORE_ENVIRONMENT):
                outputs = StructuredOutputsConfig(**self.engine_args["structured_outputs_config"])
                args = AsyncEngineArgs(**self.engine_args | {"structured_outputs_config": outputs})
                config = args.create_engine_config(UsageContext.LLM_CLASS)
                check(config, checkpoint, settings.model, budget.hearing)
                set_aside(config, budget, ours="mm_processor_kwargs" not in settings.model_params)
                return AsyncLLM.from_vllm_config(
                    config,
                    usage_context=UsageContext.LLM_CLASS,
                    enable_log_requests=args.enable_log_requests,
                    disable_log_stats=args.disable_log_stats,
                )
        except Exception as exc:  # configuration, weights and GPUs raise all kinds of errors in there
            guard.close()
            if isinstance(exc, ModelError):
                raise
            raise cannot_load(settings.model, " ".join(str(exc).split())) from exc

    def close(self) -> None:
        """End vLLM's processes. This also happens when the engine is garbage-collected or the program ends."""
        self._finalizer()

    def generate(self, works: Iterator[Work]) -> Iterator[Generation | Failure]:
        """Keep a window of requests in flight, and give answers as they are ready.

        The window is limited by the bytes of its frames, counted once for each work, and by the number of candidates,
        which is a bit more than vLLM runs at once. One work is always let through.
        """
        flights: set[_Flight] = set()
        landed: queue.SimpleQueue[_Flight | None] = queue.SimpleQueue()  # None: the feed has the next work
        pull: Future[Work | None] | None = None
        more = True
        with feeding(works) as feed:
            try:
                while True:
                    if more and pull is None and self._has_room(flights):
                        pull = feed.pull()
                        if not wait([pull], _HEAD_START_SECONDS).done:
                            pull.add_done_callback(lambda _: landed.put(None))
                    if pull is not None and pull.done():
                        item, pull = pull.result(), None
                        more = item is not None
                        if item is not None:
                            flights |= self._send(item, flights, landed)
                        del item  # its frames are vLLM's now
                        if landed.empty():  # else hand out one answer for each work that is sent
                            continue
                    if pull is None and not flights:
                        return
                    flight = self._wait(landed, flights)
                    if flight is not None:
                        flights.remove(flight)
                        yield self._answer(flight, flights)
                    del flight
            finally:
                for flight in flights:
                    flight.future.cancel()  # vLLM aborts a request whose coroutine is cancelled

    def _has_room(self, flights: Collection[_Flight]) -> bool:
        """Whether the window has room for one more clip, even for one of the largest size."""
        frames = {flight.item.frames for flight in flights}
        held = sum(each.nbytes for each in frames) + self._clip_bytes
        candidates = sum(flight.num_candidates for flight in flights)
        return not flights or (held <= self._window_bytes and candidates < self._window_candidates)

    def _send(
        self, work: Work, flights: Collection[_Flight], landed: "queue.SimpleQueue[_Flight | None]"
    ) -> set[_Flight]:
        """Send all requests of a work to the replica with the fewest candidates, so that they share its caches."""
        busy = [0] * self._replicas
        for other in flights:
            busy[other.replica] += other.num_candidates
        replica = busy.index(min(busy))
        clip = f"clip {next(self._numbers)}"
        return {self._launch(item, replica, clip, landed) for item in work.singly()}

    def _launch(self, item: Work, replica: int, clip: str, landed: "queue.SimpleQueue[_Flight | None]") -> _Flight:
        future = asyncio.run_coroutine_threadsafe(self._answered(item, replica, clip), self._loop)
        flight = _Flight(item=item, replica=replica, future=future)
        future.add_done_callback(lambda _: landed.put(flight))
        return flight

    async def _run(self, item: Work, replica: int, clip: str, *, judges: bool = False) -> Any:
        """Let vLLM answer a request. Returns vLLM's `RequestOutput`.

        Args:
            item: a work of one request.
            replica: the number of the replica.
            clip: the name of the clip in vLLM's caches. No other clip may ever have the same name.
            judges: whether this is a judge's question: then the model does not think, and vLLM also returns the
                likeliest tokens.
        """
        from reelscribe.engines.vllm_clips import keep_seconds, prompt_for_vllm

        request = item.requests[0]
        switches = dict.fromkeys(self._switches or {}, False) if judges else self._switches
        frames = item.frames if request.video else None
        hears = frames is not None and frames.has_sound
        words = Prompt.of(self._processor, self._family, request, switches, hears=hears)
        prompt = prompt_for_vllm(words, self._processor, self._family, frames, clip)
        [rendered] = await self._llm.renderer.render_cmpl_async([prompt])
        if frames is not None:
            keep_seconds(rendered, self._family, frames)
        params = self.to_vllm(
            request.sampling, request.num_captions, request.seed, request.schema, scored=request.scored
        )
        if judges:
            params.logprobs = TOP_LOGPROBS
        chosen = replica if self._replicas > 1 else None
        name = str(next(self._numbers))
        outputs = [made async for made in self._llm.generate(rendered, params, name, data_parallel_rank=chosen)]
        return outputs[-1]

    async def _answered(self, item: Work, replica: int, clip: str) -> "_Made":
        """Let vLLM answer a request, and then judge the candidates or claims if the request wants that."""
        request = item.requests[0]
        output = await self._run(item, replica, clip)
        generation = with_given(request, generation_of(output, request, self._rules))
        texts = to_judge(request, generation)
        asked = [replace(item, requests=(request.judging(text),)) for text in texts]
        judged = await asyncio.gather(*(self._run(each, replica, clip, judges=True) for each in asked))
        found = ({token: told.logprob for token, told in made.outputs[0].logprobs[0].items()} for made in judged)
        generation = with_chances(request, generation, dict(zip(texts, map(self._yes_no.chance, found), strict=True)))
        return _Made(generation=generation, reasons=frozenset(made.finish_reason for made in output.outputs))

    def to_vllm(
        self,
        told: SamplingParams,
        num_captions: int,
        seed: int,
        schema: Schema | None = None,
        *,
        scored: bool = False,
    ) -> Any:
        """Convert sampling parameters to vLLM's, with the checkpoint's defaults filled in."""
        from vllm import SamplingParams as VllmSamplingParams
        from vllm.sampling_params import RequestOutputKind, StructuredOutputsParams

        params = self._rules.resolve(told, num_captions)
        return VllmSamplingParams(
            n=num_captions if params.temperature else 1,
            max_tokens=params.max_tokens,
            temperature=params.temperature,
            top_p=params.top_p or 1.0,
            top_k=params.top_k or 0,
            min_p=params.min_p or 0.0,
            repetition_penalty=params.repetition_penalty or 1.0,
            stop=list(params.stop),
            stop_token_ids=list(params.stop_token_ids),
            seed=seed % _SEEDS,
            logprobs=0 if scored else None,  # 0: only that of the drawn token
            output_kind=RequestOutputKind.FINAL_ONLY,
            structured_outputs=StructuredOutputsParams(json=schema.enforced) if schema else None,
        )

    def _wait(self, landed: "queue.SimpleQueue[_Flight | None]", flights: Collection[_Flight]) -> _Flight | None:
        """Wait for the next answer, or return None if the feed has the next work.

        vLLM is checked meanwhile, since an engine that is killed does not always fail its requests.

        Raises:
            EngineError: vLLM is dead.
        """
        while True:
            try:
                return landed.get(timeout=_SECONDS_BETWEEN_LOOKS)
            except queue.Empty:
                if self._llm.errored:
                    raise _dead(len(flights)) from None

    def _answer(self, flight: _Flight, others: Collection[_Flight]) -> Generation | Failure:
        request = flight.item.requests[0]
        try:
            found = flight.future.result()
        except Exception as exc:  # vLLM's checks and its processor raise all kinds of errors at a bad request
            if self._llm.errored:
                # All requests fail with the same exception object, whose traceback would grow with each.
                raise _dead(1 + len(others)) from exc.with_traceback(None)
            cause = exc.__cause__ or exc
            return Failure.of(request, f"{type(cause).__name__}: {cause}")
        if "abort" in found.reasons:  # this engine aborts only requests whose answers nobody waits for
            raise EngineError(f"vLLM was told from elsewhere to end, with {1 + len(others)} requests in flight.")
        if not found.reasons <= set(get_args(StopReason)):
            return Failure.of(request, f"vLLM broke off with the reason {', '.join(map(str, found.reasons))}.")
        return found.generation


def load(settings: Settings) -> VllmEngine | Replicas:
    """Load the engine that the settings describe: in this process, or replicas in processes of their own.

    Raises:
        SettingsError: a parameter is unknown to vLLM, or the model does not fit the GPUs.
        ModelError: the checkpoint cannot be loaded, or vLLM does not take its videos as its own processor does.
    """
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    from vllm import AsyncEngineArgs
    from vllm.platforms import current_platform

    params = settings.model_params
    check_params(params, [item.name for item in dataclasses.fields(AsyncEngineArgs)])
    check_device(settings.device, current_platform.device_type)
    hub = {key: params[key] for key in HUB_PARAMS if key in params}
    checkpoint = Checkpoint.load(settings.model, revision=settings.revision, show=settings.show, **hub)
    budget = FrameBudget.of(settings, checkpoint.limits)
    spread = planned(settings, checkpoint, budget)
    planning.logger.info("vLLM runs %s", spread)
    if spread.dp > 1 and not has_own_replicas(params, checkpoint):
        return Replicas(load, replace(settings, tp=spread.tp, dp=1), device_sets(spread))
    return VllmEngine(settings, checkpoint, budget, spread)


def _dead(in_flight: int) -> EngineError:
    return EngineError(
        f"vLLM's engine process died with {in_flight} requests in flight. Most often memory ran out: lower "
        "gpu_memory_utilization or max_num_seqs in model_params. VLLM_LOGGING_LEVEL=INFO shows what it says."
    )


def _stop(llm: Any, loop: asyncio.AbstractEventLoop, thread: threading.Thread, guard: Guard) -> None:
    async def settle() -> None:
        tasks = asyncio.all_tasks() - {asyncio.current_task()}
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    # Cancel first: else requests that still wait would take the shutdown for a broken engine.
    asyncio.run_coroutine_threadsafe(settle(), loop).result()
    llm.shutdown(timeout=_SECONDS_TO_STOP)
    loop.call_soon_threadsafe(loop.stop)
    thread.join()
    loop.close()
    guard.close()
