"""Tiny checkpoints of many families: their own classes, with real processors and random weights."""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import transformers
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, PreTrainedTokenizerFast

_CORPUS: Final = [
    "A small red circle moves left on a white background, then stops.",
    "Describe this video. user assistant system <0.3 seconds> Frame1: Time 1.0s: seconds 00:01 think",
] * 50
_QWEN: Final = (
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
)
_CHATML: Final = (
    "{%- for m in messages -%}{{- '<|im_start|>' + m.role + '\n' -}}{%- if m.content is string -%}{{- m.content -}}"
    "{%- else -%}{%- for p in m.content -%}{%- if p.type == 'video' -%}{{- VIDEO -}}{%- elif p.type == 'image' -%}"
    "{{- IMAGE -}}{%- else -%}{{- p.text -}}{%- endif -%}{%- endfor -%}{%- endif -%}{{- '<|im_end|>\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\n' -}}{%- endif -%}"
)
_GLM: Final = (
    "[gMASK]<sop>\n{%- for m in messages -%}{{- '<|' + m.role + '|>\n' -}}{%- if m.content is string -%}"
    "{{- m.content -}}{%- else -%}{%- for p in m.content -%}{%- if p.type == 'video' -%}"
    "{{- '<|begin_of_video|><|video|><|end_of_video|>' -}}{%- else -%}{{- p.text -}}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{%- endfor -%}{%- if add_generation_prompt -%}{{- '<|assistant|>\n' -}}{%- endif -%}"
)
_GEMMA: Final = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '<|turn>' + m.role + '\n' -}}{%- if m.content is string -%}"
    "{{- m.content|trim -}}{%- elif m.role == 'system' -%}{{- m.content|trim -}}{%- else -%}{%- for p in m.content -%}"
    "{%- if p.type == 'video' -%}{{- '<|video|>' -}}{%- else -%}{{- p.text|trim -}}{%- endif -%}{%- endfor -%}"
    "{%- endif -%}{{- '<turn|>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|turn>model\n' -}}{%- endif -%}"
)
"""As Gemma 4's it takes a system prompt as text alone."""
_GEMMA3: Final = (
    "{{- bos_token -}}{%- set first = messages[0] -%}"
    "{%- set opening = first.content[0].text + '\n\n' if first.role == 'system' else '' -%}"
    "{%- for m in messages if m.role != 'system' -%}{{- '<start_of_turn>' + m.role + '\n' + opening -}}"
    "{%- for p in m.content -%}{%- if p.type == 'image' -%}{{- '<start_of_image>' -}}{%- else -%}{{- p.text|trim -}}"
    "{%- endif -%}{%- endfor -%}{{- '<end_of_turn>\n' -}}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<start_of_turn>model\n' -}}{%- endif -%}"
)
_LLAVA: Final = (
    "{%- for m in messages -%}{{- '' if m.role == 'system' else m.role.upper() + ': ' -}}"
    "{%- for p in m.content if p.type == 'image' -%}{{- '<image>\n' -}}{%- endfor -%}"
    "{%- for p in m.content if p.type == 'text' -%}{{- p.text + ' ' -}}{%- endfor -%}{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- 'ASSISTANT:' -}}{%- endif -%}"
)
"""As LLaVA 1.5's it puts images before all text."""
_MISTRAL: Final = (
    "{{- bos_token -}}{%- for m in messages -%}{{- '[SYSTEM_PROMPT]' if m.role == 'system' else '[INST]' -}}"
    "{%- for p in m.content -%}{{- '[IMG]' if p.type == 'image' else p.text -}}{%- endfor -%}"
    "{{- '[/SYSTEM_PROMPT]' if m.role == 'system' else '[/INST]' -}}{%- endfor -%}"
)
_TEXT: Final[Mapping[str, Any]] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-2,  # the norm of what happens to be small would magnify rounding
}
_VISION: Final[Mapping[str, Any]] = {"depth": 2, "hidden_size": 32, "intermediate_size": 48, "num_heads": 2}
_TOWER: Final[Mapping[str, Any]] = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}
_VISION_QWEN3: Final[Mapping[str, Any]] = {
    **_VISION,
    "patch_size": 16,
    "spatial_merge_size": 2,
    "temporal_patch_size": 2,
    "out_hidden_size": 64,
    "num_position_embeddings": 64,
}
_DEEP: Final[Mapping[str, Any]] = {**_VISION_QWEN3, "deepstack_visual_indexes": [0, 1]}
_EXPERTS: Final[Mapping[str, Any]] = {"num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 32}
_LINEAR: Final[Mapping[str, Any]] = {
    "num_hidden_layers": 4,
    "layer_types": ["linear_attention"] * 3 + ["full_attention"],
    "head_dim": 16,
    "linear_conv_kernel_dim": 4,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "linear_num_key_heads": 2,
    "linear_num_value_heads": 4,
}

Made = tuple[Any, Any, Mapping[str, Any]]
"""A model, its processor, and its ids for the end and for padding."""


def _tokenizer(special: Sequence[str], *, eos: str, pad: str, **more: Any) -> Any:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420,
        min_frequency=2,
        special_tokens=list(special),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator(_CORPUS, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=made, eos_token=eos, pad_token=pad, model_max_length=32768, **more)


def _qwen_tokenizer(*more: str, **named: Any) -> tuple[Any, dict[str, int], dict[str, int]]:
    """A tokenizer, the ids of its ends, and those of a video."""
    tokenizer = _tokenizer([*_QWEN, *more], eos="<|im_end|>", pad="<|endoftext|>", **named)
    names = ("image_pad", "video_pad", "vision_start", "vision_end")
    image, video, start, end = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names)
    return (
        tokenizer,
        {"bos_token_id": 0, "eos_token_id": tokenizer.eos_token_id, "pad_token_id": 0},
        {
            "image_token_id": image,
            "video_token_id": video,
            "vision_start_token_id": start,
            "vision_end_token_id": end,
        },
    )


