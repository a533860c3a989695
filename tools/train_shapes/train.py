"""Trains the built-in `shapes` model from scratch. See README.md beside this file.

Every step draws its clips from (seed, step), so a run that was stopped goes on from its last checkpoint as if it had
not been. First the vision encoder alone learns from single instants to tell shapes, colours, grounds and places, large
shapes on black before all others; then the whole model learns captions from clips.
"""

import argparse
import ctypes
import json
import sys
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from transformers import BatchFeature, Qwen3VLForConditionalGeneration, Qwen3VLProcessor, Qwen3VLVideoProcessor
from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

from build import MERGE, PATCH, TEMPORAL, build_model, build_processor
from questions import draw_prompt
from reelscribe.models.shapes.scenes import COLORS, GROUNDS, SHAPES, random_scene, render

SEED = 2026
STILL_STEPS, CLIP_STEPS = 2400, 2600
STILL_BATCH, CLIP_BATCH = 64, 48
EASY_STEPS, RAMP_STEPS = 300, 900
"""Instants are easy ones for EASY_STEPS, then a growing share is drawn from everything."""
PEAK_LR, WARMUP, DECAY = 1e-3, 100, 0.3
"""Learning rate: a linear rise over WARMUP steps, level, then a linear fall over the last DECAY of the steps."""
GRIDS = [(3, 5), (3, 5), (3, 4), (3, 4), (3, 3), (4, 3), (5, 3), (2, 4)]
"""Heights and widths of a frame in merged patches, as common aspect ratios give them."""
HEAD_SIZES = [len(SHAPES), len(COLORS), len(GROUNDS)]


