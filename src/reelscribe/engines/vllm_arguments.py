"""What vLLM is told when it is started: its arguments, and how it is spread over GPUs."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.planning import MEMORY_SHARE, Plan, longest_tokens, plan
from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.video.sampling import FrameBudget

_CPU_EXECUTOR: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""Model and scheduler in one process, as on one GPU. vLLM parts them on a CPU, and keeps a core to wait with."""
_CPU_CACHE_BYTES: Final = 2 << 30
"""Key-value cache on a CPU, where the user does not say how large; vLLM would take most of the memory."""
_CPU_BATCH_TOKENS: Final = 1024
"""Tokens of a step on a CPU, unless a request may have more."""


def check_params(params: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise SettingsError where vLLM has no argument of a name, or another setting has it."""
    for name in params:
        if name == "model":
            raise SettingsError("model_params must not hold 'model'; the setting of that name says which.")
        if name not in known:
            hint = did_you_mean(name, known, otherwise="see the fields of vllm.AsyncEngineArgs.")
            raise SettingsError(f"unknown name {name!r} in model_params for vLLM; {hint}")


def check_device(device: str, there: str) -> None:
    """Raise SettingsError if a device is named that vLLM was not built for, or one of several."""
    if device not in ("auto", there):
        raise SettingsError(
            f"device must be auto or {there} with this vLLM; got {device!r}. It takes all GPUs that it sees: choose "
            "them with CUDA_VISIBLE_DEVICES."
        )


def visible_gpus() -> int:
    """How many GPUs vLLM would see."""
    import torch

    return torch.cuda.device_count()


def planned(settings: Settings, checkpoint: Checkpoint, budget: FrameBudget) -> Plan:
    """How the model is spread over the GPUs that vLLM sees.

    Raises:
        SettingsError: it does not fit, or `tp` and `dp` do not.
    """
    from vllm.platforms import current_platform

    params = settings.model_params
    return plan(
        checkpoint.size,
        [current_platform.get_device_total_memory(number) for number in range(visible_gpus())],
        longest_tokens=longest_tokens(budget),
        tp=params.get("tensor_parallel_size") or settings.tp,
        dp=params.get("data_parallel_size") or settings.dp,
        memory_share=params.get("gpu_memory_utilization") or MEMORY_SHARE,
    )


def has_own_replicas(params: Mapping[str, Any], checkpoint: Checkpoint) -> bool:
    """Whether replicas are vLLM's affair, all behind one process.

    Those of a mixture of experts are: they share the experts. All are if the user asks for it in vLLM's own words.
    """
    return checkpoint.size.is_mixture or any(name.startswith("data_parallel") for name in params)


def device_sets(spread: Plan) -> list[dict[str, str]]:
    """For each replica, the environment in which it sees its own GPUs and no others; empty on a CPU."""
    from vllm.platforms import current_platform

    count = visible_gpus()
    if not count:
        return [{} for _ in range(spread.dp)]
    name = current_platform.device_control_env_var
    visible = (os.environ.get(name) or ",".join(map(str, range(count)))).split(",")
    starts = range(0, spread.tp * spread.dp, spread.tp)
    return [{name: ",".join(visible[start : start + spread.tp])} for start in starts]


def longest_request(settings: Settings, budget: FrameBudget, answer_tokens: int) -> int:
    """Tokens of the longest request and its answer.

    It shows the largest clip, or it is a text stage over the clips of a film; a letter is a token at most, but for
    rare ones. An answer may come again in the prompt of a second try.

    Args:
        settings: with the tasks.
        budget: of clips.
        answer_tokens: of the longest answer.
    """
    parts = (task.part_chars for task in settings.all_tasks if task.is_over_video)
    return max(longest_tokens(budget), *parts, 0) + 2 * answer_tokens


def made_arguments(
    settings: Settings,
    checkpoint: Checkpoint,
    budget: FrameBudget,
    spread: Plan,
    *,
    answer_tokens: int,
    on_cpu: bool,
) -> dict[str, Any]:
    """Arguments for vLLM: what `model_params` say, and what is best where they say nothing.

    Args:
        settings: of the model and the tasks.
        checkpoint: the model's.
        budget: of clips.
        spread: over GPUs.
        answer_tokens: of the longest answer that is asked for.
        on_cpu: whether vLLM runs on a CPU.
    """
    from reelscribe.engines.vllm_clips import largest_clip

    longest = longest_request(settings, budget, answer_tokens)
    length = min(longest, checkpoint.context or longest)
    args: dict[str, Any] = {
        "model": checkpoint.path,
        "revision": settings.revision,
        "dtype": "float32" if on_cpu and settings.dtype == "auto" else settings.dtype,
        "tensor_parallel_size": spread.tp,
        "data_parallel_size": spread.dp,
        "mm_encoder_tp_mode": "data" if spread.tp > 1 else "weights",
        # Else each expert is cut into slices, of which there are as many as GPUs.
        "enable_expert_parallel": checkpoint.size.is_mixture and spread.dp > 1,
        # To keep clips here would fill the host's memory: questions and candidates share what is made of them there.
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": True,
        **largest_clip(checkpoint, budget),
        # With -1 it would be what fits the GPU's memory: loading would pass, and long clips fail one by one.
        "max_model_len": length,
        # For requests with a schema: the library that the Transformers engine uses, too. Models loop in white space.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        args |= {
            "enforce_eager": True,  # compiling takes minutes there
            # vLLM 0.32 breaks on a CPU where a request with a seed is prefilled in parts, so that none may be. Longer
            # steps would not be faster: the encoder works best on a few clips at a time.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(length, _CPU_BATCH_TOKENS),
            "block_size": 32,  # of the sizes that are fast there, the one that shares most of a prompt
        }
        if spread.tp == spread.dp == 1:
            args["distributed_executor_backend"] = _CPU_EXECUTOR
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            args["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    return args | dict(settings.model_params)
