"""Planning how to spread a model over GPUs, from the size of the model that its configuration describes.

Tensor parallelism splits a model that one GPU cannot hold, at the cost of communication between the GPUs in every
layer. Replicas do not communicate. So the plan is the smallest tensor parallelism that fits, and as many replicas as
the GPUs allow.
"""

import copy
import importlib
import logging
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, NamedTuple

from reelscribe.errors import ModelError, SettingsError
from reelscribe.video.sampling import FrameBudget

logger = logging.getLogger(__name__)
"""The engine logs its plan here, so that a program can show plans and nothing else."""

MEMORY_SHARE: Final = 0.9
"""The share of each GPU's memory that the engine may use. The rest is for the CUDA context and other programs."""
_WORKING_BYTES: Final = 2 * 10**9
"""Bytes of each GPU for the activations of a step, the vision encoder's included."""
CLIPS: Final = 4
"""The number of longest clips that the cache should hold at once. With fewer, the GPU would have to wait."""
_WORDS_TOKENS: Final = 2048
"""Tokens that a plan assumes for the prompt, the times of the frames and the answer together."""

_BITS: Final = {"bitsandbytes": 8, "fp8": 8, "fbgemm_fp8": 8, "mxfp8": 8, "mxfp4": 4, "nvfp4": 4}
"""Bits of a weight, by quantisation methods whose configuration does not say it. For other methods without that, 16 is
assumed, the most that it can be."""


@dataclass(frozen=True, kw_only=True)
class ModelSize:
    """The memory that a model needs on GPUs."""

    text_bytes: int
    """Bytes of the language model's weights, which tensor parallelism splits."""
    vision_bytes: int
    """Bytes of the vision encoder's weights. Each GPU holds all of them: clips, not weights, are spread over GPUs
    there."""
    layers: int
    """The number of layers with keys and values in the cache."""
    heads: int
    kv_heads: int
    head_dim: int
    state_bytes: int = 0
    """Bytes of the states of a sequence of any length, in layers of linear attention and of convolution."""
    is_mixture: bool = False
    """Whether the model is a mixture of experts."""
    is_exact: bool = True
    """Whether the weights were counted. If not, they are an estimate from the configuration."""

    @classmethod
    def of(cls, config: Any, *, bytes_on_disk: int | None = None) -> "ModelSize":
        """Count the weights of the model that a configuration describes, for any family that Transformers knows.

        If the model cannot be built (PyTorch is missing, or Transformers lacks its code), the size is `estimated`.

        Args:
            config: a configuration of Transformers.
            bytes_on_disk: the size of its weight files, if they are there. What is not the vision encoder's counts as
                the language model's.

        Raises:
            ModelError: the model can neither be built nor estimated.
        """
        try:
            return cls._from(_counted(config), config.get_text_config().to_dict(), config.to_dict(), bytes_on_disk)
        except Exception as exc:  # a model's code may raise anything
            try:
                return cls.estimated(config.to_dict(), bytes_on_disk=bytes_on_disk)
            except KeyError as name:
                why = str(exc).partition("\n")[0]
                raise ModelError(
                    f"the size of this model, a {config.model_type}, is not known: Transformers cannot make it "
                    f"({why}), and its configuration has no {name}. Take a model that Transformers knows."
                ) from exc

    @classmethod
    def estimated(cls, config: Mapping[str, Any], *, bytes_on_disk: int | None = None) -> "ModelSize":
        """Compute the weights from a config.json with the names of the Qwen3-VL family. For that family it is exact.

        Raises:
            KeyError: a name is missing.
        """
        layers, embeddings = text_parameters(config)
        text = config["text_config"]
        weights = _Weights(layers, embeddings, vision_parameters(config["vision_config"]), bool(_experts(text)))
        return replace(cls._from(weights, text, config, bytes_on_disk), is_exact=False)

    @classmethod
    def _from(
        cls, weights: "_Weights", text: Mapping[str, Any], config: Mapping[str, Any], bytes_on_disk: int | None
    ) -> "ModelSize":
        text_bytes = round(weights.layers * _bytes_each(config)) + 2 * weights.embeddings
        vision_bytes = 2 * weights.vision
        if bytes_on_disk is not None:
            vision_bytes = min(vision_bytes, bytes_on_disk)
            text_bytes = bytes_on_disk - vision_bytes
        heads = text["num_attention_heads"]
        return cls(
            text_bytes=text_bytes,
            vision_bytes=vision_bytes,
            layers=_cached_layers(text),
            heads=heads,
            kv_heads=text.get("num_key_value_heads") or heads,
            head_dim=_head_dim(text),
            state_bytes=weights.state_bytes,
            is_mixture=weights.has_experts,
        )

    def gpu_bytes(self, tp: int, cached_tokens: int, *, sequences: int = 0) -> int:
        """The bytes that each of `tp` GPUs must hold: weights, cache and working memory.

        Args:
            tp: the number of GPUs for one replica.
            cached_tokens: tokens in the cache.
            sequences: sequences with states.
        """
        kv_heads = math.ceil(self.kv_heads / tp)  # with more GPUs than heads, heads are copied
        cache = 2 * 2 * self.layers * kv_heads * self.head_dim * cached_tokens
        cache += self.state_bytes * sequences // tp
        return self.text_bytes // tp + self.vision_bytes + cache + _WORKING_BYTES

    def splits(self, tp: int) -> bool:
        """Whether the attention heads can be split evenly over this many GPUs."""
        return self.heads % tp == 0 and (self.kv_heads % tp == 0 or tp % self.kv_heads == 0)


