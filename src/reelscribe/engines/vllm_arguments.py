"""The arguments that vLLM is started with, and how it is spread over GPUs."""

import os
from collections.abc import Mapping, Sequence
from typing import Any, Final

from reelscribe.config import Settings
from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.planning import MEMORY_SHARE, Plan, longest_tokens, plan
from reelscribe.errors import SettingsError, did_you_mean
from reelscribe.video.sampling import FrameBudget

_CPU_EXECUTOR: Final = "vllm.v1.executor.uniproc_executor.UniProcExecutor"
"""The executor that runs model and scheduler in one process, as vLLM does on one GPU. On a CPU vLLM would use two
processes, one of which keeps a core busy with waiting."""
_CPU_CACHE_BYTES: Final = 2 << 30
"""The size of the key-value cache on a CPU if the user sets none. vLLM would take most of the memory."""
_CPU_BATCH_TOKENS: Final = 1024
"""Most tokens of a step on a CPU, unless a request may have more."""


def check_params(params: Mapping[str, Any], known: Sequence[str]) -> None:
    """Raise SettingsError if vLLM has no argument of a given name, or if a setting of ours already says it."""
    for name in params:
        if name == "model":
            raise SettingsError("model_params must not hold 'model'; the setting of that name says which.")
        if name not in known:
            hint = did_you_mean(name, known, otherwise="see the fields of vllm.AsyncEngineArgs.")
            raise SettingsError(f"unknown name {name!r} in model_params for vLLM; {hint}")


def check_device(device: str, there: str) -> None:
    """Raise SettingsError unless the device is "auto" or the type that vLLM was built for.

    Args:
        device: the setting.
        there: the type of device that vLLM was built for.
    """
    if device not in ("auto", there):
        raise SettingsError(
            f"device must be auto or {there} with this vLLM; got {device!r}. It takes all GPUs that it sees: choose "
            "them with CUDA_VISIBLE_DEVICES."
        )


def visible_gpus() -> int:
    """The number of GPUs that vLLM would see."""
    import torch

    return torch.cuda.device_count()


def planned(settings: Settings, checkpoint: Checkpoint, budget: FrameBudget) -> Plan:
    """Plan how the model is spread over the GPUs that vLLM sees.

    Raises:
        SettingsError: the model does not fit, or `tp` and `dp` do not fit the model or the GPUs.
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
    """Whether vLLM itself manages the replicas, all behind one process.

    It does for a mixture of experts, since its replicas share the experts, and if the user passes any of vLLM's
    `data_parallel...` arguments.
    """
    return checkpoint.size.is_mixture or any(name.startswith("data_parallel") for name in params)


def device_sets(spread: Plan) -> list[dict[str, str]]:
    """For each replica, the environment variables that let it see only its own GPUs; no variables on a CPU."""
    from vllm.platforms import current_platform

    count = visible_gpus()
    if not count:
        return [{} for _ in range(spread.dp)]
    name = current_platform.device_control_env_var
    visible = (os.environ.get(name) or ",".join(map(str, range(count)))).split(",")
    starts = range(0, spread.tp * spread.dp, spread.tp)
    return [{name: ",".join(visible[start : start + spread.tp])} for start in starts]


def longest_request(settings: Settings, budget: FrameBudget, answer_tokens: int) -> int:
    """The number of tokens of the longest request and its answer.

    The longest request shows the largest clip, or it belongs to a text stage over the clips of a film. For the latter
    each letter counts as one token, which only rare letters exceed. The answer counts twice, since the prompt of a
    second try may repeat it.

    Args:
        settings: with the tasks.
        budget: the limits on frames of a clip.
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
    """The arguments for vLLM: our defaults, overridden by `model_params`.

    Args:
        settings: of the model and the tasks.
        checkpoint: the model's checkpoint.
        budget: the limits on frames of a clip.
        spread: how the model is spread over GPUs.
        answer_tokens: of the longest answer that any task asks for.
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
        # Without it, vLLM cuts each expert into as many slices as there are GPUs.
        "enable_expert_parallel": checkpoint.size.is_mixture and spread.dp > 1,
        # A cache of processed clips would fill the host's memory, and is not needed: questions and candidates share
        # what vLLM's model has made of a clip.
        "mm_processor_cache_gb": 0,
        "enable_prefix_caching": True,
        **largest_clip(checkpoint, budget),
        # With -1 vLLM takes what fits into the GPU's memory: it would load, and long clips would fail one by one.
        "max_model_len": length,
        # llguidance, as in the Transformers engine. White space is disabled because models are known to loop in it.
        "structured_outputs_config": {"backend": "guidance", "disable_any_whitespace": True},
        "disable_log_stats": True,
        "use_tqdm_on_load": False,
    }
    if on_cpu:
        args |= {
            "enforce_eager": True,  # compiling takes minutes there
            # vLLM 0.32 breaks on a CPU if a request with a seed is prefilled in chunks. So no request may be. Longer
            # steps would not be faster, since the encoder works best on a few clips at a time.
            "enable_chunked_prefill": False,
            "max_num_batched_tokens": max(length, _CPU_BATCH_TOKENS),
            "block_size": 32,  # of the sizes that are fast on a CPU, the one that shares most of a prompt
        }
        if spread.tp == spread.dp == 1:
            args["distributed_executor_backend"] = _CPU_EXECUTOR
        if "VLLM_CPU_KVCACHE_SPACE" not in os.environ:
            args["kv_cache_memory_bytes"] = _CPU_CACHE_BYTES
    return args | dict(settings.model_params)
