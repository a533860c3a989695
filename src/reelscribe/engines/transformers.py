"""Qwen3-VL checkpoints through Hugging Face Transformers.

Each batch is one pass of the vision encoder and one prefill a clip, however many candidates are asked for: the
candidates branch off from copies of the key-value cache. Sampling is ours (see `reelscribe.engines.sampling`), because
`generate` can neither share a prefill nor give each row its own randomness.
"""

import itertools
import logging
from collections.abc import Iterator
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageTextToText, AutoProcessor, DynamicCache

from reelscribe.config import Settings
from reelscribe.engines.base import ModelInfo
from reelscribe.engines.sampling import Sampler, TokenRules
from reelscribe.errors import EngineError, ModelError
from reelscribe.models import model_path
from reelscribe.schema import Candidate, Failure, Generation, PreparedRequest
from reelscribe.video.sampling import VisionLimits

logger = logging.getLogger(__name__)

_CLOCK = 1000
"""Frame times go to the processor as frame numbers of a video with so many frames a second, which keeps them true to a
millisecond whatever the source's frame rate does."""


class TransformersEngine:
    """A loaded checkpoint.

    Args:
        model: hub name, folder, or the name of a built-in model.
        revision: branch, tag or commit of a hub model.
        device: "auto", "cpu", "cuda", "cuda:1", ...; "auto:N" deals the GPUs out to workers, N being a worker's number.
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
        self._device = _choose_device(device)
        if dtype == "auto" and self._device.type == "cpu":
            dtype = "float32"
        name = str(model_path(model))
        given: dict[str, Any] = {"dtype": dtype, "device_map": str(self._device), **(model_params or {})}
        try:
            self._processor = AutoProcessor.from_pretrained(name, revision=revision)
            self._model = AutoModelForImageTextToText.from_pretrained(name, revision=revision, **given).eval()
        except (OSError, ValueError, KeyError, TypeError, RuntimeError) as exc:
            first_line = str(exc).strip().partition("\n")[0]
            raise ModelError(f"the model {model!r} cannot be loaded: {first_line}") from exc
        inner = getattr(self._model, "model", None)
        if not hasattr(inner, "get_rope_index") or not hasattr(self._processor, "video_processor"):
            raise ModelError(f"the model {model!r} is a {self._model.config.model_type}; a Qwen3-VL checkpoint is needed.")
        self._batch_size = batch_size
        self._rules = TokenRules(self._processor.tokenizer, self._model.generation_config)
        self.info = ModelInfo(
            engine="transformers",
            model=model,
            revision=getattr(self._model.config, "_commit_hash", None) or revision,
            limits=_vision_limits(self._processor.video_processor),
        )

    def generate(self, requests: Iterator[PreparedRequest]) -> Iterator[Generation | Failure]:
        """Answer requests batch by batch. A batch that fails is split, so that one bad request costs only itself."""
        while batch := list(itertools.islice(requests, self._batch_size)):
            yield from self._answer(batch)

    def _answer(self, batch: list[PreparedRequest]) -> Iterator[Generation | Failure]:
        try:
            answers: list[Generation | Failure] = list(self._run(batch))
        except torch.AcceleratorError as exc:
            raise EngineError(f"the device {self._device} failed: {exc}") from exc
        except (RuntimeError, ValueError, IndexError) as exc:
            out_of_memory = isinstance(exc, torch.OutOfMemoryError)
            if len(batch) == 1:
                request = batch[0].request
                hint = "; lower max_video_tokens or num_captions" if out_of_memory else ""
                message = f"{type(exc).__name__}: {exc}{hint}"
                answers = [Failure(key=request.key, video=request.clip.name, kind="engine", message=message)]
            else:
                half = len(batch) // 2
                if out_of_memory:
                    logger.warning("Out of memory with %d clips at once: going on with %d.", len(batch), half)
                    self._batch_size = min(self._batch_size, half)
                answers = [*self._answer(batch[:half]), *self._answer(batch[half:])]
        yield from answers

    def inputs(self, batch: list[PreparedRequest]) -> Any:
        """What the model is fed: left-padded token ids, pixels, grids; a `BatchFeature` of tensors on the CPU."""
        videos = [np.ascontiguousarray(item.frames.pixels.transpose(0, 3, 1, 2)) for item in batch]
        inputs = self._processor(
            text=[self._prompt(item) for item in batch],
            videos=videos,
            video_metadata=[_metadata(item, self.info.limits.temporal_patch) for item in batch],
            do_sample_frames=False,
            do_resize=False,
            padding=True,
            padding_side="left",
            return_tensors="pt",
        )
        inputs.pop("video_metadata", None)
        return inputs

    def _prompt(self, item: PreparedRequest) -> str:
        """The chat template's text, the video before the question, so that a second question can reuse its prefix."""
        video_first = [{"type": "video"}, {"type": "text", "text": item.request.prompt}]
        messages = [{"role": "user", "content": video_first}]
        if item.request.system_prompt:
            messages.insert(0, {"role": "system", "content": [{"type": "text", "text": item.request.system_prompt}]})
        text: str = self._processor.apply_chat_template(messages, tokenize=False, add_generation_prompt=True)
        # The processor replaces the placeholder alone, so that the template's own pair around it would enclose each
        # frame's pair. The models were released knowing the layout without it.
        processor = self._processor
        wrapped = f"{processor.vision_start_token}{processor.video_token}{processor.vision_end_token}"
        return text.replace(wrapped, processor.video_token)

    @torch.inference_mode()
    def _run(self, batch: list[PreparedRequest]) -> Iterator[Generation]:
        inputs = self.inputs(batch).to(self._device)
        ids, mask = inputs["input_ids"], inputs["attention_mask"]
        positions, deltas = self._model.model.get_rope_index(
            ids, inputs["mm_token_type_ids"], video_grid_thw=inputs["video_grid_thw"], attention_mask=mask
        )
        cache = DynamicCache(config=self._model.config.get_text_config())
        logits = self._model(
            **inputs, position_ids=positions, past_key_values=cache, use_cache=True, logits_to_keep=1
        ).logits[:, -1]

        owners = torch.tensor(
            [row for row, item in enumerate(batch) for _ in range(item.request.num_captions)], device=self._device
        )
        sampler = Sampler([item.request for item in batch], ids, self._rules)
        cache.batch_select_indices(owners)
        mask, logits = mask[owners], logits[owners]
        next_position = mask.sum(1, keepdim=True) + deltas[owners]
        while True:
            tokens, alive = sampler.step(logits)
            if not len(alive):
                break
            if len(alive) < len(mask):
                cache.batch_select_indices(alive)
                mask, next_position, tokens = mask[alive], next_position[alive], tokens[alive]
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
        prompt_tokens = inputs["attention_mask"].sum(1).tolist()
        for item, length in zip(batch, prompt_tokens, strict=True):
            own: tuple[Candidate, ...] = tuple(itertools.islice(candidates, item.request.num_captions))
            yield Generation(key=item.request.key, candidates=own, prompt_tokens=length)


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


def _choose_device(name: str) -> torch.device:
    kind, _, worker = name.partition(":")
    if kind != "auto":
        return torch.device(name)
    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(worker or 0) % torch.cuda.device_count())


def _vision_limits(video_processor: Any) -> VisionLimits:
    """Read a checkpoint's limits from its video processor."""
    return VisionLimits(
        token_pixels=video_processor.patch_size * video_processor.merge_size,
        temporal_patch=video_processor.temporal_patch_size,
        max_frame_tokens=getattr(video_processor, "max_video_tokens", None) or VisionLimits.max_frame_tokens,
        min_frames=video_processor.min_frames,
        max_frames=video_processor.max_frames,
    )


def _metadata(item: PreparedRequest, temporal_patch: int) -> dict[str, Any]:
    numbers = [round(seconds * _CLOCK) for seconds in item.frames.timestamps]
    numbers += [numbers[-1]] * (-len(numbers) % temporal_patch)
    total = max(round(item.frames.duration_seconds * _CLOCK), numbers[-1] + 1)
    return {
        "fps": float(_CLOCK),
        "frames_indices": numbers,
        "total_num_frames": total,
        "duration": item.frames.duration_seconds,
    }

