"""Qwen3-VL checkpoints through Hugging Face Transformers.

Each batch is one pass of the vision encoder and one prefill a clip, however many candidates are asked for: the
candidates branch off from copies of the key-value cache. Sampling is ours (see `reelscribe.engines.sampling`), because
`generate` can neither share a prefill nor give each row its own randomness.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Any, Final

import torch
from transformers import AutoModelForImageTextToText, DynamicCache
from transformers.cache_utils import DynamicLayer

from reelscribe.config import Settings
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.checkpoint import HUB_PARAMS, Checkpoint, cannot_load
from reelscribe.engines.inputs import InputBuilder
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.engines.speedups import RoomyLayer, speed_up_vision
from reelscribe.errors import EngineError, ModelError
from reelscribe.schema import Failure, Generation, PreparedRequest

logger = logging.getLogger(__name__)

_WINDOW_BATCHES: Final = 4
"""Batches of requests to choose the next batch from."""
_WINDOW_BYTES: Final = 512 << 20
"""Frames that the window may hold beyond those of one batch."""


class TransformersEngine:
    """A loaded checkpoint.

    Args:
        model: hub name, folder, or the name of a built-in model.
        revision: branch, tag or commit of a hub model.
        device: "auto", "cpu", "cuda", "cuda:1", ...; "auto:N" deals the GPUs out to workers by their numbers N.
        dtype: "auto" is the checkpoint's own on a GPU, and float32 on a CPU, where that is faster and exact.
        batch_size: clips to take at once.
        model_params: passed on to `AutoModelForImageTextToText.from_pretrained`.

    Raises:
        ModelError: the checkpoint cannot be loaded, or is not of the Qwen3-VL family.
    """

    def __init__(
        self,
        model: str,
        *,
        revision: str | None = None,
        device: str = "auto",
        dtype: str = "auto",
        batch_size: int = 8,
        model_params: dict[str, Any] | None = None,
    ) -> None:
        self._device = _device(device)
        if dtype == "auto" and self._device.type == "cpu":
            dtype = "float32"
        given: dict[str, Any] = {"dtype": dtype, "device_map": str(self._device), **(model_params or {})}
        hub = {key: given[key] for key in HUB_PARAMS if key in given}
        checkpoint = Checkpoint.load(model, revision=revision, **hub)
        try:
            self._model, report = AutoModelForImageTextToText.from_pretrained(
                checkpoint.path, revision=revision, output_loading_info=True, **given
            )
        except Exception as exc:  # damaged files and odd parameters raise all kinds of errors in there
            raise cannot_load(model, str(exc)) from exc
        if report["missing_keys"]:
            raise ModelError(f"the model {model!r} lacks weights, such as {min(report['missing_keys'])}.")
        self._model.eval()
        speed_up_vision(self._model)
        self._batch_size = batch_size
        self._processor = checkpoint.processor
        self._inputs = InputBuilder(self._processor, self._device)
        self._rules = TokenRules(self._processor.tokenizer, self._model.generation_config)
        self.info = ModelInfo(
            engine="transformers",
            model=model,
            revision=checkpoint.revision,
            limits=checkpoint.limits,
        )

    def generate(self, requests: Iterator[PreparedRequest]) -> Iterator[Generation | Failure]:
        """Answer requests batch by batch, each of the oldest request that waits and of those most like it in length."""
        window: list[PreparedRequest] = []
        room = self._batch_size  # grows, lest the first answer wait for a full window
        while True:
            self._fill(window, requests, room)
            if not window:
                return
            apart = [abs(_length(item) - _length(window[0])) for item in window]
            taken = sorted(range(len(window)), key=apart.__getitem__)[: self._batch_size]
            batch = [window[index] for index in taken]
            window = [item for index, item in enumerate(window) if index not in taken]
            before = self._batch_size
            answers = self._answer(batch)
            if self._batch_size < before:
                logger.warning("Out of memory with %d clips at once; going on with %d.", before, self._batch_size)
            yield from answers
            room = min(2 * room, _WINDOW_BATCHES * self._batch_size)

    def _fill(self, window: list[PreparedRequest], requests: Iterator[PreparedRequest], room: int) -> None:
        held = sum(item.frames.pixels.nbytes for item in window)
        while len(window) < self._batch_size or (len(window) < room and held < _WINDOW_BYTES):
            item = next(requests, None)
            if item is None:
                return
            window.append(item)
            held += item.frames.pixels.nbytes

    def _answer(self, batch: list[PreparedRequest]) -> list[Generation | Failure]:
        """Run a batch. One that fails is halved, so that a bad request costs only itself."""
        try:
            return self._run(batch)
        except torch.AcceleratorError as exc:
            raise EngineError(f"the device {self._device} failed: {exc}") from exc
        except (RuntimeError, ValueError, LookupError, TypeError, MemoryError) as exc:
            message = f"{type(exc).__name__}: {exc}"
            out_of_memory = isinstance(exc, (torch.OutOfMemoryError, MemoryError))
        # Here, outside of the handler, what the failed attempt held in memory is free again.
        if len(batch) == 1:
            request = batch[0].request
            message += "; lower max_video_tokens or num_captions" if out_of_memory else ""
            return [Failure(key=request.key, video=request.clip.name, kind="engine", message=message)]
        half = len(batch) // 2
        if out_of_memory:
            self._batch_size = half
        answers: list[Generation | Failure] = []
        while batch:
            size = min(half, self._batch_size)
            answers += self._answer(batch[:size])
            batch = batch[size:]
        return answers

    def inputs(self, batch: list[PreparedRequest]) -> dict[str, torch.Tensor]:
        """What the model is fed; see `InputBuilder.build`."""
        return self._inputs.build(batch)

    @torch.inference_mode()
    def _run(self, batch: list[PreparedRequest]) -> list[Generation | Failure]:
        inputs = self.inputs(batch)
        # Found on the CPU, because it reads single numbers again and again.
        positions, deltas = self._model.model.get_rope_index(
            inputs["input_ids"],
            inputs["mm_token_type_ids"],
            video_grid_thw=inputs["video_grid_thw"],
            attention_mask=inputs["attention_mask"],
        )
        prompt_tokens = inputs["attention_mask"].sum(1)
        next_position = (prompt_tokens[:, None] + deltas).to(self._device)
        inputs = {name: tensor.to(self._device) for name, tensor in inputs.items()}
        cache = DynamicCache(config=self._model.config.get_text_config())
        cache.layers = [RoomyLayer() if type(layer) is DynamicLayer else layer for layer in cache.layers]
        logits = self._model(
            **inputs, position_ids=positions.to(self._device), past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]

        mask = inputs["attention_mask"]
        sampler = Sampler([item.request for item in batch], inputs["input_ids"], mask, self._rules)
        if len(sampler.owners) > len(batch):
            cache.batch_select_indices(sampler.owners)
            mask, next_position, logits = (part[sampler.owners] for part in (mask, next_position, logits))
        while True:
            tokens = sampler.step(logits)
            if sampler.done:
                break
            rows = sampler.drop_finished()
            if rows is not None:
                cache.batch_select_indices(rows)
                mask, next_position, tokens = mask[rows], next_position[rows], tokens[rows]
            mask = torch.cat([mask, mask.new_ones(len(mask), 1)], 1)
            logits = self._model(
                input_ids=tokens[:, None],
                attention_mask=mask,
                position_ids=next_position.expand(3, -1, -1),
                past_key_values=cache,
                use_cache=True,
            ).logits[:, -1]
            next_position = next_position + 1

        candidates = iter(sampler.candidates())
        return [
            Generation(
                key=item.request.key,
                candidates=tuple(itertools.islice(candidates, item.request.num_captions)),
                prompt_tokens=length,
            )
            for item, length in zip(batch, prompt_tokens.tolist(), strict=True)
        ]


def load(settings: Settings) -> TransformersEngine:
    """The engine that the settings describe."""
    return TransformersEngine(
        settings.model,
        revision=settings.revision,
        device=settings.device,
        dtype=settings.dtype,
        batch_size=settings.batch_size,
        model_params=dict(settings.model_params),
    )


def _device(name: str) -> torch.device:
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


def _length(item: PreparedRequest) -> int:
    """About how many tokens a prompt has: those of the video, its timestamps, and the words."""
    return item.frames.video_tokens + 5 * len(item.frames.timestamps) + len(item.request.prompt) // 4
