"""The operator inside Data-Juicer: importing this module puts it in the place of the published one.

Thin: batches go to `reelscribe.operators`; here is only what Data-Juicer asks of its operators.
"""

import json
import sys
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final, cast

import numpy as np

from reelscribe import __version__
from reelscribe.config import DEFAULT_MODEL
from reelscribe.engines.base import Engine
from reelscribe.errors import MissingExtraError
from reelscribe.operators import video_captioning_from_vlm_mapper as operators
from reelscribe.tasks import Keep
from reelscribe.values import Failure, RequestId

try:
    from data_juicer.ops.base_op import OPERATORS, Mapper
    from datasets import List, Value
    from loguru import logger
except ModuleNotFoundError as exc:
    package = (exc.name or "").partition(".")[0]
    raise MissingExtraError(f"Data-Juicer's operator needs {package}: pip install 'reelscribe[data-juicer]'") from exc

NAME: Final = "video_captioning_from_vlm_mapper"

_ROW: Final = "__reelscribe_row__"
"""A column that is there only while the operator runs: which row of the data set each is, whatever process has it."""
_loaded: dict[str, Engine] = {}
"""Engines of this process: Ray makes a new operator for each of its tasks, but not a new process."""


class _Captioner(operators.VideoCaptioningFromVLMMapper):
    """The operator, with one model a process."""

    def _numbers(self, samples: Mapping[str, Sequence[Any]], count: int) -> Sequence[int]:
        return samples[_ROW] if _ROW in samples else super()._numbers(samples, count)

    @property
    def _key(self) -> str:
        return f"{self.accelerator} {self._settings}"

    def _load(self, rank: int | None) -> Engine:
        if self._key not in _loaded:
            _loaded[self._key] = super()._load(rank)
        return _loaded[self._key]

    def release(self) -> None:
        super().release()
        _loaded.pop(self._key, None)


def _read(line: str) -> Failure:
    """The way back from a line of `_failures_file`."""
    values = json.loads(line)
    return Failure(**values | {"id": RequestId(*values["id"])})


def _tell(failures: Iterable[Failure], of: str = "") -> None:
    """Tell of failures in the form of which Data-Juicer's summary counts errors, grouped by their kind."""
    for failure in failures:
        logger.error(
            f'An error occurred in {NAME} when processing sample "{operators.place_of(failure)}{of}" -- '
            f"{failure.kind}: no caption; the row stays as it came -- {failure.message}"
        )


