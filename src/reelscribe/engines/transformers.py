"""Running checkpoints with Hugging Face Transformers.

However much is asked about a clip, it is encoded once, and the tokens that its prompts share are prefilled once:
questions and their candidates branch off from one key-value cache (see `branching`). The decoding loop and the sampling
are our own (`running`, `sampling`), because `generate` can neither share a prompt, nor let clips join a running batch,
nor give each row its own random numbers.
"""

import logging
import os
import sys
from collections.abc import Generator, Iterable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from typing import Any, Final

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, enable_progress_bars
from transformers import AutoModelForMultimodalLM, DynamicCache
from transformers.quantizers.auto import AUTO_QUANTIZATION_CONFIG_MAPPING
from transformers.utils import logging as hf_logging

from reelscribe.config import Settings
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.branching import can_branch, enable_branching
from reelscribe.engines.cached import CacheCost
from reelscribe.engines.checkpoint import HUB_PARAMS, Checkpoint, cannot_load
from reelscribe.engines.feed import Feed, ReadyItems, feeding
from reelscribe.engines.inputs import InputBuilder, ModelInputs, most_tokens
from reelscribe.engines.packed import SLACK
from reelscribe.engines.positions import Positions
from reelscribe.engines.repeatable import repeatable
from reelscribe.engines.running import RunningBatch
from reelscribe.engines.sampling import TokenRules
from reelscribe.engines.speedups import speed_up
from reelscribe.errors import EngineError, MissingExtraError, ModelError, SettingsError
from reelscribe.schemas import Schema
from reelscribe.values import Failure, Generation, Request, Work
from reelscribe.video.sampling import check_hears

logger = logging.getLogger(__name__)

Answer = Generation | Failure

_WINDOW_BATCHES: Final = 2
"""The number of batches of prepared works that may wait, to choose from."""
_WINDOW_BYTES: Final = 512 << 20
"""Bytes of prepared videos that may wait."""
_PATIENCE_SECONDS: Final = 1.0
"""A new batch begins with the works that wait if no further work has arrived for this long."""
_GPU_SHARE: Final = 0.6
"""The share for keys and values of the GPU memory that is free after loading the model. The rest is for activations."""
_CPU_SHARE: Final = 0.25
"""The share for keys and values of all memory, on a CPU."""
_CPU_TOKENS: Final = 65536
"""Most tokens of the cache on a CPU, which gains nothing from more."""