class _Weights(NamedTuple):
    """The numbers of weights of the parts of a model."""

    layers: int
    """The weights of the language model without its embeddings."""
    embeddings: int
    vision: int
    """All other weights: those of encoders and of the projections to the language model."""
    has_experts: bool
    state_bytes: int = 0
    """See `ModelSize.state_bytes`."""


@dataclass(frozen=True, kw_only=True)
class Plan:
    """How many GPUs hold one copy of the model, and how many copies there are."""

    tp: int
    """Tensor parallelism: GPUs for each replica."""
    dp: int
    """Data parallelism: replicas."""
    reason: str
    """The reason for the plan, in a sentence."""
    clips: int = CLIPS
    """The number of longest clips for which the cache has room at least."""

    def __str__(self) -> str:
        copies = "one replica of the model" if self.dp == 1 else f"{self.dp} replicas of the model, each"
        return f"{copies} on {_gpus(self.tp)} (tp={self.tp}, dp={self.dp}): {self.reason}"


def plan(
    size: ModelSize,
    gpu_bytes: Sequence[int],
    *,
    longest_tokens: int,
    tp: int | None = None,
    dp: int | None = None,
    memory_share: float = MEMORY_SHARE,
) -> Plan:
    """Choose tensor and data parallelism.

    Args:
        size: of the model.
        gpu_bytes: memory of each visible GPU; empty on a CPU.
        longest_tokens: tokens of the longest request: video, prompt and answer.
        tp: the user's number of GPUs for each replica, if set. Then it is not checked whether the model fits.
        dp: the user's number of replicas, if set. They share all GPUs.
        memory_share: the share of each GPU's memory that may be used.

    Raises:
        SettingsError: the heads do not divide by `tp`, `tp` and `dp` need more GPUs than there are, or nothing fits.
    """
    if not gpu_bytes:
        return Plan(tp=tp or 1, dp=dp or 1, reason="there is no GPU.")
    count = len(gpu_bytes)
    if (tp or 1) * (dp or 1) > count:
        raise SettingsError(f"tp={tp or 1} times dp={dp or 1} needs {(tp or 1) * (dp or 1)} GPUs; {count} are visible.")
    allowed = [degree for degree in range(1, count + 1) if size.splits(degree)]
    if tp is not None:
        if tp not in allowed:
            some = ", ".join(map(str, allowed))
            raise SettingsError(f"tp must divide the model's {size.heads} attention heads: one of {some}; got {tp}.")
        return _spread(tp, dp, count, "as asked for", size)
    allowed = [degree for degree in allowed if degree * (dp or 1) <= count]
    if dp is not None:
        allowed = allowed[-1:]  # the number of replicas is fixed, so that fewer GPUs for each would leave GPUs idle
    usable = int(min(gpu_bytes) * memory_share)
    for clips in (CLIPS, 1):  # with room for only one clip the GPU waits, but the model runs
        need = {degree: size.gpu_bytes(degree, clips * longest_tokens, sequences=clips) for degree in allowed}
        fits = next((degree for degree in need if need[degree] <= usable), None)
        if fits is not None:
            break
    if fits is None:
        most = max(need)
        raise SettingsError(
            f"the model does not fit: with its weights split over {_gpus(most)} each must hold {_gb(need[most])} "
            f"({_gb(size.text_bytes + size.vision_bytes)} of weights in all, the cache of a clip of "
            f"{longest_tokens:,} tokens, and room to work), and {_gb(usable)} of {_gb(min(gpu_bytes))} can be used. "
            f"Take a smaller or quantised checkpoint (-FP8), lower max_video_tokens, or force it with tp={most}."
        )
    words = f"weights, cache and room to work take {_gb(need[fits])} of the {_gb(usable)} that can be used on each"
    if clips < CLIPS:
        words += "; the cache has room for few clips of that size, and max_video_tokens makes them smaller"
    before = max((degree for degree in need if degree < fits), default=None)
    if before:
        words += f"; on {_gpus(before)} it would be {_gb(need[before])}"
    return replace(_spread(fits, dp, count, words, size), clips=clips)