def _is_ray_worker() -> bool:
    """Whether this is a process of Ray's, where the operator is made once more."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized() and ray.get_runtime_context().get_task_id())


class VideoCaptioningFromVLMMapper(Mapper):  # type: ignore[misc] # Data-Juicer is not typed
    """Captions the videos of each sample with a vision-language model.

    Two ways of holding text and captions: tokens in the text, each followed by its caption in a sample that is added;
    or, with `caption_field`, captions in a field of their own. A video that cannot be captioned costs its own caption:
    its sample stays as it came, and is told as an error. `skip_op_error` is not heeded: what is left to fail is the
    model itself, and then the job ends, as nothing of it would be captioned.
    """

    _accelerator = "cuda"
    _batched_op = True
    _NON_FINGERPRINT_ATTRS = Mapper._NON_FINGERPRINT_ATTRS | {"_failures_file"}

    def __init__(
        self,
        hf_model: str = DEFAULT_MODEL,
        enable_vllm: bool = False,
        caption_num: int = 1,
        keep_candidate_mode: str = "random_any",
        keep_original_sample: bool = True,
        prompt: str | None = None,
        prompt_key: str | None = None,
        system_prompt: str | None = None,
        model_params: dict[str, Any] | None = None,
        sampling_params: dict[str, Any] | None = None,
        *args: Any,
        caption_field: str | None = None,
        **kwargs: Any,
    ) -> None:
        """Take the arguments of the published operator, under the same names, and `caption_field`.

        :param hf_model: hub name or folder of a checkpoint that takes videos; "shapes" is the built-in one.
        :param enable_vllm: run the model with vLLM, split over all visible GPUs.
        :param caption_num: candidates for each video.
        :param keep_candidate_mode: "random_any", "similar_one_simhash", "consensus", "likeliest", "judged" or "all".
        :param keep_original_sample: keep each original sample before the captioned ones.
        :param prompt: for all samples; a general one by default.
        :param prompt_key: field of a sample's own prompt, which wins over `prompt` where it holds a string.
        :param system_prompt: for all samples.
        :param model_params: for loading the model.
        :param sampling_params: names of vLLM and of Transformers are taken.
        :param caption_field: write the captions to this field, one for each video, and leave text and samples alone.
        :param args: extra args
        :param kwargs: extra kwargs
        """
        kwargs["memory"] = kwargs.get("memory") or "70GB"
        super().__init__(*args, **{**kwargs, "skip_op_error": False})
        self.prompt_key = prompt_key
        self._failures_file: str | None = None
        """Where a run gathers what failed in its processes: what most of them log, Data-Juicer's summary never sees."""
        if enable_vllm:
            self.num_proc = 1
        self._captioner = _Captioner(
            hf_model=hf_model,
            enable_vllm=enable_vllm,
            caption_num=caption_num,
            keep_candidate_mode=cast(Keep, keep_candidate_mode),  # Data-Juicer holds recipes to the published types
            keep_original_sample=keep_original_sample,
            prompt=prompt,
            prompt_key=prompt_key,
            model_params=model_params,
            sampling_params=sampling_params,
            system_prompt=system_prompt,
            caption_field=caption_field,
            text_key=self.text_key,
            video_key=self.video_key,
            accelerator=self.accelerator,
            **{name: value for name, value in kwargs.items() if name not in self._BASE_PARAMS},  # which it refuses
        )
        if not _is_ray_worker():
            engine = "vLLM" if enable_vllm else "Transformers"
            logger.info(f"{NAME} is Reelscribe's, version {__version__}: it runs {hf_model} with {engine}.")

    def process_batched(
        self, samples: dict[str, list[Any]], rank: int | None = None, context: bool = False
    ) -> dict[str, list[Any]]:
        """Caption a batch; see `reelscribe.VideoCaptioningFromVLMMapper.process_batched`."""
        captioner = self._captioner
        captioner.failures.clear()
        made = captioner.process_batched(samples, rank=rank, context=context)
        if self._failures_file is None:
            _tell(captioner.failures, " of its batch")
        else:
            lines = "".join(json.dumps(asdict(failure)) + "\n" for failure in captioner.failures)
            with Path(self._failures_file).open("ab", buffering=0) as file:
                file.write(lines.encode())  # in one piece, beside other processes
        return made

    def run(self, dataset: Any, *, exporter: Any = None, tracer: Any = None) -> Any:
        """Caption a whole data set, tell what failed, and let go of the model for the operators to come."""
        with tempfile.NamedTemporaryFile("r", encoding="utf-8", suffix=".jsonl") as file:
            self._failures_file = file.name
            try:
                numbered = self._with_field(dataset).add_column(_ROW, np.arange(len(dataset)))
                made = super().run(numbered, exporter=exporter, tracer=tracer)
                return type(made)(made.remove_columns([_ROW]))
            finally:
                self._failures_file = None
                self._captioner.release()
                _tell(map(_read, file))

    def _with_field(self, dataset: Any) -> Any:
        """Give the field of captions its type beforehand: from a first batch of failures none could be told."""
        from data_juicer.core.data import NestedDataset  # which is not there yet where this is loaded as a plugin

        field = self._captioner.caption_field
        if not field:
            return dataset
        kept = List(Value("string"))
        dataset = NestedDataset(dataset.remove_columns([field] if field in dataset.column_names else []))
        return dataset.add_column(
            field, [None] * len(dataset), feature=List(kept) if self._captioner.keeps_all else kept
        )


OPERATORS.register_module(NAME, VideoCaptioningFromVLMMapper, force=True)
for _place in ("data_juicer.ops.mapper", f"data_juicer.ops.mapper.{NAME}"):
    # Not by import: where this is loaded as a plugin, Data-Juicer is not yet there as a whole.
    sys.modules[_place].VideoCaptioningFromVLMMapper = VideoCaptioningFromVLMMapper  # type: ignore[attr-defined]
