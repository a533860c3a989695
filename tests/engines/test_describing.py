"""What a checkpoint's processor shows when it is asked, and what is refused."""

from pathlib import Path
from typing import Any

import pytest
import tiny_checkpoints
import torch
from generating import SHAPES
from transformers import AutoProcessor, BatchFeature, Qwen2Config, Qwen3VLProcessor

from reelscribe.engines.checkpoint import Checkpoint
from reelscribe.engines.describing import describe
from reelscribe.errors import ModelError
from reelscribe.video.sampling import OwnSize

_IMAGES = (
    "{%- for m in messages -%}{%- for p in m.content -%}{{ '<|image_pad|>' if p.type == 'image' else p.text }}"
    "{%- endfor -%}{%- endfor -%}"
)


@pytest.fixture
def processor() -> Any:
    return AutoProcessor.from_pretrained(SHAPES)


def changed(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    """Let the processor of Qwen3-VL make something else of a video."""
    make = Qwen3VLProcessor.__call__

    def call(self: Any, **kwargs: Any) -> BatchFeature:
        size = kwargs["videos"][0].shape
        made = make(self, **kwargs)
        for name, change in changes.items():
            made[name] = change(made[name], size)
        return made

    monkeypatch.setattr(Qwen3VLProcessor, "__call__", call)


def test_what_qwen3_vl_shows(processor: Any) -> None:
    family = describe(processor)
    assert (family.times, family.bare, family.system, family.opening) == ("words", True, "parts", "")
    assert processor.tokenizer.convert_ids_to_tokens(family.placeholder) == "<|video_pad|>"
    assert family.kinds == {"mm_token_type_ids": {family.placeholder: 2}}
    assert family.cut
    assert (family.cut.patch, family.cut.merge, family.cut.temporal) == (16, 2, 2)


def test_a_processor_that_is_none_for_videos(processor: Any) -> None:
    with pytest.raises(ModelError, match="it takes no videos with this Transformers: its processor is a "):
        describe(processor.tokenizer)


def test_a_model_without_video_is_shown_images_if_nobody_asks_for_videos(processor: Any) -> None:
    processor.video_token = None
    processor.chat_template = _IMAGES
    family = describe(processor)
    assert family.stills
    assert family.stills.image == "<|image_pad|>"
    assert (family.times, family.limits.temporal_patch) == ("words", 1)
    with pytest.raises(ModelError, match=r"its processor is a Qwen3VLProcessor\. It takes images: leave show out\."):
        describe(processor, show="video")


def test_a_template_without_an_image(processor: Any) -> None:
    processor.chat_template = "{{ messages[0].role }}"
    with pytest.raises(ModelError, match="its chat template has no place for an image"):
        describe(processor, show="images")


def test_a_template_that_numbers_images(processor: Any) -> None:
    processor.chat_template = _IMAGES.replace("'<|image_pad|>'", "'Picture ' ~ loop.index ~ '<|image_pad|>'")
    with pytest.raises(ModelError, match="or writes several in another way than one"):
        describe(processor, show="images")


@pytest.mark.model_packages
@pytest.mark.skipif("smolvlm" not in tiny_checkpoints.NAMES, reason="this Transformers does not run it")
def test_of_an_image_that_is_not_cut_up_less_is_of_use(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("smolvlm", tmp_path / "model")
    limits = Checkpoint.load(str(folder), revision=None, show="images").limits
    assert limits.own_size == OwnSize(pixels=56, frame_tokens=4)


def test_a_limit_on_sides_of_images(tmp_path: Path) -> None:
    limits = Checkpoint.load(str(tiny_checkpoints.make("mistral3", tmp_path / "model")), revision=None).limits
    assert (limits.token_pixels, limits.longest_side, limits.own_size) == (28, 280, None)


def test_a_template_without_a_video(processor: Any) -> None:
    processor.chat_template = "{{ messages[0].role }}"
    with pytest.raises(ModelError, match=r"its chat template has no <\|video_pad\|> for a video"):
        describe(processor)


def test_a_processor_that_swallows_the_video(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def swallow(self: Any, *, text: list[str], **_: Any) -> Any:
        return self.tokenizer(text, return_tensors="pt")

    monkeypatch.setattr(Qwen3VLProcessor, "__call__", swallow)
    with pytest.raises(ModelError, match="its processor, a Qwen3VLProcessor, drops the video"):
        describe(processor)


def test_frames_whose_cost_follows_no_known_rule(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def odd(ids: torch.Tensor, size: tuple[int, ...]) -> torch.Tensor:
        return torch.cat([ids, torch.full((1, size[2] % 7), processor.video_token_id)], 1)

    make = Qwen3VLProcessor.__call__
    monkeypatch.setattr(
        Qwen3VLProcessor,
        "__call__",
        lambda self, **kwargs: make(self, **kwargs, return_mm_token_type_ids=False),
    )
    changed(monkeypatch, input_ids=odd)
    with pytest.raises(ModelError, match="changes the size of frames by a rule that is not known here"):
        describe(processor)


def test_pixels_that_are_not_ours_are_left_to_the_processor(processor: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    changed(monkeypatch, pixel_values_videos=lambda pixels, _: pixels * 1.01)
    assert describe(processor).cut is None


@pytest.mark.parametrize(
    ("template", "form"),
    [
        ("{{ m.content if m.content is string else m.content[0].text }}", "parts"),
        ("{{ m.content }}", "text"),
        ("{{ '' if m.role == 'system' else 'What?' }}", "question"),
        ("{{ raise_exception('no system') if m.role == 'system' else 'What?' }}", "question"),
    ],
)
def test_the_form_of_a_system_prompt_is_the_one_that_survives(processor: Any, template: str, form: str) -> None:
    video = "{%- for p in m.content if p.type == 'video' -%}<|video_pad|>{%- endfor -%}"
    processor.chat_template = f"{{%- for m in messages -%}}{template}{video}{{%- endfor -%}}"
    assert describe(processor).system == form


def test_a_checkpoint_that_is_refused_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise ModelError("it takes no videos.")

    monkeypatch.setattr("reelscribe.engines.describing.describe", refuse)
    with pytest.raises(ModelError, match=r"the model 'shapes', a qwen3_vl, cannot be used: it takes no videos\."):
        Checkpoint.load("shapes", revision=None)


def test_a_constant_a_frame_is_the_checkpoint_s_own(tmp_path: Path) -> None:
    folder = tiny_checkpoints.make("llava_onevision", tmp_path / "model")
    limits = Checkpoint.load(str(folder), revision=None).limits
    assert limits.own_size == OwnSize(pixels=56, frame_tokens=4, clip_tokens=1)


def test_a_context_that_is_stretched_counts_as_such() -> None:
    """As Qwen2.5's configurations have it, beside the length before."""
    rope = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 32768, "rope_theta": 1e6}
    for parameters, context in (({}, 32768), ({"rope_parameters": rope}, 131072)):
        config = Qwen2Config(max_position_embeddings=32768, **parameters)
        made = Checkpoint(path="", revision=None, config=config, processor=None, family=None)  # type: ignore[arg-type]
        assert made.context == context
