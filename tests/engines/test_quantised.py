"""Checkpoints with quantised weights: they work, or it is said by name what they lack."""

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForMultimodalLM

from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.planning import _bytes_each
from reelscribe.engines.speedups import speed_up_vision
from reelscribe.engines.transformers import TransformersEngine
from reelscribe.errors import ModelError


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_checkpoints.make("qwen3_vl", tmp_path_factory.mktemp("tiny") / "plain")


def quantised(plain: Path, folder: Path, **told: Any) -> str:
    """The same checkpoint, whose configuration says that it is quantised."""
    shutil.copytree(plain, folder)
    config = json.loads((folder / "config.json").read_text("utf-8"))
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": told}), "utf-8")
    return str(folder)


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ({"quant_method": "awq", "bits": 4}, "requires gptqmodel.*pip install gptqmodel"),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True}, "requires bitsandbytes: `pip install"),
        ({"quant_method": "torchao", "quant_type": "int8_weight_only"}, "it needs a package: pip install torchao"),
        (
            {"quant_method": "modelopt"},
            r"by 'modelopt', which Transformers does not know \(it .*awq.*bitsandbytes, .*fp8",
        ),
    ],
    ids=lambda value: value["quant_method"] if isinstance(value, dict) else "",
)
def test_what_is_missing_is_said_by_name(told: dict[str, Any], words: str, plain: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=words):
        TransformersEngine(quantised(plain, tmp_path / "q", **told), device="cpu")


def test_a_thinker_of_a_quantised_checkpoint_is_refused(plain: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = replace(Checkpoint.load(str(plain), revision=None), quantised="fp8", is_part=True)
    monkeypatch.setattr(Checkpoint, "load", lambda *_, **__: found)
    with pytest.raises(ModelError, match=r"by 'fp8', and its thinker cannot be loaded so by itself: take .* vllm\."):
        TransformersEngine(str(plain), device="cpu")


@pytest.mark.skipif(tiny_checkpoints.RELEASE < tiny_checkpoints.TRIED, reason="Transformers fails before it loads")
def test_fp8_as_released_runs_on_a_cpu(plain: Path, tmp_path: Path) -> None:
    folder = Path(
        quantised(
            plain,
            tmp_path / "q",
            quant_method="fp8",
            activation_scheme="dynamic",
            weight_block_size=[128, 128],
            modules_to_not_convert=["lm_head", "model.visual"],
        )
    )
    weights = load_file(folder / "model.safetensors")
    for name, weight in list(weights.items()):
        if ".layers." in name and name.endswith("proj.weight"):
            assert max(weight.shape) <= 128  # each is a block
            scale = weight.float().abs().max() / torch.finfo(torch.float8_e4m3fn).max
            weights[name] = (weight.float() / scale).to(torch.float8_e4m3fn)
            weights[f"{name}_scale_inv"] = scale[None, None]
    assert any("scale" in name for name in weights)
    save_file(weights, folder / "model.safetensors", {"format": "pt"})
    engine = TransformersEngine(str(folder), device="cpu")
    whole = AutoModelForMultimodalLM.from_pretrained(plain, dtype=torch.float32)
    ids = torch.arange(20)[None]
    with torch.inference_mode():
        ours, theirs = engine._model(input_ids=ids).logits, whole(input_ids=ids).logits
    assert 0 < (ours - theirs).std() < 0.15 * theirs.std()  # bare numbers without their scales are far off


class _Odd(torch.nn.Parameter):
    """As torchao has them: a linear layer of the usual class, whose weights are no usual ones."""


def test_quantised_weights_of_a_vision_encoder_keep_their_order(plain: Path) -> None:
    model = AutoModelForMultimodalLM.from_pretrained(plain, dtype=torch.float32)
    attention = model.model.visual.blocks[0].attn
    attention.qkv.weight = _Odd(attention.qkv.weight.detach().clone())
    before = attention.qkv.weight.detach().clone()
    speed_up_vision(model)
    assert torch.equal(attention.qkv.weight, before)
    assert "forward" not in attention.__dict__
    assert "forward" in model.model.visual.blocks[1].attn.__dict__


@pytest.mark.parametrize(
    ("told", "size"),
    [
        (None, 2),
        ({"quant_method": "fp8"}, 1),
        ({"quant_method": "awq", "bits": 4}, 0.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": True, "load_in_8bit": False}, 0.5),
        ({"quant_method": "bitsandbytes", "load_in_4bit": False, "load_in_8bit": True}, 1),
        ({"quant_method": "compressed-tensors", "config_groups": {"group_0": {"weights": {"num_bits": 4}}}}, 0.5),
        ({"quant_method": "mxfp4"}, 0.5),
        ({"quant_method": "something new"}, 2),
    ],
)
def test_a_plan_knows_the_bytes_of_a_weight(told: dict[str, Any] | None, size: float) -> None:
    assert _bytes_each({"quantization_config": told}) == size