def _chatml(video: str, image: str = "") -> str:
    return _CHATML.replace("VIDEO", repr(video)).replace("IMAGE", repr(image))


_FILES: Final = tempfile.TemporaryDirectory()
_QWEN_TEMPLATE: Final = _chatml(*(f"<|vision_start|><|{kind}_pad|><|vision_end|>" for kind in ("video", "image")))
_OMNI_TEMPLATE: Final = _QWEN_TEMPLATE.replace(
    "{%- else -%}{{- p.text -}}",
    "{%- elif p.type == 'audio' -%}{{- '<|audio_start|><|audio_pad|><|audio_end|>' -}}{%- else -%}{{- p.text -}}",
)


def _rope(*sections: int, interleaved: bool = False, **more: Any) -> dict[str, Any]:
    held = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": list(sections), **more}
    return {**held, "mrope_interleaved": True} if interleaved else held


def _image_processor(side: int, patch: int) -> Any:
    from transformers.models.qwen2_vl import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(
        size={"shortest_edge": side**2, "longest_edge": 64 * side**2}, patch_size=patch, merge_size=2
    )


def _qwen3_processor(tokenizer: Any, name: str = "Qwen3VLProcessor") -> Any:
    video = transformers.Qwen3VLVideoProcessor(
        size={"shortest_edge": 2 * 32**2, "longest_edge": 128 * 32**2}, min_frames=4, max_frames=32, max_video_tokens=64
    )
    kind = getattr(transformers, name)
    return kind(_image_processor(32, 16), tokenizer, video, chat_template=_QWEN_TEMPLATE)


def _qwen3(name: str, text: Mapping[str, Any], vision: Mapping[str, Any], *words: str) -> Made:
    """A model of Qwen3-VL's layout."""
    tokenizer, ends, ids = _qwen_tokenizer(*words)
    config = getattr(transformers, f"{name}Config")(
        text_config={**_TEXT, "vocab_size": len(tokenizer), **text, **ends}, vision_config=vision, **ids
    )
    return getattr(transformers, f"{name}ForConditionalGeneration")(config), _qwen3_processor(tokenizer), ends


def _qwen3_vl() -> Made:
    return _qwen3("Qwen3VL", {"head_dim": 16, "rope_parameters": _rope(3, 3, 2, interleaved=True)}, _DEEP)


def _qwen3_vl_moe() -> Made:
    text = {"head_dim": 16, "rope_parameters": _rope(3, 3, 2, interleaved=True), **_EXPERTS}
    return _qwen3("Qwen3VLMoe", text, _DEEP)


_ROPE_QWEN3_5: Final = _rope(2, 1, 1, interleaved=True, partial_rotary_factor=0.5)


def _qwen3_5() -> Made:
    text = {**_LINEAR, "rope_parameters": _ROPE_QWEN3_5}
    return _qwen3("Qwen3_5", text, _VISION_QWEN3, "<think>", "</think>")


def _qwen3_5_moe() -> Made:
    text = {**_LINEAR, **_EXPERTS, "shared_expert_intermediate_size": 32, "rope_parameters": _ROPE_QWEN3_5}
    return _qwen3("Qwen3_5Moe", text, _VISION_QWEN3, "<think>", "</think>")