def roughen(frames: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    """What a codec and a resize do to clean pixels: softness, noise, a shift of levels."""
    pixels = frames.astype(np.float32)
    if rng.random() < 0.4:  # half resolution and back, as small sources and chroma planes have it
        rows, cols = pixels.shape[1] // 2, pixels.shape[2] // 2
        pooled = pixels.reshape(len(pixels), rows, 2, cols, 2, 3).mean((2, 4))
        soft = pooled.repeat(2, 1).repeat(2, 2)
        mix = rng.uniform(0.3, 1.0)
        pixels = mix * soft + (1 - mix) * pixels
    pixels = pixels * rng.uniform(0.95, 1.03) + rng.uniform(-6, 6)
    if rng.random() < 0.4:
        pixels += rng.normal(0, rng.uniform(1, 4), pixels.shape).astype(np.float32)
    return np.clip(pixels, 0, 255).astype(np.uint8)


def make_batch(processor: Qwen3VLProcessor, rng: np.random.Generator, size: int) -> BatchFeature:
    """A batch of clips of one resolution and length, left-padded, with labels on the caption and its end token."""
    grid = GRIDS[rng.integers(len(GRIDS))]
    height, width = (n * PATCH * MERGE for n in grid)
    count = int(rng.choice([4, 8, 8, 8, 8, 10, 10, 12, 12, 12, 12, 16]))
    texts, videos, metadata, centers = [], [], [], []
    for _ in range(size):
        scene = random_scene(rng)
        seconds = count / 2 if count > 8 and rng.random() < 0.7 else rng.uniform(1.5, 14.0)
        at = np.arange(count) / count + rng.uniform(0, 1 / count)
        aspect = width / height * rng.uniform(0.88, 1.14)
        frames = render(scene, width=width, height=height, at=at.tolist(), aspect=aspect)
        centers.append([scene.center(instant) for instant in at[::TEMPORAL]])
        videos.append(roughen(frames, rng).transpose(0, 3, 1, 2))
        indices = np.rint(at * seconds * 1000).astype(int).tolist()
        if len(indices) % 2:
            indices.append(indices[-1])
        metadata.append(
            {"fps": 1000.0, "frames_indices": indices, "total_num_frames": indices[-1] + 1, "duration": seconds}
        )
        system, prompt = draw_prompt(rng)
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        texts.append(
            f"{head}<|im_start|>user\n<|video_pad|>{prompt}<|im_end|>\n<|im_start|>assistant\n{scene.caption}<|im_end|>"
        )
    batch = processor(
        text=texts,
        videos=videos,
        video_metadata=metadata,
        do_sample_frames=False,
        do_resize=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    batch.pop("video_metadata", None)
    start = processor.tokenizer.convert_tokens_to_ids("<|im_start|>")
    positions = torch.arange(batch["input_ids"].shape[1])
    last = torch.where(batch["input_ids"] == start, positions, 0).amax(1, keepdim=True)
    batch["labels"] = torch.where(positions > last + 2, batch["input_ids"], -100)  # "<|im_start|>", "assistant", "\n"
    batch["centers"] = torch.tensor(centers)
    return batch


def instants_loss(
    model: Qwen3VLForConditionalGeneration, heads: nn.Linear, spots: nn.Linear, rng: np.random.Generator, step: int
) -> tuple[torch.Tensor, list[float]]:
    """Loss of telling shape, colour, ground and place from single instants, and the shares of the first three right."""
    grid = GRIDS[rng.integers(len(GRIDS))]
    height, width = (n * PATCH * MERGE for n in grid)
    frames, targets, circles = [], [], []
    while len(frames) < STILL_BATCH:
        scene = random_scene(rng)
        easy = rng.random() * RAMP_STEPS >= step - EASY_STEPS
        if easy and (scene.size != "large" or scene.ground != "black" or scene.motion == "shrinks"):
            continue
        at = float(rng.random())
        aspect = width / height * rng.uniform(0.88, 1.14)
        frames.append(roughen(render(scene, width=width, height=height, at=[at], aspect=aspect), rng))
        color = scene.turns if scene.turns and at >= scene.event_at else scene.color
        targets.append((SHAPES.index(scene.shape), COLORS.index(color), GROUNDS.index(scene.ground)))
        radius = scene.radius * (1 + (scene.growth - 1) * at) * min(width / height, 1.0)
        circles.append((*scene.center(at), radius))
    pixels = torch.from_numpy(np.stack(frames)).permute(0, 1, 4, 2, 3).float() / 127.5 - 1
    patches, *thw = Qwen3VLVideoProcessor.patchify(None, pixels, PATCH, MERGE, TEMPORAL)
    with torch.autocast("cpu", torch.bfloat16):
        output = model.model.visual(
            patches.flatten(0, 1), grid_thw=torch.tensor([thw] * STILL_BATCH), return_dict=True
        ).pooler_output
    tokens = output.float().unflatten(0, (STILL_BATCH, -1))
    loss = place_loss(spots(tokens), torch.tensor(circles), grid, width / height)
    right = []
    for logits, target in zip(heads(tokens.mean(1)).split(HEAD_SIZES, 1), torch.tensor(targets).T, strict=True):
        loss = loss + nn.functional.cross_entropy(logits, target)
        right.append((logits.argmax(1) == target).float().mean().item())
    return loss, right


def place_loss(found: torch.Tensor, circles: torch.Tensor, grid: tuple[int, int], aspect: float) -> torch.Tensor:
    """Loss of telling for each token whether the shape is in it and, where it is, where its centre lies.

    Args:
        found: shape (clips, tokens, 3): centre's x and y, both -2 to 2, and a logit.
        circles: shape (clips, 3): centre as fractions of width and height, radius as a fraction of height.
        grid: rows and columns of tokens.
        aspect: width over height.
    """
    rows, columns = ((torch.arange(n) + 0.5) / n for n in grid)
    y, x = torch.meshgrid(rows, columns, indexing="ij")
    centers, radius = circles[:, None, :2], circles[:, 2:]
    away = torch.hypot((x.flatten() - centers[..., 0]) * aspect, y.flatten() - centers[..., 1])
    inside = (away < torch.maximum(radius, away.amin(1, keepdim=True) + 1e-6)).float()
    wrong = ((found[..., :2] - 4 * (centers - 0.5)) ** 2).mean(-1)
    return nn.functional.binary_cross_entropy_with_logits(found[..., 2], inside) + (wrong * inside).sum() / inside.sum()


def batched_vision_attention(
    self: modeling.Qwen3VLVisionAttention,
    hidden_states: torch.Tensor,
    cu_seqlens: torch.Tensor,
    position_embeddings: tuple[torch.Tensor, torch.Tensor],
    **_: object,
) -> torch.Tensor:
    """Attention within each frame, all frames at once: here they are all of one size.

    Written out, because on a CPU the backward pass of the fused kernel is slower for so few tokens.
    """
    total, frames = hidden_states.shape[0], len(cu_seqlens) - 1
    query, key, value = self.qkv(hidden_states).reshape(total, 3, self.num_heads, -1).unbind(1)
    query, key = modeling.apply_rotary_pos_emb_vision(query, key, *position_embeddings)
    shape = (frames, total // frames, self.num_heads, -1)
    query, key, value = (x.reshape(shape).transpose(1, 2) for x in (query, key, value))
    weights = ((query * self.scaling) @ key.transpose(2, 3)).softmax(-1).to(value.dtype)
    mixed = weights @ value
    return self.proj(mixed.transpose(1, 2).reshape(total, -1))


def flat_patch_embed(self: modeling.Qwen3VLVisionPatchEmbed, hidden_states: torch.Tensor) -> torch.Tensor:
    """One product for all patches: each is as large as the convolution's kernel, whose own backward pass is slow."""
    return nn.functional.linear(hidden_states, self.proj.weight.flatten(1), self.proj.bias)


def use_faster_vision() -> None:
    """Let the vision encoder compute the same in less time, on clips of one size."""
    modeling.Qwen3VLVisionAttention.forward = batched_vision_attention
    modeling.Qwen3VLVisionPatchEmbed.forward = flat_patch_embed


def captions_loss(
    model: Qwen3VLForConditionalGeneration, places: nn.Linear, travels: nn.Linear, batch: BatchFeature
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean loss over caption tokens, and for each clip whether every token is right (what greedy decoding would say).

    To it come the losses of telling, at the end of each pair of frames, where the shape is (halfway up the language
    model) and how far it has come (one layer on). Without them the direction of a motion stays at chance long after
    all else is learnt.
    """
    labels, centers = batch["labels"], batch["centers"]
    keep = int((labels != -100).sum(1).max()) + 1
    inputs = {name: value for name, value in batch.items() if name not in ("labels", "centers")}
    with torch.autocast("cpu", torch.bfloat16):
        output = model(**inputs, use_cache=False, logits_to_keep=keep, output_hidden_states=True)
    logits, targets = output.logits[:, :-1].float(), labels[:, -keep + 1 :]
    loss = nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), ignore_index=-100)
    right = (logits.argmax(-1) == targets) | (targets == -100)
    halfway = model.config.text_config.num_hidden_layers // 2
    ends = batch["input_ids"] == model.config.vision_end_token_id
    targets = (4 * (centers - 0.5), 4 * (centers - centers[:, :1]))
    for layer, target, head in zip((halfway, halfway + 1), targets, (places, travels), strict=True):
        found = head(output.hidden_states[layer][ends].float()).reshape(target.shape)
        loss = loss + nn.functional.mse_loss(found, target)
    return loss, right.all(1)


def learning_rate(step: int, total: int) -> float:
    return PEAK_LR * min((step + 1) / WARMUP, 1.0, max((total - step) / (DECAY * total), 0.01))


def evaluate(
    model: Qwen3VLForConditionalGeneration, places: nn.Linear, travels: nn.Linear, processor: Qwen3VLProcessor
) -> dict[str, float]:
    """Share of captions right, on clips that training does not show."""
    hits = []
    with torch.no_grad():
        for index in range(4):
            rng = np.random.default_rng([SEED, 1, index])
            hits.append(captions_loss(model, places, travels, make_batch(processor, rng, 32))[1])
    return {"fresh": round(torch.cat(hits).float().mean().item(), 3)}


def save(model: Qwen3VLForConditionalGeneration, processor: Qwen3VLProcessor, folder: Path) -> None:
    halved = Qwen3VLForConditionalGeneration(model.config).to(torch.bfloat16)
    halved.load_state_dict(model.state_dict())
    halved.generation_config = model.generation_config
    halved.save_pretrained(folder)
    processor.save_pretrained(folder)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where checkpoints and the result go")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--still-steps", type=int, default=STILL_STEPS)
    parser.add_argument("--clip-steps", type=int, default=CLIP_STEPS)
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    use_faster_vision()

    processor = build_processor()
    model = build_model(processor)
    model.set_attn_implementation("eager")
    heads = nn.Linear(model.config.text_config.hidden_size, sum(HEAD_SIZES))
    places, travels = (nn.Linear(model.config.text_config.hidden_size, 2) for _ in range(2))
    spots = nn.Linear(model.config.text_config.hidden_size, 3)
    parts = nn.ModuleDict({"model": model, "heads": heads, "places": places, "travels": travels, "spots": spots})
    optimizer = torch.optim.AdamW(
        [
            {"params": [p for p in parts.parameters() if p.ndim > 1], "weight_decay": 0.05},
            {"params": [p for p in parts.parameters() if p.ndim <= 1], "weight_decay": 0.0},
        ],
        betas=(0.9, 0.98),
    )
    state_path, first = args.folder / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path)
        parts.load_state_dict(state["parts"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    total, began = args.still_steps + args.clip_steps, time.monotonic()
    for step in range(first, total):
        rng = np.random.default_rng([SEED, 0, step])
        still = step < args.still_steps
        if still:
            loss, right = instants_loss(model, heads, spots, rng, step)
            rate = learning_rate(step, args.still_steps)
        else:
            loss, hits = captions_loss(model, places, travels, make_batch(processor, rng, CLIP_BATCH))
            right, rate = [hits.float().mean().item()], learning_rate(step - args.still_steps, args.clip_steps)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate
        optimizer.step()
        record = {"step": step, "loss": round(loss.item(), 4), "right": [round(share, 3) for share in right]}
        if (step + 1) % 100 == 0 or step + 1 == total:
            if sys.platform == "linux":  # batches of many sizes leave the C library with memory in pieces
                ctypes.CDLL(None).malloc_trim(0)
            torch.save({"parts": parts.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, state_path)
            if not still:
                record |= evaluate(model, places, travels, processor)
                save(model, processor, args.folder / "shapes")
        if step % 10 == 9 or step == first:
            print(json.dumps(record | {"seconds": round(time.monotonic() - began, 1)}), flush=True)
    save(model, processor, args.folder / "shapes")


if __name__ == "__main__":
    main()
