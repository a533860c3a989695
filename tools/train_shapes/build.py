"""Builds the untrained parts of the `shapes` checkpoint: tokenizer, processor, configuration."""

import json
import math
from collections.abc import Iterator

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    GenerationConfig,
    PreTrainedTokenizerFast,
    Qwen3VLConfig,
    Qwen3VLForConditionalGeneration,
    Qwen3VLProcessor,
    Qwen3VLVideoProcessor,
)
from transformers.models.qwen2_vl import Qwen2VLImageProcessor

from reelscribe.models.shapes import scenes
from reelscribe.tasks import DEFAULT_PROMPT

PROMPTS = [
    "Describe this video.",
    "Describe the video in one sentence.",
    "Write a caption for this clip.",
    "What happens in the video?",
    "What do you see?",
    "Caption the clip.",
    "Please describe what the shape does.",
    "Give a short, factual description of the motion, the colors and the background.",
    "Describe the main subject, its movement and the scene in detail.",
    "Summarize the video for a text-to-video data set.",
]
SYSTEM_PROMPTS = ["You are a helpful assistant.", "You write captions for videos.", "Answer in one plain sentence."]

PATCH, MERGE, TEMPORAL = 16, 2, 2
FRAME_TOKENS = 15
"""Vision tokens for each pair of frames, at most: 96x160 pixels at 16:9."""

SPECIAL_TOKENS = [
    "<|endoftext|>",
    "<|im_start|>",
    "<|im_end|>",
    "<|vision_start|>",
    "<|vision_end|>",
    "<|vision_pad|>",
    "<|image_pad|>",
    "<|video_pad|>",
]

CHAT_TEMPLATE = (
    "{%- for message in messages -%}"
    "{{- '<|im_start|>' + message.role + '\\n' -}}"
    "{%- if message.content is string -%}{{- message.content -}}"
    "{%- else -%}{%- for part in message.content -%}"
    "{%- if part.type == 'video' -%}{{- '<|vision_start|><|video_pad|><|vision_end|>' -}}"
    "{%- elif part.type == 'image' -%}{{- '<|vision_start|><|image_pad|><|vision_end|>' -}}"
    "{%- else -%}{{- part.text -}}{%- endif -%}"
    "{%- endfor -%}{%- endif -%}"
    "{{- '<|im_end|>\\n' -}}"
    "{%- endfor -%}"
    "{%- if add_generation_prompt -%}{{- '<|im_start|>assistant\\n' -}}{%- endif -%}"
)


def _corpus() -> Iterator[str]:
    for _ in range(50):
        for color in scenes.COLORS:
            for shape in scenes.SHAPES:
                for motion in scenes.MOTIONS:
                    ground = scenes.GROUNDS[len(color + shape + motion) % len(scenes.GROUNDS)]
                    size = scenes.SIZES[len(shape + motion) % len(scenes.SIZES)]
                    event = ", then stops" if motion.endswith("t") else f", then turns {color}"
                    yield f"A {size} {color} {shape} {motion} on a {ground} background{event}."
        yield from [DEFAULT_PROMPT, *PROMPTS, *SYSTEM_PROMPTS, "user", "assistant", "system", "<0.3 seconds>"]


def build_processor() -> Qwen3VLProcessor:
    """A byte-level BPE whose merges make each word of a caption one token, and Qwen3-VL's own processors around it."""
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.train_from_iterator(
        _corpus(),
        trainers.BpeTrainer(
            vocab_size=640,
            min_frequency=2,
            special_tokens=SPECIAL_TOKENS,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
            show_progress=False,
        ),
    )
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<|endoftext|>",
        model_max_length=32768,
        clean_up_tokenization_spaces=False,
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    half = [0.5, 0.5, 0.5]
    pixels = {"patch_size": PATCH, "merge_size": MERGE, "temporal_patch_size": TEMPORAL}
    area = (PATCH * MERGE) ** 2
    video = Qwen3VLVideoProcessor(
        size={"shortest_edge": area * TEMPORAL, "longest_edge": FRAME_TOKENS * area * 16},
        image_mean=half,
        image_std=half,
        fps=2,
        min_frames=8,
        max_frames=12,
        cap_pixels_per_frame=True,
        max_video_tokens=FRAME_TOKENS,
        **pixels,
    )
    image = Qwen2VLImageProcessor(
        size={"shortest_edge": area, "longest_edge": FRAME_TOKENS * area},
        image_mean=half,
        image_std=half,
        **pixels,
    )
    return Qwen3VLProcessor(image, tokenizer, video, chat_template=CHAT_TEMPLATE)