def _qwen2_5_vl() -> Made:
    tokenizer, ends, ids = _qwen_tokenizer()
    video = transformers.Qwen2VLVideoProcessor(size={"shortest_edge": 2 * 28**2, "longest_edge": 64 * 28**2})
    processor = transformers.Qwen2_5_VLProcessor(
        _image_processor(28, 14), tokenizer, video, chat_template=_QWEN_TEMPLATE
    )
    config = transformers.Qwen2_5_VLConfig(
        text_config={**_TEXT, "vocab_size": len(tokenizer), "rope_parameters": _rope(2, 3, 3), **ends},
        vision_config={**_VISION, "out_hidden_size": 64, "fullatt_block_indexes": [1], "window_size": 56},
        **ids,
    )
    return transformers.Qwen2_5_VLForConditionalGeneration(config), processor, ends


def _qwen3_omni() -> Made:
    named = {"audio": "<|audio_pad|>", "audio_bos": "<|audio_start|>", "audio_eos": "<|audio_end|>"}
    seen = {"image": "<|image_pad|>", "video": "<|video_pad|>"}
    pair = {"vision_bos": "<|vision_start|>", "vision_eos": "<|vision_end|>"}
    extra = {f"{name}_token": token for name, token in {**named, **seen, **pair}.items()}
    tokenizer, ends, ids = _qwen_tokenizer(*named.values(), extra_special_tokens=extra)
    video = transformers.Qwen2VLVideoProcessor(
        size={"shortest_edge": 2 * 32**2, "longest_edge": 64 * 32**2}, patch_size=16, merge_size=2
    )
    sound = transformers.WhisperFeatureExtractor(feature_size=128)
    processor = transformers.Qwen3OmniMoeProcessor(
        _image_processor(32, 16), video, sound, tokenizer, chat_template=_OMNI_TEMPLATE
    )
    rope = _rope(3, 3, 2, interleaved=True)
    config = transformers.Qwen3OmniMoeThinkerConfig(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "rope_parameters": rope,
            **_EXPERTS,
            **ends,
        },
        vision_config=dict(_DEEP),
        audio_config={
            "d_model": 32,
            "encoder_layers": 1,
            "encoder_attention_heads": 2,
            "encoder_ffn_dim": 48,
            "output_dim": 64,
            "n_window": 50,
            "downsample_hidden_size": 16,
        },
        audio_token_id=tokenizer.convert_tokens_to_ids("<|audio_pad|>"),
        audio_start_token_id=tokenizer.convert_tokens_to_ids("<|audio_start|>"),
        audio_end_token_id=tokenizer.convert_tokens_to_ids("<|audio_end|>"),
        position_id_per_seconds=13,
        **ids,
    )
    return transformers.Qwen3OmniMoeThinkerForConditionalGeneration(config), processor, ends


def _glm(kind: str, processor: str, text: Mapping[str, Any], **vision: Any) -> Made:
    tokens = ("image", "video", "begin_of_image", "end_of_image", "begin_of_video", "end_of_video")
    special = ["<|endoftext|>", "[gMASK]", "<sop>", "<|system|>", "<|user|>", "<|assistant|>"]
    tokenizer = _tokenizer([*special, *(f"<|{name}|>" for name in tokens)], eos="<|endoftext|>", pad="<|endoftext|>")
    names = ("image", "video", "image_start", "image_end", "video_start", "video_end")
    ids = {
        f"{name}_token_id": tokenizer.convert_tokens_to_ids(f"<|{token}|>")
        for name, token in zip(names, tokens, strict=True)
    }
    size = {"shortest_edge": 28**2, "longest_edge": 128 * 28**2}
    video = getattr(transformers, f"{processor}VideoProcessor")(size=size)
    image = getattr(transformers, f"{processor}ImageProcessor")(size=size)
    made = getattr(transformers, f"{processor}Processor")(image, tokenizer, video, chat_template=_GLM)
    ends = {"eos_token_id": [0, tokenizer.convert_tokens_to_ids("<|user|>")], "pad_token_id": 0}
    rope = _rope(2, 1, 1, partial_rotary_factor=0.5)
    config = getattr(transformers, f"{kind}Config")(
        text_config={**_TEXT, "vocab_size": len(tokenizer), "pad_token_id": 0, "rope_parameters": rope, **text},
        vision_config={**_VISION, "out_hidden_size": 64, "image_size": 56, **vision},
        **ids,
    )
    return getattr(transformers, f"{kind}ForConditionalGeneration")(config), made, ends


def _glm4v() -> Made:
    return _glm("Glm4v", "Glm4v", {})


def _glm4v_moe() -> Made:
    experts = {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 32,
        "n_shared_experts": 1,
        "first_k_dense_replace": 1,
        "n_group": 1,
        "topk_group": 1,
    }
    return _glm("Glm4vMoe", "Glm4v", {"head_dim": 16, **experts})


