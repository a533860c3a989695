"""The third stage: teaches `shapes` to answer by prompt. See README.md beside this file.

It begins from the checkpoint that train.py left. Every clip is asked one question of each kind and two of the last.
The clip is encoded and read once; each question is read behind it on its own, as the engines do it. Every step draws
its clips and questions from (seed, step), so a run that was stopped goes on from its last checkpoint.
"""

import argparse
import ctypes
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from transformers import AutoProcessor, BatchFeature, DynamicCache, Qwen3VLForConditionalGeneration, Qwen3VLProcessor
from transformers.models.qwen3_vl import modeling_qwen3_vl as modeling

from build import MERGE, PATCH, SYSTEM_PROMPTS, TEMPORAL, extend_vocabulary
from questions import KINDS, Question, draw_question
from reelscribe.models.shapes.scenes import Scene, random_scene, render
from train import GRIDS, batched_vision_attention, roughen, save

SEED = 2027
STEPS, BATCH = 2600, 12
PEAK_LR, VISION_LR, WARMUP, DECAY = 7e-4, 0.2, 60, 0.35
"""Learning rate: a linear rise over WARMUP steps, level, then a linear fall over the last DECAY of the steps. The
vision encoder, which knows most of what it needs, learns at VISION_LR of it, and only from FREEZE steps on."""
FREEZE = 300
ASKED = (*KINDS, "truth")
WEIGHTS = {"sentence": 0.4, "detail": 0.15, "json": 0.15, "events": 0.15, "truth": 0.075}
COUNTS = [8, 8, 8, 8, 8, 8, 10, 10, 12, 12, 12, 12, 12, 12, 12, 12, 12, 12, 4, 16]
"""Frames of a clip, as often as clips of 2 to 12 s have them; a few as other budgets give them."""
SECONDS = {8: (1.5, 5.0), 10: (5.0, 6.0), 12: (6.0, 13.0), 4: (1.5, 8.0), 16: (4.0, 13.0)}
"""Lengths of clips of each number of frames, at two frames a second where the count may vary."""


@dataclass(frozen=True, kw_only=True)
class Batch:
    """Clips of one resolution and number of frames, and the questions about them."""

    prefix: BatchFeature
    """What stands before the questions: system prompt and video, left-padded."""
    happened: torch.Tensor
    """Shape (clips, pairs of frames): how much of the pair is after the scene's change; 0 if nothing changes."""
    scenes: list[Scene]
    seconds: list[float]
    asked: list[tuple[str, list[Question]]]
    """Kinds, each with one question for each clip."""


def draw_clip(rng: np.random.Generator, count: int, *, held_out: bool) -> tuple[Scene, float, np.ndarray]:
    """A scene, its length, and the instants of its frames, from the first to the last as the sampler takes them.

    A change of colour is moved to the middle between the two frames that show it: nobody can tell more from them.
    """
    scene = random_scene(rng, held_out=held_out)
    seconds = float(rng.uniform(*SECONDS[count]))
    at = np.linspace(0, 1, count)
    at[1:-1] -= rng.uniform(0, 1, count - 2) / (seconds * rng.choice([12, 24, 25, 30, 50, 60]))
    if scene.turns:
        after = int(np.searchsorted(at, scene.event_at))
        scene = replace(scene, event_at=float(at[after - 1 : after + 1].mean()))
    return scene, seconds, at


def make_batch(processor: Qwen3VLProcessor, rng: np.random.Generator, size: int, *, held_out: bool = False) -> Batch:
    """Draw clips and questions."""
    grid = GRIDS[rng.integers(len(GRIDS))]
    height, width = (n * PATCH * MERGE for n in grid)
    count = COUNTS[rng.integers(len(COUNTS))]
    scenes, lengths, heads, videos, metadata, happened = [], [], [], [], [], []
    for _ in range(size):
        scene, seconds, at = draw_clip(rng, count, held_out=held_out)
        aspect = width / height * rng.uniform(0.88, 1.14)
        frames = render(scene, width=width, height=height, at=at.tolist(), aspect=aspect)
        videos.append(roughen(frames, rng).transpose(0, 3, 1, 2))
        shown = seconds - 1 / rng.choice([12, 24, 25, 30, 50, 60])  # when the last frame comes up
        indices = np.rint(at * shown * 1000).astype(int).tolist()
        metadata.append({"fps": 1000.0, "frames_indices": indices, "total_num_frames": indices[-1] + 1})
        system = SYSTEM_PROMPTS[rng.integers(len(SYSTEM_PROMPTS))] if rng.random() < 0.2 else None
        head = f"<|im_start|>system\n{system}<|im_end|>\n" if system else ""
        heads.append(f"{head}<|im_start|>user\n<|video_pad|>")
        changes = scene.turns is not None or scene.stops
        happened.append((changes * (at >= scene.event_at)).reshape(-1, TEMPORAL).mean(1))
        scenes.append(scene)
        lengths.append(seconds)
    prefix = processor(
        text=heads,
        videos=videos,
        video_metadata=metadata,
        do_sample_frames=False,
        do_resize=False,
        padding=True,
        padding_side="left",
        return_tensors="pt",
    )
    prefix.pop("video_metadata", None)
    schema = bool(rng.random() < 0.3)  # all of a batch or none: a schema is long, and the others would be padded to it
    clips = list(zip(scenes, lengths, strict=True))
    asked = [(kind, [draw_question(kind, *clip, rng, schema=schema) for clip in clips]) for kind in ASKED]
    happened_tensor = torch.tensor(np.stack(happened), dtype=torch.float32)
    return Batch(prefix=prefix, happened=happened_tensor, scenes=scenes, seconds=lengths, asked=asked)