_NEW_WORDS = """
size color shape ground motion change _size _ground _change _JSON _fields small large red green blue yellow purple cyan
ring square triangle cross black gray white moves rests grows shrinks stops turns none Yes No type object string
properties required enum _schema _events _times _true Is
{" ":" "," "} ": ", _" _{" ":{" "}," "}} "}}," ":[" "]," "]}," "]}} "}, "}}, _[" "], "]}, "]}
_shows _beginning _end _halfway _half _through _from _about _first _is _neither _nor _another The
10 11 12 13 14 15 16 17 18 19
"""
NEW_WORDS = [word.replace("_", " ") for word in _NEW_WORDS.split()]
"""Words and marks of the answers to questions that get a token each in the third stage. The marks are whole runs of
punctuation, because the tokenizer splits text between letters and punctuation before it merges. With the numbers, whole
seconds are one token in every clip, and the token behind them is always the point."""


def extend_vocabulary(processor: Qwen3VLProcessor, model: Qwen3VLForConditionalGeneration) -> None:
    """Give each of `NEW_WORDS` a token, behind all that there are; what was one token before stays that token.

    A new word begins as the same word with a space before it if there is one, else as the mean of its pieces.
    """
    tokenizer = processor.tokenizer
    state = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary, merges = state["model"]["vocab"], state["model"]["merges"]
    old = model.get_input_embeddings().weight.detach()
    rows = list(old)
    for word in NEW_WORDS:
        pieces, spaced = tokenizer.tokenize(word), tokenizer.tokenize(" " + word)
        like = spaced if len(spaced) == 1 else pieces
        row = torch.stack([rows[vocabulary[piece]] for piece in like]).mean(0)
        while len(pieces) > 1:
            joined = pieces[0] + pieces[1]
            merges.append(pieces[:2])
            if joined not in vocabulary:
                vocabulary[joined] = len(rows)
                rows.append(
                    0.7 * row + 0.3 * old.std() * torch.randn_like(row)
                )  # shorter, so that old words win at first
            pieces[:2] = [joined]
        tokenizer._tokenizer = Tokenizer.from_str(json.dumps(state))
    model.resize_token_embeddings(len(rows))
    with torch.no_grad():
        model.get_input_embeddings().weight.copy_(torch.stack(rows))


def build_model(processor: Qwen3VLProcessor) -> Qwen3VLForConditionalGeneration:
    """An untrained Qwen3-VL of 7 million parameters that fits the processor."""
    ids = processor.tokenizer.convert_tokens_to_ids
    special = {"bos_token_id": ids("<|endoftext|>"), "eos_token_id": ids("<|im_end|>"), "pad_token_id": 0}
    rope = {"rope_type": "default", "rope_theta": 10000.0, "mrope_section": [12, 10, 10], "mrope_interleaved": True}
    config = Qwen3VLConfig(
        text_config={
            "vocab_size": len(processor.tokenizer),
            "hidden_size": 256,
            "intermediate_size": 768,
            "num_hidden_layers": 4,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": 64,
            "max_position_embeddings": 32768,
            "rope_parameters": rope,
            "rope_scaling": rope,
            "rope_theta": rope["rope_theta"],
            **special,
        },
        vision_config={
            "depth": 4,
            "hidden_size": 192,
            "intermediate_size": 576,
            "num_heads": 3,
            "patch_size": PATCH,
            "spatial_merge_size": MERGE,
            "temporal_patch_size": TEMPORAL,
            "out_hidden_size": 256,
            "num_position_embeddings": 256,
            "deepstack_visual_indexes": [0, 1, 2],
        },
        image_token_id=ids("<|image_pad|>"),
        video_token_id=ids("<|video_pad|>"),
        vision_start_token_id=ids("<|vision_start|>"),
        vision_end_token_id=ids("<|vision_end|>"),
        tie_word_embeddings=True,
    )
    model = Qwen3VLForConditionalGeneration(config)
    _place_positions(model.model.visual.pos_embed.weight)
    model.generation_config = GenerationConfig(max_new_tokens=64, do_sample=False, **special)
    return model


def _place_positions(table: torch.Tensor) -> None:
    """Start the vision encoder's position table from sines and cosines of row and column, as large as patches are.

    From the usual small random numbers a position stays too faint beside the patch's content to be learnt from.
    """
    side, width = math.isqrt(len(table)), table.shape[1] // 4
    steps = torch.arange(side) / (side - 1) - 0.5
    angles = steps[:, None] * torch.logspace(0, math.log10(12), width) * math.pi / 2
    waves = torch.cat([angles.sin(), angles.cos()], 1)
    rows, columns = waves[:, None].expand(side, side, -1), waves[None].expand(side, side, -1)
    with torch.no_grad():
        table.copy_(5 * torch.cat([rows, columns], 2).flatten(0, 1))