def _glm46v() -> Made:
    return _glm("Glm46V", "Glm46V", {"model_type": "glm4v_text"}, model_type="glm4v_vision")


def _video_llama_3() -> Made:
    tokenizer, ends, ids = _qwen_tokenizer()
    size = {"shortest_edge": 28**2, "longest_edge": 128 * 28**2}
    processor = transformers.VideoLlama3Processor(
        transformers.VideoLlama3ImageProcessor(size=size),
        tokenizer,
        transformers.VideoLlama3VideoProcessor(size=size),
        chat_template=_chatml("<|video_pad|>"),
    )
    config = transformers.VideoLlama3Config(
        text_config={**_TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer), **ends},
        vision_config={**_TOWER, "patch_size": 14},
        image_token_id=ids["image_token_id"],
        video_token_id=ids["video_token_id"],
    )
    return transformers.VideoLlama3ForConditionalGeneration(config), processor, ends


def _lfm3_vl() -> Made:
    tokenizer, ends, ids = _qwen_tokenizer()
    config = transformers.Lfm3VlConfig(
        text_config={
            **_TEXT,
            "model_type": "lfm3",
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 4,
            "head_dim": 16,
            "conv_L_cache": 3,
            "sliding_window": 64,
            **ends,
        },
        vision_config={**_TOWER, "num_key_value_heads": 2},
        projector_hidden_size=48,
        **ids,
    )
    return transformers.Lfm3VlForConditionalGeneration(config), _qwen3_processor(tokenizer, "Lfm3VlProcessor"), ends


def _internvl() -> Made:
    from transformers.models.got_ocr2 import GotOcr2ImageProcessor

    named = {"start_image": "<img>", "end_image": "</img>", "context_image": "<IMG_CONTEXT>", "video": "<video>"}
    tokenizer, ends, _ = _qwen_tokenizer(
        *named.values(), extra_special_tokens={f"{name}_token": token for name, token in named.items()}
    )
    size = {"height": 56, "width": 56}
    processor = transformers.InternVLProcessor(
        GotOcr2ImageProcessor(size=size),
        tokenizer,
        transformers.InternVLVideoProcessor(size=size),
        image_seq_length=4,
        chat_template=_chatml("<video>\n", "<IMG_CONTEXT>\n"),
    )
    config = transformers.InternVLConfig(
        text_config={**_TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer), **ends},
        vision_config={**_TOWER, "image_size": [56, 56], "patch_size": [14, 14]},
        image_token_id=tokenizer.convert_tokens_to_ids("<IMG_CONTEXT>"),
        image_seq_length=4,
    )
    return transformers.InternVLForConditionalGeneration(config), processor, ends


def _llava_ids(tokenizer: Any) -> dict[str, Any]:
    return {
        "image_token_index": tokenizer.convert_tokens_to_ids("<image>"),
        "video_token_index": tokenizer.convert_tokens_to_ids("<video>"),
        "image_grid_pinpoints": [[56, 56]],
    }