class TransformersEngine:
    """A loaded checkpoint.

    Args:
        model: hub name, folder, or the name of a built-in model.
        revision: branch, tag or commit of a hub model.
        device: "auto", "cpu", "cuda", "cuda:1", ...; "auto:N" is for worker N, and takes GPU N modulo their number.
        dtype: "auto" is the checkpoint's own on a GPU, and float32 on a CPU, where captions then depend least on the
            other clips of their batch. "bfloat16" is faster on CPUs with instructions for it.
        batch_size: the most works in a batch.
        batch_tokens: the most tokens that the key-value cache may hold; None for as many as memory has room for.
        deterministic: whether to answer one request at a time, with repeatable operations only.
        thinking: whether to let a model that can think do so before it answers.
        show: whether to show frames as a "video" or as "images"; "auto" means images only if the checkpoint takes no
            video.
        audio: whether clips come with their sound.
        model_params: passed on to `AutoModelForMultimodalLM.from_pretrained`.
        schemas: the schemas of later requests. They are compiled, to find out now whether they can be enforced.

    Raises:
        ModelError: the checkpoint cannot be loaded, or does not take clips in a way that is supported.
        SettingsError: clips come with sound and the model takes none, or a schema cannot be enforced.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 32,
        batch_tokens: int | None = None,
        deterministic: bool = False,
        thinking: bool = False,
        show: str = "auto",
        audio: bool = False,
        model_params: dict[str, Any] | None = None,
        schemas: Iterable[Schema] = (),
    ) -> None:
        self._deterministic = deterministic
        if deterministic:  # cuBLAS needs this to be repeatable, and reads it when CUDA is first used
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
        self._device = _device(device)
        if dtype == "auto" and self._device.type == "cpu":
            dtype = "float32"
        downloads_shown = sys.stderr.isatty() and not are_progress_bars_disabled()
        hf_logging.disable_progress_bar()  # bars of loading would be drawn over our own line of progress
        if downloads_shown:  # downloads may take an hour, so that their bars stay
            enable_progress_bars()
        given: dict[str, Any] = {"dtype": dtype, "device_map": str(self._device), **(model_params or {})}
        hub = {key: given[key] for key in HUB_PARAMS if key in given}
        checkpoint = Checkpoint.load(model, revision=revision, show=show, **hub)
        if audio:
            check_hears(checkpoint.limits)
        _check_quantised(checkpoint, model)
        if checkpoint.is_part:
            given["config"] = checkpoint.config
        try:
            self._model, report = AutoModelForMultimodalLM.from_pretrained(
                checkpoint.path, revision=revision, output_loading_info=True, **given
            )
        except ModuleNotFoundError as exc:  # a package for a quantised checkpoint
            raise cannot_load(model, f"it needs a package: pip install {exc.name}") from exc
        except Exception as exc:  # damaged files and odd parameters raise all kinds of errors in there
            raise cannot_load(model, str(exc)) from exc
        if report["missing_keys"]:
            raise ModelError(f"the model {model!r} lacks weights, such as {min(report['missing_keys'])}.")
        self._model.eval()
        speed_up(self._model)
        self._processor = checkpoint.processor
        enable_branching(self._model)
        self._batch_size = batch_size
        self._was_full = False
        text = self._model.config.get_text_config()
        self._shares = can_branch(text, DynamicCache(config=text).layers)
        self._cost = CacheCost.of(self._model, self._device)
        self._batch_tokens = batch_tokens or _batch_tokens(self._cost, self._device)
        self._rules = TokenRules(self._processor.tokenizer, self._model.generation_config)
        for schema in schemas:
            self._rules.constraints.begin(schema)
        switches = checkpoint.template_switches(thinking=thinking)
        self._inputs = InputBuilder(
            self._processor,
            checkpoint.family,
            self._rules,
            Positions(self._model),
            self._device,
            switches,
            checkpoint.context,
            shares=not deterministic,
        )
        if checkpoint.family.times == "none":
            logger.warning("The model %r is not shown when its frames are: do not ask it for times.", model)
        self.info = ModelInfo(
            engine="transformers",
            model=model,
            revision=checkpoint.revision,
            limits=checkpoint.limits,
            details={"times_given": checkpoint.family.times, **({"sound_given": "among"} if audio else {})},
        )

    def generate(self, works: Iterator[Work]) -> Iterator[Answer]:
        """Answer requests as soon as they are complete. Works join the running batch if there is room for several."""
        batch = self._new_batch()
        with feeding(works) as feed, self._ready(feed) as ready:
            while True:
                if batch.works:
                    waiting = ready.wait(0)
                else:
                    ready.wait(1)
                    waiting = ready.wait(self._min_joining, patience_seconds=_PATIENCE_SECONDS)
                prepared = [item.inputs for item in waiting if item.inputs]
                group = self._choose(prepared, batch, all_there=ready.ended or ready.full)
                taken = [item for item in waiting if not item.inputs or item.inputs in group]
                if taken:
                    ready.take(taken)
                elif not batch.works and not waiting:
                    return
                yield from (failure for item in taken for failure in item.failures)
                if self._deterministic:
                    yield from (answer for item in group for answer in self._one_by_one(item))
                    continue
                fault = self._advance(batch, group)
                yield from batch.finished()
                if fault:
                    stopped = batch.works
                    batch = self._new_batch()
                    yield from self._apart(stopped, fault)

    def _ready(self, feed: Feed[Work]) -> "ReadyItems[Work, _Prepared]":
        most = _WINDOW_BATCHES * self._batch_size
        return ReadyItems(feed, self._prepare, size=_size, max_waiting=most, max_bytes=_WINDOW_BYTES)

    def _new_batch(self) -> RunningBatch:
        return RunningBatch(self._model, self._inputs, self._rules, self._device)

    def _prepare(self, item: Work) -> "_Prepared":
        """Build the inputs for a work. If that fails, try each request alone, to find the ones that are at fault.

        Raises:
            MissingExtraError: a package is missing for all requests of its kind.
        """
        try:
            return _Prepared(inputs=self._inputs.prepare(item))
        except MissingExtraError:
            raise
        except SettingsError as exc:
            if len(item.requests) == 1:
                return _Prepared(failures=(Failure.of(item.requests[0], str(exc)),))
        except Exception as exc:
            if len(item.requests) == 1:
                return _Prepared(failures=(_failure(item.requests[0], _Fault(exc)),))
        alone = [self._prepare(one) for one in item.singly()]
        good = tuple(each for each, made in zip(item.requests, alone, strict=True) if made.inputs)
        inputs = self._inputs.prepare(replace(item, requests=good)) if good else None
        return _Prepared(inputs=inputs, failures=tuple(failure for made in alone for failure in made.failures))

    @property
    def _min_joining(self) -> int:
        """The minimum number of works for joining a running batch, because each join copies the whole cache."""
        return -(-self._batch_size // 4)

    def _tokens_of(self, works: Sequence[ModelInputs]) -> int:
        return most_tokens(works, shared=self._shares, row_tokens=self._cost.row_tokens)

    def _choose(self, waiting: list[ModelInputs], batch: RunningBatch, *, all_there: bool) -> list[ModelInputs]:
        """Choose the waiting works that join the batch now: the oldest one, and those closest to it in length.

        Args:
            waiting: the prepared works, oldest first.
            batch: the batch to join.
            all_there: whether no more works can arrive while these wait.
        """
        running = batch.works
        room = self._batch_size - len(running)
        if not waiting or room <= 0:
            return []
        group: list[ModelInputs] = []
        length = waiting[0].longest_prefix
        for item in sorted(waiting, key=lambda item: abs(item.longest_prefix - length))[:room]:
            if self._tokens_of([*running, *group, item]) > self._batch_tokens and (running or group):
                break
            group.append(item)
        many = len(group) >= self._min_joining or self._tokens_of(group) >= self._batch_tokens / 4
        return group if many or not running or (all_there and len(group) == len(waiting)) else []

    def _advance(self, batch: RunningBatch, group: Sequence[ModelInputs] = ()) -> "_Fault | None":
        """Let works join a batch, and decode one more token of each candidate.

        Returns:
            What went wrong, or None. After a fault the batch cannot go on. Only its `finished` answers and its `works`,
            which have to be run elsewhere, are still valid.
        """
        try:
            with repeatable() if self._deterministic else nullcontext():
                if group:
                    batch.join(group)
                if batch.works:
                    batch.step()
        except Exception as exc:  # of torch, of a model's own code, of a kernel: of any kind
            return _Fault(exc, self._device)
        return None

    def _apart(self, works: Sequence[ModelInputs], fault: "_Fault") -> Iterator[Answer]:
        """Go on with the works of a failed batch in ever smaller batches, so that a bad request costs only itself.

        A request fails only once it has failed in a batch of its own after the first fault, which may have been
        temporary.

        Raises:
            EngineError: the fault is such that no batch can be run any more.
        """
        if fault.broken:
            raise fault.broken
        tokens = self._tokens_of(works)
        if fault.out_of_memory and len(works) > 1 and tokens // 2 < self._batch_tokens:
            level = logging.INFO if self._was_full else logging.WARNING
            logger.log(
                level, "Out of memory with %d clips of %d tokens; going on with half as many.", len(works), tokens
            )
            self._batch_tokens, self._was_full = tokens // 2, True
        for part in _halves(works):
            left, again = yield from self._to_the_end(part)
            requests = [question.request for item in left for question in item.questions]
            if again and len(requests) == 1 and not again.broken:
                yield _failure(requests[0], again)
            elif again:
                yield from self._apart(left, again)

    def _to_the_end(
        self, part: Sequence[ModelInputs]
    ) -> "Generator[Answer, None, tuple[list[ModelInputs], _Fault | None]]":
        """Answer works in a batch of their own, until they are done or the batch fails.

        Returns:
            The works that are not answered, and the fault if there was one.
        """
        batch = self._new_batch()
        fault = self._advance(batch, part)
        while batch.works and not fault:
            yield from batch.finished()
            fault = self._advance(batch)
        yield from batch.finished()
        return batch.works, fault

    def _one_by_one(self, item: ModelInputs) -> Iterator[Answer]:
        """Answer each request of a work in a batch of its own, so that the shapes of tensors depend on it alone."""
        for question in item.questions:
            left, fault = yield from self._to_the_end([item.only({question.request.id})])
            if fault:
                yield from self._apart(left, fault)

    def inputs(self, batch: list[Work]) -> dict[str, torch.Tensor]:
        """The model's inputs for the prefill of some works; see `InputBuilder.collate`."""
        return self._inputs.collate([self._inputs.prepare(item) for item in batch])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Prepared:
    """A prepared work: its inputs, and the failures of those requests that could not be prepared."""

    inputs: ModelInputs | None = None
    failures: tuple[Failure, ...] = ()