def longest_tokens(budget: FrameBudget) -> int:
    """The number of tokens of the longest request: video, its sound, prompt and answer."""
    return budget.most_tokens + budget.most_sound_tokens + _WORDS_TOKENS


def _spread(tp: int, dp: int | None, count: int, words: str, size: ModelSize) -> Plan:
    replicas = dp or count // tp
    idle = count - tp * replicas
    if idle:
        words += f"; {_gpus(idle)} of {count} stay idle"
    if not size.is_exact:
        words += "; the weights are an estimate, since Transformers cannot make this model here"
    if size.is_mixture and replicas > 1:
        words += "; vLLM deals the experts out over all replicas and runs them in step"
    return Plan(tp=tp, dp=replicas, reason=f"{words}.")


def _gb(count: int) -> str:
    return f"{count / 10**9:.1f} GB"


def _gpus(count: int) -> str:
    return "1 GPU" if count == 1 else f"{count} GPUs"


def _bytes_each(config: Mapping[str, Any]) -> float:
    """Bytes of a weight in the language model's layers: 2, or what the quantisation in the configuration says."""
    told = config.get("quantization_config") or {}
    if told.get("load_in_4bit"):  # bitsandbytes
        return 0.5
    # compressed-tensors has a table of groups of layers. Most checkpoints have one group.
    groups = [group.get("weights") or {} for group in (told.get("config_groups") or {}).values()]
    bits = told.get("bits") or max((group.get("num_bits") or 16 for group in groups), default=None)
    return float(bits or _BITS.get(str(told.get("quant_method")), 16)) / 8