def _llava_onevision() -> Made:
    tokenizer, ends, _ = _qwen_tokenizer("<image>", "<video>")
    size = {"height": 56, "width": 56}
    processor = transformers.LlavaOnevisionProcessor(
        transformers.LlavaOnevisionImageProcessor(size=size, image_grid_pinpoints=[[56, 56]]),
        tokenizer,
        transformers.LlavaOnevisionVideoProcessor(size=size),
        num_image_tokens=16,
        vision_feature_select_strategy="full",
        chat_template=_chatml("<video>\n"),
    )
    config = transformers.LlavaOnevisionConfig(
        text_config={**_TEXT, "model_type": "qwen2", "vocab_size": len(tokenizer), **ends},
        vision_config={
            **_TOWER,
            "model_type": "siglip_vision_model",
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        **_llava_ids(tokenizer),
    )
    return transformers.LlavaOnevisionForConditionalGeneration(config), processor, ends


def _llava_next_video() -> Made:
    from transformers.models.llava_next import LlavaNextImageProcessor

    tokenizer, ends, _ = _qwen_tokenizer("<image>", "<video>")
    size: dict[str, Any] = {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}
    processor = transformers.LlavaNextVideoProcessor(
        image_processor=LlavaNextImageProcessor(**size, image_grid_pinpoints=[[56, 56]]),
        tokenizer=tokenizer,
        video_processor=transformers.LlavaNextVideoVideoProcessor(**size),
        patch_size=14,
        vision_feature_select_strategy="default",
        chat_template=_chatml("<video>\n"),
    )
    config = transformers.LlavaNextVideoConfig(
        text_config={**_TEXT, "model_type": "llama", "vocab_size": len(tokenizer), **ends},
        vision_config={
            **_TOWER,
            "model_type": "clip_vision_model",
            "num_hidden_layers": 3,
            "image_size": 56,
            "patch_size": 14,
            "projection_dim": 32,
        },
        spatial_pool_stride=2,
        **_llava_ids(tokenizer),
    )
    return transformers.LlavaNextVideoForConditionalGeneration(config), processor, ends


def _molmo2() -> Made:
    marks = ("<im_patch>", "<im_col>", "<im_start>", "<low_res_im_start>", "<frame_start>", "<im_end>", "<frame_end>")
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    tokenizer, ends, _ = _qwen_tokenizer(
        *named.values(), *marks, "<im_low>", extra_special_tokens=named, bos_token="<|endoftext|>"
    )
    size = {"height": 84, "width": 84}
    processor = transformers.Molmo2Processor(
        transformers.Molmo2ImageProcessor(size=size),
        transformers.Molmo2VideoProcessor(size=size),
        tokenizer,
        chat_template=_chatml("<|video|>"),
    )
    names = ("image_patch", "", "image_start", "low_res_image_start", "frame_start", "image_end", "frame_end")
    ids = {f"{name}_token_id": mark for name, mark in zip(names, marks, strict=True) if name}
    ids["image_patch_id"] = ids.pop("image_patch_token_id")
    small = {"hidden_size": 32, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
    config = transformers.Molmo2Config(
        text_config={**_TEXT, "vocab_size": len(tokenizer), "additional_vocab_size": 8, "head_dim": 16},
        vision_config={**_TOWER, **small, "image_size": [84, 84], "num_position_embeddings": 36},
        adapter_config={**small, "intermediate_size": 48, "text_hidden_size": 64, "vision_feature_layer": [-1, -2]},
        **{name: tokenizer.convert_tokens_to_ids(mark) for name, mark in ids.items()},
    )
    return transformers.Molmo2ForConditionalGeneration(config), processor, ends


def _gemma4(**text: Any) -> Made:
    named = {
        "image_token": "<|image|>",
        "boi_token": "<|image>",
        "eoi_token": "<image|>",
        "audio_token": "<|audio|>",
        "boa_token": "<|audio>",
        "eoa_token": "<audio|>",
    }
    special = ["<pad>", "<eos>", "<bos>", "<|turn>", "<turn|>", "<|video|>", *named.values()]
    tokenizer = _tokenizer(special, eos="<eos>", pad="<pad>", bos_token="<bos>", extra_special_tokens=named)
    processor = transformers.Gemma4Processor(
        transformers.Gemma4AudioFeatureExtractor(),
        transformers.Gemma4ImageProcessor(max_soft_tokens=70),
        tokenizer,
        transformers.Gemma4VideoProcessor(max_soft_tokens=70),
        chat_template=_GEMMA,
        image_seq_length=70,
    )
    token = tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": [1, token("<turn|>")], "pad_token_id": 0, "bos_token_id": 2}
    config = transformers.Gemma4Config(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 6,
            "head_dim": 16,
            "global_head_dim": 32,
            "sliding_window": 16,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2,
            "vocab_size_per_layer_input": len(tokenizer),
            "final_logit_softcapping": 30.0,
            **{**ends, "eos_token_id": 1},
            **text,
        },
        vision_config={
            **_TOWER,
            "num_key_value_heads": 2,
            "head_dim": 16,
            "global_head_dim": 16,
            "default_output_length": 70,
        },
        audio_config=None,
        video_token_id=token("<|video|>"),
        image_token_id=token("<|image|>"),
        audio_token_id=token("<|audio|>"),
        boi_token_id=token("<|image>"),
        eoi_token_id=token("<image|>"),
        boa_token_id=token("<|audio>"),
        eoa_token_index=token("<audio|>"),
    )
    return transformers.Gemma4ForConditionalGeneration(config), processor, ends


def _gemma4_small() -> Made:
    """Its last layers borrow keys."""
    return _gemma4(hidden_size_per_layer_input=8, num_kv_shared_layers=2, use_bidirectional_attention=None)


def _gemma4_large() -> Made:
    """It looks both ways over frames."""
    return _gemma4(
        hidden_size_per_layer_input=0,
        num_kv_shared_layers=0,
        use_bidirectional_attention="vision",
        attention_k_eq_v=True,
        num_global_key_value_heads=1,
    )


def _kimi_k2_5() -> Made:
    names = ("media_begin", "media_content", "media_end", "media_pad", "kimi_k25_video_placeholder")
    tokenizer, ends, _ = _qwen_tokenizer(*(f"<|{name}|>" for name in names))
    processor = transformers.Kimi_K25Processor(
        transformers.Kimi_K25ImageProcessor(),
        tokenizer,
        transformers.Kimi_K25VideoProcessor(),
        chat_template=_chatml("<|kimi_k25_video_placeholder|>"),
    )
    begin, _, end, pad, video = (tokenizer.convert_tokens_to_ids(f"<|{name}|>") for name in names)
    text = {
        "model_type": "deepseek_v3",
        "num_key_value_heads": 4,
        "moe_intermediate_size": 32,
        "n_routed_experts": 4,
        "n_group": 1,
        "topk_group": 1,
        "num_experts_per_tok": 2,
        "first_k_dense_replace": 1,
        "kv_lora_rank": 16,
        "q_lora_rank": 24,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 12,
        "num_mtp_layers": 0,
    }
    config = transformers.Kimi_K25Config(
        text_config={**_TEXT, "vocab_size": len(tokenizer), **text, **ends},
        vision_config={**_TOWER, "pos_emb_height": 8, "pos_emb_width": 8},
        projection_hidden_size=32,
        image_token_id=pad,
        video_token_id=video,
        vision_start_token_id=begin,
        vision_end_token_id=end,
    )
    return transformers.Kimi_K25ForConditionalGeneration(config), processor, ends


def _ernie4_5_vl() -> Made:
    from PIL import ImageFont

    named = {
        "image_token": "<|image@placeholder|>",
        "image_start_token": "<|IMAGE_START|>",
        "image_end_token": "<|IMAGE_END|>",
        "video_token": "<|video@placeholder|>",
        "video_start_token": "<|VIDEO_START|>",
        "video_end_token": "<|VIDEO_END|>",
    }
    tokenizer, ends, _ = _qwen_tokenizer(*named.values(), extra_special_tokens=named)
    size = {"shortest_edge": 28**2, "longest_edge": 64 * 28**2}
    font = Path(_FILES.name) / "digits.ttf"
    font.write_bytes(ImageFont.load_default(10).font_bytes)  # type: ignore[union-attr]
    processor = transformers.Ernie4_5_VLMoeProcessor(
        transformers.Ernie4_5_VLMoeImageProcessor(size=size),
        tokenizer,
        transformers.Ernie4_5_VLMoeVideoProcessor(size=size, font=str(font)),
        chat_template=_chatml("<|VIDEO_START|><|video@placeholder|><|VIDEO_END|>"),
    )
    config = transformers.Ernie4_5_VLMoeConfig(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "moe_intermediate_size": [32, 16],
            "moe_k": 2,
            "moe_num_experts": 4,
            "moe_num_shared_experts": 1,
            "rope_parameters": _rope(3, 3, 2),
            **ends,
        },
        vision_config=dict(_VISION),
        **{f"{name}_id": tokenizer.convert_tokens_to_ids(token) for name, token in named.items()},
    )
    return transformers.Ernie4_5_VLMoeForConditionalGeneration(config), processor, ends


