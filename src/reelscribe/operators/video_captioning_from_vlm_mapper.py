"""`VideoCaptioningFromVLMMapper` with Data-Juicer's interface: the same arguments, text format and batches.

It converts a batch to rows, captions them with `pipeline.caption_rows`, and converts the results back.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, get_args

from reelscribe.config import DEFAULT_MODEL, Settings
from reelscribe.engines import load_engine
from reelscribe.engines.base import Engine
from reelscribe.errors import SettingsError
from reelscribe.pipeline import caption_rows
from reelscribe.tasks import Keep
from reelscribe.values import Caption, Failure, InputRow, Row, RowResult

logger = logging.getLogger(__name__)

_BASE_OPTIONS: Final = frozenset(
    {
        *("text_key", "image_key", "audio_key", "video_key", "image_bytes_key", "system_key", "instruction_key"),
        *("query_key", "response_key", "history_key", "index_key", "work_dir", "input_columns", "output_columns"),
        *("skip_op_error", "adaptive_batching", "auto_op_parallelism", "batch_mode", "accelerator", "batch_size"),
        *("num_proc", "turbo", "cpu_required", "gpu_required", "mem_required", "num_cpus", "num_gpus", "memory"),
        *("runtime_env", "ray_execution_mode"),
    }
)
"""Options of Data-Juicer's base class. Here they only become attributes, which a scheduler may read."""
_TASK: Final = "reelscribe"
"""Name of the only task if captions go to a field. Its columns are internal; the name avoids those of real data."""