def _head_dim(text: Mapping[str, Any]) -> int:
    return int(text.get("head_dim") or text["hidden_size"] // text["num_attention_heads"])


def _layers(text: Mapping[str, Any]) -> int:
    return int(text["num_hidden_layers"])


def _cached_layers(text: Mapping[str, Any]) -> int:
    """The number of layers that cache keys. Layers of convolution and of linear attention do not."""
    kinds = text.get("layer_types") or ["attention"] * _layers(text)
    return sum("attention" in kind and "linear" not in kind for kind in kinds)


def _counted(config: Any) -> _Weights:
    """Count the weights of a model that is built on the meta device, which allocates no memory for them."""
    torch, transformers = (importlib.import_module(name) for name in ("torch", "transformers"))
    with torch.device("meta"):
        model = transformers.AutoModelForImageTextToText.from_config(copy.deepcopy(config))
    ends = [end for end in (model.get_input_embeddings(), model.get_output_embeddings()) if end is not None]
    embeddings = {weight for end in ends for weight in end.parameters()}  # once, if they are tied
    layers = set(model.get_decoder().parameters()) - embeddings
    others = set(model.parameters()) - layers - embeddings
    has_experts = any(name.rpartition(".")[2] == "experts" for name, _ in model.named_modules())
    states = _state_bytes(model) if _cached_layers(text := config.get_text_config().to_dict()) < _layers(text) else 0
    return _Weights(_numbers(layers), _numbers(embeddings), _numbers(others), has_experts, states)


def _state_bytes(model: Any) -> int:
    """Bytes of the states of a sequence in bfloat16, measured by running the model on the meta device."""
    torch, cached = (importlib.import_module(name) for name in ("torch", "reelscribe.engines.cached"))
    decoder = model.to(torch.bfloat16).get_decoder()
    for module in decoder.modules():
        if hasattr(module, "experts"):  # routing needs values, which the meta device lacks; experts have no states
            module.forward = lambda hidden, *_, **__: hidden
    try:
        return int(cached.CacheCost.of(decoder, torch.device("meta")).row_bytes)
    except Exception as exc:  # a model's code may raise anything
        logger.warning("The states of the model's linear layers are not counted, since it cannot be run: %s", exc)
        return 0


def _numbers(weights: Iterable[Any]) -> int:
    return sum(weight.numel() for weight in weights)


def _experts(text: Mapping[str, Any]) -> int:
    """The number of experts of a layer, 0 if there are none. Transformers 5.19 and later use the second name."""
    return int(text.get("num_experts") or text.get("num_local_experts") or 0)


def text_parameters(config: Mapping[str, Any]) -> tuple[int, int]:
    """The numbers of weights in the layers and in the embeddings of a language model of the Qwen3-VL family."""
    text = config["text_config"]
    hidden, layers = text["hidden_size"], text["num_hidden_layers"]
    queries, keys = (text[name] * _head_dim(text) for name in ("num_attention_heads", "num_key_value_heads"))
    attention = 2 * hidden * queries + 2 * hidden * keys + 2 * _head_dim(text)
    dense = 3 * hidden * text.get("intermediate_size", 0)
    mixture = _experts(text) * (3 * hidden * text.get("moe_intermediate_size", 0) + hidden)
    tied = config.get("tie_word_embeddings", text.get("tie_word_embeddings", False))
    embeddings = text["vocab_size"] * hidden * (1 if tied else 2)
    return layers * (attention + (mixture or dense) + 2 * hidden) + hidden, embeddings


def vision_parameters(vision: Mapping[str, Any]) -> int:
    """The number of weights in a vision encoder of the Qwen3-VL family."""
    hidden, inner = vision["hidden_size"], vision["intermediate_size"]
    values = vision.get("in_channels", 3) * vision["temporal_patch_size"] * vision["patch_size"] ** 2
    block = 4 * hidden * (hidden + 1) + hidden * (2 * inner + 1) + inner + 4 * hidden
    merged = hidden * vision["spatial_merge_size"] ** 2
    merger = merged * (merged + 1) + (merged + 1) * vision["out_hidden_size"]
    deep = len(vision["deepstack_visual_indexes"])
    norms = 2 * hidden + deep * 2 * merged  # the main merger normalises before merging, the deepstack mergers after
    embeddings = (values + 1) * hidden + vision["num_position_embeddings"] * hidden
    return int(embeddings + vision["depth"] * block + (1 + deep) * merger + norms)