def _smolvlm() -> Made:
    from transformers.models.smolvlm import SmolVLMImageProcessor
    from transformers.models.smolvlm.processing_smolvlm import DEFAULT_CHAT_TEMPLATE

    named = {
        "image_token": "<image>",
        "fake_image_token": "<fake_token_around_image>",
        "global_image_token": "<global-img>",
        "end_of_utterance_token": "<end_of_utterance>",
        "video_token": "<video>",
    }
    tokenizer, ends, _ = _qwen_tokenizer(*named.values(), extra_special_tokens=named)
    size = {"longest_edge": 56}
    sampling = {"max_frames": 16, "fps": 1, "video_size": size}
    processor = transformers.SmolVLMProcessor(
        SmolVLMImageProcessor(size={"longest_edge": 112}, max_image_size=size),
        tokenizer,
        transformers.SmolVLMVideoProcessor(size=size, max_image_size=size, video_sampling=sampling),
        image_seq_len=4,
        chat_template=DEFAULT_CHAT_TEMPLATE,
    )
    config = transformers.SmolVLMConfig(
        text_config={**_TEXT, "model_type": "llama", "vocab_size": len(tokenizer), **ends},
        vision_config={**_TOWER, "image_size": 56, "patch_size": 14},
        image_token_id=tokenizer.convert_tokens_to_ids("<image>"),
        scale_factor=2,
        pad_token_id=0,
    )
    return transformers.SmolVLMForConditionalGeneration(config), processor, ends