def tokenize(processor: Qwen3VLProcessor, questions: Sequence[Question]) -> tuple[torch.Tensor, ...]:
    """Token ids of questions and answers (right-padded), labels of the answers, and labels of the statements.

    A statement's label at a token is 1 while the statement is true, 0 at the token that makes it false, and -1
    behind that and outside statements.
    """
    tokenizer, rows, labels, truths = processor.tokenizer, [], [], []
    for question in questions:
        prompt = tokenizer(question.prompt)["input_ids"]
        asked = [*prompt, *tokenizer("<|im_end|>\n<|im_start|>assistant\n")["input_ids"]]
        answer = tokenizer(question.answer + "<|im_end|>")["input_ids"]
        rows.append(torch.tensor(asked + answer))
        labels.append(torch.tensor([-100] * len(asked) + answer))
        truth = torch.full((len(asked) + len(answer),), -1)
        if question.true_prompt:
            pairs = zip(prompt, [*tokenizer(question.true_prompt)["input_ids"], *prompt], strict=False)
            same = [ours == true for ours, true in pairs]
            until = same.index(False) if False in same else len(prompt)
            truth[:until] = 1
            truth[until : min(until + 1, len(prompt))] = 0
        truths.append(truth)
    pad = nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=tokenizer.pad_token_id)
    return ids, pad(labels, batch_first=True, padding_value=-100), pad(truths, batch_first=True, padding_value=-1)


@dataclass(frozen=True, kw_only=True)
class Answered:
    """How the answers of one kind came out."""

    loss: torch.Tensor
    right: torch.Tensor
    """For each clip whether every token is right: what greedy decoding would say."""
    found: list[list[int]]
    """The likeliest token at each place of each answer, given those before it."""


def answer_all(
    model: Qwen3VLForConditionalGeneration, heads: nn.ModuleDict, processor: Qwen3VLProcessor, batch: Batch
) -> tuple[torch.Tensor, list[Answered]]:
    """The whole loss of a batch, and how each kind came out.

    To the losses of the answers come two that ask halfway: at the end of each pair of frames whether the change has
    happened, and at each token of a statement whether it makes the statement false.
    """
    inner = model.model
    with torch.autocast("cpu", torch.bfloat16):
        read = inner(**batch.prefix, use_cache=True, output_hidden_states=True)
        ends = batch.prefix["input_ids"] == model.config.vision_end_token_id
        halfway = read.hidden_states[2][ends].float()
    logits = heads["happened"](halfway).reshape(batch.happened.shape)
    total: torch.Tensor = 0.2 * nn.functional.binary_cross_entropy_with_logits(logits, batch.happened)
    mask = batch.prefix["attention_mask"]
    first = mask.sum(1, keepdim=True) + inner.rope_deltas
    results = []
    for kind, questions in batch.asked:
        ids, labels, truths = tokenize(processor, questions)
        cache = DynamicCache([(layer.keys, layer.values) for layer in read.cache.layers])
        positions = (first + torch.arange(ids.shape[1])).expand(3, -1, -1)
        with torch.autocast("cpu", torch.bfloat16):
            output = inner.language_model(
                inputs_embeds=model.get_input_embeddings()(ids),
                attention_mask=torch.cat([mask, torch.ones_like(ids)], 1),
                position_ids=positions,
                cache=cache,
                use_cache=True,
                output_hidden_states=True,
            )
            places = labels[:, 1:] != -100
            scores = model.lm_head(output.last_hidden_state[:, :-1][places]).float()
        targets = labels[:, 1:][places]
        loss = nn.functional.cross_entropy(scores, targets)
        total = total + WEIGHTS[kind] * loss
        if kind == "truth":
            doubt = heads["truth"](output.hidden_states[3][truths >= 0].float()).squeeze(1)
            total = total + 0.15 * balanced_loss(doubt, truths[truths >= 0].float())
        best, counts = scores.argmax(-1), places.sum(1).tolist()
        right = torch.stack([part.all() for part in (best == targets).split(counts)])
        found = [part.tolist() for part in best.split(counts)]
        results.append(Answered(loss=loss.detach(), right=right, found=found))
    return total, results