class VideoCaptioningFromVLMMapper:
    """Captions the videos of interleaved text with a vision-language model.

    Args:
        hf_model: hub name or folder of a checkpoint that takes videos or images; "shapes" is the built-in one.
        enable_vllm: run the model with vLLM, split over all visible GPUs; `tensor_parallel_size` in `model_params` says
            otherwise.
        caption_num: number of candidates for each video.
        keep_candidate_mode: "random_any", "similar_one_simhash", "consensus", "likeliest", "judged" or "all".
        keep_original_sample: keep each original row before the captioned ones.
        prompt: prompt for all rows; a general one by default.
        prompt_key: column of a row's own prompt. If it holds a string, it replaces `prompt`.
        model_params: options for loading the model, passed on to the engine.
        sampling_params: see `reelscribe.sampling_params.SamplingParams`; names of vLLM and of Transformers work.
        *args: accepted for compatibility, and ignored.
        system_prompt: system prompt for all rows.
        caption_field: column to write the captions to, one for each video (mode "all": a list for each video). The text
            and the number of rows then do not change, and the text needs no tokens. A failure gives None.
        **kwargs: options of Data-Juicer's base class, such as `text_key` or `memory`.

    Raises:
        SettingsError: an argument is wrong (it is a ValueError, too).
        TypeError: an argument is unknown.
    """

    _name = "video_captioning_from_vlm_mapper"
    _accelerator = "cuda"
    _batched_op = True

    def __init__(
        self,
        hf_model: str = DEFAULT_MODEL,
        enable_vllm: bool = False,
        caption_num: int = 1,
        keep_candidate_mode: Keep = "random_any",
        keep_original_sample: bool = True,
        prompt: str | None = None,
        prompt_key: str | None = None,
        model_params: dict[str, Any] | None = None,
        sampling_params: dict[str, Any] | None = None,
        *args: Any,
        system_prompt: str | None = None,
        caption_field: str | None = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(kwargs) - _BASE_OPTIONS)
        if unknown:
            raise TypeError(f"VideoCaptioningFromVLMMapper got unknown arguments: {', '.join(unknown)}")
        modes = [mode for mode in get_args(Keep) if mode != "scored"]  # this operator takes no scorer
        if keep_candidate_mode not in modes:
            raise SettingsError(f"keep_candidate_mode must be one of {', '.join(modes)}; got {keep_candidate_mode!r}.")
        if isinstance(caption_num, bool) or not isinstance(caption_num, int) or caption_num < 1:
            raise SettingsError(f"caption_num must be a whole number of at least 1; got {caption_num!r}.")
        if prompt and prompt_key:
            logger.warning("Both prompt and prompt_key are set: a row's own prompt (%r) comes first.", prompt_key)
        self.__dict__.update(kwargs)
        self.text_key = kwargs.get("text_key", "text")
        self.video_key = kwargs.get("video_key", "videos")
        self.accelerator = kwargs.get("accelerator") or self._accelerator
        self.memory = kwargs.get("memory") or "70GB"
        if caption_field in (self.text_key, self.video_key):
            raise SettingsError(f"caption_field must be a column of its own; got {caption_field!r}.")
        self.caption_field = caption_field
        self._prompt_key = prompt_key
        self.keeps_all = keep_candidate_mode == "all"
        # Prompts of tasks are templates, with column names in braces. This operator's prompts are not: escape braces.
        question = {"prompt": prompt and prompt.replace("{", "{{"), "prompt_key": prompt_key}
        told: dict[str, Any] = {"tasks": {_TASK: question}} if caption_field else question
        self._settings = Settings(
            model=hf_model,
            engine="vllm" if enable_vllm else "transformers",
            dp=1 if enable_vllm else None,  # one replica, on all GPUs
            num_captions=caption_num,
            keep=keep_candidate_mode,
            system_prompt=system_prompt,
            original=keep_original_sample,
            text_key=self.text_key,
            video_key=self.video_key,
            sampling=sampling_params or {},
            layout="columns" if caption_field else "interleaved",
            start_key="",  # columns of these names have no meaning for this operator
            end_key="",
            stretches_key="",
            model_params=model_params or {},
            **told,
        )
        self._hidden = frozenset(self._settings.added_columns if caption_field else ())
        if caption_num > 1 and self._settings.sampling_params().temperature == 0:
            logger.warning("caption_num is %d, but at temperature 0 all candidates are the same.", caption_num)
        self._told_missing = False
        self.failures: list[Failure] = []
        """All failures so far in this process."""
        self._engine: Engine | None = None

    def __getstate__(self) -> dict[str, Any]:
        """Pickle for other processes without the loaded model and without this process's failures."""
        return {**self.__dict__, "_engine": None, "failures": []}

    def process_batched(
        self, samples: Mapping[str, Sequence[Any]], rank: int | None = None, context: bool = False
    ) -> dict[str, list[Any]]:
        """Caption a batch.

        The model is loaded at the first batch. Transformers uses the GPU that belongs to `rank`, vLLM uses all GPUs.

        Args:
            samples: a list of values for each column, all of the same length. It is not changed.
            rank: number of this worker process.
            context: accepted for compatibility, and ignored.

        Returns:
            The same columns. For each row there is the original (if originals are kept, and always if there is nothing
            to caption or captioning failed; see `failures`), then the captioned rows.
        """
        columns = list(samples)
        count = len(samples[columns[0]]) if columns else 0
        if not count:
            return {name: [] for name in columns}
        self._tell_missing(columns)
        rows = [{name: samples[name][n] for name in columns} for n in range(count)]
        odd = [self._odd_prompt(row) for row in rows]
        seen = [{name: row[name] for name in columns if name not in self._hidden} for row in rows]
        numbers = self._numbers(samples, count)
        asked = [InputRow(index=numbers[n], row=row | dict.fromkeys(odd[n])) for n, row in enumerate(seen)]
        made: list[Row] = []
        results = caption_rows(asked, self._settings, self._load(rank), is_batch=True)
        for row, own_prompt, result in zip(rows, odd, results, strict=True):  # results come in the order of the rows
            for failure in result.failures:
                logger.warning("No caption for %s: %s [%s]", place_of(failure), failure.message, failure.kind)
            self.failures += result.failures
            if self.caption_field:
                made.append({**row, self.caption_field: self._texts(result)})
            else:
                made += [{**filled, **own_prompt} for filled in result.rows]
        if self.caption_field and self.caption_field not in columns:
            columns.append(self.caption_field)
        return {name: [row[name] for row in made] for name in columns}

    def release(self) -> None:
        """Drop the model, so that its memory can be freed. The next batch loads it again."""
        self._engine = None

    def _numbers(self, samples: Mapping[str, Sequence[Any]], count: int) -> Sequence[int]:
        """Numbers of the rows in failures: their positions in the batch, from 0."""
        return range(count)

    def _tell_missing(self, columns: Sequence[str]) -> None:
        """Warn once if the column of videos is missing. It is no error, since rows without videos are allowed."""
        if self.video_key not in columns and not self._told_missing:
            self._told_missing = True
            logger.warning(
                "The rows have no column %r, so nothing is captioned; video_key names another column. They have: %s.",
                *(self.video_key, ", ".join(columns)),
            )

    def _odd_prompt(self, row: Row) -> Row:
        """The row's own prompt if it is not a string: it is hidden while captioning, so that the operator's is used."""
        key = self._prompt_key
        return {key: row[key]} if key in row and not isinstance(row[key], str) else {}

    def _texts(self, result: RowResult) -> list[Any]:
        kept = [outcome.texts if isinstance(outcome, Caption) else None for outcome in result.outcomes]
        return [texts and (list(texts) if self.keeps_all else texts[0]) for texts in kept]

    def _load(self, rank: int | None) -> Engine:
        """The engine, loaded when first needed. Transformers gets the GPU with the number of the worker process."""
        if self._engine is None:
            device = "cpu" if self.accelerator == "cpu" else "auto"
            if self._settings.engine == "transformers" and device == "auto":
                device = f"auto:{rank or 0}"
            self._engine = load_engine(replace(self._settings, device=device))
        return self._engine


def place_of(failure: Failure) -> str:
    """The row and the video of a failure, in words."""
    row = f"row {failure.id.row}"
    return f"{row}, {failure.video}" if failure.video else row