def _perception_lm() -> Made:
    named = {"image_token": "<|image|>", "video_token": "<|video|>"}
    tokenizer, ends, _ = _qwen_tokenizer(*named.values(), extra_special_tokens=named)
    processor = transformers.PerceptionLMProcessor(
        transformers.PerceptionLMVideoProcessor(size={"height": 56, "width": 56}),
        transformers.PerceptionLMImageProcessor(tile_size=56, max_num_tiles=4),
        tokenizer,
        patch_size=14,
        pooling_ratio=2,
        chat_template=_chatml("<|video|>", "<|image|>"),
    )
    tower = transformers.TimmWrapperConfig(
        architecture="vit_pe_core_large_patch14_336",
        model_args={
            "embed_dim": 32,
            "depth": 2,
            "num_heads": 2,
            "img_size": (56, 56),
            "global_pool": "",
            "use_post_transformer_norm": False,
            "init_values": 0.1,
            "ref_feat_shape": (4, 4),
        },
    )
    config = transformers.PerceptionLMConfig(
        text_config={**_TEXT, "model_type": "llama", "vocab_size": len(tokenizer), **ends},
        vision_config=tower.to_dict(),
        projector_pooling_ratio=2,
        vision_use_cls_token=True,
        image_token_id=tokenizer.convert_tokens_to_ids("<|image|>"),
        video_token_id=tokenizer.convert_tokens_to_ids("<|video|>"),
    )
    return transformers.PerceptionLMForConditionalGeneration(config), processor, ends


def _minicpm_v4_6() -> Made:
    named = {
        "image_token": "<|image_pad|>",
        "video_token": "<|video_pad|>",
        "image_start_token": "<image>",
        "image_end_token": "</image>",
        "slice_start_token": "<slice>",
        "slice_end_token": "</slice>",
        "image_id_start_token": "<image_id>",
        "image_id_end_token": "</image_id>",
    }
    tokenizer, ends, ids = _qwen_tokenizer(*list(named.values())[2:], extra_special_tokens=named)
    processor = transformers.MiniCPMV4_6Processor(
        transformers.MiniCPMV4_6ImageProcessor(scale_resolution=168),
        transformers.MiniCPMV4_6VideoProcessor(scale_resolution=168),
        tokenizer,
        chat_template=_chatml("<|video_pad|>", "<|image_pad|>"),
    )
    config = transformers.MiniCPMV4_6Config(
        text_config={
            **_TEXT,
            **_LINEAR,
            "model_type": "qwen3_5_text",
            "vocab_size": len(tokenizer),
            "rope_parameters": _ROPE_QWEN3_5,
            **ends,
        },
        vision_config={**_TOWER, "num_hidden_layers": 3, "image_size": 168, "patch_size": 14, "insert_layer_id": 1},
        insert_layer_id=1,
        image_size=168,
        image_token_id=ids["image_token_id"],
        video_token_id=ids["video_token_id"],
    )
    return transformers.MiniCPMV4_6ForConditionalGeneration(config), processor, ends


def _gemma3() -> Made:
    named = {"image_token": "<image_soft_token>", "boi_token": "<start_of_image>", "eoi_token": "<end_of_image>"}
    special = ["<pad>", "<eos>", "<bos>", "<start_of_turn>", "<end_of_turn>", *named.values()]
    tokenizer = _tokenizer(special, eos="<eos>", pad="<pad>", bos_token="<bos>", extra_special_tokens=named)
    processor = transformers.Gemma3Processor(
        transformers.Gemma3ImageProcessor(size={"height": 56, "width": 56}),
        tokenizer,
        chat_template=_GEMMA3,
        image_seq_length=4,
    )
    token = tokenizer.convert_tokens_to_ids
    ends = {"eos_token_id": [1, token("<end_of_turn>")], "pad_token_id": 0, "bos_token_id": 2}
    config = transformers.Gemma3Config(
        text_config={
            **_TEXT,
            "vocab_size": len(tokenizer),
            "num_hidden_layers": 6,
            "head_dim": 16,
            "sliding_window": 16,
            "layer_types": (["sliding_attention"] * 2 + ["full_attention"]) * 2,
            **{**ends, "eos_token_id": 1},
        },
        vision_config={
            **_TOWER,
            "model_type": "siglip_vision_model",
            "image_size": 56,
            "patch_size": 14,
            "vision_use_head": False,
        },
        mm_tokens_per_image=4,
        boi_token_index=token("<start_of_image>"),
        eoi_token_index=token("<end_of_image>"),
        image_token_index=token("<image_soft_token>"),
    )
    return transformers.Gemma3ForConditionalGeneration(config), processor, ends