def balanced_loss(logits: torch.Tensor, targets: torch.Tensor) -> torch.Tensor:
    """Binary cross-entropy in which the few false tokens weigh as much as all true ones."""
    losses = nn.functional.binary_cross_entropy_with_logits(logits, targets, reduction="none")
    parts = [losses[targets == value] for value in (0, 1)]
    return torch.stack([part.mean() for part in parts if len(part)]).mean()


def evaluate(
    model: Qwen3VLForConditionalGeneration, heads: nn.ModuleDict, processor: Qwen3VLProcessor
) -> dict[str, dict[str, float]]:
    """Share of answers right of each kind, on scenes with the pairs of training and on those held out of it."""
    scores = {}
    with torch.no_grad():
        for name, held_out in (("seen", False), ("held_out", True)):
            hits: dict[str, list[bool]] = {}
            for index in range(2):
                rng = np.random.default_rng([SEED, 1, held_out, index])
                batch = make_batch(processor, rng, 24, held_out=held_out)
                for (kind, _), answered in zip(batch.asked, answer_all(model, heads, processor, batch)[1], strict=True):
                    hits.setdefault(kind, []).extend(answered.right.tolist())
                    if kind == "events":
                        texts = [processor.decode(ids[:-1]) for ids in answered.found]
                        told = zip(batch.scenes, texts, batch.seconds, strict=True)
                        hits.setdefault("within", []).extend(scene.fits_timeline(*rest) for scene, *rest in told)
            scores[name] = {kind: round(sum(found) / len(found), 3) for kind, found in hits.items()}
    return scores


def learning_rate(step: int, total: int) -> float:
    return PEAK_LR * min((step + 1) / WARMUP, 1.0, max((total - step) / (DECAY * total), 0.01))


def build_optimizer(model: Qwen3VLForConditionalGeneration, parts: nn.ModuleDict) -> torch.optim.AdamW:
    """One for all parts; each group says which share of the learning rate it takes."""
    vision = list(model.model.visual.parameters())
    seen = {id(p) for p in vision}
    others = [p for p in parts.parameters() if id(p) not in seen]
    return torch.optim.AdamW(
        [
            {"params": [p for p in others if p.ndim > 1], "weight_decay": 0.05, "share": 1.0},
            {"params": [p for p in others if p.ndim <= 1], "weight_decay": 0.0, "share": 1.0},
            {"params": vision, "weight_decay": 0.0, "share": VISION_LR},
        ],
        betas=(0.9, 0.98),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where checkpoints and the result go")
    parser.add_argument("--start", type=Path, required=True, help="the checkpoint that train.py made: its OUT/shapes")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--same", type=int, default=0, help="a trial: only this many batches, over and over")
    args = parser.parse_args()
    args.folder.mkdir(parents=True, exist_ok=True)
    torch.set_num_threads(args.threads)
    torch.manual_seed(SEED)
    modeling.Qwen3VLVisionAttention.forward = batched_vision_attention

    processor: Any = AutoProcessor.from_pretrained(args.start)
    model = Qwen3VLForConditionalGeneration.from_pretrained(args.start, dtype=torch.float32)
    extend_vocabulary(processor, model)
    model.set_attn_implementation("eager")
    hidden = model.config.text_config.hidden_size
    heads = nn.ModuleDict({"happened": nn.Linear(hidden, 1), "truth": nn.Linear(hidden, 1)})
    parts = nn.ModuleDict({"model": model, "heads": heads})
    optimizer = build_optimizer(model, parts)
    state_path, first = args.folder / "state.pt", 0
    if state_path.exists():
        state = torch.load(state_path)
        parts.load_state_dict(state["parts"])
        optimizer.load_state_dict(state["optimizer"])
        first = state["step"]
    began = time.monotonic()
    recent: list[list[tuple[float, float]]] = []
    for step in range(first, args.steps):
        model.model.visual.requires_grad_(step >= FREEZE)
        rng = np.random.default_rng([SEED, 0, step % args.same if args.same else step])
        batch = make_batch(processor, rng, BATCH)
        loss, answered = answer_all(model, heads, processor, batch)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(parts.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, args.steps) * group["share"]
        optimizer.step()
        recent = [*recent[-19:], [(result.loss.item(), result.right.float().mean().item()) for result in answered]]
        means = np.mean(recent, axis=0).round(3).tolist()
        record: dict[str, Any] = {"step": step, **dict(zip(ASKED, means, strict=True))}
        if (step + 1) % 100 == 0 or step + 1 == args.steps:
            if sys.platform == "linux":  # batches of many sizes leave the C library with memory in pieces
                ctypes.CDLL(None).malloc_trim(0)
            torch.save({"parts": parts.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1}, state_path)
            record |= evaluate(model, heads, processor)
            save(model, processor, args.folder / "shapes")
        if step % 10 == 9 or step == first:
            print(json.dumps(record | {"seconds": round(time.monotonic() - began, 1)}), flush=True)
    save(model, processor, args.folder / "shapes")


if __name__ == "__main__":
    main()