class _Fault:
    """What is kept of an exception. The exception itself would keep the tensors of its traceback in memory."""

    def __init__(self, exc: Exception, device: torch.device | None = None) -> None:
        self.message = f"{type(exc).__name__}: {exc}"
        self.out_of_memory = isinstance(exc, (torch.OutOfMemoryError, MemoryError))
        self.broken: EngineError | None = None
        """The error to raise if no further clip can be run; else None."""
        if isinstance(exc, torch.AcceleratorError):
            self.broken = EngineError(f"the device {device} failed: {exc}")
        elif isinstance(exc, ImportError):  # the kernels of a quantised checkpoint are imported when first needed
            self.broken = EngineError(f"the model lacks a package to run with: {exc}")


def _failure(request: Request, fault: _Fault) -> Failure:
    advice = "; lower max_video_tokens or num_captions" if fault.out_of_memory else ""
    return Failure.of(request, fault.message + advice)


def load(settings: Settings) -> TransformersEngine:
    """Load the engine that the settings describe."""
    return TransformersEngine(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        batch_tokens=settings.batch_tokens,
        deterministic=settings.deterministic,
        thinking=settings.thinking,
        show=settings.show,
        audio=settings.audio,
        model_params=dict(settings.model_params),
        schemas=[task.schema for task in settings.all_tasks if task.schema],
    )


