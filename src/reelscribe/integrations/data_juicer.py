"""The operator for Data-Juicer. Importing this module replaces the published operator of the same name.

Batches go to `reelscribe.operators`. This module only has what Data-Juicer requires of its operators.
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
"""Name of the operator in recipes."""

_ROW: Final = "__reelscribe_row__"
"""A column that is there only while the operator runs: the number of each row in the data set, for failures."""
_loaded: dict[str, Engine] = {}
"""Engines of this process, by operator settings. Ray makes a new operator for each task, but reuses processes."""


class _Captioner(operators.VideoCaptioningFromVLMMapper):
    """The operator, sharing one model among all its instances in a process."""

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
    """Parse a line of `_failures_file`."""
    values = json.loads(line)
    return Failure(**values | {"id": RequestId(*values["id"])})


def _tell(failures: Iterable[Failure], of: str = "") -> None:
    """Log failures in the format that Data-Juicer's summary parses to count errors, grouped by kind."""
    for failure in failures:
        logger.error(
            f'An error occurred in {NAME} when processing sample "{operators.place_of(failure)}{of}" -- '
            f"{failure.kind}: no caption; the row stays as it came -- {failure.message}"
        )


def _is_ray_worker() -> bool:
    """Whether this is a worker process of Ray, where the operator is made again."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized() and ray.get_runtime_context().get_task_id())


class VideoCaptioningFromVLMMapper(Mapper):  # type: ignore[misc] # Data-Juicer is not typed
    """Captions the videos of each sample with a vision-language model.

    Captions go into one of two places: into the text of added samples, each after the token of its video; or, with
    `caption_field`, into a field of their own. If a video cannot be captioned, its sample stays as it is, and an error
    is logged. `skip_op_error` has no effect: the only errors left are those of the model itself, and these end the job,
    since nothing would be captioned.
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
        """Make the operator. Arguments are those of the published operator, and `caption_field`.

        :param hf_model: hub name or folder of a checkpoint that takes videos; "shapes" is the built-in one.
        :param enable_vllm: run the model with vLLM, split over all visible GPUs.
        :param caption_num: number of candidates for each video.
        :param keep_candidate_mode: "random_any", "similar_one_simhash", "consensus", "likeliest", "judged" or "all".
        :param keep_original_sample: keep each original sample before the captioned ones.
        :param prompt: prompt for all samples; a general one by default.
        :param prompt_key: field of a sample's own prompt. If it holds a string, it replaces `prompt`.
        :param system_prompt: system prompt for all samples.
        :param model_params: options for loading the model.
        :param sampling_params: sampling options, by their names in vLLM or in Transformers.
        :param caption_field: field to write the captions to, one for each video. Text and samples then do not change.
        :param args: extra args
        :param kwargs: extra kwargs
        """
        kwargs["memory"] = kwargs.get("memory") or "70GB"
        super().__init__(*args, **{**kwargs, "skip_op_error": False})
        self.prompt_key = prompt_key
        self._failures_file: str | None = None
        """File that gathers the failures of all processes during a run: Data-Juicer's summary misses what most of them
        log."""
        if enable_vllm:
            self.num_proc = 1
        self._captioner = _Captioner(
            hf_model=hf_model,
            enable_vllm=enable_vllm,
            caption_num=caption_num,
            keep_candidate_mode=cast(Keep, keep_candidate_mode),  # Data-Juicer checks recipes by the published types
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
            **{name: value for name, value in kwargs.items() if name not in self._BASE_PARAMS},  # unknown: a TypeError
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
                file.write(lines.encode())  # in one write, as other processes append, too
        return made

    def run(self, dataset: Any, *, exporter: Any = None, tracer: Any = None) -> Any:
        """Caption a whole data set, log its failures, and drop the model to free memory for the next operators."""
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
        """Add the field of captions with its type, which `datasets` could not infer if the whole first batch failed."""
        from data_juicer.core.data import NestedDataset  # not yet complete while this is loaded as a plugin

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
    # Not by an import: while this is loaded as a plugin, Data-Juicer itself is not completely imported.
    sys.modules[_place].VideoCaptioningFromVLMMapper = VideoCaptioningFromVLMMapper  # type: ignore[attr-defined]
