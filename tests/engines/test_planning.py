"""Plans for GPUs: the models of the family, on the machines that people have."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from reelscribe.engines.planning import ModelSize, Plan, plan, text_parameters, vision_parameters
from reelscribe.errors import ModelError, SettingsError
from reelscribe.models import model_path

GB = 10**9
LONGEST = 8192 + 2048

SMALL_EYES = {"hidden_size": 1024, "intermediate_size": 4096, "depth": 24}
LARGE_EYES = {"hidden_size": 1152, "intermediate_size": 4304, "depth": 27}


def config(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, eyes: dict[str, int], **more: Any
) -> dict[str, Any]:
    """A config.json of the family: what the released ones hold of it."""
    return {
        "text_config": {
            "hidden_size": hidden,
            "intermediate_size": inner,
            "num_hidden_layers": layers,
            "num_attention_heads": heads,
            "num_key_value_heads": kv_heads,
            "head_dim": 128,
            "vocab_size": 151936,
        }
        | more.pop("text", {}),
        "vision_config": {
            **eyes,
            "patch_size": 16,
            "temporal_patch_size": 2,
            "spatial_merge_size": 2,
            "out_hidden_size": hidden,
            "num_position_embeddings": 2304,
            "deepstack_visual_indexes": [1, 2, 3],
        },
        **more,
    }


FAMILY = {
    "2B": config(2048, 6144, 28, 16, 8, SMALL_EYES, tie_word_embeddings=True),
    "4B": config(2560, 9728, 36, 32, 8, SMALL_EYES, tie_word_embeddings=True),
    "8B": config(4096, 12288, 36, 32, 8, LARGE_EYES),
    "32B": config(5120, 25600, 64, 64, 8, LARGE_EYES),
    "30B-A3B": config(2048, 6144, 48, 32, 4, LARGE_EYES, text={"num_experts": 128, "moe_intermediate_size": 768}),
    "235B-A22B": config(4096, 12288, 94, 64, 4, LARGE_EYES, text={"num_experts": 128, "moe_intermediate_size": 1536}),
}


def size_of(told: dict[str, Any], **more: Any) -> ModelSize:
    """As if it were counted: for these models the estimate is exact."""
    return replace(ModelSize.estimated(told, **more), is_exact=True)


def planned(model: str, gpus: int, gb: int, **told: Any) -> Plan:
    return plan(size_of(FAMILY[model]), [gb * GB] * gpus, longest_tokens=LONGEST, **told)


@pytest.mark.parametrize(
    ("model", "billions"),
    [("2B", 2.13), ("4B", 4.44), ("8B", 8.77), ("32B", 33.4), ("30B-A3B", 31.1), ("235B-A22B", 235.7)],
)
def test_weights_are_those_of_the_released_models(model: str, billions: float) -> None:
    size = size_of(FAMILY[model])
    assert (size.text_bytes + size.vision_bytes) / 2 / GB == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(("tp", "held"), [(1, 4), (2, 2), (4, 1), (8, 1), (16, 1)])
def test_a_head_of_keys_that_cannot_be_split_is_copied_to_each_gpu(tp: int, held: int) -> None:
    size = size_of(FAMILY["30B-A3B"])
    of_one_head = 2 * 2 * size.layers * size.head_dim  # keys and values of two bytes
    assert size.splits(tp)
    assert size.gpu_bytes(tp, 1000) - size.gpu_bytes(tp, 0) == 1000 * held * of_one_head


@pytest.mark.transformers
def test_weights_of_the_built_in_model_are_counted_exactly() -> None:
    from safetensors import safe_open
    from transformers import AutoConfig

    folder = Path(model_path("shapes"))
    counted = {"visual": 0, "text": 0}
    with safe_open(folder / "model.safetensors", "pt") as weights:
        for name in weights.keys():  # noqa: SIM118 - not a mapping
            count = 1
            for side in weights.get_slice(name).get_shape():
                count *= side
            counted["visual" if ".visual." in name else "text"] += count
    told = json.loads((folder / "config.json").read_text("utf-8"))
    assert sum(text_parameters(told)) == counted["text"]
    assert vision_parameters(told["vision_config"]) == counted["visual"]
    size = ModelSize.of(AutoConfig.from_pretrained(folder))
    assert (size.text_bytes, size.vision_bytes) == (2 * counted["text"], 2 * counted["visual"])


ROPE = {"rope_type": "default", "rope_theta": 5e6, "mrope_section": [24, 20, 20], "mrope_interleaved": True}


def as_transformers_has_it(class_name: str, told: dict[str, Any]) -> Any:
    """What Transformers makes of a config.json, which is to have other names."""
    import transformers

    text = {**told["text_config"], "rope_parameters": ROPE}
    return getattr(transformers, class_name)(**{**told, "text_config": text})


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("model", "class_name", "billions", "is_mixture"),
    [
        ("4B", "Qwen3VLConfig", 4.438, False),
        ("8B", "Qwen3VLConfig", 8.767, False),
        ("30B-A3B", "Qwen3VLMoeConfig", 31.071, True),
        ("235B-A22B", "Qwen3VLMoeConfig", 235.670, True),
    ],
)
def test_weights_are_those_of_the_model_that_transformers_makes(
    model: str, class_name: str, billions: float, is_mixture: bool
) -> None:
    size = ModelSize.of(as_transformers_has_it(class_name, FAMILY[model]))
    assert round((size.text_bytes + size.vision_bytes) / 2 / GB, 3) == billions
    assert (size.is_mixture, size.is_exact) == (is_mixture, True)
    by_names = ModelSize.estimated(FAMILY[model])
    assert size.vision_bytes == by_names.vision_bytes
    assert (size.layers, size.kv_heads, size.head_dim) == (by_names.layers, by_names.kv_heads, by_names.head_dim)


@pytest.mark.transformers
@pytest.mark.parametrize(
    ("class_name", "billions", "layers", "is_mixture"),
    [
        ("Qwen3_5Config", 9.407, 8, False),
        ("Qwen3_5MoeConfig", 35.114, 10, True),
        ("Qwen2_5_VLConfig", 75.789, 80, False),
    ],
)
def test_models_of_other_families_are_counted(class_name: str, billions: float, layers: int, is_mixture: bool) -> None:
    import transformers

    size = ModelSize.of(getattr(transformers, class_name)())
    assert (size.text_bytes + size.vision_bytes) / 2 / GB == pytest.approx(billions, abs=0.001)
    assert (size.layers, size.is_mixture) == (layers, is_mixture)


@pytest.mark.parametrize("name", ["num_experts", "num_local_experts"])
def test_experts_have_two_names(name: str) -> None:
    told = FAMILY["30B-A3B"]
    text = {key: value for key, value in told["text_config"].items() if key != "num_experts"} | {name: 128}
    assert ModelSize.estimated({**told, "text_config": text}) == ModelSize.estimated(told)
    assert ModelSize.estimated(told).is_mixture


class _Unknown:
    """A configuration of a model that Transformers cannot make."""

    model_type = "unheard_of"

    def __init__(self, told: dict[str, Any]) -> None:
        self._told = told

    def to_dict(self) -> dict[str, Any]:
        return self._told


def test_a_model_that_cannot_be_made_is_estimated_and_its_plan_says_so() -> None:
    size = ModelSize.of(_Unknown(FAMILY["30B-A3B"]))
    assert size == ModelSize.estimated(FAMILY["30B-A3B"])
    made = plan(size, [80 * GB], longest_tokens=LONGEST)
    assert made.reason.endswith("; the weights are an estimate, since Transformers cannot make this model here.")
    with pytest.raises(ModelError, match=r"a unheard_of, is not known: .* configuration has no 'text_config'\. Take"):
        ModelSize.of(_Unknown({}))


# tp for GPUs of 24, 48, 80 and 141 GB; None where the model does not fit however many of eight share it.
SMALLEST = {
    "2B": (1, 1, 1, 1),
    "4B": (1, 1, 1, 1),
    "8B": (2, 1, 1, 1),
    "32B": (8, 2, 2, 1),
    "30B-A3B": (4, 2, 1, 1),
    "235B-A22B": (None, None, 8, 4),
}


@pytest.mark.parametrize("gpus", range(1, 9))
@pytest.mark.parametrize(("place", "gb"), list(enumerate((24, 48, 80, 141))))
@pytest.mark.parametrize("model", FAMILY)
def test_the_smallest_tensor_parallelism_that_fits_and_replicas_for_the_rest(
    model: str, place: int, gb: int, gpus: int
) -> None:
    tp, size = SMALLEST[model][place], size_of(FAMILY[model])
    if tp is None or tp > gpus:
        for tight in (1, 2, 4, 8):
            if tight <= gpus and size.gpu_bytes(tight, LONGEST) <= 0.9 * gb * GB:
                made = planned(model, gpus, gb)
                assert (made.tp, made.dp, made.clips) == (tight, gpus // tight, 1)
                assert "; the cache has room for few clips of that size" in made.reason
                return
        with pytest.raises(SettingsError, match="the model does not fit: "):
            planned(model, gpus, gb)
        return
    made = planned(model, gpus, gb)
    assert (made.tp, made.dp, made.clips) == (tp, gpus // tp, 4)
    assert size.gpu_bytes(tp, 4 * LONGEST) <= 0.9 * gb * GB
    assert tp == 1 or size.gpu_bytes(tp // 2, 4 * LONGEST) > 0.9 * gb * GB


def test_the_plan_tells_its_reasons() -> None:
    assert str(planned("8B", 8, 24)) == (
        "4 replicas of the model, each on 2 GPUs (tp=2, dp=4): weights, cache and room to work take 14.4 GB of the "
        "21.6 GB that can be used on each; on 1 GPU it would be 25.6 GB."
    )
    assert str(planned("2B", 1, 24)).startswith("one replica of the model on 1 GPU (tp=1, dp=1): weights, cache")


def test_gpus_that_stay_idle_are_told() -> None:
    made = planned("32B", 7, 80)
    assert (made.tp, made.dp) == (2, 3)
    assert made.reason.endswith("; 1 GPU of 7 stay idle.")


def test_replicas_of_a_mixture_are_not_alone() -> None:
    assert "vLLM deals the experts out over all replicas and runs them in step" in planned("30B-A3B", 8, 80).reason
    assert "experts" not in planned("30B-A3B", 1, 80).reason


def test_a_model_that_does_not_fit_says_what_to_do() -> None:
    with pytest.raises(SettingsError) as caught:
        planned("235B-A22B", 8, 48)
    assert str(caught.value).startswith("the model does not fit: with its weights split over 8 GPUs each must hold 6")
    assert "43.2 GB of 48.0 GB can be used" in str(caught.value)
    assert "(-FP8), lower max_video_tokens, or force it with tp=8." in str(caught.value)


def test_the_smallest_gpu_decides() -> None:
    assert plan(size_of(FAMILY["8B"]), [80 * GB, 24 * GB], longest_tokens=LONGEST).tp == 2


def test_longer_clips_need_more_room() -> None:
    size = size_of(FAMILY["8B"])
    assert plan(size, [48 * GB] * 2, longest_tokens=LONGEST).tp == 1
    assert plan(size, [48 * GB] * 2, longest_tokens=6 * LONGEST).tp == 2


def test_a_smaller_share_of_the_memory_counts() -> None:
    assert planned("8B", 2, 48).tp == 1
    assert planned("8B", 2, 48, memory_share=0.4).tp == 2


class TestOverrides:
    def test_tp_is_taken_whether_it_fits_or_not(self) -> None:
        assert planned("8B", 8, 80, tp=8) == Plan(tp=8, dp=1, reason="as asked for.")
        assert planned("32B", 8, 24, tp=4) == Plan(tp=4, dp=2, reason="as asked for.")

    def test_dp_deals_all_gpus_out(self) -> None:
        assert [(made.tp, made.dp) for made in (planned("8B", 8, 80, dp=dp) for dp in (1, 2, 4, 8))] == [
            (8, 1),
            (4, 2),
            (2, 4),
            (1, 8),
        ]
        made = planned("8B", 8, 24, dp=3)
        assert (made.tp, made.dp) == (2, 3)
        assert made.reason.endswith("; 2 GPUs of 8 stay idle.")
        with pytest.raises(SettingsError, match="split over 1 GPU each must hold"):
            planned("32B", 8, 24, dp=8)

    def test_both(self) -> None:
        assert (planned("8B", 8, 80, tp=2, dp=3).tp, planned("8B", 8, 80, tp=2, dp=3).dp) == (2, 3)
        with pytest.raises(SettingsError, match=r"^tp=4 times dp=3 needs 12 GPUs; 8 are visible\.$"):
            planned("8B", 8, 80, tp=4, dp=3)

    def test_heads_must_divide(self) -> None:
        with pytest.raises(SettingsError, match=r"^tp must divide .* 32 attention heads: one of 1, 2, 4, 8; got 3\.$"):
            planned("8B", 8, 80, tp=3)

    def test_without_a_gpu_there_is_nothing_to_plan(self) -> None:
        size = size_of(FAMILY["8B"])
        assert plan(size, [], longest_tokens=LONGEST) == Plan(tp=1, dp=1, reason="there is no GPU.")
        assert plan(size, [], longest_tokens=LONGEST, dp=2).dp == 2


class TestQuantised:
    def test_eight_bits_halve_the_layers_and_leave_the_embeddings(self) -> None:
        whole = size_of(FAMILY["8B"])
        half = size_of(FAMILY["8B"] | {"quantization_config": {"quant_method": "fp8"}})
        embeddings = 2 * 2 * 151936 * 4096
        assert half.text_bytes - embeddings == (whole.text_bytes - embeddings) // 2
        assert half.vision_bytes == whole.vision_bytes

    def test_four_bits(self) -> None:
        quarter = size_of(FAMILY["8B"] | {"quantization_config": {"quant_method": "awq", "bits": 4}})
        assert quarter.text_bytes < 0.4 * size_of(FAMILY["8B"]).text_bytes

    def test_what_is_on_disk_is_measured(self) -> None:
        size = size_of(FAMILY["8B"], bytes_on_disk=10 * GB)
        assert size.text_bytes + size.vision_bytes == 10 * GB
        assert size.vision_bytes == size_of(FAMILY["8B"]).vision_bytes