def _device(name: str) -> torch.device:
    """The device of a name; see `TransformersEngine`.

    Raises:
        ModelError: there is no such device, or it does not work.
    """
    kind, _, worker = name.partition(":")
    try:
        if kind == "auto":
            count = torch.cuda.device_count()
            return torch.device("cuda", int(worker or 0) % count) if count else torch.device("cpu")
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, ValueError) as exc:
        allowed, said = "auto, cpu, cuda, cuda:1, ...", str(exc).partition("\n")[0]
        raise ModelError(f"device must be {allowed}; {name!r} does not work here: {said}") from exc
    return device


def _check_quantised(checkpoint: Checkpoint, model: str) -> None:
    """Check that Transformers supports the quantisation of the weights. If not, it would only warn and use raw values.

    Raises:
        ModelError: it does not support it.
    """
    method = checkpoint.quantised
    if not method:
        return
    known = {name.removesuffix("_4bit").removesuffix("_8bit") for name in AUTO_QUANTIZATION_CONFIG_MAPPING}
    advice = "take the checkpoint in bfloat16, or --engine vllm"
    if method not in known:
        raise ModelError(
            f"the weights of the model {model!r} are quantised by {method!r}, which Transformers does not know "
            f"(it knows {', '.join(sorted(known))}): {advice}."
        )
    if checkpoint.is_part:
        raise ModelError(
            f"the weights of the model {model!r} are quantised by {method!r}, and its thinker cannot be loaded so by "
            f"itself: {advice}."
        )


def _size(item: _Prepared) -> int:
    return item.inputs.nbytes if item.inputs else 0


def _halves(works: Sequence[ModelInputs]) -> Iterator[list[ModelInputs]]:
    """Split works into two parts, or three if their number is odd. A single work is split by its requests."""
    if len(works) == 1:
        ids = [question.request.id for question in works[0].questions]
        half = max(len(ids) // 2, 1)
        yield from ([works[0].only(ids[start : start + half])] for start in range(0, len(ids), half))
    else:
        half = max(len(works) // 2, 1)
        yield from (list(works[start : start + half]) for start in range(0, len(works), half))


def _batch_tokens(cost: CacheCost, device: torch.device) -> int:
    """The number of tokens whose keys and values fit into memory, beside the activations of a forward pass."""
    if device.type == "cuda":
        room = _GPU_SHARE * torch.cuda.mem_get_info(device)[0] / SLACK
    else:
        room = _CPU_SHARE * os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    tokens = int(room / max(cost.token_bytes, 1))
    return tokens if device.type == "cuda" else min(tokens, _CPU_TOKENS)