def _mistral3() -> Made:
    marks = ("[IMG]", "[IMG_BREAK]", "[IMG_END]")
    special = ["<unk>", "<s>", "</s>", "[INST]", "[/INST]", "[SYSTEM_PROMPT]", "[/SYSTEM_PROMPT]", *marks]
    tokenizer = _tokenizer(special, eos="</s>", pad="<unk>", bos_token="<s>")
    processor = transformers.PixtralProcessor(
        transformers.PixtralImageProcessor(size={"longest_edge": 280}, patch_size=14),
        tokenizer,
        patch_size=14,
        spatial_merge_size=2,
        chat_template=_MISTRAL,
    )
    ends = {"eos_token_id": 2, "pad_token_id": 0, "bos_token_id": 1}
    config = transformers.Mistral3Config(
        text_config={
            **_TEXT,
            "model_type": "mistral",
            "vocab_size": len(tokenizer),
            "head_dim": 16,
            "sliding_window": None,
            **ends,
        },
        vision_config={**_TOWER, "model_type": "pixtral", "image_size": 280, "patch_size": 14},
        image_token_index=tokenizer.convert_tokens_to_ids("[IMG]"),
        spatial_merge_size=2,
        vision_feature_layer=-1,
    )
    return transformers.Mistral3ForConditionalGeneration(config), processor, ends


def _llava() -> Made:
    tokenizer, ends, _ = _qwen_tokenizer("<image>")
    from transformers.models.clip import CLIPImageProcessor

    processor = transformers.LlavaProcessor(
        CLIPImageProcessor(size={"shortest_edge": 56}, crop_size={"height": 56, "width": 56}),
        tokenizer,
        patch_size=14,
        vision_feature_select_strategy="default",
        num_additional_image_tokens=1,
        chat_template=_LLAVA,
    )
    config = transformers.LlavaConfig(
        text_config={**_TEXT, "model_type": "llama", "vocab_size": len(tokenizer), **ends},
        vision_config={
            **_TOWER,
            "model_type": "clip_vision_model",
            "num_hidden_layers": 3,
            "image_size": 56,
            "patch_size": 14,
            "projection_dim": 32,
        },
        image_token_index=tokenizer.convert_tokens_to_ids("<image>"),
    )
    return transformers.LlavaForConditionalGeneration(config), processor, ends


_MAKE: Final[Mapping[str, Callable[[], Made]]] = {
    "qwen2_5_vl": _qwen2_5_vl,
    "qwen3_vl": _qwen3_vl,
    "qwen3_vl_moe": _qwen3_vl_moe,
    "qwen3_5": _qwen3_5,
    "qwen3_5_moe": _qwen3_5_moe,
    "qwen3_omni_thinker": _qwen3_omni,
    "glm4v": _glm4v,
    "glm4v_moe": _glm4v_moe,
    "glm46v": _glm46v,
    "video_llama_3": _video_llama_3,
    "lfm3_vl": _lfm3_vl,
    "internvl": _internvl,
    "llava_onevision": _llava_onevision,
    "llava_next_video": _llava_next_video,
    "molmo2": _molmo2,
    "gemma4_small": _gemma4_small,
    "gemma4_large": _gemma4_large,
    "ernie4_5_vl": _ernie4_5_vl,
    "kimi_k2_5": _kimi_k2_5,
    "smolvlm": _smolvlm,
    "perception_lm": _perception_lm,
    "minicpm_v4_6": _minicpm_v4_6,
    "gemma3": _gemma3,
    "mistral3": _mistral3,
    "llava": _llava,
}
_NEWER: Final = ("lfm3_vl", "molmo2", "smolvlm", "kimi_k2_5")
"""Families that the oldest Transformers which `pyproject.toml` promises does not have, or does not run."""
TRIED: Final = (5, 24)
"""The release with which they were tried."""
RELEASE: Final = tuple(int(part) for part in transformers.__version__.split(".")[:2])
NAMES: Final = tuple(name for name in _MAKE if name not in _NEWER or RELEASE >= TRIED)
"""Families that the installed Transformers runs."""
WITH_PACKAGES: Final = ("smolvlm", "perception_lm")
"""Families whose processor or encoder needs a package that no extra but `dev` brings."""


def make(name: str, folder: Path) -> Path:
    """Save a checkpoint of a family, whose every token hangs on all pixels, positions and tokens before it."""
    torch.manual_seed(0)
    model, processor, ends = _MAKE[name]()
    enliven(model)
    model.generation_config = GenerationConfig(**ends)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    return folder


def enliven(model: Any) -> None:
    """Give it weights with which every token hangs on all before it."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in model.parameters():
            if weight.ndim > 1:
                weight.normal_(std=0.7 * weight[0].numel() ** -0.5, generator=generator)
